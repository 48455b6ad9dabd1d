//! Goal: a node does what the fencing crate can: it gives access before anything runs and takes it to fence, tries its devices and watches
//! their health, lets the more important of two nodes shoot first, and ends by a watchdog when it has to.
//!
//! Method: real nodes of one process over loopback, with a device that takes access in memory and a watchdog that calls a function.

use ocf::{Cluster, ClusterBuilder, Node, NodeBuilder, NodeEvent, SelfFencingEntry, StartError};
use ocf_resource::driver::{InProcess, RustClass};
use ocf_resource::{Action, Config, GroupConfig, Metadata, OcfCode, Operation, ResourceConfig};
use ocf_stonith::driver::{AccessDevice, DeviceClass, SimulatedAccess, SimulatedWatchdog};
use ocf_stonith::sbd::End;
use ocf_stonith::{DeviceConfig, Event, Failure, FenceAction, FenceDevice, ReadBack, ResourceFence};
use parking_lot::Mutex;
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Long, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(120);

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The first event of fencing of a node that `pick` takes.
fn fencing<T>(node: &Node, pick: impl Fn(Event) -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "no such event of fencing");
        if let Some(NodeEvent::Fencing(event)) = node.next_event(Duration::from_millis(50)).map(|e| e.event)
            && let Some(found) = pick(event)
        {
            return found;
        }
    }
}

/// What all nodes write to, and what runs on which node.
#[derive(Clone, Debug, Default)]
struct Storage {
    access: Arc<SimulatedAccess>,
    broken: Arc<AtomicBool>,
    running: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Starts on nodes without access.
    bare: Arc<AtomicU32>,
}

impl ResourceFence for Storage {
    fn revoke(&self, node: NodeId) -> Result<(), Failure> {
        self.access.revoke(node)
    }

    fn grant(&self, node: NodeId) -> Result<(), Failure> {
        self.access.grant(node)
    }

    fn has_access(&self, node: NodeId) -> Result<bool, Failure> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Failure::Failed { detail: "the storage does not answer".into() });
        }
        self.access.has_access(node)
    }
}

impl Storage {
    /// With no access for any of these nodes.
    fn closed(nodes: u32) -> Self {
        let storage = Self::default();
        (1..=nodes).for_each(|n| storage.revoke(NodeId::new(n)).expect("it is in memory"));
        storage
    }

    fn opens(&self, node: u32) -> bool {
        self.has_access(NodeId::new(node)).expect("it answers")
    }
}

impl DeviceClass for Storage {
    fn name(&self) -> &'static str {
        "storage"
    }

    fn describe(&self) -> &'static str {
        "access in memory"
    }

    fn check(&self, _device: &DeviceConfig, _errors: &mut ConfigErrors) {}

    fn open(&self, _device: &DeviceConfig, _runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        Ok(Arc::new(AccessDevice::new(self.clone())))
    }
}

/// A service that writes to the storage, on one node.
struct Writer {
    node: NodeId,
    storage: Storage,
}

impl InProcess for Writer {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all else looks whether it runs")]
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)> {
        let mut running = self.storage.running.lock();
        match operation.action {
            Action::Start => {
                if !self.storage.opens(self.node.raw()) {
                    self.storage.bare.fetch_add(1, Ordering::Relaxed);
                }
                running.insert(self.node);
            }
            Action::Stop => _ = running.remove(&self.node),
            _ if running.contains(&self.node) => {}
            _ => return Err((OcfCode::NotRunning, "stopped".to_owned())),
        }
        Ok(String::new())
    }

    fn metadata(&self) -> Metadata {
        let text = "<resource-agent name=\"writer\"><actions><action name=\"start\"/><action name=\"stop\"/>\
            <action name=\"monitor\"/></actions></resource-agent>";
        Metadata::parse(text).expect("well-formed")
    }
}

/// A cluster with a writer that prefers node 1, and these lines about fencing beside the device.
fn cluster(storage: &Storage, fencing: &str) -> ClusterBuilder {
    let resource = ResourceConfig::new("writer", "rust:writer".parse().expect("a name"));
    let mut group = GroupConfig::new("data", vec![resource]);
    (group.nodes, group.elsewhere, group.priority) = (vec![NodeId::new(1)], true, 5);
    // Whoever has its access first may run it first.
    group.failback = true;
    let device = "[[devices]]\nname = 'storage'\nclass = 'storage'\nnodes = 'all'\nunfence = true\n";
    let fencing = toml::from_str(&format!("{fencing}\n{device}")).expect("a configuration of fencing");
    let storage = storage.clone();
    let equip = move |builder: NodeBuilder| {
        let writer = Writer { node: builder.node(), storage: storage.clone() };
        let class = RustClass::new().with("writer", Arc::new(writer));
        builder.agent_class("rust", Arc::new(class)).fence_class(Arc::new(storage.clone()))
    };
    Cluster::builder("fencing")
        .resources(Config { groups: vec![group], ..Config::default() })
        .fencing(fencing, FenceAction::Reboot)
        .equip(equip)
}

