//! A tree moves to the member that uses it most. PROTOCOL.md, section 14.

use super::client::Timer;
use super::queue::{Holder, Queues};
use super::tree::{Mastered, Route, Tree};
use super::{Engine, sabotaged};
use crate::directory::Slot;
use crate::wire::{Item, Key, MovedTree, Name, Request};
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most locks and ranges of a tree that moves, and each 64 bytes of the names below its root count as one: it is one item of a message,
/// and waits until that has arrived.
pub const MOVED_MAX: usize = 4096;
/// What a lock takes in that message, about.
const BYTES_OF_A_LOCK: usize = 64;
/// Each move doubles the time until the next one of the same tree, so often at most.
const DOUBLINGS_MAX: u8 = 6;

/// Who used a tree of late. The leader's count is what it has over all other members but the master together.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Activity {
    since: Instant,
    own: u32,
    leader: Option<NodeInstance>,
    lead: u32,
}

impl Activity {
    /// Notes a use by a member, or by the master itself (`None`). Who should be the master, if a time of `after` is over and that is
    /// not the one it is.
    fn note(
        &mut self,
        now: Instant,
        by: Option<NodeInstance>,
        (after, least): (Duration, u32),
    ) -> Option<NodeInstance> {
        let mut found = None;
        let taken = now.since(self.since);
        if taken >= after {
            // What was noted long ago says nothing of now.
            let fresh = taken < after * 2;
            found = self.leader.filter(|_| fresh && self.lead >= least && self.lead / 2 > self.own);
            *self = Self { since: now, ..Self::default() };
        }
        match by {
            None => self.own = self.own.saturating_add(1),
            Some(by) if self.leader == Some(by) => self.lead = self.lead.saturating_add(1),
            Some(by) if self.lead == 0 => (self.leader, self.lead) = (Some(by), 1),
            Some(_) => self.lead -= 1,
        }
        found
    }
}

/// A request that waits for what becomes of a move: whose it is, who forwarded it, and in which view it came.
pub(crate) type Waiting = (NodeInstance, Option<NodeInstance>, u64, Request);

/// A tree that is mastered here and is to move: everybody concerned is asked to say no more of it.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Moving {
    to: NodeInstance,
    ticket: u64,
    until: Instant,
    asked: BTreeSet<NodeInstance>,
    awaited: BTreeSet<NodeInstance>,
    requests: Vec<Waiting>,
}

/// A tree that was sent to its next master, which has not said yet that it has it.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Handing {
    to: NodeInstance,
    ticket: u64,
    /// What it was, brought up to this view.
    mastered: Box<Mastered>,
    since: u64,
    requests: Vec<Waiting>,
}

impl Engine {
    /// A tree that is mastered here is used.
    pub(crate) fn note_use(&mut self, name: &Name, by: NodeInstance) {
        let (after, least) = (self.config.move_after, self.config.move_uses_min);
        if after.is_zero() {
            return;
        }
        let by = (by != self.local).then_some(by);
        let now = self.now;
        let Some(mastered) = self.mastered(name) else { return };
        let after = after * (1 << mastered.moves.min(DOUBLINGS_MAX));
        if let Some(to) = mastered.activity.note(now, by, (after, least)) {
            self.to_move.push_back((Name::clone(name), to));
        }
    }

    /// Keeps a request that is not to be decided here now, if the tree moves. `None`: it waits.
    pub(crate) fn defer_request(
        &mut self,
        origin: NodeInstance,
        keeper: Option<NodeInstance>,
        request: Request,
    ) -> Option<Request> {
        let (local, epoch) = (self.local, self.epoch);
        let requests = match self.trees.get_mut(&request.key.tree).map(|tree| &mut tree.route) {
            Some(Route::Handing(handing)) => &mut handing.requests,
            Some(Route::Here(mastered)) => match &mut mastered.moving {
                // Who was asked says so when it has no more to say; of all others none must become a holder unasked.
                Some(moving) if origin != local && !moving.asked.contains(&origin) => &mut moving.requests,
                Some(_) | None => return Some(request),
            },
            Some(Route::Looking(_) | Route::At(_) | Route::Moving(_) | Route::Recovering(_)) | None => {
                return Some(request);
            }
        };
        requests.push((origin, keeper, epoch, request));
        None
    }

