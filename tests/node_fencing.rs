//! Goal: a node does what the fencing crate can: it gives access before anything runs and takes it to fence, tries its devices and watches
//! their health, lets the more important of two nodes shoot first, and ends by a watchdog when it has to.
//!
//! Method: real nodes of one process over loopback, with a device that takes access in memory and a watchdog that calls a function.

use ocf::{Cluster, ClusterBuilder, Node, NodeBuilder, NodeEvent, SelfFencingEntry, StartError};
use ocf_resource::driver::{InProcess, RustClass};
use ocf_resource::{Action, Config, GroupConfig, Metadata, OcfCode, Operation, ResourceConfig};
use ocf_stonith::driver::{AccessDevice, DeviceClass, SbdDisk, SimulatedAccess, SimulatedWatchdog};
use ocf_stonith::sbd::{Command, End, Header};
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
    fn name(&self) -> &str {
        "storage"
    }

    fn describe(&self) -> &str {
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

/// A service that on node 1 can be had to fail and not to stop, and where it runs.
#[derive(Default)]
struct Service {
    running: Mutex<BTreeSet<NodeId>>,
    /// The most nodes that ran it at one time.
    most: AtomicU32,
    stuck: AtomicBool,
}

/// The service on one node.
struct OnNode(NodeId, Arc<Service>);

impl InProcess for OnNode {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all else looks whether it runs")]
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)> {
        let Self(node, service) = self;
        let stuck = service.stuck.load(Ordering::Relaxed) && *node == NodeId::new(1);
        let mut running = service.running.lock();
        match operation.action {
            _ if stuck => return Err((OcfCode::Generic, "it hangs".to_owned())),
            Action::Start => {
                running.insert(*node);
                service.most.fetch_max(u32::try_from(running.len()).expect("few"), Ordering::Relaxed);
            }
            Action::Stop => _ = running.remove(node),
            _ if running.contains(node) => {}
            _ => return Err((OcfCode::NotRunning, "stopped".to_owned())),
        }
        Ok(String::new())
    }

    fn metadata(&self) -> Metadata {
        let text = "<resource-agent name=\"service\"><actions><action name=\"start\"/><action name=\"stop\"/>\
            <action name=\"monitor\"/></actions></resource-agent>";
        Metadata::parse(text).expect("well-formed")
    }
}

/// The service, on node 1 if that can be.
fn first_on_node_1() -> Config {
    let mut resource = ResourceConfig::new("service", "rust:service".parse().expect("a name"));
    resource.monitor_interval = Duration::from_millis(200);
    let mut group = GroupConfig::new("data", vec![resource]);
    (group.nodes, group.elsewhere) = (vec![NodeId::new(1)], true);
    Config { groups: vec![group], ..Config::default() }
}

fn with_service(builder: NodeBuilder, service: &Arc<Service>) -> NodeBuilder {
    let on_node = OnNode(builder.node(), Arc::clone(service));
    builder.agent_class("rust", Arc::new(RustClass::new().with("service", Arc::new(on_node))))
}

/// Three nodes that run a service, first on node 1, and have nothing but watchdogs of two seconds to fence each other.
fn by_own_watchdogs(name: &str) -> (Cluster, Arc<Service>, Dog) {
    let fencing = "[[devices]]\nname = 'own'\nclass = 'watchdog'\n\
        nodes = [{ node = 1 }, { node = 2 }, { node = 3 }]";
    let (service, dog) = (Arc::new(Service::default()), Dog::default());
    let (each, first) = (Arc::clone(&service), dog.clone());
    let equip = move |builder: NodeBuilder| {
        let node = builder.node();
        let builder = with_service(builder, &each);
        if node != NodeId::new(1) {
            return Dog::default().behind(builder);
        }
        // Only the watchdog ends what runs there: no order to end is obeyed.
        let (bitten, ends, ended) = (Arc::clone(&first.bitten), Arc::clone(&each), Arc::clone(&first.ended));
        let bite = move || {
            ends.running.lock().remove(&node);
            bitten.fetch_add(1, Ordering::Relaxed);
        };
        let builder = builder.watchdog(SimulatedWatchdog::new(Duration::from_secs(2), bite));
        builder.on_end(move |end| ended.lock().push(end.clone()))
    };
    let cluster = Cluster::builder(name)
        .resources(first_on_node_1())
        .fencing(toml::from_str(fencing).expect("a configuration"), FenceAction::Off)
        .self_fencing(watched())
        .equip(equip)
        .local(3)
        .expect("it starts");
    wait_until("the service runs on node 1", || service.running.lock().contains(&NodeId::new(1)));
    let armed = |node: &Node| {
        let nodes = node.snapshot().expect("it runs").resources.nodes;
        nodes.len() == 3 && nodes.iter().all(|node| node.watchdog.is_some())
    };
    wait_until("each is known to have its watchdog armed", || cluster.running().all(armed));
    (cluster, service, dog)
}

fn elsewhere(service: &Service) -> bool {
    let running = service.running.lock();
    running.contains(&NodeId::new(2)) || running.contains(&NodeId::new(3))
}

#[test]
fn a_node_that_falls_silent_is_dead_once_its_own_watchdog_has_ended_it_and_no_device_is_needed() {
    let (mut cluster, service, dog) = by_own_watchdogs("silent");
    cluster.kill(0);
    wait_until("another node has the service", || elsewhere(&service));
    assert!(dog.has_bitten(), "its machine had ended by then");
    assert_eq!(service.most.load(Ordering::Relaxed), 1, "never on two nodes");
}

