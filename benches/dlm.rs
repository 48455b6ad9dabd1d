//! Locks: on one node against a mutex and against memory, between nodes against circuits and against etcd.
//!
//! `cargo bench --bench dlm`, with `-- --json` one object per line, with `-- --quick` shorter, with `-- --only NAME` one
//! measurement. Calls on one node go through the public interface: a client, a guard, and its drop. Between nodes D-3, D-4
//! and D-7 run lock managers on the reactors of encrypted endpoints, D-5 whole nodes and their public interface, too.
//! Goals: D-1 to D-8. D-5 needs etcd (Debian: etcd-server). Draws latencies by case, and the time of recoveries, unless quick.

mod lock_plots;
mod support;

use ocf_dlm::{Client, Config, Flags, LocalLocks, Lockspace, Mode, Terms, Wait};
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};
use support::circuit::{SMALL, ping_on_the_reactor, stream_on_the_reactor};
use support::lock_nodes::{self, Task, Three};
use support::{Figure, Goal, Measure, Options, Report, Samples, etcd, interleave, machine};

/// Resources of D-2 and D-6.
const MANY: u32 = 1_000_000;
/// Shards of D-8: so many that what two threads use is rarely in the same one.
const SHARDS_APART: usize = 4096;
/// A cache line, twice.
const NODE: usize = 192;

fn main() {
    let options = Options::from_args();
    let mut report = Report::default();
    if options.only == Some("D-7") {
        for figure in cluster_figures(&Taken::new(), &kill_one(options.count(MANY as usize))) {
            report.add(figure);
        }
        report.print(options);
        return;
    }
    let needs_etcd = options.only.is_none_or(|only| only == "D-5" || only.starts_with("etcd"));
    let etcd = if needs_etcd { etcd::Cluster::start() } else { Err("it was not asked for".to_owned()) };
    let mut measures = local(options);
    measures.extend(between_nodes(options));
    if let Ok(etcd) = &etcd {
        measures.extend(on_etcd(options, etcd));
    }
    let taken = interleave(options, measures);
    if options.only.is_some() {
        // The rounds were printed; there is nothing to hold against anything.
        return;
    }
    for reference in ["L1", "C-1"] {
        report.judge_machine(reference, &taken[reference]);
    }
    for figure in local_figures(&taken, bytes_for_each()) {
        report.add(figure);
    }
    for figure in cluster_figures(&taken, &kill_one(options.count(MANY as usize))) {
        report.add(figure);
    }
    if options.plots() {
        for line in lock_plots::draw() {
            report.note(line);
        }
    }
    report.note("medians of interleaved rounds; D-1 to D-3 on one processor, D-4, D-5, D-7 and D-8 on two");
    report.note(format!("D-8 with {SHARDS_APART} shards: with few, two threads change the same ones"));
    report.note("D-2 locks and unlocks one of 1 M resources that exist; L2 follows pointers through 1 M nodes of 192 B");
    report.note("D-7 is taken once; its view is given to the two that are left, so finding it is no part of the figures");
    if let Err(error) = &etcd {
        report.note(format!("no D-5: {error}"));
    }
    report.print(options);
}

type Taken = std::collections::BTreeMap<&'static str, Samples>;

fn space() -> Lockspace {
    space_of(Config::default().shards)
}

fn space_of(shards: usize) -> Lockspace {
    let config = Config { shards, ..Config::default() };
    LocalLocks::default().open("bench", config).expect("so many shards can be")
}

