//! A member of the group: sends, checks what it gets, keeps the group's state.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use core::time::Duration;
use crossbeam_channel::{Receiver, Sender, unbounded};
use ocf::{Node, NodeEvent, RequestError};
use ocf_groups::{Event, Guarantee, OfferError, Position};
use ocf_membership::{View, ViewNumber};
use pils::{Incarnation, NodeId, NodeInstance};
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
}

/// The last number heard of each sender. Part of the group's state, so that a member that was away knows which of its own
/// messages the others have.
type Heard = BTreeMap<NodeInstance, u64>;

fn state_to_bytes(chain: Chain, heard: &Heard) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u64(chain.count);
    out.put_u64(chain.digest);
    for (sender, number) in heard {
        out.put_u32(sender.node.raw());
        out.put_u128(sender.incarnation.raw());
        out.put_u64(*number);
    }
    out.freeze()
}

fn state_from_bytes(mut state: &[u8]) -> Option<(Chain, Heard)> {
    let chain = Chain { count: state.try_get_u64().ok()?, digest: state.try_get_u64().ok()? };
    let mut heard = Heard::new();
    while !state.is_empty() {
        let node = NodeId::new(state.try_get_u32().ok()?);
        let incarnation = Incarnation::new(state.try_get_u128().ok()?);
        heard.insert(NodeInstance::new(node, incarnation), state.try_get_u64().ok()?);
    }
    Some((chain, heard))
}

/// What a member saw.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The chain after each message.
    pub(crate) after: BTreeMap<Position, Chain>,
    /// The chain at each view event; `None` while this member had no state.
    pub(crate) views: Vec<(View, Option<Chain>)>,
    /// The states it was given when it joined the running group, at its start or after it was taken for dead.
    pub(crate) given: Vec<(Position, Chain)>,
    /// What was wrong.
    pub(crate) wrong: Vec<String>,
    chain: Chain,
    heard: Heard,
    /// This member has the state of the group.
    stated: bool,
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
                if self.burst == 0 || blocked || !self.journal.stated {
                    break;
                }
                blocked = !self.send();
                self.burst -= u64::from(!blocked);
            }
            if self.trickle && self.burst == 0 && self.journal.stated {
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
                let number = journal.heard.get(&sender.instance).map_or(1, |n| n + 1);
                let sent = bytes.get(..8).and_then(|n| n.try_into().ok()).map_or(0, u64::from_be_bytes);
                if sent != number || bytes != payload(sender.instance, number) {
                    journal
                        .wrong
                        .push(format!("{position}: {sent} is not message {number} of {}", sender.instance));
                }
                journal.heard.insert(sender.instance, sent);
                journal.chain.append(position, &bytes);
                journal.after.insert(position, journal.chain);
            }
            NodeEvent::Group(Event::StateWanted { group, joiner, position }) => {
                let state = state_to_bytes(journal.chain, &journal.heard);
                match self.node.offer_state(&group, joiner, position, state) {
                    // The joiner is gone, or is to get a later state.
                    Ok(()) | Err(RequestError::Refused(OfferError::NotWanted { .. })) => {}
                    Err(error) => journal.wrong.push(format!("state for {joiner:?} was refused: {error}")),
                }
            }
            NodeEvent::Group(Event::State { position, state, .. }) => match state_from_bytes(&state) {
                Some((chain, heard)) => {
                    // What the others do not have of this member was lost with its membership, and is sent again.
                    let have = heard.get(&self.node.local()).copied().unwrap_or(0);
                    self.burst += self.sent.saturating_sub(have);
                    self.sent = have;
                    (journal.chain, journal.heard, journal.stated) = (chain, heard, true);
                    journal.given.push((position, chain));
                    let member = ocf_groups::MemberId { instance: self.node.local(), local: 1 };
                    let state = Event::State { group: GROUP.into(), member, position, state };
                    self.say(at, What::Event(NodeEvent::Group(state)));
                }
                None => journal.wrong.push("the state does not parse".to_owned()),
            },
            NodeEvent::Group(Event::Membership { ref members, .. }) => {
                // The first member begins the history.
                journal.stated |= members.len() == 1 && members[0].instance == self.node.local();
                self.say(at, What::Event(event));
            }
            NodeEvent::Group(Event::Reset { .. }) => {
                // Taken for dead while it was not: the others may have ended that view another way.
                journal.stated = false;
                let last = journal.after.last_key_value().map(|(position, _)| position.view);
                journal.after.retain(|position, _| Some(position.view) != last);
                self.say(at, What::Event(event));
            }
            NodeEvent::Group(Event::View(view)) => {
                journal.views.push((view.clone(), journal.stated.then_some(journal.chain)));
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
            let (number, chain) = (pair[1].0.number, pair[1].1);
            let stayed = pair[1].0.members.iter().any(|m| m.instance == *member && m.joined < number);
            let Some(chain) = chain.filter(|_| stayed) else { continue };
            let key = (pair[0].0.number, number);
            let (first, expected) = crossings.entry(key).or_insert((*member, chain));
            if *expected != chain {
                wrong.push(format!("virtual synchrony: {member} and {first} left {} unequal", key.0));
            }
        }
    }
    for (member, journal) in journals {
        for (position, chain) in journal.given.iter().copied() {
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
