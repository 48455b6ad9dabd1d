//! Finds everything that is wrong with a configuration.

use super::{Config, GroupConfig, ResourceConfig};
use crate::{AgentError, AgentName};
use core::time::Duration;
use pils::{ConfigErrors, NodeId};
use std::collections::BTreeSet;

const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
const INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Config {
    /// Checks everything that can be checked without looking at other nodes. `nodes` are the nodes of the cluster; empty
    /// if that is not known. `find` says whether this node has an agent: pass `|name| agents.find(name).map(drop)`, or
    /// `|_| Ok(())` to skip that.
    ///
    /// # Errors
    /// Every error, with path, value and what to do.
    pub fn check(
        &self,
        nodes: &[NodeId],
        find: impl Fn(&AgentName) -> Result<(), AgentError>,
    ) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        if self.groups.len() > Self::GROUPS_MAX {
            let problem = format!("are more than {}", Self::GROUPS_MAX);
            errors.push("groups", self.groups.len(), problem, "run fewer, larger groups");
        }
        self.check_reach(&mut errors);
        self.check_quorums(nodes, &mut errors);
        let mut groups = BTreeSet::new();
        let mut resources = BTreeSet::new();
        for (at, group) in self.groups.iter().enumerate() {
            let path = format!("groups[{at}]");
            let mut own = group.check(nodes);
            group.check_quorum(self, &mut own);
            if !groups.insert(group.name.as_str()) {
                own.push(
                    "name",
                    &group.name,
                    "is the name of an earlier group",
                    "give each group a name of its own",
                );
            }
            for (at, resource) in group.resources.iter().enumerate() {
                let mut wrong = resource.check();
                if !resources.insert(resource.name.as_str()) {
                    let fix = "give each resource a name of its own, also across groups";
                    wrong.push("name", &resource.name, "is the name of an earlier resource", fix);
                }
                if let Err(error) = find(&resource.agent) {
                    let fix = "install the agent or correct its name (`run_agent list` shows what there is)";
                    wrong.push("agent", &resource.agent, error.to_string(), fix);
                }
                own.nest(&format!("resources[{at}]"), wrong);
            }
            errors.nest(&path, own);
        }
        errors.into_result()
    }
}

impl GroupConfig {
    fn check(&self, nodes: &[NodeId]) -> ConfigErrors {
        let mut errors = ConfigErrors::default();
        check_name(&mut errors, &self.name);
        if self.resources.is_empty() {
            errors.push("resources", "", "is empty", "list at least one resource, or remove the group");
        }
        if self.resources.len() > Config::RESOURCES_MAX {
            let problem = format!("are more than {}", Config::RESOURCES_MAX);
            errors.push("resources", self.resources.len(), problem, "split the group");
        }
        check_nodes(&mut errors, &self.nodes, nodes);
        let mut seen = BTreeSet::new();
        for (at, preference) in self.preferences.iter().enumerate() {
            let node = preference.node;
            if !seen.insert(node) {
                let fix = "give each node one score";
                errors.push(format!("preferences[{at}].node"), node, "is listed twice", fix);
            }
            if !nodes.is_empty() && !nodes.contains(&node) {
                let known = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let path = format!("preferences[{at}].node");
                errors.push(path, node, "is not a node of this cluster", format!("choose among {known}"));
            }
        }
        if let Some(stickiness) = self.stickiness {
            if stickiness < crate::Score::ZERO {
                let fix = "write 0 to have it go wherever is best, INFINITY to have it stay";
                errors.push("stickiness", stickiness, "is below 0", fix);
            }
            if self.failback {
                errors.push("failback", true, "is said beside stickiness", "leave one of them out");
            }
        }
        if self.copies > 0 && self.promoted > self.copies {
            let fix = "promote at most as many copies as there are";
            errors.push("promoted", self.promoted, "is more than copies", fix);
        }
        if self.migrate && (self.resources.len() != 1 || self.copies != 1 || self.promoted > 0) {
            let fix = "give the resource a group of its own, with one copy and no roles";
            errors.push("migrate", true, "is only for a group of one resource that runs once", fix);
        }
        self.check_reach(&mut errors);
        if self.migration_threshold == 0 {
            errors.push("migration_threshold", 0, "is below 1", "write 1 to move at the first failure");
        }
        if !self.failure_window.is_zero() && self.failure_window < Duration::from_secs(10) {
            let fix = "choose 10 s or more, or 0 to remember failures until they are cleared";
            errors.push(
                "failure_window",
                show(self.failure_window),
                "lets failing resources restart without end",
                fix,
            );
        }
        errors
    }
}

