use super::SetupError;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// A descriptor that is readable while something waits. Costs nothing until somebody asks for the descriptor.
#[derive(Debug)]
pub(crate) struct Notify {
    fd: OwnedFd,
    watched: AtomicBool,
    raised: AtomicBool,
}

impl Notify {
    pub(crate) fn new() -> Result<Self, SetupError> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(SetupError::system("cannot make an event descriptor"))?;
        Ok(Self { fd, watched: AtomicBool::new(false), raised: AtomicBool::new(false) })
    }

    /// The descriptor. Raised by this, because something may wait already.
    pub(crate) fn watch(&self) -> BorrowedFd<'_> {
        if !self.watched.swap(true, Ordering::AcqRel) {
            self.raise();
        }
        self.fd.as_fd()
    }

    /// Something waits. One system call per transition, none if nobody watches.
    pub(crate) fn raise(&self) {
        if self.watched.load(Ordering::Acquire) && !self.raised.swap(true, Ordering::AcqRel) {
            rustix::io::write(&self.fd, &1_u64.to_ne_bytes())
                .expect("a lowered event descriptor takes a one");
        }
    }

    /// Nothing waited a moment ago. Look once more after this.
    pub(crate) fn lower(&self) {
        if self.watched.load(Ordering::Acquire) && self.raised.swap(false, Ordering::AcqRel) {
            // Empty if another thread is between its swap and its write; the descriptor then stays raised once in vain.
            if let Err(error) = rustix::io::read(&self.fd, &mut [0; 8]) {
                debug_assert_eq!(error, rustix::io::Errno::AGAIN);
            }
        }
    }
}
