use super::clock::Clock;
use super::disk::Disk;
use super::history::{Entry, Stop, What};
use super::network::{Burst, Network, moved};
use super::profile::{PATHS_MAX, Profile};
use super::program::{Program, Scheduled, Wake};
use super::queue::Queue;
use super::trace::Fold;
use bytes::Bytes;
use core::hash::{Hash, Hasher};
use core::time::Duration;
use pils::{Incarnation, Instant, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// Something that waits in the queue.
#[derive(Debug)]
pub(crate) enum Event<C, W> {
    Arrival(Burst),
    Wake(usize, Incarnation, Wake<C>),
    Timer(usize),
    Drain(usize),
    Start(usize, u64),
    Resume(usize, u64),
    PowerOn(usize, u64),
    World(W),
    NextFault,
    /// A fault ends; the second value is the number of the phase it began in.
    Undo(super::nemesis::Undo, u32),
}

/// One machine.
#[derive(Debug)]
pub(crate) struct Host<C> {
    pub(crate) powered: bool,
    pub(crate) running: Option<Incarnation>,
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    pub(crate) paused: bool,
    /// Counts stops and pauses, so that an old plan to start or resume does nothing.
    pub(crate) turn: u64,
    pub(crate) cost: Duration,
    pub(crate) busy_until: Instant,
    pub(crate) inbox: VecDeque<Wake<C>>,
    pub(crate) inbox_bytes: usize,
    pub(crate) draining: bool,
    pub(crate) timer_at: Option<Instant>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) outputs_left: Option<u32>,
    /// How many faults keep the interface under each path down.
    pub(crate) dark: [u32; PATHS_MAX as usize],
    /// How often the interface under each path got another address.
    pub(crate) moves: [u8; PATHS_MAX as usize],
}

/// Everything outside the nodes' software: time, network, machines, history.
#[derive(Debug)]
pub struct World<P: Program> {
    pub(crate) now: Instant,
    pub(crate) queue: Queue<Scheduled<P>>,
    pub(crate) network: Network,
    pub(crate) hosts: Vec<Host<P::Completion>>,
    pub(crate) rng: Rng,
    pub(crate) profile: Profile,
    /// The only node whose disk may be lost in this run: no protocol survives the loss of a majority's memory.
    pub(crate) frail: usize,
    pub(crate) phase: u32,
    pub(crate) fresh: Vec<Entry<P::Record>>,
    pub(crate) coverage: BTreeMap<&'static str, u64>,
    pub(crate) fold: Fold,
    pub(crate) stopped: Vec<usize>,
}

impl<P: Program> World<P> {
    pub(crate) fn new(profile: Profile, mut rng: Rng) -> Self {
        let network = Network::new(&profile, &mut rng);
        let frail = usize::try_from(rng.below(u64::from(profile.nodes))).unwrap_or(0);
        let hosts = (0..profile.nodes).map(|_| Host {
            powered: true,
            running: None,
            disk: Disk::default(),
            clock: Clock::new(Instant::ZERO, Instant::ZERO, 0),
            paused: false,
            turn: 0,
            cost: Duration::ZERO,
            busy_until: Instant::ZERO,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            draining: false,
            timer_at: None,
            deadline: None,
            outputs_left: None,
            dark: [0; PATHS_MAX as usize],
            moves: [0; PATHS_MAX as usize],
        });
        Self {
            now: Instant::ZERO,
            queue: Queue::new(),
            network,
            hosts: hosts.collect(),
            rng,
            profile,
            frail,
            phase: 0,
            fresh: Vec::new(),
            coverage: BTreeMap::new(),
            fold: Fold::new(),
            stopped: Vec::new(),
        }
    }

