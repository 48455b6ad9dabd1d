use super::{Event, Pattern};
use core::fmt;
use core::time::Duration;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// An event, shared with the other subscribers.
    Event(Arc<Event>),
    /// So many events are missing here, because the subscriber was too slow for its queue.
    Lost(u64),
}

/// The receiving end. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    pub(super) inbox: Arc<Inbox>,
}

/// Called after an empty queue got something.
pub(super) type Wake = Box<dyn Fn() + Send + Sync>;

pub(super) struct Inbox {
    pub(super) pattern: Pattern,
    wake: Option<Wake>,
    queue_max: usize,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    /// Events dropped in front of `events`.
    lost: u64,
}

impl Inbox {
    pub(super) fn new(pattern: Pattern, queue_max: usize, wake: Option<Wake>) -> Self {
        Self { pattern, wake, queue_max: queue_max.max(1), queue: Mutex::default(), arrived: Condvar::new() }
    }

    /// Adds an event; true if the subscriber must be woken. Never waits for the subscriber.
    pub(super) fn push(&self, event: Arc<Event>) -> bool {
        let mut queue = self.queue.lock();
        let was_empty = queue.is_empty();
        if queue.events.len() >= self.queue_max {
            queue.events.pop_front();
            queue.lost += 1;
        }
        queue.events.push_back(event);
        was_empty
    }

    /// To be called without a lock of the bus: the callback is foreign code.
    pub(super) fn wake(&self) {
        self.arrived.notify_all();
        if let Some(wake) = &self.wake {
            wake();
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.lost == 0 && self.events.is_empty()
    }

    fn pop(&mut self) -> Option<Delivery> {
        match core::mem::take(&mut self.lost) {
            0 => self.events.pop_front().map(Delivery::Event),
            lost => Some(Delivery::Lost(lost)),
        }
    }
}

impl Subscription {
    /// What comes next, if it is there.
    pub fn try_next(&self) -> Option<Delivery> {
        self.inbox.queue.lock().pop()
    }

    /// What comes next; waits up to `timeout` for it. For threads that have nothing else to do.
    pub fn next_within(&self, timeout: Duration) -> Option<Delivery> {
        let mut queue = self.inbox.queue.lock();
        self.inbox.arrived.wait_while_for(&mut queue, |queue| queue.is_empty(), timeout);
        queue.pop()
    }

    /// Events in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inbox.queue.lock().events.len()
    }

    /// True if there is nothing to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.queue.lock().is_empty()
    }

    /// What it subscribed to.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.inbox.pattern
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("pattern", &self.pattern)
            .field("queue_max", &self.queue_max)
            .finish_non_exhaustive()
    }
}
