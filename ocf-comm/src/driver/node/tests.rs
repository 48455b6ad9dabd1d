//! Nodes on real sockets: loopback addresses of their own, ports that the system chooses.
#![expect(clippy::disallowed_types, reason = "an attacker uses a plain socket")]
use super::*;
use crate::driver::IoConfig;
use crate::testing::{Fabric, check_connectivity};
use crate::{DownReason, DropReason, Preset, Refusal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant as Wall;

const KEY: &[u8] = b"a key of the tests, 32 bytes or more";
const PATIENCE: Duration = Duration::from_secs(30);
const CHANNEL: Channel = Channel::APPLICATION;

/// Nodes 1 to n, each the peer of all others. A node keeps its address when it is started again: the addresses are
/// used by nobody else, because every cluster takes one of its own from 127.0.0.0/8.
struct Cluster {
    addresses: Vec<SocketAddr>,
    ports: Vec<Option<Ports>>,
    offload: bool,
}

impl Cluster {
    fn new(count: usize) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let [_, _, pid_high, pid_low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 1 + (pid_high ^ high) % 250, pid_low, 1 + low % 250);
        let ports: Vec<_> =
            (0..count).map(|_| Ports::bind(&IoConfig::new([(ip, 0).into()])).unwrap()).collect();
        let addresses = ports.iter().map(|ports| ports.local_addresses().unwrap()[0]).collect();
        Self { addresses, ports: ports.into_iter().map(Some).collect(), offload: true }
    }

    fn config(&self, node: NodeId) -> Config {
        let ids = (1..).map(NodeId::new).zip(&self.addresses).filter(|(id, _)| *id != node);
        ids.fold(Config::new("tests", Preset::Lan), |config, (id, address)| config.with_peer(id, *address))
    }

    fn ports(&mut self, node: NodeId) -> Ports {
        let index = usize::try_from(node.raw() - 1).unwrap();
        let mut config = IoConfig::new([self.addresses[index]]);
        config.offload = self.offload;
        let first = self.ports[index].take().filter(|_| self.offload);
        first.unwrap_or_else(|| Ports::bind(&config).unwrap())
    }

    fn node(&mut self, id: u32) -> UdpNode {
        self.node_with(id, KEY)
    }

    fn node_with(&mut self, id: u32, key: &[u8]) -> UdpNode {
        let id = NodeId::new(id);
        let (ports, config) = (self.ports(id), self.config(id));
        UdpNode::start(ports, id, config, key).unwrap()
    }
}

impl Fabric for Cluster {
    type Node = UdpNode;

    fn start(&mut self, node: NodeId) -> UdpNode {
        self.node(node.raw())
    }

    fn kill(&mut self, node: UdpNode) {
        node.abandon();
    }

    fn leave(&mut self, node: UdpNode) {
        node.leave();
    }

    fn wait(&mut self) {
        std::thread::sleep(Duration::from_millis(1));
    }

    fn message_max(&self) -> usize {
        Config::new("any", Preset::Lan).message_max
    }
}

/// Waits for an event that `pick` takes; drops the others.
fn wait_for<R>(node: &UdpNode, what: &str, mut pick: impl FnMut(&Event) -> Option<R>) -> R {
    let end = Wall::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        let left = end.saturating_duration_since(Wall::now());
        match node.recv_timeout(left) {
            Ok(event) => match pick(&event) {
                Some(found) => return found,
                None => seen.push(event),
            },
            Err(error) => panic!("{} never saw {what} ({error}); it saw {seen:?}", node.local()),
        }
    }
}

fn wait_up(node: &UdpNode, peer: &UdpNode) {
    wait_all_up(node, vec![peer.local()]);
}

fn wait_all_up(node: &UdpNode, mut peers: Vec<NodeInstance>) {
    wait_for(node, "an Up of every peer", |event| {
        peers.retain(|peer| !matches!(event, Event::Up { peer: up } if up == peer));
        peers.is_empty().then_some(())
    });
}

