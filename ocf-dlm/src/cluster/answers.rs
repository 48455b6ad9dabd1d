//! What masters say about the locks of this node.

use super::client::Timer;
use super::event::{Completed, Output};
use super::keep::{KEPT_USES, Keep};
use super::tree::Route;
use super::{Engine, sabotaged};
use crate::wire::{Answer, Item, Key, Name, Refusal, Unlock, Value};
use crate::{FencingToken, Flags, Mode, Remarks, Status, Transfer};
use pils::NodeInstance;
use std::sync::Arc;

/// What a grant brings.
struct Grant {
    mode: Mode,
    token: FencingToken,
    remarks: Remarks,
    value: Option<Value>,
}

impl Engine {
    pub(crate) fn on_answer(&mut self, from: NodeInstance, epoch: u64, answer: Answer) {
        let (lock, op) = match &answer {
            Answer::Granted { lock, op, .. }
            | Answer::Queued { lock, op, .. }
            | Answer::Refused { lock, op, .. }
            | Answer::Retry { lock, op, .. }
            | Answer::Tested { lock, op, .. } => (*lock, Some(*op)),
            Answer::Blocking { lock, .. } => (*lock, None),
        };
        if let Answer::Retry { tree, hint, .. } = &answer
            && lock == 0
        {
            self.on_redirect(epoch, tree, *hint);
            return;
        }
        let Some(name) = self.locks.get(&lock).map(|known| Name::clone(&known.key.tree)) else {
            self.on_answer_to_nobody(from, epoch, &answer, lock);
            return;
        };
        self.touch(&name);
        let Some(known) = self.locks.get(&lock) else { return };
        if let Answer::Blocking { wanted, signal, .. } = answer {
            if known.held.is_some() {
                self.on_wanted(lock, wanted, signal);
            }
            return;
        }
        if op != Some(known.op) || known.pending.as_ref().is_none_or(|p| !p.sent) {
            return;
        }
        if !self.accepts(&name, from, epoch) && !self.rebuilds(&name, from, epoch, &answer) {
            self.stats.stale += 1;
            return;
        }
        match answer {
            Answer::Retry { hint, .. } => self.on_retry(from, &name, hint),
            Answer::Granted { mode, token, remarks, value, .. } => {
                self.learn_master(&name, from);
                self.on_granted(lock, Grant { mode, token, remarks, value });
                self.flush_tree(&name);
            }
            Answer::Queued { place, demoted, fence, .. } => {
                self.learn_master(&name, from);
                self.on_queued(lock, (place, demoted), fence);
                self.flush_tree(&name);
            }
            Answer::Refused { why, held, .. } => {
                self.learn_master(&name, from);
                self.on_refused(lock, why, held);
                self.flush_tree(&name);
            }
            Answer::Tested { blocker, .. } => {
                self.learn_master(&name, from);
                self.on_tested(lock, blocker);
                self.flush_tree(&name);
            }
            Answer::Blocking { .. } => {}
        }
    }

    /// An answer about a lock that was given up while it was on its way. It still tells who masters the tree.
    fn on_answer_to_nobody(&mut self, from: NodeInstance, epoch: u64, answer: &Answer, lock: u64) {
        // A release that waits to be sent may write the value block: this one must not overtake it.
        let leaves = self.leaving.contains(&lock);
        if !leaves && matches!(answer, Answer::Granted { .. } | Answer::Queued { .. }) {
            self.push(from, Item::Unlock(Unlock { lock, flags: Flags::NONE, value: None }));
        }
        let Some(name) = self.lookups.get(&lock).cloned() else { return };
        self.touch(&name);
        if !self.accepts(&name, from, epoch) {
            return;
        }
        match answer {
            Answer::Retry { hint, .. } => {
                self.on_retry(from, &name, *hint);
                // Perhaps nobody here wants it any more.
                self.tidy(&Key { tree: name, path: Arc::from([]) });
            }
            Answer::Granted { .. }
            | Answer::Queued { .. }
            | Answer::Refused { .. }
            | Answer::Tested { .. } => {
                self.learn_master(&name, from);
                self.flush_tree(&name);
                self.tidy(&Key { tree: name, path: Arc::from([]) });
            }
            Answer::Blocking { .. } => {}
        }
    }

    /// True if `from` may speak for the tree.
    fn accepts(&self, name: &Name, from: NodeInstance, epoch: u64) -> bool {
        if sabotaged!(self, IgnoreEpoch) {
            return true;
        }
        match self.trees.get(name).map(|tree| &tree.route) {
            Some(Route::Looking(true)) => epoch == self.epoch,
            Some(Route::At(master) | Route::Moving(master)) => *master == from,
            Some(Route::Here(_)) => from == self.local,
            Some(Route::Looking(false) | Route::Handing(_) | Route::Recovering(_)) | None => false,
        }
    }

    /// True if it is the word of the tree's new master, which goes on with what it has rebuilt before all of it is: then its
    /// word comes before the barrier, and is not said again.
    fn rebuilds(&self, name: &Name, from: NodeInstance, epoch: u64, answer: &Answer) -> bool {
        let keeper =
            matches!(self.trees.get(name).map(|t| &t.route), Some(Route::Recovering(x)) if *x == from);
        keeper && epoch == self.epoch && !matches!(answer, Answer::Retry { .. })
    }

    /// The answer to a lookup came from the master.
    fn learn_master(&mut self, name: &Name, from: NodeInstance) {
        if let Some(tree) = self.trees.get_mut(name)
            && matches!(tree.route, Route::Looking(_))
            && from != self.local
        {
            tree.route = Route::At(from);
            self.asked(name);
        }
    }