    /// True time since the start of the run.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    pub(crate) const fn advance_to(&mut self, now: Instant) {
        self.now = now;
    }

    /// The run's generator.
    pub const fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// What the seed decided for this run.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// True after the last fault.
    #[must_use]
    pub const fn healed(&self) -> bool {
        self.phase > 0
    }

    /// The ids of all nodes, lowest first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<P> {
        (1..=self.profile.nodes).map(NodeId::new)
    }

    /// The address of a node on one of its paths now.
    #[must_use]
    pub fn address(&self, node: NodeId, path: u8) -> SocketAddr {
        let host = index(node).and_then(|i| self.hosts.get(i));
        moved(node, path, host.and_then(|h| h.moves.get(usize::from(path))).copied().unwrap_or(0))
    }

    /// The addresses of a node on all of its paths now.
    #[must_use]
    pub fn addresses(&self, node: NodeId) -> Vec<(ocf_comm::PathId, SocketAddr)> {
        (0..self.profile.paths).map(|path| (ocf_comm::PathId(path), self.address(node, path))).collect()
    }

    /// The incarnation that runs on a node now, paused or not.
    #[must_use]
    pub fn running(&self, node: NodeId) -> Option<NodeInstance> {
        let host = self.hosts.get(index(node)?)?;
        host.running.map(|incarnation| NodeInstance::new(node, incarnation))
    }

    /// True if the machine has power.
    #[must_use]
    pub fn powered(&self, node: NodeId) -> bool {
        index(node).and_then(|i| self.hosts.get(i)).is_some_and(|h| h.powered)
    }

    /// Writes into the history.
    pub fn record(&mut self, at: Option<NodeInstance>, record: P::Record) {
        self.note(What::Program(at, record));
    }

    pub(crate) fn note(&mut self, what: What<P::Record>) {
        self.now.hash(&mut self.fold);
        what.hash(&mut self.fold);
        self.fresh.push(Entry { at: self.now, what });
    }

    /// Counts that a case which ought to occur in some run did occur.
    pub fn sometimes(&mut self, case: &'static str) {
        *self.coverage.entry(case).or_insert(0) += 1;
    }

    /// Calls [`Program::happens`] after a while.
    pub fn schedule(&mut self, after: Duration, event: P::Event) {
        self.queue.push(self.now + after, Event::World(event));
    }

    /// Calls [`Program::completed`] on a node after a while, if that incarnation still runs then.
    pub fn complete(&mut self, who: NodeInstance, after: Duration, completion: P::Completion) {
        let Some(i) = index(who.node).filter(|i| *i < self.hosts.len()) else { return };
        self.queue.push(self.now + after, Event::Wake(i, who.incarnation, Wake::Completion(completion)));
    }

    /// Takes the power from a machine. It comes back `back_after`, or only when all faults end.
    pub fn power_off(&mut self, node: NodeId, back_after: Option<Duration>) {
        let Some(i) = index(node).filter(|i| *i < self.hosts.len()) else { return };
        self.stop(i, Stop::PowerLost);
        if self.hosts[i].powered {
            self.hosts[i].powered = false;
            self.note(What::PoweredOff(node));
        }
        self.hosts[i].turn += 1;
        if let Some(after) = back_after {
            self.queue.push(self.now + after, Event::PowerOn(i, self.hosts[i].turn));
        }
    }

    /// Gives a machine its power back; its node starts then.
    pub fn power_on(&mut self, node: NodeId, after: Duration) {
        let Some(i) = index(node).filter(|i| *i < self.hosts.len()) else { return };
        if !self.hosts[i].powered {
            self.queue.push(self.now + after, Event::PowerOn(i, self.hosts[i].turn));
        }
    }

    /// Kills a node's process. It is started again `back_after`, or only when all faults end.
    pub fn kill(&mut self, node: NodeId, back_after: Option<Duration>) {
        self.end(node, Stop::Killed, back_after);
    }

    pub(crate) fn exit(&mut self, node: NodeId, back_after: Option<Duration>) {
        self.end(node, Stop::Exited, back_after);
    }

    fn end(&mut self, node: NodeId, how: Stop, back_after: Option<Duration>) {
        let Some(i) = index(node).filter(|i| *i < self.hosts.len()) else { return };
        if self.hosts[i].running.is_none() {
            return;
        }
        self.stop(i, how);
        if let Some(after) = back_after {
            self.queue.push(self.now + after, Event::Start(i, self.hosts[i].turn));
        }
    }

    fn stop(&mut self, i: usize, how: Stop) {
        let host = &mut self.hosts[i];
        host.turn += 1;
        host.paused = false;
        host.inbox.clear();
        host.inbox_bytes = 0;
        host.draining = false;
        host.timer_at = None;
        host.outputs_left = None;
        let Some(incarnation) = host.running.take() else { return };
        host.disk.interrupt(&mut self.rng);
        self.stopped.push(i);
        self.note(What::Stopped { instance: NodeInstance::new(id(i), incarnation), how });
    }

    /// Stops a node's process for a while, as by SIGSTOP.
    pub fn pause(&mut self, node: NodeId, length: Duration) {
        let Some(i) = index(node).filter(|i| *i < self.hosts.len()) else { return };
        let host = &mut self.hosts[i];
        if host.running.is_none() || host.paused {
            return;
        }
        host.paused = true;
        host.turn += 1;
        self.queue.push(self.now + length, Event::Resume(i, host.turn));
        self.note(What::Paused(node, length));
    }

    /// Lets a node's process die after it has carried out `outputs` more of its outputs.
    pub fn kill_after_outputs(&mut self, node: NodeId, outputs: u32) {
        if let Some(host) = index(node).and_then(|i| self.hosts.get_mut(i)) {
            host.outputs_left = Some(outputs);
        }
    }

    pub(crate) fn transmit(&mut self, burst: Burst) {
        if burst.to >= self.hosts.len() {
            return;
        }
        let Self { network, queue, rng, .. } = self;
        network.send(self.now, burst, rng, |at, burst| queue.push(at, Event::Arrival(burst)));
    }

    pub(crate) fn persist(&mut self, node: usize, who: NodeInstance, token: u64, record: Bytes) {
        self.hosts[node].disk.begin(token, record);
        let latency = self.rng.duration(self.profile.disk.latency.0, self.profile.disk.latency.1);
        let failed = self.phase == 0 && self.rng.chance(self.profile.disk.failure);
        let wake = Wake::Persisted(token, !failed);
        self.queue.push(self.now + latency, Event::Wake(node, who.incarnation, wake));
    }

    /// Hashes an event of the queue into the trace.
    pub(crate) fn trace(&mut self, node: usize, bytes: &[u8]) {
        self.fold.write_u64(self.now.as_nanos() ^ (node as u64) << 56);
        self.fold.write(bytes);
    }
}

pub(crate) fn index(node: NodeId) -> Option<usize> {
    usize::try_from(node.raw()).ok()?.checked_sub(1)
}

pub(crate) fn id(index: usize) -> NodeId {
    NodeId::new(u32::try_from(index + 1).unwrap_or(u32::MAX))
}
