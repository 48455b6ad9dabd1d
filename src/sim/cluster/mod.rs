//! The whole stack on simulated machines: groups under load, a service under monitors, fencing, and everything that can
//! go wrong with them.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each part reacts to its own kinds of event and at no others"
)]

mod agents;
mod app;
mod boards;
mod bugs;
mod cases;
mod fence;
mod locks;
mod plan;
mod program;
mod record;
mod set;

pub use bugs::Bug;
pub use cases::EXPECTED;
pub use fence::Answer;
pub use plan::{Options, Plan};
pub use program::{Cluster, Completion, Happening};
pub use record::{Ending, Log, MessageId, Record, ViewRecord};
pub use set::SET_CASES;

use super::checkers::{
    DeadMembers, FenceTruth, NodeSet, OneHolder, OneLevel, OnePlan, OneView, PerChain, PrimaryOverlap,
    QuorumChain, ResourceOrder, RunOnce, SenderOrder, StateKept, Steady, Suspicion, TotalOrder,
    VirtualSynchrony,
};
use super::{Checker, Fault, Report, Simulation};
use core::time::Duration;
use ocf_membership::Durability;
use pils::Rng;
use std::sync::Arc;

/// Simulates one seed of the whole stack.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report<Record> {
    let mut rng = Rng::new(seed);
    let plan = Plan::draw(&mut rng, options);
    let profile = plan.profile.clone();
    let (failures, leaves, changes) = (plan.resource_failures, plan.leaves, plan.set_changes);
    let mut checkers = checkers(&plan);
    let partitions = plan.partitions;
    let cluster = Cluster::new(plan);
    if partitions {
        checkers.push(Box::new(cluster.boards.clone()));
    }
    let mut simulation = Simulation::new(cluster, profile, rng.next_u64(), checkers);
    simulation.schedule(failures, Happening::ResourceFails);
    if let Some(leaves) = leaves {
        simulation.schedule(leaves, Happening::SomebodyLeaves);
    }
    if let Some(changes) = changes {
        simulation.schedule(changes, Happening::SetChanges);
    }
    simulation.run()
}

fn checkers(plan: &Plan) -> Vec<Box<dyn Checker<Record>>> {
    let slack = plan.profile.timer_slack * 2 + Duration::from_millis(150);
    vec![
        Box::new(PerChain::<OneView>::default()),
        Box::new(PerChain::<QuorumChain>::default()),
        Box::new(PerChain::<NodeSet>::default()),
        Box::new(PerChain::<OneLevel>::default()),
        Box::new(PerChain::<PrimaryOverlap>::default()),
        Box::new(DeadMembers::default()),
        Box::new(Suspicion::new(plan.timers, slack, is_regular(plan))),
        Box::new(PerChain::<TotalOrder>::default()),
        Box::new(PerChain::<VirtualSynchrony>::default()),
        Box::new(SenderOrder::default()),
        Box::new(StateKept::new(plan.forget_after, writes_fail(plan))),
        Box::new(FenceTruth::default()),
        Box::new(RunOnce::default()),
        Box::new(PerChain::<OneHolder>::default()),
        Box::new(PerChain::<OnePlan>::default()),
        Box::new(ResourceOrder::new(plan.resource_names().into_iter().map(Arc::from).collect())),
        Box::new(Steady::default()),
    ]
}

/// True if nodes may leave a primary because their records cannot be written, or have none.
fn writes_fail(plan: &Plan) -> bool {
    plan.profile.disk.failure > 0.0
        || plan.profile.faults.contains(&Fault::FullDisk)
        || plan.durability == Durability::Volatile
}

/// True if nothing but faults makes the gaps between arrivals irregular.
fn is_regular(plan: &Plan) -> bool {
    let quality = &plan.profile.quality;
    let small = plan.timers.heartbeat / 8;
    quality.loss <= 0.0
        && quality.corrupt <= 0.0
        && quality.spike_chance <= 0.0
        && quality.bandwidth.is_none()
        && quality.delay.1 < small
        && plan.profile.timer_slack < small
        && plan.profile.attack <= 0.0
}
