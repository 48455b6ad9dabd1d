//! What the network says about datagrams that were sent: the error queue of a socket.

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, sock_extended_err};
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use std::io::IoSliceMut;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

/// Bytes for what comes with a report: several times what the options of our sockets ask for.
const CONTROL: usize = 512;
/// Reports read in one call: an error rings again for what is left.
const READS_MAX: usize = 1024;

/// Has the kernel queue what the network says about datagrams of this socket.
pub(super) fn report(socket: &impl AsFd, v6: bool) -> Result<(), Errno> {
    if v6 { setsockopt(socket, Ipv6RecvErr, &true) } else { setsockopt(socket, Ipv4RecvErr, &true) }
}

/// The address of the next datagram in the error queue that nobody received; passes over all other reports.
pub(super) fn refused(socket: &impl AsRawFd) -> Option<SocketAddr> {
    // A socket reports other things beside the error, such as the address that the datagram came from, and before it.
    let mut control = cmsg_space!([u8; CONTROL]);
    for _ in 0..READS_MAX {
        // The datagram itself is of no interest.
        let mut nothing = [IoSliceMut::new(&mut [])];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let read =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut nothing, Some(&mut control), flags).ok()?;
        let refused = read.cmsgs().into_iter().flatten().any(|message| {
            use ControlMessageOwned::{Ipv4RecvErr, Ipv6RecvErr};
            matches!(message, Ipv4RecvErr(error, _) | Ipv6RecvErr(error, _) if is_refusal(&error))
        });
        let address = read.address.filter(|_| refused).and_then(|address| address_of(&address));
        if address.is_some() {
            return address;
        }
    }
    None
}

fn is_refusal(error: &sock_extended_err) -> bool {
    let of_network = [SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin);
    of_network && i32::try_from(error.ee_errno) == Ok(Errno::ECONNREFUSED as i32)
}

fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of sockets in real time")]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    #[test]
    fn a_closed_port_is_told_with_its_address_and_an_open_one_is_not() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(local).unwrap();
            socket.set_nonblocking(true).unwrap();
            report(&socket, local.starts_with('[')).unwrap();
            // As the sockets of a node are, which ask for more than errors.
            let _state = quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
            let closed = UdpSocket::bind(local).unwrap().local_addr().unwrap();
            let open = UdpSocket::bind(local).unwrap();
            socket.send_to(b"anyone?", open.local_addr().unwrap()).unwrap();
            assert_eq!(refused(&socket), None);
            let end = Instant::now() + Duration::from_secs(10);
            let told = loop {
                // The second call may give the first one's error in place of sending.
                let _sent = socket.send_to(b"anyone?", closed);
                if let Some(told) = refused(&socket) {
                    break told;
                }
                assert!(Instant::now() < end, "nothing was told of {closed}");
            };
            assert_eq!(told, closed);
        }
    }
}
