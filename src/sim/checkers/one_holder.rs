//! | property | source |
//! |---|---|
//! | D1 a lock that excludes is held by one life of one node at a time | ocf-dlm PROTOCOL.md 9 |
//! | D5 tokens of a name grow with each grant | ocf-dlm PROTOCOL.md 5 |

use crate::sim::cluster::Record;
use crate::sim::{Checker, Entry, What};
use ocf_dlm::FencingToken;
use pils::NodeInstance;
use std::collections::BTreeMap;

/// Who was granted a lock holds it until it gives it back, is told that it is lost, or ends; its node may be stopped or cut off
/// meanwhile. Until then nobody else is granted it.
#[derive(Debug, Default)]
pub struct OneHolder {
    holders: BTreeMap<u8, NodeInstance>,
    tokens: BTreeMap<u8, FencingToken>,
    judged: u64,
}

impl Checker<Record> for OneHolder {
    fn name(&self) -> &'static str {
        "D1 D5 one holder"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        match &entry.what {
            What::Stopped { instance, .. } => self.holders.retain(|_, holder| holder != instance),
            // Whoever has no access to what a lock protects holds it in vain.
            What::Program(_, Record::AccessTaken(node)) => {
                self.holders.retain(|_, holder| holder.node != *node);
            }
            What::Program(Some(who), Record::Unlocked(name)) if self.holders.get(name) == Some(who) => {
                self.holders.remove(name);
            }
            What::Program(Some(who), Record::Locked(name, token)) => {
                self.judged += 1;
                if let Some(holder) = self.holders.insert(*name, *who) {
                    return Err(format!("{who} is granted lock {name}, which {holder} holds"));
                }
                let last = self.tokens.insert(*name, *token);
                if last.is_some_and(|last| last >= *token) {
                    return Err(format!("token {token} of lock {name} after {last:?}"));
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
