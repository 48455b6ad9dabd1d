//! A configuration, and where in it everything is.

use crate::{Config, GroupConfig, ResourceConfig};
use core::ops::Deref;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A configuration in which names are found in O(log names).
#[derive(Clone, Debug)]
pub(crate) struct Book {
    config: Config,
    index: Arc<Index>,
}

/// Places in the configuration by name; of the same name the first.
#[derive(Debug, Default)]
struct Index {
    groups: BTreeMap<Box<str>, usize>,
    /// Its group, and its place there.
    resources: BTreeMap<Box<str>, (usize, usize)>,
}

impl PartialEq for Book {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config
    }
}

impl Eq for Book {}

impl Deref for Book {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl Book {
    pub(crate) fn new(config: Config) -> Self {
        let mut index = Index::default();
        for (at, group) in config.groups.iter().enumerate() {
            index.groups.entry(group.name.as_str().into()).or_insert(at);
            for (place, resource) in group.resources.iter().enumerate() {
                index.resources.entry(resource.name.as_str().into()).or_insert((at, place));
            }
        }
        Self { config, index: Arc::new(index) }
    }

    /// The number of the group of this name.
    pub(crate) fn group_at(&self, name: &str) -> Option<usize> {
        self.index.groups.get(name).copied()
    }

    /// The number of the group that has a resource of this name.
    pub(crate) fn group_of(&self, resource: &str) -> Option<usize> {
        self.index.resources.get(resource).map(|(group, _)| *group)
    }

    /// The group that has a resource of this name.
    pub(crate) fn owner(&self, resource: &str) -> Option<&GroupConfig> {
        self.config.groups.get(self.group_of(resource)?)
    }

    /// The number of the group of this name, or that has a resource of this name.
    pub(crate) fn either(&self, name: &str) -> Option<usize> {
        self.group_at(name).or_else(|| self.group_of(name))
    }

    /// The resource of this name.
    pub(crate) fn resource(&self, name: &str) -> Option<&ResourceConfig> {
        let (group, place) = self.index.resources.get(name)?;
        self.config.groups.get(*group)?.resources.get(*place)
    }

    /// Changes the parameters of a resource; those it had before.
    pub(crate) fn set_parameters(
        &mut self,
        name: &str,
        parameters: BTreeMap<String, String>,
    ) -> Option<BTreeMap<String, String>> {
        let (group, place) = self.index.resources.get(name)?;
        let resource = self.config.groups.get_mut(*group)?.resources.get_mut(*place)?;
        Some(core::mem::replace(&mut resource.parameters, parameters))
    }
}
