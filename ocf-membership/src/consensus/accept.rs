//! The accepter: what every candidate of a ballot does, the coordinator included.

use super::{AcceptMessage, Consensus, Installed, Timer, no_state};
use crate::lease::Lease;
use crate::record::Record;
use crate::wire::{Known, Message, StateReport, UPPER_STATE_MAX};
use crate::{Ballot, DropReason, Durability, Event, Output, PersistToken, UNPROVEN_MAX, ViewNumber};
use bytes::Bytes;
use pils::{Instant, NodeInstance};

/// The layer above was asked to stop, and the answer to this PREPARE waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct AwaitingBlock {
    ballot: Ballot,
}

/// A proposal that this node is about to accept.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    accept: AcceptMessage,
    /// The record is not yet on stable storage.
    persist: Option<PersistToken>,
    /// The layer above has not yet flushed its old view.
    flush: bool,
    /// This node goes from the previous primary into the proposed one.
    continuing: bool,
}

/// The proposal that this node accepted last in this life.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) accept: AcceptMessage,
    /// The layer above flushed for it: this node may enter the view as one that was there before.
    flushed: bool,
    /// When this node answered the PREPARE of that ballot.
    answered: Option<Instant>,
}

impl Consensus {
    pub(super) fn on_prepare(
        &mut self,
        now: Instant,
        from: NodeInstance,
        ballot: Ballot,
        candidates: Vec<NodeInstance>,
    ) {
        if ballot.proposer != from || !candidates.contains(&self.local) || !candidates.contains(&from) {
            self.drop_message(from, DropReason::NotEntitled);
            return;
        }
        self.highest_round = self.highest_round.max(ballot.round);
        if ballot <= self.promised {
            let promised = self.promised;
            self.send(from, &Message::Nack { ballot, promised });
            return;
        }
        self.stats.promises = self.stats.promises.wrapping_add(1);
        if self.round.as_ref().is_some_and(|round| round.ballot < ballot) {
            self.stats.ballots_overtaken = self.stats.ballots_overtaken.wrapping_add(1);
            self.abandon_round(now);
        }
        self.promised = ballot;
        self.state_sent = None;
        self.pending = None;
        self.progress = Some(now);
        self.dirty = true;
        if self.installed.is_some() {
            self.awaiting = Some(AwaitingBlock { ballot });
            self.outputs.push_back(Output::Block { ballot });
        } else {
            self.awaiting = None;
            self.send_state(now, no_state());
        }
    }

    pub(super) fn on_blocked(&mut self, now: Instant, ballot: Ballot, state: Bytes) {
        if self.awaiting.is_none_or(|a| a.ballot != ballot) {
            return;
        }
        if state.len() > UPPER_STATE_MAX {
            tracing::error!(node = %self.local, size = state.len(), "state of the upper layer is too large");
            self.leave_primary(now);
            return;
        }
        self.awaiting = None;
        self.send_state(now, state);
    }

    /// The layer above owes no answer any more.
    pub(super) fn stop_waiting_for_upper(&mut self, now: Instant) {
        if self.awaiting.take().is_some() {
            self.send_state(now, no_state());
        }
        if let Some(pending) = &mut self.pending {
            pending.flush = false;
            pending.continuing = false;
        }
        self.finish_accept(now);
    }

    fn send_state(&mut self, now: Instant, upper: Bytes) {
        let chosen_number = self.chosen.as_ref().map_or(ViewNumber(0), |(view, _)| view.number);
        let accepted = self.accepted.as_ref().map(|a| a.accept.clone());
        let dead = self.down.iter().filter(|(_, r)| r.is_proof_of_death()).map(|(i, _)| *i);
        let state = StateReport {
            ballot: self.promised,
            has_vote: !self.voteless,
            synced: self.installed.as_ref().is_some_and(|i| i.synced),
            life: now.since(self.started),
            active: self.installed.as_ref().map(|i| i.view.number),
            chosen: self.chosen.clone(),
            accepted: accepted.filter(|a| a.proposal.view.number > chosen_number),
            record: self.record.clone().filter(|r| r.view.number > chosen_number),
            dead: dead.take(crate::NODES_MAX).collect(),
            sole: self.config.sole_life,
            // One more than a view may name: then none is agreed.
            unproven: self.unproven.iter().copied().take(UNPROVEN_MAX + 1).collect(),
            acks: self.ack_ages(now),
            upper,
        };
        self.state_sent = Some(now);
        self.send(self.promised.proposer, &Message::State(Box::new(state)));
    }

