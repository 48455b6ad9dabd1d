//! The conformance suite for [`GroupProvider`]s.

use super::{Entry, History, Violation, check};
use crate::replicated::{self, Context, Machine, Outcome, Output, Phase, Replicated};
use crate::{Event, GroupProvider, GroupService, Guarantee, JoinError, MemberId, OfferError, SendError};
use bytes::Bytes;
use ocf_membership::Membership;
use ocf_membership::testing::{Cluster, Fabric, node};
use pils::wire::{ParseError, Reader, Writer};
use pils::{NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const GROUP: &str = "suite";

/// Examines a provider: every promise of [`GroupService`] and [`GroupProvider`] that can be seen from outside, each on a fresh cluster;
/// every history is judged by [`check`].
///
/// # Panics
/// Where the provider does not conform, with the promise that it does not keep.
pub fn check_groups<F: Fabric<Node: GroupProvider>>(mut make: impl FnMut() -> F) {
    impossible_requests_are_refused(make());
    all_members_deliver_one_order(make());
    a_joiner_gets_the_state_as_of_its_join(make());
    survivors_of_a_kill_deliver_the_same(make());
    a_minority_sends_nothing_and_begins_anew(make());
    large_messages_and_a_full_window_pass(make());
    messages_of_every_size_come_in_order(make());
    a_large_state_comes_to_a_joiner(make());
    who_leaves_is_told_of_and_hears_nothing_more(make());
    a_replicated_machine_survives_its_members(make());
}

/// Examines a provider under random faults from a seed: nodes are cut off one by one or all at once, killed and started anew (of a
/// provider that does not [remember](ocf_membership::ViewPromises::remembers) only while the others have the newest view), while all send; then everything heals, and all members must come to the same state. The history is judged by [`check`].
///
/// # Errors
/// The promise that was broken.
///
/// # Panics
/// If the cluster does not become well, or a provider breaks a promise of [`Membership`].
pub fn explore_groups<F: Fabric<Node: GroupProvider>>(fabric: F, seed: u64) -> Result<(), Violation> {
    let mut rng = Rng::new(seed);
    let mut run = Run::start(fabric);
    let mut cut = BTreeSet::new();
    for _ in 0..400 {
        let n = u32::try_from(rng.between(1, 3)).expect("1 to 3");
        match rng.below(60) {
            0 => {
                cut.insert(n);
                run.cluster.fabric.cut(node(n));
            }
            1 if cut.remove(&n) => run.cluster.fabric.heal(node(n)),
            2 if run.may_kill() => run.kill(n),
            3 if !run.replicas.contains_key(&n) => run.add(n),
            4..30 if run.replicas.contains_key(&n) => run.try_to_send(n),
            _ => run.cluster.fabric.wait(),
        }
        run.step();
        run.join_again();
    }
    cut.into_iter().for_each(|n| run.cluster.fabric.heal(node(n)));
    for n in (1..=3).filter(|n| !run.replicas.contains_key(n)).collect::<Vec<_>>() {
        run.add(n);
    }
    // What was healed may not be known to all yet, and take one of them out once more.
    for _ in 0..500 {
        run.step();
        run.cluster.fabric.wait();
    }
    run.cluster.together(&[1, 2, 3]);
    run.join_again();
    run.until_members(&[1, 2, 3]);
    let last: Vec<Bytes> = (1..=3).map(|n| run.send_last(n)).collect();
    let has = |state: &[u8], payload: &Bytes| state.chunks(8).any(|piece| piece == payload.as_ref());
    run.until("all have what was sent last, and the same state", |run| {
        let states = || run.replicas.values().filter_map(|r| r.state.as_ref());
        states().all(|s| last.iter().all(|p| has(s, p)) && Some(s) == states().next())
    });
    check(&run.history, true)
}

/// A cluster whose nodes run one member each, which keeps what it was delivered.
struct Run<F: Fabric> {
    cluster: Cluster<F>,
    history: History,
    replicas: BTreeMap<u32, Replica>,
    payloads: u64,
}

/// What the member of a node has.
#[derive(Default)]
struct Replica {
    /// None until it has the group's state.
    state: Option<Vec<u8>>,
    members: Vec<MemberId>,
    own: BTreeSet<Bytes>,
    resets: usize,
    writable: usize,
    states: usize,
    /// So many bytes more are told with its state.
    padding: usize,
}

/// What a state is padded with.
const PADDING: u8 = 0x5a;

impl<F: Fabric<Node: GroupProvider>> Run<F> {
    /// Starts three nodes, all members.
    fn start(fabric: F) -> Self {
        let mut run = Self::new(fabric, &[1, 2, 3]);
        run.cluster.together(&[1, 2, 3]);
        for n in 1..=3 {
            run.join(n);
        }
        run.until_members(&[1, 2, 3]);
        run
    }

    fn new(fabric: F, nodes: &[u32]) -> Self {
        let replicas = nodes.iter().map(|n| (*n, Replica::default())).collect();
        let mut cluster = Cluster::start(fabric, nodes);
        let one_end = cluster.each().all(|(_, node)| node.group_promises().one_end);
        let history = History { ends_may_differ: !one_end, ..History::default() };
        Self { cluster, history, replicas, payloads: 0 }
    }

    fn join(&mut self, n: u32) {
        let now = self.cluster.fabric.now();
        let joined = self.cluster.node(n).join(now, GROUP, 0);
        assert_eq!(joined, Ok(MemberId { instance: self.cluster.local(n), local: 0 }));
    }

    fn payload(&mut self, size: usize) -> Bytes {
        self.payloads += 1;
        let mut payload = self.payloads.to_be_bytes().to_vec();
        payload.resize(size.max(8), 0x5a);
        Bytes::from(payload)
    }

    /// Sends from a node; what was accepted must be delivered.
    fn send(&mut self, n: u32, guarantee: Guarantee, size: usize) -> Result<(), SendError> {
        let (now, payload) = (self.cluster.fabric.now(), self.payload(size));
        let sent = self.cluster.node(n).send(now, GROUP, 0, guarantee, payload.clone());
        if sent.is_ok() {
            let instance = self.cluster.local(n);
            let sender = MemberId { instance, local: 0 };
            self.history.push(instance, Entry::Sent { group: Arc::from(GROUP), sender, guarantee, payload });
        }
        sent
    }

    /// Sends if that is taken, as it is not outside the primary partition, or without a member.
    fn try_to_send(&mut self, n: u32) {
        match self.send(n, Guarantee::Agreed, 8) {
            Ok(()) | Err(SendError::NotPrimary | SendError::NotMember(_) | SendError::Full { .. }) => {}
            Err(error) => panic!("a short message is refused: {error}"),
        }
    }

    /// Sends a message that the sender keeps for itself.
    fn send_last(&mut self, n: u32) -> Bytes {
        assert_eq!(self.send(n, Guarantee::Agreed, 8), Ok(()), "all is well");
        Bytes::copy_from_slice(&self.payloads.to_be_bytes())
    }

    /// One node at a time; whoever has the newest view must outlive it, if nobody remembers.
    fn may_kill(&mut self) -> bool {
        let remembers = self.cluster.each().all(|(_, node)| node.view_promises().remembers);
        let mut views = BTreeSet::new();
        for (_, node) in self.cluster.each() {
            views.insert(node.view().map(|v| (v.number, v.members.len())).filter(|_| node.is_primary()));
        }
        let well = views.len() == 1 && views.iter().all(|v| v.is_some_and(|(_, members)| members == 3));
        self.replicas.len() == 3 && (remembers || well)
    }

    /// Has every node join that is in no group.
    fn join_again(&mut self) {
        for n in self.replicas.keys().copied().collect::<Vec<_>>() {
            if !self.cluster.node(n).is_local(GROUP, 0) {
                self.join(n);
            }
        }
    }

    fn step(&mut self) {
        self.cluster.step();
        let now = self.cluster.fabric.now();
        for (n, node) in self.cluster.each() {
            while let Some(event) = node.poll_group_event() {
                let replica = self.replicas.entry(n).or_default();
                replica.on_event(node, &event, now);
                self.history.push(node.local(), Entry::Event(event));
            }
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..30_000 {
            self.step();
            if done(self) {
                return;
            }
            self.cluster.fabric.wait();
        }
        let told: Vec<_> =
            self.replicas.iter().map(|(n, r)| (n, r.members.len(), r.state.is_some())).collect();
        panic!("never came about: {what}. Members and whether each has the state: {told:?}");
    }

    /// Waits until these are the members, each of them knows so, and all have the state.
    fn until_members(&mut self, nodes: &[u32]) {
        let mut wanted: Vec<NodeInstance> = nodes.iter().map(|n| self.cluster.local(*n)).collect();
        wanted.sort();
        self.until(&format!("members on {nodes:?}, with the state"), |run| {
            nodes.iter().all(|n| {
                let replica = &run.replicas[n];
                let mut members: Vec<NodeInstance> = replica.members.iter().map(|m| m.instance).collect();
                members.sort();
                members == wanted && replica.state.is_some()
            })
        });
    }

    /// Waits until all these nodes were delivered what they sent, and have the same state.
    fn until_equal(&mut self, nodes: &[u32]) {
        self.until(&format!("equal states on {nodes:?}"), |run| {
            let states: Vec<_> = nodes.iter().map(|n| &run.replicas[n].state).collect();
            let sent = |n: &u32| run.history.logs.get(&run.cluster.local(*n)).map_or(0, sent_by);
            let own: usize = nodes.iter().map(sent).sum();
            let told: usize = nodes.iter().map(|n| run.replicas[n].own.len()).sum();
            states.iter().all(|s| s.is_some() && *s == states[0]) && own == told
        });
    }

    fn kill(&mut self, n: u32) {
        let instance = self.cluster.local(n);
        self.history.logs.entry(instance).or_default().dead = true;
        self.cluster.kill(n);
        self.replicas.remove(&n);
    }

    fn add(&mut self, n: u32) {
        self.cluster.add(n);
        self.replicas.insert(n, Replica::default());
    }

    fn judge(&self) {
        let judged = check(&self.history, true);
        assert_eq!(judged, Ok(()), "the history of the run breaks a promise");
    }
}

fn sent_by(log: &super::Log) -> usize {
    log.entries.iter().filter(|e| matches!(e, Entry::Sent { .. })).count()
}

impl Replica {
    fn on_event<N: GroupProvider>(&mut self, node: &mut N, event: &Event, now: pils::Instant) {
        let me = node.local();
        match event {
            Event::Message { sender, payload, .. } | Event::Fifo { sender, payload, .. } => {
                if sender.instance == me {
                    self.own.insert(payload.clone());
                }
                // What is told FIFO may come in another order elsewhere.
                if let (Some(state), Event::Message { .. }) = (&mut self.state, event) {
                    state.extend_from_slice(&payload[..8]);
                }
            }
            Event::Membership { members, joined, left, .. } => {
                self.members.clone_from(members);
                if left.iter().any(|m| m.instance == me) {
                    self.state = None;
                }
                if members == joined && members.iter().all(|m| m.instance == me) {
                    self.state = Some(Vec::new());
                }
            }
            Event::StateWanted { group, joiner, position } => {
                if let Some(mut state) = self.state.clone() {
                    state.resize(state.len() + self.padding, PADDING);
                    let offered = node.offer_state(now, group, *joiner, *position, state.into());
                    let taken = matches!(offered, Ok(()) | Err(OfferError::NotWanted { .. }));
                    assert!(taken, "a state is taken, unless its joiner is gone by now: {offered:?}");
                }
            }
            Event::State { state, .. } => {
                let (state, padding) = state.split_at(state.len() - self.padding);
                assert!(padding.iter().all(|byte| *byte == PADDING), "a state comes as it was offered");
                self.state = Some(state.to_vec());
                self.states += 1;
            }
            Event::StateLost { .. } => self.state = Some(Vec::new()),
            Event::Reset { .. } => {
                self.state = None;
                self.resets += 1;
            }
            Event::Writable => self.writable += 1,
            Event::Refused { .. } | Event::Evicted { .. } | Event::View(_) => {}
        }
    }
}

/// The guarantees that order messages, as far as they are offered.
fn ordered(node: &impl GroupService) -> Vec<Guarantee> {
    let all = [Guarantee::Agreed, Guarantee::Safe];
    all.into_iter().filter(|g| *g <= node.group_promises().strongest).collect()
}

fn impossible_requests_are_refused<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::new(fabric, &[1]);
    let alone = run.send(1, Guarantee::Agreed, 8);
    assert_eq!(alone, Err(SendError::NotPrimary), "outside the primary partition nothing is ordered");
    run.add(2);
    run.add(3);
    run.cluster.together(&[1, 2, 3]);
    run.join(1);
    run.until_members(&[1]);
    let now = run.cluster.fabric.now();
    let node = run.cluster.node(1);
    let promises = node.group_promises();
    let again = node.join(now, GROUP, 0);
    assert_eq!(again, Err(JoinError::AlreadyMember { group: Arc::from(GROUP), local: 0 }));
    assert_eq!(node.join(now, "", 0), Err(JoinError::Name(0)));
    let stranger = node.send(now, "other", 0, Guarantee::Agreed, Bytes::new());
    assert_eq!(stranger, Err(SendError::NotMember(Arc::from("other"))));
    let (size, limit) = (promises.message_max + 1, promises.message_max);
    let large = node.send(now, GROUP, 0, Guarantee::Agreed, Bytes::from(vec![0; size]));
    assert_eq!(large, Err(SendError::TooLarge { size, limit }));
    if promises.strongest < Guarantee::Safe {
        let safe = node.send(now, GROUP, 0, Guarantee::Safe, Bytes::new());
        assert_eq!(safe, Err(SendError::NotOffered(Guarantee::Safe)), "what is not promised is refused");
    }
}

fn all_members_deliver_one_order<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::start(fabric);
    let guarantees = ordered(run.cluster.node(1));
    for round in 0..60 {
        for n in 1..=3 {
            let guarantee =
                if round % 5 == 4 { Guarantee::Fifo } else { guarantees[round % guarantees.len()] };
            assert_eq!(run.send(n, guarantee, 8 + round), Ok(()), "a few messages fit the window");
        }
        if round % 7 == 0 {
            run.step();
        }
    }
    run.until_equal(&[1, 2, 3]);
    assert_eq!(run.replicas[&1].state.as_ref().map(Vec::len), Some(8 * 48 * 3), "each ordered message once");
    run.judge();
}

