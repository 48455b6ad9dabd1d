//! Two paths over real sockets: one is cut or lossy while messages flow.
//!
//! Method: the test starts itself once more in a network namespace of its own (`unshare --net`), where two nodes in one
//! process talk over 127.0.0.1 and 127.0.0.2; nftables cut or thin out one of them.
#![cfg(feature = "driver")]
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test of the driver in real time, which prints what it measured and may fail where it is wrong"
)]

use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::{Channel, Config, Event, Lane, PathId, PathState, PathStatus, PeerConfig, Preset};
use pils::{NodeId, NodeInstance};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"a key of at least thirty-two bytes";
const INSIDE: &str = "OCF_COMM_TEST_INSIDE";
const MS: Duration = Duration::from_millis(1);

/// Runs `test` of this file in a fresh network namespace, unless this is that run.
fn in_a_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        run("nft add table inet t");
        run("nft add chain inet t in { type filter hook input priority 0; }");
        return body();
    }
    let own = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .arg("--net")
        .arg(own)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} in its namespace: {status}");
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{line}");
}

/// What reaches this address is treated so from now on; nothing else is.
fn treat(address: &str, how: &str) {
    run("nft flush chain inet t in");
    if !how.is_empty() {
        run(&format!("nft add rule inet t in ip daddr {address} {how}"));
    }
}

struct Pair {
    nodes: [UdpNode; 2],
    peer: NodeInstance,
    received: u64,
    downs: u32,
}

impl Pair {
    fn start() -> Self {
        let any = ["127.0.0.1:0", "127.0.0.2:0"].map(|a| a.parse::<SocketAddr>().unwrap());
        let ports: Vec<Ports> = (0..2).map(|_| Ports::bind(&IoConfig::new(any)).unwrap()).collect();
        let addresses: Vec<Vec<SocketAddr>> = ports.iter().map(|p| p.local_addresses().unwrap()).collect();
        let mut ports = ports.into_iter();
        let nodes = [1_usize, 2].map(|n| {
            let mut config = Config::new("paths", Preset::Lan);
            let other = &addresses[2 - n];
            let paths = (0..2).map(|p| (PathId(p), other[usize::from(p)])).collect();
            let id = |n: usize| NodeId::new(u32::try_from(n).unwrap());
            config.peers.push(PeerConfig { node: id(3 - n), addresses: paths });
            UdpNode::start(ports.next().unwrap(), id(n), config, KEY).unwrap()
        });
        let peer = nodes[1].local();
        let mut pair = Self { nodes, peer, received: 0, downs: 0 };
        let end = Instant::now() + Duration::from_secs(5);
        while pair.paths().iter().filter(|p| p.state == PathState::Up).count() < 2 {
            assert!(Instant::now() < end, "both paths come up: {:?}", pair.paths());
            pair.take(20 * MS);
        }
        pair
    }

    fn paths(&self) -> Vec<PathStatus> {
        self.nodes[0].peers().remove(0).paths
    }

    /// Takes events of both nodes for a time; gives the longest time in which no message came.
    fn take(&mut self, time: Duration) -> Duration {
        let (end, mut last, mut longest) = (Instant::now() + time, Instant::now(), Duration::ZERO);
        while Instant::now() < end {
            if let Ok(Event::Message { from, lane, message, .. }) = self.nodes[1].recv_timeout(MS) {
                self.nodes[1].consumed(from, lane, message.len());
                self.received += 1;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            while let Some(event) = self.nodes[0].poll_event() {
                self.downs += u32::from(matches!(event, Event::Down { .. }));
            }
        }
        longest.max(last.elapsed())
    }

    /// Sends messages every 200 microseconds for a time; gives how many, and the longest time in which none came.
    fn load(&mut self, time: Duration) -> (u64, Duration) {
        let (node, to) = (self.nodes[0].clone(), self.peer);
        let sender = std::thread::spawn(move || {
            let (end, mut sent) = (Instant::now() + time, 0);
            while Instant::now() < end {
                let message = vec![7; 1000].into();
                sent += u64::from(node.send(to, Lane::Small, Channel::APPLICATION, message).is_ok());
                std::thread::sleep(MS / 5);
            }
            sent
        });
        let longest = self.take(time);
        (sender.join().unwrap(), longest)
    }
}

#[test]
#[ignore = "needs root, a network namespace and nftables"]
fn a_cut_path_leaves_a_gap_of_milliseconds() {
    in_a_namespace("a_cut_path_leaves_a_gap_of_milliseconds", || {
        let mut pair = Pair::start();
        let (_, calm) = pair.load(1000 * MS);
        let cut = std::thread::spawn(|| {
            std::thread::sleep(500 * MS);
            treat("127.0.0.1", "drop");
        });
        let (sent, gap) = pair.load(1500 * MS);
        cut.join().unwrap();
        pair.take(300 * MS);
        println!("{sent} messages around the cut, longest gap {gap:?}; without a cut {calm:?}");
        assert!(gap < 200 * MS.max(calm), "{gap:?} without a message; {calm:?} without a cut");
        let paths = pair.paths();
        assert!(paths[0].state == PathState::Down && paths[1].active, "{paths:?}");
        treat("127.0.0.1", "");
        let end = Instant::now() + Duration::from_secs(10);
        while pair.paths()[0].state != PathState::Up {
            assert!(Instant::now() < end, "the path comes back: {:?}", pair.paths());
            pair.take(50 * MS);
        }
        assert_eq!(pair.downs, 0, "the peer never went down");
    });
}

#[test]
#[ignore = "needs root, a network namespace and nftables; a minute"]
fn ten_percent_loss_on_both_paths_for_a_minute_breaks_no_circuit() {
    in_a_namespace("ten_percent_loss_on_both_paths_for_a_minute_breaks_no_circuit", || {
        let mut pair = Pair::start();
        treat("127.0.0.0/8", "numgen random mod 100 < 10 drop");
        let (sent, _) = pair.load(Duration::from_secs(60));
        pair.take(2000 * MS);
        let paths = pair.paths();
        let lost: Vec<u32> = paths.iter().map(|p| p.loss_ppm).collect();
        println!("60 s: {sent} messages sent, {} received, loss estimates {lost:?} ppm", pair.received);
        assert_eq!((pair.downs, pair.received), (0, sent));
    });
}

#[test]
#[ignore = "needs root, a network namespace and iproute2"]
fn a_narrow_interface_is_found_by_the_systems_word() {
    in_a_namespace("a_narrow_interface_is_found_by_the_systems_word", || {
        run("ip link set lo mtu 1500");
        let mut pair = Pair::start();
        pair.take(1000 * MS);
        let sizes: Vec<usize> = pair.paths().iter().map(|p| p.mtu).collect();
        assert_eq!(sizes, [1472, 1472], "1500 bytes with 28 of headers");
        run("ip link set lo mtu 1450");
        // only a message that fills packets meets the limit
        for _ in 0..20 {
            let message = vec![7; 20_000].into();
            pair.nodes[0].send(pair.peer, Lane::Small, Channel::APPLICATION, message).unwrap();
        }
        let (sent, _) = pair.load(1000 * MS);
        pair.take(500 * MS);
        assert!(sent > 0 && pair.received == sent + 20 && pair.downs == 0);
        assert!(pair.paths()[0].mtu <= 1422, "{:?}", pair.paths());
    });
}
