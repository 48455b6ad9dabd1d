//! Machines of groups that live in nodes: votes, barriers, checkpoints, and one of the program's own.

use bytes::Bytes;
use core::future::Future as _;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use ocf::{Cluster, Node, Reply, RequestError, Service, ServiceEvent};
use ocf_groups::checkpoint::{self, Access, Attributes, Checkpoints};
use ocf_groups::replicated::{Config, Context as Place, Machine, Outcome, Phase, Request, SubmitError};
use ocf_groups::voting::{self, Ballot, Rule, Voting};
use ocf_groups::{JoinError, MemberId, barrier};
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use std::time::Instant;

const SOON: Duration = Duration::from_secs(60);

/// Adds numbers up, and tells each sum.
#[derive(Debug, Default)]
struct Sum(u64);

impl Machine for Sum {
    type Event = u64;

    fn reset(&mut self) {
        self.0 = 0;
    }

    fn on_command(&mut self, _: &Place<'_>, _: MemberId, command: &[u8], events: &mut Vec<u64>) -> Vec<u8> {
        self.0 += Reader::new(command).varint("number").unwrap_or(0);
        events.push(self.0);
        let mut reply = Vec::new();
        reply.put_varint(self.0);
        reply
    }

    fn on_members(&mut self, _: &Place<'_>, _: &[MemberId], _: &[MemberId], _: &mut Vec<u64>) {}

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_prefixed(b"sum");
        out.put_varint(self.0);
    }

    fn restore(&mut self, snapshot: &mut Reader<'_>) -> Result<(), ParseError> {
        if snapshot.bytes("word")? != b"sum" {
            return Err(ParseError { field: "word", at: 0, reason: Malformed::OutOfRange });
        }
        self.0 = snapshot.varint("sum")?;
        Ok(())
    }
}

fn cluster(name: &str) -> Cluster {
    let cluster = Cluster::builder(name).local(3).expect("a cluster starts");
    let until = Instant::now() + SOON;
    for node in cluster.running() {
        while node.view().is_none_or(|view| view.members.len() != 3) {
            assert!(Instant::now() < until, "no view of 3");
            drop(node.next_event(Duration::from_millis(20)));
        }
    }
    cluster
}

fn everywhere<M: Machine<Event: Send> + Default + Send>(cluster: &Cluster, group: &str) -> Vec<Service<M>> {
    let begin = |node: &Node| node.service(Config::new(group, 1), M::default()).expect("it runs");
    let all: Vec<_> = cluster.running().map(begin).collect();
    assert!(all.iter().all(|service| service.wait_ready(SOON)), "they are in one group");
    all
}

fn applied(reply: Result<Reply, RequestError<SubmitError>>) -> Bytes {
    let outcome = reply.expect("it is sent").wait(SOON).expect("the node runs");
    let Some(Outcome::Applied(reply)) = outcome else { panic!("not carried out: {outcome:?}") };
    reply
}

fn next<M: Machine<Event: Send> + Send>(service: &Service<M>) -> M::Event {
    loop {
        match service.next_event(SOON) {
            Some(ServiceEvent::Event(event)) => return event,
            Some(_) => {}
            None => panic!("nothing happens"),
        }
    }
}

fn add(service: &Service<Sum>, number: u64) -> Result<Reply, RequestError<SubmitError>> {
    let mut command = Vec::new();
    command.put_varint(number);
    service.ask(|sum, now| sum.submit(now, command.into()))
}

#[test]
fn a_vote_is_counted_at_every_node_and_a_barrier_holds_until_all_are_there() {
    let cluster = cluster("decide");
    let votes = everywhere::<Voting>(&cluster, "votes");
    let ballot = Ballot::new("Which way?", ["left", "right"], Rule::MajorityOfVoters);
    let opened = applied(votes[0].ask(|voting, now| voting.open(now, ballot)));
    let ballot = voting::answer(&opened).expect("it is open");
    for service in &votes[1..] {
        applied(service.ask(|voting, now| voting.vote(now, ballot, Some(1))));
    }
    for service in &votes {
        let closed = loop {
            if let voting::Event::Closed(closed) = next(service) {
                break closed;
            }
        };
        assert_eq!(closed.outcome, voting::Outcome::Elected(1));
        assert!(service.look(|voting| voting.machine().result(ballot).is_some()), "remembered");
    }

    let barriers = everywhere::<barrier::Barriers>(&cluster, "barriers");
    let enter = |at: usize| barriers[at].ask(|b, now| b.enter(now, "ready", None, barrier::Terms::all()));
    applied(enter(0));
    applied(enter(1));
    assert!(matches!(next(&barriers[0]), barrier::Event::Began { .. }), "nobody goes on yet");
    applied(enter(2));
    assert!(matches!(next(&barriers[0]), barrier::Event::Passed { ref entered, .. } if entered.len() == 3));
}

