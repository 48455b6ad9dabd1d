//! Communication between two nodes over loopback, held against plain sockets and plain cryptography.
//!
//! `cargo bench --bench comm`, with `-- --json` one object per line, with `-- --quick` shorter and without plots. Goals:
//! C-1 to C-7, M-8 and S-1; `-- --only links` measures those from C-6 on, and what loss must not do; `lossy`, `cut`, `shaped`,
//! `idle` and `keys` are its parts. As root, parts of it run in network namespaces of their own; corosync is held against
//! where it is installed.
#![expect(clippy::wildcard_enum_match_arm, reason = "what a measurement does not expect ends it")]

mod links;
mod support;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use ocf_comm::driver::{Host, Io, Reactor, UdpNode};
use ocf_comm::{Event, Lane, PathId, Received, SendError, Transmit};
use pils::{Instant, Layer, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{self, Duration};
use support::circuit::{
    CHANNEL, ENCRYPTED, KEY, PATIENCE, PLAIN, SMALL, Sink, Wire, config, ping_over, ports, stream_over,
};
use support::reference;
use support::{Figure, Goal, Options, Report, Samples, interleave, machine, plot};

/// Payload of the throughput figures.
const KIB: usize = 1024;

fn main() -> ExitCode {
    if let Some(code) = links::inside() {
        return code;
    }
    let options = Options::from_args();
    if options.only.is_some_and(|only| links::NAMES.contains(&only)) {
        links::alone(options);
        return ExitCode::SUCCESS;
    }
    let time = options.time(Duration::from_secs(1));
    let round_trips = options.count(10_000);
    let bytes = options.count(1 << 30);
    let stream = move |size, wire| machine::on_two(|| stream_over(size, bytes, wire));
    let ping = move |wire| machine::on_one(|| ping_over(round_trips, wire).median());
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
            ("C-5/10", Box::new(move || machine::on_two(|| stream_over(KIB, bytes / 16, lossy(10))))),
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
        stream_over(size, bytes, wire)
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

fn two_nodes() -> (UdpNode, UdpNode) {
    let ((a_ports, a_address), (b_ports, b_address)) = (ports(), ports());
    let start = |ports, id, config| {
        UdpNode::start(ports, NodeId::new(id), config, KEY).expect("a good configuration")
    };
    let (a, b) = (start(a_ports, 1, config(&[(2, b_address)])), start(b_ports, 2, config(&[(1, a_address)])));
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
