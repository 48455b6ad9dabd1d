//! Distributed locks for the threads of this process: calls that wait, and guards.

mod manager;

use super::Node;
use core::fmt;
use core::ops::Deref;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use ocf_dlm::cluster::{Ask, Completed, Output, Snapshot, WaitReason};
use ocf_dlm::wire::{Key, Value};
use ocf_dlm::{
    ClientId, FencingToken, Flags, LockError, Mode, NumberOp, RequestError, Status, Transfer, ValueBlock,
    Wait,
};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time;

/// What the owner of one lock was told and has not seen yet.
#[derive(Debug, Default)]
pub(super) struct Slot {
    told: Mutex<Told>,
    news: Condvar,
}

#[derive(Default)]
struct Told {
    completed: Option<Completed>,
    wanted: Option<Mode>,
    lost: bool,
    /// Who awaits the end of the operation under way.
    waker: Option<Waker>,
    /// Called when there is something new.
    on_news: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { completed, wanted, lost, .. } = self;
        write!(f, "Told({completed:?}, {wanted:?}, {lost})")
    }
}

/// The slots of all locks of a node, by lock.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Mutex<BTreeMap<u64, Arc<Slot>>>,
    clients: AtomicU32,
    /// Owners that have a name.
    groups: Mutex<BTreeMap<String, u32>>,
}

impl Table {
    fn new_client(&self) -> u32 {
        self.clients.fetch_add(1, Ordering::Relaxed)
    }

    fn group(&self, name: &str) -> u32 {
        let mut groups = self.groups.lock();
        if let Some(known) = groups.get(name) {
            return *known;
        }
        let new = self.new_client();
        groups.insert(name.to_owned(), new);
        new
    }

    fn add(&self, lock: u64, slot: Arc<Slot>) {
        self.slots.lock().insert(lock, slot);
    }

    fn remove(&self, lock: u64) {
        self.slots.lock().remove(&lock);
    }

    /// Tells the owner of a lock.
    pub(super) fn tell(&self, output: Output) {
        let (lock, news) = match output {
            Output::Completed(completed) => (completed.lock, News::Completed(completed)),
            Output::Blocking { lock, wanted, .. } => (lock, News::Wanted(wanted)),
            Output::Lost { lock, .. } => (lock, News::Lost),
            Output::Send { .. } | Output::FenceWanted(_) | Output::Recovered { .. } | Output::Overrun | _ => {
                return;
            }
        };
        let slot = self.slots.lock().get(&lock).cloned();
        if let Some(slot) = slot {
            slot.take(news);
        }
    }

    /// The node has stopped: every lock is lost.
    pub(super) fn close(&self) {
        for slot in core::mem::take(&mut *self.slots.lock()).into_values() {
            slot.take(News::Lost);
        }
    }
}

enum News {
    Completed(Completed),
    Wanted(Mode),
    Lost,
}

impl Slot {
    fn take(&self, news: News) {
        let mut told = self.told.lock();
        match news {
            News::Completed(completed) => told.completed = Some(completed),
            News::Wanted(mode) => told.wanted = Some(mode),
            News::Lost => told.lost = true,
        }
        let (waker, on_news) = (told.waker.take(), told.on_news.clone());
        self.news.notify_all();
        drop(told);
        // With nothing locked that they could want.
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(on_news) = on_news {
            on_news();
        }
    }

    /// How the operation under way ended, or a promise to wake.
    fn poll(&self, context: &Context<'_>) -> Poll<Result<Completed, LockError>> {
        let mut told = self.told.lock();
        if let Some(completed) = told.completed.take() {
            return Poll::Ready(Ok(completed));
        }
        if told.lost {
            return Poll::Ready(Err(LockError::Lost));
        }
        told.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// How the operation under way ended; `None` if it has not in time.
    fn ended(&self, wait: Option<Duration>) -> Option<Result<Completed, LockError>> {
        let until = wait.and_then(|wait| time::Instant::now().checked_add(wait));
        let mut told = self.told.lock();
        loop {
            if let Some(completed) = told.completed.take() {
                return Some(Ok(completed));
            }
            if told.lost {
                return Some(Err(LockError::Lost));
            }
            match until {
                None => self.news.wait(&mut told),
                Some(until) if self.news.wait_until(&mut told, until).timed_out() => {
                    return told.completed.take().map(Ok);
                }
                Some(_) => {}
            }
        }
    }
}

/// The distributed locks of a cluster, for one owner on this node. Clones are the same owner: they wait as one in deadlock
/// searches.
///
/// A lock is known by a lockspace and a name. It is mastered by the node that uses it first. See `docs/locks.md`.
#[derive(Clone)]
pub struct Locks {
    node: Node,
    client: ClientId,
}

impl Node {
    /// The distributed locks, as a new owner. `None` unless the node was built with
    /// [`NodeBuilder::locks`](super::NodeBuilder::locks), or if it has stopped.
    #[must_use]
    pub fn locks(&self) -> Option<Locks> {
        self.locks_as(Table::new_client)
    }

    /// The distributed locks, as the owner of that name on this node: all who ask for it by the same name are one owner, as
    /// clones are. `None` as for [`Node::locks`].
    #[must_use]
    pub fn locks_of_group(&self, name: &str) -> Option<Locks> {
        self.locks_as(|table| table.group(name))
    }

    fn locks_as(&self, client: impl FnOnce(&Table) -> u32) -> Option<Locks> {
        let client =
            self.inner.handle.inspect(|stack, host, _| stack.has_locks().then(|| client(host.locks())));
        let client = ClientId::new(client.ok()??);
        Some(Locks { node: self.clone(), client })
    }
}

impl Locks {
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
        self.ask((Key::root(space.as_bytes(), name.as_ref()), None), mode, wait)?.wait()
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
        self.ask((Key::root(space.as_bytes(), name.as_ref()), None), mode, wait)
    }

