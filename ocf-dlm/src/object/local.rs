//! The byte ranges of one lockspace of one process.

use super::{ObjectRanges, RangeRequest, Turn, Turns};
use crate::client::{LockError, Wait};
use crate::identity::FencingToken;
use crate::range::{Range, RangeAnswer, RangeKind, RangeLocks, RangeOwner, RangeWait};
use crate::status::RequestError;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// The ranges of one lockspace of one process.
#[derive(Debug, Default)]
pub(crate) struct SpaceRanges {
    state: Mutex<State>,
    granted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    table: RangeLocks,
    waits: BTreeMap<RangeWait, Waiting>,
    /// Who has which object in use.
    open: BTreeSet<(RangeOwner, Box<[u8]>)>,
    /// Grants to writers so far.
    issued: u64,
}

#[derive(Debug)]
struct Waiting {
    kind: RangeKind,
    /// It was granted, and nobody took that yet.
    granted: Option<FencingToken>,
    waker: Option<Waker>,
}

impl State {
    /// The token of a grant, which no earlier one of a writer has.
    fn issue(&mut self, kind: RangeKind) -> FencingToken {
        self.issued += u64::from(kind == RangeKind::Exclusive);
        FencingToken { epoch: 0, sequence: self.issued }
    }

    /// Notes what was granted by a change; returns who is to be woken for it when the table is let go.
    fn note_granted(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(wait) = self.table.poll_granted() {
            let Some(kind) = self.waits.get(&wait).map(|waiting| waiting.kind) else { continue };
            let token = self.issue(kind);
            if let Some(waiting) = self.waits.get_mut(&wait) {
                waiting.granted = Some(token);
                wakers.extend(waiting.waker.take());
            }
        }
        wakers
    }

    /// Takes what was granted.
    fn take(&mut self, wait: RangeWait) -> Option<FencingToken> {
        let token = self.waits.get(&wait)?.granted?;
        self.waits.remove(&wait);
        Some(token)
    }

    /// Ends a wait, unless it was granted: then that is taken.
    fn give_up(&mut self, wait: RangeWait) -> Option<FencingToken> {
        if self.table.cancel(wait) {
            self.waits.remove(&wait);
            return None;
        }
        self.take(wait)
    }
}

impl SpaceRanges {
    /// The object, for that owner.
    pub(crate) fn open(self: Arc<Self>, owner: RangeOwner, object: &[u8]) -> Result<LocalRanges, LockError> {
        if !self.state.lock().open.insert((owner, object.into())) {
            return Err(RequestError::Busy.into());
        }
        let (turns, token) = (Turns::default(), Mutex::default());
        Ok(LocalRanges { space: self, owner, object: object.into(), turns, token })
    }

    /// Changes the table, then tells those that got something by that.
    fn change<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = work(&mut state);
        let wakers = state.note_granted();
        drop(state);
        self.granted.notify_all();
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    /// Waits until it is granted. `None`: it was not until then, and is given up.
    fn wait(&self, wait: RangeWait, until: Option<Instant>) -> Option<FencingToken> {
        let mut state = self.state.lock();
        loop {
            if let Some(token) = state.take(wait) {
                return Some(token);
            }
            match until {
                None => self.granted.wait(&mut state),
                Some(until) if self.granted.wait_until(&mut state, until).timed_out() => break,
                Some(_) => {}
            }
        }
        drop(state);
        self.change(|state| state.give_up(wait))
    }
}

/// An object of one process, for one owner.
#[derive(Debug)]
pub(crate) struct LocalRanges {
    space: Arc<SpaceRanges>,
    owner: RangeOwner,
    object: Box<[u8]>,
    turns: Turns,
    /// Of the last grant.
    token: Mutex<FencingToken>,
}

impl LocalRanges {
    /// Asks for bytes; they are granted at once, or waited for.
    fn ask(&self, range: Range, kind: RangeKind, at_once: bool) -> Result<Option<RangeWait>, LockError> {
        let asked = self.space.change(|state| {
            let answer = if at_once {
                state.table.lock(self.owner, &self.object, range, kind).map(|()| RangeAnswer::Granted)
            } else {
                state.table.lock_or_wait(self.owner, &self.object, range, kind)
            };
            Ok::<_, LockError>(match answer? {
                RangeAnswer::Granted => Ok(state.issue(kind)),
                RangeAnswer::Waits(wait) => {
                    state.waits.insert(wait, Waiting { kind, granted: None, waker: None });
                    Err(wait)
                }
            })
        })?;
        Ok(asked.map(|token| self.note(token)).err())
    }

