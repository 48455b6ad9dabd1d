use super::*;
use crate::LocalLocks;

fn two() -> (SafLocks, SafLocks) {
    let manager = LocalLocks::default();
    let handle = || SafLocks::initialize(&manager, "saf").unwrap();
    (handle(), handle())
}

const PLAIN: SafFlags = SafFlags { no_queue: false, orphan: false };
const NO_QUEUE: SafFlags = SafFlags { no_queue: true, orphan: false };

#[test]
fn who_waits_is_granted_at_the_unlock_and_the_holder_is_told_with_its_signal() {
    let (mut a, mut b) = two();
    assert_eq!(a.open(b"r", false, None), Err(SafError::NotExist));
    let (ra, rb) = (a.open(b"r", true, None).unwrap(), b.open(b"r", false, None).unwrap());
    let (mine, status) = a.lock(ra, SafMode::Exclusive, PLAIN, (1, None)).unwrap();
    assert_eq!(status as i32, 1);
    let theirs = b.lock_async(rb, SafMode::Shared, PLAIN, (77, 42)).unwrap();
    let (held, requested) = (SafMode::Exclusive, SafMode::Shared);
    assert_eq!(a.dispatch(), Some(SafCallback::Waiter { signal: 42, lock: mine, held, requested }));
    assert_eq!(b.dispatch(), None);
    a.unlock(mine).unwrap();
    let granted = SafCallback::Granted { invocation: 77, lock: theirs, status: Ok(SafStatus::Granted) };
    assert_eq!((b.dispatch(), b.dispatch()), (Some(granted), None));
    assert_eq!(a.unlock(mine), Err(SafError::NotExist));
}

#[test]
fn refusals_have_the_statuses_and_codes_of_the_service() {
    let (mut a, mut b) = two();
    let (ra, rb) = (a.open(b"r", true, None).unwrap(), b.open(b"r", true, None).unwrap());
    a.lock(ra, SafMode::Exclusive, PLAIN, (0, None)).unwrap();
    let again = a.lock(ra, SafMode::Exclusive, PLAIN, (0, None)).unwrap().1;
    assert_eq!((again, again as i32), (SafStatus::DuplicateExclusive, 6));
    assert_eq!(b.lock(rb, SafMode::Shared, NO_QUEUE, (0, None)).unwrap().1 as i32, 3);
    let late = b.lock(rb, SafMode::Shared, PLAIN, (0, Some(Duration::from_millis(10))));
    assert_eq!(late.unwrap_err().code(), 5);
    a.close(ra).unwrap();
    assert_eq!(a.close(ra).unwrap_err().code(), 9);
    assert_eq!(b.lock(rb, SafMode::Shared, PLAIN, (0, None)).unwrap().1, SafStatus::Granted);
    b.locks_max = 1;
    assert_eq!(b.lock(rb, SafMode::Shared, PLAIN, (0, None)).unwrap().1 as i32, 5);
    assert_eq!(b.open(&[7; 300], true, None).unwrap_err().code(), 13);
}

#[test]
fn an_orphan_is_in_the_way_until_it_is_purged() {
    let (mut a, mut b) = two();
    let (ra, rb) = (a.open(b"r", true, None).unwrap(), b.open(b"r", true, None).unwrap());
    let orphan = SafFlags { orphan: true, ..PLAIN };
    a.lock(ra, SafMode::Exclusive, orphan, (0, None)).unwrap();
    drop(a);
    assert_eq!(b.lock(rb, SafMode::Shared, PLAIN, (0, None)).unwrap().1, SafStatus::Orphaned);
    assert_eq!(b.purge(rb), Ok(1));
    assert_eq!(b.lock(rb, SafMode::Shared, PLAIN, (0, None)).unwrap().1, SafStatus::Granted);
}

#[test]
fn all_that_wait_for_one_resource_learn_of_an_orphan_by_one_look() {
    let (mut a, mut b) = two();
    let (ra, rb) = (a.open(b"r", true, None).unwrap(), b.open(b"r", true, None).unwrap());
    a.lock(ra, SafMode::Shared, SafFlags { orphan: true, ..PLAIN }, (0, None)).unwrap();
    drop(a);
    let shared = b.lock(rb, SafMode::Shared, PLAIN, (0, None)).unwrap();
    assert_eq!(shared.1, SafStatus::Granted, "an orphan that excludes nothing is in nobody's way");
    b.unlock(shared.0).unwrap();
    let wants = b.lock_async(rb, SafMode::Exclusive, PLAIN, (1, 0)).unwrap();
    let behind = b.lock_async(rb, SafMode::Shared, PLAIN, (2, 0)).unwrap();
    let orphaned = SafCallback::Granted { invocation: 1, lock: wants, status: Ok(SafStatus::Orphaned) };
    assert_eq!(b.dispatch_within(Duration::from_secs(10)), Some(orphaned));
    let granted = SafCallback::Granted { invocation: 2, lock: behind, status: Ok(SafStatus::Granted) };
    assert_eq!(b.dispatch_within(Duration::from_secs(10)), Some(granted), "it waited for the other alone");
}
