use pils::Instant;
use std::time;

/// The monotonic clock of the host, as [`pils::Instant`]: nanoseconds since this clock was made.
///
/// Copies share the origin, so their instants are comparable.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: time::Instant,
}

impl Clock {
    /// A clock that starts now, one second after [`Instant::ZERO`], so that "before now" stays representable.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: time::Instant::now() }
    }

    /// The current instant. About 25 ns.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_millis(1000) + self.origin.elapsed()
    }
}
