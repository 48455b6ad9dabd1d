//! Conversions that are not waited for.

use super::LockGuard;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use ocf_dlm::cluster::Completed;
use ocf_dlm::{LockError, ValueBlock};

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

    /// Waits for the end.
    ///
    /// # Panics
    /// If it was taken before, by awaiting it.
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
