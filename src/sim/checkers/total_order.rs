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

/// At each position of the stream every node delivers the same message, and a joiner is given the state of who offers it.
///
/// Who died or was excluded may have delivered agreed messages that are void for the others, so the states of
/// applications, folds of all messages, are compared where nodes go on together: see the checker of virtual synchrony.
#[derive(Debug, Default)]
pub struct TotalOrder {
    sent: BTreeSet<MessageId>,
    stream: BTreeMap<Position, MessageId>,
    last: BTreeMap<NodeInstance, Position>,
    /// Where each application is.
    there: BTreeMap<NodeInstance, Log>,
    /// The states that were offered to joiners, by the point they reflect.
    offered: BTreeMap<Position, Vec<Log>>,
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
        self.there.insert(who, log);
        let first = *self.stream.entry(at).or_insert(id);
        if first == id {
            return Ok(());
        }
        Err(format!("at {at} {who} delivered {id:?}, another {first:?}"))
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
            Record::StateOffered(at, log) => {
                self.judged += 1;
                self.offered.entry(*at).or_default().push(*log);
                match self.there.get(who) {
                    Some(there) if there != log => {
                        Err(format!("{who} offered {log:?} for {at} while it was at {there:?}"))
                    }
                    _ => Ok(()),
                }
            }
            // Not compared with the stream: a node that died may have delivered agreed messages at the end of a view
            // that nobody else has. What follows the state is compared message by message.
            Record::StateTaken(at, log) => {
                self.judged += 1;
                self.there.insert(*who, *log);
                let offered = self.offered.get(at).map_or(&[][..], Vec::as_slice);
                if offered.contains(log) {
                    return Ok(());
                }
                Err(format!("{who} took the state {log:?} for {at}, but {offered:?} was offered"))
            }
            Record::Reset | Record::StateLost(_) => {
                self.there.remove(who);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
