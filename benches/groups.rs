//! Ordered messages between three nodes over loopback, held against a program without a protocol and against corosync.
//!
//! `cargo bench --bench groups`, with `-- --json` one object per line, with `-- --quick` shorter. The nodes are whole
//! `ocf` nodes in one process, each on a thread of its own with sockets of its own, encrypted; the application uses
//! them from other threads. Corosync runs as it does by default, in namespaces, when it is installed and this is root.
//! JGroups runs over loopback when it is installed, and three nodes as processes in namespaces on links of 1 Gb/s if this is root.
//! Goals: V-1 to V-9. `--only V-6`, `V-7` and `V-8/memory` measure one of those that need processes of their own.
#![expect(clippy::wildcard_enum_match_arm, reason = "what a measurement does not expect it passes over")]

mod ordered;
mod programs;
mod support;

use bytes::Bytes;
use ocf::{Application, Cluster, ClusterBuilder, Detection, Here, Node, NodeEvent, Numbered};
use ocf_comm::crypto::Protection;
use ocf_groups::{Event, Guarantee, SendError};
use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use support::corosync::{Corosync, Setup};
use support::{
    Figure, Goal, Measure, Options, Report, Samples, group_nodes, interleave, machine, plot, reference,
};

const GROUP: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(30);
const NODES: usize = 3;
const SMALL: usize = 64;
const KIB: usize = 1024;
const LARGE: usize = 64 * KIB;

fn main() -> ExitCode {
    if let Some(code) = programs::inside().or_else(group_nodes::inside) {
        return code;
    }
    // Corosync takes its time between measurements: fewer rounds keep a run short.
    let options = Options { full_rounds: 5, ..Options::from_args() };
    let mut report = Report::default();
    match options.only {
        Some(only @ ("V-6" | "V-7" | "V-8/memory")) => {
            let ping = || machine::on_one(|| reference::udp_ping_pong(SMALL, options.count(10_000)).median());
            report.judge_machine("U1", &Samples::new((0..5).map(|_| ping()).collect()));
            beside(options, only, None, &mut report);
        }
        _ => whole(options, &mut report),
    }
    report.print(options);
    ExitCode::SUCCESS
}

/// What runs in processes of its own, or one part of it.
fn beside(options: Options, part: &str, plain: Option<&Trio>, report: &mut Report) {
    // V-6 only if it is asked for: three virtual machines of Java take long on a busy machine.
    let wants = |one| part == one || part == "all" && one != "V-6";
    if wants("V-7") {
        ordered::on_links(options, report);
    }
    if wants("V-8/memory") {
        ordered::memory(options, report);
    }
    if wants("V-6") {
        match plain {
            Some(plain) => ordered::against_jgroups(options, plain, report),
            None => ordered::against_jgroups(
                options,
                &machine::on_two(|| Trio::form(without_encryption())),
                report,
            ),
        }
    }
}

