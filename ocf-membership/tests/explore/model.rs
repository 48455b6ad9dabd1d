//! Three nodes, what is on its way between them, and every step that one of them, or the world, may take next.

mod checks;

use crate::plan::{Act, Kind, Plan, Scene};
use bytes::Bytes;
use core::fmt::{self, Write as _};
use core::time::Duration;
use ocf_comm::DownReason;
use ocf_membership::{
    Ballot, Claim, Config, Consensus, EvenSplit, Evidence, GrantRegister, Input, NodeVotes, Output,
    PersistToken, Verdict, View, ViewNumber, policy_by_name,
};
use pils::{Incarnation, Instant, Layer as _, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;

/// How long silence lasts before it is told for certain; it may be told at any time before.
const DETECTION: Duration = Duration::from_millis(500);
/// Kinds of messages whose order among those of other senders matters little: they arrive at once. STATUS, RENEW, RENEW_ACK.
const CALM: [u8; 3] = [1, 8, 9];

struct Node {
    core: Option<Consensus>,
    local: NodeInstance,
    lives: u32,
    disk: Option<Bytes>,
    writes: VecDeque<(PersistToken, Bytes)>,
    up: BTreeMap<usize, NodeInstance>,
    active: Option<ViewNumber>,
    last: ViewNumber,
    claim: Option<Claim>,
    digest: u64,
}

impl Clone for Node {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
            disk: self.disk.clone(),
            writes: self.writes.clone(),
            up: self.up.clone(),
            claim: self.claim.clone(),
            ..*self
        }
    }
}

/// Feeds what is formatted to a hasher.
struct Digest(DefaultHasher);

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Link {
    messages: VecDeque<(NodeInstance, Bytes)>,
    cut: bool,
    /// It stays so, and what is sent is lost.
    lost: bool,
    /// Nothing of the sender is heard since then.
    silent: Option<Instant>,
}

/// What a view counts by.
pub(crate) struct Counts {
    revision: u64,
    votes: Vec<NodeVotes>,
    quorum: u32,
}

/// Everything at one moment.
#[derive(Clone)]
pub(crate) struct State {
    now: Instant,
    nodes: Vec<Rc<Node>>,
    links: Vec<Vec<Link>>,
    paused: Vec<bool>,
    ailing: Vec<bool>,
    severed: Vec<bool>,
    faults: u8,
    /// Timers since something else happened.
    idle: u8,
    views: BTreeMap<ViewNumber, Rc<View>>,
    /// What each view counts by.
    counts: BTreeMap<ViewNumber, Rc<Counts>>,
    register: GrantRegister,
    pub(crate) broken: Option<String>,
}

pub(crate) struct Model {
    pub(crate) plan: Plan,
    nodes: usize,
    config: Config,
    end: Instant,
}

impl Model {
    pub(crate) fn new(plan: Plan) -> Self {
        let config = Config {
            policy: policy_by_name(plan.policy).expect("a policy"),
            detection: DETECTION,
            lease: DETECTION,
            coordinator: plan.coordinator.clone(),
            ..Config::new(list(plan.votes))
        };
        Self { nodes: plan.votes.len(), plan, config, end: Instant::ZERO }
    }

    /// All nodes have started; or, unless the plan is cold, are in their first view.
    pub(crate) fn initial(&mut self) -> State {
        let n = self.nodes;
        let node = |i: usize| Node {
            core: None,
            local: NodeInstance::new(id(i), Incarnation::new(0)),
            lives: 0,
            disk: None,
            writes: VecDeque::new(),
            up: BTreeMap::new(),
            active: None,
            last: ViewNumber(0),
            claim: None,
            digest: 0,
        };
        let mut state = State {
            now: Instant::ZERO,
            nodes: (0..n).map(|i| Rc::new(node(i))).collect(),
            links: vec![vec![Link::default(); n]; n],
            paused: vec![false; n],
            ailing: vec![false; n],
            severed: vec![false; n],
            faults: u8::MAX,
            idle: 0,
            views: BTreeMap::new(),
            counts: BTreeMap::new(),
            register: GrantRegister::default(),
            broken: None,
        };
        self.end = Instant::MAX;
        (0..n).for_each(|i| self.start(&mut state, i));
        self.calm(&mut state);
        if !self.plan.cold {
            let in_it = |node: &Rc<Node>| node.active == Some(ViewNumber(1));
            state = self.go_on(state, 0, |state| state.nodes.iter().all(in_it));
        }
        state = self.play(state);
        state.faults = self.plan.faults;
        state.idle = 0;
        state.settle();
        self.end = state.now + self.plan.horizon;
        state
    }

