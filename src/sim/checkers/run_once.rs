//! | property | source |
//! |---|---|
//! | R1 a resource runs on at most one unfenced node at every instant | protocols 11.2 |
//! | X1 no start elsewhere before the fence of the incarnation that had it | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use pils::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// In the world, a resource runs on one machine at a time. Judged by what machines do, not by what nodes believe.
#[derive(Debug, Default)]
pub struct RunOnce {
    runs: BTreeMap<Arc<str>, Vec<NodeId>>,
    judged: u64,
}

impl Checker<Record> for RunOnce {
    fn name(&self) -> &'static str {
        "R1 X1 runs once"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let What::Program(Some(at), record) = &entry.what else { return Ok(()) };
        match record {
            Record::Runs(resource) => {
                self.judged += 1;
                let places = self.runs.entry(Arc::clone(resource)).or_default();
                places.push(at.node);
                if places.len() > 1 {
                    return Err(format!("{resource} runs on {places:?} at the same time"));
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
