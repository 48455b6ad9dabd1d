//! Goal: the set of nodes of a cluster changes while it runs: a node comes that no file lists, and is known to those who were away and
//! to those who start again; one goes and takes no part any more; one is replaced at its own address under load, and no lock and no
//! message is lost.
//!
//! Method: nodes of one process over loopback, configured from text as from a file, with records on disk.

use bytes::Bytes;
use ocf::stack::StackConfig;
use ocf::{Node, NodeConfig, NodeEntry, NodeEvent, StartError};
use ocf_comm::driver::{IoConfig, Ports};
use ocf_comm::{Refusal, Timers};
use ocf_dlm::{LockError, Mode, NumberOp, Wait};
use ocf_groups::{Event, Guarantee};
use ocf_membership::{NodeVotes, Removal};
use parking_lot::Mutex;
use pils::NodeId;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, process};

/// Long, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(120);
const WAIT: Wait = Wait::For(PATIENCE);

/// What a node was told, in order.
#[derive(Debug, Default)]
struct Told {
    log: Vec<Bytes>,
    strangers: Vec<NodeId>,
    /// Members of the group.
    members: usize,
}

/// Files and records of a cluster.
struct Site {
    folder: PathBuf,
    /// Where each node is; the first is that of node 1.
    addresses: Vec<SocketAddr>,
    quorum: &'static str,
    /// How soon a silent node is suspected.
    detection: Duration,
}

/// A node that runs, with what reads its events.
struct Running {
    node: Node,
    told: Arc<Mutex<Told>>,
    reader: JoinHandle<()>,
}

