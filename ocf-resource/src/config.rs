//! What to keep running, where, and what to do when it fails.

use crate::executor::WatchPolicy;
use crate::{AgentName, HealthStrategy, Role, Score};
use core::time::Duration;
use pils::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

mod check;
mod quorum;
mod reach;
mod span;

pub use quorum::{QuorumConfig, QuorumLoss};
pub use reach::ReachConfig;

/// What the cluster keeps running. The first member of a cluster brings it; who joins later gets it with the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often what the cluster runs was changed while it ran ([`Command::Configure`](crate::Command::Configure) and
    /// [`SetParameters`](crate::Command::SetParameters)) until this was written. When a cluster is founded anew, the highest one that a
    /// founder has counts. Default 0.
    pub revision: u64,
    /// The groups, each a unit of fail-over. At most [`Config::GROUPS_MAX`].
    pub groups: Vec<GroupConfig>,
    /// Quorums that groups depend on. At most [`Config::QUORUMS_MAX`].
    pub quorums: Vec<QuorumConfig>,
    /// What a node outside the primary partition does with what it runs.
    pub on_partition: PartitionPolicy,
    /// What a node's health means for what it may run.
    pub health: HealthStrategy,
    /// Which nodes have to be given their access before they may run anything. Not in a file: a node derives it from its
    /// fence devices with `unfence = true`.
    #[serde(skip)]
    pub access: AccessNeed,
    /// How long what a node reaches has to stay as it is before it tells the others, and how long what all have told has to stay
    /// as it is before it counts for groups with `reach`: 100 ms to 1 h, default 5 s. Too short, and a host that fails moves
    /// groups from who notices it first to who notices it last.
    #[serde(with = "span")]
    pub reach_settle: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            revision: 0,
            groups: Vec::new(),
            quorums: Vec::new(),
            on_partition: PartitionPolicy::default(),
            health: HealthStrategy::default(),
            access: AccessNeed::default(),
            reach_settle: Self::REACH_SETTLE,
        }
    }
}

/// Which nodes have to be given their access, to storage or a network, before they may run anything: those whose fencing takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessNeed {
    /// None of them.
    #[default]
    Nobody,
    /// These.
    Nodes(BTreeSet<NodeId>),
    /// All of them.
    Everybody,
}

impl AccessNeed {
    /// True if this node has to.
    #[must_use]
    pub fn has(&self, node: NodeId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Nodes(nodes) => nodes.contains(&node),
            Self::Everybody => true,
        }
    }
}

