use super::compatible::relied_on;
use super::domain::Repairs;
use super::{Book, Id, Seen};
use ocf_dlm::cluster::Completed;
use ocf_dlm::wire::Key;
use ocf_dlm::{Mode, Transfer};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// What a reader may be given as valid.
#[derive(Clone, Debug, Default)]
struct Truth {
    /// The last value written. None: a holder that could write has died since. Several: of the last writers some waited to
    /// convert with CONVDEADLK when they released, and it is not told whether they had gone down to NL before, and so wrote
    /// nothing.
    last: BTreeSet<u64>,
    /// There was a time without locks, so the resource may have begun anew, with zeros.
    zero: bool,
}

impl Truth {
    fn written(value: u64) -> Self {
        Self { last: BTreeSet::from([value]), zero: false }
    }
}

/// D4: a value block read is the last one written in PW or EX, or is said to be invalid.
#[derive(Debug, Default)]
pub(crate) struct Values {
    pub(super) repairs: Repairs,
    truths: BTreeMap<Key, Truth>,
}

impl Values {
    pub(super) fn completed(&mut self, book: &mut Book, before: &Seen, completed: &Completed) {
        let truth =
            self.truths.entry(before.key.clone()).or_insert_with(|| Truth { zero: true, ..Truth::default() });
        if let (Some(held), Some(mode)) = (before.held, completed.held)
            && before.pending.is_some_and(|(asked, _)| asked == mode)
            && completed.status == ocf_dlm::Status::Granted
            && Mode::transfer(Some(held), mode) == Transfer::Write
        {
            *truth = Truth::written(before.writes);
            self.repairs.written(&before.key);
        }
        let Some(value) = completed.value.filter(|_| !completed.remarks.value_invalid) else { return };
        let number = value.block.number();
        *book.coverage.entry("value read").or_default() += 1;
        // A lock that a writer tolerates may be granted while the write is on its way to the master.
        let tolerated = completed.held.is_none_or(|held| held <= Mode::Cr);
        let allowed = tolerated || (truth.zero && number == 0) || truth.last.contains(&number);
        if !allowed {
            let what = format!("{:?}: read {number}, truth {truth:?}", before.key);
            book.fail("D4", what);
        }
    }

    /// `held`: what the application could see that it held. It had gone down to NL if that is less than it was granted.
    pub(super) fn released(&mut self, seen: &Seen, held: Option<Mode>, value: u64) {
        if seen.lost || !held.is_some_and(Mode::is_writer) {
            return;
        }
        self.repairs.written(&seen.key);
        if relied_on(seen).is_some_and(Mode::is_writer) {
            self.truths.insert(seen.key.clone(), Truth::written(value));
        } else {
            self.truths.entry(seen.key.clone()).or_default().last.insert(value);
        }
    }

    /// A lock is gone: if it was the last one held, the master may have had none, and the resource begins anew.
    pub(super) fn counted(&mut self, book: &Book, key: &Key) {
        if book.locks.values().all(|seen| seen.key != *key || seen.held.is_none()) {
            self.truths.entry(key.clone()).or_default().zero = true;
        }
    }

    /// A node died: what it could write is in doubt.
    pub(super) fn doubt(&mut self, book: &Book, x: NodeInstance) {
        for (id, seen) in book.locks.range((x, 0)..=(x, u64::MAX)) {
            self.doubt_one(*id, seen);
        }
    }

    /// A lock is gone without its holder's doing: what it could write is in doubt.
    pub(super) fn doubt_one(&mut self, id: Id, seen: &Seen) {
        if relied_on(seen).is_some_and(Mode::is_writer) {
            self.truths.insert(seen.key.clone(), Truth::default());
            self.repairs.failed(id, &seen.key);
        }
    }

    /// It may be zero and valid from now on, if it is not written.
    pub(super) fn validating(&mut self, key: &Key) {
        self.truths.entry(key.clone()).or_default().zero = true;
    }
}
