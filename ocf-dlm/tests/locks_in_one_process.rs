//! Goal: the calls, guards and notices of a lockspace in one process, with threads.
//!
//! Method: the public interface only; where a thread must be seen waiting, the lockspace is asked, never the clock.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::disallowed_methods, reason = "threads that share locks are what is tested")]

use ocf_dlm::{
    Answer, Ask, Client, Config, Flags, LocalLocks, LockError, Lockspace, Mode, Notice, NumberOp, OpenError,
    RequestError, Status, Terms, ValueBlock, Wait, WaitReason,
};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(20);

fn space() -> Lockspace {
    LocalLocks::default().open("test", Config::default()).unwrap()
}

fn clients<const N: usize>(space: &Lockspace) -> [Client; N] {
    core::array::from_fn(|_| space.client().unwrap())
}

/// Returns once `count` locks wait.
fn until_waiting(space: &Lockspace, count: usize) {
    while space.waiting().len() != count {
        thread::yield_now();
    }
}

#[test]
fn a_counter_under_an_exclusive_lock_loses_no_update() {
    let space = space();
    let counter = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            let client = space.client().unwrap();
            let counter = &counter;
            scope.spawn(move || {
                for _ in 0..500 {
                    let guard = client.lock("counter", Mode::Ex).unwrap();
                    let seen = counter.load(Ordering::Relaxed);
                    if seen.is_multiple_of(7) {
                        thread::yield_now();
                    }
                    counter.store(seen + 1, Ordering::Relaxed);
                    guard.check().unwrap();
                }
            });
        }
    });
    assert_eq!(counter.into_inner(), 2000);
    assert!(space.dump().is_empty(), "nothing is left");
}

#[test]
fn a_lock_that_is_not_to_be_had_is_refused_or_given_up_in_time() {
    let space = space();
    let [a, b] = clients(&space);
    let held = a.lock("x", Mode::Ex).unwrap();
    assert_eq!(b.try_lock("x", Mode::Pr).unwrap_err(), LockError::WouldBlock);
    assert_eq!(b.lock_timeout("x", Mode::Pr, SHORT).unwrap_err(), LockError::TimedOut);
    drop(held);
    assert_eq!(b.try_lock("x", Mode::Pr).unwrap().mode(), Mode::Pr);
    assert_eq!(
        b.lock("", Mode::Pr).unwrap_err(),
        LockError::Refused(RequestError::Name(ocf_dlm::NameError(0)))
    );
}

#[test]
fn guards_convert_up_and_down_and_carry_the_value() {
    let space = space();
    let [a, b] = clients(&space);
    let mut writer = a.lock("x", Mode::Ex).unwrap();
    let value = ValueBlock::new(&[9; 32]);
    writer.downgrade(Mode::Pr, Some(&value)).unwrap();
    let read = b.lock_with("x", Mode::Pr, &Ask { flags: Flags::VALBLK, ..Ask::default() }).unwrap();
    assert_eq!(read.value(), Some(&value));
    assert_eq!(writer.try_convert(Mode::Ex), Err(LockError::WouldBlock));
    assert_eq!(writer.convert_timeout(Mode::Ex, SHORT), Err(LockError::TimedOut));
    assert_eq!(writer.mode(), Mode::Pr);
    let before = writer.token().unwrap();
    let freed = thread::spawn(move || drop(read));
    writer.convert(Mode::Ex).unwrap();
    freed.join().unwrap();
    assert!(writer.token().unwrap() > before);
    assert!(writer.downgrade(Mode::Ex, None).is_ok() && writer.downgrade(Mode::Nl, None).is_ok());
    assert!(writer.downgrade(Mode::Pw, None).is_err(), "that is not down");
}

#[test]
fn two_that_want_to_upgrade_are_told_of_the_deadlock() {
    let space = space();
    let [a, b] = clients(&space);
    let (mut first, mut second) = (a.lock("x", Mode::Pr).unwrap(), b.lock("x", Mode::Pr).unwrap());
    let waits = thread::spawn(move || first.convert(Mode::Ex).map(|()| first));
    until_waiting(&space, 1);
    assert_eq!(second.convert(Mode::Ex), Err(LockError::Deadlock));
    drop(second);
    assert_eq!(waits.join().unwrap().unwrap().mode(), Mode::Ex);
}

