//! Distributed locks for the threads of a program: calls that wait, calls that are awaited, and guards.

mod backend;
mod conversion;
mod domain;
mod manager;
mod orders;
mod program;
mod ranges;
mod slot;
pub(crate) mod wire;

pub(crate) use backend::{Asked, Backend, Place};
pub use conversion::{PendingConversion, PendingSubConversion};
pub use domain::{LockCollection, LockDomain};
pub(crate) use orders::LockOrder;
pub use orders::LockOrderError;
pub use program::LockClient;
pub(crate) use ranges::{Bytes, Object, Opened};
pub(crate) use slot::{Listener, News, Slot};

use core::fmt;
use core::future::Future;
use core::ops::Deref;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use ocf_dlm::cluster::{Completed, Snapshot, Waiting};
use ocf_dlm::wire::Key;
use ocf_dlm::{
    ClientId, FencingToken, Flags, LockError, LockTerms, Mode, NumberOp, Status, Transfer, ValueBlock, Wait,
    Wanted,
};
use std::sync::Arc;

/// The distributed locks of a cluster, for one owner on a node. Clones are the same owner: they wait as one in deadlock
/// searches.
///
/// A lock is known by a lockspace and a name. It is mastered by the node that uses it first. See `docs/locks.md`.
#[derive(Clone, Debug)]
pub struct Locks {
    backend: Arc<dyn Backend>,
    client: ClientId,
    transaction: Option<u32>,
}

impl Locks {
    pub(crate) fn new(backend: Arc<dyn Backend>, client: ClientId) -> Self {
        Self { backend, client, transaction: None }
    }