fn a_joiner_gets_the_state_as_of_its_join<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::new(fabric, &[1, 2, 3]);
    run.cluster.together(&[1, 2, 3]);
    for n in [1, 2] {
        run.join(n);
        run.until_members(&[1, 2][..n as usize]);
    }
    for round in 0..40 {
        for n in [1, 2] {
            assert_eq!(run.send(n, Guarantee::Agreed, 8), Ok(()));
        }
        if round == 20 {
            run.join(3);
        }
        run.step();
    }
    run.until_members(&[1, 2, 3]);
    run.until_equal(&[1, 2, 3]);
    assert_eq!(run.replicas[&3].states, 1, "the joiner was given the state of others");
    assert_eq!(
        run.cluster.node(3).members(GROUP),
        run.replicas[&1].members,
        "members() names who is told of"
    );
    run.judge();
}

fn survivors_of_a_kill_deliver_the_same<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::start(fabric);
    for _ in 0..20 {
        for n in 1..=3 {
            assert_eq!(run.send(n, Guarantee::Agreed, 100), Ok(()));
        }
        run.step();
    }
    run.kill(3);
    for _ in 0..20 {
        for n in [1, 2] {
            assert_eq!(run.send(n, Guarantee::Agreed, 100), Ok(()), "sends are taken while a view changes");
        }
        run.step();
        run.cluster.fabric.wait();
    }
    run.until_members(&[1, 2]);
    run.until_equal(&[1, 2]);
    run.add(3);
    run.cluster.together(&[1, 2, 3]);
    run.join(3);
    run.until_members(&[1, 2, 3]);
    assert_eq!(run.send(3, Guarantee::Agreed, 8), Ok(()));
    run.until_equal(&[1, 2, 3]);
    run.judge();
}

