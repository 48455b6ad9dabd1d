//! Barriers of a group: nobody goes on before all are there.
//!
//! [`Barriers`] is a [`Machine`](crate::Machine): run it with [`Replicated`]. The first member that *enters* a barrier fixes who is awaited: all who
//! are in the group at that place of the stream. It is *passed* when all of them (or as many as the [`Terms`] say) entered,
//! or *broken*, with the reason; both are told at one place of the stream, and after that the name is free for the next
//! generation. See `PROTOCOL.md`, section 10.
//!
//! ```
//! use ocf_groups::barrier::{Barriers, Terms};
//! use ocf_groups::replicated::{Config, Replicated};
//! # use pils::{Incarnation, Instant, NodeId, NodeInstance};
//! # let node = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
//! let mut barriers = Replicated::new(Config::new("recovery", 0), node, Barriers::default());
//! // All suspended, before anyone recovers. Not before the member is in the group.
//! assert!(barriers.enter(Instant::ZERO, "suspended", None, Terms::all()).is_err());
//! ```

mod wire;

use crate::MemberId;
use crate::replicated::service::{self, Layout, Service, service};
use crate::replicated::{Context, Replicated, Request, SubmitError};
use core::time::Duration;
use pils::Instant;
use pils::wire::{ParseError, Reader};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::Command;

/// Longest name of a barrier, in bytes.
pub const NAME_MAX: usize = 256;
/// Most barriers that run at a time.
pub const RUNNING_MAX: usize = 256;
/// Of how many names the last generation is remembered: those that ended last.
pub const NAMES_MAX: usize = 1024;

/// When a barrier is passed, and what breaks it. Those of the first member that enters bind all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Passed when so many entered; `None`: all who are awaited.
    pub count: Option<u32>,
    /// An awaited member that leaves or dies is awaited no more. Otherwise it breaks the barrier, entered or not.
    pub shrink: bool,
    /// Broken so long after the first entered, in the time of the group.
    pub limit: Option<Duration>,
}

impl Terms {
    /// All who are in the group; any loss breaks it; no limit.
    #[must_use]
    pub const fn all() -> Self {
        Self { count: None, shrink: false, limit: None }
    }

    /// The same, but a member that is lost is awaited no more.
    #[must_use]
    pub const fn survivors() -> Self {
        Self { shrink: true, ..Self::all() }
    }

    /// Any `count` of those who are in the group.
    #[must_use]
    pub const fn any(count: u32) -> Self {
        Self { count: Some(count), ..Self::survivors() }
    }
}

/// Why a barrier was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// This member left or died.
    MemberLost(MemberId),
    /// Fewer are left than its terms ask for.
    TooFew {
        /// Still awaited, entered or not.
        left: usize,
        /// [`Terms::count`].
        needed: u32,
    },
    /// [`Terms::limit`].
    LimitPassed,
    /// This member, which had entered, gave it up.
    Cancelled(MemberId),
}

/// What barriers tell every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first member entered.
    Began {
        /// Which barrier.
        name: Arc<str>,
        /// Which of its generations, from 1.
        generation: u64,
        /// Who is awaited.
        awaited: Vec<MemberId>,
    },
    /// Go on. Everyone who entered did what comes before the barrier, and nobody has begun what comes after it.
    Passed {
        /// Which barrier.
        name: Arc<str>,
        /// Which of its generations.
        generation: u64,
        /// Who entered and is still here.
        entered: Vec<MemberId>,
    },
    /// It will not be passed.
    Broken {
        /// Which barrier.
        name: Arc<str>,
        /// Which of its generations.
        generation: u64,
        /// Why.
        reason: Broken,
    },
}

/// Why a command changed nothing. The same at every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no command: another program is in this group.
    #[error("no command of a barrier")]
    Malformed,
    /// Empty, or longer than [`NAME_MAX`].
    #[error("a name has 1 to {NAME_MAX} bytes")]
    Name,
    /// [`RUNNING_MAX`] run.
    #[error("{RUNNING_MAX} barriers run")]
    TooMany,
    /// This member has entered this generation.
    #[error("this member has entered")]
    AlreadyEntered,
    /// It joined after the barrier began.
    #[error("this member is not awaited")]
    NotAwaited,
    /// The one who entered first has other terms.
    #[error("the barrier began with other terms")]
    OtherTerms,
    /// The generation that was meant is over, or has not come: [`Barriers::generation`].
    #[error("another generation runs")]
    OtherGeneration,
    /// More than there are members, or none.
    #[error("so many are not in the group")]
    Count,
    /// Only who entered a running barrier may give it up.
    #[error("this member has not entered this barrier")]
    NotEntered,
}

