//! Goal: a tree is mastered where it is used, with all that it was, and a move that cannot be finished harms nobody.
//!
//! Method: three engines, a clock, and a network that may lose one member. Moves while nodes die, and every order of events, are in
//! `tests/cluster` and `tests/explore`.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use bytes::Bytes;
use ocf_dlm::cluster::{
    Ask, ClusterView, Completed, Config, Engine, Input, MOVED_MAX, Output, TreeState, ViewMember,
};
use ocf_dlm::wire::{Key, Value};
use ocf_dlm::{ClientId, Flags, Mode, Status, ValueBlock};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

fn instance(node: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(node), Incarnation::new(u128::from(node) << 64))
}

struct Net {
    now: Instant,
    engines: BTreeMap<NodeInstance, Engine>,
    network: VecDeque<(NodeInstance, NodeInstance, Bytes)>,
    told: Vec<(NodeInstance, Output)>,
    messages: usize,
    /// It hears nothing.
    deaf: Option<NodeInstance>,
}

impl Net {
    fn new() -> Self {
        let engine = |node| (instance(node), Engine::new(Config::default(), instance(node)).unwrap());
        let mut net = Self {
            now: Instant::ZERO,
            engines: (1..=3).map(engine).collect(),
            network: VecDeque::new(),
            told: Vec::new(),
            messages: 0,
            deaf: None,
        };
        let members: Vec<ViewMember> =
            (1..=3).map(|node| ViewMember { instance: instance(node), weight: 1, joined: 1 }).collect();
        let view = ClusterView { number: 1, members, previous: Vec::new(), unproven: Vec::new() };
        for node in 1..=3 {
            net.with(node, |engine, now| engine.handle(now, Input::View(&view)));
        }
        net
    }

    /// Has a node do something, and all that follows from it.
    fn with<R>(&mut self, node: u32, what: impl FnOnce(&mut Engine, Instant) -> R) -> R {
        let done = what(self.engines.get_mut(&instance(node)).unwrap(), self.now);
        self.drain(instance(node));
        while let Some((from, to, message)) = self.network.pop_front() {
            self.messages += 1;
            if self.deaf != Some(to) {
                self.engines
                    .get_mut(&to)
                    .unwrap()
                    .handle(self.now, Input::Message { from, message: &message });
                self.drain(to);
            }
        }
        done
    }

