//! One path of a circuit: its state, and what moves it.

use super::mtu::Mtu;
use super::received::ReceivedPath;
use super::recovery::{Part, Recovery};
use super::sabotage::{Sabotage, Saboteur};
use crate::wire::lane_number;
use crate::{Config, Lane, PathId, PathReason, PathState, PathStatus};
use core::time::Duration;
use pils::Instant;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Acknowledgements in a row after which a path that was down carries data again.
const GOOD_PATH: u32 = 5;
/// Probes lost in a row that take a doubtful path down.
const PROBES_LOST: u32 = 3;
/// Longest time that a flapping path is held back.
const HELD_MAX: Duration = Duration::from_secs(60);
/// A path that was up this long does not flap any more.
const STEADY: Duration = Duration::from_secs(60);
/// Pieces that wait to be sent a second time on a path; more are left to the first.
const COPIES_MAX: usize = 256;
/// Weight of one packet in the estimate of loss: 1 / this.
const LOSS_WEIGHT: u32 = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) address: SocketAddr,
    pub(super) received: ReceivedPath,
    pub(super) recovery: Recovery,
    /// When something was sent on it last.
    pub(super) sent_at: Instant,
    pub(super) heard_at: Option<Instant>,
    pub(super) mtu: Mtu,
    /// A PING must go out.
    pub(super) ping: bool,
    /// The next packet carries no data, so that it arrives where only small ones do.
    pub(super) alone: bool,
    /// Acknowledgements in a row without a probe timeout.
    pub(super) good: u32,
    /// First packet number whose acknowledgement proves that the peer lives now.
    pub(super) probe_from: Option<u64>,
    /// Pieces of streams that go out here a second time.
    pub(super) copies: VecDeque<Part>,
    pub(super) state: PathState,
    pub(super) reason: PathReason,
    pub(super) since: Instant,
    /// When it came up last from down. Doubts that pass do not count.
    up_since: Instant,
    carrier: bool,
    /// The state that the layer above knows, and since when.
    told: PathState,
    told_at: Instant,
    /// Failures that followed one another, and until when they hold the path back.
    flaps: u32,
    held_until: Instant,
    loss_ppm: u32,
    pub(super) bug: Saboteur,
}

impl Path {
    pub(super) fn new(now: Instant, id: PathId, address: SocketAddr, config: &Config) -> Self {
        Self {
            id,
            address,
            received: ReceivedPath::default(),
            recovery: Recovery::new(config.datagram),
            sent_at: now,
            heard_at: None,
            mtu: Mtu::new(now, config.datagram, &config.mtu_ladder),
            ping: false,
            alone: false,
            good: 0,
            probe_from: None,
            copies: VecDeque::new(),
            state: PathState::Down,
            reason: PathReason::New,
            since: now,
            up_since: now,
            carrier: true,
            told: PathState::Down,
            told_at: now,
            flaps: 0,
            held_until: now,
            loss_ppm: 0,
            bug: Saboteur::default(),
        }
    }

    fn enter(&mut self, now: Instant, state: PathState, reason: PathReason) {
        if state != self.state {
            self.since = now;
        }
        if (self.state, state) == (PathState::Down, PathState::Up) {
            self.up_since = now;
        }
        (self.state, self.reason) = (state, reason);
    }

    pub(super) const fn is_up(&self) -> bool {
        matches!(self.state, PathState::Up)
    }

    /// How much better others are: 0 is up, 1 answers, 2 is in doubt, 3 is down; 4 and more has no carrier.
    pub(super) const fn rank(&self) -> u8 {
        let rank = match self.state {
            PathState::Up => 0,
            _ if self.recovery.probes() == 0 => 1,
            PathState::Doubtful => 2,
            PathState::Down => 3,
        };
        if self.carrier { rank } else { rank + 4 }
    }

    /// Starts anew: the path, or its address, was not tried yet. Packet numbers go on, because the keys do.
    pub(super) fn renew(&mut self, now: Instant, address: SocketAddr, datagram: usize) {
        self.address = address;
        self.mtu.renew(now, datagram);
        if self.bug.is(Sabotage::RestartNumbers) {
            self.recovery = Recovery::new(datagram);
        }
        self.recovery.set_datagram(datagram);
        self.recovery.renew();
        (self.good, self.flaps, self.held_until, self.loss_ppm) = (0, 0, now, 0);
        (self.carrier, self.ping, self.heard_at) = (true, true, None);
        self.copies.clear();
        self.enter(now, PathState::Down, PathReason::New);
    }

    /// When it is to be probed, if nothing else goes out on it. What only acknowledges asks for no answer: a path that is not up would
    /// never be, if the peer's probes always came a moment before its own.
    pub(super) fn probe_at(&self, heartbeat: Duration) -> Instant {
        let asked = self.recovery.asked().filter(|_| !self.is_up());
        asked.map_or(self.sent_at, |at| at.max(self.since)) + heartbeat
    }

