//! Event channels of a group: publishers tell, subscribers are told what matches their filters.
//!
//! The behaviour of the event service of the Service Availability Forum behind a [`Machine`](crate::Machine): run [`Channels`]
//! with [`Replicated`](crate::Replicated). A program *opens* a channel and *publishes* events with patterns and a priority; another one
//! *subscribes* with filters, and is told each matching event once, those of a publisher in their order, whoever dies meanwhile.
//! An event with a *retention* is also told to who subscribes later. [`Inbox`] holds what a slow program has not looked at. See
//! `PROTOCOL.md`, section 13.
//!
//! ```
//! use ocf_groups::channel::{Access, Channels, Filter};
//! use ocf_groups::replicated::{Config, Replicated};
//! # use pils::{Incarnation, Instant, NodeId, NodeInstance};
//! # let node = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
//! assert!(Filter::Prefix("disk/".into()).matches(b"disk/sda"));
//! let mut channels = Replicated::new(Config::new("events", 0), node, Channels::default());
//! // Not before the member is in the group.
//! assert!(channels.open_channel(Instant::ZERO, "faults", Access::BOTH, true).is_err());
//! ```

mod filter;
mod inbox;
mod requests;
mod wire;

pub use filter::Filter;
pub use inbox::{INBOX_MAX, Inbox, LOST_EVENT_ID, LOST_EVENT_PATTERN, Notice};
pub use requests::answer;

use crate::MemberId;
use crate::replicated::Context;
use crate::replicated::service::{Service, service};
use bytes::Bytes;
use core::time::Duration;
use pils::wire::{ParseError, Reader};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::Command;

/// Longest name of a channel or of a publisher, in bytes.
pub const NAME_MAX: usize = 256;
/// Most channels of a group, those unlinked and open included.
pub const CHANNELS_MAX: usize = 256;
/// Most handles that are open in a group.
pub const HANDLES_MAX: usize = 1024;
/// Most subscriptions of a handle.
pub const SUBSCRIPTIONS_MAX: usize = 64;
/// Most patterns of an event, and most filters of a subscription.
pub const PATTERNS_MAX: usize = 32;
/// Longest pattern and longest filter, in bytes.
pub const PATTERN_MAX: usize = 256;
/// Most bytes of data of an event.
pub const DATA_MAX: usize = 64 << 10;
/// The least urgent priority; 0 is the most urgent.
pub const PRIORITY_MAX: u8 = 3;
/// Most events of a group that are retained.
pub const RETAINED_MAX: usize = 1024;
/// Most bytes of data of all events that are retained.
pub const RETAINED_BYTES_MAX: usize = 16 << 20;

/// Names an open channel for the member that opened it. Never used twice in a life of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u64);

/// Names an event. Never used twice in a life of the group, and growing in the order of publishing. 0 names none, 1 the
/// [lost event](Notice::Lost).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u64);

/// What a handle may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// `PUBLISHER`.
    pub publish: bool,
    /// `SUBSCRIBER`.
    pub subscribe: bool,
}

impl Access {
    /// For publishing and subscribing.
    pub const BOTH: Self = Self { publish: true, subscribe: true };
}

/// What is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Compared with the filters, place by place. At most [`PATTERNS_MAX`] of [`PATTERN_MAX`] bytes.
    pub patterns: Vec<Bytes>,
    /// 0, the most urgent, to [`PRIORITY_MAX`].
    pub priority: u8,
    /// How long it is told to who subscribes later, in the time of the group; zero: not at all, `None`: for ever.
    pub retention: Option<Duration>,
    /// Name of the publisher, as it likes; at most [`NAME_MAX`] bytes.
    pub publisher: Arc<str>,
    /// At most [`DATA_MAX`] bytes.
    pub data: Bytes,
}

impl Content {
    /// One pattern, the least urgent, not retained.
    #[must_use]
    pub fn new(pattern: &str, data: Bytes) -> Self {
        let patterns = vec![Bytes::copy_from_slice(pattern.as_bytes())];
        let (publisher, retention) = (Arc::from(""), Some(Duration::ZERO));
        Self { patterns, priority: PRIORITY_MAX, retention, publisher, data }
    }

    fn check(&self) -> Result<(), Refusal> {
        let patterns = self.patterns.len() <= PATTERNS_MAX
            && self.patterns.iter().all(|pattern| pattern.len() <= PATTERN_MAX);
        if !patterns || self.priority > PRIORITY_MAX || self.publisher.len() > NAME_MAX {
            return Err(Refusal::InvalidParam);
        }
        if self.data.len() > DATA_MAX { Err(Refusal::TooBig) } else { Ok(()) }
    }
}

