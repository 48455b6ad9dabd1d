//! One of two paths is cut under load: for how long does nothing arrive?

use super::{measure, sh};
use crate::KIB;
use crate::support::circuit::{CHANNEL, KEY, PATIENCE};
use crate::support::corosync::{Corosync, Setup};
use crate::support::{Goal, Report, Samples};
use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::{Config, Event, Lane, PathId, PathState, PathStatus, PeerConfig, Preset};
use pils::NodeId;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CUTS: usize = 5;
const ADDRESSES: [&str; 2] = ["127.0.0.1", "127.0.0.2"];
const PAUSE: Duration = Duration::from_micros(200);
/// Until then a cut has done what it does.
const AFTERMATH: Duration = Duration::from_millis(400);

/// What the receiver saw.
struct Arrivals {
    last: Instant,
    longest: Duration,
}

/// The longest times without an arrival at each cut, and the round-trip time before the first, in microseconds.
pub fn inside() -> Result<Vec<f64>, String> {
    sh("nft add table inet t && nft add chain inet t in '{ type filter hook input priority 0; }'")?;
    let cuts: Vec<[f64; 2]> = (0..CUTS).map(|_| cut()).collect::<Result<_, _>>()?;
    let rtt = cuts[0][1];
    Ok(cuts.into_iter().map(|[gap, _]| gap).chain([rtt]).collect())
}

/// One cut, with nodes of its own: paths that come and go are held to be flapping.
fn cut() -> Result<[f64; 2], String> {
    let nodes = nodes();
    let arrivals = Mutex::new(Arrivals { last: Instant::now(), longest: Duration::ZERO });
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| send(&nodes, &done));
        scope.spawn(|| receive(&nodes[1], &arrivals, &done));
        let measured = cut_and_heal(&nodes[0], &arrivals);
        done.store(true, Ordering::Relaxed);
        measured
    })
}

fn nodes() -> [UdpNode; 2] {
    let any = ADDRESSES.map(|address| SocketAddr::new(address.parse().expect("an address"), 0));
    let ports = [0; 2].map(|_| Ports::bind(&IoConfig::new(any)).expect("free ports on loopback"));
    let addresses =
        ports.each_ref().map(|ports| ports.local_addresses().expect("bound sockets have addresses"));
    let mut id = 0;
    ports.map(|ports| {
        id += 1;
        let mut config = Config::new("bench", Preset::Lan);
        let other = &addresses[if id == 1 { 1 } else { 0 }];
        let addresses = vec![(PathId(0), other[0]), (PathId(1), other[1])];
        config.peers.push(PeerConfig { node: NodeId::new(3 - id), addresses });
        UdpNode::start(ports, NodeId::new(id), config, KEY).expect("a good configuration")
    })
}

/// A message of 1 KiB every 200 microseconds.
fn send(nodes: &[UdpNode; 2], done: &AtomicBool) {
    let to = nodes[1].local();
    while !done.load(Ordering::Relaxed) {
        // Refused before the circuit is up, and while the queue is full.
        let _sent = nodes[0].send(to, Lane::Small, CHANNEL, vec![7; KIB].into());
        while nodes[0].poll_event().is_some() {}
        thread::sleep(PAUSE);
    }
}

fn receive(node: &UdpNode, arrivals: &Mutex<Arrivals>, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        if let Ok(Event::Message { from, lane, message, .. }) = node.recv_timeout(Duration::from_millis(20)) {
            node.consumed(from, lane, message.len());
            let mut seen = arrivals.lock().expect("nobody panics");
            seen.longest = seen.longest.max(seen.last.elapsed());
            seen.last = Instant::now();
        }
    }
}

/// The longest time without an arrival, and the round-trip time before.
fn cut_and_heal(node: &UdpNode, arrivals: &Mutex<Arrivals>) -> Result<[f64; 2], String> {
    let paths = until_both_up(node)?;
    let active = paths.iter().find(|path| path.active).ok_or("no path carries data")?;
    let rtt = active.rtt.ok_or("no round-trip time was measured")?;
    let address = ADDRESSES[usize::from(active.path.0)];
    let lock = || arrivals.lock().expect("nobody panics");
    lock().longest = Duration::ZERO;
    sh(&format!("nft add rule inet t in ip daddr {address} drop"))?;
    thread::sleep(AFTERMATH);
    let seen = lock();
    let gap = seen.longest.max(seen.last.elapsed());
    drop(seen);
    sh("nft flush chain inet t in")?;
    Ok([gap, rtt].map(|time| time.as_secs_f64() * 1e6))
}

fn until_both_up(node: &UdpNode) -> Result<Vec<PathStatus>, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let paths = node.peers().pop().map(|peer| peer.paths).unwrap_or_default();
        if paths.iter().filter(|path| path.state == PathState::Up).count() == 2 {
            // A path that is just up may not carry anything yet.
            thread::sleep(AFTERMATH);
            return Ok(paths);
        }
        if Instant::now() > end {
            return Err(format!("the paths do not come up: {paths:?}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The figures of C-6.
pub fn report(report: &mut Report) {
    let at_most = |bound| Some(Goal::AtMost(bound));
    let what = "one of two paths cut under load: nothing arrives for";
    let ours = match measure("cut") {
        Ok(mut values) => {
            let rtt = values.pop().unwrap_or_default();
            let gap = Samples::new(values).median();
            let allowed = Some(("10 ms + 2 RTT", 10_000.0 + 2.0 * rtt));
            report.figure(("C-6", what), (gap, "us"), allowed, at_most(1.0));
            Ok(gap)
        }
        Err(why) => {
            report.missing(("C-6", what), "us", at_most(1.0), &why);
            Err(why)
        }
    };
    let peers = [
        ("C-6/knet", "the same, against corosync with two links", None, 1.0 / 20.0),
        ("C-6/tuned", "the same, against corosync, token 1000 ms", Some(1000), 1.0 / 3.0),
    ];
    for (id, what, token, bound) in peers {
        let setup = Setup { links: 2, token, ..Setup::usual(true) };
        let theirs = ours.clone().and_then(|gap| Ok((gap, Corosync::start(setup)?.gap()?)));
        match theirs {
            Ok((gap, theirs)) => {
                report.figure((id, what), (gap, "us"), Some(("corosync", theirs)), at_most(bound));
            }
            Err(why) => report.missing((id, what), "us", at_most(bound), &why),
        }
    }
}
