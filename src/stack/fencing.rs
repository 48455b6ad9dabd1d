//! What the resource manager knows that fencing has to: who needs access, who is important, who may live.
#![expect(clippy::wildcard_enum_match_arm, reason = "most events of either layer mean nothing to the other")]

use super::Stack;
use ocf_stonith::{Acceptance, Authority, FenceRequest, RequestError, UnfenceError};
use pils::{Instant, Layer as _, NodeInstance};

impl Stack {
    /// Has this node's devices give it its access, now or as soon as it has the authority.
    pub(super) fn give_access(&mut self, now: Instant) {
        match self.fencer.unfence(now, self.local) {
            Ok(()) => {}
            Err(UnfenceError::NoAuthority(_)) => self.access_due = true,
            Err(error) => self.tell_access(now, Some(&error.to_string())),
        }
    }

    /// This node has, or may have, its authority again.
    pub(super) fn retry_access(&mut self, now: Instant) {
        if core::mem::take(&mut self.access_due) {
            self.give_access(now);
        }
    }

    /// This node has no authority any more, and the manager asks again once it is a member.
    pub(super) const fn drop_access(&mut self) {
        self.access_due = false;
    }

    fn tell_access(&mut self, now: Instant, why: Option<&str>) {
        self.manager.handle(now, ocf_resource::Input::Access { why });
    }

    /// What a device that gives access said about this node.
    pub(super) fn on_access(&mut self, now: Instant, event: &ocf_stonith::Event) {
        use ocf_stonith::Event;
        match event {
            Event::Unfenced { target } if *target == self.local => self.tell_access(now, None),
            Event::UnfenceFailed { target, device, failure } if *target == self.local => {
                self.tell_access(now, Some(&format!("{device}: {failure}")));
            }
            _ => {}
        }
    }

    /// What the manager told everybody, as far as fencing depends on it.
    pub(super) fn weigh(&mut self, event: &ocf_resource::Event) {
        use ocf_resource::Event;
        match event {
            Event::AccessGiven { node } => self.fencer.forget_confirmed(*node),
            Event::Started { node, .. }
            | Event::Stopped { node, .. }
            | Event::Failed { node, .. }
            | Event::RoleChanged { node, .. } => {
                // What ran on a node that is gone still counts: it may be the one that shoots.
                if let Some(importance) = self.manager.importance(node.node) {
                    self.fencer.set_priority(node.node, importance);
                }
            }
            // Other priorities count, or what had one is gone.
            Event::Configured { .. } | Event::Removed { .. } => self.weigh_all(),
            _ => {}
        }
    }

    /// Another member may have changed what runs on any node while this one was away.
    pub(super) fn weigh_all(&mut self) {
        let nodes: Vec<NodeInstance> =
            self.view().map(|v| v.members.iter().map(|m| m.instance).collect()).unwrap_or_default();
        for node in nodes {
            if let Some(importance) = self.manager.importance(node.node) {
                self.fencer.set_priority(node.node, importance);
            }
        }
    }

    /// Has a life ended, as this node's part of the primary partition.
    pub(super) fn fence(&mut self, now: Instant, request: FenceRequest) -> Result<Acceptance, RequestError> {
        self.weigh_silence(now, request.target);
        self.fencer.request(now, request)
    }

    /// A view was installed, or is known to hold: who is to be fenced counts as silent, or does not any more.
    pub(super) fn may_fence(&mut self, now: Instant) {
        self.fencer.set_authority(now, Authority::Granted);
        let standing: Vec<NodeInstance> = self.fencer.standing().map(|request| request.target).collect();
        for target in standing {
            self.weigh_silence(now, target);
        }
    }

    fn weigh_silence(&mut self, now: Instant, target: NodeInstance) {
        let member = self.view().is_none_or(|view| view.contains(target));
        if member {
            self.fencer.heard(now, target);
        } else if self.is_active(now)
            && let Some(watchdog) = self.manager.watchdog_of(target)
        {
            self.fencer.silent(now, target, watchdog);
        }
    }

    /// A watchdog of this time is armed: see [`ocf_resource::Manager::set_watchdog`].
    pub const fn set_watchdog(&mut self, watchdog: core::time::Duration) {
        self.manager.set_watchdog(watchdog);
    }

    /// True if others have this node fenced and count on its own watchdog.
    fn is_condemned(&self) -> bool {
        self.manager.is_condemned() && self.fencer.relies_on_watchdog(self.local.node)
    }

    /// True if this node need not be ended: it acts in the primary partition, or nothing was ever begun here that somebody else would
    /// have to end. False for good in a life that was fenced, or is to be by its own watchdog.
    #[must_use]
    pub fn may_live(&self, now: Instant) -> bool {
        !self.manager.is_over() && !self.is_condemned() && (self.is_active(now) || !self.was_member)
    }

    /// True if nothing of the cluster runs here, so that the end of this node need not be seen to: nothing that the manager started,
    /// and no lock.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let held =
            |locks: &ocf_dlm::cluster::Engine| locks.local_locks().any(|(lock, ..)| !locks.is_kept(lock));
        !self.was_member || (self.manager.runs_nothing() && !self.locks.as_deref().is_some_and(held))
    }

    /// True if this node was given the access that it needs, or needs none. A program that writes by itself to what the cluster shares
    /// waits for this.
    #[must_use]
    pub fn has_access(&self) -> bool {
        self.manager.has_access()
    }
}
