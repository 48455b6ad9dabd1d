//! What nodes tell each other about themselves, who should be in the next view, and who sees to it when.

use super::bugs::Bug;
use super::{Consensus, DOWN_MAX, Timer, sorted};
use crate::wire::{Known, Message, Status};
use crate::{ChangeReason, DropReason, Lag, Member, View, ViewNumber};
use core::time::Duration;
use ocf_comm::DownReason;
use pils::wire::VARINT_MAX;
use pils::{Instant, NodeInstance};

/// Why an instance is not proposed for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) why: ChangeReason,
    /// When it may be proposed again; a partly connected one not before its row was whole for `hold`.
    pub(super) until: Instant,
    pub(super) hold: Duration,
    /// How often it was excluded for its connections.
    pub(super) flaps: u32,
    /// It may come again; kept to remember the flaps.
    pub(super) released: bool,
}

/// From this level on all members understand that one was evicted.
const EVICTION_LEVEL: u32 = 2;

impl Consensus {
    pub(super) fn on_up(&mut self, now: Instant, peer: NodeInstance) {
        if peer.node == self.local.node {
            self.drop_message(peer, DropReason::UnknownNode);
            return;
        }
        self.give_up_removing(peer.node);
        if !self.is_peer(peer.node) {
            self.on_stranger(peer);
            return;
        }
        // One life of a node at a time.
        let older: Vec<NodeInstance> = self.up.iter().copied().filter(|p| p.node == peer.node).collect();
        for old in older.into_iter().filter(|old| *old != peer) {
            self.on_down(now, old, DownReason::Superseded);
        }
        self.up.insert(peer);
        self.down.remove(&peer);
        // A peer that did not notice the silence has no reason to repeat itself.
        self.parked.retain(|p, _| p.node != peer.node || *p == peer);
        if let Some(status) = self.parked.remove(&peer) {
            self.statuses.insert(peer, status);
        }
        // The row has changed, so everybody is told, the new peer too.
        self.announced = None;
        self.tell_levels_anew();
        self.dirty = true;
        self.report_soon(now);
    }

    pub(super) fn on_down(&mut self, now: Instant, peer: NodeInstance, reason: DownReason) {
        self.strangers.remove(&peer);
        let was_up = self.up.remove(&peer);
        let status = self.statuses.remove(&peer);
        if let Some(status) = status.filter(|_| !reason.is_final()) {
            self.parked.insert(peer, status);
        }
        // In the resolution that travels, so that a cause is the same at every node.
        let whole = |for_: Duration| {
            Duration::from_micros(u64::try_from(for_.as_micros()).unwrap_or(u64::MAX).min(VARINT_MAX))
        };
        let reason = if let DownReason::Silent { for_ } = reason {
            DownReason::Silent { for_: whole(for_) }
        } else if let DownReason::Unreachable { for_ } = reason {
            DownReason::Unreachable { for_: whole(for_) }
        } else {
            reason
        };
        if self.is_peer(peer.node) {
            self.down.insert(peer, reason);
        }
        while self.down.len() > DOWN_MAX {
            let known = |p: &NodeInstance| self.chosen.as_ref().is_some_and(|(v, _)| v.contains(*p));
            let oldest = self.down.keys().copied().find(|p| !known(p));
            let Some(oldest) = oldest else { break };
            self.down.remove(&oldest);
        }
        self.dirty = true;
        self.report_soon(now);
        if was_up {
            self.on_candidate_down(now, peer);
        }
    }

    pub(super) fn on_status(&mut self, now: Instant, from: NodeInstance, status: Status) {
        let changed = self.statuses.get(&from) != Some(&status);
        let known = status.known.clone();
        self.statuses.insert(from, status.clone());
        self.hear_votes(now, &status);
        self.dirty |= changed;
        if let Some(known) = known {
            self.learn(now, &known);
        }
        if changed {
            self.report_soon(now);
        }
    }

    /// Takes the news that a view is agreed.
    pub(super) fn learn(&mut self, now: Instant, known: &Known) {
        if self.chosen.as_ref().is_some_and(|(view, _)| view.number >= known.number) {
            return;
        }
        let accepted = self.accepted.as_ref().filter(|a| a.accept.proposal.view.ballot == known.value);
        if accepted.is_some() {
            self.choose_accepted(now, None);
        } else if self.installed.as_ref().is_some_and(|i| i.view.number < known.number) {
            // Others went on, and this node was not asked: it is out.
            self.leave_primary(now);
        }
    }

