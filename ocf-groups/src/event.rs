use bytes::Bytes;
use core::fmt;
use ocf_comm::Lane;
use ocf_membership::{Ballot, Lag, Proposal, View, ViewNumber};
use pils::NodeInstance;
use std::sync::Arc;

/// What must hold before a message is delivered. Each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guarantee {
    /// Members that go on together deliver the same in a view, the messages of each sender in the order it sent them, whatever their
    /// guarantees ([`Event::Fifo`]). Nothing is said of the order between senders, so members may differ in it: for what needs no
    /// other order, such as measurements. A message is delivered when it arrives, one hop after it was sent, unless the same
    /// sender's messages before it wait for the order.
    ///
    /// In a view of level 1, which has members of an older build, it stands for `Agreed`.
    ///
    /// A member that joins is told what its node delivers after the join. The state it gets may contain some of that already:
    /// keep what FIFO messages say out of the state, or make it safe to be told twice.
    Fifo,
    /// All members deliver in one order.
    Agreed,
    /// And a quorum holds the message: if anyone delivers it, every member of the next primary does.
    Safe,
}

/// Place in the one ordered stream of a cluster. Positions grow along it, across views.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The view it was delivered in.
    pub view: ViewNumber,
    /// Number within the view; the first message has 1, and the view event itself 0.
    pub sequence: u64,
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Position {
    /// `v7.1042`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.view, self.sequence)
    }
}

/// A member of a group: several may live on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId {
    /// The node it lives on.
    pub instance: NodeInstance,
    /// Tells the members of one node apart; chosen by that node.
    pub local: u32,
}

/// What arrives at the groups core.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A groups message from a peer, with the memory it stands in so that content need not be copied.
    Message {
        /// Who sent it.
        from: NodeInstance,
        /// The bytes. Not trusted to be well-formed.
        message: &'a Bytes,
    },
    /// Membership: stop, and answer [`Output::Blocked`].
    Block(Ballot),
    /// Membership: enter this view together; answer [`Output::Flushed`] when done.
    Flush(Ballot, &'a Proposal),
    /// Membership: the view is installed.
    Installed(&'a View),
    /// Membership: this node is outside the primary partition. It stops and keeps what it has; the next view says whether it
    /// goes on with that or begins anew.
    NonPrimary,
    /// Membership: the lease is in doubt; deliver nothing.
    Suspended,
    /// Membership: the lease is confirmed again.
    Resumed,
}

/// What the groups core wants done, in this order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Output {
    /// Send the same bytes to each of these peers.
    Send {
        /// To whom; never empty, never this node.
        to: Arc<[NodeInstance]>,
        /// In which lane.
        lane: Lane,
        /// The bytes.
        message: Bytes,
    },
    /// Answer to [`Input::Block`].
    Blocked(Ballot, Bytes),
    /// Answer to [`Input::Flush`].
    Flushed(Ballot),
    /// Membership: put this member out of the primary ([`Consensus::evict`](ocf_membership::Consensus::evict)). Repeated if it is still there
    /// after as long again.
    Evict {
        /// Who.
        instance: NodeInstance,
        /// How it holds up this node.
        lag: Lag,
    },
    /// This node has the state of this view.
    Synced(ViewNumber),
    /// Tell the application.
    Event(Event),
}

/// What the groups core tells the application: one stream, in the same order at every member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message, ordered. Delivered to its sender too.
    Message {
        /// The group it was sent to.
        group: Arc<str>,
        /// Who sent it.
        sender: MemberId,
        /// Its place in the stream.
        position: Position,
        /// What was promised for it.
        guarantee: Guarantee,
        /// The content.
        payload: Bytes,
    },
    /// A message with [`Guarantee::Fifo`]. Delivered to its sender too. It has no place in the order: members may be told of it before
    /// and after different messages of others.
    Fifo {
        /// The group it was sent to.
        group: Arc<str>,
        /// Who sent it.
        sender: MemberId,
        /// The view it was sent and is delivered in.
        view: ViewNumber,
        /// Grows with each message of the sender's node in a view.
        number: u64,
        /// The content.
        payload: Bytes,
    },
    /// The members of a group that has a local member changed. Comes for the joiner itself too.
    Membership {
        /// The group.
        group: Arc<str>,
        /// Where in the stream the change stands.
        position: Position,
        /// All members now, most senior first.
        members: Vec<MemberId>,
        /// Who came.
        joined: Vec<MemberId>,
        /// Who went, by leaving or with its node.
        left: Vec<MemberId>,
    },
    /// A joiner needs the group's state **as of this point of the stream**: answer with `Groups::offer_state`, with
    /// everything delivered before this event and nothing after it. Others are not held up meanwhile.
    StateWanted {
        /// The group.
        group: Arc<str>,
        /// Who needs it.
        joiner: MemberId,
        /// The point it must reflect.
        position: Position,
    },
    /// The group's state for the local member that joined: replaces what it has. What comes after it in the stream
    /// continues from there. The first member of a group gets none.
    State {
        /// The group.
        group: Arc<str>,
        /// The local member it is for.
        member: MemberId,
        /// The point it reflects.
        position: Position,
        /// What another member offered.
        state: Bytes,
    },
    /// The local member waited for the group's state, and nobody is left who has it: it goes on without, as the first
    /// member of a group would.
    StateLost {
        /// The group.
        group: Arc<str>,
        /// The local member.
        member: MemberId,
        /// From here on.
        position: Position,
    },
    /// The local member's group went on without it (this node was outside the primary partition, or too much waited
    /// for the member's state): what it has is stale. It joins again by itself, and gets `State`; but not if it
    /// was leaving, then this is the end of its membership.
    Reset {
        /// The group.
        group: Arc<str>,
        /// The local member.
        member: MemberId,
    },
    /// A join was ordered but not carried out: there are as many groups, or members of this one, as the configuration
    /// allows. The local member is not a member.
    Refused {
        /// The group.
        group: Arc<str>,
        /// The local member that asked.
        member: MemberId,
    },
    /// This node was put out of the primary because the others had to wait for it ([`SlowMembers`](crate::SlowMembers)). Told as soon as it is
    /// known here, also while the node is outside. It comes back as a joiner, after a while.
    Evicted {
        /// The view from which on it is out.
        view: ViewNumber,
        /// How it held them up.
        lag: Lag,
    },
    /// A new view of the primary partition; a barrier in the stream.
    View(View),
    /// A send was refused with [`SendError::Full`]; there is room again.
    Writable,
}

/// Why a message was not accepted. Nothing was queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// This node is outside the primary partition; nothing can be ordered.
    #[error("this node is not in the primary partition")]
    NotPrimary,
    /// The member has not joined the group, or not yet.
    #[error("not a member of group {0:?}")]
    NotMember(Arc<str>),
    /// The provider does not offer this guarantee: see [`GroupPromises::strongest`](crate::GroupPromises::strongest), and send with
    /// that, if it is enough.
    #[error("this provider does not offer {0:?} delivery")]
    NotOffered(Guarantee),
    /// Too much is unstable (some member has not confirmed it) or queued; wait for `Writable`.
    #[error("window full: {queued} of {limit} bytes not yet held by every member")]
    Full {
        /// Bytes sent and not yet stable, and queued.
        queued: usize,
        /// The limit.
        limit: usize,
    },
    /// The message is larger than the configured maximum.
    #[error("message of {size} bytes is larger than the maximum of {limit}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
}
