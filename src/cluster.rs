use crate::config::{
    ApiConfig, CipherName, Detection, Key, NodeConfig, NodeEntry, Paths, ProtectionName, SelfFencingEntry,
};
use crate::node::{Node, NodeBuilder, StartError};
use ocf_comm::driver::{IoConfig, Ports};
use ocf_stonith::FenceAction;
use pils::NodeId;
use std::net::{Ipv4Addr, SocketAddr};

/// Makes clusters inside one process, for examples and tests: real nodes, real sockets on the loopback interface, a
/// fresh key, no files.
///
/// ```no_run
/// let mut cluster = ocf::Cluster::builder("demo").local(3)?;
/// cluster.kill(2);
/// cluster.start(2)?;
/// # Ok::<(), ocf::StartError>(())
/// ```
pub struct ClusterBuilder {
    name: String,
    detection: Detection,
    resources: ocf_resource::Config,
    fencing: ocf_stonith::Config,
    fence_action: FenceAction,
    self_fencing: Option<SelfFencingEntry>,
    offload: bool,
    equip: Equip,
}

/// Adds to a node what only a program can give: agent classes, fence devices.
type Equip = Box<dyn Fn(NodeBuilder) -> NodeBuilder + Send + Sync>;

/// A cluster inside one process. Node `i` (from 0) has the id `i + 1`.
pub struct Cluster {
    builder: ClusterBuilder,
    key: Key,
    entries: Vec<NodeEntry>,
    nodes: Vec<Option<Node>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.builder.name)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ClusterBuilder {
    /// How fast the death of a node is noticed.
    #[must_use]
    pub const fn detection(mut self, detection: Detection) -> Self {
        self.detection = detection;
        self
    }

    /// What to keep running.
    #[must_use]
    pub fn resources(mut self, resources: ocf_resource::Config) -> Self {
        self.resources = resources;
        self
    }

    /// How to fence.
    #[must_use]
    pub fn fencing(mut self, fencing: ocf_stonith::Config, action: FenceAction) -> Self {
        self.fencing = fencing;
        self.fence_action = action;
        self
    }

    /// How nodes end by themselves; give each a watchdog by [`ClusterBuilder::equip`].
    #[must_use]
    pub fn self_fencing(mut self, entry: SelfFencingEntry) -> Self {
        self.self_fencing = Some(entry);
        self
    }

    /// What each node gets besides its configuration, each time it starts.
    #[must_use]
    pub fn equip(mut self, equip: impl Fn(NodeBuilder) -> NodeBuilder + Send + Sync + 'static) -> Self {
        self.equip = Box::new(equip);
        self
    }

    /// Without segmentation offload, as on a system that has none. For measurements.
    #[must_use]
    pub const fn without_offload(mut self) -> Self {
        self.offload = false;
        self
    }

    /// Starts `nodes` nodes on free ports of 127.0.0.1. A node that restarts keeps its port and loses its memory.
    ///
    /// # Errors
    /// See [`StartError`]; what was started has stopped again.
    pub fn local(self, nodes: u32) -> Result<Cluster, StartError> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut ports = Vec::new();
        let mut entries = Vec::new();
        for id in 1..=nodes {
            let bound = Ports::bind(&IoConfig { offload: self.offload, ..IoConfig::new([any]) })?;
            for address in bound.local_addresses()? {
                entries.push(NodeEntry {
                    id: NodeId::new(id),
                    name: None,
                    address,
                    more_addresses: Vec::new(),
                    bind: None,
                    votes: 1,
                });
            }
            ports.push(bound);
        }
        let mut cluster = Cluster { builder: self, key: Key::random(), entries, nodes: Vec::new() };
        for (index, bound) in ports.into_iter().enumerate() {
            let node = cluster.build(index).ports(bound).start()?;
            cluster.nodes.push(Some(node));
        }
        Ok(cluster)
    }
}

impl Cluster {
    /// Starts to describe a cluster of this name.
    #[must_use]
    pub fn builder(name: &str) -> ClusterBuilder {
        ClusterBuilder {
            name: name.to_owned(),
            detection: Detection::Lan,
            resources: ocf_resource::Config::default(),
            fencing: ocf_stonith::Config::default(),
            fence_action: FenceAction::Off,
            self_fencing: None,
            offload: true,
            equip: Box::new(|node| node),
        }
    }

    /// The configuration of node `index`.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn config(&self, index: usize) -> NodeConfig {
        NodeConfig {
            cluster: self.builder.name.clone(),
            node: self.entries[index].id,
            key: Some(self.key.clone()),
            key_file: None,
            keys: Vec::new(),
            protection: ProtectionName::Encrypt,
            cipher: CipherName::Auto,
            compression: "none".to_owned(),
            nodes: self.entries.clone(),
            paths: Paths::default(),
            sentinel: false,
            lock_memory: false,
            media: Vec::new(),
            discovery: None,
            ping: Vec::new(),
            detection: self.builder.detection,
            quorum: "majority".to_owned(),
            tie_breaker: None,
            record: None,
            trust_blank_record: false,
            votes_revision: 0,
            last_man_standing_ms: None,
            fence_action: self.builder.fence_action,
            fencing: self.builder.fencing.clone(),
            self_fencing: self.builder.self_fencing.clone(),
            resources: self.builder.resources.clone(),
            partition_groups: false,
            api: ApiConfig::default(),
            outside: crate::config::OutsideConfig::default(),
            plugins: Vec::new(),
        }
    }

    fn build(&self, index: usize) -> NodeBuilder {
        (self.builder.equip)(Node::builder(self.config(index)).offload(self.builder.offload))
    }

    /// Number of nodes, running or not.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// True for a cluster without nodes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Node `index`, if it runs.
    #[must_use]
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)?.as_ref()
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Stops a node without a word to the others, as `kill -9` would. Its clones stop too.
    pub fn kill(&mut self, index: usize) -> Option<Node> {
        let node = self.nodes.get_mut(index)?.take()?;
        node.kill();
        Some(node)
    }

    /// Starts node `index` again, as a new incarnation. Does nothing if it runs.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// If there is no such node.
    pub fn start(&mut self, index: usize) -> Result<&Node, StartError> {
        if self.nodes[index].is_none() {
            self.nodes[index] = Some(self.build(index).start()?);
        }
        Ok(self.nodes[index].as_ref().expect("it was just started"))
    }
}
