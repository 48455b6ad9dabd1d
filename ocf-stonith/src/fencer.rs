mod attempts;
mod drill;
mod health;
mod orders;
mod silence;
mod unfence;

pub use drill::{DrillError, Finding};
pub use health::Health;
pub use silence::watchdog_wait;
pub use unfence::UnfenceError;

use crate::request::{Phase, Silence, Standing};
use crate::{
    AttemptId, Cause, Config, Event, Evidence, FenceAction, FenceRequest, History, Input, Outcome, Output,
    ReadBack, Record, Stats, Withdrawal,
};
use core::time::Duration;
use pils::{Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    NotFencing(FenceAction),
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
/// after a pause that grows. A reboot is an `Off` that is confirmed, told, and then followed by an `On` to every device
/// that was asked: recovery does not wait for the second half. Costs are O(requests + devices) per call.
#[derive(Clone, Debug)]
pub struct Fencer {
    config: Config,
    local: NodeId,
    rng: Rng,
    authority: Authority,
    requests: BTreeMap<NodeInstance, Standing>,
    /// What devices were asked for that belongs to no request.
    orders: BTreeMap<AttemptId, orders::Order>,
    /// The devices that have not yet given a node its access.
    unfencing: BTreeMap<NodeInstance, BTreeSet<usize>>,
    drills: BTreeMap<NodeId, drill::Drill>,
    /// Of each device.
    checks: Vec<health::Check>,
    priorities: BTreeMap<NodeId, u64>,
    /// Lives that are not in the primary partition, and when their own watchdogs have ended them.
    silences: BTreeMap<NodeInstance, Silence>,
    history: History,
    stats: Stats,
    last_attempt: u64,
    outputs: VecDeque<Output>,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

/// A bug put back, to prove that the checkers find it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// Takes a device's failure for success.
    FailureIsSuccess,
    /// Takes it for proof if a device cannot tell.
    UnreadIsProof,
    /// Takes one power supply for all.
    OneOfTwoIsEnough,
    /// Does not read the first device of a level again after the last one has proved.
    NoSecondLook,
    /// Fences without the authority of a primary partition.
    FenceUnasked,
    /// Fences a life again that is confirmed.
    ForgetConfirmed,
    /// Gives an order again to a device that took it and cannot tell.
    AskAgainUntold,
    /// Lets orders to switch a node on go on while it is fenced.
    SwitchOnMeanwhile,
    /// Takes what was not read for proof if it comes late.
    LateEchoIsProof,
    /// Gives a life that was fenced by its access that access back.
    GiveBack,
    /// Takes the silence of a life for its end although its watchdog was not armed.
    CountUnarmed,
    /// Goes on counting the silence of a life while it is not sure itself that it is in the primary partition.
    CountInDoubt,
    /// Waits for the watchdog's own time alone.
    CountOnce,
}

/// True if the bug was put back; never, without the feature `testing`.
macro_rules! sabotaged {
    ($fencer:expr, $bug:ident) => {{
        #[cfg(feature = "testing")]
        let yes = $fencer.sabotage == Some(crate::fencer::Sabotage::$bug);
        #[cfg(not(feature = "testing"))]
        let yes = false;
        yes
    }};
}
use sabotaged;

impl Fencer {
    /// A fencer for the node `local`, without authority. `rng` draws the delays against races.
    ///
    /// The configuration should have passed [`Config::check`].
    #[must_use]
    pub fn new(config: Config, local: NodeId, rng: Rng) -> Self {
        let history = History::new(config.history_max);
        let checks = config.devices.iter().map(|_| health::Check::new()).collect();
        Self {
            config,
            local,
            rng,
            authority: Authority::Absent,
            requests: BTreeMap::new(),
            orders: BTreeMap::new(),
            unfencing: BTreeMap::new(),
            drills: BTreeMap::new(),
            checks,
            priorities: BTreeMap::new(),
            silences: BTreeMap::new(),
            history,
            stats: Stats::default(),
            last_attempt: 0,
            outputs: VecDeque::new(),
            #[cfg(feature = "testing")]
            sabotage: None,
        }
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: Sabotage) {
        self.sabotage = Some(what);
    }

    /// Says how important what runs on a node is; 0 for a node of which nothing was said. The less important of two nodes
    /// waits `priority_delay_ms` before it fences the other.
    pub fn set_priority(&mut self, node: NodeId, priority: u64) {
        if priority == 0 {
            self.priorities.remove(&node);
        } else {
            self.priorities.insert(node, priority);
        }
    }

    /// A life that was fenced by its access was given it again, so it does not count as fenced any more: it may be fenced again.
    pub fn forget_confirmed(&mut self, target: NodeInstance) {
        self.history.forget(target);
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
        let by_operator = cause.needs_no_authority();
        if self.authority != Authority::Granted && !by_operator && !sabotaged!(self, FenceUnasked) {
            return Err(RequestError::NoAuthority(target));
        }
        if let Some(outcome) = self.history.confirmed(target).filter(|_| !sabotaged!(self, ForgetConfirmed)) {
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
        let at_once = matches!(cause, Cause::Operator { .. });
        let delay = if at_once { Duration::ZERO } else { self.delay(target.node) };
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
        if authority != Authority::Granted && !sabotaged!(self, CountInDoubt) {
            self.forget_silence(now);
        }
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
                self.stop_unfencing();
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

    /// True if a request for this incarnation stands.
    #[must_use]
    pub fn is_standing(&self, target: NodeInstance) -> bool {
        self.requests.contains_key(&target)
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
        assert!(self.silences.len() <= self.config.requests_max, "more silences than allowed");
        assert!(self.history.len() <= self.config.history_max, "more history than allowed");
        let devices = self.config.devices.len();
        assert!(
            self.orders.len() <= self.config.requests_max.max(devices) + devices,
            "more orders than allowed"
        );
        assert!(self.drills.len() <= self.config.requests_max, "more drills than allowed");
        let mut running: Vec<_> = self.orders.keys().copied().collect();
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
        let first = self.config.plan(node).first().and_then(|level| level.first()).copied();
        let first = first.and_then(|place| self.config.devices.get(place)).and_then(|d| d.target(node));
        let fixed = first.map_or(0, |t| t.delay_ms);
        let random = self.rng.between(0, self.config.delay_random_ms_max);
        let priority = |node| self.priorities.get(&node).copied().unwrap_or(0);
        let lower = priority(node) > priority(self.local);
        let behind = if lower { self.config.priority_delay_ms } else { 0 };
        Duration::from_millis(fixed.saturating_add(random).saturating_add(behind))
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
        self.orders_due(now);
        self.health_due(now);
        let due = self.requests.iter().filter(|(_, s)| s.deadline().is_some_and(|at| at <= now));
        let due: Vec<_> = due.map(|(target, _)| *target).collect();
        for target in due {
            self.fire(now, target);
        }
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
        if standing.action == FenceAction::Reboot {
            for place in standing.asked {
                // Access goes to the next life, by unfencing: this one may still run.
                let access = self.config.devices.get(place).is_some_and(|device| device.unfence);
                if !access || sabotaged!(self, GiveBack) {
                    self.restart(now, target, place);
                }
            }
        }
    }
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
        let orders = self.orders.values().map(|o| o.until).chain(self.health_at());
        self.requests.values().filter_map(Standing::deadline).chain(orders).min()
    }
}
