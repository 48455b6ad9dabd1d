//! The state of the whole: three engines, what is on its way between them, what membership and fencing still have to say,
//! and applications; and what can happen next.

use crate::node::{Local, Mix, Nodes, Sent, Step, Word, hash_view};
use crate::promises::{Book, Broken, at_rest, broken, nothing_left, one_master};
use core::hash::{Hash, Hasher};
use ocf_dlm::cluster::{ClusterView, Config, Engine, Output, Sabotage, ViewMember};
use ocf_dlm::directory::{Placement, Slot, Weighted};
use ocf_dlm::wire::{Key, Proof};
use ocf_dlm::{ClientId, Flags, Mode};
use pils::{Incarnation, NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Nodes of the cluster.
pub(crate) const NODES: u8 = 3;

/// Messages that may wait in one circuit while something else happens. Without a limit a circuit could stand still for ever.
const WIRE_MAX: usize = 6;

/// One thing that an application does. Locks are numbered in the order in which it asks for them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Do {
    /// Asks for a lock on the resource with this number.
    Ask(usize, Mode),
    /// Asks for it, if it can be had at once.
    Try(usize, Mode),
    /// Converts lock `.0`, once nothing is under way.
    Convert(usize, Mode),
    /// Gives lock `.0` back, once nothing is under way.
    Unlock(usize),
    /// Gives lock `.0` back at any moment.
    Drop(usize),
    /// Stops what is under way with lock `.0`.
    Cancel(usize),
    /// Has the resource's tree move to that node, if it is mastered here.
    Move(usize, u8),
}

/// An application.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// The node, and which of its lives: 0 is the first.
    pub(crate) node: u8,
    pub(crate) life: u8,
    pub(crate) steps: Vec<Do>,
}

pub(crate) const fn script(node: u8, steps: Vec<Do>) -> Script {
    Script { node, life: 0, steps }
}

/// What can happen, and how often at most.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Faults {
    /// Nodes that may crash, as bits.
    pub(crate) may_crash: u8,
    pub(crate) crashes: u8,
    /// Nodes that come back in another life.
    pub(crate) restarts: u8,
    /// Nodes that are cut off: their lease ends, they are told, the others go on.
    pub(crate) cuts: u8,
    /// Timers that fire.
    pub(crate) timers: u8,
    /// A node may be told of a later view without having been told of the one before.
    pub(crate) skips: bool,
}

/// What is explored.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The directory keeper of each resource at first, and who keeps it when that one is gone.
    pub(crate) keepers: Vec<(u8, u8)>,
    pub(crate) scripts: Vec<Script>,
    pub(crate) faults: Faults,
    /// Steps of one turn; `None`: what is left to be done is done at once.
    pub(crate) turn_max: Option<usize>,
    /// It begins before the first view was told, not when that recovery is over.
    pub(crate) cold: bool,
    pub(crate) bug: Option<Sabotage>,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Deliver(u8, u8),
    Turn(u8),
    Timer(u8),
    Step(u8),
    Crash(u8),
    Cut(u8),
    Start(u8),
    Rejoin(u8),
    View(u8),
    Skip(u8),
    Prove(u8, u8),
}

/// What became of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Unborn,
    Member,
    /// Cut off and told so.
    Outside,
    OutsideProven,
    Dead,
    DeadProven,
}

#[derive(Clone, Debug, Default, Hash)]
struct Client {
    at: u8,
    locks: [Option<u64>; 2],
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    nodes: Vec<Option<Rc<Local>>>,
    wires: BTreeMap<(u8, u8), Vec<Rc<Sent>>>,
    views: Rc<Vec<Rc<ClusterView>>>,
    /// How many of the views each instance was told of, or will never be.
    told: Vec<u8>,
    fates: Vec<Fate>,
    /// Proofs of `.0` of which `.1` is still to be told.
    owed: BTreeSet<(u8, u8)>,
    clients: Vec<Client>,
    book: Book,
    left: Faults,
}

