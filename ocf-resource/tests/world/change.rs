//! Operators change what the cluster runs, and what may come of it:
//! * C1: what was removed is forgotten only when it is down on every machine, and no machine runs in the end what is not configured.
//! * C2: a change that counts was made from the configuration that it takes the place of.
//! * V4: what runs is looked at as often as is agreed on.

use super::{MS, World};
use ocf_resource::{Command, Config, GroupConfig, Preference, Promotion, ResourceConfig, Score};
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Groups of a cluster, and resources of a group, beyond which no more are added.
const GROUPS_MOST: usize = 14;
const RESOURCES_MOST: usize = 4;

/// What a decision about a resource was made by.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// The resources of its group, in their order.
    pub(super) names: Vec<Arc<str>>,
    pub(super) copies: usize,
    pub(super) promoted: usize,
    /// How much its group would rather be on each node.
    pub(super) group: GroupConfig,
}

impl Ground {
    pub(super) fn of(config: &Config, resource: &str) -> Option<Self> {
        let group = config.groups.iter().find(|g| g.resources.iter().any(|r| r.name == resource))?;
        let (copies, promoted) = limits(group);
        let names = group.resources.iter().map(|r| r.name.as_str().into()).collect();
        Some(Self { names, copies, promoted, group: group.clone() })
    }

    pub(super) fn place(&self, resource: &str) -> usize {
        self.names.iter().position(|n| &**n == resource).unwrap()
    }
}

/// On how many machines a group may be active, and promoted.
fn limits(group: &GroupConfig) -> (usize, usize) {
    let number = |n: u32| usize::try_from(n).unwrap();
    (if group.copies == 0 { usize::MAX } else { number(group.copies) }, number(group.promoted))
}

/// What the checkers know of changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What a newest decision about a resource on a node was made by.
    pub(super) grounds: BTreeMap<(NodeInstance, Arc<str>), Ground>,
    /// The highest limits that a resource ever had.
    most: BTreeMap<Arc<str>, (usize, usize)>,
    /// Which revision each change was made from; a change is known by the highest priority of a group.
    made_from: BTreeMap<u32, u64>,
    /// Where in the stream something was forgotten.
    forgotten: BTreeSet<(usize, Arc<str>)>,
    /// How often what runs on a machine is looked at.
    pub(super) intervals: BTreeMap<(NodeId, Arc<str>), Duration>,
    names: u32,
}

impl Changes {
    /// This may be configured from now on.
    pub(super) fn allow(&mut self, config: &Config) {
        for group in &config.groups {
            let (copies, promoted) = limits(group);
            for resource in &group.resources {
                let most = self.most.entry(resource.name.as_str().into()).or_default();
                *most = (most.0.max(copies), most.1.max(promoted));
            }
        }
    }

    pub(super) fn most(&self, resource: &str) -> (usize, usize) {
        self.most[resource]
    }
}

fn tag(config: &Config) -> u32 {
    config.groups.iter().map(|g| g.priority).max().unwrap_or_default()
}

impl World {
    /// What is known of the reason for which `who` does something with a resource.
    pub(super) fn ground(&self, who: NodeInstance, resource: &Arc<str>) -> Ground {
        let decided = self.changes.grounds.get(&(who, Arc::clone(resource))).cloned();
        let now = || Ground::of(self.processes[&who].manager.state().config()?, resource);
        decided.or_else(now).unwrap()
    }

    /// A manager has decided something.
    pub(super) fn note_ground(&mut self, who: NodeInstance, resource: &Arc<str>) {
        let config = self.processes[&who].manager.state().config();
        if let Some(ground) = config.and_then(|config| Ground::of(config, resource)) {
            self.changes.grounds.insert((who, Arc::clone(resource)), ground);
        }
    }

    /// C1, when a manager says that a resource is gone.
    pub(super) fn check_removed(&mut self, who: NodeInstance, resource: &Arc<str>) {
        let at = self.processes[&who].at;
        if !self.changes.forgotten.insert((at, Arc::clone(resource))) {
            return;
        }
        self.saw("removed");
        let on: Vec<NodeId> =
            self.active.iter().filter(|(_, a)| a.contains(resource)).map(|(node, _)| *node).collect();
        if !on.is_empty() {
            self.violate(format!("C1: {resource} is forgotten, and active on {on:?}"));
        }
    }

