use crate::ConfigError;
use pils::NodeId;
use pils::wire::ParseError;

/// Why a [`Consensus`](crate::Consensus) could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NewError {
    /// The configuration is wrong: everything that is.
    #[error("configuration: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<ConfigError>),
    /// This node is not in its own configuration.
    #[error("{0} is not among the configured nodes")]
    NotConfigured(NodeId),
    /// The record of an earlier life cannot be used. Never start without it unless the operator says that it is lost.
    #[error("view record: {0}")]
    Record(#[from] RecordError),
}

/// Why a view record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It does not start like a view record.
    #[error("not a view record")]
    NotARecord,
    /// It was written by another version.
    #[error("version {found} is not the version {known} that this node reads")]
    Version {
        /// Version in the record.
        found: u8,
        /// Version that is read.
        known: u8,
    },
    /// Its checksum does not match: it is damaged or torn.
    #[error("checksum does not match: damaged or only partly written")]
    Checksum,
    /// It belongs to another node.
    #[error("belongs to {0}")]
    OtherNode(NodeId),
    /// It has the right checksum and still does not parse.
    #[error(transparent)]
    Malformed(#[from] ParseError),
}

/// Why the votes were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VotesError {
    /// The nodes are not those of the set.
    #[error("name all nodes that are in the set and no others: one without votes has 0")]
    OtherNodes,
    /// A configuration with these votes would be refused.
    #[error("with these votes: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<ConfigError>),
    /// A node that forgets its views would forget the votes too, and count the old ones after a restart.
    #[error("nodes must remember their views to change votes while they run: make them durable")]
    Volatile,
    /// This node is in no primary, or its lease is not confirmed.
    #[error("only an active member of the primary changes votes")]
    NotPrimary,
    /// An order that this node was given before is still under way.
    #[error("another change of votes is under way: wait for its event")]
    Busy,
    /// The node to add is in the set.
    #[error("{0} is in the set of nodes already")]
    Listed(NodeId),
    /// What says how the node to add is reached is too long.
    #[error("the address of the node has {bytes} bytes, at most {most} are kept: give fewer addresses")]
    ContactTooLong {
        /// Its length.
        bytes: usize,
        /// The most that is kept.
        most: usize,
    },
    /// The node to remove is not in the set.
    #[error("{0} is not in the set of nodes")]
    NotListed(NodeId),
    /// The node to remove is a member, or can be talked to: it could act.
    #[error("{0} is a member or can be talked to: have it leave first, or fence it")]
    StillMember(NodeId),
    /// Nothing shows that the node to remove has ended.
    #[error("nothing shows that {0} has ended: fence it, or confirm that it is off")]
    NotEnded(NodeId),
    /// The policy counts other votes than those that were given, so they cannot be told apart from one node to the next.
    #[error(
        "policy {policy} weighs votes, so nodes cannot tell which were given and the set of nodes is fixed while they run: choose a \
         policy that counts votes as they are, such as majority+tie-breaker, or restart all nodes with a list that has the change"
    )]
    Weighed {
        /// The policy's name.
        policy: String,
    },
    /// The members of this view would have no quorum of these votes.
    #[error("the present members would have no quorum of these votes: give them more, or wait for others")]
    NoQuorum,
}

/// Why an operator's decision of an even split was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OverrideError {
    /// The quorum policy stops both halves: there is nothing to decide. Choose one with `+tie-breaker`, or `two-node`.
    #[error("the quorum policy knows no even split that could be decided: use +tie-breaker, or two-node")]
    NoTies,
    /// The reason is empty.
    #[error("say why: the reason is recorded")]
    NoReason,
    /// The reason is too long.
    #[error("the reason has {bytes} bytes, at most {most} are kept")]
    ReasonTooLong {
        /// Its length.
        bytes: usize,
        /// The most that is kept.
        most: usize,
    },
    /// This node is in the primary and acts: there is nothing to decide.
    #[error("this node is in the primary already")]
    Primary,
}
