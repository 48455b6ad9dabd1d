//! Goal: a replicated machine is the same at every member at every place of the stream, and each command is carried out at
//! most once and answered exactly once, over crashes, partitions, restarts, joins and leaves.
//!
//! Method: random runs over the real stream, as in `virtual_synchrony.rs`; a witness compares the whole state of all members
//! after every message. Each bug put back must be found. Invariants RS1 to RS5 are those of `PROTOCOL.md`, section 8.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "test code with small numbers that may fail by panicking"
)]

mod sim;

use bytes::{BufMut, Bytes};
use ocf_groups::replicated::{Context, Outcome, Output, Replicated, Request, Sabotage, SubmitError};
use ocf_groups::{Machine, MemberId, Position};
use pils::wire::{ParseError, Reader, Writer};
use pils::{Instant, Rng};
use sim::host::{Maker, Members, User, Witness, campaign, config, found};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A list of all commands, and alarms that ring at a time.
#[derive(Default)]
struct List {
    /// Where this list began: another one has another place.
    birth: Option<Position>,
    entries: Vec<u64>,
    alarms: BTreeMap<u64, u64>,
    rung: u64,
}

impl Machine for List {
    type Event = (Position, u64, u64);

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn on_command(
        &mut self,
        context: &Context<'_>,
        sender: MemberId,
        command: &[u8],
        events: &mut Vec<Self::Event>,
    ) -> Vec<u8> {
        assert!(context.has(sender), "a command of {sender:?} who is no member");
        let id = Reader::new(command).u64("id").unwrap();
        let (birth, index) = (self.birth.unwrap(), self.entries.len() as u64);
        self.entries.push(id);
        if id.is_multiple_of(5) {
            let due = context.time + Duration::from_micros(id % 7 * 300 + 1);
            self.alarms.insert(id, due.as_nanos() as u64);
        }
        events.push((birth, index, id));
        let mut reply = Vec::new();
        for n in [birth.view.0, birth.sequence, index] {
            reply.put_varint(n);
        }
        reply
    }

    fn on_members(
        &mut self,
        context: &Context<'_>,
        _joined: &[MemberId],
        _left: &[MemberId],
        _events: &mut Vec<Self::Event>,
    ) {
        self.birth.get_or_insert(context.position);
    }

    fn on_time(&mut self, context: &Context<'_>, _events: &mut Vec<Self::Event>) {
        let before = self.alarms.len();
        self.alarms.retain(|_, due| Duration::from_nanos(*due) > context.time);
        self.rung += (before - self.alarms.len()) as u64;
    }

    fn due(&self) -> Option<Duration> {
        self.alarms.values().min().map(|n| Duration::from_nanos(*n))
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        let birth = self.birth.unwrap_or_default();
        for n in [birth.view.0, birth.sequence, self.rung, self.entries.len() as u64] {
            out.put_varint(n);
        }
        self.entries.iter().for_each(|id| out.put_u64(*id));
        for (id, due) in &self.alarms {
            out.put_u64(*id);
            out.put_u64(*due);
        }
    }

    fn restore(&mut self, r: &mut Reader<'_>) -> Result<(), ParseError> {
        let (view, sequence) = (r.varint("view")?, r.varint("sequence")?);
        self.birth = Some(Position { view: ocf_membership::ViewNumber(view), sequence });
        self.rung = r.varint("rung")?;
        let n = r.length("entries", r.remaining() / 8)?;
        self.entries = (0..n).map(|_| r.u64("entry")).collect::<Result<_, _>>()?;
        self.alarms.clear();
        while !r.is_empty() {
            self.alarms.insert(r.u64("id")?, r.u64("due")?);
        }
        Ok(())
    }
}

/// What became of each command, in all lives of the group.
#[derive(Default)]
struct Ledger {
    next: u64,
    places: BTreeMap<u64, (Position, u64)>,
    /// Commands that ended as not carried out.
    denied: Vec<u64>,
}

struct Writes {
    open: BTreeMap<Request, u64>,
    ledger: Rc<RefCell<Ledger>>,
    witness: Rc<RefCell<Witness>>,
}

impl User for Writes {
    type Machine = List;

    fn act(&mut self, now: Instant, rng: &mut Rng, replica: &mut Replicated<List>, faults: bool) {
        if !faults {
            return;
        }
        for _ in 0..rng.between(1, 3) {
            let id = self.ledger.borrow().next;
            match replica.submit(now, Bytes::copy_from_slice(&id.to_be_bytes())) {
                Ok(request) => {
                    self.ledger.borrow_mut().next += 1;
                    self.open.insert(request, id);
                }
                Err(SubmitError::TooMany(_)) => self.witness.borrow_mut().count("too many"),
                Err(SubmitError::NotMember) => {}
                Err(other) => panic!("{other}"),
            }
        }
        let time = replica.time(now);
        if time > now.since(Instant::ZERO) {
            self.witness.borrow_mut().fail(format!("RS5: the time of the group is {time:?} at {now}"));
        }
    }

