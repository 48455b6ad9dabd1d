//! What operators ask of locks, whoever has them: who holds and who waits, the end of a lock, the end of orphans.

use super::event::Output;
use super::tree::Tree;
use super::{Engine, FAILED, Holder, sabotaged};
use crate::directory::Slot;
use crate::wire::{
    Danger, Item, Key, Order, OrderRefusal, OrphanLock, Outcome, REPORTED_MAX, ReleaseGuard, ReportedLock,
    ResourceReport, Unlock, Wanted,
};
use crate::{ClientId, FencingToken, Mode, Status};
use pils::{Instant, NodeInstance};
use std::collections::BTreeSet;

/// Orders that were given here and not answered yet, at most.
pub const ORDERS_MAX: usize = 1024;

/// Why an order was not given. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// This node may not act: it is not in the primary partition, or its lease is in doubt.
    #[error("this node may not act")]
    NotPrimary,
    /// That instance is no member. What it left goes when it is proven to act no more.
    #[error("{0} is not a member")]
    NotMember(NodeInstance),
    /// The lock does not allow to collect: it is not held in EX on [`Key::collector`].
    #[error("another collector is at work, or none was asked for")]
    NotCollector,
    /// [`ORDERS_MAX`] are under way.
    #[error("{ORDERS_MAX} orders are under way")]
    Limit,
    /// No operation of that lock waits.
    #[error("nothing waits for that lock")]
    NotWaiting,
}

