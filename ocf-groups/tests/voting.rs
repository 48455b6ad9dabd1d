//! Goal: votes of a group end once, with one result for all, whoever crashes, leaves or is cut off while voting.
//!
//! Method: random runs over the real stream, as in `replicated.rs`. Members open ballots of every rule, with and without limit,
//! vote, vote twice, and close. Invariants VT1 to VT4 are those of `PROTOCOL.md`, section 9.

#![expect(clippy::wildcard_enum_match_arm, reason = "a user that looks at what it needs")]

mod sim;

use ocf_groups::replicated::{Birth, Outcome, Output, Phase, Replicated, Request};
use ocf_groups::voting::{
    Ballot, BallotId, Certainty, Closed, Event, Refusal, Rule, Sabotage, Voting, answer,
};
use pils::{Instant, Rng};
use sim::host::{User, Witness, campaign, found, moment, run_users, with_bug};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What all members together saw.
#[derive(Default)]
struct Seen {
    closed: BTreeMap<(Birth, BallotId), Closed>,
}

struct Voter {
    seen: Rc<RefCell<Seen>>,
    witness: Rc<RefCell<Witness>>,
    asked: BTreeMap<Request, BallotId>,
    /// Ballots in which a vote of this member was taken, in this life of the group.
    voted: BTreeSet<(Birth, BallotId)>,
    closed: BTreeSet<(Birth, BallotId)>,
}

fn rule(rng: &mut Rng) -> Rule {
    match rng.below(5) {
        0 => Rule::Plurality,
        1 => Rule::MajorityOfVoters,
        2 => Rule::MajorityOfMembers,
        3 => Rule::Unanimous,
        _ => Rule::AtLeast(3),
    }
}

impl Voter {
    fn vote(&mut self, now: Instant, rng: &mut Rng, replica: &mut Replicated<Voting>, again: bool) {
        let open: Vec<(BallotId, usize)> =
            replica.machine().open_ballots().map(|(id, ballot, _)| (id, ballot.options.len())).collect();
        for (id, options) in open {
            let option = rng.chance(0.8).then(|| usize::from(rng.chance(0.3)).min(options - 1));
            if (again || replica.machine().vote_of(id, replica.me()).is_none())
                && rng.chance(0.5)
                && let Ok(request) = replica.vote(now, id, option)
            {
                self.asked.insert(request, id);
            }
        }
    }
}

impl User for Voter {
    type Machine = Voting;

    fn act(&mut self, now: Instant, rng: &mut Rng, replica: &mut Replicated<Voting>, faults: bool) {
        if faults && rng.chance(0.4) {
            let mut ballot = Ballot::new("which way?", ["left", "right"], rule(rng));
            ballot.limit = rng.chance(0.5).then(|| moment(rng));
            if rng.chance(0.3) {
                ballot.weights = replica.members().iter().map(|m| (*m, 1 + m.local * 2)).collect();
            }
            drop(replica.open(now, ballot));
        } else if faults && rng.chance(0.05) {
            let open = replica.machine().open_ballots().next().map(|(id, ..)| id);
            if let Some(id) = open {
                drop(replica.close(now, id, rng.chance(0.5)));
            }
        } else {
            self.vote(now, rng, replica, faults);
        }
    }

    fn on_output(&mut self, _now: Instant, output: Output<Event>, replica: &mut Replicated<Voting>) {
        let mut witness = self.witness.borrow_mut();
        match output {
            Output::Event(Event::Closed(closed)) => {
                let key = (replica.birth(), closed.ballot);
                if !self.closed.insert(key) {
                    witness.fail(format!("VT3: {key:?} closed twice"));
                }
                witness.count(match closed.reason {
                    Certainty::AllAnswered => "all answered",
                    Certainty::RestCannotChangeIt => "certain early",
                    Certainty::LimitPassed => "limit passed",
                    Certainty::Proposer => "closed by its proposer",
                    Certainty::NobodyLeft => "nobody left",
                });
                let mut seen = self.seen.borrow_mut();
                let first = seen.closed.entry(key).or_insert_with(|| closed.clone());
                if *first != closed {
                    witness.fail(format!("VT1: {first:?} here, {closed:?} there"));
                }
            }
            Output::Done(request, outcome) => {
                let Some(ballot) = self.asked.remove(&request) else { return };
                let Outcome::Applied(reply) = outcome else { return };
                match answer(&reply) {
                    Ok(id) if !self.voted.insert((replica.birth(), id)) => {
                        witness.fail(format!("VT2: two votes of one member in {id:?}"));
                    }
                    Ok(id) => assert_eq!(id, ballot, "the answer is about what was asked"),
                    Err(Refusal::AlreadyVoted) => witness.count("voted twice"),
                    Err(Refusal::NotEligible) => witness.count("not eligible"),
                    Err(_) => {}
                }
            }
            // A member that comes back is another voter.
            Output::Phase(Phase::Waiting | Phase::Outside) => self.voted.clear(),
            _ => {}
        }
    }

    fn settled(&self, replica: &Replicated<Voting>) -> Result<(), String> {
        let open: Vec<_> = replica.machine().open_ballots().collect();
        if open.is_empty() { Ok(()) } else { Err(format!("VT3: still open: {open:?}")) }
    }
}

fn run(seed: u64, bug: Option<Sabotage>) -> Result<BTreeMap<&'static str, u64>, String> {
    let seen = Rc::<RefCell<Seen>>::default();
    let user = move |witness| Voter {
        seen: Rc::clone(&seen),
        witness,
        asked: BTreeMap::new(),
        voted: BTreeSet::new(),
        closed: BTreeSet::new(),
    };
    run_users(seed, move || with_bug(Voting::sabotage, bug), user)
}

#[test]
fn a_ballot_ends_once_with_one_result_in_random_runs() {
    let wanted = [
        ("settled", 20),
        ("crash", 15),
        ("all answered", 30),
        ("certain early", 100),
        ("limit passed", 50),
        ("closed by its proposer", 20),
        ("voted twice", 100),
        ("not eligible", 20),
    ];
    campaign(0..25, &wanted, |seed| run(seed, None));
}

#[test]
#[ignore = "hundreds of seeds: seconds in a release build, minutes without"]
fn a_ballot_ends_once_in_hundreds_more_random_runs() {
    campaign(1000..1300, &[], |seed| run(seed, None));
}

#[test]
fn a_last_vote_that_counts_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::LastVoteCounts)));
    assert!(what.contains("VT2"), "{what}");
}

#[test]
fn departed_voters_that_are_waited_for_are_found() {
    let what = found(|seed| run(seed, Some(Sabotage::DepartedStay)));
    assert!(what.contains("VT3"), "{what}");
}

#[test]
fn a_state_without_votes_is_found() {
    let what = found(|seed| run(seed, Some(Sabotage::SnapshotWithoutVotes)));
    assert!(what.contains("RS1") || what.contains("VT"), "{what}");
}
