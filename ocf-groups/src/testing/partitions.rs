//! Views of partitions: P1 a number names one view among those who share a member, P2 those of a node follow from each other and contain
//! it, P3 who comes from one view into the next together has delivered the same in it, P4 in a merge one side goes on and all others
//! join it, P5 no view says that it is a primary in which one of its members never was.

use super::view_synchrony::{Delivered, delivered, owes};
use super::{History, Violation};
use crate::Position;
use ocf_membership::ViewNumber;
use ocf_membership::partitionable::PartitionView;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What happened in the partitions of a run, beside its [`History`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitions {
    /// The views that each instance entered, in order.
    pub views: BTreeMap<NodeInstance, Vec<PartitionView>>,
    /// The primary views that each instance ever said that it was in.
    pub primaries: BTreeMap<NodeInstance, BTreeSet<ViewNumber>>,
}

/// Judges a finished run, beside [`check`](super::check).
///
/// # Errors
/// The promise that was broken, and where.
pub fn check_partitions(history: &History, partitions: &Partitions) -> Result<(), Violation> {
    let all = delivered(history, false);
    let mut named: BTreeMap<ViewNumber, Vec<&PartitionView>> = BTreeMap::new();
    for (instance, views) in &partitions.views {
        let mut before: Option<&PartitionView> = None;
        for view in views {
            one_for_a_number(*instance, view, named.entry(view.view.number).or_default())?;
            follows(*instance, view, before)?;
            one_side_goes_on(view)?;
            claims_truly(view, partitions)?;
            before = Some(view);
        }
    }
    for view in named.values().flatten() {
        together(history, &all, view)?;
    }
    Ok(())
}

fn one_for_a_number<'a>(
    instance: NodeInstance,
    view: &'a PartitionView,
    known: &mut Vec<&'a PartitionView>,
) -> Result<(), Violation> {
    if known.contains(&view) {
        return Ok(());
    }
    let shared = |other: &&&PartitionView| other.view.members.iter().any(|m| view.view.contains(m.instance));
    if let Some(other) = known.iter().find(shared) {
        let what = format!("{instance} entered {view:?}, another {other:?}");
        return Err(Violation::new("P1", what));
    }
    known.push(view);
    Ok(())
}

fn follows(
    instance: NodeInstance,
    view: &PartitionView,
    before: Option<&PartitionView>,
) -> Result<(), Violation> {
    let number = view.view.number;
    let fail = |what: &str| Err(Violation::new("P2", format!("{instance} enters {number} {what}: {view:?}")));
    if !view.view.contains(instance) {
        return fail("without itself");
    }
    let Some(before) = before else { return Ok(()) };
    if number <= before.view.number {
        return fail("after a later one");
    }
    let parent = view.parents.iter().find(|p| p.came.contains(&instance));
    if parent.is_none_or(|p| p.number != before.view.number) {
        return fail("from a view in which it was not");
    }
    Ok(())
}

fn one_side_goes_on(view: &PartitionView) -> Result<(), Violation> {
    let number = view.view.number;
    let joined = |i: &NodeInstance| view.view.members.iter().any(|m| m.instance == *i && m.joined == number);
    let (first, others) = view.parents.split_first().map_or((None, &[][..]), |(f, o)| (Some(f), o));
    let goes_on = first.is_none_or(|p| p.came.iter().all(|i| !joined(i)));
    if goes_on && others.iter().all(|p| p.came.iter().all(joined)) {
        return Ok(());
    }
    Err(Violation::new("P4", format!("more than one side goes on: {view:?}")))
}

fn claims_truly(view: &PartitionView, partitions: &Partitions) -> Result<(), Violation> {
    let Some(primary) = view.primary else { return Ok(()) };
    let was_there =
        |i: NodeInstance| partitions.primaries.get(&i).is_some_and(|said| said.contains(&primary));
    match view.view.members.iter().find(|m| !was_there(m.instance)) {
        None => Ok(()),
        Some(m) => {
            Err(Violation::new("P5", format!("{} never was in primary {primary}: {view:?}", m.instance)))
        }
    }
}

fn together(history: &History, all: &Delivered, view: &PartitionView) -> Result<(), Violation> {
    let entered =
        |i: &&NodeInstance| history.logs.get(*i).is_some_and(|log| log.views().any(|v| *v == view.view));
    for parent in &view.parents {
        let came: Vec<NodeInstance> = parent.came.iter().filter(entered).copied().collect();
        let of = |i: &NodeInstance| all.get(i).and_then(|views| views.get(&parent.number));
        let owed: BTreeSet<&(Position, Arc<str>)> = came.iter().filter_map(of).flatten().collect();
        for instance in came {
            // Who joins anew owes what its side has, too.
            owes(history, all, (instance, true), &owed)
                .map_err(|w| Violation::new("P3", format!("{w}, coming from {}", parent.number)))?;
        }
    }
    Ok(())
}