fn whole(options: Options, report: &mut Report) {
    let time = options.time(Duration::from_millis(700));
    let count = options.count(5000);
    let one = machine::on_one(|| Trio::form(Cluster::builder("bench")));
    let two = machine::on_two(|| Trio::form(Cluster::builder("bench")));
    let residents = machine::on_one(Residents::form);
    let programs_beside = programs::Lab::form();
    let compare = |encrypted| match options.only {
        None => Corosync::start(Setup::usual(encrypted)),
        Some(only) => Err(format!("only {only} was asked for")),
    };
    let mut encrypted = compare(true);
    let rate = |size, senders| machine::on_two(|| two.rate(size, senders, time));
    let u2 = || machine::on_one(|| reference::two_hop_fan_out(SMALL, 2 * count).median());
    let mut measures: Vec<Measure<'_>> = vec![
        ("U2", Box::new(u2)),
        ("V-1", Box::new(|| machine::on_one(|| one.latency(Guarantee::Agreed, count).median()))),
        ("V-2", Box::new(|| machine::on_one(|| one.latency(Guarantee::Safe, count).median()))),
        ("V-1/hop", Box::new(|| machine::on_one(|| one.one_way(Guarantee::Agreed, count).median()))),
        ("V-1/fifo", Box::new(|| machine::on_one(|| one.one_way(Guarantee::Fifo, count).median()))),
        ("V-1/resident", Box::new(|| machine::on_one(|| residents.latency(count).median()))),
        ("V-1/two", Box::new(|| machine::on_two(|| two.latency(Guarantee::Agreed, count).median()))),
        ("V-3", Box::new(|| rate(SMALL, NODES))),
        ("V-3/one", Box::new(|| rate(SMALL, 1))),
        ("V-4", Box::new(|| rate(KIB, NODES))),
        ("V-4/one", Box::new(|| rate(KIB, 1))),
        ("V-5", Box::new(|| rate(LARGE, NODES))),
        ("V-5/one", Box::new(|| rate(LARGE, 1))),
        ("V-5/1M", Box::new(|| rate(16 * LARGE, NODES))),
        ("V-8", Box::new(|| machine::on_two(|| two.half_loaded(time)))),
    ];
    measures.extend(programs_beside.measures(count, time));
    let lab = encrypted.as_mut().ok().map(std::cell::RefCell::new);
    if let Some(lab) = &lab {
        measures.extend(corosync(options, time, lab));
    }
    let mut taken = interleave(options, measures);
    if let Err(why) = &encrypted {
        report.note(format!("not held against corosync: {why}"));
    }
    drop(encrypted);
    let plain = machine::on_two(|| Trio::form(without_encryption()));
    match compare(false) {
        Ok(lab) => taken.extend(beside_plain(options, time, &plain, lab)),
        Err(why) => report.note(format!("not held against corosync without encryption: {why}")),
    }
    if let Some(samples) = taken.get("U2") {
        report.judge_machine("U2", samples);
    }
    for figure in figures(&taken).into_iter().chain(programs::figures(&taken)) {
        report.add(figure);
    }
    report.note("medians of interleaved rounds; V-1 and V-2 on one processor, all else on two");
    report.note(
        "corosync as by default, at real-time priority; ours at the priority of this program (chrt -r 20)",
    );
    if options.only.is_none() {
        beside(options, "all", Some(&plain), report);
    }
    report.note(
        "V-1/local to V-5/local: through the local client API, a program of its own process beside each node; as corosync's with libcpg",
    );
    if options.plots() {
        plot(&two, &plain, report);
    }
}

/// The same of corosync.
fn corosync<'a>(
    options: Options,
    time: Duration,
    lab: &'a std::cell::RefCell<&mut Corosync>,
) -> Vec<Measure<'a>> {
    let (pings, seconds) = (options.count(1000), time.as_secs_f64());
    let failed = "corosync goes on once it runs";
    let rate = move |size, senders| lab.borrow_mut().rate(size, senders, seconds).expect(failed);
    vec![
        ("corosync V-1", Box::new(move || lab.borrow_mut().latency(SMALL, pings).expect(failed))),
        ("corosync V-3", Box::new(move || rate(SMALL, NODES))),
        ("corosync V-4", Box::new(move || rate(KIB, NODES))),
        ("corosync V-4/one", Box::new(move || rate(KIB, 1))),
        ("corosync V-5", Box::new(move || rate(LARGE, NODES))),
        ("corosync V-5/one", Box::new(move || rate(LARGE, 1))),
        // Corosync's largest message is 1 MiB with its own header.
        ("corosync V-5/1M", Box::new(move || rate(16 * LARGE - KIB, NODES))),
    ]
}

/// What is held against corosync without encryption.
fn beside_plain(options: Options, time: Duration, plain: &Trio, lab: Corosync) -> Taken {
    let single = machine::on_two(|| Trio::form(without_encryption().without_offload()));
    let lab = std::cell::RefCell::new(lab);
    let theirs_of = |size, senders| {
        let rate = lab.borrow_mut().rate(size, senders, time.as_secs_f64());
        rate.expect("corosync goes on once it runs")
    };
    let theirs = |size| theirs_of(size, NODES);
    let ours = |size| machine::on_two(|| plain.rate(size, NODES, time));
    interleave(
        options,
        vec![
            ("plain V-3", Box::new(|| theirs(SMALL))),
            ("plain V-4", Box::new(|| theirs(KIB))),
            ("plain V-4/one", Box::new(|| theirs_of(KIB, 1))),
            ("plain V-5", Box::new(|| theirs(LARGE))),
            ("V-3 beside plain", Box::new(|| ours(SMALL))),
            ("V-4 beside plain", Box::new(|| ours(KIB))),
            ("V-4/one beside plain", Box::new(|| machine::on_two(|| plain.rate(KIB, 1, time)))),
            ("V-5 beside plain", Box::new(|| ours(LARGE))),
            ("V-9", Box::new(|| machine::on_two(|| single.rate(KIB, NODES, time)))),
        ],
    )
}

