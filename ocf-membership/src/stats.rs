/// Why a remote message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// It did not parse.
    Malformed,
    /// The sender is not a configured node.
    UnknownNode,
    /// It belongs to a ballot that is over.
    StaleBallot,
    /// It names a view that is not the current one.
    StaleView,
    /// The sender is not entitled to send it.
    NotEntitled,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Malformed, Self::UnknownNode, Self::StaleBallot, Self::StaleView, Self::NotEntitled];
}

/// Counters since the start of this node. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Ballots this node started.
    pub ballots_started: u64,
    /// Ballots of this node that a higher one overtook.
    pub ballots_overtaken: u64,
    /// Ballots of this node that ended because a node did not answer in time.
    pub ballots_unanswered: u64,
    /// Ballots of this node that found no right to form a primary.
    pub ballots_ineligible: u64,
    /// Even splits in which this node asked the tie-breaker, or for fencing.
    pub ties_asked: u64,
    /// Even splits in which this node was allowed to go on.
    pub ties_won: u64,
    /// Proposals of others (or of an earlier ballot) that this node completed as coordinator.
    pub proposals_adopted: u64,
    /// Promises given.
    pub promises: u64,
    /// Views installed.
    pub views_installed: u64,
    /// Times this node left the primary without what it had.
    pub views_lost: u64,
    /// Times this node gave up waiting for a quorum, and kept what it had.
    pub dormancies: u64,
    /// Times the lease ran out, or the node distrusted itself.
    pub suspensions: u64,
    /// Times this node noticed that it had not run for more than half a lease.
    pub stalls: u64,
    /// Records that could not be written.
    pub persist_failures: u64,
    /// Messages handled.
    pub messages: u64,
    /// Dropped messages, by [`DropReason::ALL`].
    dropped: [u64; 5],
}

impl Stats {
    /// Messages dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[slot(reason)]
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        let counter = &mut self.dropped[slot(reason)];
        *counter = counter.wrapping_add(1);
    }
}

fn slot(reason: DropReason) -> usize {
    DropReason::ALL.iter().position(|r| *r == reason).expect("every reason is listed")
}
