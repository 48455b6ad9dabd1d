//! One turn: give own messages their place, stamp, deliver, report, close the batch.

use super::{Groups, Sync, sabotaged};
use crate::wire::{Item, head_len, start_batch, write_have, write_stamp};
use crate::{Event, Guarantee, MemberId, Output, Position};
use ocf_comm::Lane;
use pils::NodeInstance;
use std::sync::Arc;

/// Runs in one stamp frame, at most.
const RUNS_MAX: usize = 2048;
/// Places delivered in one turn, at most, so that what is on its way to the application stays in the processor's cache.
const DELIVERIES_MAX: usize = 512;

impl Groups {
    pub(super) fn turn(&mut self) {
        self.dirty = false;
        if self.is_frozen() || self.stream.is_none() {
            return;
        }
        self.take_own();
        self.stamp();
        if let Some(stream) = &mut self.stream {
            stream.advance_held();
            stream.advance_stable();
        }
        self.deliver();
        self.settle_stable();
        self.watch_lags();
        self.report();
        self.close_batch();
        self.dirty |= (!self.queue.is_empty() && !self.is_crowded()) || !self.to_stamp.is_empty();
    }

    /// Moves queued messages into the sequence of this node, up to one batch.
    fn take_own(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        if self.sync != Sync::Synced || self.crowded.is_some() {
            return;
        }
        let alone = stream.peers.is_empty();
        let mut bytes = 0;
        while let Some(item) = self.queue.front() {
            let size = item.wire_len();
            let large = size > self.config.batch;
            if bytes > 0 && (large || bytes + size > self.config.batch) {
                break;
            }
            let Some(item) = self.queue.pop_front() else { break };
            let lseq = stream.inbox(stream.me).contiguous + 1;
            if !alone {
                if bytes == 0 {
                    self.memory.exchange(&mut self.batch, size + head_len(stream.number, lseq));
                    start_batch(&mut self.batch, stream.number, lseq);
                }
                item.write(&mut self.batch);
            }
            if large && !alone {
                let message = self.batch.split().freeze();
                self.sends.push_back(Output::Send {
                    to: Arc::clone(&stream.peers),
                    lane: Lane::Bulk,
                    message,
                });
                self.stats.batches += 1;
            }
            bytes += size;
            stream.append(item);
            self.stats.sent += 1;
            if stream.is_sequencer() {
                note_arrival(&mut self.to_stamp, stream.me, 1);
            }
            if large {
                break;
            }
        }
    }

    /// Gives stamps to what has arrived since the last turn.
    fn stamp(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        if self.to_stamp.is_empty() {
            return;
        }
        let n = self.to_stamp.len().min(RUNS_MAX);
        let runs: Vec<(u32, u64)> = self.to_stamp.drain(..n).collect();
        let first = stream.stamped + 1;
        if !stream.peers.is_empty() {
            if self.batch.is_empty() {
                start_batch(&mut self.batch, stream.number, stream.inbox(stream.me).contiguous + 1);
            }
            write_stamp(&mut self.batch, first, &runs);
        }
        let joined = stream.stamp(first, &runs);
        debug_assert!(joined, "the sequencer's own stamps follow each other");
        self.stats.stamped += stream.stamped + 1 - first;
    }

    /// The next output that may leave. Without a confirmed lease no event does: what was ordered waits for
    /// [`Input::Resumed`](crate::Input::Resumed) or the next view. Outside the primary partition it waits for the latter.
    pub(super) fn next_output(&mut self) -> Option<Output> {
        if self.primary && !self.suspended {
            return self.outputs.pop_front();
        }
        let may_leave = |o: &Output| !matches!(o, Output::Event(e) if !matches!(e, Event::Evicted { .. }));
        let index = self.outputs.iter().position(may_leave)?;
        self.outputs.remove(index)
    }

    fn deliver(&mut self) {
        if !self.primary || self.suspended || self.on_hold || self.sync == Sync::Waiting {
            return;
        }
        let ignore_quorum = sabotaged!(self, SafeWithoutQuorum);
        let mut left = self.deliver_fifo(DELIVERIES_MAX);
        while left > 0 {
            let Some(stream) = &mut self.stream else { return };
            let Some((member, lseq, place)) = stream.next(ignore_quorum) else { return };
            self.deliver_one(member, lseq, place, true);
            left -= 1;
            while left > 0 && self.deliver_ahead(member, u64::MAX) {
                left -= 1;
            }
        }
        self.dirty = true;
    }

    /// Delivers what need not wait for its place, at most so much; tells how much more may be delivered.
    fn deliver_fifo(&mut self, mut left: usize) -> usize {
        let Some(stream) = self.stream.as_ref().filter(|s| s.fifo_waiting > 0) else { return left };
        for member in (0_u32..).take(stream.inboxes.len()) {
            while left > 0 && self.deliver_ahead(member, u64::MAX) {
                left -= 1;
            }
        }
        left
    }

    /// Delivers the next message of a member ahead of its place, if it is FIFO and not beyond `last`. False if there is none, or if
    /// it cannot be told here yet that its sender is in the group: then it waits for the order.
    pub(super) fn deliver_ahead(&mut self, member: u32, last: u64) -> bool {
        if self.sync != Sync::Synced {
            return false;
        }
        let Some(stream) = &mut self.stream else { return false };
        let Some(lseq) = stream.next_fifo(member).filter(|lseq| *lseq <= last) else { return false };
        let Some(Item::Data { group, local, payload, .. }) = stream.item(member, lseq) else { return false };
        let (number, local, payload) = (*group, *local, payload.clone());
        let sender = MemberId { instance: stream.inbox(member).instance, local };
        let Some(group) = self.table.get(number).filter(|g| g.entry(sender).is_some()) else { return false };
        let (view, here) = (stream.number, group.here > 0);
        let event = Event::Fifo { group: Arc::clone(&group.name), sender, view, number: lseq, payload };
        stream.pass_ahead(member);
        self.stats.ahead += 1;
        if here {
            self.emit(number, event);
        }
        true
    }

