//! The policies of this crate, and the names by which a configuration chooses them.

use super::{BySite, EvenSplit, NodeVotes, QuorumPolicy, Rules, total_votes};
use core::fmt;
use pils::NodeId;
use std::sync::Arc;

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

/// Which node decides an even split for [`AutoTieBreaker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TieNode {
    /// The one with the lowest id of those that have votes.
    Lowest,
    /// The one with the highest id of those that have votes.
    Highest,
    /// This one.
    Node(NodeId),
}

impl fmt::Display for TieNode {
    /// `lowest`, `highest`, or the number of the node.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lowest => f.write_str("lowest"),
            Self::Highest => f.write_str("highest"),
            Self::Node(node) => write!(f, "{}", node.raw()),
        }
    }
}

/// A majority, and of two halves the one that has a certain node.
///
/// It counts every vote twice and gives that node one more, so that no split is even: safe for the same reason as a
/// majority, without any device. The other half never goes on, not even when the node that decides is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoTieBreaker(pub TieNode);

impl QuorumPolicy for AutoTieBreaker {
    fn name(&self) -> String {
        format!("auto-tie-breaker:{}", self.0)
    }

    fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
        total_votes(nodes) / 2 + 1
    }

    fn weigh(&self, nodes: &[NodeVotes]) -> Vec<NodeVotes> {
        let mut voters = nodes.iter().filter(|n| n.votes > 0).map(|n| n.node);
        let tie = match self.0 {
            TieNode::Lowest => voters.min(),
            TieNode::Highest => voters.max(),
            TieNode::Node(node) => voters.find(|n| *n == node),
        };
        let weigh = |n: &NodeVotes| {
            let more = u32::from(tie == Some(n.node));
            NodeVotes::new(n.node, n.votes.saturating_mul(2).saturating_add(more))
        };
        nodes.iter().map(weigh).collect()
    }
}

/// Two nodes, of which either may go on alone: once the other has certainly ended, by its own word or by fencing.
///
/// A node that restarts waits for the other (or for the primary that the other is), so the two do not fence each other in
/// turn. Only as safe as the fencing: see [`EvenSplit::Fences`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TwoNode;

impl QuorumPolicy for TwoNode {
    fn name(&self) -> String {
        "two-node".to_owned()
    }

    fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
        total_votes(nodes) / 2 + 1
    }

    fn rules(&self) -> Rules {
        Rules { wait_for_all: true, even_split: EvenSplit::Fences }
    }
}

/// A policy with more rules: `majority+tie-breaker`, `auto-tie-breaker:lowest+wait-for-all`.
#[derive(Clone, Debug)]
pub struct With {
    policy: Arc<dyn QuorumPolicy>,
    more: Rules,
}

impl With {
    /// `policy`, which also waits for all and asks in an even split as `more` says.
    #[must_use]
    pub fn new(policy: Arc<dyn QuorumPolicy>, more: Rules) -> Self {
        Self { policy, more }
    }
}

impl QuorumPolicy for With {
    fn name(&self) -> String {
        let mut name = self.policy.name();
        if self.more.even_split == EvenSplit::Asks {
            name.push_str("+tie-breaker");
        }
        if self.more.wait_for_all {
            name.push_str("+wait-for-all");
        }
        name
    }

    fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
        self.policy.quorum(nodes)
    }

    fn weigh(&self, nodes: &[NodeVotes]) -> Vec<NodeVotes> {
        self.policy.weigh(nodes)
    }

    fn rules(&self) -> Rules {
        let own = self.policy.rules();
        Rules {
            wait_for_all: own.wait_for_all || self.more.wait_for_all,
            even_split: own.even_split.max(self.more.even_split),
        }
    }
}

