//! Three corosync nodes for comparison, each in namespaces of its own, on a bridge in a namespace of its own: nothing of
//! the machine's network or files is touched, and closing the standard input of a node's shell ends everything in it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process, thread};

const NODES: usize = 3;
const PROGRAM: &str = include_str!("cpg_load.c");
/// Folders that corosync writes to; each node has its own.
const FOLDERS: [&str; 4] = ["/run", "/dev/shm", "/etc/corosync", "/var/lib/corosync"];
/// Then runs each line of its input as a command, one after the other.
pub const SWITCH: &str = r"
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
for link in $LINKS; do
    ip addr add "10.99.$link.$NODE/24" dev "eth$link"
    ip link set "eth$link" up
done
printf '%s\n' "$CONF" > /etc/corosync/corosync.conf
printf '%0256d' 7 > /etc/corosync/authkey
corosync -f > /dev/null 2>&1 < /dev/null &
printf 'cat /proc/%d/stat\n' $! > /run/used
echo started
while read -r line; do $line < /dev/null || echo failed; done
"#;

/// A shell in namespaces of its own, driven line by line.
pub struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Shell {
    /// Starts it and waits until its script says that it is ready.
    ///
    /// # Errors
    /// What was said instead.
    pub fn start(unshare: &[&str], script: &str, words: &[(&str, String)]) -> Result<Self, String> {
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

    /// The process that made the namespaces, and is in all of them but that of processes.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends everything in it at once.
    pub fn kill(mut self) {
        if let Err(error) = self.child.kill() {
            eprintln!("a namespace did not end: {error}");
        }
    }

    /// Writes a line.
    pub fn say(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().expect("open until it is dropped");
        writeln!(input, "{line}").map_err(|error| format!("{line}: {error}"))
    }

    /// The next line that it prints.
    pub fn hear(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("a shell in a namespace ended".to_owned()),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Has a switch carry out a command.
    pub fn run(&mut self, line: &str) -> Result<(), String> {
        self.say(line)?;
        self.expect("done")
    }

    /// Reads a line that must be this one.
    pub fn expect(&mut self, wanted: &str) -> Result<(), String> {
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

/// How corosync is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// By AES-256 and SHA-256, or plain.
    pub encrypted: bool,
    /// Networks between the nodes: 1 or 2.
    pub links: usize,
    /// Token timeout in milliseconds, if not as by default.
    pub token: Option<u32>,
}

impl Setup {
    /// One link and everything as corosync has it by default, encrypted or plain.
    pub const fn usual(encrypted: bool) -> Self {
        Self { encrypted, links: 1, token: None }
    }
}

/// Three corosync nodes. Dropping it ends them. Fields are dropped in order: the nodes before their switches.
pub struct Corosync {
    nodes: Vec<Shell>,
    /// One for each link.
    switches: Vec<Shell>,
    program: Program,
    /// Measurements so far: each has a group of its own.
    runs: usize,
}

impl Corosync {
    /// Brings three nodes up.
    ///
    /// # Errors
    /// Why there is nothing to compare with on this machine.
    pub fn start(setup: Setup) -> Result<Self, String> {
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
        let links: Vec<String> = (0..setup.links).map(|link| link.to_string()).collect();
        let mut switches = Vec::new();
        for _ in 0..setup.links {
            switches.push(Shell::start(&["-n"], SWITCH, &[])?);
        }
        let mut nodes = Vec::new();
        for node in 1..=NODES {
            let words = [
                ("FOLDERS", FOLDERS.join(" ")),
                ("NODE", node.to_string()),
                ("LINKS", links.join(" ")),
                ("CONF", configuration(setup)),
            ];
            let own = ["-n", "-m", "-p", "-f", "-i", "--kill-child", "--mount-proc"];
            let shell = Shell::start(&own, NODE, &words)?;
            let pid = shell.child.id();
            for (link, switch) in switches.iter_mut().enumerate() {
                switch.run(&format!("ip link add port{node} type veth peer name eth{link} netns {pid}"))?;
                switch.run(&format!("ip link set port{node} master bridge up"))?;
            }
            nodes.push(shell);
        }
        for node in &mut nodes {
            node.say("start")?;
            node.expect("started")?;
        }
        let mut corosync = Self { nodes, switches, program, runs: 0 };
        // The cluster has formed when a message has passed.
        corosync.latency(64, 10)?;
        Ok(corosync)
    }

    /// Processor time of all three daemons so far.
    pub fn used(&mut self) -> Result<Duration, String> {
        let mut ticks = 0;
        for node in &mut self.nodes {
            node.say("sh /run/used")?;
            let line = node.hear()?;
            // Behind the name: the state, 10 more, then user and system time.
            let fields = line.rsplit_once(") ").map(|(_, fields)| fields.split(' ').skip(11).take(2));
            let fields = fields.ok_or_else(|| format!("no process: {line:?}"))?;
            ticks += fields.map(|field| field.parse().unwrap_or(0)).sum::<u64>();
        }
        // The kernel tells hundredths of a second to programs, whatever it counts in.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The longest time in microseconds without a delivery at any node when the first of two links is cut under load.
    pub fn gap(&mut self) -> Result<f64, String> {
        self.tell_all("gap", 1024, 1, "8")?;
        // The load has begun, and links that were just up are used.
        thread::sleep(Duration::from_secs(3));
        for node in 1..=NODES {
            self.switches[0].run(&format!("bridge link set dev port{node} state 0"))?;
        }
        let results = self.hear_all()?;
        for node in 1..=NODES {
            self.switches[0].run(&format!("bridge link set dev port{node} state 3"))?;
        }
        Ok(results.into_iter().fold(0.0, f64::max))
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
        self.tell_all(what, size, senders, last)?;
        self.hear_all()
    }

    fn tell_all(&mut self, what: &str, size: usize, senders: usize, last: &str) -> Result<(), String> {
        let program = self.program.0.display().to_string();
        self.runs += 1;
        let group = format!("bench{}", self.runs);
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let sends = u8::from(index >= NODES - senders);
            node.say(&format!("{program} {what} {group} {NODES} {size} {sends} {last}"))?;
        }
        Ok(())
    }

    fn hear_all(&mut self) -> Result<Vec<f64>, String> {
        let heard: Vec<_> = self.nodes.iter_mut().map(Shell::hear).collect();
        heard.into_iter().map(|line| line?.parse().map_err(|error| format!("cpg_load: {error}"))).collect()
    }
}

fn configuration(setup: Setup) -> String {
    let (cipher, hash) = if setup.encrypted { ("aes256", "sha256") } else { ("none", "none") };
    let token = setup.token.map_or(String::new(), |ms| format!(" token: {ms}\n token_coefficient: 0\n"));
    let mut text = format!(
        "totem {{\n version: 2\n cluster_name: bench\n transport: knet\n crypto_cipher: {cipher}\n \
         crypto_hash: {hash}\n{token}}}\nlogging {{\n to_syslog: no\n to_stderr: no\n}}\nnodelist {{\n"
    );
    for node in 1..=NODES {
        text += &format!(" node {{\n nodeid: {node}\n name: node{node}\n");
        for link in 0..setup.links {
            text += &format!(" ring{link}_addr: 10.99.{link}.{node}\n");
        }
        text += " }\n";
    }
    text + "}\n"
}
