//! A tree of resources as one node knows it.

use super::queue::Queues;
use crate::FencingToken;
use crate::directory::Slot;
use crate::wire::{Item, Name};
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

/// Where operations on a tree go.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// The directory is to be asked, or is asked (`true`).
    Looking(bool),
    /// That node masters it.
    At(NodeInstance),
    /// This node masters it.
    Here(Box<Mastered>),
    /// Its master is gone: this node's locks were told to the new one, which will say when it serves.
    Recovering(NodeInstance),
}

/// The master copy.
#[derive(Clone, Debug)]
pub(crate) struct Mastered {
    pub(crate) resources: BTreeMap<Name, Queues>,
    pub(crate) token: FencingToken,
    /// Departed instances that may have locks here which nobody knows of.
    pub(crate) suspects: BTreeSet<NodeInstance>,
}

impl Mastered {
    pub(crate) const fn new(token: FencingToken, suspects: BTreeSet<NodeInstance>) -> Self {
        Self { resources: BTreeMap::new(), token, suspects }
    }
}

/// What this node knows of a tree: because it masters it, has locks in it, or remembers its master.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) slot: Slot,
    pub(crate) route: Route,
    /// Locks of this node in the tree.
    pub(crate) locks: BTreeSet<u64>,
    /// Those with an operation that no master knows of, by the order in which it was asked for.
    pub(crate) unsent: BTreeMap<u64, u64>,
    /// What needs no answer and could not be sent yet, in order.
    pub(crate) deferred: Vec<Item>,
    /// Since when nothing in it was used.
    pub(crate) idle_since: Option<Instant>,
}

impl Tree {
    pub(crate) fn new(name: &Name) -> Self {
        Self {
            slot: Slot::of(name),
            route: Route::Looking(false),
            locks: BTreeSet::new(),
            unsent: BTreeMap::new(),
            deferred: Vec::new(),
            idle_since: None,
        }
    }

    /// True if this node has no lock in it and, as its master, no other node has.
    pub(crate) fn is_idle(&self) -> bool {
        self.locks.is_empty()
            && self.deferred.is_empty()
            && match &self.route {
                // The suspects of a tree are known to its master alone.
                Route::Here(mastered) => mastered.resources.is_empty() && mastered.suspects.is_empty(),
                Route::At(_) => true,
                Route::Looking(_) | Route::Recovering(_) => false,
            }
    }

    pub(crate) const fn mastered(&self) -> Option<&Mastered> {
        match &self.route {
            Route::Here(mastered) => Some(mastered),
            Route::Looking(_) | Route::At(_) | Route::Recovering(_) => None,
        }
    }

    pub(crate) const fn mastered_mut(&mut self) -> Option<&mut Mastered> {
        match &mut self.route {
            Route::Here(mastered) => Some(mastered),
            Route::Looking(_) | Route::At(_) | Route::Recovering(_) => None,
        }
    }
}
