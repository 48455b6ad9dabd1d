//! Which of the named failure cases of protocols 3.5 occurred: a simulator that never meets them proves nothing.

use super::record::{Record, ViewRecord};
use super::{Cluster, Plan};
use crate::sim::paths::case_of;
use crate::sim::{Change, Entry, What, World};
use core::time::Duration;
use ocf_groups::Position;
use pils::{Instant, NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Cases that runs of the default plan must meet within a few hundred seeds, beside those of paths
/// ([`PATH_CASES`](crate::sim::PATH_CASES)).
pub const EXPECTED: [&str; 36] = [
    "sequencer died before stamping",
    "sequencer died after stamping to a subset",
    "sequencer died after delivering alone",
    "sender died with messages under way",
    "sequencer and a sender died together",
    "coordinator died mid-install",
    "a node died while a view was being agreed",
    "a member restarted within the detection time",
    "a joiner died in state transfer",
    "a donor died in state transfer",
    "a link was cut while others saw both ends",
    "loss in one direction only",
    "the sequencer was paused for less than the detection time",
    "the sequencer was paused for longer than the detection time",
    "the sequencer was paused for twenty detection times",
    "an even split",
    "a three-way split",
    "a window was full",
    "messages were under way at a view change",
    "a large message was under way at a view change",
    "a slow node",
    "a starved path",
    "all nodes were down at once",
    "a resource ran elsewhere after fencing",
    "a resource failed by itself",
    "a fence device failed",
    "a fence device answered late",
    "a node that was outside went on with its state",
    "every node alone",
    "a disk hung while a view was agreed",
    "a damaged record was refused",
    "a node left in order",
    "a node left from outside the primary partition",
    "a lock was lost outside the primary partition",
    "a machine lost its access",
    "a node that was fenced learned of it",
];

#[derive(Debug)]
pub(crate) struct Cases {
    nodes: usize,
    detection: Duration,
    ambush: f64,
    newest: Option<Arc<ViewRecord>>,
    installed: usize,
    last: BTreeMap<NodeInstance, Position>,
    outstanding: BTreeMap<NodeInstance, u64>,
    /// When somebody sent a large message last.
    large: Option<Instant>,
    stopped: BTreeMap<NodeId, Instant>,
    unsynced: BTreeMap<NodeInstance, Instant>,
    offered: Option<(NodeInstance, Instant)>,
    down_since_view: bool,
    sequencer_died: Option<Instant>,
    sender_died: Option<Instant>,
    homes: BTreeMap<Arc<str>, NodeId>,
    fenced: u64,
    outside: BTreeSet<NodeInstance>,
}

impl Cases {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            nodes: plan.nodes as usize,
            detection: plan.timers.detection,
            ambush: plan.ambush,
            newest: None,
            installed: 0,
            last: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            large: None,
            stopped: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            offered: None,
            down_since_view: false,
            sequencer_died: None,
            sender_died: None,
            homes: BTreeMap::new(),
            fenced: 0,
            outside: BTreeSet::new(),
        }
    }

    pub(crate) fn observe(&mut self, world: &mut World<Cluster>, entry: &Entry<Record>) {
        match &entry.what {
            What::Started { instance, .. } => {
                if self.stopped.remove(&instance.node).is_some_and(|at| entry.at - at < self.detection) {
                    world.sometimes("a member restarted within the detection time");
                }
                self.unsynced.insert(*instance, entry.at);
            }
            What::Stopped { instance, .. } => {
                self.died(world, *instance, entry.at);
                self.stopped.insert(instance.node, entry.at);
                if self.stopped.len() == self.nodes {
                    world.sometimes("all nodes were down at once");
                }
            }
            What::Paused(node, length) => self.paused(world, *node, *length),
            What::Slowed(_, cost) if !cost.is_zero() => world.sometimes("a slow node"),
            What::Network(change) => self.network(world, change),
            What::Program(Some(who), record) => self.record(world, *who, record, entry.at),
            _ => {}
        }
    }

    fn senior(&self) -> Option<NodeInstance> {
        self.newest.as_ref().and_then(|v| v.members.first()).map(|m| m.instance)
    }

    fn died(&mut self, world: &mut World<Cluster>, who: NodeInstance, now: Instant) {
        let mine = self.last.remove(&who).unwrap_or_default();
        let unfinished = self.outstanding.remove(&who).unwrap_or(0) > 0;
        let soon = |at: Option<Instant>| at.is_some_and(|at| now - at < Duration::from_millis(5));
        if unfinished {
            world.sometimes("sender died with messages under way");
            self.sender_died = Some(now);
        }
        if self.unsynced.remove(&who).is_some() && self.newest.as_ref().is_some_and(|v| v.contains(who)) {
            world.sometimes("a joiner died in state transfer");
        }
        if self.offered.is_some_and(|(donor, at)| donor == who && now - at < Duration::from_millis(20)) {
            world.sometimes("a donor died in state transfer");
        }
        if self.down_since_view {
            world.sometimes("a node died while a view was being agreed");
        }
        if self.senior() != Some(who) {
            if soon(self.sequencer_died) && unfinished {
                world.sometimes("sequencer and a sender died together");
            }
            return;
        }
        self.sequencer_died = Some(now);
        if soon(self.sender_died) && unfinished {
            world.sometimes("sequencer and a sender died together");
        }
        let Some(view) = &self.newest else { return };
        let others: Vec<Position> =
            view.members.iter().filter_map(|m| self.last.get(&m.instance).copied()).collect();
        let here = |p: &&Position| p.view == view.number;
        let (most, least) = (others.iter().filter(here).max(), others.iter().filter(here).min());
        if most != least {
            world.sometimes("sequencer died after stamping to a subset");
        }
        if mine.view == view.number && most.is_none_or(|p| *p < mine) {
            world.sometimes("sequencer died after delivering alone");
        }
        if self.outstanding.values().any(|n| *n > 0) {
            world.sometimes("sequencer died before stamping");
        }
        if self.installed < view.members.len() {
            world.sometimes("coordinator died mid-install");
        }
        self.down_since_view = true;
    }

    fn paused(&self, world: &mut World<Cluster>, node: NodeId, length: Duration) {
        if self.senior().map(|s| s.node) != Some(node) {
            return;
        }
        world.sometimes(if length < self.detection {
            "the sequencer was paused for less than the detection time"
        } else if length < self.detection * 15 {
            "the sequencer was paused for longer than the detection time"
        } else {
            "the sequencer was paused for twenty detection times"
        });
    }

    fn network(&self, world: &mut World<Cluster>, change: &Change) {
        case_of(change).into_iter().for_each(|case| world.sometimes(case));
        match change {
            Change::Partition(sides) if sides.len() == self.nodes => world.sometimes("every node alone"),
            Change::Partition(sides) if sides.len() == 3 => world.sometimes("a three-way split"),
            Change::Partition(sides) if sides.len() == 2 && sides[0].len() == sides[1].len() => {
                world.sometimes("an even split");
            }
            Change::OneWay(..) => world.sometimes("loss in one direction only"),
            Change::Pair(..) if self.nodes > 2 => {
                world.sometimes("a link was cut while others saw both ends");
            }
            Change::Worse(_, _, "starved") => world.sometimes("a starved path"),
            _ => {}
        }
    }

    fn record(&mut self, world: &mut World<Cluster>, who: NodeInstance, record: &Record, now: Instant) {
        match record {
            Record::PeerDown(..) => {
                self.down_since_view = true;
                self.maybe_kill(world, 0.1, self.senior());
            }
            Record::View(view) => self.view(world, who, view),
            Record::Sent(_, _, size) => {
                if *size > 32 * 1024 {
                    self.large = Some(now);
                    self.maybe_kill(world, 0.3, Some(who));
                }
                let n = self.outstanding.entry(who).or_insert(0);
                *n += 1;
                if *n > 3 {
                    self.maybe_kill(world, 0.002, self.senior());
                    self.maybe_kill(world, 0.002, Some(who));
                }
            }
            Record::Delivered(position, id, ..) => {
                self.last.insert(who, *position);
                if id.sender == who {
                    let n = self.outstanding.entry(who).or_insert(0);
                    *n = n.saturating_sub(1);
                }
                if self.senior() == Some(who) {
                    self.maybe_kill(world, 0.002, Some(who));
                }
            }
            Record::NonPrimary(_) => {
                self.outside.insert(who);
            }
            Record::Reset => {
                self.outstanding.remove(&who);
                self.unsynced.insert(who, now);
            }
            Record::StateOffered(..) => {
                self.offered = Some((who, now));
                self.maybe_kill(world, 0.2, Some(who));
                let joiner = self.unsynced.keys().next().copied();
                self.maybe_kill(world, 0.2, joiner);
            }
            Record::StateTaken(..) => {
                self.unsynced.remove(&who);
            }
            Record::Fenced(_) => self.fenced += 1,
            Record::Runs(resource) => {
                let home = self.homes.insert(Arc::clone(resource), who.node);
                if home.is_some_and(|h| h != who.node) && self.fenced > 0 {
                    world.sometimes("a resource ran elsewhere after fencing");
                    self.fenced = 0;
                }
            }
            _ => {}
        }
    }

    fn view(&mut self, world: &mut World<Cluster>, who: NodeInstance, view: &Arc<ViewRecord>) {
        if self.outside.remove(&who) && view.continues(who) {
            world.sometimes("a node that was outside went on with its state");
        }
        let newer = self.newest.as_ref().is_none_or(|v| v.number < view.number);
        if !newer {
            self.installed += 1;
            return;
        }
        self.newest = Some(Arc::clone(view));
        self.installed = 1;
        self.down_since_view = false;
        if self.outstanding.values().any(|n| *n > 0) {
            world.sometimes("messages were under way at a view change");
            if self.large.take().is_some_and(|at| world.now() - at < self.detection * 3) {
                world.sometimes("a large message was under way at a view change");
            }
        }
        self.maybe_kill(world, 0.1, Some(who));
        let senior = self.senior();
        self.maybe_kill(world, 0.1, senior);
    }

    /// Lies in wait: at a moment like this, a node may die.
    fn maybe_kill(&self, world: &mut World<Cluster>, chance: f64, victim: Option<NodeInstance>) {
        let Some(victim) = victim else { return };
        if world.healed() || self.ambush <= 0.0 || !world.rng().chance(chance * self.ambush) {
            return;
        }
        let back = world.rng().duration(Duration::from_millis(5), Duration::from_secs(3));
        if world.rng().chance(0.5) {
            let outputs = u32::try_from(world.rng().below(4)).unwrap_or(0);
            world.kill_after_outputs(victim.node, outputs);
        } else {
            world.kill(victim.node, Some(back));
        }
    }
}