type Taken = std::collections::BTreeMap<&'static str, Samples>;

fn figures(taken: &Taken) -> Vec<Figure> {
    let value = |name: &str| taken.get(name).map(Samples::median);
    let reference = |name: &'static str, show: &'static str| value(name).map(|value| (show, value));
    let corosync = "corosync aes256";
    let plain = "corosync plain";
    let (least, most) = (|bound| Some(Goal::AtLeast(bound)), |bound| Some(Goal::AtMost(bound)));
    let mut figures = Vec::new();
    let mut add = |id, what, name: &str, unit, against, goal| {
        if let Some(value) = value(name) {
            figures.push(Figure { id, what, value, unit, against, goal });
        }
    };
    let agreed = "agreed, 64 B, to own delivery, application on the node";
    add("U2", "two-hop fan-out without protocol, 64 B", "U2", "us", None, None);
    add("V-1", agreed, "V-1/resident", "us", reference("U2", "U2"), most(1.4));
    let agreed = "the same, application on a thread of its own";
    add("V-1/threads", agreed, "V-1", "us", reference("U2", "U2"), None);
    let theirs = reference("corosync V-1", corosync);
    add("V-1/corosync", "the same, on two processors", "V-1/two", "us", theirs, most(0.25));
    add(
        "V-2",
        "safe, application on a thread of its own",
        "V-2",
        "us",
        reference("V-1", "V-1/threads"),
        most(1.6),
    );
    let ordered = reference("V-1/hop", "V-1/hop");
    add("V-1/hop", "agreed, 64 B, from the second node to the third", "V-1/hop", "us", None, None);
    add("V-1/fifo", "FIFO, 64 B, from the second node to the third", "V-1/fifo", "us", ordered, None);
    let theirs = reference("corosync V-3", corosync);
    add("V-3", "64 B, all send", "V-3", "msg/s", theirs, least(50.0));
    add("V-3/one", "64 B, one sends", "V-3/one", "msg/s", None, None);
    let theirs = reference("corosync V-4", corosync);
    add("V-4", "1 KiB, all send", "V-4", "msg/s", theirs, least(20.0));
    let theirs = reference("corosync V-4/one", corosync);
    add("V-4/one", "1 KiB, one sends", "V-4/one", "msg/s", theirs, least(20.0));
    let theirs = reference("plain V-3", plain);
    add("V-3/plain", "64 B, all send, plain", "V-3 beside plain", "msg/s", theirs, least(50.0));
    let theirs = reference("plain V-4", plain);
    add("V-4/plain", "1 KiB, all send, plain", "V-4 beside plain", "msg/s", theirs, least(20.0));
    let theirs = reference("plain V-4/one", plain);
    add("V-4/plain one", "1 KiB, one sends, plain", "V-4/one beside plain", "msg/s", theirs, least(20.0));
    let theirs = reference("corosync V-5/one", corosync);
    add("V-5/one", "64 KiB, one sends", "V-5/one", "msg/s", theirs, least(10.0));
    let theirs = reference("corosync V-5", corosync);
    add("V-5", "64 KiB, all send", "V-5", "msg/s", theirs, least(10.0));
    let theirs = reference("plain V-5", plain);
    add("V-5/plain", "64 KiB, all send, plain", "V-5 beside plain", "msg/s", theirs, least(10.0));
    let theirs = reference("corosync V-5/1M", corosync);
    add("V-5/1M", "1 MiB, all send", "V-5/1M", "msg/s", theirs, least(8.0));
    let idle = reference("V-1/two", "V-1/corosync");
    add("V-8", "64 B, p99 at half of the largest load", "V-8", "us", idle, most(10.0));
    let theirs = reference("plain V-4", plain);
    add("V-9", "1 KiB, all send, plain, without offload", "V-9", "msg/s", theirs, least(2.0));
    figures
}

