//! Three corosync nodes for comparison, each in namespaces of its own, on a bridge in a namespace of its own: nothing of
//! the machine's network or files is touched, and closing the standard input of a node's shell ends everything in it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, fs, process};

const NODES: usize = 3;
const PROGRAM: &str = include_str!("cpg_load.c");
/// Folders that corosync writes to; each node has its own.
const FOLDERS: [&str; 4] = ["/run", "/dev/shm", "/etc/corosync", "/var/lib/corosync"];
/// Then runs each line of its input as a command, one after the other.
const SWITCH: &str = r"
set -e
ip link add bridge type bridge forward_delay 0 mcast_snooping 0
ip link set bridge up
echo ready
while read -r line; do $line </dev/null; echo done; done
";
const NODE: &str = r#"
set -e
for folder in $FOLDERS; do mount -t tmpfs tmpfs "$folder"; done
ip link set lo up
echo ready
read -r _started
ip addr add "$ADDRESS/24" dev eth0
ip link set eth0 up
printf '%s\n' "$CONF" > /etc/corosync/corosync.conf
printf '%0256d' 7 > /etc/corosync/authkey
corosync -f > /dev/null 2>&1 < /dev/null &
echo started
while read -r line; do $line < /dev/null || echo failed; done
"#;

/// A shell in namespaces of its own, driven line by line.
struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn start(unshare: &[&str], script: &str, words: &[(&str, String)]) -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(unshare).args(["sh", "-c", script]).envs(words.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.expect("the output was asked for"));
        let mut shell = Self { child, input, output };
        shell.expect("ready")?;
        Ok(shell)
    }

    fn say(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().expect("open until it is dropped");
        writeln!(input, "{line}").map_err(|error| format!("{line}: {error}"))
    }

    fn hear(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("a shell in a namespace ended".to_owned()),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        let heard = self.hear()?;
        if heard == wanted { Ok(()) } else { Err(format!("{heard:?} instead of {wanted:?}")) }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("a namespace did not end: {error}");
        }
    }
}

/// The load program, compiled for this run.
struct Program(PathBuf);

impl Program {
    fn compile() -> Result<Self, String> {
        let path = env::temp_dir().join(format!("ocf-cpg-load-{}", process::id()));
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-x", "c", "-", "-o"]).arg(&path).args(["-lcpg", "-lpthread"]);
        let spawned = compiler.stdin(Stdio::piped()).spawn();
        let mut compiler = spawned.map_err(|error| format!("no C compiler: {error}"))?;
        let mut source = compiler.stdin.take().expect("the input was asked for");
        source.write_all(PROGRAM.as_bytes()).map_err(|error| error.to_string())?;
        drop(source);
        match compiler.wait() {
            Ok(status) if status.success() => Ok(Self(path)),
            _ => Err("the load program does not compile".to_owned()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Three corosync nodes. Dropping it ends them. Fields are dropped in order: the nodes before their switch.
pub struct Corosync {
    nodes: Vec<Shell>,
    _switch: Shell,
    program: Program,
    /// Measurements so far: each has a group of its own.
    runs: usize,
}

impl Corosync {
    /// Brings three nodes up, with messages encrypted by AES-256 and SHA-256, or plain; everything else as corosync has
    /// it by default.
    ///
    /// # Errors
    /// Why there is nothing to compare with on this machine.
    pub fn start(encrypted: bool) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("namespaces need root".to_owned());
        }
        let found = env::var_os("PATH").is_some_and(|path| {
            env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join("corosync").exists())
        });
        if !found || !Path::new("/usr/include/corosync/cpg.h").exists() {
            return Err("corosync or the headers of its process groups are not installed".to_owned());
        }
        let program = Program::compile()?;
        let mut switch = Shell::start(&["-n"], SWITCH, &[])?;
        let mut nodes = Vec::new();
        for node in 1..=NODES {
            let words = [
                ("FOLDERS", FOLDERS.join(" ")),
                ("ADDRESS", format!("10.99.0.{node}")),
                ("CONF", configuration(encrypted)),
            ];
            let own = ["-n", "-m", "-p", "-f", "-i", "--kill-child", "--mount-proc"];
            let shell = Shell::start(&own, NODE, &words)?;
            let pid = shell.child.id();
            for line in [
                format!("ip link add port{node} type veth peer name eth0 netns {pid}"),
                format!("ip link set port{node} master bridge up"),
            ] {
                switch.say(&line)?;
                switch.expect("done")?;
            }
            nodes.push(shell);
        }
        for node in &mut nodes {
            node.say("start")?;
            node.expect("started")?;
        }
        let mut corosync = Self { nodes, _switch: switch, program, runs: 0 };
        // The cluster has formed when a message has passed.
        corosync.latency(64, 10)?;
        Ok(corosync)
    }

    /// Median time from sending to the sender's own delivery, in microseconds.
    pub fn latency(&mut self, size: usize, count: usize) -> Result<f64, String> {
        let results = self.run("latency", size, 1, &count.to_string())?;
        Ok(results.into_iter().fold(0.0, f64::max))
    }

    /// Messages per second at the node that delivers the fewest.
    pub fn rate(&mut self, size: usize, senders: usize, seconds: f64) -> Result<f64, String> {
        let results = self.run("rate", size, senders, &seconds.to_string())?;
        Ok(results.into_iter().fold(f64::INFINITY, f64::min))
    }

    fn run(&mut self, what: &str, size: usize, senders: usize, last: &str) -> Result<Vec<f64>, String> {
        let program = self.program.0.display().to_string();
        self.runs += 1;
        let group = format!("bench{}", self.runs);
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let sends = u8::from(index >= NODES - senders);
            node.say(&format!("{program} {what} {group} {NODES} {size} {sends} {last}"))?;
        }
        let heard: Vec<_> = self.nodes.iter_mut().map(Shell::hear).collect();
        heard.into_iter().map(|line| line?.parse().map_err(|error| format!("cpg_load: {error}"))).collect()
    }
}

fn configuration(encrypted: bool) -> String {
    let (cipher, hash) = if encrypted { ("aes256", "sha256") } else { ("none", "none") };
    let mut text = format!(
        "totem {{\n version: 2\n cluster_name: bench\n transport: knet\n crypto_cipher: {cipher}\n \
         crypto_hash: {hash}\n}}\nlogging {{\n to_syslog: no\n to_stderr: no\n}}\nnodelist {{\n"
    );
    for node in 1..=NODES {
        text += &format!(" node {{\n nodeid: {node}\n name: node{node}\n ring0_addr: 10.99.0.{node}\n }}\n");
    }
    text + "}\n"
}
