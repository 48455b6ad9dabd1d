//! The largest datagram that a path carries: searched with probes in the shape of RFC 8899.

use core::time::Duration;
use pils::Instant;

/// Every network carries this much, or it cannot be used.
pub(crate) const BASE: usize = 1200;
/// Probes of one size that are lost before it counts as too large.
const PROBES_MAX: u32 = 3;
/// After this long, sizes that were too large are tried again.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Losses of large packets, with small ones arriving in between and no large one, that make a black hole.
const BLACK_HOLE: u32 = 3;
/// Shortest time in which a probe may be answered.
const PROBE_MIN: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u64,
    size: usize,
    expires: Instant,
}

/// The search on one path, and what it found.
#[derive(Debug)]
pub(super) struct Mtu {
    /// Size in use.
    size: usize,
    /// Sizes that are tried, ascending.
    ladder: Box<[usize]>,
    /// The smallest size known not to pass.
    limit: usize,
    /// When `limit` is forgotten, or the next probe may go.
    next_at: Instant,
    probe: Option<Probe>,
    tries: u32,
    /// Losses of large packets in a row; see [`BLACK_HOLE`].
    losses: u32,
    small_arrived: bool,
}

impl Mtu {
    /// A search that uses `size` from the start, and tries the sizes of `ladder` that are larger.
    pub(super) fn new(now: Instant, size: usize, ladder: &[usize]) -> Self {
        Self {
            size,
            ladder: [BASE, size]
                .iter()
                .chain(ladder)
                .copied()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect(),
            limit: usize::MAX,
            next_at: now,
            probe: None,
            tries: 0,
            losses: 0,
            small_arrived: false,
        }
    }

    /// The size in use.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Starts over from `size`, because the network under the path may be another.
    pub(super) fn renew(&mut self, now: Instant, size: usize) {
        let ladder = core::mem::take(&mut self.ladder);
        *self = Self { ladder, ..Self::new(now, size, &[]) };
    }

    fn candidate(&self) -> Option<usize> {
        self.ladder.iter().copied().find(|s| *s > self.size && *s < self.limit)
    }

    /// The size to probe now, if one is due.
    pub(super) fn due(&self, now: Instant) -> Option<usize> {
        self.candidate().filter(|_| self.probe.is_none() && now >= self.next_at)
    }

