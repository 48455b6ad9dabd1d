//! The conformance suite for [`Membership`] providers.

use crate::{ChangeReason, Event, Member, Membership, View, ViewNumber};
use ocf_comm::DownReason;
use pils::{Instant, NodeId, NodeInstance};
use std::collections::BTreeMap;

/// Makes the nodes that a suite examines. One value is one cluster of the nodes 1 to 3, which has never run before; each has one
/// vote, and two votes are a quorum.
pub trait Fabric {
    /// What is examined.
    type Node: Membership;
    /// Starts a node as a new incarnation.
    fn start(&mut self, node: NodeId) -> Self::Node;
    /// Ends a node without warning, as a power cut would.
    fn kill(&mut self, node: Self::Node);
    /// Ends a node in an orderly way.
    fn leave(&mut self, node: Self::Node);
    /// Breaks all links of a node to the others.
    fn cut(&mut self, node: NodeId);
    /// Mends them.
    fn heal(&mut self, node: NodeId);
    /// The time that providers are told.
    fn now(&self) -> Instant;
    /// Lets some time pass: sleeps for a moment, or does a step of a simulation.
    fn wait(&mut self);
}

/// Calls of [`Fabric::wait`] before a suite gives up.
const PATIENCE: usize = 30_000;

/// Examines a provider: every promise of [`Membership`] that can be seen from outside, each on a fresh cluster; of
/// [`ViewPromises`](crate::ViewPromises) those that the provider makes.
///
/// # Panics
/// Where the provider does not conform, with the promise that it does not keep.
pub fn check_membership<F: Fabric>(mut make: impl FnMut() -> F) {
    nodes_that_see_each_other_share_one_view(make());
    one_node_of_three_forms_nothing(make());
    a_killed_node_is_excluded_and_comes_back_as_another(make());
    an_orderly_leave_is_told_as_such(make());
    a_minority_is_told_so_and_comes_back_as_a_joiner(make());
    who_outlives_the_majority_is_not_primary(make());
}

/// A cluster under examination. It judges every view that any node installs.
#[derive(Debug)]
pub struct Cluster<F: Fabric> {
    /// Where its nodes come from.
    pub fabric: F,
    nodes: BTreeMap<NodeId, Seat<F::Node>>,
    /// What was installed anywhere.
    chain: BTreeMap<ViewNumber, View>,
}

#[derive(Debug)]
struct Seat<N> {
    node: N,
    /// Of this life.
    events: Vec<Event>,
}

/// A node of a suite.
#[must_use]
pub const fn node(n: u32) -> NodeId {
    NodeId::new(n)
}

impl<F: Fabric> Cluster<F> {
    /// Starts these nodes.
    pub fn start(fabric: F, nodes: &[u32]) -> Self {
        let mut cluster = Self { fabric, nodes: BTreeMap::new(), chain: BTreeMap::new() };
        nodes.iter().for_each(|n| cluster.add(*n));
        cluster
    }

    /// Starts a node, or starts it anew.
    ///
    /// # Panics
    /// If the provider is another node.
    pub fn add(&mut self, n: u32) {
        let started = self.fabric.start(node(n));
        assert_eq!(started.local().node, node(n), "a provider is the node that it was started as");
        self.nodes.insert(node(n), Seat { node: started, events: Vec::new() });
    }

