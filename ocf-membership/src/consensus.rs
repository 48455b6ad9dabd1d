//! The core: construction, dispatch, what others may ask. The protocol is in the modules below this one.

mod accept;
mod ballot;
mod bugs;
mod decide;
mod desired;
mod former;
mod levels;
mod nodes;
mod renew;
mod status;
mod tie;
mod unproven;
mod votes;

#[cfg(feature = "testing")]
pub use bugs::Sabotage;
pub use nodes::Removal;

use bugs::Bug;

use crate::lease::Lease;
use crate::quorum::VoteConfig;
use crate::record::Record;
use crate::wire::{Accept, Message, Status};
use crate::{
    Ballot, BlankRecord, Config, DropReason, Durability, Event, Input, NewError, NodeVotes, NonPrimary,
    Output, PersistToken, Rules, Stats, View, ViewNumber,
};
use bytes::Bytes;
use ocf_comm::{DownReason, Lane};
use pils::{Instant, Layer, NodeInstance, Rng, TimerTable};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Ends of instances that are remembered.
const DOWN_MAX: usize = 256;

/// Agreement on who is in the primary partition.
///
/// A sans-IO [`Layer`]: give it [`Input`]s, carry out its [`Output`]s in order, call it again at its timeout.
/// Every input costs O(nodes^2) at most, and O(nodes) while nothing changes.
///
/// ```
/// use ocf_membership::{Config, Consensus, Event, NodeVotes, Output, Input};
/// use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
///
/// // A cluster of one, without a disk.
/// let me = NodeInstance::new(NodeId::new(1), Incarnation::new(77));
/// let config = Config {
///     durability: ocf_membership::Durability::Volatile,
///     ..Config::new([NodeVotes::new(me.node, 1)])
/// };
/// let mut consensus = Consensus::new(Instant::ZERO, config, me, None, Rng::new(1))?;
/// while consensus.view().is_none() {
///     let due = consensus.poll_timeout().expect("there is something to wait for");
///     consensus.handle_timeout(due);
///     while let Some(output) = consensus.poll_output() {
///         if let Output::Event(Event::Installed(view)) = output {
///             assert_eq!(view.senior().instance, me);
///         }
///     }
/// }
/// # Ok::<(), ocf_membership::NewError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Consensus {
    config: Config,
    /// The votes of the configuration.
    configured: VoteConfig,
    /// Those in force, as far as this node knows.
    votes: VoteConfig,
    /// The revision of those that the layers above know to count.
    told_votes: u64,
    rules: Rules,
    local: NodeInstance,
    rng: Rng,
    started: Instant,
    timers: TimerTable<Timer>,
    outputs: VecDeque<Output>,
    /// Messages of this node to itself: it is an accepter of its own ballots like any other.
    loopback: VecDeque<Message>,
    stats: Stats,
    /// The timeout that the driver was last given; lateness beyond it is a stall.
    armed: Option<Instant>,
    // What is known of others.
    up: BTreeSet<NodeInstance>,
    /// Who can be talked to and is not in the set of nodes.
    strangers: BTreeSet<NodeInstance>,
    down: BTreeMap<NodeInstance, DownReason>,
    statuses: BTreeMap<NodeInstance, Status>,
    /// The last word of peers that fell silent: valid again if they come back.
    parked: BTreeMap<NodeInstance, Status>,
    announced: Option<Status>,
    levels: levels::Heard,
    /// Instances that are not to be proposed, and until when.
    held: BTreeMap<NodeInstance, status::Hold>,
    // Agreement.
    voteless: bool,
    unfit_until: Option<Instant>,
    promised: Ballot,
    highest_round: u64,
    /// When a ballot of somebody else last made progress here.
    progress: Option<Instant>,
    awaiting: Option<accept::AwaitingBlock>,
    /// When the answer to `promised` was sent: any lease that follows from that ballot counts from here.
    state_sent: Option<Instant>,
    pending: Option<accept::Pending>,
    accepted: Option<accept::Accepted>,
    record: Option<Record>,
    chosen: Option<(View, VoteConfig)>,
    installed: Option<Installed>,
    /// The lease of the accepted view, collected before it is installed.
    next_lease: Option<Lease>,
    /// Who left and may not have ended: what the layer above said last, before that what the newest view says.
    unproven: Vec<NodeInstance>,
    /// When this node last confirmed the lease of each instance.
    acks: BTreeMap<NodeInstance, Instant>,
    next_token: u64,
    // Coordination.
    round: Option<ballot::Round>,
    retry_at: Option<Instant>,
    backoff: u32,
    /// The last primary of which too few are here, and since when this node's ballots find that.
    forgetting: Option<(ViewNumber, Instant)>,
    reported: Option<NonPrimary>,
    /// The last view that this node was in.
    last: Option<ViewNumber>,
    /// An operator decides the next even split, for this reason.
    overridden: Option<String>,
    /// Votes that this node would change to.
    wanted: Option<votes::Wanted>,
    /// It was in a view once, in this life or an earlier one.
    was_member: bool,
    /// The layers above were told that this node is not in the set any more.
    removed: bool,
    /// How many hosts outside the cluster this node reaches, of how many.
    reach: (u32, u32),
    /// The desired members may have changed.
    dirty: bool,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

