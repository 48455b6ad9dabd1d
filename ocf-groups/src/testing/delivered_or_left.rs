//! V8: a living sender's message is delivered, to it as well, or the sender was told that it is out (`Reset`). What a
//! joiner sends before it has its group's state may be part of the state it gets, so it is not looked for.

use super::{Entry, History, Violation};
use crate::Event;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(history: &History) -> Result<(), Violation> {
    for (instance, log) in &history.logs {
        if log.dead {
            continue;
        }
        let mut open = BTreeMap::new();
        let mut ready = BTreeSet::new();
        for entry in &log.entries {
            match entry {
                Entry::Sent { payload, sender, group, .. } if ready.contains(&(group, *sender)) => {
                    open.insert(payload, (*sender, group));
                }
                Entry::Leaving { group, member } => {
                    ready.remove(&(group, *member));
                }
                Entry::Event(Event::Message { payload, .. } | Event::Fifo { payload, .. }) => {
                    open.remove(payload);
                }
                Entry::Event(Event::Reset { group, member }) => {
                    ready.remove(&(group, *member));
                    open.retain(|_, (sender, g)| sender != member || *g != group);
                }
                Entry::Event(Event::Membership { group, members, joined, left, .. }) => {
                    for gone in left {
                        ready.remove(&(group, *gone));
                    }
                    if members == joined {
                        ready.extend(joined.iter().map(|m| (group, *m)));
                    }
                }
                Entry::Event(Event::State { group, member, .. } | Event::StateLost { group, member, .. }) => {
                    ready.insert((group, *member));
                }
                Entry::Sent { .. } | Entry::Event(_) | Entry::Digest { .. } => {}
            }
        }
        if let Some((payload, (sender, group))) = open.iter().next() {
            let start = payload.slice(..payload.len().min(16));
            let what = format!("{instance}: {start:?} of {sender:?} in {group} was never delivered");
            return Err(Violation::new("V8", what));
        }
    }
    Ok(())
}
