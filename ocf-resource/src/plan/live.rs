//! Moves without a stop: from a node that hands over to one that takes over.
//!
//! Where it runs, `migrate_to`; when that is done, `migrate_from` where it goes to; when that is done, a stop where it was. From
//! the first of these on it counts as something that may run at both ends, so that whatever fails, both are stopped before it
//! is started anywhere.

use super::Scene;
use crate::Action;
use crate::state::{Node, Presence, Spot};
use pils::NodeInstance;
use std::sync::Arc;

/// What one end of a move has to do.
pub(super) enum Live {
    /// The other end is at it.
    Waits,
    /// Take over from there.
    TakesOver(NodeInstance),
    /// The move is over, or came to nothing: it is stopped here.
    Ends,
}

impl Scene<'_> {
    /// True if what runs here, and is to run on `target`, may go there without a stop: nothing of it is, or may be, anywhere
    /// else, and the target stands as firmly as this node. Nothing is handed over where fencing takes a node's access and lets it
    /// run on: its agent would go on handing over, to where that was stopped since.
    pub(super) fn can_go_live(&self, here: NodeInstance, spot: &Spot, target: Option<NodeInstance>) -> bool {
        let Some(target) = target.filter(|t| *t != here) else { return false };
        let member = self.state.nodes.get(&target).is_some_and(|n| n.member && !n.dead);
        self.config.migrate
            && self.config.resources.len() == 1
            && !self.is_many()
            && self.lack.is_none()
            && !self.whole.access.has(here.node)
            && matches!(spot.presence, Presence::Running(_))
            && spot.outdated.is_none()
            && member
            && !self.doomed.contains_key(&target)
            && self.state.nodes.iter().all(|(i, n)| *i == here || self.is_clear(n))
    }

    /// What an end of a move has to do, with nothing going on there.
    pub(super) fn plan_live(
        &self,
        here: NodeInstance,
        (name, spot): (&Arc<str>, &Spot),
        target: Option<NodeInstance>,
    ) -> Live {
        let Some(peer) = spot.peer else { return Live::Ends };
        let Some(node) = self.state.nodes.get(&peer).filter(|n| !n.dead) else { return Live::Ends };
        let Some(other) = node.spot(name) else { return Live::Ends };
        if spot.presence == Presence::Incoming && may_hand_over(node, other) {
            return Live::Waits;
        }
        // A change of the configuration may have come in between: nothing moves then any more.
        if !node.member || other.peer != Some(here) || self.is_many() {
            return Live::Ends;
        }
        let pending = other.pending.map(|(_, action)| action);
        match (&spot.presence, pending) {
            (Presence::Incoming, Some(Action::MigrateTo)) | (Presence::Handed, Some(Action::MigrateFrom)) => {
                Live::Waits
            }
            (Presence::Incoming, None) if other.presence == Presence::Handed && target == Some(here) => {
                Live::TakesOver(peer)
            }
            (Presence::Handed, None) if other.presence == Presence::Incoming && target == Some(peer) => {
                Live::Waits
            }
            _ => Live::Ends,
        }
    }
}

/// True if nothing tells whether its agent there is still handing over: a stop at the other end would come too early. It is told
/// by a look at it, which comes after, or by the fencing of the node.
const fn may_hand_over(node: &Node, there: &Spot) -> bool {
    matches!(there.presence, Presence::Unknown)
        || (!node.member && matches!(there.presence, Presence::Running(_)))
}
