//! Votes that change while the cluster runs: by order, or because nodes have been away for long.

use super::nodes::Change;
use super::{Bug, Consensus, Timer};
use crate::quorum::{VoteConfig, total_votes};
use crate::wire::Wish;
use crate::{Config, Durability, Event, Member, NodeVotes, Standing, VotesError};
use core::time::Duration;
use pils::{Instant, NodeId, NodeInstance};

/// Of votes whose view has no number yet.
pub(super) const NEXT_REVISION: u64 = u64::MAX;
/// How long a change is tried before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A change of votes that this node asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    change: Change,
    /// The revision of what it changes: it is carried out on that only.
    base: u64,
    /// What it makes of that.
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
    /// [`Config::votes_revision`]. `nodes` are all nodes of the set, in any order; one with no votes is a member that never decides.
    ///
    /// # Errors
    /// See [`VotesError`]; nothing has changed then.
    pub fn set_votes(&mut self, now: Instant, nodes: &[NodeVotes]) -> Result<(), VotesError> {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        if !self.votes.same_nodes(&nodes) {
            return Err(VotesError::OtherNodes);
        }
        self.order(now, Change::Votes, nodes)
    }

    /// Takes an order that makes `nodes` of what is in force, if it could be carried out now.
    pub(super) fn order(
        &mut self,
        now: Instant,
        change: Change,
        nodes: Vec<NodeVotes>,
    ) -> Result<(), VotesError> {
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
            let base = self.votes.revision;
            self.wanted = Some(Wanted { change, base, nodes, until: now + PATIENCE, ordered: true });
            self.timers.set(Timer::Votes, now + PATIENCE);
            self.dirty = true;
        }
        self.settle(now);
        Ok(())
    }

    /// What this node asks its peers to change to.
    pub(super) fn wanted_votes(&self) -> Option<Wish> {
        let wish = |w: &Wanted| Wish { base: w.base, nodes: w.nodes.clone(), contact: w.change.contact() };
        self.wanted.as_ref().map(wish)
    }

    /// The votes that somebody among `candidates` wants instead of `in_force`, if they would be a quorum of those too, and nobody
    /// of them or of the last primary's `members` is left out.
    pub(super) fn next_votes(
        &self,
        in_force: &VoteConfig,
        candidates: &[NodeInstance],
        members: &[Member],
    ) -> Option<VoteConfig> {
        let others = candidates.iter().filter_map(|c| self.statuses.get(c)?.wanted.clone());
        let forgotten = VoteConfig::default();
        let known = if self.is_sabotaged(Bug::ForgetsContacts) { &forgotten } else { in_force };
        let current = |base: u64| base == in_force.revision || self.is_sabotaged(Bug::BaseRevision);
        self.wanted_votes().into_iter().chain(others).filter(|wish| current(wish.base)).find_map(|wish| {
            let votes = VoteConfig::of(&*self.config.policy, &wish.nodes, NEXT_REVISION)
                .filter(|votes| self.leaves_nobody(votes, candidates, members))
                .filter(|votes| !votes.counts_like(in_force))?
                .with_contacts(known, wish.contact.as_ref());
            (self.standing_in(&votes, candidates) == Standing::Quorum).then_some(votes)
        })
    }

    /// A view was agreed: the votes that it brought count from now on.
    pub(super) fn take_votes(&mut self, now: Instant) {
        let Some((_, votes)) = &self.chosen else { return };
        let votes = self.in_force(Some(votes));
        if votes != self.votes {
            self.replace_votes(now, votes);
        }
        // It may have known them from a record or from hearsay, before they were agreed.
        if self.votes.revision != self.told_votes {
            let VoteConfig { revision, nodes, quorum, .. } = self.votes.clone();
            self.told_votes = revision;
            self.event(Event::VotesChanged { revision, votes: nodes, quorum });
        }
        self.renew_order();
        self.rest_votes(now);
    }

    /// What this node wants, for the votes in force now; nothing if they are that already, or it makes no sense any more.
    fn renew_order(&mut self) {
        let Some(mut wanted) = self.wanted.take() else { return };
        let done = match &wanted.change {
            Change::Votes => VoteConfig::of(&*self.config.policy, &wanted.nodes, NEXT_REVISION)
                .is_none_or(|v| v.counts_like(&self.votes)),
            Change::Add(node, _) => self.votes.lists(node.node),
            Change::Remove(node) => !self.votes.lists(*node),
        };
        if done {
            return;
        }
        if self.is_sabotaged(Bug::BaseRevision) {
            self.wanted = Some(wanted);
            return;
        }
        match wanted.change.applied(&self.votes, &wanted.nodes) {
            Some(nodes) => {
                (wanted.base, wanted.nodes) = (self.votes.revision, nodes);
                self.wanted = Some(wanted);
            }
            None => self.order_failed(wanted),
        }
    }

    /// A node that was to be removed is back.
    pub(super) fn give_up_removing(&mut self, node: NodeId) {
        if let Some(wanted) = self.wanted.take_if(|w| w.change == Change::Remove(node)) {
            self.order_failed(wanted);
        }
    }

    fn order_failed(&mut self, old: Wanted) {
        self.dirty = true;
        if old.ordered {
            self.event(Event::VotesNotChanged { votes: old.nodes });
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
            self.order_failed(old);
        } else if self.wanted.is_none() && self.is_active(now) {
            self.count_the_present(now);
        }
        self.rest_votes(now);
    }

    /// Last man standing: who has been away for long has no votes, who is back has its own again.
    fn count_the_present(&mut self, now: Instant) {
        let Some(view) = self.view() else { return };
        let here = |n: &NodeVotes| view.members.iter().any(|m| m.instance.node == n.node);
        let configured = |n: &NodeVotes| self.config.nodes.iter().find(|c| c.node == n.node).copied();
        // One that was added later keeps the votes it was given.
        let nodes = self.votes.nodes.iter().map(|n| match configured(n) {
            Some(n) => NodeVotes { votes: if here(&n) { n.votes } else { 0 }, ..n },
            None => *n,
        });
        let nodes: Vec<NodeVotes> = nodes.collect();
        let members: Vec<NodeInstance> = view.members.iter().map(|m| m.instance).collect();
        let votes = VoteConfig::of(&*self.config.policy, &nodes, NEXT_REVISION);
        let better =
            |v: &VoteConfig| !v.counts_like(&self.votes) && self.standing_in(v, &members) == Standing::Quorum;
        if votes.as_ref().is_some_and(better) {
            let (change, base) = (Change::Votes, self.votes.revision);
            self.wanted = Some(Wanted { change, base, nodes, until: now + PATIENCE, ordered: false });
            self.dirty = true;
        }
    }
}
