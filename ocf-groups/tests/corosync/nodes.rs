//! Nodes of a real corosync, each with a provider of this process that was opened inside of its namespaces.

use crate::lab::{Daemons, Setup};
use nix::sched::{CloneFlags, setns, unshare};
use ocf_groups::Config;
use ocf_groups::corosync::{Corosync, CorosyncError};
use ocf_membership::Membership as _;
use ocf_membership::testing::Fabric;
use pils::{Incarnation, Instant, NodeId};
use std::fs::File;
use std::thread;
use std::time::Duration;

/// Between two looks at the nodes.
const PAUSE: Duration = Duration::from_millis(2);
/// Until a daemon that was started answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of the nodes 1 to 3.
#[derive(Debug)]
pub(crate) struct OnCorosync {
    pub(crate) daemons: Daemons,
    started: std::time::Instant,
    lives: u128,
}

impl OnCorosync {
    pub(crate) fn new() -> Self {
        let setup = Setup { token: Some(500), votes: true, ..Setup::usual(true) };
        let daemons = Daemons::new(setup).expect("this test needs root, network namespaces and corosync");
        Self { daemons, started: std::time::Instant::now(), lives: 0 }
    }

    /// Waits until the daemon of a node answers.
    pub(crate) fn wait_for_daemon(&mut self, node: u32) {
        drop(self.open(NodeId::new(node)));
    }

    /// Opens a provider on a node whose daemon runs.
    fn open(&mut self, node: NodeId) -> Corosync {
        self.lives += 1;
        let incarnation = Incarnation::new(self.lives << 64 | u128::from(std::process::id()));
        let pid = self.daemons.node(number(node)).pid();
        // What a connection needs of the namespaces it needs when it is made; and only a thread of its own can enter them.
        thread::spawn(move || {
            enter(pid);
            let opened = std::time::Instant::now();
            loop {
                match Corosync::open("suite", Config::default(), incarnation) {
                    Err(CorosyncError::Refused { .. }) if opened.elapsed() < PATIENCE => {
                        thread::sleep(Duration::from_millis(20));
                    }
                    result => break result.expect("corosync runs on the node"),
                }
            }
        })
        .join()
        .expect("the thread of a node ends well")
    }
}

/// Puts this thread into the namespaces of a process.
fn enter(pid: u32) {
    let of = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).expect("the process runs");
    let (net, mounts) = (of("net"), of("mnt"));
    unshare(CloneFlags::CLONE_FS).expect("a thread may have folders of its own");
    setns(net, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
    setns(mounts, CloneFlags::CLONE_NEWNS).expect("root may enter a mount namespace");
}

fn number(node: NodeId) -> usize {
    usize::try_from(node.raw()).expect("1 to 3")
}

impl Fabric for OnCorosync {
    type Node = Corosync;

    fn start(&mut self, node: NodeId) -> Corosync {
        self.daemons.start(number(node)).expect("a node of the lab starts");
        self.open(node)
    }

    fn kill(&mut self, node: Corosync) {
        self.daemons.kill(number(node.local().node)).expect("a node of the lab ends");
    }

    fn leave(&mut self, node: Corosync) {
        node.leave();
    }

    fn cut(&mut self, node: NodeId) {
        self.daemons.set_port(0, number(node), false).expect("the switch obeys");
    }

    fn heal(&mut self, node: NodeId) {
        self.daemons.set_port(0, number(node), true).expect("the switch obeys");
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).expect("a short test"))
    }

    fn wait(&mut self) {
        thread::sleep(PAUSE);
    }
}