/// The primary view that this node is in.
#[derive(Clone, Debug)]
struct Installed {
    view: View,
    /// The ballot it was accepted in; a promise above it ends this node's confirmations of leases.
    under: Ballot,
    synced: bool,
    suspended: Option<Instant>,
    /// The layers above were told that this node is outside. It keeps its state, and goes on only by another view.
    dormant: bool,
    lease: Lease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Send renewals.
    Renew,
    /// The lease runs out.
    LeaseEnd,
    /// Suspended for too long: becomes dormant.
    GiveUp,
    /// The coordinator's ballot: answers are late, or the leases of excluded nodes have ended.
    Round,
    /// Start a ballot.
    Ballot,
    /// Tell the layers above what is reachable.
    Report,
    /// Somebody who was held back may come again; or this node is fit again.
    Release,
    /// An order to change votes is out of date, or the members have stayed the same for long.
    Votes,
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
    /// The newest primary view that this node knows to be agreed, whether it is in it or not.
    pub newest: ViewNumber,
    /// The highest ballot promised.
    pub promised: Ballot,
    /// True if the view's lease is not confirmed.
    pub suspended: bool,
    /// True if this node has the state of its view.
    pub synced: bool,
    /// True if this node's votes count towards a quorum.
    pub has_vote: bool,
    /// Until when this node may act as a primary without another confirmation.
    pub lease_until: Option<Instant>,
    /// The votes in force as the policy weighs them, sorted by node.
    pub votes: Vec<NodeVotes>,
    /// How many of them a primary needs.
    pub quorum: u32,
    /// The view that brought these votes; of those of the configuration, [`Config::votes_revision`].
    pub votes_revision: u64,
    /// The feature level that the cluster runs at, as far as this node knows; zero before the first view.
    pub level: u32,
    /// Who can be talked to, this node included; sorted.
    pub reachable: Vec<NodeInstance>,
    /// Who should be in the next view, as this node sees it; sorted.
    pub desired: Vec<NodeInstance>,
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
        let rules = config.policy.rules();
        let configured = VoteConfig::of(&*config.policy, &config.sorted_nodes(), config.votes_revision);
        let configured = configured.unwrap_or_else(|| unreachable!("the configuration was checked"));
        if !configured.nodes.iter().any(|n| n.node == local.node) {
            return Err(NewError::NotConfigured(local.node));
        }
        let durable = config.durability == Durability::Durable;
        let record = record.filter(|_| durable).map(|bytes| Record::open(bytes, local.node)).transpose()?;
        let voteless = starts_voteless(&config, rules, record.as_ref());
        let promised = record.as_ref().map_or(Ballot::NONE, |r| r.ballot);
        let changed = record.as_ref().filter(|r| r.votes.revision > configured.revision);
        let votes = changed.map_or_else(
            || configured.clone(),
            |r| VoteConfig { before: r.votes.before.clone(), ..r.votes.whole() },
        );
        let consensus = Self {
            config,
            told_votes: configured.revision,
            configured,
            votes,
            rules,
            local,
            rng,
            started: now,
            timers: TimerTable::new(),
            outputs: VecDeque::new(),
            loopback: VecDeque::new(),
            stats: Stats::default(),
            armed: None,
            up: BTreeSet::new(),
            strangers: BTreeSet::new(),
            down: BTreeMap::new(),
            statuses: BTreeMap::new(),
            parked: BTreeMap::new(),
            announced: None,
            levels: levels::Heard::default(),
            held: BTreeMap::new(),
            voteless,
            unfit_until: None,
            promised,
            highest_round: promised.round,
            progress: None,
            awaiting: None,
            state_sent: None,
            pending: None,
            accepted: None,
            was_member: record.is_some(),
            unproven: Vec::new(),
            record,
            chosen: None,
            installed: None,
            next_lease: None,
            acks: BTreeMap::new(),
            next_token: 1,
            round: None,
            retry_at: None,
            backoff: 0,
            forgetting: None,
            reported: None,
            last: None,
            overridden: None,
            wanted: None,
            removed: false,
            reach: (0, 0),
            dirty: true,
            #[cfg(feature = "testing")]
            sabotage: None,
        };
        Ok(consensus.begun(now))
    }

    /// Says what follows from the start alone.
    fn begun(mut self, now: Instant) -> Self {
        self.tell_peers(&self.configured.clone());
        self.report_soon(now);
        self.settle(now);
        self
    }

    /// What the further course depends on, without counters; and sets the generator back. Two cores that tell the same here, and run
    /// under the same configuration, go on alike: for those who explore every course.
    #[cfg(feature = "testing")]
    pub fn essence(&mut self) -> impl core::fmt::Debug + use<'_> {
        self.rng = Rng::new(1);
        self.stats = Stats::default();
        let peers = (&self.up, &self.strangers, &self.down, &self.statuses, &self.parked, &self.held);
        let said = (
            &self.announced,
            &self.levels,
            &self.reported,
            self.last,
            self.told_votes,
            self.was_member,
            self.removed,
        );
        let voice =
            (&self.votes, self.voteless, self.unfit_until, &self.wanted, &self.overridden, self.reach);
        let promise = (self.promised, self.highest_round, self.progress, self.awaiting, self.state_sent);
        let agreed = (&self.pending, &self.accepted, &self.record, &self.chosen, &self.installed);
        let leases = (&self.next_lease, &self.acks, &self.unproven, self.started, self.next_token);
        let ballot = (&self.round, self.retry_at, self.backoff, self.forgetting, self.dirty);
        (self.local, &self.timers, self.armed, (peers, said, voice), (promise, agreed), (leases, ballot))
    }

    /// Who this node is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// The primary view this node is in, suspended or not. `None` outside, also while it keeps the state of its last view.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.installed.as_ref().filter(|i| !i.dormant).map(|i| &i.view)
    }

    /// True if this node is in the primary and its lease was confirmed for `now`: it may act.
    #[must_use]
    pub fn is_active(&self, now: Instant) -> bool {
        self.lease_until().is_some_and(|until| now < until)
    }

    /// Until when this node may act without another confirmation ([`Instant::MAX`] if it is a quorum alone); `None`
    /// outside the primary and while suspended.
    #[must_use]
    pub fn lease_until(&self) -> Option<Instant> {
        self.installed.as_ref().filter(|i| i.suspended.is_none())?;
        self.confirmed_until()
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
            state: self.state_name(),
            view: self.view().cloned(),
            newest: self.newest_known(),
            promised: self.promised,
            suspended: self.installed.as_ref().is_some_and(|i| i.suspended.is_some()),
            synced: self.installed.as_ref().is_some_and(|i| i.synced),
            has_vote: !self.voteless,
            lease_until: self.lease_until(),
            votes: self.votes.nodes.clone(),
            quorum: self.votes.quorum,
            votes_revision: self.votes.revision,
            level: self.level(),
            reachable: self.row(),
            desired: self.desired(),
            stats: self.stats,
        }
    }

    /// What the agreement is doing: `collecting`, `asking`, `proposing` and `installing` on a coordinator, `blocking`,
    /// `answered`, `accepting` and `accepted` on an accepter, else `primary`, `suspended`, `dormant` or `outside`.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        if let Some(round) = &self.round {
            return round.phase.name();
        }
        let open = self.is_unfinished();
        match (&self.awaiting, &self.pending, &self.installed) {
            (Some(_), _, _) => "blocking",
            (_, Some(_), _) => "accepting",
            (_, _, Some(i)) if open && self.accepted_above(i.view.number) => "accepted",
            (_, _, Some(_)) if open => "answered",
            (_, _, Some(i)) if i.dormant => "dormant",
            (_, _, Some(i)) if i.suspended.is_some() => "suspended",
            (_, _, Some(_)) => "primary",
            (_, _, None) => "outside",
        }
    }

    /// Checks what must hold between any two calls.
    ///
    /// # Panics
    /// If an invariant is broken, with the invariant in words.
    pub fn check_invariants(&self) {
        if let Some(installed) = &self.installed {
            assert!(installed.view.contains(self.local), "a node is in the view it installed");
            assert!(!self.voteless, "a member of a primary has a vote");
            let (chosen, _) = self.chosen.as_ref().expect("an installed view is known to be agreed");
            assert!(
                chosen.number >= installed.view.number,
                "the newest agreed view is not older than the installed"
            );
            assert!(installed.under <= self.promised, "an accepted ballot was promised");
            let silent = installed.suspended.is_some() && installed.lease.surrendered;
            assert!(!installed.dormant || silent, "who was told to be outside has no lease");
        }
        if let Some(accepted) = &self.accepted {
            assert!(accepted.accept.ballot <= self.promised, "an accepted ballot was promised");
        }
        if let Some(round) = &self.round {
            assert!(round.ballot.proposer == self.local, "a coordinator runs its own ballot");
            assert!(round.candidates.contains(&self.local), "a coordinator is its own candidate");
            assert!(
                self.promised <= round.ballot,
                "a coordinator that promised more has given up its ballot"
            );
        }
        assert!(!self.up.contains(&self.local), "a node is not its own peer");
        assert!(self.statuses.keys().all(|p| self.up.contains(p)), "only peers that are up have a status");
        assert!(self.up.is_disjoint(&self.strangers), "a stranger is no peer");
        assert!(self.down.len() <= DOWN_MAX, "the ends of instances are bounded");
    }

    fn accepted_above(&self, number: ViewNumber) -> bool {
        self.accepted.as_ref().is_some_and(|a| a.accept.proposal.view.number > number)
    }

    /// True while a promise keeps this member from confirming leases of its view.
    fn is_unfinished(&self) -> bool {
        self.installed.as_ref().is_some_and(|i| self.promised > i.under)
    }

    fn is_dormant(&self) -> bool {
        self.installed.as_ref().is_some_and(|i| i.dormant)
    }

    fn newest_known(&self) -> ViewNumber {
        let own = self.chosen.as_ref().map(|(view, _)| view.number);
        let record = self.record.as_ref().map(|r| r.view.number);
        let record =
            record.max(self.accepted.as_ref().map(|a| ViewNumber(a.accept.proposal.view.number.0 - 1)));
        let others = self.statuses.values().filter_map(|s| s.known.as_ref().map(|k| k.number)).max();
        own.max(record).max(others).unwrap_or_default()
    }

    fn send(&mut self, to: NodeInstance, message: &Message) {
        self.send_all(&[to], message);
    }

    /// Sends the same to several.
    fn send_all(&mut self, to: &[NodeInstance], message: &Message) {
        let mut bytes = None;
        for to in to.iter().copied() {
            if to == self.local {
                self.loopback.push_back(message.clone());
            } else if self.up.contains(&to) || self.strangers.contains(&to) {
                let message = bytes.get_or_insert_with(|| message.emit()).clone();
                self.outputs.push_back(Output::Send { to, lane: Lane::Urgent, message });
            }
        }
    }

    fn event(&mut self, event: Event) {
        tracing::debug!(node = %self.local, ?event, "membership");
        self.outputs.push_back(Output::Event(event));
    }

    fn token(&mut self) -> PersistToken {
        let token = PersistToken(self.next_token);
        self.next_token += 1;
        token
    }

    fn on_message(&mut self, now: Instant, from: NodeInstance, message: Message) {
        match message {
            Message::Status(status) => self.on_status(now, from, status),
            Message::Prepare { ballot, candidates } => self.on_prepare(now, from, ballot, candidates),
            Message::Nack { ballot, promised } => self.on_nack(now, ballot, promised),
            Message::State(state) => self.on_state(now, from, *state),
            Message::Accept(accept) => self.on_accept(now, from, *accept),
            Message::Accepted { ballot } => self.on_accepted(now, from, ballot),
            Message::Install { ballot, known } => self.on_install(now, ballot, &known),
            Message::Renew { value, sequence } => self.on_renew(now, from, value, sequence),
            Message::RenewAck { value, sequence } => self.on_renew_ack(from, value, sequence),
            Message::Levels { levels, in_force } => self.on_levels(from, levels, in_force),
        }
    }

    fn on_bytes(&mut self, now: Instant, from: NodeInstance, bytes: &[u8]) {
        self.stats.messages = self.stats.messages.wrapping_add(1);
        let stranger = self.strangers.contains(&from);
        if !stranger && !self.up.contains(&from) {
            self.drop_message(from, DropReason::UnknownNode);
            return;
        }
        match Message::parse(bytes) {
            // It will not say it again if it is added.
            Ok(Message::Status(status)) if stranger => {
                self.parked.insert(from, status);
            }
            Ok(Message::Levels { levels, in_force }) if stranger => self.on_levels(from, levels, in_force),
            Ok(_) if stranger => self.drop_message(from, DropReason::UnknownNode),
            Ok(message) => self.on_message(now, from, message),
            Err(error) => {
                tracing::debug!(node = %self.local, %from, %error, "malformed membership message");
                self.drop_message(from, DropReason::Malformed);
            }
        }
    }

    fn drop_message(&mut self, from: NodeInstance, reason: DropReason) {
        tracing::trace!(node = %self.local, %from, ?reason, "membership message dropped");
        self.stats.count_drop(reason);
    }

    /// What follows from any input: messages to oneself, the lease, the next ballot, news for the peers.
    fn settle(&mut self, now: Instant) {
        // Each message to oneself moves a ballot one step on, so this ends: a ballot has six.
        loop {
            while let Some(message) = self.loopback.pop_front() {
                self.on_message(now, self.local, message);
            }
            self.check_lease(now);
            if core::mem::take(&mut self.dirty) {
                self.evaluate(now);
            }
            self.announce();
            if self.loopback.is_empty() && !self.dirty {
                break;
            }
        }
        self.arm_lease(now);
        self.armed = self.timers.next();
    }

    fn on_timer(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Renew => self.send_renewals(now),
            // Checked after every input.
            Timer::LeaseEnd => {}
            Timer::GiveUp => self.give_up(now),
            Timer::Round => self.on_round_timer(now),
            Timer::Ballot => self.on_ballot_timer(now),
            Timer::Report => self.report(),
            Timer::Release => self.release(now),
            Timer::Votes => self.on_votes_timer(now),
        }
    }
}

