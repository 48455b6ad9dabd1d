//! Locks for a program beside a node: it connects to the node of its machine, which locks for it.

use super::wire::{
    self, Convert, Domain, EndOwner, HeldRanges, Lock, LockRange, Orphans, Purge, Release, Reply, SERVICE,
    Told, ToldWait, UnlockRange, Unlocked,
};
use super::{
    Asked, Backend, Bytes, Listener as _, LockOrder, LockOrderError, Locks, News, Object, Opened, Place, Slot,
};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use ocf_comm::local::{Address, CallFailure, Client, ClientError, ClientEvent, RequestId};
use ocf_comm::rpc::{Body, Fault};
use ocf_dlm::cluster::{RangeStep, Snapshot, Waiting};
use ocf_dlm::range::{Range, RangeKind};
use ocf_dlm::wire::Outcome;
use ocf_dlm::{
    ClientId, Flags, LockError, LockManager, LockOwner, Mode, RequestError, ValueBlock, Wait, check_names,
};
use parking_lot::{Condvar, Mutex};
use pils::NodeInstance;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::FdFlags;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// How long a node may take to say that it locks for this program.
const GREETING: Duration = Duration::from_secs(10);
/// How long a node may take to say whether a lock is held, or that it is given back, until that is in doubt.
const ANSWER: Duration = Duration::from_secs(5);
/// Longer is not waited for any answer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The locks of a program beside a node: the same [`Locks`] and guards as in the node's own process, and a [`LockManager`].
///
/// It connects to the socket that the node's configuration names (`[api] local`); the kernel tells the node who that is, and
/// `[[api.locks]]` says which users and groups may lock. A thread of this process listens to the node.
///
/// When the program ends, however it does, its locks are released, and a value block that it could have been writing is
/// invalid. Those that are to last ([`Locks::lock_lasting`]) stay held, until another program of this node adopts them. If
/// only the connection ends, every guard refuses from then on, but the node keeps the locks until the process has ended: it
/// may still be writing. They are not inherited: in a process that was forked the guards refuse.
///
/// ```no_run
/// use ocf::LockClient;
/// use ocf_dlm::{Mode, Wait};
///
/// let locks = LockClient::connect("/run/ocf/api", "backup")?.locks();
/// let held = locks.lock("jobs", "backup", Mode::Ex, Wait::Forever)?;
/// println!("show this to the storage: {}", held.token()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LockClient(Arc<Beside>);

impl LockClient {
    /// Connects to the node that listens there (a path, or `@` and an abstract name), as a program that calls itself `name`,
    /// which need not be unique. Waits at most 10 s for the node to greet.
    ///
    /// # Errors
    /// [`ClientError`]: nobody listens, this user may not connect, or the system has no thread or descriptor left.
    pub fn connect(address: &str, name: &str) -> Result<Self, ClientError> {
        let system = |error: &dyn fmt::Display| ClientError::System(error.to_string());
        let mut client = Client::connect(&Address::from(address), name)?;
        match client.call_wait(SERVICE, "hello", Body::default(), GREETING) {
            Ok(_) => {}
            Err(CallFailure::Fault(fault)) => return Err(ClientError::Refused(fault.text)),
            Err(CallFailure::Client(error)) => return Err(error),
        }
        let socket = client.as_fd().try_clone_to_owned()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| system(&e))?;
        let connection = Arc::new(Connection {
            node: client.node(),
            client: Mutex::new(client),
            heard: Mutex::default(),
            bell,
            done: AtomicBool::new(false),
            tags: AtomicU64::new(1),
            owners: AtomicU32::new(0),
            objects: Opened::default(),
            process: std::process::id(),
        });
        let reader = Arc::clone(&connection);
        let thread = thread::Builder::new().name("ocf-locks".to_owned()).spawn(move || reader.run(&socket));
        // It ends when the last guard is gone.
        drop(thread.map_err(|error| system(&error))?);
        Ok(Self(Arc::new(Beside(connection))))
    }

    /// The locks, as a new owner.
    #[must_use]
    pub fn locks(&self) -> Locks {
        let connection = &self.0.0;
        let owner = connection.owners.fetch_add(1, Ordering::Relaxed);
        let beside: Arc<Beside> = Arc::clone(&self.0);
        Locks::new(beside, ClientId::new(owner))
    }

    /// Lets programs that this one executes keep the connection: locks are held until this process and all of them have
    /// ended, or closed what they inherited.
    ///
    /// # Errors
    /// [`ClientError::System`].
    pub fn share_with_children(&self) -> Result<(), ClientError> {
        let client = self.0.0.client.lock();
        rustix::io::fcntl_setfd(&*client, FdFlags::empty())
            .map_err(|error| ClientError::System(error.to_string()))
    }

    /// Which node locks for this program.
    #[must_use]
    pub fn node(&self) -> Option<NodeInstance> {
        self.0.0.node
    }

    /// Why the connection ended, and every lock with it; `None` while it is there.
    #[must_use]
    pub fn ended(&self) -> Option<ClientError> {
        self.0.0.heard.lock().ended.clone()
    }
}

