use super::SetupError;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use pils::Instant;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// One deadline of nanosecond resolution in the event queue (the queue's own timeout counts whole milliseconds).
///
/// Moving the deadline later costs nothing: the timer then fires early, once, and is armed again.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
    armed: Option<Instant>,
}

impl Timer {
    pub(crate) fn new(registry: &Registry, token: Token) -> Result<Self, SetupError> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .map_err(SetupError::system("cannot make a timer"))?;
        registry
            .register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)
            .map_err(SetupError::system("cannot watch a timer"))?;
        Ok(Self { fd, armed: None })
    }

    /// Makes sure that the timer fires at `deadline` or before.
    pub(crate) fn arm(&mut self, now: Instant, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if self.armed.is_some_and(|armed| armed > now && armed <= deadline) {
            return;
        }
        // Zero would disarm.
        let wait = deadline.since(now).clamp(Duration::from_nanos(1), Duration::from_secs(3600));
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(3600),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let setting = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &setting)
            .expect("a valid timer accepts a valid duration");
        self.armed = Some(now + wait);
    }
}
