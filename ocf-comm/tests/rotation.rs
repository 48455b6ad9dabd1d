//! The cluster's key changes while circuits stay open: learn, use, forget. Method: endpoints in virtual time under load and
//! faults; the harness checks at every step that nothing is lost, doubled or swapped and no nonce comes twice.
#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "a test may fail where it is wrong")]

mod net;

use core::time::Duration;
use net::{Faults, MS, Net, id, key};
use ocf_comm::{ClusterKey, DownReason, DropReason, Endpoint, Event, KeyError, KeyId, Lane, Refusal};
use pils::Rng;

fn endpoint(net: &mut Net, i: usize) -> &mut Endpoint {
    net.nodes[i].endpoint.as_mut().unwrap()
}

fn learn(net: &mut Net, i: usize, key: ClusterKey) -> Result<(), KeyError> {
    let now = net.now;
    let result = endpoint(net, i).learn_key(now, key);
    net.drain(i);
    result
}

fn send_with(net: &mut Net, i: usize, key: u8) -> Result<(), KeyError> {
    let now = net.now;
    let result = endpoint(net, i).use_key(now, KeyId(key));
    net.drain(i);
    result
}

fn forget(net: &mut Net, i: usize, key: u8) -> Result<(), KeyError> {
    let now = net.now;
    let result = endpoint(net, i).forget_key(now, KeyId(key));
    net.drain(i);
    result
}

/// True if every circuit of every living node rests on this key and no other.
fn all_rest_on(net: &Net, key: u8) -> bool {
    net.nodes
        .iter()
        .filter_map(|n| n.endpoint.as_ref())
        .all(|e| e.keys().iter().all(|status| status.peers.is_empty() != (status.id == KeyId(key))))
}

fn refusals(net: &Net, i: usize) -> Vec<Refusal> {
    let refused =
        |(_, e): &(_, Event)| if let Event::Refused { reason, .. } = e { Some(*reason) } else { None };
    net.nodes[i].events.iter().filter_map(refused).collect()
}

/// Sends among all for a time, now and then.
fn traffic(net: &mut Net, millis: u32) {
    for _ in 0..millis {
        for (a, b) in [(0, 1), (1, 0), (1, 2), (2, 0)] {
            if a < net.nodes.len() && b < net.nodes.len() {
                net.send(a, b, Lane::Small, 700);
                net.send(a, b, Lane::Urgent, 60);
            }
        }
        net.run(MS);
    }
}

#[test]
fn a_key_is_replaced_in_three_steps_under_load_and_faults_and_nothing_is_lost() {
    for seed in 0..8 {
        let mut net = Net::connected(seed, 3, 2);
        net.faults = Faults { loss: 0.05, reorder: 0.2, duplicate: 0.05, corrupt: 0.02, ..Faults::NONE };
        for i in 0..3 {
            learn(&mut net, i, key(1)).unwrap();
            traffic(&mut net, 10);
        }
        for i in 0..3 {
            assert_eq!(
                forget(&mut net, i, 0),
                Err(KeyError::InUse { id: KeyId(0) }),
                "one step was left out"
            );
            send_with(&mut net, i, 1).unwrap();
            traffic(&mut net, 10);
        }
        traffic(&mut net, 100);
        assert!(net.run_until(2000 * MS, |n| all_rest_on(n, 1)), "seed {seed}\n{}", net.report());
        for i in 0..3 {
            forget(&mut net, i, 0).unwrap();
            traffic(&mut net, 10);
        }
        assert!(net.run_until(1000 * MS, Net::all_arrived), "seed {seed}");
        for i in 0..3 {
            assert!(net.downs(i).is_empty(), "seed {seed}: no circuit broke: {:?}", net.downs(i));
            let told = net.nodes[i].events.iter().filter(|(_, e)| matches!(e, Event::Renewed { .. })).count();
            assert_eq!(told, 2, "seed {seed}: one word for each peer");
        }
    }
}

