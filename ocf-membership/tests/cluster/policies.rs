//! Quorum policies and even splits: single situations, and seeds of random trouble for each policy with the same checks as any
//! other run; bugs of the core, of a tie-breaker and of a fence device are put in and must be noticed.

use crate::behaviour::with_policy;
use crate::world::{Breaker, MS, Plan, World};
use ocf_comm::DownReason;
use ocf_membership::{ChangeReason, Durability, Evidence, OverrideError, Sabotage, View};
use pils::Rng;

const POLICIES: [&str; 8] = [
    "majority+tie-breaker",
    "two-node",
    "auto-tie-breaker:lowest",
    "auto-tie-breaker:highest+wait-for-all",
    "majority+wait-for-all",
    "majority+tie-breaker+wait-for-all",
    "sites:1,2/3/4",
    "sites:1,2/3,4+tie-breaker",
];

fn formed(nodes: usize, policy: &str) -> World {
    let mut world = with_policy(nodes, Durability::Durable, policy);
    world.run_until(500 * MS);
    assert!(world.is_whole(), "{policy}: {}", world.describe());
    world.run_until(2_000 * MS);
    world
}

/// Cuts the first `side` nodes off from the others.
fn split(world: &mut World, side: usize) {
    let n = world.nodes.len();
    for (i, j) in (0..side).flat_map(|i| (side..n).map(move |j| (i, j))) {
        world.cut_link(i, j);
    }
}

fn acting(world: &World) -> Vec<usize> {
    (0..world.nodes.len()).filter(|i| world.nodes[*i].active.is_some()).collect()
}

fn view(world: &World, i: usize) -> View {
    world.nodes[i].core.as_ref().and_then(|c| c.view()).expect("in the primary").clone()
}

fn sound(world: &World) {
    assert_eq!(world.checks.violation, None, "{}", world.describe());
}

#[test]
fn of_two_halves_the_one_with_the_chosen_node_goes_on() {
    for (policy, side, winners) in [
        ("auto-tie-breaker:lowest", 2, vec![0, 1]),
        ("auto-tie-breaker:highest", 2, vec![2, 3]),
        ("auto-tie-breaker:3", 2, vec![2, 3]),
        ("auto-tie-breaker:lowest", 1, vec![1, 2, 3]),
        ("majority", 2, vec![]),
        // Of three sites the first, with two nodes of four, is one; the other two are more.
        ("sites:1,2/3/4", 2, vec![2, 3]),
        ("sites:1,2,3/4", 3, vec![]),
    ] {
        let mut world = formed(4, policy);
        split(&mut world, side);
        world.run_until(world.now + 5_000 * MS);
        assert_eq!(acting(&world), winners, "{policy}: {}", world.describe());
        world.cut.clear();
        world.run_until(world.now + 3_000 * MS);
        assert!(world.is_whole(), "{policy}: {}", world.describe());
        sound(&world);
    }
}

#[test]
fn a_tie_breaker_lets_one_half_go_on_and_the_other_joins_it_later() {
    for nodes in [2, 4] {
        let mut world = formed(nodes, "majority+tie-breaker");
        split(&mut world, nodes / 2);
        world.run_until(world.now + 5_000 * MS);
        let winners = acting(&world);
        assert_eq!(winners.len(), nodes / 2, "{}", world.describe());
        let won = view(&world, winners[0]);
        let causes = won.causes.iter().filter(|c| c.reason == ChangeReason::TieWon(Evidence::TieBreaker));
        assert_eq!((causes.count(), won.quorum as usize), (1, nodes / 2));
        world.cut.clear();
        world.run_until(world.now + 3_000 * MS);
        assert!(world.is_whole(), "{}", world.describe());
        let whole = view(&world, winners[0]);
        let old = whole.members.iter().filter(|m| m.joined < whole.number).count();
        assert_eq!((old, whole.quorum as usize), (nodes / 2, nodes / 2 + 1), "the losers join anew");
        sound(&world);
    }
}

#[test]
fn without_an_answer_of_the_tie_breaker_neither_half_goes_on() {
    let mut world = formed(2, "majority+tie-breaker");
    world.cut_breaker.extend([0, 1]);
    split(&mut world, 1);
    world.run_until(world.now + 10_000 * MS);
    assert_eq!(acting(&world), [0_usize; 0]);
    world.cut_breaker.remove(&1);
    world.run_until(world.now + 3_000 * MS);
    assert_eq!(acting(&world), [1], "the one that reaches it, once it does: {}", world.describe());
    sound(&world);
}

