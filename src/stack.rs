//! All layers of a node as one sans-IO [`Layer`].
//!
//! The order in which layers see things is fixed here and nowhere else: what node communication heard goes up to
//! membership and groups, what membership decides goes to groups, what groups order goes to the resource manager, and what
//! each of them wants goes down again, until nothing is left to do. Only then are packets built, so that everything of
//! one turn shares them.

mod calls;
mod carry;
mod fencing;
mod locks;
mod members;
mod nodes;
mod outbox;
mod partition;
mod services;
mod tie;

pub use members::PROGRAM_MEMBERS;
pub use services::Resident;

use crate::event::NodeEvent;
use bytes::Bytes;
use ocf_comm::rpc::{CallLimits, Calls};
use ocf_comm::{
    Change, ChangeError, Channel, ClusterKey, Endpoint, KeyError, KeyId, KeyStatus, Lane, PeerConfig,
    PeerStatus, Received, Secrets, Transmit,
};
use ocf_groups::{Groups, Guarantee, MemberId, OfferError, Position, Sending};
use ocf_membership::partitionable::PartitionConfig;
use ocf_membership::{Claim, Consensus, EvenSplit, Grant, PersistToken, Verdict, View};
use ocf_resource::executor::{self, Executor, RunId};
use ocf_resource::{Manager, Operation, OperationResult};
use ocf_stonith::{DeviceReport, FenceAction, Fencer};
use outbox::Outbox;
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// The group in which the resource managers of all nodes keep one history.
pub const MANAGER_GROUP: &str = "ocf.resource";

/// Configuration of every layer. Each part is described where it is defined.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Node communication.
    pub comm: ocf_comm::Config,
    /// Views, quorum, lease.
    pub membership: ocf_membership::Config,
    /// Ordered messages.
    pub groups: ocf_groups::Config,
    /// Running operations of agents.
    pub executor: executor::Config,
    /// What runs where. The first member of a cluster brings it.
    pub resources: ocf_resource::Config,
    /// Bounds of calls between nodes.
    pub calls: CallLimits,
    /// Fence devices.
    pub fencing: ocf_stonith::Config,
    /// What is done to a node that must be fenced: [`FenceAction::Off`] or [`FenceAction::Reboot`].
    pub fence_action: FenceAction,
    /// Groups that go on in any partition, beside those of the primary; `None`: none. They are a second stream with the limits of `groups`, so it
    /// may take as much memory again.
    pub partitions: Option<PartitionConfig>,
    /// Distributed locks; `None`: this cluster has none. The same on every node: each must take part in the directory.
    pub locks: Option<ocf_dlm::cluster::Config>,
}

/// What one life of a node starts with.
#[derive(Debug)]
pub struct Birth {
    /// Who it is. The incarnation is fresh.
    pub local: NodeInstance,
    /// Keys and generators of node communication.
    pub secrets: Secrets,
    /// The view record of an earlier life, if there is one.
    pub record: Option<Vec<u8>>,
    /// For jitter and delays.
    pub rng: Rng,
}

