//! A lockspace on this node: its shards behind locks, its clients, and what happens when the node may not act.

use crate::client::Client;
use crate::config::Config;
use crate::cycle::{Policy, YoungestWait};
use crate::identity::{ClientId, FencingToken, LockId, NodeSlot};
use crate::inbox::{Inbox, Notice, Plain, Put, State};
use crate::request::{Answer, Output, Request, Terms};
use crate::resource::Home;
use crate::shard::{LockState, ResourceState, Shard};
use crate::status::RequestError;
use crate::wait::WaitReason;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use pils::{ConfigErrors, Instant};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a lockspace has its time from. A driver has a clock; a simulator has its own.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Instant;
}

/// Where a lockspace's outputs for other nodes go: the engine of a cluster. In one process alone there is none.
///
/// Called while a shard is locked: it must only put away what it is given, and never call back.
pub trait Outbox: Send + Sync {
    /// Takes an output of a shard, in the shard's order.
    fn put(&self, shard: usize, output: Output);
    /// Called after the shard is unlocked, once for all that was put.
    fn flush(&self);
}

/// A lockspace of this node: resources by name, and the locks on them. Clones are the same lockspace.
#[derive(Clone)]
pub struct Lockspace(pub(crate) Arc<Space>);

pub(crate) struct Space {
    pub(crate) name: String,
    config: Config,
    seed: u64,
    shards: Box<[Apart]>,
    clients: RwLock<BTreeMap<ClientId, Arc<Member>>>,
    groups: Mutex<BTreeMap<String, std::sync::Weak<crate::client::Handle>>>,
    pub(crate) domain: Mutex<crate::domain::DomainState>,
    next_client: AtomicU32,
    /// Even: this node may act. Grows by one with every change.
    lease: AtomicU64,
    clock: Arc<dyn Clock>,
    outbox: Option<Arc<dyn Outbox>>,
    victims: Mutex<Arc<dyn Policy>>,
}

/// A shard that shares no cache line with another, nor a pair of lines that a processor fetches together.
#[repr(align(128))]
struct Apart(Mutex<Shard>);

impl Apart {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        self.0.lock()
    }
}

/// A client, as the lockspace sees it.
pub(crate) struct Member {
    pub(crate) inbox: Inbox<Plain<State>>,
    /// Notified when the inbox was empty and is not any more.
    pub(crate) arrived: Condvar,
    pub(crate) gate: Mutex<()>,
    pub(crate) waker: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

/// Why a lockspace or a client was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name has no byte, or more than 64.
    #[error("a lockspace's name has 1 to 64 bytes, not {0}")]
    Name(usize),
    /// The configuration cannot be.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// It is open with another configuration.
    #[error("the lockspace is open with another configuration")]
    Differs,
    /// There are as many clients as may be (`clients_max`).
    #[error("there are {0} clients already")]
    Clients(usize),
}

