use super::common::{
    Key, Value, put_ranges, put_signal, take_bool, take_flags, take_mode, take_ranges, take_signal,
};
use crate::range::RangeSet;
use crate::{ClientId, Flags, Mode};
use pils::wire::{Malformed, ParseError, Reader};

/// What is asked for of which bytes of the resource, if not of all alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AskedRanges {
    /// All that the lock is to have when it is granted.
    pub set: RangeSet,
    /// Nothing is asked for: who is in the way is to be told.
    pub test: bool,
}

impl AskedRanges {
    fn emit(asked: Option<&Self>, out: &mut Vec<u8>) {
        let Some(asked) = asked else { return out.push(0) };
        out.push(if asked.test { 2 } else { 1 });
        put_ranges(&asked.set, out);
    }

    fn parse(r: &mut Reader<'_>) -> Result<Option<Box<Self>>, ParseError> {
        let at = r.clone();
        let test = match r.u8("ranges")? {
            0 => return Ok(None),
            1 => false,
            2 => true,
            _ => return Err(at.error("ranges", Malformed::OutOfRange)),
        };
        let set = take_ranges(r)?;
        if set.is_empty() {
            return Err(at.error("ranges", Malformed::OutOfRange));
        }
        Ok(Some(Box::new(Self { set, test })))
    }
}

/// A new lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The resource.
    pub key: Key,
    /// What the requester calls the lock.
    pub lock: u64,
    /// Which operation on the lock this is.
    pub op: u32,
    /// The requester's client.
    pub client: ClientId,
    /// The transaction for deadlock searches, on the requester's node.
    pub transaction: u64,
    /// What is asked for.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// Of which bytes; `None`: of the whole resource.
    pub ranges: Option<Box<AskedRanges>>,
    /// What those are told that are in the way; zero: nothing.
    pub signal: u64,
}

impl Request {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        self.key.emit(out);
        out.extend_from_slice(&self.lock.to_be_bytes());
        out.extend_from_slice(&self.op.to_be_bytes());
        out.extend_from_slice(&self.client.raw().to_be_bytes());
        out.extend_from_slice(&self.transaction.to_be_bytes());
        out.push(self.mode.raw());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
        AskedRanges::emit(self.ranges.as_deref(), out);
        put_signal(self.signal, out);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            key: Key::parse(r)?,
            lock: r.u64("lock")?,
            op: r.u32("operation")?,
            client: ClientId::new(r.u32("client")?),
            transaction: r.u64("transaction")?,
            mode: take_mode(r)?,
            flags: take_flags(r)?,
            ranges: AskedRanges::parse(r)?,
            signal: take_signal(r)?,
        })
    }
}

/// Another mode for a lock that is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Convert {
    /// What the requester calls the lock.
    pub lock: u64,
    /// Which operation on the lock this is.
    pub op: u32,
    /// What is asked for.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// The value block to write, if one is.
    pub value: Option<Value>,
    /// True for a conversion down that the requester has completed already: no answer is wanted.
    pub told: bool,
    /// Of which bytes; `None`: of the whole resource.
    pub ranges: Option<Box<AskedRanges>>,
    /// What those are told that are in the way; zero: nothing.
    pub signal: u64,
}

impl Convert {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        out.extend_from_slice(&self.lock.to_be_bytes());
        out.extend_from_slice(&self.op.to_be_bytes());
        out.push(self.mode.raw());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
        Value::emit(self.value.as_ref(), out);
        out.push(u8::from(self.told));
        AskedRanges::emit(self.ranges.as_deref(), out);
        put_signal(self.signal, out);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            lock: r.u64("lock")?,
            op: r.u32("operation")?,
            mode: take_mode(r)?,
            flags: take_flags(r)?,
            value: Value::parse(r)?,
            told: take_bool(r, "told")?,
            ranges: AskedRanges::parse(r)?,
            signal: take_signal(r)?,
        })
    }
}

/// The end of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unlock {
    /// What the requester calls the lock.
    pub lock: u64,
    /// IVVALBLK and VALBLK count here.
    pub flags: Flags,
    /// The value block to write, if one is.
    pub value: Option<Value>,
}

impl Unlock {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        out.extend_from_slice(&self.lock.to_be_bytes());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
        Value::emit(self.value.as_ref(), out);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { lock: r.u64("lock")?, flags: take_flags(r)?, value: Value::parse(r)? })
    }
}
