use super::inbox::{Inbox, Remote, Wake, inbox};
use super::netlink::LinkWatch;
use super::ping::PingIo;
use super::socket::{BATCH, BUFFER, PathSocket};
use super::timer::Timer;
use super::{Clock, SetupError, interfaces};
use crate::medium::{Limits, Link, MediumKind, MediumSpec, Opening, media};
use crate::ping::{PingChange, PingConfig, PingStatus};
use crate::{Input, PathId, Received, Transmit};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token, Waker};
use pils::Instant;
use pils::plugin::Registry as Plugins;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Duration;

/// Event tokens beyond those of the paths.
pub(crate) const TIMER: Token = Token(1 << 16);
pub(crate) const WAKER: Token = Token((1 << 16) + 1);
pub(crate) const LINKS: Token = Token((1 << 16) + 2);
pub(crate) const PINGS: [Token; 2] = [Token((1 << 16) + 3), Token((1 << 16) + 4)];
/// Paths that a node can have.
const PATHS_MAX: usize = 256;

/// How a reactor uses sockets.
#[derive(Clone, Debug)]
pub struct IoConfig {
    /// The media, one per path: the first is path 0.
    pub paths: Vec<MediumSpec>,
    /// Send bursts to one peer in one system call where the kernel can. Default true. Without it each datagram costs
    /// about 4 µs; with it a burst of 40 costs about 6.
    pub offload: bool,
    /// Receive buffer of each socket in bytes, default 8 MiB. The system's limit (`net.core.rmem_max`) caps it unless
    /// the process is privileged. Too small loses packets in bursts.
    pub receive_buffer: usize,
    /// Send buffer of each socket in bytes, default 4 MiB; capped by `net.core.wmem_max`.
    pub send_buffer: usize,
    /// Bytes that may wait per path when the kernel takes no more, default 4 MiB; beyond it the oldest are dropped
    /// and counted.
    pub send_queue_bytes_max: usize,
    /// How long to look again before sleeping, default zero. Saves the 25 to 40 µs of waking an idle processor but
    /// burns it; backs off by itself when it does not pay. Only with a processor to spare per node.
    pub spin: Duration,
}

impl IoConfig {
    /// Defaults for UDP at these local addresses, a path for each. Port 0 takes any free port.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::over(paths.into_iter().map(MediumSpec::udp))
    }

    /// Defaults for these media, a path for each.
    #[must_use]
    pub fn over(media: impl IntoIterator<Item = MediumSpec>) -> Self {
        Self {
            paths: media.into_iter().collect(),
            offload: true,
            receive_buffer: 8 << 20,
            send_buffer: 4 << 20,
            send_queue_bytes_max: 4 << 20,
            spin: Duration::ZERO,
        }
    }
}

/// What went through the sockets since they were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoStats {
    /// Buffers received, each one datagram or several joined by the kernel.
    pub reads: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Sends that the kernel took, each one datagram or a burst.
    pub sends: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Datagrams dropped because too much waited for the kernel.
    pub dropped_full: u64,
    /// Datagrams that the kernel refused to send: no route, filtered, no memory.
    pub send_errors: u64,
    /// Datagrams larger than the interface takes.
    pub too_large: u64,
    /// Bursts that the kernel refused and that went out singly.
    pub bursts_refused: u64,
    /// Reads that failed.
    pub receive_errors: u64,
    /// Datagrams of which the network said that nobody receives at their address.
    pub refused: u64,
    /// Outputs for a path that this node does not have.
    pub unknown_path: u64,
}

/// What the sockets have to say about what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// A datagram was not sent, because it is too large for the interface or the route.
    TooLarge {
        /// The path.
        path: PathId,
        /// Where it was to go.
        to: SocketAddr,
        /// Its size in bytes.
        size: usize,
    },
    /// The network said that nobody receives at an address something was sent to. Anybody can forge that.
    Refused {
        /// The path.
        path: PathId,
        /// The address.
        to: SocketAddr,
    },
}

impl From<Report> for Input<'_> {
    fn from(report: Report) -> Self {
        match report {
            Report::TooLarge { path, to, size } => Self::TooLarge { path, to, size },
            Report::Refused { path, to } => Self::Unreachable { path, to },
        }
    }
}

/// Reports that wait for the layer.
#[derive(Debug, Default)]
struct Reports(VecDeque<Report>);

impl Reports {
    /// Reports that wait at most; more are dropped, and come again with the next datagram.
    const MAX: usize = 64;

    fn note(&mut self, path: PathId, socket: &mut PathSocket) {
        if let Some((to, size)) = socket.too_large.take() {
            self.add(Report::TooLarge { path, to, size });
        }
    }

    fn add(&mut self, report: Report) {
        if self.0.len() < Self::MAX {
            self.0.push_back(report);
        }
    }
}

/// The sockets of a node, as a [`Host`](super::Host) sees them.
#[derive(Debug)]
pub struct Io {
    clock: Clock,
    sockets: Vec<PathSocket>,
    registry: Registry,
    stats: IoStats,
    buffer: Vec<u8>,
    reports: Reports,
    pub(crate) spent: Vec<Vec<u8>>,
    pub(crate) timer: Timer,
    /// `None` where the system has no routing socket; media are then not bound again.
    links: Option<LinkWatch>,
    /// Hosts outside the cluster that are watched.
    ping: Option<Box<PingIo>>,
}

