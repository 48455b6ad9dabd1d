//! The executor in virtual time: one operation per resource, limits, monitors, and drivers that do not answer.

use ocf_resource::executor::{Config, Event, Executor, Input, OperationId, Output, Request, RunId};
use ocf_resource::{Action, OcfCode, Operation, OperationResult, Outcome};
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
        self.request(|id| Request::Watch { id, operation })
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
