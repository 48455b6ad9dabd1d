//! | property | source |
//! |---|---|
//! | X2 a fence request is issued once per incarnation unless it failed | protocols 11.2 |
//! | X3 failure is never reported as success | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

/// Who is called fenced has lost power since it started, and is not fenced again by who knows.
#[derive(Debug, Default)]
pub struct FenceTruth {
    /// Every life that began before its machine last lost power.
    dead: BTreeSet<NodeInstance>,
    lives: BTreeMap<NodeId, Vec<NodeInstance>>,
    standing: BTreeSet<(NodeInstance, NodeInstance)>,
    known: BTreeSet<(NodeInstance, NodeInstance)>,
    judged: u64,
}

impl Checker<Record> for FenceTruth {
    fn name(&self) -> &'static str {
        "X2 X3 fencing is true"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        match &entry.what {
            What::Started { instance, .. } => self.lives.entry(instance.node).or_default().push(*instance),
            What::PoweredOff(node) => self.dead.extend(self.lives.remove(node).unwrap_or_default()),
            What::Program(who, Record::Fenced(target)) => {
                self.judged += 1;
                if !self.dead.contains(target) {
                    return Err(format!(
                        "{who:?} takes {target} for fenced, but its machine never lost power"
                    ));
                }
            }
            What::Program(Some(who), Record::FenceAnswered(target, true)) => {
                // Nobody listens to what comes after a withdrawal.
                if self.standing.contains(&(*who, *target)) {
                    self.known.insert((*who, *target));
                }
            }
            What::Program(Some(who), Record::FenceWithdrawn(target)) => {
                self.standing.remove(&(*who, *target));
            }
            What::Program(Some(who), Record::FenceAsked(target)) => {
                self.judged += 1;
                self.standing.insert((*who, *target));
                if self.known.contains(&(*who, *target)) {
                    return Err(format!("{who} fences {target} again although it knows that it is fenced"));
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
