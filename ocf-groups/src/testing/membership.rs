//! V11: the members of a group are a function of the ordered prefix: those who go from one view into the next together, or
//! are in the last one, are told the same at each position of it. Whoever is left behind may have been told of a change that
//! is void for the others, as with every agreed message; then what it is told of later is another prefix.

use super::{History, Violation};
use crate::Event;
use ocf_membership::ViewNumber;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let mut seen = BTreeMap::new();
    for (instance, log) in &history.logs {
        let next: BTreeMap<ViewNumber, ViewNumber> =
            log.transitions(*instance).into_iter().map(|(from, to)| (from, to.number)).collect();
        let last = log.views().last().map(|v| v.number);
        for event in log.events() {
            let Event::Membership { group, position, members, joined, left } = event else { continue };
            let next = next.get(&position.view).copied();
            if next.is_none() && (log.dead || last != Some(position.view)) {
                continue;
            }
            let first = seen.entry((group, *position, next)).or_insert((members, joined, left));
            if *first != (members, joined, left) {
                let what =
                    format!("{instance} sees {members:?} in {group} at {position}, others {:?}", first.0);
                return Err(Violation::new("V11", what));
            }
        }
    }
    Ok(())
}
