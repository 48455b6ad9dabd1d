//! Who hears of which step, before and after it.

use super::{Presence, Spot, State};
use crate::{Action, Decision, Event};
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// By node and resource of steps that will not be carried out: who may still be hearing of which decision.
pub(crate) type Overtaken = BTreeMap<(NodeId, Arc<str>), BTreeSet<(NodeInstance, Decision)>>;

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

    /// A step that is decided has to wait: not all have heard of it, or of an earlier one of this resource on this node.
    pub(crate) fn waits(&self, node: NodeId, resource: &Arc<str>, spot: &Spot) -> bool {
        spot.pending.is_some_and(|(_, action)| is_told(action))
            && !self.skip_notices
            && (!spot.notices.is_empty() || self.overtaken.contains_key(&(node, Arc::clone(resource))))
    }

    /// The steps of these resources on a node will not be carried out: those who were to hear of them may still do so.
    pub(super) fn overtake(
        &mut self,
        node: NodeId,
        spots: Vec<(Arc<str>, Decision, BTreeSet<NodeInstance>)>,
    ) {
        if self.forget_overtaken {
            return;
        }
        for (resource, decision, listeners) in spots {
            let open = self.overtaken.entry((node, resource)).or_default();
            open.extend(listeners.into_iter().map(|listener| (listener, decision)));
        }
    }

    /// An instance has heard of a step. Returns false if nobody waits for that.
    pub(super) fn on_noticed(
        &mut self,
        sender: NodeInstance,
        decision: Decision,
        resource: &Arc<str>,
        events: &mut Vec<Event>,
    ) -> bool {
        let of_it = |spot: &Spot| spot.pending.is_some_and(|(pending, _)| pending == decision);
        let spots =
            self.nodes.iter_mut().filter_map(|(node, one)| Some((*node, one.spots.get_mut(resource)?)));
        let mut pending = spots.filter(|(_, spot)| of_it(spot));
        if let Some((node, spot)) = pending.next() {
            let heard = spot.notices.remove(&sender);
            if heard {
                self.tell_if_free(node, resource, events);
            }
            return heard;
        }
        let open = self.overtaken.iter_mut().filter(|((_, of), _)| of == resource);
        let heard = open
            .filter_map(|(key, open)| open.remove(&(sender, decision)).then_some((key.0, open.is_empty())));
        let Some((node, last)) = { heard }.next() else { return false };
        if last {
            self.overtaken.remove(&(node, Arc::clone(resource)));
            let lives: Vec<NodeInstance> = self.nodes.keys().copied().filter(|i| i.node == node).collect();
            for life in lives {
                self.tell_if_free(life, resource, events);
            }
        }
        true
    }

    /// Tells that a step waits no more, if one is decided there.
    fn tell_if_free(&self, node: NodeInstance, resource: &Arc<str>, events: &mut Vec<Event>) {
        let Some(spot) = self.nodes.get(&node).and_then(|one| one.spots.get(resource)) else { return };
        if let Some((decision, action)) = spot.pending.filter(|(_, action)| is_told(*action))
            && !self.waits(node.node, resource, spot)
        {
            events.push(Event::Noticed { decision, resource: Arc::clone(resource), node, action });
        }
    }

    /// Those who are gone need not hear of anything any more.
    pub(super) fn forget_listeners(
        &mut self,
        is_gone: impl Fn(&NodeInstance) -> bool,
        events: &mut Vec<Event>,
    ) {
        let mut waiting = Vec::new();
        for (node, one) in &self.nodes {
            let waits = one.spots.iter().filter(|(name, spot)| self.waits(node.node, name, spot));
            waiting.extend(waits.map(|(name, _)| (*node, Arc::clone(name))));
        }
        for spot in self.nodes.values_mut().flat_map(|one| one.spots.values_mut()) {
            spot.notices.retain(|listener| !is_gone(listener));
        }
        self.overtaken.retain(|_, open| {
            open.retain(|(listener, _)| !is_gone(listener));
            !open.is_empty()
        });
        for (node, resource) in waiting {
            self.tell_if_free(node, &resource, events);
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
