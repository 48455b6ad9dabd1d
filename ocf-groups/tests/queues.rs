//! Goal: a message that was accepted is got once, in the order of its sender, or waits, and nobody who is gone has a queue open,
//! whoever crashes, leaves or is cut off meanwhile.
//!
//! Method: random runs over the real stream, as in `replicated.rs`. Members open and close queues, send to queues and queue groups
//! of all policies, get with and without waiting, call and reply at random. Invariants MS1 to MS6 are those of `PROTOCOL.md`,
//! section 14; the rules of the standard are tested one by one in `src/queue/tests.rs`.

#![expect(clippy::wildcard_enum_match_arm, reason = "a user that looks at what it needs")]

mod sim;

use bytes::Bytes;
use ocf_groups::MemberId;
use ocf_groups::queue::{
    Attributes, CallId, Event, GetId, Handle, Message, Policy, Queues, Received, Refusal, Sabotage, answer,
};
use ocf_groups::replicated::{Birth, Outcome, Output, Phase, Replicated, Request};
use pils::{Instant, Rng};
use sim::host::{User, Witness, campaign, found, moment, run_users, with_bug};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const SIZE: u64 = 64;
/// Marks a message that goes to all queues of a group.
const TO_ALL: u64 = 1 << 40;

/// What all members together saw.
#[derive(Default)]
struct Seen {
    next: u64,
    /// Messages that are in "keep", a queue that is neither emptied nor unlinked.
    accepted: BTreeSet<(Birth, u64)>,
    /// Which get each message went to.
    received: BTreeMap<(Birth, u64), GetId>,
}

#[derive(Clone, Copy)]
enum Asked {
    Open,
    Send(Option<u64>),
    Get(Handle),
    Call,
    Other,
}

struct Worker {
    seen: Rc<RefCell<Seen>>,
    witness: Rc<RefCell<Witness>>,
    birth: Option<Birth>,
    /// Counts phases: what was asked in another one may concern what is gone.
    stay: u64,
    asked: BTreeMap<Request, (u64, Asked)>,
    handles: Vec<Handle>,
    /// Gets and calls without an end; and those that ended.
    waiting: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    replies: Vec<CallId>,
    /// The last message of each sender and priority from each open queue.
    last: BTreeMap<(Handle, MemberId, u8), u64>,
}

