//! Calls of local programs, held against bytes that go to and fro over a bare unix socket.
//!
//! `cargo bench --bench local`, with `-- --json` one object per line, with `-- --quick` shorter.

mod support;

use ocf_comm::local::{Address, Client, ClientEvent, ClientInfo, EventSink, LocalConfig, Server, Service};
use ocf_comm::rpc::{Body, Responder};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::{Figure, Options, Report, Samples, interleave, machine};

/// Bytes of a request and of its answer.
const SIZE: usize = 64;
/// Calls that are on their way at once, in the figure of calls per second.
const WINDOW: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

struct Echo;

impl Service for Echo {
    fn joined(&self, _client: &ClientInfo, _events: EventSink) {}

    fn call(&self, _client: &ClientInfo, _method: &str, body: Body, answer: Responder<Body>) {
        answer.answer(Ok(body));
    }

    fn gone(&self, _client: u64) {}
}

fn served() -> (Server, Client) {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let address = Address::Abstract(format!("ocf-bench-{}-{number}", std::process::id()));
    let server =
        Server::start(&address, LocalConfig::new().service("echo", Arc::new(Echo))).expect("it listens");
    let client = Client::connect(&address, "bench").expect("it is served");
    (server, client)
}

fn body() -> Body {
    Body::Bytes(vec![7; SIZE].into())
}

/// Median round trip of bytes between two threads that block on a socket pair.
fn bare(rounds: usize) -> f64 {
    let (mut near, mut far) = UnixStream::pair().expect("the system gives a pair");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0; SIZE];
            while far.read_exact(&mut buffer).is_ok() {
                far.write_all(&buffer).expect("the other end reads");
            }
        });
        let mut buffer = [7; SIZE];
        let mut trip = || {
            let began = Instant::now();
            near.write_all(&buffer).expect("the other end reads");
            near.read_exact(&mut buffer).expect("the other end answers");
            began.elapsed()
        };
        let median = Samples::micros((0..rounds).map(|_| trip())).median();
        drop(near);
        median
    })
}

/// Median round trip of a call that waits for its answer.
fn call(rounds: usize) -> f64 {
    let (_server, mut client) = served();
    let mut trip = || {
        let began = Instant::now();
        client.call_wait("echo", "echo", body(), PATIENCE).expect("it is answered");
        began.elapsed()
    };
    Samples::micros((0..rounds).map(|_| trip())).median()
}

/// Thousands of calls in a second, many at once on one connection.
fn rate(calls: usize) -> f64 {
    let (_server, mut client) = served();
    let began = Instant::now();
    let (mut asked, mut answered) = (0, 0);
    while answered < calls {
        while asked < calls && asked - answered < WINDOW {
            client.call("echo", "echo", body()).expect("there is room");
            asked += 1;
        }
        if let ClientEvent::Answered { result, .. } = client.next_event(PATIENCE).expect("it is answered") {
            result.expect("an echo does not fail");
            answered += 1;
        }
    }
    f64::from(u32::try_from(calls).unwrap_or(u32::MAX)) / began.elapsed().as_secs_f64() / 1000.0
}

fn main() {
    let options = Options::from_args();
    let rounds = options.count(20_000);
    let taken = interleave(
        options,
        vec![
            ("UNIX", Box::new(|| machine::on_two(|| bare(rounds)))),
            ("L-1", Box::new(|| machine::on_two(|| call(rounds)))),
            ("L-2", Box::new(|| machine::on_two(|| rate(rounds * 5)))),
        ],
    );
    if options.only.is_some() {
        return;
    }
    let median = |name: &str| taken[name].median();
    let mut report = Report::default();
    let unix = median("UNIX");
    let mut add = |id, what, value, unit, against| {
        report.add(Figure { id, what, value, unit, against, goal: None });
    };
    add("UNIX", "unix socket round trip 64 B, two threads", unix, "us", None);
    add("L-1", "local call and answer 64 B", median("L-1"), "us", Some(("UNIX", unix)));
    add("L-2", "local calls, 64 at once", median("L-2"), "1000/s", Some(("1/UNIX", 1000.0 / unix)));
    report.print(options);
}
