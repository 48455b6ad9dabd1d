//! Votes that change while the cluster runs.

use crate::behaviour::with_policy;
use crate::world::{MS, Plan, World, id};
use ocf_membership::{
    ChangeReason, ConfigError, Durability, NodeVotes, Sabotage, Snapshot, VotesError, policy_by_name,
};
use pils::Rng;

fn list(votes: &[u32]) -> Vec<NodeVotes> {
    votes.iter().enumerate().map(|(i, v)| NodeVotes::new(id(i), *v)).collect()
}

fn formed(nodes: usize, last_man: Option<u64>) -> World {
    let mut world = with_policy(nodes, Durability::Durable, "majority");
    world.config.last_man_standing = last_man.map(core::time::Duration::from_nanos);
    world.run_until(500 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    world.run_until(2_000 * MS);
    world
}

fn seen(world: &World, i: usize) -> Snapshot {
    world.nodes[i].core.as_ref().expect("it runs").snapshot()
}

fn is_primary(world: &World, i: usize) -> bool {
    world.nodes[i].active.is_some()
}

fn part(world: &mut World, side: &[usize]) {
    let n = world.nodes.len();
    let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
    world.cut.extend(pairs.filter(|(a, b)| side.contains(a) != side.contains(b)));
}

fn wait(world: &mut World, ms: u64) {
    let end = world.now + ms * MS;
    world.run_until(end);
    assert_eq!(world.checks.violation, None, "{}", world.describe());
}

#[test]
fn ordered_votes_count_at_every_member_from_one_view_on_and_after_restarts() {
    let mut world = formed(3, None);
    let before = seen(&world, 0).newest.0;
    let votes = list(&[3, 1, 1]);
    world.set_votes(2, &votes).expect("it may");
    wait(&mut world, 1_000);
    assert!(world.is_whole());
    for i in 0..3 {
        let seen = seen(&world, i);
        assert_eq!((seen.votes, seen.quorum, seen.votes_revision), (votes.clone(), 3, before + 1));
        let view = seen.view.expect("a primary");
        assert_eq!(view.number.0, before + 1, "one view");
        let causes: Vec<ChangeReason> = view.causes.iter().map(|c| c.reason).collect();
        assert_eq!(causes, [ChangeReason::VotesChanged]);
        assert!(view.members.iter().all(|m| m.joined < view.number), "everybody keeps its state");
    }
    assert_eq!(world.votes_changed, 3);
    part(&mut world, &[0]);
    wait(&mut world, 3_000);
    assert_eq!([0, 1, 2].map(|i| is_primary(&world, i)), [true, false, false]);
    world.cut.clear();
    wait(&mut world, 3_000);
    assert!(world.is_whole(), "{}", world.describe());
    for i in 0..3 {
        world.stop(i, None);
    }
    wait(&mut world, 1_000);
    // Two of three nodes, as the configuration counts them; two of five votes.
    world.start(1);
    world.start(2);
    wait(&mut world, 15_000);
    assert_eq!([1, 2].map(|i| is_primary(&world, i)), [false, false], "{}", world.describe());
    world.start(0);
    wait(&mut world, 15_000);
    assert!(world.is_whole(), "{}", world.describe());
    assert_eq!(seen(&world, 1).votes, votes);
}

#[test]
fn a_node_that_was_away_learns_the_votes_and_a_configuration_with_a_higher_revision_counts_more() {
    let mut world = formed(3, None);
    world.stop(2, None);
    wait(&mut world, 3_000);
    world.set_votes(0, &list(&[1, 2, 2])).expect("it may");
    wait(&mut world, 1_000);
    let revision = seen(&world, 0).votes_revision;
    assert!(revision > 0 && is_primary(&world, 1), "{}", world.describe());
    world.start(2);
    wait(&mut world, 5_000);
    assert!(world.is_whole(), "{}", world.describe());
    assert_eq!((seen(&world, 2).votes, seen(&world, 2).votes_revision), (list(&[1, 2, 2]), revision));
    for i in 0..3 {
        world.stop(i, None);
    }
    wait(&mut world, 1_000);
    world.config.nodes = list(&[1, 1, 1]);
    world.config.votes_revision = revision + 1;
    for i in 0..3 {
        world.start(i);
    }
    wait(&mut world, 10_000);
    assert!(world.is_whole(), "{}", world.describe());
    assert_eq!((seen(&world, 2).votes, seen(&world, 2).votes_revision), (list(&[1, 1, 1]), revision + 1));
}

#[test]
fn an_order_that_would_end_the_primary_or_be_forgotten_is_refused_and_says_why() {
    let mut world = formed(3, None);
    assert_eq!(world.set_votes(0, &list(&[1, 1])), Err(VotesError::OtherNodes));
    assert_eq!(world.set_votes(0, &list(&[1, 1, 1, 1])), Err(VotesError::OtherNodes));
    let none = world.set_votes(0, &list(&[0, 0, 0]));
    assert_eq!(none, Err(VotesError::Config(vec![ConfigError::Votes])));
    world.stop(2, None);
    wait(&mut world, 3_000);
    let away = world.set_votes(0, &list(&[1, 1, 2]));
    assert_eq!(away, Err(VotesError::NoQuorum), "the two that are here would have half");
    assert!(away.expect_err("refused").to_string().contains("give them more"));
    world.set_votes(0, &list(&[2, 1, 2])).expect("three of five are here");
    world.set_votes(1, &list(&[1, 2, 2])).expect("another node may at the same time");
    assert_eq!(world.set_votes(0, &list(&[1, 1, 1])), Err(VotesError::Busy));
    wait(&mut world, 2_000);
    assert!(seen(&world, 0).votes_revision > 0 && is_primary(&world, 0), "{}", world.describe());
    assert_eq!(seen(&world, 0).votes, seen(&world, 1).votes, "one after the other");
    part(&mut world, &[0]);
    wait(&mut world, 3_000);
    assert!(!is_primary(&world, 0));
    assert_eq!(world.set_votes(0, &list(&[1, 1, 1])), Err(VotesError::NotPrimary));
    let mut volatile = with_policy(3, Durability::Volatile, "majority");
    wait(&mut volatile, 2_000);
    assert_eq!(volatile.set_votes(0, &list(&[2, 1, 1])), Err(VotesError::Volatile));
}

#[test]
fn five_nodes_shrink_to_two_and_grow_again_and_three_that_come_back_alone_form_nothing() {
    let mut world = formed(5, Some(1_000 * MS));
    world.stop(4, None);
    world.stop(3, None);
    wait(&mut world, 4_000);
    assert_eq!(seen(&world, 0).votes, list(&[1, 1, 1, 0, 0]));
    world.stop(2, None);
    wait(&mut world, 4_000);
    assert!(is_primary(&world, 0) && is_primary(&world, 1), "{}", world.describe());
    assert_eq!(seen(&world, 0).votes, list(&[1, 1, 0, 0, 0]));
    part(&mut world, &[0, 1]);
    (2..5).for_each(|i| world.start(i));
    wait(&mut world, 20_000);
    assert!((2..5).all(|i| !is_primary(&world, i)), "three of five, and yet: {}", world.describe());
    world.cut.clear();
    wait(&mut world, 6_000);
    assert!(world.is_whole(), "{}", world.describe());
    assert_eq!(seen(&world, 4).votes, list(&[1, 1, 1, 1, 1]));
    // A leap from five to one is none.
    (1..5).for_each(|i| world.stop(i, None));
    wait(&mut world, 5_000);
    assert!(!is_primary(&world, 0));
}

#[test]
fn an_order_that_nobody_hears_is_given_up_and_that_is_told() {
    let mut world = formed(3, None);
    world.set_votes(2, &list(&[2, 1, 1])).expect("it may");
    part(&mut world, &[2]);
    wait(&mut world, 29_000);
    assert_eq!((world.votes_changed, world.votes_not_changed), (0, 0));
    wait(&mut world, 2_000);
    assert_eq!((world.votes_changed, world.votes_not_changed), (0, 1));
    world.cut.clear();
    wait(&mut world, 5_000);
    assert!(world.is_whole(), "{}", world.describe());
    assert_eq!((seen(&world, 2).votes, world.votes_changed), (list(&[1, 1, 1]), 0));
}

#[test]
fn votes_that_follow_who_is_there_need_a_policy_that_counts_them_as_they_are() {
    let config = formed(3, None).config;
    for (policy, fits) in [("majority", true), ("auto-tie-breaker:lowest", false), ("two-node", false)] {
        let config = ocf_membership::Config {
            policy: policy_by_name(policy).expect("a policy"),
            last_man_standing: Some(core::time::Duration::from_secs(10)),
            ..config.clone()
        };
        let errors = config.check().err().unwrap_or_default();
        let refused = errors.iter().any(|e| matches!(e, ConfigError::LastManStanding { .. }));
        assert_eq!(refused, !fits, "{policy}: {errors:?}");
    }
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<World, String> {
    let mut rng = Rng::new(seed);
    let plan = Plan { sabotage, ..Plan::with_votes(&mut rng) };
    let mut world = World::new(plan, rng);
    match world.run() {
        Ok(()) => Ok(world),
        Err(text) => Err(format!("seed {seed}: {text}\n{:?}", world.plan)),
    }
}

fn run_all(seeds: core::ops::Range<u64>) {
    let (mut changed, mut adopted) = (0, 0);
    for seed in seeds {
        let world = run(seed, None).unwrap_or_else(|text| panic!("{text}"));
        changed += world.votes_changed;
        let cores = world.nodes.iter().filter_map(|n| n.core.as_ref());
        adopted += cores.map(|c| c.stats().proposals_adopted).sum::<u64>();
    }
    assert!(changed > 100 && adopted > 0, "{changed} changes, {adopted} adopted");
}

#[test]
fn no_seed_breaks_an_invariant_while_votes_change() {
    run_all(0..60);
}

#[test]
#[ignore = "a thousand seeds more: seconds in a release build"]
fn no_seed_of_a_thousand_more_breaks_an_invariant_while_votes_change() {
    run_all(60..1060);
}

/// Two of five nodes are cut off while a view that would make them a quorum is being agreed, at one of many moments, and the
/// one that proposed it restarts: it remembers votes by which the two are enough.
fn cut_while_votes_change(after: u64, sabotage: Option<Sabotage>) -> (World, Option<String>) {
    cut_while_changing_to(&[3, 1, 1, 1, 1], after, sabotage)
}

fn cut_while_changing_to(votes: &[u32], after: u64, sabotage: Option<Sabotage>) -> (World, Option<String>) {
    let mut world = with_policy(5, Durability::Durable, "majority");
    world.plan.sabotage = sabotage;
    world.run_until(2_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    world.set_votes(0, &list(votes)).expect("it may");
    world.run_until(world.now + after);
    part(&mut world, &[0, 1]);
    world.run_until(world.now + 5 * MS);
    world.stop(0, None);
    world.run_until(world.now + 100 * MS);
    world.start(0);
    world.run_until(world.now + 12_000 * MS);
    let violation = world.checks.violation.clone();
    (world, violation)
}

#[test]
fn two_that_would_be_enough_by_votes_that_were_not_agreed_form_nothing() {
    let (mut ours, mut theirs) = (0, 0);
    for step in 0..30 {
        let (world, violation) = cut_while_votes_change(49 * MS + step * MS / 6, None);
        assert_eq!(violation, None, "{step}: {}", world.describe());
        ours += u32::from(is_primary(&world, 0) && is_primary(&world, 1));
        theirs += u32::from((2..5).all(|i| is_primary(&world, i)));
    }
    assert!(ours > 0 && theirs > 0, "{ours} times the two, {theirs} times the three");
}

#[test]
fn votes_that_were_not_agreed_keep_nobody_from_going_on() {
    let mut tried = 0;
    for step in 0..30 {
        let (mut world, _) = cut_while_changing_to(&[5, 1, 1, 1, 1], 49 * MS + step * MS / 6, None);
        if !(2..5).all(|i| is_primary(&world, i)) || seen(&world, 0).votes_revision == 0 {
            continue;
        }
        tried += 1;
        // The one that remembers those votes is heard, and gone before it is in a view again.
        world.cut.clear();
        world.cut.extend((2..5).flat_map(|i| [(i, 1), (1, i)]));
        wait(&mut world, 40);
        world.stop(0, None);
        world.cut.clear();
        wait(&mut world, 10_000);
        assert!((1..5).all(|i| is_primary(&world, i)), "{step}: {}", world.describe());
    }
    assert!(tried > 0, "such votes are remembered by one that restarted");
}

/// A node that is a quorum alone is cut off while a view is being agreed that gives the others more, at one of many moments.
fn cut_from_the_heaviest(after: u64, sabotage: Option<Sabotage>) -> (World, Option<String>) {
    let mut world = with_policy(3, Durability::Durable, "majority");
    world.plan.sabotage = sabotage;
    world.run_until(2_000 * MS);
    world.set_votes(0, &list(&[1, 3, 1])).expect("it may");
    wait(&mut world, 1_000);
    world.set_votes(0, &list(&[2, 2, 3])).expect("it may");
    world.run_until(world.now + after);
    part(&mut world, &[1]);
    world.run_until(world.now + 10_000 * MS);
    let violation = world.checks.violation.clone();
    (world, violation)
}

#[test]
fn who_was_a_quorum_alone_stops_once_others_may_be_one_without_it() {
    let (mut ours, mut theirs) = (0, 0);
    for step in 0..60 {
        let (world, violation) = cut_from_the_heaviest(49 * MS + step * MS / 6, None);
        assert_eq!(violation, None, "{step}: {}", world.describe());
        ours += u32::from(is_primary(&world, 1));
        theirs += u32::from(is_primary(&world, 0) && is_primary(&world, 2));
    }
    assert!(ours > 0 && theirs > 0, "{ours} times it, {theirs} times the others");
}

#[test]
fn going_on_alone_though_others_may_have_agreed_is_caught() {
    let bug = Some(Sabotage::AloneForGood);
    let found = (0..60).find_map(|step| cut_from_the_heaviest(49 * MS + step * MS / 6, bug).1);
    let found = found.expect("it is noticed");
    assert!(found.contains("Q1"), "{found}");
}

#[test]
fn adopting_other_votes_without_a_quorum_of_those_before_is_caught() {
    let bug = Some(Sabotage::NoFormerVotes);
    let found = (0..30).find_map(|step| cut_while_votes_change(49 * MS + step * MS / 6, bug).1);
    let found = found.expect("it is noticed");
    assert!(found.contains("Q1") || found.contains("M1"), "{found}");
}
