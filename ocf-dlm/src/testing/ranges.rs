//! Byte ranges.
#![expect(clippy::disallowed_methods, reason = "threads of a test wait for each other")]

use super::{MOMENT, PATIENCE, WAIT, awaited, block_on};
use crate::client::{LockError, Wait};
use crate::manager::LockOwner;
use crate::object::ObjectRanges;
use crate::range::{Range, RangeKind};
use crate::status::RequestError;
use std::thread;
use std::time::Instant;

const SPACE: &str = "conformance.ranges";

fn range(first: u64, last: u64) -> Range {
    Range::new(first, last).expect("not empty")
}

fn open(who: &dyn LockOwner, name: &[u8]) -> Box<dyn ObjectRanges> {
    who.ranges(SPACE, name).expect("nobody else of this owner has it")
}

fn held(who: &dyn ObjectRanges) -> Vec<(u64, u64, RangeKind)> {
    let held = who.held_ranges().expect("nothing is lost");
    held.into_iter().map(|(range, kind)| (range.first(), range.last(), kind)).collect()
}

pub(super) fn check(a: &dyn LockOwner, b: &dyn LockOwner) {
    ranges_split_and_join(a, b);
    what_is_waited_for_is_had_or_nothing_changed(a, b);
    one_owner_does_one_thing_at_a_time(a, b);
    tokens_grow_with_each_grant_to_a_writer(a, b);
    bytes_are_awaited_and_taken_back(a, b);
    deadlocks_end(a, b, (b"one", b"one"));
    deadlocks_end(a, b, (b"this", b"that"));
}

fn ranges_split_and_join(a: &dyn LockOwner, b: &dyn LockOwner) {
    use RangeKind::{Exclusive, Shared};
    let (mine, theirs) = (open(a, b"split"), open(b, b"split"));
    let again = a.ranges(SPACE, b"split").map(drop);
    assert_eq!(again, Err(RequestError::Busy.into()), "an owner has an object once");
    assert_eq!(held(&*mine), []);
    mine.lock_range(range(0, 99), Exclusive, WAIT).expect("free");
    assert_eq!(theirs.test_range(range(90, 200), Shared), Ok(Some((range(0, 99), Exclusive))));
    assert_eq!(mine.test_range(range(90, 200), Exclusive), Ok(None), "nobody excludes itself");
    mine.unlock_range(range(40, 59)).expect("held");
    assert_eq!(held(&*mine), [(0, 39, Exclusive), (60, 99, Exclusive)]);
    theirs.lock_range(range(40, 59), Shared, WAIT).expect("it was given up");
    assert_eq!(theirs.lock_range(range(39, 59), Shared, Wait::No), Err(LockError::WouldBlock));
    mine.lock_range(range(10, 59), Shared, WAIT).expect("shared beside shared");
    assert_eq!(held(&*mine), [(0, 9, Exclusive), (10, 59, Shared), (60, 99, Exclusive)]);
    theirs.lock_range(range(10, 59), Shared, WAIT).expect("it is shared now");
    theirs.unlock_range(Range::WHOLE).expect("given up");
    assert_eq!(held(&*theirs), []);
    mine.lock_range(range(10, 59), Exclusive, WAIT).expect("nobody else has it");
    assert_eq!(held(&*mine), [(0, 99, Exclusive)], "neighbours are joined");
    let last = range(u64::MAX, u64::MAX);
    mine.lock_range(last, Shared, WAIT).expect("the last byte");
    drop(mine);
    theirs.lock_range(Range::WHOLE, Exclusive, WAIT).expect("what is dropped is given up");
    drop(open(a, b"split"));
}

