//! Timers and the building of packets.

use super::mtu::BASE;
use super::path::Path;
use super::recovery::{Content, Part};
use super::sabotage::Sabotage;
use super::{Circuit, Stage, Tuning};
use crate::crypto::TAG;
use crate::wire::{Frame, Header, data_fit, lane_index, lane_number, put_ack, put_data_header, put_frame};
use crate::{Lane, PathPolicy, Stats, Transmit};
use pils::Instant;

/// Bytes of one `Transmit` at most; below what the kernel takes as one segmented send.
const BURST_MAX: usize = 65_000;
/// Room below which a packet counts as full.
const CRUMB: usize = 24;

impl Circuit {
    /// When [`Circuit::on_timeout`] or a packet is due.
    pub(crate) fn deadline(&self, t: &Tuning) -> Option<Instant> {
        if self.seal.is_exhausted() {
            // Nothing is sent any more, so that nothing that would be sent is ever due.
            return self.open.deadline();
        }
        let mut at = self.open.deadline().into_iter().chain(self.renewal_at()).min();
        let mut sooner = |x: Instant| at = Some(at.map_or(x, |a: Instant| a.min(x)));
        for path in &self.paths {
            path.received.deadline().into_iter().for_each(&mut sooner);
            if self.probes_paths() {
                sooner(path.probe_at(t.heartbeat));
                if let Some((x, _)) = path.recovery.deadline(t.heartbeat) {
                    sooner(x);
                }
                if self.stage == Stage::Open && path.is_up() {
                    path.mtu.deadline().into_iter().for_each(&mut sooner);
                }
            }
        }
        at
    }

    const fn probes_paths(&self) -> bool {
        matches!(self.stage, Stage::Confirming | Stage::Accepting | Stage::Open)
    }

    /// Fires what is due: losses by time, probe timeouts, idle probes.
    pub(crate) fn on_timeout(&mut self, now: Instant, t: &Tuning, stats: &mut Stats) {
        self.open.forget(now);
        if !self.probes_paths() {
            return;
        }
        for i in 0..self.paths.len() {
            match self.paths[i].recovery.deadline(t.heartbeat) {
                Some((at, false)) if at <= now => self.detect_lost(now, i, stats),
                Some((at, true)) if at <= now => self.on_probe_timeout(now, t, i, stats),
                _ => {}
            }
            let path = &mut self.paths[i];
            path.mtu.on_timeout(now);
            path.ping |= path.probe_at(t.heartbeat) <= now;
        }
    }

    pub(super) fn detect_lost(&mut self, now: Instant, i: usize, stats: &mut Stats) {
        let Self { paths, outgoing, credit_due, accept_due, .. } = self;
        let mut large = false;
        let lost = paths[i].recovery.detect_lost(now, |content| {
            large |= content.large;
            content.again(outgoing);
            *credit_due |= content.credit;
            *accept_due |= content.accept;
        });
        paths[i].count(0, lost);
        paths[i].on_large_lost(now, large);
        stats.packets_lost += lost;
    }

    /// Nothing came back on a path: probes every path, and moves the data to one that answers.
    fn on_probe_timeout(&mut self, now: Instant, t: &Tuning, i: usize, stats: &mut Stats) {
        stats.probe_timeouts += 1;
        let first = self.paths[i].recovery.probes() == 0;
        let large = self.paths[i].recovery.is_large_oldest();
        self.paths[i].on_large_lost(now, large);
        self.paths[i].alone = true;
        if self.move_away(i) {
            self.paths[i].recovery.on_probe_timeout(now, 0, |_| {});
        } else {
            let Self { paths, outgoing, credit_due, accept_due, .. } = self;
            paths[i].recovery.on_probe_timeout(now, 2, |content| {
                content.again(outgoing);
                *credit_due |= content.credit;
                *accept_due |= content.accept;
            });
            self.probes = if first { 2 } else { 1 };
        }
        let others = (0..self.paths.len()).any(|k| k != i && self.paths[k].is_up());
        self.paths[i].on_unanswered(now, t.heartbeat, others);
        self.choose_path();
        if first {
            self.paths.iter_mut().for_each(|p| p.ping = true);
        }
        self.paths[i].ping = true;
    }

    /// True if a packet should go out now on path `i`.
    fn wants(&self, now: Instant, i: usize) -> bool {
        let path = &self.paths[i];
        path.ping
            || path.received.deadline().is_some_and(|at| at <= now)
            || !path.copies.is_empty() && path.recovery.has_room(true)
            || self.carries(i)
                && (self.accept_due
                    || self.renewal_due
                    || self.credit_due != 0
                    || !self.once.is_empty()
                    || Lane::ALL.iter().any(|lane| self.may_send(i, *lane)))
    }

