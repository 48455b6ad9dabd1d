//! Fencing: devices, confirmed outcomes, evidence
#![forbid(unsafe_code)]

mod device;
mod event;
mod outcome;

pub use device::{AttemptId, Capabilities, DeviceReport, DeviceResult, Done, FenceDevice, Operation};
pub use event::{Event, Input, Output, Run, Withdrawal};
pub use outcome::{Cause, Evidence, Failure, FenceAction, FenceRequest, Outcome, ReadBack, UnknownReason};
