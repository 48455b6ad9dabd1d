//! The owner of locks in a program: calls that wait, calls that do not, and the raw calls underneath.

use crate::flags::Flags;
use crate::guard::LockGuard;
use crate::identity::{ClientId, LockId, NodeSlot, Owner};
use crate::inbox::Notice;
use crate::lockspace::{Lockspace, Member};
use crate::mode::Mode;
use crate::pending::{Awaited, Pending, Slot};
use crate::request::{Answer, Completion, Request, Terms};
use crate::status::{RequestError, Status};
use crate::value::ValueBlock;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use parking_lot::Mutex;
use std::sync::{Arc, mpsc};

/// An owner of locks. Clones are the same owner; when the last one is dropped, its locks are released.
///
/// Guards keep their client alive.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Handle>);

pub(crate) struct Handle {
    pub(crate) space: Lockspace,
    pub(crate) id: ClientId,
    pub(crate) member: Arc<Member>,
    ended: AtomicBool,
}

/// Why a lock is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The call was refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] RequestError),
    /// Others have it, and it should not be waited for.
    #[error("others hold it")]
    WouldBlock,
    /// It was waited for as long as was allowed.
    #[error("others held it all the time")]
    TimedOut,
    /// To wait would have been a deadlock, or was one.
    #[error("waiting would be a deadlock")]
    Deadlock,
    /// The request was cancelled, or its lock released by force.
    #[error("the request was cancelled")]
    Cancelled,
    /// This node may not act, or did not know in time whether it might.
    #[error("this node lost its place in the primary partition")]
    Lost,
}

impl LockError {
    pub(crate) const fn of(status: Status) -> Option<Self> {
        match status {
            Status::Granted => None,
            Status::NotQueued => Some(Self::WouldBlock),
            Status::Deadlock => Some(Self::Deadlock),
            Status::TimedOut => Some(Self::TimedOut),
            Status::Cancelled | Status::Unlocked => Some(Self::Cancelled),
            Status::Lost => Some(Self::Lost),
        }
    }
}

/// How a lock is asked for, beside its mode. The default: wait as long as it takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Flags beside those that the call sets.
    pub flags: Flags,
    /// A lock of the same client, to be above it. Not for conversions.
    pub parent: Option<LockId>,
    /// Do not wait at all, or no longer than this.
    pub wait: Wait,
    /// The transaction that it counts for in deadlock searches.
    pub transaction: Option<u64>,
    /// Held for the time of the call; for requests with value blocks.
    pub value: Option<&'a ValueBlock>,
    /// What queries show of a new lock ([`Owner::tag`](crate::Owner)).
    pub tag: u64,
}

/// How long a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Wait {
    /// As long as it takes.
    #[default]
    Forever,
    /// No longer than this.
    For(Duration),
    /// Not at all.
    No,
}

impl Client {
    pub(crate) fn new(space: Lockspace, id: ClientId, member: Arc<Member>) -> Self {
        Self(Arc::new(Handle { space, id, member, ended: AtomicBool::new(false) }))
    }

