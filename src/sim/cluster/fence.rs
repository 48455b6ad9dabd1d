//! The fence device of the world: it can switch any machine off and on, and has bad days.

use super::program::{Completion, Happening};
use super::record::Record;
use super::{Cluster, Plan};
use crate::sim::World;
use core::time::Duration;
use ocf_stonith::{DeviceReport, DeviceResult, Failure, FenceAction, ReadBack, Run};
use pils::NodeInstance;
use std::sync::Arc;

/// What one attempt comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// Switches the machine off and says so.
    Off,
    /// Does nothing and says so.
    Fails,
    /// Takes the order, and cannot say what became of it.
    Unread {
        /// Whether it carries it out.
        acts: bool,
    },
    /// Acts and answers only when nobody waits any more.
    Late,
    /// Gives the machine its power back, after a fence.
    SwitchesOn,
    /// Never answers.
    Silent,
    /// Says that the machine is off though it did nothing: no device of a correct world does that.
    Lies,
}

pub(crate) fn ask(world: &mut World<Cluster>, plan: &Plan, who: NodeInstance, run: &Run) {
    if !run.action.is_fencing() {
        let slow = plan.access && !world.healed();
        let took = if slow { world.rng().below(2_800) } else { 300 };
        let fails = slow && world.rng().chance(plan.fence_failure);
        let answer = if fails { Answer::Fails } else { Answer::SwitchesOn };
        world.schedule(Duration::from_millis(took), Happening::FenceActs(who, run.clone(), answer));
        return;
    }
    world.record(Some(who), Record::FenceAsked(run.target, run.attempt));
    let bad = !world.healed() && world.rng().chance(plan.fence_failure);
    let answer = if plan.lying_fence {
        Answer::Lies
    } else if bad {
        let acts = world.rng().chance(0.5);
        let kinds = [Answer::Fails, Answer::Late, Answer::Silent, Answer::Unread { acts }];
        world.rng().pick(&kinds).copied().unwrap_or(Answer::Fails)
    } else {
        Answer::Off
    };
    let case = match answer {
        Answer::Fails => "a fence device failed",
        Answer::Late => "a fence device answered late",
        Answer::Silent => "a fence device never answered",
        Answer::Unread { .. } => "a fence device could not tell",
        Answer::Off | Answer::Lies | Answer::SwitchesOn => "a fence device switched a machine off",
    };
    world.sometimes(case);
    let mut took = world.rng().duration(Duration::from_millis(5), Duration::from_millis(1_500));
    if answer == Answer::Late {
        took += run.timeout + Duration::from_millis(700);
    }
    world.schedule(took, Happening::FenceActs(who, run.clone(), answer));
}

pub(crate) fn act(
    world: &mut World<Cluster>,
    access: bool,
    (who, run, answer): (NodeInstance, &Run, Answer),
) {
    let acts = matches!(answer, Answer::Off | Answer::Late | Answer::Unread { acts: true });
    if acts && access {
        world.sometimes("a machine lost its access");
        world.record(None, Record::AccessTaken(run.target.node));
    } else if acts {
        let back = world.rng().duration(Duration::from_millis(100), Duration::from_millis(5_000));
        // After the last fault there is somebody who switches machines on again.
        let comes_back = run.action == FenceAction::Reboot || world.healed();
        world.power_off(run.target.node, comes_back.then_some(back));
    }
    let done = |read_back| DeviceResult::Done { read_back, detail: Arc::from("simulated") };
    if answer == Answer::SwitchesOn && access {
        // What gives access is a program of the node, and dies with it.
        if world.running(who.node) == Some(who) {
            world.record(None, Record::AccessGiven(who));
        }
    } else if answer == Answer::SwitchesOn {
        let boot = world.rng().duration(Duration::from_millis(100), Duration::from_millis(5_000));
        world.power_on(run.target.node, boot);
    }
    let result = match answer {
        Answer::SwitchesOn => done(ReadBack::On),
        Answer::Silent => return,
        Answer::Fails => DeviceResult::Failed(Failure::Failed { detail: Arc::from("simulated failure") }),
        Answer::Unread { .. } => done(ReadBack::NotRead),
        Answer::Off | Answer::Late | Answer::Lies => done(ReadBack::Off),
    };
    let proof = matches!(answer, Answer::Off | Answer::Late | Answer::Lies);
    let report = DeviceReport { attempt: run.attempt, result };
    world.complete(who, Duration::from_millis(1), Completion::Device(run.target, proof, report));
}