impl Layer for Consensus {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.notice_stall(now);
        match input {
            Input::Up(peer) => self.on_up(now, peer),
            Input::Down(peer, reason) => self.on_down(now, peer, reason),
            Input::Message { from, message } => self.on_bytes(now, from, message),
            Input::Persisted(token) => self.on_persisted(now, token),
            Input::PersistFailed(token) => self.on_persist_failed(now, token),
            Input::Blocked { ballot, state } => self.on_blocked(now, ballot, state),
            Input::Flushed { ballot } => self.on_flushed(now, ballot),
            Input::Synced(number) => self.on_synced(number),
            Input::Unproven(list) => self.unproven = sorted(list.to_vec()),
            Input::Tie { ballot, verdict } => self.on_verdict(now, ballot, verdict),
            Input::Reach { hosts, of } => {
                self.dirty |= self.reach != (hosts, of);
                self.reach = (hosts, of);
            }
        }
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.notice_stall(now);
        while let Some(timer) = self.timers.expired(now) {
            self.on_timer(now, timer);
        }
        self.settle(now);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }
}

/// Whether the voice of a node that has this record counts at its start.
fn starts_voteless(config: &Config, rules: Rules, record: Option<&Record>) -> bool {
    let volatile = config.durability == Durability::Volatile;
    let blank = || volatile || config.blank_record == BlankRecord::WaitForAll;
    rules.wait_for_all || record.map_or_else(blank, |r| r.voteless)
}

/// The bytes of an upper layer that was not asked for any.
fn no_state() -> Bytes {
    Bytes::new()
}

/// Convenience for the modules below.
fn sorted(mut instances: Vec<NodeInstance>) -> Vec<NodeInstance> {
    instances.sort_unstable();
    instances.dedup();
    instances
}

type AcceptMessage = Accept;
