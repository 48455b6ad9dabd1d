//! Goal: a lock costs as many messages in a row as PROTOCOL.md says, and a node that gave up takes part again only as a
//! joiner.
//!
//! Method: three engines and a network that delivers at once and counts how many messages had to follow each other.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "engines/domains.rs"]
mod domains;
#[path = "engines/kept.rs"]
mod kept;

use bytes::Bytes;
use ocf_dlm::cluster::{
    Ask, ClusterView, Completed, Config, Engine, Holder, Input, OrderError, Output, Sabotage, TreeState,
    ViewMember, WaitReason, Waiting,
};
use ocf_dlm::deadlock::VictimPolicy;
use ocf_dlm::directory::{Placement, Slot, Weighted};
use ocf_dlm::wire::{
    Answer, Batch, Item, Key, Message, OrderRefusal, Outcome, Proof, ReleaseGuard, ResourceReport, Value,
};
use ocf_dlm::{ClientId, Flags, Mode, Status, ValueBlock};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

fn instance(node: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(node), Incarnation::new(u128::from(node) << 64))
}

fn view(number: u64, members: &[(u32, u64)], previous: &[u32]) -> ClusterView {
    let member =
        |(node, joined): &(u32, u64)| ViewMember { instance: instance(*node), weight: 1, joined: *joined };
    let weighted = |node: &u32| Weighted { instance: instance(*node), weight: 1 };
    ClusterView {
        number,
        members: members.iter().map(member).collect(),
        previous: previous.iter().map(weighted).collect(),
        unproven: Vec::new(),
    }
}

/// Three nodes. Each message carries how many had to go before it.
struct Three {
    engines: BTreeMap<NodeInstance, Engine>,
    network: VecDeque<(u32, NodeInstance, NodeInstance, Bytes)>,
    /// What clients were told, and after how many messages in a row.
    told: Vec<(u32, NodeInstance, Output)>,
    messages: usize,
    /// Answers of nodes that were taken for the master.
    retries: usize,
    /// Claims in messages.
    claims: usize,
    /// What engines leave to be done stays so until they are told.
    by_hand: bool,
    /// Of the locks that are asked for next.
    signal: u64,
}

impl Three {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(bug: Option<Sabotage>) -> Self {
        Self::with_config(bug, &Config::default())
    }

    fn with_config(bug: Option<Sabotage>, config: &Config) -> Self {
        let engine = |node| {
            let mut engine = Engine::new(config.clone(), instance(node)).unwrap();
            if let Some(bug) = bug {
                engine.sabotage(bug);
            }
            (instance(node), engine)
        };
        let mut three = Self {
            engines: (1..=3).map(engine).collect(),
            network: VecDeque::new(),
            told: Vec::new(),
            messages: 0,
            retries: 0,
            claims: 0,
            by_hand: false,
            signal: 0,
        };
        three.install(&view(1, &[(1, 1), (2, 1), (3, 1)], &[]));
        three
    }

    fn install(&mut self, view: &ClusterView) {
        for member in &view.members {
            self.hear(member.instance, Input::View(view));
        }
        self.settle();
    }

    fn hear(&mut self, at: NodeInstance, input: Input<'_>) {
        self.engines.get_mut(&at).unwrap().handle(Instant::ZERO, input);
        self.drain(at, 0);
    }

    fn drain(&mut self, at: NodeInstance, depth: u32) {
        let engine = self.engines.get_mut(&at).unwrap();
        while !self.by_hand && engine.poll_timeout().is_some_and(|due| due <= Instant::ZERO) {
            engine.handle_timeout(Instant::ZERO);
        }
        while let Some(output) = engine.poll_output() {
            if let Output::Send { to, message } = output {
                self.network.push_back((depth + 1, at, to, message));
            } else {
                self.told.push((depth, at, output));
            }
        }
    }

    fn settle(&mut self) {
        while let Some((depth, from, to, message)) = self.network.pop_front() {
            self.messages += 1;
            let items = Message::parse(&message).unwrap().items;
            let retry = |item: &&Item| matches!(item, Item::Answer(Answer::Retry { .. }));
            self.retries += items.iter().filter(retry).count();
            self.claims += claims_in(&message);
            if let Some(engine) = self.engines.get_mut(&to) {
                engine.handle(Instant::ZERO, Input::Message { from, message: &message });
                self.drain(to, depth);
            }
        }
    }

    fn ask(&mut self, node: u32, key: &Key, mode: Mode) -> u64 {
        self.ask_with(node, key, mode, Flags::NOTIFY)
    }

    fn ask_with(&mut self, node: u32, key: &Key, mode: Mode, flags: Flags) -> u64 {
        let ask = Ask {
            client: ClientId::new(1),
            key: key.clone(),
            parent: None,
            mode,
            flags,
            transaction: None,
            deadline: None,
            signal: self.signal,
        };
        let lock = self.engines.get_mut(&instance(node)).unwrap().lock(Instant::ZERO, ask).unwrap();
        self.drain(instance(node), 0);
        lock
    }

    /// Asks, and gives after how many messages in a row it was granted.
    fn lock(&mut self, node: u32, key: &Key, mode: Mode) -> (u64, u32) {
        self.told.clear();
        let lock = self.ask(node, key, mode);
        self.settle();
        (lock, self.granted(node, lock).expect("it is granted").0)
    }

    fn convert(&mut self, node: u32, lock: u64, mode: Mode, flags: Flags) {
        let engine = self.engines.get_mut(&instance(node)).unwrap();
        engine.convert(Instant::ZERO, lock, (mode, flags, None), None).unwrap();
        self.drain(instance(node), 0);
    }

    /// Node 3 dies with what was said to it and by it; the others go on, and a while later it is certain that it is dead.
    fn lose_the_third(&mut self) {
        self.engines.remove(&instance(3));
        self.network.retain(|(_, from, to, _)| *from != instance(3) && *to != instance(3));
        self.told.clear();
        self.install(&view(2, &[(1, 1), (2, 1)], &[1, 2, 3]));
        self.hear(instance(1), Input::Proven { instance: instance(3), proof: Proof::Fenced });
        self.settle();
    }

    /// How an operation on the lock ended.
    fn ended(&self, node: u32, lock: u64) -> Option<Status> {
        self.told.iter().find_map(|(_, at, output)| {
            let Output::Completed(done) = output else { return None };
            (*at == instance(node) && done.lock == lock).then_some(done.status)
        })
    }

    fn held(&self, node: u32, lock: u64) -> Option<Mode> {
        self.engines[&instance(node)].lock_state(lock).and_then(|state| state.held)
    }

    fn granted(&self, node: u32, lock: u64) -> Option<(u32, Completed)> {
        self.told.iter().find_map(|(depth, at, output)| {
            let Output::Completed(done) = output else { return None };
            let is_it = *at == instance(node) && done.lock == lock && done.status == Status::Granted;
            is_it.then(|| (*depth, done.clone()))
        })
    }

