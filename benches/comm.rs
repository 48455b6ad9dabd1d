//! Communication between two nodes over loopback, held against plain sockets and plain cryptography.
//!
//! `cargo bench --bench comm`, with `-- --json` one object per line, with `-- --quick` shorter and without plots. Goals:
//! C-1 to C-7, M-8 and S-1; `-- --only links` measures those from C-6 on, and what loss must not do. As root, parts of it run
//! in network namespaces of their own; corosync is held against where it is installed.
#![expect(clippy::wildcard_enum_match_arm, reason = "what a measurement does not expect ends it")]

mod links;
mod support;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use ocf_comm::crypto::{Protection, X25519};
use ocf_comm::driver::{Host, Io, IoConfig, Ports, Reactor, Running, UdpNode, entropy};
use ocf_comm::{
    Channel, Config, Endpoint, Event, Input, Lane, Output, PathId, PeerConfig, Preset, Received, Secrets,
    SendError, Transmit,
};
use pils::{Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{self, Duration};
use support::reference::{self, megabytes_per_second};
use support::{Figure, Goal, Options, Report, Samples, interleave, machine, plot};

const KEY: &[u8] = b"a key for measuring, 32 bytes or more";
const CHANNEL: Channel = Channel::APPLICATION;
const PATIENCE: Duration = Duration::from_secs(60);
/// Payload of the latency figures.
const SMALL: usize = 64;
/// Payload of the throughput figures.
const KIB: usize = 1024;

fn main() -> ExitCode {
    if let Some(code) = links::inside() {
        return code;
    }
    let options = Options::from_args();
    if options.only == Some("links") {
        links::alone(options);
        return ExitCode::SUCCESS;
    }
    let time = options.time(Duration::from_secs(1));
    let round_trips = options.count(10_000);
    let bytes = options.count(1 << 30);
    let stream = move |size, wire| machine::on_two(|| stream_on_the_reactor(size, bytes, wire));
    let ping = move |wire| machine::on_one(|| ping_on_the_reactor(round_trips, wire).median());
    let lossy = |percent| Wire { loss: percent, ..ENCRYPTED };
    let u1 = || machine::on_one(|| reference::udp_ping_pong(SMALL, round_trips).median());
    let on_threads = || machine::on_one(|| ping_between_threads(round_trips).median());
    let taken = interleave(
        options,
        vec![
            ("U1", Box::new(u1)),
            ("driver", Box::new(|| machine::on_one(|| ping_without_protocol(round_trips).median()))),
            ("C-1", Box::new(move || ping(ENCRYPTED))),
            ("C-1/plain", Box::new(move || ping(PLAIN))),
            ("C-1/threads", Box::new(on_threads)),
            ("U3", Box::new(|| machine::on_two(|| reference::udp_stream(KIB, time)))),
            ("A1", Box::new(|| machine::on_one(|| reference::seal_and_open(KIB, time / 2)))),
            ("TCP", Box::new(|| machine::on_two(|| reference::tcp_stream(time)))),
            ("C-2", Box::new(move || stream(KIB, PLAIN))),
            ("C-3", Box::new(move || stream(KIB, ENCRYPTED))),
            ("C-2/threads", Box::new(|| machine::on_two(|| stream_between_threads(KIB, bytes)))),
            ("C-4", Box::new(move || stream(64 * KIB, PLAIN))),
            ("C-4/encrypted", Box::new(move || stream(64 * KIB, ENCRYPTED))),
            ("C-5/1", Box::new(move || stream(KIB, lossy(1)))),
            (
                "C-5/10",
                Box::new(move || machine::on_two(|| stream_on_the_reactor(KIB, bytes / 16, lossy(10)))),
            ),
        ],
    );
    if options.only.is_some() {
        // The rounds were printed; there is nothing to hold against anything.
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    report.judge_machine("U1", &taken["U1"]);
    figures(&taken, &mut report);
    report.note("medians of interleaved rounds; C-1 on one processor, streams on two");
    report.note("C-5: each sender leaves out this share of its datagrams, in both directions");
    links::report(options, &mut report);
    if options.plots() {
        plot_goodput(&mut report);
    }
    report.print(options);
    ExitCode::SUCCESS
}

fn figures(taken: &BTreeMap<&'static str, Samples>, report: &mut Report) {
    let median = |name: &str| taken[name].median();
    let (u1, u3, a1, tcp) = (median("U1"), median("U3"), median("A1"), median("TCP"));
    let pipeline = 1.0 / (1.0 / u3 + 1.0 / a1);
    let (plain, encrypted) = (median("C-2"), median("C-3"));
    let mut add = |id, what, value, unit, against, goal| {
        report.add(Figure { id, what, value, unit, against, goal });
    };
    add("U1", "UDP round trip 64 B, one processor", u1, "us", None, None);
    add("U3", "UDP stream 1 KiB, offload", u3, "MB/s", None, None);
    add("A1", "AES-256-GCM seal and open 1 KiB", a1, "MB/s", None, None);
    add("TCP", "TCP stream", tcp, "MB/s", None, None);
    let at_least = |bound| Some(Goal::AtLeast(bound));
    let at_most = |bound| Some(Goal::AtMost(bound));
    let ping = "round trip 64 B, encrypted, application on the reactor";
    let driver = "the reactor's part: no protocol, no encryption";
    add("C-1/driver", driver, median("driver"), "us", Some(("U1", u1)), None);
    add("C-1", ping, median("C-1"), "us", Some(("U1", u1)), at_most(1.5));
    add("C-1/plain", "the same, plain", median("C-1/plain"), "us", Some(("U1", u1)), at_most(1.3));
    let ping = "encrypted, application on threads of its own";
    add("C-1/threads", ping, median("C-1/threads"), "us", Some(("U1", u1)), None);
    add("C-2", "goodput 1 KiB, plain", plain, "MB/s", Some(("U3", u3)), at_least(0.4));
    let threads = "encrypted, application on threads of its own";
    add("C-2/threads", threads, median("C-2/threads"), "MB/s", Some(("U3", u3)), None);
    let pipe = Some(("1/(1/U3+1/A1)", pipeline));
    add("C-3", "goodput 1 KiB, encrypted", encrypted, "MB/s", pipe, at_least(0.6));
    let beside = Some(("C-2", plain));
    add("C-3/plain", "the same, against plain", encrypted, "MB/s", beside, at_least(0.5));
    add("C-4", "goodput 64 KiB, plain", median("C-4"), "MB/s", Some(("TCP", tcp)), at_least(1.0));
    let large = "goodput 64 KiB, encrypted";
    add("C-4/encrypted", large, median("C-4/encrypted"), "MB/s", Some(("TCP", tcp)), None);
    let lossless = Some(("C-3", encrypted));
    add("C-5/1", "1 % loss both ways", median("C-5/1"), "MB/s", lossless, at_least(0.7));
    add("C-5/10", "10 % loss both ways", median("C-5/10"), "MB/s", lossless, None);
}

/// Goodput against message size.
fn plot_goodput(report: &mut Report) {
    let time = Duration::from_millis(300);
    let sizes = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB];
    let over = |measure: &(dyn Fn(usize) -> f64 + Sync)| -> Vec<(f64, f64)> {
        sizes.into_iter().map(|size| (plot::number(size), machine::on_two(|| measure(size)))).collect()
    };
    let ours = |size: usize, wire| {
        let bytes = (size * 400_000).clamp(32 << 20, 256 << 20);
        stream_on_the_reactor(size, bytes, wire)
    };
    let lines = vec![
        ("UDP, offload, datagrams up to 1400 B", over(&|size| reference::udp_stream(size.min(1400), time))),
        ("TCP, writes of this size", over(&|size| reference::tcp_stream_of(size, time))),
        ("circuit, plain", over(&|size| ours(size, PLAIN))),
        ("circuit, encrypted", over(&|size| ours(size, ENCRYPTED))),
    ];
    let axes = plot::Axes { title: "Goodput against message size", x: "message, bytes", y: "MB/s" };
    report.note(plot::draw("comm-goodput", &axes, &lines));
}

/// What happens to packets between the nodes of a measurement.
#[derive(Clone, Copy)]
struct Wire {
    protection: Protection,
    /// Per cent of the datagrams that are left out.
    loss: u64,
    /// Packets after which a session derives its next key, if not as by default.
    rekey: Option<u64>,
}

const ENCRYPTED: Wire = Wire { protection: Protection::Encrypt, loss: 0, rekey: None };
const PLAIN: Wire = Wire { protection: Protection::Plain, loss: 0, rekey: None };

/// What an application does on a reactor.
trait Application: Send + 'static {
    fn on(&mut self, event: Event, endpoint: &mut Endpoint, now: Instant);
    /// Called when all events of a turn are handled.
    fn turn(&mut self, _endpoint: &mut Endpoint, _now: Instant) {}
}

