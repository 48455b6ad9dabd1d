//! Goal: three processes in network namespaces write one file under a distributed lock, and no update is lost and no stale
//! write is made, whatever happens to the holder of the lock: killed, stopped for long, stopped for short, cut off, or dead
//! while the fence device is broken.
//!
//! Method: the example `shared_file`, whose fence device kills the process of a node and reads back that it is gone. The
//! file is looked through afterwards, and while a fault lasts the records tell who wrote, and whether that had to wait.

use crate::example::example;
use crate::lab::{remove, run, sweep, works};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../../examples/shared_file/store.rs"]
#[expect(dead_code, reason = "the test only reads what the program writes")]
mod store;

use store::Store;

const NODES: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than it takes to find out that a node is silent, to agree on it, and to fence it.
const LONG: Duration = Duration::from_secs(4);

/// Lines of the nodes in the order in which they came.
type Lines = Arc<Mutex<Vec<(Instant, u32, String)>>>;

struct Writers {
    id: String,
    folder: PathBuf,
    store: Store,
    nodes: BTreeMap<u32, Child>,
    lines: Lines,
}

impl Writers {
    /// Three processes that write.
    fn new(test: &str) -> Self {
        sweep();
        let id = format!("ocf-{test}-{}-", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("key"), "00112233445566778899aabbccddeeff".repeat(2)).unwrap();
        let store = Store::new(&folder);
        let mut writers = Self { id, folder, store, nodes: BTreeMap::new(), lines: Lines::default() };
        writers.build_network();
        for node in 1..=NODES {
            writers.start(node);
        }
        writers.all_write();
        writers
    }

    fn build_network(&self) {
        let id = &self.id;
        run(&format!(
            "ip netns add {id}s && ip -n {id}s link add data type bridge forward_delay 0 mcast_snooping 0"
        ));
        run(&format!("ip -n {id}s link set data up"));
        for i in 1..=NODES {
            run(&format!("ip netns add {id}{i} && ip -n {id}{i} link set lo up"));
            run(&format!("ip link add eth0 netns {id}{i} type veth peer name data{i} netns {id}s"));
            run(&format!("ip -n {id}s link set data{i} master data up"));
            run(&format!("ip -n {id}{i} addr add 10.93.0.{i}/24 dev eth0 && ip -n {id}{i} link set eth0 up"));
        }
    }

