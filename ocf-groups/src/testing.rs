//! Checkers for what the groups promise: they judge a [`History`] that a simulator wrote down. And [`check_groups`], the conformance
//! suite for those who write a [`GroupProvider`](crate::GroupProvider), which has its histories judged by them.
//!
//! Each promise (V1 to V11 of `PROTOCOL.md`) has a file of its own. All are linear in the history, up to logarithms.

mod delivered_or_left;
mod fifo;
mod fifo_causal;
mod history;
mod membership;
mod no_creation;
mod no_gaps;
mod partitions;
mod providers;
mod safe;
mod stability;
mod state;
mod total_order;
mod view_barrier;
mod view_synchrony;

pub use history::{Entry, History, Log, Violation};
pub use partitions::{Partitions, check_partitions};
pub use providers::{check_groups, explore_groups};
pub use stability::{Held, buffers_are_freed_only_when_all_hold};

/// Judges a finished run: every checker, first violation wins. V8 counts only if `quiescent`: the faults stopped, and
/// everything had the time to finish.
///
/// # Errors
/// The promise that was broken, and where.
pub fn check(history: &History, quiescent: bool) -> Result<(), Violation> {
    total_order::check(history)?;
    no_creation::check(history)?;
    view_synchrony::check(history)?;
    safe::check(history)?;
    fifo_causal::check(history)?;
    fifo::check(history)?;
    no_gaps::check(history)?;
    view_barrier::check(history)?;
    state::check(history)?;
    membership::check(history)?;
    if quiescent { delivered_or_left::check(history) } else { Ok(()) }
}
