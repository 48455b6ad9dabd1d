//! What to do next, as a pure function of the configuration and the replicated state.
//!
//! The rules, in order of weight:
//! 1. A resource starts only where every other member is known not to run any of its group, and no instance that is gone
//!    and not proven dead may run any of it.
//! 2. Within a group, a resource starts only when all before it run, and stops only when all after it are down.
//! 3. A group stays where it is as long as its node can take it, unless another node is better by more than its stickiness,
//!    or an operator says otherwise.

use crate::state::{Node, Presence, Spot, State};
use crate::{
    Action, Blocked, Config, FenceCause, GroupConfig, Ineligible, NodeScore, OldCopy, Score, Severity,
    StopFailure, Why,
};
use access::plan_access;
use core::cmp::Reverse;
pub(crate) use marks::Marks;
use pils::{NodeId, NodeInstance};
use quorum::Lack;
pub(crate) use quorum::members_of;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod access;
mod live;
mod many;
mod marks;
mod quorum;
mod reach;
mod restart;
mod steps;

/// What to do next. Empty steps and fences mean that the state is settled until something happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Groups whose home changes.
    pub homes: Vec<(Arc<str>, Option<NodeInstance>)>,
    /// What to run now. No two steps are about the same resource on the same node.
    pub steps: Vec<Step>,
    /// Requests to fence that are new or go to another member: target, cause, who asks.
    pub fences: Vec<(NodeInstance, FenceCause, Option<NodeInstance>)>,
    /// Members to be given their access now: nothing runs there.
    pub access: Vec<NodeInstance>,
    /// Where each group is to run, if anywhere.
    pub targets: BTreeMap<Arc<str>, Option<NodeInstance>>,
    /// Groups that cannot make progress.
    pub blocked: BTreeMap<Arc<str>, Blocked>,
}

/// One operation on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub node: NodeInstance,
    /// Which resource.
    pub resource: Arc<str>,
    /// What.
    pub action: Action,
    /// Why.
    pub why: Why,
}

impl Plan {
    /// True if there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty() && self.steps.is_empty() && self.fences.is_empty() && self.access.is_empty()
    }

    /// True if a step on this node is about the group that is being planned: those from `first` on are.
    fn concerns(&self, node: NodeInstance, first: usize) -> bool {
        self.steps.iter().skip(first).any(|s| s.node == node)
    }
}

/// Rules that a test may switch off to prove that their absence is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Start without waiting for fencing.
    pub(crate) skip_fencing: bool,
    /// Start on a node whatever runs of the group on others.
    pub(crate) ignore_others: bool,
    /// Start what stands behind in a group before what stands in front of it.
    pub(crate) ignore_order: bool,
    /// Start more copies than the configuration has.
    pub(crate) ignore_copies: bool,
    /// Promote more copies than the configuration has.
    pub(crate) ignore_roles: bool,
    /// Try again and again where it has failed.
    pub(crate) ignore_failures: bool,
    /// Promote in the configured order, whatever agents say.
    pub(crate) ignore_promotion: bool,
    /// Take one node to be as good as another.
    pub(crate) ignore_preferences: bool,
    /// Start on a node that was not given its access.
    pub(crate) ignore_access: bool,
    /// Take one node to reach as much as another.
    pub(crate) ignore_reach: bool,
    /// Take every quorum to be up.
    pub(crate) ignore_quorum: bool,
    /// Restart every copy of a group at once.
    pub(crate) ignore_restarts: bool,
}

/// What to do next. O(groups x resources x nodes).
#[must_use]
pub fn plan(config: &Config, state: &State) -> Plan {
    plan_by(config, state, Rules::default())
}

pub(crate) fn plan_by(config: &Config, state: &State, rules: Rules) -> Plan {
    plan_these(config, state, rules, None)
}

/// What is to be done about the groups that are marked, which is all that is to be done if nothing was to be done about the
/// others when they were planned last, and all was marked that this depends on. Targets and blocks are those of the groups that
/// were looked at. O(marked groups x resources x nodes + groups).
pub(crate) fn plan_marked(config: &Config, state: &State, rules: Rules, marks: &Marks) -> Plan {
    plan_these(config, state, rules, marks.groups())
}

