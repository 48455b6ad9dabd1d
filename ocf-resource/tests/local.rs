//! Resources on one node, with no cluster: what an executor knows outlives it, and failures are seen by whoever comes next.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]
#![expect(clippy::disallowed_methods, reason = "a look is repeated until something has happened")]

use ocf_resource::driver::{Events, Local, OcfClass};
use ocf_resource::executor::{Config, Event, OperationId, Request, WatchPolicy};
use ocf_resource::{Action, Agents, OcfCode, Operation, OperationResult, Outcome};
use pils::process::Runner;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);

struct Folder(PathBuf);

impl Folder {
    fn new(test: &str, script: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("l-{test}-{}", std::process::id()));
        let agents = path.join("resource.d/t");
        std::fs::create_dir_all(&agents).unwrap();
        let file = agents.join("service");
        std::fs::write(&file, script.replace("FOLDER", path.to_str().unwrap())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn agents(&self) -> Agents {
        let class =
            OcfClass::new(Runner::new(4).unwrap()).with_root(&self.0).with_grace(Duration::from_millis(100));
        Agents::new().with("ocf", Arc::new(class))
    }

    fn open(&self) -> (Local, Events) {
        let (tell, events) = Events::channel();
        let record = Some(self.0.join("record"));
        (Local::open(self.agents(), Config::default(), record, tell).unwrap(), events)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn operation(action: Action) -> Operation {
    Operation { timeout: LONG, ..Operation::new("r", "ocf:t:service".parse().unwrap(), action) }
}

/// Runs as long as its process does; a zombie, which a first process that reaps none leaves, does not run.
const SERVICE: &str = "#!/bin/sh\ncase $1 in\n\
    start) setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $! >FOLDER/pid;;\n\
    stop) kill -9 $(cat FOLDER/pid) 2>/dev/null; exit 0;;\n\
    monitor) grep -qs '^State:.[^Z]' /proc/$(cat FOLDER/pid)/status || exit 7;;\nesac\n";

#[test]
fn a_service_and_its_monitor_outlive_the_executor() {
    let folder = Folder::new("outlive", SERVICE);
    // Of a name of its own: an executor ends what is left of an interrupted operation by the name of the resource.
    let own = |action| Operation { resource: "outliving".into(), ..operation(action) };
    let (first, events) = folder.open();
    first.request(Request::Run { id: OperationId(1), operation: own(Action::Start) });
    let Some(Event::Finished { result, .. }) = events.next(LONG) else { panic!("no answer") };
    assert_eq!(result.outcome, Outcome::Ok);
    let watch = Operation { interval: Some(Duration::from_millis(100)), ..own(Action::Monitor) };
    first.request(Request::Watch { id: OperationId(2), operation: watch, policy: WatchPolicy::default() });
    while first.load().ended < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(first);
    let (second, events) = folder.open();
    assert_eq!(second.load().watches, 1);
    while second.load().ended < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = std::fs::read_to_string(folder.path("pid")).unwrap();
    assert!(Path::new("/proc").join(pid.trim()).exists(), "the service lives");
    let killed = std::process::Command::new("/bin/kill").args(["-9", pid.trim()]).status().unwrap();
    assert!(killed.success());
    let Some(Event::Failed { id, result, .. }) = events.next(LONG) else { panic!("no failure") };
    assert_eq!((id, result.outcome), (OperationId(2), Outcome::Failed { code: OcfCode::NotRunning }));
    second.request(Request::Run { id: OperationId(3), operation: own(Action::Stop) });
    assert!(matches!(events.next(LONG), Some(Event::Finished { .. })));
    drop(second);
    let (third, _events) = folder.open();
    assert_eq!(third.load().watches, 0, "what was stopped is forgotten");
}

#[test]
fn an_operation_that_was_interrupted_is_ended_and_told() {
    let folder = Folder::new(
        "interrupted",
        "#!/bin/sh\n[ $1 = start ] || exit 3\necho $$ >FOLDER/pid\nsetsid sleep 600 </dev/null >/dev/null 2>&1\n",
    );
    // The process that asked is gone in the middle of it: its record stays, and so does the agent.
    let (first, _events) = folder.open();
    first.request(Request::Run { id: OperationId(1), operation: operation(Action::Start) });
    while std::fs::read_to_string(folder.path("pid")).map_or(true, |t| !t.ends_with('\n')) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let record = std::fs::read(folder.path("record")).unwrap();
    std::mem::forget(first);
    let pid = std::fs::read_to_string(folder.path("pid")).unwrap();
    std::fs::write(folder.path("record"), record).unwrap();
    let (_second, events) = folder.open();
    let Some(Event::Interrupted { operation }) = events.next(LONG) else { panic!("not told") };
    assert_eq!((operation.action, &*operation.resource), (Action::Start, "r"));
    let gone = || {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
        stat.map_or(true, |s| s.contains(") Z "))
    };
    assert!(gone(), "the agent is at work still");
}

#[test]
fn a_damaged_record_is_an_error_and_not_a_clean_slate() {
    let folder = Folder::new("damaged", SERVICE);
    std::fs::write(folder.path("record"), b"{\"r\": ").unwrap();
    let (tell, _events) = Events::channel();
    let error =
        Local::open(folder.agents(), Config::default(), Some(folder.path("record")), tell).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn a_failure_told_from_outside_reaches_whoever_watches() {
    let folder = Folder::new("told", SERVICE);
    let (local, events) = folder.open();
    let watch = Operation { interval: Some(LONG), ..operation(Action::Monitor) };
    local.request(Request::Watch { id: OperationId(7), operation: watch, policy: WatchPolicy::default() });
    let mut result = OperationResult::new(Outcome::Failed { code: OcfCode::Generic });
    result.reason = Some("the disk says so".to_owned());
    local.request(Request::Fail { resource: "r".into(), result: result.clone() });
    assert_eq!(
        events.next(LONG),
        Some(Event::Failed { id: OperationId(7), resource: "r".into(), result: result.clone() })
    );
    local.request(Request::Fail { resource: "r".into(), result: result.clone() });
    assert_eq!(events.next(LONG), Some(Event::Notified { resource: "r".into(), result }));
}
