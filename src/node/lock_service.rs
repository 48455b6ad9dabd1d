//! Locks for programs beside the node: they come over the local interface, and the kernel says who they are and when they end.

mod orders;
mod ranges;

use super::host::NodeHost;
use super::locks::{deadline, transaction_of};
use crate::config::LockUsers;
use crate::locks::wire::{self, Convert, Lock, Release, Told, Unlocked, What};
use crate::locks::{Listener, News};
use crate::stack::Stack;
use ocf_comm::driver::Handle;
use ocf_comm::local::{ClientInfo, EventSink, Process, Service, no_method};
use ocf_comm::rpc::{Access, Body, Builder, Caller, Dispatcher, Fault, Method, Responder};
use ocf_dlm::cluster::Ask;
use ocf_dlm::wire::{Key, Value};
use ocf_dlm::{ClientId, Flags, LockError, Mode, RequestError, Wanted, check_names};
use parking_lot::Mutex;
use pils::Instant;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Locks that one program may have or ask for at a time, over one connection.
const PROGRAM_LOCKS_MAX: usize = 16_384;
/// Bytes of notices that a program may leave unread: more than all its locks make at a time. Beyond it, its connection ends.
const PROGRAM_NOTICES_MAX: usize = 3 << 20;
/// Connections of one process that ended and whose locks are kept because it lives. With so many it gets no more locks.
const PROGRAM_CONNECTIONS_MAX: usize = 8;
/// Orders of one program about locks that are not answered yet, questions why an operation waits among them.
const PROGRAM_ORDERS_MAX: usize = 16;

/// Names of resources to repair that one program is told at a time, in bytes: its frames have a limit.
const PROGRAM_MARKS_BYTES: usize = 512 << 10;

/// With so many locks on the node that outlived their owner, programs get no more that are to last.
const PROGRAM_ORPHANS_MAX: usize = 65_536;

/// What programs may ask for beside the mode.
const ALLOWED: Flags = Flags::NOTIFY.with(Flags::VALBLK).with(Flags::NOQUEUE);
/// The same, for new locks that are in no other.
const ALLOWED_AT_ROOT: Flags = ALLOWED.with(Flags::PERSISTENT).with(Flags::ORPHAN);

/// The same, for the lock of who collects what a recovery domain has to repair.
const ALLOWED_TO_COLLECTOR: Flags = ALLOWED.with(Flags::NODOMAIN);

/// The lock service of a node for the programs of its machine.
pub(super) struct LockService {
    handle: Handle<Stack, NodeHost>,
    who: Vec<LockUsers>,
    own: u32,
    /// Holders die without the node's obituary covering them.
    has_sentinel: bool,
    /// Also those whose connection ended, as long as they may be using their locks.
    programs: Mutex<BTreeMap<u64, Arc<Program>>>,
}

/// A program that has locks, seen by an operator.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ProgramStatus {
    /// Number of its connection, in this life of the node.
    client: u64,
    name: String,
    pid: i32,
    uid: u32,
    gid: u32,
    /// False: its connection ended, and its locks are kept until its process has, too.
    connected: bool,
    locks: usize,
}

struct Program {
    info: ClientInfo,
    sink: EventSink,
    /// It may not lock at all, and why.
    barred: Option<RequestError>,
    state: Mutex<State>,
}

/// Locked after the reactor, or without it, and never while something of the reactor is waited for.
#[derive(Default)]
struct State {
    /// By the program's own number.
    locks: BTreeMap<u64, Entry>,
    /// The locks by which the program has bytes of objects, by lock of this node.
    ranges: BTreeMap<u64, OfObject>,
    /// The program's owners as this node's clients, and how many locks each has.
    owners: BTreeMap<u32, (ClientId, usize)>,
    /// Its connection ended.
    gone: bool,
    /// Orders that are not answered yet.
    orders: usize,
    /// The lockspaces of whose recovery domains it takes part, and how often.
    domains: BTreeMap<String, usize>,
}

