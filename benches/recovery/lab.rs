//! Three nodes in namespaces of their own on a switch, run by us or by Pacemaker on corosync, with one resource.

use crate::support::Samples;
use crate::support::lab::{SWITCH, Shell};
use ocf::{Node, NodeConfig, NodeEvent};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

const NODES: usize = 3;
const CONFIG: &str = "OCF_BENCH_NODE";
/// Exists while the resource runs; `/run` is each node's own.
const STATE: &str = "run/bench.state";
const AGENT: &str = "/usr/lib/ocf/resource.d/heartbeat/Dummy";
/// The process id of whoever decides on a node: ours, or corosync.
const DAEMON: &str = "/run/daemon";
/// How many members the node sees that this program runs.
const MEMBERS: &str = "run/members";
/// Time to form, and for any recovery.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who looks after the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project: a silent node is noticed after 500 ms, the default, and fencing is confirmed at once.
    Ours,
    /// Pacemaker, which is told that no node needs to be fenced, on corosync with this token timeout in milliseconds.
    Pacemaker { token: Option<u32> },
}

const FOLDERS: [&str; 6] =
    ["/run", "/dev/shm", "/etc/corosync", "/var/lib/corosync", "/var/lib/pacemaker", "/var/log"];

const NODE: &str = r#"
set -e
for folder in $FOLDERS; do
    [ ! -d "$folder" ] || mount -t tmpfs -o mode=755 tmpfs "$folder"
done
chmod 1777 /dev/shm
hostname "node$NODE"
ip link set lo up
mkdir -p /run/resource-agents /run/lock
echo ready
read -r _started
ip addr add "10.98.0.$NODE/24" dev eth0
ip link set eth0 up
eval "$START" > /run/start.log 2>&1 < /dev/null
echo started
while read -r line; do eval "$line" < /dev/null 2> /dev/null || echo failed; done
"#;

const PACEMAKER: &str = r#"
mkdir -p /var/log/corosync /var/log/pacemaker /run/crm
for folder in cib pengine blackbox cores; do mkdir -p "/var/lib/pacemaker/$folder"; done
chown -R hacluster:haclient /var/lib/pacemaker /var/log/pacemaker /run/crm
printf '%s\n' "$CONF" > /etc/corosync/corosync.conf
PCMK_logfile=/var/log/pacemaker/pacemaker.log
export PCMK_logfile
setsid corosync -f &
echo $! > /run/daemon
sleep 2
setsid pacemakerd -f &
"#;

const RESOURCE: &str = "<primitive id='bench' class='ocf' provider='heartbeat' type='Dummy'>\
    <instance_attributes id='bench-a'><nvpair id='bench-a-s' name='state' value='/run/bench.state'/></instance_attributes>\
    <operations><op id='bench-m' name='monitor' interval='1s' timeout='20s'/></operations></primitive>";

/// Runs one of our nodes, if this program was started for that in a namespace. `None` if it was started by a person.
pub fn inside() -> Option<ExitCode> {
    ocf::run_sentinel_if_asked();
    let text = env::var(CONFIG).ok()?;
    let config = NodeConfig::from_toml(&text).expect("this program wrote it");
    let node = Node::builder(config).start().expect("a node");
    while node.stopped().is_none() {
        if let Some(event) = node.next_event(Duration::from_secs(1))
            && let NodeEvent::Group(ocf_groups::Event::View(view)) = event.event
        {
            fs::write(Path::new("/").join(MEMBERS), view.members.len().to_string())
                .expect("a folder of its own");
        }
    }
    Some(ExitCode::FAILURE)
}

/// Three nodes, with the resource on one of them. Dropping it ends them. Fields are dropped in order.
pub struct Lab {
    kind: Kind,
    /// `None`: cut.
    nodes: Vec<Option<Shell>>,
    switch: Shell,
}

