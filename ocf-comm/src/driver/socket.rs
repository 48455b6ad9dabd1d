use super::{IoConfig, IoStats, SetupError};
use crate::{PathId, Received, Transmit};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use quinn_udp::{RecvMeta, UdpSocketState, is_msg_size_err};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;

/// Buffers given to the kernel in one read.
pub(crate) const BATCH: usize = 16;
/// Size of one buffer: the largest thing the kernel joins.
pub(crate) const BUFFER: usize = 1 << 16;
/// Largest UDP payload over IPv4.
const PAYLOAD_MAX: usize = 65_507;

/// The socket of one path, with what waits to be sent on it.
#[derive(Debug)]
pub(crate) struct PathSocket {
    path: PathId,
    socket: UdpSocket,
    state: UdpSocketState,
    offload: bool,
    /// What the kernel did not take yet, and how much of the first it took.
    waiting: VecDeque<Transmit>,
    waiting_bytes: usize,
    sent_of_first: usize,
    waiting_max: usize,
    /// The kernel said that there may be something to read.
    pub(crate) readable: bool,
    /// The last datagram that the kernel refused as too large: where it was to go, and its size.
    pub(crate) too_large: Option<(SocketAddr, usize)>,
}

/// What became of one attempt to send.
enum Sent {
    /// Taken by the kernel, or dropped for good.
    Done,
    /// The kernel's buffer is full after this many bytes.
    Blocked(usize),
}

