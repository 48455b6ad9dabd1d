//! Goal: a class of agents of the user is as good as one of this crate: loaded by its name, from a folder, in any language.
//! Method: the example in Python, whose resource is a file.
#![cfg(all(feature = "driver", feature = "testing"))]
#![expect(clippy::disallowed_methods, reason = "it meets real processes in real time")]

use ocf_resource::driver::Descriptions;
use ocf_resource::testing::check_agent;
use ocf_resource::{
    AGENT_CLASS, Action, AgentError, AgentName, Agents, Config, GroupConfig, Operation, OperationResult,
    Outcome, ResourceConfig,
};
use pils::plugin::{Loader, Universe};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use std::{env, fs};

const LONG: Duration = Duration::from_secs(60);

/// A folder with the class `markers`, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("agent-classes-{name}-{}", std::process::id()));
        let classes = folder.join(AGENT_CLASS);
        fs::create_dir_all(&classes).expect("a folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/marker_class.py");
        fs::copy(script, classes.join("markers")).expect("a copy");
        let broken = classes.join("broken");
        fs::write(&broken, "#!/bin/sh\nexit 3\n").expect("a file");
        fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("its own file");
        Self(folder)
    }

    fn agents(&self) -> Agents {
        let loader = Loader::new(&Universe::new());
        loader.add_folder(&self.0);
        Agents::of(&loader).expect("a new universe")
    }

    fn operation(&self, action: Action, more: &[(&str, &str)]) -> Operation {
        let file = ("file", self.0.join("marker").display().to_string());
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let parameters: BTreeMap<String, String> =
            core::iter::once(file).chain(more).map(|(name, value)| (name.to_owned(), value)).collect();
        Operation {
            parameters: Arc::new(parameters),
            timeout: Duration::from_secs(2),
            ..Operation::new("test", marker(), action)
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}

fn marker() -> AgentName {
    "markers:marker".parse().expect("a name")
}

fn run(agents: &Agents, operation: &Operation) -> OperationResult {
    let (tell, told) = channel();
    let agent = agents.find(&operation.agent).expect("it is there");
    let _canceller =
        agent.begin(operation, Box::new(move |result| tell.send(result).expect("the test listens")));
    told.recv_timeout(LONG).expect("an answer")
}

#[test]
#[ignore = "needs python3"]
fn a_class_in_a_program_is_loaded_by_its_name_and_its_agent_keeps_the_rules() {
    let folder = Folder::new("rules");
    let agents = folder.agents();
    assert_eq!(
        (agents.classes(), agents.list()),
        (vec!["broken".into(), "markers".into()], vec![]),
        "not loaded yet"
    );
    let agent = agents.find(&marker()).expect("it is loaded");
    assert_eq!(agents.list(), [marker()]);
    check_agent(&*agent, &folder.operation(Action::Monitor, &[])).expect("it keeps the rules of an agent");
    let result = run(&agents, &folder.operation(Action::Monitor, &[]));
    assert!(result.explain().contains("marker is not there"), "{result:?}");
}

#[test]
#[ignore = "needs python3"]
fn an_operation_of_a_loaded_class_ends_in_time_and_when_it_is_cancelled() {
    let folder = Folder::new("slow");
    let agents = folder.agents();
    let slow = folder.operation(Action::Start, &[("delay_ms", "60000")]);
    let begun = Instant::now();
    assert_eq!(run(&agents, &slow).outcome, Outcome::TimedOut);
    let (tell, told) = channel();
    let agent = agents.find(&marker()).expect("it is there");
    agent.begin(&slow, Box::new(move |result| tell.send(result).expect("the test listens"))).cancel();
    assert_eq!(told.recv_timeout(LONG).expect("an answer").outcome, Outcome::Cancelled);
    assert!(begun.elapsed() < LONG / 2, "both ended long before the agent would have");
}

#[test]
fn a_class_that_is_nowhere_or_does_not_load_is_an_error_that_says_so() {
    let folder = Folder::new("wrong");
    let agents = folder.agents();
    let error = |name: &str| agents.find(&name.parse().expect("a name")).err().expect("there is none");
    let unknown = error("nowhere:marker");
    assert_eq!(unknown.to_string(), "no agent class \"nowhere\"; known are broken, markers");
    let broken = error("broken:marker");
    assert!(
        matches!(&broken, AgentError::ClassNotLoaded { detail, .. } if detail.contains("exit status: 3")),
        "{broken}"
    );
}

#[test]
#[ignore = "needs python3"]
fn what_a_resource_lacks_by_its_agents_own_words_is_told_before_anything_runs() {
    let folder = Folder::new("lacks");
    let agents = folder.agents();
    let resource = |name: &str, parameters: &[(&str, &str)]| ResourceConfig {
        parameters: parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        ..ResourceConfig::new(name, marker())
    };
    let first = vec![resource("a", &[("fil", "/x"), ("delay_ms", "long")]), resource("b", &[("file", "/x")])];
    let second = vec![resource("c", &[])];
    let config = Config {
        groups: vec![GroupConfig::new("one", first), GroupConfig::new("two", second)],
        ..Config::default()
    };
    let (marker, missing) = (marker(), "markers:none".parse().expect("a name"));
    let errors = Descriptions::new().check(&config, &agents, &BTreeSet::from([&marker, &missing]));
    let told: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "groups[0].resources[0].parameters.file: is missing and has no default; write file = \"...\": path of the file",
            "groups[0].resources[0].parameters.delay_ms: is not a whole number; write a number",
            "groups[0].resources[0].parameters.fil: is not a parameter of this agent; choose among file, delay_ms",
            "groups[1].resources[0].parameters.file: is missing and has no default; write file = \"...\": path of the file",
        ]
    );
    let nobody = Descriptions::new().check(&config, &agents, &BTreeSet::new());
    assert!(nobody.is_empty(), "what may not run here is not asked");
}
