//! What stands on the groups core of a node, and a host for any replicated machine.

use ocf_groups::replicated::{self, Output, Phase, Replicated};
use ocf_groups::{Event, Groups, Machine, Position};
use pils::{Instant, NodeInstance, Rng};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Makes what runs on a node that starts.
pub(crate) type Maker = Box<dyn FnMut(NodeInstance, Rng) -> Box<dyn Host>>;

/// What runs on a node.
pub(crate) trait Host {
    fn on_event(&mut self, now: Instant, event: &Event, core: &mut Groups);
    /// Does something; with peace, only what brings to an end what was begun.
    fn act(&mut self, now: Instant, core: &mut Groups, faults: bool);
    fn timeout(&mut self, now: Instant, core: &mut Groups);
    fn deadline(&self) -> Option<Instant>;
    fn check(&self) -> Result<(), String>;
    /// What is still open though everything had the time to end.
    fn settled(&self) -> Result<(), String>;
    fn die(&mut self);
}

/// Sees all members of all nodes, and compares.
#[derive(Default)]
pub(crate) struct Witness {
    /// RS1: the state at each place.
    states: BTreeMap<(Position, u64), (u64, String)>,
    pub(crate) broken: Option<String>,
    pub(crate) coverage: BTreeMap<&'static str, u64>,
}

impl Witness {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// `serial` tells what stands at one position apart.
    fn on_state(&mut self, who: &str, at: Position, serial: u64, state: &[u8]) {
        let digest = state
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |d, b| (d ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
        let first = self.states.entry((at, serial)).or_insert_with(|| (digest, who.to_owned()));
        if first.0 != digest {
            let what = format!("RS1: {who} and {} differ at {at}", first.1);
            self.fail(what);
        }
    }
}

/// The user of a replicated machine.
pub(crate) trait User {
    type Machine: Machine;
    fn act(&mut self, now: Instant, rng: &mut Rng, replica: &mut Replicated<Self::Machine>, faults: bool);
    fn on_output(
        &mut self,
        now: Instant,
        output: Output<<Self::Machine as Machine>::Event>,
        replica: &mut Replicated<Self::Machine>,
    );
    fn settled(&self, replica: &Replicated<Self::Machine>) -> Result<(), String>;
}

struct Seat<U: User> {
    replica: Replicated<U::Machine>,
    user: U,
}

/// Two members of one group on a node, each with its machine and its user.
pub(crate) struct Members<U: User> {
    name: String,
    rng: Rng,
    seats: Vec<Seat<U>>,
    witness: Rc<RefCell<Witness>>,
}

impl<U: User> Members<U> {
    pub(crate) fn new(
        node: NodeInstance,
        rng: Rng,
        witness: Rc<RefCell<Witness>>,
        seat: &mut dyn FnMut(u32) -> (Replicated<U::Machine>, U),
    ) -> Self {
        let seats = (0..2).map(seat).map(|(replica, user)| Seat { replica, user }).collect();
        Self { name: node.to_string(), rng, seats, witness }
    }

    fn drive(&mut self, now: Instant, core: &mut Groups) {
        for seat in &mut self.seats {
            loop {
                let told = seat.replica.drive(now, core);
                if told.is_empty() {
                    break;
                }
                for output in told {
                    if let Output::Failed(error) = &output {
                        self.witness.borrow_mut().fail(format!("{} was given no state: {error}", self.name));
                    }
                    if let Output::Phase(phase) = &output {
                        self.witness.borrow_mut().count(match phase {
                            Phase::Outside => "outside",
                            Phase::Waiting => "waiting",
                            Phase::Ready => "ready",
                        });
                    }
                    seat.user.on_output(now, output, &mut seat.replica);
                }
            }
        }
    }
}

impl<U: User> Host for Members<U> {
    fn on_event(&mut self, now: Instant, event: &Event, core: &mut Groups) {
        // What was told before belongs to the life of the group that may end with this.
        if !matches!(event, Event::Message { .. }) {
            self.drive(now, core);
        }
        for (local, seat) in self.seats.iter_mut().enumerate() {
            let before = seat.replica.phase();
            seat.replica.handle(now, event);
            if let Event::Message { position, .. } = event
                && before == Phase::Ready
            {
                let who = format!("{}.{local}", self.name);
                self.witness.borrow_mut().on_state(&who, *position, 1, &seat.replica.snapshot());
            }
        }
        // Some applications are slow to look.
        if self.rng.chance(0.8) {
            self.drive(now, core);
        }
    }

