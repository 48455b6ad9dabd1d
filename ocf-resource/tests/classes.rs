//! The classes other than OCF: init scripts, heartbeat's scripts and systemd's units, against programs the test writes. No
//! systemd runs here, so `systemctl` is a program that answers as it does.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]

use ocf_resource::driver::{HeartbeatClass, LsbClass, OcfClass, ServiceClass, SystemdClass};
use ocf_resource::{
    Action, AgentClass, Metadata, OcfCode, Operation, OperationResult, Outcome, ResourceAgent, Role,
};
use pils::process::Runner;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("c-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn begin(agent: &dyn ResourceAgent, operation: &Operation) -> OperationResult {
    let (say, said) = mpsc::channel();
    let _canceller = agent.begin(operation, Box::new(move |result| say.send(result).unwrap()));
    said.recv_timeout(Duration::from_secs(120)).unwrap()
}

fn act(class: &dyn AgentClass, name: &str, action: Action) -> OperationResult {
    let name = name.parse().unwrap();
    let agent = class.find(&name).unwrap();
    begin(&*agent, &Operation { timeout: Duration::from_secs(60), ..Operation::new("r", name, action) })
}

fn describe(class: &dyn AgentClass, name: &str) -> Metadata {
    let (say, said) = mpsc::channel();
    let agent = class.find(&name.parse().unwrap()).unwrap();
    let _canceller =
        agent.metadata(Duration::from_secs(100), Box::new(move |result| say.send(result).unwrap()));
    said.recv_timeout(Duration::from_secs(120)).unwrap().unwrap()
}

fn code(n: i32) -> Outcome {
    Outcome::Failed { code: OcfCode::new(n) }
}

#[test]
fn an_init_script_is_started_stopped_and_judged_by_the_codes_of_its_status() {
    let folder = Folder::new("lsb");
    let state = folder.0.join("state");
    let script = format!(
        "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: web\n# Short-Description: serves pages\n### END INIT INFO\n\
         case $1 in start) echo 0 >{s};; stop) echo 3 >{s};; status) exit $(cat {s});; *) exit 3;; esac\n",
        s = state.display()
    );
    folder.put("init/web", &script);
    let class = LsbClass::new(Runner::new(2).unwrap()).with_directory(folder.0.join("init"));
    assert_eq!(class.list(), ["lsb:web".parse().unwrap()]);
    assert_eq!(act(&class, "lsb:web", Action::Start).outcome, Outcome::Ok);
    assert_eq!(act(&class, "lsb:web", Action::Monitor).outcome, Outcome::Ok);
    assert_eq!(act(&class, "lsb:web", Action::Stop).outcome, Outcome::Ok);
    for (status, meaning) in [(1, 7), (2, 7), (3, 7), (4, 1), (5, 5), (150, 150)] {
        std::fs::write(&state, status.to_string()).unwrap();
        assert_eq!(act(&class, "lsb:web", Action::Monitor).outcome, code(meaning), "status {status}");
    }
    assert_eq!(act(&class, "lsb:web", Action::Promote).outcome, code(3));
    assert_eq!(describe(&class, "lsb:web").summary, "serves pages");
}

#[test]
fn a_script_of_heartbeat_gets_its_arguments_in_order_and_is_judged_by_its_words() {
    let folder = Folder::new("hb");
    let state = folder.0.join("state");
    let script = format!(
        "#!/bin/sh\ncase $3 in start) echo \"$1/$2 is running\" >{s};; stop) echo stopped >{s};; status) cat {s}; exit 9;; esac\n",
        s = state.display()
    );
    folder.put("one", &script);
    let class = HeartbeatClass::new(Runner::new(2).unwrap()).with_directories(vec![folder.0.clone()]);
    let name = "heartbeat:one".parse().unwrap();
    let agent = class.find(&name).unwrap();
    let run = |action| {
        let parameters = [("2".to_owned(), "second".to_owned()), ("1".to_owned(), "first".to_owned())];
        let parameters = Arc::new(parameters.into());
        begin(&*agent, &Operation { parameters, ..Operation::new("r", name.clone(), action) })
    };
    assert_eq!(run(Action::Start).outcome, Outcome::Ok);
    let seen = run(Action::Monitor);
    assert_eq!((seen.outcome, seen.output.as_str()), (Outcome::Ok, "first/second is running\n"));
    assert_eq!(run(Action::Stop).outcome, Outcome::Ok);
    assert_eq!(run(Action::Monitor).outcome, code(7));
}

