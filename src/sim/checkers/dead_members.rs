//! | property | source |
//! |---|---|
//! | M4 members were mutually connected when they accepted (here: alive) | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use pils::{Instant, NodeInstance};
use std::collections::BTreeMap;

/// Nobody is proposed who was dead before the proposer lived. A proposal may be completed much later, by others; then it
/// still lists who was there when it was made.
#[derive(Debug, Default)]
pub struct DeadMembers {
    began: BTreeMap<NodeInstance, Instant>,
    dead: BTreeMap<NodeInstance, Instant>,
    newest: u64,
    judged: u64,
}

impl Checker<Record> for DeadMembers {
    fn name(&self) -> &'static str {
        "M4 members live"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        match &entry.what {
            What::Started { instance, .. } => {
                self.began.insert(*instance, entry.at);
            }
            What::Stopped { instance, .. } => {
                self.dead.insert(*instance, entry.at);
            }
            What::Program(Some(_), Record::View(view)) if view.number.0 > self.newest => {
                self.newest = view.number.0;
                self.judged += 1;
                let proposer = view.ballot.proposer;
                let began = self.began.get(&proposer).copied().unwrap_or_default();
                for member in &view.members {
                    if let Some(at) = self.dead.get(&member.instance).filter(|at| **at < began) {
                        let (number, gone) = (view.number, member.instance);
                        return Err(format!("{number} of {proposer} lists {gone}, dead since {at}"));
                    }
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
