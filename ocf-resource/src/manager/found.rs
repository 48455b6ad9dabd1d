//! How a node gets a state, and goes on with the one it had.

use super::{Awaiting, Manager, UNKNOWN_LIFE};
use crate::message::Message;
use crate::plan::Marks;
use crate::state::{Entered, State};
use crate::{LocalStatus, Output};
use pils::{Instant, NodeId, NodeInstance};
use std::collections::BTreeSet;

impl Manager {
    /// This node was outside, and goes on with the state that it had.
    pub(super) fn come_back(&mut self) {
        self.leaving_behind.clear();
        self.returning = true;
        self.broadcast(&Message::Returned);
        self.ask_for_my_fences();
    }

    /// Asks for the fences that it was chosen to ask for when it could not.
    pub(super) fn ask_for_my_fences(&mut self) {
        let asked = self.state.nodes.iter().filter_map(|(i, n)| Some((*i, n.fence.as_ref()?)));
        let mine = asked.filter(|(_, fence)| fence.asker == Some(self.me));
        for (target, cause) in mine.map(|(i, f)| (i, f.cause.clone())).collect::<Vec<_>>() {
            self.out.push_back(Output::Fence { target, cause });
        }
    }

    /// Begins anew: nobody has a state. `first`: this node speaks for those of whom nobody remembers a life.
    pub(super) fn found(&mut self, view: &Entered<'_>, first: bool) {
        let nodes = self.state.nodes.iter();
        let mut remembered: Vec<NodeInstance> =
            nodes.filter(|(i, n)| !n.dead && !view.members.contains(i)).map(|(i, _)| *i).collect();
        // Without access its machine may run on what it ran, so that must not be forgotten.
        let away = |life: &&NodeInstance| view.members.iter().all(|m| m.node != life.node);
        let bare = |life: &&NodeInstance| self.config.access.has(life.node);
        remembered.extend(self.state.over.iter().filter(away).filter(bare));
        if first {
            remembered.extend(self.unknown_lives(view, &remembered));
        }
        self.begin(State::found(view));
        self.unwritten = true;
        self.remembered = remembered;
        self.say_remembered();
    }

    /// Ordered before this node's probe results, so before anything can start.
    fn say_remembered(&mut self) {
        if !self.remembered.is_empty() {
            self.broadcast(&Message::Remember(self.remembered.clone()));
        }
    }

    /// Whatever runs on the configured nodes that are absent and of which nobody remembers a life.
    fn unknown_lives(&self, view: &Entered<'_>, remembered: &[NodeInstance]) -> Vec<NodeInstance> {
        let departed = view.departed.iter().map(|d| d.instance);
        let known: BTreeSet<NodeId> =
            view.members.iter().chain(remembered).copied().chain(departed).map(|i| i.node).collect();
        let absent = self.nodes.iter().filter(|node| !known.contains(node));
        absent.map(|node| NodeInstance::new(*node, UNKNOWN_LIFE)).collect()
    }

    /// This node is the first of the stream: those of whom it waited to get the state are gone with it.
    pub(super) fn on_first(&mut self, now: Instant) {
        let Some(Awaiting { number, members, departed }) = self.awaiting.take() else { return };
        if self.phase != LocalStatus::Joining {
            return;
        }
        self.found(&Entered { number, members: &members, joined: &members, departed: &departed }, true);
        self.resume();
        self.bring();
        self.advance(now, &Marks::ALL, Vec::new());
    }

    /// Those who had the state are gone, and this node goes on without it. What was ordered so far was for those who
    /// have the state, and was not delivered here: a founder says again what it said then.
    pub(super) fn on_state_lost(&mut self, now: Instant) {
        if !self.is_member() || !self.unwritten {
            return self.on_first(now);
        }
        let members = self.state.members.clone();
        let view = Entered { number: self.state.view, members: &members, joined: &members, departed: &[] };
        let mut known: Vec<NodeInstance> = self.state.nodes.keys().copied().collect();
        known.extend(&self.remembered);
        self.remembered.extend(self.unknown_lives(&view, &known));
        self.say_remembered();
        self.bring();
        self.advance(now, &Marks::ALL, Vec::new());
    }
}
