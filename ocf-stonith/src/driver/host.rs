use super::Classes;
use crate::{AttemptId, Config, DeviceReport, DeviceResult, Failure, FenceDevice, Operation, ReadBack, Run};
use core::fmt;
use parking_lot::Mutex;
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

type Report = dyn Fn(DeviceReport) + Send + Sync;

/// Carries out [`Output::Run`](crate::Output::Run) and [`Output::Cancel`](crate::Output::Cancel) of a
/// [`Fencer`](crate::Fencer).
///
/// Each attempt is reported exactly once, whatever the device does short of never answering: a device that panics, or
/// forgets an operation, has failed.
pub struct DeviceHost {
    devices: BTreeMap<Arc<str>, Arc<dyn FenceDevice>>,
    running: Arc<Mutex<BTreeMap<AttemptId, Arc<dyn FenceDevice>>>>,
    report: Arc<Report>,
}

impl fmt::Debug for DeviceHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceHost").field("devices", &self.devices).finish_non_exhaustive()
    }
}

impl DeviceHost {
    /// Opens the devices of `config`. Child processes run on `runner`.
    ///
    /// `report` is called from any thread, possibly from the one in [`DeviceHost::run`] before that returns: it should
    /// only pass the report on, for example to a channel, and wake who reads it.
    ///
    /// # Errors
    /// What makes a device impossible; [`Classes::check`] finds it and more.
    pub fn new(
        config: &Config,
        classes: &Classes,
        runner: &Runner,
        report: impl Fn(DeviceReport) + Send + Sync + 'static,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let mut devices = BTreeMap::new();
        for (i, device) in config.devices.iter().enumerate() {
            match classes.find(&device.class).and_then(|class| class.open(device, runner)) {
                Ok(opened) => drop(devices.insert(Arc::from(device.name.as_str()), opened)),
                Err(wrong) => errors.nest(&format!("devices[{i}]"), wrong),
            }
        }
        errors.into_result()?;
        Ok(Self { devices, running: Arc::default(), report: Arc::new(report) })
    }

    /// Carries out one attempt. Returns soon.
    pub fn run(&self, run: Run) {
        let Run { attempt, device: name, action, target, plug, timeout } = run;
        let mut answer =
            Answer { attempt, running: self.running.clone(), report: self.report.clone(), given: false };
        let Some(device) = self.devices.get(&name) else {
            answer.give(DeviceResult::Failed(Failure::DeviceMissing { device: name }));
            return;
        };
        let capabilities = device.capabilities();
        if !capabilities.allows(action) {
            let detail = Arc::from(format!("{name} does not do {action}"));
            answer.give(DeviceResult::Failed(Failure::Refused { detail }));
            return;
        }
        self.running.lock().insert(attempt, device.clone());
        let must_verify = capabilities.verifies_off && action.is_fencing();
        let done = move |result| {
            answer.give(match result {
                DeviceResult::Done { read_back: ReadBack::NotRead, detail } if must_verify => {
                    DeviceResult::Failed(Failure::NotVerified { detail })
                }
                DeviceResult::Done { .. } | DeviceResult::Hosts { .. } | DeviceResult::Failed(_) => result,
            });
        };
        let operation = Operation { attempt, action, node: target.node, plug, timeout };
        let execute = || device.execute(operation, Box::new(done));
        if catch_unwind(AssertUnwindSafe(execute)).is_err() {
            tracing::error!(device = %name, %attempt, "a fence device panicked");
        }
    }

    /// Asks the device to end an attempt early. Its report still comes.
    pub fn cancel(&self, attempt: AttemptId) {
        let device = self.running.lock().get(&attempt).cloned();
        if let Some(device) = device {
            device.cancel(attempt);
        }
    }

    /// A person says that this node is off. True if a device was waiting for that.
    pub fn confirm(&self, node: NodeId, who: &str) -> bool {
        let told: Vec<_> = self.devices.values().map(|d| d.confirm(node, who)).collect();
        told.contains(&true)
    }

    /// The device of this name.
    #[must_use]
    pub fn device(&self, name: &str) -> Option<&Arc<dyn FenceDevice>> {
        self.devices.get(name)
    }
}

/// Reports once; a failure if it is dropped before.
struct Answer {
    attempt: AttemptId,
    running: Arc<Mutex<BTreeMap<AttemptId, Arc<dyn FenceDevice>>>>,
    report: Arc<Report>,
    given: bool,
}

impl Answer {
    fn give(&mut self, result: DeviceResult) {
        self.given = true;
        self.running.lock().remove(&self.attempt);
        (self.report)(DeviceReport { attempt: self.attempt, result });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.given {
            let detail = Arc::from("the device dropped the operation without an answer");
            self.give(DeviceResult::Failed(Failure::Failed { detail }));
        }
    }
}
