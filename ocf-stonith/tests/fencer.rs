//! The fencing core in virtual time, through its public interface: each test plays the devices by hand.

use ocf_stonith::{
    Acceptance, AttemptId, Authority, Cause, Config, DeviceReport, DeviceResult, Event, Failure, FenceAction,
    FenceRequest, Fencer, Input, NotStanding, Outcome, Output, ReadBack, RequestError, Run, State,
    UnknownReason, Withdrawal,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use std::time::Duration;

const TWO_DEVICES: &str = r#"
    round_budget_ms = 20000
    passes_max = 2
    retry_pause_ms = 1000
    round_pause_ms = 5000
    round_pause_ms_max = 8000
    answer_grace_ms = 500
    [[devices]]
    name = "bmc"
    class = "fence_agent"
    timeout_ms = 3000
    nodes = [{ node = 2, delay_ms = 0 }, { node = 3, plug = "x", delay_ms = 4000 }]
    [[devices]]
    name = "pdu"
    class = "fence_agent"
    timeout_ms = 5000
    nodes = [{ node = 2, plug = "7" }]
"#;

fn instance(node: u32, life: u128) -> NodeInstance {
    NodeInstance::new(NodeId::new(node), Incarnation::new(life << 96))
}

fn lost(target: NodeInstance, action: FenceAction) -> FenceRequest {
    FenceRequest { target, action, cause: Cause::Lost { why: "silent for 1 s".into() } }
}

fn by_hand(target: NodeInstance) -> FenceRequest {
    FenceRequest { target, action: FenceAction::Off, cause: Cause::Operator { who: "ann".into() } }
}

fn off() -> DeviceResult {
    DeviceResult::Done { read_back: ReadBack::Off, detail: "".into() }
}

fn done(read_back: ReadBack) -> DeviceResult {
    DeviceResult::Done { read_back, detail: "".into() }
}

fn failed() -> DeviceResult {
    DeviceResult::Failed(Failure::Failed { detail: "no route".into() })
}

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

    fn request(&mut self, request: FenceRequest) -> Result<Acceptance, RequestError> {
        let result = self.fencer.request(self.now, request);
        self.drain();
        result
    }

    fn answer(&mut self, attempt: AttemptId, result: DeviceResult) {
        self.fencer.handle(self.now, Input::Device(DeviceReport { attempt, result }));
        self.drain();
    }

    /// Answers the newest attempt.
    fn answer_last(&mut self, result: DeviceResult) {
        let attempt = self.last_run().attempt;
        self.answer(attempt, result);
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.fencer.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.fencer.handle_timeout(at);
            self.drain();
        }
        self.now = end;
    }

    fn last_run(&self) -> &Run {
        self.runs.last().expect("an attempt was begun")
    }

    fn finished(&self) -> Vec<&Outcome> {
        let mut found = Vec::new();
        for event in &self.events {
            if let Event::Finished { outcome, .. } = event {
                found.push(outcome);
            }
        }
        found
    }

    fn unresolved(&self) -> Vec<(u32, &Outcome, Option<Duration>)> {
        let mut found = Vec::new();
        for event in &self.events {
            if let Event::Unresolved { round, outcome, next_round_in, .. } = event {
                found.push((*round, outcome, *next_round_in));
            }
        }
        found
    }
}

#[test]
fn a_node_that_is_read_back_off_is_confirmed_with_evidence() {
    let mut b = Bench::new(TWO_DEVICES);
    let target = instance(2, 7);
    assert_eq!(b.request(lost(target, FenceAction::Off)), Ok(Acceptance::Started));
    let run = b.last_run().clone();
    assert_eq!((&*run.device, run.action, run.target, run.plug), ("bmc", FenceAction::Off, target, None));
    b.pass(1200);
    b.answer_last(off());
    let [Outcome::Confirmed { evidence }] = b.finished()[..] else { panic!("{:?}", b.events) };
    assert_eq!((&*evidence.device, &evidence.read_back), ("bmc", &ReadBack::Off));
    assert_eq!(evidence.took, Duration::from_millis(1200));
    assert_eq!(b.fencer.poll_timeout(), None);
    let record = b.fencer.history().iter().next().expect("a record");
    assert_eq!((record.target, record.attempts, record.rounds), (target, 1, 1));
    assert_eq!(record.cause, Cause::Lost { why: "silent for 1 s".into() });
}

