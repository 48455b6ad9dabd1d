//! A ballot: everybody stops and says where it is, one view follows from that, everybody ends its old view and enters it.

use super::wire::{Message, Offer, Report};
use super::{Parent, PartitionOutput, PartitionView, Partitionable, Timer, sabotaged};
use crate::{Ballot, Member, Proposal, View, ViewNumber};
use bytes::Bytes;
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

/// Rounds above this are no rounds: the number of a view must fit.
pub(super) const ROUND_MAX: u64 = 1 << 29;

/// Most that a life begins with.
pub(super) const FIRST_MAX: u64 = 1 << 24;

/// The number of the view that is proposed in a ballot. A node takes part in at most one ballot of a round, so no two views that share a
/// member share a number, whoever restarts.
pub(super) const fn number_of(ballot: Ballot) -> ViewNumber {
    ViewNumber(ballot.round << 32 | ballot.proposer.node.raw() as u64)
}

/// This node has promised, and the layer above is to stop.
#[derive(Debug)]
pub(super) struct Awaiting {
    ballot: Ballot,
}

/// This node was given a view, and the layer above is to end the old one.
#[derive(Debug)]
pub(super) struct Pending {
    ballot: Ballot,
    view: PartitionView,
    flushed: bool,
}

/// A ballot of this node.
#[derive(Debug)]
pub(super) struct Round {
    ballot: Ballot,
    candidates: Vec<NodeInstance>,
    reports: BTreeMap<NodeInstance, Report>,
    accepted: BTreeSet<NodeInstance>,
}

impl Partitionable {
    pub(super) fn begin(&mut self, now: Instant, candidates: Vec<NodeInstance>) {
        self.highest_round += 1;
        let ballot = Ballot { round: self.highest_round, proposer: self.local };
        for to in &candidates {
            self.send(*to, &Message::Prepare { ballot, candidates: candidates.clone() });
        }
        self.timers.set(Timer::Round, now + self.config.answer_timeout);
        let (reports, accepted) = (BTreeMap::new(), BTreeSet::new());
        self.round = Some(Round { ballot, candidates, reports, accepted });
    }

    /// Gives up this node's ballot. If it is still needed, another follows.
    pub(super) fn fail(&mut self, now: Instant) {
        if self.round.take().is_some() {
            self.timers.stop(Timer::Round);
            self.not_before = now + self.rng.duration(Duration::from_millis(5), Duration::from_millis(50));
        }
    }

    pub(super) fn on_lost(&mut self, now: Instant, peer: NodeInstance) {
        if self.round.as_ref().is_some_and(|r| r.candidates.contains(&peer)) {
            self.fail(now);
        }
    }

    pub(super) fn on_nack(&mut self, now: Instant, ballot: Ballot, promised: Ballot) {
        self.highest_round = self.highest_round.max(promised.round);
        if self.round.as_ref().is_some_and(|r| r.ballot == ballot) {
            self.fail(now);
        }
    }

    pub(super) fn on_prepare(&mut self, from: NodeInstance, ballot: Ballot, candidates: &[NodeInstance]) {
        self.highest_round = self.highest_round.max(ballot.round);
        let wanted = *candidates == self.desired();
        if ballot.proposer != from || ballot.round <= self.promised.round || !wanted {
            self.send(from, &Message::Nack { ballot, promised: self.promised });
            return;
        }
        self.promised = ballot;
        self.pending = None;
        self.stopped = true;
        self.awaiting = Some(Awaiting { ballot });
        self.outputs.push_back(PartitionOutput::Block { ballot });
    }

    pub(super) fn on_blocked(&mut self, ballot: Ballot, state: Bytes) {
        if self.awaiting.take_if(|a| a.ballot == ballot).is_none() {
            return;
        }
        let (number, members) = (self.installed.view.number, self.installed.view.members.clone());
        let report = Report { ballot, number, members, primary: self.primary, state };
        self.send(ballot.proposer, &Message::State(Box::new(report)));
    }

    pub(super) fn on_state(&mut self, now: Instant, from: NodeInstance, report: Report) {
        let Some(round) = self.round.as_mut().filter(|r| r.ballot == report.ballot) else { return };
        if !round.candidates.contains(&from) || !report.members.iter().any(|m| m.instance == from) {
            self.dropped += 1;
            return;
        }
        round.reports.insert(from, report);
        if round.reports.len() < round.candidates.len() || !round.accepted.is_empty() {
            return;
        }
        let (ballot, candidates) = (round.ballot, round.candidates.clone());
        let (view, proposal) = self.decide();
        let message = Message::Accept {
            ballot,
            proposal: Box::new(Offer { proposal, parents: view.parents, primary: view.primary }),
        };
        self.timers.set(Timer::Round, now + self.config.answer_timeout);
        candidates.into_iter().for_each(|to| self.send(to, &message));
    }

