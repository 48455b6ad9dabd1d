use super::common::{
    Key, put_mode_or_none, put_token, take_bool, take_flags, take_mode, take_mode_or_none, take_name,
    take_path, take_space, take_token,
};
use crate::{ClientId, FencingToken, Flags, Mode};
use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use std::sync::Arc;

/// Longest reason of an order, in bytes.
pub const REASON_MAX: usize = 255;
/// Most locks of one report.
pub const REPORTED_MAX: usize = 256;
/// Most resources kept for repair that one message tells.
pub const MARKS_MAX: usize = 64;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// What the node that gave it calls it.
    pub ticket: u64,
    /// The node that gave it.
    pub origin: NodeInstance,
    /// What is asked for.
    pub what: Wanted,
}

/// What an [`Order`] asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wanted {
    /// Who holds the resource and who waits for it.
    Look(Key),
    /// The end of a lock.
    Release {
        /// The node it lives on.
        node: NodeInstance,
        /// What that node calls it.
        lock: u64,
        /// Its resource.
        key: Key,
        /// `None`: to be told what it would endanger.
        guard: Option<ReleaseGuard>,
    },
    /// The end of orphans of the receiver: of one client, or of all.
    Purge(Option<ClientId>),
    /// The end of the receiver's orphans of one resource.
    PurgeResource(Key),
    /// The orphans of the receiver.
    Orphans,
    /// What is in the way of an operation that waits.
    Why {
        /// What the node that asks calls the lock.
        lock: u64,
        /// Its resource.
        key: Key,
    },
    /// The resources of a lockspace that the receiver masters and keeps for repair, because failures have made their blocks invalid.
    Collect {
        /// The lockspace.
        space: Arc<[u8]>,
        /// Those whose tree's name is greater; empty: from the first.
        after: Arc<[u8]>,
    },
    /// These are repaired: their blocks are zero and valid, unless they became invalid anew.
    Validate {
        /// Their lockspace.
        space: Arc<[u8]>,
        /// They, as the receiver told them. At most [`MARKS_MAX`].
        marks: Vec<Mark>,
    },
    /// All value blocks of a lockspace are not to be trusted.
    Invalidate {
        /// The lockspace.
        space: Arc<[u8]>,
        /// It is over on all members.
        over: bool,
    },
}

/// A root resource that its master keeps for repair.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Its tree.
    pub tree: Arc<[u8]>,
    /// Which failure it was, as its master counts them: the last one.
    pub failure: u64,
}

/// The word of an operator that a lock is to be released although its owner did not give it back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReleaseGuard {
    reason: String,
    unproven: bool,
}

impl ReleaseGuard {
    /// For a lock of a member, which is told. `reason` is written down, cut to [`REASON_MAX`] bytes; `None` if there is none.
    #[must_use]
    pub fn new(reason: &str) -> Option<Self> {
        let reason = reason.trim();
        let fits = (0..=reason.len().min(REASON_MAX)).rev().find(|at| reason.is_char_boundary(*at))?;
        (fits > 0).then(|| Self { reason: reason[..fits].to_owned(), unproven: false })
    }

    /// Also for a lock of a node that left and is not proven to act no more: the operator vouches, instead of fencing, that its
    /// holder writes nothing any more. Nobody tells it.
    #[must_use]
    pub const fn instead_of_fencing(mut self) -> Self {
        self.unproven = true;
        self
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// True if the operator vouches for a holder that is not proven to act no more.
    #[must_use]
    pub const fn is_instead_of_fencing(&self) -> bool {
        self.unproven
    }
}

/// What became of an [`Order`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// So many locks were released.
    Released(u32),
    /// The resource at its master.
    Resource(ResourceReport),
    /// Orphans of a node, oldest first, at most [`REPORTED_MAX`].
    Orphans {
        /// They.
        locks: Vec<OrphanLock>,
        /// How many more there are.
        more: u32,
    },
    /// What is in the way of an operation that waits: what excludes it, then what asked before it and must be served first.
    InTheWay {
        /// At most [`REPORTED_MAX`].
        locks: Vec<ReportedLock>,
        /// How many more there are.
        more: u32,
    },
    /// Resources that are kept for repair.
    Marks {
        /// They, by name. From a master at most [`MARKS_MAX`].
        marks: Vec<Mark>,
        /// There are more.
        more: bool,
        /// There were more than may be kept, which is not told again.
        missed: bool,
    },
    /// What was repaired is valid.
    Validated {
        /// There is more to repair.
        more: bool,
    },
    /// Nothing was done.
    Refused(OrderRefusal),
}

