//! Clusters for bad days: nodes on loopback behind relays that can be cut and that remember, and a world of services.

use crate::relays::Wire;
use ocf::{Detection, Key, Node, NodeBuilder, NodeConfig, NodeEntry, NodeEvent, Snapshot};
use ocf_comm::driver::{IoConfig, Ports};
use ocf_resource::driver::{InProcess, RustClass};
use ocf_resource::{Action, AgentClass, Metadata, OcfCode, Operation};
use ocf_stonith::FenceAction;
use ocf_stonith::driver::SimulatedClass;
use parking_lot::Mutex;
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Bound of every wait. Nothing here takes nearly as long; this is for a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How a cluster of a test differs from the default.
pub(crate) struct Plan {
    /// `[[groups]]` of the resource configuration.
    pub(crate) resources: &'static str,
    /// `[[devices]]` of the fencing configuration.
    pub(crate) fencing: &'static str,
    /// The nodes have groups that go on in any partition.
    pub(crate) partition_groups: bool,
    /// Changes each node before it starts.
    pub(crate) equip: Box<dyn Fn(NodeBuilder) -> NodeBuilder>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { resources: "", fencing: "", partition_groups: false, equip: Box::new(|node| node) }
    }
}

/// A cluster, everything its nodes have said, and a way to wait for more.
pub(crate) struct Crowd {
    pub(crate) nodes: Vec<Node>,
    /// The real addresses of the nodes, behind the relays.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The configuration of each node.
    pub(crate) configs: Vec<NodeConfig>,
    pub(crate) wire: Arc<Wire>,
    /// Nodes whose events nobody takes.
    pub(crate) deaf: BTreeSet<usize>,
    seen: BTreeMap<NodeInstance, Vec<NodeEvent>>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.wire.end();
        for node in &self.nodes {
            node.kill();
        }
    }
}

impl Crowd {
    /// Starts `count` nodes, and waits until all are in one view.
    pub(crate) fn form(count: usize, plan: &Plan) -> Self {
        let bind = || Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap();
        let ports: Vec<Ports> = (0..count).map(|_| bind()).collect();
        let addresses: Vec<SocketAddr> = ports.iter().map(|p| p.local_addresses().unwrap()[0]).collect();
        let wire = Arc::new(Wire::new(count));
        let relays = wire.relays(&addresses);
        let key = Key::random();
        let ids = || (1..).map(NodeId::new).zip(0..count);
        let configs: Vec<NodeConfig> = ids()
            .map(|(id, index)| {
                let address = |other| if other == index { addresses[index] } else { relays[&(index, other)] };
                let entry = |(id, other)| NodeEntry {
                    id,
                    name: None,
                    address: address(other),
                    more_addresses: Vec::new(),
                    bind: None,
                    votes: 1,
                };
                config(id, key.clone(), ids().map(entry).collect(), plan)
            })
            .collect();
        let start = |(config, ports): (&NodeConfig, Ports)| {
            (plan.equip)(Node::builder(config.clone())).ports(ports).start().unwrap()
        };
        let nodes: Vec<Node> = configs.iter().zip(ports).map(start).collect();
        let mut crowd =
            Self { nodes, addresses, configs, wire, deaf: BTreeSet::new(), seen: BTreeMap::new() };
        crowd.until("all nodes in one view", |crowd| crowd.nodes.iter().all(|n| members(n) == count));
        crowd
    }

    /// What a node has said so far.
    pub(crate) fn seen(&self, index: usize) -> &[NodeEvent] {
        self.seen.get(&self.nodes[index].local()).map_or(&[], Vec::as_slice)
    }

    /// True if any node has said something that `pick` takes.
    pub(crate) fn anyone(&self, pick: impl Fn(&NodeEvent) -> bool) -> bool {
        (0..self.nodes.len()).any(|index| self.seen(index).iter().any(&pick))
    }

    /// Takes what the nodes have to say.
    pub(crate) fn listen(&mut self) {
        for (index, node) in self.nodes.iter().enumerate() {
            if self.deaf.contains(&index) {
                continue;
            }
            while let Some(event) = node.next_event(Duration::ZERO) {
                self.seen.entry(node.local()).or_default().push(event.event);
            }
        }
    }

