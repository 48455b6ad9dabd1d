//! V1: any two nodes that deliver at a position deliver the same there, and everyone delivers a group's messages in
//! the order of their positions. V7 follows with V3: a place that is void for one is void for all.

use super::{History, Violation};
use crate::{Event, MemberId, Position};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let mut seen: BTreeMap<Position, (&Arc<str>, MemberId, &Bytes)> = BTreeMap::new();
    for (instance, log) in &history.logs {
        let mut last: BTreeMap<&Arc<str>, Position> = BTreeMap::new();
        let lasting = log.lasting(*instance);
        for event in log.events() {
            let Event::Message { group, sender, position, payload, .. } = event else { continue };
            let before = last.insert(group, *position);
            if before.is_some_and(|b| b >= *position) {
                return Err(Violation::new("V1", format!("{instance} delivers {position} after {before:?}")));
            }
            if history.ends_may_differ && !lasting.contains(&position.view) {
                continue;
            }
            let first = seen.entry(*position).or_insert((group, *sender, payload));
            if *first != (group, *sender, payload) {
                let what =
                    format!("{instance} delivers {sender:?} in {group} at {position}, others {first:?}");
                return Err(Violation::new("V1", what));
            }
        }
    }
    Ok(())
}
