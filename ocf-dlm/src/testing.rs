//! What every [`LockManager`] is held against.
//!
//! ```
//! let locks = ocf_dlm::LocalLocks::default();
//! // Two views of the same locks: of a cluster, those of two nodes.
//! ocf_dlm::testing::check(&[&locks, &locks]);
//! ```
#![expect(clippy::expect_used, reason = "a test says by a panic what is broken")]

mod at_random;
mod conversions;
mod groups;
mod owners;
mod ranges;
mod saf;

use crate::client::{LockError, Wait};
use crate::manager::{HeldLock, LockManager, LockOwner, LockTerms, Wanted};
use crate::mode::Mode;
use crate::name::{NAME_MAX, NameError};
use crate::shard::NumberOp;
use crate::status::RequestError;
use crate::value::ValueBlock;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::task::Wake;
use std::thread;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const WAIT: Wait = Wait::For(PATIENCE);
/// Long enough to be a wait.
const MOMENT: Duration = Duration::from_millis(30);

/// Holds lock managers that share their locks against what [`LockManager`] promises: the nodes of a cluster, or the same one
/// twice. Uses the lockspaces `conformance.*`, in which nobody else may have locks.
///
/// Takes a few hundred operations, and one search for a deadlock.
///
/// # Panics
/// If a promise is broken.
pub fn check(managers: &[&dyn LockManager]) {
    let owners: Vec<Box<dyn LockOwner>> =
        (0..3).map(|n| managers[n % managers.len()].owner().expect("an owner")).collect();
    let [a, b, c] = owners.as_slice() else { unreachable!("three were made") };
    let (a, b, c) = (&**a, &**b, &**c);
    modes_exclude_each_other(a, b);
    names_are_checked(a);
    lockspaces_are_apart(a, b);
    requests_are_served_in_order(a, b, c);
    a_wait_ends_in_time(a, b);
    what_is_dropped_is_released(a, b);
    the_value_travels(a, b);
    numbers_are_counted(a, b);
    tokens_grow(a, b, c);
    modes_are_converted(a, b);
    two_readers_cannot_both_become_writers(a, b);
    who_is_in_the_way_is_told(a, b);
    the_signal_of_who_waits_is_told(a, b, c);
    parts_are_locked_below_the_whole(a, b);
    a_request_is_awaited(a, b);
    a_deadlock_across_resources_ends(a, b);
    conversions::check(a, b);
    ranges::check(a, b);
    groups::check(a, b);
    at_random::check(&[a, b, c]);
    let (one, other) = (managers[0], managers[1 % managers.len()]);
    owners::check(one, other);
    saf::check(one, other);
}

fn modes_exclude_each_other(a: &dyn LockOwner, b: &dyn LockOwner) {
    for held in Mode::ALL {
        for asked in Mode::ALL {
            let name = format!("{held} {asked}");
            let first = a.lock("conformance.modes", name.as_bytes(), held, WAIT).expect("free");
            assert_eq!((first.mode(), first.check()), (held, Ok(())), "a lock is held as it was asked for");
            let second = b.lock("conformance.modes", name.as_bytes(), asked, Wait::No).map(|l| l.mode());
            let expected = if held.is_compatible(asked) { Ok(asked) } else { Err(LockError::WouldBlock) };
            assert_eq!(second, expected, "{asked} beside {held}");
        }
    }
}

fn names_are_checked(a: &dyn LockOwner) {
    let refused = |space: &str, name: &[u8]| a.lock(space, name, Mode::Nl, Wait::No).map(drop).err();
    let longest = [b'x'; NAME_MAX];
    assert_eq!(refused("conformance.names", &longest), None);
    let none = RequestError::Name(NameError(0));
    assert_eq!(refused("conformance.names", b""), Some(none.into()), "a name has a byte");
    let long = RequestError::Name(NameError(NAME_MAX + 1));
    assert_eq!(refused("conformance.names", &[b'x'; NAME_MAX + 1]), Some(long.into()));
    assert_eq!(refused("", b"x"), Some(RequestError::SpaceName(0).into()), "a lockspace has a name");
    let long = "x".repeat(crate::SPACE_NAME_MAX + 1);
    assert_eq!(refused(&long, b"x"), Some(RequestError::SpaceName(long.len()).into()));
}

fn lockspaces_are_apart(a: &dyn LockOwner, b: &dyn LockOwner) {
    let one = a.lock("conformance.one", b"x", Mode::Ex, WAIT).expect("free");
    let other = b.lock("conformance.other", b"x", Mode::Ex, WAIT).expect("another lockspace");
    drop((one, other));
}