    fn drain(&mut self, at: NodeInstance) {
        let engine = self.engines.get_mut(&at).unwrap();
        while engine.poll_timeout().is_some_and(|due| due <= self.now) {
            engine.handle_timeout(self.now);
        }
        while let Some(output) = engine.poll_output() {
            if let Output::Send { to, message } = output {
                self.network.push_back((at, to, message));
            } else {
                self.told.push((at, output));
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for node in 1..=3 {
            self.with(node, |_, _| ());
        }
    }

    fn lock(&mut self, node: u32, key: &Key, mode: Mode) -> u64 {
        let ask = Ask {
            client: ClientId::new(1),
            key: key.clone(),
            parent: None,
            mode,
            flags: Flags::NOTIFY | Flags::VALBLK,
            transaction: None,
            deadline: None,
            signal: u64::from(node),
        };
        self.with(node, |engine, now| engine.lock(now, ask)).unwrap()
    }

    fn unlock(&mut self, node: u32, lock: u64, value: u64) {
        let block = ValueBlock::zero(32).with_number(value);
        let value = Some(Value { block, sequence: 0 });
        self.with(node, |engine, now| engine.unlock(now, lock, Flags::VALBLK, value)).unwrap();
    }

    fn granted(&self, node: u32, lock: u64) -> Option<&Completed> {
        self.told.iter().find_map(|(at, output)| {
            let Output::Completed(done) = output else { return None };
            (*at == instance(node) && done.lock == lock && done.status == Status::Granted).then_some(done)
        })
    }

    fn master(&self, key: &Key) -> Option<u32> {
        let here = |engine: &Engine| engine.trees().any(|t| t.name == key.tree && t.state == TreeState::Here);
        let mut masters = self.engines.values().filter(|engine| here(engine)).map(|e| e.local().node.raw());
        let master = masters.next();
        assert_eq!(masters.next(), None, "one master");
        for engine in self.engines.values() {
            engine.check_invariants().unwrap();
        }
        master
    }
}

fn key() -> Key {
    Key::root(b"space", b"name")
}

#[test]
fn a_tree_goes_to_the_node_that_uses_it_and_costs_no_message_there() {
    let mut net = Net::new();
    let keeps = net.lock(1, &key(), Mode::Nl);
    assert_eq!(net.master(&key()), Some(1));
    for _ in 0..130 {
        let lock = net.lock(2, &key(), Mode::Ex);
        net.unlock(2, lock, 1);
        net.wait(Duration::from_millis(10));
    }
    assert_eq!(net.master(&key()), Some(2));
    let before = net.messages;
    let lock = net.lock(2, &key(), Mode::Ex);
    assert!(net.granted(2, lock).is_some());
    net.unlock(2, lock, 2);
    assert_eq!(net.messages, before, "nobody else is asked");
    // The others find it, also one that never heard of it.
    let reads = net.lock(3, &key(), Mode::Pr);
    assert_eq!(net.granted(3, reads).unwrap().value.unwrap().block.number(), 2);
    net.unlock(1, keeps, 0);
    assert_eq!(net.engines[&instance(2)].snapshot().stats.moved_here, 1);
}

#[test]
fn a_tree_that_all_use_alike_stays() {
    let mut net = Net::new();
    for _ in 0..150 {
        for node in [1, 2, 3, 2] {
            let lock = net.lock(node, &key(), Mode::Ex);
            net.unlock(node, lock, 1);
        }
        net.wait(Duration::from_millis(10));
    }
    assert_eq!(net.master(&key()), Some(1));
    assert_eq!(net.engines[&instance(1)].snapshot().stats.moved_away, 0);
}

#[test]
fn everything_moves_holders_waiters_their_order_the_value_and_the_token() {
    let mut net = Net::new();
    let first = net.lock(1, &key(), Mode::Ex);
    let token = net.granted(1, first).unwrap().token;
    let (second, third) = (net.lock(3, &key(), Mode::Ex), net.lock(2, &key(), Mode::Ex));
    let below = key().child(b"part");
    let locks = |net: &Net, node| {
        let all = net.engines[&instance(node)].mastered_locks();
        all.into_iter().filter(|(key, _)| *key != below).collect::<Vec<_>>()
    };
    let before = locks(&net, 1);
    assert!(net.with(1, |engine, now| engine.move_tree(now, &key(), instance(2))));
    assert_eq!(net.master(&key()), Some(2));
    assert_eq!(locks(&net, 2), before);
    assert!(net.granted(3, second).is_none() && net.granted(2, third).is_none());
    net.unlock(1, first, 7);
    let granted = net.granted(3, second).expect("it waited longest").clone();
    assert_eq!(granted.value.unwrap().block.number(), 7);
    assert!(granted.token > token && net.granted(2, third).is_none());
    net.unlock(3, second, 8);
    let last = net.granted(2, third).expect("then this one");
    assert!(last.token > granted.token && last.value.unwrap().block.number() == 8);
    // Who is in the way is told once, before the move or after it.
    let told = net.told.iter().filter_map(|(at, output)| {
        let Output::Blocking { lock, signal, .. } = output else { return None };
        Some((at.node.raw(), *lock, *signal))
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told, [(1, first, 3), (3, second, 2)], "the first of the second, the second of the third");
}

#[test]
fn a_tree_stays_if_a_member_does_not_answer_and_requests_wait_no_longer_than_that() {
    let mut net = Net::new();
    let held = [net.lock(1, &key(), Mode::Cr), net.lock(3, &key(), Mode::Cr)];
    net.lock(2, &key(), Mode::Cr);
    net.deaf = Some(instance(3));
    assert!(net.with(1, |engine, now| engine.move_tree(now, &key(), instance(2))));
    let waits = net.lock(2, &key(), Mode::Cr);
    assert!(net.granted(2, waits).is_none(), "it was asked to say no more");
    net.wait(Config::default().move_patience);
    assert!(net.granted(2, waits).is_some());
    assert_eq!(net.master(&key()), Some(1));
    assert_eq!(net.engines[&instance(1)].snapshot().stats.moves_undone, 1);
    net.unlock(1, held[0], 0);
}

#[test]
fn a_tree_with_more_locks_than_one_message_takes_stays() {
    let mut net = Net::new();
    for _ in 0..=MOVED_MAX {
        net.lock(1, &key(), Mode::Nl);
    }
    assert!(net.with(1, |engine, now| engine.move_tree(now, &key(), instance(2))));
    assert_eq!(net.master(&key()), Some(1));
    assert!(!net.with(2, |engine, now| engine.move_tree(now, &key(), instance(1))), "it is not there");
}

/// A message that is too large for its circuit would never arrive, and the tree with it.
#[test]
fn a_tree_with_longer_names_than_one_message_takes_stays() {
    let mut net = Net::new();
    let whole = net.lock(1, &key(), Mode::Nl);
    for number in 0..100_u8 {
        let mut name = [7; 4000];
        name[0] = number;
        let ask = Ask {
            client: ClientId::new(1),
            key: key().child(&name),
            parent: Some(whole),
            mode: Mode::Nl,
            flags: Flags::NONE,
            transaction: None,
            deadline: None,
            signal: 0,
        };
        net.with(1, |engine, now| engine.lock(now, ask)).unwrap();
    }
    assert!(net.with(1, |engine, now| engine.move_tree(now, &key(), instance(2))));
    assert_eq!(net.master(&key()), Some(1));
    assert_eq!(net.engines[&instance(1)].snapshot().stats.moved_away, 0);
}

#[test]
fn a_tree_that_was_to_be_given_up_while_it_moved_is_given_up_later() {
    let mut net = Net::new();
    let (idle_after, patience) = (Config::default().idle_after, Config::default().move_patience);
    let lock = net.lock(1, &key(), Mode::Nl);
    net.unlock(1, lock, 0);
    net.wait(idle_after.checked_sub(patience / 2).unwrap());
    net.deaf = Some(instance(2));
    assert!(net.with(1, |engine, now| engine.move_tree(now, &key(), instance(2))));
    net.wait(patience / 2);
    assert_eq!(net.master(&key()), Some(1), "it is to move: it is not idle");
    net.deaf = None;
    net.wait(patience);
    assert_eq!(net.engines[&instance(1)].snapshot().stats.moves_undone, 1);
    net.wait(idle_after);
    assert_eq!(net.master(&key()), None);
}