/// A published event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Which.
    pub id: EventId,
    /// Who published it.
    pub by: MemberId,
    /// When, in the time of the group.
    pub at: Duration,
    /// What.
    pub content: Content,
}

impl Published {
    fn ends(&self) -> Option<Duration> {
        self.content.retention.map(|retention| self.at.saturating_add(retention))
    }
}

/// Whom an event is for: one of these for each open channel that has a subscription it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The subscriber.
    pub member: MemberId,
    /// Its open channel.
    pub handle: Handle,
    /// The lowest of its subscriptions that match.
    pub subscription: u32,
}

/// What channels tell every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something was published, or somebody subscribed who must be told of what is retained.
    Notify {
        /// On which channel.
        channel: Arc<str>,
        /// What.
        event: Arc<Published>,
        /// For whom; not empty. Give it to the [`Inbox`] of this member.
        to: Vec<Recipient>,
        /// It was published before, and is retained.
        retained: bool,
    },
    /// A channel is gone, with what it retained: unlinked and closed by all.
    Deleted {
        /// Its name.
        channel: Arc<str>,
    },
}

/// Why a call changed nothing; each has its number in the standard ([`Refusal::code`]). The same at every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no command: another program is in this group.
    #[error("no command of a channel")]
    Malformed,
    /// An argument is outside its limits.
    #[error("an argument is out of its limits")]
    InvalidParam,
    /// Closed, or of another member.
    #[error("this handle is not open here")]
    BadHandle,
    /// The handle was not opened for this.
    #[error("the handle was not opened for this")]
    Access,
    /// No such channel, subscription or retained event.
    #[error("does not exist")]
    NotExist,
    /// The handle has a subscription of that number.
    #[error("exists")]
    Exist,
    /// As many channels, handles, subscriptions or retained events as there may be.
    #[error("there are as many as there may be")]
    NoResources,
    /// Opened neither for publishing nor for subscribing.
    #[error("a channel is opened for publishing, subscribing or both")]
    BadFlags,
    /// More than [`DATA_MAX`] bytes.
    #[error("an event has at most {DATA_MAX} bytes")]
    TooBig,
}

const REFUSALS: [Refusal; 9] = [
    Refusal::Malformed,
    Refusal::InvalidParam,
    Refusal::BadHandle,
    Refusal::Access,
    Refusal::NotExist,
    Refusal::Exist,
    Refusal::NoResources,
    Refusal::BadFlags,
    Refusal::TooBig,
];

impl Refusal {
    /// The error code of the standard.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Malformed => 22,
            Self::InvalidParam => 7,
            Self::BadHandle => 9,
            Self::Access => 11,
            Self::NotExist => 12,
            Self::Exist => 14,
            Self::NoResources => 18,
            Self::BadFlags => 25,
            Self::TooBig => 26,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Channel {
    name: Arc<str>,
    unlinked: bool,
    retained: BTreeMap<EventId, Arc<Published>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Opened {
    member: MemberId,
    channel: u64,
    access: Access,
    subscriptions: BTreeMap<u32, Vec<Filter>>,
    /// Which of those that the channel retains it was told.
    told: BTreeSet<EventId>,
}

impl Opened {
    fn matching(&self, patterns: &[Bytes]) -> Option<u32> {
        self.subscriptions.iter().find(|(_, filters)| filter::all_match(filters, patterns)).map(|(id, _)| *id)
    }
}

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A member that leaves keeps its handles.
    HandlesOutliveMembers,
    /// What is retained is told anew with each subscription.
    TellRetainedAgain,
    /// A state has nothing that is retained.
    SnapshotWithoutRetained,
    /// Only the first subscriber is told.
    TellOne,
}

/// The channels of a group. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    next: u64,
    channels: BTreeMap<u64, Channel>,
    handles: BTreeMap<Handle, Opened>,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

impl Channels {
    /// Names of the channels that can be opened.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.channels.values().filter(|c| !c.unlinked).map(|c| &c.name)
    }

    /// Who has channels open.
    pub fn holders(&self) -> impl Iterator<Item = MemberId> {
        self.handles.values().map(|opened| opened.member)
    }

