//! Goal: the rules of queues, value blocks and notices, one by one, on one shard.
//!
//! Method: a small world with one shard; every output is kept and compared.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use ocf_dlm::{
    Answer, ClientId, Completion, Config, FencingToken, Flags, Home, LockId, Mode, NodeSlot, Output, Owner,
    Request, RequestError, Shard, Status, Terms, ValueBlock,
};
use pils::Instant;
use std::time::Duration;

struct World {
    shard: Shard,
    now: Instant,
    next: u64,
}

/// `grant 1 EX`, `block 1 EX` and the like.
fn say(output: &Output) -> String {
    match output {
        Output::Completed(c) => {
            let held = c.held.map_or_else(|| "-".to_owned(), |mode| mode.to_string());
            format!("{:?} {} {held}", c.status, c.owner.tag)
        }
        Output::Blocking(b) => format!("Blocks {} {}", b.owner.tag, b.wanted),
        Output::Route(r) => format!("Route {:?}", r.what),
    }
}

impl World {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        Self { shard: Shard::new(0, 7, config, Home::Local), now: Instant::ZERO, next: 0 }
    }

    fn ask(&mut self, terms: Terms<'_>) -> LockId {
        self.next += 1;
        let owner = Owner::local(ClientId::new(1), self.next);
        let request = Request { owner, parent: None, name: b"r", terms: terms.flags(Flags::NOTIFY) };
        self.shard.request(self.now, &request).unwrap().lock()
    }

    fn lock(&mut self, mode: Mode) -> LockId {
        self.ask(Terms::new(mode))
    }

    fn convert(&mut self, lock: LockId, terms: Terms<'_>) {
        self.shard.convert(self.now, lock, &terms).unwrap();
    }

    fn release(&mut self, lock: LockId) {
        self.shard.release(lock, Flags::NONE, None).unwrap();
    }

    fn outputs(&mut self) -> Vec<String> {
        self.shard.check_invariants();
        core::iter::from_fn(|| self.shard.poll_output()).map(|output| say(&output)).collect()
    }

    fn last(&mut self) -> Completion {
        let all: Vec<Output> = core::iter::from_fn(|| self.shard.poll_output()).collect();
        let completed = |output: &Output| if let Output::Completed(c) = output { Some(*c) } else { None };
        all.iter().rev().find_map(completed).unwrap()
    }
}

#[test]
fn every_pair_of_modes_is_granted_together_or_waits_as_the_table_says() {
    for held in Mode::ALL {
        for asked in Mode::ALL {
            let mut world = World::new();
            let first = world.lock(held);
            world.lock(asked);
            let together = held.is_compatible(asked);
            let second = if together { format!("Granted 2 {asked}") } else { format!("Blocks 1 {asked}") };
            assert_eq!(world.outputs(), [format!("Granted 1 {held}"), second]);
            world.release(first);
            assert_eq!(world.outputs().len(), usize::from(!together), "{held} {asked}");
        }
    }
}

#[test]
fn requests_are_first_come_first_served_and_conversions_go_before_them() {
    let mut world = World::new();
    let a = world.lock(Mode::Pr);
    let b = world.lock(Mode::Pr);
    world.lock(Mode::Ex);
    world.lock(Mode::Pr);
    world.convert(a, Terms::new(Mode::Ex));
    assert_eq!(world.outputs(), ["Granted 1 PR", "Granted 2 PR", "Blocks 1 EX", "Blocks 2 EX"]);
    world.release(b);
    assert_eq!(world.outputs(), ["Granted 1 EX", "Blocks 1 EX"]);
    world.release(a);
    assert_eq!(world.outputs(), ["Granted 3 EX", "Blocks 3 PR"]);
}

#[test]
fn a_conversion_overtakes_unless_it_asks_to_queue() {
    for queues in [false, true] {
        let mut world = World::new();
        let _reader = world.lock(Mode::Pr);
        let first = world.lock(Mode::Cr);
        let second = world.lock(Mode::Cr);
        world.convert(first, Terms::new(Mode::Pw));
        world.outputs();
        let flags = if queues { Flags::QUECVT } else { Flags::NONE };
        world.convert(second, Terms::new(Mode::Pr).flags(flags));
        let expected: &[&str] = if queues { &[] } else { &["Granted 3 PR", "Blocks 3 PW"] };
        assert_eq!(world.outputs(), expected);
    }
}

