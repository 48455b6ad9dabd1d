//! Requests of local clients, and what this node knows of its own locks.

use super::event::{Ask, Completed, Output};
use super::keep::Keep;
use super::orphan::KEPT;
use super::own::{ClientLock, OwnRanges, Pending};
use super::tree::{Route, Tree};
use super::{Engine, FAILED, Standing, sabotaged};
use crate::range::RangeSet;
use crate::wire::{Convert, Item, Key, Name, Request, Unlock, Value};
use crate::{FencingToken, Flags, Mode, RequestError, Status, Transfer};
use pils::{Instant, NodeInstance};

/// What is to be done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timer {
    /// Operation `.1` of lock `.0` has waited as long as it may.
    Deadline(u64, u32),
    /// A deadlock is to be searched for.
    Search(u64, u32),
    /// Trees that were not used lately are given up.
    Sweep,
    /// What is kept for long is given back.
    Kept,
    /// Move `.0` has waited as long as it may.
    Move(u64),
}

/// Why an operation is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stop {
    Cancelled,
    TimedOut,
    Deadlock,
}

/// A lock as its owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockState {
    /// What is held.
    pub held: Option<Mode>,
    /// What an operation under way asks for.
    pub asked: Option<Mode>,
    /// The token of the last grant.
    pub token: FencingToken,
    /// False while the primary lease is in doubt: do not act under the lock.
    pub reliable: bool,
    /// The place in its queue that the master told, while an operation waits.
    pub place: Option<i64>,
}

impl Engine {
    /// Asks for a new lock. How it ends is among the outputs, possibly at once. With ORPHAN: takes over a lock that outlived its
    /// client on this node, of the same resource and in exactly the mode; that never waits.
    ///
    /// # Errors
    /// See [`RequestError`]; nothing changed.
    pub fn lock(&mut self, now: Instant, ask: Ask) -> Result<u64, RequestError> {
        self.now = now;
        let lock = self.new_lock(ask, None)?;
        self.settle();
        Ok(lock)
    }

    /// As [`Engine::lock`]. `ranges`: of these bytes only.
    pub(super) fn new_lock(
        &mut self,
        mut ask: Ask,
        ranges: Option<(OwnRanges, RangeSet)>,
    ) -> Result<u64, RequestError> {
        check_flags(ask.mode, ask.flags)?;
        ask.flags = ask.flags.without(Flags::KEEP | Flags::FAILURE);
        if ask.flags.has(Flags::ORPHAN) {
            return self.adopt(&ask);
        }
        if let Some(lock) = self.reuse(&ask, ranges.is_some()) {
            return Ok(lock);
        }
        ask.flags = self.flags_to_keep(&ask, ranges.is_some());
        if self.locks.len() >= self.config.locks_max {
            self.give_back_first();
        }
        if self.locks.len() >= self.config.locks_max {
            return Err(RequestError::Limit("locks_max"));
        }
        if ask.key.tree.len().max(ask.key.path.len()) > crate::wire::TREE_MAX {
            return Err(RequestError::Limit("TREE_MAX"));
        }
        if let Some(parent) = ask.parent {
            let orphan = self.orphans.contains(&parent);
            let parent = self.locks.get_mut(&parent).filter(|parent| !parent.keep.unused);
            let parent = parent.ok_or(RequestError::NoSuchLock)?;
            if orphan || parent.client != ask.client || parent.key.tree != ask.key.tree {
                return Err(RequestError::NotOwner);
            }
            if parent.held.is_none() {
                return Err(RequestError::ParentNotGranted);
            }
            parent.children += 1;
        } else if !ask.key.path.is_empty() {
            return Err(RequestError::ParentNotGranted);
        }
        let lock = self.next_lock;
        self.next_lock += 1;
        self.touch(&ask.key.tree);
        let epoch = self.epoch;
        let tree = self.trees.or_insert_with(&ask.key.tree, || Tree::new(&ask.key.tree, epoch));
        tree.locks.insert(lock);
        tree.idle_since = None;
        let name = ask.key.tree.clone();
        let client = ClientLock {
            client: ask.client,
            key: ask.key,
            transaction: ask.transaction.unwrap_or_else(|| u64::from(ask.client.raw())),
            parent: ask.parent,
            children: 0,
            flags: ask.flags,
            held: None,
            token: FencingToken::default(),
            value: None,
            value_certain: false,
            value_invalid: false,
            op: 0,
            since: self.now,
            pending: None,
            keep: Keep::default(),
            ranges: None,
        };
        self.locks.insert(lock, client);
        self.note_signal(lock, ask.signal);
        self.begin(lock, (ask.mode, ask.flags, None), ask.deadline);
        if let (Some((own, asked)), Some(known)) = (ranges, self.locks.get_mut(&lock)) {
            known.ranges = Some(Box::new(own));
            known.ask_ranges(asked.clone(), asked);
        }
        self.flush_tree(&name);
        Ok(lock)
    }

