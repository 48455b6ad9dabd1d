use super::Id;
use crate::domains::SPACE;
use crate::world::Node;
use ocf_dlm::cluster::TreeState;
use ocf_dlm::wire::Key;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// D11: what a failure has made invalid is told to a collector, as long as a member lives that knew of the resource; and
/// what became invalid after it was collected is not taken for repaired.
///
/// A member knows of a resource that masters it, lists it, or has a lock of it that a master knows; and, when another is lost,
/// still has it when it comes to the next view.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    /// Resources whose last writer failed, with the number of that failure.
    due: BTreeMap<Key, u64>,
    failures: u64,
    /// Whose failure was noted: that of a dead node is when it dies, though its masters note it with the proof.
    noted: BTreeSet<Id>,
    changed: bool,
    /// Members that have not come to a view since another was lost: what they know of counts once they do.
    behind: BTreeSet<NodeInstance>,
}

impl Repairs {
    pub(super) fn failed(&mut self, id: Id, key: &Key) {
        if !self.noted.insert(id) {
            return;
        }
        if key.path.is_empty() && *key != Key::collector(SPACE) {
            self.failures += 1;
            self.due.insert(key.clone(), self.failures);
            self.changed = true;
        }
    }

    /// It has a value again.
    pub(super) fn written(&mut self, key: &Key) {
        self.due.remove(key);
    }

    /// How many failures there were until now.
    pub(crate) const fn failures(&self) -> u64 {
        self.failures
    }

    /// What was collected when there had been so many failures may be taken for repaired.
    pub(crate) fn repaired(&mut self, names: &BTreeSet<Key>, failures: u64) {
        self.due.retain(|key, failure| *failure > failures || !names.contains(key));
    }

    /// Forgets what no member knows of; after each failure and each loss of a member.
    pub(crate) fn excuse(&mut self, nodes: &BTreeMap<NodeInstance, Node>, lost: bool) {
        if lost {
            self.behind = nodes.keys().copied().collect();
        }
        if !core::mem::take(&mut self.changed) && !lost {
            return;
        }
        self.keep_known(nodes);
    }

    /// Before a member handles a view: what it has given back since another was lost it does not tell the next master of.
    pub(crate) fn comes_to_view(&mut self, at: NodeInstance, nodes: &BTreeMap<NodeInstance, Node>) {
        if self.behind.remove(&at) {
            self.keep_known(nodes);
        }
    }

    fn keep_known(&mut self, nodes: &BTreeMap<NodeInstance, Node>) {
        self.due.retain(|key, _| nodes.values().any(|node| !node.is_outside() && knows(node, key)));
    }

    pub(crate) fn due(&self) -> impl Iterator<Item = &Key> {
        self.due.keys()
    }
}

fn knows(node: &Node, key: &Key) -> bool {
    let engine = &node.engine;
    let told = |lock: u64| engine.lock_state(lock).is_some_and(|s| s.held.is_some() || s.place.is_some());
    engine.directory().any(|(name, _)| name == key.tree)
        || engine.trees().any(|tree| tree.name == key.tree && tree.state == TreeState::Here)
        || engine.local_locks().any(|(lock, _, of)| of.tree == key.tree && told(lock))
}
