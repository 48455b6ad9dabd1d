use super::{Book, Id, Seen};
use ocf_dlm::cluster::Completed;
use ocf_dlm::{Flags, Mode};

/// D1: whoever is told of a grant is compatible with every other holder, and with holders that may still be alive.
pub(super) fn completed(book: &mut Book, id: Id, completed: &Completed) {
    let Some(seen) = book.locks.get_mut(&id) else { return };
    seen.held = completed.held;
    let key = seen.key.clone();
    let Some(mode) = completed.held else { return };
    let other = book.locks.iter().find(|(other, o)| {
        **other != id && o.key == key && relied_on(o).is_some_and(|held| !held.is_compatible(mode))
    });
    if let Some((other, o)) = other {
        let what =
            format!("{id:?} holds {mode} while {other:?} holds {:?} (lost: {}) of {key:?}", o.held, o.lost);
        book.fail("D1", what);
    }
}

/// The mode that the application relies on. PR and CW do not contain each other: who asks to go from one to the other
/// gives up the first, and has the second when it is told. With CONVDEADLK it may have gone down to NL meanwhile.
pub(super) fn relied_on(seen: &Seen) -> Option<Mode> {
    match (seen.held, seen.pending) {
        (Some(_), Some((_, flags))) if flags.has(Flags::CONVDEADLK) => Some(Mode::Nl),
        (Some(Mode::Pr), Some((Mode::Cw, _))) | (Some(Mode::Cw), Some((Mode::Pr, _))) => Some(Mode::Cr),
        (held, _) => held,
    }
}
