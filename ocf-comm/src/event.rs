use crate::ping::PingChange;
use crate::{KeyId, PathReason};
use bytes::Bytes;
use core::time::Duration;
use pils::{NodeId, NodeInstance};
use std::net::SocketAddr;

/// Which queue of a circuit a message waits in. A message never waits behind one of a later lane; within a lane,
/// messages arrive in the order they were sent. Between lanes there is no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// View changes, stamps, lock traffic: small and few.
    Urgent,
    /// Ordinary messages.
    Small,
    /// Large messages and state transfer.
    Bulk,
}

impl Lane {
    /// Every lane, most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Small, Self::Bulk];
}

/// Tells the users of one circuit apart, so that each layer gets only its own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel(pub u8);

impl Channel {
    /// Agreement on views.
    pub const MEMBERSHIP: Self = Self(1);
    /// Ordered group messages.
    pub const GROUPS: Self = Self(2);
    /// Lock managers among each other.
    pub const LOCKS: Self = Self(3);
    /// Agreement on views of any partition.
    pub const PARTITIONS: Self = Self(4);
    /// Ordered messages of groups that go on in any partition.
    pub const PARTITION_GROUPS: Self = Self(5);
    /// Calls between nodes: [`Calls`](crate::rpc::Calls).
    pub const CALLS: Self = Self(8);
    /// The first channel that applications may use; those below belong to this project's layers.
    pub const APPLICATION: Self = Self(32);
}

/// One of the ways to a peer: a pair of a local and a remote address. Zero is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PathId(pub u8);

/// Bytes that a medium received from one sender: one datagram, or several of equal size that the kernel joined.
#[derive(Debug)]
pub struct Received<'a> {
    /// The path (that is, the local address) it came in on.
    pub path: PathId,
    /// The sender's address. Not proof of anything.
    pub from: SocketAddr,
    /// Size of each datagram in `data`; the last one may be shorter. At least 1.
    pub segment: usize,
    /// The datagrams, back to back. Decrypted in place, so the content afterwards is undefined.
    pub data: &'a mut [u8],
}

/// Bytes that a medium is to send to one address: one datagram, or several of equal size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The path to send on.
    pub path: PathId,
    /// The receiver's address.
    pub to: SocketAddr,
    /// Size of each datagram in `data`; the last one may be shorter. At least 1.
    pub segment: usize,
    /// The datagrams, back to back; at most 64 KiB.
    pub data: Vec<u8>,
}

/// What arrives at an endpoint.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A medium received something.
    Received(Received<'a>),
    /// The interface under a local address lost (`up` is false) or got its carrier. Data leaves the path at once. It says
    /// nothing about peers.
    Carrier {
        /// The path, that is, the local address.
        path: PathId,
        /// Is there a carrier?
        up: bool,
    },
    /// This machine did not send a datagram because it is too large for the interface or the route (`EMSGSIZE`). The path
    /// uses smaller ones at once.
    TooLarge {
        /// The path.
        path: PathId,
        /// The address it was to go to.
        to: SocketAddr,
        /// Its size in bytes.
        size: usize,
    },
    /// The network says that nobody receives at this address (`ECONNREFUSED`, an ICMP message). Anybody can forge that, so
    /// it is a hint only: the peer is asked at once on every path, and suspected if it is silent for a tenth of the detection
    /// time while the network says so again.
    Unreachable {
        /// The path it was sent on.
        path: PathId,
        /// The address it was sent to.
        to: SocketAddr,
    },
}

/// What an endpoint wants done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Hand these datagrams to the medium. Losing them is allowed.
    Transmit(Transmit),
    /// Tell the layer above.
    Event(Event),
}

