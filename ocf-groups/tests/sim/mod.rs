//! A cluster of groups cores in one thread: a network of FIFO lanes with random delays and partitions, a membership
//! that sees everything, applications that keep a digest of what they were delivered. One seed chooses it all.

#![allow(
    clippy::cast_possible_truncation,
    clippy::allow_attributes,
    dead_code,
    reason = "test code with small numbers; each test file takes what it needs of it"
)]

mod app;
pub(crate) mod host;
mod oracle;
mod partitions;

use app::App;
use bytes::Bytes;
use host::{Host, Maker};
use ocf_comm::Lane;
use ocf_groups::testing::{Entry, Held, History, Violation, buffers_are_freed_only_when_all_hold, check};
use ocf_groups::{Config, Event, Groups, Guarantee, Input, Output, Sabotage};
use ocf_membership::partitionable::PartitionSabotage;
use ocf_membership::{Ballot, Proposal, View, ViewNumber};
use oracle::Oracle;
use partitions::{Free, Word};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

/// What membership tells a core.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Block(Ballot),
    Flush(Ballot, Proposal),
    Install(View),
    NonPrimary,
    Suspend,
    Resume,
}

#[derive(Debug)]
enum What {
    Lane(NodeInstance, NodeInstance, Lane),
    Order(NodeInstance, Order),
    Timer(NodeInstance),
    /// What waited to be sent was sent.
    Room(NodeInstance),
    Act,
    Fault,
    Oracle,
    Offer(NodeInstance, app::Wanted),
    Word(NodeInstance, Word),
    /// The next message between the memberships of two nodes.
    Words(NodeInstance, NodeInstance),
}

pub(crate) struct Node {
    pub(crate) core: Groups,
    pub(crate) app: App,
    pub(crate) host: Option<Box<dyn Host>>,
    /// Of a build that knows nothing of what came with the second level.
    pub(crate) old: bool,
    timer: Option<Instant>,
}

/// How often each interesting thing happened.
pub(crate) type Coverage = BTreeMap<&'static str, u64>;

pub(crate) struct Cluster {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) nodes: BTreeMap<NodeInstance, Node>,
    pub(crate) history: History,
    pub(crate) coverage: Coverage,
    oracle: Oracle,
    /// Membership of any partition, instead.
    free: Option<Free>,
    words: BTreeMap<(NodeInstance, NodeInstance), VecDeque<Bytes>>,
    lanes: BTreeMap<(NodeInstance, NodeInstance, Lane), VecDeque<Bytes>>,
    ready_at: BTreeMap<(NodeInstance, NodeInstance, Lane), Instant>,
    /// Membership reaches a core in order.
    told_at: BTreeMap<NodeInstance, Instant>,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    queue: BTreeMap<u64, What>,
    serial: u64,
    side: BTreeMap<NodeId, u8>,
    size: u32,
    incarnations: u128,
    payloads: u64,
    sabotage: Option<Sabotage>,
    faults: bool,
    config: Config,
    /// What stands on the groups, instead of the application of this module.
    maker: Option<Maker>,
    /// All nodes may die at once.
    total_crashes: bool,
    /// Nodes may be of an older build, and are upgraded at restarts.
    mixed: bool,
}