    /// The peer acknowledged something new that was sent on it.
    pub(super) fn on_answer(&mut self, now: Instant) {
        self.good = self.good.saturating_add(1);
        match self.state {
            PathState::Up => {}
            _ if !self.carrier => {}
            PathState::Doubtful => self.enter(now, PathState::Up, PathReason::Answered),
            PathState::Down if self.reason == PathReason::New => {
                self.enter(now, PathState::Up, PathReason::Answered);
            }
            PathState::Down if self.good >= GOOD_PATH && now >= self.held_until => {
                self.enter(now, PathState::Up, PathReason::Answered);
            }
            PathState::Down if self.good >= GOOD_PATH => {
                let held = self.held_until.since(self.since);
                self.enter(now, PathState::Down, PathReason::Flapping { held });
            }
            PathState::Down => {}
        }
    }

    /// A probe timeout went by without an answer. `others` says that another path is up, so that it is this one that
    /// fails and not the peer.
    pub(super) fn on_unanswered(&mut self, now: Instant, heartbeat: Duration, others: bool) {
        self.good = 0;
        let lost = self.recovery.probes() >= PROBES_LOST && self.since + heartbeat / 2 <= now;
        match self.state {
            PathState::Up => self.enter(now, PathState::Doubtful, PathReason::Unanswered),
            PathState::Doubtful if lost => {
                if now.since(self.up_since) >= STEADY {
                    self.flaps = 0;
                }
                self.enter(now, PathState::Down, PathReason::ProbesLost);
                self.hold_back(now, heartbeat, others);
            }
            // Fails again while it is held back. One late answer is no failure, or a busy machine would hold it for good.
            PathState::Down if lost && matches!(self.reason, PathReason::Flapping { .. }) => {
                self.enter(now, PathState::Down, PathReason::ProbesLost);
                self.hold_back(now, heartbeat, others);
            }
            PathState::Doubtful | PathState::Down => {}
        }
    }

    fn hold_back(&mut self, now: Instant, heartbeat: Duration, others: bool) {
        if others && !self.bug.is(Sabotage::NoBackOff) {
            let held = heartbeat.saturating_mul(GOOD_PATH).saturating_mul(1 << self.flaps.min(16));
            self.flaps += 1;
            self.held_until = now + held.min(HELD_MAX.max(heartbeat));
        }
    }

    /// The interface under the path lost or got its carrier. True if that is news.
    pub(super) fn on_carrier(&mut self, now: Instant, carrier: bool) -> bool {
        if carrier == self.carrier || carrier && self.bug.is(Sabotage::StayDark) {
            return false;
        }
        self.carrier = carrier;
        self.good = 0;
        self.ping = true;
        self.enter(
            now,
            PathState::Down,
            if carrier { PathReason::ProbesLost } else { PathReason::NoCarrier },
        );
        true
    }

    /// Datagrams of this size do not pass, says this machine.
    pub(super) fn on_too_large(&mut self, now: Instant, size: usize) {
        if self.mtu.on_too_large(now, size) {
            self.recovery.set_datagram(self.mtu.size());
        }
    }

    /// Packets were lost, or not answered in time; `large` if one was larger than what every network carries.
    pub(super) fn on_large_lost(&mut self, now: Instant, large: bool) {
        if large && !self.bug.is(Sabotage::NeverFallBack) && self.mtu.on_large_lost(now) {
            tracing::debug!(path = self.id.0, "only small datagrams pass");
            self.recovery.set_datagram(self.mtu.size());
        }
    }

    /// Counts what became of packets, for the estimate of loss.
    pub(super) fn count(&mut self, acked: u32, lost: u64) {
        for _ in 0..lost.min(u64::from(LOSS_WEIGHT)) {
            self.loss_ppm += (1_000_000 - self.loss_ppm) / LOSS_WEIGHT;
        }
        for _ in 0..acked.min(4 * LOSS_WEIGHT) {
            self.loss_ppm -= self.loss_ppm.div_ceil(LOSS_WEIGHT);
        }
    }

    /// How long it takes until what is sent now is there, as far as it can be expected: a round trip, and what finding out
    /// that something was lost and sending it again takes, as likely as one of what is under way is lost. What comes behind
    /// it must wait for it, whatever path it came on.
    pub(super) fn completion(&self) -> Duration {
        let rtt = self.recovery.rtt_guess();
        if self.loss_ppm == 0 {
            return rtt;
        }
        let under_way = 1 + self.recovery.in_flight() / self.recovery.datagram().max(1);
        let likely =
            u32::try_from(under_way).unwrap_or(u32::MAX).saturating_mul(self.loss_ppm).min(1_000_000);
        rtt + (self.recovery.pto() + rtt) * (likely / 1000) / 1000
    }

    /// Sends a piece here a second time, if there is room for it to wait. Those of the urgent lane go first, and in place of
    /// others if there is none.
    pub(super) fn copy(&mut self, part: Part) {
        let (urgent, full) = (part.lane == lane_number(Lane::Urgent), self.copies.len() >= COPIES_MAX);
        if urgent {
            if full {
                self.copies.pop_back();
            }
            self.copies.push_front(part);
        } else if !full {
            self.copies.push_back(part);
        }
    }