#[test]
fn who_waits_is_listed_with_who_is_in_the_way() {
    let space = space();
    let [a, b, c] = clients(&space);
    let held = a.lock("x", Mode::Ex).unwrap();
    let first = b.lock_later("x", Mode::Ex, &Ask::default()).unwrap();
    let second = c.lock_later("x", Mode::Pr, &Ask::default()).unwrap();
    let waiting = space.waiting();
    assert_eq!(waiting.len(), 2);
    for (lock, reason) in &waiting {
        let WaitReason::BlockedBy(holders) = reason else { panic!("{reason:?}") };
        assert_eq!(holders.iter().map(|holder| holder.lock).collect::<Vec<_>>(), [held.id()]);
        assert!(lock.age.is_some() && lock.queue == ocf_dlm::Queue::Waiting);
    }
    assert_eq!(space.lock_state(held.id()).unwrap().held, Some(Mode::Ex));
    assert_eq!(space.resource_state(b"x").unwrap().unwrap().locks.len(), 3);
    drop(first);
    drop(held);
    assert_eq!(second.wait().unwrap().mode(), Mode::Pr);
    assert_eq!(space.resource_state(b"x").unwrap(), None);
}

#[test]
fn an_operator_can_take_a_lock_away_with_a_reason() {
    let space = space();
    let [a, b] = clients(&space);
    let held = a.lock("x", Mode::Ex).unwrap();
    let next = b.lock_later("x", Mode::Pr, &Ask { flags: Flags::VALBLK, ..Ask::default() }).unwrap();
    assert!(space.force_release(held.id(), " ").is_err());
    assert_eq!(space.force_release(held.id(), "its host burnt down"), Ok(1));
    let next = next.wait().unwrap();
    assert!(next.remarks().value_invalid && next.token().unwrap() >= held.token().unwrap());
    assert_eq!(space.force_release(held.id(), "again"), Err(RequestError::NoSuchLock));
}

#[test]
fn completion_comes_by_callback_channel_and_future() {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let space = space();
    let [holder, waiter] = clients(&space);
    let ask = Ask::default();

    let held = holder.lock("x", Mode::Ex).unwrap();
    let (sender, called) = mpsc::channel();
    waiter
        .lock_then("x", Mode::Pr, &ask, move |outcome| {
            sender.send(outcome.map(|guard| guard.mode())).unwrap();
        })
        .unwrap();
    assert!(called.try_recv().is_err());
    drop(held);
    assert_eq!(called.recv_timeout(LONG).unwrap(), Ok(Mode::Pr));
    let again = holder.lock_channel("x", Mode::Ex, &ask).unwrap();
    let held = again.recv_timeout(LONG).unwrap().unwrap();
    let channel = waiter.lock_channel("x", Mode::Pr, &ask).unwrap();
    let abandoned = waiter.lock_channel("x", Mode::Pr, &ask).unwrap();
    drop(abandoned);
    let mut future = pin!(waiter.lock_later("x", Mode::Pr, &ask).unwrap());
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    assert!(future.as_mut().poll(&mut context).is_pending());
    let freed = thread::spawn(move || drop(held));
    let guard = loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => break outcome.unwrap(),
            Poll::Pending => thread::park(),
        }
    };
    freed.join().unwrap();
    let other = channel.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!((guard.mode(), other.mode()), (Mode::Pr, Mode::Pr));
    drop((guard, other));
    assert!(space.dump().is_empty(), "the lock that nobody received was released");
}

#[test]
fn a_request_that_is_dropped_is_cancelled_or_released() {
    let space = space();
    let [a, b] = clients(&space);
    let held = a.lock("x", Mode::Ex).unwrap();
    let mut pending = b.lock_later("x", Mode::Ex, &Ask::default()).unwrap();
    assert!(pending.try_take().is_none() && pending.wait_for(SHORT).is_none());
    drop(pending);
    assert!(space.waiting().is_empty());
    let granted = b.lock_later("x", Mode::Ex, &Ask::default()).unwrap();
    drop(held);
    drop(granted);
    assert!(space.dump().is_empty());
}

