//! The members that live here: what happens to them, and the transfer of state to and from them.

use super::{Groups, Sync, sabotaged};
use crate::table::{Effect, Status};
use crate::wire::Item;
use crate::{Event, MemberId, Output, Position};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// How far a local member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It wants to join; `sent` if the join is queued or on its way.
    Joining { sent: bool },
    /// It is in the group.
    Member { group: u32 },
    /// A leave is queued or on its way.
    Leaving,
}

/// What waits in a group until a local joiner has the state.
#[derive(Debug)]
pub(super) struct Gates {
    name: Arc<str>,
    queue: VecDeque<Waiting>,
    bytes: usize,
    /// Local members that dropped out; they get nothing until their new join is ordered.
    dropped_out: BTreeSet<u32>,
}

#[derive(Debug)]
enum Waiting {
    /// For these local members; the application is told of memberships in any case.
    Event { event: Event, audience: Vec<u32> },
    /// What follows waits for the state of this member as of this point.
    Gate { local: u32, position: Position, state: Option<Bytes> },
}

impl Gates {
    const fn new(name: Arc<str>) -> Self {
        Self { name, queue: VecDeque::new(), bytes: 0, dropped_out: BTreeSet::new() }
    }
}

fn size_of_event(event: &Event) -> usize {
    if let Event::Message { payload, .. } | Event::Fifo { payload, .. } = event {
        128 + payload.len()
    } else {
        256
    }
}

/// The application is told of memberships whoever waits for what.
const fn is_for_all(event: &Event) -> bool {
    matches!(event, Event::Membership { .. })
}

impl Groups {
    pub(super) fn phase(&self, group: &str, local: u32) -> Option<Phase> {
        self.locals.get(group)?.get(&local).copied()
    }

    pub(super) fn set_phase(&mut self, group: &str, local: u32, phase: Phase) {
        if let Some(slot) = self.locals.get_mut(group).and_then(|m| m.get_mut(&local)) {
            *slot = phase;
            self.locals_version += 1;
        }
    }

    pub(super) fn forget_local(&mut self, group: &str, local: u32) {
        if let Some(members) = self.locals.get_mut(group) {
            self.locals_version += 1;
            members.remove(&local);
            if members.is_empty() {
                self.locals.remove(group);
            }
        }
    }

    /// The table is here: say so, and send the joins that waited for it.
    pub(super) fn become_synced(&mut self) {
        self.sync = Sync::Synced;
        if let Some(stream) = &self.stream {
            self.outputs.push_back(Output::Synced(stream.number));
        }
        let mut joins = Vec::new();
        for (name, members) in &mut self.locals {
            for (local, phase) in members {
                if *phase == (Phase::Joining { sent: false }) {
                    *phase = Phase::Joining { sent: true };
                    joins.push(Item::Join { local: *local, name: Arc::clone(name) });
                }
            }
        }
        for join in joins {
            self.enqueue(join);
        }
        self.dirty = true;
    }

    /// The table that came counts members here that were reset since: they get nothing until they have joined again.
    pub(super) fn disown_stale(&mut self) {
        for (number, name, local) in self.table.here() {
            let fresh = || Gates::new(Arc::clone(&name));
            self.gates.entry(number).or_insert_with(fresh).dropped_out.insert(local);
            if self.phase(&name, local).is_none() {
                self.enqueue(Item::Leave { local, name: Arc::clone(&name) });
            }
        }
    }

    /// This node's groups went on without it: its members are told, and will join again.
    pub(super) fn reset_locals(&mut self) {
        self.gates.clear();
        self.unstated.clear();
        self.locals_version += 1;
        let is_in = |phase: &Phase| matches!(phase, Phase::Member { .. } | Phase::Leaving);
        let mut out = Vec::new();
        for (name, members) in &mut self.locals {
            let in_it = members.iter().filter(|(_, phase)| is_in(phase));
            out.extend(in_it.map(|(local, _)| (Arc::clone(name), *local)));
            members.retain(|_, phase| *phase != Phase::Leaving);
            members.values_mut().for_each(|phase| *phase = Phase::Joining { sent: false });
        }
        self.locals.retain(|_, members| !members.is_empty());
        for (group, local) in out {
            self.tell_reset(group, MemberId { instance: self.local, local });
        }
    }