/// Why a stack could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// The configuration of node communication is wrong.
    #[error("node communication: {0}")]
    Comm(#[from] ocf_comm::ConfigErrors),
    /// Membership: its configuration, or the record of an earlier life.
    #[error("membership: {0}")]
    Membership(#[from] ocf_membership::NewError),
    /// The configuration of resources is wrong.
    #[error("resources: {0}")]
    Resources(pils::ConfigErrors),
    /// The configuration of fencing is wrong.
    #[error("fencing: {0}")]
    Fencing(pils::ConfigErrors),
    /// The configuration of locks is wrong.
    #[error("locks: {0}")]
    Locks(pils::ConfigErrors),
}

/// What arrives at a node.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A medium received something.
    Received(Received<'a>),
    /// Something else for node communication: what a medium reports about a path.
    Network(ocf_comm::Input<'a>),
    /// The record of [`Output::Persist`] is on stable storage.
    Persisted(PersistToken),
    /// It could not be written.
    PersistFailed(PersistToken),
    /// An operation of [`Output::Operate`] ended.
    Operated {
        /// Which.
        run: RunId,
        /// How.
        result: OperationResult,
    },
    /// A fence device answered.
    Device(DeviceReport),
    /// The tie-breaker answered.
    Tie {
        /// The ballot of the claim.
        ballot: ocf_membership::Ballot,
        /// The answer.
        verdict: Verdict,
    },
    /// How many of the hosts outside the cluster that it watches this node reaches.
    Reach {
        /// How many it reaches.
        hosts: u32,
        /// How many it watches.
        of: u32,
    },
}

impl<'a> From<Received<'a>> for Input<'a> {
    fn from(received: Received<'a>) -> Self {
        Self::Received(received)
    }
}

/// What a node wants done, in this order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Hand these datagrams to the medium.
    Transmit(Transmit),
    /// Replace the durable view record, then report [`Input::Persisted`].
    Persist {
        /// To name in the report.
        token: PersistToken,
        /// The whole record.
        record: Bytes,
    },
    /// Have a resource agent carry out an operation, then report [`Input::Operated`].
    Operate {
        /// To name in the report.
        run: RunId,
        /// What to do.
        operation: Operation,
    },
    /// End an operation early. It still reports.
    CancelOperation(RunId),
    /// Have a fence device carry out an action, then report [`Input::Device`].
    Fence(ocf_stonith::Run),
    /// The answer of this attempt is no longer waited for.
    CancelFence(ocf_stonith::AttemptId),
    /// A call between nodes: it is complete, or is to be run.
    Call(ocf_comm::rpc::Output),
    /// Tell the owner of a lock: an operation ended, the lock is in the way, or it is lost.
    Lock(ocf_dlm::cluster::Output),
    /// Ask the tie-breaker, then report [`Input::Tie`].
    AskTie(Claim),
    /// Tell the tie-breaker of an agreed view. It may be lost.
    NoteTie(Grant),
    /// Keep this of the resources that were agreed on for the next life ([`Stack::set_kept`]), as soon as possible.
    Keep(ocf_resource::Kept),
    /// The next event asks this member of a program for a state ([`PROGRAM_MEMBERS`]).
    Donor(MemberId),
    /// Tell the application.
    Event(NodeEvent),
}

/// A whole node without I/O.
#[derive(Debug)]
pub struct Stack {
    pub(crate) endpoint: Endpoint,
    pub(crate) consensus: Consensus,
    pub(crate) groups: Groups,
    pub(crate) manager: Manager,
    pub(crate) executor: Executor,
    pub(crate) fencer: Fencer,
    calls: Calls,
    residents: services::Residents,
    partition: Option<Box<partition::Partition>>,
    locks: Option<Box<ocf_dlm::cluster::Engine>>,
    /// Whose fencing was requested because locks wait for it.
    lock_fences: BTreeSet<NodeInstance>,
    /// Who left and may still hold locks, as membership was last told.
    lock_unproven: Vec<NodeInstance>,
    /// A view came: the fencing that locks wait for is to be asked for anew.
    lock_fences_due: bool,
    even_split: EvenSplit,
    /// An even split that waits for fencing.
    duel: Option<tie::Duel>,
    /// This node is to be given its access, as soon as it may be.
    access_due: bool,
    /// It was in the primary partition once, in this life.
    was_member: bool,
    local: NodeInstance,
    /// Where the nodes are that the configuration lists.
    listed: Vec<PeerConfig>,
    fence_action: FenceAction,
    /// When the last input came: outputs are settled lazily, in the call that asks for them.
    now: Instant,
    outbox: Outbox,
    /// What the manager wants ordered and the groups core did not take yet.
    broadcasts: VecDeque<Bytes>,
    /// Joiners of the manager's group that wait for state, by the token the manager was given.
    wanted: BTreeMap<u64, (MemberId, Position)>,
    wanted_last: u64,
    /// The last thing that the application was told about the primary partition is a view.
    told_primary: bool,
    /// A view is installed, and what belongs before it may not be told yet: nobody acts between the two.
    entering: bool,
    outputs: VecDeque<Output>,
}

