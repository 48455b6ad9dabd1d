use pils::Instant;
use std::time::Duration;

/// Messages per second from which on turns are spaced.
const DENSE: u64 = 100_000;
/// The rate is looked at once in this time.
const WINDOW: Duration = Duration::from_millis(1);
/// What was seen in a window counts for so long: no turn came since.
const STALE: Duration = Duration::from_millis(4);
/// A turn that handled so many messages is worth its wake-up: the next need not wait.
const FULL: u64 = 128;
/// The time that the next turn waits. The timers of the system add about as much again.
const SPACE: Duration = Duration::from_micros(50);

/// Spaces the turns of a reactor through which very many messages pass, as network cards moderate their interrupts.
///
/// A reactor that begins a turn as soon as there is anything handles few messages in each, unless it is late anyway. The wake-ups and
/// system calls of such turns fill a processor at a fraction of the rate that it can carry; then all wait for processors, for times
/// a hundred times as long as the spaces here. Messages that come one at a time are never held up: they do not come in such numbers.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the window began, and how much had been handled then.
    window: (Instant, u64),
    /// How much had been handled after the last turn.
    handled: u64,
    /// The last window had very many messages.
    dense: bool,
    /// The last turn had few of them.
    thin: bool,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self { window: (Instant::ZERO, 0), handled: 0, dense: false, thin: false }
    }

    /// A turn ended, and so much was handled since the reactor started. Until when the next is to wait, if it is.
    pub(super) fn turned(&mut self, now: Instant, handled: u64) -> Option<Instant> {
        // A host may count anew.
        self.thin = handled.saturating_sub(self.handled) < FULL;
        self.handled = handled;
        let (since, before) = self.window;
        let elapsed = now.since(since);
        if elapsed >= WINDOW {
            let passed = u128::from(handled.saturating_sub(before)) * 1_000_000_000;
            self.dense = elapsed < STALE && passed >= u128::from(DENSE) * elapsed.as_nanos();
            self.window = (now, handled);
        }
        (self.thin && self.is_dense(now)).then(|| now + SPACE)
    }

    /// True while so many messages pass that whoever has one leaves it to the next turn.
    pub(super) fn is_dense(&self, now: Instant) -> bool {
        self.dense && now.since(self.window.0) < STALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_millis(1000) + Duration::from_micros(micros)
    }

    /// Turns that each handle so many messages, one after the other in this time; how many of the last hundred are followed by a rest.
    fn rests(messages: u64, each: u64) -> usize {
        let mut pace = Pace::new();
        let mut turn = |n: u64| pace.turned(at(n * each), n * messages);
        (1..1_000).for_each(|n| _ = turn(n));
        (1_000..1_100).filter(|n| turn(*n).is_some()).count()
    }

    #[test]
    fn turns_are_spaced_while_many_messages_come_a_few_at_a_time() {
        assert_eq!(rests(10, 12), 100, "830,000 in a second, ten in a turn");
        assert_eq!(rests(1, 9), 100, "110,000 in a second");
        assert_eq!(
            rests(1, 11),
            0,
            "90,000 in a second: one after the other, as of somebody who waits for each"
        );
        assert_eq!(rests(FULL, 80), 0, "1,600,000 in a second, in full turns");
        assert_eq!(rests(1, 1_000), 0);
    }

    #[test]
    fn a_host_that_counts_anew_is_not_busy() {
        let mut pace = Pace::new();
        assert_eq!((1..=200).filter_map(|n| pace.turned(at(n * 10), n * 10)).last(), Some(at(2_050)));
        assert_eq!(pace.turned(at(4_000), 0), None);
        assert!(!pace.is_dense(at(4_000)));
    }

    #[test]
    fn a_burst_that_is_over_holds_nobody_up() {
        let mut pace = Pace::new();
        let until = (1..=200).filter_map(|n| pace.turned(at(n * 10), n * 10)).last();
        assert_eq!(until, Some(at(2_050)));
        assert!(pace.is_dense(at(2_000)) && pace.is_dense(at(5_000)));
        assert!(!pace.is_dense(at(7_000)), "nothing came for a while");
        assert_eq!(pace.turned(at(7_000), 2_001), None);
        assert!(!pace.is_dense(at(7_000)));
    }
}
