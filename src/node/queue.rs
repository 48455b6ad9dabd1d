use crate::event::{NodeEvent, Numbered, PartitionEvent};
use core::time::Duration;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::time::Instant;

/// Events on their way from the reactor to the application. The reactor hands over the events of a whole turn together:
/// one lock and at most one wake-up, however many there are.
///
/// Counts the bytes of messages that the application has not taken, so that it cannot be buried under them: beyond the
/// limit the stack stops handing out messages, does not report them as consumed, and so stops all senders.
#[derive(Debug)]
pub(super) struct EventQueue {
    limit: usize,
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug)]
struct State {
    events: VecDeque<Numbered>,
    /// Of the messages among them.
    bytes: usize,
    /// The limit was exceeded, and the stack told to hold deliveries.
    held: bool,
    /// Takers that sleep.
    sleeping: usize,
    closed: bool,
}

/// What a taker got.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) event: Numbered,
    /// Deliveries were held and may go on now: the stack must be told.
    pub(super) resume: bool,
}

fn size(event: &NodeEvent) -> usize {
    use ocf_groups::Event::{Fifo, Message};
    let (NodeEvent::Group(event) | NodeEvent::Partition(PartitionEvent::Group(event))) = event else {
        return 0;
    };
    if let Message { payload, .. } | Fifo { payload, .. } = event { payload.len() + 128 } else { 0 }
}

impl State {
    /// True once, when deliveries were held and so much was taken that they may go on.
    const fn may_resume(&mut self, limit: usize) -> bool {
        let resume = self.held && self.bytes <= limit / 2;
        self.held &= !resume;
        resume
    }
}

impl EventQueue {
    /// An empty queue that has deliveries held beyond `limit` bytes.
    pub(super) const fn new(limit: usize) -> Self {
        let state = State { events: VecDeque::new(), bytes: 0, held: false, sleeping: 0, closed: false };
        Self { limit, state: Mutex::new(state), ready: Condvar::new() }
    }

    /// Hands over the events of a turn in order, and leaves `turn` empty. True if the limit is exceeded from now on:
    /// deliveries must be held.
    pub(super) fn hand_over(&self, turn: &mut VecDeque<Numbered>) -> bool {
        if turn.is_empty() {
            return false;
        }
        let bytes: usize = turn.iter().map(|event| size(&event.event)).sum();
        let mut state = self.state.lock();
        state.bytes += bytes;
        if state.events.is_empty() {
            core::mem::swap(&mut state.events, turn);
        } else {
            state.events.append(turn);
        }
        let hold = state.bytes > self.limit && !state.held;
        state.held |= hold;
        let wake = state.sleeping > 0;
        drop(state);
        if wake {
            self.ready.notify_one();
        }
        hold
    }

