//! Goal: a cluster of two nodes, configured from text as from a file, outlives one of them: with an arbiter, with a shared disk, and
//! with fencing; and does not go on where neither can be had. Or has more votes than the other.
//!
//! Method: two nodes of one process over loopback; one ends without a word.

use ocf::{Node, NodeConfig, NodeEvent};
use ocf_comm::driver::{IoConfig, Ports};
use ocf_membership::arbiter::ArbiterConfig;
use ocf_membership::driver::{ArbiterServer, format_disk};
use ocf_membership::{ChangeReason, Evidence, NodeVotes};
use ocf_stonith::driver::DeviceClass;
use ocf_stonith::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation,
    ReadBack,
};
use parking_lot::Mutex;
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, process};

/// Long, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(120);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ocf-ties-{name}-{}", process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The power of both nodes: switching one off ends it.
#[derive(Clone, Debug, Default)]
struct Power {
    nodes: Arc<Mutex<BTreeMap<NodeId, Node>>>,
    broken: bool,
}

impl DeviceClass for Power {
    fn name(&self) -> &str {
        "power"
    }

    fn describe(&self) -> &str {
        "ends a node of this process"
    }

    fn check(&self, _device: &DeviceConfig, _errors: &mut ConfigErrors) {}

    fn open(&self, _device: &DeviceConfig, _runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        Ok(Arc::new(self.clone()))
    }
}

impl FenceDevice for Power {
    fn capabilities(&self) -> Capabilities {
        Capabilities { actions: vec![FenceAction::Off], verifies_off: true }
    }

    fn execute(&self, operation: Operation, done: Done) {
        let power = self.clone();
        std::thread::spawn(move || {
            done(if power.broken {
                DeviceResult::Failed(Failure::Failed { detail: "the switch is broken".into() })
            } else {
                let node = power.nodes.lock().remove(&operation.node);
                node.into_iter().for_each(|node| node.kill());
                DeviceResult::Done { read_back: ReadBack::Off, detail: "switched off".into() }
            });
        });
    }

    fn cancel(&self, _attempt: AttemptId) {}
}

