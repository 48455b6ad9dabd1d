//! Conversions that are not waited for: looked at later, awaited, or told to a callback or channel.

use super::LockGuard;
use crate::client::{Ask, LockError};
use crate::identity::LockId;
use crate::inbox::Notice;
use crate::mode::Mode;
use crate::pending::Awaited;
use crate::request::{Answer, Completion};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use parking_lot::Mutex;
use std::sync::{Arc, mpsc};

/// A guard that comes back from a conversion, and how that ended. `Ok`: in the mode that was asked for. An error: in the mode
/// that it had before, which [`LockGuard::mode`] says in any case; only after [`LockError::Lost`] nothing is held for certain, and
/// the guard refuses.
pub type Converted = (LockGuard, Result<(), LockError>);

impl LockGuard {
    /// Asks for another mode and does not wait. The guard comes back with the end of it: nobody has it meanwhile, so nobody takes
    /// the lock to be in a mode that it is not in. What is refused has ended at once.
    ///
    /// `ask` as for a new lock, without a parent. The block that is written goes by the table of directions.
    pub fn convert_later(self, mode: Mode, ask: &Ask<'_>) -> PendingConversion {
        let begun = self.begin(mode, ask);
        PendingConversion { guard: Some(self), begun }
    }

    /// As [`LockGuard::convert_later`]; `then` is called with the end, once: by this call if it need not wait, else by the thread that
    /// makes way for it. Nothing of the lock manager is locked at that time.
    pub fn convert_then(self, mode: Mode, ask: &Ask<'_>, then: impl FnOnce(Converted) + Send + 'static) {
        if let Err(refused) = self.check_conversion(ask) {
            return then((self, Err(refused)));
        }
        let (client, lock, watch) = (self.client.clone(), self.id, self.watch.clone());
        // The call or the sink takes it, whichever learns the end.
        let parked = Arc::new(Mutex::new(Some((self, then))));
        let terms = client.terms(mode, ask);
        let answer = client.0.space.convert(lock, &terms, |lock| {
            let parked = Arc::clone(&parked);
            let sink = move |notice: Notice| match notice {
                Notice::Completed(completion) => {
                    let taken = parked.lock().take();
                    if let Some((mut guard, then)) = taken {
                        let end = guard.conclude(&completion, true);
                        then((guard, end));
                    }
                }
                Notice::Blocking(blocking) => {
                    if let Some(watch) = &watch {
                        watch(blocking.into());
                    }
                }
            };
            client.0.member.inbox.route(lock, Box::new(sink));
        });
        let end = match answer {
            Ok(Answer::Pending(_)) => return,
            Ok(Answer::Done(completion)) => Ok(completion),
            Err(refused) => Err(refused),
        };
        let taken = parked.lock().take();
        if let Some((mut guard, then)) = taken {
            let end = end.map_err(LockError::from).and_then(|completion| guard.conclude(&completion, false));
            then((guard, end));
        }
    }

    /// As [`LockGuard::convert_later`]; the end comes through the channel, once. If the receiver is gone by then, the lock is released.
    #[must_use = "a guard that is not received is dropped"]
    pub fn convert_channel(self, mode: Mode, ask: &Ask<'_>) -> mpsc::Receiver<Converted> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.convert_then(mode, ask, move |end| {
            // What cannot be sent is dropped, and so released.
            drop(sender.try_send(end));
        });
        receiver
    }
}

/// A conversion under way, with the guard of the lock: wait for it, look at it, or await it on any executor.
///
/// [`PendingConversion::cancel`] has it end; the guard comes back in the mode that it had. Dropped before that, it is cancelled and
/// the lock is released, as for any guard that is dropped. Its deadline needs what that of a [`Pending`](crate::Pending) needs.
#[must_use = "the guard of a conversion that is dropped is dropped with it"]
pub struct PendingConversion {
    /// `None` once it was taken.
    guard: Option<LockGuard>,
    begun: Result<Awaited, LockError>,
}

impl PendingConversion {
    /// The lock, for queries. `None` once its guard was taken.
    #[must_use]
    pub fn lock(&self) -> Option<LockId> {
        self.guard.as_ref().map(LockGuard::id)
    }

    /// Has the conversion end, if it waits: as [`LockError::Cancelled`], or as granted if that came first. The guard is taken as
    /// before: at once, in one process.
    pub fn cancel(&mut self) {
        if let (Some(guard), Ok(_)) = (&self.guard, &self.begun) {
            guard.cancel_conversion();
        }
    }

    /// Takes the end if there is one.
    pub fn try_take(&mut self) -> Option<Converted> {
        self.wait_for(Duration::ZERO)
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it was taken before.
    #[must_use = "a guard that is dropped releases its lock"]
    pub fn wait(mut self) -> Converted {
        let guard = self.guard.take().expect("the end of a conversion is taken once");
        let end =
            self.begun.as_ref().map(|awaited| awaited.wait(&guard.client.0)).map_err(|refused| *refused);
        self.finish(guard, end)
    }

    /// Waits for the end no longer than `wait`; the conversion goes on if it is not over. `None`: it is not, or was taken before.
    pub fn wait_for(&mut self, wait: Duration) -> Option<Converted> {
        let space = &self.guard.as_ref()?.client.0.space;
        let end = match &self.begun {
            Ok(awaited) => Ok(awaited.wait_for(space, wait)?),
            Err(refused) => Err(*refused),
        };
        let guard = self.guard.take()?;
        Some(self.finish(guard, end))
    }

    fn finish(&self, mut guard: LockGuard, end: Result<Completion, LockError>) -> Converted {
        let waited = self.begun.as_ref().is_ok_and(Awaited::has_waited);
        let end = end.and_then(|completion| guard.conclude(&completion, waited));
        (guard, end)
    }
}

impl Future for PendingConversion {
    type Output = Converted;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let end = match &self.begun {
            Ok(awaited) => match awaited.poll(context) {
                Poll::Ready(completion) => Ok(completion),
                Poll::Pending => return Poll::Pending,
            },
            Err(refused) => Err(*refused),
        };
        let guard = self.guard.take().expect("the end of a conversion is taken once");
        Poll::Ready(self.finish(guard, end))
    }
}

#[cfg(feature = "tokio")]
impl crate::tokio::Attended for PendingConversion {
    fn rest(&mut self) -> Option<Duration> {
        let space = &self.guard.as_ref()?.client.0.space;
        self.begun.as_mut().ok()?.rest(space)
    }

    fn see_to_it(&mut self) {
        if let (Some(guard), Ok(awaited)) = (&self.guard, &mut self.begun) {
            awaited.see_to_it(&guard.client.0.space);
        }
    }
}

impl Drop for PendingConversion {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        let lock = guard.id;
        // A lock that converts is not released; the slot takes the end of it, and nobody looks.
        if self.begun.as_ref().is_ok_and(Awaited::has_waited) {
            guard.cancel_conversion();
        }
        let client = guard.client.clone();
        drop(guard);
        client.0.member.inbox.unroute(lock);
    }
}

impl core::fmt::Debug for PendingConversion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PendingConversion({:?})", self.guard)
    }
}