impl Cluster {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        Self::with(seed, sabotage, None, None, false)
    }

    /// A cluster whose nodes go on in any partition.
    pub(crate) fn of_partitions(seed: u64, bug: Option<PartitionSabotage>, groups: Option<Sabotage>) -> Self {
        Self::with(seed, groups, None, Some(Free::new(bug)), false)
    }

    /// A cluster whose nodes run what `maker` makes.
    pub(crate) fn of_hosts(seed: u64, maker: Maker, total_crashes: bool) -> Self {
        Self::with(seed, None, Some(maker), None, total_crashes)
    }

    fn with(
        seed: u64,
        sabotage: Option<Sabotage>,
        maker: Option<Maker>,
        free: Option<Free>,
        total_crashes: bool,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let size = rng.between(2, 5) as u32;
        let lenient = rng.chance(0.5);
        let config = Config {
            window: if rng.chance(0.5) { 1500 } else { 20_000 },
            message_max: 2000,
            batch: 300,
            state_piece: 7,
            transfer_buffer: if rng.chance(0.3) { 2000 } else { 100_000 },
            partitions: free.is_some(),
            ..Config::default()
        };
        let config = if maker.is_some() {
            // States of machines are larger than a digest.
            Config { state_piece: 400, ..config }
        } else {
            config
        };
        let mixed = maker.is_none() && free.is_none() && rng.chance(0.25);
        let mut cluster = Self {
            mixed,
            rng,
            now: Instant::ZERO,
            nodes: BTreeMap::new(),
            history: History { ends_are_agreed: free.is_some(), ..History::default() },
            coverage: Coverage::new(),
            oracle: Oracle::new(size, lenient),
            free,
            words: BTreeMap::new(),
            lanes: BTreeMap::new(),
            ready_at: BTreeMap::new(),
            told_at: BTreeMap::new(),
            events: BinaryHeap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            side: BTreeMap::new(),
            size,
            incarnations: 0,
            payloads: 0,
            sabotage,
            faults: true,
            config,
            maker,
            total_crashes,
        };
        for node in 0..size {
            cluster.start(NodeId::new(node));
        }
        cluster.schedule(Duration::ZERO, What::Act);
        cluster.schedule(Duration::from_millis(3), What::Fault);
        cluster.schedule(Duration::ZERO, What::Oracle);
        cluster
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    fn start(&mut self, node: NodeId) {
        self.incarnations += 1;
        let instance = NodeInstance::new(node, Incarnation::new(self.incarnations << 96));
        let mut core = Groups::new(self.config.clone(), instance);
        if let Some(bug) = self.sabotage {
            core.sabotage(bug);
        }
        self.history.logs.insert(instance, Default::default());
        let host = self.maker.as_mut().map(|make| make(instance, self.rng.fork()));
        let first = self.incarnations <= u128::from(self.size);
        let old = self.mixed && self.oracle.level < 2 && self.rng.chance(if first { 0.4 } else { 0.05 });
        self.nodes.insert(instance, Node { core, app: App::new(instance), host, old, timer: None });
        if self.free.is_some() {
            Free::start(self, instance);
        }
    }

    fn schedule(&mut self, after: Duration, what: What) {
        self.serial += 1;
        self.events.push(Reverse((self.now + after, self.serial)));
        self.queue.insert(self.serial, what);
    }

    fn delay(&mut self) -> Duration {
        let slow = self.rng.chance(0.05);
        Duration::from_micros(self.rng.between(10, if slow { 3000 } else { 200 }))
    }

    /// Membership tells a core something; orders to one core keep their order.
    pub(crate) fn tell(&mut self, to: NodeInstance, order: Order) {
        let at = (self.now + self.delay())
            .max(*self.told_at.get(&to).unwrap_or(&self.now) + Duration::from_nanos(1));
        self.told_at.insert(to, at);
        self.schedule(at - self.now, What::Order(to, order));
    }

    /// Membership of a node hears something; what it hears keeps its order.
    pub(crate) fn inform(&mut self, to: NodeInstance, word: Word) {
        let key = (to, to, Lane::Urgent);
        let at = (self.now + self.delay()).max(*self.ready_at.get(&key).unwrap_or(&self.now));
        let at = at + Duration::from_nanos(1);
        self.ready_at.insert(key, at);
        self.schedule(at - self.now, What::Word(to, word));
    }

    pub(crate) fn post_word(&mut self, from: NodeInstance, to: NodeInstance, message: Bytes) {
        let key = (from, to, Lane::Urgent);
        let at = (self.now + self.delay()).max(*self.ready_at.get(&key).unwrap_or(&self.now));
        let at = at + Duration::from_nanos(1);
        self.ready_at.insert(key, at);
        self.words.entry((from, to)).or_default().push_back(message);
        self.schedule(at - self.now, What::Words(from, to));
    }

    pub(crate) fn connected(&self, a: NodeInstance, b: NodeInstance) -> bool {
        let side = |i: NodeInstance| self.side.get(&i.node).copied().unwrap_or(0);
        side(a) == side(b)
    }

    /// The whole run: faults, then peace, then the verdict.
    pub(crate) fn run(mut self, millis: u64) -> Result<(Coverage, History), Violation> {
        let end = Instant::from_millis(millis);
        self.run_until(end)?;
        self.faults = false;
        self.side.clear();
        if self.maker.is_some() {
            let living: BTreeSet<NodeId> = self.nodes.keys().map(|i| i.node).collect();
            let dead = (0..self.size).map(NodeId::new).filter(|n| !living.contains(n));
            dead.collect::<Vec<_>>().into_iter().for_each(|node| self.start(node));
        }
        let late = Instant::from_millis(millis + 300);
        self.run_until(late)?;
        self.judge()?;
        Ok((self.coverage, self.history))
    }

    fn run_until(&mut self, end: Instant) -> Result<(), Violation> {
        while let Some(Reverse((at, serial))) = self.events.peek().copied() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            if let Some(what) = self.queue.remove(&serial) {
                self.step(what);
                if serial.is_multiple_of(16) {
                    self.check_now()?;
                }
            }
        }
        self.now = end;
        Ok(())
    }

    fn check_now(&self) -> Result<(), Violation> {
        for node in self.nodes.values() {
            if let Err(what) = node.core.check_invariants() {
                return Err(Violation { rule: "invariant", what: format!("{}: {what}", node.core.local()) });
            }
            if let Some(what) = &node.app.broken {
                return Err(Violation { rule: "V10", what: what.clone() });
            }
            if let Some(Err(what)) = node.host.as_ref().map(|h| h.check()) {
                return Err(Violation { rule: "host", what: format!("{}: {what}", node.core.local()) });
            }
        }
        let held: Vec<Held> = self.nodes.values().map(|n| Held::of(&n.core)).collect();
        buffers_are_freed_only_when_all_hold(&held)
    }

    fn step(&mut self, what: What) {
        match what {
            What::Lane(from, to, lane) => {
                if self.nodes.contains_key(&to) && !self.connected(from, to) {
                    self.schedule(Duration::from_micros(500), What::Lane(from, to, lane));
                    return;
                }
                let message = self.lanes.get_mut(&(from, to, lane)).and_then(VecDeque::pop_front);
                if let (Some(message), Some(node)) = (message, self.nodes.get_mut(&to)) {
                    if node.old && matches!(message.get(1), Some(6..=8)) {
                        self.count("unknown to an older build");
                        return;
                    }
                    node.core.handle(self.now, Input::Message { from, message: &message });
                }
                // Several messages may be handled before the outputs are polled.
                if self.rng.chance(0.8) {
                    self.drain(to);
                } else {
                    self.schedule(Duration::from_micros(20), What::Timer(to));
                }
            }
            What::Order(to, order) => {
                let Some(node) = self.nodes.get_mut(&to) else { return };
                let input = match &order {
                    Order::Block(ballot) => Input::Block(*ballot),
                    Order::Flush(ballot, proposal) => Input::Flush(*ballot, proposal),
                    Order::Install(view) => Input::Installed(view),
                    Order::NonPrimary => Input::NonPrimary,
                    Order::Suspend => Input::Suspended,
                    Order::Resume => Input::Resumed,
                };
                node.core.handle(self.now, input);
                self.drain(to);
            }
            What::Room(at) => {
                if let Some(node) = self.nodes.get_mut(&at) {
                    node.core.note_backlog(self.now, None);
                    self.drain(at);
                }
            }
            What::Timer(to) => {
                if let Some(node) = self.nodes.get_mut(&to) {
                    node.timer = None;
                    node.core.handle_timeout(self.now);
                    if let Some(host) = &mut node.host {
                        host.timeout(self.now, &mut node.core);
                    }
                    self.drain(to);
                }
            }
            What::Act => self.act(),
            What::Fault => self.fault(),
            What::Oracle => {
                if self.free.is_some() {
                    Free::step(self);
                } else {
                    Oracle::step(self);
                }
                self.schedule(Duration::from_micros(300), What::Oracle);
            }
            What::Word(to, word) => Free::on_word(self, to, word),
            What::Words(from, to) => Free::carry(self, from, to),
            What::Offer(to, wanted) => {
                if let Some(node) = self.nodes.get_mut(&to) {
                    let app::Wanted { group, joiner, position, state } = wanted;
                    let offered = node.core.offer_state(self.now, &group, joiner, position, state);
                    self.count(if offered.is_ok() { "state offered" } else { "state offered too late" });
                    self.drain(to);
                }
            }
        }
    }

    fn drain(&mut self, at: NodeInstance) {
        loop {
            let Some(node) = self.nodes.get_mut(&at) else { return };
            let Some(output) = node.core.poll_output() else { break };
            match output {
                Output::Send { to, lane, message } => {
                    assert!(!to.is_empty() && !to.contains(&at));
                    if lane == Lane::Small && self.maker.is_none() && self.rng.chance(0.02) {
                        node.core.note_backlog(self.now, Some((to[0], usize::MAX)));
                        self.count("crowded");
                        let after = self.delay();
                        self.schedule(after, What::Room(at));
                    }
                    for peer in to.iter() {
                        self.post(at, *peer, lane, message.clone());
                    }
                }
                Output::Blocked(ballot, state) if self.free.is_some() => {
                    Free::on_blocked(self, at, ballot, state);
                }
                Output::Flushed(ballot) if self.free.is_some() => Free::on_flushed(self, at, ballot),
                Output::Blocked(ballot, state) => self.oracle.on_blocked(at, ballot, state),
                Output::Flushed(ballot) => self.oracle.on_flushed(at, ballot),
                Output::Evict { .. } => panic!("nobody waits for so long"),
                Output::Synced(view) => {
                    self.oracle.on_synced(at, view);
                }
                Output::Event(event) => self.on_event(at, event),
                other => panic!("unknown output {other:?}"),
            }
        }
        let Some(node) = self.nodes.get_mut(&at) else { return };
        let of_host = node.host.as_ref().and_then(|h| h.deadline());
        let due = node.core.poll_timeout().into_iter().chain(of_host).min().map(|due| due.max(self.now));
        if let Some(due) = due
            && node.timer.is_none_or(|t| t > due)
        {
            node.timer = Some(due);
            self.schedule(due - self.now, What::Timer(at));
        }
    }

    fn on_event(&mut self, at: NodeInstance, event: Event) {
        if let Some(node) = self.nodes.get_mut(&at)
            && let Some(host) = &mut node.host
        {
            host.on_event(self.now, &event, &mut node.core);
            return;
        }
        self.history.push(at, Entry::Event(event.clone()));
        match &event {
            Event::State { .. } => self.on_state(at),
            Event::StateLost { .. } => self.count("state lost"),
            Event::Reset { .. } => self.count("reset"),
            Event::Evicted { .. } => self.count("told of its eviction"),
            Event::Writable => self.count("writable"),
            Event::Refused { .. } => panic!("no limit is reached here"),
            Event::Fifo { .. } => self.count("fifo"),
            Event::Message { .. }
            | Event::Membership { .. }
            | Event::View(_)
            | Event::StateWanted { .. }
            | _ => {}
        }
        let Some(node) = self.nodes.get_mut(&at) else { return };
        let mut entries = Vec::new();
        let wanted = node.app.on_event(&event, &mut entries);
        for entry in entries {
            self.history.push(at, entry);
        }
        if let Some(wanted) = wanted {
            let after = if self.rng.chance(0.5) { Duration::ZERO } else { self.delay() };
            self.schedule(after, What::Offer(at, wanted));
        }
    }

    fn on_state(&mut self, at: NodeInstance) {
        self.count("state");
        let node = self.nodes.get(&at).map(|node| (node.old, node.core.view().map_or(0, |view| view.level)));
        match node {
            Some((true, _)) => self.count("state to an older build"),
            Some((false, 1)) => self.count("state at the first level"),
            Some(_) | None => {}
        }
    }

    fn post(&mut self, from: NodeInstance, to: NodeInstance, lane: Lane, message: Bytes) {
        let slower = if lane == Lane::Bulk { 4 } else { 1 };
        let key = (from, to, lane);
        let at = (self.now + self.delay() * slower).max(*self.ready_at.get(&key).unwrap_or(&self.now));
        let at = at + Duration::from_nanos(1);
        self.ready_at.insert(key, at);
        self.lanes.entry(key).or_default().push_back(message);
        self.schedule(at - self.now, What::Lane(from, to, lane));
    }

    /// An application does something.
    fn act(&mut self) {
        if self.faults || self.maker.is_some() {
            let pause = if self.faults { 120 } else { 600 };
            let after = Duration::from_micros(self.rng.between(1, pause));
            self.schedule(after, What::Act);
        }
        let living: Vec<NodeInstance> = self.nodes.keys().copied().collect();
        let Some(at) = self.rng.pick(&living).copied() else { return };
        if let Some(node) = self.nodes.get_mut(&at)
            && let Some(host) = &mut node.host
        {
            host.act(self.now, &mut node.core, self.faults);
            self.drain(at);
            return;
        }
        let group = if self.rng.chance(0.6) { "a" } else { "b" };
        let local = self.rng.below(2) as u32;
        let Some(node) = self.nodes.get_mut(&at) else { return };
        match self.rng.below(40) {
            0 => {
                let left = node.core.leave(self.now, group, local);
                if left.is_ok() {
                    node.app.leaving.insert((group.into(), local));
                    let member = ocf_groups::MemberId { instance: at, local };
                    self.history.push(at, Entry::Leaving { group: group.into(), member });
                    if !node.core.is_local(group, local) {
                        // A join that was not sent is taken back without an event.
                        node.app.forget(group, local);
                    }
                    self.count("leave");
                }
            }
            1..6 => {
                let joined = node.core.join(self.now, group, local);
                if joined.is_ok() {
                    node.app.leaving.remove(&(group.into(), local));
                }
                assert!(joined.is_err() || joined.is_ok_and(|m| m.instance == at));
            }
            _ => {
                let burst = if self.rng.chance(0.1) { 12 } else { 1 };
                for _ in 0..burst {
                    self.send(at, group, local);
                }
            }
        }
        self.drain(at);
    }

    fn send(&mut self, at: NodeInstance, group: &'static str, local: u32) {
        self.payloads += 1;
        let large = self.rng.chance(0.05);
        let size = self.rng.between(8, if large { 1500 } else { 60 }) as usize;
        let mut payload = vec![0; size];
        payload[..8].copy_from_slice(&self.payloads.to_be_bytes());
        let payload = Bytes::from(payload);
        let guarantee = *self
            .rng
            .pick(&[Guarantee::Safe, Guarantee::Agreed, Guarantee::Agreed, Guarantee::Fifo])
            .expect("a list");
        let Some(node) = self.nodes.get_mut(&at) else { return };
        match node.core.send(self.now, group, local, guarantee, payload.clone()) {
            Ok(()) => {
                let sender = ocf_groups::MemberId { instance: at, local };
                // At the first level a FIFO message is an agreed one.
                let fifo = node.core.view().is_some_and(|view| view.level > 1);
                let guarantee = if fifo { guarantee } else { guarantee.max(Guarantee::Agreed) };
                self.history.push(at, Entry::Sent { group: group.into(), sender, guarantee, payload });
                self.count("sent");
            }
            Err(ocf_groups::SendError::Full { .. }) => self.count("window full"),
            Err(_) => {}
        }
    }

    fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let after = Duration::from_micros(self.rng.between(200, 4000));
        self.schedule(after, What::Fault);
        if self.total_crashes && self.rng.chance(0.08) {
            let living: Vec<NodeInstance> = self.nodes.keys().copied().collect();
            living.into_iter().for_each(|victim| self.kill(victim));
            self.oracle.forget();
            self.count("total crash");
            return;
        }
        if self.mixed && self.oracle.level < 2 && self.rng.chance(0.5) {
            self.upgrade();
            return;
        }
        match self.rng.below(10) {
            0..3 => {
                let living: Vec<NodeInstance> = self.nodes.keys().copied().collect();
                let Some(victim) = self.rng.pick(&living).copied() else { return };
                if self.free.is_some() || self.oracle.may_die(victim, &self.nodes) {
                    self.kill(victim);
                }
            }
            3..6 => {
                let living: BTreeSet<NodeId> = self.nodes.keys().map(|i| i.node).collect();
                let dead: Vec<NodeId> =
                    (0..self.size).map(NodeId::new).filter(|n| !living.contains(n)).collect();
                if let Some(node) = self.rng.pick(&dead).copied() {
                    self.start(node);
                    self.count("restart");
                }
            }
            6 => {
                for node in 0..self.size {
                    let side = u8::from(self.rng.chance(0.3));
                    self.side.insert(NodeId::new(node), side);
                }
                self.count("partition");
            }
            7 | 8 => self.side.clear(),
            _ => {
                let living: Vec<NodeInstance> = self.nodes.keys().copied().collect();
                if let Some(at) = self.rng.pick(&living).copied() {
                    self.tell(at, Order::Suspend);
                    if self.rng.chance(0.5) {
                        self.told_at.insert(at, self.now + Duration::from_millis(4));
                    }
                    self.tell(at, Order::Resume);
                    self.count("suspend");
                }
            }
        }
    }

    /// A node stops, and comes back with the newest build.
    fn upgrade(&mut self) {
        let may = |(at, node): &(&NodeInstance, &Node)| node.old && self.oracle.may_die(**at, &self.nodes);
        if let Some(victim) = self.nodes.iter().find(may).map(|(at, _)| *at) {
            self.kill(victim);
            self.start(victim.node);
            self.count("restart");
            self.count("upgrade");
        }
    }

    pub(crate) fn kill(&mut self, victim: NodeInstance) {
        if let Some(mut host) = self.nodes.remove(&victim).and_then(|node| node.host) {
            host.die();
        }
        if let Some(log) = self.history.logs.get_mut(&victim) {
            log.dead = true;
        }
        if self.free.is_some() {
            Free::kill(self, victim);
        }
        self.words.retain(|(_, to), _| *to != victim);
        self.lanes.retain(|(_, to, _), _| *to != victim);
        // What was sent last may be lost.
        for ((from, _, _), messages) in &mut self.lanes {
            if *from == victim {
                let keep = self.rng.below(messages.len() as u64 + 1) as usize;
                messages.truncate(keep);
            }
        }
        self.count("crash");
    }

    fn judge(&mut self) -> Result<(), Violation> {
        let living = self.nodes.keys().copied().collect();
        let alive =
            self.free.as_ref().map_or_else(|| self.oracle.is_settled(&self.nodes), |f| f.is_settled(&living));
        self.free.as_ref().map_or(Ok(()), |free| free.judge(&self.history, alive))?;
        if self.maker.is_none() {
            check(&self.history, alive)?;
        }
        self.check_now()?;
        if !alive {
            self.count("no quorum at the end");
            return Ok(());
        }
        self.count("settled");
        let stuck = |what: String| Err(Violation { rule: "progress", what });
        let mut members = BTreeMap::new();
        for (instance, node) in &self.nodes {
            if !node.core.is_synced() {
                return stuck(format!("{instance} has no table"));
            }
            if let Some(Err(what)) = node.host.as_ref().map(|h| h.settled()) {
                return stuck(format!("{instance}: {what}"));
            }
            if node.core.window().used > 0 {
                return stuck(format!("{instance} has a window of {} bytes in use", node.core.window().used));
            }
            for group in ["a", "b"] {
                let now = node.core.members(group);
                let first = members.entry(group).or_insert_with(|| now.clone());
                if *first != now {
                    return Err(Violation {
                        rule: "V11",
                        what: format!("{instance} sees {now:?}, others {first:?}"),
                    });
                }
            }
            if let Some(waiting) = node.app.waiting() {
                return stuck(format!("{instance}: {waiting} has no state"));
            }
            if node.core.stats().dropped.malformed + node.core.stats().lost > 0 {
                return stuck(format!("{instance}: {:?}", node.core.stats()));
            }
        }
        let mut seen: Coverage = Coverage::new();
        for node in self.nodes.values() {
            let stats = node.core.stats();
            for (what, n) in [
                ("void", stats.voids),
                ("ahead", stats.ahead),
                ("resubmitted", stats.resubmitted),
                ("fetched", stats.fetched),
                ("dropped out", stats.dropped_out),
                ("pieces kept", stats.state_kept),
                ("stale", stats.dropped.stale),
                ("frozen", stats.dropped.frozen),
            ] {
                *seen.entry(what).or_default() += n;
            }
        }
        for (what, n) in seen {
            *self.coverage.entry(what).or_default() += n;
        }
        Ok(())
    }

    pub(crate) fn view_of(&self, instance: NodeInstance) -> Option<ViewNumber> {
        self.nodes.get(&instance)?.core.view().map(|v| v.number)
    }
}
