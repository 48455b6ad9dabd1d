//! Views of whoever can talk to each other, for what may go on in any partition, computed by all alike.
//!
//! [`Partitionable`] stands beside [`Consensus`](crate::Consensus) and has nothing to do with it: no quorum, no lease, no record, **and no
//! coordinator**. Every node tells all others whom it hears, all who would be together stop and tell each other where they are, each computes the
//! same view from that, and enters it when all have said that they ended their old one: two message delays and n² messages, with nobody whose
//! loss would have to be noticed first, where `Consensus` takes six delays and 6n messages through one node. After a partition each side has a
//! view of its own and goes on in it; when sides meet, one view follows from all of theirs. **Such a view
//! proves nothing about others**: two of them may act at the same time, so it must never decide who may lock, start or write what others
//! must not. See `PROTOCOL.md`, section 16, which says when to choose which.

mod agree;
mod wire;

use crate::links::{Links, bits_of};
use crate::{Ballot, Member, Proposal, View, ViewNumber};
use agree::Attempt;
use bytes::Bytes;
use core::time::Duration;
use ocf_comm::Lane;
use pils::{Instant, Layer, NodeInstance, Rng, TimerTable};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use wire::{Join, Message, Status};

/// The level of all these views: who speaks this protocol speaks it.
const LEVEL: u32 = 2;

/// Timers of [`Partitionable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionConfig {
    /// How long to collect news of who can talk to whom before a round starts, default 50 ms. Too low: more views when a network heals.
    pub gather: Duration,
    /// How long a round may take, default 5 s: among others, for all to fetch what they miss of their old view. Then another one
    /// begins.
    pub answer_timeout: Duration,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self { gather: Duration::from_millis(50), answer_timeout: Duration::from_secs(5) }
    }
}

/// A view from which another one follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its number.
    pub number: ViewNumber,
    /// Its transitional set: who came from it, sorted. They have delivered the same in it.
    pub came: Vec<NodeInstance>,
}

/// A view of one partition. Never a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Number, members and so on. No two views that share a member share a number, and those of a node grow; the quorum is all
    /// members. Who goes on from the parent named first joined earlier; all others join in this view.
    pub view: View,
    /// The views that it follows from: that whose members go on with their state, then the others by number. More than one: a merge.
    pub parents: Vec<Parent>,
    /// The view of the primary partition that **all** members said they were in when this was agreed; `None` if not. It may be
    /// over by now: whoever must know asks [`Consensus`](crate::Consensus).
    pub primary: Option<ViewNumber>,
}

impl PartitionView {
    /// True if several partitions became one.
    #[must_use]
    pub const fn is_merge(&self) -> bool {
        self.parents.len() > 1
    }

    /// Who came here from the same view as `instance`: with these it has delivered the same. Empty if it is no member.
    #[must_use]
    pub fn transitional_set(&self, instance: NodeInstance) -> &[NodeInstance] {
        self.parents.iter().find(|p| p.came.contains(&instance)).map_or(&[], |p| &p.came)
    }
}

/// What arrives at the core.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PartitionInput<'a> {
    /// Node communication: the peer can be talked to.
    Up(NodeInstance),
    /// Node communication: the peer is gone.
    Down(NodeInstance),
    /// A message of a peer's core.
    Message {
        /// Who sent it.
        from: NodeInstance,
        /// The bytes. Not trusted to be well-formed.
        message: &'a [u8],
    },
    /// The primary view that this node is in, if any, changed. Sides in a newer primary keep their state in a merge.
    Primary(Option<ViewNumber>),
    /// The layer above has stopped, as [`PartitionOutput::Block`] asked.
    Blocked {
        /// The ballot of the request.
        ballot: Ballot,
        /// What it would enter a view with; travels in [`Proposal::states`].
        state: Bytes,
    },
    /// The layer above holds all that it owes in its old view, as [`PartitionOutput::Flush`] asked.
    Flushed {
        /// The ballot of the request.
        ballot: Ballot,
    },
}

/// What the core wants done, in this order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PartitionOutput {
    /// Send a message; dropping it is allowed if the peer is down.
    Send {
        /// To whom.
        to: NodeInstance,
        /// In which lane.
        lane: Lane,
        /// The bytes.
        message: Bytes,
    },
    /// A view change begins: the layer above stops and answers [`PartitionInput::Blocked`].
    Block {
        /// To name in the answer.
        ballot: Ballot,
    },
    /// The layer above fetches what those who report the same view have of it, and answers [`PartitionInput::Flushed`].
    Flush {
        /// To name in the answer.
        ballot: Ballot,
        /// What is proposed.
        proposal: Proposal,
    },
    /// The view is agreed: the layer above delivers the rest of its old one, and enters it.
    Installed(PartitionView),
}

/// A bug put back, to show that the checkers find it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartitionSabotage {
    /// All who come into a merge go on with the state they had.
    MergesStates,
    /// A view says that it is the primary if one of its members is in it.
    ClaimsPrimary,
    /// Both sides of a partition may use one number.
    CountsViews,
    /// Who has ended its old view enters the next one without waiting for the others.
    EntersEarly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Begin,
    Round,
}

