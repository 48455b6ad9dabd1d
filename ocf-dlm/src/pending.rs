//! A lock that was asked for and is not there yet.

use crate::client::{Client, Handle, LockError};
use crate::flags::Flags;
use crate::guard::LockGuard;
use crate::identity::LockId;
use crate::inbox::{Notice, Sink};
use crate::lockspace::Lockspace;
use crate::manager::Wanted;
use crate::request::{Answer, Completion};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use parking_lot::{Condvar, Mutex};
use pils::Instant;
use std::sync::Arc;

/// Where one completion is put for one who waits for it.
#[derive(Clone)]
pub(crate) struct Slot(Arc<(Mutex<Taken>, Condvar)>);

#[derive(Default)]
struct Taken {
    completion: Option<Completion>,
    waker: Option<Waker>,
}

/// What is done under the lock of a [`Slot`], so that no completion is missed.
impl Taken {
    /// Who is to be woken, after the lock was let go.
    fn fill(&mut self, completion: Completion) -> Option<Waker> {
        self.completion = Some(completion);
        self.waker.take()
    }

    /// The completion; else the last who asked will be woken.
    fn poll(&mut self, waker: &Waker) -> Poll<Completion> {
        match self.completion.take() {
            Some(completion) => Poll::Ready(completion),
            None => {
                self.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }
}

/// Called with what another wants.
pub(crate) type Watch = Arc<dyn Fn(Wanted) + Send + Sync>;

impl Slot {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// What puts the completion in here, and gives other notices to `watch`.
    pub(crate) fn sink(&self, watch: Option<Watch>) -> Box<dyn Sink> {
        let slot = self.clone();
        Box::new(move |notice: Notice| match notice {
            Notice::Completed(completion) => slot.fill(completion),
            Notice::Blocking(blocking) => {
                if let Some(watch) = &watch {
                    watch(blocking.into());
                }
            }
        })
    }

    fn fill(&self, completion: Completion) {
        let (taken, arrived) = &*self.0;
        let waker = taken.lock().fill(completion);
        arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn take(&self) -> Option<Completion> {
        self.0.0.lock().completion.take()
    }

    /// Waits for the completion of `lock`; at `deadline`, sees to it that the wait ends.
    fn wait(&self, handle: &Handle, lock: LockId, deadline: Option<Instant>) -> Completion {
        let mut vigil = Vigil::new(deadline);
        let (taken, arrived) = &*self.0;
        loop {
            let mut locked = taken.lock();
            if let Some(completion) = locked.completion.take() {
                drop(locked);
                return completion;
            }
            if let Some(rest) = vigil.rest(&handle.space) {
                // Whether it was woken or waited long enough shows at the top.
                let _late = arrived.wait_for(&mut locked, rest).timed_out();
                continue;
            }
            drop(locked);
            vigil.act(&handle.space, lock);
        }
    }

    /// The completion, or a promise to wake.
    fn poll(&self, context: &Context<'_>) -> Poll<Completion> {
        self.0.0.lock().poll(context.waker())
    }
}

/// What somebody who waits sees to: that the wait ends in time, and that deadlocks do.
#[derive(Clone, Copy, Debug)]
struct Vigil {
    deadline: Option<Instant>,
    look: Option<Instant>,
}

impl Vigil {
    const fn new(deadline: Option<Instant>) -> Self {
        Self { deadline, look: None }
    }

    /// For how long there is nothing to do; `None`: act.
    fn rest(&mut self, space: &Lockspace) -> Option<Duration> {
        let now = space.now();
        let look = *self.look.get_or_insert_with(|| now + space.config().deadlock_after);
        let until = self.deadline.map_or(look, |due| due.min(look));
        (now < until).then(|| until.since(now))
    }

    fn act(&mut self, space: &Lockspace, lock: LockId) {
        let now = space.now();
        if self.deadline.is_some_and(|due| due <= now) {
            space.change(lock.shard(), |shard| shard.handle_timeout(now));
            // If it is not over now, the master of the resource decides.
            self.deadline = None;
        } else {
            space.resolve_deadlocks();
            self.look = None;
        }
    }
}

/// An operation under way, or its end, for whoever has the right to it.
pub(crate) struct Awaited {
    under: Under,
    vigil: Vigil,
}

enum Under {
    Done(Completion),
    Waits(LockId, Slot),
}

impl Awaited {
    /// `None` if it waits, and not in a slot.
    pub(crate) fn new(answer: Answer, slot: Option<Slot>, deadline: Option<Instant>) -> Option<Self> {
        let under = match (answer, slot) {
            (Answer::Done(completion), _) => Under::Done(completion),
            (Answer::Pending(lock), Some(slot)) => Under::Waits(lock, slot),
            (Answer::Pending(_), None) => return None,
        };
        Some(Self { under, vigil: Vigil::new(deadline) })
    }

    pub(crate) const fn lock(&self) -> LockId {
        match &self.under {
            Under::Done(completion) => completion.lock,
            Under::Waits(lock, _) => *lock,
        }
    }

    /// True if it had to wait, so that its end went, or goes, into a slot.
    pub(crate) const fn has_waited(&self) -> bool {
        matches!(self.under, Under::Waits(..))
    }

    fn try_take(&self) -> Option<Completion> {
        match &self.under {
            Under::Done(completion) => Some(*completion),
            Under::Waits(_, slot) => slot.take(),
        }
    }

    /// Waits for the end.
    pub(crate) fn wait(&self, handle: &Handle) -> Completion {
        match &self.under {
            Under::Done(completion) => *completion,
            Under::Waits(lock, slot) => slot.wait(handle, *lock, self.vigil.deadline),
        }
    }

    /// Waits for the end no longer than `wait`.
    pub(crate) fn wait_for(&self, space: &Lockspace, wait: Duration) -> Option<Completion> {
        let end = space.after(wait);
        if let Under::Waits(_, slot) = &self.under {
            let (taken, arrived) = &*slot.0;
            let mut locked = taken.lock();
            while locked.completion.is_none() {
                let now = space.now();
                if now >= end {
                    return None;
                }
                let _late = arrived.wait_for(&mut locked, end.since(now)).timed_out();
            }
        }
        self.try_take()
    }

    /// The end, or a promise to wake.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Completion> {
        match &self.under {
            Under::Done(completion) => Poll::Ready(*completion),
            Under::Waits(_, slot) => slot.poll(context),
        }
    }

    /// For how long who awaits it has nothing else to do: at most until [`Awaited::see_to_it`] is due. `None`: it did not wait.
    #[cfg(feature = "tokio")]
    pub(crate) fn rest(&mut self, space: &Lockspace) -> Option<Duration> {
        self.has_waited().then(|| self.vigil.rest(space).unwrap_or_default())
    }

    /// Ends the wait if it is time, or looks for deadlocks.
    #[cfg(feature = "tokio")]
    pub(crate) fn see_to_it(&mut self, space: &Lockspace) {
        if self.vigil.rest(space).is_none() {
            self.vigil.act(space, self.lock());
        }
    }
}

/// A request under way: wait for it, look at it, or await it on any executor.
///
/// Dropped before it was taken, the request is cancelled, or the lock released. A deadline needs someone who calls
/// [`Lockspace::handle_timeout`](crate::Lockspace::handle_timeout) or waits: an executor's own time-out does as well, and so does the
/// module `tokio` (feature `tokio`).
#[must_use = "a request that is dropped is cancelled"]
pub struct Pending {
    client: Client,
    /// `None` once it was taken.
    awaited: Option<Awaited>,
    lease: u64,
}

impl Pending {
    pub(crate) const fn new(client: Client, awaited: Option<Awaited>, lease: u64) -> Self {
        Self { client, awaited, lease }
    }

    /// The lock, for queries. `None` once it was taken.
    #[must_use]
    pub fn lock(&self) -> Option<LockId> {
        self.awaited.as_ref().map(Awaited::lock)
    }

    /// Takes the outcome if there is one.
    pub fn try_take(&mut self) -> Option<Result<LockGuard, LockError>> {
        let completion = self.awaited.as_ref()?.try_take()?;
        Some(self.finish(&completion))
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// As [`Client::lock`]; [`LockError::Cancelled`] if it was taken before.
    pub fn wait(mut self) -> Result<LockGuard, LockError> {
        let completion = self.awaited.as_ref().ok_or(LockError::Cancelled)?.wait(&self.client.0);
        self.finish(&completion)
    }

    /// Waits for the outcome no longer than `wait`; the request goes on if it is not over. `None`: it is not.
    pub fn wait_for(&mut self, wait: Duration) -> Option<Result<LockGuard, LockError>> {
        let completion = self.awaited.as_ref()?.wait_for(&self.client.0.space, wait)?;
        Some(self.finish(&completion))
    }

    fn finish(&mut self, completion: &Completion) -> Result<LockGuard, LockError> {
        self.awaited = None;
        self.client.0.member.inbox.unroute(completion.lock);
        self.client.guard(completion, self.lease)
    }
}

impl Future for Pending {
    type Output = Result<LockGuard, LockError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(awaited) = &self.awaited else { return Poll::Ready(Err(LockError::Cancelled)) };
        let Poll::Ready(completion) = awaited.poll(context) else { return Poll::Pending };
        Poll::Ready(self.finish(&completion))
    }
}

#[cfg(feature = "tokio")]
impl crate::tokio::Attended for Pending {
    fn rest(&mut self) -> Option<Duration> {
        self.awaited.as_mut()?.rest(&self.client.0.space)
    }

    fn see_to_it(&mut self) {
        if let Some(awaited) = &mut self.awaited {
            awaited.see_to_it(&self.client.0.space);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(lock) = self.lock() else { return };
        // The slot takes the end of it, and nobody looks: without a sink it would lie among the client's notices.
        self.client.0.forget(lock, Flags::FORCEUNLOCK);
        self.client.0.member.inbox.unroute(lock);
    }
}

impl core::fmt::Debug for Pending {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pending({:?})", self.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Operation;
    use crate::{ClientId, FencingToken, Mode, Owner, Remarks, Status};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// A task that sleeps until it is woken.
    struct Sleeper(Mutex<bool>, Condvar);

    impl Sleeper {
        fn new() -> std::sync::Arc<Self> {
            std::sync::Arc::new(Self(Mutex::new(false), Condvar::new()))
        }

        fn sleep(&self) {
            let mut woken = self.0.lock().unwrap();
            while !*woken {
                woken = self.1.wait(woken).unwrap();
            }
        }
    }

    impl std::task::Wake for Sleeper {
        fn wake(self: std::sync::Arc<Self>) {
            *self.0.lock().unwrap() = true;
            self.1.notify_all();
        }
    }

    fn completion() -> Completion {
        Completion {
            lock: LockId::from_raw(1),
            owner: Owner::local(ClientId::new(1), 0),
            operation: Operation::Request,
            status: Status::Granted,
            held: Some(Mode::Ex),
            remarks: Remarks::default(),
            token: FencingToken::default(),
            value: None,
        }
    }

    #[test]
    fn who_awaits_a_lock_is_woken_for_it_also_by_the_waker_that_it_gave_last() {
        // Every order in which the threads can run.
        loom::model(|| {
            let taken = Arc::new(Mutex::new(Taken::default()));
            let other = Arc::clone(&taken);
            let filler = thread::spawn(move || {
                let waker = other.lock().unwrap().fill(completion());
                if let Some(waker) = waker {
                    waker.wake();
                }
            });
            // Moved from one task to another, as by `select`.
            let (first, second) = (Sleeper::new(), Sleeper::new());
            let poll = |sleeper: &std::sync::Arc<Sleeper>| {
                taken.lock().unwrap().poll(&std::sync::Arc::clone(sleeper).into()).is_ready()
            };
            if !poll(&first) && !poll(&second) {
                second.sleep();
                assert!(poll(&second), "it is woken when it is there");
            }
            filler.join().unwrap();
        });
    }
}