    /// Tells a local member that it is out, unless it will be told so already.
    pub(super) fn tell_reset(&mut self, group: Arc<str>, member: MemberId) {
        let is_told = |o: &Output| matches!(o, Output::Event(Event::Reset { group: g, member: m }) if *g == group && *m == member);
        if !self.outputs.iter().any(is_told) {
            self.outputs.push_back(Output::Event(Event::Reset { group, member }));
        }
    }

    /// Makes the effects of a change of the table known here.
    pub(super) fn carry_out(&mut self, position: Position, effects: Vec<Effect>) {
        self.drop_unwanted();
        for effect in effects {
            match effect {
                Effect::Changed { group, name, members, joined, left, here } => {
                    if here {
                        self.on_changed(position, group, name, (members, joined, left));
                    }
                }
                Effect::Promoted { group, member } if member.instance == self.local => {
                    self.on_promoted(group, member, position);
                }
                Effect::Orphaned { group, member, ask } if member.instance == self.local => {
                    if self.unstated.contains(&(group, member.local)) {
                        self.put_gate(group, member.local, position);
                        if ask {
                            self.enqueue(Item::Denied { group, local: member.local });
                        }
                    }
                }
                Effect::Promoted { .. } | Effect::Orphaned { .. } => {}
                Effect::Wanted { group: number, name, joiner, donor } => {
                    // A donor that dropped out has no state to give. Its new join follows in the order, and after that
                    // another is asked.
                    if donor.instance == self.local && !self.has_dropped_out(number, donor.local) {
                        self.emit(number, Event::StateWanted { group: name, joiner, position });
                    }
                    if joiner.instance == self.local {
                        self.put_gate(number, joiner.local, position);
                    }
                }
                Effect::Refused { name, member } if member.instance == self.local => {
                    self.forget_local(&name, member.local);
                    self.outputs.push_back(Output::Event(Event::Refused { group: name, member }));
                }
                Effect::Refused { .. } => {}
            }
        }
    }

    fn on_changed(
        &mut self,
        position: Position,
        number: u32,
        name: Arc<str>,
        (members, joined, left): (Vec<MemberId>, Vec<MemberId>, Vec<MemberId>),
    ) {
        let me = self.local;
        let local = |ids: &[MemberId]| -> Vec<u32> {
            ids.iter().filter(|id| id.instance == me).map(|id| id.local).collect()
        };
        for gone in local(&left) {
            if !local(&joined).contains(&gone) {
                self.incoming.remove(&(number, gone));
            }
            self.open_gate(number, gone);
            self.unstated.remove(&(number, gone));
            if let Some(gates) = self.gates.get_mut(&number) {
                gates.dropped_out.remove(&gone);
            }
        }
        let (came, went) = (local(&joined), local(&left));
        self.emit(number, Event::Membership { group: Arc::clone(&name), position, members, joined, left });
        for gone in went.iter().filter(|gone| !came.contains(gone)) {
            self.forget_local(&name, *gone);
        }
        for new in came {
            let id = MemberId { instance: me, local: new };
            let ready =
                self.table.get(number).and_then(|g| g.entry(id)).is_some_and(|e| e.status == Status::Ready);
            if ready {
                self.incoming.remove(&(number, new));
            } else {
                self.unstated.insert((number, new));
            }
            if let Some(Phase::Joining { .. }) = self.phase(&name, new) {
                self.set_phase(&name, new, Phase::Member { group: number });
            }
        }
        if self.gates.get(&number).is_some_and(|g| g.queue.is_empty() && g.dropped_out.is_empty()) {
            self.gates.remove(&number);
        }
    }

