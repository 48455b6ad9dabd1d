//! Who is who: restarts, two living nodes with one id, foreign clusters and keys, replayed handshakes. Method: endpoints
//! in virtual time.
#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "a test may fail where it is wrong")]

mod net;

use net::{Faults, MS, Net, address, id};
use ocf_comm::crypto::SimulatedAgreement;
use ocf_comm::{
    Config, DownReason, DropReason, Endpoint, Event, Input, Lane, Output, Preset, Received, Refusal, Secrets,
};
use pils::{Incarnation, Layer as _, NodeInstance};

fn refusals(net: &Net, i: usize) -> Vec<Refusal> {
    let refused =
        |(_, e): &(_, Event)| if let Event::Refused { reason, .. } = e { Some(*reason) } else { None };
    net.nodes[i].events.iter().filter_map(refused).collect()
}

#[test]
fn a_restarted_node_supersedes_its_former_life_quickly_whichever_side_initiates() {
    for restarted in [0, 1] {
        for seed in 0..20 {
            let mut net = Net::connected(seed, 2, 1);
            let other = 1 - restarted;
            assert!(net.send(other, restarted, Lane::Small, 5000));
            let old = net.nodes[restarted].instance;
            net.kill(restarted);
            net.start(restarted);
            assert!(net.run_until(300 * MS, Net::all_up), "seed {seed}");
            assert!(matches!(net.downs(other)[..], [(_, p, DownReason::Superseded)] if p == old));
            assert!(
                net.send(other, restarted, Lane::Small, 10) && net.send(restarted, other, Lane::Small, 10)
            );
            assert!(net.run_until(100 * MS, Net::all_arrived));
        }
    }
}

#[test]
fn a_node_that_comes_back_after_its_silence_was_noticed_connects_at_once() {
    for restarted in [0, 1] {
        let mut net = Net::connected(3, 2, 2);
        net.kill(restarted);
        net.run(5000 * MS);
        net.start(restarted);
        assert!(net.run_until(20 * MS, Net::all_up));
        let reasons: Vec<_> = net.downs(1 - restarted).iter().map(|d| d.2.is_final()).collect();
        assert_eq!(reasons, [false, true], "silent, then superseded");
    }
}

/// Runs a third endpoint with the id and address of node `twin` against the network, beside the living one.
fn run_twin(net: &mut Net, twin: usize, millis: u32) -> Vec<Event> {
    let instance = NodeInstance::new(id(twin), Incarnation::new(0xdead));
    let secrets = Secrets {
        keys: vec![42; 32].into(),
        seed: [99; 32],
        agreement: Box::new(SimulatedAgreement::new(99)),
    };
    let config = net.nodes[twin].config.clone();
    let mut endpoint = Endpoint::new(net.now, config, instance, secrets).unwrap();
    let other = 1 - twin;
    let mut events = Vec::new();
    for _ in 0..millis {
        // What is on its way to the address that both share reaches both.
        for mut data in net.overhear(twin) {
            let segment = data.len();
            let received =
                Received { path: ocf_comm::PathId(0), from: address(other, 0), segment, data: &mut data };
            endpoint.handle(net.now, Input::Received(received));
        }
        endpoint.handle_timeout(net.now);
        while let Some(output) = endpoint.poll_output() {
            match output {
                Output::Event(event) => events.push(event),
                Output::Transmit(t) => {
                    t.data.chunks(t.segment).for_each(|d| net.inject(other, address(twin, 0), d.to_vec()));
                }
                _ => panic!("an unknown output"),
            }
        }
        net.run(MS);
    }
    events
}

#[test]
fn of_two_living_nodes_with_one_id_the_newcomer_is_refused_on_both_sides() {
    for twin in [0, 1] {
        let mut net = Net::connected(4, 2, 1);
        net.faults.delay = (MS * 3 / 2, MS * 3 / 2);
        net.run(100 * MS);
        let events = run_twin(&mut net, twin, 3000);
        let told = |e: &Event| matches!(e, Event::Refused { reason: Refusal::DuplicateNode, .. });
        assert_eq!(
            events.iter().filter(|e| told(e)).count(),
            1,
            "twin {twin}: the newcomer knows: {events:?}"
        );
        assert!(!events.iter().any(|e| matches!(e, Event::Up { .. })));
        assert_eq!(refusals(&net, 1 - twin), [Refusal::DuplicateNode], "twin {twin}: so does its peer");
        assert!(net.downs(0).is_empty() && net.downs(1).is_empty(), "the first life is not disturbed");
        assert!(net.send(0, 1, Lane::Small, 100) && net.send(1, 0, Lane::Small, 100));
        assert!(net.run_until(100 * MS, Net::all_arrived));
    }
}

