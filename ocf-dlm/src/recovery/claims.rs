//! What each node tells the new masters and directory keepers, and how they rebuild from it.

use crate::cluster::{
    Effects, Engine, Entry, Mastered, Queues, Route, SlotState, Tree, sabotaged, slot_number,
};
use crate::directory::{Placement, Slot};
use crate::wire::{Answer, Claim, Handover, Item, Key, Name};
use crate::{FencingToken, Flags};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// How far tokens jump when grants may have been made that nobody knows of.
const TOKEN_JUMP: u64 = 1 << 20;

type Claims = Vec<(NodeInstance, Claim)>;

impl Engine {
    /// Gives away and takes over directory slots. `before`: the placement of the primary view before this one.
    pub(super) fn directory_changes(&mut self, before: Option<&Placement>, gone: &BTreeSet<NodeInstance>) {
        let Some(placement) = self.placement.clone() else { return };
        let mut slots = BTreeMap::new();
        for slot in Slot::all().filter(|slot| placement.owner(*slot) == self.local) {
            let number = slot_number(slot);
            // A slot that is kept goes on as it was; one that never was complete stays so.
            let state = match self.slots.remove(&number) {
                // What its former keeper had to say for the last view may never come.
                Some(kept) => SlotState { blank: kept.blank || !kept.ready, ..kept },
                None => {
                    // Who was to keep it in the last view, but saw only a later one (this node, too), never had it.
                    let last = before.map(|before| before.owner(slot));
                    let lost = |last| last == self.local || gone.contains(&last) || !self.is_member(last);
                    SlotState { blank: last.is_some_and(lost), ..SlotState::default() }
                }
            };
            slots.insert(number, state);
        }
        let mut given = core::mem::replace(&mut self.slots, slots);
        // Slots that fell to this node in a view that it did not see: their next keepers must not trust its silence.
        for slot in Slot::all().filter(|slot| before.is_some_and(|before| before.owner(*slot) == self.local))
        {
            let number = slot_number(slot);
            if !self.slots.contains_key(&number) {
                given.entry(number).or_default();
            }
        }
        self.hand_over(given, &placement);
        for entry in self.entries.values_mut() {
            if entry.master.is_some_and(|master| gone.contains(&master)) {
                entry.master = None;
            }
            // Also a tree that was an orphan before: who is gone now may not have come to claim its locks.
            if entry.master.is_none() {
                entry.suspects.extend(self.departed.keys().copied());
            }
        }
    }

    /// Tells the new keepers of slots what the masters cannot tell them.
    fn hand_over(&mut self, given: BTreeMap<u16, SlotState>, placement: &Placement) {
        let mut orphans: BTreeMap<u16, Vec<(Name, Vec<NodeInstance>)>> = BTreeMap::new();
        let leaves = |name: &Name| !self.slots.contains_key(&slot_number(Slot::of(name)));
        let names: Vec<Name> = self.entries.keys().filter(|name| leaves(name)).cloned().collect();
        for name in names {
            let Some(mut entry) = self.entries.remove(&name) else { continue };
            let orphan = entry.master.is_none_or(|master| !self.is_member(master));
            if orphan {
                entry.suspects.extend(self.departed.keys().copied());
            }
            // Also of a tree that was given away: the word may not have reached its master, which then claims nothing.
            if orphan || !entry.suspects.is_empty() {
                let number = slot_number(Slot::of(&name));
                orphans.entry(number).or_default().push((name, entry.suspects.into_iter().collect()));
            }
        }
        for (number, state) in given {
            let Some(slot) = Slot::new(usize::from(number)) else { continue };
            let orphans = orphans.remove(&number).unwrap_or_default();
            let suspects: Vec<NodeInstance> = state.suspects.into_iter().collect();
            let incomplete = !state.ready;
            if incomplete || !suspects.is_empty() || !orphans.is_empty() {
                let handover = Handover { slot: number, incomplete, suspects, orphans };
                self.push(placement.owner(slot), Item::Handover(handover));
            }
        }
    }

    pub(crate) fn on_handover(&mut self, handover: Handover) {
        let Some(slot) = self.slots.get_mut(&handover.slot) else {
            self.stats.misdirected += 1;
            return;
        };
        slot.blank |= handover.incomplete;
        slot.suspects.extend(handover.suspects);
        for (tree, suspects) in handover.orphans {
            if slot_number(Slot::of(&tree)) != handover.slot {
                self.stats.misdirected += 1;
                continue;
            }
            let entry = self.entries.entry(tree).or_default();
            if entry.master.is_none() {
                entry.suspects.extend(suspects);
            }
        }
    }

