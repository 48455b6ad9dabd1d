//! The core of the arbiter, in virtual time: whom it grants, what it writes before it says so, and what it does with nonsense.

use core::time::Duration;
use ocf_membership::arbiter::{Arbiter, ArbiterConfig, ArbiterInput, ArbiterMessage, ArbiterOutput, Asker};
use ocf_membership::{Ballot, Claim, Evidence, Grant, Verdict, ViewNumber};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use proptest::prelude::*;

const GRANTED: Verdict = Verdict::Granted(Evidence::TieBreaker);

fn ids(nodes: &[u32]) -> Vec<NodeId> {
    nodes.iter().map(|n| NodeId::new(*n)).collect()
}

fn claim(number: u64, nodes: &[u32], hosts: u32) -> Claim {
    let proposer = NodeInstance::new(NodeId::new(nodes[0]), Incarnation::new(7));
    Claim {
        ballot: Ballot { round: number, proposer },
        number: ViewNumber(number),
        known: ViewNumber(number - 1),
        nodes: ids(nodes),
        absent: vec![NodeInstance::new(NodeId::new(9), Incarnation::new(3))],
        hosts,
    }
}

struct Desk {
    arbiter: Arbiter,
    now: Instant,
    disk: Vec<(String, Vec<u8>)>,
    writes: Vec<u64>,
    answers: Vec<(Asker, Verdict)>,
}

impl Desk {
    fn new(config: ArbiterConfig) -> Self {
        let arbiter = Arbiter::new(config, []).expect("nothing to read");
        Self { arbiter, now: Instant::ZERO, disk: Vec::new(), writes: Vec::new(), answers: Vec::new() }
    }

    fn drain(&mut self) {
        while let Some(output) = self.arbiter.poll_output() {
            match output {
                ArbiterOutput::Persist { token, cluster, record } => {
                    self.disk.retain(|(name, _)| *name != cluster);
                    self.disk.push((cluster, record.to_vec()));
                    self.writes.push(token);
                }
                ArbiterOutput::Answer { to, message } => {
                    let Ok(ArbiterMessage::Answer { verdict, .. }) = ArbiterMessage::parse(&message) else {
                        panic!("an arbiter says nothing else");
                    };
                    self.answers.push((to, verdict));
                }
                _ => unreachable!("no other output"),
            }
        }
    }

    fn give(&mut self, asker: u64, message: &ArbiterMessage) {
        self.arbiter.handle(self.now, ArbiterInput::Message(Asker(asker), &message.emit()));
        self.drain();
    }

    fn ask(&mut self, asker: u64, claim: Claim) {
        self.give(asker, &ArbiterMessage::Ask { cluster: "demo".to_owned(), claim });
    }

    fn note(&mut self, cluster: &str, number: u64, nodes: &[u32]) {
        let view = Grant { number: ViewNumber(number), nodes: ids(nodes) };
        self.give(0, &ArbiterMessage::Note { cluster: cluster.to_owned(), view });
        self.written();
    }

    fn written(&mut self) {
        for token in core::mem::take(&mut self.writes) {
            self.arbiter.handle(self.now, ArbiterInput::Persisted(token));
            self.drain();
        }
    }

    fn settle(&mut self) {
        self.now = self.arbiter.poll_timeout().expect("something waits");
        self.arbiter.handle_timeout(self.now);
        self.drain();
    }

    fn answers(&mut self) -> Vec<(u64, Verdict)> {
        core::mem::take(&mut self.answers).into_iter().map(|(to, verdict)| (to.0, verdict)).collect()
    }
}

#[test]
fn the_better_connected_half_wins_though_it_asks_later() {
    let mut desk = Desk::new(ArbiterConfig::default());
    desk.note("demo", 3, &[1, 2, 3, 4]);
    desk.ask(1, claim(4, &[1, 2], 1));
    desk.now += Duration::from_millis(300);
    desk.ask(2, claim(4, &[3, 4], 2));
    assert_eq!(desk.answers(), []);
    desk.settle();
    assert_eq!(desk.answers(), [(1, Verdict::Refused)], "the winner waits until it is written");
    desk.written();
    assert_eq!(desk.answers(), [(2, GRANTED)]);
    desk.ask(1, claim(4, &[1, 2], 9));
    assert_eq!(desk.answers(), [(1, Verdict::Refused)], "decided");
}

