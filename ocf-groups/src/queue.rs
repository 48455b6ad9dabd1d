//! Message queues of a group: what is sent waits in a queue until its one receiver gets it.
//!
//! The behaviour of the message service of the Service Availability Forum behind a [`Machine`](crate::Machine): run [`Queues`]
//! with [`Replicated`](crate::Replicated). A program *opens* a queue, alone, and *gets* messages, the most urgent first. Anybody *sends* to a queue or
//! to a *queue group*, whose policy chooses one of its queues, or all. Messages outlive who sent them and who was to get them. A
//! message may ask for a *reply*. See `PROTOCOL.md`, section 14.
//!
//! ```
//! use ocf_groups::queue::{Attributes, Queues};
//! use ocf_groups::replicated::{Config, Replicated};
//! # use pils::{Incarnation, Instant, NodeId, NodeInstance};
//! # let node = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
//! let mut queues = Replicated::new(Config::new("messages", 0), node, Queues::default());
//! let create = Attributes { persistent: true, ..Attributes::new(4096) };
//! // Not before the member is in the group.
//! assert!(queues.open_queue(Instant::ZERO, "jobs", Some(create), false).is_err());
//! ```

mod content;
mod group;
mod requests;
mod wire;

pub use content::{Attributes, Message, Received, Status, Threshold};
pub use group::Policy;
pub use requests::answer;

use crate::MemberId;
use crate::replicated::Context;
use crate::replicated::service::{Service, service};
use content::{Get, Queue};
use core::time::Duration;
use group::Group;
use pils::wire::{ParseError, Reader};
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::Command;

/// Longest name of a queue, a queue group or a sender, in bytes.
pub const NAME_MAX: usize = 256;
/// How many priorities there are; 0 is the most urgent.
pub const PRIORITIES: usize = 4;
/// Most bytes of a message and of a reply (limit ids 6 and 7 of the standard).
pub const MESSAGE_MAX: usize = 64 << 10;
/// Most bytes of one priority of a queue (limit id 1).
pub const AREA_MAX: u64 = 1 << 20;
/// Most bytes of a queue (limit id 2).
pub const QUEUE_MAX: u64 = 4 << 20;
/// Most queues (limit id 3), those unlinked and open included.
pub const QUEUES_MAX: usize = 256;
/// Most queue groups (limit id 4).
pub const GROUPS_MAX: usize = 64;
/// Most queues of a queue group (limit id 5).
pub const QUEUES_PER_GROUP_MAX: usize = 64;
/// Most bytes of all queues together, by their announced sizes.
pub const BYTES_MAX: u64 = 32 << 20;
/// Most messages of one priority of a queue, whatever their sizes.
pub const MESSAGES_MAX: usize = 4096;
/// Most gets of a queue that wait.
pub const GETS_MAX: usize = 64;
/// Most senders that wait for a reply.
pub const CALLS_MAX: usize = 1024;

/// Names an open queue for the member that opened it. Never used twice in a life of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u64);

/// Names a get, by the answer to it. Never used twice in a life of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GetId(pub u64);

/// Names a sender that waits for a reply. Never used twice in a life of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// How a get or a call ended without a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its time passed, in the time of the group (`TIMEOUT`).
    Timeout,
    /// The queue was closed, or [`cancel_gets`](crate::Replicated::cancel_gets) was called (`INTERRUPT`).
    Interrupted,
}

/// What happened to a queue of a queue group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `ADDED`.
    Added,
    /// `REMOVED`, also because the queue was unlinked or deleted.
    Removed,
    /// `STATE_CHANGED`: it was opened or closed.
    StateChanged,
}

