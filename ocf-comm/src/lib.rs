//! Encrypted, reliable communication between the nodes of a cluster, and the detection of their failure.
#![forbid(unsafe_code)]

mod connectivity;
#[cfg(feature = "driver")]
pub mod driver;
mod event;

pub use connectivity::{Connectivity, PeerStatus, SendError};
pub use event::{Channel, DownReason, Event, Input, Lane, Output, PathId, Received, Refusal, Transmit};
