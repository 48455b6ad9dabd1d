//! The locks of a node: who is told what, and how guards reach the stack.

use super::Node;
use crate::locks::{
    Asked, Backend, Bytes, Listener, LockOrder, LockOrderError, Locks, News, Object, Opened, Slot,
};
use crate::stack::Stack;
use core::time::Duration;
use ocf_dlm::cluster::{Ask, Output, RangeAsk, RangeStep, Snapshot, Waiting};
use ocf_dlm::range::{Range, RangeKind};
use ocf_dlm::wire::{Key, Outcome, Value};
use ocf_dlm::{ClientId, Flags, LockError, Mode, RequestError, ValueBlock, Wait, Wanted};
use parking_lot::Mutex;
use pils::Instant;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

/// Who is told of each lock of a node.
#[derive(Default)]
pub(super) struct Table {
    listeners: Mutex<BTreeMap<u64, Arc<dyn Listener>>>,
    clients: AtomicU32,
    /// Owners that have a name.
    groups: Mutex<BTreeMap<String, u32>>,
    /// Who waits for the report of an order, by ticket.
    orders: Mutex<BTreeMap<u64, Reported>>,
    /// Which owner has which object in use.
    objects: Opened,
}

/// Who is told what became of an order; dropped if the node stops.
type Reported = Box<dyn FnOnce(Option<Outcome>) + Send>;

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("locks", &self.listeners.lock().len()).finish_non_exhaustive()
    }
}

impl Table {
    pub(super) fn new_client(&self) -> u32 {
        self.clients.fetch_add(1, Ordering::Relaxed)
    }

    fn group(&self, name: &str) -> u32 {
        let mut groups = self.groups.lock();
        if let Some(known) = groups.get(name) {
            return *known;
        }
        let new = self.new_client();
        groups.insert(name.to_owned(), new);
        new
    }

    pub(super) fn add(&self, lock: u64, listener: Arc<dyn Listener>) {
        self.listeners.lock().insert(lock, listener);
    }

    pub(super) fn remove(&self, lock: u64) {
        self.listeners.lock().remove(&lock);
    }

    /// Tells the owner of a lock.
    pub(super) fn tell(&self, output: Output) {
        let (lock, news) = match output {
            Output::Completed(completed) => (completed.lock, News::Completed(completed)),
            Output::Blocking { lock, wanted, signal, .. } => {
                (lock, News::Wanted(Wanted { mode: wanted, signal }))
            }
            Output::Lost { lock, .. } | Output::Revoked { lock, .. } => (lock, News::Lost),
            Output::Tested { lock, blocker, .. } => {
                (lock, News::Tested(blocker.map(|blocker| (blocker.range, blocker.kind))))
            }
            Output::Reported { ticket, outcome } => {
                let reported = self.orders.lock().remove(&ticket);
                tracing::trace!(ticket, heard = reported.is_some(), "an order has ended");
                // Who gave up waiting does not hear of it.
                if let Some(reported) = reported {
                    reported(outcome);
                }
                return;
            }
            Output::Send { .. } | Output::FenceWanted(_) | Output::Recovered { .. } | Output::Overrun | _ => {
                return;
            }
        };
        let listener = {
            let mut listeners = self.listeners.lock();
            if news.is_last() { listeners.remove(&lock) } else { listeners.get(&lock).cloned() }
        };
        if let Some(listener) = listener {
            listener.hear(news);
        }
    }

    /// Who is to be told what becomes of an order. Before the outputs of the call that gave it are carried out.
    pub(super) fn await_report(&self, ticket: u64, reported: impl FnOnce(Option<Outcome>) + Send + 'static) {
        self.orders.lock().insert(ticket, Box::new(reported));
    }

    /// The lock is not its owner's any more.
    fn lose(&self, lock: u64) {
        let listener = self.listeners.lock().remove(&lock);
        if let Some(listener) = listener {
            listener.hear(News::Lost);
        }
    }