/// What queues tell every member; what has a `to` is for that member alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A get has its message, which is in the queue no more.
    Received {
        /// Who gets it.
        to: MemberId,
        /// For which get: told before the answer that names it, if the message was there.
        get: GetId,
        /// Of which open queue.
        queue: Handle,
        /// What.
        message: Arc<Received>,
    },
    /// A get ended without a message.
    GetEnded {
        /// Who waited.
        to: MemberId,
        /// For what.
        get: GetId,
        /// Why.
        how: Ended,
    },
    /// The reply to a message.
    Replied {
        /// Who waited.
        to: MemberId,
        /// Which message, by the answer to it.
        call: CallId,
        /// What.
        message: Message,
    },
    /// No reply came in time.
    CallEnded {
        /// Who waited.
        to: MemberId,
        /// For what.
        call: CallId,
    },
    /// A queue is gone, with what was in it.
    Deleted {
        /// Its name.
        queue: Arc<str>,
        /// How many messages were lost with it.
        messages: usize,
    },
    /// What tracks a queue group learns.
    GroupChanged {
        /// Which.
        group: Arc<str>,
        /// About which queue.
        queue: Arc<str>,
        /// What.
        change: Change,
        /// All its queues now.
        queues: Vec<Arc<str>>,
    },
    /// A queue group is gone; its queues stay.
    GroupDeleted {
        /// Its name.
        group: Arc<str>,
    },
    /// A queue reached a threshold, or has room again.
    Capacity {
        /// Which.
        queue: Arc<str>,
        /// For which priority.
        priority: u8,
        /// `CAPACITY_REACHED`, or else `CAPACITY_AVAILABLE`.
        reached: bool,
    },
    /// All queues of a queue group have reached their thresholds, or one has room again.
    GroupCapacity {
        /// Which.
        group: Arc<str>,
        /// For which priority.
        priority: u8,
        /// `GROUP_CAPACITY_REACHED`, or else `GROUP_CAPACITY_AVAILABLE`.
        reached: bool,
    },
}

/// Why a call changed nothing; each has its number in the standard ([`Refusal::code`]). The same at every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no command: another program is in this group.
    #[error("no command of a queue")]
    Malformed,
    /// A get or a call that may not wait, and nothing is there.
    #[error("nothing is there, and no time to wait")]
    Timeout,
    /// An argument is outside its limits.
    #[error("an argument is out of its limits")]
    InvalidParam,
    /// Closed, or of another member.
    #[error("this handle is not open here")]
    BadHandle,
    /// Another one has the queue open.
    #[error("the queue is open")]
    Busy,
    /// No such queue, queue group, or sender that waits.
    #[error("does not exist")]
    NotExist,
    /// It exists, or in another way.
    #[error("exists")]
    Exist,
    /// The reply is larger than who waits for it can take.
    #[error("the reply is larger than its receiver can take")]
    NoSpace,
    /// As many queues, queue groups, gets or calls as there may be.
    #[error("there are as many as there may be")]
    NoResources,
    /// Not for a queue that is persistent or unlinked.
    #[error("not for this queue")]
    BadOperation,
    /// The area of that priority has no room, in none of the queues that were asked.
    #[error("the queue is full")]
    QueueFull,
    /// The queue group has no queue.
    #[error("the queue group has no queue")]
    QueueNotAvailable,
    /// A message or a queue is larger than it may be.
    #[error("larger than it may be")]
    TooBig,
}

const REFUSALS: [Refusal; 13] = [
    Refusal::Malformed,
    Refusal::Timeout,
    Refusal::InvalidParam,
    Refusal::BadHandle,
    Refusal::Busy,
    Refusal::NotExist,
    Refusal::Exist,
    Refusal::NoSpace,
    Refusal::NoResources,
    Refusal::BadOperation,
    Refusal::QueueFull,
    Refusal::QueueNotAvailable,
    Refusal::TooBig,
];

impl Refusal {
    /// The error code of the standard.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Malformed => 22,
            Self::Timeout => 5,
            Self::InvalidParam => 7,
            Self::BadHandle => 9,
            Self::Busy => 10,
            Self::NotExist => 12,
            Self::Exist => 14,
            Self::NoSpace => 15,
            Self::NoResources => 18,
            Self::BadOperation => 20,
            Self::QueueFull => 23,
            Self::QueueNotAvailable => 24,
            Self::TooBig => 26,
        }
    }
}

/// A sender that waits for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    member: MemberId,
    reply_max: u32,
    due: Option<Duration>,
}

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A member that leaves keeps its queues open.
    OwnersOutliveMembers,
    /// What was got stays in the queue.
    GetLeavesACopy,
    /// A state has no messages.
    SnapshotWithoutMessages,
    /// The last message of a priority comes first.
    LastInFirstOut,
}

/// The queues and queue groups of a group. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    next: u64,
    queues: BTreeMap<u64, Queue>,
    groups: BTreeMap<Arc<str>, Group>,
    calls: BTreeMap<CallId, Call>,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

