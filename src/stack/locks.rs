//! The lock manager among the other layers: views and leases from membership, messages over circuits, proofs from fencing.

use super::{Output, Stack};
use core::time::Duration;
use ocf_comm::{Channel, Lane};
use ocf_dlm::cluster::{
    Ask, ClusterView, Engine, Input, LockState, OrderError, Output as From, RangeAsk, RangeStep, Snapshot,
    ViewMember, Waiting,
};
use ocf_dlm::directory::Weighted;
use ocf_dlm::range::{Range, RangeSet};
use ocf_dlm::wire::{Key, OrphanLock, Proof, Value};
use ocf_dlm::{ClientId, Flags, Mode, RequestError};
use ocf_membership::View;
use ocf_stonith::{Cause, FenceRequest, Withdrawal};
use pils::{Instant, Layer as _, NodeInstance};
use std::sync::Arc;

impl Stack {
    /// True if this node takes part in distributed locks.
    #[must_use]
    pub const fn has_locks(&self) -> bool {
        self.locks.is_some()
    }

    fn engine(&mut self, now: Instant) -> Result<&mut Engine, RequestError> {
        self.now = now;
        self.locks.as_deref_mut().ok_or(RequestError::NotPrimary)
    }

    /// Asks for a lock. See [`Engine::lock`]; how it ends is an [`Output::Lock`].
    ///
    /// # Errors
    /// See [`RequestError`]; nothing changed. [`RequestError::NotPrimary`] if this node has no locks, or if the lock is not
    /// to be waited for and this node may not act.
    pub fn lock(&mut self, now: Instant, ask: Ask) -> Result<u64, RequestError> {
        if ask.flags.has(Flags::NOQUEUE) && !self.consensus.is_active(now) {
            return Err(RequestError::NotPrimary);
        }
        self.engine(now)?.lock(now, ask)
    }

    /// Asks for another mode. See [`Engine::convert`].
    ///
    /// # Errors
    /// As [`Stack::lock`], except that a conversion down never waits.
    pub fn convert_lock(
        &mut self,
        now: Instant,
        lock: u64,
        (mode, flags, value): (Mode, Flags, Option<Value>),
        deadline: Option<Instant>,
    ) -> Result<(), RequestError> {
        let down = |held: Mode| held.is_down(mode);
        let held = self.locks.as_ref().and_then(|locks| locks.lock_state(lock)?.held);
        if flags.has(Flags::NOQUEUE) && !held.is_some_and(down) && !self.consensus.is_active(now) {
            return Err(RequestError::NotPrimary);
        }
        self.engine(now)?.convert(now, lock, (mode, flags, value), deadline)
    }

    /// Asks for bytes of an object. See [`Engine::lock_range`]; how it ends is an [`Output::Lock`].
    ///
    /// # Errors
    /// As [`Stack::lock`].
    pub fn lock_range(&mut self, now: Instant, ask: RangeAsk) -> Result<RangeStep, RequestError> {
        if ask.flags.has(Flags::NOQUEUE) && !self.consensus.is_active(now) {
            return Err(RequestError::NotPrimary);
        }
        self.engine(now)?.lock_range(now, ask)
    }

    /// Gives up bytes of an object. See [`Engine::unlock_range`].
    ///
    /// # Errors
    /// See [`RequestError`]; nothing changed.
    pub fn unlock_range(
        &mut self,
        now: Instant,
        client: ClientId,
        key: &Key,
        range: Range,
    ) -> Result<(), RequestError> {
        self.engine(now)?.unlock_range(now, client, key, range)
    }

    /// Asks what is in the way of bytes of an object. See [`Engine::test_range`].
    ///
    /// # Errors
    /// As [`Stack::lock`].
    pub fn test_range(&mut self, now: Instant, ask: RangeAsk) -> Result<u64, RequestError> {
        if !self.consensus.is_active(now) {
            return Err(RequestError::NotPrimary);
        }
        self.engine(now)?.test_range(now, ask)
    }

    /// The lock by which a client has bytes of an object, or asks for its first.
    #[must_use]
    pub fn range_owner(&self, client: ClientId, key: &Key) -> Option<u64> {
        self.locks.as_ref()?.range_owner(client, key)
    }

    /// The bytes of an object that a client may rely on at `now`, and for how long if nothing more is heard of other nodes.
    /// `None` if it may not rely on any that it had.
    #[must_use]
    pub fn ranges_held(&self, now: Instant, client: ClientId, key: &Key) -> Option<(Duration, RangeSet)> {
        let lease = self.consensus.lease_until()?.since(now);
        let Some(lock) = self.range_owner(client, key) else { return Some((lease, RangeSet::default())) };
        let engine = self.locks.as_ref()?;
        let set = engine.lock_ranges(lock)?.clone();
        if set.is_empty() {
            return Some((lease, set));
        }
        self.lock_held_for(now, lock).map(|left| (left, set))
    }

