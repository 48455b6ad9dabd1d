//! Recovery domains between nodes: what to do about value blocks that failures have made invalid. PROTOCOL.md, section 16.

use super::orders::OrderError;
use super::queue::{Queues, ValueNews};
use super::{Engine, sabotaged};
use crate::wire::{
    DOMAINS_MAX, Item, Key, MARKS_MAX, Mark, Name, Order, OrderRefusal, Outcome, Wanted, space_of,
};
use crate::{Mode, RequestError, SPACE_NAME_MAX};
use core::ops::Bound;
use pils::wire::Writer as _;
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a node knows of recovery domains.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Domains {
    /// Those that programs of this node take part in, and how many, by lockspace.
    here: BTreeMap<Name, usize>,
    /// What the other members say of theirs.
    members: BTreeMap<NodeInstance, BTreeSet<Name>>,
    /// Trees mastered here whose root is kept for repair, with the number of its last failure.
    marks: BTreeMap<Name, u64>,
    failures: u64,
    /// Lockspaces of which more was to be kept than may be.
    missed: BTreeSet<Name>,
    /// Some that are kept, of trees with greater names, may be of a domain that nobody takes part in any more.
    stale: Option<Name>,
    /// What each collector of this node has found, by its lock.
    found: BTreeMap<u64, Vec<(NodeInstance, Mark)>>,
    /// Orders to all members that were given here, by ticket.
    talks: BTreeMap<u64, Talk>,
    /// Lockspaces whose blocks are being made invalid.
    doubted: BTreeSet<Name>,
}

/// An order to all members: each is asked until it has no more to say.
#[derive(Clone, Debug, Hash)]
struct Talk {
    space: Name,
    /// The lock of the collector that it is for.
    collector: Option<u64>,
    awaited: BTreeSet<NodeInstance>,
    topic: Topic,
}

#[derive(Clone, Debug, Hash)]
enum Topic {
    Collect { found: Vec<(NodeInstance, Mark)>, missed: bool },
    Validate { left: BTreeMap<NodeInstance, Vec<Mark>>, more: bool },
    Invalidate,
}

impl Topic {
    /// What a member is asked for first.
    fn begin(&mut self, space: &Name, member: NodeInstance) -> Wanted {
        let space = Name::clone(space);
        match self {
            Self::Collect { .. } => Wanted::Collect { space, after: Arc::from([]) },
            Self::Validate { left, .. } => {
                let marks = left.get_mut(&member).map_or_else(Vec::new, next_marks);
                Wanted::Validate { space, marks }
            }
            Self::Invalidate => Wanted::Invalidate { space, over: false },
        }
    }

    /// Takes an answer. `Err`: it is none. What the member is asked for next, if anything.
    fn take(
        &mut self,
        space: &Name,
        member: NodeInstance,
        outcome: Outcome,
    ) -> Result<Option<Wanted>, Outcome> {
        match self {
            Self::Collect { found, missed } => {
                let Outcome::Marks { marks, more, missed: theirs } = outcome else { return Err(outcome) };
                *missed |= theirs;
                let last = marks.last().filter(|_| more).map(|mark| Name::clone(&mark.tree));
                found.extend(marks.into_iter().map(|mark| (member, mark)));
                return Ok(last.map(|after| Wanted::Collect { space: Name::clone(space), after }));
            }
            Self::Validate { left, more } => {
                let Outcome::Validated { more: theirs } = outcome else { return Err(outcome) };
                let marks = left.get_mut(&member).filter(|left| !left.is_empty()).map(next_marks);
                // The last answer counts.
                *more |= theirs && marks.is_none();
                return Ok(marks.map(|marks| Wanted::Validate { space: Name::clone(space), marks }));
            }
            Self::Invalidate => {}
        }
        if matches!(outcome, Outcome::Validated { .. }) { Ok(None) } else { Err(outcome) }
    }
}

fn next_marks(left: &mut Vec<Mark>) -> Vec<Mark> {
    left.split_off(left.len().saturating_sub(MARKS_MAX))
}

