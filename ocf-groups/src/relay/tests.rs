use super::*;
use pils::{Incarnation, NodeId, NodeInstance};
use proptest::prelude::*;

fn member(n: u32) -> MemberId {
    MemberId { instance: NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n))), local: 0 }
}

fn place(sequence: u64) -> Position {
    Position { view: ViewNumber(1), sequence }
}

fn relay(config: Config) -> Relay {
    let mut relay = Relay::new(config, "east", "west", member(1));
    relay.source_joined();
    relay.target_joined(Arrivals::default());
    relay.gateways(&[member(1), member(2)]);
    relay
}

fn opened(message: &Bytes) -> Relayed {
    Relayed::read(message).expect("it has the mark").expect("it is whole")
}

#[test]
fn what_waits_beyond_the_limit_is_given_up_and_the_next_says_so() {
    for config in
        [Config { waiting_max: 2, ..Config::default() }, Config { waiting_bytes: 11, ..Config::default() }]
    {
        let mut relay = relay(config);
        (1..=5).for_each(|n| relay.source(place(n), member(7), &Bytes::from_static(b"hello")));
        assert_eq!((relay.stats().given_up, relay.waiting(), relay.check_invariants()), (3, 2, Ok(())));
        let next = opened(&relay.next().expect("it leads"));
        assert_eq!((next.place, next.sender, next.gapless), (place(4), member(7), false));
        relay.handed_out();
        assert!(opened(&relay.next().expect("one more")).gapless);
    }
}

#[test]
fn who_joins_the_source_says_of_each_cluster_that_something_may_be_missing_until_it_has_heard_of_it() {
    let mut first = relay(Config::default());
    first.source(place(1), member(7), &Bytes::new());
    let through = first.next().expect("it leads");
    let mut relay = Relay::new(Config::default(), "west", "north", member(1));
    relay.source_joined();
    relay.target_joined(Arrivals::default());
    relay.gateways(&[member(1)]);
    let gapless = |relay: &mut Relay, at, message: &Bytes| {
        relay.source(place(at), member(2), message);
        let next = opened(&relay.next().expect("it leads"));
        relay.handed_out();
        next.gapless
    };
    let own = Bytes::from_static(b"of the west");
    assert!(!gapless(&mut relay, 10, &own) && gapless(&mut relay, 11, &own));
    assert!(!gapless(&mut relay, 12, &through), "of another cluster it has heard nothing yet");
    relay.source_joined();
    assert!(!gapless(&mut relay, 20, &own) && gapless(&mut relay, 21, &own));
}

#[test]
fn what_is_too_large_for_the_target_is_given_up_and_the_next_says_so() {
    let mut relay = relay(Config { message_max: HEADER_MAX + 5, ..Config::default() });
    for (n, payload) in (1..).zip(["hello", "hello!", "hello"]) {
        relay.source(place(n), member(7), &Bytes::from_static(payload.as_bytes()));
    }
    assert_eq!((relay.stats().given_up, relay.waiting()), (1, 2));
    assert!(relay.next().is_some_and(|message| message.len() <= HEADER_MAX + 5));
    relay.handed_out();
    assert!(!opened(&relay.next().expect("one more")).gapless);
}

