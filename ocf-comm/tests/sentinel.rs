//! Processes that are killed, stopped and left: what a peer hears, and how soon. Real processes, real signals; this program
//! is the test, its victim and the sentinel, by its first argument.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "real processes in real time")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a case waits for one kind of event and leaves the others"
)]

use ocf_comm::crypto::KeyRing;
use ocf_comm::driver::sentinel::{SentinelConfig, run_if_asked};
use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::{Config, DownReason, Event, Preset};
use pils::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KEY: &[u8; 32] = b"32 random bytes, the same on all";
const PATIENCE: Duration = Duration::from_secs(20);
/// The detection time of the preset.
const DETECTION: Duration = Duration::from_millis(500);

fn main() {
    run_if_asked();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, own, peer] = &arguments[..]
        && role == "victim"
    {
        victim(own.parse().expect("an address"), peer.parse().expect("an address"));
    }
    if arguments.iter().any(|a| a == "--list") {
        return;
    }
    let bench = Bench::new();
    a_killed_process_is_known_dead_within_milliseconds(&bench);
    a_stopped_process_is_silent_not_dead(&bench);
    without_its_sentinel_a_death_is_found_by_silence(&bench);
    who_leaves_takes_its_sentinel_along(&bench);
    a_program_that_does_not_become_a_sentinel_is_an_error();
    println!("test result: ok. 5 passed");
}

fn keys() -> KeyRing {
    KeyRing::from(&KEY[..])
}

fn victim(own: SocketAddr, peer: SocketAddr) -> ! {
    let ports = Ports::bind(&IoConfig::new([own])).expect("the port is free");
    let config = Config::new("sentinel", Preset::Lan).with_peer(NodeId::new(1), peer);
    let guard = SentinelConfig::default();
    let node =
        UdpNode::start_guarded(ports, NodeId::new(2), config, keys(), Some(&guard)).expect("it starts");
    println!("{}", node.sentinel().expect("it has a sentinel"));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("standard input can be read");
    node.leave();
    std::process::exit(0)
}

struct Bench {
    node: UdpNode,
    own: SocketAddr,
    victim: SocketAddr,
}

struct Victim {
    child: Child,
    sentinel: Pid,
}

impl Bench {
    fn new() -> Self {
        let any =
            || Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().expect("an address")])).expect("binds");
        let (ports, other) = (any(), any());
        let address = |ports: &Ports| ports.local_addresses().expect("bound")[0];
        let (own, victim) = (address(&ports), address(&other));
        drop(other);
        let config = Config::new("sentinel", Preset::Lan).with_peer(NodeId::new(2), victim);
        let node = UdpNode::start(ports, NodeId::new(1), config, keys()).expect("it starts");
        Self { node, own, victim }
    }

    /// Starts the victim and waits until it is up here, and for a moment until its sentinel knows whom to tell.
    fn start(&self) -> Victim {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args(["victim", &self.victim.to_string(), &self.own.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let mut line = String::new();
        let said = child.stdout.take().expect("a pipe");
        BufReader::new(said).read_line(&mut line).expect("it says who its sentinel is");
        let sentinel = Pid::from_raw(line.trim().parse().expect("a process id")).expect("not zero");
        self.wait(|event| matches!(event, Event::Up { .. }).then_some(()));
        std::thread::sleep(Duration::from_millis(50));
        Victim { child, sentinel }
    }

    fn wait<R>(&self, pick: impl Fn(&Event) -> Option<R>) -> R {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.node.recv_timeout(left).expect("an event in time");
            if let Some(found) = pick(&event) {
                return found;
            }
        }
    }

    fn down(&self) -> DownReason {
        self.wait(|event| match event {
            Event::Down { reason, .. } => Some(*reason),
            _ => None,
        })
    }
}

impl Victim {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the victim lives");
    }

    fn reap(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("the victim ends");
    }
}

fn is_gone(pid: Pid) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // A zombie that its new parent has not reaped yet is gone, too.
    state.map_or(true, |text| text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

fn a_killed_process_is_known_dead_within_milliseconds(bench: &Bench) {
    let mut times: Vec<Duration> = (0..7)
        .map(|_| {
            let victim = bench.start();
            let killed = Instant::now();
            victim.signal(Signal::KILL);
            let reason = bench.down();
            let took = killed.elapsed();
            assert_eq!(reason, DownReason::Obituary { resources: false });
            assert!(reason.is_final() && reason.is_proof_of_death());
            victim.reap();
            took
        })
        .collect();
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!(
        "killed: known after {median:.1?} (median of {}), {:.1?} to {:.1?}; detection time {DETECTION:?}",
        times.len(),
        times[0],
        times[times.len() - 1]
    );
    assert!(median <= DETECTION / 10, "the median {median:?} is over a tenth of the detection time");
}

fn a_program_that_does_not_become_a_sentinel_is_an_error() {
    for program in ["/bin/true", "/bin/cat"] {
        let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().expect("an address")])).expect("binds");
        let guard = SentinelConfig { program: Some(program.into()) };
        let started = UdpNode::start_guarded(
            ports,
            NodeId::new(1),
            Config::new("s", Preset::Lan),
            keys(),
            Some(&guard),
        );
        let error = started.expect_err("it is no sentinel").to_string();
        assert!(error.contains("run_if_asked"), "{error}");
    }
}

fn a_stopped_process_is_silent_not_dead(bench: &Bench) {
    let victim = bench.start();
    victim.signal(Signal::STOP);
    let reason = bench.down();
    assert!(matches!(reason, DownReason::Silent { .. }), "{reason}");
    assert!(!reason.is_final());
    victim.signal(Signal::CONT);
    bench.wait(|event| matches!(event, Event::Up { .. }).then_some(()));
    victim.signal(Signal::KILL);
    assert_eq!(bench.down(), DownReason::Obituary { resources: false });
    victim.reap();
}

fn without_its_sentinel_a_death_is_found_by_silence(bench: &Bench) {
    let victim = bench.start();
    kill_process(victim.sentinel, Signal::KILL).expect("the sentinel lives");
    victim.signal(Signal::KILL);
    let reason = bench.down();
    // Its closed port makes the others ask sooner; that nobody answers decides.
    assert!(matches!(reason, DownReason::Silent { .. } | DownReason::Unreachable { .. }), "{reason}");
    assert!(!reason.is_final());
    victim.reap();
}

fn who_leaves_takes_its_sentinel_along(bench: &Bench) {
    let victim = bench.start();
    let sentinel = victim.sentinel;
    victim.reap();
    assert_eq!(bench.down(), DownReason::Left);
    let end = Instant::now() + PATIENCE;
    while !is_gone(sentinel) {
        assert!(Instant::now() < end, "the sentinel of a node that left lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}
