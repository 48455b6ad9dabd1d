mod change;
mod connect;
mod contest;
mod discover;
mod handshake;
mod peer;
mod receive;
mod renewal;
mod watch;

use crate::circuit::{Batch, Circuit, Renewal, Saboteur, Tuning};
use crate::crypto::{Drbg, KeyAgreement, KeyRing, Mac};
use crate::detector::Health;
use crate::discovery::Discovery;
use crate::suite::Kit;
use crate::wire::{CLUSTER_HASH, Frame};
use crate::{
    Channel, Config, ConfigError, ConfigErrors, DropReason, Event, Input, Lane, Output, PeerStatus, Plugins,
    Refusal, Secrets, SendError, Stats, Transmit,
};
use bytes::Bytes;
use core::fmt;
use peer::Peer;
use pils::buffer::Recycler;
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// Send buffers kept for reuse.
const POOL_MAX: usize = 16;
/// Handshake datagrams that may wait for the medium; more are dropped, and sent again by their timers.
const CONTROL_MAX: usize = 1024;

/// One node's end of all its circuits, with the failure detector: a sans-IO core.
///
/// Received datagrams go in by [`Layer::handle`], requests by the methods below; after each, drain
/// [`Layer::poll_output`]. Events come first, as they happened, then datagrams. Packets are built only when polled, so
/// reading everything that has arrived before draining gives large bursts and few acknowledgements.
///
/// ```
/// use ocf_comm::crypto::SimulatedAgreement;
/// use ocf_comm::{Channel, Config, Endpoint, Event, Input, Lane, Output, PathId, Preset, Received, Secrets};
/// use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
/// use std::net::SocketAddr;
///
/// let at = |n: u32| SocketAddr::from(([10, 0, 0, n.to_be_bytes()[3]], 5405));
/// let node = |n: u32| NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n)));
/// let mut now = Instant::ZERO;
/// let endpoint = |me: u32, other: u32| {
///     let config = Config::new("demo", Preset::Lan).with_peer(NodeId::new(other), at(other));
///     let agreement = Box::new(SimulatedAgreement::new(u64::from(me))); // a driver uses `driver::Agreement`
///     let secrets = Secrets { keys: vec![7; 32].into(), seed: [me.to_be_bytes()[3]; 32], agreement };
///     Endpoint::new(Instant::ZERO, config, node(me), secrets)
/// };
/// let mut nodes = [endpoint(1, 2)?, endpoint(2, 1)?];
/// let mut received = None;
/// while received.is_none() {
///     for i in 0..2 {
///         nodes[i].handle_timeout(now);
///         while let Some(output) = nodes[i].poll_output() {
///             match output {
///                 Output::Transmit(mut t) => {
///                     let from = at(if i == 0 { 1 } else { 2 });
///                     let data = &mut t.data;
///                     let input = Received { path: PathId(0), from, segment: t.segment, data };
///                     nodes[1 - i].handle(now, Input::Received(input));
///                 }
///                 Output::Event(Event::Up { peer }) if i == 0 => {
///                     nodes[0].send(now, peer, Lane::Small, Channel::APPLICATION, "hello".into())?;
///                 }
///                 Output::Event(Event::Message { message, .. }) => received = Some(message),
///                 _ => {}
///             }
///         }
///     }
///     now = now + core::time::Duration::from_millis(1);
/// }
/// assert_eq!(received.unwrap(), "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Endpoint {
    config: Config,
    tuning: Tuning,
    local: NodeInstance,
    cluster: [u8; CLUSTER_HASH],
    keys: KeyRing,
    kit: Kit,
    cookies: Mac,
    random: Drbg,
    agreement: Box<dyn KeyAgreement>,
    /// In order of node id.
    peers: Vec<Peer>,
    /// By the id that is in the packets to this node.
    circuits: BTreeMap<u32, Box<Circuit>>,
    /// The circuit whose turn to send is next.
    cursor: u32,
    events: VecDeque<Event>,
    control: VecDeque<Transmit>,
    pool: Vec<Vec<u8>>,
    batch: Batch,
    /// Of messages that are copied together before they are sent.
    memory: Recycler,
    stats: Stats,
    health: Health,
    /// Refusals told lately: who, where, why, when.
    refusals: VecDeque<(NodeId, SocketAddr, Refusal, Instant)>,
    now: Instant,
    /// Counts calls, so that each circuit can tell when its budget is fresh.
    turn: u64,
    /// When the next call was due, as told to the driver.
    armed: Option<Instant>,
    /// After an own stall, nobody is suspected before this.
    forgiven_until: Instant,
    closed: bool,
    discovery: Option<Discovery>,
    /// Peers that were found, not configured.
    discovered: BTreeSet<NodeId>,
    /// Incarnations that ended, of peers that were removed.
    removed: VecDeque<(NodeId, VecDeque<Incarnation>)>,
    /// No node that is no peer is answered before this.
    stranger_gate: Instant,
    saboteur: Saboteur,
}

