//! Cores and a network that a test drives message by message; the test says when a view comes and who is in it.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file takes what it needs of it")]

use bytes::Bytes;
use ocf_groups::{Config, Event, Groups, Input, Output, Sabotage};
use ocf_membership::{Ballot, Cause, ChangeReason, Lag, Member, Proposal, View, ViewNumber};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(crate) const fn node(number: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(number), Incarnation::new((number as u128) << 64))
}

/// What stands on the core of a node.
pub(crate) trait App {
    fn on_event(&mut self, at: NodeInstance, now: Instant, core: &mut Groups, event: Event);
}

pub(crate) struct Site<A> {
    pub(crate) core: Groups,
    pub(crate) app: A,
    /// Outputs that it carries out at a time; all, unless a test makes it slow.
    pub(crate) pace: usize,
    blocked: Option<(Ballot, Bytes)>,
    flushed: Option<Ballot>,
}

pub(crate) struct Net<A> {
    pub(crate) now: Instant,
    pub(crate) sites: BTreeMap<NodeInstance, Site<A>>,
    /// From, to, content.
    pub(crate) lanes: VecDeque<(NodeInstance, NodeInstance, Bytes)>,
    /// The level of the views that follow.
    pub(crate) level: u32,
    /// Nodes whose build does not know pieces of states that are asked for.
    pub(crate) old: BTreeSet<NodeInstance>,
    /// Messages that such a build does not know.
    pub(crate) unknown: usize,
    /// Who asked to evict whom, and when.
    pub(crate) evictions: Vec<(Instant, NodeInstance, NodeInstance, Lag)>,
    members: Vec<Member>,
    view: u64,
}

impl<A: App> Net<A> {
    /// Nodes 1 to `nodes`, in no view yet.
    pub(crate) fn new(nodes: u32, config: &Config, bug: Option<Sabotage>, app: impl Fn() -> A) -> Self {
        let site = |n: u32| {
            let mut core = Groups::new(config.clone(), node(n));
            if let Some(bug) = bug {
                core.sabotage(bug);
            }
            (node(n), Site { core, app: app(), pace: usize::MAX, blocked: None, flushed: None })
        };
        Self {
            now: Instant::ZERO,
            sites: (1..=nodes).map(site).collect(),
            lanes: VecDeque::new(),
            level: 2,
            old: BTreeSet::new(),
            unknown: 0,
            evictions: Vec::new(),
            members: Vec::new(),
            view: 0,
        }
    }

    /// Nodes 1 to `nodes` in one view, each with a member in the group.
    pub(crate) fn formed(
        nodes: u32,
        group: &str,
        of: (&Config, Option<Sabotage>),
        app: impl Fn() -> A,
    ) -> Self {
        let mut net = Self::new(nodes, of.0, of.1, app);
        let all: Vec<NodeInstance> = (1..=nodes).map(node).collect();
        net.enter(&all, &[]);
        net.settle();
        for at in all {
            net.join(at, group);
            net.settle();
        }
        net
    }

    pub(crate) fn site(&mut self, of: NodeInstance) -> &mut Site<A> {
        self.sites.get_mut(&of).expect("it lives")
    }

    /// Carries out what a node wants, as far as its pace allows, and fires its timers.
    pub(crate) fn drain(&mut self, at: NodeInstance) {
        let now = self.now;
        for _ in 0..self.site(at).pace {
            let site = self.site(at);
            if site.core.poll_timeout().is_some_and(|due| due <= now) {
                site.core.handle_timeout(now);
            }
            let Some(output) = site.core.poll_output() else { break };
            match output {
                Output::Send { to, message, .. } => {
                    self.lanes.extend(to.iter().map(|to| (at, *to, message.clone())));
                }
                Output::Blocked(ballot, state) => site.blocked = Some((ballot, state)),
                Output::Flushed(ballot) => site.flushed = Some(ballot),
                Output::Synced(_) => {}
                Output::Evict { instance, lag } => self.evictions.push((now, at, instance, lag)),
                Output::Event(event) => site.app.on_event(at, now, &mut site.core, event),
                other => panic!("unknown output {other:?}"),
            }
        }
        self.site(at).core.check_invariants().expect("what a core promises itself");
    }

