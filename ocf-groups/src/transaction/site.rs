//! A member with a journal: what its resource has promised, and what it must still do.

use super::{AbortReason, Command, Event, Parties, Record, Refusal, Site, State, Transactions, TxnId};
use crate::replicated::service::{self, Layout};
use crate::replicated::{self, Config, Outcome, Phase, Replicated, Request, SubmitError};
use crate::{Event as GroupEvent, GroupService, MemberId};
use bytes::Bytes;
use core::time::Duration;
use pils::wire::ParseError;
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a site wants done or told, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// A transaction of this site began, or was refused.
    Begun(Request, Result<TxnId, Refusal>),
    /// What became of a `begin` is not known: this member was away. If it began, it is told as `Committed` or `Aborted`.
    BeginUnknown(Request),
    /// Do all that might fail, so that both commit and abort are possible, and answer with [`TransactionSite::prepared`].
    Prepare {
        /// Which.
        txn: TxnId,
        /// What it is about.
        content: Bytes,
    },
    /// Write this to the journal, after all before it; when it would survive a crash, call [`TransactionSite::durable`].
    Write {
        /// Names the record until then.
        token: u64,
        /// What to write.
        record: Record,
    },
    /// It is decided: make it so, and call [`TransactionSite::applied`]. Comes again after a restart, so it must do no harm
    /// twice.
    Commit {
        /// Which.
        txn: TxnId,
        /// What it is about; empty if this site only began it.
        content: Bytes,
    },
    /// It will not happen: undo what was prepared.
    Abort {
        /// Which.
        txn: TxnId,
        /// Why.
        reason: AbortReason,
    },
    /// The member came, lost its state, got it, or went.
    Phase(Phase),
    /// Another program is in this group. Leave it.
    Failed(ParseError),
}

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Votes before the promise is written down.
    VoteBeforeDurable,
    /// Tells a commit before the decision is written down.
    TellBeforeDurable,
    /// After a restart what is in doubt is aborted.
    AbortInDoubt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    /// Begun here, and this site does not vote.
    Coordinating,
    /// The resource was asked.
    Asked,
    /// The resource said no.
    Refused,
    /// The promise is being written.
    Promising,
    /// The promise is durable.
    Prepared,
    /// The decision is being written.
    Deciding,
    /// The decision is durable, and told.
    Committed { applied: bool },
}

#[derive(Clone, Debug)]
struct Entry {
    parties: Parties,
    content: Bytes,
    local: Local,
    /// A command about it is under way.
    busy: Option<Request>,
}

/// A member of a group that takes part in its transactions. See the [module](super).
#[derive(Debug)]
pub struct TransactionSite {
    replica: Replicated<Transactions>,
    site: Site,
    entries: BTreeMap<TxnId, Entry>,
    begins: BTreeMap<Request, BTreeSet<Site>>,
    asked: BTreeMap<Request, TxnId>,
    writes: BTreeMap<u64, TxnId>,
    token: u64,
    outputs: VecDeque<Output>,
    /// Something was fed since the last comparison; not all that changes the state is told.
    dirty: bool,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

impl TransactionSite {
    /// A member that is in no group yet, with all that its journal holds, in order. What is committed there and not
    /// forgotten is told again as [`Output::Commit`]; what is prepared is [in doubt](Self::in_doubt) until the group says.
    pub fn new(config: Config, node: NodeInstance, journal: impl IntoIterator<Item = Record>) -> Self {
        let site = Site::from(MemberId { instance: node, local: config.local });
        let mut entries: BTreeMap<TxnId, Entry> = BTreeMap::new();
        for record in journal {
            match record {
                Record::Prepared { txn, parties, content } => {
                    entries.insert(txn, Entry { parties, content, local: Local::Prepared, busy: None });
                }
                Record::Committed { txn, parties, content } => {
                    let local = Local::Committed { applied: false };
                    entries.insert(txn, Entry { parties, content, local, busy: None });
                }
                Record::Forget { txn } => drop(entries.remove(&txn)),
            }
        }
        let committed = entries.iter().filter(|(_, e)| matches!(e.local, Local::Committed { .. }));
        let outputs =
            committed.map(|(txn, e)| Output::Commit { txn: *txn, content: e.content.clone() }).collect();
        Self {
            replica: Replicated::new(config, node, Transactions::default()),
            site,
            entries,
            begins: BTreeMap::new(),
            asked: BTreeMap::new(),
            writes: BTreeMap::new(),
            token: 0,
            outputs,
            dirty: false,
            #[cfg(feature = "testing")]
            sabotage: None,
        }
    }

