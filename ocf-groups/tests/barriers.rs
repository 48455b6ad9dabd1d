//! Goal: a barrier ends once, in the same way for all; it is passed only when all entered who had to, whoever crashes, leaves
//! or is cut off meanwhile.
//!
//! Method: random runs over the real stream, as in `replicated.rs`. Members enter barriers of all terms, twice, late, and give
//! them up. Invariants BA1 to BA3 are those of `PROTOCOL.md`, section 10.

#![expect(clippy::wildcard_enum_match_arm, reason = "a user that looks at what it needs")]

mod sim;

use ocf_groups::MemberId;
use ocf_groups::barrier::{Barriers, Broken, Event, Refusal, Sabotage, Terms, answer};
use ocf_groups::replicated::{Birth, Outcome, Output, Replicated};
use pils::{Instant, Rng};
use sim::host::{User, Witness, campaign, found, run_users, with_bug};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

type Key = (Birth, Arc<str>, u64);

/// What all members together saw.
#[derive(Default)]
struct Seen {
    awaited: BTreeMap<Key, Vec<MemberId>>,
    ended: BTreeMap<Key, Event>,
}

struct Walker {
    seen: Rc<RefCell<Seen>>,
    witness: Rc<RefCell<Witness>>,
    ended: BTreeSet<Key>,
}

const NAMES: [&str; 6] = ["all", "all in time", "survivors", "survivors in time", "any", "any in time"];

/// The terms of a barrier, so that all mean the same.
fn terms(name: &str) -> Terms {
    let limit = name.ends_with("in time").then_some(Duration::from_micros(1500));
    let terms = match name.as_bytes().first() {
        Some(b's') => Terms::survivors(),
        _ if name.starts_with("all") => Terms::all(),
        _ => Terms::any(2),
    };
    Terms { limit, ..terms }
}

impl Walker {
    fn on_passed(&self, key: &Key, entered: &[MemberId]) {
        let mut witness = self.witness.borrow_mut();
        let seen = self.seen.borrow();
        let Some(awaited) = seen.awaited.get(key) else { return };
        let set: BTreeSet<&MemberId> = entered.iter().collect();
        let terms = terms(&key.1);
        let enough = match (terms.count, terms.shrink) {
            (Some(count), _) => entered.len() >= usize::try_from(count).unwrap_or(usize::MAX),
            (None, false) => entered.len() == awaited.len(),
            (None, true) => !entered.is_empty(),
        };
        if !enough || set.len() < entered.len() || entered.iter().any(|m| !awaited.contains(m)) {
            witness.fail(format!("BA2: {key:?} was passed by {entered:?}, awaited were {awaited:?}"));
        }
        witness.count(match (terms.count, terms.shrink) {
            (Some(_), _) => "passed by enough",
            (None, false) => "passed by all",
            (None, true) => "passed by survivors",
        });
    }

    fn on_ended(&mut self, key: Key, event: Event) {
        let mut witness = self.witness.borrow_mut();
        if !self.ended.insert(key.clone()) {
            witness.fail(format!("BA1: {key:?} ended twice"));
        }
        if let Event::Broken { reason, .. } = &event {
            witness.count(match reason {
                Broken::MemberLost(_) => "member lost",
                Broken::TooFew { .. } => "too few",
                Broken::LimitPassed => "limit passed",
                Broken::Cancelled(_) => "cancelled",
            });
        }
        let mut seen = self.seen.borrow_mut();
        let first = seen.ended.entry(key).or_insert_with(|| event.clone());
        if *first != event {
            witness.fail(format!("BA1: {first:?} here, {event:?} there"));
        }
    }
}

impl User for Walker {
    type Machine = Barriers;

    fn act(&mut self, now: Instant, rng: &mut Rng, replica: &mut Replicated<Barriers>, faults: bool) {
        let me = replica.me();
        if !faults {
            let running: Vec<Arc<str>> = replica.machine().running().cloned().collect();
            for name in running {
                let missing = replica.machine().waiting(&name).is_some_and(|(_, m)| m.contains(&me));
                let generation = replica.machine().generation(&name);
                if missing {
                    drop(replica.enter(now, &name, Some(generation), terms(&name)));
                }
            }
            return;
        }
        let Some(name) = rng.pick(&NAMES).copied() else { return };
        let generation = replica.machine().generation(name);
        if rng.chance(0.02) {
            drop(replica.cancel(now, name));
        } else {
            let meant = rng.chance(0.7).then_some(generation);
            drop(replica.enter(now, name, meant, terms(name)));
        }
    }

    fn on_output(&mut self, _now: Instant, output: Output<Event>, replica: &mut Replicated<Barriers>) {
        let birth = replica.birth();
        match output {
            Output::Event(Event::Began { name, generation, awaited }) => {
                self.seen.borrow_mut().awaited.insert((birth, name, generation), awaited);
            }
            Output::Event(Event::Passed { name, generation, entered }) => {
                let key = (birth, Arc::clone(&name), generation);
                self.on_passed(&key, &entered);
                self.on_ended(key, Event::Passed { name, generation, entered });
            }
            Output::Event(Event::Broken { name, generation, reason }) => {
                let key = (birth, Arc::clone(&name), generation);
                self.on_ended(key, Event::Broken { name, generation, reason });
            }
            Output::Done(_, Outcome::Applied(reply)) => {
                let mut witness = self.witness.borrow_mut();
                match answer(&reply) {
                    Err(Refusal::AlreadyEntered) => witness.count("entered twice"),
                    Err(Refusal::NotAwaited) => witness.count("not awaited"),
                    Err(Refusal::OtherGeneration) => witness.count("other generation"),
                    Err(Refusal::Malformed) => witness.fail("a command of ours was not understood".into()),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn settled(&self, replica: &Replicated<Barriers>) -> Result<(), String> {
        let running: Vec<_> = replica.machine().running().collect();
        if running.is_empty() { Ok(()) } else { Err(format!("BA3: still waiting: {running:?}")) }
    }
}

fn run(seed: u64, bug: Option<Sabotage>) -> Result<BTreeMap<&'static str, u64>, String> {
    let seen = Rc::<RefCell<Seen>>::default();
    let user = move |witness| Walker { seen: Rc::clone(&seen), witness, ended: BTreeSet::new() };
    run_users(seed, move || with_bug(Barriers::sabotage, bug), user)
}

#[test]
fn a_barrier_ends_once_and_is_passed_by_all_it_awaits_in_random_runs() {
    let wanted = [
        ("settled", 20),
        ("crash", 10),
        ("passed by all", 50),
        ("passed by survivors", 50),
        ("passed by enough", 50),
        ("member lost", 1),
        ("limit passed", 5),
        ("cancelled", 5),
        ("entered twice", 50),
        ("not awaited", 10),
        ("other generation", 10),
    ];
    campaign(0..25, &wanted, |seed| run(seed, None));
}

#[test]
#[ignore = "hundreds of seeds: seconds in a release build, minutes without"]
fn a_barrier_ends_once_in_hundreds_more_random_runs() {
    campaign(1000..1500, &[], |seed| run(seed, None));
}

#[test]
fn a_lost_member_that_is_waited_for_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::WaitForTheLost)));
    assert!(what.contains("BA3"), "{what}");
}

#[test]
fn a_joiner_that_is_let_in_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::LetJoinersIn)));
    assert!(what.contains("BA2"), "{what}");
}

#[test]
fn a_barrier_passed_early_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::PassEarly)));
    assert!(what.contains("BA2"), "{what}");
}