impl Queues {
    /// Names of the queues that can be opened and sent to.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.queues.values().filter(|q| !q.unlinked).map(|q| &q.name)
    }

    /// Who has queues open, or waits for a reply.
    pub fn holders(&self) -> impl Iterator<Item = MemberId> {
        let owners = self.queues.values().filter_map(|q| q.owner.map(|(_, member)| member));
        owners.chain(self.calls.values().map(|call| call.member))
    }

    /// `QueueStatusGet`, as of the last input of this member.
    ///
    /// # Errors
    /// [`Refusal::NotExist`].
    pub fn status(&self, queue: &str) -> Result<Status, Refusal> {
        self.named(queue).and_then(|id| self.queues.get(&id)).map(Queue::status).ok_or(Refusal::NotExist)
    }

    /// What waits in a queue, the most urgent first, without taking it.
    pub fn waiting(&self, queue: &str) -> impl Iterator<Item = &Arc<Received>> {
        let found = self.named(queue).and_then(|id| self.queues.get(&id));
        found.into_iter().flat_map(|q| q.areas.iter().flatten())
    }

    /// `QueueCapacityThresholdsGet`.
    ///
    /// # Errors
    /// [`Refusal::BadHandle`].
    pub fn thresholds(&self, me: MemberId, handle: Handle) -> Result<[Threshold; PRIORITIES], Refusal> {
        let found = self.queues.values().find(|q| q.owner == Some((handle, me)));
        found.map(|q| q.thresholds).ok_or(Refusal::BadHandle)
    }

    /// `QueueGroupTrack` with `CURRENT`: the policy and the queues in the order in which they came. What changes afterwards is
    /// told as [`Event::GroupChanged`].
    ///
    /// # Errors
    /// [`Refusal::NotExist`].
    pub fn group(&self, group: &str) -> Result<(Policy, Vec<Arc<str>>), Refusal> {
        self.groups.get(group).map(|g| (g.policy, self.names_of(g))).ok_or(Refusal::NotExist)
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

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn named(&self, name: &str) -> Option<u64> {
        self.queues.iter().find(|(_, q)| !q.unlinked && &*q.name == name).map(|(id, _)| *id)
    }

    fn opened(&mut self, member: MemberId, handle: Handle) -> Result<(u64, &mut Queue), Refusal> {
        let mut queues = self.queues.iter_mut();
        let found = queues.find(|(_, q)| q.owner == Some((handle, member)));
        found.map(|(id, queue)| (*id, queue)).ok_or(Refusal::BadHandle)
    }

    fn open(
        &mut self,
        member: MemberId,
        (name, create, empty): (Arc<str>, Option<Attributes>, bool),
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Refusal::InvalidParam);
        }
        create.as_ref().map_or(Ok(()), Attributes::check)?;
        let id = match (self.named(&name), create) {
            (None, None) => return Err(Refusal::NotExist),
            (Some(id), Some(wanted)) if !self.queues[&id].attributes.is_same(&wanted) => {
                return Err(Refusal::Exist);
            }
            (Some(id), _) if self.queues[&id].owner.is_some() => return Err(Refusal::Busy),
            (Some(id), _) => id,
            (None, Some(attributes)) => {
                let announced: u64 = self.queues.values().map(|q| q.attributes.size()).sum();
                if self.queues.len() >= QUEUES_MAX || announced + attributes.size() > BYTES_MAX {
                    return Err(Refusal::NoResources);
                }
                let id = self.number();
                self.queues.insert(id, Queue::new(name, attributes));
                id
            }
        };
        let handle = self.number();
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.owner = Some((Handle(handle), member));
            (queue.ends, queue.closed_at) = (None, None);
            if empty {
                queue.areas.iter_mut().for_each(std::collections::VecDeque::clear);
            }
        }
        self.note_capacity(id, events);
        self.note_change(id, Change::StateChanged, events);
        Ok(handle)
    }

    fn close(&mut self, context: &Context<'_>, id: u64, events: &mut Vec<Event>) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.end_gets(events);
        queue.owner = None;
        queue.closed_at = Some(context.time);
        if queue.unlinked || (!queue.attributes.persistent && queue.retention == Some(Duration::ZERO)) {
            self.delete(id, events);
            return;
        }
        if !queue.attributes.persistent {
            queue.ends = queue.retention.map(|retention| context.time.saturating_add(retention));
        }
        self.note_change(id, Change::StateChanged, events);
    }

    fn delete(&mut self, id: u64, events: &mut Vec<Event>) {
        self.leave_groups(id, events);
        if let Some(queue) = self.queues.remove(&id) {
            let messages = queue.areas.iter().map(std::collections::VecDeque::len).sum();
            events.push(Event::Deleted { queue: queue.name, messages });
        }
    }

    fn unlink(&mut self, name: &str, events: &mut Vec<Event>) -> Result<u64, Refusal> {
        let id = self.named(name).ok_or(Refusal::NotExist)?;
        self.leave_groups(id, events);
        match self.queues.get_mut(&id) {
            Some(queue) if queue.owner.is_some() => queue.unlinked = true,
            _ => self.delete(id, events),
        }
        Ok(0)
    }

    fn set_retention(
        &mut self,
        member: MemberId,
        handle: Handle,
        retention: Option<Duration>,
    ) -> Result<u64, Refusal> {
        let (_, queue) = self.opened(member, handle)?;
        if queue.attributes.persistent || queue.unlinked {
            return Err(Refusal::BadOperation);
        }
        queue.retention = retention;
        Ok(0)
    }

    fn set_thresholds(
        &mut self,
        member: MemberId,
        (handle, thresholds): (Handle, [Threshold; PRIORITIES]),
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        let (id, queue) = self.opened(member, handle)?;
        let sizes = queue.attributes.sizes;
        if thresholds.iter().zip(sizes).any(|(t, size)| t.available > t.reached || t.reached > size) {
            return Err(Refusal::InvalidParam);
        }
        queue.thresholds = thresholds;
        self.note_capacity(id, events);
        Ok(0)
    }

    /// Puts a message into the queues that the destination means; how many took it.
    fn send(
        &mut self,
        context: &Context<'_>,
        (sender, to, call): (MemberId, &str, Option<CallId>),
        message: Message,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        message.check()?;
        let chosen = self.choose(sender, to, &message)?;
        let message = Arc::new(Received { from: sender, call, sent_at: context.time, message });
        for id in &chosen {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.accept(Arc::clone(&message), events);
            }
            self.note_capacity(*id, events);
        }
        Ok(chosen.len() as u64)
    }

    /// Sends a message that asks for a reply.
    fn call(
        &mut self,
        context: &Context<'_>,
        (sender, to, message): (MemberId, &str, Message),
        (reply_max, timeout): (u32, Option<Duration>),
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        if timeout == Some(Duration::ZERO) {
            return Err(Refusal::Timeout);
        }
        if self.calls.len() >= CALLS_MAX {
            return Err(Refusal::NoResources);
        }
        let id = CallId(self.next + 1);
        self.send(context, (sender, to, Some(id)), message, events)?;
        let due = timeout.map(|timeout| context.time.saturating_add(timeout));
        self.next = id.0;
        self.calls.insert(id, Call { member: sender, reply_max, due });
        Ok(id.0)
    }

    fn reply(&mut self, call: CallId, message: Message, events: &mut Vec<Event>) -> Result<u64, Refusal> {
        message.check()?;
        let waiting = self.calls.get(&call).copied().ok_or(Refusal::NotExist)?;
        if usize::try_from(waiting.reply_max).is_ok_and(|max| message.data.len() > max) {
            return Err(Refusal::NoSpace);
        }
        self.calls.remove(&call);
        events.push(Event::Replied { to: waiting.member, call, message });
        Ok(0)
    }

    fn get(
        &mut self,
        context: &Context<'_>,
        (member, handle): (MemberId, Handle),
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        #[cfg(feature = "testing")]
        let (copy, last) = (self.is(Sabotage::GetLeavesACopy), self.is(Sabotage::LastInFirstOut));
        let get = GetId(self.next + 1);
        let (id, queue) = self.opened(member, handle)?;
        #[cfg(feature = "testing")]
        if last && let Some(area) = queue.areas.iter_mut().find(|area| !area.is_empty()) {
            area.rotate_right(1);
        }
        if let Some(message) = queue.take_first() {
            #[cfg(feature = "testing")]
            if copy {
                queue.areas[usize::from(message.message.priority)].push_front(Arc::clone(&message));
            }
            events.push(Event::Received { to: member, get, queue: handle, message });
            self.note_capacity(id, events);
        } else if timeout == Some(Duration::ZERO) {
            return Err(Refusal::Timeout);
        } else if queue.gets.len() >= GETS_MAX {
            return Err(Refusal::NoResources);
        } else {
            let due = timeout.map(|timeout| context.time.saturating_add(timeout));
            queue.gets.push_back(Get { id: get, due });
        }
        self.next = get.0;
        Ok(get.0)
    }
}

