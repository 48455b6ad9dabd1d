//! A cluster in virtual time: production cores, a fake network, disks, clocks and upper layers, all from one seed.
#![expect(unreachable_pub, reason = "a module of a test program has no outside")]

pub mod checks;

use bytes::Bytes;
use checks::Checks;
use core::time::Duration;
use ocf_comm::DownReason;
use ocf_membership::{
    Ballot, BlankRecord, Claim, Config, Consensus, Durability, EvenSplit, Event, Evidence, GrantRegister,
    Input, Lag, Levels, NodeVotes, Output, OutsidePolicy, PersistToken, Removal, Sabotage, Verdict, View,
    ViewNumber, VotesError, policy_by_name,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Detection timeout of the fake node communication.
pub const DETECTION: u64 = 500 * MS;
const TICK: u64 = 20 * MS;

/// What a seed chooses for a whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    pub durability: Durability,
    /// Longest delays, in nanoseconds.
    pub network: u64,
    pub disk: u64,
    pub upper: u64,
    /// Chance of a slow answer of a disk or an upper layer.
    pub slow: f64,
    pub persist_fails: f64,
    /// Nodes' clocks are wrong by up to this many parts per million.
    pub drift: u64,
    pub faults: BTreeSet<Fault>,
    /// Mean time between faults.
    pub pause_between: u64,
    /// How long faults go on.
    pub trouble: u64,
    pub sabotage: Option<Sabotage>,
    /// Name of the quorum policy.
    pub policy: String,
    /// How often the first whole view after all links have healed may be followed by one without a node whose rows came late:
    /// rows of third nodes are not flooded (PROTOCOL.md, Not yet).
    pub unsettled: u32,
    /// A bug of what decides even splits, put in.
    pub breaker: Breaker,
    /// After how long those who are away lose their votes, if they do.
    pub last_man: Option<u64>,
    /// Nodes say that no earlier life of them runs when they start.
    pub sole: bool,
    /// Nodes begin with builds of different age, and may be upgraded when they start again.
    pub upgrades: bool,
    /// Nodes of the end of the list that are not in the set at first.
    pub spares: usize,
}

/// How what decides even splits behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breaker {
    /// As it must.
    #[default]
    Sound,
    /// The tie-breaker grants whatever it is asked.
    GrantsAll,
    /// The fence device says that it has done what it has not.
    Lies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node cannot reach the tie-breaker, or the fence device.
    CutBreaker,
    /// A node is told to change the votes.
    Votes,
    /// A node is told to add one, or to remove one that leaves.
    Nodes,
    /// The layer above says that a member holds up the others.
    Evict,
    Crash,
    LastGasp,
    Leave,
    LoseDisk,
    Partition,
    CutLink,
    OneWay,
    Pause,
}

pub const FAULTS: [Fault; 8] = [
    Fault::Crash,
    Fault::LastGasp,
    Fault::Leave,
    Fault::LoseDisk,
    Fault::Partition,
    Fault::CutLink,
    Fault::OneWay,
    Fault::Pause,
];

impl Plan {
    pub fn from_seed(rng: &mut Rng) -> Self {
        let nodes = *rng.pick(&[2, 3, 3, 3, 4, 5, 5]).expect("a list");
        let durability = if rng.chance(0.75) { Durability::Durable } else { Durability::Volatile };
        let faults = FAULTS.iter().copied().filter(|_| rng.chance(0.6)).collect();
        Self {
            nodes,
            durability,
            network: rng.between(MS / 5, 8 * MS),
            disk: rng.between(MS / 5, 20 * MS),
            upper: rng.between(MS / 5, 20 * MS),
            slow: if rng.chance(0.3) { 0.1 } else { 0.0 },
            persist_fails: if rng.chance(0.2) { 0.03 } else { 0.0 },
            drift: if rng.chance(0.5) { 9_000 } else { 0 },
            faults,
            pause_between: rng.between(100, 700) * MS,
            trouble: 5_000 * MS,
            sabotage: None,
            policy: "majority".to_owned(),
            unsettled: 0,
            breaker: Breaker::Sound,
            last_man: None,
            sole: rng.clone().chance(0.5),
            upgrades: rng.clone().fork().chance(0.4),
            spares: 0,
        }
    }

    /// A plan of the same seed in which the set of nodes changes.
    pub fn with_nodes(rng: &mut Rng) -> Self {
        let mut plan = Self::with_votes(rng);
        plan.nodes = *rng.pick(&[3, 4, 5, 5]).expect("a list");
        // A set that began with one node would be as lost as its disk.
        plan.spares = (*rng.pick(&[0, 1, 1, 2]).expect("a list")).min(plan.nodes - 2);
        plan.last_man = None;
        plan.faults.insert(Fault::Nodes);
        plan.faults.remove(&Fault::Votes);
        if rng.chance(0.3) {
            plan.faults.insert(Fault::Votes);
        }
        plan
    }

    /// A plan of the same seed in which votes change.
    pub fn with_votes(rng: &mut Rng) -> Self {
        let mut plan = Self::from_seed(rng);
        plan.nodes = *rng.pick(&[3, 4, 5, 5]).expect("a list");
        plan.durability = Durability::Durable;
        plan.faults.extend([Fault::Partition, Fault::Crash]);
        plan.last_man = rng.chance(0.5).then(|| rng.between(600, 2_000) * MS);
        if plan.last_man.is_none() || rng.chance(0.5) {
            plan.faults.insert(Fault::Votes);
        }
        plan.trouble = 10_000 * MS;
        // Who is back gets its votes later, by another view.
        plan.unsettled = 3;
        plan
    }

