//! Who is granted, who waits, who is told. Sections of `PROTOCOL.md`: 2 to 4.

use super::Shard;
use crate::config::ConversionOrder;
use crate::flags::Flags;
use crate::mode::{Mode, Transfer};
use crate::request::{Answer, Blocking, Completion, Operation, Output, Terms};
use crate::resource::{Lock, Queue};
use crate::slab::NONE;
use crate::status::Status;
use crate::value::ValueBlock;
use pils::Instant;

/// Flags of requests that may be granted although they are not first.
const ANY_ORDER: Flags = Flags::NOORDER;

impl Shard {
    /// Decides a new request that is in no queue yet.
    pub(super) fn decide_request(&mut self, now: Instant, at: u32, deadline: Option<Instant>) -> Answer {
        let Lock { resource, flags, .. } = self.locks[at];
        if self.may_grant(at, true) || self.takes_alternative(at, true) {
            let completion = self.grant(at, None);
            let answer = self.report(at, completion);
            if !self.resources[resource].is_calm() {
                self.notify_pending(resource);
            }
            return answer;
        }
        if flags.has(Flags::NOQUEUE) {
            return self.refuse_request(at, Status::NotQueued);
        }
        self.enqueue(now, at, Queue::Waiting, deadline);
        self.notify_blockers(at, &[Queue::Granted]);
        let id = self.id(at);
        if flags.has(Flags::HEADQUE) {
            // It may be first now. Deviation: D3.
            self.settle(resource);
        }
        Answer::Pending(id)
    }

    /// Ends a request that is in no queue, and forgets it.
    pub(super) fn refuse_request(&mut self, at: u32, status: Status) -> Answer {
        let Lock { resource, flags, .. } = self.locks[at];
        let completion = self.completion(at, Operation::Request, status);
        let answer = self.report(at, completion);
        if flags.has(Flags::NOQUEUEBAST) {
            self.notify_blockers(at, &[Queue::Granted, Queue::Converting]);
        }
        self.resources[resource].link(&mut self.locks, at, Queue::Outside, false);
        self.remove(at);
        self.free_if_idle(resource);
        answer
    }

    /// Decides a conversion of a lock in the granted queue.
    pub(super) fn decide_conversion(&mut self, now: Instant, at: u32, terms: &Terms<'_>) -> Answer {
        let Lock { resource, .. } = self.locks[at];
        if self.may_grant(at, true) {
            return self.grant_conversion(at, terms.value);
        }
        if self.would_deadlock(at) {
            if !terms.flags.has(Flags::CONVDEADLK) {
                return self.refuse_conversion(at, Status::Deadlock);
            }
            let found = &mut self.resources[resource];
            found.recount(self.locks[at].held, Some(Mode::Nl));
            self.locks[at].held = Some(Mode::Nl);
            self.locks[at].notified = 0;
            self.locks[at].demoted = true;
            self.grant_converting(resource);
            if self.may_grant(at, true) {
                return self.grant_conversion(at, terms.value);
            }
        }
        if self.takes_alternative(at, true) {
            return self.grant_conversion(at, terms.value);
        }
        if terms.flags.has(Flags::NOQUEUE) {
            return self.refuse_conversion(at, Status::NotQueued);
        }
        self.resources[resource].unlink(&mut self.locks, at);
        self.enqueue(now, at, Queue::Converting, terms.deadline);
        self.notify_blockers(at, &[Queue::Granted]);
        let id = self.id(at);
        if self.locks[at].demoted || terms.flags.has_any(Flags::HEADQUE | Flags::NOORDER) {
            self.settle(resource);
        }
        Answer::Pending(id)
    }

    fn grant_conversion(&mut self, at: u32, value: Option<&ValueBlock>) -> Answer {
        let resource = self.locks[at].resource;
        let completion = self.grant(at, value);
        let answer = self.report(at, completion);
        self.settle(resource);
        answer
    }

    fn refuse_conversion(&mut self, at: u32, status: Status) -> Answer {
        let completion = self.completion(at, Operation::Convert, status);
        let answer = self.report(at, completion);
        if self.locks[at].flags.has(Flags::NOQUEUEBAST) && status == Status::NotQueued {
            self.notify_blockers(at, &[Queue::Granted, Queue::Converting]);
        }
        self.locks[at].asked = None;
        answer
    }

    fn enqueue(&mut self, now: Instant, at: u32, queue: Queue, deadline: Option<Instant>) {
        self.sequence += 1;
        self.locks[at].sequence = self.sequence;
        let Lock { flags, resource, demoted, .. } = self.locks[at];
        let found = &mut self.resources[resource];
        // Holding NL does not help those that it would overtake: they would wait behind it. Deviation: D2.
        found.link(&mut self.locks, at, queue, flags.has(Flags::HEADQUE) && !demoted);
        found.any_order |= flags.has_any(ANY_ORDER);
        self.wait(now, at, deadline);
    }

