//! A state machine that every member of a group runs: fed the ordered stream, it is the same everywhere.
//!
//! [`Replicated`] stands between a [`GroupService`] and a [`Machine`]. It gives a joiner the state, stamps commands with the time of
//! the group, and answers each [`Request`] exactly once, over view changes and re-joins. It is a sans-IO core like
//! the one below it, and the ground of [`voting`](crate::voting), [`barrier`](crate::barrier) and what else is built on
//! groups. See `PROTOCOL.md`, section 8.

mod machine;
pub(crate) mod service;
mod sessions;
pub(crate) mod wire;

pub use machine::{Birth, Context, Machine};

use crate::{Event, GroupService, Guarantee, JoinError, LeaveError, MemberId, Position, SendError};
use bytes::Bytes;
use core::time::Duration;
use pils::Instant;
use pils::wire::{ParseError, Reader};
use sessions::{Fate, Sessions};
use std::collections::VecDeque;
use std::sync::Arc;
use wire::{
    Message, put_birth, put_members, put_time, put_version, read_birth, read_members, read_time, read_version,
};

/// Which group, which member, and how much of everything.
#[derive(Clone, Debug)]
pub struct Config {
    /// The group; only members that run the same machine may be in it.
    pub group: Arc<str>,
    /// Tells the members of this node apart.
    pub local: u32,
    /// Promise of every command. With [`Guarantee::Safe`] (default) what a member was told holds in every later
    /// primary; with `Agreed` a node that is excluded may have been told a reply that is void. `Fifo` stands for `Agreed`: a machine
    /// needs the order. Equal at all members.
    pub guarantee: Guarantee,
    /// Largest command. Default 1 MiB; at most the core's `message_max` - 32 bytes.
    pub command_max: usize,
    /// Commands of this member that wait for their reply. Default 64. Also how many replies the state keeps for each
    /// submitter; equal at all members.
    pub requests_max: usize,
    /// Of how many members that left the state remembers what they were answered. Default 64: who was excluded and
    /// comes back after that many others left gets [`Outcome::Unknown`]. Equal at all members.
    pub departed_max: usize,
}

impl Config {
    /// The defaults for member `local` of this node in `group`.
    #[must_use]
    pub fn new(group: &str, local: u32) -> Self {
        Self {
            group: Arc::from(group),
            local,
            guarantee: Guarantee::Safe,
            command_max: 1 << 20,
            requests_max: 64,
            departed_max: 64,
        }
    }
}

/// Names a command of this member until its outcome is told. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request(pub u64);

/// What became of a command. Each request ends in exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out, once, and this is what the machine replied.
    Applied(Bytes),
    /// It was not carried out and will not be: the member left before.
    NotApplied,
    /// Carried out once or not at all: this member was away from the group for so long that the others have forgotten
    /// it, or the reply; or nobody was left who knew.
    Unknown,
}

/// Why a command was not taken. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Not in the group, or leaving it. Join, and wait for [`Output::Phase`].
    #[error("this member is not in the group")]
    NotMember,
    /// As many as [`Config::requests_max`] wait for their outcome; try again after one of them.
    #[error("{0} commands wait for their outcome")]
    TooMany(usize),
    /// Larger than [`Config::command_max`].
    #[error("the command of {size} bytes is larger than {limit}")]
    TooLarge {
        /// What was given.
        size: usize,
        /// [`Config::command_max`].
        limit: usize,
    },
}

/// How far this member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not in the group.
    Outside,
    /// In the group, or on its way back into it, without the state. Commands are kept.
    Waiting,
    /// Has the state.
    Ready,
}

/// What a replicated machine wants done or told, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output<E> {
    /// Send this to the group; if it is refused for now, give it to [`Replicated::refused`].
    Send {
        /// With this promise.
        guarantee: Guarantee,
        /// The bytes.
        payload: Bytes,
    },
    /// Give this to `Groups::offer_state`; an error of that call means that it is not wanted any more.
    Offer {
        /// For whom.
        joiner: MemberId,
        /// As of when.
        position: Position,
        /// The state.
        state: Bytes,
    },
    /// A command of this member ended.
    Done(Request, Outcome),
    /// What the machine tells. In one order at all members; a joiner is told what comes after its state.
    Event(E),
    /// The member came, lost its state, got it, or went.
    Phase(Phase),
    /// The state that another member offered is none: another program or version is in this group. Leave it.
    Failed(ParseError),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands carried out.
    pub applied: u64,
    /// Commands that came a second time.
    pub duplicates: u64,
    /// Messages in the group that are none of ours.
    pub malformed: u64,
    /// Commands sent again after this member came back.
    pub resubmitted: u64,
}

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Forgets one's own commands when the state came anew.
    ForgetPending,
    /// Gives joiners the machine's state without what submitters were answered.
    SnapshotWithoutSessions,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    command: Bytes,
    sent: bool,
}

