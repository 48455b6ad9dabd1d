use crate::{
    Ballot, Claim, Evidence, Grant, Levels, NodeVotes, NonPrimary, Proposal, Verdict, View, ViewNumber,
};
use bytes::Bytes;
use ocf_comm::{DownReason, Lane};
use pils::{NodeId, NodeInstance};

/// Names one write of the view record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistToken(pub u64);

/// What arrives at the consensus core.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// Node communication: the peer can be talked to.
    Up(NodeInstance),
    /// Node communication: the peer is gone.
    Down(NodeInstance, DownReason),
    /// A membership message from a peer.
    Message {
        /// Who sent it.
        from: NodeInstance,
        /// The bytes. Not trusted to be well-formed.
        message: &'a [u8],
    },
    /// The record written by [`Output::Persist`] is on stable storage.
    Persisted(PersistToken),
    /// The record could not be written: the node must not accept the view, and steps down.
    PersistFailed(PersistToken),
    /// The layer above has stopped, as [`Output::Block`] asked, and this is the state it would enter a new view with.
    Blocked {
        /// The ballot of the request.
        ballot: Ballot,
        /// Opaque; travels in [`Proposal::states`].
        state: Bytes,
    },
    /// The layer above holds and has delivered everything it owes in its old view, as [`Output::Flush`] asked.
    Flushed {
        /// The ballot of the request.
        ballot: Ballot,
    },
    /// The layer above has the state of this view (at once for one who was there before, after state transfer for a
    /// joiner). Until then this node does not count as one that remembers.
    Synced(ViewNumber),
    /// All whom the layer above knows to have left a primary and does not know to have ended; sorted. It replaces what was said
    /// before. To be told after each [`Event::Installed`] (what its view names, and who left in it, included), and whenever it
    /// changes. The next view names them ([`View::unproven`](crate::View::unproven)), so that who joins in it knows, too.
    /// A layer that does not care never tells it.
    Unproven(&'a [NodeInstance]),
    /// The answer to [`Output::AskTie`].
    Tie {
        /// [`Claim::ballot`].
        ballot: Ballot,
        /// The answer.
        verdict: Verdict,
    },
    /// How many hosts outside the cluster this node watches, and how many of them it reaches. In an even split a half that
    /// reaches fewer than it watches waits for [`Config::tie_delay`](crate::Config::tie_delay), and one that reaches none of
    /// them claims nothing. Until this is told, there are none.
    Reach {
        /// How many it reaches.
        hosts: u32,
        /// How many it watches.
        of: u32,
    },
}

/// What the consensus core wants done, in this order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Output {
    /// Send a membership message. Dropping it is allowed if the peer is down.
    Send {
        /// To whom.
        to: NodeInstance,
        /// In which lane.
        lane: Lane,
        /// The bytes.
        message: Bytes,
    },
    /// Replace the durable view record, then report [`Input::Persisted`]. Records must reach the disk in the order of
    /// the outputs: a newer one is never replaced by an older one.
    Persist {
        /// To name in the report.
        token: PersistToken,
        /// The whole record.
        record: Bytes,
    },
    /// A view change begins: the layer above delivers nothing beyond what it holds, queues new sends, and answers
    /// [`Input::Blocked`]. A later `Block` with a higher ballot replaces this one.
    Block {
        /// To name in the answer.
        ballot: Ballot,
    },
    /// The next view is proposed: the layer above fetches what it misses of its old view, delivers through the cut
    /// that follows from [`Proposal::states`], and answers [`Input::Flushed`]. Only sent to a node that was a member
    /// of the previous primary as the same instance. A later `Block` or `Flush` replaces it.
    Flush {
        /// To name in the answer.
        ballot: Ballot,
        /// What is proposed.
        proposal: Proposal,
    },
    /// This node's half has exactly half of the votes: ask the tie-breaker, or fence [`Claim::absent`] (as
    /// [`Rules::even_split`](crate::Rules::even_split) says), and report [`Input::Tie`]. Granted by one who keeps the rules of
    /// [`GrantRegister`](crate::GrantRegister), or once all are confirmed to be off. No answer within
    /// [`Config::tie_timeout`](crate::Config::tie_timeout) counts as none.
    AskTie(Claim),
    /// The claim of this ballot is wanted no more: stop what was begun for it, such as fencing.
    WithdrawTie(Ballot),
    /// Tell the tie-breaker that this view was agreed. It may be lost.
    NoteTie(Grant),
    /// The set of nodes is another than before, or than the configuration says: be able to talk to all of these, and refuse to talk to
    /// those that were removed.
    Peers {
        /// The whole set, and that before it as long as either may be agreed; without this node, sorted.
        peers: Vec<Contact>,
        /// Nodes that were certainly in the set and certainly are no more.
        removed: Vec<NodeId>,
    },
    /// Tell the layers above.
    Event(Event),
}

