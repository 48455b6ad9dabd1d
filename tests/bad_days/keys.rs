//! The cluster's key is replaced while the cluster works, told by ordered messages.

use crate::support::{Crowd, Plan};
use bytes::Bytes;
use ocf::{NodeEvent, RequestError};
use ocf_comm::{ClusterKey, KeyError, KeyId};
use ocf_groups::Guarantee;

const NEW: KeyId = KeyId(1);

/// What an ordered message tells every node to do about keys.
fn obey(crowd: &Crowd, index: usize, step: &[u8]) -> Result<(), RequestError<KeyError>> {
    let node = &crowd.nodes[index];
    match step {
        b"learn" => node.learn_key(ClusterKey::new(NEW, [0x77; 32])),
        b"use" => node.use_key(NEW),
        _ => node.forget_key(KeyId(0)),
    }
}

#[test]
fn three_ordered_messages_replace_the_key_under_load_and_no_node_is_lost() {
    let mut crowd = Crowd::form(3, &Plan::default());
    crowd.join_all("keys");
    let view = crowd.nodes[0].view().unwrap().number;
    let mut sent = 0;
    for step in ["learn", "use", "forget"] {
        let early = crowd.nodes[0].forget_key(KeyId(0));
        if step != "forget" {
            assert_eq!(
                early,
                Err(RequestError::Refused(KeyError::InUse { id: KeyId(0) })),
                "one step too early"
            );
        }
        for _ in 0..20 {
            for node in &crowd.nodes {
                node.send("keys", 1, Guarantee::Agreed, Bytes::from_static(b"load")).unwrap();
                sent += 1;
            }
        }
        crowd.nodes[1].send("keys", 1, Guarantee::Safe, Bytes::from_static(step.as_bytes())).unwrap();
        sent += 1;
        crowd.until("all messages of this step", |crowd| (0..3).all(|i| crowd.payloads(i).len() == sent));
        for index in 0..3 {
            assert!(crowd.payloads(index).iter().any(|p| *p == step.as_bytes()));
            match obey(&crowd, index, step.as_bytes()) {
                Ok(()) => {}
                // Node 1 forgot it first: it is forgotten once.
                Err(RequestError::Refused(KeyError::Unknown { .. })) if index == 0 && step == "forget" => {}
                Err(error) => panic!("{step} at {index}: {error}"),
            }
        }
        if step == "use" {
            crowd.until("every circuit to rest on the new key", |crowd| {
                let moved = |k: &ocf_comm::KeyStatus| k.peers.len() == if k.id == NEW { 2 } else { 0 };
                crowd.nodes.iter().all(|node| node.keys().iter().all(moved))
            });
        }
    }
    assert!(crowd.nodes.iter().all(|node| node.keys().len() == 1 && node.keys()[0].sends));
    assert!(
        crowd.nodes.iter().all(|n| n.view().is_some_and(|v| v.number == view)),
        "no view was lost over it"
    );
    assert!(!crowd.anyone(|e| matches!(e, NodeEvent::PeerDown { .. })), "nobody was lost");
}
