//! The symmetric computation: all stop and tell each other where they are, each computes the same view from that, ends its old one, and
//! enters it once all have said that they did.

use super::wire::{Join, Message};
use super::{Parent, PartitionOutput, PartitionView, Partitionable, Timer, sabotaged};
use crate::{Ballot, Member, Proposal, View, ViewNumber};
use bytes::Bytes;
use pils::{Instant, NodeInstance};
use std::collections::BTreeMap;

/// Rounds above this are no rounds: the number of a view must fit.
pub(super) const ROUND_MAX: u64 = 1 << 29;

/// Most that a life begins with.
pub(super) const FIRST_MAX: u64 = 1 << 24;

/// The number of the view of a round, which is named by the lowest of its members. A node takes part for one set in a round, so no two views
/// that share a member share a number, whoever restarts.
pub(super) const fn number_of(ballot: Ballot) -> ViewNumber {
    ViewNumber(ballot.round << 32 | ballot.proposer.node.raw() as u64)
}

/// A round that this node takes part in.
#[derive(Debug)]
pub(super) struct Attempt {
    ballot: Ballot,
    candidates: Vec<NodeInstance>,
    /// The others were told where this node is.
    told: bool,
    /// What follows from where all are.
    view: Option<PartitionView>,
    /// The layer above has ended the old view.
    flushed: bool,
}

impl Partitionable {
    /// Takes part in a round: stops.
    pub(super) fn take_part(&mut self, now: Instant, candidates: Vec<NodeInstance>, round: u64) {
        let Some(lowest) = candidates.first() else { return };
        let ballot = Ballot { round, proposer: *lowest };
        self.promised = ballot;
        self.highest_round = self.highest_round.max(round);
        self.stopped = true;
        self.attempt = Some(Attempt { ballot, candidates, told: false, view: None, flushed: false });
        self.timers.stop(Timer::Begin);
        self.timers.set(Timer::Round, now + self.config.answer_timeout);
        self.outputs.push_back(PartitionOutput::Block { ballot });
    }

    /// Leaves a round. If it is still needed, another follows.
    pub(super) fn give_up(&mut self) {
        self.attempt = None;
        self.timers.stop(Timer::Round);
    }

    pub(super) fn on_blocked(&mut self, ballot: Ballot, state: Bytes) {
        let (view, primary) = (&self.installed.view, self.primary);
        let Some(attempt) = self.attempt.as_mut().filter(|a| a.ballot == ballot && !a.told) else { return };
        attempt.told = true;
        let candidates = attempt.candidates.clone();
        let (number, members) = (view.number, view.members.clone());
        let join = Join { ballot, candidates: candidates.clone(), number, members, primary, state };
        self.send_all(&candidates, &Message::Join(Box::new(join)));
    }

    pub(super) fn on_join(&mut self, from: NodeInstance, join: Join) {
        let names = |list: &[NodeInstance]| list.contains(&from) && list.contains(&self.local);
        let lowest = join.candidates.first() == Some(&join.ballot.proposer);
        if !names(&join.candidates) || !lowest || !join.members.iter().any(|m| m.instance == from) {
            self.dropped += 1;
            return;
        }
        self.highest_round = self.highest_round.max(join.ballot.round);
        if self.joins.get(&from).is_none_or(|known| known.ballot.round < join.ballot.round) {
            self.joins.insert(from, join);
        }
    }

    pub(super) fn on_done(&mut self, from: NodeInstance, ballot: Ballot) {
        self.highest_round = self.highest_round.max(ballot.round);
        if self.done.get(&from).is_none_or(|known| known.round < ballot.round) {
            self.done.insert(from, ballot);
        }
    }

    /// What follows from what is known by now: a round is left, followed, computed, or over.
    pub(super) fn advance(&mut self, now: Instant) {
        let desired = self.desired();
        if self.attempt.as_ref().is_some_and(|a| a.candidates != desired) {
            self.give_up();
        }
        let same = |join: &&Join| join.candidates == desired;
        let others = desired.iter().filter(|p| **p != self.local);
        let called =
            others.filter_map(|p| self.joins.get(p)).filter(same).map(|join| join.ballot.round).max();
        // Who was told of a newer round goes on with that: in an older one somebody is missing from now on.
        if let Some(round) = called.filter(|round| *round > self.promised.round) {
            self.take_part(now, desired, round);
        }
        self.compute();
        self.enter();
    }

