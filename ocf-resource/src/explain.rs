//! Why a group is as it is, and what can be done about it.

use crate::plan::plan;
use crate::{Blocked, Command, FenceCause, Ineligible, Score, State};
use core::fmt;
use pils::NodeInstance;
use serde::Serialize;
use std::sync::Arc;

/// Why a group is as it is. A pure function of the replicated state: the same at every member, and for any state that was
/// kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The group.
    pub group: Arc<str>,
    /// Is it to run?
    pub wanted: bool,
    /// Where it is to run, if anywhere; of a group with several copies, the first.
    pub target: Option<NodeInstance>,
    /// Why it does not get on, if it does not.
    pub blocked: Option<Blocked>,
    /// What gets it on again, the best first. Empty if it is not blocked.
    pub ways_out: Vec<WayOut>,
    /// Each member: why it cannot take the group, or `None` if it can.
    pub nodes: Vec<(NodeInstance, Option<Ineligible>)>,
    /// Each member: how good it is for the group.
    pub scores: Vec<NodeScore>,
    /// Copies that run as they were configured before, and whose restart waits.
    pub old_copies: Vec<OldCopy>,
}

/// A copy that runs as it was configured before. It has to be restarted to run as it is configured now, and that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OldCopy {
    /// Where.
    pub node: NodeInstance,
    /// Copies that have to run before, as they are configured now.
    pub awaits: Vec<NodeInstance>,
    /// Who is gone, may still run a copy, and has to be fenced before.
    pub fencing: Vec<NodeInstance>,
}

impl fmt::Display for OldCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |nodes: &[NodeInstance]| nodes.iter().map(|n| n.node.to_string()).collect::<Vec<_>>().join(", ");
        write!(f, "runs as configured before, and is restarted when")?;
        match (self.awaits.is_empty(), self.fencing.is_empty()) {
            (false, true) => write!(f, " the copy on {} runs", names(&self.awaits)),
            (true, false) => write!(f, " {} is fenced", names(&self.fencing)),
            (false, false) => {
                write!(f, " the copy on {} runs and {} is fenced", names(&self.awaits), names(&self.fencing))
            }
            (true, true) => f.write_str(" it is its turn"),
        }
    }
}

/// How good a member is for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NodeScore {
    /// Which.
    pub node: NodeInstance,
    /// How much the group would rather be there. `INFINITY` if an operator moved it there.
    pub preference: Score,
    /// What being there counts, if it is there.
    pub stickiness: Score,
    /// How many hosts outside the cluster it reaches, if that counts for the group and is known.
    pub reach: Option<u32>,
    /// What its agents say of promoting the copy there, which runs: inside, `None` if they do not let it be promoted. `None`
    /// if the group has no roles, or no copy runs there.
    pub promotion: Option<Option<Score>>,
}

/// Something that helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WayOut {
    /// What to do, in words.
    pub what: String,
    /// The command that does it, if one does.
    #[serde(skip)]
    pub command: Option<Command>,
}

impl WayOut {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), command: None }
    }

    fn by(what: impl Into<String>, command: Command) -> Self {
        Self { what: what.into(), command: Some(command) }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = if self.wanted { "is to run" } else { "is not to run" };
        write!(f, "{} {wanted}", self.group)?;
        match (&self.target, &self.blocked) {
            (_, Some(blocked)) => write!(f, "; {blocked}")?,
            (Some(target), None) => write!(f, ", on {target}")?,
            (None, None) => {}
        }
        for (node, why) in &self.nodes {
            match why {
                None => write!(f, "\n  {node} can take it")?,
                Some(why) => write!(f, "\n  {node} {why}")?,
            }
            let Some(score) = self.scores.iter().find(|s| s.node == *node) else { continue };
            let (preference, stickiness) = (score.preference, score.stickiness);
            if (preference, stickiness) != (Score::ZERO, Score::ZERO) {
                write!(f, "; score {preference}, and {stickiness} for being there")?;
            }
            if let Some(hosts) = score.reach {
                write!(f, "; reaches {hosts} hosts outside the cluster")?;
            }
            match score.promotion {
                None => {}
                Some(None) => f.write_str("; its agent does not let it be promoted")?,
                Some(Some(score)) => write!(f, "; score {score} for promotion")?,
            }
            if let Some(old) = self.old_copies.iter().find(|old| old.node == *node) {
                write!(f, "; {old}")?;
            }
        }
        self.ways_out.iter().try_for_each(|way| write!(f, "\n  way out: {}", way.what))
    }
}

