//! What can be asked of an engine.

use super::own::ClientLock;
use super::queue::{Holder, Queues};
use super::tree::{Route, Tree};
use super::{Engine, Standing};
use crate::wire::Key;
use crate::{ClientId, FencingToken, Mode, ValueBlock};
use pils::NodeInstance;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How often things happened, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages sent to other nodes.
    pub messages_sent: u64,
    /// Items in them.
    pub items_sent: u64,
    /// Grants given as a master.
    pub grants: u64,
    /// Messages that were not what they should be.
    pub malformed: u64,
    /// Messages of nodes that are not members.
    pub strangers: u64,
    /// Items that belonged to an earlier view or master.
    pub stale: u64,
    /// Items for a directory slot that this node does not keep.
    pub misdirected: u64,
    /// Operations on locks that the master does not know: given up while they were on their way.
    pub unknown_locks: u64,
    /// Times that more messages waited than may.
    pub overruns: u64,
    /// Deadlock searches begun.
    pub searches: u64,
    /// Cycles found.
    pub deadlocks: u64,
    /// Operations of this node that were denied to end one.
    pub victims: u64,
    /// Locks that were claimed from this node in recoveries.
    pub claims: u64,
    /// Locks that were rebuilt here in recoveries.
    pub recovered: u64,
    /// Trees that were sent to the member that uses them most.
    pub moved_away: u64,
    /// Trees that came here because this node uses them most.
    pub moved_here: u64,
    /// Moves that ended before the tree was sent: somebody was not ready, did not answer in time, or a view came.
    pub moves_undone: u64,
    /// Trees that were sent, and did not arrive before a view came: they stayed.
    pub moves_returned: u64,
    /// Trees that were sent to a node that was lost before it said that it had them: they were recovered.
    pub moves_lost: u64,
    /// Grants that were kept when their client let go.
    pub kept: u64,
    /// Requests that a kept grant answered, without a message.
    pub reused: u64,
    /// Kept grants that were given back.
    pub given_back: u64,
}

/// Where a tree is mastered, as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeState {
    /// Not known: the directory is asked.
    Looking,
    /// On that node.
    At(NodeInstance),
    /// Here.
    Here,
    /// It is on its way to the member that uses it most.
    Moving,
    /// It is being recovered.
    Recovering,
}

/// A tree as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeSnapshot {
    /// Canonical bytes.
    pub name: Arc<[u8]>,
    /// Where it is mastered.
    pub state: TreeState,
    /// Locks of this node in it.
    pub locks: usize,
    /// The last token, if it is mastered here.
    pub token: FencingToken,
    /// Departed instances that may have locks here which nobody knows of, if it is mastered here.
    pub suspects: Vec<NodeInstance>,
}

/// A lock at its master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasteredLock {
    /// Node and lock there.
    pub who: Holder,
    /// Which client there.
    pub client: ClientId,
    /// What is held.
    pub held: Option<Mode>,
    /// What is asked for.
    pub asked: Option<Mode>,
    /// Its place in the queue, if it waits.
    pub place: i64,
}

/// The whole engine at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of the newest view.
    pub epoch: u64,
    /// This node is in the primary and its lease is confirmed.
    pub active: bool,
    /// The recovery of the newest view is over everywhere.
    pub recovered: bool,
    /// Instances that are gone and not proven dead.
    pub unproven: Vec<NodeInstance>,
    /// Locks of this node.
    pub locks: usize,
    /// Operations of them under way.
    pub waiting: usize,
    /// Those that outlived their client.
    pub orphans: usize,
    /// Those that nobody here has, kept for who asks next.
    pub kept: usize,
    /// Orders given here that are not answered yet.
    pub orders: usize,
    /// Resources that it masters and keeps for repair.
    pub repairs: usize,
    /// Trees that this node knows.
    pub trees: usize,
    /// Trees that it masters.
    pub mastered: usize,
    /// Trees that it lists as part of the directory.
    pub listed: usize,
    /// Counters.
    pub stats: Stats,
}

