//! | property | source |
//! |---|---|
//! | V2 no duplicates | protocols 11.2 |
//! | V5 FIFO per sender | protocols 11.2 |
//! | V8 a living sender's message is delivered, or its node left the primary | protocols 11.2 |

use crate::sim::cluster::{MessageId, Record};
use crate::sim::{Checker, Entry, What};
use pils::NodeInstance;
use std::collections::BTreeMap;

/// Each node delivers the messages of a sender once, in the order of sending and without a gap.
#[derive(Debug, Default)]
pub struct SenderOrder {
    /// For each receiver and sender: the epoch and number delivered last.
    last: BTreeMap<(NodeInstance, NodeInstance), (u32, u64)>,
    /// For each living sender: what it sent last in its epoch, and what came back to it.
    own: BTreeMap<NodeInstance, (Option<MessageId>, Option<MessageId>)>,
    judged: u64,
}

impl Checker<Record> for SenderOrder {
    fn name(&self) -> &'static str {
        "V2 V5 V8 order of a sender"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        match &entry.what {
            What::Stopped { instance, .. } => {
                self.own.remove(instance);
                self.last.retain(|(receiver, _), _| receiver != instance);
                Ok(())
            }
            What::Program(Some(who), record) => match record {
                Record::Sent(id, ..) => {
                    self.own.entry(*who).or_default().0 = Some(*id);
                    Ok(())
                }
                // What the donor had taken is in the state: the next message of a sender may have any number.
                Record::Reset | Record::StateTaken(..) => {
                    if *record == Record::Reset {
                        self.own.remove(who);
                    }
                    self.last.retain(|(receiver, _), _| receiver != who);
                    Ok(())
                }
                Record::Delivered(position, id, ..) => {
                    self.judged += 1;
                    if id.sender == *who {
                        self.own.entry(*who).or_default().1 = Some(*id);
                    }
                    let before = self.last.insert((*who, id.sender), (id.epoch, id.number));
                    let fits = match before {
                        None => true,
                        Some((epoch, number)) if epoch == id.epoch => id.number == number + 1,
                        Some((epoch, _)) => id.epoch > epoch && id.number == 0,
                    };
                    if fits {
                        Ok(())
                    } else {
                        Err(format!("{who} delivered {id:?} at {position} after {before:?}"))
                    }
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        for (who, (sent, back)) in &self.own {
            // What was sent in the last moments may still be on its way; the workload stops before the end.
            if sent.is_some() && sent > back {
                return Err(format!("{who} sent {sent:?}, and the last that came back is {back:?}"));
            }
        }
        Ok(())
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
