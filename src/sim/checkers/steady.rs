//! | property | source |
//! |---|---|
//! | R4 no oscillation under a fixed world | protocols 11.2 |
//! | M6 after faults stop: one view, stable | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};

/// Once all is well and nothing fails any more, nobody decides or installs anything.
#[derive(Debug, Default)]
pub struct Steady {
    settled: bool,
    judged: u64,
}

impl Checker<Record> for Steady {
    fn name(&self) -> &'static str {
        "R4 M6 steady"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        match &entry.what {
            What::Settled => {
                self.settled = true;
                self.judged += 1;
            }
            What::Program(Some(at), Record::Decided { .. } | Record::View(_) | Record::NonPrimary(_))
                if self.settled =>
            {
                return Err(format!("{at}, though all was well: {:?}", entry.what));
            }
            _ => {}
        }
        Ok(())
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
