//! High-availability clusters from parts.
#![forbid(unsafe_code)]

mod event;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stack;
mod store;

pub use event::{NodeEvent, Numbered};
pub use store::{FileStore, RecordStore};
