use super::OperationId;
use crate::{OcfCode, Operation, OperationResult, Outcome};
use core::time::Duration;
use pils::Instant;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Most results that a policy looks back at.
const LAST_MAX: usize = 64;

/// What counts as a failure of a resource that is watched, and what else is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchPolicy {
    /// So many failed monitors ... Default 1, at least 1.
    pub failures: u32,
    /// ... among the last so many are a failure of the resource. Default 1, at most 64; less than `failures` counts as
    /// `failures`. A resource that is cleanly stopped has failed at the first look: there is nothing to doubt.
    pub among: u32,
    /// What else is told.
    pub report: Report,
}

impl Default for WatchPolicy {
    fn default() -> Self {
        Self { failures: 1, among: 1, report: Report::Failures }
    }
}

/// Which results of a recurring monitor are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// Only that the resource failed.
    #[default]
    Failures,
    /// Also every result whose outcome is another than that of the one before.
    Changes,
    /// Every result.
    Everything,
}

/// A recurring monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Its name.
    pub id: OperationId,
    /// What it does.
    pub operation: Operation,
    /// What is made of its results.
    pub policy: WatchPolicy,
}

impl Watched {
    pub(super) fn interval(&self) -> Duration {
        self.operation.interval.unwrap_or(Duration::from_secs(10))
    }

    /// True if both look at the same thing in the same way.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        let key = |w: &Self| (w.operation.check_level, w.operation.role);
        self.id == other.id || key(self) == key(other)
    }
}

/// A recurring monitor, with what it found.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) watched: Watched,
    pub(super) at: Instant,
    /// Whether each of the last ones failed, newest last.
    last: VecDeque<bool>,
    outcome: Option<Outcome>,
}

/// What a result means.
pub(super) enum Seen {
    Nothing,
    Tell,
    Failed,
}

impl Watch {
    pub(super) const fn new(watched: Watched, at: Instant) -> Self {
        Self { watched, at, last: VecDeque::new(), outcome: None }
    }

    pub(super) fn see(&mut self, result: &OperationResult) -> Seen {
        let policy = &self.watched.policy;
        let needed = usize::try_from(policy.failures.max(1)).unwrap_or(LAST_MAX).min(LAST_MAX);
        let among = usize::try_from(policy.among).unwrap_or(LAST_MAX).clamp(needed, LAST_MAX);
        let failed = !self.watched.operation.is_met_by(&result.outcome);
        self.last.push_back(failed);
        while self.last.len() > among {
            self.last.pop_front();
        }
        let certain = result.outcome == Outcome::Failed { code: OcfCode::NotRunning };
        if failed && (certain || self.last.iter().filter(|f| **f).count() >= needed) {
            return Seen::Failed;
        }
        let changed = self.outcome.as_ref() != Some(&result.outcome);
        self.outcome = Some(result.outcome.clone());
        match policy.report {
            Report::Everything => Seen::Tell,
            Report::Changes if changed => Seen::Tell,
            Report::Changes | Report::Failures => Seen::Nothing,
        }
    }
}
