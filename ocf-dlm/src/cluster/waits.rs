//! Why operations wait, as data.

use super::event::{WaitReason, Waiting};
use super::queue::{Entry, millis};
use super::tree::{Route, Tree};
use super::{Engine, Holder, OrderError, Standing, sabotaged};
use crate::Flags;
use crate::directory::Slot;
use crate::wire::{Key, REPORTED_MAX, ReportedLock, Wanted};
use pils::{Instant, NodeInstance};

impl Engine {
    /// Every operation of this node that waits, the longest wait first, and why as far as this node knows. O(waits).
    #[must_use]
    pub fn waits(&self, now: Instant) -> Vec<Waiting> {
        let mut all: Vec<Waiting> = self.waiting.iter().filter_map(|lock| self.wait_of(now, *lock)).collect();
        all.sort_by_key(|wait| (core::cmp::Reverse(wait.age), wait.lock));
        all
    }

    /// The operation of a lock that waits; `None` if none does.
    #[must_use]
    pub fn wait_of(&self, now: Instant, lock: u64) -> Option<Waiting> {
        let (known, reason) = (self.in_use(lock)?, self.wait_reason(lock)?);
        let pending = known.pending.as_ref()?;
        Some(Waiting {
            lock,
            client: known.client,
            key: known.key.clone(),
            held: known.held,
            asked: pending.mode,
            age: now.since(pending.since),
            reason,
        })
    }

    /// Why an operation waits; `None` if none does.
    #[must_use]
    pub fn wait_reason(&self, lock: u64) -> Option<WaitReason> {
        let known = self.locks.get(&lock)?;
        let pending = known.pending.as_ref()?;
        if self.standing != Standing::Active {
            return Some(WaitReason::WaitQuorum);
        }
        let tree = self.trees.get(&known.key.tree)?;
        Some(match &tree.route {
            Route::Looking(_) => WaitReason::Lookup,
            Route::Moving(_) | Route::Handing(_) | Route::Recovering(_) => WaitReason::Recovery,
            Route::At(master) if self.is_lost(*master, tree.epoch) => WaitReason::Recovery,
            Route::At(_) if !pending.fence.is_empty() => WaitReason::WaitFence(pending.fence.clone()),
            Route::At(master) => WaitReason::AtMaster(*master),
            Route::Here(_) => {
                let who = Holder { node: self.local, lock };
                let fence = self.fenced_blockers(&known.key, who);
                if !fence.is_empty() {
                    return Some(WaitReason::WaitFence(fence));
                }
                WaitReason::BlockedBy(self.in_the_way(&known.key, who)?.0)
            }
        })
    }

    /// Asks the master of a lock of this node whose operation waits ([`WaitReason::AtMaster`]) what is in its way. The answer is
    /// [`Outcome::InTheWay`](crate::wire::Outcome::InTheWay) in an [`Output::Reported`](super::Output::Reported) with the ticket that is returned.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn explain(&mut self, now: Instant, lock: u64) -> Result<u64, OrderError> {
        let known = self.locks.get(&lock).filter(|known| known.pending.is_some());
        let key = known.ok_or(OrderError::NotWaiting)?.key.clone();
        let master = match self.trees.get(&key.tree).map(|tree| &tree.route) {
            Some(Route::At(master)) if self.is_member(*master) => *master,
            _ => self.keeper(Slot::of(&key.tree)).ok_or(OrderError::NotPrimary)?,
        };
        self.give_order(now, master, Wanted::Why { lock, key })
    }

    /// What is in the way of an operation that waits at this master, and how much more there is than is said. `None` if this is
    /// not the master, or nothing waits.
    pub(super) fn in_the_way(&self, key: &Key, who: Holder) -> Option<(Vec<ReportedLock>, usize)> {
        let queues = self.trees.get(&key.tree).and_then(Tree::mastered)?.resources.get(&key.path)?;
        queues.entries().find(|entry| entry.who == who)?.asked?;
        let mut all = queues.blockers(who);
        if sabotaged!(self, ExplainOutOfOrder) {
            all.reverse();
        }
        let said = all.iter().take(REPORTED_MAX).map(|entry| self.reported(entry)).collect();
        Some((said, all.len().saturating_sub(REPORTED_MAX)))
    }

    /// A lock as its master tells of it.
    pub(super) fn reported(&self, entry: &Entry) -> ReportedLock {
        let age = millis(self.now).saturating_sub(entry.since);
        ReportedLock {
            node: entry.who.node,
            lock: entry.who.lock,
            client: entry.client,
            held: entry.held,
            asked: entry.asked,
            departed: !self.is_member(entry.who.node),
            orphan: entry.flags.has(Flags::ORPHAN),
            age_ms: u64::try_from(age).unwrap_or_default().min(pils::wire::VARINT_MAX),
        }
    }
}

impl WaitReason {
    /// What a master answers with [`Outcome::InTheWay`](crate::wire::Outcome::InTheWay), as a reason. `None` if nothing is in the way any more.
    #[must_use]
    pub fn of_blockers(locks: Vec<ReportedLock>) -> Option<Self> {
        let lost: std::collections::BTreeSet<NodeInstance> =
            locks.iter().filter(|lock| lock.departed).map(|lock| lock.node).collect();
        if !lost.is_empty() {
            return Some(Self::WaitFence(lost.into_iter().collect()));
        }
        (!locks.is_empty()).then_some(Self::BlockedBy(locks))
    }
}
