//! Three of our nodes as processes of their own, each in a network namespace on a switch, with one member each of one group,
//! told line by line what to do. Dropping them ends everything.

use super::lab::{SWITCH, Shell};
use bytes::Bytes;
use ocf::{Node, NodeConfig, NodeEvent, RequestError};
use ocf_groups::{Event, Guarantee, SendError};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::collections::VecDeque;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, process};

pub const NODES: usize = 3;
const CONFIG: &str = "OCF_BENCH_MEMBER";
const GROUP: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing more comes after a silence of this length.
const SILENCE: Duration = Duration::from_millis(500);

const NODE: &str = r#"
set -e
ip link set lo up
echo ready
read -r _started
ip addr add "10.97.0.$NODE/24" dev eth0
ip link set eth0 up
[ -z "$SHAPE" ] || tc qdisc add dev eth0 root tbf rate "$SHAPE" burst 130kb limit 1mb
echo started
exec "$PROGRAM"
"#;

/// What the nodes are like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// The rate that each node's interface is shaped to, as `tc` takes it.
    pub shape: Option<&'static str>,
    /// A sentinel tells the others at once when a node is killed, and views are recorded in memory.
    pub watched: bool,
}

/// Runs one node, if this program was started for that in a namespace. `None` if it was started by a person.
pub fn inside() -> Option<ExitCode> {
    ocf::run_sentinel_if_asked();
    let text = env::var(CONFIG).ok().filter(|text| !text.is_empty())?;
    let config = NodeConfig::from_toml(&text).expect("this program wrote it");
    let node = Node::builder(config).start().expect("a node");
    let mut member = Member { node, events: VecDeque::new(), full: false };
    member.node.join(GROUP, 0).expect("a new group");
    member.form();
    answer("formed");
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the program outside writes text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u32>().expect("this program wrote it");
        let size = usize::try_from(number(1)).expect("a message fits into memory");
        let time = Duration::from_millis(number(3).into());
        let told = match words[0] {
            "rate" => member.rate(size, number(2) == 1, time),
            "gap" => member.gap(size, time),
            other => unreachable!("this program never says {other}"),
        };
        answer(&told.to_string());
    }
    Some(ExitCode::SUCCESS)
}

/// Says a line to the program that started this one.
#[expect(clippy::print_stdout, reason = "the program outside reads it")]
pub fn answer(text: &str) {
    println!("{text}");
    std::io::stdout().flush().expect("the program outside reads it");
}

/// The member of the group on one node.
struct Member {
    node: Node,
    events: VecDeque<ocf::Numbered>,
    full: bool,
}

impl Member {
    /// Takes what comes within `wait`: how many messages, and how many of them were sent here.
    fn take(&mut self, wait: Duration) -> (u64, u64) {
        let (mut all, mut own) = (0, 0);
        self.node.next_events(wait, &mut self.events);
        for event in self.events.drain(..) {
            let NodeEvent::Group(event) = event.event else { continue };
            if let Event::Message { sender, .. } = event {
                all += 1;
                own += u64::from(sender.instance == self.node.local());
            } else if let Event::Writable = event {
                self.full = false;
            } else if let Event::StateWanted { group, joiner, position } = event {
                // Another event may follow that asks for a later state.
                drop(self.node.offer_state(&group, joiner, position, Bytes::new()));
            }
        }
        (all, own)
    }

    /// Waits until each of the three has sent something.
    fn form(&mut self) {
        let end = Instant::now() + PATIENCE;
        let mut delivered = 0;
        while delivered < 30 {
            assert!(Instant::now() < end, "the group does not form");
            // Refused as long as it is no member.
            drop(self.node.send(GROUP, 0, Guarantee::Agreed, Bytes::from_static(&[1])));
            delivered += self.take(Duration::from_millis(20)).0;
            let whole = self.node.view().is_some_and(|view| view.members.len() == NODES);
            delivered = if whole { delivered } else { 0 };
        }
        while self.take(SILENCE).0 > 0 {}
    }

    /// Sends one message, and says whether it was taken.
    fn send(&mut self, payload: &Bytes) -> bool {
        match self.node.send(GROUP, 0, Guarantee::Agreed, payload.clone()) {
            Ok(()) => return true,
            Err(RequestError::Refused(SendError::Full { .. })) => self.full = true,
            // Between two views.
            Err(RequestError::Refused(_)) => {}
            Err(error) => panic!("{error}"),
        }
        false
    }