impl Stack {
    /// A node at the start of a life. Nothing is sent before the first output is polled.
    ///
    /// # Errors
    /// [`StackError`]: every mistake of the first layer that has one.
    ///
    /// # Panics
    /// Never: a fresh groups core takes its first join.
    pub fn new(now: Instant, config: StackConfig, birth: Birth) -> Result<Self, StackError> {
        let Birth { local, secrets, record, mut rng } = birth;
        let nodes: Vec<NodeId> = config.membership.nodes.iter().map(|n| n.node).collect();
        config.resources.check(&nodes, |_| Ok(())).map_err(StackError::Resources)?;
        config.fencing.check().map_err(StackError::Fencing)?;
        let engine = |config| ocf_dlm::cluster::Engine::new(config, local).map(Box::new);
        let locks = config.locks.map(engine).transpose().map_err(StackError::Locks)?;
        let listed = config.comm.peers.clone();
        let endpoint = Endpoint::new(now, config.comm, local, secrets)?;
        let even_split = config.membership.policy.rules().even_split;
        let membership = ocf_membership::Config { names_unproven: locks.is_some(), ..config.membership };
        let consensus = Consensus::new(now, membership, local, record.as_deref(), rng.fork())?;
        let partition = config.partitions.map(|partitions| {
            Box::new(partition::Partition::new(partitions, config.groups.clone(), local, rng.fork()))
        });
        let mut groups = Groups::new(config.groups, local);
        groups.join(now, MANAGER_GROUP, 0).expect("a fresh core has no members");
        Ok(Self {
            endpoint,
            consensus,
            groups,
            manager: Manager::new(local, config.resources).with_nodes(nodes),
            executor: Executor::new(config.executor, rng.fork()),
            fencer: Fencer::new(config.fencing, local.node, rng.fork()),
            calls: Calls::new(config.calls),
            residents: services::Residents::default(),
            partition,
            locks,
            lock_fences: BTreeSet::new(),
            lock_unproven: Vec::new(),
            lock_fences_due: false,
            even_split,
            duel: None,
            access_due: false,
            was_member: false,
            local,
            listed,
            fence_action: config.fence_action,
            now,
            outbox: Outbox::default(),
            broadcasts: VecDeque::new(),
            wanted: BTreeMap::new(),
            wanted_last: 0,
            told_primary: false,
            entering: false,
            outputs: VecDeque::new(),
        })
    }

    /// What agents are told as the names of nodes, where that is not their id.
    pub fn set_names(&mut self, names: impl IntoIterator<Item = (NodeId, String)>) {
        self.manager.set_names(names);
    }

    /// What an earlier life of this node kept of the resources that were agreed on. See [`Manager::set_kept`].
    pub fn set_kept(&mut self, kept: ocf_resource::Kept) {
        self.manager.set_kept(kept);
    }

    /// What the cluster is to run, to be changed and handed back. See [`Manager::configuration`].
    #[must_use]
    pub fn configuration(&self) -> Option<ocf_resource::Config> {
        self.manager.configuration()
    }

    /// Somebody on this node knows that a resource has failed here. Nothing happens if it does not run here.
    pub fn notify_failure(&mut self, now: Instant, resource: &str, why: &str) {
        self.now = now;
        self.manager.notify_failure(resource, why);
    }

