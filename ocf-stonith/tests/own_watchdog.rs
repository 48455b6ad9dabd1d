//! Fencing by the nodes' own watchdogs and nothing else: the production [`Keeper`] and [`Fencer`] of three nodes, watchdogs that are
//! played, and a membership that is played with leases, suspensions and views that some members install later than others. Threads are
//! held up for longer than the watchdog's time, orders to end are not obeyed, clocks differ by two percent, processes die and are started
//! again, and some lives have no watchdog. One seed, one history, in virtual time.
//!
//! What must hold (X1, X3): a life that is confirmed is over, and with it its boot of the machine, on which may be left what it started.
#![expect(clippy::wildcard_enum_match_arm, reason = "most events are nothing to a checker")]

mod campaign;

use ocf_stonith::sbd::{End, Keeper, KeeperConfig, KeeperInput, KeeperOutput};
use ocf_stonith::{
    Authority, Cause, Config, Event, Failure, FenceAction, FenceRequest, Fencer, Outcome, Output, Sabotage,
    Withdrawal,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const NODES: u32 = 3;
const STEP: u64 = 50;
const WATCHDOG: u64 = 5000;
const LEASE: u64 = 500;
const CALM: u64 = 120_000;
const END: u64 = 200_000;

/// A bug put back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    Fencer(Sabotage),
    /// A process that is started again in one boot takes over the watchdog that its predecessor armed.
    NoMark,
}

/// One boot of a machine. Times are milliseconds of the world.
struct Machine {
    boot: u32,
    /// When it is on again, if it is off.
    off_until: Option<u64>,
    process: u32,
    /// The node's process runs.
    runs: bool,
    /// A life of this boot has armed the watchdog and not let it go.
    marked: bool,
    armed: bool,
    keeper: Option<Keeper>,
    /// The keeper's thread does nothing until then.
    keeper_held: u64,
    /// It had decided to keep the watchdog quiet when it was held up.
    late_pet: bool,
    /// The node's thread does nothing until then; a word that it was about to give, with its moment.
    node_held: u64,
    late_word: Option<u64>,
    bites: Option<u64>,
    lease_until: u64,
    /// How fast its clock and its watchdog go, in thousandths.
    clock: u64,
    watchdog_clock: u64,
    view: u64,
    fencer: Option<Fencer>,
    authority: Authority,
}

struct View {
    number: u64,
    members: BTreeSet<NodeInstance>,
}

struct World {
    rng: Rng,
    bug: Option<Bug>,
    now: u64,
    machines: BTreeMap<NodeId, Machine>,
    view: View,
    /// The next view, and when each of its members installs it.
    next: Option<(View, BTreeMap<NodeInstance, u64>)>,
    /// Lives that were members, are not, and are not proven to be over.
    lost: BTreeSet<NodeInstance>,
    /// Lives that said that their watchdog is armed.
    said: BTreeSet<NodeInstance>,
    sometimes: BTreeMap<&'static str, u64>,
    log: Vec<String>,
}

fn config() -> Config {
    let text =
        "[[devices]]\nname = 'own'\nclass = 'watchdog'\nnodes = [{ node = 1 }, { node = 2 }, { node = 3 }]\n";
    let config: Config = toml::from_str(text).expect("a well-formed test configuration");
    assert_eq!(config.check(), Ok(()));
    config
}

impl Machine {
    fn life(&self, node: NodeId) -> NodeInstance {
        NodeInstance::new(node, Incarnation::new(u128::from(self.boot) << 96 | u128::from(self.process)))
    }

