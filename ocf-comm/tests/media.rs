//! Circuits over every kind of medium, with the sockets and terminals of this machine.
//!
//! Method: two nodes in one process on one medium each; both send messages of all sizes to each other. A serial line is a pair
//! of pseudo terminals whose bytes two threads pass on.
#![cfg(feature = "driver")]
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test of the driver in real time, which may fail where it is wrong"
)]

use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::medium::{MediumSpec, port_address};
use ocf_comm::{Channel, Config, Event, Lane, PathId, PeerConfig, Preset};
use pils::NodeId;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"a key of at least thirty-two bytes";
const PATIENCE: Duration = Duration::from_secs(60);

/// A medium for each of two nodes, and the address at which the other reaches it.
type Ends = [(MediumSpec, SocketAddr); 2];

fn free_port() -> u16 {
    let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap();
    ports.local_addresses().unwrap()[0].port()
}

fn start(own: usize, ends: &[Ends], slow: bool) -> UdpNode {
    let ports = Ports::bind(&IoConfig::over(ends.iter().map(|ends| ends[own].0.clone()))).unwrap();
    // A line of 115,200 bits carries one message of 1200 bytes in a tenth of a second.
    let mut config = Config::new("media", if slow { Preset::Cloud } else { Preset::Lan });
    if slow {
        (config.datagram, config.mtu_ladder) = (1200, vec![1200]);
    }
    let addresses = (0..).map(PathId).zip(ends.iter().map(|ends| ends[1 - own].1)).collect();
    let id = |node: usize| NodeId::new(u32::try_from(node).unwrap() + 1);
    config.peers.push(PeerConfig { node: id(1 - own), addresses });
    UdpNode::start(ports, id(own), config, KEY).unwrap()
}

/// Both nodes send `sizes` to each other, and get what the other sent, whole and in order.
fn talk(ends: &[Ends], sizes: &[usize], slow: bool) -> [UdpNode; 2] {
    let nodes = [0, 1].map(|own| start(own, ends, slow));
    let (mut sent, mut got) = ([0, 0], [0, 0]);
    let end = Instant::now() + PATIENCE;
    while got != [sizes.len(); 2] {
        assert!(
            Instant::now() < end,
            "{sent:?} sent, {got:?} of {} heard: {:?}",
            sizes.len(),
            nodes[0].peers()
        );
        for (own, node) in nodes.iter().enumerate() {
            let message = |n: usize| vec![u8::try_from(n % 251).unwrap(); sizes[n]].into();
            if node.peers()[0].up && sent[own] < sizes.len() {
                let to = nodes[1 - own].local();
                let lane = Lane::Small;
                sent[own] +=
                    usize::from(node.send(to, lane, Channel::APPLICATION, message(sent[own])).is_ok());
            }
            if let Ok(Event::Message { from, lane, message: heard, .. }) =
                node.recv_timeout(Duration::from_millis(1))
            {
                assert!(heard == message(got[own]), "message {} of {} bytes", got[own], heard.len());
                node.consumed(from, lane, heard.len());
                got[own] += 1;
            }
        }
    }
    nodes
}

fn sizes(largest: usize) -> Vec<usize> {
    (0..120).map(|n| 1 + (n * 7919) % largest).collect()
}

#[test]
fn multicast_carries_circuits_though_every_node_hears_everything() {
    let group = SocketAddr::from(([239, 192, 7, 6], free_port()));
    let end = || (MediumSpec::multicast(group, "lo"), group);
    talk(&[[end(), end()]], &sizes(50_000), false);
}

#[test]
fn broadcast_carries_circuits_though_every_node_hears_everything() {
    let all = SocketAddr::from(([127, 255, 255, 255], free_port()));
    let end = || (MediumSpec::broadcast(all), all);
    talk(&[[end(), end()]], &sizes(50_000), false);
}

#[test]
fn memory_carries_circuits() {
    let end = |port| (MediumSpec::memory("circuits", port), port_address(port));
    talk(&[[end(1), end(2)]], &sizes(50_000), false);
}

#[test]
fn media_of_different_kinds_are_paths_of_one_circuit() {
    let group = SocketAddr::from(([239, 192, 7, 7], free_port()));
    let shared = || (MediumSpec::multicast(group, "lo"), group);
    let end = |port| (MediumSpec::memory("kinds", port), port_address(port));
    let nodes = talk(&[[end(1), end(2)], [shared(), shared()]], &sizes(50_000), false);
    let paths = nodes[0].peers().remove(0).paths;
    assert_eq!(paths.len(), 2);
    let media: Vec<String> = nodes[0].media().into_iter().map(|medium| medium.name).collect();
    assert!(media[1].starts_with("multicast"), "{media:?}");
}

fn terminal() -> (OwnedFd, String) {
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&main).unwrap();
    unlockpt(&main).unwrap();
    let name = ptsname(&main, Vec::new()).unwrap().into_string().unwrap();
    (main, name)
}

/// Passes bytes on until a terminal is closed.
fn pump(from: OwnedFd, to: OwnedFd) {
    let mut buffer = [0; 4096];
    while let Ok(length) = rustix::io::read(&from, &mut buffer[..]) {
        let mut rest = &buffer[..length];
        while !rest.is_empty()
            && let Ok(written) = rustix::io::write(&to, rest)
        {
            rest = &rest[written..];
        }
        if length == 0 {
            return;
        }
    }
}

#[test]
fn a_serial_line_carries_circuits() {
    let [(a, a_name), (b, b_name)] = [(); 2].map(|()| terminal());
    let line = |name: &str| (MediumSpec::serial(name, 115_200, 3), port_address(3));
    let (a2, b2) = (a.try_clone().unwrap(), b.try_clone().unwrap());
    std::thread::spawn(move || pump(a, b2));
    std::thread::spawn(move || pump(b, a2));
    talk(&[[line(&a_name), line(&b_name)]], &[1, 10, 100, 1000, 3000, 20, 300], true);
}
