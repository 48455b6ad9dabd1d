use crate::executor::RunId;
use crate::{Agents, Canceller, Operation, OperationResult, Outcome};
use core::fmt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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
/// Cheap to clone. Nothing here waits for an agent. The report may come from any thread, even before
/// [`AgentHost::run`] returns.
#[derive(Clone)]
pub struct AgentHost {
    agents: Agents,
    report: Arc<dyn Fn(OperationDone) + Send + Sync>,
    running: Arc<Mutex<BTreeMap<RunId, Option<Canceller>>>>,
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
        Self { agents, report: Arc::new(report), running: Arc::default() }
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
        lock(&self.running).insert(run, None);
        let (report, running) = (Arc::clone(&self.report), Arc::clone(&self.running));
        let canceller = agent.begin(
            operation,
            Box::new(move |result| {
                lock(&running).remove(&run);
                report(OperationDone { run, result });
            }),
        );
        // Gone if it has been reported already.
        if let Some(slot) = lock(&self.running).get_mut(&run) {
            *slot = Some(canceller);
        }
    }

    /// Ends a run early. It is still reported. Does nothing if it has been.
    pub fn cancel(&self, run: RunId) {
        let canceller = lock(&self.running).get_mut(&run).and_then(Option::take);
        if let Some(canceller) = canceller {
            canceller.cancel();
        }
    }

    /// Ends every run early. Each is still reported.
    pub fn cancel_all(&self) {
        let all: Vec<Canceller> = lock(&self.running).values_mut().filter_map(Option::take).collect();
        for canceller in all {
            canceller.cancel();
        }
    }
}

type Running = BTreeMap<RunId, Option<Canceller>>;

fn lock(running: &Mutex<Running>) -> std::sync::MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
