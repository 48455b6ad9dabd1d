//! An even split: asks who may go on, and takes the answer.

use super::ballot::Phase;
use super::{Bug, Consensus, Timer};
use crate::quorum::{VoteConfig, of_votes, total_votes};
use crate::{Ballot, Claim, EvenSplit, Event, Evidence, Output, OverrideError, Standing, Verdict, View};
use core::time::Duration;
use pils::{Instant, NodeInstance};

/// Longest reason of an operator that is kept, in bytes.
const REASON_MAX: usize = 1024;

impl Consensus {
    /// What `votes` of nodes that are here are worth in the configuration `config`.
    pub(super) fn worth(&self, config: &VoteConfig, votes: u32) -> Standing {
        of_votes(votes, config.quorum, total_votes(&config.nodes), self.rules.even_split)
    }

    /// True if this ballot may go on although its candidates are only a half. Else the answer has been asked for.
    pub(super) fn tie_is_won(
        &mut self,
        now: Instant,
        claim: Claim,
        ended: impl Fn(&NodeInstance) -> bool,
    ) -> bool {
        let Some(round) = &self.round else { return false };
        if round.won.is_none() && self.rules.even_split == EvenSplit::Fences && claim.absent.iter().all(ended)
        {
            self.win(Evidence::Ended, String::new());
        } else if let Some(reason) = self.overridden.take_if(|_| round.won.is_none()) {
            self.win(Evidence::Operator, reason);
        }
        let sabotaged = self.is_sabotaged(Bug::Tie);
        let Some(round) = &mut self.round else { return false };
        if round.won.is_some() || sabotaged {
            return true;
        }
        round.phase = Phase::Ask;
        self.stats.ties_asked = self.stats.ties_asked.wrapping_add(1);
        self.timers.set(Timer::Round, now + self.config.tie_timeout);
        self.outputs.push_back(Output::AskTie(claim));
        false
    }

    /// How much longer this half waits than one that has the most senior member and reaches every host that it watches, if
    /// it is only a half; `None` if it reaches none of them: it may not ask at all.
    pub(super) fn tie_handicap(&self, candidates: &[NodeInstance]) -> Option<Duration> {
        let votes = self.votes.sum(candidates.iter().copied());
        if self.rules.even_split == EvenSplit::Stops || self.worth(&self.votes, votes) == Standing::Quorum {
            return Some(Duration::ZERO);
        }
        let (hosts, of) = self.reach;
        if of > 0 && hosts == 0 && self.overridden.is_none() {
            return None;
        }
        let senior = self.newest_primary().1.first().map(|m| m.instance);
        let junior =
            self.rules.even_split == EvenSplit::Fences && senior.is_some_and(|s| !candidates.contains(&s));
        let steps = u32::from(junior) + u32::from(hosts < of);
        Some(self.config.tie_delay * steps)
    }

    fn win(&mut self, evidence: Evidence, reason: String) {
        let Some(round) = &mut self.round else { return };
        round.won = Some(evidence);
        let ballot = round.ballot;
        self.stats.ties_won = self.stats.ties_won.wrapping_add(1);
        self.event(Event::TieWon { ballot, evidence, reason });
    }

    /// The answer to a claim. One to an older ballot is worth nothing: what was known then may have changed.
    pub(super) fn on_verdict(&mut self, now: Instant, ballot: Ballot, verdict: Verdict) {
        let Some(round) = self.round.as_mut().filter(|r| r.ballot == ballot) else { return };
        if !matches!(round.phase, Phase::Ask) {
            return;
        }
        round.phase = Phase::Collect;
        match verdict {
            Verdict::Granted(evidence) => {
                self.timers.set(Timer::Round, now + self.config.answer_timeout);
                self.win(evidence, String::new());
                self.decide(now);
            }
            Verdict::Refused => self.refuse_round(now, "the tie-breaker refused"),
            Verdict::Unavailable => self.refuse_round(now, "the tie-breaker cannot be asked"),
        }
    }

    /// Lets the next even split in which this node asks be decided by an operator, who answers for it that no member of the
    /// other half runs or will run before it has met this one. Good once; what it was used for is told by
    /// [`Event::TieWon`] with `reason`, and stands in the causes of the view.
    ///
    /// # Errors
    /// See [`OverrideError`]; nothing has changed then.
    pub fn override_tie(&mut self, now: Instant, reason: &str) -> Result<(), OverrideError> {
        if self.rules.even_split == EvenSplit::Stops {
            return Err(OverrideError::NoTies);
        }
        if reason.trim().is_empty() {
            return Err(OverrideError::NoReason);
        }
        if reason.len() > REASON_MAX {
            return Err(OverrideError::ReasonTooLong { bytes: reason.len(), most: REASON_MAX });
        }
        if self.view().is_some() && self.is_active(now) {
            return Err(OverrideError::Primary);
        }
        tracing::warn!(node = %self.local, reason, "an operator decides the next even split");
        self.overridden = Some(reason.to_owned());
        self.dirty = true;
        if let Some(round) = self.round.as_mut().filter(|r| matches!(r.phase, Phase::Ask)) {
            // It waits for an answer: this is one.
            round.phase = Phase::Collect;
            self.outputs.push_back(Output::WithdrawTie(round.ballot));
            self.timers.set(Timer::Round, now + self.config.answer_timeout);
            self.decide(now);
        }
        self.settle(now);
        Ok(())
    }

    /// This node's ballot ends, or goes on, without the answer that it waits for.
    pub(super) fn withdraw_claim(&mut self) {
        if let Some(round) = self.round.as_ref().filter(|r| matches!(r.phase, Phase::Ask)) {
            self.outputs.push_back(Output::WithdrawTie(round.ballot));
        }
    }

    /// Tells the tie-breaker of an agreed view, so that it grants nothing to those who lack it.
    pub(super) fn note_tie(&mut self, view: &View) {
        if self.rules.even_split == EvenSplit::Asks && view.senior().instance == self.local {
            let mut nodes: Vec<_> = view.members.iter().map(|m| m.instance.node).collect();
            nodes.sort_unstable();
            self.outputs.push_back(Output::NoteTie(crate::Grant { number: view.number, nodes }));
        }
    }
}
