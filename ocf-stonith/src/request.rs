use crate::{AttemptId, Cause, Evidence, Failure, FenceAction, Outcome};
use core::fmt;
use core::time::Duration;
use pils::{Instant, NodeInstance};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A request that is not confirmed.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) action: FenceAction,
    pub(crate) cause: Cause,
    pub(crate) since: Instant,
    /// True if a person wants it: then it needs no authority.
    pub(crate) by_operator: bool,
    pub(crate) phase: Phase,
    /// Counts from 1.
    pub(crate) round: u32,
    pub(crate) round_began: Instant,
    pub(crate) round_over: bool,
    /// Passes of this round that are over.
    pub(crate) pass: u32,
    /// Level of this pass, from 0.
    pub(crate) level: usize,
    /// Place of the next device in the level.
    pub(crate) place: usize,
    /// Devices that were asked so far, as places in the configuration; so are those of the next four.
    pub(crate) asked: BTreeSet<usize>,
    /// What devices proved.
    pub(crate) proofs: BTreeMap<usize, Evidence>,
    /// The device that proved last.
    pub(crate) last_proved: Option<usize>,
    /// Devices of the level that were read again after the last one had proved.
    pub(crate) read_again: BTreeSet<usize>,
    /// Devices that took the order and cannot tell.
    pub(crate) untold: BTreeMap<usize, Evidence>,
    pub(crate) attempts: u32,
    pub(crate) last_failure: Option<(Arc<str>, Failure)>,
    /// All devices of a level took the order in this pass, and one cannot tell.
    pub(crate) requested: Option<Evidence>,
    /// Past attempts, oldest first.
    pub(crate) tries: VecDeque<Try>,
    /// Attempts that were given up, oldest first, with the places of their devices.
    pub(crate) expired: VecDeque<(AttemptId, usize)>,
}

/// A life that is not in the primary partition, and armed a watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Silence {
    pub(crate) watchdog: Duration,
    pub(crate) over: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until the next attempt may begin.
    Waiting { until: Instant },
    /// For an answer.
    Running(Running),
    /// Until the node's own watchdog has ended it. No device works meanwhile.
    Counting(Running),
    /// Until orders to switch the node on, given for other reasons, have ended.
    Quieting { until: Instant },
    /// For authority.
    Held,
    /// Told as [`Outcome::Requested`]; not tried again by itself.
    Unconfirmed { evidence: Evidence },
}

/// An attempt whose answer is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) attempt: AttemptId,
    /// Its place in the configuration, and its name.
    pub(crate) place: usize,
    pub(crate) device: Arc<str>,
    /// `Off`, or `Status` to read again.
    pub(crate) action: FenceAction,
    pub(crate) began: Instant,
    pub(crate) timeout: Duration,
    pub(crate) until: Instant,
}

impl Standing {
    pub(crate) const fn new(
        now: Instant,
        action: FenceAction,
        cause: Cause,
        by_operator: bool,
        first_attempt: Instant,
    ) -> Self {
        Self {
            action,
            cause,
            since: now,
            by_operator,
            phase: Phase::Waiting { until: first_attempt },
            round: 1,
            round_began: first_attempt,
            round_over: false,
            pass: 0,
            level: 0,
            place: 0,
            asked: BTreeSet::new(),
            proofs: BTreeMap::new(),
            last_proved: None,
            read_again: BTreeSet::new(),
            untold: BTreeMap::new(),
            attempts: 0,
            last_failure: None,
            requested: None,
            tries: VecDeque::new(),
            expired: VecDeque::new(),
        }
    }

    /// The next round, the same if the present one did not begin to ask.
    pub(crate) fn begin_round(&mut self, now: Instant) {
        if self.round_over {
            self.round += 1;
        }
        self.round_over = false;
        self.round_began = now;
        self.pass = 0;
        self.begin_level(0);
    }

    pub(crate) const fn begin_level(&mut self, level: usize) {
        self.level = level;
        self.place = 0;
    }

