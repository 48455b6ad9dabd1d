//! Owners that end, and locks that outlive them.

use super::{MOMENT, PATIENCE, WAIT, awaited};
use crate::client::{LockError, Wait};
use crate::manager::{LockManager, LockOwner, LockTerms};
use crate::mode::Mode;

pub(super) fn check(one: &dyn LockManager, other: &dyn LockManager) {
    who_has_a_lock_is_seen(one, other);
    an_owner_that_ends_leaves_only_what_is_to_last(one, other);
    what_an_ended_owner_waits_for_ends(one, other);
}

const SPACE: &str = "conformance.owners";

fn owner(of: &dyn LockManager) -> Box<dyn LockOwner> {
    of.owner().expect("an owner")
}

fn who_has_a_lock_is_seen(one: &dyn LockManager, other: &dyn LockManager) {
    let (a, b) = (owner(one), owner(other));
    let seen = || a.look(SPACE, b"seen", PATIENCE).expect("it may be looked at");
    assert_eq!(seen(), [], "nobody has it");
    let held = b.lock(SPACE, b"seen", Mode::Pr, WAIT).expect("free");
    let waits = a.request(SPACE, b"seen", Mode::Ex, WAIT).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
    let all: Vec<_> = seen().iter().map(|lock| (lock.held, lock.asked, lock.orphan)).collect();
    assert_eq!(
        all,
        [(Some(Mode::Pr), None, false), (None, Some(Mode::Ex), false)],
        "who holds, then who waits"
    );
    assert_eq!(a.purge(SPACE, b"seen", PATIENCE), Ok(0), "no orphan is there");
    held.check().expect("what has an owner is not purged");
    drop((waits, held));
}

fn an_owner_that_ends_leaves_only_what_is_to_last(one: &dyn LockManager, other: &dyn LockManager) {
    let (a, b) = (owner(one), owner(other));
    let lasting = LockTerms { wait: WAIT, lasting: true, ..LockTerms::default() };
    let lasts = a.request_with(SPACE, b"lasts", Mode::Ex, lasting).and_then(|asked| asked.wait());
    let lasts = lasts.expect("free");
    let plain = a.lock(SPACE, b"plain", Mode::Pr, WAIT).expect("free");
    a.end();
    assert_eq!(
        (lasts.check(), plain.check()),
        (Err(LockError::Lost), Err(LockError::Lost)),
        "no owner any more"
    );
    drop(b.lock(SPACE, b"plain", Mode::Ex, WAIT).expect("it is released"));
    drop((lasts, plain));
    let early = b.lock(SPACE, b"lasts", Mode::Pr, Wait::For(MOMENT)).map(drop);
    assert_eq!(early, Err(LockError::TimedOut), "it is held still, although its guard is gone");
    // Its master hears of it a little later.
    let look = || b.look(SPACE, b"lasts", PATIENCE).expect("it may be looked at");
    let is_orphan = || look().iter().any(|lock| lock.orphan && lock.held == Some(Mode::Ex));
    assert!((0..1000).any(|_| is_orphan()), "it has no owner");
    let waits = b.request(SPACE, b"lasts", Mode::Pr, Wait::Forever).expect("it may be asked for");
    // A lock that nobody waits for goes with its value when it is purged.
    let is_asked_for = || look().iter().any(|lock| lock.asked == Some(Mode::Pr));
    assert!((0..1000).any(|_| is_asked_for()), "its master knows of the request");
    let purged = || assert_eq!(owner(one).purge(SPACE, b"lasts", PATIENCE), Ok(1));
    let next = awaited(waits, purged).expect("the orphan was purged");
    assert_eq!(next.value(), None, "it could write the value block");
}

fn what_an_ended_owner_waits_for_ends(one: &dyn LockManager, other: &dyn LockManager) {
    let (a, b) = (owner(one), owner(other));
    let held = b.lock(SPACE, b"waits", Mode::Ex, WAIT).expect("free");
    let waits = a.request(SPACE, b"waits", Mode::Ex, Wait::Forever).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
    let end = awaited(waits, || a.end()).map(drop);
    assert_eq!(end, Err(LockError::Lost));
    drop(held);
    drop(b.lock(SPACE, b"waits", Mode::Ex, WAIT).expect("nobody waits any more"));
}