    /// Its id: unique in the lockspace on this node.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.0.id
    }

    /// Its lockspace.
    #[must_use]
    pub fn lockspace(&self) -> &Lockspace {
        &self.0.space
    }

    /// Locks the resource `name` in `mode`, waiting as long as it takes.
    ///
    /// # Errors
    /// If it cannot be asked for, or the wait ends otherwise.
    pub fn lock(&self, name: impl AsRef<[u8]>, mode: Mode) -> Result<LockGuard, LockError> {
        self.lock_with(name, mode, &Ask::default())
    }

    /// Locks the resource `name` in `mode` if that is possible now.
    ///
    /// # Errors
    /// [`LockError::WouldBlock`] if it is not.
    pub fn try_lock(&self, name: impl AsRef<[u8]>, mode: Mode) -> Result<LockGuard, LockError> {
        self.lock_with(name, mode, &Ask { wait: Wait::No, ..Ask::default() })
    }

    /// Locks the resource `name` in `mode`, waiting no longer than `wait`.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] if others had it all the time.
    pub fn lock_timeout(
        &self,
        name: impl AsRef<[u8]>,
        mode: Mode,
        wait: Duration,
    ) -> Result<LockGuard, LockError> {
        self.lock_with(name, mode, &Ask { wait: Wait::For(wait), ..Ask::default() })
    }

    /// Locks the resource `name` in `mode` as `ask` says.
    ///
    /// # Errors
    /// If it cannot be asked for, or the wait ends otherwise.
    pub fn lock_with(
        &self,
        name: impl AsRef<[u8]>,
        mode: Mode,
        ask: &Ask<'_>,
    ) -> Result<LockGuard, LockError> {
        let lease = self.0.space.lease();
        let awaited = self.ask(name.as_ref(), mode, ask)?.ok_or(LockError::Lost)?;
        let completion = awaited.wait(&self.0);
        if awaited.has_waited() {
            self.0.member.inbox.unroute(completion.lock);
        }
        self.guard(&completion, lease)
    }

    /// Asks for a lock and does not wait: the answer is taken from what is returned, by waiting, by looking, or as a future.
    /// Dropping it cancels the request, or releases the lock.
    ///
    /// # Errors
    /// If it cannot be asked for.
    pub fn lock_later(
        &self,
        name: impl AsRef<[u8]>,
        mode: Mode,
        ask: &Ask<'_>,
    ) -> Result<Pending, LockError> {
        let lease = self.0.space.lease();
        let awaited = self.ask(name.as_ref(), mode, ask)?;
        Ok(Pending::new(self.clone(), awaited, lease))
    }

    /// Asks for a lock; `then` is called with it, once: by this call if it need not wait, else by the thread that makes way
    /// for it. Nothing of the lock manager is locked at that time.
    ///
    /// # Errors
    /// If it cannot be asked for; then `then` is not called.
    pub fn lock_then(
        &self,
        name: impl AsRef<[u8]>,
        mode: Mode,
        ask: &Ask<'_>,
        then: impl FnOnce(Result<LockGuard, LockError>) + Send + 'static,
    ) -> Result<(), LockError> {
        let lease = self.0.space.lease();
        // The call or the sink takes it, whichever learns the outcome.
        let then = Arc::new(Mutex::new(Some(then)));
        let terms = self.terms(mode, ask);
        let owner = Owner::local(self.0.id, ask.tag);
        let request = Request { owner, parent: ask.parent, name: name.as_ref(), terms };
        let answer = self.request(&request, |lock| {
            let (client, then) = (self.clone(), Arc::clone(&then));
            let sink = move |notice: Notice| {
                let Notice::Completed(completion) = notice else { return };
                client.0.member.inbox.unroute(completion.lock);
                let then = then.lock().take();
                if let Some(then) = then {
                    then(client.guard(&completion, lease));
                }
            };
            self.0.member.inbox.route(lock, Box::new(sink));
        })?;
        if let Answer::Done(completion) = answer {
            let then = then.lock().take();
            if let Some(then) = then {
                then(self.guard(&completion, lease));
            }
        }
        Ok(())
    }

    /// Asks for a lock; the outcome comes through the channel, once. If the receiver is gone by then, the lock is released.
    ///
    /// # Errors
    /// If it cannot be asked for.
    pub fn lock_channel(
        &self,
        name: impl AsRef<[u8]>,
        mode: Mode,
        ask: &Ask<'_>,
    ) -> Result<mpsc::Receiver<Result<LockGuard, LockError>>, LockError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.lock_then(name, mode, ask, move |outcome| {
            // What cannot be sent is dropped, and so released.
            drop(sender.try_send(outcome));
        })?;
        Ok(receiver)
    }

    pub(crate) fn terms<'a>(&self, mode: Mode, ask: &Ask<'a>) -> Terms<'a> {
        let mut terms = Terms::new(mode).flags(ask.flags.with(Flags::SYNCSTS));
        terms.transaction = ask.transaction;
        terms.value = ask.value;
        match ask.wait {
            Wait::Forever => terms,
            Wait::For(wait) => terms.until(self.0.space.after(wait)),
            Wait::No => terms.flags(Flags::NOQUEUE),
        }
    }

    fn ask(&self, name: &[u8], mode: Mode, ask: &Ask<'_>) -> Result<Option<Awaited>, LockError> {
        let terms = self.terms(mode, ask);
        let request = Request { owner: Owner::local(self.0.id, ask.tag), parent: ask.parent, name, terms };
        let mut slot = None;
        let answer = self.request(&request, |lock| {
            self.0.member.inbox.route(lock, slot.insert(Slot::new()).sink(None));
        })?;
        Ok(Awaited::new(answer, slot, terms.deadline))
    }

    /// Asks for a lock of this client, unless it has ended.
    fn request(&self, request: &Request<'_>, pending: impl FnOnce(LockId)) -> Result<Answer, RequestError> {
        let answer = self.0.space.request(request, pending)?;
        if self.0.has_ended() {
            // Its end may have been before this, and has not seen the lock then.
            let (Answer::Done(Completion { lock, .. }) | Answer::Pending(lock)) = answer;
            self.0.release(lock, Flags::FORCEUNLOCK);
            self.0.member.inbox.unroute(lock);
            return Err(RequestError::NotPrimary);
        }
        Ok(answer)
    }

    /// Ends this client, with all its clones: what it waits for ends as [`Status::Lost`], its locks are released, and value blocks that
    /// it could write are invalid. Those with PERSISTENT become orphans. Its guards refuse from now on. O(all locks).
    pub fn end(&self) {
        let Handle { space, id, .. } = &*self.0;
        self.0.ended.store(true, Ordering::Release);
        space.end_client(*id);
    }

    /// The guard of a granted lock.
    pub(crate) fn guard(&self, completion: &Completion, lease: u64) -> Result<LockGuard, LockError> {
        match LockError::of(completion.status) {
            Some(error) => Err(error),
            None => Ok(LockGuard::new(self.clone(), completion, lease)),
        }
    }

    /// The raw call for a new lock ($ENQ). Its completion comes through [`Client::poll`], unless SYNCSTS is set and it
    /// need not wait. `tag` comes back in every notice.
    ///
    /// # Errors
    /// If it cannot be asked for, or too many notices are not taken yet (`notices_max`).
    pub fn enq(
        &self,
        name: &[u8],
        parent: Option<LockId>,
        tag: u64,
        terms: &Terms<'_>,
    ) -> Result<Answer, RequestError> {
        self.check_room()?;
        let request = Request { owner: Owner::local(self.0.id, tag), parent, name, terms: *terms };
        self.request(&request, |_| ())
    }

    /// The raw call for a conversion ($ENQ with CONVERT).
    ///
    /// # Errors
    /// If the lock is not this client's, or cannot be converted so.
    pub fn enq_convert(&self, lock: LockId, terms: &Terms<'_>) -> Result<Answer, RequestError> {
        self.check_room()?;
        self.check_owner(lock)?;
        if !self.0.space.is_primary() {
            return Err(RequestError::NotPrimary);
        }
        self.0.space.convert(lock, terms, |_| ())
    }

    /// The raw call for a release ($DEQ).
    ///
    /// # Errors
    /// If the lock is not this client's, waits without FORCEUNLOCK, or has sublocks.
    pub fn deq(&self, lock: LockId, flags: Flags, value: Option<&ValueBlock>) -> Result<(), RequestError> {
        self.check_owner(lock)?;
        self.0
            .space
            .change(lock.shard(), |shard| shard.release(lock, flags, value))
            .ok_or(RequestError::NoSuchLock)?
    }

    /// The raw call for all sublocks of a lock, or all locks of the client ($DEQ with DEQALL). Returns how many went.
    ///
    /// # Errors
    /// If `below` is not this client's.
    pub fn deq_all(&self, below: Option<LockId>) -> Result<usize, RequestError> {
        let Handle { space, id, .. } = &*self.0;
        let release = |shard: &mut crate::Shard| shard.release_all(NodeSlot::LOCAL, *id, below);
        if let Some(lock) = below {
            self.check_owner(lock)?;
            return Ok(space.change(lock.shard(), release).unwrap_or(0));
        }
        Ok((0..space.shards()).filter_map(|shard| space.change(shard, release)).sum())
    }

    /// The raw call that ends a wait ($DEQ with CANCEL).
    ///
    /// # Errors
    /// If the lock is not this client's, or nothing waits.
    pub fn cancel(&self, lock: LockId) -> Result<(), RequestError> {
        self.check_owner(lock)?;
        self.0.space.change(lock.shard(), |shard| shard.cancel(lock)).ok_or(RequestError::NoSuchLock)?
    }

    /// The next notice of a lock without a guard or callback.
    #[must_use]
    pub fn poll(&self) -> Option<Notice> {
        self.0.member.inbox.next()
    }

    /// Waits for the next notice, no longer than `wait`. Ends waits of the lockspace that are due meanwhile.
    #[must_use]
    pub fn poll_timeout(&self, wait: Duration) -> Option<Notice> {
        let space = &self.0.space;
        let end = space.after(wait);
        loop {
            if let Some(notice) = self.poll() {
                return Some(notice);
            }
            let now = space.now();
            if now >= end {
                return None;
            }
            let until = space.poll_timeout().map_or(end, |due| due.min(end));
            if until <= now {
                space.handle_timeout(now);
                continue;
            }
            let mut gate = self.0.member.gate.lock();
            if self.0.member.inbox.is_empty() {
                // Whether it was woken or waited long enough shows at the top.
                let _late = self.0.member.arrived.wait_for(&mut gate, until.since(now)).timed_out();
            }
        }
    }

    /// Calls `wake` whenever a notice arrives while none waits: once for any number of them. It must not block.
    pub fn on_notice(&self, wake: impl Fn() + Send + Sync + 'static) {
        *self.0.member.waker.lock() = Some(Arc::new(wake));
    }

    fn check_room(&self) -> Result<(), RequestError> {
        let limit = self.0.space.config().notices_max;
        if self.0.member.inbox.len() >= limit { Err(RequestError::Limit("notices_max")) } else { Ok(()) }
    }

    fn check_owner(&self, lock: LockId) -> Result<(), RequestError> {
        let owner =
            self.0.space.look(lock.shard(), |shard| shard.owner(lock)).ok_or(RequestError::NoSuchLock)??;
        let ours = owner.node.is_local() && owner.client == self.0.id;
        if ours { Ok(()) } else { Err(RequestError::NotOwner) }
    }
}

impl Handle {
    /// Releases a lock that nobody has a handle of any more. If it is gone already, or has sublocks, it is left to the end
    /// of the client.
    pub(crate) fn forget(&self, lock: LockId, flags: Flags) {
        // What an ended client has left is an orphan, or gone.
        if !self.has_ended() {
            self.release(lock, flags);
        }
    }

    /// True once [`Client::end`] was called.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn release(&self, lock: LockId, flags: Flags) {
        self.space.change(lock.shard(), |shard| shard.release(lock, flags, None).is_ok());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.space.drop_client(self.id);
    }
}

impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Client({:?})", self.0.id)
    }
}