    /// Once all have told where they are, what follows is the same at each of them.
    fn compute(&mut self) {
        let Some(attempt) = self.attempt.as_ref().filter(|a| a.told && a.view.is_none()) else { return };
        let of = |p: &NodeInstance| {
            let join = self.joins.get(p)?;
            (join.ballot == attempt.ballot && join.candidates == attempt.candidates).then_some((*p, join))
        };
        let Some(joins) = attempt.candidates.iter().map(of).collect::<Option<BTreeMap<_, _>>>() else {
            return;
        };
        let view = self.decide(attempt.ballot, &joins);
        let states = joins.iter().map(|(p, join)| (*p, join.state.clone())).collect();
        let (ballot, proposal) = (attempt.ballot, Proposal { view: view.view.clone(), states });
        if let Some(attempt) = &mut self.attempt {
            attempt.view = Some(view);
        }
        self.outputs.push_back(PartitionOutput::Flush { ballot, proposal });
    }

    /// The view that follows from where all are: those of one side go on with what they have, the others join them.
    fn decide(&self, ballot: Ballot, joins: &BTreeMap<NodeInstance, &Join>) -> PartitionView {
        let mut sides: BTreeMap<ViewNumber, Vec<NodeInstance>> = BTreeMap::new();
        for (instance, join) in joins {
            sides.entry(join.number).or_default().push(*instance);
        }
        // Who is in the newest primary, then who are more, then who has the lowest node.
        let weight = |came: &[NodeInstance]| {
            let primary = came.iter().filter_map(|i| joins.get(i)?.primary).max();
            (primary, came.len(), core::cmp::Reverse(came.first().copied()))
        };
        let kept =
            sides.iter().max_by_key(|(_, came)| weight(came)).map_or(ViewNumber(0), |(number, _)| *number);
        let number =
            if sabotaged!(self, CountsViews) { self.next_in_line(&sides) } else { number_of(ballot) };
        let merges = sabotaged!(self, MergesStates);
        let member = |(instance, join): (&NodeInstance, &&Join)| {
            let own = join.members.iter().find(|m| m.instance == *instance);
            let stays = own.filter(|_| join.number == kept || merges);
            Member { instance: *instance, joined: stays.map_or(number, |m| m.joined), votes: 1 }
        };
        let mut members: Vec<Member> = joins.iter().map(member).collect();
        members.sort_unstable_by_key(|m| (m.joined, m.instance.node));
        let previous = joins.values().find(|join| join.number == kept).map(|join| join.members.clone());
        let parent = |(number, came): (&ViewNumber, &Vec<NodeInstance>)| Parent {
            number: *number,
            came: came.clone(),
        };
        let mut parents: Vec<Parent> = sides.iter().map(parent).collect();
        parents.sort_by_key(|p| (p.number != kept, p.number));
        let first = joins.values().next().and_then(|join| join.primary);
        let agreed = joins.values().all(|join| join.primary == first);
        let any = joins.values().filter_map(|join| join.primary).max();
        let primary = if sabotaged!(self, ClaimsPrimary) { any } else { first.filter(|_| agreed) };
        let view = View {
            number,
            ballot,
            quorum: u32::try_from(members.len()).unwrap_or(u32::MAX),
            members,
            previous: previous.unwrap_or_default(),
            causes: Vec::new(),
            level: crate::partitionable::LEVEL,
            unproven: Vec::new(),
        };
        PartitionView { view, parents, primary }
    }

    /// The number after those of all parents, which is what the bug would use.
    fn next_in_line(&self, sides: &BTreeMap<ViewNumber, Vec<NodeInstance>>) -> ViewNumber {
        ViewNumber(sides.keys().next_back().map_or(self.installed.view.number.0, |n| n.0) + 1)
    }

    pub(super) fn on_flushed(&mut self, ballot: Ballot) {
        let waits = |a: &&mut Attempt| a.ballot == ballot && a.view.is_some() && !a.flushed;
        let Some(attempt) = self.attempt.as_mut().filter(waits) else { return };
        attempt.flushed = true;
        let candidates = attempt.candidates.clone();
        self.send_all(&candidates, &Message::Done { ballot });
    }

    /// Enters the view once all have ended their old ones: they said so, or one is in it already, which has heard it of all.
    fn enter(&mut self) {
        let early = sabotaged!(self, EntersEarly);
        let over = |a: &mut Attempt| {
            let Some(view) = a.view.as_ref().filter(|_| a.flushed) else { return false };
            let inside = |p: &NodeInstance| self.statuses.get(p).is_some_and(|s| s.view == view.view.number);
            let done = |p: &NodeInstance| self.done.get(p) == Some(&a.ballot);
            early || a.candidates.iter().all(done) || a.candidates.iter().any(inside)
        };
        let Some(Attempt { ballot, view: Some(view), .. }) = self.attempt.take_if(over) else { return };
        self.timers.stop(Timer::Round);
        self.stopped = false;
        self.joins.retain(|_, join| join.ballot.round > ballot.round);
        self.done.retain(|_, done| done.round > ballot.round);
        self.installed = view.clone();
        self.outputs.push_back(PartitionOutput::Installed(view));
    }
}
