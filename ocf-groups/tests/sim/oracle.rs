//! A membership that sees everything, but tells the cores only what a real one would, late and in rounds that fail.

use super::{Cluster, Node, Order};
use bytes::Bytes;
use ocf_membership::{Ballot, Cause, ChangeReason, Lag, Member, Proposal, View, ViewNumber};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug)]
enum Round {
    Idle,
    /// `Block` is out.
    Blocking {
        ballot: Ballot,
        candidates: Vec<NodeInstance>,
        states: BTreeMap<NodeInstance, Bytes>,
    },
    /// `Flush` is out.
    Flushing {
        ballot: Ballot,
        proposal: Proposal,
        flushed: BTreeSet<NodeInstance>,
        adopted: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Oracle {
    quorum: u32,
    round: Round,
    ballots: u64,
    /// The newest view that was chosen.
    last: Option<View>,
    /// Its number, also after all died who knew.
    number: u64,
    synced: BTreeSet<NodeInstance>,
    /// Proposals for the next view that some member accepted, latest last.
    accepted: Vec<(Proposal, BTreeSet<NodeInstance>)>,
    told_out: BTreeSet<NodeInstance>,
    patience: u32,
    /// The highest level of a view that was proposed.
    pub(crate) level: u32,
    /// Who was outside for a while, but missed no view, goes on with its state.
    lenient: bool,
}

impl Oracle {
    pub(crate) fn new(size: u32, lenient: bool) -> Self {
        Self {
            quorum: size / 2 + 1,
            round: Round::Idle,
            ballots: 0,
            last: None,
            number: 0,
            synced: BTreeSet::new(),
            accepted: Vec::new(),
            told_out: BTreeSet::new(),
            patience: 0,
            level: 1,
            lenient,
        }
    }

    pub(crate) fn on_blocked(&mut self, at: NodeInstance, of: Ballot, state: Bytes) {
        if let Round::Blocking { ballot, states, .. } = &mut self.round
            && *ballot == of
        {
            states.insert(at, state);
        }
    }

    pub(crate) fn on_flushed(&mut self, at: NodeInstance, of: Ballot) {
        if let Round::Flushing { ballot, flushed, proposal, .. } = &mut self.round
            && *ballot == of
        {
            flushed.insert(at);
            match self.accepted.iter_mut().find(|(p, _)| p == proposal) {
                Some((_, by)) => {
                    by.insert(at);
                }
                None => self.accepted.push((proposal.clone(), [at].into())),
            }
        }
    }

    pub(crate) fn on_synced(&mut self, at: NodeInstance, view: ViewNumber) {
        if self.last.as_ref().is_some_and(|v| v.number == view) {
            self.synced.insert(at);
        }
    }

    fn in_last(&self, instance: NodeInstance) -> bool {
        self.last.as_ref().is_some_and(|v| v.contains(instance))
    }

    /// True if these instances may decide on what follows the last view: a majority of it that remembers.
    fn may_continue(&self, instances: &[NodeInstance]) -> bool {
        instances.len() as u32 >= self.quorum && (self.last.is_none() || self.is_remembered_by(instances))
    }

    /// True if these are a majority of the last view that has its state.
    fn is_remembered_by(&self, instances: &[NodeInstance]) -> bool {
        let Some(last) = &self.last else { return false };
        let remember = instances.iter().filter(|i| last.contains(**i) && self.synced.contains(i)).count();
        2 * remember > last.members.len()
    }

    pub(crate) fn may_die(&self, victim: NodeInstance, nodes: &BTreeMap<NodeInstance, Node>) -> bool {
        let rest: Vec<NodeInstance> = nodes.keys().copied().filter(|i| *i != victim).collect();
        // Of an undecided proposal enough must live, too.
        self.is_remembered_by(&rest)
    }

    pub(crate) fn is_settled(&self, nodes: &BTreeMap<NodeInstance, Node>) -> bool {
        let Some(last) = &self.last else { return false };
        matches!(self.round, Round::Idle)
            && last.members.len() == nodes.len()
            && nodes.keys().all(|i| last.contains(*i) && !self.told_out.contains(i))
    }

    /// All died: what follows begins anew.
    pub(crate) fn forget(&mut self) {
        self.round = Round::Idle;
        self.last = None;
        self.synced.clear();
        self.accepted.clear();
        self.told_out.clear();
    }

    fn ballot(&mut self, proposer: NodeInstance) -> Ballot {
        self.ballots += 1;
        Ballot { round: self.ballots, proposer }
    }

    /// The side of the network that may form the next view, if there is one.
    fn candidates(cluster: &Cluster) -> Option<Vec<NodeInstance>> {
        let living: Vec<NodeInstance> = cluster.nodes.keys().copied().collect();
        living.iter().find_map(|a| {
            let side: Vec<NodeInstance> =
                living.iter().copied().filter(|b| cluster.connected(*a, *b)).collect();
            cluster.oracle.may_continue(&side).then_some(side)
        })
    }

    pub(crate) fn step(cluster: &mut Cluster) {
        let candidates = Self::candidates(cluster);
        Self::tell_outsiders(cluster, candidates.as_deref());
        let Some(candidates) = candidates else { return };
        match &cluster.oracle.round {
            Round::Idle => {
                let unchanged = cluster.oracle.last.as_ref().is_some_and(|v| {
                    v.members.len() == candidates.len()
                        && candidates.iter().all(|i| v.contains(*i) && !cluster.oracle.told_out.contains(i))
                });
                let behind = candidates.iter().any(|i| {
                    cluster.oracle.in_last(*i)
                        && !cluster.oracle.told_out.contains(i)
                        && cluster.view_of(*i) != cluster.oracle.last.as_ref().map(|v| v.number)
                });
                if !unchanged && !behind {
                    Self::begin(cluster, candidates);
                }
            }
            Round::Blocking { ballot, candidates: asked, states } => {
                let changed = *asked != candidates;
                let done = asked.iter().all(|i| states.contains_key(i) || !cluster.oracle.in_last(*i));
                let ballot = *ballot;
                if changed {
                    cluster.count("round failed while blocking");
                    Self::begin(cluster, candidates);
                } else if done {
                    Self::propose(cluster, ballot);
                } else {
                    Self::wait(cluster, candidates);
                }
            }
            Round::Flushing { proposal, flushed, adopted, .. } => {
                let present = |i: &NodeInstance| candidates.contains(i);
                let needed: Vec<NodeInstance> = proposal
                    .view
                    .members
                    .iter()
                    .map(|m| m.instance)
                    .filter(|i| cluster.oracle.in_last(*i))
                    .collect();
                let lost = needed.iter().any(|i| !present(i));
                let missing = needed.iter().any(|i| present(i) && !flushed.contains(i));
                if lost && !*adopted {
                    cluster.count("round failed while flushing");
                    Self::begin(cluster, candidates);
                } else if !missing {
                    // Now and then the proposer fails here, and the next one has to find out.
                    if cluster.rng.chance(0.2) {
                        cluster.count("proposer failed before install");
                        Self::begin(cluster, candidates);
                    } else {
                        Self::install(cluster);
                    }
                } else {
                    Self::wait(cluster, candidates);
                }
            }
        }
    }

    fn wait(cluster: &mut Cluster, candidates: Vec<NodeInstance>) {
        cluster.oracle.patience += 1;
        if cluster.oracle.patience > 400 {
            cluster.count("patience lost");
            Self::begin(cluster, candidates);
        }
    }

    /// Those outside the primary are told so, sooner or later.
    fn tell_outsiders(cluster: &mut Cluster, inside: Option<&[NodeInstance]>) {
        let living: Vec<NodeInstance> = cluster.nodes.keys().copied().collect();
        for at in living {
            let outside = !inside.is_some_and(|i| i.contains(&at));
            if outside && !cluster.oracle.told_out.contains(&at) && cluster.rng.chance(0.3) {
                if cluster.rng.chance(0.5) {
                    cluster.tell(at, Order::Suspend);
                }
                cluster.tell(at, Order::NonPrimary);
                cluster.oracle.told_out.insert(at);
                cluster.count("non-primary");
            }
        }
    }

    fn begin(cluster: &mut Cluster, candidates: Vec<NodeInstance>) {
        let proposer = candidates[0];
        let ballot = cluster.oracle.ballot(proposer);
        cluster.oracle.patience = 0;
        let all = candidates.clone();
        for at in &all {
            if cluster.oracle.in_last(*at) || cluster.rng.chance(0.3) {
                cluster.tell(*at, Order::Block(ballot));
            }
        }
        cluster.oracle.round = Round::Blocking { ballot, candidates, states: BTreeMap::new() };
    }

    /// Proposes what was accepted before, if anyone here accepted anything, else a new view.
    fn propose(cluster: &mut Cluster, ballot: Ballot) {
        let oracle = &mut cluster.oracle;
        let Round::Blocking { candidates, states, .. } = &oracle.round else { return };
        let here = |by: &BTreeSet<NodeInstance>| candidates.iter().any(|i| by.contains(i));
        let earlier = oracle.accepted.iter().rev().find(|(_, by)| here(by)).map(|(p, _)| p.clone());
        let adopted = earlier.is_some();
        // It rises once all nodes are there and speak more, and never falls.
        let new = |i: &NodeInstance| cluster.nodes.get(i).is_some_and(|node| !node.old);
        let whole = candidates.len() == cluster.size as usize || !cluster.mixed;
        let level = if whole && candidates.iter().all(new) { 2 } else { oracle.level };
        let proposal = earlier.unwrap_or_else(|| {
            let number = ViewNumber(oracle.number + 1);
            let previous = oracle.last.as_ref().map(|v| v.members.clone()).unwrap_or_default();
            let current =
                |i: &NodeInstance| cluster.nodes.get(i).and_then(|n| n.core.view()) == oracle.last.as_ref();
            let told = |i: &NodeInstance| oracle.told_out.contains(i);
            // Who was outside begins anew only if there is a majority that remembers without it.
            let inside: Vec<NodeInstance> = candidates.iter().copied().filter(|i| !told(i)).collect();
            let lenient = oracle.lenient || !oracle.is_remembered_by(&inside);
            let member = |i: &NodeInstance| {
                let before =
                    previous.iter().find(|m| m.instance == *i && (lenient && current(i) || !told(i)));
                Member { instance: *i, joined: before.map_or(number, |m| m.joined), votes: 1 }
            };
            let mut members: Vec<Member> = candidates.iter().map(member).collect();
            members.sort_by_key(|m| (m.joined, m.instance));
            let stays = |i: &NodeInstance| members.iter().any(|m| m.instance == *i && m.joined < number);
            let states = states.iter().filter(|(i, _)| stays(i)).map(|(i, s)| (*i, s.clone())).collect();
            let quorum = oracle.quorum;
            // Some of those who are left behind may have been too slow.
            let gone = previous.iter().map(|m| m.instance).filter(|i| level > 1 && !candidates.contains(i));
            let lag = Lag { stalled: true, lasted: Duration::from_secs(10), behind: 1000 };
            let evicted = gone.filter(|_| cluster.rng.chance(0.7));
            let reason = ChangeReason::Evicted(lag);
            let causes = evicted.map(|instance| Cause { instance, reason }).collect();
            Proposal {
                view: View { number, ballot, members, previous, causes, quorum, level, unproven: Vec::new() },
                states,
            }
        });
        let to: Vec<NodeInstance> =
            candidates.iter().copied().filter(|i| proposal.view.contains(*i) && oracle.in_last(*i)).collect();
        oracle.level = oracle.level.max(proposal.view.level);
        if adopted {
            cluster.count("proposal adopted");
        }
        for at in to {
            cluster.tell(at, Order::Flush(ballot, proposal.clone()));
        }
        cluster.oracle.patience = 0;
        cluster.oracle.round = Round::Flushing { ballot, proposal, flushed: BTreeSet::new(), adopted };
    }

    fn install(cluster: &mut Cluster) {
        let Round::Flushing { proposal, flushed, .. } = &cluster.oracle.round else { return };
        let (view, flushed) = (proposal.view.clone(), flushed.clone());
        for member in &view.members {
            // Who was there before but did not flush is not told, and comes back as a joiner.
            if member.joined < view.number && !flushed.contains(&member.instance) {
                cluster.oracle.told_out.insert(member.instance);
                cluster.tell(member.instance, Order::NonPrimary);
                continue;
            }
            if member.joined == view.number {
                cluster.oracle.synced.remove(&member.instance);
            }
            cluster.oracle.told_out.remove(&member.instance);
            cluster.tell(member.instance, Order::Install(view.clone()));
        }
        if cluster.oracle.last.as_ref().is_some_and(|last| last.level < view.level) {
            cluster.count("level risen");
        }
        cluster.count("view");
        cluster.oracle.accepted.clear();
        cluster.oracle.number = view.number.0;
        cluster.oracle.last = Some(view);
        cluster.oracle.round = Round::Idle;
    }
}
