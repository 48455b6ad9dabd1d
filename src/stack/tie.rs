//! An even split: whoever decides is asked, or the others are fenced first.

use super::{Output, Stack};
use crate::event::NodeEvent;
use ocf_membership::{Claim, EvenSplit, Evidence, NodeVotes, OverrideError, Verdict, VotesError};
use ocf_stonith::{Cause, FenceRequest, Withdrawal};
use pils::{Instant, Layer as _, NodeInstance};
use std::collections::BTreeSet;

/// Whose end this node waits for before its half may go on.
#[derive(Debug)]
pub(super) struct Duel {
    ballot: ocf_membership::Ballot,
    left: BTreeSet<NodeInstance>,
}

impl Stack {
    pub(super) fn on_claim(&mut self, now: Instant, claim: Claim) {
        self.emit(NodeEvent::TieAsked(claim.clone()));
        if self.even_split != EvenSplit::Fences {
            self.outputs.push_back(Output::AskTie(claim));
            return;
        }
        let ballot = claim.ballot;
        self.duel = Some(Duel { ballot, left: claim.absent.iter().copied().collect() });
        for target in claim.absent {
            // Whoever chose this policy decided that a node fences without a quorum.
            let request = FenceRequest { target, action: self.fence_action, cause: Cause::EvenSplit };
            if let Err(error) = self.fencer.request(now, request) {
                tracing::warn!(%target, %error, "it cannot be fenced, so this node does not go on without it");
                self.withdraw_claim(now);
                self.tell_verdict(now, ballot, Verdict::Unavailable);
                return;
            }
        }
    }

    /// A life of a node has ended for certain.
    pub(super) fn duel_won(&mut self, now: Instant, target: NodeInstance) {
        let Some(duel) = &mut self.duel else { return };
        if duel.left.remove(&target) && duel.left.is_empty() {
            let ballot = duel.ballot;
            self.duel = None;
            self.tell_verdict(now, ballot, Verdict::Granted(Evidence::Ended));
        }
    }

    /// Nobody waits for it any more: who is back is not fenced for having been away.
    pub(super) fn withdraw_claim(&mut self, now: Instant) {
        for target in self.duel.take().map(|duel| duel.left).unwrap_or_default() {
            if self.fencer.withdraw(now, target, Withdrawal::NotNeeded).is_err() {
                tracing::debug!(%target, "no fence request to withdraw");
            }
        }
    }

    fn tell_verdict(&mut self, now: Instant, ballot: ocf_membership::Ballot, verdict: Verdict) {
        self.consensus.handle(now, ocf_membership::Input::Tie { ballot, verdict });
    }

    /// Changes the votes of the cluster's nodes while it runs: see [`ocf_membership::Consensus::set_votes`].
    ///
    /// # Errors
    /// See [`VotesError`]; nothing has changed then.
    pub fn set_votes(&mut self, now: Instant, votes: &[NodeVotes]) -> Result<(), VotesError> {
        self.now = now;
        self.consensus.set_votes(now, votes)
    }

    /// Has an operator decide the next even split of this node: see [`ocf_membership::Consensus::override_tie`].
    ///
    /// # Errors
    /// See [`OverrideError`]; nothing has changed then.
    pub fn override_tie(&mut self, now: Instant, reason: &str) -> Result<(), OverrideError> {
        self.now = now;
        self.consensus.override_tie(now, reason)
    }
}