    /// The view that follows from all reports: those of one side go on with what they have, the others join them.
    fn decide(&self) -> (PartitionView, Proposal) {
        let Some(Round { ballot, reports, .. }) = &self.round else {
            return (
                self.installed.clone(),
                Proposal { view: self.installed.view.clone(), states: Vec::new() },
            );
        };
        let mut sides: BTreeMap<ViewNumber, Vec<NodeInstance>> = BTreeMap::new();
        for (instance, report) in reports {
            sides.entry(report.number).or_default().push(*instance);
        }
        // Who is in the newest primary, then who are more, then who has the lowest node.
        let weight = |came: &[NodeInstance]| {
            let primary = came.iter().filter_map(|i| reports.get(i)?.primary).max();
            (primary, came.len(), core::cmp::Reverse(came.first().copied()))
        };
        let kept =
            sides.iter().max_by_key(|(_, came)| weight(came)).map_or(ViewNumber(0), |(number, _)| *number);
        let number =
            if sabotaged!(self, CountsViews) { self.next_in_line(&sides) } else { number_of(*ballot) };
        let merges = sabotaged!(self, MergesStates);
        let member = |(instance, report): (&NodeInstance, &Report)| {
            let own = report.members.iter().find(|m| m.instance == *instance);
            let stays = own.filter(|_| report.number == kept || merges);
            Member { instance: *instance, joined: stays.map_or(number, |m| m.joined), votes: 1 }
        };
        let mut members: Vec<Member> = reports.iter().map(member).collect();
        members.sort_unstable_by_key(|m| (m.joined, m.instance.node));
        let previous = reports.values().find(|r| r.number == kept).map(|r| r.members.clone());
        let parent = |(number, came): (&ViewNumber, &Vec<NodeInstance>)| Parent {
            number: *number,
            came: came.clone(),
        };
        let mut parents: Vec<Parent> = sides.iter().map(parent).collect();
        parents.sort_by_key(|p| (p.number != kept, p.number));
        let first = reports.values().next().and_then(|r| r.primary);
        let agreed = reports.values().all(|r| r.primary == first);
        let any = reports.values().filter_map(|r| r.primary).max();
        let primary = if sabotaged!(self, ClaimsPrimary) { any } else { first.filter(|_| agreed) };
        let view = View {
            number,
            ballot: *ballot,
            quorum: u32::try_from(members.len()).unwrap_or(u32::MAX),
            members,
            previous: previous.unwrap_or_default(),
            causes: Vec::new(),
            level: crate::partitionable::LEVEL,
            unproven: Vec::new(),
        };
        let states = reports.iter().map(|(i, r)| (*i, r.state.clone())).collect();
        let proposal = Proposal { view: view.clone(), states };
        (PartitionView { view, parents, primary }, proposal)
    }

    /// The number after those of all parents, which is what the bug would use.
    fn next_in_line(&self, sides: &BTreeMap<ViewNumber, Vec<NodeInstance>>) -> ViewNumber {
        ViewNumber(sides.keys().next_back().map_or(self.installed.view.number.0, |n| n.0) + 1)
    }

    pub(super) fn on_accept(&mut self, from: NodeInstance, ballot: Ballot, offer: Offer) {
        let Offer { proposal, parents, primary } = offer;
        let view = PartitionView { view: proposal.view.clone(), parents, primary };
        let current = self.installed.view.number;
        let sound = view.view.number > current
            && view.view.contains(self.local)
            && view.parents.iter().any(|p| p.number == current && p.came.contains(&self.local));
        if ballot != self.promised || ballot.proposer != from || self.awaiting.is_some() || !sound {
            self.dropped += u64::from(!sound);
            return;
        }
        self.pending = Some(Pending { ballot, view, flushed: false });
        self.outputs.push_back(PartitionOutput::Flush { ballot, proposal });
    }

    pub(super) fn on_flushed(&mut self, ballot: Ballot) {
        let Some(pending) = self.pending.as_mut().filter(|p| p.ballot == ballot && !p.flushed) else {
            return;
        };
        pending.flushed = true;
        self.send(ballot.proposer, &Message::Accepted { ballot });
    }

    pub(super) fn on_accepted(&mut self, from: NodeInstance, ballot: Ballot) {
        let Some(round) = self.round.as_mut().filter(|r| r.ballot == ballot) else { return };
        if !round.candidates.contains(&from) {
            self.dropped += 1;
            return;
        }
        round.accepted.insert(from);
        if round.accepted.len() < round.candidates.len() {
            return;
        }
        self.timers.stop(Timer::Round);
        let candidates = self.round.take().map(|r| r.candidates).unwrap_or_default();
        candidates.into_iter().for_each(|to| self.send(to, &Message::Install { ballot }));
    }

    /// Nothing is installed that was given before the newest promise: whoever asked for that was told where this node is.
    pub(super) fn on_install(&mut self, from: NodeInstance, ballot: Ballot) {
        let valid = ballot.proposer == from && ballot == self.promised;
        let Some(pending) = self.pending.take_if(|p| valid && p.ballot == ballot && p.flushed) else {
            return;
        };
        self.stopped = false;
        self.installed = pending.view.clone();
        self.outputs.push_back(PartitionOutput::Installed(pending.view));
    }
}
