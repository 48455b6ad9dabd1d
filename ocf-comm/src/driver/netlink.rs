//! The interfaces of this machine and their changes, from the kernel's routing socket.

use crate::medium::Interfaces;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{bind, recv, send, socket_with};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// A request for all there is.
const DUMP: u16 = 0x301;
/// Links, addresses of IPv4, addresses of IPv6.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
const HEADER: usize = 16;
const IS_UP: u32 = 0x1;
const IS_RUNNING: u32 = 0x40;
/// An address that the system is still checking cannot be bound yet; another notice comes when it can.
const IS_TENTATIVE: u8 = 0x40;
/// Interfaces and addresses that are looked at; a machine has far less.
const ENTRIES_MAX: usize = 4096;

/// Rings when an interface or an address changes.
#[derive(Debug)]
pub(crate) struct LinkWatch(OwnedFd);

impl LinkWatch {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(open(SocketFlags::NONBLOCK, GROUPS)?))
    }

    /// Takes every notice that waits. True if there was any.
    pub(crate) fn drain(&self) -> bool {
        let mut any = false;
        let mut buffer = [0; 8192];
        loop {
            match recv(&self.0, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) | Err(rustix::io::Errno::AGAIN) => return any,
                // An overrun is a notice, too: more changed than fits.
                Ok(_) | Err(_) => any = true,
            }
        }
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?; // protocol 0: routing
    bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

/// The interfaces of this machine now. Two short questions to the kernel, which answers at once.
///
/// # Errors
/// If the system has no routing socket.
pub fn interfaces() -> io::Result<Interfaces> {
    let fd = open(SocketFlags::empty(), 0)?;
    let mut found = Interfaces::default();
    for kind in [GET_LINK, GET_ADDRESS] {
        dump(&fd, kind, &mut found)?;
    }
    Ok(found)
}

fn dump(fd: &OwnedFd, kind: u16, found: &mut Interfaces) -> io::Result<()> {
    let mut request = Vec::with_capacity(32);
    request.extend(32_u32.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 24]);
    send(fd, &request, SendFlags::empty())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, _) = recv(fd, &mut buffer[..], RecvFlags::empty())?;
        if length == 0 || take(&buffer[..length], found) {
            return Ok(());
        }
    }
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Parts that start with their length and a kind, at multiples of four bytes: (kind, content).
fn parts(mut rest: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let (length, kind) = if header == HEADER {
            let length = usize::try_from(u32::from_ne_bytes(word(rest, 0)?)).ok()?;
            (length, u16::from_ne_bytes(word(rest, 4)?))
        } else {
            (usize::from(u16::from_ne_bytes(word(rest, 0)?)), u16::from_ne_bytes(word(rest, 2)?))
        };
        let content = rest.get(header..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

/// Takes the messages of one answer. True if it was the last.
fn take(answer: &[u8], found: &mut Interfaces) -> bool {
    for (kind, content) in parts(answer, HEADER) {
        match kind {
            DONE | ERROR => return true,
            NEW_LINK => {
                let _unknown: Option<()> = link(content, found);
            }
            NEW_ADDRESS => {
                let _unknown: Option<()> = address(content, found);
            }
            _ => {}
        }
    }
    false
}

fn link(content: &[u8], found: &mut Interfaces) -> Option<()> {
    let index = u32::from_ne_bytes(word(content, 4)?);
    let flags = u32::from_ne_bytes(word(content, 8)?);
    let (_, name) = parts(content.get(16..)?, 4).find(|(kind, _)| *kind == 3)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    if found.0.len() < ENTRIES_MAX {
        let interface = found.0.entry(index).or_default();
        interface.name = name;
        interface.up = flags & IS_UP != 0;
        interface.carrier = flags & IS_RUNNING != 0;
    }
    Some(())
}

fn address(content: &[u8], found: &mut Interfaces) -> Option<()> {
    let flags = *content.get(2)?;
    let index = u32::from_ne_bytes(word(content, 4)?);
    let list = content.get(8..)?;
    // The local address where it differs from the one of the other end.
    let (_, bytes) = parts(list, 4)
        .find(|(kind, _)| *kind == 2)
        .or_else(|| parts(list, 4).find(|(kind, _)| *kind == 1))?;
    let address = match bytes.len() {
        4 => IpAddr::from(word::<4>(bytes, 0)?),
        16 => IpAddr::from(word::<16>(bytes, 0)?),
        _ => return None,
    };
    let interface = found.0.get_mut(&index)?;
    if flags & IS_TENTATIVE == 0 && interface.addresses.len() < ENTRIES_MAX {
        interface.addresses.push(address);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_loopback_interface_is_found_with_its_address() {
        let found = interfaces().unwrap();
        let (_, lo) = found.with_address(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        assert_eq!(lo.name, "lo");
        assert!(lo.works());
        assert_eq!(found.address_of("lo", false), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(found.address_of("no such", false), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 14..24_u16) {
            let mut found = Interfaces::default();
            take(&bytes, &mut found);
            let mut framed = u32::try_from(bytes.len() + HEADER).unwrap().to_ne_bytes().to_vec();
            framed.extend(kind.to_ne_bytes());
            framed.extend([0; 10]);
            framed.extend(bytes);
            take(&framed, &mut found);
        }
    }
}
