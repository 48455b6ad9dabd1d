//! What a side of a partition may do, as a function of the configuration alone.

use super::{EvenSplit, NodeVotes, QuorumPolicy, total_votes};
use core::fmt;
use pils::NodeId;

/// What the votes of one side of a partition are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Too few: it stops.
    Short,
    /// Exactly half, and the policy has an answer to that: it goes on if the tie-breaker, or fencing, says so.
    Tie(EvenSplit),
    /// A quorum: it goes on.
    Quorum,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short | Self::Tie(EvenSplit::Stops) => "stops",
            Self::Tie(EvenSplit::Asks) => "asks the tie-breaker",
            Self::Tie(EvenSplit::Fences) => "fences the others first",
            Self::Quorum => "goes on",
        })
    }
}

/// What `policy` lets the nodes in `side` do while none of the other `nodes` can be reached, if all of them were members of
/// the last primary and remember it. `nodes` as in [`Config::nodes`](crate::Config::nodes).
///
/// ```
/// use ocf_membership::{EvenSplit, NodeVotes, Standing, TwoNode, standing};
/// use pils::NodeId;
/// let nodes = [1, 2].map(|n| NodeVotes::new(NodeId::new(n), 1));
/// assert_eq!(standing(&TwoNode, &nodes, &[NodeId::new(2)]), Standing::Tie(EvenSplit::Fences));
/// ```
#[must_use]
pub fn standing(policy: &dyn QuorumPolicy, nodes: &[NodeVotes], side: &[NodeId]) -> Standing {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    let nodes = policy.weigh(&nodes);
    let votes = nodes.iter().filter(|n| side.contains(&n.node)).map(|n| n.votes).sum();
    of_votes(votes, policy.quorum(&nodes), total_votes(&nodes), policy.rules().even_split)
}

/// What `votes` of `total` are worth if a primary needs `quorum`.
pub(crate) fn of_votes(votes: u32, quorum: u32, total: u32, even_split: EvenSplit) -> Standing {
    if votes >= quorum {
        Standing::Quorum
    } else if votes > 0 && votes.checked_mul(2) == Some(total) && even_split != EvenSplit::Stops {
        Standing::Tie(even_split)
    } else {
        Standing::Short
    }
}
