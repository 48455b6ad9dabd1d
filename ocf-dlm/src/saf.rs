//! The lock service of the Service Availability Forum, on top of a lockspace: its modes, flags, statuses and error codes.
//!
//! A resource that is open is kept by a lock in NL; each lock of the service is one lock in PR or EX. Source: AIS lock
//! service, B.02. Deviation: D4, D5.
//!
//! ```
//! use ocf_dlm::saf::{SafFlags, SafLocks, SafMode, SafStatus};
//! use ocf_dlm::{Config, LocalLocks};
//! let space = LocalLocks::default().open("saf", Config::default())?;
//! let (mut a, mut b) = (SafLocks::initialize(&space)?, SafLocks::initialize(&space)?);
//! let (mine, theirs) = (a.open(b"safRes=1", true)?, b.open(b"safRes=1", false)?);
//! let no_queue = SafFlags { no_queue: true, ..SafFlags::default() };
//! assert_eq!(a.lock(mine, SafMode::Exclusive, no_queue, (0, None))?.1, SafStatus::Granted);
//! assert_eq!(b.lock(theirs, SafMode::Shared, no_queue, (0, None))?.1, SafStatus::NotQueued);
//! # Ok::<(), ocf_dlm::saf::SafError>(())
//! ```

use crate::client::Client;
use crate::flags::Flags;
use crate::identity::LockId;
use crate::inbox::Notice;
use crate::lockspace::{Lockspace, OpenError};
use crate::mode::Mode;
use crate::request::{Answer, Completion, Terms};
use crate::status::{RequestError, Status};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

/// Most locks of one handle; asking for more is refused with [`SafStatus::NoMore`].
pub const SAF_LOCKS_MAX: usize = 65_536;

/// A mode of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SafMode {
    /// `SA_LCK_PR_LOCK_MODE`, 1.
    Shared,
    /// `SA_LCK_EX_LOCK_MODE`, 2.
    Exclusive,
}

impl SafMode {
    const fn mode(self) -> Mode {
        match self {
            Self::Shared => Mode::Pr,
            Self::Exclusive => Mode::Ex,
        }
    }

    const fn of(mode: Mode) -> Self {
        if matches!(mode, Mode::Ex) { Self::Exclusive } else { Self::Shared }
    }
}

/// Flags of a lock request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SafFlags {
    /// `SA_LCK_LOCK_NO_QUEUE`, 1: refuse instead of waiting.
    pub no_queue: bool,
    /// `SA_LCK_LOCK_ORPHAN`, 2: the lock outlives its handle, until it is purged.
    pub orphan: bool,
}

/// How a lock request ended; the number is that of `SaLckLockStatusT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SafStatus {
    /// It is held.
    Granted = 1,
    /// Waiting would be a deadlock.
    Deadlock = 2,
    /// Others have it, and it must not wait.
    NotQueued = 3,
    /// An orphan is in the way: purge it.
    Orphaned = 4,
    /// The handle has as many locks as it may.
    NoMore = 5,
    /// The handle has it exclusively already.
    DuplicateExclusive = 6,
}

/// Why a call failed; the number is that of `SaAisErrorT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SafError {
    /// It took too long; nothing is held.
    #[error("timeout")]
    Timeout = 5,
    /// Not now: this node is not in the primary partition.
    #[error("try again")]
    TryAgain = 6,
    /// A parameter cannot be.
    #[error("invalid parameter")]
    InvalidParam = 7,
    /// There is no such resource handle.
    #[error("bad handle")]
    BadHandle = 9,
    /// There is no such resource, or no such lock.
    #[error("does not exist")]
    NotExist = 12,
    /// The name is too long.
    #[error("name too long")]
    NameTooLong = 13,
    /// A limit is reached.
    #[error("no resources")]
    NoResources = 18,
}

impl SafError {
    /// The number of `SaAisErrorT`.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }
}

impl From<RequestError> for SafError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Name(crate::NameError(0)) => Self::InvalidParam,
            RequestError::Name(_) | RequestError::SpaceName(_) => Self::NameTooLong,
            RequestError::Flags { .. }
            | RequestError::NotQueueable { .. }
            | RequestError::ParentNotGranted => Self::InvalidParam,
            RequestError::NoSuchLock | RequestError::NotOwner | RequestError::NoOrphan { .. } => {
                Self::NotExist
            }
            RequestError::Busy | RequestError::HasSublocks(_) | RequestError::NotAllowed(_) => {
                Self::InvalidParam
            }
            RequestError::Limit(_) => Self::NoResources,
            RequestError::NotMaster | RequestError::NotPrimary => Self::TryAgain,
        }
    }
}

impl From<OpenError> for SafError {
    fn from(_: OpenError) -> Self {
        Self::NoResources
    }
}

