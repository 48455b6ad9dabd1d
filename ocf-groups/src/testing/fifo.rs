//! FIFO messages: V2 nothing is invented or told twice, V3 members that go on together and are in the group for the whole view deliver
//! the same, V5 the messages of a sender to a group come in the order it sent them, FIFO or ordered.

use super::{Entry, History, Violation};
use crate::{Event, Guarantee, MemberId};
use bytes::Bytes;
use ocf_membership::ViewNumber;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was delivered FIFO, by whom, in which view and group.
type Delivered<'a> = BTreeMap<(NodeInstance, ViewNumber, &'a Arc<str>), BTreeSet<&'a Bytes>>;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let mut sent: BTreeMap<&Bytes, (usize, MemberId, &Arc<str>, Guarantee)> = BTreeMap::new();
    for log in history.logs.values() {
        for (nth, entry) in log.entries.iter().enumerate() {
            if let Entry::Sent { group, sender, guarantee, payload } = entry {
                sent.insert(payload, (nth, *sender, group, *guarantee));
            }
        }
    }
    let mut delivered = Delivered::new();
    for (instance, log) in &history.logs {
        // What a group waits for, such as a state, holds up that group alone.
        let mut last: BTreeMap<(NodeInstance, &Arc<str>), usize> = BTreeMap::new();
        for event in log.events() {
            let payload = match event {
                Event::Fifo { group, sender, view, payload, .. } => {
                    let original = sent.get(payload).map(|(_, s, g, guarantee)| (*s, *g, *guarantee));
                    let fresh = delivered.entry((*instance, *view, group)).or_default().insert(payload);
                    if original != Some((*sender, group, Guarantee::Fifo)) || !fresh {
                        let what =
                            format!("{instance} delivers FIFO in {view}, twice or not sent so: {original:?}");
                        return Err(Violation::new("V2", what));
                    }
                    payload
                }
                Event::Message { payload, .. } => payload,
                // What came last may have been void, and come again.
                Event::Reset { .. } if history.ends_may_differ => {
                    last.clear();
                    continue;
                }
                Event::Membership { .. }
                | Event::State { .. }
                | Event::StateLost { .. }
                | Event::StateWanted { .. }
                | Event::Reset { .. }
                | Event::Evicted { .. }
                | Event::Refused { .. }
                | Event::View(_)
                | Event::Writable => continue,
            };
            let Some((nth, sender, group, _)) = sent.get(payload) else { continue };
            let before = last.insert((sender.instance, *group), *nth);
            if before.is_some_and(|before| before >= *nth) {
                let what = format!("{instance} delivers of {sender:?} number {nth} after {before:?}");
                return Err(Violation::new("V5", what));
            }
        }
    }
    same_where_together(history, &delivered)
}

fn same_where_together(history: &History, delivered: &Delivered<'_>) -> Result<(), Violation> {
    let mut together: BTreeMap<(ViewNumber, ViewNumber), Vec<NodeInstance>> = BTreeMap::new();
    for (instance, log) in &history.logs {
        for (from, view) in log.transitions(*instance) {
            together.entry((from, view.number)).or_default().push(*instance);
        }
    }
    let none = BTreeSet::new();
    for ((from, to), instances) in &together {
        let ready =
            |i: &NodeInstance| history.logs.get(i).map(|log| log.ready(*i, false)).unwrap_or_default();
        let ready: Vec<_> = instances.iter().map(|i| (*i, ready(i))).collect();
        let groups: BTreeSet<&Arc<str>> = ready.iter().flat_map(|(_, ready)| ready.keys()).collect();
        for group in groups {
            let got = |i: &NodeInstance| delivered.get(&(*i, *from, group)).unwrap_or(&none);
            let owed: BTreeSet<&&Bytes> = instances.iter().flat_map(got).collect();
            let whole = |r: &super::history::Ready| r.from.view < *from && r.to.view > *from;
            let members = ready.iter().filter(|(_, r)| r.get(group).is_some_and(|r| r.iter().any(whole)));
            if let Some((instance, _)) = members.into_iter().find(|(i, _)| got(i).len() < owed.len()) {
                let what = format!("{instance} lacks FIFO messages of {group}, going from {from} to {to}");
                return Err(Violation::new("V3", what));
            }
        }
    }
    Ok(())
}
