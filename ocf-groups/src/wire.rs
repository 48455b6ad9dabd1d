//! Layout of the messages between groups cores. See `PROTOCOL.md`, section 2.

use crate::pieces::Digest;
use crate::{GROUP_NAME_MAX, Guarantee, MESSAGE_COST, MemberId, Position};
use bytes::{BufMut, Bytes, BytesMut};
use core::time::Duration;
use ocf_membership::{Lag, ViewNumber};
use pils::wire::{Malformed, ParseError, Reader, VARINT_MAX, Writer, varint_len};
use std::sync::Arc;

/// First byte of every message and of every reported state.
pub(crate) const VERSION: u8 = 1;

const BATCH: u8 = 1;
const FETCH: u8 = 2;
const FETCHED: u8 = 3;
const TABLE: u8 = 4;
const STATE: u8 = 5;
const INDEX: u8 = 6;
const PULL: u8 = 7;
const EVICTED: u8 = 8;

const AGREED: u8 = 0x01;
const SAFE: u8 = 0x02;
const JOIN: u8 = 0x03;
const LEAVE: u8 = 0x04;
const STATED: u8 = 0x05;
const DENIED: u8 = 0x06;
const FIFO: u8 = 0x07;
const STAMP: u8 = 0x10;
const HAVE: u8 = 0x11;
const ITEM: u8 = 0x12;

/// What stands at one place of a member's own sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Data { group: u32, local: u32, guarantee: Guarantee, payload: Bytes },
    Join { local: u32, name: Arc<str> },
    Leave { local: u32, name: Arc<str> },
    Stated { group: u32, local: u32 },
    Denied { group: u32, local: u32 },
}

impl Item {
    /// Bytes that count against the sender's window.
    pub(crate) fn cost(&self) -> usize {
        MESSAGE_COST
            + match self {
                Self::Data { payload, .. } => payload.len(),
                Self::Join { name, .. } | Self::Leave { name, .. } => name.len(),
                Self::Stated { .. } | Self::Denied { .. } => 0,
            }
    }

    /// Upper bound of the encoded size.
    pub(crate) fn wire_len(&self) -> usize {
        match self {
            Self::Data { payload, .. } => 25 + payload.len(),
            Self::Join { name, .. } | Self::Leave { name, .. } => 11 + name.len(),
            Self::Stated { .. } | Self::Denied { .. } => 17,
        }
    }

    pub(crate) fn is_safe(&self) -> bool {
        matches!(self, Self::Data { guarantee: Guarantee::Safe, .. })
    }

    pub(crate) fn is_fifo(&self) -> bool {
        matches!(self, Self::Data { guarantee: Guarantee::Fifo, .. })
    }

    pub(crate) fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Data { group, local, guarantee, payload } => {
                out.put_u8(match guarantee {
                    Guarantee::Fifo => FIFO,
                    Guarantee::Agreed => AGREED,
                    Guarantee::Safe => SAFE,
                });
                out.put_varint(u64::from(*group));
                out.put_varint(u64::from(*local));
                out.put_prefixed(payload);
            }
            Self::Join { local, name } => {
                out.put_u8(JOIN);
                out.put_varint(u64::from(*local));
                out.put_text(name);
            }
            Self::Leave { local, name } => {
                out.put_u8(LEAVE);
                out.put_varint(u64::from(*local));
                out.put_text(name);
            }
            Self::Stated { group, local } | Self::Denied { group, local } => {
                out.put_u8(if matches!(self, Self::Denied { .. }) { DENIED } else { STATED });
                out.put_varint(u64::from(*group));
                out.put_varint(u64::from(*local));
            }
        }
    }

    /// Reads the item whose tag was `tag`; content is a slice of `whole`, the message that `r` reads.
    fn read(tag: u8, r: &mut Reader<'_>, whole: &Bytes) -> Result<Self, ParseError> {
        Ok(match tag {
            AGREED | SAFE | FIFO => {
                let group = read_u32(r, "group")?;
                let local = read_u32(r, "local")?;
                let n = r.length("payload", r.remaining())?;
                let at = r.position();
                r.take("payload", n)?;
                let guarantee = match tag {
                    FIFO => Guarantee::Fifo,
                    SAFE => Guarantee::Safe,
                    _ => Guarantee::Agreed,
                };
                Self::Data { group, local, guarantee, payload: whole.slice(at..at + n) }
            }
            JOIN => Self::Join { local: read_u32(r, "local")?, name: read_name(r)? },
            LEAVE => Self::Leave { local: read_u32(r, "local")?, name: read_name(r)? },
            STATED => Self::Stated { group: read_u32(r, "group")?, local: read_u32(r, "local")? },
            DENIED => Self::Denied { group: read_u32(r, "group")?, local: read_u32(r, "local")? },
            _ => return Err(r.error("tag", Malformed::OutOfRange)),
        })
    }
}