/// Runs a machine as a member of a group. See the [module](self).
#[derive(Debug)]
pub struct Replicated<M: Machine> {
    config: Config,
    me: MemberId,
    phase: Phase,
    leaving: bool,
    machine: M,
    /// Which life of the group this is.
    birth: Birth,
    /// Members as the machine knows them.
    members: Vec<MemberId>,
    /// Members as the core said last, also while waiting.
    roster: Vec<MemberId>,
    sessions: Sessions,
    /// Time of the group, and when it was here.
    time: Duration,
    told_at: Instant,
    now: Instant,
    ticking: bool,
    next: u64,
    pending: VecDeque<Pending>,
    sends: VecDeque<Bytes>,
    blocked: bool,
    outputs: VecDeque<Output<M::Event>>,
    stats: Stats,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

impl<M: Machine> Replicated<M> {
    /// A member that is in no group yet. `node` is that of the core.
    pub fn new(config: Config, node: pils::NodeInstance, mut machine: M) -> Self {
        machine.reset();
        let me = MemberId { instance: node, local: config.local };
        Self {
            config,
            me,
            phase: Phase::Outside,
            leaving: false,
            machine,
            birth: Birth { founder: me, position: Position::default() },
            members: Vec::new(),
            roster: Vec::new(),
            sessions: Sessions::default(),
            time: Duration::ZERO,
            told_at: Instant::ZERO,
            now: Instant::ZERO,
            ticking: false,
            next: 1,
            pending: VecDeque::new(),
            sends: VecDeque::new(),
            blocked: false,
            outputs: VecDeque::new(),
            stats: Stats::default(),
            #[cfg(feature = "testing")]
            sabotage: None,
        }
    }

    /// Joins the group. [`Output::Phase`] tells when the member is in it.
    ///
    /// # Errors
    /// As `Groups::join`, and [`JoinError::NotOffered`] if `groups` cannot promise [`Config::guarantee`].
    pub fn join(&mut self, now: Instant, groups: &mut dyn GroupService) -> Result<MemberId, JoinError> {
        if self.guarantee() > groups.group_promises().strongest {
            return Err(JoinError::NotOffered(self.guarantee()));
        }
        let joined = groups.join(now, &self.config.group, self.config.local);
        self.leaving = self.leaving && joined.is_err();
        joined
    }

    /// Leaves the group. Commands that were not ordered before that end as [`Outcome::NotApplied`]; those of a member that had been
    /// put out meanwhile as [`Outcome::Unknown`], if they were sent.
    ///
    /// # Errors
    /// As `Groups::leave`.
    pub fn leave(&mut self, now: Instant, groups: &mut dyn GroupService) -> Result<(), LeaveError> {
        groups.leave(now, &self.config.group, self.config.local)?;
        self.leaving = true;
        if !groups.is_local(&self.config.group, self.config.local) {
            // It was out already; what it sent as a member may have been ordered since.
            self.go_outside(Outcome::Unknown);
        }
        Ok(())
    }

    /// Submits a command: carried out exactly once at every member, at one place of the stream, whatever views come
    /// between, and answered exactly once.
    ///
    /// # Errors
    /// See [`SubmitError`]; nothing changed.
    pub fn submit(&mut self, now: Instant, command: Bytes) -> Result<Request, SubmitError> {
        if self.phase == Phase::Outside || self.leaving {
            return Err(SubmitError::NotMember);
        }
        if command.len() > self.config.command_max {
            return Err(SubmitError::TooLarge { size: command.len(), limit: self.config.command_max });
        }
        if self.pending.len() >= self.config.requests_max {
            return Err(SubmitError::TooMany(self.pending.len()));
        }
        self.now = now;
        let number = self.next;
        self.next += 1;
        self.pending.push_back(Pending { number, command, sent: false });
        if self.phase == Phase::Ready {
            self.send_pending();
        }
        Ok(Request(number))
    }

