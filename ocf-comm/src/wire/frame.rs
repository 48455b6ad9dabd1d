use super::renewal::{Declined, RENEWAL, take_renewal};
use super::{lane_number, to_size};
use crate::Lane;
use bytes::BufMut as _;
use pils::wire::{Malformed, ParseError, Reader, VARINT_MAX, Writer as _, varint_len};

const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const CREDIT: u8 = 0x03;
const ACCEPT: u8 = 0x04;
const REFUSE: u8 = 0x05;
const LEAVE: u8 = 0x06;
const LAST_GASP: u8 = 0x07;
const CLOSE: u8 = 0x08;
const REMOVED: u8 = 0x0a;
const COMMITMENT: u8 = 0x09;
const DATA: u8 = 0x10;
pub(crate) const OFFER: u8 = 0x20;
pub(crate) const ANSWER: u8 = 0x21;
pub(crate) const DECLINE: u8 = 0x22;

/// One frame of a sealed packet. `v` is a variable-length integer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// `01`: asks for an acknowledgement.
    Ping,
    /// `02, path, v largest, v delay in µs, v first, v count, count x (v gap, v length)`: see [`Ack`].
    Ack(Ack<'a>),
    /// `03, lane, v limit`: the lane may send up to this offset.
    Credit { lane: Lane, limit: u64 },
    /// `04, v message_max`: this end takes the circuit into use.
    Accept { message_max: u64 },
    /// `05`: another living node has your id.
    Refuse,
    /// `06`: this incarnation leaves for good.
    Leave,
    /// `07`: this incarnation is dying.
    LastGasp,
    /// `08`: you broke the protocol.
    Close,
    /// `0a`: I was told to talk to you no more.
    Removed,
    /// `20`: fresh secrets for this circuit; see [`Renewal`](super::Renewal).
    Offer(&'a [u8; RENEWAL]),
    /// `21`: the answer.
    Answer(&'a [u8; RENEWAL]),
    /// `22, serial number of the offer 4, key, reason`: the offer cannot be taken.
    Decline { serial: u32, key: u8, why: Declined },
    /// `09, 32 bytes`: who shows what this is the hash of may say that this incarnation is dead.
    Commitment(&'a [u8; 32]),
    /// `10` + lane, `v offset, v length, bytes`: a piece of a lane's stream.
    Data { lane: Lane, offset: u64, bytes: &'a [u8] },
}

/// Packet numbers received on one path: `[largest - first, largest]`, then for each further range `gap + 1` numbers not
/// received and `length + 1` received, downwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack<'a> {
    pub(crate) path: u8,
    pub(crate) largest: u64,
    /// Microseconds between receiving `largest` and sending this.
    pub(crate) delay: u64,
    first: u64,
    ranges: &'a [u8],
}

impl<'a> Ack<'a> {
    fn parse(r: &mut Reader<'a>) -> Result<Self, ParseError> {
        let path = r.u8("ack path")?;
        let largest = r.varint("largest")?;
        let delay = r.varint("delay")?;
        let at = r.clone();
        let first = r.varint("first range")?;
        let mut low =
            largest.checked_sub(first).ok_or_else(|| at.error("first range", Malformed::OutOfRange))?;
        let count = r.length("range count", 1 << 12)?;
        let start = r.clone();
        for _ in 0..count {
            let at = r.clone();
            let (gap, length) = (r.varint("gap")?, r.varint("length")?);
            let below =
                low.checked_sub(gap).and_then(|x| x.checked_sub(2)).and_then(|x| x.checked_sub(length));
            low = below.ok_or_else(|| at.error("range", Malformed::OutOfRange))?;
        }
        let size = r.position() - start.position();
        let ranges = start.clone().take("ranges", size)?;
        Ok(Self { path, largest, delay, first, ranges })
    }

    /// The ranges as (lowest, highest), from the highest down.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut low = self.largest - self.first;
        let mut r = Reader::new(self.ranges);
        core::iter::once((low, self.largest)).chain(core::iter::from_fn(move || {
            let (gap, length) = (r.varint("gap").ok()?, r.varint("length").ok()?);
            let high = low - gap - 2;
            low = high - length;
            Some((low, high))
        }))
    }
}

impl<'a> Frame<'a> {
    /// The next frame, or `None` at the end of the packet.
    pub(crate) fn parse(r: &mut Reader<'a>) -> Result<Option<Self>, ParseError> {
        let kind = loop {
            if r.is_empty() {
                return Ok(None);
            }
            match r.u8("frame")? {
                PADDING => {}
                kind => break kind,
            }
        };
        let at = r.clone();
        Ok(Some(match kind {
            PING => Self::Ping,
            ACK => Self::Ack(Ack::parse(r)?),
            CREDIT => {
                let lane = *Lane::ALL
                    .get(usize::from(r.u8("lane")?))
                    .ok_or_else(|| at.error("lane", Malformed::OutOfRange))?;
                Self::Credit { lane, limit: r.varint("limit")? }
            }
            ACCEPT => Self::Accept { message_max: r.varint("message_max")? },
            REFUSE => Self::Refuse,
            LEAVE => Self::Leave,
            LAST_GASP => Self::LastGasp,
            CLOSE => Self::Close,
            REMOVED => Self::Removed,
            OFFER => Self::Offer(take_renewal(r)?),
            ANSWER => Self::Answer(take_renewal(r)?),
            DECLINE => {
                let (serial, key) = (r.u32("serial")?, r.u8("key")?);
                let why = Declined::parse(r.u8("reason")?);
                let why = why.ok_or_else(|| at.error("reason", Malformed::OutOfRange))?;
                Self::Decline { serial, key, why }
            }
            COMMITMENT => {
                let hash = r.take("commitment", 32)?;
                Self::Commitment(
                    hash.first_chunk().ok_or_else(|| at.error("commitment", Malformed::OutOfRange))?,
                )
            }
            _ => {
                let lane = kind.checked_sub(DATA).and_then(|i| Lane::ALL.get(usize::from(i)));
                let lane = *lane.ok_or_else(|| at.error("frame", Malformed::OutOfRange))?;
                let offset = r.varint("offset")?;
                let bytes = r.bytes("data")?;
                if offset + bytes.len() as u64 > VARINT_MAX {
                    return Err(at.error("offset", Malformed::OutOfRange));
                }
                Self::Data { lane, offset, bytes }
            }
        }))
    }
}

/// Writes a frame that has no writer of its own.
pub(crate) fn put_frame(out: &mut Vec<u8>, frame: &Frame<'_>) {
    match *frame {
        Frame::Ping => out.put_u8(PING),
        Frame::Credit { lane, limit } => {
            out.put_slice(&[CREDIT, lane_number(lane)]);
            out.put_varint(limit);
        }
        Frame::Accept { message_max } => {
            out.put_u8(ACCEPT);
            out.put_varint(message_max);
        }
        Frame::Refuse => out.put_u8(REFUSE),
        Frame::Leave => out.put_u8(LEAVE),
        Frame::LastGasp => out.put_u8(LAST_GASP),
        Frame::Close => out.put_u8(CLOSE),
        Frame::Removed => out.put_u8(REMOVED),
        Frame::Ack(_) | Frame::Data { .. } | Frame::Offer(_) | Frame::Answer(_) | Frame::Decline { .. } => {
            unreachable!("these frames have writers of their own")
        }
        Frame::Commitment(hash) => {
            out.put_u8(COMMITMENT);
            out.put_slice(hash);
        }
    }
}

/// Writes an ACK of `ranges` (lowest, highest), given from the highest down; leaves out those for which `room` bytes do
/// not suffice. Nothing is written if there is no range, or room for less than one.
pub(crate) fn put_ack(
    out: &mut Vec<u8>,
    path: u8,
    delay: u64,
    room: usize,
    mut ranges: impl Iterator<Item = (u64, u64)> + Clone,
) {
    let Some((mut low, largest)) = ranges.next() else { return };
    if room < 2 + 8 + 8 + 8 + 2 {
        return;
    }
    let mut left = room - (2 + 8 + 8 + 8 + 2);
    let mut count = 0_u64;
    let mut below = low;
    for (l, h) in ranges.clone().take(1 << 10) {
        let size = varint_len(below - h - 2) + varint_len(h - l);
        if size > left {
            break;
        }
        left -= size;
        count += 1;
        below = l;
    }
    out.put_slice(&[ACK, path]);
    out.put_varint(largest);
    out.put_varint(delay.min(VARINT_MAX));
    out.put_varint(largest - low);
    out.put_varint(count);
    for (l, h) in ranges.take(to_size(count)) {
        out.put_varint(low - h - 2);
        out.put_varint(h - l);
        low = l;
    }
}

/// How many bytes of stream fit, as a DATA frame at `offset`, into `room` bytes; 0 if none.
pub(crate) fn data_fit(offset: u64, room: usize) -> usize {
    let Some(room) = room.checked_sub(1 + varint_len(offset)) else { return 0 };
    [1_usize, 2, 4]
        .into_iter()
        .map(|size| {
            let most = (1_usize << (8 * size - 2)) - 1;
            room.saturating_sub(size).min(most)
        })
        .max()
        .unwrap_or(0)
}

/// Writes the front of a DATA frame; `length` bytes of the stream must follow.
pub(crate) fn put_data_header(out: &mut Vec<u8>, lane: Lane, offset: u64, length: usize) {
    out.put_u8(DATA + lane_number(lane));
    out.put_varint(offset);
    out.put_length(length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(content: &[u8]) -> Result<Vec<Frame<'_>>, ParseError> {
        let mut r = Reader::new(content);
        let mut frames = Vec::new();
        while let Some(frame) = Frame::parse(&mut r)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn simple_frames_round_trip_between_padding() {
        let frames = [
            Frame::Ping,
            Frame::Credit { lane: Lane::Bulk, limit: 1 << 40 },
            Frame::Accept { message_max: 16 << 20 },
            Frame::Refuse,
            Frame::Leave,
            Frame::LastGasp,
            Frame::Close,
            Frame::Removed,
            Frame::Commitment(&[3; 32]),
        ];
        let mut out = vec![0; 3];
        for frame in &frames {
            put_frame(&mut out, frame);
            out.push(0);
        }
        assert_eq!(all(&out).unwrap(), frames);
    }

    #[test]
    fn an_ack_below_zero_is_refused() {
        let mut out = vec![ACK, 0];
        out.extend([5, 0, 2, 1, 1, 1]);
        assert!(all(&out).is_err());
        out[6] = 0;
        out[7] = 0;
        assert!(all(&out).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_panic(content in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(frames) = all(&content) {
                for frame in frames {
                    if let Frame::Ack(ack) = frame {
                        prop_assert!(ack.ranges().all(|(l, h)| l <= h && h <= ack.largest));
                    }
                }
            }
        }

        #[test]
        fn acks_round_trip(steps in proptest::collection::vec((0..300_u64, 0..300_u64), 1..40), base in 0..1_u64 << 40) {
            let mut ranges = Vec::new();
            let mut at = base;
            for (gap, length) in steps {
                ranges.push((at, at + length));
                at += length + gap + 2;
            }
            ranges.reverse();
            let mut out = Vec::new();
            put_ack(&mut out, 2, 77, 4000, ranges.iter().copied());
            let frames = all(&out).unwrap();
            let [Frame::Ack(ack)] = &frames[..] else { panic!("one ack") };
            prop_assert_eq!((ack.path, ack.delay), (2, 77));
            prop_assert_eq!(ack.ranges().collect::<Vec<_>>(), &ranges[..]);
            let mut short = Vec::new();
            put_ack(&mut short, 2, 77, 60, ranges.iter().copied());
            prop_assert!(short.len() <= 60);
            prop_assert!(all(&short).is_ok());
        }

        #[test]
        fn data_fills_the_room_it_is_given(offset in 0..1_u64 << 50, room in 0..70_000_usize) {
            let n = data_fit(offset, room);
            let mut out = Vec::new();
            put_data_header(&mut out, Lane::Small, offset, n);
            out.resize(out.len() + n, 7);
            prop_assert!(n == 0 || out.len() <= room);
            prop_assert!(n == 0 || out.len() + 3 > room);
            let frames = all(&out).unwrap();
            let [Frame::Data { lane: Lane::Small, offset: o, bytes }] = frames[..] else { panic!("one frame") };
            prop_assert_eq!((o, bytes.len()), (offset, n));
        }
    }
}
