use mio::Waker;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells the server's thread which clients have something to be written. Wake-ups coalesce.
#[derive(Debug)]
pub(super) struct Wake {
    waker: Waker,
    pending: AtomicBool,
    clients: Mutex<BTreeSet<u64>>,
}

impl Wake {
    pub(super) fn new(waker: Waker) -> Self {
        Self { waker, pending: AtomicBool::new(false), clients: Mutex::default() }
    }

    /// A client has something to be written, or its subscriptions have.
    pub(super) fn client(&self, client: u64) {
        self.clients.lock().insert(client);
        self.ring();
    }

    pub(super) fn ring(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            debug_assert_eq!(
                error.kind(),
                ErrorKind::WouldBlock,
                "only a counter that nobody reads overflows"
            );
        }
    }

    /// The server's thread runs: from now until [`Wake::take`] no wake-up is needed.
    pub(super) fn awake(&self) {
        self.pending.store(true, Ordering::Release);
    }

    /// The clients to look at. What comes after this rings.
    pub(super) fn take(&self) -> BTreeSet<u64> {
        self.pending.store(false, Ordering::Release);
        core::mem::take(&mut *self.clients.lock())
    }
}