/// What an endpoint tells the layer above. For one peer, events come in the order in which things happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The circuit to this incarnation can carry messages: it is new, or the peer was silent and is heard again.
    Up {
        /// Who.
        peer: NodeInstance,
    },
    /// The peer is no longer considered alive. If `reason` is [final](DownReason::is_final) this incarnation never
    /// comes back; otherwise its circuit is kept, and what was sent on it arrives after a later `Up`.
    Down {
        /// Who.
        peer: NodeInstance,
        /// Why.
        reason: DownReason,
    },
    /// A whole message, in order within its lane. Call `Endpoint::consumed` when its memory is no longer needed:
    /// that is what opens the sender's window.
    Message {
        /// Who sent it.
        from: NodeInstance,
        /// The lane it travelled in.
        lane: Lane,
        /// Which user of the circuit it is for.
        channel: Channel,
        /// The content.
        message: Bytes,
    },
    /// A path to a peer can be used: it is new, or was doubtful or down.
    PathUp {
        /// To whom.
        peer: NodeInstance,
        /// Which path.
        path: PathId,
        /// The peer's address on it.
        address: SocketAddr,
    },
    /// A path does not answer in time: new data takes another, if there is one. Told at most once per heartbeat and path.
    PathDoubtful {
        /// To whom.
        peer: NodeInstance,
        /// Which path.
        path: PathId,
        /// The peer's address on it.
        address: SocketAddr,
        /// Why.
        reason: PathReason,
    },
    /// A path cannot be used. The peer is `Down` only once it is heard on none.
    PathDown {
        /// To whom.
        peer: NodeInstance,
        /// Which path.
        path: PathId,
        /// The peer's address on it.
        address: SocketAddr,
        /// Why.
        reason: PathReason,
    },
    /// A node that is not configured announced itself, and is a peer now.
    PeerDiscovered {
        /// Which.
        node: NodeId,
    },
    /// A peer announced an address that was not known.
    PathDiscovered {
        /// Which peer.
        node: NodeId,
        /// On which path.
        path: PathId,
        /// The address.
        address: SocketAddr,
    },
    /// A discovered peer was down and not announced for so long that it is a peer no more.
    PeerForgotten {
        /// Which.
        node: NodeId,
    },
    /// A send to this peer was refused with [`SendError::Full`](crate::SendError::Full); there is room again.
    Writable {
        /// Who.
        peer: NodeInstance,
        /// Which lane.
        lane: Lane,
    },
    /// This node did not run for so long that it cannot judge others: all peers are forgiven for one interval.
    Stalled {
        /// How late the node's own timer was.
        late: Duration,
    },
    /// A peer refuses to talk to this node, or this node to a peer, for a reason an operator must mend.
    Refused {
        /// The peer's node id, as configured or claimed.
        peer: NodeId,
        /// The address it was heard at.
        address: SocketAddr,
        /// Why.
        reason: Refusal,
    },
    /// What goes to this peer is protected by fresh secrets now, agreed upon under this cluster key. Nothing was lost.
    Renewed {
        /// Who.
        peer: NodeInstance,
        /// The cluster key.
        key: KeyId,
    },
    /// A host outside the cluster that is [watched](crate::ping) answers, or does no more. Never from an endpoint: what runs
    /// one beside a [`Pinger`](crate::ping::Pinger) tells it among its events.
    Ping(PingChange),
    /// A peer that holds the key broke the protocol; its circuit was closed.
    Misbehaved {
        /// Who.
        peer: NodeInstance,
        /// The rule it broke.
        rule: &'static str,
    },
}

/// Why a peer is no longer considered alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DownReason {
    /// Nothing authenticated was heard on any path for longer than the detection timeout.
    Silent {
        /// How long nothing was heard.
        for_: Duration,
    },
    /// The network said that nobody receives at the peer's address, and the peer did not answer when asked. No proof.
    Unreachable {
        /// How long nothing was heard.
        for_: Duration,
    },
    /// The peer said that it leaves, and will not act as this incarnation again.
    Left,
    /// The peer said with its last breath that it is dying (a panic, an abort, a fatal signal).
    LastGasp,
    /// The peer's sentinel saw its process end.
    Obituary {
        /// True if the processes of its resources are dead, too; otherwise they may live on.
        resources: bool,
    },
    /// A new incarnation of the same node completed a handshake while the old one was silent. No proof that the old
    /// one is dead: it may be paused.
    Superseded,
    /// The peer broke the protocol.
    Misbehaved,
    /// The cluster key that its circuit rested on was revoked.
    KeyRevoked,
    /// So many forged packets came for its circuit that its keys cannot be trusted any more.
    Forged,
    /// This node, or the peer, was told to talk to the other no more. No proof of death.
    Removed,
}

impl core::fmt::Display for DownReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Silent { for_ } => write!(f, "silent for {} ms", for_.as_millis()),
            Self::Unreachable { for_ } => write!(f, "unreachable, silent for {} ms", for_.as_millis()),
            Self::Left => f.write_str("left"),
            Self::LastGasp => f.write_str("said with its last breath that it dies"),
            Self::Obituary { resources: false } => f.write_str("its process died, as its sentinel saw"),
            Self::Obituary { resources: true } => {
                f.write_str("its process and its resources died, as its sentinel saw")
            }
            Self::Superseded => f.write_str("a new incarnation of the node took its place"),
            Self::Misbehaved => f.write_str("broke the protocol"),
            Self::KeyRevoked => f.write_str("the cluster key it was talked to with was revoked"),
            Self::Forged => f.write_str("its circuit was flooded with forged packets"),
            Self::Removed => f.write_str("removed from the configuration"),
        }
    }
}

impl DownReason {
    /// True if the incarnation itself, or the kernel through its sentinel, declared its end: it will never act again.
    #[must_use]
    pub const fn is_proof_of_death(self) -> bool {
        matches!(self, Self::Left | Self::LastGasp | Self::Obituary { .. })
    }

    /// True if this incarnation will not come up again on this node.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Silent { .. } | Self::Unreachable { .. })
    }
}

/// Why two nodes do not talk though they could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Another living node uses this node id.
    DuplicateNode,
    /// The peer belongs to a cluster of another name.
    OtherCluster,
    /// The peer speaks no protocol version that this node speaks.
    Incompatible {
        /// The newest version this node speaks.
        ours: u8,
        /// The newest version the peer speaks.
        theirs: u8,
    },
    /// Both ends have the cluster's key, but no way to protect packets that both allow: compare `protection`, `cipher` and
    /// `authenticators` in the configurations of the two.
    NoCommonProtection,
    /// One end is no peer of the other: it was not added there, or it was removed. Add it, or stop it.
    NotAPeer,
    /// The peer does not know the cluster key that this node wants to move the circuit to: it stays on the old one, and is
    /// asked again. Let the peer learn the key.
    KeyNotKnown {
        /// Which key.
        key: KeyId,
    },
    /// The peer has another secret under the id of the key that this node wants to move the circuit to: it stays on the
    /// old one. Give the new key an id that was never used.
    KeyDiffers {
        /// Which key.
        key: KeyId,
    },
}
