use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A process of this machine. As long as this value is kept, it is not taken for another that has its number later.
///
/// It is the process that connected. One that it forked may have the connection as well; that is another process.
#[derive(Clone, Debug)]
pub struct Process(Option<Arc<OwnedFd>>);

impl Process {
    /// Who connected a socket. `None` if the kernel does not say: it is too old, has no descriptor left, or the process is in a
    /// PID namespace that is not seen from here.
    pub(super) fn of_peer(socket: &impl AsFd, pid: i32) -> Option<Self> {
        if let Ok(process) = getsockopt(socket, sockopt::PeerPidfd) {
            return Some(Self(Some(Arc::new(process))));
        }
        // The number may have gone to a later process, if the one that connected has ended. Then it is certain that it has, and a
        // mistake only makes who waits for the end wait longer.
        match pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()) {
            Ok(process) => Some(Self(Some(Arc::new(process)))),
            Err(Errno::SRCH) => Some(Self(None)),
            Err(error) => {
                tracing::debug!(pid, %error, "the kernel does not say when a process ends");
                None
            }
        }
    }

    /// True if it has ended, all its threads with it: it does nothing more, whether its parent has seen that or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let Some(process) = &self.0 else { return true };
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        // If the kernel cannot say, it is not known to have ended.
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Readable once it has ended. `None` if it had before it could be watched.
    #[must_use]
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(|process| process.as_fd())
    }
}

/// The same value, or a clone of it.
impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl Eq for Process {}