    /// Locks `name` of the lockspace `space` in `mode`, waiting as long as `wait` says: for other holders, for the recovery of
    /// the lock, for fencing, and for this node to be in the primary partition. [`Wait::No`] waits for the answer of the
    /// lock's master and for nothing else.
    ///
    /// # Errors
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Deadlock`]: not granted. [`LockError::Lost`]: this node
    /// left the primary partition, or stopped. [`LockError::Refused`]: it cannot be asked for.
    pub fn lock(
        &self,
        space: &str,
        name: impl AsRef<[u8]>,
        mode: Mode,
        wait: Wait,
    ) -> Result<LockGuard, LockError> {
        self.ask(Place::Root { space, name: name.as_ref() }, mode, wait)?.wait()
    }

    /// Asks for the lock and does not wait for the answer, which is awaited on any executor, or waited for later. `wait` as in
    /// [`Locks::lock`]. Dropped before, it takes back the request, or releases the lock.
    ///
    /// # Errors
    /// [`LockError::Lost`] if the node has stopped; [`LockError::Refused`] if it cannot be asked for.
    pub fn lock_later(
        &self,
        space: &str,
        name: impl AsRef<[u8]>,
        mode: Mode,
        wait: Wait,
    ) -> Result<PendingLock, LockError> {
        self.ask(Place::Root { space, name: name.as_ref() }, mode, wait)
    }

    fn ask(&self, place: Place<'_>, mode: Mode, wait: Wait) -> Result<PendingLock, LockError> {
        self.ask_with(place, mode, wait.into(), Flags::NONE)
    }

    fn ask_with(
        &self,
        place: Place<'_>,
        mode: Mode,
        terms: LockTerms,
        more: Flags,
    ) -> Result<PendingLock, LockError> {
        let LockTerms { wait, lasting, signal } = terms;
        let mut flags = Flags::NOTIFY | Flags::VALBLK | more;
        if wait == Wait::No {
            flags |= Flags::NOQUEUE;
        }
        if lasting {
            flags |= Flags::PERSISTENT;
        }
        let (slot, key) = (Arc::new(Slot::default()), place.key());
        let (owner, transaction) = (self.client, self.transaction);
        let asked = Asked { owner, place, key: &key, mode, flags, wait, transaction, signal };
        let lock = self.backend.ask(&asked, &slot)?;
        let guard = LockGuard {
            locks: self.clone(),
            lock,
            key,
            slot,
            mode,
            token: FencingToken::default(),
            value: None,
            released: false,
        };
        let limit = if let Wait::For(wait) = wait { Some(wait) } else { None };
        Ok(PendingLock { guard: Some(guard), limit })
    }

    /// An atomic operation on the value block of a resource as a number, lowest byte first; an invalid block counts as zero,
    /// and a change makes it valid. The number is there as long as anybody has a lock on the resource, in NL at least; then it is
    /// zero again. Reading takes the lock in PR meanwhile, changing in PW, as [`Locks::lock`] does: who reads sees every change
    /// whose call has returned, on whichever node.
    ///
    /// # Errors
    /// As [`Locks::lock`]. [`LockError::Lost`] also if the lock was lost before the change was written: it is not done then.
    pub fn number(
        &self,
        space: &str,
        name: impl AsRef<[u8]>,
        operation: NumberOp,
        wait: Wait,
    ) -> Result<u64, LockError> {
        let reads = operation == NumberOp::Read;
        let guard = self.lock(space, name, if reads { Mode::Pr } else { Mode::Pw }, wait)?;
        let block = guard.value().copied().unwrap_or_else(|| ValueBlock::zero(8));
        let Some(new) = operation.changes(block.number()) else { return Ok(block.number()) };
        match guard.release(Some(block.with_number(new))) {
            Ok(()) => Ok(new),
            Err(LostLock { .. }) => Err(LockError::Lost),
        }
    }

    /// The same owner, whose requests from here on count for that transaction in searches for deadlocks: all requests on this node
    /// that name the same number, of owners of the same user, wait as one, whoever made them. Without one, an owner's requests
    /// wait as that owner. So it is for the byte ranges of objects that it opens from here on.
    #[must_use]
    pub fn in_transaction(&self, transaction: u32) -> Self {
        Self { transaction: Some(transaction), ..self.clone() }
    }

    /// Who the owner is, on this node.
    #[must_use]
    pub const fn owner(&self) -> ClientId {
        self.client
    }

    /// As [`Locks::lock`], but does not wait for others.
    ///
    /// # Errors
    /// As [`Locks::lock`].
    pub fn try_lock(&self, space: &str, name: impl AsRef<[u8]>, mode: Mode) -> Result<LockGuard, LockError> {
        self.lock(space, name, mode, Wait::No)
    }

    /// The lock manager of this node in numbers. `None` if the node has stopped, and for programs beside it.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.backend.snapshot()
    }

    /// Every operation of this node that waits for a lock, the longest wait first: whose, for what, since when, and why as far as
    /// this node knows without asking another. For a program beside the node, the operations of that program.
    #[must_use]
    pub fn waits(&self) -> Vec<Waiting> {
        self.backend.waits()
    }
}

/// A lock that was asked for: wait for it, or await it on any executor. Dropping it takes the request back.
#[must_use = "a request that is dropped is taken back"]
#[derive(Debug)]
pub struct PendingLock {
    /// `None` once it was taken.
    guard: Option<LockGuard>,
    limit: Option<Duration>,
}

impl PendingLock {
    /// Waits for the lock.
    ///
    /// # Errors
    /// As [`Locks::lock`]; [`LockError::Cancelled`] if it was taken before.
    pub fn wait(mut self) -> Result<LockGuard, LockError> {
        let mut guard = self.guard.take().ok_or(LockError::Cancelled)?;
        // Dropping the guard takes back what is under way.
        guard.finish(self.limit).map(|()| guard)
    }

    /// Calls `wake` when the request has ended, or has news; at once if it has ended. As for [`LockGuard::on_news`], `wake` must not
    /// block, nor call the node or a guard: let it wake, by a channel say, who calls [`PendingLock::try_take`].
    pub fn on_end(&self, wake: impl Fn() + Send + Sync + 'static) {
        match &self.guard {
            Some(guard) => guard.slot.on_end(Arc::new(wake)),
            None => wake(),
        }
    }

    /// Takes the outcome if there is one. `None` also if it was taken before.
    pub fn try_take(&mut self) -> Option<Result<LockGuard, LockError>> {
        self.guard.as_ref()?;
        match Pin::new(self).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }
}

impl Future for PendingLock {
    type Output = Result<LockGuard, LockError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(guard) = &self.guard else { return Poll::Ready(Err(LockError::Cancelled)) };
        let Poll::Ready(ended) = guard.slot.poll(context) else { return Poll::Pending };
        let Some(mut guard) = self.guard.take() else { return Poll::Ready(Err(LockError::Cancelled)) };
        Poll::Ready(ended.and_then(|completed| guard.complete(&completed)).map(|()| guard))
    }
}

/// A lock below another, which is borrowed: that one can neither be released nor converted as long as this one is held.
#[derive(Debug)]
pub struct SubLock<'a> {
    guard: LockGuard,
    above: &'a LockGuard,
}

impl SubLock<'_> {
    /// As [`LockGuard::convert`].
    ///
    /// # Errors
    /// As [`LockGuard::convert`].
    pub fn convert(&mut self, mode: Mode, value: Option<ValueBlock>) -> Result<(), LockError> {
        self.guard.convert(mode, value)
    }

    /// As [`LockGuard::release`].
    ///
    /// # Errors
    /// As [`LockGuard::release`].
    pub fn release(self, value: Option<ValueBlock>) -> Result<(), LostLock> {
        self.guard.release(value)
    }
}

impl Deref for SubLock<'_> {
    type Target = LockGuard;

    fn deref(&self) -> &LockGuard {
        &self.guard
    }
}

/// A lock may be another's by now: this node's primary lease is not confirmed, or it left the primary partition, or stopped; or
/// an operator took the lock away, or its owner was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lock {lock} is lost, or its node's lease is in doubt")]
pub struct LostLock {
    /// The lock, as this node calls it.
    pub lock: u64,
}

/// A distributed lock that is held. Dropping it releases it.
///
/// What the lock protects must be told the [token](LockGuard::token), so that it can refuse what comes too late.
pub struct LockGuard {
    locks: Locks,
    lock: u64,
    key: Key,
    slot: Arc<Slot>,
    mode: Mode,
    token: FencingToken,
    value: Option<ValueBlock>,
    released: bool,
}

impl LockGuard {
    /// What this node calls the lock.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.lock
    }

    /// The mode it is held in.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The value block as of the last grant that reads it, or as a conversion wrote it; `None` if there was none, or it was
    /// invalid because a holder that could write it died.
    #[must_use]
    pub const fn value(&self) -> Option<&ValueBlock> {
        self.value.as_ref()
    }

    /// Whether the lock is certainly held now: this node's lease is looked at, at the time of the call.
    ///
    /// # Errors
    /// [`LostLock`]. If only the lease was in doubt, a later call may succeed again.
    pub fn check(&self) -> Result<(), LostLock> {
        let held = !self.slot.is_lost() && self.locks.backend.is_held(self.lock);
        if held { Ok(()) } else { Err(LostLock { lock: self.lock }) }
    }

    /// The token of the last grant, to show to what the lock protects: it grows with each grant to a writer, whoever masters
    /// the lock.
    ///
    /// # Errors
    /// As [`LockGuard::check`].
    pub fn token(&self) -> Result<FencingToken, LostLock> {
        self.check().map(|()| self.token)
    }

    /// Waits at most so long to be told that another wants the lock, and in which mode. Each notice is told once.
    #[must_use]
    pub fn wanted(&self, wait: Duration) -> Option<Mode> {
        self.wanted_by(wait).map(|wanted| wanted.mode)
    }

    /// As [`LockGuard::wanted`], with the signal that who wants it gave ([`LockTerms::signal`]).
    #[must_use]
    pub fn wanted_by(&self, wait: Duration) -> Option<Wanted> {
        self.slot.wanted(wait)
    }

    /// Calls `wake` whenever there is news of this lock: another wants it ([`LockGuard::wanted`] says in which mode), it is lost,
    /// or an operation ended. On the node's own thread, so `wake` must not block, nor call the node or this guard: let it
    /// wake whoever does.
    pub fn on_news(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.slot.on_news(Arc::new(wake));
    }

    /// Locks the resource `name` below this one, of which it is a part: it is mastered where this one is, and costs no
    /// message there. `wait` as in [`Locks::lock`].
    ///
    /// # Errors
    /// As [`Locks::lock`].
    pub fn lock_below(
        &self,
        name: impl AsRef<[u8]>,
        mode: Mode,
        wait: Wait,
    ) -> Result<SubLock<'_>, LockError> {
        Ok(SubLock { guard: self.ask_below(name.as_ref(), mode, wait)?.wait()?, above: self })
    }

    fn ask_below(&self, name: &[u8], mode: Mode, wait: Wait) -> Result<PendingLock, LockError> {
        self.locks.ask(Place::Below { lock: self.lock, key: &self.key, name }, mode, wait)
    }

    /// Changes the mode; down at once, up waiting as long as it takes. `value` is written if the lock is held in PW or EX and
    /// goes down. On an error the old mode is held.
    ///
    /// # Errors
    /// [`LockError::Deadlock`] if two holders want what the other has; [`LockError::Lost`] if the lock is.
    pub fn convert(&mut self, mode: Mode, value: Option<ValueBlock>) -> Result<(), LockError> {
        self.convert_within(mode, value, Wait::Forever)
    }

    /// As [`LockGuard::convert`], waiting as long as `wait` says. Only the master knows whether it was granted, so it lasts
    /// longer while that is being recovered. [`Wait::No`] waits for the master's answer and for nothing else.
    ///
    /// # Errors
    /// As [`LockGuard::convert`]; [`LockError::WouldBlock`], [`LockError::TimedOut`].
    pub fn convert_within(
        &mut self,
        mode: Mode,
        value: Option<ValueBlock>,
        wait: Wait,
    ) -> Result<(), LockError> {
        self.begin_conversion(mode, value, wait)?;
        let written = self.written(mode, value);
        self.finish(None)?;
        self.value = written.or(self.value);
        Ok(())
    }

    /// As [`LockGuard::convert_within`], but does not wait: the conversion is awaited on any executor, or waited for later. The guard
    /// comes back with the end of it: nobody has it meanwhile, so nobody takes the lock to be in a mode that it is not in.
    pub fn convert_later(self, mode: Mode, value: Option<ValueBlock>, wait: Wait) -> PendingConversion {
        let refused = self.begin_conversion(mode, value, wait).err();
        PendingConversion { written: self.written(mode, value), guard: Some(self), refused }
    }

    fn begin_conversion(&self, mode: Mode, value: Option<ValueBlock>, wait: Wait) -> Result<(), LockError> {
        let mut flags = if value.is_some() || !self.mode.is_down(mode) { Flags::VALBLK } else { Flags::NONE };
        if wait == Wait::No {
            flags |= Flags::NOQUEUE;
        }
        if self.slot.is_lost() {
            return Err(LockError::Lost);
        }
        self.locks.backend.convert(self.lock, (mode, flags, value), wait)
    }

    /// The value block as a conversion that is granted leaves it, if it writes.
    fn written(&self, mode: Mode, value: Option<ValueBlock>) -> Option<ValueBlock> {
        value.filter(|_| Mode::transfer(Some(self.mode), mode) == Transfer::Write)
    }

    /// Waits for the end of the operation under way.
    fn finish(&mut self, wait: Option<Duration>) -> Result<(), LockError> {
        let completed = self.slot.ended(wait).ok_or(LockError::TimedOut)??;
        self.complete(&completed)
    }

    fn complete(&mut self, completed: &Completed) -> Result<(), LockError> {
        match completed.held {
            Some(mode) => self.mode = mode,
            // It is gone, and its guard with it.
            None => self.released = true,
        }
        self.token = completed.token;
        match completed.status {
            Status::Granted => {
                if completed.remarks.value_invalid {
                    self.value = None;
                } else if let Some(value) = &completed.value {
                    self.value = Some(value.block);
                }
                Ok(())
            }
            Status::NotQueued => Err(LockError::WouldBlock),
            Status::Deadlock => Err(LockError::Deadlock),
            Status::TimedOut => Err(LockError::TimedOut),
            Status::Cancelled | Status::Unlocked => Err(LockError::Cancelled),
            Status::Lost => Err(LockError::Lost),
        }
    }

    /// Gives the lock back, writing the value block if it is held in PW or EX.
    ///
    /// # Errors
    /// [`LostLock`] if it was lost: nothing is written then.
    pub fn release(mut self, value: Option<ValueBlock>) -> Result<(), LostLock> {
        self.released = true;
        if self.slot.is_lost() {
            return Err(LostLock { lock: self.lock });
        }
        if self.locks.backend.release(self.lock, value) { Ok(()) } else { Err(LostLock { lock: self.lock }) }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // What is lost may be another's by now, under the same number.
        if !self.released && !self.slot.is_lost() {
            self.locks.backend.forget(self.lock);
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockGuard({} {})", self.lock, self.mode)
    }
}