fn a_minority_sends_nothing_and_begins_anew<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::start(fabric);
    for n in 1..=3 {
        assert_eq!(run.send(n, Guarantee::Agreed, 8), Ok(()));
    }
    run.until_equal(&[1, 2, 3]);
    run.cluster.fabric.cut(node(3));
    run.until("node 3 is told that it is outside", |run| run.cluster.is_outside(3));
    run.until_members(&[1, 2]);
    assert_eq!(run.send(3, Guarantee::Agreed, 8), Err(SendError::NotPrimary));
    assert_eq!(run.send(1, Guarantee::Agreed, 8), Ok(()));
    run.until_equal(&[1, 2]);
    assert_ne!(run.replicas[&3].state, run.replicas[&1].state, "the minority was told nothing of it");
    run.cluster.fabric.heal(node(3));
    run.cluster.together(&[1, 2, 3]);
    run.until_members(&[1, 2, 3]);
    run.until_equal(&[1, 2, 3]);
    assert_eq!(run.replicas[&3].resets, 1, "others went on without it: it was told so, and joined again");
    run.judge();
}

fn large_messages_and_a_full_window_pass<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::start(fabric);
    let large = run.cluster.node(1).group_promises().message_max.min(300_000);
    let (mut refused, mut sent) = (0, 0);
    while refused == 0 && sent < 500 {
        for n in 1..=3 {
            match run.send(n, Guarantee::Agreed, large) {
                Ok(()) => sent += 1,
                Err(SendError::Full { queued, limit }) => {
                    assert!(queued + large > limit, "{queued} bytes of {limit} do not fill a window");
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(refused > 0, "a window is full some time");
    let writable = |run: &Run<F>| run.replicas.values().map(|r| r.writable).sum::<usize>();
    run.until("who was refused is told that there is room", |run| writable(run) == refused);
    run.until_equal(&[1, 2, 3]);
    run.judge();
}

const MIB: usize = 1024 * 1024;

/// Also if whoever orders them carries pieces of them one by one.
fn messages_of_every_size_come_in_order<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::start(fabric);
    let most = run.cluster.node(1).group_promises().message_max;
    for sizes in [&[8, MIB + 1, 100, MIB, 8, 2 * MIB, MIB - 1, 8][..], &[8, usize::MAX]] {
        for (size, n) in sizes.iter().flat_map(|size| (1..=3).map(move |n| (most.min(*size), n))) {
            let mut sent = run.send(n, Guarantee::Agreed, size);
            // One of any size is taken once half of the window is free.
            for _ in 0..30_000 {
                if sent.is_ok() {
                    break;
                }
                run.step();
                run.cluster.fabric.wait();
                sent = run.send(n, Guarantee::Agreed, size);
            }
            assert_eq!(sent, Ok(()), "of {size} bytes");
        }
        run.until_equal(&[1, 2, 3]);
    }
    run.judge();
}

fn a_large_state_comes_to_a_joiner<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::new(fabric, &[1, 2, 3]);
    run.cluster.together(&[1, 2, 3]);
    let padding = run.cluster.node(1).group_promises().state_max.min(7 * MIB + 3) - 8 * 40;
    run.replicas.values_mut().for_each(|replica| replica.padding = padding);
    for n in 1..=3 {
        run.join(n);
        run.until_members(&[1, 2, 3][..n as usize]);
        for _ in 0..10 {
            assert_eq!(run.send(1, Guarantee::Agreed, 8), Ok(()));
        }
    }
    run.until_equal(&[1, 2, 3]);
    assert_eq!((run.replicas[&2].states, run.replicas[&3].states), (1, 1), "each joiner was given it");
    run.judge();
}

fn who_leaves_is_told_of_and_hears_nothing_more<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let mut run = Run::start(fabric);
    let (now, instance) = (run.cluster.fabric.now(), run.cluster.local(2));
    assert_eq!(run.cluster.node(2).leave(now, GROUP, 0), Ok(()));
    let member = MemberId { instance, local: 0 };
    run.history.push(instance, Entry::Leaving { group: Arc::from(GROUP), member });
    run.until("two are left", |run| [1, 3].iter().all(|n| run.replicas[n].members.len() == 2));
    run.until("who left is no member", |run| run.replicas[&2].state.is_none());
    assert!(!run.cluster.node(2).is_local(GROUP, 0), "it may join again");
    assert_eq!(run.send(1, Guarantee::Agreed, 8), Ok(()));
    run.until_equal(&[1, 3]);
    let heard = run.history.logs[&instance].entries.iter();
    let heard = heard.filter(|e| matches!(e, Entry::Event(Event::Message { .. }))).count();
    assert_eq!(heard, 0, "it is told nothing that comes after");
    run.judge();
}

