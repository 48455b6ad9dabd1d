use super::{Board, SOON, board, eventually, serve};
use ocf_comm::local::{
    Address, CallFailure, Client, ClientError, ClientEvent, LocalConfig, LocalLimits, ServeError, Server,
};
use ocf_comm::rpc::{Access, Body, Dispatcher, Fault, Method, Policy};
use pils::topic::{Bus, Delivery, Draft, LINK, Pattern};
use pils::{Incarnation, NodeId, NodeInstance, Value};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

fn fault(result: Result<Body, CallFailure>) -> i32 {
    match result {
        Err(CallFailure::Fault(fault)) => fault.code,
        other => panic!("expected a fault, not {other:?}"),
    }
}

#[test]
fn a_program_registers_calls_services_and_methods_and_is_known_by_what_the_kernel_says() {
    let (board, config) = board();
    let dispatcher = Dispatcher::builder()
        .method(Method::new("who"), |caller: &ocf_comm::rpc::Caller, (): ()| Ok(format!("{caller:?}")))
        .build();
    let node = NodeInstance::new(NodeId::new(4), Incarnation::new(1));
    let (_server, address) = serve(config.dispatcher(dispatcher).node(node));
    let mut client = Client::connect(&address, "editor").unwrap();
    assert_eq!(client.node(), Some(node));
    let bytes = Body::Bytes(vec![7; 100_000].into());
    assert_eq!(client.call_wait("board", "echo", bytes.clone(), SOON), Ok(bytes));
    let info = board.clients.lock()[&client.id()].0.clone();
    assert_eq!(info.name, "editor");
    assert_eq!(info.credentials.pid, i32::try_from(std::process::id()).unwrap());
    let who = client.call_wait("", "who", Body::default(), SOON).unwrap();
    assert!(format!("{who:?}").contains("editor"), "{who:?}");
    assert_eq!(fault(client.call_wait("", "nothing", Body::default(), SOON)), Fault::METHOD_NOT_FOUND);
    assert_eq!(fault(client.call_wait("nothing", "m", Body::default(), SOON)), Fault::UNAVAILABLE);
    assert_eq!(fault(client.call_wait("board", "panic", Body::default(), SOON)), Fault::INTERNAL);
    assert!(client.call_wait("board", "echo", Body::default(), SOON).is_ok(), "a panic hurts nobody else");
}

#[test]
fn calls_run_side_by_side_and_may_be_answered_from_another_thread_in_any_order() {
    let (board, config) = board();
    let (_server, address) = serve(config);
    let mut client = Client::connect(&address, "c").unwrap();
    let calls: Vec<_> = (0..3).map(|_| client.call("board", "hold", Body::default()).unwrap()).collect();
    client.cancel(calls[1]).unwrap();
    assert!(
        client.call_wait("board", "echo", Body::default(), SOON).is_ok(),
        "a call overtakes those that wait"
    );
    let held = std::mem::take(&mut *board.held.lock());
    let answering = std::thread::Builder::new().spawn(move || {
        for (i, answer) in (0..3_i32).zip(held).rev() {
            answer.answer(Ok(Body::Value(i.into())));
        }
    });
    answering.unwrap().join().unwrap();
    let next = |client: &mut Client| match client.next_event(SOON) {
        Ok(ClientEvent::Answered { request, result }) => (request, result),
        other => panic!("expected an answer, not {other:?}"),
    };
    assert_eq!(next(&mut client), (calls[2], Ok(Body::Value(2.into()))));
    assert_eq!(next(&mut client), (calls[0], Ok(Body::Value(0.into()))), "the cancelled one is not answered");
    let late = client.call_wait("board", "hold", Body::default(), Duration::from_millis(20));
    assert_eq!(late, Err(CallFailure::Client(ClientError::Timeout)));
    let awaited = client.call("board", "echo", Body::default()).unwrap();
    assert_eq!(client.await_answer(awaited, SOON), Ok(Body::default()));
    assert!(client.as_fd().try_clone_to_owned().is_ok());
}

#[test]
fn a_service_hears_once_that_a_client_is_gone_however_it_went() {
    let (board, config) = board();
    let (server, address) = serve(config);
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&address, "c").unwrap()).collect();
    for client in &mut clients[..4] {
        client.call_wait("board", "echo", Body::default(), SOON).unwrap();
        client.call("board", "hold", Body::default()).unwrap();
        client.call_wait("board", "echo", Body::default(), SOON).unwrap();
    }
    let ids: Vec<u64> = clients.iter().map(Client::id).collect();
    let mut clients = clients.into_iter();
    drop(clients.next());
    eventually("the first is gone", || *board.gone.lock() == ids[..1]);
    for answer in board.held.lock().drain(..) {
        answer.answer(Ok(Body::default()));
    }
    drop(clients);
    eventually("all are gone", || server.stats().clients == 0);
    let mut gone = board.gone.lock().clone();
    gone.sort_unstable();
    assert_eq!(gone, ids[..4], "each that used the service, once; the one that did not, never");
    let mut last = Client::connect(&address, "c").unwrap();
    last.call_wait("board", "echo", Body::default(), SOON).unwrap();
    drop(server);
    assert_eq!(board.gone.lock().len(), 5, "the end of the server is the end of its clients");
    assert_eq!(board.joined.lock().len(), 5);
}

