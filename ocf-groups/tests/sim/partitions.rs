//! Membership of any partition, in place of the oracle: the cores of every node, on the same network.

use super::{Cluster, Order, What};
use bytes::Bytes;
use ocf_groups::testing::{History, Partitions, Violation, check_partitions};
use ocf_membership::partitionable::{
    PartitionConfig, PartitionInput, PartitionOutput, PartitionSabotage, Partitionable,
};
use ocf_membership::{Ballot, ViewNumber};
use pils::{Instant, Layer, NodeInstance};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// What a core is given.
#[derive(Debug)]
pub(crate) enum Word {
    Up(NodeInstance),
    Down(NodeInstance),
    Message(NodeInstance, Bytes),
    Primary(Option<ViewNumber>),
    Timer,
}

pub(crate) struct Free {
    cores: BTreeMap<NodeInstance, Partitionable>,
    timers: BTreeMap<NodeInstance, Instant>,
    /// Who knows of whom that it can be talked to.
    known: BTreeSet<(NodeInstance, NodeInstance)>,
    primary: u64,
    /// The side that has a primary.
    electors: BTreeSet<NodeInstance>,
    in_primary: BTreeSet<NodeInstance>,
    bug: Option<PartitionSabotage>,
    pub(crate) seen: Partitions,
}

impl Free {
    pub(crate) fn new(bug: Option<PartitionSabotage>) -> Self {
        Self {
            cores: BTreeMap::new(),
            timers: BTreeMap::new(),
            known: BTreeSet::new(),
            primary: 0,
            electors: BTreeSet::new(),
            in_primary: BTreeSet::new(),
            bug,
            seen: Partitions::default(),
        }
    }

    fn of(cluster: &mut Cluster) -> &mut Self {
        cluster.free.as_mut().expect("a cluster without an oracle")
    }

    pub(crate) fn start(cluster: &mut Cluster, instance: NodeInstance) {
        let config =
            PartitionConfig { gather: Duration::from_micros(300), answer_timeout: Duration::from_millis(20) };
        let rng = cluster.rng.fork();
        let free = Self::of(cluster);
        let mut core = Partitionable::new(config, instance, rng);
        if let Some(bug) = free.bug {
            core.sabotage(bug);
        }
        free.cores.insert(instance, core);
        Self::drain(cluster, instance);
    }

    pub(crate) fn kill(cluster: &mut Cluster, victim: NodeInstance) {
        Self::of(cluster).cores.remove(&victim);
    }

    /// Everybody hears sooner or later who can be talked to; now and then a primary is where it can be.
    pub(crate) fn step(cluster: &mut Cluster) {
        let living: Vec<NodeInstance> = cluster.nodes.keys().copied().collect();
        let mut now = BTreeSet::new();
        for a in &living {
            now.extend(living.iter().filter(|b| *b != a && cluster.connected(*a, **b)).map(|b| (*a, *b)));
        }
        let known = Self::of(cluster).known.clone();
        for (a, b) in known.symmetric_difference(&now).copied() {
            let word = if now.contains(&(a, b)) { Word::Up(b) } else { Word::Down(b) };
            cluster.inform(a, word);
        }
        Self::of(cluster).known = now;
        Self::elect(cluster, &living);
    }

    /// A majority that can talk to each other is a primary, in some view, now and then without one of them; others are told of none.
    fn elect(cluster: &mut Cluster, living: &[NodeInstance]) {
        let quorum = cluster.size as usize / 2 + 1;
        let side = |a: &NodeInstance| -> BTreeSet<NodeInstance> {
            living.iter().copied().filter(|b| cluster.connected(*a, *b)).collect()
        };
        let mut primary = living.iter().map(side).find(|side| side.len() >= quorum).unwrap_or_default();
        if Self::of(cluster).electors == primary {
            return;
        }
        Self::of(cluster).electors = primary.clone();
        if primary.len() > quorum && cluster.rng.chance(0.3) {
            primary.pop_first();
        }
        let free = Self::of(cluster);
        free.primary += 1;
        let number = ViewNumber(free.primary);
        let out: Vec<NodeInstance> = free.in_primary.difference(&primary).copied().collect();
        free.in_primary = primary.clone();
        for instance in primary {
            cluster.inform(instance, Word::Primary(Some(number)));
        }
        out.into_iter().for_each(|instance| cluster.inform(instance, Word::Primary(None)));
    }

