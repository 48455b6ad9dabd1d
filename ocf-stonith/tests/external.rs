//! Scripts in the manner of cluster-glue: played by shell scripts, and those that Debian ships.
#![expect(clippy::print_stdout, reason = "what was seen is worth a line")]

use ocf_stonith::driver::{Classes, DeviceHost, installed_externals, query_external};
use ocf_stonith::{AttemptId, Config, DeviceResult, Failure, FenceAction, ReadBack, Run};
use pils::process::Runner;
use pils::{Incarnation, NodeId, NodeInstance};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);

const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$* [$hostlist] [$HOME]" >>log
case $1 in
gethosts) echo $hostlist ;;
on|off|reset) [ "$2" = good ] || { echo "no plug, password $passwd" >&2; exit 1; } ;;
status) exit 0 ;;
*) exit 3 ;;
esac
"#;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("external-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let own = Self(dir);
        own.write(SCRIPT, 0o755);
        own
    }

    fn write(&self, text: &str, mode: u32) {
        fs::write(self.script(), text).expect("a file");
        fs::set_permissions(self.script(), fs::Permissions::from_mode(mode)).expect("its own file");
    }

    fn script(&self) -> PathBuf {
        self.0.join("script")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}

fn config(script: &Path, plug: &str, more: &str) -> Config {
    let text = format!(
        "[[devices]]\nname = 'x'\nclass = 'external'\nnodes = [{{ node = 2, plug = '{plug}' }}]\n\
         [devices.parameters]\nscript = '{}'\nhostlist = 'good other'\npasswd = 'geheim'\n{more}",
        script.display()
    );
    toml::from_str(&text).expect("a well-formed test configuration")
}

fn ask(config: &Config, action: FenceAction, timeout: Duration) -> DeviceResult {
    let (tell, told) = channel();
    let runner = Runner::new(2).expect("a thread");
    let report = move |report| tell.send(report).expect("the test listens");
    let host = DeviceHost::new(config, &Classes::default(), &runner, report).expect("devices");
    let node = NodeId::new(2);
    let target = NodeInstance::new(node, Incarnation::new(7));
    let about_node = !matches!(action, FenceAction::Monitor | FenceAction::List);
    let plug = config.devices[0].target(node).and_then(|t| t.plug).filter(|_| about_node);
    let plug = plug.map(Into::into);
    host.run(Run { attempt: AttemptId(1), device: "x".into(), action, target, plug, timeout });
    told.recv_timeout(timeout + LONG).expect("an answer").result
}

fn read(result: DeviceResult) -> ReadBack {
    match result {
        DeviceResult::Done { read_back, .. } => read_back,
        wrong @ (DeviceResult::Hosts { .. } | DeviceResult::Failed(_)) => panic!("{wrong:?}"),
    }
}

#[test]
fn a_script_gets_its_action_and_host_and_its_success_is_proof_only_if_the_operator_says_so() {
    let dir = Scratch::new("rules");
    let plain = config(&dir.script(), "good", "");
    assert_eq!(Classes::default().check(&plain), Ok(()));
    let trusted = config(&dir.script(), "good", "verify = 'trust'");
    assert_eq!(read(ask(&plain, FenceAction::Off, LONG)), ReadBack::NotRead);
    assert_eq!(read(ask(&trusted, FenceAction::Off, LONG)), ReadBack::Trusted);
    assert_eq!(read(ask(&trusted, FenceAction::Reboot, LONG)), ReadBack::Trusted);
    assert_eq!(read(ask(&trusted, FenceAction::On, LONG)), ReadBack::NotRead);
    assert_eq!(read(ask(&trusted, FenceAction::Monitor, LONG)), ReadBack::NotRead);
    let hosts = vec!["good".into(), "other".into()];
    assert_eq!(ask(&trusted, FenceAction::List, LONG), DeviceResult::Hosts { hosts });
    let calls = fs::read_to_string(dir.0.join("log")).unwrap();
    let verbs: Vec<_> = calls.lines().filter_map(|l| l.split(" [").next()).collect();
    assert_eq!(verbs, ["getinfo-xml", "off good", "off good", "reset good", "on good", "status", "gethosts"]);
    assert!(
        calls.lines().skip(1).all(|l| l.ends_with("[good other] []")),
        "nothing else of the environment: {calls}"
    );
}