    /// A device proved that it took the power. What was read of others before is too old now.
    pub(crate) fn prove(&mut self, place: usize, evidence: Evidence) {
        self.untold.remove(&place);
        self.proofs.insert(place, evidence);
        self.last_proved = Some(place);
        self.read_again.clear();
    }

    /// Remembers how an attempt ended.
    pub(crate) fn tried(&mut self, now: Instant, run: &Running, failure: Option<Failure>) {
        if self.tries.len() >= TRIES_MAX {
            self.tries.pop_front();
        }
        self.tries.push_back(Try {
            attempt: run.attempt,
            device: run.device.clone(),
            action: run.action,
            began_nanos: run.began.as_nanos(),
            took: now - run.began,
            failure,
        });
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until }
            | Phase::Running(Running { until, .. })
            | Phase::Counting(Running { until, .. })
            | Phase::Quieting { until } => Some(until),
            Phase::Held | Phase::Unconfirmed { .. } => None,
        }
    }

    /// The attempt that is waited for.
    pub(crate) const fn attempt(&self) -> Option<AttemptId> {
        match self.phase {
            Phase::Running(Running { attempt, .. }) => Some(attempt),
            Phase::Waiting { .. }
            | Phase::Counting(_)
            | Phase::Quieting { .. }
            | Phase::Held
            | Phase::Unconfirmed { .. } => None,
        }
    }

    pub(crate) const fn unconfirmed(&self) -> Option<&Evidence> {
        match &self.phase {
            Phase::Unconfirmed { evidence } => Some(evidence),
            Phase::Waiting { .. }
            | Phase::Running(_)
            | Phase::Counting(_)
            | Phase::Quieting { .. }
            | Phase::Held => None,
        }
    }

    pub(crate) fn status(&self, target: NodeInstance) -> Status {
        Status {
            target,
            action: self.action,
            cause: self.cause.clone(),
            since_nanos: self.since.as_nanos(),
            state: match &self.phase {
                Phase::Waiting { .. } if self.attempts == 0 => State::Delayed,
                Phase::Waiting { .. } | Phase::Quieting { .. } => State::Pausing,
                Phase::Running(run) | Phase::Counting(run) => State::Asking { device: run.device.clone() },
                Phase::Held => State::Held,
                Phase::Unconfirmed { .. } => State::Unconfirmed,
            },
            rounds: self.round,
            attempts: self.attempts,
            last_failure: self.last_failure.as_ref().map(|(_, failure)| failure.clone()),
        }
    }
}

/// A request that stands, for people and snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Which life of which node.
    pub target: NodeInstance,
    /// How.
    pub action: FenceAction,
    /// Why it was first requested.
    pub cause: Cause,
    /// When, in nanoseconds of the node's clock.
    pub since_nanos: u64,
    /// What it waits for.
    pub state: State,
    /// Rounds begun.
    pub rounds: u32,
    /// Attempts begun.
    pub attempts: u32,
    /// How the last attempt failed, if one did.
    pub last_failure: Option<Failure>,
}

/// What a standing request waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its delay, before the first attempt.
    Delayed,
    /// The answer of a device.
    Asking {
        /// Which.
        device: Arc<str>,
    },
    /// The next pass or round.
    Pausing,
    /// The authority to fence.
    Held,
    /// A person: a device took the order and cannot tell whether it was carried out.
    Unconfirmed,
}

/// The most attempts of one request that are remembered.
pub const TRIES_MAX: usize = 64;

/// How one attempt of a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Try {
    /// Which.
    pub attempt: AttemptId,
    /// Which device.
    pub device: Arc<str>,
    /// What it was asked for: `off`, or `status` where the devices of a level are read again.
    pub action: FenceAction,
    /// When, in nanoseconds of the node's clock.
    pub began_nanos: u64,
    /// How long it took.
    pub took: Duration,
    /// How it failed; `None` if the device took the order.
    pub failure: Option<Failure>,
}

