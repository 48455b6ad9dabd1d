use super::{DeviceClass, classes};
use crate::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation,
    ReadBack, WATCHDOG,
};
use pils::ConfigErrors;
use pils::process::Runner;
use std::sync::Arc;

/// The class `watchdog`: a node is dead once its own watchdog has ended it, without any device or shared disk.
///
/// For nodes with `self_fencing` without disks. A node says of each of its lives that its watchdog is armed; of one that did, and is
/// outside the primary partition, the end is confirmed [`watchdog_wait`](crate::watchdog_wait) later, by the
/// [`Fencer`](crate::Fencer) itself. Of one that did not, never: another level, or a person, has to. The node is reset, never kept off.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchdogClass;

impl DeviceClass for WatchdogClass {
    fn name(&self) -> &str {
        WATCHDOG
    }

    fn describe(&self) -> &str {
        "the nodes' own watchdogs, and nothing else: a lost node is dead after three times the time of its watchdog"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        classes::refuse_others(device, &[], errors);
        if device.unfence {
            let problem = "takes no access that could be given back";
            errors.push("unfence", true, problem, "leave it out");
        }
    }

    fn open(&self, device: &DeviceConfig, _: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        self.check(device, &mut errors);
        errors.into_result()?;
        Ok(Arc::new(OwnWatchdog))
    }
}

/// A device of the class `watchdog`: it is never asked to fence, and there is nothing to read.
#[derive(Clone, Copy, Debug)]
pub struct OwnWatchdog;

impl FenceDevice for OwnWatchdog {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            actions: vec![FenceAction::Off, FenceAction::Reboot, FenceAction::Monitor],
            verifies_off: false,
        }
    }

    fn execute(&self, operation: Operation, done: Done) {
        done(if operation.action == FenceAction::Monitor {
            DeviceResult::Done { read_back: ReadBack::NotRead, detail: Arc::from("nothing to ask") }
        } else {
            let detail = "only time tells that a node's own watchdog has ended it";
            DeviceResult::Failed(Failure::Refused { detail: Arc::from(detail) })
        });
    }

    fn cancel(&self, _: AttemptId) {}
}