    /// An owner ends: its locks are lost to it, and released or left as orphans. How many there were.
    pub(super) fn end_owner(&self, stack: &mut Stack, now: Instant, owner: ClientId) -> usize {
        for lock in stack.locks_of_client(owner) {
            self.lose(lock);
        }
        stack.end_lock_client(now, owner)
    }

    /// The node has stopped: every lock is lost, and no order is answered.
    pub(super) fn close(&self) {
        let orders = core::mem::take(&mut *self.orders.lock());
        drop(orders);
        let all = core::mem::take(&mut *self.listeners.lock());
        for listener in all.into_values() {
            listener.hear(News::Lost);
        }
    }
}

impl Node {
    /// The distributed locks, as a new owner. `None` unless the node was built with
    /// [`NodeBuilder::locks`](super::NodeBuilder::locks), or if it has stopped.
    #[must_use]
    pub fn locks(&self) -> Option<Locks> {
        self.locks_as(Table::new_client)
    }

    /// The distributed locks, as the owner of that name on this node: all who ask for it by the same name are one owner, as
    /// clones are. `None` as for [`Node::locks`].
    #[must_use]
    pub fn locks_of_group(&self, name: &str) -> Option<Locks> {
        self.locks_as(|table| table.group(name))
    }

    fn locks_as(&self, client: impl FnOnce(&Table) -> u32) -> Option<Locks> {
        let client = self.new_lock_client(client)?;
        Some(Locks::new(Arc::new(Here(self.clone())), client))
    }

    fn new_lock_client(&self, client: impl FnOnce(&Table) -> u32) -> Option<ClientId> {
        let known =
            self.inner.handle.inspect(|stack, host, _| stack.has_locks().then(|| client(host.locks())));
        known.ok()?.map(ClientId::new)
    }
}

/// The node of this process as who locks for guards.
#[derive(Debug)]
struct Here(Node);

impl Backend for Here {
    fn new_owner(&self) -> Option<ClientId> {
        self.0.new_lock_client(Table::new_client)
    }

    fn ask(&self, asked: &Asked<'_>, slot: &Arc<Slot>) -> Result<u64, LockError> {
        let Asked { owner, place, key, mode, flags, wait, transaction, signal } = *asked;
        let transaction = transaction.map(own_transaction);
        let done = self.0.inner.handle.call(|stack, host, now| {
            let deadline = deadline(now, wait);
            let (key, parent) = (key.clone(), place.above());
            let ask = Ask { client: owner, key, parent, mode, flags, transaction, deadline, signal };
            let lock = stack.lock(now, ask)?;
            // Before the outputs of this call are carried out.
            host.locks().add(lock, Arc::<Slot>::clone(slot));
            Ok(lock)
        });
        match done {
            Ok(Ok(lock)) => Ok(lock),
            Ok(Err(RequestError::NotPrimary)) | Err(_) => Err(LockError::Lost),
            Ok(Err(refused)) => Err(refused.into()),
        }
    }

