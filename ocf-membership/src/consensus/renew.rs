//! The lease of the view this node is in, and leaving the primary.

use super::{Bug, Consensus, Timer};
use crate::lease::binding_time;
use crate::wire::Message;
use crate::{Ballot, DropReason, Event, NonPrimary};
use core::time::Duration;
use pils::{Instant, NodeInstance};

/// How often a lease of this length is renewed: a little more often than node communication has a heartbeat if the lease is
/// as long as the detection takes, so that renewals are the heartbeats of quiet circuits.
fn renewed_every(lease: Duration) -> Duration {
    lease * 3 / 16
}

impl Consensus {
    /// A call that comes much later than the timer asked for: this node did not run, and others may have gone on.
    pub(super) fn notice_stall(&mut self, now: Instant) {
        let Some(armed) = self.armed.take() else { return };
        if now.since(armed) <= self.config.lease / 2 {
            return;
        }
        self.stats.stalls = self.stats.stalls.wrapping_add(1);
        tracing::warn!(node = %self.local, late = ?now.since(armed), "this node did not run");
        let Some(installed) = &mut self.installed else { return };
        installed.lease.distrust = Some(now);
        if let Some(next) = &mut self.next_lease {
            next.distrust = Some(now);
        }
        self.check_lease(now);
        self.timers.set(Timer::Renew, now);
    }

    pub(super) fn send_renewals(&mut self, now: Instant) {
        let mut messages: Vec<(NodeInstance, Message)> = Vec::new();
        let mut renew = |lease: &mut crate::lease::Lease, members: &[crate::Member]| {
            let message = Message::Renew { value: lease.value, sequence: lease.send(now) };
            messages.extend(members.iter().map(|m| (m.instance, message.clone())));
        };
        if let Some(installed) = self.installed.as_mut().filter(|i| !i.dormant) {
            renew(&mut installed.lease, &installed.view.members);
        }
        if let (Some(lease), Some(accepted)) = (&mut self.next_lease, &self.accepted) {
            renew(lease, &accepted.accept.proposal.view.members);
        }
        if messages.is_empty() {
            return;
        }
        let local = self.local;
        for (to, message) in messages.into_iter().filter(|(to, _)| *to != local) {
            self.send(to, &message);
        }
        self.timers.set(Timer::Renew, now + renewed_every(self.config.lease));
    }

    /// Confirms the lease of a member of the view that this node is in, or has accepted and may enter next, unless it
    /// has promised to help replace that view.
    pub(super) fn on_renew(&mut self, now: Instant, from: NodeInstance, value: Ballot, sequence: u64) {
        let current = self
            .installed
            .as_ref()
            .filter(|i| i.view.ballot == value && self.promised <= i.under && i.view.contains(from));
        let next = self.accepted.as_ref().filter(|a| {
            let view = &a.accept.proposal.view;
            view.ballot == value && self.promised == a.accept.ballot && view.contains(from)
        });
        if current.is_none() && next.is_none() {
            self.drop_message(from, DropReason::StaleView);
            return;
        }
        self.acks.insert(from, now);
        self.send(from, &Message::RenewAck { value, sequence });
        // Renewals that are due soon go along, so that those of all members share packets and wake-ups from then on.
        let soon = now + renewed_every(self.config.lease) / 2;
        if self.timers.deadline(Timer::Renew).is_some_and(|at| at <= soon) {
            self.send_renewals(now);
        }
    }

    pub(super) fn on_renew_ack(&mut self, from: NodeInstance, value: Ballot, sequence: u64) {
        let installed = self.installed.as_mut().map(|i| &mut i.lease);
        for lease in installed.into_iter().chain(self.next_lease.as_mut()) {
            if lease.value == value {
                lease.ack(from, sequence);
                return;
            }
        }
        self.drop_message(from, DropReason::StaleView);
    }

    /// Until when the lease of the installed view is confirmed.
    pub(super) fn confirmed_until(&self) -> Option<Instant> {
        let installed = self.installed.as_ref()?;
        let (local, lease) = (self.local, self.config.lease);
        let until = installed.lease.until(&installed.view, local, lease);
        let next = self.accepted.as_ref().map(|a| &a.accept.proposal.view);
        let next = next.filter(|next| next.number > installed.view.number && until == Some(Instant::MAX));
        match (next, &self.next_lease) {
            (Some(view), Some(next)) if !self.is_sabotaged(Bug::AloneForGood) => {
                next.until_next(view, local, lease)
            }
            _ => until,
        }
    }

