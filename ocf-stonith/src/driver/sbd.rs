use super::sbd_disk::{SbdDisk, SbdError};
use super::{DeviceClass, classes};
use crate::sbd::{Command, Mail, enough_to_fence};
use crate::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation,
    ReadBack,
};
use core::time::Duration;
use parking_lot::Mutex;
use pils::ConfigErrors;
use pils::process::Runner;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

/// The most disks that carry one poison pill.
const DISKS_MAX: usize = 3;

/// The class `sbd`: a poison pill over one to three shared disks, for nodes that watch over themselves
/// ([`SelfFencing`](super::SelfFencing), or Debian's `sbd`).
///
/// Parameters: `disks`: paths, separated by commas. `command`: what `off` tells the node, `reset` (the default) or `off`.
/// `from`: who tells it. The plug of a node is its name on the disks, by default its number.
///
/// An order counts when the message stands on more than half of the disks and `msgwait` is over
/// ([`ReadBack::SelfFenced`]): the device's timeout has to be longer than that. It cannot be taken back.
#[derive(Clone, Copy, Debug, Default)]
pub struct SbdClass;

impl DeviceClass for SbdClass {
    fn name(&self) -> &str {
        "sbd"
    }

    fn describe(&self) -> &str {
        "a poison pill over one to three shared disks, for nodes with a watchdog"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        check_shape(device, errors);
        for path in disks(device) {
            match SbdDisk::open(&path).map(|disk| disk.header().msgwait_s) {
                Ok(wait) if u64::from(wait) * 1000 >= device.timeout_ms => {
                    let problem = format!("is not longer than msgwait = {wait} s of {}", path.display());
                    errors.push("timeout_ms", device.timeout_ms, problem, "raise it");
                }
                Ok(_) => {}
                Err(error) => {
                    let fix = "create the disk first, or check its path";
                    errors.push("parameters.disks", path.display(), error.to_string(), fix);
                }
            }
        }
    }

    fn open(&self, device: &DeviceConfig, _: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        check_shape(device, &mut errors);
        errors.into_result()?;
        let get = |name| device.parameters.get(name);
        Ok(Arc::new(Sbd {
            disks: disks(device).collect(),
            off: if get("command") == Some("off") { Command::Off } else { Command::Reset },
            from: Arc::from(get("from").unwrap_or("ocf")),
            running: Arc::default(),
        }))
    }
}

fn disks(device: &DeviceConfig) -> impl Iterator<Item = PathBuf> {
    let text = device.parameters.get("disks").unwrap_or_default();
    text.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn check_shape(device: &DeviceConfig, errors: &mut ConfigErrors) {
    classes::refuse_others(device, &["disks", "command", "from"], errors);
    let all: Vec<_> = disks(device).collect();
    let shown = device.parameters.get("disks").unwrap_or_default();
    let fix = "name one, two or three shared disks, separated by commas";
    if all.is_empty() || all.len() > DISKS_MAX {
        errors.push("parameters.disks", shown, format!("names {} disks", all.len()), fix);
    } else if all.iter().enumerate().any(|(i, path)| all.iter().take(i).any(|other| other == path)) {
        errors.push("parameters.disks", shown, "names a disk twice", fix);
    }
    if let Some(command) = device.parameters.get("command").filter(|c| !["reset", "off"].contains(c)) {
        errors.push("parameters.command", command, "is not known", "choose one of reset, off");
    }
    let from = device.parameters.get("from").unwrap_or("ocf");
    if let Err(error) = (Mail { command: Command::Test, from: from.to_owned() }).encode(512) {
        errors.push("parameters.from", from, error.to_string(), "choose a short name without spaces");
    }
}

/// A device of the class `sbd`.
#[derive(Clone, Debug)]
pub struct Sbd {
    disks: Vec<PathBuf>,
    off: Command,
    from: Arc<str>,
    running: Arc<Mutex<BTreeMap<AttemptId, Sender<Said>>>>,
}

#[derive(Debug)]
enum Said {
    /// What became of the work on one disk.
    Disk(Result<Told, SbdError>),
    Cancel,
}

#[derive(Debug)]
struct Told {
    wait: Duration,
    names: Vec<Arc<str>>,
}

impl FenceDevice for Sbd {
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
        if operation.action == FenceAction::Status {
            let detail = Arc::from("a disk does not know whether a node is on");
            done(DeviceResult::Failed(Failure::Refused { detail }));
            return;
        }
        let (tell, told) = channel();
        let attempt = operation.attempt;
        self.running.lock().insert(attempt, tell.clone());
        let own = self.clone();
        let work = move || {
            let result = own.work(&operation, &tell, &told);
            own.running.lock().remove(&attempt);
            done(result);
        };
        if let Err(error) = thread::Builder::new().name("fence-sbd".to_owned()).spawn(work) {
            // The closure is dropped, and with it `done`: the host reports that as a failure.
            tracing::error!(%error, %attempt, "cannot start a thread for a fence operation");
            self.running.lock().remove(&attempt);
        }
    }

    fn cancel(&self, attempt: AttemptId) {
        if let Some(tell) = self.running.lock().get(&attempt) {
            // an operation that has ended needs no cancellation
            tell.send(Said::Cancel).unwrap_or(());
        }
    }
}

