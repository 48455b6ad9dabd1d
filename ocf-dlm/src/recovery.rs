//! What happens when the members change: who is gone, what is claimed from whom, and the two barriers.
//!
//! Only what the change touches waits: trees whose master is gone, and lookups in directory slots that have a new
//! keeper. Everything else goes on. PROTOCOL.md, section 9.

mod claims;
mod work;

use crate::cluster::{ClusterView, Engine, FAILED, Output, Route, Standing, Tree};
use crate::directory::{Placement, Slot, Weighted};
use crate::table::Table;
use crate::wire::{Barrier, Claim, Item, Name, Phase, Proof};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most instances proven dead that are remembered, to tell those who join.
const PROVEN_MAX: usize = 256;

/// How far this node is in the recovery of the newest view.
#[derive(Clone, Copy, Debug, Default, Hash)]
enum Stage {
    /// There was no view.
    #[default]
    Nothing,
    /// Entries and trees before these places are brought up to the view.
    Sweep { entries: u32, trees: u32 },
    /// All are; others are not so far.
    Claimed,
    /// Everybody's claims are here; those before this place are rebuilt.
    Rebuild(u32),
    /// All are, and entries before this place are looked at that only a lost node knew more of.
    Repair(u32),
    /// This node has rebuilt what it is to master, and serves its part of the directory.
    Rebuilt,
}

/// The recovery of the newest view.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Recovery {
    stage: Stage,
    claimed: BTreeSet<NodeInstance>,
    rebuilt: BTreeSet<NodeInstance>,
    over: bool,
    /// Slots that changed their keeper since the last recovery that was over.
    moved: BTreeSet<Slot>,
    /// Locks that nodes told to this one, by tree.
    claims: Table<Name, Vec<(NodeInstance, Claim)>>,
    /// Trees rebuilt here whose queues are to be looked at; by place.
    to_grant: VecDeque<u32>,
    /// Trees that this node claimed from each member; by place.
    claimed_from: BTreeMap<NodeInstance, Vec<u32>>,
    /// Claims on their way to each member.
    ahead: BTreeMap<NodeInstance, usize>,
    /// From which place on the locks of the dead are to be released.
    release: Option<u32>,
    /// From which place on entries are to be looked at that may not be needed.
    clean: Option<u32>,
}

impl Recovery {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            stage: Stage::Nothing,
            claimed: BTreeSet::new(),
            rebuilt: BTreeSet::new(),
            over: false,
            moved: BTreeSet::new(),
            claims: Table::new(seed),
            to_grant: VecDeque::new(),
            claimed_from: BTreeMap::new(),
            ahead: BTreeMap::new(),
            release: None,
            clean: None,
        }
    }

    pub(crate) const fn is_rebuilt(&self) -> bool {
        matches!(self.stage, Stage::Rebuilt)
    }

    /// True as long as claims may come.
    const fn takes_claims(&self) -> bool {
        matches!(self.stage, Stage::Sweep { .. } | Stage::Claimed)
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.over
    }

    fn has_moved(&self, slot: Slot) -> bool {
        self.moved.contains(&slot)
    }

    /// Forgets what it knows of all slots but these.
    #[cfg(feature = "testing")]
    pub(crate) fn keep_slots(&mut self, slots: &[Slot]) {
        self.moved.retain(|slot| slots.contains(slot));
    }

    fn is_far_ahead(&self, most: usize) -> bool {
        self.ahead.values().any(|claims| *claims >= most)
    }
}