    /// C2, when a manager has gone from one configuration to another because of a command.
    pub(super) fn check_change(&mut self, who: NodeInstance, before: u64) {
        let Some(config) = self.processes[&who].manager.state().config() else { return };
        let (after, tag) = (config.revision, tag(config));
        if after != before && self.changes.made_from.get(&tag) != Some(&before) {
            let from = self.changes.made_from.get(&tag);
            self.violate(format!("C2: revision {after} was made from {from:?}, and follows on {before}"));
        }
    }

    /// One operator changes the configuration; or two of them, who do not know of each other.
    pub(super) fn change_configuration(&mut self) {
        let members = self.view.clone();
        for _ in 0..=u32::from(self.rng.chance(0.3)) {
            let Some(who) = self.rng.pick(&members).copied() else { return };
            let known = self.processes.get(&who).and_then(|p| p.manager.configuration());
            let Some(mut config) = known else { continue };
            for _ in 0..=self.rng.below(3) {
                self.alter(&mut config);
            }
            self.request_change(who, config);
        }
    }

    /// An operator asks at this node for another configuration, made from what is agreed on there.
    pub(super) fn request_change(&mut self, who: NodeInstance, mut config: Config) {
        self.changes.names += 1;
        let name = self.changes.names;
        for group in &mut config.groups {
            group.priority = 0;
        }
        config.groups[0].priority = name;
        self.changes.made_from.insert(name, config.revision);
        self.changes.allow(&config);
        self.note(|| format!("{who} wants {name}: {}", outline(&config)));
        let (now, config) = (self.now, Arc::new(config));
        let process = self.processes.get_mut(&who).unwrap();
        match process.manager.request(now, Command::Configure(config)) {
            Ok(()) => self.saw("change"),
            Err(error) => self.note(|| format!("{who} refuses it: {error}")),
        }
        self.drain(who);
    }

    fn alter(&mut self, config: &mut Config) {
        let groups = config.groups.len();
        let at = usize::try_from(self.rng.below(groups.try_into().unwrap())).unwrap();
        match self.rng.below(10) {
            0 if groups > 6 => drop(config.groups.remove(at)),
            1 if groups < GROUPS_MOST => self.add_group(config, at),
            2 | 3 => self.add_resource(&mut config.groups[at]),
            4 | 5 => self.remove_resource(&mut config.groups[at]),
            6 => self.alter_operations(&mut config.groups[at]),
            7 => self.alter_place(&mut config.groups[at]),
            8 => self.alter_kind(&mut config.groups[at]),
            _ => self.alter_order(config, at),
        }
    }

    /// One that was there, or one like another.
    fn add_group(&mut self, config: &mut Config, like: usize) {
        let back = self.config.groups.iter().find(|g| config.groups.iter().all(|c| c.name != g.name));
        let group = match back.cloned().filter(|_| self.rng.chance(0.5)) {
            Some(back) => back,
            None => {
                let mut group = config.groups[like].clone();
                self.changes.names += 1;
                group.name = format!("{}n{}", kind(&group.name), self.changes.names);
                for resource in &mut group.resources {
                    resource.name = self.new_name(&group.name);
                }
                group
            }
        };
        config.groups.push(group);
    }

    fn new_name(&mut self, group: &str) -> String {
        self.changes.names += 1;
        let last = if self.rng.chance(0.3) { "r1" } else { "" };
        let name = format!("{group}x{}{last}", self.changes.names);
        if name.starts_with("scored") {
            for node in self.nodes.clone() {
                self.scores.insert((node, name.as_str().into()), Promotion::Score(Score::ZERO));
            }
        }
        name
    }

    pub(super) fn add_resource(&mut self, group: &mut GroupConfig) {
        if group.resources.len() < RESOURCES_MOST && !group.migrate {
            let name = self.new_name(&group.name.clone());
            let places = u64::try_from(group.resources.len() + 1).unwrap();
            let place = usize::try_from(self.rng.below(places)).unwrap();
            let resource = ResourceConfig { name, ..group.resources[0].clone() };
            group.resources.insert(place, resource);
        }
    }