#[test]
fn a_checkpoint_survives_the_node_that_wrote_it_and_is_given_to_who_comes_later() {
    let mut cluster = cluster("checkpoint");
    let mut all = everywhere::<Checkpoints>(&cluster, "state");
    let create = Attributes {
        mode: checkpoint::Mode::AllReplicas,
        collocated: false,
        size: 1000,
        retention: None,
        sections_max: 4,
        section_size_max: 250,
        section_id_max: 16,
    };
    let all_of_it = Access { read: true, write: true };
    let open = |service: &Service<Checkpoints>, access| {
        let opened = applied(service.ask(|c, now| c.open_checkpoint(now, "work", access, Some(create))));
        checkpoint::Handle(checkpoint::answer(&opened).expect("it is open"))
    };
    let writes = open(&all[0], all_of_it);
    let (section, data) = (Bytes::from_static(b"step"), Bytes::from_static(b"seven"));
    applied(all[0].ask(|c, now| c.create_section(now, writes, (Some(section), data), None)));
    drop(all.remove(0));
    let dead = cluster.kill(0).expect("it runs");
    let reads = open(&all[0], all_of_it);
    let read = all[0].look(|c| c.machine().read(c.me(), reads, b"step", (0, 100)));
    assert_eq!(read.expect("the data is here"), "seven");
    drop(dead);

    let again = cluster.start(0).expect("it starts again");
    let late = again.service(Config::new("state", 1), Checkpoints::default()).expect("it runs");
    assert!(late.wait_ready(SOON), "it is given the state");
    let reads = open(&late, all_of_it);
    let read = late.look(|c| c.machine().read(c.me(), reads, b"step", (0, 100)));
    assert_eq!(read.expect("the data came along"), "seven");
}

#[test]
fn events_of_a_machine_are_the_same_everywhere_and_are_no_events_of_the_node() {
    let cluster = cluster("sums");
    let sums = everywhere::<Sum>(&cluster, "sum");
    for (number, service) in (1..=10).zip(sums.iter().cycle()) {
        applied(add(service, number));
    }
    for service in &sums {
        let told: Vec<u64> = (1..=10).map(|_| next(service)).collect();
        assert_eq!(told, [1, 3, 6, 10, 15, 21, 28, 36, 45, 55]);
    }
    let ours = |event: &ocf_groups::Event| matches!(event, ocf_groups::Event::Message { group, .. } | ocf_groups::Event::Membership { group, .. } if **group == *"sum");
    for node in cluster.running() {
        while let Some(event) = node.next_event(Duration::ZERO) {
            assert!(!matches!(&event.event, ocf::NodeEvent::Group(event) if ours(event)), "{event:?}");
        }
    }
}

