//! Byte ranges of objects as a program sees them that runs in one process as well.

use super::{Backend, Slot};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use ocf_dlm::cluster::{Completed, RangeStep};
use ocf_dlm::range::{Range, RangeKind};
use ocf_dlm::wire::Key;
use ocf_dlm::{
    ClientId, FencingToken, LockError, ObjectRanges, RangeRequest, RequestError, Status, Turn, Turns, Wait,
};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An object, for one owner.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) owner: ClientId,
    /// That its bytes count for in searches for deadlocks. `None`: the owner alone.
    pub(crate) transaction: Option<u32>,
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
    turns: Turns,
    /// Of the operation under way, or of the last.
    slot: Arc<Slot>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Something was lost: nothing is asked for any more.
    lost: bool,
    /// An operation was taken back, and nobody has heard yet how it ended.
    unsettled: bool,
    /// Of the last grant.
    token: FencingToken,
}

impl Ranges {
    pub(super) fn open(
        backend: Arc<dyn Backend>,
        (owner, transaction): (ClientId, Option<u32>),
        (space, name): (&str, &[u8]),
    ) -> Result<Self, LockError> {
        let key = Key::object(space.as_bytes(), name);
        let (space, name) = (space.to_owned(), name.to_vec());
        let mut object = Object { owner, transaction, space, name, key, number: 0 };
        object.number = backend.open_object(&object)?;
        let (turns, slot, known) = (Turns::default(), Arc::default(), Mutex::default());
        Ok(Self { backend, object, turns, slot, known })
    }

    fn check(&self) -> Result<(), LockError> {
        let mut known = self.known.lock();
        known.lost |= self.slot.is_lost();
        if known.lost { Err(LockError::Lost) } else { Ok(()) }
    }

    /// Hears the end of an operation that was taken back, if there is one.
    fn settle(&self, wait: Option<Duration>) -> Result<(), LockError> {
        self.check()?;
        if !self.known.lock().unsettled {
            return Ok(());
        }
        let ended = self.slot.ended(wait).ok_or(RequestError::Busy)?;
        let end = self.conclude(ended);
        tracing::trace!(?end, "what was taken back has ended");
        self.check()
    }

    /// How an operation ended, and what it leaves.
    fn conclude(&self, ended: Result<Completed, LockError>) -> Result<(), LockError> {
        let mut known = self.known.lock();
        known.unsettled = false;
        let completed = ended.inspect_err(|error| known.lost |= *error == LockError::Lost)?;
        match completed.status {
            Status::Granted => {
                // What was held already has no grant of its own.
                known.token = known.token.max(completed.token);
                Ok(())
            }
            Status::NotQueued => Err(LockError::WouldBlock),
            Status::Deadlock => Err(LockError::Deadlock),
            Status::TimedOut => Err(LockError::TimedOut),
            Status::Cancelled | Status::Unlocked => Err(LockError::Cancelled),
            Status::Lost => {
                known.lost = true;
                Err(LockError::Lost)
            }
        }
    }

    fn begin(&self, range: Range, kind: RangeKind, wait: Wait) -> Result<RangeStep, LockError> {
        self.backend.lock_range(&self.object, Bytes { range, kind }, wait, &self.slot)
    }

    /// Waits for the end of the operation under way. The node ends it in time; only the master knows whether it was granted.
    fn finish(&self) -> Result<(), LockError> {
        self.conclude(self.slot.ended(None).unwrap_or(Err(LockError::Lost)))
    }
}

impl ObjectRanges for Ranges {
    fn lock_range(&self, range: Range, kind: RangeKind, wait: Wait) -> Result<(), LockError> {
        let (_turn, wait) = self.turns.take(wait)?;
        self.settle(None)?;
        match self.begin(range, kind, wait)? {
            RangeStep::Held => Ok(()),
            RangeStep::Asked(_) => self.finish(),
        }
    }

    fn lock_range_later<'a>(
        &'a self,
        range: Range,
        kind: RangeKind,
        wait: Wait,
    ) -> Result<Box<dyn RangeRequest + 'a>, LockError> {
        let turn = self.turns.take_for_request()?;
        self.settle(Some(Duration::ZERO))?;
        let asked = match self.begin(range, kind, wait)? {
            RangeStep::Held => None,
            RangeStep::Asked(lock) => Some(lock),
        };
        Ok(Box::new(Requested { ranges: self, asked, _turn: turn }))
    }

    fn token(&self) -> Result<FencingToken, LockError> {
        self.held_ranges()?;
        Ok(self.known.lock().token)
    }

    fn unlock_range(&self, range: Range) -> Result<(), LockError> {
        let (_turn, _) = self.turns.take(Wait::Forever)?;
        self.settle(None)?;
        let done = self.backend.unlock_range(&self.object, range);
        done.inspect_err(|error| self.known.lock().lost |= *error == LockError::Lost)
    }

    fn test_range(&self, range: Range, kind: RangeKind) -> Result<Option<(Range, RangeKind)>, LockError> {
        let slot = Arc::<Slot>::default();
        self.backend.test_range(&self.object, Bytes { range, kind }, &slot)?;
        slot.tested()
    }

    fn held_ranges(&self) -> Result<Vec<(Range, RangeKind)>, LockError> {
        self.check()?;
        let held = self.backend.held_ranges(&self.object).ok_or(LockError::Lost)?;
        // It may have been lost before the node was asked.
        self.check()?;
        Ok(held)
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        self.backend.close_object(&self.object);
    }
}

/// Bytes that were asked for.
#[derive(Debug)]
struct Requested<'a> {
    ranges: &'a Ranges,
    /// What the operation is called. `None`: it is over.
    asked: Option<u64>,
    /// Given back after the wait is taken back.
    _turn: Turn<'a>,
}

impl Future for Requested<'_> {
    type Output = Result<(), LockError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.asked.is_none() {
            return Poll::Ready(Ok(()));
        }
        let Poll::Ready(ended) = self.ranges.slot.poll(context) else { return Poll::Pending };
        self.asked = None;
        Poll::Ready(self.ranges.conclude(ended))
    }
}

impl RangeRequest for Requested<'_> {
    fn wait(mut self: Box<Self>) -> Result<(), LockError> {
        if self.asked.take().is_some() { self.ranges.finish() } else { Ok(()) }
    }
}

impl Drop for Requested<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.asked.take() {
            self.ranges.known.lock().unsettled = true;
            self.ranges.backend.cancel(lock);
        }
    }
}
