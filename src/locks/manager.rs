//! The locks of a cluster as a program sees them that runs in one process as well.

use super::ranges::Ranges;
use super::wire::NOT_LISTED;
use super::{LockGuard, LockOrderError, Locks, LostLock, PendingConversion, PendingLock, Place};
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use ocf_dlm::cluster::OrderError;
use ocf_dlm::wire::ReportedLock;
use ocf_dlm::{
    ConvertedLock, FencingToken, Flags, HeldLock, LockConversion, LockError, LockManager, LockOwner,
    LockRequest, LockTerms, Mode, ObjectRanges, RequestError, SeenLock, ValueBlock, Wait, Wanted,
    check_names,
};
use std::sync::Arc;

impl LockManager for Locks {
    fn owner(&self) -> Result<Box<dyn LockOwner>, LockError> {
        let backend = Arc::clone(&self.backend);
        let client = backend.new_owner().ok_or(LockError::Lost)?;
        Ok(Box::new(Self::new(backend, client)))
    }
}

impl LockOwner for Locks {
    fn request_with(
        &self,
        space: &str,
        name: &[u8],
        mode: Mode,
        terms: LockTerms,
    ) -> Result<Box<dyn LockRequest>, LockError> {
        check_names(space, name)?;
        Ok(Box::new(Requested(self.ask_with(Place::Root { space, name }, mode, terms, Flags::NONE)?)))
    }

    fn look(&self, space: &str, name: &[u8], patience: Duration) -> Result<Vec<SeenLock>, LockError> {
        check_names(space, name)?;
        let seen = self.inspect(space, name, patience)?;
        let lock = |lock: &ReportedLock| {
            let ReportedLock { held, asked, orphan, .. } = *lock;
            SeenLock { held, asked, orphan }
        };
        Ok(seen.locks.iter().map(lock).collect())
    }

    fn purge(&self, space: &str, name: &[u8], patience: Duration) -> Result<usize, LockError> {
        check_names(space, name)?;
        Ok(self.purge_resource(space, name, patience)? as usize)
    }

    fn end(self: Box<Self>) {
        let locks = Self::end(*self);
        tracing::trace!(locks, "an owner of locks has ended");
    }

    fn ranges(&self, space: &str, name: &[u8]) -> Result<Box<dyn ObjectRanges>, LockError> {
        check_names(space, name)?;
        Ok(Box::new(Ranges::open(Arc::clone(&self.backend), (self.client, self.transaction), (space, name))?))
    }
}

#[derive(Debug)]
struct Requested(PendingLock);

impl LockRequest for Requested {
    fn wait(self: Box<Self>) -> Result<Box<dyn HeldLock>, LockError> {
        Ok(Box::new(self.0.wait()?))
    }
}

impl Future for Requested {
    type Output = Result<Box<dyn HeldLock>, LockError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(end) = Pin::new(&mut self.0).poll(context) else { return Poll::Pending };
        Poll::Ready(end.map(|guard| -> Box<dyn HeldLock> { Box::new(guard) }))
    }
}

#[derive(Debug)]
struct Converting<'a> {
    conversion: PendingConversion,
    /// The borrow of the lock above, which [`HeldLock::lock_below`] keeps in the type alone.
    _above: PhantomData<&'a ()>,
}

impl<'a> LockConversion<'a> for Converting<'a> {
    fn cancel(&mut self) {
        self.conversion.cancel();
    }

    fn wait(self: Box<Self>) -> ConvertedLock<'a> {
        let (guard, end) = self.conversion.wait();
        (Box::new(guard), end)
    }
}

impl<'a> Future for Converting<'a> {
    type Output = ConvertedLock<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = Pin::new(&mut self.conversion).poll(context);
        ended.map(|(guard, end)| -> ConvertedLock<'a> { (Box::new(guard), end) })
    }
}

impl From<LostLock> for LockError {
    fn from(_: LostLock) -> Self {
        Self::Lost
    }
}

impl From<LockOrderError> for LockError {
    fn from(error: LockOrderError) -> Self {
        match error {
            LockOrderError::NotGiven(OrderError::Limit) => Self::Refused(RequestError::Limit("ORDERS_MAX")),
            LockOrderError::NotAllowed => Self::Refused(RequestError::NotAllowed(NOT_LISTED)),
            LockOrderError::TimedOut | LockOrderError::Refused(_) | LockOrderError::Interrupted => {
                Self::TimedOut
            }
            LockOrderError::NotGiven(_) | LockOrderError::TooMany | LockOrderError::Stopped => Self::Lost,
        }
    }
}

impl HeldLock for LockGuard {
    fn mode(&self) -> Mode {
        Self::mode(self)
    }

    fn value(&self) -> Option<&ValueBlock> {
        Self::value(self)
    }

    fn check(&self) -> Result<(), LockError> {
        Ok(Self::check(self)?)
    }

    fn token(&self) -> Result<FencingToken, LockError> {
        Ok(Self::token(self)?)
    }

    fn wanted_by(&self, wait: Duration) -> Option<Wanted> {
        Self::wanted_by(self, wait)
    }

    fn on_news(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        Self::on_news(self, move || wake());
    }

    fn lock_below<'a>(
        &'a self,
        name: &[u8],
        mode: Mode,
        wait: Wait,
    ) -> Result<Box<dyn HeldLock + 'a>, LockError> {
        check_names("-", name)?;
        // The borrow is in the type that is returned.
        Ok(Box::new(self.ask_below(name, mode, wait)?.wait()?))
    }

    fn convert(&mut self, mode: Mode, value: Option<ValueBlock>, wait: Wait) -> Result<(), LockError> {
        self.convert_within(mode, value, wait)
    }

    fn convert_later<'a>(
        self: Box<Self>,
        mode: Mode,
        value: Option<ValueBlock>,
        wait: Wait,
    ) -> Box<dyn LockConversion<'a> + 'a> {
        Box::new(Converting {
            conversion: Self::convert_later(*self, mode, value, wait),
            _above: PhantomData,
        })
    }

    fn release(self: Box<Self>, value: Option<ValueBlock>) -> Result<(), LockError> {
        Ok(Self::release(*self, value)?)
    }
}
