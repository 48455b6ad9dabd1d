use crate::{AttemptId, Cause, DeviceReport, Failure, FenceAction, Finding, Outcome};
use core::time::Duration;
use pils::NodeInstance;
use std::sync::Arc;

/// What arrives at the fencing core.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// An attempt ended.
    Device(DeviceReport),
}

/// What the fencing core wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Have a device carry out an action, and answer with [`Input::Device`].
    Run(Run),
    /// The answer of this attempt is no longer waited for. An answer that comes nevertheless is still welcome.
    Cancel {
        /// Which.
        attempt: AttemptId,
    },
    /// Tell the layers above.
    Event(Event),
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Names the attempt in its report.
    pub attempt: AttemptId,
    /// The device's name in the configuration.
    pub device: Arc<str>,
    /// What to do.
    pub action: FenceAction,
    /// To which node. For `Monitor` and `List`, which do nothing to any node, this node without an incarnation.
    pub target: NodeInstance,
    /// What the device calls that node.
    pub plug: Option<Arc<str>>,
    /// Time it has. The core stops waiting then.
    pub timeout: Duration,
}

/// What the fencing core tells the layers above.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A request was taken.
    Started {
        /// Which life of which node.
        target: NodeInstance,
        /// How.
        action: FenceAction,
        /// Why.
        cause: Cause,
        /// Time the first attempt waits, so that of two nodes that fence each other one is earlier.
        delay: Duration,
    },
    /// A request for an incarnation that is being fenced already; it gets the same outcome.
    Joined {
        /// Which life of which node.
        target: NodeInstance,
        /// Why it was requested again.
        cause: Cause,
    },
    /// A device is asked.
    AttemptStarted {
        /// For which request.
        target: NodeInstance,
        /// Which attempt.
        attempt: AttemptId,
        /// Which device.
        device: Arc<str>,
        /// What it is asked for.
        action: FenceAction,
    },
    /// An attempt failed; others follow.
    AttemptFailed {
        /// For which request.
        target: NodeInstance,
        /// Which attempt.
        attempt: AttemptId,
        /// Which device.
        device: Arc<str>,
        /// How.
        failure: Failure,
    },
    /// A round of attempts brought nothing. The request stands and is tried again: recovery must wait.
    Unresolved {
        /// Which life of which node.
        target: NodeInstance,
        /// Rounds so far.
        round: u32,
        /// Always [`Outcome::Unknown`].
        outcome: Outcome,
        /// When the next round begins, from now; `None` if that waits for this node's authority to fence.
        next_round_in: Option<Duration>,
    },
    /// A request has its outcome. Only [`Outcome::Confirmed`] means fenced.
    Finished {
        /// Which life of which node.
        target: NodeInstance,
        /// The outcome: `Confirmed` or `Requested`.
        outcome: Outcome,
    },
    /// A node that was to be rebooted was fenced, and its device says that it is on again. Nothing waits for this.
    Restarted {
        /// The life that ended.
        target: NodeInstance,
        /// Which device.
        device: Arc<str>,
    },
    /// A node that was to be rebooted was fenced, and could not be switched on again: a person has to.
    RestartFailed {
        /// The life that ended.
        target: NodeInstance,
        /// Which device.
        device: Arc<str>,
        /// How it failed.
        failure: Failure,
    },
    /// A node has what its devices with `unfence = true` give, and may run resources.
    Unfenced {
        /// Which life of which node.
        target: NodeInstance,
    },
    /// A node does not have what a device with `unfence = true` gives: it may not run resources that need it.
    UnfenceFailed {
        /// Which life of which node.
        target: NodeInstance,
        /// Which device.
        device: Arc<str>,
        /// How it failed.
        failure: Failure,
    },
    /// A drill is over.
    Drilled {
        /// Which life of which node.
        target: NodeInstance,
        /// True if the devices were really switched off and on.
        harm: bool,
        /// Who asked for it.
        who: Arc<str>,
        /// One per device, in the order of the configuration.
        findings: Vec<Finding>,
    },
    /// A device no longer answers its health check: a node that only it fences could not be fenced now.
    DeviceFailed {
        /// Which device.
        device: Arc<str>,
        /// How.
        failure: Failure,
    },
    /// A device that did not answer its health check does again.
    DeviceRecovered {
        /// Which device.
        device: Arc<str>,
    },
    /// A request no longer stands, and has no outcome.
    Withdrawn {
        /// Which life of which node.
        target: NodeInstance,
        /// Why.
        reason: Withdrawal,
    },
    /// An attempt that was given up answered.
    LateAnswer {
        /// For which request.
        target: NodeInstance,
        /// Which attempt.
        attempt: AttemptId,
        /// Which device.
        device: Arc<str>,
        /// True if it proves that this device took the node's power: with the last device of a level the request is
        /// confirmed by it.
        accepted: bool,
    },
}

/// Why a request no longer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Withdrawal {
    /// The incarnation's death is known by other means, or it is a good member again.
    NotNeeded,
    /// A person withdrew it.
    Operator,
    /// This node is no longer in a primary partition.
    AuthorityLost,
}
