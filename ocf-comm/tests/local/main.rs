//! What local programs and the services they use may rely on, with real sockets; and what hostile programs cannot do.
#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "real sockets and threads; a test waits for one kind of event and leaves the others"
)]

mod conformance;
mod hostile;
mod processes;
mod programs;

use ocf_comm::local::{Address, ClientInfo, EventSink, LocalConfig, Server, Service};
use ocf_comm::rpc::{Body, Fault, Responder};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// An address that no other test has.
pub(crate) fn address() -> Address {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    Address::Abstract(format!("ocf-test-{}-{number}", std::process::id()))
}

pub(crate) fn serve(config: LocalConfig) -> (Server, Address) {
    let address = address();
    (Server::start(&address, config).expect("nobody else is there"), address)
}

pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A service that remembers its clients, echoes, answers later, floods, and fails.
#[derive(Default)]
pub(crate) struct Board {
    pub(crate) clients: Mutex<BTreeMap<u64, (ClientInfo, EventSink)>>,
    pub(crate) joined: Mutex<Vec<u64>>,
    pub(crate) gone: Mutex<Vec<u64>>,
    pub(crate) held: Mutex<Vec<Responder<Body>>>,
}

impl Service for Board {
    fn joined(&self, client: &ClientInfo, events: EventSink) {
        self.joined.lock().push(client.id);
        self.clients.lock().insert(client.id, (client.clone(), events));
    }

    fn call(&self, client: &ClientInfo, method: &str, body: Body, answer: Responder<Body>) {
        match method {
            "echo" => answer.answer(Ok(body)),
            "hold" => self.held.lock().push(answer),
            "panic" => panic!("on purpose"),
            "flood" => {
                let sink = self.clients.lock()[&client.id].1.clone();
                let lost = (0..1000_i32).filter(|i| sink.send(Body::Value((*i).into())).is_err()).count();
                answer.answer(Body::of(&lost));
            }
            _ => answer.answer(Err(Fault::new(Fault::METHOD_NOT_FOUND, "no"))),
        }
    }

    fn gone(&self, client: u64) {
        self.gone.lock().push(client);
        self.clients.lock().remove(&client);
    }
}

pub(crate) fn board() -> (Arc<Board>, LocalConfig) {
    let board = Arc::new(Board::default());
    (Arc::clone(&board), LocalConfig::new().service("board", board))
}
