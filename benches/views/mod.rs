//! Three nodes in namespaces of their own on a switch, run by us or by corosync, whose views are watched from outside.
#![allow(unreachable_pub, reason = "a bench is a crate without users")]

use crate::support::lab::{SWITCH, Shell};
use ocf::{Node, NodeConfig, NodeEvent};
use ocf_comm::Timers;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

const NODES: usize = 3;
const CONFIG: &str = "OCF_BENCH_NODE";
const DETECTION: &str = "OCF_BENCH_DETECTION";
/// A line for each view; `/run` is each node's own.
const VIEWS: &str = "run/views";
/// Our node leaves once it exists.
const LEAVE: &str = "/run/leave";
const PATIENCE: Duration = Duration::from_secs(60);
/// What the preset `rt` has.
const REAL_TIME: Duration = Duration::from_millis(100);
const REAL_TIME_HEARTBEAT: Duration = Duration::from_millis(15);

/// Who agrees on views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project, with this detection time in milliseconds, and a sentinel.
    Ours(u64),
    /// The same at real-time priority, with the detection time and the pace of heartbeats of the preset `rt`.
    RealTime,
    /// Corosync, with this token timeout in milliseconds, or its default.
    Corosync(Option<u32>),
}

const FOLDERS: [&str; 5] = ["/run", "/dev/shm", "/etc/corosync", "/var/lib/corosync", "/var/log"];

const NODE: &str = r#"
set -e
for folder in $FOLDERS; do
    [ ! -d "$folder" ] || mount -t tmpfs -o mode=755 tmpfs "$folder"
done
ip link set lo up
echo ready
read -r _started
ip addr add "10.98.0.$NODE/24" dev eth0
ip link set eth0 up
printf '%s\n' "$CONF" > /etc/corosync/corosync.conf
echo started
while read -r line; do eval "$line" < /dev/null 2> /dev/null || echo failed; done
"#;

const WATCH: &str =
    "(while ! stdbuf -oL corosync-quorumtool -m >> /run/views; do sleep 0.02; done) > /dev/null 2>&1 &";

/// Runs one of our nodes, if this program was started for that in a namespace. `None` if it was started by a person.
pub fn inside() -> Option<ExitCode> {
    ocf::run_sentinel_if_asked();
    let text = env::var(CONFIG).ok().filter(|text| !text.is_empty())?;
    let config = NodeConfig::from_toml(&text).expect("this program wrote it");
    let detection = env::var(DETECTION).ok().and_then(|ms| ms.parse().ok()).expect("this program wrote it");
    let detection = Duration::from_millis(detection);
    let tune = move |stack: &mut ocf::stack::StackConfig| {
        let heartbeat = if detection == REAL_TIME { REAL_TIME_HEARTBEAT } else { detection / 5 };
        stack.comm.timers = Timers { heartbeat, detection };
        let membership = &mut stack.membership;
        (membership.detection, membership.lease, membership.flap_hold) =
            (detection, detection, detection * 2);
    };
    let node = Node::builder(config).tune(tune).start().expect("a node");
    let mut views = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(Path::new("/").join(VIEWS))
        .expect("a folder of its own");
    while !Path::new(LEAVE).exists() {
        if let Some(event) = node.next_event(Duration::from_millis(2))
            && let NodeEvent::Group(ocf_groups::Event::View(view)) = event.event
        {
            writeln!(views, "Nodes: {}", view.members.len()).expect("a folder of its own");
        }
    }
    node.leave();
    Some(ExitCode::SUCCESS)
}

/// Three nodes, of which none runs at first. Dropping it ends them. Fields are dropped in order.
pub struct Lab {
    kind: Kind,
    nodes: Vec<Shell>,
    switch: Shell,
}