/// Past requests, oldest first; bounded by `Config::history_max`. Withdrawn ones are forgotten before confirmed ones.
#[derive(Clone, Debug)]
pub struct History {
    records: VecDeque<Record>,
    max: usize,
}

impl History {
    pub(crate) const fn new(max: usize) -> Self {
        Self { records: VecDeque::new(), max }
    }

    pub(crate) fn push(&mut self, record: Record) {
        self.records.push_back(record);
        while self.records.len() > self.max {
            // What was confirmed must not be fenced again, so it is forgotten last.
            let oldest = self.records.iter().position(|r| r.outcome.is_none()).unwrap_or(0);
            self.records.remove(oldest);
        }
    }

    /// The outcome of the confirmed request for this incarnation, if it is remembered.
    #[must_use]
    pub fn confirmed(&self, target: NodeInstance) -> Option<&Outcome> {
        self.records.iter().rev().filter(|r| r.target == target).find_map(|r| r.outcome.as_ref())
    }

    /// Forgets that this incarnation was confirmed; what was tried stays on record.
    pub(crate) fn forget(&mut self, target: NodeInstance) {
        for record in self.records.iter_mut().filter(|record| record.target == target) {
            record.outcome = None;
        }
    }

    /// Past requests, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True if none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// A request that no longer stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Which life of which node.
    pub target: NodeInstance,
    /// How.
    pub action: FenceAction,
    /// Why it was first requested.
    pub cause: Cause,
    /// [`Outcome::Confirmed`], or `None` if it was withdrawn.
    pub outcome: Option<Outcome>,
    /// When it was requested, in nanoseconds of the node's clock.
    pub since_nanos: u64,
    /// How long it stood.
    pub took: Duration,
    /// Rounds begun.
    pub rounds: u32,
    /// Attempts begun.
    pub attempts: u32,
    /// How the last [`TRIES_MAX`] of them ended, oldest first.
    pub tries: Vec<Try>,
}

impl fmt::Display for Record {
    /// Why, how and with which outcome, one attempt per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} because {}: ", self.target, self.action, self.cause)?;
        match &self.outcome {
            Some(outcome) => write!(f, "{outcome}")?,
            None => f.write_str("withdrawn")?,
        }
        for t in &self.tries {
            write!(f, "\n  {} {} {} {:?}: ", t.attempt, t.device, t.action, t.took)?;
            match &t.failure {
                Some(failure) => write!(f, "{failure}")?,
                None => f.write_str("taken")?,
            }
        }
        Ok(())
    }
}

impl Record {
    pub(crate) fn closed(
        now: Instant,
        target: NodeInstance,
        was: &Standing,
        outcome: Option<Outcome>,
    ) -> Self {
        Self {
            target,
            action: was.action,
            cause: was.cause.clone(),
            outcome,
            since_nanos: was.since.as_nanos(),
            took: now - was.since,
            rounds: was.round,
            attempts: was.attempts,
            tries: was.tries.iter().cloned().collect(),
        }
    }
}

/// Counters of a [`Fencer`](crate::Fencer) since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests taken as new.
    pub requests: u64,
    /// Requests joined to one that stood or was confirmed.
    pub joined: u64,
    /// Requests withdrawn.
    pub withdrawn: u64,
    /// Requests confirmed.
    pub confirmed: u64,
    /// Requests that ended unconfirmed.
    pub requested: u64,
    /// Attempts begun.
    pub attempts: u64,
    /// Attempts that failed, timeouts included.
    pub failed: u64,
    /// Attempts given up because no answer came.
    pub timed_out: u64,
    /// Rounds that brought nothing.
    pub rounds_failed: u64,
    /// Answers of attempts given up that proved the death.
    pub late_accepted: u64,
    /// Answers of attempts given up that proved nothing.
    pub late_ignored: u64,
    /// Answers of attempts that no request waits for.
    pub stray: u64,
    /// Health checks of devices begun.
    pub checks: u64,
}
