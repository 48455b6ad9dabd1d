//! Proves that devices work before they are needed.

use super::Fencer;
use super::orders::{Order, Purpose};
use crate::{DeviceResult, Event, Failure, FenceAction, ReadBack};
use pils::{Instant, NodeId, NodeInstance};
use serde::Serialize;
use std::sync::Arc;

/// What a drill found out about one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which device.
    pub device: Arc<str>,
    /// What was read, in order: the state; with harm, also after `off` and after `on`.
    pub read: Vec<ReadBack>,
    /// What is wrong with it; `None` if it is proven.
    pub failure: Option<Failure>,
}

/// Why a drill does not begin. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrillError {
    /// No device fences the node: that is the finding.
    #[error("no device fences {0}")]
    NoDevice(NodeId),
    /// A node does not switch itself off.
    #[error("{0} is this node")]
    OwnNode(NodeId),
    /// A fence request stands for the node.
    #[error("{0} is being fenced")]
    BeingFenced(NodeId),
    /// A drill of the node is under way, or another order about it.
    #[error("something is being done to {0} already")]
    Busy(NodeId),
    /// Too many orders about nodes are under way.
    #[error("{limit} orders are under way already")]
    Full {
        /// The limit: `Config::requests_max`.
        limit: usize,
    },
}

/// A drill under way.
#[derive(Clone, Debug)]
pub(super) struct Drill {
    target: NodeInstance,
    harm: bool,
    who: Arc<str>,
    places: Vec<usize>,
    current: usize,
    findings: Vec<Finding>,
    read: Vec<ReadBack>,
    failure: Option<Failure>,
}

impl Fencer {
    /// Tries every device of a node, one after the other, and tells with [`Event::Drilled`] which of them are proven.
    ///
    /// Without harm the state is read, which proves way, password and plug. With harm each device also switches the node
    /// off, reads that, and switches it on again: a node with one power supply dies of it. Needs no authority, because a
    /// person asks. A fence request for the node ends the drill.
    ///
    /// # Errors
    /// See [`DrillError`]; nothing has changed.
    pub fn drill(
        &mut self,
        now: Instant,
        target: NodeInstance,
        harm: bool,
        who: &str,
    ) -> Result<(), DrillError> {
        let node = target.node;
        if harm && node == self.local {
            return Err(DrillError::OwnNode(node));
        }
        if self.is_being_fenced(node) {
            return Err(DrillError::BeingFenced(node));
        }
        let busy = |o: &Order| o.target.node == node && o.purpose != Purpose::Health;
        if self.drills.contains_key(&node) || self.orders.values().any(busy) {
            return Err(DrillError::Busy(node));
        }
        let limit = self.config.requests_max;
        if self.orders_about_nodes() >= limit {
            return Err(DrillError::Full { limit });
        }
        let able = self.config.devices.iter().enumerate().filter(|(_, d)| d.target(node).is_some());
        let places: Vec<_> = able.map(|(place, _)| place).collect();
        let Some(first) = places.first().copied() else { return Err(DrillError::NoDevice(node)) };
        let (read, findings, who) = (Vec::new(), Vec::new(), Arc::from(who));
        let drill = Drill { target, harm, who, places, current: 0, findings, read, failure: None };
        self.drills.insert(node, drill);
        self.order(now, Purpose::Drill, (target, first), FenceAction::Status);
        Ok(())
    }

    pub(super) fn on_drill(&mut self, now: Instant, order: &Order, result: DeviceResult) {
        let Some(drill) = self.drills.get_mut(&order.target.node) else { return };
        let mut next = drill.took(order, result);
        if next.is_none() {
            let (read, failure) = (std::mem::take(&mut drill.read), drill.failure.take());
            drill.findings.push(Finding { device: order.device.clone(), read, failure });
            drill.current += 1;
            next = drill.places.get(drill.current).map(|place| (*place, FenceAction::Status));
        }
        if order.cancelled {
            while let Some(place) = drill.places.get(drill.current) {
                let device = Arc::from(self.config.devices.get(*place).map_or("", |d| d.name.as_str()));
                let failure = Some(Failure::Cancelled);
                drill.findings.push(Finding { device, read: Vec::new(), failure });
                drill.current += 1;
            }
            next = None;
        }
        let target = drill.target;
        if let Some((place, action)) = next {
            self.order(now, Purpose::Drill, (target, place), action);
        } else if let Some(drill) = self.drills.remove(&target.node) {
            let Drill { harm, who, findings, .. } = drill;
            self.emit(Event::Drilled { target, harm, who, findings });
        }
    }
}

impl Drill {
    /// One step has ended. The next one with the same device, if there is one.
    fn took(&mut self, order: &Order, result: DeviceResult) -> Option<(usize, FenceAction)> {
        let failure = match (order.action, result) {
            _ if order.cancelled => Some(Failure::Cancelled),
            (_, DeviceResult::Failed(failure)) => Some(failure),
            (_, DeviceResult::Hosts { .. }) => {
                Some(Failure::NotVerified { detail: Arc::from("the device answered with a list of plugs") })
            }
            (action, DeviceResult::Done { read_back, detail }) => {
                let fits = if action == FenceAction::Off {
                    read_back.confirms_off()
                } else if action == FenceAction::On {
                    read_back != ReadBack::Off
                } else {
                    matches!(read_back, ReadBack::On | ReadBack::Off)
                };
                let wrong = if read_back == ReadBack::On {
                    Failure::StillOn
                } else if read_back == ReadBack::Off {
                    Failure::Failed { detail: Arc::from("the node is still off") }
                } else {
                    Failure::NotVerified { detail }
                };
                let off_before = self.harm && action == FenceAction::Status && read_back == ReadBack::Off;
                self.read.push(read_back);
                if off_before {
                    let detail = Arc::from("the node is off: nothing can be proven by switching it off");
                    Some(Failure::Refused { detail })
                } else if fits {
                    None
                } else {
                    Some(wrong)
                }
            }
        };
        let failed = failure.is_some();
        self.failure = self.failure.take().or(failure);
        if order.cancelled {
            None
        } else if order.action == FenceAction::Status && self.harm && !failed {
            Some((order.place, FenceAction::Off))
        } else if order.action == FenceAction::Off {
            // whatever became of off, the node is to have what it had
            Some((order.place, FenceAction::On))
        } else {
            None
        }
    }
}
