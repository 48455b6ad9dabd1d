//! Byte ranges of objects among the calls of every lock manager.

mod local;
mod turns;

pub(crate) use local::SpaceRanges;
pub use turns::{Turn, Turns};

use crate::client::{LockError, Wait};
use crate::identity::FencingToken;
use crate::range::{Range, RangeError, RangeKind};
use crate::status::RequestError;
use core::fmt::Debug;
use core::future::Future;

/// What one owner has of the bytes of one object, as a process has it of a file with `fcntl`: what it locks anew replaces what it
/// had there, and it never excludes itself. From [`LockOwner::ranges`](crate::LockOwner::ranges). Dropping it gives up all.
///
/// An operation waits for one of the same owner on the same object that another thread waits for; that counts as waiting. While a
/// [`RangeRequest`] is there, any other operation but a look is refused ([`RequestError::Busy`]).
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

    /// As [`ObjectRanges::lock_range`], and does not wait for others.
    ///
    /// # Errors
    /// As [`ObjectRanges::lock_range`]; [`LockError::WouldBlock`] if something is in the way.
    fn try_lock_range(&self, range: Range, kind: RangeKind) -> Result<(), LockError> {
        self.lock_range(range, kind, Wait::No)
    }

    /// As [`ObjectRanges::lock_range`], and does not wait for the end, which is awaited or waited for later.
    ///
    /// # Errors
    /// [`LockError::Refused`] if it cannot be asked for, with [`RequestError::Busy`] while another operation of the owner on the object is
    /// under way; [`LockError::Lost`]. In one process also [`LockError::Deadlock`] and [`LockError::WouldBlock`].
    fn lock_range_later<'a>(
        &'a self,
        range: Range,
        kind: RangeKind,
        wait: Wait,
    ) -> Result<Box<dyn RangeRequest + 'a>, LockError>;

    /// The token of the last grant, to show to what the bytes protect. It grows with each grant of bytes of this object to a writer, of
    /// whatever owner, and is the same for all that an owner has of it. Writers of other bytes have tokens of their own at the same
    /// time, so what is written to remembers the greatest token for each part that is locked by itself.
    ///
    /// # Errors
    /// As [`ObjectRanges::held_ranges`]; it asks as that does.
    fn token(&self) -> Result<FencingToken, LockError>;

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

/// Bytes that were asked for. It is a future for any executor; in one process nobody ends it in time but who waits with
/// [`RangeRequest::wait`], so an executor bounds it itself.
///
/// Dropping it takes the request back. If it was granted before that was heard, the owner has the bytes, as
/// [`ObjectRanges::held_ranges`] says.
pub trait RangeRequest: Future<Output = Result<(), LockError>> + Debug + Send + Unpin {
    /// Waits for the end on this thread.
    ///
    /// # Errors
    /// As [`ObjectRanges::lock_range`].
    fn wait(self: Box<Self>) -> Result<(), LockError>;
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
