//! Goal: no order of events whatever breaks a promise of the agreement between three nodes with two failures, or between two nodes with
//! fencing or with a tie-breaker: one view for each number, views that grow, primaries that remember, and never two that act.
//!
//! Method: the production cores, and every interleaving of what can happen: the next message of the agreement on any link arrives, a disk has
//! written, a silence is noticed early or in time, the tie-breaker answers or cannot be asked, a node is killed, cut off, unheard or
//! stopped, comes back, the next timer fires. Each different state is visited once, up to a time after the start: all of them where that is
//! said, beginning where something has happened before (a scene) if there would be too many else, and as many as a test has time for where
//! there are more. News and renewals of leases, whose order among those of other senders matters little, arrive at once; faults happen while an agreement is under way and when it has
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
mod plan;
mod search;

use core::time::Duration;
use ocf_membership::{Coordinator, Sabotage};
use plan::{Act, Kind, Plan, Scene};
use search::{Order, Report, explore};

const ALL: u8 = 0b111;
const FIRST: u8 = 0b001;
const THIRD: u8 = 0b100;

/// Three nodes in their first view, of which some are killed.
fn three() -> Plan {
    Plan {
        votes: &[1, 1, 1],
        policy: "majority",
        coordinator: Coordinator::Senior,
        cold: false,
        scene: &[],
        faults: 2,
        kinds: &[(Kind::Crash, ALL)],
        returns: 0,
        horizon: Duration::from_millis(1_500),
        bug: None,
    }
}

/// Two nodes in their first view.
fn two(policy: &'static str) -> Plan {
    Plan { votes: &[1, 1], policy, horizon: Duration::from_secs(8), ..three() }
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
    holds("one is killed and comes back", Plan { faults: 1, returns: ALL, ..three() }, SOME);
}

#[test]
fn no_interleaving_with_a_cut_and_a_killed_node_breaks_a_promise() {
    let kinds = &[(Kind::Crash, ALL), (Kind::Isolate, ALL)];
    holds("killed or cut off", Plan { kinds, ..three() }, SOME);
}

#[test]
fn no_interleaving_of_one_that_is_unheard_or_stands_still_breaks_a_promise() {
    let kinds = &[(Kind::Mute, ALL), (Kind::Pause, ALL)];
    holds("unheard or stopped", Plan { kinds, faults: 1, ..three() }, SOME);
}

#[test]
fn no_interleaving_of_the_first_view_breaks_a_promise() {
    holds("the first view", Plan { cold: true, faults: 1, returns: ALL, ..three() }, SOME);
}

#[test]
fn no_interleaving_of_two_nodes_that_fence_each_other_breaks_a_promise() {
    let kinds = &[(Kind::Crash, ALL), (Kind::Isolate, ALL)];
    holds("two nodes", Plan { kinds, returns: ALL, ..two("two-node") }, SOME);
}

#[test]
fn no_interleaving_of_two_halves_and_a_tie_breaker_breaks_a_promise() {
    let kinds = &[(Kind::Crash, ALL), (Kind::Isolate, ALL)];
    holds("two halves", Plan { kinds, returns: ALL, ..two("majority+tie-breaker") }, SOME);
}

#[test]
fn bugs_that_are_put_back_are_found_by_a_shortest_way() {
    let cut = Plan { kinds: &[(Kind::Isolate, FIRST)], faults: 1, ..three() };
    is_found(Sabotage::NoLeaseWait, cut.clone(), "Q1");
    is_found(Sabotage::NoLeaseExpiry, cut, "Q1");
}

#[test]
fn halves_that_ask_nobody_are_found_by_a_shortest_way() {
    let cut = Plan { kinds: &[(Kind::Isolate, FIRST)], faults: 1, ..two("majority+tie-breaker") };
    is_found(Sabotage::NoTieBreak, cut, "M1");
}

