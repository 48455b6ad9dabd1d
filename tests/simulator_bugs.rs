//! Protocol bugs that are put back are caught within 200 seeds.
//!
//! Method: the cores have, under the feature `testing`, one switch for each bug: the place that a patch would change.
//! [`Bug`] names them. A run with the switch thrown must end in a violation, in a cluster that does not become well, or in
//! a core that notices; the same seed without it must pass, so that it is the bug that was seen. The search begins at
//! the seed that caught the bug when this was written, so that it is short, and then tries all 200.

use ocf::sim::cluster::{self, Bug, Options};
use ocf::sim::{Fault, Verdict};
use ocf_groups::Sabotage as Groups;
use ocf_membership::Sabotage as Membership;
use ocf_membership::partitionable::PartitionSabotage as Partitions;
use std::time::Duration;

const SEEDS: u64 = 200;

fn is_caught(bug: Bug, likely: u64) {
    is_caught_by(bug, likely, &[]);
}

/// `focus`: the faults of which runs consist, if they are not mixed from all.
fn is_caught_by(bug: Bug, likely: u64, focus: &[Fault]) {
    is_caught_in(bug, likely, &Options { focus: focus.to_vec(), ..Options::default() });
}

fn is_caught_in(bug: Bug, likely: u64, options: &Options) {
    let options = |bug| Options { bug, safety: Duration::from_secs(15), ..options.clone() };
    let fails = |seed: &u64| cluster::run(*seed, &options(Some(bug))).verdict != Verdict::Passed;
    let caught = std::iter::once(likely).chain(0..SEEDS).find(fails);
    let Some(seed) = caught else { panic!("{} is not caught within {SEEDS} seeds", bug.name()) };
    let without = cluster::run(seed, &options(None)).verdict;
    assert_eq!(without, Verdict::Passed, "seed {seed} fails without {} too", bug.name());
}

#[test]
fn a_fresh_view_in_place_of_an_accepted_one_is_caught() {
    is_caught(Bug::Membership(Membership::IgnoreAccepted), 76);
}

#[test]
fn nodes_that_forget_where_an_added_node_is_are_caught() {
    let options = Options { nodes: Some(5), set_changes: 1.0, ..Options::default() };
    is_caught_in(Bug::Membership(Membership::ForgetsContacts), 21, &options);
}

#[test]
fn a_primary_that_goes_on_without_its_lease_is_caught() {
    is_caught(Bug::Membership(Membership::NoLeaseExpiry), 36);
}

#[test]
fn a_view_that_drops_what_a_primary_held_before_it_must_is_caught() {
    is_caught_by(
        Bug::Membership(Membership::NoMemoryRule),
        159,
        &[Fault::Alone, Fault::Kill, Fault::Isolate],
    );
}

#[test]
fn buffers_freed_before_everybody_holds_them_are_caught() {
    is_caught(Bug::Groups(Groups::FreeOnOwnDelivery), 0);
}

#[test]
fn safe_messages_that_no_quorum_holds_are_caught() {
    is_caught(Bug::Groups(Groups::SafeWithoutQuorum), 43);
}

#[test]
fn a_view_entered_without_what_the_old_one_owed_is_caught() {
    is_caught(Bug::Groups(Groups::SkipFetch), 2);
}

#[test]
fn messages_of_a_sender_out_of_order_are_caught() {
    is_caught(Bug::Groups(Groups::IgnoreSequence), 31);
}

#[test]
fn messages_forgotten_at_a_view_change_are_caught() {
    is_caught(Bug::Groups(Groups::ForgetUnordered), 1);
}

#[test]
fn a_stream_that_goes_on_before_the_state_has_come_is_caught() {
    is_caught(Bug::Groups(Groups::OpenGates), 0);
}

#[test]
fn partitions_that_all_keep_their_state_where_they_meet_are_caught() {
    let options = Options { partitions: 1.0, ..Options::default() };
    is_caught_in(Bug::Partitions(Partitions::MergesStates), 0, &options);
}

#[test]
fn a_partition_that_says_it_is_a_primary_of_others_is_caught() {
    let options = Options { partitions: 1.0, ..Options::default() };
    is_caught_in(Bug::Partitions(Partitions::ClaimsPrimary), 0, &options);
}

#[test]
fn a_start_on_a_node_without_access_is_caught() {
    is_caught(Bug::StartWithoutAccess, 2);
}

#[test]
fn a_start_before_the_fence_is_caught() {
    is_caught(Bug::StartBeforeFence, 7);
}
