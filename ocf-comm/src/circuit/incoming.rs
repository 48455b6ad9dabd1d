use crate::suite::Codec;
use crate::wire::to_size;
use crate::{Channel, PacketCodec};
use bytes::{Bytes, BytesMut};
use pils::buffer::Recycler;
use pils::wire::{Reader, varint_len};
use std::collections::{BTreeMap, VecDeque};

/// Pieces that may be kept out of order, so that many tiny ones cannot cost more than their bytes.
const PARKED_MAX: usize = 16_384;
/// Memory reserved for a message on its announced length alone.
const RESERVE_MAX: usize = 64 << 10;

/// Why data was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The peer broke this rule.
    Rule(&'static str),
    /// Too many pieces out of order; it must come again.
    NoRoom,
}

/// Messages below this size are kept apart, so that one that is kept for long holds little memory.
const LITTLE: usize = 512;

/// Memory for the messages that are put together; used again once nobody holds the messages in it.
#[derive(Debug)]
pub(crate) struct Batch {
    buffer: BytesMut,
    recycler: Recycler,
    little: BytesMut,
    little_recycler: Recycler,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            recycler: Recycler::new(RESERVE_MAX, 32),
            little: BytesMut::new(),
            little_recycler: Recycler::new(4096, 128),
        }
    }
}

impl Batch {
    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        let (buffer, recycler) = if bytes.len() < LITTLE {
            (&mut self.little, &mut self.little_recycler)
        } else {
            (&mut self.buffer, &mut self.recycler)
        };
        recycler.exchange(buffer, bytes.len());
        buffer.extend_from_slice(bytes);
        buffer.split().freeze()
    }

    /// Room for a message of `size` bytes; less, to be grown, if that is much for an announced length alone.
    fn reserve(&mut self, size: usize) -> BytesMut {
        if size > RESERVE_MAX {
            return BytesMut::with_capacity(RESERVE_MAX);
        }
        self.recycler.exchange(&mut self.buffer, size);
        let rest = self.buffer.split_off(size);
        core::mem::replace(&mut self.buffer, rest)
    }
}

#[derive(Debug)]
struct Partial {
    channel: u8,
    size: usize,
    data: BytesMut,
}

/// The receiving end of one lane: puts the stream in order and cuts it into messages.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Everything below was taken in order.
    next: u64,
    parked: BTreeMap<u64, Bytes>,
    parked_bytes: usize,
    head: [u8; 9],
    head_len: usize,
    partial: Option<Partial>,
    /// Bytes of messages that were delivered and not consumed.
    delivered: usize,
    /// Offset up to which the peer was allowed to send.
    granted: u64,
    window: usize,
    message_max: usize,
    /// Decodes what is delivered; `None` if messages travel as they are.
    codec: Option<Codec>,
    /// Complete messages, still encoded, that wait until what was delivered is consumed: decoding makes them larger than the
    /// window that they came through.
    waiting: VecDeque<(u8, Bytes)>,
    waiting_bytes: usize,
}

