//! Locks that outlived their owner, as values of the local interface.

use super::{WireKey, mode};
use ocf_dlm::ClientId;
use ocf_dlm::wire::{OrphanLock, Outcome, REPORTED_MAX};
use serde::{Deserialize, Serialize};

/// The end of one of the program's owners. The answer: how many locks it had.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndOwner(pub(crate) u32);

/// The end of orphans: of one client of the node, or of all. The answer: how many went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Purge(pub(crate) Option<u32>);

/// The orphans of the node that a program may know of, and how many more there are.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orphans(Vec<Orphan>, u32);

#[derive(Debug, Serialize, Deserialize)]
struct Orphan {
    lock: u64,
    client: u32,
    key: WireKey,
    mode: u8,
    /// In milliseconds.
    age: u64,
}

impl Orphans {
    pub(crate) fn of(all: &[OrphanLock]) -> Self {
        let orphan = |orphan: &OrphanLock| Orphan {
            lock: orphan.lock,
            client: orphan.client.raw(),
            key: WireKey::of(&orphan.key),
            mode: orphan.mode.raw(),
            age: orphan.age_ms.min(i64::MAX.unsigned_abs()),
        };
        let more = all.len().saturating_sub(REPORTED_MAX);
        Self(all.iter().take(REPORTED_MAX).map(orphan).collect(), u32::try_from(more).unwrap_or(u32::MAX))
    }

    /// `None` if it has no meaning.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        let orphan = |orphan: Orphan| {
            Some(OrphanLock {
                lock: orphan.lock,
                client: ClientId::new(orphan.client),
                key: orphan.key.key()?,
                mode: mode(orphan.mode)?,
                age_ms: orphan.age,
            })
        };
        let Self(all, more) = self;
        Some(Outcome::Orphans { locks: all.into_iter().map(orphan).collect::<Option<_>>()?, more })
    }
}
