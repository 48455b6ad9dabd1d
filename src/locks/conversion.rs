//! Conversions that are not waited for.

use super::{LockGuard, SubLock};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use ocf_dlm::cluster::Completed;
use ocf_dlm::{LockError, Mode, ValueBlock, Wait};
use std::sync::Arc;

/// A conversion under way, with the guard of the lock: wait for it, or await it on any executor.
///
/// However it ends, the guard comes back: in the mode that was asked for, or with an error and the mode that it had. After
/// [`LockError::Lost`] it refuses. Dropping the conversion cancels it and releases the lock, as for any guard that is dropped; who
/// wants to keep the lock calls [`PendingConversion::cancel`] and takes the guard.
#[must_use = "the guard of a conversion that is dropped is dropped with it"]
#[derive(Debug)]
pub struct PendingConversion {
    /// `None` once it was taken.
    pub(super) guard: Option<LockGuard>,
    /// It was not begun, and why.
    pub(super) refused: Option<LockError>,
    /// The value block that it writes when it is granted.
    pub(super) written: Option<ValueBlock>,
}

impl PendingConversion {
    /// Asks for the end of it, and does not wait: it ends as [`LockError::Cancelled`], or as granted if the master of the lock
    /// granted it first.
    pub fn cancel(&mut self) {
        if let (Some(guard), None) = (&self.guard, self.refused) {
            guard.locks.backend.cancel(guard.lock);
        }
    }

    /// Calls `wake` when it has ended, or has news of the lock; at once if it has ended. As for [`LockGuard::on_news`], whose place it
    /// takes, `wake` must not block, nor call the node or a guard: let it wake, by a channel say, who calls
    /// [`PendingConversion::try_take`].
    pub fn on_end(&self, wake: impl Fn() + Send + Sync + 'static) {
        let wake = Arc::new(wake);
        match (&self.guard, self.refused) {
            (Some(guard), None) => guard.slot.on_end(wake),
            _ => wake(),
        }
    }

    /// Takes the end if there is one. `None` also if it was taken before.
    pub fn try_take(&mut self) -> Option<(LockGuard, Result<(), LockError>)> {
        self.guard.as_ref()?;
        match Pin::new(self).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it was taken before.
    #[must_use = "a guard that is dropped releases its lock"]
    pub fn wait(mut self) -> (LockGuard, Result<(), LockError>) {
        let guard = self.guard.take().expect("the end of a conversion is taken once");
        // Only the master knows whether it was granted, so it has no end of its own.
        let ended = self.refused.map_or_else(|| guard.slot.ended(None).unwrap_or(Err(LockError::Lost)), Err);
        self.finish(guard, ended)
    }

    fn finish(
        &self,
        mut guard: LockGuard,
        ended: Result<Completed, LockError>,
    ) -> (LockGuard, Result<(), LockError>) {
        let end = ended.and_then(|completed| guard.complete(&completed));
        if end.is_ok() {
            guard.value = self.written.or(guard.value);
        }
        (guard, end)
    }
}

impl Future for PendingConversion {
    type Output = (LockGuard, Result<(), LockError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let guard = self.guard.as_ref().expect("the end of a conversion is taken once");
        let ended = match self.refused {
            Some(refused) => Err(refused),
            None => match guard.slot.poll(context) {
                Poll::Ready(ended) => ended,
                Poll::Pending => return Poll::Pending,
            },
        };
        let guard = self.guard.take().expect("it was there");
        Poll::Ready(self.finish(guard, ended))
    }
}

/// As [`PendingConversion`], of a lock below another, which stays borrowed meanwhile.
#[must_use = "the guard of a conversion that is dropped is dropped with it"]
#[derive(Debug)]
pub struct PendingSubConversion<'a> {
    conversion: PendingConversion,
    above: &'a LockGuard,
}

impl<'a> SubLock<'a> {
    /// As [`LockGuard::convert_later`].
    pub fn convert_later(
        self,
        mode: Mode,
        value: Option<ValueBlock>,
        wait: Wait,
    ) -> PendingSubConversion<'a> {
        let Self { guard, above } = self;
        PendingSubConversion { conversion: guard.convert_later(mode, value, wait), above }
    }
}

impl<'a> PendingSubConversion<'a> {
    /// As [`PendingConversion::cancel`].
    pub fn cancel(&mut self) {
        self.conversion.cancel();
    }

    /// As [`PendingConversion::on_end`].
    pub fn on_end(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.conversion.on_end(wake);
    }

    /// As [`PendingConversion::try_take`].
    pub fn try_take(&mut self) -> Option<(SubLock<'a>, Result<(), LockError>)> {
        let (guard, end) = self.conversion.try_take()?;
        Some((SubLock { guard, above: self.above }, end))
    }

    /// As [`PendingConversion::wait`].
    ///
    /// # Panics
    /// If it was taken before.
    #[must_use = "a guard that is dropped releases its lock"]
    pub fn wait(self) -> (SubLock<'a>, Result<(), LockError>) {
        let (guard, end) = self.conversion.wait();
        (SubLock { guard, above: self.above }, end)
    }
}

impl<'a> Future for PendingSubConversion<'a> {
    type Output = (SubLock<'a>, Result<(), LockError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let above = self.above;
        let end = Pin::new(&mut self.conversion).poll(context);
        end.map(|(guard, end)| (SubLock { guard, above }, end))
    }
}