/// What is known of the medium of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MediumStatus {
    /// The path.
    pub path: PathId,
    /// What it is and where: `udp 192.0.2.1:5405`.
    pub name: String,
    /// The address of this end, if the system tells.
    pub address: Option<SocketAddr>,
    /// In the report of a change: the address before it.
    pub was: Option<SocketAddr>,
    /// Whether its hardware works.
    pub link: Link,
    /// What it can do.
    pub limits: Limits,
}

impl Io {
    /// Sends datagrams, or queues them if the kernel takes no more. They may be lost. In order per path.
    pub fn transmit(&mut self, transmit: Transmit) {
        match self.sockets.get_mut(usize::from(transmit.path.0)) {
            Some(socket) => {
                let path = transmit.path;
                socket.send(transmit, &self.registry, &mut self.stats, &mut self.spent);
                self.reports.note(path, socket);
            }
            None => self.stats.unknown_path += 1,
        }
    }

    /// Gives up every socket, so that others may bind what this one had while handles to the reactor are still around.
    pub(crate) fn close(&mut self) {
        self.sockets.clear();
        (self.links, self.ping) = (None, None);
    }

    /// A descriptor has an error: looks for what the network says about what was sent. One word per address is enough.
    pub(crate) fn errors(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token.0) else { return };
        let path = PathId(u8::try_from(token.0).unwrap_or(u8::MAX));
        while let Some(to) = socket.refused() {
            self.stats.refused += 1;
            let report = Report::Refused { path, to };
            if !self.reports.0.contains(&report) {
                self.reports.add(report);
            }
        }
    }

    /// The next report about what was sent, if there is one.
    pub(crate) fn take_report(&mut self) -> Option<Report> {
        self.reports.0.pop_front()
    }

    /// The clock of this reactor.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// What went through.
    #[must_use]
    pub const fn stats(&self) -> IoStats {
        self.stats
    }

    /// True if bursts to one peer leave in one system call on every path.
    #[must_use]
    pub fn offloads(&self) -> bool {
        self.sockets.iter().all(PathSocket::offloads)
    }

    pub(crate) fn readable(&mut self, token: Token) {
        if let Some(socket) = self.sockets.get_mut(token.0) {
            socket.readable = true;
        }
    }

    pub(crate) fn writable(&mut self, token: Token) {
        if let Some(socket) = self.sockets.get_mut(token.0) {
            socket.flush(&self.registry, &mut self.stats, &mut self.spent);
            self.reports.note(PathId(u8::try_from(token.0).unwrap_or(u8::MAX)), socket);
        }
    }

    /// What is known of the medium of each path, in their order.
    #[must_use]
    pub fn media(&self) -> Vec<MediumStatus> {
        (0..=u8::MAX).zip(&self.sockets).map(|(path, socket)| socket.status(PathId(path))).collect()
    }

    /// What is known of each [watched](Ports::ping) target, in their order.
    #[must_use]
    pub fn pings(&self) -> Vec<PingStatus> {
        let now = self.clock.now();
        self.ping.as_ref().map(|ping| ping.status(now)).unwrap_or_default()
    }

    /// Watched targets that are up: see [`Pinger::reachable`](crate::ping::Pinger::reachable).
    #[must_use]
    pub fn reachable(&self) -> usize {
        self.ping.as_ref().map_or(0, |ping| ping.reachable())
    }

    /// A socket for echo messages may have something to read.
    pub(crate) fn ping_readable(&mut self, token: Token) {
        if let Some(ping) = &mut self.ping {
            ping.readable(token);
        }
    }

    /// Takes answers, sends requests that are due. The next change of a watched host, if there is one.
    pub(crate) fn ping(&mut self, now: Instant) -> Option<PingChange> {
        self.ping.as_mut()?.turn(now)
    }

    /// What is earlier: the layer's deadline, or that of a watched host.
    pub(crate) fn earlier(&self, deadline: Option<Instant>) -> Option<Instant> {
        let ping = self.ping.as_ref().and_then(|ping| ping.deadline());
        deadline.into_iter().chain(ping).min()
    }

    /// The interfaces of this machine changed: binds again what must be. Gives the paths that changed.
    pub(crate) fn interfaces_changed(&mut self) -> Vec<MediumStatus> {
        if !self.links.as_ref().is_some_and(LinkWatch::drain) {
            return Vec::new();
        }
        self.look_at_interfaces()
    }

    /// Tells each medium of the interfaces of this machine. Gives the paths that changed.
    pub(crate) fn look_at_interfaces(&mut self) -> Vec<MediumStatus> {
        let now = match interfaces() {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "cannot list the interfaces");
                return Vec::new();
            }
        };
        let Self { sockets, registry, .. } = self;
        let paths = (0..=u8::MAX).zip(sockets);
        paths
            .filter_map(|(path, socket)| {
                let was = socket.local_address().ok();
                let changed = socket.refresh(&now, registry);
                changed.then(|| MediumStatus { was, ..socket.status(PathId(path)) })
            })
            .collect()
    }

    /// Reads up to `budget` buffers, fairly over the paths. True if there may be more.
    pub(crate) fn receive(&mut self, budget: usize, mut take: impl FnMut(Instant, Received<'_>)) -> bool {
        let mut left = budget;
        loop {
            let mut again = false;
            for socket in self.sockets.iter_mut().filter(|socket| socket.readable) {
                if left == 0 {
                    return true;
                }
                let now = self.clock.now();
                let read = socket.receive(&mut self.buffer, &mut self.stats, |received| take(now, received));
                left = left.saturating_sub(read.max(1));
                again |= socket.readable;
            }
            if !again {
                return false;
            }
        }
    }
}

