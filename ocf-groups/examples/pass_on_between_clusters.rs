//! Two clusters that know nothing of each other, and a machine that is a node of both: what a group of the east orders comes in a group of the
//! west, once and in order. In one process and without a network. `cargo run -p ocf-groups --example pass_on_between_clusters`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]
#![expect(clippy::wildcard_enum_match_arm, reason = "and looks only at what it shows")]

use bytes::Bytes;
use ocf_comm::{MemoryHub, MemoryNode};
use ocf_groups::relay::{Arrival, Arrivals, Config as Limits, Relay};
use ocf_groups::{AgreedGroups, Config, Event, GroupProvider, GroupService, Guarantee, MemberId};
use ocf_membership::{self as membership, Durability, Membership as _, NodeVotes};
use pils::{Incarnation, Instant, NodeId, NodeInstance, Rng};
use std::error::Error;
use std::time::Duration;

const NEWS: &str = "news";
/// The gateways' own group, in the cluster that they pass on to: its first member passes on.
const GATES: &str = "gates";

type Node = AgreedGroups<MemoryNode>;

/// A cluster of two nodes; the second is the one of the machine that is in both.
fn cluster() -> Result<[Node; 2], Box<dyn Error>> {
    let hub = MemoryHub::default();
    let start = |n: u32| -> Result<Node, Box<dyn Error>> {
        let me = NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 96));
        let nodes = (1..=2).map(|n| NodeVotes::new(NodeId::new(n), 1));
        let views = membership::Config { durability: Durability::Volatile, ..membership::Config::new(nodes) };
        let (below, rng) = (hub.attach(me)?, Rng::new(u64::from(n)));
        Ok(AgreedGroups::volatile(Instant::ZERO, views, Config::default(), below, rng)?)
    };
    Ok([start(1)?, start(2)?])
}

/// What a node is told: which of it came from elsewhere.
fn hear(node: &mut Node, now: Instant, arrivals: &mut Arrivals, heard: &mut Vec<String>) {
    while let Some(event) = node.poll_group_event() {
        match event {
            Event::Message { group, payload, .. } if &*group == NEWS => {
                if let Arrival::Relayed(news) = arrivals.take(&payload) {
                    let text = String::from_utf8_lossy(&news.payload);
                    heard.push(format!("{text} (from {} in the {})", news.sender.instance.node, news.origin));
                }
            }
            Event::StateWanted { group, joiner, position } => {
                // How far the news have come is part of the state. Refused if the joiner is gone again.
                drop(node.offer_state(now, &group, joiner, position, arrivals.write()));
            }
            _ => {}
        }
    }
}

/// The machine in both: hands what both nodes are told to the relay.
fn pass_on(relay: &mut Relay, east: &mut Node, west: &mut Node, now: Instant) -> Result<(), Box<dyn Error>> {
    while let Some(event) = east.poll_group_event() {
        match event {
            Event::Membership { joined, .. } if joined.iter().any(|m| m.instance == east.local()) => {
                relay.source_joined();
            }
            Event::Reset { .. } => relay.source_reset(),
            Event::Message { position, sender, payload, .. } => relay.source(position, sender, &payload),
            Event::StateWanted { group, joiner, position } => {
                drop(east.offer_state(now, &group, joiner, position, Bytes::new()));
            }
            _ => {}
        }
    }
    while let Some(event) = west.poll_group_event() {
        match event {
            Event::Membership { group, members, .. } if &*group == GATES => relay.gateways(&members),
            Event::Membership { members, joined, .. } if members == joined => {
                relay.target_joined(Arrivals::default());
            }
            Event::State { state, .. } => {
                relay.target_joined(Arrivals::read(&mut pils::wire::Reader::new(&state))?);
            }
            Event::Message { payload, .. } => drop(relay.target(&payload)),
            Event::StateWanted { group, joiner, position } => {
                let state = relay.arrivals().map(Arrivals::write).unwrap_or_default();
                drop(west.offer_state(now, &group, joiner, position, state));
            }
            Event::Reset { group, .. } if &*group == GATES => relay.gateways_reset(),
            Event::Reset { .. } => relay.target_reset(),
            _ => {}
        }
    }
    let is_gate = west.is_local(GATES, 0);
    if relay.serves() && !is_gate {
        west.join(now, GATES, 0)?;
    }
    // Refused while it leaves already.
    if !relay.serves() && is_gate && west.leave(now, GATES, 0).is_ok() {
        relay.gateways_left(west.is_local(GATES, 0));
    }
    while let Some(message) = relay.next() {
        if west.send(now, NEWS, 0, Guarantee::Safe, message).is_err() {
            break;
        }
        relay.handed_out();
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let [mut east, mut east_gate] = cluster()?;
    let [mut west, mut west_gate] = cluster()?;
    let local = MemberId { instance: west_gate.local(), local: 0 };
    let mut relay = Relay::new(Limits::default(), "east", "west", local);
    let mut now = Instant::ZERO;
    for node in [&mut east, &mut east_gate, &mut west, &mut west_gate] {
        node.join(now, NEWS, 0)?;
    }
    let (mut arrivals, mut heard) = (Arrivals::default(), Vec::new());
    let mut news = ["the bridge is open", "the bridge is closed", "there is a ferry"].into_iter().peekable();
    while heard.len() < 3 {
        now += Duration::from_millis(1);
        for node in [&mut east, &mut east_gate, &mut west, &mut west_gate] {
            node.process(now);
        }
        pass_on(&mut relay, &mut east_gate, &mut west_gate, now)?;
        hear(&mut west, now, &mut arrivals, &mut heard);
        hear(&mut east, now, &mut Arrivals::default(), &mut Vec::new());
        let all_there = east.members(NEWS).len() == 2 && west.members(NEWS).len() == 2;
        if let Some(text) = news.peek().filter(|_| all_there)
            && east.send(now, NEWS, 0, Guarantee::Safe, Bytes::from_static(text.as_bytes())).is_ok()
        {
            news.next();
        }
    }
    heard.iter().for_each(|news| println!("{news}"));
    assert!(heard[2].starts_with("there is a ferry (from "), "{heard:?}");
    Ok(())
}