    /// Messages delivered per second while those who send send as much as they may.
    fn rate(&mut self, size: usize, sends: bool, time: Duration) -> f64 {
        let payload = Bytes::from(vec![7; size]);
        let (start, mut counted) = (Instant::now(), 0_u64);
        let warm = time / 5;
        let mut counting = Duration::ZERO;
        loop {
            let now = start.elapsed();
            if now >= warm + time {
                break;
            }
            if sends {
                (0..16).for_each(|_| {
                    if !self.full {
                        self.send(&payload);
                    }
                });
            }
            let wait = if sends && !self.full { Duration::ZERO } else { Duration::from_millis(2) };
            let (all, _) = self.take(wait);
            if now >= warm {
                counted += all;
                counting = start.elapsed().saturating_sub(warm);
            }
        }
        while self.take(SILENCE).0 > 0 {}
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 messages")]
        let counted = counted as f64;
        counted / counting.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The longest time in microseconds between two deliveries of own messages, of which one follows the other at once.
    fn gap(&mut self, size: usize, time: Duration) -> f64 {
        let payload = Bytes::from(vec![7; size]);
        let (start, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let mut waits = false;
        while start.elapsed() < time {
            waits = waits || self.send(&payload);
            let (_, own) = self.take(Duration::from_millis(1));
            if own > 0 {
                longest = longest.max(last.elapsed());
                (last, waits) = (Instant::now(), false);
            }
        }
        let longest = longest.max(last.elapsed());
        // The others may not have sent their last one yet.
        while self.take(SILENCE).0 > 0 {}
        longest.as_secs_f64() * 1e6
    }
}

/// Three nodes. Fields are dropped in order: the nodes before their switch.
pub struct GroupNodes {
    nodes: Vec<Option<Shell>>,
    _switch: Shell,
    records: Option<PathBuf>,
}

impl GroupNodes {
    /// Brings three nodes up, with one member each.
    ///
    /// # Errors
    /// Why that cannot be on this machine.
    pub fn start(setup: Setup) -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err("namespaces need root".to_owned());
        }
        let own = env::current_exe().map_err(|error| error.to_string())?;
        let mut switch = Shell::start(&["-n"], SWITCH, &[])?;
        let records = setup.watched.then(records).transpose()?;
        let mut nodes = Vec::new();
        for node in 1..=NODES {
            let words = [
                ("NODE", node.to_string()),
                ("SHAPE", setup.shape.unwrap_or_default().to_owned()),
                ("PROGRAM", own.display().to_string()),
                (CONFIG, config(node, records.as_deref())),
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ];
            let shell = Shell::start(&["-n"], NODE, &words)?;
            let pid = shell.pid();
            switch.run(&format!("ip link add port{node} type veth peer name eth0 netns {pid}"))?;
            switch.run(&format!("ip link set port{node} master bridge up"))?;
            nodes.push(Some(shell));
        }
        let mut lab = Self { nodes, _switch: switch, records };
        lab.each(|node| node.say("start"))?;
        lab.each(|node| node.expect("started"))?;
        lab.each(|node| node.expect("formed"))?;
        Ok(lab)
    }

    fn each(&mut self, mut ask: impl FnMut(&mut Shell) -> Result<(), String>) -> Result<(), String> {
        self.nodes.iter_mut().flatten().try_for_each(&mut ask)
    }

    fn hear_all(&mut self) -> Result<Vec<f64>, String> {
        let mut told = Vec::new();
        self.each(|node| {
            let line = node.hear()?;
            told.push(line.parse().map_err(|error| format!("{line:?}: {error}"))?);
            Ok(())
        })?;
        Ok(told)
    }

    /// Begins a load in which the last so many nodes send messages of this size for this time.
    pub fn begin(&mut self, what: &str, size: usize, senders: usize, time: Duration) -> Result<(), String> {
        let mut at = 0;
        self.each(|node| {
            at += 1;
            let sends = u8::from(at > NODES - senders);
            node.say(&format!("{what} {size} {sends} {}", time.as_millis()))
        })
    }

    /// Messages per second at the node that delivers the fewest.
    pub fn rate(&mut self, size: usize, senders: usize, time: Duration) -> Result<f64, String> {
        self.begin("rate", size, senders, time)?;
        self.finish().map(|rates| rates.into_iter().fold(f64::INFINITY, f64::min))
    }

    /// What the nodes that are left say at the end of what was begun.
    pub fn finish(&mut self) -> Result<Vec<f64>, String> {
        self.hear_all()
    }

    fn pid(&self, node: usize) -> Result<Pid, String> {
        let shell = self.nodes[node - 1].as_ref().ok_or("that node was killed")?;
        i32::try_from(shell.pid()).ok().and_then(Pid::from_raw).ok_or_else(|| "no process".to_owned())
    }

    /// Sends a signal to the process of a node.
    pub fn signal(&self, node: usize, signal: Signal) -> Result<(), String> {
        kill_process(self.pid(node)?, signal).map_err(|error| error.to_string())
    }

    /// Ends the process of a node at once. What watches it tells the others.
    pub fn kill(&mut self, node: usize) -> Result<(), String> {
        self.signal(node, Signal::KILL)?;
        self.nodes[node - 1] = None;
        Ok(())
    }

    /// Memory of a node's process in MB.
    pub fn memory(&self, node: usize) -> Result<f64, String> {
        let path = Path::new("/proc").join(self.pid(node)?.as_raw_nonzero().to_string()).join("status");
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kb: f64 = line.trim().trim_end_matches("kB").trim().parse().map_err(|_bad| line.to_owned())?;
        Ok(kb / 1e3)
    }
}

impl Drop for GroupNodes {
    fn drop(&mut self) {
        self.nodes.clear();
        let Some(records) = &self.records else { return };
        if let Err(error) = fs::remove_dir_all(records) {
            eprintln!("{}: {error}", records.display());
        }
    }
}

/// A folder in memory.
fn records() -> Result<PathBuf, String> {
    let folder = Path::new("/dev/shm").join(format!("ocf-bench-{}", process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// The configuration of a node.
fn config(node: usize, records: Option<&Path>) -> String {
    let mut text = format!(
        "cluster = 'bench'\nnode = {node}\n\
         key = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n"
    );
    if let Some(folder) = records {
        text += &format!("sentinel = true\nrecord = '{}'\n", folder.join(format!("views{node}")).display());
    }
    for node in 1..=NODES {
        text += &format!("[[nodes]]\nid = {node}\naddress = '10.97.0.{node}:5405'\n");
    }
    text
}
