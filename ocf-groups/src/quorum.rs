//! Quorum of a group: enough of the nodes that shall run it have a member in it.
//!
//! The group lives in the primary partition, so the cluster has a quorum already; this asks whether *this group* has one, by any
//! policy that the cluster may have. A function of the ordered stream: equal at all members at each place.

use crate::{Event, MemberId};
use core::fmt;
use ocf_membership::{NodeVotes, QuorumPolicy};
use pils::NodeId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Counts the votes of the nodes that have a member in a group.
///
/// ```
/// use ocf_groups::GroupQuorum;
/// use ocf_membership::{Majority, NodeVotes};
/// use pils::NodeId;
/// let nodes = [1, 2, 3].map(|n| NodeVotes::new(NodeId::new(n), 1));
/// let quorum = GroupQuorum::new("database", nodes, Majority);
/// assert!(!quorum.is_met());
/// assert_eq!((quorum.votes(), quorum.needed()), (0, 2));
/// ```
pub struct GroupQuorum {
    group: Arc<str>,
    nodes: Vec<NodeVotes>,
    policy: Box<dyn QuorumPolicy>,
    present: BTreeSet<NodeId>,
    needed: u32,
}

impl GroupQuorum {
    /// Watches `group`, which these nodes shall run. Of a node that is named twice the first entry counts; a node that is not
    /// named has no vote.
    pub fn new(
        group: &str,
        nodes: impl IntoIterator<Item = NodeVotes>,
        policy: impl QuorumPolicy + 'static,
    ) -> Self {
        let mut nodes: Vec<NodeVotes> = nodes.into_iter().collect();
        nodes.sort_by_key(|n| n.node);
        nodes.dedup_by_key(|n| n.node);
        let needed = policy.quorum(&nodes);
        Self { group: Arc::from(group), nodes, policy: Box::new(policy), present: BTreeSet::new(), needed }
    }

    /// Takes what the core tells; returns what it is now, if that changed.
    pub fn handle(&mut self, event: &Event) -> Option<bool> {
        let before = self.is_met();
        match event {
            Event::Membership { group, members, .. } if *group == self.group => self.set_members(members),
            Event::Membership { .. }
            | Event::Message { .. }
            | Event::Fifo { .. }
            | Event::StateWanted { .. }
            | Event::State { .. }
            | Event::StateLost { .. }
            | Event::Reset { .. }
            | Event::Evicted { .. }
            | Event::Refused { .. }
            | Event::View(_)
            | Event::Writable => {}
        }
        let now = self.is_met();
        (now != before).then_some(now)
    }

    /// Takes the members from elsewhere: those of a machine, or of `Groups::members`. Several on a node count once.
    pub fn set_members(&mut self, members: &[MemberId]) {
        self.present = members.iter().map(|m| m.instance.node).collect();
    }

    /// True if there is one. Never with no votes at all.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.votes() >= self.needed.max(1)
    }

    /// Votes of the nodes that are in the group.
    #[must_use]
    pub fn votes(&self) -> u32 {
        let here = self.nodes.iter().filter(|n| self.present.contains(&n.node));
        here.fold(0, |sum, n| sum.saturating_add(n.votes))
    }

    /// Votes that are needed.
    #[must_use]
    pub const fn needed(&self) -> u32 {
        self.needed
    }
}

impl fmt::Debug for GroupQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {} votes ({})", self.group, self.votes(), self.needed, self.policy.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;
    use ocf_membership::{Majority, Unanimous};
    use pils::{Incarnation, NodeInstance};

    fn membership(group: &str, members: &[(u32, u32)]) -> Event {
        let id = |(n, local): &(u32, u32)| MemberId {
            instance: NodeInstance::new(NodeId::new(*n), Incarnation::new(u128::from(*n) << 96)),
            local: *local,
        };
        let members = members.iter().map(id).collect();
        let (joined, left) = (Vec::new(), Vec::new());
        Event::Membership { group: Arc::from(group), position: Position::default(), members, joined, left }
    }

    fn nodes(votes: &[u32]) -> Vec<NodeVotes> {
        (1..).zip(votes).map(|(n, votes)| NodeVotes::new(NodeId::new(n), *votes)).collect()
    }

    #[test]
    fn several_members_of_a_node_count_once_and_strangers_not_at_all() {
        let mut quorum = GroupQuorum::new("g", nodes(&[1, 1, 1]), Majority);
        assert_eq!(quorum.handle(&membership("g", &[(1, 0), (1, 1), (9, 0)])), None);
        assert_eq!(quorum.votes(), 1);
        assert_eq!(quorum.handle(&membership("other", &[(1, 0), (2, 0)])), None);
        assert_eq!(quorum.handle(&membership("g", &[(1, 0), (2, 0)])), Some(true));
        assert_eq!(quorum.handle(&membership("g", &[(2, 0)])), Some(false));
    }

    #[test]
    fn the_policy_and_the_weights_decide() {
        let mut quorum = GroupQuorum::new("g", nodes(&[3, 1, 1]), Majority);
        assert_eq!(quorum.handle(&membership("g", &[(1, 0)])), Some(true));
        let mut all = GroupQuorum::new("g", nodes(&[3, 1, 1]), Unanimous);
        assert_eq!(all.handle(&membership("g", &[(1, 0), (2, 0)])), None);
        assert_eq!(all.handle(&membership("g", &[(1, 0), (2, 0), (3, 0)])), Some(true));
        assert!(!GroupQuorum::new("g", nodes(&[]), Majority).is_met());
    }
}
