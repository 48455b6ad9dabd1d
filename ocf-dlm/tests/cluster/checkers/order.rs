use super::{Id, Violation};
use crate::world::Node;
use ocf_dlm::wire::Key;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// D3: the order of those who wait, as far as their own nodes have been told it, never changes.
#[derive(Debug, Default)]
pub(crate) struct Order {
    last: BTreeMap<Key, Vec<Id>>,
}

impl Order {
    pub(super) fn watch(&mut self, nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
        let mut now: BTreeMap<Key, Vec<Id>> = BTreeMap::new();
        let newest = nodes.values().map(|node| node.engine.epoch()).max().unwrap_or_default();
        for node in nodes.values() {
            let snapshot = node.engine.snapshot();
            if !(snapshot.active && snapshot.recovered && snapshot.epoch == newest) {
                continue;
            }
            for (key, lock) in node.engine.mastered_locks() {
                let id = (lock.who.node, lock.who.lock);
                let told = nodes.get(&id.0).and_then(|n| n.engine.lock_state(id.1)).and_then(|s| s.place);
                if lock.held.is_none() && told == Some(lock.place) {
                    now.entry(key).or_default().push(id);
                }
            }
        }
        for (key, line) in now {
            let before = self.last.get(&key).cloned().unwrap_or_default();
            let both: BTreeSet<Id> = before.iter().filter(|id| line.contains(id)).copied().collect();
            let was: Vec<&Id> = before.iter().filter(|id| both.contains(id)).collect();
            let is: Vec<&Id> = line.iter().filter(|id| both.contains(id)).collect();
            if was != is {
                let what = format!("{key:?}: waited as {was:?}, waits as {is:?}");
                return Err(Violation { rule: "D3", what });
            }
            self.last.insert(key, line);
        }
        Ok(())
    }
}
