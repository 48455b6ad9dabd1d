//! Groups that need a quorum.

use super::{Rules, Scene};
use crate::state::{Node, State};
use crate::{Blocked, Config, GroupConfig, QuorumConfig, QuorumLoss};
use std::sync::Arc;

/// How many of the nodes that count for a quorum are members, and not proven dead. O(members x nodes of the quorum).
pub(crate) fn members_of(quorum: &QuorumConfig, state: &State) -> u32 {
    let there = state.living().filter(|(i, _)| quorum.counts(i.node)).count();
    u32::try_from(there).unwrap_or(u32::MAX)
}

/// A quorum that is down.
#[derive(Clone, Copy)]
pub(super) struct Lack<'a> {
    quorum: &'a QuorumConfig,
    members: u32,
}

impl<'a> Lack<'a> {
    /// The quorum that this group needs, if it is down.
    pub(super) fn of(group: &GroupConfig, config: &'a Config, state: &State, rules: Rules) -> Option<Self> {
        let quorum = config.quorum(group.quorum.as_ref()?)?;
        let members = members_of(quorum, state);
        (members < quorum.wants() && !rules.ignore_quorum).then_some(Self { quorum, members })
    }

    fn keeps(&self) -> bool {
        self.quorum.on_loss == QuorumLoss::Keep
    }
}

impl Scene<'_> {
    /// What runs has to be stopped, because its quorum is down.
    pub(super) fn has_to_go(&self) -> bool {
        self.lack.is_some_and(|lack| !lack.keeps())
    }

    /// What runs stays as it is, because its quorum is down, and nothing else is begun.
    pub(super) fn stays(&self) -> bool {
        self.lack.is_some_and(|lack| lack.keeps())
    }

    /// True if what is here of the group stays here whatever is better elsewhere.
    pub(super) fn stays_on(&self, node: &Node) -> bool {
        self.stays() && !self.is_clear(node)
    }

    /// Why it is not started, if its quorum is down.
    pub(super) fn lacks_quorum(&self) -> Option<Blocked> {
        let lack = self.lack?;
        Some(Blocked::Quorum {
            quorum: Arc::from(lack.quorum.name.as_str()),
            wants: lack.quorum.wants(),
            of: lack.quorum.of(),
            members: lack.members,
            keeps: lack.keeps(),
        })
    }
}
