//! Goal: who calls a plug-in through a `Caller` is never held up, and hears of each call exactly once, whatever the plug-in does.
//! Method: a plug-in in this process that answers when it is told to.
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]
#![expect(clippy::disallowed_methods, reason = "it meets threads in real time")]

use parking_lot::{Condvar, Mutex};
use pils::Value;
use pils::plugin::{CALLS_MAX, CallError, Caller, Description, Interface, Remote};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

/// Answers `ask` at once, and `hang` once its gate is open.
struct Gate {
    description: Description,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn new() -> Arc<Self> {
        let description = Description {
            plugin_type: "gate".into(),
            name: "gate".into(),
            version: "1".into(),
            interface: Interface { major: 1, minor: 0 },
            methods: ["ask", "hang"].map(str::to_owned).into(),
        };
        Arc::new(Self { description, open: Mutex::new(false), opened: Condvar::new() })
    }

    fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }
}

impl Remote for Gate {
    fn description(&self) -> &Description {
        &self.description
    }

    fn call(&self, method: &str, params: &[Value]) -> Result<Value, CallError> {
        if method == "hang" {
            let mut open = self.open.lock();
            self.opened.wait_while(&mut open, |open| !*open);
        }
        Ok(Value::from(params.to_vec()))
    }
}

fn call(caller: &Caller, method: &str, limit: Duration) -> Receiver<Result<Value, CallError>> {
    let (tell, told) = channel();
    let _pending = caller.call(method, vec![7.into()], limit, move |answer| tell.send(answer).unwrap());
    told
}

#[test]
fn an_answer_comes_once() {
    let caller = Caller::new(Gate::new());
    let told = call(&caller, "ask", LONG);
    assert_eq!(told.recv_timeout(LONG).unwrap(), Ok(Value::from(vec![Value::from(7)])));
    assert!(told.recv().is_err(), "whoever is told is used up");
}

#[test]
fn a_call_is_over_when_its_time_is_and_when_it_is_cancelled_though_the_plug_in_hangs() {
    let gate = Gate::new();
    let caller = Caller::new(Arc::clone(&gate) as Arc<dyn Remote>);
    let begun = Instant::now();
    let short = Duration::from_millis(50);
    let told = call(&caller, "hang", short);
    assert_eq!(told.recv_timeout(LONG).unwrap(), Err(CallError::TimedOut(short)));
    let (tell, told) = channel();
    let pending = caller.call("hang", Vec::new(), LONG, move |answer| tell.send(answer).unwrap());
    pending.cancel();
    pending.cancel();
    assert_eq!(told.recv_timeout(LONG).unwrap(), Err(CallError::Cancelled));
    assert!(begun.elapsed() < LONG / 2, "nobody waited for the plug-in");
    let told = call(&caller, "ask", Duration::ZERO);
    assert_eq!(told.recv_timeout(LONG).unwrap(), Err(CallError::TimedOut(Duration::ZERO)));
    gate.open();
}

#[test]
fn a_plug_in_that_hangs_holds_a_bounded_number_of_threads() {
    let gate = Gate::new();
    let caller = Caller::new(Arc::clone(&gate) as Arc<dyn Remote>);
    let waiting: Vec<_> = (0..CALLS_MAX).map(|_| call(&caller, "hang", LONG)).collect();
    let told = call(&caller.clone(), "ask", LONG);
    assert_eq!(told.recv_timeout(LONG).unwrap(), Err(CallError::Busy(CALLS_MAX)), "clones share the bound");
    gate.open();
    for told in waiting {
        assert!(told.recv_timeout(LONG).unwrap().is_ok());
    }
    assert!(call(&caller, "ask", LONG).recv_timeout(LONG).unwrap().is_ok(), "there is room again");
}
