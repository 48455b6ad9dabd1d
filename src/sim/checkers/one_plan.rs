//! | property | source |
//! |---|---|
//! | R2 same prefix of decisions => same plan | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use ocf_resource::{Action, Decision};
use pils::NodeInstance;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A decision says the same at every node.
#[derive(Debug, Default)]
pub struct OnePlan {
    decided: BTreeMap<Decision, (Arc<str>, NodeInstance, Action)>,
    judged: u64,
}

impl Checker<Record> for OnePlan {
    fn name(&self) -> &'static str {
        "R2 one plan"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let What::Program(Some(at), Record::Decided { decision, resource, node, action }) = &entry.what
        else {
            return Ok(());
        };
        self.judged += 1;
        let this = (Arc::clone(resource), *node, *action);
        let first = self.decided.entry(*decision).or_insert_with(|| this.clone());
        if *first == this { Ok(()) } else { Err(format!("{decision} is {first:?} and at {at} {this:?}")) }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
