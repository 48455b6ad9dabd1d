use crate::flags::Flags;
use crate::mode::Mode;
use crate::name::NameError;

/// How an operation on a lock ended. Each operation that was accepted ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It is granted: the lock is held in the mode asked for, or in its alternative.
    Granted,
    /// It would have had to wait and NOQUEUE was set. A conversion keeps the mode it had.
    NotQueued,
    /// Waiting would have been, or was, part of a deadlock. A conversion keeps the mode it had.
    Deadlock,
    /// It waited as long as it was allowed to. A conversion keeps the mode it had.
    TimedOut,
    /// It was cancelled. A conversion keeps the mode it had.
    Cancelled,
    /// The lock is released, by force while the operation waited.
    Unlocked,
    /// This node may not act any more, or the master lost the request with its node: whether the lock is held is not
    /// known here, and it is not held here.
    Lost,
}

impl Status {
    /// The status in a Linux lock status block: 0, or a negative error number.
    #[must_use]
    pub const fn linux(self) -> i32 {
        match self {
            Self::Granted => 0,
            Self::NotQueued => -11,
            Self::Deadlock => -35,
            Self::TimedOut => -110,
            Self::Cancelled => -0x10001,
            Self::Unlocked => -0x10002,
            Self::Lost => -107,
        }
    }

    /// The status of IBM's lock manager and OpenDLM. `converting`: the operation was a conversion.
    #[must_use]
    pub const fn ibm(self, converting: bool) -> u8 {
        match self {
            Self::Granted => 0,
            Self::NotQueued => 21,
            Self::Deadlock => 30,
            Self::TimedOut => 33,
            Self::Cancelled if converting => 28,
            Self::Cancelled | Self::Unlocked => 27,
            Self::Lost => 17,
        }
    }
}

/// Why a call was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The name of the resource cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name of the lockspace cannot be one.
    #[error("a lockspace's name has 1 to 64 bytes, not {0}")]
    SpaceName(usize),
    /// The flags do not go together, or not with this call.
    #[error("flags {flags:?}: {rule}")]
    Flags {
        /// The flags that were given.
        flags: Flags,
        /// What they break.
        rule: &'static str,
    },
    /// QUECVT was given for a conversion that never waits.
    #[error("a conversion from {held} to {asked} does not wait, so it cannot queue")]
    NotQueueable {
        /// The mode held.
        held: Mode,
        /// The mode asked for.
        asked: Mode,
    },
    /// There is no such lock.
    #[error("no such lock")]
    NoSuchLock,
    /// The lock belongs to someone else.
    #[error("the lock belongs to another client")]
    NotOwner,
    /// The lock is not granted, or has an operation under way; or there is nothing to cancel.
    #[error("the lock waits or converts, or has nothing to cancel")]
    Busy,
    /// The lock has sublocks.
    #[error("the lock has {0} sublocks")]
    HasSublocks(u32),
    /// The parent is not granted.
    #[error("the parent lock is not granted")]
    ParentNotGranted,
    /// No orphan of that name and mode: one of another mode, if `other_mode`.
    #[error("no orphan to adopt (one in another mode: {other_mode})")]
    NoOrphan {
        /// There is an orphan of that resource in another mode.
        other_mode: bool,
    },
    /// A limit is reached; see its name in the configuration.
    #[error("the limit {0} is reached")]
    Limit(&'static str),
    /// The resource is mastered on another node: ask there.
    #[error("this node is not the master of the resource")]
    NotMaster,
    /// This node may not act: it is not in the primary partition.
    #[error("this node is not in the primary partition")]
    NotPrimary,
    /// The program may not lock here, or not there, and which setting gives that.
    #[error("{0}")]
    NotAllowed(&'static str),
}

impl RequestError {
    /// The error number of Linux's lock manager for it, negative.
    #[must_use]
    pub const fn linux(self) -> i32 {
        match self {
            Self::Name(_)
            | Self::SpaceName(_)
            | Self::Flags { .. }
            | Self::NotQueueable { .. }
            | Self::ParentNotGranted => -22,
            Self::NoSuchLock | Self::NoOrphan { other_mode: false } => -2,
            Self::NoOrphan { other_mode: true } => -11,
            Self::NotOwner => -1,
            Self::NotAllowed(_) => -13,
            Self::Busy => -16,
            Self::HasSublocks(_) => -39,
            Self::Limit(_) => -12,
            Self::NotMaster | Self::NotPrimary => -107,
        }
    }

    /// The status of IBM's lock manager and OpenDLM for it.
    #[must_use]
    pub const fn ibm(self) -> u8 {
        match self {
            Self::Name(_) | Self::SpaceName(_) => 14,
            Self::Flags { .. } | Self::NotQueueable { .. } => 19,
            Self::NoSuchLock | Self::NotOwner | Self::NotAllowed(_) => 11,
            Self::Busy | Self::ParentNotGranted => 23,
            Self::HasSublocks(_) => 26,
            Self::NoOrphan { .. } => 18,
            Self::Limit(_) => 3,
            Self::NotMaster => 40,
            Self::NotPrimary => 7,
        }
    }
}
