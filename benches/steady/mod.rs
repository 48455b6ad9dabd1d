//! What must change nothing, or not for long: a broken link, a busy machine, a member that is killed while messages are ordered.
#![allow(unreachable_pub, reason = "a bench is a crate without users")]

use crate::support::group_nodes::{GroupNodes, NODES, Setup};
use crate::support::{Goal, Options, Report, Samples, machine, plot::number};
use crate::views::{Kind, Lab};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Busy threads for each processor.
const HOGS: usize = 4;
/// The views that a broken link brings about have been agreed by then.
const SETTLED: Duration = Duration::from_secs(20);

/// What is broken: `(from, at)`, nothing that the first sends arrives at the second.
type Cut = &'static [(usize, usize)];

const CUTS: [(&str, &str, Cut); 2] = [
    ("M-5/pair", "a link cut: views of one node", &[(2, 3), (3, 2)]),
    ("M-5/one way", "a link cut one way: views of one node", &[(3, 2)]),
];

/// For words that name how long was measured.
fn kept(text: String) -> &'static str {
    text.leak()
}

/// M-5: how many views follow from a broken link, and how many later.
pub fn cut(options: Options, report: &mut Report) {
    let time = if options.quick { Duration::from_secs(20) } else { Duration::from_secs(600) };
    for (id, what, broken) in CUTS {
        let later = (
            kept(format!("{id} later")),
            kept(format!("the same, in the {} s after the first {}", time.as_secs(), SETTLED.as_secs())),
        );
        let (two, none) = (Some(Goal::AtMost(1.0)), Some(Goal::AtMost(0.0)));
        match views_after(Kind::Ours(500), broken, time) {
            Ok((first, rest)) => {
                report.figure((id, what), (first, ""), Some(("two", 2.0)), two);
                report.figure(later, (rest, ""), Some(("one", 1.0)), none);
            }
            Err(why) => {
                report.missing((id, what), "", two, &why);
                report.missing(later, "", none, &why);
            }
        }
    }
    let time = time.min(Duration::from_secs(60));
    let what = kept(format!("the same, corosync with a token of 1 s, in {} s", (SETTLED + time).as_secs()));
    match views_after(Kind::Corosync(Some(1000)), CUTS[0].2, time) {
        Ok((first, rest)) => report.figure(("M-5/corosync", what), (first + rest, ""), None, None),
        Err(why) => report.missing(("M-5/corosync", what), "", None, &why),
    }
}

/// The most views that a node told in the first seconds, and in the time after them.
fn views_after(kind: Kind, broken: Cut, time: Duration) -> Result<(f64, f64), String> {
    let mut lab = Lab::new(kind)?;
    lab.start(&[1, 2, 3])?;
    thread::sleep(Duration::from_secs(3));
    let before = lab.views();
    for (from, at) in broken {
        lab.cut(*from, *at)?;
    }
    thread::sleep(SETTLED);
    let settled = lab.views();
    thread::sleep(time);
    let end = lab.views();
    let most = |from: [usize; NODES], to: [usize; NODES]| {
        number(from.into_iter().zip(to).map(|(from, to)| to.saturating_sub(from)).max().unwrap_or(0))
    };
    Ok((most(before, settled), most(settled, end)))
}

/// M-6: views that nobody caused, on a machine that is too busy.
pub fn hogs(options: Options, report: &mut Report) {
    let time = if options.quick { Duration::from_secs(30) } else { Duration::from_secs(600) };
    let goal = Some(Goal::AtMost(0.0));
    for (id, preset, kind) in [("M-6", "lan", Kind::Ours(500)), ("M-6/rt", "rt", Kind::RealTime)] {
        let what =
            kept(format!("false views in {} s, preset {preset}, {HOGS} hogs a processor", time.as_secs()));
        match false_views(kind, time) {
            Ok(views) => report.figure((id, what), (views, ""), Some(("one", 1.0)), goal),
            Err(why) => report.missing((id, what), "", goal, &why),
        }
    }
}

fn false_views(kind: Kind, time: Duration) -> Result<f64, String> {
    let mut lab = Lab::new(kind)?;
    lab.start(&[1, 2, 3])?;
    thread::sleep(Duration::from_secs(3));
    let before = lab.views();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..HOGS * machine::processors().len() {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        thread::sleep(time);
        done.store(true, Ordering::Relaxed);
    });
    thread::sleep(Duration::from_secs(2));
    let views = before.into_iter().zip(lab.views()).map(|(from, to)| to - from).max();
    Ok(number(views.unwrap_or(0)))
}

/// M-7: the longest time without an own ordered message at those who are left when a member is killed.
pub fn stall(options: Options, rtt: f64, report: &mut Report) {
    let rounds = if options.quick { 1 } else { 5 };
    let goal = Some(Goal::AtMost(1.0));
    let victims = [
        ("M-7", "no ordered message, the sequencer is killed", 1),
        ("M-7/member", "no ordered message, another member is killed", NODES),
    ];
    for (id, what, victim) in victims {
        let taken: Result<Vec<f64>, String> = (0..rounds).map(|_| stalled(Some(victim))).collect();
        match taken {
            Ok(gaps) => {
                let reference = Some(("50 U1, two processors", 50.0 * rtt));
                report.figure((id, what), (Samples::new(gaps).median(), "us"), reference, goal);
            }
            Err(why) => report.missing((id, what), "us", goal, &why),
        }
    }
    let what = "the same, nobody is killed: what the machine adds";
    match stalled(None) {
        Ok(gap) => report.figure(("M-7/calm", what), (gap, "us"), None, None),
        Err(why) => report.missing(("M-7/calm", what), "us", None, &why),
    }
    report.note("M-7: views recorded in memory, a sentinel at each node; each sends its next message when it has the last");
}

fn stalled(victim: Option<usize>) -> Result<f64, String> {
    let mut nodes = GroupNodes::start(Setup { watched: true, ..Setup::default() })?;
    nodes.begin("gap", 64, NODES, Duration::from_secs(2))?;
    thread::sleep(Duration::from_secs(1));
    if let Some(victim) = victim {
        nodes.kill(victim)?;
    }
    Ok(nodes.finish()?.into_iter().fold(0.0, f64::max))
}