    pub(crate) fn on_word(cluster: &mut Cluster, at: NodeInstance, word: Word) {
        let now = cluster.now;
        let free = Self::of(cluster);
        let Some(core) = free.cores.get_mut(&at) else { return };
        match word {
            Word::Up(peer) => core.handle(now, PartitionInput::Up(peer)),
            Word::Down(peer) => core.handle(now, PartitionInput::Down(peer)),
            Word::Message(from, message) => {
                core.handle(now, PartitionInput::Message { from, message: &message });
            }
            Word::Primary(primary) => {
                free.seen.primaries.entry(at).or_default().extend(primary);
                core.handle(now, PartitionInput::Primary(primary));
            }
            Word::Timer => {
                free.timers.remove(&at);
                core.handle_timeout(now);
            }
        }
        Self::drain(cluster, at);
    }

    pub(crate) fn on_blocked(cluster: &mut Cluster, at: NodeInstance, ballot: Ballot, state: Bytes) {
        let now = cluster.now;
        if let Some(core) = Self::of(cluster).cores.get_mut(&at) {
            core.handle(now, PartitionInput::Blocked { ballot, state });
            Self::drain(cluster, at);
        }
    }

    pub(crate) fn on_flushed(cluster: &mut Cluster, at: NodeInstance, ballot: Ballot) {
        let now = cluster.now;
        if let Some(core) = Self::of(cluster).cores.get_mut(&at) {
            core.handle(now, PartitionInput::Flushed { ballot });
            Self::drain(cluster, at);
        }
    }

    fn drain(cluster: &mut Cluster, at: NodeInstance) {
        while let Some(output) = Self::of(cluster).cores.get_mut(&at).and_then(Layer::poll_output) {
            match output {
                PartitionOutput::Send { to, message, .. } => cluster.post_word(at, to, message),
                PartitionOutput::Block { ballot } => cluster.tell(at, Order::Block(ballot)),
                PartitionOutput::Flush { ballot, proposal } => {
                    cluster.tell(at, Order::Flush(ballot, proposal));
                }
                PartitionOutput::Installed(view) => {
                    if view.is_merge() {
                        cluster.count("merge");
                    }
                    cluster.count(if view.primary.is_some() { "view in a primary" } else { "view outside" });
                    cluster.tell(at, Order::Install(view.view.clone()));
                    Self::of(cluster).seen.views.entry(at).or_default().push(view);
                }
                other => panic!("unknown output {other:?}"),
            }
        }
        let now = cluster.now;
        let free = Self::of(cluster);
        let due = free.cores.get(&at).and_then(Layer::poll_timeout).map(|due| due.max(now));
        if let Some(due) = due
            && free.timers.get(&at).is_none_or(|t| *t > due)
        {
            free.timers.insert(at, due);
            cluster.schedule(due - now, What::Word(at, Word::Timer));
        }
    }

    /// The next message between two memberships arrives, or waits while they are apart.
    pub(crate) fn carry(cluster: &mut Cluster, from: NodeInstance, to: NodeInstance) {
        if cluster.nodes.contains_key(&to) && !cluster.connected(from, to) {
            cluster.schedule(Duration::from_micros(500), What::Words(from, to));
        } else if let Some(message) = cluster.words.get_mut(&(from, to)).and_then(VecDeque::pop_front) {
            Self::on_word(cluster, to, Word::Message(from, message));
        }
    }

    pub(crate) fn judge(&self, history: &History, settled: bool) -> Result<(), Violation> {
        check_partitions(history, &self.seen)?;
        if settled {
            return Ok(());
        }
        let what = self.cores.iter().map(|(at, core)| format!("\n{at}: {core:?}"));
        Err(Violation {
            rule: "progress",
            what: format!("not all are in one view:{}", what.collect::<String>()),
        })
    }

    /// One view of all who live.
    pub(crate) fn is_settled(&self, living: &BTreeSet<NodeInstance>) -> bool {
        let members = |c: &Partitionable| -> BTreeSet<NodeInstance> {
            c.view().view.members.iter().map(|m| m.instance).collect()
        };
        let numbers: BTreeSet<ViewNumber> = self.cores.values().map(|c| c.view().view.number).collect();
        numbers.len() <= 1 && self.cores.values().all(|c| members(c) == *living)
    }
}
