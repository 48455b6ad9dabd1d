use crate::mode::Mode;
use crate::resource::{Home, Queue};
use crate::shard::{Holder, LockState};

/// Why a lock is not granted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitReason {
    /// Others hold what excludes it.
    BlockedBy(Vec<Holder>),
    /// It is compatible, but another asked first.
    Behind(Holder),
    /// The resource's master recovers: a dead holder's node must be fenced first.
    WaitFence,
    /// This node is not in the primary partition.
    WaitQuorum,
    /// The master, or the directory, was asked.
    WaitMaster,
}

impl WaitReason {
    pub(crate) fn of(lock: &LockState, (home, frozen): (Home, bool), primary: bool) -> Self {
        if !primary {
            return Self::WaitQuorum;
        }
        if frozen {
            return Self::WaitFence;
        }
        if home != Home::Local || lock.queue == Queue::Outside {
            return Self::WaitMaster;
        }
        let excludes =
            |held: Option<Mode>| held.zip(lock.asked).is_some_and(|(held, asked)| !held.is_compatible(asked));
        match lock.blocked_by.as_slice() {
            [ahead] if !excludes(ahead.held) => Self::Behind(*ahead),
            holders => Self::BlockedBy(holders.to_vec()),
        }
    }
}
