use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Waker;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes the reactor, at most once until it runs.
#[derive(Debug)]
pub(crate) struct Wake {
    pending: AtomicBool,
    waker: Waker,
}

impl Wake {
    pub(crate) const fn new(waker: Waker) -> Self {
        Self { pending: AtomicBool::new(false), waker }
    }

    /// Makes the reactor run a turn soon. One system call, or none if one is already due.
    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            // The counter of an event descriptor overflows only if nobody reads it; then a wake-up is due anyway.
            debug_assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }

    /// The reactor runs: the next `wake` must ring again.
    pub(crate) fn clear(&self) {
        self.pending.store(false, Ordering::Release);
    }
}

/// Gives typed commands to a reactor from any thread: completions, requests. Cheap to clone.
///
/// The queue has no bound of its own: whoever posts is limited by what it may have outstanding.
#[derive(Debug)]
pub struct Remote<C> {
    sender: Sender<C>,
    wake: Arc<Wake>,
}

impl<C> Clone for Remote<C> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<C> Remote<C> {
    /// Queues `command` and wakes the reactor; wake-ups coalesce. Never blocks. Commands run in the order posted.
    ///
    /// # Errors
    /// Gives `command` back if the reactor is gone.
    pub fn post(&self, command: C) -> Result<(), C> {
        self.sender.send(command).map_err(|refused| refused.0)?;
        self.wake.wake();
        Ok(())
    }
}

/// The reactor's end of a [`Remote`].
#[derive(Debug)]
pub struct Inbox<C> {
    receiver: Receiver<C>,
}

impl<C> Inbox<C> {
    pub(crate) fn next(&self) -> Option<C> {
        self.receiver.try_recv().ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.receiver.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

pub(crate) fn inbox<C>(wake: Arc<Wake>) -> (Remote<C>, Inbox<C>) {
    let (sender, receiver) = unbounded();
    (Remote { sender, wake }, Inbox { receiver })
}
