//! What programs ask about their waits, the orders that they give, and what they leave behind.

use super::{LockService, PROGRAM_MARKS_BYTES, PROGRAM_ORDERS_MAX, Program};
use crate::locks::wire::{self, Domain, Order, Reply, ToldWait, WireKey};
use ocf_comm::rpc::{Body, Responder};
use ocf_dlm::cluster::{Engine, OrderError, Waiting};
use ocf_dlm::wire::{Key, Outcome};
use ocf_dlm::{ClientId, RequestError, check_names};
use pils::Instant;
use std::sync::Arc;

/// An order of a program that will be answered: at the latest when this is dropped.
struct Ordered {
    program: Arc<Program>,
    answer: Option<Responder<Body>>,
}

impl Ordered {
    fn answer(mut self, reply: &Reply) {
        if let Some(answer) = self.answer.take() {
            answer.answer(Body::of(reply));
        }
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        self.program.state.lock().orders -= 1;
    }
}

/// What a program is told of what has come of an order.
fn reply(outcome: Option<Outcome>) -> Reply {
    if let Some(Outcome::Marks { marks, .. }) = &outcome
        && marks.iter().map(|mark| mark.tree.len()).sum::<usize>() > PROGRAM_MARKS_BYTES
    {
        return Reply::TooMany;
    }
    Reply::of(outcome)
}

/// What of an order is for the lock manager.
type Give = Box<dyn FnOnce(&mut Engine, Instant) -> Result<u64, OrderError>>;

impl LockService {
    /// Each of the program's operations that waits; those for bytes by the tag of the object.
    pub(super) fn waits(&self, program: &Program) -> Vec<ToldWait> {
        let clock = self.handle.clock();
        let locks = program.state.lock().known_as();
        let look = self.handle.inspect(|stack, _, _| {
            let now = clock.now();
            let wait = |(lock, known)| stack.lock_waits(now, lock).map(|wait| (wait, known));
            locks.into_iter().filter_map(wait).collect()
        });
        let mut waits: Vec<(Waiting, (u64, u32))> = look.unwrap_or_default();
        waits.sort_by_key(|(wait, _)| core::cmp::Reverse(wait.age));
        waits.into_iter().map(|(wait, known)| ToldWait::of(wait, known)).collect()
    }

    /// Gives an order of a program to the lock manager. The answer comes when others in the cluster have said what it came to.
    pub(super) fn order(&self, program: &Arc<Program>, order: Order, answer: Responder<Body>) {
        {
            let mut state = program.state.lock();
            if state.orders >= PROGRAM_ORDERS_MAX {
                return answer.answer(Body::of(&Reply::Limit));
            }
            state.orders += 1;
        }
        let ordered = Ordered { program: Arc::clone(program), answer: Some(answer) };
        let give = match self.understand(program, order) {
            Ok(give) => give,
            Err(reply) => return ordered.answer(&reply),
        };
        let given = self.handle.call(|stack, host, now| {
            match stack.order_of_locks(now, |engine| give(engine, now)) {
                Ok(ticket) => {
                    host.locks().await_report(ticket, move |outcome| ordered.answer(&reply(outcome)));
                }
                Err(refused) => ordered.answer(&Reply::refused(refused)),
            }
        });
        tracing::trace!(runs = given.is_ok(), "a program gives an order about locks");
    }

    /// What the lock manager is told, if the program may say so.
    fn understand(&self, program: &Program, order: Order) -> Result<Give, Reply> {
        let lock = |tag, why| program.state.lock().operation(tag).ok_or(why);
        let allowed =
            |key: WireKey| key.key().filter(|key| self.may_lock_there(program, key)).ok_or(Reply::NotAllowed);
        Ok(match order {
            Order::Why(tag) => {
                let lock = lock(tag, Reply::NotWaiting)?;
                Box::new(move |engine, now| engine.explain(now, lock))
            }
            Order::Look(key) => {
                let key = allowed(key)?;
                Box::new(move |engine, now| engine.inquire(now, key))
            }
            Order::Purge(node, key) => {
                let key = allowed(key)?;
                let (pid, name) = (program.pid(), &program.info.name);
                tracing::info!(pid, name, %node, "a program purges locks of a resource that outlived their owners");
                Box::new(move |engine, now| engine.purge_resource(now, node, key))
            }
            // Only who may lock in the lockspace has the lock that this takes.
            Order::Collect(tag) => {
                let lock = lock(tag, Reply::NotCollector)?;
                Box::new(move |engine, now| engine.collect(now, lock))
            }
            Order::Validate(tag) => {
                let lock = lock(tag, Reply::NotCollector)?;
                Box::new(move |engine, now| engine.validate(now, lock))
            }
            Order::Invalidate(space) => {
                // Who takes no part in the domain has no say in it.
                if !program.state.lock().domains.contains_key(&space) {
                    return Err(Reply::NotAllowed);
                }
                Box::new(move |engine, now| engine.invalidate(now, space.as_bytes()))
            }
        })
    }

