//! What a subscriber has not looked at yet.

use super::{Event, EventId, PRIORITY_MAX, Published, Recipient};
use crate::MemberId;
use std::collections::VecDeque;
use std::sync::Arc;

/// Events that wait in an [`Inbox`] by default.
pub const INBOX_MAX: usize = 1000;
/// The event id of the standard for "events were lost".
pub const LOST_EVENT_ID: EventId = EventId(1);
/// The only pattern of the standard's lost event.
pub const LOST_EVENT_PATTERN: &str = "SA_EVT_LOST_EVENT_PATTERN";

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An event matches a subscription.
    Event {
        /// Through which open channel and subscription.
        to: Recipient,
        /// What.
        event: Arc<Published>,
    },
    /// The lost event of the standard ([`LOST_EVENT_ID`], [`LOST_EVENT_PATTERN`], priority 0): this subscriber looked too
    /// seldom, and so many events were discarded since the last time that this was told.
    Lost {
        /// How many; not zero.
        events: u64,
    },
}

/// The events of one member that wait to be looked at: the most urgent first, those of one priority in the order of the stream.
///
/// A full inbox discards the least urgent event, the latest of them, and *stays closed* until half of it was looked at:
/// until then an event gets in only in place of a less urgent one. Each discarded event is told of by a [`Notice::Lost`].
/// Local to this member: it is no part of the state of the group.
#[derive(Debug)]
pub struct Inbox {
    me: MemberId,
    limit: usize,
    queues: [VecDeque<(Recipient, Arc<Published>)>; PRIORITY_MAX as usize + 1],
    closed: bool,
    lost: u64,
}

impl Inbox {
    /// An empty one for `limit` events, at least 2 ([`INBOX_MAX`] as in the widest implementation of the standard).
    #[must_use]
    pub fn new(me: MemberId, limit: usize) -> Self {
        Self { me, limit: limit.max(2), queues: Default::default(), closed: false, lost: 0 }
    }

    /// Takes what is for this member.
    pub fn take(&mut self, event: &Event) {
        let Event::Notify { event, to, .. } = event else { return };
        let me = self.me;
        for to in to.iter().filter(|to| to.member == me) {
            self.push(*to, event);
        }
    }

    /// What is most urgent.
    pub fn pop(&mut self) -> Option<Notice> {
        if self.lost > 0 {
            return Some(Notice::Lost { events: core::mem::take(&mut self.lost) });
        }
        let (to, event) = self.queues.iter_mut().find_map(VecDeque::pop_front)?;
        self.closed = self.closed && self.len() > self.limit / 2;
        Some(Notice::Event { to, event })
    }

    /// How many events wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// How many events were discarded, and that is not told yet.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// True if nothing waits, not even the word that something was lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lost == 0 && self.len() == 0
    }

    /// Forgets what waits, as this member left the group and its channels are closed.
    pub fn clear(&mut self) {
        *self = Self::new(self.me, self.limit);
    }

    fn push(&mut self, to: Recipient, event: &Arc<Published>) {
        let priority = usize::from(event.content.priority.min(PRIORITY_MAX));
        self.closed = self.closed || self.len() >= self.limit;
        if self.closed {
            self.lost += 1;
            let mut less_urgent = self.queues.iter_mut().skip(priority + 1).rev();
            let Some(queue) = less_urgent.find(|queue| !queue.is_empty()) else { return };
            queue.pop_back();
        }
        self.queues[priority].push_back((to, Arc::clone(event)));
    }
}
