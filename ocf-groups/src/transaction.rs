//! Transactions of a group: two-phase commit whose coordinator is the ordered stream.
//!
//! [`Transactions`] is the [`Machine`](crate::Machine) that all members run; [`TransactionSite`] is a member with its journal. A transaction
//! is *begun* with its participants; each prepares, writes that down, and votes in the stream. **The last yes is the commit
//! point**: it stands at one place of the stream, so all members see the same decision, and no death of any one of them
//! leaves it open. What is nowhere written down as committed is aborted. See `PROTOCOL.md`, section 11.

pub mod journal;
mod site;
mod wire;

pub use journal::Journal;
#[cfg(feature = "testing")]
pub use site::Sabotage;
pub use site::{Output, TransactionSite};

use crate::MemberId;
use crate::replicated::service::{Layout, Service, service};
use crate::replicated::{Birth, Context};
use bytes::Bytes;
use core::time::Duration;
use pils::NodeId;
use pils::wire::{ParseError, Reader};
use std::collections::{BTreeMap, BTreeSet};
use wire::Command;

/// Most transactions of a group that are not ended.
pub const LIVE_MAX: usize = 1024;
/// Most participants of a transaction.
pub const PARTICIPANTS_MAX: usize = 256;

/// A member across its restarts: what owns a journal. A node has one member for each local number at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The node.
    pub node: NodeId,
    /// Tells the members of one node apart, the same after a restart.
    pub local: u32,
}

impl From<MemberId> for Site {
    fn from(member: MemberId) -> Self {
        Self { node: member.instance.node, local: member.local }
    }
}

/// Names a transaction: never used twice, also not after all members died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId {
    /// The life of the group in which it began.
    pub birth: Birth,
    /// Number in it, from 1.
    pub number: u64,
}

/// Who is concerned by a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parties {
    /// Who began it.
    pub coordinator: Site,
    /// Who votes. Sorted, each once.
    pub participants: BTreeSet<Site>,
}

impl Parties {
    /// Coordinator and participants.
    #[must_use]
    pub fn everyone(&self) -> BTreeSet<Site> {
        self.participants.iter().copied().chain([self.coordinator]).collect()
    }
}

/// What a journal keeps. A site writes them in order and is given all of them after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The site can commit whatever happens, and has said so, or will.
    Prepared {
        /// Which transaction.
        txn: TxnId,
        /// Whom it concerns.
        parties: Parties,
        /// What it is about.
        content: Bytes,
    },
    /// It is decided: commit.
    Committed {
        /// Which transaction.
        txn: TxnId,
        /// Whom it concerns.
        parties: Parties,
        /// What it is about; empty if this site is no participant.
        content: Bytes,
    },
    /// Nobody will ask about it any more: the records of it may be removed.
    Forget {
        /// Which transaction.
        txn: TxnId,
    },
}

impl Record {
    /// The transaction that it is about.
    #[must_use]
    pub const fn txn(&self) -> TxnId {
        match self {
            Self::Prepared { txn, .. } | Self::Committed { txn, .. } | Self::Forget { txn } => *txn,
        }
    }
}

/// Why a transaction was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// This participant voted no.
    VotedNo(Site),
    /// This participant left or died before its vote was ordered.
    SiteLost(Site),
    /// The limit passed before all had voted.
    LimitPassed,
    /// Whoever began it took it back.
    Coordinator,
    /// All who could know have no word of a commit: the group lost its memory, or this site was away.
    Presumed,
}

/// What the machine tells every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction began.
    Began(TxnId),
    /// All voted yes, or a commit was found written down.
    Committed(TxnId),
    /// It is aborted.
    Aborted(TxnId, AbortReason),
    /// Everyone has carried out the commit.
    Ended(TxnId),
}

