//! What happens between a request and its outcome: passes, rounds, answers.

use super::{Authority, Fencer};
use crate::request::Phase;
use crate::{
    AttemptId, DeviceReport, DeviceResult, Event, Evidence, Failure, FenceAction, Outcome, Output, ReadBack,
    Run, UnknownReason,
};
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::sync::Arc;

impl Fencer {
    /// The deadline of a request has come.
    pub(super) fn fire(&mut self, now: Instant, target: NodeInstance) {
        let Some(standing) = self.requests.get_mut(&target) else { return };
        match standing.phase.clone() {
            Phase::Waiting { .. } => {
                if standing.round_over {
                    standing.begin_round(now);
                }
                self.next_attempt(now, target);
            }
            Phase::Running { attempt, device, timeout, .. } => {
                self.stats.timed_out += 1;
                if self.config.late_max > 0 {
                    while standing.expired.len() >= self.config.late_max {
                        standing.expired.pop_front();
                    }
                    standing.expired.push_back((attempt, device.clone()));
                }
                self.outputs.push_back(Output::Cancel { attempt });
                self.attempt_failed(now, target, (attempt, device), Failure::TimedOut { after: timeout });
            }
            Phase::Held | Phase::Unconfirmed { .. } => {}
        }
    }

    fn attempt_failed(
        &mut self,
        now: Instant,
        target: NodeInstance,
        (attempt, device): (AttemptId, Arc<str>),
        failure: Failure,
    ) {
        self.stats.failed += 1;
        if let Some(standing) = self.requests.get_mut(&target) {
            standing.last_failure = Some((device.clone(), failure.clone()));
        }
        self.emit(Event::AttemptFailed { target, attempt, device, failure });
        self.next_attempt(now, target);
    }

    /// Asks the next device of the pass; or ends the pass, or the round.
    fn next_attempt(&mut self, now: Instant, target: NodeInstance) {
        let may = self.authority == Authority::Granted;
        let Some(standing) = self.requests.get_mut(&target) else { return };
        if !may && !standing.by_operator {
            standing.phase = Phase::Held;
            let (round, reason) = (standing.round, UnknownReason::Suspended);
            let outcome = Outcome::Unknown { reason };
            self.emit(Event::Unresolved { target, round, outcome, next_round_in: None });
            return;
        }
        let grace = Duration::from_millis(self.config.answer_grace_ms);
        let round_end = standing.round_began + Duration::from_millis(self.config.round_budget_ms);
        let Some(device) = self.config.devices_of(target.node).nth(standing.next_device) else {
            self.pass_over(now, target, round_end);
            return;
        };
        let timeout = device.timeout();
        if standing.pass > 0 && now + timeout + grace > round_end {
            if !self.settle_unconfirmed(target) {
                self.round_over(now, target);
            }
            return;
        }
        self.last_attempt += 1;
        let attempt = AttemptId(self.last_attempt);
        let name: Arc<str> = Arc::from(device.name.as_str());
        let plug = device.target(target.node).and_then(|t| t.plug).map(Arc::from);
        let action = FenceAction::Off;
        standing.asked.insert(standing.next_device);
        standing.next_device += 1;
        standing.attempts += 1;
        standing.phase =
            Phase::Running { attempt, device: name.clone(), timeout, until: now + timeout + grace };
        self.stats.attempts += 1;
        self.emit(Event::AttemptStarted { target, attempt, device: name.clone(), action });
        self.outputs.push_back(Output::Run(Run { attempt, device: name, action, target, plug, timeout }));
    }

    fn pass_over(&mut self, now: Instant, target: NodeInstance, round_end: Instant) {
        if self.settle_unconfirmed(target) {
            return;
        }
        let Some(standing) = self.requests.get_mut(&target) else { return };
        standing.pass += 1;
        standing.next_device = 0;
        let until =
            now + doubled(self.config.retry_pause_ms, standing.pass - 1, self.config.round_pause_ms_max);
        let has_device = self.config.devices_of(target.node).next().is_some();
        if standing.pass >= self.config.passes_max || until >= round_end || !has_device {
            self.round_over(now, target);
        } else {
            standing.phase = Phase::Waiting { until };
        }
    }

