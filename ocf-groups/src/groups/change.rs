//! View changes: stop, report, fetch, end the old view together, enter the new one.

use super::{Groups, Sync, sabotaged};
use crate::flush::{Plan, Report};
use crate::stream::Stream;
use crate::table::Table;
use crate::wire::start_table;
use crate::{Event, Output, Position};
use bytes::BytesMut;
use ocf_comm::Lane;
use ocf_membership::{Ballot, Member, Proposal, View};
use pils::NodeInstance;
use std::sync::Arc;

/// Proposals for one view that are remembered.
const PLANS_MAX: usize = 16;

impl Groups {
    /// Stops: from here to the next view nothing of the old one is taken in, sent or delivered, so that the report
    /// stays true. Fetched items are the exception; they are bounded by what others reported.
    pub(super) fn on_block(&mut self, ballot: Ballot) {
        self.blocked = Some(ballot);
        let report = Report::of(self.stream.as_ref(), self.sync == Sync::Synced);
        self.sends.push_back(Output::Blocked(ballot, report.write()));
    }

    pub(super) fn on_flush(&mut self, ballot: Ballot, proposal: &Proposal) {
        self.blocked = Some(ballot);
        let Some(stream) = &self.stream else {
            self.sends.push_back(Output::Flushed(ballot));
            return;
        };
        let again = !self.plans.is_empty() || proposal.view.ballot != ballot;
        self.plans.push(Plan::new(ballot, proposal, stream, again));
        if self.plans.len() > PLANS_MAX {
            self.plans.remove(0);
        }
        self.fetch_at = None;
        self.advance_flush();
    }

    /// Asks for what the latest proposal needs, and answers it when all is here.
    pub(super) fn advance_flush(&mut self) {
        let skip = sabotaged!(self, SkipFetch);
        let (Some(stream), Some(plan)) = (&self.stream, self.plans.last_mut()) else { return };
        if plan.done {
            return;
        }
        let wanted = plan.advance(stream);
        if skip && stream.stamped >= plan.cut {
            plan.done = true;
        } else {
            for (donor, fetch) in wanted {
                let to = Arc::from([donor]);
                let message = fetch.write(stream.number);
                self.sends.push_back(Output::Send { to, lane: Lane::Urgent, message });
            }
        }
        if plan.done {
            self.sends.push_back(Output::Flushed(plan.ballot));
            self.fetch_at = None;
        } else if self.fetch_at.is_none() {
            self.fetch_at = Some(self.now + self.config.fetch_retry);
        }
    }

    /// What was asked for has not come: asks everybody.
    pub(super) fn retry_flush(&mut self) {
        let (Some(_), Some(plan)) = (self.blocked, self.plans.last_mut()) else { return };
        plan.ask_everybody(self.local);
        self.advance_flush();
    }

    pub(super) fn on_non_primary(&mut self) {
        // Whether others have gone on is not known yet. What was not told while the lease was in doubt waits: the next view
        // either goes on from it or begins anew.
        self.primary = false;
        self.suspended = false;
        self.report_at = None;
    }

    /// Others have gone on: what was held back is not told any more, and the local members begin anew. Whoever left in it
    /// is told that it is out.
    pub(super) fn drop_untold(&mut self) {
        let (me, mut out) = (self.local, Vec::new());
        self.outputs.retain(|output| {
            let Output::Event(event) = output else { return true };
            if let Event::Membership { group, joined, left, .. } = event {
                let gone = left.iter().filter(|m| m.instance == me && !joined.contains(m));
                out.extend(gone.map(|m| (Arc::clone(group), *m)));
            }
            matches!(
                event,
                Event::Writable | Event::Refused { .. } | Event::Reset { .. } | Event::Evicted { .. }
            )
        });
        for (group, member) in out {
            self.tell_reset(group, member);
        }
    }

    pub(super) fn on_installed(&mut self, view: &View) {
        let newer = self.view.as_ref().is_none_or(|v| v.number < view.number);
        let Some(index) = view.index_of(self.local).filter(|_| newer) else { return };
        let continuing = view.members[index].joined < view.number && self.stream.is_some();
        // Who comes from another partition ends its view with those it was with, too, and begins anew then.
        let plan = if continuing || self.config.partitions { self.take_plan(view) } else { None };
        self.plans.clear();
        self.fetch_at = None;
        let ended = plan.as_ref().is_some_and(|p| self.end_view(p));
        let entered = continuing && ended;
        let was_synced = self.sync == Sync::Synced;
        self.close_gates();
        if !self.primary && (!entered || sabotaged!(self, ForgetUntold)) {
            self.drop_untold();
        }
        self.primary = true;
        self.suspended = false;
        self.blocked = None;
        self.view = Some(view.clone());
        self.start_stream(view, entered);
        self.outputs.push_back(Output::Event(Event::View(view.clone())));
        match plan {
            Some(plan) if entered => self.enter_continuing(view, &plan, was_synced),
            _ => self.enter_fresh(view, continuing),
        }
        self.tell_evicted(view);
        self.say_writable();
        self.replay_early();
        self.dirty = true;
    }

