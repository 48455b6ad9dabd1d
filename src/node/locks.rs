//! Distributed locks for the threads of this process: calls that wait, and guards.

use super::Node;
use core::fmt;
use core::time::Duration;
use ocf_dlm::cluster::{Ask, Completed, Output, Snapshot, WaitReason};
use ocf_dlm::wire::{Key, Value};
use ocf_dlm::{ClientId, FencingToken, Flags, LockError, Mode, RequestError, Status, ValueBlock, Wait};
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

#[derive(Debug, Default)]
struct Told {
    completed: Option<Completed>,
    wanted: Option<Mode>,
    lost: bool,
}

/// The slots of all locks of a node, by lock.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Mutex<BTreeMap<u64, Arc<Slot>>>,
    clients: AtomicU32,
}

impl Table {
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
        self.news.notify_all();
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
        let client = self.inner.handle.inspect(|stack, host, _| {
            stack.has_locks().then(|| host.locks().clients.fetch_add(1, Ordering::Relaxed))
        });
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
        let mut flags = Flags::NOTIFY | Flags::VALBLK;
        if wait == Wait::No {
            flags |= Flags::NOQUEUE;
        }
        let ask = Ask {
            client: self.client,
            key: Key::root(space.as_bytes(), name.as_ref()),
            parent: None,
            mode,
            flags,
            transaction: None,
            deadline: None,
        };
        let slot = Arc::new(Slot::default());
        let asked = self.node.inner.handle.call(|stack, host, now| {
            let lock = stack.lock(now, ask)?;
            // Before the outputs of this call are carried out.
            host.locks().add(lock, Arc::clone(&slot));
            Ok::<u64, RequestError>(lock)
        });
        let lock = match asked {
            Ok(Ok(lock)) => lock,
            Ok(Err(RequestError::NotPrimary)) | Err(_) => return Err(LockError::Lost),
            Ok(Err(refused)) => return Err(refused.into()),
        };
        let mut guard = LockGuard {
            locks: self.clone(),
            lock,
            slot,
            mode,
            token: FencingToken::default(),
            value: None,
            released: false,
        };
        match guard.finish(if let Wait::For(wait) = wait { Some(wait) } else { None }) {
            Ok(()) => Ok(guard),
            // Dropping the guard takes back what is under way.
            Err(error) => Err(error),
        }
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

    /// The value block as of the last grant that reads it; `None` if there was none, or it was invalid because a holder that
    /// could write it died.
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

    /// Changes the mode; down at once, up waiting as long as it takes. `value` is written if the lock is held in PW or EX and
    /// goes down. On an error the old mode is held.
    ///
    /// # Errors
    /// [`LockError::Deadlock`] if two holders want what the other has; [`LockError::Lost`] if the lock is.
    pub fn convert(&mut self, mode: Mode, value: Option<ValueBlock>) -> Result<(), LockError> {
        let flags = if value.is_some() || !self.mode.is_down(mode) { Flags::VALBLK } else { Flags::NONE };
        let value = value.map(|block| Value { block, sequence: 0 });
        let handle = &self.locks.node.inner.handle;
        let asked = handle.call(|stack, _, now| stack.convert_lock(now, self.lock, (mode, flags, value)));
        match asked {
            Ok(Ok(())) => self.finish(None),
            Ok(Err(RequestError::NoSuchLock)) | Err(_) => Err(LockError::Lost),
            Ok(Err(refused)) => Err(refused.into()),
        }
    }

    /// Waits for the end of the operation under way.
    fn finish(&mut self, wait: Option<Duration>) -> Result<(), LockError> {
        let completed = self.slot.ended(wait).ok_or(LockError::TimedOut)??;
        self.mode = completed.held.unwrap_or(self.mode);
        self.token = completed.token;
        match completed.status {
            Status::Granted => {
                if completed.remarks.value_invalid {
                    self.value = None;
                } else if let Some(value) = completed.value {
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
