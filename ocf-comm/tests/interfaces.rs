//! An interface loses its carrier, goes down, comes back and changes its address under a running node, which goes on: in a
//! network namespace, with the tools that an operator uses.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "real interfaces in real time; it fails where it stops"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a step waits for one kind of event and leaves the others"
)]

use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::medium::{Link, MediumSpec};
use ocf_comm::{Channel, Config, DiscoveryConfig, Event, Lane, PathId, Preset};
use pils::{NodeId, NodeInstance};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

const KEY: &[u8; 32] = b"32 random bytes, the same on all";
const INSIDE: &str = "OCF_COMM_INSIDE";
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_interface_that_goes_down_comes_back_or_changes_its_address_is_followed_without_a_restart() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let namespace = format!("ocf-if-{}", std::process::id());
    ip(&format!("netns add {namespace}"));
    let this = std::env::current_exe().unwrap();
    let name = "an_interface_that_goes_down_comes_back_or_changes_its_address_is_followed_without_a_restart";
    let inside = Command::new("ip")
        .args(["netns", "exec", &namespace])
        .arg(this)
        .args(["--ignored", "--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    ip(&format!("netns del {namespace}"));
    assert!(inside.unwrap().success(), "see above");
}

struct Node(UdpNode);

impl Node {
    fn wait<R>(&self, what: &str, pick: impl Fn(&Event) -> Option<R>) -> R {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(event) = self.0.recv_timeout(left) else { panic!("never {what}; saw {seen:?}") };
            if let Some(found) = pick(&event) {
                return found;
            }
            seen.push(event);
        }
    }

    fn up(&self) -> NodeInstance {
        self.wait("up", |event| match event {
            Event::Up { peer } => Some(*peer),
            _ => None,
        })
    }

    fn link(&self, wanted: Link) {
        let end = Instant::now() + PATIENCE;
        while self.0.media()[0].link != wanted {
            assert!(Instant::now() < end, "the link is never {wanted:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A message passes from one to the other.
fn talk(from: &Node, to: &Node, peer: NodeInstance) {
    from.0.send(peer, Lane::Small, Channel::APPLICATION, "still here".into()).unwrap();
    to.wait("a message", |event| matches!(event, Event::Message { .. }).then_some(()));
}

fn inside() {
    ip("link set lo up");
    ip("link add va type veth peer name vb");
    ip("addr add 10.9.0.1/24 dev va");
    ip("addr add 10.9.1.2/24 dev lo");
    ip("link set va up");
    ip("link set vb up");
    let fixed: SocketAddr = "10.9.1.2:5405".parse().unwrap();
    let start = |node: u32, media: MediumSpec, to: Vec<(PathId, SocketAddr)>| {
        let ports = Ports::bind(&IoConfig::over([media])).unwrap();
        let own = ports.local_addresses().unwrap()[0];
        let mut config = Config::new("interfaces", Preset::Lan);
        config.discovery = Some(DiscoveryConfig::new([(PathId(0), own)], to));
        Node(UdpNode::start(ports, NodeId::new(node), config, KEY).unwrap())
    };
    let moving = start(1, MediumSpec::interface("va", 5405), vec![(PathId(0), fixed)]);
    let other = start(2, MediumSpec::udp(fixed), Vec::new());
    let (first_seen, peer) = (other.up(), moving.up());
    talk(&moving, &other, peer);

    // Switched off at the other end of the cable: no carrier, told as such.
    ip("link set vb down");
    moving.link(Link::Down);
    ip("link set vb up");
    moving.link(Link::Up);

    // Switched off and on here.
    ip("link set va down");
    moving.link(Link::Down);
    ip("link set va up");
    moving.link(Link::Up);

    // Another address: the node binds there and announces it, and its circuit goes on.
    ip("addr del 10.9.0.1/24 dev va");
    ip("addr add 10.9.0.7/24 dev va");
    let now: SocketAddr = "10.9.0.7:5405".parse().unwrap();
    let end = Instant::now() + PATIENCE;
    while moving.0.media()[0].address != Some(now) {
        assert!(Instant::now() < end, "it never binds to the new address");
        std::thread::sleep(Duration::from_millis(2));
    }
    other.wait("the new address", |event| match event {
        Event::PathDiscovered { address, .. } if *address == now => Some(()),
        Event::Down { reason, .. } if reason.is_final() => panic!("{reason}"),
        _ => None,
    });
    let end = Instant::now() + PATIENCE;
    while !moving.0.peers().iter().any(|p| p.up) || !other.0.peers().iter().any(|p| p.up) {
        assert!(Instant::now() < end, "they never meet again");
        std::thread::sleep(Duration::from_millis(2));
    }
    talk(&moving, &other, peer);
    talk(&other, &moving, first_seen);
}
