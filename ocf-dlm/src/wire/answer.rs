use super::common::{
    Name, Value, put_mode_or_none, put_range, put_signal, put_token, take_bool, take_mode, take_mode_or_none,
    take_name, take_range, take_signal, take_token,
};
use crate::range::{Range, RangeKind};
use crate::{ClientId, FencingToken, Mode, Remarks};
use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, Writer as _};

/// What a master says about one lock of the receiver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Answer {
    /// The operation is granted.
    Granted {
        /// The receiver's lock.
        lock: u64,
        /// Which operation.
        op: u32,
        /// What is held now.
        mode: Mode,
        /// The token of the grant.
        token: FencingToken,
        /// What is to be said beside it.
        remarks: Remarks,
        /// The value block, if due.
        value: Option<Value>,
        /// A mode that others want already, to be notified after the grant.
        blocking: Option<Mode>,
    },
    /// The operation waits.
    Queued {
        /// The receiver's lock.
        lock: u64,
        /// Which operation.
        op: u32,
        /// Its place: recovery rebuilds the queues by it.
        place: i64,
        /// It is a conversion that would have been in a deadlock, and holds NL until it is granted.
        demoted: bool,
        /// Departed instances whose locks, or possible locks, it waits for: they are not proven dead.
        fence: Vec<NodeInstance>,
    },
    /// The operation ended without a grant.
    Refused {
        /// The receiver's lock.
        lock: u64,
        /// Which operation.
        op: u32,
        /// Why.
        why: Refusal,
        /// What is held now.
        held: Option<Mode>,
    },
    /// The lock is in the way of another's request.
    Blocking {
        /// The receiver's lock.
        lock: u64,
        /// The mode that is wanted.
        wanted: Mode,
        /// What came with the request; zero: nothing.
        signal: u64,
    },
    /// The sender does not master the tree; ask `hint`, or the directory.
    Retry {
        /// The tree.
        tree: Name,
        /// The receiver's lock.
        lock: u64,
        /// Which operation.
        op: u32,
        /// Who masters it, as far as the sender knows; itself if it does not.
        hint: NodeInstance,
    },
    /// Who is in the way of ranges that were asked about. The lock that asked is gone.
    Tested {
        /// The receiver's lock.
        lock: u64,
        /// Which operation.
        op: u32,
        /// The first in the way.
        blocker: Option<RangeBlocker>,
    },
}

/// A range that is in somebody's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RangeBlocker {
    /// The node of its owner. If that left and is not proven dead, it may also have nothing.
    pub node: NodeInstance,
    /// The owner there.
    pub client: ClientId,
    /// The bytes.
    pub range: Range,
    /// How they are locked.
    pub kind: RangeKind,
}

/// Why an operation ended without a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It would have to wait and must not.
    NotQueued,
    /// Conversion deadlock.
    Deadlock,
    /// As asked.
    Cancelled,
    /// A limit of the master is reached.
    Limit,
}

impl Refusal {
    pub(super) const fn raw(self) -> u8 {
        match self {
            Self::NotQueued => 1,
            Self::Deadlock => 2,
            Self::Cancelled => 3,
            Self::Limit => 4,
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        Ok(match r.u8("refusal")? {
            1 => Self::NotQueued,
            2 => Self::Deadlock,
            3 => Self::Cancelled,
            4 => Self::Limit,
            _ => return Err(at.error("refusal", Malformed::OutOfRange)),
        })
    }
}

const GRANTED: u8 = 1;
const QUEUED: u8 = 2;
const REFUSED: u8 = 3;
const BLOCKING: u8 = 4;
const RETRY: u8 = 5;
const TESTED: u8 = 6;

impl Answer {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        match self {
            Self::Granted { lock, op, mode, token, remarks, value, blocking } => {
                put_head(GRANTED, *lock, *op, out);
                out.push(mode.raw());
                put_token(*token, out);
                out.push(remarks.bits());
                Value::emit(value.as_ref(), out);
                put_mode_or_none(*blocking, out);
            }
            Self::Queued { lock, op, place, demoted, fence } => {
                put_head(QUEUED, *lock, *op, out);
                out.extend_from_slice(&place.to_be_bytes());
                out.push(u8::from(*demoted));
                super::put_instances(fence, out);
            }
            Self::Refused { lock, op, why, held } => {
                put_head(REFUSED, *lock, *op, out);
                out.push(why.raw());
                put_mode_or_none(*held, out);
            }
            Self::Blocking { lock, wanted, signal } => {
                put_head(BLOCKING, *lock, 0, out);
                out.push(wanted.raw());
                put_signal(*signal, out);
            }
            Self::Retry { tree, lock, op, hint } => {
                put_head(RETRY, *lock, *op, out);
                out.put_prefixed(tree);
                out.put_instance(*hint);
            }
            Self::Tested { lock, op, blocker } => {
                put_head(TESTED, *lock, *op, out);
                out.push(u8::from(blocker.is_some()));
                if let Some(blocker) = blocker {
                    out.put_instance(blocker.node);
                    out.extend_from_slice(&blocker.client.raw().to_be_bytes());
                    put_range((blocker.range, blocker.kind), out);
                }
            }
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        let what = r.u8("answer")?;
        let lock = r.u64("lock")?;
        let op = r.u32("operation")?;
        Ok(match what {
            GRANTED => Self::Granted {
                lock,
                op,
                mode: take_mode(r)?,
                token: take_token(r)?,
                remarks: {
                    let bits = r.u8("remarks")?;
                    if bits > 7 {
                        return Err(at.error("remarks", Malformed::OutOfRange));
                    }
                    Remarks::from_bits(bits)
                },
                value: Value::parse(r)?,
                blocking: take_mode_or_none(r)?,
            },
            QUEUED => {
                let place = i64::from_be_bytes(r.array("place")?);
                let demoted = take_bool(r, "demoted")?;
                Self::Queued { lock, op, place, demoted, fence: super::take_instances(r)? }
            }
            REFUSED => Self::Refused { lock, op, why: Refusal::parse(r)?, held: take_mode_or_none(r)? },
            BLOCKING if op == 0 => Self::Blocking { lock, wanted: take_mode(r)?, signal: take_signal(r)? },
            RETRY => Self::Retry { lock, op, tree: take_name(r)?, hint: r.instance("hint")? },
            TESTED => {
                let mut blocker = None;
                if take_bool(r, "blocker")? {
                    let (node, client) = (r.instance("node")?, ClientId::new(r.u32("client")?));
                    let (range, kind) = take_range(r)?;
                    blocker = Some(RangeBlocker { node, client, range, kind });
                }
                Self::Tested { lock, op, blocker }
            }
            _ => return Err(at.error("answer", Malformed::OutOfRange)),
        })
    }
}

fn put_head(what: u8, lock: u64, op: u32, out: &mut Vec<u8>) {
    out.push(what);
    out.extend_from_slice(&lock.to_be_bytes());
    out.extend_from_slice(&op.to_be_bytes());
}
