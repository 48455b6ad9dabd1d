//! Runs the operations of one node, each resource's one after the other.

use crate::{Action, Operation, OperationResult, Outcome};
use core::time::Duration;
use pils::{Instant, Layer, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Names an operation that was asked for. Chosen by who asks; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OperationId(pub u64);

/// Names one run of an agent. Chosen by the executor; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RunId(pub u64);

/// Limits and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Agents that run at the same time. Default 8, at least 1. Stops do not wait for a place.
    pub parallel_max: usize,
    /// How much longer than its own timeout an operation is waited for, in case the driver does not report.
    /// Default 10 s: above the driver's time from asking a process to end to killing it.
    pub margin: Duration,
    /// Operations that wait for one resource. Default 16; one more is refused as cancelled.
    pub queue_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { parallel_max: 8, margin: Duration::from_secs(10), queue_max: 16 }
    }
}

/// What is asked of the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Run an operation once: a start, a stop, a probe. Answered by one [`Event::Finished`]. Waits for what runs on
    /// the same resource, except that a start or stop cancels a monitor, and drops what waits.
    Run {
        /// Names it in the answer.
        id: OperationId,
        /// What to do.
        operation: Operation,
    },
    /// Run a monitor again and again, at most `interval` after the one before. Answered by [`Event::Failed`] when it
    /// fails, which ends it; so does the next start or stop of the resource.
    Watch {
        /// Names it in the answers.
        id: OperationId,
        /// What to do; `interval` is set.
        operation: Operation,
    },
    /// Stop a resource at once: cancel even a start that runs. Otherwise as `Run`.
    StopNow {
        /// Names it in the answer.
        id: OperationId,
        /// The stop.
        operation: Operation,
    },
    /// Begin no start until [`Request::Release`].
    Hold,
    /// Starts may begin again.
    Release,
    /// Drop every start that waits and every monitor, running or not. What was dropped is answered as cancelled.
    Drop,
}

/// What arrives at the executor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// From above.
    Request(Request),
    /// From the driver: a run ended.
    Done {
        /// Which.
        run: RunId,
        /// How.
        result: OperationResult,
    },
}

/// What the executor wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Have an agent carry out an operation, and answer with [`Input::Done`].
    Run {
        /// Names it in the answer.
        run: RunId,
        /// What to do.
        operation: Operation,
    },
    /// End a run early. It still answers.
    Cancel {
        /// Which.
        run: RunId,
    },
    /// Tell the layer above.
    Event(Event),
}

/// What the executor tells the layer above.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A one-time operation ended.
    Finished {
        /// Which.
        id: OperationId,
        /// The resource.
        resource: Arc<str>,
        /// How it ended.
        result: OperationResult,
    },
    /// A recurring monitor found the resource not running, or did not answer.
    Failed {
        /// Which monitor.
        id: OperationId,
        /// The resource.
        resource: Arc<str>,
        /// What it found.
        result: OperationResult,
    },
}

/// Runs what it is asked to, each resource's operations one after the other, several resources at the same time.
///
/// Whatever the driver does, each one-time operation is answered once: a run that has not been reported
/// [`Config::margin`] after its own timeout counts as timed out, and what follows no longer waits for it.
#[derive(Debug)]
pub struct Executor {
    config: Config,
    rng: Rng,
    held: bool,
    next_run: u64,
    resources: BTreeMap<Arc<str>, Resource>,
    out: VecDeque<Output>,
}

#[derive(Debug, Default)]
struct Resource {
    current: Option<Current>,
    waiting: VecDeque<(OperationId, Operation)>,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Current {
    run: RunId,
    id: OperationId,
    action: Action,
    recurring: bool,
    deadline: Instant,
    cancelled: bool,
    started: Instant,
}

#[derive(Debug)]
struct Watch {
    id: OperationId,
    operation: Operation,
    at: Instant,
}

impl Executor {
    /// An executor with nothing to do. `rng` spreads the monitors, so that those of many resources do not run at once.
    #[must_use]
    pub const fn new(config: Config, rng: Rng) -> Self {
        Self { config, rng, held: false, next_run: 0, resources: BTreeMap::new(), out: VecDeque::new() }
    }

    /// Runs that the driver has not reported yet.
    #[must_use]
    pub fn running(&self) -> usize {
        self.resources.values().filter(|r| r.current.is_some()).count()
    }

    /// One-time operations that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.resources.values().map(|r| r.waiting.len()).sum()
    }

    fn on_request(&mut self, now: Instant, request: Request) {
        match request {
            Request::Run { id, operation } => self.on_run(id, operation, false),
            Request::StopNow { id, operation } => self.on_run(id, operation, true),
            Request::Watch { id, operation } => {
                let interval = operation.interval.unwrap_or(Duration::from_secs(10));
                let at = now + self.rng.duration(interval / 2, interval);
                let resource = self.resources.entry(Arc::clone(&operation.resource)).or_default();
                resource.watch = Some(Watch { id, operation, at });
            }
            Request::Hold => self.held = true,
            Request::Release => self.held = false,
            Request::Drop => self.drop_waiting(),
        }
    }