impl fmt::Debug for LockClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockClient").field("node", &self.node()).field("ended", &self.ended()).finish()
    }
}

impl LockManager for LockClient {
    fn owner(&self) -> Result<Box<dyn LockOwner>, LockError> {
        if self.ended().is_some() {
            return Err(LockError::Lost);
        }
        Ok(Box::new(self.locks()))
    }
}

/// What guards hold: when the last one is gone, so is the connection.
struct Beside(Arc<Connection>);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
        self.0.ring();
    }
}

struct Connection {
    client: Mutex<Client>,
    node: Option<NodeInstance>,
    heard: Mutex<Heard>,
    /// Wakes the thread that reads.
    bell: OwnedFd,
    done: AtomicBool,
    tags: AtomicU64,
    owners: AtomicU32,
    objects: Opened,
    /// The process that connected.
    process: u32,
}

#[derive(Default)]
struct Heard {
    slots: BTreeMap<u64, Arc<Slot>>,
    /// Calls whose answer somebody waits for.
    calls: BTreeMap<RequestId, Arc<Answer>>,
    /// What is to be said as soon as there is room, in this order.
    unsaid: Vec<Unsaid>,
    ended: Option<ClientError>,
}

/// Something of a lock that must be said sooner or later.
#[derive(Clone, Copy, Debug)]
enum Unsaid {
    /// It is given back.
    Release(u64),
    /// Its operation is to end.
    Cancel(u64),
}

#[derive(Default)]
struct Answer {
    result: Mutex<Option<Result<Body, Fault>>>,
    arrived: Condvar,
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside").field("node", &self.0.node).finish_non_exhaustive()
    }
}

impl Connection {
    fn ring(&self) {
        // A counter that is full rings as well.
        if let Err(error) = rustix::io::write(&self.bell, &1_u64.to_ne_bytes()) {
            tracing::trace!(%error, "the bell rings already");
        }
    }

    /// Reads what the node says, and writes what did not fit, until nobody has a lock any more or the connection ends.
    fn run(&self, socket: &OwnedFd) {
        loop {
            let wants_write = match self.process() {
                Ok(wants_write) => wants_write,
                Err(ended) => return self.end(ended),
            };
            if self.done.load(Ordering::Acquire) && !wants_write {
                return self.end(ClientError::Closed);
            }
            let flags = if wants_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let mut fds = [PollFd::new(socket, flags), PollFd::new(&self.bell, PollFlags::IN)];
            if let Err(error) = poll(&mut fds, None)
                && error != rustix::io::Errno::INTR
            {
                return self.end(ClientError::System(error.to_string()));
            }
            let mut count = [0; 8];
            if rustix::io::read(&self.bell, &mut count).is_err() {
                tracing::trace!("it was the socket");
            }
        }
    }