    /// Gives an order at a node, and what was reported of it.
    fn order(
        &mut self,
        node: u32,
        give: impl FnOnce(&mut Engine) -> Result<u64, OrderError>,
    ) -> Option<Option<Outcome>> {
        let ticket = give(self.engines.get_mut(&instance(node)).unwrap()).unwrap();
        self.drain(instance(node), 0);
        self.settle();
        self.told.iter().find_map(|(_, at, output)| {
            let Output::Reported { ticket: of, outcome } = output else { return None };
            (*at == instance(node) && *of == ticket).then(|| outcome.clone())
        })
    }

    fn report(&mut self, node: u32, now: Instant, key: &Key) -> ResourceReport {
        let reported = self.order(node, |engine| engine.inquire(now, key.clone()));
        let Some(Some(Outcome::Resource(report))) = reported else {
            unreachable!("{reported:?} is no report")
        };
        report
    }

    /// What came with the notices that a lock is in the way.
    fn signals(&self, node: u32, lock: u64) -> Vec<u64> {
        let told = self.told.iter().filter_map(|(_, at, output)| {
            let Output::Blocking { lock: of, signal, .. } = output else { return None };
            ((*at, *of) == (instance(node), lock)).then_some(*signal)
        });
        told.collect()
    }

    fn unlock(&mut self, node: u32, lock: u64) {
        let engine = self.engines.get_mut(&instance(node)).unwrap();
        engine.unlock(Instant::ZERO, lock, Flags::NONE, None).unwrap();
        self.drain(instance(node), 0);
    }
}

fn claims_in(message: &[u8]) -> usize {
    let items = Message::parse(message).unwrap().items;
    items.iter().filter(|item| matches!(item, Item::Claim(_))).count()
}

/// A name whose directory entry that node keeps.
fn kept_by(node: u32) -> Key {
    all_kept_by(node).next().unwrap()
}

fn all_kept_by(node: u32) -> impl Iterator<Item = Key> {
    let members = [1, 2, 3].map(|node| Weighted { instance: instance(node), weight: 1 });
    let placement = Placement::new(&members);
    let keys = (0_u32..).map(|i| Key::root(b"space", &i.to_be_bytes()));
    keys.filter(move |key| placement.owner(Slot::of(&key.tree)) == instance(node))
}

#[test]
fn a_lock_costs_as_many_messages_in_a_row_as_the_table_says() {
    let mut three = Three::new();
    let key = kept_by(1);
    let (first, hops) = three.lock(2, &key, Mode::Pr);
    assert_eq!(hops, 2, "nobody masters it: the keeper is asked, and gives it away");
    let (again, hops) = three.lock(2, &key, Mode::Pr);
    assert_eq!(hops, 0, "it is mastered here");
    let (third, hops) = three.lock(3, &key, Mode::Pr);
    assert_eq!(hops, 3, "the keeper passes the request on, the master answers");
    let (later, hops) = three.lock(3, &key, Mode::Pr);
    assert_eq!(hops, 2, "the master is known");
    let own = kept_by(3);
    assert_eq!(three.lock(3, &own, Mode::Ex).1, 0, "the keeper is here, and nobody masters it");
    let before = three.messages;
    three.unlock(3, third);
    three.settle();
    assert_eq!(three.messages, before + 1, "a release is one message, and not answered");
    for (node, lock) in [(2, first), (2, again), (3, later)] {
        three.unlock(node, lock);
    }
    three.settle();
}

#[test]
fn a_contended_lock_is_handed_over_in_four_messages() {
    let mut three = Three::new();
    let key = kept_by(1);
    let (_, _) = three.lock(1, &key, Mode::Nl);
    let (held, _) = three.lock(2, &key, Mode::Ex);
    let (warm, _) = three.lock(3, &key, Mode::Nl);
    three.told.clear();
    let wanted = three.ask(3, &key, Mode::Ex);
    three.settle();
    let told =
        |output: &Output| matches!(output, Output::Blocking { lock, wanted: Mode::Ex, .. } if *lock == held);
    let depth = three.told.iter().find(|(_, at, output)| *at == instance(2) && told(output)).unwrap().0;
    assert_eq!(depth, 2, "the request, and the notice to the holder");
    assert!(three.granted(3, wanted).is_none(), "not before it is free");
    three.unlock(2, held);
    three.settle();
    assert_eq!(three.granted(3, wanted).unwrap().0, 2, "the release, and the grant");
    three.unlock(3, warm);
}

#[test]
fn the_lock_of_a_lost_node_comes_after_the_proof_and_with_a_greater_token() {
    let mut three = Three::new();
    let key = kept_by(1);
    let (lock, _) = three.lock(3, &key, Mode::Ex);
    let before = three.granted(3, lock).unwrap().1.token;
    three.engines.remove(&instance(3));
    three.install(&view(2, &[(1, 1), (2, 1)], &[1, 2, 3]));
    three.told.clear();
    let wanted = three.ask(2, &key, Mode::Ex);
    three.settle();
    assert!(three.granted(2, wanted).is_none(), "who held it may be alive");
    let proof = Proof::Fenced;
    three.hear(instance(1), Input::Proven { instance: instance(3), proof });
    three.settle();
    let after = three.granted(2, wanted).expect("it is certain now").1;
    assert!(after.token > before, "{} after {before}", after.token);
    assert!(after.remarks.value_invalid, "who died could have been writing");
}

#[test]
fn a_node_that_gave_up_takes_part_again_only_as_a_joiner() {
    let mut three = Three::new();
    let key = kept_by(1);
    let (lock, _) = three.lock(2, &key, Mode::Ex);
    three.told.clear();
    three.hear(instance(2), Input::NonPrimary);
    let lost = |output: &Output| matches!(output, Output::Lost { lock: lost, .. } if *lost == lock);
    assert!(three.told.iter().any(|(_, _, output)| lost(output)), "the holder is told");
    three.hear(instance(2), Input::View(&view(2, &[(1, 1), (2, 1), (3, 1)], &[1, 2, 3])));
    assert!(!three.engines[&instance(2)].snapshot().active, "the others take it for what it was");
    three.install(&view(3, &[(1, 1), (2, 3), (3, 1)], &[1, 2, 3]));
    assert!(three.engines[&instance(2)].snapshot().active);
    let (_, hops) = three.lock(3, &key, Mode::Ex);
    assert_eq!(hops, 2, "what it held and mastered is free");
}

