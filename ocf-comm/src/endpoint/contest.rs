//! Which circuit to a peer is the one in use: acceptance, contests for a node id, ends.

use super::Endpoint;
use super::peer::Contest;
use crate::circuit::{Fate, Stage};
use crate::wire::Frame;
use crate::{DownReason, DropReason, Event, Refusal};
use core::time::Duration;
use pils::{Instant, NodeId};
use std::net::SocketAddr;

/// Longest time that the current incarnation has to prove that it lives.
const CONTEST_MAX: Duration = Duration::from_millis(100);
/// How often one refusal is told.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);
/// Refusals that are remembered, so that they are not told too often.
const REFUSALS_MAX: usize = 32;

impl Endpoint {
    /// The candidate `id` is proven fresh: takes it, or lets the current incarnation of that node defend itself.
    pub(super) fn challenge(&mut self, now: Instant, id: u32) {
        let Some(candidate) = self.circuits.get(&id) else { return };
        let (i, instance) = (candidate.peer, candidate.instance);
        let Some(current) = self.peers[i].current else { return self.admit(now, id) };
        let Some(circuit) = self.circuits.get_mut(&current) else { return };
        if circuit.instance == instance {
            self.discard(i, id);
        } else if !self.peers[i].up {
            self.end_current(now, i, DownReason::Superseded);
            self.admit(now, id);
        } else {
            let running = self.peers[i].contest.map(|c| c.deadline);
            if running.is_none() {
                circuit.probe();
            }
            let deadline = running.unwrap_or_else(|| now + (self.tuning.detection / 4).min(CONTEST_MAX));
            self.peers[i].contest = Some(Contest { challenger: id, deadline });
        }
    }

    /// Decides a contest, if it can be decided.
    pub(super) fn settle_contest(&mut self, now: Instant, i: usize) {
        let Some(Contest { challenger, deadline }) = self.peers[i].contest else { return };
        let current = self.peers[i].current.and_then(|id| self.circuits.get(&id));
        if current.is_some_and(|c| c.answered) {
            self.peers[i].contest = None;
            self.refuse_newcomer(now, i, challenger);
        } else if deadline <= now {
            self.end_current(now, i, DownReason::Superseded);
        }
    }

    fn refuse_newcomer(&mut self, now: Instant, i: usize, id: u32) {
        let came = self.peers[i].candidates.iter().find(|c| c.id == id).map(|c| c.came);
        let (Some(circuit), Some((path, address))) = (self.circuits.get_mut(&id), came) else { return };
        // The configured address is that of the node that lives.
        circuit.redirect(path, address);
        circuit.enter(now, Stage::Refusing);
        let peer = &mut self.peers[i];
        peer.hello_gate = now + Duration::from_secs(1);
        let node = peer.node;
        self.tell_refusal(now, node, address, Refusal::DuplicateNode);
    }

    /// This end accepts a circuit; it is in use once the other end does, too.
    fn admit(&mut self, now: Instant, id: u32) {
        if let Some(circuit) = self.circuits.get_mut(&id) {
            let stage = if circuit.initiator { Stage::Confirming } else { Stage::Accepting };
            circuit.enter(now, stage);
        }
    }