fn requests_are_served_in_order(a: &dyn LockOwner, b: &dyn LockOwner, c: &dyn LockOwner) {
    let name = ("conformance.order", b"x".as_slice());
    let ask =
        |who: &dyn LockOwner, mode| who.request(name.0, name.1, mode, WAIT).expect("it may be asked for");
    let holder = a.lock(name.0, name.1, Mode::Ex, WAIT).expect("free");
    let writer = ask(b, Mode::Ex);
    // The holder hears of a request only after it was queued.
    assert_eq!(holder.wanted(PATIENCE), Some(Mode::Ex));
    let reader = ask(c, Mode::Pr);
    drop(holder);
    let writer = writer.wait().expect("the first that waits");
    let late = c.lock(name.0, name.1, Mode::Nl, Wait::For(MOMENT)).map(drop);
    assert_eq!(late, Err(LockError::TimedOut), "nobody overtakes who waits, even if it would fit");
    drop(writer);
    assert_eq!(reader.wait().expect("the second").mode(), Mode::Pr);
}

fn a_wait_ends_in_time(a: &dyn LockOwner, b: &dyn LockOwner) {
    let held = a.lock("conformance.time", b"x", Mode::Pr, WAIT).expect("free");
    let late = b.lock("conformance.time", b"x", Mode::Ex, Wait::For(MOMENT)).map(drop);
    assert_eq!(late, Err(LockError::TimedOut));
    // What was given up is in nobody's way.
    let beside = b.lock("conformance.time", b"x", Mode::Pr, WAIT).expect("PR beside PR");
    drop((held, beside));
}

fn what_is_dropped_is_released(a: &dyn LockOwner, b: &dyn LockOwner) {
    let lock = |who: &dyn LockOwner, mode| who.lock("conformance.drop", b"x", mode, WAIT);
    let held = lock(a, Mode::Pr).expect("free");
    let request = b.request("conformance.drop", b"x", Mode::Ex, WAIT).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
    drop(request);
    drop(lock(a, Mode::Pr).expect("the request was taken back"));
    drop(held);
    drop(lock(b, Mode::Ex).expect("the lock was released"));
}

fn the_value_travels(a: &dyn LockOwner, b: &dyn LockOwner) {
    let lock = |who: &dyn LockOwner, mode| who.lock("conformance.value", b"x", mode, WAIT).expect("free");
    let number = |held: &dyn HeldLock| held.value().map(ValueBlock::number);
    let block = |number| Some(ValueBlock::zero(32).with_number(number));
    let _kept = lock(a, Mode::Nl);
    let writer = lock(a, Mode::Pw);
    assert_eq!(number(&*writer), Some(0), "a new resource has zeros");
    writer.release(block(7)).expect("held");
    let mut second = lock(b, Mode::Ex);
    assert_eq!(number(&*second), Some(7));
    second.convert(Mode::Pr, block(8), WAIT).expect("down");
    assert_eq!(number(&*second), Some(8), "what was written is known");
    let reader = lock(a, Mode::Pr);
    assert_eq!(number(&*reader), Some(8), "a conversion down writes");
    second.release(block(9)).expect("held");
    drop(reader);
    let dropped = lock(b, Mode::Ex);
    assert_eq!(number(&*dropped), Some(8), "a reader does not write");
    drop(dropped);
    assert_eq!(number(&*lock(a, Mode::Cr)), Some(8), "what is dropped writes nothing");
}

fn numbers_are_counted(a: &dyn LockOwner, b: &dyn LockOwner) {
    let name = ("conformance.number", b"x".as_slice());
    let _kept = a.lock(name.0, name.1, Mode::Nl, WAIT).expect("free");
    let number = |who: &dyn LockOwner, operation| who.number(name.0, name.1, operation, WAIT);
    thread::scope(|scope| {
        for who in [a, b] {
            scope.spawn(move || {
                for _ in 0..10 {
                    who.number(name.0, name.1, NumberOp::Increment, WAIT).expect("it is counted");
                }
            });
        }
    });
    assert_eq!(number(a, NumberOp::Read), Ok(20), "no change is lost");
    assert_eq!(number(b, NumberOp::Set(5)), Ok(5));
    assert_eq!(number(a, NumberOp::Raise(4)), Ok(5));
}

fn tokens_grow(a: &dyn LockOwner, b: &dyn LockOwner, c: &dyn LockOwner) {
    let mut last = None;
    for who in [a, b, c, a, b, c] {
        let held = who.lock("conformance.token", b"x", Mode::Ex, WAIT).expect("free");
        let token = Some(held.token().expect("held"));
        assert!(token > last, "{token:?} after {last:?}");
        last = token;
    }
}