    pub(super) fn row(&self) -> Vec<NodeInstance> {
        sorted(self.up.iter().copied().chain([self.local]).collect())
    }

    pub(super) fn status(&self) -> Status {
        let known = |(view, _): &(View, _)| Known {
            number: view.number,
            value: view.ballot,
            members: view.members.clone(),
        };
        Status {
            has_vote: !self.voteless,
            fit: self.unfit_until.is_none(),
            active: self.installed.as_ref().map(|i| i.view.number),
            known: self.chosen.as_ref().map(known),
            row: self.row(),
            wanted: self.wanted_votes(),
            votes: (self.votes.revision > self.configured.revision).then(|| self.votes.clone()),
        }
    }

    /// Tells every peer what changed here.
    pub(super) fn announce(&mut self) {
        self.announce_levels();
        let status = self.status();
        if self.announced.as_ref() == Some(&status) {
            return;
        }
        let peers: Vec<NodeInstance> = self.up.iter().chain(&self.strangers).copied().collect();
        self.send_all(&peers, &Message::Status(status.clone()));
        self.announced = Some(status);
        self.dirty = true;
    }

    pub(super) fn status_of(&self, instance: NodeInstance) -> Option<&Status> {
        if instance == self.local { self.announced.as_ref() } else { self.statuses.get(&instance) }
    }

    pub(super) fn active_number(&self, instance: NodeInstance) -> Option<ViewNumber> {
        if instance == self.local {
            return self.installed.as_ref().map(|i| i.view.number);
        }
        self.statuses.get(&instance).and_then(|s| s.active)
    }

    /// Number and members of the newest primary view that any reachable node knows to be agreed.
    pub(super) fn newest_primary(&self) -> (ViewNumber, &[Member]) {
        let own = self.chosen.as_ref().map(|(v, _)| (v.number, v.members.as_slice()));
        let others = self.statuses.values().filter_map(|s| s.known.as_ref());
        let others = others.map(|k| (k.number, k.members.as_slice())).max_by_key(|(number, _)| *number);
        own.into_iter().chain(others).max_by_key(|(number, _)| *number).unwrap_or((ViewNumber(0), &[]))
    }

    /// Decides whether, and when, this node starts a ballot.
    pub(super) fn evaluate(&mut self, now: Instant) {
        self.prolong_holds(now);
        self.tell_incompatible();
        if self.round.is_some() {
            return;
        }
        let Some(delay) = self.ballot_delay() else {
            self.timers.stop(Timer::Ballot);
            return;
        };
        let due = self.timers.deadline(Timer::Ballot).map_or(now + delay, |armed| armed.min(now + delay));
        self.timers.set(Timer::Ballot, due.max(self.not_before(now)));
    }

    /// How long to wait for more news before this node starts a ballot; `None` if it should not start one.
    fn ballot_delay(&self) -> Option<Duration> {
        let candidates = self.candidates()?;
        let (number, members) = self.newest_primary();
        let in_primary = |p: NodeInstance| self.active_number(p) == Some(number);
        let departs = members.iter().any(|m| !candidates.contains(&m.instance));
        let outside = || candidates.iter().copied().filter(|p| !in_primary(*p));
        let joins = outside().next().is_some();
        let late =
            !self.is_sabotaged(Bug::AsksLateAgain) && outside().all(|p| self.is_late(p, number, members));
        // One who was told to be outside comes back by another view, even if it is of the same members.
        let unfinished = self.is_unfinished() || self.is_dormant();
        let votes = || self.view().is_some() && self.next_votes(&self.votes, &candidates, members).is_some();
        let changes = || self.may_rise(&candidates) || votes();
        if !departs && !joins && !unfinished && !changes() {
            return None;
        }
        let seniors = members.iter().map(|m| m.instance).filter(|p| candidates.contains(p) && in_primary(*p));
        let mut order: Vec<NodeInstance> = seniors.collect();
        if self.config.criterion.head() == Some(self.local.node) {
            // Nobody else may.
            order = vec![self.local];
        } else if order.is_empty() {
            // Who was removed may not know it, and may know it, and wait.
            order.extend(candidates.iter().copied().filter(|p| self.votes.lists(p.node)));
        }
        self.config.coordinator.sort(&mut order, |p| p.node);
        // Those outside a living primary wait to be asked.
        let rank = order.iter().position(|p| *p == self.local)?;
        if rank > 0 && !departs && !unfinished {
            return None;
        }
        let ended = members.iter().any(|m| {
            self.down.get(&m.instance).is_some_and(|reason| reason.is_proof_of_death())
                && !candidates.contains(&m.instance)
        });
        let debounce = match (ended, departs || unfinished) {
            (true, _) => Duration::ZERO,
            (false, true) => self.config.silent_debounce,
            (false, false) if joins && late && !changes() => self.config.answer_timeout,
            (false, false) => self.config.join_debounce,
        };
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        Some(debounce + self.config.stagger.saturating_mul(rank) + self.tie_handicap(&candidates)?)
    }

