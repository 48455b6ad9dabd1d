use super::*;
use crate::record::Record;
use crate::{Cause, ChangeReason, Evidence, Lag, NodeVotes, View};
use core::time::Duration;
use ocf_comm::DownReason;
use pils::{Incarnation, NodeId};
use proptest::prelude::*;

fn instance(n: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 64 | 5))
}

fn sample_view(size: u32) -> View {
    let member = |n| Member { instance: instance(n), joined: ViewNumber(u64::from(n)), votes: n };
    let silent = DownReason::Silent { for_: Duration::from_micros(512_345) };
    let lag = |stalled| Lag { stalled, lasted: Duration::from_micros(10_000_001), behind: 8 << 20 };
    let causes = vec![
        Cause { instance: instance(1), reason: ChangeReason::Joined },
        Cause { instance: instance(2), reason: ChangeReason::TieWon(Evidence::TieBreaker) },
        Cause { instance: instance(3), reason: ChangeReason::TieWon(Evidence::Ended) },
        Cause { instance: instance(4), reason: ChangeReason::TieWon(Evidence::Operator) },
        Cause { instance: instance(5), reason: ChangeReason::Evicted(lag(true)) },
        Cause { instance: instance(6), reason: ChangeReason::Evicted(lag(false)) },
        Cause { instance: instance(8), reason: ChangeReason::Down(silent) },
        Cause { instance: instance(9), reason: ChangeReason::Down(DownReason::LastGasp) },
    ];
    View {
        number: ViewNumber(100),
        ballot: Ballot { round: 6, proposer: instance(1) },
        members: (1..=size).map(member).collect(),
        previous: (2..=size).map(member).collect(),
        causes,
        quorum: size / 2 + 1,
        level: 1 + size % 7,
        unproven: (0..size % 3).map(|n| instance(40 + n)).collect(),
    }
}

fn samples(size: u32, text: &[u8]) -> Vec<Message> {
    let ballot = Ballot { round: u64::from(size) << 33, proposer: instance(size) };
    let view = sample_view(size);
    let candidates: Vec<NodeInstance> = (1..=size).map(instance).collect();
    let known = Known { number: view.number, value: view.ballot, members: view.members.clone() };
    let nodes: Vec<NodeVotes> = (1..=size).map(|n| NodeVotes::new(NodeId::new(n), 1)).collect();
    let contacts = vec![(NodeId::new(size), Bytes::copy_from_slice(&text[..text.len().min(40)]))];
    let before = VoteConfig { nodes: nodes.clone(), quorum: 1, ..VoteConfig::default() };
    let before = Some(Box::new(VoteConfig { contacts: contacts.clone(), ..before }));
    let votes = VoteConfig { revision: 9, nodes: nodes.clone(), quorum: 2, contacts, before };
    let states = vec![(instance(1), Bytes::copy_from_slice(text))];
    let accept = Accept {
        ballot,
        candidates: candidates.clone(),
        votes: votes.clone(),
        proposal: Proposal { view: view.clone(), states },
    };
    let record = Record {
        voteless: true,
        ballot,
        candidates: candidates.clone(),
        votes: votes.clone(),
        view: view.clone(),
    };
    let state = StateReport {
        ballot,
        has_vote: true,
        synced: false,
        life: Duration::from_micros(77),
        active: Some(view.number),
        chosen: Some((view.clone(), votes.clone())),
        accepted: Some(accept.clone()),
        record: Some(record),
        acks: vec![(instance(3), Duration::from_millis(5))],
        dead: vec![instance(2)],
        sole: true,
        unproven: view.unproven.clone(),
        upper: Bytes::copy_from_slice(text),
    };
    let status = Status {
        has_vote: true,
        fit: true,
        active: None,
        known: Some(known.clone()),
        row: candidates.clone(),
        wanted: Some(Wish { base: 4, nodes, contact: Some((NodeId::new(3), Bytes::from_static(b"there"))) }),
        votes: Some(votes.clone()),
    };
    vec![
        Message::Status(Status::default()),
        Message::Status(status),
        Message::Prepare { ballot, candidates },
        Message::Nack { ballot, promised: Ballot::NONE },
        Message::State(Box::new(state)),
        Message::Accept(Box::new(accept)),
        Message::Accepted { ballot },
        Message::Install { ballot, known },
        Message::Renew { value: ballot, sequence: 9 },
        Message::RenewAck { value: ballot, sequence: 1 << 40 },
        Message::Levels { levels: Levels { oldest: 1, newest: size }, in_force: size / 2 },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_message_reads_back(size in 1_u32..64, text in proptest::collection::vec(any::<u8>(), 0..40)) {
        for message in samples(size, &text) {
            prop_assert_eq!(Message::parse(&message.emit()), Ok(message));
        }
    }

    #[test]
    fn damaged_messages_are_errors_or_other_messages_but_never_panics(
        size in 1_u32..8, which in 0_usize..11, at in any::<u16>(), byte in any::<u8>(), cut in any::<u16>(),
    ) {
        let mut bytes = samples(size, b"abc")[which].emit().to_vec();
        let n = bytes.len();
        bytes[usize::from(at) % n] = byte;
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(message.emit().len() <= bytes.len() + 8);
        }
        prop_assert!(Message::parse(&bytes[..usize::from(cut) % n]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let parsed = Message::parse(&bytes);
        prop_assert!(parsed.is_err() || !bytes.is_empty());
    }
}
