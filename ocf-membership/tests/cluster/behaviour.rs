//! Single situations in virtual time, each with one claim: a cluster without random faults, and what is done to it.

use crate::world::{Breaker, DETECTION, MS, Plan, World, id};
use ocf_comm::DownReason;
use ocf_membership::{
    ChangeReason, Consensus, Durability, Input, NewError, Output, RecordError, Sabotage, ViewNumber,
};
use pils::{Incarnation, Instant, Layer, NodeInstance, Rng};
use std::collections::BTreeSet;

fn cluster(nodes: usize, durability: Durability) -> World {
    with_policy(nodes, durability, "majority")
}

pub(crate) fn with_policy(nodes: usize, durability: Durability, policy: &str) -> World {
    let plan = Plan {
        nodes,
        durability,
        network: MS / 5,
        disk: MS / 5,
        upper: MS / 5,
        slow: 0.0,
        persist_fails: 0.0,
        drift: 0,
        faults: BTreeSet::new(),
        pause_between: 1_000 * MS,
        trouble: 0,
        sabotage: None,
        policy: policy.to_owned(),
        unsettled: 0,
        breaker: Breaker::Sound,
        last_man: None,
        sole: false,
        upgrades: false,
        spares: 0,
    };
    World::new(plan, Rng::new(7))
}

