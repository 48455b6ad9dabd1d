use core::time::Duration;
use pils::Instant;

/// When a peer that is not heard is taken for dead.
///
/// The timeout is T = max(T_d, mean + 6 standard deviations of the gaps between arrivals), at most 4 T_d. Both are
/// running averages over the last dozen gaps, and only gaps that matter beside a heartbeat are taken.
#[derive(Clone, Debug)]
pub(crate) struct Detector {
    heard_at: Instant,
    /// Nanoseconds.
    mean: u64,
    /// Nanoseconds squared.
    variance: u128,
    /// Its square root, kept because it is asked for much more often than it changes.
    deviation: u64,
    /// The next gap says nothing: it spans a silence or a stall.
    skip: bool,
}

impl Detector {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { heard_at: now, mean: 0, variance: 0, deviation: 0, skip: true }
    }

    /// Something authenticated arrived.
    pub(crate) fn heard(&mut self, now: Instant, heartbeat: Duration) {
        let gap = now.since(self.heard_at);
        self.heard_at = self.heard_at.max(now);
        if core::mem::take(&mut self.skip) || gap < heartbeat / 16 {
            return;
        }
        let gap = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX) >> 3;
        let eighth = |x: u64| x - (x >> 3);
        self.mean = eighth(self.mean) + gap;
        let difference = u128::from(self.mean.abs_diff(gap << 3));
        self.variance = self.variance - (self.variance >> 3) + ((difference * difference) >> 3);
        self.deviation = u64::try_from(self.variance.isqrt()).unwrap_or(u64::MAX);
    }

    /// When something was heard last.
    pub(crate) const fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// The gap that is running now says nothing about the network.
    pub(crate) const fn skip_gap(&mut self) {
        self.skip = true;
    }

    /// How long the peer may be silent: at least `detection`, at most four times that.
    pub(crate) fn timeout(&self, detection: Duration) -> Duration {
        let estimate = Duration::from_nanos(self.mean.saturating_add(self.deviation.saturating_mul(6)));
        estimate.clamp(detection, detection.saturating_mul(4))
    }
}

impl Detector {
    /// How unlikely a silence of this length is, as the phi of the accrual detector in hundredths, with the logistic
    /// approximation of the normal tail. Deviations below a quarter of a heartbeat count as that.
    pub(crate) fn phi_hundredths(&self, now: Instant, heartbeat: Duration) -> u32 {
        let nanos = |d: Duration| d.as_secs_f64() * 1e9;
        #[expect(clippy::cast_precision_loss, reason = "a diagnostic")]
        let (mean, deviation) = (self.mean as f64, self.deviation as f64);
        let (mean, deviation) = (mean.max(nanos(heartbeat)), deviation.max(nanos(heartbeat) / 4.0));
        let y = (nanos(now.since(self.heard_at)) - mean) / deviation;
        let exponent = y * (1.5976 + 0.070_566 * y * y);
        // -log10(e^-x / (1 + e^-x)) = log10(1 + e^x)
        let phi =
            if exponent > 500.0 { f64::INFINITY } else { exponent.exp().ln_1p() / core::f64::consts::LN_10 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 to 10,000")]
        let hundredths = (phi * 100.0).clamp(0.0, 10_000.0) as u32;
        hundredths
    }

    /// How well a peer is that is up, 0 to 100: all of it until one expected gap has passed, nothing at the timeout.
    pub(crate) fn health(&self, now: Instant, timeout: Duration, heartbeat: Duration) -> u8 {
        let expected = Duration::from_nanos(self.mean).max(heartbeat).saturating_mul(2).min(timeout / 2);
        let over = now.since(self.heard_at).saturating_sub(expected).as_nanos();
        let all = timeout.saturating_sub(expected).as_nanos().max(1);
        u8::try_from(100 - (100 * over / all).min(100)).unwrap_or(100)
    }
}

/// How far this node's own lateness discredits its judgement of others: a factor of 1 to 8 on their timeouts.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    factor: u32,
    better_at: Instant,
}

impl Health {
    const MAX: u32 = 8;

    pub(crate) const fn new(now: Instant) -> Self {
        Self { factor: 1, better_at: now }
    }

    pub(crate) const fn factor(&self) -> u32 {
        self.factor
    }

    /// This node acts `late` after it wanted to: one step worse if that matters beside a heartbeat, one step better after
    /// each heartbeat without.
    pub(crate) fn observe(&mut self, now: Instant, late: Duration, heartbeat: Duration) {
        if late > heartbeat / 4 {
            self.factor = (self.factor + 1).min(Self::MAX);
            self.better_at = now + heartbeat;
        } else if now >= self.better_at {
            self.factor = (self.factor - 1).max(1);
            self.better_at = now + heartbeat;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: Duration = Duration::from_millis(100);
    const T_D: Duration = Duration::from_millis(500);

    #[test]
    fn regular_arrivals_keep_the_timeout_at_its_floor_and_irregular_ones_raise_it_to_the_cap() {
        let mut now = Instant::from_millis(1000);
        let mut d = Detector::new(now);
        for _ in 0..100 {
            now += H;
            d.heard(now, H);
        }
        assert_eq!(d.timeout(T_D), T_D);
        for i in 0..40 {
            now += if i % 2 == 0 { H } else { H * 9 };
            d.heard(now, H);
        }
        let raised = d.timeout(T_D);
        assert!(raised > T_D * 2 && raised <= T_D * 4, "{raised:?}");
        for _ in 0..100 {
            now += H;
            d.heard(now, H);
        }
        assert_eq!(d.timeout(T_D), T_D);
    }

    #[test]
    fn a_gap_over_a_known_silence_is_not_counted() {
        let mut now = Instant::from_millis(1000);
        let mut d = Detector::new(now);
        for i in 0..50 {
            now += if i == 40 { H * 100 } else { H };
            if i == 40 {
                d.skip_gap();
            }
            d.heard(now, H);
        }
        assert_eq!(d.timeout(T_D), T_D);
    }

    #[test]
    fn phi_and_health_follow_the_silence_and_are_calm_without_one() {
        let mut now = Instant::from_millis(1000);
        let mut d = Detector::new(now);
        for _ in 0..50 {
            now += H;
            d.heard(now, H);
        }
        let at = |silence| (d.phi_hundredths(now + silence, H), d.health(now + silence, T_D, H));
        assert!(at(H).0 <= 35 && at(H).1 == 100, "{:?}", at(H));
        let levels: Vec<(u32, u8)> = (1..=6).map(|k| at(H * k)).collect();
        assert!(levels.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 >= w[1].1), "{levels:?}");
        assert!(levels[2].0 > 300, "three heartbeats are rare: {levels:?}");
        assert_eq!((at(T_D).1, at(T_D * 1000).0), (0, 10_000));
    }

    #[test]
    fn health_worsens_with_each_lateness_and_recovers_with_time() {
        let mut now = Instant::from_millis(0);
        let mut health = Health::new(now);
        for _ in 0..20 {
            health.observe(now, H, H);
        }
        assert_eq!(health.factor(), 8);
        for _ in 0..7 {
            now += H;
            health.observe(now, Duration::ZERO, H);
        }
        assert_eq!(health.factor(), 1);
    }
}