/// `only`: the groups to look at, by number; none: all of them.
fn plan_these(config: &Config, state: &State, rules: Rules, only: Option<&BTreeSet<usize>>) -> Plan {
    let mut queue = Queue { all: config.groups.len(), only: only.cloned(), next: 0 };
    if state.maintenance {
        return hands_off(config, state, queue);
    }
    let fences = plan_fences(config, state, &queue);
    if !fences.is_empty() {
        // Who is to be fenced takes nothing any more.
        queue.only = None;
    }
    let mut doomed = standing(state);
    doomed.extend(fences.iter().map(|f| (f.0, &f.1)));
    let access = plan_access(config, state, &doomed);
    let mut plan = Plan { steps: plan_probes(config, state, &queue), access, ..Plan::default() };
    let lost = lost_nodes(state);
    let mut load = Load { state, counts: None };
    while let Some(at) = queue.pop() {
        let Some(group) = config.groups.get(at) else { continue };
        let Some((name, current)) = state.groups.get_key_value(group.name.as_str()) else { continue };
        let (doomed, lost, whole, first) = (&doomed, &lost, config, plan.steps.len());
        let lack = Lack::of(group, config, state, rules);
        let scene =
            Scene { config: group, name, group: current, state, rules, doomed, lost, whole, lack, first };
        let homes = plan.homes.len();
        if current.maintenance {
            plan.targets.insert(Arc::clone(name), current.home);
            plan.blocked.insert(Arc::clone(name), Blocked::Maintenance { whole: false });
        } else if scene.is_many() {
            scene.plan_many(&mut plan);
        } else {
            scene.plan(&mut plan, &mut load);
        }
        if plan.homes.len() > homes {
            queue.extend(marks::by_load(config, state));
        }
    }
    plan.fences = fences;
    plan
}

/// The groups that are still to be looked at, in the order of the configuration.
struct Queue {
    all: usize,
    only: Option<BTreeSet<usize>>,
    next: usize,
}

impl Queue {
    fn pop(&mut self) -> Option<usize> {
        let at = match &self.only {
            Some(only) => *only.range(self.next..).next()?,
            None => Some(self.next).filter(|at| *at < self.all)?,
        };
        self.next = at + 1;
        Some(at)
    }

    fn extend(&mut self, more: impl Iterator<Item = usize>) {
        if let Some(only) = &mut self.only {
            only.extend(more);
        }
    }

    /// All of them, whatever was looked at.
    fn groups<'c>(&self, config: &'c Config) -> impl Iterator<Item = &'c GroupConfig> + use<'_, 'c> {
        let some = self.only.iter().flatten().filter_map(|at| config.groups.get(*at));
        let all = if self.only.is_none() { config.groups.as_slice() } else { &[] };
        some.chain(all)
    }
}

/// On how many groups each node is the home of, counted when somebody asks.
struct Load<'a> {
    state: &'a State,
    counts: Option<BTreeMap<NodeInstance, usize>>,
}

impl Load<'_> {
    fn counts(&mut self) -> &mut BTreeMap<NodeInstance, usize> {
        self.counts.get_or_insert_with(|| {
            let mut counts: BTreeMap<NodeInstance, usize> = BTreeMap::new();
            for home in self.state.groups.values().filter_map(|g| g.home) {
                *counts.entry(home).or_default() += 1;
            }
            counts
        })
    }

    fn of(&mut self, node: NodeInstance) -> usize {
        self.counts().get(&node).copied().unwrap_or(0)
    }

    fn moves(&mut self, from: Option<NodeInstance>, to: Option<NodeInstance>) {
        let counts = self.counts();
        if let Some(old) = from.and_then(|h| counts.get_mut(&h)) {
            *old = old.saturating_sub(1);
        }
        if let Some(new) = to {
            *counts.entry(new).or_default() += 1;
        }
    }
}

