use super::process::{Call, Processes, entries, environment, locate, programs, result_of};
use super::promotion::Scores;
use crate::{
    Action, AgentClass, AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, Operation,
    OperationResult, ResourceAgent,
};
use core::time::Duration;
use pils::process::Runner;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const EXIT_REASON: &str = "ocf-exit-reason:";

/// Agents of the Open Cluster Framework: programs at `<root>/resource.d/<provider>/<name>`, called with one action and
/// their parameters in the environment. Names are `ocf:<provider>:<name>`.
///
/// An agent gets exactly the environment that OCF defines, `PATH`, `LC_ALL`, and `OCF_RUN_TAG`, by which this process
/// knows what belongs to the run: nothing else of this process leaks into it. A run that has to be ended takes every
/// process along that it started, also those that went into the background, into sessions of their own.
#[derive(Clone)]
pub struct OcfClass {
    processes: Processes,
    root: PathBuf,
    node: Option<String>,
    trace: Option<PathBuf>,
    scores: Option<Arc<Scores>>,
    extra: Vec<(OsString, OsString)>,
}

impl core::fmt::Debug for OcfClass {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("OcfClass").field("root", &self.root).finish_non_exhaustive()
    }
}

impl OcfClass {
    /// Where agents are installed in practice.
    pub const ROOT: &'static str = "/usr/lib/ocf";

    /// The agents below [`OcfClass::ROOT`].
    #[must_use]
    pub fn new(runner: Runner) -> Self {
        let processes = Processes::new(runner);
        let root = PathBuf::from(Self::ROOT);
        Self { processes, root, node: None, trace: None, scores: None, extra: Vec::new() }
    }

    /// The agents below another root. It becomes `OCF_ROOT` of the agents; must be absolute.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// Time from asking an agent to end until it is killed, when it has exceeded its timeout. Default 5 s.
    #[must_use]
    pub const fn with_grace(mut self, grace: Duration) -> Self {
        self.processes.grace = grace;
        self
    }

    /// What agents are told as the name of this node (`OCF_RESKEY_CRM_meta_on_node`).
    #[must_use]
    pub fn with_node_name(mut self, name: impl Into<String>) -> Self {
        self.node = Some(name.into());
        self
    }

    /// Has agents write every command that they run into a file of this directory, one file for each run
    /// (`OCF_TRACE_RA`, `OCF_TRACE_FILE`). Their parameters, passwords too, are in these files. A resource whose parameter
    /// `trace_ra` is `1` is traced without this, into the agents' own directory.
    #[must_use]
    pub fn with_trace(mut self, directory: impl Into<PathBuf>) -> Self {
        self.trace = Some(directory.into());
        self
    }

    /// Takes note of which copy of a resource its agent wants promoted. Agents say so by `crm_attribute --promotion` or
    /// `crm_master`: for a resource with roles, those of this directory stand for Pacemaker's (by `HA_SBIN_DIR`), and keep the
    /// score in a file of it. The directory is made, for this user alone, if it is not there. Agents that write another
    /// attribute so, or one of another node, are told that it failed.
    ///
    /// # Errors
    /// The directory or the programs in it cannot be written.
    pub fn with_promotion(mut self, directory: impl AsRef<Path>) -> std::io::Result<Self> {
        self.scores = Some(Arc::new(Scores::new(directory.as_ref())?));
        Ok(self)
    }

    /// Ends, after monitor, meta-data, validate-all and notify, every process that such a run left behind, and says how
    /// many in [`OperationResult::left_behind`](crate::OperationResult::left_behind). Costs a look at every process of
    /// the machine after each run: for tests of agents.
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.processes.strict = true;
        self
    }

    /// Gives agents one more variable, such as those by which testers make their library pretend something.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.extra.push((name.into(), value.into()));
        self
    }

    /// The agent that is this very file, whatever its name and place: for authors of agents.
    ///
    /// # Errors
    /// [`AgentError`] if the file is missing or cannot be executed.
    pub fn open(&self, path: &Path) -> Result<(AgentName, Arc<dyn ResourceAgent>), AgentError> {
        let part = |p: Option<&std::ffi::OsStr>| {
            let text = p.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
            let fit = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
            text.chars().take(64).map(fit).collect::<String>().trim_start_matches('.').to_owned()
        };
        let provider = part(path.parent().and_then(Path::file_name));
        let provider = if provider.is_empty() { "file".to_owned() } else { provider };
        let missing = |_| AgentError::Unnamed { path: path.to_owned() };
        let name = format!("ocf:{provider}:{}", part(path.file_name())).parse().map_err(missing)?;
        let path = locate(&name, vec![path.to_owned()])?;
        let agent = OcfAgent { class: self.clone(), path, name: name.clone() };
        Ok((name, Arc::new(agent)))
    }
}