    /// What a channel that can be opened retains, in the order of publishing.
    pub fn retained(&self, channel: &str) -> impl Iterator<Item = &Arc<Published>> {
        self.named(channel)
            .and_then(|id| self.channels.get(&id))
            .into_iter()
            .flat_map(|c| c.retained.values())
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

    fn named(&self, name: &str) -> Option<u64> {
        self.channels.iter().find(|(_, c)| !c.unlinked && &*c.name == name).map(|(id, _)| *id)
    }

    fn handle(&mut self, member: MemberId, handle: Handle) -> Result<&mut Opened, Refusal> {
        self.handles.get_mut(&handle).filter(|o| o.member == member).ok_or(Refusal::BadHandle)
    }

    fn open(
        &mut self,
        member: MemberId,
        (name, access, create): (Arc<str>, Access, bool),
    ) -> Result<u64, Refusal> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Refusal::InvalidParam);
        }
        if !(access.publish || access.subscribe) {
            return Err(Refusal::BadFlags);
        }
        let channel = match self.named(&name) {
            None if !create => return Err(Refusal::NotExist),
            None if self.channels.len() >= CHANNELS_MAX => return Err(Refusal::NoResources),
            found => found,
        };
        if self.handles.len() >= HANDLES_MAX {
            return Err(Refusal::NoResources);
        }
        let channel = channel.unwrap_or_else(|| {
            let id = self.number();
            self.channels.insert(id, Channel { name, unlinked: false, retained: BTreeMap::new() });
            id
        });
        let handle = self.number();
        let (subscriptions, told) = (BTreeMap::new(), BTreeSet::new());
        self.handles.insert(Handle(handle), Opened { member, channel, access, subscriptions, told });
        Ok(handle)
    }

    /// One counter names channels, handles and events; 0 and 1 mean something else as an event.
    const fn number(&mut self) -> u64 {
        self.next = if self.next < LOST_EVENT_ID.0 { LOST_EVENT_ID.0 + 1 } else { self.next + 1 };
        self.next
    }

    fn close(&mut self, handle: Handle, events: &mut Vec<Event>) {
        let Some(opened) = self.handles.remove(&handle) else { return };
        self.delete_if_over(opened.channel, events);
    }

    fn delete_if_over(&mut self, channel: u64, events: &mut Vec<Event>) {
        let is_open = self.handles.values().any(|o| o.channel == channel);
        if !is_open && self.channels.get(&channel).is_some_and(|c| c.unlinked) {
            let gone = self.channels.remove(&channel);
            events.extend(gone.map(|c| Event::Deleted { channel: c.name }));
        }
    }

    fn publish(
        &mut self,
        context: &Context<'_>,
        (member, handle): (MemberId, Handle),
        content: Content,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        let opened = self.handle(member, handle)?;
        let channel = opened.channel;
        if !opened.access.publish {
            return Err(Refusal::Access);
        }
        content.check()?;
        let retain = content.retention != Some(Duration::ZERO);
        if retain {
            let kept = || self.channels.values().flat_map(|c| c.retained.values());
            let bytes: usize = kept().map(|event| event.content.data.len()).sum();
            if kept().count() >= RETAINED_MAX || bytes + content.data.len() > RETAINED_BYTES_MAX {
                return Err(Refusal::NoResources);
            }
        }
        let id = EventId(self.number());
        let event = Arc::new(Published { id, by: member, at: context.time, content });
        let mut to = Vec::new();
        for (handle, opened) in self.handles.iter_mut().filter(|(_, o)| o.channel == channel) {
            if let Some(subscription) = opened.matching(&event.content.patterns) {
                if retain {
                    opened.told.insert(id);
                }
                to.push(Recipient { member: opened.member, handle: *handle, subscription });
            }
        }
        #[cfg(feature = "testing")]
        if self.is(Sabotage::TellOne) {
            to.truncate(1);
        }
        let Some(channel) = self.channels.get_mut(&channel) else { return Err(Refusal::BadHandle) };
        if retain {
            channel.retained.insert(id, Arc::clone(&event));
        }
        if !to.is_empty() {
            let channel = Arc::clone(&channel.name);
            events.push(Event::Notify { channel, event, to, retained: false });
        }
        Ok(id.0)
    }

    fn subscribe(
        &mut self,
        (member, handle): (MemberId, Handle),
        (subscription, filters): (u32, Vec<Filter>),
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        #[cfg(feature = "testing")]
        let again = self.is(Sabotage::TellRetainedAgain);
        let opened =
            self.handles.get_mut(&handle).filter(|o| o.member == member).ok_or(Refusal::BadHandle)?;
        if !opened.access.subscribe {
            return Err(Refusal::Access);
        }
        if filters.len() > PATTERNS_MAX || filters.iter().any(|f| f.len() > PATTERN_MAX) {
            return Err(Refusal::InvalidParam);
        }
        if opened.subscriptions.contains_key(&subscription) {
            return Err(Refusal::Exist);
        }
        if opened.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(Refusal::NoResources);
        }
        if let Some(channel) = self.channels.get(&opened.channel) {
            for (id, event) in &channel.retained {
                let is_new = opened.told.insert(*id);
                #[cfg(feature = "testing")]
                let is_new = is_new || again;
                if !filter::all_match(&filters, &event.content.patterns) {
                    if is_new {
                        opened.told.remove(id);
                    }
                } else if is_new {
                    let (channel, event) = (Arc::clone(&channel.name), Arc::clone(event));
                    let to = vec![Recipient { member, handle, subscription }];
                    events.push(Event::Notify { channel, event, to, retained: true });
                }
            }
        }
        opened.subscriptions.insert(subscription, filters);
        Ok(0)
    }

    /// Ends the retention of an event.
    fn clear(&mut self, channel: u64, event: EventId) -> bool {
        let retained = self.channels.get_mut(&channel).and_then(|c| c.retained.remove(&event));
        for opened in self.handles.values_mut().filter(|o| o.channel == channel) {
            opened.told.remove(&event);
        }
        retained.is_some()
    }
}

