use super::{Handle, Host, Reactor, SetupError, Stopped};
use pils::Layer;
use std::fmt;
use std::ops::Deref;
use std::thread::{Builder, JoinHandle};

/// A reactor on its own thread. Dropping it stops the reactor and waits for the thread.
///
/// Derefs to a [`Handle`] for calls into the layer.
pub struct Running<L: Layer, H: Host<L>> {
    handle: Handle<L, H>,
    thread: Option<JoinHandle<Stopped>>,
}

impl<L: Layer, H: Host<L>> fmt::Debug for Running<L, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("stopped", &self.handle.stopped()).finish_non_exhaustive()
    }
}

impl<L, H> Reactor<L, H>
where
    L: Layer + Send + 'static,
    H: Host<L> + Send + 'static,
{
    /// Runs on a thread of its own, named `name` (at most 15 bytes show in tools).
    ///
    /// A panic of the layer or the host ends the reactor, not the process: [`Running::join`] and every call on a
    /// handle then say so.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn spawn(mut self, name: &str) -> Result<Running<L, H>, SetupError> {
        let handle = self.handle();
        let run = move || {
            loop {
                if let Err(stopped) = self.process_within(None) {
                    return stopped;
                }
            }
        };
        let thread = Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(SetupError::system("cannot start a thread"))?;
        Ok(Running { handle, thread: Some(thread) })
    }
}

impl<L: Layer, H: Host<L>> Running<L, H> {
    /// A handle that outlives this value.
    #[must_use]
    pub fn handle(&self) -> Handle<L, H> {
        self.handle.clone()
    }

    /// Waits until the reactor has stopped, and says why. Does not ask it to stop.
    #[must_use]
    pub fn join(mut self) -> Stopped {
        self.wait()
    }

    fn wait(&mut self) -> Stopped {
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(stopped)) => stopped,
            Some(Err(_)) => Stopped::Panicked { message: "in the reactor itself".to_owned() },
            None => Stopped::Requested,
        }
    }
}

impl<L: Layer, H: Host<L>> Deref for Running<L, H> {
    type Target = Handle<L, H>;

    fn deref(&self) -> &Self::Target {
        &self.handle
    }
}

impl<L: Layer, H: Host<L>> Drop for Running<L, H> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.handle.stop();
            let stopped = self.wait();
            tracing::debug!(%stopped, "reactor stopped");
        }
    }
}
