//! More nodes than people usually have: services, one order of messages and locks, while a fifth of the nodes die at once, the
//! senior one among them, and come back.

use crate::support::{PATIENCE as USUAL, World};
use bytes::Bytes;
use ocf::{Cluster, Detection, Locks, Node, NodeEvent};
use ocf_dlm::{Mode, ValueBlock, Wait};
use ocf_groups::{Event, Guarantee};
use ocf_stonith::FenceAction;
use pils::NodeId;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// All nodes share the processors of one machine, beside other tests.
const PATIENCE: Duration = Duration::from_secs(6 * USUAL.as_secs());
const GROUP: &str = "everybody";
/// Messages that each node sends.
const MESSAGES: u32 = 20;
/// How often each node adds one to a number that a lock protects.
const ADDITIONS: u64 = 3;
const FENCING: &str = r#"
    [[devices]]
    name = "outlet"
    class = "simulated"
    nodes = "all"
"#;

/// So many services, each by itself.
fn services(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        write!(
            text,
            "[[groups]]\nname = \"group{n}\"\n[[groups.resources]]\nname = \"service{n}\"\nagent = \"rust:service\"\n\
             monitor_interval = \"1s\"\nmonitor_timeout = \"30s\"\n"
        )
        .unwrap();
    }
    text
}

struct Crowd {
    cluster: Cluster,
    world: Arc<World>,
    count: usize,
    services: usize,
    /// Messages that each node was given, in order.
    heard: BTreeMap<usize, Vec<Bytes>>,
    /// How many members the group has, as each node knows.
    members: BTreeMap<usize, usize>,
}

impl Crowd {
    fn form(count: usize) -> Self {
        let (world, services) = (Arc::new(World::default()), services(2 * count));
        let here = Arc::clone(&world);
        let cluster = Cluster::builder("crowd")
            // Sixteen and more nodes on two processors: who must be called dead after half a second is only late.
            .detection(Detection::Cloud)
            .resources(toml::from_str(&services).unwrap())
            .fencing(toml::from_str(FENCING).unwrap(), FenceAction::Off)
            .equip(move |node| here.equip(node).locks(ocf_dlm::cluster::Config::default()))
            .local(u32::try_from(count).unwrap())
            .unwrap();
        let (heard, members) = (BTreeMap::new(), BTreeMap::new());
        Self { cluster, world, count, services: 2 * count, heard, members }
    }