    /// Suspends or resumes, as the lease says.
    pub(super) fn check_lease(&mut self, now: Instant) {
        let never_expires = self.is_sabotaged(Bug::LeaseExpiry);
        let until = self.confirmed_until();
        let Some(installed) = self.installed.as_mut().filter(|i| !i.dormant) else { return };
        let valid = until.is_some_and(|until| now < until) || never_expires;
        if until == Some(Instant::MAX) {
            installed.lease.distrust = None;
        }
        match (valid, installed.suspended) {
            (false, None) => {
                installed.suspended = Some(now);
                self.stats.suspensions = self.stats.suspensions.wrapping_add(1);
                self.event(Event::Suspended);
            }
            (true, Some(_)) => {
                installed.suspended = None;
                self.event(Event::Resumed);
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    pub(super) fn arm_lease(&mut self, now: Instant) {
        let until = self.lease_until().filter(|until| *until < Instant::MAX && *until > now);
        match until {
            Some(until) => self.timers.set(Timer::LeaseEnd, until),
            None => self.timers.stop(Timer::LeaseEnd),
        }
        match self.give_up_at() {
            Some(at) => self.timers.set(Timer::GiveUp, at),
            None => self.timers.stop(Timer::GiveUp),
        }
    }

    /// A suspended member gives up, but not while a view change that it takes part in may still end well.
    fn give_up_at(&self) -> Option<Instant> {
        let since = self.installed.as_ref().filter(|i| !i.dormant)?.suspended?;
        let helping = self.pending.is_some()
            || self.installed.as_ref().is_some_and(|i| self.accepted_above(i.view.number));
        let coordinator = self.promised.proposer;
        let reachable = coordinator == self.local || self.up.contains(&coordinator);
        let from = match self.progress.filter(|_| helping && reachable) {
            Some(progress) => since.max(progress + self.config.flush_timeout),
            None => since,
        };
        Some(from + self.config.give_up)
    }

    /// No quorum for too long: the layers above are told that this node is outside. Nobody is known to have gone on without
    /// it, so it keeps what it has, and offers it to the next view. It never acts in this one again.
    pub(super) fn give_up(&mut self, now: Instant) {
        if self.give_up_at().is_none_or(|at| at > now) {
            return;
        }
        let Some(installed) = &mut self.installed else { return };
        installed.dormant = true;
        installed.lease.surrendered = true;
        self.stats.dormancies = self.stats.dormancies.wrapping_add(1);
        self.dirty = true;
        let report = self.non_primary();
        self.reported = Some(report.clone());
        self.event(Event::NonPrimary(report));
    }

    /// Leaves the primary: what this node was delivered is stale, on the next view it is a joiner.
    pub(super) fn leave_primary(&mut self, now: Instant) {
        let Some(installed) = self.installed.take() else { return };
        self.stats.views_lost = self.stats.views_lost.wrapping_add(1);
        self.dirty = true;
        if !installed.dormant {
            let report = self.non_primary();
            self.reported = Some(report.clone());
            self.event(Event::NonPrimary(report));
        }
        // The layer above no longer owes an answer.
        self.stop_waiting_for_upper(now);
    }

    pub(super) fn report_soon(&mut self, now: Instant) {
        if self.installed.is_none() || self.is_dormant() {
            self.timers.set_if_unset(Timer::Report, now + Duration::from_millis(100));
        }
    }

    /// Tells a change of what is reachable from outside the primary, once.
    pub(super) fn report(&mut self) {
        if self.installed.is_some() && !self.is_dormant() {
            return;
        }
        let report = self.non_primary();
        if self.reported.as_ref() != Some(&report) {
            self.reported = Some(report.clone());
            self.event(Event::NonPrimary(report));
        }
    }

    fn non_primary(&self) -> NonPrimary {
        let reachable = self.row();
        let votes = self.votes.sum(reachable.iter().copied());
        NonPrimary {
            last_primary: self.newest_known(),
            reachable,
            votes,
            quorum: self.votes.quorum,
            dormant: self.is_dormant(),
            policy: self.config.outside,
        }
    }

    /// Age of the last confirmation given to each instance, as long as it can matter.
    pub(super) fn ack_ages(&mut self, now: Instant) -> Vec<(NodeInstance, Duration)> {
        let horizon = binding_time(self.config.lease) * 2;
        self.acks.retain(|_, at| now.since(*at) <= horizon);
        self.acks.iter().map(|(instance, at)| (*instance, now.since(*at))).collect()
    }
}
