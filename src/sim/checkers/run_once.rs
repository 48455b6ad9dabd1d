//! | property | source |
//! |---|---|
//! | R1 a resource runs on at most one unfenced node at every instant | protocols 11.2 |
//! | A1 where fencing takes access, a resource starts only in a life that was given it, and it is given where none runs | `ocf-resource/PROTOCOL.md` |
//! | X1 no start elsewhere before the fence of the incarnation that had it | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// In the world, a resource runs on one machine that has access at a time. Judged by what machines do, not by what nodes believe.
#[derive(Debug, Default)]
pub struct RunOnce {
    runs: BTreeMap<Arc<str>, Vec<NodeId>>,
    /// Machines that have no access.
    bare: BTreeSet<NodeId>,
    /// Lives that were given it; none where fencing takes power.
    given: Option<BTreeSet<NodeInstance>>,
    judged: u64,
}

impl RunOnce {
    fn given_to(&mut self, life: NodeInstance) -> Result<(), String> {
        self.judged += 1;
        self.bare.remove(&life.node);
        self.given.get_or_insert_default().insert(life);
        let runs = self.runs.iter().find(|(_, places)| places.contains(&life.node));
        runs.map_or(Ok(()), |(resource, _)| {
            Err(format!("{life} is given access while {resource} runs there"))
        })
    }
}

impl Checker<Record> for RunOnce {
    fn name(&self) -> &'static str {
        "R1 X1 runs once"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let (at, record) = match &entry.what {
            What::Program(_, Record::AccessTaken(node)) => {
                self.bare.insert(*node);
                self.given.get_or_insert_default();
                return Ok(());
            }
            What::Program(_, Record::AccessGiven(life)) => return self.given_to(*life),
            What::Program(Some(at), record) => (at, record),
            _ => return Ok(()),
        };
        match record {
            Record::Runs(resource) => {
                self.judged += 1;
                let places = self.runs.entry(Arc::clone(resource)).or_default();
                places.push(at.node);
                let harm: Vec<NodeId> =
                    places.iter().copied().filter(|node| !self.bare.contains(node)).collect();
                if harm.len() > 1 {
                    return Err(format!("{resource} runs on {harm:?} at the same time"));
                }
                if self.given.as_ref().is_some_and(|given| !given.contains(at)) {
                    return Err(format!("{resource} starts on {at}, which was not given its access"));
                }
            }
            Record::Ended(resource, _) => {
                if let Some(places) = self.runs.get_mut(resource) {
                    places.retain(|node| *node != at.node);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
