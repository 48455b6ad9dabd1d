//! What a hostile datagram costs the node that gets it, by kind, and what a flood of them leaves behind. Method: an endpoint in
//! memory, real time; run with `cargo test --release -p ocf-comm --test cost -- --ignored --nocapture`.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "prints what it measures in real time"
)]

mod net;

use net::{MS, Net};
use ocf_comm::{Input, Lane, Output, PathId, Received};
use pils::{Layer as _, Rng};
use std::net::SocketAddr;
use std::time::Instant;

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Gives node 1 so many datagrams, each from another address, and returns nanoseconds for each and bytes answered.
fn flood(net: &mut Net, count: u32, mut make: impl FnMut(u32, &mut Vec<u8>)) -> (u64, usize) {
    let now = net.now;
    let endpoint = net.nodes[1].endpoint.as_mut().unwrap();
    let (mut data, mut answered, mut spent) = (Vec::new(), 0, core::time::Duration::ZERO);
    for n in 0..count {
        make(n, &mut data);
        let from = SocketAddr::from(([203, 0, 113, (n % 250) as u8], 1024 + (n % 60_000) as u16));
        let segment = data.len().max(1);
        let began = Instant::now();
        endpoint.handle(now, Input::Received(Received { path: PathId(0), from, segment, data: &mut data }));
        while let Some(output) = endpoint.poll_output() {
            if let Output::Transmit(transmit) = output {
                answered += transmit.data.len();
                endpoint.recycle(transmit.data);
            }
        }
        spent += began.elapsed();
    }
    endpoint.check_invariants();
    (u64::try_from(spent.as_nanos()).unwrap() / u64::from(count), answered)
}

#[test]
#[ignore = "prints a measurement that depends on the machine"]
fn a_flood_of_every_kind_of_hostile_datagram_costs_little_each_and_leaves_nothing_behind() {
    const COUNT: u32 = 200_000;
    let mut net = Net::new(1, 3, 1);
    net.start_all();
    let mut handshakes = Vec::new();
    for _ in 0..400 {
        handshakes.extend(net.overhear(1).into_iter().filter(|d| d[0] >> 4 > 1));
        net.run(MS / 40);
    }
    assert!(net.all_up());
    handshakes.sort();
    handshakes.dedup();
    assert!(net.send(0, 1, Lane::Small, 20_000));
    let packet = net.overhear(1).into_iter().filter(|d| d[0] >> 4 == 1).max_by_key(Vec::len).unwrap();
    let mut rng = Rng::new(1);
    let before = resident();
    let tell = |kind: &str, size: usize, (each, answered): (u64, usize)| {
        let back = answered / usize::try_from(COUNT).unwrap();
        println!(
            "{kind:32} {size:5} bytes: {each:6} ns each, {back} bytes back, resident {} KiB",
            resident()
        );
        // A debug build and a busy machine are slow; what is bounded is the order of magnitude.
        assert!(each < 200_000, "{kind}: {each} ns");
        assert!(back <= size, "{kind}: {back} bytes for {size}");
    };
    let numbered = |n: u32, data: &mut Vec<u8>| {
        data.clone_from(&packet);
        data[8..16].copy_from_slice(&((1_u64 << 40) + u64::from(n)).to_be_bytes());
    };
    tell("forged packet", packet.len(), flood(&mut net, COUNT, numbered));
    let small = |n: u32, data: &mut Vec<u8>| {
        numbered(n, data);
        data.truncate(64);
    };
    tell("forged small packet", 64, flood(&mut net, COUNT, small));
    tell("replayed packet", packet.len(), flood(&mut net, COUNT, |_, data| data.clone_from(&packet)));
    let circuit = |n: u32, data: &mut Vec<u8>| {
        data.clone_from(&packet);
        data[4..8].copy_from_slice(&n.to_be_bytes());
    };
    tell("packet of no circuit", packet.len(), flood(&mut net, COUNT, circuit));
    let noise = |_: u32, data: &mut Vec<u8>| {
        data.resize(1400, 0);
        rng.fill(data);
    };
    tell("noise", 1400, flood(&mut net, COUNT, noise));
    for handshake in &handshakes {
        let kind = ["", "", "HELLO", "INIT", "COOKIE", "RESPONSE", "REFUSE", "OBITUARY", "ANNOUNCE"];
        let kind = kind[usize::from(handshake[0] >> 4)];
        let again = |_: u32, data: &mut Vec<u8>| data.clone_from(handshake);
        tell(&format!("{kind} again"), handshake.len(), flood(&mut net, COUNT, again));
        let forged = |n: u32, data: &mut Vec<u8>| {
            data.clone_from(handshake);
            let end = data.len();
            data[end - 4..].copy_from_slice(&n.to_be_bytes());
        };
        tell(&format!("{kind} forged"), handshake.len(), flood(&mut net, COUNT, forged));
    }
    let grown = resident().saturating_sub(before);
    println!("resident memory grew by {grown} KiB");
    assert!(grown < 8 << 10, "{grown} KiB after a flood from {COUNT} ends of each kind");
    assert!(net.send(0, 1, Lane::Urgent, 100) && net.run_until(1000 * MS, Net::all_arrived));
    assert!((0..3).all(|i| net.downs(i).is_empty()), "nobody was disturbed");
}
