//! The part of the directory that this node keeps: which node masters which tree.

use super::{Engine, sabotaged};
use crate::FencingToken;
use crate::directory::Slot;
use crate::wire::{Answer, Item, Key, Name, Request};
use pils::NodeInstance;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A slot that this node keeps.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct SlotState {
    /// Everybody has told what it masters in it.
    pub(crate) ready: bool,
    /// Its last keeper is gone, or never had it complete: what nobody claims may have been mastered by a departed node.
    pub(crate) blank: bool,
    /// Departed instances that may have locks of trees that are not listed.
    pub(crate) suspects: BTreeSet<NodeInstance>,
    /// Highest token of a tree of the slot that was given up.
    pub(crate) floor: FencingToken,
    /// The view in which it fell to this node: entries from before are not its own.
    pub(crate) since: u64,
}

/// A tree in the directory.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Entry {
    /// Who masters it; `None`: its master is gone.
    pub(crate) master: Option<NodeInstance>,
    /// Departed instances that may have locks of it.
    pub(crate) suspects: BTreeSet<NodeInstance>,
    /// The view to which it was brought up last.
    pub(crate) epoch: u64,
    /// It moves from its master to another: who looks for it waits.
    pub(crate) moving: bool,
}

impl Engine {
    /// Who keeps the slot, in the newest view.
    pub(crate) fn keeper(&self, slot: Slot) -> Option<NodeInstance> {
        self.placement.as_ref().map(|placement| placement.owner(slot))
    }

    fn own_slot(&mut self, tree: &Name) -> Option<&mut SlotState> {
        self.slots.get_mut(&slot_number(Slot::of(tree)))
    }

    /// Somebody wants a lock in a tree whose master it does not know.
    pub(crate) fn on_lookup(&mut self, origin: NodeInstance, request: Request) {
        let recovering = !self.recovery.is_rebuilt();
        let Some(slot) = self.own_slot(&request.key.tree) else {
            self.stats.misdirected += 1;
            return;
        };
        let (ready, floor, suspects) = (slot.ready, slot.floor, slot.suspects.clone());
        self.touch_entry(&request.key.tree);
        let orphan = self.entries.get(&request.key.tree).is_some_and(|entry| entry.master.is_none());
        if (!ready || (orphan && recovering)) && !sabotaged!(self, SkipBarrier) {
            self.waiting_lookups.push_back((origin, request));
            return;
        }
        let entry = self.entry(&request.key.tree);
        if entry.moving {
            self.moving_lookups.push_back((origin, request));
            return;
        }
        match entry.master {
            Some(master) if master != origin => {
                if master == self.local {
                    self.on_request(origin, Some(self.local), request);
                } else {
                    self.push(master, Item::Forward { origin, request });
                }
            }
            _ => {
                entry.master = Some(origin);
                // They stay in the entry: the word may be too late for this view, and then it is asked for again.
                let mut suspects: BTreeSet<NodeInstance> = &suspects | &entry.suspects;
                suspects.retain(|x| !self.is_innocent(*x));
                if sabotaged!(self, OwnWithoutSuspects) {
                    suspects.clear();
                }
                let floor = floor.max(FencingToken { epoch: self.epoch, sequence: 0 });
                let suspects = suspects.into_iter().collect();
                self.push(origin, Item::Own { tree: request.key.tree, floor, suspects });
            }
        }
    }

    /// A master gives up a tree that has no locks.
    pub(crate) fn on_forget(&mut self, from: NodeInstance, tree: &Name, floor: FencingToken) {
        let Some(slot) = self.own_slot(tree) else { return };
        slot.floor = slot.floor.max(floor);
        self.touch_entry(tree);
        let Some(entry) = self.entries.get_mut(tree).filter(|entry| entry.master == Some(from)) else {
            return;
        };
        entry.master = None;
        // Who may hold locks of it unseen stays noted until it is proven dead: the sender may never have heard of them.
        if entry.suspects.is_empty() {
            self.entries.remove(tree);
        }
    }

    /// A master says, in recovery, that it masters a tree of a slot that is new here.
    pub(crate) fn on_claim_tree(&mut self, from: NodeInstance, tree: Name) {
        if self.own_slot(&tree).is_none() {
            self.stats.misdirected += 1;
            return;
        }
        let entry = self.entry(&tree);
        entry.master = Some(from);
        entry.suspects.clear();
        self.thaw_entry(&tree);
    }

    /// The entry of a tree, brought up to the newest view; a new one if there is none.
    pub(crate) fn entry(&mut self, tree: &Name) -> &mut Entry {
        self.touch_entry(tree);
        let epoch = self.epoch;
        self.entries.or_insert_with(tree, || Entry { epoch, ..Entry::default() })
    }

    /// The directory says that nobody masters the tree: this node does from now on.
    pub(crate) fn on_own(
        &mut self,
        from: NodeInstance,
        tree: Name,
        floor: FencingToken,
        suspects: Vec<NodeInstance>,
    ) {
        let suspects: BTreeSet<NodeInstance> =
            suspects.into_iter().filter(|x| !self.is_innocent(*x)).collect();
        let floor = if sabotaged!(self, TokensStartAnew) { FencingToken::default() } else { floor };
        self.touch(&tree);
        let recovered = self.mastered(&tree).is_some();
        if recovered || self.become_master(&tree, floor, suspects) {
            self.asked(&tree);
            // The request that was the lookup is this node's own to decide.
            self.unsend(&tree);
            self.flush_tree(&tree);
            self.tidy(&Key { tree, path: Arc::from([]) });
        } else if !self.trees.contains_key(&tree) {
            self.push(from, Item::Forget { tree, floor });
        }
    }

    /// The directory gave this node a tree in an earlier view. If it does not ask for it any more, nobody else would say that
    /// there is no such tree.
    pub(crate) fn on_late_own(&mut self, tree: Name, floor: FencingToken) {
        use super::tree::Route;
        self.touch(&tree);
        let route = self.trees.get(&tree).map(|tree| &tree.route);
        if !matches!(route, Some(Route::Looking(true) | Route::Here(_)))
            && let Some(keeper) = self.keeper(Slot::of(&tree))
        {
            self.push(keeper, Item::Forget { tree, floor });
        }
    }

    /// The directory has answered for a tree, or the question is not valid any more.
    pub(crate) fn asked(&mut self, tree: &Name) {
        if let Some(lock) = self.trees.get_mut(tree).and_then(|tree| tree.asked_by.take()) {
            self.lookups.remove(&lock);
        }
    }

    /// Answers a request for a tree that is not mastered here.
    pub(crate) fn refer(&mut self, origin: NodeInstance, keeper: Option<NodeInstance>, request: &Request) {
        use super::tree::Route;
        let route = self.trees.get(&request.key.tree).map(|tree| &tree.route);
        let hint = match route {
            Some(Route::At(master) | Route::Moving(master)) if *master != origin => *master,
            _ => self.local,
        };
        let looking = matches!(route, Some(Route::Looking(_) | Route::Moving(_)));
        if let (Some(keeper), false) = (keeper, looking) {
            // The directory believes that the tree is here. It may have missed that it was given up.
            let floor = FencingToken::default();
            self.push(keeper, Item::Forget { tree: request.key.tree.clone(), floor });
        }
        let (tree, lock, op) = (request.key.tree.clone(), request.lock, request.op);
        self.push(origin, Item::Answer(Answer::Retry { tree, lock, op, hint }));
    }
}

/// The number of a slot as the maps and messages have it.
pub(crate) fn slot_number(slot: Slot) -> u16 {
    u16::try_from(slot.index()).unwrap_or(u16::MAX)
}
