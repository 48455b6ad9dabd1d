//! The same model against the engine of one node alone: the rules of its queues are those of the shard.
//!
//! What needs no master is not compared: tokens and remarks of conversions down, which end before the master hears of them, and
//! of refusals.

use super::slow::{self, Event, Model};
use super::{FOR_CONVERSIONS, FOR_RELEASES, FOR_REQUESTS, LOCKS, Step, draw, flags, status};
use ocf_dlm::cluster::{Ask, ClusterView, Config, Engine, Input, Output, ViewMember};
use ocf_dlm::wire::{Key, Value};
use ocf_dlm::{ClientId, Flags, Mode, RequestError, ValueBlock};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::collections::BTreeMap;
use std::time::Duration;

/// No two deadlines are equal, so their order is beyond doubt.
const FINE: u64 = 4096;

struct Alone {
    engine: Engine,
    model: Model,
    now: u64,
    next: u64,
    ids: BTreeMap<u64, u64>,
    tags: BTreeMap<u64, u64>,
}

impl Alone {
    fn new() -> Self {
        let instance = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
        let long = Duration::from_secs(1 << 30);
        let config = Config { deadlock_delay: long, idle_after: long, ..Config::default() };
        let mut engine = Engine::new(config, instance).unwrap();
        let members = vec![ViewMember { instance, weight: 1, joined: 1 }];
        let view = ClusterView { number: 1, members, previous: Vec::new(), unproven: Vec::new() };
        engine.handle(Instant::ZERO, Input::View(&view));
        // What a view leaves to be done is done in turns.
        while engine.poll_timeout().is_some_and(|due| due <= Instant::ZERO) {
            engine.handle_timeout(Instant::ZERO);
        }
        while engine.poll_output().is_some() {}
        Self {
            engine,
            model: Model::new(false),
            now: 0,
            next: 0,
            ids: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    fn pick(&self, which: usize) -> Option<u64> {
        let mut tags: Vec<u64> = self.model.all().map(|lock| lock.tag).collect();
        tags.sort_unstable();
        (!tags.is_empty()).then(|| tags[which % tags.len()])
    }

    fn time(&self) -> Instant {
        Instant::from_nanos(self.now * FINE)
    }

    fn take(&mut self, step: Step) {
        self.next += 1;
        let mut told = None;
        match step {
            Step::Request { client, mode, flags: bits, wait } => self.request((client, mode), bits, wait),
            Step::Convert { which, mode, flags: bits, wait } => {
                told = self.convert((which, mode), bits, wait);
            }
            Step::Release { which, flags: bits } => {
                let Some(tag) = self.pick(which) else { return };
                let flags = flags(bits, &FOR_RELEASES);
                let value = self.value();
                let done = self.engine.unlock(self.time(), self.ids[&tag], flags, Some(value));
                assert_eq!(done.is_ok(), self.model.release(tag, flags, value.block.as_bytes()));
            }
            Step::Cancel { which } => {
                let Some(tag) = self.pick(which) else { return };
                let done = self.engine.cancel(self.time(), self.ids[&tag]);
                assert_eq!(done.is_ok(), self.model.give_up(tag, "Cancelled"));
            }
            Step::Time(by) => {
                self.now += by;
                self.engine.handle_timeout(self.time());
                self.model.pass_time(self.now * FINE);
            }
            Step::Dies(_) | Step::Purge(_) => return,
        }
        self.compare(told, step);
    }

    fn value(&self) -> Value {
        Value { block: ValueBlock::zero(32).with_number(self.next), sequence: 0 }
    }

    fn deadline(&self, wait: Option<u64>) -> Option<u64> {
        wait.map(|wait| (self.now + wait) * FINE + self.next % FINE)
    }

    fn request(&mut self, (client, mode): (u32, Mode), bits: u32, wait: Option<u64>) {
        if self.model.all().count() >= LOCKS {
            return;
        }
        let mut flags = flags(bits, &FOR_REQUESTS).without(Flags::PERSISTENT);
        if mode == Mode::Nl && !flags.has(Flags::NOQUEUE) && bits & 1 == 1 {
            flags |= Flags::EXPEDITE;
        }
        let deadline = self.deadline(wait);
        self.model.request((self.next, client), mode, flags, deadline);
        let ask = Ask {
            client: ClientId::new(client),
            key: Key::root(b"space", b"it"),
            parent: None,
            mode,
            flags,
            transaction: None,
            deadline: deadline.map(Instant::from_nanos),
            signal: 0,
        };
        let id = self.engine.lock(self.time(), ask).unwrap();
        self.ids.insert(self.next, id);
        self.tags.insert(id, self.next);
    }

    /// Gives the lock whose conversion down no master was asked for.
    fn convert(&mut self, (which, mode): (usize, Mode), bits: u32, wait: Option<u64>) -> Option<u64> {
        let tag = self.pick(which)?;
        let flags = flags(bits, &FOR_CONVERSIONS);
        let (deadline, value) = (self.deadline(wait), self.value());
        let until = deadline.map(Instant::from_nanos);
        let done = self.engine.convert(self.time(), self.ids[&tag], (mode, flags, Some(value)), until);
        let granted = self.model.granted.iter().find(|lock| lock.tag == tag);
        let held = granted.and_then(|lock| lock.held);
        match held {
            None => assert_eq!(done, Err(RequestError::Busy)),
            Some(_) if flags.has(Flags::CONVDEADLK | Flags::NOQUEUE) => {
                assert!(matches!(done, Err(RequestError::Flags { .. })));
            }
            Some(held) if flags.has(Flags::QUECVT) && !slow::may_queue(held, mode) => {
                assert_eq!(done, Err(RequestError::NotQueueable { held, asked: mode }));
            }
            Some(held) => {
                assert_eq!(done, Ok(()));
                self.model.convert((tag, mode), flags, value.block.as_bytes(), deadline);
                return held.is_down(mode).then_some(tag);
            }
        }
        None
    }

    fn compare(&mut self, told: Option<u64>, step: Step) {
        let outputs: Vec<Output> = core::iter::from_fn(|| self.engine.poll_output()).collect();
        let events = outputs.iter().filter_map(|output| self.event(output));
        let ours: Vec<Event> = events.map(|event| comparable(event, told)).collect();
        let theirs = core::mem::take(&mut self.model.events);
        let theirs: Vec<Event> = theirs.into_iter().map(|event| comparable(event, told)).collect();
        assert_eq!(ours, theirs, "left: the engine, right: the model, after {step:?}");
        let locks = self.engine.mastered_locks();
        let ours: Vec<_> = locks.iter().map(|(_, l)| (self.tags[&l.who.lock], l.held, l.asked)).collect();
        let theirs: Vec<_> = self.model.all().map(|lock| (lock.tag, lock.held, lock.asked)).collect();
        assert_eq!(ours, theirs, "left: the engine, right: the model, after {step:?}");
        self.engine.check_invariants().unwrap();
    }

    fn event(&self, output: &Output) -> Option<Event> {
        match output {
            Output::Completed(c) => Some(Event::Ended {
                tag: self.tags[&c.lock],
                how: status(c.status),
                held: c.held,
                remarks: c.remarks.bits(),
                token: c.token.sequence,
                value: c.value.map(|value| value.block.as_bytes().to_vec()),
            }),
            Output::Blocking { lock, wanted, .. } => {
                Some(Event::Blocks { tag: self.tags[lock], wanted: *wanted })
            }
            Output::Send { .. }
            | Output::Lost { .. }
            | Output::FenceWanted(_)
            | Output::Recovered { .. }
            | Output::Overrun
            | _ => None,
        }
    }
}

/// An event without what is known at the master alone.
fn comparable(event: Event, told: Option<u64>) -> Event {
    match event {
        Event::Ended { tag, how, held, value, .. } if how != "Granted" || told == Some(tag) => {
            Event::Ended { tag, how, held, remarks: 0, token: 0, value }
        }
        Event::Ended { .. } | Event::Blocks { .. } => event,
    }
}

fn run(seed: u64, steps: u64) {
    let mut rng = Rng::new(seed);
    let mut alone = Alone::new();
    for _ in 0..steps {
        alone.take(draw(&mut rng));
    }
    let snapshot = alone.engine.snapshot();
    assert!(snapshot.stats.grants > 0, "something was granted: {snapshot:?}");
}

#[test]
fn an_engine_alone_does_what_the_slow_model_does() {
    for seed in 0..40 {
        run(seed, 500);
    }
}

#[test]
#[ignore = "1 million operations: for a release build"]
fn an_engine_alone_does_what_the_slow_model_does_for_long() {
    for seed in 1000..1400 {
        run(seed, 2500);
    }
}
