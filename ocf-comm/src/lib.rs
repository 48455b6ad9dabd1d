//! Encrypted, reliable communication between the nodes of a cluster, and the detection of their failure.
#![forbid(unsafe_code)]

mod circuit;
mod config;
mod connectivity;
pub mod crypto;
mod detector;
#[cfg(feature = "driver")]
pub mod driver;
mod endpoint;
mod event;
mod memory;
mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wire;

pub use config::{Config, ConfigError, ConfigErrors, LaneConfig, PeerConfig, Preset, Timers};
pub use connectivity::{Connectivity, PeerStatus, SendError};
pub use crypto::Secrets;
pub use endpoint::Endpoint;
pub use event::{Channel, DownReason, Event, Input, Lane, Output, PathId, Received, Refusal, Transmit};
pub use memory::{AttachError, MemoryHub, MemoryLimits, MemoryNode};
pub use stats::{DropReason, Stats};