    /// Nothing is handed over after this: takers wait no more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_all();
    }

    /// Waits until there is an event, at most so long; not at all once the queue was closed.
    fn wait(&self, wait: Duration) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if state.events.is_empty() && !wait.is_zero() {
            let deadline = Instant::now().checked_add(wait);
            while state.events.is_empty() && !state.closed {
                state.sleeping += 1;
                let late = match deadline {
                    Some(deadline) => self.ready.wait_until(&mut state, deadline).timed_out(),
                    None => {
                        self.ready.wait(&mut state);
                        false
                    }
                };
                state.sleeping -= 1;
                if late {
                    break;
                }
            }
        }
        state
    }

    /// The next event, waiting for it at most so long; not at all once the queue was closed.
    pub(super) fn take(&self, wait: Duration) -> Option<Taken> {
        let mut state = self.wait(wait);
        let event = state.events.pop_front()?;
        state.bytes -= size(&event.event);
        let resume = state.may_resume(self.limit);
        let more = state.sleeping > 0 && !state.events.is_empty();
        drop(state);
        if more {
            self.ready.notify_one();
        }
        Some(Taken { event, resume })
    }

    /// Appends all events to `into`, waiting as [`EventQueue::take`] does. How many, and whether the stack must be told
    /// that deliveries may go on.
    pub(super) fn take_all(&self, wait: Duration, into: &mut VecDeque<Numbered>) -> (usize, bool) {
        let mut state = self.wait(wait);
        let count = state.events.len();
        if into.is_empty() {
            core::mem::swap(&mut state.events, into);
        } else {
            into.append(&mut state.events);
        }
        state.bytes = 0;
        let resume = state.may_resume(self.limit);
        (count, resume)
    }

    /// True while deliveries must be held. Steady only for a caller that keeps the reactor from handing over.
    pub(super) fn is_held(&self) -> bool {
        self.state.lock().held
    }

    /// Events that wait to be taken.
    pub(super) fn len(&self) -> usize {
        self.state.lock().events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ocf_groups::{Event, Guarantee, MemberId, Position};
    use pils::{Incarnation, NodeId, NodeInstance};
    use std::sync::Arc;

    fn turn(numbers: core::ops::Range<u64>, payload: usize) -> VecDeque<Numbered> {
        let instance = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
        let message = |number| Numbered {
            number,
            at: pils::Instant::ZERO,
            event: NodeEvent::Group(Event::Message {
                group: Arc::from("g"),
                sender: MemberId { instance, local: 0 },
                position: Position::default(),
                guarantee: Guarantee::Agreed,
                payload: Bytes::from(vec![0; payload]),
            }),
        };
        numbers.map(message).collect()
    }

    fn numbers(queue: &EventQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.take(Duration::ZERO)).map(|taken| taken.event.number).collect()
    }

    #[test]
    fn events_keep_their_order_over_turns() {
        let queue = EventQueue::new(1 << 20);
        assert!(!queue.hand_over(&mut turn(1..4, 10)));
        assert!(!queue.hand_over(&mut turn(4..6, 10)));
        assert_eq!(queue.len(), 5);
        assert_eq!(numbers(&queue), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn deliveries_are_held_once_beyond_the_limit_and_resumed_once_at_half_of_it() {
        let queue = EventQueue::new(4 * 1128);
        assert!(!queue.hand_over(&mut turn(1..5, 1000)));
        assert!(queue.hand_over(&mut turn(5..6, 1000)), "the fifth exceeds the limit");
        assert!(!queue.hand_over(&mut turn(6..7, 1000)), "held already");
        let resumed: Vec<bool> =
            std::iter::from_fn(|| queue.take(Duration::ZERO)).map(|taken| taken.resume).collect();
        assert_eq!(resumed, [false, false, false, true, false, false]);
        assert!(queue.hand_over(&mut turn(7..12, 1000)), "and held again");
    }

    #[test]
    fn closing_wakes_those_who_wait_and_keeps_what_is_there() {
        let queue = EventQueue::new(1 << 20);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.take(Duration::MAX).is_none());
            queue.close();
            assert!(waiting.join().unwrap(), "nothing came");
        });
        assert!(!queue.hand_over(&mut turn(1..2, 0)));
        assert_eq!(queue.take(Duration::MAX).map(|taken| taken.event.number), Some(1));
        assert!(queue.take(Duration::MAX).is_none());
    }

    #[test]
    fn all_are_taken_at_once_behind_what_is_there() {
        let queue = EventQueue::new(4 * 1128);
        assert!(queue.hand_over(&mut turn(1..6, 1000)), "the fifth exceeds the limit");
        let mut taken = VecDeque::new();
        assert_eq!(queue.take_all(Duration::ZERO, &mut taken), (5, true));
        assert!(!queue.hand_over(&mut turn(6..8, 1000)));
        assert_eq!(queue.take_all(Duration::MAX, &mut taken), (2, false));
        assert!(taken.iter().map(|event| event.number).eq(1..8));
        assert_eq!(queue.take_all(Duration::ZERO, &mut taken), (0, false));
    }

    #[test]
    fn one_turn_serves_several_takers() {
        let queue = EventQueue::new(1 << 20);
        std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..3).map(|_| scope.spawn(|| queue.take(Duration::MAX).map(|t| t.event.number))).collect();
            assert!(!queue.hand_over(&mut turn(1..4, 0)));
            let mut taken: Vec<_> = takers.into_iter().map(|taker| taker.join().unwrap()).collect();
            taken.sort();
            assert_eq!(taken, [Some(1), Some(2), Some(3)]);
        });
    }
}
