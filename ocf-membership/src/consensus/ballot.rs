//! The coordinator: collects the states of all candidates, proposes, waits for leases, installs.

use super::{AcceptMessage, Consensus, Timer};
use crate::wire::{Known, Message, StateReport};
use crate::{Ballot, DropReason, Evidence};
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

/// A ballot that this node runs.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) ballot: Ballot,
    /// Sorted; always includes this node.
    pub(super) candidates: Vec<NodeInstance>,
    /// The answers so far, with the time of their arrival.
    pub(super) states: BTreeMap<NodeInstance, (StateReport, Instant)>,
    pub(super) phase: Phase,
    /// The candidates are only a half, and this lets them go on.
    pub(super) won: Option<Evidence>,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Waiting for the states of all candidates.
    Collect,
    /// All states are here; waiting for the answer of the tie-breaker, or for fencing.
    Ask,
    /// Waiting for all candidates to accept.
    Propose { known: Known, accepted: BTreeSet<NodeInstance>, install_at: Instant },
    /// Everybody has accepted; waiting for the leases of those who are not in the view.
    Install { known: Known },
}

impl Phase {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Collect => "collecting",
            Self::Ask => "asking",
            Self::Propose { .. } => "proposing",
            Self::Install { .. } => "installing",
        }
    }
}

impl Consensus {
    pub(super) fn start_round(&mut self, now: Instant, candidates: Vec<NodeInstance>) {
        self.timers.stop(Timer::Ballot);
        self.retry_at = None;
        self.highest_round = self.highest_round.max(self.promised.round).saturating_add(1);
        let ballot = Ballot { round: self.highest_round, proposer: self.local };
        self.stats.ballots_started = self.stats.ballots_started.wrapping_add(1);
        tracing::debug!(node = %self.local, %ballot, ?candidates, "ballot");
        self.send_all(&candidates, &Message::Prepare { ballot, candidates: candidates.clone() });
        self.timers.set(Timer::Round, now + self.config.answer_timeout);
        let states = BTreeMap::new();
        self.round = Some(Round { ballot, candidates, states, phase: Phase::Collect, won: None });
    }

    /// Gives up this node's ballot; another one follows when it is needed.
    pub(super) fn abandon_round(&mut self, now: Instant) {
        self.withdraw_claim();
        if self.round.take().is_none() {
            return;
        }
        self.timers.stop(Timer::Round);
        self.retry_later(now);
    }

    fn retry_later(&mut self, now: Instant) {
        self.backoff = (self.backoff + 1).min(5);
        let most = Duration::from_millis(10) * (1 << self.backoff);
        self.retry_at = Some(now + self.rng.duration(most / 4, most));
        self.dirty = true;
    }

    /// Starts over with a higher ballot and those who should be in the view now.
    pub(super) fn restart_round(&mut self, now: Instant) {
        self.withdraw_claim();
        self.round = None;
        self.timers.stop(Timer::Round);
        match self.candidates() {
            Some(candidates) => self.start_round(now, candidates),
            None => self.retry_later(now),
        }
    }

    /// The ballot found no right to form a primary: waits, and lets more nodes come.
    pub(super) fn refuse_round(&mut self, now: Instant, why: &'static str) {
        tracing::debug!(node = %self.local, why, "no primary can be formed");
        self.stats.ballots_ineligible = self.stats.ballots_ineligible.wrapping_add(1);
        self.withdraw_claim();
        self.round = None;
        self.timers.stop(Timer::Round);
        let pause = self.config.detection;
        self.retry_at = Some(now + self.rng.duration(pause / 2, pause));
        self.dirty = true;
        self.report_soon(now);
    }

    pub(super) fn on_nack(&mut self, now: Instant, ballot: Ballot, promised: Ballot) {
        if self.round.as_ref().is_none_or(|r| r.ballot != ballot) {
            return;
        }
        self.highest_round = self.highest_round.max(promised.round);
        self.stats.ballots_overtaken = self.stats.ballots_overtaken.wrapping_add(1);
        self.abandon_round(now);
    }

