//! Votes of a group: a question, options, a rule, and one result that is the same at every member.
//!
//! [`Voting`] is a [`Machine`](crate::Machine): run it with [`Replicated`]. Members *open* ballots and *vote*; [`Event::Closed`] tells the
//! outcome, the reason and the tally. Eligible is who is in the group when the ballot opens; the first vote of a member counts;
//! who leaves is removed, vote and weight, and the rest is counted again. See `PROTOCOL.md`, section 9.
//!
//! ```
//! use ocf_groups::replicated::{Config, Replicated};
//! use ocf_groups::voting::{Ballot, Rule, Voting};
//! # use pils::{Incarnation, Instant, NodeId, NodeInstance};
//! # let node = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
//! let mut voting = Replicated::new(Config::new("council", 0), node, Voting::default());
//! let ballot = Ballot::new("who coordinates?", ["n1", "n2"], Rule::MajorityOfMembers);
//! // Not before the member is in the group.
//! assert!(voting.open(Instant::ZERO, ballot).is_err());
//! ```

mod tally;
mod wire;

pub use tally::Tally;

use crate::MemberId;
use crate::replicated::service::{self, Layout, Service, service};
use crate::replicated::{Context, Replicated, Request, SubmitError};
use core::time::Duration;
use pils::Instant;
use pils::wire::{ParseError, Reader};
use std::collections::{BTreeMap, VecDeque};
use wire::Command;

/// Most options of a ballot.
pub const OPTIONS_MAX: usize = 64;
/// Longest question or option, in bytes.
pub const TEXT_MAX: usize = 1024;
/// Most ballots that are open at a time.
pub const OPEN_MAX: usize = 64;
/// How many results are kept, for who asks later.
pub const CLOSED_MAX: usize = 64;

/// Names a ballot within a life of the group: numbers in the order of opening, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BallotId(pub u64);

/// What an option needs to be elected. Counted are weights of members that are eligible and in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// More than any other option. A tie elects nobody.
    Plurality,
    /// More than half of what was cast for any option; who abstains does not count.
    MajorityOfVoters,
    /// More than half of all, whoever abstains or is silent.
    MajorityOfMembers,
    /// Everyone answered, at least one for an option, and nobody for another.
    Unanimous,
    /// This weight or more, and more than any other option.
    AtLeast(u32),
}

/// A question to the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// At most [`TEXT_MAX`] bytes.
    pub question: String,
    /// One to [`OPTIONS_MAX`], each at most [`TEXT_MAX`] bytes.
    pub options: Vec<String>,
    /// What an option needs.
    pub rule: Rule,
    /// Empty: every member has weight 1. Otherwise only who is named, and in the group at the opening, may vote; a
    /// weight of 0 is no vote.
    pub weights: BTreeMap<MemberId, u32>,
    /// The ballot closes this long after its opening, in the time of the group; `None`: when the outcome is certain, or
    /// its proposer closes it.
    pub limit: Option<Duration>,
}

impl Ballot {
    /// A ballot with equal weights and without a limit.
    #[must_use]
    pub fn new<S: Into<String>>(question: &str, options: impl IntoIterator<Item = S>, rule: Rule) -> Self {
        Self {
            question: question.to_owned(),
            options: options.into_iter().map(Into::into).collect(),
            rule,
            weights: BTreeMap::new(),
            limit: None,
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let too_long = |text: &String| text.len() > TEXT_MAX;
        if self.options.is_empty() || self.options.len() > OPTIONS_MAX {
            return Err(Refusal::Options);
        }
        if too_long(&self.question) || self.options.iter().any(too_long) {
            return Err(Refusal::TooLong);
        }
        Ok(())
    }
}

/// What came out of a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The option with this number, from 0.
    Elected(usize),
    /// None.
    Undecided(Undecided),
}

/// Why no option was elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// Nobody voted for an option.
    NobodyVoted,
    /// Two or more options have the most.
    Tie,
    /// No option has what the rule asks for.
    TooFew,
    /// Two options got votes.
    NotUnanimous,
    /// Not everyone answered in time.
    Missing,
    /// Its proposer took it back.
    Cancelled,
}

impl Undecided {
    const ALL: [Self; 6] =
        [Self::NobodyVoted, Self::Tie, Self::TooFew, Self::NotUnanimous, Self::Missing, Self::Cancelled];
}

/// Why a ballot closed when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Everyone who may vote answered.
    AllAnswered,
    /// Whatever the others answer, the outcome is the same.
    RestCannotChangeIt,
    /// Its limit passed.
    LimitPassed,
    /// Its proposer closed it.
    Proposer,
    /// Everyone who might have voted left.
    NobodyLeft,
}

impl Certainty {
    const ALL: [Self; 5] =
        [Self::AllAnswered, Self::RestCannotChangeIt, Self::LimitPassed, Self::Proposer, Self::NobodyLeft];
}

/// The result of a ballot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Which.
    pub ballot: BallotId,
    /// What came out.
    pub outcome: Outcome,
    /// Why now.
    pub reason: Certainty,
    /// What was counted.
    pub tally: Tally,
}

