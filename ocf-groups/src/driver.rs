//! What touches the system, with feature `driver`: what a [`TransactionSite`](crate::transaction::TransactionSite) wants written, where it survives a crash.

mod journal;

pub use journal::{FileJournal, JournalError};