/// Looks at what nobody has looked at yet.
fn plan_probes(config: &Config, state: &State, queue: &Queue) -> Vec<Step> {
    fn names(group: &GroupConfig) -> impl Iterator<Item = &str> {
        group.resources.iter().map(|r| r.name.as_str())
    }
    let mut steps = Vec::new();
    let mut probe = |node: NodeInstance, (resource, spot): (&Arc<str>, &Spot)| {
        if spot.presence == Presence::Unknown && spot.pending.is_none() {
            let (resource, action, why) = (Arc::clone(resource), Action::Monitor, Why::NewNode);
            steps.push(Step { node, resource, action, why });
        }
    };
    let is_quiet = |g: &&GroupConfig| state.groups.get(g.name.as_str()).is_some_and(|g| g.maintenance);
    if queue.only.is_none() {
        let quiet: BTreeSet<&str> = config.groups.iter().filter(is_quiet).flat_map(names).collect();
        for (instance, node) in state.living() {
            node.spots.iter().filter(|(name, _)| !quiet.contains(&***name)).for_each(|s| probe(instance, s));
        }
        return steps;
    }
    // In the same order: by node, then by name.
    let loud: BTreeSet<&str> = queue.groups(config).filter(|g| !is_quiet(g)).flat_map(names).collect();
    for (instance, node) in state.living() {
        loud.iter().filter_map(|name| node.spots.get_key_value(*name)).for_each(|s| probe(instance, s));
    }
    steps
}

/// The plan for a cluster in maintenance: nothing.
fn hands_off(config: &Config, state: &State, mut queue: Queue) -> Plan {
    let mut plan = Plan::default();
    while let Some(at) = queue.pop() {
        let Some(group) = config.groups.get(at) else { continue };
        if let Some((name, current)) = state.groups.get_key_value(group.name.as_str()) {
            plan.targets.insert(Arc::clone(name), current.home);
            plan.blocked.insert(Arc::clone(name), Blocked::Maintenance { whole: true });
        }
    }
    plan
}

/// Each member: why it cannot take a group, or `None` if it can.
pub(crate) fn eligibility(
    config: &Config,
    state: &State,
    group: &str,
) -> Vec<(NodeInstance, Option<Ineligible>)> {
    each_member((config, state), group, &standing(state), |scene, i, n| (i, scene.ineligible(i, n)))
}

/// Copies of a group that run as they were configured before, and whose restart waits.
pub(crate) fn old_copies(config: &Config, state: &State, group: &str) -> Vec<OldCopy> {
    on_scene((config, state), group, &standing(state), |scene| scene.old_copies()).unwrap_or_default()
}

/// Whom it was decided to fence.
fn standing(state: &State) -> Doomed<'_> {
    state.nodes.iter().filter_map(|(i, n)| Some((*i, &n.fence.as_ref()?.cause))).collect()
}

/// Each member: how good it is for a group.
pub(crate) fn scores(config: &Config, state: &State, group: &str) -> Vec<NodeScore> {
    each_member((config, state), group, &Doomed::new(), |scene, node, n| {
        let holds = if scene.is_many() {
            scene.spots(n).any(|(_, s)| s.is_running())
        } else {
            scene.group.home == Some(node)
        };
        NodeScore {
            node,
            preference: scene.score(node.node),
            stickiness: if holds { scene.config.stickiness() } else { Score::ZERO },
            reach: scene.reach(node.node),
            promotion: (scene.config.promoted > 0 && scene.spots(n).all(|(_, s)| s.is_running()))
                .then(|| scene.promotion(n)),
        }
    })
}

