use super::described::{ASK_MAX, Described};
use super::{AgentQueryError, DeviceClass};
use crate::agent::{self, Metadata};
use crate::config::is_secret;
use crate::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, HOSTS_MAX,
    Operation, ReadBack,
};
use core::fmt;
use core::time::Duration;
use parking_lot::Mutex;
use pils::ConfigErrors;
use pils::process::{Command, Exit, Finished, Runner, Ticket};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where scripts are looked for, in this order.
const DIRECTORIES: [&str; 3] = [
    "/usr/lib/stonith/plugins/external",
    "/usr/lib64/stonith/plugins/external",
    "/usr/local/lib/stonith/plugins/external",
];
/// The search path a script gets; the last is where cluster-glue has what its scripts call.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/share/cluster-glue";
/// From asking a script to end to killing it.
const GRACE: Duration = Duration::from_secs(1);
/// Output kept of each stream of a script.
const OUTPUT_MAX: usize = 64 * 1024;
/// Parameters that are for this class; all others are for the script.
const OWN: [&str; 2] = ["script", "verify"];

/// The class `external`: the scripts of cluster-glue, called as `script action [host]` with their parameters in the
/// environment.
///
/// Parameters: `script`: a name such as `ipmi` (also `external/ipmi`), or an absolute path. `verify`: `none` (the
/// default) says that nobody can tell, because these scripts have no way to read whether a node is off; `trust` takes the
/// script's success for proof. All others go to the script. The plug of a node is its host name, by default its number.
#[derive(Clone, Debug, Default)]
pub struct ExternalClass {
    described: Described,
}

impl DeviceClass for ExternalClass {
    fn name(&self) -> &str {
        "external"
    }

    fn describe(&self) -> &str {
        "a script of cluster-glue, such as external/ipmi"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        check_shape(device, errors);
        let script = device.parameters.get("script").unwrap_or_default();
        if script.is_empty() {
            return;
        }
        match find_external(script) {
            None => {
                let fix = "install the package cluster-glue, or give an absolute path";
                errors.push("parameters.script", script, "is not installed", fix);
            }
            Some(path) => {
                if let Err(problem) = is_safe(&path) {
                    let fix = "make it a regular file, executable, writable by its owner alone";
                    errors.push("parameters.script", script, problem, fix);
                    return;
                }
                let query = |runner: &Runner, said| query_external(runner, script, ASK_MAX, said);
                if let Some(described) = self.described.get(&path, query) {
                    let given = device.parameters.iter().map(|(name, _)| name);
                    errors.nest("", described.check_names(given.filter(|name| !OWN.contains(name)), &[]));
                }
            }
        }
    }

    fn open(&self, device: &DeviceConfig, runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        check_shape(device, &mut errors);
        errors.into_result()?;
        let get = |name| device.parameters.get(name);
        let script = get("script").unwrap_or_default();
        let given = || device.parameters.iter().filter(|(name, _)| !OWN.contains(name));
        let inner = Inner {
            program: find_external(script).unwrap_or_else(|| Path::new(DIRECTORIES[0]).join(bare(script))),
            name: Arc::from(bare(script)),
            parameters: given().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            secrets: given().filter(|(n, _)| is_secret(n)).map(|(_, v)| v.to_owned()).collect(),
            trusted: get("verify") == Some("trust"),
            runner: runner.clone(),
            running: Mutex::default(),
        };
        Ok(Arc::new(External { inner: Arc::new(inner) }))
    }
}

fn bare(script: &str) -> &str {
    script.strip_prefix("external/").unwrap_or(script)
}

