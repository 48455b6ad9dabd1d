//! What a client is told: one bounded queue, and one thread at a time that calls back.

use crate::identity::LockId;
use crate::request::{Blocking, Completion};
use std::collections::{BTreeMap, VecDeque};

/// News of a lock, for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An operation ended.
    Completed(Completion),
    /// A lock is in the way of another request.
    Blocking(Blocking),
}

impl Notice {
    /// The lock.
    #[must_use]
    pub const fn lock(&self) -> LockId {
        match self {
            Self::Completed(completion) => completion.lock,
            Self::Blocking(blocking) => blocking.lock,
        }
    }
}

/// Where the notices of one lock go, instead of into the client's queue.
pub(crate) trait Sink: Send {
    /// Takes a notice. Called without any lock of the lock manager held.
    fn take(&mut self, notice: Notice);
}

impl<F: FnMut(Notice) + Send> Sink for F {
    fn take(&mut self, notice: Notice) {
        self(notice);
    }
}

/// Something behind a lock. There are two: one of the operating system, and one of the thread checker's.
pub(crate) trait Guarded<T> {
    /// Puts a value behind a lock.
    fn new(value: T) -> Self;
    /// Looks at it or changes it, alone.
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R;
}

#[derive(Debug)]
pub(crate) struct Plain<T>(parking_lot::Mutex<T>);

impl<T> Guarded<T> for Plain<T> {
    fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.0.lock())
    }
}

/// The queue of one client.
///
/// Who changes a shard puts the notices in while it holds the shard's lock, so their order is that of the shard; and calls
/// [`Inbox::dispatch`] after it has let go of it. Of several threads that do so at once, one calls the sinks, in order.
pub(crate) struct Inbox<G>(G);

#[derive(Default)]
pub(crate) struct State {
    /// For [`Inbox::next`].
    notices: VecDeque<Notice>,
    /// For the sinks.
    calls: VecDeque<Notice>,
    /// `None`: it is being called.
    sinks: BTreeMap<LockId, Option<Box<dyn Sink>>>,
    calling: bool,
}

impl<G: Guarded<State>> Inbox<G> {
    pub(crate) fn new() -> Self {
        Self(G::new(State::default()))
    }

    /// Sends the notices of a lock to `sink` from now on.
    pub(crate) fn route(&self, lock: LockId, sink: Box<dyn Sink>) {
        drop(self.0.with(|state| state.sinks.insert(lock, Some(sink))));
    }

    /// The lock has no sink any more; what waits for it is dropped. A call under way ends as it is.
    pub(crate) fn unroute(&self, lock: LockId) {
        drop(self.0.with(|state| {
            state.calls.retain(|notice| notice.lock() != lock);
            state.sinks.remove(&lock)
        }));
    }

    /// Puts a notice in.
    pub(crate) fn put(&self, notice: Notice) -> Put {
        self.0.with(|state| {
            if state.sinks.contains_key(&notice.lock()) {
                state.calls.push_back(notice);
                return Put::Call;
            }
            state.notices.push_back(notice);
            if state.notices.len() == 1 { Put::First } else { Put::More }
        })
    }

    /// Calls the sinks of what was put in, in order, unless another thread is at it: then that one goes on with it.
    pub(crate) fn dispatch(&self) {
        let mut called: Option<(LockId, Box<dyn Sink>)> = None;
        loop {
            let next = self.0.with(|state| {
                if let Some((lock, sink)) = called.take() {
                    state.calling = false;
                    match state.sinks.get_mut(&lock) {
                        Some(place @ None) => *place = Some(sink),
                        Some(Some(_)) | None => called = Some((lock, sink)),
                    }
                }
                if state.calling {
                    return None;
                }
                let notice = state.calls.pop_front()?;
                let sink = state.sinks.get_mut(&notice.lock())?.take()?;
                state.calling = true;
                Some((notice, sink))
            });
            // A sink that was taken off meanwhile ends here, where nothing is locked.
            drop(called.take());
            let Some((notice, mut sink)) = next else { return };
            sink.take(notice);
            called = Some((notice.lock(), sink));
        }
    }

    /// The next notice that has no sink.
    pub(crate) fn next(&self) -> Option<Notice> {
        self.0.with(|state| state.notices.pop_front())
    }

    /// True if there is no notice for [`Inbox::next`].
    pub(crate) fn is_empty(&self) -> bool {
        self.0.with(|state| state.notices.is_empty())
    }