/// What one node does by itself.
fn local(options: Options) -> Vec<Measure<'static>> {
    let count = options.count(2_000_000);
    let time = options.time(Duration::from_millis(500));
    let mutex = parking_lot::Mutex::new(0_u64);
    let hot = space();
    let owner = hot.client().expect("one client");
    let crowd: &'static Crowd = Box::leak(Box::new(Crowd::new()));
    let chain = Chain::new();
    vec![
        ("L1", Box::new(move || machine::on_one(|| nanos_each(count, |_| *black_box(&mutex).lock() += 1)))),
        (
            "D-1",
            Box::new(move || {
                machine::on_one(|| {
                    nanos_each(count, |_| drop(owner.lock(black_box("hot"), Mode::Ex).expect("free")))
                })
            }),
        ),
        ("L2", Box::new(move || machine::on_one(|| chain.nanos_each(count)))),
        ("D-2", Box::new(move || machine::on_one(|| crowd.nanos_each(count)))),
        ("D-2/p50", Box::new(move || machine::on_one(|| crowd.percentile(count / 4, 0.5)))),
        ("D-2/p99", Box::new(move || machine::on_one(|| crowd.percentile(count / 4, 0.99)))),
        ("D-8/one", Box::new(move || machine::on_two(|| rate(&hot_pair(SHARDS_APART), 1, time)))),
        ("D-8", Box::new(move || machine::on_two(|| rate(&hot_pair(SHARDS_APART), 2, time)))),
        ("D-8/64", Box::new(move || machine::on_two(|| rate(&hot_pair(64), 2, time)))),
    ]
}

fn local_figures(taken: &Taken, bytes: f64) -> Vec<Figure> {
    let value = |name: &str| taken.get(name).map(Samples::median);
    let mut figures = Vec::new();
    let mut add = |id, what, unit, against: Option<(&'static str, f64)>, goal| {
        if let Some(value) = value(id) {
            figures.push(Figure { id, what, value, unit, against, goal });
        }
    };
    let reference = |name: &'static str| value(name).map(|value| (name, value));
    let most = |bound| Some(Goal::AtMost(bound));
    add("L1", "parking_lot mutex, lock and unlock", "ns", None, None);
    add("D-1", "hot lock in EX and unlock", "ns", reference("L1"), most(20.0));
    add("L2", "dependent random load", "ns", None, None);
    add("D-2", "one of 1 M resources, lock in EX and unlock", "ns", reference("L2"), most(5.0));
    add("D-2/p50", "the same, one by one, median", "ns", Some(("1 us", 1000.0)), most(1.0));
    add("D-2/p99", "the same, 99th percentile", "ns", Some(("3 us", 3000.0)), most(1.0));
    add("D-8/one", "one thread", "pair/s", None, None);
    add("D-8", "two threads, disjoint resources", "pair/s", reference("D-8/one"), Some(Goal::AtLeast(1.8)));
    add("D-8/64", "the same with 64 shards, the default", "pair/s", reference("D-8/one"), None);
    let what = "memory for a resource with one lock, 1 M of them";
    figures.push(Figure {
        id: "D-6",
        what,
        value: bytes,
        unit: "B",
        against: Some(("200 B", 200.0)),
        goal: most(1.0),
    });
    figures
}

/// What lock managers on endpoints do, and what the endpoints do by themselves.
fn between_nodes(options: Options) -> Vec<Measure<'static>> {
    let round_trips = options.count(10_000);
    let bytes = options.count(64 << 20);
    let pairs = options.count(500_000);
    vec![
        ("C-1", Box::new(move || machine::on_one(|| ping_on_the_reactor(round_trips).median()))),
        ("D-3", Box::new(move || machine::on_one(|| remote_lock(round_trips).median()))),
        ("D-3/first", Box::new(move || machine::on_one(|| first_use(round_trips).median()))),
        (
            "C-2/64",
            Box::new(move || machine::on_two(|| stream_on_the_reactor(SMALL, bytes) * 1e6 / SMALL as f64)),
        ),
        ("D-4", Box::new(move || machine::on_two(|| pipelined(pairs)))),
        ("D-5", Box::new(move || machine::on_two(|| public_interface(round_trips).median()))),
    ]
}

