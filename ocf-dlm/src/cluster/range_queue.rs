//! What byte ranges change in the queues of a resource. PROTOCOL.md, section 13.

use super::queue::{Entry, Holder, Queues};
use crate::range::{Range, RangeKind, RangeSet};
use crate::wire::RangeBlocker;
use crate::{ClientId, Mode};
use pils::NodeInstance;

/// The bytes of a lock that is not on the whole resource.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct EntryRanges {
    pub(crate) held: RangeSet,
    /// What an operation under way is to end with. Of the last one, if none is.
    pub(crate) asked: RangeSet,
}

impl Entry {
    /// True if what this holds keeps `other` from having `asked`. They are two locks.
    pub(super) fn excludes(&self, other: &Self, asked: Mode) -> bool {
        let Some(held) = self.held else { return false };
        match (self.ranges(), other.ranges()) {
            (Some(mine), Some(theirs)) => mine.held.in_the_way(&theirs.asked).is_some(),
            (Some(_) | None, _) => !held.is_compatible(asked),
        }
    }

    /// True if what is asked for is no more than what is held.
    pub(super) fn goes_down(&self, mode: Mode) -> bool {
        match self.ranges() {
            Some(ranges) => ranges.held.covers(&ranges.asked),
            None => self.held.is_some_and(|held| held.is_down(mode)),
        }
    }

    /// What was asked for is held.
    pub(super) fn take_ranges(&mut self) {
        if let Some(ranges) = self.ranges_mut() {
            ranges.held.clone_from(&ranges.asked);
        }
    }
}

impl Queues {
    /// True if a lock of ranges would wait, itself or through others, for itself. Only conversions can be in a circle: who
    /// holds nothing is in nobody's way.
    pub(super) fn is_range_deadlock(&self, start: &Entry) -> bool {
        let mut seen: Vec<Holder> = Vec::new();
        let mut next: Vec<&Entry> = vec![start];
        while let Some(entry) = next.pop() {
            let Some(asked) = entry.asked else { continue };
            for other in self.holders().filter(|e| e.who != entry.who && e.excludes(entry, asked)) {
                if other.who == start.who {
                    return true;
                }
                if other.asked.is_some() && !seen.contains(&other.who) {
                    seen.push(other.who);
                    next.push(other);
                }
            }
        }
        false
    }

    /// The first range in the way of `wanted` that is not of this client.
    pub(crate) fn range_blocker(
        &self,
        (node, client): (NodeInstance, ClientId),
        wanted: &RangeSet,
    ) -> Option<RangeBlocker> {
        let others = self.holders().filter(|e| e.who.lock == 0 || (e.who.node, e.client) != (node, client));
        let found = others.filter_map(|entry| {
            let (range, kind) = match entry.ranges() {
                Some(ranges) => ranges.held.in_the_way(wanted)?,
                None if entry.held.is_some_and(|held| !held.is_compatible(wanted.mode())) => {
                    (Range::WHOLE, RangeKind::Exclusive)
                }
                None => return None,
            };
            Some(RangeBlocker { node: entry.who.node, client: entry.client, range, kind })
        });
        found.min_by_key(|blocker| (blocker.range, blocker.node, blocker.client.raw()))
    }

    /// What a departed owner may have beside those that are known: each byte as strongly as they allow. `None` if the
    /// resource is not locked by ranges.
    pub(super) fn range_suspicion(&self) -> Option<EntryRanges> {
        let known = || self.entries().filter(|e| e.who.lock != 0).filter_map(Entry::ranges);
        known().next()?;
        let mut held = RangeSet::of(Range::WHOLE, RangeKind::Exclusive);
        for (without, left) in [(RangeKind::Shared, Some(RangeKind::Shared)), (RangeKind::Exclusive, None)] {
            for (range, kind) in known().flat_map(|ranges| ranges.held.as_slice()) {
                if *kind == without {
                    held.set(*range, left);
                }
            }
        }
        Some(EntryRanges { held, asked: RangeSet::default() })
    }
}