/// Nodes learn and use keys in any order, cross each other, lose packets, restart; in the end one key is used by all.
fn any_order(seed: u64) {
    let mut rng = Rng::new(seed);
    let nodes = if rng.chance(0.6) { 2 } else { 3 };
    let paths = if rng.chance(0.7) { 1 } else { 2 };
    let rekey = if rng.chance(0.5) { Some(rng.between(16, 100)) } else { None };
    let mut net = Net::with(seed, nodes, paths, |c| c.rekey_after_packets = rekey);
    net.faults = Faults::swarm(&mut rng);
    net.patience = if rng.chance(0.5) { 0 } else { u32::try_from(rng.between(1, 60)).unwrap() };
    net.start_all();
    net.run(200 * MS);
    let pick = |rng: &mut Rng| usize::try_from(rng.below(nodes as u64)).unwrap();
    for _ in 0..rng.between(10, 60) {
        let i = pick(&mut rng);
        let k = u8::try_from(rng.below(4)).unwrap();
        // What is refused must change nothing, and is as welcome here as what is done.
        let _refused = match rng.below(6) {
            0 | 1 => learn(&mut net, i, key(k)),
            2 | 3 => send_with(&mut net, i, k),
            4 => forget(&mut net, i, k),
            _ => Ok(()),
        };
        let k = pick(&mut rng);
        match rng.below(30) {
            0 if i != k => net.cut_both(i, k, 0),
            1 => net.cut.clear(),
            2 => net.pause(i, rng.duration(MS, 800 * MS)),
            _ => {}
        }
        traffic(&mut net, u32::try_from(rng.below(20)).unwrap());
    }
    net.cut.clear();
    net.faults = Faults::NONE;
    for i in 0..nodes {
        net.nodes[i].paused_until = net.now;
        for k in 0..4 {
            learn(&mut net, i, key(k)).unwrap();
        }
    }
    assert!(net.run_until(5000 * MS, Net::all_up), "seed {seed}\n{}", net.report());
    for i in 0..nodes {
        send_with(&mut net, i, 3).unwrap();
    }
    let settled = net.run_until(4000 * MS, |n| all_rest_on(n, 3) && n.all_arrived());
    assert!(settled, "seed {seed}\n{}", net.report());
    traffic(&mut net, 20);
    for i in 0..nodes {
        for k in 0..3 {
            assert_eq!(forget(&mut net, i, k), Ok(()), "seed {seed}");
        }
        assert!(net.downs(i).iter().all(|d| !d.2.is_final()), "seed {seed}: {:?}", net.downs(i));
        net.nodes[i].endpoint.as_ref().unwrap().check_invariants();
    }
    assert!(net.run_until(1000 * MS, |n| n.all_arrived() && n.all_up()), "seed {seed}\n{}", net.report());
}

#[test]
fn messages_pass_on_while_fresh_secrets_take_their_time_and_nothing_is_asked_twice() {
    let mut net = Net::with(5, 2, 1, |_| {});
    net.patience = 200; // each end, at one question per millisecond
    net.start_all();
    assert!(net.run_until(2000 * MS, Net::all_up));
    for i in 0..2 {
        learn(&mut net, i, key(1)).unwrap();
    }
    // Both ends offer: that of the circuit's initiator counts.
    for i in 0..2 {
        send_with(&mut net, i, 1).unwrap();
    }
    let mut early = 0;
    while !all_rest_on(&net, 1) {
        assert!(early < 1000, "it ends\n{}", net.report());
        traffic(&mut net, 10);
        assert!(net.run_until(10 * MS, Net::all_arrived), "nothing waits for a secret");
        early += 10;
    }
    assert!(early >= 300, "one secret after the other takes its time: {early} ms");
    for i in 0..2 {
        let told = net.nodes[i].events.iter().filter(|(_, e)| matches!(e, Event::Renewed { .. })).count();
        assert_eq!(told, 1, "one agreement, although the offer was repeated meanwhile");
        forget(&mut net, i, 0).unwrap();
        assert!(net.downs(i).is_empty());
    }
    traffic(&mut net, 20);
    assert!(net.run_until(1000 * MS, Net::all_arrived));
}