/// A part of a batch or of an answer to a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The next item of the sender's own sequence.
    Own(Item),
    /// Any member's item (answers only).
    Of { member: u32, lseq: u64, item: Item },
    /// The order of `count` messages of each member, from `first` on.
    Stamp { first: u64, runs: Vec<(u32, u64)> },
    /// What the sender holds without gap, and what it has consumed.
    Have { held: u64, consumed: u64 },
}

impl Frame {
    pub(crate) fn read(r: &mut Reader<'_>, whole: &Bytes) -> Result<Self, ParseError> {
        Ok(match r.u8("tag")? {
            STAMP => {
                let first = r.varint("first")?;
                let n = r.length("runs", r.remaining() / 2)?;
                let mut runs = Vec::with_capacity(n);
                for _ in 0..n {
                    let member = read_u32(r, "member")?;
                    let count = r.varint("count")?;
                    if count == 0 || count > u64::from(u32::MAX) {
                        return Err(r.error("count", Malformed::OutOfRange));
                    }
                    runs.push((member, count));
                }
                Self::Stamp { first, runs }
            }
            HAVE => Self::Have { held: r.varint("held")?, consumed: r.varint("consumed")? },
            ITEM => {
                let member = read_u32(r, "member")?;
                let lseq = r.varint("lseq")?;
                let tag = r.u8("tag")?;
                Self::Of { member, lseq, item: Item::read(tag, r, whole)? }
            }
            tag => Self::Own(Item::read(tag, r, whole)?),
        })
    }
}

pub(crate) fn write_stamp(out: &mut BytesMut, first: u64, runs: &[(u32, u64)]) {
    out.put_u8(STAMP);
    out.put_varint(first);
    out.put_length(runs.len());
    for (member, count) in runs {
        out.put_varint(u64::from(*member));
        out.put_varint(*count);
    }
}

pub(crate) fn write_have(out: &mut BytesMut, held: u64, consumed: u64) {
    out.put_u8(HAVE);
    out.put_varint(held);
    out.put_varint(consumed);
}

pub(crate) fn write_of(out: &mut BytesMut, member: u32, lseq: u64, item: &Item) {
    out.put_u8(ITEM);
    out.put_varint(u64::from(member));
    out.put_varint(lseq);
    item.write(out);
}

/// Starts a batch; frames follow. `base` is the place of the first own item in the sender's sequence.
pub(crate) fn start_batch(out: &mut BytesMut, view: ViewNumber, base: u64) {
    out.put_slice(&[VERSION, BATCH]);
    out.put_varint(view.0);
    out.put_varint(base);
}

/// Starts an answer to a fetch; frames follow.
pub(crate) fn start_fetched(out: &mut BytesMut, view: ViewNumber) {
    out.put_slice(&[VERSION, FETCHED]);
    out.put_varint(view.0);
}

/// What a member misses in a flush. Ranges include both ends; a range of stamps whose end is zero is none.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Fetch {
    pub(crate) stamps: (u64, u64),
    pub(crate) items: Vec<(u32, u64, u64)>,
}

impl Fetch {
    pub(crate) fn write(&self, view: ViewNumber) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(&[VERSION, FETCH]);
        out.put_varint(view.0);
        out.put_varint(self.stamps.0);
        out.put_varint(self.stamps.1);
        out.put_length(self.items.len());
        for (member, from, to) in &self.items {
            out.put_varint(u64::from(*member));
            out.put_varint(*from);
            out.put_varint(*to);
        }
        out.freeze()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let stamps = (r.varint("first")?, r.varint("last")?);
        let n = r.length("ranges", r.remaining() / 3)?;
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push((read_u32(r, "member")?, r.varint("first")?, r.varint("last")?));
        }
        r.finish("fetch")?;
        Ok(Self { stamps, items })
    }
}

