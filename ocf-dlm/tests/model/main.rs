//! Goal: a shard, and the engine of a node among others, do what an obvious, slow model of the rules does: the same
//! completions and notices in the same order.
//!
//! Method: both get the same random operations on one resource; after each, the events and every lock's state are
//! compared, and the invariants are checked.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod engine;
mod slow;

use ocf_dlm::{
    ClientId, Config, ConversionOrder, Flags, Home, LockId, Mode, NodeSlot, Output, Owner, Queue, Request,
    RequestError, Shard, Status, Terms, ValueBlock,
};
use pils::{Instant, Rng};
use proptest::prelude::*;
use slow::{Event, Model};
use std::collections::BTreeMap;

/// One operation; numbers choose among what is there.
#[derive(Clone, Copy, Debug)]
enum Step {
    Request { client: u32, mode: Mode, flags: u32, wait: Option<u64> },
    Convert { which: usize, mode: Mode, flags: u32, wait: Option<u64> },
    Release { which: usize, flags: u32 },
    Cancel { which: usize },
    Time(u64),
    Dies(u32),
    Purge(Option<u32>),
}

/// Most locks at once: more would mostly wait.
const LOCKS: usize = 7;
const CLIENTS: u32 = 3;
const FOR_REQUESTS: [Flags; 9] = [
    Flags::NOQUEUE,
    Flags::NOQUEUEBAST,
    Flags::VALBLK,
    Flags::NOORDER,
    Flags::HEADQUE,
    Flags::ALTPR,
    Flags::ALTCW,
    Flags::NOTIFY,
    Flags::PERSISTENT,
];
const FOR_CONVERSIONS: [Flags; 11] = [
    Flags::NOQUEUE,
    Flags::NOQUEUEBAST,
    Flags::VALBLK,
    Flags::NOORDER,
    Flags::HEADQUE,
    Flags::ALTPR,
    Flags::ALTCW,
    Flags::QUECVT,
    Flags::CONVDEADLK,
    Flags::NODLCKWT,
    Flags::NODLCKBLK,
];
const FOR_RELEASES: [Flags; 3] = [Flags::VALBLK, Flags::IVVALBLK, Flags::FORCEUNLOCK];

/// Two of three drawn bits must be set: most operations have few flags.
fn flags(bits: u32, from: &[Flags]) -> Flags {
    let few = bits & (bits >> 11) & 0x7ff;
    from.iter()
        .enumerate()
        .filter(|(at, _)| few >> at & 1 == 1)
        .fold(Flags::NONE, |all, (_, flag)| all | *flag)
}

struct Pair {
    shard: Shard,
    model: Model,
    now: u64,
    next: u64,
    ids: BTreeMap<u64, LockId>,
}

impl Pair {
    fn new(conversions: ConversionOrder) -> Self {
        let config = Config { conversions, ..Config::default() };
        let model = Model::new(conversions == ConversionOrder::Queued);
        Self { shard: Shard::new(0, 1, config, Home::Local), model, now: 0, next: 0, ids: BTreeMap::new() }
    }

