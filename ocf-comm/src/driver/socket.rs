use super::{IoConfig, IoStats, MediumStatus, SetupError};
use crate::medium::{Burst, Interfaces, Limits, Medium, PIECE, PIECES, Refresh, Sent};
use crate::{PathId, Received, Transmit};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

/// Buffers given to the kernel in one read.
pub(crate) const BATCH: usize = PIECES;
/// Size of one buffer: the largest thing the kernel joins.
pub(crate) const BUFFER: usize = PIECE;

/// The medium of one path, with what waits to be sent on it.
#[derive(Debug)]
pub(crate) struct PathSocket {
    path: PathId,
    medium: Box<dyn Medium>,
    limits: Limits,
    /// What the medium did not take yet, and how much of the first it took.
    waiting: VecDeque<Transmit>,
    waiting_bytes: usize,
    sent_of_first: usize,
    waiting_max: usize,
    /// The medium keeps something of what it took, or something waits: watch for room.
    watching: bool,
    /// There may be something to read.
    pub(crate) readable: bool,
    /// The last datagram that the kernel refused as too large: where it was to go, and its size.
    pub(crate) too_large: Option<(SocketAddr, usize)>,
}

impl PathSocket {
    pub(crate) fn open(
        path: PathId,
        medium: Box<dyn Medium>,
        config: &IoConfig,
        registry: &Registry,
    ) -> Result<Self, SetupError> {
        let limits = medium.limits();
        let waiting_max = limits.queue_max.unwrap_or(usize::MAX).min(config.send_queue_bytes_max);
        registry
            .register(&mut SourceFd(&medium.fd().as_raw_fd()), Self::token(path), Interest::READABLE)
            .map_err(SetupError::system("cannot watch a medium"))?;
        Ok(Self {
            path,
            medium,
            limits,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent_of_first: 0,
            waiting_max,
            watching: false,
            readable: true,
            too_large: None,
        })
    }

    pub(crate) fn token(path: PathId) -> Token {
        Token(usize::from(path.0))
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.medium.local()
    }

    /// True if bursts leave in one system call.
    pub(crate) fn offloads(&self) -> bool {
        self.limits.bursts && self.medium.limits().bursts
    }

    pub(crate) fn status(&self, path: PathId) -> MediumStatus {
        MediumStatus {
            path,
            name: self.medium.name(),
            address: self.medium.local().ok(),
            was: None,
            link: self.medium.link(),
            limits: self.limits,
        }
    }

    /// Reads up to [`BATCH`] buffers and hands each to `take`. Returns how many; clears `readable` at the end.
    pub(crate) fn receive(
        &mut self,
        buffer: &mut [u8],
        stats: &mut IoStats,
        mut take: impl FnMut(Received<'_>),
    ) -> usize {
        let path = self.path;
        let (mut reads, mut datagrams, mut bytes) = (0, 0, 0);
        let reading = self.medium.receive(buffer, stats, &mut |arrival| {
            let segment = arrival.segment.max(1);
            reads += 1;
            datagrams += arrival.data.len().div_ceil(segment).max(1) as u64;
            bytes += arrival.data.len() as u64;
            take(Received { path, from: arrival.from, segment, data: arrival.data });
        });
        stats.reads += reads;
        stats.datagrams_in += datagrams;
        stats.bytes_in += bytes;
        self.readable = reading.more;
        reading.arrivals
    }

    /// Sends `transmit` now if nothing waits before it, or queues it. Gives the buffer back when it is done with.
    pub(crate) fn send(
        &mut self,
        transmit: Transmit,
        registry: &Registry,
        stats: &mut IoStats,
        spent: &mut Vec<Vec<u8>>,
    ) {
        if self.waiting.is_empty() {
            match self.attempt(&transmit, 0, stats) {
                Sent::All => return spent.push(transmit.data),
                Sent::Blocked(sent) => {
                    self.watch(registry, true);
                    if sent >= transmit.data.len() {
                        return spent.push(transmit.data);
                    }
                    self.sent_of_first = sent;
                }
            }
        }
        self.waiting_bytes += transmit.data.len();
        self.waiting.push_back(transmit);
        while self.waiting_bytes > self.waiting_max
            && let Some(oldest) = self.waiting.pop_front()
        {
            stats.dropped_full += oldest.data.len().div_ceil(oldest.segment.max(1)) as u64;
            self.waiting_bytes -= oldest.data.len();
            self.sent_of_first = 0;
            spent.push(oldest.data);
        }
    }

    /// See [`Medium::refused`].
    pub(crate) fn refused(&mut self) -> Option<SocketAddr> {
        self.medium.refused()
    }

    /// The medium has room again: sends what waits.
    pub(crate) fn flush(&mut self, registry: &Registry, stats: &mut IoStats, spent: &mut Vec<Vec<u8>>) {
        if !self.watching || !self.medium.flush() {
            return;
        }
        while let Some(first) = self.waiting.pop_front() {
            match self.attempt(&first, self.sent_of_first, stats) {
                Sent::Blocked(sent) if sent < first.data.len() => {
                    self.sent_of_first = sent;
                    self.waiting.push_front(first);
                    return;
                }
                taken => {
                    self.waiting_bytes -= first.data.len();
                    self.sent_of_first = 0;
                    spent.push(first.data);
                    if taken != Sent::All {
                        return;
                    }
                }
            }
        }
        // Watching for room while none is needed would wake the reactor after every packet.
        self.watch(registry, false);
    }

    fn watch(&mut self, registry: &Registry, writable: bool) {
        if self.watching != writable {
            self.watching = writable;
            let interest =
                if writable { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            registry
                .reregister(&mut SourceFd(&self.medium.fd().as_raw_fd()), Self::token(self.path), interest)
                .expect("a registered medium can be registered again");
        }
    }

    /// Hands the datagrams from offset `from` on to the medium. What `Blocked` counts is from the start of `transmit`.
    fn attempt(&mut self, transmit: &Transmit, from: usize, stats: &mut IoStats) -> Sent {
        let Some(data) = transmit.data.get(from..).filter(|data| !data.is_empty()) else { return Sent::All };
        let burst = Burst { to: transmit.to, segment: transmit.segment.max(1), data };
        let before = stats.too_large;
        let sent = self.medium.send(burst, stats);
        if stats.too_large > before {
            self.too_large = Some((transmit.to, burst.segment.min(data.len())));
        }
        match sent {
            Sent::All => Sent::All,
            Sent::Blocked(taken) => Sent::Blocked(from + taken),
        }
    }

    /// The interfaces are these now. True if the address or the state of the link is another one.
    pub(crate) fn refresh(&mut self, interfaces: &Interfaces, registry: &Registry) -> bool {
        let before = (self.medium.local().ok(), self.medium.link());
        if self.medium.refresh(interfaces) == Refresh::Reopened {
            tracing::info!(path = self.path.0, medium = self.medium.name(), "bound again");
            // Closing the old descriptor took it out of the event queue.
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.watching = true;
            if let Err(error) = registry.register(
                &mut SourceFd(&self.medium.fd().as_raw_fd()),
                Self::token(self.path),
                interest,
            ) {
                tracing::error!(%error, "cannot watch the medium");
            }
            self.limits = self.medium.limits();
            self.readable = true;
        }
        before != (self.medium.local().ok(), self.medium.link())
    }
}