service!(Channels, Event);

impl Service for Channels {
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
            Command::Open { name, access, create } => self.open(sender, (name, access, create)),
            Command::Close(handle) => {
                self.handle(sender, handle)?;
                self.close(handle, events);
                Ok(0)
            }
            Command::Unlink(name) => {
                let id = self.named(&name).ok_or(Refusal::NotExist)?;
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.unlinked = true;
                }
                self.delete_if_over(id, events);
                Ok(0)
            }
            Command::Publish(handle, content) => self.publish(context, (sender, handle), content, events),
            Command::Subscribe { handle, subscription, filters } => {
                self.subscribe((sender, handle), (subscription, filters), events)
            }
            Command::Unsubscribe(handle, subscription) => {
                let opened = self.handle(sender, handle)?;
                opened.subscriptions.remove(&subscription).map(|_| 0).ok_or(Refusal::NotExist)
            }
            Command::Clear(handle, event) => {
                let channel = self.handle(sender, handle)?.channel;
                if event <= LOST_EVENT_ID {
                    return Err(Refusal::InvalidParam);
                }
                if self.clear(channel, event) { Ok(0) } else { Err(Refusal::NotExist) }
            }
        }
    }

    fn members_left(&mut self, _: &Context<'_>, left: &[MemberId], events: &mut Vec<Event>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::HandlesOutliveMembers) {
            return;
        }
        let gone: Vec<Handle> =
            self.handles.iter().filter(|(_, o)| left.contains(&o.member)).map(|(h, _)| *h).collect();
        gone.into_iter().for_each(|handle| self.close(handle, events));
    }

    fn time_passed(&mut self, context: &Context<'_>, _: &mut Vec<Event>) {
        let over = |event: &Published| event.ends().is_some_and(|end| end <= context.time);
        let ended: Vec<(u64, EventId)> = self
            .channels
            .iter()
            .flat_map(|(id, c)| c.retained.values().filter(|e| over(e)).map(|e| (*id, e.id)))
            .collect();
        for (channel, event) in ended {
            self.clear(channel, event);
        }
    }

    fn next_due(&self) -> Option<Duration> {
        self.channels.values().flat_map(|c| c.retained.values()).filter_map(|event| event.ends()).min()
    }

    fn put_state(&self, out: &mut Vec<u8>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::SnapshotWithoutRetained) {
            let mut bare = self.clone();
            bare.channels.values_mut().for_each(|c| c.retained.clear());
            bare.put_channels(out);
            return;
        }
        self.put_channels(out);
    }

    fn take_state(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Self::take_channels(r)
    }

    fn become_state(&mut self, state: Self) {
        #[cfg(feature = "testing")]
        let state = Self { sabotage: self.sabotage, ..state };
        *self = state;
    }
}

#[cfg(test)]
mod tests;
