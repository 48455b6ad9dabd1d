//! Runs one action of one resource agent, with no cluster: `run_agent list`, `run_agent ocf:heartbeat:Dummy meta-data`,
//! `run_agent ocf:heartbeat:IPaddr2 start ip=10.0.0.7 --timeout 20`.
#![expect(clippy::print_stderr, reason = "a program for people")]

use ocf_resource::driver::{
    HeartbeatClass, LsbClass, OcfClass, RustClass, ServiceClass, Stateful, SystemdClass,
};
use ocf_resource::{Action, AgentName, Agents, Metadata, OcfCode, Operation, Outcome};
use pils::plugin::{Loader, Universe};
use pils::process::Runner;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
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

const USAGE: &str = "\
run_agent list
run_agent AGENT meta-data
run_agent AGENT ACTION [NAME=VALUE ..] [--resource NAME] [--timeout SECONDS] [--depth LEVEL] [--root DIR]
run_agent .. --plugins FOLDER

AGENT is class:name or class:provider:name, such as ocf:heartbeat:Dummy, lsb:cron or systemd:cron. ACTION is start, stop,
monitor, validate-all, promote, demote, notify, migrate_to, migrate_from, reload or reload-agent. NAME=VALUE are the agent's
parameters.
FOLDER has classes of agents that are not built in, as modules agent-class/NAME.so or programs agent-class/NAME.
The exit status is the agent's own code; 1 if it did not run or did not end in time.";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let (mut words, mut options, mut parameters) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if let Some(option) = arg.strip_prefix("--") {
            let known = ["resource", "timeout", "root", "depth", "plugins"].contains(&option);
            match rest.next().filter(|_| known) {
                Some(value) => options.insert(option, value.as_str()),
                None => return Err(USAGE.into()),
            };
        } else if let Some((name, value)) = arg.split_once('=') {
            parameters.insert(name.to_owned(), value.to_owned());
        } else {
            words.push(arg.as_str());
        }
    }
    let root = options.get("root").copied().unwrap_or(OcfClass::ROOT);
    let runner = Runner::new(4)?;
    let (lsb, systemd) = (LsbClass::new(runner.clone()), SystemdClass::new(runner.clone()));
    let loader = Loader::new(&Universe::new());
    options.get("plugins").iter().for_each(|folder| loader.add_folder(folder));
    let agents = Agents::of(&loader)?
        .with("ocf", Arc::new(OcfClass::new(runner.clone()).with_root(root)))
        .with("lsb", Arc::new(lsb.clone()))
        .with("systemd", Arc::new(systemd.clone()))
        .with("service", Arc::new(ServiceClass::new(lsb, systemd)))
        .with("heartbeat", Arc::new(HeartbeatClass::new(runner)))
        .with("rust", Arc::new(RustClass::new().with("stateful", Arc::new(Stateful::new()))));
    match *words {
        ["list"] => {
            for agent in agents.list() {
                say!("{agent}");
            }
            Ok(ExitCode::SUCCESS)
        }
        [agent, "meta-data"] => describe(&agents, &agent.parse()?),
        [agent, action] => {
            let resource = options.get("resource").copied().unwrap_or("test");
            let seconds: u64 = options.get("timeout").copied().unwrap_or("20").parse()?;
            let operation = Operation {
                parameters: Arc::new(parameters),
                timeout: Duration::from_secs(seconds),
                check_level: options.get("depth").copied().unwrap_or("0").parse()?,
                ..Operation::new(resource, agent.parse()?, action.parse()?)
            };
            act(&agents, &operation)
        }
        _ => Err(USAGE.into()),
    }
}

fn describe(agents: &Agents, name: &AgentName) -> Result<ExitCode, Box<dyn Error>> {
    let (say, said) = mpsc::channel();
    let limit = Duration::from_secs(30);
    let _canceller =
        agents.find(name)?.metadata(limit, Box::new(move |result| say.send(result).unwrap_or_default()));
    let Metadata { summary, description, parameters, actions, version, .. } = said.recv()??;
    say!("{name} {}: {summary}\n\n{description}", version.unwrap_or_default());
    say!("\nparameters");
    for p in &parameters {
        let note = |on: bool, word: &'static str| if on { word } else { "" };
        let notes = format!("{}{}", note(p.required, ", required"), note(p.deprecated, ", deprecated"));
        let default = p.default.as_ref().map(|d| format!(", default {d:?}")).unwrap_or_default();
        say!("  {:<24} {} ({}{notes}{default})", p.name, p.summary, p.kind);
    }
    say!("\nactions");
    for a in &actions {
        let time = |word: &str, t: Option<Duration>| t.map(|t| format!(" {word} {t:?}")).unwrap_or_default();
        say!("  {:<24}{}{}", a.name, time("timeout", a.timeout), time("interval", a.interval));
    }
    Ok(ExitCode::SUCCESS)
}

fn act(agents: &Agents, operation: &Operation) -> Result<ExitCode, Box<dyn Error>> {
    let agent = agents.find(&operation.agent)?;
    let (say, said) = mpsc::channel();
    let _canceller = agent.begin(operation, Box::new(move |result| say.send(result).unwrap_or_default()));
    let result = said.recv()?;
    let Operation { resource, agent, action, .. } = operation;
    let word = match (&result.outcome, action) {
        (Outcome::Ok, Action::Monitor) => "running".to_owned(),
        (Outcome::Failed { code: OcfCode::NotRunning }, Action::Monitor) => "not running".to_owned(),
        (outcome, _) => outcome.to_string(),
    };
    say!("{action} of {resource} ({agent}): {word}, in {:.0?}", result.took);
    if let Some(reason) = &result.reason {
        say!("  the agent's reason: {reason}");
    }
    for line in result.output.lines() {
        say!("  | {line}");
    }
    let code = match &result.outcome {
        Outcome::Ok => 0,
        Outcome::Failed { code } => u8::try_from(code.number()).unwrap_or(1),
        Outcome::Killed { .. } | Outcome::TimedOut | Outcome::NotStarted(_) | Outcome::Cancelled | _ => 1,
    };
    Ok(ExitCode::from(code))
}
