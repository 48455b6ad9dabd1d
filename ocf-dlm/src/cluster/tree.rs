//! A tree of resources as one node knows it.

use super::place::{Activity, Handing, Moving};
use super::queue::Queues;
use crate::directory::Slot;
use crate::range::{Range, RangeKind, RangeSet};
use crate::wire::{Item, Key, Name, RangeBlocker};
use crate::{ClientId, FencingToken};
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

/// Where operations on a tree go.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Route {
    /// The directory is to be asked, or is asked (`true`).
    Looking(bool),
    /// That node masters it.
    At(NodeInstance),
    /// This node masters it.
    Here(Box<Mastered>),
    /// That node masters it and has it move: nothing is said of it until the next master, or that one, speaks.
    Moving(NodeInstance),
    /// It was mastered here, and was sent to its next master.
    Handing(Box<Handing>),
    /// Its master is gone: this node's locks were told to the new one, which will say when it serves.
    Recovering(NodeInstance),
}

/// The master copy.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Mastered {
    pub(crate) resources: Resources,
    pub(crate) token: FencingToken,
    /// Departed instances that may have locks here which nobody knows of.
    pub(crate) suspects: BTreeSet<NodeInstance>,
    /// Who used it of late.
    pub(crate) activity: Activity,
    /// It is to move.
    pub(crate) moving: Option<Box<Moving>>,
    /// How often it has moved.
    pub(crate) moves: u8,
    /// It came from another master, or was to go to one: the directory may have missed where it is when a view came.
    pub(crate) relocated: bool,
}

impl Mastered {
    pub(crate) fn new(token: FencingToken, suspects: BTreeSet<NodeInstance>) -> Self {
        Self {
            resources: Resources { root: None, below: BTreeMap::new() },
            token,
            suspects,
            activity: Activity::default(),
            moving: None,
            moves: 0,
            relocated: false,
        }
    }
}

impl Mastered {
    /// Who is in the way of ranges of that client.
    pub(crate) fn range_blocker(
        &self,
        key: &Key,
        who: (NodeInstance, ClientId),
        wanted: &RangeSet,
    ) -> Option<RangeBlocker> {
        if let Some(queues) = self.resources.get(&key.path) {
            return queues.range_blocker(who, wanted);
        }
        let suspect = *self.suspects.first()?;
        let (range, kind) = (Range::WHOLE, RangeKind::Exclusive);
        Some(RangeBlocker { node: suspect, client: ClientId::new(0), range, kind })
    }
}

/// The resources of a tree that have locks. Most trees have a root and nothing else.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Resources {
    root: Option<(Name, Queues)>,
    below: BTreeMap<Name, Box<Queues>>,
}

impl Resources {
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none() && self.below.is_empty()
    }

    pub(crate) fn get(&self, path: &Name) -> Option<&Queues> {
        if path.is_empty() {
            return self.root.as_ref().map(|(_, queues)| queues);
        }
        self.below.get(path).map(|queues| &**queues)
    }

    pub(crate) fn get_mut(&mut self, path: &Name) -> Option<&mut Queues> {
        if path.is_empty() {
            return self.root.as_mut().map(|(_, queues)| queues);
        }
        self.below.get_mut(path).map(|queues| &mut **queues)
    }

    pub(crate) fn or_insert_with(&mut self, path: &Name, make: impl FnOnce() -> Queues) -> &mut Queues {
        if path.is_empty() {
            return &mut self.root.get_or_insert_with(|| (Name::clone(path), make())).1;
        }
        self.below.entry(Name::clone(path)).or_insert_with(|| Box::new(make()))
    }

    pub(crate) fn remove(&mut self, path: &Name) {
        if path.is_empty() {
            self.root = None;
        } else {
            self.below.remove(path);
        }
    }

    /// All, the root first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Name, &Queues)> {
        let root = self.root.iter().map(|(path, queues)| (path, queues));
        root.chain(self.below.iter().map(|(path, queues)| (path, &**queues)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&Name, &mut Queues)> {
        let root = self.root.iter_mut().map(|(path, queues)| (&*path, queues));
        root.chain(self.below.iter_mut().map(|(path, queues)| (path, &mut **queues)))
    }
}

/// What this node knows of a tree: because it masters it, has locks in it, or remembers its master.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Tree {
    pub(crate) slot: Slot,
    pub(crate) route: Route,
    /// The view to which it was brought up last. What later views changed is made up for before it is used.
    pub(crate) epoch: u64,
    /// Locks of this node in the tree.
    pub(crate) locks: BTreeSet<u64>,
    /// The one of them on its root that nobody has.
    pub(crate) kept: Option<u64>,
    /// Those with an operation that no master knows of, by the order in which it was asked for.
    pub(crate) unsent: BTreeMap<u64, u64>,
    /// What needs no answer and could not be sent yet, in order.
    pub(crate) deferred: Vec<Item>,
    /// The lock in whose name the directory is asked.
    pub(crate) asked_by: Option<u64>,
    /// Since when nothing in it was used.
    pub(crate) idle_since: Option<Instant>,
    /// It is among those that are looked at when they were idle for long.
    pub(crate) idle_noted: bool,
}

impl Tree {
    pub(crate) fn new(name: &Name, epoch: u64) -> Self {
        Self {
            slot: Slot::of(name),
            route: Route::Looking(false),
            epoch,
            locks: BTreeSet::new(),
            kept: None,
            unsent: BTreeMap::new(),
            deferred: Vec::new(),
            asked_by: None,
            idle_since: None,
            idle_noted: false,
        }
    }

    /// True if this node has no lock in it and, as its master, no other node has.
    pub(crate) fn is_idle(&self) -> bool {
        self.locks.is_empty()
            && self.deferred.is_empty()
            && match &self.route {
                // The suspects of a tree are known to its master alone.
                Route::Here(mastered) => {
                    mastered.resources.is_empty() && mastered.suspects.is_empty() && mastered.moving.is_none()
                }
                Route::At(_) => true,
                Route::Looking(_) | Route::Moving(_) | Route::Handing(_) | Route::Recovering(_) => false,
            }
    }

    pub(crate) const fn mastered(&self) -> Option<&Mastered> {
        match &self.route {
            Route::Here(mastered) => Some(mastered),
            Route::Looking(_)
            | Route::At(_)
            | Route::Moving(_)
            | Route::Handing(_)
            | Route::Recovering(_) => None,
        }
    }

    pub(crate) const fn mastered_mut(&mut self) -> Option<&mut Mastered> {
        match &mut self.route {
            Route::Here(mastered) => Some(mastered),
            Route::Looking(_)
            | Route::At(_)
            | Route::Moving(_)
            | Route::Handing(_)
            | Route::Recovering(_) => None,
        }
    }
}