    /// The program takes part in the recovery domain of a lockspace once more, or once less.
    pub(super) fn take_part(
        &self,
        program: &Program,
        Domain { space, more }: &Domain,
    ) -> Result<(), RequestError> {
        check_names(space, b"-")?;
        if let Some(barred) = program.barred {
            return Err(barred);
        }
        if *more && !self.may_lock(&program.info, space) {
            return Err(RequestError::NotAllowed(wire::NOT_LISTED));
        }
        let done = self.handle.call(|stack, _, now| {
            let mut state = program.state.lock();
            if state.gone {
                return Err(RequestError::NotPrimary);
            }
            let before = state.domains.get(space).copied().unwrap_or(0);
            let after = if *more { before + 1 } else { before.saturating_sub(1) };
            if (before == 0) != (after == 0) {
                stack.lock_domain(now, space.as_bytes(), *more)?;
            }
            if after == 0 {
                state.domains.remove(space);
            } else {
                state.domains.insert(space.clone(), after);
            }
            Ok(())
        });
        done.unwrap_or(Err(RequestError::NotPrimary))
    }

    /// The program's connection has ended: it takes no part in any recovery domain any more.
    pub(super) fn leave_domains(&self, program: &Program) {
        let left = self.handle.call(|stack, _, now| {
            let domains = core::mem::take(&mut program.state.lock().domains);
            for space in domains.keys() {
                if let Err(error) = stack.lock_domain(now, space.as_bytes(), false) {
                    tracing::debug!(%error, "the node has no locks any more");
                }
            }
        });
        tracing::trace!(runs = left.is_ok(), "a program leaves its recovery domains");
    }

    /// One of the program's owners ends; its locks are lost to it, and those that last become orphans. How many there were.
    pub(super) fn end_owner(&self, program: &Program, owner: u32) -> u64 {
        let known = program.state.lock().owners.get(&owner).map(|(client, _)| *client);
        let Some(client) = known else { return 0 };
        let ended = self.handle.call(|stack, host, now| host.locks().end_owner(stack, now, client));
        u64::try_from(ended.unwrap_or(0)).unwrap_or(u64::MAX)
    }

    /// The orphans of this node in lockspaces in which the program may lock.
    pub(super) fn orphans(&self, program: &Program) -> wire::Orphans {
        let all = self.handle.inspect(|stack, _, _| stack.orphans()).unwrap_or_default();
        let theirs: Vec<_> =
            all.into_iter().filter(|orphan| self.may_lock_there(program, &orphan.key)).collect();
        wire::Orphans::of(&theirs)
    }

    /// Releases orphans of this node: those that one client left, or all, in lockspaces in which the program may lock.
    pub(super) fn purge(&self, program: &Program, client: Option<u32>) -> u32 {
        let doomed = |of: ClientId, key: &Key| {
            client.is_none_or(|client| of.raw() == client) && self.may_lock_there(program, key)
        };
        let went = self.handle.call(|stack, _, now| stack.purge_orphans(now, doomed)).unwrap_or(0);
        if went > 0 {
            let (pid, name) = (program.pid(), &program.info.name);
            tracing::info!(pid, name, ?client, went, "a program purges locks that outlived their owner");
        }
        went
    }

    fn may_lock_there(&self, program: &Program, key: &Key) -> bool {
        let space = key.lockspace().and_then(|space| core::str::from_utf8(space).ok());
        program.barred.is_none() && space.is_some_and(|space| self.may_lock(&program.info, space))
    }
}
