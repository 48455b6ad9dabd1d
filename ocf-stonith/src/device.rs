use crate::{Failure, FenceAction, ReadBack};
use core::fmt;
use core::time::Duration;
use pils::NodeId;
use serde::Serialize;
use std::sync::Arc;

/// Tells the attempts of one [`Fencer`](crate::Fencer) apart; never used twice in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AttemptId(pub u64);

impl fmt::Display for AttemptId {
    /// `a17`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.0)
    }
}

/// One action that a device is to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Names this execution for [`FenceDevice::cancel`].
    pub attempt: AttemptId,
    /// What to do.
    pub action: FenceAction,
    /// To which node.
    pub node: NodeId,
    /// What the device calls that node (an outlet, a machine name), if the configuration says so.
    pub plug: Option<Arc<str>>,
    /// Give up after this long.
    pub timeout: Duration,
}

/// Called once, from any thread, with the result of an operation.
pub type Done = Box<dyn FnOnce(DeviceResult) + Send>;

/// What a device says about one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceResult {
    /// Carried out.
    Done {
        /// What was read back afterwards.
        read_back: ReadBack,
        /// What the device said, for people; bounded, without secrets.
        detail: Arc<str>,
    },
    /// The answer to `List`: the plugs that the device has, and their other names.
    Hosts {
        /// At most [`HOSTS_MAX`].
        hosts: Vec<Arc<str>>,
    },
    /// Not carried out, or nobody knows.
    Failed(Failure),
}

/// The most plugs that are kept of what a device lists.
pub const HOSTS_MAX: usize = 4096;

/// The result of one attempt of a [`Fencer`](crate::Fencer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// Which.
    pub attempt: AttemptId,
    /// What came out.
    pub result: DeviceResult,
}

/// What a device can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The actions it carries out.
    pub actions: Vec<FenceAction>,
    /// True if it reads back whether a node is off. Then an `Off` that was not read back is a failure.
    pub verifies_off: bool,
}

impl Capabilities {
    /// True if the device carries out `action`.
    #[must_use]
    pub fn allows(&self, action: FenceAction) -> bool {
        self.actions.contains(&action)
    }
}

/// Something that can end the life of a node: a power switch, a management board, a hypervisor, a person.
///
/// Object-safe; any number of operations may run at once. Implementations in this crate: `fence_agent`, `external`,
/// `sbd`, `simulated`, `manual`, `none`. Those who write another run the conformance suite of the feature `testing`.
pub trait FenceDevice: Send + Sync + fmt::Debug {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Starts an operation and returns soon; `done` is called exactly once, possibly before this returns, at the
    /// latest shortly after the operation's timeout or [`FenceDevice::cancel`].
    ///
    /// `Off`: [`DeviceResult::Done`] with [`ReadBack::Off`] if the device says afterwards that the node is off.
    /// `Reboot`: the same, read while the node was off; failing to switch it on again is no failure.
    /// `On`, `Status`: `Done` with the state that was read. `Monitor`: `Done` if the device is well. `List`:
    /// [`DeviceResult::Hosts`].
    fn execute(&self, operation: Operation, done: Done);

    /// Asks to end an operation early; its `done` is still called. Unknown and ended attempts are ignored.
    fn cancel(&self, attempt: AttemptId);

    /// A person says that this node is off. True if a waiting operation took this for its answer.
    fn confirm(&self, node: NodeId, who: &str) -> bool {
        let (_, _) = (node, who);
        false
    }
}

impl<T: FenceDevice + ?Sized> FenceDevice for Arc<T> {
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn execute(&self, operation: Operation, done: Done) {
        (**self).execute(operation, done);
    }

    fn cancel(&self, attempt: AttemptId) {
        (**self).cancel(attempt);
    }

    fn confirm(&self, node: NodeId, who: &str) -> bool {
        (**self).confirm(node, who)
    }
}