impl State {
    pub(crate) fn digest(&self) -> u64 {
        let mut mix = Mix::default();
        for node in &self.nodes {
            node.as_ref().map_or(0, |local| local.digest).hash(&mut mix);
        }
        for (wire, sent) in &self.wires {
            wire.hash(&mut mix);
            for message in sent {
                message.digest.hash(&mut mix);
            }
        }
        for view in self.views.iter() {
            hash_view(view, &mut mix);
        }
        (&self.told, &self.fates, &self.owed, &self.clients, &self.book, &self.left).hash(&mut mix);
        mix.finish()
    }

    fn engine(&self, x: u8) -> Option<&Engine> {
        self.nodes[usize::from(x)].as_ref().map(|local| &local.engine)
    }

    fn view(&self) -> &ClusterView {
        self.views.last().expect("there is a first view")
    }

    fn fate(&self, x: u8) -> Fate {
        self.fates[usize::from(x)]
    }

    fn lives(&self, x: u8) -> bool {
        !matches!(self.fate(x), Fate::Dead | Fate::DeadProven)
    }

    fn all(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.nodes.len() as u8
    }

    fn members(&self) -> impl Iterator<Item = u8> {
        self.all().filter(|x| self.fate(*x) == Fate::Member)
    }
}

/// Which life of which node has this number.
pub(crate) fn instance(x: u8) -> NodeInstance {
    NodeInstance::new(NodeId::new(u32::from(x % NODES)), Incarnation::new((u128::from(x) + 1) << 96))
}

fn number(instance: NodeInstance) -> u8 {
    (instance.incarnation.raw() >> 96) as u8 - 1
}

/// A plan, and what is known of its engines.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) plan: Plan,
    pub(crate) keys: Vec<Key>,
    pub(crate) nodes: Nodes,
}

impl Model {
    pub(crate) fn new(plan: Plan) -> Self {
        let keys: Vec<Key> =
            plan.keepers.iter().enumerate().map(|(i, keeper)| resource(i, *keeper)).collect();
        let config = Config {
            value_length: 8,
            idle_after: Duration::from_millis(50),
            // Longer than all timers together: no deadlock is searched for.
            deadlock_delay: Duration::from_secs(3600),
            turn_max: plan.turn_max.unwrap_or(1 << 20),
            // Trees move when an application has them move.
            move_after: Duration::ZERO,
            ..Config::default()
        };
        let slots = keys.iter().map(|key| Slot::of(&key.tree)).collect();
        let nodes = Nodes::new(config, plan.bug, slots, plan.turn_max.is_none());
        Self { plan, keys, nodes }
    }

    pub(crate) fn initial(&mut self) -> Result<State, Broken> {
        let lives = 1 + self.plan.faults.restarts;
        let all = usize::from(NODES * lives);
        let members =
            (0..NODES).map(|x| ViewMember { instance: instance(x), weight: 1, joined: 1 }).collect();
        let view = ClusterView { number: 1, members, previous: Vec::new(), unproven: Vec::new() };
        let mut state = State {
            nodes: (0..NODES).map(|x| Some(self.nodes.start(instance(x)))).collect(),
            wires: BTreeMap::new(),
            views: Rc::new(vec![Rc::new(view)]),
            told: vec![0; all],
            fates: vec![Fate::Unborn; all],
            owed: BTreeSet::new(),
            clients: vec![Client::default(); self.plan.scripts.len()],
            book: Book::default(),
            left: self.plan.faults,
        };
        state.nodes.resize(all, None);
        state.fates[..usize::from(NODES)].fill(Fate::Member);
        if !self.plan.cold {
            while let Some(act) = self.enabled(&state).into_iter().find(|act| is_on_its_way(*act)) {
                state = self.apply(&state, act)?;
            }
        }
        Ok(state)
    }

    /// All that can happen next.
    pub(crate) fn enabled(&self, state: &State) -> Vec<Act> {
        let behind = state.wires.iter().filter(|(_, sent)| sent.len() > WIRE_MAX);
        let behind: Vec<Act> = behind.map(|((from, to), _)| Act::Deliver(*from, *to)).collect();
        if !behind.is_empty() {
            return behind;
        }
        let mut acts: Vec<Act> = state.wires.keys().map(|(from, to)| Act::Deliver(*from, *to)).collect();
        for x in state.all() {
            let Some(local) = &state.nodes[usize::from(x)] else { continue };
            if local.busy {
                acts.push(Act::Turn(x));
            }
            let views = state.views.len() - usize::from(state.told[usize::from(x)]);
            if views > 0 && state.fate(x) == Fate::Member {
                acts.push(Act::View(x));
                if views > 1 && state.left.skips {
                    acts.push(Act::Skip(x));
                }
            }
            if local.timed && state.left.timers > 0 {
                acts.push(Act::Timer(x));
            }
        }
        acts.extend(state.owed.iter().map(|(x, to)| Act::Prove(*x, *to)));
        acts.extend(self.applications(state));
        self.environment(state, &mut acts);
        acts
    }

