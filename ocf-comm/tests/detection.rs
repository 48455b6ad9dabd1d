//! The failure detector keeps F1 to F4: the dead are suspected in time, the living are not, obituaries need the key of
//! the incarnation, and a node that stalled blames itself. Method: endpoints in virtual time.
#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "a test may fail where it is wrong")]

mod net;

use core::time::Duration;
use net::{Faults, MS, Net};
use ocf_comm::{DownReason, Event, Input, Lane, PathId};
use pils::{Layer as _, Rng};

#[test]
fn a_dead_node_is_suspected_by_all_within_a_quarter_more_than_the_detection_time() {
    for seed in 0..30 {
        let mut net = Net::connected(seed, 3, 1 + u8::try_from(seed % 2).unwrap());
        let calm = net.rng.duration(500 * MS, 2000 * MS);
        net.run(calm);
        let dead = net.nodes[2].instance;
        let at = net.now;
        net.kill(2);
        net.run(2000 * MS);
        for i in 0..2 {
            let downs = net.downs(i);
            let [(when, peer, DownReason::Silent { for_ })] = downs[..] else { panic!("{downs:?}") };
            assert_eq!(peer, dead);
            assert!(
                when.since(at) <= 625 * MS && for_ >= 500 * MS,
                "seed {seed}: after {:?}",
                when.since(at)
            );
        }
    }
}

#[test]
fn nobody_is_suspected_while_packets_arrive_even_if_a_fifth_is_lost() {
    for seed in 0..10 {
        let mut net = Net::connected(seed, 3, 1);
        let mut rng = Rng::new(seed);
        net.faults = Faults { loss: rng.unit() * 0.2, reorder: 0.1, duplicate: 0.1, ..Faults::NONE };
        net.faults.delay = (MS / 10, MS * 5);
        net.run(30_000 * MS);
        assert!((0..3).all(|i| net.downs(i).is_empty()), "seed {seed}");
    }
}

#[test]
fn an_idle_pair_sends_about_two_packets_per_heartbeat() {
    let mut net = Net::connected(4, 2, 1);
    net.run(1000 * MS);
    let before = net.datagrams;
    net.run(10_000 * MS);
    let per_heartbeat = (net.datagrams - before) / 100;
    assert!((1..=4).contains(&per_heartbeat), "{per_heartbeat} datagrams per heartbeat");
}

#[test]
fn a_node_that_stalled_suspects_nobody_and_says_so() {
    for seed in 0..30 {
        let mut net = Net::connected(seed, 3, 1);
        net.run(1000 * MS);
        let pause = net.rng.duration(300 * MS, 8000 * MS);
        net.pause(0, pause);
        net.run(pause + 3000 * MS);
        assert!(net.downs(0).is_empty(), "seed {seed}: the others were fine all the time");
        let stalled = |(_, e): &(_, Event)| matches!(e, Event::Stalled { late } if *late + 110 * MS >= pause);
        assert!(net.nodes[0].events.iter().any(stalled), "seed {seed}");
        assert!(net.all_up(), "the others hear it again");
    }
}

#[test]
fn after_an_own_stall_the_dead_are_still_found() {
    let mut net = Net::connected(6, 2, 1);
    net.run(1000 * MS);
    net.pause(0, 3000 * MS);
    net.kill(1);
    net.run(3000 * MS);
    assert!(net.downs(0).is_empty());
    net.run(1500 * MS);
    assert_eq!(net.downs(0).len(), 1);
}

#[test]
fn a_paused_node_is_suspected_and_comes_up_again_as_the_same_incarnation() {
    let mut net = Net::connected(7, 2, 1);
    let paused = net.nodes[1].instance;
    for _ in 0..50 {
        assert!(net.send(0, 1, Lane::Small, 2000));
    }
    net.pause(1, 5000 * MS);
    net.run(4000 * MS);
    assert!(matches!(net.downs(0)[..], [(_, p, DownReason::Silent { .. })] if p == paused));
    net.run(1500 * MS);
    assert!(net.nodes[0].up.contains(&paused) && net.all_arrived());
}

#[test]
fn leaving_is_known_at_once_and_final_and_what_was_queued_goes_out_first() {
    for (paths, gasp) in [(1, false), (2, false), (1, true)] {
        let mut net = Net::connected(8, 3, paths);
        net.run(50 * MS);
        let (now, leaver) = (net.now, net.nodes[2].instance);
        assert!(net.send(2, 0, Lane::Small, 100));
        let endpoint = net.nodes[2].endpoint.as_mut().unwrap();
        if gasp {
            endpoint.last_gasp(now);
        } else {
            endpoint.leave(now);
        }
        net.drain(2);
        assert!(net.nodes[2].endpoint.as_ref().unwrap().peers(now).iter().all(|p| !p.up));
        let reason = if gasp { DownReason::LastGasp } else { DownReason::Left };
        net.run(MS);
        for i in 0..2 {
            assert!(
                matches!(net.downs(i)[..], [(_, p, r)] if p == leaver && r == reason && r.is_proof_of_death())
            );
        }
        assert_eq!(net.progress(2, 0, Lane::Small), (1, 1));
        net.run(3000 * MS);
        assert_eq!(net.downs(0).len(), 1);
    }
}

