use super::{CpgGroups, Input, Output, Process};
use crate::service::group_service_by;
use crate::{Config, Event, GroupProvider, Groups};
use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use ocf_membership::{Membership, View, ViewNumber, ViewPromises};
use pils::{Incarnation, Instant, NodeInstance};
use std::collections::VecDeque;

/// Inputs taken in one call of [`Membership::process`].
const INPUTS_MAX: usize = 1024;
/// How soon a message is tried again that corosync did not take.
const RETRY: Duration = Duration::from_millis(1);

/// A closed process group of corosync, and its quorum service: what [`OverCpg`] runs on.
pub trait Cpg: fmt::Debug {
    /// Who this process is in the group.
    fn process(&self) -> Process;

    /// What corosync told, if something waits.
    fn poll(&mut self) -> Option<Input>;

    /// Sends to the group, this process included.
    fn multicast(&mut self, message: &Bytes) -> Sent;

    /// Keeps this number where it lives as long as this node's corosync does.
    fn remember(&mut self, number: ViewNumber);

    /// The number that was kept last; zero if none.
    fn remembered(&mut self) -> ViewNumber;

    /// Leaves the group.
    fn leave(&mut self);
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It will be ordered, unless this node ends before.
    Taken,
    /// Not now: its queue is full, or the ring changes. To be tried again soon.
    Later,
    /// Never: corosync is gone.
    Never,
}

/// Membership and groups over a process group of corosync. One for each node and process group.
///
/// [`Membership::process`] takes what corosync told and sends what waits. A program that waits for the descriptors of
/// `Corosync::descriptors` calls it when one is readable, and at [`Membership::poll_timeout`].
#[derive(Debug)]
pub struct OverCpg<C: Cpg> {
    core: CpgGroups,
    cpg: C,
    /// Not taken by corosync yet, in order.
    waiting: VecDeque<Bytes>,
    /// More may wait than was taken in.
    more: bool,
    now: Instant,
    membership: VecDeque<ocf_membership::Event>,
    events: VecDeque<Event>,
    taken: Option<Process>,
}

impl<C: Cpg> OverCpg<C> {
    /// Runs on `cpg`, which has joined its group or is about to. `incarnation` must be new: 128 random bits.
    ///
    /// `config` is that of [`Groups`](crate::Groups); of its fields `report_delay`, `fetch_retry` and `early_max` have no meaning here.
    #[must_use]
    pub fn new(config: Config, mut cpg: C, incarnation: Incarnation) -> Self {
        let me = cpg.process();
        let local = NodeInstance::new(me.node, incarnation);
        let core = CpgGroups::new(config, me, local, cpg.remembered());
        Self {
            core,
            cpg,
            waiting: VecDeque::new(),
            more: false,
            now: Instant::ZERO,
            membership: VecDeque::new(),
            events: VecDeque::new(),
            taken: None,
        }
    }

    /// What it runs on.
    pub const fn cpg(&self) -> &C {
        &self.cpg
    }

    /// The protocol, to look at.
    pub const fn core(&self) -> &CpgGroups {
        &self.core
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: super::CpgSabotage) {
        self.core.sabotage(what);
    }

    /// The process of this node that was in the process group before: this one is no member, and will be none.
    pub const fn taken_by(&self) -> Option<Process> {
        self.taken
    }

    /// True if corosync is gone: open another provider when it is back.
    pub const fn is_lost(&self) -> bool {
        self.core.is_lost()
    }

    /// Leaves in an orderly way, and ends.
    pub fn leave(mut self) {
        self.cpg.leave();
    }

    const fn groups(&mut self) -> &mut Groups {
        self.core.groups()
    }

    const fn groups_ref(&self) -> &Groups {
        self.core.groups_ref()
    }

    fn settle(&mut self, now: Instant) {
        self.now = now;
        self.core.settle();
        self.carry_out();
        self.send();
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Multicast(message) => self.waiting.push_back(message),
                Output::Remember(number) => self.cpg.remember(number),
                Output::Membership(event) => self.membership.push_back(event),
                Output::Group(event) => self.events.push_back(event),
                Output::Taken(process) => {
                    self.taken = Some(process);
                    self.cpg.leave();
                }
            }
        }
    }

    fn send(&mut self) {
        while let Some(message) = self.waiting.front() {
            match self.cpg.multicast(message) {
                Sent::Taken => drop(self.waiting.pop_front()),
                Sent::Later => return,
                Sent::Never => {
                    self.waiting.clear();
                    self.lose();
                }
            }
        }
    }

    fn lose(&mut self) {
        self.core.handle(self.now, Input::Lost);
        self.carry_out();
    }
}

impl<C: Cpg> Membership for OverCpg<C> {
    fn local(&self) -> NodeInstance {
        self.core.groups_ref().local()
    }

    /// None: corosync has no lease, watches nodes and not processes, and what a node knows of earlier views ends with its corosync.
    fn view_promises(&self) -> ViewPromises {
        ViewPromises::NONE
    }

    fn process(&mut self, now: Instant) {
        self.now = now;
        self.more = true;
        for _ in 0..INPUTS_MAX {
            let Some(input) = self.cpg.poll() else {
                self.more = false;
                break;
            };
            self.core.handle(now, input);
            self.carry_out();
        }
        self.send();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let later = || Some(self.now + RETRY).filter(|_| !self.waiting.is_empty());
        if self.more { Some(self.now) } else { later() }
    }

    fn poll_event(&mut self) -> Option<ocf_membership::Event> {
        self.membership.pop_front()
    }

    fn view(&self) -> Option<&View> {
        self.core.view()
    }

    fn is_primary(&self) -> bool {
        self.core.is_primary()
    }
}

group_service_by!(C: Cpg; OverCpg<C>);

impl<C: Cpg> GroupProvider for OverCpg<C> {
    fn poll_group_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