    /// The state, if the layer above does not know it yet. A doubt is told at most once per heartbeat, because on a busy
    /// machine doubts come and go.
    pub(super) fn take_news(&mut self, now: Instant, heartbeat: Duration) -> Option<PathState> {
        let often = self.state == PathState::Doubtful && now < self.told_at + heartbeat;
        if self.state == self.told || often {
            return None;
        }
        (self.told, self.told_at) = (self.state, now);
        Some(self.state)
    }

    pub(super) fn status(&self, now: Instant, active: bool) -> PathStatus {
        PathStatus {
            path: self.id,
            address: self.address,
            state: self.state,
            reason: self.reason,
            since: now.since(self.since),
            active,
            rtt: self.recovery.rtt(),
            rtt_variance: self.recovery.rtt_variance(),
            loss_ppm: self.loss_ppm,
            silent_for: self.heard_at.map(|at| now.since(at)),
            mtu: self.mtu.size(),
            in_flight: self.recovery.in_flight(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    const H: Duration = Duration::from_millis(100);
    const SECOND: Duration = Duration::from_secs(1);

    fn path() -> (Path, Instant) {
        let (now, config) = (Instant::from_millis(1000), Config::new("demo", Preset::Lan));
        let mut path = Path::new(now, PathId(0), SocketAddr::from(([10, 0, 0, 1], 5405)), &config);
        path.on_answer(now);
        assert!(path.is_up());
        (path, now)
    }

    /// A probe timeout, while another path is up.
    fn miss(path: &mut Path, now: Instant) {
        path.recovery.on_probe_timeout(now, 0, |_| {});
        path.on_unanswered(now, H, true);
    }

    fn answer(path: &mut Path, now: Instant) {
        path.recovery.forget_probes();
        path.on_answer(now);
    }

    /// Answers nothing until it is down, then everything until it is up again: how long that took from the failure on.
    fn cut(path: &mut Path, now: &mut Instant) -> Duration {
        while path.state != PathState::Down {
            *now += H;
            miss(path, *now);
        }
        let failed = *now;
        while !path.is_up() {
            *now += H;
            answer(path, *now);
        }
        now.since(failed)
    }

    #[test]
    fn a_path_that_is_down_is_probed_though_acknowledgements_go_out_on_it() {
        let (mut path, mut now) = path();
        path.sent_at = now + H;
        assert_eq!(path.probe_at(H), now + H * 2, "the peer's answer to anything will do");
        while path.state != PathState::Down {
            now += H;
            miss(&mut path, now);
        }
        answer(&mut path, now);
        path.sent_at = now + H / 2;
        assert_eq!(path.probe_at(H), now + H, "only what asks is answered");
    }

    #[test]
    fn a_flapping_path_is_held_back_longer_each_time_and_never_longer_than_a_minute() {
        let (mut path, mut now) = path();
        let held: Vec<Duration> = (0..14).map(|_| cut(&mut path, &mut now)).collect();
        assert!(held[0] <= H * 6, "{held:?}");
        assert!(held.windows(2).all(|two| two[0] <= two[1]), "{held:?}");
        assert!(held[9..].iter().all(|h| (HELD_MAX..=HELD_MAX + H).contains(h)), "{held:?}");
    }

    #[test]
    fn a_late_answer_now_and_then_does_not_prolong_the_time_that_a_path_is_held_back() {
        let (mut path, mut now) = path();
        for _ in 0..10 {
            cut(&mut path, &mut now);
        }
        while path.state != PathState::Down {
            now += H;
            miss(&mut path, now);
        }
        let failed = now;
        for beat in 1.. {
            now += H;
            // Every tenth answer comes after its probe timeout.
            if beat % 10 == 0 {
                miss(&mut path, now);
            }
            answer(&mut path, now);
            if path.is_up() {
                break;
            }
            assert!(now < failed + HELD_MAX * 2, "it is held back for good");
        }
        assert!(now <= failed + HELD_MAX + H * 6, "{:?}", now.since(failed));
    }

    #[test]
    fn a_path_that_fails_while_it_is_held_back_is_held_anew() {
        let (mut path, mut now) = path();
        for _ in 0..10 {
            cut(&mut path, &mut now);
        }
        while path.state != PathState::Down {
            now += H;
            miss(&mut path, now);
        }
        for _ in 0..20 {
            now += H;
            answer(&mut path, now);
        }
        assert!(matches!(path.reason, PathReason::Flapping { .. }));
        for _ in 0..3 {
            now += H;
            miss(&mut path, now);
        }
        let failed = now;
        while !path.is_up() {
            now += H;
            answer(&mut path, now);
        }
        assert!(now >= failed + HELD_MAX, "{:?}", now.since(failed));
    }

    #[test]
    fn a_path_that_was_only_doubted_for_a_minute_is_steady_and_starts_anew() {
        let (mut path, mut now) = path();
        for _ in 0..8 {
            cut(&mut path, &mut now);
        }
        for _ in 0..61 {
            now += SECOND;
            miss(&mut path, now);
            assert_eq!(path.state, PathState::Doubtful);
            answer(&mut path, now);
        }
        assert!(cut(&mut path, &mut now) <= H * 6, "what failed a minute ago counts no more");
    }
}