impl Endpoint {
    /// An endpoint that starts to connect to its peers with the first [`Layer::handle_timeout`], which is due at once.
    ///
    /// # Errors
    /// Every mistake in `config` and in the keys.
    pub fn new(
        now: Instant,
        config: Config,
        local: NodeInstance,
        secrets: Secrets,
    ) -> Result<Self, ConfigErrors> {
        Self::with_plugins(now, config, local, secrets, &Plugins::default())
    }

    /// As [`Endpoint::new`], with authenticators and codecs of your own beside those that are built in.
    ///
    /// # Errors
    /// Every mistake in `config` and in the keys, and names that no plug-in has.
    pub fn with_plugins(
        now: Instant,
        config: Config,
        local: NodeInstance,
        secrets: Secrets,
        plugins: &Plugins,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = config.check(local.node).err().unwrap_or(ConfigErrors(Vec::new()));
        if let Err(error) = secrets.keys.check() {
            errors.0.push(ConfigError {
                path: "secrets.keys".to_owned(),
                value: format!("{:?}", secrets.keys),
                fix: error.to_string(),
            });
        }
        let kit = Kit::new(&config, plugins, &mut errors.0);
        if !errors.0.is_empty() {
            return Err(errors);
        }
        let Secrets { keys, seed, agreement } = secrets;
        let mut random = Drbg::new(&seed);
        let mut cluster = [0; CLUSTER_HASH];
        let name = Mac::new(b"ocf-comm cluster name", "1").sign(config.cluster.as_bytes());
        cluster.copy_from_slice(&name[..CLUSTER_HASH]);
        let mut peers: Vec<Peer> = config.peers.iter().map(|p| Peer::new(now, p)).collect();
        peers.sort_by_key(|p| p.node);
        let tuning = Tuning {
            heartbeat: config.timers.heartbeat,
            detection: config.timers.detection,
            renewal: Renewal { packets: config.rekey_after(), time: config.rekey_after_time },
            message_max: config.message_max,
            budget: config.turn_budget,
            commitment: config.obituary,
        };
        let discovery = config.discovery.clone().map(|found_by| {
            let rng = Rng::new(u64::from_be_bytes(random.bytes()));
            Discovery::new(now, found_by, (local, cluster), rng)
        });
        Ok(Self {
            tuning,
            local,
            cluster,
            keys,
            kit,
            cookies: Mac::new(&random.bytes::<32>(), "ocf-comm cookie"),
            random,
            agreement,
            peers,
            circuits: BTreeMap::new(),
            cursor: 0,
            events: VecDeque::new(),
            control: VecDeque::new(),
            pool: Vec::new(),
            batch: Batch::default(),
            memory: Recycler::new(64 << 10, 32),
            stats: Stats::default(),
            health: Health::new(now),
            refusals: VecDeque::new(),
            now,
            turn: 0,
            armed: None,
            forgiven_until: now,
            closed: false,
            discovery,
            discovered: BTreeSet::new(),
            removed: VecDeque::new(),
            stranger_gate: now,
            saboteur: Saboteur::default(),
            config,
        })
    }

    /// Puts a bug back, from now on.
    #[cfg(feature = "testing")]
    pub fn sabotage(&mut self, what: crate::Sabotage) {
        self.saboteur = Saboteur::new(what);
        self.turn += 1;
        self.circuits.values_mut().for_each(|circuit| circuit.sabotage(self.saboteur));
    }

