use super::{Book, Id};
use ocf_dlm::Mode;

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
