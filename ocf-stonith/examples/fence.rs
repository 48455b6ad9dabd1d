//! A command line for fence devices, without any cluster: which agents are there, what they want to know, and switching a
//! node off and on through a configured device.
//!
//! ```text
//! cargo run -p ocf-stonith --example fence -- list
//! cargo run -p ocf-stonith --example fence -- metadata fence_ipmilan
//! cargo run -p ocf-stonith --example fence -- drill 2 --config fencing.toml
//! cargo run -p ocf-stonith --example fence -- off 2 --config fencing.toml --log fenced.jsonl
//! cargo run -p ocf-stonith --example fence -- history --log fenced.jsonl
//! ```
//! `off`, `reboot` and `drill` go through the coordinator, with its levels, retries and evidence; `on` and `status` ask the
//! devices of the node in order until one knows. With `--json` every line is an object.
//!
//! Exit status: 0 confirmed (or the state was read, or every device is proven); 2 not known, or a device is not proven;
//! 1 wrong use. Only 0 means fenced.
#![expect(clippy::print_stderr, reason = "it is a program for a terminal")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a person is told what matters")]
#![expect(clippy::disallowed_methods, reason = "a program lives in real time")]

use clap::{Parser, Subcommand};
use ocf_stonith::driver::{
    Classes, DeviceHost, find_agent, installed_agents, installed_externals, query_external, query_metadata,
};
use ocf_stonith::{
    AttemptId, Authority, Cause, Config, DeviceConfig, DeviceReport, DeviceResult, Event, FenceAction,
    FenceRequest, Fencer, Input, Operation, Outcome, Output, ReadBack, Withdrawal,
};
use pils::{Incarnation, Instant, Layer as _, NodeId, NodeInstance, Rng, process::Runner};
use serde_json::{Value, json};
use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Prints a line. Nobody reads any more if the pipe is closed: that changes neither what is done nor the exit status.
fn say(line: std::fmt::Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("standard output: {error}");
    }
}

macro_rules! say {
    ($($text:tt)*) => {
        say(format_args!($($text)*))
    };
}

/// Fence devices from the command line.
#[derive(Parser)]
struct Arguments {
    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    json: bool,
    /// A file to which `off`, `reboot` and `drill` add what became of them, and which `history` reads.
    #[arg(long, global = true)]
    log: Option<PathBuf>,
    /// A folder of plug-ins: a device class that is not built in is its module `fence-class/NAME.so` or its program
    /// `fence-class/NAME`. Loading one runs it: trust it as this program.
    #[arg(long, global = true)]
    plugins: Vec<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the classes and the installed agents; with a configuration, its devices.
    List {
        /// A TOML file with `[[devices]]`.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Print what an agent says about itself.
    Metadata {
        /// Its name, such as fence_ipmilan or external/ipmi.
        agent: String,
    },
    /// Read whether a node is on.
    Status(Target),
    /// Switch a node off and read it back.
    Off(Target),
    /// Switch a node on and read it back.
    On(Target),
    /// Switch a node off, read it back, switch it on.
    Reboot(Target),
    /// Prove every device of a node.
    Drill {
        #[command(flatten)]
        target: Target,
        /// Really switch off and on. The node may die of it.
        #[arg(long)]
        harm: bool,
    },
    /// Print what the log says.
    History {
        /// Only this node.
        node: Option<u32>,
    },
}

#[derive(clap::Args)]
struct Target {
    /// The node's number.
    node: u32,
    /// A TOML file with `[[devices]]`.
    #[arg(long)]
    config: PathBuf,
    /// Only this device; otherwise those of the node in order until one succeeds.
    #[arg(long)]
    device: Option<String>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe is no reason to fail.
            error.print().unwrap_or(());
            return if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
        }
    };
    let (json, log) = (arguments.json, arguments.log);
    let classes = Classes::default();
    arguments.plugins.into_iter().for_each(|folder| classes.loader().add_folder(folder));
    let classes = &classes;
    let result = match arguments.command {
        Command::List { config } => list(classes, config.as_deref(), json),
        Command::Metadata { agent } => metadata(&agent, json),
        Command::Status(target) => switch(classes, &target, FenceAction::Status, json),
        Command::Off(target) => fence(classes, &target, FenceAction::Off, json, log.as_deref()),
        Command::On(target) => switch(classes, &target, FenceAction::On, json),
        Command::Reboot(target) => fence(classes, &target, FenceAction::Reboot, json, log.as_deref()),
        Command::Drill { target, harm } => drill(classes, &target, harm, json, log.as_deref()),
        Command::History { node } => history(node, json, log.as_deref()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(1)
    })
}

