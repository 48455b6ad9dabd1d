//! As much of the kernel's rtnetlink as an address needs: what addresses and routes there are, add one, remove one.
//!
//! Integers are in the machine's byte order, everything is padded to 4 bytes. Source: rtnetlink(7), netlink(7).

use core::time::Duration;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;

/// The table that what is connected is in.
const MAIN_TABLE: u8 = 254;
/// A route to hosts, not to nowhere.
const UNICAST: u8 = 1;
/// Use an IPv6 address at once, without asking whether another node has it: it is ours to take.
const NO_DETECTION: u8 = 0x02;

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) ip: IpAddr,
    /// Bits of its network.
    pub(super) prefix: u8,
    /// Number of its interface.
    pub(super) interface: u32,
}

/// A network that is reached without a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connected {
    pub(super) network: IpAddr,
    pub(super) prefix: u8,
    pub(super) interface: u32,
}

/// True if `ip` is in a network.
pub(super) fn contains(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    let same = |a: &[u8], b: &[u8]| {
        let bit = |bytes: &[u8], n: usize| bytes[n / 8] >> (7 - n % 8) & 1;
        usize::from(prefix) <= a.len() * 8 && (0..usize::from(prefix)).all(|n| bit(a, n) == bit(b, n))
    };
    match (network, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(&a.octets(), &b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(&a.octets(), &b.octets()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// A conversation with the kernel of the namespace of the calling thread.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        // The kernel answers at once: whoever waits longer waits for an answer that was dropped.
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(5)))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Every address of this machine.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<Assigned>> {
        let answers = self.ask(GET_ADDRESS, DUMP, &[0; 8])?;
        Ok(answers.iter().filter(|(kind, _)| *kind == NEW_ADDRESS).filter_map(|(_, m)| assigned(m)).collect())
    }

    /// Every network that is reached without a gateway.
    pub(super) fn connected(&mut self) -> io::Result<Vec<Connected>> {
        let answers = self.ask(GET_ROUTE, DUMP, &[0; 12])?;
        Ok(answers.iter().filter_map(|(_, m)| connected(m)).collect())
    }

    /// Adds an address. It is no error if it is there.
    pub(super) fn add(&mut self, address: Assigned) -> io::Result<()> {
        match self.ask(NEW_ADDRESS, ACKNOWLEDGE | CREATE | EXCLUSIVE, &body(address)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Removes an address. It is no error if it is not there.
    pub(super) fn remove(&mut self, address: Assigned) -> io::Result<()> {
        match self.ask(DELETE_ADDRESS, ACKNOWLEDGE, &body(address)) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Sends a request and takes its whole answer: kind and body of each message.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
        self.sequence += 1;
        let mut request = Vec::new();
        let length = u32::try_from(16 + body.len()).expect("requests are short");
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((flags | REQUEST).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(0_u32.to_ne_bytes());
        request.extend(body);
        sendto(self.socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((header, message, next)) = split(rest) {
                rest = next;
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    DONE => return Ok(answers),
                    ERROR => {
                        let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 {
                            Ok(answers)
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    kind => answers.push((kind, message.to_vec())),
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    sequence: u32,
}

/// The first message of several, and the rest. `None` at the end, or where the length makes no sense.
fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    if length < 16 {
        return None;
    }
    let message = bytes.get(..length)?;
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let sequence = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Header { kind, sequence }, &message[16..], next))
}

/// The attributes of a message: kind and content of each.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & 0x3fff;
        let content = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The body of an address message: family, prefix, flags, scope, interface; then its attributes.
fn assigned(message: &[u8]) -> Option<Assigned> {
    let [_, prefix, _, _, a, b, c, d] = *message.first_chunk()?;
    let found: Vec<(u16, &[u8])> = attributes(&message[8..]).collect();
    // The local one; of most families that is the only one.
    let local =
        found.iter().find(|(kind, _)| *kind == 2).or_else(|| found.iter().find(|(kind, _)| *kind == 1))?;
    Some(Assigned { ip: ip(local.1)?, prefix, interface: u32::from_ne_bytes([a, b, c, d]) })
}

/// The body of a route message: family, bits of the destination and of the source, type of service, table, protocol, scope,
/// kind, flags; then its attributes.
fn connected(message: &[u8]) -> Option<Connected> {
    let head: [u8; 12] = *message.first_chunk()?;
    let (prefix, table, kind) = (head[1], head[4], head[7]);
    let (mut network, mut interface, mut gateway) = (None, None, false);
    for (kind, content) in attributes(&message[12..]) {
        match kind {
            1 => network = ip(content),
            4 => interface = content.first_chunk().map(|n| u32::from_ne_bytes(*n)),
            5 => gateway = true,
            _ => {}
        }
    }
    let network = network.filter(|_| table == MAIN_TABLE && kind == UNICAST && !gateway && prefix > 0)?;
    let bits = if network.is_ipv4() { 32 } else { 128 };
    Some(Connected { network, prefix, interface: interface? }).filter(|_| prefix < bits)
}

fn body(address: Assigned) -> Vec<u8> {
    let Assigned { ip, prefix, interface } = address;
    let (family, octets, flags) = match ip {
        IpAddr::V4(ip) => (2, ip.octets().to_vec(), 0),
        IpAddr::V6(ip) => (10, ip.octets().to_vec(), NO_DETECTION),
    };
    let mut body = vec![family, prefix, flags, 0];
    body.extend(interface.to_ne_bytes());
    let mut attribute = |kind: u16, content: &[u8]| {
        let length = u16::try_from(4 + content.len()).expect("an address is short");
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(content);
    };
    attribute(2, &octets);
    attribute(1, &octets);
    if let IpAddr::V4(ip) = ip
        && prefix < 31
    {
        let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        attribute(4, &(ip.to_bits() | hosts).to_be_bytes());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_in_its_network_and_in_no_other() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(contains(at("192.0.2.0"), 24, at("192.0.2.255")));
        assert!(!contains(at("192.0.2.0"), 25, at("192.0.2.128")));
        assert!(contains(at("2001:db8::"), 33, at("2001:db8:7fff::1")));
        assert!(!contains(at("2001:db8::"), 33, at("2001:db8:8000::1")));
        assert!(!contains(at("192.0.2.0"), 24, at("2001:db8::1")));
        assert!(!contains(at("192.0.2.0"), 33, at("192.0.2.0")), "no such network");
    }

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["192.0.2.7", "2001:db8::7"] {
            let address = Assigned { ip: text.parse().unwrap(), prefix: 24, interface: 0x0102_0304 };
            assert_eq!(assigned(&body(address)), Some(address));
        }
        let written = body(Assigned { ip: "192.0.2.7".parse().unwrap(), prefix: 24, interface: 1 });
        assert!(written.ends_with(&[192, 0, 2, 255]), "the broadcast address");
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut rest = bytes.as_slice();
            while let Some((_, message, next)) = split(rest) {
                prop_assert!(next.len() < rest.len());
                rest = next;
                _ = (assigned(message), connected(message));
            }
            _ = (assigned(&bytes), connected(&bytes));
        }
    }
}
