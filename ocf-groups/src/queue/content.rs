//! A queue and what is in it.

use super::{
    AREA_MAX, Ended, Event, GetId, Handle, MESSAGE_MAX, MESSAGES_MAX, NAME_MAX, PRIORITIES, QUEUE_MAX,
};
use super::{CallId, Refusal};
use crate::MemberId;
use bytes::Bytes;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a queue is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `PERSISTENT`: it stays after it was closed until it is unlinked.
    pub persistent: bool,
    /// Bytes for each priority; at most [`AREA_MAX`] each and [`QUEUE_MAX`] together.
    pub sizes: [u64; PRIORITIES],
    /// How long one that is not persistent stays after it was closed, in the time of the group; `None`: for ever.
    pub retention: Option<Duration>,
}

impl Attributes {
    /// So many bytes for each priority; gone when it is closed.
    #[must_use]
    pub const fn new(size: u64) -> Self {
        Self { persistent: false, sizes: [size; PRIORITIES], retention: Some(Duration::ZERO) }
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        let fits = self.sizes.iter().all(|size| *size <= AREA_MAX) && self.size() <= QUEUE_MAX;
        if fits { Ok(()) } else { Err(Refusal::TooBig) }
    }

    pub(super) fn size(&self) -> u64 {
        self.sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.persistent == other.persistent && self.sizes == other.sizes
    }
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Type, by the word of those who talk.
    pub kind: u32,
    /// Version, the same.
    pub version: u32,
    /// 0, the most urgent, to 3.
    pub priority: u8,
    /// Name of the sender, if it likes; at most [`NAME_MAX`] bytes.
    pub sender: Option<Arc<str>>,
    /// At most [`MESSAGE_MAX`] bytes.
    pub data: Bytes,
}

impl Message {
    /// The least urgent, of type and version 0.
    #[must_use]
    pub const fn new(data: Bytes) -> Self {
        Self { kind: 0, version: 0, priority: 3, sender: None, data }
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        let named = self.sender.as_ref().is_none_or(|name| name.len() <= NAME_MAX);
        if !named || usize::from(self.priority) >= PRIORITIES {
            return Err(Refusal::InvalidParam);
        }
        if self.data.len() > MESSAGE_MAX { Err(Refusal::TooBig) } else { Ok(()) }
    }
}

/// A message on its way or got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who sent it.
    pub from: MemberId,
    /// It asks for a reply: give this to `reply`.
    pub call: Option<CallId>,
    /// When it was sent, in the time of the group.
    pub sent_at: Duration,
    /// What.
    pub message: Message,
}

/// When the owner of a queue wants to be told how full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Told when so many bytes or more are in it; at most the size of the area, which is the default.
    pub reached: u64,
    /// After that, told when no more than so many are, and fewer than `reached`; at most `reached`, which is the default.
    pub available: u64,
}

/// What a queue is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its attributes; the retention as it is now.
    pub attributes: Attributes,
    /// Who has it open.
    pub owner: Option<MemberId>,
    /// When it was closed, if it is, in the time of the group.
    pub closed_at: Option<Duration>,
    /// Messages in each area.
    pub messages: [usize; PRIORITIES],
    /// Bytes in each area.
    pub used: [u64; PRIORITIES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Get {
    pub(super) id: GetId,
    pub(super) due: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) name: Arc<str>,
    pub(super) attributes: Attributes,
    pub(super) retention: Option<Duration>,
    pub(super) unlinked: bool,
    pub(super) owner: Option<(Handle, MemberId)>,
    pub(super) closed_at: Option<Duration>,
    /// End of the retention, if nobody has it open.
    pub(super) ends: Option<Duration>,
    pub(super) areas: [VecDeque<Arc<Received>>; PRIORITIES],
    /// In the order in which they came; empty if a message is there.
    pub(super) gets: VecDeque<Get>,
    pub(super) thresholds: [Threshold; PRIORITIES],
    pub(super) is_reached: [bool; PRIORITIES],
}

impl Queue {
    pub(super) fn new(name: Arc<str>, attributes: Attributes) -> Self {
        Self {
            name,
            attributes,
            retention: attributes.retention,
            unlinked: false,
            owner: None,
            closed_at: None,
            ends: None,
            areas: Default::default(),
            gets: VecDeque::new(),
            thresholds: attributes.sizes.map(|size| Threshold { reached: size, available: size }),
            is_reached: attributes.sizes.map(|size| size == 0),
        }
    }

    pub(super) fn used(&self, priority: usize) -> u64 {
        self.areas[priority].iter().map(|m| m.message.data.len() as u64).sum()
    }

    pub(super) fn free(&self, priority: usize) -> u64 {
        self.attributes.sizes[priority].saturating_sub(self.used(priority))
    }

    pub(super) fn has_room(&self, message: &Message) -> bool {
        let priority = usize::from(message.priority);
        let fits = self.free(priority) >= message.data.len() as u64;
        !self.gets.is_empty() || (fits && self.areas[priority].len() < MESSAGES_MAX)
    }

    pub(super) fn status(&self) -> Status {
        Status {
            attributes: Attributes { retention: self.retention, ..self.attributes },
            owner: self.owner.map(|(_, member)| member),
            closed_at: self.closed_at,
            messages: [0, 1, 2, 3].map(|priority: usize| self.areas[priority].len()),
            used: [0, 1, 2, 3].map(|priority| self.used(priority)),
        }
    }

    /// Takes a message for which there is room: a get that waits has it at once.
    pub(super) fn accept(&mut self, message: Arc<Received>, events: &mut Vec<Event>) {
        if let Some((queue, to)) = self.owner
            && let Some(get) = self.gets.pop_front()
        {
            events.push(Event::Received { to, get: get.id, queue, message });
        } else {
            self.areas[usize::from(message.message.priority)].push_back(message);
        }
    }

    /// The oldest of the most urgent.
    pub(super) fn take_first(&mut self) -> Option<Arc<Received>> {
        self.areas.iter_mut().find_map(VecDeque::pop_front)
    }

    pub(super) fn end_gets(&mut self, events: &mut Vec<Event>) {
        let Some((_, to)) = self.owner else { return };
        let ended = self.gets.drain(..);
        events.extend(ended.map(|get| Event::GetEnded { to, get: get.id, how: Ended::Interrupted }));
    }
}
