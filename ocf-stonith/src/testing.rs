//! Conformance suite for those who write a fence device: what every device must keep, whatever it drives.
//!
//! ```
//! # #[cfg(feature = "driver")] {
//! use ocf_stonith::driver::Simulated;
//! ocf_stonith::testing::check(|| Simulated::new("confirm".parse().expect("a script")));
//! # }
//! ```

use crate::{AttemptId, DeviceResult, Failure, FenceAction, FenceDevice, Operation, ReadBack};
use core::time::Duration;
use pils::NodeId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

/// How much later than its timeout a device may answer, on a busy machine.
const SLACK: Duration = Duration::from_secs(20);

/// What the suite may do things to.
#[derive(Clone, Debug)]
pub struct Subject {
    /// A node that may be switched off and on.
    pub node: NodeId,
    /// What the device calls it.
    pub plug: Option<Arc<str>>,
    /// Time for one operation. A device that waits for somebody uses it up.
    pub timeout: Duration,
}

impl Default for Subject {
    /// Node 1 without a plug; 2 s.
    fn default() -> Self {
        Self { node: NodeId::new(1), plug: None, timeout: Duration::from_secs(2) }
    }
}

/// Runs the suite for node 1. `make` makes a device in its first state, with the node on.
///
/// # Panics
/// With the rule that the device breaks.
pub fn check<D: FenceDevice>(make: impl Fn() -> D) {
    check_with(&Subject::default(), make);
}

/// Runs the suite.
///
/// # Panics
/// With the rule that the device breaks.
pub fn check_with<D: FenceDevice>(subject: &Subject, make: impl Fn() -> D) {
    capabilities_are_consistent(&make());
    what_it_does_not_do_is_refused(subject, &make());
    off_is_read_back_if_it_can_be(subject, &make());
    reboot_is_read_while_off(subject, &make());
    every_operation_is_answered_once(subject, &make());
    a_cancelled_operation_is_answered_and_others_are_not_touched(subject, &make());
    nothing_hangs_without_time(subject, &make());
}

fn start(
    device: &impl FenceDevice,
    s: &Subject,
    attempt: u64,
    action: FenceAction,
) -> Receiver<DeviceResult> {
    let (tell, told) = channel();
    let operation = Operation {
        attempt: AttemptId(attempt),
        action,
        node: s.node,
        plug: s.plug.clone(),
        timeout: s.timeout,
    };
    // A receiver that is gone means that the suite has failed already.
    device.execute(operation, Box::new(move |result| tell.send(result).unwrap_or(())));
    told
}

fn answer(told: &Receiver<DeviceResult>, s: &Subject, what: &str) -> DeviceResult {
    match told.recv_timeout(s.timeout + SLACK) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("{what} was not answered long after its timeout"),
        Err(RecvTimeoutError::Disconnected) => panic!("{what} was dropped without an answer"),
    }
}

fn one(device: &impl FenceDevice, s: &Subject, action: FenceAction) -> DeviceResult {
    answer(&start(device, s, 1, action), s, &action.to_string())
}

fn capabilities_are_consistent(device: &impl FenceDevice) {
    let c = device.capabilities();
    let distinct: BTreeSet<_> = c.actions.iter().collect();
    assert_eq!(distinct.len(), c.actions.len(), "an action is listed twice: {c:?}");
    assert!(c.actions.iter().any(|a| a.is_fencing()), "a fence device does off or reboot: {c:?}");
    assert_eq!(c, device.capabilities(), "capabilities do not change");
}

fn what_it_does_not_do_is_refused(s: &Subject, device: &impl FenceDevice) {
    let c = device.capabilities();
    for action in [FenceAction::Off, FenceAction::Reboot, FenceAction::On, FenceAction::Status] {
        if !c.allows(action) {
            let result = one(device, s, action);
            let refused = matches!(result, DeviceResult::Failed(Failure::Refused { .. }));
            assert!(refused, "{action} is not among its capabilities, and gave {result:?}");
        }
    }
}

fn off_is_read_back_if_it_can_be(s: &Subject, device: &impl FenceDevice) {
    let c = device.capabilities();
    if !c.allows(FenceAction::Off) {
        return;
    }
    let DeviceResult::Done { read_back, .. } = one(device, s, FenceAction::Off) else { return };
    assert!(!c.verifies_off || read_back != ReadBack::NotRead, "it can verify, and did not");
    if read_back != ReadBack::Off {
        return;
    }
    if c.allows(FenceAction::Status) {
        let status = one(device, s, FenceAction::Status);
        let is_off = matches!(status, DeviceResult::Done { read_back: ReadBack::Off, .. });
        assert!(is_off, "off was confirmed, and status says {status:?}");
    }
    if c.allows(FenceAction::On)
        && let DeviceResult::Done { read_back, .. } = one(device, s, FenceAction::On)
    {
        assert_ne!(read_back, ReadBack::Off, "on is done, and the node read back off: that is a failure");
    }
}

fn reboot_is_read_while_off(s: &Subject, device: &impl FenceDevice) {
    let c = device.capabilities();
    if c.allows(FenceAction::Reboot)
        && let DeviceResult::Done { read_back, .. } = one(device, s, FenceAction::Reboot)
    {
        let verified = read_back.confirms_off() || !c.verifies_off;
        assert!(verified, "a reboot reports what was read while the node was off, not {read_back:?}");
    }
}

fn every_operation_is_answered_once(s: &Subject, device: &impl FenceDevice) {
    let all: Vec<_> = device.capabilities().actions.into_iter().zip(10..).collect();
    let told: Vec<_> = all.iter().map(|(action, id)| (action, start(device, s, *id, *action))).collect();
    for (action, told) in &told {
        answer(told, s, &format!("{action}, with others under way,"));
        // Once the answer is there its callback is used up, and can send no second one.
        assert_eq!(told.recv(), Err(std::sync::mpsc::RecvError), "{action} was answered twice");
    }
}

fn a_cancelled_operation_is_answered_and_others_are_not_touched(s: &Subject, device: &impl FenceDevice) {
    device.cancel(AttemptId(99));
    let action =
        if device.capabilities().allows(FenceAction::Off) { FenceAction::Off } else { FenceAction::Reboot };
    let cancelled = start(device, s, 20, action);
    device.cancel(AttemptId(20));
    answer(&cancelled, s, "a cancelled operation");
    device.cancel(AttemptId(20));
    let next = answer(&start(device, s, 21, action), s, "the operation after a cancelled one");
    assert_ne!(next, DeviceResult::Failed(Failure::Cancelled), "cancelling one operation cancels no other");
}

fn nothing_hangs_without_time(s: &Subject, device: &impl FenceDevice) {
    let hurried = Subject { timeout: Duration::ZERO, ..s.clone() };
    for action in device.capabilities().actions {
        one(device, &hurried, action);
    }
}
