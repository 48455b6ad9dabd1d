use crate::{AttemptId, DeviceResult, Done, Operation};
use core::time::Duration;
use parking_lot::Mutex;
use pils::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Operations that wait for their time, a cancellation or a person: one short-lived thread each.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    by_attempt: Arc<Mutex<BTreeMap<AttemptId, Waiter>>>,
}

#[derive(Debug)]
struct Waiter {
    node: NodeId,
    wake: Sender<Wake>,
}

/// Why a waiting operation goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Its time has come.
    Due,
    /// It was cancelled.
    Cancelled,
    /// A person spoke.
    Confirmed(Arc<str>),
}

impl Waiting {
    /// Calls `done` with what `end` makes of the wake-up, after `time` at the latest. A deaf operation is not woken.
    pub(super) fn start(
        &self,
        operation: &Operation,
        (time, deaf): (Duration, bool),
        end: impl FnOnce(Wake) -> DeviceResult + Send + 'static,
        done: Done,
    ) {
        let (wake, woken) = channel();
        let (attempt, node) = (operation.attempt, operation.node);
        // A deaf operation keeps its own sender, so that its wait lasts.
        let (heard, own) = if deaf { (None, Some(wake)) } else { (Some(wake), None) };
        if let Some(wake) = heard {
            self.by_attempt.lock().insert(attempt, Waiter { node, wake });
        }
        let all = self.clone();
        let waiting = move || {
            let first = woken.recv_timeout(time);
            // After this nobody can wake it any more; what was said before still counts.
            all.by_attempt.lock().remove(&attempt);
            let why = first.or_else(|_late| woken.try_recv()).unwrap_or(Wake::Due);
            drop(own);
            done(end(why));
        };
        if let Err(error) = thread::Builder::new().name("fence-wait".to_owned()).spawn(waiting) {
            // The closure is dropped, and with it `done`: the host reports that as a failure.
            tracing::error!(%error, %attempt, "cannot start a thread for a fence operation");
            self.by_attempt.lock().remove(&attempt);
        }
    }

    pub(super) fn cancel(&self, attempt: AttemptId) {
        if let Some(waiter) = self.by_attempt.lock().get(&attempt) {
            tell(waiter, Wake::Cancelled);
        }
    }

    /// True if an operation waited for this node.
    pub(super) fn confirm(&self, node: NodeId, who: &str) -> bool {
        let waiters = self.by_attempt.lock();
        let mut any = false;
        for waiter in waiters.values().filter(|w| w.node == node) {
            any |= tell(waiter, Wake::Confirmed(Arc::from(who)));
        }
        any
    }
}

/// False if the operation has ended.
fn tell(waiter: &Waiter, why: Wake) -> bool {
    waiter.wake.send(why).is_ok()
}