fn on_etcd(options: Options, etcd: &etcd::Cluster) -> Vec<Measure<'_>> {
    let locks = options.count(2000);
    let time = options.time(Duration::from_secs(2));
    let works = "the lock service of etcd works";
    let latency = move || {
        let mut client = etcd.client().expect(works);
        let timed = (0..locks).map(|_| {
            let started = Instant::now();
            let key = client.lock("one").expect(works);
            let taken = started.elapsed();
            client.unlock(&key).expect(works);
            taken
        });
        Samples::micros(timed.collect::<Vec<_>>()).median()
    };
    let rate = move || etcd.client().and_then(|mut client| client.rate(64, time)).expect(works);
    // The nodes run on every processor that this program may use.
    vec![("etcd", Box::new(latency)), ("etcd/rate", Box::new(rate))]
}

/// Latencies of a lock in EX that another node masters, which the asking one knows.
fn remote_lock(count: usize) -> Samples {
    let three = Three::start();
    let key = three.kept_by(0, "remote", 1);
    three.done(1, Task::Hold(key.clone(), Mode::Nl));
    three.samples(2, Task::OneByOne(key.clone(), count / 10));
    three.samples(2, Task::OneByOne(key, count))
}

/// Latencies of the first lock of each name: a second node lists its master, a third masters it.
fn first_use(count: usize) -> Samples {
    let three = Three::start();
    let keys = three.kept_by(0, "first", count);
    three.done(1, Task::Hold(keys.clone(), Mode::Nl));
    three.samples(2, Task::OneByOne(keys, count))
}

/// Latencies of a lock in EX that a third node holds each time, and gives back when it hears of it.
fn contended(count: usize) -> Samples {
    let three = Three::start();
    let key = three.kept_by(0, "wanted", 1).remove(0);
    three.done(1, Task::Hold(vec![key.clone()], Mode::Nl));
    three.done(0, Task::GiveWay(key.clone()));
    three.samples(2, Task::OneByOne(vec![key], count))
}

/// Pairs of lock and unlock in a second, many under way at once, all mastered elsewhere.
fn pipelined(pairs: usize) -> f64 {
    let three = Three::start();
    let keys = three.kept_by(0, "many", 1024);
    three.done(1, Task::Hold(keys.clone(), Mode::Nl));
    three.rate(2, Task::Pipelined(keys, pairs))
}

/// Latencies of a lock in EX through guards, from a thread of a whole node; another node masters it.
fn public_interface(count: usize) -> Samples {
    let config =
        ocf_dlm::cluster::Config { move_after: Duration::ZERO, ..ocf_dlm::cluster::Config::default() };
    let cluster = ocf::Cluster::builder("bench").equip(move |node| node.locks(config.clone()));
    let cluster = cluster.local(3).expect("three nodes on loopback");
    let locks: Vec<_> = cluster.running().filter_map(ocf::Node::locks).collect();
    let patience = Wait::For(support::circuit::PATIENCE);
    let take =
        |at: usize, mode| locks[at].lock("bench", "one", mode, patience).expect("nobody is in the way");
    let master = take(1, Mode::Nl);
    let timed = (0..count + count / 10).map(|_| {
        let started = Instant::now();
        let guard = take(2, Mode::Ex);
        let taken = started.elapsed();
        drop(guard);
        taken
    });
    let samples = Samples::micros(timed.skip(count / 10).collect::<Vec<_>>());
    drop(master);
    samples
}

/// What became of locks when one of three nodes died.
#[derive(Debug)]
struct Killed {
    /// Locks of the living on resources that it mastered.
    affected: u32,
    /// From the view until they could be used again, in milliseconds.
    recovery: f64,
    /// The longest that a lock took meanwhile that the view did not touch, in milliseconds.
    stall: f64,
}

