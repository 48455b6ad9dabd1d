//! Real agents: programs written by the test, and those of the distribution (ignored unless they are installed).
#![cfg(all(feature = "driver", feature = "testing"))]
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]

use ocf_resource::driver::{AgentHost, OcfClass, RustClass, Stateful};
use ocf_resource::executor::RunId;
use ocf_resource::testing::check_agent;
use ocf_resource::{
    Action, AgentClass, AgentError, AgentName, Agents, Metadata, OcfCode, Operation, OperationResult,
    Outcome, Promotion, ResourceAgent, Score, Severity,
};
use pils::field::Fields;
use pils::process::Runner;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn operation(agent: &str, action: Action) -> Operation {
    let timeout = Duration::from_secs(30);
    Operation { timeout, ..Operation::new("r1", agent.parse().unwrap(), action) }
}

/// A directory of its own for each test, with one agent in it.
struct Root(PathBuf);

impl Root {
    fn new(test: &str, name: &str, script: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let directory = root.join("resource.d/test");
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join(name);
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(root)
    }

    fn class(&self) -> OcfClass {
        OcfClass::new(Runner::new(4).unwrap()).with_root(&self.0).with_grace(Duration::from_millis(200))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn run(agent: &dyn ResourceAgent, operation: &Operation) -> OperationResult {
    let (say, said) = mpsc::channel();
    let _canceller = agent.begin(operation, Box::new(move |result| say.send(result).unwrap()));
    said.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn an_agent_is_told_everything_in_its_environment_and_nothing_else() {
    let root = Root::new("environment", "env", "#!/bin/sh\nenv | sort\necho \"$@\"\n");
    let agent = root.class().with_node_name("alpha").find(&"ocf:test:env".parse().unwrap()).unwrap();
    let parameters = BTreeMap::from([("ip".to_owned(), "10.0.0.1 x".to_owned())]);
    let asked = Operation {
        parameters: Arc::new(parameters),
        interval: Some(Duration::from_secs(7)),
        ..operation("ocf:test:env", Action::Monitor)
    };
    let result = run(&*agent, &asked);
    assert_eq!(result.outcome, Outcome::Ok);
    let has = |line: &str| assert!(result.output.lines().any(|l| l == line), "{line} in {}", result.output);
    has(&format!("OCF_ROOT={}", root.0.display()));
    for line in [
        "OCF_RESKEY_ip=10.0.0.1 x",
        "OCF_RESOURCE_INSTANCE=r1",
        "OCF_RESOURCE_TYPE=env",
        "OCF_RESOURCE_PROVIDER=test",
        "OCF_RA_VERSION_MAJOR=1",
        "OCF_RESKEY_CRM_meta_interval=7000",
        "OCF_RESKEY_CRM_meta_timeout=30000",
        "OCF_RESKEY_CRM_meta_name=monitor",
        "OCF_RESKEY_CRM_meta_on_node=alpha",
        "monitor",
    ] {
        has(line);
    }
    assert!(!result.output.contains("CARGO"), "{}", result.output);
}

#[test]
fn codes_reasons_and_output_come_back() {
    let script = "#!/bin/sh\necho out\necho noise >&2\necho 'ocf-exit-reason:no disk' >&2\nexit 5\n";
    let root = Root::new("codes", "bad", script);
    let agent = root.class().find(&"ocf:test:bad".parse().unwrap()).unwrap();
    let result = run(&*agent, &operation("ocf:test:bad", Action::Start));
    assert_eq!(result.outcome, Outcome::Failed { code: OcfCode::NotInstalled });
    assert_eq!(result.reason.as_deref(), Some("no disk"));
    assert!(result.output.starts_with("out\nnoise\n"), "{}", result.output);
}

#[test]
fn a_hanging_agent_is_killed_with_its_children_and_its_output_kept() {
    let root = Root::new("hang", "hang", "#!/bin/sh\necho before\nsleep 1000 &\nwait\n");
    let agent = root.class().find(&"ocf:test:hang".parse().unwrap()).unwrap();
    let asked = Operation { timeout: Duration::from_millis(500), ..operation("ocf:test:hang", Action::Stop) };
    let result = run(&*agent, &asked);
    assert_eq!(result.outcome, Outcome::TimedOut);
    assert_eq!(result.output, "before\n");
}

#[test]
fn a_missing_agent_is_an_error_that_names_the_place() {
    let root = Root::new("missing", "there", "");
    let class = root.class();
    let missing: AgentName = "ocf:test:absent".parse().unwrap();
    let error = class.find(&missing).map(drop).unwrap_err();
    let place = root.0.join("resource.d/test/absent");
    assert_eq!(error, AgentError::AgentMissing { agent: missing, looked_at: vec![place.clone()] });
    assert!(error.to_string().contains(&place.display().to_string()));
    std::fs::set_permissions(root.0.join("resource.d/test/there"), std::fs::Permissions::from_mode(0o644))
        .unwrap();
    let plain = class.find(&"ocf:test:there".parse().unwrap()).map(drop);
    assert!(matches!(plain, Err(AgentError::NotExecutable { .. })), "{plain:?}");
    let wrong = class.find(&"ocf:there".parse().unwrap()).map(drop);
    assert!(matches!(wrong, Err(AgentError::WrongForm { .. })), "{wrong:?}");
    assert!(class.list().is_empty());
}

#[test]
fn a_program_without_its_interpreter_is_a_start_error() {
    let root = Root::new("interpreter", "odd", "#!/does/not/exist\n");
    let agent = root.class().find(&"ocf:test:odd".parse().unwrap()).unwrap();
    let result = run(&*agent, &operation("ocf:test:odd", Action::Start));
    assert!(matches!(result.outcome, Outcome::NotStarted(AgentError::Start { .. })), "{result:?}");
}

#[test]
fn the_host_reports_every_run_once_even_of_unknown_agents_and_cancelled_ones() {
    let root = Root::new("host", "slow", "#!/bin/sh\nsleep 1000\n");
    let stateful = Stateful::new();
    let rust = RustClass::new().with("stateful", Arc::new(stateful.clone()));
    let agents = Agents::new().with("ocf", Arc::new(root.class())).with("rust", Arc::new(rust));
    let (say, said) = mpsc::channel();
    let host = AgentHost::new(agents, move |done| say.send(done).unwrap());
    host.run(RunId(1), &operation("ocf:test:none", Action::Start));
    host.run(RunId(2), &operation("lsb:none", Action::Start));
    host.run(RunId(3), &operation("ocf:test:slow", Action::Start));
    host.run(RunId(4), &operation("rust:stateful", Action::Start));
    host.cancel(RunId(3));
    let mut outcomes = BTreeMap::new();
    for _ in 0..4 {
        let done = said.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(outcomes.insert(done.run.0, done.result.outcome).is_none());
    }
    assert!(matches!(outcomes[&1], Outcome::NotStarted(AgentError::AgentMissing { .. })));
    assert!(matches!(outcomes[&2], Outcome::NotStarted(AgentError::UnknownClass { .. })));
    assert_eq!(outcomes[&3], Outcome::Cancelled);
    assert_eq!(outcomes[&4], Outcome::Ok);
    assert!(stateful.is_running("r1"));
}

/// Describes itself, and writes down what else it is called with.
const DESCRIBED: &str = r#"#!/bin/sh
if [ "$1" = meta-data ]; then
    [ ! -e "$0.slow" ] || sleep 20
    cat "$0.xml"
    exit 0
fi
echo "$1" >>"$0.calls"
"#;

const DESCRIPTION: &str = r#"<resource-agent name="x"><version>1.1</version><parameters>
    <parameter name="port" required="1"><content type="integer"/></parameter></parameters>
    <actions><action name="start"/><action name="stop"/><action name="monitor"/><action name="notify"/></actions>
    </resource-agent>"#;

#[test]
fn an_agent_is_not_started_with_parameters_that_do_not_fit_its_description() {
    let root = Root::new("described", "x", DESCRIBED);
    let beside = |end: &str| root.0.join("resource.d/test").join(format!("x.{end}"));
    std::fs::write(beside("xml"), DESCRIPTION).unwrap();
    let (say, said) = mpsc::channel();
    let agents = Agents::new().with("ocf", Arc::new(root.class()));
    let host = AgentHost::new(agents, move |done| say.send(done).unwrap());
    let mut last = 0;
    let mut ask = |action, parameters: &[(&str, &str)]| {
        last += 1;
        let parameters = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let operation = Operation { parameters: Arc::new(parameters), ..operation("ocf:test:x", action) };
        host.run(RunId(last), &operation);
        let done = said.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(done.run, RunId(last));
        done.result.outcome
    };
    let wrong = ask(Action::Start, &[("prot", "geheim")]);
    let Outcome::NotStarted(error @ AgentError::Parameters { .. }) = &wrong else { panic!("{wrong:?}") };
    let text = error.to_string();
    assert!(text.contains("port is missing") && text.contains("prot is not a parameter"), "{text}");
    assert!(!text.contains("geheim"), "a value may be a secret: {text}");
    assert_eq!(error.severity(), Severity::Hard);
    // What runs has to be found, and stopped, whatever was written down.
    assert_eq!(ask(Action::Monitor, &[("prot", "1")]), Outcome::Ok);
    assert_eq!(ask(Action::Stop, &[("prot", "1")]), Outcome::Ok);
    assert_eq!(ask(Action::Start, &[("port", "80")]), Outcome::Ok);
    assert_eq!(ask(Action::Notify, &[("port", "80")]), Outcome::Ok);
    let unimplemented = Outcome::Failed { code: OcfCode::Unimplemented };
    assert_eq!(ask(Action::MigrateTo, &[("port", "80")]), unimplemented);
    // The agent is replaced by one that takes more: nothing is refused by its old description.
    let more = DESCRIPTION.replace("</parameters>", r#"<parameter name="more"/></parameters>"#);
    std::fs::write(beside("xml"), more).unwrap();
    assert_eq!(ask(Action::Start, &[("port", "80"), ("more", "1")]), Outcome::Ok);
    let calls = std::fs::read_to_string(beside("calls")).unwrap();
    assert_eq!(calls.lines().collect::<Vec<_>>(), ["monitor", "stop", "start", "notify", "start"]);
}

#[test]
fn a_start_that_is_cancelled_while_its_agent_describes_itself_is_never_begun() {
    let root = Root::new("undescribed", "x", DESCRIBED);
    let beside = |end: &str| root.0.join("resource.d/test").join(format!("x.{end}"));
    std::fs::write(beside("slow"), "").unwrap();
    let (say, said) = mpsc::channel();
    let agents = Agents::new().with("ocf", Arc::new(root.class()));
    let host = AgentHost::new(agents, move |done| say.send(done).unwrap());
    host.run(RunId(1), &operation("ocf:test:x", Action::Start));
    host.cancel(RunId(1));
    let done = said.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!((done.run, done.result.outcome), (RunId(1), Outcome::Cancelled));
    assert!(!beside("calls").exists());
    assert!(said.try_recv().is_err(), "reported twice");
}

#[test]
fn the_in_process_example_keeps_the_rules() {
    let class = RustClass::new().with("stateful", Arc::new(Stateful::new()));
    let agent = class.find(&"rust:stateful".parse().unwrap()).unwrap();
    check_agent(&*agent, &operation("rust:stateful", Action::Monitor)).unwrap();
}

#[test]
fn the_suite_notices_an_agent_that_cannot_tell_stopped_from_failed() {
    let root = Root::new("suite", "liar", "#!/bin/sh\n[ \"$1\" != monitor ] || exit 1\n");
    let agent = root.class().find(&"ocf:test:liar".parse().unwrap()).unwrap();
    let broken = check_agent(&*agent, &operation("ocf:test:liar", Action::Monitor)).unwrap_err();
    assert!(broken.iter().any(|b| b.step == "description"), "{broken:?}");
    assert!(broken.iter().any(|b| b.step == "monitor of a stopped resource"), "{broken:?}");
}

/// An operation of a resource with roles.
fn with_roles(agent: &str, action: Action) -> Operation {
    let meta = BTreeMap::from([("promotable".to_owned(), "true".to_owned())]);
    Operation { meta: Arc::new(meta), ..operation(agent, action) }
}

#[test]
fn what_an_agent_says_of_promoting_its_resource_comes_with_the_result() {
    let script = "#!/bin/sh\ncase $1 in\n\
        start) $HA_SBIN_DIR/crm_master -l reboot -v 5 ;;\n\
        promote) $HA_SBIN_DIR/crm_attribute --promotion -v INFINITY ;;\n\
        monitor) $HA_SBIN_DIR/crm_master -G --quiet ;;\n\
        notify) $HA_SBIN_DIR/crm_master -N elsewhere -v 9 ;;\n\
        demote) $HA_SBIN_DIR/crm_master -v much ;;\n\
        stop) $HA_SBIN_DIR/crm_master -l reboot -D ;;\nesac\n";
    let root = Root::new("promotion", "roles", script);
    let class = root.class().with_node_name("alpha").with_promotion(root.0.join("promotion")).unwrap();
    let agent = class.find(&"ocf:test:roles".parse().unwrap()).unwrap();
    let says = |action| {
        let result = run(&*agent, &with_roles("ocf:test:roles", action));
        (result.promotion, result.outcome, result.output)
    };
    let score = |number| Some(Promotion::Score(Score::new(number)));
    assert_eq!(says(Action::Monitor).0, None, "nothing was said yet");
    assert_eq!(says(Action::Start), (score(5), Outcome::Ok, String::new()));
    assert_eq!(says(Action::Promote).0, score(1_000_000));
    assert_eq!(says(Action::Monitor), (score(1_000_000), Outcome::Ok, "INFINITY\n".to_owned()));
    let elsewhere = says(Action::Notify);
    assert_eq!((elsewhere.0, elsewhere.1), (score(1_000_000), Outcome::Failed { code: OcfCode::Generic }));
    assert_eq!(says(Action::Demote).0, None, "what is no score is none");
    assert_eq!(says(Action::Stop).0, Some(Promotion::Withdrawn));
    // A start forgets what was said before it, and a resource without roles has no score.
    assert_eq!(says(Action::Start).0, score(5));
    let plain = run(&*agent, &operation("ocf:test:roles", Action::Start));
    assert_eq!((plain.promotion, plain.outcome == Outcome::Ok), (None, false));
}

#[test]
#[ignore = "needs the resource agents of the distribution, and root"]
fn the_stateful_agents_of_the_distribution_say_which_copy_to_promote() {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stateful-{}", std::process::id()));
    for (name, low, high) in [("ocf:heartbeat:Stateful", 5, 10), ("ocf:pacemaker:Stateful", 5, 10)] {
        let class = OcfClass::new(Runner::new(4).unwrap()).with_promotion(&place).unwrap();
        let agent = class.find(&name.parse().unwrap()).unwrap();
        let state = place.join("state").display().to_string();
        let says = |action| {
            let parameters = Arc::new(BTreeMap::from([("state".to_owned(), state.clone())]));
            let result = run(&*agent, &Operation { parameters, ..with_roles(name, action) });
            assert!(result.outcome == Outcome::Ok || action == Action::Monitor, "{name} {action} {result:?}");
            result.promotion
        };
        let score = |number| Some(Promotion::Score(Score::new(number)));
        assert_eq!(says(Action::Start), score(low), "{name}");
        assert_eq!(says(Action::Promote), score(high), "{name}");
        assert_eq!(says(Action::Monitor), score(high), "{name}");
        assert_eq!(says(Action::Demote), score(low), "{name}");
        assert_eq!(says(Action::Stop), Some(Promotion::Withdrawn), "{name}");
    }
    std::fs::remove_dir_all(&place).unwrap();
}

fn description(agent: &dyn ResourceAgent) -> Metadata {
    let (say, said) = mpsc::channel();
    let tell = move |answer: Result<Metadata, AgentError>| say.send(answer).unwrap();
    let _canceller = agent.metadata(Duration::from_secs(30), Box::new(tell));
    said.recv_timeout(Duration::from_secs(60)).unwrap().unwrap()
}

/// What they say where their hardware, or what they steer, is missing: nothing runs, and nothing is worth another attempt here.
#[test]
#[ignore = "needs the resource agents of the distribution, and root"]
fn agents_for_hardware_that_is_not_here_describe_themselves_and_refuse() {
    let class = OcfClass::new(Runner::new(4).unwrap());
    for (name, given) in [
        ("ServeRAID", [("serveraid", "1"), ("mergegroup", "1")]),
        ("ICP", [("driveid", "c0b0t0d0"), ("device", "/dev/nothing-there")]),
        ("ldirectord", [("configfile", "/nothing-there.cf"), ("ldirectord", "/nothing-there")]),
    ] {
        let full = format!("ocf:heartbeat:{name}");
        let agent = class.find(&full.parse().unwrap()).unwrap();
        let metadata = description(&*agent);
        let parameters: BTreeMap<String, String> =
            given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        metadata.check_parameters(&parameters).unwrap();
        for action in [Action::ValidateAll, Action::Start] {
            let asked = Operation { parameters: Arc::new(parameters.clone()), ..operation(&full, action) };
            let result = run(&*agent, &asked);
            assert_ne!(result.outcome, Outcome::Ok, "{name} {action}: {result:?}");
        }
        let asked = Operation { parameters: Arc::new(parameters), ..operation(&full, Action::Monitor) };
        let seen = run(&*agent, &asked).outcome;
        let refuses = seen.severity() == Severity::Hard;
        assert!(refuses || seen == Outcome::Failed { code: OcfCode::NotRunning }, "{name}: {seen:?}");
    }
}

/// Without the module of the kernel: nothing of it runs here, and the score that says which copy to promote is withdrawn.
#[test]
#[ignore = "needs drbd-utils of the distribution, and root"]
fn the_agent_of_drbd_describes_itself_refuses_without_its_module_and_withdraws_its_score() {
    let name = "ocf:linbit:drbd";
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("drbd-{}", std::process::id()));
    let class = OcfClass::new(Runner::new(4).unwrap()).with_promotion(&place).unwrap();
    let agent = class.find(&name.parse().unwrap()).unwrap();
    let metadata = description(&*agent);
    assert!(["promote", "demote", "notify"].iter().all(|action| metadata.supports(action)), "{metadata:?}");
    let given = BTreeMap::from([("drbd_resource".to_owned(), "r0".to_owned())]);
    metadata.check_parameters(&given).unwrap();
    metadata.check_parameters(&BTreeMap::new()).unwrap_err();
    let parameters = Arc::new(given);
    let result = |action| {
        let mut asked = Operation { parameters: Arc::clone(&parameters), ..with_roles(name, action) };
        for (key, value) in [("notify", "true"), ("clone_max", "2"), ("clone_node_max", "1")] {
            Arc::make_mut(&mut asked.meta).insert(key.to_owned(), value.to_owned());
        }
        run(&*agent, &asked)
    };
    for action in [Action::ValidateAll, Action::Monitor, Action::Start] {
        let refused = result(action);
        assert_eq!(refused.outcome, Outcome::Failed { code: OcfCode::NotInstalled }, "{action}: {refused:?}");
        assert_eq!(refused.reason.as_deref(), Some("DRBD kernel (module) not available?"), "{action}");
        assert_eq!(refused.outcome.severity(), Severity::Hard, "no other attempt here is worth it");
    }
    let stopped = result(Action::Stop);
    assert_eq!((stopped.outcome, stopped.promotion), (Outcome::Ok, Some(Promotion::Withdrawn)));
    std::fs::remove_dir_all(&place).unwrap();
}

/// With a virtual server in its file, whether the kernel here knows of such or not.
#[test]
#[ignore = "needs ldirectord of the distribution, and root"]
fn the_daemon_of_ldirectord_is_started_watched_and_stopped_through_its_agent() {
    let name = "ocf:heartbeat:ldirectord";
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ld-{}.cf", std::process::id()));
    let servers = "checktimeout = 3\ncheckinterval = 1\nautoreload = no\nvirtual = 192.0.2.1:80\n\
        \x20   real = 192.0.2.10:80 gate\n    service = http\n    scheduler = wlc\n    protocol = tcp\n";
    let agent = OcfClass::new(Runner::new(4).unwrap()).find(&name.parse().unwrap()).unwrap();
    let parameters = BTreeMap::from([("configfile".to_owned(), file.display().to_string())]);
    description(&*agent).check_parameters(&parameters).unwrap();
    let template = Operation { parameters: Arc::new(parameters), ..operation(name, Action::ValidateAll) };
    let wrong = Operation { action: Action::Start, ..template.clone() };
    std::fs::write(&file, "virtual = nowhere\n").unwrap();
    assert_ne!(run(&*agent, &wrong).outcome, Outcome::Ok, "a file that is wrong is refused");
    std::fs::write(&file, servers).unwrap();
    assert_eq!(run(&*agent, &template).outcome, Outcome::Ok);
    let says = |action| run(&*agent, &Operation { action, ..template.clone() }).outcome;
    let stopped = Outcome::Failed { code: OcfCode::NotRunning };
    assert_eq!((says(Action::Stop), says(Action::Monitor)), (Outcome::Ok, stopped.clone()));
    assert_eq!((says(Action::Start), says(Action::Monitor)), (Outcome::Ok, Outcome::Ok));
    assert_eq!((says(Action::Start), says(Action::Monitor)), (Outcome::Ok, Outcome::Ok));
    assert_eq!(says(Action::Stop), Outcome::Ok);
    // Its stop says so once the daemon was told, which is before the daemon is gone.
    let gone = (0..100).any(|_| says(Action::Monitor) == stopped);
    std::fs::remove_file(&file).unwrap();
    assert!(gone, "the daemon goes on");
}

#[test]
#[ignore = "needs the resource agents of the distribution, and root"]
fn the_dummy_agent_of_the_distribution_keeps_the_rules() {
    let class = OcfClass::new(Runner::new(4).unwrap());
    let agent = class.find(&"ocf:heartbeat:Dummy".parse().unwrap()).unwrap();
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dummy-{}", std::process::id()));
    let parameters = BTreeMap::from([("state".to_owned(), state.display().to_string())]);
    let template =
        Operation { parameters: Arc::new(parameters), ..operation("ocf:heartbeat:Dummy", Action::Monitor) };
    check_agent(&*agent, &template).unwrap();
    let asked = Operation { interval: Some(Duration::from_secs(10)), ..template };
    let result = run(&*agent, &asked);
    assert_eq!(result.outcome, Outcome::Failed { code: OcfCode::NotRunning });
    assert_eq!(result.reason.as_deref(), Some("No process state file found"));
}

#[test]
#[ignore = "needs the resource agents of the distribution; takes a while"]
fn every_installed_agent_describes_itself() {
    let class = OcfClass::new(Runner::new(2).unwrap());
    let names = class.list();
    assert!(names.len() > 50, "{names:?}");
    let (say, said) = mpsc::channel();
    for name in &names {
        let (say, name) = (say.clone(), name.clone());
        let agent = class.find(&name.clone()).unwrap();
        let _canceller = agent
            .metadata(Duration::from_secs(30), Box::new(move |result| say.send((name, result)).unwrap()));
    }
    let mut wrong = Vec::new();
    let mut parameters = 0;
    for _ in &names {
        let (name, result) = said.recv_timeout(Duration::from_secs(300)).unwrap();
        match result {
            Ok(metadata) => {
                parameters += metadata.parameters.len();
                let fields = metadata.fields();
                assert_eq!(Fields::from_value(&fields.to_value()).as_ref(), Ok(&fields), "{name}");
                assert!(metadata.parameters.iter().all(|p| fields.get(&p.name).is_some()), "{name}");
                pils::testing::check_forms(&fields);
                if !metadata.supports("start") || metadata.summary.is_empty() {
                    wrong.push(format!("{name}: {metadata:?}"));
                }
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(parameters > 500, "{parameters}");
    // Some agents need a program that is not installed even to describe themselves.
    assert!(wrong.len() * 20 < names.len(), "{} of {}: {wrong:#?}", wrong.len(), names.len());
}