impl Domains {
    fn is_attached(&self, space: &[u8]) -> bool {
        self.here.contains_key(space) || self.members.values().any(|spaces| spaces.contains(space))
    }

    /// True if somebody takes part in the domain of the tree's lockspace.
    pub(crate) fn covers(&self, tree: &Name) -> bool {
        space_of(tree).is_some_and(|space| self.is_attached(space))
    }

    /// True if nobody takes part in any.
    pub(crate) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.members.values().all(BTreeSet::is_empty)
    }

    /// True if the root of a tree that is mastered here is kept for repair.
    pub(crate) fn is_marked(&self, tree: &Name) -> bool {
        self.marks.contains_key(tree)
    }

    /// Some may be kept that need not be.
    pub(crate) const fn has_stale(&self) -> bool {
        self.stale.is_some()
    }

    /// What became of the value block of a tree's root.
    pub(super) fn note(&mut self, tree: &Name, news: ValueNews, most: usize) {
        match news {
            ValueNews::Nothing => {}
            ValueNews::Written => _ = self.marks.remove(tree),
            ValueNews::Invalid => {
                if self.is_marked(tree) {
                    self.mark(tree);
                }
            }
            ValueNews::Failed => {
                if !self.covers(tree) {
                    return;
                }
                if self.marks.len() < most || self.is_marked(tree) {
                    self.mark(tree);
                } else {
                    self.missed.extend(space_of(tree).map(Name::from));
                }
            }
        }
    }

    /// The tree is not mastered here any more.
    pub(crate) fn unmark(&mut self, tree: &Name) {
        self.marks.remove(tree);
    }

    fn mark(&mut self, tree: &Name) {
        self.failures += 1;
        self.marks.insert(Name::clone(tree), self.failures);
    }

    /// Those of a lockspace, of trees with names above `after`.
    fn of_space(&self, space: &[u8], after: &Name) -> impl Iterator<Item = (&Name, &u64)> {
        let mut prefix = Vec::new();
        prefix.put_prefixed(space);
        let first = Name::from(&*prefix).max(Name::clone(after));
        let range = self.marks.range::<Name, _>((Bound::Excluded(first), Bound::Unbounded));
        range.take_while(move |(tree, _)| tree.starts_with(&prefix))
    }

    /// These are not members any more, or anew.
    pub(crate) fn on_view(&mut self, gone: &BTreeSet<NodeInstance>) {
        self.members.retain(|member, _| !gone.contains(member));
        self.doubted.clear();
        self.stale = Some(Arc::from([]));
    }

    /// Nothing is mastered here any more, and the others say anew what they take part in.
    pub(crate) fn give_up(&mut self) {
        let here = core::mem::take(&mut self.here);
        *self = Self { here, failures: self.failures, ..Self::default() };
    }

    /// True if that order was given to all members.
    pub(crate) fn talks_of(&self, ticket: u64) -> bool {
        self.talks.contains_key(&ticket)
    }

    /// Orders of this view are not answered any more.
    pub(crate) fn interrupt(&mut self) {
        self.talks.clear();
    }

    /// A lock of this node is gone.
    pub(crate) fn forget_collector(&mut self, lock: u64) {
        self.found.remove(&lock);
    }

    pub(crate) fn is_doubted(&self, tree: &Name) -> bool {
        !self.doubted.is_empty() && space_of(tree).is_some_and(|space| self.doubted.contains(space))
    }
}

impl Engine {
    /// A program of this node takes part in the recovery domain of a lockspace: from when the masters hear of it, they keep root
    /// resources whose blocks failures make invalid, also without locks. Once for each program, until [`Engine::detach`].
    ///
    /// # Errors
    /// [`RequestError::Limit`] beyond [`DOMAINS_MAX`] lockspaces, or if the name is too long.
    pub fn attach(&mut self, now: Instant, space: &[u8]) -> Result<(), RequestError> {
        self.now = now;
        if space.len() > SPACE_NAME_MAX {
            return Err(RequestError::Limit("SPACE_NAME_MAX"));
        }
        if self.domains.here.len() >= DOMAINS_MAX && !self.domains.here.contains_key(space) {
            return Err(RequestError::Limit("DOMAINS_MAX"));
        }
        let many = self.domains.here.entry(Name::from(space)).or_default();
        *many += 1;
        if *many == 1 {
            self.say_domains(false);
        }
        Ok(())
    }

