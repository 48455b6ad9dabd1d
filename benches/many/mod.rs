//! A manager and an executor without threads, whose messages are ordered and whose agents succeed at once: what is left is the
//! time that decisions take.

use crate::support::{Goal, Options, Report, Samples};
use ocf_resource::executor::{self, Executor};
use ocf_resource::{
    Action, Config, GroupConfig, Input, Manager, OcfCode, OperationResult, Outcome, Output, ResourceConfig,
};
use pils::{Incarnation, Instant as Core, Layer as _, NodeId, NodeInstance, Rng};
use std::time::{Duration, Instant};

/// Resources of a group.
const GROUP: usize = 50;
/// A report, as the second byte of a message says.
const REPORT: u8 = 2;

/// Groups of [`GROUP`] resources.
fn config(resources: usize) -> Config {
    let group = |at: usize| {
        let names = at * GROUP..((at + 1) * GROUP).min(resources);
        let resource = |n: usize| ResourceConfig::new(format!("r{n}"), "rust:x".parse().expect("a name"));
        GroupConfig::new(format!("g{at}"), names.map(resource).collect())
    };
    Config { groups: (0..resources.div_ceil(GROUP)).map(group).collect(), ..Config::default() }
}

/// What it took.
struct Taken {
    /// From nothing until all run.
    ready: Duration,
    /// The manager's own, for one report: what it changes, the plan, and what follows.
    report: Duration,
}

/// Brings resources up on one node. `everything`: each plan looks at all of them.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest asks nothing of anybody")]
fn bring_up(resources: usize, everything: bool) -> Taken {
    let me = NodeInstance::new(NodeId::new(1), Incarnation::new(1 << 96));
    let now = Core::ZERO;
    let mut manager = Manager::new(me, config(resources));
    if everything {
        manager.plan_everything();
    }
    let mut executor = Executor::new(executor::Config::default(), Rng::new(1));
    let began = Instant::now();
    let (mut reports, mut spent) = (0_u32, Duration::ZERO);
    manager.handle(now, Input::View { number: 1, members: &[me], joined: &[me], departed: &[] });
    loop {
        if let Some(output) = manager.poll_output() {
            match output {
                Output::Broadcast(payload) => {
                    let from = Instant::now();
                    manager.handle(now, Input::Ordered { sender: me, payload: &payload });
                    if payload.get(1) == Some(&REPORT) {
                        reports += 1;
                        spent += from.elapsed();
                    }
                }
                Output::Execute(request) => executor.handle(now, executor::Input::Request(request)),
                _ => {}
            }
        } else if let Some(output) = executor.poll_output() {
            match output {
                executor::Output::Run { run, operation } => {
                    let looks = operation.action == Action::Monitor;
                    let stopped = Outcome::Failed { code: OcfCode::NotRunning };
                    let result = OperationResult::new(if looks { stopped } else { Outcome::Ok });
                    executor.handle(now, executor::Input::Done { run, result });
                }
                executor::Output::Event(event) => manager.handle(now, Input::Executor(event)),
                _ => {}
            }
        } else {
            break;
        }
    }
    let ready = began.elapsed();
    let status = manager.status();
    assert!(status.groups.iter().all(|g| g.running_on == Some(me)), "all of them run");
    Taken { ready, report: spent / reports.max(1) }
}

/// Medians in seconds, and in microseconds for a report.
fn measure(rounds: usize, resources: usize, everything: bool) -> (f64, f64) {
    let taken: Vec<Taken> = (0..rounds).map(|_| bring_up(resources, everything)).collect();
    let median = |of: fn(&Taken) -> Duration| Samples::micros(taken.iter().map(of)).median();
    (median(|t| t.ready) / 1e6, median(|t| t.report))
}

/// The figures.
pub(crate) fn report(options: Options, report: &mut Report) {
    let rounds = if options.quick { 1 } else { 3 };
    let (whole, of_whole) = measure(rounds, 1_000, true);
    let (ready, of_100) = measure(rounds, 100, false);
    report.figure(("E-5/100", "decisions until 100 resources run"), (ready, "s"), None, None);
    report.figure(("E-6/100", "decisions for one report, of 100 resources"), (of_100, "us"), None, None);
    let (ready, of_1000) = measure(rounds, 1_000, false);
    let (all, few) = (("all planned", whole), ("all planned", of_whole));
    let half = Some(Goal::AtMost(0.5));
    report.figure(("E-5/1000", "decisions until 1,000 resources run"), (ready, "s"), Some(all), half);
    report.figure(("E-6/1000", "decisions for one report, of 1,000"), (of_1000, "us"), Some(few), half);
    let (ready, of_10000) = measure(rounds, 10_000, false);
    let (less, goal) = (("of 100", of_100), Some(Goal::AtMost(4.0)));
    report.figure(("E-5/10000", "decisions until 10,000 resources run"), (ready, "s"), None, None);
    report.figure(("E-6/10000", "decisions for one report, of 10,000"), (of_10000, "us"), Some(less), goal);
    report.note(
        "E-5, E-6: groups of 50 on one node, agents that succeed at once, nothing but manager and executor",
    );
}
