//! | property | source |
//! |---|---|
//! | in volatile mode numbers begin anew when everybody who remembers is gone | membership PROTOCOL.md, Not yet |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use pils::NodeInstance;
use std::collections::BTreeSet;

/// Judges each chain of primaries by itself: a chain ends when the last instance that was in one of its views is gone and the
/// next view has the number 1. With a record on any disk that never happens, and everything is judged as one.
#[derive(Debug, Default)]
pub struct PerChain<C> {
    inner: C,
    before: u64,
    inside: BTreeSet<NodeInstance>,
}

impl<C: Checker<Record> + Default> Checker<Record> for PerChain<C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        match &entry.what {
            What::Stopped { instance, .. } => {
                self.inside.remove(instance);
            }
            What::Program(Some(who), Record::View(view)) => {
                if view.number.0 == 1 && view.previous.is_empty() && self.inside.is_empty() {
                    self.before += self.inner.judged();
                    self.inner = C::default();
                }
                self.inside.insert(*who);
            }
            _ => {}
        }
        self.inner.observe(entry)
    }

    fn finish(&mut self) -> Result<(), String> {
        self.inner.finish()
    }

    fn judged(&self) -> u64 {
        self.before + self.inner.judged()
    }
}