    /// A program does not take part any more. When the last in the cluster does not, what was kept is forgotten.
    pub fn detach(&mut self, now: Instant, space: &[u8]) {
        self.now = now;
        let Some(many) = self.domains.here.get_mut(space) else { return };
        *many -= 1;
        if *many == 0 {
            self.domains.here.remove(space);
            self.domains.stale = Some(Arc::from([]));
            self.say_domains(false);
        }
    }

    /// Tells the others; in a new view only what they would not take for granted.
    pub(crate) fn say_domains(&mut self, anew: bool) {
        if anew && self.domains.here.is_empty() {
            return;
        }
        let spaces: Vec<Name> = self.domains.here.keys().cloned().collect();
        let members: Vec<NodeInstance> = self.members.keys().copied().filter(|m| *m != self.local).collect();
        for to in members {
            self.push(to, Item::Domains { spaces: spaces.clone() });
        }
    }

    pub(crate) fn on_domains(&mut self, from: NodeInstance, spaces: Vec<Name>) {
        self.domains.members.insert(from, spaces.into_iter().collect());
        self.domains.stale = Some(Arc::from([]));
    }

    /// Whether the next resource that is kept still has to be.
    pub(crate) fn unmark_next(&mut self) {
        let Some(from) = self.domains.stale.take() else { return };
        let next = self.domains.marks.range::<Name, _>((Bound::Excluded(from), Bound::Unbounded)).next();
        let Some(tree) = next.map(|(tree, _)| Name::clone(tree)) else { return };
        if !self.domains.covers(&tree) {
            self.domains.marks.remove(&tree);
            self.tidy(&Key { tree: Name::clone(&tree), path: Arc::from([]) });
        }
        self.domains.stale = Some(tree);
    }

