//! What a person wants to know of the cluster's resources.

use crate::{Blocked, Decision, FenceCause};
use pils::NodeInstance;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Everything this node knows of the cluster's resources. The same at every member, but for `local`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What this node is doing.
    pub local: LocalStatus,
    /// Number of the view.
    pub view: u64,
    /// Revision of the configuration that is agreed on.
    #[serde(default)]
    pub revision: u64,
    /// Decisions so far.
    pub decisions: u64,
    /// The groups, in the order of the configuration.
    pub groups: Vec<GroupStatus>,
    /// The quorums that groups depend on, in the order of the configuration.
    #[serde(default)]
    pub quorums: Vec<QuorumStatus>,
    /// The members, most senior first, then the instances that are gone but not proven dead.
    pub nodes: Vec<NodeStatus>,
    /// Messages and states dropped because they could not be read.
    pub malformed: u64,
    /// Answers dropped because the decision they answer is not the newest any more.
    pub stale: u64,
}

/// What one node's manager is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalStatus {
    /// Outside the primary partition: nothing is run but what the policy says.
    #[default]
    NonPrimary,
    /// A member that waits for the state.
    Joining,
    /// A member, but the lease is in doubt: nothing new starts.
    Suspended,
    /// An active member.
    Active,
}

/// A quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Are enough nodes members?
    pub up: bool,
    /// How many it wants.
    pub wants: u32,
    /// Of how many nodes, if only some count.
    pub of: Option<u32>,
    /// How many there are.
    pub members: u32,
    /// The groups that depend on it.
    pub groups: Vec<Arc<str>>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Is it to run?
    pub wanted: bool,
    /// Was it removed from the configuration? It is forgotten once it is down everywhere.
    #[serde(default)]
    pub removing: bool,
    /// Where it is to run now, if anywhere.
    pub target: Option<NodeInstance>,
    /// Where it runs completely; of several copies, the first.
    pub running_on: Option<NodeInstance>,
    /// Every node where it runs completely.
    pub copies_on: Vec<NodeInstance>,
    /// Where it is promoted.
    pub promoted_on: Vec<NodeInstance>,
    /// Why it does not get on.
    pub blocked: Option<Blocked>,
    /// Its resources, in starting order.
    pub resources: Vec<ResourceStatus>,
    /// Failures on nodes, for nodes that have any.
    pub failures: Vec<FailureStatus>,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Was it removed from the configuration?
    #[serde(default)]
    pub removing: bool,
    /// What is known of it wherever it is not simply stopped.
    pub at: Vec<(NodeInstance, ResourceState)>,
}

/// What is known of a resource on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceState {
    /// Nobody has looked.
    Unknown,
    /// Being looked at, for the first time.
    Probing(Decision),
    /// Being started.
    Starting(Decision),
    /// Runs.
    Running(Decision),
    /// Failed, and not stopped yet.
    Failed(Arc<str>),
    /// Being stopped.
    Stopping(Decision),
    /// Being promoted.
    Promoting(Decision),
    /// Runs, in the promoted role.
    Promoted(Decision),
    /// Being demoted.
    Demoting(Decision),
    /// Taking changed parameters without a restart.
    Reloading(Decision),
    /// Being handed over to another node without a stop, or was.
    MovingAway,
    /// Being taken over from another node without a stop.
    MovingIn,
    /// Could not be stopped.
    StopFailed(Arc<str>),
    /// Down. Not listed.
    Stopped,
    /// It may run there: the node is gone and not proven dead.
    MaybeRunning,
}

/// Failures of a group on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureStatus {
    /// The node.
    pub node: pils::NodeId,
    /// How many count.
    pub count: u32,
    /// No other attempt there makes sense.
    pub hard: bool,
    /// What its agent said last.
    pub why: Arc<str>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which life of which node.
    pub instance: NodeInstance,
    /// In the view?
    pub member: bool,
    /// Set aside by an operator?
    pub standby: bool,
    /// Has asked to leave?
    pub leaving: bool,
    /// Was this life fenced, though it is a member? Its machine has to be started anew.
    pub over: bool,
    /// Has it the access that it needs, or needs none?
    pub access: bool,
    /// The time of its watchdog, if it said that one is armed and ends it outside the primary partition.
    #[serde(default)]
    pub watchdog: Option<core::time::Duration>,
    /// Why it is to be fenced, if it is.
    pub fencing: Option<FenceCause>,
    /// What the last attempt to fence it brought.
    pub fencing_last: Option<Arc<str>>,
}