    /// The member below: its group, phase and machine.
    pub const fn replica(&self) -> &Replicated<Transactions> {
        &self.replica
    }

    /// Joins the group.
    ///
    /// # Errors
    /// As `Groups::join`.
    pub fn join(
        &mut self,
        now: Instant,
        groups: &mut dyn GroupService,
    ) -> Result<MemberId, crate::JoinError> {
        self.replica.join(now, groups)
    }

    /// Leaves the group. Transactions in which this site has not voted are aborted; what it has promised stays in its
    /// journal.
    ///
    /// # Errors
    /// As `Groups::leave`.
    pub fn leave(&mut self, now: Instant, groups: &mut dyn GroupService) -> Result<(), crate::LeaveError> {
        self.replica.leave(now, groups)
    }

    /// Begins a transaction among `participants` (1 to [`PARTICIPANTS_MAX`](super::PARTICIPANTS_MAX); this site may be one). It is aborted if
    /// not all have voted after `limit`, in the time of the group.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn begin(
        &mut self,
        now: Instant,
        participants: impl IntoIterator<Item = Site>,
        content: Bytes,
        limit: Option<Duration>,
    ) -> Result<Request, SubmitError> {
        let named: BTreeSet<Site> = participants.into_iter().collect();
        let participants = named.iter().copied().collect();
        let request = self.replica.submit(now, Command::Begin { participants, content, limit }.write())?;
        self.begins.insert(request, named);
        Ok(request)
    }

