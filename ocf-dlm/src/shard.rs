//! A part of a lockspace's resources and their locks: the queues, and every rule about them.

mod domain;
mod ends;
mod invariants;
mod number;
mod outside;
mod query;
mod rules;

pub use number::NumberOp;
pub use outside::Verdict;
pub use query::{Holder, LockState, ResourceState};

use crate::config::Config;
use crate::flags::{Flags, Remarks};
use crate::identity::{FencingToken, LockId, Owner, PLACE_BITS, SHARD_BITS};
use crate::index::Index;
use crate::mode::Mode;
use crate::name::{self, ResourceName};
use crate::request::{Answer, Completion, Operation, Output, Request, Routed, RoutedOperation, Terms};
use crate::resource::{Home, Lock, Queue, Resource};
use crate::slab::{NONE, Slab};
use crate::status::{RequestError, Status};
use crate::value::ValueBlock;
use pils::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most locks on one resource, waiting ones included.
pub const LOCKS_PER_RESOURCE_MAX: u16 = u16::MAX;

/// A sans-IO core: the resources whose names hash to it, with their locks. Roots and all that is below them are in one
/// shard.
///
/// Time is an argument; effects are [`Output`]s, one ordered queue; it is driven by one owner at a time, which may be a
/// thread that holds a mutex. Rules and their sources: `PROTOCOL.md`, sections 2 to 6.
#[derive(Debug)]
pub struct Shard {
    number: u32,
    seed: u64,
    config: Config,
    /// What a resource that is new to this node is: mastered here, or unknown until a directory was asked.
    new_home: Home,
    epoch: u64,
    /// The last fencing token's sequence.
    token: u64,
    /// The last number in the order of queueing.
    sequence: u64,
    index: Index,
    resources: Slab<Resource>,
    locks: Slab<Lock>,
    values: Slab<Value>,
    /// What waits, by place of the lock.
    waits: BTreeMap<u32, Wait>,
    /// When, the number in the order of queueing, the place.
    deadlines: BTreeSet<(Instant, u64, u32)>,
    transactions: BTreeMap<u32, u64>,
    /// Value blocks of conversions that are parked.
    carried: BTreeMap<u32, ValueBlock>,
    /// Invalid root resources are kept without locks.
    keeps_invalid: bool,
    /// Those, with the number of the last failure of each.
    kept: BTreeMap<u32, u64>,
    failures: u64,
    outputs: VecDeque<Output>,
}

/// A resource's value block, once it was written.
#[derive(Clone, Copy, Debug)]
struct Value {
    block: ValueBlock,
    /// How often it was written.
    sequence: u64,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Instant,
    deadline: Option<Instant>,
}

