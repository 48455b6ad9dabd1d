//! Deadlocks across resources that are mastered here: who waits for whom, and who is denied.
//!
//! Who waits in a call looks after a while ([`Config::deadlock_after`](crate::Config)), and again as long as it waits; a
//! program that only takes notices calls [`Lockspace::resolve_deadlocks`] by itself. All shards stand still for a look.

use crate::flags::Flags;
use crate::identity::{LockId, Owner};
use crate::lockspace::Lockspace;
use crate::shard::LockState;
use crate::status::Status;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

/// A wait that is part of a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The lock that waits, or converts.
    pub lock: LockId,
    /// Whose it is.
    pub owner: Owner,
    /// The transaction that waits: as given with the request, else the client.
    pub transaction: Transaction,
    /// How long it has waited.
    pub age: Duration,
}

/// Who waits and blocks: a transaction that was given, or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transaction {
    /// Given with the request.
    Given(u64),
    /// The owner's node and client.
    Client(crate::NodeSlot, crate::ClientId),
}

/// Chooses who of a cycle is denied.
pub trait Policy: Send + Sync {
    /// The place in `cycle` (never empty) of the victim; a place beyond the end counts as the last.
    fn choose(&self, cycle: &[Waiter]) -> usize;
}

/// Denies who has waited for the shortest time: the least is lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct YoungestWait;

/// Denies who has waited longest, as the VAXcluster book has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LongestWait;

impl Policy for YoungestWait {
    fn choose(&self, cycle: &[Waiter]) -> usize {
        (0..cycle.len()).min_by_key(|at| (cycle[*at].age, core::cmp::Reverse(cycle[*at].lock))).unwrap_or(0)
    }
}

impl Policy for LongestWait {
    fn choose(&self, cycle: &[Waiter]) -> usize {
        (0..cycle.len()).max_by_key(|at| (cycle[*at].age, cycle[*at].lock)).unwrap_or(0)
    }
}

impl Lockspace {
    /// Looks for cycles of waits, and ends one wait of each with [`Status::Deadlock`]: the one that the policy chooses.
    /// Returns those. Flags NODLCKWT and NODLCKBLK take a lock out of the search. O(waits x holders in their way).
    pub fn resolve_deadlocks(&self) -> Vec<LockId> {
        let policy = self.victim_policy();
        self.with_all(|shards, now| {
            let mut victims = Vec::new();
            loop {
                let waiting: Vec<LockState> = shards.iter().flat_map(|shard| shard.waiting(now)).collect();
                let Some(cycle) = Graph::new(&waiting, |lock| {
                    shards.get(lock.shard()).and_then(|shard| shard.lock_state(now, lock).ok())
                })
                .cycle() else {
                    return victims;
                };
                let at = policy.choose(&cycle).min(cycle.len() - 1);
                let victim = cycle[at].lock;
                let ended =
                    shards.get_mut(victim.shard()).map(|shard| shard.end_wait(victim, Status::Deadlock));
                if ended != Some(Ok(())) {
                    return victims;
                }
                victims.push(victim);
            }
        })
    }
}

/// A transaction, the wait by which it was reached, and what is still to be looked at from it.
type Step = (Transaction, Option<Waiter>, Vec<(Waiter, Transaction)>);

/// Each transaction that waits: with which wait, and for which transactions.
struct Graph(BTreeMap<Transaction, Vec<(Waiter, BTreeSet<Transaction>)>>);

fn transaction(lock: &LockState) -> Transaction {
    lock.transaction.map_or(Transaction::Client(lock.owner.node, lock.owner.client), Transaction::Given)
}

impl Graph {
    fn new(waiting: &[LockState], state: impl Fn(LockId) -> Option<LockState>) -> Self {
        let mut graph: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for lock in waiting.iter().filter(|lock| !lock.flags.has(Flags::NODLCKWT)) {
            let from = transaction(lock);
            let blocks = |other: &LockState| !other.flags.has(Flags::NODLCKBLK);
            let others = lock.blocked_by.iter().filter_map(|holder| state(holder.lock)).filter(blocks);
            let to: BTreeSet<_> = others.map(|other| transaction(&other)).filter(|to| *to != from).collect();
            let age = lock.age.unwrap_or_default();
            let waiter = Waiter { lock: lock.lock, owner: lock.owner, transaction: from, age };
            graph.entry(from).or_default().push((waiter, to));
        }
        Self(graph)
    }

