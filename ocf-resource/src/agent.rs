//! What a resource agent is: operations, their results, and the trait that every class of agents implements.

use crate::{Action, Metadata, OcfCode, Promotion, Role, Severity};
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use pils::plugin::{Loader, Registry};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Which agent manages a resource: `class:name` or `class:provider:name`, such as `ocf:heartbeat:IPaddr2` or
/// `rust:stateful`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName {
    class: Arc<str>,
    provider: Option<Arc<str>>,
    name: Arc<str>,
}

impl AgentName {
    /// The class, which decides how the agent is found and run.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Who made it, for classes that have providers.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    /// The agent's own name within its class and provider; OCF calls it the type.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.provider {
            Some(provider) => write!(f, "{}:{provider}:{}", self.class, self.name),
            None => write!(f, "{}:{}", self.class, self.name),
        }
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> Self {
        name.to_string()
    }
}

/// A text that does not name an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} does not name an agent: write class:name or class:provider:name, such as ocf:heartbeat:Dummy"
)]
pub struct AgentNameError {
    /// The text.
    pub text: String,
}

impl FromStr for AgentName {
    type Err = AgentNameError;

    /// Takes two or three parts of letters, digits, `-`, `_`, `.` and `@`, none starting with a dot: a part can never
    /// leave the directory in which agents are looked up.
    fn from_str(text: &str) -> Result<Self, AgentNameError> {
        let fit = |p: &&str| {
            !p.is_empty()
                && p.len() <= 64
                && !p.starts_with('.')
                && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
        };
        let parts: Vec<&str> = text.split(':').filter(fit).collect();
        match (parts.as_slice(), text.split(':').count()) {
            ([class, name], 2) => Ok(Self { class: (*class).into(), provider: None, name: (*name).into() }),
            ([class, provider, name], 3) => {
                Ok(Self { class: (*class).into(), provider: Some((*provider).into()), name: (*name).into() })
            }
            _ => Err(AgentNameError { text: text.chars().take(200).collect() }),
        }
    }
}

impl TryFrom<String> for AgentName {
    type Error = AgentNameError;

    fn try_from(text: String) -> Result<Self, AgentNameError> {
        text.parse()
    }
}

/// One thing to do with one resource.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Operation {
    /// Name of the resource: tells the instances of one agent apart.
    pub resource: Arc<str>,
    /// The agent that manages it.
    pub agent: AgentName,
    /// What to do.
    pub action: Action,
    /// The resource's parameters.
    pub parameters: Arc<BTreeMap<String, String>>,
    /// After this time the operation is ended by force and counts as failed.
    pub timeout: Duration,
    /// How often it recurs; `None` for an operation that runs once. A monitor that runs once is a probe.
    pub interval: Option<Duration>,
    /// How thorough a monitor is (`OCF_CHECK_LEVEL`); 0 is the cheapest, 10 and 20 are customary.
    pub check_level: u32,
    /// The role that a monitor expects. `None` for resources without roles.
    pub role: Option<Role>,
    /// For [`Action::ReloadAgent`]: the parameters that it runs with so far. The agent is not told.
    #[serde(default)]
    pub runs_with: Option<Arc<BTreeMap<String, String>>>,
    /// What else the agent is told about the operation: `OCF_RESKEY_CRM_meta_<name>`, `-` in a name written as `_`.
    pub meta: Arc<BTreeMap<String, String>>,
}

impl Operation {
    /// An operation that runs once, without parameters, within 20 s.
    #[must_use]
    pub fn new(resource: impl Into<Arc<str>>, agent: AgentName, action: Action) -> Self {
        Self {
            resource: resource.into(),
            agent,
            action,
            parameters: Arc::default(),
            timeout: Duration::from_secs(20),
            interval: None,
            check_level: 0,
            role: None,
            runs_with: None,
            meta: Arc::default(),
        }
    }

