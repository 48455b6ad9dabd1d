use super::workers::{Clock, Workers};
use crate::{
    Action, AgentClass, AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, OcfCode, Operation,
    OperationResult, Outcome, Promotion, ResourceAgent, SupportedAction,
};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// An agent that is a part of this program. It may block: operations that run at once are on threads of their own, which are
/// kept for ten seconds for those that follow.
pub trait InProcess: Send + Sync + 'static {
    /// Carries out one operation. What it returns as text becomes the output.
    ///
    /// # Errors
    /// The code and the reason of a failure. A monitor of a stopped resource fails with [`OcfCode::NotRunning`].
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)>;
    /// The agent's description of itself.
    fn metadata(&self) -> Metadata;
    /// What it says, after an operation, of promoting what runs here. Default: nothing, so that any copy is as good as
    /// another.
    fn promotion(&self, _operation: &Operation) -> Option<Promotion> {
        None
    }
}

/// Agents that are parts of this program, by name: `rust:<name>`.
#[derive(Clone, Default)]
pub struct RustClass {
    agents: BTreeMap<String, Arc<dyn InProcess>>,
    workers: Workers,
    clock: Clock,
}

impl core::fmt::Debug for RustClass {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(self.agents.keys()).finish()
    }
}

impl RustClass {
    /// Knows no agent.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows the agents that come with this crate: `address`, which is [`Address`](super::Address), and `filesystem`, which is
    /// [`FileSystem`](super::FileSystem).
    #[must_use]
    pub fn built_in() -> Self {
        Self::new().with("address", Arc::new(super::Address)).with("filesystem", Arc::new(super::FileSystem))
    }

    /// Adds an agent, replacing one of the same name.
    #[must_use]
    pub fn with(mut self, name: &str, agent: Arc<dyn InProcess>) -> Self {
        self.agents.insert(name.to_owned(), agent);
        self
    }
}

impl AgentClass for RustClass {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        if agent.provider().is_some() {
            return Err(AgentError::WrongForm { agent: agent.clone(), form: "rust:name" });
        }
        match self.agents.get(agent.name()) {
            Some(inner) => Ok(Arc::new(RustAgent {
                inner: Arc::clone(inner),
                name: agent.clone(),
                workers: self.workers.clone(),
                clock: self.clock.clone(),
            })),
            None => Err(AgentError::AgentMissing {
                agent: agent.clone(),
                looked_at: vec!["agents registered in this program".into()],
            }),
        }
    }

    fn list(&self) -> Vec<AgentName> {
        self.agents.keys().filter_map(|name| format!("rust:{name}").parse().ok()).collect()
    }
}

struct RustAgent {
    inner: Arc<dyn InProcess>,
    name: AgentName,
    workers: Workers,
    clock: Clock,
}

/// An operation under way. It ends once, whoever says so first.
struct Call {
    done: Mutex<Option<Done>>,
    begun: Instant,
}

impl Call {
    fn end(&self, result: OperationResult) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = done {
            done(result);
        }
    }

    fn end_as(&self, outcome: Outcome, reason: Option<String>, output: String) {
        self.end_with(OperationResult { reason, output, ..OperationResult::new(outcome) });
    }

    fn end_with(&self, result: OperationResult) {
        self.end(OperationResult { took: self.begun.elapsed(), ..result });
    }

    /// Ends it from elsewhere, where nothing may wait for whoever is told.
    fn end_from(self: Arc<Self>, workers: &Workers, outcome: Outcome) {
        let (call, same) = (Arc::clone(&self), outcome.clone());
        let told = workers.run(Box::new(move || call.end_as(same, None, String::new())));
        if told.is_err() {
            self.end_as(outcome, None, String::new());
        }
    }
}

