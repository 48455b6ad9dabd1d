//! Byte ranges of objects as a program sees them that runs in one process as well.

use super::{Backend, Slot};
use ocf_dlm::cluster::RangeStep;
use ocf_dlm::range::{Range, RangeKind};
use ocf_dlm::wire::Key;
use ocf_dlm::{ClientId, LockError, ObjectRanges, RequestError, Status, Wait, take_turn};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An object, for one owner.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) owner: ClientId,
    pub(crate) space: String,
    pub(crate) name: Vec<u8>,
    pub(crate) key: Key,
    /// From [`Backend::open_object`].
    pub(crate) number: u64,
}

/// Bytes and how they are to be locked, or would be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    pub(crate) range: Range,
    pub(crate) kind: RangeKind,
}

/// Which owner has which object in use: each at most once.
#[derive(Debug, Default)]
pub(crate) struct Opened(Mutex<BTreeSet<(u32, Key)>>);

impl Opened {
    pub(crate) fn open(&self, object: &Object) -> Result<(), LockError> {
        let new = self.0.lock().insert((object.owner.raw(), object.key.clone()));
        if new { Ok(()) } else { Err(RequestError::Busy.into()) }
    }

    pub(crate) fn close(&self, object: &Object) {
        self.0.lock().remove(&(object.owner.raw(), object.key.clone()));
    }
}

/// What one owner has of an object.
#[derive(Debug)]
pub(super) struct Ranges {
    backend: Arc<dyn Backend>,
    object: Object,
    turns: Mutex<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    /// Of the operation under way, or of the last.
    slot: Arc<Slot>,
    /// Something was lost: nothing is asked for any more.
    lost: bool,
}

impl Turn {
    fn check(&mut self) -> Result<(), LockError> {
        self.lost |= self.slot.is_lost();
        if self.lost { Err(LockError::Lost) } else { Ok(()) }
    }
}

impl Ranges {
    pub(super) fn open(
        backend: Arc<dyn Backend>,
        owner: ClientId,
        (space, name): (&str, &[u8]),
    ) -> Result<Self, LockError> {
        let key = Key::object(space.as_bytes(), name);
        let mut object = Object { owner, space: space.to_owned(), name: name.to_vec(), key, number: 0 };
        object.number = backend.open_object(&object)?;
        Ok(Self { backend, object, turns: Mutex::default() })
    }
}

impl ObjectRanges for Ranges {
    fn lock_range(&self, range: Range, kind: RangeKind, wait: Wait) -> Result<(), LockError> {
        let (mut turn, wait) = take_turn(&self.turns, wait)?;
        turn.check()?;
        let step = self.backend.lock_range(&self.object, Bytes { range, kind }, wait, &turn.slot)?;
        if step == RangeStep::Held {
            return Ok(());
        }
        // The node ends it in time; only the master knows whether it was granted.
        let ended = turn.slot.ended(None).unwrap_or(Err(LockError::Lost));
        let status = ended.inspect_err(|error| turn.lost |= *error == LockError::Lost)?.status;
        match status {
            Status::Granted => Ok(()),
            Status::NotQueued => Err(LockError::WouldBlock),
            Status::Deadlock => Err(LockError::Deadlock),
            Status::TimedOut => Err(LockError::TimedOut),
            Status::Cancelled | Status::Unlocked => Err(LockError::Cancelled),
            Status::Lost => {
                turn.lost = true;
                Err(LockError::Lost)
            }
        }
    }

    fn unlock_range(&self, range: Range) -> Result<(), LockError> {
        let mut turn = self.turns.lock();
        turn.check()?;
        let done = self.backend.unlock_range(&self.object, range);
        done.inspect_err(|error| turn.lost |= *error == LockError::Lost)
    }

    fn test_range(&self, range: Range, kind: RangeKind) -> Result<Option<(Range, RangeKind)>, LockError> {
        let slot = Arc::<Slot>::default();
        self.backend.test_range(&self.object, Bytes { range, kind }, &slot)?;
        slot.tested()
    }

    fn held_ranges(&self) -> Result<Vec<(Range, RangeKind)>, LockError> {
        let mut turn = self.turns.lock();
        turn.check()?;
        let held = self.backend.held_ranges(&self.object).ok_or(LockError::Lost)?;
        // It may have been lost before the node was asked.
        turn.check()?;
        Ok(held)
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        self.backend.close_object(&self.object);
    }
}
