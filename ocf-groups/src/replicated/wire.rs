//! Layout of the messages and of the state of a replicated machine. See `PROTOCOL.md`, section 8.

use super::Birth;
use crate::{MemberId, Position};
use bytes::Bytes;
use core::time::Duration;
use ocf_membership::ViewNumber;
use pils::wire::{Malformed, ParseError, Reader, VARINT_MAX, Writer};

/// First byte of every message and every snapshot.
const VERSION: u8 = 1;
const COMMAND: u8 = 1;
const TIME: u8 = 2;

/// A message of a replicated machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Command { time: Duration, number: u64, oldest: u64, command: &'a [u8] },
    Time { time: Duration },
}

impl<'a> Message<'a> {
    pub(super) fn write(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Command { time, number, oldest, command } => {
                out.push(COMMAND);
                put_time(&mut out, *time);
                out.put_varint(*number);
                out.put_varint(*oldest);
                out.extend_from_slice(command);
            }
            Self::Time { time } => {
                out.push(TIME);
                put_time(&mut out, *time);
            }
        }
        Bytes::from(out)
    }

    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        read_version(&mut r)?;
        let kind = r.u8("kind")?;
        let time = read_time(&mut r)?;
        match kind {
            COMMAND => {
                let (number, oldest) = (r.varint("number")?, r.varint("oldest")?);
                Ok(Self::Command { time, number, oldest, command: r.rest() })
            }
            TIME => {
                r.finish("message")?;
                Ok(Self::Time { time })
            }
            _ => Err(r.error("kind", Malformed::OutOfRange)),
        }
    }
}

pub(super) fn put_version(out: &mut Vec<u8>) {
    out.push(VERSION);
}

pub(super) fn read_version(r: &mut Reader<'_>) -> Result<(), ParseError> {
    let at = r.clone();
    if r.u8("version")? == VERSION { Ok(()) } else { Err(at.error("version", Malformed::OutOfRange)) }
}

/// Nanoseconds; what does not fit (146 years) is the most that fits.
pub(crate) fn put_time(out: &mut Vec<u8>, time: Duration) {
    out.put_varint(u64::try_from(time.as_nanos()).unwrap_or(VARINT_MAX).min(VARINT_MAX));
}

pub(crate) fn read_time(r: &mut Reader<'_>) -> Result<Duration, ParseError> {
    Ok(Duration::from_nanos(r.varint("time")?))
}

pub(crate) fn put_member(out: &mut Vec<u8>, member: MemberId) {
    out.put_instance(member.instance);
    out.put_varint(u64::from(member.local));
}

pub(crate) fn read_member(r: &mut Reader<'_>) -> Result<MemberId, ParseError> {
    Ok(MemberId { instance: r.instance("instance")?, local: read_u32(r, "local")? })
}

pub(crate) fn put_birth(out: &mut Vec<u8>, birth: Birth) {
    put_member(out, birth.founder);
    out.put_varint(birth.position.view.0);
    out.put_varint(birth.position.sequence);
}

pub(crate) fn read_birth(r: &mut Reader<'_>) -> Result<Birth, ParseError> {
    let founder = read_member(r)?;
    let view = ViewNumber(r.varint("view")?);
    Ok(Birth { founder, position: Position { view, sequence: r.varint("sequence")? } })
}

pub(crate) fn put_members<'a>(out: &mut Vec<u8>, members: impl ExactSizeIterator<Item = &'a MemberId>) {
    out.put_length(members.len());
    members.for_each(|m| put_member(out, *m));
}

pub(crate) fn read_members(r: &mut Reader<'_>) -> Result<Vec<MemberId>, ParseError> {
    // A member takes 21 bytes at least.
    let n = r.length("members", r.remaining() / 21)?;
    (0..n).map(|_| read_member(r)).collect()
}

pub(crate) fn read_u32(r: &mut Reader<'_>, field: &'static str) -> Result<u32, ParseError> {
    let at = r.clone();
    u32::try_from(r.varint(field)?).map_err(|_too_big| at.error(field, Malformed::OutOfRange))
}

/// How many follow, each of at least `least` bytes, so that no count makes a table larger than the input.
pub(crate) fn read_count(r: &mut Reader<'_>, least: usize) -> Result<usize, ParseError> {
    r.length("count", r.remaining() / least.max(1))
}

pub(crate) fn read_bytes(r: &mut Reader<'_>) -> Result<Bytes, ParseError> {
    r.bytes("bytes").map(Bytes::copy_from_slice)
}

/// 0 for none, else 1 and the time.
pub(crate) fn put_time_or_none(out: &mut Vec<u8>, time: Option<Duration>) {
    out.push(u8::from(time.is_some()));
    if let Some(time) = time {
        put_time(out, time);
    }
}

pub(crate) fn read_time_or_none(r: &mut Reader<'_>) -> Result<Option<Duration>, ParseError> {
    if read_flag(r)? { read_time(r).map(Some) } else { Ok(None) }
}

pub(crate) fn read_flag(r: &mut Reader<'_>) -> Result<bool, ParseError> {
    let at = r.clone();
    match r.u8("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(at.error("flag", Malformed::OutOfRange)),
    }
}
