//! Queues on their way to another master.

use super::{Entry, Holder, Queues};
use crate::cluster::range_queue::EntryRanges;
use crate::wire::{ClaimedLock, MovedLock, MovedResource, Name};
use pils::Instant;

impl Queues {
    /// Everything, for the next master.
    pub(crate) fn moved(&self, path: &Name) -> MovedResource {
        let moved = |entry: &Entry| MovedLock {
            node: entry.who.node,
            lock: ClaimedLock {
                lock: entry.who.lock,
                op: entry.op,
                client: entry.client,
                transaction: entry.transaction,
                flags: entry.flags,
                held: entry.held,
                asked: entry.asked,
                place: Some(entry.place),
                age_ms: u64::try_from(self.now.saturating_sub(entry.since))
                    .unwrap_or_default()
                    .min(pils::wire::VARINT_MAX),
                ranges: entry
                    .ranges
                    .as_ref()
                    .map(|ranges| Box::new((ranges.held.clone(), ranges.asked.clone()))),
            },
            notified: entry.notified,
            demoted: entry.demoted,
            refused: entry.refused,
        };
        MovedResource {
            path: Name::clone(path),
            value: self.value(),
            value_invalid: self.value_invalid,
            places: (self.next_place, self.first_place),
            locks: self.entries().map(moved).collect(),
        }
    }

    /// What [`Queues::moved`] says.
    pub(crate) fn taken(moved: &MovedResource, value_length: usize, now: Instant) -> Self {
        let mut queues = Self::new(value_length);
        queues.at(now);
        queues.value = moved.value.block.resized(value_length);
        (queues.value_sequence, queues.value_invalid) = (moved.value.sequence, moved.value_invalid);
        (queues.next_place, queues.first_place) = moved.places;
        for MovedLock { node, lock, notified, demoted, refused } in &moved.locks {
            let ranges = lock.ranges.as_deref();
            let entry = Entry {
                who: Holder { node: *node, lock: lock.lock },
                client: lock.client,
                transaction: lock.transaction,
                flags: lock.flags,
                held: lock.held,
                asked: lock.asked,
                op: lock.op,
                place: lock.place.unwrap_or_default(),
                since: queues.now.saturating_sub(i64::try_from(lock.age_ms).unwrap_or(i64::MAX)),
                notified: *notified,
                demoted: *demoted,
                refused: *refused,
                ranges: ranges
                    .map(|(held, asked)| Box::new(EntryRanges { held: held.clone(), asked: asked.clone() })),
            };
            match (entry.held, entry.asked) {
                (_, None) => queues.granted.push(entry),
                (Some(_), Some(_)) => queues.converting.push(entry),
                (None, Some(_)) => queues.waiting.push(entry),
            }
        }
        queues
    }
}
