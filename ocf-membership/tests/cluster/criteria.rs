//! Who may be in one view with whom, who starts ballots, and what a node is told that was outside.

use crate::behaviour::with_policy;
use crate::world::{DETECTION, MS, World, id};
use ocf_membership::{Coordinator, Durability, OutsidePolicy, ViewNumber, criterion_by_name};
use std::sync::Arc;

/// A cluster whose configuration is changed before its nodes start.
fn cluster(nodes: usize, change: impl FnOnce(&mut World)) -> World {
    let mut world = with_policy(nodes, Durability::Durable, "majority");
    change(&mut world);
    world.run_until(2_500 * MS);
    world
}

fn star(nodes: usize) -> World {
    let world = cluster(nodes, |world| {
        world.config.criterion = criterion_by_name("star:1").expect("a criterion");
        world.config.nodes.iter_mut().for_each(|n| n.votes = u32::from(n.node == id(0)));
        // No two leaves reach each other.
        for (i, j) in (1..nodes).flat_map(|i| (1..nodes).map(move |j| (i, j))) {
            world.cut.insert((i, j));
        }
    });
    assert!(world.is_whole(), "{}", world.describe());
    world
}

fn members(world: &World, i: usize) -> Vec<u32> {
    let view = world.nodes[i].core.as_ref().and_then(|c| c.view());
    let mut ids: Vec<u32> =
        view.iter().flat_map(|v| v.members.iter().map(|m| m.instance.node.raw())).collect();
    ids.sort_unstable();
    ids
}

fn acting(world: &World) -> Vec<usize> {
    (0..world.nodes.len()).filter(|i| world.nodes[*i].active.is_some()).collect()
}

fn sound(world: &World) {
    assert_eq!(world.checks.violation, None, "{}", world.describe());
}

#[test]
fn in_a_star_contact_to_the_head_suffices() {
    let mut world = star(6);
    world.cut_link(0, 5);
    world.run_until(world.now + 2 * DETECTION);
    assert_eq!((members(&world, 0), acting(&world)), (vec![1, 2, 3, 4, 5], vec![0, 1, 2, 3, 4]));
    world.stop(3, None);
    world.run_until(world.now + 2 * DETECTION);
    assert_eq!(members(&world, 1), [1, 2, 3, 5]);
    world.cut.retain(|(i, j)| *i > 0 && *j > 0);
    world.start(3);
    world.run_until(world.now + 5_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    sound(&world);
}

#[test]
fn without_the_head_of_a_star_nobody_acts_until_it_is_back() {
    let mut world = star(4);
    world.stop(0, None);
    world.run_until(world.now + 5_000 * MS);
    assert_eq!(acting(&world), [0_usize; 0]);
    world.start(0);
    world.run_until(world.now + 5_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    sound(&world);
}

#[test]
fn who_is_not_on_the_list_stays_outside_and_the_others_do_not_wait_for_it() {
    let mut world = cluster(4, |world| {
        world.config.criterion = criterion_by_name("list:1,2,4").expect("a criterion");
        world.config.blank_record = ocf_membership::BlankRecord::Trusted;
    });
    for i in [0, 1, 3] {
        assert_eq!(members(&world, i), [1, 2, 4], "{}", world.describe());
    }
    assert_eq!((members(&world, 2), acting(&world)), (vec![], vec![0, 1, 3]));
    world.stop(3, None);
    world.run_until(world.now + 5_000 * MS);
    assert_eq!(acting(&world), [0_usize; 0], "its vote counts in the total all the same");
    sound(&world);
}

#[test]
fn the_first_ballot_is_started_by_the_chosen_coordinator() {
    let order = vec![id(1), id(0)];
    for (coordinator, first) in [
        (Coordinator::Senior, 0),
        (Coordinator::Lowest, 0),
        (Coordinator::Highest, 2),
        (Coordinator::Order(order), 1),
    ] {
        let mut world = cluster(3, |world| world.config.coordinator = coordinator.clone());
        assert!(world.is_whole(), "{}", world.describe());
        let proposer = |world: &World, i: usize| {
            world.nodes[i].core.as_ref().and_then(|c| c.view()).expect("in it").ballot.proposer.node
        };
        assert_eq!(proposer(&world, 0), id(first), "{coordinator:?}");
        // It dies, and somebody else does its work.
        world.stop(first, None);
        world.run_until(world.now + 3 * DETECTION);
        assert_ne!(proposer(&world, (first + 1) % 3), id(first));
        sound(&world);
    }
}

#[test]
fn a_merge_names_both_parents_and_whether_the_state_was_kept() {
    let mut world = cluster(3, |world| world.config.outside = OutsidePolicy::Freeze);
    world.cut_link(0, 1);
    world.cut_link(0, 2);
    world.run_until(world.now + 5_000 * MS);
    assert_eq!(acting(&world), [1, 2]);
    world.cut.clear();
    world.run_until(world.now + 3_000 * MS);
    assert_eq!(world.merges, [(id(0), ViewNumber(1), ViewNumber(2), false)], "others went on without it");
    world.merges.clear();
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        world.cut_link(i, j);
    }
    world.run_until(world.now + 5_000 * MS);
    world.cut.clear();
    world.run_until(world.now + 3_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    world.merges.sort_unstable();
    let kept = |i| (id(i), ViewNumber(3), ViewNumber(3), true);
    assert_eq!(world.merges, [kept(0), kept(1), kept(2)], "nobody went on");
    sound(&world);
}

#[test]
fn who_is_outside_is_told_what_to_do() {
    for policy in
        [OutsidePolicy::Stop, OutsidePolicy::Freeze, OutsidePolicy::ReadOnly, OutsidePolicy::SelfFence]
    {
        let mut world = cluster(2, |world| world.config.outside = policy);
        world.stop(1, None);
        world.run_until(world.now + 5_000 * MS);
        assert_eq!(world.told, [policy], "{policy}");
        sound(&world);
    }
}

#[test]
fn a_star_whose_head_has_no_quorum_is_refused() {
    let world = with_policy(3, Durability::Durable, "majority");
    let config = ocf_membership::Config { criterion: Arc::new(ocf_membership::Star(id(0))), ..world.config };
    let errors = config.check().expect_err("one of three votes");
    assert!(errors[0].to_string().contains("give the votes to the head"), "{errors:?}");
}
