//! Runs the operations of one node, each resource's one after the other.

use crate::{Action, Operation, OperationResult, Outcome, Promotion};
use core::time::Duration;
use pils::{Instant, Layer, Rng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

mod load;
mod watch;

pub use load::{Load, Process};
pub use watch::{Report, WatchPolicy, Watched};
use watch::{Seen, Watch};

/// Names an operation that was asked for. Chosen by who asks; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
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
    /// Say by [`Output::Persist`] what has to survive a restart of this process. Default no.
    pub durable: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { parallel_max: 8, margin: Duration::from_secs(10), queue_max: 16, durable: false }
    }
}

/// What is asked of the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Run an operation once: a start, a stop, a probe. Answered by one [`Event::Finished`]. Waits for what runs on
    /// the same resource, except that what [changes](Action::changes) it cancels a monitor, and drops what waits.
    Run {
        /// Names it in the answer.
        id: OperationId,
        /// What to do.
        operation: Operation,
    },
    /// Run a monitor again and again, at most `interval` after the one before. Answered by [`Event::Failed`] when it
    /// fails, which ends it; so does the next operation that [changes](Action::changes) the resource. A resource may have
    /// one for each depth and role; another of the same takes its place.
    Watch {
        /// Names it in the answers.
        id: OperationId,
        /// What to do; `interval` is set.
        operation: Operation,
        /// What counts as a failure, and what else is told.
        policy: WatchPolicy,
    },
    /// Stop a resource at once: cancel even a start that runs. Otherwise as `Run`.
    StopNow {
        /// Names it in the answer.
        id: OperationId,
        /// The stop.
        operation: Operation,
    },
    /// End one operation, whether it waits, runs or recurs. It is answered as cancelled; a recurring one is not answered.
    Cancel {
        /// Which.
        id: OperationId,
    },
    /// End everything that waits for a resource, its recurring monitors, and a monitor that runs.
    Flush {
        /// The resource.
        resource: Arc<str>,
    },
    /// Somebody outside knows that a resource has failed: answered as if its least thorough recurring monitor had found
    /// out, without asking the agent; by [`Event::Notified`] if it has none.
    Fail {
        /// The resource.
        resource: Arc<str>,
        /// What the monitor is to have found.
        result: OperationResult,
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
    /// Make this durable before carrying out what follows. Only if [`Config::durable`] says so.
    Persist {
        /// The resource.
        resource: Arc<str>,
        /// What is known of it; `None` to forget it.
        held: Option<Box<Held>>,
    },
    /// Tell the layer above.
    Event(Event),
}

/// What has to be known of a resource after a restart of this process, to go on watching it and to know what to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The last operation that was begun and changes the resource.
    pub operation: Operation,
    /// It has not ended: nobody knows what it did.
    pub in_flight: bool,
    /// Its recurring monitors.
    pub watches: Vec<Watched>,
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
    /// What a recurring monitor found, as its policy asks for; it goes on.
    Observed {
        /// Which monitor.
        id: OperationId,
        /// The resource.
        resource: Arc<str>,
        /// What it found.
        result: OperationResult,
    },
    /// Its agent said, in an operation that ended, what it thinks of promoting it. Told before the end of the operation.
    Promotion {
        /// The resource.
        resource: Arc<str>,
        /// What it said.
        promotion: Promotion,
    },
    /// A failure was told from outside, of a resource that is not watched.
    Notified {
        /// The resource.
        resource: Arc<str>,
        /// What was told.
        result: OperationResult,
    },
    /// After a restart: the process before this one began an operation, and nobody knows what came of it.
    Interrupted {
        /// The operation: have its resource looked at.
        operation: Operation,
    },
}

/// Runs what it is asked to, each resource's operations one after the other, several resources at the same time.
///
/// Whatever the driver does, each one-time operation is answered once: a run that has not been reported
/// [`Config::margin`] after its own timeout counts as timed out, and what follows no longer waits for it. Each call costs
/// O(log resources), so that many thousands can be watched.
#[derive(Debug)]
pub struct Executor {
    config: Config,
    rng: Rng,
    held: bool,
    next_run: u64,
    resources: BTreeMap<Arc<str>, Resource>,
    runs: BTreeMap<RunId, Arc<str>>,
    /// Resources with a stop in front, and nothing that runs.
    stops: BTreeSet<Arc<str>>,
    /// Resources with something else in front, and nothing that runs.
    asked: BTreeSet<Arc<str>>,
    /// Resources with nothing but a monitor to wait for.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// When to give up on what runs.
    deadlines: BTreeSet<(Instant, Arc<str>)>,
    counts: load::Counts,
    out: VecDeque<Output>,
}