/// The third was killed, and that is noticed: the other two are about to agree on the second view, and one of them may be killed at any moment.
/// The third may come back at any moment, with its record of the first view.
fn third_comes_back() -> Plan {
    const SCENE: &[Scene] = &[
        Scene::Rest,
        Scene::Step(Act::Fault(Kind::Crash, 2, false)),
        Scene::Step(Act::Notice(0, 2)),
        Scene::Step(Act::Notice(1, 2)),
    ];
    Plan { scene: SCENE, kinds: &[(Kind::Crash, FIRST)], faults: 1, returns: THIRD, ..three() }
}

/// The third was killed and started again: it has forgotten the first view, of which one other may be killed at any moment.
fn third_has_forgotten() -> Plan {
    const SCENE: &[Scene] =
        &[Scene::Rest, Scene::Step(Act::Fault(Kind::Crash, 2, false)), Scene::Step(Act::Restart(2))];
    Plan { scene: SCENE, kinds: &[(Kind::Crash, FIRST)], faults: 1, ..three() }
}

/// The third is a quorum alone, and was cut off while it was asked to accept that the first is one. The first may be killed at any moment, and
/// come back with what it wrote.
fn first_becomes_enough() -> Plan {
    const SCENE: &[Scene] = &[
        Scene::Rest,
        Scene::Order(0, &[3, 1, 1]),
        Scene::Until(0, "proposing"),
        Scene::Step(Act::Fault(Kind::Sever, 2, true)),
    ];
    let kinds = &[(Kind::Crash, FIRST)];
    Plan { votes: &[1, 1, 3], scene: SCENE, kinds, faults: 1, returns: FIRST, ..three() }
}

/// The third is a quorum alone, and votes are about to change so that it is none any more. It may be cut off at any moment.
fn third_was_enough() -> Plan {
    const SCENE: &[Scene] = &[Scene::Rest, Scene::Order(0, &[1, 1, 1])];
    Plan { votes: &[1, 1, 3], scene: SCENE, kinds: &[(Kind::Sever, THIRD)], faults: 1, ..three() }
}

/// One was cut off for good in the first view, at rest. Another may be killed at any moment, and come back with what it wrote.
fn one_is_cut_off(scene: &'static [Scene], others: u8) -> Plan {
    let kinds: &[(Kind, u8)] = match others {
        FIRST => &[(Kind::Crash, FIRST)],
        _ => &[(Kind::Crash, THIRD)],
    };
    Plan { scene, kinds, faults: 1, returns: others, ..three() }
}

/// The first and the third are the primary. The first alone accepts that it is one with the second, and a quorum alone, and restarts. What
/// follows that is proposed to the third, and only the first has accepted it when they are parted.
fn skipped_votes() -> Plan {
    const SCENE: &[Scene] = &[
        Scene::Rest,
        Scene::Links(&[(0, 2)]),
        Scene::Agreed(2, 0b101),
        Scene::Rest,
        Scene::Order(0, &[3, 1, 1]),
        Scene::Links(&[(0, 1)]),
        Scene::Until(0, "proposing"),
        Scene::Links(&[]),
        Scene::Rest,
        Scene::Step(Act::Fault(Kind::Crash, 0, false)),
        Scene::Step(Act::Restart(0)),
        Scene::Links(&[(0, 2)]),
        Scene::Until(2, "proposing"),
        Scene::Step(Act::Deliver(2, 0)),
        Scene::Step(Act::Write(0)),
        Scene::Links(&[(1, 2)]),
    ];
    Plan { scene: SCENE, kinds: &[(Kind::Crash, THIRD)], faults: 1, returns: THIRD, ..three() }
}

/// The first and the second agreed that the third has no votes, accepted what follows with it, which it did not, and both restarted.
fn forgotten_votes() -> Plan {
    const SCENE: &[Scene] = &[
        Scene::Rest,
        Scene::Order(0, &[1, 1, 0]),
        Scene::Links(&[(0, 1)]),
        Scene::Agreed(2, 0b011),
        Scene::Rest,
        Scene::Links(&[(0, 1), (0, 2), (1, 2)]),
        Scene::Until(0, "proposing"),
        Scene::Step(Act::Fault(Kind::Sever, 2, false)),
        Scene::Rest,
        Scene::Step(Act::Fault(Kind::Crash, 0, false)),
        Scene::Step(Act::Fault(Kind::Crash, 1, false)),
        Scene::Step(Act::Restart(0)),
        Scene::Step(Act::Restart(1)),
        Scene::Links(&[(0, 1), (0, 2), (1, 2)]),
    ];
    Plan { scene: SCENE, faults: 0, ..three() }
}

