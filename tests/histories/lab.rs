//! Recording nodes: in network namespaces on a switch, or without root on loopback.

use crate::example::example;
use crate::judge::{History, Life};
use pils::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::UdpSocket;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The default.
pub(crate) const DETECTION: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);
/// Stretches that may be disturbed by others on the machine.
const CALM_TRIES: u32 = 30;

/// How the nodes are set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    /// Each in a namespace of its own, which needs root; or all on loopback.
    pub(crate) namespaces: bool,
    /// The clock that tells the date can be set at each node. Needs a C compiler.
    pub(crate) clocks: bool,
    /// Of two nodes, a disk says which goes on.
    pub(crate) tie_breaker: bool,
    /// They have a group that goes on in any partition, and write of that.
    pub(crate) partitions: bool,
    /// The bug that all nodes have.
    pub(crate) bug: Option<&'static str>,
}

impl Setup {
    pub(crate) const THREE: Self =
        Self { nodes: 3, namespaces: true, clocks: false, tie_breaker: false, partitions: false, bug: None };
}

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

/// A life of a node, and how far its history was read while it went on.
struct Running {
    history: PathBuf,
    killed: Option<Instant>,
    read: u64,
    rest: String,
    /// The last view that it was told of, if that has all nodes.
    well: Option<u64>,
}

impl Running {
    fn read_on(&mut self, nodes: usize) {
        // It may not have begun to write.
        let Ok(mut file) = File::open(&self.history) else { return };
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut more = String::new();
        self.read += file.read_to_string(&mut more).unwrap() as u64;
        self.rest += &more;
        let Some((whole, rest)) = self.rest.rsplit_once('\n') else { return };
        let view = whole.lines().rev().find(|line| line.contains("\"what\":\"view\""));
        if let Some(line) = view {
            let view: serde_json::Value = serde_json::from_str(line).unwrap();
            let all = view["members"].as_array().is_some_and(|members| members.len() == nodes);
            self.well = view["number"].as_u64().filter(|_| all);
        }
        self.rest = rest.to_owned();
    }
}

pub(crate) struct Lab {
    setup: Setup,
    folder: PathBuf,
    /// Prefix of the namespaces.
    id: String,
    program: PathBuf,
    addresses: Vec<String>,
    nodes: Vec<Option<Child>>,
    lives: Vec<Running>,
    /// The newest life of each node.
    newest: Vec<usize>,
    calm: Option<(Instant, Instant)>,
}

