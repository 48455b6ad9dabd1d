//! Goal: a lock costs as many messages in a row as PROTOCOL.md says, and a node that gave up takes part again only as a
//! joiner.
//!
//! Method: three engines and a network that delivers at once and counts how many messages had to follow each other.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use bytes::Bytes;
use ocf_dlm::cluster::{Ask, ClusterView, Completed, Config, Engine, Input, Output, ViewMember};
use ocf_dlm::directory::{Placement, Slot, Weighted};
use ocf_dlm::wire::{Batch, Item, Key, Proof};
use ocf_dlm::{ClientId, Flags, Mode, Status};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use std::collections::{BTreeMap, VecDeque};

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
    }
}

/// Three nodes. Each message carries how many had to go before it.
struct Three {
    engines: BTreeMap<NodeInstance, Engine>,
    network: VecDeque<(u32, NodeInstance, NodeInstance, Bytes)>,
    /// What clients were told, and after how many messages in a row.
    told: Vec<(u32, NodeInstance, Output)>,
    messages: usize,
}

impl Three {
    fn new() -> Self {
        let engine = |node| (instance(node), Engine::new(Config::default(), instance(node)).unwrap());
        let mut three = Self {
            engines: (1..=3).map(engine).collect(),
            network: VecDeque::new(),
            told: Vec::new(),
            messages: 0,
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
            if let Some(engine) = self.engines.get_mut(&to) {
                engine.handle(Instant::ZERO, Input::Message { from, message: &message });
                self.drain(to, depth);
            }
        }
    }

    fn ask(&mut self, node: u32, key: &Key, mode: Mode) -> u64 {
        let ask = Ask {
            client: ClientId::new(1),
            key: key.clone(),
            parent: None,
            mode,
            flags: Flags::NOTIFY,
            transaction: None,
            deadline: None,
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

    fn granted(&self, node: u32, lock: u64) -> Option<(u32, Completed)> {
        self.told.iter().find_map(|(depth, at, output)| {
            let Output::Completed(done) = output else { return None };
            let is_it = *at == instance(node) && done.lock == lock && done.status == Status::Granted;
            is_it.then(|| (*depth, done.clone()))
        })
    }

    fn unlock(&mut self, node: u32, lock: u64) {
        let engine = self.engines.get_mut(&instance(node)).unwrap();
        engine.unlock(Instant::ZERO, lock, Flags::NONE, None).unwrap();
        self.drain(instance(node), 0);
    }
}

/// A name whose directory entry that node keeps.
fn kept_by(node: u32) -> Key {
    let members = [1, 2, 3].map(|node| Weighted { instance: instance(node), weight: 1 });
    let placement = Placement::new(&members);
    let keys = (0_u32..).map(|i| Key::root(b"space", &i.to_be_bytes()));
    keys.into_iter().find(|key| placement.owner(Slot::of(&key.tree)) == instance(node)).unwrap()
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
