//! A tie-breaker for many clusters that nodes ask over the network: the sans-IO core.

mod wire;

pub use wire::{ArbiterMessage, CLUSTER_NAME_MAX};
pub(crate) use wire::{grant, put_grant};
use wire::{open, seal};

use crate::{Ballot, Claim, Evidence, Grant, GrantRegister, Verdict};
use bytes::Bytes;
use core::time::Duration;
use pils::wire::ParseError;
use pils::{Instant, Layer};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// Who asked: names a connection of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker(pub u64);

/// How an arbiter decides, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArbiterConfig {
    /// How long it waits for the other half to ask as well, so that the better connected one wins rather than the first.
    /// Default 500 ms. Longer: a slower fail-over. Zero: the first wins.
    pub settle: Duration,
    /// Clusters that it serves. One more is not answered. Default 64.
    pub clusters_max: usize,
    /// Claims of one cluster that wait. One more is `Unavailable`. Default 64.
    pub claims_max: usize,
}

impl Default for ArbiterConfig {
    fn default() -> Self {
        Self { settle: Duration::from_millis(500), clusters_max: 64, claims_max: 64 }
    }
}

/// What arrives at an arbiter.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ArbiterInput<'a> {
    /// A message of a node.
    Message(Asker, &'a [u8]),
    /// Who asked is gone: nothing more is answered there.
    Gone(Asker),
    /// What [`ArbiterOutput::Persist`] named is on stable storage.
    Persisted(u64),
    /// It could not be written.
    PersistFailed(u64),
}

/// What an arbiter wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArbiterOutput {
    /// Replace what is remembered of `cluster`, then report [`ArbiterInput::Persisted`].
    Persist {
        /// To name in the report.
        token: u64,
        /// Which cluster.
        cluster: String,
        /// The whole record.
        record: Bytes,
    },
    /// Answer.
    Answer {
        /// To whom.
        to: Asker,
        /// An [`ArbiterMessage::Answer`].
        message: Bytes,
    },
}

#[derive(Debug, Default)]
struct Cluster {
    register: GrantRegister,
    waiting: Vec<(Asker, Claim)>,
    decide_at: Option<Instant>,
    writing: Option<Writing>,
}

/// A decision on its way to stable storage, and who is told of it then.
#[derive(Debug)]
struct Writing {
    token: u64,
    register: GrantRegister,
    winners: Vec<(Asker, Ballot)>,
}

/// Decides even splits of clusters, each by a [`GrantRegister`]: one half of each is granted, the better connected one.
///
/// A sans-IO [`Layer`]. It answers only after what it grants is on stable storage.
#[derive(Debug)]
pub struct Arbiter {
    config: ArbiterConfig,
    clusters: BTreeMap<String, Cluster>,
    outputs: VecDeque<ArbiterOutput>,
    next_token: u64,
    /// Messages that were dropped: malformed, or of one cluster too many.
    dropped: u64,
}

impl Arbiter {
    /// With what was written before: every record that [`ArbiterOutput::Persist`] named last for its cluster.
    ///
    /// # Errors
    /// A record is damaged. Never start without it: an arbiter that forgot stays silent until the cluster tells it of a view,
    /// and one with an old record may grant what it must not.
    pub fn new<'a>(
        config: ArbiterConfig,
        records: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, ParseError> {
        let mut clusters = BTreeMap::new();
        for record in records {
            let (name, grant) = open(record)?;
            clusters
                .insert(name, Cluster { register: GrantRegister::new(Some(grant)), ..Cluster::default() });
        }
        Ok(Self { config, clusters, outputs: VecDeque::new(), next_token: 1, dropped: 0 })
    }

    /// What is remembered of `cluster`.
    #[must_use]
    pub fn remembered(&self, cluster: &str) -> Option<&Grant> {
        self.clusters.get(cluster)?.register.last()
    }

