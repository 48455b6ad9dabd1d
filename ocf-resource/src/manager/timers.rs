//! When failures are forgotten.

use pils::{Instant, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Failures of a group on a node.
type Key = (Arc<str>, NodeId);

/// Which failures are to be forgotten, and when: each change and each question costs O(log failures).
#[derive(Debug, Default)]
pub(super) struct Expiries {
    /// Serial of the newest failure, and when.
    known: BTreeMap<Key, (u64, Instant)>,
    due: BTreeSet<(Instant, Key)>,
}

impl Expiries {
    /// Those of a group are these from now on: those that are new, or newer than was known, at this time.
    pub(super) fn arm(&mut self, group: &Arc<str>, wanted: &BTreeMap<NodeId, u64>, at: Instant) {
        let from = (Arc::clone(group), NodeId::new(0));
        let of_group = self.known.range(from..).take_while(|((name, _), _)| name == group);
        let gone: Vec<Key> = of_group
            .filter(|((_, node), _)| !wanted.contains_key(node))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.forget(&key);
        }
        for (node, serial) in wanted {
            let key = (Arc::clone(group), *node);
            if self.known.get(&key).is_none_or(|(known, _)| known != serial) {
                self.set(key, *serial, at);
            }
        }
    }

    pub(super) fn set(&mut self, key: Key, serial: u64, at: Instant) {
        self.forget(&key);
        self.due.insert((at, key.clone()));
        self.known.insert(key, (serial, at));
    }

    fn forget(&mut self, key: &Key) {
        if let Some((_, at)) = self.known.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
    }

    /// One whose time has come, with its serial.
    pub(super) fn due(&self, now: Instant) -> Option<(Key, u64)> {
        let (_, key) = self.due.first().filter(|(at, _)| *at <= now)?;
        Some((key.clone(), self.known.get(key)?.0))
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}
