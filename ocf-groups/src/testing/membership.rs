//! V11: the members of a group are a function of the ordered prefix: whoever is told of a change at a position is told
//! the same.

use super::{History, Violation};
use crate::Event;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let mut seen = BTreeMap::new();
    for (instance, log) in &history.logs {
        for event in log.events() {
            let Event::Membership { group, position, members, joined, left } = event else { continue };
            let first = seen.entry((group, *position)).or_insert((members, joined, left));
            if *first != (members, joined, left) {
                let what =
                    format!("{instance} sees {members:?} in {group} at {position}, others {:?}", first.0);
                return Err(Violation::new("V11", what));
            }
        }
    }
    Ok(())
}