/// A resource at its master.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceReport {
    /// Who masters it; `None`: nobody, since nobody has a lock in its tree.
    pub master: Option<NodeInstance>,
    /// The last token of the tree.
    pub token: FencingToken,
    /// Its value block is not valid.
    pub value_invalid: bool,
    /// Its locks: granted, converting, waiting, each in its queue's order. At most [`REPORTED_MAX`].
    pub locks: Vec<ReportedLock>,
    /// How many more there are.
    pub more: u32,
}

/// A lock in a [`ResourceReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReportedLock {
    /// The node it lives on.
    pub node: NodeInstance,
    /// What that node calls it. Zero: any lock that a departed node may have had.
    pub lock: u64,
    /// Whose it is there.
    pub client: ClientId,
    /// What is held.
    pub held: Option<Mode>,
    /// What is asked for, if it waits.
    pub asked: Option<Mode>,
    /// The node left, and is not proven to act no more: the lock stays until then.
    pub departed: bool,
    /// It outlived its client.
    pub orphan: bool,
    /// For how many milliseconds it has waited, or held what it holds.
    pub age_ms: u64,
}

/// A lock that outlived its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OrphanLock {
    /// What its node calls it.
    pub lock: u64,
    /// Whose it was.
    pub client: ClientId,
    /// Its resource.
    pub key: Key,
    /// What is held.
    pub mode: Mode,
    /// For how many milliseconds.
    pub age_ms: u64,
}

/// What the forced release of a lock endangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Danger {
    /// Whose it is.
    pub client: ClientId,
    /// What is held. In PW or EX: the value block will be invalid, and what the lock protects may be half written.
    pub held: Option<Mode>,
    /// What is asked for, if it waits: that ends, too.
    pub asked: Option<Mode>,
    /// How many locks below it go as well. Of a node that left: none.
    pub sublocks: u32,
    /// How many requests for the resource wait now, as far as the node that was asked knows: only its master does.
    pub waiting: u32,
    /// Its node left and is not proven to act no more: the holder may go on writing beside the next one.
    pub unproven: bool,
}

impl core::fmt::Display for Danger {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.held {
            Some(mode) if mode.is_writer() => {
                write!(f, "it is held in {mode}: the value block becomes invalid, a write may be half done")?;
            }
            Some(mode) => write!(f, "it is held in {mode}")?,
            None => f.write_str("it waits")?,
        }
        if self.sublocks > 0 {
            write!(f, ", with {} locks below it", self.sublocks)?;
        }
        if self.unproven {
            f.write_str("; its node is not proven to act no more, and may write beside the next holder")?;
        }
        Ok(())
    }
}

/// Why an order was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum OrderRefusal {
    /// There is no such lock of that resource, any more.
    #[error("there is no such lock of that resource")]
    NoSuchLock,
    /// The master of the tree changes: ask again.
    #[error("the master of the resource is being looked for: ask again")]
    Recovering,
    /// There was no guard, or it does not say enough.
    #[error("it needs the word of an operator: {0}")]
    Endangers(Danger),
}

/// A lock has no owner any more (ORPHAN is among the flags), or another one of the same node, which adopted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NewOwner {
    /// What the sender calls the lock.
    pub lock: u64,
    /// Its owner.
    pub client: ClientId,
    /// The transaction that it counts for from now on.
    pub transaction: u64,
    /// The owner's flags.
    pub flags: Flags,
}

impl Mark {
    /// The name of the resource in its lockspace.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        let mut r = Reader::new(&self.tree);
        r.bytes("lockspace").ok()?;
        r.bytes("name").ok()
    }
}

