//! Groups that run on several nodes at once, and their roles.

use super::{Plan, Scene, Step};
use crate::state::{Node, Presence};
use crate::{Action, Blocked, FenceCause, Promotion, Score, Why};
use core::cmp::Reverse;
use pils::{NodeId, NodeInstance};
use std::sync::Arc;

impl Scene<'_> {
    /// True if the group may run on several nodes, or has roles: then it has targets in place of a home.
    pub(super) const fn is_many(&self) -> bool {
        self.config.copies != 1 || self.config.promoted > 0
    }

    /// How many nodes may run it.
    fn copies(&self) -> usize {
        match self.config.copies {
            0 => usize::MAX,
            n => usize::try_from(n).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn plan_many(&self, plan: &mut Plan) {
        let stuck = self.stuck();
        let unprobed = self.unprobed();
        let targets = self.many_targets();
        let (restarts, roles) = self.restarts(&targets);
        if stuck.is_none() {
            for (instance, node) in self.state.living() {
                if !self.doomed.contains_key(&instance) && !self.is_open(instance, node) {
                    let here = targets.contains(&instance).then_some(instance);
                    self.plan_stop((instance, node), here, restarts.holds(instance), plan);
                }
            }
        }
        let blocked = stuck.or_else(|| self.many_blocked(&targets, unprobed));
        let stops = !matches!(
            blocked,
            None | Some(Blocked::Fencing { .. } | Blocked::Probing { .. } | Blocked::NoNode { .. })
        );
        if !stops {
            self.plan_many_starts(&targets, plan);
            for target in &targets {
                if let Some(node) = self.state.nodes.get(target) {
                    self.plan_reload(*target, node, plan);
                }
            }
            self.plan_roles(&roles, plan);
        }
        plan.targets.insert(Arc::clone(self.name), targets.first().copied());
        if let Some(blocked) = blocked {
            plan.blocked.insert(Arc::clone(self.name), blocked);
        }
    }

    /// Where it is to run: the nodes that can take it, best first, those where it runs already before others of equal
    /// worth; before all others if it sticks there whatever others are worth.
    pub(super) fn many_targets(&self) -> Vec<NodeInstance> {
        if !self.wanted() {
            return Vec::new();
        }
        let sticks = self.config.stickiness();
        let always = sticks == Score::INFINITY;
        let mut fit: Vec<(bool, Reverse<Score>, usize, bool, NodeId, NodeInstance)> = self
            .state
            .living()
            .filter(|(i, n)| {
                self.ineligible(*i, n).is_none()
                    && (!self.stays() || self.stays_on(n))
                    && (self.spots(n).all(|(_, s)| s.presence != Presence::Unknown) || self.is_up(n))
            })
            .map(|(i, n)| {
                let away = !self.spots(n).any(|(_, s)| s.is_running() || s.pending.is_some());
                let score = self.score(i.node) + if away || always { Score::ZERO } else { sticks };
                (away && always, Reverse(score), self.rank(i.node), away, i.node, i)
            })
            .collect();
        fit.sort_unstable();
        fit.into_iter().map(|f| f.5).take(self.copies()).collect()
    }

    /// It is not known yet what runs on a member, which may well be one of those where it is to run.
    fn is_open(&self, instance: NodeInstance, node: &Node) -> bool {
        self.wanted()
            && self.spots(node).any(|(_, s)| s.presence == Presence::Unknown)
            && self.ineligible(instance, node).is_none()
    }

    /// Nodes on which something of the group runs or may run, lost ones included.
    fn occupied(&self) -> usize {
        let counts = |n: &Node| n.member || !self.rules.skip_fencing;
        self.state.nodes.values().filter(|n| counts(n) && !self.is_clear(n)).count()
    }

    fn plan_many_starts(&self, targets: &[NodeInstance], plan: &mut Plan) {
        let mut free = self.copies().saturating_sub(self.occupied());
        if self.rules.ignore_copies {
            free = usize::MAX;
        }
        for target in targets {
            let Some(node) = self.state.nodes.get(target) else { continue };
            if self.is_clear(node) {
                if free == 0 {
                    continue;
                }
                free -= 1;
            }
            self.start_next(*target, node, plan);
        }
    }

    /// True if something of the group is, or may be, promoted there: also if nobody has looked.
    pub(super) fn may_be_promoted(&self, node: &Node) -> bool {
        self.spots(node).any(|(_, s)| s.promoted || s.presence == Presence::Unknown)
    }

    /// How good the copy on a node is for the promoted role; `None` if its agents do not let it be promoted. What its agents
    /// say of it adds up. If they say nothing of any copy, and never did, each is as good as another.
    pub(super) fn promotion(&self, node: &Node) -> Option<Score> {
        if self.rules.ignore_promotion {
            return Some(Score::ZERO);
        }
        let said: Vec<Promotion> = self.spots(node).filter_map(|(_, s)| s.promotion).collect();
        if said.is_empty() {
            // One that is promoted stays so until something else is said of it.
            return (!self.group.scored || self.may_be_promoted(node)).then_some(Score::ZERO);
        }
        let scores = said.iter().map(|said| match said {
            Promotion::Score(score) => Some(*score),
            Promotion::Withdrawn => None,
        });
        let sum = scores.sum::<Option<Score>>()?;
        (sum >= Score::ZERO).then_some(sum)
    }

    /// `wanted`: those that are to be promoted, best first.
    fn plan_roles(&self, wanted: &[NodeInstance], plan: &mut Plan) {
        let limit = usize::try_from(self.config.promoted).unwrap_or(usize::MAX);
        for (instance, node) in self.state.living() {
            if !wanted.contains(&instance) && !self.doomed.contains_key(&instance) {
                self.demote_last(instance, node, plan);
            }
        }
        let counts = |n: &Node| n.member || !self.rules.skip_fencing;
        let held = self.state.nodes.values().filter(|n| counts(n) && self.may_be_promoted(n)).count();
        let mut free = if self.rules.ignore_roles { usize::MAX } else { limit.saturating_sub(held) };
        for instance in wanted {
            let Some(node) = self.state.nodes.get(instance) else { continue };
            if !self.may_be_promoted(node) {
                if free == 0 {
                    continue;
                }
                free -= 1;
            }
            self.promote_first(*instance, node, plan);
        }
    }

    /// Demotes what is promoted, last first, one at a time, if nothing goes on there.
    fn demote_last(&self, instance: NodeInstance, node: &Node, plan: &mut Plan) {
        if self.spots(node).any(|(_, s)| s.pending.is_some()) || plan.concerns(instance, self.first) {
            return;
        }
        let last = self.spots(node).rev().find(|(_, s)| s.promoted && s.is_running());
        if let Some((resource, _)) = last {
            let resource = Arc::clone(resource);
            plan.steps.push(Step { node: instance, resource, action: Action::Demote, why: Why::Role });
        }
    }

    /// Promotes the first that is not promoted, if all run and nothing goes on there.
    fn promote_first(&self, instance: NodeInstance, node: &Node, plan: &mut Plan) {
        if !self.spots(node).all(|(_, s)| s.is_running()) || plan.concerns(instance, self.first) {
            return;
        }
        if let Some((resource, _)) = self.spots(node).find(|(_, s)| !s.promoted) {
            let resource = Arc::clone(resource);
            plan.steps.push(Step { node: instance, resource, action: Action::Promote, why: Why::Role });
        }
    }

    fn many_blocked(&self, targets: &[NodeInstance], unprobed: Option<NodeInstance>) -> Option<Blocked> {
        if let Some((resource, why)) = &self.group.fatal {
            return Some(Blocked::Misconfigured { resource: Arc::clone(resource), why: Arc::clone(why) });
        }
        if !self.is_asked_for() {
            return None;
        }
        if let Some(lacks) = self.lacks_quorum() {
            return Some(lacks);
        }
        let waits = |(i, n): (&NodeInstance, &Node)| {
            let cause = self.doomed.get(i).filter(|_| !self.is_clear(n))?;
            let last = n.fence.as_ref().and_then(|f| f.last.as_ref().map(|(_, text)| Arc::clone(text)));
            Some(Blocked::Fencing { target: *i, cause: FenceCause::clone(cause), last })
        };
        let full = self.occupied() >= self.copies() || self.config.promoted > 0;
        let running = |i: &NodeInstance| {
            self.state.nodes.get(i).is_some_and(|n| self.spots(n).all(|(_, s)| s.is_running()))
        };
        let up = targets.iter().filter(|t| running(t)).count();
        if full
            && up < targets.len().max(1)
            && !self.rules.skip_fencing
            && let Some(waits) = self.state.nodes.iter().find_map(waits)
        {
            return Some(waits);
        }
        if !targets.is_empty() {
            return None;
        }
        if let Some(node) = unprobed {
            return Some(Blocked::Probing { node });
        }
        let nodes = self.state.living().filter_map(|(i, n)| Some((i, self.ineligible(i, n)?))).collect();
        Some(Blocked::NoNode { nodes })
    }
}
