//! How this node is given the access that it needs, and how important it is.

use super::{FENCE_AGAIN, Manager};
use crate::message::{Message, short};
use crate::state::{Access, Spot};
use crate::{Decision, Output};
use pils::{Instant, NodeId};

impl Manager {
    /// How important what runs on a node is: the priorities of the groups of which anything runs there, has failed there, or is being
    /// started or moved there; and one more for each of those of which anything is promoted there. A part of a group counts as all of
    /// it, and a copy as the only one: the other node would have to start it as well. `None` if it is no member. O(groups + resources of
    /// groups that have a priority).
    #[must_use]
    pub fn importance(&self, node: NodeId) -> Option<u64> {
        let (_, there) = self.state.nodes.iter().find(|(i, n)| n.member && i.node == node)?;
        let weight = |group: &crate::GroupConfig| {
            let spots = || group.resources.iter().filter_map(|r| there.spot(&r.name));
            let promoted = spots().any(|s| s.promoted);
            if spots().any(Spot::is_there) { u64::from(group.priority) + u64::from(promoted) } else { 0 }
        };
        Some(self.config.groups.iter().filter(|g| g.priority > 0).map(weight).sum())
    }

    /// True if nothing runs here, or may.
    #[must_use]
    pub fn runs_nothing(&self) -> bool {
        self.state.nodes.get(&self.me).is_none_or(|n| n.spots.values().all(Spot::is_clear))
    }

    /// True if this node was given the access that it needs, or needs none.
    #[must_use]
    pub fn has_access(&self) -> bool {
        self.is_member() && !self.state.lacks_access(self.me)
    }

    /// True if this very life was fenced, and is back: nothing runs here any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state.nodes.get(&self.me).is_some_and(|n| n.dead)
    }

    fn asked(&self) -> Option<Decision> {
        match self.state.nodes.get(&self.me)?.access {
            Access::Asked { decision, .. } => Some(decision),
            Access::Lacks | Access::Has => None,
        }
    }

    /// Has this node given its access, if that was decided.
    pub(super) fn take_access(&mut self) {
        if self.asked().is_some() && self.acts() {
            self.access_again = None;
            self.out.push_back(Output::GiveAccess);
        }
    }

    pub(super) fn on_access(&mut self, now: Instant, why: Option<&str>) {
        let Some(decision) = self.asked().filter(|_| self.acts()) else {
            self.stale += 1;
            return;
        };
        self.access_again = why.map(|_| now + FENCE_AGAIN);
        self.broadcast(&Message::Access { decision, why: why.map(short) });
    }

    pub(super) fn try_access_again(&mut self, now: Instant) {
        if self.access_again.is_some_and(|at| at <= now) {
            self.access_again = None;
            self.take_access();
        }
    }
}
