//! What one owner has, or wants to have, of an object.

use super::{Range, RangeKind};
use crate::Mode;
use core::cmp::Ordering;

/// Most ranges that one owner has of one object in a cluster. A call that would make more is refused.
pub const RANGES_PER_OWNER_MAX: usize = 512;

/// Bytes of an object and how each is locked: ranges in order, none over another, and joined where they can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RangeSet(Vec<(Range, RangeKind)>);

impl RangeSet {
    /// One range.
    #[must_use]
    pub fn of(range: Range, kind: RangeKind) -> Self {
        Self(vec![(range, kind)])
    }

    /// The ranges, by first byte.
    #[must_use]
    pub fn as_slice(&self) -> &[(Range, RangeKind)] {
        &self.0
    }

    /// True if no byte is locked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Every byte of `range` is of that kind now, or not locked. O(ranges).
    pub fn set(&mut self, range: Range, kind: Option<RangeKind>) {
        let mut joined = range;
        let mut kept = Vec::with_capacity(self.0.len() + 2);
        for (held, as_kind) in self.0.drain(..) {
            if !held.touches(range) {
                kept.push((held, as_kind));
            } else if Some(as_kind) == kind {
                joined = Range { first: joined.first.min(held.first), last: joined.last.max(held.last) };
            } else {
                if held.first < range.first {
                    kept.push((Range { last: held.last.min(range.first - 1), ..held }, as_kind));
                }
                if held.last > range.last {
                    kept.push((Range { first: held.first.max(range.last + 1), ..held }, as_kind));
                }
            }
        }
        kept.extend(kind.map(|kind| (joined, kind)));
        kept.sort_unstable();
        self.0 = kept;
    }

    /// Each byte as the stronger of both has it. O(ranges squared, at worst).
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        let mut all = Self::default();
        for kind in [RangeKind::Shared, RangeKind::Exclusive] {
            for (range, _) in self.0.iter().chain(&other.0).filter(|(_, as_kind)| *as_kind == kind) {
                all.set(*range, Some(kind));
            }
        }
        all
    }

    /// True if no byte is locked more strongly in `other`. O(ranges of both).
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut mine = self.0.iter().copied();
        let mut at = mine.next();
        for (range, kind) in &other.0 {
            let mut next = Some(range.first);
            while let Some(first) = next {
                while at.is_some_and(|(held, _)| held.last < first) {
                    at = mine.next();
                }
                let Some((held, as_kind)) = at else { return false };
                if held.first > first || as_kind < *kind {
                    return false;
                }
                next = held.last.checked_add(1).filter(|first| *first <= range.last);
            }
        }
        true
    }

    /// The first range of this that keeps another owner from having `wanted`. O(ranges of both).
    #[must_use]
    pub fn in_the_way(&self, wanted: &Self) -> Option<(Range, RangeKind)> {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), wanted.0.iter().peekable());
        while let (Some((held, as_kind)), Some((range, kind))) = (mine.peek(), theirs.peek()) {
            if held.overlaps(*range) && (*as_kind, *kind) != (RangeKind::Shared, RangeKind::Shared) {
                return Some((*held, *as_kind));
            }
            let done = match held.last.cmp(&range.last) {
                Ordering::Less | Ordering::Equal => mine.next(),
                Ordering::Greater => theirs.next(),
            };
            debug_assert!(done.is_some(), "one was there");
        }
        None
    }

    /// The mode of the strongest byte.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.0.iter().map(|(_, kind)| kind.mode()).max().unwrap_or(Mode::Nl)
    }

    /// From ranges in order, as [`RangeSet::as_slice`] has them; `None` if they are not, or are too many.
    pub(crate) fn from_parts(parts: Vec<(Range, RangeKind)>) -> Option<Self> {
        let apart = |pair: &[(Range, RangeKind)]| {
            let ((one, kind), (other, other_kind)) = (pair[0], pair[1]);
            one.last < other.first && (kind != other_kind || !one.touches(other))
        };
        // What an owner asks for on the way may have a part between each two of its own, and around them.
        let good = parts.len() <= 2 * RANGES_PER_OWNER_MAX + 2 && parts.windows(2).all(apart);
        good.then_some(Self(parts))
    }
}

impl RangeKind {
    /// The lock mode that excludes the same.
    pub(crate) const fn mode(self) -> Mode {
        match self {
            Self::Shared => Mode::Pr,
            Self::Exclusive => Mode::Ex,
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small test numbers")]
mod tests {
    use super::*;
    use RangeKind::{Exclusive, Shared};
    use pils::Rng;

    const BYTES: u64 = 24;

    /// The obvious model: the kind of each byte; the last stands for all that follow.
    type Bytes = [Option<RangeKind>; BYTES as usize];

    fn bytes(set: &RangeSet) -> Bytes {
        core::array::from_fn(|byte| {
            let byte = if byte as u64 == BYTES - 1 { u64::MAX } else { byte as u64 };
            let found = set.0.iter().find(|(range, _)| range.first <= byte && byte <= range.last);
            found.map(|(_, kind)| *kind)
        })
    }

    fn change(rng: &mut Rng) -> (Range, Option<RangeKind>) {
        let first = rng.below(BYTES - 1);
        let last = if rng.chance(0.1) { u64::MAX } else { rng.between(first, BYTES - 2) };
        let kind = *rng.pick(&[None, Some(Shared), Some(Exclusive)]).unwrap();
        (Range::new(first, last).unwrap(), kind)
    }

    fn some(rng: &mut Rng) -> RangeSet {
        let mut set = RangeSet::default();
        for _ in 0..rng.below(6) {
            let (range, kind) = change(rng);
            set.set(range, kind);
        }
        set
    }

    #[test]
    fn sets_are_what_an_array_of_bytes_is() {
        let mut rng = Rng::new(7);
        for _ in 0..20_000 {
            let (one, other) = (some(&mut rng), some(&mut rng));
            let (a, b) = (bytes(&one), bytes(&other));
            let (range, kind) = change(&mut rng);
            let mut changed = one.clone();
            changed.set(range, kind);
            let last = (range.last.min(BYTES - 1)) as usize;
            let expected: Bytes = core::array::from_fn(|byte| {
                if (range.first as usize..=last).contains(&byte) { kind } else { a[byte] }
            });
            assert_eq!(bytes(&changed), expected, "{one:?} {range:?} {kind:?}");
            let stronger: Bytes = core::array::from_fn(|byte| a[byte].max(b[byte]));
            assert_eq!(bytes(&one.joined(&other)), stronger);
            assert_eq!(one.covers(&other), a.iter().zip(&b).all(|(a, b)| a >= b), "{one:?} {other:?}");
            let clash = |(a, b): (&Option<RangeKind>, &Option<RangeKind>)| matches!((a, b), (Some(a), Some(b)) if (*a, *b) != (Shared, Shared));
            assert_eq!(one.in_the_way(&other).is_some(), a.iter().zip(&b).any(clash), "{one:?} {other:?}");
            for set in [&changed, &one.joined(&other)] {
                assert_eq!(RangeSet::from_parts(set.0.clone()).as_ref(), Some(set), "in order and joined");
            }
        }
    }
}
