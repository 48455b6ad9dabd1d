//! V3: members that go from one view into the next together deliver the same messages between them.

use super::history::Ready;
use super::{History, Violation};
use crate::{Event, Position};
use ocf_membership::ViewNumber;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What each instance delivered, by view.
pub(super) type Delivered = BTreeMap<NodeInstance, BTreeMap<ViewNumber, BTreeSet<(Position, Arc<str>)>>>;

pub(super) fn delivered(history: &History, only_safe: bool) -> Delivered {
    let mut all = Delivered::new();
    for (instance, log) in &history.logs {
        for event in log.events() {
            let Event::Message { group, position, guarantee, .. } = event else { continue };
            let by_view = all.entry(*instance).or_default().entry(position.view).or_default();
            if !only_safe || *guarantee == crate::Guarantee::Safe {
                by_view.insert((*position, Arc::clone(group)));
            }
        }
    }
    all
}

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let all = delivered(history, false);
    let mut together: BTreeMap<(ViewNumber, ViewNumber), Vec<NodeInstance>> = BTreeMap::new();
    for (instance, log) in &history.logs {
        for (from, view) in log.transitions(*instance) {
            together.entry((from, view.number)).or_default().push(*instance);
        }
    }
    for ((from, to), instances) in &together {
        let owed: BTreeSet<&(Position, Arc<str>)> =
            instances.iter().filter_map(|i| all.get(i)?.get(from)).flatten().collect();
        for instance in instances {
            let what = format!("going from {from} to {to}");
            owes(history, &all, (*instance, false), &owed)
                .map_err(|w| Violation::new("V3", format!("{w}, {what}")))?;
        }
    }
    Ok(())
}

/// Checks that an instance delivered each of `owed` that falls into a time when it was ready, as [`Log::ready`](super::Log) tells it.
pub(super) fn owes(
    history: &History,
    all: &Delivered,
    (instance, ended): (NodeInstance, bool),
    owed: &BTreeSet<&(Position, Arc<str>)>,
) -> Result<(), String> {
    let Some(log) = history.logs.get(&instance) else { return Ok(()) };
    let ready = log.ready(instance, ended);
    for (position, group) in owed {
        let within = |r: &Ready| r.from < *position && *position < r.to;
        let got = all
            .get(&instance)
            .and_then(|v| v.get(&position.view))
            .is_some_and(|s| s.contains(&(*position, Arc::clone(group))));
        if !got && ready.get(group).is_some_and(|r| r.iter().any(within)) {
            return Err(format!("{instance} lacks {position} of {group}"));
        }
    }
    Ok(())
}
