//! What comes in and goes out: batches, loopback, messages that must wait.

use super::{Engine, Output, Standing, sabotaged};
use crate::wire::{Batch, Item, Message};
use bytes::Bytes;
use pils::NodeInstance;

/// What an item takes in a message, about.
const BYTES_OF_AN_ITEM: usize = 64;

impl Engine {
    /// Says something to a node, which may be this one.
    pub(crate) fn push(&mut self, to: NodeInstance, item: Item) {
        if to == self.local {
            self.loopback.push_back(item);
            return;
        }
        if !self.is_member(to) {
            return;
        }
        self.stats.items_sent += 1;
        let epoch = self.epoch;
        let batch = self.batches.entry(to).or_insert_with(|| Batch::new(epoch));
        batch.push(&item);
        if batch.len() >= self.config.batch_bytes
            && let Some(batch) = self.batches.remove(&to)
        {
            self.send(to, batch);
        }
    }

    /// Turns what was said since the last time into messages.
    pub(crate) fn flush(&mut self) {
        while let Some((to, batch)) = self.batches.pop_first() {
            self.send(to, batch);
        }
    }

    fn send(&mut self, to: NodeInstance, batch: Batch) {
        self.stats.messages_sent += 1;
        self.outputs.push_back(Output::Send { to, message: batch.finish() });
    }

    /// Handles what this node said to itself.
    pub(crate) fn settle(&mut self) {
        while self.standing != Standing::Suspended || sabotaged!(self, IgnoreSuspension) {
            let Some(item) = self.loopback.pop_front() else { return };
            self.take(self.local, self.epoch, item);
        }
    }

    pub(crate) fn on_message(&mut self, from: NodeInstance, message: &[u8]) {
        let Ok(epoch) = Message::epoch(message) else {
            self.stats.malformed += 1;
            return;
        };
        let early = epoch > self.epoch;
        if !early && !self.is_member(from) {
            self.stats.strangers += 1;
            return;
        }
        let suspended = self.standing == Standing::Suspended && !sabotaged!(self, IgnoreSuspension);
        if early || suspended || self.held.contains_key(&from) {
            self.hold(from, message);
        } else {
            self.read(from, message);
        }
    }

    fn hold(&mut self, from: NodeInstance, message: &[u8]) {
        self.held_bytes += message.len();
        if self.held_bytes > self.config.held_bytes_max {
            // It cannot follow any more, and must not act on a part of what was said.
            self.stats.overruns += 1;
            self.on_non_primary();
            // Nor in a view of which it has dropped a part: it joins in a later one.
            let dropped = self.held.values().flatten().map(|held| &**held).chain([message]);
            let newest = dropped.filter_map(|message| Message::epoch(message).ok()).max();
            self.epoch = self.epoch.max(newest.unwrap_or_default());
            self.held.clear();
            self.held_bytes = 0;
            self.outputs.push_back(Output::Overrun);
            return;
        }
        self.held.entry(from).or_default().push_back(Bytes::copy_from_slice(message));
    }

    /// Of whom the next message has waited and need not wait any more.
    pub(crate) fn next_held(&self) -> Option<NodeInstance> {
        let due = |message: &Bytes| Message::epoch(message).is_ok_and(|epoch| epoch <= self.epoch);
        self.held.iter().find(|(_, held)| held.front().is_some_and(due)).map(|(from, _)| *from)
    }

    /// Handles the next message of a node that has waited. How much that is, in items or so.
    pub(crate) fn take_held(&mut self, from: NodeInstance) -> usize {
        let Some(held) = self.held.get_mut(&from) else { return 1 };
        let message = held.pop_front().unwrap_or_default();
        if held.is_empty() {
            self.held.remove(&from);
        }
        self.held_bytes -= message.len();
        if self.is_member(from) {
            self.read(from, &message);
        }
        1 + message.len() / BYTES_OF_AN_ITEM
    }

