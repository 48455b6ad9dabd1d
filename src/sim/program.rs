use super::history::Entry;
use super::network::{Burst, owner};
use super::world::{Event, World, index};
use bytes::Bytes;
use core::fmt::Debug;
use core::hash::Hash;
use core::time::Duration;
use pils::{Instant, Layer, NodeId, NodeInstance};
use std::net::SocketAddr;

/// What runs on every node, and the world around it: the part of a simulation that its user writes.
///
/// The value itself is the **world**: it is one for all nodes, and sees and does what no node can. Nodes share nothing
/// with one another but datagrams.
pub trait Program: Sized {
    /// The software of one life of one node.
    type Layer: Layer;
    /// Something a node waits for and is told by [`Ctx::later`] or [`World::complete`]; dies with the incarnation.
    type Completion: Debug;
    /// Something that happens in the world whether or not nodes run; scheduled by [`World::schedule`].
    type Event: Debug;
    /// What the program writes into the history, for checkers and for people. Its hash is part of the trace.
    type Record: Debug + Hash;

    /// Starts the software of a node. `record` is what its disk holds, if anything.
    fn boot(&mut self, ctx: &mut Ctx<'_, Self>, record: Option<Bytes>) -> Self::Layer;

    /// Datagrams arrived at the node's socket.
    fn received(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Self::Layer, datagrams: Datagrams<'_>);

    /// The interface under a path of the node lost its carrier, or has it again.
    fn carrier(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Self::Layer, path: u8, up: bool) {
        let _ignored_by_default = (ctx, layer, path, up);
    }

    /// A node has another address on a path. If it is this one, its own driver says so; otherwise an operator does, who
    /// has written it into every node's configuration.
    fn moved(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Self::Layer, moved: Moved) {
        let _ignored_by_default = (ctx, layer, moved);
    }

    /// The write `token` of [`Ctx::persist`] is durable, or failed and changed nothing.
    fn persisted(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Self::Layer, token: u64, durable: bool) {
        let _ignored_by_default = (ctx, layer, token, durable);
    }

    /// What the node waited for has come.
    fn completed(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Self::Layer, completion: Self::Completion);

    /// Does what the layer wants done. Requests to the layer are allowed here; what they put out is carried out next.
    fn carry_out(
        &mut self,
        ctx: &mut Ctx<'_, Self>,
        layer: &mut Self::Layer,
        output: <Self::Layer as Layer>::Output,
    );

    /// Something scheduled by [`World::schedule`] happens.
    fn happens(&mut self, world: &mut World<Self>, event: Self::Event) {
        let _ignored_by_default = (world, event);
    }

    /// Sees each entry of the history before the checkers do, and may react to it: this is how a world sets traps.
    fn noticed(&mut self, world: &mut World<Self>, entry: &Entry<Self::Record>) {
        let _ignored_by_default = (world, entry);
    }

    /// After the last fault, at the true time `now`: `Ok` if all is well, else what is still missing. Nodes in the order
    /// of their ids.
    ///
    /// # Errors
    /// What is missing, for the report of a liveness failure.
    fn settled(&self, now: Instant, nodes: &[Option<Self::Layer>]) -> Result<(), String>;
}

/// Datagrams as a socket gives them to a node.
#[derive(Debug)]
pub struct Datagrams<'a> {
    /// The sender's address; not proof of anything.
    pub from: SocketAddr,
    /// The receiver's path.
    pub path: u8,
    /// Size of each datagram in `data`; the last one may be shorter.
    pub segment: usize,
    /// The datagrams, back to back.
    pub data: &'a mut [u8],
}

/// An address that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Whose.
    pub node: NodeId,
    /// On which path.
    pub path: u8,
    /// The address before that one.
    pub was: SocketAddr,
    /// The address now.
    pub is: SocketAddr,
}

/// What a node can see and do while one of its callbacks runs.
#[derive(Debug)]
pub struct Ctx<'a, P: Program> {
    world: &'a mut World<P>,
    node: usize,
    instance: NodeInstance,
    now: Instant,
}

impl<'a, P: Program> Ctx<'a, P> {
    pub(crate) fn new(world: &'a mut World<P>, node: usize, instance: NodeInstance) -> Self {
        let now = world.hosts[node].clock.show(world.now());
        Self { world, node, instance, now }
    }

    /// What the node's own clock shows.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Who this is.
    #[must_use]
    pub const fn instance(&self) -> NodeInstance {
        self.instance
    }

    /// Position of this node among all: its id less one.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.node
    }

    /// Sends datagrams of `segment` bytes each (the last may be shorter) from a path of this node. What is addressed to
    /// nobody, or to another path, is lost.
    pub fn transmit(&mut self, path: u8, to: SocketAddr, segment: usize, data: Vec<u8>) {
        let Some((node, net)) = owner(to) else { return };
        let Some(peer) = index(node).filter(|_| net == path && path < self.world.profile.paths) else {
            return;
        };
        if to != self.world.address(node, path) {
            return;
        }
        let (from, segment) = (self.world.address(self.instance.node, path), segment.max(1));
        self.world.transmit(Burst { sender: self.node, to: peer, from, path, segment, data });
    }

    /// Replaces the node's durable record; [`Program::persisted`] is called with `token` when that is done.
    pub fn persist(&mut self, token: u64, record: Bytes) {
        self.world.persist(self.node, self.instance, token, record);
    }

    /// Calls [`Program::completed`] after a while, if this incarnation still runs then.
    pub fn later(&mut self, after: Duration, completion: P::Completion) {
        self.world.complete(self.instance, after, completion);
    }

    /// Writes into the history.
    pub fn record(&mut self, record: P::Record) {
        self.world.record(Some(self.instance), record);
    }

    /// The process ends in order. Its machine stays, and starts it again after `back_after`, or only when all faults
    /// end.
    pub fn exit(&mut self, back_after: Option<Duration>) {
        self.world.exit(self.node_id(), back_after);
    }

    /// The world, for what happens outside the node: its agents, its power switch.
    pub const fn world(&mut self) -> &mut World<P> {
        self.world
    }

    fn node_id(&self) -> NodeId {
        self.instance.node
    }
}

/// Something a process is woken by.
#[derive(Debug)]
pub(crate) enum Wake<C> {
    Datagrams(Burst),
    Persisted(u64, bool),
    Completion(C),
    Carrier(u8, bool),
    Moved(Moved),
    Timer,
}

impl<C> Wake<C> {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Datagrams(burst) => burst.data.len(),
            Self::Persisted(..) | Self::Completion(_) | Self::Carrier(..) | Self::Moved(_) | Self::Timer => 0,
        }
    }
}

pub(crate) type Scheduled<P> = Event<<P as Program>::Completion, <P as Program>::Event>;
