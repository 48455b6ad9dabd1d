//! A member of the group: sends, checks what it gets, keeps the group's state.

use bytes::{BufMut as _, Bytes, BytesMut};
use core::time::Duration;
use crossbeam_channel::{Receiver, Sender, unbounded};
use ocf::{Node, NodeEvent};
use ocf_groups::{Event, Guarantee, Position};
use ocf_membership::{View, ViewNumber};
use pils::NodeInstance;
use std::collections::BTreeMap;
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// The group of this example.
pub(crate) const GROUP: &str = "journal";
/// Every so manyth message is sent with the guarantee SAFE.
const SAFE_EVERY: u64 = 100;

/// The state of the group: a chain of digests over every message, in order. Equal chains mean equal histories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) count: u64,
    pub(crate) digest: u64,
}

impl Chain {
    fn append(&mut self, position: Position, payload: &[u8]) {
        let numbers = [position.view.0, position.sequence];
        for byte in numbers.iter().flat_map(|n| n.to_be_bytes()).chain(payload.iter().copied()) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
    }

    fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u64(self.count);
        out.put_u64(self.digest);
        out.freeze()
    }

    fn from_bytes(state: &[u8]) -> Option<Self> {
        let (count, digest) = state.split_at_checked(8)?;
        Some(Self {
            count: u64::from_be_bytes(count.try_into().ok()?),
            digest: u64::from_be_bytes(digest.try_into().ok()?),
        })
    }
}

/// What a member saw.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The chain after each message.
    pub(crate) after: BTreeMap<Position, Chain>,
    /// The chain at each view event.
    pub(crate) views: Vec<(View, Chain)>,
    /// The state it was given when it joined a running group.
    pub(crate) given: Option<(Position, Chain)>,
    /// What was wrong.
    pub(crate) wrong: Vec<String>,
    chain: Chain,
    /// The last number heard of each sender.
    heard: BTreeMap<NodeInstance, u64>,
}

/// What the main thread asks of a member.
pub(crate) enum Ask {
    /// Send so many messages as fast as they are taken.
    Burst(u64),
    /// Send one message in a while, until told otherwise.
    Trickle(bool),
    /// Hand over the journal.
    Finish,
}

/// What a member tells the main thread.
pub(crate) struct Told {
    pub(crate) node: NodeInstance,
    pub(crate) at: Instant,
    pub(crate) what: What,
}

pub(crate) enum What {
    /// Something a person may want to watch.
    Event(NodeEvent),
    /// So many messages were delivered here in all.
    Count(u64),
}

/// The thread of a member.
pub(crate) struct Member {
    asks: Sender<Ask>,
    thread: JoinHandle<Journal>,
}

impl Member {
    pub(crate) fn start(node: Node, tell: Sender<Told>) -> Self {
        let (asks, asked) = unbounded();
        let clock = Clock::of(&node);
        let worker = Worker {
            node,
            clock,
            tell,
            asked,
            journal: Journal::default(),
            burst: 0,
            trickle: false,
            sent: 0,
        };
        Self { asks, thread: thread::spawn(move || worker.run()) }
    }

    pub(crate) fn ask(&self, ask: Ask) {
        self.asks.send(ask).expect("the member's thread takes questions until it is told to finish");
    }

    pub(crate) fn finish(self) -> Journal {
        self.ask(Ask::Finish);
        self.thread.join().expect("the member's thread does not panic")
    }
}

/// Tells when an event happened, rather than when a busy machine let this thread see it.
struct Clock {
    origin: Instant,
    zero: pils::Instant,
}

impl Clock {
    fn of(node: &Node) -> Self {
        // Both clocks are read next to each other; the best of a few attempts is one without an interruption.
        let attempts = (0..20).map(|_| {
            let origin = Instant::now();
            let zero = node.now();
            (origin.elapsed(), Self { origin, zero })
        });
        let best = attempts.min_by_key(|(took, _)| *took);
        best.map(|(_, clock)| clock).expect("there were attempts")
    }

    fn at(&self, event: pils::Instant) -> Instant {
        let since = event.since(self.zero);
        let before = self.zero.since(event);
        (self.origin + since).checked_sub(before).unwrap_or(self.origin)
    }
}

struct Worker {
    node: Node,
    clock: Clock,
    tell: Sender<Told>,
    asked: Receiver<Ask>,
    journal: Journal,
    burst: u64,
    trickle: bool,
    sent: u64,
}

impl Worker {
    fn run(mut self) -> Journal {
        self.node.join(GROUP, 1).expect("a fresh node joins its first group");
        let mut told = 0;
        loop {
            while let Ok(ask) = self.asked.try_recv() {
                match ask {
                    Ask::Burst(messages) => self.burst += messages,
                    Ask::Trickle(on) => self.trickle = on,
                    Ask::Finish => return self.journal,
                }
            }
            let mut blocked = false;
            for _ in 0..64 {
                if self.burst == 0 || blocked {
                    break;
                }
                blocked = !self.send();
                self.burst -= u64::from(!blocked);
            }
            if self.trickle && self.burst == 0 {
                self.send();
            }
            let mut wait = if self.burst > 0 && !blocked { Duration::ZERO } else { Duration::from_millis(1) };
            while let Some(event) = self.node.next_event(wait) {
                wait = Duration::ZERO;
                let at = self.clock.at(event.at);
                self.event(at, event.event);
            }
            if self.journal.chain.count != told {
                told = self.journal.chain.count;
                self.say(Instant::now(), What::Count(told));
            }
        }
    }