    /// Gives a lock back. See [`Engine::unlock`].
    ///
    /// # Errors
    /// See [`RequestError`]; nothing changed.
    pub fn unlock(
        &mut self,
        now: Instant,
        lock: u64,
        flags: Flags,
        value: Option<Value>,
    ) -> Result<(), RequestError> {
        self.engine(now)?.unlock(now, lock, flags, value)
    }

    /// What a lock holds, if it may be relied on at `now`: it is held, and the primary lease is confirmed.
    #[must_use]
    pub fn lock_held(&self, now: Instant, lock: u64) -> Option<LockState> {
        let state = self.locks.as_ref()?.lock_state(lock)?;
        (state.held.is_some() && state.reliable && self.consensus.is_active(now)).then_some(state)
    }

    /// For how long a lock may be relied on from `now`, if nothing more is heard of other nodes; `None` if it may not.
    #[must_use]
    pub fn lock_held_for(&self, now: Instant, lock: u64) -> Option<Duration> {
        self.lock_held(now, lock)?;
        Some(self.consensus.lease_until()?.since(now))
    }

    /// What a lock holds and asks for, whether or not it may be relied on.
    #[must_use]
    pub fn lock_state(&self, lock: u64) -> Option<LockState> {
        self.locks.as_ref()?.lock_state(lock)
    }

    /// Ends the wait of an operation. See [`Engine::cancel`].
    ///
    /// # Errors
    /// See [`RequestError`]; nothing changed.
    pub fn cancel_lock(&mut self, now: Instant, lock: u64) -> Result<(), RequestError> {
        self.engine(now)?.cancel(now, lock)
    }

    /// A client of locks is gone. See [`Engine::end_client`].
    pub fn end_lock_client(&mut self, now: Instant, client: ClientId) -> usize {
        self.engine(now).map_or(0, |engine| engine.end_client(now, client))
    }

    /// The locks of a client of this node that did not outlive it.
    #[must_use]
    pub fn locks_of_client(&self, client: ClientId) -> Vec<u64> {
        let engine = self.locks.iter();
        let theirs = engine.flat_map(|engine| engine.local_locks().map(move |known| (engine, known)));
        let theirs = theirs.filter(|(engine, (lock, of, _))| *of == client && !engine.is_orphan(*lock));
        theirs.map(|(_, (lock, ..))| lock).collect()
    }

    /// The locks of this node that outlived their client.
    #[must_use]
    pub fn orphans(&self) -> Vec<OrphanLock> {
        self.locks.iter().flat_map(|engine| engine.own_orphans()).collect()
    }

    /// Releases those locks of this node that outlived their client and are `doomed`. See [`Engine::purge_own`].
    pub fn purge_orphans(&mut self, now: Instant, doomed: impl Fn(ClientId, &Key) -> bool) -> u32 {
        self.engine(now).map_or(0, |engine| engine.purge_own(now, doomed))
    }

    /// Gives an order about locks to the lock manager, which returns the ticket of its report.
    ///
    /// # Errors
    /// [`OrderError::NotPrimary`] if this node has no locks; else those of the order.
    pub fn order_of_locks(
        &mut self,
        now: Instant,
        give: impl FnOnce(&mut Engine) -> Result<u64, OrderError>,
    ) -> Result<u64, OrderError> {
        give(self.engine(now).map_err(|_no_locks| OrderError::NotPrimary)?)
    }

    /// A program takes part in the recovery domain of a lockspace, or (`more` is false) does not any more. See [`Engine::attach`].
    ///
    /// # Errors
    /// See [`RequestError`]; nothing changed. [`RequestError::NotPrimary`] if this node has no locks.
    pub fn lock_domain(&mut self, now: Instant, space: &[u8], more: bool) -> Result<(), RequestError> {
        let engine = self.engine(now)?;
        if more {
            return engine.attach(now, space);
        }
        engine.detach(now, space);
        Ok(())
    }

    /// The operation of a lock that waits, and why; `None` if none does.
    #[must_use]
    pub fn lock_waits(&self, now: Instant, lock: u64) -> Option<Waiting> {
        self.locks.as_ref()?.wait_of(now, lock)
    }

    /// Every operation of this node that waits for a lock, the longest wait first, and why as far as this node knows.
    #[must_use]
    pub fn waits_for_locks(&self, now: Instant) -> Vec<Waiting> {
        self.locks.as_ref().map(|locks| locks.waits(now)).unwrap_or_default()
    }

    /// The lock manager of this node in numbers.
    #[must_use]
    pub fn locks(&self) -> Option<Snapshot> {
        self.locks.as_ref().map(|locks| locks.snapshot())
    }

    pub(super) fn tell_locks(&mut self, now: Instant, input: Input<'_>) {
        if let Some(locks) = &mut self.locks {
            locks.handle(now, input);
        }
    }

    /// This node is not, or will not be, in the primary: every holder is told before any other node can hear of it. `dormant`:
    /// what it knows of the locks of others it keeps, as the layers beside it do.
    pub(super) fn lose_locks(&mut self, now: Instant, dormant: bool) {
        self.tell_locks(now, if dormant { Input::Dormant } else { Input::NonPrimary });
        self.lock_fences.clear();
        self.lock_fences_due = false;
        self.settle_locks(now);
    }