    /// Claims, from their new keepers and masters, the trees and locks of this node that the change touches.
    pub(super) fn tree_changes(&mut self, gone: &BTreeSet<NodeInstance>) {
        let Some(placement) = self.placement.take() else { return };
        let names: Vec<Name> = self.trees.keys().cloned().collect();
        for name in names {
            let Some(tree) = self.trees.get_mut(&name) else { continue };
            let keeper = placement.owner(tree.slot);
            match &tree.route {
                Route::Here(_) => {
                    if self.recovery.has_moved(tree.slot) {
                        self.push(keeper, Item::ClaimTree { tree: name });
                    }
                }
                Route::Looking(_) if tree.locks.is_empty() => {
                    // A master may have granted what was asked for in an earlier view, and its answer was not taken: what was
                    // given back meanwhile goes to everybody, since nothing is left to ask for the master with.
                    for item in self.trees.remove(&name).map(|tree| tree.deferred).unwrap_or_default() {
                        self.push_to_all(&item);
                    }
                }
                Route::Looking(_) => {
                    if !sabotaged!(self, ForgetLookups) {
                        if let Some(tree) = self.trees.get_mut(&name) {
                            tree.route = Route::Looking(false);
                        }
                        self.unsend(&name);
                    }
                }
                Route::At(master) if !gone.contains(master) => {}
                Route::At(_) | Route::Recovering(_) => {
                    if tree.locks.is_empty() && tree.deferred.is_empty() {
                        self.trees.remove(&name);
                        continue;
                    }
                    tree.route = Route::Recovering(keeper);
                    self.recall_undecided(&name);
                    let mut claims = self.claims_of(&name);
                    if claims.is_empty() {
                        // Nothing to rebuild, but who masters it must be learned: releases wait for that.
                        claims.push(Claim::nothing(&name));
                    }
                    for claim in claims {
                        self.push(keeper, Item::Claim(claim));
                    }
                }
            }
        }
        self.placement = Some(placement);
    }

    /// Operations that no master is known to have queued are asked for again, not claimed: the new master must decide them
    /// as new ones, or it would let one wait that is not to wait, or that is in a deadlock. So are conversions down, also
    /// to the same mode: they are granted at once, and may write the value block, which no claim carries.
    fn recall_undecided(&mut self, name: &Name) {
        let claim_all = sabotaged!(self, ClaimUndecided);
        let keep = sabotaged!(self, ForgetDemotions);
        let Some(tree) = self.trees.get_mut(name) else { return };
        for lock in &tree.locks {
            let Some(known) = self.locks.get_mut(lock) else { continue };
            let Some(pending) = known.pending.as_mut().filter(|p| p.sent) else { continue };
            let down = known.held.is_some_and(|held| held.is_down(pending.mode));
            if !down && (pending.place.is_some() || claim_all) {
                continue;
            }
            pending.sent = false;
            tree.unsent.insert(pending.order, *lock);
            if pending.flags.has(Flags::CONVDEADLK) && !down && !keep {
                // The last master may have let it go down to NL, and have granted others what it held.
                known.demote();
            }
        }
    }

    /// The locks of this node in a tree, by resource, as a new master must know them.
    fn claims_of(&self, name: &Name) -> Vec<Claim> {
        let Some(tree) = self.trees.get(name) else { return Vec::new() };
        let mut claims: BTreeMap<&Key, Claim> = BTreeMap::new();
        for (id, lock) in tree.locks.iter().filter_map(|id| self.locks.get(id).map(|lock| (*id, lock))) {
            let Some(mut claimed) = lock.claim(id) else { continue };
            if sabotaged!(self, ClaimOnlyHeld) && claimed.held.is_none() {
                continue;
            }
            if sabotaged!(self, ForgetOrder) {
                claimed.place = None;
            }
            let claim = claims.entry(&lock.key).or_insert_with(|| Claim {
                key: lock.key.clone(),
                token: lock.token,
                value: None,
                value_certain: false,
                value_invalid: false,
                locks: Vec::new(),
            });
            claim.token = claim.token.max(lock.token);
            let certain = lock.value_certain && lock.held.is_some();
            let newer = lock.value.is_some_and(|v| claim.value.is_none_or(|old| v.sequence >= old.sequence));
            if !claim.value_certain && (certain || newer) {
                (claim.value, claim.value_invalid) = (lock.value, lock.value_invalid);
                claim.value_certain = certain;
            }
            claim.locks.push(claimed);
        }
        claims.into_values().collect()
    }

    pub(crate) fn on_claim(&mut self, from: NodeInstance, claim: Claim) {
        if !self.slots.contains_key(&slot_number(Slot::of(&claim.key.tree))) || self.recovery.is_rebuilt() {
            self.stats.misdirected += 1;
            return;
        }
        self.stats.claims += claim.locks.len() as u64;
        self.recovery.claims.entry(claim.key.tree.clone()).or_default().push((from, claim));
    }