/// The first two of four are a quorum, with three votes and two. The first proposed a second view of them, which it alone accepted; the fourth
/// has accepted that in a later ballot, and the first has not. Then the two agreed on another second view, of the same members, by which the third and the
/// fourth count as well; the rest says what came after that.
macro_rules! same_members {
    ($($rest:expr),* $(,)?) => {
        &[
            Scene::Rest,
            Scene::Links(&[(0, 1)]),
            Scene::Until(0, "proposing"),
            Scene::Links(&[(0, 1), (0, 3)]),
            Scene::Step(Act::Write(0)),
            Scene::Slow(0b0001),
            Scene::Links(&[(0, 3)]),
            Scene::Until(0, "proposing"),
            Scene::Step(Act::Deliver(0, 3)),
            Scene::Step(Act::Write(3)),
            Scene::Order(0, &[3, 2, 3, 1]),
            Scene::Links(&[(0, 1), (0, 3)]),
            Scene::Links(&[(0, 1)]),
            Scene::Slow(0),
            Scene::Agreed(2, 0b0011),
            Scene::Rest,
            Scene::Order(0, &[3, 2, 0, 0]),
            $($rest,)*
            // What follows is proposed to the fourth as well, only the first accepts it, and restarts. It hears the fourth, and the second the third.
            Scene::Links(&[(0, 1), (0, 3), (1, 3)]),
            Scene::Until(0, "proposing"),
            Scene::Step(Act::Write(0)),
            Scene::Step(Act::Fault(Kind::Crash, 0, false)),
            Scene::Links(&[(1, 2), (0, 3)]),
            Scene::Step(Act::Restart(0)),
        ]
    };
}

fn same_members(scene: &'static [Scene]) -> Plan {
    Plan { votes: &[3, 2, 0, 0], scene, faults: 0, horizon: Duration::from_secs(4), ..three() }
}

/// Every course keeps every promise, and all of them were visited.
fn always_holds(name: &str, plan: Plan) {
    assert!(holds(name, plan, 300_000), "{name}: every state is visited");
}

#[test]
fn no_interleaving_with_one_that_comes_back_with_its_record_breaks_a_promise_and_ignored_proposals_are_found()
{
    always_holds("comes back with its record", third_comes_back());
    is_found(Sabotage::IgnoreAccepted, third_comes_back(), "M1");
}

#[test]
fn no_interleaving_with_one_that_has_forgotten_breaks_a_promise_and_no_memory_rule_is_found() {
    always_holds("has forgotten", third_has_forgotten());
    is_found(Sabotage::NoMemoryRule, third_has_forgotten(), "Q2");
}

#[test]
fn no_interleaving_of_votes_that_would_make_one_enough_breaks_a_promise_and_no_former_votes_are_found() {
    always_holds("becomes enough alone", first_becomes_enough());
    is_found(Sabotage::NoFormerVotes, first_becomes_enough(), "Q3");
}

#[test]
fn no_interleaving_of_votes_by_which_one_is_not_enough_any_more_breaks_a_promise_and_going_on_alone_is_found()
{
    always_holds("was enough alone", third_was_enough());
    is_found(Sabotage::AloneForGood, third_was_enough(), "Q1");
}

#[test]
fn no_interleaving_after_votes_that_may_not_have_been_agreed_breaks_a_promise_and_forgetting_those_before_is_found()
 {
    always_holds("follows votes that were only recorded", skipped_votes());
    is_found(Sabotage::ForgetsBefore, skipped_votes(), "Q3");
}

