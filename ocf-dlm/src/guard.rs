//! A held lock.

mod conversion;

pub use conversion::{Converted, PendingConversion};

use crate::client::{Ask, Client, LockError, Wait};
use crate::flags::{Flags, Remarks};
use crate::identity::{FencingToken, LockId};
use crate::manager::Wanted;
use crate::mode::{Mode, Transfer};
use crate::pending::{Awaited, Slot, Watch};
use crate::request::Completion;
use crate::value::ValueBlock;
use core::time::Duration;
use std::sync::Arc;

/// A held lock. Dropping it releases it.
///
/// While this node may act, [`LockGuard::check`] and [`LockGuard::token`] succeed. When the node stops being in the primary
/// partition they fail at once, without asking anybody, and never succeed again: others may have the lock by then. What the
/// lock protects must be told the token, so that it can refuse what comes too late: see `docs/locks.md`.
pub struct LockGuard {
    client: Client,
    id: LockId,
    mode: Mode,
    token: FencingToken,
    value: Option<ValueBlock>,
    remarks: Remarks,
    lease: u64,
    watch: Option<Watch>,
    released: bool,
}

/// The lock of a guard may be another's by now: its node stopped being in the primary partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lock {lock} is lost: this node was not in the primary partition, or its owner has ended")]
pub struct LostLock {
    /// The lock.
    pub lock: LockId,
}

impl From<LostLock> for LockError {
    fn from(_: LostLock) -> Self {
        Self::Lost
    }
}

impl LockGuard {
    pub(crate) const fn new(client: Client, completion: &Completion, lease: u64) -> Self {
        let mode = match completion.held {
            Some(mode) => mode,
            None => Mode::Nl,
        };
        Self {
            client,
            id: completion.lock,
            mode,
            token: completion.token,
            value: completion.value,
            remarks: completion.remarks,
            lease,
            watch: None,
            released: false,
        }
    }

    /// Whose it is.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Its id, for queries and as a parent.
    #[must_use]
    pub const fn id(&self) -> LockId {
        self.id
    }

    /// The mode it is held in.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the lock is certainly still held. A load of two numbers.
    ///
    /// # Errors
    /// If this node stopped being in the primary partition since the lock was granted, or its client ended.
    pub fn check(&self) -> Result<(), LostLock> {
        let client = &self.client.0;
        let held = client.space.lease() == self.lease && !client.has_ended();
        if held { Ok(()) } else { Err(LostLock { lock: self.id }) }
    }

    /// The token to show to what the lock protects.
    ///
    /// # Errors
    /// As [`LockGuard::check`].
    pub fn token(&self) -> Result<FencingToken, LostLock> {
        self.check().map(|()| self.token)
    }

    /// The value block as of the grant, if VALBLK was set and the table of directions has it read.
    #[must_use]
    pub const fn value(&self) -> Option<&ValueBlock> {
        self.value.as_ref()
    }

    /// What the last grant said beside its status.
    #[must_use]
    pub const fn remarks(&self) -> Remarks {
        self.remarks
    }

    /// Changes the mode, waiting as long as it takes. On an error the old mode is held.
    ///
    /// # Errors
    /// As [`Client::lock`]; [`LockError::Deadlock`] if two holders want what the other has.
    pub fn convert(&mut self, mode: Mode) -> Result<(), LockError> {
        self.convert_with(mode, Flags::NONE, None, Wait::Forever)
    }

    /// Changes the mode if that is possible now.
    ///
    /// # Errors
    /// [`LockError::WouldBlock`] if it is not; the old mode is held.
    pub fn try_convert(&mut self, mode: Mode) -> Result<(), LockError> {
        self.convert_with(mode, Flags::NONE, None, Wait::No)
    }

    /// Changes the mode, waiting no longer than `wait`.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] if it could not be had; the old mode is held.
    pub fn convert_timeout(&mut self, mode: Mode, wait: Duration) -> Result<(), LockError> {
        self.convert_with(mode, Flags::NONE, None, Wait::For(wait))
    }

    /// Goes down to `mode`, writing the value block if the lock is held in PW or EX and `value` is given. Never waits.
    ///
    /// # Errors
    /// [`LockError::Refused`] if that is not down; [`LockError::Lost`] if the lock is.
    pub fn downgrade(&mut self, mode: Mode, value: Option<&ValueBlock>) -> Result<(), LockError> {
        if !self.mode.is_down(mode) {
            return Err(crate::RequestError::NotQueueable { held: self.mode, asked: mode }.into());
        }
        let writes = Mode::transfer(Some(self.mode), mode) == Transfer::Write;
        let value = value.filter(|_| writes);
        let flags = if value.is_some() { Flags::VALBLK } else { Flags::NONE };
        self.convert_with(mode, flags, value, Wait::No)
    }