    /// True if a monitor that ended so found what it expects: the resource runs, in the right role. Degraded is good
    /// enough.
    #[must_use]
    pub const fn is_met_by(&self, outcome: &Outcome) -> bool {
        match self.role {
            None | Some(Role::Unpromoted) => outcome.is_running(),
            Some(Role::Promoted) => outcome.is_promoted(),
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It did what was asked; a monitor: the resource runs.
    Ok,
    /// The agent ended with a code other than success. A monitor of a stopped resource ends so, with
    /// [`OcfCode::NotRunning`].
    Failed {
        /// The code.
        code: OcfCode,
    },
    /// The agent was ended by a signal that this node did not send.
    Killed {
        /// Number of the signal.
        signal: i32,
    },
    /// It did not end in time and was ended by force. What it did is not known.
    TimedOut,
    /// The agent did not run at all.
    NotStarted(AgentError),
    /// It was cancelled by who asked for it. What it did is not known.
    Cancelled,
}

impl Outcome {
    /// True if the resource runs, judged from a monitor.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self, Self::Ok | Self::Failed { code: OcfCode::Degraded })
    }

    /// True if the resource runs in the promoted role, judged from a monitor.
    #[must_use]
    pub const fn is_promoted(&self) -> bool {
        matches!(self, Self::Failed { code: OcfCode::RunningPromoted | OcfCode::DegradedPromoted })
    }

    /// What this outcome, if it is a failure, says about another attempt.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Failed { code } => code.severity(),
            Self::NotStarted(error) => error.severity(),
            Self::Ok | Self::Killed { .. } | Self::TimedOut | Self::Cancelled => Severity::Soft,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failed { code } => write!(f, "failed: {code}"),
            Self::Killed { signal } => write!(f, "agent killed by signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::NotStarted(error) => write!(f, "not started: {error}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// How an operation ended, with what the agent said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationResult {
    /// How it ended.
    pub outcome: Outcome,
    /// The reason that the agent gave itself (`ocf-exit-reason:`), at most 1 KiB.
    pub reason: Option<String>,
    /// The end of what the agent wrote, standard output before standard error; bounded by the class.
    pub output: String,
    /// How long it took.
    pub took: Duration,
    /// Processes that had to be ended after it: those that a run which did not end in time had sent into the background.
    pub left_behind: usize,
    /// What the agent says of promoting what runs here, if it says anything.
    pub promotion: Option<Promotion>,
}

impl OperationResult {
    /// A result with nothing to say but `outcome`.
    #[must_use]
    pub const fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            reason: None,
            output: String::new(),
            took: Duration::ZERO,
            left_behind: 0,
            promotion: None,
        }
    }

    /// The answer of a class that has no such action.
    #[must_use]
    pub fn unimplemented(action: Action) -> Self {
        let mut result = Self::new(Outcome::Failed { code: OcfCode::Unimplemented });
        result.reason = Some(format!("agents of this class have no {action}"));
        result
    }

    /// The outcome and the agent's own reason, in one line.
    #[must_use]
    pub fn explain(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}: {reason}", self.outcome),
            None => self.outcome.to_string(),
        }
    }
}