    /// When [`Mtu::on_timeout`] or a probe is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.probe {
            Some(probe) => Some(probe.expires),
            None => (self.limit < usize::MAX || self.candidate().is_some()).then_some(self.next_at),
        }
    }

    pub(super) fn on_probe_sent(&mut self, now: Instant, number: u64, size: usize, pto: Duration) {
        self.probe = Some(Probe { number, size, expires: now + (pto * 3).max(PROBE_MIN) });
    }

    /// The number of the probe that is under way.
    pub(super) fn awaited(&self) -> Option<u64> {
        self.probe.map(|p| p.number)
    }

    /// The probe arrived. Gives the new size.
    pub(super) fn on_probe_acked(&mut self, now: Instant) -> usize {
        if let Some(probe) = self.probe.take() {
            self.size = self.size.max(probe.size);
            (self.tries, self.next_at, self.losses) = (0, now, 0);
            if self.candidate().is_none() && self.limit < usize::MAX {
                self.next_at = now + RAISE_AFTER;
            }
        }
        self.size
    }

    /// Gives up a probe that is overdue, and forgets what was too large long ago.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        match self.probe {
            Some(probe) if probe.expires <= now => {
                self.probe = None;
                self.tries += 1;
                if self.tries >= PROBES_MAX {
                    self.on_too_large(now, probe.size);
                }
            }
            None if self.limit < usize::MAX && self.candidate().is_none() && now >= self.next_at => {
                self.limit = usize::MAX;
                self.tries = 0;
            }
            Some(_) | None => {}
        }
    }

    /// Datagrams of this size do not pass. True if the size in use became smaller by that.
    pub(super) fn on_too_large(&mut self, now: Instant, size: usize) -> bool {
        if size <= BASE {
            return false;
        }
        self.probe = self.probe.filter(|p| p.size < size);
        self.tries = 0;
        self.limit = self.limit.min(size);
        if self.candidate().is_none() || size <= self.size {
            self.next_at = now + RAISE_AFTER;
        }
        let falls = size <= self.size;
        if falls {
            let fits = self.ladder.iter().copied().rfind(|s| *s < size);
            self.size = fits.unwrap_or(BASE);
            self.losses = 0;
        }
        falls
    }

    /// A packet arrived; `large` if it was larger than any network must carry.
    pub(super) const fn on_arrived(&mut self, large: bool) {
        if large {
            self.losses = 0;
        } else {
            self.small_arrived = true;
        }
    }

    /// Large packets were lost. True if that was once too often: the size in use is the smallest again, and the search
    /// starts below the size that is not carried any more.
    pub(super) fn on_large_lost(&mut self, now: Instant) -> bool {
        if self.size <= BASE {
            return false;
        }
        if self.losses == 0 || self.small_arrived {
            self.losses += 1;
            self.small_arrived = false;
        }
        if self.losses < BLACK_HOLE {
            return false;
        }
        (self.limit, self.size, self.losses, self.tries) = (self.size, BASE, 0, 0);
        self.probe = None;
        self.next_at = if self.candidate().is_some() { now } else { now + RAISE_AFTER };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: [usize; 5] = [1200, 1400, 1472, 4072, 8972];
    const PTO: Duration = Duration::from_millis(5);

    /// Runs the search over a network that carries so much; gives the size found and the probes it took.
    fn search(mtu: &mut Mtu, now: &mut Instant, carries: usize) -> u32 {
        let mut probes = 0;
        for number in 0..100 {
            mtu.on_timeout(*now);
            let Some(size) = mtu.due(*now) else { break };
            mtu.on_probe_sent(*now, number, size, PTO);
            probes += 1;
            if size <= carries {
                mtu.on_probe_acked(*now);
            } else {
                *now = mtu.deadline().unwrap();
            }
        }
        probes
    }

    #[test]
    fn the_search_finds_the_largest_size_that_passes_and_tries_again_after_ten_minutes() {
        let mut now = Instant::from_millis(1);
        for (carries, found) in [(1200, 1400), (1471, 1400), (1472, 1472), (8971, 4072), (9000, 8972)] {
            let mut mtu = Mtu::new(now, 1400, &LADDER);
            assert!(search(&mut mtu, &mut now, carries) <= 6);
            assert_eq!(mtu.size(), found);
            let due = mtu.deadline();
            assert_eq!(due.is_some(), found < 8972);
            if let Some(at) = due {
                assert!(at.since(now) <= RAISE_AFTER && at.since(now) > RAISE_AFTER / 2);
                now = at;
                mtu.on_timeout(now);
                search(&mut mtu, &mut now, 9000);
                assert_eq!(mtu.size(), 8972, "the network was changed meanwhile");
            }
        }
    }

    #[test]
    fn large_packets_that_vanish_among_small_ones_make_a_black_hole_and_congestion_does_not() {
        let now = Instant::from_millis(1);
        let mut mtu = Mtu::new(now, 4072, &LADDER);
        for _ in 0..10 {
            assert!(!mtu.on_large_lost(now), "nothing arrives at all: the path is dead, not narrow");
        }
        for _ in 0..10 {
            assert!(!mtu.on_large_lost(now));
            mtu.on_arrived(false);
            mtu.on_arrived(true);
        }
        let mut falls = 0;
        for _ in 0..BLACK_HOLE {
            mtu.on_arrived(false);
            falls += u32::from(mtu.on_large_lost(now));
        }
        assert_eq!((falls, mtu.size(), mtu.due(now)), (1, BASE, Some(1400)));
    }

    #[test]
    fn the_systems_word_that_a_datagram_is_too_large_counts_at_once() {
        let now = Instant::from_millis(1);
        let mut mtu = Mtu::new(now, 1472, &LADDER);
        mtu.on_probe_sent(now, 3, 4072, PTO);
        assert!(!mtu.on_too_large(now, 4072));
        assert_eq!((mtu.size(), mtu.awaited(), mtu.due(now)), (1472, None, None));
        assert!(mtu.on_too_large(now, 1472));
        assert_eq!(mtu.size(), 1400);
        assert!(!mtu.on_too_large(now, BASE), "less than that cannot be used");
    }
}
