//! Operations and locks that end without their owner's doing: cancelled, late, dead, orphaned, purged.

use super::Shard;
use crate::flags::Flags;
use crate::identity::{ClientId, LockId, NodeSlot};
use crate::mode::Mode;
use crate::request::{Answer, Operation, Output, Request};
use crate::resource::{Lock, Queue};
use crate::slab::NONE;
use crate::status::{RequestError, Status};
use std::collections::BTreeSet;

impl Shard {
    /// Reports the end of an operation that waits. The lock stays where it is: what follows is the caller's.
    pub(super) fn finish(&mut self, at: u32, status: Status, held: Option<Mode>) {
        let operation = if self.locks[at].held.is_some() { Operation::Convert } else { Operation::Request };
        let mut completion = self.completion(at, operation, status);
        completion.held = held;
        self.outputs.push_back(Output::Completed(completion));
    }

    /// Ends an operation that waits: a request is gone, a conversion holds its old mode. Then others may be granted.
    pub(super) fn give_up(&mut self, at: u32, status: Status) {
        let Lock { resource, held, .. } = self.locks[at];
        self.finish(at, status, held);
        if held.is_some() {
            self.revert(at);
        } else {
            self.remove(at);
        }
        self.end_episode(resource);
        self.settle(resource);
    }

    /// A conversion that waits holds its old mode again, as if it had not been asked for.
    pub(super) fn revert(&mut self, at: u32) {
        self.unwait(at);
        let resource = self.locks[at].resource;
        let found = &mut self.resources[resource];
        found.unlink(&mut self.locks, at);
        found.link(&mut self.locks, at, Queue::Granted, false);
        self.locks[at].asked = None;
        self.locks[at].parked = false;
        self.carried.remove(&at);
    }

    /// The client is dead: its locks are released, those with PERSISTENT become orphans, what it waited for is gone.
    /// Nothing is reported to it. Value blocks of what it held in PW or EX become invalid. O(locks of the shard).
    pub fn drop_client(&mut self, node: NodeSlot, client: ClientId) {
        let theirs =
            self.places(|lock| lock.owner.node == node && lock.owner.client == client && !lock.orphan);
        self.drop_all(theirs, true);
    }

    /// Releases all locks of a node that is certainly dead, orphans included, as [`Shard::drop_client`] does.
    pub fn drop_node(&mut self, node: NodeSlot) {
        let theirs = self.places(|lock| lock.owner.node == node);
        self.drop_all(theirs, false);
    }

    /// Releases the orphans of a client of this node, or all of them. Returns how many. Value blocks of those held in PW
    /// or EX become invalid.
    pub fn purge(&mut self, client: Option<ClientId>) -> usize {
        let orphans = self.places(|lock| {
            lock.orphan
                && lock.owner.node.is_local()
                && client.is_none_or(|client| lock.owner.client == client)
        });
        let before = self.locks.len();
        self.drop_all(orphans, false);
        (before - self.locks.len()) as usize
    }

    /// Releases every lock of a living client, or all sublocks of one of its locks, deepest first: DEQALL. What waits
    /// ends with [`Status::Unlocked`]. Value blocks are not touched. Returns how many.
    pub fn release_all(&mut self, node: NodeSlot, client: ClientId, below: Option<LockId>) -> usize {
        let root = below.map(LockId::place);
        let theirs =
            self.places(|lock| lock.owner.node == node && lock.owner.client == client && !lock.orphan);
        let theirs: Vec<u32> =
            theirs.into_iter().filter(|at| root.is_none_or(|root| self.is_below(*at, root))).collect();
        let before = self.locks.len();
        self.leaves_first(theirs, |shard, at| {
            if shard.locks[at].queue != Queue::Granted {
                shard.finish(at, Status::Unlocked, None);
            }
            shard.remove(at);
        });
        (before - self.locks.len()) as usize
    }

    /// Releases a lock by an operator's order, whoever has it, together with all that is below it. Its owner's waiting
    /// operation ends with [`Status::Unlocked`]; the value block becomes invalid if it was held in PW or EX.
    ///
    /// # Errors
    /// If there is no such lock.
    pub fn force_release(&mut self, lock: LockId) -> Result<usize, RequestError> {
        let root = self.place(lock)?;
        let mut doomed = self.places(|_| true);
        doomed.retain(|at| *at == root || self.is_below(*at, root));
        let before = self.locks.len();
        self.leaves_first(doomed, |shard, at| {
            if shard.locks[at].queue != Queue::Granted {
                shard.finish(at, Status::Unlocked, None);
            }
            shard.fail_value(at);
            shard.remove(at);
        });
        Ok((before - self.locks.len()) as usize)
    }