    /// A plan of the same seed for another policy, with as many nodes as make it matter.
    pub fn for_policy(rng: &mut Rng, policy: &str) -> Self {
        let mut plan = Self::from_seed(rng);
        plan.nodes = match policy {
            "two-node" => 2,
            _ => *rng.pick(&[2, 2, 3, 4, 4]).expect("a list"),
        };
        if policy.contains("tie-breaker") && !policy.starts_with("auto") {
            plan.durability = Durability::Durable;
            plan.nodes = *rng.pick(&[2, 2, 4]).expect("a list");
        }
        plan.faults.extend([Fault::Partition, Fault::Crash]);
        if rng.chance(0.5) {
            plan.faults.insert(Fault::CutBreaker);
        }
        plan.unsettled = 1;
        policy.clone_into(&mut plan.policy);
        plan
    }
}

/// An input that owns its bytes, to wait in a queue.
#[derive(Clone, Debug)]
pub enum Owned {
    Up(NodeInstance),
    Down(NodeInstance, DownReason),
    Message(NodeInstance, Bytes),
    Persisted(PersistToken),
    PersistFailed(PersistToken),
    Blocked(Ballot, Bytes),
    Flushed(Ballot),
    Synced(ViewNumber),
    Tie(Ballot, Verdict),
    Unproven(Vec<NodeInstance>),
}

#[derive(Clone, Debug)]
enum Action {
    Tick,
    Timer(usize),
    Deliver {
        from: NodeInstance,
        to: NodeInstance,
        message: Bytes,
    },
    Give(NodeInstance, Owned),
    Written {
        by: NodeInstance,
        token: PersistToken,
        record: Bytes,
        fails: bool,
    },
    Resume(usize, u32),
    Start(usize),
    Fault,
    /// A node is told to remove another.
    Remove(usize, usize),
    /// A claim arrives where it is decided.
    Claim(NodeInstance, Claim),
    Prove(NodeInstance),
}

pub struct Node {
    pub core: Option<Consensus>,
    pub local: NodeInstance,
    lives: u64,
    pub disk: Option<Bytes>,
    disk_busy: u64,
    paused: bool,
    pauses: u32,
    inbox: Vec<Owned>,
    /// Parts per million that this node's clock is fast, plus a million.
    rate: u64,
    armed: Option<u64>,
    /// Whom its communication has reported up, and when each was last heard.
    pub up: BTreeMap<usize, NodeInstance>,
    heard: BTreeMap<usize, u64>,
    /// Whom it can talk to, and how that node is reached if its file does not say.
    reach: BTreeMap<NodeId, Bytes>,
    pub active: Option<ViewNumber>,
    pub alone_since: Option<u64>,
    /// What this life speaks.
    speaks: Levels,
    pub upper: Upper,
}

/// A layer above that has to know who left and may not have ended.
#[derive(Default)]
pub struct Upper {
    members: BTreeSet<NodeInstance>,
    pub unproven: BTreeSet<NodeInstance>,
    ended: BTreeSet<NodeInstance>,
}

impl Upper {
    fn enter(&mut self, view: &View) {
        let ended = view.causes.iter().filter(|c| c.reason.is_proof_of_death()).map(|c| c.instance);
        self.ended.extend(ended);
        let were = view.previous.iter().map(|m| m.instance).chain(core::mem::take(&mut self.members));
        self.unproven.extend(were.chain(view.unproven.iter().copied()));
        self.members = view.members.iter().map(|m| m.instance).collect();
        self.unproven.retain(|x| !self.members.contains(x) && !self.ended.contains(x));
    }

    fn learn(&mut self, ended: NodeInstance) {
        self.ended.insert(ended);
        self.unproven.remove(&ended);
    }
}

pub struct World {
    pub now: u64,
    pub plan: Plan,
    pub rng: Rng,
    /// Chance of proofs.
    proofs: Rng,
    /// Chance of upgrades.
    upgrades: Rng,
    /// What the next life of each node speaks.
    pub levels: Vec<Levels>,
    /// Who was told that it does not fit, to whom, at which level.
    pub incompatible: Vec<(NodeId, NodeId, u32)>,
    pub nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    actions: BTreeMap<u64, Action>,
    sequence: u64,
    /// cut[(a, b)]: nothing that a sends arrives at b.
    pub cut: BTreeSet<(usize, usize)>,
    last_delivery: BTreeMap<(NodeInstance, NodeInstance), u64>,
    held: BTreeMap<(NodeInstance, NodeInstance), Vec<Bytes>>,
    /// What the tie-breaker remembers; which nodes cannot reach it; how often it granted and refused.
    pub register: GrantRegister,
    pub cut_breaker: BTreeSet<usize>,
    pub granted: u64,
    /// Why operators decided.
    pub reasons: Vec<String>,
    /// What those outside were told to do.
    pub told: Vec<OutsidePolicy>,
    /// Merges that nodes were told of: the parents, and whether the node kept its state.
    pub merges: Vec<(NodeId, ViewNumber, ViewNumber, bool)>,
    pub refused: u64,
    /// How often nodes were told of other votes, and of votes that were not changed.
    pub votes_changed: u64,
    pub votes_not_changed: u64,
    /// Who was told that it is removed.
    pub removed: Vec<NodeInstance>,
    /// Messages of a dead sender to this receiver are lost from here on.
    lost: BTreeSet<(NodeInstance, NodeInstance)>,
    healing: bool,
    pub checks: Checks,
    /// What happened, if asked for.
    pub log: Option<Vec<String>>,
    pub config: Config,
}