/// Counts what it is told, for [`Replicated`].
#[derive(Debug, Default)]
struct Count(u64);

impl Machine for Count {
    type Event = ();

    fn reset(&mut self) {
        self.0 = 0;
    }

    fn on_command(&mut self, _: &Context<'_>, _: MemberId, _: &[u8], _: &mut Vec<()>) -> Vec<u8> {
        self.0 += 1;
        self.0.to_be_bytes().to_vec()
    }

    fn on_members(&mut self, _: &Context<'_>, _: &[MemberId], _: &[MemberId], _: &mut Vec<()>) {}

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_varint(self.0);
    }

    fn restore(&mut self, r: &mut Reader<'_>) -> Result<(), ParseError> {
        self.0 = r.varint("count")?;
        Ok(())
    }
}

/// A cluster with a counter on each node.
struct Counters<F: Fabric> {
    cluster: Cluster<F>,
    counters: BTreeMap<u32, Replicated<Count>>,
    done: u64,
}

impl<F: Fabric<Node: GroupProvider>> Counters<F> {
    fn add(&mut self, n: u32) {
        let (now, local) = (self.cluster.fabric.now(), self.cluster.local(n));
        let node = self.cluster.node(n);
        let guarantee = node.group_promises().strongest;
        let config = replicated::Config { guarantee, ..replicated::Config::new("counter", 0) };
        let mut counter = Replicated::new(config, local, Count::default());
        assert!(counter.join(now, node).is_ok(), "a guarantee that is offered is enough to join");
        self.counters.insert(n, counter);
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..30_000 {
            self.cluster.step();
            let now = self.cluster.fabric.now();
            for (n, node) in self.cluster.each() {
                let Some(counter) = self.counters.get_mut(&n) else { continue };
                while let Some(event) = node.poll_group_event() {
                    counter.handle(now, &event);
                }
                for output in counter.drive(now, node) {
                    if let Output::Done(_, outcome) = output {
                        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
                        self.done += 1;
                    }
                }
            }
            if done(self) {
                return;
            }
            self.cluster.fabric.wait();
        }
        panic!("never came about: {what}");
    }