    /// Sends one message; false if the node does not take it now.
    fn send(&mut self) -> bool {
        let number = self.sent + 1;
        let guarantee = if number.is_multiple_of(SAFE_EVERY) { Guarantee::Safe } else { Guarantee::Agreed };
        let taken = self.node.send(GROUP, 1, guarantee, payload(self.node.local(), number)).is_ok();
        self.sent += u64::from(taken);
        taken
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not for the member is for the spectator")]
    fn event(&mut self, at: Instant, event: NodeEvent) {
        let journal = &mut self.journal;
        match event {
            NodeEvent::Group(Event::Message { sender, position, payload: bytes, .. }) => {
                let number = journal.heard.get(&sender.instance).map_or(0, |n| n + 1);
                let expected = bytes.get(..8).and_then(|n| n.try_into().ok()).map_or(0, u64::from_be_bytes);
                // The first message heard of a sender may have any number: this member may have joined later.
                if (number > 0 && expected != number) || bytes != payload(sender.instance, expected) {
                    journal.wrong.push(format!("{position}: not message {number} of {}", sender.instance));
                }
                journal.heard.insert(sender.instance, expected);
                journal.chain.append(position, &bytes);
                journal.after.insert(position, journal.chain);
            }
            NodeEvent::Group(Event::StateWanted { group, joiner, position }) => {
                let state = journal.chain.to_bytes();
                if let Err(error) = self.node.offer_state(&group, joiner, position, state) {
                    journal.wrong.push(format!("state for {joiner:?} was refused: {error}"));
                }
            }
            NodeEvent::Group(Event::State { position, state, .. }) => match Chain::from_bytes(&state) {
                Some(chain) => {
                    journal.chain = chain;
                    journal.given = Some((position, chain));
                    let member = ocf_groups::MemberId { instance: self.node.local(), local: 1 };
                    let state = Event::State { group: GROUP.into(), member, position, state };
                    self.say(at, What::Event(NodeEvent::Group(state)));
                }
                None => journal.wrong.push("the state does not parse".to_owned()),
            },
            NodeEvent::Group(Event::View(view)) => {
                journal.views.push((view.clone(), journal.chain));
                self.say(at, What::Event(NodeEvent::Group(Event::View(view))));
            }
            other => self.say(at, What::Event(other)),
        }
    }

    fn say(&self, at: Instant, what: What) {
        let told = Told { node: self.node.local(), at, what };
        // Nobody listens any more once the verdict is being written.
        drop(self.tell.send(told));
    }
}

/// Message `number` of a sender: its number, who sent it, and a pattern that depends on both.
fn payload(sender: NodeInstance, number: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u64(number);
    out.put_u32(sender.node.raw());
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(sender.node.raw());
    for i in 0..(8 + number % 29) {
        out.put_u8(seed.rotate_left(u32::try_from(i % 64).unwrap_or(0)).to_be_bytes()[7]);
    }
    out.freeze()
}

/// Compares what members saw. Returns everything that contradicts the promises.
pub(crate) fn compare(journals: &BTreeMap<NodeInstance, Journal>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut order: BTreeMap<Position, (NodeInstance, Chain)> = BTreeMap::new();
    let mut crossings: BTreeMap<(ViewNumber, ViewNumber), (NodeInstance, Chain)> = BTreeMap::new();
    for (member, journal) in journals {
        wrong.extend(journal.wrong.iter().map(|w| format!("{member}: {w}")));
        for (position, chain) in &journal.after {
            let (first, expected) = order.entry(*position).or_insert((*member, *chain));
            if expected != chain {
                wrong.push(format!("total order: at {position}, {member} has another history than {first}"));
                break;
            }
        }
        // Who goes from one view to the next together with others has delivered the same before it.
        for pair in journal.views.windows(2) {
            let key = (pair[0].0.number, pair[1].0.number);
            let (first, expected) = crossings.entry(key).or_insert((*member, pair[1].1));
            if *expected != pair[1].1 {
                wrong.push(format!("virtual synchrony: {member} and {first} left {} unequal", key.0));
            }
        }
    }
    for (member, journal) in journals {
        if let Some((position, chain)) = journal.given {
            let before = order.range(..position).next_back().map(|(_, (_, chain))| *chain);
            if before.is_some_and(|before| before != chain) {
                wrong.push(format!(
                    "state transfer: {member} was given {chain:?} as of {position}, but it was {before:?}"
                ));
            }
        }
    }
    wrong
}
