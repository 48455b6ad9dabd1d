//! A lock manager for programs, nodes and clusters: advisory locks on named resources.
//!
//! Six modes ([`Mode`]), conversion between them, a value block that travels with the locks of a resource, notices to
//! who is in the way, a fencing token with every grant. States, rules, limits and deviations are in `PROTOCOL.md`.
//!
//! * [`Shard`] is the sans-IO core: the queues of the resources whose names hash to it, and every rule about them.
#![forbid(unsafe_code)]

mod config;
mod flags;
mod identity;
mod index;
mod mode;
mod name;
mod request;
mod resource;
mod shard;
mod slab;
mod status;
mod value;

pub use config::{Config, ConversionOrder};
pub use flags::{Flags, Remarks};
pub use identity::{ClientId, FencingToken, LockId, NodeSlot, Owner};
pub use mode::{Mode, Transfer};
pub use name::{NAME_MAX, NameError, ResourceName, hash};
pub use request::{Answer, Blocking, Completion, Operation, Output, Request, Routed, RoutedOperation, Terms};
pub use resource::{Home, Queue};
pub use shard::{Holder, LOCKS_PER_RESOURCE_MAX, LockState, ResourceState, Shard, Verdict};
pub use status::{RequestError, Status};
pub use value::{VALUE_MAX, ValueBlock};
