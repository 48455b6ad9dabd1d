//! Orders that belong to no request: switching a fenced node on again, unfencing, drills, health checks.

use super::{Fencer, sabotaged};
use crate::request::Phase;
use crate::{AttemptId, DeviceResult, Event, Failure, FenceAction, Output, ReadBack, Run};
use core::time::Duration;
use pils::{Instant, NodeId, NodeInstance};
use std::sync::Arc;

/// How often a device is asked to switch a node on.
const TRIES: u32 = 2;

/// An order that belongs to no request.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) purpose: Purpose,
    pub(super) target: NodeInstance,
    /// The device's place in the configuration.
    pub(super) place: usize,
    pub(super) action: FenceAction,
    pub(super) device: Arc<str>,
    pub(super) timeout: Duration,
    pub(super) until: Instant,
    pub(super) tries: u32,
    /// A fence request for the node came meanwhile.
    pub(super) cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Restart,
    Unfence,
    Drill,
    Health,
}

impl Fencer {
    /// Gives an order to the device at `place`. Nothing happens if there is none.
    pub(super) fn order(
        &mut self,
        now: Instant,
        purpose: Purpose,
        (target, place): (NodeInstance, usize),
        action: FenceAction,
    ) {
        let Some(device) = self.config.devices.get(place) else { return };
        let order = Order {
            purpose,
            target,
            place,
            action,
            device: Arc::from(device.name.as_str()),
            timeout: device.timeout(),
            until: Instant::MAX,
            tries: 0,
            cancelled: false,
        };
        self.give(now, order);
    }

    fn give(&mut self, now: Instant, mut order: Order) {
        self.last_attempt += 1;
        let attempt = AttemptId(self.last_attempt);
        order.tries += 1;
        order.until = now + order.timeout + Duration::from_millis(self.config.answer_grace_ms);
        let Order { target, device, timeout, action, place, .. } = order.clone();
        let about_node = order.purpose != Purpose::Health;
        let device_target = self.config.devices.get(place).and_then(|d| d.target(target.node));
        let plug = device_target.filter(|_| about_node).and_then(|t| t.plug).map(Arc::from);
        self.orders.insert(attempt, order);
        if about_node {
            self.emit(Event::AttemptStarted { target, attempt, device: device.clone(), action });
        }
        self.outputs.push_back(Output::Run(Run { attempt, device, action, target, plug, timeout }));
    }

    /// True if a request stands for any life of this node: then nothing else may be done to it.
    pub(super) fn is_being_fenced(&self, node: NodeId) -> bool {
        self.requests.keys().any(|t| t.node == node)
    }

    /// How many orders there are that are about a node.
    pub(super) fn orders_about_nodes(&self) -> usize {
        self.orders.values().filter(|o| o.purpose != Purpose::Health).count()
    }

    /// Cancels every order about this node; when the last one has ended at the latest. `None` if there is none.
    pub(super) fn quiet(&mut self, node: NodeId) -> Option<Instant> {
        let about = self.orders.iter_mut();
        let about = about.filter(|(_, o)| o.target.node == node && o.purpose != Purpose::Health);
        let mut last = None;
        for (attempt, order) in about {
            if !order.cancelled {
                order.cancelled = true;
                self.outputs.push_back(Output::Cancel { attempt: *attempt });
            }
            // A cancelled order may still be carried out, so its whole time is waited for unless it ends before.
            last = last.max(Some(order.until));
        }
        last
    }

    /// Gives up the orders whose time is over.
    pub(super) fn orders_due(&mut self, now: Instant) {
        let late: Vec<_> = self.orders.iter().filter(|(_, o)| o.until <= now).map(|(id, _)| *id).collect();
        for attempt in late {
            if let Some(order) = self.orders.remove(&attempt) {
                if !order.cancelled {
                    self.outputs.push_back(Output::Cancel { attempt });
                }
                let after = order.timeout;
                self.order_ended(now, order, DeviceResult::Failed(Failure::TimedOut { after }));
            }
        }
    }