fn runs_on(storage: &Storage, node: u32) -> bool {
    storage.running.lock().contains(&NodeId::new(node))
}

#[test]
fn nothing_runs_before_a_node_has_its_access_and_a_lost_one_loses_it_until_its_next_life() {
    let storage = Storage::closed(3);
    let mut cluster = cluster(&storage, "").local(3).expect("it starts");
    wait_until("the service runs", || runs_on(&storage, 1));
    wait_until("all have access", || cluster.running().all(Node::has_access));
    assert!((1..=3).all(|n| storage.opens(n)));
    cluster.kill(0).expect("it ran");
    wait_until("it is taken over", || runs_on(&storage, 2) || runs_on(&storage, 3));
    assert!(!storage.opens(1), "who was fenced writes no more");
    let writers: Vec<u32> = (2..=3).filter(|n| runs_on(&storage, *n)).collect();
    assert_eq!(writers.len(), 1, "{writers:?}");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!storage.opens(1), "a reboot does not give its access back to the life that was fenced");
    // The new life finds out what the old one left running, ends that, and only then gets its access.
    let node = cluster.start(0).expect("it starts again");
    wait_until("the new life has access", || node.has_access());
    assert!(storage.opens(1));
    assert_eq!(storage.bare.load(Ordering::Relaxed), 0, "nothing started without access");
}

#[test]
fn a_drill_on_a_node_says_which_devices_are_proven() {
    let storage = Storage::closed(2);
    let cluster = cluster(&storage, "").local(2).expect("it starts");
    wait_until("all have access", || cluster.running().all(Node::has_access));
    let node = cluster.node(0).expect("it runs");
    node.drill(NodeId::new(2), false, "a test").expect("a device fences it");
    let findings = |event| {
        if let Event::Drilled { harm: false, findings, .. } = event { Some(findings) } else { None }
    };
    let proven = fencing(node, findings);
    assert_eq!((proven[0].read.as_slice(), &proven[0].failure), ([ReadBack::On].as_slice(), &None));
    storage.broken.store(true, Ordering::Relaxed);
    node.drill(NodeId::new(2), false, "a test").expect("the first one is over");
    let broken = fencing(node, findings);
    assert!(matches!(broken[0].failure, Some(Failure::Failed { .. })), "{broken:?}");
    let refused = node.drill(NodeId::new(1), true, "a test").expect_err("that is this node");
    assert!(refused.to_string().contains("this node"), "{refused}");
}

#[test]
fn the_health_of_devices_is_told_and_is_in_the_snapshot() {
    let storage = Storage::closed(1);
    let cluster = cluster(&storage, "health_every_ms = 50").local(1).expect("it starts");
    let node = cluster.node(0).expect("it runs");
    let health = || node.snapshot().expect("it runs").devices[0].clone();
    wait_until("it was checked", || health().checked_nanos.is_some());
    assert_eq!(health().failure, None);
    storage.broken.store(true, Ordering::Relaxed);
    fencing(node, |event| matches!(event, Event::DeviceFailed { .. }).then_some(()));
    wait_until("the snapshot says so", || health().failures > 1);
    storage.broken.store(false, Ordering::Relaxed);
    fencing(node, |event| matches!(event, Event::DeviceRecovered { .. }).then_some(()));
    assert_eq!(health().failure, None);
}

#[test]
fn a_node_that_runs_what_matters_less_waits_before_it_shoots() {
    let storage = Storage::closed(3);
    let mut cluster = cluster(&storage, "priority_delay_ms = 2000").local(3).expect("it starts");
    wait_until("the service runs, and all know", || {
        let runs = |n: &Node| {
            n.snapshot().is_ok_and(|s| {
                s.resources.groups.iter().any(|g| g.running_on.is_some_and(|i| i.node == NodeId::new(1)))
            })
        };
        cluster.running().all(runs) && cluster.running().all(Node::has_access)
    });
    cluster.kill(0).expect("it ran");
    let waits: Vec<Duration> = std::thread::scope(|scope| {
        let told = cluster.running().map(|node| {
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(15);
                while Instant::now() < until {
                    let event = node.next_event(Duration::from_millis(50)).map(|e| e.event);
                    if let Some(NodeEvent::Fencing(Event::Started { delay, .. })) = event {
                        return Some(delay);
                    }
                }
                None
            })
        });
        let told: Vec<_> = told.collect();
        told.into_iter().filter_map(|t| t.join().expect("no panic")).collect()
    });
    assert_eq!(waits, [Duration::from_secs(2)], "one of them fences it, and runs nothing that matters");
}

