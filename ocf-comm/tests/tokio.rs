//! The node and the local client on a current-thread runtime of tokio.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one kind of event and leaves the others"
)]

use core::time::Duration;
use ocf_comm::driver::{IoConfig, Ports, UdpNode};
use ocf_comm::local::{
    Address, CallFailure, ClientError, ClientInfo, EventSink, LocalConfig, Server, Service,
};
use ocf_comm::rpc::{Body, Fault, Responder};
use ocf_comm::tokio::{AsyncClient, NodeEvents, ServiceEvent, send};
use ocf_comm::{Channel, Config, Event, Lane, Preset};
use parking_lot::Mutex;
use pils::NodeId;
use pils::topic::{Bus, Delivery, Draft, Pattern};
use std::sync::Arc;
use tokio::time::{sleep, timeout};

const KEY: &[u8] = b"a key that only the tests of this project use";
const SOON: Duration = Duration::from_secs(20);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async { timeout(SOON, work).await.expect("it ends in time") })
}

fn address(name: &str) -> Address {
    Address::Abstract(format!("ocf-tokio-{name}-{}", std::process::id()))
}

fn two_nodes() -> (UdpNode, UdpNode) {
    let bind = || Ports::bind(&IoConfig::new([([127, 0, 0, 1], 0).into()])).expect("loopback has ports");
    let (a, b) = (bind(), bind());
    let at = |ports: &Ports| ports.local_addresses().expect("they are bound")[0];
    let (to_a, to_b) = (at(&a), at(&b));
    let start = |ports, id, peer, to| {
        let config = Config::new("tokio", Preset::Lan).with_peer(NodeId::new(peer), to);
        UdpNode::start(ports, NodeId::new(id), config, KEY).expect("the configuration is right")
    };
    (start(a, 1, 2, to_b), start(b, 2, 1, to_a))
}

