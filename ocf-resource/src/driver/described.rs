//! Holds the parameters of resources against what their agents say about themselves, before anything runs.

use crate::{AgentName, Agents, Config, Metadata};
use core::fmt;
use core::time::Duration;
use pils::ConfigErrors;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::channel;
use std::time::Instant;

/// The longest time that all agents together get to describe themselves. One that has not by then is not checked here, but
/// when it is to start something: see [`AgentHost`](super::AgentHost).
const ASK_MAX: Duration = Duration::from_secs(5);

/// What agents say about themselves, each asked once.
#[derive(Default)]
pub struct Descriptions {
    known: BTreeMap<AgentName, Option<Metadata>>,
}

impl fmt::Debug for Descriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.known.keys()).finish()
    }
}

impl Descriptions {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything that is wrong with the parameters of the resources whose agents are `needed`, by what those say: one that
    /// is required is missing, one is unknown, or a value is not of its type. Paths start at the configuration. Blocks for 5 s
    /// at most; agents that cannot be found or do not describe themselves are passed over.
    pub fn check(&mut self, config: &Config, agents: &Agents, needed: &BTreeSet<&AgentName>) -> ConfigErrors {
        self.ask(agents, needed);
        let mut errors = ConfigErrors::default();
        for (i, group) in config.groups.iter().enumerate() {
            for (j, resource) in group.resources.iter().enumerate() {
                let described = needed.get(&resource.agent).and_then(|_| self.known.get(&resource.agent));
                if let Some(Some(metadata)) = described
                    && let Err(wrong) = metadata.check_parameters(&resource.parameters)
                {
                    errors.nest(&format!("groups[{i}].resources[{j}].parameters"), told(wrong));
                }
            }
        }
        errors
    }

    /// Asks those that were not asked yet, all at once.
    fn ask(&mut self, agents: &Agents, needed: &BTreeSet<&AgentName>) {
        let until = Instant::now() + ASK_MAX;
        let (tell, answers) = channel();
        let mut asked = BTreeMap::new();
        for name in needed.iter().filter(|name| !self.known.contains_key(**name)) {
            if let Ok(agent) = agents.find(name) {
                let (tell, own) = (tell.clone(), (*name).clone());
                // nobody listens any more if it took too long
                let done = Box::new(move |answer| tell.send((own, answer)).unwrap_or_default());
                asked.insert((*name).clone(), agent.metadata(ASK_MAX, done));
            }
        }
        while !asked.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((name, answer)) = answers.recv_timeout(left) else { break };
            asked.remove(&name);
            if let Err(error) = &answer {
                tracing::warn!(agent = %name, %error, "its parameters are not checked");
            }
            self.known.insert(name, answer.ok());
        }
        for (name, canceller) in asked {
            tracing::warn!(agent = %name, "it does not describe itself; its parameters are not checked");
            canceller.cancel();
            self.known.insert(name, None);
        }
    }
}

/// Without the values: one may be a secret under a wrong name.
fn told(mut wrong: ConfigErrors) -> ConfigErrors {
    wrong.0.iter_mut().for_each(|error| error.value.clear());
    wrong
}
