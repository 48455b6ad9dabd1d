use super::common::{
    Key, Name, Value, put_mode_or_none, put_option, put_ranges, put_signal, put_token, take_bool, take_flags,
    take_mode_or_none, take_name, take_option, take_ranges, take_signal, take_token,
};
use super::{put_instances, take_instances};
use crate::range::RangeSet;
use crate::{ClientId, FencingToken, Flags, Mode};
use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, Writer as _};

/// One node's locks of one resource, as it tells them to a new master.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The resource.
    pub key: Key,
    /// The last token that the node saw.
    pub token: FencingToken,
    /// The newest value block that the node has.
    pub value: Option<Value>,
    /// A lock that holds more than CR was given that value, so nobody can have written since.
    pub value_certain: bool,
    /// The last master said that the value block is not valid.
    pub value_invalid: bool,
    /// The locks.
    pub locks: Vec<ClaimedLock>,
}

/// One lock of a [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimedLock {
    /// What its owner calls it.
    pub lock: u64,
    /// Its last operation that was sent to a master.
    pub op: u32,
    /// Whose it is.
    pub client: ClientId,
    /// Transaction for deadlock searches.
    pub transaction: u64,
    /// Flags of the operation.
    pub flags: Flags,
    /// What is held.
    pub held: Option<Mode>,
    /// What is asked for, if an operation waits.
    pub asked: Option<Mode>,
    /// The place in its queue, if the last master told it.
    pub place: Option<i64>,
    /// For how many milliseconds it has held, or waited.
    pub age_ms: u64,
    /// Of which bytes: held, and asked for; `None`: of the whole resource.
    pub ranges: Option<Box<(RangeSet, RangeSet)>>,
    /// What those are told that are in the way, if an operation waits; zero: nothing.
    pub signal: u64,
}

impl Claim {
    /// Says of a tree that the sender has no lock in it that a new master must know of, and wants to hear who that is.
    pub(crate) fn nothing(tree: &Name) -> Self {
        Self {
            key: Key { tree: Name::clone(tree), path: Name::from([]) },
            token: FencingToken::default(),
            value: None,
            value_certain: false,
            value_invalid: false,
            locks: Vec::new(),
        }
    }

    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        self.key.emit(out);
        put_token(self.token, out);
        Value::emit(self.value.as_ref(), out);
        out.push(u8::from(self.value_certain));
        out.push(u8::from(self.value_invalid));
        out.put_length(self.locks.len());
        for lock in &self.locks {
            lock.emit(out);
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            key: Key::parse(r)?,
            token: take_token(r)?,
            value: Value::parse(r)?,
            value_certain: take_bool(r, "value certain")?,
            value_invalid: take_bool(r, "value invalid")?,
            locks: {
                let count = r.length("locks", r.remaining() / ClaimedLock::SIZE_MIN)?;
                (0..count).map(|_| ClaimedLock::parse(r)).collect::<Result<_, _>>()?
            },
        })
    }
}

impl ClaimedLock {
    pub(super) const SIZE_MIN: usize = 8 + 4 + 4 + 8 + 4 + 1 + 1 + 1 + 1 + 1 + 1;

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.lock.to_be_bytes());
        out.extend_from_slice(&self.op.to_be_bytes());
        out.extend_from_slice(&self.client.raw().to_be_bytes());
        out.extend_from_slice(&self.transaction.to_be_bytes());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
        put_mode_or_none(self.held, out);
        put_mode_or_none(self.asked, out);
        put_option(self.place, out);
        out.put_varint(self.age_ms);
        out.push(u8::from(self.ranges.is_some()));
        if let Some((held, asked)) = self.ranges.as_deref() {
            put_ranges(held, out);
            put_ranges(asked, out);
        }
        put_signal(self.signal, out);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        let lock = Self {
            lock: r.u64("lock")?,
            op: r.u32("operation")?,
            client: ClientId::new(r.u32("client")?),
            transaction: r.u64("transaction")?,
            flags: take_flags(r)?,
            held: take_mode_or_none(r)?,
            asked: take_mode_or_none(r)?,
            place: take_option(r, "place")?,
            age_ms: r.varint("age")?,
            ranges: if take_bool(r, "ranges")? {
                Some(Box::new((take_ranges(r)?, take_ranges(r)?)))
            } else {
                None
            },
            signal: take_signal(r)?,
        };
        if lock.held.is_none() && lock.asked.is_none() {
            return Err(at.error("lock", Malformed::OutOfRange));
        }
        Ok(lock)
    }
}

