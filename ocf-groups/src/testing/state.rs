//! V10: the state a joiner gets, and what it delivers since, make the state the others have at each point. Compared
//! are those that went on from a view together, and all in the last view of the run: one that was left behind may have
//! delivered an agreed message that is void for the others.

use super::{Entry, History, Violation};
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let last = history.logs.values().flat_map(|l| l.views()).map(|v| v.number).max();
    let mut seen = BTreeMap::new();
    for (instance, log) in &history.logs {
        let goes_to: BTreeMap<_, _> =
            log.transitions(*instance).iter().map(|(from, to)| (*from, to.number)).collect();
        for entry in &log.entries {
            let Entry::Digest { group, position, digest, .. } = entry else { continue };
            let next = goes_to.get(&position.view);
            if next.is_none() && Some(position.view) != last {
                continue;
            }
            let first = seen.entry((group, *position, next.copied())).or_insert((*digest, *instance));
            if first.0 != *digest {
                let what = format!("{instance} and {} differ in {group} at {position}", first.1);
                return Err(Violation::new("V10", what));
            }
        }
    }
    Ok(())
}
