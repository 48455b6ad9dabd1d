use super::process::{Call, Processes, environment, locate, programs, result_of};
use crate::{
    Action, AgentClass, AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, OcfCode, Operation,
    OperationResult, Outcome, Parameter, ResourceAgent, SupportedAction,
};
use core::time::Duration;
use pils::process::Runner;
use std::path::PathBuf;
use std::sync::Arc;

/// Scripts of heartbeat's first version: `heartbeat:<name>`, called with their arguments and then the action.
///
/// Parameters are positional and named `1`, `2` and so on. Whether the resource runs is judged by what `status` prints:
/// a text with `stopped`, or with `not` before `running`, is stopped; else one with `running`, or `OK`, is running; anything
/// else is stopped.
#[derive(Clone)]
pub struct HeartbeatClass {
    processes: Processes,
    directories: Vec<PathBuf>,
}

impl core::fmt::Debug for HeartbeatClass {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HeartbeatClass").field("directories", &self.directories).finish_non_exhaustive()
    }
}

impl HeartbeatClass {
    /// The scripts of `/etc/ha.d/resource.d`, then those of `/etc/init.d`.
    #[must_use]
    pub fn new(runner: Runner) -> Self {
        let directories = ["/etc/ha.d/resource.d", "/etc/init.d"].map(PathBuf::from).to_vec();
        Self { processes: Processes::new(runner), directories }
    }

    /// The scripts of other directories, the first match counts; must be absolute.
    #[must_use]
    pub fn with_directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.directories = directories;
        self
    }
}

impl AgentClass for HeartbeatClass {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        if agent.provider().is_some() {
            return Err(AgentError::WrongForm { agent: agent.clone(), form: "heartbeat:name" });
        }
        let path = locate(agent, self.directories.iter().map(|d| d.join(agent.name())).collect())?;
        Ok(Arc::new(Script { class: self.clone(), path, name: agent.clone() }))
    }

    fn list(&self) -> Vec<AgentName> {
        let all = self.directories.iter().flat_map(|d| programs(d));
        let mut names: Vec<AgentName> =
            all.filter_map(|(name, _)| format!("heartbeat:{name}").parse().ok()).collect();
        names.sort();
        names.dedup();
        names
    }
}

struct Script {
    class: HeartbeatClass,
    path: PathBuf,
    name: AgentName,
}

/// True if this answer to `status` says that the resource runs.
fn runs(output: &str) -> bool {
    let stopped =
        output.contains("stopped") || output.find("not").is_some_and(|at| output[at..].contains("running"));
    !stopped && (output.contains("running") || output.contains("OK"))
}

impl ResourceAgent for Script {
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        let word = match operation.action {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Monitor => "status",
            Action::ValidateAll => {
                done(OperationResult::new(Outcome::Ok));
                return Canceller::nothing();
            }
            other @ (Action::MetaData
            | Action::Promote
            | Action::Demote
            | Action::Notify
            | Action::MigrateTo
            | Action::MigrateFrom
            | Action::Reload
            | Action::ReloadAgent) => {
                done(OperationResult::unimplemented(other));
                return Canceller::nothing();
            }
        };
        let mut args = Vec::new();
        while let Some(value) = operation.parameters.get(&(args.len() + 1).to_string()) {
            args.push(value.into());
        }
        args.push(word.into());
        let call = Call {
            agent: self.name.clone(),
            program: self.path.clone(),
            args,
            env: environment(),
            timeout: operation.timeout,
            output_max: None,
            leaves_nothing: operation.action.only_looks(),
        };
        let looks = operation.action == Action::Monitor;
        let read = move |finished: &_| {
            let mut result = result_of(finished);
            if looks && matches!(result.outcome, Outcome::Ok | Outcome::Failed { .. }) {
                result.outcome = if runs(&result.output) {
                    Outcome::Ok
                } else {
                    Outcome::Failed { code: OcfCode::NotRunning }
                };
            }
            result
        };
        self.class.processes.begin(call, read, done)
    }

    /// These scripts do not describe themselves: any of the first nine arguments may be given.
    fn metadata(&self, _timeout: Duration, done: MetadataDone) -> Canceller {
        let action = |name: &str| SupportedAction { name: name.to_owned(), ..SupportedAction::default() };
        let argument = |n: u32| Parameter {
            name: n.to_string(),
            kind: "string".to_owned(),
            summary: format!("argument {n}"),
            ..Parameter::default()
        };
        done(Ok(Metadata {
            name: self.name.name().to_owned(),
            summary: format!("script {} of heartbeat's first version", self.name.name()),
            parameters: (1..=9).map(argument).collect(),
            actions: ["start", "stop", "monitor"].map(action).to_vec(),
            ..Metadata::default()
        }));
        Canceller::nothing()
    }
}

/// A parameter list as heartbeat's `haresources` has it: `script::first::second`.
///
/// `None` if the name cannot be an agent's. An address alone means the script `IPaddr`.
#[must_use]
pub fn from_haresources(text: &str) -> Option<(AgentName, std::collections::BTreeMap<String, String>)> {
    let mut parts = text.split("::");
    let mut name = parts.next()?;
    let mut arguments: Vec<&str> = parts.collect();
    if name.split('/').next()?.parse::<std::net::IpAddr>().is_ok() {
        arguments.insert(0, name);
        name = "IPaddr";
    }
    let numbered = arguments.iter().enumerate().map(|(at, a)| ((at + 1).to_string(), (*a).to_owned()));
    Some((format!("heartbeat:{name}").parse().ok()?, numbered.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_a_status_is_judged_as_heartbeat_did() {
        for (text, up) in [
            ("running\n", true),
            ("x is running", true),
            ("OK", true),
            ("not running", false),
            ("x is not really running", false),
            ("stopped", false),
            ("running, then stopped", false),
            ("", false),
            ("fine", false),
        ] {
            assert_eq!(runs(text), up, "{text}");
        }
    }

    #[test]
    fn a_line_of_haresources_names_a_script_and_its_arguments() {
        let (name, arguments) = from_haresources("Filesystem::/dev/sda1::/data::ext4").unwrap();
        assert_eq!(name.to_string(), "heartbeat:Filesystem");
        assert_eq!(arguments["3"], "ext4");
        let (name, arguments) = from_haresources("10.0.0.7/24/eth0").unwrap();
        assert_eq!((name.name(), arguments["1"].as_str()), ("IPaddr", "10.0.0.7/24/eth0"));
        assert_eq!(from_haresources("a b"), None);
    }
}
