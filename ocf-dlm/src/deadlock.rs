//! Deadlocks across resources: a search walks along the edges of who waits for whom.
//!
//! It begins at the node of an operation that has waited for a while. The master of the resource names the transactions
//! in the way; the nodes those live on say for what they wait in turn. A search that comes back to its first transaction
//! has found a cycle. Of all searches of one cycle only that of its greatest transaction is followed to the end, so that
//! one victim is chosen. Nothing stops meanwhile; so a node first sees whether its lock that was in the way still is. Else
//! who lets go of a lock and waits in the same queue again would look like part of a cycle. PROTOCOL.md, section 8.

use crate::Flags;
use crate::cluster::{Engine, Holder, Route, Stop, Tree, sabotaged};
use crate::wire::{Hop, InTheWay, Item, PATH_MAX, Probe};
use core::fmt;
use pils::NodeInstance;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most marks of searches that are remembered.
const SEARCHED_MAX: usize = 1 << 14;

/// A search (the home, lock, operation and waiting time it began with) has looked at a transaction.
pub(crate) type Mark = (NodeInstance, u64, u32, u64, u64);

/// Chooses who of a cycle is denied. Must give the same answer on every node.
pub trait VictimPolicy: Send + Sync + fmt::Debug {
    /// The place in `cycle` (never empty) of the victim. A place beyond the end counts as the last.
    fn choose(&self, cycle: &[Hop]) -> usize;
}

/// Denies the operation that has waited for the shortest time: the least is lost, and old ones get their turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Youngest;

impl VictimPolicy for Youngest {
    fn choose(&self, cycle: &[Hop]) -> usize {
        let key = |at: &usize| (cycle[*at].waited_ms, core::cmp::Reverse((cycle[*at].home, cycle[*at].lock)));
        (0..cycle.len()).min_by_key(key).unwrap_or(0)
    }
}

/// Denies the operation that has waited longest, as the book of the cluster VAX has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongestBlocked;

impl VictimPolicy for LongestBlocked {
    fn choose(&self, cycle: &[Hop]) -> usize {
        let key = |at: &usize| (cycle[*at].waited_ms, cycle[*at].home, cycle[*at].lock);
        (0..cycle.len()).max_by_key(key).unwrap_or(0)
    }
}

impl Engine {
    /// An operation of this node has waited for a while: is it part of a cycle?
    pub(crate) fn begin_search(&mut self, lock: u64) {
        if let Some(hop) = self.hop(lock) {
            self.stats.searches += 1;
            self.ask_master(Vec::new(), hop);
        }
    }

    /// A waiting operation as a step of a search.
    fn hop(&self, lock: u64) -> Option<Hop> {
        let known = self.locks.get(&lock)?;
        let pending = known.pending.as_ref().filter(|p| p.sent && p.stop.is_none())?;
        if pending.flags.has(Flags::NODLCKWT) {
            return None;
        }
        let waited = self.now.since(pending.since).as_millis();
        Some(Hop {
            home: self.local,
            transaction: known.transaction,
            lock,
            op: known.op,
            waited_ms: u64::try_from(waited).unwrap_or(u64::MAX),
        })
    }

    /// Sends a search to the master of the lock of `hop`, unless another search does the same work.
    fn ask_master(&mut self, mut path: Vec<Hop>, hop: Hop) {
        let first = path.first().unwrap_or(&hop);
        let greatest = (first.home, first.transaction) >= (hop.home, hop.transaction);
        if !greatest || path.len() >= PATH_MAX {
            return;
        }
        let Some(name) = self.locks.get(&hop.lock).map(|known| Arc::clone(&known.key.tree)) else { return };
        self.touch(&name);
        let to = match self.trees.get(&name).map(|tree| &tree.route) {
            Some(Route::At(master)) => *master,
            Some(Route::Here(_)) => self.local,
            Some(Route::Looking(_) | Route::Moving(_) | Route::Handing(_) | Route::Recovering(_)) | None => {
                return;
            }
        };
        path.push(hop);
        self.push(to, Item::Probe(Probe { path, next: None }));
    }

    pub(crate) fn on_probe(&mut self, probe: Probe) {
        match probe.next {
            None => self.probe_at_master(&probe),
            Some(next) => self.probe_at_home(&probe, next),
        }
    }