    fn on_run(&mut self, id: OperationId, operation: Operation, now: bool) {
        let resource = self.resources.entry(Arc::clone(&operation.resource)).or_default();
        let changes = matches!(operation.action, Action::Start | Action::Stop);
        if changes {
            resource.watch = None;
            for (id, dropped) in core::mem::take(&mut resource.waiting) {
                self.out.push_back(Output::Event(cancelled(id, dropped.resource)));
            }
        }
        if resource.waiting.len() >= self.config.queue_max.max(1) {
            self.out.push_back(Output::Event(cancelled(id, operation.resource)));
            return;
        }
        if let Some(current) = &mut resource.current
            && changes
            && !current.cancelled
            && (current.action == Action::Monitor || (now && current.action != Action::Stop))
        {
            current.cancelled = true;
            self.out.push_back(Output::Cancel { run: current.run });
        }
        resource.waiting.push_back((id, operation));
    }

    fn drop_waiting(&mut self) {
        for (name, resource) in &mut self.resources {
            resource.watch = None;
            if let Some(current) = &mut resource.current
                && current.action == Action::Monitor
                && !current.cancelled
            {
                current.cancelled = true;
                self.out.push_back(Output::Cancel { run: current.run });
            }
            let (keep, dropped) = core::mem::take(&mut resource.waiting)
                .into_iter()
                .partition(|(_, operation)| operation.action == Action::Stop);
            resource.waiting = keep;
            let dropped: VecDeque<(OperationId, Operation)> = dropped;
            for (id, _) in dropped {
                self.out.push_back(Output::Event(cancelled(id, Arc::clone(name))));
            }
        }
    }

    fn on_done(&mut self, now: Instant, run: RunId, result: OperationResult) {
        let found = self.resources.iter_mut().find(|(_, r)| r.current.as_ref().is_some_and(|c| c.run == run));
        let Some((name, resource)) = found else { return };
        let Some(current) = resource.current.take() else { return };
        let name = Arc::clone(name);
        if !current.recurring {
            self.out.push_back(Output::Event(Event::Finished { id: current.id, resource: name, result }));
            return;
        }
        let Some(watch) = resource.watch.as_mut().filter(|w| w.id == current.id) else { return };
        if result.outcome.is_running() {
            let interval = watch.operation.interval.unwrap_or(Duration::from_secs(10));
            watch.at = now + self.rng.duration(interval / 10 * 9, interval);
        } else {
            resource.watch = None;
            self.out.push_back(Output::Event(Event::Failed { id: current.id, resource: name, result }));
        }
    }

    /// Gives up on runs that the driver does not report.
    fn give_up(&mut self, now: Instant) {
        let silent = |r: &Resource| r.current.as_ref().is_some_and(|c| c.deadline <= now);
        let late: Vec<(RunId, Instant)> = self
            .resources
            .values()
            .filter(|r| silent(r))
            .filter_map(|r| r.current.as_ref().map(|c| (c.run, c.started)))
            .collect();
        for (run, started) in late {
            self.out.push_back(Output::Cancel { run });
            let mut result = OperationResult::new(Outcome::TimedOut);
            result.took = now - started;
            result.reason = Some("nothing was heard of the agent".to_owned());
            self.on_done(now, run, result);
        }
    }

    /// Begins what can begin: stops first and without limit, then what else was asked for, then monitors that are due.
    fn begin(&mut self, now: Instant) {
        let mut places = self.config.parallel_max.max(1).saturating_sub(self.running());
        for urgency in [Urgency::Stop, Urgency::Asked, Urgency::Due] {
            for resource in self.resources.values_mut() {
                if resource.current.is_some() || (places == 0 && urgency != Urgency::Stop) {
                    continue;
                }
                let Some((id, operation, recurring)) = resource.next(urgency, self.held, now) else {
                    continue;
                };
                self.next_run += 1;
                let run = RunId(self.next_run);
                resource.current = Some(Current {
                    run,
                    id,
                    action: operation.action,
                    recurring,
                    deadline: now + operation.timeout + self.config.margin,
                    cancelled: false,
                    started: now,
                });
                self.out.push_back(Output::Run { run, operation });
                places = places.saturating_sub(1);
            }
        }
        self.resources.retain(|_, r| r.current.is_some() || r.watch.is_some() || !r.waiting.is_empty());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Stop,
    Asked,
    Due,
}

impl Resource {
    fn next(&mut self, urgency: Urgency, held: bool, now: Instant) -> Option<(OperationId, Operation, bool)> {
        let front = self.waiting.front().map(|(_, o)| o.action);
        match urgency {
            Urgency::Stop if front != Some(Action::Stop) => None,
            Urgency::Asked if held && front == Some(Action::Start) => None,
            Urgency::Stop | Urgency::Asked => self.waiting.pop_front().map(|(id, o)| (id, o, false)),
            Urgency::Due => {
                let watch = self.watch.as_ref().filter(|w| self.waiting.is_empty() && w.at <= now)?;
                Some((watch.id, watch.operation.clone(), true))
            }
        }
    }
}

fn cancelled(id: OperationId, resource: Arc<str>) -> Event {
    Event::Finished { id, resource, result: OperationResult::new(Outcome::Cancelled) }
}

impl Layer for Executor {
    type Input<'a> = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Request(request) => self.on_request(now, request),
            Input::Done { run, result } => self.on_done(now, run, result),
        }
        self.begin(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.give_up(now);
        self.begin(now);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let full = self.running() >= self.config.parallel_max.max(1);
        self.resources
            .values()
            .filter_map(|r| match &r.current {
                Some(current) => Some(current.deadline),
                None => r.watch.as_ref().filter(|_| !full && r.waiting.is_empty()).map(|w| w.at),
            })
            .min()
    }
}
