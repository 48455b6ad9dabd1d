use super::{Book, Id, Violation};
use crate::world::Node;
use ocf_dlm::Mode;
use ocf_dlm::wire::Key;
use pils::NodeInstance;
use std::collections::BTreeMap;

/// D8: at rest, what the clients hold and what the masters have granted is the same.
pub(super) fn settled(book: &Book, nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
    let mut granted: BTreeMap<Id, (Key, Option<Mode>)> = BTreeMap::new();
    for node in nodes.values() {
        for (key, lock) in node.engine.mastered_locks() {
            granted.insert((lock.who.node, lock.who.lock), (key, lock.held));
        }
    }
    for (id, seen) in book.locks.iter().filter(|(_, seen)| !seen.lost) {
        match granted.remove(id) {
            Some((key, held)) if key == seen.key && held == seen.held => {}
            other => {
                let what = format!("{id:?}: the client has {seen:?}, its master {other:?}");
                return Err(Violation { rule: "D8", what });
            }
        }
    }
    for ((x, lock), seen) in book.locks.iter().filter(|(_, seen)| !seen.lost) {
        let orphan = nodes.get(x).is_some_and(|node| node.engine.is_orphan(*lock));
        if orphan != seen.orphan {
            let what = format!("{x} {lock}: an orphan there is {orphan}, and it is {seen:?}");
            return Err(Violation { rule: "D8", what });
        }
    }
    // What is kept belongs to nobody.
    granted.retain(|(x, lock), _| nodes.get(x).is_none_or(|node| !node.engine.is_kept(*lock)));
    match granted.first_key_value() {
        None => Ok(()),
        Some(left) => {
            Err(Violation { rule: "D8", what: format!("a master has {left:?}, which nobody holds") })
        }
    }
}
