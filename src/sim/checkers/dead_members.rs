//! | property | source |
//! |---|---|
//! | M4 members were mutually connected when they accepted (here: alive) | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::collections::BTreeMap;

/// Nobody installs a new view with a member that has been dead for longer than a ballot can take.
#[derive(Debug)]
pub struct DeadMembers {
    limit: Duration,
    dead: BTreeMap<NodeInstance, Instant>,
    newest: u64,
    judged: u64,
}

impl DeadMembers {
    /// A checker for ballots that take at most `limit`.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self { limit, dead: BTreeMap::new(), newest: 0, judged: 0 }
    }
}

impl Checker<Record> for DeadMembers {
    fn name(&self) -> &'static str {
        "M4 members live"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        match &entry.what {
            What::Stopped { instance, .. } => {
                self.dead.insert(*instance, entry.at);
            }
            What::Program(Some(_), Record::View(view)) if view.number.0 > self.newest => {
                self.newest = view.number.0;
                self.judged += 1;
                for member in &view.members {
                    if let Some(at) =
                        self.dead.get(&member.instance).filter(|at| entry.at - **at > self.limit)
                    {
                        return Err(format!("{} lists {}, dead since {at}", view.number, member.instance));
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