fn check_shape(device: &DeviceConfig, errors: &mut ConfigErrors) {
    match device.parameters.get("script") {
        None | Some("") => {
            errors.push("parameters.script", "", "is missing", "name the script, such as external/ipmi");
        }
        Some(script) if !script.starts_with('/') && bare(script).contains('/') => {
            errors.push("parameters.script", script, "is a relative path", "give a name or an absolute path");
        }
        Some(_) => {}
    }
    if let Some(verify) = device.parameters.get("verify").filter(|v| !["none", "trust"].contains(v)) {
        errors.push("parameters.verify", verify, "is not known", "choose one of none, trust");
    }
    for (name, value) in device.parameters.iter().filter(|(name, _)| !OWN.contains(name)) {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_word = name.chars().all(plain) && name.starts_with(|c: char| !c.is_ascii_digit());
        let path = format!("parameters.{name}");
        if !is_word {
            errors.push(path, "", "cannot be a variable of the environment", "use letters, digits and _");
        } else if ["PATH", "IFS", "ENV", "BASH_ENV", "SHELLOPTS", "LC_ALL", "HA_LOGTAG"].contains(&name)
            || name.starts_with("LD_")
        {
            errors.push(path, "", "would change how the script runs", "leave it out");
        } else if value.contains('\0') {
            errors.push(path, "", "has a zero byte", "leave it out");
        }
    }
}

/// Refuses what anybody but its owner could have written.
fn is_safe(path: &Path) -> Result<(), &'static str> {
    let data = path.metadata().map_err(|_gone| "is gone")?;
    let mode = data.permissions().mode();
    if !data.is_file() {
        Err("is no regular file")
    } else if mode & 0o111 == 0 {
        Err("is not executable")
    } else if mode & 0o022 != 0 {
        Err("is writable by others than its owner")
    } else {
        Ok(())
    }
}

/// The script, if it is installed: a name is looked for where cluster-glue has its scripts, a path is taken as it is.
#[must_use]
pub fn find_external(script: &str) -> Option<PathBuf> {
    if script.starts_with('/') {
        return Some(PathBuf::from(script)).filter(|p| p.is_file());
    }
    let name = bare(script);
    DIRECTORIES.iter().map(|d| Path::new(d).join(name)).find(|p| !name.is_empty() && p.is_file())
}

/// The installed scripts, as `external/name`, sorted.
#[must_use]
pub fn installed_externals() -> Vec<String> {
    let files = DIRECTORIES.iter().filter_map(|d| std::fs::read_dir(d).ok()).flatten().flatten();
    let safe = files.filter(|e| is_safe(&e.path()).is_ok());
    let names = safe.filter_map(|e| e.file_name().into_string().ok()).filter(|n| !n.starts_with('.'));
    let mut names: Vec<_> = names.map(|n| format!("external/{n}")).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Asks a script for its parameters (`getinfo-xml`); calls `done` from the runner's thread.
pub fn query_external(
    runner: &Runner,
    script: &str,
    timeout: Duration,
    done: impl FnOnce(Result<Metadata, AgentQueryError>) + Send + 'static,
) {
    let name = bare(script).to_owned();
    let program = find_external(script).unwrap_or_else(|| Path::new(DIRECTORIES[0]).join(&name));
    let command = command(program, &["getinfo-xml"], &[], timeout);
    runner.run(command, move |finished| {
        done(if finished.exit == Exit::Code(0) {
            Metadata::parse_parameters(&name, &String::from_utf8_lossy(&finished.stdout)).map_err(Into::into)
        } else {
            let detail = agent::detail(&finished.stdout, &finished.stderr, &[]);
            Err(AgentQueryError::Agent { exit: finished.exit.to_string(), detail })
        });
    });
}

fn command(program: PathBuf, args: &[&str], env: &[(String, String)], timeout: Duration) -> Command {
    let tag = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut command = Command::new(program);
    command.args = args.iter().map(Into::into).collect();
    command.env =
        vec![("PATH".into(), PATH.into()), ("LC_ALL".into(), "C".into()), ("HA_LOGTAG".into(), tag.into())];
    command.env.extend(env.iter().map(|(n, v)| (n.into(), v.into())));
    command.timeout = timeout;
    command.grace = GRACE;
    command.output_max = OUTPUT_MAX;
    command
}

/// A device of the class `external`.
#[derive(Clone, Debug)]
pub struct External {
    inner: Arc<Inner>,
}

struct Inner {
    program: PathBuf,
    name: Arc<str>,
    parameters: Vec<(String, String)>,
    secrets: Vec<String>,
    trusted: bool,
    runner: Runner,
    /// `None` until the script is started.
    running: Mutex<BTreeMap<AttemptId, Option<Ticket>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("program", &self.program).finish_non_exhaustive()
    }
}

