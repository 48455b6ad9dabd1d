//! Two and more endpoints over loopback, each on a reactor with the application on its thread.
#![expect(clippy::wildcard_enum_match_arm, reason = "what a measurement does not expect ends it")]

use super::Samples;
use super::reference::megabytes_per_second;
use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use ocf_comm::crypto::Protection;
use ocf_comm::driver::{Agreement, Host, Io, IoConfig, Ports, Reactor, Remote, Running, entropy};
use ocf_comm::{
    Channel, Config, Endpoint, Event, Input, Lane, Output, PathId, PeerConfig, Preset, Received, Secrets,
    SendError, Transmit,
};
use pils::{Instant, NodeId, NodeInstance, Rng};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{self, Duration};

pub const KEY: &[u8] = b"a key for measuring, 32 bytes or more";
pub const CHANNEL: Channel = Channel::APPLICATION;
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Payload of the latency figures.
pub const SMALL: usize = 64;

/// What happens to packets between the nodes of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    pub protection: Protection,
    /// Per cent of the datagrams that are left out.
    pub loss: u64,
    /// Packets after which a session derives its next key, if not as by default.
    pub rekey: Option<u64>,
}

pub const ENCRYPTED: Wire = Wire { protection: Protection::Encrypt, loss: 0, rekey: None };
pub const PLAIN: Wire = Wire { protection: Protection::Plain, loss: 0, rekey: None };

/// What an application does on a reactor.
pub trait Application: Send + 'static {
    fn on(&mut self, event: Event, endpoint: &mut Endpoint, now: Instant);
    /// Called when all events of a turn are handled.
    fn turn(&mut self, _endpoint: &mut Endpoint, _now: Instant) {}
}

/// Something that the application is to do on its reactor's thread.
pub type Order<A> = Box<dyn FnOnce(&mut A, &mut Endpoint, Instant) + Send>;

/// Runs an application on the reactor's thread.
pub struct OnReactor<A> {
    pub application: A,
    events: VecDeque<Event>,
    loss: u64,
    random: Rng,
}

impl<A> OnReactor<A> {
    /// Sends a burst without the datagrams that get lost.
    fn transmit(&mut self, transmit: Transmit, io: &mut Io) {
        if self.loss == 0 {
            return io.transmit(transmit);
        }
        let Transmit { path, to, segment, data } = transmit;
        let mut piece = Vec::new();
        for datagram in data.chunks(segment) {
            if self.random.below(100) >= self.loss {
                piece.extend_from_slice(datagram);
            } else if !piece.is_empty() {
                io.transmit(Transmit { path, to, segment, data: std::mem::take(&mut piece) });
            }
        }
        if !piece.is_empty() {
            io.transmit(Transmit { path, to, segment, data: piece });
        }
    }
}

impl<A: Application> Host<Endpoint> for OnReactor<A> {
    type Command = Order<A>;

    fn input<'a>(&mut self, received: Received<'a>) -> Input<'a> {
        Input::Received(received)
    }

    fn carry_out(&mut self, _now: Instant, output: Output, io: &mut Io) {
        match output {
            Output::Transmit(transmit) => self.transmit(transmit, io),
            Output::Event(event) => self.events.push_back(event),
            _ => {}
        }
    }

    fn command(&mut self, endpoint: &mut Endpoint, now: Instant, order: Order<A>) {
        order(&mut self.application, endpoint, now);
    }

    fn answer(&mut self, endpoint: &mut Endpoint, now: Instant) {
        while let Some(event) = self.events.pop_front().or_else(|| endpoint.poll_event()) {
            self.application.on(event, endpoint, now);
        }
        self.application.turn(endpoint, now);
    }

    fn settled(&mut self, _endpoint: &mut Endpoint, _now: Instant) -> bool {
        // Another round for events that came up while packets were built.
        !self.events.is_empty()
    }

    fn recycle(&mut self, endpoint: &mut Endpoint, buffer: Vec<u8>) {
        endpoint.recycle(buffer);
    }
}

pub fn ports() -> (Ports, SocketAddr) {
    let config = IoConfig::new(["127.0.0.1:0".parse().expect("an address")]);
    let ports = Ports::bind(&config).expect("a free port on loopback");
    let address = ports.local_addresses().expect("a bound socket has an address")[0];
    (ports, address)
}