#[test]
fn a_holder_in_the_way_is_told_once_even_of_one_that_waits_already() {
    let space = space();
    let [a, b, c] = clients(&space);
    let mut held = a.lock("x", Mode::Pr).unwrap();
    let waits = b.lock_later("x", Mode::Ex, &Ask::default()).unwrap();
    let (sender, told) = mpsc::channel();
    held.on_blocking(move |wanted| sender.send(wanted).unwrap()).unwrap();
    assert_eq!(told.try_recv(), Ok(Mode::Ex));
    let more = c.lock_later("x", Mode::Pw, &Ask::default()).unwrap();
    assert!(told.try_recv().is_err(), "nothing higher is wanted");
    drop((waits, more));
    let again = b.lock_later("x", Mode::Pw, &Ask::default()).unwrap();
    assert_eq!(told.try_recv(), Ok(Mode::Pw), "a new episode");
    drop(held);
    assert_eq!(again.wait().unwrap().mode(), Mode::Pw);
}

#[test]
fn a_node_that_may_not_act_is_refused_at_once_and_its_guards_stay_refused() {
    let space = space();
    let [a, b] = clients(&space);
    let mut held = a.lock("x", Mode::Ex).unwrap();
    held.check().unwrap();
    let waits = b.lock_later("x", Mode::Ex, &Ask::default()).unwrap();
    space.set_primary(false);
    assert_eq!(held.check().unwrap_err().lock, held.id());
    assert!(held.token().is_err());
    assert_eq!(held.convert(Mode::Nl), Err(LockError::Lost));
    assert_eq!(waits.wait().unwrap_err(), LockError::Lost);
    assert_eq!(b.lock("y", Mode::Pr).unwrap_err(), LockError::Refused(RequestError::NotPrimary));
    assert_eq!(space.waiting().len(), 0);
    space.set_primary(true);
    assert!(held.check().is_err(), "others may have had it");
    assert!(b.lock("y", Mode::Pr).unwrap().check().is_ok());
    drop(held);
    assert!(space.dump().is_empty());
}

#[test]
fn the_raw_calls_behave_like_those_of_vms() {
    let space = space();
    let [a, b] = clients(&space);
    let exclusive = Terms::new(Mode::Ex);
    let granted = a.enq(b"x", None, 7, &exclusive).unwrap();
    let Some(Notice::Completed(first)) = a.poll() else { panic!("a completion is due") };
    assert_eq!((granted.lock(), first.owner.tag, first.status), (first.lock, 7, Status::Granted));
    let sync = a.enq(b"y", None, 8, &exclusive.flags(Flags::SYNCSTS)).unwrap();
    assert!(matches!(sync, Answer::Done(_)) && a.poll().is_none());
    let woken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&woken);
    b.on_notice(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let waits = b.enq(b"x", None, 9, &exclusive).unwrap().lock();
    assert_eq!(b.deq(waits, Flags::NONE, None), Err(RequestError::Busy));
    assert_eq!(a.deq(waits, Flags::NONE, None), Err(RequestError::NotOwner));
    b.cancel(waits).unwrap();
    let Some(Notice::Completed(ended)) = b.poll_timeout(LONG) else { panic!("a completion is due") };
    assert_eq!(
        (ended.status, ended.status.linux(), woken.load(Ordering::Relaxed)),
        (Status::Cancelled, -0x10001, 1)
    );
    let timed = exclusive.until(pils::Instant::ZERO);
    b.enq(b"x", None, 10, &timed).unwrap();
    let Some(Notice::Completed(late)) = b.poll_timeout(LONG) else { panic!("a completion is due") };
    assert_eq!(late.status, Status::TimedOut);
    let sub = a.enq(b"part", Some(first.lock), 1, &Terms::new(Mode::Pr)).unwrap().lock();
    assert_eq!(a.deq(first.lock, Flags::NONE, None), Err(RequestError::HasSublocks(1)));
    assert_eq!(b.enq(b"part", Some(first.lock), 1, &exclusive), Err(RequestError::NotOwner));
    assert!(space.sub_resource_state(first.lock, b"part").unwrap().is_some());
    assert_eq!(a.enq_convert(sub, &Terms::new(Mode::Nl)).unwrap().lock(), sub);
    assert_eq!((a.deq_all(Some(first.lock)), a.deq_all(None)), (Ok(1), Ok(2)));
    assert!(space.dump().is_empty());
}

