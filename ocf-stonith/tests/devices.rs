//! The devices of this crate against the conformance suite, and the suite against devices that break its rules.
//! Real time, because devices live in it; no test depends on how fast the machine is.

use ocf_stonith::driver::{Classes, DeviceHost, Manual, NoneClass, Simulated, SimulatedClass};
use ocf_stonith::{
    AttemptId, Capabilities, Config, DeviceReport, DeviceResult, Done, Failure, FenceAction, FenceDevice,
    Operation, ReadBack, Run, testing,
};
use pils::process::Runner;
use pils::{Incarnation, NodeId, NodeInstance};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

fn simulated(script: &str) -> Simulated {
    Simulated::new(script.parse().expect("a script"))
}

fn short() -> testing::Subject {
    testing::Subject { timeout: Duration::from_millis(50), ..testing::Subject::default() }
}

#[test]
fn simulated_devices_keep_the_rules_whatever_their_script() {
    for script in ["confirm", "confirm 5ms", "fail 5ms", "unverified", "still-on; hang", "late 20ms"] {
        testing::check_with(&short(), || simulated(script));
    }
}

#[test]
fn manual_and_absent_devices_keep_the_rules() {
    testing::check_with(&short(), Manual::default);
    let config: Config = toml::from_str("[[devices]]\nname='n'\nclass='none'\nnodes='all'").unwrap();
    let runner = Runner::new(1).unwrap();
    testing::check(|| {
        ocf_stonith::driver::DeviceClass::open(&NoneClass, &config.devices[0], &runner).unwrap()
    });
}

/// Switches nothing, and claims what it is made with.
#[derive(Debug)]
struct Claims(Option<ReadBack>);

impl FenceDevice for Claims {
    fn capabilities(&self) -> Capabilities {
        Capabilities { actions: vec![FenceAction::Off, FenceAction::Status], verifies_off: true }
    }

    fn execute(&self, operation: Operation, done: Done) {
        if !self.capabilities().allows(operation.action) {
            done(DeviceResult::Failed(Failure::Refused { detail: "".into() }));
        } else if let Some(read_back) = self.0.clone() {
            let status = operation.action == FenceAction::Status;
            let read_back = if status { ReadBack::On } else { read_back };
            done(DeviceResult::Done { read_back, detail: "".into() });
        }
    }

    fn cancel(&self, _: AttemptId) {}
}

#[test]
#[should_panic(expected = "it can verify, and did not")]
fn the_suite_finds_a_device_that_does_not_verify() {
    testing::check(|| Claims(Some(ReadBack::NotRead)));
}

#[test]
#[should_panic(expected = "off was confirmed, and status says")]
fn the_suite_finds_a_device_that_lies() {
    testing::check(|| Claims(Some(ReadBack::Off)));
}

#[test]
#[should_panic(expected = "off was dropped without an answer")]
fn the_suite_finds_a_device_that_forgets() {
    testing::check(|| Claims(None));
}

fn host(config: &str, classes: &Classes) -> (DeviceHost, Receiver<DeviceReport>) {
    let config: Config = toml::from_str(config).expect("a well-formed test configuration");
    assert_eq!(classes.check(&config), Ok(()));
    let (tell, told) = channel();
    let runner = Runner::new(4).expect("a thread");
    let report = move |report| tell.send(report).expect("the test listens");
    (DeviceHost::new(&config, classes, &runner, report).expect("devices"), told)
}

fn run(attempt: u64, device: &str, action: FenceAction) -> Run {
    let target = NodeInstance::new(NodeId::new(2), Incarnation::new(7));
    let timeout = Duration::from_secs(10);
    Run { attempt: AttemptId(attempt), device: device.into(), action, target, plug: None, timeout }
}

#[test]
fn a_simulated_device_switches_what_it_is_told_to_before_it_answers() {
    let (tell_power, power_told) = channel();
    let power = move |node: NodeId, on| tell_power.send((node.raw(), on)).expect("the test listens");
    let classes = Classes::default();
    classes.add(Arc::new(SimulatedClass::with_power(power))).expect("nobody uses the other");
    let config =
        "[[devices]]\nname='s'\nclass='simulated'\nnodes='all'\nparameters={script='fail; confirm 10ms'}";
    let (host, told) = host(config, &classes);
    host.run(run(1, "s", FenceAction::Off));
    assert!(matches!(told.recv_timeout(LONG).unwrap().result, DeviceResult::Failed(_)));
    host.run(run(2, "s", FenceAction::Off));
    let report = told.recv_timeout(LONG).unwrap();
    assert_eq!(report.attempt, AttemptId(2));
    assert!(matches!(report.result, DeviceResult::Done { read_back: ReadBack::Off, .. }));
    assert_eq!(power_told.try_iter().collect::<Vec<_>>(), [(2, false)]);
}

#[test]
fn a_late_device_answers_after_it_was_cancelled() {
    let config = "[[devices]]\nname='s'\nclass='simulated'\nnodes='all'\nparameters={script='late 50ms'}";
    let (host, told) = host(config, &Classes::default());
    host.run(run(1, "s", FenceAction::Off));
    host.cancel(AttemptId(1));
    let result = told.recv_timeout(LONG).unwrap().result;
    assert!(matches!(result, DeviceResult::Done { read_back: ReadBack::Off, .. }), "{result:?}");
}

