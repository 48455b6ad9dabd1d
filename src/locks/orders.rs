//! What an operator asks of locks anywhere in the cluster, and locks that outlive their owner.

use super::{LockGuard, Locks, Place};
use core::time::Duration;
use ocf_dlm::cluster::{Holder, OrderError, WaitReason, Waiting};
use ocf_dlm::wire::{Key, OrderRefusal, OrphanLock, Outcome, ReleaseGuard, ResourceReport};
use ocf_dlm::{ClientId, Flags, LockError, LockTerms, Mode, Wait};
use pils::NodeInstance;
use std::collections::BTreeSet;
use std::thread;
use std::time::Instant;

/// How long to wait before an order is given again of which a change of the members left nothing to be heard.
const AGAIN: Duration = Duration::from_millis(20);

/// An order that was not carried out, or of which it is not known whether it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockOrderError {
    /// It was not given.
    #[error(transparent)]
    NotGiven(#[from] OrderError),
    /// It was refused, and nothing was done.
    #[error(transparent)]
    Refused(#[from] OrderRefusal),
    /// The members changed: it was carried out or not. Look at the resource.
    #[error("the members changed, and whether it was carried out is not known")]
    Interrupted,
    /// No answer came in time. It may still be carried out: the node that has the lock may be stopped.
    #[error("no answer came in time")]
    TimedOut,
    /// This program may not lock in that lockspace, or takes no part in its recovery domain.
    #[error("this user and group may not do that in that lockspace: [[api.locks]] of the node says who may")]
    NotAllowed,
    /// There is more to repair than a program is told at a time.
    #[error(
        "there is more to repair than a program is told (PROGRAM_MARKS_BYTES): collect in the node's own process"
    )]
    TooMany,
    /// This node has stopped, or its lock manager is not reached in this way.
    #[error("this node has stopped, or takes no orders here")]
    Stopped,
}

/// An order.
#[derive(Clone, Debug)]
pub(crate) enum LockOrder {
    Look(Key),
    Release(Holder, Key, Option<ReleaseGuard>),
    Purge(NodeInstance, Option<ClientId>),
    /// The end of that node's orphans of a resource.
    PurgeResource(NodeInstance, Key),
    Orphans(NodeInstance),
    Why(u64),
    /// What is to be repaired, for the collector that has this lock.
    Collect(u64),
    /// It is.
    Validate(u64),
    /// No value block of the lockspace is to be trusted.
    Invalidate(String),
}

impl LockOrder {
    /// True if nothing is different if it is carried out twice.
    const fn may_be_repeated(&self) -> bool {
        match self {
            Self::Look(_)
            | Self::PurgeResource(..)
            | Self::Orphans(_)
            | Self::Why(_)
            | Self::Collect(_)
            | Self::Validate(_)
            | Self::Invalidate(_) => true,
            Self::Release(..) | Self::Purge(..) => false,
        }
    }
}

impl Locks {
    /// Who holds the resource and who waits for it, wherever in the cluster, as its master says: node, lock, owner there, modes,
    /// and for how long. Waits at most `patience`, also for a master that is being looked for. A program beside a node may look
    /// where it may lock.
    ///
    /// # Errors
    /// See [`LockOrderError`].
    pub fn inspect(
        &self,
        space: &str,
        name: impl AsRef<[u8]>,
        patience: Duration,
    ) -> Result<ResourceReport, LockOrderError> {
        let key = Key::root(space.as_bytes(), name.as_ref());
        let outcome = self.order(&LockOrder::Look(key), patience)?;
        if let Outcome::Resource(report) = outcome { Ok(report) } else { Err(unexpected(&outcome)) }
    }

    /// Releases a lock whose owner does not give it back, whatever node it is on, with all locks below it. `holder` and the name
    /// are those that [`Locks::inspect`] told. Without `guard`, or if it does not say enough, nothing is done, and the error is
    /// [`OrderRefusal::Endangers`] with what would be at stake. Returns how many locks went.
    ///
    /// Of a member the lock goes only when its node has made the holder's guard refuse; a node that is stopped does not answer.
    /// Of a node that left the lock goes when that is fenced, without any order; before, only with
    /// [`ReleaseGuard::instead_of_fencing`].
    ///
    /// # Errors
    /// See [`LockOrderError`].
    pub fn force_release(
        &self,
        holder: Holder,
        (space, name): (&str, &[u8]),
        guard: Option<ReleaseGuard>,
        patience: Duration,
    ) -> Result<u32, LockOrderError> {
        let key = Key::root(space.as_bytes(), name);
        self.released(&LockOrder::Release(holder, key, guard), patience)
    }

    /// The orphans of a member, oldest first, and how many there are beyond those told. A program beside a node asks for those of
    /// that node, and is told of lockspaces in which it may lock.
    ///
    /// # Errors
    /// See [`LockOrderError`].
    pub fn orphans(
        &self,
        node: NodeInstance,
        patience: Duration,
    ) -> Result<(Vec<OrphanLock>, u32), LockOrderError> {
        let outcome = self.order(&LockOrder::Orphans(node), patience)?;
        if let Outcome::Orphans { locks, more } = outcome {
            Ok((locks, more))
        } else {
            Err(unexpected(&outcome))
        }
    }