    /// What this machine's clock shows.
    const fn shows(&self, now: u64) -> Instant {
        Instant::from_millis(now * self.clock / 1000)
    }
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = Rng::new(seed);
        let machine = |rng: &mut Rng| Machine {
            boot: 0,
            off_until: Some(0),
            process: 0,
            runs: false,
            marked: false,
            armed: false,
            keeper: None,
            keeper_held: 0,
            late_pet: false,
            node_held: 0,
            late_word: None,
            bites: None,
            lease_until: 0,
            clock: rng.between(990, 1010),
            watchdog_clock: rng.between(990, 1010),
            view: 0,
            fencer: None,
            authority: Authority::Absent,
        };
        let machines = (1..=NODES).map(|n| (NodeId::new(n), machine(&mut rng))).collect();
        let view = View { number: 0, members: BTreeSet::new() };
        let (next, lost, said) = (None, BTreeSet::new(), BTreeSet::new());
        Self {
            rng,
            bug,
            now: 0,
            machines,
            view,
            next,
            lost,
            said,
            sometimes: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// Something goes wrong, until the world calms down.
    fn goes_wrong(&mut self, chance: f64) -> bool {
        self.now < CALM && self.rng.chance(chance)
    }

    fn sometimes(&mut self, what: &'static str) {
        *self.sometimes.entry(what).or_default() += 1;
    }

    fn machine(&mut self, node: NodeId) -> &mut Machine {
        self.machines.get_mut(&node).expect("it exists")
    }

    fn lives(&self) -> Vec<NodeInstance> {
        self.machines.iter().filter(|(_, m)| m.runs).map(|(n, m)| m.life(*n)).collect()
    }

    /// True if the boot of this life is over.
    fn over(&self, life: NodeInstance) -> bool {
        let machine = &self.machines[&life.node];
        machine.off_until.is_some() || (life.incarnation.raw() >> 96) != u128::from(machine.boot)
    }

    fn ends(&mut self, node: NodeId) {
        let on = self.now + self.rng.between(500, 8000);
        let machine = self.machine(node);
        (machine.off_until, machine.runs, machine.keeper, machine.fencer) = (Some(on), false, None, None);
        (machine.marked, machine.armed, machine.bites, machine.late_word) = (false, false, None, None);
        self.log.push(format!("{} machine {node} ends", self.now));
    }

    /// The node's process begins a life.
    fn begins(&mut self, node: NodeId) {
        let (with_watchdog, rng) = (self.rng.chance(0.8), self.rng.fork());
        let takes_over = self.bug == Some(Bug::NoMark);
        let sabotage = if let Some(Bug::Fencer(bug)) = self.bug { Some(bug) } else { None };
        let now = self.now;
        let machine = self.machine(node);
        if machine.marked && !takes_over {
            self.sometimes("a life is refused in the boot of one that was armed");
            return;
        }
        machine.process += 1;
        (machine.runs, machine.view, machine.lease_until, machine.armed) = (true, 0, 0, false);
        (machine.keeper_held, machine.node_held, machine.late_pet, machine.late_word) =
            (now, now, false, None);
        machine.authority = Authority::Absent;
        let mut fencer = Fencer::new(config(), node, rng);
        if let Some(bug) = sabotage {
            fencer.sabotage(bug);
        }
        machine.fencer = Some(fencer);
        if with_watchdog {
            let watchdog = Duration::from_millis(WATCHDOG);
            let mut keeper = Keeper::new(KeeperConfig { disks: 0, watchdog, every: watchdog / 3 });
            keeper.handle(machine.shows(now), KeeperInput::Cluster { well: Some(machine.shows(now)) });
            machine.keeper = Some(keeper);
            self.keep(node);
        }
    }

    /// What the keeper wants.
    fn keep(&mut self, node: NodeId) {
        loop {
            let now = self.now;
            let machine = self.machine(node);
            match machine.keeper.as_mut().and_then(Keeper::poll_output) {
                None => return,
                Some(KeeperOutput::Arm) => {
                    (machine.marked, machine.armed) = (true, true);
                    self.pet(node);
                }
                Some(KeeperOutput::Pet) => {
                    let armed = machine.armed;
                    if armed && self.goes_wrong(0.02) {
                        self.sometimes("a word to the watchdog is held up");
                        let held = now + self.rng.between(0, 2 * WATCHDOG);
                        let machine = self.machine(node);
                        (machine.late_pet, machine.keeper_held) = (true, held);
                        return;
                    }
                    self.pet(node);
                }
                Some(KeeperOutput::End(End::Alone)) => {
                    if self.rng.chance(0.5) {
                        self.sometimes("a node ends itself");
                        self.ends(node);
                    } else {
                        self.sometimes("a node does not obey its own end");
                    }
                }
                Some(other) => panic!("{other:?} without disks"),
            }
        }
    }

    fn pet(&mut self, node: NodeId) {
        let now = self.now;
        let machine = self.machine(node);
        machine.bites = Some(now + WATCHDOG * 1000 / machine.watchdog_clock);
    }

    fn has_lease(&self, node: NodeId) -> bool {
        let machine = &self.machines[&node];
        machine.runs && machine.view > 0 && self.now < machine.lease_until
    }

    /// Everything that one machine does by itself.
    fn lives_on(&mut self, node: NodeId) {
        let now = self.now;
        let machine = self.machine(node);
        if let Some(on) = machine.off_until {
            if on <= now {
                machine.boot += 1;
                machine.off_until = None;
                self.begins(node);
            }
            return;
        }
        if machine.bites.is_some_and(|at| at <= now) {
            self.sometimes("a watchdog bites");
            self.ends(node);
            return;
        }
        if !machine.runs {
            if self.rng.chance(0.01) {
                self.begins(node);
            }
            return;
        }
        if machine.keeper_held <= now {
            if core::mem::take(&mut machine.late_pet) {
                self.pet(node);
            }
            let machine = self.machine(node);
            let shown = machine.shows(now);
            if let Some(keeper) = &mut machine.keeper {
                keeper.handle_timeout(shown);
            }
            self.keep(node);
        }
        self.speaks(node);
    }

    /// The node's thread: whether the node is well, found out at one moment and told at another.
    fn speaks(&mut self, node: NodeId) {
        let now = self.now;
        let well = self.has_lease(node) || self.machines[&node].view == 0;
        let machine = self.machine(node);
        if !machine.runs || machine.keeper.is_none() || machine.node_held > now || machine.keeper_held > now {
            return;
        }
        let word = machine.late_word.take().or_else(|| (well && now.is_multiple_of(800)).then_some(now));
        let Some(at) = word else { return };
        if at == now && self.goes_wrong(0.03) {
            self.sometimes("a good word is long on its way");
            let held = now + self.rng.between(0, 2 * WATCHDOG);
            let machine = self.machine(node);
            (machine.late_word, machine.node_held) = (Some(at), held);
            return;
        }
        let machine = self.machine(node);
        let (shown, well) = (machine.shows(now), Some(machine.shows(at)));
        if let Some(keeper) = &mut machine.keeper {
            keeper.handle(shown, KeeperInput::Cluster { well });
        }
        self.keep(node);
    }

    /// A new primary partition is agreed on: without some, once their leases have run out.
    fn agree(&mut self, calm: bool) {
        if self.next.is_some() {
            return;
        }
        let lives = self.lives();
        let mut members: BTreeSet<NodeInstance> = lives.iter().copied().collect();
        if !calm
            && self.rng.chance(0.7)
            && let Some(out) = self.rng.pick(&lives).copied()
        {
            members.remove(&out);
        }
        let is_new = members != self.view.members;
        if members.len() < 2 || !is_new {
            return;
        }
        let outside = self.machines.iter().filter(|(n, m)| !members.contains(&m.life(**n)));
        let free = outside.map(|(_, m)| m.lease_until).max().unwrap_or(0).max(self.now);
        let mut at = BTreeMap::new();
        for member in &members {
            at.insert(*member, free + self.rng.between(0, LEASE));
        }
        self.next = Some((View { number: self.view.number + 1, members }, at));
    }

    fn members_move(&mut self) {
        let now = self.now;
        // Whoever has accepted the next view renews no lease in the one before.
        if self.next.is_none() {
            let members: Vec<_> = self.view.members.iter().copied().collect();
            let alive = members.iter().filter(|m| self.lives().contains(m)).count();
            for member in members.iter().filter(|_| alive >= 2) {
                let number = self.view.number;
                let doubtful = self.goes_wrong(0.002);
                let machine = self.machine(member.node);
                let here = machine.runs && machine.life(member.node) == *member && machine.view == number;
                if here && machine.node_held <= now && !doubtful {
                    machine.lease_until = now + LEASE;
                } else if doubtful {
                    machine.lease_until = now;
                }
            }
        }
        let due: Vec<_> =
            self.next.iter().flat_map(|(_, at)| at).filter(|(_, at)| **at <= now).map(|(l, _)| *l).collect();
        for life in due {
            self.install(life);
        }
        if let Some((view, at)) = self.next.take_if(|(_, at)| at.is_empty()) {
            assert!(at.is_empty());
            let gone: Vec<_> = self.view.members.difference(&view.members).copied().collect();
            self.lost.extend(gone);
            self.view = view;
        }
    }

    fn install(&mut self, life: NodeInstance) {
        let now = self.now;
        let Some((view, at)) = &mut self.next else { return };
        at.remove(&life);
        let (number, members) = (view.number, view.members.clone());
        let machine = self.machine(life.node);
        if !machine.runs || machine.life(life.node) != life {
            return;
        }
        (machine.view, machine.lease_until) = (number, now + LEASE);
        if machine.armed {
            self.said.insert(life);
        }
        let shown = self.machines[&life.node].shows(now);
        self.authority(life.node, Authority::Granted);
        for target in members.iter().copied() {
            let Some(fencer) = &mut self.machine(life.node).fencer else { continue };
            fencer.heard(shown, target);
            if fencer.withdraw(shown, target, Withdrawal::NotNeeded).is_ok() {
                self.sometimes("a silent node is back in time");
            }
        }
        self.lost = self.lost.difference(&members).copied().collect();
        self.drain(life.node);
    }

    fn authority(&mut self, node: NodeId, authority: Authority) {
        let (now, silent) = (self.now, self.silent(node));
        let machine = self.machine(node);
        let shown = machine.shows(now);
        machine.authority = authority;
        let Some(fencer) = &mut machine.fencer else { return };
        fencer.set_authority(shown, authority);
        if authority == Authority::Granted {
            for target in silent {
                fencer.silent(shown, target, Duration::from_millis(WATCHDOG));
            }
        }
        self.drain(node);
    }

    /// The armed lives that are not in the view that this node has installed.
    fn silent(&self, node: NodeId) -> Vec<NodeInstance> {
        let number = self.machines[&node].view;
        let next = self.next.as_ref().map(|(view, _)| view).filter(|view| view.number == number);
        let view = next.unwrap_or(&self.view);
        self.said.difference(&view.members).copied().collect()
    }

    /// Each node follows its lease; the most senior member has the lost ones fenced.
    fn fencers_move(&mut self) {
        let nodes: Vec<_> = self.machines.keys().copied().collect();
        for node in nodes {
            let now = self.now;
            let (lease, machine) = (self.has_lease(node), &self.machines[&node]);
            if !machine.runs || machine.node_held > now {
                continue;
            }
            let newest = self.view.number.max(self.next.as_ref().map_or(0, |(view, _)| view.number));
            let wanted = match (lease, machine.view) {
                (true, _) => Authority::Granted,
                (false, number) if number > 0 && number + 1 >= newest => Authority::Suspended,
                (false, _) => Authority::Absent,
            };
            if wanted != machine.authority {
                self.authority(node, wanted);
            }
            let shown = self.machines[&node].shows(now);
            let (lost, silent) = (self.lost.clone(), self.silent(node));
            let members = self.view.members.clone();
            // The most senior member that is not on the same node.
            let asks =
                |t: &NodeInstance| members.iter().find(|m| m.node != t.node).is_some_and(|m| m.node == node);
            for target in lost.into_iter().filter(|t| asks(t) && wanted == Authority::Granted) {
                let Some(fencer) = &mut self.machine(node).fencer else { continue };
                let cause = Cause::Lost { why: "silent".into() };
                if fencer.is_standing(target) {
                    continue;
                }
                if silent.contains(&target) {
                    fencer.silent(shown, target, Duration::from_millis(WATCHDOG));
                }
                let request = FenceRequest { target, action: FenceAction::Off, cause };
                assert!(fencer.request(shown, request).is_ok(), "it has authority");
            }
            if let Some(fencer) = &mut self.machine(node).fencer {
                fencer.handle_timeout(shown);
                fencer.check_invariants();
            }
            self.drain(node);
        }
    }

    fn drain(&mut self, node: NodeId) {
        while let Some(output) = self.machine(node).fencer.as_mut().and_then(Fencer::poll_output) {
            self.log.push(format!("{} {node} {output:?}", self.now));
            match output {
                Output::Event(Event::Finished { target, outcome: Outcome::Confirmed { .. } }) => {
                    assert!(
                        self.said.contains(&target),
                        "X3: {target} never armed its watchdog and is confirmed at {node}"
                    );
                    assert!(
                        self.over(target),
                        "X1, X3: {target} is confirmed at {node}, and its machine was not reset"
                    );
                    self.lost.remove(&target);
                    self.sometimes("a silent node is confirmed");
                }
                Output::Event(Event::AttemptFailed {
                    target, failure: Failure::Refused { detail }, ..
                }) => {
                    let in_doubt = detail.contains("not certain");
                    let armed = self.said.contains(&target);
                    self.sometimes(match (in_doubt, armed) {
                        (true, _) => "a count is void",
                        (false, true) => "a count has not begun",
                        (false, false) => "a life without watchdog is not counted",
                    });
                }
                Output::Event(_) => {}
                other => panic!("no device is asked: {other:?}"),
            }
        }
    }

    fn run(&mut self) {
        while self.now < END {
            let calm = self.now >= CALM;
            if self.rng.chance(if calm { 0.05 } else { 0.01 }) {
                self.agree(calm);
            }
            if !calm && self.rng.chance(0.001) {
                let lives = self.lives();
                if let Some(killed) = self.rng.pick(&lives).copied() {
                    let machine = self.machine(killed.node);
                    (machine.runs, machine.keeper, machine.fencer) = (false, None, None);
                    self.sometimes("a process is killed");
                }
            }
            let nodes: Vec<_> = self.machines.keys().copied().collect();
            for node in nodes {
                self.lives_on(node);
            }
            self.members_move();
            self.fencers_move();
            self.now += STEP;
        }
        let waits: Vec<_> = self.lost.intersection(&self.said).collect();
        assert!(
            waits.is_empty(),
            "with a calm primary partition every armed life that is lost is confirmed: {waits:?}"
        );
    }
}

fn history(seed: u64) -> World {
    let mut world = World::new(seed, None);
    world.run();
    world
}

const CASES: [&str; 11] = [
    "a count is void",
    "a good word is long on its way",
    "a life is refused in the boot of one that was armed",
    "a life without watchdog is not counted",
    "a node does not obey its own end",
    "a node ends itself",
    "a process is killed",
    "a silent node is back in time",
    "a silent node is confirmed",
    "a watchdog bites",
    "a word to the watchdog is held up",
];

fn all_hold(seeds: std::ops::Range<u64>) {
    campaign::all_hold(seeds, &CASES, |seed| history(seed).sometimes);
}

#[test]
fn a_silent_life_is_confirmed_only_when_its_own_watchdog_has_ended_it() {
    all_hold(0..60);
}

#[test]
#[ignore = "long: 2,000 seeds"]
fn own_watchdogs_prove_an_end_over_two_thousand_seeds() {
    all_hold(1000..3000);
}

#[test]
fn the_same_seed_counts_the_same() {
    for seed in 0..4 {
        assert_eq!(history(seed).log, history(seed).log);
    }
}

#[test]
fn mistakes_in_counting_are_caught() {
    let bugs = [
        Bug::Fencer(Sabotage::CountUnarmed),
        Bug::Fencer(Sabotage::CountInDoubt),
        Bug::Fencer(Sabotage::CountOnce),
        Bug::NoMark,
    ];
    for bug in bugs {
        let caught = campaign::caught(400, |seed| World::new(seed, Some(bug)).run());
        let (seed, said) = caught.unwrap_or_else(|| panic!("{bug:?} is not seen"));
        assert!(said.contains("X3"), "{bug:?} at seed {seed}: {said}");
    }
}
