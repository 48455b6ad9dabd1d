//! V2: nothing is delivered that was not sent with that content, group, sender and guarantee, and nothing twice.

use super::{Entry, History, Violation};
use crate::{Event, Guarantee};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let mut sent = BTreeMap::new();
    for entry in history.logs.values().flat_map(|l| &l.entries) {
        if let Entry::Sent { group, sender, guarantee, payload } = entry {
            sent.insert(payload.clone(), (group, *sender, *guarantee));
        }
    }
    for (instance, log) in &history.logs {
        let mut seen = BTreeSet::new();
        for event in log.events() {
            // What it was delivered last may have been void, and its sender may have sent it again.
            if history.ends_may_differ && matches!(event, Event::Reset { .. }) {
                seen.clear();
            }
            let Event::Message { group, sender, position, guarantee, payload } = event else { continue };
            let as_sent = |told: Guarantee| sent.get(payload) == Some(&(group, *sender, told));
            let weaker =
                history.ends_are_agreed && *guarantee == Guarantee::Agreed && as_sent(Guarantee::Safe);
            if !as_sent(*guarantee) && !weaker {
                let what = format!("{instance} delivers at {position} what {sender:?} never sent");
                return Err(Violation::new("V2", what));
            }
            if !seen.insert(payload) {
                return Err(Violation::new("V2", format!("{instance} delivers twice, again at {position}")));
            }
        }
    }
    Ok(())
}
