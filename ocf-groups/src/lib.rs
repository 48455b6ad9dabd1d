//! Process groups with virtual synchrony.
#![forbid(unsafe_code)]

mod config;
mod error;
mod event;
mod groups;

pub use config::Config;
pub use error::{GROUP_NAME_MAX, JoinError, LeaveError, OfferError};
pub use event::{Event, Guarantee, Input, MemberId, Output, Position, SendError};
pub use groups::Groups;