#[test]
fn the_second_device_is_asked_when_the_first_fails() {
    let mut b = Bench::new(TWO_DEVICES);
    b.request(lost(instance(2, 7), FenceAction::Off)).unwrap();
    b.answer_last(failed());
    assert!(b.finished().is_empty(), "a failure is no outcome");
    assert_eq!((&*b.last_run().device, b.last_run().plug.as_deref()), ("pdu", Some("7")));
    b.answer_last(off());
    assert!(b.finished()[0].is_confirmed());
}

#[test]
fn a_node_that_is_read_back_on_is_not_fenced() {
    let mut b = Bench::new(TWO_DEVICES);
    b.request(lost(instance(2, 7), FenceAction::Off)).unwrap();
    b.answer_last(done(ReadBack::On));
    assert!(b.finished().is_empty());
    assert!(
        b.events.iter().any(|e| matches!(e, Event::AttemptFailed { failure: Failure::StillOn, .. })),
        "{:?}",
        b.events
    );
}

#[test]
fn a_hanging_device_is_given_up_after_its_timeout_and_the_next_one_asked() {
    let mut b = Bench::new(TWO_DEVICES);
    b.request(lost(instance(2, 7), FenceAction::Off)).unwrap();
    let first = b.last_run().attempt;
    b.pass(3499);
    assert!(b.cancelled.is_empty(), "the device's own word may come within the grace");
    b.pass(1);
    assert_eq!(b.cancelled, [first]);
    assert_eq!(&*b.last_run().device, "pdu");
    let timed_out = Failure::TimedOut { after: Duration::from_secs(3) };
    assert!(
        b.events.iter().any(|e| matches!(e, Event::AttemptFailed { failure, .. } if *failure == timed_out))
    );
}

#[test]
fn each_fruitless_round_is_reported_as_unknown_and_the_pauses_grow() {
    let mut b = Bench::new(TWO_DEVICES);
    b.request(lost(instance(3, 7), FenceAction::Off)).unwrap();
    for _ in 0..1200 {
        b.pass(100);
        if b.fencer.standing().any(|s| matches!(s.state, State::Asking { .. })) {
            b.answer_last(failed());
        }
    }
    let reports = b.unresolved();
    assert!(reports.len() >= 8, "it keeps trying: {reports:?}");
    let pauses: Vec<_> = reports.iter().map(|(_, _, pause)| pause.unwrap().as_secs()).collect();
    assert_eq!(pauses[..4], [5, 8, 8, 8]);
    assert!(reports.iter().enumerate().all(|(i, (round, ..))| *round as usize == i + 1));
    let (_, Outcome::Unknown { reason: UnknownReason::AllFailed { attempts, device, .. } }, _) = reports[1]
    else {
        panic!("{reports:?}")
    };
    assert_eq!((*attempts, &**device), (4, "bmc"));
    assert!(b.finished().is_empty(), "unknown is not fenced");
    assert_eq!(b.fencer.stats().rounds_failed, reports.len() as u64);
}

#[test]
fn a_late_answer_that_read_the_node_off_confirms_the_request_it_was_made_for() {
    let mut b = Bench::new(TWO_DEVICES);
    b.request(lost(instance(2, 7), FenceAction::Off)).unwrap();
    let first = b.last_run().attempt;
    b.pass(3600);
    let second = b.last_run().attempt;
    b.answer(first, off());
    let [Outcome::Confirmed { evidence }] = b.finished()[..] else { panic!("{:?}", b.events) };
    assert_eq!(&*evidence.device, "bmc");
    assert_eq!(b.cancelled, [first, second], "what still runs is not needed any more");
    b.answer(second, off());
    assert_eq!(b.finished().len(), 1, "one outcome");
    assert_eq!((b.fencer.stats().late_accepted, b.fencer.stats().stray), (1, 1));
}

#[test]
fn a_late_answer_that_proves_nothing_changes_nothing() {
    for late in [failed(), done(ReadBack::NotRead), done(ReadBack::Assumed), done(ReadBack::On)] {
        let mut b = Bench::new(TWO_DEVICES);
        b.request(lost(instance(2, 7), FenceAction::Off)).unwrap();
        let first = b.last_run().attempt;
        b.pass(3600);
        b.answer(first, late);
        assert!(b.finished().is_empty());
        assert_eq!(&*b.last_run().device, "pdu");
        assert_eq!(b.fencer.stats().late_ignored, 1);
        b.answer(first, off());
        assert!(b.finished().is_empty(), "an attempt answers once");
    }
}

