//! The side that calls: HELLO, INIT, and what answers them.

use super::handshake::Parties;
use super::peer::{Attempt, Candidate, Peer};
use super::{CONTROL_MAX, Endpoint};
use crate::circuit::{Circuit, Start};
use crate::crypto::{Direction, Transcript, circuit_secrets};
use crate::wire::{Handshake, REFUSED_DOUBLE, REFUSED_OFFER, REFUSED_STRANGER, seal_handshake};
use crate::{DropReason, KeyId, PathId, Refusal, Transmit};
use core::time::Duration;
use pils::{Incarnation, Instant, NodeInstance};
use std::net::SocketAddr;

/// Longest time between two tries.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A handshake that a HELLO caused beside a living circuit is given up after this many tries.
const TRIES_BESIDE: u32 = 4;
/// Tries after which an attempt starts over with fresh secrets.
const TRIES_MAX: u32 = 32;
/// Cookies that one try may use.
const COOKIES_MAX: u32 = 8;

impl Endpoint {
    /// True if this node is the one to initiate: the smaller id.
    fn initiates(&self, peer: &Peer) -> bool {
        self.local.node < peer.node
    }

    /// When to try to connect, if there is a reason to.
    pub(super) fn connect_at(&self, peer: &Peer) -> Option<Instant> {
        if let Some(attempt) = &peer.attempt {
            return Some(attempt.next_at);
        }
        let underway = |c: &Candidate| self.circuits.get(&c.id).is_some_and(|c| c.initiator || c.heard);
        let idle = peer.current.is_none() && !peer.candidates.iter().any(underway);
        idle.then_some(peer.next_at)
    }

    /// Tries to connect, if that is due.
    pub(super) fn connect_peer(&mut self, now: Instant, i: usize) {
        if self.connect_at(&self.peers[i]).is_none_or(|at| at > now) {
            return;
        }
        if !self.initiates(&self.peers[i]) {
            self.send_hello(now, i);
            return;
        }
        let beside = self.peers[i].current.is_some();
        match &self.peers[i].attempt {
            Some(attempt) if beside && attempt.tries >= TRIES_BESIDE => self.peers[i].attempt = None,
            Some(attempt) if attempt.tries >= TRIES_MAX => {
                self.peers[i].attempt = None;
                self.start_attempt(now, i, self.keys.sends_with());
            }
            Some(_) => self.send_init(now, i),
            None => self.start_attempt(now, i, self.keys.sends_with()),
        }
    }

    /// Time until the next try: from a quarter of a heartbeat, doubling.
    fn retry(&self, tries: u32) -> Duration {
        let base = (self.tuning.heartbeat / 4).max(Duration::from_millis(5));
        base.saturating_mul(1 << tries.min(12)).min(RETRY_MAX.max(base))
    }

    fn send_hello(&mut self, now: Instant, i: usize) {
        let salt = self.random.bytes();
        let wait = self.retry(self.peers[i].tries);
        let peer = &mut self.peers[i];
        peer.tries += 1;
        peer.next_at = now + wait;
        peer.hello_salt = Some(salt);
        for (path, address) in peer.addresses.clone() {
            self.send_handshake(i, self.keys.sends_with(), (path, address), &Handshake::Hello { salt });
        }
    }

    /// Starts a handshake, with this one of the cluster's keys.
    pub(super) fn start_attempt(&mut self, now: Instant, i: usize, cluster_key: KeyId) {
        let wait = self.retry(self.peers[i].tries);
        self.peers[i].tries += 1;
        self.peers[i].next_at = now + wait;
        let Some(key) = self.agreement.generate() else { return };
        let attempt = Attempt {
            nonce: self.random.bytes(),
            circuit: self.fresh_circuit_id(),
            cluster_key,
            public: key.public(),
            key,
            cookie: None,
            cookies: 0,
            tries: 0,
            sent_at: now,
            next_at: now,
        };
        self.peers[i].attempt = Some(attempt);
        self.send_init(now, i);
    }

