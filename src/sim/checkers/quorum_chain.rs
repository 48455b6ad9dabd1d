//! | property | source |
//! |---|---|
//! | Q2 consecutive primaries share votes: each quorum of the former has a node in the next | protocols 11.2 |
//! | every primary has a quorum of votes | protocols 3.4 |

use crate::sim::cluster::{Record, ViewRecord};
use crate::sim::{Checker, Entry, What};
use ocf_membership::ViewNumber;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every primary has a quorum, and somebody of every quorum of the one before. Counted by node: a restarted node remembers what it
/// agreed to.
#[derive(Debug, Default)]
pub struct QuorumChain {
    views: BTreeMap<ViewNumber, Arc<ViewRecord>>,
    judged: u64,
}

impl Checker<Record> for QuorumChain {
    fn name(&self) -> &'static str {
        "Q2 chain of quorums"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let What::Program(_, Record::View(view)) = &entry.what else { return Ok(()) };
        if self.views.contains_key(&view.number) {
            return Ok(());
        }
        self.judged += 1;
        self.views.insert(view.number, Arc::clone(view));
        let votes: u32 = view.members.iter().map(|m| m.votes).sum();
        if votes < view.quorum {
            return Err(format!("{} has {votes} of the {} votes it needs", view.number, view.quorum));
        }
        let Some(before) = view.number.0.checked_sub(1).and_then(|n| self.views.get(&ViewNumber(n))) else {
            return Ok(());
        };
        let here = |node| view.members.iter().any(|m| m.instance.node == node);
        let all: u32 = before.members.iter().map(|m| m.votes).sum();
        let shared: u32 = before.members.iter().filter(|m| here(m.instance.node)).map(|m| m.votes).sum();
        if shared + before.quorum > all {
            return Ok(());
        }
        let (new, old, quorum) = (view.number, before.number, before.quorum);
        Err(format!("{new} has {shared} of the {all} votes of {old}, whose quorum was {quorum}"))
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