#[test]
fn a_late_answer_for_a_withdrawn_request_does_not_confirm_the_next_one() {
    let mut b = Bench::new(TWO_DEVICES);
    let target = instance(2, 7);
    b.request(lost(target, FenceAction::Off)).unwrap();
    let first = b.last_run().attempt;
    b.fencer.withdraw(b.now, target, Withdrawal::NotNeeded).unwrap();
    b.drain();
    assert_eq!(b.cancelled, [first]);
    assert_eq!(b.request(lost(target, FenceAction::Off)), Ok(Acceptance::Started));
    b.answer(first, off());
    assert!(b.finished().is_empty());
    b.answer_last(off());
    assert_eq!(b.finished().len(), 1);
}

#[test]
fn an_incarnation_is_fenced_once_however_often_it_is_requested() {
    let mut b = Bench::new(TWO_DEVICES);
    let target = instance(2, 7);
    b.request(lost(target, FenceAction::Off)).unwrap();
    assert_eq!(b.request(lost(target, FenceAction::Off)), Ok(Acceptance::Joined));
    assert_eq!(b.request(lost(target, FenceAction::Reboot)), Ok(Acceptance::Joined));
    assert_eq!(b.runs.len(), 1);
    b.answer_last(off());
    assert_eq!(b.request(lost(target, FenceAction::Off)), Ok(Acceptance::Known));
    assert_eq!(b.runs.len(), 1, "a confirmed incarnation is not fenced again");
    assert_eq!(b.finished().len(), 2, "and its outcome is told again");
    assert_eq!(b.request(lost(instance(2, 8), FenceAction::Off)), Ok(Acceptance::Started));
    assert_eq!(b.runs.len(), 2, "its next life is another matter");
}

#[test]
fn a_device_that_cannot_tell_gives_requested_and_a_person_can_confirm() {
    let mut b = Bench::new(TWO_DEVICES);
    let target = instance(2, 7);
    b.request(lost(target, FenceAction::Off)).unwrap();
    b.answer_last(done(ReadBack::NotRead));
    assert_eq!(&*b.last_run().device, "pdu", "another device may be able to tell");
    b.answer_last(failed());
    assert!(matches!(b.finished()[..], [Outcome::Requested { .. }]), "{:?}", b.events);
    let runs = b.runs.len();
    b.pass(3_600_000);
    assert_eq!(b.runs.len(), runs, "an order that was taken is not given again");
    assert_eq!(b.request(lost(target, FenceAction::Off)), Ok(Acceptance::Known));
    b.fencer.confirm(b.now, target, "ann").unwrap();
    b.drain();
    let Some(Outcome::Confirmed { evidence }) = b.finished().pop() else { panic!("{:?}", b.events) };
    assert_eq!(evidence.read_back, ReadBack::Operator { who: "ann".into() });
    assert_eq!(b.fencer.confirm(b.now, target, "ann"), Err(NotStanding(target)));
}

#[test]
fn assumed_fencing_is_named_in_the_outcome() {
    let mut b = Bench::new(TWO_DEVICES);
    b.request(lost(instance(2, 7), FenceAction::Off)).unwrap();
    b.answer_last(done(ReadBack::Assumed));
    assert!(b.finished()[0].to_string().contains("assume_fenced = true"));
}

#[test]
fn a_reboot_is_told_as_soon_as_off_is_read_and_then_switches_on() {
    let mut b = Bench::new(TWO_DEVICES);
    b.request(lost(instance(2, 7), FenceAction::Reboot)).unwrap();
    assert_eq!(b.last_run().action, FenceAction::Off);
    b.answer_last(failed());
    b.answer_last(off());
    assert!(b.finished()[0].is_confirmed());
    let last: Vec<_> = b.runs[2..].iter().map(|r| (&*r.device, r.action)).collect();
    assert_eq!(last, [("bmc", FenceAction::On), ("pdu", FenceAction::On)], "each device that was asked");
    let [bmc, pdu] = [b.runs[2].attempt, b.runs[3].attempt];
    b.answer(pdu, done(ReadBack::On));
    assert!(matches!(b.events.last(), Some(Event::Restarted { device, .. }) if &**device == "pdu"));
    b.answer(bmc, failed());
    assert_eq!(b.last_run().action, FenceAction::On, "tried once more");
    b.pass(10_000);
    let failure = Failure::TimedOut { after: Duration::from_secs(3) };
    assert!(matches!(b.events.last(), Some(Event::RestartFailed { failure: f, .. }) if *f == failure));
    assert_eq!(b.fencer.poll_timeout(), None);
}

