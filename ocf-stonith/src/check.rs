use crate::{Config, DeviceConfig, Hosts, LevelNodes, TargetConfig, Targets};
use pils::{ConfigErrors, NodeId};
use std::collections::BTreeSet;

impl Config {
    /// Checks everything that can be checked without looking at the system; the check of
    /// `driver::Classes` looks at the rest.
    ///
    /// # Errors
    /// All errors at once, with path, value and what to do.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let at_least_1 = [
            ("round_budget_ms", self.round_budget_ms),
            ("passes_max", u64::from(self.passes_max)),
            ("retry_pause_ms", self.retry_pause_ms),
            ("round_pause_ms", self.round_pause_ms),
            ("requests_max", self.requests_max as u64),
            ("history_max", self.history_max as u64),
        ];
        for (name, value) in at_least_1 {
            if value == 0 {
                errors.push(name, value, "is zero", "choose 1 or more, or leave it out");
            }
        }
        if self.round_pause_ms_max < self.round_pause_ms {
            let problem = format!("is below round_pause_ms = {}", self.round_pause_ms);
            errors.push("round_pause_ms_max", self.round_pause_ms_max, problem, "raise it");
        }
        let mut names = BTreeSet::new();
        for (i, device) in self.devices.iter().enumerate() {
            let mut own = ConfigErrors::default();
            if device.name.is_empty() {
                own.push("name", "", "is empty", "give the device a name");
            } else if !names.insert(device.name.as_str()) {
                let problem = "is the name of another device too";
                own.push("name", &device.name, problem, "give each device a name of its own");
            }
            device.check_shape(&mut own);
            errors.nest(&format!("devices[{i}]"), own);
        }
        self.check_levels(&mut errors);
        self.check_delays(&mut errors);
        self.check_budget(&mut errors);
        errors.into_result()
    }

    fn check_levels(&self, errors: &mut ConfigErrors) {
        let mut seen: Vec<(&LevelNodes, u8)> = Vec::new();
        for (i, level) in self.levels.iter().enumerate() {
            if !(1..=9).contains(&level.index) {
                let path = format!("levels[{i}].index");
                errors.push(
                    path,
                    level.index,
                    "is not from 1 to 9",
                    "choose 1 for the level to be tried first",
                );
            }
            let both = |nodes: &LevelNodes| match (nodes, &level.nodes) {
                (LevelNodes::List(a), LevelNodes::List(b)) => a.iter().any(|n| b.contains(n)),
                _ => true,
            };
            if seen.iter().any(|(nodes, index)| *index == level.index && both(nodes)) {
                let problem = "is the index of another level of the same node too";
                errors.push(format!("levels[{i}].index"), level.index, problem, "choose another one");
            }
            seen.push((&level.nodes, level.index));
            self.check_level_devices(i, errors);
        }
    }

    fn check_level_devices(&self, i: usize, errors: &mut ConfigErrors) {
        let Some(level) = self.levels.get(i) else { return };
        if level.devices.is_empty() {
            let fix = "name the devices that have to succeed together";
            errors.push(format!("levels[{i}].devices"), "[]", "names no device", fix);
        }
        if matches!(&level.nodes, LevelNodes::List(list) if list.is_empty()) {
            errors.push(format!("levels[{i}].nodes"), "[]", "names no node", "name them, or write \"all\"");
        }
        let mut names = BTreeSet::new();
        for (j, name) in level.devices.iter().enumerate() {
            let path = format!("levels[{i}].devices[{j}]");
            let Some(device) = self.devices.iter().find(|d| d.name == *name) else {
                errors.push(path, name, "is no device", "name a device of this configuration");
                continue;
            };
            if !names.insert(name) {
                errors.push(path, name, "is named twice", "leave one of them out");
                continue;
            }
            let unable = match &level.nodes {
                LevelNodes::List(list) => list.iter().find(|n| device.target(**n).is_none()).copied(),
                LevelNodes::Every(_) if matches!(device.nodes, Targets::Every(_)) => None,
                LevelNodes::Every(_) => {
                    let problem = "does not fence all nodes";
                    errors.push(path, name, problem, "list the nodes of the level");
                    continue;
                }
            };
            if let Some(node) = unable {
                let fix = format!("add {node} to the nodes of the device, or take it from the level");
                errors.push(path, name, format!("does not fence {node}"), fix);
            }
        }
    }

    fn check_delays(&self, errors: &mut ConfigErrors) {
        let fixed = self.devices.iter().flat_map(DeviceConfig::listed).map(|t| t.delay_ms).max().unwrap_or(0);
        let needed = fixed.saturating_add(self.delay_random_ms_max).saturating_mul(2);
        if self.priority_delay_ms != 0 && self.priority_delay_ms < needed {
            let problem = format!("is below {needed} ms, twice the longest of the other delays");
            let fix = format!("choose {needed} or more, or 0 for none");
            errors.push("priority_delay_ms", self.priority_delay_ms, problem, fix);
        }
        let listing = self.devices.iter().position(|d| d.hosts == Hosts::List);
        if let Some(i) = listing.filter(|_| self.health_every_ms == 0) {
            let problem = "needs health_every_ms, and that is 0";
            let fix = "set health_every_ms, such as 3600000, or write hosts = \"static\"";
            errors.push(format!("devices[{i}].hosts"), "list", problem, fix);
        }
    }

    /// One pass through the devices of any node must fit into a round.
    fn check_budget(&self, errors: &mut ConfigErrors) {
        for node in self.named_nodes() {
            let times = self.plan(node).into_iter().flat_map(|mut level| {
                // every device but the last one is read again, and that may be the fastest
                level.sort_by_key(|i| self.devices.get(*i).map(|d| d.timeout_ms));
                let again = level.get(1..).unwrap_or_default().to_vec();
                level.into_iter().chain(again)
            });
            let times = times.filter_map(|i| self.devices.get(i));
            let times = times.map(|d| d.timeout_ms.saturating_add(self.answer_grace_ms));
            let needed = times.fold(0, u64::saturating_add);
            if needed > self.round_budget_ms {
                let problem =
                    format!("is below the {needed} ms that one try of every device of {node} may take");
                let fix = format!("choose {needed} or more, or lower the timeouts of the devices");
                errors.push("round_budget_ms", self.round_budget_ms, problem, fix);
                return;
            }
        }
    }

    /// The nodes that devices name. A device for all nodes adds one that no other device names.
    fn named_nodes(&self) -> BTreeSet<NodeId> {
        let mut nodes: BTreeSet<_> =
            self.devices.iter().flat_map(DeviceConfig::listed).map(|t| t.node).collect();
        if self.devices.iter().any(|d| matches!(d.nodes, Targets::Every(_))) {
            nodes.insert((0..).map(NodeId::new).find(|n| !nodes.contains(n)).unwrap_or(NodeId::new(0)));
        }
        nodes
    }
}

