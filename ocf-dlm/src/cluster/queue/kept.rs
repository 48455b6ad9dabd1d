//! Grants that their nodes may keep although nobody there uses them, as their master sees them.

use super::{Effect, Effects, Entry, Queues};
use crate::Flags;
use crate::wire::Refusal;

impl Entry {
    /// It may be that nobody has it: its node was not asked yet, or has not answered.
    pub(crate) fn may_be_unused(&self) -> bool {
        self.held.is_some() && self.asked.is_none() && self.flags.has(Flags::KEEP)
    }

    /// It is not to wait, and waits for the word of who may keep what it asks for.
    pub(super) fn waits_for_word(&self) -> bool {
        self.asked.is_some() && self.flags.has(Flags::NOQUEUE)
    }
}

impl Queues {
    /// True if nothing keeps it, at that place of its queue (at the end, whatever its flags, if it is new), from being granted but what may be unused, and others who wait for that word.
    pub(super) fn may_become_free(&self, entry: &Entry, place: i64) -> bool {
        let Some(asked) = entry.asked else { return false };
        let mut holders = self.holders().filter(|e| e.who != entry.who && e.excludes(entry, asked));
        let ahead =
            |e: &&Entry| e.who != entry.who && (e.place < place || e.held.is_some() && entry.held.is_none());
        let queued = if entry.held.is_some() { &[][..] } else { &self.waiting };
        let mut queued = self.converting.iter().chain(queued).filter(ahead);
        holders.all(Entry::may_be_unused) && queued.all(Entry::waits_for_word)
    }

    /// Ends an operation that is not to wait, if it would. False if there is none.
    pub(super) fn refuse_one(&mut self, out: &mut Effects) -> bool {
        let hopeless = |e: &Entry| e.waits_for_word() && !self.may_become_free(e, e.place);
        let (waits, converts) =
            (self.waiting.iter().position(hopeless), self.converting.iter().position(hopeless));
        if let Some(at) = waits {
            let entry = self.waiting.remove(at);
            out.push((entry.who, Effect::Refused { op: entry.op, why: Refusal::NotQueued, held: None }));
        } else if let Some(at) = converts {
            let entry = self.converting.remove(at);
            self.granted.push(Entry { since: self.now, ..entry });
            self.refuse(self.granted.len() - 1, Refusal::NotQueued, out);
        } else {
            return false;
        }
        self.notify_anew();
        true
    }
}
