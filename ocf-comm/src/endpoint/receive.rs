//! Received datagrams: sealed packets go to their circuits.

use super::Endpoint;
use crate::circuit::{CONTENT, Circuit, Outline, Sink, Stage};
use crate::wire::{Header, Kind, VERSION};
use crate::{DropReason, Event, Received};
use pils::Instant;

impl Endpoint {
    pub(super) fn on_received(&mut self, now: Instant, received: Received<'_>) {
        let Received { path, from, segment, data } = received;
        let mut left = data.len();
        let mut last = None;
        for datagram in data.chunks_mut(segment.max(1)) {
            self.stats.datagrams_received += 1;
            self.batch.expected = left;
            left -= datagram.len();
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
                Some(_) => {
                    if let Err(reason) = self.on_handshake(now, (path, from), datagram) {
                        self.drop_datagram(reason);
                    }
                }
            }
        }
        self.end_burst(now, last);
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
