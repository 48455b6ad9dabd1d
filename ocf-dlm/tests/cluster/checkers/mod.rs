//! One file for each promise of the lock manager, and the book of what the applications saw that they judge by.
//!
//! | file | promise |
//! |---|---|
//! | `compatible` | D1 granted modes are compatible at every instant, holders that may be alive included |
//! | `one_master` | D2 one master for each tree and epoch; the directory agrees with it |
//! | `order` | D3 who waits keeps its place, also across a recovery |
//! | `value` | D4 a value block is the last one written, or is said to be invalid |
//! | `token` | D5 fencing tokens grow |
//! | `ends_once` | D6 every request ends exactly once |
//! | `notice` | D7 notices go to holders in the way, and who waits gets its turn |
//! | `agreement` | D8 what clients hold is what masters have granted |
//! | `balance` | D9 nothing is left when everything is given back |
//! | `domain` | D11 what a failure has made invalid is kept until it is collected and repaired |
//! | `ranges` | D1, D5 and D8 of byte ranges |
//! | `untouched` | D10 what a change does not touch goes on |

mod agreement;
mod balance;
mod compatible;
mod domain;
mod ends_once;
mod notice;
mod one_master;
mod order;
mod ranges;
mod token;
mod untouched;
mod value;

use crate::world::{Coverage, Node};
use ocf_dlm::cluster::{Completed, Engine, TreeSnapshot};
use ocf_dlm::range::RangeSet;
use ocf_dlm::wire::{Key, ReportedLock};
use ocf_dlm::{ClientId, Flags, Mode};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) what: String,
}

pub(crate) type Id = (NodeInstance, u64);

/// A lock as its application sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) client: ClientId,
    pub(crate) key: Key,
    pub(crate) held: Option<Mode>,
    pub(crate) pending: Option<(Mode, Flags)>,
    pub(crate) writes: u64,
    /// The application was told that it is lost; its node may be alive and unproven.
    pub(crate) lost: bool,
    /// It is to outlive its client.
    pub(crate) lasts: bool,
    /// It did.
    pub(crate) orphan: bool,
    /// The lock above it.
    pub(crate) parent: Option<u64>,
    /// Bytes that the application relies on, and that it will when the operation under way is granted.
    pub(crate) ranges: Option<(RangeSet, RangeSet)>,
}

/// What the applications saw.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) locks: BTreeMap<Id, Seen>,
    pub(crate) found: Option<Violation>,
    pub(crate) coverage: Coverage,
}

impl Book {
    pub(crate) fn fail(&mut self, rule: &'static str, what: String) {
        self.found.get_or_insert(Violation { rule, what });
    }
}

#[derive(Debug, Default)]
pub(crate) struct Checkers {
    pub(crate) book: Book,
    order: order::Order,
    tokens: token::Tokens,
    range_tokens: ranges::Tokens,
    values: value::Values,
    signals: notice::Signals,
}

impl Checkers {
    /// What is told of an operation that waits begins with the locks that hold what excludes it; who only waits ahead follows.
    pub(crate) fn explained(&mut self, asked: Mode, locks: &[ReportedLock]) {
        let excludes = |lock: &ReportedLock| lock.held.is_some_and(|held| !held.is_compatible(asked));
        if !locks.is_sorted_by_key(|lock| !excludes(lock)) {
            self.book.fail("explanation", format!("in the way of {asked}: {locks:?}"));
        }
    }