impl Shard {
    /// An empty shard. `number`: which of the lockspace's, below `config.shards`. `seed`: of the hash, a secret of the node.
    #[must_use]
    pub const fn new(number: u32, seed: u64, config: Config, new_home: Home) -> Self {
        Self {
            number,
            seed,
            config,
            new_home,
            epoch: 0,
            token: 0,
            sequence: 0,
            index: Index::new(),
            resources: Slab::new(),
            locks: Slab::new(),
            values: Slab::new(),
            waits: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            transactions: BTreeMap::new(),
            carried: BTreeMap::new(),
            keeps_invalid: false,
            kept: BTreeMap::new(),
            failures: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The hash of a root resource's name. Its highest bits choose the shard.
    #[must_use]
    pub fn hash(seed: u64, name: &[u8]) -> u64 {
        name::hash(seed, name)
    }

    /// Next effect, in order. Call until `None` after every call that changes something.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// True if [`Shard::poll_output`] has something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// Whose a lock is.
    ///
    /// # Errors
    /// If there is no such lock.
    pub fn owner(&self, lock: LockId) -> Result<Owner, RequestError> {
        Ok(self.locks[self.place(lock)?].owner)
    }

    /// When to call [`Shard::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    /// How many locks there are, waiting ones included.
    #[must_use]
    pub const fn locks(&self) -> usize {
        self.locks.len() as usize
    }

    /// How many resources there are.
    #[must_use]
    pub const fn resources(&self) -> usize {
        self.resources.len() as usize
    }

    /// Asks for a new lock. It is granted, refused or queued by the rules of `PROTOCOL.md`, section 2.
    ///
    /// O(1) when nobody waits for the resource.
    ///
    /// # Errors
    /// If the request cannot be one; nothing changes.
    pub fn request(&mut self, now: Instant, request: &Request<'_>) -> Result<Answer, RequestError> {
        let hash = Self::hash(self.seed, request.name);
        self.request_hashed(now, hash, request)
    }

    /// As [`Shard::request`], for a caller that has hashed the name already.
    ///
    /// # Errors
    /// If the request cannot be one; nothing changes.
    pub fn request_hashed(
        &mut self,
        now: Instant,
        hash: u64,
        request: &Request<'_>,
    ) -> Result<Answer, RequestError> {
        let Request { owner, parent, name, terms } = *request;
        check_request(&terms)?;
        name::check(name)?;
        let parent = parent.map(|parent| self.parent(parent, request)).transpose()?;
        let above = parent.map_or(NONE, |parent| self.locks[parent].resource);
        let tag = self.tag(hash, above, name);
        let found = self.lookup(tag, above, name);
        if terms.flags.has(Flags::ORPHAN) {
            return self.adopt(found, request);
        }
        let resource = match found {
            Some(resource) => self.room_for_lock(resource).map(|()| resource)?,
            None => self.create(tag, above, name)?,
        };
        if !owner.node.is_local() && self.resources[resource].home() != Home::Local {
            self.free_if_idle(resource);
            return Err(RequestError::NotMaster);
        }
        let at = self.locks.insert(Lock {
            owner,
            sequence: 0,
            resource,
            next: NONE,
            previous: NONE,
            generation: 0,
            parent: parent.unwrap_or(NONE),
            children: 0,
            flags: terms.flags,
            held: None,
            asked: Some(terms.mode),
            queue: Queue::Outside,
            notified: 0,
            demoted: false,
            orphan: false,
            parked: false,
            alternative: false,
        });
        self.born(at);
        self.resources[resource].locks += 1;
        if let Some(transaction) = terms.transaction {
            self.transactions.insert(at, transaction);
        }
        let found = &self.resources[resource];
        if !found.is_open() {
            if found.home() == Home::Local && terms.flags.has(Flags::NOQUEUE) {
                // Whether it could be granted shows when the resource is thawed; until then it would have to wait.
                return Ok(self.refuse_request(at, Status::NotQueued));
            }
            return Ok(self.send_request(now, at, &terms));
        }
        Ok(self.decide_request(now, at, terms.deadline))
    }

    /// Asks to change the mode of a granted lock.
    ///
    /// Down: done at once. Up: granted, refused or queued by `PROTOCOL.md`, section 2; while it waits the old mode is held.
    ///
    /// # Errors
    /// If the lock is not there or not granted, or the terms cannot be; nothing changes.
    pub fn convert(&mut self, now: Instant, lock: LockId, terms: &Terms<'_>) -> Result<Answer, RequestError> {
        let at = self.place(lock)?;
        let Lock { held: Some(held), queue: Queue::Granted, resource, orphan: false, .. } = self.locks[at]
        else {
            return Err(RequestError::Busy);
        };
        check_conversion(held, terms)?;
        let kept = self.locks[at].flags.bits()
            & (Flags::PERSISTENT | Flags::NOTIFY | Flags::NODOMAIN | Flags::OWNED).bits();
        self.locks[at].flags = terms.flags | Flags::from_bits(kept);
        self.locks[at].asked = Some(terms.mode);
        self.locks[at].demoted = false;
        self.locks[at].alternative = false;
        if let Some(transaction) = terms.transaction {
            self.transactions.insert(at, transaction);
        }
        if !self.resources[resource].is_open() {
            return Ok(self.send_conversion(now, at, terms));
        }
        Ok(self.decide_conversion(now, at, terms))
    }

    /// Gives a lock up. `flags`: VALBLK with `value`, IVVALBLK, FORCEUNLOCK for a lock that waits or converts.
    ///
    /// The block is written, or made invalid, only if the lock is held in PW or EX. An operation that waits ends with
    /// [`Status::Unlocked`].
    ///
    /// # Errors
    /// If the lock is not there, waits without FORCEUNLOCK, or has sublocks; nothing changes.
    pub fn release(
        &mut self,
        lock: LockId,
        flags: Flags,
        value: Option<&ValueBlock>,
    ) -> Result<(), RequestError> {
        let at = self.place(lock)?;
        let Lock { queue, children, resource, owner, .. } = self.locks[at];
        if flags.has(Flags::VALBLK) && value.is_none() {
            return Err(RequestError::Flags { flags, rule: "VALBLK needs a value block" });
        }
        if children != 0 {
            return Err(RequestError::HasSublocks(children));
        }
        if queue != Queue::Granted {
            if !flags.has(Flags::FORCEUNLOCK) {
                return Err(RequestError::Busy);
            }
            self.finish(at, Status::Unlocked, None);
        }
        if !self.resources[resource].home().eq(&Home::Local) {
            let value = value.copied().filter(|_| flags.has(Flags::VALBLK));
            self.route(lock, RoutedOperation::Release { owner, flags, value });
        }
        self.write_on_release(at, flags, value);
        self.remove(at);
        if queue != Queue::Granted {
            self.end_episode(resource);
        }
        self.settle(resource);
        Ok(())
    }

    /// Ends an operation that waits, with [`Status::Cancelled`]: a request is gone, a conversion holds its old mode.
    ///
    /// # Errors
    /// If the lock is not there, or nothing waits ([`RequestError::Busy`]); nothing changes.
    pub fn cancel(&mut self, lock: LockId) -> Result<(), RequestError> {
        let at = self.place(lock)?;
        let Lock { queue, resource, .. } = self.locks[at];
        if queue == Queue::Granted {
            return Err(RequestError::Busy);
        }
        if self.resources[resource].home() != Home::Local {
            self.route(lock, RoutedOperation::Cancel);
            return Ok(());
        }
        self.give_up(at, Status::Cancelled);
        Ok(())
    }

    /// Ends an operation that waits here with `status`: the victim of a deadlock, say.
    ///
    /// # Errors
    /// If the lock is not there, or nothing waits; nothing changes.
    pub fn end_wait(&mut self, lock: LockId, status: Status) -> Result<(), RequestError> {
        let at = self.place(lock)?;
        if self.locks[at].queue == Queue::Granted {
            return Err(RequestError::Busy);
        }
        self.give_up(at, status);
        Ok(())
    }

    /// Ends what has waited until its deadline with [`Status::TimedOut`].
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(deadline, _, at)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            self.deadlines.pop_first();
            let resource = self.locks[at].resource;
            if self.resources[resource].home() == Home::Local {
                self.give_up(at, Status::TimedOut);
            } else {
                // The master decides whether it was in time; its answer ends the operation.
                self.route(self.id(at), RoutedOperation::Cancel);
            }
        }
    }

