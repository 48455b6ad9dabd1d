//! Membership and groups on a running corosync: for clusters that have one, and adopt the layers above it first.
//!
//! [`OverCpg`] is a [`GroupProvider`](crate::GroupProvider): its messages are ordered by one closed process group (CPG) of corosync,
//! its views are the configurations of that group while corosync's quorum service says that the ring is quorate. What corosync does
//! not do is not promised ([`Membership::view_promises`](ocf_membership::Membership::view_promises),
//! [`GroupService::group_promises`](crate::GroupService::group_promises)): no lease, no memory over restarts, no [`Guarantee::Safe`](crate::Guarantee).
//! The protocol and what is promised line by line: PROTOCOL.md of this crate, section 15.
//!
//! * [`CpgGroups`]: the protocol, as a sans-IO core that anybody can simulate.
//! * [`Cpg`]: what it needs of corosync, as a seam; [`OverCpg`] runs the core on one.
//! * `Corosync` (feature `corosync`): on the libraries of corosync, by the crate `rust-corosync`. Building programs and tests with it
//!   needs Debian's `libcpg-dev`, `libquorum-dev`, `libvotequorum-dev`, `libcmap-dev` and `libcfg-dev`.

#[cfg(feature = "corosync")]
mod libraries;
mod plan;
mod protocol;
mod provider;
mod wire;

#[cfg(feature = "corosync")]
pub use libraries::{Corosync, CorosyncError, Libraries};
#[cfg(feature = "testing")]
pub use protocol::CpgSabotage;
pub use protocol::{CpgGroups, Stats};
pub use provider::{Cpg, OverCpg, Sent};

use bytes::Bytes;
use ocf_membership::{NodeVotes, ViewNumber};
use pils::NodeId;

/// A process in the process group, as corosync names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// The node, by the `nodeid` of `corosync.conf`.
    pub node: NodeId,
    /// The process, as that node sees it.
    pub pid: u32,
}

/// Names a ring of corosync. No two rings that a node was in have the same, as corosync keeps the sequence on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId {
    /// Grows with each ring.
    pub sequence: u64,
    /// The node that formed it.
    pub representative: NodeId,
}

/// Why a process is in the process group no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It said that it leaves.
    Left,
    /// Its node is not in the ring any more.
    NodeDown,
    /// Its connection to corosync ended: it died, or was dropped.
    ProcessDown,
}

/// What the quorum service says of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingQuorum {
    /// Which ring.
    pub ring: RingId,
    /// True if it has a quorum.
    pub quorate: bool,
    /// Votes that are needed.
    pub needed: u32,
    /// Votes of the nodes in it, sorted.
    pub votes: Vec<NodeVotes>,
}

/// What corosync tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// The process group has another configuration; in order with its messages.
    Configuration {
        /// Who is in it now.
        members: Vec<Process>,
        /// Who was, and why it is no more.
        left: Vec<(Process, Departure)>,
    },
    /// The ring that the configuration of the process group belongs to; after the configuration, before any message that was sent
    /// after it. Not told of the ring in which this process joined.
    Ring(RingId),
    /// The quorum service; in no order with the process group.
    Quorum(RingQuorum),
    /// A message of the process group, in the one order.
    Message {
        /// Who sent it.
        from: Process,
        /// The bytes. Not trusted to be well-formed.
        message: Bytes,
    },
    /// Corosync is gone. Nothing will be told any more.
    Lost,
}

/// What the core wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send this to the process group, this process included.
    Multicast(Bytes),
    /// Keep this number where it lives as long as this node's corosync does, before what follows is carried out.
    Remember(ViewNumber),
    /// Tell the layers above of membership.
    Membership(ocf_membership::Event),
    /// Tell the application of groups.
    Group(crate::Event),
    /// Another process of this node is in the process group already: leave it. One provider for each node and process group.
    Taken(Process),
}