impl Engine {
    /// A new view of the primary.
    pub(crate) fn on_view(&mut self, view: &ClusterView) {
        let joined = view.members.iter().find(|m| m.instance == self.local).map(|m| m.joined);
        let (Some(joined), true) = (joined, view.number > self.epoch) else {
            self.stats.stale += 1;
            return;
        };
        if self.standing == Standing::Outside && joined <= self.epoch {
            // It has given up everything, and the others do not know: as a member of old it could only do harm.
            self.stats.stale += 1;
            return;
        }
        self.interrupt_orders();
        self.flush();
        if joined > self.epoch {
            // A joiner has nothing from before; what it asked for and nobody knows of stays.
            self.give_up_all();
        }
        let (last, skipped) = (self.epoch, view.number > self.epoch + 1);
        let (lost, back) = self.who_is_gone(view);
        let own: Vec<Weighted> =
            view.members.iter().map(|m| Weighted { instance: m.instance, weight: m.weight }).collect();
        let new = Placement::new(&own);
        let before = (!view.previous.is_empty()).then(|| Placement::new(&view.previous));
        let old = self.placement.replace(new);
        self.members = view.members.iter().map(|m| (m.instance, m.joined)).collect();
        self.epoch = view.number;
        self.standing = Standing::Active;
        self.restart(last, old.as_ref(), before.as_ref());
        let gone: BTreeSet<NodeInstance> = lost.union(&back).copied().collect();
        self.domains.on_view(&gone);
        self.say_domains(true);
        self.directory_changes(before.as_ref(), &gone);
        let wanted = if skipped { self.departed.keys().copied().collect() } else { lost };
        for node in wanted {
            if self.departed.contains_key(&node) {
                self.outputs.push_back(Output::FenceWanted(node));
            }
        }
        view.unproven.iter().for_each(|node| self.suspect(*node));
        self.go_on();
    }

    /// Who left since the last view here: really, or to come back with nothing. Notes who is not proven dead.
    fn who_is_gone(&mut self, view: &ClusterView) -> (BTreeSet<NodeInstance>, BTreeSet<NodeInstance>) {
        let is_in = |x: &NodeInstance| view.members.iter().any(|m| m.instance == *x);
        let known = self.members.keys().copied().chain(view.previous.iter().map(|m| m.instance));
        let lost: BTreeSet<NodeInstance> = known.filter(|x| !is_in(x)).collect();
        let last = self.epoch;
        let back = view.members.iter().filter(|m| m.joined > last && m.instance != self.local);
        let back: BTreeSet<NodeInstance> = back.map(|m| m.instance).collect();
        // An instance that joins has given up what it had, and is alive.
        self.departed.retain(|x, _| !is_in(x));
        // In a view that was not seen here an instance may have come back and gone again: then what was proven of its
        // earlier time says nothing. Who saw that view says what still holds.
        let skipped = view.number > last + 1;
        self.proven.retain(|(x, dead)| *dead || !(skipped || is_in(x)));
        if skipped {
            self.departed.values_mut().for_each(|since| *since = view.number);
        }
        for node in &lost {
            if !self.is_proven(*node) {
                self.departed.insert(*node, view.number);
            }
        }
        (lost, back)
    }

    /// Forgets what an unfinished recovery collected, but not which slots moved since the last finished one.
    /// `last`: the view that this node was in before.
    fn restart(&mut self, last: u64, old: Option<&Placement>, before: Option<&Placement>) {
        let mut moved =
            if self.recovery.over { BTreeSet::new() } else { core::mem::take(&mut self.recovery.moved) };
        if let Some(new) = &self.placement {
            // A member that joined keeps nothing of a slot that was its own before.
            let skipped = self.epoch > last + 1;
            let fresh =
                |slot: &Slot| self.members.get(&new.owner(*slot)).is_some_and(|joined| *joined > last);
            moved.extend(Slot::all().filter(|slot| skipped || fresh(slot)));
            for other in [old, before].into_iter().flatten() {
                moved.extend(new.moved(other));
            }
        }
        self.recovery = Recovery {
            moved,
            stage: Stage::Sweep { entries: 0, trees: 0 },
            // What was rebuilt, and not looked at since, is mastered here all the same.
            to_grant: core::mem::take(&mut self.recovery.to_grant),
            release: Some(0),
            clean: Some(0),
            ..Recovery::new(self.seed)
        };
        self.waiting_lookups.clear();
        self.moving_lookups.clear();
        self.lookups.clear();
    }

