use crate::{
    Action, AgentClass, AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, OcfCode, Operation,
    OperationResult, Outcome, ResourceAgent, SupportedAction,
};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// An agent that is a part of this program. It may block: each operation runs on a thread of its own.
pub trait InProcess: Send + Sync + 'static {
    /// Carries out one operation. What it returns as text becomes the output.
    ///
    /// # Errors
    /// The code and the reason of a failure. A monitor of a stopped resource fails with [`OcfCode::NotRunning`].
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)>;
    /// The agent's description of itself.
    fn metadata(&self) -> Metadata;
}

/// Agents that are parts of this program, by name: `rust:<name>`.
#[derive(Clone, Default)]
pub struct RustClass {
    agents: BTreeMap<String, Arc<dyn InProcess>>,
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
            Some(inner) => Ok(Arc::new(RustAgent { inner: Arc::clone(inner), name: agent.clone() })),
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
}

/// How a wait for a worker ended.
enum Said {
    Done(Result<String, (OcfCode, String)>),
    Cancel,
}

impl ResourceAgent for RustAgent {
    /// A thread cannot be killed: on timeout or cancellation the operation is reported and its thread left behind.
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        let (say, said) = mpsc::channel();
        let cancel = say.clone();
        let (inner, work, timeout) = (Arc::clone(&self.inner), operation.clone(), operation.timeout);
        let begun = Instant::now();
        // Neither thread is waited for; if one cannot be started, `done` must still be called.
        let done = Arc::new(Mutex::new(Some(done)));
        let report = move |result: OperationResult, done: &Mutex<Option<Done>>| {
            let taken = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = taken {
                done(result);
            }
        };
        let waiting = Arc::clone(&done);
        let waiter = thread::Builder::new().name("agent-wait".to_owned()).spawn(move || {
            let outcome = match said.recv_timeout(timeout) {
                Ok(Said::Done(Ok(output))) => (Outcome::Ok, None, output),
                Ok(Said::Done(Err((code, reason)))) => {
                    (Outcome::Failed { code }, Some(reason), String::new())
                }
                Ok(Said::Cancel) => (Outcome::Cancelled, None, String::new()),
                Err(RecvTimeoutError::Timeout) => (Outcome::TimedOut, None, String::new()),
                Err(RecvTimeoutError::Disconnected) => {
                    let code = OcfCode::Generic;
                    (Outcome::Failed { code }, Some("the agent panicked".to_owned()), String::new())
                }
            };
            let (outcome, reason, output) = outcome;
            let took = begun.elapsed();
            report(OperationResult { reason, output, took, ..OperationResult::new(outcome) }, &waiting);
        });
        let worker = thread::Builder::new().name("agent".to_owned()).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| inner.operate(&work));
            let result = std::panic::catch_unwind(run)
                .unwrap_or_else(|_panic| Err((OcfCode::Generic, "the agent panicked".to_owned())));
            // Nobody listens any more after a timeout.
            say.send(Said::Done(result)).unwrap_or_default();
        });
        if let Some(error) = waiter.err().or_else(|| worker.err()) {
            let error = AgentError::Start { agent: self.name.clone(), detail: error.to_string() };
            report(OperationResult::new(Outcome::NotStarted(error)), &done);
        }
        Canceller::new(move || cancel.send(Said::Cancel).unwrap_or_default())
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
