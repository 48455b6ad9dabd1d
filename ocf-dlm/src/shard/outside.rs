//! Resources that are not decided here: mastered on another node, not yet found, or frozen while their master recovers.
//!
//! A lock of this node on such a resource is in the queue [`Queue::Outside`], or converts, until the master's answer comes
//! ([`Shard::answered`]) or the resource becomes this node's ([`Shard::set_home`], [`Shard::thaw`]).

use super::Shard;
use crate::flags::Flags;
use crate::identity::LockId;
use crate::mode::Mode;
use crate::request::{Answer, Operation, Output, RoutedOperation, Terms};
use crate::resource::{Home, Lock, Queue};
use crate::status::{RequestError, Status};
use crate::{FencingToken, Remarks, ValueBlock};
use pils::Instant;

/// What the master of a resource says about the operation of a lock of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How the operation ended.
    pub status: Status,
    /// The mode held now.
    pub held: Option<Mode>,
    /// What is to be said beside the status.
    pub remarks: Remarks,
    /// The token of the grant.
    pub token: FencingToken,
    /// The value block, if it was asked for.
    pub value: Option<ValueBlock>,
}

impl Shard {
    /// Where the master copy of the lock's resource is, and whether it is frozen.
    ///
    /// # Errors
    /// If there is no such lock.
    pub fn home(&self, lock: LockId) -> Result<(Home, bool), RequestError> {
        let found = &self.resources[self.locks[self.place(lock)?].resource];
        Ok((found.home(), found.frozen))
    }

    /// Says where the master copy of a root resource and of all that is below it is. If it is here, what waits outside is
    /// decided now, in the order it was asked; if it is elsewhere, it is routed there. False if there is no such resource.
    pub fn set_home(&mut self, now: Instant, name: &[u8], home: Home) -> bool {
        let Some(root) = self.root(name) else { return false };
        for resource in self.tree(root) {
            self.resources[resource].set_home(home);
            self.let_in(now, resource);
        }
        true
    }

    /// Decides nothing for a root resource and all that is below it, until [`Shard::thaw`]. Locks stay held; requests and
    /// conversions wait; releases and cancellations are done, but nobody is granted. False if there is no such resource.
    pub fn freeze(&mut self, name: &[u8]) -> bool {
        let Some(root) = self.root(name) else { return false };
        for resource in self.tree(root) {
            self.resources[resource].frozen = true;
        }
        true
    }

    /// Ends [`Shard::freeze`]: what was asked meanwhile is decided now, in that order. False if there is no such resource.
    pub fn thaw(&mut self, now: Instant, name: &[u8]) -> bool {
        let Some(root) = self.root(name) else { return false };
        for resource in self.tree(root) {
            self.resources[resource].frozen = false;
            self.let_in(now, resource);
        }
        true
    }

    /// Takes the answer of the master to an operation of a lock of this node. It is ignored if nothing waits.
    ///
    /// # Errors
    /// If there is no such lock: it was released meanwhile, and the master will hear of that.
    pub fn answered(&mut self, lock: LockId, verdict: &Verdict) -> Result<(), RequestError> {
        let at = self.place(lock)?;
        let Lock { resource, held, queue, .. } = self.locks[at];
        if queue == Queue::Granted {
            return Ok(());
        }
        let operation = if held.is_some() { Operation::Convert } else { Operation::Request };
        self.unwait(at);
        let found = &mut self.resources[resource];
        found.unlink(&mut self.locks, at);
        let stays = verdict.held.is_some();
        found.link(&mut self.locks, at, if stays { Queue::Granted } else { Queue::Outside }, false);
        found.recount(held, verdict.held);
        found.token = found.token.max(verdict.token);
        let lock = &mut self.locks[at];
        (lock.held, lock.asked, lock.notified, lock.parked) = (verdict.held, None, 0, false);
        let mut completion = self.completion(at, operation, verdict.status);
        (completion.remarks, completion.token, completion.value) =
            (verdict.remarks, verdict.token, verdict.value);
        self.outputs.push_back(Output::Completed(completion));
        if !stays {
            self.remove(at);
            self.free_if_idle(resource);
        }
        Ok(())
    }

    /// The master says that a lock of this node is in the way of `wanted`.
    ///
    /// # Errors
    /// If there is no such lock: it was released meanwhile.
    pub fn blocks(&mut self, lock: LockId, wanted: Mode) -> Result<(), RequestError> {
        let at = self.place(lock)?;
        if self.locks[at].held.is_some() {
            self.notify(at, wanted, None);
        }
        Ok(())
    }