/// What `look` says of each member as a place for a group; nothing if there is no such group.
fn each_member<T>(
    (whole, state): (&Config, &State),
    group: &str,
    doomed: &Doomed<'_>,
    look: impl Fn(&Scene<'_>, NodeInstance, &Node) -> T,
) -> Vec<T> {
    let all = |scene: &Scene<'_>| state.living().map(|(i, node)| look(scene, i, node)).collect();
    on_scene((whole, state), group, doomed, all).unwrap_or_default()
}

/// What `look` says of a group; nothing if there is no such group.
fn on_scene<T>(
    (whole, state): (&Config, &State),
    group: &str,
    doomed: &Doomed<'_>,
    look: impl FnOnce(&Scene<'_>) -> T,
) -> Option<T> {
    let (name, current) = state.groups.get_key_value(group)?;
    let config = whole.group(group)?;
    let (rules, first, lost) = (Rules::default(), 0, &lost_nodes(state));
    let lack = Lack::of(config, whole, state, rules);
    Some(look(&Scene { config, name, group: current, state, rules, doomed, lost, whole, lack, first }))
}

/// Whom to fence: target, cause, who asks.
fn plan_fences(
    config: &Config,
    state: &State,
    queue: &Queue,
) -> Vec<(NodeInstance, FenceCause, Option<NodeInstance>)> {
    let mut fences = Vec::new();
    for (instance, node) in state.nodes.iter().filter(|(_, n)| !n.dead) {
        let asker = state.asker(*instance);
        if node.fence.as_ref().is_some_and(|f| f.asker == asker) {
            continue;
        }
        let cause = node.lost.clone().or_else(|| stop_failure(queue.groups(config), node));
        let Some(cause) = cause else { continue };
        let cause = node.fence.as_ref().map_or(cause, |f| f.cause.clone());
        fences.push((*instance, cause, asker));
    }
    fences
}

/// A stop that failed on this node and has to be made up for by fencing it.
fn stop_failure<'c>(groups: impl Iterator<Item = &'c GroupConfig>, node: &Node) -> Option<FenceCause> {
    let groups = groups.filter(|g| g.on_stop_failure == StopFailure::Fence);
    groups.flat_map(|g| &g.resources).find_map(|resource| {
        let (name, spot) = node.spots.get_key_value(resource.name.as_str())?;
        let Presence::StopFailed { decision, why, .. } = &spot.presence else { return None };
        let (resource, decision, why) = (Arc::clone(name), *decision, Arc::clone(why));
        (!is_refused_stop(spot)).then_some(FenceCause::StopFailed { resource, decision, why })
    })
}

/// True if an agent that cannot work here (wrong parameters, missing software) refused to stop what was never seen
/// running here. Fencing would mend nothing, and would hit one node after the other.
const fn is_refused_stop(spot: &Spot) -> bool {
    !spot.seen
        && matches!(spot.presence, Presence::StopFailed { severity: Severity::Hard | Severity::Fatal, .. })
}

/// Nodes of which a life is gone and may still run something. Found once for all groups: each asks of each member.
fn lost_nodes(state: &State) -> BTreeSet<NodeId> {
    state.lost().map(|(i, _)| i.node).collect()
}

/// Who is to be fenced, and why.
type Doomed<'a> = BTreeMap<NodeInstance, &'a FenceCause>;

/// One group and all that its plan depends on.
struct Scene<'a> {
    config: &'a GroupConfig,
    name: &'a Arc<str>,
    group: &'a crate::state::Group,
    state: &'a State,
    rules: Rules,
    doomed: &'a Doomed<'a>,
    /// Nodes of which a life is gone and may still run something.
    lost: &'a BTreeSet<NodeId>,
    /// The configuration that the group is in.
    whole: &'a Config,
    /// The quorum that it needs and that is down.
    lack: Option<Lack<'a>>,
    /// Number of the first step of the plan that is about it.
    first: usize,
}

