//! What operators ask for.

use super::{Condition, Presence, State};
use crate::message::short;
use crate::{Command, Config, Event};
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl State {
    pub(super) fn on_command(
        &mut self,
        sender: NodeInstance,
        command: Command,
        events: &mut Vec<Event>,
    ) -> bool {
        match command {
            Command::MoveGroup { group, to } => {
                let Some(group) = self.groups.get_mut(&group) else { return false };
                group.pin = to;
                if let Some(node) = to {
                    group.failures.remove(&node);
                }
            }
            Command::StopGroup(ref name) | Command::StartGroup(ref name) => {
                let Some(group) = self.groups.get_mut(name) else { return false };
                group.wanted = matches!(command, Command::StartGroup(_));
            }
            Command::ClearFailures(name) => {
                let Some(group) = self.groups.get_mut(&name) else { return false };
                group.failures.clear();
                group.fatal = None;
                self.retry_stops(&name);
            }
            Command::Standby(node) => {
                self.standby.insert(node);
            }
            Command::Online(node) => {
                self.standby.remove(&node);
            }
            Command::Maintenance { group, on } => return self.maintain(group.as_ref(), on),
            Command::Condition { of, node, name, unmet } => {
                return self.set_condition(Condition { of, node, name }, unmet);
            }
            Command::SetParameters { resource, parameters } => {
                return self.set_parameters(&resource, parameters);
            }
            Command::Configure(next) => return self.configure(sender, &next, events),
        }
        true
    }

    /// The group that has the conditions of a group or resource.
    fn conditioned(&self, of: &str) -> Option<&Arc<str>> {
        let config = self.config.as_ref()?;
        let group = config.groups.get(config.either(of)?)?;
        self.groups.get_key_value(group.name.as_str()).map(|(name, _)| name)
    }

    /// True if no more conditions of this group or resource can be said not to hold.
    pub(crate) fn has_no_room(&self, (of, node, name): (&Arc<str>, Option<NodeId>, &str)) -> bool {
        let group = self.conditioned(of).and_then(|name| self.groups.get(name));
        let condition = Condition { of: Arc::clone(of), node, name: short(name) };
        group.is_some_and(|g| g.unmet.len() >= Config::CONDITIONS_MAX && !g.unmet.contains_key(&condition))
    }

    fn set_condition(&mut self, condition: Condition, unmet: Option<Arc<str>>) -> bool {
        let no_room = self.has_no_room((&condition.of, condition.node, &condition.name));
        let Some(name) = self.conditioned(&condition.of).cloned() else { return false };
        let Some(group) = self.groups.get_mut(&name) else { return false };
        match unmet {
            None => group.unmet.remove(&condition).is_some(),
            Some(_) if no_room => false,
            Some(why) => {
                group.unmet.insert(condition, why);
                true
            }
        }
    }

    /// From now on a resource is to run with these parameters.
    fn set_parameters(&mut self, name: &str, parameters: BTreeMap<String, String>) -> bool {
        let Some(config) = &mut self.config else { return false };
        if config.resource(name).is_none_or(|r| r.parameters == parameters) || config.is_leaving(name) {
            return false;
        }
        let after = &parameters.clone();
        let Some(before) = Arc::make_mut(config).set_parameters(name, parameters) else { return false };
        self.outdate(name, &Arc::new(before), after);
        true
    }

    /// Begins or ends maintenance. At its end nobody knows what became of what was left alone.
    fn maintain(&mut self, group: Option<&Arc<str>>, on: bool) -> bool {
        match group {
            None => self.maintenance = on,
            Some(name) => match self.groups.get_mut(name) {
                Some(group) => group.maintenance = on,
                None => return false,
            },
        }
        let Some(config) = self.config.clone().filter(|_| !on) else { return true };
        let over = |g: &&crate::GroupConfig| {
            group.is_none_or(|name| **name == *g.name)
                && !self.maintenance
                && self.groups.get(g.name.as_str()).is_some_and(|g| !g.maintenance)
        };
        let resources: BTreeSet<&str> =
            config.groups.iter().filter(over).flat_map(|g| &g.resources).map(|r| r.name.as_str()).collect();
        for node in self.nodes.values_mut().filter(|n| n.member) {
            for (_, spot) in node.spots.iter_mut().filter(|(name, _)| resources.contains(&***name)) {
                if spot.pending.is_none() {
                    spot.look_anew();
                }
            }
        }
        true
    }

    /// A stop that failed is tried again, unless the node is being fenced for it.
    fn retry_stops(&mut self, group: &str) {
        let Some(config) = self.config.clone() else { return };
        let Some(group) = config.group(group) else { return };
        for node in self.nodes.values_mut().filter(|n| n.member && n.fence.is_none()) {
            for resource in &group.resources {
                if let Some(spot) = node.spots.get_mut(resource.name.as_str())
                    && let Presence::StopFailed { why, .. } = &spot.presence
                {
                    spot.presence = Presence::Failed(Arc::clone(why));
                }
            }
        }
    }
}
