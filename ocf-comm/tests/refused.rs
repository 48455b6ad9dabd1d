//! A process that dies without a word on a machine that lives: its closed port speaks for it.
//!
//! Method: the peer is this program once more, in a process of its own that is killed.
#![cfg(feature = "driver")]
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test of the driver in real time, which prints what it measured and may fail where it is wrong"
)]

use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::{Config, DownReason, Event, Preset};
use pils::NodeId;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "OCF_COMM_TEST_VICTIM";
const KEY: &[u8] = b"a key of at least thirty-two bytes";
const PATIENCE: Duration = Duration::from_secs(60);

fn bind() -> (Ports, SocketAddr) {
    let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap();
    let at = ports.local_addresses().unwrap()[0];
    (ports, at)
}

fn start(ports: Ports, node: u32, peer: SocketAddr) -> UdpNode {
    // Long enough that a hint and a timeout cannot be taken for each other on a busy machine.
    let mut config = Config::new("refused", Preset::Cloud);
    config.timers.detection = Duration::from_secs(10);
    config.timers.heartbeat = Duration::from_millis(500);
    UdpNode::start(ports, NodeId::new(node), config.with_peer(NodeId::new(3 - node), peer), KEY).unwrap()
}

/// Starts the other node in a process of its own.
fn spawn_victim(peer: SocketAddr) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture"])
        .env(ROLE, peer.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let at = loop {
        let line = lines.next().unwrap().unwrap();
        if let Some(at) = line.split("listens at ").nth(1) {
            break at.parse().unwrap();
        }
    };
    (child, at)
}

/// Not a test: the process that is killed. Does nothing unless it was started as such.
#[test]
fn victim() {
    let Ok(peer) = std::env::var(ROLE) else { return };
    let (ports, at) = bind();
    println!("listens at {at}");
    std::io::stdout().flush().unwrap();
    let node = start(ports, 2, peer.parse().unwrap());
    while node.recv_timeout(PATIENCE).is_ok() {}
}

fn down(node: &UdpNode) -> DownReason {
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "the peer never went down: {:?}", node.peers());
        if let Ok(Event::Down { reason, .. }) = node.recv_timeout(Duration::from_millis(100)) {
            return reason;
        }
    }
}

#[test]
fn a_killed_process_is_found_by_its_closed_port_long_before_the_timeout() {
    let (ports, own) = bind();
    let (mut child, at) = spawn_victim(own);
    let node = start(ports, 1, at);
    let end = Instant::now() + PATIENCE;
    while !node.peers()[0].up {
        assert!(Instant::now() < end, "the two nodes never met");
        drop(node.recv_timeout(Duration::from_millis(20)));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    let reason = down(&node);
    let (stats, io) = node.stats().unwrap();
    println!("{reason:?} {:?} after the kill; {} reports", killed.elapsed(), io.refused);
    assert!(matches!(reason, DownReason::Unreachable { .. }), "{reason:?}");
    assert!(stats.hints >= 2 && io.refused >= 2, "{stats:?} {io:?}");
}
