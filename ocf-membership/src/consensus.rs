use crate::quorum::VoteConfig;
use crate::{Config, Event, Input, NewError, NonPrimary, Output, Stats, View, ViewNumber};
use pils::{Instant, Layer, NodeInstance, Rng};
use std::collections::{BTreeSet, VecDeque};

/// Agreement on who is in the primary partition.
#[derive(Debug)]
pub struct Consensus {
    config: Config,
    votes: VoteConfig,
    local: NodeInstance,
    rng: Rng,
    up: BTreeSet<NodeInstance>,
    outputs: VecDeque<Output>,
    stats: Stats,
}

/// A value copy of what a node knows about its membership, for operators and for the layers above.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Who this node is.
    pub local: NodeInstance,
    /// Name of the state of the agreement: see PROTOCOL.md.
    pub state: &'static str,
    /// The primary view this node is in.
    pub view: Option<View>,
    /// True if the view's lease is not confirmed.
    pub suspended: bool,
    /// Until when this node may act as a primary without another confirmation.
    pub lease_until: Option<Instant>,
    /// Peers that are up, this node included.
    pub reachable: Vec<NodeInstance>,
    /// Counters.
    pub stats: Stats,
}

impl Consensus {
    /// Starts a life of a node. `record` is what [`Output::Persist`] wrote last in an earlier life, if anything.
    ///
    /// # Errors
    /// See [`NewError`].
    pub fn new(
        now: Instant,
        config: Config,
        local: NodeInstance,
        record: Option<&[u8]>,
        rng: Rng,
    ) -> Result<Self, NewError> {
        config.check().map_err(NewError::Config)?;
        let nodes = config.sorted_nodes();
        if !nodes.iter().any(|n| n.node == local.node) {
            return Err(NewError::NotConfigured(local.node));
        }
        let _: (Instant, Option<&[u8]>) = (now, record);
        let votes = VoteConfig { quorum: config.policy.quorum(&nodes), nodes };
        let (outputs, stats) = (VecDeque::new(), Stats::default());
        Ok(Self { config, votes, local, rng, up: BTreeSet::new(), outputs, stats })
    }

    /// Who this node is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// The primary view this node is in, suspended or not.
    #[must_use]
    pub const fn view(&self) -> Option<&View> {
        None
    }

    /// True if this node is in the primary and its lease was confirmed for `now`: it may act.
    #[must_use]
    pub const fn is_active(&self, now: Instant) -> bool {
        let _: Instant = now;
        false
    }

    /// Until when this node may act without another confirmation; `None` outside the primary and while suspended.
    #[must_use]
    pub const fn lease_until(&self) -> Option<Instant> {
        None
    }

    /// Counters.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Everything an operator may ask for, as values.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            local: self.local,
            state: "idle",
            view: None,
            suspended: false,
            lease_until: None,
            reachable: self.up.iter().copied().collect(),
            stats: self.stats,
        }
    }

    fn non_primary(&self) -> NonPrimary {
        let mut reachable: Vec<NodeInstance> = self.up.iter().copied().collect();
        reachable.push(self.local);
        reachable.sort_unstable();
        let votes = self.votes.sum(reachable.iter().copied());
        NonPrimary { last_primary: ViewNumber(0), reachable, votes, quorum: self.votes.quorum }
    }
}

impl Layer for Consensus {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Up(peer) => {
                self.up.insert(peer);
            }
            Input::Down(peer, _) => {
                self.up.remove(&peer);
            }
            Input::Message { .. }
            | Input::Persisted(_)
            | Input::PersistFailed(_)
            | Input::Blocked { .. }
            | Input::Flushed { .. }
            | Input::Synced(_) => return,
        }
        self.outputs.push_back(Output::Event(Event::NonPrimary(self.non_primary())));
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// A protocol bug to put back, so that a test can show that it would be noticed.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// Install a view without waiting for the leases of those it excludes.
    NoLeaseWait,
    /// Propose a fresh view although an accepted one is reported.
    IgnoreAccepted,
    /// Form a primary though the memory rule forbids it.
    NoMemoryRule,
    /// Go on without a confirmed lease.
    NoLeaseExpiry,
}