impl World {
    pub fn new(plan: Plan, mut rng: Rng) -> Self {
        let config = Config {
            durability: plan.durability,
            blank_record: BlankRecord::WaitForAll,
            answer_timeout: Duration::from_millis(600),
            flush_timeout: Duration::from_millis(1_500),
            tie_timeout: Duration::from_millis(3_000),
            tie_delay: Duration::from_millis(1_000),
            policy: policy_by_name(&plan.policy).expect("a policy"),
            names_unproven: true,
            last_man_standing: plan.last_man.map(Duration::from_nanos),
            ..of_nodes(plan.nodes - plan.spares)
        };
        let nodes = (0..plan.nodes)
            .map(|i| Node {
                core: None,
                local: NodeInstance::new(id(i), Incarnation::new(0)),
                lives: 0,
                disk: None,
                disk_busy: 0,
                paused: false,
                pauses: 0,
                inbox: Vec::new(),
                rate: 1_000_000 - plan.drift + rng.below(2 * plan.drift + 1),
                armed: None,
                up: BTreeMap::new(),
                heard: BTreeMap::new(),
                reach: BTreeMap::new(),
                active: None,
                alone_since: None,
                speaks: Levels::THIS,
                upper: Upper::default(),
            })
            .collect();
        let mut world = Self {
            now: 0,
            levels: first_levels(&plan, &mut rng.clone().fork()),
            plan,
            proofs: Rng::new(rng.clone().next_u64()),
            upgrades: rng.clone().fork(),
            incompatible: Vec::new(),
            rng,
            nodes,
            queue: BinaryHeap::new(),
            actions: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            last_delivery: BTreeMap::new(),
            held: BTreeMap::new(),
            register: GrantRegister::default(),
            cut_breaker: BTreeSet::new(),
            granted: 0,
            reasons: Vec::new(),
            told: Vec::new(),
            merges: Vec::new(),
            refused: 0,
            votes_changed: 0,
            votes_not_changed: 0,
            removed: Vec::new(),
            lost: BTreeSet::new(),
            healing: false,
            checks: Checks::default(),
            log: None,
            config,
        };
        for i in 0..world.nodes.len() {
            let at = world.rng.below(100 * MS);
            world.at(at, Action::Start(i));
        }
        world.at(TICK, Action::Tick);
        world
    }

    /// Faults for a while, then none until the cluster must have healed. Returns what was violated first.
    pub fn run(&mut self) -> Result<(), String> {
        let first = 1_000 * MS + self.rng.below(500 * MS);
        self.at(first, Action::Fault);
        self.run_until(first + self.plan.trouble);
        self.heal();
        let mut outcome = self.settle();
        for _ in 0..self.plan.unsettled {
            if outcome.is_ok() || self.checks.violation.is_some() {
                break;
            }
            outcome = self.settle();
        }
        self.checks.removals_were_agreed();
        outcome.and_then(|()| self.checks.violation.clone().map_or(Ok(()), Err))
    }

    /// Waits for one view of all nodes, and looks whether it lasts.
    fn settle(&mut self) -> Result<(), String> {
        // Longest hold, one slow flush, and a give-up, each twice.
        let mut healed_at = None;
        for _ in 0..60 {
            self.run_until(self.now + 500 * MS);
            if self.is_whole() {
                healed_at = Some(self.now);
                break;
            }
            if self.checks.violation.is_some() {
                break;
            }
        }
        self.checks.violation.clone().map_or(Ok(()), Err)?;
        if healed_at.is_none() {
            return Err(format!("M6: not one whole view after {} ms: {}", self.now / MS, self.describe()));
        }
        self.run_until(self.now + 700 * MS);
        if self.checks.violation.is_none() && !self.is_whole() {
            return Err(format!("M6: the view did not last: {}", self.describe()));
        }
        self.checks.violation.clone().map_or(Ok(()), Err)
    }

