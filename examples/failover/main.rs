//! One node of a cluster as its own process, from a TOML file: runs real agents, fences through real devices.
//!
//! `failover --example > node.toml` prints a file to begin with; on each machine, `failover --config node.toml --check`
//! says what is still wrong with it there, and `failover --config node.toml` runs the node. XML will do as well.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod words;

use clap::Parser;
use ocf::{Node, NodeBuilder, NodeConfig, NodeEvent};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a departing node waits until others have taken over what runs here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one node of a high-availability cluster.
///
/// Prints what happens, one line each. SIGHUP reads the file again. Its keys are taken over by this node: add the new one, then send
/// with it, then remove the old one, each at every node before the next. If its resources are others than the cluster runs, the whole
/// cluster changes to them; `revision` in `[resources]` has to be the one that they were made from, as the snapshot says it. SIGTERM or SIGINT hands over what runs here and leaves;
/// a second one leaves at once. Exit status: 0 after a clean leave, 1 if the node failed, 2 for a wrong configuration.
#[derive(Parser)]
struct Arguments {
    /// The node's configuration, a TOML file.
    #[arg(long, short, value_name = "FILE", required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Check the configuration, with the key, agents and fence agents it needs of this machine, and exit.
    #[arg(long)]
    check: bool,
    /// Which node of the file this is, instead of the one the file names: one file serves all nodes then.
    #[arg(long, value_name = "ID")]
    node: Option<u32>,
    /// Keep a snapshot of everything this node knows in this file, as JSON, replaced as a whole when something happens.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Look for resource agents below this folder, as `resource.d/PROVIDER/NAME`, for agents of your own.
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/ocf")]
    ocf_root: PathBuf,
    /// Print an example configuration and exit.
    #[arg(long)]
    example: bool,
}

fn main() -> ExitCode {
    ocf::run_sentinel_if_asked();
    let arguments = Arguments::parse();
    if arguments.example {
        print!("{}", include_str!("example.toml"));
        return ExitCode::SUCCESS;
    }
    let config = match configuration(&arguments) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    for warning in words::warnings(&config) {
        eprintln!("warning: {warning}");
    }
    if arguments.check {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    match run(builder(&arguments, config), &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The configuration, with all that it needs of this machine.
fn configuration(arguments: &Arguments) -> Result<NodeConfig, String> {
    let path = arguments.config.as_deref().unwrap_or_else(|| Path::new("node.toml"));
    let text = fs::read_to_string(path).map_err(|error| {
        format!("{}: {error}; `failover --example` prints a file to begin with", path.display())
    })?;
    let mut config = NodeConfig::read(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if let Some(node) = arguments.node {
        config.node = pils::NodeId::new(node);
    }
    builder(arguments, config.clone()).check().map_err(|errors| format!("{}: {errors}", path.display()))?;
    Ok(config)
}

fn builder(arguments: &Arguments, config: NodeConfig) -> NodeBuilder {
    Node::builder(config).ocf_root(&arguments.ocf_root)
}

fn run(builder: NodeBuilder, arguments: &Arguments) -> Result<(), String> {
    let snapshot = arguments.snapshot.as_deref();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| error.to_string())?;
    let node = builder.start().map_err(|error| error.to_string())?;
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
            if signal == SIGHUP {
                match configuration(arguments) {
                    Ok(config) => {
                        reload_keys(&node, &config);
                        reload_resources(&node, config.resources);
                    }
                    Err(error) => eprintln!("the keys were not taken over, nor were resources: {error}"),
                }
                continue;
            }
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

/// Has the cluster run what the changed file says. What comes of it, the events tell.
fn reload_resources(node: &Node, wanted: ocf_resource::Config) {
    let agreed = match node.configuration() {
        Ok(Some(agreed)) => agreed,
        Ok(None) => return eprintln!("resources: this node is no member yet"),
        Err(error) => return eprintln!("resources: {error}"),
    };
    // Which nodes need access follows from their fence devices, which are not changed by this.
    let (revision, access) = (wanted.revision, wanted.access.clone());
    if (ocf_resource::Config { revision, access, ..agreed }) == wanted {
        return;
    }
    if let Err(error) = node.command(ocf_resource::Command::Configure(wanted.into())) {
        eprintln!("resources: {error}");
    }
}

/// Takes over the keys of the changed file. What is wrong with it is said, and the node goes on as it was.
fn reload_keys(node: &Node, config: &NodeConfig) {
    match node.reload_keys(config) {
        Ok(()) => {
            let state = |k: &ocf_comm::KeyStatus| {
                if k.sends { format!("{} (sends)", k.id) } else { k.id.to_string() }
            };
            let keys: Vec<String> = node.keys().iter().map(state).collect();
            println!("keys: {}", words::list(&keys));
        }
        Err(error) => eprintln!("the keys were not taken over: {error}"),
    }
}

/// Replaces the snapshot file as a whole, so that a reader never sees half of one.
fn write_snapshot(node: &Node, path: &Path) -> Result<(), String> {
    let snapshot = node.snapshot().map_err(|error| error.to_string())?;
    let text = serde_json::to_string_pretty(&snapshot).map_err(|error| error.to_string())?;
    let new = path.with_extension("new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    written.map_err(|error| format!("{}: {error}", path.display()))
}
