//! Process groups with virtual synchrony.
#![forbid(unsafe_code)]

mod config;
mod error;
mod event;
mod flush;
mod groups;
mod stats;
mod stream;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use config::Config;
pub use error::{GROUP_NAME_MAX, JoinError, LeaveError, OfferError};
pub use event::{Event, Guarantee, Input, MemberId, Output, Position, SendError};
pub use groups::Groups;
#[cfg(feature = "testing")]
pub use groups::Sabotage;
pub use stats::{Drops, Stats, Window};