    fn barrier(&self, phase: Phase) -> Item {
        let proven = self.proven.iter().map(|(x, _)| *x).filter(|x| !self.is_member(*x)).collect();
        Item::Barrier(Barrier { phase, unproven: self.departed.keys().copied().collect(), proven })
    }

    pub(crate) fn push_to_all(&mut self, item: &Item) {
        let members: Vec<NodeInstance> = self.members.keys().copied().collect();
        for to in members {
            self.push(to, item.clone());
        }
    }

    /// Another says of an instance that it left, and may still act.
    fn suspect(&mut self, node: NodeInstance) {
        if !self.is_innocent(node) && !self.departed.contains_key(&node) {
            self.departed.insert(node, self.epoch);
            self.outputs.push_back(Output::FenceWanted(node));
        }
    }

    pub(crate) fn on_barrier(&mut self, from: NodeInstance, barrier: Barrier) {
        for node in barrier.proven {
            self.apply_proof(node, false);
        }
        match barrier.phase {
            Phase::Claimed => {
                for node in barrier.unproven {
                    self.suspect(node);
                }
                self.recovery.claimed.insert(from);
                let everybody = self.members.keys().all(|m| self.recovery.claimed.contains(m));
                if everybody && matches!(self.recovery.stage, Stage::Claimed) {
                    self.recovery.stage = Stage::Rebuild(0);
                }
            }
            // What was claimed from it is noticed tree by tree.
            Phase::Rebuilt => _ = self.recovery.rebuilt.insert(from),
        }
    }

    /// So many claims have arrived there.
    pub(crate) fn on_taken(&mut self, from: NodeInstance, claims: u32) {
        if let Some(ahead) = self.recovery.ahead.get_mut(&from) {
            *ahead = ahead.saturating_sub(claims as usize);
        }
    }

    /// Says something of this node's locks or trees to the keeper of a slot.
    fn claim(&mut self, keeper: NodeInstance, item: Item) {
        if keeper != self.local {
            *self.recovery.ahead.entry(keeper).or_default() += 1;
        }
        self.push(keeper, item);
    }

    /// Everything that was claimed from this node is rebuilt: it serves its directory slots.
    fn rebuilt(&mut self) {
        self.recovery.stage = Stage::Rebuilt;
        let unproven: BTreeSet<NodeInstance> = self.departed.keys().copied().collect();
        let dead = self.proven.iter().map(|(x, _)| *x);
        let innocent: BTreeSet<NodeInstance> = dead.chain(self.members.keys().copied()).collect();
        for slot in self.slots.values_mut().filter(|slot| !slot.ready) {
            slot.ready = true;
            if slot.blank {
                slot.suspects.extend(unproven.iter().copied());
            }
            slot.suspects.retain(|x| !innocent.contains(x));
        }
        self.recovery.clean = Some(0);
        let barrier = self.barrier(Phase::Rebuilt);
        self.push_to_all(&barrier);
    }

    /// The local provider says that an instance acts no more: everybody is told.
    pub(crate) fn on_proof(&mut self, instance: NodeInstance, proof: Proof) {
        if self.standing == Standing::Suspended {
            self.proofs.push((instance, proof, self.epoch));
        } else {
            self.on_proven(instance, proof, self.epoch);
        }
        let members: Vec<NodeInstance> = self.members.keys().copied().filter(|m| *m != self.local).collect();
        for to in members {
            self.push(to, Item::Proven { instance, proof });
        }
    }

    /// A proof that was given in `epoch`. That a lease has ended says nothing of a later life in the primary.
    pub(crate) fn on_proven(&mut self, instance: NodeInstance, proof: Proof, epoch: u64) {
        let dead = proof != Proof::LeaseExpired;
        let since = self.departed.get(&instance).copied();
        if !dead && (self.is_member(instance) || since.is_some_and(|since| epoch < since)) {
            self.stats.stale += 1;
            return;
        }
        self.apply_proof(instance, dead);
    }

