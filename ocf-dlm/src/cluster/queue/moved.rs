//! Queues on their way to another master, whole or told by those who have locks in them.

use super::{Entry, Holder, Queues, Rare};
use crate::Flags;
use crate::cluster::range_queue::EntryRanges;
use crate::wire::{Claim, ClaimedLock, MovedLock, MovedResource, Name};
use pils::{Instant, NodeInstance};

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
                ranges: entry.ranges().map(|ranges| Box::new((ranges.held.clone(), ranges.asked.clone()))),
                signal: entry.signal(),
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
                rare: rare(lock),
            };
            match (entry.held, entry.asked) {
                (_, None) => queues.granted.push(entry),
                (Some(_), Some(_)) => queues.converting.push(entry),
                (None, Some(_)) => queues.waiting.push(entry),
            }
        }
        queues
    }

    /// Takes over claims of all nodes: granted, then converting, then waiting in their old order. Nothing is granted.
    pub(crate) fn restore(&mut self, claims: &[(NodeInstance, Claim)]) {
        let mut all: Vec<Entry> = Vec::new();
        for (node, claim) in claims {
            all.extend(claim.locks.iter().map(|lock| Entry {
                who: Holder { node: *node, lock: lock.lock },
                client: lock.client,
                transaction: lock.transaction,
                flags: lock.flags,
                held: lock.held,
                asked: lock.asked,
                op: lock.op,
                place: lock.place.unwrap_or(i64::MAX),
                since: self.now.saturating_sub(i64::try_from(lock.age_ms).unwrap_or(i64::MAX)),
                notified: 0,
                demoted: false,
                refused: None,
                rare: rare(lock),
            }));
        }
        all.sort_by_key(|e| (e.place, e.who));
        for mut entry in all {
            self.first_place = self.first_place.min(entry.place);
            if entry.place == i64::MAX {
                entry.place = self.next_place;
            }
            self.next_place = self.next_place.max(entry.place.saturating_add(1));
            match (entry.held, entry.asked) {
                (_, None) => self.granted.push(entry),
                (Some(_), Some(_)) => self.converting.push(entry),
                (None, Some(_)) => self.waiting.push(entry),
            }
        }
        self.restore_value(claims);
    }

    /// A lock above CR that was given the value block keeps it; otherwise the newest copy is kept, marked as not valid.
    fn restore_value(&mut self, claims: &[(NodeInstance, Claim)]) {
        let certain = claims.iter().find(|(_, c)| c.value_certain && c.value.is_some());
        let newest = claims.iter().filter_map(|(_, c)| c.value).max_by_key(|v| v.sequence);
        let chosen = certain.and_then(|(_, c)| c.value).or(newest);
        if let Some(value) = chosen {
            self.value = value.block.resized(self.value.as_bytes().len());
            self.value_sequence = value.sequence;
        }
        if certain.is_none_or(|(_, c)| c.value_invalid) {
            let mut locks = claims.iter().flat_map(|(_, claim)| &claim.locks).peekable();
            let apart = locks.peek().is_some() && locks.all(|lock| lock.flags.has(Flags::NODOMAIN));
            self.invalidate(!apart);
        } else {
            self.value_invalid = false;
        }
    }
}

/// What is told of a lock that few have.
fn rare(lock: &ClaimedLock) -> Rare {
    let ranges = lock.ranges.as_deref();
    let ranges = ranges.map(|(held, asked)| EntryRanges { held: held.clone(), asked: asked.clone() });
    // Who waits for nothing has none, whatever its node says.
    Rare::new(ranges, if lock.asked.is_some() { lock.signal } else { 0 })
}
