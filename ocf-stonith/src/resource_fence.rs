//! Fencing of single resources: the node lives, and loses its access to one of them.
//!
//! [`ResourceFence`] is the seam; [`ScsiFence`] the decision logic of SCSI-3 persistent reservations over typed commands
//! ([`Reservations`]), `driver::AddressFence` a packet filter, and `driver::AccessDevice` makes a
//! [`FenceDevice`](crate::FenceDevice) of any of them, with `unfence = true` in its configuration.

use crate::Failure;
use core::fmt;
use pils::NodeId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Something that can take a node's access to a resource, and give it back. Object-safe; calls block, and are idempotent.
pub trait ResourceFence: Send + Sync + fmt::Debug {
    /// Takes the access of a node. `Ok` only if it was looked at afterwards, and is gone.
    ///
    /// # Errors
    /// Why it is not known to be gone.
    fn revoke(&self, node: NodeId) -> Result<(), Failure>;

    /// Gives a node access. `Ok` only if it was looked at afterwards, and is there.
    ///
    /// # Errors
    /// Why it is not known to be there.
    fn grant(&self, node: NodeId) -> Result<(), Failure>;

    /// True if the node has access, wholly or in part.
    ///
    /// # Errors
    /// Why that is not known.
    fn has_access(&self, node: NodeId) -> Result<bool, Failure>;
}

/// The reservation of type 5: only those that are registered write.
pub const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: u8 = 5;

/// Who holds the reservation of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its key.
    pub key: u64,
    /// Its type.
    pub kind: u8,
}

/// The persistent-reservation commands that fencing needs, on the disks of this machine.
pub trait Reservations: Send + Sync + fmt::Debug {
    /// The keys that are registered.
    ///
    /// # Errors
    /// What the disk or the way to it says; so are those of the other commands.
    fn keys(&self, disk: &str) -> Result<Vec<u64>, Failure>;
    /// Who holds the reservation.
    ///
    /// # Errors
    /// See [`Reservations::keys`].
    fn reservation(&self, disk: &str) -> Result<Option<Reservation>, Failure>;
    /// Registers this machine with `key`, whatever key it had.
    ///
    /// # Errors
    /// See [`Reservations::keys`].
    fn register(&self, disk: &str, key: u64) -> Result<(), Failure>;
    /// Reserves with `key`, which this machine has registered.
    ///
    /// # Errors
    /// See [`Reservations::keys`].
    fn reserve(&self, disk: &str, key: u64, kind: u8) -> Result<(), Failure>;
    /// Removes the registration `victim` and ends its commands; takes its reservation over if it holds it.
    ///
    /// # Errors
    /// See [`Reservations::keys`].
    fn preempt_and_abort(&self, disk: &str, own: u64, victim: u64) -> Result<(), Failure>;
}

/// The keys with which a cluster registers its nodes: the upper half names the cluster, the lower the node.
#[must_use]
pub fn key_of(cluster: u32, node: NodeId) -> u64 {
    (u64::from(cluster) << 32) | u64::from(node.raw())
}

/// Fencing by SCSI-3 persistent reservations on a set of shared disks.
///
/// `grant` is for the own node alone, since a machine can register only itself. Its own registration is never removed.
#[derive(Debug)]
pub struct ScsiFence<R> {
    commands: R,
    disks: Vec<Arc<str>>,
    local: NodeId,
    cluster: u32,
}

impl<R: Reservations> ScsiFence<R> {
    /// For these disks, on the node `local`. `cluster` must not be zero: a key of zero is none.
    pub fn new(commands: R, disks: impl IntoIterator<Item = Arc<str>>, local: NodeId, cluster: u32) -> Self {
        let disks: BTreeSet<_> = disks.into_iter().collect();
        Self { commands, disks: disks.into_iter().collect(), local, cluster: cluster.max(1) }
    }

    fn key(&self, node: NodeId) -> u64 {
        key_of(self.cluster, node)
    }

    /// Makes sure that this node is registered, and that somebody holds the reservation.
    fn join(&self, disk: &str) -> Result<(), Failure> {
        let own = self.key(self.local);
        if !self.commands.keys(disk)?.contains(&own) {
            self.commands.register(disk, own)?;
        }
        if self.commands.reservation(disk)?.is_none() {
            // Another node may be faster: what counts is what is read afterwards.
            if let Err(failure) = self.commands.reserve(disk, own, WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
                && self.commands.reservation(disk)?.is_none()
            {
                return Err(failure);
            }
        }
        self.check_reservation(disk)?;
        if self.commands.keys(disk)?.contains(&own) {
            Ok(())
        } else {
            Err(unverified(disk, "this node's key is not registered"))
        }
    }

    fn check_reservation(&self, disk: &str) -> Result<(), Failure> {
        match self.commands.reservation(disk)? {
            Some(held) if held.kind == WRITE_EXCLUSIVE_REGISTRANTS_ONLY => Ok(()),
            Some(held) => Err(unverified(disk, &format!("the reservation has type {}", held.kind))),
            None => Err(unverified(disk, "nobody holds the reservation, so everybody may write")),
        }
    }

    fn each(&self, mut what: impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
        if self.disks.is_empty() {
            return Err(Failure::Refused { detail: Arc::from("no disk is named") });
        }
        // Every disk is tried: what can be taken is taken. The first failure is told.
        let results: Vec<_> = self.disks.iter().map(|disk| what(disk)).collect();
        results.into_iter().collect()
    }
}

fn unverified(disk: &str, what: &str) -> Failure {
    Failure::NotVerified { detail: Arc::from(format!("{disk}: {what}")) }
}

impl<R: Reservations> ResourceFence for ScsiFence<R> {
    fn revoke(&self, node: NodeId) -> Result<(), Failure> {
        if node == self.local {
            return Err(Failure::Refused { detail: Arc::from("a node does not remove its own key") });
        }
        let (own, victim) = (self.key(self.local), self.key(node));
        self.each(|disk| {
            self.join(disk)?;
            if self.commands.keys(disk)?.contains(&victim) {
                self.commands.preempt_and_abort(disk, own, victim)?;
            }
            if self.commands.keys(disk)?.contains(&victim) {
                return Err(unverified(disk, "the key is still registered"));
            }
            self.check_reservation(disk)
        })
    }

    fn grant(&self, node: NodeId) -> Result<(), Failure> {
        if node != self.local {
            let detail = Arc::from("a machine can register only itself: run this on the node");
            return Err(Failure::Refused { detail });
        }
        self.each(|disk| self.join(disk))
    }

    fn has_access(&self, node: NodeId) -> Result<bool, Failure> {
        let key = self.key(node);
        let mut any = false;
        self.each(|disk| {
            any |= self.commands.keys(disk)?.contains(&key) || self.commands.reservation(disk)?.is_none();
            Ok(())
        })?;
        Ok(any)
    }
}
