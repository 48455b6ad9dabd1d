//! The System V model: byte ranges of named objects, locked shared or exclusively as `fcntl` does it.
//!
//! An owner never excludes itself: what it locks anew replaces what it had there, which splits and joins its ranges. Who
//! waits is granted in order of asking, as soon as nobody else has a range in its way. Source: POSIX, `fcntl`.
//!
//! ```
//! use ocf_dlm::range::{Range, RangeKind, RangeLocks, RangeOwner};
//! let mut locks = RangeLocks::default();
//! let (a, b) = (RangeOwner(1), RangeOwner(2));
//! locks.lock(a, b"file", Range::new(0, 99)?, RangeKind::Exclusive)?;
//! locks.unlock(a, b"file", Range::new(40, 59)?)?; // two ranges are left
//! assert!(locks.lock(b, b"file", Range::new(40, 59)?, RangeKind::Shared).is_ok());
//! assert!(locks.lock(b, b"file", Range::new(39, 59)?, RangeKind::Shared).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod set;

pub use set::{RANGES_PER_OWNER_MAX, RangeSet};

use crate::name::{self, NameError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most ranges held on one object, of all owners; a call that would make more is refused.
pub const RANGES_PER_OBJECT_MAX: usize = 65_536;
/// Most requests that wait for one object; more are refused.
pub const WAITS_PER_OBJECT_MAX: usize = 65_536;

/// Bytes `first` to `last`, both included; `u64::MAX` as the last is the end of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    first: u64,
    last: u64,
}

impl Range {
    /// Everything.
    pub const WHOLE: Self = Self { first: 0, last: u64::MAX };

    /// Bytes `first` to `last`, both included.
    ///
    /// # Errors
    /// [`RangeError::Empty`] if `last` is before `first`.
    pub const fn new(first: u64, last: u64) -> Result<Self, RangeError> {
        if first <= last { Ok(Self { first, last }) } else { Err(RangeError::Empty) }
    }

    /// The first byte.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// The last byte.
    #[must_use]
    pub const fn last(self) -> u64 {
        self.last
    }

    /// True if some byte is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// True if both together are one range.
    const fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }
}

/// How a range is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RangeKind {
    /// Others may have it shared, too (`F_RDLCK`).
    Shared,
    /// Nobody else may have it (`F_WRLCK`).
    Exclusive,
}

/// Who owns ranges: a process, or what stands for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeOwner(pub u64);

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeWait(u64);

/// A range that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldRange {
    /// The bytes.
    pub range: Range,
    /// Whose.
    pub owner: RangeOwner,
    /// How.
    pub kind: RangeKind,
}

impl HeldRange {
    fn excludes(&self, owner: RangeOwner, range: Range, kind: RangeKind) -> bool {
        let both_shared = (self.kind, kind) == (RangeKind::Shared, RangeKind::Shared);
        self.owner != owner && !both_shared && self.range.overlaps(range)
    }
}

/// Why a range was not locked. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The name of the object cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A range has at least one byte.
    #[error("the range ends before it begins")]
    Empty,
    /// Another has it (`EAGAIN`).
    #[error("another owner has {0:?}")]
    Held(HeldRange),
    /// Who has it waits, itself or through others, for the caller (`EDEADLK`).
    #[error("waiting would be a deadlock")]
    Deadlock,
    /// Too many ranges, or waits (`ENOLCK`).
    #[error("the limit {0} is reached")]
    Limit(&'static str),
}

impl RangeError {
    /// The number that `fcntl` returns for it on Linux, negative.
    #[must_use]
    pub const fn linux(self) -> i32 {
        match self {
            Self::Name(_) | Self::Empty => -22,
            Self::Held(_) => -11,
            Self::Deadlock => -35,
            Self::Limit(_) => -37,
        }
    }
}

/// What a request that may wait has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAnswer {
    /// It is held.
    Granted,
    /// It waits; [`RangeLocks::poll_granted`] will name it.
    Waits(RangeWait),
}

