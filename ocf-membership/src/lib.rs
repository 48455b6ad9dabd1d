//! Agreed cluster membership: views, quorum and the primary partition.
#![forbid(unsafe_code)]

mod event;
mod view;

pub use event::{Event, Input, Output, PersistToken};
pub use view::{Ballot, Cause, ChangeReason, Member, NonPrimary, Proposal, View, ViewNumber};
