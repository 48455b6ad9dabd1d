//! Whether the devices are well, and which plugs they have.

use super::Fencer;
use super::orders::{Order, Purpose};
use crate::{DeviceResult, Event, Failure, FenceAction, HOSTS_MAX, Hosts};
use core::time::Duration;
use pils::{Incarnation, Instant, NodeId, NodeInstance};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the last health check of a device brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Which device.
    pub device: Arc<str>,
    /// When it was checked last, in nanoseconds of the node's clock.
    pub checked_nanos: Option<u64>,
    /// What is wrong with it.
    pub failure: Option<Failure>,
    /// Failed checks since it was last well.
    pub failures: u32,
    /// The plugs it listed last, with `hosts = "list"`.
    pub hosts: Option<Vec<Arc<str>>>,
}

/// The health checks of one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Check {
    /// `None` while one is under way.
    next: Option<Instant>,
    checked: Option<Instant>,
    failure: Option<Failure>,
    failures: u32,
    hosts: Option<BTreeSet<Arc<str>>>,
}

impl Check {
    /// The first check is due at once.
    pub(super) fn new() -> Self {
        Self { next: Some(Instant::ZERO), ..Self::default() }
    }
}

impl Fencer {
    /// What the health checks of the devices brought, in the order of the configuration.
    pub fn health(&self) -> impl Iterator<Item = Health> {
        self.config.devices.iter().zip(&self.checks).map(|(device, check)| Health {
            device: Arc::from(device.name.as_str()),
            checked_nanos: check.checked.map(Instant::as_nanos),
            failure: check.failure.clone(),
            failures: check.failures,
            hosts: check.hosts.as_ref().map(|hosts| hosts.iter().cloned().collect()),
        })
    }

    /// When the next health check is due.
    pub(super) fn health_at(&self) -> Option<Instant> {
        if self.config.health_every_ms == 0 {
            return None;
        }
        self.checks.iter().filter_map(|check| check.next).min()
    }

    pub(super) fn health_due(&mut self, now: Instant) {
        if self.health_at().is_none_or(|at| at > now) {
            return;
        }
        let nobody = NodeInstance::new(self.local, Incarnation::new(0));
        for place in 0..self.checks.len() {
            let Some(check) = self.checks.get_mut(place).filter(|c| c.next.is_some_and(|at| at <= now))
            else {
                continue;
            };
            check.next = None;
            self.stats.checks += 1;
            let lists = self.config.devices.get(place).is_some_and(|d| d.hosts == Hosts::List);
            let action = if lists { FenceAction::List } else { FenceAction::Monitor };
            self.order(now, Purpose::Health, (nobody, place), action);
        }
    }

    pub(super) fn on_health(&mut self, now: Instant, order: &Order, result: DeviceResult) {
        let every = self.config.health_every_ms;
        let pause = self.rng.between(every - every / 10, every.saturating_add(every / 10));
        let Some(check) = self.checks.get_mut(order.place) else { return };
        check.next = Some(now + Duration::from_millis(pause.max(1)));
        let device = order.device.clone();
        let failure = match result {
            // It cannot be asked: that says nothing about it.
            DeviceResult::Failed(Failure::Refused { .. }) => return,
            DeviceResult::Failed(failure) => Some(failure),
            DeviceResult::Hosts { hosts } => {
                check.hosts = Some(hosts.into_iter().take(HOSTS_MAX).collect());
                None
            }
            DeviceResult::Done { .. } => None,
        };
        check.checked = Some(now);
        let was_well = check.failure.is_none();
        check.failure.clone_from(&failure);
        match failure {
            Some(failure) => {
                check.failures = check.failures.saturating_add(1);
                if was_well {
                    self.emit(Event::DeviceFailed { device, failure });
                }
            }
            None => {
                check.failures = 0;
                if !was_well {
                    self.emit(Event::DeviceRecovered { device });
                }
            }
        }
    }

    /// False if the device was asked for its plugs and does not have the one of this node. One that names no plug for the
    /// node has to list its number.
    pub(super) fn lists(&self, place: usize, node: NodeId) -> bool {
        let (Some(device), Some(check)) = (self.config.devices.get(place), self.checks.get(place)) else {
            return false;
        };
        let Some(hosts) = check.hosts.as_ref().filter(|_| device.hosts == Hosts::List) else { return true };
        let plug = device.target(node).and_then(|t| t.plug).unwrap_or_else(|| node.raw().to_string());
        hosts.contains(plug.as_str())
    }
}
