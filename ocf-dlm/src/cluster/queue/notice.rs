//! Who is told that it is in the way, and what comes with that.

use super::{Effect, Effects, Entry, Holder, Queues, Terms};
use crate::{Flags, Mode};

impl Entry {
    /// Tells it that it is in the way of `asked`, with the signal of who asks, unless it was told as much since its last grant.
    pub(super) fn tell(&mut self, (asked, signal): (Mode, u64), out: &mut Effects) {
        let differs = |told: Mode| matches!((told, asked), (Mode::Cw, Mode::Pr) | (Mode::Pr, Mode::Cw));
        let mut told = Mode::ALL.into_iter().filter(|mode| self.notified & (1 << mode.raw()) != 0);
        if self.flags.has_any(Flags::NOTIFY | Flags::KEEP)
            && !told.any(|told| told >= asked && !differs(told))
        {
            self.notified |= 1 << asked.raw();
            out.push((self.who, Effect::Blocking { wanted: asked, signal }));
        }
    }
}

impl Queues {
    /// What came with the first request that waits for the mode and that `holder` is in the way of.
    pub(super) fn signal_for(&self, holder: &Entry, asked: Mode) -> u64 {
        let mut waits = self.converting.iter().chain(&self.waiting);
        waits.find(|e| e.asked == Some(asked) && holder.excludes(e, asked)).map_or(0, Entry::signal)
    }

    /// What came with the request that waits last, if one waits.
    pub(crate) fn last_signal(&self) -> Option<u64> {
        self.waiting.last().map(Entry::signal)
    }

    /// Tells the granted locks that are in the way of what waits, each of the highest mode.
    pub(super) fn tell_in_the_way(&mut self, out: &mut Effects) {
        let Self { granted, converting, waiting, .. } = self;
        for entry in granted {
            let waits = converting.iter().chain(&*waiting);
            let wanted = waits.filter_map(|other| {
                let asked = other.asked.filter(|asked| entry.excludes(other, *asked))?;
                Some((asked, other.signal()))
            });
            // Of several that ask for the mode, the first.
            if let Some(wanted) = wanted.reduce(|most, next| if next.0 > most.0 { next } else { most }) {
                entry.tell(wanted, out);
            }
        }
    }

    /// Tells the granted locks, and those that convert if a request was refused, that are in the way of what is asked for.
    pub(super) fn notify(&mut self, asked: &Terms<'_>, by: Holder, refused: bool, out: &mut Effects) {
        let converting = self.converting.iter_mut().take(if refused { usize::MAX } else { 0 });
        for entry in self.granted.iter_mut().chain(converting) {
            let in_the_way = match (entry.ranges(), asked.ranges) {
                (Some(mine), Some(theirs)) => mine.held.in_the_way(theirs).is_some(),
                (Some(_) | None, _) => entry.held.is_some_and(|held| !held.is_compatible(asked.mode)),
            };
            if entry.who != by && in_the_way {
                entry.tell((asked.mode, asked.signal), out);
            }
        }
    }

    /// A wait ended ungranted: if it was the last, the next one is told of anew.
    pub(super) fn notify_anew(&mut self) {
        if self.converting.is_empty() && self.waiting.is_empty() {
            self.granted.iter_mut().for_each(|entry| entry.notified = 0);
        }
    }
}
