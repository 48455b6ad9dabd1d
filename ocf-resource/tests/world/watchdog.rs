//! Odd nodes have a watchdog: it ends the machine of a life that is outside the primary partition, or is to be fenced, for so long.
//! * W1: fencing that counts on a watchdog, as known from the stream, counts only on one that has ended that life.

use super::{Due, MS, World};
use ocf_resource::{FenceOutcome, Input};
use pils::{Instant, NodeId, NodeInstance};
use std::time::Duration;

const WATCHDOG: Duration = Duration::from_secs(5);

/// How much longer those who count on it wait, for clocks that differ.
const SLACK: Duration = Duration::from_secs(1);

/// The watchdog of this node, if it has one.
pub(super) fn of(node: NodeId) -> Option<Duration> {
    (node.raw() % 2 == 1).then_some(WATCHDOG)
}

/// The watchdog of a machine, from its opening by a life until the machine is reset: no later life on it opens it again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Armed {
    by: NodeInstance,
    /// Since when nobody feeds it.
    unfed: Option<Instant>,
}

impl World {
    /// A life begins. False if its machine has to be reset first.
    pub(super) fn arm(&mut self, who: NodeInstance) -> bool {
        if self.armed.contains_key(&who.node) {
            return false;
        }
        if of(who.node).is_some() {
            self.armed.insert(who.node, Armed { by: who, unfed: None });
        }
        true
    }

    /// Feeds the watchdog of a life, or does not any more.
    pub(super) fn feed(&mut self, who: NodeInstance) {
        let process = self.processes.get(&who);
        let fed = process.is_some_and(|p| !p.was_inside || (p.inside && !p.manager.is_condemned()));
        let now = self.now;
        let Some(armed) = self.armed.get_mut(&who.node).filter(|a| a.by == who) else { return };
        if fed {
            armed.unfed = None;
        } else if armed.unfed.is_none() {
            armed.unfed = Some(now);
            self.after(WATCHDOG, Due::Bites(who, now));
        }
    }

    /// The time of a watchdog that was last fed then is over.
    pub(super) fn bite(&mut self, who: NodeInstance, since: Instant) {
        if self.armed.get(&who.node).is_none_or(|a| a.by != who || a.unfed != Some(since)) {
            return;
        }
        self.note(|| format!("machine of {who} is ended by its watchdog"));
        self.saw("watchdog");
        self.armed.remove(&who.node);
        self.kill(who);
        self.active.remove(&who.node);
        self.promoted.remove(&who.node);
        let delay = self.jitter(1_000, 8_000);
        self.after(delay, Due::Boot(who.node));
    }

    /// A life is to be fenced: if it is known to have a watchdog, time will do.
    pub(super) fn count_on_watchdog(&mut self, asker: NodeInstance, target: NodeInstance) {
        let watchdog = self.processes.get(&asker).and_then(|p| p.manager.watchdog_of(target));
        if let Some(watchdog) = watchdog.filter(|_| !self.takes_access()) {
            self.after(watchdog + SLACK, Due::Silence { asker, target });
        }
    }

    /// Who asked for a fencing may have heard nothing of the target for the time of its watchdog.
    pub(super) fn silence_ends(&mut self, asker: NodeInstance, target: NodeInstance) {
        let Some(process) = self.processes.get(&asker).filter(|p| p.inside) else { return };
        let Some(watchdog) = process.manager.watchdog_of(target) else { return };
        if !process.manager.wants_fenced(target) {
            return;
        }
        let gone = self.gone.get(&target).copied().filter(|_| !self.view.contains(&target));
        if gone.is_none_or(|since| self.now < since + watchdog + SLACK) {
            return self.after(MS(500), Due::Silence { asker, target });
        }
        self.saw("fenced by its watchdog");
        if self.processes.contains_key(&target)
            || self.armed.get(&target.node).is_some_and(|a| a.by == target)
        {
            self.violate(format!("W1: {target} lives on, and its watchdog counts as having ended it"));
        }
        for owners in self.owners.values_mut() {
            owners.remove(&target);
        }
        let (outcome, detail) = (FenceOutcome::Confirmed, "its watchdog has ended it");
        self.input(asker, Input::Fenced { target, outcome, detail });
    }
}
