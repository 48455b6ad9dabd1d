//! A server process and two client processes: one client is killed, its seat is given back, and nobody else notices.
//!
//! `cargo run --release -p ocf-comm --example local_programs`
#![expect(clippy::print_stdout, reason = "it shows")]

use ocf_comm::local::{
    Address, Client, ClientError, ClientEvent, ClientInfo, EventSink, LocalConfig, Server, Service,
};
use ocf_comm::rpc::{Body, Fault, Responder};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::error::Error;
use std::process::{Child, Command};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// One seat for each client that asks; who keeps one is told of those that come free.
struct Seats {
    taken: Mutex<BTreeMap<u64, (String, EventSink)>>,
    happened: mpsc::SyncSender<String>,
}

impl Service for Seats {
    fn joined(&self, client: &ClientInfo, events: EventSink) {
        self.taken.lock().insert(client.id, (client.name.clone(), events));
    }

    fn call(&self, client: &ClientInfo, method: &str, _body: Body, answer: Responder<Body>) {
        answer.answer(match method {
            "take" => Body::of(&self.taken.lock().len()),
            _ => Err(Fault::application("a seat can only be taken")),
        });
        self.say(format!("{} (process {}) has a seat", client.name, client.credentials.pid));
    }

    fn gone(&self, client: u64) {
        let mut taken = self.taken.lock();
        let Some((name, _)) = taken.remove(&client) else { return };
        for (_, events) in taken.values() {
            if let Err(lost) = events.send(Body::Value(name.as_str().into())) {
                self.say(format!("somebody does not hear it: {lost}"));
            }
        }
        self.say(format!("{name} is gone; its seat is free"));
    }
}

impl Seats {
    fn say(&self, what: String) {
        if self.happened.try_send(what).is_err() {
            println!("nobody looks any more");
        }
    }
}

fn client(address: &Address, name: &str) -> Result<(), Box<dyn Error>> {
    let mut client = Client::connect(address, name)?;
    client.call_wait("seats", "take", Body::default(), SOON)?;
    loop {
        match client.next_event(SOON) {
            Ok(ClientEvent::Service { body, .. }) => {
                println!("  {name} hears that {} left", body.read::<String>()?);
                client.call_wait("seats", "take", Body::default(), SOON)?;
            }
            Ok(other) => println!("  {name} hears {other:?}"),
            Err(ClientError::Closed) => {
                println!("  {name} hears that the server ended");
                return Ok(());
            }
            Err(trouble) => return Err(trouble.into()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if let (Some(address), Some(name)) = (arguments.next(), arguments.next()) {
        return client(&Address::from(address.as_str()), &name);
    }
    let address = Address::Abstract(format!("ocf-example-{}", std::process::id()));
    let (happened, seen) = mpsc::sync_channel(100);
    let seats = Arc::new(Seats { taken: Mutex::default(), happened });
    let server = Server::start(&address, LocalConfig::new().service("seats", seats))?;
    let start = |name: &str| -> Result<Child, Box<dyn Error>> {
        Ok(Command::new(std::env::current_exe()?).arg(address.to_string()).arg(name).spawn()?)
    };
    let mut children = Vec::new();
    for name in ["ada", "bob"] {
        children.push(start(name)?);
        println!("{}", seen.recv_timeout(SOON)?);
    }
    children[1].kill()?;
    println!("{}", seen.recv_timeout(SOON)?);
    println!("{}: nothing changed for it", seen.recv_timeout(SOON)?);
    assert_eq!(server.stats().clients, 1, "one died and one is served");
    drop(server); // and with it the other client's connection
    for child in &mut children {
        child.wait()?;
    }
    Ok(())
}
