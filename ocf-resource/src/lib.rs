//! Resource agents, their executor and the cluster resource manager.
//!
//! * Agents: [`ResourceAgent`] is one, [`AgentClass`] finds those of a family, [`Agents`] holds the classes. With the
//!   feature `driver`: OCF agents as child processes, agents that are parts of this program, and the host that runs them.
//! * [`executor`]: runs the operations of one node, each resource's one after the other, and its recurring monitors.
//! * [`Manager`]: decides with the managers of the other nodes what runs where. Sans-IO: fed by an ordered stream.
//! * [`plan`]: the decision itself, a pure function.
//!
//! Agents need no cluster:
//!
#![cfg_attr(feature = "driver", doc = "```")]
#![cfg_attr(not(feature = "driver"), doc = "```ignore")]
//! use ocf_resource::driver::{RustClass, Stateful};
//! use ocf_resource::{Action, AgentClass, Operation, Outcome};
//! use std::sync::{Arc, mpsc};
//!
//! let agent = RustClass::new().with("stateful", Arc::new(Stateful::new())).find(&"rust:stateful".parse()?)?;
//! let start = Operation::new("db", "rust:stateful".parse()?, Action::Start);
//! let (say, said) = mpsc::channel();
//! let _canceller = agent.begin(&start, Box::new(move |result| say.send(result).expect("the receiver waits")));
//! assert_eq!(said.recv()?.outcome, Outcome::Ok);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `PROTOCOL.md` has the states, messages, timers, limits and deviations.
#![forbid(unsafe_code)]

mod action;
mod agent;
pub mod apphb;
mod blocked;
mod book;
mod config;
mod configure;
#[cfg(feature = "driver")]
pub mod driver;
mod event;
pub mod executor;
mod explain;
mod health;
mod manager;
mod message;
mod metadata;
mod parameters;
pub mod plan;
mod score;
mod snapshot;
mod state;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use action::{Action, OcfCode, Role, Severity, UnknownAction};
pub use agent::{
    AGENT_CLASS, AgentClass, AgentError, AgentName, AgentNameError, Agents, Canceller, Done, MetadataDone,
    Operation, OperationResult, Outcome, ResourceAgent,
};
pub use blocked::{Blocked, Ineligible};
pub use config::{
    AccessNeed, Config, GroupConfig, MonitorConfig, PartitionPolicy, Preference, QuorumConfig, QuorumLoss,
    ReachConfig, ResourceConfig, StartFailure, StopFailure,
};
pub use configure::{ConfigurationError, Kept};
pub use event::{
    Command, CommandError, Decision, Departed, Event, FenceCause, FenceOutcome, Input, Output, Why,
};
pub use explain::{Explanation, NodeScore, OldCopy, WayOut, explain};
pub use health::{Health, HealthStrategy};
pub use manager::Manager;
pub use metadata::{METADATA_MAX, Metadata, MetadataError, Parameter, SupportedAction};
pub use score::{Promotion, Score, ScoreError};
pub use state::State;
pub use status::{
    FailureStatus, GroupStatus, LocalStatus, NodeStatus, QuorumStatus, ResourceState, ResourceStatus, Status,
};
