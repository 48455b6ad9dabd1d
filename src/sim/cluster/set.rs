//! The set of nodes changes: an operator adds the one that was not in it at first, and removes others after he switched them off.

use super::program::{Completion, Happening};
use super::{Cluster, Record};
use crate::sim::{Ctx, World};
use crate::stack::Stack;
use core::time::Duration;
use ocf_membership::{NodeVotes, Removal};
use pils::NodeId;

/// Cases that runs in which the set of nodes changes must meet within a few dozen seeds.
pub const SET_CASES: [&str; 4] = [
    "a node was added while the cluster ran",
    "a node was removed while the cluster ran",
    "a removed node was added again",
    "an order to change the set was refused",
];

/// An order that could not be carried out for so long is given up.
pub(super) const ORDER_PATIENCE: Duration = Duration::from_secs(31);
/// Fewer nodes are not left.
const SET_MIN: usize = 3;

impl Cluster {
    pub(super) fn change_set(&self, world: &mut World<Self>) {
        let Some(mean) = self.plan.set_changes.filter(|_| !world.healed()) else { return };
        let wait = mean.mul_f64(0.2 + 1.6 * world.rng().unit());
        world.schedule(wait, Happening::SetChanges);
        let set: Vec<NodeId> = self.set.1.iter().copied().collect();
        let outside: Vec<NodeId> = world.nodes().filter(|n| !self.set.1.contains(n)).collect();
        let (Some(by), Some(other)) = (world.rng().pick(&set).copied(), world.rng().pick(&set).copied())
        else {
            return;
        };
        let Some(who) = world.running(by) else { return };
        match world.rng().pick(&outside).copied() {
            Some(new) if set.len() == SET_MIN || world.rng().chance(0.7) => {
                world.complete(who, Duration::ZERO, Completion::AddNode(new));
            }
            _ if set.len() > SET_MIN && other != by => {
                let back = world.rng().duration(Duration::from_secs(1), Duration::from_secs(6));
                world.power_off(other, Some(back));
                let order = world.rng().duration(Duration::ZERO, Duration::from_secs(2));
                world.complete(who, order, Completion::RemoveNode(other));
            }
            _ => {}
        }
    }

    pub(super) fn add_node(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, node: NodeId) {
        let addresses = ctx.world().addresses(node);
        let votes = u32::from(ctx.world().rng().chance(0.5));
        let done = layer.add_node(ctx.now(), NodeVotes::new(node, votes), &addresses, "").is_ok();
        self.note_order(ctx, done);
    }

    pub(super) fn remove_node(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, node: NodeId) {
        if ctx.world().powered(node) {
            return;
        }
        let done = layer.remove_node(ctx.now(), node, Removal::Confirmed).is_ok();
        self.note_order(ctx, done);
    }

    fn note_order(&mut self, ctx: &mut Ctx<'_, Self>, done: bool) {
        if done {
            self.ordered = Some(ctx.world().now());
        } else {
            ctx.world().sometimes("an order to change the set was refused");
        }
    }

    pub(super) fn set_changed(&mut self, ctx: &mut Ctx<'_, Self>, revision: u64, votes: &[NodeVotes]) {
        ctx.record(Record::Set(revision, votes.iter().map(|n| (n.node, n.votes)).collect()));
        if revision <= self.set.0 {
            return;
        }
        let set = votes.iter().map(|n| n.node).collect();
        let (_, before) = core::mem::replace(&mut self.set, (revision, set));
        if before.difference(&self.set.1).next().is_some() {
            ctx.world().sometimes("a node was removed while the cluster ran");
        }
        let first: Vec<NodeId> = self.plan.first_set().collect();
        for new in self.set.1.difference(&before).copied().collect::<Vec<_>>() {
            let again = first.contains(&new);
            ctx.world().sometimes("a node was added while the cluster ran");
            if again {
                ctx.world().sometimes("a removed node was added again");
            }
            // Whoever was removed while it ran must start anew: the others have done with that life.
            ctx.world().kill(new, Some(Duration::from_millis(100)));
        }
    }
}