impl Lockspace {
    /// A lockspace by itself. `seed`: of its hash tables, a secret of the node. With an `outbox`, resources new to this node
    /// are not mastered here until the engine says so.
    ///
    /// # Errors
    /// If the name or the configuration cannot be.
    pub fn new(
        name: &str,
        config: Config,
        seed: u64,
        clock: Arc<dyn Clock>,
        outbox: Option<Arc<dyn Outbox>>,
    ) -> Result<Self, OpenError> {
        config.check()?;
        if !(1..=64).contains(&name.len()) {
            return Err(OpenError::Name(name.len()));
        }
        let home = if outbox.is_some() { Home::Unknown } else { Home::Local };
        let shards =
            (0..).take(config.shards).map(|number| Apart(Mutex::new(Shard::new(number, seed, config, home))));
        let space = Space {
            name: name.to_owned(),
            config,
            seed,
            shards: shards.collect(),
            clients: RwLock::new(BTreeMap::new()),
            groups: Mutex::new(BTreeMap::new()),
            domain: Mutex::default(),
            next_client: AtomicU32::new(1),
            lease: AtomicU64::new(0),
            clock,
            outbox,
            victims: Mutex::new(Arc::new(YoungestWait)),
        };
        Ok(Self(Arc::new(space)))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// A new client: the owner of locks. They are released when its last handle is dropped, which looks at every lock of
    /// the lockspace: keep clients, and make guards.
    ///
    /// # Errors
    /// If there are `clients_max`.
    pub fn client(&self) -> Result<Client, OpenError> {
        let mut clients = self.0.clients.write();
        if clients.len() >= self.0.config.clients_max {
            return Err(OpenError::Clients(clients.len()));
        }
        let id = loop {
            let id = ClientId::new(self.0.next_client.fetch_add(1, Ordering::Relaxed));
            if id.raw() != 0 && !clients.contains_key(&id) {
                break id;
            }
        };
        let member = Arc::new(Member {
            inbox: Inbox::new(),
            arrived: Condvar::new(),
            gate: Mutex::new(()),
            waker: Mutex::new(None),
        });
        clients.insert(id, Arc::clone(&member));
        drop(clients);
        Ok(Client::new(self.clone(), id, member))
    }

    /// A client that several parts of the program own together: its locks are released when the last of them drops it.
    /// The first to ask makes it.
    ///
    /// # Errors
    /// If there are `clients_max`.
    pub fn group(&self, name: &str) -> Result<Client, OpenError> {
        let mut groups = self.0.groups.lock();
        if let Some(handle) = groups.get(name).and_then(std::sync::Weak::upgrade) {
            return Ok(Client(handle));
        }
        groups.retain(|_, handle| handle.strong_count() > 0);
        let client = self.client()?;
        groups.insert(name.to_owned(), Arc::downgrade(&client.0));
        Ok(client)
    }

    /// Says whether this node may act. When it stops, every guard refuses from now on, without asking anybody, and new
    /// requests are refused; what waits ends with [`Status::Lost`](crate::Status::Lost). Guards of before do not come back when it may act again: others may have had the locks.
    pub fn set_primary(&self, primary: bool) {
        let changed = |lease: u64| (lease.is_multiple_of(2) != primary).then_some(lease + 1);
        let is_so = self.0.lease.fetch_update(Ordering::SeqCst, Ordering::SeqCst, changed).is_err();
        if !is_so && !primary {
            self.each(Shard::lose_waiting);
        }
    }

    /// True if this node may act.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.lease().is_multiple_of(2)
    }

    /// A number that changes whenever this node stops or begins to act. Even while it may.
    #[must_use]
    pub(crate) fn lease(&self) -> u64 {
        self.0.lease.load(Ordering::Acquire)
    }

    /// A lock as it is now.
    ///
    /// # Errors
    /// If there is no such lock.
    pub fn lock_state(&self, lock: LockId) -> Result<LockState, RequestError> {
        let now = self.now();
        self.look(lock.shard(), |shard| shard.lock_state(now, lock)).ok_or(RequestError::NoSuchLock)?
    }

    /// A root resource with its locks, if there is one.
    ///
    /// # Errors
    /// Never at present: for resources below a lock see [`Lockspace::sub_resource_state`].
    pub fn resource_state(&self, name: &[u8]) -> Result<Option<ResourceState>, RequestError> {
        let now = self.now();
        let shard = self.shard_of(Shard::hash(self.0.seed, name));
        self.look(shard, |shard| shard.resource_state(now, None, name)).unwrap_or(Ok(None))
    }

    /// A resource below a lock, with its locks, if there is one.
    ///
    /// # Errors
    /// If there is no such parent.
    pub fn sub_resource_state(
        &self,
        parent: LockId,
        name: &[u8],
    ) -> Result<Option<ResourceState>, RequestError> {
        let now = self.now();
        self.look(parent.shard(), |shard| shard.resource_state(now, Some(parent), name))
            .ok_or(RequestError::NoSuchLock)?
    }

    /// All resources with all locks, one shard after the other. O(all).
    #[must_use]
    pub fn dump(&self) -> Vec<ResourceState> {
        let now = self.now();
        self.0.shards.iter().flat_map(|shard| shard.lock().dump(now)).collect()
    }