    /// This node may not act: what its clients wait for ends with [`Status::Lost`]. What they hold stays on record.
    pub fn lose_waiting(&mut self) {
        self.lose_waiting_of(None);
    }

    /// The same for one client of this node, or for all.
    pub(crate) fn lose_waiting_of(&mut self, client: Option<ClientId>) {
        let ids: Vec<LockId> = self.waits.keys().map(|at| self.id(*at)).collect();
        let doomed = |lock: &Lock| {
            let theirs = client.is_none_or(|client| lock.owner.client == client);
            lock.queue != Queue::Granted && lock.owner.node.is_local() && theirs
        };
        for id in ids {
            // A wait may have ended by the end of another.
            if let Ok(at) = self.place(id)
                && doomed(&self.locks[at])
            {
                self.give_up(at, Status::Lost);
            }
        }
    }

    /// From now on the lock's owner is told when it is in the way; at once, if it is.
    ///
    /// # Errors
    /// If there is no such lock.
    pub fn watch(&mut self, lock: LockId) -> Result<(), RequestError> {
        let at = self.place(lock)?;
        self.locks[at].flags |= Flags::NOTIFY;
        self.locks[at].notified = 0;
        let resource = self.locks[at].resource;
        if self.resources[resource].is_open() {
            self.notify_pending(resource);
        }
        Ok(())
    }

    /// Gives an orphan of the resource in exactly the mode to the caller.
    pub(super) fn adopt(
        &mut self,
        found: Option<u32>,
        request: &Request<'_>,
    ) -> Result<Answer, RequestError> {
        let mut other_mode = false;
        let orphans = found.into_iter().flat_map(|resource| {
            self.resources[resource].queued(&self.locks, Queue::Granted).filter(|at| self.locks[*at].orphan)
        });
        let mut fitting = None;
        for at in orphans {
            if self.locks[at].held == Some(request.terms.mode) {
                fitting = Some(at);
                break;
            }
            other_mode = true;
        }
        let at = fitting.ok_or(RequestError::NoOrphan { other_mode })?;
        let lock = &mut self.locks[at];
        lock.orphan = false;
        lock.owner = request.owner;
        lock.flags = request.terms.flags.without(Flags::ORPHAN);
        lock.notified = 0;
        let resource = lock.resource;
        let mut completion = self.completion(at, Operation::Request, Status::Granted);
        if request.terms.flags.has(Flags::VALBLK) {
            completion.value = Some(self.value_of(resource));
        }
        let answer = self.report(at, completion);
        self.notify_pending(resource);
        Ok(answer)
    }

    /// True if the lock is somewhere below `root`.
    fn is_below(&self, at: u32, root: u32) -> bool {
        let above = |at: &u32| Some(self.locks[*at].parent).filter(|parent| *parent != NONE);
        core::iter::successors(above(&at), above).any(|parent| parent == root)
    }

    /// The places of all locks that `wanted` accepts, in the order they were made or queued.
    fn places(&self, wanted: impl Fn(&Lock) -> bool) -> Vec<u32> {
        let mut found: Vec<(u64, u32)> = self
            .locks
            .iter()
            .filter(|(_, lock)| wanted(lock))
            .map(|(at, lock)| (lock.sequence, at))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, at)| at).collect()
    }

    fn drop_all(&mut self, doomed: Vec<u32>, orphans: bool) {
        self.leaves_first(doomed, |shard, at| {
            let Lock { flags, held, queue, .. } = shard.locks[at];
            if orphans && flags.has(Flags::PERSISTENT) && held.is_some() {
                if queue == Queue::Converting {
                    shard.revert(at);
                }
                shard.locks[at].orphan = true;
                return;
            }
            shard.fail_value(at);
            shard.remove(at);
        });
    }

    /// Carries `end` out for each lock, those without sublocks first. One whose sublocks stay becomes an orphan itself.
    /// Then settles every resource touched.
    fn leaves_first(&mut self, mut places: Vec<u32>, mut end: impl FnMut(&mut Self, u32)) {
        let mut touched = BTreeSet::new();
        while !places.is_empty() {
            let (leaves, rest): (Vec<u32>, Vec<u32>) =
                places.iter().partition(|at| self.locks[**at].children == 0);
            if leaves.is_empty() {
                for at in rest {
                    if self.locks[at].queue == Queue::Converting {
                        self.revert(at);
                    }
                    self.locks[at].orphan = true;
                    touched.insert(self.locks[at].resource);
                }
                break;
            }
            for at in leaves {
                touched.insert(self.locks[at].resource);
                end(self, at);
            }
            places = rest;
        }
        // From the leaves up: a resource that is freed has no resource below it.
        for resource in touched {
            self.end_episode(resource);
            self.settle(resource);
        }
    }
}
