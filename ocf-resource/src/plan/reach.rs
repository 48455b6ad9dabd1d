//! Which nodes a group leaves to others because those reach more of the world.

use super::Scene;
use crate::Score;
use pils::{NodeId, NodeInstance};

impl Scene<'_> {
    /// How many hosts a node reaches, if that counts for this group and is known.
    pub(super) fn reach(&self, node: NodeId) -> Option<u32> {
        self.config.reach?;
        self.state.reach.counts.get(&node).copied().filter(|_| !self.rules.ignore_reach)
    }

    /// What the hosts that a node reaches are worth.
    pub(super) fn reach_score(&self, node: NodeId) -> Score {
        let weight = self.config.reach.map_or(0, |reach| reach.weight.number());
        Score::new(i64::from(weight) * i64::from(self.reach(node).unwrap_or(0)))
    }

    /// Those of `fit`, nodes that can take the group, to which no other of them is ahead. Never none of several: the one that
    /// reaches the most stays. Whom an operator chose stays, too.
    pub(super) fn not_behind(&self, fit: &[NodeInstance]) -> Vec<NodeInstance> {
        let most = fit.iter().filter_map(|i| self.reach(i.node)).max();
        let (Some(reach), Some(most)) = (self.config.reach, most) else { return fit.to_vec() };
        let behind =
            |i: &NodeInstance| self.reach(i.node).is_some_and(|own| most >= own.saturating_add(reach.lead));
        fit.iter().copied().filter(|i| self.group.pin == Some(i.node) || !behind(i)).collect()
    }
}