const REFUSALS: [Refusal; 9] = [
    Refusal::Malformed,
    Refusal::Name,
    Refusal::TooMany,
    Refusal::AlreadyEntered,
    Refusal::NotAwaited,
    Refusal::OtherTerms,
    Refusal::OtherGeneration,
    Refusal::Count,
    Refusal::NotEntered,
];

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A lost member is waited for.
    WaitForTheLost,
    /// A member that joined later is let in.
    LetJoinersIn,
    /// Passed when all but one are there.
    PassEarly,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    generation: u64,
    terms: Terms,
    due: Option<Duration>,
    awaited: BTreeSet<MemberId>,
    /// In the order of entry.
    arrived: Vec<MemberId>,
}

impl Running {
    fn needed(&self) -> usize {
        self.terms.count.map_or(self.awaited.len(), |n| usize::try_from(n).unwrap_or(usize::MAX))
    }
}

/// The barriers of a group. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Barriers {
    running: BTreeMap<Arc<str>, Running>,
    /// Last generation that ended, and when, in the count of `uses`.
    generations: BTreeMap<Arc<str>, (u64, u64)>,
    uses: u64,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

impl Barriers {
    /// The generation of a barrier that runs, or that the next who enters begins: from 1, growing by one.
    #[must_use]
    pub fn generation(&self, name: &str) -> u64 {
        self.generations.get(name).map_or(0, |(ended, _)| *ended) + 1
    }

    /// Who entered a running barrier, in that order, and who is still missing.
    #[must_use]
    pub fn waiting(&self, name: &str) -> Option<(Vec<MemberId>, Vec<MemberId>)> {
        let running = self.running.get(name)?;
        let missing = running.awaited.iter().filter(|m| !running.arrived.contains(m)).copied().collect();
        Some((running.arrived.clone(), missing))
    }

    /// Names of the barriers that run.
    pub fn running(&self) -> impl Iterator<Item = &Arc<str>> {
        self.running.keys()
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

    fn enter(
        &mut self,
        context: &Context<'_>,
        member: MemberId,
        (name, meant, terms): (Arc<str>, u64, Terms),
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Refusal::Name);
        }
        let generation = self.generation(&name);
        if meant != 0 && meant != generation {
            return Err(Refusal::OtherGeneration);
        }
        if let Some(running) = self.running.get_mut(&name) {
            let awaited = running.awaited.contains(&member);
            #[cfg(feature = "testing")]
            let awaited = awaited || self.sabotage == Some(Sabotage::LetJoinersIn);
            if !awaited {
                return Err(Refusal::NotAwaited);
            }
            if running.arrived.contains(&member) {
                return Err(Refusal::AlreadyEntered);
            }
            if running.terms != terms {
                return Err(Refusal::OtherTerms);
            }
            running.arrived.push(member);
        } else {
            if self.running.len() >= RUNNING_MAX {
                return Err(Refusal::TooMany);
            }
            let awaited: BTreeSet<MemberId> = context.members.iter().copied().collect();
            if terms.count.is_some_and(|n| n == 0 || usize::try_from(n).is_ok_and(|n| n > awaited.len())) {
                return Err(Refusal::Count);
            }
            let due = terms.limit.map(|limit| context.time.saturating_add(limit));
            let awaits = awaited.iter().copied().collect();
            events.push(Event::Began { name: Arc::clone(&name), generation, awaited: awaits });
            let arrived = vec![member];
            self.running.insert(Arc::clone(&name), Running { generation, terms, due, awaited, arrived });
        }
        self.pass_if_all_are_here(&name, events);
        Ok(generation)
    }

    fn pass_if_all_are_here(&mut self, name: &Arc<str>, events: &mut Vec<Event>) {
        let Some(running) = self.running.get(name) else { return };
        let needed = running.needed();
        #[cfg(feature = "testing")]
        let needed = if self.is(Sabotage::PassEarly) { needed.saturating_sub(1).max(1) } else { needed };
        if running.arrived.len() >= needed {
            let (generation, entered) = (running.generation, running.arrived.clone());
            self.end(name);
            events.push(Event::Passed { name: Arc::clone(name), generation, entered });
        } else if running.awaited.len() < needed {
            let (left, needed) = (running.awaited.len(), running.terms.count.unwrap_or(0));
            self.break_it(name, Broken::TooFew { left, needed }, events);
        }
    }

    fn break_it(&mut self, name: &Arc<str>, reason: Broken, events: &mut Vec<Event>) {
        if let Some(generation) = self.end(name) {
            events.push(Event::Broken { name: Arc::clone(name), generation, reason });
        }
    }

    fn end(&mut self, name: &Arc<str>) -> Option<u64> {
        let running = self.running.remove(name)?;
        self.uses += 1;
        self.generations.insert(Arc::clone(name), (running.generation, self.uses));
        if self.generations.len() > NAMES_MAX {
            let oldest = self.generations.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) {
                self.generations.remove(&oldest);
            }
        }
        Some(running.generation)
    }

    fn lose(&mut self, name: &Arc<str>, left: &[MemberId], events: &mut Vec<Event>) {
        let Some(running) = self.running.get_mut(name) else { return };
        let Some(lost) = left.iter().find(|m| running.awaited.contains(m)).copied() else { return };
        if !running.terms.shrink {
            self.break_it(name, Broken::MemberLost(lost), events);
            return;
        }
        running.awaited.retain(|m| !left.contains(m));
        running.arrived.retain(|m| !left.contains(m));
        if running.awaited.is_empty() {
            self.break_it(name, Broken::MemberLost(lost), events);
        } else {
            self.pass_if_all_are_here(name, events);
        }
    }
}