struct OfObject {
    /// What the program calls its use of the object.
    tag: u64,
    owner: u32,
}

struct Entry {
    lock: u64,
    key: Key,
    owner: u32,
}

/// Who is told of one lock.
struct Notices {
    program: Arc<Program>,
    tag: u64,
    /// The lock of this node, if it is on bytes of an object.
    bytes: Option<u64>,
}

impl fmt::Debug for LockService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockService").field("programs", &self.programs.lock().len()).finish_non_exhaustive()
    }
}

impl State {
    fn lock(&self, tag: u64) -> Result<u64, RequestError> {
        self.locks.get(&tag).map(|entry| entry.lock).ok_or(RequestError::NoSuchLock)
    }

    fn forget(&mut self, tag: u64) {
        let Some(entry) = self.locks.remove(&tag) else { return };
        self.forget_owner(entry.owner);
    }

    fn forget_range(&mut self, lock: u64) {
        let Some(known) = self.ranges.remove(&lock) else { return };
        self.forget_owner(known.owner);
    }

    /// The owner has one lock less.
    fn forget_owner(&mut self, owner: u32) {
        if let Some((_, locks)) = self.owners.get_mut(&owner) {
            *locks -= 1;
            if *locks == 0 {
                self.owners.remove(&owner);
            }
        }
    }

    /// The lock of this node whose operation the program calls so, also one for bytes of an object.
    fn operation(&self, tag: u64) -> Option<u64> {
        let bytes = || self.ranges.iter().find(|(_, known)| known.tag == tag).map(|(lock, _)| *lock);
        self.locks.get(&tag).map(|entry| entry.lock).or_else(bytes)
    }

    /// What the program calls each lock of this node, and its owner.
    fn known_as(&self) -> BTreeMap<u64, (u64, u32)> {
        let locks = self.locks.iter().map(|(tag, entry)| (entry.lock, (*tag, entry.owner)));
        locks.chain(self.ranges.iter().map(|(lock, known)| (*lock, (known.tag, known.owner)))).collect()
    }

    /// How many locks there are, held or asked for.
    fn count(&self) -> usize {
        self.locks.len() + self.ranges.len()
    }
}

impl Program {
    fn say(&self, tag: u64, what: What) {
        let told = Body::of(&Told { tag, what }).map(|body| self.sink.send_bounded(body));
        match told {
            Ok(Ok(())) if self.sink.waiting() > PROGRAM_NOTICES_MAX => {
                self.sink.end("it does not read what it is told of its locks (PROGRAM_NOTICES_MAX)");
            }
            Ok(Ok(())) => {}
            Ok(Err(gone)) => tracing::trace!(tag, %gone, "a notice has nobody to go to"),
            Err(fault) => tracing::error!(tag, %fault, "a notice has no form as a value"),
        }
    }

    fn refuse(&self, tag: u64, why: RequestError, lock: bool) {
        let What::Refused { why, .. } = What::of(&News::Refused(LockError::Refused(why))) else { return };
        self.say(tag, What::Refused { why, lock });
    }

    fn pid(&self) -> i32 {
        self.info.credentials.pid
    }
}

impl Listener for Notices {
    fn hear(&self, news: News) {
        let gone = {
            let mut state = self.program.state.lock();
            if news.is_last() {
                match self.bytes {
                    None => state.forget(self.tag),
                    Some(lock) => state.forget_range(lock),
                }
            }
            state.gone
        };
        if gone {
            if let News::Wanted(Wanted { mode, .. }) = news {
                let (pid, name) = (self.program.pid(), &self.program.info.name);
                tracing::warn!(pid, name, %mode, "a lock is wanted whose program closed its connection and lives");
            }
            return;
        }
        self.program.say(self.tag, What::of(&news));
    }
}

impl LockService {
    pub(super) fn new(handle: Handle<Stack, NodeHost>, who: Vec<LockUsers>, has_sentinel: bool) -> Self {
        let own = rustix::process::geteuid().as_raw();
        Self { handle, who, own, has_sentinel, programs: Mutex::default() }
    }