    fn ask(
        &self,
        (key, parent): (Key, Option<u64>),
        mode: Mode,
        wait: Wait,
    ) -> Result<PendingLock, LockError> {
        let mut flags = Flags::NOTIFY | Flags::VALBLK;
        if wait == Wait::No {
            flags |= Flags::NOQUEUE;
        }
        let slot = Arc::new(Slot::default());
        let asked = self.node.inner.handle.call(|stack, host, now| {
            let deadline = if let Wait::For(wait) = wait { Some(now + wait) } else { None };
            let (client, key) = (self.client, key.clone());
            let lock =
                stack.lock(now, Ask { client, key, parent, mode, flags, transaction: None, deadline })?;
            // Before the outputs of this call are carried out.
            host.locks().add(lock, Arc::clone(&slot));
            Ok::<u64, RequestError>(lock)
        });
        let lock = match asked {
            Ok(Ok(lock)) => lock,
            Ok(Err(RequestError::NotPrimary)) | Err(_) => return Err(LockError::Lost),
            Ok(Err(refused)) => return Err(refused.into()),
        };
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

    /// The lock manager of this node in numbers. `None` if the node has stopped.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.node.inner.handle.inspect(|stack, _, _| stack.locks()).ok().flatten()
    }

    /// What every operation of this node that waits for a lock waits for, by lock.
    #[must_use]
    pub fn waits(&self) -> Vec<(u64, WaitReason)> {
        let look = self.node.inner.handle.inspect(|stack, host, _| {
            let locks: Vec<u64> = host.locks().slots.lock().keys().copied().collect();
            let reason = |lock: u64| stack.lock_waits(lock).map(|reason| (lock, reason));
            locks.into_iter().filter_map(reason).collect()
        });
        look.unwrap_or_default()
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("node", &self.node).field("client", &self.client).finish()
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
    _above: &'a LockGuard,
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

/// A lock may be another's by now: this node's primary lease is not confirmed, or it left the primary partition, or stopped.
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
        let handle = &self.locks.node.inner.handle;
        let lost = LostLock { lock: self.lock };
        if handle.stopped().is_some() {
            return Err(lost);
        }
        // The time is read when it is this call's turn: waiting for that may outlast the lease.
        let look = handle.inspect(|stack, _, _| stack.lock_held(self.locks.node.now(), self.lock));
        let held = look.ok().flatten();
        held.map(|_| ()).ok_or(lost)
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
        let until = time::Instant::now().checked_add(wait);
        let mut told = self.slot.told.lock();
        while told.wanted.is_none() && !told.lost {
            match until {
                None => self.slot.news.wait(&mut told),
                Some(until) if self.slot.news.wait_until(&mut told, until).timed_out() => break,
                Some(_) => {}
            }
        }
        told.wanted.take()
    }

    /// Calls `wake` whenever there is news of this lock: another wants it ([`LockGuard::wanted`] says in which mode), it is lost,
    /// or an operation ended. On the node's own thread, so `wake` must not block, nor call the node or this guard: let it
    /// wake whoever does.
    pub fn on_news(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.slot.told.lock().on_news = Some(Arc::new(wake));
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
        let key = self.key.child(name.as_ref());
        let guard = self.locks.ask((key, Some(self.lock)), mode, wait)?.wait()?;
        Ok(SubLock { guard, _above: self })
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
        let mut flags = if value.is_some() || !self.mode.is_down(mode) { Flags::VALBLK } else { Flags::NONE };
        if wait == Wait::No {
            flags |= Flags::NOQUEUE;
        }
        let writes = Mode::transfer(Some(self.mode), mode) == Transfer::Write;
        let block = value.map(|block| Value { block, sequence: 0 });
        let asked = self.locks.node.inner.handle.call(|stack, _, now| {
            let deadline = if let Wait::For(wait) = wait { Some(now + wait) } else { None };
            stack.convert_lock(now, self.lock, (mode, flags, block), deadline)
        });
        match asked {
            Ok(Ok(())) => self.finish(None)?,
            Ok(Err(RequestError::NoSuchLock | RequestError::NotPrimary)) | Err(_) => {
                return Err(LockError::Lost);
            }
            Ok(Err(refused)) => return Err(refused.into()),
        }
        if writes && value.is_some() {
            self.value = value;
        }
        Ok(())
    }

    /// Waits for the end of the operation under way.
    fn finish(&mut self, wait: Option<Duration>) -> Result<(), LockError> {
        let completed = self.slot.ended(wait).ok_or(LockError::TimedOut)??;
        self.complete(&completed)
    }

    fn complete(&mut self, completed: &Completed) -> Result<(), LockError> {
        self.mode = completed.held.unwrap_or(self.mode);
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
        self.check()?;
        if self.give_back(value) { Ok(()) } else { Err(LostLock { lock: self.lock }) }
    }

    fn give_back(&mut self, value: Option<ValueBlock>) -> bool {
        self.released = true;
        let flags = if value.is_some() { Flags::VALBLK } else { Flags::NONE };
        let value = value.map(|block| Value { block, sequence: 0 });
        let done = self.locks.node.inner.handle.call(|stack, host, now| {
            host.locks().remove(self.lock);
            stack.unlock(now, self.lock, flags | Flags::FORCEUNLOCK, value)
        });
        matches!(done, Ok(Ok(())))
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if !self.released && !self.give_back(None) {
            tracing::debug!(lock = self.lock, "it was gone already");
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockGuard({} {})", self.lock, self.mode)
    }
}
