//! Byte ranges of local owners: one lock of each owner and object, which goes from one set of ranges to another.
//!
//! Up in one operation at the master; down here, at once. What is both goes up to all of both first, so that what the owner
//! relies on is held at every instant, and a wait that ends without a grant leaves everything as it was.

use super::own::{ClientLock, OwnRanges, Pending};
use super::{Ask, Engine, Output};
use crate::range::{RANGES_PER_OWNER_MAX, Range, RangeKind, RangeSet};
use crate::wire::{AskedRanges, Convert, Item, Key, RangeBlocker};
use crate::{ClientId, Flags, Mode, RequestError};
use pils::Instant;

/// What an owner of ranges is locked with: it waits in no order and for nobody's value block.
const FLAGS: Flags = Flags::NOORDER;

/// A range that is asked for, or about.
#[derive(Clone, Debug)]
pub struct RangeAsk {
    /// Whose it will be. All that a client has of an object is of one owner.
    pub client: ClientId,
    /// The object. Not one that is locked as a whole, too.
    pub key: Key,
    /// The bytes.
    pub range: Range,
    /// How.
    pub kind: RangeKind,
    /// NOQUEUE not to wait, NOTIFY to be told when another wants some of what is held; nothing else counts.
    pub flags: Flags,
    /// The transaction that waits with it; that of the first bytes counts as long as the client has any of the object. `None`: its
    /// client.
    pub transaction: Option<u64>,
    /// Until when it may wait.
    pub deadline: Option<Instant>,
}

/// What has come of a range that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeStep {
    /// It is held: the owner had as much, or more, before.
    Held,
    /// This lock asks for it; how that ends is among the outputs.
    Asked(u64),
}

impl Key {
    /// The object `name` of `lockspace`, whose bytes are locked. Never a resource that [`Key::root`] names for a lockspace
    /// whose name is text.
    #[must_use]
    pub fn object(lockspace: &[u8], name: &[u8]) -> Self {
        Self::root(&[b"\xff", lockspace].concat(), name)
    }
}

impl Engine {
    /// Asks that the bytes of the range are locked so, whatever the owner had of them. If the wait ends without a grant, it has what
    /// it had.
    ///
    /// # Errors
    /// [`RequestError::Busy`] while another operation of the owner on the object is under way; [`RequestError::Limit`] beyond
    /// [`RANGES_PER_OWNER_MAX`]. Nothing changed.
    pub fn lock_range(&mut self, now: Instant, ask: RangeAsk) -> Result<RangeStep, RequestError> {
        self.now = now;
        let step = self.begin_range(ask);
        // Also if it is refused: the tree may have been brought up for it.
        self.settle();
        step
    }

    fn begin_range(&mut self, ask: RangeAsk) -> Result<RangeStep, RequestError> {
        let flags = FLAGS | Flags::from_bits(ask.flags.bits() & (Flags::NOQUEUE | Flags::NOTIFY).bits());
        let owner = (ask.client.raw(), ask.key);
        let Some(lock) = self.range_owners.get(&owner).copied() else {
            let set = RangeSet::of(ask.range, ask.kind);
            let request = Ask {
                client: ask.client,
                key: owner.1.clone(),
                parent: None,
                mode: ask.kind.mode(),
                flags,
                transaction: ask.transaction,
                deadline: ask.deadline,
                signal: 0,
            };
            let lock = self.new_lock(request, Some((OwnRanges::default(), set)))?;
            self.range_owners.insert(owner, lock);
            return Ok(RangeStep::Asked(lock));
        };
        let held = self.owned(lock)?;
        let mut then = held.clone();
        then.set(ask.range, Some(ask.kind));
        if then.len() > RANGES_PER_OWNER_MAX {
            return Err(RequestError::Limit("RANGES_PER_OWNER_MAX"));
        }
        if held.covers(&then) {
            self.lower(lock, then);
            return Ok(RangeStep::Held);
        }
        let all = held.joined(&then);
        self.begin(lock, (all.mode(), flags, None), ask.deadline);
        if let Some(known) = self.locks.get_mut(&lock) {
            known.ask_ranges(all, then);
        }
        self.flush_tree(&owner.1.tree);
        Ok(RangeStep::Asked(lock))
    }

    /// Gives up what an owner has of a range; at once. What it does not have is no error.
    ///
    /// # Errors
    /// As [`Engine::lock_range`].
    pub fn unlock_range(
        &mut self,
        now: Instant,
        client: ClientId,
        key: &Key,
        range: Range,
    ) -> Result<(), RequestError> {
        self.now = now;
        let done = self.lower_range(client, key, range);
        self.settle();
        done
    }

    fn lower_range(&mut self, client: ClientId, key: &Key, range: Range) -> Result<(), RequestError> {
        let Some(lock) = self.range_owners.get(&(client.raw(), key.clone())).copied() else { return Ok(()) };
        let mut left = self.owned(lock)?;
        left.set(range, None);
        if left.len() > RANGES_PER_OWNER_MAX {
            return Err(RequestError::Limit("RANGES_PER_OWNER_MAX"));
        }
        if left.is_empty() {
            self.release(lock, Flags::NONE, None);
        } else {
            self.lower(lock, left);
        }
        Ok(())
    }