/// Starts both nodes with `more` in their configuration, and waits until they are in one view.
fn two(folder: &Path, more: &str, power: &Power) -> [Node; 2] {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let ports = [(); 2].map(|()| Ports::bind(&IoConfig::new([any])).expect("a port"));
    let addresses = [0, 1].map(|i: usize| ports[i].local_addresses().expect("bound")[0]);
    let mut id = 0;
    let nodes = ports.map(|ports| {
        id += 1;
        let text = format!(
            r#"
            cluster = "ties"
            node = {id}
            key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
            detection = "cloud"
            record = "{}"
            fence_action = "off"
            {more}
            [[nodes]]
            id = 1
            address = "{}"
            [[nodes]]
            id = 2
            address = "{}"
            "#,
            folder.join(format!("views.{id}")).display(),
            addresses[0],
            addresses[1],
        );
        let config = NodeConfig::from_toml(&text).expect("a configuration");
        Node::builder(config).fence_class(Arc::new(power.clone())).ports(ports).start().expect("it starts")
    });
    let whole = |node: &Node| node.is_active() && node.view().is_some_and(|view| view.members.len() == 2);
    wait_until("both are in one view", || nodes.iter().all(whole));
    power.nodes.lock().extend(nodes.iter().map(|node| (node.local().node, node.clone())));
    nodes
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the second node without a word, and waits until the first goes on alone; tells who allowed it.
fn outlives(nodes: &[Node; 2]) -> Evidence {
    nodes[1].kill();
    wait_until("the first goes on", || {
        nodes[0].is_active() && nodes[0].view().is_some_and(|view| view.members.len() == 1)
    });
    let view = nodes[0].view().expect("it is in the primary");
    let won = view.causes.iter().find_map(|c| {
        let ChangeReason::TieWon(evidence) = c.reason else { return None };
        Some(evidence)
    });
    won.expect("the view says who allowed it")
}

const DEVICE: &str =
    "quorum = \"two-node\"\n[[fencing.devices]]\nname = \"power\"\nclass = \"power\"\nnodes = \"all\"\n";

#[test]
fn with_an_arbiter_one_of_two_nodes_outlives_the_other() {
    let folder = Folder::new("arbiter");
    let secret = folder.0.join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef\n").expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (bytes, config) = (b"0123456789abcdef0123456789abcdef", ArbiterConfig::default());
    let arbiter =
        ArbiterServer::start(listener, bytes, &folder.0.join("arbiter"), config).expect("it starts");
    let more = format!(
        "quorum = \"majority+tie-breaker\"\n[tie_breaker]\narbiter = \"{}\"\nsecret_file = \"{}\"\n",
        arbiter.address(),
        secret.display()
    );
    let nodes = two(&folder.0, &more, &Power::default());
    assert_eq!(outlives(&nodes), Evidence::TieBreaker);
}

#[test]
fn with_a_shared_disk_one_of_two_nodes_outlives_the_other() {
    let folder = Folder::new("disk");
    let disk = folder.0.join("disk");
    format_disk(&disk, 2).expect("a file");
    let more = format!("quorum = \"majority+tie-breaker\"\n[tie_breaker]\ndisk = \"{}\"\n", disk.display());
    let nodes = two(&folder.0, &more, &Power::default());
    assert_eq!(outlives(&nodes), Evidence::TieBreaker);
}

#[test]
fn with_fencing_one_of_two_nodes_outlives_the_other_and_has_fenced_it_before() {
    let folder = Folder::new("fencing");
    let power = Power::default();
    let nodes = two(&folder.0, DEVICE, &power);
    assert_eq!(outlives(&nodes), Evidence::Ended);
    assert!(!power.nodes.lock().contains_key(&nodes[1].local().node), "it was switched off");
}

#[test]
fn a_node_that_was_given_most_votes_outlives_the_other_and_needs_nobody() {
    let folder = Folder::new("votes");
    let nodes = two(&folder.0, "quorum = \"majority\"\n", &Power::default());
    let votes = |a, b| [NodeVotes::new(NodeId::new(1), a), NodeVotes::new(NodeId::new(2), b)];
    let refused = nodes[0].set_votes(&votes(0, 0)).expect_err("nobody would have a vote");
    assert!(refused.to_string().contains("votes"), "{refused}");
    nodes[1].set_votes(&votes(2, 1)).expect("a member may, whoever it is");
    for node in &nodes {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "every member is told");
            let event = node.next_event(Duration::from_millis(100)).map(|numbered| numbered.event);
            if let Some(NodeEvent::VotesChanged { votes: now, quorum, .. }) = event {
                assert_eq!((&now[..], quorum), (&votes(2, 1)[..], 2));
                break;
            }
        }
    }
    nodes[1].kill();
    wait_until("the first goes on", || {
        nodes[0].is_active() && nodes[0].view().is_some_and(|view| view.members.len() == 1)
    });
    let view = nodes[0].view().expect("it is in the primary");
    assert!(!view.causes.iter().any(|c| matches!(c.reason, ChangeReason::TieWon(_))), "{view:?}");
}

#[test]
fn without_fencing_that_works_the_node_that_is_left_stands_still_until_an_operator_decides() {
    let folder = Folder::new("broken");
    let nodes = two(&folder.0, DEVICE, &Power { broken: true, ..Power::default() });
    nodes[1].kill();
    wait_until("the lease that both agreed on ends", || !nodes[0].is_active());
    let until = Instant::now() + PATIENCE;
    let mut failures = 0;
    while failures < 2 {
        assert!(Instant::now() < until, "the device is asked again and again");
        let event = nodes[0].next_event(Duration::from_millis(100)).map(|numbered| numbered.event);
        if let Some(NodeEvent::Fencing(ocf_stonith::Event::AttemptFailed { .. })) = event {
            failures += 1;
        }
    }
    let alone = nodes[0].view().is_some_and(|view| view.members.len() == 1);
    assert!(!alone && !nodes[0].is_active(), "it does not go on");
    nodes[0]
        .override_tie("the other node is on its way to the scrapyard")
        .expect("there is something to decide");
    wait_until("it goes on", || nodes[0].is_active());
    let view = nodes[0].view().expect("it is in the primary");
    assert!(view.causes.iter().any(|c| c.reason == ChangeReason::TieWon(Evidence::Operator)));
}
