//! The side that is called, and what both sides check first.

use super::Endpoint;
use super::peer::CANDIDATES_MAX;
use crate::circuit::Start;
use crate::crypto::{Direction, Transcript, circuit_secrets};
use crate::suite::Offer;
use crate::wire::{Envelope, Handshake, REFUSED_OFFER, REFUSED_STRANGER, VERSION, seal_handshake};
use crate::{DropReason, KeyId, PathId, Refusal};
use core::time::Duration;
use pils::wire::Writer as _;
use pils::{Instant, NodeInstance};
use std::net::{IpAddr, SocketAddr};

/// A cookie is good for one to two of these.
const COOKIE_AGE: Duration = Duration::from_secs(30);

/// What an INIT asks for: nonce, circuit id, public key, offer.
type Request = ([u8; 16], u32, [u8; 32], Offer);

/// Who sent a handshake message, and how it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parties {
    pub(super) peer: usize,
    /// The cluster key that it came with, and that the answer goes with.
    pub(super) key: KeyId,
    pub(super) from: NodeInstance,
    pub(super) path: PathId,
    pub(super) address: SocketAddr,
}

impl Endpoint {
    pub(super) fn on_handshake(
        &mut self,
        now: Instant,
        came: (PathId, SocketAddr),
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let (_, address) = came;
        let (envelope, content) = Envelope::open(&self.keys, datagram)?;
        let Envelope { from, to, .. } = envelope;
        if envelope.version != VERSION {
            let reason = Refusal::Incompatible { ours: VERSION, theirs: envelope.newest };
            self.tell_refusal(now, from.node, address, reason);
            return Err(DropReason::OtherVersion);
        }
        if envelope.cluster != self.cluster {
            self.tell_refusal(now, from.node, address, Refusal::OtherCluster);
            return Err(DropReason::OtherCluster);
        }
        if to != self.local.node {
            return Err(DropReason::UnknownPeer);
        }
        let Some(peer) = self.peer_index(from.node) else {
            self.turn_away(now, came, &envelope, &datagram[..content]);
            return Err(DropReason::UnknownPeer);
        };
        if self.peers[peer].dead.contains(&from.incarnation) {
            return Err(DropReason::DeadIncarnation);
        }
        let body =
            Handshake::parse(envelope.kind, &datagram[..content]).map_err(|_parse| DropReason::Malformed)?;
        let p = Parties { peer, key: envelope.key, from, path: PathId(envelope.path), address };
        match body {
            Handshake::Hello { salt } => self.on_hello(now, p, salt),
            Handshake::Init { .. } => self.on_init(now, p, &body),
            Handshake::Cookie { nonce, cookie } => self.on_cookie(p, nonce, cookie),
            Handshake::Response { .. } => self.on_response(now, p, &body),
            Handshake::Refuse { salt, reason } => self.on_refuse(now, p, (salt, reason)),
        }
    }

    /// A node that has the key and is no peer hears that it is none, so that its operator need not guess. No answer is longer than what
    /// it answers, and there are few.
    fn turn_away(
        &mut self,
        now: Instant,
        (_, address): (PathId, SocketAddr),
        envelope: &Envelope,
        content: &[u8],
    ) {
        let (from, key, path) = (envelope.from, envelope.key, PathId(envelope.path));
        let salt = match Handshake::parse(envelope.kind, content) {
            Ok(Handshake::Hello { salt }) => salt,
            Ok(Handshake::Init { nonce, .. }) => nonce,
            Ok(Handshake::Cookie { .. } | Handshake::Response { .. } | Handshake::Refuse { .. }) | Err(_) => {
                return;
            }
        };
        let found_soon = self.discovery.as_ref().is_some_and(|d| d.accepts(from.node));
        if now < self.stranger_gate || found_soon || from.node == self.local.node {
            return;
        }
        self.stranger_gate = now + self.tuning.heartbeat / 4;
        self.tell_refusal(now, from.node, address, Refusal::NotAPeer);
        if let Some(mac) = self.keys.handshake(key) {
            let refuse = Handshake::Refuse { salt, reason: REFUSED_STRANGER };
            let body = (&self.cluster, &refuse);
            let data = seal_handshake((key, mac), path.0, self.local, from.node, body);
            self.send_control(path, address, data);
        }
    }

    /// What proves that the sender of an INIT receives at its address; a function, so that nothing need be remembered.
    fn cookie(&self, epoch: u64, p: Parties, (nonce, circuit, public, offer): Request) -> [u8; 32] {
        let mut content = Vec::with_capacity(160);
        content.push(p.key.0);
        content.extend_from_slice(&epoch.to_be_bytes());
        match p.address.ip() {
            IpAddr::V4(ip) => content.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => content.extend_from_slice(&ip.octets()),
        }
        content.extend_from_slice(&p.address.port().to_be_bytes());
        content.push(p.path.0);
        content.put_instance(p.from);
        content.extend_from_slice(&nonce);
        content.extend_from_slice(&circuit.to_be_bytes());
        content.extend_from_slice(&public);
        content.extend_from_slice(&offer.bytes());
        self.cookies.sign(&content)
    }