impl DeviceConfig {
    /// The nodes it lists; none if it fences all.
    pub(crate) fn listed(&self) -> &[TargetConfig] {
        match &self.nodes {
            Targets::Every(_) => &[],
            Targets::List(list) => list,
        }
    }

    fn check_shape(&self, errors: &mut ConfigErrors) {
        if self.class.is_empty() {
            errors.push("class", "", "is empty", "name the class of the device, such as fence_agent");
        }
        if self.timeout_ms == 0 {
            errors.push(
                "timeout_ms",
                0,
                "is zero",
                "choose the longest time that the device may need, such as 30000",
            );
        }
        let Targets::List(list) = &self.nodes else { return };
        if list.is_empty() {
            errors.push(
                "nodes",
                "[]",
                "names no node",
                "name the nodes that the device fences, or write \"all\"",
            );
        }
        let mut seen = BTreeSet::new();
        for (i, target) in list.iter().enumerate() {
            if !seen.insert(target.node) {
                let problem = "is named twice";
                errors.push(format!("nodes[{i}].node"), target.node.raw(), problem, "leave one of them out");
            }
            if target.plug.as_deref() == Some("") {
                let fix = "name the outlet, or leave it out";
                errors.push(format!("nodes[{i}].plug"), "", "is empty", fix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[test]
    fn every_error_is_reported_at_once_with_its_path() {
        let config: Config = toml::from_str(
            r#"
            round_budget_ms = 1000
            retry_pause_ms = 0
            [[devices]]
            name = "a"
            class = "none"
            timeout_ms = 0
            nodes = [{ node = 1 }, { node = 1, plug = "" }]
            [[devices]]
            name = "a"
            class = "none"
            nodes = []
            [[devices]]
            name = "b"
            class = ""
            nodes = "all"
            "#,
        )
        .unwrap();
        let errors = config.check().unwrap_err();
        let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "retry_pause_ms",
                "devices[0].timeout_ms",
                "devices[0].nodes[1].node",
                "devices[0].nodes[1].plug",
                "devices[1].name",
                "devices[1].nodes",
                "devices[2].class",
                "round_budget_ms",
            ]
        );
        assert!(errors.0.iter().all(|e| !e.problem.is_empty() && !e.fix.is_empty()));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let wrong = toml::from_str::<Config>("round_budget = 5").unwrap_err();
        assert!(wrong.to_string().contains("round_budget_ms"), "the message names the right field: {wrong}");
        assert!(toml::from_str::<Config>("[[devices]]\nname='a'\nclass='none'\nnodes='al'").is_err());
    }

    #[test]
    fn the_default_is_correct() {
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }
}
