//! A whole cluster in virtual time: managers and executors as they are, agents, fencing and the ordered stream as models.
//!
//! One seed decides every delay and every failure. The checkers run inside the model, at the moment something happens:
//! * R1: a resource is active on at most as many machines as it has copies, and promoted on at most as many as configured.
//! * R2: managers that have consumed the same prefix of the stream have the same state, byte for byte.
//! * R3: a resource starts after those before it in its group, and is stopped after those behind it.
//! * V1: once faults have ceased, every copy that runs has the parameters that are agreed on.
//! * V2: and of copies whose agents say how good they are, the best is promoted, if any may be.
//! * V3: and no group is where another node is better by more than its stickiness; none ever starts where it is never to run.
//! * V5: and no group that counts it is where fewer hosts outside are reached than on another node, whichever is better.
//! * R4: once faults have ceased, decisions cease too.
//! * R5: replayed reports change nothing that breaks the others.
//! * N1: a step of a group that notifies begins after every notice of it has ended.
//! * Q1: nothing is started, promoted or moved while the quorum that its group needs is down (one seed of five).
//! * P1: the plan for what was touched is the plan for everything (in one seed of four; beyond 8 nodes one plan in 61).
//! * RR1, RR2: what holds while copies are restarted, see `restart.rs`.
//! * C1, C2, V4: what holds when the configuration changes, see `change.rs`.
//! * A1: where fencing takes access (one seed of three), nothing starts before it was given, and it is given where nothing is active.
//! * W1: fencing counts on a watchdog only once it has ended that life, see `watchdog.rs`.
//! * X1: nothing starts while an instance that started it, and did not stop it, is not proven dead.

#![expect(clippy::unwrap_used, reason = "a broken assumption of the model must end the test")]
#![expect(clippy::too_many_lines, reason = "the model reads best when one happening stands in one place")]
#![expect(clippy::wildcard_enum_match_arm, reason = "the model deals with what it knows")]

mod change;
mod quorum;
mod restart;
mod watchdog;

use bytes::Bytes;
use change::{Changes, Ground};
use ocf_resource::executor::{self, Executor, RunId};
use ocf_resource::testing::Bug;
use ocf_resource::{
    AccessNeed, Action, Config, Departed, FenceCause, FenceOutcome, GroupConfig, Input, Kept, LocalStatus,
    Manager, OcfCode, Operation, OperationResult, Outcome, Output, Preference, Promotion, ReachConfig,
    ResourceConfig, Score,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Hosts outside the cluster.
const HOSTS: u32 = 4;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// One entry of the ordered stream.
#[derive(Clone, Debug)]
enum Entry {
    View { number: u64, members: Vec<NodeInstance>, joined: Vec<NodeInstance>, departed: Vec<Departed> },
    Message { sender: NodeInstance, payload: Bytes },
    Want { joiner: NodeInstance, donor: NodeInstance, token: u64 },
}

#[derive(Clone, Debug)]
enum Due {
    /// A process consumes the next entry of the stream.
    Consume(NodeInstance),
    Order {
        sender: NodeInstance,
        payload: Bytes,
    },
    Done {
        at: NodeInstance,
        run: RunId,
        result: OperationResult,
    },
    /// The effect of an agent's work on its machine.
    Effect {
        at: NodeInstance,
        run: RunId,
        resource: Arc<str>,
        action: Action,
        to: Option<NodeInstance>,
        parameters: Parameters,
    },
    Timer(NodeInstance, Instant),
    FenceEnds {
        asker: NodeInstance,
        target: NodeInstance,
        confirmed: bool,
    },
    /// Its process dies, what it started lives on.
    Crash(NodeInstance),
    Strike,
    ViewChange,
    NonPrimary(NodeInstance),
    Resumed(NodeInstance),
    /// A device gives a life its access, or fails to.
    AccessEnds {
        at: NodeInstance,
        gives: bool,
    },
    /// All links are cut, or mended.
    Links(bool),
    /// A member is outside before the others have noticed.
    Alone(NodeInstance),
    /// The members agree on a view of the same members.
    Again,
    /// A life that is over is ended.
    Restart(NodeInstance),
    /// A watchdog that was last fed then ends its machine.
    Bites(NodeInstance, Instant),
    /// Nothing may have been heard of a life for the time of its watchdog.
    Silence {
        asker: NodeInstance,
        target: NodeInstance,
    },
    Boot(NodeId),
}

/// What an agent was told, and when.
type Parameters = (Instant, Arc<BTreeMap<String, String>>);

struct Process {
    manager: Manager,
    executor: Executor,
    /// Next entry of the stream.
    at: usize,
    /// In the primary partition, as far as the membership below is concerned.
    inside: bool,
    /// It was a member once.
    was_inside: bool,
    connected: bool,
    /// Skips entries until its state comes.
    joining: bool,
    /// It is outside and never had the state.
    blank: bool,
    consuming: bool,
    timer: Option<Instant>,
    /// When it last became a member of whose resources nobody knew anything.
    joined: Instant,
    runs: BTreeMap<RunId, Operation>,
    /// Notices of a time before it was a member, which nobody waits for.
    stale: BTreeSet<RunId>,
}

impl Process {
    /// It is no member any more, or a new one.
    fn forget_notices(&mut self) {
        self.stale.extend(self.runs.iter().filter(|(_, o)| o.action == Action::Notify).map(|(run, _)| *run));
    }
}

/// How faulty the world is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) until: Duration,
    pub(crate) every: Duration,
    pub(crate) start_fails: f64,
    pub(crate) stop_fails: f64,
    pub(crate) hangs: f64,
    pub(crate) fence_fails: f64,
    pub(crate) replays: f64,
    /// A node is alone for a moment while others hear of its next step.
    pub(crate) interrupts: f64,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    /// What the file of every node says.
    pub(crate) config: Config,
    changes: Changes,
    /// Groups whose copies are being restarted, and nothing else goes on: by resource.
    rolling: BTreeMap<Arc<str>, restart::Rolling>,
    /// What each machine has kept of what was agreed on.
    kept: BTreeMap<NodeId, Kept>,
    nodes: Vec<NodeId>,
    faults: Faults,
    bug: Option<Bug>,
    /// Compares plans, which takes longer than all else.
    compares: bool,
    queue: BTreeMap<(Instant, u64), Due>,
    sequence: u64,
    log: Vec<Entry>,
    digests: BTreeMap<usize, (NodeInstance, Bytes)>,
    processes: BTreeMap<NodeInstance, Process>,
    view: Vec<NodeInstance>,
    last_primary: Vec<NodeInstance>,
    number: u64,
    change_pending: bool,
    offers: BTreeMap<u64, Bytes>,
    token: u64,
    incarnations: u128,
    /// What is really active, by machine.
    active: BTreeMap<NodeId, BTreeSet<Arc<str>>>,
    /// What of it is promoted, by machine.
    promoted: BTreeMap<NodeId, BTreeSet<Arc<str>>>,
    /// What runs on a machine runs with these.
    parameters: BTreeMap<(NodeId, Arc<str>), Parameters>,
    /// What the agents of groups named `scored` say of promoting what they run.
    scores: BTreeMap<(NodeId, Arc<str>), Promotion>,
    /// How many hosts outside the cluster a machine reaches, of four.
    hosts: BTreeMap<NodeId, u32>,
    /// Nodes hear of that, and a group follows it: in one seed of four.
    follows: bool,
    /// Instances that began to start a resource and are not known to have stopped it.
    owners: BTreeMap<Arc<str>, BTreeSet<NodeInstance>>,
    last_order: BTreeMap<NodeInstance, Instant>,
    /// Machines without access: what is active there does no harm.
    revoked: BTreeSet<NodeId>,
    /// Lives that are being given it; true: nobody listens to what comes of it any more.
    giving: BTreeMap<NodeInstance, bool>,
    /// Lives that were given it.
    given: BTreeSet<NodeInstance>,
    /// Watchdogs of machines.
    armed: BTreeMap<NodeId, watchdog::Armed>,
    /// When a life that was a member left the view.
    gone: BTreeMap<NodeInstance, Instant>,
    pub(crate) violations: Vec<String>,
    pub(crate) seen: BTreeMap<&'static str, u64>,
    /// Record what happens; costs most of the time.
    pub(crate) tracing: bool,
    pub(crate) trace: Vec<String>,
}