/// A sans-IO table of range locks, of any number of objects.
#[derive(Debug, Default)]
pub struct RangeLocks {
    objects: BTreeMap<Box<[u8]>, Object>,
    /// The object that each wait is for.
    waits: BTreeMap<RangeWait, Box<[u8]>>,
    granted: VecDeque<RangeWait>,
    last_wait: u64,
}

#[derive(Debug, Default)]
struct Object {
    /// By first byte, then owner.
    held: Vec<HeldRange>,
    waiting: Vec<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: RangeWait,
    owner: RangeOwner,
    range: Range,
    kind: RangeKind,
}

impl RangeLocks {
    /// Locks a range, or changes how the caller has it, if nobody is in the way (`F_SETLK`). O(ranges of the object).
    ///
    /// # Errors
    /// [`RangeError::Held`] if somebody is; nothing changes.
    pub fn lock(
        &mut self,
        owner: RangeOwner,
        object: &[u8],
        range: Range,
        kind: RangeKind,
    ) -> Result<(), RangeError> {
        name::check(object)?;
        if let Some(held) = self.test(owner, object, range, kind) {
            return Err(RangeError::Held(held));
        }
        let found = self.objects.entry(object.into()).or_default();
        found.check_room()?;
        found.set(owner, range, Some(kind));
        // Going from exclusive to shared makes way.
        self.settle(object);
        Ok(())
    }

    /// As [`RangeLocks::lock`], but waits if somebody is in the way (`F_SETLKW`).
    ///
    /// # Errors
    /// [`RangeError::Deadlock`] if whoever is in the way waits for the caller; nothing changes.
    pub fn lock_or_wait(
        &mut self,
        owner: RangeOwner,
        object: &[u8],
        range: Range,
        kind: RangeKind,
    ) -> Result<RangeAnswer, RangeError> {
        match self.lock(owner, object, range, kind) {
            Ok(()) => return Ok(RangeAnswer::Granted),
            Err(RangeError::Held(_)) => {}
            Err(error) => return Err(error),
        }
        let id = RangeWait(self.last_wait + 1);
        let waiting = Waiting { id, owner, range, kind };
        let blockers = self.blockers(object, &waiting);
        if self.reaches(blockers, owner) {
            return Err(RangeError::Deadlock);
        }
        let found = self.objects.entry(object.into()).or_default();
        if found.waiting.len() >= WAITS_PER_OBJECT_MAX {
            return Err(RangeError::Limit("WAITS_PER_OBJECT_MAX"));
        }
        found.waiting.push(waiting);
        self.last_wait += 1;
        self.waits.insert(id, object.into());
        Ok(RangeAnswer::Waits(id))
    }

    /// What is in the way of such a request, if anything: the range with the lowest first byte (`F_GETLK`).
    #[must_use]
    pub fn test(&self, owner: RangeOwner, object: &[u8], range: Range, kind: RangeKind) -> Option<HeldRange> {
        let held = &self.objects.get(object)?.held;
        held.iter()
            .take_while(|held| held.range.first <= range.last)
            .find(|h| h.excludes(owner, range, kind))
            .copied()
    }

    /// Gives up what the caller has of a range (`F_UNLCK`). What it does not have is no error.
    ///
    /// # Errors
    /// [`RangeError::Limit`] if that would split one range too many.
    pub fn unlock(&mut self, owner: RangeOwner, object: &[u8], range: Range) -> Result<(), RangeError> {
        name::check(object)?;
        if let Some(found) = self.objects.get_mut(object) {
            found.check_room()?;
            found.set(owner, range, None);
            self.settle(object);
        }
        Ok(())
    }

    /// Gives up all that an owner has of an object. It never splits a range, so there is room for it.
    pub fn give_up(&mut self, owner: RangeOwner, object: &[u8]) {
        if let Some(found) = self.objects.get_mut(object) {
            found.held.retain(|held| held.owner != owner);
            self.settle(object);
        }
    }

    /// Ends a wait. False if it does not wait: then it was granted.
    pub fn cancel(&mut self, wait: RangeWait) -> bool {
        let Some(object) = self.waits.remove(&wait) else { return false };
        if let Some(found) = self.objects.get_mut(&object) {
            found.waiting.retain(|waiting| waiting.id != wait);
        }
        self.settle(&object);
        true
    }

