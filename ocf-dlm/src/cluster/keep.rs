//! Grants that a node keeps at their master after its last client has let go, until somebody wants them. PROTOCOL.md, section 15.

use super::client::Timer;
use super::event::{Ask, Completed, Output};
use super::own::ClientLock;
use super::tree::Route;
use super::{Engine, Standing, sabotaged};
use crate::wire::{Item, NewOwner, Value};
use crate::{Flags, Mode, Status};
use core::time::Duration;
use pils::Instant;
use std::collections::BTreeSet;

/// How often a kept grant may be used again before the master is asked anew: so many tokens go with a grant to a writer.
pub const KEPT_USES: u64 = 1 << 16;

/// What asks for more than a plain grant is not kept.
const NOT_KEPT: Flags =
    Flags::PERSISTENT.with(Flags::NODOMAIN).with(Flags::ALTPR).with(Flags::ALTCW).with(Flags::EXPEDITE);

/// What a node knows of a lock that it may keep.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Keep {
    /// Nobody here has it.
    pub(crate) unused: bool,
    /// How often it may be used again.
    pub(crate) uses: u64,
    /// The value block was written here, and the master does not have it.
    pub(crate) unwritten: bool,
    /// The master may know another client as its owner.
    pub(crate) reused: bool,
}

/// Those that nobody has, and what follows from time.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct KeptLocks {
    unused: BTreeSet<(Instant, u64)>,
    timed: bool,
}

impl KeptLocks {
    pub(super) fn len(&self) -> usize {
        self.unused.len()
    }
}

impl ClientLock {
    /// What is to be written with a release or a conversion: at least what was written while it was kept.
    pub(crate) fn with_unwritten(&self, flags: Flags, value: Option<Value>) -> (Flags, Option<Value>) {
        let given = flags.has(Flags::VALBLK) && value.is_some();
        if self.keep.unwritten && !given && !flags.has(Flags::IVVALBLK) {
            return (flags | Flags::VALBLK, self.value);
        }
        (flags, value)
    }

    fn can_be_kept(&self) -> bool {
        let usual = self.pending.is_none() && self.children == 0 && !self.keep.unused;
        let complete = self.value_certain && self.value.is_some();
        usual && complete && self.flags.has(Flags::KEEP) && self.keep.uses > 0
    }
}

impl Engine {
    /// What a request is sent with.
    pub(super) fn flags_to_keep(&self, ask: &Ask, ranged: bool) -> Flags {
        let plain = !ranged && ask.parent.is_none() && !ask.flags.has_any(NOT_KEPT);
        if self.config.kept_max > 0 && plain && matches!(ask.mode, Mode::Pr | Mode::Ex) {
            return ask.flags | Flags::KEEP;
        }
        ask.flags.without(Flags::KEEP)
    }

    /// True if nobody on this node has the lock, which is kept for who asks next.
    #[must_use]
    pub fn is_kept(&self, lock: u64) -> bool {
        self.locks.get(&lock).is_some_and(|known| known.keep.unused)
    }

    /// A lock as long as a client has it.
    pub(super) fn in_use(&self, lock: u64) -> Option<&ClientLock> {
        self.locks.get(&lock).filter(|known| !known.keep.unused)
    }

    /// Keeps what a client gives back. False: it is to be released.
    pub(super) fn keep(&mut self, lock: u64, flags: Flags, value: Option<Value>) -> bool {
        let Some(name) = self.touch_lock(lock) else { return false };
        if self.config.kept_max == 0 || self.standing != Standing::Active || flags.has(Flags::IVVALBLK) {
            return false;
        }
        let Some(tree) = self.trees.get_mut(&name) else { return false };
        let remote = matches!(tree.route, Route::At(_)) && tree.deferred.is_empty();
        let Some(known) = self.locks.get_mut(&lock) else { return false };
        if !remote || tree.kept.is_some() || !known.can_be_kept() {
            return false;
        }
        tree.kept = Some(lock);
        let written = value.filter(|_| flags.has(Flags::VALBLK) && known.held == Some(Mode::Ex));
        if let Some(written) = written {
            let sequence = known.value.map_or(0, |old| old.sequence) + u64::from(!known.keep.unwritten);
            known.value = Some(Value { sequence, ..written });
            (known.keep.unwritten, known.value_invalid) = (true, false);
        }
        (known.keep.unused, known.since) = (true, self.now);
        self.kept.unused.insert((self.now, lock));
        self.stats.kept += 1;
        if self.kept.unused.len() > self.config.kept_max {
            self.give_back_first();
        }
        self.time_kept(Duration::ZERO);
        true
    }

