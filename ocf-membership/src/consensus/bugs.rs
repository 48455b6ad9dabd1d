//! Bugs that tests put back.

use super::Consensus;

/// A protocol bug to put back, so that a test can show that it would be noticed.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// Install a view without waiting for the leases of those it excludes.
    NoLeaseWait,
    /// Propose a fresh view although an accepted one is reported.
    IgnoreAccepted,
    /// Form a primary though the memory rule forbids it.
    NoMemoryRule,
    /// Go on without a confirmed lease.
    NoLeaseExpiry,
    /// Go on with half of the votes, and ask nobody.
    NoTieBreak,
    /// Adopt a proposal with other votes though it has no quorum of those before.
    NoFormerVotes,
    /// Go on without limit as a quorum alone, though another view was accepted and others may be a quorum of that.
    AloneForGood,
    /// Adopt a proposal though a later one, itself not agreed, followed another view.
    AdoptsOvertaken,
    /// Tell by its members alone which view a proposal followed, not by its number and votes.
    ComparesMembers,
    /// Follow what a refuted proposal tells of, and count by the newest view that is known to be agreed.
    CountsByAgreed,
    /// Follow votes that may not have been agreed, and not say what was in force before them.
    ForgetsBefore,
    /// Carry out an order that was given for an older set of nodes.
    NoBaseRevision,
    /// Remove a node from the set while it is a member.
    RemovesMembers,
    /// Let nodes into a view that are not in the set.
    LetsStrangersIn,
    /// Propose views that do not say who left before and may not have ended.
    ForgetsUnproven,
    /// Forget, with each change of the set, how nodes are reached that were added before.
    ForgetsContacts,
    /// Propose each view at the level that its members have in common, whatever the one before had.
    FallsBack,
    /// Take members that are slow to say that they are in a new view for some that want to join.
    AsksLateAgain,
}

/// Where a sabotaged node behaves differently.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bug {
    LeaseWait,
    Accepted,
    MemoryRule,
    LeaseExpiry,
    Tie,
    FormerVotes,
    AloneForGood,
    Overtaken,
    ComparesMembers,
    CountsByAgreed,
    ForgetsBefore,
    BaseRevision,
    RemovesMembers,
    LetsStrangersIn,
    ForgetsUnproven,
    ForgetsContacts,
    FallsBack,
    AsksLateAgain,
}

impl Consensus {
    /// Puts a protocol bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, sabotage: Sabotage) {
        self.sabotage = Some(sabotage);
    }

    pub(super) const fn is_sabotaged(&self, bug: Bug) -> bool {
        #[cfg(feature = "testing")]
        return matches!(
            (self.sabotage, bug),
            (Some(Sabotage::NoLeaseWait), Bug::LeaseWait)
                | (Some(Sabotage::IgnoreAccepted), Bug::Accepted)
                | (Some(Sabotage::NoMemoryRule), Bug::MemoryRule)
                | (Some(Sabotage::NoLeaseExpiry), Bug::LeaseExpiry)
                | (Some(Sabotage::NoTieBreak), Bug::Tie)
                | (Some(Sabotage::NoFormerVotes), Bug::FormerVotes)
                | (Some(Sabotage::AloneForGood), Bug::AloneForGood)
                | (Some(Sabotage::AdoptsOvertaken), Bug::Overtaken)
                | (Some(Sabotage::ComparesMembers), Bug::ComparesMembers)
                | (Some(Sabotage::CountsByAgreed), Bug::CountsByAgreed)
                | (Some(Sabotage::ForgetsBefore), Bug::ForgetsBefore)
                | (Some(Sabotage::NoBaseRevision), Bug::BaseRevision)
                | (Some(Sabotage::RemovesMembers), Bug::RemovesMembers)
                | (Some(Sabotage::LetsStrangersIn), Bug::LetsStrangersIn)
                | (Some(Sabotage::ForgetsUnproven), Bug::ForgetsUnproven)
                | (Some(Sabotage::ForgetsContacts), Bug::ForgetsContacts)
                | (Some(Sabotage::FallsBack), Bug::FallsBack)
                | (Some(Sabotage::AsksLateAgain), Bug::AsksLateAgain)
        );
        #[cfg(not(feature = "testing"))]
        {
            let _: Bug = bug;
            false
        }
    }
}
