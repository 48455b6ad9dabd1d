//! V5: a sender's messages come in the order it sent them, and after everything it had delivered when it sent them. At each receiver by
//! itself, since what one was delivered last that others went on without stands at other places there, as does what another side
//! of a partition ordered, or who went on from the same view into another one. And at all that went on together, where views are one chain.

use super::{Entry, History, Log, Violation};
use crate::{Event, Position};
use bytes::Bytes;
use pils::NodeInstance;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let chain = !history.ends_are_agreed && !history.ends_may_differ;
    if chain {
        in_order(history, &places(history.logs.iter(), true), true)?;
    }
    let lasting = history.ends_may_differ;
    let mut each = history.logs.iter().map(|log| places(core::iter::once(log), lasting));
    each.try_for_each(|at| in_order(history, &at, false))
}

/// True if a place says something, at this instance: with `lasting`, if it went on from there with others.
fn counts(log: &Log, instance: NodeInstance, lasting: bool) -> impl Fn(&Position) -> bool + use<> {
    let views = log.lasting(instance);
    move |at| !lasting || views.contains(&at.view)
}

fn places<'a>(
    logs: impl Iterator<Item = (&'a NodeInstance, &'a Log)>,
    lasting: bool,
) -> BTreeMap<&'a Bytes, Position> {
    let mut at = BTreeMap::new();
    for (instance, log) in logs {
        let counts = counts(log, *instance, lasting);
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

/// With `all`, these are the places at everybody.
fn in_order(history: &History, at: &BTreeMap<&Bytes, Position>, all: bool) -> Result<(), Violation> {
    for (instance, log) in &history.logs {
        let counts = counts(log, *instance, all || history.ends_may_differ);
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
                    let place = if all { Some(position) } else { at.get(payload) };
                    before = place.map_or(before, |place| before.max(*place));
                }
                Entry::Leaving { .. } | Entry::Event(_) | Entry::Digest { .. } => {}
            }
        }
    }
    Ok(())
}
