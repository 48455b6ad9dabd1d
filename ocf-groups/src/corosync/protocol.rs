//! The protocol: views over the configurations of a process group, and the groups in its order.

use super::plan::Plan;
use super::wire::{Message, Report, Stand};
use super::{Departure, Input, Output, Process, RingId, RingQuorum};
use crate::wire::Item;
use crate::{Config, Groups};
use bytes::Bytes;
use core::time::Duration;
use ocf_comm::DownReason;
use ocf_membership::{
    Ballot, Cause, ChangeReason, Event, Levels, Member, NonPrimary, OutsidePolicy, View, ViewNumber,
};
use pils::{Instant, Layer as _, NodeInstance};
use std::collections::{BTreeMap, VecDeque};

/// Views in one ring, at most: a number is that of the ring, shifted by so many bits, plus a count.
const RING_SHIFT: u32 = 16;
/// Start of the digest of a view.
const DIGEST: u64 = 0xcbf2_9ce4_8422_2325;

/// Membership and groups over a closed process group: a sans-IO core.
///
/// Give it what corosync tells by [`handle`](Self::handle), carry out in order what [`poll_output`](Self::poll_output) returns. It has
/// no timers. [`OverCpg`](super::OverCpg) does that over a [`Cpg`](super::Cpg).
#[derive(Debug)]
pub struct CpgGroups {
    me: Process,
    groups: Groups,
    /// The configuration of the process group, sorted.
    configuration: Vec<Process>,
    /// What was said since the configuration changed.
    reports: BTreeMap<Process, Report>,
    /// A view is being agreed: nothing is ordered for the groups.
    forming: bool,
    /// This process's report is on its way. It is not sent twice: one that came after the view was agreed would count for the next.
    reporting: bool,
    /// This process has proposed a view since the configuration changed.
    proposed: bool,
    ring: Option<RingId>,
    quorum: Option<RingQuorum>,
    /// The newest view that this node knows of.
    known: ViewNumber,
    stand: Option<Stand>,
    /// The processes of the view.
    instances: BTreeMap<Process, NodeInstance>,
    /// How those ended who were in the view.
    gone: BTreeMap<NodeInstance, DownReason>,
    /// Own items that were sent and not ordered yet.
    sent: VecDeque<Item>,
    /// Own items that were sent in this view.
    numbered: u64,
    /// Items of each process that were delivered in this view.
    taken: BTreeMap<Process, u64>,
    /// Something was lost in this view: nothing of it is delivered any more.
    broken: bool,
    /// Parts of states that were sent and not ordered yet: what follows of a state waits for them.
    carrying: usize,
    primary: bool,
    suspended: bool,
    /// The layers above were told that this node is outside.
    told_outside: bool,
    lost: bool,
    outputs: VecDeque<Output>,
    stats: Stats,
    #[cfg(feature = "testing")]
    sabotage: Option<CpgSabotage>,
}

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpgSabotage {
    /// Does not send again what was not ordered in its view.
    ForgetsSent,
    /// Takes the word of the quorum service for whatever ring.
    TrustsAnyRing,
    /// Takes all who stood in the newest view to have been delivered the same.
    IgnoresDigest,
    /// Gives views numbers that do not follow the ring.
    NumbersAnew,
    /// Delivers what a member sent though something that it sent before was not.
    PassesGaps,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Views that were installed here.
    pub views: u64,
    /// Messages that do not parse, or whose sender may not send them.
    pub malformed: u64,
    /// Batches of a view that is over, or that were ordered while a view was agreed: their sender sends them again.
    pub stale: u64,
    /// Batches that followed something of their sender that was not delivered here: each ended what is delivered in its view.
    pub gaps: u64,
}

/// True if the bug was put back; never, without the feature `testing`.
macro_rules! sabotaged {
    ($core:expr, $bug:ident) => {{
        #[cfg(feature = "testing")]
        let yes = $core.sabotage == Some(CpgSabotage::$bug);
        #[cfg(not(feature = "testing"))]
        let yes = false;
        yes
    }};
}

impl CpgGroups {
    /// A core of a process that is about to join the process group. `known` is what [`Output::Remember`] said last on this node since
    /// its corosync started; zero if nothing.
    #[must_use]
    pub fn new(config: Config, me: Process, local: NodeInstance, known: ViewNumber) -> Self {
        Self {
            me,
            groups: Groups::ordered_elsewhere(config, local),
            configuration: Vec::new(),
            reports: BTreeMap::new(),
            forming: true,
            reporting: false,
            proposed: false,
            ring: None,
            quorum: None,
            known,
            stand: None,
            instances: BTreeMap::new(),
            gone: BTreeMap::new(),
            sent: VecDeque::new(),
            numbered: 0,
            taken: BTreeMap::new(),
            broken: false,
            carrying: 0,
            primary: false,
            suspended: false,
            told_outside: false,
            lost: false,
            outputs: VecDeque::new(),
            stats: Stats::default(),
            #[cfg(feature = "testing")]
            sabotage: None,
        }
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: CpgSabotage) {
        self.sabotage = Some(what);
    }

