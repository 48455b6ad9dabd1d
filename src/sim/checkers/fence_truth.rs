//! | property | source |
//! |---|---|
//! | X2 a fence request is issued once per incarnation unless it failed | protocols 11.2 |
//! | X3 failure is never reported as success | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use ocf_stonith::AttemptId;
use pils::{Incarnation, NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

/// Who is called fenced has lost power since it started, and is not fenced again by who knows.
#[derive(Debug, Default)]
pub struct FenceTruth {
    /// Every life that began before its machine last lost power.
    dead: BTreeSet<NodeInstance>,
    lives: BTreeMap<NodeId, Vec<NodeInstance>>,
    off: BTreeSet<NodeId>,
    unknown: BTreeSet<NodeId>,
    standing: BTreeSet<(NodeInstance, NodeInstance, AttemptId)>,
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
            What::PoweredOn(node) => {
                self.off.remove(node);
            }
            What::PoweredOff(node) => {
                self.off.insert(*node);
                self.dead.extend(self.lives.remove(node).unwrap_or_default());
                // Incarnation zero stands for whatever runs on a node of which nobody remembers a life.
                if self.unknown.contains(node) {
                    self.dead.insert(NodeInstance::new(*node, Incarnation::new(0)));
                }
            }
            // Access is as good as power, for the lives that lost it.
            What::Program(_, Record::AccessTaken(node)) => {
                self.dead.extend(self.lives.get(node).into_iter().flatten());
                if self.unknown.contains(node) {
                    self.dead.insert(NodeInstance::new(*node, Incarnation::new(0)));
                }
            }
            What::Program(_, Record::AccessGiven(life)) => {
                self.dead.remove(life);
                self.known.retain(|(_, target)| target != life);
            }
            What::Program(who, Record::Fenced(target)) => {
                self.judged += 1;
                if !self.dead.contains(target) {
                    return Err(format!(
                        "{who:?} takes {target} for fenced, but its machine never lost power, or access"
                    ));
                }
            }
            // Nobody listens to what comes after a withdrawal.
            What::Program(Some(who), Record::FenceAnswered(target, attempt, true))
                if self.standing.contains(&(*who, *target, *attempt)) =>
            {
                self.known.insert((*who, *target));
            }
            What::Program(Some(who), Record::FenceWithdrawn(target)) => {
                self.standing.retain(|(w, t, _)| (w, t) != (who, target));
            }
            What::Program(Some(who), Record::FenceAsked(target, attempt)) => {
                self.judged += 1;
                if target.incarnation.raw() == 0 {
                    self.unknown.insert(target.node);
                    if self.off.contains(&target.node) {
                        self.dead.insert(*target);
                    }
                }
                self.standing.insert((*who, *target, *attempt));
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