#[test]
fn whatever_the_order_of_steps_no_circuit_breaks_and_all_end_on_the_last_key() {
    for seed in 0..40 {
        any_order(seed);
    }
}

#[test]
#[ignore = "thousands of seeds: a minute"]
fn whatever_the_order_of_steps_over_many_seeds() {
    for seed in 1000..3000 {
        any_order(seed);
    }
}

#[test]
fn a_peer_that_does_not_know_the_key_stays_on_the_old_one_is_named_and_follows_once_it_learned() {
    let mut net = Net::connected(1, 2, 1);
    learn(&mut net, 0, key(1)).unwrap();
    send_with(&mut net, 0, 1).unwrap();
    traffic(&mut net, 3500);
    assert_eq!(refusals(&net, 0), [Refusal::KeyNotKnown { key: KeyId(1) }], "told once, not each second");
    assert!(all_rest_on_but(&net, 0), "the circuit stays under the old key");
    let still = KeyError::StillNeeded { id: KeyId(0), peers: vec![id(1)] };
    assert_eq!(forget(&mut net, 0, 0), Err(still), "forgetting would cut the peer off");
    learn(&mut net, 1, key(1)).unwrap();
    assert!(net.run_until(1100 * MS, all_rest_on_new), "{}", net.report());
    assert_eq!(forget(&mut net, 0, 0), Ok(()));
    assert_eq!(forget(&mut net, 1, 0), Err(KeyError::InUse { id: KeyId(0) }), "it sends with it still");
    traffic(&mut net, 100);
    assert!(net.run_until(100 * MS, Net::all_arrived) && net.downs(0).is_empty() && net.downs(1).is_empty());
}

fn all_rest_on_but(net: &Net, key: u8) -> bool {
    net.nodes[1].endpoint.as_ref().unwrap().keys().iter().all(|s| s.id == KeyId(key) && s.peers == [id(0)])
}

fn all_rest_on_new(net: &Net) -> bool {
    let moved = |i: usize, peer: usize| {
        let keys = net.nodes[i].endpoint.as_ref().unwrap().keys();
        keys.iter().any(|s| s.id == KeyId(1) && s.peers == [id(peer)])
            && keys.iter().any(|s| s.id == KeyId(0) && s.peers.is_empty())
    };
    moved(0, 1) && moved(1, 0)
}

#[test]
fn two_secrets_under_one_id_are_found_out_before_anything_is_sealed_with_them() {
    let mut net = Net::connected(2, 2, 1);
    learn(&mut net, 0, key(1)).unwrap();
    learn(&mut net, 1, ClusterKey::new(KeyId(1), [99; 32])).unwrap();
    for i in 0..2 {
        send_with(&mut net, i, 1).unwrap();
    }
    traffic(&mut net, 3000);
    assert!(net.downs(0).is_empty() && net.downs(1).is_empty() && net.run_until(100 * MS, Net::all_arrived));
    for i in 0..2 {
        let differs = Refusal::KeyDiffers { key: KeyId(1) };
        assert!(refusals(&net, i).iter().all(|r| *r == differs), "{:?}", refusals(&net, i));
        assert_eq!(endpoint(&mut net, i).stats().dropped(DropReason::BadSeal), 0);
    }
    assert!(!refusals(&net, 0).is_empty());
    // The way out: another id.
    for i in 0..2 {
        learn(&mut net, i, key(2)).unwrap();
    }
    for i in 0..2 {
        send_with(&mut net, i, 2).unwrap();
    }
    assert!(net.run_until(3000 * MS, |n| all_rest_on(n, 2)), "{}", net.report());
}

