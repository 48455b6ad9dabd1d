//! V4: what is delivered as safe anywhere is delivered by every member that enters the next view with its state.

use super::view_synchrony::{delivered, owes};
use super::{History, Violation};
use crate::Position;
use ocf_membership::ViewNumber;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let safe = delivered(history, true);
    let all = delivered(history, false);
    let mut by_view: BTreeMap<ViewNumber, BTreeSet<&(Position, Arc<str>)>> = BTreeMap::new();
    for (view, set) in safe.values().flatten() {
        by_view.entry(*view).or_default().extend(set);
    }
    for (instance, log) in &history.logs {
        for (from, _) in log.transitions(*instance) {
            if let Some(owed) = by_view.get(&from) {
                owes(history, &all, (*instance, false), owed).map_err(|w| Violation::new("V4", w))?;
            }
        }
    }
    Ok(())
}
