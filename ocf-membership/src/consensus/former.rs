//! What was proposed and may have been agreed, and what a fresh proposal follows.

use super::decide::States;
use super::{Bug, Consensus};
use crate::quorum::VoteConfig;
use crate::{Ballot, ChangeReason, Member, View, ViewNumber};
use pils::NodeInstance;

/// Views that a forgotten quorum may have agreed on.
pub(super) const FORGOTTEN_VIEWS: u64 = 1 << 16;

/// A proposal that some candidate, or an earlier life of its node, accepted and that may have been agreed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) number: ViewNumber,
    /// The ballot it was accepted in.
    pub(super) ballot: Ballot,
    candidates: Vec<NodeInstance>,
    pub(super) votes: VoteConfig,
    pub(super) view: View,
}

/// What the newest primary was, as far as the candidates know.
#[derive(Clone, Debug)]
pub(super) struct Former {
    pub(super) number: ViewNumber,
    pub(super) members: Vec<Member>,
    pub(super) votes: VoteConfig,
    /// What was in force before, if those votes came with a change that may not have been agreed.
    pub(super) before: Option<VoteConfig>,
    /// True if nobody here was in it: what its members had is lost.
    pub(super) only_recorded: bool,
}

impl Entry {
    /// True if it has the votes of what it followed, which may not have been agreed with them, and so names those before as well.
    fn carries_on(&self) -> bool {
        let says = self.view.causes.iter().any(|c| c.reason == ChangeReason::VotesChanged);
        says && self.votes.before.is_some() && self.votes.revision != self.number.0
    }

    /// The votes of what it followed.
    fn followed(&self) -> &VoteConfig {
        let before = self.votes.before.as_deref().filter(|_| !self.carries_on());
        before.unwrap_or(&self.votes)
    }

    /// True if `other` may be what it followed, as far as numbers, members and votes tell.
    fn may_follow(&self, other: &Self) -> bool {
        let next = [1, FORGOTTEN_VIEWS].contains(&(self.number.0 - other.number.0));
        next && self.view.previous == other.view.members && self.followed().counts_like(&other.votes)
    }
}

impl Consensus {
    /// True if a later proposal, itself not agreed, followed something else: whoever made it had a quorum, and knew what was agreed before.
    pub(super) fn is_overtaken(&self, entry: &Entry, refuted: &[Entry]) -> bool {
        let follows = |later: &Entry| {
            later.may_follow(entry)
                || self.is_sabotaged(Bug::ComparesMembers) && later.view.previous == entry.view.members
        };
        let overtakes = |later: &Entry| later.number > entry.number && !follows(later);
        !self.is_sabotaged(Bug::Overtaken) && refuted.iter().any(overtakes)
    }

    /// Names what was in force before in `votes` that follow a change which may not have been agreed. True if there is one.
    pub(super) fn carries_on(&self, former: &Former, votes: &mut VoteConfig) -> bool {
        let before = former.before.as_ref().filter(|before| !before.counts_like(votes));
        let before = before.filter(|_| votes.before.is_none() && !self.is_sabotaged(Bug::ForgetsBefore));
        votes.before = votes
            .before
            .take()
            .or_else(|| before.map(|b| Box::new(VoteConfig { before: None, ..b.clone() })));
        before.is_some()
    }
}

/// What was accepted, or recorded by an earlier life, beyond `agreed`.
pub(super) fn entries(states: &States, agreed: ViewNumber) -> Vec<Entry> {
    let accepted = states.values().filter_map(|(s, _)| s.accepted.as_ref()).map(|a| Entry {
        number: a.proposal.view.number,
        ballot: a.ballot,
        candidates: a.candidates.clone(),
        votes: a.votes.clone(),
        view: a.proposal.view.clone(),
    });
    let recorded = states.values().filter_map(|(s, _)| s.record.as_ref()).map(|r| Entry {
        number: r.view.number,
        ballot: r.ballot,
        candidates: r.candidates.clone(),
        votes: r.votes.clone(),
        view: r.view.clone(),
    });
    accepted.chain(recorded).filter(|e| e.number > agreed).collect()
}

/// True if the proposal was certainly not agreed, and never will be.
///
/// It needs every candidate of its ballot. If one of them is here as the same instance and has not accepted it, it
/// never will: it has promised more. That settles it only for the ballot in which the value was proposed first; a
/// value that was proposed again may have been agreed in between.
pub(super) fn is_refuted(entry: &Entry, states: &States) -> bool {
    let missed = |instance: &NodeInstance| {
        let Some((state, _)) = states.get(instance) else { return false };
        let accepted = state.accepted.as_ref().map(|a| (a.proposal.view.number, a.ballot));
        let chosen = state.chosen.as_ref().is_some_and(|(v, _)| v.number >= entry.number);
        !chosen && accepted.is_none_or(|at| at < (entry.number, entry.ballot))
    };
    entry.ballot == entry.view.ballot && entry.candidates.iter().any(missed)
}

/// What a fresh proposal follows, newest first: a recorded view that may have been agreed, what came before proposals
/// that were not, and the view that certainly was.
pub(super) fn former(
    top: Option<Entry>,
    refuted: Vec<Entry>,
    agreed: Option<(View, VoteConfig)>,
) -> Vec<Former> {
    let before = |e: &Entry| Former {
        number: ViewNumber(e.number.0 - 1),
        members: e.view.previous.clone(),
        votes: e.followed().clone(),
        before: if e.carries_on() { e.votes.before.as_deref().cloned() } else { None },
        only_recorded: true,
    };
    let recorded = top.iter().map(|e| Former {
        number: e.number,
        members: e.view.members.clone(),
        votes: e.votes.clone(),
        before: e.votes.before.as_deref().cloned(),
        only_recorded: true,
    });
    // A proposal that followed the certain view tells nothing new.
    let certain = agreed.as_ref().map(|(view, _)| view.members.clone());
    let news = |e: &&Entry| certain.as_ref() != Some(&e.view.previous);
    let before_those: Vec<Former> = top.iter().chain(&refuted).filter(news).map(before).collect();
    let known = agreed.map(|(view, votes)| Former {
        number: view.number,
        members: view.members,
        votes,
        before: None,
        only_recorded: false,
    });
    let mut all: Vec<Former> = known.into_iter().chain(recorded).chain(before_those).collect();
    // Stable: of two accounts of one view, the certain one.
    all.sort_by_key(|f| core::cmp::Reverse(f.number));
    all.dedup_by_key(|f| f.number);
    all.retain(|f| f.number.0 > 0);
    all
}

/// The memory rule: what a quorum of `former` held is known to some candidate, or its holders are certainly gone.
pub(super) fn remembers(former: &Former, states: &States, candidates: &[NodeInstance]) -> bool {
    let knows = |m: &&Member| {
        let state = states.get(&m.instance).map(|(s, _)| s);
        state.is_some_and(|s| s.synced && s.active == Some(former.number))
    };
    let forgot = |m: &&Member| match states.get(&m.instance) {
        Some((state, _)) => state.active != Some(former.number),
        None => candidates.iter().any(|c| c.node == m.instance.node),
    };
    let sum =
        |keep: &dyn Fn(&&Member) -> bool| former.members.iter().filter(keep).map(|m| m.votes).sum::<u32>();
    let (all, quorum) = (sum(&|_| true), former.votes.quorum);
    let everybody = former.members.iter().all(|m| candidates.iter().any(|c| c.node == m.instance.node));
    everybody || sum(&knows) + quorum > all || sum(&forgot) >= quorum
}
