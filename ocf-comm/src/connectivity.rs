use crate::{Change, ChangeError, Channel, Event, Lane, PathStatus};
use bytes::Bytes;
use core::time::Duration;
use pils::{NodeId, NodeInstance};

/// Messages to and liveness of other nodes: what a layer above needs to know of node communication, and no more.
///
/// Object-safe. Implementations in this crate: the UDP node and the in-memory hub. Those who write another run the
/// conformance suite of the feature `testing`.
pub trait Connectivity {
    /// Who this node is.
    fn local(&self) -> NodeInstance;

    /// Queues a message for one peer. It arrives whole, once and in order within its lane, unless the incarnation dies.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was queued.
    fn send(
        &mut self,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError>;

    /// The next event, if one is waiting.
    fn poll_event(&mut self) -> Option<Event>;

    /// Says that the memory of a delivered message is free again; opens the sender's window.
    fn consumed(&mut self, from: NodeInstance, lane: Lane, bytes: usize);

    /// What is known of every configured peer.
    fn peers(&self) -> Vec<PeerStatus>;

    /// Changes peers, paths or their policy while the node runs. As it stands here, for a provider that has none to
    /// configure.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed.
    fn change(&mut self, _change: Change) -> Result<(), ChangeError> {
        Err(ChangeError::Fixed)
    }
}

/// What an endpoint knows of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which node.
    pub node: NodeId,
    /// Its current incarnation, once a handshake was completed.
    pub instance: Option<NodeInstance>,
    /// True between `Up` and `Down`.
    pub up: bool,
    /// Smoothed round-trip time of the best path, once measured.
    pub rtt: Option<Duration>,
    /// Time since something authenticated was heard.
    pub silent_for: Option<Duration>,
    /// Bytes sent and not yet acknowledged, or waiting to be sent.
    pub queued: usize,
    /// How well it is, 0 to 100: 0 is down, 100 is heard as often as expected on every path. Silence lowers it the more
    /// the nearer it comes to the detection time, and paths that are not up take up to half. For people and for load
    /// decisions; whether the peer is [up](Self::up) hangs on the detection time alone.
    pub health: u8,
    /// The suspicion level phi of the accrual detector, in hundredths: 100 means that one silence in 10 is as long as
    /// this one, 300 one in 1000. At most 10,000. A diagnostic: nothing is decided by it.
    pub phi_hundredths: u32,
    /// Every path, best first. Empty for providers without paths, and before the first handshake.
    pub paths: Vec<PathStatus>,
}

/// Why a message was not accepted for sending. Nothing was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The node is not in the configuration, or the incarnation is not its current one.
    #[error("{0} is not a peer of this node")]
    UnknownPeer(NodeInstance),
    /// The peer is down; wait for its `Up`.
    #[error("{0} is down")]
    Down(NodeInstance),
    /// The lane's queue is full; wait for `Writable`.
    #[error("the queue to {to} is full: {queued} of {limit} bytes")]
    Full {
        /// The peer.
        to: NodeInstance,
        /// Bytes waiting or unacknowledged in this lane.
        queued: usize,
        /// The lane's limit.
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
    /// This node has left or stopped; nothing is sent any more.
    #[error("this node has stopped")]
    Stopped,
}
