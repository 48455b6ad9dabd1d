//! What wakes a handle of the service: which of its resources and locks have news.

use core::task::Waker;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Wake;
use std::time::Instant;

/// Rung by whoever has news of something; each thing is a number.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Default)]
struct State {
    news: BTreeSet<u64>,
    on_ring: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Bell {
    /// There is news of that.
    pub(super) fn ring(&self, of: u64) {
        self.state.lock().news.insert(of);
        self.tell();
    }

    /// Wakes who waits, and says that there may be something to see.
    pub(super) fn tell(&self) {
        self.rung.notify_all();
        let on_ring = self.state.lock().on_ring.clone();
        if let Some(on_ring) = on_ring {
            on_ring();
        }
    }

    pub(super) fn on_ring(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.state.lock().on_ring = Some(wake);
    }

    /// What there is news of, since the last time.
    pub(super) fn take(&self) -> BTreeSet<u64> {
        core::mem::take(&mut self.state.lock().news)
    }

    /// Waits for news, until then at most.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let mut state = self.state.lock();
        while state.news.is_empty() {
            match until {
                None => self.rung.wait(&mut state),
                Some(until) if self.rung.wait_until(&mut state, until).timed_out() => return,
                Some(_) => {}
            }
        }
    }

    /// What rings with that.
    pub(super) fn waker(bell: &Arc<Self>, of: u64) -> Waker {
        Arc::new(One { bell: Arc::clone(bell), of }).into()
    }
}

struct One {
    bell: Arc<Bell>,
    of: u64,
}

impl Wake for One {
    fn wake(self: Arc<Self>) {
        self.bell.ring(self.of);
    }
}
