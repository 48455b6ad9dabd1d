use core::fmt;
use pils::{NodeId, NodeInstance};
use std::sync::Arc;

/// A configured node and the weight of its voice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeVotes {
    /// The node.
    pub node: NodeId,
    /// Its votes. Zero makes a full member that never decides.
    pub votes: u32,
}

impl NodeVotes {
    /// Pairs a node with its votes.
    #[must_use]
    pub const fn new(node: NodeId, votes: u32) -> Self {
        Self { node, votes }
    }
}

/// Decides how many votes a primary partition needs. A pure function of the configuration: every node must come to
/// the same number.
///
/// The number must exceed half of all votes and must not exceed all of them; [`Config::check`](crate::Config::check)
/// refuses a policy that breaks this. Those who write one run `ocf_membership::testing::check_policy`.
pub trait QuorumPolicy: fmt::Debug + Send + Sync {
    /// The name by which a configuration chooses it, with its parameters: `majority`, `threshold:3`.
    fn name(&self) -> String;
    /// Votes that a primary needs among `nodes` (sorted by node, each node once).
    fn quorum(&self, nodes: &[NodeVotes]) -> u32;
}

/// More than half of all votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Majority;

impl QuorumPolicy for Majority {
    fn name(&self) -> String {
        "majority".to_owned()
    }

    fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
        total_votes(nodes) / 2 + 1
    }
}

/// A fixed number of votes, but never less than a majority and never more than there are.
///
/// For clusters that shall not go on with a bare majority, for example because the rest could not carry the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticThreshold(pub u32);

impl QuorumPolicy for StaticThreshold {
    fn name(&self) -> String {
        format!("threshold:{}", self.0)
    }

    fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
        self.0.clamp(total_votes(nodes) / 2 + 1, total_votes(nodes).max(1))
    }
}

/// Every vote there is: the primary stops when any voting node is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unanimous;

impl QuorumPolicy for Unanimous {
    fn name(&self) -> String {
        "unanimous".to_owned()
    }

    fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
        total_votes(nodes)
    }
}

/// The policy called `name` (`majority`, `unanimous`, `threshold:<votes>`), or `None` if there is none of that name.
#[must_use]
pub fn policy_by_name(name: &str) -> Option<Arc<dyn QuorumPolicy>> {
    match name {
        "majority" => Some(Arc::new(Majority)),
        "unanimous" => Some(Arc::new(Unanimous)),
        _ => {
            let votes = name.strip_prefix("threshold:")?.parse().ok()?;
            Some(Arc::new(StaticThreshold(votes)))
        }
    }
}

/// The votes of a cluster and how many of them a primary needs; travels in records and proposals.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct VoteConfig {
    /// Sorted by node, each node once.
    pub(crate) nodes: Vec<NodeVotes>,
    /// Votes that a primary needs.
    pub(crate) quorum: u32,
}

impl VoteConfig {
    /// Votes of `node`; zero if it is not configured.
    pub(crate) fn votes(&self, node: NodeId) -> u32 {
        self.nodes.iter().find(|n| n.node == node).map_or(0, |n| n.votes)
    }

    /// Sum of the votes of `instances`.
    pub(crate) fn sum(&self, instances: impl IntoIterator<Item = NodeInstance>) -> u32 {
        instances.into_iter().fold(0, |sum, i| sum.saturating_add(self.votes(i.node)))
    }

    /// True if every configured node is among `instances`.
    pub(crate) fn all_present(&self, instances: &[NodeInstance]) -> bool {
        self.nodes.iter().all(|n| instances.iter().any(|i| i.node == n.node))
    }
}

pub(crate) fn total_votes(nodes: &[NodeVotes]) -> u32 {
    nodes.iter().fold(0, |sum, n| sum.saturating_add(n.votes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(votes: [u32; 3]) -> Vec<NodeVotes> {
        (1..).map(NodeId::new).zip(votes).map(|(n, v)| NodeVotes::new(n, v)).collect()
    }

    #[test]
    fn policies_are_found_by_the_name_they_print() {
        for policy in [&Majority as &dyn QuorumPolicy, &Unanimous, &StaticThreshold(4)] {
            let found = policy_by_name(&policy.name()).expect("a built-in policy");
            assert_eq!(found.quorum(&three([2, 2, 1])), policy.quorum(&three([2, 2, 1])));
        }
        assert!(policy_by_name("threshold:x").is_none() && policy_by_name("coin").is_none());
    }

    #[test]
    fn a_threshold_below_a_majority_is_raised_to_it() {
        assert_eq!(StaticThreshold(1).quorum(&three([1, 1, 1])), 2);
        assert_eq!(StaticThreshold(3).quorum(&three([1, 1, 1])), 3);
        assert_eq!(StaticThreshold(9).quorum(&three([1, 1, 1])), 3);
    }
}