/// A `systemctl` for one folder of unit states.
fn systemctl(folder: &Folder) -> PathBuf {
    let script = format!(
        "#!/bin/sh\ncd {}/units || exit 1\neval unit=\\$$#\ncase $1 in\n\
         start) echo active >$unit;; stop) echo inactive >$unit;; reload) echo reloading >$unit;;\n\
         show) if [ -e $unit ]; then echo LoadState=loaded; echo ActiveState=$(cat $unit); echo Description=a unit; \
         else echo LoadState=not-found; echo ActiveState=inactive; fi;;\n*) exit 1;; esac\n",
        folder.0.display()
    );
    folder.put("systemctl", &script)
}

#[test]
fn a_unit_of_systemd_is_judged_by_its_active_state() {
    let folder = Folder::new("systemd");
    folder.put("units/web.service", "inactive\n");
    folder.put("units/data.mount", "failed\n");
    let class = SystemdClass::new(Runner::new(2).unwrap())
        .with_systemctl(systemctl(&folder))
        .with_folders(vec![folder.0.join("units")]);
    let names: Vec<String> = class.list().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["systemd:data.mount", "systemd:web.service"]);
    assert_eq!(act(&class, "systemd:web", Action::Monitor).outcome, code(7));
    assert_eq!(act(&class, "systemd:web", Action::Start).outcome, Outcome::Ok);
    assert_eq!(act(&class, "systemd:web.service", Action::Monitor).outcome, Outcome::Ok);
    assert_eq!(act(&class, "systemd:web", Action::Reload).outcome, Outcome::Ok);
    assert_eq!(act(&class, "systemd:web", Action::Monitor).outcome, Outcome::Ok);
    let failed = act(&class, "systemd:data.mount", Action::Monitor);
    assert_eq!((failed.outcome, failed.reason.as_deref()), (code(1), Some("the unit is failed (loaded)")));
    assert_eq!(act(&class, "systemd:none", Action::Monitor).outcome, code(5));
    assert_eq!(act(&class, "systemd:none", Action::ValidateAll).outcome, code(5));
    assert_eq!(describe(&class, "systemd:web").summary, "a unit");
}

#[test]
fn a_service_is_the_init_script_if_there_is_one_and_the_unit_otherwise() {
    let folder = Folder::new("service");
    folder.put("units/b.service", "active\n");
    folder.put("init/a", "#!/bin/sh\nexit 3\n");
    let runner = Runner::new(2).unwrap();
    let lsb = LsbClass::new(runner.clone()).with_directory(folder.0.join("init"));
    let systemd = SystemdClass::new(runner)
        .with_systemctl(systemctl(&folder))
        .with_folders(vec![folder.0.join("units")]);
    let class = ServiceClass::new(lsb, systemd);
    assert_eq!(act(&class, "service:a", Action::Monitor).outcome, code(7));
    assert_eq!(act(&class, "service:b", Action::Monitor).outcome, Outcome::Ok);
}

#[test]
fn every_action_of_ocf_reaches_the_agent_with_its_role_depth_and_notice() {
    let folder = Folder::new("ocf");
    folder.put("resource.d/t/env", "#!/bin/sh\necho $1\nenv\nexit 8\n");
    let class = OcfClass::new(Runner::new(2).unwrap()).with_root(&folder.0).with_trace(&folder.0);
    let name = "ocf:t:env".parse().unwrap();
    let agent = class.find(&name).unwrap();
    for action in Action::ALL {
        let asked = Operation {
            check_level: 20,
            role: Some(Role::Promoted),
            meta: Arc::new([("notify-type".to_owned(), "pre".to_owned())].into()),
            ..Operation::new("r", name.clone(), action)
        };
        let result = begin(&*agent, &asked);
        assert_eq!(result.outcome, code(8));
        assert!(asked.is_met_by(&result.outcome));
        for line in [
            action.word(),
            "OCF_CHECK_LEVEL=20",
            "OCF_RESKEY_CRM_meta_role=Promoted",
            "OCF_RESKEY_CRM_meta_notify_type=pre",
            "OCF_TRACE_RA=1",
        ] {
            assert!(result.output.lines().any(|l| l == line), "{line} in {}", result.output);
        }
    }
}

#[test]
#[ignore = "needs the resource agents of the distribution, and root"]
fn an_agent_of_the_distribution_writes_its_trace() {
    let folder = Folder::new("trace");
    let class = OcfClass::new(Runner::new(2).unwrap()).with_trace(&folder.0);
    assert_eq!(act(&class, "ocf:heartbeat:Dummy", Action::Monitor).outcome, code(7));
    let files: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let text = std::fs::read_to_string(&files[0]).unwrap();
    assert!(text.contains("monitor"), "{text}");
}