#[test]
fn a_dormant_node_gives_up_its_locks_and_keeps_what_it_knows_of_those_of_others() {
    let mut three = Three::new();
    let (here, there) = (kept_by(2), kept_by(1));
    let (mine, _) = three.lock(2, &here, Mode::Ex);
    // Locks of others keep the value blocks.
    three.lock(3, &there, Mode::Nl);
    three.lock(1, &here, Mode::Nl);
    let (remote, _) = three.lock(2, &there, Mode::Pw);
    let other = Key::root(b"space", b"mastered by the second");
    three.lock(2, &other, Mode::Nl);
    let (theirs, _) = three.lock(3, &other, Mode::Ex);
    let before = three.granted(3, theirs).unwrap().1.token;
    three.told.clear();
    three.hear(instance(2), Input::Suspended);
    three.hear(instance(2), Input::Dormant);
    let lost = |lock: u64| {
        let lost = |output: &Output| matches!(output, Output::Lost { lock: l, .. } if *l == lock);
        three.told.iter().any(|(_, at, output)| *at == instance(2) && lost(output))
    };
    assert!(lost(mine) && lost(remote), "its holders are told");
    assert!(three.engines[&instance(2)].lock_state(mine).is_none());
    let waits = three.ask(2, &other, Mode::Pr);
    three.settle();
    assert!(three.granted(2, waits).is_none(), "nothing is granted meanwhile");
    three.install(&view(2, &[(1, 1), (2, 1), (3, 1)], &[1, 2, 3]));
    assert!(three.engines[&instance(2)].snapshot().active, "the view goes on with it");
    three.settle();
    assert!(three.granted(2, waits).is_none(), "the lock of another node stands");
    for (key, who) in [(&here, 1), (&there, 3)] {
        let (lock, _) = three.lock(who, key, Mode::Ex);
        let granted = three.granted(who, lock).expect("what it gave up is free").1;
        assert!(granted.remarks.value_invalid, "it could have been writing");
    }
    three.unlock(3, theirs);
    three.settle();
    assert!(three.granted(2, waits).expect("it waited").1.token >= before);
}

#[test]
fn who_cannot_keep_what_waits_gives_up_and_says_so() {
    let config = Config { held_bytes_max: 4096, ..Config::default() };
    let mut engine = Engine::new(config, instance(1)).unwrap();
    engine.handle(Instant::ZERO, Input::View(&view(1, &[(1, 1), (2, 1)], &[])));
    let mut early = Batch::new(2);
    while early.len() < 1000 {
        early.push(&Item::Cancel { lock: 1, op: 1 });
    }
    let early = early.finish();
    let mut overrun = 0;
    for _ in 0..5 {
        engine.handle(Instant::ZERO, Input::Message { from: instance(2), message: &early });
        overrun += core::iter::from_fn(|| engine.poll_output()).filter(|o| *o == Output::Overrun).count();
    }
    assert_eq!(overrun, 1, "at the message that is too much");
    assert!(!engine.snapshot().active);
    engine.handle(Instant::ZERO, Input::View(&view(2, &[(1, 2), (2, 1)], &[1, 2])));
    assert!(!engine.snapshot().active, "a part of what was said in that view is dropped");
    engine.handle(Instant::ZERO, Input::View(&view(3, &[(1, 3), (2, 1)], &[1, 2])));
    assert!(engine.snapshot().active, "it has joined anew");
}

/// Two conversions of which the first waits for the second's lock, and the second would wait behind the first: they die
/// with their master before it decides them.
fn undecided_conversions(bug: Option<Sabotage>) -> (Three, u64, u64) {
    let mut three = Three::with(bug);
    let key = kept_by(1);
    three.lock(3, &key, Mode::Nl);
    let (first, _) = three.lock(2, &key, Mode::Nl);
    let (second, _) = three.lock(2, &key, Mode::Cw);
    three.convert(2, first, Mode::Pr, Flags::NOTIFY);
    three.convert(2, second, Mode::Pw, Flags::NOTIFY);
    three.lose_the_third();
    (three, first, second)
}

#[test]
fn conversions_that_a_lost_master_never_decided_are_not_left_in_a_deadlock() {
    let (mut three, first, second) = undecided_conversions(None);
    assert_eq!(three.ended(2, second), Some(Status::Deadlock), "it would wait behind who waits for it");
    assert_eq!(three.held(2, second), Some(Mode::Cw), "and keeps what it held");
    assert_eq!(three.ended(2, first), None, "CW is in the way");
    three.unlock(2, second);
    three.settle();
    assert_eq!(three.ended(2, first), Some(Status::Granted));
}

#[test]
fn a_claim_of_what_nobody_decided_leaves_conversions_in_a_deadlock() {
    let (three, first, second) = undecided_conversions(Some(Sabotage::ClaimUndecided));
    assert_eq!((three.ended(2, first), three.ended(2, second)), (None, None), "both wait, for ever");
}

#[test]
fn a_request_that_is_not_to_wait_does_not_wait_after_its_master_died() {
    let mut three = Three::new();
    let key = kept_by(1);
    three.lock(3, &key, Mode::Nl);
    three.lock(1, &key, Mode::Ex);
    three.lock(2, &key, Mode::Nl);
    let asked = three.ask_with(2, &key, Mode::Pr, Flags::NOQUEUE);
    three.lose_the_third();
    assert_eq!(three.ended(2, asked), Some(Status::NotQueued));
}

/// Two readers convert to EX, the second with CONVDEADLK: it goes down to NL, and the first has EX. Then the master dies.
/// `told`: the second has heard of it.
fn demoted_conversion(bug: Option<Sabotage>, told: bool) -> (Three, u64, u64) {
    let mut three = Three::with(bug);
    let key = kept_by(1);
    three.lock(3, &key, Mode::Nl);
    let read = |three: &mut Three, node| {
        let lock = three.ask_with(node, &key, Mode::Pr, Flags::VALBLK);
        three.settle();
        lock
    };
    let (first, second) = (read(&mut three, 1), read(&mut three, 2));
    three.convert(1, first, Mode::Ex, Flags::VALBLK);
    three.settle();
    three.convert(2, second, Mode::Ex, Flags::VALBLK | Flags::CONVDEADLK);
    if !told {
        let (_, from, to, message) = three.network.pop_front().expect("the conversion");
        assert_eq!((from, to, three.network.len()), (instance(2), instance(3), 0));
        three.hear(to, Input::Message { from, message: &message });
        three.network.retain(|(_, _, to, _)| *to == instance(1));
    }
    three.settle();
    assert_eq!(three.held(1, first), Some(Mode::Ex));
    three.lose_the_third();
    (three, first, second)
}

#[test]
fn a_lock_that_went_down_to_end_a_deadlock_holds_nothing_after_its_master_died() {
    for told in [true, false] {
        let (mut three, first, second) = demoted_conversion(None, told);
        assert_eq!(three.held(1, first), Some(Mode::Ex), "told {told}");
        assert_eq!((three.held(2, second), three.ended(2, second)), (Some(Mode::Nl), None), "told {told}");
        let value = Value { block: ValueBlock::zero(32).with_number(7), sequence: 0 };
        let engine = three.engines.get_mut(&instance(1)).unwrap();
        engine.unlock(Instant::ZERO, first, Flags::VALBLK, Some(value)).unwrap();
        three.drain(instance(1), 0);
        three.settle();
        let done = three.granted(2, second).expect("nobody is in the way").1;
        assert!(done.remarks.demoted, "others had the resource meanwhile");
        assert_eq!(done.value.map(|value| value.block.number()), Some(7), "and this is what they wrote");
    }
}

