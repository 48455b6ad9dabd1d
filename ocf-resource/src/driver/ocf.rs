use crate::{
    Action, AgentClass, AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, OcfCode, Operation,
    OperationResult, Outcome, ResourceAgent,
};
use core::time::Duration;
use pils::process::{Command, Exit, Finished, NotStarted, Runner};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXIT_REASON: &str = "ocf-exit-reason:";
const REASON_MAX: usize = 1024;

/// Agents of the Open Cluster Framework: programs at `<root>/resource.d/<provider>/<name>`, called with one action and
/// their parameters in the environment. Names are `ocf:<provider>:<name>`.
///
/// An agent gets exactly the environment that OCF defines, `PATH` and `LC_ALL`: nothing of this process leaks into it.
#[derive(Clone)]
pub struct OcfClass {
    runner: Runner,
    root: PathBuf,
    grace: Duration,
    node: Option<String>,
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
        Self { runner, root: PathBuf::from(Self::ROOT), grace: Duration::from_secs(5), node: None }
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
        self.grace = grace;
        self
    }

    /// What agents are told as the name of this node (`OCF_RESKEY_CRM_meta_on_node`).
    #[must_use]
    pub fn with_node_name(mut self, name: impl Into<String>) -> Self {
        self.node = Some(name.into());
        self
    }

    fn path(&self, provider: &str, name: &str) -> PathBuf {
        self.root.join("resource.d").join(provider).join(name)
    }
}

impl AgentClass for OcfClass {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        let Some(provider) = agent.provider() else {
            return Err(AgentError::WrongForm { agent: agent.clone(), form: "ocf:provider:name" });
        };
        let path = self.path(provider, agent.name());
        match fs::metadata(&path) {
            Ok(meta) if is_program(&meta) => {
                Ok(Arc::new(OcfAgent { class: self.clone(), path, name: agent.clone() }))
            }
            Ok(_) => Err(AgentError::NotExecutable { agent: agent.clone(), path }),
            Err(_) => Err(AgentError::AgentMissing { agent: agent.clone(), looked_at: vec![path] }),
        }
    }

    fn list(&self) -> Vec<AgentName> {
        let mut found = Vec::new();
        for (provider, directory) in entries(&self.root.join("resource.d")) {
            for (name, path) in entries(&directory) {
                if fs::metadata(&path).is_ok_and(|meta| is_program(&meta))
                    && let Ok(name) = format!("ocf:{provider}:{name}").parse()
                {
                    found.push(name);
                }
            }
        }
        found.sort();
        found
    }
}

fn is_program(meta: &fs::Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

/// The entries of a directory that can be named; those that start with a dot are hidden.
fn entries(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(listing) = fs::read_dir(directory) else { return Vec::new() };
    listing
        .filter_map(Result::ok)
        .filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())))
        .filter(|(name, _)| !name.starts_with('.'))
        .collect()
}

struct OcfAgent {
    class: OcfClass,
    path: PathBuf,
    name: AgentName,
}

