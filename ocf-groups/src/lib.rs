//! Process groups with virtual synchrony.
//!
//! [`Groups`] is a sans-IO core: it takes messages of peers and the word of membership, and returns what to send and what
//! to tell the application. All groups of a cluster share one ordered stream. What is promised, the messages, the
//! limits and the deviations from the design are in `PROTOCOL.md`.
//!
//! * [`Guarantee::Agreed`]: one order for all. [`Guarantee::Safe`]: and a quorum holds it before anyone delivers it.
//! * Members that go from one view into the next together deliver the same messages between them.
//! * A joiner gets the group's state as of its join ([`Event::StateWanted`], [`Event::State`]); nobody else waits.
//! * Back-pressure: [`SendError::Full`], then [`Event::Writable`].
//!
//! [`GroupProvider`] is what runs by itself: [`AgreedGroups`] over any node communication, or [`corosync`] over a corosync that runs
//! already. What stands on groups asks for a [`GroupService`], and runs over either.
//!
//! On top: [`Replicated`] runs a state machine as a group; [`voting`], [`barrier`], [`transaction`], [`checkpoint`],
//! [`channel`] and [`queue`] are such machines; [`GroupQuorum`] says whether enough nodes run a group.
//! [`relay`] passes messages on between clusters that overlap.
#![forbid(unsafe_code)]

mod agreed;
pub mod barrier;
pub mod channel;
pub mod checkpoint;
mod config;
pub mod corosync;
#[cfg(feature = "driver")]
pub mod driver;
mod error;
mod event;
mod flush;
mod groups;
mod pieces;
pub mod queue;
mod quorum;
pub mod relay;
pub mod replicated;
mod service;
mod stats;
mod stream;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transaction;
pub mod voting;
mod wire;

pub use agreed::{AgreedGroups, WriteRecord};
pub use config::{Config, Patience, SlowMembers};
pub use error::{GROUP_NAME_MAX, JoinError, LeaveError, OfferError};
pub use event::{Event, Guarantee, Input, MemberId, Output, Position, SendError};
pub use groups::Groups;
#[cfg(feature = "testing")]
pub use groups::Sabotage;
pub use quorum::GroupQuorum;
pub use replicated::{Machine, Replicated};
pub use service::{GroupPromises, GroupProvider, GroupService};
pub use stats::{Drops, MESSAGE_COST, Sending, Stats, Window};