    /// An instance acts no more: what it held is free.
    fn apply_proof(&mut self, instance: NodeInstance, dead: bool) {
        if self.is_proven(instance) || instance == self.local {
            return;
        }
        self.proven.push_back((instance, dead));
        let releasing = self.recovery.release.is_some_and(|at| self.haunted.range(at..).next().is_some());
        if self.proven.len() > PROVEN_MAX && !releasing {
            self.proven.pop_front();
        }
        self.departed.remove(&instance);
        if self.is_member(instance) {
            // The view will say so, too; until then its locks are those of a member.
            return;
        }
        for slot in self.slots.values_mut() {
            slot.suspects.remove(&instance);
        }
        (self.recovery.release, self.recovery.clean) = (Some(0), Some(0));
    }

    /// This node is outside the primary: it has nothing any more. It does not forget who is not proven dead: perhaps
    /// everybody else joins anew, too, and then nobody would know.
    pub(crate) fn on_non_primary(&mut self) {
        self.interrupt_orders();
        self.give_up_all();
        self.standing = Standing::Outside;
        self.members.clear();
        self.placement = None;
    }

    /// This node may not act, and its clients lose what they hold; but the others may still count on what it knows. When it
    /// goes on, the masters are told of the locks that were given up here as of those of a client that ended.
    pub(crate) fn on_dormant(&mut self) {
        if self.standing == Standing::Outside {
            return;
        }
        self.interrupt_orders();
        self.standing = Standing::Suspended;
        for lock in self.tell_lost() {
            self.release(lock, FAILED, None);
        }
    }

    /// Tells clients of the locks that are lost to them, all that a master may know of. Which those are, children first.
    fn tell_lost(&mut self) -> Vec<u64> {
        let mut lost = Vec::new();
        // Sublocks before the locks above them.
        let mut locks: Vec<u64> = self.locks.keys().copied().collect();
        locks.sort_unstable();
        for lock in locks.into_iter().rev() {
            let Some(known) = self.locks.get(&lock) else { continue };
            if known.keep.unused {
                lost.push(lock);
                continue;
            }
            let client = known.client;
            let told = if known.held.is_some() {
                Output::Lost { lock, client }
            } else if known.pending.as_ref().is_none_or(|p| p.sent) || known.parent.is_some() {
                Output::Completed(known.completed(lock, crate::Status::Lost))
            } else {
                continue;
            };
            self.outputs.push_back(told);
            lost.push(lock);
        }
        lost
    }

    /// Drops all state of earlier views. Clients are told which locks are lost; what no master knows of stays.
    fn give_up_all(&mut self) {
        self.flush();
        self.loopback.clear();
        self.slots.clear();
        self.entries.clear();
        self.waiting_lookups.clear();
        self.moving_lookups.clear();
        self.moving.clear();
        self.handing.clear();
        self.to_move.clear();
        self.to_hand.clear();
        self.lookups.clear();
        self.holders.clear();
        self.haunted.clear();
        self.unsettled.clear();
        self.leaving.clear();
        self.stopping.clear();
        self.recovery = Recovery::new(self.seed);
        self.domains.give_up();
        for lock in self.tell_lost() {
            self.forget_lock(lock);
        }
        self.mastering = 0;
        self.idle.clear();
        for (name, tree) in self.trees.drain().collect::<Vec<_>>() {
            if !tree.locks.is_empty() {
                let route = Route::Looking(false);
                let tree = Tree { route, deferred: Vec::new(), asked_by: None, idle_noted: false, ..tree };
                self.trees.insert(name, tree);
            }
        }
    }

    /// The lease is confirmed: what waited for it is done.
    pub(crate) fn go_on(&mut self) {
        for (instance, proof, epoch) in core::mem::take(&mut self.proofs) {
            self.on_proven(instance, proof, epoch);
        }
    }
}
