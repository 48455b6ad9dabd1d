//! Votes that change while the cluster runs: by order, or because nodes have been away for long.

use super::{Consensus, Timer};
use crate::quorum::{VoteConfig, total_votes};
use crate::{Config, Durability, Event, NodeVotes, Standing, VotesError};
use core::time::Duration;
use pils::{Instant, NodeInstance};

/// Of votes whose view has no number yet.
pub(super) const NEXT_REVISION: u64 = u64::MAX;
/// How long a change is tried before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A change of votes that this node asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    nodes: Vec<NodeVotes>,
    until: Instant,
    /// Told of if it fails: somebody ordered it.
    ordered: bool,
}

/// The votes with which a half goes on that was allowed to: itself is a quorum.
pub(super) fn halved(votes: &VoteConfig) -> VoteConfig {
    VoteConfig { quorum: total_votes(&votes.nodes) / 2, ..votes.clone() }
}

/// Notes what was in force before, if it is something else.
pub(super) fn with_before(votes: VoteConfig, former: Option<&VoteConfig>) -> VoteConfig {
    let before = former.filter(|former| !former.counts_like(&votes)).map(|former| {
        let mut before = former.clone();
        before.before = None;
        Box::new(before)
    });
    VoteConfig { before, ..votes }
}

impl Consensus {
    /// The votes in force after a view that had `former`: those, unless this node's own configuration is not older.
    pub(super) fn in_force(&self, former: Option<&VoteConfig>) -> VoteConfig {
        match former {
            Some(former) if former.revision > self.configured.revision => former.whole(),
            _ => self.configured.clone(),
        }
    }

    /// Changes the votes of nodes, once, while the cluster runs: the next view brings them, to all members at once, and
    /// [`Event::VotesChanged`] tells it; [`Event::VotesNotChanged`] if they could not be changed within 30 s. They outlive
    /// restarts, and count more than the nodes' configurations until one of those says a higher
    /// [`Config::votes_revision`]. `nodes` are all configured nodes, in any order; one with no votes is a member that never decides,
    /// so nodes may be listed from the start and given votes later.
    ///
    /// # Errors
    /// See [`VotesError`]; nothing has changed then.
    pub fn set_votes(&mut self, now: Instant, nodes: &[NodeVotes]) -> Result<(), VotesError> {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        let same_nodes = nodes.iter().map(|n| n.node).eq(self.configured.nodes.iter().map(|n| n.node));
        if !same_nodes {
            return Err(VotesError::OtherNodes);
        }
        let asked = Config { nodes: nodes.clone(), ..self.config.clone() };
        asked.check().map_err(VotesError::Config)?;
        if self.config.durability == Durability::Volatile {
            return Err(VotesError::Volatile);
        }
        if !self.is_active(now) {
            return Err(VotesError::NotPrimary);
        }
        if self.wanted.as_ref().is_some_and(|w| w.ordered) {
            return Err(VotesError::Busy);
        }
        let members = self.view().map(|v| v.members.iter().map(|m| m.instance).collect::<Vec<_>>());
        let Some(votes) = VoteConfig::of(&*self.config.policy, &nodes, NEXT_REVISION) else {
            return Err(VotesError::NoQuorum);
        };
        if self.standing_in(&votes, &members.unwrap_or_default()) != Standing::Quorum {
            return Err(VotesError::NoQuorum);
        }
        if !votes.counts_like(&self.votes) {
            self.wanted = Some(Wanted { nodes, until: now + PATIENCE, ordered: true });
            self.timers.set(Timer::Votes, now + PATIENCE);
            self.dirty = true;
        }
        self.settle(now);
        Ok(())
    }

    /// What this node asks its peers to change to.
    pub(super) fn wanted_votes(&self) -> Option<Vec<NodeVotes>> {
        self.wanted.as_ref().map(|w| w.nodes.clone())
    }

