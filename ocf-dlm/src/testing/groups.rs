//! Groups of locks.

use super::{MOMENT, PATIENCE, WAIT, block_on};
use crate::client::{LockError, Wait};
use crate::group::{GroupLock, LockGroup};
use crate::manager::LockOwner;
use crate::mode::Mode;
use crate::status::RequestError;
use std::thread;

pub(super) fn check(a: &dyn LockOwner, b: &dyn LockOwner) {
    a_group_is_held_as_it_was_listed(a, b);
    a_group_is_held_whole_or_not_at_all(a, b);
    groups_that_share_locks_never_wait_in_a_circle(a, b);
}

const SPACE: &str = "conformance.groups";

const fn ex(name: &[u8]) -> GroupLock<'_> {
    GroupLock { space: SPACE, name, mode: Mode::Ex }
}

fn a_group_is_held_as_it_was_listed(a: &dyn LockOwner, b: &dyn LockOwner) {
    let listed = [
        GroupLock { mode: Mode::Pr, ..ex(b"z") },
        ex(b"a"),
        GroupLock { space: "conformance.group", ..ex(b"a") },
    ];
    for awaited in [false, true] {
        let group = if awaited {
            block_on(Box::pin(LockGroup::lock_later(a, &listed, WAIT)))
        } else {
            LockGroup::lock(a, &listed, WAIT)
        };
        let group = group.expect("free");
        let modes: Vec<Mode> = group.locks().iter().map(|lock| lock.mode()).collect();
        assert_eq!((modes.as_slice(), group.check()), ([Mode::Pr, Mode::Ex, Mode::Ex].as_slice(), Ok(())));
        let beside = b.lock(SPACE, b"z", Mode::Pr, Wait::No).map(|lock| lock.mode());
        assert_eq!(beside, Ok(Mode::Pr), "the first is the one that was listed first");
        let refused = b.lock("conformance.group", b"a", Mode::Cr, Wait::No).map(drop);
        assert_eq!(refused, Err(LockError::WouldBlock));
        group.release().expect("held");
    }
    let twice = LockGroup::lock(a, &[ex(b"a"), GroupLock { mode: Mode::Nl, ..ex(b"a") }], WAIT).map(drop);
    assert_eq!(twice, Err(RequestError::Busy.into()));
    let none = LockGroup::lock(a, &[], Wait::No).expect("nobody is in the way");
    assert!(none.locks().is_empty());
    none.release().expect("nothing is held");
}

fn a_group_is_held_whole_or_not_at_all(a: &dyn LockOwner, b: &dyn LockOwner) {
    let wanted = [ex(b"1"), ex(b"2"), ex(b"3")];
    let held = b.lock(SPACE, b"2", Mode::Pr, WAIT).expect("free");
    for (wait, error) in [(Wait::No, LockError::WouldBlock), (Wait::For(MOMENT), LockError::TimedOut)] {
        assert_eq!(LockGroup::lock(a, &wanted, wait).map(drop), Err(error));
        for name in [b"1", b"3"] {
            drop(b.lock(SPACE, name, Mode::Ex, WAIT).expect("it is not held, nor is it waited for"));
        }
    }
    thread::scope(|scope| {
        let waiter = scope.spawn(|| LockGroup::lock(a, &wanted, WAIT).map(|group| group.check()));
        assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
        drop(held);
        assert_eq!(waiter.join().expect("it ends"), Ok(Ok(())));
    });
    let again = LockGroup::lock(b, &wanted, WAIT).expect("dropping it has released all");
    let mut single = again.into_locks();
    drop(single.remove(1));
    drop(a.lock(SPACE, b"2", Mode::Ex, WAIT).expect("it is released by itself"));
    assert!(single.iter().all(|lock| lock.check().is_ok()));
}

fn groups_that_share_locks_never_wait_in_a_circle(a: &dyn LockOwner, b: &dyn LockOwner) {
    const ROUNDS: usize = 20;
    let ends: Vec<Result<(), LockError>> = thread::scope(|scope| {
        let take = |who: &dyn LockOwner, listed: [&[u8]; 3]| {
            let wanted = listed.map(ex);
            (0..ROUNDS).try_for_each(|_| LockGroup::lock(who, &wanted, WAIT)?.release())
        };
        let one = scope.spawn(move || take(a, [b"p", b"q", b"r"]));
        let other = scope.spawn(move || take(b, [b"r", b"q", b"p"]));
        [one, other].map(|thread| thread.join().expect("it ends")).into()
    });
    assert_eq!(ends, [Ok(()), Ok(())], "none is denied");
}