    fn environment(&self, state: &State, acts: &mut Vec<Act>) {
        let members: Vec<u8> = state.members().collect();
        for x in state.all() {
            let may = state.left.may_crash & 1 << (x % NODES) != 0;
            let last = members.len() == 1;
            match state.fate(x) {
                Fate::Member => {
                    if state.left.crashes > 0 && may && !last {
                        acts.push(Act::Crash(x));
                    }
                    if state.left.cuts > 0 && may && !last {
                        acts.push(Act::Cut(x));
                    }
                }
                Fate::Dead | Fate::Outside => {
                    acts.extend(members.iter().map(|to| Act::Prove(x, *to)));
                }
                Fate::Unborn | Fate::OutsideProven | Fate::DeadProven => {}
            }
            match state.fate(x) {
                Fate::Outside | Fate::OutsideProven => acts.push(Act::Rejoin(x)),
                Fate::Dead | Fate::DeadProven if state.left.restarts > 0 => {
                    let next = x + NODES;
                    if usize::from(next) < state.fates.len() && state.fate(next) == Fate::Unborn {
                        acts.push(Act::Start(next));
                    }
                }
                Fate::Unborn | Fate::Member | Fate::Dead | Fate::DeadProven => {}
            }
        }
    }

    fn applications<'a>(&'a self, state: &'a State) -> impl Iterator<Item = Act> + 'a {
        let ready = |client: &usize| {
            let (at, script) = (&state.clients[*client], &self.plan.scripts[*client]);
            let x = script.node + NODES * script.life;
            let lives = matches!(state.fate(x), Fate::Member | Fate::Outside | Fate::OutsideProven);
            let Some(step) = script.steps.get(usize::from(at.at)).filter(|_| lives) else { return false };
            let seen =
                |lock: &usize| at.locks[*lock].and_then(|lock| state.book.locks.get(&(instance(x), lock)));
            let rests = |lock: &usize| seen(lock).is_none_or(|seen| seen.asked.is_none());
            match step {
                Do::Ask(..) | Do::Try(..) => rests(&0) && rests(&1),
                Do::Convert(lock, _) | Do::Unlock(lock) => rests(lock),
                Do::Drop(_) | Do::Cancel(_) | Do::Move(..) => true,
            }
        };
        (0..self.plan.scripts.len()).filter(ready).map(|client| Act::Step(client as u8))
    }

    /// What comes of it.
    pub(crate) fn apply(&mut self, state: &State, act: Act) -> Result<State, Broken> {
        let mut next = state.clone();
        match act {
            Act::Deliver(from, to) => {
                let wire = next.wires.get_mut(&(from, to)).expect("it is enabled");
                let sent = wire.remove(0);
                if wire.is_empty() {
                    next.wires.remove(&(from, to));
                }
                self.tell(&mut next, to, &Word::Message(instance(from), sent))?;
            }
            Act::Turn(x) => self.tell(&mut next, x, &Word::Turn)?,
            Act::Timer(x) => {
                next.left.timers -= 1;
                self.tell(&mut next, x, &Word::Timer)?;
            }
            Act::Step(client) => self.step(&mut next, client)?,
            Act::View(x) | Act::Skip(x) => {
                let at = usize::from(next.told[usize::from(x)]);
                let at = if matches!(act, Act::Skip(_)) { next.views.len() - 1 } else { at };
                next.told[usize::from(x)] = at as u8 + 1;
                let view = Rc::clone(&next.views[at]);
                self.tell(&mut next, x, &Word::View(Rc::clone(&view)))?;
                // What the dead have sent is not heard any more; who is to join in a later view may have spoken already.
                let in_it = |from: u8| view.members.iter().any(|member| member.instance == instance(from));
                let dead: Vec<u8> = next.all().filter(|from| !next.lives(*from) && !in_it(*from)).collect();
                next.wires.retain(|(from, to), _| *to != x || !dead.contains(from));
            }
            Act::Crash(x) => crash(&mut next, x),
            Act::Cut(x) => {
                next.left.cuts -= 1;
                self.tell(&mut next, x, &Word::NonPrimary)?;
                next.fates[usize::from(x)] = Fate::Outside;
                next.told[usize::from(x)] = next.views.len() as u8;
                form_view(&mut next, None);
            }
            Act::Start(x) => {
                next.left.restarts -= 1;
                next.nodes[usize::from(x)] = Some(self.nodes.start(instance(x)));
                next.fates[usize::from(x)] = Fate::Member;
                next.told[usize::from(x)] = next.views.len() as u8;
                form_view(&mut next, Some(x));
            }
            Act::Rejoin(x) => {
                next.fates[usize::from(x)] = Fate::Member;
                next.owed.retain(|(y, _)| *y != x);
                next.book.proven(instance(x));
                form_view(&mut next, Some(x));
            }
            Act::Prove(x, to) => self.prove(&mut next, x, to)?,
        }
        one_master(next.nodes.iter().flatten().map(|local| &local.engine))?;
        Ok(next)
    }

