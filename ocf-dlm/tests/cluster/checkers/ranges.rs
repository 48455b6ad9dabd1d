use super::{Book, Id, Violation};
use crate::ranges::BYTES;
use crate::world::Node;
use ocf_dlm::cluster::Completed;
use ocf_dlm::range::{RangeKind, RangeSet};
use ocf_dlm::wire::Key;
use ocf_dlm::{FencingToken, Status};
use pils::NodeInstance;
use std::collections::BTreeMap;

/// D1 for bytes: no two owners, those that may still be alive included, ever hold conflicting bytes. An owner holds what it
/// held until it is told of a grant or gives up, also while it waits for more.
pub(super) fn completed(book: &mut Book, id: Id, completed: &Completed) {
    let Some(seen) = book.locks.get_mut(&id) else { return };
    seen.held = completed.held;
    let key = seen.key.clone();
    let Some((held, then)) = &mut seen.ranges else { return };
    if completed.held.is_none() {
        *held = RangeSet::default();
    } else if completed.status == Status::Granted {
        held.clone_from(then);
    }
    if completed.held.is_some_and(|mode| mode != held.mode()) {
        let what = format!("{id:?} is told {completed:?} and has {held:?}");
        book.fail("D1", what);
        return;
    }
    let mine = held.clone();
    let clash =
        book.locks.iter().filter(|(other, o)| **other != id && o.key == key).find_map(|(other, o)| {
            let theirs = &o.ranges.as_ref()?.0;
            theirs.in_the_way(&mine).map(|range| (other, range, o.lost))
        });
    if let Some((other, range, lost)) = clash {
        let what = format!("{id:?} holds {mine:?} while {other:?} (lost: {lost}) holds {range:?} of {key:?}");
        book.fail("D1", what);
    }
}

/// D8 for bytes: what was granted and not given up is held, at the owner and at the master, unless the owner was told.
pub(super) fn settled(book: &Book, nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
    let mut granted: BTreeMap<Id, RangeSet> = BTreeMap::new();
    for node in nodes.values() {
        let ranges = node.engine.mastered_ranges().into_iter();
        granted.extend(ranges.map(|(_, who, held)| ((who.node, who.lock), held)));
    }
    for (id, seen) in book.locks.iter().filter(|(_, seen)| !seen.lost) {
        let Some((held, _)) = &seen.ranges else { continue };
        let own = nodes.get(&id.0).and_then(|node| node.engine.lock_ranges(id.1));
        if granted.get(id) != Some(held) || own != Some(held) {
            let what = format!("{id:?}: has {held:?}, its node {own:?}, its master {:?}", granted.get(id));
            return Err(Violation { rule: "D8", what });
        }
    }
    Ok(())
}

/// D5 for bytes: who is granted a byte has a greater token than whoever wrote it before. Grants of other bytes may be told in any order.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    last: BTreeMap<(Key, u64), FencingToken>,
}

impl Tokens {
    pub(super) fn completed(&mut self, book: &mut Book, id: Id, completed: &Completed) {
        let Some(seen) = book.locks.get(&id).filter(|_| completed.status == Status::Granted) else { return };
        let (Some((held, _)), key, token) = (&seen.ranges, &seen.key, completed.token) else { return };
        let mut late = None;
        // The last stands for all that follow.
        for byte in (0..BYTES).chain([u64::MAX]) {
            let at = held.as_slice().iter().find(|(range, _)| range.first() <= byte && byte <= range.last());
            let Some((_, kind)) = at else { continue };
            let last = self.last.entry((key.clone(), byte)).or_default();
            let writes = *kind == RangeKind::Exclusive;
            if token < *last || (writes && token == *last) {
                late = Some(format!("{id:?} byte {byte} {kind:?} of {key:?}: {token} after {last}"));
            }
            if writes {
                *last = token;
            }
        }
        if let Some(what) = late {
            book.fail("D5", what);
        }
    }
}
