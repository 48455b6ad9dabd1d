//! Two programs beside a node want the same lock. The one that has it is killed with `kill -9`: the other gets it, with a greater
//! token. A program is written as if it were in the node's own process.
//!
//! `cargo run --release --example lock_from_a_program` needs no rights, no files and no configuration. The exit status is 0
//! only if every check held.
#![expect(clippy::print_stdout, reason = "the program is there to be watched")]

use ocf::{ApiConfig, Cluster, LockClient};
use ocf_dlm::{LockManager, Mode, Wait};
use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes long; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if let Some(node) = arguments.next() {
        return work(&LockClient::connect(&node, "worker")?);
    }
    let node = format!("@lock-from-a-program-{}", std::process::id());
    let api = ApiConfig { local: Some(node.clone()), ..ApiConfig::default() };
    let equip =
        move |builder: ocf::NodeBuilder| builder.api(api.clone()).locks(ocf_dlm::cluster::Config::default());
    let _cluster = Cluster::builder("programs").equip(equip).local(1)?;

    let (mut first, token) = worker(&node)?;
    println!("worker {} has the lock, token {token}", first.id());
    let killed = std::thread::spawn(move || {
        // Long enough that the other waits.
        std::thread::sleep(Duration::from_millis(500));
        first.kill().and_then(|()| first.wait()).map(|_| Instant::now())
    });
    let (mut second, next) = worker(&node)?;
    let killed = killed.join().expect("it does not panic")?;
    println!("worker {} has it {:?} after the first was killed, token {next}", second.id(), killed.elapsed());
    assert!(next > token, "what the lock protects can tell them apart");
    second.kill()?;
    second.wait()?;
    Ok(())
}

/// Starts a worker, and waits until it has the lock.
fn worker(node: &str) -> Result<(Child, u128), Box<dyn Error>> {
    let mut child = Command::new(std::env::current_exe()?).arg(node).stdout(Stdio::piped()).spawn()?;
    let mut words = BufReader::new(child.stdout.take().ok_or("it is piped")?).lines();
    let token = words.next().ok_or("it ended")??.parse()?;
    Ok((child, token))
}

/// What a worker does. The same with [`ocf_dlm::LocalLocks`], or with [`ocf::Node::locks`] in the node's own process.
fn work(locks: &dyn LockManager) -> Result<(), Box<dyn Error>> {
    let held = locks.owner()?.lock("jobs", b"the only one", Mode::Ex, Wait::For(PATIENCE))?;
    println!("{}", held.token()?.as_u128());
    // Works, and looks before each step whether it still may; here until it is killed.
    while held.check().is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("the lock is lost".into())
}