#[test]
fn events_of_nodes_are_streams_that_end_with_the_node() {
    block_on(async {
        let (a, b) = two_nodes();
        let (mut at_a, mut at_b) =
            (NodeEvents::new(&a).expect("watched"), NodeEvents::new(&b).expect("watched"));
        let echo = tokio::spawn(async move {
            let mut echoed = 0;
            while let Some(event) = at_b.next().await {
                match event {
                    Event::Message { from, lane, channel, message } => {
                        b.consumed(from, lane, message.len());
                        send(&b, from, lane, channel, message).await.expect("the peer is up");
                        echoed += 1;
                    }
                    Event::Down { .. } => b.leave(),
                    _ => {}
                }
            }
            echoed
        });
        let mut came = 0;
        while let Some(event) = at_a.next().await {
            match event {
                Event::Up { peer } => {
                    for _ in 0..200 {
                        let sent = send(&a, peer, Lane::Bulk, Channel::APPLICATION, vec![1; 300_000].into());
                        sent.await.expect("the peer is up");
                        sleep(Duration::ZERO).await;
                    }
                }
                Event::Message { from, lane, message, .. } => {
                    a.consumed(from, lane, message.len());
                    came += 1;
                    if came == 200 {
                        a.leave();
                    }
                }
                // On a busy machine a path falls into doubt and out of it.
                Event::Writable { .. }
                | Event::PathUp { .. }
                | Event::PathDoubtful { .. }
                | Event::PathDown { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((came, echo.await.expect("it does not panic")), (200, 200));
    });
}

#[derive(Default)]
struct Held {
    answers: Mutex<Vec<Responder<Body>>>,
    sink: Mutex<Option<EventSink>>,
}

impl Service for Held {
    fn joined(&self, _client: &ClientInfo, events: EventSink) {
        *self.sink.lock() = Some(events);
    }

    fn call(&self, _client: &ClientInfo, method: &str, body: Body, answer: Responder<Body>) {
        match method {
            "echo" => answer.answer(Ok(body)),
            "hold" => self.answers.lock().push(answer),
            "release" => {
                for (i, held) in self.answers.lock().drain(..).enumerate() {
                    held.answer(Body::of(&i));
                }
                answer.answer(Ok(Body::default()));
            }
            _ => answer.answer(Err(Fault::new(1, "no"))),
        }
    }

    fn gone(&self, _client: u64) {
        *self.sink.lock() = None;
    }
}

#[test]
fn calls_of_many_tasks_share_a_connection_and_dropping_one_cancels_it() {
    let held = Arc::new(Held::default());
    let at = address("calls");
    let server =
        Server::start(&at, LocalConfig::new().service("held", held.clone())).expect("nobody is there");
    block_on(async {
        let client = AsyncClient::connect(&at, "c").expect("it is served");
        let tasks: Vec<_> = (0..50_i32)
            .map(|i| {
                let client = client.clone();
                tokio::spawn(async move {
                    for k in 0..20 {
                        let sent = Body::Value((i * 100 + k).into());
                        assert_eq!(client.call("held", "echo", sent.clone()).await, Ok(sent));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("it does not panic");
        }
        let late = timeout(Duration::from_millis(30), client.call("held", "hold", Body::default())).await;
        assert!(late.is_err(), "it is held");
        let second = client.clone();
        let second = tokio::spawn(async move { second.call("held", "hold", Body::default()).await });
        while held.answers.lock().len() < 2 {
            sleep(Duration::from_millis(1)).await;
        }
        client.call("held", "release", Body::default()).await.expect("it is served");
        assert_eq!(second.await.expect("it does not panic"), Ok(Body::Value(1.into())));
        assert_eq!(
            client.call("held", "x", Body::default()).await,
            Err(CallFailure::Fault(Fault::new(1, "no")))
        );
        let orphan = client.clone();
        let orphan = tokio::spawn(async move { orphan.call("held", "hold", Body::default()).await });
        while held.answers.lock().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        drop(server);
        let closed = Err(CallFailure::Client(ClientError::Closed));
        assert_eq!(orphan.await.expect("it does not panic"), closed);
        assert_eq!(client.call("held", "echo", Body::default()).await, closed);
    });
}

#[test]
fn streams_of_topics_and_services_tell_what_was_lost_and_end_with_the_connection() {
    let held = Arc::new(Held::default());
    let bus = Bus::default();
    bus.create("app").expect("a new topic");
    let at = address("streams");
    let config = LocalConfig::new().service("held", held.clone()).bus(bus.clone());
    let server = Server::start(&at, config).expect("nobody is there");
    block_on(async {
        let client = AsyncClient::connect(&at, "c").expect("it is served");
        let mut topics = client.subscribe(Pattern::exact("app")).await.expect("the topic is there");
        assert!(client.subscribe(Pattern::exact("nothing")).await.is_err());
        let number = client.publish("app", pils::Value::empty_struct(), "x".into()).await.expect("allowed");
        assert!(matches!(topics.next().await, Some(Delivery::Event(event)) if event.id == number));
        let mut news = client.service_events("held");
        client.call("held", "echo", Body::default()).await.expect("it is served");
        let sink = held.sink.lock().clone().expect("it joined");
        let mut refused = 0;
        for i in 0..5000_i32 {
            refused += u64::from(sink.send(Body::Value(i.into())).is_err());
            bus.publish("app", Draft::new()).expect("the topic is there");
        }
        // The streams are not read while all of that arrives.
        sleep(Duration::from_millis(200)).await;
        let (mut seen, mut lost) = (0, 0);
        while seen + lost < 5000 {
            match news.next().await.expect("the connection lives") {
                ServiceEvent::Event(_) => seen += 1,
                ServiceEvent::Lost(n) => lost += n,
            }
        }
        assert_eq!(seen + lost, 5000);
        assert!(lost >= refused && lost > 0, "more than fits was published: {lost}, {refused}");
        let (mut seen, mut lost) = (0, 0);
        while seen + lost < 5000 {
            match topics.next().await.expect("the connection lives") {
                Delivery::Event(_) => seen += 1,
                Delivery::Lost(n) => lost += n,
            }
        }
        assert_eq!(seen + lost, 5000);
        drop(server);
        assert_eq!(news.next().await, None);
        assert_eq!(topics.next().await, None);
    });
}

#[test]
fn dropping_every_handle_is_the_end_of_the_client() {
    let held = Arc::new(Held::default());
    let at = address("drop");
    let server = Server::start(&at, LocalConfig::new().service("held", held)).expect("nobody is there");
    block_on(async {
        let client = AsyncClient::connect(&at, "c").expect("it is served");
        let other = client.clone();
        drop(client);
        other.call("held", "echo", Body::default()).await.expect("a clone keeps it");
        assert_eq!(server.stats().clients, 1);
        drop(other);
        while server.stats().clients > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    });
}
