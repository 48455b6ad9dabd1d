//! A node on real sockets, real agents and real fence devices.

mod alive;
mod api;
mod application;
mod builder;
mod calls;
mod gate;
mod group_service;
mod host;
mod lock_service;
mod locks;
mod outside;
mod partition;
mod programs;
mod queue;
mod recorder;
mod services;
mod tie;

pub use alive::NotArmedError;
pub use api::ApiError;
pub use application::{Application, Here};
pub use builder::{NodeBuilder, StartError};
pub use calls::PendingCall;
pub use partition::PartitionGroups;

use crate::config::{NodeConfig, NodeEntry};
use crate::event::Numbered;
use crate::snapshot::Snapshot;
use crate::stack::Stack;
use alive::Alive;
use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use gate::{Accepted, Gate, Refused};
use host::NodeHost;
use ocf_comm::driver::{Handle, Running, Stopped};
use ocf_comm::{ClusterKey, KeyError, KeyId, KeyStatus, Lane};
use ocf_groups::{Guarantee, JoinError, LeaveError, MemberId, OfferError, Position};
use ocf_membership::{NodeVotes, OverrideError, Removal, View, VotesError};
use parking_lot::Mutex;
use pils::topic::Bus;
use pils::{ConfigErrors, Instant, NodeId, NodeInstance};
use queue::EventQueue;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// A running node: requests go in, one ordered stream of events comes out. A cheap clone refers to the same node.
///
/// It runs on a thread of its own, in this process, without special rights. When the last clone is dropped, or
/// [`Node::kill`] or [`Node::leave`] is called, it stops.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle<Stack, NodeHost>,
    running: Mutex<Option<Running<Stack, NodeHost>>>,
    events: Arc<EventQueue>,
    gate: Arc<Gate>,
    local: NodeInstance,
    addresses: Vec<SocketAddr>,
    config: NodeConfig,
    /// It has groups that go on in any partition.
    partitions: bool,
    /// What programs outside reach, while the node runs.
    api: Mutex<Option<api::Api>>,
    bus: Bus,
    /// What ends the machine if the node does not stop in order.
    alive: Option<Arc<Alive>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("local", &self.inner.local).finish_non_exhaustive()
    }
}

/// Why a request did nothing: the node stopped, or the layer that it is for refused it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError<E> {
    /// The node does not run any more.
    #[error("the node has stopped: {0}")]
    Stopped(Stopped),
    /// Refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] E),
}

/// Why a node was not added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddNodeError {
    /// The set of nodes refuses it.
    #[error(transparent)]
    Votes(#[from] VotesError),
    /// Nothing leads to it.
    #[error("no medium of this node leads to {0}: give an address with its port, or use discovery")]
    NoAddress(NodeId),
    /// The blocks of the disk belong to the nodes of the files, by their place.
    #[error(
        "the blocks of the shared disk that decides even splits are those of the nodes in the files: stop all nodes, list the new \
         one in every file, clear the disk and start them; or use an arbiter"
    )]
    SharedDisk,
}

/// Why the keys of a changed configuration were not taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// They cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The node refused one of the steps.
    #[error(transparent)]
    Key(#[from] RequestError<KeyError>),
}

impl Node {
    /// Starts to build a node.
    #[must_use]
    pub fn builder(config: NodeConfig) -> NodeBuilder {
        NodeBuilder::new(config)
    }

    /// Who this is.
    #[must_use]
    pub fn local(&self) -> NodeInstance {
        self.inner.local
    }

