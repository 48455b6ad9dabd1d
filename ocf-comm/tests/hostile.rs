//! What somebody without the key can do: replay, splice, truncate, forge, reflect, flood, talk the two ends down. Method:
//! endpoints in virtual time, datagrams recorded on the way and sent again in every wrong manner.
#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "a test may fail where it is wrong")]

mod net;

use net::{Faults, MS, Net, address, key};
use ocf_comm::{
    Cipher, Config, DropReason, Event, Input, Lane, Output, PathId, Protection, Received, Refusal,
};
use pils::{Layer as _, Rng};

fn dropped(net: &Net, i: usize, reason: DropReason) -> u64 {
    net.nodes[i].endpoint.as_ref().unwrap().stats().dropped(reason)
}

/// Gives a node a datagram, from anywhere, and returns the bytes that it sends because of it at once.
fn poke(net: &mut Net, i: usize, from: std::net::SocketAddr, data: &[u8]) -> usize {
    let now = net.now;
    let endpoint = net.nodes[i].endpoint.as_mut().unwrap();
    let mut data = data.to_vec();
    let segment = data.len().max(1);
    let received = Received { path: PathId(0), from, segment, data: &mut data };
    endpoint.handle(now, Input::Received(received));
    let mut sent = 0;
    while let Some(output) = endpoint.poll_output() {
        if let Output::Transmit(t) = output {
            sent += t.data.len();
        }
    }
    sent
}

/// A connected pair on two paths, and sealed packets on their way to node 1.
fn overheard(seed: u64) -> (Net, Vec<Vec<u8>>) {
    let mut net = Net::connected(seed, 3, 2);
    net.run(20 * MS);
    for from in [0, 2] {
        assert!(net.send(from, 1, Lane::Small, 20_000));
    }
    let packets: Vec<Vec<u8>> = net.overhear(1).into_iter().filter(|d| d[0] >> 4 == 1).collect();
    let circuits: std::collections::BTreeSet<&[u8]> = packets.iter().map(|p| &p[4..8]).collect();
    assert!(packets.len() >= 4 && circuits.len() == 2, "{} packets of two circuits", packets.len());
    (net, packets)
}

#[test]
fn a_packet_counts_only_on_its_own_path_and_circuit_and_under_its_own_key() {
    let (mut net, packets) = overheard(1);
    let ids: Vec<[u8; 4]> = packets.iter().map(|p| p[4..8].try_into().unwrap()).collect();
    let other = |id: &[u8; 4]| *ids.iter().find(|i| *i != id).unwrap();
    let before = net.nodes[1].endpoint.as_ref().unwrap().stats().dropped_total();
    let mut expected = 0;
    for (packet, id) in packets.iter().zip(&ids) {
        let mut path = packet.clone();
        path[2] ^= 1;
        let mut circuit = packet.clone();
        circuit[4..8].copy_from_slice(&other(id));
        let (mut phase, mut generation) = (packet.clone(), packet.clone());
        phase[1] = phase[1].wrapping_add(1);
        generation[3] = generation[3].wrapping_add(1);
        for spliced in [path, circuit, phase, generation] {
            assert_eq!(poke(&mut net, 1, address(0, 0), &spliced), 0, "nothing is answered");
            expected += 1;
        }
    }
    // By its seal, or because the other path has seen the number already.
    let after = net.nodes[1].endpoint.as_ref().unwrap().stats().dropped_total();
    assert_eq!(after - before, expected);
    assert!(dropped(&net, 1, DropReason::BadSeal) * 2 > expected);
    assert!(net.run_until(500 * MS, Net::all_arrived), "what was spliced still arrives as it was sent");
}

#[test]
fn what_a_node_sent_comes_back_to_it_for_nothing() {
    let mut net = Net::new(2, 2, 1);
    net.start_all();
    let mut own = Vec::new();
    for _ in 0..400 {
        own.extend(net.overhear(1));
        net.run(MS / 40);
    }
    assert!(net.all_up() && own.len() > 5);
    let accepted = net.nodes[0].endpoint.as_ref().unwrap().stats().packets_accepted;
    let mut answered = 0;
    for datagram in &own {
        answered += poke(&mut net, 0, address(1, 0), datagram);
    }
    let stats = *net.nodes[0].endpoint.as_ref().unwrap().stats();
    assert_eq!((answered, stats.packets_accepted), (0, accepted));
    assert_eq!(stats.dropped_total(), own.len() as u64);
}

#[test]
fn every_truncation_and_every_altered_bit_of_the_header_is_dropped_in_silence() {
    let (mut net, packets) = overheard(3);
    let packet = &packets[0];
    let before = net.nodes[1].endpoint.as_ref().unwrap().stats().dropped_total();
    let mut count = 0;
    for length in 0..packet.len() {
        assert_eq!(poke(&mut net, 1, address(0, 0), &packet[..length]), 0);
        count += 1;
    }
    for bit in 0..16 * 8 {
        let mut altered = packet.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(poke(&mut net, 1, address(0, 0), &altered), 0);
        count += 1;
    }
    // A datagram of no bytes is none.
    let after = net.nodes[1].endpoint.as_ref().unwrap().stats().dropped_total();
    assert_eq!(after - before, count - 1);
    assert!(net.run_until(500 * MS, Net::all_arrived));
}

