use core::fmt;
use ocf_comm::{DownReason, PathId, PathReason, PathState};
use ocf_dlm::FencingToken;
use ocf_groups::{Guarantee, Position};
use ocf_membership::{Ballot, Levels, Member, ViewNumber};
use ocf_resource::{Action, Decision};
use ocf_stonith::AttemptId;
use pils::{NodeId, NodeInstance};
use std::sync::Arc;

/// What the cluster scenario writes into the history.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Record {
    /// Node communication says that a peer can be talked to.
    PeerUp(NodeInstance),
    /// Node communication says that a peer is gone.
    PeerDown(NodeInstance, DownReason),
    /// A path to a peer is in another state.
    Path(NodeInstance, PathId, PathState, PathReason),
    /// A view was installed.
    View(Arc<ViewRecord>),
    /// A life of a node speaks these levels.
    Speaks(Levels),
    /// A set of nodes with their votes counts from this view on.
    Set(u64, Vec<(NodeId, u32)>),
    /// The node is outside the primary partition.
    NonPrimary(ViewNumber),
    /// The node's lease is in doubt.
    Suspended,
    /// It is confirmed again.
    Resumed,
    /// The application's message, of this size, was accepted for sending.
    Sent(MessageId, Guarantee, usize),
    /// A message was delivered, and the application's log after it.
    Delivered(Position, MessageId, Guarantee, Log),
    /// What was delivered is not what was sent.
    Garbled(Position),
    /// The application offered its log to a joiner.
    StateOffered(Position, Log),
    /// The application took over another's log.
    StateTaken(Position, Log),
    /// The application was told that its log is stale.
    Reset,
    /// The manager decided.
    Decided {
        /// Which decision.
        decision: Decision,
        /// About what.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// To do what.
        action: Action,
    },
    /// A group cannot make progress, and why; or can again, with no text.
    Blocked(String),
    /// An agent was called.
    AgentCalled(Arc<str>, Action),
    /// A fence device was asked, in this attempt.
    FenceAsked(NodeInstance, AttemptId),
    /// A fence device gave the node that asked its answer: true if it proves the target's death.
    FenceAnswered(NodeInstance, AttemptId, bool),
    /// A fence request does not stand any more.
    FenceWithdrawn(NodeInstance),
    /// The group's state was lost with all who had it; the application begins anew.
    StateLost(Position),
    /// The application was granted the lock of this name.
    Locked(u8, FencingToken),
    /// It gives it back, or was told that it is lost.
    Unlocked(u8),
    /// The manager takes the target for dead.
    Fenced(NodeInstance),
    /// In the world: a machine has no access to what the cluster shares, from now on. What runs there does no harm.
    AccessTaken(NodeId),
    /// In the world: this life of a machine has access from now on.
    AccessGiven(NodeInstance),
    /// In the world: the resource runs on this machine from now on.
    Runs(Arc<str>),
    /// In the world: it does not any more.
    Ended(Arc<str>, Ending),
}

/// How a resource ended, in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Its agent stopped it.
    Stopped,
    /// It failed by itself.
    Failed,
    /// Its machine lost power.
    PowerLost,
}

/// An installed view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ViewRecord {
    /// Its number.
    pub number: ViewNumber,
    /// The ballot it was agreed in.
    pub ballot: Ballot,
    /// Its members.
    pub members: Vec<Member>,
    /// The members of the one before.
    pub previous: Vec<Member>,
    /// Votes that a primary needs.
    pub quorum: u32,
    /// The level at which its members talk to each other.
    pub level: u32,
    /// The application's log when it came, if the application was in step.
    pub log: Option<Log>,
}

impl ViewRecord {
    /// True if `instance` is a member.
    #[must_use]
    pub fn contains(&self, instance: NodeInstance) -> bool {
        self.members.iter().any(|m| m.instance == instance)
    }

    /// True if `instance` was a member of the view before and goes on in this one.
    #[must_use]
    pub fn continues(&self, instance: NodeInstance) -> bool {
        self.members.iter().any(|m| m.instance == instance && m.joined < self.number)
    }
}

/// A message of the workload. Numbers count from zero in each epoch; an epoch ends when the sender is told that its node
/// was outside the primary partition, because what it had sent may be lost then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Who sent it.
    pub sender: NodeInstance,
    /// In which of its epochs.
    pub epoch: u32,
    /// Which one.
    pub number: u64,
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}#{}", self.sender, self.epoch, self.number)
    }
}

/// The application's state: a fold of every message it took, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Log {
    /// Messages taken.
    pub count: u64,
    /// Their fold.
    pub digest: u64,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:08x}", self.count, self.digest >> 32)
    }
}