    /// What it was started with.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.inner.config
    }

    /// The addresses it listens at, one for each path.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.inner.addresses
    }

    /// The clock that [`Numbered::at`] refers to.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.inner.handle.clock().now()
    }

    /// The next event, waiting for it at most so long. `None` if there was none, or if the node has stopped and every
    /// event was taken. Each event is given once, to one of the clones.
    #[must_use]
    pub fn next_event(&self, wait: Duration) -> Option<Numbered> {
        let taken = self.inner.events.take(wait)?;
        if taken.resume {
            self.resume();
        }
        Some(taken.event)
    }

    /// Appends every event that waits to `events`, waiting for the first at most so long, and tells how many there were:
    /// one lock for all of them, where [`Node::next_event`] takes one for each.
    pub fn next_events(&self, wait: Duration, events: &mut VecDeque<Numbered>) -> usize {
        let (count, resume) = self.inner.events.take_all(wait, events);
        if resume {
            self.resume();
        }
        count
    }

    /// The stack had stopped handing out messages because nobody took them.
    fn resume(&self) {
        let _resumed = self.inner.handle.call(|stack, host, now| host.resume(stack, now));
    }

    /// The bus on which the node publishes its events by topic, for any part of this program, and for programs outside if the
    /// configuration has an `api`. Messages of groups are not among them.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.inner.bus
    }

    /// Events that wait to be taken.
    #[must_use]
    pub fn events_waiting(&self) -> usize {
        self.inner.events.len()
    }

    fn request<R, E>(
        &self,
        ask: impl FnOnce(&mut Stack, Instant) -> Result<R, E>,
    ) -> Result<R, RequestError<E>> {
        let called = self.inner.handle.call(|stack, host, now| {
            host.hand_in(stack, now);
            let answer = ask(stack, now);
            host.publish(stack, now);
            answer
        });
        match called {
            Ok(answer) => answer.map_err(RequestError::Refused),
            Err(stopped) => Err(RequestError::Stopped(stopped)),
        }
    }

    /// Joins a group as its member `local` of this node. Effective at the `Membership` event that names it.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn join(&self, group: &str, local: u32) -> Result<MemberId, RequestError<JoinError>> {
        self.request(|stack, now| stack.join(now, group, local))
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub fn leave_group(&self, group: &str, local: u32) -> Result<(), RequestError<LeaveError>> {
        self.request(|stack, now| stack.leave_group(now, group, local))
    }

    /// Sends to all members of a group, this one included. Never waits: a full window is an error, and a `Writable`
    /// event follows when there is room.
    ///
    /// The message leaves in the caller's thread if nothing else of this node is under way, else with others on the
    /// node's thread.
    ///
    /// # Errors
    /// See [`ocf_groups::SendError`].
    pub fn send(
        &self,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<(), RequestError<ocf_groups::SendError>> {
        let offered = self.inner.gate.offer((group, local), guarantee, payload);
        self.after_offer(offered)
    }

    /// As [`Node::send`], for many messages at the cost of one: takes them from the front of `payloads` as far as the
    /// window goes, and leaves the rest. On success at least one was taken, if there was one.
    ///
    /// # Errors
    /// As [`Node::send`], if not even the first is accepted.
    pub fn send_all(
        &self,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payloads: &mut VecDeque<Bytes>,
    ) -> Result<(), RequestError<ocf_groups::SendError>> {
        let offered = self.inner.gate.offer_all((group, local), guarantee, payloads);
        self.after_offer(offered)
    }

    fn after_offer(
        &self,
        offered: Result<Accepted, Refused>,
    ) -> Result<(), RequestError<ocf_groups::SendError>> {
        let handle = &self.inner.handle;
        match offered {
            Ok(Accepted::First) => handle.nudge().map_err(RequestError::Stopped),
            Ok(Accepted::Plenty) => handle.try_flush().map_err(RequestError::Stopped),
            Ok(Accepted::Behind) => {
                handle.wake();
                Ok(())
            }
            Err(Refused::Stopped(stopped)) => Err(RequestError::Stopped(stopped)),
            Err(Refused::Send(error)) => {
                if matches!(error, ocf_groups::SendError::Full { .. }) {
                    // The core must know, to say when there is room.
                    handle.wake();
                }
                Err(RequestError::Refused(error))
            }
        }
    }

    /// Answers a `StateWanted` event.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn offer_state(
        &self,
        group: &str,
        joiner: MemberId,
        position: Position,
        state: Bytes,
    ) -> Result<(), RequestError<OfferError>> {
        self.request(|stack, now| stack.offer_state(now, (group, joiner, position), state))
    }

    /// Groups that go on in any partition. `None` unless [`NodeConfig::partition_groups`] asks for them.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionGroups<'_>> {
        self.inner.partitions.then_some(PartitionGroups { node: self })
    }

    /// Sends to one node, outside the ordered stream. Needs no quorum.
    ///
    /// # Errors
    /// See [`ocf_comm::SendError`].
    pub fn send_to(
        &self,
        to: NodeInstance,
        lane: Lane,
        message: Bytes,
    ) -> Result<(), RequestError<ocf_comm::SendError>> {
        self.request(|stack, now| stack.send_to(now, to, lane, message))
    }

    /// Learns one more key of the cluster: it is accepted from now on. First of three steps to change the key without a
    /// pause; each is taken at every node before the next. An ordered message for each step does that, as
    /// `docs/security.md` shows.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn learn_key(&self, key: ClusterKey) -> Result<(), RequestError<KeyError>> {
        self.request(|stack, now| stack.learn_key(now, key))
    }

    /// Sends with this key from now on and moves every circuit to it, while messages flow. Second of three steps.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn use_key(&self, id: KeyId) -> Result<(), RequestError<KeyError>> {
        self.request(|stack, now| stack.use_key(now, id))
    }

    /// Does not accept this key any more. Last of three steps; [`Node::keys`] tells when nothing needs it.
    ///
    /// # Errors
    /// See [`KeyError`], among others if this node would lock itself or a peer out.
    pub fn forget_key(&self, id: KeyId) -> Result<(), RequestError<KeyError>> {
        self.request(|stack, now| stack.forget_key(now, id))
    }

    /// Does not accept this key any more, whatever rests on it: those peers are gone for good and have to start again with
    /// another key.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn revoke_key(&self, id: KeyId) -> Result<Vec<NodeInstance>, RequestError<KeyError>> {
        self.request(|stack, now| stack.revoke_key(now, id))
    }

    /// Every key of the cluster that this node knows, and whose circuits rest on it. Empty if the node has stopped.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyStatus> {
        self.inner.handle.inspect(|stack, _, _| stack.keys()).unwrap_or_default()
    }

    /// Takes over the keys of a changed configuration: learns those that are new, then sends with the one that the
    /// configuration says, then forgets those that are not in it any more. Of a configuration that was changed in three
    /// steps, each is one of the three steps of [`Node::learn_key`].
    ///
    /// # Errors
    /// [`ReloadError`], at the first step that is refused; those before it are done.
    pub fn reload_keys(&self, config: &NodeConfig) -> Result<(), ReloadError> {
        let ring = config.read_keys()?;
        for key in ring.keys() {
            self.learn_key(key.clone())?;
        }
        self.use_key(ring.sends_with())?;
        for known in self.keys() {
            if !ring.ids().any(|id| id == known.id) {
                self.forget_key(known.id)?;
            }
        }
        Ok(())
    }

    /// Asks something of the resource manager.
    ///
    /// # Errors
    /// See [`ocf_resource::CommandError`].
    pub fn command(
        &self,
        command: ocf_resource::Command,
    ) -> Result<(), RequestError<ocf_resource::CommandError>> {
        self.request(|stack, now| stack.command(now, command))
    }

    /// What the cluster is to run, to be changed and handed back with [`ocf_resource::Command::Configure`]: then no other change is
    /// overwritten that was made meanwhile. `None` before the cluster agrees on one.
    ///
    /// ```no_run
    /// # fn change(node: &ocf::Node) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut resources = node.configuration()?.ok_or("not yet a member")?;
    /// resources.groups.retain(|group| group.name != "old");
    /// node.command(ocf_resource::Command::Configure(resources.into()))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Stopped`] if the node does not run any more.
    pub fn configuration(&self) -> Result<Option<ocf_resource::Config>, Stopped> {
        self.inner.handle.call(|stack, _, _| stack.configuration())
    }

    /// Somebody on this machine knows that a resource has failed here: it is dealt with as if its monitor had found out. Nothing
    /// happens if it does not run here.
    ///
    /// # Errors
    /// [`Stopped`] if the node does not run any more.
    pub fn notify_failure(&self, resource: &str, why: &str) -> Result<(), Stopped> {
        self.inner.handle.call(|stack, _, now| stack.notify_failure(now, resource, why))
    }

    /// A person says that this life of a node is certainly off and stays off.
    ///
    /// # Errors
    /// [`ocf_stonith::NotStanding`] if this node is not trying to fence it.
    pub fn confirm_fenced(
        &self,
        target: NodeInstance,
        who: &str,
    ) -> Result<(), RequestError<ocf_stonith::NotStanding>> {
        self.request(|stack, now| stack.confirm_fenced(now, target, who))
    }

    /// Tries every fence device of a node, one after the other, before they are needed: an event [`ocf_stonith::Event::Drilled`] on this
    /// node says which are proven. Without harm the state is read, which proves way, password and plug; with harm each device also
    /// switches the node off and on, of which a node with one power supply dies. `who` is recorded.
    ///
    /// # Errors
    /// [`ocf_stonith::DrillError`] if no device fences it, or something is being done to it; nothing has begun then.
    pub fn drill(
        &self,
        node: NodeId,
        harm: bool,
        who: &str,
    ) -> Result<(), RequestError<ocf_stonith::DrillError>> {
        self.request(|stack, now| stack.drill(now, node, harm, who))
    }

    /// True if this node was given the access that it needs by its fence devices with `unfence = true`, or needs none. A program that
    /// writes by itself to what the cluster shares, or locks it, waits for this first.
    #[must_use]
    pub fn has_access(&self) -> bool {
        self.inner.handle.inspect(|stack, _, _| stack.has_access()).unwrap_or(false)
    }

    /// Changes the votes of the cluster's nodes while it runs; an event on every member says when they count. This node must be
    /// in the primary, and all nodes must have a [`NodeConfig::record`]. `votes` names every configured node.
    ///
    /// # Errors
    /// [`VotesError`] if the present members would be no quorum, or what else is wrong; nothing has changed then.
    pub fn set_votes(&self, votes: &[NodeVotes]) -> Result<(), RequestError<VotesError>> {
        self.request(|stack, now| stack.set_votes(now, votes))
    }

    /// Removes a node that has ended from the set of nodes while the cluster runs, agreed with and without it: it never counts again, and
    /// every member's record outlives the list of its configuration. An event on every member says when.
    ///
    /// # Errors
    /// [`VotesError`] if it could still act, nothing shows that it has ended, or what else is wrong; nothing has changed then.
    pub fn remove_node(&self, node: NodeId, why: Removal) -> Result<(), RequestError<VotesError>> {
        self.request(move |stack, now| stack.remove_node(now, node, why))
    }

    /// Adds a node to the set while the cluster runs, as `entry` would stand in the list of a configuration. Its addresses are agreed
    /// and recorded with the set, so that every node learns them, also one that is away or starts again with a file that does not
    /// list it. The configuration of the new node lists the others and itself. With 0 votes, and [`Node::set_votes`] once it is a
    /// member, the cluster loses no tolerance meanwhile.
    ///
    /// # Errors
    /// [`AddNodeError`] if the present members would be no quorum with it, or what else is wrong; nothing has changed then.
    pub fn add_node(&self, entry: &NodeEntry) -> Result<(), RequestError<AddNodeError>> {
        let config = self.config();
        if config.tie_breaker.as_ref().is_some_and(|entry| entry.disk.is_some()) {
            return Err(AddNodeError::SharedDisk.into());
        }
        let addresses = config.addresses_of(entry);
        if addresses.is_empty() && config.discovery.is_none() {
            return Err(AddNodeError::NoAddress(entry.id).into());
        }
        let (votes, name) =
            (NodeVotes::new(entry.id, entry.votes), entry.name.as_deref().unwrap_or_default());
        self.request(|stack, now| Ok(stack.add_node(now, votes, &addresses, name)?))
    }

    /// Has an operator decide the next even split of this node, which must not be in a primary that acts. He answers for it that
    /// nothing of the other half runs, or will before it has met this one. Good once; `reason` is recorded.
    ///
    /// # Errors
    /// [`OverrideError`] if there is nothing to decide, or no reason; nothing has changed then.
    pub fn override_tie(&self, reason: &str) -> Result<(), RequestError<OverrideError>> {
        self.request(|stack, now| stack.override_tie(now, reason))
    }

    /// The view of the primary partition this node is in, if it is in one and runs.
    #[must_use]
    pub fn view(&self) -> Option<View> {
        self.inner.handle.inspect(|stack, _, _| stack.view().cloned()).ok().flatten()
    }

    /// True if this node is in the primary and its lease is confirmed now: it may do what others must not do at the
    /// same time.
    #[must_use]
    pub fn is_active(&self) -> bool {
        // The time is read when it is this call's turn: waiting for that may outlast the lease.
        self.inner.handle.inspect(|stack, _, _| stack.is_active(self.now())).unwrap_or(false)
    }

    /// What every layer knows now.
    ///
    /// # Errors
    /// [`Stopped`] if the node failed.
    pub fn snapshot(&self) -> Result<Snapshot, Stopped> {
        self.inner
            .handle
            .inspect(|stack, host, io| Snapshot::of(self.now(), &self.inner.config, stack, host.number(), io))
    }

    /// Why the node does not run any more, or `None` while it runs.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        self.inner.handle.stopped()
    }

    /// Asks the cluster to take over what runs here. `ReadyToLeave` among the events of resources says that nothing runs
    /// here any more; then [`Node::leave`] departs without being fenced.
    ///
    /// # Errors
    /// Outside the primary partition nobody can take over: leave at once.
    pub fn prepare_to_leave(&self) -> Result<(), RequestError<ocf_resource::CommandError>> {
        self.request(Stack::prepare_to_leave)
    }

    /// Says goodbye to every peer and stops. Without [`Node::prepare_to_leave`] this node is fenced if anything ran here.
    pub fn leave(&self) {
        self.inner.end(|stack, now| stack.depart(now));
    }

    /// Stops at once, without a word to anyone, as if the process had been killed. For tests of what others do then.
    pub fn kill(&self) {
        self.stop();
    }

    fn stop(&self) {
        self.inner.stop();
    }
}

impl Inner {
    /// Says a last word and stops. The watchdog is let go only of a node on which nothing runs.
    fn end(&self, last_word: impl FnOnce(&mut Stack, Instant)) {
        let said = self.handle.call(|stack, _, now| {
            let idle = stack.is_idle();
            last_word(stack, now);
            idle
        });
        self.stop();
        match (said, &self.alive) {
            (Ok(true), Some(alive)) => alive.let_go(),
            (Ok(false), Some(_)) => {
                tracing::error!("something still ran here: the watchdog ends this machine");
            }
            (Err(why), _) => tracing::debug!(%why, "the node had stopped already"),
            (Ok(_), None) => {}
        }
    }

    fn stop(&self) {
        self.handle.stop();
        drop(self.api.lock().take());
        let running = self.running.lock().take();
        if let Some(running) = running {
            let why = running.join();
            tracing::debug!(node = %self.local, %why, "node stopped");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end(|stack, now| stack.last_gasp(now));
    }
}