    /// Begins an epoch: the number of a new view. Tokens from now on carry it.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// The latest token of this shard: no grant here carries a later one.
    #[must_use]
    pub const fn token(&self) -> FencingToken {
        FencingToken { epoch: self.epoch, sequence: self.token }
    }

    /// Sees to it that later writers' tokens are above `known`, which another master has given.
    pub fn raise_token(&mut self, known: FencingToken) {
        self.epoch = self.epoch.max(known.epoch);
        self.token = self.token.max(known.sequence);
    }

    fn id(&self, at: u32) -> LockId {
        LockId::new(self.number, at, self.locks[at].generation)
    }

    /// The place of a lock that is there.
    fn place(&self, lock: LockId) -> Result<u32, RequestError> {
        let at = lock.place();
        let there = self.locks.find(at).is_some_and(|found| found.generation == lock.generation());
        if there && lock.shard() == self.number as usize { Ok(at) } else { Err(RequestError::NoSuchLock) }
    }

    fn parent(&self, parent: LockId, request: &Request<'_>) -> Result<u32, RequestError> {
        let at = self.place(parent)?;
        let Lock { owner, queue, .. } = self.locks[at];
        if (owner.node, owner.client) != (request.owner.node, request.owner.client) {
            return Err(RequestError::NotOwner);
        }
        if queue == Queue::Granted { Ok(at) } else { Err(RequestError::ParentNotGranted) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lowest 32 bits of a hash")]
    fn tag(&self, hash: u64, above: u32, name: &[u8]) -> u32 {
        if above == NONE {
            return hash as u32;
        }
        let seed = self.seed ^ (u64::from(above) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        name::hash(seed, name) as u32
    }

    fn lookup(&self, tag: u32, above: u32, name: &[u8]) -> Option<u32> {
        self.index.find(tag, |at| {
            let found = &self.resources[at];
            found.parent == above && found.name.as_bytes() == name
        })
    }

    fn room_for_lock(&self, resource: u32) -> Result<(), RequestError> {
        if self.locks.len() >= self.config.locks_per_shard_max {
            return Err(RequestError::Limit("locks_per_shard_max"));
        }
        if self.resources[resource].locks == LOCKS_PER_RESOURCE_MAX {
            return Err(RequestError::Limit("LOCKS_PER_RESOURCE_MAX"));
        }
        Ok(())
    }

    fn create(&mut self, tag: u32, above: u32, name: &[u8]) -> Result<u32, RequestError> {
        if self.locks.len() >= self.config.locks_per_shard_max {
            return Err(RequestError::Limit("locks_per_shard_max"));
        }
        if self.resources.len() >= self.config.resources_per_shard_max {
            return Err(RequestError::Limit("resources_per_shard_max"));
        }
        let home = if above == NONE { self.new_home } else { self.resources[above].home() };
        let frozen = above != NONE && self.resources[above].frozen;
        let mut resource = Resource::new(ResourceName::new(name)?, above, tag, self.token());
        resource.set_home(home);
        resource.frozen = frozen;
        let at = self.resources.insert(resource);
        self.index.insert(tag, at);
        Ok(at)
    }

    /// Gives a new lock its generation, and counts it at its parent.
    fn born(&mut self, at: u32) {
        self.sequence += 1;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "cut to its bits: it comes round after 2^30 locks"
        )]
        let generation = ((self.sequence as u32) & ((1 << (64 - SHARD_BITS - PLACE_BITS)) - 1)).max(1);
        let lock = &mut self.locks[at];
        lock.sequence = self.sequence;
        lock.generation = generation;
        let parent = lock.parent;
        if parent != NONE {
            self.locks[parent].children += 1;
        }
    }

    /// Takes a lock away, whatever its queue; its waiting operation, if any, has ended. Nobody is granted yet.
    fn remove(&mut self, at: u32) {
        self.unwait(at);
        self.transactions.remove(&at);
        self.carried.remove(&at);
        let Lock { resource, held, parent, .. } = self.locks[at];
        let found = &mut self.resources[resource];
        found.unlink(&mut self.locks, at);
        found.recount(held, None);
        found.locks -= 1;
        if parent != NONE {
            self.locks[parent].children -= 1;
        }
        self.locks.remove(at);
    }

    fn free_if_idle(&mut self, resource: u32) {
        if self.resources[resource].is_idle() && !self.kept.contains_key(&resource) {
            let Resource { tag, value, .. } = self.resources.remove(resource);
            self.index.remove(tag, resource);
            if value != NONE {
                self.values.remove(value);
            }
        }
    }

    /// Grants what can be granted after a change, tells who is in the way, and forgets the resource if nobody is left.
    fn settle(&mut self, resource: u32) {
        let found = &self.resources[resource];
        if found.is_idle() {
            self.free_if_idle(resource);
        } else if !found.is_calm() && found.is_open() {
            self.grant_pending(resource);
        }
    }

    fn wait(&mut self, now: Instant, at: u32, deadline: Option<Instant>) {
        self.waits.insert(at, Wait { since: now, deadline });
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, self.locks[at].sequence, at));
        }
    }

    fn unwait(&mut self, at: u32) {
        if self.locks[at].queue == Queue::Granted {
            return;
        }
        if let Some(Wait { deadline: Some(deadline), .. }) = self.waits.remove(&at) {
            self.deadlines.remove(&(deadline, self.locks[at].sequence, at));
        }
    }

    /// How the operation of a lock ended; `value` goes along.
    fn completion(&self, at: u32, operation: Operation, status: Status) -> Completion {
        let Lock { owner, held, resource, demoted, alternative, .. } = self.locks[at];
        let found = &self.resources[resource];
        Completion {
            lock: self.id(at),
            owner,
            operation,
            status,
            held,
            remarks: Remarks { demoted, value_invalid: found.value_invalid, alternative },
            token: found.token,
            value: None,
        }
    }

    /// Reports a completion: to the caller if it asked for that, else among the outputs.
    fn report(&mut self, at: u32, completion: Completion) -> Answer {
        if self.locks[at].flags.has(Flags::SYNCSTS) {
            return Answer::Done(completion);
        }
        self.outputs.push_back(Output::Completed(completion));
        Answer::Pending(completion.lock)
    }

    fn route(&mut self, lock: LockId, what: RoutedOperation) {
        let resource = self.locks[lock.place()].resource;
        let master = match self.resources[resource].home() {
            Home::Remote(node) => Some(node),
            Home::Local | Home::Unknown => None,
        };
        self.outputs.push_back(Output::Route(Routed { lock, master, what }));
    }

    fn value_of(&self, resource: u32) -> ValueBlock {
        let length = self.config.value_length;
        self.values.find(self.resources[resource].value).map_or_else(|| ValueBlock::zero(length), |v| v.block)
    }

    fn set_value(&mut self, resource: u32, block: &ValueBlock) {
        let block = block.resized(self.config.value_length);
        // It is valid: there is nothing to repair any more.
        self.kept.remove(&resource);
        let found = &mut self.resources[resource];
        found.value_invalid = false;
        if found.value == NONE {
            found.value = self.values.insert(Value { block, sequence: 1 });
        } else {
            let value = &mut self.values[found.value];
            *value = Value { block, sequence: value.sequence + 1 };
        }
    }

    /// Whether `mode` on a resource is a new writer's grant: see [`FencingToken`].
    fn next_token(&mut self, resource: u32, old: Option<Mode>, new: Mode) {
        let found = &mut self.resources[resource];
        let first_of_group = new == Mode::Cw && found.count(Mode::Cw) == 0;
        let stays_writer = old.is_some_and(|old| old.is_writer() && old.is_down(new));
        if (new.is_writer() || first_of_group) && !stays_writer {
            self.token += 1;
            found.token = FencingToken { epoch: self.epoch, sequence: self.token };
        }
    }
}

