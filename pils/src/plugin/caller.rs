use super::{CallError, Remote};
use crate::Value;
use core::fmt;
use core::time::Duration;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::{io, thread};

/// Calls of one [`Caller`] that may be without an answer; each holds a thread.
pub const CALLS_MAX: usize = 16;

/// Calls a plug-in for those who must not wait: each call runs on a thread of its own, and is over when its time is, whatever
/// the plug-in does. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Caller {
    inner: Arc<Inner>,
}

struct Inner {
    remote: Arc<dyn Remote>,
    /// One clone for each call that has no answer.
    open: Arc<()>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("plugin", &self.remote().description().name).finish_non_exhaustive()
    }
}

impl Caller {
    /// Calls this plug-in.
    #[must_use]
    pub fn new(remote: Arc<dyn Remote>) -> Self {
        Self { inner: Arc::new(Inner { remote, open: Arc::new(()) }) }
    }

    /// The plug-in.
    #[must_use]
    pub fn remote(&self) -> &Arc<dyn Remote> {
        &self.inner.remote
    }

    /// Calls a method, and returns at once. `done` is called exactly once: with the answer, or after `limit`, or when the call
    /// is cancelled, from another thread; or at once if the system gives no thread. An answer that comes later is dropped.
    pub fn call(
        &self,
        method: &str,
        params: Vec<Value>,
        limit: Duration,
        done: impl FnOnce(Result<Value, CallError>) + Send + 'static,
    ) -> PendingCall {
        let (tell, told) = channel();
        // nobody listens any more if the time was over before
        let say = |tell: &Answers, answer| tell.send(answer).unwrap_or_default();
        let open = Arc::clone(&self.inner.open);
        let waiting = Arc::strong_count(&open).saturating_sub(2);
        if limit.is_zero() {
            say(&tell, Err(CallError::TimedOut(limit)));
        } else if waiting >= CALLS_MAX {
            say(&tell, Err(CallError::Busy(waiting)));
        } else {
            let (remote, method, answers) = (Arc::clone(self.remote()), method.to_owned(), tell.clone());
            let called = thread::Builder::new().name("pils call".to_owned()).spawn(move || {
                let answer = remote.call_within(&method, &params, limit);
                drop(open);
                say(&answers, answer);
            });
            if let Err(error) = called {
                say(&tell, Err(no_thread(&error)));
            }
        }
        // a thread that does not start takes what it was given along
        let slot = Arc::new(Mutex::new(Some(done)));
        let kept = Arc::clone(&slot);
        let waits = thread::Builder::new().name("pils wait".to_owned()).spawn(move || {
            let answer = told.recv_timeout(limit).unwrap_or(Err(CallError::TimedOut(limit)));
            finish(&kept, answer);
        });
        if let Err(error) = waits {
            finish(&slot, Err(no_thread(&error)));
        }
        PendingCall(tell)
    }
}

/// Where the answer of a call goes.
type Answers = Sender<Result<Value, CallError>>;

/// Calls what is told of the end, once.
fn finish(slot: &Mutex<Option<impl FnOnce(Result<Value, CallError>)>>, answer: Result<Value, CallError>) {
    let done = slot.lock().take();
    if let Some(done) = done {
        done(answer);
    }
}

fn no_thread(error: &io::Error) -> CallError {
    CallError::Broken(format!("no thread for it: {error}"))
}

/// A call under way. Dropping it lets the call go on.
pub struct PendingCall(Answers);

impl fmt::Debug for PendingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingCall")
    }
}

impl PendingCall {
    /// Ends the wait: `done` gets [`CallError::Cancelled`], unless it got something already. What the plug-in does goes on.
    pub fn cancel(&self) {
        self.0.send(Err(CallError::Cancelled)).unwrap_or_default();
    }
}