/// Resources that are always together on one node: started in this order, stopped in reverse order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Its name; unique among groups.
    pub name: String,
    /// Where it may run, the best first. Empty: on any node.
    #[serde(default)]
    pub nodes: Vec<NodeId>,
    /// If `nodes` is not empty: may it run on other nodes too, when none of `nodes` can take it? Default no.
    #[serde(default)]
    pub elsewhere: bool,
    /// Go back when a better node returns? Each move interrupts the service, so the default is no. The same as a
    /// `stickiness` of 0; no is the same as one of `INFINITY`.
    #[serde(default)]
    pub failback: bool,
    /// How much it would rather be on a node than on another, at most once for each; 0 for nodes that are not named. A node
    /// with a higher score is better, whatever the order of `nodes`, which decides among equals. `-INFINITY`: never there.
    #[serde(default)]
    pub preferences: Vec<Preference>,
    /// What being where it is counts: it goes elsewhere only if the score there is higher than the one here and this
    /// together. Default: 0 with `failback`, else `INFINITY`. It also counts for whoever is promoted, there with a default of
    /// 0.
    #[serde(default)]
    pub stickiness: Option<Score>,
    /// What it means how many hosts outside the cluster nodes reach. Nothing, by default. Only for a group that runs once and has no
    /// roles.
    #[serde(default)]
    pub reach: Option<ReachConfig>,
    /// Name of the quorum ([`Config::quorums`]) without which nothing of it is started. None, the default: it needs no more than the
    /// primary partition.
    #[serde(default)]
    pub quorum: Option<String>,
    /// Failures of its resources on one node before it moves away; below that it is restarted there. 1 moves at
    /// once. Default 3, at least 1.
    #[serde(default = "default_threshold")]
    pub migration_threshold: u32,
    /// A failure is forgotten after this time without another one on that node. Zero, the default: never.
    #[serde(default, with = "span")]
    pub failure_window: Duration,
    /// What a failed start means for the node.
    #[serde(default)]
    pub on_start_failure: StartFailure,
    /// What a failed stop means.
    #[serde(default)]
    pub on_stop_failure: StopFailure,
    /// Is it to run when the cluster starts? Default yes. Later, commands say so.
    #[serde(default = "yes")]
    pub started: bool,
    /// On how many nodes it runs at once: 1, the default, active/passive; more, active/active; 0, on every node that can
    /// take it. Each copy is a whole group, with the same parameters.
    #[serde(default = "one")]
    pub copies: u32,
    /// Of several copies, how many may be down at once because what they run with changed and their agents cannot take that without a
    /// restart. Copies that are down for another reason count, too. 0: all are restarted at once. Default 1.
    #[serde(default = "one")]
    pub restart_parallel: u32,
    /// Move it from node to node without a stop, if both can take it and its agent can do that (`migrate_to`,
    /// `migrate_from`). Only for a group of one resource that runs once and has no roles; not from a node that needs its
    /// access ([`Config::access`]). Default no.
    #[serde(default)]
    pub migrate: bool,
    /// Have every running instance of a resource hear of each start, stop, promotion and demotion of another one before and
    /// after it, if the agent listens (`notify`). The step waits until all have heard. Default no.
    #[serde(default)]
    pub notify: bool,
    /// How many copies are in the promoted role. 0, the default: its resources have no roles. At most `copies`.
    #[serde(default)]
    pub promoted: u32,
    /// How important it is, as a number without a unit: 10 groups of 1 are worth one of 10. A node is worth the sum of its groups, of which
    /// a part or one of several copies counts as the whole; a promoted copy counts one more. Of two nodes that fence each other, the
    /// one that is worth more has the first shot (`priority_delay_ms` of fencing). Default 0: whether it runs counts nothing.
    #[serde(default)]
    pub priority: u32,
    /// Its resources, in starting order. At least one.
    pub resources: Vec<ResourceConfig>,
}

impl GroupConfig {
    /// A group of these resources, with every default.
    #[must_use]
    pub fn new(name: impl Into<String>, resources: Vec<ResourceConfig>) -> Self {
        Self {
            name: name.into(),
            nodes: Vec::new(),
            elsewhere: false,
            failback: false,
            preferences: Vec::new(),
            stickiness: None,
            reach: None,
            quorum: None,
            migration_threshold: default_threshold(),
            failure_window: Duration::ZERO,
            on_start_failure: StartFailure::default(),
            on_stop_failure: StopFailure::default(),
            started: true,
            copies: 1,
            restart_parallel: 1,
            migrate: false,
            notify: false,
            promoted: 0,
            priority: 0,
            resources,
        }
    }

    /// What being where it is counts.
    #[must_use]
    pub const fn stickiness(&self) -> Score {
        match self.stickiness {
            Some(score) => score,
            None if self.failback => Score::ZERO,
            None => Score::INFINITY,
        }
    }

    /// How much it would rather be on this node.
    #[must_use]
    pub fn preference(&self, node: NodeId) -> Score {
        self.preferences.iter().find(|p| p.node == node).map_or(Score::ZERO, |p| p.score)
    }
}

