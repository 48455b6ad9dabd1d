//! Groups for programs beside a node. The design is in `docs/groups.md`.

mod client;
mod member;
pub(crate) mod wire;

pub use client::{GroupClient, GroupError, GroupNews};
