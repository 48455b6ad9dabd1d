//! What a node needs before it may run anything: its access.

use super::orders::{Order, Purpose};
use super::{Authority, Fencer};
use crate::{Event, Failure, FenceAction};
use pils::{Instant, NodeId, NodeInstance};
use std::collections::BTreeSet;

/// Why a node is not unfenced. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfenceError {
    /// This node is not (surely) in the primary partition.
    #[error("this node may not give {0} access now")]
    NoAuthority(NodeInstance),
    /// A fence request stands for the node.
    #[error("{0} is being fenced")]
    BeingFenced(NodeId),
    /// An order to give the node its access that nobody waits for any more has not ended. Ask again.
    #[error("an earlier order to give {0} access is still ending")]
    Busy(NodeId),
    /// This very life was fenced: it is over.
    #[error("{0} was fenced")]
    Fenced(NodeInstance),
    /// Too many orders about nodes are under way.
    #[error("{limit} orders are under way already")]
    Full {
        /// The limit: `Config::requests_max`.
        limit: usize,
    },
}

impl Fencer {
    /// Has every device of the node with `unfence = true` give it access. [`Event::Unfenced`] tells when it has all of it,
    /// at once if there is no such device. Only then may resources that need the access start there.
    ///
    /// # Errors
    /// See [`UnfenceError`]; nothing has changed.
    pub fn unfence(&mut self, now: Instant, target: NodeInstance) -> Result<(), UnfenceError> {
        if self.authority != Authority::Granted {
            return Err(UnfenceError::NoAuthority(target));
        }
        if self.is_being_fenced(target.node) {
            return Err(UnfenceError::BeingFenced(target.node));
        }
        if self.history.confirmed(target).is_some() {
            return Err(UnfenceError::Fenced(target));
        }
        if self.unfencing.contains_key(&target) {
            return Ok(());
        }
        let ending = |o: &Order| o.purpose == Purpose::Unfence && o.target.node == target.node;
        if self.orders.values().any(ending) {
            return Err(UnfenceError::Busy(target.node));
        }
        let devices = self.config.devices.iter().enumerate();
        let giving = devices.filter(|(_, d)| d.unfence && d.target(target.node).is_some());
        let giving: BTreeSet<_> = giving.map(|(place, _)| place).collect();
        if giving.is_empty() {
            self.emit(Event::Unfenced { target });
            return Ok(());
        }
        let limit = self.config.requests_max;
        if self.orders_about_nodes() + giving.len() > limit.max(giving.len()) {
            return Err(UnfenceError::Full { limit });
        }
        self.unfencing.insert(target, giving.clone());
        for place in giving {
            self.order(now, Purpose::Unfence, (target, place), FenceAction::On);
        }
        Ok(())
    }

    /// Ends every unfencing: this node may not give access any more.
    pub(super) fn stop_unfencing(&mut self) {
        let all: Vec<_> = self.unfencing.keys().copied().collect();
        for target in all {
            let device = self.orders.values().find(|o| o.purpose == Purpose::Unfence && o.target == target);
            let device = device.map_or_else(|| "".into(), |o| o.device.clone());
            self.unfence_failed(target, device, Failure::Cancelled);
        }
    }
}