    pub(super) fn on_state(&mut self, now: Instant, from: NodeInstance, state: StateReport) {
        let Some(round) = &mut self.round else {
            self.drop_message(from, DropReason::StaleBallot);
            return;
        };
        if round.ballot != state.ballot || !round.candidates.contains(&from) {
            self.drop_message(from, DropReason::StaleBallot);
            return;
        }
        round.states.insert(from, (state, now));
        if matches!(round.phase, Phase::Collect) && round.states.len() == round.candidates.len() {
            self.decide(now);
        }
    }

    /// Asks all candidates to accept `accept`, whose leases to wait for end at `install_at`.
    pub(super) fn propose(&mut self, now: Instant, accept: AcceptMessage, install_at: Instant) {
        let Some(round) = &mut self.round else { return };
        let view = &accept.proposal.view;
        let known = Known { number: view.number, value: view.ballot, members: view.members.clone() };
        round.phase = Phase::Propose { known, accepted: BTreeSet::new(), install_at };
        let candidates = round.candidates.clone();
        self.timers.set(Timer::Round, now + self.config.flush_timeout);
        let message = Message::Accept(Box::new(accept));
        self.send_all(&candidates, &message);
    }

    pub(super) fn on_accepted(&mut self, now: Instant, from: NodeInstance, ballot: Ballot) {
        let Some(round) = self.round.as_mut().filter(|r| r.ballot == ballot) else {
            self.drop_message(from, DropReason::StaleBallot);
            return;
        };
        let Phase::Propose { known, accepted, install_at } = &mut round.phase else { return };
        if !round.candidates.contains(&from) {
            self.drop_message(from, DropReason::NotEntitled);
            return;
        }
        accepted.insert(from);
        if accepted.len() < round.candidates.len() {
            return;
        }
        let install_at = *install_at;
        round.phase = Phase::Install { known: known.clone() };
        if install_at > now {
            self.timers.set(Timer::Round, install_at);
        } else {
            self.install();
        }
    }

    fn install(&mut self) {
        self.timers.stop(Timer::Round);
        let Some(Round { ballot, candidates, phase: Phase::Install { known }, .. }) = self.round.take()
        else {
            return;
        };
        self.dirty = true;
        self.send_all(&candidates, &Message::Install { ballot, known });
    }

    pub(super) fn on_round_timer(&mut self, now: Instant) {
        let Some(round) = &self.round else { return };
        let missing: Vec<NodeInstance> = match &round.phase {
            Phase::Collect => {
                let silent = round.candidates.iter().filter(|c| !round.states.contains_key(c));
                silent.copied().collect()
            }
            Phase::Propose { accepted, .. } => {
                round.candidates.iter().copied().filter(|c| !accepted.contains(c)).collect()
            }
            Phase::Install { .. } => {
                self.install();
                return;
            }
            Phase::Ask => {
                self.refuse_round(now, "the tie-breaker did not answer in time");
                return;
            }
        };
        self.stats.ballots_unanswered = self.stats.ballots_unanswered.wrapping_add(1);
        if missing.contains(&self.local) {
            // This node is the slow one: another may do it.
            self.abandon_round(now);
            return;
        }
        for instance in missing {
            self.hold_unanswering(now, instance);
        }
        self.restart_round(now);
    }

    /// A peer went down: a ballot that still needs its answer starts over without it.
    pub(super) fn on_candidate_down(&mut self, now: Instant, peer: NodeInstance) {
        let Some(round) = &self.round else { return };
        let needed = match &round.phase {
            Phase::Collect | Phase::Ask => true,
            Phase::Propose { accepted, .. } => !accepted.contains(&peer),
            Phase::Install { .. } => false,
        };
        if needed && round.candidates.contains(&peer) {
            self.restart_round(now);
        }
    }
}