    /// Kills a node.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self, n: u32) {
        self.fabric.kill(self.nodes.remove(&node(n)).expect("it runs").node);
    }

    /// Has a node leave.
    ///
    /// # Panics
    /// If it does not run.
    pub fn leave(&mut self, n: u32) {
        self.fabric.leave(self.nodes.remove(&node(n)).expect("it runs").node);
    }

    /// A running node.
    ///
    /// # Panics
    /// If it does not run.
    pub fn node(&mut self, n: u32) -> &mut F::Node {
        &mut self.nodes.get_mut(&node(n)).expect("it runs").node
    }

    /// Every running node.
    pub fn each(&mut self) -> impl Iterator<Item = (u32, &mut F::Node)> {
        self.nodes.iter_mut().map(|(n, seat)| (n.raw(), &mut seat.node))
    }

    /// Who this node is.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn local(&self, n: u32) -> NodeInstance {
        self.nodes[&node(n)].node.local()
    }

    /// Has every node take in what arrived, and judges what it tells.
    ///
    /// # Panics
    /// Where a promise is broken.
    pub fn step(&mut self) {
        let now = self.fabric.now();
        for seat in self.nodes.values_mut() {
            seat.node.process(now);
            while let Some(event) = seat.node.poll_event() {
                if let Event::Installed(view) = &event {
                    judge(&mut self.chain, &seat.node, view);
                }
                seat.events.push(event);
            }
        }
        self.judge_leases();
    }

    /// Steps until `done`, and some moments more if `what` is only to be seen not to happen.
    ///
    /// # Panics
    /// If it is never so.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..PATIENCE {
            self.step();
            if done(self) {
                return;
            }
            self.fabric.wait();
        }
        let told: Vec<_> = self.nodes.values().map(|s| (s.node.local(), s.events.last())).collect();
        panic!("never came about: {what}. What each node told last: {told:?}");
    }

    /// Steps for a while in which nothing of interest should happen.
    pub fn idle(&mut self) {
        for _ in 0..200 {
            self.step();
            self.fabric.wait();
        }
    }

    /// Waits until these nodes are primary in one view of just these members, and returns it.
    ///
    /// # Panics
    /// If it is never so.
    pub fn together(&mut self, nodes: &[u32]) -> View {
        let mut found = None;
        self.until(&format!("nodes {nodes:?} in one view"), |cluster| {
            let mut members: Vec<NodeInstance> = nodes.iter().map(|n| cluster.local(*n)).collect();
            members.sort();
            let view = cluster.nodes[&node(nodes[0])].node.view().cloned();
            let all = nodes.iter().map(|n| &cluster.nodes[&node(*n)].node);
            let same = |v: &View| all.clone().all(|n| n.is_primary() && n.view() == Some(v));
            found = view.filter(|v| instances(v) == members && same(v));
            found.is_some()
        });
        found.expect("it was found")
    }

    /// [`Membership::is_primary`] of this node.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn is_primary(&self, n: u32) -> bool {
        self.nodes[&node(n)].node.is_primary()
    }

    /// True if this node told [`Event::NonPrimary`] in this life and installed nothing since.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn is_outside(&self, n: u32) -> bool {
        let events = &self.nodes[&node(n)].events;
        let last = events.iter().rposition(|e| matches!(e, Event::NonPrimary(_)));
        last.is_some_and(|at| !events[at..].iter().any(|e| matches!(e, Event::Installed(_))))
    }

    /// Of two primaries in different views the one in the older is in the newer, too: it has only not heard of it yet.
    fn judge_leases(&self) {
        let primary = |seat: &&Seat<F::Node>| seat.node.is_primary();
        let primaries =
            || self.nodes.values().filter(primary).filter_map(|s| Some((&s.node, s.node.view()?)));
        for (a, newer) in primaries().filter(|(a, _)| a.view_promises().lease) {
            for (b, older) in primaries().filter(|(_, v)| v.number < newer.number) {
                let (a, b) = (a.local(), b.local());
                assert!(newer.contains(b), "{b} acts in {} beside {a} in {}", older.number, newer.number);
            }
        }
    }
}

fn instances(view: &View) -> Vec<NodeInstance> {
    let mut members: Vec<NodeInstance> = view.members.iter().map(|m| m.instance).collect();
    members.sort();
    members
}

/// What holds for every view that is installed anywhere.
fn judge<N: Membership>(chain: &mut BTreeMap<ViewNumber, View>, node: &N, view: &View) {
    let (local, number) = (node.local(), view.number);
    assert!(view.contains(local), "{local} installed {number} without itself");
    assert!(
        node.view().is_some_and(|v| v.number >= number),
        "{local}: view() is older than {number}, which it told"
    );
    let key = |m: &Member| (m.joined, m.instance.node);
    assert!(view.members.is_sorted_by_key(key), "{number} does not name its members most senior first");
    let votes: u32 = view.members.iter().map(|m| m.votes).sum();
    assert!(votes >= view.quorum, "{number} has {votes} votes of {} that are needed", view.quorum);
    if let Some(same) = chain.get(&number) {
        assert_eq!(view, same, "{local} installed another {number}");
        return;
    }
    let newest = chain.last_key_value().map(|(_, v)| v);
    assert!(newest.is_none_or(|v| v.number < number), "{local} installed {number} behind {newest:?}");
    let stays = |m: &&Member| m.joined < number;
    let one_chain = node.view_promises().one_chain;
    let before = chain.values().rev().find(|v| one_chain || v.members == view.previous);
    for member in view.members.iter().filter(stays) {
        let was = before.and_then(|v| v.members.iter().find(|m| m.instance == member.instance));
        assert!(was.is_some_and(|m| m.joined == member.joined), "{number}: {member:?} was not in {before:?}");
    }
    if let Some(before) = before.filter(|_| view.members.iter().any(|m| stays(&m))) {
        assert_eq!(view.previous, before.members, "{number} follows the view before it");
        let told = |i: NodeInstance| view.causes.iter().any(|c| c.instance == i);
        let changed = view.joiners().chain(view.departed());
        changed.for_each(|m| assert!(told(m.instance), "{number} does not say why of {}", m.instance));
        if node.view_promises().consecutive {
            assert_eq!(number.0, before.number.0 + 1, "numbers grow by one");
        }
    }
    chain.insert(number, view.clone());
}