    /// Sends the INIT of the attempt: where the cookie is good, or everywhere if there is none.
    pub(super) fn send_init(&mut self, now: Instant, i: usize) {
        let tries =
            self.peers[i].attempt.as_ref().map_or(0, |a| a.tries).max(self.peers[i].tries.saturating_sub(1));
        let wait = self.retry(tries);
        let peer = &mut self.peers[i];
        let Some(attempt) = &mut peer.attempt else { return };
        attempt.tries += 1;
        attempt.cookies = 0;
        (attempt.sent_at, attempt.next_at) = (now, now + wait);
        let Attempt { nonce, circuit, public, cookie, cluster_key, .. } = *attempt;
        let init = |cookie| Handshake::Init { nonce, circuit, public, cookie, offer: self.kit.offer() };
        match cookie {
            Some((path, address, cookie)) => {
                let init = init(cookie);
                self.send_handshake(i, cluster_key, (path, address), &init);
            }
            None => {
                let init = init([0; 32]);
                for (path, address) in peer.addresses.clone() {
                    self.send_handshake(i, cluster_key, (path, address), &init);
                }
            }
        }
    }

    /// Sends a message with this one of the cluster's keys.
    pub(super) fn send_handshake(
        &mut self,
        i: usize,
        key: KeyId,
        (path, to): (PathId, SocketAddr),
        body: &Handshake,
    ) {
        let Some(mac) = self.keys.handshake(key) else { return };
        let body = (&self.cluster, body);
        let data = seal_handshake((key, mac), path.0, self.local, self.peers[i].node, body);
        self.send_control(path, to, data);
    }

    /// Answers a message where it came from and with the key that it came with.
    pub(super) fn answer_handshake(&mut self, p: Parties, body: &Handshake) {
        self.send_handshake(p.peer, p.key, (p.path, p.address), body);
    }

    pub(super) fn send_control(&mut self, path: PathId, to: SocketAddr, data: Vec<u8>) {
        if self.control.len() < CONTROL_MAX {
            self.stats.handshakes_sent += 1;
            self.control.push_back(Transmit { path, to, segment: data.len(), data });
        }
    }

    /// An id that no circuit and no attempt of this node uses.
    pub(super) fn fresh_circuit_id(&mut self) -> u32 {
        loop {
            let id = self.random.u32();
            let used = self.circuits.contains_key(&id)
                || self.peers.iter().any(|p| p.attempt.as_ref().is_some_and(|a| a.circuit == id));
            if id != 0 && !used {
                return id;
            }
        }
    }

    /// A larger node says that it has no circuit with this one. It may be a replay: nothing that lives is touched.
    pub(super) fn on_hello(&mut self, now: Instant, p: Parties, salt: [u8; 16]) -> Result<(), DropReason> {
        let Parties { peer: i, from, address, .. } = p;
        if from.node < self.local.node {
            return Err(DropReason::UnknownPeer);
        }
        let settle = self.tuning.heartbeat;
        let peer = &self.peers[i];
        let current = peer.current.and_then(|id| self.circuits.get(&id));
        if current.is_some_and(|c| c.instance == from) {
            return Err(DropReason::StaleHandshake);
        }
        if peer.up && !peer.addresses.iter().any(|(_, known)| *known == address) {
            // An INIT would go to the address of the peer that lives, so the double would never hear of it.
            if now >= peer.refuse_gate {
                self.peers[i].refuse_gate = now + settle;
                self.answer_handshake(p, &Handshake::Refuse { salt, reason: REFUSED_DOUBLE });
                self.tell_refusal(now, from.node, address, Refusal::DuplicateNode);
            }
            return Ok(());
        }
        if let Some(attempt) = &peer.attempt {
            if now >= attempt.sent_at + self.tuning.heartbeat / 8 {
                self.send_init(now, i);
            }
            return Ok(());
        }
        if peer.contest.is_some() || now < peer.hello_gate {
            return Ok(());
        }
        let asking = peer.candidates.iter().filter_map(|c| self.circuits.get(&c.id)).find(|c| c.initiator);
        let asking = asking.map(|c| (c.local_id, c.instance == from || c.heard || now < c.since + settle));
        match asking {
            Some((_, true)) => Ok(()),
            other => {
                other.into_iter().for_each(|(id, _)| self.discard(i, id));
                let peer = &mut self.peers[i];
                peer.tries = 0;
                peer.hello_gate = now + settle / 2;
                // The key that the peer certainly has.
                self.start_attempt(now, i, p.key);
                Ok(())
            }
        }
    }

