//! Levels, plugs, unfencing, drills, health and priorities of the fencing core in virtual time: each test plays the devices.

use ocf_stonith::{
    AttemptId, Authority, Cause, Config, DeviceReport, DeviceResult, DrillError, Event, Failure, FenceAction,
    FenceRequest, Fencer, Input, Outcome, Output, ReadBack, Run, Sabotage, State, UnfenceError,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::time::Duration;

const TWO_SUPPLIES: &str = "
    round_budget_ms = 60000
    retry_pause_ms = 1000
    passes_max = 2
    answer_grace_ms = 500
    [[devices]]
    name = 'bmc'
    class = 'simulated'
    timeout_ms = 2000
    nodes = [{ node = 2 }, { node = 3 }]
    [[devices]]
    name = 'pdu-a'
    class = 'simulated'
    timeout_ms = 2000
    nodes = [{ node = 2, plug = 'a2' }]
    [[devices]]
    name = 'pdu-b'
    class = 'simulated'
    timeout_ms = 2000
    nodes = [{ node = 2, plug = 'b2' }]
    [[levels]]
    index = 2
    nodes = [2]
    devices = ['bmc']
    [[levels]]
    index = 1
    nodes = [2]
    devices = ['pdu-a', 'pdu-b']
";

const NODE_2: NodeInstance = NodeInstance::new(NodeId::new(2), Incarnation::new(7 << 96));

struct Bench {
    fencer: Fencer,
    now: Instant,
    runs: Vec<Run>,
    cancelled: Vec<AttemptId>,
    events: Vec<Event>,
}

impl Bench {
    fn new(config: &str) -> Self {
        let config: Config = toml::from_str(config).expect("a well-formed test configuration");
        assert_eq!(config.check(), Ok(()));
        let mut fencer = Fencer::new(config, NodeId::new(1), Rng::new(1));
        fencer.set_authority(Instant::ZERO, Authority::Granted);
        Self { fencer, now: Instant::ZERO, runs: vec![], cancelled: vec![], events: vec![] }
    }

    fn drain(&mut self) {
        while let Some(output) = self.fencer.poll_output() {
            match output {
                Output::Run(run) => self.runs.push(run),
                Output::Cancel { attempt } => self.cancelled.push(attempt),
                Output::Event(event) => self.events.push(event),
                other => panic!("unexpected {other:?}"),
            }
        }
        self.fencer.check_invariants();
    }

    fn request(&mut self, target: NodeInstance, action: FenceAction) {
        let cause = Cause::Lost { why: "silent".into() };
        self.fencer.request(self.now, FenceRequest { target, action, cause }).expect("it is taken");
        self.drain();
    }

    /// Checks that the newest order is this one, and answers it.
    fn answer(&mut self, device: &str, action: FenceAction, result: DeviceResult) {
        let run = self.runs.last().expect("an order").clone();
        assert_eq!((&*run.device, run.action), (device, action), "{:?}", self.events);
        self.now += Duration::from_millis(10);
        self.fencer.handle(self.now, Input::Device(DeviceReport { attempt: run.attempt, result }));
        self.drain();
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.fencer.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.fencer.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.events
            .iter()
            .find_map(|e| if let Event::Finished { outcome, .. } = e { Some(outcome) } else { None })
    }
}

fn done(read_back: ReadBack) -> DeviceResult {
    DeviceResult::Done { read_back, detail: "".into() }
}

fn failed() -> DeviceResult {
    DeviceResult::Failed(Failure::Failed { detail: "no route".into() })
}

use FenceAction::{List, Monitor, Off, On, Reboot, Status};
use ReadBack::{NotRead, Off as IsOff, On as IsOn};

#[test]
fn both_supplies_are_switched_off_and_read_again_before_the_node_is_fenced_and_then_both_on() {
    let mut b = Bench::new(TWO_SUPPLIES);
    b.request(NODE_2, Reboot);
    assert_eq!(b.runs[0].plug.as_deref(), Some("a2"));
    b.answer("pdu-a", Off, done(IsOff));
    b.answer("pdu-b", Off, done(IsOff));
    assert_eq!(b.outcome(), None, "the first one is read again");
    b.answer("pdu-a", Status, done(IsOff));
    let Some(Outcome::Confirmed { evidence }) = b.outcome() else { panic!("{:?}", b.events) };
    assert_eq!((&*evidence.device, &evidence.read_back), ("pdu-a+pdu-b", &IsOff));
    let on: Vec<_> = b.runs[3..].iter().map(|r| (&*r.device, r.action)).collect();
    assert_eq!(on, [("pdu-a", On), ("pdu-b", On)], "on everywhere, only after off everywhere");
}

#[test]
fn one_supply_that_fails_ends_its_level_and_the_next_level_is_tried() {
    let mut b = Bench::new(TWO_SUPPLIES);
    b.request(NODE_2, Off);
    b.answer("pdu-a", Off, done(IsOff));
    b.answer("pdu-b", Off, failed());
    b.answer("bmc", Off, failed());
    b.pass(1000);
    b.answer("pdu-b", Off, done(IsOff));
    b.answer("pdu-a", Status, done(IsOff));
    assert!(b.outcome().is_some_and(Outcome::is_confirmed), "{:?}", b.events);
    let record = b.fencer.history().iter().next().expect("a record").clone();
    let tries: Vec<_> = record.tries.iter().map(|t| (&*t.device, t.action, t.failure.is_none())).collect();
    let expected = [
        ("pdu-a", Off, true),
        ("pdu-b", Off, false),
        ("bmc", Off, false),
        ("pdu-b", Off, true),
        ("pdu-a", Status, true),
    ];
    assert_eq!(tries, expected, "a supply that is off is not switched off again");
    let told = record.to_string();
    assert!(told.contains("lost: silent") && told.contains("a2 pdu-b off 10ms: no route"), "{told}");
}

#[test]
fn a_supply_that_was_switched_on_meanwhile_is_seen_and_without_the_second_look_it_would_not_be() {
    let mut b = Bench::new(TWO_SUPPLIES);
    b.request(NODE_2, Off);
    b.answer("pdu-a", Off, done(IsOff));
    b.answer("pdu-b", Off, done(IsOff));
    // An order of another node, given before it lost its authority, came through.
    b.answer("pdu-a", Status, done(IsOn));
    assert_eq!(b.outcome(), None);
    b.answer("bmc", Off, done(IsOff));
    let Some(Outcome::Confirmed { evidence }) = b.outcome() else { panic!("{:?}", b.events) };
    assert_eq!(&*evidence.device, "bmc");

    let mut b = Bench::new(TWO_SUPPLIES);
    b.fencer.sabotage(Sabotage::NoSecondLook);
    b.request(NODE_2, Off);
    b.answer("pdu-a", Off, done(IsOff));
    b.answer("pdu-b", Off, done(IsOff));
    assert!(b.outcome().is_some_and(Outcome::is_confirmed), "the bug confirms a node that may live");
}

#[test]
fn a_supply_that_cannot_tell_leaves_the_level_unconfirmed() {
    let mut b = Bench::new(TWO_SUPPLIES);
    b.request(NODE_2, Off);
    b.answer("pdu-a", Off, done(NotRead));
    b.answer("pdu-b", Off, done(IsOff));
    b.answer("bmc", Off, failed());
    assert!(matches!(b.outcome(), Some(Outcome::Requested { .. })), "{:?}", b.events);
    b.pass(600_000);
    assert_eq!(b.runs.len(), 3, "an order that was taken is not given again");
}

#[test]
fn an_order_to_switch_on_ends_before_the_next_life_is_fenced() {
    let next = NodeInstance::new(NODE_2.node, Incarnation::new(8 << 96));
    let mut b = Bench::new(TWO_SUPPLIES);
    b.request(NODE_2, Reboot);
    b.answer("pdu-a", Off, done(IsOff));
    b.answer("pdu-b", Off, done(IsOff));
    b.answer("pdu-a", Status, done(IsOff));
    let [a, other] = [b.runs[3].attempt, b.runs[4].attempt];
    b.answer("pdu-b", On, done(IsOn));
    assert_eq!(b.runs.len(), 5);
    b.request(next, Off);
    assert_eq!(b.cancelled, [a], "{other} has ended");
    assert_eq!(b.runs.len(), 5, "nothing is switched off while it may still be switched on");
    let result = DeviceResult::Failed(Failure::Cancelled);
    b.fencer.handle(b.now, Input::Device(DeviceReport { attempt: a, result }));
    b.drain();
    b.answer("pdu-a", Off, done(IsOff));

    let mut b = Bench::new(TWO_SUPPLIES);
    b.request(NODE_2, Reboot);
    b.answer("pdu-a", Off, done(IsOff));
    b.answer("pdu-b", Off, done(IsOff));
    b.answer("pdu-a", Status, done(IsOff));
    b.request(next, Off);
    b.pass(2499);
    assert_eq!(b.runs.len(), 5);
    b.pass(1);
    assert_eq!(b.runs.len(), 6, "one that does not answer is waited for as long as it may last");

    let mut b = Bench::new(TWO_SUPPLIES);
    b.fencer.sabotage(Sabotage::SwitchOnMeanwhile);
    b.request(NODE_2, Reboot);
    b.answer("pdu-a", Off, done(IsOff));
    b.answer("pdu-b", Off, done(IsOff));
    b.answer("pdu-a", Status, done(IsOff));
    b.request(next, Off);
    assert_eq!(b.runs.len(), 6, "the bug does not wait");
}

#[test]
fn the_more_important_node_survives_a_tie() {
    let text = "priority_delay_ms = 5000\n[[devices]]\nname = 'x'\nclass = 'simulated'\nnodes = 'all'";
    let mut b = Bench::new(text);
    b.fencer.set_priority(NodeId::new(1), 10);
    b.fencer.set_priority(NodeId::new(2), 20);
    b.request(NODE_2, Off);
    b.pass(4999);
    assert!(b.runs.is_empty(), "node 2 is more important: it shoots first if it lives");
    b.pass(1);
    assert_eq!(b.runs.len(), 1);
    let mut b = Bench::new(text);
    b.fencer.set_priority(NodeId::new(1), 20);
    b.request(NODE_2, Off);
    assert_eq!(b.runs.len(), 1);
}

const FABRIC: &str = "
    [[devices]]
    name = 'bmc'
    class = 'simulated'
    nodes = [{ node = 2 }]
    timeout_ms = 2000
    [[devices]]
    name = 'switch'
    class = 'simulated'
    nodes = [{ node = 2, plug = 'p7' }]
    timeout_ms = 2000
    unfence = true
";

#[test]
fn a_node_gets_its_access_before_it_may_run_anything() {
    let mut b = Bench::new(FABRIC);
    b.fencer.unfence(b.now, NODE_2).unwrap();
    b.drain();
    assert_eq!(b.runs.len(), 1, "power is not access");
    b.answer("switch", On, failed());
    b.answer("switch", On, done(IsOn));
    assert_eq!(b.events.last(), Some(&Event::Unfenced { target: NODE_2 }));
    let other = NodeInstance::new(NodeId::new(3), Incarnation::new(1 << 96));
    b.fencer.unfence(b.now, other).unwrap();
    b.drain();
    assert_eq!(b.events.last(), Some(&Event::Unfenced { target: other }), "nothing takes access from it");
}

#[test]
fn access_is_not_given_to_a_node_that_is_fenced_or_without_authority() {
    let mut b = Bench::new(FABRIC);
    b.fencer.unfence(b.now, NODE_2).unwrap();
    b.drain();
    let giving = b.runs[0].attempt;
    b.request(NODE_2, Off);
    assert_eq!(b.cancelled, [giving]);
    assert_eq!(b.fencer.unfence(b.now, NODE_2), Err(UnfenceError::BeingFenced(NODE_2.node)));
    assert_eq!(b.runs.len(), 1, "off waits until on has ended");
    // It was on its way and came through all the same: that is no access to rely on.
    b.answer("switch", On, done(IsOn));
    let told = b.events.iter().any(|e| matches!(e, Event::UnfenceFailed { failure: Failure::Cancelled, .. }));
    assert!(told, "{:?}", b.events);
    b.answer("bmc", Off, done(IsOff));
    assert_eq!(b.fencer.unfence(b.now, NODE_2), Err(UnfenceError::Fenced(NODE_2)));
    b.fencer.set_authority(b.now, Authority::Suspended);
    let next = NodeInstance::new(NODE_2.node, Incarnation::new(8 << 96));
    assert_eq!(b.fencer.unfence(b.now, next), Err(UnfenceError::NoAuthority(next)));
    b.fencer.set_authority(b.now, Authority::Granted);
    b.fencer.unfence(b.now, next).unwrap();
    b.fencer.set_authority(b.now, Authority::Absent);
    b.drain();
    assert!(matches!(b.events.last(), Some(Event::UnfenceFailed { target, .. }) if *target == next));
    b.fencer.set_authority(b.now, Authority::Granted);
    assert_eq!(
        b.fencer.unfence(b.now, next),
        Err(UnfenceError::Busy(next.node)),
        "what was cancelled may still come"
    );
    b.answer("switch", On, done(IsOn));
    b.fencer.unfence(b.now, next).unwrap();
}

#[test]
fn a_reboot_by_a_device_that_takes_access_does_not_give_it_back_to_the_life_that_was_fenced() {
    let asked = |bug: Option<Sabotage>| {
        let mut b = Bench::new(&FABRIC.replace("name = 'bmc'", "name = 'bmc'\n    hosts = 'static'"));
        bug.into_iter().for_each(|bug| b.fencer.sabotage(bug));
        b.request(NODE_2, Reboot);
        b.answer("bmc", Off, failed());
        b.answer("switch", Off, done(IsOff));
        assert!(matches!(b.outcome(), Some(Outcome::Confirmed { .. })), "{:?}", b.events);
        b.runs.iter().filter(|r| r.action == On).map(|r| r.device.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(asked(None), ["bmc"], "power may come back, access comes with the next life");
    assert_eq!(asked(Some(Sabotage::GiveBack)), ["bmc", "switch"], "the bug put back");
}

#[test]
fn a_life_that_was_given_access_again_can_be_fenced_again() {
    let mut b = Bench::new(FABRIC);
    b.request(NODE_2, Off);
    b.answer("bmc", Off, done(IsOff));
    let orders = b.runs.len();
    b.request(NODE_2, Off);
    assert_eq!(b.runs.len(), orders, "it is known to be fenced");
    b.fencer.forget_confirmed(NODE_2);
    b.request(NODE_2, Off);
    assert_eq!(b.runs.len(), orders + 1);
}

#[test]
fn in_an_even_split_nobody_has_authority_and_the_less_important_node_waits() {
    let mut b =
        Bench::new("priority_delay_ms = 5000\n[[devices]]\nname = 'x'\nclass = 'simulated'\nnodes = 'all'");
    b.fencer.set_authority(b.now, Authority::Absent);
    b.fencer.set_priority(NodeId::new(2), 20);
    let request = FenceRequest { target: NODE_2, action: Off, cause: Cause::EvenSplit };
    b.fencer.request(b.now, request).expect("it needs no authority");
    b.drain();
    b.pass(4999);
    assert!(b.runs.is_empty(), "node 2 shoots first if it lives");
    b.pass(1);
    assert_eq!(b.runs.len(), 1);
}

#[test]
fn a_drill_proves_each_device_without_harm() {
    let mut b = Bench::new(TWO_SUPPLIES);
    b.fencer.drill(b.now, NODE_2, false, "ann").unwrap();
    b.drain();
    assert_eq!(b.fencer.drill(b.now, NODE_2, false, "bob"), Err(DrillError::Busy(NODE_2.node)));
    b.answer("bmc", Status, done(IsOn));
    b.answer("pdu-a", Status, failed());
    b.answer("pdu-b", Status, done(IsOn));
    let Some(Event::Drilled { harm: false, findings, .. }) = b.events.last() else {
        panic!("{:?}", b.events)
    };
    let proven: Vec<_> = findings.iter().map(|f| (&*f.device, f.failure.is_none())).collect();
    assert_eq!(proven, [("bmc", true), ("pdu-a", false), ("pdu-b", true)]);
    assert!(b.runs.iter().all(|r| r.action == Status));
    let nobody = NodeInstance::new(NodeId::new(9), Incarnation::new(1 << 96));
    assert_eq!(b.fencer.drill(b.now, nobody, false, "ann"), Err(DrillError::NoDevice(nobody.node)));
    let own = NodeInstance::new(NodeId::new(1), Incarnation::new(1 << 96));
    assert_eq!(b.fencer.drill(b.now, own, true, "ann"), Err(DrillError::OwnNode(own.node)));
}

#[test]
fn a_drill_with_harm_switches_off_and_always_on_again_and_gives_way_to_a_fence_request() {
    let mut b = Bench::new(FABRIC);
    b.fencer.drill(b.now, NODE_2, true, "ann").unwrap();
    b.drain();
    b.answer("bmc", Status, done(IsOn));
    b.answer("bmc", Off, done(IsOn));
    b.answer("bmc", On, done(IsOn));
    b.answer("switch", Status, done(IsOn));
    b.answer("switch", Off, done(IsOff));
    b.answer("switch", On, done(IsOn));
    let Some(Event::Drilled { harm: true, findings, .. }) = b.events.last() else { panic!("{:?}", b.events) };
    assert_eq!(findings[0].failure, Some(Failure::StillOn), "it says that it switches and does not");
    assert_eq!((&findings[1].failure, &findings[1].read[..]), (&None, &[IsOn, IsOff, IsOn][..]));

    b.fencer.drill(b.now, NODE_2, true, "ann").unwrap();
    b.drain();
    b.answer("bmc", Status, done(IsOn));
    let off = b.runs.last().expect("an order").attempt;
    b.request(NODE_2, Off);
    assert_eq!(b.cancelled, [off]);
    assert_eq!(b.fencer.standing().next().map(|s| s.state), Some(State::Pausing));
    b.answer("bmc", Off, done(IsOff));
    let Some(Event::Drilled { findings, .. }) =
        b.events.iter().rev().find(|e| matches!(e, Event::Drilled { .. }))
    else {
        panic!("{:?}", b.events)
    };
    assert!(findings.iter().all(|f| f.failure == Some(Failure::Cancelled)), "{findings:?}");
    b.answer("bmc", Off, done(IsOff));
    assert!(b.outcome().is_some_and(Outcome::is_confirmed));
}

#[test]
fn a_device_that_is_not_well_is_told_once_and_so_is_its_recovery() {
    let text = format!("health_every_ms = 10000\n{FABRIC}");
    let mut b = Bench::new(&text);
    b.pass(0);
    assert_eq!(b.runs.iter().map(|r| r.action).collect::<Vec<_>>(), [Monitor, Monitor]);
    b.answer("switch", Monitor, done(NotRead));
    for _ in 0..3 {
        b.pass(60_000);
    }
    let failures: Vec<_> = b.events.iter().filter(|e| matches!(e, Event::DeviceFailed { .. })).collect();
    assert_eq!(failures.len(), 2, "each device times out, and is told once: {failures:?}");
    let health: Vec<_> = b.fencer.health().collect();
    assert!(health[0].failures > 2 && health[0].checked_nanos.is_some(), "{health:?}");
    while b.runs.last().is_some_and(|r| &*r.device != "bmc") {
        b.pass(500);
    }
    b.answer("bmc", Monitor, done(NotRead));
    assert_eq!(b.events.last(), Some(&Event::DeviceRecovered { device: "bmc".into() }));
    assert_eq!(b.fencer.health().next().map(|h| h.failures), Some(0));
    assert!(!b.events.iter().any(|e| matches!(e, Event::AttemptStarted { .. })), "no node was touched");
}

#[test]
fn a_device_that_does_not_list_the_plug_is_asked_last() {
    let text = FABRIC.replacen("timeout_ms", "hosts = 'list'\ntimeout_ms", 1);
    let mut b = Bench::new(&format!("health_every_ms = 3600000\nretry_pause_ms = 1000\n{text}"));
    b.pass(0);
    let list = b.runs.iter().find(|r| r.action == List).expect("it is asked for its plugs").clone();
    let hosts = vec!["1".into(), "3".into()];
    let report = DeviceReport { attempt: list.attempt, result: DeviceResult::Hosts { hosts } };
    b.fencer.handle(b.now, Input::Device(report));
    b.request(NODE_2, Off);
    b.answer("switch", Off, failed());
    b.pass(1000);
    b.answer("bmc", Off, done(IsOff));
    assert!(b.outcome().is_some_and(Outcome::is_confirmed), "a list may be old: it is asked in the end");
}

#[test]
fn wrong_levels_and_delays_are_refused_with_their_path() {
    let config: Config = toml::from_str(
        "delay_random_ms_max = 2000\npriority_delay_ms = 3000\n\
         [[devices]]\nname = 'x'\nclass = 'simulated'\nnodes = [{ node = 2 }]\nhosts = 'list'\n\
         [[levels]]\nindex = 0\nnodes = [2]\ndevices = []\n\
         [[levels]]\nindex = 1\nnodes = [2, 3]\ndevices = ['x', 'x', 'y']\n\
         [[levels]]\nindex = 1\nnodes = 'all'\ndevices = ['x']\n",
    )
    .unwrap();
    let errors = config.check().unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
    let expected = [
        "levels[0].index",
        "levels[0].devices",
        "levels[1].devices[0]",
        "levels[1].devices[1]",
        "levels[1].devices[2]",
        "levels[2].index",
        "levels[2].devices[0]",
        "priority_delay_ms",
        "devices[0].hosts",
    ];
    assert_eq!(paths, expected);
    assert!(config.plan(NodeId::new(3)).len() < 2, "a void level fences nobody");
}