    /// Nobody else has the state: the member starts with none, here if it waits for one.
    fn on_promoted(&mut self, number: u32, member: MemberId, position: Position) {
        let Some(group) = self.table.get(number) else { return };
        let name = Arc::clone(&group.name);
        if self.unstated.remove(&(number, member.local)) {
            self.incoming.remove(&(number, member.local));
            self.open_gate(number, member.local);
            self.emit(number, Event::StateLost { group: name, member, position });
        }
    }

    fn has_dropped_out(&self, number: u32, local: u32) -> bool {
        self.gates.get(&number).is_some_and(|gates| gates.dropped_out.contains(&local))
    }

    /// Local members of a group that take part in its stream, now or once they have the state.
    fn audience(&self, number: u32) -> Vec<u32> {
        let Some(group) = self.table.get(number) else { return Vec::new() };
        let gates = self.gates.get(&number);
        let here = group.members.iter().map(|e| e.id).filter(|id| id.instance == self.local);
        here.map(|id| id.local).filter(|l| !gates.is_some_and(|g| g.dropped_out.contains(l))).collect()
    }

    /// Hands an event of a group to the application, behind what waits there.
    pub(super) fn emit(&mut self, number: u32, event: Event) {
        if !self.gates.contains_key(&number) {
            self.outputs.push_back(Output::Event(event));
            return;
        }
        let audience = self.audience(number);
        let Some(gates) = self.gates.get_mut(&number) else { return };
        if gates.queue.is_empty() {
            if is_for_all(&event) || !audience.is_empty() {
                self.outputs.push_back(Output::Event(event));
            }
            return;
        }
        gates.bytes += size_of_event(&event);
        gates.queue.push_back(Waiting::Event { event, audience });
        if gates.bytes > self.config.transfer_buffer {
            self.drop_out(number);
        }
    }

    fn put_gate(&mut self, number: u32, local: u32, position: Position) {
        self.open_gate(number, local);
        let Some(group) = self.table.get(number) else { return };
        let name = Arc::clone(&group.name);
        let stated = !self.unstated.contains(&(number, local));
        let no_gate = stated || sabotaged!(self, OpenGates);
        let gates = self.gates.entry(number).or_insert_with(|| Gates::new(name));
        if no_gate || gates.dropped_out.contains(&local) {
            if gates.queue.is_empty() && gates.dropped_out.is_empty() {
                self.gates.remove(&number);
            }
            return;
        }
        let state = self.take_incoming((number, local), position);
        let Some(gates) = self.gates.get_mut(&number) else { return };
        gates.queue.push_back(Waiting::Gate { local, position, state });
        self.release(number);
    }

    /// Takes away the gate of a member. What waited behind it and was for this member alone is dropped.
    fn open_gate(&mut self, number: u32, local: u32) {
        let Some(gates) = self.gates.get_mut(&number) else { return };
        let gate = |w: &Waiting| matches!(w, Waiting::Gate { local: l, .. } if *l == local);
        let Some(at) = gates.queue.iter().position(gate) else { return };
        gates.queue.remove(at);
        let mut index = 0;
        gates.queue.retain_mut(|waiting| {
            index += 1;
            let Waiting::Event { event, audience } = waiting else { return true };
            if index > at {
                audience.retain(|l| *l != local);
            }
            let keep = is_for_all(event) || !audience.is_empty();
            if !keep {
                gates.bytes = gates.bytes.saturating_sub(size_of_event(event));
            }
            keep
        });
        self.release(number);
    }

    /// Hands out what waits no longer.
    fn release(&mut self, number: u32) {
        let Some(gates) = self.gates.get_mut(&number) else { return };
        let name = Arc::clone(&gates.name);
        let mut stated = Vec::new();
        while let Some(waiting) = gates.queue.pop_front() {
            let event = match waiting {
                Waiting::Event { event, .. } => {
                    gates.bytes = gates.bytes.saturating_sub(size_of_event(&event));
                    event
                }
                Waiting::Gate { local, position, state: Some(state) } => {
                    stated.push(local);
                    let member = MemberId { instance: self.local, local };
                    Event::State { group: Arc::clone(&name), member, position, state }
                }
                gate @ Waiting::Gate { state: None, .. } => {
                    gates.queue.push_front(gate);
                    break;
                }
            };
            self.outputs.push_back(Output::Event(event));
        }
        if gates.queue.is_empty() && gates.dropped_out.is_empty() {
            self.gates.remove(&number);
        }
        for local in stated {
            self.incoming.remove(&(number, local));
            self.unstated.remove(&(number, local));
            self.enqueue(Item::Stated { group: number, local });
        }
    }