    /// Has a tree that is mastered here move to another member, as if that had used it most. It stays if somebody is not ready, does
    /// not answer for [`Config::move_patience`](super::Config::move_patience), or a view comes; [`Stats`](super::Stats) tell. False, and
    /// nothing happens, if it is not mastered here.
    #[must_use = "it may not be mastered here"]
    pub fn move_tree(&mut self, now: Instant, key: &Key, to: NodeInstance) -> bool {
        self.now = now;
        self.touch(&key.tree);
        let here = self.mastered(&key.tree).is_some();
        if here {
            self.to_move.push_back((Name::clone(&key.tree), to));
        }
        self.settle();
        here
    }

    /// Begins to move the next of the trees that are to.
    pub(crate) fn move_next(&mut self) {
        if let Some((name, to)) = self.to_move.pop_front() {
            self.begin_move(&name, to);
        }
    }

    /// Sends the next of the trees that are ready.
    pub(crate) fn hand_next(&mut self) {
        if let Some(name) = self.to_hand.pop_front() {
            self.hand_over(&name);
        }
    }

    fn begin_move(&mut self, name: &Name, to: NodeInstance) {
        self.touch(name);
        let Some(place) = self.trees.place(name) else { return };
        let Some(mastered) = self.trees.get(name).and_then(Tree::mastered) else { return };
        let Some(mut asked) = mastered.who_would_wait() else { return };
        let keeper = self.keeper(Slot::of(name));
        let able =
            mastered.moving.is_none() && mastered.suspects.is_empty() && !self.haunted.contains(&place);
        let able = able && !self.keeps_for_repair(name);
        let known = asked.iter().all(|node| self.is_member(*node));
        let (Some(keeper), true) = (keeper, able && known && to != self.local && self.is_member(to)) else {
            return;
        };
        asked.extend([to, keeper]);
        asked.remove(&self.local);
        if keeper == self.local && !self.freeze_entry(name, keeper) {
            return;
        }
        self.next_ticket += 1;
        let (ticket, until) = (self.next_ticket, self.now + self.config.move_patience);
        self.moving.insert(ticket, Name::clone(name));
        self.timers.insert((until, Timer::Move(ticket)));
        for node in &asked {
            self.push(*node, Item::Move { tree: Name::clone(name), ticket, to });
        }
        let awaited = asked.clone();
        let moving = Moving { to, ticket, until, asked, awaited, requests: Vec::new() };
        if sabotaged!(self, MoveUndrained) {
            self.to_hand.push_back(Name::clone(name));
        }
        if let Some(mastered) = self.mastered(name) {
            // Also if it stays: a view may come before the directory hears of it.
            (mastered.moving, mastered.relocated) = (Some(Box::new(moving)), true);
        }
    }

    /// The directory gives nobody to a tree that moves. False if it does not list it as mastered by `master`.
    fn freeze_entry(&mut self, name: &Name, master: NodeInstance) -> bool {
        self.touch_entry(name);
        let entry = self.entries.get_mut(name).filter(|entry| entry.master == Some(master));
        entry.map(|entry| entry.moving = true).is_some()
    }