#[test]
fn two_readers_that_both_want_to_write_are_a_deadlock_at_once() {
    let mut world = World::new();
    let (a, b) = (world.lock(Mode::Pr), world.lock(Mode::Pr));
    world.convert(a, Terms::new(Mode::Ex));
    world.outputs();
    world.convert(b, Terms::new(Mode::Ex));
    assert_eq!(world.outputs(), ["Deadlock 2 PR"]);
    world.convert(b, Terms::new(Mode::Ex).flags(Flags::CONVDEADLK));
    assert_eq!(world.outputs(), ["Granted 1 EX", "Blocks 1 EX"]);
    world.release(a);
    let granted = world.last();
    assert!(granted.remarks.demoted && granted.held == Some(Mode::Ex) && granted.lock == b);
}

#[test]
fn tokens_grow_with_every_writer_although_the_resource_was_forgotten() {
    let mut world = World::new();
    let mut last = FencingToken::default();
    for mode in [Mode::Ex, Mode::Pw, Mode::Cw, Mode::Ex] {
        let lock = world.lock(mode);
        let token = world.last().token;
        assert!(token > last, "{mode}");
        last = token;
        world.release(lock);
        assert_eq!(world.shard.resources(), 0);
        let reader = world.lock(Mode::Pr);
        assert_eq!(world.last().token, last, "a reader carries the last writer's");
        world.release(reader);
    }
    let group = [world.lock(Mode::Cw), world.lock(Mode::Cw)];
    let tokens: Vec<_> = core::iter::from_fn(|| world.shard.poll_output())
        .map(|output| if let Output::Completed(c) = output { c.token } else { unreachable!() })
        .collect();
    assert!(tokens[0] > last && tokens[0] == tokens[1], "{tokens:?} {group:?}");
}

#[test]
fn a_wait_ends_at_its_deadline_and_a_conversion_keeps_what_it_held() {
    let mut world = World::new();
    let a = world.lock(Mode::Pr);
    world.lock(Mode::Pr);
    let deadline = world.now + Duration::from_secs(1);
    world.convert(a, Terms::new(Mode::Ex).until(deadline));
    world.ask(Terms::new(Mode::Ex).until(deadline + Duration::from_secs(1)));
    world.outputs();
    assert_eq!(world.shard.poll_timeout(), Some(deadline));
    world.shard.handle_timeout(deadline);
    assert_eq!(world.outputs(), ["TimedOut 1 PR", "Blocks 1 EX"]);
    world.shard.handle_timeout(Instant::MAX);
    assert_eq!(world.outputs(), ["TimedOut 3 -"]);
    assert_eq!(world.shard.poll_timeout(), None);
}

#[test]
fn the_value_of_the_last_writer_is_read_and_a_dead_writer_makes_it_invalid() {
    let mut world = World::new();
    let keep = world.lock(Mode::Nl);
    let writer = world.lock(Mode::Ex);
    let value = ValueBlock::new(&[7; 32]);
    world.convert(writer, Terms::new(Mode::Nl).value(&value));
    world.convert(keep, Terms::new(Mode::Pr).flags(Flags::VALBLK));
    assert_eq!(world.last().value, Some(value));
    world.convert(keep, Terms::new(Mode::Nl));
    world
        .shard
        .request(
            world.now,
            &Request {
                owner: Owner::local(ClientId::new(2), 9),
                parent: None,
                name: b"r",
                terms: Terms::new(Mode::Pw),
            },
        )
        .unwrap();
    world.shard.drop_client(NodeSlot::LOCAL, ClientId::new(2));
    world.convert(keep, Terms::new(Mode::Pr).flags(Flags::VALBLK));
    let read = world.last();
    assert!(read.remarks.value_invalid && read.status == Status::Granted && read.value == Some(value));
}

#[test]
fn what_waits_outside_is_decided_in_order_when_the_resource_comes_home() {
    let mut world = World::new();
    world.shard = Shard::new(0, 7, Config::default(), Home::Unknown);
    world.lock(Mode::Pr);
    world.lock(Mode::Ex);
    assert_eq!(world.outputs().len(), 2, "both are routed");
    assert!(world.shard.set_home(world.now, b"r", Home::Local));
    assert_eq!(world.outputs(), ["Granted 1 PR", "Blocks 1 EX"]);
    assert!(world.shard.freeze(b"r"));
    let late = world.lock(Mode::Cr);
    assert_eq!(world.outputs(), [] as [&str; 0]);
    assert_eq!(world.shard.cancel(late), Ok(()));
    world.ask(Terms::new(Mode::Cr).flags(Flags::NOQUEUE));
    assert!(world.shard.thaw(world.now, b"r"));
    assert_eq!(world.outputs(), ["Cancelled 3 -", "NotQueued 4 -"]);
}