impl PathSocket {
    pub(crate) fn bind(
        path: PathId,
        address: SocketAddr,
        config: &IoConfig,
        registry: &Registry,
    ) -> Result<Self, SetupError> {
        let socket =
            Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))
                .map_err(SetupError::system("cannot make a udp socket"))?;
        if address.is_ipv6() {
            socket.set_only_v6(true).map_err(SetupError::system("cannot make an ipv6 socket"))?;
        }
        grow_buffers(&socket, config).map_err(SetupError::system("cannot size the socket buffers"))?;
        socket.bind(&address.into()).map_err(|e| SetupError::bind(address, e))?;
        let mut socket = UdpSocket::from_std(socket.into());
        let state = UdpSocketState::new((&socket).into())
            .map_err(SetupError::system("cannot set the options of a udp socket"))?;
        // Nobody here reads the type of service of received packets, and reporting it costs time on each.
        let options = SockRef::from(&socket);
        let quiet = if address.is_ipv4() {
            options.set_recv_tos_v4(false)
        } else {
            options.set_recv_tclass_v6(false)
        };
        quiet.map_err(SetupError::system("cannot set the options of a udp socket"))?;
        registry
            .register(&mut socket, Self::token(path), Interest::READABLE)
            .map_err(SetupError::system("cannot watch a udp socket"))?;
        Ok(Self {
            path,
            socket,
            state,
            offload: config.offload,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent_of_first: 0,
            waiting_max: config.send_queue_bytes_max,
            readable: true,
            too_large: None,
        })
    }

    pub(crate) fn token(path: PathId) -> Token {
        Token(usize::from(path.0))
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// True if bursts leave in one system call.
    pub(crate) fn offloads(&self) -> bool {
        self.offload && self.state.max_gso_segments() > 1
    }

    /// Reads up to [`BATCH`] buffers and hands each to `take`. Returns how many; clears `readable` at the end.
    pub(crate) fn receive(
        &mut self,
        buffer: &mut [u8],
        stats: &mut IoStats,
        mut take: impl FnMut(Received<'_>),
    ) -> usize {
        let mut chunks = buffer.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|_| {
            IoSliceMut::new(chunks.next().expect("the read buffer is BATCH times BUFFER long"))
        });
        let mut metas = [RecvMeta::default(); BATCH];
        let count = match self.state.recv((&self.socket).into(), &mut slices, &mut metas) {
            Ok(count) => count,
            Err(error) => {
                // An error report of an earlier packet ends up here too; the next read goes on after it.
                if error.kind() == ErrorKind::WouldBlock {
                    self.readable = false;
                } else {
                    stats.receive_errors += 1;
                }
                return 0;
            }
        };
        // A short batch means that the queue was empty; what comes later rings again.
        self.readable = count == BATCH;
        for (slice, meta) in slices.iter_mut().zip(&metas).take(count) {
            let segment = meta.stride.clamp(1, meta.len.max(1));
            stats.reads += 1;
            stats.datagrams_in += meta.len.div_ceil(segment).max(1) as u64;
            stats.bytes_in += meta.len as u64;
            take(Received { path: self.path, from: meta.addr, segment, data: &mut slice[..meta.len] });
        }
        count
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
                Sent::Done => return spent.push(transmit.data),
                Sent::Blocked(sent) => {
                    self.sent_of_first = sent;
                    self.watch(registry, Interest::READABLE | Interest::WRITABLE);
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

    /// The kernel has room again: sends what waits.
    pub(crate) fn flush(&mut self, registry: &Registry, stats: &mut IoStats, spent: &mut Vec<Vec<u8>>) {
        if self.waiting.is_empty() {
            return;
        }
        while let Some(first) = self.waiting.pop_front() {
            match self.attempt(&first, self.sent_of_first, stats) {
                Sent::Done => {
                    self.waiting_bytes -= first.data.len();
                    self.sent_of_first = 0;
                    spent.push(first.data);
                }
                Sent::Blocked(sent) => {
                    self.sent_of_first = sent;
                    self.waiting.push_front(first);
                    return;
                }
            }
        }
        // Watching for room while none is needed would wake the reactor after every packet.
        self.watch(registry, Interest::READABLE);
    }

    fn watch(&mut self, registry: &Registry, interest: Interest) {
        registry
            .reregister(&mut self.socket, Self::token(self.path), interest)
            .expect("a registered socket can be registered again");
    }

    /// Sends the datagrams from offset `from` on, in as few calls as the kernel allows.
    fn attempt(&mut self, transmit: &Transmit, mut from: usize, stats: &mut IoStats) -> Sent {
        let segment = transmit.segment.clamp(1, PAYLOAD_MAX);
        let mut joined = if self.offload { usize::MAX } else { 1 };
        while from < transmit.data.len() {
            let count = joined.min(self.state.max_gso_segments()).min(PAYLOAD_MAX / segment).max(1);
            let end = transmit.data.len().min(from + count * segment);
            let datagrams = (end - from).div_ceil(segment);
            let contents = &transmit.data[from..end];
            let sent = if datagrams > 1 {
                let segment_size = Some(segment);
                let part = quinn_udp::Transmit {
                    destination: transmit.to,
                    ecn: None,
                    contents,
                    segment_size,
                    src_ip: None,
                };
                self.state.try_send((&self.socket).into(), &part)
            } else {
                // Cheaper, and keeps the type of service that somebody set on the socket.
                self.socket.send_to(contents, transmit.to).map(|_all| ())
            };
            match sent {
                Ok(()) => {
                    stats.sends += 1;
                    stats.datagrams_out += datagrams as u64;
                    stats.bytes_out += (end - from) as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Blocked(from),
                Err(error) if datagrams > 1 => {
                    // The kernel or the card refuses bursts, or some of this one: go on with one at a time.
                    tracing::debug!(%error, to = %transmit.to, datagrams, "burst refused, sending singly");
                    stats.bursts_refused += 1;
                    joined = 1;
                    continue;
                }
                Err(error) => {
                    if is_msg_size_err(&error) {
                        stats.too_large += 1;
                        self.too_large = Some((transmit.to, end - from));
                    } else {
                        stats.send_errors += 1;
                    }
                    tracing::trace!(%error, to = %transmit.to, "datagram not sent");
                }
            }
            from = end;
        }
        Sent::Done
    }
}

/// Asks for large buffers; beyond the system's limit where this process may, else as far as the limit goes.
fn grow_buffers(socket: &Socket, config: &IoConfig) -> io::Result<()> {
    use rustix::net::sockopt;
    if sockopt::set_socket_recv_buffer_size_force(socket, config.receive_buffer).is_err() {
        socket.set_recv_buffer_size(config.receive_buffer)?;
    }
    if sockopt::set_socket_send_buffer_size_force(socket, config.send_buffer).is_err() {
        socket.set_send_buffer_size(config.send_buffer)?;
    }
    Ok(())
}
