use super::{Book, Id, Seen, Violation};
use crate::world::Node;
use ocf_dlm::Flags;
use ocf_dlm::cluster::Completed;
use pils::NodeInstance;
use std::collections::BTreeMap;

/// D6: a completion belongs to a request that has not ended.
pub(super) fn completed(book: &mut Book, id: Id, completed: &Completed) {
    match book.locks.get_mut(&id) {
        Some(seen) if seen.pending.is_some() => seen.pending = None,
        // A grant can come within the call that asked for it: it is judged when the call has returned.
        None => {}
        Some(seen) => {
            let what = format!("{id:?} {seen:?} ended once more: {completed:?}");
            book.fail("D6", what);
        }
    }
}

/// D6: what is not to wait never does.
pub(super) fn watch(book: &Book, nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
    let refuses = |seen: &&Seen| seen.pending.is_some_and(|(_, flags)| flags.has(Flags::NOQUEUE));
    for ((x, lock), seen) in book.locks.iter().filter(|(_, seen)| !seen.lost && refuses(seen)) {
        let state = nodes.get(x).and_then(|node| node.engine.lock_state(*lock));
        if let Some(place) = state.and_then(|state| state.place) {
            let what = format!("{x} {lock}: {:?} waits at {place} and is not to wait", seen.pending);
            return Err(Violation { rule: "D6", what });
        }
    }
    Ok(())
}

/// D6: when nobody is in the way for good, every request has ended.
pub(super) fn settled(book: &Book, nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
    for ((x, lock), seen) in book.locks.iter().filter(|(_, seen)| !seen.lost) {
        if let (Some(pending), Some(node)) = (seen.pending, nodes.get(x)) {
            let why = node.engine.wait_reason(*lock);
            let known = nodes.values().flat_map(|node| node.engine.mastered_locks());
            let queue: Vec<_> = known.filter(|(key, _)| *key == seen.key).map(|(_, lock)| lock).collect();
            let key = &seen.key;
            let what = format!("{x} {lock}: {pending:?} on {key:?} waits for ever: {why:?} in {queue:?}");
            return Err(Violation { rule: "D6", what });
        }
    }
    Ok(())
}
