//! How soon a resource is back: here, when it fails, and elsewhere, when its node dies. Ours and Pacemaker's, one after the
//! other in the same run, with the same agent (`ocf:pacemaker:Dummy`), in namespaces of the same making.
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

/// What one cluster showed: times in milliseconds.
#[derive(Default)]
struct Seen {
    /// From the end of the resource until it was back.
    failed: Vec<f64>,
    /// From the end of its node until it was up on another one.
    lost: Vec<f64>,
}

/// Failures of the resource in each cluster, spread over the interval of its monitor: when in it the failure falls is chance.
const FAILURES: u32 = 10;
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
    let at = lab.owner().ok_or("the resource does not run")?;
    let began = Instant::now();
    lab.cut(at)?;
    lab.wait_for_owner(Some(at))?;
    seen.lost.push(began.elapsed().as_secs_f64() * 1e3);
    Ok(())
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
                let (failed, lost) = (Samples::new(seen.failed.clone()), Samples::new(seen.lost.clone()));
                let (failed, lost) = (failed.median(), lost.median());
                eprintln!("round {round} of {rounds}: {name} failed {failed:.0} ms, lost {lost:.0} ms");
            }
        }
    }
    let [ours, default, tuned] =
        seen.map(|s| [Samples::new(s.failed).median(), Samples::new(s.lost).median()]);
    let [no_ours, no_default, no_tuned] = missing;
    let pacemaker = [
        ("X-1", "default token", default, &no_default, 0.1),
        ("X-1/tuned", "token 1 s", tuned, &no_tuned, 0.33),
    ];
    for (id, name, theirs, missing, goal) in pacemaker {
        let goal = Some(Goal::AtMost(goal));
        let what = "node dies, its resource runs on another one";
        match no_ours.as_ref().or(missing.as_ref()) {
            None => report.figure((id, what), (ours[1], "ms"), Some((name, theirs[1])), goal),
            Some(why) => report.missing((id, what), "ms", goal, why),
        }
    }
    let what = "resource fails, looked at each second, runs again";
    match no_ours.as_ref().or(no_default.as_ref()) {
        None => report.figure(("X-1/failed", what), (ours[0], "ms"), Some(("pacemaker", default[0])), None),
        Some(why) => report.missing(("X-1/failed", what), "ms", None, why),
    }
    report.note(format!(
        "X-1: a power cut of a node in namespaces; ours notices after 500 ms and has fencing confirmed at once by a simulated \
         device, Pacemaker does without fencing; corosync plain, ours encrypted; medians of {rounds} node(s) and {} failures each",
        rounds * FAILURES
    ));
}
