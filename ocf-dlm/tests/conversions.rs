//! Goal: a conversion that is not waited for never loses its guard and never leaves the lock in a mode that the guard does not say.
//!
//! Method: one process, the public interface. Threads that convert, cancel and drop at random are in the suite for every lock manager
//! (`ocf_dlm::testing`).
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use ocf_dlm::{
    Ask, Client, Config, Flags, LocalLocks, LockError, Lockspace, Mode, RequestError, ValueBlock, Wait,
};
use std::sync::mpsc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn space() -> Lockspace {
    LocalLocks::default().open("test", Config::default()).unwrap()
}

fn clients<const N: usize>(space: &Lockspace) -> [Client; N] {
    core::array::from_fn(|_| space.client().unwrap())
}

fn flags(flags: Flags) -> Ask<'static> {
    Ask { flags, ..Ask::default() }
}

/// Nothing is held, asked for, or left to be told.
fn nothing_is_left(space: &Lockspace, clients: &[Client]) {
    assert!(space.dump().is_empty(), "{:?}", space.dump());
    for client in clients {
        assert_eq!(client.poll(), None, "a notice that nobody takes is memory");
    }
}

#[test]
fn the_end_of_a_conversion_comes_by_callback_channel_and_later() {
    let space = space();
    let [a, b] = clients(&space);
    let ask = Ask::default();
    let (mine, theirs) = (a.lock("x", Mode::Pr).unwrap(), b.lock("x", Mode::Pr).unwrap());
    let (sender, called) = mpsc::channel();
    mine.convert_then(Mode::Ex, &ask, move |end| sender.send(end).unwrap());
    assert!(called.try_recv().is_err());
    drop(theirs);
    let (mine, end) = called.recv_timeout(LONG).unwrap();
    assert_eq!((mine.mode(), end), (Mode::Ex, Ok(())));
    let block = ValueBlock::zero(32).with_number(9);
    let written = Ask { flags: Flags::VALBLK, value: Some(&block), ..ask };
    let (mut mine, end) = mine.convert_channel(Mode::Pr, &written).recv_timeout(LONG).unwrap();
    assert_eq!((mine.mode(), end), (Mode::Pr, Ok(())), "down, at once");
    let (told, watch) = mpsc::channel();
    mine.on_blocking(move |wanted| told.send(wanted).unwrap()).unwrap();
    let theirs = b.lock("x", Mode::Pr).unwrap();
    let abandoned = b.lock("x", Mode::Cr).unwrap().convert_channel(Mode::Ex, &ask);
    assert_eq!(watch.recv_timeout(LONG), Ok(Mode::Ex));
    drop(abandoned);
    let mut later = theirs.convert_later(Mode::Pw, &Ask { wait: Wait::No, ..ask });
    let (theirs, end) = later.try_take().unwrap();
    assert_eq!((theirs.mode(), end), (Mode::Pr, Err(LockError::WouldBlock)));
    assert!(later.try_take().is_none() && later.lock().is_none(), "it is taken once");
    drop(theirs);
    let (mut mine, end) = mine.convert_later(Mode::Pw, &flags(Flags::VALBLK)).wait();
    assert_eq!((mine.mode(), end), (Mode::Pw, Ok(())));
    assert_eq!(mine.value().map(ValueBlock::number), Some(9));
    mine.convert(Mode::Cr).unwrap();
    let waits = b.lock_later("x", Mode::Ex, &ask).unwrap();
    assert_eq!(watch.recv_timeout(LONG), Ok(Mode::Ex), "who is to be told is told after conversions, too");
    drop((mine, waits));
    nothing_is_left(&space, &[a, b]);
}

#[test]
fn a_guard_comes_back_in_its_mode_whatever_ended_the_conversion() {
    let space = space();
    let [a, b, operator] = clients(&space);
    let ask = Ask::default();
    let (mine, theirs) = (a.lock("x", Mode::Pr).unwrap(), b.lock("x", Mode::Pr).unwrap());
    // Refused: a lock does not move below another, and this does not go together.
    let parent = Ask { parent: Some(theirs.id()), ..ask };
    let (mine, end) = mine.convert_later(Mode::Ex, &parent).wait();
    assert!(matches!(end, Err(LockError::Refused(RequestError::Flags { .. }))), "{end:?}");
    let (mine, end) = mine.convert_channel(Mode::Ex, &flags(Flags::EXPEDITE)).recv_timeout(LONG).unwrap();
    assert!(matches!(end, Err(LockError::Refused(RequestError::Flags { .. }))), "{end:?}");
    assert_eq!((mine.mode(), mine.check()), (Mode::Pr, Ok(())));
    // Demoted to end a deadlock, and then taken back: what it held before is another's.
    let mut first = mine.convert_later(Mode::Ex, &ask);
    let mut second = theirs.convert_later(Mode::Ex, &flags(Flags::CONVDEADLK));
    let (mine, end) = first.try_take().unwrap();
    assert_eq!((mine.mode(), end), (Mode::Ex, Ok(())));
    second.cancel();
    let (theirs, end) = second.try_take().unwrap();
    assert_eq!((theirs.mode(), end), (Mode::Nl, Err(LockError::Cancelled)));
    assert!(theirs.remarks().demoted);
    // Released by an operator.
    let third = theirs.convert_later(Mode::Pr, &ask);
    space.force_release(third.lock().unwrap(), "it is in the way").unwrap();
    let (theirs, end) = third.wait();
    assert_eq!(end, Err(LockError::Cancelled));
    drop((mine, theirs));
    drop(operator.try_lock("x", Mode::Ex).unwrap());
    nothing_is_left(&space, &[a, b, operator]);
}

#[test]
fn a_node_that_may_not_act_ends_conversions_and_their_guards_refuse_for_good() {
    let space = space();
    let [a, b] = clients(&space);
    let (mine, theirs) = (a.lock("x", Mode::Pr).unwrap(), b.lock("x", Mode::Pr).unwrap());
    let mine = mine.convert_later(Mode::Ex, &Ask::default());
    let (other, beside) = (b.lock("y", Mode::Pr).unwrap(), a.lock("y", Mode::Pr).unwrap());
    let other = other.convert_channel(Mode::Cw, &Ask::default());
    space.set_primary(false);
    let (other, end) = other.recv_timeout(LONG).unwrap();
    assert_eq!((end, other.check().is_err()), (Err(LockError::Lost), true));
    space.set_primary(true);
    let (mine, end) = mine.wait();
    assert_eq!((end, mine.check().is_err(), mine.token().is_err()), (Err(LockError::Lost), true, true));
    let (mine, end) = mine.convert_later(Mode::Nl, &Ask::default()).wait();
    assert_eq!(end, Err(LockError::Lost), "it is not used again");
    drop((mine, theirs, other, beside));
    nothing_is_left(&space, &[a, b]);
}

#[test]
fn what_is_dropped_leaves_no_notice() {
    let space = space();
    let [a, b] = clients(&space);
    let held = a.lock("x", Mode::Pr).unwrap();
    for _ in 0..3 {
        drop(b.lock_later("x", Mode::Ex, &Ask::default()).unwrap());
        drop(b.lock("x", Mode::Pr).unwrap().convert_later(Mode::Ex, &Ask::default()));
    }
    drop(held);
    nothing_is_left(&space, &[a, b]);
}
