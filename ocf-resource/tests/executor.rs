//! The executor in virtual time: one operation per resource, limits, monitors, and drivers that do not answer.

use ocf_resource::executor::{
    Config, Event, Executor, Held, Input, OperationId, Output, Report, Request, RunId, WatchPolicy,
};
use ocf_resource::{Action, OcfCode, Operation, OperationResult, Outcome, Role};
use pils::{Instant, Layer, Rng};
use std::time::Duration;

fn operation(resource: &str, action: Action) -> Operation {
    Operation::new(resource, "rust:x".parse().expect("a name"), action)
}

struct Bench {
    executor: Executor,
    now: Instant,
    next: u64,
}

impl Bench {
    fn new(parallel_max: usize) -> Self {
        let config = Config { parallel_max, ..Config::default() };
        Self { executor: Executor::new(config, Rng::new(1)), now: Instant::ZERO, next: 0 }
    }

    fn request(&mut self, make: impl FnOnce(OperationId) -> Request) -> Vec<Output> {
        self.next += 1;
        let request = make(OperationId(self.next));
        self.executor.handle(self.now, Input::Request(request));
        self.outputs()
    }

    fn run(&mut self, resource: &str, action: Action) -> Vec<Output> {
        let operation = operation(resource, action);
        self.request(|id| Request::Run { id, operation })
    }

    fn watch(&mut self, resource: &str, seconds: u64) -> Vec<Output> {
        let interval = Some(Duration::from_secs(seconds));
        let operation = Operation { interval, ..operation(resource, Action::Monitor) };
        self.request(|id| Request::Watch { id, operation, policy: WatchPolicy::default() })
    }

    fn done(&mut self, run: u64, outcome: Outcome) -> Vec<Output> {
        let result = OperationResult::new(outcome);
        self.executor.handle(self.now, Input::Done { run: RunId(run), result });
        self.outputs()
    }

    /// Goes to the next deadline.
    fn wait(&mut self) -> Vec<Output> {
        self.now = self.executor.poll_timeout().expect("something is due");
        self.executor.handle_timeout(self.now);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.executor.poll_output()).collect()
    }
}

