//! Process groups with virtual synchrony.
#![forbid(unsafe_code)]

mod event;

pub use event::{Event, Guarantee, Input, MemberId, Output, Position, SendError};