    fn start(&mut self, node: u32) {
        let nodes: Vec<String> = (1..=NODES).map(|i| format!("10.93.0.{i}:5405")).collect();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &format!("{}{node}", self.id)])
            .arg(example("shared_file"))
            .args(["--node", &node.to_string(), "--nodes", &nodes.join(","), "--hold", "30", "--folder"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (printed, lines) = (child.stdout.take().unwrap(), Arc::clone(&self.lines));
        // It ends with the node.
        thread::spawn(move || {
            for line in BufReader::new(printed).lines().map_while(Result::ok) {
                lines.lock().unwrap().push((Instant::now(), node, line));
            }
        });
        self.nodes.insert(node, child);
    }

    fn wait_for(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < PATIENCE, "waited too long for {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last lines of all, and behind them the last of each node with how long ago it came, and whether it runs.
    fn log(&self) -> String {
        let lines = self.lines.lock().unwrap();
        let last = &lines[lines.len().saturating_sub(200)..];
        let mut log: String = last.iter().map(|(_, node, line)| format!("node {node}: {line}\n")).collect();
        for (node, child) in &self.nodes {
            let state = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
            let state = state.rsplit_once(") ").map_or("gone", |(_, rest)| &rest[..1]);
            log += &format!("node {node} is in state {state}; its last lines:\n");
            let of_it: Vec<_> = lines.iter().filter(|(_, by, _)| by == node).collect();
            for (at, _, line) in &of_it[of_it.len().saturating_sub(12)..] {
                log += &format!("  {} ms ago: {line}\n", at.elapsed().as_millis());
            }
        }
        log
    }

    /// What the nodes told in the last seconds, but for locks and records.
    fn news(&self) -> String {
        let lines = self.lines.lock().unwrap();
        let news = lines.iter().filter(|(at, _, line)| {
            at.elapsed() < LONG && !line.starts_with("holds") && !line.starts_with("wrote")
        });
        news.map(|(at, node, line)| format!("  {} ms ago, node {node}: {line}\n", at.elapsed().as_millis()))
            .collect()
    }

    fn records(&self) -> usize {
        self.store.records().unwrap().len()
    }

    /// Waits until each process has written a record from now on. Who is dead by then starts anew: a node that stood still
    /// lost contact to its peers one by one, and the members may have parted with one of those instead, also a while later.
    fn all_write(&mut self) {
        let from = self.records();
        let began = Instant::now();
        loop {
            let records = self.store.records().unwrap();
            if (1..=NODES).all(|node| records[from..].iter().any(|record| record.node == node)) {
                eprintln!("all write after {} ms", began.elapsed().as_millis());
                return;
            }
            assert!(began.elapsed() < PATIENCE, "waited too long for all to write\n{}", self.log());
            for node in 1..=NODES {
                if self.is_dead(node) {
                    eprintln!("node {node} is dead and starts anew\n{}", self.news());
                    self.start(node);
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until somebody takes the lock, and gives that node: it holds the lock for some milliseconds more.
    fn holder(&self) -> u32 {
        let from = self.lines.lock().unwrap().len();
        let mut holder = None;
        self.wait_for("somebody to take the lock", |writers| {
            let lines = writers.lines.lock().unwrap();
            let last = lines[from..].iter().rev().find(|(_, _, line)| line.starts_with("holds"));
            holder = last.map(|(_, node, _)| *node);
            holder.is_some()
        });
        holder.unwrap()
    }

    fn signal(&self, node: u32, signal: &str) {
        run(&format!("kill -{signal} {}", self.nodes[&node].id()));
    }

    /// The process of a node is dead, by whomever.
    fn is_dead(&mut self, node: u32) -> bool {
        self.nodes.get_mut(&node).is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// True if the last that was heard of a node is that it holds the lock.
    fn held_last(&self, node: u32) -> bool {
        let lines = self.lines.lock().unwrap();
        let last = lines.iter().rev().find(|(_, by, _)| *by == node);
        last.is_some_and(|(_, _, line)| line.starts_with("holds"))
    }

    /// Waits until others than `lost` write. It must be dead by then if it held the lock.
    fn others_write(&mut self, lost: u32, since: usize) {
        self.wait_for("the others to write", |writers| {
            let records = writers.store.records().unwrap();
            records[since..].iter().filter(|record| record.node != lost).count() > 4
        });
        if self.held_last(lost) {
            assert!(
                self.is_dead(lost),
                "node {lost} may still act, and others hold its lock\n{}",
                self.log()
            );
        }
        let began = Instant::now();
        while !self.is_dead(lost) {
            assert!(began.elapsed() < PATIENCE, "node {lost} is not fenced\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The file is as it must be.
    fn audit(&self) {
        match self.store.audit() {
            Ok(records) => eprintln!("{records} records, none lost, none stale"),
            Err(wrong) => panic!("{wrong}\n{}", self.log()),
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for child in self.nodes.values_mut() {
            drop(child.kill());
            drop(child.wait());
        }
        remove(&self.id);
        drop(fs::remove_dir_all(&self.folder));
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_file_survives_kill_9_and_long_stops_of_who_holds_its_lock() {
    let mut writers = Writers::new("holders");
    for (signal, name) in [("KILL", "killed"), ("STOP", "stopped")] {
        let holder = writers.holder();
        writers.signal(holder, signal);
        let since = writers.records();
        let began = Instant::now();
        writers.others_write(holder, since);
        eprintln!("the others write {} ms after node {holder} was {name}", began.elapsed().as_millis());
        writers.audit();
        writers.all_write();
    }
    writers.audit();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_holder_that_stands_still_for_moments_never_writes_what_is_another_s_by_then() {
    let mut writers = Writers::new("stall");
    // From a tenth of the time after which a node is taken for lost to a little more than it.
    for pause in [50, 120, 250, 400, 480, 520, 600] {
        let holder = writers.holder();
        writers.signal(holder, "STOP");
        thread::sleep(Duration::from_millis(pause));
        // If it was fenced meanwhile it is dead already.
        let dead = writers.is_dead(holder);
        if !dead {
            works(&format!("kill -CONT {}", writers.nodes[&holder].id()));
        }
        let from = writers.records();
        writers.wait_for("records after the stop", |writers| writers.records() > from + 10);
        writers.audit();
        writers.all_write();
    }
    writers.audit();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_holder_that_is_cut_off_is_fenced_before_others_write() {
    let mut writers = Writers::new("cutoff");
    let holder = writers.holder();
    run(&format!("ip -n {}s link set data{holder} down", writers.id));
    let since = writers.records();
    writers.others_write(holder, since);
    run(&format!("ip -n {}s link set data{holder} up", writers.id));
    writers.all_write();
    writers.audit();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn nobody_writes_while_a_dead_holder_cannot_be_fenced() {
    let mut writers = Writers::new("broken");
    fs::write(writers.folder.join("broken"), "").unwrap();
    let holder = writers.holder();
    writers.signal(holder, "STOP");
    let since = writers.records();
    thread::sleep(LONG);
    // Else it had just given the lock back, and stands still with the next one, or in its queue.
    if writers.held_last(holder) {
        assert_eq!(
            writers.records(),
            since,
            "the lock of a node that may act was given away\n{}",
            writers.log()
        );
    }
    let before = writers.records();
    assert!(!writers.is_dead(holder), "nothing could kill it");
    fs::remove_file(writers.folder.join("broken")).unwrap();
    writers.others_write(holder, before);
    writers.all_write();
    writers.audit();
}
