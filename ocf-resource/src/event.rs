//! What goes in and out of the resource manager.

use crate::executor::{self, Request};
use bytes::Bytes;
use core::fmt;
use pils::NodeInstance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names one decision of the replicated state machine: which view it fell in, and its number since the cluster was
/// founded. An answer to any other decision than the newest one about a resource on a node changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Decision {
    /// Number of the view.
    pub view: u64,
    /// Number of the decision.
    pub number: u64,
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Decision {
    /// `v7#12`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}#{}", self.view, self.number)
    }
}

/// A member that is no longer in the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Which life of which node.
    pub instance: NodeInstance,
    /// It declared its own end (a clean leave, a last gasp). That proves the process dead, not what agents started.
    pub proof_of_death: bool,
    /// The agreed cause in words, such as `silent for 1.2 s`. The same text at every member. Longer than 200 bytes: cut.
    pub why: Arc<str>,
}

/// What is known of a fencing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceOutcome {
    /// This very instance is dead, and everything it started. Unblocks recovery.
    Confirmed,
    /// A device took the order and cannot say more. **Not** fenced.
    Requested,
    /// Nothing is known. **Not** fenced.
    Unknown,
}

/// What arrives at the manager. `View`, `Ordered`, `StateWanted` and `State` are one stream, in the same order at every
/// member.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// The members changed.
    View {
        /// Number of the view; grows along the chain of primaries and is never used twice.
        number: u64,
        /// Members, most senior first.
        members: &'a [NodeInstance],
        /// Those of `members` that were not in the view before and have no state. If these are all members, the
        /// cluster is founded by this view.
        joined: &'a [NodeInstance],
        /// Members of the view before that are not in this one.
        departed: &'a [Departed],
    },
    /// A message that a member asked to broadcast, ordered with guarantee SAFE.
    Ordered {
        /// Who asked.
        sender: NodeInstance,
        /// The bytes. Not trusted to be well-formed.
        payload: &'a [u8],
    },
    /// A joiner needs the state as of this point of the stream: answered by [`Output::OfferState`].
    StateWanted {
        /// To name in the answer.
        token: u64,
    },
    /// This node joined as the first of the stream: there is nobody who could give it a state. Changes nothing for a
    /// node that does not wait for one.
    First,
    /// Those who had the state are gone, and this node is the one that goes on without it. What was ordered since it
    /// joined was not delivered to it. A node that waits takes it like [`Input::First`]; a founder, to whom nothing was
    /// delivered yet, founds the cluster once more.
    StateLost,
    /// This node joined, and this is the state as of the point of the stream at which it stands.
    State(&'a [u8]),
    /// This node is outside the primary partition.
    NonPrimary,
    /// The primary lease is in doubt: nothing new starts.
    Suspended,
    /// The lease is confirmed again.
    Resumed,
    /// What the executor of this node says.
    Executor(executor::Event),
    /// What the fencing layer of this node says about a request of [`Output::Fence`]. May come several times: a later
    /// `Confirmed` is as good as an early one.
    Fenced {
        /// Which life of which node.
        target: NodeInstance,
        /// What is known.
        outcome: FenceOutcome,
        /// In words: the evidence, or what stands in the way.
        detail: &'a str,
    },
    /// How many of the hosts outside the cluster that it watches this node reaches: at the beginning, and whenever it changes.
    Reach {
        /// How many it reaches.
        hosts: u32,
        /// How many it watches.
        of: u32,
    },
    /// What came of [`Output::GiveAccess`].
    Access {
        /// What stands in the way; `None`: this node has its access.
        why: Option<&'a str>,
    },
}

/// What the manager wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// Order this message (guarantee SAFE) and deliver it to every member, this one included. Messages of one node keep
    /// their order. It must not be lost as long as this node stays in the primary partition.
    Broadcast(Bytes),
    /// Pass to the executor of this node.
    Execute(Request),
    /// Fence this very instance. Only the most senior member that is not itself the target is told so. A repeated
    /// request means that it still stands.
    Fence {
        /// Which life of which node.
        target: NodeInstance,
        /// Why.
        cause: FenceCause,
    },
    /// The request need not be carried out any more: the instance is a member again, or proven dead.
    WithdrawFence {
        /// Which life of which node.
        target: NodeInstance,
    },
    /// Give this node the access that it needs before it may run anything, and say with [`Input::Access`] what came of it. Nothing
    /// runs here until then. A repeated request means that it still lacks it.
    GiveAccess,
    /// The answer to [`Input::StateWanted`].
    OfferState {
        /// From the question.
        token: u64,
        /// The state.
        state: Bytes,
    },
    /// Keep this for the next life of this node, in place of what was kept before, and give it to [`Manager::set_kept`](crate::Manager::set_kept)
    /// then. The sooner the better: what is lost is a change that no node kept.
    Keep(crate::Kept),
    /// Tell the application.
    Event(Event),
}