/// The master of a tree gave it up, and has it again by the time at which the second of two requests comes: it refers the first
/// elsewhere and grants the second. What was referred elsewhere makes the node ask for the master; then both are given back.
#[test]
fn what_was_granted_while_the_way_to_the_master_was_lost_is_free_when_it_is_given_back() {
    for stop in [false, true] {
        let mut three = Three::new();
        let key = kept_by(1);
        let (master, _) = three.lock(3, &key, Mode::Nl);
        let (user, _) = three.lock(2, &key, Mode::Nl);
        three.unlock(2, user);
        three.settle();
        three.unlock(3, master);
        let idle = Instant::ZERO + Config::default().idle_after + Duration::from_secs(1);
        three.engines.get_mut(&instance(3)).unwrap().handle_timeout(idle);
        three.drain(instance(3), 0);
        three.settle();
        let deliver = |three: &mut Three| {
            let (_, from, to, message) = three.network.pop_front().expect("a message");
            three.hear(to, Input::Message { from, message: &message });
        };
        let first = three.ask(2, &key, Mode::Ex);
        deliver(&mut three);
        let referred = three.network.pop_back().expect("an answer");
        three.lock(3, &key, Mode::Nl);
        let second = three.ask(2, &key, Mode::Ex);
        deliver(&mut three);
        assert_eq!(three.network.len(), 1, "it is granted, and nobody was told yet");
        three.network.push_front(referred);
        deliver(&mut three);
        deliver(&mut three);
        assert_eq!((three.ended(2, first), three.ended(2, second)), (None, None));
        let engine = three.engines.get_mut(&instance(2)).unwrap();
        if stop {
            engine.cancel(Instant::ZERO, second).unwrap();
        } else {
            engine.unlock(Instant::ZERO, second, Flags::FORCEUNLOCK, None).unwrap();
        }
        engine.unlock(Instant::ZERO, first, Flags::FORCEUNLOCK, None).unwrap();
        three.drain(instance(2), 0);
        three.settle();
        three.lock(1, &key, Mode::Ex);
    }
}

/// A reader asks to write beside others (PR to CW), and its master dies after granting that, before it said so. It may have had
/// CW itself by then. Then another reader asks.
fn crossing_conversion(bug: Option<Sabotage>) -> (Three, u64, u64) {
    let mut three = Three::with(bug);
    let key = kept_by(1);
    three.lock(3, &key, Mode::Nl);
    let (crossing, _) = three.lock(2, &key, Mode::Pr);
    three.convert(2, crossing, Mode::Cw, Flags::NONE);
    let (_, from, to, message) = three.network.pop_front().expect("the conversion");
    assert_eq!((from, to, three.network.len()), (instance(2), instance(3), 0));
    three.hear(to, Input::Message { from, message: &message });
    three.engines.remove(&instance(3));
    three.network.clear();
    three.told.clear();
    three.install(&view(2, &[(1, 1), (2, 1)], &[1, 2, 3]));
    let reader = three.ask_with(1, &key, Mode::Pr, Flags::NOORDER);
    three.settle();
    (three, crossing, reader)
}

#[test]
fn a_reader_that_was_to_write_when_its_master_died_reads_no_more() {
    let (mut three, crossing, reader) = crossing_conversion(None);
    assert_eq!((three.held(2, crossing), three.ended(2, crossing)), (Some(Mode::Cr), None));
    assert_eq!(three.ended(1, reader), None, "the lost master may hold CW, and be alive");
    three.hear(instance(1), Input::Proven { instance: instance(3), proof: Proof::Fenced });
    three.settle();
    let done = three.granted(2, crossing).expect("nobody is in the way").1;
    assert_eq!((done.held, done.remarks.demoted), (Some(Mode::Cw), true));
    assert_eq!(three.ended(1, reader), None, "now it is the writer that is in the way");

    let (three, _, reader) = crossing_conversion(Some(Sabotage::ForgetDemotions));
    assert_eq!(three.ended(1, reader), Some(Status::Granted), "beside a writer that may be alive");
}

#[test]
fn a_demotion_that_is_forgotten_leaves_two_holders() {
    for told in [true, false] {
        let (three, first, second) = demoted_conversion(Some(Sabotage::ForgetDemotions), told);
        let held = (three.held(1, first), three.held(2, second));
        assert_eq!(held, (Some(Mode::Ex), Some(Mode::Pr)), "told {told}");
    }
}

#[test]
fn who_went_down_to_end_a_deadlock_and_is_released_writes_nothing() {
    for told in [true, false] {
        let mut three = Three::new();
        let key = kept_by(1);
        three.lock(3, &key, Mode::Nl);
        let (reader, _) = three.lock(1, &key, Mode::Cr);
        let (writer, _) = three.lock(2, &key, Mode::Pw);
        three.convert(1, reader, Mode::Pw, Flags::VALBLK);
        three.settle();
        three.convert(2, writer, Mode::Ex, Flags::VALBLK | Flags::CONVDEADLK);
        if told {
            three.settle();
            assert_eq!((three.held(1, reader), three.held(2, writer)), (Some(Mode::Pw), Some(Mode::Nl)));
        }
        three.told.clear();
        let late = Value { block: ValueBlock::zero(32).with_number(7), sequence: 0 };
        let engine = three.engines.get_mut(&instance(2)).unwrap();
        engine.unlock(Instant::ZERO, writer, Flags::VALBLK | Flags::FORCEUNLOCK, Some(late)).unwrap();
        three.drain(instance(2), 0);
        let released = three.told.iter().find_map(|(_, _, output)| {
            let Output::Completed(done) = output else { return None };
            (done.lock == writer).then_some((done.status, done.remarks.demoted))
        });
        assert_eq!(released, Some((Status::Unlocked, told)), "the demotion is told as far as it is known");
        three.settle();
        three.convert(1, reader, Mode::Cr, Flags::NONE);
        three.settle();
        let last = three.ask_with(3, &key, Mode::Pr, Flags::VALBLK);
        three.settle();
        let read = three.granted(3, last).expect("nobody is in the way").1;
        assert_eq!(read.value.map(|value| value.block.number()), Some(0), "told {told}");
        assert!(!read.remarks.value_invalid);
    }
}

