use super::*;
use crate::replicated::service::testing::{self, member, takes_any_bytes};
use proptest::prelude::*;

type Group = testing::Group<Voting>;

impl Group {
    fn about(&mut self, sender: u32, command: &Command) -> Result<BallotId, Refusal> {
        self.ask(sender, command).map(BallotId)
    }

    fn open(&mut self, rule: Rule) -> BallotId {
        self.about(1, &Command::Open(Ballot::new("which?", ["a", "b"], rule))).unwrap()
    }

    fn vote(&mut self, sender: u32, ballot: BallotId, option: usize) -> Result<BallotId, Refusal> {
        self.about(sender, &Command::Vote { ballot, option: Some(option) })
    }

    fn result(&self, ballot: BallotId) -> Option<(Outcome, Certainty)> {
        self.machine.result(ballot).map(|closed| (closed.outcome, closed.reason))
    }
}

#[test]
fn the_first_vote_counts_and_outsiders_have_none() {
    let mut group = Group::new(3);
    let ballot = group.open(Rule::MajorityOfMembers);
    group.members.push(member(4));
    assert_eq!(group.vote(2, ballot, 0), Ok(ballot));
    assert_eq!(group.vote(2, ballot, 1), Err(Refusal::AlreadyVoted));
    assert_eq!(group.vote(4, ballot, 1), Err(Refusal::NotEligible));
    assert_eq!(group.vote(3, ballot, 2), Err(Refusal::NoSuchOption));
    assert_eq!(group.result(ballot), None);
    assert_eq!(group.vote(3, ballot, 0), Ok(ballot));
    assert_eq!(group.result(ballot), Some((Outcome::Elected(0), Certainty::RestCannotChangeIt)));
    assert_eq!(group.vote(1, ballot, 0), Err(Refusal::NotOpen));
}

#[test]
fn who_leaves_is_removed_with_its_vote_and_the_rest_counted_again() {
    let mut group = Group::new(5);
    let ballot = group.open(Rule::MajorityOfMembers);
    group.vote(1, ballot, 0).unwrap();
    group.vote(2, ballot, 0).unwrap();
    group.vote(3, ballot, 1).unwrap();
    group.leave(4);
    assert_eq!(group.result(ballot), None, "two of four");
    group.leave(3);
    assert_eq!(group.result(ballot), Some((Outcome::Elected(0), Certainty::RestCannotChangeIt)));
    let closed = group.machine.result(ballot).unwrap();
    assert_eq!((closed.tally.votes.clone(), closed.tally.missing), (vec![2, 0], 1));
}

#[test]
fn a_ballot_whose_voters_all_left_ends() {
    let mut group = Group::new(3);
    let weights = [(member(2), 5)].into();
    let ballot = Ballot { weights, ..Ballot::new("?", ["a"], Rule::Plurality) };
    let id = group.about(1, &Command::Open(ballot)).unwrap();
    group.leave(2);
    let nobody = Outcome::Undecided(Undecided::NobodyVoted);
    assert_eq!(group.result(id), Some((nobody, Certainty::NobodyLeft)));
}

#[test]
fn weights_decide() {
    let mut group = Group::new(3);
    let weights = [(member(1), 3), (member(2), 1), (member(3), 1)].into();
    let ballot = Ballot { weights, ..Ballot::new("?", ["a", "b"], Rule::AtLeast(3)) };
    let id = group.about(2, &Command::Open(ballot)).unwrap();
    group.vote(2, id, 1).unwrap();
    group.vote(3, id, 1).unwrap();
    assert_eq!(group.result(id), None);
    group.vote(1, id, 0).unwrap();
    assert_eq!(group.result(id), Some((Outcome::Elected(0), Certainty::AllAnswered)));
}

#[test]
fn the_limit_is_kept_in_the_time_of_the_group() {
    let mut group = Group::new(3);
    group.time = Duration::from_secs(7);
    let limit = Some(Duration::from_secs(2));
    let ballot = Ballot { limit, ..Ballot::new("?", ["a", "b"], Rule::MajorityOfVoters) };
    let id = group.about(1, &Command::Open(ballot)).unwrap();
    assert_eq!(group.machine.next_due(), Some(Duration::from_secs(9)));
    group.vote(1, id, 1).unwrap();
    group.pass(Duration::from_secs(2));
    assert_eq!(group.result(id), Some((Outcome::Elected(1), Certainty::LimitPassed)));
    assert_eq!(group.machine.next_due(), None);
}

#[test]
fn only_the_proposer_closes_and_limits_are_refusals() {
    let mut group = Group::new(2);
    let ballot = group.open(Rule::Unanimous);
    assert_eq!(group.about(2, &Command::Close { ballot, cancel: false }), Err(Refusal::NotProposer));
    assert_eq!(group.about(1, &Command::Close { ballot, cancel: true }), Ok(ballot));
    let cancelled = Outcome::Undecided(Undecided::Cancelled);
    assert_eq!(group.result(ballot), Some((cancelled, Certainty::Proposer)));
    let none = Command::Open(Ballot::new("?", Vec::<String>::new(), Rule::Plurality));
    assert_eq!(group.about(1, &none), Err(Refusal::Options));
    let long = Command::Open(Ballot::new(&"x".repeat(TEXT_MAX + 1), ["a"], Rule::Plurality));
    assert_eq!(group.about(1, &long), Err(Refusal::TooLong));
    for _ in 0..OPEN_MAX {
        group.open(Rule::Plurality);
    }
    let more = Command::Open(Ballot::new("?", ["a"], Rule::Plurality));
    assert_eq!(group.about(1, &more), Err(Refusal::TooMany));
}

#[test]
fn a_state_is_read_as_it_was_written() {
    let mut group = Group::new(3);
    let first = group.open(Rule::Plurality);
    group.about(1, &Command::Vote { ballot: first, option: None }).unwrap();
    let second = group.open(Rule::AtLeast(2));
    group.vote(2, second, 1).unwrap();
    group.about(1, &Command::Close { ballot: first, cancel: false }).unwrap();
    assert_eq!(group.copy(), group.machine);
}

proptest! {
    #[test]
    fn any_bytes_are_a_command_or_a_refusal_and_a_state_or_an_error(bytes: Vec<u8>) {
        takes_any_bytes::<Voting>(&bytes);
    }
}
