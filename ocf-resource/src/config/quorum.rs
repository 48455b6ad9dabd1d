//! Quorum as a resource: what has to be there before groups that depend on it may run.

use crate::{Config, GroupConfig};
use pils::{ConfigErrors, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A resource that is up while enough nodes are members of the primary partition, and down otherwise.
///
/// No agent is asked: it is a function of the view, decided by all members alike with the view itself. A group that names it
/// ([`GroupConfig::quorum`]) is started only while it is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuorumConfig {
    /// Its name; unique among quorums.
    pub name: String,
    /// Which nodes count. Empty, the default: every member.
    #[serde(default)]
    pub nodes: Vec<NodeId>,
    /// How many of them have to be members: at least 1. Either this or `share`.
    #[serde(default)]
    pub members: Option<u32>,
    /// More than so many percent of `nodes` have to be members: 1 to 99; 50 is more than half, 99 all of up to 100.
    #[serde(default)]
    pub share: Option<u32>,
    /// What becomes of groups that run when it goes down.
    #[serde(default)]
    pub on_loss: QuorumLoss,
}

/// What becomes of what runs when the quorum that it needs goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuorumLoss {
    /// It is stopped.
    #[default]
    Stop,
    /// It goes on where it runs, in the role that it has. What fails is stopped, with what stands behind it, and what leaves its
    /// node for another reason is too: nothing is started again until the quorum is up.
    Keep,
}

impl QuorumConfig {
    /// One that wants so many members, whichever they are, and has what runs stopped when there are fewer.
    #[must_use]
    pub fn new(name: impl Into<String>, members: u32) -> Self {
        let on_loss = QuorumLoss::default();
        Self { name: name.into(), nodes: Vec::new(), members: Some(members), share: None, on_loss }
    }

    /// How many of the nodes that count have to be members.
    #[must_use]
    pub fn wants(&self) -> u32 {
        let more_than = |share: u32| self.of().unwrap_or(0).saturating_mul(share) / 100;
        self.members.unwrap_or_else(|| more_than(self.share.unwrap_or(0)) + 1)
    }

    /// How many nodes count, if only some do.
    #[must_use]
    pub fn of(&self) -> Option<u32> {
        (!self.nodes.is_empty()).then(|| u32::try_from(self.nodes.len()).unwrap_or(u32::MAX))
    }

    /// True if this node counts.
    #[must_use]
    pub fn counts(&self, node: NodeId) -> bool {
        self.nodes.is_empty() || self.nodes.contains(&node)
    }

    fn check(&self, known: &[NodeId]) -> ConfigErrors {
        let mut errors = ConfigErrors::default();
        super::check::check_name(&mut errors, &self.name);
        super::check::check_nodes(&mut errors, &self.nodes, known);
        let most = if self.nodes.is_empty() { known.len() } else { self.nodes.len() };
        match (self.members, self.share) {
            (Some(_), Some(share)) => {
                errors.push("share", share, "is said beside members", "leave one of them out");
            }
            (None, None) => errors.push("members", "", "is missing", "say how many have to be there"),
            (Some(0), None) => {
                errors.push("members", 0, "is below 1", "say how many have to be there");
            }
            (Some(members), None) if most > 0 && usize::try_from(members).is_ok_and(|m| m > most) => {
                let problem = format!("is more than the {most} nodes that count: it would never be up");
                errors.push("members", members, problem, format!("choose 1 to {most}"));
            }
            (None, Some(share)) if !(1..=99).contains(&share) => {
                errors.push("share", share, "is outside 1 to 99", "write percents: 50 for more than half");
            }
            (None, Some(share)) if self.nodes.is_empty() => {
                let fix = "list in nodes what it is a share of, or say members";
                errors.push("share", share, "is a share of no list of nodes", fix);
            }
            _ => {}
        }
        errors
    }
}

impl Config {
    /// Most quorums.
    pub const QUORUMS_MAX: usize = 64;

    /// The quorum of this name.
    #[must_use]
    pub fn quorum(&self, name: &str) -> Option<&QuorumConfig> {
        self.quorums.iter().find(|q| q.name == name)
    }

    pub(super) fn check_quorums(&self, known: &[NodeId], errors: &mut ConfigErrors) {
        if self.quorums.len() > Self::QUORUMS_MAX {
            let problem = format!("are more than {}", Self::QUORUMS_MAX);
            errors.push("quorums", self.quorums.len(), problem, "let groups share them");
        }
        let mut names = BTreeSet::new();
        for (at, quorum) in self.quorums.iter().enumerate() {
            let mut own = quorum.check(known);
            if !names.insert(quorum.name.as_str()) {
                let fix = "give each quorum a name of its own";
                own.push("name", &quorum.name, "is the name of an earlier quorum", fix);
            }
            errors.nest(&format!("quorums[{at}]"), own);
        }
    }
}

impl GroupConfig {
    pub(super) fn check_quorum(&self, whole: &Config, errors: &mut ConfigErrors) {
        let Some(name) = &self.quorum else { return };
        if whole.quorum(name).is_none() {
            let known: Vec<&str> = whole.quorums.iter().map(|q| q.name.as_str()).collect();
            let fix = match known.is_empty() {
                true => format!("add a [[quorums]] with name = {name:?}"),
                false => format!("choose among {}", known.join(", ")),
            };
            errors.push("quorum", name, "is no quorum of this configuration", fix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_more_than_has_to_be_there() {
        for count in 1..=64_u32 {
            let nodes: Vec<NodeId> = (1..=count).map(NodeId::new).collect();
            for (share, wants) in [(50, count / 2 + 1), (99, count)] {
                let share = Some(share);
                let quorum =
                    QuorumConfig { nodes: nodes.clone(), members: None, share, ..QuorumConfig::new("q", 1) };
                assert_eq!(quorum.wants(), wants, "{share:?} of {count}");
            }
        }
    }

    #[test]
    fn every_mistake_in_a_quorum_is_named_with_what_to_write() {
        let known = [1, 2, 3].map(NodeId::new);
        let good = QuorumConfig::new("good", 3);
        let of = |nodes: &[u32], members, share| QuorumConfig {
            nodes: nodes.iter().map(|n| NodeId::new(*n)).collect(),
            members,
            share,
            ..good.clone()
        };
        let problems = [
            (of(&[], None, None), "members is missing"),
            (of(&[], Some(0), None), "members 0 is below 1"),
            (of(&[], Some(4), None), "members 4 is more than the 3 nodes that count: it would never be up"),
            (
                of(&[1, 2], Some(3), None),
                "members 3 is more than the 2 nodes that count: it would never be up",
            ),
            (of(&[1, 2], Some(1), Some(60)), "share 60 is said beside members"),
            (of(&[1, 2], None, Some(100)), "share 100 is outside 1 to 99"),
            (of(&[], None, Some(60)), "share 60 is a share of no list of nodes"),
            (of(&[1, 1], Some(1), None), "nodes[1] n1 is listed twice"),
            (of(&[1, 9], Some(1), None), "nodes[1] n9 is not a node of this cluster"),
        ];
        for (wrong, problem) in problems {
            let errors = wrong.check(&known).0;
            let told: Vec<String> =
                errors.iter().map(|e| format!("{} {} {}", e.path, e.value, e.problem)).collect();
            let told: Vec<String> = told.iter().map(|t| t.replace("  ", " ")).collect();
            assert_eq!(told, [problem], "{wrong:?}");
        }
        assert!(good.check(&known).0.is_empty());
    }
}
