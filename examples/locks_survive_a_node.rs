//! Three nodes in one process share a lock over real sockets. The holder's node falls silent; its lock is not given to anybody
//! until a fence device has read back that the node is off, and then it comes with a greater token.
//!
//! `cargo run --release --example locks_survive_a_node` needs no rights, no files and no configuration. The exit status is 0
//! only if every check held.
#![expect(clippy::print_stdout, reason = "the program is there to be watched")]

use ocf::{Cluster, LockGuard, Locks};
use ocf_dlm::{LockError, Mode, ValueBlock, Wait};
use ocf_stonith::driver::DeviceClass;
use ocf_stonith::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, FenceAction, FenceDevice, Operation, ReadBack,
};
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the switch takes to cut the power and to read back that it is off.
const SWITCH: Duration = Duration::from_millis(400);
/// Nothing here takes long; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

const FENCING: &str = r#"
    [[devices]]
    name = "outlet"
    class = "switch"
    nodes = "all"
    timeout_ms = 5000
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let say = |text: String| println!("{:7.3} s  {text}", started.elapsed().as_secs_f64());
    let switch = Arc::new(Switch::default());
    let class = Arc::clone(&switch);
    let mut cluster = Cluster::builder("locks")
        .fencing(toml::from_str(FENCING)?, FenceAction::Off)
        .equip(move |node| {
            let class = Arc::new(Switches(Arc::clone(&class)));
            node.fence_class(class).locks(ocf_dlm::cluster::Config::default())
        })
        .local(3)?;
    let locks: Vec<Locks> = cluster.running().filter_map(ocf::Node::locks).collect();
    assert_eq!(locks.len(), 3, "every node takes part");

    // Waits until there is a cluster; then the first who asks masters the lock.
    let mut first = take(&locks[0], Wait::For(PATIENCE))?;
    let before = first.token()?;
    say(format!("node 1 holds the lock with token {before}"));
    assert_eq!(locks[1].try_lock("bank", "account", Mode::Pr).err(), Some(LockError::WouldBlock));

    // Another wants it: the holder is told, writes the value block and lets go.
    let other = locks[2].clone();
    let waiter = thread::spawn(move || take(&other, Wait::For(PATIENCE)));
    assert_eq!(first.wanted(PATIENCE), Some(Mode::Ex), "the holder is told of who waits");
    first.convert(Mode::Nl, Some(ValueBlock::zero(32).with_number(7)))?;
    let second = waiter.join().expect("the waiting thread does not panic")?;
    let held = second.token()?;
    assert!(held > before, "tokens grow");
    assert_eq!(second.value().map(ValueBlock::number), Some(7), "the value came along");
    say(format!("node 3 holds it with token {held}, and read what node 1 wrote"));
    drop(first);

    // The holder's node falls silent. Nobody has the lock until it is certainly off.
    cluster.kill(2);
    say("node 3 is silent".to_owned());
    assert!(second.check().is_err(), "a holder on a node that does not run is refused");
    let third = take(&locks[1], Wait::For(PATIENCE))?;
    let after = third.token()?;
    assert_eq!(switch.cuts.load(Ordering::SeqCst), 1, "the lock came after the power was cut, once");
    assert!(after > held, "tokens grow across the death of a holder");
    assert_eq!(third.value(), None, "who died could have been writing: its value is not valid");
    say(format!("node 3 is off, as its outlet says; node 2 holds the lock with token {after}"));
    third.release(None)?;
    assert!(started.elapsed() < PATIENCE, "in time");
    Ok(())
}

fn take(locks: &Locks, wait: Wait) -> Result<LockGuard, LockError> {
    locks.lock("bank", "account", Mode::Ex, wait)
}

/// A power switch that takes its time and says what it read back.
#[derive(Debug, Default)]
struct Switch {
    cuts: AtomicU32,
}

#[derive(Debug)]
struct Switches(Arc<Switch>);

impl DeviceClass for Switches {
    fn name(&self) -> &str {
        "switch"
    }

    fn describe(&self) -> &str {
        "a simulated power switch that reads back what it did"
    }

    fn check(&self, _device: &DeviceConfig, _errors: &mut ConfigErrors) {}

    fn open(&self, _device: &DeviceConfig, _runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        Ok(Arc::new(Outlet(Arc::clone(&self.0))))
    }
}

#[derive(Debug)]
struct Outlet(Arc<Switch>);

impl FenceDevice for Outlet {
    fn capabilities(&self) -> Capabilities {
        Capabilities { actions: vec![FenceAction::Off, FenceAction::Status], verifies_off: true }
    }

    fn execute(&self, operation: Operation, done: ocf_stonith::Done) {
        let switch = Arc::clone(&self.0);
        thread::spawn(move || {
            thread::sleep(SWITCH);
            if operation.action == FenceAction::Off {
                assert_eq!(operation.node, NodeId::new(3), "only the silent node is switched off");
                switch.cuts.fetch_add(1, Ordering::SeqCst);
            }
            done(DeviceResult::Done { read_back: ReadBack::Off, detail: "outlet reads off".into() });
        });
    }

    fn cancel(&self, _attempt: AttemptId) {}
}