fn read_config(classes: &Classes, path: &Path) -> Result<Config, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let config = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    classes.check(&config)?;
    Ok(config)
}

fn list(classes: &Classes, config: Option<&Path>, json: bool) -> Result<ExitCode, Box<dyn Error>> {
    for name in classes.names() {
        let class = classes.find(&name)?;
        if json {
            say!("{}", json!({ "class": class.name(), "about": class.describe() }));
        } else {
            say!("class   {:<12} {}", class.name(), class.describe());
        }
    }
    for agent in installed_agents().into_iter().chain(installed_externals()) {
        if json {
            say!("{}", json!({ "agent": agent }));
        } else {
            say!("agent   {agent}");
        }
    }
    let config = config.map(|path| read_config(classes, path)).transpose()?.unwrap_or_default();
    for device in &config.devices {
        if json {
            say!("{}", json!({ "device": device.name, "class": device.class }));
        } else {
            say!("device  {:<12} {} {:?}", device.name, device.class, device.parameters);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn metadata(agent: &str, json: bool) -> Result<ExitCode, Box<dyn Error>> {
    let (tell, told) = channel();
    let runner = Runner::new(1)?;
    let done = move |m| tell.send(m).unwrap_or(());
    if agent.starts_with("external/") {
        query_external(&runner, agent, Duration::from_secs(30), done);
    } else {
        let program = find_agent(agent).ok_or_else(|| format!("{agent} is not installed"))?;
        query_metadata(&runner, program, Duration::from_secs(30), done);
    }
    let metadata = told.recv()??;
    if json {
        say!("{}", serde_json::to_string(&metadata)?);
        return Ok(ExitCode::SUCCESS);
    }
    say!("{}: {}", metadata.name, metadata.short);
    let actions: Vec<_> = metadata.actions.iter().map(|a| a.name.as_str()).collect();
    say!("actions: {}", actions.join(" "));
    for p in metadata.parameters.iter().filter(|p| !p.deprecated) {
        let required = if p.required { "required" } else { "" };
        let default = p.default.as_deref().unwrap_or_default();
        say!("  {:<24} {:<8} {required:<8} {default:<10} {}", p.name, p.kind, p.short);
    }
    Ok(ExitCode::SUCCESS)
}

/// A coordinator with its devices, driven from this thread.
struct Session {
    fencer: Fencer,
    host: DeviceHost,
    reports: Receiver<DeviceReport>,
    origin: std::time::Instant,
    json: bool,
}

impl Session {
    fn new(classes: &Classes, target: &Target, json: bool) -> Result<Self, Box<dyn Error>> {
        let mut config = read_config(classes, &target.config)?;
        if let Some(name) = &target.device {
            config.devices.retain(|d| d.name == *name);
            config.levels.clear();
        }
        // A program that lives for one order watches no device.
        config.health_every_ms = 0;
        config.devices.iter_mut().for_each(|d| d.hosts = ocf_stonith::Hosts::Static);
        if config.plan(NodeId::new(target.node)).is_empty() {
            return Err(format!("no device fences node {}", target.node).into());
        }
        let (tell, reports) = channel();
        let report = move |report| tell.send(report).unwrap_or(());
        let host = DeviceHost::new(&config, classes, &Runner::new(4)?, report)?;
        let mut fencer = Fencer::new(config, NodeId::new(u32::MAX), Rng::new(1));
        fencer.set_authority(Instant::ZERO, Authority::Absent);
        Ok(Self { fencer, host, reports, origin: std::time::Instant::now(), json })
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// Until nothing is left to wait for, or a round brought nothing. All events, in order.
    fn drive(&mut self, target: NodeInstance) -> Result<Vec<Event>, Box<dyn Error>> {
        let mut events = Vec::new();
        loop {
            while let Some(output) = self.fencer.poll_output() {
                match output {
                    Output::Run(run) => self.host.run(run),
                    Output::Cancel { attempt } => self.host.cancel(attempt),
                    Output::Event(event) => {
                        if !self.json {
                            progress(&event);
                        }
                        let vain = matches!(event, Event::Unresolved { .. });
                        events.push(event);
                        if vain {
                            // A person who waits wants to know now, not after the next round.
                            let now = self.now();
                            self.fencer.withdraw(now, target, Withdrawal::Operator)?;
                        }
                    }
                    other => return Err(format!("{other:?} is not understood").into()),
                }
            }
            let Some(at) = self.fencer.poll_timeout() else { return Ok(events) };
            let left = Duration::from_nanos(at.as_nanos().saturating_sub(self.now().as_nanos()));
            if let Ok(report) = self.reports.recv_timeout(left) {
                self.fencer.handle(self.now(), Input::Device(report));
            }
            self.fencer.handle_timeout(self.now());
        }
    }
}

fn progress(event: &Event) {
    match event {
        Event::AttemptStarted { device, action, .. } => eprintln!("{device} is asked for {action}"),
        Event::AttemptFailed { device, failure, .. } => eprintln!("{device} failed: {failure}"),
        Event::RestartFailed { device, failure, .. } => {
            eprintln!("{device} did not switch on again: {failure}");
        }
        _ => {}
    }
}

fn life(node: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(node), Incarnation::new(0))
}

/// Whoever runs this program.
fn who() -> String {
    std::env::var("SUDO_USER")
        .or_else(|_unset| std::env::var("USER"))
        .unwrap_or_else(|_unset| "operator".to_owned())
}

fn fence(
    classes: &Classes,
    target: &Target,
    action: FenceAction,
    json: bool,
    log: Option<&Path>,
) -> Result<ExitCode, Box<dyn Error>> {
    let mut session = Session::new(classes, target, json)?;
    let node = life(target.node);
    let cause = Cause::Operator { who: who().into() };
    session.fencer.request(session.now(), FenceRequest { target: node, action, cause })?;
    let events = session.drive(node)?;
    let outcome = events.iter().find_map(|e| match e {
        Event::Finished { outcome, .. } | Event::Unresolved { outcome, .. } => Some(outcome),
        _ => None,
    });
    let confirmed = outcome.is_some_and(Outcome::is_confirmed);
    let restarted = events.iter().any(|e| matches!(e, Event::Restarted { .. }));
    let record = session.fencer.history().iter().last();
    let text = match (record, outcome) {
        (Some(record), Some(outcome)) if record.outcome.is_none() => format!("{outcome}\n{record}"),
        (Some(record), _) => record.to_string(),
        (None, Some(outcome)) => outcome.to_string(),
        (None, None) => "nothing is known".to_owned(),
    };
    let entry = json!({
        "at": unix_seconds(), "node": target.node, "action": action, "confirmed": confirmed, "outcome": outcome,
        "switched_on_again": restarted, "record": record, "text": text,
    });
    let word = if confirmed { "confirmed" } else { "NOT CONFIRMED" };
    tell(&entry, &format!("node {} {action}: {word}: {text}", target.node), json, log)?;
    Ok(if confirmed { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn drill(
    classes: &Classes,
    target: &Target,
    harm: bool,
    json: bool,
    log: Option<&Path>,
) -> Result<ExitCode, Box<dyn Error>> {
    let mut session = Session::new(classes, target, json)?;
    let node = life(target.node);
    session.fencer.drill(session.now(), node, harm, &who())?;
    let events = session.drive(node)?;
    let findings = events.into_iter().find_map(|e| match e {
        Event::Drilled { findings, .. } => Some(findings),
        _ => None,
    });
    let findings = findings.ok_or("the drill did not end")?;
    let proven = findings.iter().all(|f| f.failure.is_none());
    let mut text = String::new();
    for finding in &findings {
        let result = match &finding.failure {
            Some(failure) => format!("NOT PROVEN: {failure}"),
            None => {
                let read: Vec<_> = finding.read.iter().map(ToString::to_string).collect();
                format!("proven: {}", read.join(", "))
            }
        };
        text.push_str(&format!("\n  {} {result}", finding.device));
    }
    let entry = json!({
        "at": unix_seconds(), "node": target.node, "action": "drill", "harm": harm, "proven": proven,
        "findings": findings, "text": text.trim(),
    });
    tell(&entry, &format!("node {} drill:{text}", target.node), json, log)?;
    Ok(if proven { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn history(node: Option<u32>, json: bool, log: Option<&Path>) -> Result<ExitCode, Box<dyn Error>> {
    let path = log.ok_or("name the log: --log FILE")?;
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for (i, line) in text.lines().enumerate() {
        let entry: Value =
            serde_json::from_str(line).map_err(|error| format!("{}:{}: {error}", path.display(), i + 1))?;
        if node.is_some_and(|node| entry["node"] != node) {
            continue;
        }
        if json {
            say!("{entry}");
        } else {
            let of = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            say!("{} node {} {}: {}", entry["at"], entry["node"], of("action"), of("text"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Prints an entry, and adds it to the log.
fn tell(entry: &Value, text: &str, json: bool, log: Option<&Path>) -> Result<(), Box<dyn Error>> {
    if json {
        say!("{entry}");
    } else {
        say!("{text}");
    }
    if let Some(path) = log {
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).map_err(wrong)?;
        file.write_all(format!("{entry}\n").as_bytes()).map_err(wrong)?;
    }
    Ok(())
}

fn switch(
    classes: &Classes,
    target: &Target,
    action: FenceAction,
    json: bool,
) -> Result<ExitCode, Box<dyn Error>> {
    let config = read_config(classes, &target.config)?;
    let host = DeviceHost::new(&config, classes, &Runner::new(1)?, |_report| {})?;
    let node = NodeId::new(target.node);
    let wanted = |d: &&DeviceConfig| target.device.as_ref().is_none_or(|name| *name == d.name);
    let devices: Vec<_> = config.devices_of(node).filter(wanted).collect();
    if devices.is_empty() {
        return Err(format!("no device fences node {}", target.node).into());
    }
    for (device, attempt) in devices.into_iter().zip(1..) {
        let result = execute(&host, device, AttemptId(attempt), action, node)?;
        let known = is_known(&result, action);
        if json {
            let (node, device) = (target.node, &device.name);
            say!(
                "{}",
                json!({ "node": node, "device": device, "action": action, "known": known, "result": result })
            );
        } else {
            let word = if known { "confirmed" } else { "NOT CONFIRMED" };
            say!("node {} {action} by {}: {word}: {}", target.node, device.name, text(&result));
        }
        if known {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(ExitCode::from(2))
}

fn execute(
    host: &DeviceHost,
    device: &DeviceConfig,
    attempt: AttemptId,
    action: FenceAction,
    node: NodeId,
) -> Result<DeviceResult, Box<dyn Error>> {
    let plug = device.target(node).and_then(|t| t.plug).map(Arc::from);
    let timeout = Duration::from_millis(device.timeout_ms);
    let (tell, told) = channel();
    let done = Box::new(move |result| tell.send(result).unwrap_or(()));
    let opened = host.device(&device.name).ok_or("the device is configured, so it is open")?;
    opened.execute(Operation { attempt, action, node, plug, timeout }, done);
    Ok(told.recv()?)
}

/// True if the state of the node is known to be what was asked for.
fn is_known(result: &DeviceResult, action: FenceAction) -> bool {
    let DeviceResult::Done { read_back, .. } = result else { return false };
    match action {
        FenceAction::Off | FenceAction::Reboot => read_back.confirms_off(),
        FenceAction::On => *read_back == ReadBack::On,
        FenceAction::Status => matches!(read_back, ReadBack::On | ReadBack::Off),
        FenceAction::Monitor | FenceAction::List => true,
    }
}

fn text(result: &DeviceResult) -> String {
    match result {
        DeviceResult::Done { read_back, detail } => format!("{read_back} ({detail})"),
        DeviceResult::Hosts { hosts } => hosts.join(" "),
        DeviceResult::Failed(failure) => failure.to_string(),
    }
}