    /// How many notices nobody took yet.
    pub(crate) fn len(&self) -> usize {
        self.0.with(|state| state.notices.len() + state.calls.len())
    }
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// A sink will take it: dispatch.
    Call,
    /// It is the only one in the queue: wake who waits.
    First,
    /// It is behind others: who waits was woken.
    More,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientId, Mode, Owner};
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// A lock that the thread checker sees.
    struct Checked<T>(Mutex<T>);

    impl<T> Guarded<T> for Checked<T> {
        fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
            work(&mut self.0.lock().unwrap())
        }
    }

    fn notice(lock: LockId, number: u64) -> Notice {
        let owner = Owner::local(ClientId::new(1), number);
        Notice::Blocking(Blocking { lock, owner, held: Mode::Pr, wanted: Mode::Ex, signal: 0 })
    }

    fn number(notice: &Notice) -> u64 {
        let (Notice::Completed(Completion { owner, .. }) | Notice::Blocking(Blocking { owner, .. })) = notice;
        owner.tag
    }

    /// Every order in which threads can run, with at most three switches that no thread asked for.
    fn in_every_order(run: impl Fn() + Sync + Send + 'static) {
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(3);
        checker.check(run);
    }

    const ONE: LockId = LockId::from_raw(1 << 40);
    const TWO: LockId = LockId::from_raw(2 << 40);

    #[test]
    fn every_notice_is_called_once_in_order_and_by_one_thread_at_a_time() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::<Checked<State>>::new());
            // What a shard's lock is: the order of notices is decided while it is held.
            let order = Arc::new(Mutex::new(0));
            let (calling, called) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
            for lock in [ONE, TWO] {
                let (calling, called) = (Arc::clone(&calling), Arc::clone(&called));
                inbox.route(
                    lock,
                    Box::new(move |notice: Notice| {
                        assert!(!calling.swap(true, Ordering::SeqCst), "two threads call at once");
                        called.lock().unwrap().push(number(&notice));
                        calling.store(false, Ordering::SeqCst);
                    }),
                );
            }
            let threads: Vec<_> = [(ONE, 2), (TWO, 1)]
                .into_iter()
                .map(|(lock, times)| {
                    let (inbox, order) = (Arc::clone(&inbox), Arc::clone(&order));
                    thread::spawn(move || {
                        for _ in 0..times {
                            let mut next = order.lock().unwrap();
                            assert_eq!(inbox.put(notice(lock, *next)), Put::Call);
                            *next += 1;
                            drop(next);
                            inbox.dispatch();
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(*called.lock().unwrap(), [0, 1, 2]);
            assert_eq!(inbox.len(), 0);
        });
    }

    #[test]
    fn a_sink_that_is_taken_off_is_dropped_and_not_called_for_what_comes_later() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::<Checked<State>>::new());
            let alive = std::sync::Arc::new(());
            let kept = std::sync::Arc::clone(&alive);
            let sink = move |notice: Notice| {
                assert_eq!(
                    (number(&notice), std::sync::Arc::strong_count(&kept)),
                    (0, 2),
                    "what came before"
                );
            };
            inbox.route(ONE, Box::new(sink));
            let other = Arc::clone(&inbox);
            let early = thread::spawn(move || {
                let _whither = other.put(notice(ONE, 0));
                other.dispatch();
            });
            inbox.unroute(ONE);
            assert_ne!(inbox.put(notice(ONE, 1)), Put::Call);
            inbox.dispatch();
            early.join().unwrap();
            assert_eq!(std::sync::Arc::strong_count(&alive), 1, "the sink is dropped");
            let left: Vec<u64> = core::iter::from_fn(|| inbox.next()).map(|notice| number(&notice)).collect();
            assert!(left.contains(&1), "{left:?}");
            assert_eq!(inbox.len(), 0);
        });
    }

    #[test]
    fn who_sleeps_until_something_arrives_is_woken_for_the_first() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::<Checked<State>>::new());
            let (gate, arrived) = (Arc::new(Mutex::new(())), Arc::new(Condvar::new()));
            let putters: Vec<_> = (0..2)
                .map(|number_of| {
                    let (inbox, gate, arrived) =
                        (Arc::clone(&inbox), Arc::clone(&gate), Arc::clone(&arrived));
                    thread::spawn(move || {
                        if inbox.put(notice(ONE, number_of)) == Put::First {
                            // As in `Told::tell`: whoever is between looking and sleeping holds the gate.
                            drop(gate.lock().unwrap());
                            arrived.notify_all();
                        }
                    })
                })
                .collect();
            let mut taken = 0;
            while taken < 2 {
                if inbox.next().is_some() {
                    taken += 1;
                    continue;
                }
                let locked = gate.lock().unwrap();
                if inbox.is_empty() {
                    drop(arrived.wait(locked).unwrap());
                }
            }
            putters.into_iter().for_each(|putter| putter.join().unwrap());
        });
    }
}