impl OcfAgent {
    fn environment(&self, operation: &Operation) -> Vec<(OsString, OsString)> {
        let mut env: Vec<(OsString, OsString)> = Vec::new();
        let mut set = |name: &str, value: &str| env.push((name.into(), value.into()));
        set("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        set("LC_ALL", "C");
        set("OCF_ROOT", &self.class.root.to_string_lossy());
        set("OCF_RA_VERSION_MAJOR", "1");
        set("OCF_RA_VERSION_MINOR", "1");
        set("OCF_RESOURCE_INSTANCE", &operation.resource);
        set("OCF_RESOURCE_TYPE", self.name.name());
        set("OCF_RESOURCE_PROVIDER", self.name.provider().unwrap_or_default());
        set("OCF_EXIT_REASON_PREFIX", EXIT_REASON);
        set("OCF_CHECK_LEVEL", "0");
        set("OCF_OUTPUT_FORMAT", "text");
        set("HA_LOGFACILITY", "none");
        set("OCF_RESKEY_crm_feature_set", "3.16.2");
        set("OCF_RESKEY_CRM_meta_name", operation.action.word());
        set("OCF_RESKEY_CRM_meta_timeout", &operation.timeout.as_millis().to_string());
        let interval = operation.interval.unwrap_or_default();
        set("OCF_RESKEY_CRM_meta_interval", &interval.as_millis().to_string());
        if let Some(node) = &self.class.node {
            set("OCF_RESKEY_CRM_meta_on_node", node);
        }
        for (name, value) in &*operation.parameters {
            set(&format!("OCF_RESKEY_{name}"), value);
        }
        env
    }

    fn result(&self, finished: &Finished) -> OperationResult {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&finished.stdout), text(&finished.stderr));
        let reason = stderr.lines().rev().find_map(|l| l.split_once(EXIT_REASON)).map(|(_, reason)| {
            let reason = reason.trim();
            let mut end = reason.len().min(REASON_MAX);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            reason[..end].to_owned()
        });
        let outcome = match &finished.exit {
            Exit::Code(0) => Outcome::Ok,
            Exit::Code(code) => Outcome::Failed { code: OcfCode::new(*code) },
            Exit::Signal(signal) => Outcome::Killed { signal: *signal },
            Exit::TimedOut => Outcome::TimedOut,
            Exit::Cancelled => Outcome::Cancelled,
            Exit::NotStarted(why) => Outcome::NotStarted(self.not_started(why)),
        };
        OperationResult { outcome, reason, output: stdout + &stderr, took: finished.took }
    }

    /// `find` has seen an executable file, so what is missing now is its interpreter, or the file has just gone.
    fn not_started(&self, why: &NotStarted) -> AgentError {
        let (agent, path) = (self.name.clone(), self.path.clone());
        if *why == NotStarted::NotFound && !path.exists() {
            AgentError::AgentMissing { agent, looked_at: vec![path] }
        } else if *why == NotStarted::PermissionDenied {
            AgentError::NotExecutable { agent, path }
        } else {
            AgentError::Start { agent, detail: format!("{}: {why}", path.display()) }
        }
    }
}

impl ResourceAgent for OcfAgent {
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        let mut command = Command::new(&self.path);
        command.args = vec![operation.action.word().into()];
        command.env = self.environment(operation);
        command.timeout = operation.timeout;
        command.grace = self.class.grace;
        if operation.action == Action::MetaData {
            command.output_max = crate::METADATA_MAX;
        }
        let agent = Self { class: self.class.clone(), path: self.path.clone(), name: self.name.clone() };
        let ticket = self.class.runner.run(command, move |finished| done(agent.result(&finished)));
        let runner = self.class.runner.clone();
        Canceller::new(move || runner.cancel(ticket))
    }

    fn metadata(&self, done: MetadataDone) {
        let operation = Operation {
            resource: "metadata".into(),
            agent: self.name.clone(),
            action: Action::MetaData,
            parameters: Arc::default(),
            timeout: Duration::from_secs(30),
            interval: None,
        };
        let mut command = Command::new(&self.path);
        command.args = vec![Action::MetaData.word().into()];
        command.env = self.environment(&operation);
        command.timeout = operation.timeout;
        command.output_max = crate::METADATA_MAX;
        let agent = Self { class: self.class.clone(), path: self.path.clone(), name: self.name.clone() };
        let _ticket = self.class.runner.run(command, move |finished| {
            let failed = |detail| AgentError::Metadata { agent: agent.name.clone(), detail };
            done(match &finished.exit {
                Exit::Code(0) => Metadata::parse(&String::from_utf8_lossy(&finished.stdout))
                    .map_err(|error| failed(error.to_string())),
                Exit::NotStarted(why) => Err(agent.not_started(why)),
                other @ (Exit::Code(_) | Exit::Signal(_) | Exit::TimedOut | Exit::Cancelled) => {
                    Err(failed(other.to_string()))
                }
            });
        });
    }
}