fn without_encryption() -> ClusterBuilder {
    let plain = |config: &mut ocf::stack::StackConfig| config.comm.protection = Protection::Plain;
    Cluster::builder("bench").equip(move |node| node.tune(plain))
}

/// Latency against load, and throughput against size.
fn plot(encrypted: &Trio, plain: &Trio, report: &mut Report) {
    let time = Duration::from_millis(400);
    let most = machine::on_two(|| encrypted.rate(SMALL, NODES, time));
    let (mut median, mut tail) = (Vec::new(), Vec::new());
    for share in [0.01, 0.05, 0.1, 0.25, 0.5, 0.75] {
        let samples = machine::on_two(|| encrypted.paced(most * share, time));
        median.push((most * share, samples.percentile(0.5)));
        tail.push((most * share, samples.percentile(0.99)));
    }
    let axes = plot::Axes {
        title: "Ordered messages of 64 B: latency to own delivery against load",
        x: "messages per second, all nodes",
        y: "us",
    };
    report.note(plot::draw("groups-latency", &axes, &[("median", median), ("99 %", tail)]));
    let over = |trio: &Trio| -> Vec<(f64, f64)> {
        let sizes = [64, 256, KIB, 4 * KIB, 16 * KIB, LARGE];
        let point = |size| (plot::number(size), machine::on_two(|| trio.rate(size, NODES, time)));
        sizes.into_iter().map(point).map(|(size, rate)| (size, rate * size / 1e6)).collect()
    };
    let axes = plot::Axes {
        title: "Ordered messages, three senders: throughput against size",
        x: "message, bytes",
        y: "MB/s at each node",
    };
    report.note(plot::draw(
        "groups-throughput",
        &axes,
        &[("encrypted", over(encrypted)), ("plain", over(plain))],
    ));
}

/// Three nodes with one member each in one group.
struct Trio {
    cluster: Cluster,
    /// Node indices, the sequencer first.
    order: Vec<usize>,
}

impl Trio {
    fn form(builder: ClusterBuilder) -> Self {
        let cluster = builder.detection(Detection::Cloud).local(3).expect("nodes on loopback");
        for node in cluster.running() {
            node.join(GROUP, 0).expect("a new group");
        }
        thread::scope(|scope| {
            for node in cluster.running() {
                scope.spawn(|| until_formed(node));
            }
        });
        let view = cluster.node(0).and_then(Node::view).expect("a formed cluster has a view");
        let index = |node: &Node| view.members.iter().position(|member| member.instance == node.local());
        let mut order: Vec<usize> = (0..NODES).collect();
        order.sort_by_key(|i| cluster.node(*i).and_then(index));
        Self { cluster, order }
    }

    /// Nodes by seniority: the first one gives the places in the order.
    fn nodes(&self) -> [&Node; NODES] {
        std::array::from_fn(|i| self.cluster.node(self.order[i]).expect("it runs"))
    }

    /// Time from sending to own delivery, one message at a time, at the second node.
    fn latency(&self, guarantee: Guarantee, count: usize) -> Samples {
        let [sequencer, sender, other] = self.nodes();
        let payload = Bytes::from(vec![1; SMALL]);
        let is_message = |event: &NodeEvent| matches!(event, NodeEvent::Group(Event::Message { .. }));
        thread::scope(|scope| {
            for node in [sequencer, other] {
                // All of them, so that none is left for the next measurement.
                scope.spawn(move || (0..count / 10 + count).for_each(|_| until(node, is_message)));
            }
            let round = || {
                let start = Instant::now();
                sender.send(GROUP, 0, guarantee, payload.clone()).expect("an empty window");
                until(sender, is_message);
                start.elapsed()
            };
            for _ in 0..count / 10 {
                round();
            }
            Samples::micros((0..count).map(|_| round()))
        })
    }