    fn pick(&self, which: usize) -> Option<u64> {
        let mut tags: Vec<u64> = self.model.all().filter(|lock| !lock.orphan).map(|lock| lock.tag).collect();
        tags.sort_unstable();
        (!tags.is_empty()).then(|| tags[which % tags.len()])
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each kind of step")]
    fn take(&mut self, step: Step) {
        self.next += 1;
        let before: Vec<_> = self.model.all().map(|l| (l.tag, l.held, l.asked)).collect();
        let value = ValueBlock::zero(32).with_number(self.next);
        let now = Instant::from_nanos(self.now);
        let deadline = |wait: Option<u64>| wait.map(|wait| self.now + wait);
        match step {
            Step::Request { client, mode, flags: bits, wait } => {
                if self.model.all().count() >= LOCKS {
                    return;
                }
                let mut flags = flags(bits, &FOR_REQUESTS);
                if mode == Mode::Nl && !flags.has(Flags::NOQUEUE) && bits & 1 == 1 {
                    flags |= Flags::EXPEDITE;
                }
                let deadline = deadline(wait);
                self.model.request((self.next, client), mode, flags, deadline);
                let terms =
                    Terms { deadline: deadline.map(Instant::from_nanos), ..Terms::new(mode).flags(flags) };
                let owner = Owner::local(ClientId::new(client), self.next);
                let answer = self.shard.request(now, &Request { owner, parent: None, name: b"it", terms });
                self.ids.insert(self.next, answer.unwrap().lock());
            }
            Step::Convert { which, mode, flags: bits, wait } => {
                let Some(tag) = self.pick(which) else { return };
                let flags = flags(bits, &FOR_CONVERSIONS);
                let deadline = deadline(wait);
                let terms = Terms {
                    deadline: deadline.map(Instant::from_nanos),
                    value: Some(&value),
                    ..Terms::new(mode).flags(flags)
                };
                let done = self.shard.convert(now, self.ids[&tag], &terms);
                let granted = self.model.granted.iter().find(|lock| lock.tag == tag);
                let expected = match granted.and_then(|lock| lock.held) {
                    None => Some(RequestError::Busy),
                    Some(_) if flags.has(Flags::CONVDEADLK | Flags::NOQUEUE) => {
                        assert!(matches!(done, Err(RequestError::Flags { .. })));
                        return;
                    }
                    Some(held) if flags.has(Flags::QUECVT) && !slow::may_queue(held, mode) => {
                        Some(RequestError::NotQueueable { held, asked: mode })
                    }
                    Some(_) => None,
                };
                assert_eq!(done.err(), expected);
                if expected.is_none() {
                    self.model.convert((tag, mode), flags, value.as_bytes(), deadline);
                }
            }
            Step::Release { which, flags: bits } => {
                let Some(tag) = self.pick(which) else { return };
                let flags = flags(bits, &FOR_RELEASES);
                let done = self.shard.release(self.ids[&tag], flags, Some(&value));
                assert_eq!(done.is_ok(), self.model.release(tag, flags, value.as_bytes()));
            }
            Step::Cancel { which } => {
                let Some(tag) = self.pick(which) else { return };
                let done = self.shard.cancel(self.ids[&tag]);
                assert_eq!(done.is_ok(), self.model.give_up(tag, "Cancelled"));
            }
            Step::Time(by) => {
                self.now += by;
                self.shard.handle_timeout(Instant::from_nanos(self.now));
                self.model.pass_time(self.now);
            }
            Step::Dies(client) => {
                self.shard.drop_client(NodeSlot::LOCAL, ClientId::new(client));
                self.model.client_dies(client);
            }
            Step::Purge(client) => {
                self.shard.purge(client.map(ClientId::new));
                self.model.purge(client);
            }
        }
        self.compare(&|| format!("{step:?} on {before:?}"));
    }

    fn compare(&mut self, what: &dyn Fn() -> String) {
        let events: Vec<Event> =
            core::iter::from_fn(|| self.shard.poll_output()).map(|output| event(&output)).collect();
        assert_eq!(
            events,
            core::mem::take(&mut self.model.events),
            "left: the shard, right: the model, after {}",
            what()
        );
        let state = self.shard.resource_state(Instant::from_nanos(self.now), None, b"it").unwrap();
        let locks = state.map_or_else(Vec::new, |state| state.locks);
        let ours: Vec<_> =
            locks.iter().map(|lock| (lock.queue, lock.owner.tag, lock.held, lock.asked)).collect();
        let lists = [
            (Queue::Granted, &self.model.granted),
            (Queue::Converting, &self.model.converting),
            (Queue::Waiting, &self.model.waiting),
        ];
        let theirs: Vec<_> = lists
            .into_iter()
            .flat_map(|(queue, list)| list.iter().map(move |lock| (queue, lock.tag, lock.held, lock.asked)))
            .collect();
        assert_eq!(ours, theirs, "left: the shard, right: the model, after {}", what());
        self.shard.check_invariants();
    }
}

const fn status(status: Status) -> &'static str {
    match status {
        Status::Granted => "Granted",
        Status::NotQueued => "NotQueued",
        Status::Deadlock => "Deadlock",
        Status::TimedOut => "TimedOut",
        Status::Cancelled => "Cancelled",
        Status::Unlocked => "Unlocked",
        Status::Lost => "Lost",
    }
}

fn event(output: &Output) -> Event {
    match output {
        Output::Completed(c) => Event::Ended {
            tag: c.owner.tag,
            how: status(c.status),
            held: c.held,
            remarks: c.remarks.bits(),
            token: c.token.sequence,
            value: c.value.map(|value| value.as_bytes().to_vec()),
        },
        Output::Blocking(b) => Event::Blocks { tag: b.owner.tag, wanted: b.wanted },
        Output::Route(_) => unreachable!("there is one node"),
    }
}

fn draw(rng: &mut Rng) -> Step {
    let word = rng.next_u64();
    let [a, b, c, d, ..] = word.to_be_bytes();
    let bits = u32::try_from(rng.below(1 << 32)).unwrap();
    let mode = Mode::from_raw(a % 6).unwrap();
    let wait = (b % 4 == 0).then(|| u64::from(c) + 1);
    let client = u32::from(b) % CLIENTS;
    let which = usize::from(d);
    match c % 32 {
        0..11 => Step::Request { client, mode, flags: bits, wait },
        11..20 => Step::Convert { which, mode, flags: bits, wait },
        20..27 => Step::Release { which, flags: bits },
        27..29 => Step::Cancel { which },
        29 => Step::Time(u64::from(d) / 4),
        30 => Step::Dies(client),
        _ => Step::Purge((a % 2 == 0).then_some(client)),
    }
}

fn run(seed: u64, steps: u64) {
    let mut rng = Rng::new(seed);
    let order = if seed % 4 == 3 { ConversionOrder::Queued } else { ConversionOrder::AtOnce };
    let mut pair = Pair::new(order);
    for _ in 0..steps {
        pair.take(draw(&mut rng));
    }
    while let Some(tag) = pair.pick(0) {
        pair.shard.release(pair.ids[&tag], Flags::FORCEUNLOCK, None).unwrap();
        assert!(pair.model.release(tag, Flags::FORCEUNLOCK, &[]));
        pair.compare(&|| "the end".to_owned());
    }
    pair.take(Step::Purge(None));
    assert_eq!((pair.shard.locks(), pair.shard.resources()), (0, 0), "all is given back");
}

#[test]
fn a_shard_does_what_the_slow_model_does() {
    for seed in 0..200 {
        run(seed, 500);
    }
}

#[test]
#[ignore = "5 million operations: half a minute"]
fn a_shard_does_what_the_slow_model_does_for_long() {
    for seed in 1000..2000 {
        run(seed, 5000);
    }
}

fn step() -> impl Strategy<Value = Step> {
    any::<u64>().prop_map(|seed| draw(&mut Rng::new(seed)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_steps_both_agree(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new(ConversionOrder::AtOnce);
        for step in steps {
            pair.take(step);
        }
    }
}