/// Agreement on views of whoever can talk to each other: a sans-IO [`Layer`]. O(nodes²) for an input, at most 64 nodes.
#[derive(Debug)]
pub struct Partitionable {
    config: PartitionConfig,
    local: NodeInstance,
    timers: TimerTable<Timer>,
    outputs: VecDeque<PartitionOutput>,
    loopback: VecDeque<Message>,
    up: BTreeSet<NodeInstance>,
    statuses: BTreeMap<NodeInstance, Status>,
    /// The last word of peers that are down: valid again if they come back, who may not have noticed.
    parked: BTreeMap<NodeInstance, Status>,
    announced: Option<Status>,
    primary: Option<ViewNumber>,
    installed: PartitionView,
    /// The newest round that this node took part in.
    promised: Ballot,
    highest_round: u64,
    attempt: Option<Attempt>,
    /// The newest word of each about where it is.
    joins: BTreeMap<NodeInstance, Join>,
    /// The newest round for which each has ended its old view.
    done: BTreeMap<NodeInstance, Ballot>,
    /// The layer above has stopped, or was asked to.
    stopped: bool,
    /// Messages that made no sense.
    dropped: u64,
    #[cfg(feature = "testing")]
    sabotage: Option<PartitionSabotage>,
}

impl Partitionable {
    /// A node that is alone, in a view of itself: the first output.
    #[must_use]
    pub fn new(config: PartitionConfig, local: NodeInstance, mut rng: Rng) -> Self {
        // Another one in each life, so that a number is hardly ever used again.
        let ballot = Ballot { round: rng.between(1, agree::FIRST_MAX), proposer: local };
        let view = View {
            number: agree::number_of(ballot),
            ballot,
            members: vec![Member { instance: local, joined: agree::number_of(ballot), votes: 1 }],
            previous: Vec::new(),
            causes: Vec::new(),
            quorum: 1,
            level: LEVEL,
            unproven: Vec::new(),
        };
        let installed = PartitionView { view, parents: Vec::new(), primary: None };
        Self {
            config,
            local,
            timers: TimerTable::new(),
            outputs: VecDeque::from([PartitionOutput::Installed(installed.clone())]),
            loopback: VecDeque::new(),
            up: BTreeSet::new(),
            statuses: BTreeMap::new(),
            parked: BTreeMap::new(),
            announced: None,
            primary: None,
            installed,
            promised: ballot,
            highest_round: ballot.round,
            attempt: None,
            joins: BTreeMap::new(),
            done: BTreeMap::new(),
            stopped: false,
            dropped: 0,
            #[cfg(feature = "testing")]
            sabotage: None,
        }
    }

    /// The view that this node is in.
    #[must_use]
    pub const fn view(&self) -> &PartitionView {
        &self.installed
    }