impl Lab {
    pub(crate) fn new(name: &str, setup: Setup) -> Self {
        let id = format!("ocf-{name}-{}-", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        fs::create_dir_all(&folder).unwrap();
        let nodes = setup.nodes;
        let addresses = match setup.namespaces {
            true => (1..=nodes).map(|i| format!("10.96.0.{i}:5405")).collect(),
            false => {
                let sockets: Vec<UdpSocket> =
                    (0..nodes).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
                sockets.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect()
            }
        };
        let mut lab = Self {
            program: example(if setup.partitions { "record_partitions" } else { "record_history" }),
            addresses,
            folder,
            id,
            nodes: (0..nodes).map(|_| None).collect(),
            lives: Vec::new(),
            newest: vec![0; nodes],
            calm: None,
            setup,
        };
        lab.prepare();
        (1..=nodes).for_each(|i| lab.start(i));
        lab
    }

    fn prepare(&self) {
        let (id, folder) = (&self.id, self.folder.display());
        if self.setup.namespaces {
            run(&format!("ip netns add {id}s"));
            run(&format!("ip -n {id}s link add bridge type bridge forward_delay 0 mcast_snooping 0"));
            run(&format!("ip -n {id}s link set bridge up"));
        }
        if self.setup.clocks {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories/clock.c");
            run(&format!("gcc -O1 -shared -fPIC -o {folder}/clock.so {}", source.display()));
        }
        if self.setup.tie_breaker {
            ocf_membership::driver::format_disk(&self.folder.join("disk"), 2).unwrap();
        }
        for i in 1..=self.setup.nodes {
            if self.setup.namespaces {
                run(&format!("ip netns add {id}{i} && ip -n {id}{i} link set lo up"));
                run(&format!("ip link add eth0 netns {id}{i} type veth peer name port{i} netns {id}s"));
                run(&format!("ip -n {id}s link set port{i} master bridge up"));
                run(&format!("ip -n {id}{i} addr add 10.96.0.{i}/24 dev eth0"));
                run(&format!("ip -n {id}{i} link set eth0 up"));
            }
            fs::write(self.folder.join(format!("node{i}.toml")), self.configuration(i)).unwrap();
            fs::write(self.folder.join(format!("shift{i}")), [0; 8]).unwrap();
        }
    }

    fn configuration(&self, node: usize) -> String {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut text = format!(
            "cluster = 'history'\nnode = {node}\nsentinel = true\nrecord = '{}'\n\
             key = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n",
            file(&format!("views{node}"))
        );
        if self.setup.partitions {
            text += "partition_groups = true\n";
        }
        if self.setup.tie_breaker {
            let disk = file("disk");
            text +=
                &format!("quorum = 'majority+tie-breaker'\n[tie_breaker]\ndisk = '{disk}'\ndelay_ms = 0\n");
        }
        for (i, address) in self.addresses.iter().enumerate() {
            text += &format!("[[nodes]]\nid = {}\naddress = '{address}'\n", i + 1);
        }
        text
    }

    pub(crate) fn start(&mut self, node: usize) {
        let history = self.folder.join(format!("history{}", self.lives.len()));
        self.newest[node - 1] = self.lives.len();
        let life =
            Running { history: history.clone(), killed: None, read: 0, rest: String::new(), well: None };
        self.lives.push(life);
        let mut command = Command::new(if self.setup.namespaces { Path::new("ip") } else { &self.program });
        if self.setup.namespaces {
            // It becomes the program: signals reach the node.
            command.args(["netns", "exec", &format!("{}{node}", self.id)]).arg(&self.program);
        }
        if self.setup.clocks {
            command.env("LD_PRELOAD", self.folder.join("clock.so"));
            command.env("SHIFT_BY", self.folder.join(format!("shift{node}")));
        }
        command.arg(self.folder.join(format!("node{node}.toml"))).arg(history).arg(self.folder.join("stop"));
        command.args(self.setup.bug).stdin(Stdio::null()).stderr(Stdio::inherit());
        self.nodes[node - 1] = Some(command.spawn().unwrap());
    }

    pub(crate) fn signal(&self, node: usize, signal: &str) {
        run(&format!("kill -{signal} {}", self.nodes[node - 1].as_ref().unwrap().id()));
    }

    pub(crate) fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node - 1].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.lives[self.newest[node - 1]].killed = Some(now());
    }

    /// Sets the clock of a node that tells the date: so many seconds from the right time.
    pub(crate) fn set_clock(&self, node: usize, seconds: i64) {
        let file = File::options().write(true).open(self.folder.join(format!("shift{node}"))).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// With these rules on what each of the nodes receives or sends.
    pub(crate) fn filtered(&self, nodes: &[usize], rules: &[&str], during: impl FnOnce()) {
        let nft = |node: &usize, line: &str| run(&format!("ip netns exec {}{node} nft '{line}'", self.id));
        for node in nodes {
            nft(node, "add table inet bad");
            for rule in rules {
                let (hook, what) = rule.split_once(' ').unwrap();
                nft(node, &format!("add chain inet bad {hook} {{ type filter hook {hook} priority 0; }}"));
                nft(node, &format!("add rule inet bad {hook} {what}"));
            }
        }
        during();
        nodes.iter().for_each(|node| nft(node, "delete table inet bad"));
    }

    /// With nothing passing between these two sides: at the switch, so that both are cut off in one moment, and meet in one.
    pub(crate) fn split(&self, one: &[usize], other: &[usize], during: impl FnOnce()) {
        let ports = |side: &[usize]| side.iter().map(|i| format!("port{i}")).collect::<Vec<_>>().join(", ");
        let (one, other) = (ports(one), ports(other));
        let nft = |line: &str| run(&format!("ip netns exec {}s nft '{line}'", self.id));
        nft(&format!(
            "add table bridge cut; add chain bridge cut apart {{ type filter hook forward priority 0; }}; \
             add rule bridge cut apart iifname {{ {one} }} oifname {{ {other} }} drop; \
             add rule bridge cut apart iifname {{ {other} }} oifname {{ {one} }} drop"
        ));
        during();
        nft("delete table bridge cut");
    }

    /// Waits until the newest life of each node was told, last, of one and the same view of all: who was left out may still know
    /// only the one of before, and is about to be told.
    pub(crate) fn until_well(&mut self) {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            self.lives.iter_mut().for_each(|life| life.read_on(self.setup.nodes));
            let mut views = self.newest.iter().map(|life| self.lives[*life].well);
            if views.next().flatten().is_some_and(|first| views.all(|view| view == Some(first))) {
                return;
            }
            assert!(std::time::Instant::now() < end, "the nodes do not come together again");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// All is well, and nothing happens for two detection times, in which nothing may change. Time in which this machine stood still,
    /// by this process, is not judged: then another stretch is.
    pub(crate) fn calm(&mut self) {
        for _ in 0..CALM_TRIES {
            self.until_well();
            let begin = now();
            let (mut last, mut longest) = (begin, Duration::ZERO);
            while last.since(begin) < DETECTION * 2 {
                thread::sleep(Duration::from_millis(2));
                let at = now();
                (longest, last) = (longest.max(at.since(last)), at);
            }
            self.calm = Some((begin, last));
            if longest < DETECTION / 5 {
                return;
            }
            eprintln!("this machine stood still for {longest:?}: once more");
        }
        panic!("this machine is too busy to judge what happens when nothing happens");
    }

    /// Lets what is under way arrive, and reads what every life wrote, and when it was killed.
    fn texts(&self) -> impl Iterator<Item = (String, Option<Instant>)> {
        fs::write(self.folder.join("stop"), "").unwrap();
        thread::sleep(Duration::from_millis(1_500));
        // What they wrote until now counts: they are not known to have ended.
        self.lives.iter().map(|running| (fs::read_to_string(&running.history).unwrap(), running.killed))
    }

    /// Ends all, and reads what every life wrote.
    pub(crate) fn finish(self) -> History {
        let read = |(text, killed): (String, Option<Instant>)| {
            let mut life = Life::read(&text)?;
            killed.into_iter().for_each(|at| life.killed(at));
            Some(life)
        };
        History { lives: self.texts().filter_map(read).collect(), calm: self.calm }
    }

    /// Ends all; what every life wrote, and whether it was killed.
    pub(crate) fn finish_texts(self) -> Vec<(String, bool)> {
        self.texts().map(|(text, killed)| (text, killed.is_some())).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            // It may have ended by itself.
            drop(node.kill());
            drop(node.wait());
        }
        if self.setup.namespaces {
            for name in 0..=self.setup.nodes {
                let name = if name == 0 { "s".to_owned() } else { name.to_string() };
                drop(Command::new("ip").args(["netns", "del", &format!("{}{name}", self.id)]).status());
            }
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}