#[test]
fn a_holder_in_the_way_is_told_by_the_new_master_what_the_old_one_could_not_tell() {
    for (bug, told) in [(None, true), (Some(Sabotage::ForgetNotices), false)] {
        let mut three = Three::with(bug);
        let key = kept_by(1);
        three.lock(3, &key, Mode::Nl);
        let (held, _) = three.lock(1, &key, Mode::Ex);
        three.lock(2, &key, Mode::Nl);
        three.ask(2, &key, Mode::Ex);
        let (_, from, to, message) = three.network.pop_front().expect("the request");
        three.hear(to, Input::Message { from, message: &message });
        // Who asks hears that it waits; the notice to the holder dies with the master.
        three.network.retain(|(_, _, to, _)| *to == instance(2));
        three.settle();
        three.lose_the_third();
        let notice = |output: &Output| matches!(output, Output::Blocking { lock, .. } if *lock == held);
        assert_eq!(three.told.iter().any(|(_, _, output)| notice(output)), told, "{bug:?}");
    }
}

#[test]
fn a_notice_has_the_signal_of_who_waits_also_from_a_new_master() {
    let mut three = Three::new();
    let key = kept_by(1);
    three.lock(3, &key, Mode::Nl);
    let (held, _) = three.lock(1, &key, Mode::Ex);
    three.told.clear();
    for (node, mode, signal) in [(2, Mode::Pr, 7), (3, Mode::Ex, 8), (2, Mode::Ex, 9), (3, Mode::Cr, 10)] {
        three.signal = signal;
        three.ask(node, &key, mode);
        three.settle();
    }
    assert_eq!(three.signals(1, held), [7, 8], "the next in that mode waits behind");
    three.lose_the_third();
    assert_eq!(three.signals(1, held), [9], "what asks for most, of those who are left");
}

#[test]
fn a_conversion_that_waits_has_the_signal_of_its_lock_also_at_a_new_master() {
    let mut three = Three::new();
    let key = kept_by(1);
    three.lock(3, &key, Mode::Nl);
    let (held, _) = three.lock(1, &key, Mode::Pr);
    three.signal = 7;
    let (converts, _) = three.lock(2, &key, Mode::Pr);
    three.told.clear();
    three.convert(2, converts, Mode::Ex, Flags::NOTIFY);
    three.settle();
    assert_eq!(three.signals(1, held), [7]);
    three.lose_the_third();
    assert_eq!(three.signals(1, held), [7], "told anew, for it may have been lost");
    three.unlock(1, held);
    three.settle();
    assert_eq!(three.held(2, converts), Some(Mode::Ex));
}

#[test]
fn who_is_refused_with_noqueuebast_shows_its_signal() {
    let mut three = Three::new();
    let key = kept_by(1);
    let (held, _) = three.lock(2, &key, Mode::Ex);
    three.told.clear();
    three.signal = 9;
    let refused = three.ask_with(3, &key, Mode::Ex, Flags::NOQUEUE | Flags::NOQUEUEBAST);
    three.settle();
    assert_eq!(three.ended(3, refused), Some(Status::NotQueued));
    assert_eq!(three.signals(2, held), [9]);
}

#[test]
fn who_went_down_to_end_a_deadlock_does_not_wait_ahead_of_whom_it_waits_for() {
    let mut three = Three::new();
    let key = kept_by(1);
    let [first, second, third] = [1, 2, 3].map(|node| three.lock(node, &key, Mode::Pr).0);
    three.convert(1, first, Mode::Cw, Flags::NONE);
    three.settle();
    three.convert(2, second, Mode::Cw, Flags::HEADQUE | Flags::CONVDEADLK);
    three.settle();
    three.unlock(3, third);
    three.settle();
    assert_eq!(
        (three.ended(1, first), three.ended(2, second)),
        (Some(Status::Granted), Some(Status::Granted))
    );
}

#[test]
fn a_lock_that_nobody_could_claim_is_asked_for_as_if_it_was_new() {
    let mut three = Three::new();
    let key = kept_by(1);
    let (seen, _) = three.lock(3, &key, Mode::Nl);
    let (known, _) = three.lock(2, &key, Mode::Nl);
    three.unlock(2, known);
    three.settle();
    let wanted = three.ask(2, &key, Mode::Ex);
    three.lose_the_third();
    assert_eq!(three.ended(2, wanted), Some(Status::Granted), "after {seen} of the lost node is proven dead");
    assert_eq!(three.retries, 0, "nobody is taken for a master that is none");
}

/// A request is granted in one view, and the answer comes in the next, in which the directory is asked again: it is not
/// taken. The request is given up, and yet another view comes before the directory answers. Can another node have the lock?
fn released_while_the_master_is_looked_for(bug: Option<Sabotage>) -> Option<Status> {
    let mut three = Three::with(bug);
    let key = kept_by(1);
    three.lock(2, &key, Mode::Nl);
    let given_up = three.ask(3, &key, Mode::Ex);
    for (from, to) in [(3, 1), (1, 2)] {
        let (_, sender, receiver, message) = three.network.pop_front().expect("the lookup, then the request");
        assert_eq!((sender, receiver), (instance(from), instance(to)));
        three.hear(receiver, Input::Message { from: sender, message: &message });
    }
    let (_, _, _, answer) = three.network.pop_front().expect("the answer of the master");
    let all = [(1, 1), (2, 1), (3, 1)];
    let [second, third] = [2, 3].map(|number| view(number, &all, &[1, 2, 3]));
    three.hear(instance(3), Input::View(&second));
    three.hear(instance(3), Input::Message { from: instance(2), message: &answer });
    assert_eq!(three.granted(3, given_up), None, "it is asked for again");
    let engine = three.engines.get_mut(&instance(3)).unwrap();
    engine.unlock(Instant::ZERO, given_up, Flags::FORCEUNLOCK, None).unwrap();
    three.drain(instance(3), 0);
    three.hear(instance(3), Input::View(&third));
    for view in [&second, &third] {
        for node in [1, 2] {
            three.hear(instance(node), Input::View(view));
        }
    }
    three.settle();
    three.told.clear();
    let wanted = three.ask(1, &key, Mode::Ex);
    three.settle();
    three.ended(1, wanted)
}

#[test]
fn what_is_released_while_its_master_is_looked_for_is_free() {
    assert_eq!(released_while_the_master_is_looked_for(None), Some(Status::Granted));
    assert_eq!(released_while_the_master_is_looked_for(Some(Sabotage::ForgetReleases)), None);
}

/// Trees in which the lost node's locks, or its mastership, are to be made up for.
const MANY: usize = 500;
/// Steps of one call.
const TURN: usize = 16;