fn watch_links(registry: &Registry) -> Option<LinkWatch> {
    let watched = LinkWatch::new().and_then(|links| {
        registry.register(&mut SourceFd(&links.as_fd().as_raw_fd()), LINKS, Interest::READABLE)?;
        Ok(links)
    });
    watched.inspect_err(|error| tracing::warn!(%error, "changes of interfaces are not noticed")).ok()
}

/// Bound sockets that no reactor drives yet. What is received meanwhile waits in the kernel.
#[derive(Debug)]
pub struct Ports {
    pub(crate) io: Io,
    pub(crate) poll: Poll,
    pub(crate) wake: Arc<Wake>,
    pub(crate) spin: Duration,
}

impl Ports {
    /// Opens the medium of each path, of the kinds of this crate.
    ///
    /// # Errors
    /// [`SetupError`]: says which address and what to do.
    pub fn bind(config: &IoConfig) -> Result<Self, SetupError> {
        Self::bind_with(config, &media())
    }

    /// As [`Ports::bind`], with the kinds that are in `media`.
    ///
    /// # Errors
    /// [`SetupError`]: says which address and what to do.
    pub fn bind_with(config: &IoConfig, media: &Plugins<dyn MediumKind>) -> Result<Self, SetupError> {
        if config.paths.is_empty() {
            return Err(SetupError::NoPath);
        }
        if config.paths.len() > PATHS_MAX {
            return Err(SetupError::TooManyPaths { count: config.paths.len(), limit: PATHS_MAX });
        }
        let poll = Poll::new().map_err(SetupError::system("cannot make an event queue"))?;
        let registry =
            poll.registry().try_clone().map_err(SetupError::system("cannot share an event queue"))?;
        let opening = Opening {
            offload: config.offload,
            receive_buffer: config.receive_buffer,
            send_buffer: config.send_buffer,
        };
        let sockets = (0..=u8::MAX)
            .zip(&config.paths)
            .map(|(path, spec)| {
                PathSocket::open(PathId(path), spec.open(media, &opening)?, config, &registry)
            })
            .collect::<Result<_, _>>()?;
        let waker =
            Waker::new(&registry, WAKER).map_err(SetupError::system("cannot make a wake-up event"))?;
        let timer = Timer::new(&registry, TIMER)?;
        let links = watch_links(&registry);
        let mut io = Io {
            clock: Clock::start(),
            sockets,
            registry,
            stats: IoStats::default(),
            buffer: vec![0; BATCH * BUFFER],
            reports: Reports::default(),
            spent: Vec::new(),
            timer,
            links,
            ping: None,
        };
        io.look_at_interfaces();
        Ok(Self { io, poll, wake: Arc::new(Wake::new(waker)), spin: config.spin })
    }

    /// Watches hosts outside the cluster, too, by ICMP echo: on a socket that needs no rights where the system allows it
    /// (`net.ipv4.ping_group_range`), else on a raw one. [`Host::ping_changed`](super::Host::ping_changed) hears of changes.
    /// Replaces what an earlier call said.
    ///
    /// # Errors
    /// [`SetupError::Ping`] with every mistake in the targets; [`SetupError::PingNotPermitted`].
    pub fn ping(mut self, targets: &[PingConfig]) -> Result<Self, SetupError> {
        self.io.ping = match targets {
            [] => None,
            _ => Some(Box::new(PingIo::open(self.io.clock.now(), targets, &self.io.registry)?)),
        };
        Ok(self)
    }

    /// The addresses that the sockets have, path by path: with the ports that the system chose.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn local_addresses(&self) -> Result<Vec<SocketAddr>, SetupError> {
        let addresses = self.io.sockets.iter().map(PathSocket::local_address).collect::<Result<_, _>>();
        addresses.map_err(SetupError::system("cannot read the address of a socket"))
    }

    /// The clock that the reactor will use.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.io.clock
    }

    /// Uses `clock` instead of an own one, so that the instants of several nodes in one process are comparable.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.io.clock = clock;
        self
    }

    /// A way into the reactor for other threads, to be given to [`Reactor::new`](super::Reactor::new).
    #[must_use]
    pub fn inbox<C>(&self) -> (Remote<C>, Inbox<C>) {
        inbox(Arc::clone(&self.wake))
    }
}
