mod policies;
mod sites;
mod standing;

pub use policies::{
    AutoTieBreaker, Majority, StaticThreshold, TieNode, TwoNode, Unanimous, With, policy_by_name,
};
pub use sites::BySite;
pub(crate) use standing::of_votes;
pub use standing::{Standing, standing};

use bytes::Bytes;
use core::fmt;
use pils::{NodeId, NodeInstance};

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

/// What an even split means: a side that has exactly half of the votes, and no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvenSplit {
    /// Both halves stop.
    #[default]
    Stops,
    /// A half goes on if the tie-breaker grants it ([`Output::AskTie`](crate::Output::AskTie)). Safe if the tie-breaker keeps
    /// the rules of [`GrantRegister`](crate::GrantRegister).
    Asks,
    /// A half goes on if every member of the last primary that is not in it has certainly ended: it said so itself, an
    /// obituary says so, or it was fenced ([`Output::AskTie`](crate::Output::AskTie), answered once the fencing is confirmed).
    /// **Only as safe as the fencing.** Needs [`Rules::wait_for_all`].
    Fences,
}

/// What a policy asks for beside a number of votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// A restarted node has no vote until a living primary admits it or every configured node is present, whatever its
    /// record says.
    pub wait_for_all: bool,
    /// What a side with exactly half of the votes does.
    pub even_split: EvenSplit,
}

/// Decides how many votes a primary partition needs. A pure function of the configuration: every node must come to
/// the same number.
///
/// The number must exceed half of all votes and must not exceed all of them; [`Config::check`](crate::Config::check)
/// refuses a policy that breaks this. Those who write one run `ocf_membership::testing::check_policy`.
pub trait QuorumPolicy: fmt::Debug + Send + Sync {
    /// The name by which a configuration chooses it, with its parameters: `majority`, `threshold:3`.
    fn name(&self) -> String;
    /// Votes that a primary needs among `nodes` (sorted by node, each node once; already weighed by [`Self::weigh`]).
    fn quorum(&self, nodes: &[NodeVotes]) -> u32;
    /// The weights that this policy counts instead of the configured votes, for the same nodes in the same order. Who has
    /// votes gets some, who has none gets none, and all together must be less than 2^20. Default: the votes.
    fn weigh(&self, nodes: &[NodeVotes]) -> Vec<NodeVotes> {
        nodes.to_vec()
    }
    /// What it asks for beside that. Default: nothing.
    fn rules(&self) -> Rules {
        Rules::default()
    }
}

/// The votes of a cluster and how many of them a primary needs; travels in records and proposals.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct VoteConfig {
    /// The number of the view that brought it; of one from a file, what the file says.
    pub(crate) revision: u64,
    /// Sorted by node, each node once.
    pub(crate) nodes: Vec<NodeVotes>,
    /// Votes that a primary needs.
    pub(crate) quorum: u32,
    /// How nodes that were added while the cluster ran are reached, as far as that was said; sorted by node, all of them in `nodes`.
    pub(crate) contacts: Vec<(NodeId, Bytes)>,
    /// Of the first view that has these: what was in force before.
    pub(crate) before: Option<Box<Self>>,
}

impl VoteConfig {
    /// What the policy makes of `nodes` (sorted); `None` if nobody could have a quorum, or two sides at once.
    pub(crate) fn of(policy: &dyn QuorumPolicy, nodes: &[NodeVotes], revision: u64) -> Option<Self> {
        let nodes = policy.weigh(nodes);
        let (quorum, total) = (policy.quorum(&nodes), total_votes(&nodes));
        let safe = quorum > total / 2 && quorum <= total;
        safe.then_some(Self { revision, nodes, quorum, ..Self::default() })
    }

    /// Without what was only so in one view: a half that was allowed to go on, what was in force before.
    pub(crate) fn whole(&self) -> Self {
        let quorum = self.quorum.max(total_votes(&self.nodes) / 2 + 1);
        Self { quorum, before: None, ..self.clone() }
    }

    /// With what `former`, and somebody who added a node, say of how its nodes are reached.
    pub(crate) fn with_contacts(self, former: &Self, added: Option<&(NodeId, Bytes)>) -> Self {
        let known = former.contacts.iter().filter(|(node, _)| added.is_none_or(|(new, _)| new != node));
        let mut contacts: Vec<(NodeId, Bytes)> =
            known.chain(added).filter(|(node, _)| self.lists(*node)).cloned().collect();
        contacts.sort_unstable();
        Self { contacts, ..self }
    }

    /// How `node` is reached, if somebody said so.
    pub(crate) fn contact(&self, node: NodeId) -> Bytes {
        let of = |list: &Self| list.contacts.iter().find(|(n, _)| *n == node).map(|(_, at)| at.clone());
        of(self).or_else(|| of(self.before.as_ref()?)).unwrap_or_default()
    }

    /// True if a quorum is the same in both.
    pub(crate) fn counts_like(&self, other: &Self) -> bool {
        let (a, b) = (self.whole(), other.whole());
        (a.nodes, a.quorum) == (b.nodes, b.quorum)
    }

    /// True if `node` is in the set.
    pub(crate) fn lists(&self, node: NodeId) -> bool {
        self.nodes.iter().any(|n| n.node == node)
    }

    /// True if `nodes` (sorted) are the set.
    pub(crate) fn same_nodes(&self, nodes: &[NodeVotes]) -> bool {
        self.nodes.iter().map(|n| n.node).eq(nodes.iter().map(|n| n.node))
    }

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
