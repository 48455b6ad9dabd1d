//! Agents that hang, flood, ignore signals, fork away or die in the middle: each costs its own time limit and leaves no
//! process behind.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]
#![expect(clippy::disallowed_methods, reason = "a look at processes is repeated until they are there")]

use ocf_resource::driver::{Events, Local, OcfClass, sweep};
use ocf_resource::executor::{Config, Event, OperationId, Request};
use ocf_resource::{
    Action, AgentClass, AgentError, AgentName, Agents, OcfCode, Operation, OperationResult, Outcome,
    ResourceAgent,
};
use pils::process::Runner;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

struct Agent {
    path: PathBuf,
    /// A word that is in the command line of everything that the agent starts.
    mark: String,
}

impl Agent {
    /// `script` with MARK replaced by a word that no other process on this machine has.
    fn new(test: &str, script: &str) -> Self {
        static AGENTS: AtomicU32 = AtomicU32::new(10);
        let number = AGENTS.fetch_add(1, Ordering::Relaxed);
        let mark = format!("31{:07}{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("h-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("agent");
        std::fs::write(&path, script.replace("MARK", &mark)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { path, mark }
    }

    fn run(&self, class: &OcfClass, action: Action, timeout: Duration) -> OperationResult {
        let (name, agent) = self.open(class);
        let (say, said) = mpsc::channel();
        let operation = Operation { timeout, ..Operation::new("r", name, action) };
        let _canceller = agent.begin(&operation, Box::new(move |result| say.send(result).unwrap()));
        said.recv_timeout(Duration::from_secs(120)).unwrap()
    }

    fn open(&self, class: &OcfClass) -> (AgentName, Arc<dyn ResourceAgent>) {
        class.open(&self.path).unwrap()
    }

    /// Living processes with the mark in their command line.
    fn living(&self) -> Vec<String> {
        let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = all.filter_map(|e| {
            let line = std::fs::read(e.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        lines.filter(|line| line.contains(&self.mark)).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.path.parent().unwrap()).unwrap_or_default();
    }
}

fn class() -> OcfClass {
    OcfClass::new(Runner::new(4).unwrap()).with_grace(Duration::from_millis(100))
}

/// Long enough for a script to come to the point at which it hangs, on a machine that is busy.
const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn a_child_in_the_background_in_a_session_of_its_own_is_found_and_ended() {
    let agent = Agent::new(
        "away",
        "#!/bin/sh\nsetsid sleep MARK </dev/null >/dev/null 2>&1 &\n(setsid sh -c 'trap \"\" TERM HUP; sleep MARK; sleep MARK' </dev/null >/dev/null 2>&1 &)\necho ready\nsleep MARK\n",
    );
    let result = agent.run(&class(), Action::Start, TIMEOUT);
    assert_eq!((result.outcome, result.output.as_str()), (Outcome::TimedOut, "ready\n"));
    assert!(result.left_behind >= 3, "{}", result.left_behind);
    assert_eq!(agent.living(), [""; 0]);
}

#[test]
fn a_child_that_cleared_its_environment_is_found_by_its_parent_or_its_session() {
    let agent = Agent::new(
        "cleared",
        "#!/bin/sh\nsetsid sh -c 'env -i sleep MARK & env -i sleep MARK & wait' </dev/null >/dev/null 2>&1 &\necho ready\nsleep MARK\n",
    );
    let result = agent.run(&class(), Action::Start, TIMEOUT);
    assert_eq!((result.outcome, result.output.as_str()), (Outcome::TimedOut, "ready\n"));
    assert_eq!(agent.living(), [""; 0]);
}

#[test]
fn an_agent_that_ignores_sigterm_is_killed_and_one_that_floods_costs_no_memory() {
    let agent = Agent::new("deaf", "#!/bin/sh\ntrap '' TERM\nwhile :; do echo MARK MARK MARK MARK; done\n");
    let result = agent.run(&class(), Action::Monitor, TIMEOUT);
    assert_eq!(result.outcome, Outcome::TimedOut);
    assert!(result.output.len() <= 128 * 1024 && result.output.contains("3"), "{}", result.output.len());
    assert_eq!(agent.living(), [""; 0]);
}

#[test]
fn an_agent_that_dies_in_the_middle_of_a_line_is_reported_with_what_it_said() {
    let agent =
        Agent::new("dies", "#!/bin/sh\nprintf 'half a li'\nprintf 'ocf-exit-reason:bad' >&2\nkill -9 $$\n");
    let result = agent.run(&class(), Action::Start, Duration::from_secs(60));
    assert_eq!(result.outcome, Outcome::Killed { signal: 9 });
    assert_eq!(
        (result.output.as_str(), result.reason.as_deref()),
        ("half a liocf-exit-reason:bad", Some("bad"))
    );
}

#[test]
fn a_cancelled_run_leaves_nothing_either() {
    let agent = Agent::new(
        "cancel",
        "#!/bin/sh\nsetsid sleep MARK </dev/null >/dev/null 2>&1 &\ntouch $0.up\nsleep MARK\n",
    );
    let class = class();
    let (name, found) = agent.open(&class);
    let (say, said) = mpsc::channel();
    let operation =
        Operation { timeout: Duration::from_secs(600), ..Operation::new("r", name, Action::Start) };
    let canceller = found.begin(&operation, Box::new(move |result| say.send(result).unwrap()));
    while !agent.path.with_file_name("agent.up").exists() || agent.living().len() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    canceller.cancel();
    assert_eq!(said.recv_timeout(Duration::from_secs(120)).unwrap().outcome, Outcome::Cancelled);
    assert_eq!(agent.living(), [""; 0]);
}

#[test]
fn what_a_start_leaves_running_lives_on_and_what_a_monitor_leaves_is_ended_when_asked_to_be_strict() {
    let agent =
        Agent::new("leaves", "#!/bin/sh\nsetsid sleep MARK </dev/null >/dev/null 2>&1 &\nsleep 0.1\n");
    let strict = class().strict();
    let result = agent.run(&strict, Action::Start, Duration::from_secs(60));
    assert_eq!((result.outcome, result.left_behind), (Outcome::Ok, 0));
    assert_eq!(agent.living().len(), 1, "the service lives");
    let result = agent.run(&strict, Action::Monitor, Duration::from_secs(60));
    assert_eq!((result.outcome, result.left_behind), (Outcome::Ok, 1));
    assert_eq!(result.reason.as_deref(), Some("left 1 processes behind"));
    assert_eq!(agent.living().len(), 1, "the service lives still");
    // This process is the last that knows of it.
    let pid = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).find(|e| {
        std::fs::read(e.path().join("cmdline"))
            .is_ok_and(|l| String::from_utf8_lossy(&l).contains(&agent.mark))
    });
    let environment = std::fs::read(pid.unwrap().path().join("environ")).unwrap();
    let text = String::from_utf8_lossy(&environment).into_owned();
    let tag = text.split('\0').find_map(|v| v.strip_prefix("OCF_RUN_TAG=")).unwrap();
    assert_eq!(sweep(tag).killed, 1);
    assert_eq!(agent.living(), [""; 0]);
}

#[test]
fn an_agent_that_exits_with_a_code_beyond_ocf_keeps_its_code() {
    let agent = Agent::new("odd", "#!/bin/sh\nexit 42\n");
    let result = agent.run(&class(), Action::Stop, Duration::from_secs(60));
    assert_eq!(result.outcome, Outcome::Failed { code: OcfCode::Other(42) });
}

/// The class whose only agent this is.
struct Only(OcfClass, PathBuf);

impl AgentClass for Only {
    fn find(&self, _agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        self.0.open(&self.1).map(|(_, agent)| agent)
    }

    fn list(&self) -> Vec<AgentName> {
        Vec::new()
    }
}

/// Hangs when it is to describe itself, and does everything else.
const MUTE: &str = "#!/bin/sh\n[ $1 != meta-data ] || { touch $0.asked; setsid sleep MARK; }\n";

#[test]
fn an_agent_that_hangs_when_it_is_to_describe_itself_does_not_hold_up_its_start() {
    let agent = Agent::new("mute", MUTE);
    let agents = Agents::new().with("only", Arc::new(Only(class(), agent.path.clone())));
    let (tell, events) = Events::channel();
    let local = Local::open(agents, Config::default(), None, tell).unwrap();
    // A quarter of that is for the description.
    let timeout = Duration::from_secs(16);
    let operation = Operation { timeout, ..Operation::new("r", "only:one".parse().unwrap(), Action::Start) };
    local.request(Request::Run { id: OperationId(1), operation });
    match events.next(Duration::from_secs(120)) {
        Some(Event::Finished { result, .. }) => assert_eq!(result.outcome, Outcome::Ok, "{result:?}"),
        other => panic!("{other:?}"),
    }
    assert!(agent.path.with_extension("asked").exists(), "it was asked");
    assert_eq!(agent.living(), [""; 0]);
}

#[test]
fn no_agent_that_describes_itself_outlives_its_executor() {
    for (test, action) in [("mute-start", Action::Start), ("mute-probe", Action::Monitor)] {
        let agent = Agent::new(test, MUTE);
        // The class, and with it whoever runs its processes, outlives the executor.
        let class = class();
        let agents = Agents::new().with("only", Arc::new(Only(class.clone(), agent.path.clone())));
        let (tell, _events) = Events::channel();
        let local = Local::open(agents, Config::default(), None, tell).unwrap();
        let timeout = Duration::from_secs(400);
        let operation = Operation { timeout, ..Operation::new("r", "only:one".parse().unwrap(), action) };
        local.request(Request::Run { id: OperationId(1), operation });
        let until = |what: &str, limit: u64, done: &dyn Fn() -> bool| {
            let end = std::time::Instant::now() + Duration::from_secs(limit);
            while !done() {
                assert!(std::time::Instant::now() < end, "{action}: {what}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        until("it is not asked", 60, &|| !agent.living().is_empty());
        drop(local);
        // By itself it would end after 30 s.
        until("it lives on", 25, &|| agent.living().is_empty());
        drop(class);
    }
}