#[test]
fn a_client_that_does_not_take_its_notices_is_refused_more() {
    let config = Config { notices_max: 2, ..Config::default() };
    let space = LocalLocks::default().open("small", config).unwrap();
    let client = space.client().unwrap();
    for name in [b"a", b"b"] {
        client.enq(name, None, 0, &Terms::new(Mode::Nl)).unwrap();
    }
    assert_eq!(client.enq(b"c", None, 0, &Terms::new(Mode::Nl)), Err(RequestError::Limit("notices_max")));
    assert!(client.poll().is_some());
    assert!(client.enq(b"c", None, 0, &Terms::new(Mode::Nl)).is_ok());
}

#[test]
fn locks_die_with_their_client_and_orphans_are_adopted_or_purged() {
    let space = space();
    let [a, b] = clients(&space);
    let keep = Terms::new(Mode::Ex).flags(Flags::PERSISTENT | Flags::SYNCSTS);
    let kept = a.enq(b"kept", None, 0, &keep).unwrap().lock();
    a.enq(b"gone", None, 0, &keep.flags(Flags::NONE)).unwrap();
    a.enq(b"plain", None, 0, &Terms::new(Mode::Ex)).unwrap();
    drop(a);
    assert!(space.resource_state(b"plain").unwrap().is_none());
    assert!(space.lock_state(kept).unwrap().orphan);
    let adopt = |mode| b.enq(b"kept", None, 1, &Terms::new(mode).flags(Flags::ORPHAN));
    assert_eq!(adopt(Mode::Pr), Err(RequestError::NoOrphan { other_mode: true }));
    assert_eq!(adopt(Mode::Ex).unwrap().lock(), kept);
    assert_eq!(adopt(Mode::Ex), Err(RequestError::NoOrphan { other_mode: false }));
    assert_eq!(space.purge(None), 1);
    assert_eq!(space.dump().len(), 1);
}

#[test]
fn a_group_keeps_its_locks_until_the_last_member_leaves() {
    let space = space();
    let [one, two] = [space.group("workers").unwrap(), space.group("workers").unwrap()];
    assert_eq!(one.id(), two.id());
    let lock = one.enq(b"x", None, 0, &Terms::new(Mode::Ex)).unwrap().lock();
    drop(one);
    assert!(space.lock_state(lock).is_ok());
    drop(two);
    assert!(space.lock_state(lock).is_err());
    assert!(space.group("workers").is_ok());
}

#[test]
fn numbers_in_the_value_block_change_without_a_conversion() {
    let space = space();
    let [a, b] = clients(&space);
    let (one, mut two) = (a.lock("scn", Mode::Nl).unwrap(), b.lock("scn", Mode::Nl).unwrap());
    assert_eq!(one.number(NumberOp::Increment), Ok(1));
    assert_eq!(two.number(NumberOp::Raise(40)), Ok(40));
    assert_eq!(one.number(NumberOp::Raise(7)), Ok(40));
    assert_eq!(one.number(NumberOp::Set(5)), Ok(5));
    two.convert(Mode::Pr).unwrap();
    assert_eq!(one.number(NumberOp::Increment), Err(LockError::Refused(RequestError::Busy)));
    assert_eq!(one.number(NumberOp::Read), Ok(5));
    two.convert(Mode::Ex).unwrap();
    assert_eq!(one.number(NumberOp::Read), Err(LockError::Refused(RequestError::Busy)));
    assert_eq!(two.number(NumberOp::Increment), Ok(6));
}

#[test]
fn a_manager_gives_one_lockspace_for_a_name() {
    let manager = LocalLocks::default();
    let space = manager.open("a", Config::default()).unwrap();
    let same = manager.open("a", Config::default()).unwrap();
    let _held = space.client().unwrap().lock("x", Mode::Ex).unwrap();
    assert_eq!(same.dump().len(), 1);
    assert!(manager.open("b", Config::default()).unwrap().dump().is_empty());
    let other = manager.open("a", Config { value_length: 64, ..Config::default() });
    assert_eq!(other.unwrap_err(), OpenError::Differs);
    assert_eq!(manager.open("", Config::default()).unwrap_err(), OpenError::Name(0));
    assert_eq!(manager.open_names(), ["a", "b"]);
    assert!(manager.close("a") && !manager.close("a"));
    assert_eq!(Ask::default().wait, Wait::Forever);
}
