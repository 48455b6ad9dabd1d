//! What a change leaves to be done, a bounded part in each call.
//!
//! A view, a proof or a lease that is confirmed again may concern millions of trees. Who is told of it notes only that it
//! happened; a walk over the trees, the entries and the claims makes up for it, and whatever is used before the walk comes
//! by is brought up first ([`Engine::touch`]). PROTOCOL.md, section 9.

use super::Stage;
use crate::cluster::{Engine, Output, Route, sabotaged};
use crate::wire::{Name, Phase};
use pils::NodeInstance;

/// One thing that is to be done; the first of these that there is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// A message that waited for the view or the lease is read.
    Held(NodeInstance),
    /// The directory entry at this place is brought up to the view.
    Entry(u32),
    /// So is the tree at this place.
    Tree(u32),
    /// Everything is claimed that this node has to claim.
    Claimed,
    /// The tree claimed at this place of the claims is rebuilt.
    Rebuild(u32),
    /// What only a lost node knew is kept for repair, of the directory's entry at this place.
    Repair(u32),
    /// All are.
    Rebuilt,
    /// What a rebuilt tree's queues allow is granted.
    Grant,
    /// A lookup that waited for the directory is answered.
    Lookup,
    /// A tree that was claimed from this member is served by it.
    Arrive(NodeInstance),
    /// The locks of instances that are dead by now are released in the tree at this place.
    Release(u32),
    /// What could not be sent while the lease was in doubt is sent.
    Flush(u32),
    /// The entry at this place may not be needed any more.
    Clean(u32),
    /// A tree that is ready is sent to its next master.
    Hand,
    /// A tree begins to move to who uses it most.
    Move,
    /// What is kept for repair may not have to be any more.
    Unmark,
    /// Trees are given up that were idle for long.
    Sweep,
}

impl Engine {
    /// What is to be done next, if anything can be done now.
    pub(crate) fn next_task(&self) -> Option<Task> {
        if !self.acts() {
            return None;
        }
        if let Some(from) = self.next_held() {
            return Some(Task::Held(from));
        }
        let recovery = &self.recovery;
        match recovery.stage {
            Stage::Sweep { entries, .. } if entries < self.entries.end() => {
                return Some(Task::Entry(entries));
            }
            Stage::Sweep { trees, .. } if trees < self.trees.end() => {
                if !recovery.is_far_ahead(self.config.claims_ahead_max) {
                    return Some(Task::Tree(trees));
                }
            }
            Stage::Sweep { .. } if self.handing.is_empty() || sabotaged!(self, MoveUnsettled) => {
                return Some(Task::Claimed);
            }
            Stage::Rebuild(at) if at < recovery.claims.end() => return Some(Task::Rebuild(at)),
            Stage::Rebuild(_) if !self.domains.is_empty() => return Some(Task::Repair(0)),
            Stage::Repair(at) if at < self.entries.end() => return Some(Task::Repair(at)),
            Stage::Rebuild(_) | Stage::Repair(_) => return Some(Task::Rebuilt),
            // Whether a tree that was sent away has arrived is to be known first.
            Stage::Sweep { .. } | Stage::Nothing | Stage::Claimed | Stage::Rebuilt => {}
        }
        if !recovery.to_grant.is_empty() {
            return Some(Task::Grant);
        }
        if recovery.is_rebuilt() && !self.waiting_lookups.is_empty() {
            return Some(Task::Lookup);
        }
        let serves = |(keeper, trees): &(&NodeInstance, &Vec<u32>)| {
            !trees.is_empty() && recovery.rebuilt.contains(keeper)
        };
        if let Some((keeper, _)) = recovery.claimed_from.iter().find(serves) {
            return Some(Task::Arrive(*keeper));
        }
        if let Some(place) = self.next_release() {
            return Some(Task::Release(place));
        }
        if let Some(place) = self.unsettled.first() {
            return Some(Task::Flush(*place));
        }
        if !self.to_hand.is_empty() {
            return Some(Task::Hand);
        }
        if recovery.is_over() && !self.to_move.is_empty() {
            return Some(Task::Move);
        }
        if self.domains.has_stale() {
            return Some(Task::Unmark);
        }
        match recovery.clean {
            Some(at) if at < self.entries.end() => Some(Task::Clean(at)),
            _ => self.may_sweep().then_some(Task::Sweep),
        }
    }

    /// Does what is to be done, up to [`turn_max`](crate::cluster::Config::turn_max) steps.
    pub(crate) fn work(&mut self) {
        let mut done = 0;
        while done < self.config.turn_max
            && let Some(task) = self.next_task()
        {
            done += self.carry_out(task);
            self.settle();
        }
        self.finish();
    }

