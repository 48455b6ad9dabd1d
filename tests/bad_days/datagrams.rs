//! Datagrams that nobody should send: counted by reason, answered by nothing larger, and without any effect.

use crate::support::{Crowd, PATIENCE, Plan, members};
use bytes::Bytes;
use ocf::{Node, NodeEvent};
use ocf_comm::driver::{IoConfig, Ports};
use ocf_groups::Guarantee;
use pils::Rng;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Every datagram, whatever it is, that the node dropped.
fn dropped(crowd: &Crowd, index: usize) -> u64 {
    let counters = crowd.snapshot(index).counters;
    counters.iter().filter(|(name, _)| name.starts_with("comm.dropped.")).map(|(_, n)| n).sum()
}

fn reasons(crowd: &Crowd, index: usize, names: &[&str]) -> u64 {
    names.iter().map(|name| crowd.counter(index, &format!("comm.dropped.{name}"))).sum()
}

/// Sends each datagram to a node and waits until it is counted or answered. No answer may be larger than its question.
/// Returns the number of answers.
fn attack(crowd: &Crowd, index: usize, datagrams: &[Vec<u8>]) -> usize {
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    attacker.set_nonblocking(true).unwrap();
    let mut answer = vec![0; 1 << 16];
    let mut answers = 0;
    for datagram in datagrams {
        let before = dropped(crowd, index);
        attacker.send_to(datagram, crowd.addresses[index]).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(length) = attacker.recv(&mut answer) {
                assert!(length <= datagram.len(), "{} bytes are answered by {length}", datagram.len());
                answers += 1;
                break;
            }
            if dropped(crowd, index) > before {
                break;
            }
            assert!(
                Instant::now() < end,
                "neither counted nor answered: {:?}",
                &datagram[..datagram.len().min(16)]
            );
        }
    }
    assert!(attacker.recv(&mut answer).is_err(), "a second answer to one question");
    answers
}

/// Everybody is still in the same view, and messages flow.
fn undisturbed(crowd: &mut Crowd, view: u64) {
    for node in &crowd.nodes {
        node.send("news", 1, Guarantee::Safe, Bytes::from_static(b"still here")).unwrap();
    }
    crowd.until("a message of everybody at everybody", |crowd| (0..3).all(|i| crowd.payloads(i).len() >= 3));
    assert!(crowd.nodes.iter().all(|n| n.view().is_some_and(|v| v.number.0 == view)));
    let disturbed = |e: &NodeEvent| {
        matches!(e, NodeEvent::PeerDown { .. } | NodeEvent::Refused { .. } | NodeEvent::Misbehaved { .. })
    };
    assert!(!crowd.anyone(disturbed), "a peer was lost or refused");
}

#[test]
fn garbage_and_oversized_datagrams_are_counted_and_change_nothing() {
    let mut crowd = Crowd::form(3, &Plan::default());
    crowd.join_all("news");
    let view = crowd.nodes[0].view().unwrap().number.0;
    let mut random = Rng::new(7);
    let mut garbage = Vec::new();
    for round in 0..200_usize {
        let length = if round % 10 == 0 { 65_000 } else { usize::try_from(random.below(1500)).unwrap() };
        let mut datagram = vec![0; length];
        random.fill(&mut datagram);
        // Half of them look like what nodes send.
        if let Some(first) = datagram.first_mut().filter(|_| round % 2 == 0) {
            *first = (*first % 8) << 4 | 1;
        }
        garbage.push(datagram);
    }
    assert_eq!(attack(&crowd, 0, &garbage), 0, "nothing answers a stranger");
    for reason in ["UnknownKind", "BadMac", "Length"] {
        assert!(reasons(&crowd, 0, &[reason]) > 0, "{reason}: {:?}", crowd.snapshot(0).counters);
    }
    undisturbed(&mut crowd, view);
}

#[test]
fn truncated_and_replayed_datagrams_are_counted_and_change_nothing() {
    let mut crowd = Crowd::form(3, &Plan::default());
    crowd.join_all("news");
    let view = crowd.nodes[0].view().unwrap().number.0;
    // Node 1 calls the others, so handshake messages of all kinds go to the first and the last.
    for index in [0, 2] {
        let real: Vec<Vec<u8>> = crowd.wire.captured(index).into_iter().take(60).collect();
        assert!(
            real.iter().any(|d| d[0] >> 4 == 1) && real.iter().any(|d| d[0] >> 4 > 1),
            "both kinds were seen"
        );
        let cut: Vec<Vec<u8>> = real.iter().map(|d| d[..d.len() * 2 / 3].to_vec()).collect();
        attack(&crowd, index, &cut);
        assert!(
            reasons(&crowd, index, &["BadMac"]) > 0
                && reasons(&crowd, index, &["BadSeal", "Replayed", "TooOld"]) > 0
        );
        let altered = |at: usize| {
            real.iter().filter(|d| d[0] >> 4 == 1).map(move |d| {
                let mut altered = d.clone();
                altered[at] ^= 1;
                altered
            })
        };
        // Another circuit; a number far ahead.
        attack(&crowd, index, &altered(7).chain(altered(9)).collect::<Vec<_>>());
        assert!(reasons(&crowd, index, &["UnknownCircuit"]) > 0 && reasons(&crowd, index, &["BadSeal"]) > 0);
        let answers = attack(&crowd, index, &real);
        assert!(index == 0 || answers > 0, "a replayed INIT is asked to prove its address, and no more");
        assert!(reasons(&crowd, index, &["Replayed", "TooOld"]) > 0, "{:?}", crowd.snapshot(index).counters);
        let longer: Vec<Vec<u8>> = real.iter().map(|d| [d.as_slice(), &[0; 3000]].concat()).collect();
        assert_eq!(attack(&crowd, index, &longer), 0);
    }
    assert!(reasons(&crowd, 0, &["StaleHandshake"]) > 0, "{:?}", crowd.snapshot(0).counters);
    undisturbed(&mut crowd, view);
}

#[test]
fn a_node_with_a_foreign_key_is_counted_and_never_comes_in() {
    let mut crowd = Crowd::form(3, &Plan::default());
    crowd.join_all("news");
    let view = crowd.nodes[0].view().unwrap().number.0;
    let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap();
    let mut config = crowd.configs[1].clone();
    config.key = Some(ocf::Key::random());
    let stranger = Node::builder(config).ports(ports).start().unwrap();
    crowd.until("foreign handshakes to be counted", |crowd| {
        reasons(crowd, 0, &["BadMac"]) >= 2 && reasons(crowd, 2, &["BadMac"]) >= 2
    });
    assert_eq!(members(&stranger), 0);
    while let Some(event) = stranger.next_event(Duration::ZERO) {
        assert!(!matches!(event.event, NodeEvent::PeerUp(_)), "a foreign key came up");
    }
    undisturbed(&mut crowd, view);
}
