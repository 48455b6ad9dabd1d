use crate::crypto::EphemeralKey;
use crate::{KeyId, PathId, PeerConfig};
use core::fmt;
use pils::{Incarnation, Instant, NodeId};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Ended incarnations that are remembered per peer.
const DEAD_MAX: usize = 64;
/// Circuits per peer that are not taken into use yet.
pub(super) const CANDIDATES_MAX: usize = 4;

/// A configured peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) addresses: Vec<(PathId, SocketAddr)>,
    /// The circuit that both ends accepted.
    pub(super) current: Option<u32>,
    /// Between `Up` and `Down`.
    pub(super) up: bool,
    /// Circuits with keys that are not accepted by both ends yet, oldest first.
    pub(super) candidates: Vec<Candidate>,
    /// The handshake this node initiated.
    pub(super) attempt: Option<Attempt>,
    /// When to try (INIT or HELLO) again.
    pub(super) next_at: Instant,
    /// Tries since the last success.
    pub(super) tries: u32,
    pub(super) contest: Option<Contest>,
    /// Incarnations that ended for good.
    pub(super) dead: VecDeque<Incarnation>,
    /// No HELLO starts a handshake before this.
    pub(super) hello_gate: Instant,
    /// Salt of the last HELLO that was sent: what a refusal must name.
    pub(super) hello_salt: Option<[u8; 16]>,
    /// No HELLO from a foreign address is refused before this.
    pub(super) refuse_gate: Instant,
    /// No hint of the network is followed before this.
    pub(super) hint_gate: Instant,
}

/// A circuit that is not in use yet.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: u32,
    /// The initiator's nonce: a repeated INIT gets the same answer.
    pub(super) nonce: [u8; 16],
    /// The RESPONSE that was sent, if this node is the responder.
    pub(super) response: Vec<u8>,
    /// Where the handshake came from; the peer has proven that it receives there.
    pub(super) came: (PathId, SocketAddr),
}

/// Two incarnations claim one node id: the current one has until the deadline to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contest {
    pub(super) challenger: u32,
    pub(super) deadline: Instant,
}

/// A handshake that waits for COOKIE or RESPONSE.
pub(super) struct Attempt {
    pub(super) nonce: [u8; 16],
    pub(super) circuit: u32,
    /// The cluster key that is spoken with.
    pub(super) cluster_key: KeyId,
    pub(super) key: Box<dyn EphemeralKey>,
    pub(super) public: [u8; 32],
    /// The cookie, and where it is good.
    pub(super) cookie: Option<(PathId, SocketAddr, [u8; 32])>,
    /// Cookies taken since the last timer; bounds what a babbling responder can cause.
    pub(super) cookies: u32,
    pub(super) tries: u32,
    pub(super) sent_at: Instant,
    pub(super) next_at: Instant,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("circuit", &self.circuit)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}

impl Peer {
    pub(super) fn new(now: Instant, config: &PeerConfig) -> Self {
        Self {
            node: config.node,
            addresses: config.addresses.clone(),
            current: None,
            up: false,
            candidates: Vec::new(),
            attempt: None,
            next_at: now,
            tries: 0,
            contest: None,
            dead: VecDeque::new(),
            hello_gate: now,
            hello_salt: None,
            refuse_gate: now,
            hint_gate: now,
        }
    }

    /// Remembers that an incarnation never comes back.
    pub(super) fn bury(&mut self, incarnation: Incarnation) {
        if self.dead.len() >= DEAD_MAX {
            self.dead.pop_front();
        }
        self.dead.push_back(incarnation);
    }

    /// Forgets everything that is in progress.
    pub(super) fn close(&mut self) {
        self.current = None;
        self.up = false;
        self.candidates.clear();
        self.attempt = None;
        self.contest = None;
    }

    pub(super) fn check_invariants(&self) {
        assert!(!self.up || self.current.is_some(), "{} is up only with a circuit", self.node);
        assert!(self.candidates.len() <= CANDIDATES_MAX, "candidates keep their limit");
        assert!(self.dead.len() <= DEAD_MAX, "the list of the dead keeps its limit");
    }
}
