use super::config::WAITING_MAX;
use super::{PING_TOKEN, PingConfig, PingReason, PingState};
use crate::crypto::Drbg;
use core::time::Duration;
use pils::Instant;
use std::collections::VecDeque;
use std::net::IpAddr;

/// What is known of one host of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct PingHostStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its state.
    pub state: PingState,
    /// Why.
    pub reason: PingReason,
    /// How long it has been in it.
    pub since: Duration,
    /// Smoothed round-trip time, once it answered.
    pub rtt: Option<Duration>,
    /// Mean deviation of it.
    pub rtt_variance: Option<Duration>,
    /// How many of the last 64 requests were lost, in parts per million.
    pub loss_ppm: u32,
    /// How long ago it answered last.
    pub silent_for: Option<Duration>,
    /// Requests to it so far.
    pub sent: u64,
    /// Answers that counted.
    pub answered: u64,
}

/// A state that a host enters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    pub(super) state: PingState,
    pub(super) reason: PingReason,
}

#[derive(Debug)]
struct Waiting {
    sequence: u16,
    token: [u8; PING_TOKEN],
    sent_at: Instant,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) address: IpAddr,
    state: PingState,
    reason: PingReason,
    since: Instant,
    next_at: Instant,
    sequence: u16,
    waiting: VecDeque<Waiting>,
    answered_in_row: u32,
    lost_in_row: u32,
    heard_at: Option<Instant>,
    /// Smoothed round-trip time and its mean deviation, as in RFC 6298.
    rtt: Option<(Duration, Duration)>,
    /// The last requests that were decided, the latest in the lowest bit: 1 is lost.
    losses: u64,
    decided: u32,
    sent: u64,
    answered: u64,
}

impl Host {
    /// Asks first somewhere within the first interval, so that many hosts are not asked at one moment. The first sequence
    /// number is random.
    pub(super) fn new(now: Instant, address: IpAddr, config: &PingConfig, random: u32) -> Self {
        let first = config.interval.min(Duration::from_millis(200)) * (random >> 16) / (1 << 16);
        Self {
            address,
            state: PingState::Unknown,
            reason: PingReason::Starting,
            since: now,
            next_at: now + first,
            sequence: u16::try_from(random & 0xffff).unwrap_or_default(),
            waiting: VecDeque::new(),
            answered_in_row: 0,
            lost_in_row: 0,
            heard_at: None,
            rtt: None,
            losses: 0,
            decided: 0,
            sent: 0,
            answered: 0,
        }
    }

    pub(super) const fn state(&self) -> PingState {
        self.state
    }

    pub(super) const fn enter(&mut self, now: Instant, verdict: Verdict) {
        (self.state, self.reason, self.since) = (verdict.state, verdict.reason, now);
    }

    pub(super) fn status(&self, now: Instant) -> PingHostStatus {
        let lost = u64::from(self.losses.count_ones()) * 1_000_000 / u64::from(self.decided.max(1));
        PingHostStatus {
            address: self.address,
            state: self.state,
            reason: self.reason,
            since: now.since(self.since),
            rtt: self.rtt.map(|(smoothed, _)| smoothed),
            rtt_variance: self.rtt.map(|(_, variance)| variance),
            loss_ppm: u32::try_from(lost).unwrap_or(u32::MAX),
            silent_for: self.heard_at.map(|at| now.since(at)),
            sent: self.sent,
            answered: self.answered,
        }
    }

    pub(super) fn deadline(&self, config: &PingConfig) -> Instant {
        let oldest = self.waiting.front().map(|waiting| waiting.sent_at + config.timeout);
        oldest.map_or(self.next_at, |at| at.min(self.next_at))
    }

    /// The next request, if it is due.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        config: &PingConfig,
        random: &mut Drbg,
    ) -> Option<(u16, [u8; PING_TOKEN])> {
        if self.next_at > now {
            return None;
        }
        // After a pause there is one request, not all that were missed.
        let tenth = config.interval / 10;
        self.next_at = now + tenth * 9 + tenth * 2 * (random.u32() >> 16) / (1 << 16);
        // An interval a tenth shorter than the mean lets few more than that wait.
        if self.waiting.len() >= 2 * WAITING_MAX as usize {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let token = random.bytes();
        self.waiting.push_back(Waiting { sequence: self.sequence, token, sent_at: now });
        self.sent += 1;
        Some((self.sequence, token))
    }

    /// `None` if the reply is not one to a request of this host that waits; else the state that it enters, if any.
    pub(super) fn on_reply(
        &mut self,
        now: Instant,
        from: IpAddr,
        (sequence, token): (u16, &[u8]),
        config: &PingConfig,
    ) -> Option<Option<Verdict>> {
        if from != self.address {
            return None;
        }
        let of = |waiting: &Waiting| waiting.sequence == sequence && waiting.token[..] == *token;
        let at = self.waiting.iter().position(of)?;
        let waiting = self.waiting.remove(at)?;
        // What waited beyond its time was read late by a machine that stood still: it says that the host lives, not how far it is.
        let sample = now.since(waiting.sent_at);
        if sample <= config.timeout {
            self.measure(sample);
        }
        self.decide(0);
        self.heard_at = Some(now);
        self.answered += 1;
        self.lost_in_row = 0;
        self.answered_in_row = self.answered_in_row.saturating_add(1);
        let needed = if self.state == PingState::Unknown { 1 } else { config.up_after };
        let up = self.state != PingState::Up && self.answered_in_row >= needed;
        let reason = PingReason::Answered { in_row: self.answered_in_row };
        Some(up.then_some(Verdict { state: PingState::Up, reason }))
    }

    /// As [`Host::on_reply`], for a request that did not leave this machine.
    pub(super) fn on_not_sent(
        &mut self,
        to: IpAddr,
        sequence: u16,
        config: &PingConfig,
    ) -> Option<Option<Verdict>> {
        let waits = |waiting: &Waiting| waiting.sequence == sequence;
        let at = self.waiting.iter().position(waits).filter(|_| to == self.address)?;
        self.waiting.remove(at)?;
        Some(self.lost(true, config))
    }

    /// Gives up one request whose time is over. `None` if there is none.
    pub(super) fn on_timeout(&mut self, now: Instant, config: &PingConfig) -> Option<Option<Verdict>> {
        self.waiting.front().filter(|waiting| waiting.sent_at + config.timeout <= now)?;
        self.waiting.pop_front()?;
        Some(self.lost(false, config))
    }

    fn lost(&mut self, not_sent: bool, config: &PingConfig) -> Option<Verdict> {
        self.decide(1);
        self.answered_in_row = 0;
        self.lost_in_row = self.lost_in_row.saturating_add(1);
        let in_row = self.lost_in_row;
        let reason = if not_sent { PingReason::NotSent { in_row } } else { PingReason::Silent { in_row } };
        let down = self.state != PingState::Down && in_row >= config.down_after;
        down.then_some(Verdict { state: PingState::Down, reason })
    }

    const fn decide(&mut self, lost: u64) {
        self.losses = self.losses << 1 | lost;
        if self.decided < u64::BITS {
            self.decided += 1;
        }
    }

    fn measure(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            None => (sample, sample / 2),
            Some((smoothed, variance)) => {
                ((smoothed * 7 + sample) / 8, (variance * 3 + smoothed.abs_diff(sample)) / 4)
            }
        });
    }
}
