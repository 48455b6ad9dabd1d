//! Three corosync nodes for tests and benches, each in namespaces of its own, on a bridge in a namespace of its own: nothing of the
//! machine's network or files is touched, and closing the standard input of a node's shell ends everything in it.
#![allow(dead_code, reason = "each test and bench uses a part of it")]
#![allow(unreachable_pub, reason = "tests and benches are crates without users")]
#![allow(clippy::print_stderr, reason = "what is left over is said, whoever uses this")]

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub const NODES: usize = 3;
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
#[derive(Debug)]
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

/// How corosync is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// By AES-256 and SHA-256, or plain.
    pub encrypted: bool,
    /// Networks between the nodes: 1 or 2.
    pub links: usize,
    /// Token timeout in milliseconds, if not as by default.
    pub token: Option<u32>,
    /// With votequorum, one vote for each node.
    pub votes: bool,
}

impl Setup {
    /// One link and everything as corosync has it by default, encrypted or plain, without votes.
    pub const fn usual(encrypted: bool) -> Self {
        Self { encrypted, links: 1, token: None, votes: false }
    }

    fn configuration(self) -> String {
        let (cipher, hash) = if self.encrypted { ("aes256", "sha256") } else { ("none", "none") };
        let token = self.token.map_or(String::new(), |ms| format!(" token: {ms}\n token_coefficient: 0\n"));
        let votes = if self.votes { "quorum {\n provider: corosync_votequorum\n}\n" } else { "" };
        let mut text = format!(
            "totem {{\n version: 2\n cluster_name: bench\n transport: knet\n crypto_cipher: {cipher}\n \
             crypto_hash: {hash}\n{token}}}\n{votes}logging {{\n to_syslog: no\n to_stderr: no\n}}\nnodelist {{\n"
        );
        for node in 1..=NODES {
            text += &format!(" node {{\n nodeid: {node}\n name: node{node}\n");
            for link in 0..self.links {
                text += &format!(" ring{link}_addr: 10.99.{link}.{node}\n");
            }
            text += " }\n";
        }
        text + "}\n"
    }
}

/// Up to three corosync nodes. Dropping it ends them. Fields are dropped in order: the nodes before their switches.
#[derive(Debug)]
pub struct Daemons {
    setup: Setup,
    nodes: [Option<Shell>; NODES],
    /// One for each link.
    switches: Vec<Shell>,
}

impl Daemons {
    /// Makes the switches. No node runs yet.
    ///
    /// # Errors
    /// Why that cannot be on this machine.
    pub fn new(setup: Setup) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("namespaces need root".to_owned());
        }
        let found = env::var_os("PATH").is_some_and(|path| {
            env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join("corosync").exists())
        });
        if !found || !Path::new("/etc/corosync").is_dir() {
            return Err("corosync is not installed".to_owned());
        }
        let mut switches = Vec::new();
        for _ in 0..setup.links {
            switches.push(Shell::start(&["-n"], SWITCH, &[])?);
        }
        Ok(Self { setup, nodes: [const { None }; NODES], switches })
    }

    /// Starts node `node`, from 1 on, with nothing on its disk, and its corosync; does not wait for the cluster.
    ///
    /// # Errors
    /// What was said instead.
    pub fn start(&mut self, node: usize) -> Result<(), String> {
        let links: Vec<String> = (0..self.setup.links).map(|link| link.to_string()).collect();
        let words = [
            ("FOLDERS", FOLDERS.join(" ")),
            ("NODE", node.to_string()),
            ("LINKS", links.join(" ")),
            ("CONF", self.setup.configuration()),
        ];
        let own = ["-n", "-m", "-p", "-f", "-i", "--kill-child", "--mount-proc"];
        let mut shell = Shell::start(&own, NODE, &words)?;
        let pid = shell.pid();
        for (link, switch) in self.switches.iter_mut().enumerate() {
            switch.run(&format!("ip link add port{node} type veth peer name eth{link} netns {pid}"))?;
            switch.run(&format!("ip link set port{node} master bridge up"))?;
        }
        shell.say("start")?;
        shell.expect("started")?;
        self.nodes[node - 1] = Some(shell);
        Ok(())
    }

    /// The shell of a node, which runs each line that it is told.
    ///
    /// # Panics
    /// If the node does not run.
    pub fn node(&mut self, node: usize) -> &mut Shell {
        self.nodes[node - 1].as_mut().expect("the node runs")
    }

    /// The shells of the nodes that run.
    pub fn nodes(&mut self) -> impl Iterator<Item = &mut Shell> {
        self.nodes.iter_mut().flatten()
    }

    /// Ends everything on a node at once.
    ///
    /// # Errors
    /// What the switch said instead.
    ///
    /// # Panics
    /// If the node does not run.
    pub fn kill(&mut self, node: usize) -> Result<(), String> {
        // The kernel takes its time with the namespace: the name of the port must be free before.
        for switch in &mut self.switches {
            switch.run(&format!("ip link del port{node}"))?;
        }
        self.nodes[node - 1].take().expect("the node runs").kill();
        Ok(())
    }

    /// Takes a node's port off the switch of a link, or puts it back.
    ///
    /// # Errors
    /// What the switch said instead.
    pub fn set_port(&mut self, link: usize, node: usize, on: bool) -> Result<(), String> {
        let state = if on { 3 } else { 0 };
        self.switches[link].run(&format!("bridge link set dev port{node} state {state}"))
    }
}
