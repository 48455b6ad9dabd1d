//! Messages of the bulk lane travel encoded where both ends want it, and memory keeps its bound however far they unfold.
//! Method: endpoints in virtual time.
#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "a test may fail where it is wrong")]

mod net;

use net::{Faults, MS, Net};
use ocf_comm::{Lane, Protection};

/// The wire bytes that 40 messages of 100,000 equal bytes cost, and that they arrive.
fn cost(seed: u64, codecs: [&str; 2], lane: Lane) -> u64 {
    let mut net = Net::new(seed, 2, 1);
    for (node, codec) in net.nodes.iter_mut().zip(codecs) {
        node.config.codec = codec.to_owned();
    }
    net.faults = Faults { loss: 0.02, reorder: 0.1, ..Faults::NONE };
    net.start_all();
    assert!(net.run_until(2000 * MS, Net::all_up));
    let before = net.nodes[0].endpoint.as_ref().unwrap().stats().packets_sent;
    for _ in 0..40 {
        assert!(net.send(0, 1, lane, 100_000));
        assert!(net.send(1, 0, lane, 30));
    }
    assert!(net.run_until(5000 * MS, Net::all_arrived), "{}", net.report());
    net.nodes[0].endpoint.as_ref().unwrap().stats().packets_sent - before
}

#[test]
fn encoded_messages_arrive_and_cost_less_where_both_ends_want_it() {
    let plain = cost(1, ["none", "none"], Lane::Bulk);
    let encoded = cost(1, ["lz4", "lz4"], Lane::Bulk);
    assert!(encoded * 20 < plain, "{encoded} packets instead of {plain}");
    for codecs in [["lz4", "none"], ["none", "lz4"]] {
        let cost = cost(1, codecs, Lane::Bulk);
        assert!(cost * 2 > plain, "one end does not want it: {cost} packets");
    }
    let small = cost(1, ["lz4", "lz4"], Lane::Small);
    assert!(small * 2 > plain, "other lanes are left alone: {small} packets");
}

#[test]
fn messages_that_unfold_wait_until_there_is_memory_for_them() {
    let mut net = Net::with(2, 2, 1, |c| {
        c.codec = "lz4".to_owned();
        c.bulk.receive_window = 1 << 20;
        c.bulk.send_queue = 4 << 20;
    });
    net.start_all();
    assert!(net.run_until(2000 * MS, Net::all_up));
    net.nodes[1].consume = false;
    // 120 MB of content in 0.5 MB on the wire.
    for _ in 0..120 {
        assert!(net.send(0, 1, Lane::Bulk, 1_000_000));
        net.run(MS);
    }
    net.run(2000 * MS);
    let held: usize = net.nodes[1].unconsumed.iter().map(|(_, _, n)| n).sum();
    assert!(held <= (1 << 20) + 1_000_000, "{held} bytes delivered and not consumed");
    net.nodes[1].endpoint.as_ref().unwrap().check_invariants();
    net.nodes[1].consume = true;
    net.drain(1);
    assert!(net.run_until(3000 * MS, Net::all_arrived), "{}", net.report());
    assert_eq!(net.progress(0, 1, Lane::Bulk), (120, 120));
}

#[test]
fn every_protection_and_cipher_carries_messages_both_ways() {
    let names = [
        (Protection::Encrypt, "aes-256-gcm"),
        (Protection::Encrypt, "chacha20-poly1305"),
        (Protection::Integrity, "aes-256-gcm-integrity"),
        (Protection::Integrity, "chacha20-poly1305-integrity"),
        (Protection::Plain, "plain"),
    ];
    for (protection, name) in names {
        let mut net = Net::with(3, 2, 1, |c| {
            c.protection = protection;
            c.authenticators = vec![name.to_owned()];
            c.rekey_after_packets = Some(50);
        });
        net.faults = Faults { loss: 0.02, reorder: 0.1, duplicate: 0.1, ..Faults::NONE };
        net.start_all();
        assert!(net.run_until(2000 * MS, Net::all_up), "{name}");
        for _ in 0..300 {
            assert!(net.send(0, 1, Lane::Small, 1300) && net.send(1, 0, Lane::Bulk, 3000));
            net.run(MS / 2);
        }
        assert!(net.run_until(2000 * MS, Net::all_arrived), "{name}\n{}", net.report());
        assert!(net.nodes[0].endpoint.as_ref().unwrap().stats().rekeys > 4, "{name}");
    }
}