/// Why an agent cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// No class of this name is known to this node.
    #[error("no agent class {class:?}; known are {known}")]
    UnknownClass {
        /// The class.
        class: String,
        /// The classes there are, separated by commas.
        known: String,
    },
    /// The class is in a folder of plug-ins, and does not load.
    #[error("agent class {class:?} cannot be loaded: {detail}")]
    ClassNotLoaded {
        /// The class.
        class: String,
        /// Why not.
        detail: String,
    },
    /// The class has no agent of this name.
    #[error("agent {agent} is missing; looked at {}", places(looked_at))]
    AgentMissing {
        /// The agent.
        agent: AgentName,
        /// Where it was looked for.
        looked_at: Vec<PathBuf>,
    },
    /// There is such a file but it cannot be executed.
    #[error("agent {agent} at {} is not an executable file", path.display())]
    NotExecutable {
        /// The agent.
        agent: AgentName,
        /// The file.
        path: PathBuf,
    },
    /// The class wants a provider in the name, or wants none.
    #[error("agent {agent} must be written {form}")]
    WrongForm {
        /// The agent as written.
        agent: AgentName,
        /// How names of this class look.
        form: &'static str,
    },
    /// A file whose name cannot be that of an agent.
    #[error("{} cannot be an agent: its name has no letters that names have", path.display())]
    Unnamed {
        /// The file.
        path: PathBuf,
    },
    /// The operating system could not start it.
    #[error("agent {agent} could not be started: {detail}")]
    Start {
        /// The agent.
        agent: AgentName,
        /// What the system said.
        detail: String,
    },
    /// The parameters do not fit the agent's description of itself; it was not run.
    #[error("parameters of {agent}: {errors}")]
    Parameters {
        /// The agent.
        agent: AgentName,
        /// Every mistake, separated by semicolons.
        errors: String,
    },
    /// The agent's description of itself cannot be read.
    #[error("meta-data of {agent}: {detail}")]
    Metadata {
        /// The agent.
        agent: AgentName,
        /// What is wrong.
        detail: String,
    },
}

impl AgentError {
    /// Whether another attempt may help: only a failure of the operating system is worth one on the same node.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Start { .. } => Severity::Soft,
            Self::UnknownClass { .. }
            | Self::ClassNotLoaded { .. }
            | Self::AgentMissing { .. }
            | Self::NotExecutable { .. }
            | Self::WrongForm { .. }
            | Self::Parameters { .. }
            | Self::Unnamed { .. }
            | Self::Metadata { .. } => Severity::Hard,
        }
    }
}

fn places(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Called once, from any thread, when an operation has ended.
pub type Done = Box<dyn FnOnce(OperationResult) + Send>;

/// Called once, from any thread, with an agent's description of itself.
pub type MetadataDone = Box<dyn FnOnce(Result<Metadata, AgentError>) + Send>;

/// Ends a running operation early. Dropping it lets the operation go on.
#[must_use = "dropping it gives up the chance to cancel"]
pub struct Canceller(Box<dyn FnOnce() + Send>);

impl Canceller {
    /// Wraps what to do to cancel. It must not block.
    pub fn new(cancel: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(cancel))
    }

    /// For an operation that had already ended.
    pub fn nothing() -> Self {
        Self::new(|| ())
    }

    /// Cancels. The operation still reports, usually [`Outcome::Cancelled`], but perhaps what it had done already.
    pub fn cancel(self) {
        (self.0)();
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canceller")
    }
}

/// One agent: knows how to start, stop and watch resources of one kind **on this node**.
///
/// An implementation never blocks the caller, reports each operation exactly once, ends it within
/// [`Operation::timeout`] (plus a moment), and is idempotent: start of a started and stop of a stopped resource succeed.
/// `testing::check_agent` (feature `testing`) tries all of that.
pub trait ResourceAgent: Send + Sync {
    /// Begins an operation and returns at once; `done` gets the result, perhaps before this returns.
    fn begin(&self, operation: &Operation, done: Done) -> Canceller;
    /// Gets the agent's description of itself within this time, without blocking; `done` gets it, perhaps before this returns.
    fn metadata(&self, timeout: Duration, done: MetadataDone) -> Canceller;
}

/// A family of agents that are found and run in the same way: OCF scripts, functions of this program.
pub trait AgentClass: Send + Sync {
    /// The agent of this name.
    ///
    /// # Errors
    /// [`AgentError`] that says where it was looked for.
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError>;
    /// Every agent there is, sorted.
    fn list(&self) -> Vec<AgentName>;
}

