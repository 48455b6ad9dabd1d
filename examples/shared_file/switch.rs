//! A fence device for nodes that are processes of one machine: it kills the process, and reads back that it is gone.

use ocf_stonith::driver::DeviceClass;
use ocf_stonith::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation,
    ReadBack,
};
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// The class `process`: nodes write their process number into a folder.
#[derive(Clone, Debug)]
pub(crate) struct Switch {
    folder: PathBuf,
}

impl Switch {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The file with the process number of a node.
    pub(crate) fn pid_file(folder: &Path, node: NodeId) -> PathBuf {
        folder.join(format!("pid.{}", node.raw()))
    }

    fn off(&self, node: NodeId) -> Result<ReadBack, String> {
        if self.folder.join("broken").exists() {
            return Err("the switch is broken".to_owned());
        }
        let text =
            fs::read_to_string(Self::pid_file(&self.folder, node)).map_err(|error| error.to_string())?;
        let pid: i32 = text.trim().parse().map_err(|error| format!("{text:?}: {error}"))?;
        let process = Pid::from_raw(pid).ok_or("no process number")?;
        let until = Instant::now() + PATIENCE;
        while runs(pid) {
            if Instant::now() > until {
                return Ok(ReadBack::On);
            }
            match kill_process(process, Signal::KILL) {
                // Gone already, or to be looked at again.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(format!("process {pid} cannot be killed: {error}")),
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(ReadBack::Off)
    }
}

/// True as long as the process can do anything: one that waits to be collected cannot.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

impl DeviceClass for Switch {
    fn name(&self) -> &str {
        "process"
    }

    fn describe(&self) -> &str {
        "kills the process of a node on this machine, and reads back that it is gone"
    }

    fn check(&self, _device: &DeviceConfig, _errors: &mut ConfigErrors) {}

    fn open(&self, _device: &DeviceConfig, _runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        Ok(Arc::new(self.clone()))
    }
}

impl FenceDevice for Switch {
    fn capabilities(&self) -> Capabilities {
        Capabilities { actions: vec![FenceAction::Off], verifies_off: true }
    }

    fn execute(&self, operation: Operation, done: Done) {
        let switch = self.clone();
        thread::spawn(move || {
            let result = if operation.action == FenceAction::Off {
                switch.off(operation.node)
            } else {
                Err(format!("it can only switch off, not {:?}", operation.action))
            };
            done(match result {
                Ok(read_back) => DeviceResult::Done { read_back, detail: "looked at the process".into() },
                Err(detail) => DeviceResult::Failed(Failure::Failed { detail: detail.into() }),
            });
        });
    }

    fn cancel(&self, _attempt: AttemptId) {}
}