    /// Every program that has locks.
    pub(super) fn programs(&self) -> Vec<ProgramStatus> {
        let programs = self.programs.lock();
        let status = |(client, program): (&u64, &Arc<Program>)| {
            let state = program.state.lock();
            let credentials = program.info.credentials;
            ProgramStatus {
                client: *client,
                name: program.info.name.clone(),
                pid: credentials.pid,
                uid: credentials.uid,
                gid: credentials.gid,
                connected: !state.gone,
                locks: state.count(),
            }
        };
        programs.iter().map(status).filter(|program| program.locks > 0).collect()
    }

    /// Releases what a program has whose connection ended, on the word of `who` that it does nothing more under its locks.
    pub(super) fn confirm_ended(&self, client: u64, who: &str) -> Result<(), Fault> {
        let no = |text: &str| Fault::application(text.to_owned());
        let program =
            self.programs.lock().get(&client).cloned().ok_or_else(|| no("no such program has locks"))?;
        if !program.state.lock().gone {
            return Err(no("the program is connected: end it"));
        }
        let (pid, name) = (program.pid(), &program.info.name);
        tracing::warn!(client, pid, name, who, "the locks of a program are released on somebody's word");
        self.ended(client);
        Ok(())
    }

    /// Why a program may not lock at all.
    fn bar(&self, info: &ClientInfo) -> Option<RequestError> {
        if self.has_sentinel {
            return Some(RequestError::NotAllowed(wire::HAS_SENTINEL));
        }
        if info.process.is_none() {
            return Some(RequestError::NotAllowed(wire::NOT_WATCHED));
        }
        let pid = info.credentials.pid;
        let left_behind = |program: &&Arc<Program>| {
            let state = program.state.lock();
            program.pid() == pid && state.gone && state.count() > 0
        };
        let programs = self.programs.lock();
        let full = programs.values().filter(left_behind).count() >= PROGRAM_CONNECTIONS_MAX;
        full.then_some(RequestError::Limit("PROGRAM_CONNECTIONS_MAX"))
    }

    /// Says whether the program may lock at all.
    fn hello(&self, program: &Program) -> Result<Body, Fault> {
        if !self.handle.inspect(|stack, _, _| stack.has_locks()).unwrap_or(false) {
            let text = "this node has no distributed locks: its program builds it with NodeBuilder::locks";
            return Err(Fault::new(Fault::UNAVAILABLE, text));
        }
        match program.barred {
            Some(barred) => Err(Fault::new(Fault::DENIED, barred.to_string())),
            None => Body::of(&()),
        }
    }

    fn may_lock(&self, info: &ClientInfo, space: &str) -> bool {
        let (uid, gid) = (info.credentials.uid, info.credentials.gid);
        uid == 0 || uid == self.own || self.who.iter().any(|entry| entry.allows(space, uid, gid))
    }

    /// Asks for a lock; how it ends is told.
    fn lock(&self, program: &Arc<Program>, lock: Lock) {
        let tag = lock.tag;
        if let Err((refused, there)) = self.ask(program, lock) {
            program.refuse(tag, refused, there);
        }
    }