    /// Time from sending at the second node to delivery at the third, one message at a time.
    fn one_way(&self, guarantee: Guarantee, count: usize) -> Samples {
        let [sequencer, sender, other] = self.nodes();
        let payload = Bytes::from(vec![1; SMALL]);
        let is_data =
            |event: &NodeEvent| matches!(event, NodeEvent::Group(Event::Message { .. } | Event::Fifo { .. }));
        let rounds = count / 10 + count;
        let (told, heard) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || (0..rounds).for_each(|_| until(sequencer, is_data)));
            scope.spawn(move || {
                for _ in 0..rounds {
                    until(other, is_data);
                    told.send(Instant::now()).expect("the measurement goes on");
                }
            });
            let round = |_| {
                let start = Instant::now();
                sender.send(GROUP, 0, guarantee, payload.clone()).expect("an empty window");
                until(sender, is_data);
                heard.recv().expect("the other node delivers").duration_since(start)
            };
            Samples::micros((0..rounds).map(round).skip(count / 10).collect::<Vec<_>>())
        })
    }

    /// Time from sending to own delivery, at all nodes, while they send so many messages per second together, each at
    /// its own steady pace.
    fn paced(&self, rate: f64, time: Duration) -> Samples {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let pause = Duration::from_secs_f64(NODES as f64 / rate);
        let base = Instant::now();
        let sent = AtomicU64::new(0);
        let left = AtomicU64::new(NODES as u64);
        let samples: Vec<Duration> = thread::scope(|scope| {
            let pace = |node| Pace { node, base, pause, time, sent: &sent, left: &left };
            let members = self.nodes().map(pace).map(|member| scope.spawn(move || member.run()));
            members.into_iter().flat_map(|member| member.join().expect("a member of the group")).collect()
        });
        Samples::micros(samples)
    }

    /// 99 % of the messages are back within this many microseconds at half of the largest load.
    fn half_loaded(&self, time: Duration) -> f64 {
        let most = self.rate(SMALL, NODES, time / 2);
        self.paced(most / 2.0, time).percentile(0.99)
    }

    /// What the nodes counted so far, to find out where time goes.
    #[expect(clippy::print_stderr, reason = "a bench prints its figures")]
    fn print_counters(&self) {
        for node in self.nodes() {
            let counters = node.snapshot().map(|snapshot| snapshot.counters).unwrap_or_default();
            let told: Vec<String> =
                counters.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
            eprintln!("{}: {}", node.local(), told.join(", "));
        }
    }

    /// Messages per second that the slowest node delivers while the first so many of them, from the most junior on,
    /// send as much as they may. Checks at the end that all delivered the same in the same order.
    fn rate(&self, size: usize, senders: usize, time: Duration) -> f64 {
        let nodes = self.nodes();
        let stop = AtomicBool::new(false);
        let left = AtomicU64::new(senders as u64);
        let (sent, delivered): (AtomicU64, [AtomicU64; NODES]) = Default::default();
        let payload = Bytes::from(vec![7; size]);
        let counts = || -> Vec<u64> { delivered.iter().map(|count| count.load(Ordering::Relaxed)).collect() };
        thread::scope(|scope| {
            let mut members = Vec::new();
            for (index, node) in nodes.into_iter().enumerate() {
                let payload = (index >= NODES - senders).then(|| payload.clone());
                let member = Traffic {
                    node,
                    payload,
                    stop: &stop,
                    left: &left,
                    sent: &sent,
                    count: &delivered[index],
                };
                members.push(scope.spawn(move || member.run()));
            }
            thread::sleep(time / 5);
            let (start, before) = (Instant::now(), counts());
            thread::sleep(time);
            let (elapsed, after) = (start.elapsed(), counts());
            stop.store(true, Ordering::Relaxed);
            let digests: Vec<u64> =
                members.into_iter().map(|member| member.join().expect("a member of the group")).collect();
            assert!(digests.iter().all(|digest| *digest == digests[0]), "one order at all nodes");
            if std::env::var_os("OCF_BENCH_COUNTERS").is_some() {
                self.print_counters();
            }
            let slowest = after.iter().zip(before).map(|(after, before)| after - before).min();
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53 messages")]
            let slowest = slowest.unwrap_or_default() as f64;
            slowest / elapsed.as_secs_f64()
        })
    }
}

/// A member that lives on its node: sends the next message when the last one is back.
struct Pinger(Arc<Pings>);

/// What the members and the measurement share.
struct Pings {
    state: Mutex<PingState>,
    done: Condvar,
}

