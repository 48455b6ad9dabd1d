//! The failure detector, and the timers of circuits that are not in use yet.

use super::Endpoint;
use super::peer::Peer;
use crate::circuit::{Circuit, Hint, Stage};
use crate::{DownReason, Event, PathId, PathState, PathStatus};
use core::time::Duration;
use pils::Instant;
use std::net::SocketAddr;

/// An initiator asks this long before it starts over.
const CONFIRM_MAX: Duration = Duration::from_secs(3);
/// A responder remembers a request this long; far longer than the initiator asks.
const HELD_MAX: Duration = Duration::from_secs(30);
/// A refused newcomer is answered this long.
const REFUSING_MAX: Duration = Duration::from_secs(2);

/// Messages of the network that nobody receives at an address, before that counts for anything.
const HITS: u32 = 2;

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

    /// How well a peer that is up is, 0 to 100.
    pub(super) fn health_of(&self, now: Instant, circuit: &Circuit, paths: &[PathStatus]) -> u8 {
        let timeout = circuit.detector.timeout(self.tuning.detection) * self.health.factor();
        let heard = circuit.detector.health(now, timeout, self.tuning.heartbeat);
        let up = paths.iter().filter(|p| p.state == PathState::Up).count();
        let share = 50 + 50 * up / paths.len().max(1);
        u8::try_from(usize::from(heard) * share / 100).unwrap_or(100)
    }

    fn suspect_at(&self, circuit: &Circuit) -> Instant {
        let timeout = circuit.detector.timeout(self.tuning.detection) * self.health.factor();
        let by_silence = circuit.detector.heard_at() + timeout;
        let by_hint = circuit.hint.filter(|h| h.hits >= HITS).map(|h| self.hint_ends(h));
        by_hint.map_or(by_silence, |at| at.min(by_silence)).max(self.forgiven_until)
    }

    fn hint_ends(&self, hint: Hint) -> Instant {
        hint.since + self.tuning.detection / 10 * self.health.factor()
    }

    /// The interface under a path lost or got its carrier.
    pub(super) fn on_carrier(&mut self, now: Instant, path: PathId, up: bool) {
        let Self { circuits, events, tuning, .. } = self;
        for circuit in circuits.values_mut() {
            circuit.on_carrier(now, path, up);
            circuit.tell_paths(now, tuning.heartbeat, events);
        }
    }

    /// The network says that nobody receives at an address. Asks the peer, on every path; see [`crate::Input::Unreachable`].
    pub(super) fn on_unreachable(&mut self, now: Instant, path: PathId, to: SocketAddr) {
        let Some(i) = self.peers.iter().position(|p| p.up && p.addresses.contains(&(path, to))) else {
            return;
        };
        let Some(circuit) = self.peers[i].current.and_then(|id| self.circuits.get_mut(&id)) else { return };
        self.stats.hints += 1;
        match &mut circuit.hint {
            Some(hint) => hint.hits = hint.hits.saturating_add(1),
            None if now >= self.peers[i].hint_gate => {
                self.peers[i].hint_gate = now + self.tuning.detection;
                circuit.hint = Some(Hint { since: now, asked_at: now, hits: 1 });
                circuit.ask();
            }
            None => {}
        }
    }

    /// Asks again while a hint is open, and closes it when the peer was heard or its time is over.
    fn follow_hint(&mut self, now: Instant, i: usize) {
        let Some(circuit) = self.peers[i].current.and_then(|id| self.circuits.get(&id)) else { return };
        let Some(hint) = circuit.hint else { return };
        let over = circuit.detector.heard_at() > hint.since || self.hint_ends(hint) <= now;
        let again = self.next_ask(hint) <= now;
        let Some(circuit) = self.peers[i].current.and_then(|id| self.circuits.get_mut(&id)) else { return };
        if over {
            circuit.hint = None;
        } else if again {
            circuit.hint = Some(Hint { asked_at: now, ..hint });
            circuit.ask();
        }
    }

    fn next_ask(&self, hint: Hint) -> Instant {
        hint.asked_at + self.tuning.detection / 40
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
            let hinted = circuit.hint.is_some_and(|h| h.hits >= HITS && self.hint_ends(h) <= now);
            let instance = circuit.instance;
            self.peers[i].up = false;
            tracing::debug!(peer = %instance, ?silence, "down");
            let reason = if hinted {
                DownReason::Unreachable { for_: silence }
            } else {
                DownReason::Silent { for_: silence }
            };
            self.events.push_back(Event::Down { peer: instance, reason });
        }
        self.follow_hint(now, i);
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
        let hint = current.and_then(|c| c.hint).map(|h| self.next_ask(h).min(self.hint_ends(h)));
        let candidates =
            peer.candidates.iter().filter_map(|c| self.circuits.get(&c.id)).filter_map(|c| Self::expiry(c));
        let contest = peer.contest.map(|c| c.deadline);
        candidates.chain(suspect).chain(hint).chain(contest).chain(self.connect_at(peer)).min()
    }
}