/// A cluster in its first view.
fn formed(nodes: usize, durability: Durability) -> World {
    let mut world = cluster(nodes, durability);
    world.run_until(500 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    // Long enough that nobody fears what earlier lives may have confirmed.
    world.run_until(2_000 * MS);
    world
}

fn number(world: &World, i: usize) -> u64 {
    world.nodes[i].core.as_ref().and_then(|c| c.view()).map_or(0, |v| v.number.0)
}

fn sound(world: &World) {
    assert_eq!(world.checks.violation, None, "{}", world.describe());
}

#[test]
fn three_nodes_form_one_view_and_stay_in_it() {
    let mut world = formed(3, Durability::Durable);
    world.run_until(20_000 * MS);
    assert!(world.is_whole());
    assert_eq!(number(&world, 0), 1);
    sound(&world);
}

/// Nodes that a datagram needs up to so many milliseconds to; how many views they have after ten seconds, and after another ten.
fn views_far_apart(nodes: usize, milliseconds: u64, sabotage: Option<Sabotage>) -> [u64; 2] {
    let mut world = cluster(nodes, Durability::Volatile);
    (world.plan.network, world.plan.sabotage) = (milliseconds * MS, sabotage);
    [10_000, 20_000].map(|end| {
        world.run_until(end * MS);
        assert!(sabotage.is_some() || world.is_whole(), "{milliseconds} ms {}", world.describe());
        number(&world, 0)
    })
}

#[test]
fn members_that_are_slow_to_say_that_they_are_in_a_view_cost_no_other() {
    for milliseconds in [1, 40, 80, 120] {
        assert_eq!(views_far_apart(5, milliseconds, None), [1, 1], "{milliseconds} ms");
    }
    let [first, second] = views_far_apart(5, 120, Some(Sabotage::AsksLateAgain));
    assert!(second > first + 10, "with the bug views follow each other: {first}, then {second}");
}

#[test]
fn the_first_view_of_new_nodes_waits_for_all_of_them() {
    for durability in [Durability::Durable, Durability::Volatile] {
        let mut world = cluster(3, durability);
        world.cut_link(0, 2);
        world.cut_link(1, 2);
        world.run_until(3_000 * MS);
        assert!(world.nodes.iter().all(|n| n.active.is_none()), "two of three that remember nothing");
        world.cut.clear();
        world.run_until(4_000 * MS);
        assert!(world.is_whole(), "{}", world.describe());
    }
}

#[test]
fn a_leave_is_answered_by_a_view_within_milliseconds() {
    let mut world = formed(3, Durability::Durable);
    let before = world.now;
    world.stop(0, Some(DownReason::Left));
    world.run_until(before + 5 * MS);
    assert_eq!((number(&world, 1), number(&world, 2)), (2, 2));
    assert!(world.nodes[1].active.is_some() && world.nodes[2].active.is_some());
    let view = world.nodes[1].core.as_ref().and_then(|c| c.view()).expect("installed");
    assert_eq!(view.causes[0].reason, ChangeReason::Down(DownReason::Left));
    sound(&world);
}

#[test]
fn a_silent_node_is_replaced_within_detection_and_the_rest_of_its_lease() {
    let mut world = formed(3, Durability::Durable);
    let before = world.now;
    world.stop(0, None);
    world.run_until(before + DETECTION * 125 / 100);
    assert_eq!((number(&world, 1), number(&world, 2)), (2, 2), "{}", world.describe());
    assert!(world.nodes[1].active.is_some() && world.nodes[2].active.is_some());
    sound(&world);
}

#[test]
fn a_minority_stops_acting_and_comes_back_as_a_joiner() {
    let mut world = formed(3, Durability::Durable);
    world.cut_link(0, 1);
    world.cut_link(0, 2);
    world.run_until(world.now + DETECTION * 125 / 100);
    assert!(world.nodes[0].active.is_none() && world.nodes[1].active.is_some());
    world.run_until(world.now + 4_000 * MS);
    assert_eq!(number(&world, 0), 0, "it has given up");
    world.cut.clear();
    world.run_until(world.now + 1_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    let view = world.nodes[1].core.as_ref().and_then(|c| c.view()).expect("whole");
    let joiners: Vec<NodeInstance> = view.joiners().map(|m| m.instance).collect();
    assert_eq!(joiners, [world.nodes[0].local]);
    assert_eq!(view.senior().instance, world.nodes[1].local);
    sound(&world);
}

#[test]
fn a_total_partition_of_any_length_costs_no_member_what_it_had() {
    for length in [3_000, 60_000] {
        let mut world = formed(3, Durability::Durable);
        let members: Vec<NodeInstance> = world.nodes.iter().map(|n| n.local).collect();
        for (i, j) in [(0, 1), (0, 2), (1, 2)] {
            world.cut_link(i, j);
        }
        world.run_until(world.now + length * MS);
        assert!(world.nodes.iter().all(|n| n.active.is_none()));
        assert_eq!(number(&world, 0), 0, "told to be outside");
        world.cut.clear();
        world.run_until(world.now + 1_000 * MS);
        assert!(world.is_whole(), "{}", world.describe());
        let view = world.nodes[1].core.as_ref().and_then(|c| c.view()).expect("whole");
        assert_eq!(view.number, ViewNumber(2), "told to be outside, they come back by another view");
        let joined: Vec<_> = view.members.iter().map(|m| (m.instance, m.joined)).collect();
        assert_eq!(joined, members.iter().map(|m| (*m, ViewNumber(1))).collect::<Vec<_>>());
        assert!(view.causes.is_empty(), "{:?}", view.causes);
        sound(&world);
    }
}

#[test]
fn one_that_waited_alone_completes_no_primary_that_a_quorum_has_forgotten_until_it_drops_its_state() {
    // All of {A, B, C} are alone; A restarts, B does not come back. C may lack what a quorum, {A, B}, had.
    let mut world = formed(3, Durability::Durable);
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        world.cut_link(i, j);
    }
    world.run_until(world.now + 4_000 * MS);
    world.stop(0, None);
    world.stop(1, None);
    world.start(0);
    world.cut.clear();
    world.run_until(world.now + 5_000 * MS);
    assert!(world.nodes.iter().all(|n| n.active.is_none()), "{}", world.describe());
    world.run_until(world.now + 10_000 * MS);
    let view = world.nodes[2].core.as_ref().and_then(|c| c.view()).expect("a quorum is here");
    assert!(view.members.iter().all(|m| m.joined == view.number), "all begin anew: {view:?}");
    assert_eq!((number(&world, 0), number(&world, 2)), (2, 2));
    sound(&world);
}

#[test]
fn a_broken_link_costs_one_view_and_then_nothing_for_ten_minutes() {
    let mut world = formed(3, Durability::Durable);
    world.cut_link(1, 2);
    world.run_until(world.now + 5_000 * MS);
    let settled = number(&world, 0);
    assert!(settled <= 3, "at most two views, now {settled}");
    assert_eq!(world.nodes.iter().filter(|n| n.active.is_some()).count(), 2);
    world.run_until(world.now + 600_000 * MS);
    assert_eq!(number(&world, 0), settled);
    sound(&world);
}

#[test]
fn of_a_link_that_works_one_way_the_end_that_is_not_heard_goes_whoever_is_senior() {
    for (silent, deaf) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        let mut world = formed(3, Durability::Durable);
        world.cut.insert((silent, deaf));
        world.run_until(world.now + 3_000 * MS);
        let active: Vec<usize> = (0..3).filter(|i| world.nodes[*i].active.is_some()).collect();
        let others: Vec<usize> = (0..3).filter(|i| *i != silent).collect();
        assert_eq!(active, others, "{deaf} does not hear {silent}: {}", world.describe());
        assert!(number(&world, deaf) <= 3, "at most two views, now {}", number(&world, deaf));
        sound(&world);
    }
}

