use super::*;
use ocf_membership::ViewNumber;
use pils::{Incarnation, NodeId, NodeInstance};
use proptest::prelude::*;

/// Adds up bytes.
#[derive(Debug, Default)]
struct Sum(u64);

impl Machine for Sum {
    type Event = u64;

    fn reset(&mut self) {
        self.0 = 0;
    }

    fn on_command(
        &mut self,
        _context: &Context<'_>,
        _sender: MemberId,
        command: &[u8],
        events: &mut Vec<u64>,
    ) -> Vec<u8> {
        self.0 += command.iter().map(|b| u64::from(*b)).sum::<u64>();
        events.push(self.0);
        vec![1]
    }

    fn on_members(&mut self, _: &Context<'_>, _: &[MemberId], _: &[MemberId], _: &mut Vec<u64>) {}

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn restore(&mut self, r: &mut Reader<'_>) -> Result<(), ParseError> {
        self.0 = r.u64("sum")?;
        Ok(())
    }
}

fn node(n: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 96))
}

fn member(n: u32) -> MemberId {
    MemberId { instance: node(n), local: 0 }
}

fn at(sequence: u64) -> Position {
    Position { view: ViewNumber(1), sequence }
}

/// Member 1 is the first of its group.
fn ready() -> Replicated<Box<dyn Machine<Event = u64>>> {
    let mut replica: Replicated<Box<dyn Machine<Event = u64>>> =
        Replicated::new(Config::new("sum", 0), node(1), Box::new(Sum::default()));
    replica.handle(Instant::ZERO, &membership(1, &[1], &[1], &[]));
    assert_eq!(replica.poll_output(), Some(Output::Phase(Phase::Ready)));
    replica
}

fn membership(sequence: u64, members: &[u32], joined: &[u32], left: &[u32]) -> Event {
    let ids = |of: &[u32]| of.iter().map(|n| member(*n)).collect();
    let (members, joined, left) = (ids(members), ids(joined), ids(left));
    Event::Membership { group: Arc::from("sum"), position: at(sequence), members, joined, left }
}

fn message(sequence: u64, sender: u32, payload: Bytes) -> Event {
    let (group, sender) = (Arc::from("sum"), member(sender));
    Event::Message { group, sender, position: at(sequence), guarantee: Guarantee::Safe, payload }
}

#[test]
fn a_command_is_answered_when_it_comes_back_and_once_only() {
    let mut replica = ready();
    let request = replica.submit(Instant::from_millis(5), Bytes::from_static(&[3, 4])).unwrap();
    let Some(Output::Send { payload, .. }) = replica.poll_output() else { panic!("nothing sent") };
    replica.handle(Instant::from_millis(6), &message(2, 1, payload.clone()));
    assert_eq!(replica.poll_output(), Some(Output::Event(7)));
    let reply = Outcome::Applied(Bytes::from_static(&[1]));
    assert_eq!(replica.poll_output(), Some(Output::Done(request, reply)));
    replica.handle(Instant::from_millis(7), &message(3, 1, payload));
    assert_eq!((replica.poll_output(), replica.stats().duplicates), (None, 1));
}

#[test]
fn what_the_core_refuses_is_sent_later_in_the_same_order() {
    let mut replica = ready();
    for n in 0..3 {
        replica.submit(Instant::ZERO, Bytes::copy_from_slice(&[n])).unwrap();
    }
    let Some(Output::Send { payload, .. }) = replica.poll_output() else { panic!("nothing sent") };
    replica.refused(payload.clone());
    assert_eq!(replica.poll_output(), None);
    replica.handle(Instant::ZERO, &Event::Writable);
    assert!(matches!(replica.poll_output(), Some(Output::Send { payload: again, .. }) if again == payload));
    assert!(matches!(replica.poll_output(), Some(Output::Send { .. })));
}

#[test]
fn limits_are_errors_that_change_nothing() {
    let config = Config { requests_max: 1, command_max: 4, ..Config::new("sum", 0) };
    let mut replica = Replicated::new(config, node(1), Sum::default());
    assert_eq!(replica.submit(Instant::ZERO, Bytes::new()), Err(SubmitError::NotMember));
    replica.handle(Instant::ZERO, &membership(1, &[1], &[1], &[]));
    let large = replica.submit(Instant::ZERO, Bytes::from_static(&[0; 5]));
    assert_eq!(large, Err(SubmitError::TooLarge { size: 5, limit: 4 }));
    assert_eq!(replica.submit(Instant::ZERO, Bytes::new()), Ok(Request(1)));
    assert_eq!(replica.submit(Instant::ZERO, Bytes::new()), Err(SubmitError::TooMany(1)));
}

#[test]
fn a_state_that_is_none_puts_the_member_outside() {
    let mut replica = Replicated::new(Config::new("sum", 0), node(1), Sum::default());
    replica.handle(Instant::ZERO, &membership(2, &[2, 1], &[1], &[]));
    assert_eq!(replica.poll_output(), Some(Output::Phase(Phase::Waiting)));
    let state = Bytes::from_static(b"\x01nothing of ours");
    let event = Event::State { group: Arc::from("sum"), member: member(1), position: at(2), state };
    replica.handle(Instant::ZERO, &event);
    assert!(matches!(replica.poll_output(), Some(Output::Failed(_))));
    assert_eq!(replica.poll_output(), Some(Output::Phase(Phase::Outside)));
}

#[test]
fn a_joiner_goes_on_from_the_state_it_is_given() {
    let mut old = ready();
    old.submit(Instant::ZERO, Bytes::from_static(&[9])).unwrap();
    let Some(Output::Send { payload, .. }) = old.poll_output() else { panic!("nothing sent") };
    old.handle(Instant::ZERO, &message(2, 1, payload));
    let joined = membership(3, &[1, 2], &[2], &[]);
    old.handle(Instant::ZERO, &joined);
    let wanted = Event::StateWanted { group: Arc::from("sum"), joiner: member(2), position: at(3) };
    old.handle(Instant::ZERO, &wanted);
    let offers = std::iter::from_fn(|| old.poll_output());
    let state = offers.filter_map(|o| if let Output::Offer { state, .. } = o { Some(state) } else { None });
    let state = state.last().expect("the state is offered");
    let mut new = Replicated::new(Config::new("sum", 0), node(2), Sum::default());
    new.handle(Instant::ZERO, &joined);
    let event = Event::State { group: Arc::from("sum"), member: member(2), position: at(3), state };
    new.handle(Instant::ZERO, &event);
    assert_eq!((new.phase(), new.machine().0, new.snapshot()), (Phase::Ready, 9, old.snapshot()));
}

proptest! {
    #[test]
    fn any_bytes_of_a_peer_are_a_message_or_counted(payload: Vec<u8>, state: Vec<u8>) {
        let mut replica = ready();
        replica.handle(Instant::ZERO, &message(2, 2, Bytes::from(payload)));
        prop_assert_eq!(replica.stats().applied + replica.stats().malformed <= 1, true);
        let mut joiner = Replicated::new(Config::new("sum", 0), node(1), Sum::default());
        joiner.handle(Instant::ZERO, &membership(2, &[2, 1], &[1], &[]));
        let state = Bytes::from(state);
        let event = Event::State { group: Arc::from("sum"), member: member(1), position: at(2), state };
        joiner.handle(Instant::ZERO, &event);
        prop_assert!(joiner.phase() != Phase::Waiting);
    }
}
