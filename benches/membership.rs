//! How soon a change of the nodes is a view at all who are left, held against corosync: M-1 to M-4; what changes no view: M-5, M-6; how long
//! ordered messages stand still: M-7; and how many members that bears: Z-1.
//!
//! `cargo bench --bench membership [-- --json] [--quick] [--only changes | M-5 | M-6 | M-7 | Z-1]`, as root: three nodes in namespaces, one after
//! the other of ours (detection 500 ms, the default, and 1 s, each with a sentinel) and corosync (its default, and a token of 1 s). Times are from outside, by a look at
//! each node's views every millisecond; corosync's are those that its quorum tool tells. Z-1 needs no network: it is in virtual time.
#![expect(clippy::print_stderr, reason = "a bench says how far it is")]

mod hops;
mod steady;
mod support;
mod views;

use std::process::ExitCode;
use support::{Goal, Options, Report, Samples, group_nodes, machine, plot, reference};
use views::{End, Kind, Lab};

const KINDS: [(&str, Kind); 4] = [
    ("ours, 500 ms", Kind::Ours(500)),
    ("ours, 1 s", Kind::Ours(1000)),
    ("corosync default", Kind::Corosync(None)),
    ("corosync token 1 s", Kind::Corosync(Some(1000))),
];
/// What a change is due to, in the order in which they are measured.
const CAUSES: [&str; 5] = ["cold start", "killed", "back", "left", "silent"];
/// Corosync's default for three nodes: 3 s and 650 ms for each beyond two.
const DEFAULT_TOKEN: f64 = 3650.0;

/// Times in milliseconds, by cause.
type Seen = [Vec<f64>; CAUSES.len()];

/// One life of a cluster.
fn measure(kind: Kind, seen: &mut Seen) -> Result<(), String> {
    let mut lab = Lab::new(kind)?;
    let times = [
        lab.start(&[1, 2, 3])?,
        lab.end(End::Killed)?,
        lab.start(&[3])?,
        lab.end(End::Leaves)?,
        lab.start(&[3]).and_then(|_again| lab.end(End::Silent))?,
    ];
    for (times, time) in seen.iter_mut().zip(times) {
        times.push(time);
    }
    Ok(())
}

fn main() -> ExitCode {
    if let Some(code) = group_nodes::inside().or_else(views::inside) {
        return code;
    }
    let options = Options::from_args();
    let mut report = Report::default();
    let wants = |part| options.only.is_none_or(|only| only == part);
    let ping = || machine::on_two(|| reference::udp_ping_pong(64, options.count(10_000)).median());
    let pings = Samples::new((0..5).map(|_| ping()).collect());
    report.judge_machine("U1", &pings);
    if wants("changes") {
        changes(options, &mut report);
    }
    if wants("M-5") {
        steady::cut(options, &mut report);
    }
    if wants("M-6") {
        steady::hogs(options, &mut report);
    }
    if wants("M-7") {
        steady::stall(options, pings.median(), &mut report);
    }
    if wants("Z-1") {
        hops::report(&mut report);
    }
    report.print(options);
    ExitCode::SUCCESS
}

/// M-1 to M-4.
fn changes(options: Options, report: &mut Report) {
    let rounds = if options.quick { 1 } else { 3 };
    let mut seen: [Seen; KINDS.len()] = Default::default();
    let mut missing: [Option<String>; KINDS.len()] = Default::default();
    for round in 1..=rounds {
        for ((name, kind), (seen, missing)) in KINDS.iter().zip(seen.iter_mut().zip(&mut missing)) {
            if missing.is_none() {
                *missing = measure(*kind, seen).err();
                eprintln!(
                    "round {round} of {rounds}: {name} {:.0?}",
                    seen.each_ref().map(|times| times.last())
                );
            }
        }
    }
    let medians = seen.map(|causes| causes.map(|times| Samples::new(times).median()));
    figures(&medians, &missing, report);
    if options.plots() {
        report.note(draw(&medians));
    }
    report.note(format!(
        "medians of {rounds} clusters; corosync plain, ours encrypted; \"killed\" is kill -9 of the daemon, \"silent\" a cut port of the switch"
    ));
}

fn figures(
    medians: &[[f64; CAUSES.len()]; KINDS.len()],
    missing: &[Option<String>; KINDS.len()],
    report: &mut Report,
) {
    let [formed, killed, back, left, silent] = [0, 1, 2, 3, 4];
    let [ours, slow, default, tuned] = [0, 1, 2, 3];
    let mut own = |id, what, cause: usize, limit: (&'static str, f64)| {
        let goal = Some(Goal::AtMost(1.0));
        match &missing[ours] {
            None => report.figure((id, what), (medians[ours][cause], "ms"), Some(limit), goal),
            Some(why) => report.missing((id, what), "ms", goal, why),
        }
    };
    own("M-1", "killed, until the others have their view", killed, ("a tenth of the detection time", 50.0));
    own("M-2", "silent, until the others have their view", silent, ("1.25 of the detection time", 625.0));
    let mut against = |id, what, cause: usize, (mine, theirs): (usize, usize), goal| {
        let goal = Some(Goal::AtMost(goal));
        match missing[mine].as_ref().or(missing[theirs].as_ref()) {
            None => {
                let reference = (KINDS[theirs].0, medians[theirs][cause]);
                report.figure((id, what), (medians[mine][cause], "ms"), Some(reference), goal);
            }
            Some(why) => report.missing((id, what), "ms", goal, why),
        }
    };
    against("M-1/corosync", "the same", killed, (ours, default), 0.01);
    against("M-2/corosync", "the same", silent, (ours, default), 0.1);
    against("M-3/silent", "silent, equal timeouts of 1 s", silent, (slow, tuned), 0.588);
    against("M-3/killed", "killed, equal timeouts of 1 s", killed, (slow, tuned), 0.05);
    against("M-4/leave", "left in order", left, (ours, default), 0.1);
    against("M-4/form", "cold start of three", formed, (ours, default), 0.2);
    against("M-4/form tuned", "the same, token of 1 s", formed, (ours, tuned), 0.5);
    against("M-4/rejoin", "back after it was killed", back, (ours, default), 0.1);
    against("M-4/rejoin tuned", "the same, token of 1 s", back, (ours, tuned), 0.25);
}

/// View-change time by cause, against the timeout that each was given.
fn draw(medians: &[[f64; CAUSES.len()]; KINDS.len()]) -> String {
    let of = |cause: usize, kinds: [(usize, f64); 2]| -> Vec<(f64, f64)> {
        kinds.into_iter().map(|(kind, timeout)| (timeout, medians[kind][cause])).collect()
    };
    let (ours, theirs) = ([(0, 500.0), (1, 1000.0)], [(3, 1000.0), (2, DEFAULT_TOKEN)]);
    let lines = [
        ("ours: killed", of(1, ours)),
        ("ours: left", of(3, ours)),
        ("ours: silent", of(4, ours)),
        ("corosync: killed", of(1, theirs)),
        ("corosync: left", of(3, theirs)),
        ("corosync: silent", of(4, theirs)),
    ];
    let axes = plot::Axes {
        title: "Time until all who are left have a view, by cause",
        x: "detection time, or token timeout, in ms",
        y: "ms",
    };
    plot::draw("membership-views", &axes, &lines)
}
