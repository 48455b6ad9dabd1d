//! Received datagrams: sealed packets go to their circuits.

use super::Endpoint;
use crate::circuit::{CONTENT, Circuit, Fate, Outline, Sabotage, Sink, Stage};
use crate::wire::{Header, Kind, Obituary, VERSION};
use crate::{DropReason, Event, Received};
use pils::Instant;

impl Endpoint {
    pub(super) fn on_received(&mut self, now: Instant, received: Received<'_>) {
        let Received { path, from, segment, data } = received;
        let mut last = None;
        for datagram in data.chunks_mut(segment.max(1)) {
            self.stats.datagrams_received += 1;
            if self.closed {
                self.drop_datagram(DropReason::Closed);
                continue;
            }
            match datagram.first().and_then(|first| Kind::parse(*first)) {
                Some((Kind::Sealed, VERSION)) => match self.on_sealed(now, datagram) {
                    Ok(id) if last == Some(id) => {}
                    Ok(id) => {
                        self.end_burst(now, last.replace(id));
                    }
                    Err(reason) => self.drop_datagram(reason),
                },
                None if datagram.is_empty() => self.drop_datagram(DropReason::Length),
                None | Some((Kind::Sealed, _)) => self.drop_datagram(DropReason::UnknownKind),
                Some((Kind::Obituary, VERSION)) => {
                    if let Err(reason) = self.on_obituary(now, datagram) {
                        self.drop_datagram(reason);
                    }
                }
                Some((Kind::Announce, _)) => {
                    if let Err(reason) = self.on_announce(now, (path, from), datagram) {
                        self.drop_datagram(reason);
                    }
                }
                Some(_) => {
                    if let Err(reason) = self.on_handshake(now, (path, from), datagram) {
                        self.drop_datagram(reason);
                    }
                }
            }
        }
        self.end_burst(now, last);
    }

    /// A sentinel says that an incarnation is dead. Believed if the incarnation itself said, over its circuit, what the
    /// secret must be.
    fn on_obituary(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        let obituary = Obituary::parse(datagram).ok_or(DropReason::Length)?;
        let of = |c: &Circuit| c.instance == obituary.of;
        let i = self.peer_index(obituary.of.node).ok_or(DropReason::UnknownPeer)?;
        let peer = &self.peers[i];
        let ids = peer.current.into_iter().chain(peer.candidates.iter().map(|c| c.id));
        let id = ids.filter(|id| self.circuits.get(id).is_some_and(|c| of(c))).find(|id| {
            let commitment = self.circuits.get(id).and_then(|c| c.commitment.as_ref());
            let believed = self.saboteur.is(Sabotage::BelieveObituaries);
            believed || commitment.is_some_and(|hash| obituary.proves(hash))
        });
        let id = id.ok_or(DropReason::BadMac)?;
        self.on_fate(now, id, Fate::Obituary { resources: obituary.resources });
        Ok(())
    }

    fn end_burst(&mut self, now: Instant, id: Option<u32>) {
        let Some(circuit) = id.and_then(|id| self.circuits.get_mut(&id)) else { return };
        circuit.end_burst(now);
        circuit.tell_paths(now, self.tuning.heartbeat, &mut self.events);
        let i = circuit.peer;
        if self.peers[i].contest.is_some() {
            self.settle_contest(now, i);
        }
    }

    fn on_sealed(&mut self, now: Instant, datagram: &mut [u8]) -> Result<u32, DropReason> {
        let header = Header::parse(datagram).ok_or(DropReason::Length)?;
        let id = header.circuit;
        let circuit = self.circuits.get_mut(&id).ok_or(DropReason::UnknownCircuit)?;
        let first = !circuit.heard;
        let (length, path) = match circuit.open(now, header, datagram, &mut self.stats) {
            Ok(opened) => opened,
            Err(reason) => {
                if reason == DropReason::BadSeal {
                    self.on_forged(now, id);
                }
                return Err(reason);
            }
        };
        let content = &datagram[CONTENT..CONTENT + length];
        circuit.detector.heard(now, self.tuning.heartbeat);
        if circuit.stage != Stage::Open || !self.peers[circuit.peer].up {
            self.on_news(now, id, first, Circuit::outline(content));
        }
        let Some(circuit) = self.circuits.get_mut(&id) else { return Ok(id) };
        if circuit.stage == Stage::Refusing {
            return Ok(id);
        }
        let mut sink = Sink { events: &mut self.events, stats: &mut self.stats, batch: &mut self.batch };
        circuit.apply(now, (path, header.number), content, &mut sink);
        let attention = core::mem::take(&mut circuit.attention);
        if let Some(fate) = circuit.fate.take() {
            self.on_fate(now, id, fate);
        }
        if attention {
            self.on_renewal(now, id);
        }
        Ok(id)
    }

