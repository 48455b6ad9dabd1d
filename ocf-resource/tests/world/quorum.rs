//! Groups that need a quorum.

use super::World;
use ocf_resource::{Action, Config, QuorumConfig, QuorumLoss};
use pils::{NodeId, NodeInstance};
use std::sync::Arc;

/// Has some groups need one: a member more than a majority, of which the loss stops them; or both n1 and n2, of which it does
/// not.
pub(super) fn add(config: &mut Config, nodes: u32) {
    let most = QuorumConfig::new("most", nodes / 2 + 2);
    let both = QuorumConfig {
        nodes: [1, 2].map(NodeId::new).to_vec(),
        members: None,
        share: Some(99),
        on_loss: QuorumLoss::Keep,
        ..QuorumConfig::new("both", 1)
    };
    for group in &mut config.groups {
        let needs = match group.name.as_str() {
            "g1" | "roles" | "spread" => &most,
            "two" | "scored" | "live" | "tied" => &both,
            _ => continue,
        };
        group.quorum = Some(needs.name.clone());
    }
    config.quorums = vec![most, both];
}

impl World {
    /// Q1, when a manager has decided to do something with a resource.
    pub(super) fn check_quorum(&mut self, who: NodeInstance, resource: &Arc<str>, action: Action) {
        let manager = &self.processes[&who].manager;
        let Some(config) = manager.state().config() else { return };
        let group = config.groups.iter().find(|g| g.resources.iter().any(|r| *r.name == **resource));
        let Some(quorum) = group.and_then(|g| config.quorum(g.quorum.as_ref()?)) else { return };
        let members = manager.status().nodes.into_iter().filter(|n| n.member && !n.over);
        let there = members.filter(|n| quorum.counts(n.instance.node)).count();
        let up = u32::try_from(there).unwrap() >= quorum.wants();
        let begins = matches!(action, Action::Start | Action::Promote | Action::MigrateTo);
        let name = quorum.name.clone();
        match (up, begins) {
            (true, true) => self.saw("begun with a quorum"),
            (false, true) => {
                self.violate(format!("Q1: {who} decides {action} of {resource} without quorum {name}"));
            }
            (false, false) => self.saw("ended without a quorum"),
            (true, false) => {}
        }
    }
}