    /// Takes what corosync tells. Never fails: what others sent and is none of the protocol is dropped and counted.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Configuration { members, left } => {
                self.on_configuration(members, &left);
                self.judge_quorum(now);
            }
            Input::Ring(ring) => self.ring = Some(ring),
            Input::Quorum(quorum) => {
                self.quorum = Some(quorum);
                self.judge_quorum(now);
            }
            Input::Message { from, message } => self.on_message(now, from, &message),
            Input::Lost => {
                self.lost = true;
                self.forming = true;
                self.go_outside(now);
            }
        }
        self.propose();
        self.settle();
    }

    /// Next effect. Call until `None` after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// See [`Membership::view`](ocf_membership::Membership::view).
    #[must_use]
    pub const fn view(&self) -> Option<&View> {
        self.groups.view()
    }

    /// See [`Membership::is_primary`](ocf_membership::Membership::is_primary).
    #[must_use]
    pub const fn is_primary(&self) -> bool {
        self.primary && !self.suspended
    }

    /// True after [`Input::Lost`]: another provider has to be opened.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// See [`Groups::check_invariants`].
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn check_invariants(&self) -> Result<(), &'static str> {
        if self.primary && self.stand.is_none() {
            return Err("who is primary stands in a view");
        }
        self.groups.check_invariants()
    }

    fn on_configuration(&mut self, mut members: Vec<Process>, left: &[(Process, Departure)]) {
        members.sort();
        for (process, why) in left {
            if let Some(instance) = self.instances.get(process) {
                let reason = match why {
                    Departure::Left => DownReason::Left,
                    // For how long it was silent is not told, and neither is a proof of its end.
                    Departure::NodeDown | Departure::ProcessDown => {
                        DownReason::Silent { for_: Duration::ZERO }
                    }
                };
                self.gone.insert(*instance, reason);
            }
        }
        self.forming = true;
        self.proposed = false;
        self.reports.clear();
        self.configuration = members;
        if self.configuration.contains(&self.me) && !self.reporting {
            self.reporting = true;
            let mut report = Report { instance: self.groups.local(), known: self.known, stand: self.stand };
            if sabotaged!(self, IgnoresDigest) {
                report.stand = report.stand.map(|s| Stand { sequence: 0, digest: DIGEST, ..s });
            }
            self.outputs.push_back(Output::Multicast(Message::Report(report).write()));
        }
    }

    /// What the quorum service says counts at once: who has no quorum does nothing more for the groups. Within a view that is in
    /// doubt, since all members are told the same; without one this node is outside.
    fn judge_quorum(&mut self, now: Instant) {
        let Some(quorate) = self.quorum.as_ref().map(|q| q.quorate) else { return };
        if !quorate && self.forming {
            self.go_outside(now);
        } else if !quorate && self.primary && !self.suspended {
            self.suspended = true;
            self.groups.handle(now, crate::Input::Suspended);
            self.outputs.push_back(Output::Membership(Event::Suspended));
        } else if quorate && self.suspended && !self.forming {
            self.suspended = false;
            self.groups.handle(now, crate::Input::Resumed);
            self.outputs.push_back(Output::Membership(Event::Resumed));
        }
    }

    fn go_outside(&mut self, now: Instant) {
        if self.told_outside {
            return;
        }
        (self.primary, self.suspended, self.told_outside) = (false, false, true);
        self.groups.handle(now, crate::Input::NonPrimary);
        let mut reachable: Vec<NodeInstance> =
            self.configuration.iter().filter_map(|p| self.instances.get(p)).copied().collect();
        reachable.sort();
        let votes = self.quorum.as_ref().map_or(0, |q| q.votes.iter().map(|v| v.votes).sum());
        self.outputs.push_back(Output::Membership(Event::NonPrimary(NonPrimary {
            last_primary: self.stand.map_or(ViewNumber(0), |s| s.view),
            reachable,
            votes,
            quorum: self.quorum.as_ref().map_or(0, |q| q.needed),
            dormant: self.stand.is_some(),
            policy: OutsidePolicy::Stop,
        })));
    }

    /// The plan, once everybody in the configuration has reported.
    fn plan(&self) -> Option<Plan> {
        let complete = self.forming && self.configuration.iter().all(|p| self.reports.contains_key(p));
        if complete { Plan::of(&self.reports) } else { None }
    }

    /// Proposes the next view, if that is this process's turn and the quorum service speaks of the ring that the configuration
    /// belongs to.
    fn propose(&mut self) {
        if self.proposed || self.lost {
            return;
        }
        let Some(plan) = self.plan().filter(|plan| plan.leader == self.me) else { return };
        let Some(quorum) = self.quorum.as_ref().filter(|q| q.quorate) else { return };
        if self.ring.is_some_and(|ring| ring != quorum.ring) && !sabotaged!(self, TrustsAnyRing) {
            return;
        }
        let view = self.next_view(&plan, quorum);
        if !self.has_votes(&view) {
            return;
        }
        let table = (!plan.stay.is_empty()).then(|| self.groups.table_bytes());
        self.outputs.push_back(Output::Multicast(Message::Install { view, table }.write()));
        self.proposed = true;
    }

    /// True if its members have the votes that a view needs. A process that was not told of the ring that it joined in knows by that alone that
    /// the quorum service speaks of another one.
    fn has_votes(&self, view: &View) -> bool {
        let votes = view.members.iter().fold(0_u32, |sum, member| sum.saturating_add(member.votes));
        votes >= view.quorum || sabotaged!(self, TrustsAnyRing)
    }

    fn next_view(&self, plan: &Plan, quorum: &RingQuorum) -> View {
        let of_ring = quorum.ring.sequence.saturating_mul(1 << RING_SHIFT);
        let next = plan.known.0.saturating_add(1);
        let number = ViewNumber(if sabotaged!(self, NumbersAnew) { next } else { of_ring.max(next) });
        let mut members = Vec::new();
        for (process, report) in &plan.members {
            let votes = quorum.votes.iter().find(|v| v.node == process.node).map_or(0, |v| v.votes);
            let stays = report.stand.filter(|_| plan.stay.contains(process));
            let joined = stays.map_or(number, |stand| stand.joined);
            members.push(Member { instance: report.instance, joined, votes });
        }
        members.sort_by_key(|m| (m.joined, m.instance.node));
        let previous = self.groups.view().filter(|_| !plan.stay.is_empty());
        let previous = previous.map_or_else(Vec::new, |v| v.members.clone());
        let is_in = |of: &[Member], i: NodeInstance| of.iter().any(|m| m.instance == i);
        let mut causes: Vec<Cause> = Vec::new();
        for gone in previous.iter().filter(|m| !is_in(&members, m.instance)) {
            let silent = DownReason::Silent { for_: Duration::ZERO };
            let reason = self.gone.get(&gone.instance).copied().unwrap_or(silent);
            causes.push(Cause { instance: gone.instance, reason: ChangeReason::Down(reason) });
        }
        for new in members.iter().filter(|m| m.joined == number) {
            causes.push(Cause { instance: new.instance, reason: ChangeReason::Joined });
        }
        causes.sort_by_key(|c| c.instance);
        let ballot = Ballot { round: quorum.ring.sequence, proposer: self.groups.local() };
        // All builds of this provider speak it.
        let (level, quorum, unproven) = (Levels::THIS.newest, quorum.needed, Vec::new());
        View { number, ballot, members, previous, causes, quorum, level, unproven }
    }

    fn on_message(&mut self, now: Instant, from: Process, message: &Bytes) {
        let Ok(message) = Message::read(message) else {
            self.stats.malformed += 1;
            return;
        };
        match message {
            Message::Report(report) => {
                self.reporting &= from != self.me;
                if !self.configuration.contains(&from) || report.instance.node != from.node {
                    self.stats.malformed += 1;
                } else if self.forming && self.reports.insert(from, report) != Some(report) {
                    // What was proposed before does not follow from this.
                    self.proposed = false;
                }
            }
            Message::Install { view, table } => self.on_install(now, from, &view, table.as_deref()),
            Message::Batch { view, before, items } => self.on_batch(from, (view, before), items),
            Message::Carried { to, message } => {
                self.carrying = self.carrying.saturating_sub(usize::from(from == self.me));
                if let Some(sender) = self.instances.get(&from).filter(|_| to == self.groups.local()) {
                    self.groups.on_carried(*sender, &message);
                }
            }
        }
    }

    /// What a ring loses as it breaks is missed when the next batch of its sender comes: who goes on to deliver would have passed it over. So
    /// nothing more of this view is delivered; the configuration that follows says who goes on.
    fn on_batch(&mut self, from: Process, (view, before): (ViewNumber, u64), items: Vec<Item>) {
        let (broken, forming) = (self.broken, self.forming);
        let stand = self.stand.as_mut().filter(|s| s.view == view && !forming && !broken);
        let (Some(stand), Some(sender)) = (stand, self.instances.get(&from)) else {
            self.stats.stale += 1;
            return;
        };
        let taken = self.taken.entry(from).or_default();
        if before != *taken && !sabotaged!(self, PassesGaps) {
            self.stats.gaps += 1;
            self.broken = true;
            return;
        }
        *taken = taken.saturating_add(items.len() as u64);
        for item in items {
            stand.sequence += 1;
            stand.digest = fold(stand.digest, *sender);
            if *sender == self.groups.local() {
                self.sent.pop_front();
            }
            self.groups.on_ordered(*sender, item);
        }
    }

    /// A proposal is installed where it is delivered, if it follows from what all have reported: so it is by all whom it names, or by
    /// none.
    fn on_install(&mut self, now: Instant, from: Process, view: &View, table: Option<&[u8]>) {
        let plan = self.plan().filter(|p| p.leader == from && p.agrees(view));
        let of_ring = self.ring.is_none_or(|ring| ring.sequence == view.ballot.round);
        let of_ring = of_ring || sabotaged!(self, TrustsAnyRing);
        let counts = of_ring && self.has_votes(view);
        let Some(plan) = plan.filter(|p| counts && p.stay.is_empty() == table.is_none()) else {
            self.stats.stale += 1;
            return;
        };
        let local = self.groups.local();
        let Some(member) = view.members.iter().find(|m| m.instance == local).copied() else {
            if let Some(other) = plan.members.keys().find(|p| p.node == self.me.node) {
                self.outputs.push_back(Output::Taken(*other));
            }
            return;
        };
        let ours = self.groups.view().map(|v| v.number);
        let kept = plan.stay.contains(&self.me);
        let again = core::mem::take(&mut self.sent);
        if kept && sabotaged!(self, ForgetsSent) {
            self.groups.enter_with_state(view, core::iter::empty());
        } else if kept {
            self.groups.enter_with_state(view, again.into_iter());
        } else if self.groups.enter_anew(view, table).is_err() {
            self.stats.malformed += 1;
            return;
        }
        let fresh = Stand { view: view.number, sequence: 0, digest: DIGEST, joined: member.joined };
        (self.known, self.stand) = (view.number, Some(fresh));
        self.instances = plan.members.iter().map(|(p, r)| (*p, r.instance)).collect();
        self.gone.clear();
        (self.numbered, self.broken, self.carrying) = (0, false, 0);
        self.taken.clear();
        let was_outside = core::mem::take(&mut self.told_outside);
        (self.forming, self.primary, self.suspended) = (false, true, false);
        self.stats.views += 1;
        self.outputs.push_back(Output::Remember(view.number));
        self.outputs.push_back(Output::Membership(Event::Installed(view.clone())));
        if let Some(ours) = ours.filter(|_| was_outside) {
            let merged = Event::Merged { ours, primary: plan.known, kept };
            self.outputs.push_back(Output::Membership(merged));
        }
        self.judge_quorum(now);
    }

    /// Sends what may be sent, and hands out what the groups tell.
    pub(super) fn settle(&mut self) {
        let ordering = |core: &Self| core.is_primary() && !core.forming;
        loop {
            let items = if ordering(self) { self.groups.take_unordered() } else { Vec::new() };
            let mut idle = items.is_empty();
            if let Some(stand) = self.stand.filter(|_| !idle) {
                self.sent.extend(items.iter().cloned());
                let before = self.numbered;
                self.numbered += items.len() as u64;
                let batch = Message::Batch { view: stand.view, before, items };
                self.outputs.push_back(Output::Multicast(batch.write()));
            }
            while let Some(output) = self.groups.poll_output() {
                idle = false;
                match output {
                    crate::Output::Event(event) => self.outputs.push_back(Output::Group(event)),
                    crate::Output::Send { to, message, .. } => {
                        for to in to.iter().copied() {
                            self.carrying += 1;
                            let carried = Message::Carried { to, message: message.clone() };
                            self.outputs.push_back(Output::Multicast(carried.write()));
                        }
                    }
                    // Corosync has no windows of members that anybody could wait for.
                    crate::Output::Evict { .. }
                    | crate::Output::Blocked(..)
                    | crate::Output::Flushed(_)
                    | crate::Output::Synced(_) => {}
                }
            }
            if idle && self.carrying == 0 && self.groups.is_cutting() && ordering(self) {
                self.groups.give_on();
            } else if idle {
                return;
            }
        }
    }

    pub(super) const fn groups(&mut self) -> &mut Groups {
        &mut self.groups
    }

    pub(super) const fn groups_ref(&self) -> &Groups {
        &self.groups
    }
}

/// Takes a sender into a digest.
fn fold(digest: u64, sender: NodeInstance) -> u64 {
    let incarnation = sender.incarnation.raw();
    let bytes = sender.node.raw().to_be_bytes().into_iter().chain(incarnation.to_be_bytes());
    bytes.fold(digest, |d, byte| (d ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
