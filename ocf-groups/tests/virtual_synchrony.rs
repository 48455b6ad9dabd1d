//! What the groups promise holds in random runs: crashes at every step of a view change, repeated ballots, adopted
//! proposals, partitions, restarts, suspensions, joins and leaves, full windows, messages of all sizes. The method: a
//! thousand seeds, each judged by every checker; each bug put back must be found within 200 of them.

mod sim;

use ocf_groups::Sabotage;
use sim::{Cluster, Coverage};

fn run(seed: u64, bug: Option<Sabotage>) -> Result<Coverage, String> {
    let run = Cluster::new(seed, bug).run(12);
    run.map(|(coverage, _)| coverage).map_err(|v| format!("seed {seed}: {} broken: {}", v.rule, v.what))
}

#[test]
fn every_promise_holds_in_a_thousand_random_runs() {
    let mut total = Coverage::new();
    let mut failures = Vec::new();
    for seed in 0..1000 {
        match run(seed, None) {
            Ok(coverage) => coverage.into_iter().for_each(|(k, n)| *total.entry(k).or_default() += n),
            Err(what) => failures.push(what),
        }
    }
    assert!(failures.is_empty(), "{} fail, coverage {total:?}:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(total.get("unknown to an older build"), None, "{total:?}");
    // A run that never meets the hard cases proves little.
    for (what, least) in [
        ("settled", 800),
        ("view", 2000),
        ("crash", 500),
        ("restart", 300),
        ("partition", 300),
        ("suspend", 300),
        ("non-primary", 300),
        ("round failed while blocking", 50),
        ("round failed while flushing", 50),
        ("proposer failed before install", 200),
        ("proposal adopted", 200),
        ("fetched", 1000),
        ("frozen", 1000),
        ("stale", 300),
        ("resubmitted", 1000),
        ("void", 50),
        ("fifo", 10_000),
        ("window full", 1000),
        ("crowded", 1000),
        ("writable", 300),
        ("state", 1000),
        ("pieces kept", 500),
        ("upgrade", 100),
        ("state to an older build", 200),
        ("state at the first level", 200),
        ("level risen", 40),
        ("told of its eviction", 50),
        ("state lost", 20),
        ("state offered too late", 100),
        ("dropped out", 50),
        ("reset", 200),
        ("leave", 300),
    ] {
        let seen = total.get(what).copied().unwrap_or(0);
        assert!(seen >= least, "{what}: {seen} times, wanted {least}: {total:?}");
    }
}

#[test]
#[ignore = "five thousand seeds more: seconds in a release build, minutes without"]
fn every_promise_holds_in_five_thousand_more_random_runs() {
    let failures: Vec<_> = (1000..6000).filter_map(|seed| run(seed, None).err()).collect();
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..10 {
        let history = || Cluster::new(seed, None).run(12).expect("no violation").1;
        assert!(history() == history(), "seed {seed}");
    }
}

/// The first seed of 200 that shows the bug, and what broke.
fn found(bug: Sabotage) -> String {
    (0..200)
        .find_map(|seed| run(seed, Some(bug)).err())
        .unwrap_or_else(|| panic!("{bug:?} is not found in 200 seeds"))
}

#[test]
fn safe_messages_delivered_without_a_quorum_are_found() {
    let what = found(Sabotage::SafeWithoutQuorum);
    assert!(what.contains("V4"), "{what}");
}

#[test]
fn a_flush_that_fetches_nothing_is_found() {
    let what = found(Sabotage::SkipFetch);
    let rules = ["V3", "V4", "V10", "V11"];
    assert!(rules.iter().any(|rule| what.contains(rule)), "{what}");
}

#[test]
fn buffers_freed_on_own_delivery_are_found() {
    let what = found(Sabotage::FreeOnOwnDelivery);
    assert!(what.contains("V9") || what.contains("freed"), "{what}");
}

#[test]
fn a_large_message_overtaken_by_a_small_one_is_found() {
    found(Sabotage::IgnoreSequence);
}

#[test]
fn own_messages_forgotten_at_a_view_change_are_found() {
    let what = found(Sabotage::ForgetUnordered);
    assert!(what.contains("V8") || what.contains("progress"), "{what}");
}

#[test]
fn fifo_messages_that_only_some_of_those_who_go_on_delivered_are_found() {
    let what = found(Sabotage::ForgetAhead);
    // Others lack it, or get it again when its sender sends it in the next view.
    assert!(what.contains("V3") || what.contains("V5"), "{what}");
}

#[test]
fn what_was_delivered_and_dropped_untold_by_one_that_goes_on_is_found() {
    found(Sabotage::ForgetUntold);
}

#[test]
fn a_joiner_that_does_not_wait_for_the_state_is_found() {
    found(Sabotage::OpenGates);
}

#[test]
fn pieces_of_a_state_that_are_not_compared_are_found() {
    let what = found(Sabotage::BlindPieces);
    assert!(what.contains("V10"), "{what}");
}

#[test]
fn pieces_that_an_older_build_is_told_of_and_does_not_know_are_found() {
    let what = found(Sabotage::IndexAnyway);
    assert!(what.contains("progress"), "{what}");
}
