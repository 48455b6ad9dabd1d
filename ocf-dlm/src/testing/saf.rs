//! The lock service of the Service Availability Forum, rule by rule.

use super::{Bell, MOMENT, PATIENCE};
use crate::manager::LockManager;
use crate::saf::{SafCallback, SafError, SafFlags, SafLockId, SafLocks, SafMode, SafResource, SafStatus};
use core::time::Duration;
use std::sync::Arc;
use std::task::Wake as _;

pub(super) fn check(one: &dyn LockManager, other: &dyn LockManager) {
    let two = || [one, other].map(handle);
    a_resource_is_there_while_somebody_has_it_open(two());
    readers_share_and_a_writer_is_alone(two());
    who_is_in_the_way_is_told_and_who_waits_is_granted_at_the_unlock(two());
    requests_are_granted_in_the_order_of_asking(one, other);
    requests_end_with_the_status_that_the_service_says(two());
    what_is_given_up_is_in_nobodys_way(two());
    a_deadlock_ends_with_its_status(two());
    an_orphan_stays_until_it_is_purged(one, other);
    who_does_not_wait_is_woken(two());
}

const PLAIN: SafFlags = SafFlags { no_queue: false, orphan: false };
const NO_QUEUE: SafFlags = SafFlags { no_queue: true, orphan: false };
const ORPHAN: SafFlags = SafFlags { no_queue: false, orphan: true };
const LONG: Option<Duration> = Some(PATIENCE);
use SafMode::{Exclusive, Shared};

fn handle(of: &dyn LockManager) -> SafLocks {
    SafLocks::initialize(of, "conformance.saf").expect("a handle")
}

fn open(handle: &mut SafLocks, name: &[u8]) -> SafResource {
    handle.open(name, true, LONG).expect("it is created, or there")
}

fn open_both([a, b]: &mut [SafLocks; 2], name: &[u8]) -> [SafResource; 2] {
    [open(a, name), open(b, name)]
}

/// Locks what nobody is in the way of.
fn take(handle: &mut SafLocks, resource: SafResource, mode: SafMode) -> SafLockId {
    let (lock, status) = handle.lock(resource, mode, PLAIN, (0, LONG)).expect("it may");
    assert_eq!(status, SafStatus::Granted);
    lock
}

fn next(handle: &mut SafLocks) -> SafCallback {
    handle.dispatch_within(PATIENCE).expect("it is told")
}

fn a_resource_is_there_while_somebody_has_it_open([mut a, mut b]: [SafLocks; 2]) {
    assert_eq!(a.open(b"open", false, LONG), Err(SafError::NotExist));
    assert_eq!(a.open_async(b"open", false, 1), Err(SafError::NotExist));
    let first = open(&mut a, b"open");
    let second = b.open(b"open", false, LONG).expect("the other has created it");
    a.close(first).expect("it is open");
    assert_eq!(a.close(first), Err(SafError::BadHandle));
    assert_eq!(a.lock(first, Shared, PLAIN, (0, LONG)), Err(SafError::BadHandle));
    a.open_async(b"open", false, 7).expect("the other has it still");
    let SafCallback::Opened { invocation: 7, resource: Ok(third) } = next(&mut a) else {
        panic!("it is open");
    };
    b.close(second).expect("it is open");
    a.close(third).expect("it is open");
    // That may be under way.
    let gone = (0..1000).any(|_| {
        let late = b.open(b"open", false, LONG);
        late.map(|resource| b.close(resource)).is_err_and(|error| error == SafError::NotExist)
    });
    assert!(gone, "the last has closed it");
    assert_eq!(b.open(b"", true, LONG), Err(SafError::InvalidParam));
    assert_eq!(b.open(&[7; 300], true, LONG), Err(SafError::NameTooLong));
}

fn readers_share_and_a_writer_is_alone(mut both: [SafLocks; 2]) {
    for (held, asked) in [(Shared, Shared), (Shared, Exclusive), (Exclusive, Shared), (Exclusive, Exclusive)]
    {
        let [ra, rb] = open_both(&mut both, b"modes");
        let [a, b] = &mut both;
        take(a, ra, held);
        let together = (held, asked) == (Shared, Shared);
        let expected = if together { SafStatus::Granted } else { SafStatus::NotQueued };
        let (_, status) = b.lock(rb, asked, NO_QUEUE, (0, LONG)).expect("it may");
        assert_eq!(status, expected, "{asked:?} beside {held:?}");
        a.close(ra).expect("it is open");
        b.close(rb).expect("it is open");
    }
}

