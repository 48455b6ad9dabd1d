//! V5: a sender's messages come in the order it sent them, and after everything it had delivered when it sent them.

use super::{Entry, History, Log, Violation};
use crate::{Event, Position};
use bytes::Bytes;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let mut at: BTreeMap<&Bytes, Position> = BTreeMap::new();
    let counts = |log: &Log, instance| {
        let lasting = log.lasting(instance);
        move |at: &Position| !history.ends_may_differ || lasting.contains(&at.view)
    };
    for (instance, log) in &history.logs {
        let counts = counts(log, *instance);
        for event in log.events() {
            if let Event::Message { payload, position, .. } = event
                && counts(position)
            {
                at.insert(payload, *position);
            }
        }
    }
    for (instance, log) in &history.logs {
        let counts = counts(log, *instance);
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
                Entry::Event(Event::Message { position, .. }) if counts(position) => {
                    before = before.max(*position);
                }
                Entry::Leaving { .. } | Entry::Event(_) | Entry::Digest { .. } => {}
            }
        }
    }
    Ok(())
}
