//! Two nodes in one process, over real encrypted UDP: they meet, talk, and one notices the other's death.
//!
//! `cargo run --release -p ocf-comm --example two_nodes`
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "it shows and measures")]
#![expect(clippy::wildcard_enum_match_arm, reason = "what it does not expect ends it")]

use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::{Channel, Config, Event, Lane, Preset};
use pils::NodeId;
use std::error::Error;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"32 random bytes or more, the same on every node";
const MIB: usize = 1 << 20;
fn main() -> Result<(), Box<dyn Error>> {
    // Bind first, so that each node can be told the port that the other got.
    let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse()?]))?;
    let other_ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse()?]))?;
    let (address, other_address) = (ports.local_addresses()?[0], other_ports.local_addresses()?[0]);

    let config = Config::new("demo", Preset::Lan).with_peer(NodeId::new(2), other_address);
    let node = UdpNode::start(ports, NodeId::new(1), config, KEY)?;
    let config = Config::new("demo", Preset::Lan).with_peer(NodeId::new(1), address);
    let other = UdpNode::start(other_ports, NodeId::new(2), config, KEY)?;
    let echo = other.clone();
    let answering = std::thread::Builder::new().spawn(move || {
        while let Ok(event) = echo.recv_timeout(Duration::from_secs(5)) {
            if let Event::Message { from, lane, channel, message } = event {
                echo.consumed(from, lane, message.len());
                echo.send(from, lane, channel, message).expect("the queue has room for an answer");
            }
        }
    })?;

    let mut started = Instant::now();
    loop {
        match node.recv_timeout(Duration::from_secs(5))? {
            Event::Up { peer } => {
                println!("up       {peer} at {other_address} after {:.1?}", started.elapsed());
                node.send(peer, Lane::Bulk, Channel::APPLICATION, vec![7; 16 * MIB].into())?;
                started = Instant::now();
            }
            Event::Message { from, lane, message, .. } => {
                let took = started.elapsed();
                let rate = 2.0 * 16.0 / took.as_secs_f64();
                println!("echo     {} MiB came back in {took:.1?}: {rate:.0} MiB/s", message.len() / MIB);
                node.consumed(from, lane, message.len());
                other.abandon(); // as if its process had been killed
                started = Instant::now();
            }
            Event::Down { peer, reason } => {
                println!("down     {peer} noticed after {:.0?}: {reason:?}", started.elapsed());
                break answering.join().map_err(|_panic| "the answering thread failed")?;
            }
            Event::PathUp { .. } | Event::PathDoubtful { .. } | Event::PathDown { .. } => {}
            trouble => return Err(format!("on a quiet loopback: {trouble:?}").into()),
        }
    }
    Ok(())
}
