//! Loss recovery and congestion control of one path, in the shape of RFC 9002 with timers for a local network.

use super::outgoing::Outgoing;
use super::received::ACK_DELAY;
use crate::wire::Ack;
use core::time::Duration;
use pils::Instant;
use std::collections::VecDeque;

/// Packets after which an earlier unacknowledged one is lost.
const PACKET_THRESHOLD: u64 = 3;
/// Shortest wait before a packet is lost by time.
const GRANULARITY: Duration = Duration::from_millis(1);
/// Shortest probe timeout.
const PROBE_FLOOR: Duration = Duration::from_millis(3);
/// Congestion window at the start, in bytes.
const WINDOW_INITIAL: usize = 256 << 10;
/// Smallest congestion window, in packets.
const WINDOW_FLOOR: usize = 16;
/// Pieces of streams that one packet can carry.
pub(crate) const PARTS: usize = 3;

/// A piece of a lane's stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) lane: u8,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What a packet carried that must arrive, one way or another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Content {
    parts: [Part; PARTS],
    count: usize,
    /// Lanes whose credit it told, as bits.
    pub(crate) credit: u8,
    pub(crate) accept: bool,
    pub(crate) ping: bool,
    /// Every piece went out on another path first, which sees to its arrival.
    pub(crate) copied: bool,
    /// It is larger than what every network carries.
    pub(crate) large: bool,
}

impl Content {
    pub(crate) const fn is_full(&self) -> bool {
        self.count == PARTS
    }

    pub(crate) fn push(&mut self, part: Part) {
        self.parts[self.count] = part;
        self.count += 1;
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts[..self.count]
    }

    /// Its pieces must go out again.
    pub(crate) fn again(&self, outgoing: &mut [Outgoing; 3]) {
        if !self.copied {
            for part in self.parts() {
                outgoing[usize::from(part.lane)].on_lost(part.start..part.end);
            }
        }
    }

    /// True if the peer must acknowledge the packet.
    pub(crate) const fn asks(&self) -> bool {
        self.count > 0 || self.credit != 0 || self.accept || self.ping
    }
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u64,
    at: Instant,
    size: usize,
    flying: bool,
    content: Content,
}

/// The smoothed round-trip time of RFC 6298, with the variance that the probe timeout needs.
#[derive(Clone, Copy, Debug)]
struct Rtt {
    smoothed: Duration,
    variance: Duration,
    latest: Duration,
    min: Duration,
    measured: bool,
}

impl Rtt {
    fn sample(&mut self, latest: Duration, delay: Duration) {
        self.latest = latest;
        if !self.measured {
            *self = Self { smoothed: latest, variance: latest / 2, latest, min: latest, measured: true };
            return;
        }
        self.min = self.min.min(latest);
        let adjusted = if latest > self.min + delay { latest.saturating_sub(delay) } else { latest };
        let difference = self.smoothed.abs_diff(adjusted);
        self.variance = self.variance * 3 / 4 + difference / 4;
        self.smoothed = self.smoothed * 7 / 8 + adjusted / 8;
    }
}

/// An acknowledgement of a packet number that was never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NeverSent;

/// Sent packets of one path.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    next: u64,
    sent: VecDeque<Sent>,
    in_flight: usize,
    flying: usize,
    largest_acked: Option<u64>,
    rtt: Rtt,
    probes: u32,
    loss_at: Option<Instant>,
    asked_at: Instant,
    window: usize,
    threshold: usize,
    reduced_at: Option<Instant>,
    floor: usize,
}

impl Recovery {
    pub(crate) fn new(datagram: usize) -> Self {
        let guess = Duration::from_millis(10);
        let rtt = Rtt { smoothed: guess, variance: guess / 2, latest: guess, min: guess, measured: false };
        Self {
            next: 0,
            sent: VecDeque::new(),
            in_flight: 0,
            flying: 0,
            largest_acked: None,
            rtt,
            probes: 0,
            loss_at: None,
            asked_at: Instant::ZERO,
            window: WINDOW_INITIAL.max(WINDOW_FLOOR * datagram),
            threshold: usize::MAX,
            reduced_at: None,
            floor: WINDOW_FLOOR * datagram,
        }
    }

