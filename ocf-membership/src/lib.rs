//! Agreed cluster membership: views, quorum and the primary partition.
//!
//! [`Consensus`] is a sans-IO core ([`pils::Layer`]): it takes what node communication reports ([`Input`]) and tells
//! what to send, to write and to announce ([`Output`]). Nodes that can all talk to each other, and that together have
//! a quorum, agree on numbered [`View`]s; each view follows from the one before, and no two differ under one number.
//! A primary acts under a lease, so that an old one has certainly stopped before a new one begins.
//!
//! * [`Config`] says who may be a member, how many votes a primary needs ([`QuorumPolicy`]) and the times.
//! * [`Event`] is what the layers above see: `Installed`, `Suspended`, `Resumed`, `NonPrimary`.
//! * [`Membership`] is what a layer above may rely on, whoever agrees on the views: this crate, or a running corosync.
//! * The protocol, its messages, timers, limits and deviations: PROTOCOL.md of this crate.
//! * Feature `testing`: conformance suites for membership providers, quorum policies, criteria and tie-breakers, and bugs that can be
//!   put back.
#![forbid(unsafe_code)]

pub mod arbiter;
mod clique;
mod config;
mod consensus;
mod criterion;
pub mod disk;
#[cfg(feature = "driver")]
pub mod driver;
mod error;
mod event;
pub mod facade;
mod lease;
mod level;
mod links;
pub mod partitionable;
mod provider;
mod quorum;
mod record;
mod stats;
#[cfg(feature = "testing")]
pub mod testing;
mod tie;
mod view;
mod wire;

pub use config::{BlankRecord, Config, ConfigError, Durability, NODES_MAX};
#[cfg(feature = "testing")]
pub use consensus::Sabotage;
pub use consensus::{Consensus, Removal, Snapshot};
pub use criterion::{Coordinator, Criterion, Mesh, Star, StaticList, criterion_by_name};
pub use error::{NewError, OverrideError, RecordError, VotesError};
pub use event::{Contact, Event, Input, Output, PersistToken};
pub use level::{LEVEL_MAX, Levels};
pub use provider::{Membership, ViewPromises};
pub use quorum::{
    AutoTieBreaker, BySite, EvenSplit, Majority, NodeVotes, QuorumPolicy, Rules, Standing, StaticThreshold,
    TieNode, TwoNode, Unanimous, With, policy_by_name, standing,
};
pub use stats::{DropReason, Stats};
pub use tie::{Claim, Evidence, Grant, GrantRegister, TieBreaker, Verdict};
pub use view::{
    Ballot, Cause, ChangeReason, Lag, Member, NonPrimary, OutsidePolicy, Proposal, UNPROVEN_MAX, View,
    ViewNumber,
};
