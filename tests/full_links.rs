//! Goal: when all nodes send as much as their links carry, each gets its share: what one of them has to send does not stand before the
//! order and the reports of the others' messages.
//!
//! Method: three whole nodes in virtual time on links that are narrow; the same run with a bound that bounds nothing shows what it is for.

#![expect(clippy::wildcard_enum_match_arm, reason = "what is not looked for is passed over")]

use bytes::Bytes;
use ocf::NodeEvent;
use ocf::sim::{Ctx, Datagrams, Profile, Program, Simulation, Verdict, What, World};
use ocf::stack::{Birth, Input, Output, Stack, StackConfig};
use ocf_comm::crypto::SimulatedAgreement;
use ocf_comm::{PathId, PeerConfig, Preset, Received, Secrets};
use ocf_groups::{Event, Guarantee};
use ocf_membership::{Durability, NodeVotes, PersistToken};
use pils::{Instant, Layer as _, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

const GROUP: &str = "busy";
const NODES: u32 = 3;
const WINDOW: usize = 1 << 20;
/// Bytes per second from each node to each other.
const BANDWIDTH: u64 = 4_000_000;
const TIME: Duration = Duration::from_secs(6);
const SIZE: usize = 8 << 10;

/// Nodes that send as much as they may, or so many messages in each millisecond. What is recorded: who sent what a node was told.
struct Busy {
    window: usize,
    backlog: usize,
    most: usize,
}

impl Busy {
    fn config(&self, ctx: &mut Ctx<'_, Self>) -> StackConfig {
        let own = ctx.instance().node;
        let nodes = || (1..=NODES).map(NodeId::new);
        let mut comm = ocf_comm::Config::new("full", Preset::Lan);
        for node in nodes().filter(|node| *node != own) {
            comm.peers.push(PeerConfig { node, addresses: ctx.world().addresses(node) });
        }
        let mut membership = ocf_membership::Config::new(nodes().map(|node| NodeVotes::new(node, 1)));
        membership.durability = Durability::Volatile;
        let groups = ocf_groups::Config {
            window: self.window,
            backlog: self.backlog,
            ..ocf_groups::Config::default()
        };
        StackConfig {
            comm,
            membership,
            groups,
            partitions: None,
            executor: ocf_resource::executor::Config::default(),
            resources: ocf_resource::Config::default(),
            calls: ocf_comm::rpc::CallLimits::default(),
            fencing: ocf_stonith::Config::default(),
            fence_action: ocf_stonith::FenceAction::Off,
            locks: None,
        }
    }
}

impl Program for Busy {
    type Layer = Stack;
    type Completion = ();
    /// The third node stands still for so long.
    type Event = Duration;
    type Record = NodeId;

    fn boot(&mut self, ctx: &mut Ctx<'_, Self>, _record: Option<Bytes>) -> Stack {
        let config = self.config(ctx);
        let rng = ctx.world().rng();
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        let agreement = Box::new(SimulatedAgreement::new(rng.next_u64()));
        let secrets = Secrets { keys: vec![0x5a; 32].into(), seed, agreement };
        let birth = Birth { local: ctx.instance(), secrets, record: None, rng: ctx.world().rng().fork() };
        let mut stack = Stack::new(ctx.now(), config, birth).expect("a configuration without mistakes");
        stack.join(ctx.now(), GROUP, 0).expect("a fresh node is in no group");
        ctx.later(Duration::from_millis(1), ());
        stack
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, datagrams: Datagrams<'_>) {
        let Datagrams { from, path, segment, data } = datagrams;
        layer.handle(ctx.now(), Input::Received(Received { path: PathId(path), from, segment, data }));
    }

    fn completed(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, (): ()) {
        let whole = layer.members(GROUP).len() == 3;
        for _ in 0..if whole { self.most } else { 0 } {
            if layer.send(ctx.now(), (GROUP, 0), Guarantee::Agreed, vec![7; SIZE].into()).is_err() {
                break;
            }
        }
        ctx.later(Duration::from_millis(1), ());
    }

    fn carry_out(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, output: Output) {
        match output {
            Output::Transmit(sent) => ctx.transmit(sent.path.0, sent.to, sent.segment, sent.data),
            Output::Persist { token, record } => ctx.persist(token.0, record),
            Output::Event(NodeEvent::Group(Event::Message { sender, .. })) => {
                ctx.record(sender.instance.node);
            }
            Output::Event(NodeEvent::Group(Event::StateWanted { group, joiner, position })) => {
                // Refused if another event follows that asks for a later state.
                drop(layer.offer_state(ctx.now(), (&group, joiner, position), Bytes::new()));
            }
            _ => {}
        }
    }

    fn persisted(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, token: u64, _durable: bool) {
        layer.handle(ctx.now(), Input::Persisted(PersistToken(token)));
    }

    fn happens(&mut self, world: &mut World<Self>, length: Duration) {
        world.pause(NodeId::new(3), length);
    }

    fn settled(&self, _now: Instant, _nodes: &[Option<Stack>]) -> Result<(), String> {
        Ok(())
    }
}

/// How many messages of each node the first node was told.
fn told(backlog: usize) -> Vec<u64> {
    let mut profile = Profile::calm(NODES, TIME);
    // After that time the links are wide again.
    profile.calm = Duration::ZERO;
    (profile.quality.bandwidth, profile.quality.queue) = (Some(BANDWIDTH), 128 << 10);
    let report =
        Simulation::new(Busy { window: WINDOW, backlog, most: usize::MAX }, profile, 1, Vec::new()).run();
    assert_eq!(report.verdict, Verdict::Passed);
    let mut counts = BTreeMap::new();
    for entry in &report.history {
        if let What::Program(Some(at), sender) = &entry.what
            && at.node == NodeId::new(1)
            && entry.at < Instant::ZERO + TIME
        {
            *counts.entry(*sender).or_insert(0) += 1;
        }
    }
    counts.into_values().collect()
}

#[test]
fn all_who_send_as_much_as_the_links_carry_get_the_same_of_them() {
    let (bounded, free) = (told(64 << 10), told(usize::MAX));
    let share = |counts: &[u64]| {
        let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
        100 * least.unwrap_or(0) / most.unwrap_or(1)
    };
    assert!(share(&bounded) >= 90, "{bounded:?}");
    assert!(share(&free) < 80, "nothing shows without the bound: {free:?}");
    let sum = |counts: &[u64]| counts.iter().sum::<u64>();
    assert!(sum(&bounded) > sum(&free), "{bounded:?} are more than {free:?}");
}

#[test]
fn a_node_that_stands_still_holds_up_nobody_before_its_time() {
    let profile = Profile::calm(NODES, Duration::from_secs(3));
    let mut simulation =
        Simulation::new(Busy { window: 8 * WINDOW, backlog: 64 << 10, most: 1 }, profile, 1, Vec::new());
    // Less than the time after which it counts as dead, and long enough for much to wait for it.
    let (begins, length) = (Duration::from_secs(2), Duration::from_millis(300));
    simulation.schedule(begins, length);
    let report = simulation.run();
    assert_eq!(report.verdict, Verdict::Passed);
    let while_it_stands = |at: Instant| {
        let since = at - Instant::ZERO;
        since >= begins && since < begins + length
    };
    let told: Vec<Instant> = report
        .history
        .iter()
        .filter(|entry| matches!(&entry.what, What::Program(Some(at), _) if at.node == NodeId::new(1)))
        .map(|entry| entry.at)
        .filter(|at| while_it_stands(*at))
        .collect();
    // Two nodes send, a message of 8 KiB each millisecond.
    assert!(told.len() > 400, "{} messages", told.len());
    let longest = told.windows(2).map(|pair| pair[1] - pair[0]).max().expect("many");
    assert!(longest < Duration::from_millis(60), "nothing was told for {longest:?}");
}
