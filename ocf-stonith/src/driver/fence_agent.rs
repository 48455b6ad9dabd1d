use super::DeviceClass;
use super::described::{ASK_MAX, Described};
use crate::agent::{self, Metadata, MetadataError, Parameter};
use crate::config::is_secret;
use crate::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation,
    ReadBack, TargetConfig, Targets,
};
use core::fmt;
use core::time::Duration;
use parking_lot::Mutex;
use pils::ConfigErrors;
use pils::process::{Command, Exit, Finished, NotStarted, Runner, Ticket};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Where fence agents are looked for, in this order.
const DIRECTORIES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];
/// The search path an agent gets, for the programs it calls.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// From asking an agent to end to killing it.
const GRACE: Duration = Duration::from_secs(1);
/// Output kept of each stream of an agent.
const OUTPUT_MAX: usize = 16 * 1024;
/// Output kept of metadata.
const METADATA_MAX: usize = 1 << 20;
/// How often the state is read after an order if the device still reports the old one.
const READS_MAX: u32 = 3;
/// Parameters that are for this class; all others are for the agent.
const OWN: [&str; 3] = ["agent", "verify", "plug_parameter"];

/// The class `fence_agent`: any fence agent of Debian or Red Hat, through its `name=value` protocol.
///
/// Parameters: `agent`: the program, a name or an absolute path. `verify`: `status` (the default) reads the state back
/// after `off`; `trust` takes the agent's success for proof, for agents that know death by other means (`fence_kdump`);
/// `none` says that nobody can tell. `plug_parameter`: how the agent calls the plug of a node, default `plug`. All others
/// go to the agent, on its standard input, never on its command line.
#[derive(Clone, Debug, Default)]
pub struct FenceAgentClass {
    described: Described,
}

impl DeviceClass for FenceAgentClass {
    fn name(&self) -> &str {
        "fence_agent"
    }

    fn describe(&self) -> &str {
        "a fence agent of the distribution, such as fence_ipmilan"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        check_shape(device, errors);
        let Some(agent) = device.parameters.get("agent").filter(|a| !a.is_empty()) else { return };
        let Some(program) = find_agent(agent) else {
            let fix = agent::package_of(agent).map_or_else(
                || "check the name, or give an absolute path".to_owned(),
                |package| format!("install the package {package}, or check the name"),
            );
            errors.push("parameters.agent", agent, "is not installed", fix);
            return;
        };
        let query = |runner: &Runner, said| query_metadata(runner, &program, ASK_MAX, said);
        if let Some(described) = self.described.get(&program, query) {
            check_described(device, &described, errors);
        }
    }

