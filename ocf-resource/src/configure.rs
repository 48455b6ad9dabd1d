//! Changing what a cluster runs while it runs: what may follow on what.

use crate::book::Book;
use crate::wire;
use crate::{Config, ResourceConfig};
use pils::{ConfigErrors, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Why a configuration cannot take the place of the agreed one. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// Somebody else has changed the agreed one since.
    #[error(
        "it was made from revision {from}, and the cluster has revision {agreed}: make the change in that one"
    )]
    Outdated {
        /// Revision of the one that it was made from.
        from: u64,
        /// Revision of the one that is agreed on.
        agreed: u64,
    },
    /// It cannot be carried out.
    #[error("{0}")]
    Wrong(ConfigErrors),
    /// It does not fit into a message.
    #[error("it takes {bytes} bytes, more than {most}: run fewer groups, or put what is large into files")]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// [`Config::BYTES_MAX`].
        most: usize,
    },
}

/// A configuration that was agreed on, to be kept by a node for the case that the cluster is founded anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The configuration, with what is on its way out.
    pub config: Config,
    /// Names of the resources in it that are on their way out: to be stopped wherever they run, and then forgotten.
    #[serde(default)]
    pub removing: BTreeSet<String>,
}

impl Kept {
    pub(crate) fn of(book: &Book) -> Self {
        let removing = book.removing().iter().map(|name| String::from(&**name)).collect();
        Self { config: Config::clone(book), removing }
    }

    pub(crate) fn into_book(self) -> Book {
        Book::of(self.config, self.removing.into_iter().map(String::into_boxed_str).collect())
    }
}

impl Book {
    /// Says whether `next` may follow on this one, which it was made from if its revision is the same. Every mistake at once.
    pub(crate) fn check_next(&self, next: &Config, nodes: &[NodeId]) -> Result<(), ConfigurationError> {
        let (from, agreed) = (next.revision, self.revision);
        if from != agreed {
            return Err(ConfigurationError::Outdated { from, agreed });
        }
        let (bytes, most) = (wire::config_size(next), Config::BYTES_MAX);
        if bytes > most {
            return Err(ConfigurationError::TooLarge { bytes, most });
        }
        let mut errors = next.check(nodes, |_| Ok(())).err().unwrap_or_default();
        self.check_kept_names(next, &mut errors);
        let leaving = self.followed_by(Self::new(next.clone())).removing().len();
        if leaving > Config::REMOVING_MAX {
            let problem =
                format!("leave {leaving} resources to be removed, more than {}", Config::REMOVING_MAX);
            errors.push("groups", next.groups.len(), problem, "wait until what was removed before is gone");
        }
        errors.into_result().map_err(ConfigurationError::Wrong)
    }

    /// A name stands for the same thing as long as that may run: the same agent, in the same group, with roles or without.
    fn check_kept_names(&self, next: &Config, errors: &mut ConfigErrors) {
        for (g, group) in next.groups.iter().enumerate() {
            if let Some(before) = self.group_at(&group.name).and_then(|at| self.groups.get(at))
                && (before.promoted > 0) != (group.promoted > 0)
            {
                let fix = "give the group another name, and its resources too: what runs is stopped then";
                let problem = "is about roles, which a group has or has not as long as it is there";
                errors.push(format!("groups[{g}].promoted"), group.promoted, problem, fix);
            }
            for (r, resource) in group.resources.iter().enumerate() {
                if let Some(before) = self.resource(&resource.name) {
                    let owner = self.owner(&resource.name).map_or("", |g| g.name.as_str());
                    let mut wrong = ConfigErrors::default();
                    check_kept_name((owner, before), (group.name.as_str(), resource), &mut wrong);
                    errors.nest(&format!("groups[{g}].resources[{r}]"), wrong);
                }
            }
        }
    }
}

fn check_kept_name(
    (owner, before): (&str, &ResourceConfig),
    (group, resource): (&str, &ResourceConfig),
    errors: &mut ConfigErrors,
) {
    if owner != group {
        let problem = format!("is in the group {owner}, or is on its way out of it");
        let fix = "use another name, or remove it first and add it again when it is gone";
        errors.push("name", &resource.name, problem, fix);
    }
    if before.agent != resource.agent {
        let problem = format!("is not the agent that runs it, {}", before.agent);
        let fix = "give the resource another name: the one that runs is stopped then";
        errors.push("agent", &resource.agent, problem, fix);
    }
}