#[test]
fn of_equals_the_lowest_node_wins_and_a_cluster_is_not_another() {
    let mut desk = Desk::new(ArbiterConfig::default());
    desk.ask(1, claim(4, &[1], 0));
    assert_eq!(desk.answers(), [(1, Verdict::Refused)], "nobody has told of a view");
    desk.note("other", 3, &[1, 2]);
    desk.ask(1, claim(4, &[1], 0));
    assert_eq!(desk.answers(), [(1, Verdict::Refused)], "of another cluster it was");
    desk.note("demo", 3, &[1, 2]);
    desk.ask(2, claim(4, &[2], 0));
    desk.ask(1, claim(4, &[1], 0));
    desk.settle();
    desk.written();
    assert_eq!(desk.answers(), [(2, Verdict::Refused), (1, GRANTED)]);
    assert_eq!(desk.arbiter.remembered("demo").expect("granted").nodes, ids(&[1]));
    assert_eq!(desk.arbiter.remembered("other").expect("told").nodes, ids(&[1, 2]));
}

#[test]
fn what_was_granted_outlives_the_arbiter_and_a_failed_write_grants_nothing() {
    let mut desk = Desk::new(ArbiterConfig { settle: Duration::ZERO, ..ArbiterConfig::default() });
    desk.note("demo", 3, &[1, 2]);
    desk.ask(1, claim(4, &[1], 0));
    desk.written();
    assert_eq!(desk.answers(), [(1, GRANTED)]);
    let records: Vec<Vec<u8>> = desk.disk.iter().map(|(_, record)| record.clone()).collect();
    let again = || {
        Arbiter::new(
            ArbiterConfig { settle: Duration::ZERO, ..ArbiterConfig::default() },
            records.iter().map(|r| &r[..]),
        )
    };
    desk.arbiter = again().expect("it reads what it wrote");
    desk.ask(2, claim(4, &[2], 0));
    assert_eq!(desk.answers(), [(2, Verdict::Refused)]);
    let mut damaged = records[0].clone();
    damaged[10] ^= 1;
    assert!(Arbiter::new(ArbiterConfig::default(), [&damaged[..]]).is_err());
    desk.ask(1, claim(5, &[1], 0));
    let token = desk.writes.pop().expect("a write");
    desk.arbiter.handle(desk.now, ArbiterInput::PersistFailed(token));
    desk.drain();
    assert_eq!(desk.answers(), [(1, Verdict::Unavailable)]);
    desk.ask(1, claim(6, &[1], 0));
    assert_eq!(desk.answers(), [(1, Verdict::Refused)], "what the disk holds is unknown");
    desk.note("demo", 7, &[1]);
    desk.ask(1, claim(8, &[1], 0));
    desk.written();
    assert_eq!(desk.answers(), [(1, GRANTED)]);
}

#[test]
fn clusters_and_claims_are_bounded_and_who_left_is_not_answered() {
    let config = ArbiterConfig { clusters_max: 1, claims_max: 2, ..ArbiterConfig::default() };
    let mut desk = Desk::new(config);
    desk.note("demo", 3, &[1, 2]);
    desk.note("more", 3, &[1, 2]);
    assert_eq!((desk.arbiter.dropped(), desk.arbiter.remembered("more")), (1, None));
    for asker in 1..=3 {
        desk.ask(asker, claim(4, &[1], 0));
    }
    assert_eq!(desk.answers(), [(3, Verdict::Unavailable)]);
    desk.arbiter.handle(desk.now, ArbiterInput::Gone(Asker(2)));
    desk.settle();
    desk.written();
    assert_eq!(desk.answers(), [(1, GRANTED)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn messages_read_back(number in 1_u64..u64::MAX, size in 1_u32..64, hosts in any::<u32>(), name in "[a-z]{1,64}") {
        let nodes: Vec<u32> = (1..=size).collect();
        let claim = claim(number, &nodes, hosts);
        let ballot = claim.ballot;
        let view = Grant { number: ViewNumber(number), nodes: ids(&nodes) };
        for message in [
            ArbiterMessage::Ask { cluster: name.clone(), claim },
            ArbiterMessage::Note { cluster: name, view },
            ArbiterMessage::Answer { ballot, verdict: Verdict::Refused },
            ArbiterMessage::Answer { ballot, verdict: GRANTED },
        ] {
            prop_assert_eq!(ArbiterMessage::parse(&message.emit()), Ok(message.clone()));
            let bytes = message.emit();
            for n in 0..bytes.len() {
                prop_assert!(ArbiterMessage::parse(&bytes[..n]).is_err());
            }
        }
    }

    #[test]
    fn nonsense_is_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..60, byte in any::<u8>()) {
        let mut desk = Desk::new(ArbiterConfig::default());
        desk.note("demo", 3, &[1, 2]);
        desk.arbiter.handle(desk.now, ArbiterInput::Message(Asker(1), &bytes));
        let mut ask = ArbiterMessage::Ask { cluster: "demo".to_owned(), claim: claim(4, &[1], 0) }.emit().to_vec();
        ask[at] = byte;
        desk.arbiter.handle(desk.now, ArbiterInput::Message(Asker(1), &ask));
        desk.drain();
        prop_assert!(desk.arbiter.dropped() >= 1);
    }
}
