use super::address;
use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::local::{
    Address, CONNECTIVITY, ClientError, ConnectivityService, LocalConfig, LocalConnectivity, Server,
};
use ocf_comm::testing::{Fabric, check_connectivity};
use ocf_comm::{Channel, Config, Connectivity as _, Event, LaneConfig, Preset};
use pils::NodeId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const KEY: &[u8] = b"a key that only the tests of this project use";

/// A node on UDP that serves its connectivity, and the thread that drives it.
struct Host {
    node: UdpNode,
    server: Server,
    service: Arc<ConnectivityService>,
    driving: std::thread::JoinHandle<()>,
}

impl Host {
    fn start(node: UdpNode, address: &Address) -> Self {
        let service = Arc::new(ConnectivityService::new(Box::new(node.clone())));
        let config = LocalConfig::new().node(node.local()).service(CONNECTIVITY, service.clone());
        let server = Server::start(address, config).expect("nobody else is there");
        let (events, offered) = (node.clone(), Arc::clone(&service));
        let drive = move || {
            while events.stopped().is_none() {
                if let Ok(event) = events.recv_timeout(Duration::from_millis(50)) {
                    offered.offer(&event);
                }
            }
        };
        let driving = std::thread::Builder::new().spawn(drive).expect("the system gives a thread");
        Self { node, server, service, driving }
    }

    fn end(self) {
        let Self { server, driving, node, service } = self;
        drop((server, node, service));
        driving.join().expect("it does not panic");
    }
}

/// Nodes whose connectivity is used from the other side of a socket.
struct Through {
    addresses: Vec<SocketAddr>,
    ports: Vec<Option<Ports>>,
    hosts: Vec<Option<(Host, NodeId)>>,
}

impl Through {
    fn new() -> Self {
        let bind = || Ports::bind(&IoConfig::new([([127, 0, 0, 1], 0).into()])).expect("loopback has ports");
        let ports: Vec<_> = (0..3).map(|_| bind()).collect();
        let addresses = ports.iter().map(|p| p.local_addresses().expect("they are bound")[0]).collect();
        Self { addresses, ports: ports.into_iter().map(Some).collect(), hosts: Vec::new() }
    }

    fn take(&mut self, node: NodeId) -> Host {
        let at = self.hosts.iter().position(|host| host.as_ref().is_some_and(|(_, id)| *id == node));
        let at = at.expect("it was started");
        self.hosts.remove(at).expect("it is there").0
    }
}

impl Fabric for Through {
    type Node = LocalConnectivity;

    fn start(&mut self, node: NodeId) -> LocalConnectivity {
        let at = usize::try_from(node.raw()).expect("ids are small") - 1;
        let again = IoConfig::new([self.addresses[at]]);
        let ports = self.ports[at].take();
        let ports = ports.unwrap_or_else(|| Ports::bind(&again).expect("the port is free again"));
        let mut config = Config::new("conformance", Preset::Lan);
        config.bulk = LaneConfig { send_queue: 4 << 20, receive_window: 2 << 20 };
        for (i, address) in (1..).zip(&self.addresses) {
            if NodeId::new(i) != node {
                config = config.with_peer(NodeId::new(i), *address);
            }
        }
        let udp = UdpNode::start(ports, node, config, KEY).expect("the configuration is right");
        let address = address();
        self.hosts.push(Some((Host::start(udp, &address), node)));
        let channels = (0..4).map(|i| Channel(Channel::APPLICATION.0 + i));
        LocalConnectivity::connect(&address, "suite", channels).expect("it is served")
    }

    fn kill(&mut self, node: LocalConnectivity) {
        let host = self.take(node.local().node);
        host.node.abandon();
        host.end();
    }

    fn leave(&mut self, node: LocalConnectivity) {
        let host = self.take(node.local().node);
        host.node.leave();
        host.end();
    }

    fn wait(&mut self) {
        std::thread::sleep(Duration::from_millis(2));
    }

    fn message_max(&self) -> usize {
        let limits = ocf_comm::local::LocalLimits::default();
        limits.frame_max - 1024 - 22
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        for (host, _) in self.hosts.drain(..).flatten() {
            host.node.leave();
            host.end();
        }
    }
}

#[test]
fn connectivity_through_the_socket_conforms() {
    check_connectivity(Through::new);
}

#[test]
fn channels_are_claimed_by_one_program_at_a_time_and_freed_by_its_end() {
    let mut fabric = Through::new();
    let first = fabric.start(NodeId::new(1));
    let address =
        fabric.hosts[0].as_ref().map(|(host, _)| host.server.address().clone()).expect("it was started");
    let connect = |channel: u8| LocalConnectivity::connect(&address, "other", [Channel(channel)]);
    assert!(matches!(connect(32), Err(ClientError::Refused(_))), "taken");
    assert!(matches!(connect(1), Err(ClientError::Refused(_))), "the node's own");
    assert!(connect(99).is_ok());
    drop(first);
    super::eventually("the channel is free", || connect(32).is_ok());
}

#[test]
fn a_program_that_dies_with_messages_unconsumed_holds_nobody_up() {
    let mut fabric = Through::new();
    let (mut a, mut b) = (fabric.start(NodeId::new(1)), fabric.start(NodeId::new(2)));
    let (to, mut up) = (b.local(), false);
    super::eventually("they meet", || {
        up |= matches!(a.poll_event(), Some(Event::Up { peer }) if peer == to);
        while b.poll_event().is_some() {}
        up
    });
    let mut sent = 0;
    while a.send(to, ocf_comm::Lane::Bulk, Channel::APPLICATION, vec![0; 500_000].into()).is_ok() {
        sent += 1;
        assert!(sent < 1000, "the window is bounded");
    }
    drop(b);
    super::eventually("there is room again", || matches!(a.poll_event(), Some(Event::Writable { .. })));
    assert!(fabric.hosts[1].as_ref().is_some_and(|(host, _)| host.service.unclaimed() <= sent));
}
