//! Goal: nodes of an older build are in one cluster with newer ones while they are upgraded one after the other, messages go on, and
//! a node that is too old is told so and stays outside.
//!
//! Method: real nodes over loopback; the test has a node speak what an older build speaks.
#![expect(clippy::wildcard_enum_match_arm, reason = "what is not looked for is passed over")]

use bytes::Bytes;
use ocf::{Cluster, Node, NodeEvent};
use ocf_groups::{Event, Guarantee};
use ocf_membership::Levels;
use parking_lot::Mutex;
use pils::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const GROUP: &str = "levels";
const PATIENCE: Duration = Duration::from_secs(60);

/// What the next life of each node speaks.
type Builds = Arc<Mutex<BTreeMap<NodeId, Levels>>>;

fn cluster(builds: &Builds) -> Cluster {
    let builds = Arc::clone(builds);
    let equip = move |node: ocf::NodeBuilder| {
        let levels = builds.lock().get(&node.node()).copied().unwrap_or(Levels::FIRST);
        node.tune(move |stack| stack.membership.levels = levels)
    };
    Cluster::builder("levels").equip(equip).local(3).expect("nodes on loopback")
}

fn level(node: &Node) -> u32 {
    node.view().filter(|view| view.members.len() == 3).map_or(0, |view| view.level)
}

/// Starts a node that was killed: its former life may hold its port for a moment.
fn again(cluster: &mut Cluster, index: usize) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = cluster.start(index) {
        assert!(Instant::now() < end, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Takes the next events of all nodes until they are what is waited for, and gives states to who joins.
fn until(cluster: &Cluster, what: &str, mut done: impl FnMut(&[(NodeId, NodeEvent)]) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut seen = Vec::new();
        for node in cluster.running() {
            let Some(numbered) = node.next_event(Duration::from_millis(5)) else { continue };
            if let NodeEvent::Group(Event::StateWanted { group, joiner, position }) = &numbered.event {
                // Refused if the joiner is gone again.
                drop(node.offer_state(group, *joiner, *position, Bytes::new()));
            }
            seen.push((node.local().node, numbered.event));
        }
        if done(&seen) {
            return;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
    }
}

fn until_level(cluster: &Cluster, wanted: u32) {
    until(cluster, "one view at the level", |_| cluster.running().all(|node| level(node) == wanted));
}

/// Node 1 sends messages that ask for no other order than its own: are they delivered as such?
fn is_told_as_fifo(cluster: &Cluster, text: &'static str) -> bool {
    let mut fifo = None;
    until(cluster, text, |seen| {
        for (_, event) in seen.iter().filter(|(node, _)| node.raw() == 2) {
            match event {
                NodeEvent::Group(Event::Fifo { payload, .. }) if payload == text => fifo = Some(true),
                NodeEvent::Group(Event::Message { payload, .. }) if payload == text => fifo = Some(false),
                _ => {}
            }
        }
        // Refused until node 1 is a member, and not delivered to node 2 until that is one.
        let sender = cluster.node(0).expect("it runs");
        drop(sender.send(GROUP, 0, Guarantee::Fifo, Bytes::from_static(text.as_bytes())));
        fifo.is_some()
    });
    fifo.expect("it was waited for")
}

#[test]
fn three_nodes_are_upgraded_while_they_serve_and_then_use_what_is_new() {
    let builds = Builds::default();
    let mut cluster = cluster(&builds);
    for node in [0, 1] {
        cluster.node(node).expect("it runs").join(GROUP, 0).expect("a new group");
    }
    until_level(&cluster, 1);
    assert!(!is_told_as_fifo(&cluster, "while all are old"));
    for index in [2, 1, 0] {
        builds.lock().insert(NodeId::new(u32::try_from(index + 1).expect("few")), Levels::THIS);
        drop(cluster.kill(index).expect("it ran"));
        again(&mut cluster, index);
        if index < 2 {
            cluster.node(index).expect("it runs").join(GROUP, 0).expect("a fresh member");
        }
        until_level(&cluster, if index > 0 { 1 } else { 2 });
    }
    assert!(is_told_as_fifo(&cluster, "when all are new"));
}

#[test]
fn a_node_that_is_too_old_stays_outside_and_both_sides_say_why() {
    let builds: Builds = Arc::new(Mutex::new((1..=3).map(|n| (NodeId::new(n), Levels::THIS)).collect()));
    let mut cluster = cluster(&builds);
    until_level(&cluster, 2);
    builds.lock().insert(NodeId::new(3), Levels::FIRST);
    drop(cluster.kill(2).expect("it ran"));
    again(&mut cluster, 2);
    let mut told: Vec<(u32, u32, Levels, Levels)> = Vec::new();
    until(&cluster, "the news on both sides", |seen| {
        for (node, event) in seen {
            if let NodeEvent::Incompatible { peer, level, ours, theirs } = event {
                assert_eq!(*level, 2);
                told.push((node.raw(), peer.node.raw(), *ours, *theirs));
            }
        }
        assert_eq!(cluster.node(2).and_then(Node::view), None, "it is in no view");
        told.len() == 4
    });
    told.sort_unstable();
    let (old, new) = (Levels::FIRST, Levels::THIS);
    assert_eq!(told, [(1, 3, new, old), (2, 3, new, old), (3, 1, old, new), (3, 2, old, new)]);
    // Its former life is in their view until it is found silent.
    until(&cluster, "a view of the others", |_| {
        cluster.node(0).and_then(Node::view).is_some_and(|view| view.members.len() == 2)
    });
    builds.lock().insert(NodeId::new(3), Levels::THIS);
    drop(cluster.kill(2).expect("it ran"));
    again(&mut cluster, 2);
    until_level(&cluster, 2);
}