    /// The waits of one cycle, if there is one. A depth-first search without recursion.
    fn cycle(&self) -> Option<Vec<Waiter>> {
        let mut done = BTreeSet::new();
        for start in self.0.keys() {
            let mut path: Vec<Step> = vec![(*start, None, self.steps(*start))];
            while let Some((_, _, steps)) = path.last_mut() {
                let Some((wait, next)) = steps.pop() else {
                    if let Some((at, ..)) = path.pop() {
                        done.insert(at);
                    }
                    continue;
                };
                if let Some(from) = path.iter().position(|(at, ..)| *at == next) {
                    let inner = path[from + 1..].iter().filter_map(|(_, wait, _)| *wait);
                    return Some(inner.chain([wait]).collect());
                }
                if !done.contains(&next) {
                    path.push((next, Some(wait), self.steps(next)));
                }
            }
        }
        None
    }

    fn steps(&self, from: Transaction) -> Vec<(Waiter, Transaction)> {
        let waits = self.0.get(&from).into_iter().flatten();
        waits.flat_map(|(waiter, to)| to.iter().map(|to| (*waiter, *to))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ask, Config, LocalLocks, LockError, Mode};
    use std::sync::Arc;

    fn space() -> Lockspace {
        LocalLocks::default().open("c", Config::default()).unwrap()
    }

    #[test]
    fn of_a_circle_of_three_one_is_denied_and_the_others_go_on() {
        for longest in [false, true] {
            let space = space();
            if longest {
                space.set_victim_policy(Arc::new(LongestWait));
            }
            let clients: Vec<_> = (0..3).map(|_| space.client().unwrap()).collect();
            let held: Vec<_> =
                (0..3).map(|at| clients[at].lock(format!("r{at}"), Mode::Ex).unwrap()).collect();
            let mut waits: Vec<_> = (0..3)
                .map(|at| {
                    clients[at].lock_later(format!("r{}", (at + 1) % 3), Mode::Pr, &Ask::default()).unwrap()
                })
                .collect();
            let expected = if longest { 0 } else { 2 };
            let victim = waits[expected].lock().unwrap();
            assert_eq!(space.resolve_deadlocks(), [victim]);
            assert_eq!(waits[expected].try_take().unwrap().unwrap_err(), LockError::Deadlock);
            assert!(space.resolve_deadlocks().is_empty());
            drop(held);
        }
    }

    #[test]
    fn transactions_join_clients_and_flags_take_locks_out() {
        let space = space();
        let [a, b, c] = core::array::from_fn(|_| space.client().unwrap());
        let of = |transaction| Ask { transaction: Some(transaction), ..Ask::default() };
        let _x = a.lock_with("x", Mode::Ex, &of(1)).unwrap();
        let _y = b.lock_with("y", Mode::Ex, &of(2)).unwrap();
        let _one = c.lock_later("y", Mode::Ex, &of(1)).unwrap();
        let free = Ask { flags: Flags::NODLCKWT, ..of(2) };
        let excused = b.lock_later("x", Mode::Ex, &free).unwrap();
        assert!(space.resolve_deadlocks().is_empty());
        drop(excused);
        let other = b.lock_later("x", Mode::Ex, &of(2)).unwrap();
        assert_eq!(space.resolve_deadlocks(), [other.lock().unwrap()]);
    }

    #[test]
    fn who_waits_in_a_call_finds_the_deadlock_by_itself() {
        let config = Config { deadlock_after: Duration::from_millis(5), ..Config::default() };
        let space = LocalLocks::default().open("c", config).unwrap();
        let (a, b) = (space.client().unwrap(), space.client().unwrap());
        let (x, y) = (a.lock("x", Mode::Ex).unwrap(), b.lock("y", Mode::Ex).unwrap());
        std::thread::scope(|scope| {
            let first = scope.spawn(move || {
                let outcome = a.lock("y", Mode::Ex).map(|_| ());
                drop(x);
                outcome
            });
            let second = scope.spawn(move || {
                let outcome = b.lock("x", Mode::Ex).map(|_| ());
                drop(y);
                outcome
            });
            let outcomes = [first.join().unwrap(), second.join().unwrap()];
            let denied = outcomes.iter().filter(|outcome| **outcome == Err(LockError::Deadlock)).count();
            assert_eq!(denied, 1, "{outcomes:?}");
        });
    }
}
