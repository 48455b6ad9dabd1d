//! The operating system's clock and randomness, for lockspaces of a real process.
#![expect(clippy::disallowed_methods, reason = "a driver has a clock")]

use crate::local::LocalLocks;
use crate::lockspace::Clock;
use core::hash::BuildHasher as _;
use std::hash::RandomState;
use std::sync::Arc;
use std::time;

/// The monotonic clock of the operating system; its origin is when it was made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(time::Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> pils::Instant {
        pils::Instant::ZERO + self.0.elapsed()
    }
}

impl Default for LocalLocks {
    /// With the operating system's clock, and a seed that it chose.
    fn default() -> Self {
        Self::new(RandomState::new().hash_one(0), Arc::new(SystemClock::default()))
    }
}
