//! Goal: no order of events whatever breaks a promise of the lock manager between three nodes: not while the directory is
//! asked, a tree is given up, a master or keeper dies, proof comes late, a second node dies in the recovery, nodes come back.
//!
//! Method: the production engines, and every interleaving of what can happen: the next message of any circuit arrives, a node
//! goes on, is told of a view or a proof, a timer fires, an application takes its next step, a node dies. Each different state
//! is visited once. Bugs that were put back must be found, each with a shortest way to it.
//!
//! A larger scope: `EXPLORE=all EXPLORE_STATES=100000000 cargo test --release -p ocf-dlm --test explore -- --ignored more_clusters
//! --nocapture`; `EXPLORE` may also be the name of one plan.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may fail by panicking, says what it saw, is told by a variable how much to look at, and hashes by itself"
)]
#![allow(clippy::cast_possible_truncation, clippy::allow_attributes, reason = "test code with small numbers")]

mod model;
mod node;
mod promises;
mod search;
mod tell;

use model::{Do, Faults, Plan, Script, script};
use ocf_dlm::Mode::{Ex, Nl, Pr};
use ocf_dlm::cluster::Sabotage;
use search::{Order, Report, explore};
use std::time::Instant;

const A: u8 = 0b001;
const B: u8 = 0b010;
const C: u8 = 0b100;

/// Two writers on A and B; the directory slot is C's, and A's if C is gone.
fn two_writers() -> Plan {
    let writes = || vec![Do::Ask(0, Ex), Do::Unlock(0)];
    Plan {
        keepers: vec![(2, 0)],
        scripts: vec![script(0, writes()), script(1, writes())],
        faults: Faults::default(),
        turn_max: None,
        cold: false,
        bug: None,
    }
}

fn crash(may_crash: u8) -> Faults {
    Faults { may_crash, crashes: 1, ..Faults::default() }
}

/// One lock is converted up, the other down.
fn conversions() -> Vec<Script> {
    vec![
        script(0, vec![Do::Ask(0, Pr), Do::Convert(0, Ex), Do::Unlock(0)]),
        script(1, vec![Do::Ask(0, Ex), Do::Convert(0, Pr), Do::Unlock(0)]),
    ]
}

/// The lock is given back at any moment, also before it is known who masters it.
fn impatient() -> Plan {
    let scripts = vec![script(1, vec![Do::Ask(0, Ex), Do::Drop(0)])];
    Plan { scripts, faults: crash(A), ..two_writers() }
}

/// A and B write, C reads.
fn three_clients() -> Plan {
    let mut scripts = two_writers().scripts;
    scripts.push(script(2, vec![Do::Ask(0, Pr), Do::Unlock(0)]));
    Plan { scripts, faults: crash(A), ..two_writers() }
}

/// Somebody keeps the resource from beginning anew when its writer dies.
fn kept_alive() -> Plan {
    let keeps = vec![Do::Ask(0, Nl), Do::Ask(0, Ex), Do::Unlock(1), Do::Unlock(0)];
    let scripts = vec![script(0, vec![Do::Ask(0, Ex), Do::Unlock(0)]), script(1, keeps)];
    Plan { scripts, faults: crash(A), ..two_writers() }
}

/// A masters the tree and has it move to B, which writes, while C, which keeps it in the directory, reads.
fn moved() -> Plan {
    let scripts = vec![
        script(0, vec![Do::Ask(0, Nl), Do::Move(0, 1), Do::Unlock(0)]),
        script(1, vec![Do::Ask(0, Ex), Do::Unlock(0)]),
    ];
    Plan { scripts, ..two_writers() }
}

/// The tree moves while a request waits.
fn both_write() -> Plan {
    let scripts = vec![
        script(0, vec![Do::Ask(0, Ex), Do::Move(0, 1), Do::Unlock(0)]),
        script(1, vec![Do::Ask(0, Ex), Do::Unlock(0)]),
    ];
    Plan { scripts, ..two_writers() }
}

/// The same, and somebody gives back what he holds meanwhile.
fn moved_and_given_back() -> Plan {
    let mut plan = moved();
    plan.scripts[1].steps = vec![Do::Ask(0, Ex), Do::Unlock(0), Do::Ask(0, Pr), Do::Unlock(1)];
    plan
}