    /// The plan that agrees with the view that was installed.
    fn take_plan(&mut self, view: &View) -> Option<Plan> {
        let exact = self.plans.iter().rposition(|p| p.done && p.view == *view);
        let same = |p: &Plan| p.done && p.view.number == view.number && p.view.members == view.members;
        let index = exact.or_else(|| self.plans.iter().rposition(same))?;
        Some(self.plans.swap_remove(index))
    }

    /// Delivers what the old view still owes. False if this node cannot: it has gone beyond the cut.
    fn end_view(&mut self, plan: &Plan) -> bool {
        let Some(stream) = &self.stream else { return false };
        if stream.delivered > plan.cut || stream.stamped < plan.cut {
            return false;
        }
        loop {
            let Some(stream) = &mut self.stream else { return false };
            if stream.delivered >= plan.cut {
                self.end_fifo(plan);
                return true;
            }
            let Some((member, lseq)) = stream.peek() else { return false };
            let place = stream.delivered + 1;
            let known = plan.known.get(member as usize).map_or(0, |k| k.0);
            if lseq > known {
                self.stats.voids += 1;
                stream.pass(member);
            } else {
                let everywhere = !self.config.partitions || place <= stream.stable_quorum;
                self.deliver_one(member, lseq, place, everywhere);
            }
        }
    }

    /// Delivers what one of those who go on has delivered ahead of the order, so that all have. It does not come again.
    fn end_fifo(&mut self, plan: &Plan) {
        if sabotaged!(self, ForgetAhead) {
            return;
        }
        for (member, last) in (0_u32..).zip(&plan.ahead) {
            while self.deliver_ahead(member, *last) {}
        }
    }

    /// Replaces the stream; own messages that were not ordered come first in the new one.
    fn start_stream(&mut self, view: &View, keep: bool) {
        let old = self.stream.take();
        if keep {
            let again = old.map(|mut s| s.take_undelivered()).unwrap_or_default();
            if !sabotaged!(self, ForgetUnordered) {
                self.stats.resubmitted += again.len() as u64;
                for item in again.into_iter().rev() {
                    self.queue.push_front(item);
                }
            }
        } else {
            self.queue.clear();
        }
        self.ledger.clear();
        self.lags.forget();
        self.own_bytes = self.queue.iter().map(crate::wire::Item::cost).sum();
        self.to_stamp.clear();
        self.batch.clear();
        self.reported = (0, 0);
        self.report_at = None;
        self.report_now = false;
        self.stream = Stream::new(view, self.local);
    }

    fn enter_continuing(&mut self, view: &View, plan: &Plan, was_synced: bool) {
        let stays = |m: &&Member| m.joined < view.number;
        let has_table = |m: &&Member| stays(m) && plan.synced.contains(&m.instance);
        let donor = view.members.iter().find(has_table).or_else(|| view.members.iter().find(stays));
        let donor_here = donor.is_some_and(|m| m.instance == self.local);
        if !was_synced && !donor_here {
            self.sync = Sync::Waiting;
            return;
        }
        if !was_synced {
            // Nobody who comes along has the table: all groups start anew.
            self.reset_locals();
            self.table = Table::new(&self.config, self.local);
        }
        let position = Position { view: view.number, sequence: 0 };
        self.drop_passed(position);
        let mut effects = Vec::new();
        self.table.enter(view, &mut effects);
        self.carry_out(position, effects);
        self.become_synced();
        if donor_here {
            let lacks = |m: &&Member| !has_table(m) && m.instance != self.local;
            let to: Vec<NodeInstance> = view.members.iter().filter(lacks).map(|m| m.instance).collect();
            self.send_table(view, to);
        }
    }

    fn send_table(&mut self, view: &View, to: Vec<NodeInstance>) {
        if to.is_empty() {
            return;
        }
        let mut out = BytesMut::new();
        start_table(&mut out, view.number);
        self.table.write(&mut out);
        self.sends.push_back(Output::Send { to: Arc::from(to), lane: Lane::Bulk, message: out.freeze() });
    }

    /// Enters without state: as a joiner, or because the flush of the old view was missed.
    fn enter_fresh(&mut self, view: &View, lost: bool) {
        self.reset_locals();
        self.table = Table::new(&self.config, self.local);
        self.drop_outgoing();
        if lost {
            self.stats.lost += 1;
            self.sync = Sync::Lost;
        } else if view.members.iter().all(|m| m.joined == view.number) {
            self.become_synced();
        } else {
            self.sync = Sync::Waiting;
        }
    }
}