fn check_request(terms: &Terms<'_>) -> Result<(), RequestError> {
    let flags = terms.flags;
    let refuse = |rule| Err(RequestError::Flags { flags, rule });
    if flags.bits() & !PLAIN.bits() == 0 {
        return Ok(());
    }
    if flags.has_any(Flags::QUECVT | Flags::CONVDEADLK) {
        return refuse("QUECVT and CONVDEADLK are for conversions");
    }
    if flags.has(Flags::FORCEUNLOCK) {
        return refuse("FORCEUNLOCK is for releases");
    }
    if flags.has(Flags::EXPEDITE) && (terms.mode != Mode::Nl || flags.has(Flags::NOQUEUE)) {
        return refuse("EXPEDITE is for NL, and not with NOQUEUE");
    }
    Ok(())
}

/// Flags that go with every request.
const PLAIN: Flags = Flags::NOQUEUE.with(Flags::SYNCSTS).with(Flags::NOTIFY).with(Flags::VALBLK);

fn check_conversion(held: Mode, terms: &Terms<'_>) -> Result<(), RequestError> {
    let flags = terms.flags;
    let refuse = |rule| Err(RequestError::Flags { flags, rule });
    if flags.has(Flags::VALBLK) && terms.value.is_none() && Mode::transfer(Some(held), terms.mode) == WRITE {
        return refuse("this conversion writes the value block, and none is given");
    }
    if flags.has_any(Flags::EXPEDITE | Flags::ORPHAN | Flags::FORCEUNLOCK) {
        return refuse("EXPEDITE, ORPHAN and FORCEUNLOCK are not for conversions");
    }
    if flags.has(Flags::CONVDEADLK | Flags::NOQUEUE) {
        return refuse("CONVDEADLK waits and NOQUEUE does not");
    }
    if flags.has(Flags::QUECVT) && !held.may_queue_conversion(terms.mode) {
        return Err(RequestError::NotQueueable { held, asked: terms.mode });
    }
    Ok(())
}

const WRITE: crate::mode::Transfer = crate::mode::Transfer::Write;