    /// An error comes with whether the tag is a lock all the same.
    fn ask(&self, program: &Arc<Program>, lock: Lock) -> Result<(), (RequestError, bool)> {
        let Lock { tag, owner, space, name, above, mode, flags, wait, transaction, signal, collector } = lock;
        let no = |refused: RequestError| (refused, false);
        let allowed = match (above, collector) {
            (None, false) => ALLOWED_AT_ROOT,
            (None, true) => ALLOWED_TO_COLLECTOR,
            (Some(_), _) => ALLOWED,
        };
        let (mode, flags) = terms(mode, flags, allowed).map_err(no)?;
        let name: Vec<u8> = name.try_into().unwrap_or_default();
        // What is below a lock is in the lockspace of that one. A collector's lock has no name of its own.
        let named: &[u8] = if collector { b"-" } else { &name };
        check_names(if above.is_some() { "-" } else { &space }, named).map_err(no)?;
        if let Some(barred) = program.barred {
            return Err(no(barred));
        }
        if above.is_none() && !self.may_lock(&program.info, &space) {
            return Err(no(RequestError::NotAllowed(wire::NOT_LISTED)));
        }
        let asked = self.handle.call(|stack, host, now| {
            let mut state = program.state.lock();
            if state.locks.contains_key(&tag) {
                return Err((RequestError::Busy, true));
            }
            if state.count() >= PROGRAM_LOCKS_MAX {
                return Err(no(RequestError::Limit("PROGRAM_LOCKS_MAX")));
            }
            let (key, parent) = match above {
                None if collector => (Key::collector(space.as_bytes()), None),
                None => (Key::root(space.as_bytes(), &name), None),
                Some(above) => {
                    let above = state.locks.get(&above).ok_or_else(|| no(RequestError::NoSuchLock))?;
                    (above.key.child(&name), Some(above.lock))
                }
            };
            let known = state.owners.get(&owner).map(|(client, _)| *client);
            let client = known.unwrap_or_else(|| ClientId::new(host.locks().new_client()));
            let deadline = deadline(now, wait.into());
            let lasts = flags.has(Flags::PERSISTENT);
            if lasts && stack.locks().is_some_and(|locks| locks.orphans >= PROGRAM_ORPHANS_MAX) {
                return Err(no(RequestError::Limit("PROGRAM_ORPHANS_MAX")));
            }
            let transaction = transaction.map(|number| transaction_of(program.info.credentials.uid, number));
            let ask = Ask {
                client,
                key: key.clone(),
                parent,
                mode,
                flags,
                transaction,
                deadline,
                signal: signal.cast_unsigned(),
            };
            let lock = stack.lock(now, ask).map_err(no)?;
            state.locks.insert(tag, Entry { lock, key, owner });
            state.owners.entry(owner).or_insert((client, 0)).1 += 1;
            // Before the outputs of this call are carried out.
            host.locks().add(lock, Arc::new(Notices { program: Arc::clone(program), tag, bytes: None }));
            Ok(())
        });
        asked.unwrap_or_else(|_stopped| Err(no(RequestError::NotPrimary)))
    }

    fn convert(&self, program: &Program, convert: Convert) {
        let Convert { tag, mode, flags, value, wait } = convert;
        let value = wire::block(value).map(|block| Value { block, sequence: 0 });
        let begun = terms(mode, flags, ALLOWED).and_then(|(mode, flags)| {
            let asked = self.handle.call(|stack, _, now| {
                let lock = program.state.lock().lock(tag)?;
                stack.convert_lock(now, lock, (mode, flags, value), deadline(now, wait.into()))
            });
            asked.unwrap_or(Err(RequestError::NotPrimary))
        });
        if let Err(refused) = begun {
            program.refuse(tag, refused, true);
        }
    }

    /// Has the operation of a lock end that waits; how it ends is told.
    fn cancel(&self, program: &Program, tag: u64) {
        let done = self.handle.call(|stack, _, now| {
            let lock = program.state.lock().operation(tag).ok_or(RequestError::NoSuchLock)?;
            stack.cancel_lock(now, lock)
        });
        if !matches!(done, Ok(Ok(()))) {
            tracing::trace!(tag, "nothing waits any more");
        }
    }

    /// True if it was certainly held, and `value` is written.
    fn release(&self, program: &Program, Release { tag, value }: Release) -> bool {
        let value = wire::block(value).map(|block| Value { block, sequence: 0 });
        let done = self.handle.call(|stack, host, now| {
            let mut state = program.state.lock();
            let lock = state.lock(tag).ok()?;
            let held = stack.lock_held(now, lock).is_some();
            let value = value.filter(|_| held);
            let flags = if value.is_some() { Flags::VALBLK } else { Flags::NONE };
            // One that has sublocks stays, until its program ends.
            stack.unlock(now, lock, flags | Flags::FORCEUNLOCK, value).ok()?;
            host.locks().remove(lock);
            state.forget(tag);
            Some(held)
        });
        done.ok().flatten().unwrap_or(false)
    }

