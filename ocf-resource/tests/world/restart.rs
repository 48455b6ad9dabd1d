//! Once all is well, an operator changes what copies run with, and nothing else goes on:
//! * RR1: no more copies of a group are down at once than `restart_parallel`.
//! * RR2: where that is one, no copy is stopped while none is promoted though another one may be.

use super::World;
use ocf_resource::GroupConfig;
use pils::{NodeId, NodeInstance};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of a group before its copies are restarted.
#[derive(Clone, Debug)]
pub(super) struct Rolling {
    /// The group, as it is to be.
    group: GroupConfig,
    /// What it has had before and keeps.
    names: Vec<Arc<str>>,
    /// On how many machines all of that was active.
    whole: usize,
}

impl World {
    /// An operator changes the parameters of all groups that have copies or roles, and puts something new in front of others in some.
    pub(crate) fn restart_copies(&mut self) {
        let Some(who) = self.view.first().copied() else { return };
        let Some(mut config) = self.processes[&who].manager.configuration() else { return };
        let many = |g: &&mut GroupConfig| g.copies != 1 || g.promoted > 0;
        let mut watched = BTreeMap::new();
        for group in config.groups.iter_mut().filter(many) {
            let names: Vec<Arc<str>> = group.resources.iter().map(|r| r.name.as_str().into()).collect();
            for resource in &mut group.resources {
                resource.parameters = BTreeMap::from([("p".to_owned(), "rolled".to_owned())]);
            }
            if self.rng.chance(0.3) {
                self.add_resource(group);
            }
            let large = u32::try_from(self.nodes.len() / 8).unwrap();
            group.restart_parallel = if large > 0 { large } else { *self.rng.pick(&[1, 1, 2, 0]).unwrap() };
            let whole = self.whole(&names).len();
            for name in &names {
                let rolling = Rolling { group: group.clone(), names: names.clone(), whole };
                watched.insert(Arc::clone(name), rolling);
            }
        }
        self.rolling = watched;
        self.request_change(who, config);
    }

    /// Machines on which all of this is active.
    fn whole(&self, names: &[Arc<str>]) -> Vec<NodeId> {
        let all = |n: &&NodeId| names.iter().all(|name| self.is_active(**n, name));
        self.nodes.iter().filter(all).copied().collect()
    }

    /// RR1 and RR2, when something was stopped.
    pub(super) fn check_restart(&mut self, at: NodeInstance, resource: &Arc<str>) {
        let Some(Rolling { group, names, whole: before }) = self.rolling.get(resource).cloned() else {
            return;
        };
        self.saw("restarted copy");
        let whole = self.whole(&names);
        let down = before.saturating_sub(whole.len());
        let most = usize::try_from(group.restart_parallel).unwrap();
        if most > 0 && down > most {
            self.violate(format!("RR1: {down} copies of {} are down, {at} with {resource}", group.name));
        }
        let promoted = |n: &NodeId| names.iter().all(|name| self.is_promoted(*n, name));
        let could = whole.iter().any(|n| self.worth(&group, *n).is_some());
        if most == 1 && group.promoted > 0 && could && !whole.iter().any(promoted) {
            self.violate(format!("RR2: no copy of {} is promoted while {at} stops {resource}", group.name));
        }
    }
}