fn what_is_waited_for_is_had_or_nothing_changed(a: &dyn LockOwner, b: &dyn LockOwner) {
    use RangeKind::{Exclusive, Shared};
    let (mine, theirs) = (open(a, b"wait"), open(b, b"wait"));
    mine.lock_range(range(50, 60), Shared, WAIT).expect("free");
    theirs.lock_range(range(0, 10), Shared, WAIT).expect("free");
    let began = Instant::now();
    assert_eq!(theirs.lock_range(range(5, 55), Exclusive, Wait::For(MOMENT)), Err(LockError::TimedOut));
    assert!(began.elapsed() >= MOMENT);
    assert_eq!(held(&*theirs), [(0, 10, Shared)], "it has what it had");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| theirs.lock_range(range(5, 55), Exclusive, WAIT));
        thread::sleep(MOMENT);
        assert!(!waiter.is_finished(), "it is in the way");
        mine.unlock_range(range(50, 55)).expect("held");
        assert_eq!(waiter.join().expect("it ends"), Ok(()));
    });
    assert_eq!(held(&*theirs), [(0, 4, Shared), (5, 55, Exclusive)]);
    assert_eq!(held(&*mine), [(56, 60, Shared)]);
}

fn one_owner_does_one_thing_at_a_time(a: &dyn LockOwner, b: &dyn LockOwner) {
    use RangeKind::Exclusive;
    let (mine, theirs) = (open(a, b"turns"), open(b, b"turns"));
    mine.lock_range(range(0, 9), Exclusive, WAIT).expect("free");
    thread::scope(|scope| {
        let first = scope.spawn(|| theirs.lock_range(range(0, 9), Exclusive, WAIT));
        let began = Instant::now();
        // Free, until the other thread waits.
        while theirs.lock_range(range(20, 29), Exclusive, Wait::No) != Err(LockError::WouldBlock) {
            assert!(began.elapsed() < PATIENCE, "it has to wait for the first");
            thread::yield_now();
        }
        let timed = theirs.lock_range(range(20, 29), Exclusive, Wait::For(MOMENT));
        assert_eq!(timed, Err(LockError::TimedOut));
        let second = scope.spawn(|| theirs.lock_range(range(30, 39), Exclusive, WAIT));
        mine.unlock_range(Range::WHOLE).expect("held");
        let ends = [first, second].map(|thread| thread.join().expect("it ends"));
        assert_eq!(ends, [Ok(()), Ok(())], "the second follows the first");
    });
}

fn tokens_grow_with_each_grant_to_a_writer(a: &dyn LockOwner, b: &dyn LockOwner) {
    use RangeKind::{Exclusive, Shared};
    let (mine, theirs) = (open(a, b"token"), open(b, b"token"));
    let mut last = None;
    for bytes in [range(0, 9), range(0, 9), range(5, 20)] {
        for who in [&mine, &theirs] {
            who.lock_range(bytes, Exclusive, WAIT).expect("free");
            let token = Some(who.token().expect("held"));
            assert!(token > last, "{token:?} after {last:?}");
            last = token;
            who.unlock_range(Range::WHOLE).expect("held");
        }
    }
    // Two writers of an object at a time have one each, and who gets more gets a greater one.
    mine.lock_range(range(0, 9), Exclusive, WAIT).expect("free");
    theirs.try_lock_range(range(10, 19), Exclusive).expect("free");
    let (first, second) = (mine.token().expect("held"), theirs.token().expect("held"));
    assert!(Some(first) > last && second > first);
    mine.try_lock_range(range(20, 29), Exclusive).expect("free");
    let third = mine.token().expect("held");
    assert!(third > second);
    // What makes nothing stronger is no grant to a writer.
    mine.try_lock_range(range(0, 9), Shared).expect("down");
    assert_eq!(mine.token(), Ok(third));
    assert_eq!(theirs.try_lock_range(range(0, 29), Shared), Err(LockError::WouldBlock));
    assert_eq!(theirs.token(), Ok(second), "what is denied gives none");
    theirs.lock_range(range(0, 9), Shared, WAIT).expect("beside a reader");
    assert!(
        theirs.token().expect("held") >= third,
        "who reads has a token not below that of any writer before"
    );
    drop(mine);
    // The object goes on where it was, also when nobody has it.
    drop(theirs);
    let again = open(a, b"token");
    again.lock_range(range(0, 0), Exclusive, WAIT).expect("free");
    assert!(again.token().expect("held") > third);
}

