//! Three corosync nodes for comparison: what their process groups do under load.

use super::lab::{Daemons, NODES, Shell};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, process, thread};

pub use super::lab::Setup;

const PROGRAM: &str = include_str!("cpg_load.c");

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

/// Three corosync nodes under load. Dropping it ends them.
pub struct Corosync {
    daemons: Daemons,
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
        if !Path::new("/usr/include/corosync/cpg.h").exists() {
            return Err("the headers of corosync's process groups are not installed".to_owned());
        }
        let mut daemons = Daemons::new(setup)?;
        let program = Program::compile()?;
        for node in 1..=NODES {
            daemons.start(node)?;
        }
        let mut corosync = Self { daemons, program, runs: 0 };
        // The cluster has formed when a message has passed.
        corosync.latency(64, 10)?;
        Ok(corosync)
    }

    /// Processor time of all three daemons so far.
    pub fn used(&mut self) -> Result<Duration, String> {
        let mut ticks = 0;
        for node in self.daemons.nodes() {
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
            self.daemons.set_port(0, node, false)?;
        }
        let results = self.hear_all()?;
        for node in 1..=NODES {
            self.daemons.set_port(0, node, true)?;
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
        for (index, node) in self.daemons.nodes().enumerate() {
            let sends = u8::from(index >= NODES - senders);
            node.say(&format!("{program} {what} {group} {NODES} {size} {sends} {last}"))?;
        }
        Ok(())
    }

    fn hear_all(&mut self) -> Result<Vec<f64>, String> {
        let heard: Vec<_> = self.daemons.nodes().map(Shell::hear).collect();
        heard.into_iter().map(|line| line?.parse().map_err(|error| format!("cpg_load: {error}"))).collect()
    }
}
