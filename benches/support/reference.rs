//! Programs without a protocol, for comparison: what the machine gives to somebody who promises nothing.

use super::Samples;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LOOPBACK: &str = "127.0.0.1:0";
const PATIENCE: Duration = Duration::from_millis(200);

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(LOOPBACK).expect("a free port on loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket has an address")
}

/// U1: round trips of `size` bytes between two threads with blocking UDP sockets, in microseconds.
pub fn udp_ping_pong(size: usize, count: usize) -> Samples {
    let (a, b) = (socket(), socket());
    a.connect(address(&b)).expect("loopback");
    b.connect(address(&a)).expect("loopback");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 2048];
            while !done.load(Ordering::Relaxed) {
                if let Ok(n) = b.recv(&mut buffer) {
                    b.send(&buffer[..n]).expect("loopback takes a datagram");
                }
            }
        });
        let message = vec![1; size];
        let mut buffer = vec![0; 2048];
        let mut round = || {
            let start = Instant::now();
            a.send(&message).expect("loopback takes a datagram");
            a.recv(&mut buffer).ok().map(|_| start.elapsed())
        };
        for _ in 0..count / 10 {
            round();
        }
        let samples = Samples::micros((0..count).filter_map(|_| round()));
        done.store(true, Ordering::Relaxed);
        samples
    })
}

/// U2: a message of `size` bytes from node 1 to nodes 0 and 2, and a stamp from node 0 to nodes 1 and 2: the time
/// until the sender has the stamp, in microseconds. Three threads with blocking sockets.
pub fn two_hop_fan_out(size: usize, count: usize) -> Samples {
    let sockets = [socket(), socket(), socket()];
    let [stamper, sender, other] = &sockets;
    let to: [SocketAddr; 3] = [address(stamper), address(sender), address(other)];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 2048];
            while !done.load(Ordering::Relaxed) {
                if stamper.recv(&mut buffer).is_ok() {
                    for to in &to[1..] {
                        stamper.send_to(&buffer[..16], to).expect("loopback takes a datagram");
                    }
                }
            }
        });
        scope.spawn(|| {
            let mut buffer = vec![0; 2048];
            while !done.load(Ordering::Relaxed) {
                // The message and the stamp; a timeout only looks at the flag.
                if other.recv(&mut buffer).is_err() {
                    continue;
                }
            }
        });
        let message = vec![1; size.max(16)];
        let mut buffer = vec![0; 2048];
        let mut round = || {
            let start = Instant::now();
            sender.send_to(&message, to[0]).expect("loopback takes a datagram");
            sender.send_to(&message, to[2]).expect("loopback takes a datagram");
            sender.recv(&mut buffer).ok().map(|_| start.elapsed())
        };
        for _ in 0..count / 10 {
            round();
        }
        let samples = Samples::micros((0..count).filter_map(|_| round()));
        done.store(true, Ordering::Relaxed);
        samples
    })
}

/// A socket with segmentation offload.
struct Offload {
    socket: UdpSocket,
    state: UdpSocketState,
}

const BATCH: usize = 16;
const BUFFER: usize = 1 << 16;

impl Offload {
    fn new() -> Self {
        let socket = socket();
        // As much as this process may have.
        let _unprivileged = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20);
        let _unprivileged = rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, 4 << 20);
        let state = UdpSocketState::new((&socket).into()).expect("offload can be asked for");
        Self { socket, state }
    }

    fn wait(&self, flags: PollFlags) {
        let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let _ready_or_late = poll(&mut [PollFd::new(&self.socket, flags)], Some(&patience));
    }

    /// Sends datagrams of `segment` bytes in one call. False if the kernel has no room.
    fn send(&self, to: SocketAddr, segment: usize, contents: &[u8]) -> bool {
        let segment_size = (contents.len() > segment).then_some(segment);
        let burst = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
        match self.state.try_send((&self.socket).into(), &burst) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("a burst on loopback: {error}"),
        }
    }

    /// Bytes received in one call; zero if there is nothing.
    fn receive(&self, buffer: &mut [u8]) -> usize {
        let mut chunks = buffer.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().expect("BATCH buffers")));
        let mut metas = [RecvMeta::default(); BATCH];
        match self.state.recv((&self.socket).into(), &mut slices, &mut metas) {
            Ok(count) => metas[..count].iter().map(|meta| meta.len).sum(),
            Err(_) => 0,
        }
    }
}

/// U3: one thread sends bursts of `segment`-byte datagrams, one receives: megabytes (10^6) received per second.
/// What is lost on the way does not count.
pub fn udp_stream(segment: usize, time: Duration) -> f64 {
    let (a, b) = (Offload::new(), Offload::new());
    let to = address(&b.socket);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let count = a.state.max_gso_segments().min(65_507 / segment).max(1);
            let burst = vec![7; count * segment];
            while !done.load(Ordering::Relaxed) {
                if !a.send(to, segment, &burst) {
                    a.wait(PollFlags::OUT);
                }
            }
        });
        let mut buffer = vec![0; BATCH * BUFFER];
        let mut run = |time: Duration| {
            let (start, mut bytes) = (Instant::now(), 0);
            while start.elapsed() < time {
                match b.receive(&mut buffer) {
                    0 => b.wait(PollFlags::IN),
                    more => bytes += more,
                }
            }
            megabytes_per_second(bytes, start.elapsed())
        };
        run(time / 10);
        let rate = run(time);
        done.store(true, Ordering::Relaxed);
        rate
    })
}

/// A1: one thread seals and opens `size` bytes at a time with AES-256-GCM: megabytes per second through both.
pub fn seal_and_open(size: usize, time: Duration) -> f64 {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes are a key");
    let key = LessSafeKey::new(key);
    let mut packet = vec![3; size];
    let (start, mut bytes, mut number) = (Instant::now(), 0, 0_u64);
    while start.elapsed() < time {
        for _ in 0..64 {
            number += 1;
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&number.to_be_bytes());
            let nonce = || Nonce::assume_unique_for_key(nonce);
            key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut packet).expect("sealing works");
            key.open_in_place(nonce(), Aad::empty(), &mut packet).expect("what was sealed opens");
            packet.truncate(size);
            bytes += size;
        }
    }
    megabytes_per_second(bytes, start.elapsed())
}

/// A TCP stream over loopback with writes of 64 KiB: megabytes per second.
pub fn tcp_stream(time: Duration) -> f64 {
    tcp_stream_of(1 << 16, time)
}

/// A TCP stream over loopback with writes of `size` bytes: megabytes per second.
pub fn tcp_stream_of(size: usize, time: Duration) -> f64 {
    let listener = TcpListener::bind(LOOPBACK).expect("a free port on loopback");
    let to = listener.local_addr().expect("a bound socket has an address");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = TcpStream::connect(to).expect("loopback");
            let data = vec![7; size];
            while !done.load(Ordering::Relaxed) {
                if stream.write_all(&data).is_err() {
                    break;
                }
            }
        });
        let (mut stream, _) = listener.accept().expect("loopback");
        let mut buffer = vec![0; 1 << 18];
        let mut run = |time: Duration| {
            let (start, mut bytes) = (Instant::now(), 0);
            while start.elapsed() < time {
                bytes += stream.read(&mut buffer).expect("loopback");
            }
            megabytes_per_second(bytes, start.elapsed())
        };
        run(time / 10);
        let rate = run(time);
        done.store(true, Ordering::Relaxed);
        rate
    })
}

/// Megabytes (10^6 bytes) per second.
pub fn megabytes_per_second(bytes: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
    let bytes = bytes as f64;
    bytes / time.as_secs_f64() / 1e6
}