impl Scene<'_> {
    fn plan(&self, plan: &mut Plan, load: &mut Load<'_>) {
        let waits_for_probe = self.unprobed();
        let unknown = waits_for_probe.is_some() || self.may_come_back();
        let target = self.target(unknown, load);
        let chosen = target.or_else(|| self.group.home.filter(|_| unknown && self.wanted()));
        if chosen != self.group.home {
            plan.homes.push((Arc::clone(self.name), chosen));
            load.moves(self.group.home, chosen);
        }
        let stuck = self.stuck();
        let undecided = target.is_none() && self.wanted() && unknown;
        if stuck.is_none() && !undecided {
            for (instance, node) in self.state.living() {
                if !self.doomed.contains_key(&instance) {
                    self.plan_stop((instance, node), target, false, plan);
                }
            }
        }
        let blocked = stuck.or_else(|| self.blocked(target, waits_for_probe));
        if blocked.is_none()
            && let Some(target) = target
        {
            self.plan_start(target, plan);
        }
        if let Some((target, node)) = target.and_then(|t| Some((t, self.state.nodes.get(&t)?)))
            && blocked.is_none()
        {
            self.plan_reload(target, node, plan);
        }
        plan.targets.insert(Arc::clone(self.name), target);
        if let Some(blocked) = blocked {
            plan.blocked.insert(Arc::clone(self.name), blocked);
        }
    }

    /// It is to run, now.
    fn wanted(&self) -> bool {
        self.is_asked_for() && !self.has_to_go()
    }

    /// It is to run as soon as it can.
    fn is_asked_for(&self) -> bool {
        let leaves = || self.state.config.as_ref().is_some_and(|book| book.group_leaves(self.config));
        self.group.wanted && self.group.fatal.is_none() && !leaves()
    }

    /// What counts of the group on a node: what is on its way out only as long as it may run there.
    fn spots<'n>(&'n self, node: &'n Node) -> impl DoubleEndedIterator<Item = (&'n Arc<str>, &'n Spot)> + 'n {
        let all = self.config.resources.iter().filter_map(|r| node.spots.get_key_value(r.name.as_str()));
        all.filter(|(name, spot)| !spot.is_clear() || !self.state.is_leaving(name))
    }

    /// Runs as it is to run.
    fn is_well(&self, (name, spot): (&Arc<str>, &Spot)) -> bool {
        spot.is_well() && !self.state.is_leaving(name)
    }

    /// Need not be stopped for what stands behind it to go on: it runs, by old parameters perhaps, or is down already.
    fn can_stay(&self, (name, spot): (&Arc<str>, &Spot)) -> bool {
        let down = matches!(spot.presence, Presence::Stopped | Presence::Unknown);
        (down || matches!(spot.presence, Presence::Running(_))) && !self.state.is_leaving(name)
    }

    fn why_not(&self) -> Why {
        if self.is_asked_for() { Why::NoQuorum } else { Why::Stopped }
    }

    fn is_clear(&self, node: &Node) -> bool {
        self.spots(node).all(|(_, s)| s.is_clear())
    }

    /// A member of which nobody knows whether it runs something of the group.
    fn unprobed(&self) -> Option<NodeInstance> {
        let unknown = |n: &Node| self.spots(n).any(|(_, s)| s.presence == Presence::Unknown);
        self.state.living().find(|(_, n)| unknown(n)).map(|(i, _)| i)
    }

    /// An instance that is gone may run something of the group. Should it be a member again before it is fenced, the
    /// group can stay there; so the choice waits, as the start has to anyway.
    fn may_come_back(&self) -> bool {
        !self.rules.skip_fencing && self.state.lost().any(|(_, n)| !self.is_clear(n))
    }

    /// Where the group is to run. Without a home that is open as long as it is `unknown` where something of it runs.
    fn target(&self, unknown: bool, load: &mut Load<'_>) -> Option<NodeInstance> {
        if !self.wanted() {
            return None;
        }
        let mut fit: Vec<(Reverse<Score>, usize, usize, NodeId, NodeInstance)> = self
            .state
            .living()
            .filter(|(i, n)| {
                self.ineligible(*i, n).is_none()
                    && self.spots(n).all(|(_, s)| s.presence != Presence::Unknown)
            })
            .map(|(i, _)| {
                let rank = self.rank(i.node);
                let load = if rank == usize::MAX { load.of(i) } else { 0 };
                (Reverse(self.score(i.node)), rank, load, i.node, i)
            })
            .collect();
        fit.sort_unstable();
        let holds = |home: &NodeInstance| self.state.nodes.get(home).is_some_and(|n| self.stays_on(n));
        if let Some(home) = self.group.home.filter(|home| holds(home) && fit.iter().any(|f| f.4 == *home)) {
            return Some(home);
        }
        let ahead = self.not_behind(&fit.iter().map(|f| f.4).collect::<Vec<_>>());
        fit.retain(|f| ahead.contains(&f.4));
        let best = fit.first()?.4;
        let Some(home) = self.group.home else {
            if unknown {
                return None;
            }
            let runs = |i: &NodeInstance| {
                self.state.nodes.get(i).is_some_and(|n| self.spots(n).any(|(_, s)| s.is_running()))
            };
            let pinned = Some(best.node) == self.group.pin;
            return if pinned { Some(best) } else { fit.iter().map(|f| f.4).find(runs).or(Some(best)) };
        };
        if !fit.iter().any(|f| f.4 == home) {
            // It may well be able to take it: nobody has looked yet what runs there.
            let looked = |n: &Node| self.spots(n).all(|(_, s)| s.presence != Presence::Unknown);
            let waits = self.state.nodes.get(&home).is_some_and(|n| n.member && !looked(n));
            return (!waits).then_some(best);
        }
        let pinned = Some(best.node) == self.group.pin;
        let untried = !self.group.failures.contains_key(&best.node);
        let sticks = self.config.stickiness();
        let (there, here) = (self.score(best.node), self.score(home.node));
        let first = there == here && self.rank(best.node) < self.rank(home.node);
        let better = there > here + sticks || (first && sticks == Score::ZERO);
        Some(if pinned || (better && untried) { best } else { home })
    }

    /// How much the group would rather be on a node, before it counts where it is.
    fn score(&self, node: NodeId) -> Score {
        match self.group.pin {
            Some(pin) if pin == node => Score::INFINITY,
            _ if self.rules.ignore_preferences => Score::ZERO,
            _ => self.config.preference(node) + self.reach_score(node),
        }
    }

    fn rank(&self, node: NodeId) -> usize {
        if self.group.pin == Some(node) {
            return 0;
        }
        self.config.nodes.iter().position(|n| *n == node).map_or(usize::MAX, |at| at + 1)
    }

    fn ineligible(&self, instance: NodeInstance, node: &Node) -> Option<Ineligible> {
        let id = instance.node;
        let earlier_life = self.lost.contains(&id) && !self.rules.skip_fencing;
        if !self.config.nodes.is_empty() && !self.config.elsewhere && !self.config.nodes.contains(&id) {
            return Some(Ineligible::NotListed);
        }
        if self.config.preference(id) == Score::NEVER {
            return Some(Ineligible::Unwanted);
        }
        if self.doomed.contains_key(&instance) || earlier_life {
            return Some(Ineligible::Fencing);
        }
        if let Some(why) = self.lacks_access(id, node) {
            return Some(Ineligible::NoAccess { why });
        }
        if self.state.standby.contains(&id) {
            return Some(Ineligible::Standby);
        }
        if node.leaving {
            return Some(Ineligible::Leaving);
        }
        let mut health = self.state.health.iter().filter(|((node, _), _)| *node == id);
        if let Some(((_, attribute), value)) = health.find(|(_, value)| self.whole.health.forbids(**value)) {
            return Some(Ineligible::Unhealthy { attribute: Arc::clone(attribute), value: *value });
        }
        let mut unmet = self.group.unmet.iter();
        if let Some((condition, why)) = unmet.find(|(c, _)| c.node.is_none_or(|node| node == id)) {
            let (of, name, why) = (Arc::clone(&condition.of), Arc::clone(&condition.name), Arc::clone(why));
            return Some(Ineligible::Condition { of, name, node: condition.node, why });
        }
        let failures = self.group.failures.get(&id).filter(|_| !self.rules.ignore_failures)?;
        if failures.hard {
            return Some(Ineligible::Hard { why: Arc::clone(&failures.why) });
        }
        (failures.count >= self.config.migration_threshold.max(1))
            .then(|| Ineligible::Failures { count: failures.count, why: Arc::clone(&failures.why) })
    }

    /// Something that only a person can mend, so that the group is left as it is.
    fn stuck(&self) -> Option<Blocked> {
        self.state.living().filter(|(i, _)| !self.doomed.contains_key(i)).find_map(|(node, n)| {
            self.spots(n).find_map(|(resource, spot)| {
                let Presence::StopFailed { why, .. } = &spot.presence else { return None };
                Some(Blocked::StopFailed { resource: Arc::clone(resource), node, why: Arc::clone(why) })
            })
        })
    }

    fn blocked(&self, target: Option<NodeInstance>, unprobed: Option<NodeInstance>) -> Option<Blocked> {
        if let Some((resource, why)) = &self.group.fatal {
            return Some(Blocked::Misconfigured { resource: Arc::clone(resource), why: Arc::clone(why) });
        }
        if !self.is_asked_for() {
            return None;
        }
        if let Some(lacks) = self.lacks_quorum() {
            return Some(lacks);
        }
        let up = |t: &NodeInstance| {
            self.state.nodes.get(t).is_some_and(|n| self.spots(n).all(|(_, s)| s.is_running()))
        };
        if target.as_ref().is_some_and(up) {
            return None;
        }
        let waits = |(i, n): (&NodeInstance, &Node)| {
            let cause = self.doomed.get(i).filter(|_| !self.is_clear(n))?;
            let last = n.fence.as_ref().and_then(|f| f.last.as_ref().map(|(_, text)| Arc::clone(text)));
            Some(Blocked::Fencing { target: *i, cause: FenceCause::clone(cause), last })
        };
        if !self.rules.skip_fencing
            && let Some(waits) = self.state.nodes.iter().find_map(waits)
        {
            return Some(waits);
        }
        if let Some(node) = unprobed {
            return Some(Blocked::Probing { node });
        }
        if target.is_none() {
            let nodes = self.state.living().filter_map(|(i, n)| Some((i, self.ineligible(i, n)?))).collect();
            return Some(Blocked::NoNode { nodes });
        }
        None
    }
}
