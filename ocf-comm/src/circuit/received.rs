use super::ranges::Ranges;
use crate::DropReason;
use core::time::Duration;
use pils::Instant;

/// Packet numbers that are remembered below the newest.
const WINDOW: u64 = 4096;
const WORDS: usize = 65;
/// Ranges of packet numbers that one acknowledgement reports.
const RANGES_MAX: usize = 64;
/// Packets that are acknowledged at once when they came in more than one burst. A sender that cannot go on without an
/// acknowledgement asks for it with a PING.
const PACKETS_MAX: u32 = 16;
/// How long an acknowledgement may wait for company.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(1);
/// Where little comes, an acknowledgement does not wait: this many in this time go out in the turn in which the packet
/// came, because a timer for each would cost more than the packet that company saves.
const PROMPT_MAX: u32 = 4;
const PROMPT_TIME: Duration = Duration::from_millis(32);

/// Which packet numbers came in already: a ring of bits below the highest. Shape: RFC 6479.
#[derive(Clone, Debug)]
struct Window {
    next: u64,
    bits: [u64; WORDS],
}

impl Window {
    const fn slot(number: u64) -> usize {
        (number / 64 % WORDS as u64) as usize
    }

    const fn check(&self, number: u64) -> Result<(), DropReason> {
        if number >= self.next {
            Ok(())
        } else if number + WINDOW < self.next {
            Err(DropReason::TooOld)
        } else if self.bits[Self::slot(number)] >> (number % 64) & 1 == 1 {
            Err(DropReason::Replayed)
        } else {
            Ok(())
        }
    }

    /// Marks a number that `check` let pass.
    fn mark(&mut self, number: u64) {
        if number >= self.next {
            let newest = self.next.div_ceil(64);
            let fresh = (number / 64 + 1).saturating_sub(newest).min(WORDS as u64);
            for i in 0..fresh {
                self.bits[Self::slot((number / 64 - i) * 64)] = 0;
            }
            self.next = number + 1;
        }
        self.bits[Self::slot(number)] |= 1 << (number % 64);
    }
}

/// What one path has received, and what of it must be acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedPath {
    window: Window,
    ranges: Ranges,
    largest_at: Instant,
    /// Bursts and packets with something to acknowledge since the last acknowledgement.
    bursts: u32,
    packets: u32,
    burst_asks: bool,
    /// Acknowledgements that did not wait, since when.
    prompt: u32,
    prompt_since: Instant,
    /// When an acknowledgement must go out at the latest.
    deadline: Option<Instant>,
}

impl Default for ReceivedPath {
    fn default() -> Self {
        Self {
            window: Window { next: 0, bits: [0; WORDS] },
            ranges: Ranges::default(),
            largest_at: Instant::ZERO,
            bursts: 0,
            packets: 0,
            burst_asks: false,
            prompt: 0,
            prompt_since: Instant::ZERO,
            deadline: None,
        }
    }
}

impl ReceivedPath {
    /// Says whether this number was seen before, or is too old to tell.
    pub(crate) const fn check(&self, number: u64) -> Result<(), DropReason> {
        self.window.check(number)
    }

    /// Makes every copy of this authenticated packet a replay.
    pub(crate) fn mark(&mut self, number: u64) {
        self.window.mark(number);
    }

    /// Takes note of a packet whose content was taken over; `asks` if it wants an acknowledgement, `at_once` if without delay.
    pub(crate) fn record(&mut self, now: Instant, number: u64, asks: bool, at_once: bool) {
        let next = self.ranges.last().map_or(0, |r| r.end);
        self.ranges.insert(number..number + 1);
        if self.ranges.len() > RANGES_MAX {
            self.ranges.forget_first();
        }
        if number >= next {
            self.largest_at = now;
        }
        if asks {
            self.burst_asks = true;
            self.packets += 1;
            if at_once || number != next {
                self.deadline = Some(now);
            }
        }
    }

    /// Ends a burst of packets that came together: from the second on, they are acknowledged at once if they are many; and
    /// if bursts are rare.
    pub(crate) fn end_burst(&mut self, now: Instant) {
        if core::mem::take(&mut self.burst_asks) {
            self.bursts += 1;
            let many = self.bursts >= 2 && self.packets >= PACKETS_MAX;
            let at = if many || self.is_prompt(now) { now } else { now + ACK_DELAY };
            self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
        }
    }