#[test]
fn an_instance_that_flaps_is_held_back_longer_each_time() {
    let mut world = formed(3, Durability::Durable);
    let mut held = Vec::new();
    for _ in 0..3 {
        world.cut_link(1, 2);
        world.run_until(world.now + 2_000 * MS);
        world.cut.clear();
        let healed = world.now;
        while !world.is_whole() {
            world.run_until(world.now + 20 * MS);
            assert!(world.now < healed + 60_000 * MS, "{}", world.describe());
        }
        held.push(world.now - healed);
    }
    assert!(held.windows(2).all(|pair| pair[0] * 3 / 2 < pair[1]), "{held:?}");
    sound(&world);
}

fn active(world: &World) -> Vec<usize> {
    (0..world.nodes.len()).filter(|i| world.nodes[*i].active.is_some()).collect()
}

#[test]
fn an_evicted_member_is_out_for_its_time_which_doubles_and_comes_back_as_a_joiner() {
    // Whoever sees it lag, and whoever it is: the senior as well.
    for (by, of) in [(0, 2), (2, 1), (1, 0)] {
        let mut world = formed(3, Durability::Durable);
        let mut out = Vec::new();
        for _ in 0..2 {
            let before = number(&world, by);
            world.evict(by, of);
            world.run_until(world.now + 1_000 * MS);
            let rest: Vec<usize> = (0..3).filter(|i| *i != of).collect();
            assert_eq!(active(&world), rest, "{}", world.describe());
            let view = world.nodes[by].core.as_ref().and_then(|c| c.view()).expect("a primary").clone();
            assert_eq!(view.number.0, before + 1, "one view");
            let reasons: Vec<String> = view.causes.iter().map(|c| c.reason.to_string()).collect();
            assert_eq!(reasons, ["was evicted: it took nothing for 10s and has 77 bytes to take"]);
            let began = world.now;
            while !world.is_whole() {
                world.run_until(world.now + 20 * MS);
                assert!(world.now < began + 60_000 * MS, "{}", world.describe());
            }
            out.push(world.now - began);
            let joined = |v: &ocf_membership::View| v.joiners().any(|m| m.instance == world.nodes[of].local);
            assert!(world.nodes[by].core.as_ref().and_then(|c| c.view()).is_some_and(joined));
        }
        assert!(out[0] > 500 * MS && out[0] * 3 / 2 < out[1], "{out:?}");
        sound(&world);
    }
}

#[test]
fn nobody_is_evicted_if_those_who_are_left_have_no_quorum() {
    let mut world = formed(2, Durability::Durable);
    let before = number(&world, 0);
    world.evict(0, 1);
    world.evict(1, 0);
    world.run_until(world.now + 5_000 * MS);
    assert_eq!(active(&world), [0, 1]);
    assert_eq!(number(&world, 0), before);
    sound(&world);
}

