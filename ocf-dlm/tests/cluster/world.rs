//! A cluster of engines in one thread: a network of FIFO circuits, a membership that sees everything, fence devices that
//! may be slow or fail, and applications that lock. One seed chooses it all.

use crate::checkers::{Checkers, Violation};
use crate::domains::Collectors;
use bytes::Bytes;
use ocf_dlm::cluster::{
    Ask, ClusterView, Completed, Config, Engine, Holder, Input, Output, Sabotage, TreeSnapshot, TreeState,
    ViewMember, WaitReason,
};
use ocf_dlm::directory::Weighted;
use ocf_dlm::wire::{Key, OrderRefusal, Outcome, Proof, ReleaseGuard, Value};
use ocf_dlm::{ClientId, Flags, Mode, Status, ValueBlock};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

pub(crate) type Coverage = BTreeMap<&'static str, u64>;

#[derive(Clone, Debug)]
enum Word {
    View(ClusterView),
    NonPrimary,
    Dormant,
    Suspended,
    Resumed,
    Proven(NodeInstance, Proof),
}

#[derive(Debug)]
enum What {
    Circuit(NodeInstance, NodeInstance),
    Word(NodeInstance, Word),
    Timer(NodeInstance),
    Act,
    Fault,
    Fence(NodeInstance, u32),
    Wake(NodeInstance),
    Form,
    Answer(NodeInstance, u64),
}

pub(crate) struct Node {
    pub(crate) engine: Engine,
    timer: Option<Instant>,
    paused: bool,
    /// Its lease is in doubt, and it was told so.
    suspended: bool,
    /// Taken out of the primary, and told so.
    outside: bool,
    /// Told to be outside with what it has, and not of a view since.
    dormant: bool,
    /// What membership said while the node was paused.
    missed: Vec<Word>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) nodes: BTreeMap<NodeInstance, Node>,
    pub(crate) checkers: Checkers,
    pub(crate) coverage: Coverage,
    circuits: BTreeMap<(NodeInstance, NodeInstance), VecDeque<Bytes>>,
    ready_at: BTreeMap<(NodeInstance, NodeInstance), Instant>,
    told_at: BTreeMap<NodeInstance, Instant>,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    queue: BTreeMap<u64, What>,
    serial: u64,
    size: u32,
    incarnations: u128,
    view: ClusterView,
    cut: BTreeSet<NodeId>,
    unproven: BTreeSet<NodeInstance>,
    /// Left the primary by themselves, and the others have not noticed.
    gave_up: BTreeSet<NodeInstance>,
    calm: bool,
    only_on_notice: bool,
    asking: bool,
    value: u64,
    /// The last that came with a request.
    signal: u64,
    config: Config,
    sabotage: Option<Sabotage>,
    /// Conversions with every flag that there is for them.
    all_flags: bool,
    /// Clients end and leave orphans, which others adopt; an operator takes locks away.
    operated: bool,
    /// Most applications lock byte ranges.
    ranged: bool,
    /// Nodes keep grants, and applications often ask again for what they had.
    kept: bool,
    /// Programs repair what failures have made invalid.
    domains: bool,
    pub(crate) collectors: Collectors,
    /// What each operation asks for of which somebody wants to know what is in its way, by node and ticket.
    questions: BTreeMap<(NodeInstance, u64), Mode>,
    trace: bool,
}

