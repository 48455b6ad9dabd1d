use crate::Failure;
use core::time::Duration;
use pils::process::{Command, Exit, Finished, Runner};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Output kept of a tool.
const OUTPUT_MAX: usize = 1 << 20;

/// A program of this machine that is called and waited for.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    /// The program, as an absolute path, and its first arguments.
    words: Vec<String>,
    runner: Runner,
    timeout: Duration,
}

impl Tool {
    /// Each call may take `timeout`.
    pub(super) fn new(words: impl IntoIterator<Item = String>, runner: &Runner, timeout: Duration) -> Self {
        Self { words: words.into_iter().collect(), runner: runner.clone(), timeout }
    }

    /// What became of it, whatever its exit status.
    pub(super) fn call(&self, more: &[&str], stdin: String) -> Result<Finished, Failure> {
        let failed = |detail: &str| Failure::Failed { detail: Arc::from(detail) };
        let (program, first) = self.words.split_first().ok_or_else(|| failed("no program is named"))?;
        let mut command = Command::new(PathBuf::from(program));
        command.args = first.iter().map(Into::into).chain(more.iter().map(Into::into)).collect();
        command.env =
            vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()), ("LC_ALL".into(), "C".into())];
        command.stdin = stdin.into_bytes();
        command.timeout = self.timeout;
        command.output_max = OUTPUT_MAX;
        let (tell, told) = channel();
        self.runner.run(command, move |finished| tell.send(finished).unwrap_or(()));
        told.recv().map_err(|_gone| failed("the runner has ended"))
    }

    /// What it says, if it succeeds.
    pub(super) fn succeed(&self, more: &[&str], stdin: String) -> Result<String, Failure> {
        let finished = self.call(more, stdin)?;
        if finished.exit.success() {
            Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
        } else {
            Err(self.failure(&finished))
        }
    }

    /// What its end means, if it is none that is wished for.
    pub(super) fn failure(&self, finished: &Finished) -> Failure {
        if finished.exit == Exit::TimedOut {
            return Failure::TimedOut { after: self.timeout };
        }
        let name = self.words.first().and_then(|program| Path::new(program).file_name()).unwrap_or_default();
        let said = crate::agent::detail(&finished.stdout, &finished.stderr, &[]);
        let detail = format!("{} {}: {said}", name.to_string_lossy(), finished.exit);
        Failure::Failed { detail: Arc::from(detail) }
    }
}