    pub(super) fn order_ended(&mut self, now: Instant, order: Order, result: DeviceResult) {
        let node = order.target.node;
        match order.purpose {
            Purpose::Restart => self.on_restarted(now, order, result),
            Purpose::Unfence => self.on_unfenced(now, order, result),
            Purpose::Drill => self.on_drill(now, &order, result),
            Purpose::Health => {
                self.on_health(now, &order, result);
                return;
            }
        }
        let quiet = !self.orders.values().any(|o| o.target.node == node && o.purpose != Purpose::Health);
        let waiting = self
            .requests
            .iter()
            .filter(|(t, s)| t.node == node && quiet && matches!(s.phase, Phase::Quieting { .. }));
        let waiting: Vec<_> = waiting.map(|(t, _)| *t).collect();
        for target in waiting {
            self.next_attempt(now, target);
        }
    }

    /// Has a device give back what it took from a node that is confirmed.
    pub(super) fn restart(&mut self, now: Instant, target: NodeInstance, place: usize) {
        let Some(device) = self.config.devices.get(place) else { return };
        let device: Arc<str> = Arc::from(device.name.as_str());
        let refused = if self.orders_about_nodes() >= self.config.requests_max {
            "too many nodes are being switched on"
        } else if self.is_being_fenced(target.node) && !sabotaged!(self, SwitchOnMeanwhile) {
            "the node is being fenced again"
        } else {
            self.order(now, Purpose::Restart, (target, place), FenceAction::On);
            return;
        };
        let failure = Failure::Refused { detail: Arc::from(refused) };
        self.emit(Event::RestartFailed { target, device, failure });
    }

    fn on_restarted(&mut self, now: Instant, order: Order, result: DeviceResult) {
        let Order { target, device, .. } = order.clone();
        match why_not_on(&order, result) {
            None => self.emit(Event::Restarted { target, device }),
            Some(_) if order.may_try_again() => self.give(now, order),
            Some(failure) => self.emit(Event::RestartFailed { target, device, failure }),
        }
    }

    fn on_unfenced(&mut self, now: Instant, order: Order, result: DeviceResult) {
        let Order { target, device, place, .. } = order.clone();
        let Some(pending) = self.unfencing.get_mut(&target) else { return };
        match why_not_on(&order, result) {
            None => {
                pending.remove(&place);
                if pending.is_empty() {
                    self.unfencing.remove(&target);
                    self.emit(Event::Unfenced { target });
                }
            }
            Some(_) if order.may_try_again() => self.give(now, order),
            Some(failure) => self.unfence_failed(target, device, failure),
        }
    }

    /// Ends an unfencing; what else it ordered is cancelled.
    pub(super) fn unfence_failed(&mut self, target: NodeInstance, device: Arc<str>, failure: Failure) {
        if self.unfencing.remove(&target).is_none() {
            return;
        }
        for (attempt, order) in &mut self.orders {
            if order.purpose == Purpose::Unfence && order.target == target && !order.cancelled {
                order.cancelled = true;
                self.outputs.push_back(Output::Cancel { attempt: *attempt });
            }
        }
        self.emit(Event::UnfenceFailed { target, device, failure });
    }
}

impl Order {
    const fn may_try_again(&self) -> bool {
        self.tries < TRIES && !self.cancelled
    }
}

/// Why a node is not on after an order to switch it on.
fn why_not_on(order: &Order, result: DeviceResult) -> Option<Failure> {
    match result {
        DeviceResult::Done { read_back: ReadBack::Off, .. } => {
            let detail = Arc::from("the node is still off after the device reported success");
            Some(Failure::Failed { detail })
        }
        DeviceResult::Done { .. } if !order.cancelled => None,
        DeviceResult::Done { .. } => Some(Failure::Cancelled),
        DeviceResult::Hosts { .. } => {
            Some(Failure::NotVerified { detail: Arc::from("the device answered with a list of plugs") })
        }
        DeviceResult::Failed(failure) => Some(failure),
    }
}
