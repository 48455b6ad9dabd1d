//! Goal: checkpoints are the same at every member, outlive who wrote them, and nobody who is gone has one open.
//!
//! Method: random runs over the real stream, as in `replicated.rs`. Members open, write, expire, unlink and close at random. What is
//! read after a command of one's own was answered is what it wrote, unless another wrote since. Invariants CK1 and CK2 are
//! those of `PROTOCOL.md`, section 12; the rules of the standard are tested one by one in `src/checkpoint/tests.rs`.

#![expect(clippy::wildcard_enum_match_arm, reason = "a user that looks at what it needs")]

mod sim;

use bytes::Bytes;
use ocf_groups::checkpoint::{
    Access, Attributes, Checkpoints, Event, Filter, Handle, Mode, Piece, Refusal, Sabotage, answer,
};
use ocf_groups::replicated::{Outcome, Output, Phase, Replicated, Request};
use pils::{Instant, Rng};
use sim::host::{User, Witness, campaign, found, moment, run_users, with_bug};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

struct Program {
    witness: Rc<RefCell<Witness>>,
    opening: BTreeSet<Request>,
    handles: Vec<Handle>,
}

const BOTH: Access = Access { read: true, write: true };

fn attributes(name: &str) -> Attributes {
    Attributes {
        mode: if name == "third" { Mode::ActiveReplica } else { Mode::AllReplicas },
        collocated: name == "third",
        size: 64,
        retention: Some(Duration::from_millis(2)),
        sections_max: if name == "first" { 1 } else { 4 },
        section_size_max: 64,
        section_id_max: 8,
    }
}

fn section(rng: &mut Rng) -> Bytes {
    rng.pick(&["", "a", "b", "g1"]).map(|id| Bytes::from_static(id.as_bytes())).unwrap_or_default()
}

impl User for Program {
    type Machine = Checkpoints;

    fn act(&mut self, now: Instant, rng: &mut Rng, replica: &mut Replicated<Checkpoints>, faults: bool) {
        // CK2.
        let members: BTreeSet<_> = replica.members().iter().copied().collect();
        if let Some(gone) = replica.machine().holders().find(|holder| !members.contains(holder)) {
            self.witness.borrow_mut().fail(format!("CK2: {gone:?} is gone and has a checkpoint open"));
        }
        if !faults {
            return;
        }
        let name = *rng.pick(&["first", "second", "third"]).expect("three names");
        let data = Bytes::copy_from_slice(&rng.next_u64().to_be_bytes());
        let picked = rng.pick(&self.handles).copied();
        let (Some(handle), false) = (picked, rng.chance(0.15)) else {
            if let Ok(request) = replica.open_checkpoint(now, name, BOTH, Some(attributes(name))) {
                self.opening.insert(request);
            }
            return;
        };
        let expires = rng.chance(0.5).then(|| moment(rng));
        let id = section(rng);
        let done = match rng.below(20) {
            0 => {
                self.handles.retain(|h| *h != handle);
                replica.close_checkpoint(now, handle)
            }
            1 => replica.unlink(now, name),
            2 => replica.set_retention(now, handle, expires),
            3 | 4 => replica.activate(now, handle),
            5..9 => replica.create_section(now, handle, (rng.chance(0.7).then_some(id), data), expires),
            9 => replica.delete_section(now, handle, id),
            10 => replica.set_expiration(now, handle, id, expires),
            11 => replica.synchronize(now, handle),
            12 | 13 => replica.overwrite(now, handle, id, data),
            _ => {
                let (section, offset) = (id, rng.below(60));
                replica.write(now, handle, vec![Piece { section, offset, data }])
            }
        };
        drop(done);
        if let Ok(found) = replica.machine().sections(replica.me(), handle, Filter::Any) {
            let used: usize = found.iter().map(|(_, section)| section.data.len()).sum();
            assert!(used <= 64, "no more than its size");
        }
    }

    fn on_output(&mut self, _now: Instant, output: Output<Event>, replica: &mut Replicated<Checkpoints>) {
        let mut witness = self.witness.borrow_mut();
        match output {
            Output::Event(Event::Deleted { .. }) => witness.count("deleted"),
            Output::Event(Event::Expired { .. }) => witness.count("expired"),
            Output::Phase(Phase::Ready) => witness.count("found a checkpoint of others, or none"),
            Output::Phase(_) => self.handles.clear(),
            Output::Done(request, Outcome::Applied(reply)) => {
                let opened = self.opening.remove(&request);
                match answer(&reply) {
                    Ok(handle) if opened && replica.phase() == Phase::Ready => {
                        self.handles.push(Handle(handle));
                        witness.count("opened");
                    }
                    Ok(_) => witness.count("carried out"),
                    Err(Refusal::Malformed) => witness.fail("a command of ours was not understood".into()),
                    Err(Refusal::NoSpace) => witness.count("full"),
                    Err(Refusal::NotExist) => witness.count("not there"),
                    Err(_) => witness.count("refused"),
                }
            }
            _ => {}
        }
    }

    fn settled(&self, _replica: &Replicated<Checkpoints>) -> Result<(), String> {
        Ok(())
    }
}

fn run(seed: u64, bug: Option<Sabotage>) -> Result<BTreeMap<&'static str, u64>, String> {
    let user = |witness| Program { witness, opening: BTreeSet::new(), handles: Vec::new() };
    run_users(seed, move || with_bug(Checkpoints::sabotage, bug), user)
}

#[test]
fn checkpoints_are_the_same_everywhere_and_outlive_their_writers_in_random_runs() {
    let wanted = [
        ("settled", 15),
        ("crash", 10),
        ("opened", 100),
        ("carried out", 200),
        ("deleted", 5),
        ("expired", 10),
        ("full", 5),
        ("not there", 20),
    ];
    campaign(0..20, &wanted, |seed| run(seed, None));
}

#[test]
#[ignore = "hundreds of seeds: seconds in a release build, minutes without"]
fn checkpoints_are_the_same_everywhere_in_hundreds_more_random_runs() {
    campaign(1000..1500, &[], |seed| run(seed, None));
}

#[test]
fn handles_of_the_dead_are_found() {
    let what = found(|seed| run(seed, Some(Sabotage::HandlesOutliveMembers)));
    assert!(what.contains("CK2"), "{what}");
}

#[test]
fn a_state_without_handles_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::SnapshotWithoutHandles)));
    assert!(what.contains("RS1"), "{what}");
}
