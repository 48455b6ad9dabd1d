//! | property | source |
//! |---|---|
//! | Q1 never two primaries whose active periods overlap in real time | protocols 11.2 |
//! | Q4 a primary without a confirmed lease performs no upcall | protocols 11.2 |
//! | M7 excluded nodes stop | protocols 11.2 |
//! | X4 a minority never fences | protocols 11.2 |

use crate::sim::cluster::{Record, ViewRecord};
use crate::sim::{Checker, Entry, What};
use ocf_resource::Action;
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    Active,
    Suspended,
    Outside,
}

/// From the first moment at which anybody is in a primary that excludes a node, that node acts no more. True time, as no
/// node can see it.
#[derive(Debug, Default)]
pub struct PrimaryOverlap {
    newest: Option<Arc<ViewRecord>>,
    /// The view that excludes each.
    excluded: BTreeMap<NodeInstance, Arc<ViewRecord>>,
    ended: BTreeSet<NodeInstance>,
    standing: BTreeMap<NodeInstance, Standing>,
    /// What is right only if something follows at the same instant, before anybody could act on it.
    owed: Option<Owed>,
    judged: u64,
}

#[derive(Debug)]
struct Owed {
    at: Instant,
    who: NodeInstance,
    what: String,
    until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Until {
    /// A node that is suspended or outside delivers: what its old view still owed, just before it is told of the new one.
    View,
    /// An excluded node learns of a view that was agreed before, with what belongs before it: the end of that must follow.
    End,
}

impl PrimaryOverlap {
    fn acts(&mut self, now: Instant, who: NodeInstance, what: &str) -> Result<(), String> {
        self.judged += 1;
        let delivers = what.starts_with("delivered");
        if let Some(view) = self.excluded.get(&who) {
            if delivers {
                self.owe(now, who, what, Until::End);
                return Ok(());
            }
            return Err(format!("{who} {what} although {}, which excludes it, is installed", view.number));
        }
        match self.standing.get(&who) {
            Some(Standing::Active) => Ok(()),
            Some(Standing::Suspended | Standing::Outside) if delivers => {
                self.owe(now, who, what, Until::View);
                Ok(())
            }
            other => Err(format!("{who} {what} while it is {other:?}")),
        }
    }

    fn owe(&mut self, at: Instant, who: NodeInstance, what: &str, until: Until) {
        self.owed.get_or_insert_with(|| Owed { at, who, what: what.to_owned(), until });
    }

    fn settle(&mut self, who: NodeInstance, until: Until) {
        self.owed.take_if(|o| o.who == who && o.until == until);
    }

    /// A view that only the ended knew excludes nobody any more: nodes without a record on a disk forgot it, and who it
    /// excluded may go on from the one before. What that still owed belongs before the view entered now.
    fn is_forgotten(&self, who: NodeInstance, entered: &ViewRecord) -> bool {
        let gone = |view: &Arc<ViewRecord>| view.members.iter().all(|m| self.ended.contains(&m.instance));
        entered.contains(who) && self.excluded.get(&who).is_some_and(gone)
    }

    fn installed(&mut self, view: &Arc<ViewRecord>) {
        let newer = self.newest.as_ref().is_none_or(|v| v.number < view.number);
        if !newer {
            return;
        }
        for member in &view.members {
            self.excluded.remove(&member.instance);
        }
        let before = self.newest.replace(Arc::clone(view));
        let before = before.iter().flat_map(|v| v.members.iter()).chain(&view.previous);
        for gone in before.filter(|m| !view.contains(m.instance)) {
            self.excluded.insert(gone.instance, Arc::clone(view));
        }
    }
}

impl Checker<Record> for PrimaryOverlap {
    fn name(&self) -> &'static str {
        "Q1 Q4 M7 X4 one primary acts"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        if let Some(Owed { at, who, what, until }) = self.owed.take_if(|o| o.at < entry.at) {
            return Err(format!("{who} {what} at {at} without the lease for it ({until:?} did not follow)"));
        }
        match &entry.what {
            What::Stopped { instance, .. } => {
                self.owed.take_if(|o| o.who == *instance);
                self.standing.remove(instance);
                self.ended.insert(*instance);
                Ok(())
            }
            What::Program(Some(who), record) => match record {
                Record::View(view) => {
                    if self.is_forgotten(*who, view) {
                        self.settle(*who, Until::End);
                    }
                    self.installed(view);
                    self.settle(*who, Until::View);
                    self.standing.insert(*who, Standing::Active);
                    self.judged += 1;
                    if self.excluded.contains_key(who) {
                        self.owe(entry.at, *who, &format!("entered {}", view.number), Until::End);
                    }
                    Ok(())
                }
                Record::NonPrimary(_) => {
                    self.settle(*who, Until::End);
                    self.standing.insert(*who, Standing::Outside);
                    Ok(())
                }
                Record::Suspended => {
                    self.settle(*who, Until::End);
                    self.standing.insert(*who, Standing::Suspended);
                    Ok(())
                }
                Record::Resumed => {
                    self.standing.insert(*who, Standing::Active);
                    self.acts(entry.at, *who, "resumed")
                }
                Record::Delivered(position, ..) => {
                    self.acts(entry.at, *who, &format!("delivered {position}"))
                }
                Record::AgentCalled(resource, Action::Start) => {
                    self.acts(entry.at, *who, &format!("started {resource}"))
                }
                Record::FenceAsked(target, _) => self.acts(entry.at, *who, &format!("fences {target}")),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