    /// Releases the orphans on a member that `client` left there, or all. Returns how many went. Value blocks of those held in PW
    /// or EX become invalid. A program beside a node purges those of that node, in lockspaces in which it may lock.
    ///
    /// # Errors
    /// See [`LockOrderError`].
    pub fn purge(
        &self,
        node: NodeInstance,
        client: Option<ClientId>,
        patience: Duration,
    ) -> Result<u32, LockOrderError> {
        self.released(&LockOrder::Purge(node, client), patience)
    }

    /// Releases the orphans of a resource, whoever left them and on whichever node. Returns how many went. Value blocks of those held in
    /// PW or EX become invalid. It asks the master, then each node that has one, and waits at most `patience` for each of them. A program
    /// beside a node may do that where it may lock.
    ///
    /// # Errors
    /// See [`LockOrderError`]: some may be gone.
    pub fn purge_resource(
        &self,
        space: &str,
        name: impl AsRef<[u8]>,
        patience: Duration,
    ) -> Result<u32, LockOrderError> {
        let (name, mut went) = (name.as_ref(), 0);
        loop {
            let seen = self.inspect(space, name, patience)?;
            // Those of a node that left go when it is proven to act no more.
            let orphans = seen.locks.iter().filter(|lock| lock.orphan && !lock.departed);
            let nodes: BTreeSet<NodeInstance> = orphans.map(|lock| lock.node).collect();
            let before = went;
            for node in nodes {
                let key = Key::root(space.as_bytes(), name);
                went += self.released(&LockOrder::PurgeResource(node, key), patience)?;
            }
            // There may be more than one report tells.
            if seen.more == 0 || went == before {
                return Ok(went);
            }
        }
    }

    /// As [`Locks::waits`], and what is in the way of an operation also when another node masters the lock: node, lock, owner there,
    /// what it holds or asks for, for how long. A question to that master for each such operation, one after the other;
    /// what is not answered within `patience` stays as it was ([`WaitReason::AtMaster`], [`WaitReason::Lookup`]). What is granted meanwhile is left out.
    #[must_use]
    pub fn waits_explained(&self, patience: Duration) -> Vec<Waiting> {
        let began = Instant::now();
        let explained = |mut wait: Waiting| {
            if matches!(wait.reason, WaitReason::AtMaster(_) | WaitReason::Lookup) {
                let left = patience.saturating_sub(began.elapsed());
                match self.order(&LockOrder::Why(wait.lock), left) {
                    Ok(Outcome::InTheWay { locks, .. }) => wait.reason = WaitReason::of_blockers(locks)?,
                    Err(LockOrderError::NotGiven(OrderError::NotWaiting)) => return None,
                    other => tracing::debug!(?other, lock = wait.lock, "a wait is not explained"),
                }
            }
            Some(wait)
        };
        self.waits().into_iter().filter_map(explained).collect()
    }

    fn released(&self, order: &LockOrder, patience: Duration) -> Result<u32, LockOrderError> {
        let outcome = self.order(order, patience)?;
        if let Outcome::Released(count) = outcome { Ok(count) } else { Err(unexpected(&outcome)) }
    }

    pub(super) fn order(&self, order: &LockOrder, patience: Duration) -> Result<Outcome, LockOrderError> {
        let began = Instant::now();
        loop {
            let left = patience.saturating_sub(began.elapsed());
            let error = match self.backend.order(order.clone(), left) {
                Ok(Outcome::Refused(OrderRefusal::Recovering)) => OrderRefusal::Recovering.into(),
                Ok(Outcome::Refused(refusal)) => return Err(refusal.into()),
                Err(LockOrderError::Interrupted) if order.may_be_repeated() => LockOrderError::Interrupted,
                done => return done,
            };
            if began.elapsed().saturating_add(AGAIN) >= patience {
                return Err(error);
            }
            thread::sleep(AGAIN);
        }
    }

    /// As [`Locks::lock`], but the lock outlives this owner: when that ends ([`Locks::end`], or its process if that is a program
    /// beside the node), the lock stays held as an orphan, until somebody on this node adopts it or anybody purges it.
    ///
    /// # Errors
    /// As [`Locks::lock`].
    pub fn lock_lasting(
        &self,
        space: &str,
        name: impl AsRef<[u8]>,
        mode: Mode,
        wait: Wait,
    ) -> Result<LockGuard, LockError> {
        let terms = LockTerms { wait, lasting: true, ..LockTerms::default() };
        self.ask_with(Place::Root { space, name: name.as_ref() }, mode, terms, Flags::NONE)?.wait()
    }

    /// Takes over an orphan of this node, of exactly that mode. It does not wait.
    ///
    /// # Errors
    /// [`LockError::Refused`] with [`RequestError::NoOrphan`](ocf_dlm::RequestError::NoOrphan) if there is none.
    pub fn adopt(&self, space: &str, name: impl AsRef<[u8]>, mode: Mode) -> Result<LockGuard, LockError> {
        let place = Place::Root { space, name: name.as_ref() };
        self.ask_with(place, mode, Wait::Forever.into(), Flags::ORPHAN)?.wait()
    }

    /// Ends this owner, with all its clones: its locks are released, and value blocks that it could write are invalid. Those that are
    /// to last become orphans. Its guards refuse from now on. Returns how many locks there were.
    #[must_use]
    pub fn end(self) -> usize {
        self.backend.end_owner(self.client)
    }
}

/// Another node says what was not asked: it is of a later version.
pub(super) fn unexpected(outcome: &Outcome) -> LockOrderError {
    tracing::warn!(?outcome, "not the answer to what was asked");
    LockOrderError::Stopped
}