#[test]
fn the_last_handle_that_is_dropped_leaves_and_its_place_can_be_taken_again() {
    let cluster = cluster("leave");
    let mut sums = everywhere::<Sum>(&cluster, "sum");
    applied(add(&sums[0], 5));
    let clone = sums[2].clone();
    let node = cluster.node(2).expect("it runs");
    let second = node.service(Config::new("sum", 1), Sum::default());
    assert!(matches!(second, Err(RequestError::Refused(JoinError::AlreadyMember { local: 1, .. }))));
    drop(sums.pop());
    assert_eq!(clone.phase(), Phase::Ready, "a clone stays");
    drop(clone);
    let until = Instant::now() + SOON;
    while sums[0].look(|sum| sum.members().len()) != 2 {
        assert!(Instant::now() < until, "it is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    let again = loop {
        match node.service(Config::new("sum", 1), Sum::default()) {
            Ok(again) => break again,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    assert!(again.wait_ready(SOON));
    assert_eq!(again.look(|sum| sum.machine().0), 5);
}

#[test]
fn who_asks_a_node_that_stops_is_told_and_so_is_who_waits_for_it() {
    let mut cluster = cluster("stop");
    let sums = everywhere::<Sum>(&cluster, "sum");
    // Two of three are gone: nothing is ordered any more.
    let _dead = [cluster.kill(0), cluster.kill(1)];
    let until = Instant::now() + SOON;
    while cluster.node(2).is_some_and(|node| node.is_active()) {
        assert!(Instant::now() < until, "a minority goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut reply = pin!(add(&sums[2], 1).expect("it waits for the others"));
    let mut context = Context::from_waker(Waker::noop());
    assert!(reply.as_mut().poll(&mut context).is_pending(), "nobody has ordered it");
    let waits = std::thread::spawn({
        let service = sums[2].clone();
        move || while service.next_event(SOON).is_some() {}
    });
    let dead = cluster.kill(2).expect("it runs");
    assert!(matches!(reply.as_mut().poll(&mut context), Poll::Ready(Err(_))));
    waits.join().expect("it ends");
    assert!(matches!(add(&sums[2], 1), Err(RequestError::Stopped(_))));
    assert!(!sums[2].wait_ready(SOON), "never again");
    assert!(dead.service(Config::new("other", 1), Sum::default()).is_err());
}

#[test]
fn another_machine_in_the_same_group_is_told_so_and_leaves() {
    let cluster = cluster("mixed");
    let [a, b] = [0, 1].map(|at| cluster.node(at).expect("it runs"));
    let sum = a.service(Config::new("group", 1), Sum::default()).expect("it runs");
    assert!(sum.wait_ready(SOON));
    applied(add(&sum, 1 << 40));
    let votes = b.service(Config::new("group", 1), Voting::default()).expect("it runs");
    let why = loop {
        match votes.next_event(SOON) {
            Some(ServiceEvent::Failed(why)) => break why,
            Some(_) => {}
            None => panic!("a sum is no vote"),
        }
    };
    assert!(!why.to_string().is_empty());
    assert_eq!(votes.phase(), Phase::Outside);
    let nothing =
        votes.ask(|voting, now| voting.open(now, Ballot::new("?", ["yes"], Rule::MajorityOfVoters)));
    assert!(matches!(nothing, Err(RequestError::Refused(SubmitError::NotMember))));
    applied(add(&sum, 1));
}

#[test]
fn what_a_program_does_not_take_is_thrown_away_from_the_oldest_on_and_counted() {
    let cluster = cluster("flood");
    let sums = everywhere::<Sum>(&cluster, "sum");
    let total = ocf::SERVICE_EVENTS_MAX + 500;
    let mut under_way = std::collections::VecDeque::new();
    for _ in 0..total {
        if under_way.len() == 64 {
            let reply: Reply = under_way.pop_front().expect("there are some");
            assert!(matches!(reply.wait(SOON), Ok(Some(Outcome::Applied(_)))));
        }
        under_way.push_back(add(&sums[0], 1).expect("there is room for 64"));
    }
    under_way.into_iter().for_each(|reply| drop(applied(Ok(reply))));
    let Some(ServiceEvent::Missed(missed)) = sums[0].next_event(SOON) else { panic!("some are missing") };
    let first = next(&sums[0]);
    // Beside the sums it was told of its phases.
    assert!((500..510).contains(&missed) && (first == missed || first + 2 >= missed), "{missed}, {first}");
    let mut last = first;
    while let Some(ServiceEvent::Event(sum)) = sums[0].next_event(Duration::ZERO) {
        assert_eq!(sum, last + 1, "nothing else is missing");
        last = sum;
    }
    assert_eq!(last, total as u64);
}

/// The request type is part of what callers see.
#[test]
fn requests_of_a_member_are_numbered_from_one() {
    let cluster = cluster("numbers");
    let sums = everywhere::<Sum>(&cluster, "sum");
    let mut seen = None;
    let reply = sums[0].ask(|sum, now| {
        let request = sum.submit(now, Bytes::from_static(&[1]))?;
        seen = Some(request);
        Ok(request)
    });
    applied(reply);
    assert_eq!(seen, Some(Request(1)));
}
