//! Agents that are parts of the program: one that hangs, one that panics, one whose operation is cancelled, each told of once.
#![cfg(feature = "driver")]

use ocf_resource::driver::{InProcess, RustClass};
use ocf_resource::{
    Action, AgentClass as _, Metadata, OcfCode, Operation, OperationResult, Outcome, ResourceAgent,
};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts after a meeting, stops by panicking, and is well.
struct Stubborn(Arc<Barrier>);

impl InProcess for Stubborn {
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)> {
        if operation.action == Action::Start {
            self.0.wait();
        }
        assert_ne!(operation.action, Action::Stop, "it stops like this");
        Ok("well".to_owned())
    }

    fn metadata(&self) -> Metadata {
        Metadata::default()
    }
}

struct Bench {
    agent: Arc<dyn ResourceAgent>,
    meet: Arc<Barrier>,
    tell: Sender<OperationResult>,
    told: Receiver<OperationResult>,
}

impl Bench {
    fn new() -> Self {
        let meet = Arc::new(Barrier::new(2));
        let class = RustClass::new().with("stubborn", Arc::new(Stubborn(Arc::clone(&meet))));
        let agent = class.find(&"rust:stubborn".parse().expect("a name")).expect("it is there");
        let (tell, told) = channel();
        Self { agent, meet, tell, told }
    }

    fn begin(&self, action: Action, timeout: Duration) -> ocf_resource::Canceller {
        let name = "rust:stubborn".parse().expect("a name");
        let tell = self.tell.clone();
        let operation = Operation { timeout, ..Operation::new("r1", name, action) };
        self.agent.begin(&operation, Box::new(move |result| tell.send(result).expect("the test waits")))
    }

    fn told(&self) -> OperationResult {
        self.told.recv_timeout(PATIENCE).expect("it is told")
    }

    fn is_well(&self) {
        let _canceller = self.begin(Action::Monitor, PATIENCE);
        let result = self.told();
        assert_eq!((result.outcome, &*result.output), (Outcome::Ok, "well"));
    }
}

#[test]
fn an_operation_that_hangs_is_told_of_at_its_time_and_never_again_and_holds_up_no_other() {
    let bench = Bench::new();
    let timeout = Duration::from_millis(50);
    let _canceller = bench.begin(Action::Start, timeout);
    bench.is_well();
    let result = bench.told();
    assert_eq!(result.outcome, Outcome::TimedOut);
    assert!(result.took >= timeout, "{:?}", result.took);
    bench.meet.wait();
    // It ends now, and nobody hears of it.
    bench.is_well();
    assert!(bench.told.try_recv().is_err());
}

#[test]
fn an_operation_that_is_cancelled_is_told_of_once() {
    let bench = Bench::new();
    let canceller = bench.begin(Action::Start, PATIENCE);
    canceller.cancel();
    assert_eq!(bench.told().outcome, Outcome::Cancelled);
    bench.meet.wait();
    bench.is_well();
    assert!(bench.told.try_recv().is_err());
    // What has ended already is not ended again.
    let canceller = bench.begin(Action::Monitor, PATIENCE);
    assert_eq!(bench.told().outcome, Outcome::Ok);
    canceller.cancel();
    bench.is_well();
    assert!(bench.told.try_recv().is_err());
}

#[test]
fn an_agent_that_panics_has_failed_and_works_on() {
    let bench = Bench::new();
    let _canceller = bench.begin(Action::Stop, PATIENCE);
    let result = bench.told();
    assert_eq!(result.outcome, Outcome::Failed { code: OcfCode::Generic });
    assert_eq!(result.reason.as_deref(), Some("the agent panicked"));
    bench.is_well();
}
