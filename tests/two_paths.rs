//! A whole cluster on two networks, of which one is cut, and routers outside that go away: for all nodes, or for one alone.
//!
//! Method: the test runs itself once more in a network namespace of its own, where three nodes in one process talk over
//! addresses of the loopback interface; nftables cut what goes to those of the first network.

#![expect(clippy::wildcard_enum_match_arm, reason = "of many events this test wants few")]

use bytes::Bytes;
use core::time::Duration;
use ocf::{Node, NodeConfig, NodeEvent};
use ocf_comm::PathState;
use ocf_comm::ping::PingState;
use ocf_groups::{Event as Group, Guarantee};
use ocf_resource::driver::{RustClass, Stateful};
use ocf_resource::{GroupConfig, ReachConfig, ResourceConfig};
use pils::NodeId;
use pils::topic::{Delivery, LIVENESS, Pattern};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

const INSIDE: &str = "OCF_TEST_INSIDE";
const SOON: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

fn run(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().expect("there is a shell");
    assert!(status.success(), "{line}: {status}");
}

/// Runs `test` of this file in a fresh network namespace, unless this is that run.
fn in_a_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up && nft add table inet t");
        run("nft add chain inet t in '{ type filter hook input priority 0; }'");
        return body();
    }
    let own = std::env::current_exe().expect("this program has a path");
    let mut inside = Command::new("unshare");
    inside.arg("--net").arg(own).args(["--exact", test, "--ignored", "--nocapture"]).env(INSIDE, "1");
    let status = inside.status().expect("unshare is there");
    assert!(status.success(), "{test} in its namespace: {status}");
}

fn config() -> NodeConfig {
    let mut text = String::from(
        "cluster = 'two networks'\nnode = 1\n\
         key = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n",
    );
    for id in 1..=3 {
        text += &format!(
            "[[nodes]]\nid = {id}\naddress = '127.1.0.{id}:5405'\nmore_addresses = ['127.2.0.{id}:5405']\n"
        );
    }
    text += "[[ping]]\nname = 'router'\nhosts = ['127.9.0.1']\ninterval_ms = 50\ntimeout_ms = 500\n";
    NodeConfig::from_toml(&text).expect("it is right")
}

struct Nodes {
    nodes: Vec<Node>,
    delivered: Vec<u64>,
    views: u32,
    paths_down: u32,
}

impl Nodes {
    fn start() -> Self {
        let start = |id: u32| {
            let mut config = config();
            config.node = NodeId::new(id);
            let node = Node::builder(config).start().expect("it starts");
            node.join("demo", 0).expect("it joins");
            node
        };
        let nodes: Vec<Node> = (1..=3).map(start).collect();
        let mut this = Self { nodes, delivered: vec![0; 3], views: 0, paths_down: 0 };
        this.until("all members, and all paths up", |this| {
            let member = |node: &Node| node.view().is_some_and(|view| view.members.len() == 3);
            this.nodes.iter().all(|node| member(node) && up_paths(node) == 4)
        });
        this.until("the messages of all come to all", |this| {
            this.send();
            this.delivered.iter().all(|count| *count >= 20)
        });
        (this.views, this.paths_down) = (0, 0);
        this
    }

    /// Each member sends a message, unless its window is full.
    fn send(&self) {
        for node in &self.nodes {
            let sent = node.send("demo", 0, Guarantee::Agreed, vec![7; 200].into());
            if let Err(why) = sent {
                let text = why.to_string();
                assert!(text.contains("full") || text.contains("not a member"), "{text}");
            }
        }
    }

    fn take(&mut self) {
        for (node, delivered) in self.nodes.iter().zip(&mut self.delivered) {
            while let Some(event) = node.next_event(Duration::ZERO) {
                match event.event {
                    NodeEvent::Group(Group::Message { .. }) => *delivered += 1,
                    NodeEvent::Group(Group::View(_)) => self.views += 1,
                    NodeEvent::Group(Group::StateWanted { group, joiner, position }) => {
                        node.offer_state(&group, joiner, position, Bytes::new()).expect("it was asked for");
                    }
                    NodeEvent::Path { state: PathState::Down, .. } => self.paths_down += 1,
                    _ => {}
                }
            }
        }
    }

    fn until(&mut self, what: &str, mut is: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + SOON;
        while !is(self) {
            assert!(Instant::now() < end, "{what}: {:?} delivered", self.delivered);
            self.take();
            std::thread::sleep(MS);
        }
    }
}

fn up_paths(node: &Node) -> usize {
    let peers = node.snapshot().expect("it runs").peers;
    peers.iter().flat_map(|peer| &peer.paths).filter(|path| path.state == "up").count()
}

#[test]
#[ignore = "needs root, a network namespace and nftables"]
fn a_cluster_goes_on_over_its_second_network_and_sees_a_router_go() {
    in_a_namespace("a_cluster_goes_on_over_its_second_network_and_sees_a_router_go", || {
        let mut nodes = Nodes::start();
        let heard = nodes.nodes[0].bus().subscribe(Pattern::exact(LIVENESS), 64).expect("there is room");
        let reachable = |node: &Node| node.snapshot().expect("it runs").ping_reachable;
        nodes.until("the router answers all", |this| this.nodes.iter().all(|node| reachable(node) == 1));
        run(
            "nft add rule inet t in ip daddr 127.1.0.0/16 drop && nft add rule inet t in ip daddr 127.9.0.1 drop",
        );
        let before = nodes.delivered.clone();
        let cut = Instant::now();
        nodes.until("every path of the first network is down, and messages flow", |this| {
            this.send();
            this.paths_down >= 6 && this.delivered.iter().zip(&before).all(|(now, was)| *now > was + 100)
        });
        assert!(nodes.nodes.iter().all(|node| up_paths(node) == 2));
        nodes.until("the router is missed", |this| this.nodes.iter().all(|node| reachable(node) == 0));
        let mut told = Vec::new();
        while let Some(delivery) = heard.try_next() {
            if let Delivery::Event(event) = delivery
                && event.properties.get("kind") == Some(&"ping".into())
                && !event.properties.contains_key("host")
            {
                told.push(event.properties["state"].clone());
            }
        }
        assert_eq!(told.last(), Some(&PingState::Down.to_string().into()), "{told:?}");
        run("nft flush chain inet t in");
        nodes.until("the first network comes back", |this| this.nodes.iter().all(|node| up_paths(node) == 4));
        assert_eq!(nodes.views, 0, "no view changed in {:?}", cut.elapsed());
    });
}