    /// Too much waits for a state: the joiners that wait drop out of the group and join again.
    fn drop_out(&mut self, number: u32) {
        let Some(gates) = self.gates.get(&number) else { return };
        let name = Arc::clone(&gates.name);
        let gated = |w: &Waiting| if let Waiting::Gate { local, .. } = w { Some(*local) } else { None };
        let waiting: Vec<u32> = gates.queue.iter().filter_map(gated).collect();
        for local in waiting {
            // The state may have been waiting behind another gate.
            if !self.unstated.contains(&(number, local)) {
                continue;
            }
            if let Some(gates) = self.gates.get_mut(&number) {
                gates.dropped_out.insert(local);
            }
            self.unstated.remove(&(number, local));
            self.open_gate(number, local);
            let member = MemberId { instance: self.local, local };
            self.stats.dropped_out += 1;
            if matches!(self.phase(&name, local), Some(Phase::Member { .. })) {
                self.set_phase(&name, local, Phase::Joining { sent: true });
                self.outputs.push_back(Output::Event(Event::Reset { group: Arc::clone(&name), member }));
                self.enqueue(Item::Join { local, name: Arc::clone(&name) });
            }
        }
    }

    /// Ends every wait at a view: states are asked for anew as of its start. What waited is for those who are ready.
    pub(super) fn close_gates(&mut self) {
        for number in self.gates.keys().copied().collect::<Vec<u32>>() {
            let Some(gates) = self.gates.get_mut(&number) else { continue };
            gates.bytes = 0;
            let mut gated = Vec::new();
            for waiting in gates.queue.drain(..) {
                match waiting {
                    Waiting::Gate { local, .. } => gated.push(local),
                    Waiting::Event { event, audience } => {
                        if is_for_all(&event) || audience.iter().any(|l| !gated.contains(l)) {
                            self.outputs.push_back(Output::Event(event));
                        }
                    }
                }
            }
        }
        self.gates.retain(|_, gates| !gates.dropped_out.is_empty());
    }

    /// The group's number, if this node was asked for that state and nothing has changed since.
    pub(super) fn wanted_from_here(&self, group: &str, joiner: MemberId, position: Position) -> Option<u32> {
        let (number, _) = self.table.named(group)?;
        self.is_wanted_from_here(number, joiner, position).then_some(number)
    }

    pub(super) fn is_wanted_from_here(&self, number: u32, joiner: MemberId, position: Position) -> bool {
        match self.table.get(number).and_then(|g| g.entry(joiner)).map(|entry| entry.status) {
            Some(Status::Pending { donor, position: asked }) => {
                donor.instance == self.local && asked == position
            }
            Some(Status::Ready | Status::Orphan | Status::Denied) | None => false,
        }
    }

    pub(super) fn is_awaited(&self, (number, local): (u32, u32), position: Position) -> bool {
        let gate = |w: &Waiting| matches!(w, Waiting::Gate { local: l, position: p, .. } if *l == local && *p == position);
        self.gates.get(&number).is_some_and(|g| g.queue.iter().any(gate))
    }

    pub(super) fn on_state(&mut self, number: u32, for_local: u32, as_of: Position, content: Bytes) {
        let Some(gates) = self.gates.get_mut(&number) else { return };
        for waiting in &mut gates.queue {
            if let Waiting::Gate { local, position, state } = waiting
                && (*local, *position) == (for_local, as_of)
            {
                *state = Some(content);
                break;
            }
        }
        self.release(number);
    }
}