#[test]
fn a_node_that_cannot_stop_a_service_lets_its_own_watchdog_end_it_before_it_is_taken_over() {
    let (mut cluster, service, dog) = by_own_watchdogs("stuck");
    service.stuck.store(true, Ordering::Relaxed);
    wait_until("its watchdog ends it", || dog.has_bitten());
    assert_eq!(*dog.ended.lock(), [End::Alone], "it did not keep it quiet any more");
    assert!(!elsewhere(&service), "nobody counts on that while it is a member");
    cluster.kill(0);
    wait_until("another node has the service", || elsewhere(&service));
    assert_eq!(service.most.load(Ordering::Relaxed), 1, "never on two nodes");
}

#[test]
fn a_node_that_cannot_stop_a_service_ends_by_an_order_on_a_shared_disk_before_it_is_taken_over() {
    let disk = std::env::temp_dir().join(format!("node-fencing-sbd-{}", std::process::id()));
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a file");
    let header = Header {
        slots: 8,
        sector: 512,
        watchdog_s: 3,
        allocate_s: 0,
        loop_s: 1,
        msgwait_s: 6,
        uuid: [7; 16],
    };
    SbdDisk::create(&disk, header).expect("a disk");
    let fencing = format!(
        "[[devices]]\nname = 'pill'\nclass = 'sbd'\nparameters = {{ disks = '{}' }}\n\
         nodes = [{{ node = 1, plug = 'n1' }}, {{ node = 2, plug = 'n2' }}, {{ node = 3, plug = 'n3' }}]",
        disk.display()
    );
    let entry = format!("watchdog = '/dev/watchdog0'\ndisks = ['{}']", disk.display());
    let (service, dog) = (Arc::new(Service::default()), Dog::default());
    let (each, behind) = (Arc::clone(&service), dog.clone());
    let equip = move |builder: NodeBuilder| {
        let node = builder.node();
        let builder = with_service(builder, &each);
        if node != NodeId::new(1) {
            return Dog::default().behind(builder);
        }
        // the end of the machine is the end of what runs there
        let (ended, ends) = (Arc::clone(&behind.ended), Arc::clone(&each));
        behind.behind(builder).on_end(move |end| {
            ends.running.lock().remove(&node);
            ended.lock().push(end.clone());
        })
    };
    let mut cluster = Cluster::builder("pill")
        .resources(first_on_node_1())
        .fencing(toml::from_str(&fencing).expect("a configuration"), FenceAction::Off)
        .self_fencing(toml::from_str(&entry).expect("a configuration"))
        .equip(equip)
        .local(3)
        .expect("it starts");
    let runs_on = |node| service.running.lock().contains(&NodeId::new(node));
    wait_until("the service runs on node 1", || runs_on(1));
    service.stuck.store(true, Ordering::Relaxed);
    wait_until("node 1 is told to end", || !dog.ended.lock().is_empty());
    let ended = dog.ended.lock().clone();
    assert!(
        matches!(&ended[..], [End::Told(mail)] if mail.command == Command::Off || mail.command == Command::Reset)
    );
    cluster.kill(0);
    wait_until("another node has the service", || runs_on(2) || runs_on(3));
    assert_eq!(service.most.load(Ordering::Relaxed), 1, "never on two nodes");
    wait_until("the watchdog is behind it", || dog.has_bitten());
    std::fs::remove_file(disk).expect("our own file");
}

#[test]
#[ignore = "needs python3"]
fn a_node_fences_by_a_class_in_a_program_that_was_loaded_from_a_folder() {
    let folder = std::env::temp_dir().join(format!("node-fencing-plugins-{}", std::process::id()));
    let (classes, switch) = (folder.join("fence-class"), folder.join("switch"));
    std::fs::create_dir_all(&classes).expect("a folder");
    std::fs::create_dir_all(&switch).expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ocf-stonith/examples/file_switch.py");
    std::fs::copy(script, classes.join("file_switch")).expect("a copy");
    (1..=3).for_each(|node| std::fs::write(switch.join(format!("{node}")), "on").expect("an outlet"));
    let fencing = format!(
        "[[devices]]\nname = 'bench'\nclass = 'file_switch'\nnodes = 'all'\nparameters = {{ folder = '{}' }}",
        switch.display()
    );
    let service = Arc::new(Service::default());
    let (each, plugins) = (Arc::clone(&service), folder.clone());
    let equip = move |builder: NodeBuilder| {
        builder.plugins().add_folder(&plugins);
        with_service(builder, &each)
    };
    let mut cluster = Cluster::builder("plugins")
        .resources(first_on_node_1())
        .fencing(toml::from_str(&fencing).expect("a configuration"), FenceAction::Off)
        .equip(equip)
        .local(3)
        .expect("it starts");
    let runs_on = |node| service.running.lock().contains(&NodeId::new(node));
    wait_until("the service runs on node 1", || runs_on(1));
    cluster.kill(0);
    wait_until("another node has the service", || runs_on(2) || runs_on(3));
    let outlet = |node: u32| std::fs::read_to_string(switch.join(node.to_string())).expect("an outlet");
    assert_eq!(
        [outlet(1), outlet(2), outlet(3)],
        ["off", "on", "on"],
        "node 1 was switched off, and nobody else"
    );
    drop(cluster);
    std::fs::remove_dir_all(folder).expect("our own folder");
}
