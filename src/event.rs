use bytes::Bytes;
use ocf_comm::ping::PingChange;
use ocf_comm::{DownReason, KeyId, Lane, PathId, PathReason, PathState, Refusal};
use ocf_membership::partitionable::PartitionView;
use ocf_membership::{Claim, Evidence, Levels, NodeVotes, NonPrimary, ViewNumber};
use pils::{Instant, NodeId, NodeInstance};
use std::net::SocketAddr;

/// An event with its place in the one stream of this node's life.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// 1 for the first event of a life; no number is left out.
    pub number: u64,
    /// When it happened on the node's clock.
    pub at: Instant,
    /// What happened.
    pub event: NodeEvent,
}

/// What happens in groups that go on in any partition: a stream of its own. **It proves nothing about other partitions**, which may go on
/// with the same groups at the same time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PartitionEvent {
    /// The partition is another one: a barrier in its stream. A merge names the views it follows from and who came from each.
    View(Box<PartitionView>),
    /// What happens in its groups. Never [`ocf_groups::Event::View`]: [`PartitionEvent::View`] comes in its place.
    Group(ocf_groups::Event),
}

/// What a node tells its application, from all layers, in one order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A peer can be talked to.
    PeerUp(NodeInstance),
    /// A peer is gone.
    PeerDown {
        /// Who.
        peer: NodeInstance,
        /// Why.
        reason: DownReason,
    },
    /// A path to a peer changed its state. The peer itself is down only once no path is left.
    Path {
        /// To whom.
        peer: NodeInstance,
        /// Which path.
        path: PathId,
        /// The peer's address on it.
        address: SocketAddr,
        /// Its state now.
        state: PathState,
        /// Why.
        reason: PathReason,
    },
    /// A peer and this node refuse each other; an operator must mend it.
    Refused {
        /// The peer's node id, as configured or claimed.
        peer: NodeId,
        /// Where it was heard.
        address: SocketAddr,
        /// Why.
        reason: Refusal,
    },
    /// What goes to a peer is protected by fresh secrets under this cluster key.
    Renewed {
        /// Who.
        peer: NodeInstance,
        /// The cluster key.
        key: KeyId,
    },
    /// A peer that holds the key broke the protocol.
    Misbehaved {
        /// Who.
        peer: NodeInstance,
        /// The rule.
        rule: &'static str,
    },
    /// This node itself did not run for a while.
    Stalled {
        /// How late it was.
        late: core::time::Duration,
    },
    /// A host outside the cluster that is watched answers, or does no more.
    Ping(PingChange),
    /// A message for this node alone, sent with `send_to`.
    Direct {
        /// Who sent it.
        from: NodeInstance,
        /// In which lane it came.
        lane: Lane,
        /// The content.
        message: Bytes,
    },
    /// This node is outside the primary partition.
    NonPrimary(NonPrimary),
    /// This node was outside and is in the primary again: what it last was in, the primary that it comes into, and whether it
    /// keeps the state it had. The view follows.
    Merged {
        /// This node's last view.
        ours: ViewNumber,
        /// The newest primary before the coming view.
        primary: ViewNumber,
        /// True if it keeps its state.
        kept: bool,
    },
    /// This node's side has half of the votes. It asks the tie-breaker, or fences the others, and goes on if it may.
    TieAsked(Claim),
    /// This node's half of the votes may go on.
    TieWon {
        /// Who said so.
        evidence: Evidence,
        /// What the operator gave as reason; empty otherwise.
        reason: String,
    },
    /// Other votes, or other nodes, count, from the view on that came last.
    VotesChanged {
        /// The view that brought them.
        revision: u64,
        /// The votes as the quorum policy weighs them, by node.
        votes: Vec<NodeVotes>,
        /// How many of them a primary needs.
        quorum: u32,
    },
    /// This node and a peer are of builds that cannot be members of one view: the one that does not speak the level at which the cluster runs
    /// stays outside until it is upgraded. Told once for each life of a peer and each level.
    Incompatible {
        /// The other.
        peer: NodeInstance,
        /// The level that the cluster runs at.
        level: u32,
        /// What this node speaks.
        ours: Levels,
        /// What the peer speaks.
        theirs: Levels,
    },
    /// This node was a member, and an agreed view removed it from the set of nodes: it joins nothing until it is added again. End its
    /// program.
    Removed {
        /// The view that brought the set that it was told of.
        revision: u64,
        /// The nodes of that set with their votes.
        nodes: Vec<NodeVotes>,
    },
    /// Votes, or a set of nodes, that this node was told to change to did not come about in 30 s.
    VotesNotChanged {
        /// What was asked for.
        votes: Vec<NodeVotes>,
    },
    /// The lease is in doubt: do nothing that others must not do at the same time.
    Suspended,
    /// The lease is confirmed again.
    Resumed,
    /// Views of the primary partition and what happens in groups.
    Group(ocf_groups::Event),
    /// Views of this node's partition, whether a primary or not, and what happens in groups that go on in any partition. Only of a node that
    /// has such groups ([`NodeConfig::partition_groups`](crate::NodeConfig::partition_groups)).
    Partition(PartitionEvent),
    /// Resources.
    Resource(ocf_resource::Event),
    /// Fencing that this node carries out.
    Fencing(ocf_stonith::Event),
    /// An application of this machine that says again and again that it is well, or does no more.
    Application(ocf_resource::apphb::Event),
    /// An application failed that had asked for a reboot of this machine then. Nothing is done by itself.
    RebootWanted(ocf_resource::apphb::Application),
}
