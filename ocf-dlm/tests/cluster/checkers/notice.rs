use super::{Book, Id};
use ocf_dlm::Mode;
use ocf_dlm::wire::Key;
use std::collections::{BTreeMap, BTreeSet};

/// D7: a notice goes to a lock that is held in a mode that is in the way.
pub(super) fn notified(book: &mut Book, id: Id, wanted: Mode) {
    let Some(seen) = book.locks.get(&id) else { return };
    match seen.held {
        // It was lowered or converted while the notice was on its way.
        Some(held) if held.is_compatible(wanted) => {
            *book.coverage.entry("late notice").or_default() += 1;
        }
        Some(_) => *book.coverage.entry("notice in the way").or_default() += 1,
        None => {
            let what = format!("{id:?} holds nothing and is asked to make way for {wanted}");
            book.fail("D7", what);
        }
    }
}

/// D7: what comes with a notice is what came with a request for that mode of that resource.
#[derive(Debug, Default)]
pub(super) struct Signals {
    known: BTreeMap<u64, (Key, BTreeSet<Mode>)>,
    of: BTreeMap<Id, u64>,
}

impl Signals {
    pub(super) fn asked(&mut self, id: Id, key: &Key, (mode, signal): (Mode, u64)) {
        self.of.insert(id, signal);
        self.known.insert(signal, (key.clone(), BTreeSet::from([mode])));
    }

    pub(super) fn converting(&mut self, id: Id, mode: Mode) {
        if let Some((_, modes)) = self.of.get(&id).and_then(|signal| self.known.get_mut(signal)) {
            modes.insert(mode);
        }
    }

    pub(super) fn told(&self, book: &mut Book, id: Id, (wanted, signal): (Mode, u64)) {
        let Some(seen) = book.locks.get(&id) else { return };
        if signal == 0 {
            // Of an object's bytes, or who asked waits no more.
            *book.coverage.entry("notice without a signal").or_default() += 1;
            return;
        }
        *book.coverage.entry("signal told").or_default() += 1;
        let known = self.known.get(&signal);
        if known.is_none_or(|(key, modes)| *key != seen.key || !modes.contains(&wanted)) {
            let what = format!("{id:?} of {:?} hears {signal} with {wanted}: {known:?}", seen.key);
            book.fail("signal", what);
        }
    }
}
