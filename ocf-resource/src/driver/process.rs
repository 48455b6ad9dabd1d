//! What all classes whose agents are programs have in common.

use super::tree::{self, TAG};
use crate::{
    AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, OcfCode, OperationResult, Outcome,
};
use core::time::Duration;
use pils::process::{Command, Exit, Finished, NotStarted, Runner};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, thread};

const EXIT_REASON: &str = "ocf-exit-reason:";
const REASON_MAX: usize = 1024;

/// Runs agents as child processes, and ends a run with every process that belongs to it.
#[derive(Clone)]
pub(super) struct Processes {
    runner: Runner,
    pub(super) grace: Duration,
    /// Sweep also after runs that ended by themselves, where nothing may be left: see `Call::leaves_nothing`.
    pub(super) strict: bool,
    tags: Arc<Tags>,
}

/// Gives every run a tag that no other run on this machine has.
struct Tags {
    host: String,
    next: AtomicU64,
}

/// One call of an agent.
pub(super) struct Call {
    pub(super) agent: AgentName,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) timeout: Duration,
    pub(super) output_max: Option<usize>,
    /// No process may be left when it has ended, as after a monitor.
    pub(super) leaves_nothing: bool,
}

impl Processes {
    pub(super) fn new(runner: Runner) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let host = format!("{}.{}", std::process::id(), since.as_nanos());
        let tags = Arc::new(Tags { host, next: AtomicU64::new(1) });
        Self { runner, grace: Duration::from_secs(5), strict: false, tags }
    }

    /// Runs a call; `result` makes of its end what the class means by it.
    pub(super) fn begin(
        &self,
        call: Call,
        result: impl FnOnce(&Finished) -> OperationResult + Send + 'static,
        done: Done,
    ) -> Canceller {
        let Call { agent, program, args, env, timeout, output_max, leaves_nothing } = call;
        let tag = format!("{}.{}", self.tags.host, self.tags.next.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(&program);
        command.args = args;
        command.env = env;
        command.env.push((TAG.into(), tag.as_str().into()));
        command.timeout = timeout;
        command.grace = self.grace;
        if let Some(max) = output_max {
            command.output_max = max;
        }
        let strict = self.strict && leaves_nothing;
        let ticket = self.runner.run(command, move |finished| {
            let ended = matches!(finished.exit, Exit::TimedOut | Exit::Cancelled);
            if let Exit::NotStarted(why) = &finished.exit {
                return done(OperationResult::new(Outcome::NotStarted(not_started(&agent, &program, why))));
            }
            let result = result(&finished);
            if ended || strict {
                sweep_then(tag, strict, result, done);
            } else {
                done(result);
            }
        });
        let runner = self.runner.clone();
        Canceller::new(move || runner.cancel(ticket))
    }

    /// Runs a call that describes the agent. Whatever it started ends with it.
    pub(super) fn describe(
        &self,
        mut call: Call,
        read: impl FnOnce(&str) -> Result<Metadata, String> + Send + 'static,
        done: MetadataDone,
    ) -> Canceller {
        call.output_max = Some(crate::METADATA_MAX);
        let name = call.agent.clone();
        let (say, said) = std::sync::mpsc::channel();
        let tell = move |finished: &Finished| {
            let text = String::from_utf8_lossy(&finished.stdout).into_owned();
            say.send((finished.exit.clone(), text)).unwrap_or_default();
            result_of(finished)
        };
        self.begin(
            call,
            tell,
            Box::new(move |result| {
                let failed = |detail| AgentError::Metadata { agent: name.clone(), detail };
                done(match (result.outcome, said.try_recv()) {
                    (Outcome::NotStarted(error), _) => Err(error),
                    (_, Ok((Exit::Code(0), text))) => read(&text).map_err(failed),
                    (_, Ok((exit, _))) => Err(failed(exit.to_string())),
                    (outcome, Err(_)) => Err(failed(outcome.to_string())),
                });
            }),
        )
    }
}