    /// Asks for another mode. A conversion down ends at once.
    ///
    /// # Errors
    /// See [`RequestError`]; nothing changed.
    pub fn convert(
        &mut self,
        now: Instant,
        lock: u64,
        how: (Mode, Flags, Option<Value>),
        deadline: Option<Instant>,
    ) -> Result<(), RequestError> {
        self.now = now;
        let done = self.begin_conversion(lock, how, deadline);
        // Also if it is refused: the tree may have been brought up for it.
        self.settle();
        done
    }

    fn begin_conversion(
        &mut self,
        lock: u64,
        (mode, flags, value): (Mode, Flags, Option<Value>),
        deadline: Option<Instant>,
    ) -> Result<(), RequestError> {
        let name = self.touch_lock(lock).ok_or(RequestError::NoSuchLock)?;
        self.owner_converts(lock);
        let known = self.locks.get_mut(&lock).filter(|known| !known.keep.unused);
        let known = known.ok_or(RequestError::NoSuchLock)?;
        if known.ranges.is_some() {
            return Err(RequestError::NotOwner);
        }
        let (Some(held), None) = (known.held, known.pending.as_ref()) else { return Err(RequestError::Busy) };
        if flags.has(Flags::EXPEDITE) {
            return Err(RequestError::Flags { flags, rule: "EXPEDITE is for new NL locks that may queue" });
        }
        if flags.has(Flags::CONVDEADLK | Flags::NOQUEUE) {
            return Err(RequestError::Flags { flags, rule: "CONVDEADLK is for conversions that may queue" });
        }
        if flags.has(Flags::QUECVT) && !held.may_queue_conversion(mode) {
            return Err(RequestError::NotQueueable { held, asked: mode });
        }
        // Whether it wants to be told, and is to last, is settled by its first request.
        let flags = flags.without(KEPT | Flags::FAILURE) | known.flags.only(KEPT);
        let value = value.map(|v| Value { sequence: known.value.map_or(0, |old| old.sequence + 1), ..v });
        let (flags, value) = known.with_unwritten(flags, value);
        if !Self::needs_no_answer(held, mode, flags) {
            self.begin(lock, (mode, flags, value), deadline);
            self.flush_tree(&name);
            return Ok(());
        }
        // A conversion down needs nobody: it is done here, and the master is told.
        known.op += 1;
        known.held = Some(mode);
        known.keep = Keep::default();
        (known.flags, known.since) = (flags, self.now);
        if Mode::transfer(Some(held), mode) == Transfer::Write {
            if flags.has(Flags::IVVALBLK) {
                known.value_invalid = true;
            } else if flags.has(Flags::VALBLK) && value.is_some() {
                (known.value, known.value_invalid, known.value_certain) = (value, false, true);
            }
        }
        known.value_certain &= mode > Mode::Cr;
        let op = known.op;
        let completed = known.completed(lock, Status::Granted);
        let item =
            Item::Convert(Convert { lock, op, mode, flags, value, told: true, ranges: None, signal: 0 });
        self.tell_master(&name, item);
        self.outputs.push_back(Output::Completed(completed));
        Ok(())
    }

