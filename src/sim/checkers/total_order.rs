//! | property | source |
//! |---|---|
//! | V1 total order: deliveries agree on common prefixes | protocols 11.2 |
//! | V2 no creation, content as sent | protocols 11.2 |
//! | V7 void holes identical everywhere | protocols 11.2 |
//! | V10 joiner state + suffix = donor state | protocols 11.2 |

use crate::sim::cluster::{Log, MessageId, Record};
use crate::sim::{Checker, Entry, What};
use ocf_groups::Position;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// At each position of the stream every node delivers the same message, and every application is in the same state.
///
/// The state is a fold of all messages before, so one comparison covers the whole prefix: what came, what was left out,
/// and what a joiner was given instead of messages.
#[derive(Debug, Default)]
pub struct TotalOrder {
    sent: BTreeSet<MessageId>,
    stream: BTreeMap<Position, (MessageId, Log)>,
    last: BTreeMap<NodeInstance, Position>,
    judged: u64,
}

impl TotalOrder {
    fn delivered(&mut self, who: NodeInstance, at: Position, id: MessageId, log: Log) -> Result<(), String> {
        self.judged += 1;
        if !self.sent.contains(&id) {
            return Err(format!("{who} delivered {id:?} at {at}, which nobody sent"));
        }
        if let Some(last) = self.last.insert(who, at).filter(|last| *last >= at) {
            return Err(format!("{who} delivered {at} after {last}"));
        }
        let first = *self.stream.entry(at).or_insert((id, log));
        if first == (id, log) {
            return Ok(());
        }
        Err(format!(
            "at {at} {who} delivered {id:?} and is at {log:?}, another {:?} and {:?}",
            first.0, first.1
        ))
    }
}

impl Checker<Record> for TotalOrder {
    fn name(&self) -> &'static str {
        "V1 V2 V7 V10 total order"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let What::Program(Some(who), record) = &entry.what else { return Ok(()) };
        match record {
            Record::Sent(id, ..) => {
                self.sent.insert(*id);
                Ok(())
            }
            Record::Garbled(at) => Err(format!("{who} delivered at {at} what was not sent so")),
            Record::Delivered(at, id, _, log) => self.delivered(*who, *at, *id, *log),
            Record::StateTaken(at, log) => {
                self.judged += 1;
                let Some((position, (_, there))) = self.stream.range(..=*at).next_back() else {
                    return Ok(());
                };
                // A group that was founded anew starts with an empty log.
                if log.count == 0 || there == log {
                    return Ok(());
                }
                Err(format!("{who} took the state {log:?} for {at}, but at {position} it was {there:?}"))
            }
            _ => Ok(()),
        }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
