//! Locks: on one node against a mutex and against memory.
//!
//! `cargo bench --bench dlm`, with `-- --json` one object per line, with `-- --quick` shorter. All calls go through the
//! public interface: a client, a guard, and its drop. Goals: D-1, D-2, D-6, D-8.

mod support;

use ocf_dlm::{Client, Config, Flags, LocalLocks, LockManager, Lockspace, Mode, Terms};
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};
use support::{Figure, Goal, Measure, Options, Report, Samples, interleave, machine};

/// Resources of D-2 and D-6.
const MANY: u32 = 1_000_000;
/// A cache line, twice.
const NODE: usize = 192;

fn main() {
    let options = Options::from_args();
    let mut report = Report::default();
    let mut taken = Taken::new();
    let bytes = bytes_for_each();
    taken.extend(interleave(options, local(options)));
    if let Some(samples) = taken.get("L1") {
        report.judge_machine("L1", samples);
    }
    for figure in local_figures(&taken, bytes) {
        report.add(figure);
    }
    report.note("medians of interleaved rounds; D-1 and D-2 on one processor, D-8 on two");
    report.note("D-2 locks and unlocks one of 1 M resources that exist; L2 follows pointers through 1 M nodes of 192 B");
    report.print(options);
}

type Taken = std::collections::BTreeMap<&'static str, Samples>;

fn space() -> Lockspace {
    LocalLocks::default().open("bench", Config::default()).expect("the default configuration is good")
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
        ("D-8/one", Box::new(move || machine::on_two(|| rate(&hot_pair(), 1, time)))),
        ("D-8", Box::new(move || machine::on_two(|| rate(&hot_pair(), 2, time)))),
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

fn nanos_each(count: usize, mut work: impl FnMut(usize)) -> f64 {
    let started = Instant::now();
    for at in 0..count {
        work(at);
    }
    per_item(started.elapsed(), count)
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
        let mut rng = pils::Rng::new(8);
        let timed = (0..count).map(|_| {
            let started = Instant::now();
            self.pair(&mut rng);
            started.elapsed()
        });
        Samples::micros(timed.collect::<Vec<_>>()).percentile(share) * 1000.0
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
fn hot_pair() -> [Client; 2] {
    let space = space();
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