    /// The owner is gone: all its ranges are given up, and it waits for nothing.
    pub fn drop_owner(&mut self, owner: RangeOwner) {
        let names: Vec<Box<[u8]>> = self.objects.keys().cloned().collect();
        for object in names {
            let Some(found) = self.objects.get_mut(&object) else { continue };
            let (theirs, others) = found.waiting.iter().partition(|waiting| waiting.owner == owner);
            found.waiting = others;
            found.held.retain(|held| held.owner != owner);
            let theirs: Vec<Waiting> = theirs;
            for waiting in theirs {
                self.waits.remove(&waiting.id);
            }
            self.settle(&object);
        }
    }

    /// The next wait that was granted, in order.
    pub fn poll_granted(&mut self) -> Option<RangeWait> {
        self.granted.pop_front()
    }

    /// What is held on an object, by first byte.
    #[must_use]
    pub fn held(&self, object: &[u8]) -> &[HeldRange] {
        self.objects.get(object).map_or(&[], |found| &found.held)
    }

    /// How many objects have a lock or a wait.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Grants the waits that nobody is in the way of any more, in order, and forgets an object that nobody uses.
    fn settle(&mut self, object: &[u8]) {
        let Some(found) = self.objects.get_mut(object) else { return };
        let mut at = 0;
        while let Some(&Waiting { id, owner, range, kind }) = found.waiting.get(at) {
            let blocked = found.held.iter().any(|held| held.excludes(owner, range, kind));
            if blocked || found.check_room().is_err() {
                at += 1;
                continue;
            }
            found.waiting.remove(at);
            found.set(owner, range, Some(kind));
            self.waits.remove(&id);
            self.granted.push_back(id);
            // It may have given up something exclusive: those before it may go now.
            at = 0;
        }
        if found.held.is_empty() && found.waiting.is_empty() {
            self.objects.remove(object);
        }
    }

    fn blockers(&self, object: &[u8], waiting: &Waiting) -> BTreeSet<RangeOwner> {
        let held = self.objects.get(object).into_iter().flat_map(|found| &found.held);
        held.filter(|h| h.excludes(waiting.owner, waiting.range, waiting.kind))
            .map(|held| held.owner)
            .collect()
    }

    /// True if one of `from` is `to`, or waits for it, itself or through others.
    fn reaches(&self, from: BTreeSet<RangeOwner>, to: RangeOwner) -> bool {
        let mut seen = BTreeSet::new();
        let mut next: Vec<RangeOwner> = from.into_iter().collect();
        while let Some(owner) = next.pop() {
            if owner == to {
                return true;
            }
            if !seen.insert(owner) {
                continue;
            }
            for (object, found) in &self.objects {
                for waiting in found.waiting.iter().filter(|waiting| waiting.owner == owner) {
                    next.extend(self.blockers(object, waiting));
                }
            }
        }
        false
    }
}

impl Object {
    /// A change adds at most two ranges.
    const fn check_room(&self) -> Result<(), RangeError> {
        if self.held.len() + 2 > RANGES_PER_OBJECT_MAX {
            return Err(RangeError::Limit("RANGES_PER_OBJECT_MAX"));
        }
        Ok(())
    }