    /// Does one thing. How much it was.
    fn carry_out(&mut self, task: Task) -> usize {
        match task {
            Task::Held(from) => return self.take_held(from),
            Task::Entry(place) => {
                if let Stage::Sweep { entries, .. } = &mut self.recovery.stage {
                    *entries = place + 1;
                }
                self.touch_entry_at(place);
            }
            Task::Tree(place) => {
                if let Stage::Sweep { trees, .. } = &mut self.recovery.stage {
                    *trees = place + 1;
                }
                if let Some(name) = self.name_at(place) {
                    self.touch(&name);
                }
            }
            Task::Claimed => {
                self.recovery.stage = Stage::Claimed;
                let barrier = self.barrier(Phase::Claimed);
                self.push_to_all(&barrier);
            }
            Task::Rebuild(place) => {
                self.recovery.stage = Stage::Rebuild(place + 1);
                if let Some((name, claims)) = self.recovery.claims.take_at(place) {
                    self.rebuild_tree(&name, claims);
                }
            }
            Task::Repair(place) => {
                self.recovery.stage = Stage::Repair(place + 1);
                self.repair_entry_at(place);
            }
            Task::Rebuilt => self.rebuilt(),
            Task::Grant => {
                if let Some(place) = self.recovery.to_grant.pop_front()
                    && let Some(name) = self.name_at(place)
                {
                    self.grant_rebuilt(&name);
                }
            }
            Task::Lookup => {
                if let Some((origin, request)) = self.waiting_lookups.pop_front()
                    && self.is_member(origin)
                {
                    self.on_lookup(origin, request);
                }
            }
            Task::Arrive(keeper) => {
                let place = self.recovery.claimed_from.get_mut(&keeper).and_then(Vec::pop);
                if let Some(name) = place.and_then(|place| self.name_at(place)) {
                    self.touch(&name);
                }
            }
            Task::Release(place) => self.release_at(place),
            Task::Flush(place) => {
                self.unsettled.remove(&place);
                if let Some(name) = self.name_at(place) {
                    self.touch(&name);
                    self.flush_tree(&name);
                }
            }
            Task::Clean(place) => {
                self.recovery.clean = Some(place + 1);
                self.clean_entry_at(place);
            }
            Task::Hand => self.hand_next(),
            Task::Move => self.move_next(),
            Task::Unmark => self.unmark_next(),
            Task::Sweep => self.sweep(),
        }
        1
    }

    /// The next tree with locks of instances that may be proven dead by now.
    pub(crate) fn next_release(&self) -> Option<u32> {
        self.recovery.release.and_then(|at| self.haunted.range(at..).next()).copied()
    }

    fn release_at(&mut self, place: u32) {
        self.recovery.release = Some(place + 1);
        if let Some(name) = self.name_at(place)
            && let Some(epoch) = self.trees.get(&name).map(|tree| tree.epoch)
        {
            self.exorcise(&name, epoch);
        } else {
            self.haunted.remove(&place);
        }
    }

    /// Says that the recovery is over, if it is: everybody serves, and nothing is left to be done of it here.
    pub(crate) fn finish(&mut self) {
        let recovery = &self.recovery;
        // After every call: nothing is looked at once it is over.
        if recovery.over {
            return;
        }
        let over = recovery.is_rebuilt()
            && recovery.to_grant.is_empty()
            && self.waiting_lookups.is_empty()
            && recovery.claimed_from.values().all(Vec::is_empty)
            && self.members.keys().all(|member| recovery.rebuilt.contains(member));
        if over {
            self.recovery.over = true;
            self.recovery.moved.clear();
            self.recovery.claimed_from.clear();
            self.outputs.push_back(Output::Recovered { epoch: self.epoch });
        }
    }

    fn name_at(&mut self, place: u32) -> Option<Name> {
        self.trees.key_at(place)
    }

    /// True if a tree that `master` mastered in view `since` is not mastered by it any more.
    pub(crate) fn is_lost(&self, master: NodeInstance, since: u64) -> bool {
        self.members.get(&master).is_none_or(|joined| *joined > since)
    }

    /// Makes up for what views changed for a tree since it was used. It may be gone then. Before each use of a tree.
    pub(crate) fn touch(&mut self, name: &Name) {
        if !self.acts() {
            return;
        }
        let Some((place, tree)) = self.trees.find_mut(name) else { return };
        if tree.epoch != self.epoch {
            let since = core::mem::replace(&mut tree.epoch, self.epoch);
            self.bring_up(name, place, since);
        } else if let Route::Recovering(keeper) = tree.route
            && self.recovery.rebuilt.contains(&keeper)
        {
            self.arrive(name, keeper);
        }
    }

    /// Brings up the tree of a lock, and gives its name.
    pub(crate) fn touch_lock(&mut self, lock: u64) -> Option<Name> {
        let name = Name::clone(&self.locks.get(&lock)?.key.tree);
        self.touch(&name);
        Some(name)
    }
}