    /// What happens before the exploration.
    fn play(&self, mut state: State) -> State {
        let mut slow = 0;
        for scene in self.plan.scene {
            state = match *scene {
                Scene::Step(act) => {
                    let allowed = matches!(act, Act::Fault(..) | Act::Restart(_) | Act::Heal(_));
                    assert!(allowed || self.enabled(&state).contains(&act), "{act:?} cannot happen");
                    self.apply(&state, act)
                }
                Scene::Until(i, name) => self.go_on(state, slow, |state| {
                    state.nodes[i].core.as_ref().is_some_and(|core| core.state_name() == name)
                }),
                Scene::Agreed(number, nodes) => self.go_on(state, slow, |state| {
                    let mut others = (0..self.nodes).filter(|i| nodes & 1 << i != 0);
                    others.all(|i| state.nodes[i].active == Some(ViewNumber(number)))
                }),
                Scene::Rest => self.go_on(state, slow, |state| {
                    self.next_calm(state, slow).is_none_or(|act| act == Act::Time)
                }),
                Scene::Links(pairs) => self.link(state, pairs),
                Scene::Slow(nodes) => {
                    slow = nodes;
                    state
                }
                Scene::Order(i, votes) => {
                    self.order(&mut state, i, votes);
                    state
                }
            };
            state.idle = 0;
        }
        state.settle();
        state
    }

    /// What happens next without faults, while some disks write nothing.
    fn next_calm(&self, state: &State, slow: u8) -> Option<Act> {
        self.enabled(state).into_iter().find(|act| match act {
            Act::Deliver(..) | Act::Time => true,
            Act::Write(i) => slow & 1 << i == 0,
            _ => false,
        })
    }

    fn go_on(&self, mut state: State, slow: u8, until: impl Fn(&State) -> bool) -> State {
        for _ in 0..1_000 {
            if until(&state) {
                return state;
            }
            state.idle = 0;
            let act = self.next_calm(&state, slow);
            state = self.apply(&state, act.expect("something happens"));
            assert!(state.broken.is_none(), "{:?}", state.broken);
        }
        panic!("without faults they come to that: {:?} at {:?}", self.plan.scene, state.now);
    }

