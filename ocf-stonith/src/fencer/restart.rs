//! The second half of a reboot: a confirmed node is switched on again.

use super::Fencer;
use crate::request::Restart;
use crate::{AttemptId, DeviceResult, Event, Failure, FenceAction, Output, ReadBack, Run};
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::sync::Arc;

/// How often a device is asked to switch a confirmed node on again.
const RESTART_TRIES: u32 = 2;

impl Fencer {
    /// Has a device give back what it took from a node that is confirmed.
    pub(super) fn restart(&mut self, now: Instant, target: NodeInstance, place: usize) {
        let Some(device) = self.config.devices_of(target.node).nth(place) else { return };
        let restart = Restart {
            target,
            device: Arc::from(device.name.as_str()),
            plug: device.target(target.node).and_then(|t| t.plug).map(Arc::from),
            timeout: device.timeout(),
            until: Instant::MAX,
            tries: 0,
        };
        if self.restarts.len() >= self.config.requests_max {
            let failure = Failure::Refused { detail: Arc::from("too many nodes are being restarted") };
            self.emit(Event::RestartFailed { target, device: restart.device, failure });
            return;
        }
        self.run_restart(now, restart);
    }

    fn run_restart(&mut self, now: Instant, mut restart: Restart) {
        self.last_attempt += 1;
        let attempt = AttemptId(self.last_attempt);
        restart.tries += 1;
        restart.until = now + restart.timeout + Duration::from_millis(self.config.answer_grace_ms);
        let Restart { target, device, plug, timeout, .. } = restart.clone();
        let action = FenceAction::On;
        self.restarts.insert(attempt, restart);
        self.emit(Event::AttemptStarted { target, attempt, device: device.clone(), action });
        self.outputs.push_back(Output::Run(Run { attempt, device, action, target, plug, timeout }));
    }

    fn restart_failed(&mut self, now: Instant, restart: Restart, failure: Failure) {
        if restart.tries < RESTART_TRIES {
            self.run_restart(now, restart);
        } else {
            let Restart { target, device, .. } = restart;
            self.emit(Event::RestartFailed { target, device, failure });
        }
    }

    pub(super) fn on_restarted(&mut self, now: Instant, restart: Restart, result: DeviceResult) {
        match result {
            DeviceResult::Done { read_back: ReadBack::Off, .. } => {
                let detail = Arc::from("the node is still off after the device reported success");
                self.restart_failed(now, restart, Failure::Failed { detail });
            }
            DeviceResult::Done { .. } => {
                let Restart { target, device, .. } = restart;
                self.emit(Event::Restarted { target, device });
            }
            DeviceResult::Failed(failure) => self.restart_failed(now, restart, failure),
        }
    }

    /// Gives up the restarts whose time is over.
    pub(super) fn restarts_due(&mut self, now: Instant) {
        let late: Vec<_> = self.restarts.iter().filter(|(_, r)| r.until <= now).map(|(id, _)| *id).collect();
        for attempt in late {
            if let Some(restart) = self.restarts.remove(&attempt) {
                self.outputs.push_back(Output::Cancel { attempt });
                let after = restart.timeout;
                self.restart_failed(now, restart, Failure::TimedOut { after });
            }
        }
    }
}
