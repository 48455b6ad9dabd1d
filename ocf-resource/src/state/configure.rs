//! What a change of the configuration does to the state.

use super::{Outdated, Spot, State};
use crate::book::Book;
use crate::{Action, Config, Event};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl State {
    /// True if this resource is on its way out.
    pub(crate) fn is_leaving(&self, resource: &str) -> bool {
        self.config.as_ref().is_some_and(|book| book.is_leaving(resource))
    }

    /// The cluster is founded with this configuration; or with a newer one, if another founder has that.
    pub(super) fn on_found(&mut self, sender: NodeInstance, book: Book, events: &mut Vec<Event>) -> bool {
        match &self.config {
            None => {
                self.config = Some(Arc::new(book));
                self.complete();
                true
            }
            Some(agreed) if book.revision > agreed.revision => {
                self.adopt(sender, book, events);
                true
            }
            Some(_) => false,
        }
    }

    /// Somebody wants the cluster to run something else.
    pub(super) fn configure(&mut self, sender: NodeInstance, next: &Config, events: &mut Vec<Event>) -> bool {
        let Some(agreed) = &self.config else { return false };
        let mut next = next.clone();
        // Which nodes need their access follows from their fence devices, which no command changes.
        next.access = agreed.access.clone();
        if self.overwrite {
            next.revision = agreed.revision;
        }
        if let Err(error) = agreed.check_next(&next, &[]) {
            events.push(Event::ConfigurationRefused { by: sender, error });
            return true;
        }
        next.revision += 1;
        self.adopt(sender, Book::new(next), events);
        true
    }

    /// From now on this is to run.
    fn adopt(&mut self, by: NodeInstance, next: Book, events: &mut Vec<Event>) {
        let Some(before) = self.config.take() else { return };
        let next = Arc::new(before.followed_by(next));
        for group in &next.groups {
            for resource in &group.resources {
                let Some(old) = before.resource(&resource.name) else { continue };
                let same_group = before.owner(&resource.name).is_some_and(|g| g.name == group.name);
                if !same_group || old.agent != resource.agent {
                    // Only while the cluster is founded, before anything was started: it is looked at anew.
                    for node in self.nodes.values_mut() {
                        node.spots.remove(resource.name.as_str());
                    }
                } else if old.parameters != resource.parameters {
                    self.outdate(&resource.name, &Arc::new(old.parameters.clone()), &resource.parameters);
                }
            }
            if let Some(state) = self.groups.get_mut(group.name.as_str()) {
                // Several copies have targets in place of a home.
                state.home = state.home.filter(|_| group.copies == 1 && group.promoted == 0);
                state.fatal = state.fatal.take().filter(|(name, _)| !next.is_leaving(name));
            }
        }
        let revision = next.revision;
        self.config = Some(next);
        self.complete();
        events.push(Event::Configured { revision, by });
    }

    /// Wherever a resource is not down, it runs with parameters that it is to have no longer.
    pub(super) fn outdate(
        &mut self,
        name: &str,
        before: &Arc<BTreeMap<String, String>>,
        after: &BTreeMap<String, String>,
    ) {
        for spot in self.nodes.values_mut().filter_map(|n| n.spots.get_mut(name)) {
            if spot.is_clear() || self.forget_parameters {
                continue;
            }
            let reloads = matches!(spot.pending, Some((_, Action::ReloadAgent)));
            let outdated = spot.outdated.get_or_insert_with(|| {
                Box::new(Outdated { runs_with: Arc::clone(before), told: None, refused: false })
            });
            outdated.refused = false;
            if reloads && outdated.told.is_none() {
                outdated.told = Some(Arc::clone(before));
            }
            outdated.told = outdated.told.take().filter(|told| **told != *after);
            if *outdated.runs_with == *after && !reloads {
                spot.outdated = None;
            }
        }
    }

    /// Forgets what is on its way out and is known to be down on every node, lost ones included. True if there was something.
    ///
    /// Not while hands are off: nobody knows then what runs. And not while a node is away whose access was taken: that may still run
    /// anything, and is looked at when it is back.
    pub(crate) fn forget_removed(&mut self, events: &mut Vec<Event>) -> bool {
        let Some(book) = self.config.clone().filter(|book| !book.removing().is_empty()) else { return false };
        let looked_at = |life: &NodeInstance| self.living().any(|(i, _)| i.node == life.node && i != *life);
        let away = self.over.iter().any(|life| book.access.has(life.node) && !looked_at(life));
        if self.maintenance || away {
            return false;
        }
        let quiet = |name: &str| {
            let group = book.owner(name).and_then(|g| self.groups.get(g.name.as_str()));
            group.is_some_and(|g| g.maintenance)
        };
        let down = |name: &str| self.nodes.values().all(|n| n.spot(name).is_none_or(Spot::is_clear));
        let leaving =
            book.removing().iter().filter(|name| self.forget_running || (down(name) && !quiet(name)));
        let gone: BTreeSet<Arc<str>> = leaving.map(|name| Arc::from(&**name)).collect();
        if gone.is_empty() {
            return false;
        }
        for node in self.nodes.values_mut() {
            node.spots.retain(|name, _| !gone.contains(name));
        }
        let book = Arc::new(book.without(&gone));
        self.groups.retain(|name, _| book.group_at(name).is_some());
        for group in self.groups.values_mut() {
            group.unmet.retain(|condition, _| !gone.contains(&condition.of));
        }
        for group in book.groups.iter().filter(|g| g.promoted > 0) {
            let says = |s: &Spot| s.promotion.is_some();
            let said = |n: &super::Node| group.resources.iter().any(|r| n.spot(&r.name).is_some_and(says));
            let scored = self.nodes.values().any(said);
            if let Some(state) = self.groups.get_mut(group.name.as_str()) {
                state.scored &= scored;
            }
        }
        self.config = Some(book);
        events.extend(gone.into_iter().map(|resource| Event::Removed { resource }));
        true
    }
}