#[test]
fn a_person_confirms_through_the_manual_device() {
    let config = "[[devices]]\nname='m'\nclass='manual'\nnodes='all'";
    let (host, told) = host(config, &Classes::default());
    assert!(!host.confirm(NodeId::new(2), "ann"), "nobody was asked yet");
    host.run(run(1, "m", FenceAction::Off));
    assert!(!host.confirm(NodeId::new(3), "ann"), "asked about another node");
    assert!(host.confirm(NodeId::new(2), "ann"));
    let DeviceResult::Done { read_back, .. } = told.recv_timeout(LONG).unwrap().result else {
        panic!("no success")
    };
    assert_eq!(read_back, ReadBack::Operator { who: "ann".into() });
}

#[test]
fn class_none_confirms_only_what_the_operator_assumes() {
    let config = "
        [[devices]]\nname='honest'\nclass='none'\nnodes='all'
        [[devices]]\nname='brave'\nclass='none'\nnodes='all'\nparameters={assume_fenced=true}";
    let (host, told) = host(config, &Classes::default());
    for (device, expected) in [("honest", ReadBack::NotRead), ("brave", ReadBack::Assumed)] {
        host.run(run(1, device, FenceAction::Off));
        let DeviceResult::Done { read_back, detail } = told.recv_timeout(LONG).unwrap().result else {
            panic!("{device} failed")
        };
        assert_eq!(read_back, expected);
        assert!(detail.contains("may go on writing"), "it says what it gives up: {detail}");
    }
}

#[derive(Debug)]
struct Panics;

impl FenceDevice for Panics {
    fn capabilities(&self) -> Capabilities {
        Capabilities { actions: vec![FenceAction::Off], verifies_off: true }
    }
    fn execute(&self, _: Operation, _: Done) {
        panic!("a bug in a device");
    }
    fn cancel(&self, _: AttemptId) {}
}

#[derive(Debug)]
struct PanicsClass;

impl ocf_stonith::driver::DeviceClass for PanicsClass {
    fn name(&self) -> &str {
        "panics"
    }
    fn describe(&self) -> &str {
        "has a bug"
    }
    fn check(&self, _: &ocf_stonith::DeviceConfig, _: &mut pils::ConfigErrors) {}
    fn open(
        &self,
        _: &ocf_stonith::DeviceConfig,
        _: &Runner,
    ) -> Result<Arc<dyn FenceDevice>, pils::ConfigErrors> {
        Ok(Arc::new(Panics))
    }
}

#[test]
fn every_run_is_reported_whatever_the_device_does() {
    let classes = Classes::default();
    classes.add(Arc::new(PanicsClass)).expect("a good name");
    let config = "
        [[devices]]\nname='p'\nclass='panics'\nnodes='all'
        [[devices]]\nname='m'\nclass='manual'\nnodes='all'";
    let (host, told) = host(config, &classes);
    host.run(run(1, "p", FenceAction::Off));
    assert!(matches!(told.recv_timeout(LONG).unwrap().result, DeviceResult::Failed(Failure::Failed { .. })));
    host.run(run(2, "p", FenceAction::On));
    assert!(matches!(told.recv_timeout(LONG).unwrap().result, DeviceResult::Failed(Failure::Refused { .. })));
    host.run(run(3, "absent", FenceAction::Off));
    let missing = Failure::DeviceMissing { device: "absent".into() };
    assert_eq!(told.recv_timeout(LONG).unwrap().result, DeviceResult::Failed(missing));
    host.run(run(4, "m", FenceAction::Off));
    host.cancel(AttemptId(4));
    let cancelled = DeviceReport { attempt: AttemptId(4), result: DeviceResult::Failed(Failure::Cancelled) };
    assert_eq!(told.recv_timeout(LONG).unwrap(), cancelled);
}

#[test]
fn a_configuration_is_checked_against_this_machine_all_at_once() {
    let config: Config = toml::from_str(
        r#"
        [[devices]]
        name = "a"
        class = "fence_agent"
        nodes = [{ node = 1 }, { node = 2, plug = "2" }]
        parameters = { agent = "fence_virt_no_such", verify = "maybe", action = "off", password = "two\nlines" }
        [[devices]]
        name = "b"
        class = "fence_agents"
        nodes = "all"
        [[devices]]
        name = "c"
        class = "none"
        nodes = "all"
        parameters = { assume_fenced = "perhaps", assume = true }
        [[devices]]
        name = "d"
        class = "simulated"
        nodes = "all"
        parameters = { script = "explode" }
        [[devices]]
        name = "e"
        class = "fence_agent"
        nodes = "all"
        "#,
    )
    .unwrap();
    let config = Config { round_budget_ms: 300_000, ..config };
    let errors = Classes::default().check(&config).unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "devices[0].parameters.verify",
            "devices[0].parameters.action",
            "devices[0].parameters.password",
            "devices[0].nodes[0].plug",
            "devices[0].parameters.agent",
            "devices[1].class",
            "devices[2].parameters.assume",
            "devices[2].parameters.assume_fenced",
            "devices[3].parameters.script",
            "devices[4].parameters.agent",
            "devices[4].nodes",
        ]
    );
    let text = errors.to_string();
    assert!(text.contains("install the package fence-agents"), "{text}");
    assert!(!text.contains("two"), "a secret is not repeated: {text}");
}