    fn convert(
        &self,
        lock: u64,
        (mode, flags, value): (Mode, Flags, Option<ValueBlock>),
        wait: Wait,
    ) -> Result<(), LockError> {
        let value = value.map(|block| Value { block, sequence: 0 });
        let asked =
            self.0.inner.handle.call(|stack, _, now| {
                stack.convert_lock(now, lock, (mode, flags, value), deadline(now, wait))
            });
        match asked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(RequestError::NoSuchLock | RequestError::NotPrimary)) | Err(_) => Err(LockError::Lost),
            Ok(Err(refused)) => Err(refused.into()),
        }
    }

    fn cancel(&self, lock: u64) {
        let done = self.0.inner.handle.call(|stack, _, now| stack.cancel_lock(now, lock));
        if !matches!(done, Ok(Ok(()))) {
            tracing::trace!(lock, "nothing waits any more");
        }
    }

    fn is_held(&self, lock: u64) -> bool {
        let handle = &self.0.inner.handle;
        if handle.stopped().is_some() {
            return false;
        }
        // The time is read when it is this call's turn: waiting for that may outlast the lease.
        let look = handle.inspect(|stack, _, _| stack.lock_held(self.0.now(), lock).is_some());
        look.unwrap_or(false)
    }

    fn release(&self, lock: u64, value: Option<ValueBlock>) -> bool {
        let done = self.0.inner.handle.call(|stack, host, now| {
            host.locks().remove(lock);
            let held = stack.lock_held(now, lock).is_some();
            let value = value.filter(|_| held).map(|block| Value { block, sequence: 0 });
            let flags = if value.is_some() { Flags::VALBLK } else { Flags::NONE };
            stack.unlock(now, lock, flags | Flags::FORCEUNLOCK, value).is_ok() && held
        });
        done.unwrap_or(false)
    }

    fn forget(&self, lock: u64) {
        let done = self.0.inner.handle.call(|stack, host, now| {
            host.locks().remove(lock);
            stack.unlock(now, lock, Flags::FORCEUNLOCK, None)
        });
        if !matches!(done, Ok(Ok(()))) {
            tracing::debug!(lock, "it was gone already");
        }
    }

    fn open_object(&self, object: &Object) -> Result<u64, LockError> {
        let opened = self.0.inner.handle.inspect(|_, host, _| host.locks().objects.open(object));
        // It is known by its owner and key.
        opened.map_err(|_stopped| LockError::Lost)?.map(|()| 0)
    }

    fn close_object(&self, object: &Object) {
        let closed = self.0.inner.handle.call(|stack, host, now| {
            if let Some(lock) = stack.range_owner(object.owner, &object.key) {
                host.locks().remove(lock);
                if let Err(error) = stack.unlock(now, lock, Flags::FORCEUNLOCK, None) {
                    tracing::debug!(%error, "it was gone already");
                }
            }
            host.locks().objects.close(object);
        });
        tracing::trace!(runs = closed.is_ok(), "an object is closed");
    }

    fn lock_range(
        &self,
        object: &Object,
        bytes: Bytes,
        wait: Wait,
        slot: &Arc<Slot>,
    ) -> Result<RangeStep, LockError> {
        let done = self.0.inner.handle.call(|stack, host, now| {
            let who = (object.owner, object.transaction.map(own_transaction));
            let ask = range_ask(who, &object.key, bytes, (now, wait));
            let step = stack.lock_range(now, ask)?;
            if let RangeStep::Asked(lock) = step {
                // Before the outputs of this call are carried out.
                host.locks().add(lock, Arc::<Slot>::clone(slot));
            }
            Ok(step)
        });
        begun(done)
    }

    fn unlock_range(&self, object: &Object, range: Range) -> Result<(), LockError> {
        let done = self.0.inner.handle.call(|stack, host, now| {
            let lock = stack.range_owner(object.owner, &object.key);
            stack.unlock_range(now, object.owner, &object.key, range)?;
            let left = stack.range_owner(object.owner, &object.key);
            if let Some(lock) = lock.filter(|_| left.is_none()) {
                host.locks().remove(lock);
            }
            Ok(())
        });
        begun(done)
    }

    fn test_range(&self, object: &Object, bytes: Bytes, slot: &Arc<Slot>) -> Result<(), LockError> {
        let done = self.0.inner.handle.call(|stack, host, now| {
            let ask = range_ask((object.owner, None), &object.key, bytes, (now, Wait::No));
            let question = stack.test_range(now, ask)?;
            host.locks().add(question, Arc::<Slot>::clone(slot));
            Ok(())
        });
        begun(done)
    }

    fn held_ranges(&self, object: &Object) -> Option<Vec<(Range, RangeKind)>> {
        let handle = &self.0.inner.handle;
        // The time is read when it is this call's turn.
        let look = handle.inspect(|stack, _, _| stack.ranges_held(self.0.now(), object.owner, &object.key));
        let (_lease, held) = look.ok()??;
        Some(held.as_slice().to_vec())
    }

    fn waits(&self) -> Vec<Waiting> {
        let look = self.0.inner.handle.inspect(|stack, _, _| stack.waits_for_locks(self.0.now()));
        look.unwrap_or_default()
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.0.inner.handle.inspect(|stack, _, _| stack.locks()).ok().flatten()
    }

    fn order(&self, order: LockOrder, patience: Duration) -> Result<Outcome, LockOrderError> {
        let (answer, answered) = mpsc::channel();
        let given = self.0.inner.handle.call(|stack, host, now| {
            let ticket = stack.order_of_locks(now, |engine| match order {
                LockOrder::Look(key) => engine.inquire(now, key),
                LockOrder::Release(holder, key, guard) => engine.force_release(now, holder, key, guard),
                LockOrder::Purge(node, client) => engine.purge(now, node, client),
                LockOrder::PurgeResource(node, key) => engine.purge_resource(now, node, key),
                LockOrder::Orphans(node) => engine.orphans_of(now, node),
                LockOrder::Why(lock) => engine.explain(now, lock),
                LockOrder::Collect(collector) => engine.collect(now, collector),
                LockOrder::Validate(collector) => engine.validate(now, collector),
                LockOrder::Invalidate(space) => engine.invalidate(now, space.as_bytes()),
            })?;
            host.locks().await_report(ticket, move |outcome| {
                let heard = answer.send(outcome).is_ok();
                tracing::trace!(ticket, heard, "who gave an order is told");
            });
            Ok::<_, LockOrderError>(ticket)
        });
        let ticket = given.map_err(|_stopped| LockOrderError::Stopped)??;
        match answered.recv_timeout(patience) {
            Ok(outcome) => outcome.ok_or(LockOrderError::Interrupted),
            Err(RecvTimeoutError::Disconnected) => Err(LockOrderError::Stopped),
            Err(RecvTimeoutError::Timeout) => {
                let forget = self.0.inner.handle.inspect(|_, host, _| {
                    host.locks().orders.lock().remove(&ticket);
                });
                tracing::debug!(ticket, runs = forget.is_ok(), "an order is not answered in time");
                Err(LockOrderError::TimedOut)
            }
        }
    }

    fn take_part(&self, space: &str, more: bool) -> Result<(), LockError> {
        begun(self.0.inner.handle.call(|stack, _, now| stack.lock_domain(now, space.as_bytes(), more)))
    }

    fn end_owner(&self, owner: ClientId) -> usize {
        let ended = self.0.inner.handle.call(|stack, host, now| host.locks().end_owner(stack, now, owner));
        ended.unwrap_or(0)
    }
}

