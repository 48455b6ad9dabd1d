//! Tests whether an agent keeps the rules of OCF: `test_agent /usr/lib/ocf/resource.d/heartbeat/Dummy state=/tmp/d`.
//!
//! The resource is started and stopped: it must be one that nobody needs. Exit status 0 if the agent keeps the rules, 1 if
//! not, 2 if there is no such agent. `--json` prints the verdict for programs.
#![expect(clippy::print_stderr, reason = "a program for people")]

use ocf_resource::driver::{OcfClass, Tester};
use pils::process::Runner;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str =
    "test_agent PATH [NAME=VALUE ..] [--resource NAME] [--timeout SECONDS] [--root DIR] [--json]

PATH is the agent's file. NAME=VALUE are its parameters. The resource is started and stopped several times.
Exit status: 0 the agent keeps the rules, 1 it breaks some, 2 it cannot be tested.";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Result<bool, Box<dyn Error>> {
    let mut words = args.iter();
    let path = words.next().filter(|p| !p.starts_with('-')).ok_or(USAGE)?;
    let path = std::fs::canonicalize(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
    let mut class = OcfClass::new(Runner::new(2)?);
    let (mut resource, mut timeout, mut json) = ("test".to_owned(), 20, false);
    let mut parameters = std::collections::BTreeMap::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--resource" => words.next().ok_or(USAGE)?.clone_into(&mut resource),
            "--timeout" => timeout = words.next().ok_or(USAGE)?.parse()?,
            "--root" => class = class.with_root(words.next().ok_or(USAGE)?),
            pair => {
                let (name, value) = pair.split_once('=').ok_or(USAGE)?;
                parameters.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    let tester = Tester {
        resource: resource.into(),
        parameters,
        timeout: Duration::from_secs(timeout),
        ..Tester::new(class, &path)
    };
    let verdict = tester.run()?;
    let text = if json { serde_json::to_string_pretty(&verdict)? } else { verdict.to_string() };
    // Nobody reads any more if the pipe is closed: that does not change the verdict.
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(verdict.passed),
    }
}
