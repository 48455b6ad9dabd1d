//! V5: a sender's messages come in the order it sent them, and after everything it had delivered when it sent them. Where nodes may go on
//! from one view into different ones (partitions, and views that are no chain), each way is judged by itself, at each receiver: another
//! one may have ordered the same messages at other places.

use super::{Entry, History, Log, Violation};
use crate::{Event, Position};
use bytes::Bytes;
use pils::NodeInstance;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    if !history.ends_are_agreed && !history.ends_may_differ {
        return in_order(history, &places(history, history.logs.iter()));
    }
    history.logs.iter().try_for_each(|log| in_order(history, &places(history, core::iter::once(log))))
}

/// True if a place says something, at this instance.
fn counts(history: &History, log: &Log, instance: NodeInstance) -> impl Fn(&Position) -> bool + use<> {
    let (lasting, all) = (log.lasting(instance), !history.ends_may_differ);
    move |at| all || lasting.contains(&at.view)
}

fn places<'a>(
    history: &History,
    logs: impl Iterator<Item = (&'a NodeInstance, &'a Log)>,
) -> BTreeMap<&'a Bytes, Position> {
    let mut at = BTreeMap::new();
    for (instance, log) in logs {
        let counts = counts(history, log, *instance);
        for event in log.events() {
            if let Event::Message { payload, position, .. } = event
                && counts(position)
            {
                at.insert(payload, *position);
            }
        }
    }
    at
}

fn in_order(history: &History, at: &BTreeMap<&Bytes, Position>) -> Result<(), Violation> {
    for (instance, log) in &history.logs {
        let counts = counts(history, log, *instance);
        let mut before = Position::default();
        for entry in &log.entries {
            match entry {
                Entry::Sent { payload, .. } => {
                    let Some(position) = at.get(payload) else { continue };
                    if *position <= before {
                        let what = format!("{instance} sent what stands at {position} after {before}");
                        return Err(Violation::new("V5", what));
                    }
                    before = *position;
                }
                Entry::Event(Event::Message { payload, position, .. }) if counts(position) => {
                    let one_way = !history.ends_are_agreed && !history.ends_may_differ;
                    let place = if one_way { Some(position) } else { at.get(payload) };
                    before = place.map_or(before, |place| before.max(*place));
                }
                Entry::Leaving { .. } | Entry::Event(_) | Entry::Digest { .. } => {}
            }
        }
    }
    Ok(())
}
