use super::LsbClass;
use super::process::{Call, Processes, environment, result_of};
use crate::{
    Action, AgentClass, AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, OcfCode, Operation,
    OperationResult, Outcome, ResourceAgent, SupportedAction,
};
use core::time::Duration;
use pils::process::{Finished, Runner};
use std::path::PathBuf;
use std::sync::Arc;

/// Kinds of units that can be resources.
const KINDS: [&str; 5] = ["service", "socket", "mount", "timer", "path"];

/// Units of systemd: `systemd:<unit>`, a service if no kind is written. Run through `systemctl`.
///
/// A unit that the cluster manages must not be enabled at boot. `ActiveState` says whether it runs: active and reloading
/// do, inactive does not, the others have failed; a unit that is not loaded is not installed.
#[derive(Clone)]
pub struct SystemdClass {
    processes: Processes,
    systemctl: PathBuf,
    folders: Vec<PathBuf>,
}

impl core::fmt::Debug for SystemdClass {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SystemdClass").field("systemctl", &self.systemctl).finish_non_exhaustive()
    }
}

impl SystemdClass {
    /// The units of this machine.
    #[must_use]
    pub fn new(runner: Runner) -> Self {
        let folders = ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system"];
        Self {
            processes: Processes::new(runner),
            systemctl: "/usr/bin/systemctl".into(),
            folders: folders.map(PathBuf::from).to_vec(),
        }
    }

    /// Another program in place of `/usr/bin/systemctl`; an absolute path.
    #[must_use]
    pub fn with_systemctl(mut self, program: impl Into<PathBuf>) -> Self {
        self.systemctl = program.into();
        self
    }

    /// Where units are looked for to list them.
    #[must_use]
    pub fn with_folders(mut self, folders: Vec<PathBuf>) -> Self {
        self.folders = folders;
        self
    }
}

fn unit(name: &str) -> String {
    let known = name.rsplit_once('.').is_some_and(|(_, kind)| KINDS.contains(&kind));
    if known { name.to_owned() } else { format!("{name}.service") }
}

impl AgentClass for SystemdClass {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        if agent.provider().is_some() {
            return Err(AgentError::WrongForm { agent: agent.clone(), form: "systemd:unit" });
        }
        Ok(Arc::new(Unit { class: self.clone(), unit: unit(agent.name()), name: agent.clone() }))
    }

    fn list(&self) -> Vec<AgentName> {
        let files = self.folders.iter().flat_map(|f| super::process::entries(f));
        let units = files.filter(|(name, _)| KINDS.iter().any(|kind| name.ends_with(&format!(".{kind}"))));
        let mut names: Vec<AgentName> =
            units.filter_map(|(name, _)| format!("systemd:{name}").parse().ok()).collect();
        names.sort();
        names.dedup();
        names
    }
}

struct Unit {
    class: SystemdClass,
    unit: String,
    name: AgentName,
}

impl Unit {
    fn call(&self, args: &[&str], timeout: Duration) -> Call {
        let mut all: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
        all.push((&self.unit).into());
        Call {
            agent: self.name.clone(),
            program: self.class.systemctl.clone(),
            args: all,
            env: environment(),
            timeout,
            output_max: None,
            leaves_nothing: true,
        }
    }
}

/// What `systemctl show` says of a unit.
fn state(finished: &Finished) -> OperationResult {
    let mut result = result_of(finished);
    if result.outcome != Outcome::Ok {
        return result;
    }
    let value = |key: &str| {
        let line = result.output.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().to_owned()
    };
    let (load, active) = (value("LoadState"), value("ActiveState"));
    let code = match (load.as_str(), active.as_str()) {
        (_, "active" | "reloading") => OcfCode::Success,
        ("not-found" | "masked", _) => OcfCode::NotInstalled,
        (_, "inactive") => OcfCode::NotRunning,
        _ => OcfCode::Generic,
    };
    if code != OcfCode::Success {
        result.outcome = Outcome::Failed { code };
        result.reason = Some(format!("the unit is {active} ({load})"));
    }
    result
}

impl ResourceAgent for Unit {
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        let timeout = operation.timeout;
        let call = match operation.action {
            Action::Start => self.call(&["start"], timeout),
            Action::Stop => self.call(&["stop"], timeout),
            Action::Reload | Action::ReloadAgent => self.call(&["reload"], timeout),
            Action::Monitor | Action::ValidateAll => {
                self.call(&["show", "--property=LoadState,ActiveState,SubState"], timeout)
            }
            other @ (Action::MetaData
            | Action::Promote
            | Action::Demote
            | Action::Notify
            | Action::MigrateTo
            | Action::MigrateFrom) => {
                done(OperationResult::unimplemented(other));
                return Canceller::nothing();
            }
        };
        let action = operation.action;
        let read = move |finished: &Finished| {
            if !action.only_looks() {
                return result_of(finished);
            }
            let mut result = state(finished);
            let missing = result.outcome == Outcome::Failed { code: OcfCode::NotInstalled };
            if action == Action::ValidateAll && !missing {
                result.outcome = Outcome::Ok;
            }
            result
        };
        self.class.processes.begin(call, read, done)
    }

    fn metadata(&self, timeout: Duration, done: MetadataDone) -> Canceller {
        let call = self.call(&["show", "--property=Description,LoadState"], timeout);
        let name = self.unit.clone();
        let read = move |text: &str| {
            let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
            if value("LoadState") == Some("not-found") {
                return Err(format!("there is no unit {name}"));
            }
            let action = |name: &str| SupportedAction {
                name: name.to_owned(),
                timeout: Some(Duration::from_secs(100)),
                ..SupportedAction::default()
            };
            Ok(Metadata {
                summary: value("Description").unwrap_or(&name).to_owned(),
                name,
                actions: ["start", "stop", "monitor", "reload"].map(action).to_vec(),
                ..Metadata::default()
            })
        };
        self.class.processes.describe(call, read, done)
    }
}

/// `service:<name>`: the init script of this name if there is one, else the unit.
#[derive(Clone, Debug)]
pub struct ServiceClass {
    lsb: LsbClass,
    systemd: SystemdClass,
}

impl ServiceClass {
    /// Looks in `lsb`, then in `systemd`.
    #[must_use]
    pub const fn new(lsb: LsbClass, systemd: SystemdClass) -> Self {
        Self { lsb, systemd }
    }
}

impl AgentClass for ServiceClass {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        match self.lsb.find(agent) {
            Err(AgentError::AgentMissing { .. }) => self.systemd.find(agent),
            found => found,
        }
    }

    fn list(&self) -> Vec<AgentName> {
        let all = self.lsb.list().into_iter().chain(self.systemd.list());
        let mut names: Vec<AgentName> =
            all.filter_map(|n| format!("service:{}", n.name()).parse().ok()).collect();
        names.sort();
        names.dedup();
        names
    }
}