/// Explains a group of this name, if there is one. O(groups x resources x nodes).
#[must_use]
pub fn explain(state: &State, group: &str) -> Option<Explanation> {
    let config = state.config.as_ref()?;
    let (name, current) = state.groups.get_key_value(group)?;
    let plan = plan(config, state);
    let blocked = plan.blocked.get(name).cloned();
    Some(Explanation {
        group: Arc::clone(name),
        wanted: current.wanted,
        target: plan.targets.get(name).copied().flatten(),
        ways_out: blocked.as_ref().map(|b| b.ways_out(name)).unwrap_or_default(),
        nodes: crate::plan::eligibility(config, state, name),
        scores: crate::plan::scores(config, state, name),
        old_copies: crate::plan::old_copies(config, state, name),
        blocked,
    })
}

impl Blocked {
    /// What gets a group on that is blocked so, the best first.
    #[must_use]
    pub fn ways_out(&self, group: &Arc<str>) -> Vec<WayOut> {
        match self {
            Self::Fencing { target, cause, .. } => {
                let mut ways = vec![
                    WayOut::new(format!("have the fence device of {} answer", target.node)),
                    WayOut::new(format!("make sure that {target} is off, and confirm that by hand")),
                ];
                if matches!(cause, FenceCause::Lost { .. }) {
                    let back = format!("let {} join again: it is looked at then", target.node);
                    ways.insert(0, WayOut::new(back));
                }
                ways
            }
            Self::Probing { node } => {
                vec![WayOut::new(format!("wait until the agents on {node} have answered, or time out"))]
            }
            Self::NoNode { nodes } => {
                let mut ways: Vec<WayOut> = nodes.iter().map(|(n, why)| why.way_out(*n, group)).collect();
                if nodes.is_empty() {
                    ways.push(WayOut::new("let a node join that may run it"));
                }
                ways
            }
            Self::Misconfigured { resource, .. } => {
                vec![WayOut::by(
                    format!("correct the parameters of {resource}, then clear the failures of {group}"),
                    Command::ClearFailures(Arc::clone(group)),
                )]
            }
            Self::StopFailed { resource, node, .. } => {
                let by_hand = WayOut::by(
                    format!("stop {resource} on {node} by hand, then clear the failures of {group}"),
                    Command::ClearFailures(Arc::clone(group)),
                );
                vec![by_hand, WayOut::new(format!("fence {node}"))]
            }
            Self::Maintenance { whole: false } => {
                let command = Command::Maintenance { group: Some(Arc::clone(group)), on: false };
                vec![WayOut::by(format!("end the maintenance of {group}"), command)]
            }
            Self::Maintenance { whole: true } => {
                let command = Command::Maintenance { group: None, on: false };
                vec![WayOut::by("end the maintenance of the cluster", command)]
            }
            Self::Quorum { quorum, wants, members, .. } => vec![
                WayOut::new(format!("let {} more of its nodes join", wants.saturating_sub(*members))),
                WayOut::new(format!("have quorum {quorum} want {members} in the configuration")),
                WayOut::new(format!("take quorum {quorum} from {group} in the configuration")),
            ],
        }
    }
}

impl Ineligible {
    /// What makes this node able to take the group.
    #[must_use]
    pub fn way_out(&self, node: NodeInstance, group: &Arc<str>) -> WayOut {
        match self {
            Self::NotListed => {
                WayOut::new(format!("list {} among the nodes of {group}, or let it run elsewhere", node.node))
            }
            Self::Unwanted => {
                WayOut::new(format!("give {group} another score than -INFINITY on {}", node.node))
            }
            Self::Standby => {
                WayOut::by(format!("bring {} back from standby", node.node), Command::Online(node.node))
            }
            Self::Leaving => WayOut::new(format!("let {} leave, and join again", node.node)),
            Self::Fencing => WayOut::new(format!("wait until {} is fenced and back", node.node)),
            Self::NoAccess { .. } => WayOut::new(format!(
                "have what runs on {0} stopped, and the device that gives {0} its access answer",
                node.node
            )),
            Self::Failures { .. } | Self::Hard { .. } => WayOut::by(
                format!("mend what failed on {}, then clear the failures of {group}", node.node),
                Command::ClearFailures(Arc::clone(group)),
            ),
            Self::Condition { of, name, node: about, .. } => {
                let (of, name) = (Arc::clone(of), Arc::clone(name));
                let what = format!("have {name} hold for {of}, and say so");
                WayOut::by(what, Command::Condition { of, node: *about, name, unmet: None })
            }
            Self::Unhealthy { attribute, .. } => {
                WayOut::new(format!("have {attribute} of {} become healthy", node.node))
            }
        }
    }
}
