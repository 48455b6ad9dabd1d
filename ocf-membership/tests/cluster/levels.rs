//! Nodes of different builds in one cluster: upgraded one after the other, and one that is too old.

use crate::behaviour::with_policy;
use crate::world::{MS, World, id};
use ocf_comm::DownReason;
use ocf_membership::{Durability, Levels};

const OLD: Levels = Levels { oldest: 1, newest: 1 };
const NEW: Levels = Levels { oldest: 1, newest: 2 };
/// It gave up what the first builds spoke.
const LATER: Levels = Levels { oldest: 2, newest: 3 };

fn formed(levels: [Levels; 3]) -> World {
    let mut world = with_policy(3, Durability::Durable, "majority");
    world.levels = levels.to_vec();
    world.run_until(2_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    world
}

/// The level of the view that a node is in.
fn level(world: &World, i: usize) -> Option<u32> {
    world.nodes[i].core.as_ref()?.view().map(|view| view.level)
}

fn pass(world: &mut World, ms: u64) {
    world.run_until(world.now + ms * MS);
    assert_eq!(world.checks.violation, None, "{}", world.describe());
}

fn stop(world: &mut World, i: usize) {
    world.stop(i, Some(DownReason::Left));
    pass(world, 1_000);
}

fn start(world: &mut World, i: usize, levels: Levels) {
    world.levels[i] = levels;
    world.start(i);
    pass(world, 2_000);
}

#[test]
fn nodes_are_upgraded_one_after_the_other_and_the_last_raises_the_level() {
    let mut world = formed([OLD; 3]);
    for i in 0..3 {
        assert_eq!(level(&world, (i + 1) % 3), Some(1), "as long as one is old");
        stop(&mut world, i);
        start(&mut world, i, NEW);
        assert!(world.is_whole(), "{}", world.describe());
    }
    assert_eq!([0, 1, 2].map(|i| level(&world, i)), [Some(2); 3]);
    assert!(world.incompatible.is_empty(), "{:?}", world.incompatible);
}

#[test]
fn the_level_does_not_rise_while_a_node_is_away_that_may_come_back_as_it_was() {
    let mut world = formed([NEW, NEW, OLD]);
    stop(&mut world, 2);
    pass(&mut world, 20_000);
    assert_eq!(level(&world, 0), Some(1));
    start(&mut world, 2, OLD);
    assert!(world.is_whole(), "{}", world.describe());
}

#[test]
fn one_that_is_too_old_is_told_so_stays_outside_and_comes_in_once_it_is_upgraded() {
    let mut world = formed([NEW; 3]);
    assert_eq!(level(&world, 0), Some(2));
    stop(&mut world, 2);
    start(&mut world, 2, OLD);
    pass(&mut world, 20_000);
    assert_eq!([0, 1, 2].map(|i| level(&world, i)), [Some(2), Some(2), None], "{}", world.describe());
    for (at, peer) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
        assert!(world.incompatible.contains(&(id(at), id(peer), 2)), "{at} {peer}: {:?}", world.incompatible);
    }
    assert_eq!(world.incompatible.len(), 4, "each once: {:?}", world.incompatible);
    stop(&mut world, 2);
    start(&mut world, 2, NEW);
    assert!(world.is_whole(), "{}", world.describe());
}

#[test]
fn one_that_gave_up_an_old_level_waits_until_the_cluster_has_left_it() {
    let mut world = formed([OLD; 3]);
    stop(&mut world, 0);
    start(&mut world, 0, LATER);
    assert_eq!(level(&world, 0), None, "{}", world.describe());
    stop(&mut world, 0);
    // By the version between.
    for i in 0..3 {
        if i > 0 {
            stop(&mut world, i);
        }
        start(&mut world, i, NEW);
    }
    assert_eq!(level(&world, 1), Some(2));
    stop(&mut world, 0);
    start(&mut world, 0, LATER);
    assert!(world.is_whole(), "{}", world.describe());
    assert_eq!(level(&world, 0), Some(2));
}

#[test]
fn too_old_nodes_that_are_a_quorum_without_the_others_do_not_found_a_second_cluster() {
    let mut world = formed([NEW; 3]);
    for i in [1, 2] {
        world.stop(i, Some(DownReason::Left));
    }
    pass(&mut world, 1_000);
    for i in [1, 2] {
        start(&mut world, i, OLD);
    }
    pass(&mut world, 20_000);
    assert_eq!([0, 1, 2].map(|i| level(&world, i)), [None; 3], "{}", world.describe());
    for i in [1, 2] {
        stop(&mut world, i);
        start(&mut world, i, NEW);
    }
    pass(&mut world, 5_000);
    assert!(world.is_whole(), "{}", world.describe());
}
