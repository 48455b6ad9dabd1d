use crate::{ConfigErrors, PathId, PeerConfig};
use core::fmt;
use core::time::Duration;
use pils::NodeId;
use std::net::SocketAddr;

/// How the paths to a peer share its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum PathPolicy {
    /// The first path of the configuration that is up carries everything; urgent messages of up to 256 bytes go on every
    /// path that is up, and the first copy counts.
    #[default]
    Failover,
    /// Every path that is up carries data: each packet goes where it arrives earliest.
    Balance,
    /// Every path that is up carries everything, and the first copy counts.
    Redundant,
}

/// How far a path can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathState {
    /// The peer answers on it.
    Up,
    /// One probe timeout went by without an answer: new data goes elsewhere, if there is another path.
    Doubtful,
    /// Nothing came back for several probes, or it never worked. It is probed once per heartbeat, and carries data only if
    /// no path is better.
    Down,
}

/// Why a path is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PathReason {
    /// Nothing came back on it since the start, or since its address changed.
    New,
    /// The peer answered on it; after it was down, five times in a row.
    Answered,
    /// A probe timeout went by without an answer.
    Unanswered,
    /// Three probes in a row were lost.
    ProbesLost,
    /// It answers, but went down often lately and is held back: twice as long each time.
    Flapping {
        /// How long from its latest failure.
        held: Duration,
    },
    /// The interface under it has no carrier.
    NoCarrier,
}

impl fmt::Display for PathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("no answer on it so far"),
            Self::Answered => f.write_str("the peer answers"),
            Self::Unanswered => f.write_str("no answer for one probe timeout"),
            Self::ProbesLost => f.write_str("no answer to three probes"),
            Self::Flapping { held } => write!(f, "held back for {} ms: it flaps", held.as_millis()),
            Self::NoCarrier => f.write_str("the interface has no carrier"),
        }
    }
}

/// What is known of one path to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// Which path.
    pub path: PathId,
    /// The peer's address on it.
    pub address: SocketAddr,
    /// How far it can be used.
    pub state: PathState,
    /// Why.
    pub reason: PathReason,
    /// Time in this state.
    pub since: Duration,
    /// True if it carries the data now (with [`PathPolicy::Failover`]: the one path that does).
    pub active: bool,
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Mean deviation of the round-trip time, once measured.
    pub rtt_variance: Option<Duration>,
    /// Estimate of the packets of this node that are lost on it, in parts per million.
    pub loss_ppm: u32,
    /// Time since something authenticated was heard on it.
    pub silent_for: Option<Duration>,
    /// Largest UDP payload that is sent on it, in bytes.
    pub mtu: usize,
    /// Bytes on the way, not acknowledged yet.
    pub in_flight: usize,
}

/// A change of the peers or paths of a running node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Talks to one more node.
    AddPeer(PeerConfig),
    /// Talks to this node no more: it is told, and its incarnation goes `Down` for good. Node and incarnation stay known:
    /// added again, it comes up with its next incarnation, or with this node's.
    RemovePeer(NodeId),
    /// Uses one more path to a peer. It carries data once the peer has answered on it, so the order in which the two ends
    /// learn of it does not matter.
    AddPath {
        /// To which peer.
        node: NodeId,
        /// The number that both ends know it by; also the number of the local socket.
        path: PathId,
        /// The peer's address on it.
        address: SocketAddr,
    },
    /// Uses a path no more. What is under way on it goes on another.
    RemovePath {
        /// To which peer.
        node: NodeId,
        /// Which path.
        path: PathId,
    },
    /// The peer has another address on this path. It must answer there before the path counts as up.
    SetAddress {
        /// To which peer.
        node: NodeId,
        /// Which path.
        path: PathId,
        /// The new address.
        address: SocketAddr,
    },
    /// Shares messages among the paths in another way, from the next packet on.
    SetPolicy(PathPolicy),
}

/// Why a change was not made. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The node is not a peer.
    #[error("{0} is not a peer of this node")]
    UnknownPeer(NodeId),
    /// The node is a peer already.
    #[error("{0} is a peer already")]
    KnownPeer(NodeId),
    /// There is no such path to this peer.
    #[error("there is no path {path} to {0}", path = (.1).0)]
    UnknownPath(NodeId, PathId),
    /// There is such a path to this peer already.
    #[error("there is a path {path} to {0} already", path = (.1).0)]
    KnownPath(NodeId, PathId),
    /// A peer has at least one path: remove the peer instead.
    #[error("path {path} is the last to {0}: remove the peer instead", path = (.1).0)]
    LastPath(NodeId, PathId),
    /// The configuration would be wrong afterwards.
    #[error(transparent)]
    Invalid(ConfigErrors),
    /// Peers and paths of this provider are not configured.
    #[error("this provider has no peers or paths to configure")]
    Fixed,
    /// This node has left or stopped.
    #[error("this node has stopped")]
    Stopped,
}
