//! The value block as a number that many change without converting their locks.

use super::Shard;
use crate::identity::LockId;
use crate::mode::Mode;
use crate::resource::{Home, Lock};
use crate::status::RequestError;

/// An atomic operation on the first eight bytes of a value block, as a number, lowest byte first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberOp {
    /// The number.
    Read,
    /// Sets it; the result is the new one.
    Set(u64),
    /// Adds one, from the highest to zero; the result is the new one.
    Increment,
    /// Raises it to at least this; the result is the new one.
    Raise(u64),
}

impl NumberOp {
    /// What it makes of `old`; `None` if it only reads.
    #[must_use]
    pub fn changes(self, old: u64) -> Option<u64> {
        match self {
            Self::Read => None,
            Self::Set(to) => Some(to),
            Self::Increment => Some(old.wrapping_add(1)),
            Self::Raise(least) => Some(old.max(least)),
        }
    }
}

impl Shard {
    /// Carries out `operation` for the holder of a lock, in any mode: reading as if it asked for CR, changing as if it asked
    /// for CW, but without asking. A change makes the block valid.
    ///
    /// Source: IBM's and OpenDLM's operations on system commit numbers.
    ///
    /// # Errors
    /// [`RequestError::Busy`] if the lock is not granted, or others hold what excludes it; [`RequestError::NotMaster`] if
    /// the resource is not decided here.
    pub fn number(&mut self, lock: LockId, operation: NumberOp) -> Result<u64, RequestError> {
        let at = self.place(lock)?;
        let Lock { resource, held: Some(held), asked: None, .. } = self.locks[at] else {
            return Err(RequestError::Busy);
        };
        let found = &self.resources[resource];
        if found.home() != Home::Local {
            return Err(RequestError::NotMaster);
        }
        let asked = if operation == NumberOp::Read { Mode::Cr } else { Mode::Cw };
        if found.frozen || found.is_in_conflict(Some(held), asked) {
            return Err(RequestError::Busy);
        }
        let block = self.value_of(resource);
        let Some(number) = operation.changes(block.number()) else { return Ok(block.number()) };
        self.set_value(resource, &block.with_number(number));
        Ok(number)
    }
}
