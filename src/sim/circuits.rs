//! Node communication alone under the simulator: endpoints that send one another messages in every lane.
//!
//! The whole-stack scenario uses circuits gently; this one fills windows, mixes lanes and sizes, and judges the promises
//! of circuits themselves (C1, C2, C4, C5).
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a scenario reacts to its own kinds of event and at no others"
)]

use super::checkers::CircuitOrder;
use super::paths::{LOOK_EVERY, Watch, case_of};
use super::{Ctx, Datagrams, Fault, Moved, Profile, Program, Report, Simulation, World};
use bytes::{BufMut, Bytes};
use core::time::Duration;
use ocf_comm::crypto::SimulatedAgreement;
use ocf_comm::{
    Change, Channel, Config, Endpoint, Event, Input, Lane, Output, PathId, PathReason, PathState, PeerConfig,
    Preset, Received, Sabotage, Secrets, SendError,
};
use pils::wire::{ParseError, Reader, Writer};
use pils::{Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet};

/// What the scenario writes into the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// A peer can be talked to.
    Up(NodeInstance),
    /// A peer is gone; true if it will not come back as this incarnation.
    Down(NodeInstance, bool),
    /// A message was accepted for sending.
    Sent(NodeInstance, Lane, u64),
    /// A message was refused because its lane is full.
    Full(NodeInstance, Lane),
    /// A message arrived: what the circuit says about it.
    Got(NodeInstance, Lane, u64),
    /// A path to a peer is in another state.
    Path(NodeInstance, PathId, PathState, PathReason),
    /// What arrived is not what the sender sent to this incarnation.
    Garbled(NodeInstance),
}

/// What a node waits for.
#[derive(Debug)]
pub enum Completion {
    /// The next messages.
    Send,
    /// The memory of a message is free again.
    Consume(NodeInstance, Lane, usize),
    /// Its paths are looked at.
    Look,
}

/// The world of circuits: nothing but nodes.
#[derive(Debug)]
pub struct Circuits {
    interval: Duration,
    largest: u64,
    slow_reader: bool,
    /// A bug of paths that is put back.
    bug: Option<Sabotage>,
    watch: Watch,
    next: BTreeMap<(NodeInstance, NodeInstance, Lane), u64>,
    up: BTreeSet<(NodeInstance, NodeInstance)>,
    /// Lanes in which something arrived that was sent after the last fault.
    fresh: BTreeSet<(NodeId, NodeId, Lane)>,
    healed_from: BTreeMap<(NodeInstance, NodeInstance, Lane), u64>,
}

/// What a person chooses about a run; the seed chooses the rest.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes, or `None`: 2, 3 or 4 by the seed.
    pub nodes: Option<u32>,
    /// Number of paths between two nodes, 1 to 3, or `None`: by the seed.
    pub paths: Option<u8>,
    /// Length of the phase with faults.
    pub safety: Duration,
    /// A bug of paths to put back.
    pub bug: Option<Sabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: None, paths: None, safety: Duration::from_secs(30), bug: None }
    }
}

/// Simulates one seed.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report<Record> {
    let mut rng = Rng::new(seed);
    let nodes = options.nodes.unwrap_or_else(|| 2 + u32::try_from(rng.below(3)).unwrap_or(0));
    let profile = Profile::draw(&mut rng, (nodes, options.paths), options.safety, &Fault::ALL);
    let program = Circuits {
        interval: rng.duration(Duration::from_millis(1), Duration::from_millis(100)),
        largest: *rng.pick(&[100, 3_000, 60_000]).unwrap_or(&100),
        slow_reader: rng.chance(0.3),
        bug: options.bug,
        watch: Watch::default(),
        next: BTreeMap::new(),
        up: BTreeSet::new(),
        fresh: BTreeSet::new(),
        healed_from: BTreeMap::new(),
    };
    Simulation::new(program, profile, rng.next_u64(), vec![Box::new(CircuitOrder::default())]).run()
}

