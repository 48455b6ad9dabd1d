//! Several nodes with a fencer each, machines with two power supplies and a management board, devices that fail, lie, hang,
//! forget and answer late, and partitions that come and go: one seed, one history, in virtual time.
//!
//! X1: what a lost node ran starts elsewhere only when that life is really over. X2: a device gets a further order for one
//! life only after one failed, and a confirmed life is left alone. X3: confirmed means dead. X4: a node without a primary
//! partition fences nobody. And: a node is switched on only after all its power was off.
#![expect(clippy::wildcard_enum_match_arm, reason = "most events are nothing to a checker")]

mod campaign;

use ocf_stonith::{
    AttemptId, Authority, Cause, Config, DeviceReport, DeviceResult, Event, Failure, FenceAction,
    FenceRequest, Fencer, Input, Outcome, Output, ReadBack, Run, Sabotage,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const NODES: u32 = 3;
const DEVICES: [&str; 3] = ["pdu-a", "pdu-b", "bmc"];

fn config(rng: &mut Rng) -> Config {
    let all = "nodes = [{ node = 1 }, { node = 2 }, { node = 3 }]\ntimeout_ms = 1000\nclass = 'simulated'\n";
    let devices: String = DEVICES.iter().map(|name| format!("[[devices]]\nname = '{name}'\n{all}")).collect();
    let (both, board) = if rng.chance(0.7) { (1, 2) } else { (2, 1) };
    let text = format!(
        "round_budget_ms = 10000\npasses_max = 2\nretry_pause_ms = 300\nround_pause_ms = 500\n\
         round_pause_ms_max = 2000\nanswer_grace_ms = 200\nlate_max = 4\ndelay_random_ms_max = 200\n\
         health_every_ms = 15000\n{devices}\
         [[levels]]\nindex = {both}\nnodes = [1, 2, 3]\ndevices = ['pdu-a', 'pdu-b']\n\
         [[levels]]\nindex = {board}\nnodes = [1, 2, 3]\ndevices = ['bmc']\n"
    );
    toml::from_str(&text).expect("a well-formed test configuration")
}

/// A machine: it lives as long as one power supply and its board let it.
#[derive(Debug)]
struct Machine {
    life: u32,
    alive: bool,
    outlets: [bool; 3],
}

impl Machine {
    const fn powered(&self) -> bool {
        let [a, b, board] = self.outlets;
        (a || b) && board
    }
}

/// What becomes of an order.
#[derive(Debug)]
struct Doing {
    who: NodeInstance,
    run: Run,
    acts: bool,
    /// What is reported, read when it is due; `None` for nothing.
    says: Option<Says>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    State,
    Failed,
    Unread,
    Trusted,
    Cancelled,
}

/// What the checkers know about one fencer.
#[derive(Debug, Default)]
struct Known {
    confirmed: BTreeSet<NodeInstance>,
    by_person: BTreeSet<NodeInstance>,
    /// Orders for a life that have not failed: device by life.
    holding: BTreeSet<(NodeInstance, String)>,
}

struct Member {
    fencer: Fencer,
    known: Known,
}

struct World {
    rng: Rng,
    bug: Option<Sabotage>,
    config: Config,
    now: Instant,
    machines: BTreeMap<NodeId, Machine>,
    members: BTreeMap<NodeInstance, Member>,
    primary: BTreeSet<NodeId>,
    suspended: BTreeSet<NodeId>,
    doing: BTreeMap<(Instant, u64), Doing>,
    orders: u64,
    calm: bool,
    sometimes: BTreeMap<&'static str, u64>,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64, bug: Option<Sabotage>) -> Self {
        let mut rng = Rng::new(seed);
        let config = config(&mut rng);
        assert_eq!(config.check(), Ok(()));
        let mut world = Self {
            rng,
            bug,
            config,
            now: Instant::ZERO,
            machines: BTreeMap::new(),
            members: BTreeMap::new(),
            primary: (1..=NODES).map(NodeId::new).collect(),
            suspended: BTreeSet::new(),
            doing: BTreeMap::new(),
            orders: 0,
            calm: false,
            sometimes: BTreeMap::new(),
            log: Vec::new(),
        };
        for n in (1..=NODES).map(NodeId::new) {
            world.machines.insert(n, Machine { life: 0, alive: false, outlets: [true; 3] });
            world.power_changed(n);
        }
        world.tell_authority();
        world
    }

    fn sometimes(&mut self, what: &'static str) {
        *self.sometimes.entry(what).or_default() += 1;
    }

    fn life(&self, node: NodeId) -> NodeInstance {
        NodeInstance::new(node, Incarnation::new(u128::from(self.machines[&node].life) << 96))
    }

    /// True if this life is over.
    fn dead(&self, target: NodeInstance) -> bool {
        self.life(target.node) != target || !self.machines[&target.node].alive
    }

    fn power_changed(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).expect("it exists");
        let powered = machine.powered();
        if machine.alive && !powered {
            machine.alive = false;
            let gone = self.life(node);
            self.members.remove(&gone);
            self.primary.remove(&node);
            self.repartition(false);
        } else if !machine.alive && powered {
            machine.alive = true;
            machine.life += 1;
            let mut fencer = Fencer::new(self.config.clone(), node, self.rng.fork());
            if let Some(bug) = self.bug {
                fencer.sabotage(bug);
            }
            let life = self.life(node);
            self.members.insert(life, Member { fencer, known: Known::default() });
            self.tell_authority();
        }
    }

    /// A new primary partition, or none: one never has less than two of the three.
    fn repartition(&mut self, chosen: bool) {
        if chosen {
            let alive: Vec<_> = self.machines.iter().filter(|(_, m)| m.alive).map(|(n, _)| *n).collect();
            self.primary = alive.iter().copied().collect();
            if (!self.calm && self.rng.chance(0.6))
                && let Some(out) = self.rng.pick(&alive).copied()
            {
                self.primary.remove(&out);
            }
        }
        if self.primary.len() < 2 {
            self.primary.clear();
        }
        self.tell_authority();
    }

    fn tell_authority(&mut self) {
        let lives: Vec<_> = self.members.keys().copied().collect();
        for life in lives {
            let authority = match (self.primary.contains(&life.node), self.suspended.contains(&life.node)) {
                (true, false) => Authority::Granted,
                (true, true) => Authority::Suspended,
                (false, _) => Authority::Absent,
            };
            if let Some(member) = self.members.get_mut(&life) {
                member.fencer.set_authority(self.now, authority);
            }
            self.drain(life);
        }
    }

    fn request(&mut self, who: NodeInstance, target: NodeInstance, person: bool) {
        let action = if self.rng.chance(0.6) { FenceAction::Reboot } else { FenceAction::Off };
        let cause =
            if person { Cause::Operator { who: "ann".into() } } else { Cause::Lost { why: "silent".into() } };
        let Some(member) = self.members.get_mut(&who) else { return };
        if member.fencer.request(self.now, FenceRequest { target, action, cause }).is_ok() && person {
            member.known.by_person.insert(target);
        }
        self.drain(who);
    }

    /// The most senior member of the primary partition has those fenced that are not in it.
    fn recover(&mut self) {
        let Some(senior) = self.primary.first().map(|n| self.life(*n)) else { return };
        let lost: Vec<_> =
            self.machines.keys().filter(|n| !self.primary.contains(n)).map(|n| self.life(*n)).collect();
        for target in lost {
            self.request(senior, target, false);
        }
    }

    fn chaos(&mut self) {
        match self.rng.below(12) {
            0 | 1 => self.repartition(true),
            2 => {
                let node = NodeId::new(u32::try_from(self.rng.between(1, 3)).expect("small"));
                if !self.suspended.remove(&node) {
                    self.suspended.insert(node);
                }
                self.tell_authority();
            }
            3 | 4 => {
                // A person walks by, finds a dead machine and switches everything on.
                let dead: Vec<_> = self.machines.iter().filter(|(_, m)| !m.alive).map(|(n, _)| *n).collect();
                if let Some(node) = self.rng.pick(&dead).copied() {
                    self.machines.get_mut(&node).expect("it exists").outlets = [true; 3];
                    self.power_changed(node);
                }
            }
            5 => {
                // Somebody who may not, or should not, asks.
                let lives: Vec<_> = self.members.keys().copied().collect();
                if let (Some(who), Some(target)) =
                    (self.rng.pick(&lives).copied(), self.rng.pick(&lives).copied())
                    && who != target
                    && !self.primary.contains(&who.node)
                {
                    let person = self.rng.chance(0.1);
                    self.request(who, target, person);
                }
            }
            6 => {
                let lives: Vec<_> = self.members.keys().copied().collect();
                if let (Some(who), Some(target)) =
                    (self.rng.pick(&lives).copied(), self.rng.pick(&lives).copied())
                    && let Some(member) = self.members.get_mut(&who)
                {
                    if member.fencer.drill(self.now, target, false, "ann").is_ok() {
                        self.sometimes("a drill begins");
                    }
                    self.drain(who);
                }
            }
            _ => self.recover(),
        }
    }

    fn run(&mut self) {
        let calm_at = Instant::ZERO + Duration::from_secs(60);
        let end = Instant::ZERO + Duration::from_secs(120);
        let mut next_chaos = Instant::ZERO;
        while self.now < end {
            if self.now >= calm_at && !self.calm {
                self.calm = true;
                self.suspended.clear();
                self.repartition(true);
            }
            let timer = self.members.values().filter_map(|m| m.fencer.poll_timeout()).min();
            let order = self.doing.keys().next().map(|(at, _)| *at);
            let next = [Some(next_chaos), timer, order].into_iter().flatten().min().unwrap_or(end);
            self.now = next.max(self.now);
            if next_chaos <= self.now {
                next_chaos =
                    self.now + self.rng.duration(Duration::from_millis(20), Duration::from_millis(900));
                if self.calm { self.recover() } else { self.chaos() }
            }
            while let Some(entry) = self.doing.first_entry().filter(|e| e.key().0 <= self.now) {
                let doing = entry.remove();
                self.carry_out(doing);
            }
            let lives: Vec<_> = self.members.keys().copied().collect();
            for life in lives {
                if let Some(member) = self.members.get_mut(&life) {
                    member.fencer.handle_timeout(self.now);
                    member.fencer.check_invariants();
                }
                self.drain(life);
            }
        }
        let Some(senior) = self.primary.first().map(|n| self.life(*n)) else { return };
        self.sometimes("a primary partition at the end");
        let standing: Vec<_> = self.members[&senior].fencer.standing().collect();
        let waits = |s: &ocf_stonith::Status| s.state == ocf_stonith::State::Unconfirmed;
        let young = |s: &ocf_stonith::Status| self.now.as_nanos() - s.since_nanos < 20_000_000_000;
        let stuck: Vec<_> = standing.iter().filter(|s| !waits(s) && !young(s)).collect();
        assert!(stuck.is_empty(), "with good devices every request ends: {stuck:?}");
    }

    fn drain(&mut self, who: NodeInstance) {
        while let Some(output) = self.members.get_mut(&who).and_then(|m| m.fencer.poll_output()) {
            self.log.push(format!("{} {who} {output:?}", self.now.as_nanos()));
            match output {
                Output::Run(run) => self.ordered(who, run),
                Output::Cancel { attempt } => self.cancelled(who, attempt),
                Output::Event(event) => self.event(who, event),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn ordered(&mut self, who: NodeInstance, run: Run) {
        let primary = self.primary.contains(&who.node);
        let known = &mut self.members.get_mut(&who).expect("it runs").known;
        let (target, device) = (run.target, run.device.to_string());
        match run.action {
            FenceAction::Off => {
                assert!(primary || known.by_person.contains(&target), "X4: {who} fences {target} unasked");
                assert!(!known.confirmed.contains(&target), "X2: {target} was confirmed and is fenced again");
                assert!(
                    known.holding.insert((target, device)),
                    "X2: {} has an order that has not failed",
                    run.device
                );
            }
            FenceAction::On => {
                assert!(
                    known.confirmed.contains(&target),
                    "{target} is switched on and was not confirmed off"
                );
            }
            _ => {}
        }
        self.answer(who, run);
    }

    /// Chooses what the device makes of an order.
    fn answer(&mut self, who: NodeInstance, run: Run) {
        let bad = !self.calm && self.rng.chance(0.5);
        let ms =
            |rng: &mut Rng, low, high| rng.duration(Duration::from_millis(low), Duration::from_millis(high));
        let mut after = ms(&mut self.rng, 5, 600);
        let (mut acts, mut says) = (true, Some(Says::State));
        if bad && run.action == FenceAction::Off {
            let case;
            (case, acts, says) = match self.rng.below(8) {
                0 => ("a device fails", false, Some(Says::Failed)),
                1 => ("a device fails although it acts", true, Some(Says::Failed)),
                2 => ("a device claims success and does nothing", false, Some(Says::State)),
                3 => ("a device cannot tell, and acts", true, Some(Says::Unread)),
                4 => ("a device cannot tell, and does not act", false, Some(Says::Unread)),
                5 => ("a device never answers", self.rng.chance(0.5), None),
                6 => {
                    after = ms(&mut self.rng, 1300, 3000);
                    ("a device acts late", true, Some(Says::State))
                }
                _ => {
                    after = ms(&mut self.rng, 1300, 3000);
                    ("a device sends a late echo", false, Some(Says::Trusted))
                }
            };
            self.sometimes(case);
        } else if bad {
            // A switch-on may end late, but never after its whole time.
            after = ms(&mut self.rng, 5, 1150);
            (acts, says) = match self.rng.below(3) {
                0 => (false, Some(Says::Failed)),
                1 => (self.rng.chance(0.5), None),
                _ => (true, Some(Says::State)),
            };
        }
        self.orders += 1;
        self.doing.insert((self.now + after, self.orders), Doing { who, run, acts, says });
    }

    fn cancelled(&mut self, who: NodeInstance, attempt: AttemptId) {
        if self.rng.chance(0.5)
            && let Some(doing) = self.doing.values_mut().find(|d| d.who == who && d.run.attempt == attempt)
        {
            doing.acts = false;
            doing.says = Some(Says::Cancelled);
        }
    }

    fn carry_out(&mut self, doing: Doing) {
        let Doing { who, run, acts, says } = doing;
        let node = run.target.node;
        let place = DEVICES.iter().position(|d| **d == *run.device).expect("it is one of them");
        if acts && matches!(run.action, FenceAction::Off | FenceAction::On) {
            let on = run.action == FenceAction::On;
            self.machines.get_mut(&node).expect("it exists").outlets[place] = on;
            self.power_changed(node);
        }
        let on = self.machines[&node].outlets[place];
        let done = |read_back| DeviceResult::Done { read_back, detail: "".into() };
        let result = match says {
            None => return,
            Some(Says::State) if run.action == FenceAction::Monitor => done(ReadBack::NotRead),
            Some(Says::State) => done(if on { ReadBack::On } else { ReadBack::Off }),
            Some(Says::Failed) => DeviceResult::Failed(Failure::Failed { detail: "no route".into() }),
            Some(Says::Unread) => done(ReadBack::NotRead),
            Some(Says::Trusted) => done(ReadBack::NotRead),
            Some(Says::Cancelled) => DeviceResult::Failed(Failure::Cancelled),
        };
        if let Some(member) = self.members.get_mut(&who) {
            member.fencer.handle(self.now, Input::Device(DeviceReport { attempt: run.attempt, result }));
        }
        self.drain(who);
    }

    fn event(&mut self, who: NodeInstance, event: Event) {
        let case = match &event {
            Event::Finished { outcome: Outcome::Confirmed { evidence }, .. }
                if evidence.device.contains('+') =>
            {
                "two power supplies prove together"
            }
            Event::Finished { outcome: Outcome::Confirmed { .. }, .. } => "a board proves",
            Event::Finished { .. } => "nobody can tell",
            Event::Unresolved { .. } => "a round brings nothing",
            Event::AttemptFailed { failure: Failure::StillOn, .. } => "a device is read back on",
            Event::AttemptFailed { failure: Failure::TimedOut { .. }, .. } => "an attempt times out",
            Event::LateAnswer { accepted: true, .. } => "a late answer proves",
            Event::LateAnswer { accepted: false, .. } => "a late answer proves nothing",
            Event::Joined { .. } => "a request is joined",
            Event::Withdrawn { .. } => "a request is withdrawn",
            Event::Restarted { .. } => "a fenced node is switched on",
            Event::RestartFailed { failure: Failure::Cancelled, .. } => "a fence request stops a switch-on",
            Event::RestartFailed { .. } => "a node cannot be switched on",
            Event::DeviceFailed { .. } => "a health check fails",
            Event::DeviceRecovered { .. } => "a device recovers",
            Event::Drilled { .. } => "a drill ends",
            _ => "other",
        };
        self.sometimes(case);
        let dead = |world: &Self, target| world.dead(target);
        match event {
            Event::Finished { target, outcome: Outcome::Confirmed { .. } } => {
                assert!(dead(self, target), "X1, X3: {target} is confirmed at {who} and lives");
                self.members.get_mut(&who).expect("it runs").known.confirmed.insert(target);
            }
            Event::AttemptFailed { target, device, .. } => {
                let known = &mut self.members.get_mut(&who).expect("it runs").known;
                known.holding.remove(&(target, device.to_string()));
            }
            Event::Withdrawn { target, .. } => {
                let known = &mut self.members.get_mut(&who).expect("it runs").known;
                known.holding.retain(|(t, _)| *t != target);
                known.by_person.remove(&target);
            }
            _ => {}
        }
    }
}

fn history(seed: u64) -> World {
    let mut world = World::new(seed, None);
    world.run();
    world
}

const CASES: [&str; 24] = [
    "a board proves",
    "a device acts late",
    "a device cannot tell, and acts",
    "a device cannot tell, and does not act",
    "a device claims success and does nothing",
    "a device fails",
    "a device fails although it acts",
    "a device is read back on",
    "a device never answers",
    "a device recovers",
    "a device sends a late echo",
    "a drill ends",
    "a fence request stops a switch-on",
    "a fenced node is switched on",
    "a health check fails",
    "a late answer proves",
    "a late answer proves nothing",
    "a node cannot be switched on",
    "a primary partition at the end",
    "a request is joined",
    "a request is withdrawn",
    "a round brings nothing",
    "nobody can tell",
    "two power supplies prove together",
];

fn all_hold(seeds: std::ops::Range<u64>) {
    campaign::all_hold(seeds, &CASES, |seed| history(seed).sometimes);
}

#[test]
fn x1_to_x4_hold_with_failing_lying_and_late_devices() {
    all_hold(0..40);
}

#[test]
#[ignore = "long: 2,000 seeds"]
fn x1_to_x4_hold_over_two_thousand_seeds() {
    all_hold(0..2000);
}

#[test]
fn the_same_seed_decides_the_same() {
    for seed in 0..4 {
        assert_eq!(history(seed).log, history(seed).log);
    }
}

#[test]
fn bugs_put_back_are_caught() {
    for (bug, promise) in [
        (Sabotage::FailureIsSuccess, "X3"),
        (Sabotage::UnreadIsProof, "X3"),
        (Sabotage::OneOfTwoIsEnough, "X3"),
        (Sabotage::FenceUnasked, "X4"),
        (Sabotage::AskAgainUntold, "X2"),
        (Sabotage::LateEchoIsProof, "X3"),
        (Sabotage::ForgetConfirmed, "X2"),
    ] {
        let (seed, said) = campaign::caught(60, |seed| World::new(seed, Some(bug)).run())
            .unwrap_or_else(|| panic!("{bug:?} is not seen"));
        let seen = said.contains(promise) || said.contains("confirmed") || said.contains("without authority");
        assert!(seen, "{bug:?} at seed {seed}: {said}");
    }
}