    /// Messages of peers that did not parse, or that nobody may send.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: PartitionSabotage) {
        self.sabotage = Some(what);
    }

    #[cfg(feature = "testing")]
    fn is(&self, bug: PartitionSabotage) -> bool {
        self.sabotage == Some(bug)
    }

    fn send_all(&mut self, to: &[NodeInstance], message: &Message) {
        let bytes = message.emit();
        for to in to.iter().copied() {
            if to == self.local {
                self.loopback.push_back(message.clone());
            } else if self.up.contains(&to) {
                let message = bytes.clone();
                self.outputs.push_back(PartitionOutput::Send { to, lane: Lane::Urgent, message });
            }
        }
    }

    /// Whom this node hears, itself included.
    fn row(&self) -> Vec<NodeInstance> {
        self.up.iter().copied().chain([self.local]).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The largest set of nodes around this one that all hear each other, as far as rows say; sorted.
    fn clique(&self) -> Vec<NodeInstance> {
        let hears_us = |(p, s): (&NodeInstance, &Status)| {
            (self.up.contains(p) && s.row.binary_search(&self.local).is_ok()).then_some(*p)
        };
        let around = self.statuses.iter().filter_map(hears_us);
        let mut nodes: Vec<NodeInstance> = around.chain([self.local]).collect();
        nodes.sort_unstable();
        nodes.truncate(crate::NODES_MAX);
        let row = self.row();
        let row_of = |p: &NodeInstance| self.statuses.get(p).map_or(&row, |s| &s.row);
        let hears: Vec<u64> = nodes.iter().map(|p| bits_of(&nodes, row_of(p).iter().copied())).collect();
        let together = |p: &NodeInstance| self.installed.view.contains(*p);
        let weight =
            |p: &NodeInstance| 1 << 20 | u128::from(together(p)) << 10 | u128::from(*p == self.local) << 60;
        let weights: Vec<u128> = nodes.iter().map(weight).collect();
        let links = Links::new(nodes, &hears, |_, _| true);
        links.list(links.heaviest(links.all(), &weights))
    }

    fn status(&self) -> Status {
        let (view, round) = (self.installed.view.number, self.highest_round);
        Status { view, stopped: self.stopped, round, row: self.row(), clique: self.clique() }
    }

    /// Those with whom this node should be in a view: who would be with the same as it would. That is the same for all of them, and each
    /// hears each, whatever links are broken elsewhere. Sorted.
    fn desired(&self) -> Vec<NodeInstance> {
        let Some(own) = &self.announced else { return Vec::new() };
        let agrees = |p: &NodeInstance| {
            *p == self.local || self.statuses.get(p).is_some_and(|s| s.clique == own.clique)
        };
        own.clique.iter().copied().filter(agrees).collect()
    }

    fn announce(&mut self) {
        let status = self.status();
        if self.announced.as_ref() == Some(&status) {
            return;
        }
        let peers: Vec<NodeInstance> = self.up.iter().copied().collect();
        self.send_all(&peers, &Message::Status(status.clone()));
        self.announced = Some(status);
    }

    /// Those with whom this node should be in a view, if they are not. All of them find that alike.
    fn to_join(&self) -> Option<Vec<NodeInstance>> {
        let desired = self.desired();
        if desired.is_empty() {
            return None;
        }
        let members: BTreeSet<NodeInstance> =
            self.installed.view.members.iter().map(|m| m.instance).collect();
        let same = members.iter().eq(desired.iter());
        let others = desired.iter().filter_map(|p| self.statuses.get(p));
        let apart = others.clone().any(|s| s.view != self.installed.view.number || s.stopped);
        (!same || apart || self.stopped).then_some(desired)
    }

    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(message) = self.loopback.pop_front() {
                self.on_message(self.local, message);
            }
            self.announce();
            self.advance(now);
            if self.loopback.is_empty() && self.announced.as_ref() == Some(&self.status()) {
                break;
            }
        }
        if self.attempt.is_none() && self.to_join().is_some() {
            self.timers.set_if_unset(Timer::Begin, now + self.config.gather);
        } else {
            self.timers.stop(Timer::Begin);
        }
    }

    /// One life of a node at a time.
    fn on_up(&mut self, peer: NodeInstance) {
        self.statuses.retain(|p, _| p.node != peer.node);
        self.joins.retain(|p, _| p.node != peer.node);
        self.done.retain(|p, _| p.node != peer.node);
        self.up.retain(|p| p.node != peer.node);
        self.parked.retain(|p, _| p.node != peer.node || *p == peer);
        if peer.node == self.local.node || self.up.len() >= crate::NODES_MAX {
            return;
        }
        if let Some(status) = self.parked.remove(&peer) {
            self.statuses.insert(peer, status);
        }
        self.up.insert(peer);
        self.announced = None;
    }

    fn on_message(&mut self, from: NodeInstance, message: Message) {
        match message {
            Message::Status(status) => {
                self.highest_round = self.highest_round.max(status.round);
                self.statuses.insert(from, status);
            }
            Message::Join(join) => self.on_join(from, *join),
            Message::Done { ballot } => self.on_done(from, ballot),
        }
    }

    /// What it said of a round does not count any more, even if it is back before it noticed.
    fn forget(&mut self, peer: NodeInstance) {
        self.joins.remove(&peer);
        self.done.remove(&peer);
    }
}

/// True if the bug was put back; never, without the feature `testing`.
macro_rules! sabotaged {
    ($core:expr, $bug:ident) => {{
        #[cfg(feature = "testing")]
        let yes = $core.is(crate::partitionable::PartitionSabotage::$bug);
        #[cfg(not(feature = "testing"))]
        let yes = false;
        yes
    }};
}
use sabotaged;

impl Layer for Partitionable {
    type Input<'a> = PartitionInput<'a>;
    type Output = PartitionOutput;

    fn handle(&mut self, now: Instant, input: PartitionInput<'_>) {
        match input {
            PartitionInput::Up(peer) => self.on_up(peer),
            PartitionInput::Down(peer) => {
                self.up.remove(&peer);
                if let Some(status) = self.statuses.remove(&peer) {
                    self.parked.insert(peer, status);
                }
                self.forget(peer);
            }
            PartitionInput::Message { from, message } => match Message::parse(message) {
                Ok(message) if self.up.contains(&from) => self.on_message(from, message),
                Ok(Message::Status(status)) if self.parked.len() < crate::NODES_MAX => {
                    self.parked.insert(from, status);
                }
                Ok(_) | Err(_) => self.dropped += 1,
            },
            PartitionInput::Primary(primary) => self.primary = primary,
            PartitionInput::Blocked { ballot, state } => self.on_blocked(ballot, state),
            PartitionInput::Flushed { ballot } => self.on_flushed(ballot),
        }
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expired(now) {
            match timer {
                Timer::Begin => {
                    if let Some(candidates) = self.to_join().filter(|_| self.attempt.is_none()) {
                        self.take_part(now, candidates, self.highest_round + 1);
                    }
                }
                Timer::Round => self.give_up(),
            }
        }
        self.settle(now);
    }

    fn poll_output(&mut self) -> Option<PartitionOutput> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }
}
