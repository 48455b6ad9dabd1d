//! A deterministic network of endpoints: virtual time, faults from a seed, and checks of what every run must keep.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "each test file uses a part of this module"
)]

use bytes::Bytes;
use core::time::Duration;
use ocf_comm::crypto::SimulatedAgreement;
use ocf_comm::{
    Change, ChangeError, Channel, ClusterKey, Config, DownReason, Endpoint, Event, Input, KeyId, KeyRing,
    Lane, Output, PathId, PathState, PathStatus, PeerConfig, Plugins, Preset, Received, Secrets, SendError,
    Transmit,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

pub const MS: Duration = Duration::from_millis(1);
/// How long a datagram waits before a slow link at most.
pub const QUEUE: Duration = Duration::from_millis(10);

/// What the network does to each datagram, independently.
#[derive(Clone, Debug)]
pub struct Faults {
    pub loss: f64,
    pub duplicate: f64,
    pub corrupt: f64,
    pub reorder: f64,
    /// Replays a datagram recorded earlier.
    pub replay: f64,
    pub delay: (Duration, Duration),
}

impl Faults {
    pub const NONE: Self = Self {
        loss: 0.0,
        duplicate: 0.0,
        corrupt: 0.0,
        reorder: 0.0,
        replay: 0.0,
        delay: (Duration::from_micros(50), Duration::from_micros(50)),
    };

    pub fn loss(p: f64) -> Self {
        Self { loss: p, ..Self::NONE }
    }

    /// A random mix, some kinds of fault off entirely.
    pub fn swarm(rng: &mut Rng) -> Self {
        let mut p = |most: f64| if rng.chance(0.5) { rng.unit() * most } else { 0.0 };
        let (loss, duplicate, corrupt) = (p(0.2), p(0.2), p(0.1));
        let (reorder, replay) = (p(0.3), p(0.1));
        let high = Duration::from_micros(rng.between(20, 3000));
        Self { loss, duplicate, corrupt, reorder, replay, delay: (high / 2, high) }
    }
}

#[derive(Debug)]
struct Packet {
    to: SocketAddr,
    from: SocketAddr,
    path: PathId,
    segment: usize,
    data: Vec<u8>,
}

pub struct Node {
    pub endpoint: Option<Endpoint>,
    pub instance: NodeInstance,
    pub config: Config,
    /// The cluster keys that its next life begins with; it sends with the first.
    pub keys: Vec<ClusterKey>,
    pub events: Vec<(Instant, Event)>,
    pub paused_until: Instant,
    waiting: VecDeque<Packet>,
    lives: u64,
    /// Instances that are up, as the events say.
    pub up: BTreeSet<NodeInstance>,
    /// Next number to send, to each instance and lane.
    sent: BTreeMap<(NodeInstance, Lane), u64>,
    /// Next number expected, from each instance and lane.
    pub received: BTreeMap<(NodeInstance, Lane), u64>,
    /// Delivered and not yet consumed.
    pub unconsumed: Vec<(NodeInstance, Lane, usize)>,
    pub consume: bool,
    pub writable: u64,
}

pub struct Net {
    pub now: Instant,
    pub rng: Rng,
    pub nodes: Vec<Node>,
    pub faults: Faults,
    /// Directed pairs of node numbers, by path, that lose everything.
    pub cut: BTreeSet<(usize, usize, u8)>,
    /// Directed pairs, by path, that take longer.
    pub late: BTreeMap<(usize, usize, u8), Duration>,
    /// Directed pairs, by path, that lose larger datagrams silently.
    pub mtu: BTreeMap<(usize, usize, u8), usize>,
    /// Directed pairs, by path, that lose this share in addition.
    pub lossy: BTreeMap<(usize, usize, u8), f64>,
    /// Directed pairs, by path, that carry so many bytes in a second; what would wait longer than [`QUEUE`] is lost.
    pub rate: BTreeMap<(usize, usize, u8), u64>,
    /// When what was sent there before has left.
    idle_at: BTreeMap<(usize, usize, u8), Instant>,
    /// Interfaces that are down, by node and path: nothing leaves and nothing comes in.
    pub dark: BTreeSet<(usize, u8)>,
    /// How often the interface of a node under a path got another address.
    moves: BTreeMap<(usize, u8), u8>,
    /// Nodes that break the protocol on purpose; others may say so.
    pub liars: BTreeSet<usize>,
    /// Bytes sent, by node and path.
    pub carried: BTreeMap<(usize, u8), usize>,
    queue: BTreeMap<(Instant, u64), Packet>,
    sequence: u64,
    recorded: Vec<(SocketAddr, SocketAddr, PathId, Vec<u8>)>,
    /// Every sealed packet ever sent: sender's incarnation, circuit, path, number.
    numbers: BTreeSet<(NodeInstance, u32, u8, u64)>,
    pub check_numbers: bool,
    /// What the names in the configurations of nodes mean.
    pub plugins: Plugins,
    /// A bug of paths that is put back in every life.
    pub bug: Option<ocf_comm::Sabotage>,
    pub datagrams: u64,
    /// How often secrets that are renewed are asked for in vain, in every life.
    pub patience: u32,
    spins: u32,
}

/// The first address of a node on a path.
pub fn address(node: usize, path: u8) -> SocketAddr {
    moved(node, path, 0)
}

/// The address after so many changes.
fn moved(node: usize, path: u8, moves: u8) -> SocketAddr {
    SocketAddr::from(([10, path, moves, u8::try_from(node + 1).unwrap()], 5405))
}

fn node_of(address: SocketAddr) -> (usize, u8) {
    match address {
        SocketAddr::V4(a) => (usize::from(a.ip().octets()[3]) - 1, a.ip().octets()[1]),
        SocketAddr::V6(_) => unreachable!("the network is v4"),
    }
}

/// A key of the cluster.
pub fn key(id: u8) -> ClusterKey {
    ClusterKey::new(KeyId(id), [42 + id; 32])
}

pub fn id(node: usize) -> NodeId {
    NodeId::new(u32::try_from(node + 1).unwrap())
}

/// The content of message `n`: its number, then bytes that follow from it.
pub fn message(n: u64, size: usize) -> Bytes {
    let mut out = vec![u8::try_from(n % 251).unwrap(); size.max(8)];
    out[..8].copy_from_slice(&n.to_be_bytes());
    Bytes::from(out)
}

impl Net {
    pub fn new(seed: u64, nodes: usize, paths: u8) -> Self {
        Self::with(seed, nodes, paths, |_| {})
    }

    pub fn with(seed: u64, nodes: usize, paths: u8, adjust: impl Fn(&mut Config)) -> Self {
        let mut net = Self {
            now: Instant::from_millis(1_000_000),
            rng: Rng::new(seed),
            nodes: Vec::new(),
            faults: Faults::NONE,
            cut: BTreeSet::new(),
            late: BTreeMap::new(),
            mtu: BTreeMap::new(),
            lossy: BTreeMap::new(),
            rate: BTreeMap::new(),
            idle_at: BTreeMap::new(),
            dark: BTreeSet::new(),
            moves: BTreeMap::new(),
            liars: BTreeSet::new(),
            carried: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            recorded: Vec::new(),
            numbers: BTreeSet::new(),
            check_numbers: true,
            plugins: Plugins::default(),
            bug: None,
            datagrams: 0,
            patience: 0,
            spins: 0,
        };
        for i in 0..nodes {
            let mut config = Config::new("test", Preset::Lan);
            for k in (0..nodes).filter(|k| *k != i) {
                let addresses = (0..paths).map(|p| (PathId(p), address(k, p))).collect();
                config.peers.push(PeerConfig { node: id(k), addresses });
            }
            adjust(&mut config);
            net.nodes.push(Node {
                endpoint: None,
                instance: NodeInstance::new(id(i), Incarnation::new(0)),
                config,
                keys: vec![key(0)],
                events: Vec::new(),
                paused_until: Instant::ZERO,
                waiting: VecDeque::new(),
                lives: 0,
                up: BTreeSet::new(),
                sent: BTreeMap::new(),
                received: BTreeMap::new(),
                unconsumed: Vec::new(),
                consume: true,
                writable: 0,
            });
        }
        net
    }

    /// A network whose nodes are started and connected.
    pub fn connected(seed: u64, nodes: usize, paths: u8) -> Self {
        let mut net = Self::new(seed, nodes, paths);
        net.start_all();
        assert!(net.run_until(2000 * MS, Self::all_up), "everybody finds everybody");
        net
    }

    pub fn start_all(&mut self) {
        for i in 0..self.nodes.len() {
            self.start(i);
        }
    }

    /// Starts a new life of a node.
    pub fn start(&mut self, i: usize) {
        let incarnation = Incarnation::new(self.rng.next_u128());
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        let agreement = Box::new(SimulatedAgreement::new(self.rng.next_u64()).slow(self.patience));
        let node = &mut self.nodes[i];
        let mut ring = KeyRing::new(node.keys[0].clone());
        for key in &node.keys[1..] {
            ring = ring.with(key.clone()).unwrap();
        }
        let secrets = Secrets { keys: ring, seed, agreement };
        node.instance = NodeInstance::new(id(i), incarnation);
        node.lives += 1;
        let (config, local) = (node.config.clone(), node.instance);
        let mut endpoint = Endpoint::with_plugins(self.now, config, local, secrets, &self.plugins).unwrap();
        if let Some(bug) = self.bug {
            endpoint.sabotage(bug);
        }
        node.endpoint = Some(endpoint);
        node.up.clear();
        node.waiting.clear();
        node.unconsumed.clear();
        node.sent.clear();
        node.received.clear();
        node.paused_until = Instant::ZERO;
    }

    /// Ends a node without a word.
    pub fn kill(&mut self, i: usize) {
        self.nodes[i].endpoint = None;
        self.nodes[i].up.clear();
    }

    pub fn pause(&mut self, i: usize, time: Duration) {
        self.nodes[i].paused_until = self.now + time;
    }

    pub fn cut_both(&mut self, a: usize, b: usize, path: u8) {
        self.cut.extend([(a, b, path), (b, a, path)]);
    }

    pub fn all_up(&self) -> bool {
        let alive: Vec<_> = self.nodes.iter().filter(|n| n.endpoint.is_some()).collect();
        alive.iter().all(|n| alive.iter().all(|m| n.instance == m.instance || n.up.contains(&m.instance)))
    }

    /// Sends the next numbered message of a lane; false if the queue is full or the peer down.
    pub fn send(&mut self, from: usize, to: usize, lane: Lane, size: usize) -> bool {
        let to = self.nodes[to].instance;
        let node = &mut self.nodes[from];
        let Some(endpoint) = &mut node.endpoint else { return false };
        let n = node.sent.entry((to, lane)).or_default();
        match endpoint.send(self.now, to, lane, Channel::APPLICATION, message(*n, size)) {
            Ok(()) => *n += 1,
            Err(SendError::Full { .. } | SendError::Down(_) | SendError::UnknownPeer(_)) => return false,
            Err(other) => panic!("{other}"),
        }
        self.drain(from);
        true
    }

    /// Changes peers or paths of a running node.
    pub fn change(&mut self, i: usize, change: &Change) -> Result<(), ChangeError> {
        let now = self.now;
        let changed = self.nodes[i].endpoint.as_mut().unwrap().change(now, change);
        self.drain(i);
        changed
    }

    /// Where a node is reached on a path now.
    pub fn at(&self, node: usize, path: u8) -> SocketAddr {
        moved(node, path, self.moves.get(&(node, path)).copied().unwrap_or_default())
    }

    /// The interface of a node under a path has another address from now on: what goes to the old one reaches nobody. The
    /// node binds there and is told, as by its driver; it is not started again. Gives the address.
    pub fn rebind(&mut self, i: usize, path: u8) -> SocketAddr {
        let was = self.at(i, path);
        *self.moves.entry((i, path)).or_default() += 1;
        let (now, is) = (self.now, self.at(i, path));
        if let Some(endpoint) = &mut self.nodes[i].endpoint {
            endpoint.readvertise(now, PathId(path), (was, is));
        }
        self.drain(i);
        is
    }

    /// The interface of a node under a path goes down or comes back, and the node is told.
    pub fn interface(&mut self, i: usize, path: u8, up: bool) {
        if up {
            self.dark.remove(&(i, path))
        } else {
            self.dark.insert((i, path))
        };
        let now = self.now;
        if let Some(endpoint) = &mut self.nodes[i].endpoint {
            endpoint.handle(now, Input::Carrier { path: PathId(path), up });
        }
        self.drain(i);
    }

    /// What a node knows of its paths to another.
    pub fn paths(&self, i: usize, to: usize) -> Vec<PathStatus> {
        let peers = self.nodes[i].endpoint.as_ref().unwrap().peers(self.now);
        peers.into_iter().find(|p| p.node == id(to)).unwrap().paths
    }

    /// The state of one path from one node to another, as that node sees it.
    pub fn state(&self, i: usize, to: usize, path: u8) -> PathState {
        self.paths(i, to).into_iter().find(|p| p.path.0 == path).unwrap().state
    }

    /// How many numbered messages were accepted, and how many arrived.
    pub fn progress(&self, from: usize, to: usize, lane: Lane) -> (u64, u64) {
        let (a, b) = (self.nodes[from].instance, self.nodes[to].instance);
        let sent = self.nodes[from].sent.get(&(b, lane)).copied().unwrap_or_default();
        (sent, self.nodes[to].received.get(&(a, lane)).copied().unwrap_or_default())
    }

    /// True if everything that the living sent to each other has arrived.
    pub fn all_arrived(&self) -> bool {
        let n = self.nodes.len();
        let living: Vec<usize> = (0..n).filter(|i| self.nodes[*i].endpoint.is_some()).collect();
        living.iter().all(|a| {
            living.iter().all(|b| {
                Lane::ALL.iter().all(|lane| {
                    let (sent, received) = self.progress(*a, *b, *lane);
                    a == b || sent == received
                })
            })
        })
    }

    pub fn downs(&self, i: usize) -> Vec<(Instant, NodeInstance, DownReason)> {
        let down = |(at, e): &(Instant, Event)| match e {
            Event::Down { peer, reason } => Some((*at, *peer, *reason)),
            _ => None,
        };
        self.nodes[i].events.iter().filter_map(down).collect()
    }

    /// Runs for a time.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done`, at most for a time; true if it was done.
    pub fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        loop {
            if done(self) {
                return true;
            }
            let packet = self.queue.keys().next().map(|(at, _)| *at);
            let timers = self.nodes.iter().filter_map(|n| {
                let due = n.endpoint.as_ref()?.poll_timeout()?;
                Some(if n.waiting.is_empty() { due.max(n.paused_until) } else { n.paused_until })
            });
            let Some(next) = timers.chain(packet).min().map(|at| at.max(self.now)).filter(|at| *at <= end)
            else {
                self.now = end;
                return done(self);
            };
            self.spins = if self.now == next { self.spins + 1 } else { 0 };
            assert!(self.spins < 20_000, "time stands still\n{}", self.report());
            self.now = next;
            self.turn();
        }
    }

    fn turn(&mut self) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let packet = entry.remove();
            let (to, path) = node_of(packet.to);
            if packet.to != moved(to, path, self.moves.get(&(to, path)).copied().unwrap_or_default())
                || self.dark.contains(&(to, path))
            {
                continue;
            }
            let node = &mut self.nodes[to];
            if node.endpoint.is_some() && node.waiting.len() < 2000 {
                node.waiting.push_back(packet);
            }
        }
        for i in 0..self.nodes.len() {
            let now = self.now;
            let node = &mut self.nodes[i];
            if node.paused_until > now {
                continue;
            }
            let Some(endpoint) = &mut node.endpoint else { continue };
            let due = endpoint.poll_timeout().is_some_and(|at| at <= now);
            if !due && node.waiting.is_empty() {
                continue;
            }
            for packet in &mut node.waiting {
                let Packet { from, path, segment, data, .. } = packet;
                let received = Received { path: *path, from: *from, segment: *segment, data };
                endpoint.handle(now, Input::Received(received));
            }
            node.waiting.clear();
            endpoint.handle_timeout(now);
            self.drain(i);
        }
    }

    /// Carries out what a node wants.
    pub fn drain(&mut self, i: usize) {
        let mut transmits = Vec::new();
        let now = self.now;
        let liars = &self.liars;
        let node = &mut self.nodes[i];
        let Some(endpoint) = &mut node.endpoint else { return };
        loop {
            while let Some(output) = endpoint.poll_output() {
                match output {
                    Output::Transmit(t) => transmits.push(t),
                    Output::Event(event @ Event::Misbehaved { peer, .. })
                        if liars.contains(&i) || liars.iter().any(|liar| id(*liar) == peer.node) =>
                    {
                        node.events.push((now, event));
                    }
                    Output::Event(event) => {
                        observe(&mut node.up, &mut node.received, &event);
                        match event {
                            Event::Message { from, lane, message, .. } => {
                                node.unconsumed.push((from, lane, message.len()));
                            }
                            Event::Writable { .. } => node.writable += 1,
                            other => node.events.push((now, other)),
                        }
                    }
                    _ => panic!("an output this harness does not know"),
                }
            }
            if !node.consume || node.unconsumed.is_empty() {
                break;
            }
            for (from, lane, bytes) in node.unconsumed.drain(..) {
                endpoint.consumed(now, from, lane, bytes);
            }
        }
        if self.datagrams.is_multiple_of(16) {
            endpoint.check_invariants();
        }
        for t in transmits {
            self.transmit(i, t);
        }
    }

    fn transmit(&mut self, from: usize, t: Transmit) {
        assert!(t.segment > 0 && !t.data.is_empty() && t.data.len() <= 65_536);
        let (to, _) = node_of(t.to);
        let source = self.at(from, t.path.0);
        let instance = self.nodes[from].instance;
        let mut run: Vec<u8> = Vec::new();
        let (low, high) = self.faults.delay;
        let way = (from, to, t.path.0);
        let late = self.late.get(&way).copied().unwrap_or_default();
        let flight = self.rng.duration(low, high) + late;
        *self.carried.entry((from, t.path.0)).or_default() += t.data.len();
        let mtu = self.mtu.get(&way).copied().unwrap_or(usize::MAX);
        let lossy = self.lossy.get(&way).copied().unwrap_or_default();
        for datagram in t.data.chunks(t.segment) {
            self.datagrams += 1;
            if self.check_numbers && datagram[0] >> 4 == 1 {
                let number = u64::from_be_bytes(datagram[8..16].try_into().unwrap());
                let circuit = u32::from_be_bytes(datagram[4..8].try_into().unwrap());
                let fresh = self.numbers.insert((instance, circuit, datagram[2], number));
                assert!(fresh, "C3: a nonce is used once");
            }
            if self.cut.contains(&way) || self.dark.contains(&(from, t.path.0)) {
                continue;
            }
            if self.rng.chance(self.faults.loss) || datagram.len() > mtu {
                continue;
            }
            if lossy > 0.0 && self.rng.chance(lossy) {
                continue;
            }
            let Some(queued) = self.queued(way, datagram.len()) else { continue };
            let flight = flight + queued;
            let mut data = datagram.to_vec();
            if self.rng.chance(self.faults.replay) {
                self.recorded.push((source, t.to, t.path, data.clone()));
                let k = self.rng.below(self.recorded.len() as u64);
                let (source, to, path, data) = self.recorded[usize::try_from(k).unwrap()].clone();
                let late = self.rng.duration(Duration::ZERO, 300 * MS);
                // Who repeats it knows where the receiver is now.
                let (node, net) = node_of(to);
                let to = self.at(node, net);
                self.post(late, Packet { to, from: source, path, segment: data.len(), data });
            }
            if self.rng.chance(self.faults.corrupt) {
                let k = usize::try_from(self.rng.below(data.len() as u64)).unwrap();
                if self.rng.chance(0.3) {
                    data.truncate(k.max(1));
                } else {
                    data[k] ^= 1 << self.rng.below(8);
                }
            }
            if self.rng.chance(self.faults.duplicate) {
                let late = late + self.rng.duration(low, high * 3);
                let copy =
                    Packet { to: t.to, from: source, path: t.path, segment: data.len(), data: data.clone() };
                self.post(late, copy);
            }
            if self.rng.chance(self.faults.reorder) {
                let late = late + self.rng.duration(low, high * 4);
                self.post(late, Packet { to: t.to, from: source, path: t.path, segment: data.len(), data });
            } else if data.len() == t.segment && queued == Duration::ZERO {
                run.extend(data);
            } else {
                self.post_run(flight, t.to, source, (t.path, t.segment, core::mem::take(&mut run)));
                self.post_run(flight, t.to, source, (t.path, data.len(), data));
            }
        }
        self.post_run(flight, t.to, source, (t.path, t.segment, run));
    }

    /// How long a datagram takes to leave; `None` if the queue is full.
    fn queued(&mut self, way: (usize, usize, u8), bytes: usize) -> Option<Duration> {
        let Some(rate) = self.rate.get(&way) else { return Some(Duration::ZERO) };
        let idle_at = self.idle_at.entry(way).or_insert(self.now);
        let starts = (*idle_at).max(self.now);
        if starts.since(self.now) > QUEUE {
            return None;
        }
        *idle_at = starts + Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
        Some(idle_at.since(self.now))
    }

    fn post_run(
        &mut self,
        delay: Duration,
        to: SocketAddr,
        from: SocketAddr,
        (path, segment, data): (PathId, usize, Vec<u8>),
    ) {
        if !data.is_empty() {
            self.post(delay, Packet { to, from, path, segment: segment.max(1), data });
        }
    }

    fn post(&mut self, delay: Duration, packet: Packet) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), packet);
    }

    /// What an unhappy end looks like.
    pub fn report(&self) -> String {
        let mut out = String::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let due = node.endpoint.as_ref().and_then(Layer::poll_timeout);
            out += &format!("at {}, due {due:?}: ", self.now);
            out += &format!("node {i} {} up {:?}\n  {:?}\n", node.instance, node.up, node.endpoint);
            for k in (0..self.nodes.len()).filter(|k| *k != i) {
                out += &format!("  to {k}: {:?}\n", Lane::ALL.map(|lane| self.progress(i, k, lane)));
            }
            let from = node.events.len().saturating_sub(8);
            out += &format!("  ... {:?}\n", &node.events[from..]);
        }
        out
    }

    /// Lets a stranger send a datagram.
    pub fn inject(&mut self, to: usize, from: SocketAddr, data: Vec<u8>) {
        let to = self.at(to, 0);
        self.post(Duration::ZERO, Packet { to, from, path: PathId(0), segment: data.len().max(1), data });
    }

    /// Datagrams that are on their way to a node, copied.
    pub fn overhear(&self, to: usize) -> Vec<Vec<u8>> {
        let mine = |p: &&Packet| node_of(p.to).0 == to;
        self.queue.values().filter(mine).flat_map(|p| p.data.chunks(p.segment).map(<[u8]>::to_vec)).collect()
    }
}

/// Checks C1 and the grammar of events: what arrives is a prefix of what was sent, once and in order, only while up.
fn observe(
    up: &mut BTreeSet<NodeInstance>,
    received: &mut BTreeMap<(NodeInstance, Lane), u64>,
    event: &Event,
) {
    match event {
        Event::Up { peer } => {
            assert!(up.iter().all(|p| p.node != peer.node), "one incarnation of a node is up at a time");
            up.insert(*peer);
        }
        Event::Down { peer, reason } => {
            assert!(up.remove(peer) || reason.is_final(), "only what is up goes down");
        }
        Event::Message { from, lane, message, .. } => {
            assert!(up.contains(from), "messages come from those who are up");
            let n = received.entry((*from, *lane)).or_default();
            assert_eq!(*message, self::message(*n, message.len()), "C1: message {n} is next");
            *n += 1;
        }
        Event::Misbehaved { peer, rule } => panic!("{peer} is said to have broken: {rule}"),
        _ => {}
    }
}