/// How a node of the set is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Which node.
    pub node: NodeId,
    /// What was said when it was added ([`Consensus::add_node`](crate::Consensus::add_node)). Empty: nothing; the node is in the
    /// configuration, or known otherwise.
    pub address: Bytes,
}

/// What the consensus core tells the layers above.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This node is in the primary partition, in this view. What was delivered before belongs to the old view.
    Installed(View),
    /// This node is outside the primary partition. What it was delivered in the last primary stands, but others may
    /// have gone on without it. The layer above stops and keeps what it has: it may still be asked by `Block` and `Flush`,
    /// and on the next `Installed` it goes on if the view says that it joined before, and begins anew if it joins.
    NonPrimary(NonPrimary),
    /// Follows `Installed` on a node that was told to be outside since it was in a view: two histories have become one. Its
    /// parents are this node's last view and the primary that it comes into.
    Merged {
        /// This node's last view before.
        ours: ViewNumber,
        /// The newest primary before the view that was installed; the same as `ours` if nobody had gone on.
        primary: ViewNumber,
        /// True if this node goes on with the state it had; false if it takes that of the others.
        kept: bool,
    },
    /// The primary lease is not confirmed by a quorum (any more): no upcall, no lock grant, nothing that others must
    /// not do at the same time, until `Resumed` or the next `Installed`. The view is unchanged.
    Suspended,
    /// The lease is confirmed again in the same view.
    Resumed,
    /// Other votes, or other nodes, are in force from the view on that was installed last: by [`Consensus::set_votes`],
    /// [`Consensus::add_node`], [`Consensus::remove_node`], by
    /// [`Config::last_man_standing`], or because this node was away when they were changed. Told once in each life, at its first view
    /// that counts by others than the configuration says.
    ///
    /// [`Consensus::set_votes`]: crate::Consensus::set_votes
    /// [`Consensus::add_node`]: crate::Consensus::add_node
    /// [`Consensus::remove_node`]: crate::Consensus::remove_node
    /// [`Config::last_man_standing`]: crate::Config::last_man_standing
    VotesChanged {
        /// The view that brought them.
        revision: u64,
        /// The votes as the policy weighs them, sorted by node.
        votes: Vec<NodeVotes>,
        /// How many of them a primary needs.
        quorum: u32,
    },
    /// What this node was told by [`Consensus::set_votes`](crate::Consensus::set_votes), to add or to remove a node did not come about in 30 s. It may still, if a
    /// ballot for it is under way; the votes in force are in the snapshot.
    VotesNotChanged {
        /// What was asked for.
        votes: Vec<NodeVotes>,
    },
    /// This node was a member, and is not in the set of nodes any more: an agreed view removed it. It joins nothing until it is added
    /// again; its program should end. Nothing it holds counts.
    Removed {
        /// The revision of the set that this node was told of.
        revision: u64,
        /// The nodes of that set, sorted.
        nodes: Vec<NodeVotes>,
    },
    /// This node and a peer cannot be members of one view: the cluster runs at a level that one of them does not speak. The one
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
    /// This node's half of an even split may go on; a view follows unless somebody goes down meanwhile.
    TieWon {
        /// In which ballot.
        ballot: Ballot,
        /// Who said so.
        evidence: Evidence,
        /// What the operator gave as reason; empty otherwise.
        reason: String,
    },
}
