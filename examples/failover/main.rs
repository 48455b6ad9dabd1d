//! One node of a cluster as its own process, from a TOML file: runs real agents, fences through real devices.
//!
//! Start one on each machine: `failover --config node.toml`. `failover --example` prints a file to begin with.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod words;

use clap::Parser;
use ocf::{Node, NodeConfig, NodeEvent};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a departing node waits until others have taken over what runs here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one node of a high-availability cluster.
///
/// Prints what happens, one line each. SIGTERM or SIGINT hands over what runs here and leaves; a second one leaves at
/// once. Exit status: 0 after a clean leave, 1 if the node failed, 2 for a wrong configuration.
#[derive(Parser)]
struct Arguments {
    /// The node's configuration, a TOML file.
    #[arg(long, short, required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// Which node of the file this is, instead of the one the file names: one file serves all nodes then.
    #[arg(long)]
    node: Option<u32>,
    /// Keep a snapshot of everything this node knows in this file, as JSON, replaced as a whole when something happens.
    #[arg(long)]
    snapshot: Option<PathBuf>,
    /// Print an example configuration and exit.
    #[arg(long)]
    example: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.example {
        print!("{}", include_str!("example.toml"));
        return ExitCode::SUCCESS;
    }
    match configuration(&arguments) {
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Ok(_) if arguments.check => {
            println!("the configuration is good");
            ExitCode::SUCCESS
        }
        Ok(config) => match run(config, arguments.snapshot.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn configuration(arguments: &Arguments) -> Result<NodeConfig, String> {
    let path = arguments.config.as_deref().unwrap_or_else(|| Path::new("node.toml"));
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut config: NodeConfig = toml::from_str(&text)
        .map_err(|error| format!("{}: {}", path.display(), error.to_string().trim_end()))?;
    if let Some(node) = arguments.node {
        config.node = pils::NodeId::new(node);
    }
    config.check().map_err(|errors| format!("{}: {errors}", path.display()))?;
    Ok(config)
}

fn run(config: NodeConfig, snapshot: Option<&Path>) -> Result<(), String> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| error.to_string())?;
    let node = Node::builder(config).start().map_err(|error| error.to_string())?;
    println!("{} listens at {}", node.local(), words::list(node.addresses()));
    let mut leaving: Option<Instant> = None;
    let mut changed = true;
    loop {
        if let Some(event) = node.next_event(Duration::from_millis(100)) {
            if let Some(text) = words::tell(node.config(), &event.event) {
                println!("{} #{} {text}", event.at, event.number);
                changed = true;
            }
            let ready = matches!(event.event, NodeEvent::Resource(ocf_resource::Event::ReadyToLeave));
            if leaving.is_some() && ready {
                break;
            }
        }
        if let Some(why) = node.stopped() {
            return Err(format!("the node stopped: {why}"));
        }
        for signal in signals.pending() {
            if leaving.is_some() {
                println!("signal {signal} again: leaves at once");
                node.leave();
                return Ok(());
            }
            println!("signal {signal}: hands over what runs here");
            node.prepare_to_leave().map_err(|error| error.to_string())?;
            leaving = Some(Instant::now());
        }
        if leaving.is_some_and(|since| since.elapsed() > PATIENCE) {
            println!(
                "nobody took over within {PATIENCE:?}: leaves all the same, and is fenced if anything runs here"
            );
            break;
        }
        if changed && node.events_waiting() == 0 {
            changed = false;
            if let Some(path) = snapshot {
                write_snapshot(&node, path)?;
            }
        }
    }
    node.leave();
    println!("left");
    Ok(())
}

/// Replaces the snapshot file as a whole, so that a reader never sees half of one.
fn write_snapshot(node: &Node, path: &Path) -> Result<(), String> {
    let snapshot = node.snapshot().map_err(|error| error.to_string())?;
    let text = serde_json::to_string_pretty(&snapshot).map_err(|error| error.to_string())?;
    let new = path.with_extension("new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    written.map_err(|error| format!("{}: {error}", path.display()))
}
