//! | property | source |
//! |---|---|
//! | V4 what a primary held is dropped only if too few of those who held it are left | protocols 3.4, membership PROTOCOL.md 4 |

use crate::sim::cluster::{Record, ViewRecord};
use crate::sim::{Checker, Entry, What};
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A view of joiners alone drops what the primary before it held. That is right if nobody of its quorums could be left among
/// the members: a quorum of the last primary has ended, all its nodes are here, or its memory was waited for long enough. It is
/// also right if a number was skipped and somebody has ended: a view between may have been known to the ended alone.
#[derive(Debug)]
pub struct StateKept {
    forget_after: Duration,
    /// Nodes may leave a primary for another reason, which a history does not show.
    blind: bool,
    newest: Option<(Instant, Arc<ViewRecord>)>,
    /// Instances that ended or began anew since the newest view.
    forgot: BTreeSet<NodeInstance>,
    /// Instances that began with a primary or were given its state, and still have it.
    holds: BTreeSet<NodeInstance>,
    judged: u64,
}

impl StateKept {
    /// A checker for clusters that wait so long for memory. `blind`: records may fail to be written, nothing is judged.
    #[must_use]
    pub const fn new(forget_after: Duration, blind: bool) -> Self {
        Self { forget_after, blind, newest: None, forgot: BTreeSet::new(), holds: BTreeSet::new(), judged: 0 }
    }

    fn judge(&self, now: Instant, view: &ViewRecord) -> Result<(), String> {
        let Some((since, last)) = &self.newest else { return Ok(()) };
        let votes = |keep: &dyn Fn(&NodeInstance) -> bool| {
            last.members.iter().filter(|m| keep(&m.instance)).map(|m| m.votes).sum::<u32>()
        };
        let all = votes(&|_| true);
        let holders = votes(&|i| view.contains(*i) && self.holds.contains(i));
        let ended = votes(&|i| self.forgot.contains(i));
        let here = |i: &NodeInstance| view.members.iter().any(|m| m.instance.node == i.node);
        let dropped = format!("{} begins anew and drops {}", view.number, last.number);
        // Those who took part in the view between cannot say any more that nobody entered it.
        let skipped = view.number.0 > last.number.0 + 1 && !self.forgot.is_empty();
        if !skipped && holders + last.quorum > all {
            return Err(format!(
                "{dropped}, of which it has {holders} of {all} votes, with all that they held"
            ));
        }
        // Clocks are up to one percent wrong.
        let waited = now - *since >= self.forget_after.mul_f64(0.97);
        if skipped || ended >= last.quorum || votes(&here) == all || waited {
            return Ok(());
        }
        Err(format!(
            "{dropped}, though only {ended} of {all} votes have ended, {:?} after it began",
            now - *since
        ))
    }
}

impl Checker<Record> for StateKept {
    fn name(&self) -> &'static str {
        "V4 state is kept"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        if self.blind {
            return Ok(());
        }
        match &entry.what {
            What::Stopped { instance, .. } => {
                self.forgot.insert(*instance);
                self.holds.remove(instance);
            }
            What::Program(Some(who), Record::Reset) => {
                self.forgot.insert(*who);
                self.holds.remove(who);
            }
            What::Program(Some(who), Record::StateTaken(..)) => {
                self.forgot.remove(who);
                self.holds.insert(*who);
            }
            What::Program(Some(_), Record::View(view)) => {
                if self.newest.as_ref().is_some_and(|(_, v)| v.number >= view.number) {
                    return Ok(());
                }
                self.judged += 1;
                let all_join = view.members.iter().all(|m| m.joined == view.number);
                let verdict = if all_join { self.judge(entry.at, view) } else { Ok(()) };
                self.newest = Some((entry.at, Arc::clone(view)));
                if all_join {
                    self.holds = view.members.iter().map(|m| m.instance).collect();
                }
                self.forgot.retain(|i| view.contains(*i) && !all_join);
                return verdict;
            }
            _ => {}
        }
        Ok(())
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