    fn note(&self, token: FencingToken) {
        *self.token.lock() = token;
    }

    #[expect(clippy::disallowed_methods, reason = "a call that waits on its thread measures how long")]
    fn until(wait: Wait) -> Option<Instant> {
        if let Wait::For(limit) = wait { Instant::now().checked_add(limit) } else { None }
    }

    fn wait(&self, wait: RangeWait, until: Option<Instant>) -> Result<(), LockError> {
        self.space.wait(wait, until).map(|token| self.note(token)).ok_or(LockError::TimedOut)
    }
}

impl ObjectRanges for LocalRanges {
    fn lock_range(&self, range: Range, kind: RangeKind, wait: Wait) -> Result<(), LockError> {
        let (_turn, wait) = self.turns.take(wait)?;
        let until = Self::until(wait);
        match self.ask(range, kind, wait == Wait::No)? {
            None => Ok(()),
            Some(wait) => self.wait(wait, until),
        }
    }

    fn lock_range_later<'a>(
        &'a self,
        range: Range,
        kind: RangeKind,
        wait: Wait,
    ) -> Result<Box<dyn RangeRequest + 'a>, LockError> {
        let turn = self.turns.take_for_request()?;
        let until = Self::until(wait);
        let waits = self.ask(range, kind, wait == Wait::No)?;
        Ok(Box::new(Requested { ranges: self, waits, until, _turn: turn }))
    }

    fn token(&self) -> Result<FencingToken, LockError> {
        Ok(*self.token.lock())
    }

    fn unlock_range(&self, range: Range) -> Result<(), LockError> {
        let (_turn, _) = self.turns.take(Wait::Forever)?;
        Ok(self.space.change(|state| state.table.unlock(self.owner, &self.object, range))?)
    }

    fn test_range(&self, range: Range, kind: RangeKind) -> Result<Option<(Range, RangeKind)>, LockError> {
        let found = self.space.state.lock().table.test(self.owner, &self.object, range, kind);
        Ok(found.map(|held| (held.range, held.kind)))
    }

    fn held_ranges(&self) -> Result<Vec<(Range, RangeKind)>, LockError> {
        let state = self.space.state.lock();
        let mine = state.table.held(&self.object).iter().filter(|held| held.owner == self.owner);
        Ok(mine.map(|held| (held.range, held.kind)).collect())
    }
}

impl Drop for LocalRanges {
    fn drop(&mut self) {
        let object = core::mem::take(&mut self.object);
        self.space.change(|state| {
            state.table.give_up(self.owner, &object);
            state.open.remove(&(self.owner, object));
        });
    }
}

/// Bytes that were asked for.
#[derive(Debug)]
struct Requested<'a> {
    ranges: &'a LocalRanges,
    /// `None` once it is over.
    waits: Option<RangeWait>,
    until: Option<Instant>,
    /// Given back after the wait is taken back.
    _turn: Turn<'a>,
}

impl Future for Requested<'_> {
    type Output = Result<(), LockError>;

    #[expect(clippy::disallowed_methods, reason = "it ends in time if somebody looks")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(wait) = self.waits else { return Poll::Ready(Ok(())) };
        let late = self.until.is_some_and(|until| until <= Instant::now());
        let end = if late {
            self.ranges.wait(wait, Some(Instant::now()))
        } else {
            let mut state = self.ranges.space.state.lock();
            match state.take(wait) {
                Some(token) => {
                    drop(state);
                    self.ranges.note(token);
                    Ok(())
                }
                None => {
                    if let Some(waiting) = state.waits.get_mut(&wait) {
                        waiting.waker = Some(context.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        };
        self.waits = None;
        Poll::Ready(end)
    }
}

impl RangeRequest for Requested<'_> {
    fn wait(mut self: Box<Self>) -> Result<(), LockError> {
        match self.waits.take() {
            None => Ok(()),
            Some(wait) => self.ranges.wait(wait, self.until),
        }
    }
}

impl Drop for Requested<'_> {
    fn drop(&mut self) {
        let Some(wait) = self.waits.take() else { return };
        if let Some(token) = self.ranges.space.change(|state| state.give_up(wait)) {
            self.ranges.note(token);
        }
    }
}