    pub(super) fn send_request(&mut self, now: Instant, at: u32, terms: &Terms<'_>) -> Answer {
        let Lock { resource, .. } = self.locks[at];
        self.resources[resource].link(&mut self.locks, at, Queue::Outside, false);
        self.number_in_line(at);
        self.wait(now, at, terms.deadline);
        let found = &self.resources[resource];
        if found.home() == Home::Local || found.frozen {
            self.locks[at].parked = true;
        } else {
            self.route(self.id(at), RoutedOperation::Request { mode: terms.mode, flags: terms.flags });
        }
        Answer::Pending(self.id(at))
    }

    pub(super) fn send_conversion(&mut self, now: Instant, at: u32, terms: &Terms<'_>) -> Answer {
        let Lock { resource, .. } = self.locks[at];
        let found = &mut self.resources[resource];
        found.unlink(&mut self.locks, at);
        found.link(&mut self.locks, at, Queue::Converting, false);
        self.number_in_line(at);
        self.wait(now, at, terms.deadline);
        let found = &self.resources[resource];
        if found.home() == Home::Local || found.frozen {
            self.locks[at].parked = true;
            if let Some(value) = terms.value {
                self.carried.insert(at, *value);
            }
        } else {
            let value = terms.value.copied().filter(|_| terms.flags.has(Flags::VALBLK));
            self.route(self.id(at), RoutedOperation::Convert { mode: terms.mode, flags: terms.flags, value });
        }
        Answer::Pending(self.id(at))
    }

    fn number_in_line(&mut self, at: u32) {
        self.sequence += 1;
        self.locks[at].sequence = self.sequence;
    }

    fn root(&self, name: &[u8]) -> Option<u32> {
        let above = crate::slab::NONE;
        self.lookup(self.tag(Self::hash(self.seed, name), above, name), above, name)
    }

    /// The resource and all below it. O(resources) for trees; a look at one lock for a resource without sublocks.
    fn tree(&self, root: u32) -> Vec<u32> {
        let mut found = vec![root];
        let queues = [Queue::Granted, Queue::Converting];
        let mut holders =
            queues.into_iter().flat_map(|queue| self.resources[root].queued(&self.locks, queue));
        if holders.any(|at| self.locks[at].children > 0) {
            let mut next = 0;
            while next < found.len() {
                let above = found[next];
                found.extend(self.resources.iter().filter(|(_, r)| r.parent == above).map(|(at, _)| at));
                next += 1;
            }
        }
        found
    }

    /// Decides or routes what waits outside, in the order it was asked.
    fn let_in(&mut self, now: Instant, resource: u32) {
        let found = &self.resources[resource];
        if found.frozen {
            return;
        }
        let outside = found.queued(&self.locks, Queue::Outside);
        let converting = found.queued(&self.locks, Queue::Converting).filter(|at| self.locks[*at].parked);
        let mut places: Vec<u32> = outside.chain(converting).collect();
        places.sort_unstable_by_key(|at| self.locks[*at].sequence);
        let home = found.home();
        for at in places {
            let Lock { flags, asked, held, .. } = self.locks[at];
            let mode = asked.expect("an operation asks for a mode");
            let deadline = self.waits.get(&at).and_then(|wait| wait.deadline);
            let value = self.carried.remove(&at);
            self.locks[at].parked = false;
            if home != Home::Local {
                let id = self.id(at);
                match held {
                    Some(_) => self.route(id, RoutedOperation::Convert { mode, flags, value }),
                    None => self.route(id, RoutedOperation::Request { mode, flags }),
                }
                continue;
            }
            // The caller has gone: whatever the outcome, it is an output.
            self.locks[at].flags = flags.without(Flags::SYNCSTS);
            self.unwait(at);
            self.resources[resource].unlink(&mut self.locks, at);
            if held.is_some() {
                self.resources[resource].link(&mut self.locks, at, Queue::Granted, false);
                let terms = Terms { mode, flags, value: value.as_ref(), deadline, transaction: None };
                self.decide_conversion(now, at, &terms);
            } else {
                self.locks[at].queue = Queue::Outside;
                self.decide_request(now, at, deadline);
            }
        }
        if self.resources.find(resource).is_some() {
            self.settle(resource);
        }
    }
}