    /// Does what can be done now. True if more is to be written.
    fn process(&self) -> Result<bool, ClientError> {
        loop {
            let (events, processed, wants_write) = {
                let mut client = self.client.lock();
                let processed = client.process();
                let events: Vec<ClientEvent> = core::iter::from_fn(|| client.poll_event()).collect();
                (events, processed, client.wants_write())
            };
            let any = !events.is_empty();
            events.into_iter().for_each(|event| self.hear(event));
            processed?;
            self.say_the_unsaid();
            // What was read and not taken yet is not seen at the socket.
            if !any {
                return Ok(wants_write);
            }
        }
    }

    fn hear(&self, event: ClientEvent) {
        match event {
            ClientEvent::Service { service, body } if service == SERVICE => match body.read::<Told>() {
                Ok(told) => self.told(told),
                Err(fault) => tracing::warn!(%fault, "a node says something of locks that is not understood"),
            },
            ClientEvent::Answered { request, result } => {
                let call = self.heard.lock().calls.remove(&request);
                if let Some(call) = call {
                    *call.result.lock() = Some(result);
                    call.arrived.notify_all();
                }
            }
            // Nothing else was asked for.
            ClientEvent::Service { .. } | ClientEvent::Topic { .. } | ClientEvent::ServiceLost { .. } | _ => {
            }
        }
    }

    fn told(&self, Told { tag, what }: Told) {
        let stays = matches!(what, wire::What::Refused { lock: true, .. });
        let Some(news) = what.news(tag) else {
            tracing::warn!(tag, "a node says something of a lock that is not understood");
            return;
        };
        let slot = {
            let mut heard = self.heard.lock();
            if !heard.unsaid.is_empty() {
                // Said later, it would end the next operation instead.
                heard.unsaid.retain(|what| !matches!(what, Unsaid::Cancel(lock) if *lock == tag));
            }
            let gone = news.is_last() || matches!(news, News::Refused(_)) && !stays;
            if gone { heard.slots.remove(&tag) } else { heard.slots.get(&tag).cloned() }
        };
        if let Some(slot) = slot {
            slot.hear(news);
        }
    }

    /// Every lock is lost: nobody says any more whether it is held.
    fn end(&self, why: ClientError) {
        let (slots, calls) = {
            let mut heard = self.heard.lock();
            heard.ended.get_or_insert(why);
            heard.unsaid.clear();
            (core::mem::take(&mut heard.slots), core::mem::take(&mut heard.calls))
        };
        for slot in slots.into_values() {
            slot.hear(News::Lost);
        }
        for call in calls.into_values() {
            *call.result.lock() = Some(Err(Fault::new(Fault::UNAVAILABLE, "the connection has ended")));
            call.arrived.notify_all();
        }
    }

    /// True in the process that connected, while the connection is there.
    fn is_alive(&self) -> bool {
        self.process == std::process::id() && self.heard.lock().ended.is_none()
    }

    fn tell<T: serde::Serialize>(&self, method: &str, what: &T) -> Result<(), ClientError> {
        let body = Body::of(what).map_err(|fault| ClientError::System(fault.to_string()))?;
        let wants_write = {
            let mut client = self.client.lock();
            client.tell(SERVICE, method, body)?;
            client.wants_write()
        };
        if wants_write {
            self.ring();
        }
        Ok(())
    }

    /// Calls and waits for the answer; `None` if none comes in time.
    fn call<T, R>(&self, method: &str, what: &T) -> Option<R>
    where
        T: serde::Serialize,
        R: serde::de::DeserializeOwned,
    {
        self.call_within(method, what, ANSWER)
    }