#[test]
fn a_node_with_many_locks_of_a_lost_master_works_in_turns_and_grants_other_locks_meanwhile() {
    let config = Config { turn_max: TURN, claims_ahead_max: 4 * TURN, ..Config::default() };
    let mut three = Three::with_config(None, &config);
    let many: Vec<Key> = all_kept_by(2).take(MANY).collect();
    for key in &many {
        three.lock(3, key, Mode::Nl);
        three.lock(1, key, Mode::Pr);
    }
    let (beside, here) = (all_kept_by(2).nth(MANY).unwrap(), kept_by(1));
    three.lock(2, &beside, Mode::Nl);
    three.lock(1, &beside, Mode::Nl);
    three.lock(1, &here, Mode::Nl);
    three.engines.remove(&instance(3));
    three.by_hand = true;
    three.told.clear();
    three.claims = 0;
    let second = view(2, &[(1, 1), (2, 1)], &[1, 2, 3]);
    for node in [1, 2] {
        three.hear(instance(node), Input::View(&second));
    }
    let recovered = |three: &Three| {
        three.told.iter().filter(|(_, _, output)| *output == Output::Recovered { epoch: 2 }).count()
    };
    let (mut turns, mut ahead_max) = (0, 0);
    while recovered(&three) < 2 {
        turns += 1;
        assert!(turns < 100 * MANY / TURN, "it comes to an end");
        for node in [1, 2] {
            let claimed = three.network.iter().map(|(_, _, _, message)| claims_in(message)).sum::<usize>();
            let engine = three.engines.get_mut(&instance(node)).unwrap();
            if engine.poll_timeout().is_some_and(|due| due <= Instant::ZERO) {
                engine.handle_timeout(Instant::ZERO);
            }
            three.drain(instance(node), 0);
            let after = three.network.iter().map(|(_, _, _, message)| claims_in(message)).sum::<usize>();
            assert!(after - claimed <= TURN, "a turn claims no more");
            ahead_max = ahead_max.max(after);
        }
        if turns % 7 == 1 {
            let known = three.told.len();
            let asked = three.ask(1, &here, Mode::Ex);
            assert_eq!(three.held(1, asked), Some(Mode::Ex), "it is mastered here, and granted by the call");
            three.unlock(1, asked);
            let asked = three.ask(1, &beside, Mode::Ex);
            three.settle();
            assert_eq!(three.held(1, asked), Some(Mode::Ex), "its master lives, and needs no turn for it");
            three.unlock(1, asked);
            assert!(three.told.len() > known);
        } else if turns % 2 == 0 {
            three.settle();
        }
    }
    assert!(turns > MANY / TURN, "{turns} turns are not all at once");
    assert!(ahead_max <= 5 * TURN, "{ahead_max} claims were on their way");
    three.settle();
    assert_eq!(three.claims, MANY);
    three.by_hand = false;
    let (last, _) = three.lock(2, &many[MANY - 1], Mode::Pr);
    assert_eq!(three.engines[&instance(2)].snapshot().stats.recovered, MANY as u64);
    three.unlock(2, last);
    three.settle();
    for engine in three.engines.values() {
        engine.check_invariants().unwrap();
    }
}

#[test]
fn what_a_new_master_grants_before_it_serves_all_that_it_rebuilds_is_not_lost() {
    let mut three = Three::with_config(None, &Config { turn_max: 1, ..Config::default() });
    let keys: Vec<Key> = all_kept_by(1).take(2).collect();
    three.lock(3, &keys[0], Mode::Nl);
    three.lock(3, &keys[1], Mode::Nl);
    let (held, _) = three.lock(1, &keys[0], Mode::Ex);
    three.lock(1, &keys[1], Mode::Ex);
    let waits = three.ask(2, &keys[0], Mode::Ex);
    three.settle();
    assert_eq!(three.held(2, waits), None);
    three.engines.remove(&instance(3));
    three.by_hand = true;
    for node in [1, 2] {
        three.hear(instance(node), Input::Proven { instance: instance(3), proof: Proof::Fenced });
    }
    let second = view(2, &[(1, 1), (2, 1)], &[1, 2, 3]);
    for node in [1, 2] {
        three.hear(instance(node), Input::View(&second));
    }
    let mut given_back = false;
    for _ in 0..100 {
        for node in [2, 1] {
            three.settle();
            let engine = three.engines.get_mut(&instance(node)).unwrap();
            engine.handle_timeout(Instant::ZERO);
            three.drain(instance(node), 0);
            let trees: Vec<_> = three.engines[&instance(1)].trees().collect();
            let rebuilt = trees.iter().filter(|tree| tree.state == TreeState::Here).count();
            let first = trees.iter().any(|t| *t.name == *keys[0].tree && t.state == TreeState::Here);
            if !given_back && rebuilt == 1 && first {
                given_back = true;
                three.unlock(1, held);
            }
        }
    }
    assert!(given_back, "between the first tree and the second");
    assert_eq!(three.held(2, waits), Some(Mode::Ex));
    assert!(three.granted(2, waits).is_some(), "its client is told");
    three.by_hand = false;
    three.unlock(2, waits);
    three.settle();
    three.lock(1, &keys[0], Mode::Ex);
    for engine in three.engines.values() {
        engine.check_invariants().unwrap();
    }
}

#[test]
fn an_orphan_and_its_age_survive_the_master_and_it_is_purged_from_another_node() {
    let mut three = Three::new();
    let key = kept_by(1);
    // The third node masters it.
    let first = three.lock(3, &key, Mode::Nl).0;
    three.unlock(3, first);
    three.settle();
    let orphan = three.ask_with(2, &key, Mode::Ex, Flags::PERSISTENT | Flags::VALBLK);
    three.settle();
    let engine = three.engines.get_mut(&instance(2)).unwrap();
    assert_eq!((engine.end_client(Instant::ZERO, ClientId::new(1)), engine.snapshot().orphans), (1, 1));
    three.drain(instance(2), 0);
    three.settle();
    let before = three.report(1, Instant::ZERO, &key);
    assert!(before.master == Some(instance(3)) && before.locks[0].orphan, "{before:?}");
    three.lose_the_third();
    let later = Instant::from_millis(500);
    let after = three.report(1, later, &key);
    let seen = after.locks[0];
    assert_eq!((after.master, seen.node, seen.lock), (Some(instance(1)), instance(2), orphan));
    assert_eq!((seen.held, seen.orphan, seen.departed, seen.age_ms), (Some(Mode::Ex), true, false, 500));
    let wanted = three.ask(1, &key, Mode::Pr);
    three.settle();
    assert!(three.granted(1, wanted).is_none(), "it is held as long as nobody adopts or purges it");
    let other = three.order(1, |engine| engine.purge(later, instance(2), Some(ClientId::new(7))));
    assert_eq!(other, Some(Some(Outcome::Released(0))), "another client's");
    let of_another = all_kept_by(1).nth(1).unwrap();
    let other = three.order(1, |engine| engine.purge_resource(later, instance(2), of_another));
    assert_eq!(other, Some(Some(Outcome::Released(0))), "another resource's");
    let purged = three.order(1, |engine| engine.purge_resource(later, instance(2), key.clone()));
    assert_eq!(purged, Some(Some(Outcome::Released(1))));
    let granted = three.granted(1, wanted).expect("it was purged").1;
    assert!(granted.remarks.value_invalid, "it could write");
    assert_eq!(three.engines[&instance(2)].snapshot().orphans, 0);
    let gone = three.engines.get_mut(&instance(1)).unwrap().purge(later, instance(3), None);
    assert_eq!(gone, Err(OrderError::NotMember(instance(3))));
}