    /// Those pairs hear each other, and no others.
    fn link(&self, mut state: State, pairs: &[(usize, usize)]) -> State {
        let n = self.nodes;
        let now = state.now;
        for (a, b) in (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))) {
            let works = pairs.contains(&(a, b));
            let dead = !Self::alive(&state, a) || !Self::alive(&state, b);
            for (f, t) in [(a, b), (b, a)] {
                let link = &mut state.links[f][t];
                if works && link.lost {
                    *link = Link { silent: link.silent.filter(|_| dead), ..Link::default() };
                } else if !works {
                    (link.cut, link.lost) = (true, true);
                    link.silent.get_or_insert(now);
                    link.messages.clear();
                    self.notice(&mut state, t, f);
                }
            }
        }
        self.calm(&mut state);
        state
    }

    /// A node is told to change the votes.
    fn order(&self, state: &mut State, i: usize, votes: &[u32]) {
        let now = state.now;
        let core = Rc::make_mut(&mut state.nodes[i]).core.as_mut().expect("it runs");
        core.set_votes(now, &list(votes)).expect("they can be changed");
        self.carry_out(state, i);
        self.calm(state);
    }

    fn alive(state: &State, i: usize) -> bool {
        state.nodes[i].core.is_some()
    }

    fn deliverable(state: &State, from: usize, to: usize) -> bool {
        let link = &state.links[from][to];
        let Some((sender, _)) = link.messages.front() else { return false };
        !link.cut
            && !state.paused[to]
            && Self::alive(state, to)
            && state.nodes[to].up.get(&from) == Some(sender)
    }

    /// Something other than a timer is due.
    fn is_busy(&self, state: &State) -> bool {
        let n = self.nodes;
        let mut pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let works = |i: usize| {
            let node = &state.nodes[i];
            node.core.is_some() && !state.paused[i] && (!node.writes.is_empty() || node.claim.is_some())
        };
        pairs.any(|(f, t)| Self::deliverable(state, f, t)) || (0..n).any(works)
    }

    /// What can happen next.
    pub(crate) fn enabled(&self, state: &State) -> Vec<Act> {
        let n = self.nodes;
        let mut acts = Vec::new();
        if state.now > self.end {
            return acts;
        }
        let pairs = || (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b);
        acts.extend(
            pairs().filter(|(f, t)| Self::deliverable(state, *f, *t)).map(|(f, t)| Act::Deliver(f, t)),
        );
        for i in (0..n).filter(|i| Self::alive(state, *i) && !state.paused[*i]) {
            acts.extend((!state.nodes[i].writes.is_empty()).then_some(Act::Write(i)));
            if state.nodes[i].claim.is_some() {
                acts.extend([Act::Answer(i, true), Act::Answer(i, false)]);
            }
        }
        let rests = !self.is_busy(state);
        // While nothing but renewals goes on, one moment is like another.
        if !rests || state.idle <= 1 {
            let unheard = |(f, t): &(usize, usize)| {
                state.links[*f][*t].silent.is_some()
                    && state.nodes[*t].up.contains_key(f)
                    && Self::alive(state, *t)
                    && !state.paused[*t]
            };
            acts.extend(pairs().filter(unheard).map(|(f, t)| Act::Notice(t, f)));
            for i in (0..n).filter(|_| state.faults > 0) {
                if !Self::alive(state, i) || state.ailing[i] {
                    continue;
                }
                for (kind, _) in self.plan.kinds.iter().filter(|(_, whom)| whom & 1 << i != 0) {
                    acts.push(Act::Fault(*kind, i, true));
                    let sent = (0..n).any(|t| !state.links[i][t].messages.is_empty());
                    if *kind == Kind::Crash && sent {
                        acts.push(Act::Fault(*kind, i, false));
                    }
                }
            }
            acts.extend((0..n).filter(|i| state.ailing[*i] && !state.severed[*i]).map(Act::Heal));
            let down = |i: &usize| self.plan.returns & 1 << *i != 0 && !Self::alive(state, *i);
            acts.extend((0..n).filter(down).map(Act::Restart));
        }
        if rests && self.next_time(state).is_some() {
            acts.push(Act::Time);
        }
        acts
    }

    pub(crate) fn apply(&self, state: &State, act: Act) -> State {
        let mut next = state.clone();
        next.idle = if act == Act::Time { state.idle.saturating_add(1) } else { 0 };
        match act {
            Act::Deliver(from, to) => self.deliver(&mut next, from, to),
            Act::Write(i) => {
                let node = Rc::make_mut(&mut next.nodes[i]);
                let (token, record) = node.writes.pop_front().expect("enabled");
                node.disk = Some(record);
                self.give(&mut next, i, Some(Input::Persisted(token)));
            }
            Act::Answer(i, well) => self.answer(&mut next, i, well),
            Act::Notice(at, of) => self.notice(&mut next, at, of),
            Act::Fault(kind, i, keeps) => self.fault(&mut next, kind, i, keeps),
            Act::Heal(i) => self.heal(&mut next, i),
            Act::Restart(i) => self.start(&mut next, i),
            Act::Time => {
                self.pass(&mut next);
                self.calm(&mut next);
                // No fault is to begin until something else has happened: all that follows is one step.
                while next.idle > 1
                    && !self.is_busy(&next)
                    && next.now <= self.end
                    && self.next_time(&next).is_some()
                {
                    next.judge();
                    self.pass(&mut next);
                    self.calm(&mut next);
                }
            }
        }
        self.calm(&mut next);
        next.judge();
        next.settle();
        next
    }

    fn deliver(&self, state: &mut State, from: usize, to: usize) {
        let (sender, message) = state.links[from][to].messages.pop_front().expect("enabled");
        self.give(state, to, Some(Input::Message { from: sender, message: &message }));
    }

    /// What arrives at once: news of who is there, and what is exchanged all the time.
    fn calm(&self, state: &mut State) {
        let n = self.nodes;
        let pairs: Vec<(usize, usize)> =
            (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
        loop {
            let is_calm = |(f, t): &&(usize, usize)| {
                let first = state.links[*f][*t].messages.front();
                first.is_some_and(|(_, m)| CALM.contains(&m[0])) && Self::deliverable(state, *f, *t)
            };
            let unknown = |(f, t): &&(usize, usize)| {
                let both = state.links[*f][*t].silent.is_none() && state.links[*t][*f].silent.is_none();
                let known = state.nodes[*t].up.get(f) == Some(&state.nodes[*f].local);
                both && !known && Self::alive(state, *t) && !state.paused[*t]
            };
            if let Some((f, t)) = pairs.iter().find(unknown).copied() {
                self.meet(state, t, f);
            } else if let Some((f, t)) = pairs.iter().find(is_calm).copied() {
                self.deliver(state, f, t);
            } else {
                return;
            }
        }
    }

    /// `at` hears of a life of `of`.
    fn meet(&self, state: &mut State, at: usize, of: usize) {
        let peer = state.nodes[of].local;
        if let Some(old) = Rc::make_mut(&mut state.nodes[at]).up.insert(of, peer) {
            self.give(state, at, Some(Input::Down(old, DownReason::Superseded)));
        }
        self.give(state, at, Some(Input::Up(peer)));
    }

    fn notice(&self, state: &mut State, at: usize, of: usize) {
        let Some(peer) = Rc::make_mut(&mut state.nodes[at]).up.remove(&of) else { return };
        let reason = DownReason::Silent { for_: DETECTION };
        self.give(state, at, Some(Input::Down(peer, reason)));
    }

    fn answer(&self, state: &mut State, i: usize, well: bool) {
        let claim = Rc::make_mut(&mut state.nodes[i]).claim.take().expect("enabled");
        let verdict = if !well {
            Verdict::Unavailable
        } else if self.config.policy.rules().even_split == EvenSplit::Asks {
            if state.register.claim(&claim) {
                Verdict::Granted(Evidence::TieBreaker)
            } else {
                Verdict::Refused
            }
        } else {
            for victim in &claim.absent {
                let at = index(*victim);
                if state.nodes[at].local == *victim && Self::alive(state, at) {
                    self.end(state, at, false);
                }
            }
            Verdict::Granted(Evidence::Ended)
        };
        self.give(state, i, Some(Input::Tie { ballot: claim.ballot, verdict }));
    }

    fn fault(&self, state: &mut State, kind: Kind, i: usize, keeps: bool) {
        state.faults -= 1;
        state.severed[i] = kind == Kind::Sever;
        if kind == Kind::Crash {
            self.end(state, i, keeps);
            return;
        }
        state.ailing[i] = true;
        let now = state.now;
        state.paused[i] = kind == Kind::Pause;
        for j in (0..self.nodes).filter(|j| *j != i) {
            let mut silence = |from: usize, to: usize| {
                let link = &mut state.links[from][to];
                link.cut = kind != Kind::Pause;
                link.silent.get_or_insert(now);
                if kind == Kind::Sever {
                    link.lost = true;
                    link.messages.clear();
                }
            };
            silence(i, j);
            if matches!(kind, Kind::Isolate | Kind::Sever) {
                silence(j, i);
            }
        }
    }

    fn heal(&self, state: &mut State, i: usize) {
        state.ailing[i] = false;
        for j in (0..self.nodes).filter(|j| *j != i) {
            for (from, to) in [(i, j), (j, i)] {
                let other = state.ailing[j] && !state.paused[j];
                let still = other && state.links[j][i].cut && (from == j || state.links[i][j].cut);
                let link = &mut state.links[from][to];
                link.cut = still;
                let dead = state.nodes[from].core.is_none();
                link.silent = link.silent.filter(|_| dead || still || state.paused[from] && from != i);
            }
        }
        if core::mem::take(&mut state.paused[i]) {
            self.give(state, i, None);
        }
    }

    fn end(&self, state: &mut State, i: usize, keeps: bool) {
        let now = state.now;
        state.ailing[i] = false;
        state.severed[i] = false;
        state.paused[i] = false;
        let node = Rc::make_mut(&mut state.nodes[i]);
        (node.core, node.active, node.claim) = (None, None, None);
        node.writes.clear();
        node.up.clear();
        node.digest = 0;
        for j in (0..self.nodes).filter(|j| *j != i) {
            let lost = state.links[j][i].lost;
            state.links[j][i] = Link {
                silent: state.links[j][i].silent.filter(|_| lost || !Self::alive(state, j)),
                cut: lost,
                lost,
                ..Link::default()
            };
            let out = &mut state.links[i][j];
            out.silent.get_or_insert(now);
            if !keeps || out.cut {
                out.messages.clear();
            }
            out.cut = out.lost;
        }
    }

    fn start(&self, state: &mut State, i: usize) {
        let now = state.now;
        let node = Rc::make_mut(&mut state.nodes[i]);
        node.lives += 1;
        node.local = NodeInstance::new(id(i), Incarnation::new(u128::from(node.lives) << 100 | i as u128));
        let record = node.disk.clone();
        let core = Consensus::new(now, self.config.clone(), node.local, record.as_deref(), Rng::new(1));
        let mut core = core.expect("a record that was written can be read");
        if let Some(bug) = self.plan.bug {
            core.sabotage(bug);
        }
        node.core = Some(core);
        for j in (0..self.nodes).filter(|j| *j != i) {
            if state.links[i][j].lost {
                continue;
            }
            state.links[i][j] = Link::default();
            if state.nodes[j].core.is_none() {
                state.links[j][i].silent.get_or_insert(now);
            }
            let hidden = state.paused[j] || state.ailing[j];
            if hidden {
                // What ails the other hides this one from it, too.
                let cut = state.links[j].iter().any(|link| link.cut);
                state.links[j][i] = Link { cut, silent: Some(now), ..Link::default() };
            }
        }
        self.carry_out(state, i);
    }

    /// When time goes on to.
    fn next_time(&self, state: &State) -> Option<Instant> {
        let runs = |i: &usize| Self::alive(state, *i) && !state.paused[*i];
        let timers = (0..self.nodes)
            .filter(runs)
            .filter_map(|i| state.nodes[i].core.as_ref().and_then(Consensus::poll_timeout));
        let notices = self.due(state).into_iter().map(|(at, ..)| at);
        timers.chain(notices).min().map(|at| at.max(state.now))
    }

    /// What is noticed of itself, and when.
    fn due(&self, state: &State) -> Vec<(Instant, usize, usize)> {
        let mut due = Vec::new();
        for (f, links) in state.links.iter().enumerate() {
            for (t, link) in links.iter().enumerate() {
                let knows = state.nodes[t].up.contains_key(&f) && Self::alive(state, t) && !state.paused[t];
                due.extend(link.silent.filter(|_| knows).map(|since| (since + DETECTION, t, f)));
            }
        }
        due
    }

    fn pass(&self, state: &mut State) {
        let Some(now) = self.next_time(state) else { return };
        state.now = now;
        if let Some((_, at, of)) = self.due(state).into_iter().find(|(at, ..)| *at <= now) {
            self.notice(state, at, of);
            return;
        }
        let due = |i: &usize| {
            let core = state.nodes[*i].core.as_ref().filter(|_| !state.paused[*i]);
            core.and_then(Consensus::poll_timeout).is_some_and(|at| at <= now)
        };
        if let Some(i) = (0..self.nodes).find(due) {
            self.give(state, i, None);
        }
    }

    fn give(&self, state: &mut State, i: usize, input: Option<Input<'_>>) {
        let now = state.now;
        let node = Rc::make_mut(&mut state.nodes[i]);
        let Some(core) = &mut node.core else { return };
        match input {
            Some(input) => core.handle(now, input),
            None => core.handle_timeout(now),
        }
        core.check_invariants();
        self.carry_out(state, i);
    }

    fn carry_out(&self, state: &mut State, i: usize) {
        loop {
            let now = state.now;
            let node = Rc::make_mut(&mut state.nodes[i]);
            let local = node.local;
            let Some(core) = &mut node.core else { return };
            let Some(output) = core.poll_output() else { break };
            match output {
                Output::Send { to, message, .. } => {
                    let at = index(to);
                    let known = state.nodes[at].local == to && Self::alive(state, at);
                    if known && !state.links[i][at].lost {
                        state.links[i][at].messages.push_back((local, message));
                    }
                }
                Output::Persist { token, record } => node.writes.push_back((token, record)),
                Output::Block { ballot } => {
                    core.handle(now, Input::Blocked { ballot, state: Bytes::new() });
                }
                Output::Flush { ballot, .. } => core.handle(now, Input::Flushed { ballot }),
                Output::AskTie(claim) => node.claim = Some(claim),
                Output::WithdrawTie(ballot) => {
                    node.claim.take_if(|claim| claim.ballot == ballot);
                }
                Output::NoteTie(view) => {
                    state.register.note(&view);
                }
                Output::Event(event) => state.tell(i, event),
                _ => {}
            }
        }
        Rc::make_mut(&mut state.nodes[i]).digest = 0;
    }
}

