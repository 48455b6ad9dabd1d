//! What every lock manager offers, so that a program runs the same in one process and in a cluster.

use crate::client::{LockError, Wait};
use crate::identity::FencingToken;
use crate::mode::Mode;
use crate::object::ObjectRanges;
use crate::shard::NumberOp;
use crate::status::RequestError;
use crate::value::ValueBlock;
use core::fmt::Debug;
use core::future::Future;
use core::time::Duration;
use std::sync::Arc;

/// Longest name of a lockspace, in bytes.
pub const SPACE_NAME_MAX: usize = 64;

/// A lock manager: the seam between a program that locks and whoever provides locks. One process alone is
/// [`LocalLocks`](crate::LocalLocks); the nodes of a cluster are `ocf::Locks`. Whoever writes another one holds it against
/// `ocf_dlm::testing` (feature `conformance`).
///
/// ```
/// use ocf_dlm::{LocalLocks, LockError, LockManager, Mode, ValueBlock, Wait};
/// use std::time::Duration;
///
/// /// The same in one process and in a cluster.
/// fn next_number(locks: &dyn LockManager) -> Result<u64, LockError> {
///     let me = locks.owner()?;
///     let held = me.lock("orders", b"count", Mode::Ex, Wait::For(Duration::from_secs(10)))?;
///     // Not there if the last writer died: then it would have to be looked for elsewhere.
///     let block = held.value().copied().unwrap_or_else(|| ValueBlock::zero(8));
///     println!("show {} to the storage", held.token()?);
///     held.release(Some(block.with_number(block.number() + 1)))?;
///     Ok(block.number() + 1)
/// }
///
/// let locks = LocalLocks::default();
/// // NL is in nobody's way, and keeps the resource with its value block.
/// let kept = locks.owner()?.lock("orders", b"count", Mode::Nl, Wait::Forever)?;
/// assert_eq!((next_number(&locks)?, next_number(&locks)?), (1, 2));
/// # drop(kept);
/// # Ok::<(), LockError>(())
/// ```
pub trait LockManager: Debug + Send + Sync {
    /// A new owner of locks. Its locks stay held until they are released, also when the owner was dropped before.
    ///
    /// # Errors
    /// [`LockError::Lost`] if this lock manager has ended.
    fn owner(&self) -> Result<Box<dyn LockOwner>, LockError>;
}

/// How a lock is asked for, beside its resource and mode. The default: wait as long as it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockTerms {
    /// How long to wait.
    pub wait: Wait,
    /// The lock outlives its owner: when that ends ([`LockOwner::end`], or its process does), it stays held as an orphan until
    /// somebody purges it ([`LockOwner::purge`]). It does not outlive its node.
    pub lasting: bool,
    /// A number for those that are in the way ([`Wanted::signal`]), also while a conversion of the lock waits. Zero: none.
    pub signal: u64,
}

impl From<Wait> for LockTerms {
    fn from(wait: Wait) -> Self {
        Self { wait, ..Self::default() }
    }
}

/// Another wants what a lock is in the way of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The mode that is asked for.
    pub mode: Mode,
    /// The signal ([`LockTerms::signal`]) of the first that waited for that mode when this was told. Zero: it gave none, or waited
    /// no more when a new master told it again.
    pub signal: u64,
}

/// A lock of a resource, as [`LockOwner::look`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenLock {
    /// What is held.
    pub held: Option<Mode>,
    /// What is asked for, if it waits.
    pub asked: Option<Mode>,
    /// It outlived its owner.
    pub orphan: bool,
}

/// An owner of locks: a part of a program. What it has is in its own way like in that of any other; in deadlock searches
/// it waits as one.
pub trait LockOwner: Debug + Send + Sync {
    /// Asks for the resource `name` of the lockspace `space`, and does not wait for the answer. Lockspaces need no making.
    ///
    /// `name`: 1 to [`NAME_MAX`](crate::NAME_MAX) bytes; `space`: 1 to [`SPACE_NAME_MAX`]. With [`Wait::For`] the request ends at that
    /// time if it is waited for with [`LockRequest::wait`]; awaited as a future, an owner of one process may end later: when
    /// [`LockOwner::see_to_it`] is called.
    ///
    /// # Errors
    /// [`LockError::Refused`] if it cannot be asked for; [`LockError::Lost`] if this node may not act now and the request is not
    /// to wait, or the lock manager has ended.
    fn request_with(
        &self,
        space: &str,
        name: &[u8],
        mode: Mode,
        terms: LockTerms,
    ) -> Result<Box<dyn LockRequest>, LockError>;