#[test]
fn who_does_not_lead_or_is_outside_hands_nothing_out() {
    let mut relay = relay(Config::default());
    relay.source(place(1), member(7), &Bytes::new());
    assert!(relay.next().is_some());
    relay.gateways(&[member(2), member(1)]);
    assert_eq!(relay.next(), None);
    relay.gateways(&[member(1)]);
    relay.handed_out();
    assert_eq!(relay.next(), None, "nothing is handed out twice");
    relay.target_reset();
    assert_eq!(relay.next(), None, "it does not know what came");
    relay.target_joined(Arrivals::default());
    assert!(relay.next().is_some() && relay.serves(), "what it handed out was lost");
    relay.source_reset();
    assert!(relay.next().is_none() && !relay.serves(), "another should lead, which hears");
    relay.gateways_left(true);
    relay.source_joined();
    relay.gateways(&[member(1), member(2)]);
    assert!(relay.serves() && relay.next().is_none(), "what it sends now comes after its leave");
    relay.gateways(&[member(2)]);
    relay.gateways(&[member(2), member(1)]);
    assert!(relay.next().is_none());
    relay.gateways(&[member(1)]);
    assert!(relay.next().is_some());
    relay.gateways_reset();
    assert!(relay.next().is_none());
    relay.gateways_left(false);
    relay.gateways(&[member(1)]);
    assert!(relay.next().is_some(), "its join was taken back before it was sent, and it joined again");
}

#[test]
fn a_message_passes_through_a_cluster_with_its_name_and_does_not_go_back() {
    let mut first = relay(Config::default());
    first.source(place(3), member(7), &Bytes::from_static(b"hello"));
    let message = first.next().expect("it leads");
    let mut on = Relay::new(Config::default(), "west", "north", member(1));
    on.source_joined();
    on.target_joined(Arrivals::default());
    on.gateways(&[member(1)]);
    on.source(place(80), member(2), &message);
    let arrived = opened(&on.next().expect("it is passed on"));
    let wanted = Relayed {
        origin: "east".into(),
        place: place(3),
        sender: member(7),
        gapless: false,
        payload: "hello".into(),
    };
    assert_eq!(arrived, wanted, "the first that a gateway hears may have had others before it");
    let mut back = Relay::new(Config::default(), "west", "east", member(1));
    back.source(place(80), member(2), &message);
    assert_eq!((back.waiting(), back.stats().turned_back), (0, 1));
}

#[test]
fn what_arrived_is_passed_over_when_it_comes_again_and_so_is_what_it_came_after() {
    let mut relay = relay(Config::default());
    let messages: Vec<Bytes> = (1..=3)
        .map(|n| {
            relay.source(place(n), member(7), &Bytes::new());
            let message = relay.next().expect("it leads");
            relay.handed_out();
            message
        })
        .collect();
    let mut arrivals = Arrivals::default();
    assert_eq!(arrivals.take(&Bytes::from_static(b"of this cluster")), Arrival::Local);
    assert!(matches!(arrivals.take(&messages[1]), Arrival::Relayed(_)));
    assert_eq!(arrivals.take(&messages[1]), Arrival::Repeated);
    assert_eq!(arrivals.take(&messages[0]), Arrival::Repeated);
    assert_eq!(arrivals.last("east"), Some(place(2)));
    assert_eq!(Arrivals::read(&mut Reader::new(&arrivals.write())), Ok(arrivals.clone()));
    relay.target_joined(arrivals);
    assert_eq!(relay.waiting(), 1, "who joins hears how far it is");
}

#[test]
fn more_clusters_than_the_limit_are_not_listened_to() {
    let mut arrivals = Arrivals::default();
    let from = |n: usize| {
        let relayed = Relayed {
            origin: n.to_string().into(),
            place: place(1),
            sender: member(1),
            gapless: true,
            payload: Bytes::new(),
        };
        relayed.write()
    };
    (0..ORIGINS_MAX).for_each(|n| assert!(matches!(arrivals.take(&from(n)), Arrival::Relayed(_))));
    assert_eq!(arrivals.take(&from(ORIGINS_MAX)), Arrival::Malformed);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(marked: bool, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut message = if marked { [&MARK[..], &[VERSION]].concat() } else { Vec::new() };
        message.extend(bytes);
        let message = Bytes::from(message);
        if let Some(Ok(relayed)) = Relayed::read(&message) {
            prop_assert_eq!(Relayed::read(&relayed.write()), Some(Ok(relayed)));
        }
        drop(Arrivals::read(&mut Reader::new(&message)));
    }
}
