//! Tells the neighbours of an interface that an address is here now.
//!
//! IPv4: gratuitous ARP, as a request and as a reply, to all. IPv6: an unsolicited neighbour advertisement that overrides what they
//! knew, to all nodes. Source: RFC 5227, section 3; RFC 4861, sections 4.4 and 7.2.6.

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

const BROADCAST: [u8; 6] = [0xff; 6];
/// Where IPv6 frames to all nodes go.
const ALL_NODES_LINK: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends one round. An interface without hardware addresses, such as loopback, has no neighbours: nothing is sent.
pub(super) fn announce(ip: IpAddr, interface: u32) -> io::Result<()> {
    let Some(link) = link(interface)? else { return Ok(()) };
    let Some(hardware) = link.addr().filter(|hardware| *hardware != [0; 6]) else { return Ok(()) };
    let frames = match ip {
        IpAddr::V4(ip) => vec![arp(ip, hardware, 1), arp(ip, hardware, 2)],
        IpAddr::V6(ip) => vec![advertisement(ip, hardware)],
    };
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    for frame in frames {
        sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty())?;
    }
    Ok(())
}

/// The name of an interface, for people.
pub(super) fn name(interface: u32) -> String {
    let found = getifaddrs().ok().and_then(|mut all| all.find(|one| is(one, interface)));
    found.map_or_else(|| format!("interface {interface}"), |one| one.interface_name)
}

fn link(interface: u32) -> io::Result<Option<LinkAddr>> {
    let found = getifaddrs()?.find(|one| is(one, interface));
    Ok(found.and_then(|one| one.address.and_then(|a| a.as_link_addr().copied())))
}

fn is(one: &nix::ifaddrs::InterfaceAddress, interface: u32) -> bool {
    let link = one.address.as_ref().filter(|a| a.family() == Some(AddressFamily::Packet));
    link.and_then(|a| a.as_link_addr()).is_some_and(|a| u32::try_from(a.ifindex()) == Ok(interface))
}

/// A whole frame: who has `ip`? (operation 1) or: `hardware` has it (operation 2).
fn arp(ip: Ipv4Addr, hardware: [u8; 6], operation: u8) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(hardware);
    // ARP; Ethernet, IPv4, their lengths.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(hardware);
    frame.extend(ip.octets());
    frame.extend(if operation == 1 { [0; 6] } else { BROADCAST });
    frame.extend(ip.octets());
    frame
}

/// A whole frame: `ip` is at `hardware`, whatever you knew.
fn advertisement(ip: Ipv6Addr, hardware: [u8; 6]) -> Vec<u8> {
    // Neighbour advertisement with the override flag, the target, and its hardware address as an option.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]);
    message.extend(hardware);
    let sum = checksum(ip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(message.len()).expect("32 bytes");
    let mut frame = Vec::with_capacity(86);
    frame.extend(ALL_NODES_LINK);
    frame.extend(hardware);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // ICMPv6, and a hop limit by which receivers know that it comes from the same link.
    frame.extend([58, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The checksum of an ICMPv6 message, over the pseudo-header too.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let head = [from.octets().as_slice(), &to.octets(), &length, &[0, 0, 0, 58]].concat();
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0))).sum()
    };
    let sum = words(&head) + words(message);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded & 0xffff).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_layout_that_the_standards_give() {
        let hardware = [2, 0, 0, 0, 0, 9];
        let frame = arp("192.0.2.1".parse().unwrap(), hardware, 2);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!((&frame[22..28], &frame[28..32]), (&hardware[..], &[192, 0, 2, 1][..]));
        let frame = advertisement("2001:db8::1".parse().unwrap(), hardware);
        assert_eq!((frame.len(), frame[20], frame[21], frame[54], frame[58]), (86, 58, 255, 136, 0x20));
        // The sum over what has its own checksum in it is nothing.
        assert_eq!(checksum("2001:db8::1".parse().unwrap(), ALL_NODES, &frame[54..]), 0);
    }
}