/// What the old keeper of a directory slot tells the new one. Masters that live claim their trees themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handover {
    /// The slot.
    pub slot: u16,
    /// The old keeper never had the slot complete: what the new one does not hear of may exist.
    pub incomplete: bool,
    /// Departed instances that may hold locks of any tree of the slot that nobody claims.
    pub suspects: Vec<NodeInstance>,
    /// Trees whose master is gone and that nobody claimed, with who may hold locks of them.
    pub orphans: Vec<(Name, Vec<NodeInstance>)>,
}

impl Handover {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        out.extend_from_slice(&self.slot.to_be_bytes());
        out.push(u8::from(self.incomplete));
        put_instances(&self.suspects, out);
        out.put_length(self.orphans.len());
        for (tree, suspects) in &self.orphans {
            out.put_prefixed(tree);
            put_instances(suspects, out);
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        let slot = r.u16("slot")?;
        if usize::from(slot) >= crate::directory::SLOTS {
            return Err(at.error("slot", Malformed::OutOfRange));
        }
        let incomplete = take_bool(r, "incomplete")?;
        let suspects = take_instances(r)?;
        let count = r.length("orphans", r.remaining() / 3)?;
        let mut orphans = Vec::new();
        for _ in 0..count {
            orphans.push((take_name(r)?, take_instances(r)?));
        }
        Ok(Self { slot, incomplete, suspects, orphans })
    }
}

/// The two points of a recovery that every member passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// All claims were sent.
    Claimed,
    /// What was claimed from this node is rebuilt, and it serves again.
    Rebuilt,
}

/// The sender has passed a point of the recovery of the message's epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Barrier {
    /// Which point.
    pub phase: Phase,
    /// Departed instances that the sender does not know to be dead.
    pub unproven: Vec<NodeInstance>,
    /// Departed instances that are proven dead: whoever joined later may not have heard it.
    pub proven: Vec<NodeInstance>,
}

impl Barrier {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        out.push(match self.phase {
            Phase::Claimed => 1,
            Phase::Rebuilt => 2,
        });
        put_instances(&self.unproven, out);
        put_instances(&self.proven, out);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        let phase = match r.u8("phase")? {
            1 => Phase::Claimed,
            2 => Phase::Rebuilt,
            _ => return Err(at.error("phase", Malformed::OutOfRange)),
        };
        Ok(Self { phase, unproven: take_instances(r)?, proven: take_instances(r)? })
    }
}

/// Why it is certain that the holders of an instance that departed do nothing more under its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Proof {
    /// A fence device confirmed that the node is off or was reset.
    Fenced,
    /// The node ends itself, watched by hardware, when its primary lease runs out, and that time has passed.
    LeaseExpired,
    /// The node's sentinel, which owned the holders' process group, has ended them, or the node left in order.
    Obituary,
}

impl Proof {
    pub(super) const fn raw(self) -> u8 {
        match self {
            Self::Fenced => 1,
            Self::LeaseExpired => 2,
            Self::Obituary => 3,
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        match r.u8("proof")? {
            1 => Ok(Self::Fenced),
            2 => Ok(Self::LeaseExpired),
            3 => Ok(Self::Obituary),
            _ => Err(at.error("proof", Malformed::OutOfRange)),
        }
    }
}