fn reason_of(view: &View, instance: NodeInstance) -> Option<ChangeReason> {
    view.causes.iter().find(|c| c.instance == instance).map(|c| c.reason)
}

fn nodes_that_see_each_other_share_one_view<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, &[1, 2, 3]);
    let view = cluster.together(&[1, 2, 3]);
    assert_eq!(view.quorum, 2, "two of three votes are needed");
    assert!(view.members.iter().all(|m| m.votes == 1), "each node has one vote: {view:?}");
    cluster.idle();
    assert_eq!(cluster.together(&[1, 2, 3]), view, "a view does not change while nothing happens");
}

fn one_node_of_three_forms_nothing<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, &[1]);
    cluster.idle();
    assert!(cluster.chain.is_empty(), "one vote of three is no primary");
    assert!(!cluster.node(1).is_primary() && cluster.node(1).view().is_none());
    cluster.add(2);
    cluster.add(3);
    cluster.together(&[1, 2, 3]);
}

fn a_killed_node_is_excluded_and_comes_back_as_another<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, &[1, 2, 3]);
    let before = cluster.together(&[1, 2, 3]);
    let killed = cluster.local(3);
    cluster.kill(3);
    let without = cluster.together(&[1, 2]);
    assert!(without.number > before.number && without.members.iter().all(|m| m.joined < without.number));
    let reason = reason_of(&without, killed);
    let dead = reason.is_some_and(ChangeReason::is_proof_of_death);
    assert!(reason.is_some() && !dead, "silence is no proof of death: {reason:?}");
    cluster.add(3);
    let back = cluster.together(&[1, 2, 3]);
    let new = cluster.local(3);
    assert_ne!(new, killed, "a restart is another incarnation");
    assert_eq!(back.joiners().map(|m| m.instance).collect::<Vec<_>>(), [new], "who comes back joins");
    assert_eq!(back.members.last().map(|m| m.instance), Some(new), "a joiner is the most junior");
    assert_eq!(reason_of(&back, new), Some(ChangeReason::Joined));
}

fn an_orderly_leave_is_told_as_such<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, &[1, 2, 3]);
    cluster.together(&[1, 2, 3]);
    let gone = cluster.local(2);
    cluster.leave(2);
    let without = cluster.together(&[1, 3]);
    assert_eq!(reason_of(&without, gone), Some(ChangeReason::Down(DownReason::Left)));
}

fn a_minority_is_told_so_and_comes_back_as_a_joiner<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, &[1, 2, 3]);
    cluster.together(&[1, 2, 3]);
    cluster.fabric.cut(node(3));
    let without = cluster.together(&[1, 2]);
    cluster.until("node 3 is told that it is outside", |c| c.is_outside(3));
    assert!(!cluster.node(3).is_primary(), "who is outside does not act");
    assert!(cluster.node(3).view().is_some_and(|v| v.number < without.number), "and keeps its last view");
    cluster.fabric.heal(node(3));
    let merged = cluster.together(&[1, 2, 3]);
    let third = cluster.local(3);
    assert!(merged.joiners().any(|m| m.instance == third), "others went on without it: {merged:?}");
    assert!(merged.members.iter().all(|m| m.instance == third || m.joined < merged.number), "{merged:?}");
}

fn who_outlives_the_majority_is_not_primary<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, &[1, 2, 3]);
    let all = cluster.together(&[1, 2, 3]);
    cluster.kill(1);
    cluster.kill(2);
    cluster.until("node 3 is told that it is outside", |c| c.is_outside(3));
    cluster.idle();
    assert!(!cluster.node(3).is_primary(), "one vote of three is no primary");
    assert_eq!(cluster.chain.last_key_value().map(|(n, _)| *n), Some(all.number), "no view without a quorum");
}