    fn may_send(&self, i: usize, lane: Lane) -> bool {
        self.stage == Stage::Open
            && self.outgoing[lane_index(lane)].is_ready()
            && (self.policy != PathPolicy::Balance || self.earliest() == i)
            && (self.probes > 0 || self.paths[i].recovery.has_room(lane == Lane::Urgent))
    }

    /// True if [`Circuit::build`] has something to send that only the budget of the turn holds back.
    pub(crate) fn is_over_budget(&self, now: Instant) -> bool {
        self.budget == 0 && !self.seal.is_exhausted() && (0..self.paths.len()).any(|i| self.wants(now, i))
    }

    /// As [`build`](Self::build), but at most once after there was nothing in this turn: nothing happens to a circuit within a
    /// turn but that it sends.
    pub(crate) fn build_in_turn(
        &mut self,
        now: Instant,
        t: &Tuning,
        stats: &mut Stats,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if self.quiet {
            return None;
        }
        let transmit = self.build(now, t, stats, buffer);
        self.quiet = transmit.is_none();
        transmit
    }

    /// Builds the next burst for one path into `buffer`: packets of equal size, but for the last.
    pub(crate) fn build(
        &mut self,
        now: Instant,
        t: &Tuning,
        stats: &mut Stats,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if self.budget == 0 || self.seal.is_exhausted() {
            return None;
        }
        self.prune_copies();
        if let Some(probe) = self.build_mtu_probe(now, t, stats, buffer) {
            return Some(probe);
        }
        let i = core::iter::once(self.active).chain(0..self.paths.len()).find(|i| self.wants(now, *i))?;
        buffer.clear();
        let (size, alone) = (self.paths[i].mtu.size(), self.paths[i].alone);
        let mut more = true;
        while more {
            let start = buffer.len();
            let mut content = self.fill(now, t, i, (buffer, stats));
            let full = start + size;
            more = !alone && full + size <= BURST_MAX.max(size) && full <= self.budget && self.wants(now, i);
            if more {
                buffer.resize(full - TAG, 0);
            }
            let path = &mut self.paths[i];
            self.seal.seal(path.id.0, path.recovery.next_number(), buffer, start);
            content.large = buffer.len() - start > BASE;
            path.recovery.on_sent(now, buffer.len() - start, content);
            if path.bug.is(Sabotage::CountFromLastSend) {
                path.recovery.wait_anew(now);
            }
            path.sent_at = now;
            stats.packets_sent += 1;
            // What was just sent may have been the last that the window admits.
            more = more && self.wants(now, i) && !self.seal.is_exhausted();
        }
        self.budget = self.budget.saturating_sub(buffer.len());
        let path = &self.paths[i];
        let segment = size.min(buffer.len());
        Some(Transmit { path: path.id, to: path.address, segment, data: core::mem::take(buffer) })
    }

    /// Writes header and frames of one packet, without the tag.
    fn fill(&mut self, now: Instant, t: &Tuning, i: usize, out: (&mut Vec<u8>, &mut Stats)) -> Content {
        let (buffer, stats) = out;
        self.seal.renew(now, t.renewal, stats);
        let start = buffer.len();
        let end = start + self.paths[i].mtu.size() - TAG;
        let path = &self.paths[i];
        let number = path.recovery.next_number();
        Header {
            phase: self.seal.phase(),
            generation: self.seal.generation(),
            path: path.id.0,
            circuit: self.remote_id,
            number,
        }
        .emit(buffer);
        let mut content = Content::default();
        // Data that stops at the window needs the next acknowledgement without delay.
        let stops = self.carries(i)
            && self.paths[i].recovery.is_filled_by(self.paths[i].mtu.size())
            && Lane::ALL.iter().any(|lane| self.may_send(i, *lane));
        let path = &mut self.paths[i];
        if path.received.deadline().is_some() {
            let (delay, mut ranges) = path.received.take_ack(now);
            if path.bug.is(Sabotage::AckUnsent)
                && let Some((_, highest)) = ranges.next()
            {
                let never = highest + (1 << 40);
                put_ack(buffer, path.id.0, delay, 400, core::iter::once((never, never)));
            } else {
                put_ack(buffer, path.id.0, delay, (end - buffer.len()).min(400), ranges);
            }
        }
        if core::mem::take(&mut path.ping) || stops {
            put_frame(buffer, &Frame::Ping);
            content.ping = true;
        }
        let alone = core::mem::take(&mut path.alone);
        if self.carries(i) {
            self.fill_control(t, buffer, &mut content);
        }
        if alone {
            return content;
        }
        if self.carries(i) {
            self.fill_data(i, end, buffer, &mut content);
        }
        self.fill_copies(i, end, buffer, &mut content);
        content
    }