    fn prove(&mut self, state: &mut State, x: u8, to: u8) -> Result<(), Broken> {
        state.owed.remove(&(x, to));
        let (fate, proof) = match state.fate(x) {
            Fate::Outside | Fate::OutsideProven => (Fate::OutsideProven, Proof::LeaseExpired),
            Fate::Dead | Fate::DeadProven | Fate::Unborn | Fate::Member => (Fate::DeadProven, Proof::Fenced),
        };
        if state.fate(x) != fate {
            state.book.proven(instance(x));
            state.fates[usize::from(x)] = fate;
        }
        self.tell(state, to, &Word::Proven(instance(x), proof))
    }

    /// An application goes on. What it cannot do any more, as its lock is gone, it passes over.
    fn step(&mut self, state: &mut State, client: u8) -> Result<(), Broken> {
        let script = &self.plan.scripts[usize::from(client)];
        let x = script.node + NODES * script.life;
        let at = &mut state.clients[usize::from(client)];
        let step = script.steps[usize::from(at.at)];
        at.at += 1;
        let value = u64::from(client) * 16 + u64::from(at.at);
        let flags = Flags::NOTIFY | Flags::VALBLK;
        let locks = at.locks;
        let seen = |lock: usize| {
            let id = (instance(x), locks[lock]?);
            state.book.locks.get(&id).filter(|seen| !seen.lost).map(|seen| (id, seen.clone()))
        };
        match step {
            Do::Ask(key, mode) | Do::Try(key, mode) => {
                let tries = if matches!(step, Do::Try(..)) { Flags::NOQUEUE } else { Flags::NONE };
                let (key, flags) = (self.keys[key].clone(), flags | tries);
                let word = Word::Ask(ClientId::new(u32::from(client)), key.clone(), mode, flags);
                let done = self.carry_out(state, x, &word);
                let Some(lock) = done.lock else { return Ok(()) };
                let locks = &mut state.clients[usize::from(client)].locks;
                let free = locks.iter_mut().find(|lock| lock.is_none()).expect("two locks at most");
                *free = Some(lock);
                state.book.asked((instance(x), lock), &key, (mode, flags));
                self.follow(state, x, &done)
            }
            Do::Convert(lock, mode) => {
                let Some((id, seen)) = seen(lock).filter(|(_, seen)| seen.held.is_some()) else {
                    return Ok(());
                };
                state.book.converting(id, (mode, flags), value);
                let done = self.carry_out(state, x, &Word::Convert(id.1, mode, flags, value));
                if done.lock.is_none() {
                    state.book.locks.insert(id, seen);
                }
                self.follow(state, x, &done)
            }
            Do::Unlock(lock) | Do::Drop(lock) => {
                let Some((id, _)) = seen(lock) else { return Ok(()) };
                let done = self.carry_out(state, x, &Word::Unlock(id.1, value));
                self.follow(state, x, &done)?;
                if done.lock.is_none() {
                    return broken("a lock can be given back", format!("{id:?}"));
                }
                state.book.unlocked(id, value);
                Ok(())
            }
            Do::Move(key, to) => {
                let word = Word::Move(self.keys[key].clone(), instance(to));
                let done = self.carry_out(state, x, &word);
                self.follow(state, x, &done)
            }
            Do::Cancel(lock) => {
                let Some((id, _)) = seen(lock).filter(|(_, seen)| seen.asked.is_some()) else {
                    return Ok(());
                };
                let done = self.carry_out(state, x, &Word::Cancel(id.1));
                self.follow(state, x, &done)
            }
        }
    }