    /// The tree is where the directory says.
    pub(crate) fn thaw_entry(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.moving = false;
        }
        let (theirs, others) = core::mem::take(&mut self.moving_lookups)
            .into_iter()
            .partition(|(_, request): &(NodeInstance, Request)| request.key.tree == *name);
        self.moving_lookups = others;
        self.waiting_lookups.extend::<std::collections::VecDeque<_>>(theirs);
    }

    /// The master of a tree asks this node, which keeps it in the directory, has locks in it, or is to master it, to say no more of it.
    pub(crate) fn on_move(&mut self, from: NodeInstance, name: &Name, ticket: u64, to: NodeInstance) {
        self.touch(name);
        let keeps = self.slots.contains_key(&super::slot_number(Slot::of(name)));
        let ready = match self.trees.get(name).map(|tree| &tree.route) {
            Some(Route::At(master)) => *master == from,
            None => true,
            Some(
                Route::Looking(_)
                | Route::Here(_)
                | Route::Moving(_)
                | Route::Handing(_)
                | Route::Recovering(_),
            ) => false,
        };
        let ready = ready && (!keeps || self.freeze_entry(name, from));
        if ready {
            self.flush_tree(name);
            let epoch = self.epoch;
            if to == self.local {
                self.trees.or_insert_with(name, || Tree::new(name, epoch));
            }
            if let Some(tree) = self.trees.get_mut(name) {
                (tree.route, tree.idle_since) = (Route::Moving(from), None);
            }
        }
        self.push(from, Item::Moved { tree: Name::clone(name), ticket, ready });
    }

    /// A member has no more to say of a tree that is to move.
    pub(crate) fn on_moved(&mut self, from: NodeInstance, name: &Name, ticket: u64, ready: bool) {
        let moving = self.mastered(name).and_then(|mastered| mastered.moving.as_mut());
        let Some(moving) = moving.filter(|moving| moving.ticket == ticket) else { return };
        if !ready {
            moving.asked.remove(&from);
            self.stay(name);
        } else if moving.awaited.remove(&from) && moving.awaited.is_empty() {
            self.to_hand.push_back(Name::clone(name));
        }
    }

    /// A move takes too long: somebody does not answer.
    pub(crate) fn on_move_timer(&mut self, ticket: u64) {
        if !self.acts() {
            self.timers.insert((self.now + self.config.move_patience, Timer::Move(ticket)));
        } else if let Some(name) = self.moving.get(&ticket).cloned() {
            // A view may have ended it.
            self.touch(&name);
            if self.moving.contains_key(&ticket) {
                self.stay(&name);
            }
        }
    }

    /// A tree that is to move stays.
    fn stay(&mut self, name: &Name) {
        let Some(moving) = self.undo_move(name) else { return };
        for node in &moving.asked {
            self.push(*node, Item::Stay { tree: Name::clone(name), ticket: moving.ticket });
        }
        self.thaw_entry(name);
        self.decide(moving.requests);
    }

    /// The move of a tree that is still mastered here is over.
    fn undo_move(&mut self, name: &Name) -> Option<Moving> {
        let moving = self.end_move(name)?;
        self.stats.moves_undone += 1;
        // All of it may have been given back meanwhile.
        self.tidy(&Key { tree: Name::clone(name), path: Name::from([]) });
        Some(moving)
    }

    fn end_move(&mut self, name: &Name) -> Option<Moving> {
        let moving = self.mastered(name)?.moving.take()?;
        self.moving.remove(&moving.ticket);
        self.timers.remove(&(moving.until, Timer::Move(moving.ticket)));
        Some(*moving)
    }

    /// Decides what waited for the end of a move. What the directory forwarded in an earlier view is asked for anew. In this one
    /// it is told nothing of it: it would take the tree for given up, and give it to the next who asks.
    pub(crate) fn decide(&mut self, requests: Vec<Waiting>) {
        for (origin, keeper, epoch, request) in requests {
            if keeper.is_none() || epoch == self.epoch {
                self.on_request(origin, None, request);
            }
        }
    }

    /// The master says that the tree stays with it.
    pub(crate) fn on_stay(&mut self, from: NodeInstance, name: &Name) {
        self.touch(name);
        if self.entries.get(name).is_some_and(|entry| entry.master == Some(from)) {
            self.thaw_entry(name);
        }
        if let Some(tree) = self.trees.get_mut(name)
            && matches!(tree.route, Route::Moving(master) if master == from)
        {
            tree.route = Route::At(from);
            self.flush_tree(name);
            self.tidy(&root(name));
        }
    }

    /// True if the root is kept for repair: then the tree stays, or those who ask for all that is kept could miss it.
    fn keeps_for_repair(&self, name: &Name) -> bool {
        self.domains.is_marked(name) && !sabotaged!(self, MoveMarked)
    }

    /// Sends a tree of which nobody has anything more to say to its next master.
    fn hand_over(&mut self, name: &Name) {
        let drained = sabotaged!(self, MoveUndrained);
        let over = |mastered: &&mut Mastered| {
            mastered.moving.as_ref().is_some_and(|moving| moving.awaited.is_empty() || drained)
        };
        if self.mastered(name).filter(over).is_none() {
            return;
        }
        if self.keeps_for_repair(name) {
            self.stay(name);
            return;
        }
        let Some(Moving { to, ticket, asked, requests, .. }) = self.end_move(name) else { return };
        let now = self.now;
        let Some(tree) = self.trees.get_mut(name) else { return };
        let (since, handing) = (tree.epoch, Route::Looking(false));
        let Route::Here(mut mastered) = core::mem::replace(&mut tree.route, handing) else { return };
        self.mastering -= 1;
        self.domains.unmark(name);
        let resources = mastered.resources.iter_mut().map(|(path, queues)| queues.at(now).moved(path));
        let mut moved = MovedTree {
            tree: Name::clone(name),
            ticket,
            token: mastered.token,
            moves: mastered.moves.saturating_add(1),
            waiting: asked.into_iter().collect(),
            resources: resources.collect(),
        };
        for who in mastered.locks() {
            self.holders.remove(&who);
        }
        let local = self.local;
        if sabotaged!(self, MoveOwnOnly) {
            moved.resources.iter_mut().for_each(|resource| resource.locks.retain(|lock| lock.node == local));
        }
        if let Some(tree) = self.trees.get_mut(name) {
            tree.route = Route::Handing(Box::new(Handing { to, ticket, mastered, since, requests }));
        }
        self.handing.insert(ticket, Name::clone(name));
        self.stats.moved_away += 1;
        self.push(to, Item::Take(moved));
    }

    /// The tree is to be mastered here.
    pub(crate) fn on_take(&mut self, from: NodeInstance, moved: MovedTree) {
        let name = Name::clone(&moved.tree);
        self.touch(&name);
        let route = self.trees.get(&name).map(|tree| &tree.route);
        let awaits = matches!(route, Some(Route::Moving(master)) if *master == from);
        let ticket = moved.ticket;
        self.push(from, Item::Mastering { tree: Name::clone(&name), ticket, taken: awaits });
        if !awaits {
            return;
        }
        let mut mastered = Mastered::new(moved.token, BTreeSet::new());
        (mastered.moves, mastered.relocated, mastered.activity.since) = (moved.moves, true, self.now);
        for resource in &moved.resources {
            let queues = Queues::taken(resource, self.config.value_length, self.now);
            for entry in queues.entries() {
                self.holders
                    .insert(entry.who, Key { tree: Name::clone(&name), path: Name::clone(&resource.path) });
            }
            mastered.resources.or_insert_with(&resource.path, || queues);
        }
        if let Some(tree) = self.trees.get_mut(&name) {
            tree.route = Route::Here(Box::new(mastered));
            self.mastering += 1;
        }
        self.stats.moved_here += 1;
        if self.domains.is_doubted(&name) {
            self.doubt(&name);
        }
        let keeper = self.keeper(Slot::of(&name)).filter(|_| !sabotaged!(self, MoveUnlisted));
        if let Some(keeper) = keeper {
            self.push(keeper, Item::ClaimTree { tree: Name::clone(&name) });
        }
        let local = self.local;
        for node in moved.waiting.into_iter().filter(|node| *node != local) {
            self.push(node, Item::Master { tree: Name::clone(&name) });
        }
        self.unsend(&name);
        self.flush_tree(&name);
        self.tidy(&root(&name));
    }

    /// A tree was sent here in an earlier view: it stays where it was.
    pub(crate) fn on_late_take(&mut self, from: NodeInstance, moved: MovedTree) {
        self.push(from, Item::Mastering { tree: moved.tree, ticket: moved.ticket, taken: false });
    }

    /// Whether the next master has the tree.
    pub(crate) fn on_mastering(&mut self, from: NodeInstance, name: &Name, ticket: u64, taken: bool) {
        self.touch(name);
        let Some((place, tree)) = self.trees.find_mut(name) else { return };
        if !matches!(&tree.route, Route::Handing(handing) if handing.ticket == ticket) {
            return;
        }
        let Route::Handing(handing) = core::mem::replace(&mut tree.route, Route::At(from)) else { return };
        self.handing.remove(&ticket);
        if taken {
            self.unsend(name);
            self.flush_tree(name);
            self.tidy(&root(name));
        } else {
            self.take_back(name, place, handing.mastered, handing.since);
        }
        self.decide(handing.requests);
    }

    /// The tree is mastered here as before: it did not arrive.
    fn take_back(&mut self, name: &Name, place: u32, mastered: Box<Mastered>, since: u64) {
        for (path, queues) in mastered.resources.iter() {
            for entry in queues.entries() {
                self.holders.insert(entry.who, Key { tree: Name::clone(name), path: Name::clone(path) });
            }
        }
        self.mastering += 1;
        self.stats.moves_returned += 1;
        if let Some(tree) = self.trees.at_mut(place) {
            tree.route = Route::Here(mastered);
        }
        self.bring_up(name, place, since);
        self.flush_tree(name);
        self.tidy(&root(name));
    }

    /// A view ends the move of a tree that is mastered here. Who waited for it.
    pub(crate) fn interrupt_move(&mut self, name: &Name) -> Vec<Waiting> {
        self.undo_move(name).map_or_else(Vec::new, |moving| moving.requests)
    }

    /// Forgets a tree that was sent to a node that is lost: whatever that did with it, the holders know. Who waited for it.
    pub(crate) fn lose_handed(&mut self, name: &Name) -> Vec<Waiting> {
        let handing = match self.trees.get(name).map(|tree| &tree.route) {
            Some(Route::Handing(handing)) if self.is_lost(handing.to, handing.since) => handing,
            _ => return Vec::new(),
        };
        let to = handing.to;
        let Some(tree) = self.trees.get_mut(name) else { return Vec::new() };
        let Route::Handing(handing) = core::mem::replace(&mut tree.route, Route::At(to)) else {
            return Vec::new();
        };
        self.handing.remove(&handing.ticket);
        self.stats.moves_lost += 1;
        handing.requests
    }
}

impl Mastered {
    /// The nodes with locks in it; `None` if some may be gone, or there are too many locks to move.
    fn who_would_wait(&self) -> Option<BTreeSet<NodeInstance>> {
        let mut nodes = BTreeSet::new();
        let mut weight = 0;
        for (path, queues) in self.resources.iter() {
            weight += path.len() / BYTES_OF_A_LOCK;
            for entry in queues.entries() {
                weight += 1 + entry.ranges().map_or(0, |ranges| ranges.held.len() + ranges.asked.len());
                if entry.who.lock == 0 || weight > MOVED_MAX {
                    return None;
                }
                nodes.insert(entry.who.node);
            }
        }
        Some(nodes)
    }

    fn locks(&self) -> impl Iterator<Item = Holder> + '_ {
        self.resources.iter().flat_map(|(_, queues)| queues.entries()).map(|entry| entry.who)
    }
}

fn root(name: &Name) -> Key {
    Key { tree: Name::clone(name), path: Arc::from([]) }
}