/// A watchdog that bites after two seconds, and what it, and the node, did.
#[derive(Clone, Default)]
struct Dog {
    bitten: Arc<AtomicU32>,
    ended: Arc<Mutex<Vec<End>>>,
}

impl Dog {
    fn behind(&self, builder: NodeBuilder) -> NodeBuilder {
        let (bitten, ended) = (Arc::clone(&self.bitten), Arc::clone(&self.ended));
        let bite = move || _ = bitten.fetch_add(1, Ordering::Relaxed);
        let end = move |end: &End| ended.lock().push(end.clone());
        builder.watchdog(SimulatedWatchdog::new(Duration::from_secs(2), bite)).on_end(end)
    }

    fn has_bitten(&self) -> bool {
        self.bitten.load(Ordering::Relaxed) > 0
    }
}

fn watched() -> SelfFencingEntry {
    toml::from_str("watchdog = '/dev/watchdog0'").expect("a configuration")
}

/// Three nodes, each with a watchdog of its own.
fn guarded() -> (Cluster, Vec<Dog>) {
    let dogs: Vec<Dog> = (0..3).map(|_| Dog::default()).collect();
    let each = dogs.clone();
    let equip = move |builder: NodeBuilder| {
        let index = usize::try_from(builder.node().raw() - 1).expect("small");
        each[index].behind(builder)
    };
    let cluster = Cluster::builder("watched").self_fencing(watched()).equip(equip).local(3);
    (cluster.expect("it starts"), dogs)
}

#[test]
fn a_node_that_is_well_is_let_be_and_one_that_leaves_in_order_is_let_go() {
    let (cluster, dogs) = guarded();
    wait_until("all are members", || cluster.running().all(Node::is_active));
    std::thread::sleep(Duration::from_secs(4));
    assert!(dogs.iter().all(|dog| !dog.has_bitten()), "they are well");
    cluster.node(1).expect("it runs").leave();
    std::thread::sleep(Duration::from_secs(4));
    assert!(!dogs[1].has_bitten(), "nothing ran there: its watchdog was taken away");
    drop(cluster);
    std::thread::sleep(Duration::from_secs(4));
    assert!(dogs.iter().all(|dog| !dog.has_bitten()), "nor does the end of an idle program end a machine");
}

#[test]
fn a_node_that_dies_or_is_left_alone_ends_its_machine() {
    let (mut cluster, dogs) = guarded();
    wait_until("all are members", || cluster.running().all(Node::is_active));
    cluster.kill(0);
    wait_until("the watchdog bites", || dogs[0].has_bitten());
    cluster.kill(1);
    wait_until("the last one is told to end", || *dogs[2].ended.lock() == [End::Alone]);
    wait_until("and its watchdog is behind it", || dogs[2].has_bitten());
}

/// Holds the node's own thread up once it is told to.
struct Hangs(Arc<AtomicBool>);

impl ocf::Application for Hangs {
    fn on_event(&mut self, _here: &mut ocf::Here<'_>, _event: ocf::Numbered) {
        while self.0.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_node_whose_thread_hangs_ends_its_machine() {
    let (dog, hangs) = (Dog::default(), Arc::new(AtomicBool::new(false)));
    let (behind, told) = (dog.clone(), Arc::clone(&hangs));
    let equip = move |b: NodeBuilder| behind.behind(b).application(Hangs(Arc::clone(&told)));
    let cluster = Cluster::builder("hangs").self_fencing(watched()).equip(equip).local(1).expect("it starts");
    let node = cluster.node(0).expect("it runs").clone();
    wait_until("it is a member", || node.is_active());
    hangs.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| node.join("anything", 0));
        wait_until("the watchdog bites", || dog.has_bitten());
        hangs.store(false, Ordering::Relaxed);
    });
}

#[test]
fn a_node_without_the_watchdog_that_it_was_to_have_does_not_start() {
    let mut entry = watched();
    entry.watchdog = "/dev/there-is-no-such-watchdog".into();
    let refused =
        Cluster::builder("none").self_fencing(entry).local(1).expect_err("nothing stands behind it");
    assert!(matches!(refused, StartError::NotArmed(_)), "{refused}");
    assert!(refused.to_string().contains("load its driver"), "{refused}");
}