    /// The number of the next packet.
    pub(crate) const fn next_number(&self) -> u64 {
        self.next
    }

    /// Bytes that may still be sent now; more for the urgent lane, which congestion does not stop but bounds.
    pub(crate) const fn has_room(&self, urgent: bool) -> bool {
        let window = if urgent { self.window + (64 << 10) } else { self.window };
        self.in_flight < window
    }

    /// True if a packet of `size` bytes is the last that the window admits for now.
    pub(crate) const fn is_filled_by(&self, size: usize) -> bool {
        self.in_flight + size >= self.window
    }

    /// Smoothed round-trip time, once measured.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.measured.then_some(self.rtt.smoothed)
    }

    /// Mean deviation of the round-trip time, once measured.
    pub(crate) fn rtt_variance(&self) -> Option<Duration> {
        self.rtt.measured.then_some(self.rtt.variance)
    }

    /// What the round trip is taken for, measured or not.
    pub(crate) const fn rtt_guess(&self) -> Duration {
        self.rtt.smoothed
    }

    /// Bytes sent and not acknowledged.
    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The congestion window in bytes.
    pub(crate) const fn window(&self) -> usize {
        self.window
    }

    /// The packet size that windows are counted in.
    pub(crate) const fn datagram(&self) -> usize {
        self.floor / WINDOW_FLOOR
    }

    /// Counts windows in packets of this size from now on.
    pub(crate) fn set_datagram(&mut self, datagram: usize) {
        self.floor = WINDOW_FLOOR * datagram;
        self.window = self.window.max(self.floor);
    }

    /// Forgets what was learnt of the path; the numbers go on.
    pub(crate) fn renew(&mut self) {
        *self = Self { next: self.next, ..Self::new(self.datagram()) };
    }

    /// Probe timeouts since the last acknowledgement.
    pub(crate) const fn probes(&self) -> u32 {
        self.probes
    }

    pub(crate) const fn forget_probes(&mut self) {
        self.probes = 0;
    }

    /// Probe timeout without backoff.
    pub(crate) fn pto(&self) -> Duration {
        let t = self.rtt.smoothed + (self.rtt.variance * 4).max(GRANULARITY) + ACK_DELAY;
        t.max(PROBE_FLOOR)
    }

    /// Uses up the next number for a packet of `size` bytes.
    pub(crate) fn on_sent(&mut self, now: Instant, size: usize, content: Content) {
        let number = self.next;
        self.next += 1;
        if content.asks() {
            // Not with each packet: a sender that never rests would never notice that nothing comes back.
            if self.flying == 0 {
                self.asked_at = now;
            }
            self.in_flight += size;
            self.flying += 1;
            self.sent.push_back(Sent { number, at: now, size, flying: true, content });
        }
    }

    /// When an answer was last asked for, if none is owed.
    pub(crate) fn asked(&self) -> Option<Instant> {
        (self.flying == 0).then_some(self.asked_at)
    }

    /// Waits for an answer from now on: the bug that tests put back.
    pub(crate) const fn wait_anew(&mut self, now: Instant) {
        self.asked_at = now;
    }

    /// When [`Recovery::detect_lost`] or, if it is `true`, [`Recovery::on_probe_timeout`] is due. Backoff ends at `cap`.
    pub(crate) fn deadline(&self, cap: Duration) -> Option<(Instant, bool)> {
        if let Some(at) = self.loss_at {
            return Some((at, false));
        }
        if self.flying == 0 {
            return None;
        }
        let base = self.pto();
        let wait = base.saturating_mul(1 << self.probes.min(16)).min(cap.max(base));
        Some((self.asked_at + wait, true))
    }

    /// Takes an acknowledgement; calls `acked` for each packet it is the first for. True if there was one.
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        ack: &Ack<'_>,
        mut acked: impl FnMut(&Content),
    ) -> Result<bool, NeverSent> {
        if ack.largest >= self.next {
            return Err(NeverSent);
        }
        let mut bytes = 0;
        let mut newest = None;
        for (low, high) in ack.ranges() {
            let from = self.sent.partition_point(|s| s.number < low);
            for sent in self.sent.range_mut(from..).take_while(|s| s.number <= high) {
                if sent.flying {
                    sent.flying = false;
                    self.flying -= 1;
                    self.in_flight -= sent.size;
                    if self.reduced_at.is_none_or(|t| sent.at > t) {
                        bytes += sent.size;
                    }
                    newest = newest.max(Some((sent.number, sent.at)));
                    acked(&sent.content);
                }
            }
            if self.sent.front().is_none_or(|s| s.number >= low) {
                break;
            }
        }
        self.largest_acked = self.largest_acked.max(Some(ack.largest));
        let Some((number, at)) = newest else { return Ok(false) };
        if number == ack.largest {
            self.rtt.sample(now.since(at), Duration::from_micros(ack.delay));
        }
        (self.probes, self.asked_at) = (0, self.asked_at.max(now));
        self.grow(bytes);
        self.trim();
        Ok(true)
    }

    /// Slow start below the threshold, one packet per window above. A window that is not used does not grow.
    fn grow(&mut self, bytes: usize) {
        const WINDOW_MAX: usize = 1 << 30;
        if bytes == 0 || self.in_flight + bytes < self.window / 2 {
            return;
        }
        let step = if self.window < self.threshold {
            bytes
        } else {
            self.floor / WINDOW_FLOOR * bytes / self.window.max(1)
        };
        self.window = (self.window + step).min(WINDOW_MAX);
    }

    fn trim(&mut self) {
        while self.sent.front().is_some_and(|s| !s.flying) {
            self.sent.pop_front();
        }
    }

    /// Finds packets that are lost by number or by time; calls `lost` for each.
    pub(crate) fn detect_lost(&mut self, now: Instant, mut lost: impl FnMut(&Content)) -> u64 {
        self.loss_at = None;
        let Some(largest) = self.largest_acked else { return 0 };
        let longest = self.rtt.smoothed.max(self.rtt.latest);
        let wait = (longest * 9 / 8).max(GRANULARITY);
        let (mut count, mut last_at) = (0, None);
        for sent in self.sent.iter_mut().take_while(|s| s.number < largest) {
            if !sent.flying {
                continue;
            }
            if sent.number + PACKET_THRESHOLD <= largest || sent.at + wait <= now {
                sent.flying = false;
                self.flying -= 1;
                self.in_flight -= sent.size;
                last_at = Some(sent.at);
                count += 1;
                lost(&sent.content);
            } else {
                self.loss_at = Some(sent.at + wait);
                break;
            }
        }
        self.trim();
        if last_at.is_some_and(|at| self.reduced_at.is_none_or(|t| at > t)) {
            self.reduced_at = Some(now);
            self.window = (self.window / 10 * 7).max(self.floor);
            self.threshold = self.window;
        }
        count
    }

    /// Nothing was acknowledged in time: calls `again` for the oldest `most` packets, which stay in flight.
    pub(crate) fn on_probe_timeout(&mut self, now: Instant, most: usize, again: impl FnMut(&Content)) {
        self.probes += 1;
        self.asked_at = now;
        self.sent.iter().filter(|s| s.flying).take(most).map(|s| &s.content).for_each(again);
    }

    /// True if the oldest packet in flight is larger than what every network carries.
    pub(crate) fn is_large_oldest(&self) -> bool {
        self.sent.iter().find(|s| s.flying).is_some_and(|s| s.content.large)
    }

    /// Gives up everything in flight, because another path takes over.
    pub(crate) fn abandon(&mut self, mut lost: impl FnMut(&Content)) {
        for sent in self.sent.drain(..).filter(|s| s.flying) {
            lost(&sent.content);
        }
        (self.in_flight, self.flying, self.loss_at) = (0, 0, None);
    }

    pub(crate) fn check_invariants(&self) {
        let flying = || self.sent.iter().filter(|s| s.flying);
        assert_eq!(self.in_flight, flying().map(|s| s.size).sum::<usize>(), "bytes in flight are counted");
        assert_eq!(self.flying, flying().count(), "packets in flight are counted");
        assert!(self.sent.iter().all(|s| s.number < self.next), "only used numbers are remembered");
        assert!(self.window >= self.floor, "the window keeps its floor");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Frame, put_ack};
    use pils::wire::Reader;

    fn ack(recovery: &mut Recovery, now: Instant, ranges: &[(u64, u64)]) -> Result<Vec<u64>, NeverSent> {
        let mut bytes = Vec::new();
        put_ack(&mut bytes, 0, 0, 1000, ranges.iter().copied());
        let Ok(Some(Frame::Ack(ack))) = Frame::parse(&mut Reader::new(&bytes)) else { panic!("an ack") };
        let mut acked = Vec::new();
        recovery.on_ack(now, &ack, |content| acked.extend(content.parts().iter().map(|p| p.start)))?;
        recovery.check_invariants();
        Ok(acked)
    }

    fn flight(count: u64) -> Recovery {
        let mut recovery = Recovery::new(1400);
        for i in 0..count {
            let mut content = Content::default();
            content.push(Part { lane: 0, start: i, end: i + 1 });
            recovery.on_sent(Instant::from_millis(1), 1000, content);
        }
        recovery
    }

    #[test]
    fn an_acknowledgement_of_a_packet_never_sent_is_an_error() {
        let mut recovery = flight(3);
        assert_eq!(ack(&mut recovery, Instant::from_millis(2), &[(3, 3)]), Err(NeverSent));
        assert_eq!(ack(&mut recovery, Instant::from_millis(2), &[(2, 2), (0, 0)]), Ok(vec![2, 0]));
        assert_eq!(ack(&mut recovery, Instant::from_millis(2), &[(0, 2)]), Ok(vec![1]));
    }

    #[test]
    fn packets_are_lost_three_numbers_later_or_after_a_while_and_the_window_shrinks_once() {
        let mut recovery = flight(10);
        let mut lost = Vec::new();
        let now = Instant::from_millis(2);
        ack(&mut recovery, now, &[(5, 5)]).unwrap();
        assert_eq!(recovery.detect_lost(now, |c| lost.push(c.parts()[0].start)), 3);
        assert_eq!(lost, [0, 1, 2]);
        assert_eq!(recovery.window, WINDOW_INITIAL / 10 * 7);
        let (at, is_probe) = recovery.deadline(Duration::from_secs(1)).unwrap();
        assert!(!is_probe);
        assert_eq!(recovery.detect_lost(at, |_| {}), 2);
        assert_eq!(recovery.window, WINDOW_INITIAL / 10 * 7, "one reduction per round trip");
        assert!(recovery.deadline(Duration::from_secs(1)).unwrap().1, "the rest waits for a probe timeout");
    }

    #[test]
    fn probe_timeouts_double_up_to_the_cap() {
        let mut recovery = flight(1);
        let cap = Duration::from_millis(100);
        let mut waits = Vec::new();
        for _ in 0..4 {
            let (at, is_probe) = recovery.deadline(cap).unwrap();
            assert!(is_probe);
            waits.push(at.since(recovery.asked_at).as_millis());
            recovery.on_probe_timeout(at, 2, |_| {});
        }
        assert_eq!(waits, [31, 62, 100, 100]);
    }
}