#[test]
fn a_replayed_request_from_anywhere_gets_less_than_it_cost_and_takes_no_memory() {
    let mut net = Net::new(4, 2, 1);
    net.start_all();
    let mut handshakes = Vec::new();
    for _ in 0..400 {
        for to in 0..2 {
            handshakes.extend(net.overhear(to).into_iter().filter(|d| d[0] >> 4 > 1).map(|d| (to, d)));
        }
        net.run(MS / 40);
    }
    assert!(net.all_up());
    handshakes.sort();
    handshakes.dedup();
    let mut rng = Rng::new(4);
    let (mut given, mut gained) = (0, 0);
    for round in 0..5000 {
        let (to, data) = rng.pick(&handshakes).unwrap().clone();
        let victim = std::net::SocketAddr::from(([203, 0, 113, 7], 1000 + round));
        given += data.len();
        gained += poke(&mut net, to, victim, &data);
        net.nodes[to].endpoint.as_ref().unwrap().check_invariants();
        if round % 500 == 0 {
            net.run(MS);
        }
    }
    assert!(gained * 2 < given, "{gained} bytes for {given}: no amplifier");
    assert!(net.send(0, 1, Lane::Small, 100) && net.run_until(200 * MS, Net::all_arrived));
    assert!(net.downs(0).is_empty() && net.downs(1).is_empty(), "nobody was disturbed");
}

#[test]
fn a_flood_of_every_kind_leaves_the_nodes_at_work() {
    let (mut net, packets) = overheard(5);
    net.faults = Faults::NONE;
    let mut rng = Rng::new(5);
    for round in 0..20_000_u64 {
        let mut data = rng.pick(&packets).unwrap().clone();
        match round % 5 {
            0 => rng.fill(&mut data),
            1 => rng.fill(&mut data[16..]),
            2 => rng.fill(&mut data[8..16]),
            3 => data[0] = 0x20 + u8::try_from(round % 6).unwrap() * 16 + 1,
            _ => {}
        }
        poke(&mut net, 1, address(0, 0), &data);
        if round % 1000 == 0 {
            assert!(net.send(0, 1, Lane::Urgent, 100) && net.send(1, 2, Lane::Small, 100));
            net.run(5 * MS);
            net.nodes[1].endpoint.as_ref().unwrap().check_invariants();
        }
    }
    assert!(net.run_until(500 * MS, Net::all_arrived));
    assert!((0..3).all(|i| net.downs(i).is_empty()), "nobody was suspected");
    for reason in [DropReason::BadSeal, DropReason::Replayed, DropReason::BadMac] {
        assert!(dropped(&net, 1, reason) > 100, "{reason}: {}", dropped(&net, 1, reason));
    }
}

fn refusals(net: &Net, i: usize) -> Vec<Refusal> {
    let refused = |(_, e): &(_, Event)| {
        if let Event::Refused { reason, .. } = e { Some(*reason) } else { None }
    };
    net.nodes[i].events.iter().filter_map(refused).collect()
}

#[test]
fn ends_that_ask_for_different_protection_never_meet_and_both_are_told() {
    type Change = fn(&mut Config);
    let plain: Change = |c| c.protection = Protection::Plain;
    let integrity: Change = |c| c.protection = Protection::Integrity;
    let chacha: Change = |c| c.cipher = Cipher::ChaCha20Poly1305;
    let aes: Change = |c| c.cipher = Cipher::Aes256Gcm;
    let default: Change = |_| {};
    for (a, b) in
        [(plain, default), (default, plain), (integrity, default), (plain, integrity), (aes, chacha)]
    {
        let mut net = Net::new(6, 2, 1);
        a(&mut net.nodes[0].config);
        b(&mut net.nodes[1].config);
        net.start_all();
        assert!(!net.run_until(3000 * MS, |n| !n.nodes[0].up.is_empty() || !n.nodes[1].up.is_empty()));
        for i in 0..2 {
            assert_eq!(refusals(&net, i), [Refusal::NoCommonProtection], "node {i} is told, once");
        }
    }
}

#[test]
fn nobody_on_the_way_can_change_what_is_offered_chosen_or_which_key_and_version_is_spoken() {
    let mut net = Net::new(7, 2, 1);
    net.nodes[0].keys.push(key(1));
    net.nodes[1].keys.push(key(1));
    net.start_all();
    let mut seen = Vec::new();
    for _ in 0..400 {
        for to in 0..2 {
            seen.extend(net.overhear(to).into_iter().filter(|d| d[0] >> 4 > 1).map(|d| (to, d)));
        }
        net.run(MS / 40);
    }
    seen.sort();
    seen.dedup();
    for (to, datagram) in seen {
        let before = dropped(&net, to, DropReason::BadMac) + dropped(&net, to, DropReason::UnknownKey);
        let mut altered_count = 0;
        for at in 0..datagram.len() {
            let mut altered = datagram.clone();
            // Where the kind is, another kind; where the key is, one that is known, too.
            altered[at] ^= 1;
            assert_eq!(poke(&mut net, to, address(1 - to, 0), &altered), 0, "byte {at}");
            altered_count += 1;
        }
        let after = dropped(&net, to, DropReason::BadMac) + dropped(&net, to, DropReason::UnknownKey);
        assert_eq!(after - before, altered_count);
    }
}