/// Those that take a second or so, with the least number of states by which something happened at all.
fn small_plans() -> Vec<(&'static str, u64, Plan)> {
    let used_again = vec![
        script(0, vec![Do::Ask(0, Ex), Do::Unlock(0), Do::Ask(0, Ex), Do::Unlock(1)]),
        script(1, vec![Do::Ask(0, Ex), Do::Unlock(0)]),
    ];
    let sweeps = Faults { timers: 2, ..Faults::default() };
    vec![
        ("first use while the first view is told", 1000, Plan { cold: true, ..two_writers() }),
        ("a requester dies", 5000, Plan { faults: crash(A), ..two_writers() }),
        ("the keeper dies", 5000, Plan { faults: crash(C), ..two_writers() }),
        ("nobody asks any more", 100, impatient()),
        ("conversions", 50, Plan { scripts: conversions(), ..two_writers() }),
        ("a tree moves", 300, moved_and_given_back()),
        ("a tree moves with who waits", 300, both_write()),
        ("a tree moves, and who is to master it dies", 2000, Plan { faults: crash(B), ..moved() }),
        ("idle trees are given up", 500, Plan { scripts: used_again, faults: sweeps, ..two_writers() }),
    ]
}

/// Those that take some seconds.
fn large_plans() -> Vec<(&'static str, u64, Plan)> {
    let given_back = vec![
        script(0, vec![Do::Ask(0, Ex), Do::Drop(0)]),
        script(1, vec![Do::Ask(0, Ex), Do::Drop(0), Do::Ask(0, Pr), Do::Unlock(1)]),
    ];
    let two_names = vec![
        script(0, vec![Do::Ask(0, Ex), Do::Ask(1, Ex), Do::Unlock(0), Do::Unlock(1)]),
        script(1, vec![Do::Ask(1, Ex), Do::Unlock(0)]),
    ];
    let twice = Faults { may_crash: B | C, crashes: 2, ..Faults::default() };
    let any_dies = Plan { scripts: conversions(), faults: crash(A | B | C), ..two_writers() };
    vec![
        ("conversions, and anybody dies", 20_000, any_dies),
        ("a second node dies", 20_000, Plan { faults: twice, ..two_writers() }),
        ("given back at any moment, and a node dies", 20_000, Plan { scripts: given_back, ..impatient() }),
        (
            "two names, and the keeper of one dies",
            10_000,
            Plan { keepers: vec![(2, 0), (0, 1)], scripts: two_names, faults: crash(C), ..two_writers() },
        ),
        (
            "a tree moves, and anybody dies",
            10_000,
            Plan { faults: crash(A | B | C), ..moved_and_given_back() },
        ),
        (
            "a tree moves, and does not in time",
            5_000,
            Plan { faults: Faults { timers: 1, ..crash(A | C) }, ..moved() },
        ),
        (
            "a step of one turn at a time",
            20_000,
            Plan { turn_max: Some(1), faults: crash(A), ..two_writers() },
        ),
    ]
}

/// Those for release builds.
fn huge_plans() -> Vec<(&'static str, u64, Plan)> {
    let restart = |may_crash| Faults { may_crash, crashes: 1, restarts: 1, ..Faults::default() };
    let mut again = two_writers().scripts;
    again.push(Script { node: 0, life: 1, steps: vec![Do::Ask(0, Pr), Do::Unlock(0)] });
    let tries = vec![
        script(0, vec![Do::Ask(0, Ex), Do::Unlock(0)]),
        script(1, vec![Do::Try(0, Pr), Do::Cancel(0), Do::Unlock(0)]),
    ];
    let cut = Faults { may_crash: A | B | C, cuts: 1, ..Faults::default() };
    let skips = Faults { skips: true, ..restart(A | C) };
    vec![
        ("three clients, and a node dies", 0, three_clients()),
        ("a node comes back", 0, Plan { faults: restart(A), ..two_writers() }),
        ("a node comes back and locks", 0, Plan { scripts: again, faults: restart(A), ..two_writers() }),
        ("a node is cut off and rejoins", 0, Plan { faults: cut, ..two_writers() }),
        ("a tree moves, and a node is cut off", 0, Plan { faults: cut, ..moved_and_given_back() }),
        ("a tree moves, and a node comes back", 0, Plan { faults: skips, ..moved() }),
        ("views are skipped", 0, Plan { scripts: tries.clone(), faults: skips, ..two_writers() }),
        ("tries, and a node is cut off", 0, Plan { scripts: tries, faults: cut, ..two_writers() }),
    ]
}

fn show(name: &str, plan: Plan, order: Order, states_max: u64) -> Report {
    let begun = Instant::now();
    let report = explore(plan, order, states_max);
    let Report { states, steps, engine_steps, at_rest, depth, .. } = report;
    println!(
        "{name}: {states} states, {steps} steps ({engine_steps} different ones of engines), {at_rest} at rest, depth {depth}, {}, {:.1?}",
        if report.complete { "complete" } else { "not complete" },
        begun.elapsed()
    );
    report
}

