use pils::Instant;

const MILLION: i128 = 1_000_000;

/// The monotonic clock of one life of a node: starts anywhere, runs a little too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    reading: Instant,
    ppm: i32,
}

impl Clock {
    /// A clock that shows `reading` at the true time `started` and gains `ppm` microseconds per second.
    pub(crate) const fn new(started: Instant, reading: Instant, ppm: i32) -> Self {
        Self { started, reading, ppm }
    }

    /// What the clock shows at `truly`.
    pub(crate) fn show(&self, truly: Instant) -> Instant {
        let passed = i128::from(truly.as_nanos()) - i128::from(self.started.as_nanos());
        let shown = passed + passed * i128::from(self.ppm) / MILLION;
        Instant::from_nanos(clamp(i128::from(self.reading.as_nanos()) + shown))
    }

    /// The first true time at which the clock shows `local` or more.
    pub(crate) fn when(&self, local: Instant) -> Instant {
        let shown = i128::from(local.as_nanos()) - i128::from(self.reading.as_nanos());
        let passed = shown * MILLION / (MILLION + i128::from(self.ppm));
        let mut truly = clamp(i128::from(self.started.as_nanos()) + passed - 2);
        while truly < u64::MAX && self.show(Instant::from_nanos(truly)) < local {
            truly += 1;
        }
        Instant::from_nanos(truly)
    }
}

fn clamp(nanos: i128) -> u64 {
    u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_alarm_is_never_early_and_at_most_a_few_nanoseconds_late(
            ppm in -10_000..10_000_i32, local in 5_000_000_000..90_000_000_000_000_u64,
        ) {
            let clock = Clock::new(Instant::from_millis(3), Instant::from_millis(5_000), ppm);
            let at = clock.when(Instant::from_nanos(local));
            let shown = clock.show(at).as_nanos();
            prop_assert!((local..local + 3).contains(&shown), "{} shown for {}", shown, local);
        }
    }
}