fn content(from: NodeInstance, to: NodeInstance, number: u64, size: usize) -> Bytes {
    let mut out = Vec::with_capacity(size + 48);
    out.put_instance(from);
    out.put_instance(to);
    out.put_u64(number);
    let start = out.len();
    out.resize(start + size, 0);
    Rng::new(number ^ u64::from(to.node.raw()) << 32).fill(&mut out[start..]);
    out.into()
}

fn check(from: NodeInstance, to: NodeInstance, message: &Bytes) -> Result<u64, ParseError> {
    let mut r = Reader::new(message);
    let (_, _, number) = (r.instance("from")?, r.instance("to")?, r.u64("number")?);
    let size = r.remaining();
    if content(from, to, number, size) == message {
        Ok(number)
    } else {
        Err(r.error("content", pils::wire::Malformed::OutOfRange))
    }
}

impl Circuits {
    fn send(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Endpoint) {
        let wait = self.interval.mul_f64(0.2 + 1.6 * ctx.world().rng().unit());
        ctx.later(wait, Completion::Send);
        let me = ctx.instance();
        let peers: Vec<NodeInstance> = self
            .up
            .range((me, NodeInstance::new(NodeId::new(0), pils::Incarnation::new(0)))..)
            .map_while(|(a, b)| (*a == me).then_some(*b))
            .collect();
        for to in peers {
            for lane in Lane::ALL {
                if ctx.world().rng().chance(0.5) {
                    continue;
                }
                let size = usize::try_from(ctx.world().rng().below(self.largest)).unwrap_or(0);
                let next = self.next.entry((me, to, lane)).or_insert(0);
                match layer.send(ctx.now(), to, lane, Channel::APPLICATION, content(me, to, *next, size)) {
                    Ok(()) => {
                        ctx.record(Record::Sent(to, lane, *next));
                        *next += 1;
                    }
                    Err(SendError::Full { .. }) => {
                        ctx.world().sometimes("a lane was full");
                        ctx.record(Record::Full(to, lane));
                    }
                    Err(SendError::Down(_)) => {}
                    Err(error) => panic!("{me} cannot send: {error}"),
                }
            }
        }
    }

    fn event(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Endpoint, event: Event) {
        let me = ctx.instance();
        match event {
            Event::Up { peer } => {
                self.up.insert((me, peer));
                ctx.record(Record::Up(peer));
            }
            Event::Down { peer, reason } => {
                self.up.remove(&(me, peer));
                ctx.record(Record::Down(peer, reason.is_final()));
            }
            Event::Message { from, lane, message, .. } => {
                match check(from, me, &message) {
                    Ok(number) => {
                        let after_heal = self.healed_from.get(&(from, me, lane)).is_none_or(|n| number >= *n);
                        if ctx.world().healed() && after_heal {
                            self.fresh.insert((from.node, me.node, lane));
                        }
                        ctx.record(Record::Got(from, lane, number));
                    }
                    Err(_) => ctx.record(Record::Garbled(from)),
                }
                if self.slow_reader && ctx.world().rng().chance(0.5) {
                    let wait = ctx.world().rng().duration(Duration::ZERO, Duration::from_millis(200));
                    ctx.later(wait, Completion::Consume(from, lane, message.len()));
                } else {
                    layer.consumed(ctx.now(), from, lane, message.len());
                }
            }
            Event::PathUp { peer, path, .. } => {
                ctx.record(Record::Path(peer, path, PathState::Up, PathReason::Answered));
            }
            Event::PathDoubtful { peer, path, reason, .. } => {
                ctx.record(Record::Path(peer, path, PathState::Doubtful, reason));
            }
            Event::PathDown { peer, path, reason, .. } => {
                ctx.record(Record::Path(peer, path, PathState::Down, reason));
            }
            Event::Misbehaved { peer, rule } => panic!("{peer} broke the rule {rule:?} without malice"),
            _ => {}
        }
    }
}

impl Program for Circuits {
    type Layer = Endpoint;
    type Completion = Completion;
    type Event = ();
    type Record = Record;