#[test]
fn after_the_old_key_is_forgotten_nobody_comes_in_with_it_and_a_late_node_came_in_before() {
    for late in [0, 1] {
        let mut net = Net::connected(3, 2, 1);
        net.kill(late);
        let there = 1 - late;
        learn(&mut net, there, key(1)).unwrap();
        send_with(&mut net, there, 1).unwrap();
        net.run(2000 * MS);
        net.start(late);
        assert!(net.run_until(500 * MS, Net::all_up), "it has the old key only, which is still accepted");
        learn(&mut net, late, key(1)).unwrap();
        send_with(&mut net, late, 1).unwrap();
        assert!(net.run_until(1500 * MS, |n| all_rest_on(n, 1)), "late {late}\n{}", net.report());
        forget(&mut net, there, 0).unwrap();
        net.kill(late);
        net.start(late);
        assert!(!net.run_until(3000 * MS, Net::all_up), "the old key is worth nothing any more");
        assert!(endpoint(&mut net, there).stats().dropped(DropReason::UnknownKey) > 0);
        net.kill(late);
        net.nodes[late].keys = vec![key(1)];
        net.start(late);
        assert!(net.run_until(1500 * MS, Net::all_up), "with the new key it is welcome");
    }
}

#[test]
fn a_revoked_key_takes_its_circuits_with_it_and_no_others() {
    let mut net = Net::connected(4, 3, 1);
    for i in 0..3 {
        learn(&mut net, i, key(1)).unwrap();
    }
    for i in 0..2 {
        send_with(&mut net, i, 1).unwrap();
    }
    net.run(500 * MS);
    net.kill(2);
    net.run(50 * MS);
    let now = net.now;
    // Node 2 moved, too: its peers led it. Start it again with the old key only.
    net.nodes[2].keys = vec![key(0)];
    net.start(2);
    assert!(net.run_until(2000 * MS, Net::all_up));
    assert!(now < net.now);
    let late = net.nodes[2].instance;
    let now = net.now;
    assert_eq!(endpoint(&mut net, 0).revoke_key(now, KeyId(1)), Err(KeyError::InUse { id: KeyId(1) }));
    assert_eq!(endpoint(&mut net, 0).revoke_key(now, KeyId(0)), Ok(vec![late]));
    net.drain(0);
    assert_eq!(net.downs(0).last().unwrap().2, DownReason::KeyRevoked);
    assert!(net.send(0, 1, Lane::Small, 100), "the others are not concerned");
    net.run(5000 * MS);
    assert!(!net.nodes[0].up.contains(&late), "and it does not come back with it");
}

#[test]
fn fresh_secrets_come_by_time_even_when_little_is_sent() {
    let mut net = Net::with(5, 2, 1, |c| c.rekey_after_time = Duration::from_millis(500));
    net.start_all();
    assert!(net.run_until(1000 * MS, Net::all_up));
    net.run(10_000 * MS);
    let rekeys = endpoint(&mut net, 0).stats().rekeys;
    assert!((30..=42).contains(&rekeys), "about one each half second and direction: {rekeys}");
    assert!(net.send(0, 1, Lane::Small, 100) && net.run_until(10 * MS, Net::all_arrived));
}

#[test]
fn an_answer_to_an_offer_that_gave_way_to_a_declined_one_keeps_no_key_in_use() {
    let mut net = Net::connected(7, 2, 1);
    for i in 0..2 {
        learn(&mut net, i, key(1)).unwrap();
    }
    learn(&mut net, 0, key(2)).unwrap();
    // The answer to the first offer is lost.
    net.cut.insert((1, 0, 0));
    send_with(&mut net, 0, 1).unwrap();
    net.run(5 * MS);
    let in_use = |net: &Net, k| {
        let keys = net.nodes[1].endpoint.as_ref().unwrap().keys();
        keys.iter().any(|status| status.id == KeyId(k) && !status.peers.is_empty())
    };
    assert!(in_use(&net, 1), "it was answered");
    send_with(&mut net, 0, 2).unwrap();
    net.run(5 * MS);
    net.cut.clear();
    let declined = |net: &Net| refusals(net, 0).contains(&Refusal::KeyNotKnown { key: KeyId(2) });
    assert!(net.run_until(1000 * MS, declined), "{}", net.report());
    // Back to the key in use: nothing is left to agree upon.
    send_with(&mut net, 0, 0).unwrap();
    assert!(net.run_until(2000 * MS, |net| !in_use(net, 1)), "{}", net.report());
    forget(&mut net, 1, 1).unwrap();
    traffic(&mut net, 20);
    assert!(net.run_until(1000 * MS, Net::all_arrived));
}