#[test]
fn without_authority_only_a_person_may_fence() {
    let mut b = Bench::new(TWO_DEVICES);
    let (x, y) = (instance(2, 7), instance(3, 7));
    b.request(lost(x, FenceAction::Off)).unwrap();
    b.request(by_hand(y)).unwrap();
    let cluster = b.runs[0].attempt;
    b.fencer.set_authority(b.now, Authority::Absent);
    b.drain();
    assert_eq!(b.cancelled, [cluster]);
    let reason = Withdrawal::AuthorityLost;
    assert_eq!(b.events.last(), Some(&Event::Withdrawn { target: x, reason }));
    assert_eq!(b.request(lost(x, FenceAction::Off)), Err(RequestError::NoAuthority(x)));
    assert_eq!(b.fencer.standing().map(|s| s.target).collect::<Vec<_>>(), [y]);
    b.answer_last(off());
    assert!(b.finished()[0].is_confirmed());
}

#[test]
fn a_suspended_node_begins_no_attempt_until_it_is_sure_again() {
    let mut b = Bench::new(TWO_DEVICES);
    b.request(lost(instance(2, 7), FenceAction::Off)).unwrap();
    b.fencer.set_authority(b.now, Authority::Suspended);
    b.answer_last(failed());
    assert_eq!(b.runs.len(), 1);
    let suspended = Outcome::Unknown { reason: UnknownReason::Suspended };
    assert_eq!(b.unresolved(), [(1, &suspended, None)]);
    b.pass(60_000);
    assert_eq!(b.runs.len(), 1);
    b.fencer.set_authority(b.now, Authority::Granted);
    b.drain();
    assert_eq!(&*b.last_run().device, "pdu", "it goes on where it stopped");
}

#[test]
fn a_node_without_a_device_waits_for_a_person_and_says_so() {
    let mut b = Bench::new(TWO_DEVICES);
    let target = instance(9, 1);
    b.request(lost(target, FenceAction::Off)).unwrap();
    let no_device = Outcome::Unknown { reason: UnknownReason::NoDevice };
    assert_eq!(b.unresolved(), [(1, &no_device, Some(Duration::from_secs(5)))]);
    b.pass(60_000);
    assert!(b.unresolved().len() > 3 && b.finished().is_empty());
    b.fencer.confirm(b.now, target, "ann").unwrap();
    b.drain();
    assert!(b.finished()[0].is_confirmed());
}

#[test]
fn what_cannot_be_fenced_is_refused_and_nothing_changes() {
    let mut b = Bench::new("requests_max = 1");
    let x = instance(2, 1);
    let status = FenceAction::Status;
    assert_eq!(b.request(lost(x, status)), Err(RequestError::NotFencing(status)));
    let own = instance(1, 1);
    assert_eq!(b.request(lost(own, FenceAction::Off)), Err(RequestError::OwnNode(own.node)));
    b.request(lost(x, FenceAction::Off)).unwrap();
    let full = RequestError::Full { limit: 1 };
    assert_eq!(b.request(lost(instance(3, 1), FenceAction::Off)), Err(full));
    let unknown = instance(4, 1);
    let reason = Withdrawal::Operator;
    assert_eq!(b.fencer.withdraw(b.now, unknown, reason), Err(NotStanding(unknown)));
    assert_eq!(b.fencer.stats().requests, 1);
}

#[test]
fn the_first_attempt_waits_its_delay_unless_a_person_asks() {
    let mut b = Bench::new(TWO_DEVICES);
    let target = instance(3, 7);
    b.request(lost(target, FenceAction::Off)).unwrap();
    b.pass(3999);
    assert!(b.runs.is_empty());
    b.pass(1);
    assert_eq!(b.last_run().plug.as_deref(), Some("x"));
    b.request(by_hand(instance(3, 8))).unwrap();
    assert_eq!(b.runs.len(), 2);
}

#[test]
fn random_delays_differ_between_nodes_and_stay_below_their_maximum() {
    let config: Config = toml::from_str("delay_random_ms_max = 5000").unwrap();
    let delay = |seed| {
        let mut fencer = Fencer::new(config.clone(), NodeId::new(1), Rng::new(seed));
        fencer.set_authority(Instant::ZERO, Authority::Granted);
        fencer.request(Instant::ZERO, lost(instance(2, 1), FenceAction::Off)).unwrap();
        let Some(Output::Event(Event::Started { delay, .. })) = fencer.poll_output() else {
            panic!("no start")
        };
        delay
    };
    let delays: Vec<_> = (0..8).map(delay).collect();
    assert!(delays.iter().all(|d| *d <= Duration::from_secs(5)));
    assert!(delays.iter().any(|d| *d != delays[0]), "{delays:?}");
    assert_eq!(delay(3), delays[3], "the same seed waits the same time");
}