    /// A smaller node wants a circuit. Until a sealed packet proves that the request is fresh, nothing that lives is
    /// touched.
    fn on_init(&mut self, now: Instant, p: Parties, body: &Handshake) -> Result<(), DropReason> {
        let Parties { peer: i, from, path, address, .. } = p;
        let Handshake::Init { nonce, circuit, public, cookie, offer } = *body else {
            return Err(DropReason::UnknownKind);
        };
        if from.node > self.local.node {
            return Err(DropReason::UnknownPeer);
        }
        let epoch = now.as_nanos() / u64::try_from(COOKIE_AGE.as_nanos()).unwrap_or(u64::MAX);
        let request = (nonce, circuit, public, offer);
        let known = |epoch: u64| same_cookie(&self.cookie(epoch, p, request), &cookie);
        if !known(epoch) && !epoch.checked_sub(1).is_some_and(known) {
            let cookie = self.cookie(epoch, p, request);
            self.answer_handshake(p, &Handshake::Cookie { nonce, cookie });
            return Ok(());
        }
        let peer = &self.peers[i];
        let current = peer.current.and_then(|id| self.circuits.get(&id));
        if current.is_some_and(|c| c.instance == from) {
            return Err(DropReason::StaleHandshake);
        }
        if let Some(again) = peer.candidates.iter().find(|c| c.nonce == nonce && !c.response.is_empty()) {
            let response = again.response.clone();
            self.send_control(path, address, response);
            return Ok(());
        }
        self.respond(now, p, request)
    }

    fn respond(
        &mut self,
        now: Instant,
        p: Parties,
        (nonce, circuit, public, offer): Request,
    ) -> Result<(), DropReason> {
        let Parties { peer: i, from, path, address, .. } = p;
        let Some((choice, suite, codec)) = self.kit.choose(&offer) else {
            self.answer_handshake(p, &Handshake::Refuse { salt: nonce, reason: REFUSED_OFFER });
            self.tell_refusal(now, from.node, address, Refusal::NoCommonProtection);
            return Ok(());
        };
        let key = self.agreement.generate().ok_or(DropReason::NoRoom)?;
        let own_public = key.public();
        let shared = key.agree(&public).ok_or(DropReason::Malformed)?;
        let own_nonce = self.random.bytes();
        let local_id = self.fresh_circuit_id();
        let transcript = Transcript {
            cluster: self.cluster,
            key: p.key,
            initiator: from,
            responder: self.local,
            initiator_nonce: nonce,
            responder_nonce: own_nonce,
            initiator_public: public,
            responder_public: own_public,
            initiator_circuit: circuit,
            responder_circuit: local_id,
            offer: offer.bytes(),
            choice: choice.bytes(),
            generation: 0,
        };
        let cluster_key = self.keys.secret(p.key).ok_or(DropReason::UnknownKey)?;
        let secret = |direction| circuit_secrets(&shared, cluster_key, &transcript, direction);
        let start = Start {
            peer: i,
            instance: from,
            local_id,
            remote_id: circuit,
            initiator: false,
            seal: secret(Direction::FromResponder),
            open: secret(Direction::FromInitiator),
            key: p.key,
            suite,
            codec,
        };
        self.evict_candidate(i)?;
        let to = from.incarnation.raw();
        let body =
            Handshake::Response { nonce, to, own_nonce, circuit: local_id, public: own_public, choice };
        self.answer_handshake(p, &body);
        let response = self.control.back().map(|t| t.data.clone()).unwrap_or_default();
        self.add_candidate(now, &start, (path, address), (nonce, response));
        Ok(())
    }

    /// Makes room for a candidate: the oldest that was not heard goes first, then the oldest.
    fn evict_candidate(&mut self, i: usize) -> Result<(), DropReason> {
        let peer = &self.peers[i];
        if peer.candidates.len() < CANDIDATES_MAX {
            return Ok(());
        }
        let contested = peer.contest.map(|c| c.challenger);
        let heard = |id: u32| self.circuits.get(&id).is_some_and(|c| c.heard);
        let oldest = peer.candidates.iter().map(|c| c.id).filter(|id| contested != Some(*id));
        let oldest = oldest.min_by_key(|id| heard(*id)).ok_or(DropReason::NoRoom)?;
        self.discard(i, oldest);
        Ok(())
    }
}

/// Compares in a time that does not depend on the content.
fn same_cookie(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SimulatedAgreement;
    use crate::wire::seal_handshake;
    use crate::{Config, Event, Input, Preset, Received, Secrets};
    use pils::{Incarnation, Layer as _, NodeId};

    #[test]
    fn a_peer_of_another_version_is_refused_with_both_versions_and_told_once() {
        let at = SocketAddr::from(([10, 0, 0, 2], 5405));
        let config = Config::new("demo", Preset::Lan).with_peer(NodeId::new(2), at);
        let local = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
        let agreement = Box::new(SimulatedAgreement::new(1));
        let secrets = Secrets { keys: vec![1; 32].into(), seed: [1; 32], agreement };
        let mut endpoint = Endpoint::new(Instant::ZERO, config, local, secrets).unwrap();
        let from = NodeInstance::new(NodeId::new(2), Incarnation::new(2));
        let hello = Handshake::Hello { salt: [0; 16] };
        let mac = endpoint.keys.handshake(KeyId(0)).unwrap();
        let mut datagram = seal_handshake((KeyId(0), mac), 0, from, local.node, (&endpoint.cluster, &hello));
        let content = datagram.len() - 32;
        datagram[0] = datagram[0] & 0xf0 | 2;
        datagram[1] = 3;
        let code = mac.sign(&datagram[..content]);
        datagram[content..].copy_from_slice(&code);
        for _ in 0..3 {
            let (segment, data) = (datagram.len(), &mut datagram);
            let received = Received { path: PathId(0), from: at, segment, data };
            endpoint.handle(Instant::from_millis(1), Input::Received(received));
        }
        let events: Vec<Event> = core::iter::from_fn(|| endpoint.poll_event()).collect();
        let reason = Refusal::Incompatible { ours: 1, theirs: 3 };
        assert!(
            matches!(events[..], [Event::Refused { peer, reason: r, .. }] if peer == from.node && r == reason)
        );
        assert_eq!(endpoint.stats().dropped(DropReason::OtherVersion), 3);
    }
}