#[test]
fn two_that_evict_each_other_end_in_one_view_again() {
    let mut world = formed(3, Durability::Durable);
    let before = number(&world, 2);
    world.evict(0, 1);
    world.evict(1, 0);
    world.run_until(world.now + 1_500 * MS);
    assert!(number(&world, 2) > before, "one of them was put out: {}", world.describe());
    world.run_until(world.now + 30_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    sound(&world);
}

#[test]
fn a_paused_sequencer_is_replaced_and_does_not_act_when_it_wakes() {
    for pause in [250, 1_000, 10_000] {
        let mut world = formed(3, Durability::Durable);
        world.pause(0);
        world.run_until(world.now + pause * MS);
        world.resume(0);
        sound(&world);
        world.run_until(world.now + 3_000 * MS);
        assert!(world.is_whole(), "{pause}: {}", world.describe());
        sound(&world);
    }
}

#[test]
fn a_durable_cluster_goes_on_with_its_numbers_after_a_power_cut() {
    let mut world = formed(3, Durability::Durable);
    for i in 0..3 {
        world.stop(i, None);
    }
    for i in 0..2 {
        world.start(i);
    }
    world.run_until(world.now + 3_000 * MS);
    assert_eq!((number(&world, 0), number(&world, 1)), (2, 2), "two of three remember: {}", world.describe());
    sound(&world);
}

/// Whether each former life is over, by the view of node 0: as its cause says it, or named as unproven.
fn over_and_unproven(world: &World) -> (Vec<NodeInstance>, Vec<NodeInstance>) {
    let view = world.nodes[0].core.as_ref().and_then(|core| core.view()).expect("it is in a view");
    let over = view.causes.iter().filter(|c| c.reason.is_proof_of_death()).map(|c| c.instance);
    (over.collect(), view.unproven.clone())
}

#[test]
fn lives_are_over_once_a_later_one_says_that_it_is_alone_on_its_node() {
    for sole in [false, true] {
        let mut world = formed(3, Durability::Durable);
        world.plan.sole = sole;
        let former: Vec<NodeInstance> = world.nodes.iter().map(|n| n.local).collect();
        // One leaves by silence, and comes back after the others have gone on without it.
        world.stop(2, None);
        world.run_until(5_000 * MS);
        let view = world.nodes[0].core.as_ref().and_then(|core| core.view());
        assert!(!view.expect("it is in a view").contains(former[2]));
        world.start(2);
        world.run_until(8_000 * MS);
        assert!(world.is_whole(), "{}", world.describe());
        let (over, unproven) = over_and_unproven(&world);
        let expected = if sole { (vec![former[2]], vec![]) } else { (vec![], vec![former[2]]) };
        assert_eq!((over, unproven), expected, "sole: {sole}");
        // All lose their power: nobody goes on.
        let former: Vec<NodeInstance> = world.nodes.iter().map(|n| n.local).collect();
        (0..3).for_each(|i| world.stop(i, None));
        (0..3).for_each(|i| world.start(i));
        world.run_until(15_000 * MS);
        assert!(world.is_whole(), "{}", world.describe());
        let (over, _) = over_and_unproven(&world);
        assert_eq!(over, if sole { former } else { vec![] }, "sole: {sole}");
        sound(&world);
    }
}

#[test]
fn a_restarted_member_without_memory_cannot_replace_a_living_primary() {
    // {A, B} of {A, B, C}; A restarts and meets C while B lives.
    let mut world = formed(3, Durability::Volatile);
    world.cut_link(0, 2);
    world.cut_link(1, 2);
    world.run_until(world.now + 4_000 * MS);
    assert_eq!((number(&world, 0), number(&world, 1)), (2, 2));
    world.stop(0, None);
    world.cut.clear();
    world.cut_link(0, 1);
    world.cut_link(1, 2);
    world.start(0);
    world.run_until(world.now + 5_000 * MS);
    assert!(world.nodes.iter().all(|n| n.active.is_none()), "{}", world.describe());
    world.cut.clear();
    world.run_until(world.now + 3_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    assert!(number(&world, 0) > 2);
    sound(&world);
}

#[test]
fn a_damaged_record_is_an_error_and_not_an_empty_one() {
    let world = formed(1, Durability::Durable);
    let me = NodeInstance::new(id(0), Incarnation::new(99));
    let mut record = world.nodes[0].disk.clone().expect("written").to_vec();
    let build = |record: &[u8]| {
        Consensus::new(Instant::ZERO, world.config.clone(), me, Some(record), Rng::new(1)).map(|_| ())
    };
    assert_eq!(build(&record), Ok(()));
    let middle = record.len() / 2;
    record[middle] ^= 1;
    assert_eq!(build(&record), Err(NewError::Record(RecordError::Checksum)));
    assert_eq!(build(b""), Err(NewError::Record(RecordError::NotARecord)));
}

#[test]
fn bytes_that_mean_nothing_are_counted_and_change_nothing() {
    let mut world = formed(2, Durability::Durable);
    let now = world.local_time(0);
    let peer = world.nodes[1].local;
    let stranger = NodeInstance::new(id(8), Incarnation::new(1));
    let core = world.nodes[0].core.as_mut().expect("running");
    let before = core.snapshot();
    core.handle(now, Input::Message { from: peer, message: b"\x07nothing" });
    core.handle(now, Input::Message { from: stranger, message: b"" });
    core.handle(now, Input::Up(stranger));
    let told: Vec<(NodeInstance, u8)> = std::iter::from_fn(|| core.poll_output())
        .map(|output| {
            let Output::Send { to, message, .. } = output else { panic!("no more than that") };
            (to, message[0])
        })
        .collect();
    assert_eq!(told, [(stranger, 10), (stranger, 1)], "a stranger is told the levels, and how things are");
    core.check_invariants();
    let after = core.snapshot();
    assert_eq!(
        (after.view, after.promised, after.reachable),
        (before.view, before.promised, before.reachable)
    );
    assert_eq!(after.stats.dropped(ocf_membership::DropReason::Malformed), 1);
    assert_eq!(after.stats.dropped(ocf_membership::DropReason::UnknownNode), 1);
    assert!(before.newest == ViewNumber(1));
}

#[test]
fn a_node_whose_disk_writes_again_is_not_sent_away_for_the_write_that_failed() {
    let mut world = with_policy(5, Durability::Durable, "majority");
    world.run_until(2_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    let before = world.checks.views.len();
    // Nobody hears of it before the next ballot has begun.
    world.cut.extend((0..4).map(|i| (4, i)));
    world.fail_write(4);
    world.stop(3, Some(DownReason::LastGasp));
    world.run_until(world.now + 100 * MS);
    world.cut.clear();
    world.run_until(world.now + 3_000 * MS);
    assert_eq!(world.checks.violation, None);
    assert!([0, 1, 2, 4].iter().all(|i| world.nodes[*i].active.is_some()), "{}", world.describe());
    assert_eq!(world.checks.views.len(), before + 1, "{}", world.describe());
}

fn run_until_it_is(world: &mut World, i: usize, wanted: &str) {
    let end = world.now + 3_000 * MS;
    let state = |world: &World| world.nodes[i].core.as_ref().expect("it runs").snapshot().state;
    while state(world) != wanted {
        assert!(world.now < end, "{}", world.describe());
        world.run_until(world.now + MS / 20);
    }
}

fn cut_off(world: &mut World, i: usize) {
    world.cut.clear();
    world.cut.extend((0..3).filter(|j| *j != i).flat_map(|j| [(i, j), (j, i)]));
}

/// Node 1 holds a proposal that the others went past. Node 3, without node 2, proposes to it what follows, records that alone, and
/// restarts: of what was agreed just a later proposal tells, that was not.
fn one_holds_what_others_went_past(sabotage: Option<Sabotage>) -> World {
    let mut world = cluster(3, Durability::Durable);
    world.plan.sabotage = sabotage;
    world.run_until(2_000 * MS);
    world.stop(2, Some(DownReason::LastGasp));
    world.run_until(world.now + 1_000 * MS);
    world.start(2);
    run_until_it_is(&mut world, 0, "proposing");
    world.cut.extend([(0, 1), (1, 0)]);
    world.run_until(world.now + 3 * MS);
    cut_off(&mut world, 0);
    world.run_until(world.now + 3_000 * MS);
    assert_eq!(
        [0, 1, 2].map(|i| world.nodes[i].active.is_some()),
        [false, true, true],
        "{}",
        world.describe()
    );
    cut_off(&mut world, 1);
    run_until_it_is(&mut world, 0, "accepting");
    world.fail_write(0);
    world.run_until(world.now + 3 * MS);
    world.stop(2, None);
    world.start(2);
    world.run_until(world.now + 8_000 * MS);
    world
}

#[test]
fn what_others_went_past_is_not_completed_though_only_a_refuted_proposal_tells_of_it() {
    let mut world = one_holds_what_others_went_past(None);
    sound(&world);
    assert!(
        world.nodes.iter().all(|n| n.active.is_none()),
        "what node 2 has is waited for: {}",
        world.describe()
    );
    world.cut.clear();
    world.run_until(world.now + 3_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    sound(&world);
}

#[test]
fn completing_what_others_went_past_is_caught() {
    let mut world = one_holds_what_others_went_past(Some(Sabotage::AdoptsOvertaken));
    world.cut.clear();
    world.run_until(world.now + 3_000 * MS);
    let found = world.checks.violation.expect("it is noticed");
    assert!(found.contains("M1") || found.contains("Q2"), "{found}");
}

#[test]
fn one_that_was_held_back_is_let_in_though_members_that_missed_it_have_ended() {
    let mut world = formed(4, Durability::Durable);
    world.cut_link(2, 3);
    world.run_until(world.now + 2_000 * MS);
    assert_eq!([0, 1, 2, 3].map(|i| number(&world, i)), [2, 2, 2, 0], "{}", world.describe());
    world.stop(0, None);
    world.stop(1, None);
    world.cut.clear();
    world.run_until(world.now + 3_000 * MS);
    world.start(0);
    world.start(1);
    world.run_until(world.now + 5_000 * MS);
    assert!(world.is_whole(), "{}", world.describe());
    assert_eq!(number(&world, 2), 3, "by one view: {}", world.describe());
    sound(&world);
}