    /// Waits until `done`.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.listen();
            if done(self) {
                // Also what was said between the last look and now.
                self.listen();
                return;
            }
            if Instant::now() > end {
                let snapshots: Vec<String> = (0..self.nodes.len())
                    .map(|i| format!("{:?}\nlast events {:?}", self.nodes[i].snapshot(), self.last(i)))
                    .collect();
                panic!("waited too long for {what}\n{}", snapshots.join("\n"));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn last(&self, index: usize) -> Vec<String> {
        let quiet = |e: &&NodeEvent| !matches!(e, NodeEvent::Group(ocf_groups::Event::Message { .. }));
        self.seen(index).iter().rev().filter(quiet).take(30).map(|e| format!("{e:?}")).collect()
    }

    /// What every layer of a node knows.
    pub(crate) fn snapshot(&self, index: usize) -> Snapshot {
        self.nodes[index].snapshot().unwrap()
    }

    /// A counter of a node.
    pub(crate) fn counter(&self, index: usize, name: &str) -> u64 {
        self.snapshot(index).counters[name]
    }

    /// Payloads of messages that a node was given, in order.
    pub(crate) fn payloads(&self, index: usize) -> Vec<bytes::Bytes> {
        let payload = |event: &NodeEvent| match event {
            NodeEvent::Group(ocf_groups::Event::Message { payload, .. }) => Some(payload.clone()),
            _ => None,
        };
        self.seen(index).iter().filter_map(payload).collect()
    }

    /// All nodes join `group` and have the state of it.
    pub(crate) fn join_all(&mut self, group: &str) {
        for node in &self.nodes {
            node.join(group, 1).unwrap();
        }
        let count = self.nodes.len();
        let mut answered = BTreeSet::new();
        self.until("everybody in the group", |crowd| {
            for node in &crowd.nodes {
                for event in crowd.seen.get(&node.local()).into_iter().flatten() {
                    if let NodeEvent::Group(ocf_groups::Event::StateWanted { group, joiner, position }) = event
                        && answered.insert((*joiner, *position))
                    {
                        // Refused if the joiner is to get a later state: then there is another question.
                        node.offer_state(group, *joiner, *position, bytes::Bytes::new()).unwrap_or_default();
                    }
                }
            }
            let ready = |index| {
                let events = crowd.seen(index);
                let full = |e: &NodeEvent| matches!(e, NodeEvent::Group(ocf_groups::Event::Membership { members, .. }) if members.len() == count);
                events.iter().any(full)
            };
            (0..count).all(ready)
        });
    }
}

/// Members of the view of a node.
pub(crate) fn members(node: &Node) -> usize {
    node.view().map_or(0, |view| view.members.len())
}

fn config(id: NodeId, key: Key, nodes: Vec<NodeEntry>, plan: &Plan) -> NodeConfig {
    NodeConfig {
        cluster: "bad days".to_owned(),
        node: id,
        key: Some(key),
        key_file: None,
        keys: Vec::new(),
        protection: ocf::ProtectionName::Encrypt,
        cipher: ocf::CipherName::Auto,
        compression: "none".to_owned(),
        nodes,
        paths: ocf::Paths::default(),
        sentinel: false,
        lock_memory: false,
        media: Vec::new(),
        discovery: None,
        ping: Vec::new(),
        detection: Detection::Lan,
        quorum: "majority".to_owned(),
        record: None,
        tie_breaker: None,
        trust_blank_record: false,
        votes_revision: 0,
        last_man_standing_ms: None,
        fence_action: FenceAction::Off,
        self_fencing: None,
        fencing: toml::from_str(plan.fencing).unwrap(),
        resources: toml::from_str(plan.resources).unwrap(),
        partition_groups: plan.partition_groups,
        api: ocf::ApiConfig::default(),
        outside: ocf::OutsideConfig::default(),
        plugins: Vec::new(),
    }
}

/// What really runs where, whatever the cluster believes, and which agents misbehave.
#[derive(Debug, Default)]
pub(crate) struct World {
    running: Mutex<BTreeSet<(String, NodeId)>>,
    twice: Mutex<Vec<String>>,
    hanging: Mutex<BTreeSet<NodeId>>,
}

impl World {
    /// Where a service runs.
    pub(crate) fn runs(&self, service: &str) -> Vec<NodeId> {
        self.running.lock().iter().filter(|(name, _)| name == service).map(|(_, node)| *node).collect()
    }

    /// Every time at which a service ran on two nodes.
    pub(crate) fn twice(&self) -> Vec<String> {
        self.twice.lock().clone()
    }

    /// Monitors on this node never answer while `hang`.
    pub(crate) fn hang_monitors(&self, node: NodeId, hang: bool) {
        if hang {
            self.hanging.lock().insert(node)
        } else {
            self.hanging.lock().remove(&node)
        };
    }

    fn start(&self, service: &str, node: NodeId) {
        let mut running = self.running.lock();
        running.insert((service.to_owned(), node));
        let places = running.iter().filter(|(name, _)| name == service).count();
        if places > 1 {
            self.twice.lock().push(format!("{service} ran at {places} places: {running:?}"));
        }
    }

    /// The power of a node fails: what ran there runs no more.
    fn power(&self, node: NodeId, on: bool) {
        if !on {
            self.running.lock().retain(|(_, at)| *at != node);
        }
    }

    /// The class that has the agent `rust:service`, on one node.
    pub(crate) fn class(self: &Arc<Self>, node: NodeId) -> Arc<dyn AgentClass> {
        let service = Service { node, world: Arc::clone(self) };
        Arc::new(RustClass::new().with("service", Arc::new(service)))
    }

    /// Gives a node the agent `rust:service` and the device class `simulated`, both in this world.
    pub(crate) fn equip(self: &Arc<Self>, node: NodeBuilder) -> NodeBuilder {
        let (class, world) = (self.class(node.node()), Arc::clone(self));
        let devices = SimulatedClass::with_power(move |node, on| world.power(node, on));
        node.agent_class("rust", class).fence_class(Arc::new(devices))
    }
}

/// The agent of all services on one node.
struct Service {
    node: NodeId,
    world: Arc<World>,
}

impl InProcess for Service {
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)> {
        let name = &operation.resource;
        match operation.action {
            Action::Start => self.world.start(name, self.node),
            Action::Stop => {
                self.world.running.lock().remove(&(name.to_string(), self.node));
            }
            _ => {
                while self.world.hanging.lock().contains(&self.node) {
                    thread::sleep(Duration::from_millis(10));
                }
                if !self.world.runs(name).contains(&self.node) {
                    return Err((OcfCode::NotRunning, "not running".to_owned()));
                }
            }
        }
        Ok(String::new())
    }

    fn metadata(&self) -> Metadata {
        Metadata::parse(r#"<resource-agent name="service"><version>1.1</version></resource-agent>"#).unwrap()
    }
}