/// What outputs are, in short.
fn brief(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .map(|o| match o {
            Output::Run { run, operation } => {
                format!("run{} {} {}", run.0, operation.action, operation.resource)
            }
            Output::Cancel { run } => format!("cancel{}", run.0),
            Output::Event(Event::Finished { id, result, .. }) => {
                format!("finished{} {}", id.0, result.outcome)
            }
            Output::Event(Event::Failed { id, result, .. }) => format!("failed{} {}", id.0, result.outcome),
            Output::Event(Event::Observed { id, result, .. }) => format!("seen{} {}", id.0, result.outcome),
            Output::Event(Event::Notified { resource, .. }) => format!("notified {resource}"),
            Output::Event(Event::Interrupted { operation }) => {
                format!("interrupted {} {}", operation.action, operation.resource)
            }
            Output::Persist { resource, held } => match held {
                Some(held) => {
                    let flight = if held.in_flight { " in flight" } else { "" };
                    format!(
                        "persist {resource} {}{flight} watches{}",
                        held.operation.action,
                        held.watches.len()
                    )
                }
                None => format!("forget {resource}"),
            },
            other @ (Output::Event(_) | _) => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn operations_of_one_resource_run_one_after_the_other() {
    let mut b = Bench::new(4);
    assert_eq!(brief(&b.run("a", Action::Monitor)), ["run1 monitor a"]);
    assert_eq!(brief(&b.run("a", Action::Monitor)), [""; 0]);
    assert_eq!(brief(&b.run("b", Action::Start)), ["run2 start b"]);
    assert_eq!(brief(&b.done(1, Outcome::Ok)), ["finished1 ok", "run3 monitor a"]);
}

#[test]
fn the_limit_holds_for_everything_but_stops() {
    let mut b = Bench::new(2);
    b.run("a", Action::Start);
    b.run("b", Action::Start);
    assert!(b.run("c", Action::Start).is_empty());
    assert_eq!(brief(&b.run("d", Action::Stop)), ["run3 stop d"]);
    assert_eq!(b.executor.running(), 3);
    assert_eq!(brief(&b.done(3, Outcome::Ok)), ["finished4 ok"]);
    assert_eq!(brief(&b.done(1, Outcome::Ok)), ["finished1 ok", "run4 start c"]);
}

#[test]
fn a_monitor_recurs_within_its_interval_until_it_fails() {
    let mut b = Bench::new(2);
    b.watch("a", 10);
    let mut last = b.now;
    for run in 1..50 {
        assert_eq!(brief(&b.wait()), [format!("run{run} monitor a")]);
        assert!(b.now - last <= Duration::from_secs(10) && b.now - last >= Duration::from_secs(5));
        last = b.now;
        assert!(b.done(run, Outcome::Ok).is_empty());
    }
    b.wait();
    let failed = b.done(50, Outcome::Failed { code: OcfCode::NotRunning });
    assert_eq!(brief(&failed), ["failed1 failed: not running (7)"]);
    assert_eq!(b.executor.poll_timeout(), None);
}

#[test]
fn a_degraded_resource_is_not_a_failed_one() {
    let mut b = Bench::new(2);
    b.watch("a", 10);
    b.wait();
    assert!(b.done(1, Outcome::Failed { code: OcfCode::Degraded }).is_empty());
    assert!(b.executor.poll_timeout().is_some());
}

#[test]
fn a_stop_cancels_a_running_monitor_and_ends_the_watch() {
    let mut b = Bench::new(2);
    b.watch("a", 10);
    b.wait();
    assert_eq!(brief(&b.run("a", Action::Stop)), ["cancel1"]);
    assert_eq!(brief(&b.done(1, Outcome::Cancelled)), ["run2 stop a"]);
    assert_eq!(brief(&b.done(2, Outcome::Ok)), ["finished2 ok"]);
    assert_eq!(b.executor.poll_timeout(), None);
}

#[test]
fn only_an_urgent_stop_cancels_a_running_start() {
    let mut b = Bench::new(2);
    b.run("a", Action::Start);
    assert!(b.run("a", Action::Stop).is_empty());
    let urgent = operation("a", Action::Stop);
    let outputs = b.request(|id| Request::StopNow { id, operation: urgent });
    assert_eq!(brief(&outputs), ["finished2 cancelled", "cancel1"]);
    assert_eq!(brief(&b.done(1, Outcome::Cancelled)), ["finished1 cancelled", "run2 stop a"]);
}

#[test]
fn a_driver_that_never_answers_costs_the_timeout_and_a_margin() {
    let mut b = Bench::new(1);
    b.run("a", Action::Start);
    b.run("b", Action::Start);
    let outputs = b.wait();
    assert_eq!(b.now, Instant::ZERO + Duration::from_secs(30));
    assert_eq!(brief(&outputs), ["cancel1", "finished1 timed out", "run2 start b"]);
    assert!(b.done(1, Outcome::Ok).is_empty(), "too late");
}

#[test]
fn a_hung_monitor_is_a_failure() {
    let mut b = Bench::new(1);
    b.watch("a", 10);
    b.wait();
    assert_eq!(brief(&b.wait()), ["cancel1", "failed1 timed out"]);
}

#[test]
fn while_starts_are_held_only_they_wait() {
    let mut b = Bench::new(4);
    b.request(|_| Request::Hold);
    assert!(b.run("a", Action::Start).is_empty());
    assert_eq!(brief(&b.run("b", Action::Stop)), ["run1 stop b"]);
    assert_eq!(brief(&b.request(|_| Request::Release)), ["run2 start a"]);
}

#[test]
fn dropping_spares_stops_and_what_acts_already() {
    let mut b = Bench::new(1);
    b.run("a", Action::Start);
    b.run("b", Action::Start);
    b.watch("c", 10);
    assert_eq!(brief(&b.request(|_| Request::Drop)), ["finished2 cancelled"]);
    assert_eq!(brief(&b.done(1, Outcome::Ok)), ["finished1 ok"]);
    assert_eq!(b.executor.poll_timeout(), None);
}

#[test]
fn a_full_queue_refuses_with_an_answer() {
    let mut b = Bench::new(1);
    for _ in 0..17 {
        b.run("a", Action::Monitor);
    }
    assert_eq!(b.executor.waiting(), 16);
    assert_eq!(brief(&b.run("a", Action::Monitor)), ["finished18 cancelled"]);
}

const FAILED: Outcome = Outcome::Failed { code: OcfCode::Generic };

/// A monitor of `a` every 10 s, that fails so many times of so many.
fn lenient(b: &mut Bench, failures: u32, among: u32, report: Report) {
    let interval = Some(Duration::from_secs(10));
    let operation = Operation { interval, ..operation("a", Action::Monitor) };
    let policy = WatchPolicy { failures, among, report };
    b.request(|id| Request::Watch { id, operation, policy });
}

#[test]
fn a_monitor_may_fail_as_often_among_the_last_ones_as_its_policy_says() {
    let mut b = Bench::new(2);
    lenient(&mut b, 2, 3, Report::Failures);
    let mut run = 0;
    let mut look = |b: &mut Bench, outcome: Outcome| {
        b.wait();
        run += 1;
        brief(&b.done(run, outcome))
    };
    for outcome in [FAILED, Outcome::Ok, Outcome::Ok, FAILED, Outcome::Ok, Outcome::Ok] {
        assert_eq!(look(&mut b, outcome), [""; 0]);
    }
    assert_eq!(look(&mut b, FAILED), [""; 0]);
    assert_eq!(look(&mut b, Outcome::Ok), [""; 0]);
    assert_eq!(look(&mut b, Outcome::TimedOut), ["failed1 timed out"]);
}

#[test]
fn a_resource_that_is_cleanly_stopped_has_failed_at_once() {
    let mut b = Bench::new(2);
    lenient(&mut b, 5, 5, Report::Failures);
    b.wait();
    let found = brief(&b.done(1, Outcome::Failed { code: OcfCode::NotRunning }));
    assert_eq!(found, ["failed1 failed: not running (7)"]);
}

#[test]
fn changes_are_told_once_and_everything_every_time() {
    for (report, told) in [(Report::Failures, 0), (Report::Changes, 3), (Report::Everything, 5)] {
        let mut b = Bench::new(2);
        lenient(&mut b, 9, 9, report);
        let degraded = Outcome::Failed { code: OcfCode::Degraded };
        let mut seen = 0;
        for (run, outcome) in
            [Outcome::Ok, Outcome::Ok, degraded.clone(), degraded, Outcome::Ok].into_iter().enumerate()
        {
            b.wait();
            seen += b.done(run as u64 + 1, outcome).len();
        }
        assert_eq!(seen, told, "{report:?}");
    }
}

#[test]
fn monitors_of_several_depths_and_roles_go_on_beside_one_another() {
    let mut b = Bench::new(2);
    for (depth, role) in [(0, None), (10, None), (0, Some(Role::Promoted)), (10, None)] {
        let operation = Operation {
            interval: Some(Duration::from_secs(10)),
            check_level: depth,
            role,
            ..operation("a", Action::Monitor)
        };
        b.request(|id| Request::Watch { id, operation, policy: WatchPolicy::default() });
    }
    assert_eq!(b.executor.load(b.now).watches, 3, "the last replaces the second");
    let mut promoted = 0;
    for run in 1..=60 {
        let outputs = b.wait();
        let [Output::Run { operation, .. }] = &outputs[..] else { panic!("{outputs:?}") };
        let expects = operation.role == Some(Role::Promoted);
        promoted += u32::from(expects);
        let code = OcfCode::RunningPromoted;
        let outcome = if expects { Outcome::Failed { code } } else { Outcome::Ok };
        assert!(b.done(run, outcome).is_empty());
    }
    assert!((10..=30).contains(&promoted), "{promoted}");
}

#[test]
fn cancel_ends_one_operation_and_flush_all_of_a_resource() {
    let mut b = Bench::new(2);
    b.watch("a", 10);
    b.run("a", Action::Monitor);
    b.run("a", Action::Reload);
    b.run("a", Action::Notify);
    assert_eq!(brief(&b.request(|_| Request::Cancel { id: OperationId(3) })), ["finished3 cancelled"]);
    assert_eq!(brief(&b.request(|_| Request::Cancel { id: OperationId(2) })), ["cancel1"]);
    assert_eq!(brief(&b.request(|_| Request::Cancel { id: OperationId(1) })), [""; 0]);
    assert_eq!(b.executor.load(b.now).watches, 0);
    let flushed = b.request(|_| Request::Flush { resource: "a".into() });
    assert_eq!(brief(&flushed), ["finished4 cancelled"]);
    assert_eq!(brief(&b.done(1, Outcome::Cancelled)), ["finished2 cancelled"]);
    assert_eq!(b.executor.poll_timeout(), None);
}

#[test]
fn a_failure_told_from_outside_ends_the_least_thorough_monitor() {
    let mut b = Bench::new(2);
    b.watch("a", 10);
    let fail = |_| Request::Fail { resource: "a".into(), result: OperationResult::new(FAILED) };
    assert_eq!(brief(&b.request(fail)), ["failed1 failed: error (1)"]);
    assert_eq!(brief(&b.request(fail)), ["notified a"]);
}

#[test]
fn the_load_says_what_runs_what_waits_and_for_how_long() {
    let mut b = Bench::new(1);
    b.run("a", Action::Start);
    b.run("b", Action::Start);
    b.now += Duration::from_secs(3);
    let load = b.executor.load(b.now);
    let [process] = &load.processes[..] else { panic!("{load:?}") };
    assert_eq!(
        (&*process.resource, process.action, process.since),
        ("a", Action::Start, Duration::from_secs(3))
    );
    assert_eq!(process.left, Duration::from_secs(27));
    assert_eq!(load.waiting, [("b".into(), vec![Action::Start])]);
    b.wait();
    assert_eq!((b.executor.load(b.now).ended, b.executor.load(b.now).timed_out), (1, 1));
}

/// What a durable executor keeps.
fn durable() -> Bench {
    let config = Config { durable: true, ..Config::default() };
    Bench { executor: Executor::new(config, Rng::new(1)), now: Instant::ZERO, next: 0 }
}

#[test]
fn what_must_survive_is_persisted_before_the_agent_runs_and_forgotten_after_the_stop() {
    let mut b = durable();
    assert_eq!(brief(&b.run("a", Action::Start)), ["persist a start in flight watches0", "run1 start a"]);
    assert_eq!(brief(&b.done(1, Outcome::Ok)), ["persist a start watches0", "finished1 ok"]);
    assert_eq!(brief(&b.watch("a", 10)), ["persist a start watches1"]);
    assert_eq!(brief(&b.run("a", Action::Stop)), ["persist a stop in flight watches0", "run2 stop a"]);
    assert_eq!(brief(&b.done(2, FAILED)), ["persist a stop watches0", "finished3 failed: error (1)"]);
    b.run("a", Action::Stop);
    assert_eq!(brief(&b.done(3, Outcome::Ok)), ["forget a", "finished4 ok"]);
    assert_eq!(brief(&b.run("b", Action::Monitor)), ["run4 monitor b"], "a look keeps nothing");
}

#[test]
fn a_successor_goes_on_watching_and_tells_what_was_interrupted() {
    let mut first = durable();
    let mut held: std::collections::BTreeMap<_, Held> = std::collections::BTreeMap::new();
    let mut note = |outputs: Vec<Output>| {
        for output in outputs {
            if let Output::Persist { resource, held: now } = output {
                held.remove(&resource);
                held.extend(now.map(|h| (resource, *h)));
            }
        }
    };
    note(first.run("a", Action::Start));
    note(first.done(1, Outcome::Ok));
    note(first.watch("a", 10));
    note(first.run("b", Action::Start));
    note(first.watch("c", 10));
    let mut second = durable();
    second.executor.restore(second.now, held.into_values());
    assert_eq!(brief(&second.outputs()), ["interrupted start b"]);
    assert_eq!(second.executor.load(second.now).watches, 2);
    let mut seen: Vec<String> = (0..2).flat_map(|_| brief(&second.wait())).collect();
    seen.sort();
    let named: Vec<&str> = seen.iter().filter_map(|s| s.split_once(' ').map(|(_, what)| what)).collect();
    assert_eq!(named.len(), 2);
    assert!(named.contains(&"monitor a") && named.contains(&"monitor c"), "{seen:?}");
}