    pub(crate) fn verdict(&self) -> Result<(), Violation> {
        self.book.found.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn coverage(&self) -> Coverage {
        self.book.coverage.clone()
    }

    pub(crate) fn asked(&mut self, (at, lock): Id, client: ClientId, key: Key, (mode, flags): (Mode, Flags)) {
        let (lasts, pending) = (flags.has(Flags::PERSISTENT), Some((mode, flags)));
        let seen = Seen {
            client,
            key,
            held: None,
            pending,
            writes: 0,
            lost: false,
            lasts,
            orphan: false,
            parent: None,
            ranges: None,
        };
        self.book.locks.insert((at, lock), seen);
    }

    /// Whoever is in the way of the lock is told that signal.
    pub(crate) fn signals(&mut self, id: Id, key: &Key, asked: (Mode, u64)) {
        self.signals.asked(id, key, asked);
    }

    pub(crate) fn placed(&mut self, id: Id, parent: Option<u64>) {
        if let Some(seen) = self.book.locks.get_mut(&id) {
            seen.parent = parent;
        }
    }

    /// Some bytes were asked for, of an object of which the client may have some; granted, it has `then`.
    pub(crate) fn asked_ranges(
        &mut self,
        id: Id,
        (client, key): (ClientId, Key),
        then: RangeSet,
        flags: Flags,
    ) {
        let pending = (then.mode(), flags);
        let seen = self.book.locks.entry(id).or_insert_with(|| Seen {
            client,
            key,
            held: None,
            pending: None,
            writes: 0,
            lost: false,
            lasts: false,
            orphan: false,
            parent: None,
            ranges: Some((RangeSet::default(), RangeSet::default())),
        });
        if seen.pending.replace(pending).is_some() {
            self.book.fail("D6", format!("{id:?} asks while it asks"));
            return;
        }
        if let Some(ranges) = &mut seen.ranges {
            ranges.1 = then;
        }
    }

    /// Some bytes were given up, or are held less strongly.
    pub(crate) fn lowered(&mut self, at: NodeInstance, lock: u64, left: RangeSet) {
        if let Some(seen) = self.book.locks.get_mut(&(at, lock)) {
            seen.held = Some(left.mode());
            seen.ranges = Some((left.clone(), left));
        }
    }

    pub(crate) fn has_ranges(&self, at: NodeInstance, lock: u64) -> bool {
        self.book.locks.get(&(at, lock)).is_some_and(|seen| seen.ranges.is_some())
    }

    /// Notes a conversion that is about to be asked for; false if one is under way.
    pub(crate) fn converting(
        &mut self,
        at: NodeInstance,
        lock: u64,
        (mode, flags): (Mode, Flags),
        value: u64,
    ) -> bool {
        match self.book.locks.get_mut(&(at, lock)) {
            Some(seen) if seen.pending.is_none() && seen.held.is_some() => {
                seen.pending = Some((mode, flags));
                seen.writes = value;
                self.signals.converting((at, lock), mode);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn conversion_refused(&mut self, at: NodeInstance, lock: u64) {
        if let Some(seen) = self.book.locks.get_mut(&(at, lock)) {
            seen.pending = None;
        }
    }

    pub(crate) fn completed(&mut self, at: NodeInstance, completed: &Completed) {
        let id = (at, completed.lock);
        let before = self.book.locks.get(&id).cloned();
        ends_once::completed(&mut self.book, id, completed);
        let Some(before) = before else { return };
        if completed.status == ocf_dlm::Status::Unlocked {
            // Released by force: what was held until now is given back by the call that follows.
            return;
        }
        if before.ranges.is_some() {
            ranges::completed(&mut self.book, id, completed);
            self.range_tokens.completed(&mut self.book, id, completed);
        } else {
            compatible::completed(&mut self.book, id, completed);
            self.tokens.completed(&mut self.book, id, &before, completed);
        }
        self.values.completed(&mut self.book, &before, completed);
        if completed.held.is_none() {
            self.book.locks.remove(&id);
            self.values.counted(&self.book, &before.key);
        }
    }

    /// The lease of the node is in doubt: it may go down, and nothing else.
    pub(crate) fn completed_in_doubt(&mut self, at: NodeInstance, completed: &Completed) {
        let held = self.book.locks.get(&(at, completed.lock)).and_then(|seen| seen.held);
        let up = completed.held.is_some_and(|mode| held.is_none_or(|held| !held.is_down(mode)));
        if completed.status == ocf_dlm::Status::Granted && up {
            let what = format!("{at} is granted {completed:?} while its lease is in doubt");
            self.book.fail("D1", what);
        }
    }

    /// `held`: what the application could see that it holds, when it released.
    pub(crate) fn unlocked(&mut self, at: NodeInstance, lock: u64, held: Option<Mode>, value: u64) {
        if let Some(seen) = self.book.locks.remove(&(at, lock)) {
            self.values.released(&seen, held, value);
            self.values.counted(&self.book, &seen.key);
        }
    }

    pub(crate) fn notified(&mut self, at: NodeInstance, lock: u64, (wanted, signal): (Mode, u64)) {
        notice::notified(&mut self.book, (at, lock), wanted);
        self.signals.told(&mut self.book, (at, lock), (wanted, signal));
    }

    pub(crate) fn lost(&mut self, at: NodeInstance, lock: u64) {
        if let Some(seen) = self.book.locks.get_mut(&(at, lock)) {
            seen.lost = true;
        }
    }

    /// The process is gone; its holders may be alive until there is proof.
    pub(crate) fn died(&mut self, x: NodeInstance) {
        let theirs = self.book.locks.range_mut((x, 0)..=(x, u64::MAX));
        for (_, seen) in theirs {
            seen.lost = true;
        }
        self.values.doubt(&self.book, x);
    }

    /// It is certain that the holders of `x` do nothing more.
    pub(crate) fn proven(&mut self, x: NodeInstance) {
        self.values.doubt(&self.book, x);
        let gone: Vec<Id> = self
            .book
            .locks
            .range((x, 0)..=(x, u64::MAX))
            .filter(|(_, seen)| seen.lost)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(seen) = self.book.locks.remove(&id) {
                self.values.counted(&self.book, &seen.key);
            }
        }
    }

    pub(crate) fn surrendered(&mut self, x: NodeInstance) {
        self.proven(x);
    }

    pub(crate) fn probed(&mut self, at: NodeInstance, held: Option<Mode>) {
        untouched::probed(&mut self.book, at, held);
    }

    pub(crate) fn untouched(
        &mut self,
        at: NodeInstance,
        before: &[TreeSnapshot],
        engine: &Engine,
        stays: impl Fn(NodeInstance) -> bool,
    ) {
        untouched::view(&mut self.book, at, before, engine, stays);
    }

    pub(crate) const fn repairs(&mut self) -> &mut domain::Repairs {
        &mut self.values.repairs
    }

    /// A collector says that it has repaired what it was told when there had been so many failures.
    pub(crate) fn validating(&mut self, names: &BTreeSet<Key>, failures: u64) {
        names.iter().for_each(|key| self.values.validating(key));
        self.values.repairs.repaired(names, failures);
    }

    /// A collector is told of these, at rest.
    pub(crate) fn collected_all(&self, names: &BTreeSet<Key>) -> Result<(), Violation> {
        let missing: Vec<_> = self.values.repairs.due().filter(|key| !names.contains(key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Violation { rule: "D11", what: format!("failures made {missing:?} invalid, told are {names:?}") })
    }

    /// Looks at all engines between two steps.
    pub(crate) fn watch(&mut self, nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
        for (x, node) in nodes {
            if let Err(what) = node.engine.check_invariants() {
                return Err(Violation { rule: "invariant", what: format!("{x}: {what}") });
            }
        }
        one_master::watch(nodes)?;
        ends_once::watch(&self.book, nodes)?;
        self.order.watch(nodes)?;
        self.verdict()
    }

    /// After a time without faults and requests.
    pub(crate) fn settled(&self, nodes: &BTreeMap<NodeInstance, Node>, epoch: u64) -> Result<(), Violation> {
        ends_once::settled(&self.book, nodes)?;
        one_master::settled(nodes, epoch)?;
        agreement::settled(&self.book, nodes)?;
        ranges::settled(&self.book, nodes)
    }

    /// After everything was given back.
    pub(crate) fn empty(&self, nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
        balance::empty(nodes)
    }

    pub(crate) fn locks_of(&self, at: NodeInstance) -> Vec<(u64, Key)> {
        let mine = self.book.locks.range((at, 0)..=(at, u64::MAX));
        let theirs = mine.filter(|(_, seen)| !seen.lost && !seen.orphan);
        theirs.map(|((_, lock), seen)| (*lock, seen.key.clone())).collect()
    }

    /// Those of living clients and orphans.
    pub(crate) fn all_locks_of(&self, at: NodeInstance) -> Vec<u64> {
        let mine = self.book.locks.range((at, 0)..=(at, u64::MAX));
        mine.filter(|(_, seen)| !seen.lost).map(|((_, lock), _)| *lock).collect()
    }

    /// All that anybody has, or may have.
    pub(crate) fn everything(&self) -> Vec<(Id, Key)> {
        self.book.locks.iter().map(|(id, seen)| (*id, seen.key.clone())).collect()
    }

    pub(crate) fn orphans_of(&self, at: NodeInstance) -> Vec<(Key, Mode)> {
        let mine = self.book.locks.range((at, 0)..=(at, u64::MAX)).filter(|(_, s)| s.orphan && !s.lost);
        mine.filter_map(|(_, seen)| Some((seen.key.clone(), seen.held?))).collect()
    }

    pub(crate) fn is_held(&self, id: Id) -> bool {
        self.book.locks.get(&id).is_some_and(|seen| seen.held.is_some())
    }

    pub(crate) fn is_orphan(&self, id: Id) -> bool {
        self.book.locks.get(&id).is_some_and(|seen| seen.orphan)
    }

    /// A client ended: what was to last stays held, with what is above it; of the rest nothing is relied on any more.
    pub(crate) fn client_ended(&mut self, at: NodeInstance, client: ClientId) {
        let mut mine: Vec<u64> = self.locks_of(at).into_iter().map(|(lock, _)| lock).collect();
        mine.retain(|lock| self.client_of(at, *lock) == Some(client));
        let depth = |lock: &u64| self.book.locks.get(&(at, *lock)).map_or(0, |seen| seen.key.path.len());
        mine.sort_by_key(|lock| core::cmp::Reverse((depth(lock), *lock)));
        for lock in mine {
            // What is still below it stays.
            let mut others = self.book.locks.range((at, 0)..=(at, u64::MAX));
            let above = others.any(|(_, other)| other.parent == Some(lock));
            let Some(seen) = self.book.locks.get_mut(&(at, lock)) else { continue };
            if seen.held.is_some() && (seen.lasts || above) {
                seen.orphan = true;
            } else {
                self.revoked((at, lock));
            }
        }
    }

    /// An orphan has another owner, who has not heard of it yet.
    pub(crate) fn adopted(&mut self, (at, lock): Id, client: ClientId) {
        match self.book.locks.get_mut(&(at, lock)) {
            Some(seen) if seen.orphan => {
                (seen.orphan, seen.lasts, seen.client) = (false, false, client);
                // It asks for nothing new: nothing is written by it.
                seen.pending =
                    Some((if seen.held == Some(Mode::Nl) { Mode::Cr } else { Mode::Nl }, Flags::NONE));
            }
            other => {
                let what = format!("{at} {lock} is adopted, and is {other:?}");
                self.book.fail("D8", what);
            }
        }
    }

    /// A lock is gone without its client's doing: what it could write is in doubt.
    pub(crate) fn revoked(&mut self, id: Id) {
        if let Some(seen) = self.book.locks.remove(&id) {
            self.values.doubt_one(id, &seen);
            self.values.counted(&self.book, &seen.key);
        }
    }

    /// A request that waited is gone, by force.
    pub(crate) fn gone_by_force(&mut self, id: Id) {
        if self.book.locks.get(&id).is_some_and(|seen| seen.held.is_none()) {
            self.revoked(id);
        }
    }

    pub(crate) fn client_of(&self, at: NodeInstance, lock: u64) -> Option<ClientId> {
        self.book.locks.get(&(at, lock)).map(|seen| seen.client)
    }

    pub(crate) fn children_of(&self, at: NodeInstance, lock: u64) -> Vec<u64> {
        let Some(parent) = self.book.locks.get(&(at, lock)) else { return Vec::new() };
        if !parent.key.path.is_empty() {
            return Vec::new();
        }
        let mine = self.book.locks.range((at, 0)..=(at, u64::MAX));
        mine.filter(|(_, s)| s.key.tree == parent.key.tree && !s.key.path.is_empty())
            .map(|((_, lock), _)| *lock)
            .collect()
    }

    pub(crate) fn children(&self, at: NodeInstance, lock: u64) -> usize {
        self.children_of(at, lock).len()
    }
}