    fn submit(&mut self, n: u32, times: u64) {
        let now = self.cluster.fabric.now();
        let counter = self.counters.get_mut(&n).expect("it runs");
        (0..times).for_each(|_| assert!(counter.submit(now, Bytes::new()).is_ok(), "there is room"));
    }

    fn until_count(&mut self, count: u64) {
        self.until(&format!("{count} at all"), |run| {
            run.counters.values().all(|c| c.phase() == Phase::Ready && c.machine().0 == count)
        });
    }
}

fn a_replicated_machine_survives_its_members<F: Fabric<Node: GroupProvider>>(fabric: F) {
    let cluster = Cluster::start(fabric, &[1, 2, 3]);
    let mut run = Counters { cluster, counters: BTreeMap::new(), done: 0 };
    run.cluster.together(&[1, 2, 3]);
    (1..=3).for_each(|n| run.add(n));
    run.until_count(0);
    (1..=3).for_each(|n| run.submit(n, 10));
    run.until_count(30);
    run.counters.remove(&1);
    run.cluster.kill(1);
    run.submit(2, 5);
    run.submit(3, 5);
    run.until_count(40);
    run.cluster.add(1);
    run.add(1);
    run.submit(2, 1);
    run.until_count(41);
    assert_eq!(run.done, 41, "each command was answered once");
}