    fn boot(&mut self, ctx: &mut Ctx<'_, Self>, _record: Option<Bytes>) -> Endpoint {
        let local = ctx.instance();
        let mut config = Config::new("simulated", Preset::Lan);
        for lane in [&mut config.urgent, &mut config.small, &mut config.bulk] {
            (lane.send_queue, lane.receive_window) = (128 * 1024, 64 * 1024);
        }
        let paths = ctx.world().profile().paths;
        config.policy = ctx.world().profile().policy;
        let others: Vec<NodeId> = ctx.world().nodes().filter(|n| *n != local.node).collect();
        for node in others {
            let addresses = ctx.world().addresses(node);
            config.peers.push(PeerConfig { node, addresses });
        }
        if paths > 1 {
            ctx.later(LOOK_EVERY, Completion::Look);
        }
        let rng = ctx.world().rng();
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        let agreement = Box::new(SimulatedAgreement::new(rng.next_u64()));
        let secrets = Secrets { keys: vec![0x5a; 32].into(), seed, agreement };
        ctx.later(self.interval, Completion::Send);
        let mut endpoint = match Endpoint::new(ctx.now(), config, local, secrets) {
            Ok(endpoint) => endpoint,
            Err(error) => panic!("{local} cannot start: {error}"),
        };
        if let Some(bug) = self.bug {
            endpoint.sabotage(bug);
        }
        endpoint
    }

    fn carrier(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Endpoint, path: u8, up: bool) {
        layer.handle(ctx.now(), Input::Carrier { path: PathId(path), up });
    }

    fn moved(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Endpoint, moved: Moved) {
        let Moved { node, path, was, is } = moved;
        let path = PathId(path);
        if node == ctx.instance().node {
            return layer.readvertise(ctx.now(), path, (was, is));
        }
        if let Err(error) = layer.change(ctx.now(), &Change::SetAddress { node, path, address: is }) {
            panic!("{} cannot learn the address of {node}: {error}", ctx.instance());
        }
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Endpoint, datagrams: Datagrams<'_>) {
        let Datagrams { from, path, segment, data } = datagrams;
        layer.handle(ctx.now(), Input::Received(Received { path: PathId(path), from, segment, data }));
    }

    fn completed(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Endpoint, completion: Completion) {
        match completion {
            Completion::Send => self.send(ctx, layer),
            Completion::Consume(from, lane, bytes) => layer.consumed(ctx.now(), from, lane, bytes),
            Completion::Look => {
                let (me, now) = (ctx.instance(), ctx.now());
                self.watch.look(ctx.world(), me, layer.peers(now));
                ctx.later(LOOK_EVERY, Completion::Look);
            }
        }
        layer.check_invariants();
    }

    fn carry_out(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Endpoint, output: Output) {
        match output {
            Output::Transmit(t) => {
                self.watch.number(ctx.instance(), &t);
                ctx.transmit(t.path.0, t.to, t.segment, t.data);
            }
            Output::Event(event) => self.event(ctx, layer, event),
            _ => {}
        }
    }

    fn noticed(&mut self, world: &mut World<Self>, entry: &super::Entry<Record>) {
        match &entry.what {
            super::What::Healed => self.healed_from = self.next.clone(),
            super::What::Network(change) => {
                case_of(change).into_iter().for_each(|case| world.sometimes(case));
            }
            super::What::Stopped { instance, .. } => {
                self.up.retain(|(a, _)| a != instance);
                self.watch.ended(*instance);
            }
            _ => {}
        }
    }

    fn settled(&self, _now: Instant, nodes: &[Option<Endpoint>]) -> Result<(), String> {
        let ids = || (1..).map(NodeId::new).take(nodes.len());
        for from in ids() {
            for to in ids().filter(|to| *to != from) {
                for lane in Lane::ALL {
                    if !self.fresh.contains(&(from, to, lane)) {
                        return Err(format!("nothing new from {from} to {to} in lane {lane:?}"));
                    }
                }
            }
        }
        Ok(())
    }
}