    /// If a device took the order and none could confirm it: says so, and tries no more. Asking again would hit the
    /// node's next life.
    fn settle_unconfirmed(&mut self, target: NodeInstance) -> bool {
        let Some(standing) = self.requests.get_mut(&target) else { return false };
        let Some(evidence) = standing.requested.take() else { return false };
        standing.phase = Phase::Unconfirmed { evidence: evidence.clone() };
        self.stats.requested += 1;
        self.emit(Event::Finished { target, outcome: Outcome::Requested { evidence } });
        true
    }

    fn round_over(&mut self, now: Instant, target: NodeInstance) {
        let Some(standing) = self.requests.get_mut(&target) else { return };
        let pause = doubled(self.config.round_pause_ms, standing.round - 1, self.config.round_pause_ms_max);
        standing.phase = Phase::Waiting { until: now + pause };
        standing.round_over = true;
        let reason = match &standing.last_failure {
            Some((device, failure)) => UnknownReason::AllFailed {
                attempts: standing.attempts,
                device: device.clone(),
                failure: failure.clone(),
            },
            None => UnknownReason::NoDevice,
        };
        let round = standing.round;
        self.stats.rounds_failed += 1;
        let outcome = Outcome::Unknown { reason };
        self.emit(Event::Unresolved { target, round, outcome, next_round_in: Some(pause) });
    }

    pub(super) fn on_report(&mut self, now: Instant, report: DeviceReport) {
        let DeviceReport { attempt, result } = report;
        if let Some(restart) = self.restarts.remove(&attempt) {
            self.on_restarted(now, restart, result);
            return;
        }
        let running = self.requests.iter().find(|(_, s)| s.attempt() == Some(attempt)).map(|(t, _)| *t);
        if let Some(target) = running {
            self.on_answer(now, target, attempt, result);
            return;
        }
        let given_up = self.requests.iter_mut().find_map(|(target, s)| {
            let at = s.expired.iter().position(|(id, _)| *id == attempt)?;
            let (_, device) = s.expired.remove(at)?;
            Some((*target, device, s.since))
        });
        let Some((target, device, since)) = given_up else {
            self.stats.stray += 1;
            return;
        };
        match result {
            // Off was read after this very request was made: the incarnation that it names is dead.
            DeviceResult::Done { read_back: ReadBack::Off, detail } => {
                self.stats.late_accepted += 1;
                self.emit(Event::LateAnswer { target, attempt, device: device.clone(), accepted: true });
                let read_back = ReadBack::Off;
                self.finish(now, target, Evidence { device, read_back, at: now, took: now - since, detail });
            }
            DeviceResult::Done { .. } => {
                self.stats.late_ignored += 1;
                self.emit(Event::LateAnswer { target, attempt, device, accepted: false });
            }
            DeviceResult::Failed(_) => self.stats.late_ignored += 1,
        }
    }

    /// The attempt that is waited for ended.
    fn on_answer(&mut self, now: Instant, target: NodeInstance, attempt: AttemptId, result: DeviceResult) {
        let Some(standing) = self.requests.get_mut(&target) else { return };
        let Phase::Running { device, .. } = standing.phase.clone() else { return };
        // Ended: nothing is left to cancel.
        standing.phase = Phase::Waiting { until: now };
        let took = now - standing.since;
        match result {
            DeviceResult::Done { read_back: ReadBack::On, .. } => {
                self.attempt_failed(now, target, (attempt, device), Failure::StillOn);
            }
            DeviceResult::Done { read_back: ReadBack::NotRead, detail } => {
                let read_back = ReadBack::NotRead;
                standing.requested = Some(Evidence { device, read_back, at: now, took, detail });
                self.next_attempt(now, target);
            }
            DeviceResult::Done { read_back, detail } => {
                self.finish(now, target, Evidence { device, read_back, at: now, took, detail });
            }
            DeviceResult::Failed(failure) => self.attempt_failed(now, target, (attempt, device), failure),
        }
    }
}

/// `base_ms` doubled `times` times, at most `max_ms`.
fn doubled(base_ms: u64, times: u32, max_ms: u64) -> Duration {
    let factor = 1_u64.checked_shl(times).unwrap_or(u64::MAX);
    Duration::from_millis(base_ms.saturating_mul(factor).min(max_ms))
}
