//! Fencing: devices, confirmed outcomes, evidence
#![forbid(unsafe_code)]

pub mod agent;
mod check;
mod config;
mod device;
#[cfg(feature = "driver")]
pub mod driver;
mod event;
mod fencer;
mod outcome;
mod request;
mod script;
#[cfg(feature = "testing")]
pub mod testing;

pub use config::{Config, DeviceConfig, Every, Parameters, TargetConfig, Targets};
pub use device::{AttemptId, Capabilities, DeviceReport, DeviceResult, Done, FenceDevice, Operation};
pub use event::{Event, Input, Output, Run, Withdrawal};
pub use fencer::{Acceptance, Authority, Fencer, NotStanding, RequestError};
pub use outcome::{Cause, Evidence, Failure, FenceAction, FenceRequest, Outcome, ReadBack, UnknownReason};
pub use request::{History, Record, State, Stats, Status};
pub use script::{Plan, Script, ScriptError, SimulatedDevice, Step};