fn modes_are_converted(a: &dyn LockOwner, b: &dyn LockOwner) {
    let lock = |who: &dyn LockOwner, mode| who.lock("conformance.convert", b"x", mode, WAIT).expect("free");
    let mut one = lock(a, Mode::Pr);
    let other = lock(b, Mode::Pr);
    assert_eq!(one.convert(Mode::Ex, None, Wait::No), Err(LockError::WouldBlock));
    assert_eq!(one.convert(Mode::Ex, None, Wait::For(MOMENT)), Err(LockError::TimedOut));
    assert_eq!((one.mode(), one.check()), (Mode::Pr, Ok(())), "the old mode is held");
    let before = one.token().expect("held");
    drop(other);
    one.convert(Mode::Ex, None, WAIT).expect("nobody else has it");
    assert!(one.mode() == Mode::Ex && one.token().expect("held") > before);
    one.convert(Mode::Cr, None, Wait::No).expect("down never waits");
    drop(lock(b, Mode::Pw));
    assert_eq!(one.mode(), Mode::Cr);
}

fn two_readers_cannot_both_become_writers(a: &dyn LockOwner, b: &dyn LockOwner) {
    let lock = |who: &dyn LockOwner| who.lock("conformance.writers", b"x", Mode::Pr, WAIT).expect("PR");
    let (mut one, mut other) = (lock(a), lock(b));
    let ends: Vec<Result<(), LockError>> = thread::scope(|scope| {
        // Who is denied lets go, and the other goes on.
        let become_writer = |held: &mut Box<dyn HeldLock>| {
            let end = held.convert(Mode::Ex, None, WAIT);
            if end.is_err() {
                held.convert(Mode::Nl, None, Wait::No).expect("down");
            }
            end
        };
        let threads = [&mut one, &mut other].map(|held| scope.spawn(move || become_writer(held)));
        threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    let denied = ends.iter().filter(|end| **end == Err(LockError::Deadlock)).count();
    let granted = ends.iter().filter(|end| end.is_ok()).count();
    assert_eq!((denied, granted), (1, 1), "{ends:?}");
}

fn who_is_in_the_way_is_told(a: &dyn LockOwner, b: &dyn LockOwner) {
    let mut held = a.lock("conformance.told", b"x", Mode::Ex, WAIT).expect("free");
    let bell = Arc::<Bell>::default();
    let rung = Arc::clone(&bell);
    held.on_news(Arc::new(move || Arc::clone(&rung).wake()));
    assert_eq!(held.wanted(Duration::ZERO), None, "nobody wants it");
    let reader = b.request("conformance.told", b"x", Mode::Pr, WAIT).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Pr));
    // Perhaps only after the notice was taken.
    assert!(bell.wait(), "who is to be woken is woken");
    assert_eq!(held.wanted(MOMENT), None, "each notice is told once");
    held.convert(Mode::Pr, None, Wait::No).expect("down");
    let reader = reader.wait().expect("it is out of the way");
    // After a grant it is told anew.
    let writer = b.request("conformance.told", b"x", Mode::Ex, WAIT).expect("it may be asked for");
    drop(reader);
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
    drop(held);
    assert!(writer.wait().is_ok(), "it is out of the way");
}

fn the_signal_of_who_waits_is_told(a: &dyn LockOwner, b: &dyn LockOwner, c: &dyn LockOwner) {
    let ask = |who: &dyn LockOwner, mode, signal| {
        let terms = LockTerms { wait: WAIT, signal, ..LockTerms::default() };
        who.request_with("conformance.signals", b"x", mode, terms).expect("it may be asked for")
    };
    let wanted = |mode, signal| Some(Wanted { mode, signal });
    let held = ask(a, Mode::Pw, 1).wait().expect("free");
    let reader = ask(b, Mode::Pr, 7);
    assert_eq!(held.wanted_by(PATIENCE), wanted(Mode::Pr, 7));
    let writer = ask(c, Mode::Ex, u64::MAX);
    assert_eq!(held.wanted_by(PATIENCE), wanted(Mode::Ex, u64::MAX), "of who asks for the higher mode");
    drop(held);
    let reader = reader.wait().expect("it waited longest");
    assert_eq!(reader.wanted_by(PATIENCE), wanted(Mode::Ex, u64::MAX), "of who waits still");
    drop((writer, reader));
    let (mine, mut theirs) = (ask(a, Mode::Pr, 5).wait(), ask(b, Mode::Pr, 6).wait().expect("shared"));
    let mine = mine.expect("shared");
    thread::scope(|scope| {
        let converts = scope.spawn(|| theirs.convert(Mode::Ex, None, WAIT));
        assert_eq!(mine.wanted_by(PATIENCE), wanted(Mode::Ex, 6), "a conversion has that of its lock");
        drop(mine);
        assert_eq!(converts.join().expect("it ends"), Ok(()));
    });
    let plain = c.request("conformance.signals", b"x", Mode::Ex, WAIT).expect("it may be asked for");
    assert_eq!(theirs.wanted_by(PATIENCE), wanted(Mode::Ex, 0), "it has none");
    drop((theirs, plain));
}