pub fn config(peers: &[(u32, SocketAddr)]) -> Config {
    let mut config = Config::new("bench", Preset::Cloud);
    config.peers.extend(peers.iter().map(|(peer, address)| PeerConfig {
        node: NodeId::new(*peer),
        addresses: vec![(PathId(0), *address)],
    }));
    config
}

/// A node on a reactor of its own, and a way to give it orders.
pub struct Started<A: Application> {
    pub local: NodeInstance,
    pub remote: Remote<Order<A>>,
    pub running: Running<Endpoint, OnReactor<A>>,
}

impl<A: Application> Started<A> {
    pub fn order(&self, order: impl FnOnce(&mut A, &mut Endpoint, Instant) + Send + 'static) {
        assert!(self.remote.post(Box::new(order)).is_ok(), "the node runs");
    }

    /// Ends without a word to anybody.
    pub fn kill(self) {
        drop(self.running);
    }
}

/// Starts a node on encrypted circuits. `application` is made from who it is.
pub fn run<A: Application>(
    node: (Ports, u32),
    peers: &[(u32, SocketAddr)],
    application: impl FnOnce(NodeInstance) -> A,
) -> Started<A> {
    run_over(ENCRYPTED, node, peers, application)
}

/// Starts a node. `application` is made from who it is.
pub fn run_over<A: Application>(
    wire: Wire,
    (ports, id): (Ports, u32),
    peers: &[(u32, SocketAddr)],
    application: impl FnOnce(NodeInstance) -> A,
) -> Started<A> {
    let local = NodeInstance::new(NodeId::new(id), entropy::incarnation());
    let secrets =
        Secrets { keys: KEY.into(), seed: entropy::bytes(), agreement: Box::new(Agreement::start()) };
    let config = Config { protection: wire.protection, rekey_after_packets: wire.rekey, ..config(peers) };
    let endpoint = Endpoint::new(ports.clock().now(), config, local, secrets);
    let (remote, inbox) = ports.inbox();
    let random = Rng::new(u64::from(id));
    let host =
        OnReactor { application: application(local), events: VecDeque::new(), loss: wire.loss, random };
    let reactor = Reactor::new(ports, inbox, endpoint.expect("a good configuration"), host);
    let running = reactor.spawn(&format!("bench-{id}")).expect("a thread");
    Started { local, remote, running }
}

/// Runs two applications against each other until one of them reports.
pub fn between<A: Application, B: Application, R>(
    (a, b): (A, B),
    wire: Wire,
    report: &crossbeam_channel::Receiver<R>,
) -> R {
    let ((a_ports, a_address), (b_ports, b_address)) = (ports(), ports());
    let _b = run_over(wire, (b_ports, 2), &[(1, a_address)], |_| b);
    let _a = run_over(wire, (a_ports, 1), &[(2, b_address)], |_| a);
    report.recv_timeout(PATIENCE).expect("the measurement ends")
}

struct Pinger {
    message: Bytes,
    sent: time::Instant,
    left: usize,
    warm_up: usize,
    samples: Vec<Duration>,
    report: Sender<Vec<Duration>>,
}

impl Pinger {
    fn send(&mut self, to: NodeInstance, endpoint: &mut Endpoint, now: Instant) {
        self.sent = time::Instant::now();
        endpoint.send(now, to, Lane::Small, CHANNEL, self.message.clone()).expect("one message fits");
    }
}

impl Application for Pinger {
    fn on(&mut self, event: Event, endpoint: &mut Endpoint, now: Instant) {
        match event {
            Event::Up { peer } => self.send(peer, endpoint, now),
            Event::Message { from, lane, message, .. } => {
                if self.warm_up > 0 {
                    self.warm_up -= 1;
                } else {
                    self.samples.push(self.sent.elapsed());
                    self.left -= 1;
                }
                endpoint.consumed(now, from, lane, message.len());
                if self.left > 0 {
                    self.send(from, endpoint, now);
                } else {
                    self.report.send(std::mem::take(&mut self.samples)).expect("someone waits for it");
                }
            }
            Event::PathUp { .. } | Event::PathDoubtful { .. } | Event::Stalled { .. } => {}
            other => panic!("a quiet loopback, yet {other:?}"),
        }
    }
}

