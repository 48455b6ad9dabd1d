//! What the owner of one lock is told, and how it waits for that.

use core::fmt;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use ocf_dlm::cluster::Completed;
use ocf_dlm::range::{Range, RangeKind};
use ocf_dlm::{LockError, Wanted};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Instant;

/// Something that happened to a lock.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// An operation ended. The lock is gone if nothing is held.
    Completed(Completed),
    /// An operation was not begun; nothing has changed.
    Refused(LockError),
    /// Another wants it.
    Wanted(Wanted),
    /// What is in the way of a range that was asked about: nothing more will be heard of the question.
    Tested(Option<(Range, RangeKind)>),
    /// It is gone.
    Lost,
}

impl News {
    /// True if nothing more will be heard of the lock.
    pub(crate) const fn is_last(&self) -> bool {
        match self {
            Self::Completed(completed) => completed.held.is_none(),
            Self::Tested(_) | Self::Lost => true,
            Self::Refused(_) | Self::Wanted(_) => false,
        }
    }
}

/// Who is told what happens to a lock, in the order in which it happens.
pub(crate) trait Listener: Send + Sync {
    /// Takes it. Does not wait, and calls nothing of the lock manager.
    fn hear(&self, news: News);
}

/// What the owner of one lock was told and has not seen yet.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    told: Mutex<Told>,
    news: Condvar,
}

#[derive(Default)]
struct Told {
    /// How the operation under way ended.
    completed: Option<Result<Completed, LockError>>,
    wanted: Option<Wanted>,
    tested: Option<Option<(Range, RangeKind)>>,
    lost: bool,
    /// Who awaits the end of the operation under way.
    waker: Option<Waker>,
    /// Called when there is something new.
    on_news: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { completed, wanted, lost, .. } = self;
        write!(f, "Told({completed:?}, {wanted:?}, {lost})")
    }
}

impl Listener for Slot {
    fn hear(&self, news: News) {
        let mut told = self.told.lock();
        match news {
            News::Completed(completed) => told.completed = Some(Ok(completed)),
            News::Refused(why) => told.completed = Some(Err(why)),
            News::Wanted(wanted) => told.wanted = Some(wanted),
            News::Tested(found) => told.tested = Some(found),
            News::Lost => told.lost = true,
        }
        let (waker, on_news) = (told.waker.take(), told.on_news.clone());
        self.news.notify_all();
        drop(told);
        // With nothing locked that they could want.
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(on_news) = on_news {
            on_news();
        }
    }
}

impl Slot {
    /// True once it was told that the lock is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.told.lock().lost
    }

    /// Waits at most so long for another to want the lock, or for its loss.
    pub(super) fn wanted(&self, wait: Duration) -> Option<Wanted> {
        let until = Instant::now().checked_add(wait);
        let mut told = self.told.lock();
        while told.wanted.is_none() && !told.lost {
            match until {
                None => self.news.wait(&mut told),
                Some(until) if self.news.wait_until(&mut told, until).timed_out() => break,
                Some(_) => {}
            }
        }
        told.wanted.take()
    }

    pub(super) fn on_news(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.told.lock().on_news = Some(wake);
    }

    /// As [`Slot::on_news`], and calls it now if the operation under way has ended.
    pub(super) fn on_end(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        let ended = {
            let mut told = self.told.lock();
            told.on_news = Some(Arc::clone(&wake));
            told.completed.is_some() || told.lost
        };
        if ended {
            wake();
        }
    }

    /// How the operation under way ended, or a promise to wake.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Result<Completed, LockError>> {
        let mut told = self.told.lock();
        if let Some(completed) = told.completed.take() {
            return Poll::Ready(completed);
        }
        if told.lost {
            return Poll::Ready(Err(LockError::Lost));
        }
        told.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits for the answer to a question about a range.
    pub(super) fn tested(&self) -> Result<Option<(Range, RangeKind)>, LockError> {
        let mut told = self.told.lock();
        loop {
            if let Some(found) = told.tested.take() {
                return Ok(found);
            }
            // A question is completed only if nobody can answer it any more.
            match told.completed.take() {
                Some(Err(refused)) => return Err(refused),
                Some(Ok(_)) => return Err(LockError::Lost),
                None if told.lost => return Err(LockError::Lost),
                None => self.news.wait(&mut told),
            }
        }
    }

    /// How the operation under way ended; `None` if it has not in time.
    pub(super) fn ended(&self, wait: Option<Duration>) -> Option<Result<Completed, LockError>> {
        let until = wait.and_then(|wait| Instant::now().checked_add(wait));
        let mut told = self.told.lock();
        loop {
            if let Some(completed) = told.completed.take() {
                return Some(completed);
            }
            if told.lost {
                return Some(Err(LockError::Lost));
            }
            match until {
                None => self.news.wait(&mut told),
                Some(until) if self.news.wait_until(&mut told, until).timed_out() => {
                    return told.completed.take();
                }
                Some(_) => {}
            }
        }
    }
}
