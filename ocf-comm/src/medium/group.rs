//! Media that reach all nodes of a local network with one datagram.

use super::kind::{address, number, text};
use super::udp::{PAYLOAD_MAX, udp_socket};
use super::{
    Arrival, Burst, Interfaces, Limits, Link, Medium, MediumKind, Opening, PIECE, PIECES, Reach, Reading,
    Refresh, Sent, send_singly, setting,
};
use crate::driver::{IoStats, SetupError, interfaces};
use pils::Value;
use pils::field::{Basic, Field, Fields};
use rustix::net::sockopt::set_ip_multicast_if_with_ifindex;
use socket2::Socket;
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// UDP multicast.
///
/// Parameters: `group`, the multicast address and port; `interface`, the name of the interface or its address; `ttl`, how
/// many routers a datagram may pass, default 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct MulticastKind;

/// UDP broadcast.
///
/// Parameters: `address`, the broadcast address of the local network with the port (`192.0.2.255:5405`).
#[derive(Clone, Copy, Debug, Default)]
pub struct BroadcastKind;

impl MediumKind for MulticastKind {
    fn fields(&self) -> Fields {
        Fields(vec![
            Field::new("group", Basic::String)
                .required()
                .short("Multicast address and port: 239.192.0.5:5405"),
            Field::new("interface", Basic::String).required().short("Name or address of the interface"),
            Field::new("ttl", Basic::Integer).range(1, 255).default(1).short("Routers to pass, plus one"),
        ])
    }

    fn open(&self, parameters: &Value, opening: &Opening) -> Result<Box<dyn Medium>, SetupError> {
        let group = address("multicast", parameters, "group")?;
        if !group.ip().is_multicast() {
            let fix = "it is no multicast address: choose one of 239.192.0.0/14 or ff15::/16";
            return Err(setting("multicast", "group", group, fix));
        }
        let interface = text(parameters, "interface").unwrap_or_default().to_owned();
        let ttl = number(parameters, "ttl").unwrap_or(1);
        Ok(Box::new(Group::open(group, Way::Multicast { interface, ttl }, opening)?))
    }
}

impl MediumKind for BroadcastKind {
    fn fields(&self) -> Fields {
        Fields(vec![
            Field::new("address", Basic::String)
                .required()
                .short("Broadcast address and port: 192.0.2.255:5405"),
        ])
    }

    fn open(&self, parameters: &Value, opening: &Opening) -> Result<Box<dyn Medium>, SetupError> {
        let to = address("broadcast", parameters, "address")?;
        if !to.is_ipv4() || to.port() == 0 {
            let fix = "give an ipv4 broadcast address and a port; ipv6 has multicast instead";
            return Err(setting("broadcast", "address", to, fix));
        }
        Ok(Box::new(Group::open(to, Way::Broadcast, opening)?))
    }
}

#[derive(Clone, Debug)]
enum Way {
    Multicast { interface: String, ttl: u32 },
    Broadcast,
}

/// One socket that all nodes of the network share the address of.
#[derive(Debug)]
struct Group {
    to: SocketAddr,
    way: Way,
    opening: Opening,
    socket: Socket,
    /// Index of the interface it is on, if that is known.
    interface: Option<u32>,
    link: Link,
}

impl Group {
    fn open(to: SocketAddr, way: Way, opening: &Opening) -> Result<Self, SetupError> {
        let now = interfaces().map_err(SetupError::system("cannot list the interfaces"))?;
        let (socket, interface) = open(to, &way, opening, &now)?;
        Ok(Self { to, way, opening: *opening, socket, interface, link: Link::Unknown })
    }
}

fn place(interfaces: &Interfaces, way: &Way) -> Option<(u32, bool)> {
    let Way::Multicast { interface, .. } = way else { return None };
    let by_address = interface.parse::<IpAddr>().ok().and_then(|ip| interfaces.with_address(ip));
    by_address.or_else(|| interfaces.named(interface)).map(|(index, i)| (index, i.works()))
}