/// Sends every message back.
pub struct Echo;

impl Application for Echo {
    fn on(&mut self, event: Event, endpoint: &mut Endpoint, now: Instant) {
        if let Event::Message { from, lane, channel, message } = event {
            endpoint.consumed(now, from, lane, message.len());
            endpoint.send(now, from, lane, channel, message).expect("one message fits");
        }
    }
}

/// Round trips over an encrypted circuit, in microseconds.
pub fn ping_on_the_reactor(count: usize) -> Samples {
    ping_over(count, ENCRYPTED)
}

/// Round trips over a circuit, in microseconds.
pub fn ping_over(count: usize, wire: Wire) -> Samples {
    let (report, reports) = bounded(1);
    let message = Bytes::from(vec![1; SMALL]);
    let (sent, samples) = (time::Instant::now(), Vec::with_capacity(count));
    let pinger = Pinger { message, sent, left: count, warm_up: count / 10, samples, report };
    Samples::micros(between((pinger, Echo), wire, &reports))
}

/// Sends as much as the endpoint takes.
struct Source {
    message: Bytes,
    to: Option<NodeInstance>,
}

impl Application for Source {
    fn on(&mut self, event: Event, _endpoint: &mut Endpoint, _now: Instant) {
        match event {
            Event::Up { peer } => self.to = Some(peer),
            // Where packets get lost, or the machine is slow, a path may look doubtful for a moment.
            Event::Writable { .. }
            | Event::PathUp { .. }
            | Event::PathDoubtful { .. }
            | Event::Stalled { .. } => {}
            other => panic!("a quiet loopback, yet {other:?}"),
        }
    }

    fn turn(&mut self, endpoint: &mut Endpoint, now: Instant) {
        let Some(to) = self.to else { return };
        loop {
            match endpoint.send(now, to, Lane::Small, CHANNEL, self.message.clone()) {
                Ok(()) => {}
                Err(SendError::Full { .. }) => return,
                Err(error) => panic!("a quiet loopback, yet {error}"),
            }
        }
    }
}

/// Counts what arrives and reports the rate at the end.
pub struct Sink {
    skip: usize,
    pub left: usize,
    total: usize,
    started: time::Instant,
    report: Sender<f64>,
}

impl Sink {
    pub fn new(total: usize, report: Sender<f64>) -> Self {
        Self { skip: total / 10, ..Self::from_the_first(total, report) }
    }

    /// Takes the time from the first arrival: what waits anywhere then cannot make the rate look better than it is.
    pub fn from_the_first(total: usize, report: Sender<f64>) -> Self {
        Self { skip: 1, left: total, total, started: time::Instant::now(), report }
    }

    pub fn count(&mut self, bytes: usize) {
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(bytes);
            self.started = time::Instant::now();
            return;
        }
        if self.left > 0 {
            self.left = self.left.saturating_sub(bytes);
            if self.left == 0 {
                let rate = megabytes_per_second(self.total, self.started.elapsed());
                self.report.send(rate).expect("someone waits for it");
            }
        }
    }
}

impl Application for Sink {
    fn on(&mut self, event: Event, endpoint: &mut Endpoint, now: Instant) {
        if let Event::Message { from, lane, message, .. } = event {
            endpoint.consumed(now, from, lane, message.len());
            self.count(message.len());
        }
    }
}

/// Goodput over an encrypted circuit, in MB/s.
pub fn stream_on_the_reactor(size: usize, total: usize) -> f64 {
    stream_over(size, total, ENCRYPTED)
}

/// Goodput over a circuit, in MB/s.
pub fn stream_over(size: usize, total: usize, wire: Wire) -> f64 {
    stream_into(size, wire, |report| Sink::new(total, report))
}

/// What a sink of its own measures.
pub fn stream_into(size: usize, wire: Wire, sink: impl FnOnce(Sender<f64>) -> Sink) -> f64 {
    let (report, reports) = bounded(1);
    let source = Source { message: vec![7; size].into(), to: None };
    between((source, sink(report)), wire, &reports)
}
