//! Watches hosts outside the cluster by ICMP echo, beside a node that nobody talks to yet.
//!
//! `cargo run --release -p ocf-comm --example watch_a_router -- 192.0.2.254 192.0.2.253`: one target, up while any of them answers.
//! Without addresses it watches this machine. The group of the process must be in `net.ipv4.ping_group_range`, or be root's.
#![expect(clippy::print_stdout, reason = "it shows what happens")]

use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::ping::{PingConfig, PingState};
use ocf_comm::{Config, Event, Preset};
use pils::NodeId;
use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let mut hosts = std::env::args().skip(1).map(|host| host.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
    let only_here = hosts.is_empty();
    if only_here {
        hosts.push(IpAddr::from([127, 0, 0, 1]));
    }
    let router = PingConfig::new("router", hosts);
    let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse()?]))?.ping(&[router])?;
    let config = Config::new("demo", Preset::Lan).with_peer(NodeId::new(2), "127.0.0.1:5405".parse()?);
    let node =
        UdpNode::start(ports, NodeId::new(1), config, b"32 random bytes or more, the same on every node")?;
    loop {
        if let Event::Ping(change) = node.recv_timeout(Duration::from_secs(3600))? {
            let host = change.host.map_or_else(|| "as a whole".to_owned(), |host| host.to_string());
            println!("{}, {host}: {}, {}", change.target, change.state, change.reason);
            if only_here && change.host.is_none() && change.state == PingState::Up {
                return Ok(());
            }
        }
    }
}