/// The policy called `name`, or `None` if there is none of that name.
///
/// `majority`, `unanimous`, `threshold:<votes>`, `auto-tie-breaker:lowest`, `:highest` or `:<node>`, `two-node`, `sites:1,2/3,4/5` ([`BySite`]); each
/// with `+wait-for-all` and, where an even split asks nobody else, `+tie-breaker`.
///
/// ```
/// use ocf_membership::{EvenSplit, policy_by_name};
/// let policy = policy_by_name("majority+tie-breaker+wait-for-all").expect("a policy");
/// assert!(policy.rules().wait_for_all && policy.rules().even_split == EvenSplit::Asks);
/// assert!(policy_by_name("two-node+tie-breaker").is_none(), "it fences instead");
/// ```
#[must_use]
pub fn policy_by_name(name: &str) -> Option<Arc<dyn QuorumPolicy>> {
    let mut parts = name.split('+');
    let policy = simple(parts.next()?)?;
    let mut more = Rules::default();
    for part in parts {
        match part {
            "wait-for-all" => more.wait_for_all = true,
            "tie-breaker" if policy.rules().even_split == EvenSplit::Stops => {
                more.even_split = EvenSplit::Asks;
            }
            _ => return None,
        }
    }
    Some(if more == Rules::default() { policy } else { Arc::new(With::new(policy, more)) })
}

fn simple(name: &str) -> Option<Arc<dyn QuorumPolicy>> {
    if let Some(votes) = name.strip_prefix("threshold:") {
        return Some(Arc::new(StaticThreshold(votes.parse().ok()?)));
    }
    if let Some(sites) = name.strip_prefix("sites:") {
        return Some(Arc::new(BySite::parse(sites)?));
    }
    if let Some(node) = name.strip_prefix("auto-tie-breaker:") {
        let node = match node {
            "lowest" => TieNode::Lowest,
            "highest" => TieNode::Highest,
            id => TieNode::Node(NodeId::new(id.parse().ok()?)),
        };
        return Some(Arc::new(AutoTieBreaker(node)));
    }
    match name {
        "majority" => Some(Arc::new(Majority)),
        "unanimous" => Some(Arc::new(Unanimous)),
        "two-node" => Some(Arc::new(TwoNode)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(votes: [u32; 3]) -> Vec<NodeVotes> {
        (1..).map(NodeId::new).zip(votes).map(|(n, v)| NodeVotes::new(n, v)).collect()
    }

    #[test]
    fn policies_are_found_by_the_name_they_print() {
        let names = [
            "majority",
            "unanimous",
            "threshold:4",
            "two-node",
            "auto-tie-breaker:lowest",
            "auto-tie-breaker:highest",
            "auto-tie-breaker:2",
            "majority+tie-breaker",
            "majority+wait-for-all",
            "majority+tie-breaker+wait-for-all",
            "auto-tie-breaker:lowest+wait-for-all",
            "sites:1,2/3,4/5",
            "sites:1/2,3+tie-breaker",
        ];
        for name in names {
            assert_eq!(policy_by_name(name).expect("a built-in policy").name(), name);
        }
        for name in ["threshold:x", "coin", "", "majority+", "two-node+tie-breaker", "auto-tie-breaker:best"]
        {
            assert!(policy_by_name(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_threshold_below_a_majority_is_raised_to_it() {
        assert_eq!(StaticThreshold(1).quorum(&three([1, 1, 1])), 2);
        assert_eq!(StaticThreshold(3).quorum(&three([1, 1, 1])), 3);
        assert_eq!(StaticThreshold(9).quorum(&three([1, 1, 1])), 3);
    }

    #[test]
    fn the_node_that_decides_a_tie_changes_nothing_else() {
        // Against the rule as one would say it: more than half, or half and the node.
        let tie = AutoTieBreaker(TieNode::Node(NodeId::new(2)));
        for votes in [[1, 1, 1], [2, 1, 1], [1, 2, 1], [3, 2, 1], [1, 1, 0], [4, 4, 1]] {
            let (nodes, weighed) = (three(votes), tie.weigh(&three(votes)));
            for side in 0_u32..8 {
                let sum = |list: &[NodeVotes]| -> u32 {
                    (0_usize..3).filter(|i| side & 1 << i != 0).map(|i| list[i].votes).sum()
                };
                let (own, all) = (2 * sum(&nodes), total_votes(&nodes));
                let said = own > all || own == all && side & 2 != 0;
                assert_eq!(sum(&weighed) >= tie.quorum(&weighed), said, "{votes:?}, side {side:b}");
            }
        }
    }
}