impl State {
    /// Works out the digests of those who have changed.
    fn settle(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.digest == 0 && node.core.is_some()) {
            let node = Rc::make_mut(node);
            let mut digest = Digest(DefaultHasher::new());
            if let Some(core) = &mut node.core {
                write!(digest, "{:?}", core.essence()).expect("a hasher takes everything");
            }
            node.digest = digest.0.finish().max(1);
        }
    }

    /// What tells this state from others.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.now.as_nanos().hash(&mut hasher);
        for node in &self.nodes {
            (node.digest, node.local, node.active, node.last).hash(&mut hasher);
            (&node.disk, node.up.len()).hash(&mut hasher);
            node.up.iter().for_each(|(at, peer)| (at, peer).hash(&mut hasher));
            node.writes.iter().for_each(|(token, record)| (token, record).hash(&mut hasher));
            node.claim.as_ref().map(|claim| claim.ballot).hash(&mut hasher);
        }
        for link in self.links.iter().flatten() {
            (&link.messages, link.cut, link.silent.map(Instant::as_nanos)).hash(&mut hasher);
        }
        (&self.paused, &self.ailing, self.faults, self.idle.min(2)).hash(&mut hasher);
        let ballots: Vec<Ballot> = self.views.values().map(|view| view.ballot).collect();
        ballots.hash(&mut hasher);
        self.register.last().map(|grant| (grant.number, &grant.nodes)).hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    /// Views so far.
    pub(crate) fn view_count(&self) -> usize {
        self.views.len()
    }
}

fn list(votes: &[u32]) -> Vec<NodeVotes> {
    votes.iter().enumerate().map(|(i, votes)| NodeVotes::new(id(i), *votes)).collect()
}

fn id(i: usize) -> NodeId {
    NodeId::new(u32::try_from(i + 1).expect("few nodes"))
}

fn index(instance: NodeInstance) -> usize {
    usize::try_from(instance.node.raw() - 1).expect("few nodes")
}