    /// The decision table, in its order. `fresh`: the operation was not queued before.
    ///
    /// Source: VAXcluster and Linux lock managers. Only modes that are *held* exclude; what a conversion asks for does not.
    pub(super) fn may_grant(&self, at: u32, fresh: bool) -> bool {
        let lock = &self.locks[at];
        let found = &self.resources[lock.resource];
        let asked = lock.asked.expect("an operation asks for a mode");
        if lock.flags.has(Flags::EXPEDITE) {
            return true;
        }
        if found.is_in_conflict(lock.held, asked) {
            return false;
        }
        let calm = found.is_empty(Queue::Converting);
        if let Some(held) = lock.held
            && fresh
        {
            let by_policy = self.config.conversions == ConversionOrder::Queued && !held.is_down(asked);
            let queues = by_policy || lock.flags.has(Flags::QUECVT);
            return !queues || calm;
        }
        if lock.flags.has(Flags::NOORDER) {
            return true;
        }
        match (lock.held, fresh) {
            (Some(_), _) => found.head(Queue::Converting) == at,
            (None, true) => calm && found.is_empty(Queue::Waiting),
            (None, false) => calm && found.head(Queue::Waiting) == at,
        }
    }

    /// Tries PR or CW instead, if the lock allows that; true if it can be granted so, and asks for that now.
    fn takes_alternative(&mut self, at: u32, fresh: bool) -> bool {
        let Lock { flags, asked, .. } = self.locks[at];
        let other = if flags.has(Flags::ALTPR) && asked != Some(Mode::Pr) {
            Mode::Pr
        } else if flags.has(Flags::ALTCW) && asked != Some(Mode::Cw) {
            Mode::Cw
        } else {
            return false;
        };
        self.locks[at].asked = Some(other);
        let granted = self.may_grant(at, fresh);
        if granted {
            self.locks[at].alternative = true;
        } else {
            self.locks[at].asked = asked;
        }
        granted
    }

    /// True if a conversion that cannot be granted would wait for one that waits for it.
    ///
    /// A conversion that waits ahead, and whose wish is blocked by what this one holds, will never be granted while this
    /// one waits behind it. Source: Linux lock manager. Deviation: D1, D2.
    fn would_deadlock(&self, at: u32) -> bool {
        let this = &self.locks[at];
        if this.flags.has_any(Flags::NOQUEUE | Flags::NODLCKWT) {
            return false;
        }
        let (Some(held), Some(asked)) = (this.held, this.asked) else { return false };
        let found = &self.resources[this.resource];
        let blocks = |holder: &Lock, held: Mode, asked: Mode| {
            !holder.flags.has(Flags::NODLCKBLK) && !held.is_compatible(asked)
        };
        found.queued(&self.locks, Queue::Converting).map(|other| &self.locks[other]).any(|other| {
            let (Some(other_held), Some(other_asked)) = (other.held, other.asked) else { return false };
            if other.flags.has(Flags::NODLCKWT) {
                return false;
            }
            let ahead = blocks(this, held, other_asked);
            // At the head of the queue this one would hold up those behind it by order alone.
            let behind = this.flags.has(Flags::HEADQUE)
                && !other.flags.has(Flags::NOORDER)
                && blocks(other, other_held, asked);
            ahead || behind
        })
    }

    /// Grants what a lock asks for: moves the value block, counts, queues, gives a token.
    pub(super) fn grant(&mut self, at: u32, value: Option<&ValueBlock>) -> Completion {
        let Lock { resource, held, asked, queue, flags, .. } = self.locks[at];
        let asked = asked.expect("an operation asks for a mode");
        let read = match Mode::transfer(held, asked) {
            Transfer::Write => {
                self.write_value(resource, flags, value);
                false
            }
            Transfer::Read => flags.has(Flags::VALBLK),
            Transfer::Nothing => false,
        };
        self.unwait(at);
        self.next_token(resource, held, asked);
        let found = &mut self.resources[resource];
        if held.is_none() && queue == Queue::Outside {
            found.link(&mut self.locks, at, Queue::Granted, false);
        } else if queue != Queue::Granted {
            found.unlink(&mut self.locks, at);
            found.link(&mut self.locks, at, Queue::Granted, false);
        }
        if held != Some(asked) {
            found.recount(held, Some(asked));
        }
        let lock = &mut self.locks[at];
        lock.held = Some(asked);
        lock.asked = None;
        lock.notified = 0;
        let operation = if held.is_none() { Operation::Request } else { Operation::Convert };
        let mut completion = self.completion(at, operation, Status::Granted);
        if read {
            completion.value = Some(self.value_of(resource));
        }
        completion
    }

    fn write_value(&mut self, resource: u32, flags: Flags, value: Option<&ValueBlock>) {
        if flags.has(Flags::IVVALBLK) {
            self.resources[resource].value_invalid = true;
            self.note_invalid(resource);
        } else if let Some(value) = value.filter(|_| flags.has(Flags::VALBLK)) {
            self.set_value(resource, value);
        }
    }

    /// What a release does to the value block: only a lock held in PW or EX touches it.
    pub(super) fn write_on_release(&mut self, at: u32, flags: Flags, value: Option<&ValueBlock>) {
        let Lock { resource, held, .. } = self.locks[at];
        if held.is_some_and(Mode::is_writer) {
            self.write_value(resource, flags, value);
        }
    }