    fn remove_resource(&mut self, group: &mut GroupConfig) {
        let count = group.resources.len();
        if count > 1 {
            let place = usize::try_from(self.rng.below(count.try_into().unwrap())).unwrap();
            group.resources.remove(place);
        }
    }

    fn alter_operations(&mut self, group: &mut GroupConfig) {
        let interval = self.jitter(1_500, 3_000);
        let timeout = self.jitter(1_500, 2_500);
        let value = self.rng.below(4).to_string();
        for resource in &mut group.resources {
            resource.monitor_interval = interval;
            (resource.start_timeout, resource.stop_timeout) = (timeout, timeout);
            if self.rng.chance(0.5) {
                resource.parameters = BTreeMap::from([("p".to_owned(), value.clone())]);
            }
        }
    }

    fn alter_place(&mut self, group: &mut GroupConfig) {
        group.nodes.reverse();
        group.migration_threshold = u32::try_from(self.rng.between(1, 3)).unwrap();
        if self.rng.chance(0.5) {
            let node = *self.rng.pick(&self.nodes).unwrap();
            group.preferences = vec![Preference { node, score: Score::new(100) }];
        }
        group.failback = false;
        // Those that are promoted would stay so by it, and V2 asks for the best.
        let sticks = self.rng.chance(0.5) && group.promoted == 0;
        group.stickiness = sticks.then(|| Score::new(50));
        // What is tried again after a while, and always fails, does not rest.
        let forgets = self.rng.chance(0.5) && !group.name.starts_with("broken");
        group.failure_window = if forgets { MS(10_000) } else { Duration::ZERO };
    }

    fn alter_kind(&mut self, group: &mut GroupConfig) {
        let single = group.resources.len() == 1 && group.promoted == 0;
        if group.name.starts_with("two") {
            group.copies = u32::try_from(self.rng.between(1, 3)).unwrap();
        } else if single && group.copies == 1 {
            group.migrate = !group.migrate;
        }
    }

    fn alter_order(&mut self, config: &mut Config, at: usize) {
        if self.rng.chance(0.5) {
            config.groups.swap(0, at);
        }
        config.groups[at].resources.reverse();
    }

    /// C1 and V4, of a world that had time to settle.
    pub(super) fn unsettled_changes(&self, agreed: &Config) -> Vec<String> {
        let mut wrong = Vec::new();
        for (node, active) in &self.active {
            for name in active {
                let Some(resource) =
                    agreed.groups.iter().flat_map(|g| &g.resources).find(|r| *r.name == **name)
                else {
                    wrong.push(format!("C1: {name} is active on {node}, and is not configured"));
                    continue;
                };
                let looks = self.changes.intervals.get(&(*node, Arc::clone(name)));
                if looks != Some(&resource.monitor_interval) {
                    let every = resource.monitor_interval;
                    wrong.push(format!("V4: {name} on {node} is looked at every {looks:?}, not {every:?}"));
                }
            }
        }
        for status in self.processes.values().map(|p| p.manager.status()) {
            let late = status.groups.iter().filter(|g| g.removing);
            wrong.extend(late.map(|g| format!("C1: {} is still on its way out: {g:?}", g.name)));
        }
        wrong
    }
}

/// What a group is like, by the name of the one that it was made from.
fn kind(name: &str) -> &str {
    name.split('n')
        .next()
        .filter(|kind| matches!(*kind, "two" | "roles" | "scored"))
        .unwrap_or_else(|| if name.starts_with("broken") { "broken" } else { "new" })
}

fn outline(config: &Config) -> String {
    let names = |g: &GroupConfig| {
        let resources: Vec<&str> = g.resources.iter().map(|r| r.name.as_str()).collect();
        format!("{}x{}[{}]", g.name, g.copies, resources.join(" "))
    };
    let groups: Vec<String> = config.groups.iter().map(names).collect();
    format!("from {}: {}", config.revision, groups.join(", "))
}