fn who_is_in_the_way_is_told_and_who_waits_is_granted_at_the_unlock(mut both: [SafLocks; 2]) {
    let [ra, rb] = open_both(&mut both, b"told");
    let [a, b] = &mut both;
    let mine = take(a, ra, Exclusive);
    let theirs = b.lock_async(rb, Shared, PLAIN, (77, 42)).expect("it may");
    let SafCallback::Waiter { signal, lock, held, requested } = next(a) else { panic!("it is in the way") };
    assert_eq!((lock, held, requested), (mine, Exclusive, Shared));
    assert_eq!(signal, 42, "what came with the request");
    assert_eq!(b.dispatch(), None);
    let before = a.held(mine).and_then(|held| held.token().ok()).expect("it is held");
    a.unlock_async(mine, 5);
    assert_eq!(next(a), SafCallback::Unlocked { invocation: 5, result: Ok(()) });
    let granted = SafCallback::Granted { invocation: 77, lock: theirs, status: Ok(SafStatus::Granted) };
    assert_eq!(next(b), granted);
    assert!(b.held(theirs).is_some_and(|held| held.token().is_ok_and(|token| token >= before)));
    a.unlock_async(mine, 6);
    assert_eq!(next(a), SafCallback::Unlocked { invocation: 6, result: Err(SafError::NotExist) });
    assert_eq!((a.dispatch(), b.dispatch()), (None, None), "everything is told once");
}

fn requests_are_granted_in_the_order_of_asking(one: &dyn LockManager, other: &dyn LockManager) {
    let (mut first, mut b, mut a) = (handle(one), handle(other), handle(one));
    let (rf, rb, ra) = (open(&mut first, b"order"), open(&mut b, b"order"), open(&mut a, b"order"));
    let mine = take(&mut first, rf, Shared);
    let writer = b.lock_async(rb, Exclusive, PLAIN, (1, 0)).expect("it may");
    let SafCallback::Waiter { requested: Exclusive, .. } = next(&mut first) else {
        panic!("it is in the way")
    };
    let reader = a.lock_async(ra, Shared, PLAIN, (2, 0)).expect("it may");
    first.unlock(mine).expect("it is held");
    let granted =
        |invocation, lock| SafCallback::Granted { invocation, lock, status: Ok(SafStatus::Granted) };
    assert_eq!(next(&mut b), granted(1, writer));
    assert_eq!(a.dispatch_within(MOMENT), None, "whom it would share with is gone");
    b.unlock(writer).expect("it is held");
    assert_eq!(next(&mut a), granted(2, reader));
}

fn requests_end_with_the_status_that_the_service_says(mut both: [SafLocks; 2]) {
    let [ra, rb] = open_both(&mut both, b"status");
    let [a, b] = &mut both;
    take(a, ra, Exclusive);
    assert_eq!(a.lock(ra, Exclusive, PLAIN, (0, LONG)).map(|end| end.1), Ok(SafStatus::DuplicateExclusive));
    a.lock_async(ra, Exclusive, PLAIN, (4, 0)).expect("it may");
    let SafCallback::Granted { invocation: 4, status, .. } = next(a) else { panic!("it has ended") };
    assert_eq!(status, Ok(SafStatus::DuplicateExclusive));
    b.lock_async(rb, Shared, NO_QUEUE, (3, 0)).expect("it may");
    let SafCallback::Granted { invocation: 3, status, .. } = next(b) else { panic!("it has ended") };
    assert_eq!(status, Ok(SafStatus::NotQueued));
    assert_eq!(b.lock(rb, Shared, PLAIN, (0, Some(MOMENT))), Err(SafError::Timeout));
    let codes =
        [SafError::Timeout, SafError::TryAgain, SafError::BadHandle, SafError::NotExist].map(SafError::code);
    assert_eq!(codes, [5, 6, 9, 12]);
    assert_eq!((a.options(), Shared as i32, Exclusive as i32), (3, 1, 2));
}

