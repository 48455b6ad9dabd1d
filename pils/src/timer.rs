use crate::Instant;
use core::fmt::Debug;

/// The named timers of one state machine: a deadline, or none, for each value of `T`.
///
/// For the handful of timers a protocol has; every operation is O(timers). Deadlines that are equal fire in the order
/// of `T`, so that a run is the same each time.
#[derive(Clone, Debug)]
pub struct TimerTable<T> {
    armed: Vec<(T, Instant)>,
}

impl<T> Default for TimerTable<T> {
    fn default() -> Self {
        Self { armed: Vec::new() }
    }
}

impl<T: Copy + Ord + Debug> TimerTable<T> {
    /// A table with no timer armed.
    #[must_use]
    pub const fn new() -> Self {
        Self { armed: Vec::new() }
    }

    /// Arms `timer` for `at`, replacing its earlier deadline.
    pub fn set(&mut self, timer: T, at: Instant) {
        match self.armed.iter_mut().find(|(t, _)| *t == timer) {
            Some(slot) => slot.1 = at,
            None => self.armed.push((timer, at)),
        }
    }

    /// Arms `timer` for `at` unless it is armed already.
    pub fn set_if_unset(&mut self, timer: T, at: Instant) {
        if self.deadline(timer).is_none() {
            self.armed.push((timer, at));
        }
    }

    /// Disarms `timer`.
    pub fn stop(&mut self, timer: T) {
        self.armed.retain(|(t, _)| *t != timer);
    }

    /// Disarms every timer.
    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// When `timer` fires, if it is armed.
    #[must_use]
    pub fn deadline(&self, timer: T) -> Option<Instant> {
        self.armed.iter().find(|(t, _)| *t == timer).map(|(_, at)| *at)
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.armed.iter().map(|(_, at)| *at).min()
    }

    /// Disarms and returns the earliest timer due at `now`. Call until `None`.
    pub fn expired(&mut self, now: Instant) -> Option<T> {
        let (timer, _) = *self.armed.iter().filter(|(_, at)| *at <= now).min_by_key(|(t, at)| (*at, *t))?;
        self.stop(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_once_in_order_of_deadline() {
        let mut t = TimerTable::new();
        t.set('b', Instant::from_millis(2));
        t.set('a', Instant::from_millis(2));
        t.set('c', Instant::from_millis(1));
        t.set('d', Instant::from_millis(9));
        t.set_if_unset('d', Instant::from_millis(1));
        assert_eq!(t.next(), Some(Instant::from_millis(1)));
        let mut fired = Vec::new();
        while let Some(x) = t.expired(Instant::from_millis(5)) {
            fired.push(x);
        }
        assert_eq!(fired, ['c', 'a', 'b']);
        assert_eq!(t.next(), Some(Instant::from_millis(9)));
    }
}