    /// As [`LockOwner::request_with`], of a lock that ends with its owner.
    ///
    /// # Errors
    /// As [`LockOwner::request_with`].
    fn request(
        &self,
        space: &str,
        name: &[u8],
        mode: Mode,
        wait: Wait,
    ) -> Result<Box<dyn LockRequest>, LockError> {
        self.request_with(space, name, mode, wait.into())
    }

    /// Locks the resource, waiting as long as `wait` says.
    ///
    /// # Errors
    /// As [`LockOwner::request`]; [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Deadlock`] if it was not granted.
    fn lock(&self, space: &str, name: &[u8], mode: Mode, wait: Wait) -> Result<Box<dyn HeldLock>, LockError> {
        self.request(space, name, mode, wait)?.wait()
    }

    /// Who holds the resource and who waits for it: held, converting, waiting, each in its queue's order; at most 256 between nodes.
    /// There it asks the master, and waits at most `patience`.
    ///
    /// # Errors
    /// [`LockError::Refused`] for a name that cannot be one, or if a program may not look at that lockspace;
    /// [`LockError::TimedOut`]; [`LockError::Lost`] if this node may not act.
    fn look(&self, space: &str, name: &[u8], patience: Duration) -> Result<Vec<SeenLock>, LockError>;

    /// Releases the orphans of the resource, whoever left them and wherever. Value blocks of those held in PW or EX become invalid.
    /// Returns how many went. Between nodes it asks the master and each node that has one, and waits at most `patience` for each.
    ///
    /// # Errors
    /// As [`LockOwner::look`]; some may be gone then.
    fn purge(&self, space: &str, name: &[u8], patience: Duration) -> Result<usize, LockError>;

    /// Ends waits that are due, and looks for deadlocks, for those who await requests in one process: who waits on a thread does that
    /// itself, and so does a cluster, where this does nothing. O(locks that wait).
    fn see_to_it(&self) {}

    /// Ends this owner. What it waits for ends as [`LockError::Lost`], its locks are released, those that are to last become orphans, and
    /// value blocks that it could write are invalid. Its locks refuse from now on. Bytes of objects are given up when their [`ObjectRanges`]
    /// is dropped, if not before.
    fn end(self: Box<Self>);

    /// The object `name` of the lockspace `space`, whose bytes are locked as `fcntl` does it. It has nothing to do with a resource of the
    /// same name. What this owner waits for here and elsewhere counts together in deadlock searches.
    ///
    /// # Errors
    /// [`LockError::Refused`] for a name that cannot be one, and with [`RequestError::Busy`] while this owner has the object
    /// already: share that one. [`LockError::Lost`] if the lock manager has ended.
    fn ranges(&self, space: &str, name: &[u8]) -> Result<Box<dyn ObjectRanges>, LockError>;

    /// An atomic operation on the value block of the resource as a number, under a lock for that time: in PR to read, in PW to
    /// change, so that who reads sees every change whose call has returned. An invalid block counts as zero. The number is
    /// gone with the last lock of the resource.
    ///
    /// # Errors
    /// As [`LockOwner::lock`]. [`LockError::Lost`] also if the lock was lost before the change was written: it is not done then.
    fn number(&self, space: &str, name: &[u8], operation: NumberOp, wait: Wait) -> Result<u64, LockError> {
        let reads = operation == NumberOp::Read;
        let held = self.lock(space, name, if reads { Mode::Pr } else { Mode::Pw }, wait)?;
        let block = held.value().copied().unwrap_or_else(|| ValueBlock::zero(8));
        let Some(new) = operation.changes(block.number()) else { return Ok(block.number()) };
        held.release(Some(block.with_number(new)))?;
        Ok(new)
    }
}

/// A lock that was asked for. It is a future for any executor. Dropping it takes the request back, or releases the lock.
pub trait LockRequest: Future<Output = Result<Box<dyn HeldLock>, LockError>> + Debug + Send + Unpin {
    /// Waits for the lock on this thread.
    ///
    /// # Errors
    /// As [`LockOwner::lock`].
    fn wait(self: Box<Self>) -> Result<Box<dyn HeldLock>, LockError>;
}

/// A held lock. Dropping it releases it, and leaves the value block as it was.
pub trait HeldLock: Debug + Send {
    /// The mode it is held in.
    fn mode(&self) -> Mode;