    /// Messages that were dropped since the start.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn answer(&mut self, to: Asker, ballot: Ballot, verdict: Verdict) {
        let message = ArbiterMessage::Answer { ballot, verdict }.emit();
        self.outputs.push_back(ArbiterOutput::Answer { to, message });
    }

    fn on_message(&mut self, now: Instant, from: Asker, bytes: &[u8]) {
        match ArbiterMessage::parse(bytes) {
            Ok(ArbiterMessage::Ask { cluster, claim }) => self.on_ask(now, from, &cluster, claim),
            Ok(ArbiterMessage::Note { cluster, view }) => self.on_note(cluster, &view),
            Ok(ArbiterMessage::Answer { .. }) | Err(_) => self.dropped = self.dropped.wrapping_add(1),
        }
    }

    fn on_ask(&mut self, now: Instant, from: Asker, name: &str, claim: Claim) {
        let (settle, most) = (self.config.settle, self.config.claims_max);
        let ballot = claim.ballot;
        let verdict = match self.clusters.get_mut(name) {
            Some(cluster) if !cluster.register.allows(&claim) => Verdict::Refused,
            Some(cluster) if cluster.waiting.len() < most => {
                cluster.waiting.push((from, claim));
                cluster.decide_at.get_or_insert(now + settle);
                return;
            }
            // Nobody has told of a view of that cluster.
            None => Verdict::Refused,
            Some(_) => Verdict::Unavailable,
        };
        self.answer(from, ballot, verdict);
    }

    fn on_note(&mut self, name: String, view: &Grant) {
        if !self.clusters.contains_key(&name) && self.clusters.len() >= self.config.clusters_max {
            self.dropped = self.dropped.wrapping_add(1);
            return;
        }
        let cluster = self.clusters.entry(name.clone()).or_default();
        // News may be lost: what is being decided goes first.
        if cluster.writing.is_none() && cluster.register.note(view) {
            let register = cluster.register.clone();
            self.write(name, register, Vec::new());
        }
    }

    fn write(&mut self, name: String, register: GrantRegister, winners: Vec<(Asker, Ballot)>) {
        let (Some(cluster), Some(grant)) = (self.clusters.get_mut(&name), register.last()) else { return };
        let (token, record) = (self.next_token, seal(&name, grant));
        self.next_token += 1;
        cluster.writing = Some(Writing { token, register, winners });
        self.outputs.push_back(ArbiterOutput::Persist { token, cluster: name, record });
    }

    /// Grants the best of the claims that wait; the others are told so at once.
    fn decide(&mut self, name: &str) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        cluster.decide_at = None;
        let mut register = cluster.register.clone();
        let waiting = core::mem::take(&mut cluster.waiting);
        let worth = |c: &Claim| (c.hosts, c.nodes.len(), Reverse(c.nodes.first().copied()), c.ballot);
        let best = waiting.iter().filter(|(_, c)| register.allows(c)).max_by_key(|(_, c)| worth(c));
        let best = best.map(|(_, claim)| claim.clone());
        let granted = best.as_ref().is_some_and(|claim| register.claim(claim));
        let (won, lost): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|(_, c)| granted && best.as_ref().is_some_and(|b| b.ballot == c.ballot));
        for (to, claim) in lost {
            self.answer(to, claim.ballot, Verdict::Refused);
        }
        if granted {
            let winners = won.into_iter().map(|(to, claim)| (to, claim.ballot)).collect();
            self.write(name.to_owned(), register, winners);
        }
    }

    fn on_written(&mut self, token: u64, written: bool) {
        let found = self.clusters.values_mut().find(|c| c.writing.as_ref().is_some_and(|w| w.token == token));
        let Some((cluster, writing)) = found.and_then(|c| c.writing.take().map(|w| (c, w))) else { return };
        // What is on the disk after a failed write is unknown: it is as if it were lost.
        cluster.register = if written { writing.register } else { GrantRegister::default() };
        let verdict = if written { Verdict::Granted(Evidence::TieBreaker) } else { Verdict::Unavailable };
        for (to, ballot) in writing.winners {
            self.answer(to, ballot, verdict);
        }
    }
}

impl Layer for Arbiter {
    type Input<'a> = ArbiterInput<'a>;
    type Output = ArbiterOutput;

    fn handle(&mut self, now: Instant, input: ArbiterInput<'_>) {
        match input {
            ArbiterInput::Message(from, bytes) => self.on_message(now, from, bytes),
            ArbiterInput::Gone(who) => {
                for cluster in self.clusters.values_mut() {
                    cluster.waiting.retain(|(asker, _)| *asker != who);
                }
            }
            ArbiterInput::Persisted(token) => self.on_written(token, true),
            ArbiterInput::PersistFailed(token) => self.on_written(token, false),
        }
        self.handle_timeout(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        let due = |c: &Cluster| c.writing.is_none() && c.decide_at.is_some_and(|at| at <= now);
        let names: Vec<String> =
            self.clusters.iter().filter(|(_, c)| due(c)).map(|(n, _)| n.clone()).collect();
        for name in names {
            self.decide(&name);
        }
    }

    fn poll_output(&mut self) -> Option<ArbiterOutput> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.clusters.values().filter(|c| c.writing.is_none()).filter_map(|c| c.decide_at).min()
    }
}