impl Order {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        out.extend_from_slice(&self.ticket.to_be_bytes());
        out.put_instance(self.origin);
        match &self.what {
            Wanted::Look(key) => {
                out.push(1);
                key.emit(out);
            }
            Wanted::Release { node, lock, key, guard } => {
                out.push(2);
                out.put_instance(*node);
                out.extend_from_slice(&lock.to_be_bytes());
                key.emit(out);
                out.push(guard.as_ref().map_or(0, |guard| if guard.unproven { 2 } else { 1 }));
                if let Some(guard) = guard {
                    out.put_prefixed(guard.reason.as_bytes());
                }
            }
            Wanted::Purge(client) => {
                out.push(3);
                out.push(u8::from(client.is_some()));
                if let Some(client) = client {
                    out.extend_from_slice(&client.raw().to_be_bytes());
                }
            }
            Wanted::PurgeResource(key) => {
                out.push(9);
                key.emit(out);
            }
            Wanted::Orphans => out.push(4),
            Wanted::Why { lock, key } => {
                out.push(5);
                out.extend_from_slice(&lock.to_be_bytes());
                key.emit(out);
            }
            Wanted::Collect { space, after } => {
                out.push(6);
                out.put_prefixed(space);
                out.put_prefixed(after);
            }
            Wanted::Validate { space, marks } => {
                out.push(7);
                out.put_prefixed(space);
                put_marks(marks, out);
            }
            Wanted::Invalidate { space, over } => {
                out.push(8);
                out.put_prefixed(space);
                out.push(u8::from(*over));
            }
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (ticket, origin, at) = (r.u64("ticket")?, r.instance("origin")?, r.clone());
        let what = match r.u8("order")? {
            1 => Wanted::Look(Key::parse(r)?),
            2 => {
                let (node, lock, key) = (r.instance("node")?, r.u64("lock")?, Key::parse(r)?);
                Wanted::Release { node, lock, key, guard: take_guard(r)? }
            }
            3 => {
                let one = take_bool(r, "one client")?;
                Wanted::Purge(if one { Some(ClientId::new(r.u32("client")?)) } else { None })
            }
            4 => Wanted::Orphans,
            5 => Wanted::Why { lock: r.u64("lock")?, key: Key::parse(r)? },
            6 => Wanted::Collect { space: take_space(r)?, after: take_path(r)? },
            7 => Wanted::Validate { space: take_space(r)?, marks: take_marks(r)? },
            9 => Wanted::PurgeResource(Key::parse(r)?),
            8 => Wanted::Invalidate { space: take_space(r)?, over: take_bool(r, "over")? },
            _ => return Err(at.error("order", Malformed::OutOfRange)),
        };
        Ok(Self { ticket, origin, what })
    }
}

fn put_marks(marks: &[Mark], out: &mut Vec<u8>) {
    out.put_length(marks.len());
    for mark in marks {
        out.put_prefixed(&mark.tree);
        out.extend_from_slice(&mark.failure.to_be_bytes());
    }
}

fn take_marks(r: &mut Reader<'_>) -> Result<Vec<Mark>, ParseError> {
    let count = r.length("marks", MARKS_MAX)?;
    (0..count).map(|_| Ok(Mark { tree: take_name(r)?, failure: r.u64("failure")? })).collect()
}

fn take_guard(r: &mut Reader<'_>) -> Result<Option<ReleaseGuard>, ParseError> {
    let at = r.clone();
    let unproven = match r.u8("guard")? {
        0 => return Ok(None),
        1 => false,
        2 => true,
        _ => return Err(at.error("guard", Malformed::OutOfRange)),
    };
    let at = r.clone();
    let reason = r.text("reason")?.to_owned();
    if !(1..=REASON_MAX).contains(&reason.len()) {
        return Err(at.error("reason", Malformed::OutOfRange));
    }
    Ok(Some(ReleaseGuard { reason, unproven }))
}

impl Outcome {
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Released(count) => {
                out.push(1);
                out.extend_from_slice(&count.to_be_bytes());
            }
            Self::Resource(report) => {
                out.push(2);
                report.emit(out);
            }
            Self::Refused(OrderRefusal::NoSuchLock) => out.push(3),
            Self::Refused(OrderRefusal::Recovering) => out.push(4),
            Self::Refused(OrderRefusal::Endangers(danger)) => {
                out.push(5);
                danger.emit(out);
            }
            Self::Orphans { locks, more } => {
                out.push(6);
                out.put_length(locks.len());
                for lock in locks {
                    lock.emit(out);
                }
                out.extend_from_slice(&more.to_be_bytes());
            }
            Self::InTheWay { locks, more } => {
                out.push(7);
                ReportedLock::emit_all(locks, *more, out);
            }
            Self::Marks { marks, more, missed } => {
                out.push(8);
                put_marks(marks, out);
                out.extend([u8::from(*more), u8::from(*missed)]);
            }
            Self::Validated { more } => out.extend([9, u8::from(*more)]),
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        Ok(match r.u8("outcome")? {
            1 => Self::Released(r.u32("count")?),
            2 => Self::Resource(ResourceReport::parse(r)?),
            3 => Self::Refused(OrderRefusal::NoSuchLock),
            4 => Self::Refused(OrderRefusal::Recovering),
            5 => Self::Refused(OrderRefusal::Endangers(Danger::parse(r)?)),
            6 => {
                let count = r.length("locks", REPORTED_MAX)?;
                let locks = (0..count).map(|_| OrphanLock::parse(r)).collect::<Result<_, _>>()?;
                Self::Orphans { locks, more: r.u32("more")? }
            }
            7 => {
                let (locks, more) = ReportedLock::parse_all(r)?;
                Self::InTheWay { locks, more }
            }
            8 => Self::Marks {
                marks: take_marks(r)?,
                more: take_bool(r, "more")?,
                missed: take_bool(r, "missed")?,
            },
            9 => Self::Validated { more: take_bool(r, "more")? },
            _ => return Err(at.error("outcome", Malformed::OutOfRange)),
        })
    }
}