    /// Who this node is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// The configuration: what it was made with, and what was changed since.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Queues a message for one peer. It arrives whole, once and in order within its lane, unless the incarnation dies.
    ///
    /// Messages up to 4 KiB are copied; larger ones are kept, without a copy, until acknowledged.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was queued. After `Full`, one [`Event::Writable`] tells when to try again.
    #[expect(clippy::too_many_arguments, reason = "the contract `Connectivity` and the time")]
    pub fn send(
        &mut self,
        now: Instant,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        self.begin(now);
        let peer = self.peer_index(to.node).map(|i| &self.peers[i]).ok_or(SendError::UnknownPeer(to))?;
        let circuit = peer.current.and_then(|id| self.circuits.get_mut(&id)).filter(|c| c.instance == to);
        let Some(circuit) = circuit else {
            let known = self.closed || peer.dead.contains(&to.incarnation);
            return Err(if known { SendError::Down(to) } else { SendError::UnknownPeer(to) });
        };
        if !peer.up {
            return Err(SendError::Down(to));
        }
        let limit = self.config.message_max_of(lane).min(circuit.peer_message_max().unwrap_or(usize::MAX));
        if message.len() > limit {
            return Err(SendError::TooLarge { size: message.len(), limit });
        }
        if !circuit.push(lane, channel, message, &mut self.memory) {
            let (queued, limit) = circuit.queue(lane);
            return Err(SendError::Full { to, queued, limit });
        }
        self.stats.messages_queued += 1;
        Ok(())
    }

    /// Bytes in a lane to a peer that were not sent once: what another message in that lane waits behind. `None` if it is not up, or does
    /// not answer what was sent (a probe timeout has passed). O(1).
    #[must_use]
    pub fn backlog(&self, to: NodeInstance, lane: Lane) -> Option<usize> {
        let peer = &self.peers[self.peer_index(to.node)?];
        let circuit = self.circuits.get(&peer.current?).filter(|c| c.instance == to && peer.up)?;
        circuit.backlog(lane)
    }

    /// Says that the memory of a delivered message (`bytes` long) is free again; opens the sender's window.
    pub fn consumed(&mut self, now: Instant, from: NodeInstance, lane: Lane, bytes: usize) {
        self.begin(now);
        let current = self.peer_index(from.node).and_then(|i| self.peers[i].current);
        let circuit = current.and_then(|id| self.circuits.get_mut(&id));
        let Some(circuit) = circuit.filter(|c| c.instance == from) else { return };
        circuit.consumed(lane, bytes, (&mut self.events, &mut self.stats));
        if let Some(fate) = circuit.fate.take() {
            let id = circuit.local_id;
            self.on_fate(self.now, id, fate);
        }
    }

    /// Tells every peer that this incarnation leaves for good. Afterwards the endpoint is closed: drain it, then drop it.
    ///
    /// What was queued before goes out first, as far as the windows allow, but is not sent again if it gets lost.
    pub fn leave(&mut self, now: Instant) {
        self.begin(now);
        self.end(now, &Frame::Leave);
    }

    /// Tells every peer that this incarnation is dying, for panic and signal hooks. Closed afterwards, as by `leave`.
    pub fn last_gasp(&mut self, now: Instant) {
        self.begin(now);
        self.end(now, &Frame::LastGasp);
    }

    fn end(&mut self, now: Instant, frame: &Frame<'static>) {
        self.closed = true;
        self.control.clear();
        for mut circuit in core::mem::take(&mut self.circuits).into_values() {
            if !circuit.heard {
                continue;
            }
            circuit.budget = self.tuning.budget;
            let mut buffer = Vec::new();
            while *frame == Frame::Leave
                && let Some(t) = circuit.build(now, &self.tuning, &mut self.stats, &mut buffer)
            {
                self.control.push_back(t);
            }
            self.control.extend(circuit.farewell(now, frame));
        }
        for peer in &mut self.peers {
            peer.close();
        }
    }

