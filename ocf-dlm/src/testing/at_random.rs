//! Threads that convert, cancel and drop at random; each grant is held against what all others say that they hold.

use super::WAIT;
use crate::client::{LockError, Wait};
use crate::manager::{HeldLock, LockOwner};
use crate::mode::Mode;
use crate::object::ObjectRanges;
use crate::range::{Range, RangeKind, RangeSet};
use crate::status::RequestError;
use core::time::Duration;
use parking_lot::Mutex;
use pils::Rng;
use std::thread;

const SPACE: &str = "conformance.random";
const NAMES: [&[u8]; 2] = [b"x", b"y"];
/// Of each thread.
const STEPS: u64 = 60;
/// Bytes of an object that are locked.
const BYTES: u64 = 24;

pub(super) fn check(owners: &[&dyn LockOwner]) {
    let modes = Mutex::new(vec![None; owners.len()]);
    let bytes = Mutex::new(vec![RangeSet::default(); owners.len()]);
    in_threads(owners, |who, number| convert(who, &modes, number));
    in_threads(owners, |who, number| lock_bytes(who, &bytes, number));
    let all = owners[0].ranges(SPACE, b"object").expect("nobody else of this owner has it");
    all.lock_range(Range::WHOLE, RangeKind::Exclusive, WAIT).expect("nothing is left");
    for name in NAMES {
        drop(owners[0].lock(SPACE, name, Mode::Ex, WAIT).expect("nothing is left"));
    }
}

fn in_threads(owners: &[&dyn LockOwner], work: impl Fn(&dyn LockOwner, usize) + Sync) {
    let work = &work;
    thread::scope(|scope| {
        for (number, who) in owners.iter().enumerate() {
            scope.spawn(move || work(*who, number));
        }
    });
}

/// What each thread has, as it says: a resource and a mode.
type Modes = Mutex<Vec<Option<(usize, Mode)>>>;

/// Says what a lock is held in from now on, which must go with what all others say.
fn say(said: &Modes, number: usize, now: Option<(usize, Mode)>) {
    let mut said = said.lock();
    said[number] = None;
    if let Some((name, mode)) = now {
        let wrong = said.iter().flatten().find(|(at, other)| *at == name && !other.is_compatible(mode));
        assert_eq!(wrong, None, "beside {mode}");
    }
    said[number] = now;
}

/// What a lock is held in for certain while it is converted.
fn meanwhile(held: Mode, asked: Mode) -> Mode {
    match (held, asked) {
        (Mode::Pr, Mode::Cw) | (Mode::Cw, Mode::Pr) => Mode::Cr,
        _ => held.min(asked),
    }
}

fn any_mode(rng: &mut Rng) -> Mode {
    *rng.pick(&Mode::ALL).expect("there are six")
}

/// Not at all, for a moment, or as long as it takes.
fn any_wait(rng: &mut Rng) -> Wait {
    match rng.below(4) {
        0 => Wait::No,
        1 => Wait::For(Duration::from_micros(rng.below(2000))),
        _ => Wait::Forever,
    }
}

fn is_an_end(end: Result<(), LockError>) {
    use LockError::{Cancelled, Deadlock, TimedOut, WouldBlock};
    let known = matches!(end, Ok(()) | Err(WouldBlock | TimedOut | Cancelled | Deadlock));
    assert!(known, "{end:?}");
}

fn convert(who: &dyn LockOwner, said: &Modes, number: usize) {
    let mut rng = Rng::new(number as u64);
    for _ in 0..STEPS {
        let name = usize::from(rng.below(2) == 0);
        let mode = any_mode(&mut rng);
        let Ok(mut held) = who.lock(SPACE, NAMES[name], mode, Wait::For(Duration::from_millis(2))) else {
            continue;
        };
        say(said, number, Some((name, held.mode())));
        for _ in 0..rng.below(4) {
            let asked = any_mode(&mut rng);
            if rng.below(8) == 0 {
                say(said, number, None);
                drop(held.convert_later(asked, None, Wait::Forever));
                held = who.lock(SPACE, NAMES[name], Mode::Nl, WAIT).expect("NL is in nobody's way");
            } else {
                say(said, number, Some((name, meanwhile(held.mode(), asked))));
                held = converted(held, asked, &mut rng);
            }
            say(said, number, Some((name, held.mode())));
        }
        say(said, number, None);
    }
}

fn converted(held: Box<dyn HeldLock>, asked: Mode, rng: &mut Rng) -> Box<dyn HeldLock> {
    let wait = any_wait(rng);
    let mut conversion = held.convert_later(asked, None, wait);
    if rng.below(2) == 0 {
        thread::yield_now();
    }
    if wait == Wait::Forever || rng.below(3) == 0 {
        conversion.cancel();
    }
    let (held, end) = conversion.wait();
    is_an_end(end);
    held
}

/// Says what is held of an object from now on.
fn say_bytes(said: &Mutex<Vec<RangeSet>>, number: usize, now: &RangeSet) {
    let mut said = said.lock();
    let others = said.iter().enumerate().filter(|(other, _)| *other != number);
    let wrong: Vec<_> = others.filter_map(|(_, other)| other.in_the_way(now)).collect();
    assert_eq!(wrong, [], "beside {now:?}");
    said[number].clone_from(now);
}

fn held(object: &dyn ObjectRanges) -> RangeSet {
    let mut set = RangeSet::default();
    for (range, kind) in object.held_ranges().expect("nothing is lost") {
        set.set(range, Some(kind));
    }
    set
}

/// What is held for certain while bytes are asked for.
fn bytes_meanwhile(held: &RangeSet, asked: Range, kind: RangeKind) -> RangeSet {
    let mut less = held.clone();
    for (range, _) in held.as_slice().iter().filter(|(_, has)| *has == RangeKind::Exclusive) {
        let both = Range::new(range.first().max(asked.first()), range.last().min(asked.last()));
        if let (Ok(both), RangeKind::Shared) = (both, kind) {
            less.set(both, Some(RangeKind::Shared));
        }
    }
    less
}

fn lock_bytes(who: &dyn LockOwner, said: &Mutex<Vec<RangeSet>>, number: usize) {
    let mut rng = Rng::new(number as u64);
    let object = who.ranges(SPACE, b"object").expect("nobody else of this owner has it");
    let mut mine = RangeSet::default();
    for _ in 0..STEPS {
        let first = rng.below(BYTES);
        let range = Range::new(first, first + rng.below(8)).expect("not empty");
        if rng.below(4) == 0 {
            mine.set(range, None);
            say_bytes(said, number, &mine);
            object.unlock_range(range).expect("nothing is lost");
        } else {
            let kind = if rng.below(2) == 0 { RangeKind::Shared } else { RangeKind::Exclusive };
            mine = bytes_meanwhile(&mine, range, kind);
            say_bytes(said, number, &mine);
            let wait = any_wait(&mut rng);
            if wait == Wait::Forever {
                // Taken back: it ends later, in one way or the other.
                drop(object.lock_range_later(range, kind, wait));
                continue;
            }
            let end = if rng.below(2) == 0 {
                object.lock_range(range, kind, wait)
            } else {
                object.lock_range_later(range, kind, wait).and_then(|request| request.wait())
            };
            if end == Err(RequestError::Busy.into()) {
                // What was taken back has not ended, and a request does not wait for that.
                continue;
            }
            is_an_end(end);
        }
        mine = held(&*object);
        say_bytes(said, number, &mine);
    }
    said.lock()[number] = RangeSet::default();
}