    pub(super) fn on_accept(&mut self, now: Instant, from: NodeInstance, accept: AcceptMessage) {
        let ballot = accept.ballot;
        let (view, candidates) = (&accept.proposal.view, &accept.candidates);
        if ballot < self.promised {
            let promised = self.promised;
            self.send(from, &Message::Nack { ballot, promised });
            return;
        }
        let speaks = self.config.levels.include(view.level);
        let entitled = ballot.proposer == from && candidates.contains(&self.local) && speaks;
        if ballot != self.promised || self.state_sent.is_none() || !entitled {
            self.drop_message(from, DropReason::NotEntitled);
            return;
        }
        let must_see = |c: &NodeInstance| self.config.criterion.must_see(self.local.node, c.node);
        let apart = candidates.iter().any(|c| *c != self.local && must_see(c) && !self.up.contains(c));
        let chosen = self.chosen.as_ref().filter(|(chosen, _)| chosen.number >= view.number);
        let known = chosen.map(|(chosen, _)| chosen.ballot);
        if apart || known.is_some_and(|value| value != view.ballot) {
            // A view lists only nodes that can all talk to each other when they accept it; and a coordinator that
            // missed a newer view asks again.
            self.send(from, &Message::Nack { ballot, promised: ballot });
            return;
        }
        self.progress = Some(now);
        if known.is_some() {
            self.accept_again(now, &accept);
            return;
        }
        let continuing =
            self.installed.is_some() && accept.proposal.states.iter().any(|(i, _)| *i == self.local);
        if let Some(installed) = self.installed.as_mut().filter(|_| !continuing) {
            // Others wait for the leases of those who are not here; this one ends now.
            installed.lease.surrendered = true;
            self.check_lease(now);
        }
        let persist = match self.config.durability {
            Durability::Durable => Some(self.persist(&accept)),
            Durability::Volatile => None,
        };
        if continuing {
            let proposal = accept.proposal.clone();
            self.outputs.push_back(Output::Flush { ballot, proposal });
        }
        self.pending = Some(Pending { accept, persist, flush: continuing, continuing });
        self.finish_accept(now);
    }

    /// Accepts a view that this node knows to be agreed already, in a later ballot.
    fn accept_again(&mut self, now: Instant, accept: &AcceptMessage) {
        for member in &accept.proposal.view.members {
            self.acks.insert(member.instance, now);
        }
        let value = accept.proposal.view.ballot;
        if let Some(installed) = self.installed.as_mut().filter(|i| i.view.ballot == value) {
            installed.under = accept.ballot;
        }
        self.send(accept.ballot.proposer, &Message::Accepted { ballot: accept.ballot });
    }

    fn persist(&mut self, accept: &AcceptMessage) -> PersistToken {
        let record = Record {
            voteless: self.voteless,
            ballot: accept.ballot,
            candidates: accept.candidates.clone(),
            votes: accept.votes.clone(),
            view: accept.proposal.view.clone(),
        };
        let token = self.token();
        self.outputs.push_back(Output::Persist { token, record: record.seal(self.local.node) });
        token
    }

    pub(super) fn on_persisted(&mut self, now: Instant, token: PersistToken) {
        match &mut self.pending {
            Some(pending) if pending.persist == Some(token) => pending.persist = None,
            _ => return,
        }
        // Its disk writes again.
        self.dirty |= self.unfit_until.take().is_some();
        self.finish_accept(now);
    }

    pub(super) fn on_persist_failed(&mut self, now: Instant, token: PersistToken) {
        tracing::error!(node = %self.local, ?token, "the view record could not be written");
        self.stats.persist_failures = self.stats.persist_failures.wrapping_add(1);
        self.pending = None;
        self.state_sent = None;
        let until = now + self.config.detection * 2;
        self.unfit_until = Some(until);
        self.timers.set(Timer::Release, until);
        self.abandon_round(now);
        self.leave_primary(now);
        self.dirty = true;
    }

    pub(super) fn on_flushed(&mut self, now: Instant, ballot: Ballot) {
        match &mut self.pending {
            Some(pending) if pending.accept.ballot == ballot => pending.flush = false,
            _ => return,
        }
        self.finish_accept(now);
    }

    /// The layer above has the state of its view: from now on this node remembers.
    pub(super) fn on_synced(&mut self, number: ViewNumber) {
        let Some(installed) = &mut self.installed else { return };
        let own = installed.view.members.iter().find(|m| m.instance == self.local);
        if number <= installed.view.number && own.is_some_and(|m| m.joined <= number) {
            installed.synced = true;
        }
    }