    /// Delivers one message; what it was, or nothing if there is none.
    pub(crate) fn step(&mut self) -> Option<(NodeInstance, NodeInstance, Bytes)> {
        let (from, to, message) = self.lanes.pop_front()?;
        if self.old.contains(&to) && matches!(message.get(1), Some(6 | 7)) {
            self.unknown += 1;
        } else if let Some(site) = self.sites.get_mut(&to) {
            site.core.handle(self.now, Input::Message { from, message: &message });
            self.drain(to);
        }
        Some((from, to, message))
    }

    pub(crate) fn settle(&mut self) {
        while self.step().is_some() {}
    }

    /// A millisecond passes for all but those who stand still.
    pub(crate) fn tick(&mut self, still: &[NodeInstance]) {
        self.now += core::time::Duration::from_millis(1);
        let awake: Vec<NodeInstance> = self.sites.keys().copied().filter(|i| !still.contains(i)).collect();
        for at in awake {
            self.drain(at);
        }
        let (wait, go) =
            core::mem::take(&mut self.lanes).into_iter().partition(|(_, to, _)| still.contains(to));
        self.lanes = go;
        self.settle();
        self.lanes.extend::<VecDeque<_>>(wait);
    }

    /// These go on together, or join, in this order of seniority; who is evicted is told why.
    pub(crate) fn enter(&mut self, nodes: &[NodeInstance], evicted: &[(NodeInstance, Lag)]) {
        self.view += 1;
        let number = ViewNumber(self.view);
        let ballot = Ballot { round: self.view, proposer: nodes[0] };
        let joined =
            |i: &NodeInstance| self.members.iter().find(|m| m.instance == *i).map_or(number, |m| m.joined);
        let members: Vec<Member> =
            nodes.iter().map(|i| Member { instance: *i, joined: joined(i), votes: 1 }).collect();
        let cause =
            |(i, lag): &(NodeInstance, Lag)| Cause { instance: *i, reason: ChangeReason::Evicted(*lag) };
        let view = View {
            number,
            ballot,
            previous: core::mem::replace(&mut self.members, members.clone()),
            causes: evicted.iter().map(cause).collect(),
            quorum: 1,
            level: self.level,
            unproven: Vec::new(),
            members,
        };
        let stay: Vec<NodeInstance> =
            view.members.iter().filter(|m| m.joined < number).map(|m| m.instance).collect();
        let mut states = Vec::new();
        for at in &stay {
            let now = self.now;
            self.site(*at).core.handle(now, Input::Block(ballot));
            self.drain(*at);
            states.push((*at, self.site(*at).blocked.take().expect("it stops").1));
        }
        let proposal = Proposal { view: view.clone(), states };
        for at in &stay {
            let now = self.now;
            self.site(*at).core.handle(now, Input::Flush(ballot, &proposal));
            self.drain(*at);
        }
        while stay.iter().any(|at| self.sites[at].flushed != Some(ballot)) {
            assert!(self.step().is_some(), "the flush ends");
        }
        for at in nodes {
            let now = self.now;
            self.site(*at).core.handle(now, Input::Installed(&view));
            self.drain(*at);
        }
    }

    pub(crate) fn join(&mut self, at: NodeInstance, group: &str) {
        let now = self.now;
        self.site(at).core.join(now, group, 0).expect("it may join");
        self.drain(at);
    }

    /// What it had sent and is still under way is lost with it.
    pub(crate) fn kill(&mut self, victim: NodeInstance) {
        self.sites.remove(&victim);
        self.lanes.retain(|(from, to, _)| *from != victim && *to != victim);
    }
}