    /// Who this node is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// The view of the primary partition this node is in, if it is in one.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.consensus.view()
    }

    /// True if this node is in the primary and its lease was confirmed for `now`.
    #[must_use]
    pub fn is_active(&self, now: Instant) -> bool {
        self.consensus.is_active(now)
    }

    /// What is known of every configured peer, in order of node id.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        self.endpoint.peers(now)
    }

    /// Sends to all members of a group. See [`Groups::send`].
    ///
    /// # Errors
    /// See [`ocf_groups::SendError`]; nothing changed.
    pub fn send(
        &mut self,
        now: Instant,
        from: (&str, u32),
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<(), ocf_groups::SendError> {
        self.now = now;
        self.groups.send(now, from.0, from.1, guarantee, payload)
    }

    /// What decides whether a message to a group may be sent. See [`Groups::sending`].
    #[must_use]
    pub fn sending(&self) -> Sending {
        self.groups.sending()
    }

    /// The members of this node that may send to their groups. See [`Groups::senders`].
    pub fn senders(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.groups.senders()
    }

    /// Takes a message to a group that was accepted on the word of [`Stack::sending`]. See [`Groups::admit`].
    pub fn admit(&mut self, now: Instant, from: (&str, u32), guarantee: Guarantee, payload: Bytes) -> bool {
        self.now = now;
        self.groups.admit(now, from.0, from.1, guarantee, payload)
    }

    /// A message was refused because the window is full. See [`Groups::note_full`].
    pub const fn note_full(&mut self, now: Instant) {
        self.now = now;
        self.groups.note_full(now);
    }

    /// Stops or resumes handing out ordered messages. While stopped, they do not count as consumed, so that every
    /// sender's window closes in time; nothing is lost.
    pub fn hold_deliveries(&mut self, now: Instant, hold: bool) {
        self.now = now;
        self.groups.hold(now, hold);
        if let Some(partition) = &mut self.partition {
            partition.groups.hold(now, hold);
        }
    }

    /// Answers [`ocf_groups::Event::StateWanted`]. See [`Groups::offer_state`].
    ///
    /// # Errors
    /// See [`OfferError`]; nothing changed.
    pub fn offer_state(
        &mut self,
        now: Instant,
        (group, joiner, position): (&str, MemberId, Position),
        state: Bytes,
    ) -> Result<(), OfferError> {
        self.now = now;
        self.groups.offer_state(now, group, joiner, position, state)
    }

    /// Sends to one node, outside the ordered stream. Needs no quorum. See [`Endpoint::send`].
    ///
    /// # Errors
    /// See [`ocf_comm::SendError`]; nothing was queued.
    pub fn send_to(
        &mut self,
        now: Instant,
        to: NodeInstance,
        lane: Lane,
        message: Bytes,
    ) -> Result<(), ocf_comm::SendError> {
        self.now = now;
        self.endpoint.send(now, to, lane, Channel::APPLICATION, message)
    }

    /// Learns one more key of the cluster. See [`Endpoint::learn_key`].
    ///
    /// # Errors
    /// See [`KeyError`]; nothing changed.
    pub fn learn_key(&mut self, now: Instant, key: ClusterKey) -> Result<(), KeyError> {
        self.now = now;
        self.endpoint.learn_key(now, key)
    }

    /// Sends with this key from now on and moves the circuits to it. See [`Endpoint::use_key`].
    ///
    /// # Errors
    /// See [`KeyError`]; nothing changed.
    pub fn use_key(&mut self, now: Instant, id: KeyId) -> Result<(), KeyError> {
        self.now = now;
        self.endpoint.use_key(now, id)
    }

    /// Does not accept this key any more. See [`Endpoint::forget_key`].
    ///
    /// # Errors
    /// See [`KeyError`]; nothing changed.
    pub fn forget_key(&mut self, now: Instant, id: KeyId) -> Result<(), KeyError> {
        self.now = now;
        self.endpoint.forget_key(now, id)
    }

    /// Does not accept this key any more and ends the circuits that rest on it. See [`Endpoint::revoke_key`].
    ///
    /// # Errors
    /// See [`KeyError`]; nothing changed.
    pub fn revoke_key(&mut self, now: Instant, id: KeyId) -> Result<Vec<NodeInstance>, KeyError> {
        self.now = now;
        self.endpoint.revoke_key(now, id)
    }

    /// Every key of the cluster that this node knows, and whose circuits rest on it.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyStatus> {
        self.endpoint.keys()
    }

    /// This node has another address on a path: announces it, if it announced the one before.
    pub fn readvertise(&mut self, now: Instant, path: ocf_comm::PathId, moved: (SocketAddr, SocketAddr)) {
        self.endpoint.readvertise(now, path, moved);
    }

    /// Changes the paths to a peer, or how they are used, while the node runs. Peers themselves are members' business.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing changed. [`ChangeError::UnknownPeer`] for a change of a whole peer, too.
    pub fn change_paths(&mut self, now: Instant, change: &Change) -> Result<(), ChangeError> {
        self.now = now;
        if let Change::AddPeer(PeerConfig { node, .. }) | Change::RemovePeer(node) = change {
            return Err(ChangeError::UnknownPeer(*node));
        }
        self.endpoint.change(now, change)
    }

    /// The configuration of node communication, with the peers as they are now.
    #[must_use]
    pub const fn comm(&self) -> &ocf_comm::Config {
        self.endpoint.config()
    }

    /// Asks something of the resource manager. See [`Manager::request`].
    ///
    /// # Errors
    /// See [`ocf_resource::CommandError`]; nothing was sent.
    pub fn command(
        &mut self,
        now: Instant,
        command: ocf_resource::Command,
    ) -> Result<(), ocf_resource::CommandError> {
        self.now = now;
        self.manager.request(now, command)
    }

    /// A person says that this life of a node is certainly off.
    ///
    /// # Errors
    /// [`ocf_stonith::NotStanding`] if no fence request stands for it.
    pub fn confirm_fenced(
        &mut self,
        now: Instant,
        target: NodeInstance,
        who: &str,
    ) -> Result<(), ocf_stonith::NotStanding> {
        self.now = now;
        self.fencer.confirm(now, target, who)
    }

    /// Tries the fence devices of a node before they are needed; [`ocf_stonith::Event::Drilled`] tells what came of it. See
    /// [`Fencer::drill`].
    ///
    /// # Errors
    /// See [`ocf_stonith::DrillError`]; nothing has begun.
    pub fn drill(
        &mut self,
        now: Instant,
        node: NodeId,
        harm: bool,
        who: &str,
    ) -> Result<(), ocf_stonith::DrillError> {
        self.now = now;
        let known = self.endpoint.peers(now).into_iter().find(|peer| peer.node == node);
        let life = if node == self.local.node { Some(self.local) } else { known.and_then(|p| p.instance) };
        let target = life.unwrap_or_else(|| NodeInstance::new(node, Incarnation::new(0)));
        self.fencer.drill(now, target, harm, who)
    }

    /// Begins a clean departure: the manager moves away or stops what runs here;
    /// [`ocf_resource::Event::ReadyToLeave`] says that it has. Then call [`Stack::depart`].
    ///
    /// # Errors
    /// [`ocf_resource::CommandError::NotPrimary`]: nobody can take over; depart at once.
    pub fn prepare_to_leave(&mut self, now: Instant) -> Result<(), ocf_resource::CommandError> {
        self.now = now;
        self.manager.leave(now)
    }

    /// Tells every peer that this incarnation is gone for good. Drain the outputs, then drop it.
    pub fn depart(&mut self, now: Instant) {
        self.lose_locks(now, false);
        // All that was sent goes before the goodbye.
        self.settle_within(now, usize::MAX);
        self.endpoint.leave(now);
    }

    /// Tells every peer that this incarnation is dying, for panic and signal hooks. Drain the outputs, then drop it.
    pub fn last_gasp(&mut self, now: Instant) {
        self.lose_locks(now, false);
        self.endpoint.last_gasp(now);
    }

    /// Gives back the buffer of a [`Transmit`] that was sent.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.endpoint.recycle(buffer);
    }

    /// Bytes that wait because a circuit did not take them, over all peers.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// Members of a group, most senior first.
    #[must_use]
    pub fn members(&self, group: &str) -> Vec<MemberId> {
        self.groups.members(group)
    }

    /// Panics if a promise of any layer to itself does not hold; for simulators and tests.
    ///
    /// # Panics
    /// If there is a bug.
    pub fn check_invariants(&self) {
        self.endpoint.check_invariants();
        self.consensus.check_invariants();
        self.fencer.check_invariants();
        let partition = self.partition.as_ref().map(|partition| &partition.groups);
        for groups in partition.into_iter().chain([&self.groups]) {
            if let Err(broken) = groups.check_invariants() {
                panic!("groups: {broken}");
            }
        }
    }

    fn emit(&mut self, event: NodeEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    fn manager_group() -> Arc<str> {
        Arc::from(MANAGER_GROUP)
    }
}

