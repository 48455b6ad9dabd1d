//! What happens between a request and its outcome: passes, rounds, levels, answers.

use super::{Authority, Fencer, sabotaged};
use crate::request::{Phase, Running, Standing};
use crate::{
    AttemptId, DeviceReport, DeviceResult, Event, Evidence, Failure, FenceAction, Outcome, Output, ReadBack,
    Run, UnknownReason,
};
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a request needs next.
enum Choice {
    /// The answer of this device.
    Ask(usize, FenceAction),
    /// Nothing: a whole level has proved.
    Fenced(Evidence),
    /// The next pass: no level is left.
    PassOver,
}

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
            Phase::Running(run) => {
                self.stats.timed_out += 1;
                if self.config.late_max > 0 {
                    while standing.expired.len() >= self.config.late_max {
                        standing.expired.pop_front();
                    }
                    standing.expired.push_back((run.attempt, run.place));
                }
                if run.action == FenceAction::Status {
                    standing.proofs.remove(&run.place);
                }
                self.outputs.push_back(Output::Cancel { attempt: run.attempt });
                let after = run.timeout;
                self.attempt_failed(now, target, &run, Failure::TimedOut { after });
            }
            Phase::Counting(run) => self.counted(now, target, &run),
            Phase::Quieting { .. } => self.next_attempt(now, target),
            Phase::Held | Phase::Unconfirmed { .. } => {}
        }
    }

    /// The level has failed; the next one is tried.
    pub(super) fn attempt_failed(
        &mut self,
        now: Instant,
        target: NodeInstance,
        run: &Running,
        failure: Failure,
    ) {
        self.stats.failed += 1;
        let (attempt, device) = (run.attempt, run.device.clone());
        if let Some(standing) = self.requests.get_mut(&target) {
            standing.last_failure = Some((device.clone(), failure.clone()));
            standing.tried(now, run, Some(failure.clone()));
            standing.begin_level(standing.level + 1);
        }
        self.emit(Event::AttemptFailed { target, attempt, device, failure });
        self.next_attempt(now, target);
    }

    /// Asks the next device of the pass; or ends the pass, or the round, or the request.
    pub(super) fn next_attempt(&mut self, now: Instant, target: NodeInstance) {
        let choice = self.choose(now, target);
        // A proof needs no authority and disturbs no device: whoever waits for it is told at once.
        if let Choice::Fenced(evidence) = choice {
            self.finish(now, target, evidence);
            return;
        }
        let may = self.authority == Authority::Granted || sabotaged!(self, FenceUnasked);
        let Some(standing) = self.requests.get_mut(&target) else { return };
        if !may && !standing.by_operator {
            standing.phase = Phase::Held;
            let (round, reason) = (standing.round, UnknownReason::Suspended);
            let outcome = Outcome::Unknown { reason };
            self.emit(Event::Unresolved { target, round, outcome, next_round_in: None });
            return;
        }
        if !sabotaged!(self, SwitchOnMeanwhile)
            && let Some(until) = self.quiet(target.node)
        {
            if let Some(standing) = self.requests.get_mut(&target) {
                standing.phase = Phase::Quieting { until };
            }
            return;
        }
        match choice {
            Choice::Ask(place, action) => self.ask(now, target, place, action),
            Choice::Fenced(_) => {}
            Choice::PassOver => self.pass_over(now, target),
        }
    }

    fn round_end(&self, target: NodeInstance) -> Instant {
        let began = self.requests.get(&target).map_or(Instant::ZERO, |s| s.round_began);
        began + Duration::from_millis(self.config.round_budget_ms)
    }

    fn choose(&mut self, now: Instant, target: NodeInstance) -> Choice {
        let plan = self.config.plan(target.node);
        let unlisted: BTreeSet<_> =
            plan.iter().flatten().copied().filter(|place| !self.lists(*place, target.node)).collect();
        let ask_again = sabotaged!(self, AskAgainUntold);
        let no_second_look = sabotaged!(self, NoSecondLook);
        let one_is_enough = sabotaged!(self, OneOfTwoIsEnough);
        let Some(standing) = self.requests.get_mut(&target) else { return Choice::PassOver };
        while let Some(level) = plan.get(standing.level) {
            if let Some(place) = level.get(standing.place).copied() {
                let untold = standing.untold.contains_key(&place) && !ask_again;
                if standing.proofs.contains_key(&place) || untold {
                    standing.place += 1;
                } else if standing.pass == 0 && unlisted.contains(&place) {
                    let detail = Arc::from("the device does not list this node's plug");
                    let name = self.config.devices.get(place).map_or("", |d| d.name.as_str());
                    standing.last_failure = Some((Arc::from(name), Failure::Refused { detail }));
                    standing.begin_level(standing.level + 1);
                } else if one_is_enough && standing.place > 0 {
                    return Choice::Fenced(standing.joined(now, &level[..1]));
                } else {
                    return Choice::Ask(place, FenceAction::Off);
                }
            } else if let Some(evidence) = level.iter().find_map(|place| standing.untold.get(place)) {
                standing.requested = Some(evidence.clone());
                standing.begin_level(standing.level + 1);
            } else if let Some(place) = standing.second_look(level).filter(|_| !no_second_look) {
                return Choice::Ask(place, FenceAction::Status);
            } else {
                return Choice::Fenced(standing.joined(now, level));
            }
        }
        Choice::PassOver
    }

    fn ask(&mut self, now: Instant, target: NodeInstance, place: usize, action: FenceAction) {
        let round_end = self.round_end(target);
        let grace = Duration::from_millis(self.config.answer_grace_ms);
        let (Some(device), Some(standing)) = (self.config.devices.get(place), self.requests.get_mut(&target))
        else {
            return;
        };
        if device.is_watchdog() {
            self.count(now, target, place);
            return;
        }
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
        standing.asked.insert(place);
        standing.attempts += 1;
        let until = now + timeout + grace;
        standing.phase = Phase::Running(Running {
            attempt,
            place,
            device: name.clone(),
            action,
            began: now,
            timeout,
            until,
        });
        self.stats.attempts += 1;
        self.emit(Event::AttemptStarted { target, attempt, device: name.clone(), action });
        self.outputs.push_back(Output::Run(Run { attempt, device: name, action, target, plug, timeout }));
    }

    fn pass_over(&mut self, now: Instant, target: NodeInstance) {
        let round_end = self.round_end(target);
        if self.settle_unconfirmed(target) {
            return;
        }
        let has_device = !self.config.plan(target.node).is_empty();
        let Some(standing) = self.requests.get_mut(&target) else { return };
        standing.pass += 1;
        standing.begin_level(0);
        let until =
            now + doubled(self.config.retry_pause_ms, standing.pass - 1, self.config.round_pause_ms_max);
        if standing.pass >= self.config.passes_max || until >= round_end || !has_device {
            self.round_over(now, target);
        } else {
            standing.phase = Phase::Waiting { until };
        }
    }

    /// If a level took the order and could not confirm it: says so, and tries no more. Asking again would hit the
    /// node's next life.
    fn settle_unconfirmed(&mut self, target: NodeInstance) -> bool {
        if sabotaged!(self, AskAgainUntold) {
            return false;
        }
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
        if let Some(order) = self.orders.remove(&attempt) {
            self.order_ended(now, order, result);
            return;
        }
        let running = self.requests.iter().find(|(_, s)| s.attempt() == Some(attempt)).map(|(t, _)| *t);
        if let Some(target) = running {
            self.on_answer(now, target, result);
            return;
        }
        let given_up = self.requests.iter_mut().find_map(|(target, s)| {
            let at = s.expired.iter().position(|(id, _)| *id == attempt)?;
            let (_, place) = s.expired.remove(at)?;
            Some((*target, place))
        });
        match given_up {
            Some((target, place)) => self.on_late_answer(now, target, (attempt, place), result),
            None => self.stats.stray += 1,
        }
    }

    fn on_late_answer(
        &mut self,
        now: Instant,
        target: NodeInstance,
        (attempt, place): (AttemptId, usize),
        result: DeviceResult,
    ) {
        let DeviceResult::Done { read_back, detail } = result else {
            self.stats.late_ignored += 1;
            return;
        };
        let echo = sabotaged!(self, LateEchoIsProof) && read_back != ReadBack::On;
        let device: Arc<str> = Arc::from(self.config.devices.get(place).map_or("", |d| d.name.as_str()));
        // Off was read after this very request was made: for the incarnation that it names, or a later one.
        let accepted = read_back == ReadBack::Off || echo;
        self.emit(Event::LateAnswer { target, attempt, device: device.clone(), accepted });
        if !accepted {
            self.stats.late_ignored += 1;
            return;
        }
        self.stats.late_accepted += 1;
        let alone = self.config.plan(target.node).contains(&vec![place]);
        let Some(standing) = self.requests.get_mut(&target) else { return };
        let evidence =
            Evidence { device, read_back: ReadBack::Off, at: now, took: now - standing.since, detail };
        if alone {
            self.finish(now, target, evidence);
        } else {
            standing.prove(place, evidence);
        }
    }

    /// The attempt that is waited for ended.
    fn on_answer(&mut self, now: Instant, target: NodeInstance, result: DeviceResult) {
        let lie = sabotaged!(self, FailureIsSuccess);
        let unread_is_proof = sabotaged!(self, UnreadIsProof);
        let Some(standing) = self.requests.get_mut(&target) else { return };
        let Phase::Running(run) = standing.phase.clone() else { return };
        // Ended: nothing is left to cancel.
        standing.phase = Phase::Waiting { until: now };
        let (took, device, place) = (now - standing.since, run.device.clone(), run.place);
        let again = run.action == FenceAction::Status;
        let failure = match result {
            DeviceResult::Done { read_back: ReadBack::On, .. } => Failure::StillOn,
            DeviceResult::Done { read_back: ReadBack::Off, .. } if again => {
                standing.read_again.insert(place);
                standing.tried(now, &run, None);
                self.next_attempt(now, target);
                return;
            }
            DeviceResult::Done { read_back, detail } if !again => {
                standing.tried(now, &run, None);
                let evidence = Evidence { device, read_back, at: now, took, detail };
                if evidence.read_back.confirms_off() || unread_is_proof {
                    standing.prove(place, evidence);
                } else {
                    standing.untold.insert(place, evidence);
                }
                self.next_attempt(now, target);
                return;
            }
            DeviceResult::Failed(_) if lie => {
                let detail = Arc::from("");
                standing.prove(place, Evidence { device, read_back: ReadBack::Off, at: now, took, detail });
                self.next_attempt(now, target);
                return;
            }
            DeviceResult::Done { detail, .. } => Failure::NotVerified { detail },
            DeviceResult::Hosts { .. } => {
                Failure::NotVerified { detail: Arc::from("the device answered with a list of plugs") }
            }
            DeviceResult::Failed(failure) => failure,
        };
        if again {
            standing.proofs.remove(&place);
        }
        self.attempt_failed(now, target, &run, failure);
    }
}

