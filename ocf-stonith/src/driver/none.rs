use super::{DeviceClass, classes};
use crate::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation,
    ReadBack,
};
use pils::ConfigErrors;
use pils::process::Runner;
use std::sync::Arc;

const GIVEN_UP: &str = "class none switches nothing off: a node that is only unreachable may go on writing";

/// The class `none`: there is no fencing.
///
/// What that gives up: the proof that a lost node is dead. Its outcome is `Requested`, so recovery waits until a person
/// confirms. With the parameter `assume_fenced = true` the operator takes the risk that two nodes run one resource and
/// destroy its data; the outcome is then `Confirmed` with [`ReadBack::Assumed`], which every event prints.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoneClass;

impl DeviceClass for NoneClass {
    fn name(&self) -> &str {
        "none"
    }

    fn describe(&self) -> &str {
        "no fencing: recovery from a lost node waits for a person, or, with assume_fenced = true, takes the risk"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        classes::refuse_others(device, &["assume_fenced"], errors);
        match device.parameters.get("assume_fenced") {
            None | Some("true" | "false") => {}
            Some(other) => {
                errors.push("parameters.assume_fenced", other, "is no truth value", "write true or false");
            }
        }
    }

    fn open(&self, device: &DeviceConfig, _: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        self.check(device, &mut errors);
        errors.into_result()?;
        Ok(Arc::new(NoFencing { assume_fenced: device.parameters.get("assume_fenced") == Some("true") }))
    }
}

/// A device of the class `none`.
#[derive(Clone, Copy, Debug)]
pub struct NoFencing {
    assume_fenced: bool,
}

impl FenceDevice for NoFencing {
    fn capabilities(&self) -> Capabilities {
        Capabilities { actions: vec![FenceAction::Off, FenceAction::Reboot], verifies_off: false }
    }

    fn execute(&self, operation: Operation, done: Done) {
        tracing::warn!(node = %operation.node, assume_fenced = self.assume_fenced, GIVEN_UP);
        let read_back = if self.assume_fenced { ReadBack::Assumed } else { ReadBack::NotRead };
        done(if operation.action.is_fencing() {
            DeviceResult::Done { read_back, detail: Arc::from(GIVEN_UP) }
        } else {
            DeviceResult::Failed(Failure::Refused {
                detail: Arc::from("class none has no power to read or to give"),
            })
        });
    }

    fn cancel(&self, _: AttemptId) {}
}