fn number(message: &Message) -> u64 {
    message.data.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

impl Worker {
    fn message(&self, rng: &mut Rng, mark: u64) -> (u64, Message) {
        let mut seen = self.seen.borrow_mut();
        seen.next += 1;
        let id = seen.next | mark;
        let priority = u8::try_from(rng.below(4)).unwrap_or(0);
        (id, Message { priority, ..Message::new(Bytes::copy_from_slice(&id.to_be_bytes())) })
    }

    fn on_received(&mut self, birth: Birth, (get, queue): (GetId, Handle), received: &Received) {
        let id = number(&received.message);
        let mut witness = self.witness.borrow_mut();
        let first = *self.seen.borrow_mut().received.entry((birth, id)).or_insert(get);
        if first != get && id & TO_ALL == 0 {
            witness.fail(format!("MS1: message {id} goes to {first:?} and to {get:?}"));
        }
        let key = (queue, received.from, received.message.priority);
        if self.last.insert(key, id & !TO_ALL).is_some_and(|before| before >= id & !TO_ALL) {
            witness.fail(format!("MS3: message {id} of {key:?} after a later one"));
        }
    }

    fn on_end(&mut self, n: u64) {
        self.waiting.remove(&n);
        if !self.ended.insert(n) {
            self.witness.borrow_mut().fail(format!("MS5: {n} ended twice"));
        }
    }

    fn check(&self, replica: &Replicated<Queues>) {
        let members: BTreeSet<_> = replica.members().iter().copied().collect();
        let mut witness = self.witness.borrow_mut();
        if let Some(gone) = replica.machine().holders().find(|holder| !members.contains(holder)) {
            witness.fail(format!("MS4: {gone:?} is gone and has a queue open or waits"));
        }
        for name in replica.machine().names() {
            let status = replica.machine().status(name);
            if status.is_ok_and(|status| status.used.iter().any(|used| *used > SIZE)) {
                witness.fail(format!("MS6: {name} has {status:?}"));
            }
        }
    }

    fn send(
        &self,
        now: Instant,
        rng: &mut Rng,
        replica: &mut Replicated<Queues>,
    ) -> (Asked, Option<Request>) {
        let to = *rng.pick(&["keep", "keep", "temp", "any", "all"]).unwrap_or(&"keep");
        let (id, message) = self.message(rng, if to == "all" { TO_ALL } else { 0 });
        if rng.chance(0.2) && to != "all" {
            return (Asked::Call, replica.call(now, to, message, (8, Some(moment(rng) * 4))).ok());
        }
        let kept = (to == "keep").then_some(id);
        (Asked::Send(kept), replica.send_message(now, to, message).ok())
    }
}

impl User for Worker {
    type Machine = Queues;

    fn act(&mut self, now: Instant, rng: &mut Rng, replica: &mut Replicated<Queues>, faults: bool) {
        self.check(replica);
        if !faults {
            return;
        }
        let handle = rng.pick(&self.handles).copied();
        let name = if rng.chance(0.5) { "keep" } else { "temp" };
        let policy = *rng
            .pick(&[Policy::RoundRobin, Policy::LocalRoundRobin, Policy::LocalBestQueue])
            .unwrap_or(&Policy::RoundRobin);
        let (asked, request) = match (rng.below(40), handle) {
            _ if !self.replies.is_empty() && rng.chance(0.7) => {
                let (_, message) = self.message(rng, 0);
                let call = self.replies.remove(0);
                (Asked::Other, replica.reply(now, call, message).ok())
            }
            (0, _) => (Asked::Other, replica.create_group(now, "any", policy).ok()),
            (1, _) => (Asked::Other, replica.create_group(now, "all", Policy::Broadcast).ok()),
            (2 | 3, _) => {
                let group = if rng.chance(0.5) { "any" } else { "all" };
                (Asked::Other, replica.insert_queue(now, group, name).ok())
            }
            (4, _) => (Asked::Other, replica.remove_queue(now, "any", name).ok()),
            (5, _) => (Asked::Other, replica.unlink_queue(now, "temp").ok()),
            (6, Some(handle)) => (Asked::Other, replica.close_queue(now, handle).ok()),
            (7, Some(handle)) => (Asked::Other, replica.cancel_gets(now, handle).ok()),
            (8..=23, Some(handle)) => {
                let timeout = if rng.chance(0.6) { moment(rng) } else { std::time::Duration::ZERO };
                (Asked::Get(handle), replica.get_message(now, handle, Some(timeout)).ok())
            }
            (24..=29, _) => {
                let persistent = name == "keep";
                let create = Attributes { persistent, retention: Some(moment(rng)), ..Attributes::new(SIZE) };
                (Asked::Open, replica.open_queue(now, name, Some(create), !persistent).ok())
            }
            _ => self.send(now, rng, replica),
        };
        if let Some(request) = request {
            self.asked.insert(request, (self.stay, asked));
        }
    }

    fn on_output(&mut self, _now: Instant, output: Output<Event>, replica: &mut Replicated<Queues>) {
        let (birth, me) = (replica.birth(), replica.me());
        if self.birth.replace(birth) != Some(birth) {
            self.last.clear();
        }
        match output {
            Output::Event(Event::Received { to, get, queue, message }) => {
                self.on_received(birth, (get, queue), &message);
                if to == me {
                    self.on_end(get.0);
                    self.replies.extend(message.call);
                    self.witness.borrow_mut().count("received");
                }
            }
            Output::Event(Event::GetEnded { to, get, .. }) if to == me => {
                self.on_end(get.0);
                self.witness.borrow_mut().count("get ended");
            }
            Output::Event(Event::Replied { to, call, .. }) if to == me => {
                self.on_end(call.0);
                self.witness.borrow_mut().count("replied");
            }
            Output::Event(Event::CallEnded { to, call }) if to == me => {
                self.on_end(call.0);
                self.witness.borrow_mut().count("call ended");
            }
            Output::Event(Event::Deleted { .. }) => self.witness.borrow_mut().count("deleted"),
            Output::Phase(_) => {
                self.stay += 1;
                self.waiting.clear();
                self.ended.clear();
                self.handles.clear();
                self.replies.clear();
            }
            Output::Done(request, Outcome::Applied(reply)) => {
                let Some((stay, asked)) = self.asked.remove(&request) else { return };
                let mut witness = self.witness.borrow_mut();
                match (answer(&reply), asked) {
                    (Ok(handle), Asked::Open) if replica.phase() == Phase::Ready => {
                        self.handles.push(Handle(handle));
                        witness.count("opened");
                    }
                    (Ok(_), Asked::Send(Some(id))) => {
                        self.seen.borrow_mut().accepted.insert((birth, id));
                        witness.count("sent");
                    }
                    (Ok(n), Asked::Get(_) | Asked::Call) if stay == self.stay && !self.ended.contains(&n) => {
                        self.waiting.insert(n);
                        witness.count("waited");
                    }
                    (Ok(_), _) => witness.count("carried out"),
                    (Err(Refusal::Malformed), _) => {
                        witness.fail("a command of ours was not understood".into());
                    }
                    (Err(Refusal::BadHandle), Asked::Get(gone)) => self.handles.retain(|h| *h != gone),
                    (Err(Refusal::QueueFull), _) => witness.count("full"),
                    (Err(Refusal::Busy), _) => witness.count("busy"),
                    (Err(_), _) => witness.count("refused"),
                }
            }
            _ => {}
        }
    }

    fn settled(&self, replica: &Replicated<Queues>) -> Result<(), String> {
        let seen = self.seen.borrow();
        let birth = replica.birth();
        let kept: BTreeSet<u64> = replica.machine().waiting("keep").map(|m| number(&m.message)).collect();
        let is_here = |id: &u64| kept.contains(id) || seen.received.contains_key(&(birth, *id));
        let accepted = seen.accepted.iter().filter(|(of, _)| *of == birth).map(|(_, id)| id);
        if let Some(lost) = accepted.into_iter().find(|id| !is_here(id)) {
            return Err(format!("MS2: message {lost} was accepted and is lost"));
        }
        if self.waiting.is_empty() { Ok(()) } else { Err(format!("MS5: {:?} never ended", self.waiting)) }
    }
}

fn run(seed: u64, bug: Option<Sabotage>) -> Result<BTreeMap<&'static str, u64>, String> {
    let seen = Rc::<RefCell<Seen>>::default();
    let user = move |witness| Worker {
        seen: Rc::clone(&seen),
        witness,
        birth: None,
        stay: 0,
        asked: BTreeMap::new(),
        handles: Vec::new(),
        waiting: BTreeSet::new(),
        ended: BTreeSet::new(),
        replies: Vec::new(),
        last: BTreeMap::new(),
    };
    run_users(seed, move || with_bug(Queues::sabotage, bug), user)
}

