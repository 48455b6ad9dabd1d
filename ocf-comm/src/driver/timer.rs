use super::SetupError;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use pils::Instant;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// A deadline that moved later by less than this is left where it was.
const LATER_MIN: Duration = Duration::from_micros(500);
/// Deadlines are moved later at most once in this time.
const LATER_PACE: Duration = Duration::from_micros(500);

/// One deadline of nanosecond resolution in the event queue (the queue's own timeout counts whole milliseconds).
///
/// A deadline that moves later would cost a busy reactor a system call each turn, and a quiet one, if nothing is done,
/// a wake-up in vain, which costs more. So it is moved, but not often: between two moves the timer may fire early, once,
/// and is armed again.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
    armed: Option<Instant>,
    set_at: Instant,
}

impl Timer {
    pub(crate) fn new(registry: &Registry, token: Token) -> Result<Self, SetupError> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .map_err(SetupError::system("cannot make a timer"))?;
        registry
            .register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)
            .map_err(SetupError::system("cannot watch a timer"))?;
        Ok(Self { fd, armed: None, set_at: Instant::ZERO })
    }

    /// Makes sure that the timer fires at `deadline` or before.
    pub(crate) fn arm(&mut self, now: Instant, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if let Some(armed) = self.armed.filter(|armed| *armed > now && *armed <= deadline)
            && (deadline.since(armed) < LATER_MIN || now.since(self.set_at) < LATER_PACE)
        {
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
        (self.armed, self.set_at) = (Some(now + wait), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::Poll;

    #[test]
    fn a_deadline_is_moved_earlier_at_once_and_later_at_a_pace() {
        let poll = Poll::new().unwrap();
        let mut timer = Timer::new(poll.registry(), Token(0)).unwrap();
        let at = |micros: u64| Instant::from_millis(1000) + Duration::from_micros(micros);
        timer.arm(at(0), Some(at(90_000)));
        timer.arm(at(100), Some(at(3_000)));
        assert_eq!(timer.armed, Some(at(3_000)), "earlier: at once");
        timer.arm(at(300), Some(at(80_000)));
        assert_eq!(timer.armed, Some(at(3_000)), "later: not so soon after it was set");
        timer.arm(at(700), Some(at(3_400)));
        assert_eq!(timer.armed, Some(at(3_000)), "later: not for so little");
        timer.arm(at(700), Some(at(80_000)));
        assert_eq!(timer.armed, Some(at(80_000)), "later: nothing fires in vain");
        timer.arm(at(90_000), Some(at(95_000)));
        assert_eq!(timer.armed, Some(at(95_000)), "what has fired is armed again");
        timer.arm(at(90_100), None);
        assert_eq!(timer.armed, Some(at(95_000)));
    }
}