/// What a handle is told by [`SafLocks::dispatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SafCallback {
    /// A request that did not wait in the call ended.
    Granted {
        /// What the caller gave with the request.
        invocation: u64,
        /// The lock.
        lock: LockId,
        /// How.
        status: Result<SafStatus, SafError>,
    },
    /// A lock is in the way of another request.
    Waiter {
        /// What the other gave with its request, if it is on this node.
        signal: Option<u64>,
        /// The lock in the way.
        lock: LockId,
        /// Its mode.
        held: SafMode,
        /// The mode that the other asks for.
        requested: SafMode,
    },
}

/// A resource that a handle has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SafResource(LockId);

/// A handle of the service. Dropping it closes everything and releases its locks, but for orphans.
#[derive(Debug)]
pub struct SafLocks {
    client: Client,
    open: BTreeMap<SafResource, Vec<u8>>,
    /// Each lock: its resource, and the invocation of an asynchronous request under way.
    locks: BTreeMap<LockId, (SafResource, SafMode, Option<u64>)>,
    callbacks: VecDeque<SafCallback>,
}

impl SafLocks {
    /// `saLckInitialize`.
    ///
    /// # Errors
    /// [`SafError::NoResources`] if there are too many clients.
    pub fn initialize(space: &Lockspace) -> Result<Self, SafError> {
        let client = space.client()?;
        Ok(Self { client, open: BTreeMap::new(), locks: BTreeMap::new(), callbacks: VecDeque::new() })
    }

    /// `saLckOptionCheck`: orphan locks 1 and deadlock detection 2 are both there.
    #[must_use]
    pub const fn options(&self) -> u32 {
        3
    }

    /// `saLckLimitGet`: most locks of one handle.
    #[must_use]
    pub const fn locks_max(&self) -> usize {
        SAF_LOCKS_MAX
    }

    /// `saLckResourceOpen`, with or without `SA_LCK_RESOURCE_CREATE`.
    ///
    /// # Errors
    /// [`SafError::NotExist`] if nobody has it open and `create` is not set.
    pub fn open(&mut self, name: &[u8], create: bool) -> Result<SafResource, SafError> {
        let there = self.client.lockspace().resource_state(name)?.is_some();
        if !there && !create {
            return Err(SafError::NotExist);
        }
        let keep = Terms::new(Mode::Nl).flags(Flags::SYNCSTS | Flags::EXPEDITE);
        let resource = SafResource(self.client.enq(name, None, 0, &keep)?.lock());
        self.open.insert(resource, name.to_owned());
        Ok(resource)
    }

    /// `saLckResourceClose`: its locks of this handle are released.
    ///
    /// # Errors
    /// [`SafError::BadHandle`] if it is not open.
    pub fn close(&mut self, resource: SafResource) -> Result<(), SafError> {
        self.open.remove(&resource).ok_or(SafError::BadHandle)?;
        let theirs: Vec<LockId> =
            self.locks.iter().filter(|(_, (of, ..))| *of == resource).map(|(lock, _)| *lock).collect();
        for lock in theirs {
            self.release(lock)?;
        }
        Ok(self.client.deq(resource.0, Flags::NONE, None)?)
    }

    /// `saLckResourceLock`: waits for the lock, no longer than `timeout`. `signal` is shown to who is in the way.
    ///
    /// # Errors
    /// [`SafError::Timeout`] if it took too long: nothing is held.
    pub fn lock(
        &mut self,
        resource: SafResource,
        mode: SafMode,
        flags: SafFlags,
        (signal, timeout): (u64, Option<Duration>),
    ) -> Result<(LockId, SafStatus), SafError> {
        let lock = match self.ask(resource, mode, flags, signal)? {
            Asked::Not(status) => return Ok((resource.0, status)),
            Asked::Done(completion) => {
                return self.ended(&completion).map(|status| (completion.lock, status));
            }
            Asked::Waits(lock) => lock,
        };
        self.locks.insert(lock, (resource, mode, None));
        let space = self.client.lockspace().clone();
        let end = timeout.map(|timeout| space.after(timeout));
        loop {
            let wait = end.map_or(Duration::from_secs(3600), |end| end.since(space.now()));
            match self.client.poll_timeout(wait) {
                Some(Notice::Completed(completion)) if completion.lock == lock => {
                    return self.ended(&completion).map(|status| (lock, status));
                }
                Some(notice) => self.note(&notice),
                // Granted just now, or given up: its notice will say.
                None => {
                    let _granted = end.is_some() && self.client.cancel(lock).is_err();
                }
            }
        }
    }

