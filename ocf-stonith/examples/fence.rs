//! A command line for fence devices, without any cluster: which agents are there, what they want to know, and switching a
//! node off and on through a configured device.
//!
//! ```text
//! cargo run -p ocf-stonith --example fence -- list
//! cargo run -p ocf-stonith --example fence -- metadata fence_ipmilan
//! cargo run -p ocf-stonith --example fence -- off 2 --config fencing.toml
//! ```
//! Exit status: 0 confirmed (or the state was read), 2 not known, 1 wrong use. Only 0 means fenced.
#![expect(clippy::print_stderr, reason = "it is a program for a terminal")]

use clap::{Parser, Subcommand};
use ocf_stonith::driver::{Classes, DeviceHost, find_agent, installed_agents, query_metadata};
use ocf_stonith::{AttemptId, Config, DeviceConfig, DeviceResult, FenceAction, Operation, ReadBack};
use pils::{NodeId, process::Runner};
use serde_json::json;
use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;
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
        /// Its name, such as fence_ipmilan.
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
    let arguments = Arguments::parse();
    let json = arguments.json;
    let result = match arguments.command {
        Command::List { config } => list(config.as_deref(), json),
        Command::Metadata { agent } => metadata(&agent, json),
        Command::Status(target) => switch(&target, FenceAction::Status, json),
        Command::Off(target) => switch(&target, FenceAction::Off, json),
        Command::On(target) => switch(&target, FenceAction::On, json),
        Command::Reboot(target) => switch(&target, FenceAction::Reboot, json),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(1)
    })
}

fn read_config(path: &Path) -> Result<Config, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let config = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Classes::default().check(&config)?;
    Ok(config)
}

fn list(config: Option<&Path>, json: bool) -> Result<ExitCode, Box<dyn Error>> {
    for class in Classes::default().iter() {
        if json {
            say!("{}", json!({ "class": class.name(), "about": class.describe() }));
        } else {
            say!("class   {:<12} {}", class.name(), class.describe());
        }
    }
    for agent in installed_agents() {
        if json {
            say!("{}", json!({ "agent": agent }));
        } else {
            say!("agent   {agent}");
        }
    }
    let config = config.map(read_config).transpose()?.unwrap_or_default();
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
    let program = find_agent(agent).ok_or_else(|| format!("{agent} is not installed"))?;
    let (tell, told) = channel();
    let runner = Runner::new(1)?;
    query_metadata(&runner, program, Duration::from_secs(30), move |m| tell.send(m).unwrap_or(()));
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

fn switch(target: &Target, action: FenceAction, json: bool) -> Result<ExitCode, Box<dyn Error>> {
    let config = read_config(&target.config)?;
    let host = DeviceHost::new(&config, &Classes::default(), &Runner::new(1)?, |_report| {})?;
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