    fn on_output(
        &mut self,
        _now: Instant,
        output: Output<(Position, u64, u64)>,
        _replica: &mut Replicated<List>,
    ) {
        let (mut ledger, mut witness) = (self.ledger.borrow_mut(), self.witness.borrow_mut());
        match output {
            Output::Event((birth, index, id)) => {
                let place = *ledger.places.entry(id).or_insert((birth, index));
                if place != (birth, index) {
                    witness
                        .fail(format!("RS2: command {id} stands at {place:?} and at {:?}", (birth, index)));
                }
            }
            Output::Done(request, outcome) => {
                let Some(id) = self.open.remove(&request) else {
                    witness.fail(format!("RS3: {request:?} ended twice"));
                    return;
                };
                match outcome {
                    Outcome::Applied(reply) => {
                        let mut r = Reader::new(&reply);
                        let mut n = || r.varint("reply").unwrap();
                        let birth = Position { view: ocf_membership::ViewNumber(n()), sequence: n() };
                        let place = (birth, n());
                        if *ledger.places.entry(id).or_insert(place) != place {
                            witness.fail(format!("RS4: command {id} was not answered from its place"));
                        }
                        witness.count("applied");
                    }
                    Outcome::NotApplied => {
                        ledger.denied.push(id);
                        witness.count("not applied");
                    }
                    Outcome::Unknown => witness.count("unknown"),
                }
            }
            _ => {}
        }
    }

    fn settled(&self, replica: &Replicated<List>) -> Result<(), String> {
        let ledger = self.ledger.borrow();
        if let Some(id) = ledger.denied.iter().find(|id| ledger.places.contains_key(id)) {
            return Err(format!("RS3: command {id} was carried out, and its member told that it was not"));
        }
        if !replica.machine().alarms.is_empty() {
            return Err(format!("alarms never rang: {:?}", replica.machine().alarms));
        }
        let mut witness = self.witness.borrow_mut();
        *witness.coverage.entry("resubmitted").or_default() += replica.stats().resubmitted;
        *witness.coverage.entry("rung").or_default() += replica.machine().rung;
        if self.open.is_empty() { Ok(()) } else { Err(format!("RS3: {:?} never ended", self.open)) }
    }
}

fn run(seed: u64, bug: Option<Sabotage>) -> Result<BTreeMap<&'static str, u64>, String> {
    let (witness, ledger) = (Rc::new(RefCell::new(Witness::default())), Rc::default());
    let of_maker = Rc::clone(&witness);
    let maker: Maker = Box::new(move |node, rng| {
        let (witness, ledger) = (Rc::clone(&of_maker), Rc::clone(&ledger));
        Box::new(Members::new(node, rng, Rc::clone(&witness), &mut |local| {
            let mut replica = Replicated::new(config(local), node, List::default());
            if let Some(bug) = bug {
                replica.sabotage(bug);
            }
            let (witness, ledger) = (Rc::clone(&witness), Rc::clone(&ledger));
            (replica, Writes { open: BTreeMap::new(), ledger, witness })
        }))
    });
    sim::host::run(seed, &witness, maker)
}

#[test]
fn each_command_is_carried_out_once_and_answered_once_in_random_runs() {
    let wanted = [
        ("settled", 35),
        ("crash", 20),
        ("partition", 10),
        ("total crash", 2),
        ("applied", 1000),
        ("not applied", 1),
        ("unknown", 1),
        ("resubmitted", 10),
        ("rung", 50),
        ("too many", 50),
        ("waiting", 50),
    ];
    campaign(0..40, &wanted, |seed| run(seed, None));
}

#[test]
#[ignore = "hundreds of seeds: seconds in a release build, minutes without"]
fn each_command_is_carried_out_once_in_hundreds_more_random_runs() {
    campaign(1000..1500, &[], |seed| run(seed, None));
}

#[test]
fn commands_forgotten_when_the_state_comes_anew_are_found() {
    let what = found(|seed| run(seed, Some(Sabotage::ForgetPending)));
    assert!(what.contains("RS3"), "{what}");
}

#[test]
fn a_state_without_the_answers_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::SnapshotWithoutSessions)));
    assert!(what.contains("RS"), "{what}");
}
