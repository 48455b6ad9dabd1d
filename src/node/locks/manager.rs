//! The locks of a node as a program sees them that runs in one process as well.

use super::{LockGuard, Locks, LostLock, PendingLock, SubLock};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use ocf_dlm::wire::Key;
use ocf_dlm::{
    FencingToken, HeldLock, LockError, LockManager, LockOwner, LockRequest, Mode, ValueBlock, Wait,
    check_names,
};
use std::sync::Arc;

impl LockManager for Locks {
    fn owner(&self) -> Result<Box<dyn LockOwner>, LockError> {
        Ok(Box::new(self.node.locks().ok_or(LockError::Lost)?))
    }
}

impl LockOwner for Locks {
    fn request(
        &self,
        space: &str,
        name: &[u8],
        mode: Mode,
        wait: Wait,
    ) -> Result<Box<dyn LockRequest>, LockError> {
        check_names(space, name)?;
        Ok(Box::new(Requested(self.ask((Key::root(space.as_bytes(), name), None), mode, wait)?)))
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

impl From<LostLock> for LockError {
    fn from(_: LostLock) -> Self {
        Self::Lost
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

    fn wanted(&self, wait: Duration) -> Option<Mode> {
        Self::wanted(self, wait)
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
        Ok(Box::new(Self::lock_below(self, name, mode, wait)?))
    }

    fn convert(&mut self, mode: Mode, value: Option<ValueBlock>, wait: Wait) -> Result<(), LockError> {
        self.convert_within(mode, value, wait)
    }

    fn release(self: Box<Self>, value: Option<ValueBlock>) -> Result<(), LockError> {
        Ok(Self::release(*self, value)?)
    }
}

impl HeldLock for SubLock<'_> {
    fn mode(&self) -> Mode {
        self.guard.mode()
    }

    fn value(&self) -> Option<&ValueBlock> {
        self.guard.value()
    }

    fn check(&self) -> Result<(), LockError> {
        Ok(self.guard.check()?)
    }

    fn token(&self) -> Result<FencingToken, LockError> {
        Ok(self.guard.token()?)
    }

    fn wanted(&self, wait: Duration) -> Option<Mode> {
        self.guard.wanted(wait)
    }

    fn on_news(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.guard.on_news(move || wake());
    }

    fn lock_below<'a>(
        &'a self,
        name: &[u8],
        mode: Mode,
        wait: Wait,
    ) -> Result<Box<dyn HeldLock + 'a>, LockError> {
        HeldLock::lock_below(&self.guard, name, mode, wait)
    }

    fn convert(&mut self, mode: Mode, value: Option<ValueBlock>, wait: Wait) -> Result<(), LockError> {
        self.guard.convert_within(mode, value, wait)
    }

    fn release(self: Box<Self>, value: Option<ValueBlock>) -> Result<(), LockError> {
        Ok(self.guard.release(value)?)
    }
}
