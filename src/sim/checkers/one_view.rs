//! | property | source |
//! |---|---|
//! | M1 one (members, cut) per view number of a primary chain | protocols 11.2 |
//! | M2 numbers grow at each node, across restarts | protocols 11.2 |
//! | M3 self in every installed view | protocols 11.2 |

use crate::sim::cluster::{Record, ViewRecord};
use crate::sim::{Checker, Entry, What};
use ocf_membership::ViewNumber;
use pils::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every node that installs a view number installs the same view, and numbers grow.
#[derive(Debug, Default)]
pub struct OneView {
    views: BTreeMap<ViewNumber, Arc<ViewRecord>>,
    last: BTreeMap<NodeId, ViewNumber>,
    judged: u64,
}

impl Checker<Record> for OneView {
    fn name(&self) -> &'static str {
        "M1-M3 one view per number"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let What::Program(Some(who), Record::View(view)) = &entry.what else { return Ok(()) };
        self.judged += 1;
        if !view.contains(*who) {
            return Err(format!("{who} installed {} of which it is no member", view.number));
        }
        if let Some(last) = self.last.insert(who.node, view.number).filter(|last| *last >= view.number) {
            return Err(format!("{who} installed {} after {last}", view.number));
        }
        let first = self.views.entry(view.number).or_insert_with(|| Arc::clone(view));
        let same =
            first.ballot == view.ballot && first.members == view.members && first.previous == view.previous;
        if same { Ok(()) } else { Err(format!("two views of one number:\n  {first:?}\n  {view:?} at {who}")) }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