    /// Becomes the master of every tree that was claimed from this node and has no living master. Gives their names.
    pub(super) fn rebuild_trees(&mut self, unproven: &BTreeSet<NodeInstance>) -> Vec<Name> {
        let mut rebuilt = Vec::new();
        for (name, mut claims) in core::mem::take(&mut self.recovery.claims) {
            let entry = self.entries.get(&name).cloned().unwrap_or_default();
            let here = self.mastered(&name).is_some();
            let master = if here { Some(self.local) } else { entry.master.filter(|m| self.is_member(*m)) };
            if let Some(hint) = master {
                let nodes: BTreeSet<NodeInstance> = claims.iter().map(|(node, _)| *node).collect();
                for node in nodes {
                    let answer = Answer::Retry { tree: name.clone(), lock: 0, op: 0, hint };
                    self.push(node, Item::Answer(answer));
                }
                continue;
            }
            claims.retain(|(_, claim)| !claim.locks.is_empty());
            if claims.is_empty() {
                continue;
            }
            let slot = self.slots.get(&slot_number(Slot::of(&name)));
            let mut suspects = entry.suspects;
            suspects.extend(unproven.iter().copied());
            suspects.extend(slot.into_iter().flat_map(|slot| slot.suspects.iter().copied()));
            suspects.retain(|x| !self.is_innocent(*x));
            if sabotaged!(self, ForgetSuspects) {
                suspects.clear();
            }
            self.master_from_claims(&name, claims, suspects);
            let entry = Entry { master: Some(self.local), suspects: BTreeSet::new() };
            self.entries.insert(name.clone(), entry);
            rebuilt.push(name);
        }
        rebuilt
    }

    fn master_from_claims(&mut self, name: &Name, claims: Claims, suspects: BTreeSet<NodeInstance>) {
        let last = claims.iter().map(|(_, claim)| claim.token).max().unwrap_or_default();
        let sequence = last.sequence.saturating_add(TOKEN_JUMP).min(pils::wire::VARINT_MAX >> 1);
        let token = FencingToken { epoch: self.epoch, sequence };
        let token = if sabotaged!(self, TokensStartAnew) { FencingToken::default() } else { token };
        let mut by_path: BTreeMap<Name, Claims> = BTreeMap::new();
        for (node, claim) in claims {
            by_path.entry(claim.key.path.clone()).or_default().push((node, claim));
        }
        let mut mastered = Mastered::new(token, suspects.clone());
        for (path, claims) in by_path {
            let mut queues = Queues::new(self.config.value_length);
            queues.restore(&claims);
            if sabotaged!(self, TrustValue) {
                queues.trust_value();
            }
            for suspect in &suspects {
                queues.suspect(*suspect);
            }
            let key = Key { tree: name.clone(), path: path.clone() };
            for entry in queues.entries().filter(|entry| entry.who.lock != 0) {
                self.holders.insert(entry.who, key.clone());
            }
            self.stats.recovered += claims.iter().map(|(_, claim)| claim.locks.len() as u64).sum::<u64>();
            mastered.resources.insert(path, queues);
        }
        let tree = self.trees.entry(name.clone()).or_insert_with(|| Tree::new(name));
        tree.route = Route::Here(Box::new(mastered));
        if !suspects.is_empty() {
            self.suspected.insert(name.clone());
        }
    }

    /// Grants what the rebuilt queues allow.
    pub(super) fn grant_rebuilt(&mut self, rebuilt: &[Name]) {
        for name in rebuilt {
            let mut changes: Vec<(Key, Effects)> = Vec::new();
            if let Some(Mastered { resources, token, .. }) = self.mastered(name) {
                for (path, queues) in resources.iter_mut() {
                    let mut effects = Effects::new();
                    queues.pass(token, &mut effects);
                    queues.tell_places(&mut effects);
                    changes.push((Key { tree: name.clone(), path: path.clone() }, effects));
                }
            }
            for (key, mut effects) in changes {
                if sabotaged!(self, ForgetNotices) {
                    effects.retain(|(_, effect)| !effect.is_blocking());
                }
                self.carry(&key, effects);
                self.tidy(&key);
            }
            self.flush_tree(name);
        }
    }

    /// A node serves what was claimed from it.
    pub(super) fn on_rebuilt(&mut self, from: NodeInstance) {
        let waiting = |route: &Route| matches!(route, Route::Recovering(target) if *target == from);
        let names: Vec<Name> =
            self.trees.iter().filter(|(_, t)| waiting(&t.route)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let told = |lock: &u64| {
                let known = self.locks.get(lock);
                known.is_some_and(|l| l.held.is_some() || l.pending.as_ref().is_some_and(|p| p.sent))
            };
            let Some(tree) = self.trees.get_mut(&name) else { continue };
            let claimed = tree.locks.is_empty() || tree.locks.iter().any(told);
            tree.route = if claimed { Route::At(from) } else { Route::Looking(false) };
            if !claimed {
                // Perhaps nobody had a lock to tell of, and it has no master: it is asked for as if it was new. What is
                // given back goes before.
                for item in core::mem::take(&mut tree.deferred) {
                    self.push(from, item);
                }
            }
            self.flush_tree(&name);
            self.tidy(&Key { tree: name, path: std::sync::Arc::from([]) });
        }
    }
}
