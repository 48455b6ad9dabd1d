//! The lock service of the Service Availability Forum, over any [`LockManager`]: its modes, flags, statuses and error codes.
//!
//! A resource that is open is kept by a lock in NL; each lock of the service is one lock in PR or EX. Source: AIS lock
//! service, B.02. Deviations: D4, D12.
//!
//! ```
//! use ocf_dlm::LocalLocks;
//! use ocf_dlm::saf::{SafFlags, SafLocks, SafMode, SafStatus};
//! // Between nodes: `ocf::Locks`; beside a node: `ocf::LockClient`.
//! let manager = LocalLocks::default();
//! let mut a = SafLocks::initialize(&manager, "saf")?;
//! let mut b = SafLocks::initialize(&manager, "saf")?;
//! let (mine, theirs) = (a.open(b"safRes=1", true, None)?, b.open(b"safRes=1", false, None)?);
//! let no_queue = SafFlags { no_queue: true, ..SafFlags::default() };
//! assert_eq!(a.lock(mine, SafMode::Exclusive, no_queue, (0, None))?.1, SafStatus::Granted);
//! assert_eq!(b.lock(theirs, SafMode::Shared, no_queue, (0, None))?.1, SafStatus::NotQueued);
//! # Ok::<(), ocf_dlm::saf::SafError>(())
//! ```

mod bell;

use crate::client::{LockError, Wait};
use crate::manager::{HeldLock, LockManager, LockOwner, LockRequest, LockTerms, SeenLock, check_names};
use crate::mode::Mode;
use crate::status::RequestError;
use bell::Bell;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Most locks of one handle; asking for more is refused with [`SafStatus::NoMore`].
pub const SAF_LOCKS_MAX: usize = 65_536;

/// A request that is not granted within this time is looked at: an orphan may be in its way.
const LOOK_AFTER: Duration = Duration::from_millis(100);
/// How often it is looked at again, and how long a look may take.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A mode of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SafMode {
    /// `SA_LCK_PR_LOCK_MODE`, 1.
    Shared = 1,
    /// `SA_LCK_EX_LOCK_MODE`, 2.
    Exclusive = 2,
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
    /// The handle, or the lock manager, has as many locks as it may.
    NoMore = 5,
    /// The handle has it exclusively already, or asks for that.
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
    /// This program may not lock there.
    #[error("access denied")]
    Access = 11,
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
            RequestError::Name(crate::NameError(0)) | RequestError::SpaceName(0) => Self::InvalidParam,
            RequestError::Name(_) | RequestError::SpaceName(_) => Self::NameTooLong,
            RequestError::Flags { .. }
            | RequestError::NotQueueable { .. }
            | RequestError::Busy
            | RequestError::HasSublocks(_)
            | RequestError::ParentNotGranted => Self::InvalidParam,
            RequestError::NotAllowed(_) => Self::Access,
            RequestError::NoSuchLock | RequestError::NotOwner | RequestError::NoOrphan { .. } => {
                Self::NotExist
            }
            RequestError::Limit(_) => Self::NoResources,
            RequestError::NotMaster | RequestError::NotPrimary => Self::TryAgain,
        }
    }
}

impl From<LockError> for SafError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Refused(refused) => refused.into(),
            LockError::TimedOut => Self::Timeout,
            // An operator took it away.
            LockError::Cancelled => Self::NotExist,
            LockError::WouldBlock | LockError::Deadlock | LockError::Lost => Self::TryAgain,
        }
    }
}

/// What a handle is told by [`SafLocks::dispatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SafCallback {
    /// A resource that was opened without waiting is open, or is not.
    Opened {
        /// What the caller gave with the request.
        invocation: u64,
        /// The resource.
        resource: Result<SafResource, SafError>,
    },
    /// A request that did not wait in the call ended.
    Granted {
        /// What the caller gave with the request.
        invocation: u64,
        /// The lock.
        lock: SafLockId,
        /// How.
        status: Result<SafStatus, SafError>,
    },
    /// A lock is in the way of another request.
    Waiter {
        /// What the other gave with its request; zero if that is not one of this service.
        signal: u64,
        /// The lock in the way.
        lock: SafLockId,
        /// Its mode.
        held: SafMode,
        /// The mode that the other asks for.
        requested: SafMode,
    },
    /// A lock that was given back without waiting is.
    Unlocked {
        /// What the caller gave with it.
        invocation: u64,
        /// Whether it was there.
        result: Result<(), SafError>,
    },
    /// A lock is not held any more, without having been given back: this node is outside the primary partition, or an operator took
    /// it away. The standard has no such callback; who writes under a lock must know it.
    Lost {
        /// The lock. There is none of that name any more.
        lock: SafLockId,
    },
}