    /// What `owner` has of `range` is of that kind now, or nothing; its neighbours of the same kind are joined.
    fn set(&mut self, owner: RangeOwner, range: Range, kind: Option<RangeKind>) {
        let mut joined = range;
        let mut kept = Vec::with_capacity(self.held.len() + 2);
        for held in self.held.drain(..) {
            if held.owner != owner || !held.range.touches(range) {
                kept.push(held);
            } else if Some(held.kind) == kind {
                joined.first = joined.first.min(held.range.first);
                joined.last = joined.last.max(held.range.last);
            } else {
                let part = |first, last| HeldRange { range: Range { first, last }, ..held };
                if held.range.first < range.first {
                    kept.push(part(held.range.first, held.range.last.min(range.first - 1)));
                }
                if held.range.last > range.last {
                    kept.push(part(held.range.first.max(range.last + 1), held.range.last));
                }
            }
        }
        if let Some(kind) = kind {
            kept.push(HeldRange { range: joined, owner, kind });
        }
        kept.sort_unstable();
        self.held = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RangeKind::{Exclusive, Shared};

    const A: RangeOwner = RangeOwner(1);
    const B: RangeOwner = RangeOwner(2);
    const C: RangeOwner = RangeOwner(3);

    fn range(first: u64, last: u64) -> Range {
        Range::new(first, last).unwrap()
    }

    fn held(locks: &RangeLocks) -> Vec<(u64, u64, u64, RangeKind)> {
        locks.held(b"f").iter().map(|h| (h.range.first, h.range.last, h.owner.0, h.kind)).collect()
    }

    #[test]
    fn ranges_split_and_join() {
        let mut locks = RangeLocks::default();
        locks.lock(A, b"f", range(0, 99), Exclusive).unwrap();
        locks.lock(A, b"f", range(20, 29), Shared).unwrap();
        assert_eq!(held(&locks), [(0, 19, 1, Exclusive), (20, 29, 1, Shared), (30, 99, 1, Exclusive)]);
        locks.lock(A, b"f", range(30, 39), Shared).unwrap();
        locks.unlock(A, b"f", range(50, u64::MAX)).unwrap();
        assert_eq!(held(&locks), [(0, 19, 1, Exclusive), (20, 39, 1, Shared), (40, 49, 1, Exclusive)]);
        locks.lock(A, b"f", Range::WHOLE, Shared).unwrap();
        assert_eq!(held(&locks), [(0, u64::MAX, 1, Shared)]);
        locks.unlock(A, b"f", Range::WHOLE).unwrap();
        assert_eq!(locks.objects(), 0);
        assert_eq!(Range::new(2, 1), Err(RangeError::Empty));
    }

    #[test]
    fn waits_are_granted_in_order_when_nobody_is_in_the_way() {
        let mut locks = RangeLocks::default();
        locks.lock(A, b"f", range(0, 9), Exclusive).unwrap();
        let RangeAnswer::Waits(b) = locks.lock_or_wait(B, b"f", range(5, 14), Exclusive).unwrap() else {
            panic!()
        };
        let RangeAnswer::Waits(c) = locks.lock_or_wait(C, b"f", range(0, 6), Shared).unwrap() else {
            panic!()
        };
        locks.unlock(A, b"f", range(0, 4)).unwrap();
        assert_eq!(locks.poll_granted(), None);
        locks.unlock(A, b"f", Range::WHOLE).unwrap();
        assert_eq!((locks.poll_granted(), locks.poll_granted()), (Some(b), None));
        assert!(locks.cancel(c) && !locks.cancel(b));
        locks.drop_owner(B);
        assert_eq!(locks.objects(), 0);
    }

    #[test]
    fn a_circle_of_waits_over_several_objects_is_a_deadlock() {
        let mut locks = RangeLocks::default();
        for (owner, object) in [(A, b"a"), (B, b"b"), (C, b"c")] {
            locks.lock(owner, object, Range::WHOLE, Exclusive).unwrap();
        }
        assert!(matches!(locks.lock_or_wait(A, b"b", range(1, 1), Shared), Ok(RangeAnswer::Waits(_))));
        assert!(matches!(locks.lock_or_wait(B, b"c", range(1, 1), Shared), Ok(RangeAnswer::Waits(_))));
        assert_eq!(locks.lock_or_wait(C, b"a", range(1, 1), Shared), Err(RangeError::Deadlock));
        assert_eq!(RangeError::Deadlock.linux(), -35);
        locks.unlock(B, b"b", Range::WHOLE).unwrap();
        assert!(locks.poll_granted().is_some());
        assert!(matches!(locks.lock_or_wait(C, b"a", range(1, 1), Shared), Ok(RangeAnswer::Waits(_))));
    }
}