#[test]
fn leaving_is_heard_although_half_of_the_packets_are_lost() {
    let mut heard = 0;
    for seed in 0..100 {
        let mut net = Net::connected(seed, 2, 1);
        net.faults = Faults::loss(0.5);
        let now = net.now;
        net.nodes[1].endpoint.as_mut().unwrap().leave(now);
        net.drain(1);
        net.kill(1);
        net.run(2000 * MS);
        heard += u32::from(net.downs(0).iter().any(|(_, _, r)| *r == DownReason::Left));
    }
    assert!(heard > 75, "{heard} of 100, 87 expected");
}

#[test]
fn an_obituary_of_an_earlier_life_says_nothing_about_this_one() {
    let mut net = Net::connected(9, 2, 1);
    let now = net.now;
    net.nodes[1].endpoint.as_mut().unwrap().leave(now);
    net.drain(1);
    let obituaries = net.overhear(0);
    assert!(obituaries.len() >= 3);
    net.run(MS);
    net.start(1);
    assert!(net.run_until(2000 * MS, Net::all_up));
    for obituary in obituaries {
        net.inject(0, net::address(1, 0), obituary);
    }
    net.run(Duration::from_secs(1));
    assert!(net.all_up());
}

/// The network says that nobody receives at the first address of node 1.
fn hint(net: &mut Net) {
    let now = net.now;
    let to = net::address(1, 0);
    let unreachable = Input::Unreachable { path: PathId(0), to };
    net.nodes[0].endpoint.as_mut().unwrap().handle(now, unreachable);
    net.drain(0);
}

#[test]
fn a_dead_process_whose_machine_says_so_is_suspected_in_a_tenth_of_the_detection_time() {
    for seed in 0..20 {
        let mut net = Net::connected(seed, 2, 1);
        net.run(500 * MS);
        let (at, dead) = (net.now, net.nodes[1].instance);
        net.kill(1);
        for _ in 0..80 {
            hint(&mut net);
            net.run(MS);
        }
        let downs = net.downs(0);
        let [(when, peer, DownReason::Unreachable { .. })] = downs[..] else { panic!("{downs:?}") };
        assert!(
            peer == dead && when.since(at) >= 50 * MS && when.since(at) <= 55 * MS,
            "{:?}",
            when.since(at)
        );
        assert!(!downs[0].2.is_proof_of_death() && !downs[0].2.is_final());
    }
}

#[test]
fn forged_hints_about_a_living_peer_do_nothing_but_cost_a_few_probes() {
    let mut net = Net::connected(3, 2, 2);
    net.faults = Faults { loss: 0.05, ..Faults::NONE };
    net.run(500 * MS);
    let before = net.datagrams;
    for _ in 0..5000 {
        hint(&mut net);
        net.run(MS);
    }
    assert!(net.downs(0).is_empty());
    let each = (net.datagrams - before) / 50;
    assert!(each <= 20, "{each} datagrams per heartbeat");
}

#[test]
fn a_single_hint_is_not_enough() {
    let mut net = Net::connected(4, 2, 1);
    net.run(500 * MS);
    net.kill(1);
    hint(&mut net);
    net.run(300 * MS);
    assert!(net.downs(0).is_empty());
    net.run(400 * MS);
    assert!(matches!(net.downs(0)[..], [(_, _, DownReason::Silent { .. })]));
}

#[test]
fn health_falls_with_silence_and_with_each_path_that_fails() {
    let mut net = Net::connected(5, 2, 2);
    net.run(1000 * MS);
    let look = |net: &Net| net.nodes[0].endpoint.as_ref().unwrap().peers(net.now)[0].clone();
    assert_eq!(look(&net).health, 100);
    net.cut_both(0, 1, 0);
    net.run(1000 * MS);
    assert!((70..=75).contains(&look(&net).health), "one of two paths: {:?}", look(&net));
    net.cut_both(0, 1, 1);
    net.run(400 * MS);
    let peer = look(&net);
    assert!(peer.up && peer.health < 40 && peer.phi_hundredths > 500, "{peer:?}");
    net.run(1000 * MS);
    assert_eq!((look(&net).up, look(&net).health), (false, 0));
}