/// Each node masters a third of `resources`; the one after it holds a lock on each. Then the last node dies.
fn kill_one(resources: usize) -> Killed {
    let third = resources / lock_nodes::NODES;
    machine::on_two(|| {
        let mut three = Three::start();
        let names = |at: usize| three.kept_by(at, "", third);
        let each = [names(2), names(0), names(1)];
        three.all(|at| Task::Hold(each[at].clone(), Mode::Nl));
        three.all(|at| Task::Hold(each[(at + 2) % 3].clone(), Mode::Pr));
        three.all(|_| Task::Release);
        let key = three.kept_by(0, "beside", 1).remove(0);
        three.done(1, Task::Hold(vec![key.clone()], Mode::Nl));
        three.tell(0, Task::Forever(key));
        thread::sleep(Duration::from_millis(200));
        let started = three.kill_the_last();
        let recovered =
            (0..2).map(|at| three.recovered(at).duration_since(started)).max().expect("two are left");
        let waits = three.samples(0, Task::Stop);
        Killed {
            affected: u32::try_from(third).expect("a million at most"),
            recovery: recovered.as_secs_f64() * 1e3,
            stall: waits.percentile(1.0) / 1e3,
        }
    })
}

fn cluster_figures(taken: &Taken, killed: &Killed) -> Vec<Figure> {
    let value = |name: &str| taken.get(name).map(Samples::median);
    let mut figures = Vec::new();
    let mut add = |id, what, unit, value: Option<f64>, against: Option<(&'static str, Option<f64>)>, goal| {
        let against = match against {
            None => None,
            Some((name, Some(value))) => Some((name, value)),
            // Not measured here: there is nothing to be said of the ratio.
            Some((_, None)) => return,
        };
        if let Some(value) = value {
            figures.push(Figure { id, what, value, unit, against, goal });
        }
    };
    let of = |name: &'static str| Some((name, value(name)));
    let most = |bound| Some(Goal::AtMost(bound));
    let least = |bound| Some(Goal::AtLeast(bound));
    add("C-1", "circuit round trip 64 B, encrypted", "us", value("C-1"), None, None);
    add("D-3", "remote lock in EX, master known", "us", value("D-3"), of("C-1"), most(1.3));
    add("D-3/first", "first use, a third node masters it", "us", value("D-3/first"), of("C-1"), most(1.8));
    add("C-2/64", "circuit messages of 64 B, encrypted", "1/s", value("C-2/64"), None, None);
    add("D-4", "pipelined remote lock and unlock", "pair/s", value("D-4"), of("C-2/64"), least(0.25));
    add("etcd", "lock of three etcd nodes, data in memory", "us", value("etcd"), None, None);
    add("D-5", "remote lock by guard, whole nodes", "us", value("D-5"), of("etcd"), most(0.05));
    add("D-5/reactor", "remote lock on the reactor (D-3)", "us", value("D-3"), of("etcd"), None);
    add("etcd/rate", "the same, 64 at a time, lock and unlock", "pair/s", value("etcd/rate"), None, None);
    add(
        "D-5/rate",
        "pipelined remote lock and unlock (D-4)",
        "pair/s",
        value("D-4"),
        of("etcd/rate"),
        least(100.0),
    );
    let bound = f64::from(killed.affected) / 1e3 + value("C-1").unwrap_or(0.0) * 20.0 / 1e3;
    let bound = Some(("1 us each + 20 RTT", Some(bound)));
    add("D-7", "locks of a dead master back", "ms", Some(killed.recovery), bound, most(1.0));
    let bound = Some(("5 ms", Some(5.0)));
    add("D-7/stall", "longest wait for a lock beside that", "ms", Some(killed.stall), bound, most(1.0));
    figures
}

fn nanos_each(count: usize, mut work: impl FnMut(usize)) -> f64 {
    let started = Instant::now();
    for at in 0..count {
        work(at);
    }
    per_item(started.elapsed(), count)
}