service!(Barriers, Event);

impl Service for Barriers {
    type Command = Command;
    type Refusal = Refusal;
    const REFUSALS: &'static [Refusal] = &REFUSALS;

    fn carry_out(
        &mut self,
        context: &Context<'_>,
        sender: MemberId,
        command: Command,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        match command {
            Command::Enter { name, generation, terms } => {
                self.enter(context, sender, (name, generation, terms), events)
            }
            Command::Cancel { name } => match self.running.get(&name) {
                Some(running) if running.arrived.contains(&sender) => {
                    let generation = running.generation;
                    self.break_it(&name, Broken::Cancelled(sender), events);
                    Ok(generation)
                }
                _ => Err(Refusal::NotEntered),
            },
        }
    }

    fn members_left(&mut self, _: &Context<'_>, left: &[MemberId], events: &mut Vec<Event>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::WaitForTheLost) {
            return;
        }
        for name in self.running.keys().cloned().collect::<Vec<_>>() {
            self.lose(&name, left, events);
        }
    }

    fn time_passed(&mut self, context: &Context<'_>, events: &mut Vec<Event>) {
        let due = |running: &Running| running.due.is_some_and(|due| due <= context.time);
        let names: Vec<Arc<str>> =
            self.running.iter().filter(|(_, r)| due(r)).map(|(name, _)| Arc::clone(name)).collect();
        names.iter().for_each(|name| self.break_it(name, Broken::LimitPassed, events));
    }

    fn next_due(&self) -> Option<Duration> {
        self.running.values().filter_map(|running| running.due).min()
    }

    fn put_state(&self, out: &mut Vec<u8>) {
        self.write(out);
    }

    fn take_state(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Self::read(r)
    }

    fn become_state(&mut self, state: Self) {
        #[cfg(feature = "testing")]
        let state = Self { sabotage: self.sabotage, ..state };
        *self = state;
    }
}

/// What a member asks of the barriers of its group. Each request ends in an [`Outcome`](crate::replicated::Outcome); [`answer`] reads it.
impl Replicated<Barriers> {
    /// Enters a barrier; [`Event::Passed`] or [`Event::Broken`] tells when to go on. `generation` is the one that is meant, so
    /// that who is late for a broken one does not begin the next; `None` takes the one that runs, or begins one.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn enter(
        &mut self,
        now: Instant,
        name: &str,
        generation: Option<u64>,
        terms: Terms,
    ) -> Result<Request, SubmitError> {
        let generation = generation.unwrap_or(0);
        self.submit(now, Command::Enter { name: Arc::from(name), generation, terms }.write())
    }

    /// Gives a barrier up that this member has entered: it breaks for all.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn cancel(&mut self, now: Instant, name: &str) -> Result<Request, SubmitError> {
        self.submit(now, Command::Cancel { name: Arc::from(name) }.write())
    }
}

/// Reads the reply to a request: the generation it was about.
///
/// # Errors
/// Why it changed nothing.
pub fn answer(reply: &[u8]) -> Result<u64, Refusal> {
    service::answer::<Barriers>(reply)
}

#[cfg(test)]
mod tests;