    fn call_within<T, R>(&self, method: &str, what: &T, patience: Duration) -> Option<R>
    where
        T: serde::Serialize,
        R: serde::de::DeserializeOwned,
    {
        if !self.is_alive() {
            return None;
        }
        let until = Instant::now() + patience.min(LONGEST);
        let answer = Arc::<Answer>::default();
        let body = Body::of(what).ok()?;
        let (request, wants_write) = {
            let mut client = self.client.lock();
            let request = client.call(SERVICE, method, body).ok()?;
            let mut heard = self.heard.lock();
            if heard.ended.is_some() {
                return None;
            }
            // Before anybody can read the answer.
            heard.calls.insert(request, Arc::clone(&answer));
            (request, client.wants_write())
        };
        if wants_write {
            self.ring();
        }
        let mut result = answer.result.lock();
        while result.is_none() {
            if answer.arrived.wait_until(&mut result, until).timed_out() {
                break;
            }
        }
        let result = result.take();
        if result.is_none() {
            self.heard.lock().calls.remove(&request);
        }
        result?.ok()?.read().ok()
    }

    /// Gives back a lock whose guard is gone.
    fn give_back(&self, lock: u64) {
        if !self.is_alive() {
            return;
        }
        self.heard.lock().slots.remove(&lock);
        self.say_sometime(Unsaid::Release(lock));
    }

    /// Says it now, or as soon as there is room.
    fn say_sometime(&self, what: Unsaid) {
        let full = !self.heard.lock().unsaid.is_empty();
        if full || matches!(self.say(what), Err(ClientError::Full(_))) {
            self.heard.lock().unsaid.push(what);
            self.ring();
        }
    }

    fn say(&self, what: Unsaid) -> Result<(), ClientError> {
        match what {
            Unsaid::Release(tag) => self.tell("release", &Release { tag, value: None }),
            Unsaid::Cancel(tag) => self.tell("cancel", &tag),
        }
    }

    fn say_the_unsaid(&self) {
        let unsaid = core::mem::take(&mut self.heard.lock().unsaid);
        let mut left = unsaid.into_iter();
        while let Some(what) = left.next() {
            if self.say(what).is_err() {
                let mut heard = self.heard.lock();
                let since: Vec<Unsaid> = core::mem::take(&mut heard.unsaid);
                heard.unsaid = core::iter::once(what).chain(left).chain(since).collect();
                return;
            }
        }
    }

    fn ask(&self, asked: &Asked<'_>, slot: &Arc<Slot>) -> Result<u64, LockError> {
        let Asked { owner, place, mode, flags, wait, transaction, signal, .. } = *asked;
        let (space, name, checked) = match place {
            Place::Root { space, name } => (space, name, (space, name)),
            Place::Below { name, .. } => ("", name, ("-", name)),
            Place::Collector { space } => (space, b"".as_slice(), (space, b"-".as_slice())),
        };
        check_names(checked.0, checked.1)?;
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        {
            let mut heard = self.heard.lock();
            if heard.ended.is_some() || self.process != std::process::id() {
                return Err(LockError::Lost);
            }
            heard.slots.insert(tag, Arc::clone(slot));
        }
        let lock = Lock {
            tag,
            owner: owner.raw(),
            space: space.to_owned(),
            name: wire::bytes(name),
            above: place.above(),
            mode: mode.raw(),
            flags: flags.bits(),
            wait: wait.into(),
            transaction,
            signal: signal.cast_signed(),
            collector: matches!(place, Place::Collector { .. }),
        };
        self.tell("lock", &lock).map_err(|error| {
            self.heard.lock().slots.remove(&tag);
            refused(&error)
        })?;
        Ok(tag)
    }
}

