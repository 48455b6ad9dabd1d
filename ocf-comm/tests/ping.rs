//! Hosts outside the cluster, watched by a node with real ICMP echo messages.
//!
//! Method: as in `real_paths.rs`, in a network namespace of its own; an address that goes away is one of the loopback
//! interface, which is taken off it or which nftables cut off.
#![cfg(feature = "driver")]
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test of the driver in real time, which may fail where it is wrong"
)]

use ocf_comm::driver::{IoConfig, Ports, SetupError, UdpNode};
use ocf_comm::ping::{PingChange, PingConfig, PingReason, PingState};
use ocf_comm::{Config, Event, Preset};
use pils::NodeId;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

const INSIDE: &str = "OCF_COMM_TEST_INSIDE";
const PATIENCE: Duration = Duration::from_secs(20);

fn command(mut command: Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let mut program = Command::new(words.next().unwrap());
    program.args(words);
    command(program);
}

fn allow_groups(range: &str) {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", range).unwrap();
}

/// Runs `test` of this file through `wrapper` unless this is that run.
fn inside(stage: &str, test: &str, wrapper: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == stage) {
        return body();
    }
    let mut own = Command::new(wrapper[0]);
    own.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
    own.args(["--exact", test, "--ignored", "--nocapture"]).env(INSIDE, stage);
    command(own);
}

fn ports() -> Ports {
    Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap()
}

fn quick(name: &str, hosts: &[&str]) -> PingConfig {
    let mut config = PingConfig::new(name, hosts.iter().map(|host| host.parse::<IpAddr>().unwrap()));
    (config.interval, config.timeout) = (Duration::from_millis(50), Duration::from_millis(500));
    config
}

fn node(targets: &[PingConfig]) -> UdpNode {
    let config = Config::new("ping", Preset::Lan).with_peer(NodeId::new(2), "127.0.0.1:9".parse().unwrap());
    let ports = ports().ping(targets).unwrap();
    UdpNode::start(ports, NodeId::new(1), config, b"a key of at least thirty-two bytes".as_slice()).unwrap()
}

/// Waits for a change of a target as a whole.
fn change(node: &UdpNode, target: &str, state: PingState) -> PingChange {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Ok(Event::Ping(change)) = node.recv_timeout(Duration::from_millis(100))
            && &*change.target == target
            && change.host.is_none()
        {
            assert_eq!(change.state, state, "{change:?}");
            return change;
        }
    }
    panic!("{target} never got {state}: {:?}", node.pings());
}

#[test]
#[ignore = "needs root, or its group in net.ipv4.ping_group_range"]
fn this_machine_answers_over_ipv4_and_ipv6() {
    let node = node(&[quick("self", &["127.0.0.1"]), quick("self6", &["::1"])]);
    let mut up: Vec<String> = Vec::new();
    let end = Instant::now() + PATIENCE;
    while up.len() < 2 && Instant::now() < end {
        if let Ok(Event::Ping(change)) = node.recv_timeout(Duration::from_millis(100)) {
            assert_eq!(change.state, PingState::Up, "{change:?}");
            up.extend(change.host.is_none().then(|| change.target.to_string()));
        }
    }
    up.sort();
    assert_eq!(up, ["self", "self6"], "{:?}", node.pings());
    let pings = node.pings();
    assert!(
        pings.iter().all(|target| target.hosts[0].rtt.is_some() && target.state == PingState::Up),
        "{pings:?}"
    );
}

#[test]
#[ignore = "needs root, a network namespace and nftables"]
fn an_address_goes_away_and_comes_back() {
    const NAME: &str = "an_address_goes_away_and_comes_back";
    inside("net", NAME, &["unshare", "--net"], || {
        run("ip link set lo up");
        run("ip addr add 192.0.2.1/32 dev lo");
        run("nft add table inet t");
        run("nft add chain inet t in { type filter hook input priority 0; }");
        // First through a raw socket, because nobody may use the other one here; then without that right.
        for range in ["1 0", "0 0"] {
            allow_groups(range);
            let targets = [quick("router", &["192.0.2.1"]), quick("pair", &["192.0.2.1", "127.0.0.2"])];
            let node = node(&targets);
            let change = |target, state| change(&node, target, state);
            change("router", PingState::Up);
            run("nft add rule inet t in ip daddr 192.0.2.1 drop");
            let cut = change("router", PingState::Down);
            assert!(matches!(cut.reason, PingReason::Silent { in_row: 3 }), "{cut:?}");
            assert_eq!(cut.reachable, 1, "the pair has another host");
            run("nft flush chain inet t in");
            let back = change("router", PingState::Up);
            assert_eq!((back.reason, back.reachable), (PingReason::Answered { in_row: 2 }, 2));
            run("ip addr del 192.0.2.1/32 dev lo");
            let gone = change("router", PingState::Down);
            // Whether the kernel takes what nobody will receive depends on the route that the socket remembers.
            let unheard = PingReason::Silent { in_row: 3 };
            assert!(
                gone.reason == unheard || matches!(gone.reason, PingReason::NotSent { in_row: 3 }),
                "{gone:?}"
            );
            run("ip addr add 192.0.2.1/32 dev lo");
            change("router", PingState::Up);
        }
    });
}

#[test]
#[ignore = "needs root and a network namespace"]
fn without_the_right_the_error_says_which_setting_gives_it() {
    const NAME: &str = "without_the_right_the_error_says_which_setting_gives_it";
    // A fresh namespace lets no group send echo requests; without this right raw sockets are closed, too.
    let wrapper = ["unshare", "--net", "setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"];
    inside("bare", NAME, &wrapper, || {
        run("ip link set lo up");
        allow_groups("1 0");
        let refused = ports().ping(&[quick("self", &["127.0.0.1"])]).unwrap_err();
        assert!(matches!(refused, SetupError::PingNotPermitted { group: 0 }), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains("sysctl -w net.ipv4.ping_group_range=\"0 0\""), "{text}");
        allow_groups("0 0");
        change(&node(&[quick("self", &["127.0.0.1"])]), "self", PingState::Up);
    });
}

#[test]
fn wrong_targets_are_refused_before_a_socket_is_opened() {
    let refused = ports().ping(&[PingConfig::new("", [])]).unwrap_err().to_string();
    assert!(refused.contains("[0].name") && refused.contains("[0].hosts"), "{refused}");
}