/// Why a command changed nothing. The same at every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no command: another program is in this group.
    #[error("no command of a transaction")]
    Malformed,
    /// [`LIVE_MAX`] are not ended.
    #[error("{LIVE_MAX} transactions are not ended")]
    TooMany,
    /// None, or more than [`PARTICIPANTS_MAX`].
    #[error("a transaction has 1 to {PARTICIPANTS_MAX} participants")]
    Participants,
    /// A participant has no member in the group.
    #[error("a participant is not in the group")]
    Absent,
    /// It is aborted, or ended.
    #[error("this transaction is aborted")]
    Aborted,
    /// Committed, and carried out by all.
    #[error("this transaction is ended")]
    Ended,
    /// It is past the point where this may be asked, or another site may ask it.
    #[error("this site may not ask that of the transaction now")]
    NotNow,
}

const REFUSALS: [Refusal; 7] = [
    Refusal::Malformed,
    Refusal::TooMany,
    Refusal::Participants,
    Refusal::Absent,
    Refusal::Aborted,
    Refusal::Ended,
    Refusal::NotNow,
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Votes are awaited.
    Preparing { due: Option<Duration>, content: Bytes, yes: BTreeSet<Site> },
    /// Decided; who has carried it out.
    Committed { acked: BTreeSet<Site> },
    /// Begun in an earlier life of the group; who has no word of a commit.
    Recovering { reported: BTreeSet<Site> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Txn {
    parties: Parties,
    state: State,
}

/// The transactions of a group that are not ended. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transactions {
    next: u64,
    live: BTreeMap<TxnId, Txn>,
}

impl Transactions {
    /// Those that are not ended.
    pub fn live(&self) -> impl Iterator<Item = TxnId> {
        self.live.keys().copied()
    }

    /// True if it is decided and not all have carried it out.
    #[must_use]
    pub fn is_committed(&self, txn: TxnId) -> bool {
        self.live.get(&txn).is_some_and(|t| matches!(t.state, State::Committed { .. }))
    }

    fn begin(
        &mut self,
        context: &Context<'_>,
        sender: MemberId,
        (participants, content, limit): (Vec<Site>, Bytes, Option<Duration>),
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        let participants: BTreeSet<Site> = participants.into_iter().collect();
        if participants.is_empty() || participants.len() > PARTICIPANTS_MAX {
            return Err(Refusal::Participants);
        }
        if self.live.len() >= LIVE_MAX {
            return Err(Refusal::TooMany);
        }
        let present: BTreeSet<Site> = context.members.iter().map(|m| Site::from(*m)).collect();
        if !participants.is_subset(&present) {
            return Err(Refusal::Absent);
        }
        self.next += 1;
        let txn = TxnId { birth: context.birth, number: self.next };
        let parties = Parties { coordinator: sender.into(), participants };
        let due = limit.map(|limit| context.time.saturating_add(limit));
        let state = State::Preparing { due, content, yes: BTreeSet::new() };
        self.live.insert(txn, Txn { parties, state });
        events.push(Event::Began(txn));
        Ok(self.next)
    }

    fn vote(&mut self, site: Site, txn: TxnId, yes: bool, events: &mut Vec<Event>) -> Result<u64, Refusal> {
        let Some(found) = self.live.get_mut(&txn) else { return Err(Refusal::Aborted) };
        let State::Preparing { yes: voted, .. } = &mut found.state else { return Err(Refusal::NotNow) };
        if !found.parties.participants.contains(&site) {
            return Err(Refusal::NotNow);
        }
        if yes {
            voted.insert(site);
            if *voted == found.parties.participants {
                found.state = State::Committed { acked: BTreeSet::new() };
                events.push(Event::Committed(txn));
            }
        } else if !voted.contains(&site) {
            self.abort(txn, AbortReason::VotedNo(site), events);
        }
        Ok(0)
    }

    fn ack(&mut self, site: Site, txn: TxnId, events: &mut Vec<Event>) -> Result<u64, Refusal> {
        let Some(found) = self.live.get_mut(&txn) else { return Err(Refusal::Ended) };
        let State::Committed { acked } = &mut found.state else { return Err(Refusal::NotNow) };
        acked.insert(site);
        if found.parties.everyone().is_subset(acked) {
            self.live.remove(&txn);
            events.push(Event::Ended(txn));
        }
        Ok(0)
    }

    /// A site says what its journal knows of a transaction that it cannot end alone.
    fn report(
        &mut self,
        birth: Birth,
        site: Site,
        (txn, parties, committed): (TxnId, Parties, bool),
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        let Some(found) = self.live.get_mut(&txn) else {
            if txn.birth == birth {
                // The memory of this life is whole: a commit would be here until this site carried it out.
                return Err(if committed { Refusal::Ended } else { Refusal::Aborted });
            }
            if self.live.len() >= LIVE_MAX || !parties.everyone().contains(&site) {
                return Err(Refusal::TooMany);
            }
            let state = if committed {
                events.push(Event::Committed(txn));
                State::Committed { acked: BTreeSet::new() }
            } else {
                State::Recovering { reported: [site].into() }
            };
            self.live.insert(txn, Txn { parties, state });
            self.presume(txn, events);
            return Ok(0);
        };
        if let State::Recovering { reported } = &mut found.state {
            if committed {
                found.state = State::Committed { acked: BTreeSet::new() };
                events.push(Event::Committed(txn));
            } else {
                reported.insert(site);
                self.presume(txn, events);
            }
        }
        Ok(0)
    }

    /// Nobody told anybody of a commit, if everyone who might have says so.
    fn presume(&mut self, txn: TxnId, events: &mut Vec<Event>) {
        let Some(found) = self.live.get(&txn) else { return };
        if let State::Recovering { reported } = &found.state
            && found.parties.everyone().is_subset(reported)
        {
            self.abort(txn, AbortReason::Presumed, events);
        }
    }

    fn abort(&mut self, txn: TxnId, reason: AbortReason, events: &mut Vec<Event>) {
        self.live.remove(&txn);
        events.push(Event::Aborted(txn, reason));
    }
}

service!(Transactions, Event);

impl Service for Transactions {
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
        let site = Site::from(sender);
        match command {
            Command::Begin { participants, content, limit } => {
                self.begin(context, sender, (participants, content, limit), events)
            }
            Command::Vote { txn, yes } => self.vote(site, txn, yes, events),
            Command::Abort { txn } => match self.live.get(&txn) {
                None => Err(Refusal::Aborted),
                Some(Txn { parties, state: State::Preparing { .. } }) if parties.coordinator == site => {
                    self.abort(txn, AbortReason::Coordinator, events);
                    Ok(0)
                }
                Some(_) => Err(Refusal::NotNow),
            },
            Command::Ack { txn } => self.ack(site, txn, events),
            Command::Report { txn, parties, committed } => {
                self.report(context.birth, site, (txn, parties, committed), events)
            }
        }
    }

    fn members_left(&mut self, _: &Context<'_>, left: &[MemberId], events: &mut Vec<Event>) {
        let left: BTreeSet<Site> = left.iter().map(|m| Site::from(*m)).collect();
        let lost = |txn: &Txn| match &txn.state {
            State::Preparing { yes, .. } => {
                txn.parties.participants.iter().find(|s| left.contains(s) && !yes.contains(s)).copied()
            }
            State::Committed { .. } | State::Recovering { .. } => None,
        };
        let found: Vec<(TxnId, Site)> =
            self.live.iter().filter_map(|(id, txn)| Some((*id, lost(txn)?))).collect();
        for (txn, site) in found {
            self.abort(txn, AbortReason::SiteLost(site), events);
        }
    }

    fn time_passed(&mut self, context: &Context<'_>, events: &mut Vec<Event>) {
        let due: Vec<TxnId> = self.dues().filter(|(_, due)| *due <= context.time).map(|(id, _)| id).collect();
        due.into_iter().for_each(|txn| self.abort(txn, AbortReason::LimitPassed, events));
    }

    fn next_due(&self) -> Option<Duration> {
        self.dues().map(|(_, due)| due).min()
    }

    fn put_state(&self, out: &mut Vec<u8>) {
        self.write(out);
    }

    fn take_state(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Self::read(r)
    }

    fn become_state(&mut self, state: Self) {
        *self = state;
    }
}

impl Transactions {
    fn dues(&self) -> impl Iterator<Item = (TxnId, Duration)> {
        self.live.iter().filter_map(|(id, txn)| match &txn.state {
            State::Preparing { due, .. } => Some((*id, (*due)?)),
            State::Committed { .. } | State::Recovering { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests;
