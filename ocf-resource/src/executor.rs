//! Runs the operations of one node, each resource's one after the other.

use crate::{Operation, OperationResult};
use core::time::Duration;
use std::sync::Arc;

/// Names an operation that was asked for. Chosen by who asks; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OperationId(pub u64);

/// Names one run of an agent. Chosen by the executor; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RunId(pub u64);

/// Limits and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Agents that run at the same time. Default 8, at least 1. Stops do not wait for a place.
    pub parallel_max: usize,
    /// How much longer than its own timeout an operation is waited for, in case the driver does not report.
    /// Default 10 s: above the driver's time from asking a process to end to killing it.
    pub margin: Duration,
    /// Operations that wait for one resource. Default 16; one more is refused as cancelled.
    pub queue_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { parallel_max: 8, margin: Duration::from_secs(10), queue_max: 16 }
    }
}

/// What is asked of the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Run an operation once: a start, a stop, a probe. Answered by one [`Event::Finished`]. Waits for what runs on
    /// the same resource, except that a start or stop cancels a monitor, and drops what waits.
    Run {
        /// Names it in the answer.
        id: OperationId,
        /// What to do.
        operation: Operation,
    },
    /// Run a monitor again and again. Answered by [`Event::Failed`] each time it fails. Ends with the next start or
    /// stop of the resource.
    Watch {
        /// Names it in the answers.
        id: OperationId,
        /// What to do; `interval` is set.
        operation: Operation,
    },
    /// Stop a resource at once: cancel even a start that runs. Otherwise as `Run`.
    StopNow {
        /// Names it in the answer.
        id: OperationId,
        /// The stop.
        operation: Operation,
    },
    /// Begin no start until [`Request::Release`].
    Hold,
    /// Starts may begin again.
    Release,
    /// Drop every start that waits and every monitor, running or not. What was dropped is answered as cancelled.
    Drop,
}

/// What arrives at the executor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// From above.
    Request(Request),
    /// From the driver: a run ended.
    Done {
        /// Which.
        run: RunId,
        /// How.
        result: OperationResult,
    },
}

/// What the executor wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Have an agent carry out an operation, and answer with [`Input::Done`].
    Run {
        /// Names it in the answer.
        run: RunId,
        /// What to do.
        operation: Operation,
    },
    /// End a run early. It still answers.
    Cancel {
        /// Which.
        run: RunId,
    },
    /// Tell the layer above.
    Event(Event),
}

/// What the executor tells the layer above.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A one-time operation ended.
    Finished {
        /// Which.
        id: OperationId,
        /// The resource.
        resource: Arc<str>,
        /// How it ended.
        result: OperationResult,
    },
    /// A recurring monitor found the resource not running, or did not answer.
    Failed {
        /// Which monitor.
        id: OperationId,
        /// The resource.
        resource: Arc<str>,
        /// What it found.
        result: OperationResult,
    },
}
