//! V10: the state a joiner gets, and what it delivers since, make the state the others have at each point.

use super::{Entry, History, Violation};
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    let mut seen = BTreeMap::new();
    for (instance, log) in &history.logs {
        for entry in &log.entries {
            let Entry::Digest { group, position, digest, .. } = entry else { continue };
            let first = seen.entry((group, *position)).or_insert((*digest, *instance));
            if first.0 != *digest {
                let what = format!("{instance} and {} differ in {group} at {position}", first.1);
                return Err(Violation::new("V10", what));
            }
        }
    }
    Ok(())
}