    fn open(&self, device: &DeviceConfig, runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        check_shape(device, &mut errors);
        errors.into_result()?;
        let get = |name| device.parameters.get(name);
        let agent = get("agent").unwrap_or_default();
        let is_own = |name: &str| OWN.contains(&name);
        let secret = device.parameters.iter().filter(|(name, _)| is_secret(name));
        let own = Agent {
            program: find_agent(agent).unwrap_or_else(|| Path::new(DIRECTORIES[0]).join(agent)),
            name: Arc::from(agent),
            parameters: device.parameters.iter().filter(|(n, _)| !is_own(n)).map(owned).collect(),
            plug_parameter: get("plug_parameter").unwrap_or("plug").to_owned(),
            verify: get("verify").and_then(Verify::parse).unwrap_or(Verify::Status),
            secrets: secret.map(|(_, value)| value.to_owned()).collect(),
            runner: runner.clone(),
            running: Mutex::default(),
        };
        Ok(Arc::new(FenceAgent { agent: Arc::new(own) }))
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Everything that is wrong with a device wherever it runs.
fn check_shape(device: &DeviceConfig, errors: &mut ConfigErrors) {
    match device.parameters.get("agent") {
        None | Some("") => {
            errors.push("parameters.agent", "", "is missing", "name the program, such as fence_ipmilan");
        }
        Some(agent) if agent.contains('/') && !agent.starts_with('/') => {
            errors.push("parameters.agent", agent, "is a relative path", "give a name or an absolute path");
        }
        Some(_) => {}
    }
    if let Some(verify) = device.parameters.get("verify").filter(|v| Verify::parse(v).is_none()) {
        errors.push("parameters.verify", verify, "is not known", "choose one of status, trust, none");
    }
    for (name, value) in device.parameters.iter().filter(|(n, _)| !OWN.contains(n)) {
        if ["action", "option", "plug", "port", "nodename"].contains(&name) {
            let fix =
                "leave it out; the plug of a node stands at the node: nodes = [{ node = 2, plug = \"7\" }]";
            errors.push(format!("parameters.{name}"), value, "is set for each operation", fix);
        } else if let Err(error) = agent::check_parameter(name, value) {
            errors.push(format!("parameters.{name}"), "", error.to_string(), "write it on one line");
        }
    }
    check_targets(device, errors);
}

/// What is wrong with a device by what its agent says about itself.
fn check_described(device: &DeviceConfig, agent: &Metadata, errors: &mut ConfigErrors) {
    let plug_parameter = device.parameters.get("plug_parameter").unwrap_or("plug");
    let given = device.parameters.iter().map(|(name, _)| name);
    // what is set for each operation was said above if it is given
    let later = ["action", "option", "plug", "port", "nodename", plug_parameter];
    let given = given.filter(|name| !OWN.contains(name) && !later.contains(name));
    errors.nest("", agent.check_names(given, &later));
    let is_needed = |p: &Parameter| p.required && !p.deprecated;
    let plug = agent.parameters.iter().find(|p| is_needed(p) && ["plug", "port"].contains(&p.name.as_str()));
    let Some(plug) = plug else { return };
    if agent.parameter(plug_parameter).is_none() {
        let problem = format!("is not what {} calls a plug", agent.name);
        let fix = format!("write plug_parameter = \"{}\"", plug.name);
        errors.push("parameters.plug_parameter", plug_parameter, problem, fix);
    }
    // of several nodes without a plug it was said above
    if let [TargetConfig { node, plug: None, .. }] = device.listed() {
        let problem = format!("is missing, and {} needs it", agent.name);
        let fix = format!("write {{ node = {}, plug = \"...\" }}", node.raw());
        errors.push("nodes[0].plug", "", problem, fix);
    }
}

/// A device must know which of its plugs is which node.
fn check_targets(device: &DeviceConfig, errors: &mut ConfigErrors) {
    if matches!(device.nodes, Targets::Every(_)) {
        let fix = "list the nodes, each with its plug";
        errors.push("nodes", "all", "says nothing about which plug is which node", fix);
    }
    let several = device.listed().len() > 1;
    for (i, target) in device.listed().iter().enumerate() {
        let path = format!("nodes[{i}].plug");
        match target.plug.as_deref() {
            None if several => {
                let problem = "is missing, but this device fences several nodes";
                errors.push(path, "", problem, "say which plug is this node, or give it a device of its own");
            }
            Some(plug) => {
                if let Err(error) = agent::check_parameter("plug", plug) {
                    errors.push(path, "", error.to_string(), "write it on one line");
                }
            }
            None => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Status,
    Trust,
    None,
}

impl Verify {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "status" => Some(Self::Status),
            "trust" => Some(Self::Trust),
            "none" => Some(Self::None),
            _ => None,
        }
    }
}

/// The program of a fence agent, if it is installed: a name is looked for where agents are, a path is taken as it is.
#[must_use]
pub fn find_agent(agent: &str) -> Option<PathBuf> {
    if agent.starts_with('/') {
        return Some(PathBuf::from(agent)).filter(|p| p.is_file());
    }
    DIRECTORIES.iter().map(|d| Path::new(d).join(agent)).find(|p| !agent.is_empty() && p.is_file())
}

/// The names of the installed fence agents, sorted.
#[must_use]
pub fn installed_agents() -> Vec<String> {
    let mut names = Vec::new();
    for entries in DIRECTORIES.iter().filter_map(|d| std::fs::read_dir(d).ok()) {
        let names_here = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        names.extend(names_here.filter(|n| n.starts_with("fence_")));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Why the metadata of an agent is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentQueryError {
    /// The agent failed.
    #[error("the agent {exit}: {detail}")]
    Agent {
        /// How it ended.
        exit: String,
        /// What it said.
        detail: String,
    },
    /// What it printed cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Asks an agent for its metadata; calls `done` from the runner's thread.
pub fn query_metadata(
    runner: &Runner,
    program: impl Into<PathBuf>,
    timeout: Duration,
    done: impl FnOnce(Result<Metadata, AgentQueryError>) + Send + 'static,
) {
    let mut command = command(program.into(), "action=metadata\n".to_owned(), timeout);
    command.output_max = METADATA_MAX;
    runner.run(command, move |finished| {
        done(if finished.exit == Exit::Code(0) {
            Metadata::parse(&String::from_utf8_lossy(&finished.stdout)).map_err(Into::into)
        } else {
            let detail = agent::detail(&finished.stdout, &finished.stderr, &[]);
            Err(AgentQueryError::Agent { exit: finished.exit.to_string(), detail })
        });
    });
}

fn command(program: PathBuf, stdin: String, timeout: Duration) -> Command {
    let mut command = Command::new(program);
    command.env = vec![("PATH".into(), PATH.into()), ("LC_ALL".into(), "C".into())];
    command.stdin = stdin.into_bytes();
    command.timeout = timeout;
    command.grace = GRACE;
    command.output_max = OUTPUT_MAX;
    command
}

/// A device of the class `fence_agent`.
#[derive(Clone, Debug)]
pub struct FenceAgent {
    agent: Arc<Agent>,
}

struct Agent {
    program: PathBuf,
    name: Arc<str>,
    parameters: Vec<(String, String)>,
    plug_parameter: String,
    verify: Verify,
    secrets: Vec<String>,
    runner: Runner,
    running: Mutex<BTreeMap<AttemptId, Running>>,
}

#[derive(Default)]
struct Running {
    ticket: Option<Ticket>,
    cancelled: bool,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("program", &self.program)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

impl FenceDevice for FenceAgent {
    fn capabilities(&self) -> Capabilities {
        let actions = vec![
            FenceAction::Off,
            FenceAction::Reboot,
            FenceAction::On,
            FenceAction::Status,
            FenceAction::Monitor,
            FenceAction::List,
        ];
        Capabilities { actions, verifies_off: self.agent.verify == Verify::Status }
    }

    #[expect(clippy::disallowed_methods, reason = "this module is a driver: it owns a clock")]
    fn execute(&self, operation: Operation, done: Done) {
        self.agent.running.lock().insert(operation.attempt, Running::default());
        let first = match operation.action {
            FenceAction::Off | FenceAction::Reboot => Step::Off,
            FenceAction::On => Step::On,
            FenceAction::Status => Step::Read { left: 1, proof: None },
            FenceAction::Monitor => Step::Monitor,
            FenceAction::List => Step::List,
        };
        let due = Instant::now() + operation.timeout;
        Work { agent: self.agent.clone(), operation, due, done }.run(first);
    }

    fn cancel(&self, attempt: AttemptId) {
        let mut all = self.agent.running.lock();
        if let Some(running) = all.get_mut(&attempt) {
            running.cancelled = true;
            if let Some(ticket) = running.ticket {
                self.agent.runner.cancel(ticket);
            }
        }
    }
}

/// One operation on its way through several runs of the agent.
struct Work {
    agent: Arc<Agent>,
    operation: Operation,
    due: Instant,
    done: Done,
}

/// The run that is under way.
#[derive(Clone)]
enum Step {
    Off,
    On,
    Monitor,
    List,
    /// `left` further reads if the answer is not the wanted one; `proof` is what the order itself brought.
    Read {
        left: u32,
        proof: Option<ReadBack>,
    },
    /// After an `off` that is known to have happened.
    OnAgain {
        proof: ReadBack,
        detail: String,
    },
}

impl Work {
    fn run(self, step: Step) {
        let action = match step {
            Step::Off => "off",
            Step::On | Step::OnAgain { .. } => "on",
            Step::Read { .. } => "status",
            Step::Monitor => "monitor",
            Step::List => "list",
        };
        let plug = self.operation.plug.as_deref().map(|p| (self.agent.plug_parameter.as_str(), p));
        let parameters = self.agent.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).chain(plug);
        let input = match agent::input(action, parameters) {
            Ok(input) => input,
            Err(error) => {
                let detail = Arc::from(error.to_string());
                self.end(DeviceResult::Failed(Failure::Refused { detail }));
                return;
            }
        };
        #[expect(clippy::disallowed_methods, reason = "this module is a driver: it owns a clock")]
        let left = self.due.saturating_duration_since(Instant::now());
        let (agent, attempt) = (self.agent.clone(), self.operation.attempt);
        let command = command(agent.program.clone(), input, left);
        if agent.running.lock().get(&attempt).is_none_or(|r| r.cancelled) {
            self.stopped(&step, Failure::Cancelled);
            return;
        }
        if left.is_zero() {
            let after = self.operation.timeout;
            self.stopped(&step, Failure::TimedOut { after });
            return;
        }
        let ticket = agent.runner.run(command, move |finished| self.ran(step, &finished));
        // By now this run may be over, and the next one under way: tickets grow.
        let mut all = agent.running.lock();
        if let Some(running) = all.get_mut(&attempt) {
            running.ticket = running.ticket.max(Some(ticket));
            if running.cancelled {
                agent.runner.cancel(ticket);
            }
        }
    }

    /// A run of the agent is over.
    fn ran(self, step: Step, finished: &Finished) {
        let detail = agent::detail(&finished.stdout, &finished.stderr, &self.agent.secrets);
        match step {
            Step::Off | Step::On => match self.failure_of(finished, &detail) {
                Some(failure) => self.end(DeviceResult::Failed(failure)),
                None => self.ordered(&step, detail),
            },
            Step::Read { left, proof } => self.read(finished, detail, left, proof),
            Step::Monitor | Step::List => {
                let failure = self.failure_of(finished, &detail);
                let listed = matches!(step, Step::List);
                self.end(match failure {
                    Some(failure) => DeviceResult::Failed(failure),
                    None if listed => DeviceResult::Hosts { hosts: agent::listed(&finished.stdout) },
                    None => DeviceResult::Done { read_back: ReadBack::NotRead, detail: Arc::from(detail) },
                });
            }
            Step::OnAgain { proof, detail: off } => {
                let detail = match self.failure_of(finished, &detail) {
                    None => format!("{off}; switched on again"),
                    Some(failure) => format!("{off}; not switched on again: {failure}"),
                };
                self.end(DeviceResult::Done { read_back: proof, detail: Arc::from(detail) });
            }
        }
    }

    /// The agent says that it has switched.
    fn ordered(self, step: &Step, detail: String) {
        let fences = matches!(step, Step::Off);
        let proof = match self.agent.verify {
            Verify::Status => {
                return self.run(Step::Read { left: READS_MAX, proof: Some(ReadBack::NotRead) });
            }
            Verify::Trust if fences => ReadBack::Trusted,
            Verify::Trust | Verify::None => ReadBack::NotRead,
        };
        self.switched(proof, detail);
    }

    /// The order was carried out as far as is known; a reboot goes on.
    fn switched(self, proof: ReadBack, detail: String) {
        if self.operation.action == FenceAction::Reboot {
            self.run(Step::OnAgain { proof, detail });
        } else {
            self.end(DeviceResult::Done { read_back: proof, detail: Arc::from(detail) });
        }
    }

    /// The agent has read the state.
    fn read(self, finished: &Finished, detail: String, left: u32, proof: Option<ReadBack>) {
        let state = match &finished.exit {
            Exit::Code(code) => agent::status_of(*code, &finished.stdout, &finished.stderr),
            Exit::Signal(_) | Exit::TimedOut | Exit::Cancelled | Exit::NotStarted(_) => ReadBack::NotRead,
        };
        let wanted = if self.operation.action == FenceAction::On { ReadBack::On } else { ReadBack::Off };
        let after_order = proof.is_some();
        if state == ReadBack::NotRead {
            let failure = self.failure_of(finished, &detail).unwrap_or_else(|| Failure::Failed {
                detail: Arc::from(format!("status is not understood: {detail}")),
            });
            let timed_out = matches!(failure, Failure::TimedOut { .. } | Failure::Cancelled);
            self.end(DeviceResult::Failed(if after_order && !timed_out {
                let detail = format!("status after the order failed: {failure}");
                Failure::NotVerified { detail: Arc::from(detail) }
            } else {
                failure
            }));
        } else if after_order && state != wanted && left > 1 {
            self.run(Step::Read { left: left - 1, proof });
        } else if after_order {
            self.settle(state, wanted, detail);
        } else {
            self.end(DeviceResult::Done { read_back: state, detail: Arc::from(detail) });
        }
    }

    fn settle(self, state: ReadBack, wanted: ReadBack, detail: String) {
        if state == wanted {
            self.switched(state, detail);
        } else if self.operation.action == FenceAction::On {
            let detail = Arc::from("the node is still off after the agent reported success");
            self.end(DeviceResult::Failed(Failure::Failed { detail }));
        } else {
            self.end(DeviceResult::Failed(Failure::StillOn));
        }
    }

    /// Why a run of the agent was no success.
    fn failure_of(&self, finished: &Finished, detail: &str) -> Option<Failure> {
        let missing = || Failure::AgentMissing {
            agent: self.agent.name.clone(),
            package: agent::package_of(&self.agent.name).map(Arc::from),
        };
        match &finished.exit {
            Exit::Code(0) => None,
            Exit::Code(code) => {
                Some(Failure::Failed { detail: Arc::from(format!("exit code {code}: {detail}")) })
            }
            Exit::Signal(signal) => Some(Failure::Died { signal: *signal }),
            Exit::TimedOut => Some(Failure::TimedOut { after: self.operation.timeout }),
            Exit::Cancelled => Some(Failure::Cancelled),
            Exit::NotStarted(NotStarted::NotFound | NotStarted::NotAbsolute) => Some(missing()),
            Exit::NotStarted(why) => Some(Failure::Failed {
                detail: Arc::from(format!("cannot start {}: {why}", self.agent.name)),
            }),
        }
    }

    /// No further run is possible. What is known by then stays true.
    fn stopped(self, step: &Step, failure: Failure) {
        if let Step::OnAgain { proof, detail } = step {
            let detail = Arc::from(format!("{detail}; not switched on again: {failure}"));
            let read_back = proof.clone();
            self.end(DeviceResult::Done { read_back, detail });
        } else {
            self.end(DeviceResult::Failed(failure));
        }
    }

    fn end(self, result: DeviceResult) {
        self.agent.running.lock().remove(&self.operation.attempt);
        (self.done)(result);
    }
}
