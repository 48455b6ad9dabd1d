//! What the executor is doing for the manager.

use super::Local;
use crate::executor::OperationId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Operations by the id that the manager gave them, and the monitors of each resource.
#[derive(Debug, Default)]
pub(super) struct Running {
    all: BTreeMap<OperationId, Local>,
    watches: BTreeMap<Arc<str>, BTreeSet<OperationId>>,
}

impl Running {
    pub(super) fn insert(&mut self, id: OperationId, local: Local) {
        if let Local::Watch(_, resource) = &local {
            self.watches.entry(Arc::clone(resource)).or_default().insert(id);
        }
        self.all.insert(id, local);
    }

    pub(super) fn remove(&mut self, id: OperationId) -> Option<Local> {
        let local = self.all.remove(&id)?;
        if let Local::Watch(_, resource) = &local
            && let Some(ids) = self.watches.get_mut(resource)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.watches.remove(resource);
            }
        }
        Some(local)
    }

    /// Monitors of a resource.
    pub(super) fn watches(&self, resource: &str) -> impl Iterator<Item = OperationId> + use<'_> {
        self.watches.get(resource).into_iter().flatten().copied()
    }

    /// From now on nothing is known of the monitors of a resource.
    pub(super) fn forget_watches(&mut self, resource: &str) {
        for id in self.watches.remove(resource).unwrap_or_default() {
            self.all.remove(&id);
        }
    }

    /// Keeps only what goes on outside the primary partition.
    pub(super) fn retain_alone(&mut self) {
        self.all.retain(|_, local| matches!(local, Local::Alone(..)));
        self.watches.clear();
    }

    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.watches.clear();
    }
}
