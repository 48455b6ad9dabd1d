//! Groups of locks: all or none.

use crate::client::{LockError, Wait};
use crate::manager::{HeldLock, LockOwner, LockRequest};
use crate::mode::Mode;
use crate::status::RequestError;
use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

/// One lock of a [`LockGroup`] that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLock<'a> {
    /// The lockspace.
    pub space: &'a str,
    /// The resource.
    pub name: &'a [u8],
    /// The mode.
    pub mode: Mode,
}

/// Locks that are held together: either all of them were granted, or none is held. Over any [`LockOwner`], of one process, a node or a
/// program beside one. Dropping it releases them all.
///
/// First all are asked for at once, without waiting for others: what is free costs the time of one lock. If any is not, what was granted
/// is given back, and they are locked one after the other in the order of their names, whatever the order in which they are listed. So
/// groups never wait for each other in a circle; with single locks they may, and the one that is denied gets [`LockError::Deadlock`] and holds nothing.
///
/// ```
/// use ocf_dlm::{GroupLock, LocalLocks, LockError, LockGroup, LockManager, Mode, Wait};
///
/// let owner = LocalLocks::default().owner()?;
/// let account = |name| GroupLock { space: "accounts", name, mode: Mode::Ex };
/// let both = LockGroup::lock(&*owner, &[account(b"savings"), account(b"current")], Wait::Forever)?;
/// both.check()?; // all are held now
/// println!("show this to savings: {}", both.locks()[0].token()?);
/// both.release()?;
/// # Ok::<(), LockError>(())
/// ```
#[derive(Debug)]
#[must_use = "a group that is dropped is released"]
pub struct LockGroup(Vec<Box<dyn HeldLock>>);

impl LockGroup {
    /// Locks all of `wanted`, waiting as long as `wait` says for all together. One message after the other if any is held by others, all at a time if not.
    ///
    /// # Errors
    /// As [`LockOwner::lock`]; none is held then. [`LockError::Refused`] with [`RequestError::Busy`] if a resource is listed twice.
    pub fn lock(owner: &dyn LockOwner, wanted: &[GroupLock<'_>], wait: Wait) -> Result<Self, LockError> {
        let mut gathering = Gathering::begin(owner, wanted, wait)?;
        while let Some(request) = gathering.next()? {
            gathering.take(request.wait())?;
        }
        Ok(gathering.finish())
    }

    /// As [`LockGroup::lock`], awaited on any executor. Dropped before, nothing is held. The end of `wait` needs what that of a
    /// [`LockRequest`] needs.
    ///
    /// # Errors
    /// As [`LockGroup::lock`].
    pub async fn lock_later(
        owner: &dyn LockOwner,
        wanted: &[GroupLock<'_>],
        wait: Wait,
    ) -> Result<Self, LockError> {
        let mut gathering = Gathering::begin(owner, wanted, wait)?;
        while let Some(request) = gathering.next()? {
            let end = request.await;
            gathering.take(end)?;
        }
        Ok(gathering.finish())
    }

    /// The locks, in the order in which they were listed.
    #[must_use]
    pub fn locks(&self) -> &[Box<dyn HeldLock>] {
        &self.0
    }

    /// Whether all are certainly held now.
    ///
    /// # Errors
    /// [`LockError::Lost`] if others may have one of them by now.
    pub fn check(&self) -> Result<(), LockError> {
        // Each was held since before the first of these looks.
        self.0.iter().try_for_each(|lock| lock.check())
    }

    /// Gives all back, and leaves the value blocks as they were. To write them, [`LockGroup::into_locks`].
    ///
    /// # Errors
    /// [`LockError::Lost`] if one of them was lost: all are given back all the same.
    pub fn release(self) -> Result<(), LockError> {
        self.0.into_iter().map(|lock| lock.release(None)).fold(Ok(()), Result::and)
    }

    /// The locks by themselves, in the order in which they were listed: each is released, converted or written alone from now on.
    #[must_use = "a lock that is dropped is released"]
    pub fn into_locks(self) -> Vec<Box<dyn HeldLock>> {
        self.0
    }
}

/// A group that is not complete.
struct Gathering<'a> {
    owner: &'a dyn LockOwner,
    /// In the order of names, each with its place in the list.
    wanted: Vec<(usize, GroupLock<'a>)>,
    wait: Wait,
    until: Option<Instant>,
    /// Those that are asked for at once.
    asked: VecDeque<Box<dyn LockRequest>>,
    /// One after the other.
    in_turn: bool,
    /// The first of `wanted`.
    held: Vec<Box<dyn HeldLock>>,
}

impl<'a> Gathering<'a> {
    #[expect(clippy::disallowed_methods, reason = "who waits for several locks measures how long")]
    fn begin(owner: &'a dyn LockOwner, wanted: &[GroupLock<'a>], wait: Wait) -> Result<Self, LockError> {
        let mut wanted: Vec<(usize, GroupLock<'a>)> = wanted.iter().copied().enumerate().collect();
        wanted.sort_by_key(|(_, lock)| (lock.space, lock.name));
        let same = |pair: &[(usize, GroupLock<'_>)]| {
            (pair[0].1.space, pair[0].1.name) == (pair[1].1.space, pair[1].1.name)
        };
        if wanted.windows(2).any(same) {
            return Err(RequestError::Busy.into());
        }
        let until = if let Wait::For(limit) = wait { Instant::now().checked_add(limit) } else { None };
        let (asked, held) = (VecDeque::new(), Vec::with_capacity(wanted.len()));
        let mut gathering = Self { owner, wanted, wait, until, asked, in_turn: false, held };
        let ask =
            |(_, lock): &(usize, GroupLock<'_>)| owner.request(lock.space, lock.name, lock.mode, Wait::No);
        match gathering.wanted.iter().map(ask).collect() {
            Ok(asked) => gathering.asked = asked,
            Err(error) => gathering.fail(error)?,
        }
        Ok(gathering)
    }

    /// The request to wait for next. `None`: all are held.
    fn next(&mut self) -> Result<Option<Box<dyn LockRequest>>, LockError> {
        if let Some(request) = self.asked.pop_front() {
            return Ok(Some(request));
        }
        let Some((_, lock)) = self.wanted.get(self.held.len()) else { return Ok(None) };
        self.owner.request(lock.space, lock.name, lock.mode, self.left()?).map(Some)
    }

    /// Takes the end of the request that [`Gathering::next`] gave.
    fn take(&mut self, end: Result<Box<dyn HeldLock>, LockError>) -> Result<(), LockError> {
        match end {
            Ok(lock) => self.held.push(lock),
            Err(error) => self.fail(error)?,
        }
        Ok(())
    }

    /// One is not to be had: an error, or all anew, one after the other.
    fn fail(&mut self, error: LockError) -> Result<(), LockError> {
        if self.in_turn || self.wait == Wait::No {
            return Err(error);
        }
        self.in_turn = true;
        self.asked.clear();
        self.held.clear();
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "who waits for several locks measures how long")]
    fn left(&self) -> Result<Wait, LockError> {
        let Some(until) = self.until else { return Ok(self.wait) };
        let left = until.saturating_duration_since(Instant::now());
        if left == Duration::ZERO { Err(LockError::TimedOut) } else { Ok(Wait::For(left)) }
    }

    fn finish(self) -> LockGroup {
        let places = self.wanted.iter().map(|(place, _)| *place);
        let mut placed: Vec<_> = places.zip(self.held).collect();
        placed.sort_by_key(|(place, _)| *place);
        LockGroup(placed.into_iter().map(|(_, lock)| lock).collect())
    }
}