fn stranger(cluster: &str, key: u8) -> Endpoint {
    let config = Config::new(cluster, Preset::Lan).with_peer(id(0), address(0, 0));
    let instance = NodeInstance::new(id(1), Incarnation::new(5));
    let secrets = Secrets {
        keys: vec![key; 32].into(),
        seed: [5; 32],
        agreement: Box::new(SimulatedAgreement::new(5)),
    };
    Endpoint::new(pils::Instant::from_millis(1_000_000), config, instance, secrets).unwrap()
}

/// What the endpoint of node 1 sends at first.
fn first_words(endpoint: &mut Endpoint) -> Vec<Vec<u8>> {
    endpoint.handle_timeout(pils::Instant::from_millis(1_000_000));
    let mut out = Vec::new();
    while let Some(output) = endpoint.poll_output() {
        if let Output::Transmit(t) = output {
            out.push(t.data);
        }
    }
    out
}

#[test]
fn another_cluster_is_refused_with_a_reason_and_a_foreign_key_is_silence() {
    for (cluster, key, reason) in [
        ("other", 42, DropReason::OtherCluster),
        ("test", 41, DropReason::BadMac),
        ("test", 42, DropReason::Closed),
    ] {
        let mut net = Net::new(5, 2, 1);
        net.start(0);
        net.run(10 * MS);
        for data in first_words(&mut stranger(cluster, key)) {
            for _ in 0..5 {
                net.inject(0, address(1, 0), data.clone());
            }
        }
        net.run(10 * MS);
        let stats = *net.nodes[0].endpoint.as_ref().unwrap().stats();
        if reason == DropReason::Closed {
            assert_eq!(stats.dropped_total(), 0, "the right name and key are welcome");
        } else {
            assert_eq!(stats.dropped(reason), 5);
        }
        let told: &[Refusal] = if cluster == "other" { &[Refusal::OtherCluster] } else { &[] };
        assert_eq!(refusals(&net, 0), told, "told once");
    }
}

#[test]
fn replayed_handshakes_disturb_nothing_that_lives() {
    let mut net = Net::new(6, 2, 1);
    net.start_all();
    let mut recorded = Vec::new();
    for _ in 0..500 {
        for to in 0..2 {
            recorded.extend(net.overhear(to).into_iter().map(|d| (to, d)));
        }
        net.run(MS / 50);
    }
    assert!(net.all_up());
    recorded.sort();
    recorded.dedup();
    let handshakes: Vec<_> = recorded.into_iter().filter(|(_, d)| d[0] >> 4 > 1).collect();
    assert!(handshakes.len() >= 4, "{} handshake datagrams", handshakes.len());
    for life in 0..2 {
        for round in 0..50 {
            for (to, data) in &handshakes {
                net.inject(*to, address(1 - to, 0), data.clone());
            }
            assert!(net.send(0, 1, Lane::Small, 100) && net.send(1, 0, Lane::Urgent, 100));
            net.run(MS * 10);
            assert!(net.all_up() && net.all_arrived(), "life {life}, round {round}");
        }
        assert!(refusals(&net, 0).is_empty() && refusals(&net, 1).is_empty());
        let node = &net.nodes[0];
        let handshakes_sent = node.endpoint.as_ref().unwrap().stats().handshakes_sent;
        assert!(handshakes_sent < 400, "{handshakes_sent} answers to replays");
        if life == 0 {
            net.kill(1);
            net.start(1);
            assert!(net.run_until(1000 * MS, Net::all_up));
        }
    }
}

#[test]
fn nodes_find_each_other_through_heavy_loss() {
    for seed in 0..50 {
        let mut net = Net::new(seed, 2, 1);
        net.faults = Faults { loss: 0.4, duplicate: 0.2, reorder: 0.2, ..Faults::NONE };
        net.start_all();
        assert!(net.run_until(10_000 * MS, Net::all_up), "seed {seed}\n{}", net.report());
    }
}