    fn on_granted(&mut self, lock: u64, mut grant: Grant) {
        let now = self.now;
        let Some(pending) = self.locks.get_mut(&lock).and_then(|known| known.pending.take()) else { return };
        self.operation_over(lock, &pending);
        let Some(known) = self.locks.get_mut(&lock) else { return };
        // A master that rebuilt the queue knows nothing of it.
        grant.remarks.demoted |= pending.demoted;
        let transfer = Mode::transfer(known.held, grant.mode);
        let uses = if known.held.is_none() && pending.flags.has(Flags::KEEP) { KEPT_USES } else { 0 };
        known.keep = Keep { uses, ..Keep::default() };
        known.flags = pending.flags;
        known.since = now;
        known.held = Some(grant.mode);
        known.token = grant.token;
        // It was repaired since (section 16): what was given before is not what is there.
        let repaired = known.value_invalid && !grant.remarks.value_invalid;
        known.value_invalid = grant.remarks.value_invalid;
        match transfer {
            Transfer::Read if grant.value.is_some() => {
                known.value = grant.value;
                known.value_certain = grant.mode > Mode::Cr;
            }
            Transfer::Write if pending.flags.has(Flags::VALBLK) && pending.value.is_some() => {
                known.value = pending.value;
            }
            // What was given above CR stays the newest: nobody could write since.
            Transfer::Read | Transfer::Write | Transfer::Nothing => {
                known.value_certain &= grant.mode > Mode::Cr && !grant.remarks.demoted && !repaired;
            }
        }
        let given_up = known.take_ranges(lock, &pending);
        let completed = Completed {
            lock,
            client: known.client,
            status: Status::Granted,
            held: known.held,
            token: grant.token,
            remarks: grant.remarks,
            value: grant.value.filter(|_| pending.flags.has(Flags::VALBLK)),
        };
        let name = Name::clone(&known.key.tree);
        self.outputs.push_back(Output::Completed(completed));
        if let Some(item) = given_up.filter(|_| !sabotaged!(self, KeepGivenUp)) {
            self.tell_master(&name, item);
        }
    }

    fn on_queued(&mut self, lock: u64, (place, demoted): (i64, bool), fence: Vec<NodeInstance>) {
        let search_at = self.now + self.config.deadlock_delay;
        let demoted = demoted && !sabotaged!(self, ForgetDemotions);
        let Some(known) = self.locks.get_mut(&lock) else { return };
        let Some(pending) = known.pending.as_mut() else { return };
        if pending.flags.has(Flags::NOQUEUE) {
            // It is not decided: a kept grant is asked for. Another master has to decide it as new.
            return;
        }
        pending.place = Some(place);
        pending.fence = fence;
        if pending.search.is_none() {
            pending.search = Some(search_at);
            self.timers.insert((search_at, Timer::Search(lock, known.op)));
        }
        if demoted {
            known.demote(Mode::Nl);
        }
    }

    fn on_refused(&mut self, lock: u64, why: Refusal, held: Option<Mode>) {
        let Some(known) = self.locks.get_mut(&lock) else { return };
        known.held = held.filter(|_| known.held.is_some());
        let stop = known.pending.as_ref().and_then(|p| p.stop);
        let status = match (why, stop) {
            (Refusal::NotQueued, _) => Status::NotQueued,
            (Refusal::Deadlock, _) => Status::Deadlock,
            (Refusal::Cancelled, Some(stop)) => stop.status(),
            (Refusal::Cancelled, None) => Status::Cancelled,
            (Refusal::Limit, _) => Status::NotQueued,
        };
        self.end_operation(lock, status);
    }

    /// Who was taken for the master is not: ask where it points, or the directory.
    fn on_retry(&mut self, from: NodeInstance, name: &Name, hint: NodeInstance) {
        let hinted = hint != from && hint != self.local && self.is_member(hint);
        let Some(tree) = self.trees.get_mut(name) else { return };
        if let Route::Here(_) = tree.route {
            return;
        }
        tree.route = if hinted { Route::At(hint) } else { Route::Looking(false) };
        self.asked(name);
        self.unsend(name);
        self.flush_tree(name);
    }

    /// In recovery: the tree has a living master, to which nothing of ours is lost.
    fn on_redirect(&mut self, epoch: u64, name: &Name, hint: NodeInstance) {
        if epoch == self.epoch {
            self.on_master(hint, name);
        }
    }

    /// A tree that was to be recovered, or that moved, is mastered by `master`.
    pub(crate) fn on_master(&mut self, master: NodeInstance, name: &Name) {
        self.touch(name);
        let Some(tree) = self.trees.get_mut(name) else { return };
        if !matches!(tree.route, Route::Recovering(_) | Route::Moving(_))
            || !self.members.contains_key(&master)
        {
            return;
        }
        if master == self.local {
            return;
        }
        tree.route = Route::At(master);
        self.unsend(name);
        self.flush_tree(name);
        // Perhaps nobody here has anything in it any more.
        self.tidy(&Key { tree: Name::clone(name), path: Arc::from([]) });
    }

    /// Operations under way are sent again; a master that knows them says so.
    pub(crate) fn unsend(&mut self, name: &Name) {
        let Some(tree) = self.trees.get_mut(name) else { return };
        for lock in &tree.locks {
            if let Some(pending) = self.locks.get_mut(lock).and_then(|l| l.pending.as_mut()) {
                pending.sent = false;
                tree.unsent.insert(pending.order, *lock);
            }
        }
    }
}
