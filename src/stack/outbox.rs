use bytes::Bytes;
use ocf_comm::{Channel, Endpoint, Lane, SendError};
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, VecDeque};

/// Messages that a circuit did not take at once, because its queue is full or the peer is silent. The layers above
/// count on each message arriving, in order, as long as the peer is the same incarnation.
///
/// Bounded by those layers: what a node may have unstable is limited by its window, and membership has a handful of
/// messages in flight.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: BTreeMap<NodeInstance, VecDeque<(Lane, Channel, Bytes)>>,
}

impl Outbox {
    /// Sends now, or keeps the message until [`Outbox::flush`].
    pub(super) fn send(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        to: NodeInstance,
        parcel: (Lane, Channel, Bytes),
    ) {
        // Lanes are independent, so only what waits in the same lane must go first.
        let behind =
            self.waiting.get(&to).is_some_and(|queue| queue.iter().any(|(lane, _, _)| *lane == parcel.0));
        if !behind {
            let (lane, channel, message) = parcel.clone();
            match endpoint.send(now, to, lane, channel, message) {
                Ok(()) => return,
                Err(SendError::Full { .. } | SendError::Down(_)) => {}
                Err(error) => {
                    tracing::debug!(%to, %error, "message dropped");
                    return;
                }
            }
        }
        self.waiting.entry(to).or_default().push_back(parcel);
    }

    /// Tries again what waits for this peer.
    pub(super) fn flush(&mut self, endpoint: &mut Endpoint, now: Instant, to: NodeInstance) {
        let Some(queue) = self.waiting.remove(&to) else { return };
        let mut stuck = [false; 3];
        let mut left = VecDeque::new();
        for (lane, channel, message) in queue {
            let stuck = &mut stuck[lane as usize];
            if !*stuck && endpoint.send(now, to, lane, channel, message.clone()).is_ok() {
                continue;
            }
            *stuck = true;
            left.push_back((lane, channel, message));
        }
        if !left.is_empty() {
            self.waiting.insert(to, left);
        }
    }

    /// Drops what waits for this peer: its incarnation is dead.
    pub(super) fn forget(&mut self, to: NodeInstance) {
        self.waiting.remove(&to);
    }

    /// Drops what waits on `channel` for everyone who is not in `keep`: it belongs to a view they are no longer in.
    pub(super) fn retain(&mut self, channel: Channel, keep: impl Fn(NodeInstance) -> bool) {
        for (to, queue) in &mut self.waiting {
            if !keep(*to) {
                queue.retain(|(_, c, _)| *c != channel);
            }
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
    }

    /// Bytes that wait, over all peers.
    pub(super) fn bytes(&self) -> usize {
        self.waiting.values().flatten().map(|(_, _, message)| message.len()).sum()
    }
}