    fn tell(&mut self, state: &mut State, x: u8, word: &Word) -> Result<(), Broken> {
        let done = self.carry_out(state, x, word);
        self.follow(state, x, &done)
    }

    fn carry_out(&mut self, state: &mut State, x: u8, word: &Word) -> Rc<Step> {
        let local = state.nodes[usize::from(x)].as_ref().expect("it lives");
        let step = self.nodes.step(local, word);
        state.nodes[usize::from(x)] = Some(Rc::clone(&step.after));
        step
    }

    /// Carries what an engine wants to where it belongs.
    fn follow(&self, state: &mut State, x: u8, step: &Step) -> Result<(), Broken> {
        if let Some(what) = step.broken {
            return broken("an engine's invariants", format!("{}: {what}", instance(x)));
        }
        for (to, sent) in &step.sent {
            let to = number(*to);
            if state.nodes[usize::from(to)].is_some() {
                state.wires.entry((x, to)).or_default().push(Rc::clone(sent));
            }
        }
        for output in &step.outputs {
            match output {
                Output::Completed(completed) => {
                    state.book.completed((instance(x), completed.lock), completed)?;
                }
                Output::Blocking { lock, wanted, .. } => {
                    state.book.notified((instance(x), *lock), *wanted)?;
                }
                Output::Lost { lock, .. } => state.book.lost((instance(x), *lock)),
                Output::FenceWanted(y) => {
                    state.book.wanted.insert(*y);
                    let y = number(*y);
                    if matches!(state.fate(y), Fate::DeadProven | Fate::OutsideProven) {
                        state.owed.insert((y, x));
                    }
                }
                Output::Recovered { .. } => {}
                Output::Overrun | Output::Send { .. } | _ => {
                    return broken("limits hold", format!("{output:?}"));
                }
            }
        }
        Ok(())
    }

    /// Checks a state in which nothing is on its way. What the states between were judged by was looked at step by step.
    pub(crate) fn judge(&self, state: &State, acts: &[Act]) -> Result<bool, Broken> {
        if acts.iter().any(|act| is_on_its_way(*act) && !is_first_proof(state, *act)) {
            return Ok(false);
        }
        let engines: Vec<&Engine> = state.members().filter_map(|x| state.engine(x)).collect();
        let gone = |x: &u8| matches!(state.fate(*x), Fate::Dead | Fate::Outside);
        let unproven: Vec<NodeInstance> = state.all().filter(gone).map(instance).collect();
        at_rest(&state.book, &engines, state.view().number, &unproven)?;
        let done = !acts.iter().any(|act| matches!(act, Act::Step(_) | Act::Prove(..)));
        let outside = state.all().any(|x| matches!(state.fate(x), Fate::Outside | Fate::OutsideProven));
        if done && !outside {
            let ends = |client: usize| {
                let script = &self.plan.scripts[client];
                let lives = state.fate(script.node + NODES * script.life) == Fate::Member;
                !lives || usize::from(state.clients[client].at) == script.steps.len()
            };
            if !(0..state.clients.len()).all(ends) {
                return broken("no application waits for ever", format!("{:?}", state.clients));
            }
            nothing_left(&engines)?;
        }
        Ok(true)
    }
}

/// True for what comes sooner or later by itself.
const fn is_on_its_way(act: Act) -> bool {
    match act {
        Act::Deliver(..) | Act::Turn(_) | Act::View(_) | Act::Prove(..) => true,
        Act::Timer(_)
        | Act::Step(_)
        | Act::Crash(_)
        | Act::Cut(_)
        | Act::Start(_)
        | Act::Rejoin(_)
        | Act::Skip(_) => false,
    }
}

