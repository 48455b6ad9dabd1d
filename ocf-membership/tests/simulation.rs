//! Whole clusters in virtual time under crashes, pauses, partitions and bad disks: a seed chooses everything, every
//! step is checked, and in the end the cluster must heal.

mod world;

use ocf_membership::Sabotage;
use pils::Rng;
use world::{Plan, World};

fn world(seed: u64, sabotage: Option<Sabotage>) -> World {
    let mut rng = Rng::new(seed);
    let plan = Plan { sabotage, ..Plan::from_seed(&mut rng) };
    World::new(plan, rng)
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<World, String> {
    let mut world = world(seed, sabotage);
    match world.run() {
        Ok(()) => Ok(world),
        Err(text) => Err(format!("seed {seed}: {text}\n{:?}", world.plan)),
    }
}

/// The end of what led to the failure of a seed.
fn story(seed: u64) -> String {
    let mut world = world(seed, None);
    world.log = Some(Vec::new());
    let outcome = world.run();
    let log = world.log.unwrap_or_default();
    format!("{}\n{outcome:?}", log[log.len().saturating_sub(80)..].join("\n"))
}

fn run_all(seeds: core::ops::Range<u64>) {
    let failures: Vec<(u64, String)> =
        seeds.filter_map(|seed| run(seed, None).err().map(|text| (seed, text))).collect();
    let Some((seed, text)) = failures.first() else { return };
    panic!("{} seeds fail; the first:\n{}\n{text}", failures.len(), story(*seed));
}

#[test]
fn no_seed_breaks_an_invariant_part_1() {
    run_all(0..500);
}

#[test]
fn no_seed_breaks_an_invariant_part_2() {
    run_all(500..1000);
}

fn is_caught(bug: Sabotage, property: &str) {
    let found = (0..200).filter_map(|seed| run(seed, Some(bug)).err()).find(|text| text.contains(property));
    assert!(found.is_some(), "{bug:?} is not noticed as {property} within 200 seeds");
}

#[test]
fn installing_without_waiting_for_leases_is_caught() {
    is_caught(Sabotage::NoLeaseWait, "Q1");
}

#[test]
fn ignoring_an_accepted_proposal_is_caught() {
    is_caught(Sabotage::IgnoreAccepted, "M1");
}

#[test]
fn forgetting_the_memory_rule_is_caught() {
    is_caught(Sabotage::NoMemoryRule, "Q2");
}

#[test]
fn acting_without_a_lease_is_caught() {
    is_caught(Sabotage::NoLeaseExpiry, "Q");
}