/// A node with a router of its own, 127.9.0.ID, and a service that goes where more is reached; and what runs there.
fn near_a_router(id: u32) -> (Node, Stateful) {
    let mut config = config();
    config.node = NodeId::new(id);
    config.ping[0].hosts = vec![format!("127.9.0.{id}").parse().expect("an address")];
    let service = ResourceConfig::new("service", "rust:service".parse().expect("a name"));
    let mut group = GroupConfig::new("near", vec![service]);
    (group.nodes, group.reach) = ((1..=3).map(NodeId::new).collect(), Some(ReachConfig::default()));
    config.resources.groups.push(group);
    config.resources.reach_settle = 1000 * MS;
    let stateful = Stateful::new();
    let class = RustClass::new().with("service", Arc::new(stateful.clone()));
    let node = Node::builder(config).agent_class("rust", Arc::new(class)).start().expect("it starts");
    (node, stateful)
}

#[test]
#[ignore = "needs root, a network namespace and nftables"]
fn a_service_moves_to_a_node_that_reaches_more_and_stays_when_all_reach_less() {
    in_a_namespace("a_service_moves_to_a_node_that_reaches_more_and_stays_when_all_reach_less", || {
        let nodes: Vec<(Node, Stateful)> = (1..=3).map(near_a_router).collect();
        let (mut views, mut reached) = (0, 0);
        let mut look = |what: &str, for_: Duration, is: &mut dyn FnMut(&[usize], usize) -> bool| {
            let end = Instant::now() + for_;
            loop {
                for (node, _) in &nodes {
                    while let Some(event) = node.next_event(Duration::ZERO) {
                        views += u32::from(matches!(event.event, NodeEvent::Group(Group::View(_))));
                    }
                }
                let runs =
                    |(at, (_, s)): (usize, &(Node, Stateful))| s.is_running("service").then_some(at + 1);
                let on: Vec<usize> = nodes.iter().enumerate().filter_map(runs).collect();
                assert!(on.len() <= 1, "{what}: it runs on {on:?}");
                let answer = |(node, _): &(Node, Stateful)| node.snapshot().expect("it runs").ping_reachable;
                reached = nodes.iter().map(answer).sum();
                if is(&on, reached) {
                    return (true, views);
                }
                if Instant::now() >= end {
                    return (false, views);
                }
                std::thread::sleep(5 * MS);
            }
        };
        assert!(look("it runs on the first node", SOON, &mut |on, reached| on == [1] && reached == 3).0);
        let (_, before) = look("what is reached counts", 4 * 1000 * MS, &mut |_, _| false);
        run("nft add rule inet t in ip daddr 127.9.0.1 drop");
        assert!(look("it leaves the node that lost its router", SOON, &mut |on, _| on == [2]).0);
        run("nft flush chain inet t in");
        let stays = &mut |on: &[usize], _: usize| on != [2];
        assert!(!look("the router is back", 6 * 1000 * MS, stays).0, "it stays where it is as good");
        run("nft add rule inet t in ip daddr 127.9.0.0/16 drop");
        assert!(look("all miss their routers", SOON, &mut |_, reached| reached == 0).0);
        let (moved, after) = look("all reach less", 6 * 1000 * MS, stays);
        assert!(!moved, "what all miss moves nothing");
        assert_eq!(after, before, "all saw each other all the time");
    });
}

#[test]
#[ignore = "needs root and a network namespace"]
fn nodes_whose_addresses_are_in_no_list_find_each_other_by_multicast() {
    in_a_namespace("nodes_whose_addresses_are_in_no_list_find_each_other_by_multicast", || {
        run("ip link set lo multicast on && ip route add 239.0.0.0/8 dev lo");
        let start = |id: u32| {
            let text = format!(
                "cluster = 'found'\nnode = {id}\n\
                 key = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n\
                 [[nodes]]\nid = 1\n[[nodes]]\nid = 2\n[[nodes]]\nid = 3\n\
                 [[media]]\nkind = 'udp'\nparameters = {{ address = '127.1.0.{id}:5405' }}\n\
                 [[media]]\nkind = 'multicast'\nparameters = {{ group = '239.192.5.4:5404', interface = 'lo' }}\n\
                 [discovery]\ninterval_ms = 100\n"
            );
            let config = NodeConfig::from_toml(&text).expect("it is right");
            Node::builder(config).start().expect("it starts")
        };
        let nodes: Vec<Node> = (1..=3).map(start).collect();
        let end = Instant::now() + SOON;
        for node in &nodes {
            while node.view().is_none_or(|view| view.members.len() != 3) {
                assert!(Instant::now() < end, "they never met: {:?}", node.snapshot());
                drop(node.next_event(20 * MS));
            }
        }
    });
}
