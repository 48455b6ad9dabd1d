use super::waiting::{Waiting, Wake};
use super::{DeviceClass, classes};
use crate::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation,
    ReadBack,
};
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use std::sync::Arc;

/// The class `manual`: a person switches the node off and says so ([`FenceDevice::confirm`]). No parameters.
#[derive(Clone, Copy, Debug, Default)]
pub struct ManualClass;

impl DeviceClass for ManualClass {
    fn name(&self) -> &str {
        "manual"
    }

    fn describe(&self) -> &str {
        "a person switches the node off and confirms it; recovery waits for that"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        classes::refuse_others(device, &[], errors);
    }

    fn open(&self, device: &DeviceConfig, _: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        self.check(device, &mut errors);
        errors.into_result()?;
        Ok(Arc::new(Manual::default()))
    }
}

/// A device of the class `manual`.
#[derive(Clone, Debug, Default)]
pub struct Manual {
    waiting: Waiting,
}

impl FenceDevice for Manual {
    fn capabilities(&self) -> Capabilities {
        Capabilities { actions: vec![FenceAction::Off], verifies_off: true }
    }

    fn execute(&self, operation: Operation, done: Done) {
        if operation.action != FenceAction::Off {
            let detail = Arc::from("a person is asked to switch off, and for nothing else");
            done(DeviceResult::Failed(Failure::Refused { detail }));
            return;
        }
        let Operation { node, timeout, .. } = operation;
        tracing::warn!(%node, "switch this node off and confirm it");
        let end = move |why| match why {
            Wake::Due => DeviceResult::Failed(Failure::TimedOut { after: timeout }),
            Wake::Cancelled => DeviceResult::Failed(Failure::Cancelled),
            Wake::Confirmed(who) => {
                DeviceResult::Done { read_back: ReadBack::Operator { who }, detail: Arc::from("") }
            }
        };
        self.waiting.start(&operation, (timeout, false), end, done);
    }

    fn cancel(&self, attempt: AttemptId) {
        self.waiting.cancel(attempt);
    }

    fn confirm(&self, node: NodeId, who: &str) -> bool {
        self.waiting.confirm(node, who)
    }
}