#[test]
fn an_order_takes_a_lock_of_a_lost_node_only_with_the_word_that_stands_in_for_fencing() {
    let mut three = Three::new();
    let key = kept_by(1);
    let first = three.lock(1, &key, Mode::Nl).0;
    let lost = three.lock(3, &key, Mode::Ex).0;
    three.engines.remove(&instance(3));
    three.install(&view(2, &[(1, 1), (2, 1)], &[1, 2, 3]));
    three.told.clear();
    let wanted = three.ask(2, &key, Mode::Ex);
    three.settle();
    let report = three.report(2, Instant::ZERO, &key);
    let held: Vec<_> = report.locks.iter().map(|lock| (lock.node, lock.lock, lock.departed)).collect();
    assert_eq!(held, [(instance(1), first, false), (instance(3), lost, true), (instance(2), wanted, false)]);
    let holder = Holder { node: instance(3), lock: lost };
    let mut release = |guard: Option<ReleaseGuard>, key: &Key| {
        three.told.retain(|(_, _, output)| !matches!(output, Output::Reported { .. }));
        let done = three.order(2, |engine| engine.force_release(Instant::ZERO, holder, key.clone(), guard));
        (done.flatten(), three.granted(2, wanted).map(|granted| granted.1))
    };
    let plain = ReleaseGuard::new("it is unplugged");
    for guard in [None, plain.clone()] {
        let (outcome, granted) = release(guard, &key);
        let Some(Outcome::Refused(OrderRefusal::Endangers(danger))) = outcome else {
            unreachable!("{outcome:?}");
        };
        assert_eq!((danger.held, danger.unproven, danger.waiting), (Some(Mode::Ex), true, 1));
        assert_eq!(granted, None, "nothing is done instead of fencing");
    }
    let vouched = plain.map(ReleaseGuard::instead_of_fencing);
    let elsewhere = Key::root(b"space", b"another");
    let (outcome, granted) = release(vouched.clone(), &elsewhere);
    assert_eq!((outcome, granted), (Some(Outcome::Refused(OrderRefusal::NoSuchLock)), None));
    let (outcome, granted) = release(vouched, &key);
    assert_eq!(outcome, Some(Outcome::Released(1)));
    assert!(granted.expect("the operator vouched").remarks.value_invalid);
    assert!(three.engines[&instance(2)].is_unproven(instance(3)), "that says nothing of its other locks");
}

#[test]
fn an_order_whose_view_ends_is_reported_without_an_outcome() {
    let mut three = Three::new();
    let key = kept_by(3);
    let engine = three.engines.get_mut(&instance(1)).unwrap();
    let ticket = engine.inquire(Instant::ZERO, key).unwrap();
    three.drain(instance(1), 0);
    three.lose_the_third();
    let reported: Vec<_> =
        three.told.iter().filter(|(_, _, output)| matches!(output, Output::Reported { .. })).collect();
    assert_eq!(reported, [&(0, instance(1), Output::Reported { ticket, outcome: None })]);
    assert_eq!(three.engines[&instance(1)].snapshot().orders, 0);
}

/// The third holds a lock, and leaves. The fourth joins; then all who saw the third go are gone, too, before they told it.
#[test]
fn who_joins_knows_by_the_view_who_may_still_hold_locks_whoever_dies_then() {
    for told in [true, false] {
        let mut three = Three::new();
        let key = kept_by(1);
        three.lock(3, &key, Mode::Ex);
        three.engines.remove(&instance(3));
        three.install(&view(2, &[(1, 1), (2, 1)], &[1, 2, 3]));
        let named: Vec<NodeInstance> = three.engines[&instance(1)].unproven().collect();
        assert_eq!(named, [instance(3)]);
        let unproven = if told { named } else { Vec::new() };
        three.engines.insert(instance(4), Engine::new(Config::default(), instance(4)).unwrap());
        let joined = ClusterView { unproven, ..view(3, &[(1, 1), (2, 1), (4, 3)], &[1, 2]) };
        three.hear(instance(4), Input::View(&joined));
        three.engines.retain(|x, _| *x == instance(4));
        three.network.clear();
        let unproven = three.engines[&instance(4)].unproven().collect();
        three.install(&ClusterView { unproven, ..view(4, &[(4, 3)], &[1, 2, 4]) });
        let asked = three.ask(4, &key, Mode::Ex);
        three.settle();
        for seen in [1, 2] {
            three.hear(instance(4), Input::Proven { instance: instance(seen), proof: Proof::Obituary });
        }
        three.settle();
        assert_eq!(three.ended(4, asked), (!told).then_some(Status::Granted), "told: {told}");
        three.hear(instance(4), Input::Proven { instance: instance(3), proof: Proof::Fenced });
        three.settle();
        assert_eq!(three.ended(4, asked), Some(Status::Granted));
    }
}

/// Node, lock, and what is held and asked for, of what is in the way.
fn in_the_way(reason: Option<WaitReason>) -> Vec<(u32, u64, Option<Mode>, Option<Mode>)> {
    let Some(WaitReason::BlockedBy(locks)) = reason else { panic!("{reason:?}") };
    locks.iter().map(|lock| (lock.node.node.raw(), lock.lock, lock.held, lock.asked)).collect()
}

