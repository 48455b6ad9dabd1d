use super::process::{Call, Processes, environment, locate, programs, result_of};
use crate::{
    Action, AgentClass, AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, OcfCode, Operation,
    OperationResult, Outcome, ResourceAgent, SupportedAction,
};
use core::time::Duration;
use pils::process::Runner;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// Init scripts that keep the rules of the Linux Standard Base: `lsb:<name>`, called with `start`, `stop` and `status`.
///
/// They take no parameters, and describe themselves in a block of comments. Of their `status`, 0 is running, 1 to 3 are
/// stopped and 4 is unknown; other codes are OCF's.
#[derive(Clone)]
pub struct LsbClass {
    processes: Processes,
    directory: PathBuf,
}

impl core::fmt::Debug for LsbClass {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LsbClass").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl LsbClass {
    /// Where init scripts are.
    pub const DIRECTORY: &'static str = "/etc/init.d";

    /// The scripts of [`LsbClass::DIRECTORY`].
    #[must_use]
    pub fn new(runner: Runner) -> Self {
        Self { processes: Processes::new(runner), directory: PathBuf::from(Self::DIRECTORY) }
    }

    /// The scripts of another directory; must be absolute.
    #[must_use]
    pub fn with_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Time from asking a script to end until it is killed. Default 5 s.
    #[must_use]
    pub const fn with_grace(mut self, grace: Duration) -> Self {
        self.processes.grace = grace;
        self
    }
}

impl AgentClass for LsbClass {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        if agent.provider().is_some() {
            return Err(AgentError::WrongForm { agent: agent.clone(), form: "lsb:name" });
        }
        let path = locate(agent, vec![self.directory.join(agent.name())])?;
        Ok(Arc::new(Script { class: self.clone(), path, name: agent.clone() }))
    }

    fn list(&self) -> Vec<AgentName> {
        let names = programs(&self.directory).into_iter();
        names.filter_map(|(name, _)| format!("lsb:{name}").parse().ok()).collect()
    }
}

struct Script {
    class: LsbClass,
    path: PathBuf,
    name: AgentName,
}

/// What a script's answer to `status` means.
fn status(mut result: OperationResult) -> OperationResult {
    if let Outcome::Failed { code } = &mut result.outcome {
        *code = match code.number() {
            1..=3 => OcfCode::NotRunning,
            4 => OcfCode::Generic,
            other => OcfCode::new(other),
        };
    }
    result
}

impl ResourceAgent for Script {
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        let word = match operation.action {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Monitor => "status",
            Action::Reload | Action::ReloadAgent => "reload",
            Action::ValidateAll => {
                done(OperationResult::new(Outcome::Ok));
                return Canceller::nothing();
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
        let call = Call {
            agent: self.name.clone(),
            program: self.path.clone(),
            args: vec![word.into()],
            env: environment(),
            timeout: operation.timeout,
            output_max: None,
            leaves_nothing: operation.action.only_looks(),
        };
        let looks = operation.action == Action::Monitor;
        let read = move |finished: &_| {
            let result = result_of(finished);
            if looks { status(result) } else { result }
        };
        self.class.processes.begin(call, read, done)
    }

    fn metadata(&self, _timeout: Duration, done: MetadataDone) -> Canceller {
        let text = fs::read(&self.path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let (agent, name) = (self.name.clone(), self.name.name());
        done(match text {
            Ok(text) => Ok(describe(name, &text)),
            Err(error) => Err(AgentError::Metadata { agent, detail: error.to_string() }),
        });
        Canceller::nothing()
    }
}

/// What the block of comments of an init script says.
pub(super) fn describe(name: &str, script: &str) -> Metadata {
    let block = script
        .lines()
        .skip_while(|l| l.trim() != "### BEGIN INIT INFO")
        .skip(1)
        .take_while(|l| l.trim() != "### END INIT INFO")
        .take(200);
    let (mut summary, mut description, mut last) = (String::new(), String::new(), String::new());
    for line in block {
        let line = line.trim_start_matches('#');
        match line.split_once(':') {
            Some((keyword, value)) if !keyword.trim().contains(' ') && !line.starts_with("  ") => {
                last = keyword.trim().to_ascii_lowercase();
                match last.as_str() {
                    "short-description" => value.trim().clone_into(&mut summary),
                    "description" => value.trim().clone_into(&mut description),
                    _ => {}
                }
            }
            _ if last == "description" => {
                description.push(' ');
                description.push_str(line.trim());
            }
            _ => {}
        }
    }
    if summary.is_empty() {
        summary = format!("init script {name}");
    }
    let actions = [("start", 15), ("stop", 15), ("monitor", 15)].map(|(name, seconds)| SupportedAction {
        name: name.to_owned(),
        timeout: Some(Duration::from_secs(seconds)),
        ..SupportedAction::default()
    });
    Metadata { name: name.to_owned(), summary, description, actions: actions.to_vec(), ..Metadata::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_of_comments_describes_the_script() {
        let m = describe(
            "x",
            "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: x\n# Short-Description: serves x\n# Description: Serves x\n#   and more.\n### END INIT INFO\n",
        );
        assert_eq!((m.summary.as_str(), m.description.as_str()), ("serves x", "Serves x and more."));
        assert!(m.supports("monitor"));
        assert_eq!(describe("y", "").summary, "init script y");
    }
}
