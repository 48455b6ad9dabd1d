//! Who hears of which step, before and after it.

use super::{Presence, State};
use crate::{Action, Decision, Event};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What instances hear of.
pub(crate) const fn is_told(action: Action) -> bool {
    matches!(action, Action::Start | Action::Stop | Action::Promote | Action::Demote)
}

impl State {
    /// The members whose instances of a resource hear of such a step: those where it runs.
    pub(super) fn listeners(&self, resource: &str, action: Action) -> BTreeSet<NodeInstance> {
        if !is_told(action) || !self.owner(resource).is_some_and(|g| g.notify) {
            return BTreeSet::new();
        }
        let runs = |(_, n): &(NodeInstance, &super::Node)| {
            n.spot(resource).is_some_and(|s| matches!(s.presence, Presence::Running(_)))
        };
        self.living().filter(runs).map(|(i, _)| i).collect()
    }

    /// An instance has heard of a step. Returns false if nobody waits for that.
    pub(super) fn on_noticed(
        &mut self,
        sender: NodeInstance,
        decision: Decision,
        resource: &Arc<str>,
        events: &mut Vec<Event>,
    ) -> bool {
        for (node, one) in &mut self.nodes {
            let Some(spot) = one.spots.get_mut(resource) else { continue };
            let Some((_, action)) = spot.pending.filter(|(pending, _)| *pending == decision) else {
                continue;
            };
            let heard = spot.notices.remove(&sender);
            if heard && spot.notices.is_empty() {
                events.push(Event::Noticed { decision, resource: Arc::clone(resource), node: *node, action });
            }
            return heard;
        }
        false
    }

    /// Those who are gone need not hear of anything any more.
    pub(super) fn forget_listeners(
        &mut self,
        is_gone: impl Fn(&NodeInstance) -> bool,
        events: &mut Vec<Event>,
    ) {
        for (node, one) in &mut self.nodes {
            for (resource, spot) in one.spots.iter_mut().filter(|(_, s)| !s.notices.is_empty()) {
                spot.notices.retain(|listener| !is_gone(listener));
                if let (true, Some((decision, action))) = (spot.notices.is_empty(), spot.pending) {
                    let resource = Arc::clone(resource);
                    events.push(Event::Noticed { decision, resource, node: *node, action });
                }
            }
        }
    }

    /// A step is over: those where the resource runs now hear of it.
    pub(super) fn notify_after(
        &self,
        node: NodeInstance,
        action: Action,
        (decision, resource): (Decision, &Arc<str>),
        events: &mut Vec<Event>,
    ) {
        let listeners: Vec<NodeInstance> = self.listeners(resource, action).into_iter().collect();
        if !listeners.is_empty() {
            let resource = Arc::clone(resource);
            events.push(Event::Notifying { decision, resource, node, action, before: false, listeners });
        }
    }

    /// What a listener is told of a step, in the words that agents know. The lists are as they were before the step.
    pub(crate) fn notice(
        &self,
        resource: &str,
        (node, action, before): (NodeInstance, Action, bool),
        name: impl Fn(NodeInstance) -> String,
    ) -> BTreeMap<String, String> {
        let mut lists: BTreeMap<&str, Vec<NodeInstance>> = BTreeMap::new();
        let mut inactive = 0;
        for (instance, one) in self.living() {
            let spot = one.spot(resource);
            let (active, promoted) = if instance == node {
                (action != Action::Start, action == Action::Demote)
            } else {
                let running = spot.is_some_and(|s| matches!(s.presence, Presence::Running(_)));
                (running, spot.is_some_and(|s| s.promoted))
            };
            match (active, promoted) {
                (false, _) => inactive += 1,
                (true, true) => lists.entry("promoted").or_default().push(instance),
                (true, false) => lists.entry("unpromoted").or_default().push(instance),
            }
            if active {
                lists.entry("active").or_default().push(instance);
            }
        }
        lists.entry(action.word()).or_default().push(node);
        let mut told = BTreeMap::from([
            ("notify_type".to_owned(), if before { "pre" } else { "post" }.to_owned()),
            ("notify_operation".to_owned(), action.word().to_owned()),
            ("notify_inactive_resource".to_owned(), vec![resource; inactive].join(" ")),
        ]);
        for list in ["start", "stop", "promote", "demote", "active", "promoted", "unpromoted"] {
            let nodes = lists.get(list).map(Vec::as_slice).unwrap_or_default();
            let resources = vec![resource; nodes.len()].join(" ");
            let names = nodes.iter().map(|n| name(*n)).collect::<Vec<_>>().join(" ");
            let older = match list {
                "promoted" => Some("master"),
                "unpromoted" => Some("slave"),
                _ => None,
            };
            for word in core::iter::once(list).chain(older) {
                told.insert(format!("notify_{word}_resource"), resources.clone());
                told.insert(format!("notify_{word}_uname"), names.clone());
            }
        }
        told
    }
}