    /// The votes that somebody among `candidates` wants instead of `in_force`, if they would be a quorum of those too.
    pub(super) fn next_votes(
        &self,
        in_force: &VoteConfig,
        candidates: &[NodeInstance],
    ) -> Option<VoteConfig> {
        let own = self.wanted.as_ref().map(|w| &w.nodes);
        let others = candidates.iter().filter_map(|c| self.statuses.get(c)?.wanted.as_ref());
        own.into_iter().chain(others).find_map(|nodes| {
            let ours = self.configured.nodes.iter().map(|n| n.node);
            let votes = VoteConfig::of(&*self.config.policy, nodes, NEXT_REVISION)
                .filter(|_| nodes.iter().map(|n| n.node).eq(ours))
                .filter(|votes| !votes.counts_like(in_force))?;
            (self.standing_in(&votes, candidates) == Standing::Quorum).then_some(votes)
        })
    }

    /// A view was agreed: the votes that it brought count from now on.
    pub(super) fn take_votes(&mut self, now: Instant) {
        let Some((_, votes)) = &self.chosen else { return };
        let votes = self.in_force(Some(votes));
        if votes != self.votes {
            let news = votes.revision != self.votes.revision;
            self.votes = votes;
            if news {
                let VoteConfig { revision, nodes, quorum, .. } = self.votes.clone();
                self.event(Event::VotesChanged { revision, votes: nodes, quorum });
            }
        }
        let policy = &*self.config.policy;
        self.wanted.take_if(|wanted| {
            VoteConfig::of(policy, &wanted.nodes, NEXT_REVISION).is_none_or(|v| v.counts_like(&self.votes))
        });
        self.rest_votes(now);
    }

    /// Learns from a peer which votes are in force, so that this node does not take a few for enough, nor wait for too many.
    /// What is agreed rests on what views say, not on this. Votes of a number that this node knows to be agreed without them were
    /// refuted.
    pub(super) fn hear_votes(&mut self, votes: &VoteConfig) {
        let agreed = self.chosen.as_ref().map_or(0, |(view, _)| view.number.0);
        if votes.revision > agreed.max(self.votes.revision).max(self.configured.revision) {
            self.votes = votes.whole();
            self.dirty = true;
        }
    }

    /// Waits until the members have stayed the same for long enough, or an order is out of date.
    fn rest_votes(&mut self, now: Instant) {
        match (&self.wanted, self.config.last_man_standing) {
            (Some(wanted), _) => self.timers.set(Timer::Votes, wanted.until),
            (None, Some(window)) => self.timers.set(Timer::Votes, now + window),
            (None, None) => self.timers.stop(Timer::Votes),
        }
    }

    pub(super) fn on_votes_timer(&mut self, now: Instant) {
        if let Some(old) = self.wanted.take_if(|w| w.until <= now) {
            self.dirty = true;
            if old.ordered {
                self.event(Event::VotesNotChanged { votes: old.nodes });
            }
        } else if self.wanted.is_none() && self.is_active(now) {
            self.count_the_present(now);
        }
        self.rest_votes(now);
    }

    /// Last man standing: who has been away for long has no votes, who is back has its own again.
    fn count_the_present(&mut self, now: Instant) {
        let Some(view) = self.view() else { return };
        let here = |n: &NodeVotes| view.members.iter().any(|m| m.instance.node == n.node);
        let nodes = self.config.sorted_nodes().into_iter();
        let nodes: Vec<_> =
            nodes.map(|n| NodeVotes { votes: if here(&n) { n.votes } else { 0 }, ..n }).collect();
        let members: Vec<NodeInstance> = view.members.iter().map(|m| m.instance).collect();
        let votes = VoteConfig::of(&*self.config.policy, &nodes, NEXT_REVISION);
        let better =
            |v: &VoteConfig| !v.counts_like(&self.votes) && self.standing_in(v, &members) == Standing::Quorum;
        if votes.as_ref().is_some_and(better) {
            self.wanted = Some(Wanted { nodes, until: now + PATIENCE, ordered: false });
            self.dirty = true;
        }
    }
}
