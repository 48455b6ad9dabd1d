//! One operation at a time.

use crate::client::{LockError, Wait};
use crate::status::RequestError;
use parking_lot::{Condvar, Mutex};
use std::time::Instant;

/// Lets the operations of one owner on one object go one by one. For those who implement [`ObjectRanges`](super::ObjectRanges).
#[derive(Debug, Default)]
pub struct Turns {
    taken: Mutex<Option<By>>,
    free: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A thread that waits in a call, and so will be done.
    Call,
    /// Something that the owner has, and perhaps waits for nobody to finish.
    Request,
}

/// The turn of one operation, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for the turn as long as the operation may wait at all. Returns it, and how long may be waited after it.
    ///
    /// # Errors
    /// [`LockError::WouldBlock`] or [`LockError::TimedOut`] if the turn did not come; [`RequestError::Busy`] if a request has it: who
    /// waited for that on its own thread might wait for ever.
    #[expect(clippy::disallowed_methods, reason = "a call that waits on its thread measures how long")]
    pub fn take(&self, wait: Wait) -> Result<(Turn<'_>, Wait), LockError> {
        let began = Instant::now();
        let mut taken = self.taken.lock();
        loop {
            match *taken {
                None => break,
                Some(By::Request) => return Err(RequestError::Busy.into()),
                Some(By::Call) => {}
            }
            match wait {
                Wait::Forever => self.free.wait(&mut taken),
                Wait::No => return Err(LockError::WouldBlock),
                Wait::For(limit) => {
                    let left = limit.saturating_sub(began.elapsed());
                    if self.free.wait_for(&mut taken, left).timed_out() && taken.is_some() {
                        return Err(LockError::TimedOut);
                    }
                }
            }
        }
        *taken = Some(By::Call);
        let left =
            if let Wait::For(limit) = wait { Wait::For(limit.saturating_sub(began.elapsed())) } else { wait };
        Ok((Turn(self), left))
    }

    /// The turn of a request that is not waited for.
    ///
    /// # Errors
    /// [`RequestError::Busy`] if another operation has it.
    pub fn take_for_request(&self) -> Result<Turn<'_>, LockError> {
        let mut taken = self.taken.lock();
        if taken.is_some() {
            return Err(RequestError::Busy.into());
        }
        *taken = Some(By::Request);
        Ok(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock() = None;
        self.0.free.notify_all();
    }
}
