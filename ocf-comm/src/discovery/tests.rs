//! Nodes that are told of nobody, on a network of one address each and a group that reaches all, under virtual time.
use super::*;
use crate::crypto::SimulatedAgreement;
use crate::wire::{Handshake, seal_handshake};
use crate::{Config, Endpoint, Event, Input, Output, Preset, Received, Secrets};
use pils::{Incarnation, Layer as _};

const GROUP: PathId = PathId(1);

fn group() -> SocketAddr {
    SocketAddr::from(([239, 192, 0, 5], 5405))
}

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 5405))
}

/// One endpoint with its host's address.
struct Member {
    host: u8,
    endpoint: Endpoint,
    events: Vec<Event>,
}

#[derive(Default)]
struct Net {
    now: Instant,
    members: Vec<Member>,
    /// Every announcement that was sent: (path, to, from, datagram).
    log: Vec<(PathId, SocketAddr, SocketAddr, Vec<u8>)>,
}

struct Plan<'a> {
    cluster: &'a str,
    key: u8,
    to: Vec<(PathId, SocketAddr)>,
    accept: Option<BTreeSet<NodeId>>,
}

fn plan(to: impl IntoIterator<Item = (PathId, SocketAddr)>) -> Plan<'static> {
    Plan { cluster: "demo", key: 7, to: to.into_iter().collect(), accept: None }
}

impl Net {
    /// Starts node `node` on host `host`.
    fn start(&mut self, host: u8, node: u32, plan: &Plan<'_>) {
        let mut config = Config::new(plan.cluster, Preset::Lan);
        let mut found_by = DiscoveryConfig::new([(PathId(0), at(host))], plan.to.clone());
        found_by.accept = plan.accept.clone();
        found_by.forget_after = Duration::from_secs(5);
        config.discovery = Some(found_by);
        let life = u128::from(self.now.as_nanos()) << 8 | u128::from(host);
        let local = NodeInstance::new(NodeId::new(node), Incarnation::new(life));
        let agreement = Box::new(SimulatedAgreement::new(u64::from(host)));
        let secrets = Secrets { keys: vec![plan.key; 32].into(), seed: [host; 32], agreement };
        let endpoint = Endpoint::new(self.now, config, local, secrets).unwrap();
        self.members.push(Member { host, endpoint, events: Vec::new() });
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(1);
            for i in 0..self.members.len() {
                let member = &mut self.members[i];
                member.endpoint.handle_timeout(self.now);
                let mut sent = Vec::new();
                while let Some(output) = member.endpoint.poll_output() {
                    match output {
                        Output::Transmit(transmit) => sent.push(transmit),
                        Output::Event(event) => member.events.push(event),
                    }
                }
                let from = at(member.host);
                sent.into_iter().for_each(|transmit| self.carry(from, transmit));
            }
        }
    }

    fn carry(&mut self, from: SocketAddr, transmit: Transmit) {
        let Transmit { path, to, segment, data } = transmit;
        if data[0] >> 4 == 8 {
            self.log.push((path, to, from, data.clone()));
        }
        let heard_from = if to == group() { group() } else { from };
        for member in &mut self.members {
            // A group brings a sender its own words, too.
            if to == group() || to == at(member.host) {
                let mut data = data.clone();
                let received = Received { path, from: heard_from, segment, data: &mut data };
                member.endpoint.handle(self.now, Input::Received(received));
            }
        }
    }

    fn up(&self, i: usize) -> Vec<u32> {
        self.members[i].endpoint.peers(self.now).iter().filter(|p| p.up).map(|p| p.node.raw()).collect()
    }

    fn known(&self, i: usize) -> Vec<u32> {
        self.members[i].endpoint.peers(self.now).iter().map(|p| p.node.raw()).collect()
    }
}