    /// Changes the mode as told. `value`: the block that is written, if the table of directions says so.
    ///
    /// # Errors
    /// As [`LockGuard::convert`].
    pub fn convert_with(
        &mut self,
        mode: Mode,
        flags: Flags,
        value: Option<&ValueBlock>,
        wait: Wait,
    ) -> Result<(), LockError> {
        let awaited = self.begin(mode, &Ask { flags, wait, value, ..Ask::default() })?;
        let completion = awaited.wait(&self.client.0);
        self.conclude(&completion, awaited.has_waited())
    }

    /// Asks for another mode. The end is there, or will be in a slot.
    fn begin(&self, mode: Mode, ask: &Ask<'_>) -> Result<Awaited, LockError> {
        self.check_conversion(ask)?;
        let handle = &self.client.0;
        let terms = self.client.terms(mode, ask);
        let mut slot = None;
        let answer = handle.space.convert(self.id, &terms, |lock| {
            handle.member.inbox.route(lock, slot.insert(Slot::new()).sink(self.watch.clone()));
        })?;
        Awaited::new(answer, slot, terms.deadline).ok_or(LockError::Lost)
    }

    fn check_conversion(&self, ask: &Ask<'_>) -> Result<(), LockError> {
        self.check()?;
        if ask.parent.is_some() {
            let rule = "a lock that is converted stays below the one that it is below";
            return Err(crate::RequestError::Flags { flags: ask.flags, rule }.into());
        }
        Ok(())
    }

    /// Takes the end of a conversion, after which the notices of a lock that `waited` go where they went before.
    fn conclude(&mut self, completion: &Completion, waited: bool) -> Result<(), LockError> {
        if waited {
            self.route_watch();
        }
        if let Some(held) = completion.held {
            self.mode = held;
        }
        self.remarks = completion.remarks;
        match LockError::of(completion.status) {
            Some(error) => Err(error),
            None => {
                self.token = completion.token;
                self.value = completion.value.or(self.value);
                self.check()?;
                Ok(())
            }
        }
    }

    /// Ends a conversion that waits.
    fn cancel_conversion(&self) {
        let (id, space) = (self.id, &self.client.0.space);
        space.change(id.shard(), |shard| shard.cancel(id).is_ok());
    }

    /// Calls `watch` with the wanted mode when the lock is in the way of another request, also of one that waits already.
    /// At most once for each grant and mode. It is called by the thread that is in the way's other end, with nothing of the
    /// lock manager locked.
    ///
    /// # Errors
    /// If the lock is lost.
    pub fn on_blocking(&mut self, watch: impl Fn(Mode) + Send + Sync + 'static) -> Result<(), LockError> {
        self.on_wanted(move |wanted| watch(wanted.mode))
    }

    pub(crate) fn on_wanted(
        &mut self,
        watch: impl Fn(Wanted) + Send + Sync + 'static,
    ) -> Result<(), LockError> {
        self.check()?;
        self.watch = Some(Arc::new(watch));
        self.route_watch();
        let id = self.id;
        let told = self.client.0.space.change(id.shard(), |shard| shard.watch(id));
        Ok(told.ok_or(crate::RequestError::NoSuchLock)??)
    }

    fn route_watch(&self) {
        let inbox = &self.client.0.member.inbox;
        match &self.watch {
            Some(watch) => inbox.route(self.id, Slot::new().sink(Some(Arc::clone(watch)))),
            None => inbox.unroute(self.id),
        }
    }

    /// An atomic operation on the value block as a number: see [`NumberOp`](crate::NumberOp).
    ///
    /// # Errors
    /// If another lock is in its way, or the lock is lost.
    pub fn number(&self, operation: crate::NumberOp) -> Result<u64, LockError> {
        self.check()?;
        let id = self.id;
        let result = self.client.0.space.change(id.shard(), |shard| shard.number(id, operation));
        Ok(result.ok_or(crate::RequestError::NoSuchLock)??)
    }

    /// Releases it, writing the value block if it is held in PW or EX.
    ///
    /// # Errors
    /// If it has sublocks: then it stays held by its client; or is lost.
    pub fn release(mut self, value: Option<&ValueBlock>) -> Result<(), LockError> {
        self.check()?;
        let flags = if value.is_some() { Flags::VALBLK } else { Flags::NONE };
        self.released = true;
        let (id, space) = (self.id, &self.client.0.space);
        let done = space.change(id.shard(), |shard| shard.release(id, flags, value));
        self.unwatch();
        Ok(done.ok_or(crate::RequestError::NoSuchLock)??)
    }

    /// After the release: a notice that finds no sink lies among the client's.
    fn unwatch(&self) {
        if self.watch.is_some() {
            self.client.0.member.inbox.unroute(self.id);
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if !self.released {
            self.client.0.forget(self.id, Flags::NONE);
            self.unwatch();
        }
    }
}

impl core::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LockGuard({} {})", self.id, self.mode)
    }
}
