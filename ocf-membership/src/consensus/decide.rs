//! What a coordinator proposes, once every candidate has answered.

use super::former::{Entry, FORGOTTEN_VIEWS, Former, entries, former, is_refuted, remembers};
use super::votes::{NEXT_REVISION, halved, with_before};
use super::{AcceptMessage, Bug, Consensus};
use crate::lease::binding_time;
use crate::quorum::VoteConfig;
use crate::wire::{Known, Message, StateReport};
use crate::{Ballot, Cause, ChangeReason, Claim, Member, Proposal, Standing, View, ViewNumber};
use bytes::Bytes;
use core::time::Duration;
use ocf_comm::DownReason;
use pils::{Instant, NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

pub(super) type States = BTreeMap<NodeInstance, (StateReport, Instant)>;

/// The votes that matter for a proposal.
struct Demands {
    /// What counts now.
    in_force: VoteConfig,
    /// What it adopts has, or what it follows.
    former: Option<VoteConfig>,
    /// Everything of which a quorum must be here.
    all: Vec<VoteConfig>,
}

impl Consensus {
    /// Every candidate has answered: completes, or proposes.
    pub(super) fn decide(&mut self, now: Instant) {
        let Some(round) = &self.round else { return };
        let (states, candidates) = (round.states.clone(), round.candidates.clone());
        let newest = states.values().filter_map(|(s, _)| s.chosen.as_ref()).max_by_key(|(v, _)| v.number);
        let newest = newest.cloned();
        if newest.as_ref().is_some_and(|(view, _)| self.bring_up(&states, view)) {
            self.restart_round(now);
            return;
        }
        let agreed = newest.as_ref().map_or(ViewNumber(0), |(view, _)| view.number);
        let (refuted, possible): (Vec<Entry>, Vec<Entry>) =
            entries(&states, agreed).into_iter().partition(|e| is_refuted(e, &states));
        let top = possible.into_iter().filter(|e| !self.is_overtaken(e, &refuted));
        let top = top.max_by_key(|e| (e.number, e.ballot));
        let top = top.filter(|_| !self.is_sabotaged(Bug::Accepted));
        // What a refuted proposal followed may be known from that alone, and had no higher level.
        let proposed = top.iter().chain(&refuted).map(|entry| entry.view.level);
        let in_force = newest.iter().map(|(view, _)| view.level).chain(proposed).max().unwrap_or(0);
        let adopted = top.as_ref().and_then(|top| whole_proposal(&states, top.view.ballot));
        let mut former =
            if adopted.is_none() { former(top.clone(), refuted, newest.clone()) } else { Vec::new() };
        let demands = self.demands(top.as_ref(), newest.as_ref(), former.first());
        let level = match self.next_level(in_force, &demands.in_force, &candidates) {
            Ok(level) => level,
            Err(level) => {
                self.demand_level(level);
                self.restart_round(now);
                return;
            }
        };
        let worth = |votes: &VoteConfig| self.worth(votes, counted_votes(votes, &states, &candidates));
        let standing = demands.all.iter().map(worth).min().unwrap_or(Standing::Short);
        if standing == Standing::Short {
            self.refuse_round(now, "the votes of those who remember are no quorum");
            return;
        }
        let tie = standing != Standing::Quorum;
        if let Some(accepted) = adopted {
            let view = &accepted.proposal.view;
            let members: Vec<Member> = view.members.iter().chain(&view.previous).copied().collect();
            if tie && !self.ask_tie(now, &states, (agreed, view.number), &members) {
                return;
            }
            self.stats.proposals_adopted = self.stats.proposals_adopted.wrapping_add(1);
            self.put_forward(now, &states, accepted.votes, accepted.proposal);
            return;
        }
        let forgotten = former.iter().any(|f| !remembers(f, &states, &candidates));
        if forgotten && !self.is_sabotaged(Bug::MemoryRule) {
            if !self.may_forget(now, &former, &candidates) {
                self.refuse_round(now, "too few of the last primary are here");
                return;
            }
            // Nobody goes on with what it has: it may be less than what a quorum had.
            former.iter_mut().for_each(|f| f.only_recorded = true);
        }
        let Some((unproven, over)) = self.unproven_of(&states, former.first()) else {
            self.refuse_round(now, "too many left and are not proven to have ended: fence them");
            return;
        };
        let (mut proposal, votes) = self.fresh(&states, former.first(), &demands, tie);
        proposal.view.unproven = unproven;
        proposal.view.level = level;
        proposal.view.causes.extend(over);
        proposal.view.causes.sort_by_key(|c| c.instance);
        let members: Vec<Member> = former.iter().flat_map(|f| f.members.iter().copied()).collect();
        if tie && !self.ask_tie(now, &states, (agreed, proposal.view.number), &members) {
            return;
        }
        let proposal = self.with_winner(proposal);
        self.put_forward(now, &states, votes, proposal);
    }

    /// True if the last primary has been waited for long enough, and a quorum of it is here, restarted or not: they drop
    /// what they have, rather than to wait for ever for a node that may never come.
    fn may_forget(&mut self, now: Instant, former: &[Former], candidates: &[NodeInstance]) -> bool {
        let Some(newest) = former.first() else { return false };
        let since = match self.forgetting {
            Some((number, since)) if number == newest.number => since,
            _ => {
                self.forgetting = Some((newest.number, now));
                now
            }
        };
        let here = |m: &&Member| candidates.iter().any(|c| c.node == m.instance.node);
        let enough =
            |f: &Former| f.members.iter().filter(here).map(|m| m.votes).sum::<u32>() >= f.votes.quorum;
        now.since(since) >= self.config.forget_after && former.iter().all(enough)
    }

    /// Asks whether this half may go on to `number` if `known` is the newest agreed view, and `members` may have formed a primary
    /// since. True if the answer is here already, and it may.
    fn ask_tie(
        &mut self,
        now: Instant,
        states: &States,
        (known, number): (ViewNumber, ViewNumber),
        members: &[Member],
    ) -> bool {
        let Some(round) = &self.round else { return false };
        let nodes: BTreeSet<NodeId> = round.candidates.iter().map(|c| c.node).collect();
        let absent: BTreeSet<NodeInstance> =
            members.iter().map(|m| m.instance).filter(|i| !nodes.contains(&i.node)).collect();
        let claim = Claim {
            ballot: round.ballot,
            number,
            known,
            nodes: nodes.into_iter().collect(),
            absent: absent.into_iter().collect(),
            hosts: self.reach.0,
        };
        self.tie_is_won(now, claim, |instance| has_ended(states, *instance))
    }

    /// Notes in a fresh proposal why a half may go on.
    fn with_winner(&self, mut proposal: Proposal) -> Proposal {
        if let Some(evidence) = self.round.as_ref().and_then(|r| r.won) {
            let cause = Cause { instance: self.local, reason: ChangeReason::TieWon(evidence) };
            proposal.view.causes.push(cause);
            proposal.view.causes.sort_by_key(|c| c.instance);
        }
        proposal
    }

    /// Completes the installation at members that accepted the newest view and were not told. True if there are any.
    fn bring_up(&mut self, states: &States, newest: &View) -> bool {
        let Some(round) = &self.round else { return false };
        let ballot = round.ballot;
        let known = Known { number: newest.number, value: newest.ballot, members: newest.members.clone() };
        let behind = |state: &StateReport| {
            let accepted = state.accepted.as_ref().is_some_and(|a| a.proposal.view.ballot == newest.ballot);
            accepted && state.chosen.as_ref().is_none_or(|(view, _)| view.number < newest.number)
        };
        let late: Vec<NodeInstance> =
            states.iter().filter(|(i, (s, _))| newest.contains(**i) && behind(s)).map(|(i, _)| *i).collect();
        for to in &late {
            self.send(*to, &Message::Install { ballot, known: known.clone() });
        }
        !late.is_empty()
    }

    fn put_forward(&mut self, now: Instant, states: &States, votes: VoteConfig, proposal: Proposal) {
        let Some(round) = &self.round else { return };
        let (ballot, candidates) = (round.ballot, round.candidates.clone());
        let install_at = self.leases_end(now, states, &proposal.view, &candidates);
        self.propose(now, AcceptMessage { ballot, candidates, votes, proposal }, install_at);
    }

    /// When the leases of all who are not in `view` have certainly ended.
    fn leases_end(&self, now: Instant, states: &States, view: &View, candidates: &[NodeInstance]) -> Instant {
        if self.is_sabotaged(Bug::LeaseWait) {
            return now;
        }
        let ended = |x: NodeInstance| has_ended(states, x);
        let binding = binding_time(self.config.lease);
        let since = |arrived: Instant, age: Duration| arrived + binding.saturating_sub(age);
        let mut end = now;
        let mut former: BTreeSet<NodeInstance> = view.previous.iter().map(|m| m.instance).collect();
        for (state, arrived) in states.values() {
            for (instance, age) in &state.acks {
                if !view.contains(*instance) && !ended(*instance) {
                    end = end.max(since(*arrived, *age));
                }
            }
            former.extend(state.chosen.iter().flat_map(|(v, _)| v.members.iter().map(|m| m.instance)));
            former.extend(state.record.iter().flat_map(|r| r.view.members.iter().map(|m| m.instance)));
        }
        let agreed = states.values().flat_map(|(s, _)| {
            s.chosen.iter().map(|(_, votes)| votes).chain(s.record.iter().map(|r| &r.votes))
        });
        // An earlier life of a candidate may have confirmed leases that nobody here knows of, until its end.
        let unknown = former.iter().any(|i| !view.contains(*i) && !ended(*i));
        let all = agreed.chain([&self.votes]).all(|votes| votes.all_present(candidates));
        if unknown || !all {
            for (state, arrived) in states.values() {
                end = end.max(since(*arrived, state.life));
            }
        }
        end
    }

    /// What these candidates must be a quorum of, to adopt `top`, or to follow `first`.
    fn demands(
        &self,
        top: Option<&Entry>,
        newest: Option<&(View, VoteConfig)>,
        first: Option<&Former>,
    ) -> Demands {
        let agreed = newest.map(|(_, votes)| votes);
        let proposed = top.map(|entry| &entry.votes).or(agreed);
        let first = first.filter(|_| !self.is_sabotaged(Bug::CountsByAgreed));
        let former = first.map(|f| &f.votes).or(proposed);
        let in_force = self.in_force(former);
        let mut all = vec![in_force.clone()];
        if !self.is_sabotaged(Bug::FormerVotes) {
            // Whoever may have agreed on something else had a quorum of one of these.
            let before = top.and_then(|entry| entry.votes.before.as_deref());
            let uncertain = first.and_then(|f| f.before.as_ref());
            all.extend([former, proposed, before, uncertain, agreed].into_iter().flatten().cloned());
            all.push(self.in_force(proposed));
        }
        Demands { in_force, former: former.cloned(), all }
    }

    /// The next view, and the votes that count from it on: all candidates, those of the former primary as what they were.
    fn fresh(
        &self,
        states: &States,
        former: Option<&Former>,
        demands: &Demands,
        tie: bool,
    ) -> (Proposal, VoteConfig) {
        let Some(round) = &self.round else { unreachable!("only a running ballot proposes") };
        // A change that may not have been agreed is carried on, and not changed.
        let next = former
            .filter(|f| !tie && f.before.is_none())
            .and_then(|f| self.next_votes(&demands.in_force, &round.candidates, &f.members));
        let mut votes = match next {
            Some(votes) => votes,
            None if tie => halved(&demands.in_force),
            None => demands.in_force.clone(),
        };
        votes = with_before(votes, demands.former.as_ref());
        let carried = former.is_some_and(|f| self.carries_on(f, &mut votes));
        let counting = demands.all.iter().filter(|_| !tie).chain([&votes]);
        let step = counting.map(|v| step(v, states, &round.candidates)).max().unwrap_or(1);
        let number = ViewNumber(former.map_or(1, |f| f.number.0.saturating_add(step)));
        let changed = votes.revision == NEXT_REVISION;
        if changed {
            votes.revision = number.0;
        }
        let continuing = |instance: NodeInstance| {
            let former = former.filter(|f| !f.only_recorded)?;
            let member = former.members.iter().find(|m| m.instance == instance)?;
            (states[&instance].0.active == Some(former.number)).then_some(*member)
        };
        let mut members: Vec<Member> = Vec::new();
        let mut upper: Vec<(NodeInstance, Bytes)> = Vec::new();
        // One that does not know yet that it was removed takes part, and is no member.
        let listed = |i: &&NodeInstance| votes.lists(i.node) || self.is_sabotaged(Bug::LetsStrangersIn);
        for instance in round.candidates.iter().filter(listed) {
            let joined = match continuing(*instance) {
                Some(member) => {
                    upper.push((*instance, states[instance].0.upper.clone()));
                    member.joined
                }
                None => number,
            };
            let votes = votes.votes(instance.node);
            members.push(Member { instance: *instance, joined, votes });
        }
        members.sort_unstable_by_key(|m| (m.joined, m.instance.node));
        let previous = former.map(|f| f.members.clone()).unwrap_or_default();
        let mut causes = self.causes(states, number, &members, &previous);
        if changed || carried {
            causes.push(Cause { instance: self.local, reason: ChangeReason::VotesChanged });
            causes.sort_by_key(|c| c.instance);
        }
        let (ballot, quorum) = (round.ballot, votes.quorum);
        let (level, unproven) = (1, Vec::new());
        let view = View { number, ballot, members, previous, causes, quorum, level, unproven };
        (Proposal { view, states: upper }, votes)
    }

    fn causes(
        &self,
        states: &States,
        number: ViewNumber,
        members: &[Member],
        previous: &[Member],
    ) -> Vec<Cause> {
        let joined = members.iter().filter(|m| m.joined == number).map(|m| m.instance);
        let mut causes: Vec<Cause> =
            joined.map(|instance| Cause { instance, reason: ChangeReason::Joined }).collect();
        let present = |i: NodeInstance| members.iter().any(|m| m.instance == i);
        for instance in previous.iter().map(|m| m.instance).filter(|i| !present(*i)) {
            let restarted = members.iter().any(|m| m.instance.node == instance.node);
            let reason = match (self.down.get(&instance), self.lag_of(instance)) {
                (Some(reason), _) if reason.is_proof_of_death() => ChangeReason::Down(*reason),
                _ if is_over(states, instance) => OVER,
                (Some(reason), _) => ChangeReason::Down(*reason),
                (None, Some(lag)) => ChangeReason::Evicted(lag),
                (None, None) if self.is_held_for_no_answer(instance) => ChangeReason::NoAnswer,
                (None, None) if restarted => ChangeReason::Down(DownReason::Superseded),
                (None, None) if self.is_seen(instance) => ChangeReason::PartlyConnected,
                (None, None) => ChangeReason::Down(DownReason::Silent { for_: Duration::ZERO }),
            };
            causes.push(Cause { instance, reason });
        }
        causes.sort_unstable_by_key(|c| c.instance);
        causes
    }
}

/// Why an earlier life is over whose node says that none but its own can run.
pub(super) const OVER: ChangeReason = ChangeReason::Down(DownReason::Obituary { resources: false });

/// True if a later life of its node is here, and no other can run.
pub(super) fn is_over(states: &States, instance: NodeInstance) -> bool {
    states.iter().any(|(x, (state, _))| state.sole && x.node == instance.node && *x != instance)
}

/// True if an instance declared its end, or is over.
fn has_ended(states: &States, instance: NodeInstance) -> bool {
    states.values().any(|(s, _)| s.dead.contains(&instance)) || is_over(states, instance)
}

/// How far the next number is above the last one that is remembered.
///
/// One, if a quorum remembers. If all nodes are here but too many have forgotten, those may have agreed on views
/// that nobody knows of any more: their numbers must not come again.
fn step(votes: &VoteConfig, states: &States, candidates: &[NodeInstance]) -> u64 {
    let remember = candidates.iter().copied().filter(|c| states.get(c).is_some_and(|(s, _)| s.has_vote));
    if votes.sum(remember) >= votes.quorum { 1 } else { FORGOTTEN_VIEWS }
}

fn whole_proposal(states: &States, value: Ballot) -> Option<AcceptMessage> {
    let accepted = states.values().filter_map(|(s, _)| s.accepted.as_ref());
    accepted.filter(|a| a.proposal.view.ballot == value).max_by_key(|a| a.ballot).cloned()
}

/// Votes of those candidates whose voice counts: all if every configured node is here.
fn counted_votes(votes: &VoteConfig, states: &States, candidates: &[NodeInstance]) -> u32 {
    let everybody = votes.all_present(candidates);
    let counts = |c: &NodeInstance| everybody || states.get(c).is_some_and(|(s, _)| s.has_vote);
    votes.sum(candidates.iter().copied().filter(counts))
}
