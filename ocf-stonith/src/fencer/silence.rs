//! Devices of the class `watchdog`: nobody is asked, and the end of a life is a matter of time.

use super::{Authority, Fencer, sabotaged};
use crate::request::{Phase, Running, Silence};
use crate::{AttemptId, Event, Evidence, Failure, FenceAction, ReadBack};
use core::time::Duration;
use pils::{Instant, NodeId, NodeInstance};
use std::sync::Arc;

/// How long after its last lease has run out a life with an armed watchdog of this time has ended: three times as long, and a thirtieth
/// of that for clocks. Once it may still be kept quiet by the last good word, once the thread that does so may be held up with its
/// mind made up, and once the watchdog itself waits.
#[must_use]
pub fn watchdog_wait(watchdog: Duration) -> Duration {
    watchdog.saturating_mul(31) / 10
}

impl Fencer {
    /// From now on this life is not in the primary partition, in which this node is, and no lease that it had is valid. It said of itself
    /// that its watchdog is armed and hears good words from the primary partition alone: so its machine has ended
    /// [`watchdog_wait`] after this, and a device of the class `watchdog` confirms it then.
    ///
    /// To be said before it is requested, and, for every request that stands, in every view without its target and whenever this node
    /// has become certain again that it is in the primary partition. What was said is void as soon as it is not. A life that never said
    /// it is left to other devices, and to people. Nothing happens if no such device is for the node, or more than `requests_max` are
    /// silent.
    pub fn silent(&mut self, now: Instant, target: NodeInstance, watchdog: Duration) {
        let wait = if sabotaged!(self, CountOnce) { watchdog } else { watchdog_wait(watchdog) };
        if self.silences.len() >= self.config.requests_max {
            let requests = &self.requests;
            self.silences.retain(|silent, _| requests.contains_key(silent));
        }
        let full = self.silences.len() >= self.config.requests_max;
        if full
            || self.authority != Authority::Granted
            || self.silences.contains_key(&target)
            || !self.relies_on_watchdog(target.node)
        {
            return;
        }
        self.silences.insert(target, Silence { watchdog, over: now + wait });
        // It may have been refused a moment ago.
        if let Some(standing) = self.requests.get_mut(&target)
            && matches!(standing.phase, Phase::Waiting { .. })
            && standing.attempts > 0
        {
            standing.phase = Phase::Waiting { until: now };
            self.run_due(now);
        }
    }

    /// This life is in the primary partition, whatever was said before. To be said for every request that stands, in every view with its
    /// target: a request may stand on, as for a member that could not stop something.
    pub fn heard(&mut self, now: Instant, target: NodeInstance) {
        self.void(now, target, "this life is a member again");
    }

    /// True if the end of this node is counted on where it is outside the primary partition: a device of the class `watchdog` is for it.
    #[must_use]
    pub fn relies_on_watchdog(&self, node: NodeId) -> bool {
        let devices = self.config.plan(node).into_iter().flatten();
        devices.filter_map(|place| self.config.devices.get(place)).any(crate::DeviceConfig::is_watchdog)
    }

    /// A watchdog's turn has come.
    pub(super) fn count(&mut self, now: Instant, target: NodeInstance, place: usize) {
        let (Some(device), Some(standing)) = (self.config.devices.get(place), self.requests.get_mut(&target))
        else {
            return;
        };
        self.last_attempt += 1;
        let attempt = AttemptId(self.last_attempt);
        let name: Arc<str> = Arc::from(device.name.as_str());
        let unarmed =
            Silence { watchdog: Duration::from_secs(1), over: now + watchdog_wait(Duration::from_secs(1)) };
        if sabotaged!(self, CountUnarmed) {
            self.silences.entry(target).or_insert(unarmed);
        }
        let silent = self.silences.get(&target).copied();
        let until = silent.map_or(now, |silent| silent.over);
        standing.attempts += 1;
        let action = FenceAction::Off;
        let run =
            Running { attempt, place, device: name.clone(), action, began: now, timeout: until - now, until };
        standing.phase = Phase::Counting(run.clone());
        self.stats.attempts += 1;
        self.emit(Event::AttemptStarted { target, attempt, device: name, action });
        if silent.is_none() {
            let detail = "this life is a member, or never said that its watchdog is armed";
            self.uncounted(now, target, &run, detail);
        } else if until <= now {
            self.counted(now, target, &run);
        }
    }

    /// The time is over.
    pub(super) fn counted(&mut self, now: Instant, target: NodeInstance, run: &Running) {
        let Some(standing) = self.requests.get_mut(&target) else { return };
        let Some(Silence { watchdog, .. }) = self.silences.get(&target).copied() else { return };
        standing.phase = Phase::Waiting { until: now };
        standing.tried(now, run, None);
        let wait = watchdog_wait(watchdog);
        let detail = Arc::from(format!("its watchdog of {watchdog:?} was armed, and {wait:?} are over"));
        let evidence = Evidence {
            device: run.device.clone(),
            read_back: ReadBack::SelfFenced,
            at: now,
            took: now - standing.since,
            detail,
        };
        standing.prove(run.place, evidence);
        self.next_attempt(now, target);
    }

    fn uncounted(&mut self, now: Instant, target: NodeInstance, run: &Running, why: &str) {
        if let Some(standing) = self.requests.get_mut(&target) {
            standing.phase = Phase::Waiting { until: now };
        }
        self.attempt_failed(now, target, run, Failure::Refused { detail: Arc::from(why) });
    }

    /// This node is not sure any more that it is in the primary partition: another one may be, with any of the silent.
    pub(super) fn forget_silence(&mut self, now: Instant) {
        let all: Vec<_> = self.silences.keys().copied().collect();
        for target in all {
            self.void(now, target, "this node was not certain any more that it is in the primary partition");
        }
    }

    fn void(&mut self, now: Instant, target: NodeInstance, why: &str) {
        self.silences.remove(&target);
        let phase = self.requests.get(&target).map(|standing| standing.phase.clone());
        if let Some(Phase::Counting(run)) = phase {
            self.uncounted(now, target, &run, why);
        }
    }
}
