//! Byte ranges of objects among the calls of every lock manager, and those of one process.

use crate::client::{LockError, Wait};
use crate::range::{Range, RangeAnswer, RangeError, RangeKind, RangeLocks, RangeOwner, RangeWait};
use crate::status::RequestError;
use core::fmt::Debug;
use core::time::Duration;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// What one owner has of the bytes of one object, as a process has it of a file with `fcntl`: what it locks anew replaces what it
/// had there, and it never excludes itself. From [`LockOwner::ranges`](crate::LockOwner::ranges). Dropping it gives up all.
///
/// An operation waits for one of the same owner on the same object that another thread has under way; that counts as waiting.
/// Nobody is promised a turn: whatever excludes nothing that is held is granted. A wait that ends without a grant leaves what was
/// held before. After a [`LockError::Lost`] other than that of [`ObjectRanges::held_ranges`] nothing is held and nothing is
/// granted: drop it, and ask for the object anew.
///
/// ```
/// use ocf_dlm::range::{Range, RangeKind};
/// use ocf_dlm::{LocalLocks, LockError, LockManager, Wait};
///
/// let locks = LocalLocks::default();
/// let (a, b) = (locks.owner()?, locks.owner()?);
/// let (mine, theirs) = (a.ranges("files", b"log")?, b.ranges("files", b"log")?);
/// mine.lock_range(Range::new(0, 99)?, RangeKind::Exclusive, Wait::Forever)?;
/// mine.unlock_range(Range::new(40, 59)?)?; // two ranges are left
/// theirs.lock_range(Range::new(40, 59)?, RangeKind::Shared, Wait::No)?;
/// assert_eq!(theirs.lock_range(Range::new(0, 9)?, RangeKind::Shared, Wait::No), Err(LockError::WouldBlock));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait ObjectRanges: Debug + Send + Sync {
    /// Locks every byte of the range so, whatever the owner had of them, waiting as long as `wait` says. In a cluster two
    /// messages, three if something is given up with it; none if nothing becomes stronger.
    ///
    /// # Errors
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Deadlock`]: what was held is held still.
    /// [`LockError::Refused`] with a limit: 512 ranges of one owner and object in a cluster
    /// ([`RANGES_PER_OWNER_MAX`](crate::range::RANGES_PER_OWNER_MAX)), 65 536 of all owners in one process
    /// ([`RANGES_PER_OBJECT_MAX`](crate::range::RANGES_PER_OBJECT_MAX)). [`LockError::Lost`].
    fn lock_range(&self, range: Range, kind: RangeKind, wait: Wait) -> Result<(), LockError>;

    /// Gives up what is held of the range. What is not held is no error.
    ///
    /// # Errors
    /// [`LockError::Refused`] if that would split one range too many; [`LockError::Lost`].
    fn unlock_range(&self, range: Range) -> Result<(), LockError>;

    /// What of others is in the way of such a lock now, if anything: the range with the lowest first byte. In a cluster it waits for
    /// the answer of the master, and for nothing else.
    ///
    /// # Errors
    /// [`LockError::Lost`] if this node may not act.
    fn test_range(&self, range: Range, kind: RangeKind) -> Result<Option<(Range, RangeKind)>, LockError>;

    /// What is certainly held now, by first byte, joined where it can be.
    ///
    /// # Errors
    /// [`LockError::Lost`] if others may have some of it by now. In a cluster a later call may succeed again, if the lease was
    /// only in doubt.
    fn held_ranges(&self) -> Result<Vec<(Range, RangeKind)>, LockError>;
}

/// Lets the operations of one owner on one object go one by one: each waits for its turn as long as it may wait at all. Returns
/// the turn, and how long may be waited after it.
///
/// # Errors
/// [`LockError::WouldBlock`] or [`LockError::TimedOut`] if the turn did not come.
#[expect(clippy::disallowed_methods, reason = "a call that waits on its thread measures how long")]
pub fn take_turn<T>(turns: &Mutex<T>, wait: Wait) -> Result<(MutexGuard<'_, T>, Wait), LockError> {
    match wait {
        Wait::Forever => Ok((turns.lock(), wait)),
        Wait::No => Ok((turns.try_lock().ok_or(LockError::WouldBlock)?, wait)),
        Wait::For(limit) => {
            let began = Instant::now();
            let turn = turns.try_lock_for(limit).ok_or(LockError::TimedOut)?;
            Ok((turn, Wait::For(limit.saturating_sub(began.elapsed()))))
        }
    }
}

/// The ranges of one lockspace of one process.
#[derive(Debug, Default)]
pub(crate) struct SpaceRanges {
    state: Mutex<State>,
    granted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    table: RangeLocks,
    /// Waits that were granted, and whose threads do not know it yet.
    granted: BTreeSet<RangeWait>,
    /// Who has which object in use.
    open: BTreeSet<(RangeOwner, Box<[u8]>)>,
}

impl SpaceRanges {
    /// The object, for that owner.
    pub(crate) fn open(self: Arc<Self>, owner: RangeOwner, object: &[u8]) -> Result<LocalRanges, LockError> {
        if !self.state.lock().open.insert((owner, object.into())) {
            return Err(RequestError::Busy.into());
        }
        Ok(LocalRanges { space: self, owner, object: object.into(), turns: Mutex::default() })
    }

    /// After a change that may have made way for others.
    fn tell(&self, state: &mut State) {
        while let Some(wait) = state.table.poll_granted() {
            state.granted.insert(wait);
        }
        self.granted.notify_all();
    }

    #[expect(clippy::disallowed_methods, reason = "a call that waits on its thread measures how long")]
    fn wait(&self, state: &mut MutexGuard<'_, State>, wait: RangeWait, limit: Option<Duration>) -> bool {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        while !state.granted.remove(&wait) {
            match until {
                None => self.granted.wait(state),
                Some(until) if self.granted.wait_until(state, until).timed_out() => {
                    return state.granted.remove(&wait) || {
                        state.table.cancel(wait);
                        false
                    };
                }
                Some(_) => {}
            }
        }
        true
    }
}

/// An object of one process, for one owner.
#[derive(Debug)]
pub(crate) struct LocalRanges {
    space: Arc<SpaceRanges>,
    owner: RangeOwner,
    object: Box<[u8]>,
    turns: Mutex<()>,
}

impl ObjectRanges for LocalRanges {
    fn lock_range(&self, range: Range, kind: RangeKind, wait: Wait) -> Result<(), LockError> {
        let (_turn, wait) = take_turn(&self.turns, wait)?;
        let mut state = self.space.state.lock();
        let limit = match wait {
            Wait::No => {
                state.table.lock(self.owner, &self.object, range, kind)?;
                self.space.tell(&mut state);
                return Ok(());
            }
            Wait::For(limit) => Some(limit),
            Wait::Forever => None,
        };
        match state.table.lock_or_wait(self.owner, &self.object, range, kind)? {
            RangeAnswer::Granted => {
                self.space.tell(&mut state);
                Ok(())
            }
            RangeAnswer::Waits(wait) if self.space.wait(&mut state, wait, limit) => Ok(()),
            RangeAnswer::Waits(_) => Err(LockError::TimedOut),
        }
    }

    fn unlock_range(&self, range: Range) -> Result<(), LockError> {
        let _turn = self.turns.lock();
        let mut state = self.space.state.lock();
        state.table.unlock(self.owner, &self.object, range)?;
        self.space.tell(&mut state);
        Ok(())
    }

    fn test_range(&self, range: Range, kind: RangeKind) -> Result<Option<(Range, RangeKind)>, LockError> {
        let found = self.space.state.lock().table.test(self.owner, &self.object, range, kind);
        Ok(found.map(|held| (held.range, held.kind)))
    }

    fn held_ranges(&self) -> Result<Vec<(Range, RangeKind)>, LockError> {
        let state = self.space.state.lock();
        let mine = state.table.held(&self.object).iter().filter(|held| held.owner == self.owner);
        Ok(mine.map(|held| (held.range, held.kind)).collect())
    }
}

impl Drop for LocalRanges {
    fn drop(&mut self) {
        let mut state = self.space.state.lock();
        state.table.give_up(self.owner, &self.object);
        state.open.remove(&(self.owner, core::mem::take(&mut self.object)));
        self.space.tell(&mut state);
    }
}

impl From<RangeError> for LockError {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Name(name) => Self::Refused(name.into()),
            RangeError::Limit(name) => Self::Refused(RequestError::Limit(name)),
            RangeError::Deadlock => Self::Deadlock,
            // A `Range` is never empty.
            RangeError::Held(_) | RangeError::Empty => Self::WouldBlock,
        }
    }
}