fn wait_message(node: &UdpNode) -> (NodeInstance, Bytes) {
    let (from, lane, message) = wait_for(node, "a message", |event| {
        let Event::Message { from, lane, message, .. } = event else { return None };
        Some((*from, *lane, message.clone()))
    });
    node.consumed(from, lane, message.len());
    (from, message)
}

#[test]
fn nodes_on_udp_conform() {
    check_connectivity(|| Cluster::new(3));
}

#[test]
fn three_nodes_send_16_mib_all_to_all() {
    let mut cluster = Cluster::new(3);
    let nodes: Vec<_> = (1..=3).map(|id| cluster.node(id)).collect();
    for node in &nodes {
        wait_all_up(node, nodes.iter().map(UdpNode::local).filter(|peer| *peer != node.local()).collect());
    }
    let content = |from: u32| Bytes::from(vec![from.to_be_bytes()[3]; 16 << 20]);
    for node in &nodes {
        for peer in nodes.iter().filter(|peer| peer.local() != node.local()) {
            node.send(peer.local(), Lane::Bulk, CHANNEL, content(node.local().node.raw())).unwrap();
        }
    }
    for node in &nodes {
        for _ in 0..2 {
            let (from, message) = wait_message(node);
            assert!(message == content(from.node.raw()), "{from} sent something else");
        }
        assert_eq!(node.stopped(), None);
    }
}

#[test]
fn without_offload_everything_still_arrives() {
    let mut cluster = Cluster::new(2);
    cluster.offload = false;
    let (a, b) = (cluster.node(1), cluster.node(2));
    wait_up(&a, &b);
    wait_up(&b, &a);
    let sent = Bytes::from(vec![3; 4 << 20]);
    a.send(b.local(), Lane::Bulk, CHANNEL, sent.clone()).unwrap();
    assert!(wait_message(&b).1 == sent);
    let (_, io) = a.stats().unwrap();
    assert_eq!(io.sends, io.datagrams_out, "one datagram per send");
}

