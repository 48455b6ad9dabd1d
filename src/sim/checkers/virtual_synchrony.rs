//! | property | source |
//! |---|---|
//! | V3 virtual synchrony between consecutive views | protocols 11.2 |
//! | V4 safe delivered by one => by all members of the next primary | protocols 11.2 |
//! | V6 a view event is a barrier: no old-view message after it | protocols 11.2 |

use crate::sim::cluster::{Log, Record, ViewRecord};
use crate::sim::{Checker, Entry, What};
use ocf_groups::{Guarantee, Position};
use ocf_membership::ViewNumber;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes that go together into a view have delivered the same before it, and nothing of before after it.
#[derive(Debug, Default)]
pub struct VirtualSynchrony {
    entered_with: BTreeMap<ViewNumber, (NodeInstance, Log)>,
    /// The last safe message of each view that anybody delivered, and the log after it.
    safe: BTreeMap<ViewNumber, (Position, Log)>,
    view: BTreeMap<NodeInstance, ViewNumber>,
    stopped: BTreeSet<NodeInstance>,
    judged: u64,
}

impl VirtualSynchrony {
    fn entered(&mut self, who: NodeInstance, view: &ViewRecord) -> Result<(), String> {
        let before = self.view.insert(who, view.number);
        let (Some(before), Some(log)) = (before, view.log) else { return Ok(()) };
        if !view.continues(who) || before.0 + 1 != view.number.0 {
            return Ok(());
        }
        self.judged += 1;
        let (other, there) = *self.entered_with.entry(view.number).or_insert((who, log));
        if there != log {
            return Err(format!("into {} {who} brought {log:?} and {other} {there:?}", view.number));
        }
        // Safe survives as long as fewer than a quorum of the last primary lose their memory.
        let lost =
            view.previous.iter().filter(|m| self.stopped.contains(&m.instance)).map(|m| m.votes).sum::<u32>();
        if lost >= view.quorum {
            return Ok(());
        }
        match self.safe.get(&before) {
            Some((position, safe)) if safe.count > log.count => Err(format!(
                "{who} enters {} with {log:?}; somebody had delivered {position}, safe, and was at {safe:?}",
                view.number
            )),
            _ => Ok(()),
        }
    }
}

impl Checker<Record> for VirtualSynchrony {
    fn name(&self) -> &'static str {
        "V3 V4 V6 virtual synchrony"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        if let What::Stopped { instance, .. } = &entry.what {
            self.stopped.insert(*instance);
        }
        let What::Program(Some(who), record) = &entry.what else { return Ok(()) };
        match record {
            Record::View(view) => self.entered(*who, view),
            Record::Delivered(position, _, guarantee, log) => {
                if *guarantee == Guarantee::Safe {
                    let newest = self.safe.entry(position.view).or_insert((*position, *log));
                    if newest.0 < *position {
                        *newest = (*position, *log);
                    }
                    if let Some((_, log_there)) = position
                        .view
                        .0
                        .checked_add(1)
                        .and_then(|next| self.entered_with.get(&ViewNumber(next)))
                        .filter(|(_, l)| l.count < log.count)
                    {
                        return Err(format!(
                            "{who} delivered {position}, safe; the next view began at {log_there:?}"
                        ));
                    }
                }
                self.judged += 1;
                match self.view.get(who) {
                    Some(view) if *view == position.view => Ok(()),
                    other => Err(format!("{who} delivered {position} in view {other:?}")),
                }
            }
            _ => Ok(()),
        }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
