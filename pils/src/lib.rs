//! The glue of the Open Clustering Framework: the vocabulary and the contract that every layer keeps.
//!
//! * [`Instant`], [`NodeId`], [`Incarnation`] and [`NodeInstance`]: the words all layers share.
//! * [`Layer`]: how a protocol is written: no clock, no socket, no thread, no randomness but a seed.
//! * [`Rng`]: the seeded generator that a layer is given.
//! * [`TimerTable`]: the few named timers of a state machine.
//! * [`ConfigErrors`]: everything that is wrong with a configuration, at once.
//! * [`Value`] and [`ValueCodec`]: what configuration, control messages and calls are made of, and how it becomes bytes.
//! * [`plugin`]: named implementations of a trait, found at run time: [`Universe`] and [`Registry`].
//! * [`topic`]: events by topic, for subscribers that may be slow.
//! * `process`, with the feature of that name: runs child processes and reports how they ended.
//! * [`wire`]: reading and writing bytes that came from, or go to, another node.
#![forbid(unsafe_code)]

pub mod codec;
mod config;
mod identity;
mod instant;
mod layer;
pub mod plugin;
#[cfg(feature = "process")]
pub mod process;
mod rng;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
pub mod topic;
pub mod value;
pub mod wire;

pub use codec::ValueCodec;
pub use config::{ConfigError, ConfigErrors};
pub use identity::{Incarnation, NodeId, NodeInstance};
pub use instant::Instant;
pub use layer::Layer;
pub use plugin::{Registry, Universe};
pub use rng::Rng;
pub use timer::TimerTable;
pub use value::Value;
