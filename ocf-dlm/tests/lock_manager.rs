//! Goal: the lock manager of one process keeps what `LockManager` promises. Method: the suite for those who implement it.

use ocf_dlm::{Config, LocalLocks, LockError, LockManager, Mode, Wait};

#[test]
fn the_locks_of_one_process_are_a_lock_manager() {
    let locks = LocalLocks::default();
    ocf_dlm::testing::check(&[&locks, &locks.clone()]);
}

#[test]
fn what_may_not_act_gives_nothing_and_what_was_held_is_lost() {
    let locks = LocalLocks::default();
    let owner = locks.owner().expect("an owner");
    let held = owner.lock("space", b"x", Mode::Ex, Wait::No).expect("free");
    let space = locks.open("space", Config::default()).expect("it is open");
    space.set_primary(false);
    assert_eq!((held.check(), held.token().err()), (Err(LockError::Lost), Some(LockError::Lost)));
    assert_eq!(owner.lock("space", b"y", Mode::Nl, Wait::No).map(drop), Err(LockError::Lost));
    assert_eq!(held.release(None), Err(LockError::Lost));
}

#[test]
fn a_lock_that_an_operator_released_is_lost() {
    let locks = LocalLocks::default();
    let owner = locks.owner().expect("an owner");
    let mut held = owner.lock("space", b"x", Mode::Ex, Wait::No).expect("free");
    let space = locks.open("space", Config::default()).expect("it is open");
    let found = space.resource_state(b"x").expect("a root").expect("it is locked");
    space.force_release(found.locks[0].lock, "its holder does not answer").expect("it is there");
    assert_eq!(held.convert(Mode::Cr, None, Wait::No), Err(LockError::Lost));
}
