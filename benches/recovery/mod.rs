//! How soon a resource is back: here, when it fails, and elsewhere, when the program that decides on its node is killed, and
//! when its node falls silent. Ours and Pacemaker's, one after the other in the same run, with the same agent
//! (`ocf:heartbeat:Dummy`), in namespaces of the same making.
#![expect(clippy::print_stderr, reason = "a bench says how far it is")]
#![allow(unreachable_pub, reason = "a bench is a crate without users")]

mod lab;

use crate::support::{Goal, Options, Report, Samples};
pub use lab::inside;
use lab::{Kind, Lab};
use std::time::{Duration, Instant};

/// What runs it, and how it is set up.
const KINDS: [(&str, Kind); 3] = [
    ("ours", Kind::Ours),
    ("default", Kind::Pacemaker { token: None }),
    ("tuned", Kind::Pacemaker { token: Some(1000) }),
];

/// What clusters of one kind showed: times in milliseconds.
#[derive(Default)]
struct Seen {
    /// From the end of the resource until it was back.
    failed: Vec<f64>,
    /// From the end of the program that decides on its node until it was up on another one.
    killed: Vec<f64>,
    /// From the end of its node until it was up on another one.
    lost: Vec<f64>,
}

/// Failures of the resource in each cluster, spread over the interval of its monitor: when in it the failure falls is chance.
const FAILURES: u32 = 10;
/// After how many milliseconds of silence ours takes a node for lost.
const DETECTION: f64 = 500.0;
const MONITOR: Duration = Duration::from_secs(1);

fn measure(kind: Kind, seen: &mut Seen) -> Result<(), String> {
    let mut lab = Lab::start(kind)?;
    for failure in 0..FAILURES {
        // Whatever the last one brought about is over.
        std::thread::sleep(MONITOR * 2 + MONITOR * failure / FAILURES);
        let at = lab.owner().ok_or("the resource does not run")?;
        let began = Instant::now();
        lab.fail(at)?;
        lab.wait_for_owner(None)?;
        seen.failed.push(began.elapsed().as_secs_f64() * 1e3);
    }
    std::thread::sleep(MONITOR * 3);
    seen.lost.push(leaves(&mut lab, Lab::cut)?);
    drop(lab);
    // One that has lost a node already cannot lose another.
    let mut lab = Lab::start(kind)?;
    std::thread::sleep(MONITOR * 3);
    seen.killed.push(leaves(&mut lab, Lab::kill)?);
    Ok(())
}

/// From what `end` does to the node that has the resource until another one has it.
fn leaves(lab: &mut Lab, end: fn(&mut Lab, usize) -> Result<(), String>) -> Result<f64, String> {
    let at = lab.owner().ok_or("the resource does not run")?;
    let began = Instant::now();
    end(lab, at)?;
    lab.wait_for_owner(Some(at))?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// The figures of X-1.
pub fn report(options: Options, report: &mut Report) {
    let rounds = if options.quick { 1 } else { 3 };
    let mut seen = [Seen::default(), Seen::default(), Seen::default()];
    let mut missing: [Option<String>; 3] = [None, None, None];
    for round in 1..=rounds {
        for ((name, kind), (seen, missing)) in KINDS.iter().zip(seen.iter_mut().zip(&mut missing)) {
            if missing.is_none() {
                *missing = measure(*kind, seen).err();
                let [failed, killed, lost] = medians(seen);
                eprintln!(
                    "round {round} of {rounds}: {name} failed {failed:.0} ms, killed {killed:.0} ms, lost {lost:.0} ms"
                );
            }
        }
    }
    compare(&seen, &missing, report);
    if missing[0].is_none() {
        hold_against_budgets(medians(&seen[0]), report);
    }
    report.note(format!(
        "X-1: a node in namespaces loses its power, or its program (ours, or corosync) is killed; ours notices silence after 500 ms \
         and has fencing confirmed at once by a simulated device, Pacemaker does without fencing; corosync plain, ours \
         encrypted; medians of {rounds} node(s) and {} failures each",
        rounds * FAILURES
    ));
}

/// Ours beside Pacemaker, with its default timeout and tuned.
fn compare(seen: &[Seen; 3], missing: &[Option<String>; 3], report: &mut Report) {
    let [ours, default, tuned] = seen.each_ref().map(medians);
    let [no_ours, no_default, no_tuned] = missing;
    let rows = [
        (
            "X-1",
            2,
            "node is silent, its resource runs on another one",
            "default token",
            (default, no_default),
            Some(0.1),
        ),
        (
            "X-1/tuned",
            2,
            "node is silent, its resource runs on another one",
            "token 1 s",
            (tuned, no_tuned),
            Some(0.33),
        ),
        (
            "X-1/killed",
            1,
            "program is killed, its resource runs elsewhere",
            "default token",
            (default, no_default),
            Some(0.1),
        ),
        (
            "X-1/killed/tuned",
            1,
            "program is killed, its resource runs elsewhere",
            "token 1 s",
            (tuned, no_tuned),
            Some(0.33),
        ),
        (
            "X-1/failed",
            0,
            "resource fails, looked at each second, runs again",
            "pacemaker",
            (default, no_default),
            None,
        ),
    ];
    for (id, which, what, name, (theirs, missing), goal) in rows {
        let goal = goal.map(Goal::AtMost);
        match (no_ours, missing) {
            (None, None) => report.figure((id, what), (ours[which], "ms"), Some((name, theirs[which])), goal),
            (None, Some(why)) => {
                report.note(format!("{id}: {:.1} ms, with nothing beside it: {why}", ours[which]));
                report.missing((id, what), "ms", goal, why);
            }
            (Some(why), _) => report.missing((id, what), "ms", goal, why),
        }
    }
}

/// Ours beside what detection, fencing and the agent allow.
fn hold_against_budgets([_failed, killed, lost]: [f64; 3], report: &mut Report) {
    let budget = DETECTION * 1.3 + 50.0;
    let what = "node is silent: 1.3 detection times and 50 ms";
    report.figure(("X-1/silent", what), (lost, "ms"), Some(("budget", budget)), Some(Goal::AtMost(1.0)));
    let what = "program is killed: 50 ms and the agent's start";
    let budget = 50.0 + lab::start_of_agent();
    report.figure(("X-1/obituary", what), (killed, "ms"), Some(("budget", budget)), Some(Goal::AtMost(1.0)));
}

/// Of failures, killed programs and lost nodes.
fn medians(seen: &Seen) -> [f64; 3] {
    [&seen.failed, &seen.killed, &seen.lost].map(|times| Samples::new(times.clone()).median())
}