    /// All locks that wait and why, longest first. O(waiting).
    #[must_use]
    pub fn waiting(&self) -> Vec<(LockState, WaitReason)> {
        let now = self.now();
        let primary = self.is_primary();
        let mut found: Vec<_> = self
            .0
            .shards
            .iter()
            .flat_map(|shard| {
                let shard = shard.lock();
                let waiting = shard.waiting(now);
                waiting
                    .into_iter()
                    .map(|lock| {
                        let home = shard.home(lock.lock).unwrap_or((Home::Local, false));
                        let reason = WaitReason::of(&lock, home, primary);
                        (lock, reason)
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        found.sort_by_key(|(lock, _)| core::cmp::Reverse(lock.age));
        found
    }

    /// Releases a lock by an operator's order, whoever has it, with all below it. `reason` is not interpreted; an empty one
    /// is refused, so that nobody does it by accident. Returns how many locks went.
    ///
    /// The owner may still use what the lock protects: only the fencing token keeps it out. The value block becomes invalid
    /// if the lock was held in PW or EX.
    ///
    /// # Errors
    /// If there is no such lock, or no reason.
    pub fn force_release(&self, lock: LockId, reason: &str) -> Result<usize, RequestError> {
        if reason.trim().is_empty() {
            return Err(RequestError::Flags {
                flags: crate::Flags::FORCEUNLOCK,
                rule: "a forced release needs a reason",
            });
        }
        self.change(lock.shard(), |shard| shard.force_release(lock)).ok_or(RequestError::NoSuchLock)?
    }

    /// Releases the orphans that a client left, or all. Returns how many. O(all locks).
    pub fn purge(&self, client: Option<ClientId>) -> usize {
        self.each(|shard| shard.purge(client)).into_iter().sum()
    }

    /// The client is dead: its locks are released, those with PERSISTENT become orphans. O(all locks).
    pub fn drop_client(&self, client: ClientId) {
        self.0.clients.write().remove(&client);
        self.each(|shard| shard.drop_client(NodeSlot::LOCAL, client));
    }

    /// As [`Lockspace::drop_client`], of a client that is there, and is told that its waits are over.
    pub(crate) fn end_client(&self, client: ClientId) {
        self.each(|shard| {
            shard.lose_waiting_of(Some(client));
            shard.drop_client(NodeSlot::LOCAL, client);
        });
        self.0.clients.write().remove(&client);
    }

    /// When [`Lockspace::handle_timeout`] should be called, if nobody waits in a call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.0.shards.iter().filter_map(|shard| shard.lock().poll_timeout()).min()
    }

    /// Ends what has waited until its deadline.
    pub fn handle_timeout(&self, now: Instant) {
        self.each(|shard| shard.handle_timeout(now));
    }

    /// Begins an epoch in all shards: the number of a new view.
    pub fn set_epoch(&self, epoch: u64) {
        self.each(|shard| shard.set_epoch(epoch));
    }

    /// Sees to it that later writers' tokens are above `known`.
    pub fn raise_token(&self, known: FencingToken) {
        self.each(|shard| shard.raise_token(known));
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.0.shards.len()
    }

    /// The shard of a root resource, by the hash of its name.
    #[must_use]
    pub fn shard_of(&self, hash: u64) -> usize {
        let shift = 64 - self.0.shards.len().trailing_zeros();
        if shift == 64 { 0 } else { usize::try_from(hash >> shift).unwrap_or(0) }
    }

    /// The hash of a root resource's name in this lockspace.
    #[must_use]
    pub fn hash(&self, name: &[u8]) -> u64 {
        Shard::hash(self.0.seed, name)
    }

    /// Changes a shard, then tells clients and the engine what came of it. For the engine of a cluster. `None` if there is
    /// no such shard.
    pub fn change<R>(&self, shard: usize, work: impl FnOnce(&mut Shard) -> R) -> Option<R> {
        let mut locked = self.0.shards.get(shard)?.lock();
        let result = work(&mut locked);
        if locked.has_output() {
            let told = self.deliver(shard, &mut locked);
            drop(locked);
            told.tell(self);
        }
        Some(result)
    }

    /// Looks at a shard.
    pub(crate) fn look<R>(&self, shard: usize, work: impl FnOnce(&Shard) -> R) -> Option<R> {
        Some(work(&self.0.shards.get(shard)?.lock()))
    }

    pub(crate) fn each<R>(&self, mut work: impl FnMut(&mut Shard) -> R) -> Vec<R> {
        (0..self.0.shards.len()).filter_map(|shard| self.change(shard, &mut work)).collect()
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.clock.now()
    }

    pub(crate) fn after(&self, wait: Duration) -> Instant {
        self.now() + wait
    }

    /// Asks for a lock; if it waits, `pending` is called with it before anything can be told of it.
    pub(crate) fn request(
        &self,
        request: &Request<'_>,
        pending: impl FnOnce(LockId),
    ) -> Result<Answer, RequestError> {
        if !self.is_primary() {
            return Err(RequestError::NotPrimary);
        }
        let now = self.now();
        let (shard, hash) = match request.parent {
            Some(parent) => (parent.shard(), 0),
            None => {
                let hash = Shard::hash(self.0.seed, request.name);
                (self.shard_of(hash), hash)
            }
        };
        let ask = |shard: &mut Shard| {
            let answer = shard.request_hashed(now, hash, request);
            if let Ok(Answer::Pending(lock)) = answer {
                pending(lock);
            }
            answer
        };
        self.change(shard, ask).ok_or(RequestError::NoSuchLock)?
    }

    /// As [`Lockspace::request`], for a conversion.
    pub(crate) fn convert(
        &self,
        lock: LockId,
        terms: &Terms<'_>,
        pending: impl FnOnce(LockId),
    ) -> Result<Answer, RequestError> {
        let now = self.now();
        let ask = |shard: &mut Shard| {
            let answer = shard.convert(now, lock, terms);
            if let Ok(Answer::Pending(lock)) = answer {
                pending(lock);
            }
            answer
        };
        self.change(lock.shard(), ask).ok_or(RequestError::NoSuchLock)?
    }

    /// Puts a shard's outputs where they go, in their order.
    #[cold]
    fn deliver(&self, number: usize, shard: &mut Shard) -> Told {
        let mut told = Told { call: Vec::new(), wake: Vec::new(), outbox: false };
        while let Some(output) = shard.poll_output() {
            let (owner, notice) = match output {
                Output::Completed(completion) => (completion.owner, Notice::Completed(completion)),
                Output::Blocking(blocking) => (blocking.owner, Notice::Blocking(blocking)),
                Output::Route(_) => {
                    self.put_out(number, output, &mut told);
                    continue;
                }
            };
            if !owner.node.is_local() {
                self.put_out(number, output, &mut told);
                continue;
            }
            let Some(member) = self.0.clients.read().get(&owner.client).cloned() else { continue };
            match member.inbox.put(notice) {
                Put::Call => told.call.push(member),
                Put::First => told.wake.push(member),
                Put::More => {}
            }
        }
        told
    }

    /// Who is denied when waits form a cycle. By default, who has waited for the shortest time.
    pub fn set_victim_policy(&self, policy: Arc<dyn Policy>) {
        *self.0.victims.lock() = policy;
    }

    pub(crate) fn victim_policy(&self) -> Arc<dyn Policy> {
        Arc::clone(&self.0.victims.lock())
    }

    /// Looks at and changes all shards at once; then tells what came of it.
    pub(crate) fn with_all<R>(&self, work: impl FnOnce(&mut [MutexGuard<'_, Shard>], Instant) -> R) -> R {
        let now = self.now();
        // In order of numbers; whoever else locks a shard locks only that one.
        let mut locked: Vec<_> = self.0.shards.iter().map(Apart::lock).collect();
        let result = work(&mut locked, now);
        let told: Vec<Told> =
            locked.iter_mut().enumerate().map(|(at, shard)| self.deliver(at, shard)).collect();
        drop(locked);
        for told in told {
            told.tell(self);
        }
        result
    }

    fn put_out(&self, number: usize, output: Output, told: &mut Told) {
        if let Some(outbox) = &self.0.outbox {
            outbox.put(number, output);
            told.outbox = true;
        }
    }
}

/// Whom to wake once the shard is unlocked.
struct Told {
    call: Vec<Arc<Member>>,
    wake: Vec<Arc<Member>>,
    outbox: bool,
}

impl Told {
    fn tell(self, space: &Lockspace) {
        for member in self.wake {
            drop(member.gate.lock());
            member.arrived.notify_all();
            let waker = member.waker.lock().clone();
            if let Some(waker) = waker {
                waker();
            }
        }
        for member in self.call {
            member.inbox.dispatch();
        }
        if let Some(outbox) = space.0.outbox.as_ref().filter(|_| self.outbox) {
            outbox.flush();
        }
    }
}

impl core::fmt::Debug for Lockspace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Lockspace").field("name", &self.0.name).field("primary", &self.is_primary()).finish()
    }
}
