//! The resources of the world, and the agents that start and stop them.

use super::program::{Completion, Happening};
use super::record::{Ending, Record};
use super::{Cluster, Plan};
use crate::sim::World;
use core::time::Duration;
use ocf_resource::executor::RunId;
use ocf_resource::{Action, OcfCode, Operation, OperationResult, Outcome};
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What runs where, and which agents are at work.
///
/// A resource survives the death of the cluster's process, but not its machine's. Agents at work die with the process
/// that called them, having done their work or not.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    pub(crate) running: BTreeSet<(NodeId, Arc<str>)>,
    active: BTreeMap<(NodeInstance, RunId), (Operation, Fate)>,
}

/// What an agent at work will come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Works,
    Fails,
    Hangs,
}

impl Agents {
    pub(crate) fn idle(&self) -> bool {
        self.active.values().all(|(o, fate)| o.action == Action::Monitor && *fate == Fate::Works)
    }

    pub(crate) fn begin(
        &mut self,
        world: &mut World<Cluster>,
        plan: &Plan,
        who: NodeInstance,
        call: (RunId, Operation),
    ) {
        let (run, operation) = call;
        let faulty = !world.healed();
        let fate = if faulty && world.rng().chance(plan.agent_failure) {
            if world.rng().chance(0.3) { Fate::Hangs } else { Fate::Fails }
        } else {
            Fate::Works
        };
        let took = match (fate, operation.action) {
            (Fate::Hangs, _) => operation.timeout,
            (_, Action::Start | Action::Stop) => {
                world.rng().duration(Duration::from_millis(2), Duration::from_millis(300))
            }
            _ => world.rng().duration(Duration::from_millis(1), Duration::from_millis(20)),
        };
        world.record(Some(who), Record::AgentCalled(Arc::clone(&operation.resource), operation.action));
        self.active.insert((who, run), (operation, fate));
        world.schedule(took, Happening::AgentEnds(who, run));
    }

    /// An agent has done what it does, or its time is over.
    pub(crate) fn end(&mut self, world: &mut World<Cluster>, who: NodeInstance, run: RunId) {
        let Some((operation, fate)) = self.active.remove(&(who, run)) else { return };
        let outcome = match fate {
            Fate::Works => self.work(world, who, &operation),
            Fate::Fails => Outcome::Failed { code: OcfCode::Generic },
            Fate::Hangs => {
                if world.rng().chance(0.5) {
                    self.work(world, who, &operation);
                }
                Outcome::TimedOut
            }
        };
        world.complete(who, Duration::ZERO, Completion::Operated(run, OperationResult::new(outcome)));
    }

    pub(crate) fn cancel(&mut self, world: &mut World<Cluster>, who: NodeInstance, run: RunId) {
        let Some((operation, _)) = self.active.remove(&(who, run)) else { return };
        if world.rng().chance(0.5) {
            self.work(world, who, &operation);
        }
        let took = world.rng().duration(Duration::from_millis(1), Duration::from_millis(50));
        world.complete(who, took, Completion::Operated(run, OperationResult::new(Outcome::Cancelled)));
    }

    fn work(&mut self, world: &mut World<Cluster>, who: NodeInstance, operation: &Operation) -> Outcome {
        let resource = &operation.resource;
        let place = (who.node, Arc::clone(resource));
        match operation.action {
            Action::Start => {
                if self.running.insert(place) {
                    world.record(Some(who), Record::Runs(Arc::clone(resource)));
                }
                Outcome::Ok
            }
            Action::Stop => {
                if self.running.remove(&place) {
                    world.record(Some(who), Record::Ended(Arc::clone(resource), Ending::Stopped));
                }
                Outcome::Ok
            }
            _ if self.running.contains(&place) => Outcome::Ok,
            _ => Outcome::Failed { code: OcfCode::NotRunning },
        }
    }

    /// One of the running resources fails by itself.
    pub(crate) fn fail_one(&mut self, world: &mut World<Cluster>) {
        let all: Vec<(NodeId, Arc<str>)> = self.running.iter().cloned().collect();
        let Some((node, resource)) = world.rng().pick(&all).cloned() else { return };
        self.running.remove(&(node, Arc::clone(&resource)));
        world.sometimes("a resource failed by itself");
        world.record(Some(at(world, node)), Record::Ended(resource, Ending::Failed));
    }

    /// The process that called agents is gone, and they with it.
    pub(crate) fn orphan(&mut self, world: &mut World<Cluster>, who: NodeInstance) {
        let runs: Vec<RunId> = self.active.keys().filter(|(w, _)| *w == who).map(|(_, run)| *run).collect();
        for run in runs {
            if let Some((operation, _)) = self.active.remove(&(who, run))
                && world.rng().chance(0.5)
                && world.powered(who.node)
            {
                self.work(world, who, &operation);
            }
        }
    }

    pub(crate) fn power_lost(&mut self, world: &mut World<Cluster>, node: NodeId) {
        let gone: Vec<(NodeId, Arc<str>)> =
            self.running.iter().filter(|(n, _)| *n == node).cloned().collect();
        for place in gone {
            self.running.remove(&place);
            world.record(Some(at(world, node)), Record::Ended(place.1, Ending::PowerLost));
        }
    }
}

/// Names a machine in the history even when no node runs on it.
fn at(world: &World<Cluster>, node: NodeId) -> NodeInstance {
    world.running(node).unwrap_or_else(|| NodeInstance::new(node, pils::Incarnation::new(0)))
}