/// A resource that a handle has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SafResource(u64);

/// A lock of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SafLockId(u64);

/// A handle of the service. Dropping it (`saLckFinalize`), or the end of its process, closes everything and releases its locks, but for
/// orphans.
///
/// Calls that wait, and [`SafLocks::dispatch_within`], look once a second whether an orphan is in the way of what waits; who only calls
/// [`SafLocks::dispatch`] does so when [`SafLocks::next_look`] says. Each look asks the master of each such resource, for a second at most.
pub struct SafLocks {
    /// `None` while it is dropped.
    owner: Option<Box<dyn LockOwner>>,
    space: String,
    opening: BTreeMap<SafResource, Opening>,
    open: BTreeMap<SafResource, Open>,
    locks: BTreeMap<SafLockId, Lock>,
    locks_max: usize,
    /// What was called so last: a resource or a lock.
    last: u64,
    callbacks: VecDeque<SafCallback>,
    /// How that ended which a call waits for.
    ended: Option<Ended>,
    bell: Arc<Bell>,
}

struct Opening {
    name: Vec<u8>,
    request: Box<dyn LockRequest>,
    /// `None`: a call waits for it.
    invocation: Option<u64>,
}

struct Open {
    name: Vec<u8>,
    /// In NL.
    _kept: Box<dyn HeldLock>,
}

struct Lock {
    resource: SafResource,
    mode: SafMode,
    orphan: bool,
    state: State,
}

enum State {
    Asked {
        request: Box<dyn LockRequest>,
        /// `None`: a call waits for it.
        invocation: Option<u64>,
        /// When it is looked at whether an orphan is in the way. `None`: it does not wait.
        look: Option<Instant>,
    },
    Held(Box<dyn HeldLock>),
}

/// How a request of this handle ended.
type Ended = Result<SafStatus, SafError>;

impl SafLocks {
    /// `saLckInitialize`, for the resources of one lockspace.
    ///
    /// # Errors
    /// [`SafError::TryAgain`] if the lock manager has ended.
    pub fn initialize(manager: &dyn LockManager, space: &str) -> Result<Self, SafError> {
        check_names(space, b"-")?;
        Ok(Self {
            owner: Some(manager.owner()?),
            space: space.to_owned(),
            opening: BTreeMap::new(),
            open: BTreeMap::new(),
            locks: BTreeMap::new(),
            locks_max: SAF_LOCKS_MAX,
            last: 0,
            callbacks: VecDeque::new(),
            ended: None,
            bell: Arc::default(),
        })
    }

    /// `saLckOptionCheck`: orphan locks 1 and deadlock detection 2 are both there.
    #[must_use]
    pub const fn options(&self) -> u32 {
        3
    }

    /// `saLckLimitGet`: most locks of one handle.
    #[must_use]
    pub const fn locks_max(&self) -> usize {
        self.locks_max
    }

    /// `saLckResourceOpen`, with or without `SA_LCK_RESOURCE_CREATE`. Waits no longer than `timeout`.
    ///
    /// # Errors
    /// [`SafError::NotExist`] if nobody has it open and `create` is not set; [`SafError::Timeout`].
    pub fn open(
        &mut self,
        name: &[u8],
        create: bool,
        timeout: Option<Duration>,
    ) -> Result<SafResource, SafError> {
        let until = after(timeout);
        let resource = self.begin_open(name, create, None)?;
        loop {
            self.pump();
            if let Some(ended) = self.ended.take() {
                return ended.map(|_| resource);
            }
            if is_over(until) {
                self.opening.remove(&resource);
                return Err(SafError::Timeout);
            }
            self.wait(until);
        }
    }

    /// `saLckResourceOpenAsync`: whether it is open comes by [`SafLocks::dispatch`], with `invocation`. Without `create` this call asks the
    /// master whether the resource exists.
    ///
    /// # Errors
    /// As [`SafLocks::open`] as far as this call knows: then nothing comes.
    pub fn open_async(&mut self, name: &[u8], create: bool, invocation: u64) -> Result<(), SafError> {
        self.begin_open(name, create, Some(invocation)).map(drop)
    }

