//! A configuration, and where in it everything is.

use crate::{Config, GroupConfig, ResourceConfig};
use core::ops::Deref;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A configuration in which names are found in O(log names). It has what was removed, too, until that is gone everywhere: the
/// resources of a group behind those that stay, and groups behind the others.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    config: Config,
    /// Resources that are to be stopped everywhere, and then forgotten.
    removing: BTreeSet<Box<str>>,
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
        self.config == other.config && self.removing == other.removing
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
        Self::of(config, BTreeSet::new())
    }

    /// `removing`: which of its resources are on their way out.
    pub(crate) fn of(config: Config, removing: BTreeSet<Box<str>>) -> Self {
        let mut index = Index::default();
        for (at, group) in config.groups.iter().enumerate() {
            index.groups.entry(group.name.as_str().into()).or_insert(at);
            for (place, resource) in group.resources.iter().enumerate() {
                index.resources.entry(resource.name.as_str().into()).or_insert((at, place));
            }
        }
        Self { config, removing, index: Arc::new(index) }
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

    /// Resources that are on their way out.
    pub(crate) const fn removing(&self) -> &BTreeSet<Box<str>> {
        &self.removing
    }

    /// True if this resource is on its way out.
    pub(crate) fn is_leaving(&self, resource: &str) -> bool {
        self.removing.contains(resource)
    }

    /// True if all of this group is on its way out.
    pub(crate) fn group_leaves(&self, group: &GroupConfig) -> bool {
        !self.removing.is_empty() && group.resources.iter().all(|r| self.is_leaving(&r.name))
    }

    /// What is to run: without what is on its way out.
    pub(crate) fn declared(&self) -> Config {
        let mut config = self.config.clone();
        for group in &mut config.groups {
            group.resources.retain(|r| !self.is_leaving(&r.name));
        }
        config.groups.retain(|g| !g.resources.is_empty());
        config
    }

    /// The configuration after a change to `next`: what that does not have any more is on its way out.
    pub(crate) fn followed_by(&self, next: Self) -> Self {
        let Self { mut config, mut removing, index } = next;
        for group in &self.config.groups {
            let left = group.resources.iter().filter(|r| !index.resources.contains_key(r.name.as_str()));
            let left: Vec<ResourceConfig> = left.cloned().collect();
            if left.is_empty() {
                continue;
            }
            removing.extend(left.iter().map(|r| r.name.as_str().into()));
            match index.groups.get(group.name.as_str()).and_then(|at| config.groups.get_mut(*at)) {
                Some(group) => group.resources.extend(left),
                None => config.groups.push(GroupConfig { resources: left, ..group.clone() }),
            }
        }
        Self::of(config, removing)
    }

    /// The same without resources that are gone, and without groups of which nothing is left.
    pub(crate) fn without(&self, gone: &BTreeSet<Arc<str>>) -> Self {
        let Self { mut config, mut removing, .. } = self.clone();
        for group in &mut config.groups {
            group.resources.retain(|r| !gone.contains(r.name.as_str()));
        }
        config.groups.retain(|g| !g.resources.is_empty());
        removing.retain(|name| !gone.contains(&**name));
        Self::of(config, removing)
    }

    /// Changes the parameters of a resource; those it had before.
    pub(crate) fn set_parameters(
        &mut self,
        name: &str,
        parameters: BTreeMap<String, String>,
    ) -> Option<BTreeMap<String, String>> {
        let (group, place) = self.index.resources.get(name)?;
        let resource = self.config.groups.get_mut(*group)?.resources.get_mut(*place)?;
        self.config.revision += 1;
        Some(core::mem::replace(&mut resource.parameters, parameters))
    }
}