impl Connection {
    /// Asks for bytes, or about them; the slot is told by that tag.
    fn ask_range(
        &self,
        (object, tag): (&Object, u64),
        bytes: Bytes,
        (wait, test): (Wait, bool),
        slot: &Arc<Slot>,
    ) -> Result<(), LockError> {
        {
            let mut heard = self.heard.lock();
            if heard.ended.is_some() || self.process != std::process::id() {
                return Err(LockError::Lost);
            }
            heard.slots.insert(tag, Arc::clone(slot));
        }
        let (transaction, at_once) = (object.transaction, wait == Wait::No);
        let (object, range, wait) = (wire_object(object), bytes.into(), wait.into());
        let ask = LockRange { tag, object, range, wait, at_once, test, transaction };
        self.tell("lock_range", &ask).map_err(|error| refused(&error))
    }
}

fn wire_object(object: &Object) -> wire::Object {
    let (owner, space) = (object.owner.raw(), object.space.clone());
    wire::Object { owner, space, name: wire::bytes(&object.name) }
}

/// Why nothing was said to the node.
const fn refused(error: &ClientError) -> LockError {
    if let ClientError::Full(_) = error {
        return LockError::Refused(RequestError::Limit("OUT_MAX"));
    }
    LockError::Lost
}

impl Backend for Beside {
    fn new_owner(&self) -> Option<ClientId> {
        let connection = &self.0;
        let owner = || ClientId::new(connection.owners.fetch_add(1, Ordering::Relaxed));
        connection.is_alive().then(owner)
    }

    fn ask(&self, asked: &Asked<'_>, slot: &Arc<Slot>) -> Result<u64, LockError> {
        self.0.ask(asked, slot)
    }

    fn convert(
        &self,
        lock: u64,
        (mode, flags, value): (Mode, Flags, Option<ValueBlock>),
        wait: Wait,
    ) -> Result<(), LockError> {
        if !self.0.is_alive() {
            return Err(LockError::Lost);
        }
        let value = value.map(|block| wire::bytes(block.as_bytes()));
        let (mode, flags, wait) = (mode.raw(), flags.bits(), wait.into());
        let convert = Convert { tag: lock, mode, flags, value, wait };
        self.0.tell("convert", &convert).map_err(|error| refused(&error))
    }

    fn cancel(&self, lock: u64) {
        if self.0.is_alive() {
            self.0.say_sometime(Unsaid::Cancel(lock));
        }
    }

    fn is_held(&self, lock: u64) -> bool {
        // The node's look at its lease is after this, and so is the end of what it says is left of it.
        let began = Instant::now();
        let left: Option<Option<u64>> = self.0.call("check", &lock);
        let left = left.flatten().map(Duration::from_nanos);
        left.is_some_and(|left| began.elapsed() < left)
    }

    fn release(&self, lock: u64, value: Option<ValueBlock>) -> bool {
        self.0.heard.lock().slots.remove(&lock);
        let value = value.map(|block| wire::bytes(block.as_bytes()));
        let answer = self.0.call("release", &Release { tag: lock, value });
        if answer.is_none() {
            // Unless it was said and only the answer is missing: then this means nothing.
            self.0.give_back(lock);
        }
        answer.unwrap_or(false)
    }

    fn forget(&self, lock: u64) {
        self.0.give_back(lock);
    }

    fn open_object(&self, object: &Object) -> Result<u64, LockError> {
        if !self.0.is_alive() {
            return Err(LockError::Lost);
        }
        self.0.objects.open(object).map(|()| self.0.tags.fetch_add(1, Ordering::Relaxed))
    }

    fn close_object(&self, object: &Object) {
        let closed: Option<Unlocked> = self.0.call("close_object", &wire_object(object));
        if closed.is_none() {
            tracing::debug!("bytes are perhaps not given up before the program ends");
        }
        self.0.heard.lock().slots.remove(&object.number);
        self.0.objects.close(object);
    }

    fn lock_range(
        &self,
        object: &Object,
        bytes: Bytes,
        wait: Wait,
        slot: &Arc<Slot>,
    ) -> Result<RangeStep, LockError> {
        // The node says so, too, if nothing was to be asked for.
        self.0
            .ask_range((object, object.number), bytes, (wait, false), slot)
            .map(|()| RangeStep::Asked(object.number))
    }