impl Lab {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// Why that cannot be on this machine.
    pub fn new(kind: Kind) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("namespaces need root".to_owned());
        }
        if matches!(kind, Kind::Corosync(_)) && !Path::new("/usr/sbin/corosync").exists() {
            return Err("corosync is not installed".to_owned());
        }
        let mut switch = Shell::start(&["-n"], SWITCH, &[])?;
        let mut nodes = Vec::new();
        for node in 1..=NODES {
            let (conf, config, detection) = match kind {
                Kind::Ours(detection) => (String::new(), ours(node), detection.to_string()),
                Kind::RealTime => (String::new(), ours(node), REAL_TIME.as_millis().to_string()),
                Kind::Corosync(token) => (corosync(token), String::new(), String::new()),
            };
            let words = [
                ("FOLDERS", FOLDERS.join(" ")),
                ("NODE", node.to_string()),
                ("CONF", conf),
                (CONFIG, config),
                (DETECTION, detection),
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ];
            let own = ["-n", "-m", "-p", "-f", "-i", "--kill-child", "--mount-proc"];
            let shell = Shell::start(&own, NODE, &words)?;
            let pid = shell.pid();
            switch.run(&format!("ip link add port{node} type veth peer name eth0 netns {pid}"))?;
            switch.run(&format!("ip link set port{node} master bridge up"))?;
            nodes.push(shell);
        }
        for node in &mut nodes {
            node.say("start")?;
            node.expect("started")?;
        }
        Ok(Self { kind, nodes, switch })
    }

    /// Starts these nodes, and takes the time until all three see three.
    ///
    /// # Errors
    /// They do not.
    pub fn start(&mut self, which: &[usize]) -> Result<f64, String> {
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let daemon = match self.kind {
            Kind::Ours(_) => program.display().to_string(),
            Kind::RealTime => format!("chrt -r 20 {}", program.display()),
            Kind::Corosync(_) => "corosync -f".to_owned(),
        };
        for node in which {
            self.tell(*node, "rm -f /run/views /run/leave; echo done")?;
            self.nodes[node - 1].expect("done")?;
        }
        let began = Instant::now();
        for node in which {
            self.tell(*node, &format!("{daemon} > /dev/null 2>&1 & echo $! > /run/pid"))?;
            if matches!(self.kind, Kind::Corosync(_)) {
                self.tell(*node, WATCH)?;
            }
        }
        self.wait(&[1, 2, 3], 3)?;
        Ok(millis(began))
    }

    /// Ends the last node, and takes the time until the others see two.
    ///
    /// # Errors
    /// They do not.
    pub fn end(&mut self, how: End) -> Result<f64, String> {
        // Whatever the last change brought about is over.
        thread::sleep(Duration::from_secs(2));
        let began = Instant::now();
        match (how, self.kind) {
            (End::Killed, _) => self.tell(NODES, "kill -9 $(cat /run/pid)")?,
            (End::Leaves, Kind::Ours(_) | Kind::RealTime) => self.tell(NODES, "touch /run/leave")?,
            (End::Leaves, Kind::Corosync(_)) => self.tell(NODES, "kill -TERM $(cat /run/pid)")?,
            (End::Silent, _) => self.switch.run(&format!("bridge link set dev port{NODES} state 0"))?,
        }
        self.wait(&[1, 2], 2)?;
        let taken = millis(began);
        if how != End::Silent {
            // The rest of it ends, too: what watched it, its sentinel.
            self.tell(NODES, "sleep 1; rm -f /run/views")?;
        }
        Ok(taken)
    }

    /// What `from` sends does not arrive at `at` any more.
    ///
    /// # Errors
    /// The rule could not be made.
    pub fn cut(&mut self, from: usize, at: usize) -> Result<(), String> {
        self.tell(
            at,
            &format!(
                "nft 'add table inet cut; add chain inet cut in {{ type filter hook input priority 0; }}; \
                 add rule inet cut in ip saddr 10.98.0.{from} drop' && echo done"
            ),
        )?;
        self.nodes[at - 1].expect("done")
    }

    /// How many views each node has told since it started.
    pub fn views(&self) -> [usize; NODES] {
        std::array::from_fn(|at| self.text(at + 1).lines().filter(|line| line.starts_with("Nodes:")).count())
    }

    fn tell(&mut self, node: usize, line: &str) -> Result<(), String> {
        self.nodes[node - 1].say(line)
    }

    fn wait(&self, nodes: &[usize], members: usize) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while !nodes.iter().all(|node| self.seen(*node) == Some(members)) {
            if Instant::now() > end {
                let seen: Vec<_> = nodes.iter().map(|node| self.seen(*node)).collect();
                return Err(format!("{:?}: {nodes:?} see {seen:?} and not {members} nodes", self.kind));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// What this node told of its views; nothing before its first.
    fn text(&self, node: usize) -> String {
        let root: PathBuf = Path::new("/proc").join(self.nodes[node - 1].pid().to_string()).join("root");
        fs::read_to_string(root.join(VIEWS)).unwrap_or_default()
    }

    /// How many nodes are in the newest view of this one.
    fn seen(&self, node: usize) -> Option<usize> {
        self.text(node).lines().rev().find_map(|line| line.strip_prefix("Nodes:")?.trim().parse().ok())
    }
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its daemon is killed.
    Killed,
    /// It leaves in order.
    Leaves,
    /// Nothing is heard of it any more.
    Silent,
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The configuration of one of our nodes.
fn ours(node: usize) -> String {
    let mut text = format!(
        "cluster = 'bench'\nnode = {node}\nsentinel = true\n\
         key = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n"
    );
    for node in 1..=NODES {
        text += &format!("[[nodes]]\nid = {node}\naddress = '10.98.0.{node}:5405'\n");
    }
    text
}

/// The configuration of corosync.
fn corosync(token: Option<u32>) -> String {
    let token = token.map_or(String::new(), |ms| format!(" token: {ms}\n token_coefficient: 0\n"));
    let mut text = format!(
        "totem {{\n version: 2\n cluster_name: bench\n transport: knet\n crypto_cipher: none\n crypto_hash: none\n{token}}}\n\
         quorum {{\n provider: corosync_votequorum\n}}\n\
         logging {{\n to_syslog: no\n to_stderr: no\n}}\nnodelist {{\n"
    );
    for node in 1..=NODES {
        text += &format!(" node {{\n nodeid: {node}\n name: node{node}\n ring0_addr: 10.98.0.{node}\n }}\n");
    }
    text + "}\n"
}