impl Incoming {
    pub(crate) const fn new(window: usize, message_max: usize, codec: Option<Codec>) -> Self {
        Self {
            next: 0,
            parked: BTreeMap::new(),
            parked_bytes: 0,
            head: [0; 9],
            head_len: 0,
            partial: None,
            delivered: 0,
            granted: 0,
            window,
            message_max,
            codec,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Bytes held: delivered, being assembled, out of order.
    pub(crate) fn memory(&self) -> usize {
        let held = self.delivered + self.waiting_bytes;
        held + self.parked_bytes + self.partial.as_ref().map_or(0, |p| p.data.len()) + self.head_len
    }

    /// The limit to tell now. A message that is being assembled does not count, or one larger than the window would never end.
    fn target(&self) -> u64 {
        let free = self.window.saturating_sub(self.delivered + self.waiting_bytes);
        (self.next + free as u64).max(self.granted)
    }

    /// True if so much was freed that the peer should be told.
    pub(crate) fn wants_grant(&self) -> bool {
        self.target() - self.granted >= (self.window / 4) as u64
    }

    /// The limit that is told to the peer from now on.
    pub(crate) fn grant(&mut self) -> u64 {
        self.granted = self.target();
        self.granted
    }

    /// The layer above has freed `bytes` of messages: those that waited for that are delivered.
    pub(crate) fn consumed(
        &mut self,
        bytes: usize,
        deliver: &mut impl FnMut(Channel, Bytes),
    ) -> Result<(), Refused> {
        self.delivered = self.delivered.saturating_sub(bytes);
        while self.delivered < self.window
            && let Some((channel, encoded)) = self.waiting.pop_front()
        {
            self.waiting_bytes -= encoded.len();
            self.decode(channel, &encoded, deliver)?;
        }
        Ok(())
    }

    /// A message is whole.
    fn complete(
        &mut self,
        channel: u8,
        message: Bytes,
        deliver: &mut impl FnMut(Channel, Bytes),
    ) -> Result<(), Refused> {
        if self.codec.is_none() {
            self.delivered += message.len();
            deliver(Channel(channel), message);
            return Ok(());
        }
        if self.waiting.is_empty() && self.delivered < self.window {
            return self.decode(channel, &message, deliver);
        }
        self.waiting_bytes += message.len();
        self.waiting.push_back((channel, message));
        Ok(())
    }

    fn decode(
        &mut self,
        channel: u8,
        message: &Bytes,
        deliver: &mut impl FnMut(Channel, Bytes),
    ) -> Result<(), Refused> {
        let Some(codec) = &self.codec else { return Ok(()) };
        let decoded = decode(&**codec, message, self.message_max);
        let message = decoded.ok_or(Refused::Rule("messages that decode"))?;
        self.delivered += message.len();
        deliver(Channel(channel), message);
        Ok(())
    }

    /// Takes a piece of the stream; calls `deliver` for each message that it completes.
    pub(crate) fn receive(
        &mut self,
        offset: u64,
        bytes: &[u8],
        batch: &mut Batch,
        deliver: &mut impl FnMut(Channel, Bytes),
    ) -> Result<(), Refused> {
        let end = offset + bytes.len() as u64;
        if end > self.granted {
            return Err(Refused::Rule("data beyond the credit"));
        }
        if end <= self.next {
            return Ok(());
        }
        if offset > self.next {
            return self.park(offset, bytes);
        }
        let fresh = &bytes[to_size(self.next - offset)..];
        self.feed(fresh, batch, deliver)?;
        while let Some(entry) = self.parked.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            let (start, piece) = entry.remove_entry();
            self.parked_bytes -= piece.len();
            let known = to_size(self.next - start);
            if known < piece.len() {
                self.feed(&piece[known..], batch, deliver)?;
            }
        }
        Ok(())
    }

    /// Takes a piece that is known for new: the bug that tests put back.
    pub(crate) const fn forget(&mut self, offset: u64, length: usize) {
        if length > 0 && offset + length as u64 == self.next {
            self.next = offset;
        }
    }

    /// Keeps what is new of a piece that came too early.
    fn park(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
        if self.parked.len() >= PARKED_MAX {
            return Err(Refused::NoRoom);
        }
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        if let Some((start, piece)) = self.parked.range(..=offset).next_back() {
            at = at.max(start + piece.len() as u64);
        }
        while at < end {
            let following = self.parked.range(at..end).next().map(|(s, p)| (*s, s + p.len() as u64));
            let (gap_end, resume) = following.unwrap_or((end, end));
            if at < gap_end {
                let piece = Bytes::copy_from_slice(&bytes[to_size(at - offset)..to_size(gap_end - offset)]);
                self.parked_bytes += piece.len();
                self.parked.insert(at, piece);
            }
            at = resume;
        }
        Ok(())
    }

    fn feed(
        &mut self,
        mut input: &[u8],
        batch: &mut Batch,
        deliver: &mut impl FnMut(Channel, Bytes),
    ) -> Result<(), Refused> {
        self.next += input.len() as u64;
        loop {
            if let Some(partial) = &mut self.partial {
                let n = (partial.size - partial.data.len()).min(input.len());
                let (mine, rest) = input.split_at(n);
                partial.data.extend_from_slice(mine);
                input = rest;
                if partial.data.len() < partial.size {
                    return Ok(());
                }
                if let Some(Partial { channel, data, .. }) = self.partial.take() {
                    self.complete(channel, data.freeze(), deliver)?;
                }
            }
            let Some((channel, size)) = self.head(&mut input)? else { return Ok(()) };
            if size <= input.len() {
                let (mine, rest) = input.split_at(size);
                input = rest;
                self.complete(channel, batch.copy(mine), deliver)?;
            } else {
                let data = batch.reserve(size);
                self.partial = Some(Partial { channel, size, data });
            }
        }
    }

    /// The longest message on the wire: with a codec, it has a byte more in front.
    const fn wire_max(&self) -> usize {
        self.message_max + if self.codec.is_some() { 1 } else { 0 }
    }

    /// Reads the front of the next message: its channel and size, or `None` if it is not all there yet.
    fn head(&mut self, input: &mut &[u8]) -> Result<Option<(u8, usize)>, Refused> {
        if self.head_len == 0 {
            let Some(first) = input.first() else { return Ok(None) };
            let n = head_size(*first);
            if let Some((head, rest)) = input.split_at_checked(n) {
                *input = rest;
                return parse_head(head, self.wire_max()).map(Some);
            }
        }
        while let Some((first, rest)) = input.split_first() {
            self.head[self.head_len] = *first;
            self.head_len += 1;
            *input = rest;
            if self.head_len == head_size(self.head[0]) {
                let head = &self.head[..core::mem::take(&mut self.head_len)];
                return parse_head(head, self.wire_max()).map(Some);
            }
        }
        Ok(None)
    }

    pub(crate) fn check_invariants(&self) {
        let bound = self.window + self.message_max + self.head.len();
        // What was decoded, and what waits as it came.
        let bound = if self.codec.is_some() { 2 * bound } else { bound };
        assert!(self.waiting.is_empty() || self.delivered >= self.window, "nothing waits without a reason");
        assert!(self.memory() <= bound, "{} bytes held, {bound} allowed", self.memory());
        assert!(self.next <= self.granted, "nothing is taken beyond the credit");
        assert_eq!(
            self.parked_bytes,
            self.parked.values().map(Bytes::len).sum::<usize>(),
            "parked bytes are counted"
        );
        let mut at = self.next;
        for (start, piece) in &self.parked {
            assert!(*start >= at && !piece.is_empty(), "parked pieces lie ahead and do not overlap");
            at = start + piece.len() as u64;
        }
    }
}

/// What a message of a lane with a codec is, from its first byte: 0, as it is; 1, size and encoded form.
pub(crate) const PLAIN_FORM: u8 = 0;
pub(crate) const ENCODED_FORM: u8 = 1;

/// The message that an encoded one stands for, if it is no longer than `most`.
pub(crate) fn decode(codec: &dyn PacketCodec, message: &Bytes, most: usize) -> Option<Bytes> {
    let mut r = Reader::new(message);
    let message = match r.u8("form").ok()? {
        PLAIN_FORM => message.slice(1..),
        ENCODED_FORM => {
            let size = r.length("size", most).ok()?;
            let mut out = vec![0; size];
            codec.decode(r.rest(), &mut out).then(|| Bytes::from(out))?
        }
        _ => return None,
    };
    (message.len() <= most).then_some(message)
}

/// Bytes of the length and the channel in front of a message, told from the first byte.
const fn head_size(first: u8) -> usize {
    (1 << (first >> 6)) + 1
}

fn parse_head(head: &[u8], message_max: usize) -> Result<(u8, usize), Refused> {
    let mut r = Reader::new(head);
    let size =
        r.varint("message length").map_err(|_e| Refused::Rule("a message length in its shortest form"))?;
    let channel = r.u8("channel").map_err(|_e| Refused::Rule("a channel after the length"))?;
    debug_assert_eq!(varint_len(size) + 1, head.len(), "the head is cut where it ends");
    if size > message_max as u64 {
        return Err(Refused::Rule("a message no longer than this node allows"));
    }
    Ok((channel, to_size(size)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuit::outgoing::Outgoing;
    use proptest::prelude::*;

    fn stream(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut lane = Outgoing::new(1 << 30);
        for (i, m) in (0_u8..).zip(messages) {
            assert!(lane.push(i, &[], Bytes::copy_from_slice(m), &mut Recycler::new(1 << 16, 4)));
        }
        let mut out = Vec::new();
        lane.copy(0..lane.queued() as u64, &mut out);
        out
    }

    proptest! {
        #[test]
        fn messages_come_out_once_and_in_order_however_the_stream_is_cut_and_shuffled(
            sizes in proptest::collection::vec(prop_oneof![0..5_usize, 50..80_usize, 4000..9000_usize], 1..12),
            cuts in proptest::collection::vec((0.0..1.0, 1..3000_usize), 1..60),
        ) {
            let messages: Vec<Vec<u8>> = sizes.iter().map(|n| vec![u8::try_from(n % 251).unwrap(); *n]).collect();
            let stream = stream(&messages);
            let mut lane = Incoming::new(1 << 20, 1 << 20, None);
            lane.grant();
            let mut got = Vec::new();
            let mut batch = Batch::default();
            let whole = (0..stream.len()).step_by(700).map(|at| (at, 700));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a test position")]
            let pieces = cuts.iter().map(|(at, n)| ((at * stream.len() as f64) as usize, *n)).chain(whole);
            for (at, n) in pieces {
                let end = (at + n).min(stream.len());
                let mut deliver = |c: Channel, m: Bytes| got.push((c.0, m.to_vec()));
                lane.receive(at as u64, &stream[at..end], &mut batch, &mut deliver).unwrap();
                lane.check_invariants();
            }
            let expected: Vec<(u8, Vec<u8>)> = (0_u8..).zip(messages).collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(lane.parked_bytes, 0);
        }

        #[test]
        fn any_stream_is_cut_or_refused_without_panic(stream in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut lane = Incoming::new(1 << 16, 100, None);
            lane.grant();
            for (at, byte) in (0_u64..).zip(&stream) {
                if lane.receive(at, &[*byte], &mut Batch::default(), &mut |_, m| assert!(m.len() <= 100)).is_err() {
                    break;
                }
                lane.check_invariants();
            }
        }
    }

    #[test]
    fn a_message_larger_than_the_window_still_ends_and_memory_keeps_its_bound() {
        let stream = stream(&[vec![5; 300_000], vec![6; 300_000]]);
        let mut lane = Incoming::new(64 << 10, 300_000, None);
        let mut got = Vec::new();
        let mut at = 0;
        let mut limit = lane.grant();
        loop {
            let end = (at + 1000).min(to_size(limit)).min(stream.len());
            if end == at {
                break;
            }
            lane.receive(at as u64, &stream[at..end], &mut Batch::default(), &mut |_, m| got.push(m))
                .unwrap();
            lane.check_invariants();
            at = end;
            if lane.wants_grant() {
                limit = lane.grant();
            }
        }
        assert_eq!(got.len(), 1, "the second waits for the first to be consumed");
        assert!(lane.receive(limit, &[0], &mut Batch::default(), &mut |_, _| {}).is_err());
        lane.consumed(300_000, &mut |_, _| {}).unwrap();
        assert!(lane.wants_grant());
    }
}