impl Node {
    pub(crate) const fn is_outside(&self) -> bool {
        self.outside
    }
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut rng = Rng::new(seed);
        let size = rng.between(2, 5) as u32;
        let config = Config {
            deadlock_delay: Duration::from_millis(10),
            idle_after: Duration::from_millis(rng.between(1, 8)),
            batch_bytes: if rng.chance(0.5) { 256 } else { 8 << 10 },
            turn_max: if rng.chance(0.6) { rng.between(1, 4) as usize } else { 512 },
            claims_ahead_max: if rng.chance(0.5) { rng.between(1, 3) as usize } else { 4096 },
            move_after: Duration::from_micros(if rng.chance(0.75) { rng.between(200, 4000) } else { 0 }),
            move_uses_min: rng.between(1, 3) as u32,
            move_patience: Duration::from_micros(rng.between(300, 5000)),
            ..Config::default()
        };
        let mut world = Self {
            only_on_notice: rng.chance(0.6),
            rng,
            now: Instant::ZERO,
            nodes: BTreeMap::new(),
            checkers: Checkers::default(),
            coverage: Coverage::new(),
            circuits: BTreeMap::new(),
            ready_at: BTreeMap::new(),
            told_at: BTreeMap::new(),
            events: BinaryHeap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            size,
            incarnations: 0,
            view: ClusterView { number: 0, members: Vec::new(), previous: Vec::new(), unproven: Vec::new() },
            cut: BTreeSet::new(),
            unproven: BTreeSet::new(),
            gave_up: BTreeSet::new(),
            calm: false,
            asking: true,
            value: 0,
            signal: 0,
            config,
            sabotage,
            all_flags: false,
            operated: false,
            ranged: false,
            kept: false,
            domains: false,
            collectors: Collectors::default(),
            questions: BTreeMap::new(),
            trace: std::env::var_os("DLM_TRACE").is_some(),
        };
        for node in 0..size {
            world.start(NodeId::new(node));
        }
        world.form_view();
        world.schedule(Duration::ZERO, What::Act);
        world.schedule(Duration::from_millis(3), What::Fault);
        world
    }

    /// The same world, but conversions have all flags.
    pub(crate) fn with_all_flags(mut self) -> Self {
        self.all_flags = true;
        self
    }

    /// The same world, with clients that end and leave orphans, and an operator who takes locks away.
    pub(crate) fn with_operator(mut self) -> Self {
        self.operated = true;
        self
    }

    /// The same world, but most applications lock byte ranges.
    pub(crate) fn with_ranges(mut self) -> Self {
        self.ranged = true;
        self
    }

    /// The same world, with a recovery domain that every node takes part in.
    pub(crate) fn with_domains(mut self) -> Self {
        self.domains = true;
        for at in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.attach(at);
        }
        self
    }

    /// The same world, but nodes keep grants.
    pub(crate) fn with_kept(mut self) -> Self {
        self.kept = true;
        self.only_on_notice = false;
        if self.rng.chance(0.5) {
            self.config.move_after = Duration::ZERO;
        }
        self.config.kept_max = self.rng.between(1, 4) as usize;
        self.config.idle_after = Duration::from_millis(self.rng.between(4, 40));
        self.config.kept_for = Duration::from_micros(self.rng.between(300, 12_000));
        for (instance, node) in &mut self.nodes {
            node.engine = Engine::new(self.config.clone(), *instance).unwrap();
            if let Some(bug) = self.sabotage {
                node.engine.sabotage(bug);
            }
        }
        self
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    fn start(&mut self, node: NodeId) {
        self.incarnations += 1;
        let instance = NodeInstance::new(node, Incarnation::new(self.incarnations << 96));
        let mut engine = Engine::new(self.config.clone(), instance).unwrap();
        if let Some(bug) = self.sabotage {
            engine.sabotage(bug);
        }
        let node = Node {
            engine,
            timer: None,
            paused: false,
            suspended: false,
            outside: true,
            dormant: false,
            missed: Vec::new(),
        };
        self.nodes.insert(instance, node);
        if self.domains {
            self.attach(instance);
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

    fn tell(&mut self, to: NodeInstance, word: Word, slack: Duration) {
        let at = (self.now + self.delay() + slack)
            .max(*self.told_at.get(&to).unwrap_or(&self.now) + Duration::from_nanos(1));
        self.told_at.insert(to, at);
        self.schedule(at.since(self.now), What::Word(to, word));
    }

    fn is_in(&self, x: NodeInstance) -> bool {
        self.view.members.iter().any(|m| m.instance == x)
    }

    /// Whether these may form the next view.
    fn may_form(&self, reachable: &[NodeInstance]) -> bool {
        let here = reachable.iter().filter(|x| self.is_in(**x)).count();
        here * 2 > self.view.members.len() || (self.view.members.is_empty() && !reachable.is_empty())
    }

    /// Who left before, as those who go on from the last view name them. Who was not told of that view yet would know what it says.
    fn carried(&self, reachable: &[NodeInstance]) -> Vec<NodeInstance> {
        let going_on = || reachable.iter().filter(|x| self.is_in(**x)).map(|x| &self.nodes[x].engine);
        let mut named: BTreeSet<NodeInstance> = going_on().flat_map(Engine::unproven).collect();
        if going_on().any(|engine| engine.epoch() < self.view.number) {
            named.extend(&self.view.unproven);
            named.extend(self.view.previous.iter().map(|m| m.instance).filter(|x| !self.is_in(*x)));
        }
        named.into_iter().filter(|x| !reachable.contains(x)).collect()
    }

    /// Membership agrees on a view of everybody who can be reached, if that is a majority of the last one.
    fn form_view(&mut self) {
        let reachable: Vec<NodeInstance> = self
            .nodes
            .iter()
            .filter(|(x, n)| !n.paused && !self.cut.contains(&x.node))
            .map(|(x, _)| *x)
            .collect();
        if !self.may_form(&reachable) {
            return;
        }
        let number = self.view.number + 1;
        let joined = |x: NodeInstance| {
            let stays = |m: &&ViewMember| m.instance == x && !self.gave_up.contains(&x);
            self.view.members.iter().find(stays).map_or(number, |m| m.joined)
        };
        let members: Vec<ViewMember> = reachable
            .iter()
            .map(|x| ViewMember { instance: *x, weight: 1 + (x.node.raw() % 2) as u16, joined: joined(*x) })
            .collect();
        let joins = members.iter().any(|m| m.joined == number);
        let same = members.iter().map(|m| m.instance).eq(self.view.members.iter().map(|m| m.instance));
        // Who was told to be outside comes back by another view only.
        let returns = reachable.iter().any(|x| self.nodes[x].dormant);
        if same && !joins && !returns {
            return;
        }
        let recovering = self.is_recovering();
        self.gave_up.retain(|x| !reachable.contains(x));
        let unproven = self.carried(&reachable);
        let previous: Vec<Weighted> =
            self.view.members.iter().map(|m| Weighted { instance: m.instance, weight: m.weight }).collect();
        let gone: Vec<NodeInstance> =
            previous.iter().map(|m| m.instance).filter(|x| !reachable.contains(x)).collect();
        self.view = ClusterView { number, members, previous, unproven };
        // Who comes back as the same instance was outside, so its holders were told: nothing of it is left.
        for x in &reachable {
            if joined_now(&self.view, *x) {
                self.unproven.remove(x);
                self.checkers.surrendered(*x);
            }
        }
        // The lease of those who are out has ended before anybody acts in the new view.
        for x in &gone {
            self.unproven.insert(*x);
            self.exclude(*x);
        }
        for x in reachable {
            if self.rng.chance(0.1) {
                self.skip_words(x);
            }
            let slack = Duration::from_micros(if self.rng.chance(0.2) { self.rng.below(4000) } else { 0 });
            self.tell(x, Word::View(self.view.clone()), slack);
        }
        for x in gone {
            self.count("member lost");
            let slow = self.rng.chance(0.3);
            let after = Duration::from_micros(self.rng.between(50, if slow { 20_000 } else { 2000 }));
            self.schedule(after, What::Fence(x, 0));
        }
        if joins {
            self.count(if recovering { "join during a recovery" } else { "join" });
        }
    }

    /// True if some member has not finished the recovery of the newest view.
    fn is_recovering(&self) -> bool {
        let unfinished = |x: &NodeInstance| {
            self.nodes.get(x).is_some_and(|n| {
                let snapshot = n.engine.snapshot();
                !snapshot.recovered || snapshot.epoch < self.view.number
            })
        };
        self.view.number > 1 && self.view.members.iter().any(|m| unfinished(&m.instance))
    }

    fn step_out(&mut self, x: NodeInstance) {
        // A proof stays one.
        let of_views = |word: &Word| !matches!(word, Word::Proven(..));
        self.queue.retain(|_, what| !matches!(what, What::Word(to, word) if *to == x && of_views(word)));
        self.hear(x, Word::Suspended);
        self.hear(x, Word::NonPrimary);
        self.nodes.get_mut(&x).unwrap().outside = true;
        self.checkers.repairs().excuse(&self.nodes, true);
        self.gave_up.insert(x);
    }

    /// A member leaves the primary by itself, as one does whose lease was not confirmed for long. It is alive, and the
    /// others hear of it by the view in which it joins anew.
    fn give_up(&mut self, x: NodeInstance) {
        self.step_out(x);
        self.count("gave up");
        if self.rng.chance(0.5) {
            self.form_view();
        } else {
            let after = Duration::from_micros(self.rng.between(100, 4000));
            self.schedule(after, What::Form);
        }
    }

    /// Some members wait for a quorum for long, as in a total partition; the next view goes on with what they have.
    fn fall_dormant(&mut self, some: NodeInstance) {
        for x in self.nodes.keys().copied().collect::<Vec<_>>() {
            let stays = self.nodes[&x].outside || self.nodes[&x].paused || self.nodes[&x].dormant;
            if stays || x != some && self.rng.chance(0.4) {
                continue;
            }
            self.queue.retain(|_, what| !matches!(what, What::Word(to, Word::Resumed) if *to == x));
            self.hear(x, Word::Suspended);
            self.hear(x, Word::Dormant);
            self.count("dormant");
        }
        let after = Duration::from_micros(self.rng.between(100, 8000));
        self.schedule(after, What::Form);
    }

    /// A member may be told of a later view without having been told of this one.
    fn skip_words(&mut self, x: NodeInstance) {
        let skipped: Vec<u64> = self
            .queue
            .iter()
            .filter(|(_, w)| matches!(w, What::Word(to, Word::View(v)) if *to == x && !joined_now(v, x)))
            .map(|(serial, _)| *serial)
            .collect();
        for serial in skipped {
            self.queue.remove(&serial);
            self.count("view skipped");
        }
    }

    /// The node is out of the primary. A paused one hears of it first thing when it wakes up.
    fn exclude(&mut self, x: NodeInstance) {
        self.queue.retain(|_, what| !matches!(what, What::Word(to, _) if *to == x));
        let Some(node) = self.nodes.get_mut(&x) else { return };
        node.outside = true;
        self.checkers.repairs().excuse(&self.nodes, true);
        let Some(node) = self.nodes.get_mut(&x) else { return };
        if node.paused {
            node.missed = vec![Word::Suspended, Word::NonPrimary];
        } else {
            self.hear(x, Word::NonPrimary);
            self.count("outside");
        }
    }

    pub(crate) fn run(mut self, millis: u64) -> Result<(Coverage, u64), Violation> {
        self.run_until(Instant::from_millis(millis))?;
        self.calm = true;
        self.cut.clear();
        let paused: Vec<NodeInstance> =
            self.nodes.iter().filter(|(_, n)| n.paused).map(|(x, _)| *x).collect();
        for x in paused {
            self.wake(x);
        }
        self.form_view();
        self.run_until(Instant::from_millis(millis + 60))?;
        self.asking = false;
        if !self.only_on_notice {
            for at in self.nodes.keys().copied().collect::<Vec<_>>() {
                for lock in self.checkers.all_locks_of(at) {
                    self.schedule(Duration::from_millis(2), What::Answer(at, lock));
                }
            }
        }
        // Whoever is in the way lets go when told, so everything that waits must end.
        self.run_until(Instant::from_millis(millis + 600))?;
        self.checkers.settled(&self.nodes, self.view.number)?;
        if self.domains {
            self.collect_all(self.now + Duration::from_millis(60))?;
        }
        let rest = self.now.since(Instant::from_millis(millis + 600));
        self.release_all();
        // What is kept, and then its tree, is given up in time.
        let last = if self.kept { 900 } else { 700 };
        self.run_until(Instant::from_millis(millis + last) + rest)?;
        self.checkers.empty(&self.nodes)?;
        let mut digest = self.now.as_nanos();
        for node in self.nodes.values() {
            let stats = node.engine.snapshot().stats;
            digest = digest.wrapping_mul(31).wrapping_add(stats.items_sent).rotate_left(7) ^ stats.grants;
            for (what, n) in [
                ("stale", stats.stale),
                ("recovered", stats.recovered),
                ("claims", stats.claims),
                ("deadlock", stats.deadlocks),
                ("victim", stats.victims),
                ("unknown lock", stats.unknown_locks),
                ("tree moved", stats.moved_here),
                ("move undone", stats.moves_undone),
                ("move came back", stats.moves_returned),
                ("next master lost", stats.moves_lost),
                ("kept", stats.kept),
                ("used again", stats.reused),
                ("given back", stats.given_back),
            ] {
                *self.coverage.entry(what).or_default() += n;
            }
            assert_eq!((stats.malformed, stats.overruns), (0, 0));
        }
        for (what, n) in self.checkers.coverage() {
            *self.coverage.entry(what).or_default() += n;
        }
        Ok((self.coverage, digest))
    }

    pub(crate) fn run_until(&mut self, end: Instant) -> Result<(), Violation> {
        while let Some(Reverse((at, serial))) = self.events.peek().copied() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            if let Some(what) = self.queue.remove(&serial) {
                self.step(what);
                self.checkers.repairs().excuse(&self.nodes, false);
                self.checkers.verdict()?;
                if serial.is_multiple_of(8) {
                    self.checkers.watch(&self.nodes)?;
                }
            }
        }
        self.now = end;
        Ok(())
    }

    fn step(&mut self, what: What) {
        if self.trace {
            println!("{} {what:?}", self.now);
        }
        match what {
            What::Circuit(from, to) => {
                let paused = self.nodes.get(&to).is_some_and(|n| n.paused);
                let cut = self.cut.contains(&from.node) != self.cut.contains(&to.node);
                if paused || cut {
                    self.schedule(Duration::from_micros(300), What::Circuit(from, to));
                    return;
                }
                let message = self.circuits.get_mut(&(from, to)).and_then(VecDeque::pop_front);
                if self.trace
                    && let Some(message) = &message
                {
                    println!("    {:?}", ocf_dlm::wire::Message::parse(message));
                }
                if let (Some(message), Some(node)) = (message, self.nodes.get_mut(&to)) {
                    node.engine.handle(self.now, Input::Message { from, message: &message });
                    self.drain(to);
                }
            }
            // The word that a lease has ended is about the last time that the instance left.
            What::Word(_, Word::Proven(x, Proof::LeaseExpired))
                if self.is_in(x) || self.unproven.contains(&x) => {}
            What::Word(to, word) => match self.nodes.get_mut(&to) {
                Some(node) if node.paused => {
                    node.missed.extend(
                        Some(word).filter(|word| !matches!(word, Word::Proven(_, Proof::LeaseExpired))),
                    );
                }
                Some(_) => self.hear(to, word),
                None => {}
            },
            What::Timer(to) => {
                if let Some(node) = self.nodes.get_mut(&to) {
                    node.timer = None;
                    if node.paused {
                        self.schedule(Duration::from_micros(500), What::Timer(to));
                        return;
                    }
                    node.engine.handle_timeout(self.now);
                    self.drain(to);
                }
            }
            What::Act => self.act(),
            What::Fault => self.fault(),
            What::Fence(x, attempt) => self.fence(x, attempt),
            What::Wake(x) => self.wake(x),
            What::Form => self.form_view(),
            What::Answer(x, lock) => self.let_go(x, lock),
        }
    }

    fn hear(&mut self, to: NodeInstance, word: Word) {
        if matches!(word, Word::View(_)) {
            self.checkers.repairs().comes_to_view(to, &self.nodes);
        }
        let Some(node) = self.nodes.get_mut(&to) else { return };
        if !matches!(word, Word::Proven(..)) {
            node.suspended = matches!(word, Word::Suspended);
            if core::mem::replace(&mut node.dormant, matches!(word, Word::Dormant)) {
                // Its holders were told, and it was silent since: what they held is free from now on.
                self.checkers.surrendered(to);
            }
        }
        match word {
            Word::View(view) => {
                node.outside = false;
                // Where a node only asks, it may have asked one that gave the tree up, and hear so at any time. A master
                // that has granted or queued something of its does not give it up.
                let known = |lock: u64| {
                    node.engine.lock_state(lock).is_some_and(|s| s.held.is_some() || s.place.is_some())
                };
                let mine = self.checkers.locks_of(to).into_iter().filter(|(lock, _)| known(*lock));
                let known: BTreeSet<_> = mine.map(|(_, key)| key.tree).collect();
                let asks = |tree: &TreeSnapshot| {
                    matches!(tree.state, TreeState::At(_)) && !known.contains(&tree.name)
                };
                let before: Vec<_> = node.engine.trees().filter(|tree| !asks(tree)).collect();
                let joiner = joined_now(&view, to)
                    || view.members.iter().any(|m| m.instance == to && m.joined > node.engine.epoch());
                let settled = node.engine.snapshot().recovered;
                let keeps = node.engine.snapshot().kept > 0;
                let epoch = node.engine.epoch();
                node.engine.handle(self.now, Input::View(&view));
                if keeps {
                    *self.coverage.entry("view with a kept grant").or_default() += 1;
                }
                if !joiner && settled {
                    let stays =
                        |x: NodeInstance| view.members.iter().any(|m| m.instance == x && m.joined <= epoch);
                    self.checkers.untouched(to, &before, &node.engine, stays);
                }
            }
            Word::NonPrimary => node.engine.handle(self.now, Input::NonPrimary),
            Word::Dormant => node.engine.handle(self.now, Input::Dormant),
            Word::Suspended => node.engine.handle(self.now, Input::Suspended),
            Word::Resumed => node.engine.handle(self.now, Input::Resumed),
            Word::Proven(instance, proof) => {
                node.engine.handle(self.now, Input::Proven { instance, proof });
            }
        }
        self.drain(to);
    }

    /// Carries out what an engine wants.
    pub(crate) fn drain(&mut self, at: NodeInstance) {
        let mut outputs = Vec::new();
        let Some(node) = self.nodes.get_mut(&at) else { return };
        while let Some(output) = node.engine.poll_output() {
            outputs.push(output);
        }
        let due = node.engine.poll_timeout();
        if due.is_some() && (node.timer.is_none() || node.timer > due) {
            node.timer = due;
            // Work that is left goes on when the node comes to it: others say something meanwhile.
            let busy = due.is_some_and(|due| due <= self.now);
            let late = if busy { self.rng.below(60) } else { 0 };
            let after =
                due.map_or(Duration::ZERO, |due| if busy { Duration::ZERO } else { due.since(self.now) });
            let after = after + Duration::from_micros(late);
            self.schedule(after, What::Timer(at));
        }
        for output in outputs {
            if self.trace && !matches!(output, Output::Send { .. }) {
                println!("    {at} tells {output:?}");
            }
            match output {
                Output::Send { to, message } => self.carry(at, to, message),
                Output::Completed(completed) => self.completed(at, &completed),
                Output::Blocking { lock, wanted, signal, .. } => {
                    self.checkers.notified(at, lock, (wanted, signal));
                    self.count("notice");
                    if self.rng.chance(0.7) || !self.asking || self.only_on_notice {
                        let after = Duration::from_micros(self.rng.between(20, 1500));
                        self.schedule(after, What::Answer(at, lock));
                    }
                }
                Output::Lost { lock, .. } => {
                    self.checkers.lost(at, lock);
                    self.count("lock lost");
                }
                Output::FenceWanted(x) => {
                    self.count("fence wanted");
                    // It was proven before: whoever asks is told again.
                    if !self.unproven.contains(&x) && !self.is_in(x) {
                        let alive = self.nodes.contains_key(&x);
                        let proof = if alive { Proof::LeaseExpired } else { Proof::Fenced };
                        self.tell_late(at, x, proof, Duration::from_micros(500));
                    }
                }
                Output::Recovered { .. } => self.count("recovered view"),
                Output::Revoked { lock, .. } => {
                    self.count(if self.checkers.is_orphan((at, lock)) {
                        "orphan taken away"
                    } else {
                        "revoked"
                    });
                    self.checkers.revoked((at, lock));
                }
                Output::Reported { ticket, outcome } => self.reported(at, ticket, outcome),
                Output::Tested { blocker, .. } => {
                    self.count(if blocker.is_some() { "range in the way" } else { "range free" });
                }
                Output::Overrun | _ => unreachable!("no engine here does anything else"),
            }
        }
    }

    fn reported(&mut self, at: NodeInstance, ticket: u64, outcome: Option<Outcome>) {
        if self.domain_reported(at, ticket, outcome.as_ref()) {
            return;
        }
        if let (Some(asked), Some(Outcome::InTheWay { locks, .. })) =
            (self.questions.remove(&(at, ticket)), &outcome)
        {
            self.checkers.explained(asked, locks);
        }
        self.count(match outcome {
            None => "order interrupted",
            Some(Outcome::Released(0)) => "nothing to release",
            Some(Outcome::Released(_)) => "released by order",
            Some(Outcome::Resource(_)) => "resource reported",
            Some(Outcome::Orphans { .. }) => "orphans listed",
            Some(Outcome::InTheWay { .. }) => "told what is in the way",
            Some(Outcome::Refused(OrderRefusal::Endangers(danger))) if danger.unproven => {
                "told that fencing is wanted"
            }
            Some(Outcome::Refused(OrderRefusal::Endangers(_))) => "told what it endangers",
            Some(_) => "order refused",
        });
    }

    fn carry(&mut self, from: NodeInstance, to: NodeInstance, message: Bytes) {
        if !self.nodes.contains_key(&to) {
            return;
        }
        let at = (self.now + self.delay()).max(*self.ready_at.get(&(from, to)).unwrap_or(&self.now));
        let at = at + Duration::from_nanos(1);
        self.ready_at.insert((from, to), at);
        self.circuits.entry((from, to)).or_default().push_back(message);
        self.schedule(at.since(self.now), What::Circuit(from, to));
    }

    fn completed(&mut self, at: NodeInstance, completed: &Completed) {
        if completed.remarks.demoted {
            self.count("demoted");
        }
        match completed.status {
            Status::Deadlock => self.count("denied for a deadlock"),
            Status::TimedOut => self.count("timed out"),
            Status::Cancelled => self.count("cancelled"),
            Status::NotQueued => self.count("not queued"),
            Status::Lost => self.count("request lost"),
            Status::Granted => self.count("granted"),
            Status::Unlocked => self.count("unlocked by force"),
        }
        if self.nodes.get(&at).is_some_and(|node| node.suspended) {
            self.checkers.completed_in_doubt(at, completed);
        }
        self.checkers.completed(at, completed);
        if completed.status == Status::Unlocked {
            self.checkers.gone_by_force((at, completed.lock));
        }
        if !self.only_on_notice && self.asking && self.rng.chance(0.5) {
            let after = Duration::from_micros(self.rng.between(50, 3000));
            self.schedule(after, What::Answer(at, completed.lock));
        }
    }

    /// An application does something.
    fn act(&mut self) {
        if self.asking {
            let after = Duration::from_micros(self.rng.between(1, 250));
            self.schedule(after, What::Act);
        }
        let living: Vec<NodeInstance> =
            self.nodes.iter().filter(|(_, n)| !n.paused).map(|(x, _)| *x).collect();
        let Some(at) = self.rng.pick(&living).copied() else { return };
        if self.operated && self.rng.chance(0.15) {
            self.operate(at);
            self.drain(at);
            return;
        }
        if self.domains && self.rng.chance(0.1) {
            self.domain_operation(at);
            self.drain(at);
            return;
        }
        let mine = self.checkers.locks_of(at);
        match self.rng.below(20) {
            0 => {
                if let Some((lock, _)) = self.rng.pick(&mine).cloned() {
                    let node = self.nodes.get_mut(&at).unwrap();
                    if node.engine.cancel(self.now, lock).is_ok() {
                        self.count("cancel");
                    }
                }
            }
            1..5 => {
                if let Some((lock, _)) = self.rng.pick(&mine).cloned() {
                    self.convert(at, lock);
                }
            }
            5 => {
                if let Some((lock, _)) = self.rng.pick(&mine).cloned() {
                    self.unlock(at, lock, Flags::FORCEUNLOCK);
                }
            }
            6 => self.probe(at),
            _ if self.asking && mine.len() < 12 => {
                if self.ranged && self.rng.chance(0.8) {
                    self.range_operation(at);
                } else {
                    self.ask(at, &mine);
                }
            }
            _ => {}
        }
        self.drain(at);
    }

    /// A client ends, somebody adopts what one left, or an operator looks at locks and takes some away.
    fn operate(&mut self, at: NodeInstance) {
        let client = ClientId::new(self.rng.below(3) as u32);
        let living: Vec<NodeInstance> = self.nodes.keys().copied().collect();
        let node = self.nodes.get_mut(&at).unwrap();
        match self.rng.below(4) {
            0 => {
                node.engine.end_client(self.now, client);
                self.checkers.client_ended(at, client);
                self.count("client ended");
            }
            1 => {
                let orphans = self.checkers.orphans_of(at);
                let Some((key, held)) = self.rng.pick(&orphans).cloned() else { return };
                let flags = Flags::NOTIFY | Flags::VALBLK | Flags::ORPHAN;
                self.signal += 1;
                let (of, transaction, signal) = (key.clone(), None, self.signal);
                let ask =
                    Ask { client, key, parent: None, mode: held, flags, transaction, deadline: None, signal };
                if let Ok(lock) = node.engine.lock(self.now, ask) {
                    self.checkers.signals((at, lock), &of, (held, signal));
                    self.checkers.adopted((at, lock), client);
                    self.count("adopted");
                }
            }
            2 => {
                let all = self.checkers.everything();
                let Some(((home, lock), key)) = self.rng.pick(&all).cloned() else { return };
                let departed = node.engine.is_unproven(home);
                let holder = Holder { node: home, lock };
                let mut guard = ReleaseGuard::new("the simulator wants it").filter(|_| self.rng.chance(0.8));
                if departed && self.rng.chance(0.7) {
                    guard = guard.map(ReleaseGuard::instead_of_fencing);
                }
                let vouched = guard.as_ref().is_some_and(ReleaseGuard::is_instead_of_fencing);
                let given = node.engine.force_release(self.now, holder, key, guard).is_ok();
                if given && vouched && !self.is_in(home) && self.checkers.is_held((home, lock)) {
                    // The operator says that it does no harm: whether the master hears of that or not.
                    self.checkers.revoked((home, lock));
                    self.count("taken from a departed node");
                }
            }
            _ => {
                let name = [b"a".as_slice(), b"b", b"c", b"d"][self.rng.below(4) as usize];
                if node.engine.inquire(self.now, Key::root(b"ls", name)).is_ok() {
                    self.count("inquired");
                }
                let node = self.nodes.get_mut(&at).unwrap();
                let waits = node.engine.waits(self.now);
                let elsewhere = waits.iter().find(|wait| matches!(wait.reason, WaitReason::AtMaster(_)));
                if let Some(wait) = elsewhere
                    && let Ok(ticket) = node.engine.explain(self.now, wait.lock)
                {
                    self.questions.insert((at, ticket), wait.asked);
                    self.count("asked why");
                }
                let Some(of) = self.rng.pick(&living).copied() else { return };
                let node = self.nodes.get_mut(&at).unwrap();
                if node.engine.orphans_of(self.now, of).is_ok() {
                    self.count("asked for orphans");
                }
            }
        }
    }

    /// An orphan that is in the way is purged by whoever may.
    fn purge(&mut self, home: NodeInstance, lock: u64) {
        let active: Vec<NodeInstance> = self
            .nodes
            .iter()
            .filter(|(_, n)| !n.paused && n.engine.snapshot().active)
            .map(|(x, _)| *x)
            .collect();
        if let Some(by) = self.rng.pick(&active).copied() {
            let client = self.checkers.client_of(home, lock);
            // Not while it is no member.
            if self.nodes.get_mut(&by).unwrap().engine.purge(self.now, home, client).is_ok() {
                self.drain(by);
            }
        }
        for child in self.checkers.children_of(home, lock) {
            // Those that were adopted, also if they are orphans of that client again.
            let theirs = self.checkers.client_of(home, child) == self.checkers.client_of(home, lock);
            if !theirs || !self.checkers.is_orphan((home, child)) {
                self.schedule(Duration::from_micros(10), What::Answer(home, child));
            }
        }
        self.schedule(Duration::from_millis(1), What::Answer(home, lock));
    }

    fn ask(&mut self, at: NodeInstance, mine: &[(u64, Key)]) {
        let roots = [b"a".as_slice(), b"b", b"c", b"d"];
        let mut root = Key::root(b"ls", self.rng.pick(&roots).unwrap());
        if self.kept && self.rng.chance(0.9) {
            // Most have a name of their own, which others use at times.
            let other = self.rng.below(u64::from(self.size)) as u32;
            let of = if self.rng.chance(0.8) { at.node.raw() } else { other };
            root = Key::root(b"ls", &of.to_be_bytes());
        }
        if self.domains && self.rng.chance(0.7) {
            // Some are not written again so soon.
            root = Key::root(b"ls", &[self.rng.below(16) as u8]);
        }
        let client = ClientId::new(self.rng.below(3) as u32);
        let mut key = root.clone();
        let mut parent = None;
        let node = self.nodes.get_mut(&at).unwrap();
        let above = mine
            .iter()
            .find(|(lock, k)| *k == root && node.engine.lock_state(*lock).is_some_and(|s| s.held.is_some()));
        if let (Some((lock, _)), true) = (above, self.rng.chance(0.4)) {
            let owner = self.checkers.client_of(at, *lock);
            if owner == Some(client) {
                parent = Some(*lock);
                key = root.child(b"x");
            }
        }
        let mut mode = *self.rng.pick(&Mode::ALL).unwrap();
        if self.kept && self.rng.chance(0.7) {
            mode = if self.rng.chance(0.6) { Mode::Ex } else { Mode::Pr };
        }
        let mut flags = Flags::NOTIFY | Flags::VALBLK;
        for (flag, p) in
            [(Flags::NOQUEUE, 0.1), (Flags::NOORDER, 0.05), (Flags::HEADQUE, 0.05), (Flags::ALTPR, 0.05)]
        {
            if self.rng.chance(p) {
                flags |= flag;
            }
        }
        if self.operated && self.rng.chance(0.4) {
            flags |= Flags::PERSISTENT;
        }
        let deadline = self.rng.chance(0.1).then(|| self.now + Duration::from_millis(4));
        self.signal += 1;
        let (transaction, signal) = (None, self.signal);
        let ask = Ask { client, key: key.clone(), parent, mode, flags, transaction, deadline, signal };
        let before = node.engine.snapshot();
        if let Ok(lock) = node.engine.lock(self.now, ask) {
            if node.engine.snapshot().stats.reused > before.stats.reused && !before.recovered {
                *self.coverage.entry("used again during a recovery").or_default() += 1;
            }
            self.checkers.signals((at, lock), &key, (mode, signal));
            self.checkers.asked((at, lock), client, key, (mode, flags));
            self.checkers.placed((at, lock), parent);
        }
    }

    fn convert(&mut self, at: NodeInstance, lock: u64) {
        if self.checkers.has_ranges(at, lock) {
            self.range_operation(at);
            return;
        }
        let mode = *self.rng.pick(&Mode::ALL).unwrap();
        let mut flags = Flags::NOTIFY | Flags::VALBLK;
        if self.rng.chance(0.2) {
            flags |= Flags::NOQUEUE;
        }
        if self.all_flags {
            flags |= self.conversion_flags(at, lock, mode);
        }
        self.value += 1;
        let value = Value { block: ValueBlock::zero(32).with_number(self.value), sequence: 0 };
        let node = self.nodes.get_mut(&at).unwrap();
        let noted = self.checkers.converting(at, lock, (mode, flags), self.value);
        let refused = node.engine.convert(self.now, lock, (mode, flags, Some(value)), None).is_err();
        if noted && refused {
            self.checkers.conversion_refused(at, lock);
        }
        self.drain(at);
    }

    fn conversion_flags(&mut self, at: NodeInstance, lock: u64, mode: Mode) -> Flags {
        let held = self.nodes[&at].engine.lock_state(lock).and_then(|s| s.held).unwrap_or(Mode::Nl);
        // Who holds less than the alternative gives nothing up for it.
        let low = held <= Mode::Cr;
        let choices = [
            (Flags::HEADQUE, true, 0.15),
            (Flags::QUECVT, held.may_queue_conversion(mode), 0.2),
            (Flags::NOORDER, true, 0.1),
            (Flags::CONVDEADLK, true, 0.3),
            (Flags::ALTPR, low, 0.1),
            (Flags::ALTCW, low, 0.1),
        ];
        let mut flags = Flags::NONE;
        for (flag, may, p) in choices {
            if may && self.rng.chance(p) {
                flags |= flag;
            }
        }
        flags
    }

    pub(crate) fn unlock(&mut self, at: NodeInstance, lock: u64, flags: Flags) {
        self.value += 1;
        let value = Value { block: ValueBlock::zero(32).with_number(self.value), sequence: 0 };
        let node = self.nodes.get_mut(&at).unwrap();
        let held = node.engine.lock_state(lock).and_then(|state| state.held);
        if node.engine.unlock(self.now, lock, flags | Flags::VALBLK, Some(value)).is_ok() {
            if self.trace {
                println!("    {at} unlocks {lock} with {}", self.value);
            }
            self.checkers.unlocked(at, lock, held, self.value);
            self.drain(at);
        }
    }

    /// A node that masters a tree grants an NL lock in it at once, whatever recovery goes on.
    fn probe(&mut self, at: NodeInstance) {
        let node = self.nodes.get_mut(&at).unwrap();
        let here = node.engine.trees().find(|t| t.state == TreeState::Here);
        let (Some(tree), true) = (here, node.engine.snapshot().active) else { return };
        let key = Key { tree: tree.name, path: std::sync::Arc::from([]) };
        let ask = Ask {
            client: ClientId::new(9),
            key: key.clone(),
            parent: None,
            mode: Mode::Nl,
            flags: Flags::EXPEDITE,
            transaction: None,
            deadline: None,
            signal: 0,
        };
        let lock = node.engine.lock(self.now, ask).unwrap();
        let held = node.engine.lock_state(lock).and_then(|s| s.held);
        self.checkers.probed(at, held);
        self.checkers.asked((at, lock), ClientId::new(9), key, (Mode::Nl, Flags::EXPEDITE));
        self.drain(at);
        self.unlock(at, lock, Flags::NONE);
        self.count("probe");
    }

    pub(crate) const fn is_asking(&self) -> bool {
        self.asking
    }

    pub(crate) fn schedule_release(&mut self, at: NodeInstance, lock: u64) {
        let after = Duration::from_micros(self.rng.between(10, 500));
        self.schedule(after, What::Answer(at, lock));
    }

    /// An application gives up a lock, or lowers it.
    fn let_go(&mut self, at: NodeInstance, lock: u64) {
        let paused = self.nodes.get(&at).is_none_or(|n| n.paused);
        if paused {
            if self.nodes.contains_key(&at) {
                self.schedule(Duration::from_millis(1), What::Answer(at, lock));
            }
            return;
        }
        let state = self.nodes[&at].engine.lock_state(lock);
        let Some(state) = state else { return };
        if self.checkers.is_orphan((at, lock)) {
            self.purge(at, lock);
            return;
        }
        if state.asked.is_some() {
            self.schedule(Duration::from_millis(1), What::Answer(at, lock));
            return;
        }
        if self.checkers.children(at, lock) > 0 {
            for child in self.checkers.children_of(at, lock) {
                self.schedule(Duration::from_micros(10), What::Answer(at, child));
            }
            self.schedule(Duration::from_millis(1), What::Answer(at, lock));
            return;
        }
        self.unlock(at, lock, Flags::FORCEUNLOCK);
    }

    fn release_all(&mut self) {
        let living: Vec<NodeInstance> = self.nodes.keys().copied().collect();
        for at in living {
            self.release_all_of(at);
            // What was adopted above an orphan goes after it, and an orphan after what was adopted below it.
            while self.operated && self.locks_in_use(at) > 0 {
                let left = self.locks_in_use(at);
                self.nodes.get_mut(&at).unwrap().engine.purge(self.now, at, None).unwrap();
                self.drain(at);
                self.release_all_of(at);
                assert!(self.locks_in_use(at) < left, "what is left has no owner");
            }
        }
    }

    fn locks_in_use(&self, at: NodeInstance) -> usize {
        let snapshot = self.nodes[&at].engine.snapshot();
        snapshot.locks - snapshot.kept
    }

    fn release_all_of(&mut self, at: NodeInstance) {
        let mut mine = self.checkers.locks_of(at);
        mine.sort_by_key(|(lock, key)| Reverse((key.path.len(), *lock)));
        for (lock, _) in mine {
            self.unlock(at, lock, Flags::FORCEUNLOCK);
        }
    }

    fn fault(&mut self) {
        if self.calm {
            return;
        }
        let after = Duration::from_micros(self.rng.between(300, 6000));
        self.schedule(after, What::Fault);
        let members: Vec<NodeInstance> =
            self.nodes.iter().filter(|(_, n)| !n.outside && !n.paused).map(|(x, _)| *x).collect();
        let awake = |world: &Self, x: &NodeInstance| !world.nodes[x].dormant;
        let some = self.rng.pick(&members).copied();
        match self.rng.below(15) {
            0..3 => {
                if let Some(x) = some.filter(|x| self.may_go(*x)) {
                    self.kill(x);
                    self.count("crash");
                    self.form_view();
                }
            }
            3..6 => {
                let dead: Vec<NodeId> = (0..self.size)
                    .map(NodeId::new)
                    .filter(|n| !self.nodes.keys().any(|x| x.node == *n))
                    .collect();
                if let Some(node) = self.rng.pick(&dead).copied() {
                    self.start(node);
                    self.count("restart");
                    self.form_view();
                }
            }
            6 | 7 => {
                if let Some(x) = some.filter(|x| self.may_go(*x)) {
                    self.cut.insert(x.node);
                    self.count("partition");
                    self.form_view();
                }
            }
            8 | 9 => {
                self.cut.clear();
                self.form_view();
            }
            10 | 11 => {
                if let Some(x) = some.filter(|x| awake(self, x)) {
                    let excluded = self.rng.chance(0.6) && self.may_go(x);
                    if let Some(node) = self.nodes.get_mut(&x) {
                        node.paused = true;
                        node.missed.push(Word::Suspended);
                        if !excluded {
                            node.missed.push(Word::Resumed);
                        }
                    }
                    self.count("pause");
                    if excluded {
                        self.form_view();
                    }
                    let after = Duration::from_micros(self.rng.between(300, 15_000));
                    self.schedule(after, What::Wake(x));
                }
            }
            12 => {
                if let Some(x) = some {
                    if self.rng.chance(0.5) { self.give_up(x) } else { self.fall_dormant(x) }
                }
            }
            _ => {
                if let Some(x) = some.filter(|x| awake(self, x)) {
                    self.doubt(x);
                    self.tell(x, Word::Resumed, Duration::from_millis(1));
                }
            }
        }
    }

    /// The lease of a node is in doubt, and its applications ask for several things at once.
    fn doubt(&mut self, x: NodeInstance) {
        self.hear(x, Word::Suspended);
        self.count("suspended");
        for _ in 0..if self.kept { 6 } else { 0 } {
            let mine = self.checkers.locks_of(x);
            self.ask(x, &mine);
        }
        self.drain(x);
    }

    /// True if a majority of the view is left without `x`.
    fn may_go(&self, x: NodeInstance) -> bool {
        let left = self
            .nodes
            .iter()
            .filter(|(y, n)| **y != x && self.is_in(**y) && !n.paused && !self.cut.contains(&y.node))
            .count();
        left * 2 > self.view.members.len()
    }

    fn wake(&mut self, x: NodeInstance) {
        let Some(node) = self.nodes.get_mut(&x) else { return };
        if !node.paused {
            return;
        }
        node.paused = false;
        let missed = core::mem::take(&mut node.missed);
        // The stall guard comes first, views that were missed later.
        let (first, later): (Vec<Word>, Vec<Word>) =
            missed.into_iter().partition(|w| matches!(w, Word::Suspended | Word::NonPrimary));
        for word in first.into_iter().chain(later) {
            self.hear(x, word);
        }
        // It was to be left out, and the others could not do without.
        if self.nodes[&x].suspended && !self.nodes[&x].outside && !self.nodes[&x].dormant {
            self.tell(x, Word::Resumed, Duration::ZERO);
        }
        self.form_view();
    }

    fn kill(&mut self, x: NodeInstance) {
        self.count_crash(x);
        self.gave_up.remove(&x);
        self.nodes.remove(&x);
        self.checkers.died(x);
        self.checkers.repairs().excuse(&self.nodes, true);
        self.circuits.retain(|(_, to), _| *to != x);
        for ((from, _), messages) in &mut self.circuits {
            if *from == x {
                let keep = self.rng.below(messages.len() as u64 + 1) as usize;
                messages.truncate(keep);
            }
        }
    }

    /// What the node was doing when it crashed.
    fn count_crash(&mut self, x: NodeInstance) {
        let Some(node) = self.nodes.get(&x).filter(|n| !n.outside) else { return };
        let snapshot = node.engine.snapshot();
        let others =
            node.engine.mastered_locks().iter().any(|(_, lock)| lock.who.node != x && lock.who.lock != 0);
        let foreign = node.engine.directory().any(|(_, master)| master.is_some_and(|master| master != x));
        let recovering = self.is_recovering();
        for (what, yes) in [
            ("crash of a master", others),
            ("crash of a directory keeper", foreign),
            ("crash of a requester", snapshot.waiting > 0),
            ("crash during a recovery", recovering),
            ("crash with a kept grant", snapshot.kept > 0),
        ] {
            if yes {
                self.count(what);
            }
        }
    }

    /// A fence device is at work on an instance that left.
    fn fence(&mut self, x: NodeInstance, attempt: u32) {
        if !self.unproven.contains(&x) {
            return;
        }
        if self.rng.chance(0.3) && attempt < 4 && !self.calm {
            self.count("fencing failed");
            let after = Duration::from_micros(self.rng.between(500, 8000));
            self.schedule(after, What::Fence(x, attempt + 1));
            return;
        }
        let (alive, outside) = self.nodes.get(&x).map_or((false, false), |n| (true, n.outside && !n.paused));
        let proof = if alive && outside && self.rng.chance(0.5) {
            self.count("proof by lease");
            Proof::LeaseExpired
        } else if alive {
            self.count("fenced alive");
            self.kill(x);
            Proof::Fenced
        } else if self.rng.chance(0.5) {
            self.count("obituary");
            Proof::Obituary
        } else {
            Proof::Fenced
        };
        self.unproven.remove(&x);
        self.checkers.proven(x);
        let members: Vec<NodeInstance> =
            self.nodes.iter().filter(|(y, n)| !n.outside && self.is_in(**y)).map(|(y, _)| *y).collect();
        if let Some(to) = self.rng.pick(&members).copied() {
            self.tell(to, Word::Proven(x, proof), Duration::ZERO);
        }
        // The provider tells everybody sooner or later; the first may die before it has passed it on.
        for to in self.nodes.keys().copied().collect::<Vec<_>>() {
            let slack = Duration::from_micros(self.rng.between(500, 5000));
            self.tell_late(to, x, proof, slack);
        }
        self.form_view();
    }

    fn tell_late(&mut self, to: NodeInstance, x: NodeInstance, proof: Proof, slack: Duration) {
        self.schedule(slack, What::Word(to, Word::Proven(x, proof)));
    }
}

fn joined_now(view: &ClusterView, x: NodeInstance) -> bool {
    view.members.iter().any(|m| m.instance == x && m.joined == view.number)
}
