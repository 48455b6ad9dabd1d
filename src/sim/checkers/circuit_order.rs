//! | property | source |
//! |---|---|
//! | C1 delivered = prefix of sent, exactly once, per incarnation pair | protocols 11.2 |
//! | C2 nothing is accepted under an old incarnation | protocols 11.2 |
//! | C5 if any path is up both ways, progress (judged by the liveness phase) | protocols 11.2 |

use crate::sim::circuits::Record;
use crate::sim::{Checker, Entry, What};
use ocf_comm::Lane;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// Messages of a lane between two incarnations arrive once, in order, without a gap.
#[derive(Debug, Default)]
pub struct CircuitOrder {
    sent: BTreeMap<(NodeInstance, NodeInstance, Lane), u64>,
    got: BTreeMap<(NodeInstance, NodeInstance, Lane), u64>,
    up: BTreeSet<(NodeInstance, NodeInstance)>,
    ended: BTreeSet<(NodeInstance, NodeInstance)>,
    judged: u64,
}

impl Checker<Record> for CircuitOrder {
    fn name(&self) -> &'static str {
        "C1 C2 order of circuits"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let What::Program(Some(me), record) = &entry.what else { return Ok(()) };
        self.judged += 1;
        match record {
            Record::Up(peer) => {
                if self.ended.contains(&(*me, *peer)) {
                    return Err(format!("{peer}, which had ended for good, is up again at {me}"));
                }
                if !self.up.insert((*me, *peer)) {
                    return Err(format!("{peer} is up twice at {me}"));
                }
            }
            Record::Down(peer, for_good) => {
                if !self.up.remove(&(*me, *peer)) {
                    // A silent incarnation may end for good later.
                    if !for_good || self.ended.contains(&(*me, *peer)) {
                        return Err(format!("{peer} is down at {me} where it was not up"));
                    }
                }
                if *for_good {
                    self.ended.insert((*me, *peer));
                }
            }
            Record::Sent(to, lane, number) => {
                self.sent.insert((*me, *to, *lane), number + 1);
            }
            Record::Got(from, lane, number) => {
                let next = self.got.entry((*from, *me, *lane)).or_insert(0);
                if number != next {
                    return Err(format!("{me} got {number} from {from} in {lane:?}; {next} was next"));
                }
                *next += 1;
                if self.sent.get(&(*from, *me, *lane)).is_none_or(|sent| sent < next) {
                    return Err(format!("{me} got {number} from {from} in {lane:?}, which was not sent"));
                }
                if self.ended.contains(&(*me, *from)) {
                    return Err(format!("{me} got {number} from {from}, which had ended"));
                }
            }
            Record::Full(..) | Record::Path(..) => {}
            Record::Garbled(from) => return Err(format!("{me} got from {from} what was not sent to it")),
        }
        Ok(())
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}