/// Looks for what is left of a run, ends it, and reports after that. On a thread: looking takes milliseconds, and the
/// thread that serves all agents must not wait.
fn sweep_then(tag: String, strict: bool, mut result: OperationResult, done: Done) {
    let slot = Arc::new(std::sync::Mutex::new(Some((result.clone(), done))));
    let other = Arc::clone(&slot);
    let take = |slot: &std::sync::Mutex<Option<(OperationResult, Done)>>| {
        slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    };
    let spawned = thread::Builder::new().name("agent-sweep".to_owned()).spawn(move || {
        let swept = tree::sweep(&tag);
        if !swept.left.is_empty() {
            tracing::warn!(pids = ?swept.left, "processes of an agent survive their kill");
        }
        if let Some((_, done)) = take(&other) {
            result.left_behind = swept.killed + swept.left.len();
            if strict && result.left_behind > 0 && result.reason.is_none() {
                result.reason = Some(format!("left {} processes behind", result.left_behind));
            }
            done(result);
        }
    });
    if spawned.is_err()
        && let Some((result, done)) = take(&slot)
    {
        tracing::warn!("no thread to look for what an agent left behind");
        done(result);
    }
}

/// The end of a program in the words of OCF.
pub(super) fn result_of(finished: &Finished) -> OperationResult {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&finished.stdout), text(&finished.stderr));
    let reason = stderr
        .lines()
        .rev()
        .find_map(|l| l.split_once(EXIT_REASON))
        .map(|(_, reason)| cut(reason.trim(), REASON_MAX).to_owned());
    let outcome = match &finished.exit {
        Exit::Code(0) => Outcome::Ok,
        Exit::Code(code) => Outcome::Failed { code: OcfCode::new(*code) },
        Exit::Signal(signal) => Outcome::Killed { signal: *signal },
        Exit::TimedOut => Outcome::TimedOut,
        Exit::Cancelled | Exit::NotStarted(_) => Outcome::Cancelled,
    };
    OperationResult { reason, output: stdout + &stderr, took: finished.took, ..OperationResult::new(outcome) }
}

/// At most `max` bytes of a text.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `find` has seen an executable file, so what is missing now is its interpreter, or the file has just gone.
fn not_started(agent: &AgentName, path: &Path, why: &NotStarted) -> AgentError {
    let (agent, path) = (agent.clone(), path.to_owned());
    if *why == NotStarted::NotFound && !path.exists() {
        AgentError::AgentMissing { agent, looked_at: vec![path] }
    } else if *why == NotStarted::PermissionDenied {
        AgentError::NotExecutable { agent, path }
    } else {
        AgentError::Start { agent, detail: format!("{}: {why}", path.display()) }
    }
}

/// Finds the program of an agent in one of several places.
pub(super) fn locate(agent: &AgentName, places: Vec<PathBuf>) -> Result<PathBuf, AgentError> {
    for path in &places {
        match fs::metadata(path) {
            Ok(meta) if is_program(&meta) => return Ok(path.clone()),
            Ok(_) => return Err(AgentError::NotExecutable { agent: agent.clone(), path: path.clone() }),
            Err(_) => {}
        }
    }
    Err(AgentError::AgentMissing { agent: agent.clone(), looked_at: places })
}

pub(super) fn is_program(meta: &fs::Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

/// The programs of a directory, by name.
pub(super) fn programs(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut found = entries(directory);
    found.retain(|(_, path)| fs::metadata(path).is_ok_and(|meta| is_program(&meta)));
    found
}

/// The entries of a directory that can be named; those that start with a dot are hidden.
pub(super) fn entries(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(listing) = fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = listing
        .filter_map(Result::ok)
        .filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())))
        .filter(|(name, _)| !name.starts_with('.'))
        .collect();
    found.sort();
    found
}

/// What every program gets: where programs are, and a language that tests can read.
pub(super) fn environment() -> Vec<(OsString, OsString)> {
    vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()), ("LC_ALL".into(), "C".into())]
}
