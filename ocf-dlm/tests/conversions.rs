//! Goal: a conversion that is not waited for never loses its guard and never leaves the lock in a mode that the guard does not say.
//!
//! Method: one process, the public interface; then threads that begin, await, cancel and drop conversions at random, each grant
//! held against what all others say that they hold.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use ocf_dlm::{
    Ask, Client, Config, Flags, LocalLocks, LockError, LockGuard, Lockspace, Mode, RequestError, ValueBlock,
    Wait,
};
use parking_lot::Mutex;
use pils::Rng;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const NAMES: [&str; 2] = ["x", "y"];

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

/// What everybody says that it holds.
type Said = Mutex<Vec<(usize, u64, Mode)>>;

/// Says what a lock is held in from now on, which must go with what all others say. `None`: nothing.
fn say(said: &Said, (name, who): (usize, u64), mode: Option<Mode>) {
    let mut said = said.lock();
    said.retain(|(_, other, _)| *other != who);
    let Some(mode) = mode else { return };
    let wrong = said.iter().find(|(at, _, other)| *at == name && !other.is_compatible(mode));
    assert_eq!(wrong, None, "beside {mode} of {who}");
    said.push((name, who, mode));
}

/// What a lock is held in for certain while it is converted.
fn meanwhile(held: Mode, asked: Mode) -> Mode {
    match (held, asked) {
        (Mode::Pr, Mode::Cw) | (Mode::Cw, Mode::Pr) => Mode::Cr,
        _ => held.min(asked),
    }
}

/// How a conversion of one step went on.
fn converted(guard: LockGuard, rng: &mut Rng, asked: Mode) -> LockGuard {
    let wait = match rng.below(4) {
        0 => Wait::No,
        1 => Wait::For(Duration::from_micros(rng.below(300))),
        _ => Wait::Forever,
    };
    let mut conversion = guard.convert_later(asked, &Ask { wait, ..Ask::default() });
    if rng.below(4) == 0 {
        thread::yield_now();
    }
    if rng.below(2) == 0 {
        if let Some((guard, _end)) = conversion.wait_for(Duration::from_micros(rng.below(200))) {
            return guard;
        }
        conversion.cancel();
    } else if wait == Wait::Forever {
        conversion.cancel();
    }
    let (guard, end) = conversion.wait();
    let known = matches!(
        end,
        Ok(())
            | Err(LockError::WouldBlock | LockError::TimedOut | LockError::Cancelled | LockError::Deadlock)
    );
    assert!(known, "{end:?}");
    guard
}

/// Locks and converts at random.
fn work(space: &Lockspace, said: &Said, number: u64) {
    let client = space.client().unwrap();
    let mut rng = Rng::new(number);
    let mode = |rng: &mut Rng| Mode::ALL[usize::try_from(rng.below(6)).unwrap()];
    for step in 0..400 {
        let name = usize::try_from(rng.below(2)).unwrap();
        let who = number << 32 | step;
        let wanted = mode(&mut rng);
        let ask = Ask { wait: Wait::For(Duration::from_millis(2)), ..Ask::default() };
        let Ok(mut guard) = client.lock_with(NAMES[name], wanted, &ask) else { continue };
        say(said, (name, who), Some(guard.mode()));
        for _ in 0..rng.below(4) {
            let asked = mode(&mut rng);
            if rng.below(8) == 0 {
                say(said, (name, who), None);
                drop(guard.convert_later(asked, &Ask::default()));
                guard = client.lock_with(NAMES[name], Mode::Nl, &flags(Flags::EXPEDITE)).unwrap();
            } else {
                say(said, (name, who), Some(meanwhile(guard.mode(), asked)));
                guard = converted(guard, &mut rng, asked);
            }
            say(said, (name, who), Some(guard.mode()));
        }
        say(said, (name, who), None);
    }
    assert_eq!(client.poll(), None);
}

#[test]
fn whatever_is_converted_cancelled_and_dropped_at_once_guards_say_what_is_held() {
    let space = space();
    let said = Said::default();
    thread::scope(|scope| {
        for number in 0..4 {
            let (space, said) = (&space, &said);
            scope.spawn(move || work(space, said, number));
        }
    });
    nothing_is_left(&space, &[]);
}
