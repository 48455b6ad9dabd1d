//! Conversions that are not waited for.

use super::{MOMENT, PATIENCE, WAIT, awaited, block_on};
use crate::client::{LockError, Wait};
use crate::manager::{HeldLock, LockOwner};
use crate::mode::Mode;
use crate::value::ValueBlock;

pub(super) fn check(a: &dyn LockOwner, b: &dyn LockOwner) {
    a_conversion_is_awaited(a, b);
    a_conversion_that_is_not_granted_gives_the_lock_back_as_it_was(a, b);
    of_two_conversions_that_wait_for_each_other_one_goes_on(a, b);
    a_conversion_moves_the_value_by_the_table(a, b);
    a_conversion_that_is_dropped_leaves_nothing(a, b);
    a_part_is_converted_below_the_whole(a, b);
}

fn lock(who: &dyn LockOwner, name: &[u8], mode: Mode) -> Box<dyn HeldLock> {
    who.lock("conformance.conversions", name, mode, WAIT).expect("nobody is in the way")
}

/// Held as it says.
fn is_held(lock: &dyn HeldLock, mode: Mode) {
    assert_eq!((lock.mode(), lock.check()), (mode, Ok(())));
}

fn a_conversion_is_awaited(a: &dyn LockOwner, b: &dyn LockOwner) {
    let (mine, theirs) = (lock(a, b"await", Mode::Pr), lock(b, b"await", Mode::Pr));
    let before = mine.token().expect("held");
    let conversion = mine.convert_later(Mode::Ex, None, Wait::Forever);
    assert_eq!(theirs.wanted(PATIENCE), Some(Mode::Ex), "it is asked for before anybody awaits it");
    let (mine, end) = awaited(conversion, || drop(theirs));
    assert_eq!(end, Ok(()));
    is_held(&*mine, Mode::Ex);
    assert!(mine.token().expect("held") > before, "a writer has a token of its own");
    let refused = b.lock("conformance.conversions", b"await", Mode::Pr, Wait::No).map(drop);
    assert_eq!(refused, Err(LockError::WouldBlock), "it is as strong as it says");
    // What needs nobody ends, too.
    let (mine, end) = block_on(mine.convert_later(Mode::Cr, None, Wait::Forever));
    assert_eq!(end, Ok(()));
    is_held(&*mine, Mode::Cr);
    drop(lock(b, b"await", Mode::Pw));
}

fn a_conversion_that_is_not_granted_gives_the_lock_back_as_it_was(a: &dyn LockOwner, b: &dyn LockOwner) {
    let (mine, theirs) = (lock(a, b"deny", Mode::Pr), lock(b, b"deny", Mode::Pr));
    let before = mine.token().expect("held");
    let (mine, end) = mine.convert_later(Mode::Ex, None, Wait::No).wait();
    assert_eq!(end, Err(LockError::WouldBlock));
    is_held(&*mine, Mode::Pr);
    let (mine, end) = mine.convert_later(Mode::Ex, None, Wait::For(MOMENT)).wait();
    assert_eq!(end, Err(LockError::TimedOut));
    is_held(&*mine, Mode::Pr);
    let mut conversion = mine.convert_later(Mode::Ex, None, Wait::Forever);
    conversion.cancel();
    conversion.cancel();
    let (mine, end) = block_on(conversion);
    assert_eq!(end, Err(LockError::Cancelled));
    is_held(&*mine, Mode::Pr);
    assert_eq!(mine.token(), Ok(before), "nothing has changed");
    // What was taken back is in nobody's way.
    drop(lock(b, b"deny", Mode::Pr));
    drop(theirs);
    // Whichever comes first, the grant or the cancel, the lock is what it says it is.
    let mut conversion = mine.convert_later(Mode::Ex, None, WAIT);
    conversion.cancel();
    let (mine, end) = conversion.wait();
    is_held(&*mine, if end.is_ok() { Mode::Ex } else { Mode::Pr });
    assert!(matches!(end, Ok(()) | Err(LockError::Cancelled)), "{end:?}");
    let (mine, end) = mine.convert_later(Mode::Ex, None, WAIT).wait();
    assert_eq!(end, Ok(()));
    is_held(&*mine, Mode::Ex);
}