impl ResourceConfig {
    fn check(&self) -> ConfigErrors {
        let mut errors = ConfigErrors::default();
        check_name(&mut errors, &self.name);
        let timeouts = [
            ("start_timeout", self.start_timeout),
            ("stop_timeout", self.stop_timeout),
            ("monitor_timeout", self.monitor_timeout),
        ];
        for (name, timeout) in timeouts {
            if timeout < INTERVAL_MIN || timeout > TIMEOUT_MAX {
                errors.push(
                    name,
                    show(timeout),
                    "is outside 100 ms to 24 h",
                    "choose what the agent needs at worst",
                );
            }
        }
        if self.monitor_interval < INTERVAL_MIN || self.monitor_interval > TIMEOUT_MAX {
            let fix = "choose 1 s to 60 s; shorter finds failures sooner and costs more";
            errors.push("monitor_interval", show(self.monitor_interval), "is outside 100 ms to 24 h", fix);
        }
        if self.monitors.len() > Config::MONITORS_MAX {
            let problem = format!("are more than {}", Config::MONITORS_MAX);
            errors.push("monitors", self.monitors.len(), problem, "keep the most telling ones");
        }
        for (at, monitor) in self.monitors.iter().enumerate() {
            if monitor.interval < INTERVAL_MIN || monitor.interval > TIMEOUT_MAX {
                let fix = "choose 1 s to 60 s, more for thorough ones";
                let path = format!("monitors[{at}].interval");
                errors.push(path, show(monitor.interval), "is outside 100 ms to 24 h", fix);
            }
            if monitor.timeout < INTERVAL_MIN || monitor.timeout > TIMEOUT_MAX {
                let path = format!("monitors[{at}].timeout");
                let fix = "choose what the agent needs at worst";
                errors.push(path, show(monitor.timeout), "is outside 100 ms to 24 h", fix);
            }
        }
        self.check_parameters(&mut errors);
        errors
    }

    pub(crate) fn check_parameters(&self, errors: &mut ConfigErrors) {
        for (name, value) in &self.parameters {
            let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if name.is_empty() || !good {
                let fix = "use the names that the agent's meta-data lists";
                errors.push(format!("parameters.{name}"), "", "cannot be the name of a parameter", fix);
            }
            if value.contains('\0') {
                errors.push(format!("parameters.{name}"), "", "contains a zero byte", "remove it");
            }
        }
    }
}

/// A list of nodes: each once, and all of them known if it is known which there are.
pub(super) fn check_nodes(errors: &mut ConfigErrors, nodes: &[NodeId], known: &[NodeId]) {
    let mut seen = BTreeSet::new();
    for (at, node) in nodes.iter().enumerate() {
        if !seen.insert(node) {
            let fix = "list each node once";
            errors.push(format!("nodes[{at}]"), node, "is listed twice", fix);
        }
        if !known.is_empty() && !known.contains(node) {
            let known = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let fix = format!("choose among {known}");
            errors.push(format!("nodes[{at}]"), node, "is not a node of this cluster", fix);
        }
    }
}

pub(super) fn check_name(errors: &mut ConfigErrors, name: &str) {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        let fix = "use 1 to 64 letters, digits, '-', '_' and '.'";
        errors.push("name", format!("{name:?}"), "cannot be used as a name", fix);
    }
}

pub(super) fn show(span: Duration) -> String {
    format!("{span:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str) -> ResourceConfig {
        ResourceConfig {
            parameters: [("state".to_owned(), "/tmp/x".to_owned())].into(),
            ..ResourceConfig::new(name, "ocf:heartbeat:Dummy".parse().unwrap())
        }
    }

    fn group(name: &str, resources: &[&str]) -> GroupConfig {
        GroupConfig {
            nodes: vec![NodeId::new(1), NodeId::new(2)],
            ..GroupConfig::new(name, resources.iter().map(|r| resource(r)).collect())
        }
    }

    #[test]
    fn every_error_is_reported_at_once_with_path_value_and_fix() {
        let mut bad = group("web", &["ip"]);
        bad.nodes.push(NodeId::new(9));
        bad.migration_threshold = 0;
        bad.resources[0].start_timeout = Duration::ZERO;
        let config =
            Config { groups: vec![group("web", &["ip", "site"]), bad, group("", &[])], ..Config::default() };
        let nodes = [NodeId::new(1), NodeId::new(2)];
        let missing = |agent: &AgentName| {
            Err(AgentError::AgentMissing { agent: agent.clone(), looked_at: vec!["/somewhere/Dummy".into()] })
        };
        let errors = config.check(&nodes, missing).unwrap_err();
        let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "groups[0].resources[0].agent",
                "groups[0].resources[1].agent",
                "groups[1].nodes[2]",
                "groups[1].migration_threshold",
                "groups[1].name",
                "groups[1].resources[0].start_timeout",
                "groups[1].resources[0].name",
                "groups[1].resources[0].agent",
                "groups[2].name",
                "groups[2].resources",
            ]
        );
        assert!(errors.0.iter().all(|e| !e.problem.is_empty() && !e.fix.is_empty()), "{errors}");
        assert!(errors.0[0].problem.contains("/somewhere/Dummy"), "{errors}");
    }

    #[test]
    fn a_good_configuration_passes() {
        let config = Config { groups: vec![group("web", &["ip", "site"])], ..Config::default() };
        config.check(&[], |_| Ok(())).unwrap();
    }
}