    /// Grants all that can be granted, then tells who is in the way of the rest.
    pub(super) fn grant_pending(&mut self, resource: u32) {
        self.grant_converting(resource);
        self.grant_waiting(resource);
        self.notify_pending(resource);
    }

    /// Scans the conversions from the head, again after any grant.
    fn grant_converting(&mut self, resource: u32) {
        while self.scan(resource, Queue::Converting) {}
    }

    fn grant_waiting(&mut self, resource: u32) {
        self.scan(resource, Queue::Waiting);
    }

    /// Grants what can be granted in one pass over a queue; true if something was.
    fn scan(&mut self, resource: u32, queue: Queue) -> bool {
        let mut granted = false;
        let mut at = self.resources[resource].head(queue);
        while at != NONE {
            let next = self.resources[resource].after(&self.locks, at);
            if !self.locks[at].parked && (self.may_grant(at, false) || self.takes_alternative(at, false)) {
                let completion = self.grant(at, None);
                self.outputs.push_back(Output::Completed(completion));
                granted = true;
            } else if !self.resources[resource].any_order {
                // What is behind can only be granted in order.
                break;
            }
            at = next;
        }
        granted
    }

    /// Tells every granted lock that is in the way of something that waits, unless it knows.
    pub(super) fn notify_pending(&mut self, resource: u32) {
        let found = &self.resources[resource];
        let mut wanted = 0;
        for queue in [Queue::Converting, Queue::Waiting] {
            for at in found.queued(&self.locks, queue) {
                wanted |= self.locks[at].asked.map_or(0, Mode::bit);
                if wanted & Mode::Ex.bit() != 0 {
                    break;
                }
            }
        }
        if wanted == 0 {
            return;
        }
        let mut at = found.head(Queue::Granted);
        while at != NONE {
            let next = self.resources[resource].after(&self.locks, at);
            let held = self.locks[at].held.expect("a granted lock holds a mode");
            let blocked = wanted & held.conflicts();
            if let Some(mode) = Mode::ALL.into_iter().rev().find(|mode| blocked & mode.bit() != 0) {
                self.notify(at, mode, None);
            }
            at = next;
        }
    }

    /// Tells every lock in `queues` whose held mode is in the way of what `at` asks for.
    fn notify_blockers(&mut self, at: u32, queues: &[Queue]) {
        let Lock { resource, asked, .. } = self.locks[at];
        let Some(asked) = asked else { return };
        if self.resources[resource].held & asked.conflicts() == 0 {
            return;
        }
        for queue in queues {
            let mut other = self.resources[resource].head(*queue);
            while other != NONE {
                let next = self.resources[resource].after(&self.locks, other);
                let held = self.locks[other].held;
                if other != at && held.is_some_and(|held| !held.is_compatible(asked)) {
                    self.notify(other, asked, Some(at));
                }
                other = next;
            }
        }
    }

    /// Tells a lock's owner that it is in the way of `wanted`, unless it was told of that or of a higher mode since its
    /// last grant. PR and CW count as higher than each other. `by`: who asks, if not the first of those who wait.
    pub(super) fn notify(&mut self, at: u32, wanted: Mode, by: Option<u32>) {
        let lock = &mut self.locks[at];
        if !lock.flags.has(Flags::NOTIFY) || lock.orphan {
            return;
        }
        let dominated = match wanted {
            Mode::Cw => Mode::Cw.bit() | Mode::Pw.bit() | Mode::Ex.bit(),
            Mode::Nl | Mode::Cr | Mode::Pr | Mode::Pw | Mode::Ex => !(wanted.bit() - 1),
        };
        if lock.notified & dominated != 0 {
            return;
        }
        lock.notified |= wanted.bit();
        let (owner, held) = (lock.owner, lock.held.expect("who is in the way holds a mode"));
        let by = by.or_else(|| self.first_for(self.locks[at].resource, wanted));
        let signal = by.map_or(0, |by| self.locks[by].owner.tag);
        let blocking = Blocking { lock: self.id(at), owner, held, wanted, signal };
        self.outputs.push_back(Output::Blocking(blocking));
    }

    /// The first that waits for the mode.
    fn first_for(&self, resource: u32, asked: Mode) -> Option<u32> {
        let found = &self.resources[resource];
        let mut waiting = [Queue::Converting, Queue::Waiting]
            .into_iter()
            .flat_map(|queue| found.queued(&self.locks, queue));
        waiting.find(|at| self.locks[*at].asked == Some(asked))
    }

    /// Once nobody waits any more because a wait ended ungranted, whoever was in the way is told anew the next time.
    pub(super) fn end_episode(&mut self, resource: u32) {
        if !self.resources[resource].is_calm() {
            return;
        }
        let mut at = self.resources[resource].head(Queue::Granted);
        while at != NONE {
            self.locks[at].notified = 0;
            at = self.resources[resource].after(&self.locks, at);
        }
    }
}
