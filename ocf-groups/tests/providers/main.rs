//! Goal: what this project's own protocols promise of membership and groups, and what a process group of corosync can be made to promise, is
//! judged by one suite.
//!
//! Method: the suites of both crates, over the hub in memory, and over a process group that is simulated from a seed: rings that split
//! and merge, deliveries that lag, a quorum service that tells late.

mod cpg;
mod memory;

use memory::InMemory;
use ocf_groups::testing::check_groups;
use ocf_membership::testing::check_membership;

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
        check_membership(|| cpg::Simulated::new(seed));
    }
}

#[test]
fn groups_over_a_simulated_process_group_conform() {
    for seed in 0..20 {
        check_groups(|| cpg::Simulated::new(seed));
    }
}