impl Site {
    /// With so many addresses.
    fn new(name: &str, nodes: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("ocf-set-{name}-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ports: Vec<Ports> =
            (0..nodes).map(|_| Ports::bind(&IoConfig::new([any])).expect("a port")).collect();
        let addresses = ports.iter().map(|p| p.local_addresses().expect("bound")[0]).collect();
        Self { folder, addresses, quorum: "majority", detection: Duration::from_secs(2) }
    }

    fn entry(&self, (id, place): (u32, usize), votes: u32) -> NodeEntry {
        let line = format!("id = {id}\naddress = \"{}\"\nvotes = {votes}", self.addresses[place]);
        toml::from_str(&line).expect("an entry")
    }

    /// Starts node `id`, whose file lists these nodes, each at the address of its place.
    fn start(&self, id: u32, listed: &[(u32, usize)]) -> Running {
        let entry = |(id, place): &(u32, usize)| {
            format!("[[nodes]]\nid = {id}\naddress = \"{}\"\n", self.addresses[*place])
        };
        let text = format!(
            "cluster = \"set\"\nnode = {id}\nquorum = \"{}\"\nrecord = \"{}\"\n\
             key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n{}",
            self.quorum,
            self.folder.join(format!("views.{id}")).display(),
            listed.iter().map(entry).collect::<String>(),
        );
        let config = NodeConfig::from_toml(&text).expect("a configuration");
        let mut node = None;
        wait_until("its former life has left its address", || {
            let detection = self.detection;
            let tune = move |stack: &mut StackConfig| {
                stack.comm.timers = Timers { heartbeat: detection / 8, detection };
                (stack.membership.detection, stack.membership.lease) = (detection, detection);
            };
            let builder = Node::builder(config.clone()).locks(ocf_dlm::cluster::Config::default());
            node = match builder.tune(tune).start() {
                Ok(node) => Some(node),
                Err(StartError::Sockets(_)) => None,
                Err(error) => panic!("{error}"),
            };
            node.is_some()
        });
        let node = node.expect("it was waited for");
        let told = Arc::<Mutex<Told>>::default();
        let reader = thread::spawn({
            let (node, told) = (node.clone(), Arc::clone(&told));
            move || read(&node, &told)
        });
        Running { node, told, reader }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Reads events until the node ends.
fn read(node: &Node, told: &Mutex<Told>) {
    while node.stopped().is_none() {
        match node.next_event(Duration::from_millis(20)).map(|numbered| numbered.event) {
            Some(NodeEvent::Group(Event::Message { payload, .. })) => told.lock().log.push(payload),
            Some(NodeEvent::Group(Event::Membership { members, .. })) => told.lock().members = members.len(),
            Some(NodeEvent::Group(Event::StateWanted { group, joiner, position })) => {
                // Refused if the joiner is gone again.
                drop(node.offer_state(&group, joiner, position, Bytes::new()));
            }
            Some(NodeEvent::Refused { peer, reason: Refusal::NotAPeer, .. }) => {
                told.lock().strangers.push(peer);
            }
            _ => {}
        }
    }
}

impl Running {
    fn kill(self) {
        self.node.kill();
        self.reader.join().expect("its reader ends");
    }

    fn leave(self) {
        self.node.leave();
        self.reader.join().expect("its reader ends");
    }

    /// The nodes of its view, if it is in one that acts.
    fn members(&self) -> Vec<u32> {
        let view = self.node.view().filter(|_| self.node.is_active());
        let members = view.map(|view| view.members).unwrap_or_default();
        let mut ids: Vec<u32> = members.iter().map(|m| m.instance.node.raw()).collect();
        ids.sort_unstable();
        ids
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn wait_for(nodes: &[&Running], ids: &[u32]) {
    wait_until(&format!("{ids:?} are in one view"), || nodes.iter().all(|n| n.members() == ids));
}

const THREE: [(u32, usize); 3] = [(1, 0), (2, 1), (3, 2)];
const FOUR: [(u32, usize); 4] = [(1, 0), (2, 1), (3, 2), (4, 3)];

#[test]
fn a_fourth_node_is_learnt_by_who_was_away_and_by_who_restarts_and_a_removed_one_takes_no_part() {
    let site = Site::new("grow", 4);
    let [one, two, three] = [1, 2, 3].map(|id| site.start(id, &THREE));
    wait_for(&[&one, &two, &three], &[1, 2, 3]);
    // It starts too early: nobody talks to it, and it hears so.
    let four = site.start(4, &FOUR);
    wait_until("the fourth is turned away", || !four.told.lock().strangers.is_empty());
    three.kill();
    wait_for(&[&one, &two], &[1, 2]);
    let refused = one.node.add_node(&site.entry((4, 3), 1)).expect_err("two of four are no quorum");
    assert!(refused.to_string().contains("quorum"), "{refused}");
    one.node.add_node(&site.entry((4, 3), 0)).expect("two of three are one");
    wait_for(&[&one, &two, &four], &[1, 2, 4]);

    // Who was away has a file without it, and learns where it is.
    let three = site.start(3, &THREE);
    wait_for(&[&one, &two, &three, &four], &[1, 2, 3, 4]);
    let votes: Vec<NodeVotes> = (1..=4).map(|n| NodeVotes::new(NodeId::new(n), 1)).collect();
    four.node.set_votes(&votes).expect("it is a member as any other");
    wait_until("four of them count", || two.node.view().is_some_and(|view| view.quorum == 3));

    // All restart, and only the file of the fourth lists it.
    [one, two, three, four].into_iter().for_each(Running::kill);
    let [one, two, three] = [1, 2, 3].map(|id| site.start(id, &THREE));
    let four = site.start(4, &FOUR);
    wait_for(&[&one, &two, &three, &four], &[1, 2, 3, 4]);

    four.leave();
    wait_for(&[&one, &two, &three], &[1, 2, 3]);
    two.node.remove_node(NodeId::new(4), Removal::Ended).expect("it has left");
    wait_until("three of them count", || three.node.view().is_some_and(|view| view.quorum == 2));
    let four = site.start(4, &FOUR);
    wait_until("the removed one is turned away", || !four.told.lock().strangers.is_empty());
    thread::sleep(Duration::from_secs(3));
    assert_eq!(four.members(), [0; 0], "with its old record and its old file");
    wait_for(&[&one, &two, &three], &[1, 2, 3]);
    [one, two, three, four].into_iter().for_each(Running::kill);
}

/// What a load did.
#[derive(Default)]
struct Done {
    added: u64,
    /// Of a lock that was lost on the way nobody knows.
    perhaps: u64,
    sent: u64,
}

/// Adds to a shared number and sends to the group until told to stop.
fn load(node: &Node, stop: &Arc<AtomicBool>) -> JoinHandle<Done> {
    let (node, stop) = (node.clone(), Arc::clone(stop));
    thread::spawn(move || {
        let locks = node.locks().expect("it has locks");
        let mut done = Done::default();
        while !stop.load(Ordering::Relaxed) {
            match locks.number("space", "counter", NumberOp::Increment, WAIT) {
                Ok(_) => done.added += 1,
                Err(LockError::Lost) => done.perhaps += 1,
                Err(error) => panic!("{error}"),
            }
            let text = Bytes::from(format!("{} {}", node.local().node, done.sent));
            done.sent += u64::from(node.send("log", 0, Guarantee::Safe, text).is_ok());
        }
        done
    })
}

#[test]
fn a_node_is_replaced_at_its_address_under_load_and_no_lock_and_no_message_is_lost() {
    let mut site = Site::new("replace", 3);
    // A machine that is busy with other things must not lose what is counted.
    site.detection = Duration::from_secs(5);
    let [one, two, three] = [1, 2, 3].map(|id| site.start(id, &THREE));
    wait_for(&[&one, &two, &three], &[1, 2, 3]);
    for running in [&one, &two, &three] {
        running.node.join("log", 0).expect("it may");
    }
    wait_until("all are in the group", || [&one, &two, &three].iter().all(|n| n.told.lock().members == 3));
    let locks = one.node.locks().expect("it has locks");
    let kept = locks.lock("space", "counter", Mode::Nl, WAIT).expect("NL excludes nobody");
    let stop = Arc::new(AtomicBool::new(false));
    let loads = [load(&one.node, &stop), load(&two.node, &stop)];
    let held = three.node.locks().expect("it has locks").lock("space", "held", Mode::Ex, WAIT).expect("free");
    let lost = three.node.local();
    three.kill();
    drop(held);
    wait_for(&[&one, &two], &[1, 2]);
    // Whoever replaces it has switched it off.
    wait_until("an operator says that it is off", || {
        [&one, &two].iter().any(|n| n.node.confirm_fenced(lost, "operator").is_ok())
    });
    wait_until("it is removed", || two.node.remove_node(lost.node, Removal::Confirmed).is_ok());
    wait_until("two of them count", || {
        two.node.view().is_some_and(|v| v.quorum == 2 && v.members.len() == 2)
    });
    // The order is refused until the removal is agreed.
    wait_until("another is added", || one.node.add_node(&site.entry((4, 2), 1)).is_ok());
    let four = site.start(4, &[(1, 0), (2, 1), (4, 2)]);
    wait_for(&[&one, &two, &four], &[1, 2, 4]);
    four.node.join("log", 0).expect("it may");
    wait_until("it is in the group", || [&one, &two, &four].iter().all(|n| n.told.lock().members == 3));
    let new = four.node.locks().expect("it has locks");
    drop(new.lock("space", "held", Mode::Ex, WAIT).expect("the lost one is off"));
    let more = load(&four.node, &stop);
    thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    let done: Vec<Done> = loads.into_iter().chain([more]).map(|load| load.join().expect("it ends")).collect();
    let (added, perhaps) = done.iter().fold((0, 0), |(a, p), done| (a + done.added, p + done.perhaps));
    let counted = new.number("space", "counter", NumberOp::Read, WAIT).expect("it is read");
    assert!((added..=added + perhaps).contains(&counted), "{counted} of {added}, and perhaps {perhaps}");
    drop(kept);
    let sent: u64 = done.iter().map(|done| done.sent).sum();
    let all = |n: &Running| n.told.lock().log.len() as u64 == sent;
    wait_until("all messages have come", || all(&one) && all(&two));
    let first = one.told.lock().log.clone();
    assert_eq!(first, two.told.lock().log, "in one order");
    assert!(done[2].sent > 0 && first.ends_with(&four.told.lock().log), "also where it was joined late");
    [one, two, four].into_iter().for_each(Running::kill);
}

#[test]
fn a_policy_that_cannot_take_a_node_says_why_and_what_to_do() {
    for (quorum, says) in [
        ("two-node", "use majority+tie-breaker for more"),
        ("auto-tie-breaker:lowest", "choose a policy that counts votes as they are"),
    ] {
        let mut site = Site::new("refuse", 3);
        site.quorum = quorum;
        let [one, two] = [1, 2].map(|id| site.start(id, &THREE[..2]));
        wait_for(&[&one, &two], &[1, 2]);
        let refused = one.node.add_node(&site.entry((3, 2), 1)).expect_err("it cannot").to_string();
        assert!(refused.contains(says), "{quorum}: {refused}");
        [one, two].into_iter().for_each(Running::kill);
    }
}