    fn read(&mut self, from: NodeInstance, message: &[u8]) {
        let Ok(message) = Message::parse(message) else {
            self.stats.malformed += 1;
            return;
        };
        // What it said before it joined (again), or before this node did, belongs to a life that was given up.
        let of_this_life = |x| self.members.get(&x).is_some_and(|joined| message.epoch >= *joined);
        if !(of_this_life(from) && of_this_life(self.local)) {
            self.stats.stale += 1;
            return;
        }
        let mut claims = 0;
        for item in message.items {
            let claim = matches!(item, Item::Claim(_) | Item::ClaimTree { .. });
            claims += u32::from(claim && message.epoch == self.epoch);
            self.take(from, message.epoch, item);
        }
        if claims > 0 {
            self.push(from, Item::Taken { claims });
        }
    }

    fn take(&mut self, from: NodeInstance, epoch: u64, item: Item) {
        let stale = epoch < self.epoch && !sabotaged!(self, IgnoreEpoch);
        if stale && Self::is_bound_to_its_epoch(&item) {
            self.stats.stale += 1;
            if let Item::Own { tree, floor, .. } = item {
                self.on_late_own(tree, floor);
            } else if let Item::Take(moved) = item {
                self.on_late_take(from, moved);
            }
            return;
        }
        match item {
            Item::Lookup(request) => self.on_lookup(from, request),
            Item::Forward { origin, request } => self.on_request(origin, Some(from), request),
            Item::Request(request) => self.on_request(from, None, request),
            Item::Convert(convert) => self.on_convert(from, &convert),
            Item::Unlock(unlock) => self.on_unlock(from, &unlock),
            Item::Cancel { lock, op } => self.on_cancel(from, lock, op),
            Item::Own { tree, floor, suspects } => self.on_own(from, tree, floor, suspects),
            Item::Forget { tree, floor } => self.on_forget(from, &tree, floor),
            Item::Answer(answer) => self.on_answer(from, epoch, answer),
            Item::Master { tree } => self.on_master(from, &tree),
            Item::ClaimTree { tree } => self.on_claim_tree(from, tree),
            Item::Claim(claim) => self.on_claim(from, claim),
            Item::Handover(handover) => self.on_handover(handover),
            Item::Barrier(barrier) => self.on_barrier(from, barrier),
            Item::Proven { instance, proof } => self.on_proven(instance, proof, epoch),
            Item::Probe(probe) => self.on_probe(probe),
            Item::Victim { lock, op } => self.on_victim(lock, op),
            Item::Taken { claims } => self.on_taken(from, claims),
            Item::Order(order) => self.on_order(from, order),
            Item::Report { ticket, outcome } => self.on_report(from, ticket, outcome),
            Item::NewOwner(owner) => self.on_new_owner(from, &owner),
            Item::Move { tree, ticket, to } => self.on_move(from, &tree, ticket, to),
            Item::Moved { tree, ticket, ready } => self.on_moved(from, &tree, ticket, ready),
            Item::Take(moved) => self.on_take(from, moved),
            Item::Mastering { tree, ticket, taken } => self.on_mastering(from, &tree, ticket, taken),
            Item::Stay { tree, .. } => self.on_stay(from, &tree),
            Item::Domains { spaces } => self.on_domains(from, spaces),
        }
    }

    /// True for what means something only in the view it was said in: lookups are asked again after each change, and a
    /// recovery starts over; who gave an order is told that its view ended.
    const fn is_bound_to_its_epoch(item: &Item) -> bool {
        matches!(
            item,
            Item::Lookup(_)
                | Item::Forward { .. }
                | Item::Own { .. }
                | Item::ClaimTree { .. }
                | Item::Claim(_)
                | Item::Handover(_)
                | Item::Barrier(_)
                | Item::Taken { .. }
                | Item::Order(_)
                | Item::Report { .. }
                | Item::Move { .. }
                | Item::Moved { .. }
                | Item::Take(_)
                | Item::Stay { .. }
        )
    }
}