/// What a vote tells every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Vote.
    Opened {
        /// Which ballot.
        ballot: BallotId,
        /// Who asks.
        proposer: MemberId,
        /// What.
        content: Ballot,
    },
    /// The result. Comes once for each ballot that opened, in the same order at every member.
    Closed(Closed),
}

/// Why a command changed nothing. The same at every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no command: another program is in this group.
    #[error("no command of a vote")]
    Malformed,
    /// [`OPEN_MAX`] are open.
    #[error("{OPEN_MAX} ballots are open")]
    TooMany,
    /// None, or more than [`OPTIONS_MAX`].
    #[error("a ballot has 1 to {OPTIONS_MAX} options")]
    Options,
    /// Longer than [`TEXT_MAX`].
    #[error("a question or option is longer than {TEXT_MAX} bytes")]
    TooLong,
    /// Nobody in the group has a weight in it.
    #[error("nobody may vote")]
    NobodyEligible,
    /// It never opened, or it is closed: [`Voting::result`].
    #[error("this ballot is not open")]
    NotOpen,
    /// The member was not in the group when the ballot opened, or has no weight.
    #[error("this member may not vote in this ballot")]
    NotEligible,
    /// The first vote counts.
    #[error("this member has voted")]
    AlreadyVoted,
    /// There are fewer options.
    #[error("no such option")]
    NoSuchOption,
    /// Only its proposer closes a ballot.
    #[error("another member opened this ballot")]
    NotProposer,
}

const REFUSALS: [Refusal; 10] = [
    Refusal::Malformed,
    Refusal::TooMany,
    Refusal::Options,
    Refusal::TooLong,
    Refusal::NobodyEligible,
    Refusal::NotOpen,
    Refusal::NotEligible,
    Refusal::AlreadyVoted,
    Refusal::NoSuchOption,
    Refusal::NotProposer,
];

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The last vote of a member counts.
    LastVoteCounts,
    /// Who leaves goes on being counted as missing.
    DepartedStay,
    /// A state carries no votes.
    SnapshotWithoutVotes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    proposer: MemberId,
    ballot: Ballot,
    due: Option<Duration>,
    /// Weights of those who may vote and are still here.
    eligible: BTreeMap<MemberId, u32>,
    votes: BTreeMap<MemberId, Option<usize>>,
}

impl Open {
    fn tally(&self) -> Tally {
        Tally::count(self.ballot.options.len(), &self.eligible, &self.votes)
    }
}

/// The votes of a group. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voting {
    next: u64,
    open: BTreeMap<BallotId, Open>,
    closed: VecDeque<Closed>,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

impl Voting {
    /// The ballots that are open, with what was counted so far.
    pub fn open_ballots(&self) -> impl Iterator<Item = (BallotId, &Ballot, Tally)> {
        self.open.iter().map(|(id, open)| (*id, &open.ballot, open.tally()))
    }

    /// The result of one of the last [`CLOSED_MAX`] ballots that closed.
    #[must_use]
    pub fn result(&self, ballot: BallotId) -> Option<&Closed> {
        self.closed.iter().find(|closed| closed.ballot == ballot)
    }

    /// What a member voted in an open ballot: `Some(None)` if it abstained.
    #[must_use]
    pub fn vote_of(&self, ballot: BallotId, member: MemberId) -> Option<Option<usize>> {
        self.open.get(&ballot)?.votes.get(&member).copied()
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: Sabotage) {
        self.sabotage = Some(what);
    }

    #[cfg(feature = "testing")]
    fn is(&self, bug: Sabotage) -> bool {
        self.sabotage == Some(bug)
    }

    fn open(
        &mut self,
        context: &Context<'_>,
        proposer: MemberId,
        ballot: Ballot,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        ballot.check()?;
        if self.open.len() >= OPEN_MAX {
            return Err(Refusal::TooMany);
        }
        let weight = |m: &MemberId| {
            if ballot.weights.is_empty() { 1 } else { ballot.weights.get(m).copied().unwrap_or(0) }
        };
        let eligible: BTreeMap<MemberId, u32> =
            context.members.iter().map(|m| (*m, weight(m))).filter(|(_, w)| *w > 0).collect();
        if eligible.is_empty() {
            return Err(Refusal::NobodyEligible);
        }
        self.next += 1;
        let id = BallotId(self.next);
        let due = ballot.limit.map(|limit| context.time.saturating_add(limit));
        events.push(Event::Opened { ballot: id, proposer, content: ballot.clone() });
        self.open.insert(id, Open { proposer, ballot, due, eligible, votes: BTreeMap::new() });
        Ok(id.0)
    }

    fn close_if_certain(&mut self, ballot: BallotId, events: &mut Vec<Event>) {
        let Some(open) = self.open.get(&ballot) else { return };
        if open.eligible.is_empty() {
            let outcome = Outcome::Undecided(Undecided::NobodyVoted);
            self.close(ballot, outcome, Certainty::NobodyLeft, events);
        } else if let Some((outcome, reason)) = open.tally().certain(open.ballot.rule) {
            self.close(ballot, outcome, reason, events);
        }
    }

