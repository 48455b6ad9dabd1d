//! Two machines on two networks: one network is slow and lossy, one machine stands still, one network lies.
//!
//! Method: two network namespaces joined by two links; the test runs itself once more in the first, and a peer, which sends
//! every message back, in a process of its own in the second. `tc` slows a link, nftables lose and refuse.
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
use ocf_comm::{Channel, Config, DownReason, Event, Lane, PathId, PathPolicy, PathState, PeerConfig, Preset};
use pils::{NodeId, NodeInstance};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KEY: &[u8] = b"a key of at least thirty-two bytes";
const INSIDE: &str = "OCF_COMM_TEST_INSIDE";
const POLICY: &str = "OCF_COMM_TEST_POLICY";
const PATIENCE: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

fn run(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().unwrap();
    assert!(status.success(), "{line}: {status}");
}

fn at(machine: u32, network: u8) -> SocketAddr {
    format!("10.93.{network}.{machine}:5405").parse().unwrap()
}

/// Two namespaces, gone when it is dropped.
struct Machines(String);

impl Machines {
    fn new() -> Self {
        let this = Self(format!("ocf-comm-{}-", std::process::id()));
        let id = &this.0;
        run(&format!("ip netns add {id}1 && ip netns add {id}2"));
        for network in 0..2 {
            run(&format!(
                "ip link add eth{network} netns {id}1 type veth peer name eth{network} netns {id}2"
            ));
            for machine in 1..=2 {
                let ip = format!("ip -n {id}{machine}");
                run(&format!("{ip} addr add 10.93.{network}.{machine}/24 dev eth{network}"));
                run(&format!("{ip} link set eth{network} up && {ip} link set lo up"));
            }
        }
        run(&format!("ip netns exec {id}2 nft add table inet t"));
        run(&format!(
            "ip netns exec {id}2 nft add chain inet t in '{{ type filter hook input priority 0; }}'"
        ));
        this
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in 1..=2 {
            let deleted = Command::new("ip").args(["netns", "del", &format!("{}{machine}", self.0)]).status();
            assert!(deleted.is_ok(), "ip is there");
        }
    }
}

/// Runs `test` of this file on the first machine, unless this is that run.
fn on_two_machines(test: &str, body: impl FnOnce(&str)) {
    if let Ok(id) = std::env::var(INSIDE) {
        return body(&id);
    }
    let machines = Machines::new();
    let status = Command::new("ip")
        .args(["netns", "exec", &format!("{}1", machines.0)])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(INSIDE, &machines.0)
        .status()
        .unwrap();
    assert!(status.success(), "{test} on its machine: {status}");
}

fn start(own: u32, policy: PathPolicy) -> UdpNode {
    let ports = Ports::bind(&IoConfig::new([at(own, 0), at(own, 1)])).unwrap();
    let mut config = Config::new("machines", Preset::Lan);
    config.policy = policy;
    let addresses = (0..2).map(|network| (PathId(network), at(3 - own, network))).collect();
    config.peers.push(PeerConfig { node: NodeId::new(3 - own), addresses });
    UdpNode::start(ports, NodeId::new(own), config, KEY).unwrap()
}

fn policy(name: &str) -> PathPolicy {
    if name == "balance" { PathPolicy::Balance } else { PathPolicy::Failover }
}

/// Not a test: the peer on the second machine. Does nothing unless it was started as such.
#[test]
fn echo() {
    let Ok(name) = std::env::var(POLICY) else { return };
    let node = start(2, policy(&name));
    let mut back = std::collections::VecDeque::new();
    loop {
        if let Ok(Event::Message { from, lane, message, .. }) = node.recv_timeout(MS) {
            node.consumed(from, lane, message.len());
            back.push_back((from, message.slice(..8)));
        }
        while let Some((to, number)) = back.front()
            && node.send(*to, Lane::Small, Channel::APPLICATION, number.clone()).is_ok()
        {
            back.pop_front();
        }
    }
}

/// Bytes that this machine sent on a network so far.
fn carried(network: usize) -> u64 {
    let path = format!("/sys/class/net/eth{network}/statistics/tx_bytes");
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// A node here and its peer there.
struct Pair {
    node: UdpNode,
    child: Child,
    peer: NodeInstance,
    sent: u64,
    back: u64,
    downs: Vec<DownReason>,
    ups: Vec<NodeInstance>,
}

impl Pair {
    fn start(id: &str, name: &str) -> Self {
        let child = Command::new("ip")
            .args(["netns", "exec", &format!("{id}2")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "echo", "--nocapture"])
            .env(POLICY, name)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let node = start(1, policy(name));
        let (downs, ups, peer) = (Vec::new(), Vec::new(), node.local());
        let mut pair = Self { node, child, peer, sent: 0, back: 0, downs, ups };
        pair.until("both paths come up", |pair| pair.up_paths() == 2);
        pair.peer = pair.ups[0];
        (pair.downs, pair.ups) = (Vec::new(), Vec::new());
        pair
    }

    fn up_paths(&self) -> usize {
        let peers = self.node.peers();
        peers[0].paths.iter().filter(|path| peers[0].up && path.state == PathState::Up).count()
    }

    /// Takes what has come; every number comes back once, in order.
    fn take(&mut self, wait: Duration) {
        let mut next = self.node.recv_timeout(wait).ok();
        while let Some(event) = next {
            match event {
                Event::Message { from, lane, message, .. } => {
                    self.node.consumed(from, lane, message.len());
                    assert_eq!(message[..], self.back.to_be_bytes(), "in order, once, without gaps");
                    self.back += 1;
                }
                Event::Down { reason, .. } => self.downs.push(reason),
                Event::Up { peer } => self.ups.push(peer),
                _ => {}
            }
            next = self.node.poll_event();
        }
    }

    fn until(&mut self, what: &str, mut is: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(
                Instant::now() < end,
                "{what}: {} of {} back, {:?}",
                self.back,
                self.sent,
                self.node.peers()
            );
            self.take(5 * MS);
        }
    }

    /// Sends messages of `size` bytes as fast as they are taken, for a time.
    fn load(&mut self, time: Duration, size: usize) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let mut message = vec![7; size];
            message[..8].copy_from_slice(&self.sent.to_be_bytes());
            match self.node.send(self.peer, Lane::Small, Channel::APPLICATION, message.into()) {
                Ok(()) => self.sent += 1,
                Err(_full_or_down) => self.take(MS),
            }
            self.take(Duration::ZERO);
        }
    }

    fn all_back(&mut self) {
        self.until("everything comes back", |pair| pair.back == pair.sent);
    }

    /// Sends a signal to the peer's process, which `ip netns exec` became.
    fn signal(&self, signal: &str) {
        run(&format!("kill -{signal} {}", self.child.id()));
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        assert!(
            self.child.kill().and_then(|()| self.child.wait()).is_ok(),
            "the peer was there to be killed"
        );
    }
}

