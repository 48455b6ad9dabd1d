//! Copies that have to be restarted because the configuration changed: not all at once, and what is promoted last.

use super::Scene;
use crate::state::{Node, Presence, Spot};
use crate::{Action, OldCopy};
use core::cmp::Reverse;
use pils::NodeInstance;
use std::sync::Arc;

/// Copies that run, and have to be stopped to run as they are to.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// All of them.
    due: Vec<NodeInstance>,
    /// Those of them whose turn it is.
    turn: Vec<NodeInstance>,
    /// Those of these that give their role to another copy first.
    hand_over: Vec<NodeInstance>,
    /// What has to run as it is to before it is the turn of others: copies that are down, or that have still to take a role.
    awaited: Vec<NodeInstance>,
    /// Who is gone and has to be fenced before.
    lost: Vec<NodeInstance>,
    /// Copies that are not promoted, and are restarted before those that are; or may have to be.
    first: Vec<NodeInstance>,
}

impl Restarts {
    /// True if what runs on this node is not stopped yet, though it has to be restarted.
    pub(super) fn holds(&self, node: NodeInstance) -> bool {
        self.due.contains(&node) && (!self.turn.contains(&node) || self.hand_over.contains(&node))
    }

    /// True if a copy is rather not promoted: it is going to be stopped soon, and is not promoted yet, or gives its role away.
    pub(super) fn ranks_last(&self, node: NodeInstance, promoted: bool) -> bool {
        self.due.contains(&node) && (!promoted || self.hand_over.contains(&node))
    }

    /// Copies that have still to be promoted count as others that are down: whoever gave its role away is not stopped before another
    /// has it.
    fn wait_for_roles(&mut self, most: usize, roles: Vec<NodeInstance>) {
        self.awaited.extend(roles.into_iter().filter(|node| !self.due.contains(node)));
        self.turn.truncate(most.saturating_sub(self.awaited.len() + self.lost.len()));
    }
}

