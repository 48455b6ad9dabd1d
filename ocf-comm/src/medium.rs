//! What carries datagrams between nodes: the seam [`Medium`], and the media of this crate.
//!
//! | kind | reach | parameters | what it is |
//! |---|---|---|---|
//! | `udp` | any address | `address`, or `interface` with `port` and `family` | UDP over IPv4 or IPv6, bursts in one call |
//! | `multicast` | one to many | `group`, `interface`, `ttl` | UDP to a group; every node of the group hears everything |
//! | `broadcast` | one to many | `address`, `broadcast` | UDP to all of a local network |
//! | `serial` | point to point | `device`, `speed`, `flow_control`, `port` | a line between two machines, framed, with a checksum |
//! | `memory` | any address | `hub`, `port` | within one process |
//!
//! A kind is a plug-in of the type [`MEDIA`]: [`media`] gives the registry with those above, and
//! [`Ports::bind_with`](crate::driver::Ports::bind_with) takes one with more. The suite
//! [`check_medium`](crate::testing::check_medium) tests an implementation.
//!
//! # Addresses
//! The core names every end by a [`SocketAddr`] that it only compares. An end that has no such address of its own gets one
//! from [`port_address`]: a private IPv6 address that never appears on a network. On a medium that reaches many at once,
//! every sender and receiver has the one address of the group; circuits and handshakes find their receiver by the circuit
//! id and the node id that they carry, so a datagram for somebody else is dropped as of no circuit of this node.

mod errors;
mod frame;
mod group;
mod interfaces;
mod kind;
mod memory;
mod port;
mod serial;
#[cfg(test)]
mod tests;
mod udp;

#[cfg(any(test, fuzzing, feature = "testing"))]
pub(crate) use frame::fuzz_frames;
pub use group::{BroadcastKind, MulticastKind};
pub use interfaces::{Interface, Interfaces};
pub use kind::{MEDIA, MediumKind, MediumSpec, media};
pub use memory::{Hub, MemoryKind, MemoryPort, memory_hub};
pub use port::{port_address, port_number};
pub use serial::{SerialKind, SerialLine};
pub use udp::UdpKind;

use crate::driver::{IoStats, SetupError};
use core::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// Bytes of one piece of the buffer that [`Medium::receive`] gets: the largest thing that a kernel joins.
pub const PIECE: usize = 1 << 16;
/// Pieces of the buffer that [`Medium::receive`] gets.
pub const PIECES: usize = 16;

/// One way to send and receive datagrams: an open socket, line or port. Object-safe.
///
/// Datagrams may be lost, doubled and reordered, never joined, cut or altered. Nothing blocks. One thread at a time calls it.
pub trait Medium: Debug + Send {
    /// What it is and where, for people: `udp 192.0.2.1:5405`.
    fn name(&self) -> String;

    /// The address of this end, with the port that the system chose.
    ///
    /// # Errors
    /// If the system does not tell.
    fn local(&self) -> io::Result<SocketAddr>;

    /// What it can do. Stays the same while the medium is not reopened.
    fn limits(&self) -> Limits;

    /// Readable when something may have arrived, writable when a blocked send may go on. Watched for edges.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Sends datagrams that are back to back in `burst.data`, from the first on, and counts what it did in `stats`. What can
    /// never be sent is counted and passed over: that loses it.
    fn send(&mut self, burst: Burst<'_>, stats: &mut IoStats) -> Sent;

    /// Reads what has arrived, at most [`PIECES`] times, and gives it to `take` in the order of arrival. `buffer` has
    /// [`PIECES`] times [`PIECE`] bytes, for whatever use.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        stats: &mut IoStats,
        take: &mut dyn FnMut(Arrival<'_>),
    ) -> Reading;

    /// Writes what it keeps itself of datagrams that it took. True if nothing is left.
    fn flush(&mut self) -> bool {
        true
    }

    /// The next address at which nobody receives, as the network said (`ECONNREFUSED`) since this was asked last; `None` at
    /// the end. Asked when the descriptor has an error. Anybody can forge what the network says.
    fn refused(&mut self) -> Option<SocketAddr> {
        None
    }

    /// The interfaces of this machine are these now: binds again if its own went away, came back or changed its address.
    /// After [`Refresh::Reopened`] the descriptor is another one.
    fn refresh(&mut self, interfaces: &Interfaces) -> Refresh {
        let _: &Interfaces = interfaces;
        Refresh::Same
    }

    /// Whether the hardware below it works, as far as that is known.
    fn link(&self) -> Link {
        Link::Unknown
    }
}

/// What a medium can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest datagram.
    pub datagram_max: usize,
    /// Bytes that may wait for it to take more; `None` for the default of the node. For slow lines: what it carries in
    /// a quarter of a second.
    pub queue_max: Option<usize>,
    /// Whom it reaches.
    pub reach: Reach,
    /// True if a burst of equal datagrams costs about as much as one.
    pub bursts: bool,
}