impl Danger {
    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.client.raw().to_be_bytes());
        put_mode_or_none(self.held, out);
        put_mode_or_none(self.asked, out);
        out.extend_from_slice(&self.sublocks.to_be_bytes());
        out.extend_from_slice(&self.waiting.to_be_bytes());
        out.push(u8::from(self.unproven));
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            client: ClientId::new(r.u32("client")?),
            held: take_mode_or_none(r)?,
            asked: take_mode_or_none(r)?,
            sublocks: r.u32("sublocks")?,
            waiting: r.u32("waiting")?,
            unproven: take_bool(r, "unproven")?,
        })
    }
}

impl OrphanLock {
    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.lock.to_be_bytes());
        out.extend_from_slice(&self.client.raw().to_be_bytes());
        self.key.emit(out);
        out.push(self.mode.raw());
        out.put_varint(self.age_ms);
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            lock: r.u64("lock")?,
            client: ClientId::new(r.u32("client")?),
            key: Key::parse(r)?,
            mode: take_mode(r)?,
            age_ms: r.varint("age")?,
        })
    }
}

impl ReportedLock {
    fn emit_all(locks: &[Self], more: u32, out: &mut Vec<u8>) {
        out.put_length(locks.len());
        for lock in locks {
            lock.emit(out);
        }
        out.extend_from_slice(&more.to_be_bytes());
    }

    fn parse_all(r: &mut Reader<'_>) -> Result<(Vec<Self>, u32), ParseError> {
        let count = r.length("locks", REPORTED_MAX)?;
        let locks = (0..count).map(|_| Self::parse(r)).collect::<Result<_, _>>()?;
        Ok((locks, r.u32("more")?))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.put_instance(self.node);
        out.extend_from_slice(&self.lock.to_be_bytes());
        out.extend_from_slice(&self.client.raw().to_be_bytes());
        put_mode_or_none(self.held, out);
        put_mode_or_none(self.asked, out);
        out.push(u8::from(self.departed));
        out.push(u8::from(self.orphan));
        out.put_varint(self.age_ms);
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            node: r.instance("node")?,
            lock: r.u64("lock")?,
            client: ClientId::new(r.u32("client")?),
            held: take_mode_or_none(r)?,
            asked: take_mode_or_none(r)?,
            departed: take_bool(r, "departed")?,
            orphan: take_bool(r, "orphan")?,
            age_ms: r.varint("age")?,
        })
    }
}

impl ResourceReport {
    fn emit(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.master.is_some()));
        if let Some(master) = self.master {
            out.put_instance(master);
        }
        put_token(self.token, out);
        out.push(u8::from(self.value_invalid));
        ReportedLock::emit_all(&self.locks, self.more, out);
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let known = take_bool(r, "mastered")?;
        let master = if known { Some(r.instance("master")?) } else { None };
        let (token, value_invalid) = (take_token(r)?, take_bool(r, "value invalid")?);
        let (locks, more) = ReportedLock::parse_all(r)?;
        Ok(Self { master, token, value_invalid, locks, more })
    }

    /// What is in the way of the lock at `index` of the list: those that hold what excludes it; if none does, the one that
    /// waits ahead of it. Empty if it does not wait.
    #[must_use]
    pub fn in_the_way(&self, index: usize) -> Vec<&ReportedLock> {
        let Some((waits, asked)) = self.locks.get(index).and_then(|lock| Some((lock, lock.asked?))) else {
            return Vec::new();
        };
        let excludes = |held: Option<Mode>| held.is_some_and(|held| !held.is_compatible(asked));
        let others = self.locks.iter().enumerate().filter(|(at, _)| *at != index);
        let holders: Vec<_> = others.filter(|(_, lock)| excludes(lock.held)).map(|(_, lock)| lock).collect();
        if !holders.is_empty() {
            return holders;
        }
        let mut ahead = self.locks.iter().take(index).filter(|lock| lock.asked.is_some());
        ahead.rfind(|lock| lock.held.is_some() || waits.held.is_none()).into_iter().collect()
    }
}

impl NewOwner {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        out.extend_from_slice(&self.lock.to_be_bytes());
        out.extend_from_slice(&self.client.raw().to_be_bytes());
        out.extend_from_slice(&self.transaction.to_be_bytes());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            lock: r.u64("lock")?,
            client: ClientId::new(r.u32("client")?),
            transaction: r.u64("transaction")?,
            flags: take_flags(r)?,
        })
    }
}