    fn act(&mut self, now: Instant, core: &mut Groups, faults: bool) {
        let at = usize::from(self.rng.chance(0.3));
        if let Some(seat) = self.seats.get_mut(at) {
            match seat.replica.phase() {
                Phase::Outside => drop(seat.replica.join(now, core)),
                Phase::Ready | Phase::Waiting if faults && self.rng.chance(0.01) => {
                    drop(seat.replica.leave(now, core));
                }
                Phase::Ready | Phase::Waiting => {
                    seat.user.act(now, &mut self.rng, &mut seat.replica, faults);
                }
            }
        }
        self.drive(now, core);
    }

    fn timeout(&mut self, now: Instant, core: &mut Groups) {
        self.seats.iter_mut().for_each(|seat| seat.replica.handle_timeout(now));
        self.drive(now, core);
    }

    fn deadline(&self) -> Option<Instant> {
        self.seats.iter().filter_map(|seat| seat.replica.poll_timeout()).min()
    }

    fn check(&self) -> Result<(), String> {
        self.witness.borrow().broken.clone().map_or(Ok(()), Err)
    }

    fn settled(&self) -> Result<(), String> {
        for (local, seat) in self.seats.iter().enumerate() {
            if seat.replica.phase() != Phase::Ready {
                return Err(format!("member {local} is {:?}", seat.replica.phase()));
            }
            seat.user.settled(&seat.replica).map_err(|what| format!("member {local}: {what}"))?;
        }
        let states: BTreeSet<_> = self.seats.iter().map(|seat| seat.replica.snapshot()).collect();
        if states.len() == 1 { Ok(()) } else { Err("two members of one node differ".into()) }
    }

    fn die(&mut self) {}
}

/// Runs `maker`'s machines under faults, then in peace; what happened how often, or what was broken.
pub(crate) fn run(
    seed: u64,
    witness: &Rc<RefCell<Witness>>,
    maker: Maker,
) -> Result<BTreeMap<&'static str, u64>, String> {
    let result = super::Cluster::of_hosts(seed, maker, seed.is_multiple_of(3)).run(12);
    let (mut coverage, _) = result.map_err(|v| format!("seed {seed}: {} broken: {}", v.rule, v.what))?;
    for (what, n) in &witness.borrow().coverage {
        *coverage.entry(what).or_default() += n;
    }
    Ok(coverage)
}

/// The same with one machine and one user for each member, all told by the same witness.
pub(crate) fn run_users<U: User + 'static>(
    seed: u64,
    machine: impl Fn() -> U::Machine + 'static,
    user: impl Fn(Rc<RefCell<Witness>>) -> U + 'static,
) -> Result<BTreeMap<&'static str, u64>, String> {
    let witness = Rc::new(RefCell::new(Witness::default()));
    let of_maker = Rc::clone(&witness);
    let maker: Maker = Box::new(move |node, rng| {
        Box::new(Members::new(node, rng, Rc::clone(&of_maker), &mut |local| {
            (Replicated::new(config(local), node, machine()), user(Rc::clone(&of_maker)))
        }))
    });
    run(seed, &witness, maker)
}

/// A machine, with a bug put back if there is one.
pub(crate) fn with_bug<M: Default, B>(put_back: impl Fn(&mut M, B), bug: Option<B>) -> M {
    let mut machine = M::default();
    if let Some(bug) = bug {
        put_back(&mut machine, bug);
    }
    machine
}

/// All these seeds; fails with every one that breaks something, or if one of `wanted` was met too seldom.
pub(crate) fn campaign(
    seeds: std::ops::Range<u64>,
    wanted: &[(&'static str, u64)],
    run: impl Fn(u64) -> Result<BTreeMap<&'static str, u64>, String>,
) {
    let (mut total, mut failures) = (BTreeMap::<&str, u64>::new(), Vec::new());
    for seed in seeds {
        match run(seed) {
            Ok(seen) => seen.into_iter().for_each(|(what, n)| *total.entry(what).or_default() += n),
            Err(what) => failures.push(what),
        }
    }
    assert!(failures.is_empty(), "{} fail, coverage {total:?}:\n{}", failures.len(), failures.join("\n"));
    for (what, least) in wanted {
        let seen = total.get(what).copied().unwrap_or(0);
        assert!(seen >= *least, "{what}: {seen} times, wanted {least}: {total:?}");
    }
}

/// The first seed of 200 that shows a bug, and what broke.
pub(crate) fn found(run: impl Fn(u64) -> Result<BTreeMap<&'static str, u64>, String>) -> String {
    (0..200).find_map(|seed| run(seed).err()).expect("the bug is found in 200 seeds")
}

/// A machine's configuration for these runs: limits that are met.
pub(crate) fn config(local: u32) -> replicated::Config {
    replicated::Config {
        requests_max: 6,
        departed_max: 3,
        command_max: 1000,
        ..replicated::Config::new("machines", local)
    }
}

/// A short time, in the measure of a run.
pub(crate) fn moment(rng: &mut Rng) -> Duration {
    Duration::from_micros(rng.between(50, 4000))
}
