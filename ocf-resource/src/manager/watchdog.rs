//! What this node says of its watchdog, and what is known of those of others.

use super::Manager;
use crate::message::Message;
use core::time::Duration;
use pils::NodeInstance;

impl Manager {
    /// A watchdog of this time is armed, and ends this machine if this life is outside the primary partition for so long: until it stops
    /// in order, running nothing. All members are told, in each view anew until they have heard. To be said before the first view.
    pub const fn set_watchdog(&mut self, watchdog: Duration) {
        self.watchdog = Some(watchdog);
    }

    /// What a life, a member or a lost one, has said of its watchdog.
    #[must_use]
    pub fn watchdog_of(&self, life: NodeInstance) -> Option<Duration> {
        self.state.nodes.get(&life)?.watchdog
    }

    /// True if this node is a member and another one has it fenced, because it could not stop something. Not if fencing takes its access
    /// alone: then it may live on.
    #[must_use]
    pub fn is_condemned(&self) -> bool {
        let Some(node) = self.state.nodes.get(&self.me) else { return false };
        let asked = node.fence.as_ref().is_some_and(|f| f.asker.is_some_and(|asker| asker != self.me));
        asked && !self.config.access.has(self.me.node)
    }

    pub(super) fn say_watchdog(&mut self) {
        let Some(watchdog) = self.watchdog.filter(|_| self.acts()) else { return };
        let heard = self.state.nodes.get(&self.me).is_none_or(|node| node.watchdog.is_some());
        if !heard && self.watchdog_said != Some(self.state.view) {
            self.watchdog_said = Some(self.state.view);
            self.broadcast(&Message::Armed { watchdog });
        }
    }
}
