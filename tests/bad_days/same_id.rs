//! Two nodes with one id: both sides are told, and the one that runs goes on.

use crate::support::{Crowd, Plan, members};
use bytes::Bytes;
use ocf::{Node, NodeEvent};
use ocf_comm::Refusal;
use ocf_comm::driver::{IoConfig, Ports};
use ocf_groups::Guarantee;
use pils::NodeId;

#[test]
fn a_second_node_of_one_id_is_refused_on_both_sides_and_the_first_is_not_disturbed() {
    let mut crowd = Crowd::form(3, &Plan::default());
    crowd.join_all("news");
    let view = crowd.nodes[0].view().unwrap().number;
    let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap();
    let address = ports.local_addresses().unwrap()[0];
    let mut config = crowd.configs[1].clone();
    for (entry, address) in config.nodes.iter_mut().zip(&crowd.addresses) {
        entry.address = *address;
    }
    let double = Node::builder(config).ports(ports).start().unwrap();
    // Node 1 is called by the double, node 3 calls it: both ways to find out.
    let mut told = Vec::new();
    crowd.until("both neighbours and the double to be told", |crowd| {
        while let Some(event) = double.next_event(std::time::Duration::ZERO) {
            if let NodeEvent::Refused { peer, reason: Refusal::DuplicateNode, .. } = event.event {
                told.push(peer);
            }
        }
        let refuses = |e: &NodeEvent| matches!(e, NodeEvent::Refused { peer, address: at, reason: Refusal::DuplicateNode } if *peer == NodeId::new(2) && *at == address);
        let refused = |index: usize| crowd.seen(index).iter().any(refuses);
        refused(0) && refused(2) && [1, 3].iter().all(|id| told.contains(&NodeId::new(*id)))
    });
    assert_eq!(members(&double), 0, "the double is in no view");
    for node in &crowd.nodes {
        node.send("news", 1, Guarantee::Safe, Bytes::from_static(b"still here")).unwrap();
    }
    crowd.until("messages to flow", |crowd| (0..3).all(|i| crowd.payloads(i).len() == 3));
    assert!(crowd.nodes.iter().all(|n| n.view().is_some_and(|v| v.number == view)));
    assert!(!crowd.anyone(|e| matches!(e, NodeEvent::PeerDown { .. })), "nobody was lost");
}