    /// Takes back a transaction that this site began, if it is not decided.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn abort(&mut self, now: Instant, txn: TxnId) -> Result<(), SubmitError> {
        self.replica.submit(now, Command::Abort { txn }.write()).map(drop)
    }

    /// Answers [`Output::Prepare`]. A yes is a promise: it is written down, and then given. One that comes too late is
    /// passed over.
    pub fn prepared(&mut self, now: Instant, txn: TxnId, yes: bool) {
        let Some(entry) = self.entries.get_mut(&txn).filter(|e| e.local == Local::Asked) else { return };
        if yes {
            entry.local = Local::Promising;
            let (parties, content) = (entry.parties.clone(), entry.content.clone());
            self.write(txn, Record::Prepared { txn, parties, content });
        } else {
            entry.local = Local::Refused;
        }
        self.reconcile(now);
    }

    /// The record of this token would survive a crash.
    pub fn durable(&mut self, now: Instant, token: u64) {
        let Some(txn) = self.writes.remove(&token) else { return };
        match self.entries.get_mut(&txn) {
            Some(entry) if entry.local == Local::Promising => entry.local = Local::Prepared,
            Some(entry) if entry.local == Local::Deciding => {
                entry.local = Local::Committed { applied: false };
                let content = entry.content.clone();
                self.outputs.push_back(Output::Commit { txn, content });
            }
            Some(_) | None => {}
        }
        self.reconcile(now);
    }

    /// [`Output::Commit`] is carried out, and would survive a crash.
    pub fn applied(&mut self, now: Instant, txn: TxnId) {
        if let Some(entry) = self.entries.get_mut(&txn)
            && matches!(entry.local, Local::Committed { .. })
        {
            entry.local = Local::Committed { applied: true };
        }
        self.reconcile(now);
    }

    /// What this site has promised and does not know the outcome of, with all it concerns. It holds what it promised until
    /// the group says.
    pub fn in_doubt(&self) -> impl Iterator<Item = (TxnId, &Parties)> {
        self.entries.iter().filter(|(_, e)| e.local == Local::Prepared).map(|(txn, e)| (*txn, &e.parties))
    }

    /// Transactions in which this site still has something to do, in doubt or not.
    pub fn unfinished(&self) -> usize {
        self.entries.len()
    }

    /// Takes what the core tells.
    pub fn handle(&mut self, now: Instant, event: &GroupEvent) {
        self.replica.handle(now, event);
        self.dirty = true;
    }

    /// As [`Replicated::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.replica.handle_timeout(now);
    }

    /// As [`Replicated::poll_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.replica.poll_timeout()
    }

    /// Carries out what is to be sent on `groups`, and returns the rest in order. Call it after every other call.
    pub fn drive(&mut self, now: Instant, groups: &mut dyn GroupService) -> Vec<Output> {
        loop {
            let told = self.replica.drive(now, groups);
            if told.is_empty() && !core::mem::take(&mut self.dirty) {
                break;
            }
            for output in told {
                self.on_output(output);
            }
            self.reconcile(now);
        }
        self.outputs.drain(..).collect()
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

    fn write(&mut self, txn: TxnId, record: Record) {
        self.token += 1;
        self.writes.insert(self.token, txn);
        self.outputs.push_back(Output::Write { token: self.token, record });
        #[cfg(feature = "testing")]
        if let Some(entry) = self.entries.get_mut(&txn) {
            if entry.local == Local::Promising && self.sabotage == Some(Sabotage::VoteBeforeDurable) {
                entry.local = Local::Prepared;
            }
            if entry.local == Local::Deciding && self.sabotage == Some(Sabotage::TellBeforeDurable) {
                entry.local = Local::Committed { applied: false };
                let content = entry.content.clone();
                self.outputs.push_back(Output::Commit { txn, content });
            }
        }
    }

    fn on_output(&mut self, output: replicated::Output<Event>) {
        match output {
            replicated::Output::Event(Event::Aborted(txn, reason)) => self.on_aborted(txn, reason),
            replicated::Output::Event(Event::Ended(txn)) => self.forget(txn),
            replicated::Output::Event(Event::Began(_) | Event::Committed(_)) => {}
            replicated::Output::Done(request, outcome) => self.on_done(request, &outcome),
            replicated::Output::Phase(phase) => self.outputs.push_back(Output::Phase(phase)),
            replicated::Output::Failed(error) => self.outputs.push_back(Output::Failed(error)),
            // `drive` of the member below carries these out.
            replicated::Output::Send { .. } | replicated::Output::Offer { .. } => {}
        }
    }

    fn on_done(&mut self, request: Request, outcome: &Outcome) {
        let answer = match outcome {
            Outcome::Applied(reply) => Some(service::answer::<Transactions>(reply)),
            Outcome::NotApplied | Outcome::Unknown => None,
        };
        if let Some(participants) = self.begins.remove(&request) {
            let birth = self.replica.birth();
            let answer = answer.map(|answer| answer.map(|number| TxnId { birth, number }));
            if let Some(Ok(txn)) = answer {
                let parties = Parties { coordinator: self.site, participants };
                let entry = Entry { parties, content: Bytes::new(), local: Local::Coordinating, busy: None };
                self.entries.entry(txn).or_insert(entry);
            }
            self.outputs.push_back(match answer {
                Some(answer) => Output::Begun(request, answer),
                None => Output::BeginUnknown(request),
            });
            return;
        }
        let Some(txn) = self.asked.remove(&request) else { return };
        let Some(entry) = self.entries.get_mut(&txn).filter(|e| e.busy == Some(request)) else { return };
        entry.busy = None;
        match answer {
            Some(Err(Refusal::Aborted)) => self.on_aborted(txn, AbortReason::Presumed),
            Some(Err(Refusal::Ended)) => self.forget(txn),
            Some(Ok(_) | Err(_)) | None => {}
        }
    }

    fn on_aborted(&mut self, txn: TxnId, reason: AbortReason) {
        let Some(entry) = self.entries.get(&txn) else { return };
        match entry.local {
            Local::Coordinating | Local::Asked | Local::Refused => drop(self.entries.remove(&txn)),
            Local::Promising | Local::Prepared => self.forget(txn),
            // Decided and written: no abort can be true. The group is told by a report.
            Local::Deciding | Local::Committed { .. } => return,
        }
        self.outputs.push_back(Output::Abort { txn, reason });
    }

    fn forget(&mut self, txn: TxnId) {
        if self.entries.remove(&txn).is_some() {
            self.write(txn, Record::Forget { txn });
        }
    }

    /// Compares what the group has with what this site has, and does what is missing. Nothing is remembered of it, so it holds
    /// after any loss, return or restart.
    fn reconcile(&mut self, now: Instant) {
        if self.replica.phase() != Phase::Ready {
            return;
        }
        let mut todo = Vec::new();
        for (txn, found) in &self.replica.machine().live {
            if found.parties.everyone().contains(&self.site) {
                todo.push((*txn, found.parties.clone(), found.state.clone()));
            }
        }
        for (txn, parties, state) in todo {
            self.reconcile_live(now, txn, parties, &state);
        }
        let gone = |txn: &TxnId| !self.replica.machine().live.contains_key(txn);
        let gone: Vec<TxnId> = self.entries.keys().filter(|txn| gone(txn)).copied().collect();
        for txn in gone {
            let Some(entry) = self.entries.get(&txn) else { continue };
            let (parties, local) = (entry.parties.clone(), entry.local);
            match local {
                Local::Asked | Local::Refused => self.on_aborted(txn, AbortReason::Presumed),
                Local::Promising => {}
                #[cfg(feature = "testing")]
                Local::Prepared if self.is(Sabotage::AbortInDoubt) => {
                    self.on_aborted(txn, AbortReason::Presumed);
                }
                Local::Coordinating | Local::Prepared => {
                    self.ask(now, txn, &Command::Report { txn, parties, committed: false });
                }
                Local::Deciding | Local::Committed { .. } => {
                    self.ask(now, txn, &Command::Report { txn, parties, committed: true });
                }
            }
        }
    }

    fn reconcile_live(&mut self, now: Instant, txn: TxnId, parties: Parties, state: &State) {
        let votes = parties.participants.contains(&self.site);
        let known = self.entries.get(&txn).map(|e| e.local);
        let entry = |content: &Bytes, local| {
            let (parties, content) = (parties.clone(), content.clone());
            Entry { parties, content, local, busy: None }
        };
        match (state, known) {
            (State::Preparing { .. }, Some(Local::Refused)) => {
                self.ask(now, txn, &Command::Vote { txn, yes: false });
            }
            (State::Preparing { content, .. }, None | Some(Local::Coordinating)) if votes => {
                self.entries.insert(txn, entry(content, Local::Asked));
                self.outputs.push_back(Output::Prepare { txn, content: content.clone() });
            }
            (State::Preparing { .. }, None) => {
                self.entries.insert(txn, entry(&Bytes::new(), Local::Coordinating));
            }
            (State::Preparing { yes, .. }, Some(Local::Prepared)) if !yes.contains(&self.site) => {
                self.ask(now, txn, &Command::Vote { txn, yes: true });
            }
            (State::Preparing { .. }, Some(_)) => {}
            (State::Committed { acked }, known) if !acked.contains(&self.site) => match known {
                // A participant without a word of it has carried it out and forgotten: there was a promise.
                None if votes => self.ask_about_forgotten(now, txn),
                None | Some(Local::Coordinating | Local::Prepared) => {
                    let old = self.entries.remove(&txn);
                    let (content, busy) = old.map(|e| (e.content, e.busy)).unwrap_or_default();
                    self.entries.insert(txn, Entry { busy, ..entry(&content, Local::Deciding) });
                    self.write(txn, Record::Committed { txn, parties, content });
                }
                Some(Local::Committed { applied: true }) => self.ask(now, txn, &Command::Ack { txn }),
                Some(
                    Local::Asked
                    | Local::Refused
                    | Local::Promising
                    | Local::Deciding
                    | Local::Committed { .. },
                ) => {}
            },
            (State::Committed { .. }, _) => {}
            (State::Recovering { reported }, known) if !reported.contains(&self.site) => {
                let committed = matches!(known, Some(Local::Deciding | Local::Committed { .. }));
                let report = Command::Report { txn, parties, committed };
                if known.is_some() { self.ask(now, txn, &report) } else { self.say(now, txn, &report) }
            }
            (State::Recovering { .. }, _) => {}
        }
    }

    /// Submits a command about a transaction of this site, one at a time.
    fn ask(&mut self, now: Instant, txn: TxnId, command: &Command) {
        let Some(entry) = self.entries.get_mut(&txn).filter(|e| e.busy.is_none()) else { return };
        if let Ok(request) = self.replica.submit(now, command.write()) {
            entry.busy = Some(request);
            self.asked.insert(request, txn);
        }
    }

    fn ask_about_forgotten(&mut self, now: Instant, txn: TxnId) {
        self.say(now, txn, &Command::Ack { txn });
    }

    /// Submits a command about a transaction that this site has no word of, one at a time.
    fn say(&mut self, now: Instant, txn: TxnId, command: &Command) {
        if !self.asked.values().any(|asked| *asked == txn)
            && let Ok(request) = self.replica.submit(now, command.write())
        {
            self.asked.insert(request, txn);
        }
    }
}
