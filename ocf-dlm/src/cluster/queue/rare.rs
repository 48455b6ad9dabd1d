//! What few locks have: a pointer that is null costs the others nothing more.

use super::{Entry, Terms};
use crate::cluster::range_queue::EntryRanges;

/// The bytes of a lock that is not on the whole resource, and what those are told that are in its way.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Rare(Option<Box<Parts>>);

#[derive(Clone, Debug, Default, Hash)]
struct Parts {
    ranges: Option<EntryRanges>,
    /// Of the operation that waits.
    signal: u64,
}

impl Rare {
    pub(super) fn new(ranges: Option<EntryRanges>, signal: u64) -> Self {
        let any = ranges.is_some() || signal != 0;
        Self(any.then(|| Box::new(Parts { ranges, signal })))
    }

    /// The operation has ended: only what waits has a signal.
    pub(super) fn asks_no_more(&mut self) {
        let Some(parts) = &mut self.0 else { return };
        parts.signal = 0;
        if parts.ranges.is_none() {
            self.0 = None;
        }
    }
}

impl Entry {
    /// `None`: it is on the whole resource.
    pub(crate) fn ranges(&self) -> Option<&EntryRanges> {
        self.rare.0.as_ref()?.ranges.as_ref()
    }

    pub(crate) fn ranges_mut(&mut self) -> Option<&mut EntryRanges> {
        self.rare.0.as_mut()?.ranges.as_mut()
    }

    /// What those are told that are in the way of the operation that waits; zero: nothing.
    pub(super) fn signal(&self) -> u64 {
        self.rare.0.as_ref().map_or(0, |parts| parts.signal)
    }

    /// An operation begins.
    pub(super) fn ask_rare(&mut self, terms: &Terms<'_>) {
        if terms.ranges.is_none() && terms.signal == 0 {
            return self.rare.asks_no_more();
        }
        let parts = self.rare.0.get_or_insert_default();
        parts.signal = terms.signal;
        if let Some(asked) = terms.ranges {
            parts.ranges.get_or_insert_default().asked.clone_from(asked);
        }
    }
}