#[test]
fn a_message_is_got_once_or_waits_in_random_runs() {
    let wanted = [
        ("settled", 15),
        ("crash", 10),
        ("opened", 40),
        ("sent", 100),
        ("received", 60),
        ("get ended", 5),
        ("replied", 3),
        ("call ended", 30),
        ("deleted", 10),
        ("busy", 20),
    ];
    campaign(0..20, &wanted, |seed| run(seed, None));
}

#[test]
#[ignore = "hundreds of seeds: seconds in a release build, minutes without"]
fn a_message_is_got_once_or_waits_in_hundreds_more_random_runs() {
    campaign(1000..1500, &[], |seed| run(seed, None));
}

#[test]
fn queues_of_the_dead_are_found() {
    let what = found(|seed| run(seed, Some(Sabotage::OwnersOutliveMembers)));
    assert!(what.contains("MS4"), "{what}");
}

#[test]
fn a_message_that_stays_when_it_was_got_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::GetLeavesACopy)));
    assert!(what.contains("MS1") || what.contains("MS3"), "{what}");
}

#[test]
fn a_state_without_messages_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::SnapshotWithoutMessages)));
    assert!(what.contains("RS1") || what.contains("MS2"), "{what}");
}

#[test]
fn a_message_that_overtakes_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::LastInFirstOut)));
    assert!(what.contains("MS3"), "{what}");
}