/// The plug-in type of agent classes.
///
/// A class in a module or a program has three methods. `list` gives the names of its agents, without the class; it is called
/// once. `metadata` gets a name, and gives the description in XML, as an OCF agent prints it. `run` gets a struct:
/// `agent` (the name), `resource`, `action` (the word of OCF), `parameters` and `meta` (structs of texts),
/// `timeout_ms`, `check_level`, and, where they apply, `interval_ms` and `role`; it gives `{code, reason, output}`, the code
/// one of OCF's, 0 for success. A fault is a generic failure.
///
/// A `run` that takes longer than `timeout_ms` has failed, whatever it answers later; a program is ended and started again,
/// so what it runs must not be its own children. Calls of one program or module come one after the other.
pub const AGENT_CLASS: &str = "agent-class";

/// The classes that a node knows, by name: a plug-in type of `pils`. Cheap to clone; clones share.
///
/// With the feature `driver`, `Agents::of` has further ones loaded from modules and programs, by name when an agent of
/// theirs is asked for.
#[derive(Clone)]
pub struct Agents {
    registry: Arc<Registry<dyn AgentClass>>,
    loader: Option<Loader>,
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agents").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Default for Agents {
    fn default() -> Self {
        Self::new()
    }
}

impl Agents {
    /// Knows no class, and loads none.
    #[must_use]
    pub fn new() -> Self {
        Self { registry: Arc::new(Registry::new(AGENT_CLASS)), loader: None }
    }

    #[cfg(feature = "driver")]
    pub(crate) fn loaded_by(loader: Loader, registry: Arc<Registry<dyn AgentClass>>) -> Self {
        Self { registry, loader: Some(loader) }
    }

    /// Adds a class, replacing one of the same name.
    ///
    /// # Panics
    /// If the name is empty, longer than 64 bytes or has a blank, or somebody holds the class that it replaces.
    #[must_use]
    pub fn with(self, name: &str, class: Arc<dyn AgentClass>) -> Self {
        self.registry
            .replace(name, env!("CARGO_PKG_VERSION"), class)
            .unwrap_or_else(|error| panic!("a class of agents is added: {error}"));
        self
    }

    /// The classes, to add to or to look at.
    #[must_use]
    pub const fn registry(&self) -> &Arc<Registry<dyn AgentClass>> {
        &self.registry
    }

    /// The agent of this name. May look at the file system, and load its class.
    ///
    /// # Errors
    /// [`AgentError`] that says where it was looked for.
    pub fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        let name = agent.class();
        if let Ok(class) = self.registry.get(name) {
            return class.find(agent);
        }
        let known = self.classes();
        let Some(loader) = self.loader.as_ref().filter(|_| known.iter().any(|there| there == name)) else {
            return Err(AgentError::UnknownClass { class: name.to_owned(), known: known.join(", ") });
        };
        let failed = |detail: String| AgentError::ClassNotLoaded { class: name.to_owned(), detail };
        loader.load(AGENT_CLASS, name).map_err(|error| failed(error.to_string()))?;
        self.registry.get(name).map_err(|error| failed(error.to_string()))?.find(agent)
    }

    /// The names of all classes, those included that could be loaded, in order.
    #[must_use]
    pub fn classes(&self) -> Vec<String> {
        let known = self.registry.list().into_iter().map(|info| info.name);
        let loadable = self.loader.iter().flat_map(|loader| loader.available(AGENT_CLASS));
        known.chain(loadable).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Every agent of every class that is there, sorted. Loads none.
    #[must_use]
    pub fn list(&self) -> Vec<AgentName> {
        let classes = self.registry.list().into_iter().filter_map(|info| self.registry.get(&info.name).ok());
        classes.flat_map(|class| class.list()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_two_or_three_parts_and_never_leaves_its_directory() {
        for good in ["ocf:heartbeat:IPaddr2", "rust:stateful", "ocf:my-org:a_b.c"] {
            assert_eq!(good.parse::<AgentName>().unwrap().to_string(), good);
        }
        for bad in
            ["", "ocf", "ocf:", "a:b:c:d", "ocf:../x:y", "ocf:heartbeat:..", "ocf:h:a/b", "a::b:c", "a:b::"]
        {
            assert!(bad.parse::<AgentName>().is_err(), "{bad:?}");
        }
    }
}