/// The transaction that a user calls so. Never the same for two users, nor that of an owner without any, which is below 2^32.
pub(super) const fn transaction_of(user: u32, number: u32) -> u64 {
    ((user as u64 + 1) << 32) | number as u64
}

/// The transaction that the node's own user calls so.
fn own_transaction(number: u32) -> u64 {
    transaction_of(rustix::process::geteuid().as_raw(), number)
}

/// What a call of the node for ranges has come to.
fn begun<T, S>(done: Result<Result<T, RequestError>, S>) -> Result<T, LockError> {
    match done {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(RequestError::NoSuchLock | RequestError::NotPrimary)) | Err(_) => Err(LockError::Lost),
        Ok(Err(refused)) => Err(refused.into()),
    }
}

/// A range as the engine is asked for it.
pub(super) fn range_ask(
    (client, transaction): (ClientId, Option<u64>),
    key: &Key,
    bytes: Bytes,
    (now, wait): (Instant, Wait),
) -> RangeAsk {
    let Bytes { range, kind } = bytes;
    let flags = if wait == Wait::No { Flags::NOQUEUE } else { Flags::NONE };
    RangeAsk { client, key: key.clone(), range, kind, flags, transaction, deadline: deadline(now, wait) }
}

/// Until when an operation may wait that begins now.
pub(super) fn deadline(now: Instant, wait: Wait) -> Option<Instant> {
    if let Wait::For(wait) = wait { Some(now + wait) } else { None }
}
