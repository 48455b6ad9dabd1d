//! The failure detector, and the timers of circuits that are not in use yet.

use super::Endpoint;
use super::peer::Peer;
use crate::circuit::{Circuit, Stage};
use crate::{DownReason, Event};
use core::time::Duration;
use pils::Instant;

/// An initiator asks this long before it starts over.
const CONFIRM_MAX: Duration = Duration::from_secs(3);
/// A responder remembers a request this long; far longer than the initiator asks.
const HELD_MAX: Duration = Duration::from_secs(30);
/// A refused newcomer is answered this long.
const REFUSING_MAX: Duration = Duration::from_secs(2);

impl Endpoint {
    /// This node acts `late` after it wanted to.
    pub(super) fn observe_lateness(&mut self, now: Instant, late: Duration) {
        let heartbeat = self.tuning.heartbeat;
        self.health.observe(now, late, heartbeat);
        if late <= heartbeat {
            return;
        }
        tracing::debug!(?late, "own stall");
        self.stats.stalls += 1;
        self.forgiven_until = now + heartbeat;
        for circuit in self.circuits.values_mut() {
            circuit.detector.skip_gap();
        }
        for contest in self.peers.iter_mut().filter_map(|p| p.contest.as_mut()) {
            contest.deadline = contest.deadline.max(now + heartbeat);
        }
        self.events.push_back(Event::Stalled { late });
    }

    fn suspect_at(&self, circuit: &Circuit) -> Instant {
        let timeout = circuit.detector.timeout(self.tuning.detection) * self.health.factor();
        (circuit.detector.heard_at() + timeout).max(self.forgiven_until)
    }

    /// When a candidate is given up.
    fn expiry(circuit: &Circuit) -> Option<Instant> {
        let most = match (circuit.stage, circuit.initiator) {
            (Stage::Confirming, _) => CONFIRM_MAX,
            (Stage::Held, _) => HELD_MAX,
            (Stage::Refusing, _) => REFUSING_MAX,
            // The other end may have taken it into use and be silent only because the network is cut.
            (Stage::Accepting | Stage::Open, _) => return None,
        };
        Some(circuit.since + most)
    }

    /// Suspects a silent peer, and gives up candidates that lead nowhere.
    pub(super) fn watch_peer(&mut self, now: Instant, i: usize) {
        let peer = &self.peers[i];
        let current = peer.current.and_then(|id| self.circuits.get(&id)).filter(|_| peer.up);
        if let Some(circuit) = current.filter(|c| self.suspect_at(c) <= now) {
            let silence = now.since(circuit.detector.heard_at());
            let instance = circuit.instance;
            self.peers[i].up = false;
            tracing::debug!(peer = %instance, ?silence, "down");
            let reason = DownReason::Silent { for_: silence };
            self.events.push_back(Event::Down { peer: instance, reason });
        }
        let circuits = &self.circuits;
        let is_expired =
            |id: &u32| circuits.get(id).and_then(|c| Self::expiry(c)).is_some_and(|at| at <= now);
        let expired: Vec<u32> = self.peers[i].candidates.iter().map(|c| c.id).filter(is_expired).collect();
        expired.into_iter().for_each(|id| self.discard(i, id));
    }

    /// When something about this peer is due, beside the timers of its circuits.
    pub(super) fn peer_deadline(&self, peer: &Peer) -> Option<Instant> {
        let current = peer.current.and_then(|id| self.circuits.get(&id)).filter(|_| peer.up);
        let suspect = current.map(|c| self.suspect_at(c));
        let candidates =
            peer.candidates.iter().filter_map(|c| self.circuits.get(&c.id)).filter_map(|c| Self::expiry(c));
        let contest = peer.contest.map(|c| c.deadline);
        candidates.chain(suspect).chain(contest).chain(self.connect_at(peer)).min()
    }
}