    /// The value block as of the last grant that reads it. `None` if it is not valid: a holder that could write it died.
    fn value(&self) -> Option<&ValueBlock>;

    /// Whether the lock is certainly held now.
    ///
    /// # Errors
    /// [`LockError::Lost`] if others may have it by now. In a cluster a later call may succeed again, if the lease was only in
    /// doubt.
    fn check(&self) -> Result<(), LockError>;

    /// The token to show to what the lock protects. It grows with each grant to a writer of this resource.
    ///
    /// # Errors
    /// As [`HeldLock::check`].
    fn token(&self) -> Result<FencingToken, LockError>;

    /// Waits at most so long to be told that another wants the lock, in which mode and with which signal. Each notice is told once;
    /// of several since the last call, the last.
    fn wanted_by(&self, wait: Duration) -> Option<Wanted>;

    /// As [`HeldLock::wanted_by`]: the mode alone.
    fn wanted(&self, wait: Duration) -> Option<Mode> {
        self.wanted_by(wait).map(|wanted| wanted.mode)
    }

    /// Calls `wake` when another wants the lock, and between nodes also when it is lost; [`HeldLock::wanted`] and [`HeldLock::check`]
    /// tell which. In one process only an operator takes a lock away, and [`HeldLock::check`] alone tells. `wake` must not block, nor
    /// call this lock manager. There is one: the last that was given.
    fn on_news(&self, wake: Arc<dyn Fn() + Send + Sync>);

    /// Locks a part of what this lock covers. The borrow keeps this one from being released or converted meanwhile.
    ///
    /// # Errors
    /// As [`LockOwner::lock`].
    fn lock_below<'a>(
        &'a self,
        name: &[u8],
        mode: Mode,
        wait: Wait,
    ) -> Result<Box<dyn HeldLock + 'a>, LockError>;

    /// Changes the mode: down at once, up as long as `wait` says. `value` is written if the lock is held in PW or EX and goes
    /// down. On an error the old mode is held.
    ///
    /// In a cluster only the master knows whether a conversion was granted, so [`Wait::For`] lasts longer if it must be recovered.
    ///
    /// # Errors
    /// As [`LockOwner::lock`]; [`LockError::Deadlock`] if two holders want what the other has.
    fn convert(&mut self, mode: Mode, value: Option<ValueBlock>, wait: Wait) -> Result<(), LockError>;

    /// As [`HeldLock::convert`], but does not wait. The lock comes back with the end of it, however that is: nobody has it
    /// meanwhile, so nobody takes it to be in a mode that it is not in.
    fn convert_later<'a>(
        self: Box<Self>,
        mode: Mode,
        value: Option<ValueBlock>,
        wait: Wait,
    ) -> Box<dyn LockConversion<'a> + 'a>
    where
        Self: 'a;

    /// Gives the lock back, writing the value block if it is held in PW or EX.
    ///
    /// # Errors
    /// [`LockError::Lost`] if it was lost: nothing is written then.
    fn release(self: Box<Self>, value: Option<ValueBlock>) -> Result<(), LockError>;
}

/// A lock that comes back from a conversion, and how that ended. An error: the lock is in the mode that it had, and after
/// [`LockError::Lost`] perhaps another's.
pub type ConvertedLock<'a> = (Box<dyn HeldLock + 'a>, Result<(), LockError>);

/// A conversion under way, with its lock. It is a future for any executor; awaited, its end in time is that of a
/// [`LockRequest`]. Dropping it cancels it, and releases the lock as any that is dropped.
pub trait LockConversion<'a>: Future<Output = ConvertedLock<'a>> + Debug + Send + Unpin {
    /// Has it end, if it waits: as [`LockError::Cancelled`], or as granted if that came first. Waits for nothing: the lock
    /// comes back as before.
    fn cancel(&mut self);

    /// Waits for the end on this thread.
    fn wait(self: Box<Self>) -> ConvertedLock<'a>;
}

/// Says that a lockspace and a resource in it may be called so, for those who implement [`LockOwner`].
///
/// # Errors
/// [`RequestError::Name`] with the length that cannot be.
pub fn check_names(space: &str, name: &[u8]) -> Result<(), RequestError> {
    if !(1..=SPACE_NAME_MAX).contains(&space.len()) {
        return Err(RequestError::SpaceName(space.len()));
    }
    Ok(crate::name::check(name)?)
}