/// Why a node is fenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FenceCause {
    /// It left the view while resources were, or may have been, active on it.
    Lost {
        /// Number of the first view without it: its causes say more.
        view: u64,
        /// The agreed cause in words.
        why: Arc<str>,
        /// The process is dead by its own declaration, but what it started may not be.
        proof_of_death: bool,
        /// The resources.
        resources: Vec<Arc<str>>,
    },
    /// It could not stop a resource, so nobody else can start it.
    StopFailed {
        /// The resource.
        resource: Arc<str>,
        /// The decision it failed to carry out.
        decision: Decision,
        /// What the agent said.
        why: Arc<str>,
    },
}

impl fmt::Display for FenceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { view, why, proof_of_death, resources } => {
                let dead = if *proof_of_death { ", its processes may live on" } else { "" };
                write!(f, "left view v{view} ({why}) with {}{dead}", list(resources))
            }
            Self::StopFailed { resource, why, .. } => write!(f, "could not stop {resource}: {why}"),
        }
    }
}

fn list(names: &[Arc<str>]) -> String {
    match names {
        [] => "nothing known to run".to_owned(),
        [one] => one.to_string(),
        [first, rest @ ..] if rest.len() > 3 => format!("{first} and {} more", rest.len()),
        _ => names.iter().map(|n| &**n).collect::<Vec<_>>().join(", "),
    }
}

/// Why something is done with a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Why {
    /// A node is new in the view: nobody knows what runs there.
    NewNode,
    /// The group is to run, and this is the best node for it.
    Placed,
    /// It failed here and is restarted.
    Recover,
    /// It goes to a better node, or away from one that must not run it.
    Move {
        /// Where to, if anywhere.
        to: Option<NodeInstance>,
    },
    /// Another node hands it over without a stop.
    TakeOver {
        /// Which.
        from: NodeInstance,
    },
    /// The group is not to run.
    Stopped,
    /// One before it in its group has to be started or stopped.
    Order,
    /// It is to be in another role there.
    Role,
    /// Its parameters were changed.
    Reconfigured,
    /// It was removed from the configuration.
    Removed,
    /// The quorum that its group needs is down.
    NoQuorum,
}

/// What the manager tells the application. The same events, in the same order, at every member, except those marked
/// local.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A resource is to be started, stopped or looked at.
    Decided {
        /// Names the decision.
        decision: Decision,
        /// The resource.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// What.
        action: crate::Action,
        /// Why.
        why: Why,
    },
    /// Instances of a resource hear of a step, before or after it.
    Notifying {
        /// The decision that the step carries out.
        decision: Decision,
        /// The resource.
        resource: Arc<str>,
        /// Where the step is.
        node: NodeInstance,
        /// What the step is.
        action: crate::Action,
        /// Before the step, which waits for them, or after it.
        before: bool,
        /// Where those run that hear of it.
        listeners: Vec<NodeInstance>,
    },
    /// Everybody who had to hear of a step before it has heard: it is carried out now.
    Noticed {
        /// The decision that the step carries out.
        decision: Decision,
        /// The resource.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// What.
        action: crate::Action,
    },
    /// A resource runs.
    Started {
        /// The resource.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// Which decision started it, or found it running.
        decision: Decision,
    },
    /// A resource that runs is in another role.
    RoleChanged {
        /// The resource.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// The role it has now.
        role: crate::Role,
        /// Which decision brought it there.
        decision: Decision,
    },
    /// A resource that runs has taken changed parameters, without a restart.
    Reloaded {
        /// The resource.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// Which decision had it do so.
        decision: Decision,
    },
    /// A resource is down.
    Stopped {
        /// The resource.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// Which decision stopped it.
        decision: Decision,
    },
    /// A resource failed.
    Failed {
        /// The resource.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// In which action.
        action: crate::Action,
        /// The decision in question: the operation's own; for a monitor, the one that started the resource.
        decision: Decision,
        /// What the agent said.
        why: Arc<str>,
        /// Failures of its group on this node so far.
        failures: u32,
    },
    /// A resource of this instance is free: the instance is proven dead.
    Fenced {
        /// Which life of which node.
        target: NodeInstance,
        /// The evidence.
        detail: Arc<str>,
    },
    /// Fencing did not succeed yet. It goes on.
    FenceUnconfirmed {
        /// Which life of which node.
        target: NodeInstance,
        /// What is known.
        outcome: FenceOutcome,
        /// What stands in the way.
        detail: Arc<str>,
    },
    /// A member has the access that it needs, and may run resources.
    AccessGiven {
        /// Which life of which node.
        node: NodeInstance,
    },
    /// A member could not be given the access that it needs. It is tried again.
    AccessRefused {
        /// Which life of which node.
        node: NodeInstance,
        /// What stands in the way.
        why: Arc<str>,
    },
    /// A life that was fenced is in the view. Nothing runs on that node until it begins another one: its machine has to be started
    /// anew.
    LifeIsOver {
        /// Which life of which node.
        node: NodeInstance,
    },
    /// A group cannot make progress, or can again.
    Blocked {
        /// The group.
        group: Arc<str>,
        /// Why, or `None` if it is not blocked any more.
        because: Option<crate::Blocked>,
    },
    /// Local. The cluster runs another configuration than the one this node was given; the cluster's is used.
    ConfigurationDiffers,
    /// What the cluster runs was changed: all that follows is done by the new configuration.
    Configured {
        /// Its revision.
        revision: u64,
        /// Who asked for it, or brought it when the cluster was founded.
        by: NodeInstance,
    },
    /// A change of what the cluster runs was not accepted: nothing has changed.
    ConfigurationRefused {
        /// Who asked for it.
        by: NodeInstance,
        /// Why.
        error: crate::ConfigurationError,
    },
    /// A resource that was removed from the configuration is down everywhere, and forgotten.
    Removed {
        /// The resource.
        resource: Arc<str>,
    },
    /// Local. This node left the primary partition and stops what it runs, in this order within each group.
    StoppingAll {
        /// The resources.
        resources: Vec<Arc<str>>,
    },
    /// Local. A resource that had to be stopped outside the primary partition is down, or could not be stopped.
    StoppedAlone {
        /// The resource.
        resource: Arc<str>,
        /// How it ended.
        result: crate::OperationResult,
    },
    /// Local. This node asked to leave, and runs nothing any more: it can leave without being fenced.
    ReadyToLeave,
    /// Local. A message or state could not be read.
    Malformed {
        /// Who sent it, if a message.
        sender: Option<NodeInstance>,
        /// What is wrong.
        error: pils::wire::ParseError,
    },
}