    /// True if a burst that came now is one of few.
    fn is_prompt(&mut self, now: Instant) -> bool {
        if now.since(self.prompt_since) >= PROMPT_TIME {
            (self.prompt, self.prompt_since) = (0, now);
        }
        self.prompt = self.prompt.saturating_add(1).min(PROMPT_MAX + 1);
        self.prompt <= PROMPT_MAX
    }

    /// When an acknowledgement is due, if one is owed.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// An acknowledgement goes out: its delay in microseconds, and the ranges (lowest, highest) from the highest down.
    pub(crate) fn take_ack(&mut self, now: Instant) -> (u64, impl Iterator<Item = (u64, u64)> + Clone) {
        self.deadline = None;
        (self.bursts, self.packets) = (0, 0);
        let delay = u64::try_from(now.since(self.largest_at).as_micros()).unwrap_or(u64::MAX);
        (delay, self.ranges.iter().rev().map(|r| (r.start, r.end - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_number_passes_once_and_only_within_the_window(steps in proptest::collection::vec((any::<bool>(), 0..6000_u64), 1..200)) {
            let mut path = ReceivedPath::default();
            let mut seen = BTreeSet::new();
            let mut top = 0;
            for (up, step) in steps {
                let number = if up { top + step } else { top.saturating_sub(step) };
                let expected = if seen.contains(&number) && number + WINDOW >= top {
                    Err(DropReason::Replayed)
                } else if number + WINDOW < top {
                    Err(DropReason::TooOld)
                } else {
                    Ok(())
                };
                prop_assert_eq!(path.check(number), expected);
                if expected.is_ok() {
                    path.mark(number);
                    seen.insert(number);
                    top = top.max(number + 1);
                }
            }
        }
    }

    #[test]
    fn many_packets_in_two_bursts_a_gap_and_a_request_are_acknowledged_at_once_and_others_soon() {
        let (t0, t1) = (Instant::from_millis(10), Instant::from_millis(11));
        let mut path = ReceivedPath { prompt: PROMPT_MAX, prompt_since: t0, ..ReceivedPath::default() };
        path.record(t0, 0, true, false);
        path.end_burst(t0);
        assert_eq!(path.deadline(), Some(t1));
        path.record(t0, 1, true, false);
        path.end_burst(t0);
        assert_eq!(path.deadline(), Some(t1), "few packets wait for company");
        (2..16).for_each(|number| path.record(t0, number, true, false));
        path.end_burst(t0);
        assert_eq!(path.deadline(), Some(t0));
        let (delay, ranges) = path.take_ack(t1);
        assert_eq!((delay, ranges.collect::<Vec<_>>()), (1000, vec![(0, 15)]));
        assert_eq!(path.deadline(), None);
        (16..48).for_each(|number| path.record(t0, number, true, false));
        path.end_burst(t0);
        assert_eq!(path.deadline(), Some(t1), "one burst waits, however long");
        path.record(t1, 49, true, false);
        assert_eq!(path.deadline(), Some(t1));
        assert_eq!(path.take_ack(t1).1.collect::<Vec<_>>(), [(49, 49), (0, 47)]);
        path.record(t1, 50, true, true);
        assert_eq!(path.deadline(), Some(t1));
        path.end_burst(t1);
        assert_eq!(path.take_ack(t1).0, 0);
        path.record(t1, 51, false, false);
        path.end_burst(t1);
        assert_eq!(path.deadline(), None);
    }

    #[test]
    fn where_little_comes_it_is_acknowledged_in_the_same_turn_and_where_much_comes_only_a_few_times() {
        let mut path = ReceivedPath::default();
        let mut number = 0;
        let mut late = |path: &mut ReceivedPath, now: Instant| {
            path.record(now, number, true, false);
            number += 1;
            path.end_burst(now);
            let late = path.deadline().expect("it asks for an acknowledgement") > now;
            assert_eq!(path.take_ack(now).0, 0);
            late
        };
        for beat in 0..10 {
            let now = Instant::from_millis(100 * (1 + beat));
            assert!((0..4).all(|i| !late(&mut path, now + Duration::from_micros(i * 100))));
        }
        let busy = |i: u64| Instant::from_millis(2000) + Duration::from_micros(i * 100);
        let prompt = (0..3200).filter(|i| !late(&mut path, busy(*i))).count();
        assert_eq!(prompt, 40, "four in 32 ms");
    }
}
