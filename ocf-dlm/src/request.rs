use crate::flags::{Flags, Remarks};
use crate::identity::{FencingToken, LockId, NodeSlot, Owner};
use crate::manager::Wanted;
use crate::mode::Mode;
use crate::status::Status;
use crate::value::ValueBlock;
use pils::Instant;

/// A request for a new lock.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Whose it will be.
    pub owner: Owner,
    /// The lock above it, granted, of the same owner: then the resource is one of its resource's children.
    pub parent: Option<LockId>,
    /// The resource's name within its parent: 1 to [`NAME_MAX`](crate::NAME_MAX) bytes.
    pub name: &'a [u8],
    /// What is asked for.
    pub terms: Terms<'a>,
}

/// What is asked for by a request or a conversion.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The mode.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// The caller's value block, for conversions that write it (flag VALBLK).
    pub value: Option<&'a ValueBlock>,
    /// Until when it may wait. `None`: as long as it takes.
    pub deadline: Option<Instant>,
    /// The transaction that waits and blocks with this lock in a deadlock search. `None`: its client.
    pub transaction: Option<u64>,
}

impl<'a> Terms<'a> {
    /// A mode, and nothing special.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        Self { mode, flags: Flags::NONE, value: None, deadline: None, transaction: None }
    }

    /// These terms with `flags` as well.
    #[must_use]
    pub const fn flags(mut self, flags: Flags) -> Self {
        self.flags = self.flags.with(flags);
        self
    }

    /// These terms with the caller's value block and VALBLK.
    #[must_use]
    pub const fn value(mut self, value: &'a ValueBlock) -> Self {
        self.value = Some(value);
        self.flags = self.flags.with(Flags::VALBLK);
        self
    }

    /// These terms, waiting no longer than until `deadline`.
    #[must_use]
    pub const fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// What a call answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It ended, and here is how: no notification will come (SYNCSTS, or a refusal of a new lock).
    Done(Completion),
    /// Its completion is or will be among the outputs.
    Pending(LockId),
}

impl Answer {
    /// The lock.
    #[must_use]
    pub const fn lock(&self) -> LockId {
        match self {
            Self::Done(completion) => completion.lock,
            Self::Pending(lock) => *lock,
        }
    }
}

/// Which operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The request for a new lock.
    Request,
    /// A conversion.
    Convert,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The lock. It is gone if `held` is `None`.
    pub lock: LockId,
    /// Whose it is.
    pub owner: Owner,
    /// Which operation.
    pub operation: Operation,
    /// How it ended.
    pub status: Status,
    /// The mode held now.
    pub held: Option<Mode>,
    /// What is to be said beside the status.
    pub remarks: Remarks,
    /// The token to show to what the lock protects.
    pub token: FencingToken,
    /// The resource's value block, if asked for by VALBLK and due by the direction table.
    pub value: Option<ValueBlock>,
}

/// A lock is in the way of another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// The lock in the way.
    pub lock: LockId,
    /// Whose it is.
    pub owner: Owner,
    /// The mode it is held in.
    pub held: Mode,
    /// The mode that another asks for.
    pub wanted: Mode,
    /// What the owner of that request calls it ([`Owner::tag`]); of the first, if several ask for the mode.
    pub signal: u64,
}

impl From<Blocking> for Wanted {
    fn from(Blocking { wanted, signal, .. }: Blocking) -> Self {
        Self { mode: wanted, signal }
    }
}

/// An effect of a shard, to be carried out in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell the owner that its operation ended.
    Completed(Completion),
    /// Tell the owner that its lock is in the way.
    Blocking(Blocking),
    /// The resource of this lock is not mastered here: carry the operation to its master.
    Route(Routed),
}

impl Output {
    /// The node that it is for; `None` for what is routed.
    #[must_use]
    pub const fn node(&self) -> Option<NodeSlot> {
        match self {
            Self::Completed(completion) => Some(completion.owner.node),
            Self::Blocking(blocking) => Some(blocking.owner.node),
            Self::Route(_) => None,
        }
    }
}

/// An operation for the master of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The lock, of this node.
    pub lock: LockId,
    /// Which master; `None`: not known yet.
    pub master: Option<NodeSlot>,
    /// What to do.
    pub what: RoutedOperation,
}

/// What the master of a resource is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutedOperation {
    /// A new lock.
    Request {
        /// The mode asked for.
        mode: Mode,
        /// How.
        flags: Flags,
    },
    /// A conversion.
    Convert {
        /// The mode asked for.
        mode: Mode,
        /// How.
        flags: Flags,
        /// The caller's value block.
        value: Option<ValueBlock>,
    },
    /// A release. The lock is gone here already; who it was is in `owner`.
    Release {
        /// Whose it was.
        owner: Owner,
        /// FORCEUNLOCK, VALBLK, IVVALBLK.
        flags: Flags,
        /// The caller's value block.
        value: Option<ValueBlock>,
    },
    /// A cancellation.
    Cancel,
}
