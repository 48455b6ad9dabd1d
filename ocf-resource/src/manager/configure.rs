//! What a node does when the configuration changes, and what it keeps of it for its next life.

use super::{Manager, timers::Expiries};
use crate::book::Book;
use crate::executor::Request;
use crate::message::Message;
use crate::state::State;
use crate::{CommandError, Config, Decision, Event, Kept, Output, ResourceConfig};
use pils::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Manager {
    /// What an earlier life of this node has kept last of what the cluster agreed on ([`Output::Keep`]). If its revision is higher than
    /// that of the configuration that this node was given, it counts in its place. To be said before the first input.
    pub fn set_kept(&mut self, mut kept: Kept) {
        self.keeps = true;
        if kept.config.revision > self.given.revision {
            kept.config.access = self.given.access.clone();
            self.config = Arc::new(kept.into_book());
        }
    }

    /// What the cluster is to run, to be changed and handed back with [`Command::Configure`](crate::Command::Configure). `None` before it
    /// is agreed on.
    #[must_use]
    pub fn configuration(&self) -> Option<Config> {
        self.state.config.as_ref().map(|book| book.declared())
    }

    pub(super) fn check_configuration(&self, next: &Config) -> Result<(), CommandError> {
        let Some(agreed) = &self.state.config else { return Err(CommandError::NotPrimary) };
        agreed.check_next(next, &self.nodes).map_err(CommandError::Configuration)
    }

    /// Brings this node's configuration to a cluster that has none yet.
    pub(super) fn bring(&mut self) {
        let mine = self.newer.as_ref().unwrap_or(&self.config);
        self.broadcast(&Message::Found(Book::clone(mine)));
    }

    /// The cluster was founded with a configuration. If `mine` is newer, it follows: it is ordered before what this node says of what it was
    /// looked at, so before most can start.
    pub(super) fn compare_founders(&mut self, mine: Arc<Book>) {
        let mine = self.newer.take().unwrap_or(mine);
        let agreed = self.state.config.as_ref().map_or(0, |book| book.revision);
        if mine.revision > agreed && self.is_member() {
            self.broadcast(&Message::Found(Book::clone(&mine)));
            self.newer = Some(mine);
        }
    }

    /// Another founder hands its state over: what this one has counts if it is newer. Nobody asks one that only joins.
    pub(super) fn compare_given(&mut self, state: &State, founds: bool) {
        let mine = self.newer.take().unwrap_or_else(|| Arc::clone(&self.config));
        let older = state.config.as_ref().is_some_and(|agreed| agreed.revision < mine.revision);
        self.newer = Some(mine).filter(|_| founds && older);
    }

    /// Takes over what is agreed on. `anew`: it was not changed by a command, but is what the cluster brought.
    pub(super) fn adopt_config(&mut self, anew: bool) {
        let Some(agreed) = self.state.config.clone() else { return };
        if Arc::ptr_eq(&agreed, &self.config) {
            return;
        }
        let before = core::mem::replace(&mut self.config, Arc::clone(&agreed));
        let as_given = || Config { revision: self.given.revision, ..agreed.declared() };
        if anew && as_given() != self.given {
            self.tell(Event::ConfigurationDiffers);
        }
        let window = |book: &Book| {
            book.groups.iter().map(|g| (g.name.clone(), g.failure_window)).collect::<BTreeMap<_, _>>()
        };
        if window(&before) != window(&agreed) {
            self.expiries = Expiries::default();
        }
        self.watch_anew(&before);
        self.keep();
    }

    /// Has what is agreed on kept for the next life, unless it is what the files of the nodes say anyway.
    fn keep(&mut self) {
        if self.newer.is_none() && (self.keeps || self.config.revision > 0) {
            self.keeps = true;
            self.out.push_back(Output::Keep(Kept::of(&self.config)));
        }
    }

    /// Begins the monitors of what is watched here anew, where they were changed.
    fn watch_anew(&mut self, before: &Book) {
        let watched =
            |r: &ResourceConfig| (r.monitor_interval, r.monitor_timeout, r.watch.clone(), r.monitors.clone());
        let changed =
            |r: &&ResourceConfig| before.resource(&r.name).is_some_and(|b| watched(b) != watched(r));
        let mine = self.state.nodes.get(&self.me);
        let runs = |r: &ResourceConfig| {
            let (name, spot) = mine?.spots.get_key_value(r.name.as_str())?;
            Some((Arc::clone(name), spot.decision()?))
        };
        let resources = self.config.groups.iter().flat_map(|g| &g.resources);
        let again: Vec<(Arc<str>, Decision)> = resources.filter(changed).filter_map(runs).collect();
        for (name, decision) in again {
            let old: Vec<_> = self.running.watches(&name).collect();
            if old.is_empty() {
                continue;
            }
            for id in old {
                self.running.remove(id);
                self.out.push_back(Output::Execute(Request::Cancel { id }));
            }
            self.watch(decision, &name);
        }
    }

    /// Something that was removed is gone everywhere.
    pub(super) fn drop_removed(&mut self, now: Instant) {
        let before = Arc::clone(&self.config);
        self.adopt_config(false);
        let book = Arc::clone(&self.config);
        self.planner.retain(|group| book.group_at(group).is_some());
        for group in before.groups.iter().filter(|g| book.group_at(&g.name).is_none()) {
            self.expiries.arm(&group.name.as_str().into(), &BTreeMap::new(), now);
        }
    }
}
