//! The end of a client's process, which may come later than that of its connection; and clients that a service lets go.

#![expect(clippy::print_stdout, reason = "the program of the test says how far it is")]

use crate::{SOON, board, eventually, serve};
use ocf_comm::local::{Address, Client, ClientError, ClientInfo, EventSink, LocalConfig, Service};
use ocf_comm::rpc::{Body, Responder};
use parking_lot::Mutex;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Says to this program where it is to be a client.
const SOCKET: &str = "OCF_TEST_CLIENT_PROCESS";

/// Wants to know how its clients end.
#[derive(Default)]
struct Mourner {
    heard: Mutex<Vec<&'static str>>,
    process: Mutex<Option<bool>>,
}

impl Service for Mourner {
    fn joined(&self, client: &ClientInfo, _events: EventSink) {
        *self.process.lock() = client.process.as_ref().map(|process| process.has_ended());
    }

    fn call(&self, _client: &ClientInfo, _method: &str, body: Body, answer: Responder<Body>) {
        answer.answer(Ok(body));
    }

    fn gone(&self, _client: u64) {
        self.heard.lock().push("gone");
    }

    fn mourns(&self, _client: u64) -> bool {
        true
    }

    fn ended(&self, _client: u64) {
        self.heard.lock().push("ended");
    }
}

/// Not a test: a client that closes its connection when it is told to and goes on. Does nothing unless it was started as such.
#[test]
fn a_client_in_a_process_of_its_own() {
    let Ok(at) = std::env::var(SOCKET) else { return };
    let mut client = Client::connect(&Address::from(at.as_str()), "child").expect("it serves");
    client.call_wait("mourner", "echo", Body::default(), SOON).expect("it answers");
    println!("> connected");
    let mut orders = std::io::stdin().lines();
    assert!(orders.next().is_some(), "an order is a line");
    drop(client);
    println!("> closed");
    // Until the end of its input, which is its end.
    assert!(orders.next().is_none());
}

fn client(at: &Address) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "processes::a_client_in_a_process_of_its_own", "--nocapture", "--test-threads=1"])
        .env(SOCKET, at.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    wait_for(&mut child, "> connected");
    child
}

/// Reads what it says, a byte at a time: what comes after stays to be read.
fn wait_for(child: &mut Child, word: &str) {
    let words = child.stdout.as_mut().expect("it is piped");
    let mut lines = BufReader::with_capacity(1, words).lines();
    let found = lines.any(|line| line.expect("it speaks in text").ends_with(word));
    assert!(found, "it ended before it said {word:?}");
}

#[test]
fn a_service_hears_of_the_end_of_a_process_whose_connection_ended_before() {
    let mourner = Arc::new(Mourner::default());
    let (server, at) = serve(LocalConfig::new().service("mourner", Arc::<Mourner>::clone(&mourner)));
    let mut child = client(&at);
    assert_eq!(*mourner.process.lock(), Some(false), "the kernel lets it be watched");
    writeln!(child.stdin.as_mut().expect("it is piped"), "close").expect("it listens");
    wait_for(&mut child, "> closed");
    eventually("its process is mourned", || server.stats().mourned == 1);
    assert_eq!((server.stats().clients, &mourner.heard.lock()[..]), (0, &["gone"][..]));
    drop(child.stdin.take());
    eventually("its end is told", || mourner.heard.lock()[..] == ["gone", "ended"]);
    child.wait().expect("it is ours");
    assert_eq!(server.stats().mourned, 0);
    // The server has not lost its way.
    let mut child = client(&at);
    child.kill().expect("it is ours");
    eventually("both ends are told", || mourner.heard.lock()[..] == ["gone", "ended", "gone", "ended"]);
    child.wait().expect("it is ours");
    // One of this process does not end before this test does.
    drop(Client::connect(&at, "own").expect("it serves").call_wait("mourner", "echo", Body::default(), SOON));
    eventually("it is gone", || mourner.heard.lock().len() == 5);
    eventually("its process is mourned", || server.stats().mourned == 1);
    drop(server);
    assert_eq!(mourner.heard.lock().len(), 5, "the end of the server is not that of the process");
}

#[test]
fn with_too_many_processes_to_wait_for_nobody_else_is_served() {
    let mourner = Arc::new(Mourner::default());
    let mut config = LocalConfig::new().service("mourner", Arc::<Mourner>::clone(&mourner));
    config = config.limits(ocf_comm::local::LocalLimits { mourned_max: 1, ..Default::default() });
    let (server, at) = serve(config);
    let mut client = Client::connect(&at, "first").expect("it serves");
    client.call_wait("mourner", "echo", Body::default(), SOON).expect("it answers");
    drop(client);
    eventually("its process is mourned", || server.stats().mourned == 1);
    let refused = Client::connect(&at, "second").map(drop);
    assert!(matches!(&refused, Err(ClientError::Refused(why)) if why.contains("live on")), "{refused:?}");
}

#[test]
fn who_is_let_go_is_told_why() {
    let (board, config) = board();
    let (server, at) = serve(config);
    let mut client = Client::connect(&at, "test").expect("it serves");
    client.call_wait("board", "echo", Body::default(), SOON).expect("it answers");
    let sink = board.clients.lock()[&client.id()].1.clone();
    sink.end("enough");
    let ended = loop {
        if let Err(ended) = client.next_event(SOON) {
            break ended;
        }
    };
    assert_eq!(ended, ClientError::Refused("enough".to_owned()));
    eventually("it is gone", || board.gone.lock().len() == 1);
    assert_eq!(server.stats().ended, 1);
    assert!(sink.send(Body::default()).is_err(), "nothing more is taken for it");
}
