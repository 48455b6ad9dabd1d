//! Who left and may not have ended: the next view says it, so that those who join know it whoever dies then.

use super::decide::{OVER, States, is_over};
use super::former::Former;
use super::{Bug, Consensus};
use crate::{Cause, NODES_MAX, UNPROVEN_MAX};
use pils::NodeInstance;
use std::collections::BTreeSet;

impl Consensus {
    /// Whom a fresh view that follows `former` names; and of whom it says that they are over, because their node has come back without them.
    /// `None`: more than it may name.
    ///
    /// Each member of a view knows of all who left until then: it was told by that view, or by those before. So where a member of
    /// the former view goes on, its word is enough, and is the newest. Where none does, whatever anybody here was told counts.
    pub(super) fn unproven_of(
        &self,
        states: &States,
        former: Option<&Former>,
    ) -> Option<(Vec<NodeInstance>, Vec<Cause>)> {
        if !self.config.names_unproven || self.is_sabotaged(Bug::ForgetsUnproven) {
            return Some((Vec::new(), Vec::new()));
        }
        let number = former.filter(|f| !f.only_recorded).map(|f| f.number);
        let goes_on = |active| number.is_some() && active == number;
        let reports = || states.values().map(|(state, _)| state);
        let remembered = reports().any(|state| goes_on(state.active));
        let told = || reports().filter(|state| !remembered || goes_on(state.active));
        if told().any(|state| state.unproven.len() > UNPROVEN_MAX) {
            return None;
        }
        let mut named: BTreeSet<NodeInstance> =
            told().flat_map(|state| state.unproven.iter().copied()).collect();
        let ended: BTreeSet<NodeInstance> = reports().flat_map(|state| state.dead.iter().copied()).collect();
        let previous = || former.iter().flat_map(|f| &f.members).map(|m| m.instance);
        named.retain(|x| !states.contains_key(x) && !ended.contains(x) && previous().all(|m| m != *x));
        let over = || named.iter().copied().filter(|x| is_over(states, *x));
        // Causes are bounded; who is not told of now is so by the next view.
        let causes: Vec<Cause> =
            over().take(NODES_MAX / 2).map(|instance| Cause { instance, reason: OVER }).collect();
        named.retain(|x| causes.iter().all(|c| c.instance != *x));
        let leaving = previous().filter(|x| !states.contains_key(x)).count();
        if named.len() + leaving > UNPROVEN_MAX / 2 {
            tracing::warn!(node = %self.local, number = named.len() + leaving, "many left and are not proven to have ended: fence them");
        }
        (named.len() + leaving <= UNPROVEN_MAX).then(|| (named.into_iter().collect(), causes))
    }
}