impl Sbd {
    /// A disk that hangs holds its own thread, and nothing else.
    fn work(&self, operation: &Operation, tell: &Sender<Said>, told: &Receiver<Said>) -> DeviceResult {
        #[expect(clippy::disallowed_methods, reason = "this module is a driver: it owns a clock")]
        let began = Instant::now();
        let due = began + operation.timeout;
        let name = operation.plug.as_deref().map_or_else(|| operation.node.raw().to_string(), str::to_owned);
        for path in self.disks.clone() {
            let (answer, own, name, action) = (tell.clone(), self.clone(), name.clone(), operation.action);
            let job = move || {
                let said = SbdDisk::open(&path).and_then(|disk| own.on_disk(&disk, action, &name));
                answer.send(Said::Disk(said)).unwrap_or(());
            };
            if let Err(error) = thread::Builder::new().name("fence-sbd-disk".to_owned()).spawn(job) {
                let said = Err(SbdError::Io { path: PathBuf::new(), why: error.to_string() });
                tell.send(Said::Disk(said)).unwrap_or(());
            }
        }
        let (mut good, mut names, mut wait, mut bad) = (0, Vec::new(), Duration::ZERO, Vec::new());
        while good + bad.len() < self.disks.len() && !enough_to_fence(good, self.disks.len()) {
            match until(told, due) {
                Ok(Said::Disk(Ok(disk))) => {
                    good += 1;
                    wait = wait.max(disk.wait);
                    names = disk.names;
                }
                Ok(Said::Disk(Err(error))) => bad.push(error.to_string()),
                Ok(Said::Cancel) => return DeviceResult::Failed(Failure::Cancelled),
                Err(_late) => return DeviceResult::Failed(Failure::TimedOut { after: operation.timeout }),
            }
        }
        let on = format!("{good} of {} disks", self.disks.len());
        if !enough_to_fence(good, self.disks.len()) {
            let detail = Arc::from(format!("only on {on}: {}", bad.join("; ")));
            return DeviceResult::Failed(Failure::Failed { detail });
        }
        if operation.action == FenceAction::List {
            return DeviceResult::Hosts { hosts: names };
        }
        if !operation.action.is_fencing() {
            return DeviceResult::Done { read_back: ReadBack::NotRead, detail: Arc::from(on) };
        }
        self.wait_for_the_end(operation, told, (due, wait), &on)
    }

    fn wait_for_the_end(
        &self,
        operation: &Operation,
        told: &Receiver<Said>,
        (due, wait): (Instant, Duration),
        on: &str,
    ) -> DeviceResult {
        #[expect(clippy::disallowed_methods, reason = "this module is a driver: it owns a clock")]
        let over = Instant::now() + wait;
        loop {
            match until(told, over.min(due)) {
                Ok(Said::Cancel) => return DeviceResult::Failed(Failure::Cancelled),
                Ok(Said::Disk(_)) => {}
                Err(_time) if over > due => {
                    return DeviceResult::Failed(Failure::TimedOut { after: operation.timeout });
                }
                Err(_time) => break,
            }
        }
        let command = self.command(operation.action);
        let detail = Arc::from(format!("{command} stands on {on}; msgwait of {wait:?} is over"));
        DeviceResult::Done { read_back: ReadBack::SelfFenced, detail }
    }

    fn command(&self, action: FenceAction) -> Command {
        if action == FenceAction::Reboot { Command::Reset } else { self.off }
    }

    fn on_disk(&self, disk: &SbdDisk, action: FenceAction, name: &str) -> Result<Told, SbdError> {
        let wait = Duration::from_secs(disk.header().msgwait_s.into());
        let mut names = Vec::new();
        if action.is_fencing() {
            disk.send(name, &Mail { command: self.command(action), from: self.from.to_string() })?;
        } else if action == FenceAction::On {
            disk.send(name, &Mail { command: Command::Clear, from: self.from.to_string() })?;
        } else {
            names = disk.slots()?.into_iter().map(|(_, name)| Arc::from(name)).collect();
        }
        Ok(Told { wait, names })
    }
}

fn until(told: &Receiver<Said>, due: Instant) -> Result<Said, RecvTimeoutError> {
    #[expect(clippy::disallowed_methods, reason = "this module is a driver: it owns a clock")]
    let left = due.saturating_duration_since(Instant::now());
    told.recv_timeout(left)
}