fn what_is_given_up_is_in_nobodys_way(mut both: [SafLocks; 2]) {
    let [ra, rb] = open_both(&mut both, b"given up");
    let [a, b] = &mut both;
    let mine = take(a, ra, Shared);
    let waits = b.lock_async(rb, Exclusive, PLAIN, (1, 0)).expect("it may");
    let SafCallback::Waiter { .. } = next(a) else { panic!("it is in the way") };
    b.unlock(waits).expect("what waits is taken back");
    assert_eq!(b.unlock(waits), Err(SafError::NotExist));
    let also = take(b, rb, Shared);
    a.unlock(mine).expect("it is held");
    b.close(rb).expect("it is open");
    assert_eq!(b.unlock(also), Err(SafError::NotExist), "it went with its resource");
    take(a, ra, Exclusive);
    assert_eq!(b.dispatch(), None, "of what was taken back nothing is told");
}

fn a_deadlock_ends_with_its_status(mut both: [SafLocks; 2]) {
    let ([xa, xb], [ya, yb]) = (open_both(&mut both, b"x"), open_both(&mut both, b"y"));
    let [a, b] = &mut both;
    take(a, xa, Exclusive);
    take(b, yb, Exclusive);
    // Neither waits on a thread.
    a.lock_async(ya, Exclusive, PLAIN, (1, 0)).expect("it may");
    b.lock_async(xb, Exclusive, PLAIN, (2, 0)).expect("it may");
    let denied = |callback: Option<SafCallback>| {
        matches!(callback, Some(SafCallback::Granted { status: Ok(SafStatus::Deadlock), .. }))
    };
    let waits = PATIENCE.as_millis() / MOMENT.as_millis();
    let found = (0..waits).any(|_| denied(a.dispatch_within(MOMENT)) || denied(b.dispatch_within(MOMENT)));
    assert!(found, "one of them is denied");
}

fn an_orphan_stays_until_it_is_purged(one: &dyn LockManager, other: &dyn LockManager) {
    for mode in [Shared, Exclusive] {
        let (mut a, mut b) = (handle(one), handle(other));
        let (ra, rb) = (open(&mut a, b"orphan"), open(&mut b, b"orphan"));
        let (_, status) = a.lock(ra, mode, ORPHAN, (0, LONG)).expect("it may");
        assert_eq!(status, SafStatus::Granted);
        let early = b.lock_async(rb, Exclusive, PLAIN, (1, 0)).expect("it may");
        drop(a);
        // Also of one that waited before it was one.
        let (lock, status) = (early, Ok(SafStatus::Orphaned));
        assert_eq!(next(&mut b), SafCallback::Granted { invocation: 1, lock, status });
        assert_eq!(b.lock(rb, Exclusive, PLAIN, (0, LONG)).map(|end| end.1), Ok(SafStatus::Orphaned));
        assert_eq!(b.lock(rb, Exclusive, NO_QUEUE, (0, LONG)).map(|end| end.1), Ok(SafStatus::NotQueued));
        if mode == Shared {
            take(&mut b, rb, Shared);
        }
        b.close(rb).expect("it is open");
        let rb = b.open(b"orphan", false, LONG).expect("the orphan keeps it");
        assert_eq!(b.purge(rb), Ok(1));
        assert_eq!(b.purge(rb), Ok(0));
        take(&mut b, rb, Exclusive);
    }
}

fn who_does_not_wait_is_woken(mut both: [SafLocks; 2]) {
    let [ra, rb] = open_both(&mut both, b"woken");
    let [a, b] = &mut both;
    let mine = take(a, ra, Exclusive);
    let bell = Arc::<Bell>::default();
    let rung = Arc::clone(&bell);
    b.on_callback(move || Arc::clone(&rung).wake());
    let theirs = b.lock_async(rb, Exclusive, PLAIN, (1, 0)).expect("it may");
    assert_eq!(b.dispatch(), None);
    assert!(b.next_look().is_some_and(|look| look <= Duration::from_secs(1)), "something waits");
    let SafCallback::Waiter { .. } = next(a) else { panic!("it is in the way") };
    a.unlock(mine).expect("it is held");
    let granted = SafCallback::Granted { invocation: 1, lock: theirs, status: Ok(SafStatus::Granted) };
    loop {
        assert!(bell.wait(), "what can be dispatched wakes");
        if let Some(callback) = b.dispatch() {
            return assert_eq!(callback, granted);
        }
    }
}
