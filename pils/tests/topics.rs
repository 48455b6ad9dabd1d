//! Goal: subscribers see what they asked for, in one order, and know what they missed; publishers wait for nobody. Method:
//! the public interface from one thread where order matters, from several where safety does.

use pils::topic::{
    Bus, Config, Delivery, Draft, FENCING, Pattern, RESOURCE, Subscription, TOPICS, TopicError,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn drain(subscription: &Subscription) -> Vec<Result<u64, u64>> {
    std::iter::from_fn(|| subscription.try_next())
        .map(|delivery| match delivery {
            Delivery::Event(event) => Ok(event.id),
            Delivery::Lost(n) => Err(n),
        })
        .collect()
}

fn publish(bus: &Bus, topic: &str) -> u64 {
    bus.publish(topic, Draft::new()).expect("the topic exists")
}

#[test]
fn the_topics_of_the_layers_exist_from_the_start() {
    let bus = Bus::default();
    for topic in TOPICS {
        assert_eq!(bus.create(topic), Err(TopicError::Exists(topic.to_owned())));
    }
    assert_eq!(bus.topics().len(), TOPICS.len());
}

#[test]
fn patterns_match_whole_words() {
    for (pattern, topic, matches) in [
        (Pattern::exact("resource"), "resource", true),
        (Pattern::exact("resource"), "resource.web", false),
        (Pattern::prefix("resource"), "resource", true),
        (Pattern::prefix("resource"), "resource.web.start", true),
        (Pattern::prefix("resource.web"), "resource", false),
        (Pattern::prefix("resource"), "resources", false),
        (Pattern::all(), "anything", true),
    ] {
        assert_eq!(pattern.matches(topic), matches, "{pattern:?} {topic}");
    }
}

#[test]
fn subscribers_get_what_they_asked_for_in_the_order_of_the_bus() {
    let bus = Bus::default();
    bus.create("resource.web").unwrap();
    let exact = bus.subscribe(Pattern::exact(FENCING), 8).unwrap();
    let below = bus.subscribe(Pattern::prefix(RESOURCE), 8).unwrap();
    let all = bus.subscribe(Pattern::all(), 8).unwrap();
    let ids = ["resource.web", FENCING, RESOURCE, "link"].map(|topic| publish(&bus, topic));
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(drain(&exact), [Ok(2)]);
    assert_eq!(drain(&below), [Ok(1), Ok(3)]);
    assert_eq!(drain(&all), [Ok(1), Ok(2), Ok(3), Ok(4)]);
}

#[test]
fn an_event_carries_what_its_publisher_gave_it() {
    let bus = Bus::default();
    let subscription = bus.subscribe(Pattern::exact(FENCING), 8).unwrap();
    let cause = publish(&bus, FENCING);
    bus.publish(
        FENCING,
        Draft::new().regarding(cause).property("node", "alpha").property("tries", 2).data("x"),
    )
    .unwrap();
    assert_eq!(drain(&bus.subscribe(Pattern::all(), 8).unwrap()), [], "the past is not repeated");
    subscription.try_next().expect("the cause");
    let Some(Delivery::Event(event)) = subscription.try_next() else { panic!("the second event") };
    assert_eq!((event.id, event.seq, event.regarding, &*event.topic), (2, 2, Some(1), FENCING));
    assert_eq!(event.properties["node"].as_text(), Some("alpha"));
    assert_eq!(event.properties["tries"].as_int(), Some(2));
    assert_eq!(&event.data[..], b"x");
}

#[test]
fn a_lagging_subscriber_is_told_how_many_it_lost_and_where() {
    let bus = Bus::default();
    let slow = bus.subscribe(Pattern::all(), 3).unwrap();
    let fast = bus.subscribe(Pattern::all(), 10).unwrap();
    for _ in 0..8 {
        publish(&bus, RESOURCE);
    }
    assert_eq!(slow.len(), 3);
    assert_eq!(drain(&slow), [Err(5), Ok(6), Ok(7), Ok(8)]);
    publish(&bus, RESOURCE);
    assert_eq!(drain(&slow), [Ok(9)]);
    assert_eq!(drain(&fast), (1..=9).map(Ok).collect::<Vec<_>>());
}

#[test]
fn a_mistake_is_named_and_changes_nothing() {
    let bus = Bus::new(Config { topics_max: 9, subscribers_max: 1, data_max: 2, properties_max: 1 });
    let error = bus.publish("fence", Draft::new()).unwrap_err().to_string();
    assert!(error.starts_with("no topic \"fence\"; known: connectivity, fencing, "), "{error}");
    assert!(matches!(bus.subscribe(Pattern::exact("fence"), 1), Err(TopicError::Unknown { .. })));
    assert!(matches!(bus.subscribe(Pattern::prefix("a..b"), 1), Err(TopicError::BadName(_))));
    for name in ["", ".", "a.", "A", "a b", &"x".repeat(256)] {
        assert_eq!(bus.create(name), Err(TopicError::BadName(name.to_owned())));
    }
    bus.create("a").unwrap();
    assert_eq!(bus.create("b"), Err(TopicError::TooManyTopics(9)));
    let first = bus.subscribe(Pattern::all(), 1).unwrap();
    assert!(matches!(bus.subscribe(Pattern::all(), 1), Err(TopicError::TooManySubscribers(1))));
    let large = bus.publish("a", Draft::new().data("xyz"));
    assert_eq!(large, Err(TopicError::DataTooLarge { size: 3, max: 2 }));
    let many = bus.publish("a", Draft::new().property("x", 1).property("y", 2));
    assert_eq!(many, Err(TopicError::TooManyProperties { count: 2, max: 1 }));
    assert_eq!((drain(&first), publish(&bus, "a")), (vec![], 1));
    drop(first);
    bus.subscribe(Pattern::all(), 1).expect("the other one ended");
}

#[test]
fn a_subscriber_is_woken_when_its_empty_queue_gets_something() {
    let bus = Bus::default();
    let woken = Arc::new(AtomicUsize::new(0));
    let (count, inner) = (Arc::clone(&woken), bus.clone());
    let wake = move || {
        count.fetch_add(1, Ordering::SeqCst);
        assert_eq!(inner.topics().len(), TOPICS.len(), "the callback may use the bus");
    };
    let subscription = bus.subscribe_waking(Pattern::exact(RESOURCE), 2, wake).unwrap();
    publish(&bus, FENCING);
    assert_eq!(woken.load(Ordering::SeqCst), 0);
    for _ in 0..3 {
        publish(&bus, RESOURCE);
    }
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(drain(&subscription).len(), 3);
    publish(&bus, RESOURCE);
    assert_eq!(woken.load(Ordering::SeqCst), 2);
}

#[test]
fn several_publishers_reach_several_subscribers_in_one_order() {
    let bus = Bus::default();
    let readers: Vec<_> = (0..3).map(|_| bus.subscribe(Pattern::all(), 4000).unwrap()).collect();
    std::thread::scope(|scope| {
        for topic in [RESOURCE, FENCING, RESOURCE] {
            scope.spawn({
                let bus = bus.clone();
                move || {
                    for _ in 0..1000 {
                        publish(&bus, topic);
                    }
                }
            });
        }
        for reader in &readers {
            scope.spawn(move || {
                for id in 1..=3000 {
                    let Some(Delivery::Event(event)) = reader.next_within(Duration::from_secs(60)) else {
                        panic!("event {id} is missing");
                    };
                    assert_eq!(event.id, id);
                }
            });
        }
    });
    assert_eq!(readers[0].next_within(Duration::ZERO), None);
}
