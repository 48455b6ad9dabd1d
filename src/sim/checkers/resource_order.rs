//! | property | source |
//! |---|---|
//! | R3 stop before start, order within a group holds in the executed trace | protocols 11.2 |

use crate::sim::cluster::{Ending, Record};
use crate::sim::{Checker, Entry, What};
use ocf_resource::Action;
use pils::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Of a group, a later resource is started only where the earlier one runs, and the earlier one stopped only after it.
#[derive(Debug)]
pub struct ResourceOrder {
    group: Vec<Arc<str>>,
    state: BTreeMap<(NodeId, usize), State>,
    /// A stop was tried since it ran. Outside the primary a node stops what it can, whatever fails.
    stop_tried: BTreeSet<(NodeId, usize)>,
    judged: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Runs,
    /// It failed since it ran; its monitor may not have seen it yet.
    Failed,
}

impl ResourceOrder {
    /// A checker for a group with these resources, in starting order.
    #[must_use]
    pub const fn new(group: Vec<Arc<str>>) -> Self {
        Self { group, state: BTreeMap::new(), stop_tried: BTreeSet::new(), judged: 0 }
    }
}

impl Checker<Record> for ResourceOrder {
    fn name(&self) -> &'static str {
        "R3 order of resources"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let What::Program(Some(at), record) = &entry.what else { return Ok(()) };
        let place = |resource: &Arc<str>| self.group.iter().position(|r| r == resource).map(|i| (at.node, i));
        match record {
            Record::AgentCalled(resource, Action::Stop) => self.stop_tried.extend(place(resource)),
            Record::Runs(resource) => {
                self.stop_tried.retain(|p| Some(*p) != place(resource));
                self.state.extend(place(resource).map(|p| (p, State::Runs)));
            }
            Record::AgentCalled(resource, Action::Start) => {
                let Some((node, i)) = place(resource).filter(|(_, i)| *i > 0) else { return Ok(()) };
                self.judged += 1;
                if !self.state.contains_key(&(node, i - 1)) {
                    return Err(format!(
                        "{resource} is started on {at} where {} does not run",
                        self.group[i - 1]
                    ));
                }
            }
            Record::Ended(resource, ending) => {
                let Some((node, i)) = place(resource) else { return Ok(()) };
                self.judged += 1;
                if *ending == Ending::Failed {
                    self.state.insert((node, i), State::Failed);
                } else {
                    self.state.remove(&(node, i));
                }
                let next = (node, i + 1);
                let runs = self.state.get(&next) == Some(&State::Runs) && !self.stop_tried.contains(&next);
                if *ending == Ending::Stopped && runs {
                    return Err(format!("{resource} was stopped on {at} while {} runs", self.group[i + 1]));
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
