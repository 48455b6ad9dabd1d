//! Properties of the fencing core over random schedules of requests, answers (prompt, late, false alarms), withdrawals
//! and changes of authority, against devices that really switch simulated nodes. Virtual time.
//!
//! X2: a device is asked again for one incarnation only after an attempt failed. X3: what is reported as confirmed had
//! been switched off, read back off, for that incarnation. X4: without authority nothing is begun.

use ocf_stonith::{
    AttemptId, Authority, Cause, Config, DeviceReport, DeviceResult, Event, Failure, FenceAction,
    FenceRequest, Fencer, Input, Outcome, Output, ReadBack, Run, Withdrawal,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const CONFIG: &str = r#"
    round_budget_ms = 4000
    passes_max = 2
    retry_pause_ms = 200
    round_pause_ms = 500
    round_pause_ms_max = 2000
    answer_grace_ms = 100
    requests_max = 4
    history_max = 16
    late_max = 3
    delay_random_ms_max = 300
    [[devices]]
    name = "a"
    class = "simulated"
    timeout_ms = 1000
    nodes = [{ node = 2 }, { node = 3 }]
    [[devices]]
    name = "b"
    class = "simulated"
    timeout_ms = 800
    nodes = [{ node = 2 }]
"#;

struct World {
    rng: Rng,
    fencer: Fencer,
    now: Instant,
    authority: Authority,
    /// Answers on their way, with the attempt they belong to.
    answers: Vec<(Instant, Run, DeviceResult)>,
    /// Which lives were really switched off.
    dead: BTreeSet<NodeInstance>,
    /// Devices that hold an order for this life that has not failed.
    holding: BTreeMap<NodeInstance, BTreeMap<AttemptId, String>>,
    confirmed: BTreeSet<NodeInstance>,
    by_operator: BTreeSet<NodeInstance>,
    said_by_person: BTreeSet<NodeInstance>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let config: Config = toml::from_str(CONFIG).expect("a well-formed test configuration");
        assert_eq!(config.check(), Ok(()));
        let fencer = Fencer::new(config, NodeId::new(1), rng.fork());
        Self {
            rng,
            fencer,
            now: Instant::ZERO,
            authority: Authority::Absent,
            answers: Vec::new(),
            dead: BTreeSet::new(),
            holding: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            by_operator: BTreeSet::new(),
            said_by_person: BTreeSet::new(),
        }
    }

    fn target(&mut self) -> NodeInstance {
        let node = NodeId::new(u32::try_from(self.rng.between(2, 4)).expect("small"));
        NodeInstance::new(node, Incarnation::new(u128::from(self.rng.between(1, 3)) << 96))
    }

    fn step(&mut self) {
        match self.rng.below(10) {
            0..3 => {
                let target = self.target();
                let person = self.rng.chance(0.2);
                let cause = if person {
                    Cause::Operator { who: "ann".into() }
                } else {
                    Cause::Lost { why: "silent".into() }
                };
                let action = if self.rng.chance(0.5) { FenceAction::Off } else { FenceAction::Reboot };
                let taken = self.fencer.request(self.now, FenceRequest { target, action, cause });
                if taken.is_ok() && person {
                    self.by_operator.insert(target);
                }
            }
            3 => {
                let target = self.target();
                if self.fencer.withdraw(self.now, target, Withdrawal::NotNeeded).is_ok() {
                    self.forget(target);
                }
            }
            4 => {
                let all = [Authority::Granted, Authority::Granted, Authority::Suspended, Authority::Absent];
                self.authority = *self.rng.pick(&all).expect("not empty");
                self.fencer.set_authority(self.now, self.authority);
            }
            5 if self.rng.chance(0.2) => {
                let target = self.target();
                if self.fencer.confirm(self.now, target, "ann").is_ok() {
                    self.said_by_person.insert(target);
                }
            }
            6 => {
                // An answer for an attempt that was never made.
                let result = DeviceResult::Done { read_back: ReadBack::Off, detail: "".into() };
                let attempt = AttemptId(self.rng.between(10_000, 20_000));
                self.fencer.handle(self.now, Input::Device(DeviceReport { attempt, result }));
            }
            _ => self.pass(),
        }
        self.drain();
        self.fencer.check_invariants();
    }

    /// Lets the time until the next answer or timer go by, or some of it.
    fn pass(&mut self) {
        let answer = self.answers.iter().map(|(at, ..)| *at).min();
        let next = answer.into_iter().chain(self.fencer.poll_timeout()).min();
        let jump = self.now + self.rng.duration(Duration::ZERO, Duration::from_millis(700));
        self.now = next.unwrap_or(jump).min(jump).max(self.now);
        let (due, later): (Vec<_>, Vec<_>) = self.answers.drain(..).partition(|(at, ..)| *at <= self.now);
        self.answers = later;
        for (_, run, result) in due {
            if let DeviceResult::Done { read_back: ReadBack::Off, .. } = result
                && run.action == FenceAction::Off
            {
                self.dead.insert(run.target);
            }
            if matches!(result, DeviceResult::Failed(_) | DeviceResult::Done { read_back: ReadBack::On, .. })
            {
                self.failed(run.target, run.attempt);
            }
            let report = DeviceReport { attempt: run.attempt, result };
            self.fencer.handle(self.now, Input::Device(report));
            self.drain();
        }
        self.fencer.handle_timeout(self.now);
    }

    fn failed(&mut self, target: NodeInstance, attempt: AttemptId) {
        self.holding.entry(target).or_default().remove(&attempt);
    }

    fn forget(&mut self, target: NodeInstance) {
        self.holding.remove(&target);
        self.by_operator.remove(&target);
    }

    fn drain(&mut self) {
        while let Some(output) = self.fencer.poll_output() {
            match output {
                Output::Run(run) => self.run(run),
                Output::Cancel { .. } => {}
                Output::Event(event) => self.event(event),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn run(&mut self, run: Run) {
        let target = run.target;
        if run.action == FenceAction::On {
            assert!(self.confirmed.contains(&target), "only a confirmed node is switched on again");
        } else {
            assert!(
                self.authority == Authority::Granted || self.by_operator.contains(&target),
                "X4: {target} is fenced without authority"
            );
            assert!(!self.confirmed.contains(&target), "X2: {target} was confirmed and is fenced again");
            let holding = self.holding.entry(target).or_default();
            assert!(
                !holding.values().any(|device| **device == *run.device),
                "X2: {} holds an order for {target} that has not failed",
                run.device
            );
            holding.insert(run.attempt, run.device.to_string());
        }
        let result = match self.rng.below(8) {
            0..3 if run.action == FenceAction::Off => ReadBack::Off,
            0..3 => ReadBack::On,
            3 => ReadBack::NotRead,
            4 => ReadBack::On,
            5 => return, // never answers
            _ => {
                let failure = Failure::Failed { detail: "no route".into() };
                let at = self.now + self.rng.duration(Duration::ZERO, Duration::from_millis(900));
                self.answers.push((at, run, DeviceResult::Failed(failure)));
                return;
            }
        };
        let at = self.now + self.rng.duration(Duration::ZERO, Duration::from_millis(2500));
        self.answers.push((at, run, DeviceResult::Done { read_back: result, detail: "".into() }));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Finished { target, outcome } => match outcome {
                Outcome::Confirmed { evidence } => {
                    let said = matches!(evidence.read_back, ReadBack::Operator { .. });
                    assert!(!said || self.said_by_person.contains(&target), "X3: nobody confirmed {target}");
                    assert!(said || evidence.read_back == ReadBack::Off, "X3: {evidence:?}");
                    assert!(said || self.dead.contains(&target), "X3: {target} is confirmed and lives");
                    self.confirmed.insert(target);
                }
                Outcome::Requested { .. } => {}
                Outcome::Unknown { .. } => panic!("unknown is no final outcome"),
            },
            Event::Unresolved { outcome, .. } => {
                assert!(matches!(outcome, Outcome::Unknown { .. }), "X3: {outcome:?}");
            }
            Event::AttemptFailed { target, attempt, .. } => self.failed(target, attempt),
            Event::Withdrawn { target, .. } => self.forget(target),
            Event::Started { .. }
            | Event::Joined { .. }
            | Event::AttemptStarted { .. }
            | Event::Restarted { .. }
            | Event::RestartFailed { .. }
            | Event::LateAnswer { .. } => {}
            Event::Unfenced { .. }
            | Event::UnfenceFailed { .. }
            | Event::Drilled { .. }
            | Event::DeviceFailed { .. }
            | Event::DeviceRecovered { .. } => panic!("nobody asked for that"),
            other => panic!("unexpected {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn x2_x3_and_x4_hold_over_random_schedules(seed: u64) {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
    }
}

#[test]
fn the_random_schedules_reach_the_cases_they_are_for() {
    let (mut late, mut stray, mut confirmed, mut requested, mut rounds) = (0, 0, 0, 0, 0);
    for seed in 0..48 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
        let stats = world.fencer.stats();
        late += stats.late_accepted;
        stray += stats.stray;
        confirmed += stats.confirmed;
        requested += stats.requested;
        rounds += stats.rounds_failed;
    }
    let reached = [late, stray, confirmed, requested, rounds];
    assert!(reached.iter().all(|n| *n > 5), "late, stray, confirmed, requested, rounds: {reached:?}");
}
