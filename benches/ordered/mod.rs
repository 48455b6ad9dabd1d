//! Ordered messages on links of 1 Gb/s, with a member that stands still, and held against JGroups.
#![allow(unreachable_pub, reason = "a bench is a crate without users")]

mod jgroups;

pub use jgroups::report as against_jgroups;

use crate::support::group_nodes::{GroupNodes, NODES, Setup};
use crate::support::{Goal, Name, Options, Report, Samples, plot::number};
use crate::{KIB, LARGE};
use rustix::process::Signal;
use std::thread;
use std::time::{Duration, Instant};

/// Megabytes per second that 1 Gb/s carries in UDP datagrams of 1472 bytes, as the shaper counts: with 14 bytes of Ethernet
/// header, 20 of IP and 8 of UDP.
const WIRE: f64 = 125.0 * 1472.0 / 1514.0;
const ALL: Name = ("V-7", "16 KiB, all send, links of 1 Gb/s");
const ONE: Name = ("V-7/one", "16 KiB, one sends, links of 1 Gb/s");
const MEMORY: Name = ("V-8/memory", "memory of a node, 1 KiB, one member stopped");

/// What each node delivers when its own link is what is scarce: with three nodes each byte leaves its sender twice.
pub fn on_links(options: Options, report: &mut Report) {
    let time = options.time(Duration::from_secs(3));
    let copies = number(NODES - 1);
    let limits = [("N/(N-1) B", WIRE * number(NODES) / copies), ("B/(N-1)", WIRE / copies)];
    let goal = Some(Goal::AtLeast(0.9));
    let taken = shaped(time, if options.quick { 1 } else { 3 });
    for ((name, limit), at) in [ALL, ONE].into_iter().zip(limits).zip(0..) {
        match &taken {
            Ok(rates) => report.figure(name, (rates[at], "MB/s"), Some(limit), goal),
            Err(why) => report.missing(name, "MB/s", goal, why),
        }
    }
}

/// MB/s when all send, and when one sends.
fn shaped(time: Duration, rounds: usize) -> Result<[f64; 2], String> {
    let mut nodes = GroupNodes::start(Setup { shape: Some("1gbit"), ..Setup::default() })?;
    let size = LARGE / 4;
    let mut seen: [Vec<f64>; 2] = Default::default();
    for _ in 0..rounds {
        for (seen, senders) in seen.iter_mut().zip([NODES, 1]) {
            seen.push(nodes.rate(size, senders, time)? * number(size) / 1e6);
        }
    }
    Ok(seen.map(|rates| Samples::new(rates).median()))
}

/// How much the memory of those grows who go on while one member does not.
pub fn memory(options: Options, report: &mut Report) {
    let goal = Some(Goal::AtMost(1.25));
    match stopped(options.time(Duration::from_secs(10))) {
        Ok((before, most)) => report.figure(MEMORY, (most, "MB"), Some(("before", before)), goal),
        Err(why) => report.missing(MEMORY, "MB", goal, &why),
    }
}

/// The largest memory of the first two nodes under load: as long as all run, and while the third stands still.
fn stopped(time: Duration) -> Result<(f64, f64), String> {
    let mut nodes = GroupNodes::start(Setup::default())?;
    nodes.begin("rate", KIB, NODES, time * 2)?;
    let before = largest(&nodes, time)?;
    nodes.signal(NODES, Signal::STOP)?;
    let most = largest(&nodes, time);
    nodes.signal(NODES, Signal::CONT)?;
    nodes.finish()?;
    Ok((before, most?))
}

fn largest(nodes: &GroupNodes, time: Duration) -> Result<f64, String> {
    let (end, mut most) = (Instant::now() + time, 0.0_f64);
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
        most = most.max(nodes.memory(1)?).max(nodes.memory(2)?);
    }
    Ok(most)
}
