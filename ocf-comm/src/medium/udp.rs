use super::errors;
use super::kind::{address, number, switch, text};
use super::{
    Arrival, Burst, Interfaces, Limits, Link, Medium, MediumKind, Opening, PIECE, PIECES, Reach, Reading,
    Refresh, Sent, send_singly, setting,
};
use crate::driver::{IoStats, SetupError, interfaces};
use mio::net::UdpSocket;
use pils::Value;
use pils::field::{Basic, Field, Fields};
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// Largest UDP payload over IPv4.
pub(super) const PAYLOAD_MAX: usize = 65_507;

/// UDP unicast.
///
/// Parameters: `address`, a local address with its port (port 0 takes any free one); or `interface`, the name of an
/// interface whose address is used and followed, with `port` and, for IPv6, `v6`.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpKind;

impl MediumKind for UdpKind {
    fn fields(&self) -> Fields {
        Fields(vec![
            Field::new("address", Basic::String).short("Local address and port: 192.0.2.1:5405"),
            Field::new("interface", Basic::String)
                .short("Or: the interface whose address is used and followed"),
            Field::new("port", Basic::Integer).range(0, 65_535).default(0).short("With interface: the port"),
            Field::new("v6", Basic::Boolean).default(false).short("With interface: its IPv6 address"),
        ])
    }

    fn open(&self, parameters: &Value, opening: &Opening) -> Result<Box<dyn Medium>, SetupError> {
        let place = match (text(parameters, "address"), text(parameters, "interface")) {
            (Some(_), None) => Place::Fixed(address("udp", parameters, "address")?),
            (None, Some(interface)) => Place::Interface {
                name: interface.to_owned(),
                port: number(parameters, "port").unwrap_or(0),
                v6: switch(parameters, "v6"),
            },
            (other, _) => {
                let given = if other.is_some() { "both" } else { "neither" };
                return Err(setting("udp", "address, interface", given, "give one of them"));
            }
        };
        Ok(Box::new(Udp::open(place, opening)?))
    }
}

/// Where a socket is bound.
#[derive(Clone, Debug)]
enum Place {
    Fixed(SocketAddr),
    Interface { name: String, port: u16, v6: bool },
}

#[derive(Debug)]
struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    opening: Opening,
    place: Place,
    link: Link,
}

impl Udp {
    fn open(place: Place, opening: &Opening) -> Result<Self, SetupError> {
        let local = match &place {
            Place::Fixed(address) => *address,
            Place::Interface { name, port, v6 } => {
                let now = interfaces().map_err(SetupError::system("cannot list the interfaces"))?;
                let address = now.address_of(name, *v6).ok_or_else(|| {
                    setting(
                        "udp",
                        "interface",
                        name,
                        "no such interface has an address now: bring it up, or correct the name",
                    )
                })?;
                SocketAddr::new(address, *port)
            }
        };
        let (socket, state) = bind(local, opening)?;
        Ok(Self { socket, state, opening: *opening, place, link: Link::Unknown })
    }

    /// The datagrams of `burst` from offset `from` on, in as few calls as the kernel allows.
    fn send_bursts(&self, burst: Burst<'_>, stats: &mut IoStats) -> Sent {
        let segment = burst.segment.max(1);
        let mut from = 0;
        while from < burst.data.len() {
            let count = self.state.max_gso_segments().min(PAYLOAD_MAX / segment).max(1);
            let end = burst.data.len().min(from + count * segment);
            let datagrams = (end - from).div_ceil(segment);
            let part = Burst { to: burst.to, segment, data: &burst.data[from..end] };
            if datagrams == 1 {
                // Cheaper, and keeps the type of service that somebody set on the socket.
                if self.send_each(part, stats) != Sent::All {
                    return Sent::Blocked(from);
                }
                from = end;
                continue;
            }
            let transmit = quinn_udp::Transmit {
                destination: burst.to,
                ecn: None,
                contents: part.data,
                segment_size: Some(segment),
                src_ip: None,
            };
            let attempt = || self.state.try_send((&self.socket).into(), &transmit);
            // As in `send_singly`: what is left of an earlier packet is not about this burst.
            let earlier = [ErrorKind::ConnectionRefused, ErrorKind::HostUnreachable];
            let sent = attempt()
                .or_else(|error| if earlier.contains(&error.kind()) { attempt() } else { Err(error) });
            match sent {
                Ok(()) => {
                    stats.sends += 1;
                    stats.datagrams_out += datagrams as u64;
                    stats.bytes_out += (end - from) as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Blocked(from),
                Err(error) => {
                    // The kernel or the card refuses bursts, or some of this one: the rest goes one at a time.
                    tracing::debug!(%error, to = %burst.to, datagrams, "burst refused, sending singly");
                    stats.bursts_refused += 1;
                    let rest = Burst { data: &burst.data[from..], ..part };
                    return match self.send_each(rest, stats) {
                        Sent::All => Sent::All,
                        Sent::Blocked(taken) => Sent::Blocked(from + taken),
                    };
                }
            }
            from = end;
        }
        Sent::All
    }

    fn send_each(&self, burst: Burst<'_>, stats: &mut IoStats) -> Sent {
        send_singly(burst, stats, |datagram| self.socket.send_to(datagram, burst.to).map(|_all| ()))
    }
}

impl Medium for Udp {
    fn name(&self) -> String {
        self.local().map_or_else(|_| "udp".to_owned(), |address| format!("udp {address}"))
    }

    fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn limits(&self) -> Limits {
        Limits {
            datagram_max: PAYLOAD_MAX,
            queue_max: None,
            reach: Reach::AnyAddress,
            bursts: self.opening.offload && self.state.max_gso_segments() > 1,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self, burst: Burst<'_>, stats: &mut IoStats) -> Sent {
        if burst.segment > PAYLOAD_MAX && burst.data.len() > PAYLOAD_MAX {
            // IPv6 would carry a little more; both ends shall have one limit.
            stats.too_large += burst.data.len().div_ceil(burst.segment) as u64;
            return Sent::All;
        }
        if self.opening.offload { self.send_bursts(burst, stats) } else { self.send_each(burst, stats) }
    }

    fn receive(
        &mut self,
        buffer: &mut [u8],
        stats: &mut IoStats,
        take: &mut dyn FnMut(Arrival<'_>),
    ) -> Reading {
        let mut chunks = buffer.chunks_exact_mut(PIECE);
        let mut slices: [IoSliceMut<'_>; PIECES] = std::array::from_fn(|_| {
            IoSliceMut::new(chunks.next().expect("the read buffer is PIECES times PIECE long"))
        });
        let mut metas = [RecvMeta::default(); PIECES];
        let arrivals = match self.state.recv((&self.socket).into(), &mut slices, &mut metas) {
            Ok(arrivals) => arrivals,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Reading::default(),
            Err(_) => {
                // An error report of an earlier packet ends up here too; the next read goes on after it.
                stats.receive_errors += 1;
                return Reading { arrivals: 0, more: true };
            }
        };
        for (slice, meta) in slices.iter_mut().zip(&metas).take(arrivals) {
            let segment = meta.stride.clamp(1, meta.len.max(1));
            take(Arrival { from: meta.addr, segment, data: &mut slice[..meta.len] });
        }
        // A short batch means that the queue was empty; what comes later rings again.
        Reading { arrivals, more: arrivals == PIECES }
    }

    fn refused(&mut self) -> Option<SocketAddr> {
        errors::refused(&self.socket)
    }

    fn refresh(&mut self, interfaces: &Interfaces) -> Refresh {
        let Ok(bound) = self.socket.local_addr() else { return Refresh::Failed };
        let wanted = match &self.place {
            Place::Fixed(_) if bound.ip().is_unspecified() => return Refresh::Same,
            // The kernel keeps the socket of an address that goes away and comes back.
            Place::Fixed(_) => Some(bound.ip()),
            Place::Interface { name, v6, .. } => interfaces.address_of(name, *v6),
        };
        let here = wanted.and_then(|ip| interfaces.with_address(ip));
        self.link = if here.is_some_and(|(_, i)| i.works()) { Link::Up } else { Link::Down };
        let Some(wanted) = wanted.filter(|ip| *ip != bound.ip()) else { return Refresh::Same };
        match bind(SocketAddr::new(wanted, bound.port()), &self.opening) {
            Ok((socket, state)) => {
                tracing::info!(%bound, now = %wanted, "the interface has another address");
                (self.socket, self.state) = (socket, state);
                Refresh::Reopened
            }
            Err(error) => {
                tracing::warn!(%error, "cannot follow the interface to its address");
                self.link = Link::Down;
                Refresh::Failed
            }
        }
    }

    fn link(&self) -> Link {
        self.link
    }
}

fn bind(address: SocketAddr, opening: &Opening) -> Result<(UdpSocket, UdpSocketState), SetupError> {
    let socket = udp_socket(address.ip(), opening)?;
    socket.bind(&address.into()).map_err(|e| SetupError::bind(address, e))?;
    let socket = UdpSocket::from_std(socket.into());
    let state = UdpSocketState::new((&socket).into())
        .map_err(SetupError::system("cannot set the options of a udp socket"))?;
    // Nobody here reads the type of service of received packets, and reporting it costs time on each.
    let options = SockRef::from(&socket);
    let quiet =
        if address.is_ipv4() { options.set_recv_tos_v4(false) } else { options.set_recv_tclass_v6(false) };
    quiet.map_err(SetupError::system("cannot set the options of a udp socket"))?;
    errors::report(&socket, address.is_ipv6()).map_err(SetupError::system("cannot ask for error reports"))?;
    Ok((socket, state))
}

/// A socket of the family of `address`, not bound, with large buffers.
pub(super) fn udp_socket(address: IpAddr, opening: &Opening) -> Result<Socket, SetupError> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))
        .map_err(SetupError::system("cannot make a udp socket"))?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(SetupError::system("cannot make an ipv6 socket"))?;
    }
    grow_buffers(&socket, opening).map_err(SetupError::system("cannot size the socket buffers"))?;
    Ok(socket)
}

/// Asks for large buffers; beyond the system's limit where this process may, else as far as the limit goes.
fn grow_buffers(socket: &Socket, opening: &Opening) -> io::Result<()> {
    use rustix::net::sockopt;
    if sockopt::set_socket_recv_buffer_size_force(socket, opening.receive_buffer).is_err() {
        socket.set_recv_buffer_size(opening.receive_buffer)?;
    }
    if sockopt::set_socket_send_buffer_size_force(socket, opening.send_buffer).is_err() {
        socket.set_send_buffer_size(opening.send_buffer)?;
    }
    Ok(())
}