impl AgentClass for OcfClass {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        let Some(provider) = agent.provider() else {
            return Err(AgentError::WrongForm { agent: agent.clone(), form: "ocf:provider:name" });
        };
        let path = self.root.join("resource.d").join(provider).join(agent.name());
        let path = locate(agent, vec![path])?;
        Ok(Arc::new(OcfAgent { class: self.clone(), path, name: agent.clone() }))
    }

    fn list(&self) -> Vec<AgentName> {
        let mut found = Vec::new();
        for (provider, directory) in entries(&self.root.join("resource.d")) {
            let names = programs(&directory).into_iter().map(|(name, _)| format!("ocf:{provider}:{name}"));
            found.extend(names.filter_map(|name| name.parse().ok()));
        }
        found.sort();
        found
    }
}

struct OcfAgent {
    class: OcfClass,
    path: PathBuf,
    name: AgentName,
}

impl OcfAgent {
    fn environment(&self, operation: &Operation) -> Vec<(OsString, OsString)> {
        let mut env = environment();
        let mut set = |name: &str, value: &str| env.push((name.into(), value.into()));
        set("OCF_ROOT", &self.class.root.to_string_lossy());
        set("OCF_RA_VERSION_MAJOR", "1");
        set("OCF_RA_VERSION_MINOR", "1");
        set("OCF_RESOURCE_INSTANCE", &operation.resource);
        set("OCF_RESOURCE_TYPE", self.name.name());
        set("OCF_RESOURCE_PROVIDER", self.name.provider().unwrap_or_default());
        set("OCF_EXIT_REASON_PREFIX", EXIT_REASON);
        set("OCF_CHECK_LEVEL", &operation.check_level.to_string());
        set("OCF_OUTPUT_FORMAT", "text");
        set("HA_LOGFACILITY", "none");
        set("OCF_RESKEY_crm_feature_set", "3.16.2");
        set("OCF_RESKEY_CRM_meta_name", operation.action.word());
        set("OCF_RESKEY_CRM_meta_timeout", &operation.timeout.as_millis().to_string());
        let interval = operation.interval.unwrap_or_default();
        set("OCF_RESKEY_CRM_meta_interval", &interval.as_millis().to_string());
        if let Some(node) = &self.class.node {
            set("OCF_RESKEY_CRM_meta_on_node", node);
            set("OCF_RESKEY_CRM_meta_physical_host", node);
        }
        if let Some(role) = operation.role {
            set("OCF_RESKEY_CRM_meta_role", role.word());
        }
        for (name, value) in &*operation.meta {
            set(&format!("OCF_RESKEY_CRM_meta_{}", name.replace('-', "_")), value);
        }
        for (name, value) in &*operation.parameters {
            set(&format!("OCF_RESKEY_{name}"), value);
        }
        let wanted = operation.parameters.get("trace_ra").is_some_and(|on| on == "1");
        if self.class.trace.is_some() || wanted {
            set("OCF_TRACE_RA", "1");
        }
        if let Some(directory) = &self.class.trace {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
            let file =
                format!("{}.{}.{}.{at}", self.name.name(), operation.resource, operation.action.word());
            set("OCF_TRACE_FILE", &directory.join(file.replace('/', "_")).to_string_lossy());
        }
        if let Some(scores) = self.scores(operation) {
            env.extend(scores.environment(&operation.resource));
        }
        env.extend(self.class.extra.iter().cloned());
        env
    }

    /// Where the promotion score of this operation's resource is kept, if it has roles.
    fn scores(&self, operation: &Operation) -> Option<&Arc<Scores>> {
        let has_roles = operation.meta.get("promotable").is_some_and(|v| v == "true");
        self.class.scores.as_ref().filter(|_| has_roles)
    }

    fn call(&self, operation: &Operation) -> Call {
        Call {
            agent: self.name.clone(),
            program: self.path.clone(),
            args: vec![operation.action.word().into()],
            env: self.environment(operation),
            timeout: operation.timeout,
            output_max: (operation.action == Action::MetaData).then_some(crate::METADATA_MAX),
            leaves_nothing: operation.action.only_looks(),
        }
    }
}

impl ResourceAgent for OcfAgent {
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        let call = self.call(operation);
        let Some(scores) = self.scores(operation).cloned() else {
            return self.class.processes.begin(call, result_of, done);
        };
        let resource = Arc::clone(&operation.resource);
        if operation.action == Action::Start {
            scores.forget(&resource);
        }
        let result =
            move |finished: &_| OperationResult { promotion: scores.said(&resource), ..result_of(finished) };
        self.class.processes.begin(call, result, done)
    }

    fn metadata(&self, timeout: Duration, done: MetadataDone) -> Canceller {
        let mut operation = Operation::new("metadata", self.name.clone(), Action::MetaData);
        operation.timeout = timeout;
        let read = |text: &str| Metadata::parse(text).map_err(|error| error.to_string());
        self.class.processes.describe(self.call(&operation), read, done)
    }
}