struct PingState {
    left: usize,
    sent: Instant,
    samples: Vec<Duration>,
}

impl Application for Pinger {
    fn on_event(&mut self, here: &mut Here<'_>, event: Numbered) {
        match event.event {
            NodeEvent::Group(Event::StateWanted { group, joiner, position }) => {
                // Another event may follow that asks for a later state.
                let _offered = here.offer_state(&group, joiner, position, Bytes::new());
            }
            NodeEvent::Group(Event::Message { sender, payload, .. })
                if sender.instance == here.local() && payload.len() == SMALL =>
            {
                let mut state = self.0.state.lock().expect("nobody panics");
                let taken = state.sent.elapsed();
                state.samples.push(taken);
                state.left -= 1;
                if state.left == 0 {
                    return self.0.done.notify_all();
                }
                state.sent = Instant::now();
                here.send(GROUP, 0, Guarantee::Agreed, payload).expect("an empty window");
            }
            _ => {}
        }
    }
}

/// Three nodes whose members live on them.
struct Residents {
    cluster: Cluster,
    pings: Arc<Pings>,
}

impl Residents {
    fn form() -> Self {
        let state = PingState { left: 0, sent: Instant::now(), samples: Vec::new() };
        let pings = Arc::new(Pings { state: Mutex::new(state), done: Condvar::new() });
        let shared = Arc::clone(&pings);
        let cluster = Cluster::builder("bench")
            .detection(Detection::Cloud)
            .equip(move |node| node.application(Pinger(Arc::clone(&shared))))
            .local(3)
            .expect("nodes on loopback");
        for node in cluster.running() {
            node.join(GROUP, 0).expect("a new group");
        }
        // Nobody tells when all have their state; by then they surely have.
        thread::sleep(Duration::from_secs(2));
        Self { cluster, pings }
    }

    /// As [`Trio::latency`], without a thread of an application.
    fn latency(&self, count: usize) -> Samples {
        let view = self.cluster.node(0).and_then(Node::view).expect("a formed cluster has a view");
        let second = view.members[1].instance;
        let sender = self.cluster.running().find(|node| node.local() == second).expect("it runs");
        let mut state = self.pings.state.lock().expect("nobody panics");
        *state = PingState { left: count, sent: Instant::now(), samples: Vec::new() };
        let payload = Bytes::from(vec![1; SMALL]);
        drop(state);
        sender.send(GROUP, 0, Guarantee::Agreed, payload).expect("a member with an empty window");
        let state = self.pings.state.lock().expect("nobody panics");
        let (mut state, late) = self
            .pings
            .done
            .wait_timeout_while(state, PATIENCE, |state| state.left > 0)
            .expect("nobody panics");
        assert!(!late.timed_out(), "{} messages are not back", state.left);
        Samples::micros(std::mem::take(&mut state.samples))
    }
}

/// One member that sends at a steady pace.
struct Pace<'a> {
    node: &'a Node,
    base: Instant,
    pause: Duration,
    time: Duration,
    sent: &'a AtomicU64,
    left: &'a AtomicU64,
}

impl Pace<'_> {
    /// Sends what is due, sleeps a little, and takes the time of each own message that is back.
    fn run(&self) -> Vec<Duration> {
        let (mut samples, mut events, mut delivered) = (Vec::new(), VecDeque::new(), 0);
        let (start, mut due) = (Instant::now(), Duration::ZERO);
        let mut sending = true;
        loop {
            while sending && due <= start.elapsed() {
                let mut payload = vec![0; SMALL];
                let stamp = u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX);
                payload[..8].copy_from_slice(&stamp.to_be_bytes());
                match self.node.send(GROUP, 0, Guarantee::Agreed, payload.into()) {
                    Ok(()) => self.sent.fetch_add(1, Ordering::SeqCst),
                    Err(ocf::RequestError::Refused(SendError::Full { .. })) => break,
                    Err(error) => panic!("a quiet cluster, yet {error}"),
                };
                due += self.pause;
            }
            if sending && start.elapsed() >= self.time {
                sending = false;
                self.left.fetch_sub(1, Ordering::SeqCst);
            }
            let done = self.left.load(Ordering::SeqCst) == 0 && delivered == self.sent.load(Ordering::SeqCst);
            assert!(start.elapsed() < PATIENCE, "everything sent is delivered: {delivered} so far");
            if done {
                return samples;
            }
            self.node.next_events(
                self.pause.clamp(Duration::from_micros(50), Duration::from_millis(1)),
                &mut events,
            );
            let now = self.base.elapsed();
            for event in events.drain(..) {
                if let NodeEvent::Group(Event::Message { sender, payload, .. }) = event.event {
                    delivered += 1;
                    if sender.instance == self.node.local()
                        && let Some(stamp) = payload.first_chunk::<8>()
                    {
                        samples.push(now.saturating_sub(Duration::from_nanos(u64::from_be_bytes(*stamp))));
                    }
                }
            }
        }
    }
}