fn open(
    to: SocketAddr,
    way: &Way,
    opening: &Opening,
    interfaces: &Interfaces,
) -> Result<(Socket, Option<u32>), SetupError> {
    let socket = udp_socket(to.ip(), opening)?;
    socket.set_reuse_address(true).map_err(SetupError::system("cannot share a port"))?;
    let index = place(interfaces, way).map(|(index, _)| index);
    match way {
        Way::Broadcast => {
            socket.set_broadcast(true).map_err(SetupError::system("cannot send broadcasts"))?;
        }
        Way::Multicast { interface, ttl } => {
            let index = index.ok_or_else(|| {
                let fix =
                    "no such interface: give a name that `ip link` shows, or an address of this machine";
                setting("multicast", "interface", interface, fix)
            })?;
            join(&socket, to.ip(), index, *ttl)
                .map_err(SetupError::system("cannot join the multicast group on this interface"))?;
        }
    }
    // Only what is sent to the group comes in.
    socket.bind(&to.into()).map_err(|e| SetupError::bind(to, e))?;
    Ok((socket, index))
}

fn join(socket: &Socket, group: IpAddr, index: u32, ttl: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => {
            let interface = socket2::InterfaceIndexOrAddress::Index(index);
            socket.join_multicast_v4_n(&group, &interface)?;
            set_ip_multicast_if_with_ifindex(socket, &group, &Ipv4Addr::UNSPECIFIED, index)?;
            socket.set_multicast_all_v4(false)?;
            socket.set_multicast_ttl_v4(ttl)?;
            socket.set_multicast_loop_v4(true)
        }
        IpAddr::V6(group) => {
            socket.join_multicast_v6(&group, index)?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_all_v6(false)?;
            socket.set_multicast_hops_v6(ttl)?;
            socket.set_multicast_loop_v6(true)
        }
    }
}

impl Medium for Group {
    fn name(&self) -> String {
        let way = match self.way {
            Way::Multicast { .. } => "multicast",
            Way::Broadcast => "broadcast",
        };
        format!("{way} {}", self.to)
    }

    fn local(&self) -> io::Result<SocketAddr> {
        Ok(self.to)
    }

    fn limits(&self) -> Limits {
        Limits { datagram_max: PAYLOAD_MAX, queue_max: None, reach: Reach::OneToMany, bursts: false }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self, burst: Burst<'_>, stats: &mut IoStats) -> Sent {
        let to = self.to.into();
        send_singly(burst, stats, |datagram| self.socket.send_to(datagram, &to).map(|_all| ()))
    }

    fn receive(
        &mut self,
        buffer: &mut [u8],
        stats: &mut IoStats,
        take: &mut dyn FnMut(Arrival<'_>),
    ) -> Reading {
        for arrivals in 0..PIECES {
            match self.socket.read(&mut buffer[..PIECE]) {
                Ok(length) => {
                    take(Arrival { from: self.to, segment: length.max(1), data: &mut buffer[..length] });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Reading { arrivals, more: false };
                }
                Err(_) => {
                    stats.receive_errors += 1;
                    return Reading { arrivals, more: true };
                }
            }
        }
        Reading { arrivals: PIECES, more: true }
    }

    fn refresh(&mut self, interfaces: &Interfaces) -> Refresh {
        if let Way::Broadcast = self.way {
            return Refresh::Same;
        }
        let found = place(interfaces, &self.way);
        self.link = if found.is_some_and(|(_, works)| works) { Link::Up } else { Link::Down };
        let index = found.map(|(index, _)| index);
        if index == self.interface {
            return Refresh::Same;
        }
        // The membership of the group went away with the interface.
        self.interface = None;
        match open(self.to, &self.way, &self.opening, interfaces) {
            Ok((socket, index)) => {
                (self.socket, self.interface) = (socket, index);
                Refresh::Reopened
            }
            Err(error) => {
                tracing::warn!(%error, "cannot join the group again");
                Refresh::Failed
            }
        }
    }

    fn link(&self) -> Link {
        self.link
    }
}