    /// Asks all members for the resources of a lockspace whose blocks failures have made invalid. They are in the
    /// [`Output::Reported`](super::Output::Reported) with the ticket that is returned, as [`Outcome::Marks`]; or it is refused, because a recovery
    /// is under way somewhere: ask again. `collector`: a lock of this node on [`Key::collector`] in EX, so there is one at
    /// a time.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn collect(&mut self, now: Instant, collector: u64) -> Result<u64, OrderError> {
        let topic = Topic::Collect { found: Vec::new(), missed: false };
        let space = self.collects(collector).ok_or(OrderError::NotCollector)?;
        self.talk(now, space, Some(collector), topic)
    }

    /// What the collector found with [`Engine::collect`] is repaired: what has not become invalid anew meanwhile, nor was
    /// written, is zero and valid. The report is [`Outcome::Validated`]; or it is refused: ask again, as after a view.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn validate(&mut self, now: Instant, collector: u64) -> Result<u64, OrderError> {
        let space = self.collects(collector).ok_or(OrderError::NotCollector)?;
        let mut left: BTreeMap<NodeInstance, Vec<Mark>> = BTreeMap::new();
        for (member, mark) in self.domains.found.get(&collector).into_iter().flatten() {
            left.entry(*member).or_default().push(mark.clone());
        }
        self.talk(now, space, Some(collector), Topic::Validate { left, more: false })
    }

    /// No value block of a lockspace is to be trusted: all become invalid, on every member. The report is
    /// [`Outcome::Validated`]; or it is refused: ask again, as after a view. O(trees and locks) on each.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn invalidate(&mut self, now: Instant, space: &[u8]) -> Result<u64, OrderError> {
        self.talk(now, Name::from(space), None, Topic::Invalidate)
    }

    /// The lockspace whose resources the lock allows to collect.
    fn collects(&self, lock: u64) -> Option<Name> {
        let known = self.locks.get(&lock).filter(|known| known.held == Some(Mode::Ex))?;
        let space = space_of(&known.key.tree)?.strip_prefix(b"\xfe")?;
        (known.key == Key::collector(space)).then(|| Name::from(space))
    }

    fn talk(
        &mut self,
        now: Instant,
        space: Name,
        collector: Option<u64>,
        mut topic: Topic,
    ) -> Result<u64, OrderError> {
        let ticket = self.new_order(now)?;
        let awaited: BTreeSet<NodeInstance> = self.members.keys().copied().collect();
        let asked: Vec<_> = awaited.iter().map(|member| (*member, topic.begin(&space, *member))).collect();
        self.domains.talks.insert(ticket, Talk { space, collector, awaited, topic });
        for (member, what) in asked {
            self.push(member, Item::Order(Order { ticket, origin: self.local, what }));
        }
        self.settle();
        Ok(ticket)
    }

    /// A member's answer to an order that was given to all.
    pub(crate) fn on_answer_of_member(&mut self, from: NodeInstance, ticket: u64, outcome: Outcome) {
        let Some(mut talk) = self.domains.talks.remove(&ticket) else { return };
        if talk.collector.is_some_and(|lock| self.collects(lock).is_none()) {
            self.end_order(ticket, Outcome::Refused(OrderRefusal::NoSuchLock));
            return;
        }
        if talk.awaited.contains(&from) {
            match talk.topic.take(&talk.space, from, outcome) {
                Ok(Some(what)) => {
                    self.push(from, Item::Order(Order { ticket, origin: self.local, what }));
                }
                Ok(None) => _ = talk.awaited.remove(&from),
                Err(_refused) => {
                    self.end_order(ticket, Outcome::Refused(OrderRefusal::Recovering));
                    return;
                }
            }
        }
        if talk.awaited.is_empty() {
            self.end_talk(ticket, talk);
        } else {
            self.domains.talks.insert(ticket, talk);
        }
    }

    fn end_talk(&mut self, ticket: u64, talk: Talk) {
        let outcome = match talk.topic {
            Topic::Collect { found, missed } => {
                let mut marks: Vec<Mark> = found.iter().map(|(_, mark)| mark.clone()).collect();
                marks.sort_by(|a, b| a.tree.cmp(&b.tree));
                self.domains.found.extend(talk.collector.map(|lock| (lock, found)));
                Outcome::Marks { marks, more: false, missed }
            }
            Topic::Validate { more, .. } => {
                talk.collector.map(|lock| self.domains.found.remove(&lock));
                Outcome::Validated { more }
            }
            Topic::Invalidate => {
                let what = Wanted::Invalidate { space: talk.space, over: true };
                self.push_to_all(&Item::Order(Order { ticket, origin: self.local, what }));
                Outcome::Validated { more: false }
            }
        };
        self.end_order(ticket, outcome);
    }

    /// True if nothing is left to be done here of a failure that this node knows of.
    fn has_noted_failures(&self) -> bool {
        self.recovery.is_over() && self.next_release().is_none()
    }

    /// What this node has to say to an order of a domain. `None`: nothing.
    pub(crate) fn answer_for_domain(&mut self, what: &Wanted) -> Option<Outcome> {
        let ready = self.has_noted_failures();
        match what {
            Wanted::Invalidate { space, over: true } => {
                self.domains.doubted.remove(space);
                return None;
            }
            Wanted::Collect { space, after } if ready => {
                let mut kept = self.domains.of_space(space, after);
                let mark =
                    |(tree, failure): (&Name, &u64)| Mark { tree: Name::clone(tree), failure: *failure };
                let marks = kept.by_ref().take(MARKS_MAX).map(mark).collect();
                let more = kept.next().is_some();
                return Some(Outcome::Marks { marks, more, missed: self.domains.missed.contains(space) });
            }
            Wanted::Validate { space, marks } if ready => {
                marks.iter().for_each(|mark| self.repaired(mark));
                self.domains.missed.remove(space);
                let more = self.domains.of_space(space, &Arc::from([])).next().is_some();
                return Some(Outcome::Validated { more });
            }
            Wanted::Invalidate { space, over: false } if ready => {
                self.domains.doubted.insert(Name::clone(space));
                self.doubt_all(space);
                // What was sent away and did not arrive yet may pass by the next master.
                if !self.handing.values().any(|tree| space_of(tree) == Some(space)) {
                    return Some(Outcome::Validated { more: false });
                }
            }
            Wanted::Look(_)
            | Wanted::Release { .. }
            | Wanted::Purge(_)
            | Wanted::PurgeResource(_)
            | Wanted::Orphans
            | Wanted::Why { .. }
            | Wanted::Collect { .. }
            | Wanted::Validate { .. }
            | Wanted::Invalidate { .. } => {}
        }
        Some(Outcome::Refused(OrderRefusal::Recovering))
    }

    fn repaired(&mut self, mark: &Mark) {
        self.touch(&mark.tree);
        let failure = self.domains.marks.get(&mark.tree).copied();
        let same = failure == Some(mark.failure) || failure.is_some() && sabotaged!(self, ValidateAnew);
        if !same {
            return;
        }
        self.domains.marks.remove(&mark.tree);
        let root = Key { tree: Name::clone(&mark.tree), path: Arc::from([]) };
        if let Some(queues) =
            self.mastered(&root.tree).and_then(|mastered| mastered.resources.get_mut(&root.path))
        {
            queues.validate();
        }
        self.tidy(&root);
    }

    /// All value blocks of a lockspace become invalid, also those that locks of this node were given.
    fn doubt_all(&mut self, space: &[u8]) {
        let theirs = |name: &Name| space_of(name) == Some(space);
        let trees: Vec<Name> = self.trees.keys().filter(|name| theirs(name)).cloned().collect();
        for name in &trees {
            self.doubt(name);
        }
        for name in &trees {
            let locks = self.trees.get(name).map(|tree| tree.locks.clone()).unwrap_or_default();
            for lock in locks {
                if let Some(known) = self.locks.get_mut(&lock) {
                    known.value_invalid = true;
                }
            }
        }
    }

    /// The value blocks of a tree that is mastered here become invalid.
    pub(crate) fn doubt(&mut self, name: &Name) {
        if let Some(mastered) = self.mastered(name) {
            mastered.resources.iter_mut().for_each(|(_, queues)| queues.invalidate(false));
        }
        self.tidy(&Key { tree: Name::clone(name), path: Arc::from([]) });
    }

    /// The root of a tree of which only a lost node knew what it had: nobody can say that its block is valid.
    pub(crate) fn repair_entry_at(&mut self, place: u32) {
        // Entries are brought up to the view before.
        let Some((name, _)) = self.entries.at(place).filter(|(_, entry)| entry.master.is_none()) else {
            return;
        };
        if self.domains.covers(name) && !sabotaged!(self, ForgetFailures) {
            let name = Name::clone(name);
            self.rebuild_tree(&name, Vec::new());
        }
    }

    /// Checks what must hold between calls.
    pub(super) fn check_domains(&self) -> Result<(), &'static str> {
        let invalid = |name: &Name| {
            let root = self.trees.get(name)?.mastered()?.resources.get(&Name::from([]));
            root.map(Queues::is_value_invalid)
        };
        let kept = self.domains.marks.keys().all(|name| invalid(name) == Some(true));
        if kept { Ok(()) } else { Err("what is kept for repair is mastered here, and invalid") }
    }

    /// The trees that this node masters and whose root resource it keeps for repair, in order of their names.
    pub fn repairs(&self) -> impl Iterator<Item = Arc<[u8]>> + '_ {
        self.domains.marks.keys().cloned()
    }
}
