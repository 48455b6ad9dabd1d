//! Nodes made of namespaces, on two switches: one for the cluster, one for the management boards.

use crate::program;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The address that the cluster keeps up.
pub(crate) const VIRTUAL_IP: &str = "10.91.0.100";

/// What a lab is like beside its names.
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// Of the file of every node: what stands before its first section.
    pub(crate) top: &'static str,
    /// Of the file: more of the section `fencing`.
    pub(crate) fencing: &'static str,
    /// Of the file: more of the group with the address.
    pub(crate) group: &'static str,
}

impl Plan {
    pub(crate) const THREE: Self = Self { nodes: 3, top: "", fencing: "", group: "nodes = [1, 2, 3]\n" };
}

/// What node `i` is called.
pub(crate) fn name(i: usize) -> &'static str {
    ["alpha", "beta", "gamma"][i - 1]
}

/// Runs a command that must succeed and returns what it printed.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {}: {text}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that may fail; true if it did not.
pub(crate) fn works(command: &str) -> bool {
    let quiet = Command::new("sh").args(["-c", command]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// Looks at the addresses of all nodes until told to stop.
struct Watcher {
    stop: Arc<AtomicBool>,
    twice: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

/// What a node printed, with the moment at which each line came.
type Lines = Arc<Mutex<Vec<(Instant, String)>>>;

pub(crate) struct Lab {
    dir: PathBuf,
    /// Prefix of the namespaces, unlike that of any other lab.
    id: String,
    plan: Plan,
    nodes: BTreeMap<usize, Child>,
    boards: BTreeMap<usize, Child>,
    lines: BTreeMap<usize, Lines>,
    monitors: BTreeMap<usize, Child>,
    watcher: Option<Watcher>,
}

impl Lab {
    pub(crate) fn new(test: &str, plan: Plan) -> Self {
        sweep();
        let id = format!("ocf-{test}-{}-", std::process::id());
        let dir = std::env::temp_dir().join(&id);
        fs::create_dir_all(&dir).unwrap();
        // From here on, dropping it cleans up, whatever fails.
        let (nodes, boards, monitors) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let lines = (1..=plan.nodes).map(|i| (i, Lines::default())).collect();
        let mut lab = Self { dir, id, plan, nodes, boards, lines, monitors, watcher: None };
        lab.build_network();
        lab.watcher = Some(Watcher::start(&lab.id));
        lab.write_config();
        for i in lab.all() {
            lab.start_board(i);
        }
        for i in lab.all() {
            lab.start(i);
        }
        lab
    }

    fn all(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.plan.nodes
    }

    fn build_network(&self) {
        let id = &self.id;
        run(&format!("ip netns add {id}s && ip -n {id}s link set lo up"));
        for bridge in ["data", "mgmt"] {
            run(&format!("ip -n {id}s link add {bridge} type bridge forward_delay 0 mcast_snooping 0"));
            run(&format!("ip -n {id}s link set {bridge} up"));
        }
        // The switch namespace is also a client of the service and the home of the boards.
        run(&format!("ip -n {id}s addr add 10.91.0.200/24 dev data"));
        for i in self.all() {
            run(&format!("ip netns add {id}{i} && ip -n {id}{i} link set lo up"));
            for (link, bridge, net) in [("eth0", "data", 91), ("eth1", "mgmt", 92)] {
                let port = format!("{bridge}{i}");
                run(&format!("ip link add {link} netns {id}{i} type veth peer name {port} netns {id}s"));
                run(&format!("ip -n {id}s link set {port} master {bridge} up"));
                run(&format!("ip -n {id}{i} addr add 10.{net}.0.{i}/24 dev {link}"));
                run(&format!("ip -n {id}{i} link set {link} up"));
            }
            run(&format!("ip -n {id}s addr add 10.92.0.10{i}/24 dev mgmt"));
        }
    }

    fn write_config(&self) {
        let Plan { top, fencing, group, .. } = self.plan;
        let mut text = format!(
            "cluster = \"lab\"\nnode = 1\nfence_action = \"off\"\nlock_memory = true\n\
             key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n{top}\
             [fencing]\npasses_max = 2\nround_pause_ms = 1000\nretry_pause_ms = 200\n{fencing}"
        );
        for i in self.all() {
            let name = name(i);
            text += &format!(
                "[[nodes]]\nid = {i}\nname = \"{name}\"\naddress = \"10.91.0.{i}:5405\"\n\
                 [[fencing.devices]]\nname = \"bmc-{name}\"\nclass = \"fence_agent\"\nnodes = [{{ node = {i} }}]\n\
                 timeout_ms = 6000\n[fencing.devices.parameters]\nagent = \"fence_ipmilan\"\nip = \"10.92.0.10{i}\"\n\
                 username = \"admin\"\npassword = \"secret\"\npower_wait = \"0\"\nlogin_timeout = \"4\"\n"
            );
        }
        text += &format!(
            "[[resources.groups]]\nname = \"web\"\nmigration_threshold = 1\n{group}\
             [[resources.groups.resources]]\nname = \"service\"\nagent = \"ocf:heartbeat:Dummy\"\n\
             monitor_interval = \"1s\"\n\
             [[resources.groups.resources]]\nname = \"address\"\nagent = \"ocf:heartbeat:IPaddr2\"\n\
             parameters = {{ ip = \"{VIRTUAL_IP}\", cidr_netmask = \"24\", nic = \"eth0\" }}\nmonitor_interval = \"1s\"\n"
        );
        fs::write(self.dir.join("node.toml"), text).unwrap();
    }

    /// Starts the process of node `i`, with a /run of its own, as a freshly booted machine has.
    pub(crate) fn start(&mut self, i: usize) {
        let (dir, id) = (self.dir.display(), &self.id);
        let program = program::failover();
        let mut child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &format!("{id}{i}"),
                "unshare",
                "-m",
                "--propagation",
                "private",
                "sh",
                "-c",
            ])
            .arg(format!(
                "mount -t tmpfs tmpfs /run && mkdir -p /run/resource-agents /run/lock && \
                 exec {} --config {dir}/node.toml --node {i} --snapshot {dir}/{i}.json 2>&1",
                program.display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (printed, lines) = (child.stdout.take().unwrap(), Arc::clone(&self.lines[&i]));
        // It ends with the node.
        thread::spawn(move || {
            for line in BufReader::new(printed).lines().map_while(Result::ok) {
                lines.lock().unwrap().push((Instant::now(), line));
            }
        });
        self.nodes.insert(i, child);
    }

    /// Starts the board of node `i`: it answers IPMI, and its chassis is a script.
    pub(crate) fn start_board(&mut self, i: usize) {
        let dir = self.dir.join(format!("board{i}"));
        fs::create_dir_all(dir.join("state")).unwrap();
        let script = dir.join("chassis");
        if !dir.join("power").exists() {
            fs::write(dir.join("power"), "1").unwrap();
        }
        fs::write(&script, chassis(&dir, &format!("{}{i}", self.id))).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("lan"), board(&format!("10.92.0.10{i}"), &script)).unwrap();
        let commands = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
                        sel_enable 0x20 1000 0x0a\nmc_enable 0x20\n";
        fs::write(dir.join("commands"), commands).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &format!("{}s", self.id), "ipmi_sim", "-n", "-c"])
            .arg(dir.join("lan"))
            .arg("-f")
            .arg(dir.join("commands"))
            .arg("-s")
            .arg(dir.join("state"))
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("log")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.boards.insert(i, child);
        let began = Instant::now();
        let answers = format!(
            "ip netns exec {}s ipmitool -I lan -H 10.92.0.10{i} -U admin -P secret -N 1 -R 1 chassis power status",
            self.id
        );
        while !works(&answers) {
            assert!(began.elapsed() < Duration::from_secs(20), "board {i} does not answer");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The board of node `i` dies.
    pub(crate) fn stop_board(&mut self, i: usize) {
        if let Some(mut board) = self.boards.remove(&i) {
            board.kill().unwrap();
            board.wait().unwrap();
        }
    }

    /// SIGKILL to the process of node `i`; what its agents started lives on.
    pub(crate) fn kill(&mut self, i: usize) {
        if let Some(mut node) = self.nodes.remove(&i) {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }

    /// SIGTERM to the process of node `i`.
    pub(crate) fn terminate(&self, i: usize) {
        run(&format!("kill -TERM {}", self.nodes[&i].id()));
    }

    /// How the process of node `i` ended, if it has.
    pub(crate) fn exited(&mut self, i: usize) -> Option<ExitStatus> {
        self.nodes.get_mut(&i).and_then(|node| node.try_wait().unwrap())
    }

    /// Is the memory of node `i` kept in RAM?
    pub(crate) fn keeps_memory(&self, i: usize) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.nodes[&i].id())).unwrap();
        status.lines().any(|line| line.starts_with("VmLck:") && !line.ends_with("\t       0 kB"))
    }

    /// Stops the process of node `i` from running, or lets it go on.
    pub(crate) fn pause(&self, i: usize, paused: bool) {
        let signal = if paused { "STOP" } else { "CONT" };
        run(&format!("kill -{signal} {}", self.nodes[&i].id()));
    }

    /// Takes the port of node `i` on the cluster's switch down. Its board stays reachable.
    pub(crate) fn cut(&self, i: usize) {
        run(&format!("ip -n {}s link set data{i} down", self.id));
    }

    /// Lets the nodes hear each other no more, or again. The client of the service, and the boards, stay reachable for all.
    pub(crate) fn part(&self, apart: bool) {
        let isolated = if apart { "on" } else { "off" };
        for i in self.all() {
            run(&format!("ip -n {}s link set data{i} type bridge_slave isolated {isolated}", self.id));
        }
    }

    /// Switches a node on again that was switched off.
    pub(crate) fn power_on(&mut self, i: usize) {
        if let Some(mut node) = self.nodes.remove(&i) {
            node.wait().unwrap();
        }
        let board = format!("ipmitool -I lan -H 10.92.0.10{i} -U admin -P secret chassis power on");
        run(&format!("ip netns exec {}s {board}", self.id));
    }

    /// From now on, keeps what happens to the addresses of node `i`.
    pub(crate) fn watch(&mut self, i: usize) {
        let kept = File::create(self.dir.join(format!("{i}.addresses"))).unwrap();
        let namespace = format!("{}{i}", self.id);
        let monitor =
            Command::new("ip").args(["-n", &namespace, "-4", "monitor", "address"]).stdout(kept).spawn();
        self.monitors.insert(i, monitor.unwrap());
    }

    /// Has the address been taken down on node `i` since it is watched?
    pub(crate) fn taken_down(&self, i: usize) -> bool {
        let kept = fs::read_to_string(self.dir.join(format!("{i}.addresses"))).unwrap();
        kept.lines().any(|line| line.starts_with("Deleted") && line.contains(&format!("{VIRTUAL_IP}/")))
    }

    /// Was the node switched off by its board?
    pub(crate) fn switched_off(&self, i: usize) -> bool {
        let log = fs::read_to_string(self.dir.join(format!("board{i}/power.log"))).unwrap_or_default();
        log.lines().any(|line| line == "off")
    }

    /// The nodes on which the address is up.
    pub(crate) fn owners(&self) -> Vec<usize> {
        owners(&self.id)
    }

    /// Does the address answer a client?
    pub(crate) fn ping(&self) -> bool {
        works(&format!("ip netns exec {}s ping -c 1 -W 1 {VIRTUAL_IP}", self.id))
    }

    /// Moments at which the address was up on several nodes.
    pub(crate) fn seen_twice(&self) -> Vec<String> {
        self.watcher.as_ref().map(|w| w.twice.lock().unwrap().clone()).unwrap_or_default()
    }

    pub(crate) fn log(&self, i: usize) -> String {
        self.lines[&i].lock().unwrap().iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    /// When, since `since`, a node other than `lost` first printed a line that `wanted` accepts.
    pub(crate) fn said(
        &self,
        lost: usize,
        since: Instant,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<Duration> {
        let others = self.lines.iter().filter(|(i, _)| **i != lost);
        let first = others.filter_map(|(_, lines)| {
            let lines = lines.lock().unwrap();
            lines.iter().find(|(at, line)| *at >= since && wanted(line)).map(|(at, _)| *at)
        });
        first.min().map(|at| at - since)
    }

    pub(crate) fn logs(&self) -> String {
        self.all().map(|i| format!("--- {}\n{}", name(i), self.log(i))).collect()
    }

    pub(crate) fn snapshot(&self, i: usize) -> Option<serde_json::Value> {
        let text = fs::read_to_string(self.dir.join(format!("{i}.json"))).ok()?;
        serde_json::from_str(&text).ok()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.stop.store(true, Ordering::Relaxed);
            drop(watcher.thread.join());
        }
        for child in self.nodes.values_mut().chain(self.boards.values_mut()).chain(self.monitors.values_mut())
        {
            drop(child.kill());
            drop(child.wait());
        }
        remove(&self.id);
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Ends what still runs in the namespaces of a lab, and removes them.
pub(crate) fn remove(id: &str) {
    for n in ["1", "2", "3", "s"] {
        works(&format!("ip netns pids {id}{n} | xargs -r kill -9"));
        works(&format!("ip netns del {id}{n}"));
    }
}

/// Removes labs that were left behind because the test that built them was killed.
pub(crate) fn sweep() {
    for name in run("ip netns list").lines().filter_map(|line| line.split_whitespace().next()) {
        let parts: Vec<&str> = name.split('-').collect();
        if let ["ocf", test, pid, "s"] = parts.as_slice()
            && pid.parse::<u32>().is_ok()
            && !Path::new("/proc").join(pid).exists()
        {
            let id = format!("ocf-{test}-{pid}-");
            remove(&id);
            drop(fs::remove_dir_all(std::env::temp_dir().join(id)));
        }
    }
}

fn owners(id: &str) -> Vec<usize> {
    (1..=3)
        .filter(|i| works(&format!("ip -n {id}{i} -4 -o addr show dev eth0 | grep -q ' {VIRTUAL_IP}/'")))
        .collect()
}

impl Watcher {
    fn start(id: &str) -> Self {
        let (stop, twice) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, found, id) = (Arc::clone(&stop), Arc::clone(&twice), id.to_owned());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let first = owners(&id);
                // A look takes a moment per node: only an address that is still there at a second look was there twice.
                if first.len() > 1 {
                    let second = owners(&id);
                    if second.iter().filter(|o| first.contains(o)).count() > 1 {
                        found.lock().unwrap().push(format!("{VIRTUAL_IP} is up on nodes {second:?}"));
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, twice, thread }
    }
}

/// The configuration of a board.
fn board(address: &str, chassis: &Path) -> String {
    let allowed: String = ["callback", "user", "operator", "admin"]
        .iter()
        .map(|level| format!("  allowed_auths_{level} none md2 md5 straight\n"))
        .collect();
    format!(
        "name \"board\"\nset_working_mc 0x20\nstartlan 1\n  addr {address} 623\n  priv_limit admin\n{allowed}  \
         guid 0f0f0f0f1e1e1e1e2d2d2d2d3c3c3c3c\nendlan\nchassis_control \"{} 0x20\"\n\
         user 1 true \"\" \"none\" user 10 none md2 md5 straight\n\
         user 2 true \"admin\" \"secret\" admin 10 none md2 md5 straight\n",
        chassis.display()
    )
}

/// The chassis of a node: power off kills everything in its namespace and takes its addresses, power on gives back what a
/// machine has after booting.
fn chassis(dir: &Path, namespace: &str) -> String {
    let dir = dir.display();
    format!(
        r#"#!/bin/sh
# chassis MC get power | set power 0|1 | set reset 1 | check ...
shift
verb=$1; shift
case $verb in
get) echo "power:$(cat {dir}/power)" ;;
set)
    case "$1 $2" in
    "power 0"|"reset 1"|"shutdown 1")
        ip -n {namespace} link set eth0 down
        ip netns pids {namespace} | xargs -r kill -9
        ip -n {namespace} addr del {VIRTUAL_IP}/24 dev eth0 2>/dev/null
        echo 0 > {dir}/power; echo off >> {dir}/power.log ;;
    "power 1") ip -n {namespace} link set eth0 up; echo 1 > {dir}/power; echo on >> {dir}/power.log ;;
    esac ;;
check) ;;
*) exit 1 ;;
esac
"#
    )
}