/// How much a group would rather be on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// The node.
    pub node: NodeId,
    /// How much.
    pub score: Score,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceConfig {
    /// Its name; unique in the whole configuration.
    pub name: String,
    /// The agent that manages it.
    pub agent: AgentName,
    /// What the agent is told.
    #[serde(default, deserialize_with = "span::scalars")]
    pub parameters: BTreeMap<String, String>,
    /// Time a start may take. Default 20 s.
    #[serde(default = "default_timeout", with = "span")]
    pub start_timeout: Duration,
    /// Time a stop may take. Too short a time gets the node fenced. Default 20 s.
    #[serde(default = "default_timeout", with = "span")]
    pub stop_timeout: Duration,
    /// How often it is looked at; a failure is noticed at most this plus `monitor_timeout` later. Default 10 s.
    #[serde(default = "default_interval", with = "span")]
    pub monitor_interval: Duration,
    /// Time a monitor may take; a hung one counts as a failure after it. Default 20 s.
    #[serde(default = "default_timeout", with = "span")]
    pub monitor_timeout: Duration,
    /// How many failed monitors among the last ones are a failure. Default 1 of 1.
    #[serde(default)]
    pub watch: WatchPolicy,
    /// Further recurring monitors, each of another depth or for another role. At most [`Config::MONITORS_MAX`].
    #[serde(default)]
    pub monitors: Vec<MonitorConfig>,
}

impl ResourceConfig {
    /// A resource with every default and no parameters.
    #[must_use]
    pub fn new(name: impl Into<String>, agent: AgentName) -> Self {
        Self {
            name: name.into(),
            agent,
            parameters: BTreeMap::new(),
            start_timeout: default_timeout(),
            stop_timeout: default_timeout(),
            monitor_interval: default_interval(),
            monitor_timeout: default_timeout(),
            watch: WatchPolicy::default(),
            monitors: Vec::new(),
        }
    }
}

/// One more recurring monitor of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    /// How often. Default 10 s.
    #[serde(default = "default_interval", with = "span")]
    pub interval: Duration,
    /// Time it may take. Default 20 s.
    #[serde(default = "default_timeout", with = "span")]
    pub timeout: Duration,
    /// How thorough: `OCF_CHECK_LEVEL`. Default 0.
    #[serde(default)]
    pub depth: u32,
    /// Only in this role. Default: in any.
    #[serde(default)]
    pub role: Option<Role>,
    /// How many failed ones among the last ones are a failure. Default 1 of 1.
    #[serde(default)]
    pub watch: WatchPolicy,
}

/// What a node outside the primary partition does with what it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionPolicy {
    /// Stop everything at once.
    #[default]
    Stop,
    /// Leave it as it is, without recovery. The others take over only after they have fenced this node.
    Freeze,
}

/// What a failed start means for the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFailure {
    /// The group goes to the next node at once.
    #[default]
    Move,
    /// It counts as one failure towards `migration_threshold`.
    Count,
}

/// What a failed stop means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopFailure {
    /// The node is fenced: only so is it sure that the resource is down.
    #[default]
    Fence,
    /// The group stays where it is, blocked, until a person clears its failures.
    Block,
}

impl Config {
    /// Most groups.
    pub const GROUPS_MAX: usize = 1024;
    /// Most resources of a group.
    pub const RESOURCES_MAX: usize = 64;
    /// Most further monitors of a resource.
    pub const MONITORS_MAX: usize = 8;
    /// Most conditions of a group that do not hold at a time.
    pub const CONDITIONS_MAX: usize = 32;
    /// Largest parameters of a resource that a command sets, in bytes of names and values together.
    pub const PARAMETERS_MAX: usize = 64 * 1024;
    /// Largest configuration that a command brings, in bytes of its message.
    pub const BYTES_MAX: usize = 4 << 20;
    /// Most resources that are on their way out at a time.
    pub const REMOVING_MAX: usize = 4096;

    /// The group of this name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&GroupConfig> {
        self.groups.iter().find(|g| g.name == name)
    }
}

const fn default_threshold() -> u32 {
    3
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

const fn default_timeout() -> Duration {
    Duration::from_secs(20)
}

const fn default_interval() -> Duration {
    Duration::from_secs(10)
}