#[derive(Debug, Default)]
struct Resource {
    current: Option<Current>,
    waiting: VecDeque<(OperationId, Operation)>,
    watches: Vec<Watch>,
    held: Option<Held>,
    indexed: Indexed,
}

/// Where a resource stands in the executor's sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Indexed {
    #[default]
    Nowhere,
    Stop,
    Asked,
    Due(Instant),
    Deadline(Instant),
}

#[derive(Debug)]
struct Current {
    run: RunId,
    id: OperationId,
    operation: Operation,
    recurring: bool,
    deadline: Instant,
    cancelled: bool,
    started: Instant,
}

impl Executor {
    /// An executor with nothing to do. `rng` spreads the monitors, so that those of many resources do not run at once.
    #[must_use]
    pub const fn new(config: Config, rng: Rng) -> Self {
        Self {
            config,
            rng,
            held: false,
            next_run: 0,
            resources: BTreeMap::new(),
            runs: BTreeMap::new(),
            stops: BTreeSet::new(),
            asked: BTreeSet::new(),
            due: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            counts: load::Counts::new(),
            out: VecDeque::new(),
        }
    }

    /// Takes up what the process before this one held: its monitors go on under their old names, so the caller must not
    /// give those again, and what it was doing is told as [`Event::Interrupted`]. For a fresh executor.
    pub fn restore(&mut self, now: Instant, held: impl IntoIterator<Item = Held>) {
        for held in held {
            let name = Arc::clone(&held.operation.resource);
            if held.in_flight {
                let operation = held.operation.clone();
                self.out.push_back(Output::Event(Event::Interrupted { operation }));
            }
            let resource = self.resources.entry(Arc::clone(&name)).or_default();
            for watched in &held.watches {
                let at = now + self.rng.duration(Duration::ZERO, watched.interval());
                resource.watches.push(Watch::new(watched.clone(), at));
            }
            resource.held = Some(held);
            self.index(&name);
        }
        self.begin(now);
    }