    /// The other end says that this node's id is in use by another living node, in answer to the last HELLO; that there
    /// is no way of sealing that both take, in answer to an INIT; or that this node is no peer of it, in answer to either.
    pub(super) fn on_refuse(
        &mut self,
        now: Instant,
        p: Parties,
        (salt, reason): ([u8; 16], u8),
    ) -> Result<(), DropReason> {
        let Parties { peer: i, from, address, .. } = p;
        let peer = &mut self.peers[i];
        let asked = peer.current.is_none() && peer.attempt.as_ref().is_some_and(|a| a.nonce == salt);
        let refusal = if reason == REFUSED_STRANGER && asked {
            peer.attempt = None;
            Refusal::NotAPeer
        } else if reason == REFUSED_OFFER {
            peer.attempt.take_if(|a| a.nonce == salt).ok_or(DropReason::StaleHandshake)?;
            Refusal::NoCommonProtection
        } else {
            if peer.current.is_some() || peer.hello_salt != Some(salt) {
                return Err(DropReason::StaleHandshake);
            }
            peer.hello_salt = None;
            if reason == REFUSED_STRANGER { Refusal::NotAPeer } else { Refusal::DuplicateNode }
        };
        peer.next_at = now + Duration::from_secs(1).max(self.tuning.detection * 2);
        self.tell_refusal(now, from.node, address, refusal);
        Ok(())
    }

    /// The responder asks for proof that this node receives where it says.
    pub(super) fn on_cookie(
        &mut self,
        p: Parties,
        nonce: [u8; 16],
        cookie: [u8; 32],
    ) -> Result<(), DropReason> {
        let Parties { peer: i, path, address, .. } = p;
        let offer = self.kit.offer();
        let attempt = self.peers[i].attempt.as_mut();
        let attempt =
            attempt.filter(|a| (a.nonce, a.cluster_key) == (nonce, p.key) && a.cookies < COOKIES_MAX);
        let attempt = attempt.ok_or(DropReason::StaleHandshake)?;
        attempt.cookies += 1;
        attempt.cookie = Some((path, address, cookie));
        let Attempt { circuit, public, .. } = *attempt;
        self.answer_handshake(p, &Handshake::Init { nonce, circuit, public, cookie, offer });
        Ok(())
    }

    /// The answer to this node's INIT: the keys are known, and the responder is proven to live.
    pub(super) fn on_response(
        &mut self,
        now: Instant,
        p: Parties,
        body: &Handshake,
    ) -> Result<(), DropReason> {
        let Parties { peer: i, from, path, address, key } = p;
        let Handshake::Response { nonce, to, own_nonce, circuit, public, choice } = *body else {
            return Err(DropReason::UnknownKind);
        };
        let to = NodeInstance::new(self.local.node, Incarnation::new(to));
        let peer = &mut self.peers[i];
        let current = peer.current.and_then(|id| self.circuits.get(&id));
        if to != self.local || current.is_some_and(|c| c.instance == from) {
            return Err(DropReason::StaleHandshake);
        }
        let (suite, codec) = self.kit.take(choice).ok_or(DropReason::Malformed)?;
        let cluster_key = self.keys.secret(key).ok_or(DropReason::UnknownKey)?;
        let attempt = peer.attempt.take_if(|a| (a.nonce, a.cluster_key) == (nonce, key));
        let attempt = attempt.ok_or(DropReason::StaleHandshake)?;
        let own_public = attempt.public;
        let shared = attempt.key.agree(&public).ok_or(DropReason::StaleHandshake)?;
        let transcript = Transcript {
            cluster: self.cluster,
            key,
            initiator: self.local,
            responder: from,
            initiator_nonce: nonce,
            responder_nonce: own_nonce,
            initiator_public: own_public,
            responder_public: public,
            initiator_circuit: attempt.circuit,
            responder_circuit: circuit,
            offer: self.kit.offer().bytes(),
            choice: choice.bytes(),
            generation: 0,
        };
        let secret = |direction| circuit_secrets(&shared, cluster_key, &transcript, direction);
        let start = Start {
            peer: i,
            instance: from,
            local_id: attempt.circuit,
            remote_id: circuit,
            initiator: true,
            seal: secret(Direction::FromInitiator),
            open: secret(Direction::FromResponder),
            key,
            suite,
            codec,
        };
        let id = start.local_id;
        self.add_candidate(now, &start, (path, address), (nonce, Vec::new()));
        self.challenge(now, id);
        Ok(())
    }

    pub(super) fn add_candidate(
        &mut self,
        now: Instant,
        start: &Start,
        came: (PathId, SocketAddr),
        (nonce, response): ([u8; 16], Vec<u8>),
    ) {
        let mut circuit = Circuit::new(now, &self.config, &self.peers[start.peer].addresses, start);
        circuit.sabotage(self.saboteur);
        self.circuits.insert(start.local_id, Box::new(circuit));
        self.peers[start.peer].candidates.push(Candidate { id: start.local_id, nonce, response, came });
    }
}