    fn begin_open(
        &mut self,
        name: &[u8],
        create: bool,
        invocation: Option<u64>,
    ) -> Result<SafResource, SafError> {
        let owner = self.owner()?;
        // Who has it open has it in NL; what is held otherwise may be a grant that nobody uses.
        let keeps = |seen: &SeenLock| seen.held == Some(Mode::Nl) || seen.orphan;
        if !create && !owner.look(&self.space, name, LOOK_EVERY)?.iter().any(keeps) {
            return Err(SafError::NotExist);
        }
        let request = owner.request(&self.space, name, Mode::Nl, Wait::Forever)?;
        let resource = SafResource(self.next());
        self.opening.insert(resource, Opening { name: name.to_owned(), request, invocation });
        self.bell.ring(resource.0);
        Ok(resource)
    }

    /// `saLckResourceClose`: its locks of this handle are released, and what they wait for is taken back.
    ///
    /// # Errors
    /// [`SafError::BadHandle`] if it is not open.
    pub fn close(&mut self, resource: SafResource) -> Result<(), SafError> {
        self.open.remove(&resource).ok_or(SafError::BadHandle)?;
        self.locks.retain(|_, lock| lock.resource != resource);
        Ok(())
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
    ) -> Result<(SafLockId, SafStatus), SafError> {
        let until = after(timeout);
        let lock = SafLockId(self.next());
        if let Some(status) = self.ask(lock, (resource, mode, flags), signal, None)? {
            return Ok((lock, status));
        }
        loop {
            self.pump();
            if let Some(ended) = self.ended.take() {
                return ended.map(|status| (lock, status));
            }
            if is_over(until) {
                self.locks.remove(&lock);
                return Err(SafError::Timeout);
            }
            self.wait(until);
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
    ) -> Result<SafLockId, SafError> {
        let lock = SafLockId(self.next());
        if let Some(status) = self.ask(lock, (resource, mode, flags), signal, Some(invocation))? {
            self.callbacks.push_back(SafCallback::Granted { invocation, lock, status: Ok(status) });
            self.bell.tell();
        }
        Ok(lock)
    }

    /// `saLckResourceUnlock`: releases a lock, or takes back what waits for it, of which nothing more is told then.
    ///
    /// # Errors
    /// [`SafError::NotExist`] if this handle has no such lock, or lost it.
    pub fn unlock(&mut self, lock: SafLockId) -> Result<(), SafError> {
        match self.locks.remove(&lock).ok_or(SafError::NotExist)?.state {
            State::Asked { .. } => Ok(()),
            State::Held(held) => held.release(None).map_err(|_lost| SafError::NotExist),
        }
    }

    /// `saLckResourceUnlockAsync`: what came of it comes by [`SafLocks::dispatch`], with `invocation`.
    pub fn unlock_async(&mut self, lock: SafLockId, invocation: u64) {
        let result = self.unlock(lock);
        self.callbacks.push_back(SafCallback::Unlocked { invocation, result });
        self.bell.tell();
    }

    /// `saLckLockPurge`: releases the orphans on a resource, wherever their programs ran. Returns how many.
    ///
    /// # Errors
    /// [`SafError::BadHandle`] if the resource is not open.
    pub fn purge(&mut self, resource: SafResource) -> Result<usize, SafError> {
        let name = &self.open.get(&resource).ok_or(SafError::BadHandle)?.name;
        Ok(self.owner()?.purge(&self.space, name, LOOK_EVERY)?)
    }

    /// The lock beneath, for its token and to look whether it is certainly held. `None` if this handle does not hold it.
    #[must_use]
    pub fn held(&self, lock: SafLockId) -> Option<&dyn HeldLock> {
        match &self.locks.get(&lock)?.state {
            State::Held(held) => Some(&**held),
            State::Asked { .. } => None,
        }
    }

    /// `saLckDispatch`: the next callback, if there is one.
    pub fn dispatch(&mut self) -> Option<SafCallback> {
        self.pump();
        self.callbacks.pop_front()
    }

    /// `saLckDispatch` with `SA_DISPATCH_BLOCKING`: waits no longer than `wait` for the next callback.
    pub fn dispatch_within(&mut self, wait: Duration) -> Option<SafCallback> {
        let until = after(Some(wait));
        loop {
            if let Some(callback) = self.dispatch() {
                return Some(callback);
            }
            if is_over(until) {
                return None;
            }
            self.wait(until);
        }
    }

    /// In the place of `saLckSelectionObjectGet`: calls `wake` when there may be something to dispatch. It must not block, nor call
    /// this handle.
    pub fn on_callback(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.bell.on_ring(Arc::new(wake));
    }

    /// How soon to call [`SafLocks::dispatch`] although nothing was told. `None`: nothing waits.
    #[must_use]
    pub fn next_look(&self) -> Option<Duration> {
        self.due().map(|due| due.saturating_duration_since(now()))
    }

    fn owner(&self) -> Result<&dyn LockOwner, SafError> {
        self.owner.as_deref().ok_or(SafError::BadHandle)
    }

    const fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Asks for a lock. A status: it is not asked for.
    fn ask(
        &mut self,
        lock: SafLockId,
        (resource, mode, flags): (SafResource, SafMode, SafFlags),
        signal: u64,
        invocation: Option<u64>,
    ) -> Result<Option<SafStatus>, SafError> {
        let name = &self.open.get(&resource).ok_or(SafError::BadHandle)?.name;
        if self.locks.len() >= self.locks_max {
            return Ok(Some(SafStatus::NoMore));
        }
        let exclusive = |lock: &Lock| lock.resource == resource && lock.mode == SafMode::Exclusive;
        if mode == SafMode::Exclusive && self.locks.values().any(exclusive) {
            return Ok(Some(SafStatus::DuplicateExclusive));
        }
        let wait = if flags.no_queue { Wait::No } else { Wait::Forever };
        let terms = LockTerms { wait, lasting: flags.orphan, signal };
        let request = match self.owner()?.request_with(&self.space, name, mode.mode(), terms) {
            Ok(request) => request,
            Err(error) => return status_of(error).map(Some),
        };
        let look = if flags.no_queue { None } else { after(Some(LOOK_AFTER)) };
        let state = State::Asked { request, invocation, look };
        self.locks.insert(lock, Lock { resource, mode, orphan: flags.orphan, state });
        self.bell.ring(lock.0);
        Ok(None)
    }

    /// Waits for news, until then or until something is to be looked at.
    fn wait(&self, until: Option<Instant>) {
        self.bell.wait(until.into_iter().chain(self.due()).min());
    }

    /// When the next look at what waits is due.
    fn due(&self) -> Option<Instant> {
        let look = |lock: &Lock| if let State::Asked { look, .. } = lock.state { look } else { None };
        self.locks.values().filter_map(look).min()
    }

    /// Sees to all that has news, and looks at what has waited long.
    fn pump(&mut self) {
        for news in self.bell.take() {
            self.see_opening(SafResource(news));
            self.see_lock(SafLockId(news));
        }
        if self.due().is_some_and(|due| due <= now()) {
            self.look();
        }
    }

    fn see_opening(&mut self, resource: SafResource) {
        let Some(opening) = self.opening.get_mut(&resource) else { return };
        let waker = Bell::waker(&self.bell, resource.0);
        let Poll::Ready(end) = Pin::new(&mut opening.request).poll(&mut Context::from_waker(&waker)) else {
            return;
        };
        let Some(Opening { name, invocation, .. }) = self.opening.remove(&resource) else { return };
        let opened =
            end.map(|kept| self.open.insert(resource, Open { name, _kept: kept })).map_err(SafError::from);
        match invocation {
            Some(invocation) => {
                let resource = opened.map(|_| resource);
                self.callbacks.push_back(SafCallback::Opened { invocation, resource });
            }
            None => self.ended = Some(opened.map(|_| SafStatus::Granted)),
        }
    }

    fn see_lock(&mut self, id: SafLockId) {
        let Some(lock) = self.locks.get_mut(&id) else { return };
        let State::Asked { request, .. } = &mut lock.state else {
            return self.see_held(id);
        };
        let waker = Bell::waker(&self.bell, id.0);
        let Poll::Ready(end) = Pin::new(request).poll(&mut Context::from_waker(&waker)) else { return };
        match end {
            Ok(held) => {
                let bell = Arc::clone(&self.bell);
                held.on_news(Arc::new(move || bell.ring(id.0)));
                self.end(id, Ok(SafStatus::Granted), Some(held));
            }
            Err(error) => self.end(id, status_of(error), None),
        }
    }

    /// A request ended, with a lock or without.
    fn end(&mut self, id: SafLockId, status: Ended, held: Option<Box<dyn HeldLock>>) {
        let Some(lock) = self.locks.get_mut(&id) else { return };
        let State::Asked { invocation, .. } = lock.state else { return };
        match held {
            Some(held) => {
                lock.state = State::Held(held);
                // It may have been wanted, or lost, before anybody could be told.
                self.bell.ring(id.0);
            }
            None => drop(self.locks.remove(&id)),
        }
        match invocation {
            Some(invocation) => {
                self.callbacks.push_back(SafCallback::Granted { invocation, lock: id, status });
            }
            None => self.ended = Some(status),
        }
    }

    /// Who wants a lock that is held, or that it is lost.
    fn see_held(&mut self, id: SafLockId) {
        let Some(Lock { mode, state: State::Held(held), .. }) = self.locks.get(&id) else { return };
        if let Some(wanted) = held.wanted_by(Duration::ZERO) {
            let (held, requested, signal) = (*mode, SafMode::of(wanted.mode), wanted.signal);
            self.callbacks.push_back(SafCallback::Waiter { signal, lock: id, held, requested });
        } else if held.check().is_err() {
            self.locks.remove(&id);
            self.callbacks.push_back(SafCallback::Lost { lock: id });
        }
    }

    /// Looks whether orphans are in the way of what waits, and has deadlocks found in one process. Each resource is asked for once.
    fn look(&mut self) {
        let Ok(owner) = self.owner() else { return };
        owner.see_to_it();
        let started = now();
        let is_due =
            |lock: &Lock| matches!(lock.state, State::Asked { look: Some(look), .. } if look <= started);
        let mut due: BTreeMap<SafResource, Vec<SafLockId>> = BTreeMap::new();
        for (id, lock) in self.locks.iter().filter(|(_, lock)| is_due(lock)) {
            due.entry(lock.resource).or_default().push(*id);
        }
        for (resource, waiting) in due {
            let orphans = self.orphans(resource);
            for id in waiting {
                let Some(lock) = self.locks.get_mut(&id) else { continue };
                if orphans.iter().any(|held| !held.is_compatible(lock.mode.mode())) {
                    self.end(id, Ok(SafStatus::Orphaned), None);
                } else if let State::Asked { look, .. } = &mut lock.state {
                    *look = after(Some(LOOK_EVERY));
                }
            }
        }
    }

    /// What orphans hold of a resource; nothing also if nobody can say at present.
    fn orphans(&self, resource: SafResource) -> Vec<Mode> {
        let (Some(open), Ok(owner)) = (self.open.get(&resource), self.owner()) else { return Vec::new() };
        let seen = owner.look(&self.space, &open.name, LOOK_EVERY).unwrap_or_default();
        seen.iter().filter(|seen| seen.orphan).filter_map(|seen| seen.held).collect()
    }
}

/// How a request ended that was not granted.
fn status_of(error: LockError) -> Ended {
    match error {
        LockError::WouldBlock => Ok(SafStatus::NotQueued),
        LockError::Deadlock => Ok(SafStatus::Deadlock),
        LockError::Refused(RequestError::Limit(_)) => Ok(SafStatus::NoMore),
        LockError::Refused(_) | LockError::TimedOut | LockError::Cancelled | LockError::Lost => {
            Err(error.into())
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "calls that wait on their thread measure how long")]
fn now() -> Instant {
    Instant::now()
}

fn after(wait: Option<Duration>) -> Option<Instant> {
    now().checked_add(wait?)
}

fn is_over(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until <= now())
}

impl Drop for SafLocks {
    fn drop(&mut self) {
        let Some(owner) = self.owner.take() else { return };
        // Given back in order, so that value blocks stay valid; what is an orphan from now on is the owner's.
        self.locks.retain(|_, lock| lock.orphan && matches!(lock.state, State::Held(_)));
        self.opening.clear();
        self.open.clear();
        owner.end();
    }
}

impl fmt::Debug for SafLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, locks) = (self.open.len(), self.locks.len());
        f.debug_struct("SafLocks")
            .field("space", &self.space)
            .field("open", &open)
            .field("locks", &locks)
            .finish()
    }
}

#[cfg(test)]
mod tests;