/// Groups `g0`, `g1`, ... of the given numbers of resources.
pub(crate) fn config(sizes: &[usize], nodes: &[u32]) -> Config {
    let mut groups = Vec::new();
    for (g, size) in sizes.iter().enumerate() {
        let shifted = (0..nodes.len()).map(|i| NodeId::new(nodes[(i + g) % nodes.len()])).collect();
        let resources = (0..*size).map(|r| ResourceConfig {
            parameters: BTreeMap::new(),
            start_timeout: MS(2000),
            stop_timeout: MS(2000),
            monitor_interval: MS(2500),
            monitor_timeout: MS(1000),
            ..ResourceConfig::new(format!("g{g}r{r}"), "rust:model".parse().unwrap())
        });
        groups.push(GroupConfig {
            name: format!("g{g}"),
            nodes: shifted,
            elsewhere: false,
            failback: g % 2 == 1,
            preferences: Vec::new(),
            stickiness: None,
            reach: None,
            quorum: None,
            migration_threshold: 2,
            failure_window: Duration::ZERO,
            on_start_failure: Default::default(),
            on_stop_failure: Default::default(),
            started: true,
            copies: 1,
            restart_parallel: 1,
            migrate: false,
            notify: false,
            promoted: 0,
            priority: 0,
            resources: resources.collect(),
        });
    }
    // One on two nodes at once, one on all, one with roles; and one that no node can start.
    let nodes: Vec<NodeId> = nodes.iter().map(|n| NodeId::new(*n)).collect();
    for (name, copies, promoted, like) in
        [("two", 2, 0, 0), ("all", 0, 0, 2), ("roles", 2, 1, 1), ("scored", 0, 1, 1), ("broken", 1, 0, 2)]
    {
        let mut group = groups[like].clone();
        group.name = name.to_owned();
        (group.copies, group.promoted, group.nodes) = (copies, promoted, nodes.clone());
        group.notify = matches!(name, "two" | "roles");
        for (r, resource) in group.resources.iter_mut().enumerate() {
            resource.name = format!("{name}r{r}");
        }
        groups.push(group);
    }
    // One that moves without a stop, and goes back whenever it can.
    let mut live =
        GroupConfig { name: "live".to_owned(), migrate: true, failback: true, ..groups[2].clone() };
    live.resources[0].name = "liver0".to_owned();
    groups.push(live);
    // On any node: where there is least, where it would rather be, and where it would as soon be on one as on another.
    let prefers = |at: usize, score| Preference { node: nodes[at], score: Score::new(score) };
    let never = Preference { node: nodes[nodes.len() - 1], score: Score::NEVER };
    for (name, preferences) in [
        ("spread", Vec::new()),
        ("open", vec![prefers(0, 100), prefers(1, 60), never]),
        ("tied", vec![prefers(0, 60), prefers(1, 60)]),
    ] {
        let mut group =
            GroupConfig { name: name.to_owned(), preferences, nodes: Vec::new(), ..groups[2].clone() };
        group.stickiness = Some(Score::new(50));
        group.resources[0].name = format!("{name}r0");
        groups.push(group);
    }
    Config { groups, reach_settle: MS(1000), ..Config::default() }
}

/// A group that follows what nodes reach outside the cluster.
fn near(like: &GroupConfig) -> GroupConfig {
    let mut near = like.clone();
    (near.name, near.reach) = ("near".to_owned(), Some(ReachConfig::default()));
    near.resources[0].name = "nearr0".to_owned();
    near
}

impl World {
    pub(crate) fn new(seed: u64, nodes: u32, config: Config, faults: Faults, bug: Option<Bug>) -> Self {
        let mut world = Self {
            now: Instant::ZERO,
            rng: Rng::new(seed),
            config,
            changes: Changes::default(),
            rolling: BTreeMap::new(),
            kept: BTreeMap::new(),
            nodes: (1..=nodes).map(NodeId::new).collect(),
            faults,
            bug,
            compares: seed.is_multiple_of(4),
            queue: BTreeMap::new(),
            sequence: 0,
            log: Vec::new(),
            digests: BTreeMap::new(),
            processes: BTreeMap::new(),
            view: Vec::new(),
            last_primary: Vec::new(),
            number: 0,
            change_pending: false,
            offers: BTreeMap::new(),
            token: 0,
            incarnations: 0,
            active: BTreeMap::new(),
            promoted: BTreeMap::new(),
            parameters: BTreeMap::new(),
            scores: BTreeMap::new(),
            follows: false,
            hosts: (1..=nodes).map(|n| (NodeId::new(n), HOSTS)).collect(),
            owners: BTreeMap::new(),
            last_order: BTreeMap::new(),
            revoked: BTreeSet::new(),
            giving: BTreeMap::new(),
            given: BTreeSet::new(),
            armed: BTreeMap::new(),
            gone: BTreeMap::new(),
            violations: Vec::new(),
            seen: BTreeMap::new(),
            tracing: false,
            trace: Vec::new(),
        };
        if seed % 4 == 3 {
            world.follows = true;
            let near = near(&world.config.groups[2]);
            world.config.groups.push(near);
        }
        if seed % 5 == 2 {
            quorum::add(&mut world.config, nodes);
        }
        if seed % 3 == 1 {
            world.config.access = AccessNeed::Everybody;
            world.revoked = world.nodes.iter().copied().collect();
        }
        world.changes.allow(&world.config);
        let resources = world.config.groups.iter().flat_map(|g| &g.resources);
        let scored: Vec<Arc<str>> =
            resources.filter(|r| r.name.starts_with("scored")).map(|r| r.name.as_str().into()).collect();
        for node in world.nodes.clone() {
            for resource in &scored {
                world.scores.insert((node, Arc::clone(resource)), Promotion::Score(Score::ZERO));
            }
            world.after(MS(0), Due::Boot(node));
        }
        world.after(faults.every, Due::Strike);
        world
    }

