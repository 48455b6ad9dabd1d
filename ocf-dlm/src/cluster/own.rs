//! What a node knows of a lock of its own.

use super::client::Stop;
use super::event::Completed;
use super::keep::Keep;
use crate::range::RangeSet;
use crate::wire::{AskedRanges, ClaimedLock, Key, Value};
use crate::{ClientId, FencingToken, Flags, Mode, Remarks, Status};
use core::time::Duration;
use pils::{Instant, NodeInstance};

/// An operation under way.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Pending {
    pub(crate) mode: Mode,
    pub(crate) flags: Flags,
    pub(crate) value: Option<Value>,
    pub(crate) sent: bool,
    /// It was sent once, so a master may know of it: also of what is to be sent again because the way to it was lost.
    pub(crate) known: bool,
    pub(crate) place: Option<i64>,
    pub(crate) fence: Vec<NodeInstance>,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
    /// When a deadlock is searched for next.
    pub(crate) search: Option<Instant>,
    pub(crate) order: u64,
    pub(crate) stop: Option<Stop>,
    /// The lock holds less meanwhile: NL, to let others out of a deadlock; or CR, as a conversion between PR and CW lost its
    /// master.
    pub(crate) demoted: bool,
    /// The bytes that it is to have when it is granted, and those that it goes down to at once then.
    pub(crate) ranges: Option<Box<(RangeSet, RangeSet)>>,
}

/// The bytes of a lock that is not on the whole resource.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct OwnRanges {
    pub(crate) held: RangeSet,
    /// It is only to be told who is in the way.
    pub(crate) test: bool,
}

/// A lock of this node.
#[derive(Clone, Debug, Hash)]
pub(crate) struct ClientLock {
    pub(crate) client: ClientId,
    pub(crate) key: Key,
    pub(crate) transaction: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) children: u32,
    /// Flags of the last operation.
    pub(crate) flags: Flags,
    pub(crate) held: Option<Mode>,
    pub(crate) token: FencingToken,
    pub(crate) value: Option<Value>,
    /// The value was given with a grant above CR that is still held.
    pub(crate) value_certain: bool,
    pub(crate) value_invalid: bool,
    pub(crate) op: u32,
    /// Since when it is held as it is.
    pub(crate) since: Instant,
    pub(crate) pending: Option<Pending>,
    pub(crate) keep: Keep,
    /// `None`: it is on the whole resource.
    pub(crate) ranges: Option<Box<OwnRanges>>,
}

impl ClientLock {
    /// What is held is given up for less until the conversion under way ends: what others may write since is not known here.
    pub(crate) fn demote(&mut self, to: Mode) {
        let (Some(_), Some(pending)) = (self.held, self.pending.as_mut()) else { return };
        pending.demoted = true;
        (self.held, self.value_certain) = (Some(to), false);
    }

    /// True if the conversion under way, once it is granted, leaves nothing of what is held: PR and CW do not contain each other.
    pub(crate) fn gives_up(&self) -> bool {
        let Some(pending) = &self.pending else { return false };
        let (other, alternative) = match self.held {
            Some(Mode::Pr) => (Mode::Cw, Flags::ALTCW),
            Some(Mode::Cw) => (Mode::Pr, Flags::ALTPR),
            _ => return false,
        };
        pending.mode == other || pending.flags.has(alternative)
    }

    /// What a new master is told of it; nothing if no master knows of it.
    pub(crate) fn claim(
        &self,
        (lock, signal): (u64, u64),
        (now, orphan): (Instant, bool),
    ) -> Option<ClaimedLock> {
        let sent = self.pending.as_ref().filter(|p| p.sent);
        if self.held.is_none() && sent.is_none() {
            return None;
        }
        Some(ClaimedLock {
            lock,
            op: if self.pending.is_some() && sent.is_none() { self.op - 1 } else { self.op },
            client: self.client,
            transaction: self.transaction,
            flags: sent.map_or(self.flags, |p| p.flags) | if orphan { Flags::ORPHAN } else { Flags::NONE },
            held: self.held,
            asked: sent.map(|p| p.mode),
            place: sent.and_then(|p| p.place),
            age_ms: millis(now.since(sent.map_or(self.since, |p| p.since))),
            ranges: self.ranges.as_ref().map(|ranges| {
                let asked = sent.and_then(|p| p.ranges.as_ref()).map(|ranges| ranges.0.clone());
                Box::new((ranges.held.clone(), asked.unwrap_or_default()))
            }),
            signal: if sent.is_some() { signal } else { 0 },
        })
    }

    /// The bytes that the operation under way asks for.
    pub(crate) fn asked_ranges(&self) -> Option<Box<AskedRanges>> {
        let (own, asked) = (self.ranges.as_ref()?, self.pending.as_ref()?.ranges.as_ref()?);
        Some(Box::new(AskedRanges { set: asked.0.clone(), test: own.test }))
    }

    pub(crate) const fn completed(&self, lock: u64, status: Status) -> Completed {
        Completed {
            lock,
            client: self.client,
            status,
            held: self.held,
            token: self.token,
            remarks: Remarks { demoted: false, value_invalid: self.value_invalid, alternative: false },
            value: None,
        }
    }
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX).min(pils::wire::VARINT_MAX)
}
