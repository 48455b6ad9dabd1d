use crate::request::{Phase, Standing};
use crate::{
    AttemptId, Cause, Config, DeviceReport, DeviceResult, Event, Evidence, Failure, FenceRequest, History,
    Input, Outcome, Output, ReadBack, Record, Run, Stats, UnknownReason, Withdrawal,
};
use core::time::Duration;
use pils::{Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Whether this node may fence on behalf of the cluster. Requests of a person need no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// It is in the primary partition.
    Granted,
    /// It was, and is not sure any more: attempts under way go on, no new one begins.
    Suspended,
    /// It is not: nothing is fenced, requests are refused.
    Absent,
}

/// What became of a request that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is new and under way.
    Started,
    /// The incarnation was being fenced already; both get one outcome.
    Joined,
    /// The incarnation was fenced before; its outcome is told again.
    Known,
}

/// Why a fence request was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// `On` and `Status` end no life: ask the device itself.
    #[error("{0} does not fence; ask for off or reboot")]
    NotFencing(crate::FenceAction),
    /// A node does not fence itself here.
    #[error("{0} is this node")]
    OwnNode(NodeId),
    /// This node is not in the primary partition, and no person asked.
    #[error("this node is not in the primary partition, so it may not fence {0}")]
    NoAuthority(NodeInstance),
    /// Too many requests stand already. Withdraw one or wait.
    #[error("{limit} fence requests stand already")]
    Full {
        /// The limit: `Config::requests_max`.
        limit: usize,
    },
}

/// No unconfirmed request stands for this incarnation. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no fence request stands for {0}")]
pub struct NotStanding(pub NodeInstance);

/// Decides which device is asked when, and what its answers are worth. One per node; sans-IO.
///
/// A request stands until it is confirmed or withdrawn. Each round asks the devices of the node in order, pass after
/// pass, within one time budget; a round that brought nothing is reported as [`Event::Unresolved`] and tried again
/// after a pause that grows. Costs are O(requests + devices) per call.
#[derive(Clone, Debug)]
pub struct Fencer {
    config: Config,
    local: NodeId,
    rng: Rng,
    authority: Authority,
    requests: BTreeMap<NodeInstance, Standing>,
    history: History,
    stats: Stats,
    last_attempt: u64,
    outputs: VecDeque<Output>,
}