#[test]
fn a_call_that_cannot_be_changes_nothing() {
    let mut world = World::new();
    let lock = world.lock(Mode::Pr);
    let refused =
        |world: &mut World, terms: Terms<'_>| world.shard.convert(world.now, lock, &terms).unwrap_err();
    let queues = Terms::new(Mode::Cr).flags(Flags::QUECVT);
    assert_eq!(refused(&mut world, queues), RequestError::NotQueueable { held: Mode::Pr, asked: Mode::Cr });
    let both = Terms::new(Mode::Ex).flags(Flags::CONVDEADLK | Flags::NOQUEUE);
    assert!(matches!(refused(&mut world, both), RequestError::Flags { .. }));
    assert_eq!(world.shard.cancel(lock), Err(RequestError::Busy));
    world.release(lock);
    assert_eq!(world.shard.release(lock, Flags::NONE, None), Err(RequestError::NoSuchLock));
    let sync = world.shard.request(
        world.now,
        &Request {
            owner: Owner::local(ClientId::new(1), 5),
            parent: None,
            name: b"x",
            terms: Terms::new(Mode::Ex).flags(Flags::SYNCSTS),
        },
    );
    assert!(matches!(sync, Ok(Answer::Done(Completion { status: Status::Granted, .. }))));
    world.outputs();
}

/// Each flag, and whether a request in NL, one in EX, a conversion from PR to EX and one from EX to PR may have it: alone, and
/// with NOQUEUE.
const ALLOWED: [(Flags, &str, &str); 16] = [
    (Flags::NOQUEUE, "yyyy", "yyyy"),
    // The conversion down would write a block, and none is given.
    (Flags::VALBLK, "yyyn", "yyyn"),
    (Flags::QUECVT, "nnyn", "nnyn"),
    (Flags::IVVALBLK, "yyyy", "yyyy"),
    (Flags::CONVDEADLK, "nnyy", "nnnn"),
    (Flags::PERSISTENT, "yyyy", "yyyy"),
    (Flags::NODLCKWT, "yyyy", "yyyy"),
    (Flags::NODLCKBLK, "yyyy", "yyyy"),
    (Flags::EXPEDITE, "ynnn", "nnnn"),
    (Flags::NOQUEUEBAST, "yyyy", "yyyy"),
    (Flags::HEADQUE, "yyyy", "yyyy"),
    (Flags::NOORDER, "yyyy", "yyyy"),
    // There is no orphan, but there might be.
    (Flags::ORPHAN, "yynn", "yynn"),
    (Flags::ALTPR, "yyyy", "yyyy"),
    (Flags::ALTCW, "yyyy", "yyyy"),
    (Flags::FORCEUNLOCK, "nnnn", "nnnn"),
];

#[test]
fn every_flag_is_taken_or_refused_as_the_table_says() {
    let operations =
        [(None, Mode::Nl), (None, Mode::Ex), (Some(Mode::Pr), Mode::Ex), (Some(Mode::Ex), Mode::Pr)];
    for (flag, alone, beside) in ALLOWED {
        for (flags, row) in [(flag, alone), (flag | Flags::NOQUEUE, beside)] {
            for ((held, asked), cell) in operations.into_iter().zip(row.chars()) {
                let mut world = World::new();
                let terms = Terms::new(asked).flags(flags);
                let answer = match held {
                    Some(held) => {
                        let lock = world.lock(held);
                        world.shard.convert(world.now, lock, &terms)
                    }
                    None => {
                        let owner = Owner::local(ClientId::new(1), 1);
                        let request = Request { owner, parent: None, name: b"r", terms };
                        world.shard.request(world.now, &request)
                    }
                };
                let refused =
                    matches!(answer, Err(RequestError::Flags { .. } | RequestError::NotQueueable { .. }));
                assert_eq!(refused, cell == 'n', "{flags:?}, {held:?} to {asked}: {answer:?}");
            }
        }
    }
}

#[test]
fn who_went_down_to_end_a_deadlock_does_not_wait_ahead_of_whom_it_waits_for() {
    let mut world = World::new();
    let [first, second, third] = [(); 3].map(|()| world.lock(Mode::Pr));
    world.convert(first, Terms::new(Mode::Cw));
    world.convert(second, Terms::new(Mode::Cw).flags(Flags::HEADQUE | Flags::CONVDEADLK));
    world.outputs();
    world.release(third);
    assert_eq!(world.outputs(), ["Granted 1 CW", "Granted 2 CW"]);
}
