//! The next step of a group on a node: a stop, a start, or a change that is taken without either.

use super::live::Live;
use super::{Plan, Scene, Step};
use crate::state::{Node, Presence};
use crate::{Action, Why};
use pils::NodeInstance;
use std::sync::Arc;

impl Scene<'_> {
    /// Stops, last first, what must not run on a node. One at a time. `waits`: it is not its turn to be stopped so that it runs as it
    /// is to.
    pub(super) fn plan_stop(
        &self,
        (instance, node): (NodeInstance, &Node),
        target: Option<NodeInstance>,
        waits: bool,
        plan: &mut Plan,
    ) {
        let here = target == Some(instance);
        let spots: Vec<_> = self.spots(node).collect();
        let stays = self.stays() || waits;
        let fine = |spot| self.is_well(spot) || (stays && self.can_stay(spot));
        let unwell = || spots.iter().position(|spot| !fine(*spot));
        let keep = if here { unwell().unwrap_or(spots.len()) } else { 0 };
        for (resource, spot) in spots[keep..].iter().rev() {
            if spot.is_clear() {
                continue;
            }
            let why = match &spot.presence {
                _ if spot.pending.is_some() => return,
                Presence::Handed | Presence::Incoming => {
                    match self.plan_live(instance, (*resource, *spot), target) {
                        Live::Waits => return,
                        Live::TakesOver(from) => {
                            let (resource, why) = (Arc::clone(resource), Why::TakeOver { from });
                            plan.steps.push(Step {
                                node: instance,
                                resource,
                                action: Action::MigrateFrom,
                                why,
                            });
                            return;
                        }
                        Live::Ends if here => Why::Recover,
                        Live::Ends if self.wanted() => Why::Move { to: target },
                        Live::Ends => self.why_not(),
                    }
                }
                Presence::Unknown | Presence::StopFailed { .. } | Presence::Stopped => return,
                Presence::Running(_) | Presence::Failed(_) if self.state.is_leaving(resource) => Why::Removed,
                Presence::Failed(_) if here => Why::Recover,
                Presence::Running(_) if here && !spot.is_well() => Why::Reconfigured,
                Presence::Running(_) if here => Why::Order,
                Presence::Running(_) | Presence::Failed(_) if self.wanted() => Why::Move { to: target },
                Presence::Running(_) | Presence::Failed(_) => self.why_not(),
            };
            let resource = Arc::clone(resource);
            let demoted_first = spot.promoted && matches!(spot.presence, Presence::Running(_));
            let action = if demoted_first {
                Action::Demote
            } else if self.can_go_live(instance, spot, target) {
                Action::MigrateTo
            } else {
                Action::Stop
            };
            plan.steps.push(Step { node: instance, resource, action, why });
            return;
        }
    }

    /// Starts the first resource that does not run yet, if nothing of the group can run anywhere else.
    pub(super) fn plan_start(&self, target: NodeInstance, plan: &mut Plan) {
        let elsewhere = self
            .state
            .nodes
            .iter()
            .filter(|(i, n)| **i != target && (n.member || !self.rules.skip_fencing))
            .any(|(_, n)| !self.is_clear(n));
        let Some(node) = self.state.nodes.get(&target) else { return };
        if !elsewhere || self.rules.ignore_others {
            self.start_next(target, node, plan);
        }
    }

    /// Starts the first resource that does not run on this node yet, if everything behind it is down.
    pub(super) fn start_next(&self, target: NodeInstance, node: &Node, plan: &mut Plan) {
        let mut spots: Vec<_> = self.spots(node).collect();
        if self.rules.ignore_order {
            spots.reverse();
        }
        let Some(first) = spots.iter().position(|spot| !self.is_well(*spot)) else { return };
        if !spots[first..].iter().all(|(_, s)| s.is_clear()) {
            return;
        }
        let failed = self.group.failures.get(&target.node).is_some_and(|f| f.count > 0);
        plan.steps.push(Step {
            node: target,
            resource: Arc::clone(spots[first].0),
            action: Action::Start,
            why: if failed { Why::Recover } else { Why::Placed },
        });
    }

    /// Has the agent of the first that runs with old parameters take the new ones, if all run and nothing goes on there.
    pub(super) fn plan_reload(&self, target: NodeInstance, node: &Node, plan: &mut Plan) {
        if !self.spots(node).all(|(_, s)| s.is_running()) || plan.concerns(target, self.first) {
            return;
        }
        let mut spots = self.spots(node);
        if let Some((resource, _)) = spots.find(|spot| spot.1.outdated.is_some() && self.is_well(*spot)) {
            let (resource, action) = (Arc::clone(resource), Action::ReloadAgent);
            plan.steps.push(Step { node: target, resource, action, why: Why::Reconfigured });
        }
    }
}
