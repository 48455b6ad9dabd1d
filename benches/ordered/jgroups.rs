//! Three members of a JGroups group over TCP on loopback, unencrypted, as packaged by Debian.
#![expect(clippy::print_stderr, reason = "a bench says what does not end")]

use crate::support::{Goal, Name, Options, Report, Samples, machine};
use crate::{KIB, NODES, SMALL, Trio};
use ocf_groups::Guarantee;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process};

const JAR: &str = "/usr/share/java/jgroups.jar";
const PROGRAM: &str = include_str!("../support/JgroupsLoad.java");

/// One member: a program driven line by line.
struct Member {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Member {
    fn hear(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("a member of the JGroups group ended".to_owned()),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("a member of the JGroups group did not end: {error}");
        }
    }
}

/// The group, and the folder with its program.
struct Group {
    members: Vec<Member>,
    folder: PathBuf,
}

impl Group {
    fn start(order: &str) -> Result<Self, String> {
        if !Path::new(JAR).exists() {
            return Err(format!("JGroups is not installed: {JAR}"));
        }
        let listeners: Result<Vec<TcpListener>, _> =
            (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
        let ports: Result<Vec<String>, _> = listeners
            .and_then(|all| all.iter().map(|one| Ok(one.local_addr()?.port().to_string())).collect());
        let ports = ports.map_err(|error: std::io::Error| error.to_string())?;
        let folder = env::temp_dir().join(format!("ocf-jgroups-{}", process::id()));
        let source = folder.join("JgroupsLoad.java");
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        fs::write(&source, PROGRAM).map_err(|error| error.to_string())?;
        let mut group = Self { members: Vec::new(), folder };
        for port in &ports {
            let mut java = Command::new("java");
            java.args(["-Xmx1g", "-XX:+UseParallelGC", "-Djava.net.preferIPv4Stack=true"]);
            java.args(["-Djgroups.bind_addr=127.0.0.1", "-cp", JAR]).arg(&source);
            java.args([order, &NODES.to_string(), port, &ports.join(",")]);
            java.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
            let mut child = java.spawn().map_err(|error| format!("java: {error}"))?;
            let (input, output) = (child.stdin.take(), child.stdout.take());
            let output = BufReader::new(output.expect("the output was asked for"));
            group.members.push(Member { child, input, output });
        }
        for member in &mut group.members {
            // Before that it may tell how its addresses are.
            while member.hear()? != "formed" {}
        }
        Ok(group)
    }

    /// What the members say after one order.
    fn run(&mut self, what: &str, size: usize, senders: usize, last: u128) -> Result<Vec<f64>, String> {
        for (at, member) in self.members.iter_mut().enumerate() {
            let sends = u8::from(at >= NODES - senders);
            let input = member.input.as_mut().expect("open until it is dropped");
            writeln!(input, "{what} {size} {sends} {last}").map_err(|error| error.to_string())?;
        }
        let told = self.members.iter_mut().map(|member| {
            let line = member.hear()?;
            line.parse().map_err(|error| format!("{line:?}: {error}"))
        });
        told.collect()
    }

    fn rate(&mut self, senders: usize, time: Duration) -> Result<f64, String> {
        let rates = self.run("rate", KIB, senders, time.as_millis())?;
        Ok(rates.into_iter().fold(f64::INFINITY, f64::min))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.members.clear();
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}

/// 1 KiB per second with all and with one sending, and the latency of 64 B in microseconds.
type Taken = [f64; 3];

fn theirs(order: &str, rounds: usize, time: Duration, count: usize) -> Result<Taken, String> {
    let mut group = machine::on_two(|| Group::start(order))?;
    let mut seen: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds {
        let pings = group.run("latency", SMALL, 1, u128::try_from(count).unwrap_or(1))?;
        let taken = [group.rate(NODES, time)?, group.rate(1, time)?, pings.into_iter().fold(0.0, f64::max)];
        seen.iter_mut().zip(taken).for_each(|(seen, value)| seen.push(value));
    }
    Ok(seen.map(|values| Samples::new(values).median()))
}

fn ours(plain: &Trio, rounds: usize, time: Duration, count: usize) -> Taken {
    let median = |measure: &(dyn Fn() -> f64 + Sync)| {
        let values = (0..rounds).map(|_| machine::on_two(measure)).collect();
        Samples::new(values).median()
    };
    [
        median(&|| plain.rate(KIB, NODES, time)),
        median(&|| plain.rate(KIB, 1, time)),
        median(&|| plain.latency(Guarantee::Agreed, count).median()),
    ]
}

/// The figures of V-6: rates and latency of `plain` against JGroups with and without total order.
pub fn report(options: Options, plain: &Trio, report: &mut Report) {
    let (rounds, time) = (if options.quick { 1 } else { 3 }, options.time(Duration::from_secs(2)));
    let count = options.count(1000);
    let mine = ours(plain, rounds, time, count);
    let names: [[Name; 3]; 2] = [
        [
            ("V-6", "1 KiB, all send, plain"),
            ("V-6/one", "1 KiB, one sends, plain"),
            ("V-6/latency", "64 B, to own delivery, plain"),
        ],
        [
            ("V-6/nakack", "1 KiB, all send, plain, theirs FIFO only"),
            ("V-6/nakack one", "1 KiB, one sends, plain, theirs FIFO only"),
            ("V-6/nakack lat", "64 B, plain, theirs delivered by the sender itself"),
        ],
    ];
    for (names, (order, show)) in
        names.into_iter().zip([("total", "JGroups SEQUENCER"), ("fifo", "JGroups NAKACK")])
    {
        let taken = theirs(order, rounds, time, count);
        for (at, name) in names.into_iter().enumerate() {
            let (unit, goal) = match at {
                2 if order == "fifo" => ("us", None),
                2 => ("us", Some(Goal::AtMost(0.5))),
                _ => ("msg/s", Some(Goal::AtLeast(3.0))),
            };
            match &taken {
                Ok(theirs) => report.figure(name, (mine[at], unit), Some((show, theirs[at])), goal),
                Err(why) => report.missing(name, unit, goal, why),
            }
        }
    }
    report.note(
        "JGroups over TCP on loopback, with a queue in its thread pool and bundles of at most 1 ms in place of the packaged 30 ms",
    );
}
