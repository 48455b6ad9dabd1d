use super::{Executor, OperationId, RunId};
use crate::{Action, OperationResult, Outcome};
use core::time::Duration;
use pils::Instant;
use serde::Serialize;
use std::sync::Arc;

/// How busy an executor is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// What runs now, by resource.
    pub processes: Vec<Process>,
    /// How many may run at a time, stops aside.
    pub parallel_max: usize,
    /// Operations that wait, and for which resource.
    pub waiting: Vec<(Arc<str>, Vec<Action>)>,
    /// Recurring monitors.
    pub watches: usize,
    /// Monitors whose time has come and that wait for a place.
    pub late: usize,
    /// No start may begin.
    pub held: bool,
    /// Runs that have ended.
    pub ended: u64,
    /// Of those, the ones that did not end in time.
    pub timed_out: u64,
    /// Operations that were refused because too many waited for one resource.
    pub refused: u64,
}

/// A run that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The resource.
    pub resource: Arc<str>,
    /// What is done.
    pub action: Action,
    /// Which operation it is for.
    #[serde(skip)]
    pub id: OperationId,
    /// Which run it is.
    #[serde(skip)]
    pub run: RunId,
    /// It recurs.
    pub recurring: bool,
    /// It was told to end.
    pub cancelled: bool,
    /// How long it has been going on.
    pub since: Duration,
    /// How much longer it is waited for.
    pub left: Duration,
}

/// What happened so far.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) ended: u64,
    pub(super) timed_out: u64,
    pub(super) refused: u64,
}

impl Counts {
    pub(super) const fn new() -> Self {
        Self { ended: 0, timed_out: 0, refused: 0 }
    }

    pub(super) fn ended(&mut self, result: &OperationResult) {
        self.ended += 1;
        self.timed_out += u64::from(result.outcome == Outcome::TimedOut);
    }
}

impl Executor {
    /// How busy it is, and with what. O(resources).
    #[must_use]
    pub fn load(&self, now: Instant) -> Load {
        let mut load = Load {
            parallel_max: self.config.parallel_max.max(1),
            late: self.due.iter().take_while(|(at, _)| *at < now).count(),
            held: self.held,
            ended: self.counts.ended,
            timed_out: self.counts.timed_out,
            refused: self.counts.refused,
            ..Load::default()
        };
        for (name, resource) in &self.resources {
            load.watches += resource.watches.len();
            if !resource.waiting.is_empty() {
                let actions = resource.waiting.iter().map(|(_, o)| o.action).collect();
                load.waiting.push((Arc::clone(name), actions));
            }
            if let Some(current) = &resource.current {
                load.processes.push(Process {
                    resource: Arc::clone(name),
                    action: current.operation.action,
                    id: current.id,
                    run: current.run,
                    recurring: current.recurring,
                    cancelled: current.cancelled,
                    since: now.max(current.started) - current.started,
                    left: current.deadline.max(now) - now,
                });
            }
        }
        load
    }
}