#[test]
fn nodes_of_one_group_become_peers_of_each_other() {
    let mut net = Net::default();
    for host in 1..=4 {
        net.start(host, host.into(), &plan([(GROUP, group())]));
    }
    net.run(Duration::from_millis(500));
    for i in 0..4 {
        let others: Vec<u32> = (1..=4).filter(|n| *n != u32::try_from(i + 1).unwrap()).collect();
        assert_eq!(net.up(i), others);
        let member = &net.members[i];
        let told = |event: &Event| matches!(event, Event::PeerDiscovered { .. });
        assert_eq!(member.events.iter().filter(|e| told(e)).count(), 3);
        assert_eq!(member.endpoint.discovered().len(), 3);
        member.endpoint.check_invariants();
    }
}

#[test]
fn a_seed_introduces_those_who_know_only_it_and_each_other() {
    let mut net = Net::default();
    // Node 4 is the seed and knows of nobody.
    net.start(4, 4, &plan([]));
    for host in [1, 2, 3, 5] {
        net.start(host, host.into(), &plan([(PathId(0), at(4))]));
        net.run(Duration::from_millis(300));
    }
    net.run(Duration::from_secs(1));
    for i in 0..5 {
        assert_eq!(net.up(i).len(), 4, "{:?}", net.members[i].events);
    }
}

#[test]
fn clusters_of_another_name_or_key_on_one_network_do_not_mix_and_a_node_may_be_in_two() {
    let mut net = Net::default();
    let other_name = Plan { cluster: "other", ..plan([(GROUP, group())]) };
    let other_key = Plan { key: 8, ..plan([(GROUP, group())]) };
    let mut host = 0;
    // Node 1 is in all three, with an endpoint in each.
    for plan in [&plan([(GROUP, group())]), &other_name, &other_key] {
        for node in [1, 10 + u32::from(host), 11 + u32::from(host)] {
            host += 1;
            net.start(host, node, plan);
        }
    }
    net.run(Duration::from_secs(1));
    let ids: Vec<Vec<u32>> = (0..9).map(|i| net.up(i)).collect();
    assert_eq!(ids, [[10, 11], [1, 11], [1, 10], [13, 14], [1, 14], [1, 13], [16, 17], [1, 17], [1, 16]]);
    for member in &net.members {
        assert!(!member.events.iter().any(|e| matches!(e, Event::Refused { .. })), "{:?}", member.events);
    }
}

#[test]
fn only_accepted_nodes_become_peers() {
    let mut net = Net::default();
    let only_2 = Plan { accept: Some(BTreeSet::from([NodeId::new(2)])), ..plan([(GROUP, group())]) };
    net.start(1, 1, &only_2);
    for host in [2, 3] {
        net.start(host, host.into(), &plan([(GROUP, group())]));
    }
    net.run(Duration::from_secs(1));
    assert_eq!((net.up(0), net.up(1), net.up(2)), (vec![2], vec![1, 3], vec![2]));
}

#[test]
fn a_node_that_comes_back_elsewhere_is_found_there_and_one_that_stays_away_is_forgotten() {
    let mut net = Net::default();
    for host in [1, 2] {
        net.start(host, host.into(), &plan([(GROUP, group())]));
    }
    net.run(Duration::from_secs(1));
    assert_eq!(net.up(0), [2]);
    net.members.pop();
    net.run(Duration::from_secs(2));
    net.start(9, 2, &plan([(GROUP, group())]));
    net.run(Duration::from_secs(3));
    assert_eq!(net.up(0), [2]);
    let moved = |e: &Event| matches!(e, Event::PathDiscovered { address, .. } if *address == at(9));
    assert!(net.members[0].events.iter().any(moved));
    net.members.pop();
    net.run(Duration::from_secs(7));
    assert!(net.known(0).is_empty());
    assert!(matches!(net.members[0].events.last(), Some(Event::PeerForgotten { node }) if node.raw() == 2));
}