fn bytes_are_awaited_and_taken_back(a: &dyn LockOwner, b: &dyn LockOwner) {
    use RangeKind::{Exclusive, Shared};
    let (mine, theirs) = (open(a, b"await"), open(b, b"await"));
    block_on(mine.lock_range_later(range(0, 9), Exclusive, WAIT).expect("it may be asked for"))
        .expect("free");
    theirs.try_lock_range(range(20, 29), Shared).expect("free");
    let refused = match theirs.lock_range_later(range(0, 29), Exclusive, Wait::No) {
        // Who masters it says so at once.
        Err(error) => Err(error),
        Ok(request) => block_on(request),
    };
    assert_eq!(refused, Err(LockError::WouldBlock));
    let waiting =
        theirs.lock_range_later(range(0, 29), Exclusive, Wait::Forever).expect("it may be asked for");
    let busy = Err(LockError::from(RequestError::Busy));
    assert_eq!(theirs.lock_range(range(50, 59), Shared, WAIT), busy, "one at a time");
    assert_eq!(theirs.unlock_range(Range::WHOLE), busy);
    assert_eq!(theirs.lock_range_later(range(50, 59), Shared, WAIT).map(drop), busy);
    assert_eq!(held(&*theirs), [(20, 29, Shared)], "it has what it had");
    drop(waiting);
    theirs.lock_range(range(50, 59), Shared, WAIT).expect("what was taken back is over");
    assert_eq!(held(&*theirs), [(20, 29, Shared), (50, 59, Shared)]);
    mine.lock_range(range(30, 39), Exclusive, WAIT).expect("what was taken back is in nobody's way");
    let waiting = theirs.lock_range_later(range(0, 29), Exclusive, WAIT).expect("it may be asked for");
    assert_eq!(awaited(waiting, || mine.unlock_range(range(0, 9)).expect("held")), Ok(()));
    assert_eq!(held(&*theirs), [(0, 29, Exclusive), (50, 59, Shared)]);
    let late = mine.lock_range_later(range(0, 0), Shared, Wait::For(MOMENT)).expect("it may be asked for");
    assert_eq!(late.wait(), Err(LockError::TimedOut));
    // Given up with all that is under way.
    drop(theirs.lock_range_later(range(30, 39), Exclusive, Wait::Forever).expect("it may be asked for"));
    drop((theirs, mine));
    open(a, b"await").lock_range(Range::WHOLE, Exclusive, WAIT).expect("all was given up");
    drop(open(b, b"await"));
}

fn deadlocks_end(a: &dyn LockOwner, b: &dyn LockOwner, (one, other): (&[u8], &[u8])) {
    let same = one == other;
    let objects = |who: &dyn LockOwner| {
        let first = open(who, one);
        let second = if same { None } else { Some(open(who, other)) };
        (first, second)
    };
    let (x, y) = (objects(a), objects(b));
    let lock = |who: &(Box<dyn ObjectRanges>, Option<Box<dyn ObjectRanges>>), second: bool| {
        let bytes = if second { range(10, 19) } else { range(0, 9) };
        let of = who.1.as_ref().filter(|_| second).unwrap_or(&who.0);
        of.lock_range(bytes, RangeKind::Exclusive, WAIT)
    };
    lock(&x, false).expect("free");
    lock(&y, true).expect("free");
    let ends: Vec<Result<(), LockError>> = thread::scope(|scope| {
        // Who is denied gives up what it has, and the other goes on.
        let one = scope.spawn(move || {
            let end = lock(&x, true);
            drop(x);
            end
        });
        let other = scope.spawn(move || {
            let end = lock(&y, false);
            drop(y);
            end
        });
        [one, other].into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    let denied = ends.iter().filter(|end| **end == Err(LockError::Deadlock)).count();
    let granted = ends.iter().filter(|end| end.is_ok()).count();
    assert_eq!((denied, granted), (1, 1), "{ends:?}");
}