    /// What is known of every configured peer at `now`, in order of node id.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let status = |peer: &Peer| {
            let circuit = peer.current.and_then(|id| self.circuits.get(&id));
            let paths = circuit.map_or_else(Vec::new, |c| c.path_status(now));
            PeerStatus {
                node: peer.node,
                instance: circuit.map(|c| c.instance),
                up: peer.up,
                rtt: circuit.and_then(|c| c.rtt()),
                silent_for: circuit.map(|c| now.since(c.detector.heard_at())),
                queued: circuit.map_or(0, |c| Lane::ALL.iter().map(|lane| c.queue(*lane).0).sum()),
                health: circuit.filter(|_| peer.up).map_or(0, |c| self.health_of(now, c, &paths)),
                phi_hundredths: circuit.map_or(0, |c| c.detector.phi_hundredths(now, self.tuning.heartbeat)),
                paths,
            }
        };
        self.peers.iter().map(status).collect()
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Gives back the buffer of a [`Transmit`] that was sent, so that it is used again.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if self.pool.len() < POOL_MAX {
            self.pool.push(buffer);
        }
    }

    /// The next event, if one is waiting. A stack that runs on this endpoint drains events with this first, lets the
    /// layers above answer, and calls [`Layer::poll_output`] only then, so that what they send shares packets.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Panics if a promise of this type to itself does not hold; for simulators and tests. O(everything).
    ///
    /// # Panics
    /// If there is a bug.
    pub fn check_invariants(&self) {
        for (id, circuit) in &self.circuits {
            assert_eq!(*id, circuit.local_id, "a circuit is found by its id");
            let peer = &self.peers[circuit.peer];
            assert_eq!(peer.node, circuit.instance.node, "a circuit belongs to its peer");
            let candidate = peer.candidates.iter().any(|c| c.id == *id);
            assert!((peer.current == Some(*id)) != candidate, "a circuit is current or a candidate");
            assert!(!peer.dead.contains(&circuit.instance.incarnation), "the dead have no circuit");
            circuit.check_invariants();
        }
        for peer in &self.peers {
            peer.check_invariants();
            let ids = peer.current.iter().chain(peer.candidates.iter().map(|c| &c.id));
            assert!(
                ids.clone().all(|id| self.circuits.contains_key(id)),
                "{} names circuits that exist",
                peer.node
            );
            assert!(
                peer.contest
                    .as_ref()
                    .is_none_or(|c| peer.current.is_some() && ids.clone().any(|id| *id == c.challenger))
            );
        }
        assert!(
            self.control.len() <= CONTROL_MAX + self.circuits.len() * 64 || self.closed,
            "control keeps its limit"
        );
    }

    #[cfg(any(test, fuzzing, feature = "testing"))]
    pub(crate) const fn key_ring(&self) -> &KeyRing {
        &self.keys
    }

    fn peer_index(&self, node: NodeId) -> Option<usize> {
        self.peers.binary_search_by_key(&node, |p| p.node).ok()
    }

    fn drop_datagram(&mut self, reason: DropReason) {
        tracing::trace!(%reason, "dropped");
        self.stats.count_drop(reason);
    }

    /// Every call starts here: takes the time, and notices if this node came late.
    fn begin(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.turn += 1;
        if let Some(armed) = self.armed.take() {
            self.observe_lateness(self.now, self.now.since(armed));
        }
    }

    fn next_transmit(&mut self) -> Option<Transmit> {
        let mut buffer = self.pool.pop().unwrap_or_default();
        let Self { circuits, tuning, stats, now, turn, cursor, .. } = self;
        let (low, high) = (*cursor, *cursor);
        let mut found = None;
        for pass in 0..2 {
            let mut range = if pass == 0 { circuits.range_mut(low..) } else { circuits.range_mut(..high) };
            found = range.find_map(|(id, circuit)| {
                circuit.refill(*turn, tuning.budget);
                let transmit = circuit.build_in_turn(*now, tuning, stats, &mut buffer)?;
                *cursor = id.wrapping_add(1);
                Some(transmit)
            });
            if found.is_some() {
                break;
            }
        }
        if found.is_none() {
            self.recycle(buffer);
        }
        found
    }

    fn deadline(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let circuits = self.circuits.values().filter_map(|c| {
            let over = c.is_over_budget(self.now).then_some(self.now);
            over.into_iter().chain(c.deadline(&self.tuning)).min()
        });
        let peers = self.peers.iter().filter_map(|p| self.peer_deadline(p));
        circuits.chain(peers).chain(self.discovery.as_ref().map(Discovery::deadline)).min()
    }
}

impl Layer for Endpoint {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.begin(now);
        match input {
            Input::Received(received) => self.on_received(self.now, received),
            Input::Carrier { path, up } => self.on_carrier(self.now, path, up),
            Input::TooLarge { path, to, size } => {
                let now = self.now;
                self.circuits.values_mut().for_each(|c| c.on_too_large(now, (path, to), size));
            }
            Input::Unreachable { path, to } => self.on_unreachable(self.now, path, to),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.begin(now);
        if self.closed {
            return;
        }
        let now = self.now;
        for circuit in self.circuits.values_mut() {
            circuit.on_timeout(now, &self.tuning, &mut self.stats);
        }
        self.renew_circuits(now);
        for circuit in self.circuits.values_mut() {
            circuit.tell_paths(now, self.tuning.heartbeat, &mut self.events);
        }
        self.discover(now);
        for i in 0..self.peers.len() {
            self.watch_peer(now, i);
            self.settle_contest(now, i);
            self.connect_peer(now, i);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(Output::Event(event));
        }
        let transmit = self.control.pop_front().or_else(|| self.next_transmit());
        if transmit.is_none() {
            self.armed = self.deadline();
        }
        transmit.map(Output::Transmit)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("local", &self.local)
            .field("peers", &self.peers)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