    /// Delivers one place of the order, which must be the next. Unless it is `everywhere`, what was sent safe is told as agreed.
    pub(super) fn deliver_one(&mut self, member: u32, lseq: u64, place: u64, everywhere: bool) {
        let Some(stream) = &mut self.stream else { return };
        let item = stream.item(member, lseq).cloned();
        let told = lseq <= stream.inbox(member).ahead;
        stream.pass(member);
        let sender = stream.inbox(member).instance;
        let own = member == stream.me;
        let position = Position { view: stream.number, sequence: place };
        let Some(mut item) = item else { return };
        if let Item::Data { guarantee: guarantee @ Guarantee::Safe, .. } = &mut item
            && !everywhere
            && !sabotaged!(self, SafeAtTheEnd)
        {
            *guarantee = Guarantee::Agreed;
        }
        if own {
            self.ledger.push_back((place, item.cost()));
        }
        self.stats.delivered += 1;
        if self.sync == Sync::Synced && !told {
            self.apply(position, (sender, lseq), item);
        }
    }

    pub(super) fn apply(&mut self, position: Position, (instance, lseq): (NodeInstance, u64), item: Item) {
        let mut effects = Vec::new();
        match item {
            Item::Data { group: number, local, guarantee, payload } => {
                let sender = MemberId { instance, local };
                let Some(group) = self.table.get(number) else { return };
                if group.here == 0 || group.entry(sender).is_none() {
                    return;
                }
                let group = Arc::clone(&group.name);
                let event = if guarantee == Guarantee::Fifo {
                    Event::Fifo { group, sender, view: position.view, number: lseq, payload }
                } else {
                    Event::Message { group, sender, position, guarantee, payload }
                };
                if self.gates.is_empty() {
                    self.outputs.push_back(Output::Event(event));
                } else {
                    self.emit(number, event);
                }
                return;
            }
            Item::Join { local, name } => {
                self.table.join(position, MemberId { instance, local }, &name, &mut effects);
            }
            Item::Leave { local, name } => {
                self.table.leave(position, MemberId { instance, local }, &name, &mut effects);
            }
            Item::Stated { group, local } => {
                self.table.stated(position, MemberId { instance, local }, group, &mut effects);
            }
            Item::Denied { group, local } => {
                self.table.denied(position, MemberId { instance, local }, group, &mut effects);
            }
        }
        self.carry_out(position, effects);
    }

    /// Frees what every member holds, and opens the window for what every member has consumed.
    fn settle_stable(&mut self) {
        let free_early = sabotaged!(self, FreeOnOwnDelivery);
        let Some(stream) = &mut self.stream else { return };
        stream.advance_stable();
        stream.release(if free_early { stream.delivered } else { stream.stable_all });
        while let Some((place, cost)) = self.ledger.front().copied()
            && place <= stream.consumed_all
        {
            self.ledger.pop_front();
            self.own_bytes = self.own_bytes.saturating_sub(cost);
        }
        self.say_writable();
    }

    pub(super) fn say_writable(&mut self) {
        if self.full && self.own_bytes <= self.config.window / 2 {
            self.full = false;
            self.outputs.push_back(Output::Event(Event::Writable));
        }
    }

    /// Says what this node holds: with the batch that goes anyway, at once if a safe message waits, else soon.
    fn report(&mut self) {
        let Some(stream) = &self.stream else { return };
        let now = (stream.held, stream.delivered);
        let due = core::mem::take(&mut self.report_now);
        if stream.peers.is_empty() || now == self.reported {
            self.report_at = None;
            return;
        }
        let urgent = stream.safe_waiting > 0 && now.0 > self.reported.0;
        if self.batch.is_empty() && !urgent && !due {
            if self.report_at.is_none() {
                self.report_at = Some(self.now + self.config.report_delay);
            }
            return;
        }
        self.reported = now;
        self.report_at = None;
        if self.batch.is_empty() {
            start_batch(&mut self.batch, stream.number, stream.inbox(stream.me).contiguous + 1);
            write_have(&mut self.batch, now.0, now.1);
            let message = self.batch.split().freeze();
            self.sends.push_back(Output::Send { to: Arc::clone(&stream.peers), lane: Lane::Urgent, message });
            self.stats.batches += 1;
        } else {
            write_have(&mut self.batch, now.0, now.1);
        }
    }

    fn close_batch(&mut self) {
        let Some(stream) = &self.stream else { return };
        if self.batch.is_empty() {
            return;
        }
        let message = self.batch.split().freeze();
        self.sends.push_back(Output::Send { to: Arc::clone(&stream.peers), lane: Lane::Small, message });
        self.stats.batches += 1;
    }
}

/// Notes that `count` more items of a member wait for their stamp.
pub(super) fn note_arrival(to_stamp: &mut std::collections::VecDeque<(u32, u64)>, member: u32, count: u64) {
    match to_stamp.back_mut() {
        Some(last) if last.0 == member => last.1 += count,
        _ => to_stamp.push_back((member, count)),
    }
}