    pub(super) fn view_for_locks(&mut self, now: Instant, view: &View) {
        self.outbox.retain(Channel::LOCKS, |peer| view.contains(peer));
        // Who said itself that it ends has told its holders before.
        for cause in view.causes.iter().filter(|cause| cause.reason.is_proof_of_death()) {
            let (instance, proof) = (cause.instance, Proof::Obituary);
            self.tell_locks(now, Input::Proven { instance, proof });
        }
        let member =
            |m: &ocf_membership::Member| ViewMember { instance: m.instance, weight: 1, joined: m.joined.0 };
        let previous = |m: &ocf_membership::Member| Weighted { instance: m.instance, weight: 1 };
        let view = ClusterView {
            number: view.number.0,
            members: view.members.iter().map(member).collect(),
            previous: view.previous.iter().map(previous).collect(),
            unproven: view.unproven.clone(),
        };
        self.tell_locks(now, Input::View(&view));
        self.lock_fences_due = true;
        // Membership knows of this view only what it says itself, and would go on with that.
        self.lock_unproven = view.unproven;
        self.name_unproven(now);
    }

    /// Tells membership who may still hold locks, if others than before: the next view names them, for those who join in it.
    fn name_unproven(&mut self, now: Instant) {
        let Some(locks) = &self.locks else { return };
        if !locks.unproven().eq(self.lock_unproven.iter().copied()) {
            self.lock_unproven = locks.unproven().collect();
            self.consensus.handle(now, ocf_membership::Input::Unproven(&self.lock_unproven));
        }
    }

    /// Takes back what was asked for those who are here again with nothing, or whose locks are in nobody's way any more.
    fn spare_returned(&mut self, now: Instant) {
        let Some(view) = self.consensus.view() else { return };
        let spared = |x: &NodeInstance| view.contains(*x) || !self.locks_wait_for(*x);
        let here: Vec<_> = self.lock_fences.iter().copied().filter(spared).collect();
        for target in here {
            self.lock_fences.remove(&target);
            let wanted = self.manager.wants_fenced(target);
            if !wanted && self.fencer.withdraw(now, target, Withdrawal::NotNeeded).is_err() {
                tracing::debug!(%target, "no fence request to withdraw");
            }
        }
    }

    /// True if it is this node that asks for the fencing of `target`: the most senior member that is not a later life on the
    /// same node, which cannot fence its own.
    fn is_asker(&self, target: NodeInstance) -> bool {
        let mut members =
            self.consensus.view().into_iter().flat_map(|view| &view.members).map(|m| m.instance);
        members.find(|member| member.node != target.node) == Some(self.local)
    }

    /// True if locks of that instance stay in the way until it is certain that it is dead.
    pub(super) fn locks_wait_for(&self, instance: NodeInstance) -> bool {
        self.locks.as_ref().is_some_and(|locks| locks.is_unproven(instance))
    }

    /// Asks for the fencing of everybody whose locks stay in the way until then.
    pub(super) fn fence_for_locks(&mut self, now: Instant) {
        for target in self.locks.as_ref().map(|locks| locks.snapshot().unproven).unwrap_or_default() {
            self.fence_holder(now, target);
        }
    }

    fn fence_holder(&mut self, now: Instant, target: NodeInstance) {
        if !self.told_primary {
            self.lock_fences_due = true;
            return;
        }
        if !self.is_asker(target) || self.lock_fences.contains(&target) && self.fencer.is_standing(target) {
            return;
        }
        let cause = Cause::Lost { why: Arc::from("it may hold locks") };
        let request = FenceRequest { target, action: self.fence_action, cause };
        match self.fence(now, request) {
            Ok(_) => {
                self.lock_fences.insert(target);
            }
            // Asked again when the lease is confirmed, in the next view, or by the next senior.
            Err(error) => tracing::debug!(%target, %error, "a holder of locks is not fenced"),
        }
    }

    /// Carries out what the lock manager wants. True if there was anything.
    pub(super) fn settle_locks(&mut self, now: Instant) -> bool {
        let mut busy = false;
        // After everybody was told of the view that it is about. Who asked before may have come to an end with it.
        if self.told_primary && core::mem::take(&mut self.lock_fences_due) {
            busy = true;
            self.fence_for_locks(now);
            self.spare_returned(now);
        }
        while let Some(output) = self.locks.as_mut().and_then(|locks| locks.poll_output()) {
            busy = true;
            match output {
                From::Send { to, message } => {
                    self.outbox.send(&mut self.endpoint, now, to, (Lane::Urgent, Channel::LOCKS, message));
                }
                From::FenceWanted(target) => self.fence_holder(now, target),
                From::Recovered { epoch } => tracing::debug!(epoch, "locks are recovered"),
                From::Overrun => {
                    tracing::warn!("more lock messages than may wait: this node has no locks any more");
                }
                told @ (From::Completed(_) | From::Blocking { .. } | From::Lost { .. } | _) => {
                    self.outputs.push_back(Output::Lock(told));
                }
            }
        }
        self.name_unproven(now);
        busy
    }
}
