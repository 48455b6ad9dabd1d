//! The seam between guards and who locks for them.

use super::{Bytes, LockOrder, LockOrderError, Object, Slot};
use core::fmt::Debug;
use core::time::Duration;
use ocf_dlm::cluster::{RangeStep, Snapshot, Waiting};
use ocf_dlm::range::{Range, RangeKind};
use ocf_dlm::wire::{Key, Outcome};
use ocf_dlm::{ClientId, Flags, LockError, Mode, ValueBlock, Wait};
use std::sync::Arc;

/// A resource, as a program names it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// One of a lockspace.
    Root { space: &'a str, name: &'a [u8] },
    /// A part of what a lock covers.
    Below { lock: u64, key: &'a Key, name: &'a [u8] },
    /// What the collector of a lockspace's recovery domain holds.
    Collector { space: &'a str },
}

impl Place<'_> {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Root { space, name } => Key::root(space.as_bytes(), name),
            Self::Below { key, name, .. } => key.child(name),
            Self::Collector { space } => Key::collector(space.as_bytes()),
        }
    }

    /// The lock above.
    pub(crate) const fn above(&self) -> Option<u64> {
        match self {
            Self::Root { .. } | Self::Collector { .. } => None,
            Self::Below { lock, .. } => Some(*lock),
        }
    }
}

/// A request for a new lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) owner: ClientId,
    pub(crate) place: Place<'a>,
    /// Of `place`.
    pub(crate) key: &'a Key,
    pub(crate) mode: Mode,
    pub(crate) flags: Flags,
    pub(crate) wait: Wait,
    /// The transaction that it counts for in searches for deadlocks. `None`: its owner alone.
    pub(crate) transaction: Option<u32>,
    /// What those are told that are in its way; zero: nothing.
    pub(crate) signal: u64,
}

/// Who locks for guards: the node of this process, or one beside it that this process is connected to.
pub(crate) trait Backend: Debug + Send + Sync {
    /// `None` if it has ended.
    fn new_owner(&self) -> Option<ClientId>;

    /// Asks for a lock and does not wait. What comes of it is told to `slot`. Returns what the lock is called.
    fn ask(&self, asked: &Asked<'_>, slot: &Arc<Slot>) -> Result<u64, LockError>;

    /// Asks for another mode and does not wait: the slot is told, unless this refuses it.
    fn convert(&self, lock: u64, how: (Mode, Flags, Option<ValueBlock>), wait: Wait)
    -> Result<(), LockError>;

    /// Has the operation under way end, and does not wait: the slot is told how it ended, if there was one.
    fn cancel(&self, lock: u64);

    /// True if the lock is certainly held at some time during the call.
    fn is_held(&self, lock: u64) -> bool;

    /// Gives the lock back, and writes the value if it was certainly held: true then.
    fn release(&self, lock: u64, value: Option<ValueBlock>) -> bool;

    /// Gives the lock back, held or not, or takes back the request.
    fn forget(&self, lock: u64);

    /// The owner has the object from now on. Refused while it has it already. Returns what it is called here.
    fn open_object(&self, object: &Object) -> Result<u64, LockError>;

    /// Gives up what the owner has of an object, and what is under way; it may open it again.
    fn close_object(&self, object: &Object);

    /// Asks for bytes and does not wait. What comes of it is told to `slot`, unless they are held already, or this refuses it.
    fn lock_range(
        &self,
        object: &Object,
        bytes: Bytes,
        wait: Wait,
        slot: &Arc<Slot>,
    ) -> Result<RangeStep, LockError>;

    /// Gives up bytes.
    fn unlock_range(&self, object: &Object, range: Range) -> Result<(), LockError>;

    /// Asks what is in the way of such a lock and does not wait: the slot, which is of this question alone, is told.
    fn test_range(&self, object: &Object, bytes: Bytes, slot: &Arc<Slot>) -> Result<(), LockError>;

    /// What is certainly held at some time during the call; `None` if that is in doubt.
    fn held_ranges(&self, object: &Object) -> Option<Vec<(Range, RangeKind)>>;

    /// Each operation that waits, and why as far as the node knows.
    fn waits(&self) -> Vec<Waiting>;

    /// In numbers.
    fn snapshot(&self) -> Option<Snapshot>;

    /// Gives an order of an operator, and waits at most so long for the answer.
    fn order(&self, order: LockOrder, patience: Duration) -> Result<Outcome, LockOrderError>;

    /// This process takes part in the recovery domain of a lockspace once more, or once less.
    fn take_part(&self, space: &str, more: bool) -> Result<(), LockError>;

    /// The owner is gone, with all its locks but those that last. How many there were.
    fn end_owner(&self, owner: ClientId) -> usize;
}
