use super::*;
use crate::Position;
use crate::replicated::service::testing::{self, member, takes_any_bytes};
use proptest::prelude::*;

type Group = testing::Group<Transactions>;

fn site(n: u32) -> Site {
    member(n).into()
}

fn birth(n: u32) -> Birth {
    Birth { founder: member(n), position: Position::default() }
}

impl Group {
    fn begin(&mut self, participants: &[u32]) -> TxnId {
        let participants = participants.iter().map(|n| site(*n)).collect();
        let begin = Command::Begin { participants, content: Bytes::from_static(b"pay"), limit: None };
        TxnId { birth: self.birth, number: self.ask(1, &begin).unwrap() }
    }
}

fn parties(coordinator: u32, participants: &[u32]) -> Parties {
    Parties { coordinator: site(coordinator), participants: participants.iter().map(|n| site(*n)).collect() }
}

#[test]
fn the_last_yes_is_the_commit_point_and_all_must_carry_it_out() {
    let mut group = Group::new(3);
    let txn = group.begin(&[2, 3]);
    group.ask(2, &Command::Vote { txn, yes: true }).unwrap();
    assert!(!group.machine.is_committed(txn));
    assert_eq!(group.ask(1, &Command::Vote { txn, yes: true }), Err(Refusal::NotNow), "not a participant");
    group.ask(3, &Command::Vote { txn, yes: true }).unwrap();
    assert!(group.machine.is_committed(txn));
    assert_eq!(group.ask(1, &Command::Abort { txn }), Err(Refusal::NotNow));
    for n in 1..4 {
        assert!(group.machine.is_committed(txn));
        group.ask(n, &Command::Ack { txn }).unwrap();
    }
    assert_eq!(group.events, [Event::Began(txn), Event::Committed(txn), Event::Ended(txn)]);
    assert_eq!(group.ask(2, &Command::Ack { txn }), Err(Refusal::Ended));
}

#[test]
fn one_no_aborts_and_so_does_the_loss_of_one_that_has_not_voted() {
    let mut group = Group::new(3);
    let txn = group.begin(&[2, 3]);
    group.ask(2, &Command::Vote { txn, yes: false }).unwrap();
    assert_eq!(group.events.pop(), Some(Event::Aborted(txn, AbortReason::VotedNo(site(2)))));
    let txn = group.begin(&[2, 3]);
    group.ask(2, &Command::Vote { txn, yes: true }).unwrap();
    group.leave(2);
    assert_eq!(group.events.last(), Some(&Event::Began(txn)), "who has promised may go");
    group.leave(3);
    assert_eq!(group.events.pop(), Some(Event::Aborted(txn, AbortReason::SiteLost(site(3)))));
}

#[test]
fn after_a_loss_of_memory_one_word_of_a_commit_decides_and_no_word_of_all_aborts() {
    let parties = parties(1, &[2, 3]);
    let txn = TxnId { birth: birth(9), number: 4 };
    let report = |committed| Command::Report { txn, parties: parties.clone(), committed };
    let mut group = Group::new(3);
    group.ask(2, &report(false)).unwrap();
    group.ask(1, &report(false)).unwrap();
    assert_eq!(group.events, [], "site 3 may know");
    group.ask(3, &report(true)).unwrap();
    assert_eq!(group.events, [Event::Committed(txn)]);
    let mut group = Group::new(3);
    for n in 1..4 {
        group.ask(n, &report(false)).unwrap();
    }
    assert_eq!(group.events, [Event::Aborted(txn, AbortReason::Presumed)]);
}

#[test]
fn in_a_life_that_remembers_what_is_not_there_is_aborted() {
    let mut group = Group::new(3);
    let txn = TxnId { birth: birth(1), number: 4 };
    let report = Command::Report { txn, parties: parties(1, &[2]), committed: false };
    assert_eq!(group.ask(2, &report), Err(Refusal::Aborted));
}

#[test]
fn limits_are_refusals() {
    let mut group = Group::new(3);
    let begin = |participants| Command::Begin { participants, content: Bytes::new(), limit: None };
    assert_eq!(group.ask(1, &begin(vec![])), Err(Refusal::Participants));
    assert_eq!(group.ask(1, &begin(vec![site(8)])), Err(Refusal::Absent));
    for _ in 0..LIVE_MAX {
        group.begin(&[2]);
    }
    assert_eq!(group.ask(1, &begin(vec![site(2)])), Err(Refusal::TooMany));
    assert_eq!(group.copy(), group.machine);
}

#[test]
fn records_are_read_as_they_were_written() {
    let txn = TxnId { birth: birth(9), number: 4 };
    let (parties, content) = (parties(1, &[2, 3]), Bytes::from_static(b"pay"));
    let prepared = Record::Prepared { txn, parties: parties.clone(), content: content.clone() };
    for record in [prepared, Record::Committed { txn, parties, content }, Record::Forget { txn }] {
        assert_eq!(Record::parse(&record.to_bytes()), Ok(record));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_command_or_a_refusal_and_a_state_or_an_error(bytes: Vec<u8>) {
        takes_any_bytes::<Transactions>(&bytes);
        drop(Record::parse(&bytes));
    }
}