    /// Asks who is in the way of a range, other than the client itself. The answer is [`Output::Tested`], or a completion if
    /// this node leaves the primary before it comes.
    ///
    /// # Errors
    /// As [`Engine::lock`].
    pub fn test_range(&mut self, now: Instant, ask: RangeAsk) -> Result<u64, RequestError> {
        self.now = now;
        let set = RangeSet::of(ask.range, ask.kind);
        let request = Ask {
            client: ask.client,
            key: ask.key,
            parent: None,
            mode: ask.kind.mode(),
            flags: FLAGS | Flags::NOQUEUE,
            transaction: None,
            deadline: None,
            signal: 0,
        };
        let lock = self.new_lock(request, Some((OwnRanges { test: true, ..OwnRanges::default() }, set)))?;
        self.settle();
        Ok(lock)
    }

    /// The lock by which a client has ranges of an object, or asks for its first.
    #[must_use]
    pub fn range_owner(&self, client: ClientId, key: &Key) -> Option<u64> {
        self.range_owners.get(&(client.raw(), key.clone())).copied()
    }

    /// The ranges that a lock holds. `None` if there is no such lock, or it is on a whole resource.
    #[must_use]
    pub fn lock_ranges(&self, lock: u64) -> Option<&RangeSet> {
        Some(&self.locks.get(&lock)?.ranges.as_ref()?.held)
    }

    /// What this node, as a master, has granted of ranges: whose, of what, which.
    #[must_use]
    pub fn mastered_ranges(&self) -> Vec<(Key, super::Holder, RangeSet)> {
        let mut all = Vec::new();
        for (name, tree) in self.trees.iter() {
            for (path, queues) in tree.mastered().into_iter().flat_map(|m| m.resources.iter()) {
                let key = Key { tree: std::sync::Arc::clone(name), path: std::sync::Arc::clone(path) };
                let ranged = queues.entries().filter(|entry| entry.who.lock != 0);
                all.extend(ranged.filter_map(|entry| {
                    let ranges = entry.ranges()?;
                    Some((key.clone(), entry.who, ranges.held.clone()))
                }));
            }
        }
        all
    }

    /// What an owner holds, if it has nothing under way.
    fn owned(&mut self, lock: u64) -> Result<RangeSet, RequestError> {
        self.touch_lock(lock).ok_or(RequestError::NoSuchLock)?;
        let known = self.locks.get(&lock).ok_or(RequestError::NoSuchLock)?;
        match (&known.ranges, &known.pending) {
            (Some(ranges), None) => Ok(ranges.held.clone()),
            _ => Err(RequestError::Busy),
        }
    }

    /// Goes down to what is held already: done here, and the master is told.
    fn lower(&mut self, lock: u64, to: RangeSet) {
        let Some(known) = self.locks.get_mut(&lock) else { return };
        if let Some(item) = known.lower(lock, to) {
            let name = known.key.tree.clone();
            self.tell_master(&name, item);
        }
    }

    /// A lock is gone: its client has nothing of the object any more.
    pub(super) fn forget_owner(&mut self, lock: u64, known: &ClientLock) {
        if known.ranges.is_some() {
            let owner = (known.client.raw(), known.key.clone());
            if self.range_owners.get(&owner) == Some(&lock) {
                self.range_owners.remove(&owner);
            }
        }
    }

    pub(super) fn on_tested(&mut self, lock: u64, blocker: Option<RangeBlocker>) {
        let Some(known) = self.forget_lock(lock) else { return };
        self.outputs.push_back(Output::Tested { lock, client: known.client, blocker });
        self.tidy(&known.key);
    }
}

impl ClientLock {
    pub(super) fn ask_ranges(&mut self, asked: RangeSet, then: RangeSet) {
        if let Some(pending) = &mut self.pending {
            pending.ranges = Some(Box::new((asked, then)));
        }
    }

    /// What the operation asked for is held, but for what it gives up with that; the master is to be told the latter.
    pub(super) fn take_ranges(&mut self, lock: u64, granted: &Pending) -> Option<Item> {
        let (asked, then) = granted.ranges.as_deref()?;
        self.ranges.as_mut()?.held.clone_from(asked);
        self.lower(lock, then.clone())
    }

    fn lower(&mut self, lock: u64, to: RangeSet) -> Option<Item> {
        let ranges = self.ranges.as_mut().filter(|ranges| ranges.held != to)?;
        ranges.held.clone_from(&to);
        let mode: Mode = to.mode();
        self.held = Some(mode);
        self.op += 1;
        let ranges = Some(Box::new(AskedRanges { set: to, test: false }));
        let flags = self.flags.without(Flags::NOQUEUE);
        Some(Item::Convert(Convert {
            lock,
            op: self.op,
            mode,
            flags,
            value: None,
            told: true,
            ranges,
            signal: 0,
        }))
    }
}