    pub fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied() {
            if at > end || self.checks.violation.is_some() {
                break;
            }
            self.queue.pop();
            let Some(action) = self.actions.remove(&sequence) else { continue };
            self.now = at;
            self.act(action);
        }
        self.now = self.now.max(end);
    }

    fn at(&mut self, time: u64, action: Action) {
        self.sequence += 1;
        self.queue.push(Reverse((time.max(self.now), self.sequence)));
        self.actions.insert(self.sequence, action);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Tick => {
                self.detect();
                self.at(self.now + TICK, Action::Tick);
            }
            Action::Timer(i) => {
                let due = self.nodes[i].armed.is_some_and(|at| at <= self.now) && !self.nodes[i].paused;
                if due {
                    self.nodes[i].armed = None;
                    self.call(i, None);
                }
            }
            Action::Deliver { from, to, message } => self.deliver(from, to, message),
            Action::Give(to, input) => {
                let i = index(to);
                if self.nodes[i].core.is_some() && self.nodes[i].local == to {
                    self.call(i, Some(input));
                }
            }
            Action::Written { by, token, record, fails } => {
                let i = index(by);
                if self.nodes[i].core.is_none() || self.nodes[i].local != by {
                    return;
                }
                let input = if fails {
                    Owned::PersistFailed(token)
                } else {
                    self.nodes[i].disk = Some(record);
                    Owned::Persisted(token)
                };
                self.call(i, Some(input));
            }
            Action::Resume(i, pauses) => {
                if self.nodes[i].pauses == pauses {
                    self.resume(i);
                }
            }
            Action::Start(i) => self.start(i),
            Action::Fault => self.fault(),
            Action::Remove(i, x) => {
                drop(self.remove_node(i, x));
            }
            Action::Claim(by, claim) => self.judge(by, &claim),
            Action::Prove(x) => self.prove(x),
        }
    }

    /// The layer above enters a view, and says who may not have ended; some of them are looked after.
    fn enter(&mut self, i: usize, view: &View) {
        self.nodes[i].upper.enter(view);
        let list: Vec<NodeInstance> = self.nodes[i].upper.unproven.iter().copied().collect();
        if let Some(x) = self.proofs.pick(&list).copied().filter(|_| self.proofs.chance(0.3)) {
            let at = self.now + self.proofs.below(1_000 * MS);
            self.at(at, Action::Prove(x));
        }
        self.call(i, Some(Owned::Unproven(list)));
    }

    /// It is proven that a life has ended, if it has. Not everybody hears of it.
    fn prove(&mut self, x: NodeInstance) {
        if self.nodes[index(x)].local == x && self.nodes[index(x)].core.is_some() {
            return;
        }
        self.checks.ended.insert(x);
        for i in 0..self.nodes.len() {
            if self.nodes[i].core.is_some() && !self.nodes[i].paused && self.proofs.chance(0.7) {
                self.nodes[i].upper.learn(x);
                let list = self.nodes[i].upper.unproven.iter().copied().collect();
                self.call(i, Some(Owned::Unproven(list)));
            }
        }
    }

    fn deliver(&mut self, from: NodeInstance, to: NodeInstance, message: Bytes) {
        let (a, b) = (index(from), index(to));
        if self.nodes[b].core.is_none() || self.nodes[b].local != to || self.lost.contains(&(from, to)) {
            return;
        }
        let up = self.nodes[b].up.get(&a) == Some(&from);
        let waiting = self.held.get(&(from, to)).is_some_and(|h| !h.is_empty());
        if self.cut.contains(&(a, b)) || !up || waiting {
            self.held.entry((from, to)).or_default().push(message);
            return;
        }
        self.nodes[b].alone_since = None;
        self.call(b, Some(Owned::Message(from, message)));
    }

    /// The tie-breaker decides, or the fence device does what it was asked.
    fn judge(&mut self, by: NodeInstance, claim: &Claim) {
        let i = index(by);
        let alive = self.nodes[i].core.is_some() && self.nodes[i].local == by;
        let breaker = self.plan.breaker;
        let verdict = if self.cut_breaker.contains(&i) || !alive && self.rng.chance(0.5) {
            Verdict::Unavailable
        } else if self.config.policy.rules().even_split == EvenSplit::Asks {
            match breaker {
                Breaker::GrantsAll => Verdict::Granted(Evidence::TieBreaker),
                Breaker::Sound | Breaker::Lies if self.register.claim(claim) => {
                    Verdict::Granted(Evidence::TieBreaker)
                }
                Breaker::Sound | Breaker::Lies => Verdict::Refused,
            }
        } else if self.rng.chance(0.15) {
            Verdict::Unavailable
        } else {
            for victim in claim.absent.iter().copied().filter(|_| breaker != Breaker::Lies) {
                if self.nodes[index(victim)].local == victim && self.nodes[index(victim)].core.is_some() {
                    self.note(|| format!("{victim} is fenced for {by}"));
                    self.end(index(victim), None);
                }
            }
            Verdict::Granted(Evidence::Ended)
        };
        if matches!(verdict, Verdict::Granted(_)) {
            self.granted += 1;
        } else {
            self.refused += 1;
        }
        let at = self.now + self.rng.below(self.plan.network) + MS / 20;
        self.at(at, Action::Give(by, Owned::Tie(claim.ballot, verdict)));
    }

    /// What the links held back arrives, in order.
    fn release(&mut self, from: NodeInstance, to: NodeInstance) {
        for message in self.held.remove(&(from, to)).unwrap_or_default() {
            let b = index(to);
            if self.nodes[b].core.is_some() && self.nodes[b].local == to {
                self.call(b, Some(Owned::Message(from, message)));
            }
        }
    }

    /// The fake failure detector of every node.
    fn detect(&mut self) {
        let n = self.nodes.len();
        for i in 0..n {
            if self.nodes[i].core.is_none() || self.nodes[i].paused {
                self.nodes[i].alone_since = None;
                continue;
            }
            let reached = |j: usize| {
                let alive = self.nodes[j].core.is_some() && !self.nodes[j].paused;
                // One way is enough: an answer may come when the link has turned.
                alive && !(self.cut.contains(&(j, i)) && self.cut.contains(&(i, j)))
            };
            let contact = (0..n).any(|j| j != i && reached(j));
            let alone = &mut self.nodes[i].alone_since;
            *alone = if contact { None } else { Some(alone.unwrap_or(self.now)) };
            for j in (0..n).filter(|j| *j != i) {
                let alive = self.nodes[j].core.is_some() && !self.nodes[j].paused;
                let heard = alive && !self.cut.contains(&(j, i));
                let known = self.nodes[i].up.get(&j).copied();
                let peer = self.nodes[j].local;
                if heard {
                    let both = !self.cut.contains(&(i, j));
                    self.nodes[i].heard.insert(j, self.now);
                    if known == Some(peer) {
                        if self.held.get(&(peer, self.nodes[i].local)).is_some_and(|h| !h.is_empty()) {
                            self.release(peer, self.nodes[i].local);
                        }
                        continue;
                    }
                    if both {
                        if let Some(old) = known {
                            self.call(i, Some(Owned::Down(old, DownReason::Superseded)));
                        }
                        self.nodes[i].up.insert(j, peer);
                        self.call(i, Some(Owned::Up(peer)));
                        self.release(peer, self.nodes[i].local);
                    }
                } else if let Some(peer) = known {
                    let last = self.nodes[i].heard.get(&j).copied().unwrap_or(0);
                    if self.now - last > DETECTION {
                        self.nodes[i].up.remove(&j);
                        let for_ = Duration::from_nanos(self.now - last);
                        self.call(i, Some(Owned::Down(peer, DownReason::Silent { for_ })));
                    }
                }
            }
        }
        self.check();
    }

    pub fn start(&mut self, i: usize) {
        if self.nodes[i].core.is_some() {
            return;
        }
        let node = &mut self.nodes[i];
        node.lives += 1;
        node.local = NodeInstance::new(id(i), Incarnation::new(u128::from(node.lives) << 100 | i as u128));
        node.up.clear();
        node.heard.clear();
        node.inbox.clear();
        node.paused = false;
        node.active = None;
        node.alone_since = None;
        node.upper = Upper::default();
        let (local, disk, seed) = (node.local, node.disk.clone(), self.rng.next_u64());
        let now = self.local_time(i);
        let mut config = self.config.clone();
        config.sole_life = self.plan.sole;
        let lives = self.nodes[i].lives;
        if self.plan.upgrades && lives > 1 && self.upgrades.chance(0.5) {
            self.levels[i].newest = (self.levels[i].newest + 1).min(MOST);
        }
        config.levels = self.levels[i];
        // The file of one that is new lists the others and itself.
        if config.nodes.iter().all(|n| n.node != local.node) {
            config.nodes.push(NodeVotes::new(local.node, 1));
        }
        self.nodes[i].speaks = config.levels;
        self.nodes[i].reach = config.nodes.iter().map(|n| (n.node, Bytes::new())).collect();
        let core = Consensus::new(now, config, local, disk.as_deref(), Rng::new(seed));
        let mut core = core.expect("a record that was written can be read");
        if let Some(bug) = self.plan.sabotage {
            core.sabotage(bug);
        }
        self.nodes[i].core = Some(core);
        self.drain(i);
    }

    /// Ends a life. What it sent may or may not arrive.
    pub fn stop(&mut self, i: usize, told: Option<DownReason>) {
        let local = self.nodes[i].local;
        if self.nodes[i].core.take().is_none() {
            return;
        }
        self.checks.ended.extend(told.filter(|why| why.is_proof_of_death()).map(|_| local));
        self.nodes[i].active = None;
        self.nodes[i].armed = None;
        let peers: Vec<usize> = (0..self.nodes.len()).filter(|j| *j != i).collect();
        for j in peers {
            let to = self.nodes[j].local;
            if told.is_none() && self.rng.chance(0.5) {
                self.lost.insert((local, to));
            }
            self.held.remove(&(to, local));
            let Some(reason) = told else { continue };
            let knows = self.nodes[j].up.get(&i) == Some(&local);
            if knows && !self.cut.contains(&(i, j)) && self.nodes[j].core.is_some() {
                // What it sent before arrives before.
                self.nodes[j].up.remove(&i);
                self.lost.insert((local, to));
                self.call(j, Some(Owned::Down(local, reason)));
            }
        }
    }

    pub fn resume(&mut self, i: usize) {
        if !core::mem::take(&mut self.nodes[i].paused) || self.nodes[i].core.is_none() {
            return;
        }
        let now = self.now;
        self.nodes[i].heard.values_mut().for_each(|at| *at = now);
        if self.rng.chance(0.5) {
            self.call(i, None);
        }
        for input in core::mem::take(&mut self.nodes[i].inbox) {
            if self.nodes[i].core.is_some() {
                self.call(i, Some(input));
            }
        }
        if self.nodes[i].core.is_some() {
            self.call(i, None);
        }
    }

    /// Tells a node how many hosts outside the cluster it reaches.
    pub fn reach(&mut self, i: usize, hosts: u32, of: u32) {
        let now = self.local_time(i);
        self.nodes[i].core.as_mut().expect("running").handle(now, Input::Reach { hosts, of });
        self.drain(i);
    }

    /// An operator decides the next even split of a node.
    pub fn override_tie(&mut self, i: usize, reason: &str) -> Result<(), ocf_membership::OverrideError> {
        let now = self.local_time(i);
        let outcome = self.nodes[i].core.as_mut().expect("running").override_tie(now, reason);
        self.drain(i);
        outcome
    }

    /// The node does not run until `resume`.
    /// The disk of a node reports that a write failed.
    pub fn fail_write(&mut self, i: usize) {
        self.call(i, Some(Owned::PersistFailed(PersistToken(0))));
    }

    pub fn pause(&mut self, i: usize) {
        self.nodes[i].paused = true;
        self.nodes[i].pauses += 1;
    }

    /// Cuts a link in both directions.
    pub fn cut_link(&mut self, i: usize, j: usize) {
        self.cut.extend([(i, j), (j, i)]);
    }

    fn fault(&mut self) {
        if self.healing {
            return;
        }
        let faults: Vec<Fault> = self.plan.faults.iter().copied().collect();
        let i = usize::try_from(self.rng.below(self.nodes.len() as u64)).expect("few nodes");
        let j = (i + 1 + usize::try_from(self.rng.below(self.nodes.len() as u64 - 1)).expect("few"))
            % self.nodes.len();
        // Some of the faults end by themselves.
        if self.rng.chance(0.35) {
            self.cut.clear();
            self.cut_breaker.clear();
        }
        let picked = self.rng.pick(&faults).copied();
        self.note(|| format!("fault {picked:?} of {} and {}", id(i), id(j)));
        match picked {
            None => {}
            Some(Fault::Crash) => self.end(i, None),
            Some(Fault::LastGasp) => self.end(i, Some(DownReason::LastGasp)),
            Some(Fault::Leave) => self.end(i, Some(DownReason::Left)),
            Some(Fault::LoseDisk) => {
                // At most one disk at a time is empty, and not that of the only node of the set, else nobody remembers.
                let listed = self.listed();
                let others = self.nodes.iter().enumerate().filter(|(k, _)| *k != i && listed.contains(k));
                let remembers = |n: &Node| n.core.as_ref().is_some_and(|c| c.view().is_some());
                if others.clone().next().is_some() && others.clone().all(|(_, n)| remembers(n)) {
                    self.end(i, None);
                    self.nodes[i].disk = None;
                }
            }
            Some(Fault::Partition) => {
                let side = self.rng.next_u64();
                let n = self.nodes.len();
                for (a, b) in (0..n).flat_map(|a| (0..n).map(move |b| (a, b))) {
                    if (side >> a & 1) != (side >> b & 1) {
                        self.cut.insert((a, b));
                    }
                }
            }
            Some(Fault::CutLink) => {
                self.cut_link(i, j);
            }
            Some(Fault::Votes) => {
                let votes = self
                    .listed()
                    .into_iter()
                    .map(|n| NodeVotes::new(id(n), *self.rng.pick(&[0, 1, 2, 3]).expect("a list")));
                let votes: Vec<NodeVotes> = votes.collect();
                // Refused often: only a member of the primary may.
                drop(self.set_votes(i, &votes));
            }
            Some(Fault::Nodes) => self.change_nodes(i, j),
            Some(Fault::Evict) => self.evict(i, j),
            Some(Fault::CutBreaker) => {
                self.cut_breaker.insert(i);
            }
            Some(Fault::OneWay) => {
                self.cut.insert((i, j));
            }
            Some(Fault::Pause) => {
                let for_ = *self.rng.pick(&[100, 250, 400, 600, 1_000, 2_500]).expect("a list") * MS;
                self.pause(i);
                let pauses = self.nodes[i].pauses;
                self.at(self.now + for_, Action::Resume(i, pauses));
            }
        }
        let next = self.rng.below(2 * self.plan.pause_between);
        self.at(self.now + next, Action::Fault);
    }

    /// Has node `i` add `x`, or remove it after it left.
    fn change_nodes(&mut self, i: usize, x: usize) {
        let orders = self.rng.between(1, 3);
        for n in 0..orders {
            let by = (i + usize::try_from(n).expect("few")) % self.nodes.len();
            let of = (x + usize::try_from(n).expect("few")) % self.nodes.len();
            if self.listed().contains(&of) {
                if n == 0 {
                    self.stop(of, Some(DownReason::Left));
                    let (back, order) = (self.rng.between(200, 3_000), self.rng.between(50, 800));
                    self.at(self.now + back * MS, Action::Start(of));
                    self.at(self.now + order * MS, Action::Remove(by, of));
                }
            } else {
                let votes = *self.rng.pick(&[0, 1, 1, 2]).expect("a list");
                drop(self.add_node(by, NodeVotes::new(id(of), votes)));
            }
        }
    }

    /// The nodes of the newest set that one in a primary knows of.
    pub fn listed(&self) -> Vec<usize> {
        let cores = self.nodes.iter().filter_map(|n| n.core.as_ref()).filter(|c| c.view().is_some());
        let newest = cores.map(Consensus::snapshot).max_by_key(|s| s.view.as_ref().map(|v| v.number));
        let nodes = newest.map_or_else(|| self.config.nodes.clone(), |s| s.votes);
        nodes.iter().map(|n| usize::try_from(n.node.raw() - 1).expect("few")).collect()
    }

    pub fn set_votes(&mut self, i: usize, votes: &[NodeVotes]) -> Result<(), VotesError> {
        self.order(i, |core, now| core.set_votes(now, votes))
    }

    pub fn add_node(&mut self, i: usize, node: NodeVotes) -> Result<(), VotesError> {
        self.order(i, |core, now| core.add_node(now, node, contact_of(node.node)))
    }

    /// Its end is proven: by what `i` heard, or because it does not run.
    pub fn remove_node(&mut self, i: usize, x: usize) -> Result<(), VotesError> {
        let why = if self.nodes[x].core.is_some() { Removal::Ended } else { Removal::Confirmed };
        self.order(i, |core, now| core.remove_node(now, id(x), why))
    }

    /// The layer above at `i` waits for `x`.
    pub fn evict(&mut self, i: usize, x: usize) {
        let lag = Lag { stalled: true, lasted: Duration::from_secs(10), behind: 77 };
        let instance = self.nodes[x].local;
        // Refused often: only a member can be evicted, and only by one.
        drop(self.order(i, |core, now| {
            core.evict(now, instance, lag);
            Ok(())
        }));
    }

    fn order(
        &mut self,
        i: usize,
        order: impl FnOnce(&mut Consensus, Instant) -> Result<(), VotesError>,
    ) -> Result<(), VotesError> {
        let now = self.local_time(i);
        let node = &mut self.nodes[i];
        let Some(core) = node.core.as_mut().filter(|_| !node.paused) else {
            return Err(VotesError::NotPrimary);
        };
        let outcome = order(core, now);
        core.check_invariants();
        self.drain(i);
        self.check();
        outcome
    }

    fn end(&mut self, i: usize, told: Option<DownReason>) {
        self.stop(i, told);
        let back = self.rng.between(20, 1_500) * MS;
        self.at(self.now + back, Action::Start(i));
    }

    fn heal(&mut self) {
        self.healing = true;
        self.plan.persist_fails = 0.0;
        self.plan.slow = 0.0;
        self.cut.clear();
        self.cut_breaker.clear();
        let level = self.checks.views.values().map(|view| view.level).max().unwrap_or(1);
        for i in 0..self.nodes.len() {
            self.resume(i);
            if self.nodes[i].speaks.newest < level {
                // It was not in the set when the level rose.
                self.stop(i, None);
                self.levels[i].newest = level;
            }
            self.start(i);
        }
    }

    /// True if all nodes of the set are active in one view that has them all, and no others are active.
    pub fn is_whole(&self) -> bool {
        let listed = self.listed();
        let view = |i: &usize| self.nodes[*i].core.as_ref().and_then(|c| c.view());
        let views: Vec<_> = listed.iter().map(view).collect();
        views.iter().all(|v| v.is_some_and(|v| v.members.len() == listed.len()))
            && views.windows(2).all(|pair| pair[0] == pair[1])
            && self.nodes.iter().enumerate().all(|(i, n)| n.active.is_some() == listed.contains(&i))
    }

    pub fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|n| match &n.core {
            Some(core) => {
                let s = core.snapshot();
                let members: Vec<NodeInstance> =
                    s.view.iter().flat_map(|v| v.members.iter().map(|m| m.instance)).collect();
                format!(
                    "\n  {} {} newest {} set {:?} members {members:?} suspended {} vote {} synced {} reachable {:?} desired {:?} promised {}",
                    n.local, s.state, s.newest, s.votes, s.suspended, s.has_vote, s.synced, s.reachable, s.desired, s.promised
                )
            }
            None => format!("\n  {} stopped", n.local),
        });
        nodes.collect()
    }

    pub fn local_time(&self, i: usize) -> Instant {
        let wide = u128::from(self.now) * u128::from(self.nodes[i].rate) / 1_000_000;
        Instant::from_nanos(u64::try_from(wide).expect("short runs"))
    }

    fn global_time(&self, i: usize, at: Instant) -> u64 {
        let rate = u128::from(self.nodes[i].rate);
        let wide = (u128::from(at.as_nanos()) * 1_000_000).div_ceil(rate);
        u64::try_from(wide).unwrap_or(u64::MAX)
    }

    /// Calls a node: with an input, or because of its timer.
    fn call(&mut self, i: usize, input: Option<Owned>) {
        let now = self.local_time(i);
        if let Some(input) = input.as_ref().filter(|input| !matches!(input, Owned::Message(..))) {
            let (local, paused) = (self.nodes[i].local, self.nodes[i].paused);
            self.note(|| format!("{local} gets {input:?}{}", if paused { " (paused)" } else { "" }));
        }
        let node = &mut self.nodes[i];
        if node.paused {
            node.inbox.extend(input);
            return;
        }
        let Some(core) = &mut node.core else { return };
        match &input {
            None => core.handle_timeout(now),
            Some(Owned::Up(p)) => core.handle(now, Input::Up(*p)),
            Some(Owned::Down(p, r)) => core.handle(now, Input::Down(*p, *r)),
            Some(Owned::Message(from, message)) => {
                core.handle(now, Input::Message { from: *from, message });
            }
            Some(Owned::Persisted(t)) => core.handle(now, Input::Persisted(*t)),
            Some(Owned::PersistFailed(t)) => core.handle(now, Input::PersistFailed(*t)),
            Some(Owned::Blocked(ballot, state)) => {
                core.handle(now, Input::Blocked { ballot: *ballot, state: state.clone() });
            }
            Some(Owned::Flushed(ballot)) => core.handle(now, Input::Flushed { ballot: *ballot }),
            Some(Owned::Synced(number)) => core.handle(now, Input::Synced(*number)),
            Some(Owned::Unproven(list)) => core.handle(now, Input::Unproven(list)),
            Some(Owned::Tie(ballot, verdict)) => {
                core.handle(now, Input::Tie { ballot: *ballot, verdict: *verdict });
            }
        }
        core.check_invariants();
        self.drain(i);
        self.check();
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now / MS;
        if let Some(log) = &mut self.log {
            log.push(format!("{now:>6} {}", text()));
        }
    }

    fn delay(&mut self, most: u64) -> u64 {
        if self.rng.chance(self.plan.slow) { self.rng.below(900 * MS) } else { self.rng.below(most) }
    }

    fn drain(&mut self, i: usize) {
        let local = self.nodes[i].local;
        while let Some(output) = self.nodes[i].core.as_mut().and_then(Layer::poll_output) {
            match output {
                Output::Send { to, message, .. } => {
                    if !matches!(message[0], 8 | 9) {
                        self.note(|| format!("{local} sends {to} a message of kind {}", message[0]));
                    }
                    let delay = self.rng.below(self.plan.network) + MS / 20;
                    let last = self.last_delivery.entry((local, to)).or_default();
                    *last = (*last).max(self.now + delay);
                    let at = *last;
                    self.at(at, Action::Deliver { from: local, to, message });
                }
                Output::Persist { token, record } => {
                    // One disk: writes end in the order they were asked for.
                    let at = (self.now + self.delay(self.plan.disk)).max(self.nodes[i].disk_busy);
                    self.nodes[i].disk_busy = at;
                    let fails = self.rng.chance(self.plan.persist_fails);
                    self.at(at, Action::Written { by: local, token, record, fails });
                }
                Output::Block { ballot } => {
                    let at = self.now + self.delay(self.plan.upper);
                    let state = Bytes::from(format!("{local}"));
                    self.at(at, Action::Give(local, Owned::Blocked(ballot, state)));
                }
                Output::Flush { ballot, proposal } => {
                    self.note(|| format!("{local} flushes in {ballot} for {}", proposal.view.number));
                    let core = self.nodes[i].core.as_ref().expect("running");
                    let up = core.snapshot().reachable;
                    let must_see = |m: NodeInstance| self.config.criterion.must_see(local.node, m.node);
                    let mut members = proposal.view.members.iter().map(|m| m.instance);
                    let connected = members.all(|m| up.contains(&m) || !must_see(m));
                    let fresh = proposal.view.ballot == ballot;
                    self.checks.flush(local, &proposal, connected || !fresh);
                    let at = self.now + self.delay(self.plan.upper);
                    self.at(at, Action::Give(local, Owned::Flushed(ballot)));
                }
                Output::Event(event) => self.on_event(i, event),
                Output::AskTie(claim) => {
                    self.note(|| format!("{local} claims {claim:?}"));
                    let at = self.now + self.delay(2 * self.plan.network);
                    self.at(at, Action::Claim(local, claim));
                }
                Output::NoteTie(view) => {
                    // Where nothing else goes wrong, it is not lost.
                    let arrives =
                        !self.cut_breaker.contains(&i) && (self.rng.chance(0.8) || self.plan.trouble == 0);
                    self.checks.notes += u64::from(arrives && self.register.note(&view));
                }
                // What is under way at the fence device may happen all the same.
                Output::WithdrawTie(_) => {}
                Output::Peers { peers, removed } => {
                    let reach = &mut self.nodes[i].reach;
                    reach.retain(|node, _| !removed.contains(node));
                    let listed = |node: NodeId| self.config.nodes.iter().any(|n| n.node == node);
                    let known = peers.into_iter().filter(|p| listed(p.node) || !p.address.is_empty());
                    reach.extend(known.map(|peer| (peer.node, peer.address)));
                }
                _ => {}
            }
        }
        self.check_reach(i);
        let next = self.nodes[i].core.as_ref().and_then(Layer::poll_timeout);
        let next = next.map(|at| self.global_time(i, at).max(self.now));
        if next != self.nodes[i].armed {
            self.nodes[i].armed = next;
            if let Some(at) = next {
                self.at(at, Action::Timer(i));
            }
        }
    }

    fn check_reach(&mut self, i: usize) {
        let node = &self.nodes[i];
        let Some(core) = &node.core else { return };
        let listed = |node: NodeId| self.config.nodes.iter().any(|n| n.node == node);
        let set = core.snapshot().votes.into_iter().map(|n| n.node).filter(|n| *n != node.local.node);
        for peer in set {
            let reached = node.reach.get(&peer).is_some_and(|at| listed(peer) || *at == contact_of(peer));
            self.checks.reached(node.local, peer, reached);
        }
    }

    fn on_event(&mut self, i: usize, event: Event) {
        let local = self.nodes[i].local;
        self.note(|| format!("{local} tells {event:?}"));
        match event {
            Event::Installed(view) => {
                let number = view.number;
                let amnesia = self.plan.durability == Durability::Volatile
                    && self.nodes.iter().all(|n| n.active.is_none());
                self.nodes[i].active = Some(number);
                // What nobody who goes on knows is forgotten.
                let donors = view.joiners().count() < view.members.len();
                let jumps =
                    self.checks.views.keys().next_back().is_some_and(|last| number.0 > last.0 + 1_000);
                let runs =
                    |x: NodeInstance| self.nodes[index(x)].local == x && self.nodes[index(x)].core.is_some();
                let ended =
                    || view.causes.iter().filter(|c| c.reason.is_proof_of_death()).map(|c| c.instance);
                self.checks.ended.extend(ended());
                self.checks.names_all(&view, jumps || !donors);
                if let Some(x) = ended().find(|x| runs(*x)) {
                    self.checks.fail(format!("U2: {number} says that {x} has ended, which runs"));
                }
                self.checks.installed(local, &view, amnesia);
                self.checks.speaks(local, &view, self.nodes[i].speaks);
                let seen = self.nodes[i].core.as_ref().map(Consensus::snapshot);
                if let Some(seen) = seen {
                    self.checks.counted(local, &view, &seen.votes);
                    self.checks.keeps_votes(&view, seen.votes_revision);
                }
                let joiner = view.joiners().any(|m| m.instance == local);
                let wait = if joiner && donors { self.delay(50 * MS) } else { 0 };
                self.at(self.now + wait, Action::Give(local, Owned::Synced(number)));
                self.enter(i, &view);
            }
            Event::VotesChanged { .. } => self.votes_changed += 1,
            Event::Removed { nodes, .. } => {
                self.checks.told.push((local, nodes));
                self.removed.push(local);
            }
            Event::VotesNotChanged { .. } => self.votes_not_changed += 1,
            Event::Incompatible { peer, level, .. } => self.incompatible.push((id(i), peer.node, level)),
            Event::Merged { ours, primary, kept } => self.merges.push((id(i), ours, primary, kept)),
            Event::TieWon { evidence, reason, .. } => {
                self.reasons.extend((evidence == Evidence::Operator).then_some(reason));
            }
            Event::NonPrimary(situation) => {
                self.nodes[i].active = None;
                self.told.push(situation.policy);
                self.told.dedup();
            }
            Event::Suspended => self.nodes[i].active = None,
            Event::Resumed => {
                let view = self.nodes[i].core.as_ref().and_then(|c| c.view());
                self.nodes[i].active = view.map(|v| v.number);
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        let mut checks = core::mem::take(&mut self.checks);
        checks.active(self);
        self.checks = checks;
    }

    pub fn is_paused(&self, i: usize) -> bool {
        self.nodes[i].paused
    }
}

pub fn id(i: usize) -> NodeId {
    NodeId::new(u32::try_from(i + 1).expect("few nodes"))
}

/// The newest level that any node comes to speak.
const MOST: u32 = 4;

/// Builds of different age; one that is to be added later is new.
fn first_levels(plan: &Plan, rng: &mut Rng) -> Vec<Levels> {
    let newest = |i: usize| match plan.upgrades {
        true if i >= plan.nodes - plan.spares => MOST,
        true => *rng.pick(&[1, 1, 2, 3]).expect("a list"),
        false => Levels::THIS.newest,
    };
    (0..plan.nodes).map(newest).map(|newest| Levels { oldest: 1, newest }).collect()
}

/// How an added node is reached.
pub fn contact_of(node: NodeId) -> Bytes {
    format!("the address of {node}").into()
}

pub fn index(instance: NodeInstance) -> usize {
    usize::try_from(instance.node.raw() - 1).expect("few nodes")
}

/// One vote each, and who is evicted is not out for longer than a run takes.
fn of_nodes(nodes: usize) -> Config {
    let votes = (0..nodes).map(|i| NodeVotes::new(id(i), 1));
    let (evict_hold, evict_hold_max) = (Duration::from_secs(2), Duration::from_secs(5));
    Config { evict_hold, evict_hold_max, ..Config::new(votes) }
}
