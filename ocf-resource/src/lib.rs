//! Resource agents, their executor and the cluster resource manager.
#![forbid(unsafe_code)]

mod agent;
mod config;
#[cfg(feature = "driver")]
pub mod driver;
mod event;
pub mod executor;
mod manager;
mod message;
mod metadata;
pub mod plan;
mod snapshot;
mod state;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use agent::{
    Action, AgentClass, AgentError, AgentName, AgentNameError, Agents, Canceller, Done, MetadataDone,
    OcfCode, Operation, OperationResult, Outcome, ResourceAgent, Severity, UnknownAction,
};
pub use config::{Config, GroupConfig, PartitionPolicy, ResourceConfig, StartFailure, StopFailure};
pub use event::{
    Blocked, Command, CommandError, Decision, Departed, Event, FenceCause, FenceOutcome, Ineligible, Input,
    Output, Why,
};
pub use manager::Manager;
pub use metadata::{METADATA_MAX, Metadata, MetadataError, Parameter, SupportedAction};
pub use state::State;
pub use status::{
    FailureStatus, GroupStatus, LocalStatus, NodeStatus, ResourceState, ResourceStatus, Status,
};
