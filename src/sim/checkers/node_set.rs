//! | property | source |
//! |---|---|
//! | S1 one set of nodes for each number | `ocf-membership/PROTOCOL.md` 12 |
//! | S3 members are in the set of their view: who was removed takes no part | the same |

use crate::sim::cluster::{Record, ViewRecord};
use crate::sim::{Checker, Entry, What};
use ocf_membership::ViewNumber;
use pils::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whoever is in a view is in the newest set that counts there.
#[derive(Debug, Default)]
pub struct NodeSet {
    views: BTreeMap<ViewNumber, Arc<ViewRecord>>,
    sets: BTreeMap<u64, Vec<(NodeId, u32)>>,
    judged: u64,
}

impl NodeSet {
    /// Judges the views that count by the set of this revision.
    fn judge(&self, revision: u64) -> Result<(), String> {
        let Some(set) = self.sets.get(&revision) else { return Ok(()) };
        let next = self.sets.range(revision + 1..).next().map_or(u64::MAX, |(next, _)| *next);
        for view in self.views.range(ViewNumber(revision)..ViewNumber(next)).map(|(_, view)| view) {
            let stranger = view.members.iter().find(|m| set.iter().all(|(n, _)| *n != m.instance.node));
            if let Some(stranger) = stranger {
                return Err(format!("{} is in {} and not in {set:?}", stranger.instance, view.number));
            }
        }
        Ok(())
    }
}

impl Checker<Record> for NodeSet {
    fn name(&self) -> &'static str {
        "S1 S3 set of nodes"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        match &entry.what {
            What::Program(Some(at), Record::Set(revision, set)) => {
                self.judged += 1;
                let first = self.sets.entry(*revision).or_insert_with(|| set.clone());
                if first != set {
                    return Err(format!("{at} counts {set:?} since v{revision}, others {first:?}"));
                }
                self.judge(*revision)
            }
            What::Program(_, Record::View(view)) => {
                let first = self.views.insert(view.number, Arc::clone(view)).is_none();
                let counts = self.sets.range(..=view.number.0).next_back().map(|(revision, _)| *revision);
                counts.filter(|_| first).map_or(Ok(()), |revision| self.judge(revision))
            }
            _ => Ok(()),
        }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