    /// A packet of nothing but PING and padding, to see whether its size passes. It takes part in no loss recovery.
    fn build_mtu_probe(
        &mut self,
        now: Instant,
        t: &Tuning,
        stats: &mut Stats,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if self.stage != Stage::Open {
            return None;
        }
        let due = |(i, p): (usize, &Path)| p.mtu.due(now).filter(|_| p.is_up()).map(|size| (i, size));
        let (i, size) = self.paths.iter().enumerate().find_map(due)?;
        self.seal.renew(now, t.renewal, stats);
        buffer.clear();
        let path = &mut self.paths[i];
        let number = path.recovery.next_number();
        let (phase, generation) = (self.seal.phase(), self.seal.generation());
        Header { phase, generation, path: path.id.0, circuit: self.remote_id, number }.emit(buffer);
        put_frame(buffer, &Frame::Ping);
        buffer.resize(size - TAG, 0);
        self.seal.seal(path.id.0, number, buffer, 0);
        path.recovery.on_sent(now, size, Content::default());
        path.mtu.on_probe_sent(now, number, size, path.recovery.pto());
        stats.packets_sent += 1;
        self.budget = self.budget.saturating_sub(size);
        Some(Transmit { path: path.id, to: path.address, segment: size, data: core::mem::take(buffer) })
    }

    /// Sends pieces a second time that go out on another path first. What of them does not fit stays.
    fn fill_copies(&mut self, i: usize, end: usize, buffer: &mut Vec<u8>, content: &mut Content) {
        let Self { paths, outgoing, .. } = self;
        let path = &mut paths[i];
        content.copied = content.parts().is_empty();
        while end.saturating_sub(buffer.len()) > CRUMB && !content.is_full() {
            let Some(part) = path.copies.pop_front() else { break };
            let lane = Lane::ALL[usize::from(part.lane)];
            let range = outgoing[lane_index(lane)].unacknowledged(part.start..part.end);
            if range.is_empty() {
                continue;
            }
            let fit = data_fit(range.start, end - buffer.len()) as u64;
            let now = range.start..range.end.min(range.start + fit);
            if now.end < range.end {
                path.copies.push_front(Part { start: now.end, ..part });
            }
            put_data_header(buffer, lane, now.start, crate::wire::to_size(now.end - now.start));
            outgoing[lane_index(lane)].copy(now.clone(), buffer);
            content.push(Part { lane: part.lane, start: now.start, end: now.end });
        }
    }

    fn fill_control(&mut self, t: &Tuning, buffer: &mut Vec<u8>, content: &mut Content) {
        for frame in self.once.drain(..) {
            put_frame(buffer, &frame);
        }
        if self.renewal_due {
            self.put_renewal(buffer);
            content.ping = true;
        }
        if core::mem::take(&mut self.accept_due) {
            put_frame(buffer, &Frame::Accept { message_max: t.message_max as u64 });
            if let Some(hash) = &t.commitment {
                put_frame(buffer, &Frame::Commitment(hash));
            }
            content.accept = true;
        }
        if self.credit_due != 0 && self.stage == Stage::Open {
            for (lane, incoming) in Lane::ALL.into_iter().zip(&mut self.incoming) {
                if self.credit_due >> lane_number(lane) & 1 == 1 {
                    put_frame(buffer, &Frame::Credit { lane, limit: incoming.grant() });
                }
            }
            content.credit = core::mem::take(&mut self.credit_due);
        }
    }

    fn fill_data(&mut self, i: usize, end: usize, buffer: &mut Vec<u8>, content: &mut Content) {
        let within = self.paths[i].recovery.has_room(false);
        let before = content.parts().len();
        for lane in Lane::ALL {
            while end.saturating_sub(buffer.len()) > CRUMB && !content.is_full() && self.may_send(i, lane) {
                let outgoing = &mut self.outgoing[lane_index(lane)];
                let Some(range) = outgoing.take(end - buffer.len()) else { break };
                let length = crate::wire::to_size(range.end - range.start);
                put_data_header(buffer, lane, range.start, length);
                outgoing.copy(range.clone(), buffer);
                content.push(Part { lane: lane_number(lane), start: range.start, end: range.end });
                self.send_copies(i, lane, &range);
            }
        }
        if !within && content.parts().len() > before {
            self.probes = self.probes.saturating_sub(1);
        }
    }

    /// Packets that say `frame`, three on every path, each in a datagram of its own.
    pub(crate) fn farewell(&mut self, now: Instant, frame: &Frame<'_>) -> Vec<Transmit> {
        let mut out = Vec::new();
        for _ in 0..3 {
            for path in &mut self.paths {
                let number = path.recovery.next_number();
                let mut data = Vec::with_capacity(64);
                let (phase, generation) = (self.seal.phase(), self.seal.generation());
                Header { phase, generation, path: path.id.0, circuit: self.remote_id, number }
                    .emit(&mut data);
                put_frame(&mut data, frame);
                self.seal.seal(path.id.0, number, &mut data, 0);
                path.recovery.on_sent(now, data.len(), Content::default());
                out.push(Transmit { path: path.id, to: path.address, segment: data.len(), data });
            }
        }
        out
    }
}
