use core::fmt;

/// Counters of an endpoint since its start. Cheap to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams received, good or bad.
    pub datagrams_received: u64,
    /// Sealed packets that passed authentication and the replay window.
    pub packets_accepted: u64,
    /// Sealed packets built.
    pub packets_sent: u64,
    /// Handshake datagrams built.
    pub handshakes_sent: u64,
    /// Packets declared lost; their content was queued again.
    pub packets_lost: u64,
    /// Probe timeouts.
    pub probe_timeouts: u64,
    /// Messages given to the layer above.
    pub messages_delivered: u64,
    /// Messages taken from the layer above.
    pub messages_queued: u64,
    /// Keys replaced, both directions.
    pub rekeys: u64,
    /// Own stalls noticed.
    pub stalls: u64,
    /// Hints of the network that nobody receives at a peer's address.
    pub hints: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Stats {
    /// Datagrams dropped for this reason.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Datagrams dropped for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    pub(crate) const fn count_drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }
}

/// Why a received datagram was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Shorter than its kind allows, or longer than any datagram this protocol sends.
    Length,
    /// The first byte names no kind of datagram this node knows.
    UnknownKind,
    /// A handshake message of a foreign or wrong cluster key, or altered on the way.
    BadMac,
    /// A handshake message that names a cluster key this node does not have.
    UnknownKey,
    /// A sealed packet that does not open: altered, or sealed with a key this node does not have.
    BadSeal,
    /// A packet number seen before.
    Replayed,
    /// A packet number too far below the newest to be remembered.
    TooOld,
    /// No circuit has this id: of an earlier life of this node, or closed.
    UnknownCircuit,
    /// The path number is not configured for this peer.
    UnknownPath,
    /// A handshake from or for a node that is not configured, or that should be the other side's to send.
    UnknownPeer,
    /// The sender belongs to a cluster of another name.
    OtherCluster,
    /// The sender speaks no version this node speaks.
    OtherVersion,
    /// A handshake message that answers nothing this node asked (late, doubled or replayed).
    StaleHandshake,
    /// A handshake by an incarnation that has ended.
    DeadIncarnation,
    /// Sealed by a peer that holds the key, yet not according to the protocol.
    Malformed,
    /// No room: out-of-order data beyond what is remembered. The sender sends it again.
    NoRoom,
    /// This endpoint has left.
    Closed,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 17] = [
        Self::Length,
        Self::UnknownKind,
        Self::BadMac,
        Self::UnknownKey,
        Self::BadSeal,
        Self::Replayed,
        Self::TooOld,
        Self::UnknownCircuit,
        Self::UnknownPath,
        Self::UnknownPeer,
        Self::OtherCluster,
        Self::OtherVersion,
        Self::StaleHandshake,
        Self::DeadIncarnation,
        Self::Malformed,
        Self::NoRoom,
        Self::Closed,
    ];
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let mut stats = Stats::default();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            for _ in 0..=i {
                stats.count_drop(reason);
            }
        }
        assert!(DropReason::ALL.iter().enumerate().all(|(i, r)| stats.dropped(*r) == i as u64 + 1));
        assert_eq!(stats.dropped_total(), 153);
    }
}
