//! Agreed cluster membership: views, quorum and the primary partition.
#![forbid(unsafe_code)]

mod clique;
mod config;
mod consensus;
mod error;
mod event;
mod lease;
mod quorum;
mod record;
mod stats;
mod view;
mod wire;

pub use config::{BlankRecord, Config, ConfigError, Durability, NODES_MAX};
#[cfg(feature = "testing")]
pub use consensus::Sabotage;
pub use consensus::{Consensus, Snapshot};
pub use error::{NewError, RecordError};
pub use event::{Event, Input, Output, PersistToken};
pub use quorum::{Majority, NodeVotes, QuorumPolicy, StaticThreshold, Unanimous, policy_by_name};
pub use stats::{DropReason, Stats};
pub use view::{Ballot, Cause, ChangeReason, Member, NonPrimary, Proposal, View, ViewNumber};