    fn after(&mut self, delay: Duration, due: Due) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), due);
    }

    fn jitter(&mut self, low: u64, high: u64) -> Duration {
        MS(self.rng.between(low, high))
    }

    fn faulty(&self) -> bool {
        self.now < Instant::ZERO + self.faults.until
    }

    fn chance(&mut self, p: f64) -> bool {
        self.faulty() && self.rng.chance(p)
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn violate(&mut self, what: String) {
        self.violations.push(format!("{}: {what}", self.now));
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            let line = format!("{} {}", self.now, what());
            self.trace.push(line);
        }
    }

    /// Runs until `end`.
    pub(crate) fn run(&mut self, end: Duration) {
        let end = Instant::ZERO + end;
        while let Some((&(at, sequence), _)) = self.queue.first_key_value() {
            if at > end || !self.violations.is_empty() {
                break;
            }
            let due = self.queue.remove(&(at, sequence)).unwrap();
            self.now = at;
            self.fire(due);
        }
        self.now = self.now.max(end);
    }

    fn fire(&mut self, due: Due) {
        match due {
            Due::Boot(node) => self.boot(node),
            Due::ViewChange => self.change_view(),
            Due::Consume(who) => self.consume(who),
            Due::Order { sender, payload } => {
                if self.view.contains(&sender) && self.processes.get(&sender).is_some_and(|p| p.inside) {
                    if matches!(payload[1], 2..=4) && self.chance(self.faults.replays) {
                        let again = Due::Order { sender, payload: payload.clone() };
                        let delay = self.jitter(1, 5000);
                        self.after(delay, again);
                        self.saw("replayed report");
                    }
                    self.log.push(Entry::Message { sender, payload });
                    self.wake_all();
                }
            }
            Due::Done { at, run, result } => {
                if let Some(process) = self.processes.get_mut(&at)
                    && process.runs.remove(&run).is_some()
                {
                    process.executor.handle(self.now, executor::Input::Done { run, result });
                    self.drain(at);
                }
            }
            Due::Effect { at, run, resource, action, to, parameters } => {
                // What was ended, and is known to be, does nothing more.
                if self.processes.get(&at).is_some_and(|p| p.runs.contains_key(&run)) {
                    self.effect(at, &resource, (action, to), parameters);
                }
            }
            Due::Timer(who, at) => {
                if let Some(process) = self.processes.get_mut(&who)
                    && process.timer == Some(at)
                {
                    process.timer = None;
                    process.manager.handle_timeout(self.now);
                    process.executor.handle_timeout(self.now);
                    self.drain(who);
                }
            }
            Due::FenceEnds { asker, target, confirmed } => self.fence_ends(asker, target, confirmed),
            Due::Strike => self.strike(),
            Due::Crash(who) => {
                if self.processes.contains_key(&who) {
                    self.note(|| format!("process of {who} dies while something moves there"));
                    self.saw("target crash");
                    self.kill(who);
                    let delay = self.jitter(100, 8000);
                    self.after(delay, Due::Boot(who.node));
                }
            }
            Due::NonPrimary(who) => {
                if let Some(process) = self.processes.get_mut(&who)
                    && !process.inside
                {
                    process.blank |= process.joining;
                    process.joining = false;
                    self.giving.entry(who).and_modify(|cancelled| *cancelled = true);
                    process.manager.handle(self.now, Input::NonPrimary);
                    self.drain(who);
                }
            }
            Due::Resumed(who) => self.input(who, Input::Resumed),
            Due::AccessEnds { at, gives } => self.access_ends(at, gives),
            Due::Alone(who) => {
                if self.view.contains(&who)
                    && self.processes.get(&who).is_some_and(|p| p.inside && !p.joining)
                {
                    self.saw("alone for a moment");
                    self.processes.get_mut(&who).unwrap().forget_notices();
                    self.giving.entry(who).and_modify(|cancelled| *cancelled = true);
                    self.input(who, Input::NonPrimary);
                }
            }
            Due::Again => self.same_view(),
            Due::Bites(who, since) => self.bite(who, since),
            Due::Silence { asker, target } => self.silence_ends(asker, target),
            Due::Links(up) => {
                self.note(|| format!("all links: {up}"));
                self.processes.values_mut().for_each(|p| p.connected = up);
                self.schedule_change();
            }
            Due::Restart(who) => {
                if self.processes.contains_key(&who) {
                    self.note(|| format!("{who} is started anew"));
                    self.kill(who);
                    let delay = self.jitter(500, 3000);
                    self.after(delay, Due::Boot(who.node));
                }
            }
        }
    }

    fn input(&mut self, who: NodeInstance, input: Input<'_>) {
        if let Some(process) = self.processes.get_mut(&who) {
            process.manager.handle(self.now, input);
            self.drain(who);
        }
    }

    fn boot(&mut self, node: NodeId) {
        if self.processes.keys().any(|i| i.node == node) {
            return;
        }
        let me = NodeInstance::new(node, Incarnation::new((self.incarnations + 1) << 96));
        if !self.arm(me) {
            return self.after(MS(500), Due::Boot(node));
        }
        self.incarnations += 1;
        let mut manager = Manager::new(me, self.config.clone());
        if let Some(kept) = self.kept.get(&node) {
            manager.set_kept(kept.clone());
        }
        if self.compares {
            manager.compare_plans(if self.nodes.len() > 8 { 61 } else { 1 });
        }
        if let Some(bug) = self.bug {
            manager.put_back(bug);
        }
        if let Some(watchdog) = watchdog::of(node) {
            manager.set_watchdog(watchdog);
        }
        let executor =
            Executor::new(executor::Config { margin: MS(500), ..Default::default() }, self.rng.fork());
        let process = Process {
            manager,
            executor,
            at: 0,
            inside: false,
            was_inside: false,
            connected: true,
            joining: false,
            blank: false,
            consuming: false,
            timer: None,
            joined: self.now,
            runs: BTreeMap::new(),
            stale: BTreeSet::new(),
        };
        self.processes.insert(me, process);
        self.note(|| format!("boot {me}"));
        if self.follows {
            let hosts = self.hosts[&node];
            self.input(me, Input::Reach { hosts, of: HOSTS });
        }
        self.schedule_change();
    }

    fn schedule_change(&mut self) {
        if !self.change_pending {
            self.change_pending = true;
            let delay = self.jitter(20, 300);
            self.after(delay, Due::ViewChange);
        }
    }

    /// Membership: the connected processes form the next view if they are a majority of all nodes and contain a
    /// majority of the last primary; without the latter only if all nodes are there.
    fn change_view(&mut self) {
        self.change_pending = false;
        let up: Vec<NodeInstance> =
            self.processes.iter().filter(|(_, p)| p.connected).map(|(i, _)| *i).collect();
        let majority = |of: &[NodeInstance]| of.iter().filter(|i| up.contains(i)).count() * 2 > of.len();
        let remembers = if self.view.is_empty() {
            majority(&self.last_primary)
        } else {
            let synced = self.view.iter().filter(|i| up.contains(i) && !self.processes[i].joining).count();
            synced * 2 > self.view.len()
        };
        let all = up.len() == self.nodes.len();
        if up.len() * 2 <= self.nodes.len() || !(remembers || (all && self.view.is_empty())) {
            if !self.view.is_empty() {
                self.saw("no primary");
            }
            if all {
                self.schedule_change();
            }
            for (who, process) in &mut self.processes {
                if process.inside {
                    process.inside = false;
                    process.forget_notices();
                    self.sequence += 1;
                    self.queue.insert((self.now + MS(50), self.sequence), Due::NonPrimary(*who));
                }
            }
            self.leave_view(&[]);
            return;
        }
        // View synchrony: those who go on consume all of the old view first.
        let knows = |i: &&NodeInstance| self.processes.get(*i).is_some_and(|p| p.connected && !p.blank);
        let know = self.last_primary.iter().filter(knows).count();
        let outside = self.view.is_empty() && know * 2 > self.last_primary.len();
        // Those who have the state of the last primary go on with it, or, where memory fails, nobody does.
        let goes_on = outside && self.rng.chance(0.7);
        if goes_on {
            self.saw("goes on");
        }
        let base = if goes_on { &self.last_primary } else { &self.view };
        let blank = |i: &NodeInstance| goes_on && self.processes.get(i).is_some_and(|p| p.blank);
        let stays: Vec<NodeInstance> = base.iter().copied().filter(|i| up.contains(i) && !blank(i)).collect();
        for who in &stays {
            while self.processes.get(who).is_some_and(|p| p.at < self.log.len()) {
                if !self.step(*who) {
                    break;
                }
            }
        }
        let synced: Vec<NodeInstance> =
            stays.iter().copied().filter(|i| !self.processes[i].joining).collect();
        let before = if self.view.is_empty() { &self.last_primary } else { &self.view };
        let departed: Vec<Departed> = before
            .iter()
            .filter(|i| !up.contains(i))
            .map(|i| Departed { instance: *i, proof_of_death: false, why: "silent".into() })
            .collect();
        let founding = synced.is_empty();
        let mut joined: Vec<NodeInstance> = up.iter().copied().filter(|i| !synced.contains(i)).collect();
        joined.sort();
        let members: Vec<NodeInstance> = synced.iter().chain(&joined).copied().collect();
        if members == self.view && !founding {
            return;
        }
        self.number += 1;
        let entry =
            Entry::View { number: self.number, members: members.clone(), joined: joined.clone(), departed };
        self.note(|| format!("view {entry:?}"));
        let at = self.log.len();
        self.log.push(entry);
        for (who, process) in &mut self.processes {
            if process.inside && !members.contains(who) {
                process.inside = false;
                process.forget_notices();
                self.sequence += 1;
                self.queue.insert((self.now + MS(50), self.sequence), Due::NonPrimary(*who));
            }
        }
        for who in &joined {
            let process = self.processes.get_mut(who).unwrap();
            process.at = at;
            process.joining = !founding;
            process.blank = false;
            process.forget_notices();
        }
        for who in &members {
            self.processes.get_mut(who).unwrap().inside = true;
        }
        if !founding {
            for joiner in &joined {
                self.token += 1;
                self.log.push(Entry::Want { joiner: *joiner, donor: synced[0], token: self.token });
            }
        } else {
            self.saw("founding");
            // The new life of a node answers for what the old ones left on the machine.
            for owners in self.owners.values_mut() {
                *owners =
                    owners.iter().map(|o| *members.iter().find(|m| m.node == o.node).unwrap_or(o)).collect();
            }
        }
        self.last_primary.clone_from(&members);
        self.leave_view(&members);
        self.wake_all();
    }

    /// The view is of these members now; watchdogs of those who are no members are not fed.
    fn leave_view(&mut self, members: &[NodeInstance]) {
        let before = core::mem::replace(&mut self.view, members.to_vec());
        let now = self.now;
        self.gone.extend(before.into_iter().filter(|i| !members.contains(i)).map(|i| (i, now)));
        for who in members {
            self.gone.remove(who);
            self.processes.get_mut(who).unwrap().was_inside = true;
        }
        for who in self.processes.keys().copied().collect::<Vec<_>>() {
            self.feed(who);
        }
    }

    /// The next view, with those who are in this one.
    fn same_view(&mut self) {
        let members = self.view.clone();
        let up = |who: &NodeInstance| self.processes.get(who).is_some_and(|p| p.connected);
        if members.is_empty() || !members.iter().all(up) {
            return self.schedule_change();
        }
        if members.iter().any(|who| self.processes[who].joining) {
            return self.after(MS(50), Due::Again);
        }
        for who in &members {
            while self.processes[who].at < self.log.len() && self.step(*who) {}
        }
        self.number += 1;
        let (number, joined, departed) = (self.number, Vec::new(), Vec::new());
        self.log.push(Entry::View { number, members, joined, departed });
        self.wake_all();
    }

    fn wake_all(&mut self) {
        for who in self.view.clone() {
            self.wake(who);
        }
    }

    fn wake(&mut self, who: NodeInstance) {
        let delay = self.jitter(0, 20);
        let length = self.log.len();
        if let Some(process) = self.processes.get_mut(&who)
            && !process.consuming
            && process.inside
            && process.at < length
        {
            process.consuming = true;
            self.after(delay, Due::Consume(who));
        }
    }

    fn consume(&mut self, who: NodeInstance) {
        let Some(process) = self.processes.get_mut(&who) else { return };
        process.consuming = false;
        if process.inside {
            let went = self.step(who);
            if went {
                self.wake(who);
            } else {
                // Waits for its state.
                let process = self.processes.get_mut(&who).unwrap();
                process.consuming = true;
                self.after(MS(30), Due::Consume(who));
            }
        }
    }

    /// Consumes one entry; false if that has to wait.
    fn step(&mut self, who: NodeInstance) -> bool {
        let Some(process) = self.processes.get_mut(&who) else { return true };
        let Some(entry) = self.log.get(process.at).cloned() else { return true };
        let now = self.now;
        match &entry {
            Entry::View { number, members, joined, departed } => {
                if joined.contains(&who) {
                    process.joined = now;
                }
                process.manager.handle(now, Input::View { number: *number, members, joined, departed });
            }
            Entry::Message { sender, payload } => {
                if !process.joining {
                    let revision = |p: &Process| p.manager.state().config().map_or(0, |c| c.revision);
                    let before = revision(process);
                    process.manager.handle(now, Input::Ordered { sender: *sender, payload });
                    // A command that brings a configuration.
                    if payload[1..].starts_with(&[5, 9]) {
                        self.check_change(who, before);
                    }
                }
            }
            Entry::Want { joiner, donor, token } => {
                if donor == &who {
                    process.manager.handle(now, Input::StateWanted { token: *token });
                } else if joiner == &who && process.joining {
                    match self.offers.get(token) {
                        Some(state) => {
                            process.joining = false;
                            process.manager.handle(now, Input::State(state));
                        }
                        None if self.processes.get(donor).is_some_and(|p| p.inside) => return false,
                        None => {}
                    }
                }
            }
        }
        let process = self.processes.get_mut(&who).unwrap();
        let different = process.manager.difference().map(|how| format!("P1: {who} plans {how}"));
        process.at += 1;
        let at = process.at;
        if let Some(different) = different {
            self.violate(different);
        }
        let process = &self.processes[&who];
        // A difference does not vanish again, so that not every place has to be compared.
        if !process.joining && at.is_multiple_of(self.nodes.len().max(5)) {
            let state = process.manager.state().emit();
            match self.digests.get(&at) {
                Some((other, digest)) if *digest != state => {
                    let other = *other;
                    self.violate(format!("R2: {who} and {other} differ at {at}: {entry:?}"));
                }
                Some(_) => {}
                None => {
                    self.digests.insert(at, (who, state));
                }
            }
        }
        self.drain(who);
        true
    }

    /// Carries out what manager and executor of a process ask for.
    fn drain(&mut self, who: NodeInstance) {
        loop {
            let Some(process) = self.processes.get_mut(&who) else { return };
            if let Some(output) = process.manager.poll_output() {
                self.manager_output(who, output);
                continue;
            }
            match process.executor.poll_output() {
                Some(output) => self.executor_output(who, output),
                None => break,
            }
        }
        self.feed(who);
        let process = &self.processes[&who];
        let next =
            [process.manager.poll_timeout(), process.executor.poll_timeout()].into_iter().flatten().min();
        if let Some(at) = next {
            let at = at.max(self.now + MS(1));
            let process = self.processes.get_mut(&who).unwrap();
            if process.timer.is_none_or(|t| t > at) {
                process.timer = Some(at);
                self.after(at - self.now, Due::Timer(who, at));
            }
        }
    }

    fn manager_output(&mut self, who: NodeInstance, output: Output) {
        match output {
            Output::Broadcast(payload) => {
                let delay = self.jitter(1, 30);
                let at = (self.now + delay).max(self.last_order.get(&who).copied().unwrap_or_default());
                self.last_order.insert(who, at);
                self.after(at - self.now, Due::Order { sender: who, payload });
            }
            Output::Execute(request) => {
                let process = self.processes.get_mut(&who).unwrap();
                process.executor.handle(self.now, executor::Input::Request(request));
            }
            Output::Fence { target, cause } => {
                self.note(|| format!("{who} asks to fence {target}: {cause}"));
                self.saw(match cause {
                    FenceCause::StopFailed { .. } => "fenced for a failed stop",
                    _ => "fenced as lost",
                });
                if target == who {
                    self.violate(format!("{who} fences itself"));
                }
                let confirmed = !self.chance(self.faults.fence_fails);
                self.saw(if confirmed { "fence confirmed" } else { "fence failed" });
                let delay = self.jitter(10, 4000);
                self.after(delay, Due::FenceEnds { asker: who, target, confirmed });
                self.count_on_watchdog(who, target);
            }
            Output::OfferState { token, state } => {
                self.offers.insert(token, state);
            }
            Output::GiveAccess => {
                self.note(|| format!("{who} is to be given its access"));
                self.give_access(who);
            }
            Output::Event(event) => {
                let over = |event: &ocf_resource::Event| matches!(event, ocf_resource::Event::LifeIsOver { node } | ocf_resource::Event::Fenced { target: node, .. } if *node == who);
                if over(&event) {
                    self.saw("life over");
                    let delay = self.jitter(500, 3000);
                    self.after(delay, Due::Restart(who));
                }
                self.note(|| format!("{who}: {event:?}"));
                match &event {
                    ocf_resource::Event::Decided { resource, node, action, .. } if *node == who => {
                        self.note_ground(who, resource);
                        self.check_quorum(who, resource, *action);
                    }
                    ocf_resource::Event::Notifying { node, before: true, .. } if *node == who => {
                        self.interrupt(who);
                    }
                    ocf_resource::Event::Removed { resource } => self.check_removed(who, resource),
                    ocf_resource::Event::Configured { .. } => self.saw("configured"),
                    ocf_resource::Event::ConfigurationRefused { .. } => self.saw("change refused"),
                    _ => {}
                }
            }
            Output::Keep(kept) => {
                self.kept.insert(who.node, kept);
            }
            _ => {}
        }
    }

    fn fence_ends(&mut self, asker: NodeInstance, target: NodeInstance, confirmed: bool) {
        // The device switches the machine off and on whoever asked; the answer reaches a living asker only.
        if confirmed && self.takes_access() {
            self.note(|| format!("machine {} loses its access", target.node));
            self.saw("access taken");
            self.revoked.insert(target.node);
            for owners in self.owners.values_mut() {
                owners.retain(|owner| owner.node != target.node);
            }
        } else if confirmed {
            let same = self.processes.keys().copied().find(|i| i.node == target.node);
            if let Some(victim) = same {
                self.note(|| format!("machine of {victim} is switched off"));
                self.kill(victim);
                let delay = self.jitter(500, 3000);
                self.after(delay, Due::Boot(target.node));
            }
            self.armed.remove(&target.node);
            self.active.remove(&target.node);
            self.promoted.remove(&target.node);
            for owners in self.owners.values_mut() {
                owners.remove(&target);
            }
        }
        let (outcome, detail) =
            if confirmed { (FenceOutcome::Confirmed, "off") } else { (FenceOutcome::Unknown, "no answer") };
        self.input(asker, Input::Fenced { target, outcome, detail });
    }

    /// Fencing takes a machine its access, and lets it run on.
    fn takes_access(&self) -> bool {
        self.config.access != AccessNeed::Nobody
    }

    /// Orders to give access are given one after the other: a second request joins the first, or waits until a cancelled one has ended.
    fn give_access(&mut self, who: NodeInstance) {
        match self.giving.get(&who) {
            Some(false) => {}
            Some(true) => self.input(who, Input::Access { why: Some("an earlier order is still ending") }),
            None => {
                self.giving.insert(who, false);
                let gives = !self.chance(self.faults.fence_fails);
                let delay = self.jitter(5, 1500);
                self.after(delay, Due::AccessEnds { at: who, gives });
            }
        }
    }

    fn access_ends(&mut self, at: NodeInstance, gives: bool) {
        let cancelled = self.giving.remove(&at).unwrap_or(true);
        // The program that gives it dies with its node, having done so or not.
        let dead = !self.processes.contains_key(&at);
        if gives && (!dead || self.rng.chance(0.5)) {
            let active = self.active.get(&at.node).filter(|a| !a.is_empty()).cloned();
            if let Some(active) = active.filter(|_| !dead) {
                self.violate(format!("A1: {at} is given access while it runs {active:?}"));
            }
            self.saw("access given");
            self.revoked.remove(&at.node);
            self.given.insert(at);
            // Nothing is active there, and agents die with who called them: so nobody owns anything.
            for owners in self.owners.values_mut() {
                owners.retain(|owner| owner.node != at.node);
            }
        }
        if !cancelled {
            self.input(at, Input::Access { why: (!gives).then_some("the device does not answer") });
        }
    }

    /// Active, where that means something.
    fn works(&self, node: NodeId, resource: &str) -> bool {
        self.is_active(node, resource) && !self.revoked.contains(&node)
    }

    fn kill(&mut self, who: NodeInstance) {
        self.processes.remove(&who);
        self.feed(who);
        self.schedule_change();
    }

    fn executor_output(&mut self, who: NodeInstance, output: executor::Output) {
        match output {
            executor::Output::Run { run, operation } => self.begin(who, run, operation),
            executor::Output::Cancel { run } => {
                let notice = |o: &Operation| o.action == Action::Notify;
                let soon = self.processes[&who].runs.get(&run).is_some_and(notice);
                let delay = if soon { MS(0) } else { self.jitter(0, 20) };
                self.after(
                    delay,
                    Due::Done { at: who, run, result: OperationResult::new(Outcome::Cancelled) },
                );
            }
            executor::Output::Event(event) => {
                let process = self.processes.get_mut(&who).unwrap();
                process.manager.handle(self.now, Input::Executor(event));
            }
            _ => {}
        }
    }

    fn is_promoted(&self, node: NodeId, resource: &str) -> bool {
        self.promoted.get(&node).is_some_and(|a| a.contains(resource))
    }

    fn is_active(&self, node: NodeId, resource: &str) -> bool {
        self.active.get(&node).is_some_and(|a| a.contains(resource))
    }

    /// An agent begins its work.
    fn begin(&mut self, who: NodeInstance, run: RunId, operation: Operation) {
        let resource = Arc::clone(&operation.resource);
        let ground = self.ground(who, &resource);
        let at = ground.place(&resource);
        let Ground { names, copies, promoted, group } = ground;
        let named = |name: &str| self.processes.keys().copied().find(|i| i.node.to_string() == name);
        let to = operation.meta.get("migrate_target").and_then(|name| named(name));
        // Outside, and until it has seen that it is inside again, a stop that fails holds up no other.
        let local = self.processes[&who].manager.local();
        let inside = matches!(local, LocalStatus::Active | LocalStatus::Suspended);
        self.note(|| format!("{who} runs {} of {resource}", operation.action));
        self.check_notices(who, &operation, inside);
        match operation.action {
            Action::Start => {
                if self.takes_access() && !self.given.contains(&who) {
                    self.violate(format!("A1: {who} starts {resource} without its access"));
                }
                if group.preference(who.node) == Score::NEVER {
                    self.violate(format!("V3: {who} starts {resource}, which is never to run there"));
                }
                let elsewhere: Vec<NodeId> = self.nodes.iter().copied().filter(|n| *n != who.node).collect();
                let busy = |n: &&NodeId| names.iter().any(|name| self.works(**n, name));
                let on: Vec<NodeId> = elsewhere.iter().filter(busy).copied().collect();
                if on.len() >= copies {
                    self.violate(format!("R1: {who} starts {resource} while its group is active on {on:?}"));
                }
                let owners = self.owners.entry(Arc::clone(&resource)).or_default();
                let harms = |o: &&NodeInstance| **o != who && !self.revoked.contains(&o.node);
                let others: Vec<_> = owners.iter().filter(harms).copied().collect();
                owners.insert(who);
                // Two lives of one machine are one place.
                let places: BTreeSet<NodeId> = others.iter().map(|o| o.node).collect();
                if places.len() >= copies {
                    self.violate(format!("X1: {who} starts {resource}, begun by {others:?} and never ended"));
                }
                if self.active.get(&who.node).is_none_or(|a| names[..at].iter().any(|n| !a.contains(n)))
                    && at > 0
                {
                    self.saw("start after one before it just crashed");
                }
                if names[at + 1..].iter().any(|n| self.is_active(who.node, n)) {
                    self.violate(format!("R3: {who} starts {resource} while one behind it is active"));
                }
            }
            Action::MigrateTo => {
                self.saw("migrate to");
                if let Some(to) = to {
                    self.owners.entry(Arc::clone(&resource)).or_default().insert(to);
                    if self.chance(0.25) {
                        let delay = self.jitter(1, 300);
                        self.after(delay, Due::Crash(to));
                    }
                }
            }
            Action::MigrateFrom => {
                self.saw("migrate from");
                let source = operation.meta["migrate_source"].as_str();
                let other = |n: &NodeId| *n != who.node && n.to_string() != source;
                let owners = self.owners.entry(Arc::clone(&resource)).or_default();
                if owners.iter().any(|o| other(&o.node) && !self.revoked.contains(&o.node)) {
                    let owners = owners.clone();
                    self.violate(format!("X1: {who} takes {resource} over, begun by {owners:?}"));
                }
            }
            Action::Promote => {
                let on: Vec<NodeId> = self
                    .nodes
                    .iter()
                    .copied()
                    .filter(|n| {
                        *n != who.node && self.is_promoted(*n, &resource) && self.works(*n, &resource)
                    })
                    .collect();
                self.saw("promote");
                if on.len() >= promoted {
                    self.violate(format!("R1: {who} promotes {resource} while it is promoted on {on:?}"));
                }
            }
            Action::Stop if inside && names[at + 1..].iter().any(|n| self.is_active(who.node, n)) => {
                self.violate(format!("R3: {who} stops {resource} while one behind it is active"));
            }
            _ => {}
        }
        let (timeout, parameters) = (operation.timeout, (self.now, Arc::clone(&operation.parameters)));
        let recurring = operation.interval.is_some();
        if let Some(interval) = operation.interval {
            self.changes.intervals.insert((who.node, Arc::clone(&resource)), interval);
        }
        let action = operation.action;
        self.processes.get_mut(&who).unwrap().runs.insert(run, operation);
        let fails = match action {
            Action::Start
            | Action::Promote
            | Action::MigrateTo
            | Action::MigrateFrom
            | Action::ReloadAgent => self.faults.start_fails,
            Action::Stop => self.faults.stop_fails,
            _ => 0.0,
        };
        let hang = self.chance(self.faults.hangs);
        let broken = action == Action::Start && resource.starts_with("broken");
        let fail = self.chance(fails) || broken;
        // A move takes long enough for views and fencing to come in between.
        let took = self.jitter(5, if action == Action::MigrateTo { 1_200 } else { 150 });
        let told = parameters.clone();
        let effect =
            Due::Effect { at: who, run, resource: Arc::clone(&resource), action, to, parameters: told };
        let said = self.scores.get(&(who.node, Arc::clone(&resource))).copied();
        let reloads = action == Action::ReloadAgent;
        if reloads {
            self.saw("reload");
            if resource.ends_with("r1") {
                self.saw("reload refused");
                let result = OperationResult::new(Outcome::Failed { code: OcfCode::Unimplemented });
                self.after(took, Due::Done { at: who, run, result });
                return;
            }
        }
        let acts = action.changes() || reloads;
        if hang {
            self.saw("agent hung");
            if acts && self.rng.chance(0.5) {
                self.after(took, effect);
            }
            // Sometimes not even the driver reports.
            if self.rng.chance(0.8) {
                self.after(
                    timeout,
                    Due::Done { at: who, run, result: OperationResult::new(Outcome::TimedOut) },
                );
            }
            return;
        }
        if acts && !broken && (!fail || self.rng.chance(0.5)) {
            self.after(took, effect);
        }
        if action == Action::Monitor {
            let code = match self.is_active(who.node, &resource) {
                true if self.is_promoted(who.node, &resource) => OcfCode::RunningPromoted,
                true => OcfCode::Success,
                false => OcfCode::NotRunning,
            };
            if code == OcfCode::NotRunning {
                if let Some(owners) = self.owners.get_mut(&resource) {
                    owners.remove(&who);
                }
            } else {
                let key = (who.node, Arc::clone(&resource));
                let joined = self.processes[&who].joined;
                if !recurring && self.parameters.get(&key).is_none_or(|(told, _)| *told <= joined) {
                    // What a member that joins is found to run counts as run with what is configured.
                    self.parameters.insert(key, parameters);
                }
                self.owners.entry(resource).or_default().insert(who);
            }
            let outcome = if code == OcfCode::Success { Outcome::Ok } else { Outcome::Failed { code } };
            let mut result = OperationResult::new(outcome);
            result.promotion = said.filter(|_| code != OcfCode::NotRunning);
            self.after(took, Due::Done { at: who, run, result });
            return;
        }
        let lost = action == Action::MigrateFrom && !self.is_active(who.node, &resource);
        let outcome = if fail || lost { Outcome::Failed { code: OcfCode::Generic } } else { Outcome::Ok };
        let mut result = OperationResult::new(outcome);
        result.promotion = said.filter(|_| !fail && action == Action::Start);
        self.after(took + MS(1), Due::Done { at: who, run, result });
    }

    /// A notice of a step ends before the step begins.
    fn check_notices(&mut self, who: NodeInstance, operation: &Operation, inside: bool) {
        if operation.action == Action::Notify {
            self.saw("notify");
            return;
        }
        let told = |notice: &Operation| {
            let key = format!("notify_{}_uname", operation.action);
            notice.action == Action::Notify
                && notice.resource == operation.resource
                && notice.meta["notify_type"] == "pre"
                && notice.meta["notify_operation"] == operation.action.word()
                && notice.meta.get(&key).is_some_and(|name| *name == who.node.to_string())
        };
        let hears = |p: &Process| p.inside && p.runs.iter().any(|(run, o)| !p.stale.contains(run) && told(o));
        if inside && self.processes[&who].inside && self.processes.values().any(hears) {
            let Operation { action, resource, .. } = operation;
            self.violate(format!("N1: {who} begins {action} of {resource} before all have heard of it"));
        }
    }

    fn effect(
        &mut self,
        at: NodeInstance,
        resource: &Arc<str>,
        (action, to): (Action, Option<NodeInstance>),
        parameters: Parameters,
    ) {
        // In this model an agent that is at work dies with the process that started it; what it started lives on.
        if !self.processes.contains_key(&at) {
            return;
        }
        if action == Action::MigrateTo {
            let went = self.active.entry(at.node).or_default().remove(resource);
            if let Some(to) = to.filter(|to| went && self.processes.contains_key(to)) {
                self.active.entry(to.node).or_default().insert(Arc::clone(resource));
                if let Some(with) = self.parameters.get(&(at.node, Arc::clone(resource))).cloned() {
                    self.parameters.insert((to.node, Arc::clone(resource)), with);
                }
            }
        }
        let set = self.active.entry(at.node).or_default();
        let roles = self.promoted.entry(at.node).or_default();
        match action {
            Action::Start => {
                let started = set.insert(Arc::clone(resource));
                if started {
                    self.parameters.insert((at.node, Arc::clone(resource)), parameters);
                }
            }
            Action::ReloadAgent if set.contains(resource) => {
                self.parameters.insert((at.node, Arc::clone(resource)), parameters);
            }
            Action::Promote if set.contains(resource) => {
                roles.insert(Arc::clone(resource));
            }
            Action::Demote => {
                roles.remove(resource);
            }
            Action::Stop => {
                set.remove(resource);
                roles.remove(resource);
                if let Some(owners) = self.owners.get_mut(resource) {
                    owners.remove(&at);
                }
                self.check_restart(at, resource);
            }
            _ => {}
        }
        let (copies, promoted) = self.changes.most(resource);
        let on: Vec<NodeId> = self
            .promoted
            .keys()
            .filter(|n| self.is_promoted(**n, resource) && self.works(**n, resource))
            .copied()
            .collect();
        if on.len() > promoted {
            self.violate(format!("R1: {resource} is promoted on {on:?}"));
        }
        let on: Vec<NodeId> = self.active.keys().filter(|n| self.works(**n, resource)).copied().collect();
        if on.len() > copies {
            self.violate(format!("R1: {resource} is active on {on:?}"));
        }
    }

    fn strike(&mut self) {
        if !self.faulty() {
            return self.heal();
        }
        let some: Vec<NodeInstance> = self.processes.keys().copied().collect();
        if let Some(who) = self.rng.pick(&some).copied() {
            match self.rng.below(8) {
                0 => {
                    self.note(|| format!("process of {who} dies, its resources live on"));
                    self.saw("process crash");
                    self.kill(who);
                    let delay = self.jitter(100, 8000);
                    self.after(delay, Due::Boot(who.node));
                }
                1 => {
                    self.note(|| format!("machine of {who} dies"));
                    self.saw("machine crash");
                    self.kill(who);
                    self.armed.remove(&who.node);
                    self.active.remove(&who.node);
                    self.promoted.remove(&who.node);
                    let delay = self.jitter(1000, 8000);
                    self.after(delay, Due::Boot(who.node));
                }
                2 => {
                    self.note(|| format!("link of {who} is cut or mended"));
                    self.saw("partition");
                    let process = self.processes.get_mut(&who).unwrap();
                    process.connected = !process.connected;
                    self.schedule_change();
                }
                7 => self.blink(),
                3 => {
                    self.saw("suspended");
                    if self.processes[&who].inside {
                        self.input(who, Input::Suspended);
                        let delay = self.jitter(10, 500);
                        self.after(delay, Due::Resumed(who));
                    }
                }
                4 | 5 => {
                    let victim = self.active.get(&who.node).and_then(|a| a.iter().next().cloned());
                    if let Some(resource) = victim {
                        self.note(|| format!("{resource} dies on {who}"));
                        self.saw("resource crash");
                        self.active.get_mut(&who.node).unwrap().remove(&resource);
                        self.promoted.entry(who.node).or_default().remove(&resource);
                    }
                }
                _ => self.command(who),
            }
        }
        self.change_mind();
        let delay = self.rng.duration(self.faults.every / 2, self.faults.every);
        self.after(delay, Due::Strike);
    }

    /// Every link is cut for a moment, often while something is on its way from node to node.
    fn blink(&mut self) {
        self.saw("blink");
        let members = self.view.clone();
        let node = self.rng.pick(&self.nodes).copied();
        if let Some(process) = members.first().and_then(|who| self.processes.get_mut(who)) {
            let command = ocf_resource::Command::MoveGroup { group: "live".into(), to: node };
            if process.manager.request(self.now, command).is_ok() {
                self.drain(members[0]);
            }
        }
        let (cut, mend) = (self.jitter(20, 200), self.jitter(400, 1_000));
        if self.rng.chance(0.5) {
            self.after(cut, Due::Links(false));
            self.after(mend, Due::Links(true));
        } else if let Some(who) = self.rng.pick(&members).copied() {
            self.after(cut, Due::Alone(who));
            self.after(mend, Due::Again);
        }
    }

    /// Others are about to hear of a step of this node.
    fn interrupt(&mut self, who: NodeInstance) {
        if self.faults.interrupts > 0.0 && self.chance(self.faults.interrupts) {
            let (alone, again) = (self.jitter(1, 200), self.jitter(300, 1_500));
            self.after(alone, Due::Alone(who));
            self.after(again, Due::Again);
        }
    }

    fn command(&mut self, who: NodeInstance) {
        use ocf_resource::Command;
        let group: Arc<str> = self.rng.pick(&self.config.groups).unwrap().name.as_str().into();
        let node = *self.rng.pick(&self.nodes).unwrap();
        let command = match self.rng.below(11) {
            9 | 10 => Command::MoveGroup { group: "live".into(), to: Some(node) },
            0 => Command::StopGroup(group),
            1 | 2 => Command::StartGroup(group),
            3 => Command::MoveGroup { group, to: Some(node) },
            4 => Command::Standby(node),
            5 => Command::Online(node),
            7 => Command::Maintenance { group: Some(group), on: self.rng.chance(0.3) },
            8 => Command::Maintenance { group: None, on: self.rng.chance(0.3) },
            _ => Command::ClearFailures(group),
        };
        let now = self.now;
        if self.processes.get_mut(&who).unwrap().manager.request(now, command).is_ok() {
            self.saw("command");
            self.drain(who);
        }
    }

    /// Agents and operators change their minds.
    fn change_mind(&mut self) {
        let scored: Vec<(NodeId, Arc<str>)> = self.scores.keys().cloned().collect();
        if self.rng.chance(0.3)
            && let Some(key) = self.rng.pick(&scored).cloned()
        {
            let score = i64::try_from(self.rng.below(60)).unwrap() - 10;
            let says =
                if self.rng.chance(0.1) { Promotion::Withdrawn } else { Promotion::Score(Score::new(score)) };
            self.note(|| format!("{} says of {}: {says}", key.0, key.1));
            self.saw("promotion score");
            self.scores.insert(key, says);
        }
        if self.follows && self.rng.chance(0.2) {
            self.change_reach();
        }
        let members = self.view.clone();
        if self.rng.chance(0.2)
            && let Some(who) = self.rng.pick(&members).copied()
        {
            self.change_condition(who);
        }
        if self.rng.chance(0.2) {
            self.change_configuration();
        }
        if self.rng.chance(0.3)
            && let Some(who) = self.rng.pick(&members).copied()
        {
            let resources: Vec<&ResourceConfig> =
                self.config.groups.iter().flat_map(|g| &g.resources).collect();
            let resource: Arc<str> = self.rng.pick(&resources).unwrap().name.as_str().into();
            let value = self.rng.below(4).to_string();
            let parameters = BTreeMap::from([("p".to_owned(), value)]);
            let command = ocf_resource::Command::SetParameters { resource, parameters };
            let now = self.now;
            if let Some(process) = self.processes.get_mut(&who)
                && process.manager.request(now, command).is_ok()
            {
                self.saw("set parameters");
                self.drain(who);
            }
        }
    }

    /// A machine, or all of them, reach more or fewer hosts outside.
    fn change_reach(&mut self) {
        let one = self.rng.pick(&self.nodes).copied().unwrap();
        let fewer = u32::try_from(self.rng.below(3)).unwrap();
        let changed = if self.rng.chance(0.3) { self.nodes.clone() } else { vec![one] };
        self.note(|| format!("{changed:?} reach {fewer} hosts fewer than all"));
        self.saw("hosts");
        for node in changed {
            self.hosts.insert(node, HOSTS - fewer);
            let here: Vec<NodeInstance> = self.processes.keys().copied().filter(|i| i.node == node).collect();
            for who in here {
                self.input(who, Input::Reach { hosts: HOSTS - fewer, of: HOSTS });
            }
        }
    }

    /// Something outside holds no more, or holds again.
    fn change_condition(&mut self, who: NodeInstance) {
        let group = self.rng.pick(&self.config.groups).unwrap();
        let node = self.rng.pick(&self.nodes).copied();
        let node = if self.rng.chance(0.2) { None } else { node };
        let unmet = self.rng.chance(0.5).then(|| "it rains".into());
        let of = group.resources[0].name.as_str().into();
        let command = ocf_resource::Command::Condition { of, node, name: "dry".into(), unmet };
        let now = self.now;
        if self.processes.get_mut(&who).is_some_and(|p| p.manager.request(now, command).is_ok()) {
            self.saw("condition");
            self.drain(who);
        }
    }

    /// Faults are over: links work, and an operator puts everything in order.
    fn heal(&mut self) {
        for process in self.processes.values_mut() {
            process.connected = true;
        }
        // Whoever lost access, and does not know, is started anew.
        let lost: Vec<NodeInstance> =
            self.given.iter().copied().filter(|i| self.revoked.contains(&i.node)).collect();
        for who in lost {
            self.after(MS(10), Due::Restart(who));
        }
        self.schedule_change();
    }

    /// Has an operator clear all failures and let everything run.
    pub(crate) fn put_in_order(&mut self) {
        use ocf_resource::Command;
        let now = self.now;
        let Some(who) = self.view.first().copied() else { return };
        for node in self.nodes.clone() {
            let Some(process) = self.processes.get_mut(&who) else { return };
            process.manager.request(now, Command::Online(node)).unwrap();
        }
        let Some(process) = self.processes.get_mut(&who) else { return };
        process.manager.request(now, Command::Maintenance { group: None, on: false }).unwrap();
        let groups = self.processes[&who].manager.status().groups;
        for group in groups {
            let name = group.name;
            let Some(process) = self.processes.get_mut(&who) else { return };
            let end = Command::Maintenance { group: Some(Arc::clone(&name)), on: false };
            process.manager.request(now, end).unwrap();
            let free = Command::MoveGroup { group: Arc::clone(&name), to: None };
            process.manager.request(now, free).unwrap();
            for resource in &group.resources {
                for node in self.nodes.iter().copied().map(Some).chain([None]) {
                    let of = Arc::clone(&resource.name);
                    let holds = Command::Condition { of, node, name: "dry".into(), unmet: None };
                    process.manager.request(now, holds).unwrap();
                }
            }
            process.manager.request(now, Command::ClearFailures(Arc::clone(&name))).unwrap();
            process.manager.request(now, Command::StartGroup(name)).unwrap();
        }
        self.drain(who);
    }

    /// What is wrong with a world that had time to settle.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.view.len() != self.nodes.len() {
            wrong.push(format!("view is {:?}", self.view));
        }
        let sound = |name: &str| !name.starts_with("broken");
        let first = self.view.first().and_then(|who| self.processes.get(who));
        let Some(agreed) = first.and_then(|p| p.manager.configuration()) else { return wrong };
        for group in agreed.groups.iter().filter(|g| sound(&g.name)) {
            let Ground { copies, promoted, .. } = Ground::of(&agreed, &group.resources[0].name).unwrap();
            for resource in &group.resources {
                let on: Vec<_> =
                    self.active.iter().filter(|(_, a)| a.contains(resource.name.as_str())).collect();
                if on.len() != copies.min(self.nodes.len()) {
                    wrong.push(format!("{} is active on {} machines", resource.name, on.len()));
                }
                let on = self.nodes.iter().filter(|n| self.is_promoted(**n, &resource.name)).count();
                if on != promoted.min(self.promotable(group)) {
                    wrong.push(format!("{} is promoted on {on} machines", resource.name));
                }
            }
        }
        wrong.extend(self.unsettled_values(&agreed));
        wrong.extend(self.unsettled_changes(&agreed));
        for process in self.processes.values() {
            for group in process.manager.status().groups.into_iter().filter(|g| sound(&g.name)) {
                if let Some(blocked) = group.blocked {
                    wrong.push(format!("{} {blocked}", group.name));
                }
            }
        }
        wrong
    }

    /// What the agents of a group say together of promoting its copy on a node; none: it must not be.
    fn worth(&self, group: &GroupConfig, node: NodeId) -> Option<i32> {
        let said = group.resources.iter().filter_map(|r| self.scores.get(&(node, r.name.as_str().into())));
        let scores = said.map(|said| match said {
            Promotion::Score(score) => Some(score.number()),
            Promotion::Withdrawn => None,
        });
        scores.sum::<Option<i32>>().filter(|sum| *sum >= 0)
    }

    /// How many copies of a group may be promoted.
    fn promotable(&self, group: &GroupConfig) -> usize {
        self.nodes.iter().filter(|n| self.worth(group, **n).is_some()).count()
    }

    /// V1 to V3.
    fn unsettled_values(&self, agreed: &Config) -> Vec<String> {
        let mut wrong = Vec::new();
        for group in agreed.groups.iter().filter(|g| !g.name.starts_with("broken")) {
            let runs = |n: &&NodeId| group.resources.iter().all(|r| self.is_active(**n, &r.name));
            for node in self.nodes.iter().filter(runs) {
                for resource in &group.resources {
                    let with = self.parameters.get(&(*node, resource.name.as_str().into()));
                    if with.is_none_or(|(_, with)| **with != resource.parameters) {
                        let (name, new) = (&resource.name, &resource.parameters);
                        wrong.push(format!("V1: {name} runs on {node} with {with:?}, not {new:?}"));
                    }
                }
                let promoted = self.is_promoted(*node, &group.resources[0].name);
                let best = self.nodes.iter().filter_map(|n| self.worth(group, *n)).max();
                if promoted && self.worth(group, *node) != best {
                    wrong.push(format!(
                        "V2: {} is promoted on {node}, and another copy is better",
                        group.name
                    ));
                }
                let (here, sticks) = (group.preference(*node), group.stickiness());
                let most = self.nodes.iter().map(|n| self.hosts[n]).max();
                let taken = |n: &&NodeId| group.reach.is_none() || Some(self.hosts[n]) == most;
                let better = self.nodes.iter().filter(taken).any(|n| group.preference(*n) > here + sticks);
                if group.reach.is_some() && most > Some(self.hosts[node]) {
                    wrong.push(format!("V5: {} is on {node}, and another node reaches more", group.name));
                }
                if group.copies == 1 && better {
                    wrong.push(format!("V3: {} is on {node}, and another node is better", group.name));
                }
            }
        }
        wrong
    }

    /// Decisions so far, as the most senior member counts them.
    pub(crate) fn decisions(&self) -> u64 {
        self.view.first().map_or(0, |who| self.processes[who].manager.status().decisions)
    }

    /// The end of the trace.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let skip = self.trace.len().saturating_sub(lines);
        self.trace[skip..].join("\n")
    }
}
