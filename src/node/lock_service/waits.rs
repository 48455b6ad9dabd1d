//! What programs ask about their waits, and what they leave behind.

use super::{LockService, PROGRAM_QUESTIONS_MAX, Program};
use crate::locks::wire::{self, ToldWait, Why};
use ocf_comm::rpc::{Body, Fault, Responder};
use ocf_dlm::ClientId;
use ocf_dlm::cluster::Waiting;
use ocf_dlm::wire::Key;
use std::sync::Arc;

/// A question of a program that will be answered: at the latest when this is dropped.
struct Question {
    program: Arc<Program>,
    answer: Option<Responder<Body>>,
}

impl Question {
    fn answer(mut self, why: &Why) {
        if let Some(answer) = self.answer.take() {
            answer.answer(Body::of(why));
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.program.state.lock().questions -= 1;
    }
}

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

    /// Asks what is in the way of an operation. The answer comes when the lock's master has told.
    pub(super) fn why(&self, program: &Arc<Program>, tag: u64, answer: Responder<Body>) {
        let lock = {
            let mut state = program.state.lock();
            if state.questions >= PROGRAM_QUESTIONS_MAX {
                return answer.answer(Err(Fault::new(Fault::UNAVAILABLE, "PROGRAM_QUESTIONS_MAX")));
            }
            let Some(lock) = state.operation(tag) else {
                return answer.answer(Body::of(&Why::Nothing));
            };
            state.questions += 1;
            lock
        };
        let question = Question { program: Arc::clone(program), answer: Some(answer) };
        let asked =
            self.handle.call(|stack, host, now| match stack.order_of_locks(now, |e| e.explain(now, lock)) {
                Ok(ticket) => host
                    .locks()
                    .await_report(ticket, move |outcome| question.answer(&Why::of(outcome.as_ref()))),
                Err(refused) => question.answer(&Why::refused(refused)),
            });
        if asked.is_err() {
            tracing::debug!(tag, "the node has stopped");
        }
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
        let theirs: Vec<_> = all.into_iter().filter(|orphan| self.may_purge(program, &orphan.key)).collect();
        wire::Orphans::of(&theirs)
    }

    /// Releases orphans of this node: those that one client left, or all, in lockspaces in which the program may lock.
    pub(super) fn purge(&self, program: &Program, client: Option<u32>) -> u32 {
        let doomed = |of: ClientId, key: &Key| {
            client.is_none_or(|client| of.raw() == client) && self.may_purge(program, key)
        };
        let went = self.handle.call(|stack, _, now| stack.purge_orphans(now, doomed)).unwrap_or(0);
        if went > 0 {
            let (pid, name) = (program.pid(), &program.info.name);
            tracing::info!(pid, name, ?client, went, "a program purges locks that outlived their owner");
        }
        went
    }

    fn may_purge(&self, program: &Program, key: &Key) -> bool {
        let space = key.lockspace().and_then(|space| core::str::from_utf8(space).ok());
        program.barred.is_none() && space.is_some_and(|space| self.may_lock(&program.info, space))
    }
}