impl ResourceAgent for RustAgent {
    /// A thread cannot be killed: on timeout or cancellation the operation is reported and its thread left behind.
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        let call = Arc::new(Call { done: Mutex::new(Some(done)), begun: Instant::now() });
        let (late, workers) = (Arc::clone(&call), self.workers.clone());
        let alarm = match call.begun.checked_add(operation.timeout) {
            Some(at) => {
                self.clock.at(at, Box::new(move || late.end_from(&workers, Outcome::TimedOut))).map(Some)
            }
            // Never.
            None => Ok(None),
        };
        let begun = alarm.and_then(|alarm| {
            let (inner, work) = (Arc::clone(&self.inner), operation.clone());
            let (call, clock) = (Arc::clone(&call), self.clock.clone());
            let begun = self.workers.run(Box::new(move || {
                let run = std::panic::AssertUnwindSafe(|| (inner.operate(&work), inner.promotion(&work)));
                let (result, promotion) = std::panic::catch_unwind(run).unwrap_or_else(|_panic| {
                    (Err((OcfCode::Generic, "the agent panicked".to_owned())), None)
                });
                alarm.into_iter().for_each(|alarm| clock.forget(alarm));
                let (outcome, reason, output) = match result {
                    Ok(output) => (Outcome::Ok, None, output),
                    Err((code, reason)) => (Outcome::Failed { code }, Some(reason), String::new()),
                };
                call.end_with(OperationResult { reason, output, promotion, ..OperationResult::new(outcome) });
            }));
            if begun.is_err() {
                alarm.into_iter().for_each(|alarm| self.clock.forget(alarm));
            }
            begun
        });
        if let Err(error) = begun {
            let error = AgentError::Start { agent: self.name.clone(), detail: error.to_string() };
            call.end(OperationResult::new(Outcome::NotStarted(error)));
        }
        let workers = self.workers.clone();
        Canceller::new(move || call.end_from(&workers, Outcome::Cancelled))
    }

    fn metadata(&self, _timeout: Duration, done: MetadataDone) -> Canceller {
        done(Ok(self.inner.metadata()));
        Canceller::nothing()
    }
}

/// An agent for tests and first runs: its resource is a name in a set that the caller can look at and change.
#[derive(Clone, Debug, Default)]
pub struct Stateful {
    running: Arc<Mutex<BTreeSet<String>>>,
}

impl Stateful {
    /// Nothing runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// True if this resource runs.
    #[must_use]
    pub fn is_running(&self, resource: &str) -> bool {
        self.set().contains(resource)
    }

    /// What runs, sorted.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        self.set().iter().cloned().collect()
    }

    /// Makes a resource fail: the next monitor finds it not running.
    pub fn fail(&self, resource: &str) {
        self.set().remove(resource);
    }

    fn set(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InProcess for Stateful {
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)> {
        let name = &*operation.resource;
        match operation.action {
            Action::Start => {
                self.set().insert(name.to_owned());
            }
            Action::Stop => {
                self.set().remove(name);
            }
            Action::Monitor if !self.is_running(name) => {
                return Err((OcfCode::NotRunning, format!("{name} is not running")));
            }
            Action::Monitor | Action::ValidateAll | Action::MetaData => {}
            other @ (Action::Promote
            | Action::Demote
            | Action::Notify
            | Action::MigrateTo
            | Action::MigrateFrom
            | Action::Reload
            | Action::ReloadAgent) => {
                return Err((OcfCode::Unimplemented, format!("there is no {other}")));
            }
        }
        Ok(String::new())
    }

    fn metadata(&self) -> Metadata {
        let actions = ["start", "stop", "monitor"].map(|name| SupportedAction {
            name: name.to_owned(),
            timeout: Some(Duration::from_secs(10)),
            ..SupportedAction::default()
        });
        Metadata {
            name: "stateful".to_owned(),
            api_version: Some("1.1".to_owned()),
            summary: "keeps in memory whether it runs".to_owned(),
            actions: actions.to_vec(),
            ..Metadata::default()
        }
    }
}