    /// Accepts the pending proposal once its record is durable and the layer above has flushed.
    fn finish_accept(&mut self, now: Instant) {
        let Some(pending) = self.pending.take_if(|p| p.persist.is_none() && !p.flush) else { return };
        let (view, ballot) = (&pending.accept.proposal.view, pending.accept.ballot);
        for member in &view.members {
            // Accepting stands for a confirmation of each member's lease: see `Lease::base`.
            self.acks.insert(member.instance, now);
        }
        if self.next_lease.as_ref().is_none_or(|l| l.value != view.ballot) {
            self.next_lease = view.contains(self.local).then(|| Lease::new(view.ballot));
            if let Some(lease) = &mut self.next_lease {
                lease.answered = self.state_sent;
            }
        }
        self.record = None;
        self.accepted =
            Some(Accepted { accept: pending.accept, flushed: pending.continuing, answered: self.state_sent });
        self.send(ballot.proposer, &Message::Accepted { ballot });
        self.send_renewals(now);
    }

    pub(super) fn on_install(&mut self, now: Instant, ballot: Ballot, known: &Known) {
        if self.chosen.as_ref().is_some_and(|(view, _)| view.number >= known.number) {
            return;
        }
        let accepted = self.accepted.as_ref().is_some_and(|a| a.accept.proposal.view.ballot == known.value);
        if accepted {
            self.choose_accepted(now, Some(ballot));
        } else {
            self.learn(now, known);
        }
    }

    /// The view that this node accepted is agreed. `ballot` is the one whose candidates all accepted it, if known.
    pub(super) fn choose_accepted(&mut self, now: Instant, ballot: Option<Ballot>) {
        let Some(accepted) = self.accepted.clone() else { return };
        let view = accepted.accept.proposal.view.clone();
        let primary = self.newest_before(view.number);
        self.chosen = Some((view.clone(), accepted.accept.votes.clone()));
        self.forget_floor();
        self.dirty = true;
        let own = view.members.iter().find(|m| m.instance == self.local);
        let joins = own.is_some_and(|m| m.joined == view.number);
        let continues = own.is_some() && accepted.flushed && self.installed.is_some();
        if joins || !continues {
            // It was in an older view, and enters this one, if at all, without what it had.
            self.leave_primary(now);
        }
        if !joins && !continues {
            self.take_votes(now);
            return;
        }
        let mut lease = self.next_lease.take().filter(|l| l.value == view.ballot);
        let lease = lease.get_or_insert_with(|| Lease::new(view.ballot));
        // A half that completes a view of more than itself is allowed to, and yet no quorum of that view.
        let accepters = accepted.accept.votes.sum(accepted.accept.candidates.iter().copied());
        if ballot == Some(accepted.accept.ballot) && accepters >= view.quorum {
            lease.base = accepted.answered;
        }
        let synced = self.installed.as_ref().is_some_and(|i| i.synced);
        let (under, lease) = (accepted.accept.ballot, lease.clone());
        self.installed =
            Some(Installed { view: view.clone(), under, synced, suspended: None, dormant: false, lease });
        self.stats.views_installed = self.stats.views_installed.wrapping_add(1);
        self.awaiting = None;
        let merged = self.last.replace(view.number).filter(|_| self.reported.is_some());
        self.was_member = true;
        self.reported = None;
        self.forgetting = None;
        self.timers.stop(Timer::Report);
        if self.promised <= under {
            (self.backoff, self.retry_at) = (0, None);
        }
        self.hold_excluded(now, &view);
        if core::mem::take(&mut self.voteless) && self.config.durability == Durability::Durable {
            self.write_vote(&accepted.accept);
        }
        self.unproven.clone_from(&view.unproven);
        self.event(Event::Installed(view.clone()));
        if let Some(ours) = merged {
            self.event(Event::Merged { ours, primary: primary.max(ours), kept: continues });
        }
        self.take_votes(now);
        self.note_tie(&view);
        self.check_lease(now);
        self.send_renewals(now);
        if self.promised > under && self.state_sent.is_none() {
            // A later ballot has begun meanwhile: it is answered from the new view.
            self.awaiting = Some(AwaitingBlock { ballot: self.promised });
            self.outputs.push_back(Output::Block { ballot: self.promised });
        }
    }

    /// The newest view below `number` that this node or a peer knows to be agreed.
    fn newest_before(&self, number: ViewNumber) -> ViewNumber {
        let own = self.chosen.as_ref().map(|(view, _)| view.number);
        let others = self.statuses.values().filter_map(|s| s.known.as_ref().map(|k| k.number));
        own.into_iter().chain(others).filter(|n| *n < number).max().unwrap_or_default()
    }

    /// Writes that this node's voice counts from now on; what it is about to accept must not be overwritten.
    fn write_vote(&mut self, accept: &AcceptMessage) {
        match self.pending.clone() {
            Some(pending) => {
                let token = self.persist(&pending.accept);
                self.pending = Some(Pending { persist: Some(token), ..pending });
            }
            None => {
                self.persist(accept);
            }
        }
    }
}