impl Fencer {
    /// A fencer for the node `local`, without authority. `rng` draws the delays against races.
    ///
    /// The configuration should have passed [`Config::check`].
    #[must_use]
    pub fn new(config: Config, local: NodeId, rng: Rng) -> Self {
        let history = History::new(config.history_max);
        Self {
            config,
            local,
            rng,
            authority: Authority::Absent,
            requests: BTreeMap::new(),
            history,
            stats: Stats::default(),
            last_attempt: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Ends the life of `request.target`. A second request for the same incarnation is joined to the first.
    ///
    /// # Errors
    /// See [`RequestError`]; nothing has changed.
    pub fn request(&mut self, now: Instant, request: FenceRequest) -> Result<Acceptance, RequestError> {
        let FenceRequest { target, action, cause } = request;
        if !action.is_fencing() {
            return Err(RequestError::NotFencing(action));
        }
        if target.node == self.local {
            return Err(RequestError::OwnNode(target.node));
        }
        let by_operator = matches!(cause, Cause::Operator { .. });
        if self.authority != Authority::Granted && !by_operator {
            return Err(RequestError::NoAuthority(target));
        }
        if let Some(outcome) = self.history.confirmed(target) {
            let outcome = outcome.clone();
            self.stats.joined += 1;
            self.emit(Event::Joined { target, cause });
            self.emit(Event::Finished { target, outcome });
            return Ok(Acceptance::Known);
        }
        if let Some(standing) = self.requests.get_mut(&target) {
            standing.by_operator |= by_operator;
            let known = standing.unconfirmed().cloned();
            self.stats.joined += 1;
            self.emit(Event::Joined { target, cause });
            if let Some(evidence) = known {
                self.emit(Event::Finished { target, outcome: Outcome::Requested { evidence } });
                return Ok(Acceptance::Known);
            }
            if by_operator {
                self.release(now, target);
            }
            return Ok(Acceptance::Joined);
        }
        if self.requests.len() >= self.config.requests_max {
            return Err(RequestError::Full { limit: self.config.requests_max });
        }
        let delay = if by_operator { Duration::ZERO } else { self.delay(target.node) };
        self.stats.requests += 1;
        self.requests.insert(target, Standing::new(now, action, cause.clone(), by_operator, now + delay));
        self.emit(Event::Started { target, action, cause, delay });
        self.run_due(now);
        Ok(Acceptance::Started)
    }

    /// Takes a request back: its death is known by other means, or it is not wanted any more. An attempt under way is
    /// cancelled, and may have happened all the same.
    ///
    /// # Errors
    /// [`NotStanding`] if there is none, or it is confirmed.
    pub fn withdraw(
        &mut self,
        now: Instant,
        target: NodeInstance,
        reason: Withdrawal,
    ) -> Result<(), NotStanding> {
        if self.take_back(now, target, reason) { Ok(()) } else { Err(NotStanding(target)) }
    }

    /// A person says that the node is off and will not come back by itself. Confirms the request.
    ///
    /// # Errors
    /// [`NotStanding`] if there is none, or it is confirmed.
    pub fn confirm(&mut self, now: Instant, target: NodeInstance, who: &str) -> Result<(), NotStanding> {
        let standing = self.requests.get(&target).ok_or(NotStanding(target))?;
        let evidence = Evidence {
            device: Arc::from("operator"),
            read_back: ReadBack::Operator { who: Arc::from(who) },
            at: now,
            took: now - standing.since,
            detail: Arc::from(""),
        };
        self.finish(now, target, evidence);
        Ok(())
    }

    /// Says whether this node may fence for the cluster. Losing it withdraws every request that no person made.
    pub fn set_authority(&mut self, now: Instant, authority: Authority) {
        self.authority = authority;
        match authority {
            Authority::Granted => {
                let held: Vec<_> = self.requests.keys().copied().collect();
                for target in held {
                    self.release(now, target);
                }
            }
            Authority::Suspended => {}
            Authority::Absent => {
                let of_cluster = self.requests.iter().filter(|(_, s)| !s.by_operator);
                let gone: Vec<_> = of_cluster.map(|(target, _)| *target).collect();
                for target in gone {
                    self.take_back(now, target, Withdrawal::AuthorityLost);
                }
            }
        }
    }

    /// Whether this node may fence for the cluster.
    #[must_use]
    pub const fn authority(&self) -> Authority {
        self.authority
    }

    /// The requests that stand, in order of target.
    pub fn standing(&self) -> impl Iterator<Item = crate::Status> {
        self.requests.iter().map(|(target, s)| s.status(*target))
    }

    /// Past requests, oldest first.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Checks what must hold between any two calls. For tests and simulators; O(requests).
    ///
    /// # Panics
    /// If something does not hold: a bug here.
    pub fn check_invariants(&self) {
        assert!(self.requests.len() <= self.config.requests_max, "more requests than allowed");
        assert!(self.history.len() <= self.config.history_max, "more history than allowed");
        let mut running = Vec::new();
        for (target, standing) in &self.requests {
            assert_ne!(target.node, self.local, "this node fences itself");
            assert!(
                self.history.confirmed(*target).is_none(),
                "{target} is confirmed and still being fenced"
            );
            assert!(
                self.authority != Authority::Absent || standing.by_operator,
                "{target} is being fenced without authority"
            );
            assert!(standing.expired.len() <= self.config.late_max, "more given-up attempts than allowed");
            let ids = standing.expired.iter().map(|(id, _)| *id).chain(standing.attempt());
            for id in ids {
                assert!(id.0 <= self.last_attempt, "{id} was never issued");
                running.push(id);
            }
        }
        let all = running.len();
        running.sort_unstable();
        running.dedup();
        assert_eq!(all, running.len(), "an attempt belongs to two requests");
    }

    fn emit(&mut self, event: Event) {
        tracing::debug!(?event, "fencing");
        self.outputs.push_back(Output::Event(event));
    }

    fn take_back(&mut self, now: Instant, target: NodeInstance, reason: Withdrawal) -> bool {
        let Some(standing) = self.requests.remove(&target) else { return false };
        self.cancel(&standing);
        self.stats.withdrawn += 1;
        self.history.push(Record::closed(now, target, &standing, None));
        self.emit(Event::Withdrawn { target, reason });
        true
    }

    fn delay(&mut self, node: NodeId) -> Duration {
        let fixed =
            self.config.devices_of(node).next().and_then(|d| d.target(node)).map_or(0, |t| t.delay_ms);
        let random = self.rng.between(0, self.config.delay_random_ms_max);
        Duration::from_millis(fixed.saturating_add(random))
    }

    /// Lets a held request go on.
    fn release(&mut self, now: Instant, target: NodeInstance) {
        if let Some(standing) = self.requests.get_mut(&target)
            && standing.phase == Phase::Held
        {
            standing.phase = Phase::Waiting { until: now };
        }
        self.run_due(now);
    }

    fn run_due(&mut self, now: Instant) {
        let due = self.requests.iter().filter(|(_, s)| s.deadline().is_some_and(|at| at <= now));
        let due: Vec<_> = due.map(|(target, _)| *target).collect();
        for target in due {
            self.fire(now, target);
        }
    }

    /// The deadline of a request has come.
    fn fire(&mut self, now: Instant, target: NodeInstance) {
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
        let action = standing.action;
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

    fn cancel(&mut self, standing: &Standing) {
        if let Some(attempt) = standing.attempt() {
            self.outputs.push_back(Output::Cancel { attempt });
        }
    }

    fn finish(&mut self, now: Instant, target: NodeInstance, evidence: Evidence) {
        let Some(standing) = self.requests.remove(&target) else { return };
        self.cancel(&standing);
        let outcome = Outcome::Confirmed { evidence };
        self.stats.confirmed += 1;
        self.history.push(Record::closed(now, target, &standing, Some(outcome.clone())));
        self.emit(Event::Finished { target, outcome });
    }

    fn on_report(&mut self, now: Instant, report: DeviceReport) {
        let DeviceReport { attempt, result } = report;
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

impl Layer for Fencer {
    type Input<'a> = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Device(report) => self.on_report(now, report),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.run_due(now);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.requests.values().filter_map(Standing::deadline).min()
    }
}
