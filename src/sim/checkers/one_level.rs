//! | property | source |
//! |---|---|
//! | L1 the level of the chain never falls | `ocf-membership/PROTOCOL.md` 14 |
//! | L2 every member of a view speaks its level | the same |

use crate::sim::cluster::{Record, ViewRecord};
use crate::sim::{Checker, Entry, What};
use ocf_membership::{Levels, ViewNumber};
use pils::NodeInstance;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nodes of different builds are in one view only at a level that all of them speak, and nobody goes back to an older one.
#[derive(Debug, Default)]
pub struct OneLevel {
    views: BTreeMap<ViewNumber, Arc<ViewRecord>>,
    spoken: BTreeMap<NodeInstance, Levels>,
    judged: u64,
}

impl Checker<Record> for OneLevel {
    fn name(&self) -> &'static str {
        "L1 L2 one level"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let What::Program(Some(who), record) = &entry.what else { return Ok(()) };
        if let Record::Speaks(levels) = record {
            self.spoken.insert(*who, *levels);
        }
        let Record::View(view) = record else { return Ok(()) };
        if self.views.insert(view.number, Arc::clone(view)).is_some() {
            return Ok(());
        }
        self.judged += 1;
        let (level, number) = (view.level, view.number);
        let fits = |who: &NodeInstance| self.spoken.get(who).is_none_or(|levels| levels.include(level));
        if let Some(member) = view.members.iter().find(|m| !fits(&m.instance)) {
            let spoken = self.spoken[&member.instance];
            return Err(format!("{number} is of level {level}, and {} speaks {spoken}", member.instance));
        }
        match self.views.range(..number).next_back() {
            Some((before, former)) if former.level > level => {
                Err(format!("{number} is of level {level} and {before} of {}", former.level))
            }
            _ => Ok(()),
        }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