/// What an operator asks of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Prefer this node for a group from now on, or with `None` no longer.
    MoveGroup {
        /// The group.
        group: Arc<str>,
        /// The node.
        to: Option<pils::NodeId>,
    },
    /// Stop a group, and keep it stopped.
    StopGroup(Arc<str>),
    /// Let a group run.
    StartGroup(Arc<str>),
    /// Forget the failures of a group on every node.
    ClearFailures(Arc<str>),
    /// Move everything away from a node and place nothing there.
    Standby(pils::NodeId),
    /// The reverse of `Standby`.
    Online(pils::NodeId),
    /// Take the hands off a group, or of everything: nothing is started, stopped, watched or (for everything) fenced. At
    /// its end what runs is looked at anew.
    Maintenance {
        /// The group; `None` for the whole cluster.
        group: Option<Arc<str>>,
        /// Begin or end it.
        on: bool,
    },
    /// Run a resource with these parameters in place of those it has. Where it runs, its agent is asked to take them without
    /// a restart, if it says that it can (`reload-agent`, and all that changed `reloadable`); else it is restarted, as is
    /// what stands behind it in its group. The revision of the configuration is one higher then.
    SetParameters {
        /// The resource.
        resource: Arc<str>,
        /// All its parameters. At most [`Config::PARAMETERS_MAX`](crate::Config::PARAMETERS_MAX) bytes.
        parameters: BTreeMap<String, String>,
    },
    /// Run this in place of what is configured, whole: made from [`Manager::configuration`](crate::Manager::configuration), whose revision it
    /// names; if that has changed since, nothing happens. The revision is one higher then.
    ///
    /// What it does not have any more is stopped everywhere first, and then forgotten ([`Event::Removed`]). What is new is looked at before it
    /// is started; `started` counts for new groups only. Changed parameters are taken as by `SetParameters`, changed monitors begin
    /// anew, all else counts from the next decision on. A name stands for the same agent, in the same group, with roles or without, as long as
    /// it may run. Which nodes need their access is not changed.
    Configure(Arc<crate::Config>),
    /// Says whether a condition from outside holds, without which a group may not run: on a node, or anywhere. It is moved, or
    /// stopped, as long as one does not. A condition of which nothing was said holds. What was said about a node is forgotten
    /// when that joins anew.
    Condition {
        /// The group, or a resource: then it is a condition of the group that it is in.
        of: Arc<str>,
        /// The node; `None`: anywhere.
        node: Option<pils::NodeId>,
        /// A name for it. At most 200 bytes count.
        name: Arc<str>,
        /// Why it does not hold, at most 200 bytes of it; `None`: it holds.
        unmet: Option<Arc<str>>,
    },
}

/// Why a command was not accepted. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Nothing can be ordered: this node is outside the primary partition, or has no state yet.
    #[error("this node is not an active member of the primary partition")]
    NotPrimary,
    /// There is no such group.
    #[error("no group {group:?}; there are {known}")]
    UnknownGroup {
        /// The name.
        group: Arc<str>,
        /// The groups there are.
        known: String,
    },
    /// There is no such resource.
    #[error("no resource {resource:?}")]
    UnknownResource {
        /// The name.
        resource: Arc<str>,
    },
    /// Parameters that no agent could be told.
    #[error("parameters of {resource}: {problem}")]
    Parameters {
        /// The resource.
        resource: Arc<str>,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A configuration that cannot take the place of the agreed one.
    #[error("the configuration is not changed: {0}")]
    Configuration(crate::ConfigurationError),
    /// Too many conditions of a group do not hold.
    #[error(
        "{most} conditions of {of} do not hold already, and there cannot be more: say of one that it holds"
    )]
    Conditions {
        /// The group or resource.
        of: Arc<str>,
        /// How many there may be.
        most: usize,
    },
}