    /// Runs that the driver has not reported yet.
    #[must_use]
    pub fn running(&self) -> usize {
        self.runs.len()
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
            Request::Watch { id, operation, policy } => {
                let watched = Watched { id, operation, policy };
                let name = Arc::clone(&watched.operation.resource);
                let at = now + self.rng.duration(watched.interval() / 2, watched.interval());
                let resource = self.resources.entry(Arc::clone(&name)).or_default();
                resource.watches.retain(|w| !w.watched.replaces(&watched));
                resource.watches.push(Watch::new(watched, at));
                self.persist(&name);
                self.index(&name);
            }
            Request::Cancel { id } => self.on_cancel(id),
            Request::Flush { resource } => self.flush(&resource, true),
            Request::Fail { resource, result } => self.on_fail(resource, result),
            Request::Hold => self.held = true,
            Request::Release => self.held = false,
            Request::Drop => {
                for name in self.resources.keys().cloned().collect::<Vec<_>>() {
                    self.flush(&name, false);
                }
            }
        }
    }

    fn on_run(&mut self, id: OperationId, operation: Operation, now: bool) {
        let name = Arc::clone(&operation.resource);
        let resource = self.resources.entry(Arc::clone(&name)).or_default();
        let changes = operation.action.changes();
        if changes {
            resource.watches.clear();
            for (id, dropped) in core::mem::take(&mut resource.waiting) {
                self.out.push_back(Output::Event(cancelled(id, dropped.resource)));
            }
        }
        if resource.waiting.len() >= self.config.queue_max.max(1) {
            self.counts.refused += 1;
            self.out.push_back(Output::Event(cancelled(id, operation.resource)));
            return;
        }
        if let Some(current) = &mut resource.current
            && changes
            && !current.cancelled
            && (current.operation.action.only_looks() || (now && current.operation.action != Action::Stop))
        {
            current.cancelled = true;
            self.out.push_back(Output::Cancel { run: current.run });
        }
        resource.waiting.push_back((id, operation));
        self.index(&name);
    }

    fn on_cancel(&mut self, id: OperationId) {
        let has = |r: &Resource| {
            r.current.as_ref().is_some_and(|c| c.id == id)
                || r.waiting.iter().any(|(i, _)| *i == id)
                || r.watches.iter().any(|w| w.watched.id == id)
        };
        let Some((name, resource)) = self.resources.iter_mut().find(|(_, r)| has(r)) else { return };
        let name = Arc::clone(name);
        resource.watches.retain(|w| w.watched.id != id);
        if let Some(current) = resource.current.as_mut().filter(|c| c.id == id && !c.cancelled) {
            current.cancelled = true;
            self.out.push_back(Output::Cancel { run: current.run });
        }
        if let Some(at) = resource.waiting.iter().position(|(i, _)| *i == id) {
            resource.waiting.remove(at);
            self.out.push_back(Output::Event(cancelled(id, Arc::clone(&name))));
        }
        self.persist(&name);
        self.index(&name);
    }

    /// Ends what waits, stops only if `stops_too`, recurring monitors, and a look that runs.
    fn flush(&mut self, name: &Arc<str>, stops_too: bool) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        resource.watches.clear();
        if let Some(current) = &mut resource.current
            && current.operation.action.only_looks()
            && !current.cancelled
        {
            current.cancelled = true;
            self.out.push_back(Output::Cancel { run: current.run });
        }
        let (keep, dropped): (VecDeque<_>, VecDeque<_>) = core::mem::take(&mut resource.waiting)
            .into_iter()
            .partition(|(_, operation)| operation.action == Action::Stop && !stops_too);
        resource.waiting = keep;
        for (id, _) in dropped {
            self.out.push_back(Output::Event(cancelled(id, Arc::clone(name))));
        }
        self.persist(name);
        self.index(name);
    }

    fn on_fail(&mut self, name: Arc<str>, result: OperationResult) {
        let least = self.resources.get_mut(&name).and_then(|resource| {
            let depths =
                resource.watches.iter().enumerate().map(|(at, w)| (w.watched.operation.check_level, at));
            let (_, at) = depths.min()?;
            Some(resource.watches.remove(at))
        });
        let Some(watch) = least else {
            self.out.push_back(Output::Event(Event::Notified { resource: name, result }));
            return;
        };
        self.persist(&name);
        self.index(&name);
        let id = watch.watched.id;
        self.out.push_back(Output::Event(Event::Failed { id, resource: name, result }));
    }

    fn on_done(&mut self, now: Instant, run: RunId, result: OperationResult) {
        let Some(name) = self.runs.remove(&run) else { return };
        let Some(resource) = self.resources.get_mut(&name) else { return };
        let Some(current) = resource.current.take() else { return };
        self.counts.ended(&result);
        if let Some(promotion) = result.promotion {
            let resource = Arc::clone(&name);
            self.out.push_back(Output::Event(Event::Promotion { resource, promotion }));
        }
        if current.recurring {
            self.on_monitored(now, &name, current.id, result);
        } else {
            if let Some(held) = resource.held.as_mut().filter(|_| current.operation.action.changes()) {
                held.in_flight = false;
                let gone = current.operation.action == Action::Stop && result.outcome == Outcome::Ok;
                if gone {
                    resource.held = None;
                }
                self.persist_as(&name, gone);
            }
            let resource = Arc::clone(&name);
            self.out.push_back(Output::Event(Event::Finished { id: current.id, resource, result }));
        }
        self.index(&name);
    }

    fn on_monitored(&mut self, now: Instant, name: &Arc<str>, id: OperationId, result: OperationResult) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        let Some(at) = resource.watches.iter().position(|w| w.watched.id == id) else { return };
        let watch = &mut resource.watches[at];
        let interval = watch.watched.interval();
        watch.at = now + self.rng.duration(interval / 10 * 9, interval);
        match watch.see(&result) {
            Seen::Nothing => {}
            Seen::Tell => {
                let resource = Arc::clone(name);
                self.out.push_back(Output::Event(Event::Observed { id, resource, result }));
            }
            Seen::Failed => {
                resource.watches.remove(at);
                self.persist(name);
                let resource = Arc::clone(name);
                self.out.push_back(Output::Event(Event::Failed { id, resource, result }));
            }
        }
    }

    /// Gives up on runs that the driver does not report.
    fn give_up(&mut self, now: Instant) {
        while let Some((_, name)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            let current = self.resources.get(&name).and_then(|r| r.current.as_ref());
            let (run, started) = current.map(|c| (c.run, c.started)).expect("only what runs has a deadline");
            self.out.push_back(Output::Cancel { run });
            let mut result = OperationResult::new(Outcome::TimedOut);
            result.took = now - started;
            result.reason = Some("nothing was heard of the agent".to_owned());
            self.on_done(now, run, result);
        }
    }

    /// Begins what can begin: stops first and without limit, then what else was asked for, then monitors that are due.
    fn begin(&mut self, now: Instant) {
        for name in self.stops.iter().cloned().collect::<Vec<_>>() {
            self.begin_asked(now, &name);
        }
        let limit = self.config.parallel_max.max(1);
        let mut after: Option<Arc<str>> = None;
        while self.running() < limit {
            let next = match &after {
                None => self.asked.first(),
                Some(name) => {
                    use core::ops::Bound::{Excluded, Unbounded};
                    self.asked.range::<Arc<str>, _>((Excluded(name), Unbounded)).next()
                }
            };
            let Some(name) = next.cloned() else { break };
            let front = self.resources.get(&name).and_then(|r| r.waiting.front());
            let begins =
                |o: &Operation| matches!(o.action, Action::Start | Action::MigrateTo | Action::MigrateFrom);
            if !(self.held && front.is_some_and(|(_, o)| begins(o))) {
                self.begin_asked(now, &name);
            }
            after = Some(name);
        }
        while self.running() < limit {
            let Some((_, name)) = self.due.first().filter(|(at, _)| *at <= now).cloned() else { break };
            let watch = self.resources.get(&name).and_then(|r| r.watches.iter().min_by_key(|w| w.at));
            let watched = &watch.expect("only a watched resource is due").watched;
            let (id, operation) = (watched.id, watched.operation.clone());
            self.begin_run(now, &name, (id, operation), true);
        }
    }

    fn begin_asked(&mut self, now: Instant, name: &Arc<str>) {
        let front = self.resources.get_mut(name).and_then(|r| r.waiting.pop_front());
        if let Some(front) = front {
            self.begin_run(now, name, front, false);
        }
    }

    fn begin_run(
        &mut self,
        now: Instant,
        name: &Arc<str>,
        (id, operation): (OperationId, Operation),
        recurring: bool,
    ) {
        self.next_run += 1;
        let run = RunId(self.next_run);
        self.runs.insert(run, Arc::clone(name));
        let deadline = now + operation.timeout + self.config.margin;
        let resource = self.resources.entry(Arc::clone(name)).or_default();
        if self.config.durable && operation.action.changes() {
            let watches = Vec::new();
            resource.held = Some(Held { operation: operation.clone(), in_flight: true, watches });
            self.persist(name);
        }
        let resource = self.resources.entry(Arc::clone(name)).or_default();
        let current = operation.clone();
        resource.current = Some(Current {
            run,
            id,
            operation: current,
            recurring,
            deadline,
            cancelled: false,
            started: now,
        });
        self.out.push_back(Output::Run { run, operation });
        self.index(name);
    }

    fn persist(&mut self, name: &Arc<str>) {
        self.persist_as(name, false);
    }

    /// Says what is known of a resource now, if anything is kept of it.
    fn persist_as(&mut self, name: &Arc<str>, gone: bool) {
        if !self.config.durable {
            return;
        }
        let Some(resource) = self.resources.get_mut(name) else { return };
        let watches: Vec<Watched> = resource.watches.iter().map(|w| w.watched.clone()).collect();
        if resource.held.is_none()
            && !gone
            && let Some(watched) = watches.first()
        {
            // It was found running, not started: it is held from now on.
            let operation = watched.operation.clone();
            resource.held = Some(Held { operation, in_flight: false, watches: Vec::new() });
        }
        if let Some(held) = &mut resource.held {
            held.watches = watches;
        } else if !gone {
            return;
        }
        let held = resource.held.clone().map(Box::new);
        self.out.push_back(Output::Persist { resource: Arc::clone(name), held });
    }

    /// Puts a resource where it belongs among those that wait for something, or forgets it.
    fn index(&mut self, name: &Arc<str>) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        let place = match (&resource.current, resource.waiting.front()) {
            (Some(current), _) => Indexed::Deadline(current.deadline),
            (None, Some((_, operation))) if operation.action == Action::Stop => Indexed::Stop,
            (None, Some(_)) => Indexed::Asked,
            (None, None) => {
                resource.watches.iter().map(|w| w.at).min().map_or(Indexed::Nowhere, Indexed::Due)
            }
        };
        let old = core::mem::replace(&mut resource.indexed, place);
        if place == Indexed::Nowhere && resource.held.is_none() {
            self.resources.remove(name);
        }
        if old == place {
            return;
        }
        match old {
            Indexed::Nowhere => {}
            Indexed::Stop => {
                self.stops.remove(name);
            }
            Indexed::Asked => {
                self.asked.remove(name);
            }
            Indexed::Due(at) => {
                self.due.remove(&(at, Arc::clone(name)));
            }
            Indexed::Deadline(at) => {
                self.deadlines.remove(&(at, Arc::clone(name)));
            }
        }
        match place {
            Indexed::Nowhere => {}
            Indexed::Stop => {
                self.stops.insert(Arc::clone(name));
            }
            Indexed::Asked => {
                self.asked.insert(Arc::clone(name));
            }
            Indexed::Due(at) => {
                self.due.insert((at, Arc::clone(name)));
            }
            Indexed::Deadline(at) => {
                self.deadlines.insert((at, Arc::clone(name)));
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
        let due = self.due.first().filter(|_| !full).map(|(at, _)| *at);
        self.deadlines.first().map(|(at, _)| *at).into_iter().chain(due).min()
    }
}