#[test]
fn no_interleaving_after_votes_that_only_a_refuted_proposal_tells_of_breaks_a_promise_and_older_votes_are_found()
 {
    always_holds("follows what a refuted one tells", forgotten_votes());
    is_found(Sabotage::CountsByAgreed, forgotten_votes(), "Q3");
}

#[test]
fn no_interleaving_of_two_views_of_the_same_members_breaks_a_promise_and_comparing_members_alone_is_found() {
    // Two views with one number that count otherwise, and a view of the same members and votes with a later number.
    let (votes, number) = (same_members!(), same_members!(Scene::Agreed(3, 0b0011), Scene::Rest));
    for scene in [votes as &[Scene], number] {
        let killed = Plan { kinds: &[(Kind::Crash, 0b1111)], faults: 1, ..same_members(scene) };
        always_holds("of the same members", killed);
        is_found(Sabotage::ComparesMembers, same_members(scene), "M1");
        is_found(Sabotage::AdoptsOvertaken, same_members(scene), "M1");
    }
}

#[test]
fn no_interleaving_of_one_that_is_cut_off_for_good_breaks_a_promise() {
    let kinds = &[(Kind::Sever, ALL)];
    always_holds("one is cut off for good", Plan { kinds, faults: 1, ..three() });
}

#[test]
fn no_interleaving_of_two_nodes_that_are_killed_or_cut_off_for_good_breaks_a_promise() {
    let kinds = &[(Kind::Crash, ALL), (Kind::Sever, ALL)];
    always_holds("two nodes, two faults", Plan { kinds, ..two("two-node") });
    always_holds(
        "two nodes, one that comes back",
        Plan { kinds, faults: 1, returns: ALL, ..two("two-node") },
    );
}

#[test]
fn no_interleaving_of_two_halves_that_are_killed_or_cut_off_for_good_breaks_a_promise() {
    let kinds = &[(Kind::Crash, ALL), (Kind::Sever, ALL)];
    let halves = Plan { kinds, horizon: Duration::from_secs(3), ..two("majority+tie-breaker") };
    always_holds("two halves, one that comes back", Plan { faults: 1, returns: ALL, ..halves.clone() });
    always_holds("two halves, two faults", halves);
}

#[test]
#[ignore = "as many states as EXPLORE_STATES says, or five thousand, of each plan"]
fn more_clusters_keep_every_promise() {
    let most = std::env::var("EXPLORE_STATES").ok().and_then(|most| most.parse().ok()).unwrap_or(SOME);
    let kinds = &[(Kind::Crash, ALL), (Kind::Isolate, ALL), (Kind::Mute, ALL), (Kind::Pause, ALL)];
    let plans = [
        ("two of all faults", Plan { kinds, returns: ALL, ..three() }),
        ("two of all faults before the first view", Plan { kinds, cold: true, returns: ALL, ..three() }),
        ("two nodes", Plan { kinds, returns: ALL, faults: 3, ..two("two-node") }),
        ("two halves", Plan { kinds, returns: ALL, faults: 3, ..two("majority+tie-breaker") }),
    ];
    for (name, plan) in plans {
        let order = if most > SOME { Order::Both } else { Order::NearestFirst };
        let report = show(name, plan, order, most);
        assert!(report.broken.is_none(), "{name}: {}", report.broken.unwrap_or_default());
    }
}

#[test]
#[ignore = "half a million states: two minutes"]
fn more_clusters_of_which_one_is_cut_off_and_another_killed_keep_every_promise() {
    const FIRST_CUT: &[Scene] = &[Scene::Rest, Scene::Step(Act::Fault(Kind::Sever, 0, true))];
    const THIRD_CUT: &[Scene] = &[Scene::Rest, Scene::Step(Act::Fault(Kind::Sever, 2, true))];
    always_holds("the first is cut off, the third killed", one_is_cut_off(FIRST_CUT, THIRD));
    always_holds("the third is cut off, the first killed", one_is_cut_off(THIRD_CUT, FIRST));
}