    /// True of a member of the newest primary, by its number, that has not told yet what became of it there: word of it, or the answer,
    /// is under way.
    fn is_late(&self, instance: NodeInstance, number: ViewNumber, members: &[Member]) -> bool {
        let known = self.status_of(instance).and_then(|status| status.known.as_ref());
        members.iter().any(|m| m.instance == instance) && known.is_none_or(|known| known.number < number)
    }

    /// A ballot of another node that is under way goes first; a failed one of this node is not repeated at once.
    fn not_before(&self, now: Instant) -> Instant {
        let retry = self.retry_at.unwrap_or(now);
        let proposer = self.promised.proposer;
        let under_way = proposer != self.local
            && self.up.contains(&proposer)
            && (self.is_unfinished() || self.awaiting.is_some() || self.pending.is_some());
        let patience =
            if self.pending.is_some() { self.config.flush_timeout } else { self.config.answer_timeout };
        match self.progress.filter(|_| under_way) {
            Some(progress) => retry.max(progress + patience + self.config.stagger),
            None => retry,
        }
    }

    pub(super) fn on_ballot_timer(&mut self, now: Instant) {
        if self.round.is_some() || self.ballot_delay().is_none() {
            return;
        }
        let not_before = self.not_before(now);
        if not_before > now {
            self.timers.set(Timer::Ballot, not_before);
        } else if let Some(candidates) = self.candidates() {
            self.start_round(now, candidates);
        }
    }

    /// Holds back those whom an installed view excluded though they live, so that they do not come and go.
    pub(super) fn hold_excluded(&mut self, now: Instant, view: &View) {
        for member in &view.members {
            if let Some(hold) = self.held.get_mut(&member.instance) {
                hold.released = true;
            }
        }
        for cause in &view.causes {
            if view.contains(cause.instance) || cause.instance == self.local {
                continue;
            }
            let flaps = self.held.get(&cause.instance).map_or(0, |h| h.flaps) + 1;
            let doubled = self.config.flap_hold.saturating_mul(1 << (flaps - 1).min(16));
            let hold = match cause.reason {
                ChangeReason::PartlyConnected => doubled.min(self.config.flap_hold_max),
                ChangeReason::NoAnswer => self.config.answer_timeout * 4,
                ChangeReason::Evicted(_) => {
                    let first = self.config.evict_hold;
                    first.saturating_mul(1 << (flaps - 1).min(16)).min(self.config.evict_hold_max)
                }
                ChangeReason::Joined
                | ChangeReason::Down(_)
                | ChangeReason::TieWon(_)
                | ChangeReason::VotesChanged => continue,
            };
            self.hold(
                cause.instance,
                Hold { why: cause.reason, until: now + hold, hold, flaps, released: false },
            );
        }
    }

    /// Does not propose `instance` for a while: it did not answer.
    pub(super) fn hold_unanswering(&mut self, now: Instant, instance: NodeInstance) {
        let hold = self.config.answer_timeout * 4;
        self.hold(
            instance,
            Hold { why: ChangeReason::NoAnswer, until: now + hold, hold, flaps: 1, released: false },
        );
    }