#[test]
fn failures_are_told_without_secrets() {
    let dir = Scratch::new("failures");
    let wrong = config(&dir.script(), "wrong", "verify = 'trust'");
    let DeviceResult::Failed(Failure::Failed { detail }) = ask(&wrong, FenceAction::Off, LONG) else {
        panic!()
    };
    assert_eq!(&*detail, "exit code 1: no plug, password ***");
    let status = ask(&wrong, FenceAction::Status, LONG);
    assert!(matches!(status, DeviceResult::Failed(Failure::Refused { .. })), "{status:?}");
    dir.write("#!/bin/sh\n[ $1 = gethosts ] && exit 0\nsleep 600\n", 0o755);
    let empty = ask(&wrong, FenceAction::List, LONG);
    assert!(matches!(empty, DeviceResult::Failed(Failure::Failed { .. })), "{empty:?}");
    let slow = ask(&wrong, FenceAction::Off, Duration::from_millis(300));
    assert!(matches!(slow, DeviceResult::Failed(Failure::TimedOut { .. })), "{slow:?}");
}

#[test]
fn a_script_that_anybody_may_write_is_not_run() {
    let dir = Scratch::new("unsafe");
    let plain = config(&dir.script(), "good", "verify = 'trust'");
    for mode in [0o777, 0o775, 0o644] {
        dir.write(SCRIPT, mode);
        let refused = ask(&plain, FenceAction::Off, LONG);
        assert!(matches!(refused, DeviceResult::Failed(Failure::Refused { .. })), "{mode:o}: {refused:?}");
        assert!(Classes::default().check(&plain).is_err(), "{mode:o}");
    }
    assert!(!dir.0.join("log").exists());
    fs::remove_file(dir.script()).unwrap();
    let missing = ask(&plain, FenceAction::Off, LONG);
    assert!(matches!(missing, DeviceResult::Failed(Failure::AgentMissing { .. })), "{missing:?}");
}

#[test]
fn what_would_change_the_run_of_a_script_is_refused() {
    let dir = Scratch::new("names");
    let wrong = config(&dir.script(), "good", "verify = 'status'\nPATH = '/x'\nLD_PRELOAD = 'y'\n'a-b' = 1");
    let errors = Classes::default().check(&wrong).unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
    let expected = ["verify", "LD_PRELOAD", "PATH", "a-b"].map(|n| format!("devices[0].parameters.{n}"));
    assert_eq!(paths, expected);
}

#[test]
#[ignore = "needs cluster-glue"]
fn the_parameters_of_every_installed_script_are_understood() {
    let runner = Runner::new(2).unwrap();
    let (tell, told) = channel();
    let scripts = installed_externals();
    assert!(scripts.len() > 10, "only {scripts:?} are installed");
    for name in &scripts {
        let (tell, own) = (tell.clone(), name.clone());
        query_external(&runner, name, LONG, move |m| tell.send((own, m)).expect("the test listens"));
    }
    drop(tell);
    let mut bad = Vec::new();
    for (name, metadata) in told {
        match metadata {
            Ok(m) => {
                println!("{name}: {} parameters", m.parameters.len());
                pils::testing::check_forms(&m.fields());
                if m.parameters.is_empty() {
                    bad.push(format!("{name}: no parameter"));
                }
            }
            Err(error) => bad.push(format!("{name}: {error}")),
        }
    }
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn what_a_script_needs_is_told_before_it_runs() {
    let dir = Scratch::new("needs");
    let described = SCRIPT.replace(
        "status) exit 0 ;;",
        "status) exit 0 ;;\ngetinfo-xml) echo '<parameters><parameter name=\"hostlist\" required=\"1\"/>\
         <parameter name=\"passwd\" required=\"1\"/><parameter name=\"ipaddr\" required=\"1\">\
         <shortdesc lang=\"en\">address of the board</shortdesc></parameter></parameters>' ;;",
    );
    dir.write(&described, 0o755);
    let said = |more: &str| Classes::default().check(&config(&dir.script(), "good", more));
    let errors = said("userid = 'root'").unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["devices[0].parameters.ipaddr", "devices[0].parameters.userid"]);
    assert!(errors.0[0].fix.contains("write ipaddr = \"...\": address of the board"), "{errors}");
    assert_eq!(said("ipaddr = '192.0.2.7'"), Ok(()));
}