    /// Gives a kept grant to a client that asks for just that; what is kept and is not asked for goes back.
    pub(super) fn reuse(&mut self, ask: &Ask, ranged: bool) -> Option<u64> {
        if ask.parent.is_some() || !ask.key.path.is_empty() {
            return None;
        }
        let lock = self.trees.get(&ask.key.tree)?.kept?;
        self.touch(&ask.key.tree);
        let tree = self.trees.get(&ask.key.tree).filter(|tree| tree.kept == Some(lock))?;
        let acts = self.standing == Standing::Active || sabotaged!(self, ReuseInDoubt);
        let may = acts && matches!(tree.route, Route::At(_));
        let fits = self.flags_to_keep(ask, ranged).has(Flags::KEEP);
        let known = self.locks.get(&lock)?;
        if !may || !fits || known.held != Some(ask.mode) || known.keep.uses == 0 {
            self.give_back(lock);
            return None;
        }
        self.no_longer_kept(lock);
        self.note_signal(lock, ask.signal);
        let step = if sabotaged!(self, KeepMoreTokens) { 2 * KEPT_USES } else { 1 };
        let known = self.locks.get_mut(&lock)?;
        let transaction = ask.transaction.unwrap_or_else(|| u64::from(ask.client.raw()));
        known.keep.reused |= (known.client, known.transaction) != (ask.client, transaction);
        (known.client, known.transaction, known.since) = (ask.client, transaction, self.now);
        known.flags = ask.flags | Flags::KEEP;
        known.keep.uses -= 1;
        if known.held == Some(Mode::Ex) {
            known.token.sequence += step;
        }
        let value = known.value.filter(|_| ask.flags.has(Flags::VALBLK));
        let completed = Completed { value, ..known.completed(lock, Status::Granted) };
        self.outputs.push_back(Output::Completed(completed));
        self.stats.reused += 1;
        Some(lock)
    }

    /// A lock is used, or gone.
    pub(super) fn no_longer_kept(&mut self, lock: u64) {
        let Some(known) = self.locks.get_mut(&lock).filter(|known| known.keep.unused) else { return };
        known.keep.unused = false;
        self.kept.unused.remove(&(known.since, lock));
        if let Some(tree) = self.trees.get_mut(&known.key.tree) {
            tree.kept = None;
        }
    }

    /// Tells the master that what was kept is free.
    pub(crate) fn give_back(&mut self, lock: u64) {
        self.stats.given_back += 1;
        self.release(lock, Flags::NONE, None);
    }

    /// Room for another.
    pub(super) fn give_back_first(&mut self) {
        if let Some((_, lock)) = self.kept.unused.first().copied() {
            self.give_back(lock);
        }
    }

    /// What a client had last goes back with it.
    pub(super) fn give_back_of(&mut self, client: crate::ClientId) {
        let theirs = |lock: &u64| self.locks.get(lock).is_some_and(|known| known.client == client);
        let theirs: Vec<u64> = self.kept.unused.iter().map(|(_, lock)| *lock).filter(theirs).collect();
        for lock in theirs {
            self.give_back(lock);
        }
    }

    /// The master needs an answer: a lock that is wanted goes back if nobody has it, or is said to be in use, and by whom.
    pub(super) fn on_wanted(&mut self, lock: u64, wanted: Mode, signal: u64) {
        let Some(known) = self.locks.get(&lock) else { return };
        if known.keep.unused {
            self.give_back(lock);
            return;
        }
        let (client, notify) = (known.client, known.held.is_some() && known.flags.has(Flags::NOTIFY));
        if known.flags.has(Flags::KEEP) {
            self.say_in_use(lock);
        }
        if notify {
            self.outputs.push_back(Output::Blocking { lock, client, wanted, signal });
        }
    }

    /// It will be released with its last use. The master learns who has it.
    pub(super) fn say_in_use(&mut self, lock: u64) {
        let Some(known) = self.locks.get_mut(&lock) else { return };
        known.flags = known.flags.without(Flags::KEEP);
        if let Some(pending) = &mut known.pending {
            pending.flags = pending.flags.without(Flags::KEEP);
        }
        (known.keep.uses, known.keep.reused) = (0, false);
        let (client, transaction) = (known.client, known.transaction);
        let name = known.key.tree.clone();
        self.tell_master(&name, Item::NewOwner(NewOwner { lock, client, transaction, flags: Flags::KEEP }));
    }

    /// Who converts may wait: searches for deadlocks must find it, not who had it before.
    pub(super) fn owner_converts(&mut self, lock: u64) {
        if self.in_use(lock).is_some_and(|known| known.keep.reused) {
            self.say_in_use(lock);
        }
    }

    /// Gives back what nobody has used for long.
    pub(super) fn on_kept_timer(&mut self) {
        self.kept.timed = false;
        for _ in 0..self.config.turn_max {
            let Some((since, lock)) = self.kept.unused.first().copied() else { return };
            if since + self.config.kept_for > self.now {
                break;
            }
            self.give_back(lock);
        }
        // What is left of the turn is not done in this call.
        self.time_kept(Duration::from_nanos(1));
    }

    fn time_kept(&mut self, later: Duration) {
        if let (Some((since, _)), false) = (self.kept.unused.first(), self.kept.timed) {
            let at = (*since + self.config.kept_for).max(self.now + later);
            self.timers.insert((at, Timer::Kept));
            self.kept.timed = true;
        }
    }
}