    fn hold(&mut self, instance: NodeInstance, hold: Hold) {
        if self.held.len() >= DOWN_MAX {
            self.held.pop_first();
        }
        self.held.insert(instance, hold);
        self.dirty = true;
        let armed = self.timers.deadline(Timer::Release);
        self.timers.set(Timer::Release, armed.map_or(hold.until, |armed| armed.min(hold.until)));
    }

    /// True if this node, or a peer, sees `instance` up.
    pub(super) fn is_seen(&self, instance: NodeInstance) -> bool {
        self.up.contains(&instance) || self.statuses.values().any(|s| s.row.binary_search(&instance).is_ok())
    }

    pub(super) fn is_held(&self, instance: NodeInstance) -> bool {
        self.held.get(&instance).is_some_and(|h| !h.released)
    }

    pub(super) fn is_held_for_no_answer(&self, instance: NodeInstance) -> bool {
        self.is_held(instance) && matches!(self.held[&instance].why, ChangeReason::NoAnswer)
    }

    pub(super) fn is_held_to_stay_out(&self, instance: NodeInstance) -> bool {
        self.is_held_for_no_answer(instance) || self.lag_of(instance).is_some()
    }

    /// How an instance holds up the others, if it is to be evicted for that.
    pub(super) fn lag_of(&self, instance: NodeInstance) -> Option<Lag> {
        let hold = self.held.get(&instance).filter(|h| !h.released)?;
        if let ChangeReason::Evicted(lag) = hold.why { Some(lag) } else { None }
    }

    /// Puts a member out of the primary because others have to wait for it: the next view is without it, if those who are left
    /// have a quorum, and names [`ChangeReason::Evicted`]. It is let in again as a joiner after [`Config::evict_hold`](crate::Config::evict_hold),
    /// which doubles with each time that this life of the node was excluded. All who see it lag should say so: who is asked
    /// first starts the ballot, and who did not see it follows.
    ///
    /// False, and nothing changes, if it is no member, is this node, or is to be evicted already, or if the view has level 1: members of an
    /// older build would not understand why.
    pub fn evict(&mut self, now: Instant, instance: NodeInstance, lag: Lag) -> bool {
        let told = |view: &View| view.level >= EVICTION_LEVEL && view.contains(instance);
        let member = self.view().is_some_and(told);
        if !member || instance == self.local || self.lag_of(instance).is_some() {
            return false;
        }
        let flaps = self.held.get(&instance).map_or(0, |h| h.flaps);
        // If it cannot be agreed, whoever sees it lag says so again.
        let hold = self.config.answer_timeout * 4;
        self.hold(
            instance,
            Hold { why: ChangeReason::Evicted(lag), until: now + hold, hold, flaps, released: false },
        );
        self.settle(now);
        true
    }

    /// The time of a partly connected instance counts from when its row became whole.
    fn prolong_holds(&mut self, now: Instant) {
        if self.held.is_empty() {
            return;
        }
        // Of a member that has ended nobody can hear again.
        let here = |p: &NodeInstance| *p == self.local || self.is_seen(*p);
        let members: Vec<NodeInstance> =
            self.newest_primary().1.iter().map(|m| m.instance).filter(here).collect();
        let partly = |hold: &Hold| matches!(hold.why, ChangeReason::PartlyConnected);
        let whole = |p: NodeInstance| members.iter().all(|m| *m == p || self.are_linked(*m, p));
        let held = self.held.iter().filter(|(_, hold)| partly(hold)).map(|(p, _)| *p);
        let broken: Vec<NodeInstance> = held.filter(|p| !whole(*p)).collect();
        for instance in broken {
            if let Some(hold) = self.held.get_mut(&instance) {
                hold.until = now + hold.hold;
            }
        }
    }

    /// Lets those come again whose time is over.
    pub(super) fn release(&mut self, now: Instant) {
        for hold in self.held.values_mut() {
            hold.released |= hold.until <= now;
        }
        if self.unfit_until.is_some_and(|until| until <= now) {
            self.unfit_until = None;
        }
        let held = self.held.values().filter(|h| !h.released).map(|h| h.until);
        if let Some(next) = held.chain(self.unfit_until).min() {
            self.timers.set(Timer::Release, next);
        }
        self.dirty = true;
    }
}