impl Layer for Stack {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.now = now;
        // A node that was stopped may find messages before its timers: whether it may still act is asked first.
        self.consensus.handle_timeout(now);
        match input {
            Input::Network(input) => self.endpoint.handle(now, input),
            Input::Received(received) => self.endpoint.handle(now, ocf_comm::Input::Received(received)),
            Input::Persisted(token) => {
                self.consensus.handle(now, ocf_membership::Input::Persisted(token));
            }
            Input::PersistFailed(token) => {
                self.consensus.handle(now, ocf_membership::Input::PersistFailed(token));
            }
            Input::Operated { run, result } => {
                self.obey_membership(now);
                self.executor.handle(now, executor::Input::Done { run, result });
            }
            Input::Device(report) => {
                self.obey_membership(now);
                self.fencer.handle(now, ocf_stonith::Input::Device(report));
            }
            Input::Tie { ballot, verdict } => {
                self.consensus.handle(now, ocf_membership::Input::Tie { ballot, verdict });
            }
            Input::Reach { hosts, of } => {
                self.consensus.handle(now, ocf_membership::Input::Reach { hosts, of });
                self.manager.handle(now, ocf_resource::Input::Reach { hosts, of });
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.endpoint.handle_timeout(now);
        self.consensus.handle_timeout(now);
        self.obey_membership(now);
        self.groups.handle_timeout(now);
        if let Some(partition) = &mut self.partition {
            partition.handle_timeout(now);
        }
        self.residents.handle_timeout(now);
        self.manager.handle_timeout(now);
        self.executor.handle_timeout(now);
        self.fencer.handle_timeout(now);
        self.calls_timeout(now);
        if let Some(locks) = &mut self.locks {
            locks.handle_timeout(now);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.settle(self.now);
        }
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        // Everything is settled: now packets are built, with all that this turn has to say.
        loop {
            match self.endpoint.poll_output() {
                Some(ocf_comm::Output::Transmit(transmit)) => return Some(Output::Transmit(transmit)),
                Some(ocf_comm::Output::Event(event)) => self.on_endpoint(self.now, event),
                Some(_) => continue,
                None if self.goes_on() => {}
                None => return None,
            }
            self.settle(self.now);
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let timers = [
            self.endpoint.poll_timeout(),
            self.consensus.poll_timeout(),
            self.groups.poll_timeout(),
            self.partition.as_ref().and_then(|partition| partition.poll_timeout()),
            self.residents.poll_timeout(),
            self.manager.poll_timeout(),
            self.executor.poll_timeout(),
            self.fencer.poll_timeout(),
            self.calls.poll_timeout(),
            self.locks.as_ref().and_then(|locks| locks.poll_timeout()),
        ];
        timers.into_iter().flatten().min()
    }
}