/// How long each of `count` calls takes.
fn timed(count: usize, mut work: impl FnMut()) -> Samples {
    let each = (0..count).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed()
    });
    Samples::micros(each.collect::<Vec<_>>())
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn per_item(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e9 / count as f64
}

fn name(number: u32) -> [u8; 16] {
    let mut name = *b"resource________";
    name[8..12].copy_from_slice(&number.to_be_bytes());
    name
}

/// 1 M resources, each with a lock in NL.
struct Crowd {
    client: Client,
    _keeper: Client,
}

impl Crowd {
    fn new() -> Self {
        let space = space();
        let keeper = fill(&space);
        Self { client: space.client().expect("two clients"), _keeper: keeper }
    }

    fn pair(&self, rng: &mut pils::Rng) {
        let number = u32::try_from(rng.below(u64::from(MANY))).expect("below 2^32");
        drop(self.client.lock(name(number), Mode::Ex).expect("only NL beside it"));
    }

    fn nanos_each(&self, count: usize) -> f64 {
        let mut rng = pils::Rng::new(7);
        nanos_each(count, |_| self.pair(&mut rng))
    }

    fn percentile(&self, count: usize, share: f64) -> f64 {
        self.samples(count).percentile(share) * 1000.0
    }

    fn samples(&self, count: usize) -> Samples {
        let mut rng = pils::Rng::new(8);
        timed(count, || self.pair(&mut rng))
    }
}

fn fill(space: &Lockspace) -> Client {
    let client = space.client().expect("a client");
    let terms = Terms::new(Mode::Nl).flags(Flags::SYNCSTS);
    for number in 0..MANY {
        client.enq(&name(number), None, u64::from(number), &terms).expect("room for a million");
    }
    client
}

/// Nodes that name each other in random order.
struct Chain(Vec<[u32; NODE / 4]>);

impl Chain {
    fn new() -> Self {
        let mut order: Vec<u32> = (0..MANY).collect();
        let mut rng = pils::Rng::new(9);
        for at in (1..order.len()).rev() {
            let other = rng.below(at as u64 + 1);
            order.swap(at, usize::try_from(other).expect("an index"));
        }
        let mut nodes = vec![[0; NODE / 4]; order.len()];
        for pair in order.windows(2) {
            nodes[pair[0] as usize][0] = pair[1];
        }
        nodes[order[order.len() - 1] as usize][0] = order[0];
        Self(nodes)
    }

    fn nanos_each(&self, count: usize) -> f64 {
        let mut at = 0;
        let nanos = nanos_each(count, |_| at = self.0[at as usize][0]);
        black_box(at);
        nanos
    }
}

/// Two clients of one lockspace.
fn hot_pair(shards: usize) -> [Client; 2] {
    let space = space_of(shards);
    core::array::from_fn(|_| space.client().expect("two clients"))
}

/// Pairs of lock and unlock in a second, of `threads` threads with resources of their own.
fn rate(clients: &[Client; 2], threads: usize, time: Duration) -> f64 {
    let pairs: u64 = thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter()
            .take(threads)
            .enumerate()
            .map(|(index, client)| {
                scope.spawn(move || {
                    let names: Vec<String> = (0..256).map(|number| format!("{index}/{number}")).collect();
                    let started = Instant::now();
                    let mut pairs = 0;
                    while started.elapsed() < time {
                        for name in &names {
                            drop(client.lock(name, Mode::Ex).expect("nobody else wants it"));
                        }
                        pairs += 256;
                    }
                    pairs
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("it did not panic")).sum()
    });
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let pairs = pairs as f64;
    pairs / time.as_secs_f64()
}

/// Growth of resident memory for each resource with one lock.
fn bytes_for_each() -> f64 {
    let space = space();
    let before = resident();
    let client = fill(&space);
    let grown = resident().saturating_sub(before);
    drop(client);
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let grown = grown as f64;
    grown / f64::from(MANY)
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system tells the memory");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident memory is told");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of kilobytes") * 1024
}