/// A proof that nobody has been told of may take as long as it likes.
fn is_first_proof(state: &State, act: Act) -> bool {
    matches!(act, Act::Prove(x, _) if matches!(state.fate(x), Fate::Dead | Fate::Outside))
}

/// A process is gone, with all that is on its way to it. What it has sent arrives until the receiver is told of the view.
fn crash(state: &mut State, x: u8) {
    state.left.crashes -= 1;
    state.nodes[usize::from(x)] = None;
    state.wires.retain(|(_, to), _| *to != x);
    state.owed.retain(|(_, to)| *to != x);
    state.book.died(instance(x));
    state.fates[usize::from(x)] = Fate::Dead;
    // What it was told of proofs may not have been passed on.
    let proven: Vec<u8> = state.all().filter(|y| state.fate(*y) == Fate::DeadProven).collect();
    let members: Vec<u8> = state.members().collect();
    state.owed.extend(proven.iter().flat_map(|y| members.iter().map(|to| (*y, *to))));
    form_view(state, None);
}

/// Everybody agrees on a view of those who live. `joins`: who is new in it.
fn form_view(state: &mut State, joins: Option<u8>) {
    let last = state.view();
    let number = last.number + 1;
    let previous = last.members.iter().map(|m| Weighted { instance: m.instance, weight: 1 }).collect();
    let joined = |x: u8| {
        let member = last.members.iter().find(|m| m.instance == instance(x) && joins != Some(x));
        member.map_or(number, |m| m.joined)
    };
    let members = state.members().map(|x| ViewMember { instance: instance(x), weight: 1, joined: joined(x) });
    let members: Vec<ViewMember> = members.collect();
    let unproven = carried(state, &members);
    let view = ClusterView { number, members, previous, unproven };
    Rc::make_mut(&mut state.views).push(Rc::new(view));
}

/// Who left before, as the members name them. Who was not told of the last view yet would know what it says.
fn carried(state: &State, members: &[ViewMember]) -> Vec<NodeInstance> {
    let is_in = |list: &[ViewMember], x: NodeInstance| list.iter().any(|m| m.instance == x);
    let last = state.view();
    let engines = || {
        members
            .iter()
            .filter(|m| is_in(&last.members, m.instance))
            .filter_map(|m| state.engine(number(m.instance)))
    };
    let mut named: BTreeSet<NodeInstance> = engines().flat_map(Engine::unproven).collect();
    if engines().any(|engine| engine.epoch() < last.number) {
        named.extend(&last.unproven);
        named.extend(last.previous.iter().map(|m| m.instance).filter(|x| !is_in(&last.members, *x)));
    }
    named.into_iter().filter(|x| !is_in(members, *x)).collect()
}

/// A resource whose directory slot falls to these.
fn resource(index: usize, (keeper, heir): (u8, u8)) -> Key {
    let members = |without: Option<u8>| {
        let all = (0..NODES).filter(|x| Some(*x) != without);
        Placement::new(&all.map(|x| Weighted { instance: instance(x), weight: 1 }).collect::<Vec<_>>())
    };
    let (before, after) = (members(None), members(Some(keeper)));
    let fits = |key: &Key| {
        let slot = Slot::of(&key.tree);
        before.owner(slot) == instance(keeper) && after.owner(slot) == instance(heir)
    };
    let names = (0_u32..).map(|name| Key::root(b"l", &[index as u8, name as u8]));
    names.take(256).find(fits).expect("one of 256 names falls to each pair")
}

/// What a state is about, for a trace.
impl State {
    pub(crate) fn next_message(&self, from: u8, to: u8) -> Option<&[u8]> {
        self.wires.get(&(from, to))?.first().map(|sent| &sent.bytes[..])
    }

    pub(crate) fn next_view(&self, x: u8, newest: bool) -> &ClusterView {
        let at = usize::from(self.told[usize::from(x)]);
        &self.views[if newest { self.views.len() - 1 } else { at }]
    }

    pub(crate) fn next_step(&self, plan: &Plan, client: u8) -> Option<Do> {
        let at = usize::from(self.clients[usize::from(client)].at);
        plan.scripts[usize::from(client)].steps.get(at).copied()
    }
}