    fn listen(&mut self) {
        for index in 0..self.count {
            let Some(node) = self.cluster.node(index) else { continue };
            while let Some(event) = node.next_event(Duration::ZERO) {
                match event.event {
                    NodeEvent::Group(Event::StateWanted { group, joiner, position }) => {
                        // Refused if the joiner is to get a later state: then there is another question.
                        node.offer_state(&group, joiner, position, Bytes::new()).unwrap_or_default();
                    }
                    NodeEvent::Group(Event::Membership { group, members, .. }) if *group == *GROUP => {
                        self.members.insert(index, members.len());
                    }
                    NodeEvent::Group(Event::Message { group, payload, .. }) if *group == *GROUP => {
                        self.heard.entry(index).or_default().push(payload);
                    }
                    _ => {}
                }
            }
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            self.listen();
            if done(self) {
                return begun.elapsed();
            }
            if begun.elapsed() > PATIENCE {
                let views: Vec<_> = self.running().map(|(i, n)| (i + 1, n.view(), n.is_active())).collect();
                panic!("waited too long for {what}\n{:?}\n{views:?}", self.places());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        (0..self.count).filter_map(|index| Some((index, self.cluster.node(index)?)))
    }

    /// Where each service runs.
    fn places(&self) -> Vec<Vec<NodeId>> {
        (0..self.services).map(|n| self.world.runs(&format!("service{n}"))).collect()
    }

    /// All nodes that run have the same view of just themselves, and each service runs on one of them.
    fn is_well(&self) -> bool {
        let ids: Vec<NodeId> = self.running().map(|(_, node)| node.local().node).collect();
        let view = self.cluster.running().next().and_then(Node::view);
        let known = view.as_ref().is_some_and(|view| view.members.len() == ids.len());
        known
            && self.cluster.running().all(|node| node.is_active() && node.view() == view)
            && self.places().iter().all(|at| matches!(at.as_slice(), [one] if ids.contains(one)))
    }

    fn locks(&self) -> Vec<Locks> {
        self.cluster.running().filter_map(Node::locks).collect()
    }
}

/// Adds to a number from all nodes at once; returns it.
fn add(locks: Vec<Locks>) -> u64 {
    let one = |locks: &Locks| {
        let mut guard = locks.lock("sums", "one", Mode::Ex, Wait::For(PATIENCE)).unwrap();
        let number = guard.value().map_or(0, ValueBlock::number) + 1;
        guard.convert(Mode::Nl, Some(ValueBlock::zero(32).with_number(number))).unwrap();
        number
    };
    let adders = locks.into_iter().map(|locks| {
        let add = move || (0..ADDITIONS).map(|_| one(&locks)).max();
        thread::spawn(add)
    });
    let adders: Vec<_> = adders.collect();
    adders.into_iter().filter_map(|adder| adder.join().unwrap()).max().unwrap_or(0)
}

#[expect(clippy::print_stderr, reason = "the times tell whether something became slower")]
fn a_fifth_dies_at_once_and_comes_back(count: usize) {
    let mut crowd = Crowd::form(count);
    let formed = crowd.until("all nodes and services", Crowd::is_well);
    let locks = crowd.locks();
    // The number is there as long as anybody has a lock of its name.
    let lasts = locks[1].lock("sums", "one", Mode::Nl, Wait::For(PATIENCE)).unwrap();
    assert_eq!(add(locks), count as u64 * ADDITIONS, "no addition was lost");
    let view = crowd.cluster.node(1).and_then(Node::view);
    // More than one if some were late; not one after the other, of the same members.
    assert!(
        view.is_some_and(|view| view.number.0 <= count as u64),
        "nothing happened that needs so many views"
    );

    for (_, node) in crowd.running() {
        node.join(GROUP, 1).unwrap();
    }
    crowd.until("all in the group", |crowd| {
        crowd.members.len() == count && crowd.members.values().all(|members| *members == count)
    });
    for number in 0..MESSAGES {
        for (index, node) in crowd.running() {
            let payload = Bytes::from(format!("{number} of {index}"));
            node.send(GROUP, 1, Guarantee::Agreed, payload).unwrap();
        }
    }
    let all = count * MESSAGES as usize;
    crowd.until("all messages", |crowd| {
        crowd.heard.values().filter(|heard| heard.len() == all).count() == count
    });
    assert!(crowd.heard.values().all(|heard| *heard == crowd.heard[&0]), "all have them in one order");

    let lost: Vec<usize> = (0..count).step_by(5).collect();
    let places = crowd.places();
    let ids: Vec<NodeId> = lost.iter().filter_map(|i| Some(crowd.cluster.node(*i)?.local().node)).collect();
    let moved = places.iter().filter(|at| ids.contains(&at[0])).count();
    assert!(moved > 0, "services run on those that are to die");
    for index in &lost {
        crowd.cluster.kill(*index);
    }
    let recovered = crowd.until("the services of the dead to run elsewhere", Crowd::is_well);
    let stayed = |(now, before): (&Vec<NodeId>, &Vec<NodeId>)| ids.contains(&before[0]) || now == before;
    assert!(crowd.places().iter().zip(&places).all(stayed), "services of others stayed where they were");

    for index in &lost {
        crowd.cluster.start(*index).unwrap();
    }
    let back = crowd.until("all nodes to be back", Crowd::is_well);
    assert_eq!(crowd.world.twice(), Vec::<String>::new());
    // More if the number outlived those that died: its master may have been among them.
    assert!(add(crowd.locks()) >= count as u64 * ADDITIONS);
    lasts.release(None).unwrap();
    eprintln!(
        "{count} nodes: formed in {formed:?}, {} lost and recovered in {recovered:?}, back in {back:?}",
        lost.len()
    );
}

#[test]
fn a_fifth_of_sixteen_nodes_dies_at_once_and_comes_back() {
    a_fifth_dies_at_once_and_comes_back(16);
}

#[test]
#[ignore = "needs the processors of a machine for itself"]
fn a_fifth_of_thirty_two_nodes_dies_at_once_and_comes_back() {
    a_fifth_dies_at_once_and_comes_back(32);
}
