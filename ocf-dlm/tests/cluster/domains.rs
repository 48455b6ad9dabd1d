//! Recovery domains: programs that collect what failures have made invalid, repair it, and say so.

use crate::checkers::Violation;
use crate::world::World;
use ocf_dlm::cluster::Ask;
use ocf_dlm::wire::{Key, Outcome};
use ocf_dlm::{ClientId, Flags, Mode};
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The lockspace of all names here.
pub(crate) const SPACE: &[u8] = b"ls";
/// Who collects, on each node.
const COLLECTOR: ClientId = ClientId::new(7);

/// What collectors have asked for, by node and ticket: with which lock.
#[derive(Debug, Default)]
pub(crate) struct Collectors {
    asked: BTreeMap<(NodeInstance, u64), (u64, bool)>,
    /// What each was told, by node and lock, and how many failures there had been then.
    found: BTreeMap<(NodeInstance, u64), (BTreeSet<Key>, u64)>,
    /// How the last one of all ended.
    last: Option<bool>,
    /// Nodes come to the domain and leave it: what is due is not known here then.
    pub(crate) fickle: bool,
    attached: BTreeSet<NodeInstance>,
}

fn name_of(tree: &[u8]) -> Key {
    Key { tree: tree.into(), path: std::sync::Arc::from([]) }
}

impl World {
    /// A node's programs take part in the domain as soon as it runs.
    pub(crate) fn attach(&mut self, at: NodeInstance) {
        self.collectors.attached.insert(at);
        self.nodes.get_mut(&at).unwrap().engine.attach(self.now, SPACE).unwrap();
    }

    fn detach(&mut self, at: NodeInstance) {
        self.collectors.attached.remove(&at);
        self.nodes.get_mut(&at).unwrap().engine.detach(self.now, SPACE);
    }

    /// A collector does the next thing.
    pub(crate) fn domain_operation(&mut self, at: NodeInstance) {
        let key = Key::collector(SPACE);
        if self.is_asking() && self.rng.chance(0.03) {
            self.nodes.get_mut(&at).unwrap().engine.end_client(self.now, COLLECTOR);
            self.checkers.client_ended(at, COLLECTOR);
            self.count("collector ended");
            return;
        }
        if self.collectors.fickle && self.is_asking() && self.rng.chance(0.3) {
            let attached = self.collectors.attached.contains(&at);
            if attached {
                self.detach(at);
            } else {
                self.attach(at);
            }
            self.count("came or left");
            return;
        }
        let Some(lock) = self.collector_of(at) else {
            let tries = self.is_asking() && self.rng.chance(0.7);
            let flags = if tries { Flags::NOTIFY | Flags::NOQUEUE } else { Flags::NOTIFY };
            let ask = Ask {
                client: COLLECTOR,
                key: key.clone(),
                parent: None,
                mode: Mode::Ex,
                flags,
                transaction: None,
                deadline: None,
                signal: 0,
            };
            let lock = self.nodes.get_mut(&at).unwrap().engine.lock(self.now, ask).unwrap();
            self.checkers.asked((at, lock), COLLECTOR, key, (Mode::Ex, flags));
            return;
        };
        if self.collectors.asked.iter().any(|((node, _), (of, _))| *node == at && *of == lock) {
            return;
        }
        let found = self.collectors.found.get(&(at, lock)).cloned();
        let engine = &mut self.nodes.get_mut(&at).unwrap().engine;
        let validates = found.is_some() && self.rng.chance(0.7);
        let given = if validates { engine.validate(self.now, lock) } else { engine.collect(self.now, lock) };
        let Ok(ticket) = given else {
            // It waits, or was converted.
            let idle = engine.lock_state(lock).is_some_and(|state| state.asked.is_none());
            if idle && !self.is_asking() {
                self.unlock(at, lock, Flags::NONE);
            }
            return;
        };
        self.collectors.asked.insert((at, ticket), (lock, validates));
        if validates && let Some((names, failures)) = found {
            // From now on each may be zero and valid, and none of those failures has to be told again.
            self.checkers.validating(&names, failures);
            self.count("validating");
        }
    }

    /// The lock by which a node collects, or asks to.
    fn collector_of(&self, at: NodeInstance) -> Option<u64> {
        let key = Key::collector(SPACE);
        self.checkers.locks_of(at).into_iter().find(|(_, of)| *of == key).map(|(lock, _)| lock)
    }

    /// What became of it.
    pub(crate) fn domain_reported(
        &mut self,
        at: NodeInstance,
        ticket: u64,
        outcome: Option<&Outcome>,
    ) -> bool {
        let Some((lock, _)) = self.collectors.asked.remove(&(at, ticket)) else { return false };
        match outcome {
            Some(Outcome::Marks { marks, .. }) => {
                let names: BTreeSet<Key> = marks.iter().map(|mark| name_of(&mark.tree)).collect();
                self.count(if names.is_empty() { "nothing to repair" } else { "collected" });
                let failures = self.checkers.repairs().failures();
                self.collectors.found.insert((at, lock), (names, failures));
            }
            Some(Outcome::Validated { more }) => {
                self.collectors.found.remove(&(at, lock));
                self.collectors.last = Some(*more);
                self.count(if *more { "more to repair" } else { "all repaired" });
                if self.rng.chance(0.7) {
                    self.schedule_release(at, lock);
                }
            }
            Some(_) => self.count("not collected in a recovery"),
            None => self.count("collection interrupted"),
        }
        true
    }

    /// After the last fault: one collector is told everything that is due, and leaves nothing.
    pub(crate) fn collect_all(&mut self, until: Instant) -> Result<(), Violation> {
        self.run_until(self.now + Duration::from_millis(10))?;
        let at = *self.nodes.keys().next().unwrap();
        self.collectors.last = None;
        // What was collected before the last failure does not count.
        self.collectors.found.clear();
        while self.collectors.last != Some(false) {
            if self.now >= until {
                let what = format!("{at} has not collected and validated everything in time");
                return Err(Violation { rule: "D11", what });
            }
            self.domain_operation(at);
            self.drain(at);
            self.run_until(self.now + Duration::from_millis(1))?;
            let found = self.collector_of(at).and_then(|lock| self.collectors.found.get(&(at, lock)));
            // Before anything is validated.
            if let (Some((names, _)), None, false) = (found, self.collectors.last, self.collectors.fickle) {
                self.checkers.collected_all(names)?;
            }
        }
        let left: Vec<_> = self.nodes.values().flat_map(|node| node.engine.repairs()).collect();
        if !left.is_empty() {
            let what = format!("nothing is left to repair, but {left:?}");
            return Err(Violation { rule: "D11", what });
        }
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.detach(node);
            self.drain(node);
        }
        Ok(())
    }
}