    /// The machine as of the last input here, to ask without the network. Another member may be further. Who must see all
    /// that was answered to anybody before now submits a command that changes nothing, and asks when it is done.
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// Who this member is.
    pub const fn me(&self) -> MemberId {
        self.me
    }

    /// How far this member is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The members at the place where the machine stands, most senior first.
    pub fn members(&self) -> &[MemberId] {
        &self.members
    }

    /// Which life of the group the state belongs to.
    pub const fn birth(&self) -> Birth {
        self.birth
    }

    /// Time of the group as of `now`: what a command submitted now is stamped with. It is never ahead of the time that
    /// passed since the group began, but for the drift of clocks; it is behind by the delivery of the messages that carry it.
    pub fn time(&self, now: Instant) -> Duration {
        self.time.saturating_add(now.since(self.told_at))
    }

    /// Counters since the start.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The state as a joiner gets it: equal at all members at the same place.
    pub fn snapshot(&self) -> Bytes {
        let mut out = Vec::new();
        put_version(&mut out);
        put_birth(&mut out, self.birth);
        put_time(&mut out, self.time);
        put_members(&mut out, self.members.iter());
        if self.is_sabotaged_snapshot() {
            Sessions::default().write(&mut out);
        } else {
            self.sessions.write(&mut out);
        }
        self.machine.snapshot(&mut out);
        Bytes::from(out)
    }

    /// Takes what the core tells; what concerns other groups and members is passed over.
    pub fn handle(&mut self, now: Instant, event: &Event) {
        self.now = now;
        match event {
            Event::Message { group, sender, position, payload, .. } if *group == self.config.group => {
                if self.phase == Phase::Ready {
                    self.on_message(*position, *sender, payload);
                }
            }
            Event::Membership { group, position, members, joined, left } if *group == self.config.group => {
                self.on_membership(*position, members, joined, left);
            }
            Event::StateWanted { group, joiner, position } if *group == self.config.group => {
                if self.phase == Phase::Ready {
                    let state = self.snapshot();
                    self.outputs.push_back(Output::Offer { joiner: *joiner, position: *position, state });
                }
            }
            Event::State { group, member, state, .. } if self.is_me(group, *member) => self.on_state(state),
            Event::StateLost { group, member, position } if self.is_me(group, *member) => {
                self.begin_anew(*position);
            }
            Event::Reset { group, member } if self.is_me(group, *member) => {
                if self.leaving {
                    self.go_outside(Outcome::Unknown);
                } else {
                    self.wait();
                }
            }
            Event::Refused { group, member } if self.is_me(group, *member) => {
                // It may have been a member before, whose commands were ordered while it was away.
                self.go_outside(Outcome::Unknown);
            }
            Event::Writable | Event::View(_) => self.blocked = false,
            Event::Message { .. }
            | Event::Fifo { .. }
            | Event::Membership { .. }
            | Event::StateWanted { .. }
            | Event::State { .. }
            | Event::StateLost { .. }
            | Event::Reset { .. }
            | Event::Evicted { .. }
            | Event::Refused { .. } => {}
        }
    }

