//! A layer of your own in the simulator: a leader lease, with a checker that catches a well-known mistake in it.
//!
//! `cargo run --release --features sim --example simulate_your_own_layer`: 200 seeds of the correct lease, then the same
//! seeds with the mistake until one is caught. Exit status 0 if both went as they should.
#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use bytes::Bytes;
use ocf::sim::{Checker, Ctx, Datagrams, Entry, Fault, Profile, Program, Simulation, Verdict, What, address};
use pils::{Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeSet, VecDeque};
use std::process::ExitCode;
use std::time::Duration;

const LEASE: Duration = Duration::from_millis(500);

/// Who may act: whoever a majority promised, for `LEASE`, not to promise anybody else.
struct Lease {
    me: NodeId,
    nodes: u32,
    mistake: bool,
    term: u64,
    promised_until: Instant,
    asked: (u64, Instant, BTreeSet<NodeId>),
    held_until: Instant,
    wake: Instant,
    rng: Rng,
    out: VecDeque<Out>,
}

enum Out {
    Send(NodeId, [u8; 9]),
    Act { term: u64 },
}

fn message(kind: u8, term: u64) -> [u8; 9] {
    let mut bytes = [kind; 9];
    bytes[1..].copy_from_slice(&term.to_be_bytes());
    bytes
}

impl Layer for Lease {
    type Input<'a> = (NodeId, u8, u64);
    type Output = Out;

    fn handle(&mut self, now: Instant, (from, kind, term): (NodeId, u8, u64)) {
        if kind == 0 && term > self.term && now >= self.promised_until {
            (self.term, self.promised_until) = (term, now + LEASE);
            self.out.push_back(Out::Send(from, message(1, term)));
        } else if kind == 1 && term == self.asked.0 {
            self.asked.2.insert(from);
            if self.asked.2.len() * 2 > self.nodes as usize {
                // The promises began when they were given, which is not before the question was sent.
                let counted_from = if self.mistake { now } else { self.asked.1 };
                self.held_until = counted_from + LEASE * 97 / 100;
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if now < self.wake {
            return;
        }
        self.wake = now + self.rng.duration(Duration::from_millis(5), Duration::from_millis(100));
        if now < self.held_until {
            self.out.push_back(Out::Act { term: self.asked.0 });
        } else if now >= self.promised_until {
            self.term += 1;
            self.promised_until = now + LEASE;
            self.asked = (self.term, now, BTreeSet::from([self.me]));
            for peer in (1..=self.nodes).map(NodeId::new).filter(|n| *n != self.me) {
                self.out.push_back(Out::Send(peer, message(0, self.term)));
            }
        }
    }

    fn poll_output(&mut self) -> Option<Out> {
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.wake)
    }
}

/// The world of the lease: nothing but nodes.
struct Office {
    mistake: bool,
}

impl Program for Office {
    type Layer = Lease;
    type Completion = ();
    type Event = ();
    type Record = u64;

    fn boot(&mut self, ctx: &mut Ctx<'_, Self>, _record: Option<Bytes>) -> Lease {
        let (now, me, mistake) = (ctx.now(), ctx.instance().node, self.mistake);
        let (nodes, rng) = (ctx.world().profile().nodes, ctx.world().rng().fork());
        // A node that lost its memory may have promised something: it waits until that is over.
        let (wake, promised_until) = (now, now + LEASE * 103 / 100);
        let (asked, out) = ((0, now, BTreeSet::new()), VecDeque::new());
        Lease {
            me,
            nodes,
            mistake,
            term: 0,
            promised_until,
            asked,
            held_until: Instant::ZERO,
            wake,
            rng,
            out,
        }
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Lease, datagrams: Datagrams<'_>) {
        let Ok([kind, term @ ..]) = <[u8; 9]>::try_from(&*datagrams.data) else { return };
        for peer in (1..=layer.nodes).map(NodeId::new).filter(|n| address(*n, 0) == datagrams.from) {
            layer.handle(ctx.now(), (peer, kind, u64::from_be_bytes(term)));
        }
    }

    fn completed(&mut self, _ctx: &mut Ctx<'_, Self>, _layer: &mut Lease, (): ()) {}

    fn carry_out(&mut self, ctx: &mut Ctx<'_, Self>, _layer: &mut Lease, output: Out) {
        match output {
            Out::Send(to, bytes) => ctx.transmit(0, address(to, 0), bytes.len(), bytes.to_vec()),
            Out::Act { term } => ctx.record(term),
        }
    }

    fn settled(&self, _now: Instant, nodes: &[Option<Lease>]) -> Result<(), String> {
        if nodes.iter().all(Option::is_some) { Ok(()) } else { Err("a node does not run".to_owned()) }
    }
}

/// Once somebody acts under a lease, nobody acts any more under the one before.
#[derive(Default)]
struct NoOldLeaseActs {
    current: Option<(NodeInstance, u64)>,
    over: BTreeSet<(NodeInstance, u64)>,
    judged: u64,
}

impl Checker<u64> for NoOldLeaseActs {
    fn name(&self) -> &'static str {
        "no old lease acts"
    }

    fn observe(&mut self, entry: &Entry<u64>) -> Result<(), String> {
        let What::Program(Some(who), term) = &entry.what else { return Ok(()) };
        self.judged += 1;
        let lease = (*who, *term);
        if let Some(before) = self.current.replace(lease).filter(|l| *l != lease) {
            self.over.insert(before);
        }
        if self.over.contains(&lease) { Err(format!("{who} acts in term {term} again")) } else { Ok(()) }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}

fn run(seed: u64, mistake: bool) -> Verdict {
    let menu = [Fault::Kill, Fault::Pause, Fault::TwoSides, Fault::Slow, Fault::OneWay];
    let mut profile = Profile::draw(&mut Rng::new(seed), (3, Some(1)), Duration::from_secs(60), &menu);
    // This layer does not protect its messages.
    (profile.quality.corrupt, profile.attack) = (0.0, 0.0);
    let checker = Box::new(NoOldLeaseActs::default());
    Simulation::new(Office { mistake }, profile, seed, vec![checker]).run().verdict
}

fn main() -> ExitCode {
    if let Some((seed, verdict)) =
        (0..200).map(|seed| (seed, run(seed, false))).find(|(_, v)| *v != Verdict::Passed)
    {
        println!("the lease is wrong: seed {seed}: {verdict:?}");
        return ExitCode::FAILURE;
    }
    println!("200 seeds passed");
    match (0..200).map(|seed| (seed, run(seed, true))).find(|(_, v)| *v != Verdict::Passed) {
        Some((seed, verdict)) => println!("the mistake is caught: seed {seed}: {verdict:?}"),
        None => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}