#[test]
fn topics_are_heard_in_order_and_what_was_lost_is_told() {
    let bus = Bus::default();
    bus.create("app.note").unwrap();
    let limits = LocalLimits { subscription_queue: 10, outbox_max: 64 << 10, ..LocalLimits::default() };
    let (_server, address) = serve(LocalConfig::new().bus(bus.clone()).limits(limits));
    let mut client = Client::connect(&address, "c").unwrap();
    let request = client.subscribe(Pattern::prefix("app")).unwrap();
    client.await_answer(request, SOON).unwrap();
    let refused = client.subscribe(Pattern::exact("nothing")).unwrap();
    assert_eq!(fault(client.await_answer(refused, SOON)), Fault::INVALID_PARAMS);
    let properties = Value::from([("from", Value::from("client"))]);
    let published = client.publish("app.note", properties, "hello".into()).unwrap();
    client.await_answer(published, SOON).unwrap();
    match client.next_event(SOON) {
        Ok(ClientEvent::Topic { subscription, delivery: Delivery::Event(event) }) => {
            assert_eq!(
                (subscription, &*event.topic, &event.data[..]),
                (request, "app.note", b"hello".as_slice())
            );
            assert_eq!(event.properties["from"], "client".into());
        }
        other => panic!("expected an event, not {other:?}"),
    }
    // The client reads nothing, while more is published than all queues hold.
    let big = vec![0; 8 << 10];
    for _ in 0..500 {
        bus.publish("app.note", Draft::new().data(big.clone())).unwrap();
    }
    let (mut events, mut lost, mut last) = (0, 0, 1);
    while events + lost < 500 {
        match client.next_event(SOON) {
            Ok(ClientEvent::Topic { delivery: Delivery::Lost(n), .. }) => lost += n,
            Ok(ClientEvent::Topic { delivery: Delivery::Event(event), .. }) => {
                events += 1;
                assert!(event.seq > last, "in order");
                last = event.seq;
            }
            other => panic!("expected an event, not {other:?}"),
        }
    }
    assert_eq!(events + lost, 500, "each is delivered or counted");
    assert!(lost > 0, "the queues are bounded");
    client.unsubscribe(request).unwrap();
    client.call_wait("", "x", Body::default(), SOON).unwrap_err();
    bus.publish("app.note", Draft::new()).unwrap();
    assert_eq!(client.next_event(Duration::from_millis(50)), Err(ClientError::Timeout));
}

#[test]
fn a_program_does_no_more_than_the_policy_allows_its_user() {
    let bus = Bus::default();
    bus.create("app").unwrap();
    let mut policy = Policy::default();
    let own = rustix::process::geteuid().as_raw();
    let with = |access| {
        let mut policy = policy.clone();
        policy.uids.insert(own, access);
        let config = LocalConfig::new().service("board", Arc::new(Board::default()));
        serve(config.bus(bus.clone()).policy(policy))
    };
    for (access, use_it, own_topic) in
        [(Access::Observe, false, false), (Access::Use, true, false), (Access::Control, true, true)]
    {
        let (_server, address) = with(access);
        let mut client = Client::connect(&address, "c").unwrap();
        assert_eq!(client.call_wait("board", "echo", Body::default(), SOON).is_ok(), use_it);
        let mut publish = |topic| {
            let request = client.publish(topic, Value::empty_struct(), "".into()).unwrap();
            client.await_answer(request, SOON).is_ok()
        };
        assert_eq!((publish("app"), publish(LINK)), (use_it, own_topic), "{access:?}");
        let request = client.subscribe(Pattern::all()).unwrap();
        client.await_answer(request, SOON).unwrap();
    }
    policy.uids.clear();
    policy.local = None;
    let (_server, address) = serve(LocalConfig::new().bus(bus).policy(policy));
    let mut client = Client::connect(&address, "c").unwrap();
    let request = client.subscribe(Pattern::all()).unwrap();
    assert_eq!(fault(client.await_answer(request, SOON)), Fault::DENIED);
}

#[test]
fn a_socket_that_a_dead_server_left_is_replaced_and_nothing_else_is() {
    let folder = std::env::temp_dir().join(format!("ocf-local-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    let address = Address::Path(path.clone());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(Client::connect(&address, "c").err(), Some(ClientError::NoServer(address.clone())));
    let server = Server::start(&address, LocalConfig::new()).unwrap();
    assert!(matches!(Server::start(&address, LocalConfig::new()), Err(ServeError::InUse(_))));
    assert!(Client::connect(&address, "c").is_ok());
    drop(server);
    assert!(!path.exists(), "a server takes its socket with it");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::start(&address, LocalConfig::new()), Err(ServeError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_client_hears_that_its_server_ended_and_may_connect_to_the_next() {
    let (_board, config) = board();
    let (server, address) = serve(config);
    let mut client = Client::connect(&address, "c").unwrap();
    client.call("board", "hold", Body::default()).unwrap();
    drop(server);
    assert_eq!(client.next_event(SOON), Err(ClientError::Closed));
    assert_eq!(client.call("board", "echo", Body::default()), Err(ClientError::Closed));
    let (_board, config) = board();
    let _server = Server::start(&address, config).unwrap();
    let mut client = Client::connect(&address, "c").unwrap();
    assert!(client.call_wait("board", "echo", Body::default(), SOON).is_ok());
    assert_eq!(
        Client::connect(&super::address(), "c").err().map(|e| matches!(e, ClientError::NoServer(_))),
        Some(true)
    );
}