impl Standing {
    /// A device of a proved level that has to be read again: between its own proof and the last one, an order of another
    /// node that was still on its way may have switched it on. One read after the last proof shows that none did.
    fn second_look(&self, level: &[usize]) -> Option<usize> {
        let stale = |place: &&usize| {
            self.last_proved != Some(**place)
                && !self.read_again.contains(place)
                && self.proofs.get(place).is_some_and(|e| e.read_back == ReadBack::Off)
        };
        if level.len() > 1 { level.iter().find(stale).copied() } else { None }
    }

    /// What the devices of a level proved together.
    fn joined(&self, now: Instant, level: &[usize]) -> Evidence {
        let all: Vec<_> = level.iter().filter_map(|place| self.proofs.get(place)).collect();
        if let [evidence] = all[..] {
            return evidence.clone();
        }
        let names: Vec<_> = all.iter().map(|e| &*e.device).collect();
        let said = all.iter().filter(|e| !e.detail.is_empty());
        let said: Vec<_> = said.map(|e| format!("{}: {}", e.device, e.detail)).collect();
        let weakest = all.iter().find(|e| e.read_back != ReadBack::Off);
        Evidence {
            device: Arc::from(names.join("+")),
            read_back: weakest.map_or(ReadBack::Off, |e| e.read_back.clone()),
            at: now,
            took: now - self.since,
            detail: Arc::from(said.join("; ")),
        }
    }
}

/// `base_ms` doubled `times` times, at most `max_ms`.
fn doubled(base_ms: u64, times: u32, max_ms: u64) -> Duration {
    let factor = 1_u64.checked_shl(times).unwrap_or(u64::MAX);
    Duration::from_millis(base_ms.saturating_mul(factor).min(max_ms))
}
