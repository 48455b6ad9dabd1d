use crate::directory::Weighted;
use crate::wire::{Key, Outcome, Proof, ReportedLock, Value};
use crate::{ClientId, FencingToken, Flags, Mode, Remarks, Status};
use bytes::Bytes;
use core::time::Duration;
use pils::{Instant, NodeInstance};

/// A member of a [`ClusterView`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewMember {
    /// Which life of which node.
    pub instance: NodeInstance,
    /// Its share of the directory.
    pub weight: u16,
    /// Number of the view in which this instance joined for the last time.
    pub joined: u64,
}

/// An agreed view of the primary partition, from whoever provides membership.
///
/// Every node that installs `number` is given exactly the same value; numbers grow. A node may be told of a later view
/// without having been told of those before. An instance that was told [`Input::NonPrimary`] joins: the next view that it
/// is given says that it joined in a view later than the last one it saw. Another view is ignored. One that was told
/// [`Input::Dormant`] may be given either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Its number: the epoch of the lock manager.
    pub number: u64,
    /// Who is in it. This node is.
    pub members: Vec<ViewMember>,
    /// Who was in the primary view before, and with which share; empty for the first view of a cluster.
    pub previous: Vec<Weighted>,
    /// Who left an earlier primary and is not proven to act no more: all that the members of the one before name
    /// ([`Engine::unproven`](super::Engine::unproven)) as they agree on this one. More does no harm but to be fenced. Were it
    /// left out, those who join could go on without those who know, and grant what somebody still holds.
    pub unproven: Vec<NodeInstance>,
}

/// What arrives at the engine.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A message of another engine, in the order it was sent.
    Message {
        /// Who sent it.
        from: NodeInstance,
        /// The bytes. Not trusted to be well-formed.
        message: &'a [u8],
    },
    /// This node is in the primary partition, in this view, and its lease is confirmed.
    View(&'a ClusterView),
    /// This node is outside the primary: it holds no lock any more.
    NonPrimary,
    /// This node is outside the primary and may not act: its clients hold no lock any more. Perhaps nobody goes on without
    /// it, so it keeps what it masters and lists for others. The next view says whether it goes on with that, or joins.
    Dormant,
    /// The primary lease is in doubt: nothing is granted and no lock may be relied on until `Resumed` or a view.
    Suspended,
    /// The lease is confirmed again in the same view.
    Resumed,
    /// It is certain that the holders of this instance do nothing more under its locks.
    Proven {
        /// Which life of which node.
        instance: NodeInstance,
        /// By what.
        proof: Proof,
    },
}

/// How an operation on a lock ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The lock. It is gone if `held` is `None`.
    pub lock: u64,
    /// Whose it is.
    pub client: ClientId,
    /// How it ended.
    pub status: Status,
    /// What is held now.
    pub held: Option<Mode>,
    /// To show to what the lock protects.
    pub token: FencingToken,
    /// What is to be said beside it.
    pub remarks: Remarks,
    /// The value block, if it was asked for and due.
    pub value: Option<Value>,
}

/// What the engine wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send a message to another engine, in the urgent lane. It may be dropped only if the receiver dies.
    Send {
        /// To whom.
        to: NodeInstance,
        /// The bytes.
        message: Bytes,
    },
    /// Tell a client that its operation ended.
    Completed(Completed),
    /// Tell a client that its lock is in the way.
    Blocking {
        /// The lock.
        lock: u64,
        /// Whose it is.
        client: ClientId,
        /// The mode that is wanted.
        wanted: Mode,
        /// The signal ([`Ask::signal`]) of the first that waits for that mode; zero: it gave none, or waits no more.
        signal: u64,
    },
    /// Tell a client that its lock is lost: this node is outside the primary. It must stop at once.
    Lost {
        /// The lock.
        lock: u64,
        /// Whose it was.
        client: ClientId,
    },
    /// Tell a client that its lock was released by an operator's order: others have it soon. It must stop at once.
    Revoked {
        /// The lock.
        lock: u64,
        /// Whose it was.
        client: ClientId,
    },
    /// What became of an order that was given here.
    Reported {
        /// Which order.
        ticket: u64,
        /// What became of it. `None`: the view ended first, so it may have been carried out or not. Look again.
        outcome: Option<Outcome>,
    },
    /// Tell a client who is in the way of ranges that it asked about ([`Engine::test_range`](super::Engine::test_range)).
    Tested {
        /// What the question is called.
        lock: u64,
        /// Whose it is.
        client: ClientId,
        /// The first in the way.
        blocker: Option<crate::wire::RangeBlocker>,
    },
    /// Locks of this instance, or locks it may have had, stay in the way until it is proven dead.
    FenceWanted(NodeInstance),
    /// More was said than this node may keep waiting ([`Config::held_bytes_max`](super::Config::held_bytes_max)): it has
    /// given up everything, and takes part again when it has left the primary and joined anew.
    Overrun,
    /// The recovery of this epoch is over on every member.
    Recovered {
        /// The epoch.
        epoch: u64,
    },
}

/// A request for a new lock.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose it will be.
    pub client: ClientId,
    /// The resource.
    pub key: Key,
    /// The lock above it, if the resource is a child.
    pub parent: Option<u64>,
    /// What is asked for.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// The transaction that waits with it. `None`: its client.
    pub transaction: Option<u64>,
    /// Until when it may wait.
    pub deadline: Option<Instant>,
    /// What those are told that are in its way, also of its conversions. Zero: nothing.
    pub signal: u64,
}

/// An operation of this node that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The lock.
    pub lock: u64,
    /// Whose it is.
    pub client: ClientId,
    /// Its resource, or object.
    pub key: Key,
    /// What is held meanwhile.
    pub held: Option<Mode>,
    /// What is asked for.
    pub asked: Mode,
    /// For how long it has waited.
    pub age: Duration,
    /// Why.
    pub reason: WaitReason,
}

/// Why an operation waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// This node has no confirmed primary lease.
    WaitQuorum,
    /// The directory is being asked for the master.
    Lookup,
    /// The tree is being recovered, or moves to another master.
    Recovery,
    /// Locks of these instances are, or may be, in the way; they are not proven dead.
    WaitFence(Vec<NodeInstance>),
    /// Locks of others are in the way: those that hold what excludes it, then those that asked before it and must be served
    /// first. At most [`REPORTED_MAX`](crate::wire::REPORTED_MAX).
    BlockedBy(Vec<ReportedLock>),
    /// The master on that node has queued it, and was not asked behind whom: [`Engine::explain`](super::Engine::explain) does.
    AtMaster(NodeInstance),
}