    /// Says the time to the group, if it is this member's turn. Early or repeated calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.ticking = true;
            self.sends.push_back(Message::Time { time: self.time(now) }.write());
        }
    }

    /// When to call [`Replicated::handle_timeout`]. The most senior member says the time for all.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.machine.due()?;
        let mine = self.phase == Phase::Ready && !self.ticking && self.members.first() == Some(&self.me);
        mine.then(|| self.told_at + due.saturating_sub(self.time))
    }

    /// Next effect. Call until `None` after every other call.
    pub fn poll_output(&mut self) -> Option<Output<M::Event>> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.blocked {
            return None;
        }
        let payload = self.sends.pop_front()?;
        Some(Output::Send { guarantee: self.guarantee(), payload })
    }

    fn guarantee(&self) -> Guarantee {
        self.config.guarantee.max(Guarantee::Agreed)
    }

    /// Takes a payload of [`Output::Send`] back that the core refused for now: it comes again at the next
    /// [`Event::Writable`] or view.
    pub fn refused(&mut self, payload: Bytes) {
        self.sends.push_front(payload);
        self.blocked = true;
    }

    /// Carries out what is to be sent and offered on `groups`, and returns the rest in order. The caller polls the core
    /// after it.
    pub fn drive(&mut self, now: Instant, groups: &mut dyn GroupService) -> Vec<Output<M::Event>> {
        let mut told = Vec::new();
        let (group, local) = (Arc::clone(&self.config.group), self.config.local);
        while let Some(output) = self.poll_output() {
            match output {
                Output::Send { guarantee, payload } => {
                    match groups.send(now, &group, local, guarantee, payload.clone()) {
                        Err(SendError::Full { .. } | SendError::NotPrimary) => self.refused(payload),
                        // Out of the group: what is not carried out is sent again if the member comes back. The rest was
                        // looked at when it joined.
                        Ok(())
                        | Err(
                            SendError::NotMember(_) | SendError::TooLarge { .. } | SendError::NotOffered(_),
                        ) => {}
                    }
                }
                Output::Offer { joiner, position, state } => {
                    // Not wanted any more, or too large: the core asks another, or goes on without.
                    drop(groups.offer_state(now, &group, joiner, position, state));
                }
                output @ (Output::Done(..) | Output::Event(_) | Output::Phase(_) | Output::Failed(_)) => {
                    told.push(output);
                }
            }
        }
        told
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: Sabotage) {
        self.sabotage = Some(what);
    }

    #[cfg(feature = "testing")]
    fn is(&self, bug: Sabotage) -> bool {
        self.sabotage == Some(bug)
    }

    fn is_sabotaged_snapshot(&self) -> bool {
        #[cfg(feature = "testing")]
        return self.is(Sabotage::SnapshotWithoutSessions);
        #[cfg(not(feature = "testing"))]
        false
    }

    fn is_me(&self, group: &Arc<str>, member: MemberId) -> bool {
        *group == self.config.group && member == self.me
    }

    fn on_message(&mut self, position: Position, sender: MemberId, payload: &Bytes) {
        let Ok(message) = Message::parse(payload) else {
            self.stats.malformed += 1;
            return;
        };
        let (Message::Command { time, .. } | Message::Time { time }) = message;
        self.time = self.time.max(time);
        self.told_at = self.now;
        let mut events = Vec::new();
        let context = Context { position, birth: self.birth, time: self.time, members: &self.members };
        if self.machine.due().is_some_and(|due| due <= self.time) {
            self.machine.on_time(&context, &mut events);
        }
        let mut done = None;
        match message {
            Message::Time { .. } => self.ticking = self.ticking && sender != self.me,
            Message::Command { number, oldest, command, .. } => {
                let new = self.sessions.begin(sender, number, oldest);
                if new {
                    self.stats.applied += 1;
                    let reply = Bytes::from(self.machine.on_command(&context, sender, command, &mut events));
                    self.sessions.answered(sender, number, reply.clone(), self.config.requests_max);
                    done = (sender == self.me).then_some((number, reply));
                } else {
                    self.stats.duplicates += 1;
                }
            }
        }
        self.outputs.extend(events.into_iter().map(Output::Event));
        if let Some((number, reply)) = done {
            self.finish(number, Outcome::Applied(reply));
        }
    }

    fn finish(&mut self, number: u64, outcome: Outcome) {
        if let Some(at) = self.pending.iter().position(|p| p.number == number) {
            self.pending.remove(at);
            self.outputs.push_back(Output::Done(Request(number), outcome));
        }
    }

    fn on_membership(&mut self, at: Position, members: &[MemberId], joined: &[MemberId], left: &[MemberId]) {
        self.roster = members.to_vec();
        let (came, went) = (joined.contains(&self.me), left.contains(&self.me));
        if went && !came {
            let ready = self.phase == Phase::Ready;
            self.go_outside(if ready { Outcome::NotApplied } else { Outcome::Unknown });
        } else if came && members.len() == 1 {
            self.begin_anew(at);
        } else if came {
            self.wait();
        } else if self.phase == Phase::Ready {
            self.change_members(at, joined, left);
        }
    }

    fn change_members(&mut self, position: Position, joined: &[MemberId], left: &[MemberId]) {
        self.members.clone_from(&self.roster);
        for gone in left {
            self.sessions.on_left(*gone, self.config.departed_max);
        }
        joined.iter().for_each(|new| self.sessions.on_joined(*new));
        let mut events = Vec::new();
        let context = Context { position, birth: self.birth, time: self.time, members: &self.members };
        self.machine.on_members(&context, joined, left, &mut events);
        self.outputs.extend(events.into_iter().map(Output::Event));
    }

    fn set_phase(&mut self, phase: Phase) {
        if self.phase != phase {
            self.phase = phase;
            self.outputs.push_back(Output::Phase(phase));
        }
    }

    /// In the group, without the state. What was handed to the core is ordered before the state comes, or lost.
    fn wait(&mut self) {
        self.sends.clear();
        self.ticking = false;
        self.set_phase(Phase::Waiting);
    }

    fn go_outside(&mut self, sent: Outcome) {
        self.wait_no_more();
        for pending in core::mem::take(&mut self.pending) {
            let outcome = if pending.sent { sent.clone() } else { Outcome::NotApplied };
            self.outputs.push_back(Output::Done(Request(pending.number), outcome));
        }
        self.set_phase(Phase::Outside);
    }

    fn wait_no_more(&mut self) {
        self.sends.clear();
        self.ticking = false;
        self.leaving = false;
        self.blocked = false;
    }

    /// The first member of a group, or the one that goes on when nobody has the state.
    fn begin_anew(&mut self, position: Position) {
        self.machine.reset();
        self.sessions = Sessions::default();
        self.birth = Birth { founder: self.me, position };
        self.time = Duration::ZERO;
        self.told_at = self.now;
        // What was carried out, if anything, was carried out on a state that is gone.
        let (lost, kept) = core::mem::take(&mut self.pending).into_iter().partition(|p| p.sent);
        self.pending = kept;
        let lost: VecDeque<Pending> = lost;
        for pending in lost {
            self.outputs.push_back(Output::Done(Request(pending.number), Outcome::Unknown));
        }
        self.members.clear();
        let joined = self.roster.clone();
        self.set_phase(Phase::Ready);
        self.change_members(position, &joined, &[]);
        self.send_pending();
    }

    fn on_state(&mut self, state: &Bytes) {
        self.sends.clear();
        self.ticking = false;
        let birth = self.birth;
        if let Err(error) = self.restore(state) {
            self.machine.reset();
            self.outputs.push_back(Output::Failed(error));
            self.go_outside(Outcome::Unknown);
            return;
        }
        self.set_phase(Phase::Ready);
        let numbers: Vec<(u64, bool)> = self.pending.iter().map(|p| (p.number, p.sent)).collect();
        for (number, sent) in numbers {
            if sent && self.birth != birth {
                // If it was carried out, it was in a life of the group that is over.
                self.finish(number, Outcome::Unknown);
                continue;
            }
            match self.sessions.fate(self.me, number) {
                Fate::Applied(reply) => self.finish(number, Outcome::Applied(reply)),
                Fate::Unknown if sent => self.finish(number, Outcome::Unknown),
                Fate::Unknown | Fate::NotApplied => {}
            }
        }
        #[cfg(feature = "testing")]
        if self.is(Sabotage::ForgetPending) {
            return;
        }
        for pending in &mut self.pending {
            self.stats.resubmitted += u64::from(pending.sent);
            pending.sent = false;
        }
        self.send_pending();
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), ParseError> {
        let mut r = Reader::new(state);
        read_version(&mut r)?;
        let birth = read_birth(&mut r)?;
        let time = read_time(&mut r)?;
        let members = read_members(&mut r)?;
        let sessions = Sessions::read(&mut r)?;
        self.machine.restore(&mut r)?;
        r.finish("state")?;
        (self.time, self.told_at) = (time, self.now);
        self.birth = birth;
        self.members = members;
        self.sessions = sessions;
        Ok(())
    }

    /// Hands out what was not handed out since the state came, in order.
    fn send_pending(&mut self) {
        let time = self.time(self.now);
        let oldest = self.pending.front().map_or(self.next, |p| p.number);
        for pending in self.pending.iter_mut().filter(|p| !p.sent) {
            pending.sent = true;
            let Pending { number, command, .. } = &*pending;
            self.sends.push_back(Message::Command { time, number: *number, oldest, command }.write());
        }
    }
}

#[cfg(test)]
mod tests;