/// A piece of a group's state for one joiner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) group: u32,
    pub(crate) local: u32,
    pub(crate) position: Position,
    pub(crate) offset: usize,
    pub(crate) total: usize,
    pub(crate) content: Bytes,
}

impl Piece {
    pub(crate) fn write(&self) -> Bytes {
        let mut out = start_state(STATE, self.group, self.local, self.position);
        out.reserve(self.content.len());
        out.put_length(self.offset);
        out.put_length(self.total);
        out.put_slice(&self.content);
        out.freeze()
    }

    fn read(r: &mut Reader<'_>, whole: &Bytes) -> Result<Self, ParseError> {
        let group = read_u32(r, "group")?;
        let local = read_u32(r, "local")?;
        let position = read_position(r)?;
        let offset = r.length("offset", usize::MAX)?;
        let total = r.length("total", usize::MAX)?;
        let content = whole.slice(r.position()..);
        r.rest();
        if offset.checked_add(content.len()).is_none_or(|end| end > total) {
            return Err(r.error("content", Malformed::OutOfRange));
        }
        Ok(Self { group, local, position, offset, total, content })
    }
}

/// Who gets which state, at the head of all messages about it.
fn start_state(kind: u8, group: u32, local: u32, position: Position) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_slice(&[VERSION, kind]);
    out.put_varint(u64::from(group));
    out.put_varint(u64::from(local));
    write_position(&mut out, position);
    out
}

/// What a state is made of, from `offset` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) group: u32,
    pub(crate) local: u32,
    pub(crate) position: Position,
    pub(crate) offset: usize,
    pub(crate) total: usize,
    /// Length, not zero, and digest of each piece.
    pub(crate) parts: Vec<(usize, Digest)>,
}

impl Index {
    pub(crate) fn write(&self) -> Bytes {
        let mut out = start_state(INDEX, self.group, self.local, self.position);
        out.put_length(self.offset);
        out.put_length(self.total);
        out.put_length(self.parts.len());
        for (length, digest) in &self.parts {
            out.put_length(*length);
            out.put_slice(&digest.0);
        }
        out.freeze()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (group, local, position) = (read_u32(r, "group")?, read_u32(r, "local")?, read_position(r)?);
        let offset = r.length("offset", usize::MAX)?;
        let total = r.length("total", usize::MAX)?;
        let n = r.length("pieces", r.remaining() / (1 + Digest::LENGTH))?;
        let mut parts = Vec::with_capacity(n);
        let mut end = offset;
        for _ in 0..n {
            let length = r.length("length", usize::MAX)?;
            end = end.checked_add(length).filter(|end| length > 0 && *end <= total).unwrap_or(usize::MAX);
            if end == usize::MAX {
                return Err(r.error("length", Malformed::OutOfRange));
            }
            let mut digest = [0; Digest::LENGTH];
            digest.copy_from_slice(r.take("digest", Digest::LENGTH)?);
            parts.push((length, Digest(digest)));
        }
        r.finish("index")?;
        Ok(Self { group, local, position, offset, total, parts })
    }
}

/// Pieces of a state that its joiner asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) group: u32,
    pub(crate) local: u32,
    pub(crate) position: Position,
    /// Offset and length of each.
    pub(crate) parts: Vec<(usize, usize)>,
}

impl Pull {
    pub(crate) fn write(&self) -> Bytes {
        let mut out = start_state(PULL, self.group, self.local, self.position);
        out.put_length(self.parts.len());
        for (offset, length) in &self.parts {
            out.put_length(*offset);
            out.put_length(*length);
        }
        out.freeze()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (group, local, position) = (read_u32(r, "group")?, read_u32(r, "local")?, read_position(r)?);
        let n = r.length("pieces", r.remaining() / 2)?;
        let mut parts = Vec::with_capacity(n);
        for _ in 0..n {
            parts.push((r.length("offset", usize::MAX)?, r.length("length", usize::MAX)?));
        }
        r.finish("pull")?;
        Ok(Self { group, local, position, parts })
    }
}