impl Engine {
    /// Asks the master of a resource who holds it and who waits for it. The answer is an [`Output::Reported`] with the ticket
    /// that is returned.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn inquire(&mut self, now: Instant, key: Key) -> Result<u64, OrderError> {
        let keeper = self.keeper(Slot::of(&key.tree)).ok_or(OrderError::NotPrimary)?;
        self.give_order(now, keeper, Wanted::Look(key))
    }

    /// Releases a lock by an operator's order, whoever has it, with all that is below it. `holder` names which lock of which
    /// life of which node is meant, `key` of which resource. Without a guard, or with one that does not say enough, nothing
    /// happens but that the [`Danger`] is told. What became of it is an [`Output::Reported`] with the ticket that is returned.
    ///
    /// The home of the lock gives it up, so its guard refuses before any other is granted; what the holder does without asking
    /// the guard only the fencing token keeps out. Of a node that left and is not proven to act no more the lock goes alone,
    /// without what is below it, by its master. The value block becomes invalid if it was held in PW or EX.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn force_release(
        &mut self,
        now: Instant,
        holder: Holder,
        key: Key,
        guard: Option<ReleaseGuard>,
    ) -> Result<u64, OrderError> {
        let home = self.is_member(holder.node) && !sabotaged!(self, RevokeUnseen);
        let to = if home { Some(holder.node) } else { self.keeper(Slot::of(&key.tree)) };
        let what = Wanted::Release { node: holder.node, lock: holder.lock, key, guard };
        self.give_order(now, to.ok_or(OrderError::NotPrimary)?, what)
    }

    /// Releases the orphans on a member: those that `client` left, or all. Value blocks of those held in PW or EX become
    /// invalid. How many went is in the [`Output::Reported`] with the ticket that is returned.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn purge(
        &mut self,
        now: Instant,
        node: NodeInstance,
        client: Option<ClientId>,
    ) -> Result<u64, OrderError> {
        self.order_to_member(now, node, Wanted::Purge(client))
    }

    /// As [`Engine::purge`], but only the orphans of one resource.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn purge_resource(&mut self, now: Instant, node: NodeInstance, key: Key) -> Result<u64, OrderError> {
        self.order_to_member(now, node, Wanted::PurgeResource(key))
    }

    /// Asks a member for its orphans. They are in the [`Output::Reported`] with the ticket that is returned.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn orphans_of(&mut self, now: Instant, node: NodeInstance) -> Result<u64, OrderError> {
        self.order_to_member(now, node, Wanted::Orphans)
    }

    fn order_to_member(&mut self, now: Instant, node: NodeInstance, what: Wanted) -> Result<u64, OrderError> {
        if !self.is_member(node) {
            return Err(OrderError::NotMember(node));
        }
        self.give_order(now, node, what)
    }

    pub(super) fn give_order(
        &mut self,
        now: Instant,
        to: NodeInstance,
        what: Wanted,
    ) -> Result<u64, OrderError> {
        let ticket = self.new_order(now)?;
        self.push(to, Item::Order(Order { ticket, origin: self.local, what }));
        self.settle();
        Ok(ticket)
    }

    /// The ticket of a new order.
    pub(super) fn new_order(&mut self, now: Instant) -> Result<u64, OrderError> {
        self.now = now;
        if !self.acts() {
            return Err(OrderError::NotPrimary);
        }
        if self.orders.len() >= ORDERS_MAX {
            return Err(OrderError::Limit);
        }
        self.next_ticket += 1;
        self.orders.insert(self.next_ticket);
        Ok(self.next_ticket)
    }

    /// What was asked for in this view may or may not have been done.
    pub(crate) fn interrupt_orders(&mut self) {
        self.domains.interrupt();
        while let Some(ticket) = self.orders.pop_first() {
            self.outputs.push_back(Output::Reported { ticket, outcome: None });
        }
    }

    pub(crate) fn on_report(&mut self, from: NodeInstance, ticket: u64, outcome: Outcome) {
        if self.domains.talks_of(ticket) {
            self.on_answer_of_member(from, ticket, outcome);
        } else {
            self.end_order(ticket, outcome);
        }
    }

    pub(super) fn end_order(&mut self, ticket: u64, outcome: Outcome) {
        if self.orders.remove(&ticket) {
            self.outputs.push_back(Output::Reported { ticket, outcome: Some(outcome) });
        }
    }

    pub(crate) fn on_order(&mut self, from: NodeInstance, order: Order) {
        let (ticket, origin) = (order.ticket, order.origin);
        let home = !sabotaged!(self, RevokeUnseen);
        let outcome = match &order.what {
            Wanted::Look(key) => {
                self.touch(&key.tree);
                match self.report(key) {
                    Some(report) => Outcome::Resource(report),
                    None => return self.pass_on(from, order),
                }
            }
            Wanted::Why { lock, key } => {
                self.touch(&key.tree);
                if self.mastered(&key.tree).is_none() {
                    return self.pass_on(from, order);
                }
                match self.in_the_way(key, Holder { node: origin, lock: *lock }) {
                    Some((locks, more)) => Outcome::InTheWay { locks, more: count(more) },
                    None => no_such_lock(),
                }
            }
            Wanted::Release { node, lock, key, guard } if *node == self.local && home => {
                self.release_here(*lock, key, guard.as_ref())
            }
            Wanted::Release { node, lock, key, guard } => {
                self.touch(&key.tree);
                if self.mastered(&key.tree).is_none() {
                    return self.pass_on(from, order);
                }
                self.release_departed(Holder { node: *node, lock: *lock }, key, guard.as_ref())
            }
            Wanted::Purge(client) => {
                Outcome::Released(self.purge_here(|of, _| client.is_none_or(|one| of == one)))
            }
            Wanted::PurgeResource(key) => Outcome::Released(self.purge_here(|_, of| of == key)),
            Wanted::Orphans => self.list_orphans(),
            what @ (Wanted::Collect { .. } | Wanted::Validate { .. } | Wanted::Invalidate { .. }) => {
                let Some(outcome) = self.answer_for_domain(what) else { return };
                outcome
            }
        };
        self.push(origin, Item::Report { ticket, outcome });
    }

    /// An order for the master of a tree, which is not this node: the directory knows who is.
    fn pass_on(&mut self, from: NodeInstance, order: Order) {
        let (Wanted::Look(key) | Wanted::Release { key, .. } | Wanted::Why { key, .. }) = &order.what else {
            return;
        };
        let slot = self.slots.get(&super::slot_number(Slot::of(&key.tree)));
        let ready = slot.is_some_and(|slot| slot.ready) && self.recovery.is_rebuilt();
        let mut suspects = slot.map(|slot| slot.suspects.clone()).unwrap_or_default();
        self.touch_entry(&key.tree);
        let entry = self.entries.get(&key.tree);
        suspects.extend(entry.into_iter().flat_map(|entry| entry.suspects.iter().copied()));
        let outcome = match entry.and_then(|entry| entry.master) {
            // Only who was asked first passes it on: it ends at the second.
            Some(master) if ready && master != self.local && from == order.origin => {
                self.push(master, Item::Order(order));
                return;
            }
            None if ready && matches!(order.what, Wanted::Look(_)) => {
                Outcome::Resource(ResourceReport::unused(&suspects))
            }
            None if ready => no_such_lock(),
            _ => Outcome::Refused(OrderRefusal::Recovering),
        };
        self.push(order.origin, Item::Report { ticket: order.ticket, outcome });
    }

    /// A resource as its master knows it. `None` if that is not this node.
    fn report(&self, key: &Key) -> Option<ResourceReport> {
        let mastered = self.trees.get(&key.tree).and_then(Tree::mastered)?;
        let Some(queues) = mastered.resources.get(&key.path) else {
            // Nobody has asked for it since they left: whoever does will find them in the way.
            let unused = ResourceReport::unused(&mastered.suspects);
            return Some(ResourceReport { master: Some(self.local), token: mastered.token, ..unused });
        };
        let locks = queues.entries().take(REPORTED_MAX).map(|entry| self.reported(entry));
        Some(ResourceReport {
            master: Some(self.local),
            token: mastered.token,
            value_invalid: queues.is_value_invalid(),
            locks: locks.collect(),
            more: count(queues.entries().count().saturating_sub(REPORTED_MAX)),
        })
    }

    /// Releases a lock of this node by an operator's order.
    fn release_here(&mut self, lock: u64, key: &Key, guard: Option<&ReleaseGuard>) -> Outcome {
        let Some(known) = self.locks.get(&lock).filter(|known| known.key == *key) else {
            return no_such_lock();
        };
        if known.keep.unused {
            self.give_back(lock);
            return Outcome::Released(1);
        }
        if guard.is_some() {
            return Outcome::Released(self.revoke(lock));
        }
        let (client, held, asked) = (known.client, known.held, known.pending.as_ref().map(|p| p.mode));
        let sublocks = count(self.with_sublocks(lock).len().saturating_sub(1));
        let waiting = self.count_waiting(key);
        let danger = Danger { client, held, asked, sublocks, waiting, unproven: false };
        Outcome::Refused(OrderRefusal::Endangers(danger))
    }

    /// Releases a lock of an instance that left and is not proven to act no more.
    fn release_departed(&mut self, who: Holder, key: &Key, guard: Option<&ReleaseGuard>) -> Outcome {
        // A member's locks are given back by itself.
        let member = self.is_member(who.node) && !sabotaged!(self, RevokeUnseen);
        if member || self.holders.get(&who) != Some(key) {
            return no_such_lock();
        }
        let unseen = sabotaged!(self, RevokeUnseen);
        if guard.is_some_and(|guard| guard.is_instead_of_fencing() || unseen) {
            let unlock = Unlock { lock: who.lock, flags: FAILED, value: None };
            self.on_unlock(who.node, &unlock);
            return Outcome::Released(1);
        }
        let queues = self.mastered(&key.tree).and_then(|mastered| mastered.resources.get(&key.path));
        let Some(entry) = queues.and_then(|queues| queues.entries().find(|entry| entry.who == who)) else {
            return no_such_lock();
        };
        let (client, held, asked) = (entry.client, entry.held, entry.asked);
        let waiting = self.count_waiting(key);
        let danger = Danger { client, held, asked, sublocks: 0, waiting, unproven: true };
        Outcome::Refused(OrderRefusal::Endangers(danger))
    }

    /// How many requests for a resource wait, if it is mastered here.
    fn count_waiting(&self, key: &Key) -> u32 {
        let mastered = self.trees.get(&key.tree).and_then(Tree::mastered);
        let queues = mastered.and_then(|mastered| mastered.resources.get(&key.path));
        count(queues.map_or(0, |queues| queues.entries().filter(|entry| entry.asked.is_some()).count()))
    }

    /// A lock of this node and all that is below it, those above first.
    fn with_sublocks(&self, lock: u64) -> Vec<u64> {
        let tree = self.locks.get(&lock).and_then(|known| self.trees.get(&known.key.tree));
        let Some(tree) = tree else { return Vec::new() };
        let depth = |lock: &u64| self.locks.get(lock).map_or(0, |known| known.key.path.len());
        let mut theirs: Vec<u64> = tree.locks.iter().copied().collect();
        theirs.sort_by_key(depth);
        let mut found = BTreeSet::from([lock]);
        let below = |one: &u64| {
            let parent = self.locks.get(one).and_then(|known| known.parent);
            *one == lock || parent.is_some_and(|parent| found.contains(&parent)) && found.insert(*one)
        };
        theirs.into_iter().filter(below).collect()
    }

    /// Releases a lock of this node that its client did not give back, and all that is below it, deepest first. The clients
    /// are told. How many went.
    fn revoke(&mut self, lock: u64) -> u32 {
        self.touch_lock(lock);
        let doomed = self.with_sublocks(lock);
        let many = count(doomed.len());
        for one in doomed.into_iter().rev() {
            self.revoke_one(one);
        }
        many
    }

    fn revoke_one(&mut self, lock: u64) {
        let Some(known) = self.locks.get(&lock) else { return };
        let client = known.client;
        if let Some(pending) = &known.pending {
            let mut completed = super::Completed { held: None, ..known.completed(lock, Status::Unlocked) };
            completed.remarks.demoted = pending.demoted;
            self.outputs.push_back(Output::Completed(completed));
        }
        if known.held.is_some() {
            self.outputs.push_back(Output::Revoked { lock, client });
        }
        self.release(lock, FAILED, None);
    }

    /// Releases those orphans of this node that are `doomed`, by whose they were and their resource. Value blocks of those held in
    /// PW or EX become invalid. How many went; those with locks below that were adopted stay. O(orphans).
    pub fn purge_own(&mut self, now: Instant, doomed: impl Fn(ClientId, &Key) -> bool) -> u32 {
        self.now = now;
        let many = self.purge_here(doomed);
        self.settle();
        many
    }

    /// The orphans of this node: what each is called, whose it was, its resource, what is held, and since when.
    pub fn own_orphans(&self) -> impl Iterator<Item = OrphanLock> + '_ {
        self.orphans.iter().filter_map(|lock| self.orphan_lock(*lock))
    }

    fn purge_here(&mut self, doomed: impl Fn(ClientId, &Key) -> bool) -> u32 {
        let known = |lock: &u64| self.locks.get(lock).is_some_and(|known| doomed(known.client, &known.key));
        let mut theirs: Vec<u64> = self.orphans.iter().copied().filter(known).collect();
        let depth = |lock: &u64| self.locks.get(lock).map_or(0, |known| known.key.path.len());
        theirs.sort_by_key(|lock| core::cmp::Reverse((depth(lock), *lock)));
        let mut many = 0;
        for lock in theirs {
            // What is below it may have been adopted.
            if self.locks.get(&lock).is_some_and(|known| known.children == 0) {
                self.touch_lock(lock);
                self.revoke_one(lock);
                many += 1;
            }
        }
        many
    }

    fn orphan_lock(&self, lock: u64) -> Option<OrphanLock> {
        let known = self.locks.get(&lock)?;
        let age_ms = u64::try_from(self.now.since(known.since).as_millis()).unwrap_or(u64::MAX);
        let (client, mode, age_ms) = (known.client, known.held?, age_ms.min(pils::wire::VARINT_MAX));
        Some(OrphanLock { lock, client, key: known.key.clone(), mode, age_ms })
    }

    fn list_orphans(&self) -> Outcome {
        let locks = self.own_orphans().take(REPORTED_MAX).collect();
        Outcome::Orphans { locks, more: count(self.orphans.len().saturating_sub(REPORTED_MAX)) }
    }
}

impl ResourceReport {
    /// Nobody has a lock of it, as far as is known; these may.
    fn unused(suspects: &BTreeSet<NodeInstance>) -> Self {
        let suspect = |node: &NodeInstance| ReportedLock {
            node: *node,
            lock: 0,
            client: ClientId::new(0),
            held: Some(Mode::Ex),
            asked: None,
            departed: true,
            orphan: false,
            age_ms: 0,
        };
        let locks: Vec<ReportedLock> = suspects.iter().take(REPORTED_MAX).map(suspect).collect();
        let more = count(suspects.len().saturating_sub(REPORTED_MAX));
        let value_invalid = !suspects.is_empty();
        Self { master: None, token: FencingToken::default(), value_invalid, locks, more }
    }
}

const fn no_such_lock() -> Outcome {
    Outcome::Refused(OrderRefusal::NoSuchLock)
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}