impl Engine {
    /// The whole engine in numbers.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            epoch: self.epoch,
            active: self.standing == Standing::Active,
            recovered: self.recovery.is_over(),
            unproven: self.departed.keys().copied().collect(),
            locks: self.locks.len(),
            waiting: self.waiting.len(),
            orphans: self.orphans.len(),
            kept: self.kept.len(),
            orders: self.orders.len(),
            repairs: self.repairs().count(),
            trees: self.trees.len(),
            mastered: self.mastering,
            listed: self.entries.len(),
            stats: self.stats,
        }
    }

    /// Every tree that this node knows.
    pub fn trees(&self) -> impl Iterator<Item = TreeSnapshot> + '_ {
        self.trees.iter().map(|(name, tree)| {
            let mastered = tree.mastered();
            TreeSnapshot {
                name: Arc::clone(name),
                state: match tree.route {
                    Route::Looking(_) => TreeState::Looking,
                    Route::At(master) => TreeState::At(master),
                    Route::Here(_) => TreeState::Here,
                    Route::Moving(_) | Route::Handing(_) => TreeState::Moving,
                    Route::Recovering(_) => TreeState::Recovering,
                },
                locks: tree.locks.len(),
                token: mastered.map_or_else(FencingToken::default, |m| m.token),
                suspects: mastered.map_or_else(Vec::new, |m| m.suspects.iter().copied().collect()),
            }
        })
    }

    /// Every tree that this node lists as part of the directory, with its master.
    pub fn directory(&self) -> impl Iterator<Item = (Arc<[u8]>, Option<NodeInstance>)> + '_ {
        self.entries.iter().map(|(name, entry)| (Arc::clone(name), entry.master))
    }

    /// Every lock that this node masters, by tree and resource: granted, then converting, then waiting.
    #[must_use]
    pub fn mastered_locks(&self) -> Vec<(Key, MasteredLock)> {
        let mut all = Vec::new();
        for (name, tree) in self.trees.iter() {
            for (path, queues) in tree.mastered().into_iter().flat_map(|m| m.resources.iter()) {
                let key = Key { tree: Arc::clone(name), path: Arc::clone(path) };
                all.extend(queues.entries().map(|entry| {
                    let lock = MasteredLock {
                        who: entry.who,
                        client: entry.client,
                        held: entry.held,
                        asked: entry.asked,
                        place: entry.place,
                    };
                    (key.clone(), lock)
                }));
            }
        }
        all
    }

    /// The value block of a resource that is mastered here.
    #[must_use]
    pub fn value(&self, key: &Key) -> Option<ValueBlock> {
        let queues: &Queues = self.trees.get(&key.tree)?.mastered()?.resources.get(&key.path)?;
        Some(queues.value().block)
    }

    /// Every lock of this node: its id, its client, its resource.
    pub fn local_locks(&self) -> impl Iterator<Item = (u64, ClientId, &Key)> + '_ {
        let used = self.locks.iter().filter(|(_, known)| !known.keep.unused);
        used.map(|(lock, known)| (*lock, known.client, &known.key))
    }

    /// Checks what must hold between calls; for tests and simulators. O(everything).
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn check_invariants(&self) -> Result<(), &'static str> {
        let mut counted = BTreeSet::new();
        for (name, tree) in self.trees.iter() {
            for (path, queues) in tree.mastered().into_iter().flat_map(|m| m.resources.iter()) {
                for entry in queues.entries().filter(|entry| entry.who.lock != 0) {
                    let key = Key { tree: Arc::clone(name), path: Arc::clone(path) };
                    if self.holders.get(&entry.who) != Some(&key) {
                        return Err("every lock in a queue is in the index");
                    }
                    counted.insert(entry.who);
                }
            }
            if tree.locks.iter().any(|lock| self.locks.get(lock).is_none_or(|known| known.key.tree != *name))
            {
                return Err("a tree lists the locks of this node");
            }
        }
        if counted.len() != self.holders.len() {
            return Err("the index lists no lock that is in no queue");
        }
        if self.locks.values().any(|l| !self.trees.contains_key(&l.key.tree)) {
            return Err("every lock's tree is known");
        }
        let waiting = self.locks.iter().filter(|(_, l)| l.pending.is_some()).map(|(id, _)| *id);
        if waiting.collect::<BTreeSet<_>>() != self.waiting {
            return Err("operations under way are counted");
        }
        if self.orphans.iter().any(|lock| self.locks.get(lock).is_none_or(|l| l.held.is_none())) {
            return Err("an orphan is a lock that is held");
        }
        if self.trees.values().filter(|tree| tree.mastered().is_some()).count() != self.mastering {
            return Err("trees mastered here are counted");
        }
        let keeps = |(lock, known): (&u64, &ClientLock)| {
            self.trees
                .get(&known.key.tree)
                .is_some_and(|tree| (tree.kept == Some(*lock)) == known.keep.unused)
                || !known.keep.unused
        };
        let unused = self.locks.values().filter(|known| known.keep.unused).count();
        let kept = self.trees.values().filter(|tree| tree.kept.is_some()).count();
        if !self.locks.iter().all(keeps) || kept != unused || self.kept.len() != unused {
            return Err("a tree knows what is kept of it");
        }
        let leaves = self.trees.values().flat_map(|tree| &tree.deferred).filter_map(|item| {
            if let crate::wire::Item::Unlock(unlock) = item { Some(unlock.lock) } else { None }
        });
        if leaves.collect::<BTreeSet<_>>() != self.leaving {
            return Err("releases that wait to be sent are known");
        }
        if self
            .lookups
            .iter()
            .any(|(lock, name)| self.trees.get(name).is_none_or(|tree| tree.asked_by != Some(*lock)))
        {
            return Err("a lookup belongs to a tree that is looked for");
        }
        let moves = |tree: &Tree| tree.mastered().is_some_and(|mastered| mastered.moving.is_some());
        if self.trees.values().filter(|tree| moves(tree)).count() != self.moving.len() {
            return Err("trees that are to move are counted");
        }
        let handed = |tree: &&Tree| matches!(tree.route, Route::Handing(_));
        if self.trees.values().filter(handed).count() != self.handing.len() {
            return Err("trees on their way are counted");
        }
        self.check_domains()?;
        if !self.loopback.is_empty() && self.standing == Standing::Active {
            return Err("nothing is left to be said to oneself");
        }
        Ok(())
    }
}
