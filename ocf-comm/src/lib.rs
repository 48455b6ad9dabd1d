//! Encrypted, reliable communication between the nodes of a cluster, and the detection of their failure.
//!
//! * [`Endpoint`]: the protocol, as a sans-IO core: circuits over one or several paths, and the failure detector.
//!   Its documentation shows the loop that runs one.
//! * [`Config`]: its limits and times; [`Config::check`] names every mistake at once.
//! * [`Event`], [`SendError`]: what the layer above hears. [`Connectivity`]: what it needs, as a trait.
//! * [`rpc`]: methods by name, and calls between nodes.
//! * `local` (feature `driver`): other processes on the machine.
//! * `http` (feature `http`): XML-RPC for administration tools. `tokio` (feature `tokio`): streams and futures.
//! * `medium` (feature `driver`): what carries the datagrams, as a seam, with UDP unicast, multicast, broadcast, serial lines
//!   and memory behind it.
//! * [`ping`]: hosts outside the cluster, watched by ICMP echo.
//! * [`crypto`]: the seam for key agreement, and [`Secrets`].
//!
//! The wire format, the timers, the invariants and the tests that show them are in `PROTOCOL.md` of this crate; those
//! of calls and of local programs in `RPC.md`.
#![forbid(unsafe_code)]

mod circuit;
mod codec;
mod config;
mod connectivity;
pub mod crypto;
mod detector;
mod discovery;
#[cfg(feature = "driver")]
pub mod driver;
mod endpoint;
mod event;
#[cfg(any(test, fuzzing, feature = "testing"))]
pub mod fuzzing;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "driver")]
pub mod local;
#[cfg(feature = "driver")]
pub mod medium;
mod memory;
mod path;
pub mod ping;
pub mod rpc;
mod stats;
mod suite;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(feature = "tokio")]
pub mod tokio;
mod wire;

#[cfg(feature = "testing")]
pub use circuit::Sabotage;
pub use codec::{PacketCodec, codecs};
pub use config::{Config, ConfigError, ConfigErrors, LaneConfig, PeerConfig, Preset, Timers};
pub use connectivity::{Connectivity, PeerStatus, SendError};
pub use crypto::{Cipher, ClusterKey, KeyError, KeyId, KeyRing, KeyStatus, Protection, Secrets};
pub use discovery::DiscoveryConfig;
pub use endpoint::Endpoint;
pub use event::{Channel, DownReason, Event, Input, Lane, Output, PathId, Received, Refusal, Transmit};
pub use memory::{AttachError, MemoryHub, MemoryLimits, MemoryNode};
pub use path::{Change, ChangeError, PathPolicy, PathReason, PathState, PathStatus};
pub use stats::{DropReason, Stats};
pub use suite::Plugins;