impl FenceDevice for External {
    fn capabilities(&self) -> Capabilities {
        let actions = vec![
            FenceAction::Off,
            FenceAction::Reboot,
            FenceAction::On,
            FenceAction::Monitor,
            FenceAction::List,
        ];
        Capabilities { actions, verifies_off: false }
    }

    fn execute(&self, operation: Operation, done: Done) {
        let verb = match operation.action {
            FenceAction::Off => "off",
            FenceAction::Reboot => "reset",
            FenceAction::On => "on",
            FenceAction::Monitor => "status",
            FenceAction::List => "gethosts",
            FenceAction::Status => {
                let detail = Arc::from("these scripts cannot read whether a node is on");
                done(DeviceResult::Failed(Failure::Refused { detail }));
                return;
            }
        };
        if let Err(problem) = is_safe(&self.inner.program) {
            let agent = self.inner.name.clone();
            let package = Some(Arc::from("cluster-glue"));
            done(DeviceResult::Failed(if problem == "is gone" {
                Failure::AgentMissing { agent, package }
            } else {
                Failure::Refused { detail: Arc::from(format!("{agent} {problem}")) }
            }));
            return;
        }
        let host = operation.plug.as_deref().map_or_else(|| operation.node.raw().to_string(), str::to_owned);
        let about_node = !matches!(operation.action, FenceAction::Monitor | FenceAction::List);
        let args: &[&str] = if about_node { &[verb, &host] } else { &[verb] };
        let inner = self.inner.clone();
        let command = command(inner.program.clone(), args, &inner.parameters, operation.timeout);
        let attempt = operation.attempt;
        inner.running.lock().insert(attempt, None);
        let own = inner.clone();
        let ticket = inner.runner.run(command, move |finished| {
            own.running.lock().remove(&attempt);
            done(own.judge(&operation, &finished));
        });
        if let Some(running) = inner.running.lock().get_mut(&attempt) {
            *running = Some(ticket);
        }
    }

    fn cancel(&self, attempt: AttemptId) {
        if let Some(Some(ticket)) = self.inner.running.lock().get(&attempt) {
            self.inner.runner.cancel(*ticket);
        }
    }
}

impl Inner {
    fn judge(&self, operation: &Operation, finished: &Finished) -> DeviceResult {
        let detail = agent::detail(&finished.stdout, &finished.stderr, &self.secrets);
        let failure = match &finished.exit {
            Exit::Code(0) => None,
            Exit::Code(code) => {
                Some(Failure::Failed { detail: Arc::from(format!("exit code {code}: {detail}")) })
            }
            Exit::Signal(signal) => Some(Failure::Died { signal: *signal }),
            Exit::TimedOut => Some(Failure::TimedOut { after: operation.timeout }),
            Exit::Cancelled => Some(Failure::Cancelled),
            Exit::NotStarted(why) => {
                Some(Failure::Failed { detail: Arc::from(format!("cannot start {}: {why}", self.name)) })
            }
        };
        if let Some(failure) = failure {
            return DeviceResult::Failed(failure);
        }
        if operation.action == FenceAction::List {
            let text = String::from_utf8_lossy(&finished.stdout);
            let hosts: Vec<Arc<str>> = text.split_whitespace().take(HOSTS_MAX).map(Arc::from).collect();
            return if hosts.is_empty() {
                DeviceResult::Failed(Failure::Failed { detail: Arc::from("the script lists no host") })
            } else {
                DeviceResult::Hosts { hosts }
            };
        }
        let proven = self.trusted && operation.action.is_fencing();
        let read_back = if proven { ReadBack::Trusted } else { ReadBack::NotRead };
        DeviceResult::Done { read_back, detail: Arc::from(detail) }
    }
}
