//! What each node tells the new masters and directory keepers, and how they rebuild from it.

use crate::cluster::{
    Effects, Engine, Entry, Mastered, Queues, Route, SlotState, Tree, sabotaged, slot_number,
};
use crate::directory::{Placement, Slot};
use crate::range::RangeSet;
use crate::wire::{Answer, Claim, Handover, Item, Key, Name};
use crate::{FencingToken, Flags, Mode};
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
                    SlotState { blank: last.is_some_and(lost), since: self.epoch, ..SlotState::default() }
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
        for (number, state) in given {
            let Some(slot) = Slot::new(usize::from(number)) else { continue };
            let suspects: Vec<NodeInstance> = state.suspects.into_iter().collect();
            let incomplete = !state.ready;
            if incomplete || !suspects.is_empty() {
                let handover = Handover { slot: number, incomplete, suspects, orphans: Vec::new() };
                self.push(placement.owner(slot), Item::Handover(handover));
            }
        }
    }

    pub(super) fn touch_entry_at(&mut self, place: u32) {
        if let Some(name) = self.entries.key_at(place) {
            self.touch_entry(&name);
        }
    }

    /// Makes up for what views changed for a directory entry. It may be gone then: to the slot's keeper, which is told what
    /// the master cannot tell. Before each use of an entry.
    pub(crate) fn touch_entry(&mut self, name: &Name) {
        let Some(entry) = self.entries.get(name).filter(|entry| entry.epoch != self.epoch) else { return };
        let number = slot_number(Slot::of(name));
        let own = self.slots.get(&number).is_some_and(|slot| slot.since <= entry.epoch);
        // Where a tree is that was moving is not known: its master says so.
        let orphan = entry.moving || entry.master.is_none_or(|master| self.is_lost(master, entry.epoch));
        let mut suspects = entry.suspects.clone();
        if orphan {
            // Also of a tree that was an orphan before: who is gone now may not have come to claim its locks.
            suspects.extend(self.departed.keys().copied());
        }
        if own {
            let epoch = self.epoch;
            if let Some(entry) = self.entries.get_mut(name) {
                let master = entry.master.filter(|_| !orphan);
                *entry = Entry { master, suspects, epoch, moving: false };
            }
            return;
        }
        self.entries.remove(name);
        // Also of a tree that was given away: the word may not have reached its master, which then claims nothing.
        if (orphan || !suspects.is_empty())
            && let Some(keeper) = Slot::new(usize::from(number)).and_then(|slot| self.keeper(slot))
        {
            let orphans = vec![(Name::clone(name), suspects.into_iter().collect())];
            let handover = Handover { slot: number, incomplete: false, suspects: Vec::new(), orphans };
            self.push(keeper, Item::Handover(handover));
        }
    }

    /// Forgets an entry that says nothing any more.
    pub(super) fn clean_entry_at(&mut self, place: u32) {
        self.touch_entry_at(place);
        let Some((name, entry)) = self.entries.at(place) else { return };
        if entry.master.is_some() && entry.suspects.is_empty() {
            return;
        }
        let name = Name::clone(name);
        let mut suspects = entry.suspects.clone();
        suspects.retain(|x| !self.is_innocent(*x));
        let rebuilt = self.recovery.is_rebuilt();
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.suspects = suspects;
            if rebuilt && entry.master.is_none() && entry.suspects.is_empty() {
                self.entries.remove(&name);
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
            let entry = self.entry(&tree);
            if entry.master.is_none() {
                entry.suspects.extend(suspects);
            }
        }
    }

    /// Makes up for what views since `since` changed for a tree; claims it, or the locks of this node in it, from whoever
    /// keeps or masters it now.
    pub(crate) fn bring_up(&mut self, name: &Name, place: u32, since: u64) {
        let mut waiting = self.lose_handed(name);
        waiting.extend(self.interrupt_move(name));
        self.bring_up_route(name, place, since);
        self.decide(waiting);
    }

    fn bring_up_route(&mut self, name: &Name, place: u32, since: u64) {
        let Some(tree) = self.trees.at(place).map(|(_, tree)| tree) else { return };
        let Some(keeper) = self.keeper(tree.slot) else { return };
        match &tree.route {
            Route::Here(mastered) => {
                if self.recovery.has_moved(tree.slot) || mastered.relocated {
                    self.claim(keeper, Item::ClaimTree { tree: Name::clone(name) });
                }
                self.exorcise(name, since);
            }
            Route::Looking(_) if tree.locks.is_empty() => {
                // A master may have granted in an earlier view, and its answer was not taken.
                self.scatter(name);
            }
            Route::Looking(_) => {
                if !sabotaged!(self, ForgetLookups) {
                    self.asked(name);
                    if let Some(tree) = self.trees.get_mut(name) {
                        tree.route = Route::Looking(false);
                    }
                    self.unsend(name);
                    self.flush_tree(name);
                }
            }
            Route::At(master) if !self.is_lost(*master, since) => {}
            // Its barrier waits for the word of the next master.
            Route::Handing(_) => {}
            Route::At(_) | Route::Moving(_) | Route::Recovering(_) => {
                if tree.locks.is_empty() && tree.deferred.is_empty() {
                    self.trees.remove(name);
                    return;
                }
                if let Some(tree) = self.trees.get_mut(name) {
                    tree.route = Route::Recovering(keeper);
                }
                self.recovery.claimed_from.entry(keeper).or_default().push(place);
                self.recall_undecided(name);
                self.claim_locks(name, keeper);
            }
        }
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
            let gives_up = known.gives_up();
            let Some(pending) = known.pending.as_mut().filter(|p| p.sent) else { continue };
            // What waits for ranges is never down.
            let down = known.ranges.is_none() && known.held.is_some_and(|held| held.is_down(pending.mode));
            let decided = pending.place.is_some() || claim_all;
            let fell = pending.flags.has(Flags::CONVDEADLK) && !down && !decided;
            if down || !decided {
                pending.sent = false;
                tree.unsent.insert(pending.order, *lock);
            }
            // The last master may have let it go down to NL, or have granted it what it gave up this for, and have granted
            // others what it held.
            let to = if fell { Some(Mode::Nl) } else { gives_up.then_some(Mode::Cr) };
            if let Some(to) = to.filter(|_| !keep) {
                known.demote(to);
            }
        }
    }

    /// Tells the new master the locks of this node in a tree, by resource.
    fn claim_locks(&mut self, name: &Name, keeper: NodeInstance) {
        let Some(tree) = self.trees.get(name) else { return };
        let mut claims: Vec<Claim> = Vec::new();
        let mut at: BTreeMap<Name, usize> = BTreeMap::new();
        for (id, lock) in tree.locks.iter().filter_map(|id| self.locks.get(id).map(|lock| (*id, lock))) {
            let signal = self.signals.get(&id).copied().unwrap_or_default();
            let how = (self.now, self.orphans.contains(&id));
            let Some(mut claimed) = lock.claim((id, signal), how) else { continue };
            if sabotaged!(self, ClaimOnlyHeld) && claimed.held.is_none() {
                continue;
            }
            if sabotaged!(self, ForgetOrder) {
                claimed.place = None;
            }
            if sabotaged!(self, ClaimFirstRange)
                && let Some(ranges) = &mut claimed.ranges
                && let Some((range, kind)) = ranges.0.as_slice().first().copied()
            {
                ranges.0 = RangeSet::of(range, kind);
            }
            let path = &lock.key.path;
            let known = if claimed.ranges.is_some() {
                // They may be long: a message each.
                None
            } else if path.is_empty() {
                claims.iter().position(|c| c.key.path.is_empty())
            } else {
                at.get(path).copied()
            };
            let known = known.unwrap_or_else(|| {
                claims.push(Claim { key: lock.key.clone(), token: lock.token, ..Claim::nothing(name) });
                if !path.is_empty() {
                    at.insert(Name::clone(path), claims.len() - 1);
                }
                claims.len() - 1
            });
            let claim = &mut claims[known];
            claim.token = claim.token.max(lock.token);
            let certain = lock.value_certain && lock.held.is_some();
            let newer = lock.value.is_some_and(|v| claim.value.is_none_or(|old| v.sequence >= old.sequence));
            if !claim.value_certain && (certain || newer) {
                (claim.value, claim.value_invalid) = (lock.value, lock.value_invalid);
                claim.value_certain = certain;
            }
            claim.locks.push(claimed);
        }
        if claims.is_empty() {
            // Nothing to rebuild, but who masters it must be learned: releases wait for that.
            claims.push(Claim::nothing(name));
        }
        for claim in claims {
            self.claim(keeper, Item::Claim(claim));
        }
    }

    pub(crate) fn on_claim(&mut self, from: NodeInstance, claim: Claim) {
        if !self.slots.contains_key(&slot_number(Slot::of(&claim.key.tree))) || !self.recovery.takes_claims()
        {
            self.stats.misdirected += 1;
            return;
        }
        self.stats.claims += claim.locks.len() as u64;
        let tree = Name::clone(&claim.key.tree);
        self.recovery.claims.or_insert_with(&tree, Vec::new).push((from, claim));
    }

    /// Becomes the master of a tree that was claimed from this node, unless it has a living master.
    pub(crate) fn rebuild_tree(&mut self, name: &Name, mut claims: Claims) {
        self.touch_entry(name);
        let entry = self.entries.get(name).cloned().unwrap_or_default();
        let here = self.mastered(name).is_some();
        let master = if here { Some(self.local) } else { entry.master.filter(|m| self.is_member(*m)) };
        if let Some(hint) = master {
            let nodes: BTreeSet<NodeInstance> = claims.iter().map(|(node, _)| *node).collect();
            for node in nodes {
                let answer = Answer::Retry { tree: name.clone(), lock: 0, op: 0, hint };
                self.push(node, Item::Answer(answer));
            }
            return;
        }
        claims.retain(|(_, claim)| !claim.locks.is_empty());
        let kept = self.domains.covers(name) && !sabotaged!(self, ForgetFailures);
        if claims.is_empty() && !kept {
            return;
        }
        let slot = self.slots.get(&slot_number(Slot::of(name)));
        let mut suspects = entry.suspects;
        suspects.extend(self.departed.keys().copied());
        suspects.extend(slot.into_iter().flat_map(|slot| slot.suspects.iter().copied()));
        suspects.retain(|x| !self.is_innocent(*x));
        if sabotaged!(self, ForgetSuspects) {
            suspects.clear();
        }
        self.master_from_claims(name, claims, suspects);
        let local = self.local;
        let entry = self.entry(name);
        (entry.master, entry.suspects) = (Some(local), BTreeSet::new());
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
        if by_path.is_empty() {
            // Nobody is left who had a lock: it is kept for repair.
            by_path.insert(Name::from([]), Claims::new());
        }
        let mut mastered = Mastered::new(token, suspects.clone());
        for (path, claims) in by_path {
            let mut queues = Queues::new(self.config.value_length);
            queues.at(self.now).restore(&claims);
            if sabotaged!(self, TrustValue) {
                queues.trust_value();
            }
            for suspect in &suspects {
                if sabotaged!(self, SuspectNoRanges) {
                    queues.suspect_of(*suspect, None);
                } else {
                    queues.suspect(*suspect);
                }
            }
            let key = Key { tree: name.clone(), path: path.clone() };
            for entry in queues.entries().filter(|entry| entry.who.lock != 0) {
                self.holders.insert(entry.who, key.clone());
            }
            self.stats.recovered += claims.iter().map(|(_, claim)| claim.locks.len() as u64).sum::<u64>();
            mastered.resources.or_insert_with(&path, || queues);
        }
        let epoch = self.epoch;
        self.trees.or_insert_with(name, || Tree::new(name, epoch));
        let Some((place, tree)) = self.trees.find_mut(name) else { return };
        (tree.route, tree.idle_since) = (Route::Here(Box::new(mastered)), None);
        let asked = tree.asked_by.is_some();
        self.mastering += 1;
        self.recovery.to_grant.push_back(place);
        if asked {
            // The lookup is this node's own to decide, also if another view comes before its turn.
            self.asked(name);
            self.unsend(name);
        }
        if !suspects.is_empty() {
            self.haunted.insert(place);
        }
        self.tidy(&Key { tree: Name::clone(name), path: Name::from([]) });
    }

    /// Grants what the queues of a rebuilt tree allow.
    pub(super) fn grant_rebuilt(&mut self, name: &Name) {
        self.touch(name);
        let (mut changes, now) = (Vec::<(Key, Effects)>::new(), self.now);
        if let Some(Mastered { resources, token, .. }) = self.mastered(name) {
            for (path, queues) in resources.iter_mut() {
                let mut effects = Effects::new();
                queues.at(now).pass(token, &mut effects);
                queues.tell_places(&mut effects);
                if !effects.is_empty() {
                    changes.push((Key { tree: name.clone(), path: path.clone() }, effects));
                }
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

    /// `keeper` serves a tree that was claimed from it.
    pub(super) fn arrive(&mut self, name: &Name, keeper: NodeInstance) {
        let told = |lock: &u64| {
            let known = self.locks.get(lock);
            known.is_some_and(|l| l.held.is_some() || l.pending.as_ref().is_some_and(|p| p.sent))
        };
        let Some(tree) = self.trees.get(name) else { return };
        let claimed = tree.locks.is_empty() || tree.locks.iter().any(told);
        let Some(tree) = self.trees.get_mut(name) else { return };
        tree.route = if claimed { Route::At(keeper) } else { Route::Looking(false) };
        if !claimed {
            // Perhaps nobody had a lock to tell of, and it has no master: it is asked for as if it was new. What is given
            // back goes before.
            let deferred = core::mem::take(&mut tree.deferred);
            self.push_deferred(keeper, deferred);
        }
        self.flush_tree(name);
        self.tidy(&Key { tree: Name::clone(name), path: Name::from([]) });
    }
}
