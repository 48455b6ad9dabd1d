//! A lock manager for programs, nodes and clusters: advisory locks on named resources.
//!
//! Six modes ([`Mode`]), conversion between them, a value block that travels with the locks of a resource, notices to
//! who is in the way, a fencing token with every grant. States, rules, limits and deviations are in `PROTOCOL.md`.
//!
//! * [`LocalLocks`] gives [`Lockspace`]s in one process, without any cluster; [`Client`] owns locks; [`LockGuard`] is one.
//! * [`LockManager`] is what those offer and the nodes of a cluster offer as well: for programs that run on both.
//! * [`LockGroup`] holds several locks of any of them, all or none; [`saf`] is the lock service of the Service Availability Forum over any.
//! * Beneath them are the raw calls of VMS ([`Client::enq`], [`Client::deq`]), for programs that are ported.
//! * [`range`] has byte ranges as `fcntl` locks them, [`cluster::Engine::lock_range`] those of a cluster.
//! * [`Shard`] is the sans-IO core: the queues of the resources whose names hash to it, and every rule about them.
//! * [`cluster::Engine`] is the sans-IO lock manager of one node among others, over whatever agrees on views and carries
//!   messages; [`directory`] says which node knows where a resource is mastered, [`wire`] what they say to each other.
//!
//! ```
//! use ocf_dlm::{Config, LocalLocks, LockError, Mode};
//!
//! let space = LocalLocks::default().open("accounts", Config::default())?;
//! let (alice, bob) = (space.client()?, space.client()?);
//! let mut mine = alice.lock("savings", Mode::Ex)?;
//! assert_eq!(bob.try_lock("savings", Mode::Pr).unwrap_err(), LockError::WouldBlock);
//! mine.downgrade(Mode::Pr, None)?;
//! let theirs = bob.lock("savings", Mode::Pr)?;
//! println!("show this to the bank: {}", theirs.token()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod client;
pub mod cluster;
mod config;
pub mod cycle;
pub mod deadlock;
pub mod directory;
mod domain;
pub mod driver;
mod flags;
mod group;
mod guard;
mod identity;
mod inbox;
mod index;
mod local;
mod lockspace;
mod manager;
mod mode;
mod name;
mod object;
mod pending;
pub mod range;
mod recovery;
mod request;
mod resource;
pub mod saf;
mod shard;
mod slab;
mod status;
mod table;
#[cfg(feature = "conformance")]
pub mod testing;
#[cfg(feature = "tokio")]
pub mod tokio;
mod value;
mod wait;
pub mod wire;

pub use client::{Ask, Client, LockError, Wait};
pub use config::{Config, ConversionOrder};
pub use domain::{Collecting, Collection, RecoveryDomain};
pub use flags::{Flags, Remarks};
pub use group::{GroupLock, LockGroup};
pub use guard::{Converted, LockGuard, LostLock, PendingConversion};
pub use identity::{ClientId, FencingToken, LockId, NodeSlot, Owner};
pub use inbox::Notice;
pub use local::LocalLocks;
pub use lockspace::{Clock, Lockspace, OpenError, Outbox};
pub use manager::{
    ConvertedLock, HeldLock, LockConversion, LockManager, LockOwner, LockRequest, LockTerms, SPACE_NAME_MAX,
    SeenLock, Wanted, check_names,
};
pub use mode::{Mode, Transfer};
pub use name::{NAME_MAX, NameError, ResourceName, hash};
pub use object::{ObjectRanges, RangeRequest, Turn, Turns};
pub use pending::Pending;
pub use request::{Answer, Blocking, Completion, Operation, Output, Request, Routed, RoutedOperation, Terms};
pub use resource::{Home, Queue};
pub use shard::{Holder, LOCKS_PER_RESOURCE_MAX, LockState, NumberOp, ResourceState, Shard, Verdict};
pub use status::{RequestError, Status};
pub use value::{VALUE_MAX, ValueBlock};
pub use wait::WaitReason;
