//! High-availability clusters from parts: a node assembled from the crates of the Open Clustering Framework.
//!
//! * [`Node`]: a running node on real sockets, with real agents and real fence devices.
//! * [`Cluster`]: several of them in one process, for examples and tests.
//! * [`stack::Stack`]: the same without I/O, for your own event loop.
//! * `sim` (feature `sim`): whole clusters under virtual time and every fault we know.
//!
//! ```
//! use std::time::Duration;
//! let cluster = ocf::Cluster::builder("doc").local(3)?;
//! let node = cluster.node(0).expect("it was just started");
//! node.join("journal", 1)?;
//! while node.view().is_none() {
//!     node.next_event(Duration::from_millis(100));
//! }
//! assert_eq!(node.view().expect("just seen").members.len(), 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod cluster;
mod config;
mod event;
mod groups;
mod locks;
mod node;
mod services;
#[cfg(feature = "sim")]
pub mod sim;
mod snapshot;
pub mod stack;
mod store;

pub use cluster::{Cluster, ClusterBuilder};
pub use config::{
    ApiAccess, ApiConfig, ApiUser, CipherName, Detection, DiscoveryEntry, GroupUsers, HeartbeatEntry, Key,
    KeyEntry, LockUsers, MailEntry, MediumEntry, NodeConfig, NodeEntry, OutsideConfig, Paths, PingEntry,
    ProtectionName, SelfFencingEntry, TieBreakerEntry,
};
pub use event::{NodeEvent, Numbered, PartitionEvent};
pub use groups::{GroupClient, GroupError, GroupNews};
pub use locks::{
    LockClient, LockCollection, LockDomain, LockGuard, LockOrderError, Locks, LostLock, PendingConversion,
    PendingLock, PendingSubConversion, SubLock,
};
pub use node::{
    AddNodeError, ApiError, Application, Here, Node, NodeBuilder, NotArmedError, PartitionGroups,
    PendingCall, ReloadError, RequestError, StartError,
};
pub use ocf_comm::driver::sentinel::run_if_asked as run_sentinel_if_asked;
pub use services::{Reply, SERVICE_EVENTS_MAX, Service, ServiceError, ServiceEvent};
pub use snapshot::{
    GroupSnapshot, PartitionSnapshot, PathSnapshot, PeerSnapshot, PingHostSnapshot, PingSnapshot, Snapshot,
    Standing, ViewSnapshot,
};
pub use store::{FileStore, RecordStore};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
