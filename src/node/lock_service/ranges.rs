//! The bytes of objects that programs lock.

use super::{LockService, Notices, OfObject, PROGRAM_LOCKS_MAX, Program};
use crate::locks::wire::{self, HeldRanges, LockRange, UnlockRange, What};
use crate::locks::{Bytes, News};
use crate::node::locks::{range_ask, transaction_of};
use ocf_dlm::cluster::{Completed, RangeStep};
use ocf_dlm::range::RangeSet;
use ocf_dlm::wire::Key;
use ocf_dlm::{ClientId, FencingToken, Flags, Remarks, RequestError, Status, Wait, check_names};
use std::sync::Arc;

impl LockService {
    /// Asks for bytes, or about them; how it ends is told.
    pub(super) fn lock_range(&self, program: &Arc<Program>, ask: &LockRange) {
        let tag = ask.tag;
        match self.ask_range(program, ask) {
            Ok(RangeStep::Asked(_)) => {}
            Ok(RangeStep::Held) => program.say(tag, What::of(&News::Completed(held_already(ask)))),
            // The program may have had bytes before: the tag stays.
            Err(refused) => program.refuse(tag, refused, true),
        }
    }

    fn ask_range(&self, program: &Arc<Program>, ask: &LockRange) -> Result<RangeStep, RequestError> {
        let key = self.object(program, &ask.object)?;
        let bytes = ask.range.bytes().ok_or(RANGE_WITHOUT_MEANING)?;
        let (owner, wait) = (ask.object.owner, if ask.at_once { Wait::No } else { ask.wait.into() });
        let asked = self.handle.call(|stack, host, now| {
            let mut state = program.state.lock();
            let known = state.owners.get(&owner).map(|(client, _)| *client);
            let client = known.unwrap_or_else(|| ClientId::new(host.locks().new_client()));
            if stack.range_owner(client, &key).is_none() && state.count() >= PROGRAM_LOCKS_MAX {
                return Err(RequestError::Limit("PROGRAM_LOCKS_MAX"));
            }
            let transaction =
                ask.transaction.map(|number| transaction_of(program.info.credentials.uid, number));
            let range = range_ask((client, transaction), &key, bytes, (now, wait));
            let step = match ask.test {
                true => RangeStep::Asked(stack.test_range(now, range)?),
                false => stack.lock_range(now, range)?,
            };
            if let RangeStep::Asked(lock) = step {
                let of = OfObject { tag: ask.tag, owner };
                if !ask.test && state.ranges.insert(lock, of).is_none() {
                    state.owners.entry(owner).or_insert((client, 0)).1 += 1;
                }
                // Before the outputs of this call are carried out.
                let notices = Notices { program: Arc::clone(program), tag: ask.tag, bytes: Some(lock) };
                host.locks().add(lock, Arc::new(notices));
            }
            Ok(step)
        });
        asked.unwrap_or(Err(RequestError::NotPrimary))
    }

    /// The object, if the program may lock in its lockspace.
    fn object(&self, program: &Program, object: &wire::Object) -> Result<Key, RequestError> {
        let name: Vec<u8> = object.name.clone().try_into().unwrap_or_default();
        check_names(&object.space, &name)?;
        if let Some(barred) = program.barred {
            return Err(barred);
        }
        if !self.may_lock(&program.info, &object.space) {
            return Err(RequestError::NotAllowed(wire::NOT_LISTED));
        }
        Ok(Key::object(object.space.as_bytes(), &name))
    }

    /// Gives up bytes.
    pub(super) fn unlock_range(&self, program: &Program, unlock: &UnlockRange) -> Result<(), RequestError> {
        let key = self.object(program, &unlock.object)?;
        let Bytes { range, .. } = unlock.range.bytes().ok_or(RANGE_WITHOUT_MEANING)?;
        let done = self.handle.call(|stack, host, now| {
            let mut state = program.state.lock();
            let known = state.owners.get(&unlock.object.owner).map(|(client, _)| *client);
            let Some(client) = known else { return Ok(()) };
            let Some(lock) = stack.range_owner(client, &key) else { return Ok(()) };
            stack.unlock_range(now, client, &key, range)?;
            if stack.range_owner(client, &key).is_none() {
                host.locks().remove(lock);
                state.forget_range(lock);
            }
            Ok(())
        });
        done.unwrap_or(Err(RequestError::NotPrimary))
    }

    /// Gives up all that an owner has of an object, and what is under way.
    pub(super) fn close_object(&self, program: &Program, object: &wire::Object) -> Result<(), RequestError> {
        let key = self.object(program, object)?;
        let done = self.handle.call(|stack, host, now| {
            let mut state = program.state.lock();
            let known = state.owners.get(&object.owner).map(|(client, _)| *client);
            let lock = known.and_then(|client| stack.range_owner(client, &key));
            let Some(lock) = lock else { return Ok(()) };
            host.locks().remove(lock);
            state.forget_range(lock);
            stack.unlock(now, lock, Flags::FORCEUNLOCK, None)
        });
        done.unwrap_or(Err(RequestError::NotPrimary))
    }

    /// What is certainly held of an object, and for how long if nothing is heard from other nodes.
    pub(super) fn held_ranges(&self, program: &Program, object: &wire::Object) -> Option<HeldRanges> {
        if self.handle.stopped().is_some() {
            return None;
        }
        let key = self.object(program, object).ok()?;
        let known = program.state.lock().owners.get(&object.owner).map(|(client, _)| *client);
        let Some(client) = known else {
            return Some(HeldRanges { left: i64::MAX.unsigned_abs(), ranges: Vec::new() });
        };
        let clock = self.handle.clock();
        // The time is read when it is this call's turn.
        let look = self.handle.inspect(|stack, _, _| stack.ranges_held(clock.now(), client, &key));
        let (left, held) = look.ok().flatten()?;
        let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs());
        let range = |(range, kind): &_| Bytes { range: *range, kind: *kind }.into();
        Some(HeldRanges { left, ranges: held.as_slice().iter().map(range).collect() })
    }
}

/// The program says bytes that no program of this version says.
const RANGE_WITHOUT_MEANING: RequestError =
    RequestError::NotAllowed("a range is two numbers, the first not above the last");

/// How an operation ends that asks for bytes of which nothing is missing.
fn held_already(ask: &LockRange) -> Completed {
    Completed {
        lock: ask.tag,
        client: ClientId::new(0),
        status: Status::Granted,
        held: ask.range.bytes().map(|bytes| RangeSet::of(bytes.range, bytes.kind).mode()),
        token: FencingToken::default(),
        remarks: Remarks::default(),
        value: None,
    }
}