fn parts_are_locked_below_the_whole(a: &dyn LockOwner, b: &dyn LockOwner) {
    let whole = |who: &dyn LockOwner| who.lock("conformance.tree", b"x", Mode::Cw, WAIT).expect("CW");
    let (mine, theirs) = (whole(a), whole(b));
    let part = mine.lock_below(b"1", Mode::Ex, WAIT).expect("free");
    let refused = theirs.lock_below(b"1", Mode::Ex, Wait::No).map(|_| ());
    assert_eq!(refused, Err(LockError::WouldBlock), "the same part");
    let other = theirs.lock_below(b"2", Mode::Ex, WAIT).expect("another part");
    let deeper = part.lock_below(b"1", Mode::Ex, WAIT).expect("a part of a part");
    let root = b.lock("conformance.tree", b"1", Mode::Ex, Wait::No).map(|held| held.mode());
    assert_eq!(root, Ok(Mode::Ex), "the same name elsewhere is another resource");
    drop((deeper, other));
    part.release(None).expect("held");
    drop(theirs.lock_below(b"1", Mode::Ex, WAIT).expect("it was released"));
}

/// Says that it was woken.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Bell {
    /// Waits until it was rung since the last time. False if that takes too long.
    fn wait(&self) -> bool {
        let mut rung = self.0.lock();
        while !*rung {
            if self.1.wait_for(&mut rung, PATIENCE).timed_out() {
                return core::mem::take(&mut *rung);
            }
        }
        core::mem::take(&mut *rung)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.0.lock() = true;
        self.1.notify_all();
    }
}

fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let bell = Arc::<Bell>::default();
    let waker = Arc::clone(&bell).into();
    loop {
        if let Poll::Ready(end) = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            return end;
        }
        assert!(bell.wait(), "what ended wakes its task");
    }
}

/// Awaits what others are in the way of until `make_way`: it must wake who looked before that.
fn awaited<F: Future + Unpin>(mut future: F, make_way: impl FnOnce()) -> F::Output {
    let bell = Arc::<Bell>::default();
    let waker = Arc::clone(&bell).into();
    let mut context = Context::from_waker(&waker);
    assert!(Pin::new(&mut future).poll(&mut context).is_pending(), "others are in the way");
    make_way();
    loop {
        assert!(bell.wait(), "what ended wakes its task");
        if let Poll::Ready(end) = Pin::new(&mut future).poll(&mut context) {
            return end;
        }
    }
}

fn a_request_is_awaited(a: &dyn LockOwner, b: &dyn LockOwner) {
    let ask = |who: &dyn LockOwner| who.request("conformance.await", b"x", Mode::Ex, Wait::Forever);
    let held = block_on(ask(a).expect("it may be asked for")).expect("free");
    let waiting = ask(b).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
    assert_eq!(awaited(waiting, || drop(held)).map(|held| held.mode()), Ok(Mode::Ex));
}

fn a_deadlock_across_resources_ends(a: &dyn LockOwner, b: &dyn LockOwner) {
    let lock = |who: &dyn LockOwner, name: &[u8]| who.lock("conformance.cycle", name, Mode::Ex, WAIT);
    let (x, y) = (lock(a, b"x").expect("free"), lock(b, b"y").expect("free"));
    let ends: Vec<Result<(), LockError>> = thread::scope(|scope| {
        // Who is denied gives up what it has, and the other goes on.
        let one = scope.spawn(move || {
            let end = lock(a, b"y").map(drop);
            drop(x);
            end
        });
        let other = scope.spawn(move || {
            let end = lock(b, b"x").map(drop);
            drop(y);
            end
        });
        [one, other].into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    let denied = ends.iter().filter(|end| **end == Err(LockError::Deadlock)).count();
    let granted = ends.iter().filter(|end| end.is_ok()).count();
    assert_eq!((denied, granted), (1, 1), "{ends:?}");
}
