//! Echo requests and replies on the node's reactor.

use super::io::PINGS;
use super::{SetupError, entropy};
use crate::ping::echo::{ECHO, reply, request};
use crate::ping::{PingChange, PingConfig, PingInput, PingOutput, PingStatus, Pinger};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use pils::{Instant, Layer as _};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto,
    socket_with,
};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Messages read in one turn and family: a raw socket hears every echo reply of the machine.
const READS_PER_TURN: usize = 64;
/// A header of IPv4 with all its options, and more than a reply of ours.
const BUFFER: usize = 60 + 2 * ECHO;

/// A socket for the echo messages of one family.
#[derive(Debug)]
struct Icmp {
    fd: OwnedFd,
    v6: bool,
    /// On a raw socket: the identifier by which our own replies are known.
    raw: Option<u16>,
    readable: bool,
}

impl Icmp {
    fn open(v6: bool) -> Result<Self, SetupError> {
        let socket = |kind| {
            let (family, protocol): (_, Protocol) = if v6 {
                (AddressFamily::INET6, ipproto::ICMPV6)
            } else {
                (AddressFamily::INET, ipproto::ICMP)
            };
            socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(protocol))
        };
        let (fd, raw) = match socket(SocketType::DGRAM) {
            Ok(fd) => (Ok(fd), None),
            Err(_refused) => (socket(SocketType::RAW), Some(u16::from_be_bytes(entropy::bytes()))),
        };
        let fd = fd.map_err(|error| match error {
            Errno::ACCESS | Errno::PERM => {
                SetupError::PingNotPermitted { group: rustix::process::getegid().as_raw() }
            }
            other => SetupError::system("cannot make a socket for icmp echo messages")(other),
        })?;
        Ok(Self { fd, v6, raw, readable: true })
    }

    fn send(&self, to: IpAddr, message: &[u8]) -> Result<(), Errno> {
        sendto(&self.fd, message, SendFlags::empty(), &SocketAddr::new(to, 0)).map(|_all| ())
    }

    fn receive(&mut self, now: Instant, pinger: &mut Pinger) {
        let mut buffer = [0; BUFFER];
        for _ in 0..READS_PER_TURN {
            match recvfrom(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    let data = buffer.get(..length).unwrap_or_default();
                    if let (Some(from), Some((sequence, token))) = (from, reply(data, self.v6, self.raw)) {
                        pinger.handle(now, PingInput::Reply { from: from.ip(), sequence, token });
                    }
                }
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return;
                }
                // An error that was waiting; the next call goes on after it.
                Err(error) => tracing::trace!(%error, "reading echo replies"),
            }
        }
    }
}

/// A [`Pinger`] and its sockets.
#[derive(Debug)]
pub(crate) struct PingIo {
    pinger: Pinger,
    sockets: [Option<Icmp>; 2],
    changes: VecDeque<PingChange>,
}

impl PingIo {
    pub(crate) fn open(
        now: Instant,
        targets: &[PingConfig],
        registry: &Registry,
    ) -> Result<Self, SetupError> {
        let pinger = Pinger::new(now, targets, &entropy::bytes()).map_err(SetupError::Ping)?;
        let mut sockets = [None, None];
        for (place, (v6, token)) in sockets.iter_mut().zip([(false, PINGS[0]), (true, PINGS[1])]) {
            if targets.iter().flat_map(|target| &target.hosts).any(|host| host.is_ipv6() == v6) {
                let socket = Icmp::open(v6)?;
                registry
                    .register(&mut SourceFd(&socket.fd.as_raw_fd()), token, Interest::READABLE)
                    .map_err(SetupError::system("cannot watch a socket for icmp echo messages"))?;
                *place = Some(socket);
            }
        }
        Ok(Self { pinger, sockets, changes: VecDeque::new() })
    }

    pub(crate) fn readable(&mut self, token: Token) {
        for (socket, at) in self.sockets.iter_mut().zip(PINGS) {
            if let Some(socket) = socket.as_mut().filter(|_| at == token) {
                socket.readable = true;
            }
        }
    }

    /// Reads what came, so that a machine that stood still sees answers before their time is over, then sends what is due.
    pub(crate) fn turn(&mut self, now: Instant) -> Option<PingChange> {
        if self.changes.is_empty() {
            let Self { pinger, sockets, .. } = self;
            for socket in sockets.iter_mut().flatten().filter(|socket| socket.readable) {
                socket.receive(now, pinger);
            }
            self.pinger.handle_timeout(now);
            self.carry_out(now);
        }
        self.changes.pop_front()
    }

    fn carry_out(&mut self, now: Instant) {
        while let Some(output) = self.pinger.poll_output() {
            match output {
                PingOutput::Event(change) => self.changes.push_back(change),
                PingOutput::Send { to, sequence, token } => {
                    let socket = self.sockets[usize::from(to.is_ipv6())].as_ref();
                    let Some(socket) = socket else { continue };
                    let message = request(socket.v6, socket.raw.unwrap_or(0), sequence, &token);
                    if let Err(error) = socket.send(to, &message) {
                        tracing::debug!(%to, %error, "an echo request was not sent");
                        self.pinger.handle(now, PingInput::NotSent { to, sequence });
                    }
                }
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        // What was left unread rings no more by itself.
        if self.sockets.iter().flatten().any(|socket| socket.readable) {
            return Some(Instant::ZERO);
        }
        self.pinger.poll_timeout()
    }

    pub(crate) fn status(&self, now: Instant) -> Vec<PingStatus> {
        self.pinger.status(now)
    }

    pub(crate) fn reachable(&self) -> usize {
        self.pinger.reachable()
    }
}
