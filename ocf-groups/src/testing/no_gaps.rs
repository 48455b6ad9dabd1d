//! V5 where ends may differ: between two messages of a sender to a group that a member is told, it is told all that were sent between
//! them, unless the sender was put out or left meanwhile, or the member did.

use super::{Entry, History, Violation};
use crate::{Event, MemberId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A message among those of its sender to its group.
#[derive(Clone, Copy)]
struct Place {
    /// How often the sender was put out, or left, before.
    life: u64,
    nth: u64,
}

type Of<'a> = (MemberId, &'a Arc<str>);

pub(super) fn check(history: &History) -> Result<(), Violation> {
    if !history.ends_may_differ {
        return Ok(());
    }
    let sent = sent(history);
    for (instance, log) in &history.logs {
        let mut last: BTreeMap<Of<'_>, Place> = BTreeMap::new();
        for event in log.events() {
            match event {
                Event::Message { payload, .. } | Event::Fifo { payload, .. } => {
                    let Some((of, place)) = sent.get(payload) else { continue };
                    let Some(before) = last.insert(*of, *place) else { continue };
                    if before.life == place.life && place.nth > before.nth + 1 {
                        let what = format!(
                            "{instance} is told of {:?} number {} after {}",
                            of.0, place.nth, before.nth
                        );
                        return Err(Violation::new("V5", what));
                    }
                }
                Event::Reset { group, .. } | Event::State { group, .. } | Event::StateLost { group, .. } => {
                    last.retain(|(_, g), _| *g != group);
                }
                Event::Membership { group, left, .. } if left.iter().any(|m| m.instance == *instance) => {
                    last.retain(|(_, g), _| *g != group);
                }
                Event::Membership { .. }
                | Event::StateWanted { .. }
                | Event::Evicted { .. }
                | Event::Refused { .. }
                | Event::View(_)
                | Event::Writable => {}
            }
        }
    }
    Ok(())
}

/// Where each message stands in what its sender sent to its group.
fn sent(history: &History) -> BTreeMap<&Bytes, (Of<'_>, Place)> {
    let mut sent = BTreeMap::new();
    for log in history.logs.values() {
        let mut places: BTreeMap<Of<'_>, Place> = BTreeMap::new();
        for entry in &log.entries {
            match entry {
                Entry::Sent { group, sender, payload, .. } => {
                    let place = places.entry((*sender, group)).or_insert(Place { life: 0, nth: 0 });
                    place.nth += 1;
                    sent.insert(payload, ((*sender, group), *place));
                }
                Entry::Leaving { group, member } | Entry::Event(Event::Reset { group, member }) => {
                    places.entry((*member, group)).or_insert(Place { life: 0, nth: 0 }).life += 1;
                }
                Entry::Event(_) | Entry::Digest { .. } => {}
            }
        }
    }
    sent
}
