use super::waiting::{Waiting, Wake};
use super::{DeviceClass, classes};
use crate::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation,
    Script, SimulatedDevice,
};
use core::fmt;
use parking_lot::Mutex;
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use std::sync::Arc;

/// What happens to a machine when a simulated device switches it: called with the node, and true for on.
type PowerHook = Arc<dyn Fn(NodeId, bool) + Send + Sync>;

/// The class `simulated`: a power switch that exists only in memory. For first runs, examples and tests.
///
/// Parameter `script`: see [`Script`]; default `confirm`.
#[derive(Clone, Default)]
pub struct SimulatedClass {
    power: Option<PowerHook>,
}

impl SimulatedClass {
    /// A class whose devices really do something: `power` is called with the node, and true for on, before the device
    /// answers.
    pub fn with_power(power: impl Fn(NodeId, bool) + Send + Sync + 'static) -> Self {
        Self { power: Some(Arc::new(power)) }
    }
}

impl fmt::Debug for SimulatedClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedClass").field("power", &self.power.is_some()).finish()
    }
}

impl DeviceClass for SimulatedClass {
    fn name(&self) -> &str {
        "simulated"
    }

    fn describe(&self) -> &str {
        "a power switch that exists only in memory, for first runs and tests"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        classes::refuse_others(device, &["script"], errors);
        if let Some(text) = device.parameters.get("script")
            && let Err(error) = text.parse::<Script>()
        {
            errors.push(
                "parameters.script",
                text,
                error.to_string(),
                "write for example: fail; confirm 200ms",
            );
        }
    }

    fn open(&self, device: &DeviceConfig, _: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        self.check(device, &mut errors);
        errors.into_result()?;
        let text = device.parameters.get("script").unwrap_or("confirm");
        let script = text.parse().unwrap_or_else(|_checked| Script::new([]));
        Ok(Arc::new(Simulated { power: self.power.clone(), ..Simulated::new(script) }))
    }
}

/// A device of the class `simulated`: a [`SimulatedDevice`] in real time.
#[derive(Clone)]
pub struct Simulated {
    device: Arc<Mutex<SimulatedDevice>>,
    power: Option<PowerHook>,
    waiting: Waiting,
}

impl Simulated {
    /// A device that follows `script`; all nodes are on.
    #[must_use]
    pub fn new(script: Script) -> Self {
        let device = Arc::new(Mutex::new(SimulatedDevice::new(script)));
        Self { device, power: None, waiting: Waiting::default() }
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("device", &self.device).finish_non_exhaustive()
    }
}

impl FenceDevice for Simulated {
    fn capabilities(&self) -> Capabilities {
        let actions = vec![
            FenceAction::Off,
            FenceAction::Reboot,
            FenceAction::On,
            FenceAction::Status,
            FenceAction::Monitor,
        ];
        // A script may say `unverified`: that is then the honest answer of this device.
        Capabilities { actions, verifies_off: false }
    }

    fn execute(&self, operation: Operation, done: Done) {
        let plan = self.device.lock().order(operation.action, operation.node);
        let timeout = operation.timeout;
        let own = self.clone();
        let carry_out = move || {
            let mut changes = Vec::new();
            let result = own.device.lock().carry_out(plan, &mut |node, on| changes.push((node, on)));
            if let Some(power) = &own.power {
                for (node, on) in changes {
                    power(node, on);
                }
            }
            result
        };
        let late = plan.after().is_some_and(|_| plan.survives_cancel());
        let (time, in_time) = match plan.after() {
            Some(after) if after < timeout || late => (after, true),
            _ => (timeout, false),
        };
        let end = move |why| match why {
            Wake::Cancelled => DeviceResult::Failed(Failure::Cancelled),
            Wake::Due | Wake::Confirmed(_) if in_time => carry_out(),
            Wake::Due | Wake::Confirmed(_) => DeviceResult::Failed(Failure::TimedOut { after: timeout }),
        };
        self.waiting.start(&operation, (time, late), end, done);
    }

    fn cancel(&self, attempt: AttemptId) {
        self.waiting.cancel(attempt);
    }
}