#[test]
fn replayed_announcements_change_nothing_while_the_node_lives() {
    let mut net = Net::default();
    for host in [1, 2] {
        net.start(host, host.into(), &plan([(GROUP, group())]));
    }
    net.run(Duration::from_secs(1));
    // An earlier life of node 2, at another place.
    net.members.pop();
    net.run(Duration::from_secs(4));
    net.start(9, 2, &plan([(GROUP, group())]));
    net.run(Duration::from_secs(4));
    let old = net.log.clone();
    net.members[0].events.clear();
    for (path, _, from, datagram) in &old {
        let mut data = datagram.clone();
        let received = Received { path: *path, from: *from, segment: data.len(), data: &mut data };
        net.members[0].endpoint.handle(net.now, Input::Received(received));
    }
    let before = net.log.len();
    net.run(Duration::from_millis(1));
    let peers = net.members[0].endpoint.config().peers.clone();
    assert_eq!(peers[0].addresses, [(PathId(0), at(9))]);
    assert_eq!(net.up(0), [2]);
    assert!(net.members[0].events.is_empty(), "{:?}", net.members[0].events);
    assert!(net.log.len() <= before + 1, "replays are not answered");
}

#[test]
fn a_flood_of_questions_is_answered_within_the_limit_and_no_answer_is_larger() {
    let keys: KeyRing = vec![7; 32].into();
    let now = Instant::from_millis(1000);
    let local = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
    let found_by = DiscoveryConfig::new([(PathId(0), at(1))], []);
    let mut discovery = Discovery::new(now, found_by, (local, [3; 16]), Rng::new(1));
    let (mut asked, mut sizes) = (0, BTreeSet::new());
    for serial in 1..=40 {
        for node in 2..=400 {
            let from = NodeInstance::new(NodeId::new(node), Incarnation::new(1));
            let announce = Announce { asks: true, from, serial, addresses: vec![(PathId(0), at(9))] };
            let datagram = announce.emit(&[3; 16], (KeyId(0), keys.handshake(KeyId(0)).unwrap()));
            let came = (PathId(0), at(9));
            asked += 1;
            let _full = discovery.on_announce(now, came, &datagram, &keys);
            sizes.extend(discovery.transmits.iter().map(|t| t.data.len()));
            assert!(discovery.known.len() <= NODES_MAX);
            assert!(sizes.iter().all(|size| *size <= datagram.len()));
        }
    }
    assert!(asked > 10_000);
    assert!(
        discovery.transmits.len() <= usize::try_from(ANSWERS_MAX).unwrap(),
        "{}",
        discovery.transmits.len()
    );
}

#[test]
fn other_datagrams_and_foreign_keys_are_dropped_with_their_reason() {
    let keys: KeyRing = vec![7; 32].into();
    let foreign: KeyRing = vec![8; 32].into();
    let local = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
    let now = Instant::from_millis(1000);
    let found_by = DiscoveryConfig::new([(PathId(0), at(1))], []);
    let mut discovery = Discovery::new(now, found_by, (local, [3; 16]), Rng::new(1));
    let mut hear = |datagram: &[u8]| discovery.on_announce(now, (PathId(0), at(9)), datagram, &keys);
    let from = NodeInstance::new(NodeId::new(2), Incarnation::new(1));
    let announce = Announce { asks: true, from, serial: 1, addresses: vec![(PathId(0), at(9))] };
    let mac = |keys: &KeyRing, cluster: [u8; 16], a: &Announce| {
        a.emit(&cluster, (KeyId(0), keys.handshake(KeyId(0)).unwrap()))
    };
    assert_eq!(hear(&mac(&foreign, [3; 16], &announce)), Err(DropReason::BadMac));
    assert_eq!(hear(&mac(&keys, [4; 16], &announce)), Err(DropReason::OtherCluster));
    let own = Announce { from: local, ..announce.clone() };
    assert_eq!(hear(&mac(&keys, [3; 16], &own)), Err(DropReason::UnknownPeer));
    assert_eq!(hear(&mac(&keys, [3; 16], &announce)), Ok(()));
    assert_eq!(hear(&mac(&keys, [3; 16], &announce)), Err(DropReason::Replayed));
    let hello = Handshake::Hello { salt: [0; 16] };
    let key = (KeyId(0), keys.handshake(KeyId(0)).unwrap());
    let datagram = seal_handshake(key, 0, from, local.node, (&[3; 16], &hello));
    assert_eq!(hear(&datagram), Err(DropReason::Length));
}
