//! What there is, as data: locks, resources, who holds, who waits and why.

use super::Shard;
use crate::flags::Flags;
use crate::identity::{FencingToken, LockId, Owner};
use crate::mode::Mode;
use crate::name::ResourceName;
use crate::resource::{Home, Lock, Queue};
use crate::slab::NONE;
use crate::status::RequestError;
use crate::value::ValueBlock;
use core::time::Duration;
use pils::Instant;

/// A lock that holds a mode in the way of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The lock.
    pub lock: LockId,
    /// Whose it is.
    pub owner: Owner,
    /// The mode it holds; `None`: it only waits ahead.
    pub held: Option<Mode>,
}

/// A lock, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockState {
    /// The lock.
    pub lock: LockId,
    /// Whose it is.
    pub owner: Owner,
    /// The resource's name within its parent.
    pub resource: ResourceName,
    /// The lock above it.
    pub parent: Option<LockId>,
    /// How many sublocks it has.
    pub sublocks: u32,
    /// The queue it is in.
    pub queue: Queue,
    /// The mode it holds.
    pub held: Option<Mode>,
    /// The mode it asks for.
    pub asked: Option<Mode>,
    /// The flags of its last operation.
    pub flags: Flags,
    /// Its client is dead, and it waits to be adopted or purged.
    pub orphan: bool,
    /// Its number in the order of queueing.
    pub sequence: u64,
    /// The transaction that it was given.
    pub transaction: Option<u64>,
    /// How long it has waited.
    pub age: Option<Duration>,
    /// If it waits: the locks that hold what excludes it; if none does, the one that waits ahead of it.
    pub blocked_by: Vec<Holder>,
}

/// A resource, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceState {
    /// Its name within its parent.
    pub name: ResourceName,
    /// Where its master copy is.
    pub home: Home,
    /// Nothing is decided for it at present.
    pub frozen: bool,
    /// Its value block.
    pub value: ValueBlock,
    /// The block is not valid.
    pub value_invalid: bool,
    /// How often the block was written.
    pub value_sequence: u64,
    /// The token of its last writer.
    pub token: FencingToken,
    /// Its locks: granted, converting, waiting, outside; each in the queue's order.
    pub locks: Vec<LockState>,
}

impl Shard {
    /// A lock as it is now.
    ///
    /// # Errors
    /// If there is no such lock.
    pub fn lock_state(&self, now: Instant, lock: LockId) -> Result<LockState, RequestError> {
        Ok(self.describe(now, self.place(lock)?))
    }

    /// A root resource as it is now, with its locks, or one below the lock `parent`.
    ///
    /// # Errors
    /// If `parent` is no lock.
    pub fn resource_state(
        &self,
        now: Instant,
        parent: Option<LockId>,
        name: &[u8],
    ) -> Result<Option<ResourceState>, RequestError> {
        let above = match parent {
            Some(parent) => self.locks[self.place(parent)?].resource,
            None => NONE,
        };
        let tag = self.tag(Self::hash(self.seed, name), above, name);
        Ok(self.lookup(tag, above, name).map(|resource| self.describe_resource(now, resource)))
    }

    /// All resources with all locks. O(all).
    #[must_use]
    pub fn dump(&self, now: Instant) -> Vec<ResourceState> {
        self.resources.iter().map(|(at, _)| self.describe_resource(now, at)).collect()
    }

    /// All locks that wait, longest first.
    #[must_use]
    pub fn waiting(&self, now: Instant) -> Vec<LockState> {
        let mut places: Vec<(Instant, u32)> = self.waits.iter().map(|(at, wait)| (wait.since, *at)).collect();
        places.sort_unstable();
        places.into_iter().map(|(_, at)| self.describe(now, at)).collect()
    }

    fn describe_resource(&self, now: Instant, at: u32) -> ResourceState {
        let found = &self.resources[at];
        let queues = [Queue::Granted, Queue::Converting, Queue::Waiting, Queue::Outside];
        let locks = queues.into_iter().flat_map(|queue| found.queued(&self.locks, queue));
        ResourceState {
            name: found.name.clone(),
            home: found.home(),
            frozen: found.frozen,
            value: self.value_of(at),
            value_invalid: found.value_invalid,
            value_sequence: self.values.find(found.value).map_or(0, |value| value.sequence),
            token: found.token,
            locks: locks.map(|lock| self.describe(now, lock)).collect(),
        }
    }

    fn describe(&self, now: Instant, at: u32) -> LockState {
        let lock = &self.locks[at];
        LockState {
            lock: self.id(at),
            owner: lock.owner,
            resource: self.resources[lock.resource].name.clone(),
            parent: Some(lock.parent).filter(|parent| *parent != NONE).map(|parent| self.id(parent)),
            sublocks: lock.children,
            queue: lock.queue,
            held: lock.held,
            asked: lock.asked,
            flags: lock.flags,
            orphan: lock.orphan,
            sequence: lock.sequence,
            transaction: self.transactions.get(&at).copied(),
            age: self.waits.get(&at).map(|wait| now.since(wait.since)),
            blocked_by: self.blockers(at),
        }
    }

    /// Who holds what excludes a waiting lock; if nobody does, who waits ahead of it.
    fn blockers(&self, at: u32) -> Vec<Holder> {
        let Lock { asked, resource, queue, .. } = self.locks[at];
        let (Some(asked), Queue::Converting | Queue::Waiting) = (asked, queue) else { return Vec::new() };
        let found = &self.resources[resource];
        let holder = |at: u32| {
            let Lock { owner, held, .. } = self.locks[at];
            Holder { lock: self.id(at), owner, held }
        };
        let excludes = |other: &u32| {
            *other != at && self.locks[*other].held.is_some_and(|held| !held.is_compatible(asked))
        };
        let holders =
            [Queue::Granted, Queue::Converting].into_iter().flat_map(|q| found.queued(&self.locks, q));
        let mut blockers: Vec<Holder> = holders.filter(excludes).map(holder).collect();
        if blockers.is_empty() {
            let ahead =
                [Queue::Converting, Queue::Waiting].into_iter().flat_map(|q| found.queued(&self.locks, q));
            blockers.extend(ahead.take_while(|other| *other != at).last().map(holder));
        }
        blockers
    }
}