    /// The search asks who is in the way of its last step.
    fn probe_at_master(&mut self, probe: &Probe) {
        let Some(last) = probe.path.last() else { return };
        let who = Holder { node: last.home, lock: last.lock };
        let Some(key) = self.holders.get(&who).cloned() else { return };
        self.touch(&key.tree);
        let Some(mastered) = self.trees.get(&key.tree).and_then(Tree::mastered) else { return };
        let Some(queues) = mastered.resources.get(&key.path) else { return };
        if queues.last_op(who) != Some(last.op) {
            return;
        }
        // One lock of each transaction: while it is in a cycle, all its locks stay.
        let blockers: BTreeMap<(NodeInstance, u64), (u64, u32)> = queues
            .blockers(who)
            .into_iter()
            .filter(|entry| entry.who.lock != 0 && !entry.flags.has(Flags::NODLCKBLK))
            .filter(|entry| !entry.may_be_unused())
            .map(|entry| ((entry.who.node, entry.transaction), (entry.who.lock, entry.op)))
            .filter(|(edge, _)| *edge != (last.home, last.transaction))
            .collect();
        for ((node, transaction), (lock, op)) in blockers {
            let next = Some(InTheWay { transaction, lock, op });
            let probe = Probe { path: probe.path.clone(), next };
            self.push(node, Item::Probe(probe));
        }
    }

    /// The search asks for what a transaction of this node waits.
    fn probe_at_home(&mut self, probe: &Probe, next: InTheWay) {
        let transaction = next.transaction;
        let known = self.locks.get(&next.lock);
        let stays = known.is_some_and(|known| known.op == next.op && known.transaction == transaction);
        if !stays && !sabotaged!(self, FollowOldEdges) {
            // It was let go, or is about to be in the way of others: its master hears of it soon.
            return;
        }
        let here = (self.local, transaction);
        if let Some(at) = probe.path.iter().position(|hop| (hop.home, hop.transaction) == here) {
            if at == 0 {
                self.end_deadlock(&probe.path);
            }
            return;
        }
        if !self.is_new_to(probe, transaction) {
            return;
        }
        let waiting: Vec<u64> = self
            .waiting
            .iter()
            .copied()
            .filter(|lock| self.locks.get(lock).is_some_and(|l| l.transaction == transaction))
            .collect();
        for lock in waiting {
            if let Some(hop) = self.hop(lock) {
                self.ask_master(probe.path.clone(), hop);
            }
        }
    }

    /// A search looks at a transaction once, by whichever way it came first.
    fn is_new_to(&mut self, probe: &Probe, transaction: u64) -> bool {
        let Some(first) = probe.path.first() else { return false };
        let mark = (first.home, first.lock, first.op, first.waited_ms, transaction);
        if self.searched.contains(&mark) {
            return false;
        }
        if self.searched.len() >= SEARCHED_MAX {
            // Old searches have ended; one that goes on may do some work twice.
            self.searched.clear();
        }
        self.searched.insert(mark)
    }

    /// A cycle is found: one of it is denied.
    fn end_deadlock(&mut self, cycle: &[Hop]) {
        self.stats.deadlocks += 1;
        let at = self.victims.choose(cycle).min(cycle.len().saturating_sub(1));
        if let Some(victim) = cycle.get(at) {
            self.push(victim.home, Item::Victim { lock: victim.lock, op: victim.op });
        }
    }

    pub(crate) fn on_victim(&mut self, lock: u64, op: u32) {
        let waits = self.locks.get(&lock).is_some_and(|l| l.op == op && l.pending.is_some());
        if waits && !sabotaged!(self, SpareVictims) {
            self.stats.victims += 1;
            self.stop(lock, Stop::Deadlock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId};

    fn cycle() -> Vec<Hop> {
        let hop = |node: u32, waited_ms| Hop {
            home: NodeInstance::new(NodeId::new(node), Incarnation::new(1)),
            transaction: 1,
            lock: 1,
            op: 1,
            waited_ms,
        };
        vec![hop(1, 50), hop(2, 20), hop(3, 90)]
    }

    #[test]
    fn policies_choose_by_how_long_an_operation_has_waited() {
        assert_eq!(Youngest.choose(&cycle()), 1);
        assert_eq!(LongestBlocked.choose(&cycle()), 2);
    }

    #[test]
    fn the_choice_does_not_depend_on_where_the_cycle_begins() {
        for policy in [&Youngest as &dyn VictimPolicy, &LongestBlocked] {
            let chosen = |cycle: &[Hop]| cycle[policy.choose(cycle)];
            let mut turned = cycle();
            turned.rotate_left(1);
            assert_eq!(chosen(&cycle()), chosen(&turned));
        }
    }
}
