//! Who is given access, and who may run nothing without.

use super::{Doomed, Scene};
use crate::Config;
use crate::state::{Access, Node, State};
use pils::{NodeId, NodeInstance};
use std::sync::Arc;

/// Members that are to be given their access now: those that need it, of which it is known that nothing runs there. Costs O(members)
/// once all have it.
pub(super) fn plan_access(config: &Config, state: &State, doomed: &Doomed<'_>) -> Vec<NodeInstance> {
    let bare = state.living().filter(|(i, n)| n.access == Access::Lacks && config.access.has(i.node));
    let may = bare.filter(|(i, n)| !doomed.contains_key(i) && n.spots.values().all(|s| s.is_clear()));
    may.map(|(i, _)| i).collect()
}

impl Scene<'_> {
    /// True if the node may run nothing yet: and why not, if giving it its access was tried.
    pub(super) fn lacks_access(&self, id: NodeId, node: &Node) -> Option<Option<Arc<str>>> {
        if self.rules.ignore_access || !self.whole.access.has(id) {
            return None;
        }
        match &node.access {
            Access::Has => None,
            Access::Lacks => Some(None),
            Access::Asked { last, .. } => Some(last.clone()),
        }
    }
}