/// Whom a medium reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// Whoever has the address.
    AnyAddress,
    /// The one at the other end.
    PointToPoint,
    /// All at once: there is one address, that of all.
    OneToMany,
}

/// Datagrams to one address.
#[derive(Clone, Copy, Debug)]
pub struct Burst<'a> {
    /// The receiver's address.
    pub to: SocketAddr,
    /// Size of each datagram; the last may be shorter. At least 1.
    pub segment: usize,
    /// The datagrams, back to back. Not empty.
    pub data: &'a [u8],
}

/// What became of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Taken, or lost for good and counted.
    All,
    /// It takes no more now; so many bytes of whole datagrams were taken. The descriptor becomes writable.
    Blocked(usize),
}

/// Datagrams that came in together.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// The sender's address. Proof of nothing.
    pub from: SocketAddr,
    /// Size of each datagram in `data`; the last may be shorter. At least 1.
    pub segment: usize,
    /// The datagrams, back to back.
    pub data: &'a mut [u8],
}

/// What one reading found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How often `take` was called.
    pub arrivals: usize,
    /// True if there may be more now: no new edge of the descriptor will tell.
    pub more: bool,
}

/// What a medium did after a change of the interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Nothing.
    Same,
    /// It is open on another descriptor, perhaps with another address.
    Reopened,
    /// It cannot be opened now and will be tried again.
    Failed,
}

/// Whether hardware works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// Nobody knows.
    #[default]
    Unknown,
    /// It is up and has a carrier.
    Up,
    /// It is down, has no carrier, or is gone.
    Down,
}

/// How sockets are opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// See [`IoConfig::offload`](crate::driver::IoConfig::offload).
    pub offload: bool,
    /// See [`IoConfig::receive_buffer`](crate::driver::IoConfig::receive_buffer).
    pub receive_buffer: usize,
    /// See [`IoConfig::send_buffer`](crate::driver::IoConfig::send_buffer).
    pub send_buffer: usize,
}

impl Default for Opening {
    fn default() -> Self {
        Self { offload: true, receive_buffer: 8 << 20, send_buffer: 4 << 20 }
    }
}

/// For media that take a burst one datagram at a time: hands each to `one`, counts, and stops when it would block.
pub(crate) fn send_singly(
    burst: Burst<'_>,
    stats: &mut IoStats,
    mut one: impl FnMut(&[u8]) -> io::Result<()>,
) -> Sent {
    let mut taken = 0;
    for datagram in burst.data.chunks(burst.segment.max(1)) {
        // The first error may be a report about an earlier packet, to whomever; the second is about this one.
        let sent = one(datagram).or_else(|error| {
            if error.kind() == io::ErrorKind::WouldBlock { Err(error) } else { one(datagram) }
        });
        match sent {
            Ok(()) => {
                stats.sends += 1;
                stats.datagrams_out += 1;
                stats.bytes_out += datagram.len() as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Blocked(taken),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                stats.too_large += 1;
            }
            Err(error) => {
                stats.send_errors += 1;
                tracing::trace!(%error, to = %burst.to, "datagram not sent");
            }
        }
        taken += datagram.len();
    }
    Sent::All
}

/// What a setting is, for [`SetupError::Setting`].
pub(crate) fn setting(
    medium: &str,
    name: &'static str,
    value: impl ToString,
    fix: &'static str,
) -> SetupError {
    SetupError::Setting { medium: medium.to_owned(), name, value: value.to_string(), fix }
}
