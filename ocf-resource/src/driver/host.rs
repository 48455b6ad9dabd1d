use crate::executor::RunId;
use crate::{
    Action, AgentError, AgentName, Agents, Canceller, Metadata, Operation, OperationResult, Outcome,
    ResourceAgent,
};
use core::fmt;
use core::time::Duration;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest time that an agent gets to describe itself.
const ASK_MAX: Duration = Duration::from_secs(30);
/// Of the time of an operation that waits for the description, the part that it gets for that: one in so many.
const ASK_PART: u32 = 4;

/// What became of one run: pass it to the executor as `executor::Input::Done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationDone {
    /// Which run.
    pub run: RunId,
    /// How it ended.
    pub result: OperationResult,
}

/// Carries out what an [`Executor`](crate::executor::Executor) asks for, and reports each run exactly once.
///
/// Before a start, and before it is asked to migrate, to reload or to take notice, an agent is held against its own
/// description: parameters that it does not know or cannot read are [`AgentError::Parameters`], what it does not offer is
/// answered as unimplemented, and it is not called. A description is asked for once, usually with the first probe; nothing is
/// refused by an old one. An agent that cannot describe itself is called all the same. Looks and stops are never held up.
///
/// Cheap to clone. Nothing here waits for an agent. The report may come from any thread, even before
/// [`AgentHost::run`] returns.
#[derive(Clone)]
pub struct AgentHost {
    agents: Agents,
    report: Arc<dyn Fn(OperationDone) + Send + Sync>,
    running: Arc<Mutex<BTreeMap<RunId, Slot>>>,
    /// What agents say of themselves; `None` while one is asked for the first time, or if it did not say.
    described: Arc<Mutex<BTreeMap<AgentName, Option<Arc<Metadata>>>>>,
    /// Agents that are asked while nothing waits for the answer.
    asked: Arc<Mutex<BTreeMap<AgentName, Canceller>>>,
}

/// Where a run stands.
enum Slot {
    /// Its agent is asked to describe itself; `None` until it has been called.
    Asking(Option<Canceller>),
    /// Its agent is being called.
    Calling,
    /// Its agent is at work.
    Running(Canceller),
    /// To be ended as soon as its agent has been called.
    Cancelled,
}

impl fmt::Debug for AgentHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentHost").field("agents", &self.agents).finish_non_exhaustive()
    }
}