/// One member under load.
struct Traffic<'a> {
    node: &'a Node,
    /// What to send, if this one sends.
    payload: Option<Bytes>,
    stop: &'a AtomicBool,
    /// Senders that have not stopped yet.
    left: &'a AtomicU64,
    /// What those that stopped have sent.
    sent: &'a AtomicU64,
    count: &'a AtomicU64,
}

impl Traffic<'_> {
    /// Sends until told to stop, delivers until everything that anyone sent is here, and returns a digest of the order.
    fn run(mut self) -> u64 {
        let (mut sent, mut full, mut delivered, mut digest) = (0, false, 0_u64, 0_u64);
        let deadline = Instant::now() + PATIENCE;
        let mut events = VecDeque::new();
        loop {
            if let Some(payload) = &self.payload {
                if self.stop.load(Ordering::Relaxed) {
                    self.sent.fetch_add(sent, Ordering::SeqCst);
                    self.left.fetch_sub(1, Ordering::SeqCst);
                    self.payload = None;
                } else {
                    // As many as a deliveries' worth of waiting allows: it takes turns with delivering.
                    for _ in 0..64 {
                        if full {
                            break;
                        }
                        match self.node.send(GROUP, 0, Guarantee::Agreed, payload.clone()) {
                            Ok(()) => sent += 1,
                            Err(ocf::RequestError::Refused(SendError::Full { .. })) => full = true,
                            Err(error) => panic!("a quiet cluster, yet {error}"),
                        }
                    }
                }
            }
            let all = self.left.load(Ordering::SeqCst) == 0 && delivered == self.sent.load(Ordering::SeqCst);
            if all {
                return digest;
            }
            assert!(Instant::now() < deadline, "everything sent is delivered: {delivered} so far");
            let sending = self.payload.is_some() && !full;
            let wait = if sending { Duration::ZERO } else { Duration::from_millis(5) };
            self.node.next_events(wait, &mut events);
            for event in events.drain(..) {
                match event.event {
                    NodeEvent::Group(Event::Message { sender, .. }) => {
                        delivered += 1;
                        digest =
                            (digest ^ u64::from(sender.instance.node.raw())).wrapping_mul(1_099_511_628_211);
                    }
                    NodeEvent::Group(Event::Writable) => full = false,
                    _ => {}
                }
            }
            self.count.store(delivered, Ordering::Relaxed);
        }
    }
}

/// Waits until the group has three members, with the state that a joiner needs.
fn until_formed(node: &Node) {
    let mut stated = 0;
    until(node, |event| {
        match event {
            NodeEvent::Group(Event::StateWanted { group, joiner, position }) => {
                // The other member may have answered already.
                let _offered = node.offer_state(group, *joiner, *position, Bytes::new());
            }
            NodeEvent::Group(Event::Membership { members, .. }) => stated = members.len(),
            _ => {}
        }
        stated == NODES
    });
    // A joiner's state may be on its way still, and wanted from here.
    while let Some(event) = node.next_event(Duration::from_millis(300)) {
        if let NodeEvent::Group(Event::StateWanted { group, joiner, position }) = event.event {
            let _offered = node.offer_state(&group, joiner, position, Bytes::new());
        }
    }
}

fn until(node: &Node, mut wanted: impl FnMut(&NodeEvent) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(event) = node.next_event(Duration::from_millis(50))
            && wanted(&event.event)
        {
            return;
        }
    }
    panic!("{} waited too long", node.local());
}
