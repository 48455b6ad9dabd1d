//! Three recording nodes in network namespaces on a switch.

use crate::judge::Life;
use pils::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The default.
pub(crate) const DETECTION: Duration = Duration::from_millis(500);
const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// The time of the clock that the nodes use.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |n: i64| u64::try_from(n).unwrap();
    Instant::from_nanos(part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec))
}

/// Runs a command that must succeed.
fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {}: {text}", output.status);
}

/// The node's program. Cargo builds examples before tests, unless it was told to build one test only.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let program = folder.join("examples/record_history");
    if !program.exists() {
        let build = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "record_history", "--target-dir"])
            .arg(folder.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(build.unwrap().success(), "the example does not build");
    }
    program
}

pub(crate) struct Lab {
    folder: PathBuf,
    /// Prefix of the namespaces.
    id: String,
    nodes: [Option<Child>; NODES],
    /// The file of each life so far, and when it was killed.
    lives: Vec<(PathBuf, Option<Instant>)>,
    /// The newest life of each node.
    newest: [usize; NODES],
}

impl Lab {
    pub(crate) fn new(seed: u64) -> Self {
        let id = format!("ocf-hist{seed}-{}-", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        fs::create_dir_all(&folder).unwrap();
        let mut lab = Self { folder, id, nodes: [None, None, None], lives: Vec::new(), newest: [0; NODES] };
        let id = lab.id.clone();
        run(&format!(
            "ip netns add {id}s && ip -n {id}s link add bridge type bridge forward_delay 0 mcast_snooping 0"
        ));
        run(&format!("ip -n {id}s link set bridge up"));
        for i in 1..=NODES {
            run(&format!("ip netns add {id}{i} && ip -n {id}{i} link set lo up"));
            run(&format!("ip link add eth0 netns {id}{i} type veth peer name port{i} netns {id}s"));
            run(&format!("ip -n {id}s link set port{i} master bridge up"));
            run(&format!("ip -n {id}{i} addr add 10.96.0.{i}/24 dev eth0 && ip -n {id}{i} link set eth0 up"));
            lab.configure(i);
        }
        (1..=NODES).for_each(|i| lab.start(i));
        lab
    }

    fn configure(&self, node: usize) {
        let record = self.folder.join(format!("views{node}"));
        let mut text = format!(
            "cluster = 'history'\nnode = {node}\nsentinel = true\nrecord = '{}'\n\
             key = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n",
            record.display()
        );
        for node in 1..=NODES {
            text += &format!("[[nodes]]\nid = {node}\naddress = '10.96.0.{node}:5405'\n");
        }
        fs::write(self.folder.join(format!("node{node}.toml")), text).unwrap();
    }

    pub(crate) fn start(&mut self, node: usize) {
        let history = self.folder.join(format!("history{}", self.lives.len()));
        self.newest[node - 1] = self.lives.len();
        self.lives.push((history.clone(), None));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{node}", self.id)]).arg(program());
        command.arg(self.folder.join(format!("node{node}.toml"))).arg(history);
        command.arg(self.folder.join("stop")).stdin(Stdio::null()).stderr(Stdio::inherit());
        self.nodes[node - 1] = Some(command.spawn().unwrap());
    }

    /// `ip netns exec` becomes the program.
    pub(crate) fn signal(&self, node: usize, signal: &str) {
        run(&format!("kill -{signal} {}", self.nodes[node - 1].as_ref().unwrap().id()));
    }

    pub(crate) fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node - 1].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.lives[self.newest[node - 1]].1 = Some(now());
    }

    /// With these rules on what a node receives or sends.
    pub(crate) fn filtered(&self, node: usize, rules: &[&str], during: impl FnOnce()) {
        let nft = |line: &str| run(&format!("ip netns exec {}{node} nft '{line}'", self.id));
        nft("add table inet bad");
        for rule in rules {
            let (hook, what) = rule.split_once(' ').unwrap();
            nft(&format!("add chain inet bad {hook} {{ type filter hook {hook} priority 0; }}"));
            nft(&format!("add rule inet bad {hook} {what}"));
        }
        during();
        nft("delete table inet bad");
    }

    /// The newest life of a node has been told of a view of all, last, and it goes on from there.
    fn is_well(&self, node: usize) -> bool {
        let (path, _) = &self.lives[self.newest[node]];
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut views = text.lines().filter(|line| line.contains("\"what\":\"view\""));
        let whole = views.next_back().is_some_and(|line| {
            let view: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            view["members"].as_array().is_some_and(|members| members.len() == NODES)
        });
        whole && text.lines().rev().take(200).any(|line| line.contains("\"what\":\"delivered\""))
    }

    pub(crate) fn until_well(&self) {
        let end = std::time::Instant::now() + PATIENCE;
        while !(0..NODES).all(|node| self.is_well(node)) {
            assert!(std::time::Instant::now() < end, "the nodes do not come together again");
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn stop_sending(&self) {
        fs::write(self.folder.join("stop"), "").unwrap();
    }

    /// Ends all, and reads what every life wrote.
    pub(crate) fn finish(&self) -> Vec<Life> {
        // What they wrote until now counts: they are not known to have ended.
        let read = |(path, killed): &(PathBuf, Option<Instant>)| {
            let mut life = Life::read(&fs::read_to_string(path).unwrap())?;
            if let Some(at) = killed {
                life.killed(*at);
            }
            Some(life)
        };
        self.lives.iter().filter_map(read).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            // It may have ended by itself.
            drop(node.kill());
            drop(node.wait());
        }
        for name in ["s", "1", "2", "3"] {
            drop(Command::new("ip").args(["netns", "del", &format!("{}{name}", self.id)]).status());
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}