/// Runs an application on the reactor's thread.
struct OnReactor<A> {
    application: A,
    events: VecDeque<Event>,
    loss: u64,
    random: Rng,
}

impl<A> OnReactor<A> {
    /// Sends a burst without the datagrams that get lost.
    fn transmit(&mut self, transmit: Transmit, io: &mut Io) {
        let Transmit { path, to, segment, data } = transmit;
        if self.loss == 0 {
            return io.transmit(Transmit { path, to, segment, data });
        }
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
    type Command = ();

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

    fn command(&mut self, _endpoint: &mut Endpoint, _now: Instant, (): ()) {}

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

fn ports() -> (Ports, SocketAddr) {
    let config = IoConfig::new(["127.0.0.1:0".parse().expect("an address")]);
    let ports = Ports::bind(&config).expect("a free port on loopback");
    let address = ports.local_addresses().expect("a bound socket has an address")[0];
    (ports, address)
}

fn config(peer: u32, address: SocketAddr) -> Config {
    let mut config = Config::new("bench", Preset::Cloud);
    config.peers.push(PeerConfig { node: NodeId::new(peer), addresses: vec![(PathId(0), address)] });
    config
}

fn run<A: Application>(
    (ports, id): (Ports, u32),
    (peer, address): (u32, SocketAddr),
    wire: Wire,
    application: A,
) -> Running<Endpoint, OnReactor<A>> {
    let local = NodeInstance::new(NodeId::new(id), entropy::incarnation());
    let secrets = Secrets { keys: KEY.into(), seed: entropy::bytes(), agreement: Box::new(X25519::new()) };
    let config =
        Config { protection: wire.protection, rekey_after_packets: wire.rekey, ..config(peer, address) };
    let endpoint = Endpoint::new(ports.clock().now(), config, local, secrets);
    let (_, inbox) = ports.inbox();
    let random = Rng::new(u64::from(id));
    let host = OnReactor { application, events: VecDeque::new(), loss: wire.loss, random };
    let reactor = Reactor::new(ports, inbox, endpoint.expect("a good configuration"), host);
    reactor.spawn(&format!("bench-{id}")).expect("a thread")
}

/// Runs two applications against each other until one of them reports.
fn between<A: Application, B: Application, R>(
    (a, b): (A, B),
    wire: Wire,
    report: &crossbeam_channel::Receiver<R>,
) -> R {
    let ((a_ports, a_address), (b_ports, b_address)) = (ports(), ports());
    let _b = run((b_ports, 2), (1, a_address), wire, b);
    let _a = run((a_ports, 1), (2, b_address), wire, a);
    report.recv_timeout(PATIENCE).expect("the measurement ends")
}

/// A layer without a protocol: sends back what it gets, and counts.
struct Bounce {
    to_send: Option<Transmit>,
    sent: time::Instant,
    left: usize,
    samples: Vec<Duration>,
}

impl Bounce {
    fn new(count: usize, first: Option<SocketAddr>) -> Self {
        let to_send = first.map(|to| Transmit { path: PathId(0), to, segment: SMALL, data: vec![1; SMALL] });
        Self { to_send, sent: time::Instant::now(), left: count, samples: Vec::new() }
    }
}

impl Layer for Bounce {
    type Input<'a> = Received<'a>;
    type Output = Transmit;

    fn handle(&mut self, _now: Instant, received: Received<'_>) {
        let Received { path, from: to, segment, data } = received;
        self.samples.push(self.sent.elapsed());
        self.left = self.left.saturating_sub(1);
        self.sent = time::Instant::now();
        self.to_send = Some(Transmit { path, to, segment, data: data.to_vec() });
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_output(&mut self) -> Option<Transmit> {
        self.to_send.take()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

struct Plain(Option<Sender<Vec<Duration>>>);

impl Host<Bounce> for Plain {
    type Command = ();

    fn input<'a>(&mut self, received: Received<'a>) -> Received<'a> {
        received
    }

    fn carry_out(&mut self, _now: Instant, transmit: Transmit, io: &mut Io) {
        io.transmit(transmit);
    }

    fn command(&mut self, _layer: &mut Bounce, _now: Instant, (): ()) {}

    fn settled(&mut self, layer: &mut Bounce, _now: Instant) -> bool {
        if layer.left == 0
            && let Some(report) = self.0.take()
        {
            report.send(std::mem::take(&mut layer.samples)).expect("someone waits for it");
        }
        false
    }
}

fn ping_without_protocol(count: usize) -> Samples {
    let (report, reports) = bounded(1);
    let ((a, _), (b, address)) = (ports(), ports());
    let (b_inbox, a_inbox) = (b.inbox().1, a.inbox().1);
    let start = |ports, inbox, layer, host| Reactor::new(ports, inbox, layer, host).spawn("bench");
    let _b = start(b, b_inbox, Bounce::new(usize::MAX, None), Plain(None)).expect("a thread");
    let _a = start(a, a_inbox, Bounce::new(count, Some(address)), Plain(Some(report))).expect("a thread");
    Samples::micros(reports.recv_timeout(PATIENCE).expect("the measurement ends"))
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

struct Echo;

impl Application for Echo {
    fn on(&mut self, event: Event, endpoint: &mut Endpoint, now: Instant) {
        if let Event::Message { from, lane, channel, message } = event {
            endpoint.consumed(now, from, lane, message.len());
            endpoint.send(now, from, lane, channel, message).expect("one message fits");
        }
    }
}

fn ping_on_the_reactor(count: usize, wire: Wire) -> Samples {
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
struct Sink {
    skip: usize,
    left: usize,
    total: usize,
    started: time::Instant,
    report: Sender<f64>,
}

impl Sink {
    fn new(total: usize, report: Sender<f64>) -> Self {
        Self { skip: total / 10, left: total, total, started: time::Instant::now(), report }
    }

    fn count(&mut self, bytes: usize) {
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

fn stream_on_the_reactor(size: usize, total: usize, wire: Wire) -> f64 {
    let (report, reports) = bounded(1);
    let source = Source { message: vec![7; size].into(), to: None };
    between((source, Sink::new(total, report)), wire, &reports)
}

fn two_nodes() -> (UdpNode, UdpNode) {
    let ((a_ports, a_address), (b_ports, b_address)) = (ports(), ports());
    let start = |ports, id, config| {
        UdpNode::start(ports, NodeId::new(id), config, KEY).expect("a good configuration")
    };
    let (a, b) = (start(a_ports, 1, config(2, b_address)), start(b_ports, 2, config(1, a_address)));
    for node in [&a, &b] {
        let up = node.recv_timeout(PATIENCE).expect("nodes on loopback meet");
        assert!(matches!(up, Event::Up { .. }), "{up:?}");
    }
    (a, b)
}

fn ping_between_threads(count: usize) -> Samples {
    let (a, b) = two_nodes();
    let (to, message) = (b.local(), Bytes::from(vec![1; SMALL]));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Ends when the other node leaves.
            while let Ok(event) = b.recv_timeout(PATIENCE) {
                match event {
                    Event::Message { from, lane, channel, message } => {
                        b.consumed(from, lane, message.len());
                        b.send(from, lane, channel, message).expect("one message fits");
                    }
                    Event::Down { .. } => break,
                    _ => {}
                }
            }
        });
        let round = || {
            let start = time::Instant::now();
            a.send(to, Lane::Small, CHANNEL, message.clone()).expect("one message fits");
            loop {
                let event = a.recv_timeout(PATIENCE).expect("an answer");
                let Event::Message { from, lane, message, .. } = event else { continue };
                a.consumed(from, lane, message.len());
                return start.elapsed();
            }
        };
        for _ in 0..count / 10 {
            round();
        }
        let samples = Samples::micros((0..count).map(|_| round()));
        a.leave();
        samples
    })
}

fn stream_between_threads(size: usize, total: usize) -> f64 {
    let (a, b) = two_nodes();
    let (to, message) = (b.local(), Bytes::from(vec![7; size]));
    let (report, reports) = bounded(1);
    std::thread::scope(|scope| {
        let sending = a.clone();
        scope.spawn(move || {
            loop {
                match sending.send(to, Lane::Small, CHANNEL, message.clone()) {
                    Ok(()) => {}
                    Err(SendError::Full { .. }) => match sending.recv_timeout(PATIENCE) {
                        Ok(Event::Down { .. }) | Err(_) => break,
                        Ok(_) => {}
                    },
                    Err(_) => break,
                }
            }
        });
        scope.spawn(move || {
            let mut sink = Sink::new(total, report);
            while let Ok(event) = b.recv_timeout(PATIENCE) {
                let Event::Message { from, lane, message, .. } = event else { continue };
                b.consumed(from, lane, message.len());
                sink.count(message.len());
                if sink.left == 0 {
                    break;
                }
            }
        });
        let rate = reports.recv_timeout(PATIENCE).expect("the measurement ends");
        a.abandon();
        rate
    })
}