service!(Queues, Event);

impl Service for Queues {
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
            Command::Open { name, create, empty } => self.open(sender, (name, create, empty), events),
            Command::Close(handle) => {
                let (id, _) = self.opened(sender, handle)?;
                self.close(context, id, events);
                Ok(0)
            }
            Command::Unlink(name) => self.unlink(&name, events),
            Command::Retention(handle, retention) => self.set_retention(sender, handle, retention),
            Command::Thresholds(handle, thresholds) => {
                self.set_thresholds(sender, (handle, thresholds), events)
            }
            Command::Send { to, message } => self.send(context, (sender, &to, None), message, events),
            Command::Call { to, message, reply_max, timeout } => {
                self.call(context, (sender, &to, message), (reply_max, timeout), events)
            }
            Command::Reply(call, message) => self.reply(call, message, events),
            Command::Get(handle, timeout) => self.get(context, (sender, handle), timeout, events),
            Command::Cancel(handle) => {
                let (_, queue) = self.opened(sender, handle)?;
                let waiting = queue.gets.len() as u64;
                queue.end_gets(events);
                Ok(waiting)
            }
            Command::CreateGroup(name, policy) => self.create_group(name, policy),
            Command::DeleteGroup(name) => {
                self.groups.remove(&name).ok_or(Refusal::NotExist)?;
                events.push(Event::GroupDeleted { group: name });
                Ok(0)
            }
            Command::Insert { group, queue } => self.insert(&group, &queue, events),
            Command::Remove { group, queue } => self.remove(&group, &queue, events),
        }
    }

    fn members_left(&mut self, context: &Context<'_>, left: &[MemberId], events: &mut Vec<Event>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::OwnersOutliveMembers) {
            return;
        }
        self.calls.retain(|_, call| !left.contains(&call.member));
        let closed = |queue: &Queue| queue.owner.is_some_and(|(_, member)| left.contains(&member));
        let ids: Vec<u64> = self.queues.iter().filter(|(_, q)| closed(q)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.close(context, id, events));
        self.forget_turns(context);
    }

    fn time_passed(&mut self, context: &Context<'_>, events: &mut Vec<Event>) {
        let past = |due: Option<Duration>| due.is_some_and(|due| due <= context.time);
        for queue in self.queues.values_mut() {
            let Some((_, to)) = queue.owner else { continue };
            for get in queue.gets.iter().filter(|get| past(get.due)) {
                events.push(Event::GetEnded { to, get: get.id, how: Ended::Timeout });
            }
            queue.gets.retain(|get| !past(get.due));
        }
        for (id, call) in self.calls.iter().filter(|(_, call)| past(call.due)) {
            events.push(Event::CallEnded { to: call.member, call: *id });
        }
        self.calls.retain(|_, call| !past(call.due));
        let over: Vec<u64> = self.queues.iter().filter(|(_, q)| past(q.ends)).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.delete(id, events));
    }

    fn next_due(&self) -> Option<Duration> {
        let gets = self.queues.values().flat_map(|q| q.gets.iter().filter_map(|get| get.due));
        let ends = self.queues.values().filter_map(|q| q.ends);
        gets.chain(ends).chain(self.calls.values().filter_map(|call| call.due)).min()
    }

    fn put_state(&self, out: &mut Vec<u8>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::SnapshotWithoutMessages) {
            let mut bare = self.clone();
            bare.queues.values_mut().for_each(|queue| queue.areas = Default::default());
            bare.put_queues(out);
            return;
        }
        self.put_queues(out);
    }

    fn take_state(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Self::take_queues(r)
    }

    fn become_state(&mut self, state: Self) {
        #[cfg(feature = "testing")]
        let state = Self { sabotage: self.sabotage, ..state };
        *self = state;
    }
}

#[cfg(test)]
mod tests;