    /// Both ends accepted: the circuit is the one in use, and everything else about this peer is forgotten.
    pub(super) fn promote(&mut self, now: Instant, id: u32) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        let (i, instance) = (circuit.peer, circuit.instance);
        circuit.enter(now, Stage::Open);
        circuit.detector.skip_gap();
        if circuit.initiator && circuit.key != self.keys.sends_with() {
            // The handshake began before the key changed, or the peer speaks with another.
            circuit.want_renewal(now, self.keys.sends_with());
        }
        if self.peers[i].current.is_some() {
            self.peers[i].contest = None;
            self.end_current(now, i, DownReason::Superseded);
        }
        let peer = &mut self.peers[i];
        peer.current = Some(id);
        peer.up = true;
        (peer.attempt, peer.contest, peer.tries) = (None, None, 0);
        for candidate in core::mem::take(&mut peer.candidates) {
            if candidate.id != id {
                self.circuits.remove(&candidate.id);
            }
        }
        self.events.push_back(Event::Up { peer: instance });
    }

    /// Forgets a candidate.
    pub(super) fn discard(&mut self, i: usize, id: u32) {
        let peer = &mut self.peers[i];
        peer.candidates.retain(|c| c.id != id);
        if peer.contest.is_some_and(|c| c.challenger == id) {
            peer.contest = None;
        }
        self.circuits.remove(&id);
    }

    /// The current incarnation ends for good. A challenger takes its place at once.
    pub(super) fn end_current(&mut self, now: Instant, i: usize, reason: DownReason) {
        let peer = &mut self.peers[i];
        let Some(circuit) = peer.current.take().and_then(|id| self.circuits.remove(&id)) else { return };
        let instance = circuit.instance;
        peer.up = false;
        peer.bury(instance.incarnation);
        (peer.tries, peer.next_at) = (0, now + self.tuning.heartbeat);
        tracing::debug!(peer = %instance, ?reason, "down");
        self.events.push_back(Event::Down { peer: instance, reason });
        let same = |id: &u32| self.circuits.get(id).is_some_and(|c| c.instance == instance);
        let ended: Vec<u32> = peer.candidates.iter().map(|c| c.id).filter(same).collect();
        ended.into_iter().for_each(|id| self.discard(i, id));
        if let Some(contest) = self.peers[i].contest.take() {
            self.admit(now, contest.challenger);
        }
    }

    /// The last word of a peer about a circuit, or of this node.
    pub(super) fn on_fate(&mut self, now: Instant, id: u32, fate: Fate) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        let (i, peer, address) = (circuit.peer, circuit.instance, circuit.address());
        if let Fate::Misbehaved(_) = fate {
            let farewell = circuit.farewell(now, &Frame::Close);
            self.control.extend(farewell);
            self.drop_datagram(DropReason::Malformed);
        }
        let current = self.peers[i].current == Some(id);
        match fate {
            Fate::Left if current => self.end_current(now, i, DownReason::Left),
            Fate::LastGasp if current => self.end_current(now, i, DownReason::LastGasp),
            Fate::Removed if current => self.end_current(now, i, DownReason::Removed),
            Fate::Obituary { resources } if current => {
                self.end_current(now, i, DownReason::Obituary { resources });
            }
            Fate::Misbehaved(_) | Fate::Closed if current => {
                let rule = if let Fate::Misbehaved(rule) = fate {
                    rule
                } else {
                    "the peer says that this node broke one"
                };
                self.events.push_back(Event::Misbehaved { peer, rule });
                self.end_current(now, i, DownReason::Misbehaved);
            }
            Fate::Left
            | Fate::LastGasp
            | Fate::Removed
            | Fate::Obituary { .. }
            | Fate::Misbehaved(_)
            | Fate::Closed => {
                self.discard(i, id);
                self.peers[i].bury(peer.incarnation);
                let circuits = &self.circuits;
                let of_same = |id: &u32| circuits.get(id).is_some_and(|c| c.instance == peer);
                let same: Vec<u32> = self.peers[i].candidates.iter().map(|c| c.id).filter(of_same).collect();
                same.into_iter().for_each(|id| self.discard(i, id));
            }
            Fate::Refused if !current => {
                self.discard(i, id);
                let peer = &mut self.peers[i];
                peer.next_at = now + Duration::from_secs(1).max(self.tuning.detection * 2);
                peer.attempt = None;
                let node = peer.node;
                self.tell_refusal(now, node, address, Refusal::DuplicateNode);
            }
            Fate::Refused => {}
        }
    }

    /// Tells the layer above about a refusal, unless it was told lately.
    pub(super) fn tell_refusal(&mut self, now: Instant, peer: NodeId, address: SocketAddr, reason: Refusal) {
        self.refusals.retain(|(.., at)| now < *at + REFUSAL_INTERVAL);
        let known = self.refusals.iter().any(|(n, a, r, _)| (*n, *a, *r) == (peer, address, reason));
        if known || self.refusals.len() >= REFUSALS_MAX {
            return;
        }
        self.refusals.push_back((peer, address, reason, now));
        self.events.push_back(Event::Refused { peer, address, reason });
    }
}