    /// For how many nanoseconds a lock is certainly held, if nothing is heard from other nodes.
    fn held_for(&self, program: &Program, tag: u64) -> Option<u64> {
        if self.handle.stopped().is_some() {
            return None;
        }
        let clock = self.handle.clock();
        let lock = program.state.lock().lock(tag).ok()?;
        // The time is read when it is this call's turn.
        let look = self.handle.inspect(|stack, _, _| stack.lock_held_for(clock.now(), lock));
        let left = look.ok().flatten()?;
        Some(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs()))
    }

    /// The connection of a program ended and its process has not: what it only asked for goes.
    fn take_back_requests(&self, program: &Program) {
        let done = self.handle.call(|stack, host, now| {
            let mut state = program.state.lock();
            let all: Vec<(u64, u64)> = state.locks.iter().map(|(tag, entry)| (*tag, entry.lock)).collect();
            for (tag, lock) in all {
                let known = stack.lock_state(lock);
                if known.is_some_and(|known| known.held.is_some()) {
                    if stack.cancel_lock(now, lock).is_ok() {
                        tracing::debug!(lock, "a conversion is taken back");
                    }
                    continue;
                }
                if stack.unlock(now, lock, Flags::FORCEUNLOCK, None).is_ok() {
                    tracing::debug!(lock, "a request is taken back");
                }
                host.locks().remove(lock);
                state.forget(tag);
            }
            let all: Vec<u64> = state.ranges.keys().copied().collect();
            for lock in all {
                if stack.lock_state(lock).is_some_and(|known| known.held.is_some()) {
                    if stack.cancel_lock(now, lock).is_ok() {
                        tracing::debug!(lock, "a wait for more bytes is taken back");
                    }
                } else if stack.unlock(now, lock, Flags::FORCEUNLOCK, None).is_ok() {
                    host.locks().remove(lock);
                    state.forget_range(lock);
                }
            }
        });
        if done.is_err() {
            tracing::debug!("the node has stopped");
        }
    }

    /// A program does nothing more: what it had is released, and what it could have been writing is invalid.
    fn release_all(&self, program: &Program) {
        let done = self.handle.call(|stack, host, now: Instant| {
            let mut state = program.state.lock();
            for entry in core::mem::take(&mut state.locks).into_values() {
                host.locks().remove(entry.lock);
            }
            for lock in core::mem::take(&mut state.ranges).into_keys() {
                host.locks().remove(lock);
            }
            let owners = core::mem::take(&mut state.owners);
            owners.into_values().map(|(client, _)| stack.end_lock_client(now, client)).sum::<usize>()
        });
        let (pid, name) = (program.pid(), &program.info.name);
        tracing::debug!(pid, name, released = ?done, "a program that had locks has ended");
    }
}

impl Service for LockService {
    fn access(&self, _method: &str) -> Access {
        // Who may lock where is settled with each request.
        Access::Observe
    }

    fn joined(&self, client: &ClientInfo, events: EventSink) {
        let barred = self.bar(client);
        let program = Program { info: client.clone(), sink: events, barred, state: Mutex::default() };
        self.programs.lock().insert(client.id, Arc::new(program));
    }