#[test]
fn garbage_is_counted_and_harmless() {
    let mut cluster = Cluster::new(2);
    let (a, b) = (cluster.node(1), cluster.node(2));
    wait_up(&a, &b);
    wait_up(&b, &a);
    let before = b.stats().unwrap().0.dropped_total();
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = pils::Rng::new(7);
    let mut bytes = vec![0; 3000];
    for round in 0..500 {
        random.fill(&mut bytes);
        // Some look like packets of this protocol: the first byte is small.
        bytes[0] = if round % 2 == 0 { bytes[0] % 8 } else { bytes[0] };
        let length = usize::try_from(random.below(3000)).unwrap();
        attacker.send_to(&bytes[..length], cluster.addresses[1]).unwrap();
    }
    a.send(b.local(), Lane::Small, CHANNEL, "still here".into()).unwrap();
    assert_eq!(wait_message(&b).1, "still here");
    let end = Wall::now() + PATIENCE;
    while b.stats().unwrap().0.dropped_total() < before + 400 {
        assert!(Wall::now() < end, "{:?}", b.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(b.stopped(), None);
    assert!(b.peers().iter().all(|peer| peer.up));
    // Nothing answers a stranger.
    attacker.set_nonblocking(true).unwrap();
    assert!(attacker.recv(&mut bytes).is_err(), "an answer to garbage");
}

#[test]
fn a_wrong_key_never_comes_up_and_is_counted() {
    let mut cluster = Cluster::new(2);
    let a = cluster.node(1);
    let b = cluster.node_with(2, b"another key, also 32 bytes or longer");
    let end = Wall::now() + PATIENCE;
    while a.stats().unwrap().0.dropped(DropReason::BadMac) + b.stats().unwrap().0.dropped(DropReason::BadMac)
        < 3
    {
        assert!(Wall::now() < end, "a {:?} b {:?}", a.stats(), b.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
    for node in [&a, &b] {
        let mut events = std::iter::from_fn(|| node.poll_event());
        assert!(!events.any(|event| matches!(event, Event::Up { .. })), "a foreign key came up");
        assert!(node.peers().iter().all(|peer| !peer.up));
    }
}

#[test]
fn two_nodes_with_one_id_are_refused_and_named() {
    let mut cluster = Cluster::new(2);
    let (a, b) = (cluster.node(1), cluster.node(2));
    wait_up(&a, &b);
    wait_up(&b, &a);
    // A second node of the smaller id, which calls, and of the larger, which is called.
    for (first, other) in [(&a, &b), (&b, &a)] {
        let elsewhere = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap();
        let address = elsewhere.local_addresses().unwrap()[0];
        let (id, config) = (first.local().node, cluster.config(first.local().node));
        let double = UdpNode::start(elsewhere, id, config, KEY).unwrap();
        let refused = |event: &Event| match event {
            Event::Refused { peer, address, reason: Refusal::DuplicateNode } => Some((*peer, *address)),
            _ => None,
        };
        assert_eq!(wait_for(other, "the refusal of a double", refused), (id, address));
        let whose = wait_for(&double, "that it is refused", refused);
        assert_eq!(whose.0, other.local().node);
        // The first goes on undisturbed.
        first.send(other.local(), Lane::Small, CHANNEL, "still you".into()).unwrap();
        assert_eq!(wait_message(other).1, "still you");
        assert!(double.peers().iter().all(|peer| !peer.up));
    }
}

#[test]
fn a_node_sits_in_the_callers_poll_loop() {
    let mut cluster = Cluster::new(2);
    let (a, b) = (cluster.node(1), cluster.node(2));
    wait_up(&b, &a);
    b.send(a.local(), Lane::Small, CHANNEL, "ping".into()).unwrap();
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    let mut got = None;
    while got.is_none() {
        let mut ready = [PollFd::new(&a, PollFlags::IN)];
        assert_ne!(poll(&mut ready, Some(&patience)), Ok(0), "the descriptor never became readable");
        while let Some(event) = a.poll_event() {
            if let Event::Message { message, .. } = event {
                got = Some(message);
            }
        }
    }
    assert_eq!(got.unwrap(), "ping");
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Other events may come late, but once they are taken the descriptor is quiet.
    let end = Wall::now() + PATIENCE;
    while poll(&mut [PollFd::new(&a, PollFlags::IN)], Some(&none)) != Ok(0) {
        while a.poll_event().is_some() {}
        assert!(Wall::now() < end, "readable with nothing to take");
    }
}

#[test]
fn dropping_the_last_clone_is_an_orderly_leave() {
    let mut cluster = Cluster::new(2);
    let (a, b) = (cluster.node(1), cluster.node(2));
    wait_up(&a, &b);
    let gone = b.local();
    drop(b.clone());
    drop(b);
    let reason = wait_for(&a, "a Down", |event| match event {
        Event::Down { peer, reason } if *peer == gone => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, DownReason::Left);
}

#[test]
fn a_stopped_node_says_so_at_every_call() {
    let mut cluster = Cluster::new(2);
    let a = cluster.node(1);
    let waiting = a.clone();
    let waiter = std::thread::spawn(move || {
        loop {
            if let Err(error) = waiting.recv_timeout(PATIENCE) {
                return error;
            }
        }
    });
    a.abandon();
    assert_eq!(waiter.join().unwrap(), RecvError::Stopped(Stopped::Requested));
    assert_eq!(a.send(a.local(), Lane::Small, CHANNEL, Bytes::new()), Err(SendError::Stopped));
    assert_eq!(a.stopped(), Some(Stopped::Requested));
}

#[test]
fn a_short_key_and_a_wrong_peer_are_reported_together() {
    let mut cluster = Cluster::new(2);
    let ports = cluster.ports(NodeId::new(1));
    let config = cluster.config(NodeId::new(2));
    let error = UdpNode::start(ports, NodeId::new(1), config, b"short").unwrap_err().to_string();
    assert!(error.contains("secrets.keys") && error.contains("32") && error.contains("peers[0]"), "{error}");
}
