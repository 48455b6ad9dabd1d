//! Bad days that a cluster survives, on real nodes over loopback: one file per kind of day.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one thing among many")]

mod agents;
mod back_pressure;
mod configuration;
mod crowds;
mod datagrams;
mod fencing;
mod keys;
mod partitions;
mod paused;
#[path = "../relays/mod.rs"]
mod relays;
mod same_id;
mod slow;
mod support;
