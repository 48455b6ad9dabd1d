//! Recovery domains: what to do about value blocks that failures have made invalid.

use super::{LockGuard, LockOrder, LockOrderError, Locks, Place};
use core::fmt;
use core::time::Duration;
use ocf_dlm::cluster::OrderError;
use ocf_dlm::wire::{Mark, Outcome};
use ocf_dlm::{Flags, LockError, Mode, RequestError, Wait, check_names};

/// A part in the recovery domain of a lockspace, as long as this lives. Meanwhile, from when the masters of its locks hear of it, a lock of the
/// lockspace whose block became invalid because its writer died, was purged or released by force is kept, although nobody
/// has it. When the last part of the cluster is gone, what was kept is forgotten. That of a program beside a node ends with its connection.
#[must_use = "when it is dropped, it is over"]
pub struct LockDomain {
    locks: Locks,
    space: String,
}

/// The resources to repair, of one collector in the cluster at a time. Dropping it without [`LockCollection::validate`], or the
/// end of its process or node, leaves them to the next.
#[derive(Debug)]
#[must_use = "when it is dropped, others may collect"]
pub struct LockCollection {
    guard: LockGuard,
    names: Vec<Vec<u8>>,
    complete: bool,
}

impl Locks {
    /// Takes part in the recovery domain of a lockspace.
    ///
    /// # Errors
    /// [`LockError::Refused`] beyond [`DOMAINS_MAX`](ocf_dlm::wire::DOMAINS_MAX) lockspaces of this node, or if a program may not
    /// lock in that one. [`LockError::Lost`] if the node has stopped.
    pub fn attach_domain(&self, space: &str) -> Result<LockDomain, LockError> {
        check_names(space, b"-")?;
        self.backend.take_part(space, true)?;
        Ok(LockDomain { locks: self.clone(), space: space.to_owned() })
    }
}

impl LockDomain {
    /// The resources whose blocks failures have made invalid, to be repaired by the caller. Waits at most `patience`, also for a recovery
    /// that is under way. A holder that left is a failure when it is proven to act no more.
    ///
    /// # Errors
    /// [`OrderError::NotCollector`] if somebody else does that at present, wherever in the cluster. See [`LockOrderError`].
    pub fn collect(&self, patience: Duration) -> Result<LockCollection, LockOrderError> {
        let place = Place::Collector { space: &self.space };
        // What the collector was at work on when it failed is kept for the next one anyway.
        let asked = self.locks.ask_with(place, Mode::Ex, Wait::No.into(), Flags::NODOMAIN);
        let guard = asked.and_then(super::PendingLock::wait).map_err(|error| match error {
            LockError::WouldBlock => OrderError::NotCollector.into(),
            LockError::Refused(RequestError::NotAllowed(_)) => LockOrderError::NotAllowed,
            LockError::Refused(_) => OrderError::Limit.into(),
            LockError::Lost | LockError::TimedOut | LockError::Deadlock | LockError::Cancelled | _ => {
                OrderError::NotPrimary.into()
            }
        })?;
        let outcome = self.locks.order(&LockOrder::Collect(guard.id()), patience)?;
        let Outcome::Marks { marks, missed, .. } = outcome else {
            return Err(super::orders::unexpected(&outcome));
        };
        let names = marks.iter().filter_map(Mark::name).map(<[u8]>::to_vec).collect();
        Ok(LockCollection { guard, names, complete: !missed })
    }

    /// Leaves the domain, and says that no value block of the lockspace can be trusted: all become invalid, on every node. Waits at most
    /// `patience`.
    ///
    /// # Errors
    /// See [`LockOrderError`]: some may be, and this has left the domain.
    pub fn detach_invalidating(self, patience: Duration) -> Result<(), LockOrderError> {
        self.locks.order(&LockOrder::Invalidate(self.space.clone()), patience).map(drop)
    }
}

impl LockCollection {
    /// The names of the resources, in order.
    #[must_use]
    pub fn names(&self) -> &[Vec<u8>] {
        &self.names
    }

    /// False if a node had more to keep than it may ([`Config::repair_max`](ocf_dlm::cluster::Config::repair_max)): some are missing.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// They are repaired: their blocks are valid again, and zero, but for those that were written meanwhile, and those that became
    /// invalid anew. True if further failures have left more to repair. Waits at most `patience`.
    ///
    /// # Errors
    /// See [`LockOrderError`]. They may be valid or not: what is not is collected by the next one.
    pub fn validate(self, patience: Duration) -> Result<bool, LockOrderError> {
        let outcome = self.guard.locks.order(&LockOrder::Validate(self.guard.id()), patience)?;
        if let Outcome::Validated { more } = outcome {
            Ok(more)
        } else {
            Err(super::orders::unexpected(&outcome))
        }
    }
}

impl Drop for LockDomain {
    fn drop(&mut self) {
        if let Err(error) = self.locks.backend.take_part(&self.space, false) {
            tracing::debug!(%error, space = self.space, "the node has stopped");
        }
    }
}

impl fmt::Debug for LockDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockDomain({})", self.space)
    }
}