#[test]
fn a_wait_says_what_it_is_for_from_the_question_who_masters_to_the_proof_that_the_holder_is_dead() {
    let mut three = Three::new();
    let key = kept_by(1);
    let (master, _) = three.lock(2, &key, Mode::Nl);
    let (held, _) = three.lock(3, &key, Mode::Ex);
    let reason = |three: &Three, node, lock| three.engines[&instance(node)].wait_reason(lock);
    assert_eq!((reason(&three, 2, master), reason(&three, 3, held)), (None, None), "nothing waits");
    let here = three.ask(2, &key, Mode::Pr);
    let away = three.ask(1, &key, Mode::Pr);
    assert_eq!(reason(&three, 1, away), Some(WaitReason::Lookup), "the keeper passed it on to the master");
    three.settle();
    assert_eq!(in_the_way(reason(&three, 2, here)), [(3, held, Some(Mode::Ex), None)]);
    assert_eq!(reason(&three, 1, away), Some(WaitReason::AtMaster(instance(2))));
    let later = Instant::ZERO + Duration::from_millis(1500);
    let known = three.engines[&instance(1)].waits(later);
    let [Waiting { lock, held: None, asked: Mode::Pr, age, .. }] = known.as_slice() else {
        panic!("{known:?}")
    };
    assert_eq!((*lock, *age, &known[0].key), (away, later.since(Instant::ZERO), &key));
    let answered = three.order(1, |engine| engine.explain(Instant::ZERO, away));
    let Some(Some(Outcome::InTheWay { locks, more: 0 })) = answered else { panic!("{answered:?}") };
    let told = in_the_way(WaitReason::of_blockers(locks));
    assert_eq!(told, [(3, held, Some(Mode::Ex), None), (2, here, None, Some(Mode::Pr))]);
    let nothing = three.engines.get_mut(&instance(3)).unwrap().explain(Instant::ZERO, held);
    assert_eq!(nothing, Err(OrderError::NotWaiting));
    let unknown = three.ask(2, &all_kept_by(1).nth(1).unwrap(), Mode::Ex);
    assert_eq!(reason(&three, 2, unknown), Some(WaitReason::Lookup), "the keeper has not answered");
    three.settle();
    assert_eq!(reason(&three, 2, unknown), None, "it is granted");
    three.engines.remove(&instance(3));
    three.install(&view(2, &[(1, 1), (2, 1)], &[1, 2, 3]));
    assert_eq!(reason(&three, 2, here), Some(WaitReason::WaitFence(vec![instance(3)])));
    three.hear(instance(1), Input::Dormant);
    assert_eq!(reason(&three, 1, away), None, "a node outside the primary has given up what it asked for");
    three.hear(instance(2), Input::Suspended);
    assert_eq!(reason(&three, 2, here), Some(WaitReason::WaitQuorum));
}

/// Denies the operation of that node.
#[derive(Debug)]
struct OfNode(u32);

impl VictimPolicy for OfNode {
    fn choose(&self, cycle: &[ocf_dlm::wire::Hop]) -> usize {
        cycle.iter().position(|hop| hop.home == instance(self.0)).unwrap_or(0)
    }
}

impl Three {
    /// Asks as that client, for a transaction if one is given.
    fn ask_as(&mut self, node: u32, (client, transaction): (u32, Option<u64>), key: &Key) -> u64 {
        let client = ClientId::new(client);
        let (key, mode, flags) = (key.clone(), Mode::Ex, Flags::NONE);
        let ask = Ask { client, key, parent: None, mode, flags, transaction, deadline: None, signal: 0 };
        let lock = self.engines.get_mut(&instance(node)).unwrap().lock(Instant::ZERO, ask).unwrap();
        self.drain(instance(node), 0);
        self.settle();
        lock
    }

    /// Every node looks for deadlocks.
    fn search(&mut self) {
        for node in 1..=3 {
            let engine = self.engines.get_mut(&instance(node)).unwrap();
            engine.handle_timeout(Instant::ZERO + 2 * Config::default().deadlock_delay);
            self.drain(instance(node), 0);
            self.settle();
        }
    }
}

#[test]
fn the_victim_of_a_deadlock_between_nodes_is_whom_the_policy_names() {
    for victim in [1, 2] {
        let mut three = Three::new();
        let engine = |node| {
            let engine = Engine::new(Config::default(), instance(node)).unwrap();
            (instance(node), engine.with_victims(Arc::new(OfNode(victim))))
        };
        three.engines = (1..=3).map(engine).collect();
        three.install(&view(1, &[(1, 1), (2, 1), (3, 1)], &[]));
        let (x, y) = (kept_by(3), kept_by(1));
        three.ask_as(1, (1, None), &x);
        three.ask_as(2, (1, None), &y);
        let waits = [three.ask_as(1, (1, None), &y), three.ask_as(2, (1, None), &x)];
        three.search();
        let ends = [three.ended(1, waits[0]), three.ended(2, waits[1])];
        let expected = [1, 2].map(|node| (node == victim).then_some(Status::Deadlock));
        assert_eq!(ends, expected, "the victim is to be of node {victim}");
    }
}

#[test]
fn clients_that_lock_for_one_transaction_wait_as_one_in_searches_between_nodes() {
    for transaction in [None, Some(7)] {
        let mut three = Three::new();
        let (x, y) = (kept_by(3), kept_by(1));
        three.ask_as(1, (1, transaction), &x);
        three.ask_as(2, (1, None), &y);
        // Another client than the one that holds `x`.
        let here = three.ask_as(1, (2, transaction), &y);
        let away = three.ask_as(2, (1, None), &x);
        three.search();
        let ends = [three.ended(1, here), three.ended(2, away)];
        let denied = ends.iter().filter(|end| **end == Some(Status::Deadlock)).count();
        let expected = usize::from(transaction.is_some());
        assert_eq!(denied, expected, "{transaction:?}: {ends:?}");
        assert_eq!(ends.iter().flatten().count(), expected, "the other goes on waiting: {ends:?}");
    }
}

/// Node 3 waits behind nodes 1 and 2, and its search for a deadlock is slow. Meanwhile node 1 is done and waits in the same queue
/// again. Who is denied?
fn denied_after_a_slow_search(bug: Option<Sabotage>, lets_go: fn(&mut Three, u64)) -> Vec<u32> {
    let mut three = Three::with(bug);
    let x = kept_by(3);
    three.ask_with(3, &x, Mode::Nl, Flags::NONE);
    three.settle();
    let first = three.ask_as(1, (1, None), &x);
    let mut waits = vec![(2, three.ask_as(2, (1, None), &x)), (3, three.ask_as(3, (1, None), &x))];
    let engine = three.engines.get_mut(&instance(3)).unwrap();
    engine.handle_timeout(Instant::ZERO + 2 * Config::default().deadlock_delay);
    three.drain(instance(3), 0);
    let slow = std::mem::take(&mut three.network);
    let to: Vec<NodeInstance> = slow.iter().map(|(_, _, to, _)| *to).collect();
    assert_eq!(to, [instance(1), instance(2)], "the search is under way to both");

    lets_go(&mut three, first);
    three.settle();
    assert_eq!(three.ended(2, waits[0].1), Some(Status::Granted));
    waits.remove(0);
    waits.push((1, three.ask_as(1, (1, None), &x)));
    three.network = slow;
    three.settle();
    let denied = |(node, lock): &(u32, u64)| three.ended(*node, *lock) == Some(Status::Deadlock);
    waits.iter().filter(|wait| denied(wait)).map(|(node, _)| *node).collect()
}

#[test]
fn who_let_go_and_waits_again_is_in_no_cycle_however_slow_a_search_is() {
    let released: fn(&mut Three, u64) = |three, lock| three.unlock(1, lock);
    // It keeps the lock, which is in nobody's way any more.
    let converted: fn(&mut Three, u64) = |three, lock| three.convert(1, lock, Mode::Nl, Flags::NONE);
    for lets_go in [released, converted] {
        assert_eq!(denied_after_a_slow_search(None, lets_go), [0; 0]);
        let denied = denied_after_a_slow_search(Some(Sabotage::FollowOldEdges), lets_go);
        assert_eq!(denied.len(), 1, "the bug shows");
    }
}
