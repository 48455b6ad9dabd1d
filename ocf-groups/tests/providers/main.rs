//! Goal: what this project's own protocols promise of membership and groups, and what a process group of corosync can be made to promise, is
//! judged by one suite.
//!
//! Method: the suites of both crates, over the hub in memory, and over a process group that is simulated from a seed: rings that split
//! and merge, deliveries that lag, a quorum service that tells late.

mod cpg;
mod memory;

use memory::InMemory;
use ocf_groups::corosync::CpgSabotage;
use ocf_groups::testing::{check_groups, explore_groups};
use ocf_membership::testing::check_membership;
use std::panic;

#[test]
fn views_agreed_by_our_own_protocol_conform() {
    check_membership(InMemory::default);
}

#[test]
fn groups_ordered_by_our_own_protocol_conform() {
    check_groups(InMemory::default);
}

#[test]
fn views_over_a_simulated_process_group_conform() {
    for seed in 0..20 {
        check_membership(|| cpg::Simulated::new(seed, None));
    }
}

#[test]
fn groups_over_a_simulated_process_group_conform() {
    for seed in 0..20 {
        check_groups(|| cpg::Simulated::new(seed, None));
    }
}

#[test]
fn our_own_protocol_holds_under_random_faults() {
    for seed in 0..40 {
        assert_eq!(explore_groups(InMemory::default(), seed), Ok(()), "seed {seed}");
    }
}

#[test]
fn a_simulated_process_group_holds_under_random_faults() {
    for seed in 0..100 {
        assert_eq!(explore_groups(cpg::Simulated::new(seed, None), seed), Ok(()), "seed {seed}");
    }
}

/// The first seed of 300 in which a bug shows: a promise is broken, or the cluster does not become well.
fn found(bug: CpgSabotage) -> Option<u64> {
    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let shows = |seed: &u64| {
        let run = || explore_groups(cpg::Simulated::new(*seed, Some(bug)), *seed);
        !matches!(panic::catch_unwind(run), Ok(Ok(())))
    };
    let seed = (0..300).find(shows);
    panic::set_hook(quiet);
    seed
}

#[test]
fn every_bug_put_back_is_found() {
    for bug in [
        CpgSabotage::ForgetsSent,
        CpgSabotage::TrustsAnyRing,
        CpgSabotage::IgnoresDigest,
        CpgSabotage::NumbersAnew,
    ] {
        assert!(found(bug).is_some(), "{bug:?} is not seen");
    }
}
