use crate::rpc::{Body, Fault};
use crate::{DownReason, Lane, SendError};
use core::time::Duration;
use pils::{Instant, NodeInstance};

/// A call that this node made; unique in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub(super) u64);

/// A call that another node made and that waits for an answer; unique in this node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// Whom to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This one.
    One(NodeInstance),
    /// Each of these; one completion for all, with one outcome for each.
    Many(Vec<NodeInstance>),
    /// One of these: the one with the fewest calls of ours outstanding that takes the message. Empty: any that is up.
    Any(Vec<NodeInstance>),
}

/// What is expected back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Need {
    /// Nothing: the call is complete when it is sent.
    Nothing,
    /// An answer if there is something to say: neither a deadline nor a decline is a failure.
    Optional,
    /// An answer.
    #[default]
    Required,
}

/// How to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// What is expected back. Default required.
    pub need: Need,
    /// How long to wait for it, from 1 ms. Default 10 s. Rounded up to whole milliseconds on the wire.
    pub deadline: Duration,
    /// The lane for request and answer. Default small. Calls in one lane to one node arrive in order.
    pub lane: Lane,
    /// For many: complete as soon as so many have answered; the others are cancelled. Default: wait for all.
    pub enough: Option<usize>,
    /// For any: if the node is lost or busy after it was sent the call, call another. Only for calls that may run twice,
    /// once on each of two nodes. Default no.
    pub repeatable: bool,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            need: Need::default(),
            deadline: Duration::from_secs(10),
            lane: Lane::Small,
            enough: None,
            repeatable: false,
        }
    }
}

/// What became of a call at one node.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// It ran and answered.
    Answered(Body),
    /// It was refused, or failed, for the reason in the fault.
    Refused(Fault),
    /// Sent; nothing was to come back.
    Sent,
    /// The answer was optional and there is none.
    Unanswered,
    /// No answer in time. It may have run, and may yet run.
    TimedOut,
    /// The node went down first. It may have run.
    NodeLost(DownReason),
    /// [`Calls::cancel`](super::Calls::cancel), or enough others answered. It may have run.
    Cancelled,
    /// It was never sent and did not run.
    NotSent(SendError),
}

/// A call is complete: exactly one for each call.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Which call.
    pub call: CallId,
    /// Each node and what became of the call there, in the order of the target. For any: the one node that was tried last.
    pub results: Vec<(NodeInstance, Outcome)>,
}

/// What the calls of a node want done.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// A call of this node is complete.
    Completed(Completion),
    /// Run this. If there is a ticket, [answer](super::Calls::answer) it or [decline](super::Calls::decline).
    Request {
        /// `None` if no answer is wanted.
        ticket: Option<Ticket>,
        /// Who calls.
        caller: NodeInstance,
        /// What is to run.
        method: String,
        /// With what.
        body: Body,
        /// When nobody waits for the answer any more, on this node's clock.
        deadline: Instant,
    },
    /// Nobody waits for the answer to this ticket any more: it is void.
    Abandoned(Ticket),
}

/// Bounds of the calls of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls of this node that are not complete, each node of a target counted. Default 4096.
    pub outstanding_max: usize,
    /// Requests of one peer that run or whose answer waits for room. Default 256. More are refused as
    /// [busy](Fault::BUSY).
    pub running_max: usize,
    /// Largest message in bytes, either way, framing included. Default 1 MiB.
    pub message_max: usize,
    /// Longest deadline; a longer one is cut, on either side. Default 10 min.
    pub deadline_max: Duration,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            outstanding_max: 4096,
            running_max: 256,
            message_max: 1 << 20,
            deadline_max: Duration::from_secs(600),
        }
    }
}

/// Why a call was not made; nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// [`CallLimits::outstanding_max`]; wait for completions.
    #[error("{0} calls are outstanding, no more are allowed")]
    TooMany(usize),
    /// [`CallLimits::message_max`].
    #[error("the call takes {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The target names nobody, or one node twice.
    #[error("the target names no node, or one twice")]
    BadTarget,
    /// The method's name is empty or longer than 255 bytes.
    #[error("a method's name has 1 to 255 bytes")]
    BadMethod,
    /// The arguments have no form on the wire.
    #[error("the arguments cannot be written: {0}")]
    Body(#[from] pils::codec::EncodeError),
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallStats {
    /// Requests sent.
    pub requests_sent: u64,
    /// Requests handed up to run.
    pub requests_run: u64,
    /// Answers that completed something.
    pub answers: u64,
    /// Answers to calls that were complete, or never made: dropped.
    pub late_answers: u64,
    /// Requests that came again: dropped.
    pub duplicates: u64,
    /// Requests refused as busy.
    pub busy: u64,
    /// Answers that found no room or no caller: dropped.
    pub answers_dropped: u64,
    /// Messages that are none: dropped.
    pub malformed: u64,
    /// Messages of an incarnation that is not up: dropped.
    pub strangers: u64,
}
