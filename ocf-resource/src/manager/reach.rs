//! What this node says of the hosts that it reaches, and when what members say counts.

use super::Manager;
use crate::message::Message;
use pils::{Instant, NodeId};
use std::collections::BTreeMap;

/// What is said waits at most so many times [`Config::reach_settle`](crate::Config::reach_settle) for what others say to settle.
const PATIENCE: u32 = 4;

/// Times of what is said of hosts.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// How many hosts this node reaches; `None` if it watches none.
    own: Option<u32>,
    /// Since when that is other than what it said last, or when it said so.
    differs: Option<Instant>,
    /// When this node, the most senior one, heard what each member said last, by its serial.
    heard: BTreeMap<NodeId, (u64, Instant)>,
    /// Since when something that was said does not count, or when this node last had it count.
    open: Option<Instant>,
    due: Option<Instant>,
}

impl Reach {
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Manager {
    pub(super) fn on_reach(&mut self, now: Instant, hosts: u32, of: u32) {
        self.reach.own = (of > 0).then_some(hosts);
        self.watch_reach(now);
    }

    /// Says what is to be said by now, and finds out when to look again.
    pub(super) fn watch_reach(&mut self, now: Instant) {
        self.reach.due = None;
        let idle = self.reach.own.is_none() && self.state.reach.said.is_empty();
        if idle || !self.acts() || !self.config.uses_reach() {
            (self.reach.differs, self.reach.open) = (None, None);
            return;
        }
        let own = self.say_reach(now);
        let all = self.settle_reach(now);
        self.reach.due = own.into_iter().chain(all).min();
    }

    /// Tells all what this node reaches, once that has been other than what it said for long enough. Until all have heard it, it is said
    /// again each time.
    fn say_reach(&mut self, now: Instant) -> Option<Instant> {
        let said = self.state.reach.said.get(&self.me.node).map(|said| said.hosts);
        let Some(hosts) = self.reach.own.filter(|own| said != Some(*own)) else {
            self.reach.differs = None;
            return None;
        };
        let settle = self.config.reach_settle;
        let since = *self.reach.differs.get_or_insert(now);
        if now < since + settle {
            return Some(since + settle);
        }
        self.reach.differs = Some(now);
        self.broadcast(&Message::Reach { hosts });
        Some(now + settle)
    }

    /// As the most senior member: has what was said count, once all of that has stayed as it is for long enough. What goes up and down for
    /// ever does not count, and holds nothing else up for ever.
    fn settle_reach(&mut self, now: Instant) -> Option<Instant> {
        let open: Vec<_> = self.state.reach.open().collect();
        if open.is_empty() || self.state.members.first() != Some(&self.me) {
            self.reach.open = None;
            self.reach.heard.clear();
            return None;
        }
        let (settle, before) = (self.config.reach_settle, core::mem::take(&mut self.reach.heard));
        for (node, said) in &open {
            let known = before.get(node).filter(|(serial, _)| *serial == said.serial);
            self.reach.heard.insert(*node, known.copied().unwrap_or((said.serial, now)));
        }
        let since = *self.reach.open.get_or_insert(now);
        let last = self.reach.heard.values().map(|(_, at)| *at).max().unwrap_or(now);
        let due = (last.max(since) + settle).min(since + settle * PATIENCE);
        if now < due {
            return Some(due);
        }
        let stable = self.reach.heard.iter().filter(|(_, (_, at))| *at + settle <= now);
        let settled: Vec<(NodeId, u64)> = stable.map(|(node, (serial, _))| (*node, *serial)).collect();
        self.reach.open = Some(now);
        if !settled.is_empty() {
            self.broadcast(&Message::ReachSettled(settled));
        }
        Some(now + settle)
    }
}
