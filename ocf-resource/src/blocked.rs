//! Why a group does not get on, and why a node cannot take it.

use crate::FenceCause;
use core::fmt;
use pils::NodeInstance;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Why a group cannot make progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Blocked {
    /// It may still run on a node that is gone and not proven dead.
    Fencing {
        /// Which life of which node.
        target: NodeInstance,
        /// Why it has to be fenced.
        cause: FenceCause,
        /// What the last attempt brought.
        last: Option<Arc<str>>,
    },
    /// Nobody has looked yet whether it runs there.
    Probing {
        /// Where.
        node: NodeInstance,
    },
    /// No node can take it.
    NoNode {
        /// For each member, why it cannot.
        nodes: Vec<(NodeInstance, Ineligible)>,
    },
    /// Its configuration is wrong wherever it would run; clear its failures when that is mended.
    Misconfigured {
        /// The resource.
        resource: Arc<str>,
        /// What its agent said.
        why: Arc<str>,
    },
    /// It could not be stopped, and the policy forbids fencing for that; clear its failures when that is mended.
    StopFailed {
        /// The resource.
        resource: Arc<str>,
        /// Where.
        node: NodeInstance,
        /// What its agent said.
        why: Arc<str>,
    },
    /// An operator said that nothing is to be done with it for now.
    Maintenance {
        /// The whole cluster, not this group alone.
        whole: bool,
    },
    /// The quorum that it needs is down: nothing of it is started.
    Quorum {
        /// Which.
        quorum: Arc<str>,
        /// How many members it wants.
        wants: u32,
        /// Of how many nodes that count, if only some do.
        of: Option<u32>,
        /// How many of those are members.
        members: u32,
        /// What runs of the group is kept; otherwise it is stopped.
        keeps: bool,
    },
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fencing { target, cause, last } => {
                write!(f, "waits for fencing of {target}: it {cause}")?;
                last.as_ref().map_or(Ok(()), |last| write!(f, "; last attempt: {last}"))
            }
            Self::Probing { node } => write!(f, "waits until {node} has said what runs there"),
            Self::NoNode { nodes } => {
                f.write_str("no node can take it")?;
                nodes.iter().try_for_each(|(node, why)| write!(f, "; {node} {why}"))
            }
            Self::Misconfigured { resource, why } => write!(f, "{resource} is configured wrongly: {why}"),
            Self::StopFailed { resource, node, why } => {
                write!(f, "{resource} could not be stopped on {node}: {why}")
            }
            Self::Maintenance { whole: true } => f.write_str("the cluster is in maintenance"),
            Self::Maintenance { whole: false } => f.write_str("is in maintenance"),
            Self::Quorum { quorum, wants, of, members, keeps } => {
                write!(f, "quorum {quorum} wants {wants} members")?;
                of.map_or(Ok(()), |of| write!(f, " of {of}"))?;
                write!(f, ", there are {members}; ")?;
                f.write_str(if *keeps { "what runs is kept" } else { "what runs is stopped" })
            }
        }
    }
}

/// Why a member cannot take a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ineligible {
    /// The group's configuration does not list it.
    NotListed,
    /// The group's score there is `-INFINITY`.
    Unwanted,
    /// An operator set it aside.
    Standby,
    /// It wants to leave.
    Leaving,
    /// It is to be fenced, or an earlier life of it is.
    Fencing,
    /// It was not given the access that it needs.
    NoAccess {
        /// What stands in the way, if it was tried.
        why: Option<Arc<str>>,
    },
    /// Its health forbids it.
    Unhealthy {
        /// Which attribute.
        attribute: Arc<str>,
        /// Its value.
        value: crate::Health,
    },
    /// A condition from outside does not hold.
    Condition {
        /// Of which group, or resource in it.
        of: Arc<str>,
        /// Which.
        name: Arc<str>,
        /// The node that it is about, if it is about one.
        node: Option<pils::NodeId>,
        /// What whoever set it said.
        why: Arc<str>,
    },
    /// Too many failures.
    Failures {
        /// How many.
        count: u32,
        /// What its agent said last.
        why: Arc<str>,
    },
    /// A failure that no other attempt there can mend.
    Hard {
        /// What its agent said.
        why: Arc<str>,
    },
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListed => f.write_str("is not configured for it"),
            Self::Unwanted => f.write_str("has a score of -INFINITY for it"),
            Self::Standby => f.write_str("is in standby"),
            Self::Leaving => f.write_str("is leaving"),
            Self::Fencing => f.write_str("is to be fenced"),
            Self::NoAccess { why: None } => f.write_str("has not been given its access"),
            Self::NoAccess { why: Some(why) } => write!(f, "has not been given its access ({why})"),
            Self::Unhealthy { attribute, value } => write!(f, "is not healthy ({attribute} is {value:?})"),
            Self::Condition { of, name, why, .. } => {
                write!(f, "may not run it while {name} does not hold for {of} ({why})")
            }
            Self::Failures { count, why } => write!(f, "failed {count} times ({why})"),
            Self::Hard { why } => write!(f, "cannot run it ({why})"),
        }
    }
}