    /// Something was heard on a circuit that is not in use, or whose peer was silent.
    fn on_news(&mut self, now: Instant, id: u32, first: bool, outline: Outline) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        match circuit.stage {
            Stage::Held if !circuit.initiator && first && !outline.ends => self.challenge(now, id),
            Stage::Confirming | Stage::Accepting if outline.accepts => self.promote(now, id),
            Stage::Refusing => circuit.say(crate::wire::Frame::Refuse),
            Stage::Open if !outline.ends => {
                circuit.detector.skip_gap();
                let i = circuit.peer;
                self.events.push_back(Event::Up { peer: circuit.instance });
                self.peers[i].up = true;
            }
            Stage::Held | Stage::Confirming | Stage::Accepting | Stage::Open => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SimulatedAgreement;
    use crate::wire::hash;
    use crate::{Config, DownReason, Input, Output, PathId, Preset, Secrets};
    use core::time::Duration;
    use pils::{Incarnation, Layer as _, NodeId, NodeInstance};
    use std::net::SocketAddr;

    fn at(node: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, node], 5405))
    }

    fn node(node: u8) -> NodeInstance {
        NodeInstance::new(NodeId::new(node.into()), Incarnation::new(node.into()))
    }

    fn endpoint(me: u8, other: u8, obituary: Option<[u8; 32]>) -> Endpoint {
        let mut config = Config::new("demo", Preset::Lan).with_peer(node(other).node, at(other));
        config.obituary = obituary;
        let agreement = Box::new(SimulatedAgreement::new(me.into()));
        let secrets = Secrets { keys: vec![7; 32].into(), seed: [me; 32], agreement };
        Endpoint::new(Instant::ZERO, config, node(me), secrets).unwrap()
    }

    /// Lets the two talk for a second.
    fn run(nodes: &mut [Endpoint; 2], now: &mut Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..1000 {
            *now += Duration::from_millis(1);
            for i in 0..2 {
                nodes[i].handle_timeout(*now);
                while let Some(output) = nodes[i].poll_output() {
                    match output {
                        Output::Transmit(mut t) => {
                            let from = at(if i == 0 { 1 } else { 2 });
                            let (segment, data) = (t.segment, &mut t.data[..]);
                            let received = Received { path: PathId(0), from, segment, data };
                            nodes[1 - i].handle(*now, Input::Received(received));
                        }
                        Output::Event(event) if i == 0 => events.push(event),
                        Output::Event(_) => {}
                    }
                }
            }
        }
        events
    }

    fn hear(endpoint: &mut Endpoint, now: Instant, obituary: &Obituary) -> Vec<Event> {
        let mut data = obituary.emit();
        let segment = data.len();
        // From an address that nobody knows: a sentinel has a socket of its own.
        let received = Received { path: PathId(0), from: at(99), segment, data: &mut data };
        endpoint.handle(now, Input::Received(received));
        core::iter::from_fn(|| endpoint.poll_event()).collect()
    }

    #[test]
    fn an_obituary_counts_only_with_the_secret_that_the_incarnation_named_and_once() {
        let both = [5; 32];
        let process = hash(&both);
        let mut nodes = [endpoint(1, 2, None), endpoint(2, 1, Some(hash(&process)))];
        let mut now = Instant::from_millis(1000);
        assert!(run(&mut nodes, &mut now).iter().any(|e| matches!(e, Event::Up { .. })));
        let [survivor, _] = &mut nodes;
        let right = Obituary { of: node(2), resources: false, secret: process };
        let another_life = NodeInstance::new(node(2).node, Incarnation::new(3));
        for wrong in [
            Obituary { secret: [1; 32], ..right },
            Obituary { secret: hash(&process), ..right },
            Obituary { resources: true, ..right },
            Obituary { of: another_life, ..right },
            Obituary { of: node(1), ..right },
            Obituary { of: node(3), ..right },
        ] {
            assert!(hear(survivor, now, &wrong).is_empty(), "{wrong:?}");
        }
        assert_eq!(survivor.stats().dropped_total(), 6);
        let heard = hear(survivor, now, &right);
        let reason = DownReason::Obituary { resources: false };
        assert!(matches!(heard[..], [Event::Down { peer, reason: r }] if peer == node(2) && r == reason));
        assert!(reason.is_final() && reason.is_proof_of_death());
        // Replayed, and said of more: it has ended already.
        assert!(hear(survivor, now, &right).is_empty());
        assert!(hear(survivor, now, &Obituary { resources: true, secret: both, ..right }).is_empty());
        survivor.check_invariants();
    }

    #[test]
    fn who_named_no_secret_has_no_obituary_and_the_resources_have_one_of_their_own() {
        let both = [5; 32];
        let mut now = Instant::from_millis(1000);
        let mut nodes = [endpoint(1, 2, None), endpoint(2, 1, None)];
        run(&mut nodes, &mut now);
        let said = Obituary { of: node(2), resources: true, secret: both };
        assert!(hear(&mut nodes[0], now, &said).is_empty());
        let mut nodes = [endpoint(1, 2, None), endpoint(2, 1, Some(hash(&hash(&both))))];
        run(&mut nodes, &mut now);
        let heard = hear(&mut nodes[0], now, &said);
        let reason = DownReason::Obituary { resources: true };
        assert!(matches!(heard[..], [Event::Down { reason: r, .. }] if r == reason));
    }
}