    /// Gives a lock back. It is gone when this returns; with FORCEUNLOCK also one that waits.
    ///
    /// `value` is written if the lock holds PW or EX at its master. One that waits to convert with CONVDEADLK may have gone
    /// down to NL there before this node was told: then nothing is written, and another may have written since. Where it
    /// was told, the completion says `demoted`.
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
        self.now = now;
        let known = self.in_use(lock).ok_or(RequestError::NoSuchLock)?;
        if known.pending.is_some() && !flags.has(Flags::FORCEUNLOCK) {
            return Err(RequestError::Busy);
        }
        if known.children > 0 {
            return Err(RequestError::HasSublocks(known.children));
        }
        if let Some(pending) = &known.pending {
            let mut completed = Completed { held: None, ..known.completed(lock, Status::Unlocked) };
            completed.remarks.demoted = pending.demoted;
            self.outputs.push_back(Output::Completed(completed));
        }
        let flags = flags.without(Flags::FORCEUNLOCK | Flags::FAILURE);
        if !self.keep(lock, flags, value) {
            self.release(lock, flags, value);
        }
        self.settle();
        Ok(())
    }

    /// Stops an operation that waits. It ends as cancelled, or as granted if that came first.
    ///
    /// # Errors
    /// See [`RequestError`]; nothing changed.
    pub fn cancel(&mut self, now: Instant, lock: u64) -> Result<(), RequestError> {
        self.now = now;
        let known = self.in_use(lock).ok_or(RequestError::NoSuchLock)?;
        if known.pending.as_ref().is_none_or(|p| p.stop.is_some()) {
            return Err(RequestError::Busy);
        }
        self.stop(lock, Stop::Cancelled);
        self.settle();
        Ok(())
    }

    /// What a lock holds and asks for; `None` if there is no such lock.
    #[must_use]
    pub fn lock_state(&self, lock: u64) -> Option<LockState> {
        let known = self.in_use(lock)?;
        Some(LockState {
            held: known.held,
            asked: known.pending.as_ref().map(|p| p.mode),
            token: known.token,
            reliable: self.standing == Standing::Active || sabotaged!(self, IgnoreSuspension),
            place: known.pending.as_ref().and_then(|p| p.place),
        })
    }

    pub(super) fn begin(
        &mut self,
        lock: u64,
        (mode, flags, value): (Mode, Flags, Option<Value>),
        deadline: Option<Instant>,
    ) {
        self.next_order += 1;
        let (now, order) = (self.now, self.next_order);
        let Some(known) = self.locks.get_mut(&lock) else { return };
        known.op += 1;
        let op = known.op;
        known.pending = Some(Pending {
            mode,
            flags,
            value,
            sent: false,
            known: false,
            place: None,
            fence: Vec::new(),
            since: now,
            deadline,
            search: None,
            order,
            stop: None,
            demoted: false,
            ranges: None,
        });
        if let Some(tree) = self.trees.get_mut(&known.key.tree) {
            tree.unsent.insert(order, lock);
        }
        self.waiting.insert(lock);
        if let Some(at) = deadline {
            self.timers.insert((at, Timer::Deadline(lock, op)));
        }
    }

    /// Sends, or does, what could not be sent before, as far as the master is known.
    pub(crate) fn flush_tree(&mut self, name: &Name) {
        if !self.acts() {
            self.unsettled.extend(self.trees.place(name));
            return;
        }
        let Some(tree) = self.trees.get_mut(name) else { return };
        let (to, all) = match &tree.route {
            Route::At(master) => (*master, true),
            Route::Here(_) => (self.local, true),
            Route::Looking(false) => match self.placement.as_ref() {
                Some(placement) => (placement.owner(tree.slot), false),
                None => return,
            },
            Route::Looking(true) | Route::Moving(_) | Route::Handing(_) | Route::Recovering(_) => return,
        };
        let deferred = if all { core::mem::take(&mut tree.deferred) } else { Vec::new() };
        let gave_back = !deferred.is_empty();
        self.push_deferred(to, deferred);
        if gave_back {
            // Perhaps that was all that this node had in it.
            self.tidy(&Key { tree: Name::clone(name), path: Name::from([]) });
        }
        if !all && self.trees.get(name).is_some_and(|tree| tree.locks.is_empty()) {
            self.scatter(name);
            return;
        }
        while let Some(lock) = self.next_unsent(name) {
            if let Some(item) = self.operation(lock, all) {
                self.push(to, item);
            }
            if !all {
                if let Some(tree) = self.trees.get_mut(name) {
                    (tree.route, tree.asked_by) = (Route::Looking(true), Some(lock));
                }
                self.lookups.insert(lock, name.clone());
                return;
            }
        }
        if all && !self.stopping.is_empty() {
            for lock in self.stopping_in(name) {
                if let Some(op) = self.locks.get(&lock).map(|known| known.op) {
                    self.push(to, Item::Cancel { lock, op });
                }
            }
        }
    }

    /// Locks of a tree whose operations are to be stopped.
    fn stopping_in(&self, name: &Name) -> Vec<u64> {
        let Some(tree) = self.trees.get(name) else { return Vec::new() };
        if tree.locks.len() < self.stopping.len() {
            return tree.locks.iter().copied().filter(|lock| self.stopping.contains(lock)).collect();
        }
        self.stopping.iter().copied().filter(|lock| tree.locks.contains(lock)).collect()
    }

    /// Forgets a tree whose master is not known. A master may have granted what was asked for and given back since: everybody is
    /// told, since nothing is left to ask for the master with.
    pub(crate) fn scatter(&mut self, name: &Name) {
        self.asked(name);
        for item in self.trees.remove(name).map(|tree| tree.deferred).unwrap_or_default() {
            self.left(&item);
            if !sabotaged!(self, ForgetReleases) {
                self.push_to_all(&item);
            }
        }
    }

    /// Sends what was given back, or converted down, before it could be sent.
    pub(crate) fn push_deferred(&mut self, to: NodeInstance, deferred: Vec<Item>) {
        for item in deferred {
            self.left(&item);
            self.push(to, item);
        }
    }

    /// A release that waited is sent, or has nobody to go to.
    pub(crate) fn left(&mut self, item: &Item) {
        if let Item::Unlock(unlock) = item {
            self.leaving.remove(&unlock.lock);
        }
    }

    /// The lock of the tree whose operation waited longest to be sent.
    fn next_unsent(&mut self, name: &Name) -> Option<u64> {
        self.trees.get_mut(name)?.unsent.pop_first().map(|(_, lock)| lock)
    }

    /// The operation under way as a message, which from now on counts as sent.
    fn operation(&mut self, lock: u64, known_master: bool) -> Option<Item> {
        let known = self.locks.get_mut(&lock)?;
        let pending = known.pending.as_mut()?;
        (pending.sent, pending.known) = (true, true);
        let (mode, flags, value) = (pending.mode, pending.flags, pending.value);
        let ranges = known.asked_ranges();
        let signal = self.signals.get(&lock).copied().unwrap_or_default();
        if known.held.is_some() {
            let orphan = if self.orphans.contains(&lock) { Flags::ORPHAN } else { Flags::NONE };
            let flags = flags | orphan;
            return Some(Item::Convert(Convert {
                lock,
                op: known.op,
                mode,
                flags,
                value,
                told: false,
                ranges,
                signal,
            }));
        }
        let request = Request {
            key: known.key.clone(),
            lock,
            op: known.op,
            client: known.client,
            transaction: known.transaction,
            mode,
            flags,
            ranges,
            signal,
        };
        Some(if known_master { Item::Request(request) } else { Item::Lookup(request) })
    }

    /// Says something to the master that needs no answer, now or when it is known.
    pub(crate) fn tell_master(&mut self, name: &Name, item: Item) {
        let may = self.standing == Standing::Active || sabotaged!(self, IgnoreSuspension);
        let Some((place, tree)) = self.trees.find_mut(name) else { return };
        let to = match &tree.route {
            Route::At(master) if may => *master,
            Route::Here(_) if may => self.local,
            Route::Looking(_)
            | Route::At(_)
            | Route::Here(_)
            | Route::Moving(_)
            | Route::Handing(_)
            | Route::Recovering(_) => {
                if let Item::Unlock(unlock) = &item {
                    self.leaving.insert(unlock.lock);
                }
                tree.deferred.push(item);
                if !may {
                    self.unsettled.insert(place);
                }
                return;
            }
        };
        // What could not be sent before goes before.
        let deferred = core::mem::take(&mut tree.deferred);
        self.push_deferred(to, deferred);
        self.push(to, item);
    }

    /// The lock is gone here; its master is told.
    pub(crate) fn release(&mut self, lock: u64, flags: Flags, value: Option<Value>) {
        self.touch_lock(lock);
        let Some(known) = self.forget_lock(lock) else { return };
        let unknown = known.held.is_none() && known.pending.as_ref().is_none_or(|p| !p.known);
        if !unknown {
            let value = value.map(|v| Value { sequence: known.value.map_or(0, |old| old.sequence + 1), ..v });
            let kept = if sabotaged!(self, ForgetUnwritten) {
                (flags, value)
            } else {
                known.with_unwritten(flags, value)
            };
            let (flags, value) = kept;
            // The master may have granted more than the client was told: what it writes goes by what it knew.
            let writes = known.held.is_some_and(Mode::is_writer);
            let flags = if writes { flags } else { flags.without(Flags::VALBLK | FAILED) };
            let value = value.filter(|_| writes);
            self.tell_master(&known.key.tree, Item::Unlock(Unlock { lock, flags, value }));
        }
        self.tidy(&known.key);
    }

    /// What those are told that are in the way of this lock from now on.
    pub(super) fn note_signal(&mut self, lock: u64, signal: u64) {
        if signal == 0 {
            self.signals.remove(&lock);
        } else {
            self.signals.insert(lock, signal);
        }
    }

    /// Takes a lock out of every table.
    pub(crate) fn forget_lock(&mut self, lock: u64) -> Option<ClientLock> {
        self.no_longer_kept(lock);
        let known = self.locks.remove(&lock)?;
        self.orphans.remove(&lock);
        self.domains.forget_collector(lock);
        self.signals.remove(&lock);
        self.forget_owner(lock, &known);
        let op = known.op;
        if let Some(pending) = &known.pending {
            if let Some(tree) = self.trees.get_mut(&known.key.tree) {
                tree.unsent.remove(&pending.order);
            }
            self.untimed(lock, op, pending);
        }
        if let Some(parent) = known.parent.and_then(|parent| self.locks.get_mut(&parent)) {
            parent.children -= 1;
        }
        if let Some(tree) = self.trees.get_mut(&known.key.tree) {
            tree.locks.remove(&lock);
        }
        Some(known)
    }

    /// An operation ended: its timers go.
    fn untimed(&mut self, lock: u64, op: u32, pending: &Pending) {
        self.waiting.remove(&lock);
        self.stopping.remove(&lock);
        if let Some(at) = pending.deadline {
            self.timers.remove(&(at, Timer::Deadline(lock, op)));
        }
        if let Some(at) = pending.search {
            self.timers.remove(&(at, Timer::Search(lock, op)));
        }
    }

    pub(crate) fn operation_over(&mut self, lock: u64, pending: &Pending) {
        let Some(known) = self.locks.get(&lock) else { return };
        let (op, order) = (known.op, pending.order);
        if let Some(tree) = self.trees.get_mut(&known.key.tree) {
            tree.unsent.remove(&order);
        }
        self.untimed(lock, op, pending);
    }

    /// Stops an operation: at once if no master knows of it, else by asking its master.
    pub(crate) fn stop(&mut self, lock: u64, why: Stop) {
        self.touch_lock(lock);
        let Some(known) = self.locks.get_mut(&lock) else { return };
        let Some(pending) = known.pending.as_mut() else { return };
        if pending.stop.is_some() {
            return;
        }
        pending.stop = Some(why);
        let (unsent, known_there) = (!pending.sent, pending.known);
        if unsent && (known.held.is_none() || !known_there) {
            let name = Name::clone(&known.key.tree);
            self.end_operation(lock, why.status());
            if known_there {
                // Who mastered it when it was sent may have it.
                self.tell_master(&name, Item::Unlock(Unlock { lock, flags: Flags::NONE, value: None }));
            }
        } else {
            self.stopping.insert(lock);
            let (name, op) = (known.key.tree.clone(), known.op);
            // While the directory is asked nobody can stop it; the first answer brings this up again.
            let may = self.standing == Standing::Active;
            let to = match self.trees.get(&name).map(|tree| &tree.route) {
                Some(Route::At(master)) if may => *master,
                Some(Route::Here(_)) if may => self.local,
                _ => {
                    if !may {
                        self.unsettled.extend(self.trees.place(&name));
                    }
                    return;
                }
            };
            self.push(to, Item::Cancel { lock, op });
        }
    }

    /// An operation ended without a grant.
    pub(crate) fn end_operation(&mut self, lock: u64, status: Status) {
        let Some(known) = self.locks.get_mut(&lock) else { return };
        let pending = known.pending.take();
        let demoted = pending.as_ref().is_some_and(|p| p.demoted);
        if let Some(pending) = pending {
            self.operation_over(lock, &pending);
        }
        let Some(known) = self.locks.get_mut(&lock) else { return };
        let mut completed = known.completed(lock, status);
        completed.remarks.demoted = demoted;
        let key = known.key.clone();
        if completed.held.is_none() {
            self.forget_lock(lock);
        }
        self.outputs.push_back(Output::Completed(completed));
        self.tidy(&key);
    }

    pub(crate) fn on_timer(&mut self, timer: Timer) {
        let under_way = |engine: &Self, lock: u64, op: u32| {
            engine.locks.get(&lock).is_some_and(|l| l.op == op && l.pending.is_some())
        };
        match timer {
            Timer::Deadline(lock, op) => {
                if under_way(self, lock, op) {
                    self.stop(lock, Stop::TimedOut);
                }
            }
            Timer::Search(lock, op) => {
                if under_way(self, lock, op) {
                    self.begin_search(lock);
                    let at = self.now + self.config.deadlock_delay;
                    if let Some(pending) = self.locks.get_mut(&lock).and_then(|l| l.pending.as_mut()) {
                        pending.search = Some(at);
                        self.timers.insert((at, Timer::Search(lock, op)));
                    }
                }
            }
            Timer::Sweep => self.idle_due = true,
            Timer::Kept => self.on_kept_timer(),
            Timer::Move(ticket) => self.on_move_timer(ticket),
        }
    }
}

impl Stop {
    pub(crate) const fn status(self) -> Status {
        match self {
            Self::Cancelled => Status::Cancelled,
            Self::TimedOut => Status::TimedOut,
            Self::Deadlock => Status::Deadlock,
        }
    }
}

fn check_flags(mode: Mode, flags: Flags) -> Result<(), RequestError> {
    let refuse = |rule| Err(RequestError::Flags { flags, rule });
    if flags.has_any(Flags::QUECVT | Flags::CONVDEADLK) {
        return refuse("for conversions only");
    }
    if flags.has(Flags::EXPEDITE) && (mode != Mode::Nl || flags.has(Flags::NOQUEUE)) {
        return refuse("EXPEDITE is for new NL locks that may queue");
    }
    if flags.has(Flags::FORCEUNLOCK) {
        return refuse("FORCEUNLOCK is for releases");
    }
    Ok(())
}
