//! Processes write one file, each as a node of a cluster, under a distributed lock; one is killed while it holds the lock.
//!
//! `cargo run --example shared_file` starts three processes on this machine, kills the holder of the lock, and looks through
//! what was written: no update lost, no write by who did not hold the lock any more. It needs no rights and no
//! configuration; the exit status is 0 only if every check held. `--help` says how to start the processes yourself.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod store;
mod switch;

use clap::Parser;
use ocf::{Locks, Node, NodeConfig};
use ocf_dlm::{LockError, Mode, Wait};
use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use store::{Record, Store};
use switch::Switch;

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records that must be there before and after the death of a holder.
const RECORDS: usize = 50;

/// Writes a file that other nodes write, too, each record under a lock and with the token of the grant.
///
/// Without arguments it starts three of itself on this machine and kills one of them.
#[derive(Parser)]
struct Arguments {
    /// Take part as this node, from 1, until killed.
    #[arg(long, requires_all = ["nodes", "folder"])]
    node: Option<u32>,
    /// Addresses of all nodes, in order.
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<SocketAddr>,
    /// Folder of the file, which all share: give every node the same.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How long a lock is held, in milliseconds, between reading and writing.
    #[arg(long, default_value_t = 2)]
    hold: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match (&arguments.node, &arguments.folder) {
        (Some(node), Some(folder)) => take_part(*node, &arguments.nodes, folder, arguments.hold),
        _ => demonstrate(),
    };
    ended.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// The configuration of a node. The key is a file in the folder.
fn configuration(node: u32, nodes: &[SocketAddr], folder: &Path) -> Result<NodeConfig, Box<dyn Error>> {
    let key = folder.join("key");
    let mut text =
        format!("cluster = \"shared-file\"\nnode = {node}\nkey_file = {key:?}\nfence_action = \"off\"\n");
    for (id, address) in (1..).zip(nodes) {
        text += &format!("[[nodes]]\nid = {id}\naddress = \"{address}\"\n");
    }
    text +=
        "[[fencing.devices]]\nname = \"switch\"\nclass = \"process\"\nnodes = \"all\"\ntimeout_ms = 8000\n";
    Ok(NodeConfig::from_toml(&text)?)
}

/// Runs a node: takes the lock, reads, writes one more, gives the lock back, again and again.
fn take_part(node: u32, nodes: &[SocketAddr], folder: &Path, hold: u64) -> Result<(), Box<dyn Error>> {
    let config = configuration(node, nodes, folder)?;
    let pid_file = Switch::pid_file(folder, config.node);
    fs::write(&pid_file, std::process::id().to_string())
        .map_err(|error| format!("{}: {error}; --folder is one that is there", pid_file.display()))?;
    let running = Node::builder(config)
        .fence_class(std::sync::Arc::new(Switch::new(folder)))
        .locks(ocf_dlm::cluster::Config::default())
        .start()?;
    let locks = running.locks().ok_or("the node has no locks")?;
    let store = Store::new(folder);
    loop {
        while let Some(event) = running.next_event(Duration::ZERO) {
            println!("{} {:?}", event.at, event.event);
        }
        if let Some(why) = running.stopped() {
            return Err(format!("the node stopped: {why}").into());
        }
        match write_one(&locks, &store, node, hold) {
            Ok(record) => println!("wrote {} with {}", record.value, record.token),
            Err(why) => println!("{why}"),
        }
    }
}

/// One record, or why not.
fn write_one(locks: &Locks, store: &Store, node: u32, hold: u64) -> Result<Record, String> {
    let guard = match locks.lock("shared-file", "records", Mode::Ex, Wait::For(PATIENCE)) {
        Ok(guard) => guard,
        Err(LockError::Lost) => {
            // Outside the primary partition: try again, but not in a circle.
            thread::sleep(Duration::from_millis(20));
            return Err("lost: this node is not in the primary partition".to_owned());
        }
        Err(error) => return Err(format!("not locked: {error}")),
    };
    let token = guard.token().map_err(|error| format!("lost: {error}"))?;
    println!("holds {token}");
    let last = store.read(token).map_err(|why| format!("refused: {why}"))?;
    thread::sleep(Duration::from_millis(hold));
    // The lease may end after this look, and the process may stand still for as long as it likes. What counts is the token.
    guard.check().map_err(|error| format!("lost: {error}"))?;
    let record = Record { value: last + 1, token, node };
    store.append(record).map_err(|why| format!("refused: {why}"))?;
    guard.release(None).map_err(|error| format!("lost: {error}"))?;
    Ok(record)
}

/// Three processes of this program, one of which is killed.
fn demonstrate() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("shared-file-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let mut processes = Processes { folder: folder.clone(), children: Vec::new() };
    let ended = processes.run();
    drop(processes);
    fs::remove_dir_all(&folder)?;
    ended
}

struct Processes {
    folder: PathBuf,
    children: Vec<Child>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Processes {
    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        fs::write(self.folder.join("key"), "00112233445566778899aabbccddeeff".repeat(2))?;
        // Ports that are free now. They are given back together, just before the nodes take them.
        let sockets: Vec<UdpSocket> =
            (0..3).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let addresses: Vec<SocketAddr> =
            sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
        drop(sockets);
        let (tell, told) = mpsc::channel();
        for node in 0..addresses.len() {
            let lines = self.start(node, &addresses)?;
            let tell = tell.clone();
            thread::spawn(move || lines.for_each(|line| drop(tell.send((node, line)))));
        }
        let store = Store::new(&self.folder);
        written(&store, &told, RECORDS)?;
        let holder = holder(&told)?;
        self.children[holder].kill()?;
        let before = store.records()?.len();
        println!("node {} is killed with the lock in its hands, after {before} records", holder + 1);
        let killed = Instant::now();
        let next = 2 + before;
        written(&store, &told, next)?;
        println!("the others write again {} ms later", killed.elapsed().as_millis());
        written(&store, &told, before + RECORDS)?;
        let records = store.audit()?;
        let by = |node| store.records().map(|all| all.iter().filter(|record| record.node == node).count());
        println!("{records} records, by node: {} {} {}; none lost, none stale", by(1)?, by(2)?, by(3)?);
        Ok(())
    }

    fn start(
        &mut self,
        node: usize,
        addresses: &[SocketAddr],
    ) -> Result<impl Iterator<Item = String> + use<>, Box<dyn Error>> {
        let all: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--node", &(node + 1).to_string(), "--nodes", &all.join(",")]);
        command.arg("--folder").arg(&self.folder).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        self.children.push(child);
        Ok(BufReader::new(output).lines().map_while(Result::ok))
    }
}

/// Waits until there are so many records.
fn written(store: &Store, told: &Receiver<(usize, String)>, records: usize) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    while store.records()?.len() < records {
        if began.elapsed() > PATIENCE {
            let last: Vec<_> = told.try_iter().collect();
            let from = last.len().saturating_sub(20);
            return Err(format!(
                "{} of {records} records in time; {:#?}",
                store.records()?.len(),
                &last[from..]
            )
            .into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Who says next that it holds the lock.
fn holder(told: &Receiver<(usize, String)>) -> Result<usize, Box<dyn Error>> {
    while told.try_recv().is_ok() {}
    loop {
        let (node, line) = told.recv_timeout(PATIENCE)?;
        if line.starts_with("holds") {
            return Ok(node);
        }
    }
}
