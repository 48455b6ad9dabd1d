//! Queue groups: where a message goes, and what those who track a group learn.

use super::content::Message;
use super::{Change, Event, GROUPS_MAX, NAME_MAX, PRIORITIES, QUEUES_PER_GROUP_MAX, Queues, Refusal};
use crate::MemberId;
use crate::replicated::Context;
use pils::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Which queue of a queue group gets a message. *Local* is a queue that a member on the sender's node has open; if none is, all
/// are looked at in turn. A queue without room is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One after the other.
    RoundRobin,
    /// The local ones, one after the other.
    LocalRoundRobin,
    /// The local one with most room for that priority.
    LocalBestQueue,
    /// All that have room.
    Broadcast,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) policy: Policy,
    /// In the order in which they came.
    pub(super) queues: Vec<u64>,
    /// How many messages were sent in turn: to all, and to the local queues of each node.
    pub(super) turns: BTreeMap<Option<NodeId>, u64>,
}

impl Queues {
    pub(super) fn names_of(&self, group: &Group) -> Vec<Arc<str>> {
        group.queues.iter().filter_map(|id| self.queues.get(id)).map(|q| Arc::clone(&q.name)).collect()
    }

    pub(super) fn create_group(&mut self, name: Arc<str>, policy: Policy) -> Result<u64, Refusal> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Refusal::InvalidParam);
        }
        if self.groups.contains_key(&name) {
            return Err(Refusal::Exist);
        }
        if self.groups.len() >= GROUPS_MAX {
            return Err(Refusal::NoResources);
        }
        self.groups.insert(name, Group { policy, queues: Vec::new(), turns: BTreeMap::new() });
        Ok(0)
    }

    pub(super) fn insert(
        &mut self,
        group: &str,
        queue: &str,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        let id = self.named(queue).ok_or(Refusal::NotExist)?;
        let found = self.groups.get_mut(group).ok_or(Refusal::NotExist)?;
        if found.queues.contains(&id) {
            return Err(Refusal::Exist);
        }
        if found.queues.len() >= QUEUES_PER_GROUP_MAX {
            return Err(Refusal::NoResources);
        }
        found.queues.push(id);
        self.tell(group, id, Change::Added, events);
        Ok(0)
    }

    pub(super) fn remove(
        &mut self,
        group: &str,
        queue: &str,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        let id = self.named(queue).ok_or(Refusal::NotExist)?;
        let found = self.groups.get_mut(group).filter(|g| g.queues.contains(&id)).ok_or(Refusal::NotExist)?;
        found.queues.retain(|other| *other != id);
        self.tell(group, id, Change::Removed, events);
        Ok(0)
    }

    fn groups_of(&self, queue: u64) -> Vec<Arc<str>> {
        self.groups
            .iter()
            .filter(|(_, g)| g.queues.contains(&queue))
            .map(|(name, _)| Arc::clone(name))
            .collect()
    }

    fn tell(&self, group: &str, queue: u64, change: Change, events: &mut Vec<Event>) {
        let (Some((group, found)), Some(queue)) = (self.groups.get_key_value(group), self.queues.get(&queue))
        else {
            return;
        };
        let (group, queue, queues) = (Arc::clone(group), Arc::clone(&queue.name), self.names_of(found));
        events.push(Event::GroupChanged { group, queue, change, queues });
    }

    pub(super) fn note_change(&self, queue: u64, change: Change, events: &mut Vec<Event>) {
        for group in self.groups_of(queue) {
            self.tell(&group, queue, change, events);
        }
    }

    pub(super) fn leave_groups(&mut self, queue: u64, events: &mut Vec<Event>) {
        for name in self.groups_of(queue) {
            if let Some(group) = self.groups.get_mut(&name) {
                group.queues.retain(|other| *other != queue);
            }
            self.tell(&name, queue, Change::Removed, events);
        }
    }

    /// Forgets whose turn it is on nodes that have no member any more.
    pub(super) fn forget_turns(&mut self, context: &Context<'_>) {
        let nodes: BTreeSet<NodeId> = context.members.iter().map(|m| m.instance.node).collect();
        for group in self.groups.values_mut() {
            group.turns.retain(|node, _| node.is_none_or(|node| nodes.contains(&node)));
        }
    }

    /// The queues that a message to a queue group, or else to a queue, goes to; all have room.
    pub(super) fn choose(
        &mut self,
        sender: MemberId,
        to: &str,
        message: &Message,
    ) -> Result<Vec<u64>, Refusal> {
        let with_room = |ids: &[u64]| -> Vec<u64> {
            let has_room = |id: &&u64| self.queues.get(id).is_some_and(|q| q.has_room(message));
            ids.iter().filter(has_room).copied().collect()
        };
        let Some(group) = self.groups.get(to) else {
            let id = self.named(to).ok_or(Refusal::NotExist)?;
            let chosen = with_room(&[id]);
            return if chosen.is_empty() { Err(Refusal::QueueFull) } else { Ok(chosen) };
        };
        if group.queues.is_empty() {
            return Err(Refusal::QueueNotAvailable);
        }
        let node = sender.instance.node;
        let is_local = |id: &u64| {
            let owner = self.queues.get(id).and_then(|q| q.owner);
            owner.is_some_and(|(_, member)| member.instance.node == node)
        };
        let local: Vec<u64> = group.queues.iter().filter(|id| is_local(id)).copied().collect();
        let (candidates, turn) = match group.policy {
            Policy::Broadcast => {
                let all = with_room(&group.queues);
                return if all.is_empty() { Err(Refusal::QueueFull) } else { Ok(all) };
            }
            Policy::LocalBestQueue if !local.is_empty() => {
                let free =
                    |id: &u64| self.queues.get(id).map_or(0, |q| q.free(usize::from(message.priority)));
                // The first of those with the same room.
                let best = with_room(&local).into_iter().rev().max_by_key(free);
                return best.map(|id| vec![id]).ok_or(Refusal::QueueFull);
            }
            Policy::LocalRoundRobin if !local.is_empty() => (local, Some(node)),
            Policy::RoundRobin | Policy::LocalRoundRobin | Policy::LocalBestQueue => {
                (group.queues.clone(), None)
            }
        };
        let able = with_room(&candidates);
        let turns = group.turns.get(&turn).copied().unwrap_or(0);
        let start = usize::try_from(turns % candidates.len() as u64).unwrap_or(0);
        let mut in_turn = candidates.iter().cycle().enumerate().skip(start).take(candidates.len());
        let (place, id) = in_turn.find(|(_, id)| able.contains(id)).ok_or(Refusal::QueueFull)?;
        if let Some(group) = self.groups.get_mut(to) {
            group.turns.insert(turn, place as u64 + 1);
        }
        Ok(vec![*id])
    }

    /// Compares how full a queue is with its thresholds.
    pub(super) fn note_capacity(&mut self, id: u64, events: &mut Vec<Event>) {
        for (area, priority) in (0..PRIORITIES).zip(0_u8..) {
            let Some(queue) = self.queues.get(&id) else { return };
            let (used, threshold) = (queue.used(area), queue.thresholds[area]);
            let reached = if queue.is_reached[area] {
                used > threshold.available || used >= threshold.reached
            } else {
                used >= threshold.reached
            };
            if reached == queue.is_reached[area] {
                continue;
            }
            let full = |queues: &Self, group: &Arc<str>| {
                let all = queues.groups.get(group).into_iter().flat_map(|g| &g.queues);
                all.filter_map(|id| queues.queues.get(id)).all(|q| q.is_reached[area])
            };
            let groups = self.groups_of(id);
            let before: Vec<bool> = groups.iter().map(|group| full(self, group)).collect();
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.is_reached[area] = reached;
                events.push(Event::Capacity { queue: Arc::clone(&queue.name), priority, reached });
            }
            for (group, before) in groups.into_iter().zip(before) {
                if full(self, &group) != before {
                    events.push(Event::GroupCapacity { group, priority, reached });
                }
            }
        }
    }
}