    /// `saLckResourceLockAsync`: the outcome comes by [`SafLocks::dispatch`], with `invocation`.
    ///
    /// # Errors
    /// If it cannot be asked for: then nothing comes.
    pub fn lock_async(
        &mut self,
        resource: SafResource,
        mode: SafMode,
        flags: SafFlags,
        (invocation, signal): (u64, u64),
    ) -> Result<LockId, SafError> {
        let granted = |lock, status| SafCallback::Granted { invocation, lock, status };
        let (lock, callback) = match self.ask(resource, mode, flags, signal)? {
            Asked::Not(status) => (resource.0, Some(granted(resource.0, Ok(status)))),
            Asked::Done(completion) => {
                (completion.lock, Some(granted(completion.lock, self.ended(&completion))))
            }
            Asked::Waits(lock) => {
                self.locks.insert(lock, (resource, mode, Some(invocation)));
                (lock, None)
            }
        };
        self.callbacks.extend(callback);
        Ok(lock)
    }

    /// `saLckResourceUnlock`: releases a lock, or ends its wait.
    ///
    /// # Errors
    /// [`SafError::NotExist`] if this handle has no such lock.
    pub fn unlock(&mut self, lock: LockId) -> Result<(), SafError> {
        if !self.locks.contains_key(&lock) {
            return Err(SafError::NotExist);
        }
        self.release(lock)
    }

    /// `saLckLockPurge`: releases the orphans on a resource. Returns how many.
    ///
    /// # Errors
    /// [`SafError::BadHandle`] if the resource is not open.
    pub fn purge(&mut self, resource: SafResource) -> Result<usize, SafError> {
        let name = self.open.get(&resource).ok_or(SafError::BadHandle)?;
        let space = self.client.lockspace();
        let state = space.resource_state(name)?.ok_or(SafError::NotExist)?;
        let orphans = state.locks.iter().filter(|lock| lock.orphan);
        Ok(orphans.filter_map(|lock| space.force_release(lock.lock, "purged").ok()).sum())
    }

    /// `saLckDispatch`: the next callback, if there is one.
    pub fn dispatch(&mut self) -> Option<SafCallback> {
        while let Some(notice) = self.client.poll() {
            self.note(&notice);
        }
        self.callbacks.pop_front()
    }

    fn release(&mut self, lock: LockId) -> Result<(), SafError> {
        self.locks.remove(&lock);
        Ok(self.client.deq(lock, Flags::FORCEUNLOCK, None)?)
    }

    fn ask(
        &mut self,
        resource: SafResource,
        mode: SafMode,
        flags: SafFlags,
        signal: u64,
    ) -> Result<Asked, SafError> {
        let name = self.open.get(&resource).ok_or(SafError::BadHandle)?.clone();
        if self.locks.len() >= SAF_LOCKS_MAX {
            return Ok(Asked::Not(SafStatus::NoMore));
        }
        let held = |(of, held, _): &(SafResource, SafMode, Option<u64>)| {
            *of == resource && *held == SafMode::Exclusive
        };
        if mode == SafMode::Exclusive && self.locks.values().any(held) {
            return Ok(Asked::Not(SafStatus::DuplicateExclusive));
        }
        let state = self.client.lockspace().resource_state(&name)?.ok_or(SafError::NotExist)?;
        let in_the_way = |lock: &crate::LockState| {
            lock.orphan && lock.held.is_some_and(|held| !held.is_compatible(mode.mode()))
        };
        if state.locks.iter().any(in_the_way) {
            return Ok(Asked::Not(SafStatus::Orphaned));
        }
        let mut terms = Terms::new(mode.mode()).flags(Flags::NOTIFY | Flags::SYNCSTS);
        for (set, flag) in [(flags.no_queue, Flags::NOQUEUE), (flags.orphan, Flags::PERSISTENT)] {
            if set {
                terms = terms.flags(flag);
            }
        }
        Ok(match self.client.enq(&name, None, signal, &terms)? {
            Answer::Done(completion) if completion.status == Status::Granted => {
                self.locks.insert(completion.lock, (resource, mode, None));
                Asked::Done(completion)
            }
            Answer::Done(_) => Asked::Not(SafStatus::NotQueued),
            Answer::Pending(lock) => Asked::Waits(lock),
        })
    }

    /// Takes the end of a request: a lock that is not held is forgotten.
    fn ended(&mut self, completion: &Completion) -> Result<SafStatus, SafError> {
        if completion.status == Status::Granted {
            if let Some((.., invocation)) = self.locks.get_mut(&completion.lock) {
                *invocation = None;
            }
            return Ok(SafStatus::Granted);
        }
        self.locks.remove(&completion.lock);
        match completion.status {
            Status::Granted | Status::NotQueued => Ok(SafStatus::NotQueued),
            Status::Deadlock => Ok(SafStatus::Deadlock),
            Status::TimedOut | Status::Cancelled | Status::Unlocked => Err(SafError::Timeout),
            Status::Lost => Err(SafError::TryAgain),
        }
    }