/// Whoever this is sent to was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evicted {
    /// The view from which on it is out.
    pub(crate) view: ViewNumber,
    pub(crate) lag: Lag,
}

impl Evicted {
    pub(crate) fn write(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(&[VERSION, EVICTED, u8::from(self.lag.stalled)]);
        out.put_varint(self.view.0);
        out.put_varint(u64::try_from(self.lag.lasted.as_micros()).unwrap_or(u64::MAX).min(VARINT_MAX));
        out.put_varint(self.lag.behind.min(VARINT_MAX));
        out.freeze()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let stalled = match r.u8("stalled")? {
            0 => false,
            1 => true,
            _ => return Err(r.error("stalled", Malformed::OutOfRange)),
        };
        let view = ViewNumber(r.varint("view")?);
        let lasted = Duration::from_micros(r.varint("lasted")?);
        let behind = r.varint("behind")?;
        r.finish("evicted")?;
        Ok(Self { view, lag: Lag { stalled, lasted, behind } })
    }
}

/// Starts the table of groups as of the start of `view`; the table follows.
pub(crate) fn start_table(out: &mut BytesMut, view: ViewNumber) {
    out.put_slice(&[VERSION, TABLE]);
    out.put_varint(view.0);
}

/// A message, as far as its head tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Frames follow.
    Batch {
        view: ViewNumber,
        base: u64,
    },
    Fetch {
        view: ViewNumber,
        wanted: Fetch,
    },
    /// Frames follow.
    Fetched {
        view: ViewNumber,
    },
    /// The table follows.
    Table {
        view: ViewNumber,
    },
    State(Piece),
    Index(Index),
    Pull(Pull),
    Evicted(Evicted),
}

impl Message {
    pub(crate) fn read(r: &mut Reader<'_>, whole: &Bytes) -> Result<Self, ParseError> {
        if r.u8("version")? != VERSION {
            return Err(r.error("version", Malformed::OutOfRange));
        }
        let kind = r.u8("kind")?;
        match kind {
            STATE => return Ok(Self::State(Piece::read(r, whole)?)),
            INDEX => return Ok(Self::Index(Index::read(r)?)),
            PULL => return Ok(Self::Pull(Pull::read(r)?)),
            EVICTED => return Ok(Self::Evicted(Evicted::read(r)?)),
            _ => {}
        }
        let view = ViewNumber(r.varint("view")?);
        Ok(match kind {
            BATCH => Self::Batch { view, base: r.varint("base")? },
            FETCH => Self::Fetch { view, wanted: Fetch::read(r)? },
            FETCHED => Self::Fetched { view },
            TABLE => Self::Table { view },
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        })
    }
}

pub(crate) fn read_u32(r: &mut Reader<'_>, field: &'static str) -> Result<u32, ParseError> {
    let at = r.clone();
    u32::try_from(r.varint(field)?).map_err(|_too_large| at.error(field, Malformed::OutOfRange))
}

pub(crate) fn read_name(r: &mut Reader<'_>) -> Result<Arc<str>, ParseError> {
    let at = r.clone();
    let name = r.text("name")?;
    if name.is_empty() || name.len() > GROUP_NAME_MAX {
        return Err(at.error("name", Malformed::OutOfRange));
    }
    Ok(Arc::from(name))
}

pub(crate) fn read_position(r: &mut Reader<'_>) -> Result<Position, ParseError> {
    Ok(Position { view: ViewNumber(r.varint("view")?), sequence: r.varint("sequence")? })
}

pub(crate) fn write_position(out: &mut BytesMut, position: Position) {
    out.put_varint(position.view.0);
    out.put_varint(position.sequence);
}

pub(crate) fn read_member(r: &mut Reader<'_>) -> Result<MemberId, ParseError> {
    Ok(MemberId { instance: r.instance("instance")?, local: read_u32(r, "local")? })
}

pub(crate) fn write_member(out: &mut BytesMut, member: MemberId) {
    out.put_instance(member.instance);
    out.put_varint(u64::from(member.local));
}

/// Head of a batch, at most.
pub(crate) const fn head_len(view: ViewNumber, base: u64) -> usize {
    2 + varint_len(if view.0 > VARINT_MAX { VARINT_MAX } else { view.0 }) + varint_len(base)
}

#[cfg(test)]
mod tests;