fn check(name: &str, plan: Plan, at_least: u64) {
    let report = show(name, plan, Order::NearestFirst, 5_000_000);
    if let Some((broken, way)) = report.broken {
        panic!("{name}: {broken:?}\n{way}");
    }
    assert!(report.complete && report.states >= at_least && report.at_rest > 5, "{name}: {report:?}");
}

#[test]
fn no_interleaving_breaks_a_promise() {
    for (name, at_least, plan) in small_plans() {
        check(name, plan, at_least);
    }
}

#[test]
#[ignore = "some hundred thousand states"]
fn no_interleaving_of_more_clusters_breaks_a_promise() {
    let Ok(what) = std::env::var("EXPLORE") else {
        for (name, at_least, plan) in large_plans() {
            check(name, plan, at_least);
        }
        return;
    };
    let states_max =
        std::env::var("EXPLORE_STATES").ok().and_then(|max| max.parse().ok()).unwrap_or(10_000_000);
    let all = small_plans().into_iter().chain(large_plans()).chain(huge_plans());
    for (name, _, plan) in all.filter(|(name, ..)| what == "all" || what == *name) {
        let report = show(name, plan, Order::DeepestFirst, states_max);
        if let Some((broken, way)) = report.broken {
            panic!("{name}: {broken:?}\n{way}");
        }
    }
}

/// The shortest way to a broken promise, and which.
fn found(bug: Sabotage, plan: Plan) -> (&'static str, String) {
    let report = show(&format!("{bug:?}"), Plan { bug: Some(bug), ..plan }, Order::NearestFirst, 300_000);
    let (broken, way) = report.broken.unwrap_or_else(|| panic!("nothing shows {bug:?}"));
    println!("{}: {}\n{way}", broken.promise, broken.what);
    (broken.promise, way)
}

#[test]
fn bugs_of_directory_and_recovery_are_found_by_the_shortest_way() {
    let requester = || Plan { faults: crash(A), ..two_writers() };
    let keeper = || Plan { faults: crash(C), ..two_writers() };
    let compatible = "holders are compatible";
    for (bug, plan, promise, longest) in [
        (Sabotage::ReleaseWithoutProof, requester(), compatible, 12),
        (Sabotage::ForgetSuspects, requester(), compatible, 14),
        (Sabotage::OwnWithoutSuspects, requester(), compatible, 12),
        (Sabotage::SkipBarrier, keeper(), compatible, 8),
        (Sabotage::TokensStartAnew, requester(), "tokens grow", 13),
        (Sabotage::ForgetLookups, requester(), "no request is lost", 10),
        (Sabotage::ClaimOnlyHeld, requester(), "no request is lost", 15),
    ] {
        let (broken, way) = found(bug, plan);
        assert_eq!(broken, promise, "{bug:?}");
        assert!(way.contains("dies") && way.lines().count() <= longest, "{bug:?}:\n{way}");
    }
}

#[test]
fn bugs_of_moves_are_found() {
    let dies = |may_crash| Plan { faults: crash(may_crash), ..moved_and_given_back() };
    for (bug, plan, promise) in [
        (Sabotage::MoveUndrained, moved_and_given_back(), "masters know what is held"),
        (Sabotage::MoveOwnOnly, moved(), "masters know what is held"),
        (Sabotage::MoveUnlisted, moved(), "the directory names the master"),
        (Sabotage::MoveUnsettled, dies(C), "an engine's invariants"),
    ] {
        let (broken, way) = found(bug, plan);
        assert_eq!(broken, promise, "{bug:?}:\n{way}");
    }
}

#[test]
#[ignore = "some hundred thousand states"]
fn a_bug_of_rebuilding_put_back_is_found() {
    assert_eq!(found(Sabotage::TrustValue, kept_alive()).0, "the last value is read");
    assert_eq!(found(Sabotage::ForgetNotices, three_clients()).0, "who is in the way is told");
}

/// The trace of a broken promise can be read: who does what, in which view.
#[test]
fn a_counter_example_is_a_readable_trace() {
    let (_, way) = found(Sabotage::SkipBarrier, Plan { faults: crash(C), ..two_writers() });
    for words in ["client 0 on A", "C dies", "is told of view 2 of [A B]"] {
        assert!(way.contains(words), "{words}:\n{way}");
    }
}