    /// Turns a notice into a callback.
    fn note(&mut self, notice: &Notice) {
        match notice {
            Notice::Completed(completion) => {
                let waited = self.locks.get(&completion.lock).and_then(|(.., invocation)| *invocation);
                let status = self.ended(completion);
                self.callbacks.extend(waited.map(|invocation| SafCallback::Granted {
                    invocation,
                    lock: completion.lock,
                    status,
                }));
            }
            Notice::Blocking(blocking) => {
                let Some((resource, ..)) = self.locks.get(&blocking.lock) else { return };
                let state = self.open.get(resource).map(|name| self.client.lockspace().resource_state(name));
                let waits = |lock: &&crate::LockState| {
                    lock.asked == Some(blocking.wanted) && lock.owner.node.is_local()
                };
                let state = state.and_then(|state| state.ok()?);
                let signal =
                    state.and_then(|state| state.locks.iter().find(waits).map(|lock| lock.owner.tag));
                let (held, requested) = (SafMode::of(blocking.held), SafMode::of(blocking.wanted));
                self.callbacks.push_back(SafCallback::Waiter {
                    signal,
                    lock: blocking.lock,
                    held,
                    requested,
                });
            }
        }
    }
}

/// What a request came to in the call.
enum Asked {
    Done(Completion),
    Waits(LockId),
    Not(SafStatus),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, LocalLocks};

    fn two() -> (SafLocks, SafLocks) {
        let space = LocalLocks::default().open("saf", Config::default()).unwrap();
        (SafLocks::initialize(&space).unwrap(), SafLocks::initialize(&space).unwrap())
    }

    const PLAIN: SafFlags = SafFlags { no_queue: false, orphan: false };
    const NO_QUEUE: SafFlags = SafFlags { no_queue: true, orphan: false };

    #[test]
    fn who_waits_is_granted_at_the_unlock_and_the_holder_is_told_with_its_signal() {
        let (mut a, mut b) = two();
        assert_eq!(a.open(b"r", false), Err(SafError::NotExist));
        let (ra, rb) = (a.open(b"r", true).unwrap(), b.open(b"r", false).unwrap());
        let (mine, status) = a.lock(ra, SafMode::Exclusive, PLAIN, (1, None)).unwrap();
        assert_eq!(status as i32, 1);
        let theirs = b.lock_async(rb, SafMode::Shared, PLAIN, (77, 42)).unwrap();
        let (held, requested) = (SafMode::Exclusive, SafMode::Shared);
        assert_eq!(a.dispatch(), Some(SafCallback::Waiter { signal: Some(42), lock: mine, held, requested }));
        assert_eq!(b.dispatch(), None);
        a.unlock(mine).unwrap();
        let granted = SafCallback::Granted { invocation: 77, lock: theirs, status: Ok(SafStatus::Granted) };
        assert_eq!((b.dispatch(), b.dispatch()), (Some(granted), None));
        assert_eq!(a.unlock(mine), Err(SafError::NotExist));
    }

    #[test]
    fn refusals_have_the_statuses_and_codes_of_the_service() {
        let (mut a, mut b) = two();
        let (ra, rb) = (a.open(b"r", true).unwrap(), b.open(b"r", true).unwrap());
        a.lock(ra, SafMode::Exclusive, PLAIN, (0, None)).unwrap();
        let again = a.lock(ra, SafMode::Exclusive, PLAIN, (0, None)).unwrap().1;
        assert_eq!((again, again as i32), (SafStatus::DuplicateExclusive, 6));
        assert_eq!(b.lock(rb, SafMode::Shared, NO_QUEUE, (0, None)).unwrap().1 as i32, 3);
        let late = b.lock(rb, SafMode::Shared, PLAIN, (0, Some(Duration::from_millis(10))));
        assert_eq!(late.unwrap_err().code(), 5);
        a.close(ra).unwrap();
        assert_eq!(a.close(ra).unwrap_err().code(), 9);
        assert_eq!(b.lock(rb, SafMode::Shared, PLAIN, (0, None)).unwrap().1, SafStatus::Granted);
        assert_eq!(b.open(&[7; 300], true).unwrap_err().code(), 13);
    }

    #[test]
    fn an_orphan_is_in_the_way_until_it_is_purged() {
        let (mut a, mut b) = two();
        let (ra, rb) = (a.open(b"r", true).unwrap(), b.open(b"r", true).unwrap());
        let orphan = SafFlags { orphan: true, ..PLAIN };
        a.lock(ra, SafMode::Exclusive, orphan, (0, None)).unwrap();
        drop(a);
        assert_eq!(b.lock(rb, SafMode::Shared, PLAIN, (0, None)).unwrap().1, SafStatus::Orphaned);
        assert_eq!(b.purge(rb), Ok(1));
        assert_eq!(b.lock(rb, SafMode::Shared, PLAIN, (0, None)).unwrap().1, SafStatus::Granted);
    }
}
