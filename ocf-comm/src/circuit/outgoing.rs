use super::ranges::Ranges;
use crate::config::FRAMING_MAX;
use crate::wire::{data_fit, to_size};
use bytes::{BufMut as _, Bytes, BytesMut};
use core::ops::Range;
use pils::buffer::Recycler;
use pils::wire::{Writer as _, varint_len};
use std::collections::VecDeque;

/// Messages up to this size are copied together; larger ones are kept as they were given.
const COPY_MAX: usize = 4096;
/// Size at which copied messages are closed into one chunk.
const CHUNK: usize = 32 << 10;

#[derive(Clone, Debug)]
struct Chunk {
    start: u64,
    data: Bytes,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

/// The sending end of one lane: a stream of framed messages, kept until acknowledged.
#[derive(Debug)]
pub(crate) struct Outgoing {
    chunks: VecDeque<Chunk>,
    /// The newest bytes of the stream, still being appended to; starts at `open_start`.
    open: BytesMut,
    open_start: u64,
    /// Everything below is acknowledged.
    base: u64,
    /// Everything below was sent once.
    next: u64,
    acked: Ranges,
    lost: Ranges,
    /// Offset up to which the peer allows to send.
    credit: u64,
    limit: usize,
    /// Bytes for which room was asked in vain.
    refused: Option<usize>,
    /// Where the messages are that are small enough to be sent twice; empty unless asked for.
    small: Ranges,
}

impl Outgoing {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            open: BytesMut::new(),
            open_start: 0,
            base: 0,
            next: 0,
            acked: Ranges::default(),
            lost: Ranges::default(),
            credit: 0,
            limit,
            refused: None,
            small: Ranges::default(),
        }
    }

    fn end(&self) -> u64 {
        self.open_start + self.open.len() as u64
    }

    /// Bytes waiting or unacknowledged.
    pub(crate) fn queued(&self) -> usize {
        to_size(self.end() - self.base)
    }

    /// Bytes that can be sent now and were not yet.
    pub(crate) fn unsent(&self) -> usize {
        to_size(self.end().min(self.credit).saturating_sub(self.next))
    }

    /// Bytes that were not sent once.
    pub(crate) fn backlog(&self) -> usize {
        to_size(self.end() - self.next)
    }

    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// Appends a message, with `prefix` as its first bytes, or remembers that there was no room for it.
    pub(crate) fn push(&mut self, channel: u8, prefix: &[u8], message: Bytes, memory: &mut Recycler) -> bool {
        let size = message.len() + FRAMING_MAX;
        if self.queued() + size > self.limit {
            self.refused = Some(self.refused.map_or(size, |r| r.min(size)));
            return false;
        }
        let copied = message.len() <= COPY_MAX;
        let room = FRAMING_MAX + prefix.len() + if copied { message.len() } else { 0 };
        if self.open.capacity() - self.open.len() < room {
            self.close_chunk();
            memory.exchange(&mut self.open, room);
        }
        self.open.put_length(prefix.len() + message.len());
        self.open.put_u8(channel);
        self.open.extend_from_slice(prefix);
        if copied {
            self.open.extend_from_slice(&message);
            if self.open.len() >= CHUNK {
                self.close_chunk();
            }
        } else {
            self.close_chunk();
            let start = self.open_start;
            self.open_start += message.len() as u64;
            self.chunks.push_back(Chunk { start, data: message });
        }
        true
    }

    /// As [`Outgoing::push`], and remembers where the message is if it has at most `most` bytes.
    pub(crate) fn push_small(
        &mut self,
        channel: u8,
        message: Bytes,
        most: usize,
        memory: &mut Recycler,
    ) -> bool {
        let (start, is_small) = (self.end(), message.len() <= most);
        let pushed = self.push(channel, &[], message, memory);
        if pushed && is_small {
            self.small.insert(start..self.end());
        }
        pushed
    }

    /// Calls `each` with the parts of `range` that belong to small messages.
    pub(crate) fn small_in(&self, range: &Range<u64>, mut each: impl FnMut(Range<u64>)) {
        let all = self.small.iter().as_slice();
        let first = all.partition_point(|s| s.end <= range.start);
        for small in all[first..].iter().take_while(|s| s.start < range.end) {
            each(small.start.max(range.start)..small.end.min(range.end));
        }
    }

    /// What of `range` did not arrive yet, as far as that is known without a search.
    pub(crate) fn unacknowledged(&self, range: Range<u64>) -> Range<u64> {
        range.start.max(self.base)..range.end.max(self.base)
    }

    fn close_chunk(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let start = self.open_start;
        self.open_start = self.end();
        let data = self.open.split().freeze();
        self.chunks.push_back(Chunk { start, data });
    }

    /// True once after a refusal, when there is room again for what was refused, and for half of the queue.
    pub(crate) fn take_writable(&mut self) -> bool {
        let Some(refused) = self.refused else { return false };
        let writable = self.queued() + refused.max(self.limit / 2) <= self.limit;
        if writable {
            self.refused = None;
        }
        writable
    }

    pub(crate) fn raise_credit(&mut self, limit: u64) {
        self.credit = self.credit.max(limit);
    }

    /// True if something can be sent, as far as the peer's credit goes.
    pub(crate) fn is_ready(&self) -> bool {
        !self.lost.is_empty() || self.next < self.end().min(self.credit)
    }

    /// Takes the range to send next as one DATA frame of at most `room` bytes; lost ranges first.
    pub(crate) fn take(&mut self, room: usize) -> Option<Range<u64>> {
        let (start, end, is_new) = match self.lost.first() {
            Some(lost) => (lost.start, lost.end, false),
            None => (self.next, self.end().min(self.credit), true),
        };
        let fit = data_fit(start, room) as u64;
        let end = end.min(start + fit);
        if start >= end {
            return None;
        }
        if is_new {
            self.next = end;
        } else {
            self.lost.remove(start..end);
        }
        Some(start..end)
    }

    /// Appends the bytes of `range` to `out`.
    pub(crate) fn copy(&self, range: Range<u64>, out: &mut Vec<u8>) {
        let mut at = range.start;
        if at < self.open_start {
            let first = self.chunks.partition_point(|c| c.end() <= at);
            for chunk in self.chunks.range(first..).take_while(|c| c.start < range.end) {
                let to = range.end.min(chunk.end());
                out.extend_from_slice(&chunk.data[to_size(at - chunk.start)..to_size(to - chunk.start)]);
                at = to;
            }
        }
        if at < range.end {
            out.extend_from_slice(
                &self.open[to_size(at - self.open_start)..to_size(range.end - self.open_start)],
            );
        }
    }

    /// The peer has this range; its memory is freed once everything before it arrived, too.
    pub(crate) fn on_acked(&mut self, range: Range<u64>) {
        if range.end <= self.base {
            return;
        }
        if !self.lost.is_empty() {
            self.lost.remove(range.clone());
        }
        if range.start <= self.base && self.acked.is_empty() {
            self.base = range.end;
        } else {
            self.acked.insert(range.start.max(self.base)..range.end);
            match self.acked.first() {
                Some(first) if first.start <= self.base => {
                    self.base = first.end;
                    self.acked.forget_first();
                }
                _ => return,
            }
        }
        while self.chunks.front().is_some_and(|c| c.end() <= self.base) {
            self.chunks.pop_front();
        }
        self.small.remove(0..self.base);
        if self.base == self.end() {
            self.open_start = self.base;
            self.open.clear();
        }
    }

    /// This range must be sent again, but for what arrived nevertheless.
    pub(crate) fn on_lost(&mut self, range: Range<u64>) {
        let range = range.start.max(self.base)..range.end;
        if range.is_empty() {
            return;
        }
        self.lost.insert(range.clone());
        for arrived in self.acked.iter().filter(|a| a.start < range.end && range.start < a.end) {
            self.lost.remove(arrived.clone());
        }
    }

    pub(crate) fn check_invariants(&self) {
        assert!(
            self.base <= self.next && self.next <= self.end(),
            "acknowledged, sent and queued are in order"
        );
        assert!(self.next <= self.credit || self.next == 0, "nothing is sent beyond the credit");
        assert!(self.queued() <= self.limit, "the queue keeps its limit");
        assert!(self.lost.last().is_none_or(|r| r.end <= self.next), "only what was sent can be lost");
        assert!(self.chunks.front().is_none_or(|c| c.end() > self.base), "acknowledged chunks are freed");
        debug_assert!(varint_len(u64::MAX) < FRAMING_MAX, "the framing fits its bound");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(lane: &mut Outgoing, channel: u8, message: Bytes) -> bool {
        lane.push(channel, &[], message, &mut Recycler::new(1 << 16, 4))
    }

    fn read(lane: &Outgoing, range: Range<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        lane.copy(range, &mut out);
        out
    }

    fn lane() -> Outgoing {
        let mut lane = Outgoing::new(20_000);
        assert!(push(&mut lane, 9, Bytes::from_static(b"abc")));
        assert!(push(&mut lane, 9, Bytes::from(vec![7; 5000])));
        assert!(push(&mut lane, 8, Bytes::from_static(b"xy")));
        lane.raise_credit(1 << 20);
        lane
    }

    #[test]
    fn the_stream_is_the_framed_messages_wherever_it_is_cut() {
        let mut expected = vec![3, 9, b'a', b'b', b'c', 0x53, 0x88, 9];
        expected.extend([7; 5000]);
        expected.extend([2, 8, b'x', b'y']);
        let lane = lane();
        let n = expected.len() as u64;
        assert_eq!(lane.queued() as u64, n);
        for cut in [0, 1, 5, 7, 8, 9, 4000, n - 5, n - 4, n - 1, n] {
            let mut both = read(&lane, 0..cut);
            both.extend(read(&lane, cut..n));
            assert_eq!(both, expected);
        }
    }

    #[test]
    fn a_lost_range_is_sent_again_unless_it_arrived_nevertheless() {
        let mut lane = lane();
        let mut sent = Vec::new();
        while let Some(range) = lane.take(1000) {
            sent.push(range);
        }
        assert_eq!(sent.len(), 6);
        lane.on_lost(sent[0].start..sent[2].end);
        lane.on_acked(sent[1].clone());
        assert_eq!(lane.take(2000), Some(sent[0].clone()));
        assert_eq!(lane.take(2000), Some(sent[2].clone()));
        assert_eq!(lane.take(2000), None);
        for range in sent {
            lane.on_acked(range);
        }
        lane.check_invariants();
        assert_eq!((lane.queued(), lane.chunks.len()), (0, 0));
    }

    #[test]
    fn credit_stops_new_data_and_a_full_queue_says_when_it_has_room() {
        let mut lane = Outgoing::new(10_000);
        assert!(push(&mut lane, 1, Bytes::from(vec![1; 4000])));
        assert!(push(&mut lane, 1, Bytes::from(vec![1; 5900])));
        assert!(!push(&mut lane, 1, Bytes::from(vec![1; 6000])) && !lane.take_writable());
        assert_eq!(lane.take(4000), None);
        lane.raise_credit(500);
        assert_eq!(lane.take(4000), Some(0..500));
        lane.on_acked(0..500);
        assert!(!lane.take_writable());
        lane.raise_credit(8000);
        assert_eq!(lane.take(9000), Some(500..8000));
        lane.on_acked(500..8000);
        assert!(lane.take_writable() && !lane.take_writable());
        lane.check_invariants();
    }
}