    fn call(&self, client: &ClientInfo, method: &str, body: Body, answer: Responder<Body>) {
        let Some(program) = self.programs.lock().get(&client.id).cloned() else {
            return answer.answer(Err(Fault::new(Fault::UNAVAILABLE, "the program is gone")));
        };
        let done = match method {
            "hello" => self.hello(&program),
            "lock" => body.read().map(|lock| self.lock(&program, lock)).and_then(|()| Body::of(&())),
            "convert" => {
                body.read().map(|convert| self.convert(&program, convert)).and_then(|()| Body::of(&()))
            }
            "cancel" => body.read().map(|tag| self.cancel(&program, tag)).and_then(|()| Body::of(&())),
            "lock_range" => {
                body.read().map(|ask| self.lock_range(&program, &ask)).and_then(|()| Body::of(&()))
            }
            "unlock_range" => body.read().and_then(|unlock| {
                let done = self.unlock_range(&program, &unlock);
                Body::of(&Unlocked(done.err().map(|why| wire::Refusal::of(&why.into()))))
            }),
            "close_object" => body.read().and_then(|object| {
                let done = self.close_object(&program, &object);
                Body::of(&Unlocked(done.err().map(|why| wire::Refusal::of(&why.into()))))
            }),
            "held_ranges" => body.read().and_then(|object| Body::of(&self.held_ranges(&program, &object))),
            "release" => body.read().and_then(|release| Body::of(&self.release(&program, release))),
            "check" => body.read().and_then(|tag| Body::of(&self.held_for(&program, tag))),
            "end_owner" => {
                body.read().and_then(|wire::EndOwner(owner)| Body::of(&self.end_owner(&program, owner)))
            }
            "orphans" => Body::of(&self.orphans(&program)),
            "purge" => body.read().and_then(|wire::Purge(client)| Body::of(&self.purge(&program, client))),
            "waits" => Body::of(&self.waits(&program)),
            "domain" => body.read().and_then(|domain| {
                let done = self.take_part(&program, &domain);
                Body::of(&Unlocked(done.err().map(|why| wire::Refusal::of(&why.into()))))
            }),
            "order" => match body.read() {
                Ok(order) => return self.order(&program, order, answer),
                Err(fault) => Err(fault),
            },
            other => Err(no_method(other)),
        };
        answer.answer(done);
    }

    fn gone(&self, client: u64) {
        let Some(program) = self.programs.lock().get(&client).cloned() else { return };
        program.state.lock().gone = true;
        self.leave_domains(&program);
        if program.info.process.as_ref().is_some_and(Process::has_ended) {
            return self.ended(client);
        }
        self.take_back_requests(&program);
        let left = program.state.lock().count();
        if left == 0 {
            self.programs.lock().remove(&client);
            return;
        }
        let (pid, name) = (program.pid(), &program.info.name);
        tracing::info!(
            pid,
            name,
            locks = left,
            "a connection ended: its locks are kept until its process has, too"
        );
    }

    fn mourns(&self, client: u64) -> bool {
        self.programs.lock().contains_key(&client)
    }

    fn ended(&self, client: u64) {
        let program = self.programs.lock().remove(&client);
        if let Some(program) = program {
            self.release_all(&program);
        }
    }
}

/// What a program asks for, if it may.
fn terms(mode: u8, flags: u32, allowed: Flags) -> Result<(Mode, Flags), RequestError> {
    let given = Flags::from_bits(flags);
    let refuse = |rule| RequestError::Flags { flags: given, rule };
    let mode = wire::mode(mode).ok_or_else(|| refuse("no such mode"))?;
    if given.bits() != flags || !allowed.has(given) {
        return Err(refuse("not for programs beside a node"));
    }
    Ok((mode, given))
}

/// What an operator asks of the locks of programs.
pub(super) fn methods(service: &Arc<LockService>) -> Builder {
    let (listing, confirming) = (Arc::clone(service), Arc::clone(service));
    Dispatcher::builder()
        .method(
            Method::new("node.lock_programs")
                .help("Programs of this machine that have locks: connected, or not and not known to have ended.")
                .signature(["array"]),
            move |_: &Caller, (): ()| Ok(listing.programs()),
        )
        .method(
            Method::new("node.confirm_program_ended")
                .help("Says that a program that is not connected does nothing more: its number in node.lock_programs, who says so.")
                .signature(["nil", "int", "string"])
                .access(Access::Control),
            move |_: &Caller, (client, who): (u64, String)| confirming.confirm_ended(client, &who),
        )
}