impl Scene<'_> {
    /// Which copies are to be restarted, and whose turn it is; and which are to be promoted, best first.
    ///
    /// A copy that runs is stopped for a restart only while fewer than so many are down, whatever for, that may run.
    pub(super) fn restarts(&self, targets: &[NodeInstance]) -> (Restarts, Vec<NodeInstance>) {
        let mut restarts = self.due(targets);
        let most = match self.config.restart_parallel {
            n if n > 0 && !self.rules.ignore_restarts => usize::try_from(n).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        if restarts.due.is_empty() || most == usize::MAX {
            restarts = Restarts::default();
            let roles = self.promoted_of(targets, &restarts);
            return (restarts, roles);
        }
        self.await_others(targets, &mut restarts);
        let free = most.saturating_sub(restarts.awaited.len() + restarts.lost.len());
        let held = |i: &NodeInstance| self.state.nodes.get(i).is_some_and(|n| self.has_role(n));
        // Those that are not promoted come first; with them those of which nobody knows yet whether they have to be restarted.
        restarts.first = self.others_first(targets, held);
        let promoted = restarts.first.is_empty();
        let turn = restarts.due.iter().copied().filter(|i| held(i) == promoted);
        restarts.turn = turn.take(free).collect();
        if promoted {
            let others = targets.iter().filter(|i| self.can_take_a_role(**i) && !held(i)).count();
            restarts.hand_over = restarts.turn.iter().copied().take(others).collect();
        }
        let roles = self.promoted_of(targets, &restarts);
        let whole = |i: &NodeInstance| {
            self.state.nodes.get(i).is_some_and(|n| self.spots(n).all(|(_, s)| s.promoted))
        };
        restarts.wait_for_roles(most, roles.iter().copied().filter(|i| !whole(i)).collect());
        (restarts, roles)
    }

    fn due(&self, targets: &[NodeInstance]) -> Restarts {
        let has_to = |i: &&NodeInstance| {
            self.state.nodes.get(*i).is_some_and(|n| self.is_up(n) && self.has_to_restart(n))
        };
        Restarts { due: targets.iter().filter(has_to).copied().collect(), ..Restarts::default() }
    }

    /// What counts as down: where it is to run and does not, or nobody knows; and who is gone and may run it still.
    fn await_others(&self, targets: &[NodeInstance], restarts: &mut Restarts) {
        for (instance, node) in &self.state.nodes {
            if !node.member || self.doomed.contains_key(instance) {
                if !self.is_clear(node) {
                    restarts.lost.push(*instance);
                }
            } else if self.spots(node).any(|(_, s)| s.presence == Presence::Unknown)
                || (targets.contains(instance) && (!self.is_up(node) || self.changes_role(node)))
            {
                restarts.awaited.push(*instance);
            }
        }
    }

    /// Copies that are restarted before those that are promoted, or may have to be.
    fn others_first(
        &self,
        targets: &[NodeInstance],
        held: impl Fn(&NodeInstance) -> bool,
    ) -> Vec<NodeInstance> {
        let old = |n: &Node| self.has_to_restart(n) || self.spots(n).any(|(_, s)| s.outdated.is_some());
        let first =
            |i: &&NodeInstance| !held(i) && self.state.nodes.get(*i).is_some_and(|n| self.is_up(n) && old(n));
        targets.iter().filter(first).copied().collect()
    }

    /// A copy that runs as it is to, and that its agents let be promoted.
    fn can_take_a_role(&self, instance: NodeInstance) -> bool {
        self.state.nodes.get(&instance).is_some_and(|n| {
            self.spots(n).all(|(_, s)| s.is_running() && s.outdated.is_none()) && self.promotion(n).is_some()
        })
    }

    /// Nothing of a copy was stopped, is being stopped, or has failed: all runs that ever ran. What was added and did not start yet is
    /// no matter.
    pub(super) fn is_up(&self, node: &Node) -> bool {
        let up = |s: &Spot| {
            let keeps = [Action::ReloadAgent, Action::Promote, Action::Demote];
            matches!(s.presence, Presence::Running(_)) && s.pending.is_none_or(|(_, a)| keeps.contains(&a))
        };
        let added = |s: &Spot| s.fresh && matches!(s.presence, Presence::Stopped | Presence::Unknown);
        self.spots(node).any(|(_, s)| up(s))
            && self.spots(node).all(|(name, s)| up(s) || added(s) || self.state.is_leaving(name))
    }

    /// It is promoted, or may be: what was added to a copy that runs is not, whether it was looked at or not.
    fn has_role(&self, node: &Node) -> bool {
        let promoted = self.spots(node).any(|(_, s)| s.promoted);
        promoted || (!self.is_up(node) && self.may_be_promoted(node))
    }

    fn changes_role(&self, node: &Node) -> bool {
        self.spots(node).any(|(_, s)| matches!(s.pending, Some((_, Action::Promote | Action::Demote))))
    }

    /// Something that runs here has to be stopped so that all runs as it is to.
    fn has_to_restart(&self, node: &Node) -> bool {
        let runs = |(name, s): (&Arc<str>, &Spot)| {
            matches!(s.presence, Presence::Running(_)) && !self.state.is_leaving(name)
        };
        !self.stays() && self.spots(node).skip_while(|spot| self.is_well(*spot)).any(runs)
    }

    /// Copies that are to be promoted, best first.
    fn promoted_of(&self, targets: &[NodeInstance], restarts: &Restarts) -> Vec<NodeInstance> {
        let limit = usize::try_from(self.config.promoted).unwrap_or(usize::MAX);
        let ready = |i: &NodeInstance| {
            self.state.nodes.get(i).is_some_and(|n| {
                let runs = self.spots(n).all(|(_, s)| matches!(s.presence, Presence::Running(_)));
                let rests = runs && self.spots(n).all(|(_, s)| s.pending.is_none());
                rests || (self.has_role(n) && (runs || self.is_up(n)))
            })
        };
        let worth = |i: &NodeInstance| {
            let node = self.state.nodes.get(i)?;
            let held = self.has_role(node);
            let sticks = self.config.stickiness.filter(|_| held).unwrap_or_default();
            Some((restarts.ranks_last(*i, held), Reverse(self.promotion(node)? + sticks), !held))
        };
        let mut ranked: Vec<_> =
            targets.iter().filter(|i| ready(i)).filter_map(|i| Some((worth(i)?, *i))).collect();
        ranked.sort_by_key(|(worth, _)| *worth);
        ranked.truncate(limit);
        ranked.into_iter().map(|(_, i)| i).collect()
    }

    /// Copies whose restart waits, and for what.
    pub(super) fn old_copies(&self) -> Vec<OldCopy> {
        if !self.is_many() || self.state.maintenance || self.group.maintenance {
            return Vec::new();
        }
        let (restarts, _) = self.restarts(&self.many_targets());
        let waits = restarts.due.iter().filter(|node| restarts.holds(**node));
        let awaits = |node| {
            let down = !restarts.awaited.is_empty() || !restarts.lost.is_empty();
            let first = if down { &restarts.awaited } else { &restarts.first };
            first.iter().copied().filter(|i| *i != node).collect()
        };
        waits
            .map(|node| OldCopy { node: *node, awaits: awaits(*node), fencing: restarts.lost.clone() })
            .collect()
    }
}