impl Lab {
    /// Brings three nodes up, and waits until all are members and the resource runs.
    ///
    /// # Errors
    /// Why that cannot be on this machine.
    pub fn start(kind: Kind) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("namespaces need root".to_owned());
        }
        let needed = [AGENT, "/usr/sbin/pacemakerd", "/usr/sbin/corosync"];
        let needed = if kind == Kind::Ours { &needed[..1] } else { &needed[..] };
        if let Some(missing) = needed.iter().find(|file| !Path::new(file).exists()) {
            return Err(format!("{missing} is not installed"));
        }
        let own = env::current_exe().map_err(|error| error.to_string())?;
        let mut switch = Shell::start(&["-n"], SWITCH, &[])?;
        let mut nodes = Vec::new();
        for node in 1..=NODES {
            let (start, conf, config) = match kind {
                Kind::Ours => (format!("{} &\necho $! > {DAEMON}", own.display()), String::new(), ours(node)),
                Kind::Pacemaker { token } => (PACEMAKER.to_owned(), corosync(token), String::new()),
            };
            let words = [
                ("FOLDERS", FOLDERS.join(" ")),
                ("NODE", node.to_string()),
                ("START", start),
                ("CONF", conf),
                (CONFIG, config),
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ];
            let own = ["-n", "-m", "-p", "-f", "-i", "-u", "--kill-child", "--mount-proc"];
            let shell = Shell::start(&own, NODE, &words)?;
            let pid = shell.pid();
            switch.run(&format!("ip link add port{node} type veth peer name eth0 netns {pid}"))?;
            switch.run(&format!("ip link set port{node} master bridge up"))?;
            nodes.push(Some(shell));
        }
        for node in nodes.iter_mut().flatten() {
            node.say("start")?;
        }
        for node in nodes.iter_mut().flatten() {
            node.expect("started")?;
        }
        let mut lab = Self { kind, nodes, switch };
        lab.form()?;
        Ok(lab)
    }

    fn form(&mut self) -> Result<(), String> {
        if self.kind == Kind::Ours {
            wait(|| (1..=NODES).all(|node| self.read(node, MEMBERS).as_deref() == Some("3")))?;
        } else {
            let online = "crm_mon -1 | grep -c 'Online: \\[ node1 node2 node3 \\]'";
            let shell = self.nodes[0].as_mut().expect("nothing is cut yet");
            let end = Instant::now() + PATIENCE;
            loop {
                shell.say(&format!("({online}) || true"))?;
                if shell.hear()? == "1" {
                    break;
                }
                if Instant::now() > end {
                    return Err("Pacemaker does not form a cluster".to_owned());
                }
                thread::sleep(Duration::from_millis(200));
            }
            for command in [
                "crm_attribute -t crm_config -n stonith-enabled -v false > /dev/null; echo done".to_owned(),
                format!("cibadmin -C -o resources -X \"{RESOURCE}\" > /dev/null; echo done"),
            ] {
                shell.say(&command)?;
                shell.expect("done")?;
            }
        }
        self.wait_for_owner(None)?;
        // Its monitor recurs by now, and nothing is left to be done.
        thread::sleep(Duration::from_secs(5));
        Ok(())
    }

    fn path(&self, node: usize, file: &str) -> Option<PathBuf> {
        let shell = self.nodes[node - 1].as_ref()?;
        Some(Path::new("/proc").join(shell.pid().to_string()).join("root").join(file))
    }

    fn read(&self, node: usize, file: &str) -> Option<String> {
        fs::read_to_string(self.path(node, file)?).ok()
    }

    /// The node where the resource runs.
    pub fn owner(&self) -> Option<usize> {
        (1..=NODES).find(|node| self.runs_on(*node))
    }

    fn runs_on(&self, node: usize) -> bool {
        self.path(node, STATE).is_some_and(|path| path.exists())
    }

    /// Waits until it runs on a node other than `lost`.
    pub fn wait_for_owner(&self, lost: Option<usize>) -> Result<(), String> {
        let others = || (1..=NODES).filter(|node| Some(*node) != lost);
        wait(|| others().any(|node| self.runs_on(node)))
            .map_err(|_late| format!("{:?}: the resource does not come up", self.kind))
    }

    /// The resource fails.
    pub fn fail(&self, node: usize) -> Result<(), String> {
        let path = self.path(node, STATE).ok_or("that node is gone")?;
        fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The program that decides on the node is killed; the machine lives, and with it what the program started.
    pub fn kill(&mut self, node: usize) -> Result<(), String> {
        let shell = self.nodes[node - 1].as_mut().ok_or("that node is gone")?;
        shell.say(&format!("kill -9 $(cat {DAEMON}) && echo killed"))?;
        shell.expect("killed")
    }

    /// Power cut: nothing of the node is heard any more, and everything on it ends.
    pub fn cut(&mut self, node: usize) -> Result<(), String> {
        // First its port, so that no other node hears from the system that a process has ended.
        self.switch.run(&format!("bridge link set dev port{node} state 0"))?;
        if let Some(shell) = self.nodes[node - 1].take() {
            shell.kill();
        }
        Ok(())
    }
}

/// How long the agent's start takes by itself, in milliseconds: the median of five.
pub fn start_of_agent() -> f64 {
    let state = env::temp_dir().join(format!("bench-agent-{}", std::process::id()));
    let times = (0..5).map(|_| {
        let began = Instant::now();
        let mut agent = Command::new(AGENT);
        agent.arg("start").env("OCF_ROOT", "/usr/lib/ocf").env("OCF_RESKEY_state", &state);
        let output = agent.env("OCF_RESOURCE_INSTANCE", "bench").output().expect("it was there before");
        assert!(output.status.success(), "it starts");
        fs::remove_file(&state).expect("it made it");
        began.elapsed().as_secs_f64() * 1e3
    });
    Samples::new(times.collect()).median()
}

fn wait(mut done: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            return Err("no cluster forms".to_owned());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The configuration of one of our nodes.
fn ours(node: usize) -> String {
    let mut text = format!(
        "cluster = 'bench'\nnode = {node}\nfence_action = 'off'\nsentinel = true\n\
         key = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n\
         [[fencing.devices]]\nname = 'power'\nclass = 'simulated'\nnodes = [{{ node = 1 }}, {{ node = 2 }}, {{ node = 3 }}]\n\
         [[resources.groups]]\nname = 'bench'\nmigration_threshold = 1000\n\
         [[resources.groups.resources]]\nname = 'bench'\nagent = 'ocf:heartbeat:Dummy'\n\
         monitor_interval = '1s'\nparameters = {{ state = '/{STATE}' }}\n"
    );
    for node in 1..=NODES {
        text += &format!("[[nodes]]\nid = {node}\nname = 'node{node}'\naddress = '10.98.0.{node}:5405'\n");
    }
    text
}

/// The configuration of corosync.
fn corosync(token: Option<u32>) -> String {
    let token = token.map_or(String::new(), |ms| format!(" token: {ms}\n token_coefficient: 0\n"));
    let mut text = format!(
        "totem {{\n version: 2\n cluster_name: bench\n transport: knet\n crypto_cipher: none\n crypto_hash: none\n{token}}}\n\
         quorum {{\n provider: corosync_votequorum\n}}\n\
         logging {{\n to_logfile: yes\n logfile: /var/log/corosync/corosync.log\n to_syslog: no\n to_stderr: no\n}}\n\
         nodelist {{\n"
    );
    for node in 1..=NODES {
        text += &format!(" node {{\n nodeid: {node}\n name: node{node}\n ring0_addr: 10.98.0.{node}\n }}\n");
    }
    text + "}\n"
}