#[test]
#[ignore = "needs root, network namespaces, tc and nftables"]
fn a_slow_and_lossy_path_beside_a_good_one_loses_nothing_and_takes_its_part() {
    const NAME: &str = "a_slow_and_lossy_path_beside_a_good_one_loses_nothing_and_takes_its_part";
    on_two_machines(NAME, |id| {
        for name in ["failover", "balance"] {
            for machine in 1..=2 {
                let tc = format!("tc -n {id}{machine} qdisc replace dev eth0 root");
                run(&format!("{tc} tbf rate 20mbit burst 64kb latency 20ms"));
            }
            let nft = format!("ip netns exec {id}2 nft");
            run(&format!("{nft} flush chain inet t in"));
            let mut pair = Pair::start(id, name);
            run(&format!("{nft} add rule inet t in iifname eth0 numgen random mod 100 '<' 5 drop"));
            let (began, carried) = (Instant::now(), [0, 1].map(carried));
            pair.load(Duration::from_secs(4), 1000);
            pair.all_back();
            let kilobits = pair.sent * 8000 / u64::try_from(began.elapsed().as_millis()).unwrap();
            let parts: Vec<u64> = (0..2).map(|network| self::carried(network) - carried[network]).collect();
            let paths = pair.node.peers().remove(0).paths;
            let lost: Vec<u32> = paths.iter().map(|path| path.loss_ppm).collect();
            println!(
                "{name}: {} messages, {kilobits} kbit/s, {parts:?} bytes sent, lost {lost:?} ppm",
                pair.sent
            );
            assert!(pair.downs.is_empty(), "{:?}", pair.downs);
            if name == "balance" {
                assert!(parts[1] > 1000 * pair.sent / 4, "the good path carries its part: {parts:?}");
            }
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_machine_that_stood_still_is_suspected_and_goes_on_where_it_stopped() {
    const NAME: &str = "a_machine_that_stood_still_is_suspected_and_goes_on_where_it_stopped";
    on_two_machines(NAME, |id| {
        let mut pair = Pair::start(id, "failover");
        pair.load(500 * MS, 1000);
        pair.signal("STOP");
        let stopped = Instant::now();
        pair.load(100 * MS, 1000);
        pair.until("it is suspected", |pair| !pair.downs.is_empty());
        let found = stopped.elapsed();
        println!("suspected after {found:?}: {:?}", pair.downs);
        assert!(
            matches!(pair.downs[..], [DownReason::Silent { .. }]),
            "a stopped process keeps its port: {:?}",
            pair.downs
        );
        while stopped.elapsed() < Duration::from_secs(5) {
            pair.take(10 * MS);
        }
        pair.signal("CONT");
        pair.until("it comes back", |pair| !pair.ups.is_empty());
        assert_eq!(pair.ups, [pair.peer], "as the same life");
        // What was sent before and during the pause, and after it.
        pair.load(500 * MS, 1000);
        pair.all_back();
        pair.until("both paths come back", |pair| pair.up_paths() == 2);
        assert_eq!(pair.downs.len(), 1, "{:?}", pair.downs);
    });
}

#[test]
#[ignore = "needs root, network namespaces and nftables"]
fn a_network_that_says_of_the_living_that_they_are_gone_is_not_believed() {
    const NAME: &str = "a_network_that_says_of_the_living_that_they_are_gone_is_not_believed";
    on_two_machines(NAME, |id| {
        let mut pair = Pair::start(id, "failover");
        let rule = "udp dport 5405 limit rate 50/second burst 5 packets reject with icmp port-unreachable";
        run(&format!("ip netns exec {id}2 nft add rule inet t in {rule}"));
        for _ in 0..30 {
            pair.load(10 * MS, 1000);
            let end = Instant::now() + 90 * MS;
            while Instant::now() < end {
                pair.take(5 * MS);
            }
        }
        pair.all_back();
        let (stats, io) = pair.node.stats().unwrap();
        println!("{} reports, {} hints, nobody down", io.refused, stats.hints);
        assert!(io.refused >= 10 && stats.hints >= 5, "the network did say so: {io:?}");
        assert!(pair.downs.is_empty(), "{:?}", pair.downs);
    });
}