    fn unlock_range(&self, object: &Object, range: Range) -> Result<(), LockError> {
        let range = Bytes { range, kind: RangeKind::Shared }.into();
        let unlock = UnlockRange { object: wire_object(object), range };
        let Unlocked(refused) = self.0.call("unlock_range", &unlock).ok_or(LockError::Lost)?;
        match refused {
            None => Ok(()),
            Some(why) => Err(why.error().unwrap_or(LockError::Lost)),
        }
    }

    fn test_range(&self, object: &Object, bytes: Bytes, slot: &Arc<Slot>) -> Result<(), LockError> {
        let tag = self.0.tags.fetch_add(1, Ordering::Relaxed);
        let asked = self.0.ask_range((object, tag), bytes, (Wait::No, true), slot);
        asked.inspect_err(|_| drop(self.0.heard.lock().slots.remove(&tag)))
    }

    fn held_ranges(&self, object: &Object) -> Option<Vec<(Range, RangeKind)>> {
        let began = Instant::now();
        let held: Option<HeldRanges> = self.0.call("held_ranges", &wire_object(object))?;
        let HeldRanges { left, ranges } = held?;
        let bytes = ranges.iter().map(|range| range.bytes().map(|bytes| (bytes.range, bytes.kind)));
        bytes.collect::<Option<_>>().filter(|_| began.elapsed() < Duration::from_nanos(left))
    }

    fn waits(&self) -> Vec<Waiting> {
        let waits: Option<Vec<ToldWait>> = self.0.call("waits", &());
        waits.unwrap_or_default().into_iter().filter_map(ToldWait::waiting).collect()
    }

    fn order(&self, order: LockOrder, patience: Duration) -> Result<Outcome, LockOrderError> {
        if !self.0.is_alive() {
            return Err(LockOrderError::Stopped);
        }
        let late = LockOrderError::TimedOut;
        let own = |node: NodeInstance| self.0.node == Some(node);
        if let Some(order) = wire::Order::of(&order) {
            let reply: Option<Reply> = self.0.call_within("order", &order, patience);
            return reply.ok_or(late)?.outcome();
        }
        match order {
            LockOrder::Orphans(node) if own(node) => {
                let all: Option<Orphans> = self.0.call_within("orphans", &(), patience);
                all.ok_or(late)?.outcome().ok_or(LockOrderError::Stopped)
            }
            LockOrder::Purge(node, client) if own(node) => {
                let went = self.0.call_within("purge", &Purge(client.map(ClientId::raw)), patience);
                went.map(Outcome::Released).ok_or(late)
            }
            LockOrder::Release(..)
            | LockOrder::Orphans(_)
            | LockOrder::Purge(..)
            | LockOrder::Why(_)
            | LockOrder::Look(_)
            | LockOrder::PurgeResource(..)
            | LockOrder::Collect(_)
            | LockOrder::Validate(_)
            | LockOrder::Invalidate(_) => {
                tracing::debug!(?order, "a program gives no such orders");
                Err(LockOrderError::Stopped)
            }
        }
    }

    fn take_part(&self, space: &str, more: bool) -> Result<(), LockError> {
        let domain = Domain { space: space.to_owned(), more };
        let Unlocked(refused) = self.0.call("domain", &domain).ok_or(LockError::Lost)?;
        refused.map_or(Ok(()), |why| Err(why.error().unwrap_or(LockError::Lost)))
    }

    fn end_owner(&self, owner: ClientId) -> usize {
        // Said before whatever is asked next, so every guard of the owner refuses from now on.
        let ended: Option<u64> = self.0.call("end_owner", &EndOwner(owner.raw()));
        usize::try_from(ended.unwrap_or(0)).unwrap_or(usize::MAX)
    }

    fn snapshot(&self) -> Option<Snapshot> {
        None
    }
}
