//! What a resource agent is: operations, their results, and the trait that every class of agents implements.

use crate::Metadata;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::collections::BTreeMap;
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

    /// Takes two or three parts of letters, digits, `-`, `_` and `.`, none starting with a dot: a part can never
    /// leave the directory in which agents are looked up.
    fn from_str(text: &str) -> Result<Self, AgentNameError> {
        let fit = |p: &&str| {
            !p.is_empty()
                && p.len() <= 64
                && !p.starts_with('.')
                && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
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

/// What an agent is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// Make it fully usable here. Success if it is already.
    Start,
    /// Make it fully stopped here. Success if it is already.
    Stop,
    /// Say whether it runs here: [`OcfCode::Success`] or [`OcfCode::NotRunning`], else it failed.
    Monitor,
    /// Check the parameters.
    ValidateAll,
    /// Describe the agent, on standard output.
    MetaData,
}

impl Action {
    /// The word that an OCF agent is called with.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Monitor => "monitor",
            Self::ValidateAll => "validate-all",
            Self::MetaData => "meta-data",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(word: &str) -> Result<Self, UnknownAction> {
        [Self::Start, Self::Stop, Self::Monitor, Self::ValidateAll, Self::MetaData]
            .into_iter()
            .find(|a| a.word() == word)
            .ok_or_else(|| UnknownAction { word: word.to_owned() })
    }
}

/// A word that is no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not an action: use start, stop, monitor, validate-all or meta-data")]
pub struct UnknownAction {
    /// The word.
    pub word: String,
}

/// One thing to do with one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// Exit code of an agent, as OCF names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[non_exhaustive]
pub enum OcfCode {
    /// 0
    Success,
    /// 1: some failure; worth another attempt.
    Generic,
    /// 2: the parameters do not fit this node.
    Arguments,
    /// 3: the agent does not know this action.
    Unimplemented,
    /// 4: the agent lacks a permission.
    Permission,
    /// 5: software that the agent needs is not installed here.
    NotInstalled,
    /// 6: the parameters are wrong wherever it runs.
    Configured,
    /// 7: cleanly stopped.
    NotRunning,
    /// 8: runs in the promoted role.
    RunningPromoted,
    /// 9: failed in the promoted role.
    FailedPromoted,
    /// 190: runs, in a condition that someone should look at.
    Degraded,
    /// 191: as 190, in the promoted role.
    DegradedPromoted,
    /// Any other code.
    Other(i32),
}

/// What a failure says about where another attempt makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Severity {
    /// Restart or move.
    Soft,
    /// Not on this node again.
    Hard,
    /// Nowhere.
    Fatal,
}

impl OcfCode {
    /// The code with this number.
    #[must_use]
    pub const fn new(code: i32) -> Self {
        match code {
            0 => Self::Success,
            1 => Self::Generic,
            2 => Self::Arguments,
            3 => Self::Unimplemented,
            4 => Self::Permission,
            5 => Self::NotInstalled,
            6 => Self::Configured,
            7 => Self::NotRunning,
            8 => Self::RunningPromoted,
            9 => Self::FailedPromoted,
            190 => Self::Degraded,
            191 => Self::DegradedPromoted,
            other => Self::Other(other),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Generic => 1,
            Self::Arguments => 2,
            Self::Unimplemented => 3,
            Self::Permission => 4,
            Self::NotInstalled => 5,
            Self::Configured => 6,
            Self::NotRunning => 7,
            Self::RunningPromoted => 8,
            Self::FailedPromoted => 9,
            Self::Degraded => 190,
            Self::DegradedPromoted => 191,
            Self::Other(other) => other,
        }
    }

    /// What a failure with this code says about another attempt.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Arguments | Self::Unimplemented | Self::Permission | Self::NotInstalled => Severity::Hard,
            Self::Configured => Severity::Fatal,
            Self::Success
            | Self::Generic
            | Self::NotRunning
            | Self::RunningPromoted
            | Self::FailedPromoted
            | Self::Degraded
            | Self::DegradedPromoted
            | Self::Other(_) => Severity::Soft,
        }
    }
}

impl fmt::Display for OcfCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Success => "success",
            Self::Generic => "error",
            Self::Arguments => "parameters do not fit this node",
            Self::Unimplemented => "action not implemented",
            Self::Permission => "insufficient permission",
            Self::NotInstalled => "needed software not installed",
            Self::Configured => "wrong parameters",
            Self::NotRunning => "not running",
            Self::RunningPromoted => "running promoted",
            Self::FailedPromoted => "failed promoted",
            Self::Degraded => "degraded",
            Self::DegradedPromoted => "degraded promoted",
            Self::Other(_) => "unknown code",
        };
        write!(f, "{text} ({})", self.number())
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
}

impl OperationResult {
    /// A result with nothing to say but `outcome`.
    #[must_use]
    pub const fn new(outcome: Outcome) -> Self {
        Self { outcome, reason: None, output: String::new(), took: Duration::ZERO }
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
    /// The operating system could not start it.
    #[error("agent {agent} could not be started: {detail}")]
    Start {
        /// The agent.
        agent: AgentName,
        /// What the system said.
        detail: String,
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
            | Self::AgentMissing { .. }
            | Self::NotExecutable { .. }
            | Self::WrongForm { .. }
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
    /// Gets the agent's description of itself, without blocking.
    fn metadata(&self, done: MetadataDone);
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

/// The classes that a node knows, by name.
#[derive(Clone, Default)]
pub struct Agents {
    classes: BTreeMap<String, Arc<dyn AgentClass>>,
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.classes.keys()).finish()
    }
}

impl Agents {
    /// Knows no class.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a class, replacing one of the same name.
    #[must_use]
    pub fn with(mut self, name: &str, class: Arc<dyn AgentClass>) -> Self {
        self.classes.insert(name.to_owned(), class);
        self
    }

    /// The agent of this name. May look at the file system.
    ///
    /// # Errors
    /// [`AgentError`] that says where it was looked for.
    pub fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        match self.classes.get(agent.class()) {
            Some(class) => class.find(agent),
            None => Err(AgentError::UnknownClass {
                class: agent.class().to_owned(),
                known: self.classes.keys().cloned().collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Every agent of every class, sorted.
    #[must_use]
    pub fn list(&self) -> Vec<AgentName> {
        self.classes.values().flat_map(|c| c.list()).collect()
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

    #[test]
    fn codes_keep_their_number() {
        for n in -1..300 {
            assert_eq!(OcfCode::new(n).number(), n);
        }
        assert_eq!(OcfCode::new(1).severity(), Severity::Soft);
        assert_eq!(OcfCode::new(5).severity(), Severity::Hard);
        assert_eq!(OcfCode::new(6).severity(), Severity::Fatal);
    }
}