impl AgentHost {
    /// Runs agents of these classes, and tells `report` how each run ended. `report` must not block: it is called on the
    /// thread that serves all agents of a class.
    pub fn new(agents: Agents, report: impl Fn(OperationDone) + Send + Sync + 'static) -> Self {
        Self {
            agents,
            report: Arc::new(report),
            running: Arc::default(),
            described: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// The agents it knows.
    #[must_use]
    pub const fn agents(&self) -> &Agents {
        &self.agents
    }

    /// Begins a run.
    pub fn run(&self, run: RunId, operation: &Operation) {
        let agent = match self.agents.find(&operation.agent) {
            Ok(agent) => agent,
            Err(error) => {
                let result = OperationResult::new(Outcome::NotStarted(error));
                return (self.report)(OperationDone { run, result });
            }
        };
        lock(&self.running).insert(run, Slot::Calling);
        if !is_checked(operation.action) {
            if operation.action == Action::Monitor && operation.interval.is_none() {
                self.get_to_know(&operation.agent, &*agent);
            }
            return self.begin(run, &*agent, operation);
        }
        let known = lock(&self.described).get(&operation.agent).cloned().flatten();
        match known.map(|metadata| prepared(&metadata, operation)) {
            Some(Ok(operation)) => self.begin(run, &*agent, &operation),
            _ => self.ask_then_begin(run, agent, operation.clone()),
        }
    }

    /// Asks an agent for its description, unless it was asked before.
    fn get_to_know(&self, name: &AgentName, agent: &dyn ResourceAgent) {
        match lock(&self.described).entry(name.clone()) {
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => _ = place.insert(None),
        }
        let (described, asked) = (Arc::clone(&self.described), Arc::clone(&self.asked));
        let answered = Arc::new(AtomicBool::new(false));
        let (of, has) = (name.clone(), Arc::clone(&answered));
        let canceller = agent.metadata(
            ASK_MAX,
            Box::new(move |answer| {
                if let Ok(metadata) = answer {
                    lock(&described).insert(of.clone(), Some(Arc::new(metadata)));
                }
                let mut asked = lock(&asked);
                has.store(true, Ordering::Relaxed);
                asked.remove(&of);
            }),
        );
        let mut asked = lock(&self.asked);
        if !answered.load(Ordering::Relaxed) {
            asked.insert(name.clone(), canceller);
        }
    }

    /// Asks an agent for its description, and calls it if that allows what is asked.
    fn ask_then_begin(&self, run: RunId, agent: Arc<dyn ResourceAgent>, mut operation: Operation) {
        lock(&self.running).insert(run, Slot::Asking(None));
        let host = self.clone();
        let asked = std::time::Instant::now();
        let called = Arc::clone(&agent);
        // One that hangs when it is to describe itself may do well what it is there for: most of the time is kept for that.
        let limit = ASK_MAX.min(operation.timeout / ASK_PART);
        let answer = move |answer| {
            let refused = match answer {
                Ok(metadata) => {
                    let refused = match prepared(&metadata, &operation) {
                        Ok(fit) => {
                            operation = fit.into_owned();
                            None
                        }
                        Err(refused) => Some(*refused),
                    };
                    lock(&host.described).insert(operation.agent.clone(), Some(Arc::new(metadata)));
                    refused
                }
                // Nobody knows what it could take without a restart.
                Err(_) if operation.runs_with.is_some() => {
                    Some(OperationResult::unimplemented(operation.action))
                }
                Err(error) => {
                    tracing::debug!(%error, "an agent is called without a look at its description");
                    None
                }
            };
            match lock(&host.running).get_mut(&run) {
                Some(slot) => *slot = Slot::Calling,
                // It was cancelled meanwhile, and that was reported.
                None => return,
            }
            operation.timeout = operation.timeout.saturating_sub(asked.elapsed());
            let late = operation.timeout.is_zero();
            match refused.or_else(|| late.then(|| OperationResult::new(Outcome::TimedOut))) {
                Some(result) => host.done(run, result),
                None => host.begin(run, &*agent, &operation),
            }
        };
        let canceller = called.metadata(limit, Box::new(answer));
        let late = match lock(&self.running).get_mut(&run) {
            Some(Slot::Asking(place)) => place.replace(canceller),
            // It has answered.
            Some(Slot::Calling | Slot::Running(_) | Slot::Cancelled) => None,
            // It was cancelled meanwhile, or has answered.
            None => Some(canceller),
        };
        if let Some(late) = late {
            late.cancel();
        }
    }

    fn begin(&self, run: RunId, agent: &dyn ResourceAgent, operation: &Operation) {
        let host = self.clone();
        let canceller = agent.begin(operation, Box::new(move |result| host.done(run, result)));
        // Gone if it has been reported already.
        let late = match lock(&self.running).get_mut(&run) {
            None => None,
            Some(Slot::Cancelled) => Some(canceller),
            Some(slot) => {
                *slot = Slot::Running(canceller);
                None
            }
        };
        if let Some(late) = late {
            late.cancel();
        }
    }

    fn done(&self, run: RunId, result: OperationResult) {
        lock(&self.running).remove(&run);
        (self.report)(OperationDone { run, result });
    }

    /// Ends a run early. It is still reported. Does nothing if it has been.
    pub fn cancel(&self, run: RunId) {
        let mut running = lock(&self.running);
        let Some(slot) = running.get_mut(&run) else { return };
        match core::mem::replace(slot, Slot::Cancelled) {
            Slot::Running(canceller) => {
                drop(running);
                canceller.cancel();
            }
            Slot::Asking(canceller) => {
                running.remove(&run);
                drop(running);
                if let Some(canceller) = canceller {
                    canceller.cancel();
                }
                (self.report)(OperationDone { run, result: OperationResult::new(Outcome::Cancelled) });
            }
            Slot::Calling | Slot::Cancelled => {}
        }
    }

    /// Ends whoever describes itself. What waits for that is reported as cancelled.
    pub fn stop_asking(&self) {
        let is_asked = |slot: &Slot| matches!(slot, Slot::Asking(_));
        let runs: Vec<RunId> =
            lock(&self.running).iter().filter(|(_, slot)| is_asked(slot)).map(|(run, _)| *run).collect();
        for run in runs {
            self.cancel(run);
        }
        for (_, canceller) in core::mem::take(&mut *lock(&self.asked)) {
            canceller.cancel();
        }
    }

    /// Ends every run early, and whoever describes itself. Each run is still reported.
    pub fn cancel_all(&self) {
        let all: Vec<RunId> = lock(&self.running).keys().copied().collect();
        for run in all {
            self.cancel(run);
        }
        self.stop_asking();
    }
}

/// True for what an agent does only if its description fits. Not for a stop, which has to be tried whatever the parameters are,
/// nor for a monitor, which must find what runs.
const fn is_checked(action: Action) -> bool {
    match action {
        Action::Start
        | Action::Notify
        | Action::MigrateTo
        | Action::MigrateFrom
        | Action::Reload
        | Action::ReloadAgent => true,
        Action::Stop
        | Action::Monitor
        | Action::Promote
        | Action::Demote
        | Action::ValidateAll
        | Action::MetaData => false,
    }
}

/// The operation as an agent with this description is called for it, or why it is not called.
fn prepared<'o>(
    metadata: &Metadata,
    operation: &'o Operation,
) -> Result<Cow<'o, Operation>, Box<OperationResult>> {
    let action = operation.action;
    let refused = |reason: String| {
        let mut result = OperationResult::unimplemented(action);
        result.reason = Some(reason);
        Err(Box::new(result))
    };
    let fit = match &operation.runs_with {
        Some(before) => match metadata.takes_by(before, &operation.parameters) {
            Ok(Action::Reload) => Cow::Owned(Operation { action: Action::Reload, ..operation.clone() }),
            Ok(_) => Cow::Borrowed(operation),
            Err(why) => return refused(format!("{} {why}", operation.agent)),
        },
        None if action != Action::Start && !metadata.supports(action.word()) => {
            return refused(format!("{} offers no {action}", operation.agent));
        }
        None => Cow::Borrowed(operation),
    };
    let Err(errors) = metadata.check_parameters(&operation.parameters) else { return Ok(fit) };
    // Without the values: one may be a secret under a wrong name.
    let errors = errors.0.iter().map(|e| format!("{} {}", e.path, e.problem)).collect::<Vec<_>>().join("; ");
    let error = AgentError::Parameters { agent: operation.agent.clone(), errors };
    Err(Box::new(OperationResult::new(Outcome::NotStarted(error))))
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