#[test]
fn the_half_that_lost_never_goes_on_without_the_one_that_won() {
    let mut world = formed(2, "majority+tie-breaker");
    world.cut_breaker.insert(1);
    split(&mut world, 1);
    world.run_until(world.now + 5_000 * MS);
    assert_eq!(acting(&world), [0]);
    // The winner dies; the loser reaches the tie-breaker now, restarts, and still may not: it lacks what the winner had.
    world.stop(0, None);
    world.cut_breaker.clear();
    world.run_until(world.now + 15_000 * MS);
    assert_eq!(acting(&world), [0_usize; 0], "{}", world.describe());
    world.stop(1, None);
    world.start(1);
    world.run_until(world.now + 15_000 * MS);
    assert_eq!(acting(&world), [0_usize; 0], "{}", world.describe());
    world.cut.clear();
    world.start(0);
    world.run_until(world.now + 5_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    sound(&world);
}

#[test]
fn of_two_nodes_the_survivor_goes_on_after_a_last_word_or_after_fencing() {
    for told in [Some(DownReason::LastGasp), Some(DownReason::Left), None] {
        let mut world = formed(2, "two-node");
        world.stop(1, told);
        world.run_until(world.now + 2_000 * MS);
        assert_eq!(acting(&world), [0], "{told:?}: {}", world.describe());
        assert_eq!(world.granted, u64::from(told.is_none()), "a last word needs no fencing");
        let won = ChangeReason::TieWon(Evidence::Ended);
        assert!(view(&world, 0).causes.iter().any(|c| c.reason == won));
        world.start(1);
        world.run_until(world.now + 3_000 * MS);
        assert!(world.is_whole(), "{}", world.describe());
        sound(&world);
    }
}

#[test]
fn of_two_nodes_without_a_link_one_is_fenced_and_waits_for_the_other_when_it_is_back() {
    let mut world = formed(2, "two-node");
    split(&mut world, 1);
    world.run_until(world.now + 20_000 * MS);
    let winner = acting(&world);
    assert_eq!(winner.len(), 1, "{}", world.describe());
    assert_eq!(world.granted, 1, "no duel: who was fenced does not fence when it is back");
    world.cut.clear();
    world.run_until(world.now + 3_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    sound(&world);
}

#[test]
fn the_half_that_reaches_more_of_the_world_wins_and_one_that_reaches_nothing_does_not_ask() {
    for policy in ["two-node", "majority+tie-breaker"] {
        let mut world = formed(2, policy);
        let worse = usize::from(policy == "two-node");
        // Without fencing in the way it is the node that reaches less that loses; the junior one waits as well.
        world.reach(worse, 1, 2);
        split(&mut world, 1);
        world.run_until(world.now + 10_000 * MS);
        assert_eq!(acting(&world), [1 - worse], "{policy}: {}", world.describe());
        sound(&world);
        let mut world = formed(2, policy);
        world.reach(0, 0, 2);
        split(&mut world, 1);
        world.run_until(world.now + 10_000 * MS);
        assert_eq!(acting(&world), [1], "{policy}: {}", world.describe());
        sound(&world);
    }
}

#[test]
fn without_fencing_a_node_does_not_go_on_alone() {
    let mut world = formed(2, "two-node");
    world.cut_breaker.extend([0, 1]);
    split(&mut world, 1);
    world.run_until(world.now + 10_000 * MS);
    assert_eq!(acting(&world), [0_usize; 0], "{}", world.describe());
    sound(&world);
}

#[test]
fn an_operator_decides_one_even_split_and_says_why() {
    let mut world = formed(2, "majority+tie-breaker");
    world.cut_breaker.extend([0, 1]);
    let now = world.local_time(0);
    let core = world.nodes[0].core.as_mut().expect("running");
    assert_eq!(core.override_tie(now, "too early"), Err(OverrideError::Primary));
    world.stop(1, None);
    world.run_until(world.now + 5_000 * MS);
    assert_eq!(acting(&world), [0_usize; 0]);
    assert_eq!(world.override_tie(0, " "), Err(OverrideError::NoReason));
    assert_eq!(world.override_tie(0, "node 2 burnt down"), Ok(()));
    world.run_until(world.now + 2_000 * MS);
    assert_eq!(acting(&world), [0], "{}", world.describe());
    let won = ChangeReason::TieWon(Evidence::Operator);
    assert!(view(&world, 0).causes.iter().any(|c| c.reason == won), "it stands in the view");
    assert_eq!(world.reasons, ["node 2 burnt down"]);
    sound(&world);
    let mut plain = formed(2, "majority");
    plain.stop(1, None);
    plain.run_until(plain.now + 5_000 * MS);
    assert_eq!(plain.override_tie(0, "why not"), Err(OverrideError::NoTies));
}

#[test]
fn a_restarted_cluster_that_waits_for_all_waits_though_a_quorum_remembers() {
    for (policy, waits) in [("majority", false), ("majority+wait-for-all", true)] {
        let mut world = formed(3, policy);
        for i in 0..3 {
            world.stop(i, None);
        }
        world.start(0);
        world.start(1);
        world.run_until(world.now + 5_000 * MS);
        assert_eq!(acting(&world).is_empty(), waits, "{policy}: {}", world.describe());
        world.start(2);
        world.run_until(world.now + 5_000 * MS);
        assert!(world.is_whole(), "{policy}: {}", world.describe());
        // One that restarts beside a living primary is admitted at once.
        world.stop(2, None);
        world.start(2);
        world.run_until(world.now + 5_000 * MS);
        assert!(world.is_whole(), "{policy}: {}", world.describe());
        sound(&world);
    }
}

fn run(seed: u64, policy: &str, bug: Option<Sabotage>, breaker: Breaker) -> Result<World, String> {
    let mut rng = Rng::new(seed);
    let plan = Plan { sabotage: bug, breaker, ..Plan::for_policy(&mut rng, policy) };
    let mut world = World::new(plan, rng);
    match world.run() {
        Ok(()) => Ok(world),
        Err(text) => Err(format!("seed {seed}, {policy}: {text}\n{:?}", world.plan)),
    }
}

fn run_all(seeds: core::ops::Range<u64>) {
    for policy in POLICIES {
        let (mut granted, mut refused, mut stands) = (0, 0, 0);
        for seed in seeds.clone() {
            match run(seed, policy, None, Breaker::Sound) {
                Ok(world) => {
                    granted += world.granted;
                    refused += world.refused;
                    let won = |r| matches!(r, ChangeReason::TieWon(_));
                    stands += world
                        .checks
                        .views
                        .values()
                        .filter(|v| v.causes.iter().any(|c| won(c.reason)))
                        .count();
                }
                Err(text) => panic!("{}\n{text}", story(seed, policy)),
            }
        }
        let asks = policy.contains("+tie-breaker") || policy == "two-node";
        assert_eq!(asks, granted > 0 && refused > 0 && stands > 0, "{policy}: {granted} {refused} {stands}");
    }
}

/// The end of what led to the failure of a seed.
fn story(seed: u64, policy: &str) -> String {
    let mut rng = Rng::new(seed);
    let plan = Plan::for_policy(&mut rng, policy);
    let mut world = World::new(plan, rng);
    world.log = Some(Vec::new());
    let outcome = world.run();
    let log = world.log.unwrap_or_default();
    format!("{}\n{outcome:?}", log[log.len().saturating_sub(80)..].join("\n"))
}

#[test]
fn no_seed_breaks_an_invariant_under_any_policy() {
    run_all(0..40);
}

#[test]
#[ignore = "a thousand seeds for each policy: half a minute in a release build"]
fn no_seed_of_a_thousand_more_breaks_an_invariant_under_any_policy() {
    run_all(40..1_040);
}

fn is_caught(policy: &str, bug: Option<Sabotage>, breaker: Breaker) {
    let mut found = (0..300).filter_map(|seed| run(seed, policy, bug, breaker).err());
    let caught =
        found.any(|text| ["M1", "M2", "Q1", "Q2"].iter().any(|rule| text.contains(&format!(": {rule}:"))));
    assert!(caught, "{bug:?}, {breaker:?}: not noticed within 300 seeds of {policy}");
}

#[test]
fn going_on_with_half_of_the_votes_and_asking_nobody_is_caught() {
    is_caught("majority+tie-breaker", Some(Sabotage::NoTieBreak), Breaker::Sound);
    is_caught("two-node", Some(Sabotage::NoTieBreak), Breaker::Sound);
}

#[test]
fn a_tie_breaker_that_grants_both_halves_is_caught() {
    is_caught("majority+tie-breaker", None, Breaker::GrantsAll);
}

#[test]
fn a_fence_device_that_says_done_and_did_nothing_is_caught() {
    is_caught("two-node", None, Breaker::Lies);
}