fn of_two_conversions_that_wait_for_each_other_one_goes_on(a: &dyn LockOwner, b: &dyn LockOwner) {
    let (mine, theirs) = (lock(a, b"both", Mode::Pr), lock(b, b"both", Mode::Pr));
    let first = mine.convert_later(Mode::Ex, None, WAIT);
    assert_eq!(theirs.wanted(PATIENCE), Some(Mode::Ex));
    let (theirs, end) = theirs.convert_later(Mode::Ex, None, WAIT).wait();
    assert_eq!(end, Err(LockError::Deadlock));
    is_held(&*theirs, Mode::Pr);
    let (theirs, end) = theirs.convert_later(Mode::Nl, None, WAIT).wait();
    assert_eq!(end, Ok(()));
    is_held(&*theirs, Mode::Nl);
    let (mine, end) = first.wait();
    assert_eq!(end, Ok(()));
    is_held(&*mine, Mode::Ex);
}

fn a_conversion_moves_the_value_by_the_table(a: &dyn LockOwner, b: &dyn LockOwner) {
    let block = |number| Some(ValueBlock::zero(32).with_number(number));
    let number = |held: &dyn HeldLock| held.value().map(ValueBlock::number);
    let (writer, reader) = (lock(a, b"value", Mode::Ex), lock(b, b"value", Mode::Nl));
    let (writer, end) = writer.convert_later(Mode::Pr, block(3), WAIT).wait();
    assert_eq!((end, number(&*writer)), (Ok(()), Some(3)), "down from EX writes");
    let (reader, end) = reader.convert_later(Mode::Pr, None, WAIT).wait();
    assert_eq!((end, number(&*reader)), (Ok(()), Some(3)), "up reads");
    let (reader, end) = reader.convert_later(Mode::Ex, block(4), Wait::No).wait();
    assert_eq!(
        (end, number(&*reader)),
        (Err(LockError::WouldBlock), Some(3)),
        "what is denied writes nothing"
    );
    let (reader, end) = reader.convert_later(Mode::Cr, block(5), WAIT).wait();
    assert_eq!((end, number(&*reader)), (Ok(()), Some(3)), "down from PR writes nothing");
    let (writer, end) = writer.convert_later(Mode::Ex, None, Wait::No).wait();
    assert_eq!((end, number(&*writer)), (Err(LockError::WouldBlock), Some(3)));
    drop(reader);
    let (writer, end) = writer.convert_later(Mode::Pw, block(6), WAIT).wait();
    assert_eq!((end, number(&*writer)), (Ok(()), Some(3)), "up reads, whatever is given");
    let (writer, end) = writer.convert_later(Mode::Nl, block(7), WAIT).wait();
    assert_eq!((end, number(&*writer)), (Ok(()), Some(7)), "down from PW writes");
    assert_eq!(number(&*lock(b, b"value", Mode::Ex)), Some(7));
    drop(writer);
}

fn a_conversion_that_is_dropped_leaves_nothing(a: &dyn LockOwner, b: &dyn LockOwner) {
    let (mine, theirs) = (lock(a, b"drop", Mode::Pr), lock(b, b"drop", Mode::Pr));
    let conversion = mine.convert_later(Mode::Ex, None, Wait::Forever);
    assert_eq!(theirs.wanted(PATIENCE), Some(Mode::Ex));
    drop((conversion, theirs));
    // Neither the lock nor its conversion is in the way, as soon as all have heard.
    drop(lock(b, b"drop", Mode::Ex));
    // Also one that was granted, and that nobody took.
    drop(lock(a, b"drop", Mode::Pr).convert_later(Mode::Ex, None, WAIT));
    drop(lock(b, b"drop", Mode::Ex));
}

fn a_part_is_converted_below_the_whole(a: &dyn LockOwner, b: &dyn LockOwner) {
    let (mine, theirs) = (lock(a, b"tree", Mode::Cw), lock(b, b"tree", Mode::Cw));
    let part = mine.lock_below(b"1", Mode::Pr, WAIT).expect("free");
    let (part, end) = part.convert_later(Mode::Ex, None, WAIT).wait();
    assert_eq!(end, Ok(()));
    let refused = theirs.lock_below(b"1", Mode::Pr, Wait::No).map(drop);
    assert_eq!(refused, Err(LockError::WouldBlock));
    drop(part);
    drop(theirs.lock_below(b"1", Mode::Pr, WAIT).expect("it was released"));
}
