//! Goal: no order of events whatever breaks a promise of the agreement between three nodes with two failures, or between two nodes with
//! fencing or with a tie-breaker: one view for each number, views that grow, primaries that remember, and never two that act.
//!
//! Method: the production cores, and every interleaving of what can happen: the next message of the agreement on any link arrives, a disk has
//! written, a silence is noticed early or in time, the tie-breaker answers or cannot be asked, a node is killed, cut off, unheard or
//! stopped, comes back, the next timer fires. Each different state is visited once, up to a time after the start: all of them when two are
//! killed, and as many as a test has time for, near and far ones in turns, where there are more. News and renewals of
//! leases, whose order among those of other senders matters little, arrive at once; faults happen while an agreement is under way and when it has
//! come to rest, not between two renewals. Bugs that are put back must be found, each with a shortest way to it.
//!
//! A larger scope: `EXPLORE_STATES=20000000 cargo test --release -p ocf-membership --test explore -- --ignored --nocapture`.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "says what it saw, is told by a variable how much to look at, and passes over what it does not judge"
)]

mod model;
mod search;

use core::time::Duration;
use model::{Kind, Plan};
use ocf_membership::Sabotage;
use search::{Order, Report, explore};

const ALL: u8 = 0b111;
const FIRST: u8 = 0b001;

/// Three nodes in their first view, of which some are killed.
fn three() -> Plan {
    Plan {
        nodes: 3,
        policy: "majority",
        cold: false,
        faults: 2,
        victims: ALL,
        kinds: &[Kind::Crash],
        restarts: false,
        horizon: Duration::from_millis(1_500),
        bug: None,
    }
}

/// Two nodes in their first view.
fn two(policy: &'static str) -> Plan {
    Plan { nodes: 2, policy, victims: 0b11, horizon: Duration::from_secs(8), ..three() }
}

fn show(name: &str, plan: Plan, order: Order, states_max: usize) -> Report {
    let begun = std::time::Instant::now();
    let report = explore(plan, order, states_max);
    let Report { states, steps, ends, views, .. } = report;
    println!(
        "{name}: {states} states, {steps} steps, {ends} ends, up to {views} views, {}, {:.1?}",
        if report.complete { "complete" } else { "not complete" },
        begun.elapsed()
    );
    report
}

/// How many states of a plan are visited that has too many for a test.
const SOME: usize = 5_000;

/// Every course that is visited keeps every promise. True if there was no other course.
fn holds(name: &str, plan: Plan, states_max: usize) -> bool {
    let report = show(name, plan, Order::NearestFirst, states_max);
    assert!(report.broken.is_none(), "{name}: {}", report.broken.unwrap_or_default());
    assert!(report.states >= SOME || report.complete, "{name}: too little happens");
    report.complete
}

fn is_found(bug: Sabotage, plan: Plan, promise: &str) {
    let report = show(&format!("{bug:?}"), Plan { bug: Some(bug), ..plan }, Order::NearestFirst, 300_000);
    let broken = report.broken.unwrap_or_default();
    assert!(broken.contains(promise), "{bug:?} is not found as {promise}: {broken:?}");
}

#[test]
fn no_interleaving_with_two_killed_breaks_a_promise() {
    assert!(holds("two are killed", three(), 300_000), "every state is visited");
}

#[test]
fn no_interleaving_with_a_killed_one_that_comes_back_breaks_a_promise() {
    holds("one is killed and comes back", Plan { faults: 1, restarts: true, ..three() }, SOME);
}

#[test]
fn no_interleaving_with_a_cut_and_a_killed_node_breaks_a_promise() {
    let kinds = &[Kind::Crash, Kind::Isolate];
    holds("killed or cut off", Plan { kinds, ..three() }, SOME);
}

#[test]
fn no_interleaving_of_one_that_is_unheard_or_stands_still_breaks_a_promise() {
    let kinds = &[Kind::Mute, Kind::Pause];
    holds("unheard or stopped", Plan { kinds, faults: 1, ..three() }, SOME);
}

#[test]
fn no_interleaving_of_the_first_view_breaks_a_promise() {
    holds("the first view", Plan { cold: true, faults: 1, restarts: true, ..three() }, SOME);
}

#[test]
fn no_interleaving_of_two_nodes_that_fence_each_other_breaks_a_promise() {
    let kinds = &[Kind::Crash, Kind::Isolate];
    holds("two nodes", Plan { kinds, restarts: true, ..two("two-node") }, SOME);
}

#[test]
fn no_interleaving_of_two_halves_and_a_tie_breaker_breaks_a_promise() {
    let kinds = &[Kind::Crash, Kind::Isolate];
    holds("two halves", Plan { kinds, restarts: true, ..two("majority+tie-breaker") }, SOME);
}

#[test]
fn bugs_that_are_put_back_are_found_by_a_shortest_way() {
    let cut = Plan { kinds: &[Kind::Isolate], faults: 1, victims: FIRST, ..three() };
    is_found(Sabotage::NoLeaseWait, cut.clone(), "Q1");
    is_found(Sabotage::NoLeaseExpiry, cut, "Q1");
}

#[test]
fn halves_that_ask_nobody_are_found_by_a_shortest_way() {
    let cut = Plan { kinds: &[Kind::Isolate], faults: 1, victims: FIRST, ..two("majority+tie-breaker") };
    is_found(Sabotage::NoTieBreak, cut, "M1");
}

#[test]
#[ignore = "as many states as EXPLORE_STATES says, or five thousand, of each plan"]
fn more_clusters_keep_every_promise() {
    let most = std::env::var("EXPLORE_STATES").ok().and_then(|most| most.parse().ok()).unwrap_or(SOME);
    let kinds = &[Kind::Crash, Kind::Isolate, Kind::Mute, Kind::Pause];
    let plans = [
        ("two of all faults", Plan { kinds, restarts: true, ..three() }),
        ("two of all faults before the first view", Plan { kinds, cold: true, restarts: true, ..three() }),
        ("two nodes", Plan { kinds, restarts: true, faults: 3, ..two("two-node") }),
        ("two halves", Plan { kinds, restarts: true, faults: 3, ..two("majority+tie-breaker") }),
    ];
    for (name, plan) in plans {
        let order = if most > SOME { Order::Both } else { Order::NearestFirst };
        let report = show(name, plan, order, most);
        assert!(report.broken.is_none(), "{name}: {}", report.broken.unwrap_or_default());
    }
}