    fn close(&mut self, ballot: BallotId, outcome: Outcome, reason: Certainty, events: &mut Vec<Event>) {
        let Some(open) = self.open.remove(&ballot) else { return };
        let closed = Closed { ballot, outcome, reason, tally: open.tally() };
        events.push(Event::Closed(closed.clone()));
        self.closed.push_back(closed);
        if self.closed.len() > CLOSED_MAX {
            self.closed.pop_front();
        }
    }
}

service!(Voting, Event);

impl Service for Voting {
    type Command = Command;
    type Refusal = Refusal;
    const REFUSALS: &'static [Refusal] = &REFUSALS;

    fn carry_out(
        &mut self,
        context: &Context<'_>,
        sender: MemberId,
        command: Command,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        match command {
            Command::Open(ballot) => self.open(context, sender, ballot, events),
            Command::Vote { ballot, option } => {
                #[cfg(feature = "testing")]
                let last_counts = self.is(Sabotage::LastVoteCounts);
                let open = self.open.get_mut(&ballot).ok_or(Refusal::NotOpen)?;
                if !open.eligible.contains_key(&sender) {
                    return Err(Refusal::NotEligible);
                }
                if option.is_some_and(|n| n >= open.ballot.options.len()) {
                    return Err(Refusal::NoSuchOption);
                }
                let voted = open.votes.contains_key(&sender);
                #[cfg(feature = "testing")]
                let voted = voted && !last_counts;
                if voted {
                    return Err(Refusal::AlreadyVoted);
                }
                open.votes.insert(sender, option);
                self.close_if_certain(ballot, events);
                Ok(ballot.0)
            }
            Command::Close { ballot, cancel } => {
                let open = self.open.get(&ballot).ok_or(Refusal::NotOpen)?;
                if open.proposer != sender {
                    return Err(Refusal::NotProposer);
                }
                let outcome = if cancel {
                    Outcome::Undecided(Undecided::Cancelled)
                } else {
                    open.tally().final_outcome(open.ballot.rule)
                };
                self.close(ballot, outcome, Certainty::Proposer, events);
                Ok(ballot.0)
            }
        }
    }

    fn members_left(&mut self, _: &Context<'_>, left: &[MemberId], events: &mut Vec<Event>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::DepartedStay) {
            return;
        }
        let ids: Vec<BallotId> = self.open.keys().copied().collect();
        for id in ids {
            let Some(open) = self.open.get_mut(&id) else { continue };
            let before = open.eligible.len();
            for gone in left {
                open.eligible.remove(gone);
                open.votes.remove(gone);
            }
            if open.eligible.len() < before {
                self.close_if_certain(id, events);
            }
        }
    }

    fn time_passed(&mut self, context: &Context<'_>, events: &mut Vec<Event>) {
        let due = |open: &Open| open.due.is_some_and(|due| due <= context.time);
        let ids: Vec<BallotId> = self.open.iter().filter(|(_, o)| due(o)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(open) = self.open.get(&id) {
                let outcome = open.tally().final_outcome(open.ballot.rule);
                self.close(id, outcome, Certainty::LimitPassed, events);
            }
        }
    }

    fn next_due(&self) -> Option<Duration> {
        self.open.values().filter_map(|open| open.due).min()
    }

    fn put_state(&self, out: &mut Vec<u8>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::SnapshotWithoutVotes) {
            let mut bare = self.clone();
            bare.open.values_mut().for_each(|open| open.votes.clear());
            bare.write(out);
            return;
        }
        self.write(out);
    }

    fn take_state(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Self::read(r)
    }

    fn become_state(&mut self, state: Self) {
        #[cfg(feature = "testing")]
        let state = Self { sabotage: self.sabotage, ..state };
        *self = state;
    }
}

/// What a member asks of the votes of its group. Each request ends in an [`Outcome`](crate::replicated::Outcome); [`answer`] reads it.
impl Replicated<Voting> {
    /// Puts a question to the group; the [`answer`] is the ballot.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn open(&mut self, now: Instant, ballot: Ballot) -> Result<Request, SubmitError> {
        self.submit(now, Command::Open(ballot).write())
    }

    /// Votes for an option, counted from 0, or for none: abstains. The first vote counts.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn vote(
        &mut self,
        now: Instant,
        ballot: BallotId,
        option: Option<usize>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Vote { ballot, option }.write())
    }

    /// Closes a ballot of this member with what was cast, or takes it back.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn close(&mut self, now: Instant, ballot: BallotId, cancel: bool) -> Result<Request, SubmitError> {
        self.submit(now, Command::Close { ballot, cancel }.write())
    }
}

/// Reads the reply to a request: the ballot it was about.
///
/// # Errors
/// Why it changed nothing.
pub fn answer(reply: &[u8]) -> Result<BallotId, Refusal> {
    service::answer::<Voting>(reply).map(BallotId)
}

#[cfg(test)]
mod tests;
