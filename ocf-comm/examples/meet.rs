//! Nodes that were told of nobody meet, over two paths, and greet each other: ocf-comm alone.
//!
//! `cargo run --release -p ocf-comm --example meet` shows two nodes in one process. On each machine of a network, give the
//! node's id, its addresses on both networks and the interface to look for others on: `meet 1 10.0.0.1 10.1.0.1 eth0`.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "it shows what happens, in real time")]

use ocf_comm::driver::{IoConfig, Ports, RecvError, UdpNode};
use ocf_comm::medium::MediumSpec;
use ocf_comm::{Channel, Config, DiscoveryConfig, Event, Lane, PathId, Preset};
use pils::NodeId;
use std::error::Error;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"32 random bytes or more, the same on every node";

fn start(id: u32, addresses: [&str; 2], port: u16, interface: &str) -> Result<UdpNode, Box<dyn Error>> {
    let group = "239.192.5.4:5404".parse()?;
    let mut media = Vec::new();
    for address in addresses {
        media.push(MediumSpec::udp(format!("{address}:{port}").parse()?));
    }
    media.push(MediumSpec::multicast(group, interface));
    let ports = Ports::bind(&IoConfig::over(media))?;
    let own = ports.local_addresses()?;
    let mut config = Config::new("meet", Preset::Lan);
    let advertise = [(PathId(0), own[0]), (PathId(1), own[1])];
    config.discovery = Some(DiscoveryConfig::new(advertise, [(PathId(2), group)]));
    Ok(UdpNode::start(ports, NodeId::new(id), config, KEY)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (node, other, wait) = match &arguments[..] {
        [id, first, second, interface] => (start(id.parse()?, [first, second], 5405, interface)?, None, 3600),
        _ => (start(1, ["127.0.0.1"; 2], 0, "lo")?, Some(start(2, ["127.0.0.1"; 2], 0, "lo")?), 5),
    };
    let end = Instant::now() + Duration::from_secs(wait);
    while Instant::now() < end {
        if let Some(Event::Up { peer }) = other.as_ref().and_then(UdpNode::poll_event) {
            other
                .as_ref()
                .map_or(Ok(()), |o| o.send(peer, Lane::Small, Channel::APPLICATION, "hi".into()))?;
        }
        match node.recv_timeout(Duration::from_millis(10)) {
            Ok(Event::Up { peer }) => node.send(peer, Lane::Small, Channel::APPLICATION, "hello".into())?,
            Ok(Event::Message { from, message, .. }) => {
                println!("{from} says {}", String::from_utf8_lossy(&message));
                return Ok(());
            }
            Ok(event) => println!("{event:?}"),
            Err(RecvError::Timeout) => {}
            Err(stopped) => return Err(stopped.into()),
        }
    }
    Err("nobody is there".into())
}
