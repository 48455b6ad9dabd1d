//! The lock manager of one process: lockspaces by name.

use crate::client::{Ask, Client, LockError, Wait};
use crate::config::Config;
use crate::flags::Flags;
use crate::guard::{Converted, LockGuard, PendingConversion};
use crate::identity::FencingToken;
use crate::lockspace::{Clock, Lockspace, OpenError};
use crate::manager::{
    ConvertedLock, HeldLock, LockConversion, LockManager, LockOwner, LockRequest, LockTerms, SeenLock,
    Wanted, check_names,
};
use crate::mode::{Mode, Transfer};
use crate::object::{ObjectRanges, SpaceRanges};
use crate::pending::Pending;
use crate::range::RangeOwner;
use crate::shard::LockState;
use crate::status::RequestError;
use crate::value::ValueBlock;
use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Lockspaces of one process, without any cluster: every resource is mastered here, and this node may always act unless
/// [`Lockspace::set_primary`] says otherwise. Clones are the same.
#[derive(Clone)]
pub struct LocalLocks(Arc<Spaces>);

struct Spaces {
    seed: u64,
    clock: Arc<dyn Clock>,
    open: Mutex<BTreeMap<String, Lockspace>>,
    ranges: Mutex<BTreeMap<String, Arc<SpaceRanges>>>,
    owners: AtomicU64,
}

impl LocalLocks {
    /// None yet. `seed`: of hash tables, a secret of the process; `clock`: for waits with an end.
    #[must_use]
    pub fn new(seed: u64, clock: Arc<dyn Clock>) -> Self {
        let (open, ranges, owners) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Spaces { seed, clock, open, ranges, owners }))
    }

    /// The lockspace of that name, made if it is not there.
    ///
    /// # Errors
    /// If the name or the configuration cannot be, or it is there with another configuration.
    pub fn open(&self, name: &str, config: Config) -> Result<Lockspace, OpenError> {
        let space = self.open_as_is(name, config)?;
        if *space.config() == config { Ok(space) } else { Err(OpenError::Differs) }
    }

    /// The lockspace of that name, whatever its configuration; made with `config` if it is not there.
    fn open_as_is(&self, name: &str, config: Config) -> Result<Lockspace, OpenError> {
        let mut spaces = self.0.open.lock();
        if let Some(space) = spaces.get(name) {
            return Ok(space.clone());
        }
        let seed = crate::name::hash(self.0.seed, name.as_bytes());
        let space = Lockspace::new(name, config, seed, Arc::clone(&self.0.clock), None)?;
        spaces.insert(name.to_owned(), space.clone());
        Ok(space)
    }

    /// The lockspaces that are open, by name.
    #[must_use]
    pub fn open_names(&self) -> Vec<String> {
        self.0.open.lock().keys().cloned().collect()
    }

    /// Forgets a lockspace: the next [`LocalLocks::open`] makes a new one. Handles of the old one stay good. False if there
    /// is none.
    #[must_use]
    pub fn close(&self, name: &str) -> bool {
        self.0.open.lock().remove(name).is_some()
    }
}

impl fmt::Debug for LocalLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLocks").field("spaces", &self.open_names()).finish()
    }
}

/// Lockspaces that are not open are opened with the configuration that is the default.
impl LockManager for LocalLocks {
    fn owner(&self) -> Result<Box<dyn LockOwner>, LockError> {
        let ranges_as = RangeOwner(self.0.owners.fetch_add(1, Ordering::Relaxed));
        Ok(Box::new(Owner { locks: self.clone(), clients: Mutex::default(), ranges_as }))
    }
}

/// One owner: a client of each lockspace that it has used.
#[derive(Debug)]
struct Owner {
    locks: LocalLocks,
    clients: Mutex<BTreeMap<String, Client>>,
    ranges_as: RangeOwner,
}

impl Owner {
    fn client(&self, space: &str) -> Result<Client, LockError> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(space) {
            return Ok(client.clone());
        }
        let made = self.locks.open_as_is(space, Config::default()).and_then(|space| space.client());
        let client = made.map_err(|refused| match refused {
            OpenError::Clients(_) => RequestError::Limit("clients_max"),
            // The name is all that is not known to be good.
            OpenError::Name(_) | OpenError::Config(_) | OpenError::Differs => {
                RequestError::SpaceName(space.len())
            }
        })?;
        clients.insert(space.to_owned(), client.clone());
        Ok(client)
    }
}

impl LockOwner for Owner {
    fn request_with(
        &self,
        space: &str,
        name: &[u8],
        mode: Mode,
        terms: LockTerms,
    ) -> Result<Box<dyn LockRequest>, LockError> {
        check_names(space, name)?;
        let flags = if terms.lasting { Flags::VALBLK | Flags::PERSISTENT } else { Flags::VALBLK };
        let ask = Ask { flags, wait: terms.wait, tag: terms.signal, ..Ask::default() };
        let pending = self.client(space)?.lock_later(name, mode, &ask).map_err(gone)?;
        Ok(Box::new(Requested(pending)))
    }

    fn look(&self, space: &str, name: &[u8], _patience: Duration) -> Result<Vec<SeenLock>, LockError> {
        check_names(space, name)?;
        let state = self.client(space)?.lockspace().resource_state(name)?;
        let seen = |lock: LockState| SeenLock { held: lock.held, asked: lock.asked, orphan: lock.orphan };
        Ok(state.into_iter().flat_map(|state| state.locks).map(seen).collect())
    }

    fn purge(&self, space: &str, name: &[u8], _patience: Duration) -> Result<usize, LockError> {
        check_names(space, name)?;
        let client = self.client(space)?;
        let state = client.lockspace().resource_state(name)?;
        let orphans = state.into_iter().flat_map(|state| state.locks).filter(|lock| lock.orphan);
        // Whoever purges it meanwhile counts it.
        Ok(orphans.filter_map(|lock| client.lockspace().force_release(lock.lock, "purged").ok()).sum())
    }

    fn see_to_it(&self) {
        let clients: Vec<Client> = self.clients.lock().values().cloned().collect();
        for client in clients {
            let space = client.lockspace();
            space.handle_timeout(space.now());
            space.resolve_deadlocks();
        }
    }

    fn end(self: Box<Self>) {
        let clients = core::mem::take(&mut *self.clients.lock());
        clients.into_values().for_each(|client| client.end());
    }

    /// Ranges know nothing of [`Lockspace::set_primary`], and are searched for deadlocks apart from locks, each lockspace by itself.
    fn ranges(&self, space: &str, name: &[u8]) -> Result<Box<dyn ObjectRanges>, LockError> {
        check_names(space, name)?;
        let of_space = Arc::clone(self.locks.0.ranges.lock().entry(space.to_owned()).or_default());
        Ok(Box::new(of_space.open(self.ranges_as, name)?))
    }
}

#[derive(Debug)]
struct Requested(Pending);

impl LockRequest for Requested {
    fn wait(self: Box<Self>) -> Result<Box<dyn HeldLock>, LockError> {
        Ok(Box::new(Held::new(self.0.wait()?)?))
    }
}

impl Future for Requested {
    type Output = Result<Box<dyn HeldLock>, LockError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(outcome) = Pin::new(&mut self.0).poll(context) else { return Poll::Pending };
        Poll::Ready(outcome.and_then(Held::new).map(|held| -> Box<dyn HeldLock> { Box::new(held) }))
    }
}

/// What the owner of a lock was told and has not seen yet.
#[derive(Default)]
struct News {
    wanted: Mutex<Option<Wanted>>,
    arrived: Condvar,
    wake: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl News {
    fn tell(&self, wanted: Wanted) {
        *self.wanted.lock() = Some(wanted);
        self.arrived.notify_all();
        let wake = self.wake.lock().clone();
        if let Some(wake) = wake {
            wake();
        }
    }
}

struct Held {
    guard: LockGuard,
    value: Option<ValueBlock>,
    news: Arc<News>,
}

/// What a conversion does with the value block.
#[derive(Clone, Copy, Debug)]
struct Change {
    transfer: Transfer,
    written: Option<ValueBlock>,
}

impl Change {
    const fn of(held: Mode, asked: Mode, written: Option<ValueBlock>) -> Self {
        Self { transfer: Mode::transfer(Some(held), asked), written }
    }

    fn ask(&self, wait: Wait) -> Ask<'_> {
        let valued = self.transfer == Transfer::Read || self.written.is_some();
        let flags = if valued { Flags::VALBLK } else { Flags::NONE };
        Ask { flags, value: self.written.as_ref(), wait, ..Ask::default() }
    }
}

/// A conversion under way, and what its lock had beside the guard.
#[derive(Debug)]
struct Converting<'a> {
    conversion: PendingConversion,
    rest: Beside,
    /// The borrow of the lock above, which [`HeldLock::lock_below`] keeps in the type alone.
    _above: PhantomData<&'a ()>,
}

#[derive(Debug)]
struct Beside {
    change: Change,
    value: Option<ValueBlock>,
    news: Arc<News>,
}

impl Beside {
    fn join<'a>(&self, (guard, end): Converted) -> ConvertedLock<'a> {
        let mut held = Held { guard, value: self.value, news: Arc::clone(&self.news) };
        if end.is_ok() {
            held.changed(&self.change);
        }
        (Box::new(held), end.map_err(gone))
    }
}

impl<'a> LockConversion<'a> for Converting<'a> {
    fn cancel(&mut self) {
        self.conversion.cancel();
    }

    fn wait(self: Box<Self>) -> ConvertedLock<'a> {
        let Self { conversion, rest, .. } = *self;
        rest.join(conversion.wait())
    }
}

impl<'a> Future for Converting<'a> {
    type Output = ConvertedLock<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(end) = Pin::new(&mut self.conversion).poll(context) else { return Poll::Pending };
        Poll::Ready(self.rest.join(end))
    }
}

impl Held {
    fn new(mut guard: LockGuard) -> Result<Self, LockError> {
        let news = Arc::<News>::default();
        let told = Arc::clone(&news);
        guard.on_wanted(move |wanted| told.tell(wanted)).map_err(gone)?;
        let value = guard.value().copied().filter(|_| !guard.remarks().value_invalid);
        Ok(Self { guard, value, news })
    }

    /// After a conversion that was granted.
    fn changed(&mut self, change: &Change) {
        match change.transfer {
            Transfer::Read if self.guard.remarks().value_invalid => self.value = None,
            Transfer::Read => self.value = self.guard.value().copied(),
            Transfer::Write => self.value = change.written.or(self.value),
            Transfer::Nothing => {}
        }
    }
}

impl HeldLock for Held {
    fn mode(&self) -> Mode {
        self.guard.mode()
    }

    fn value(&self) -> Option<&ValueBlock> {
        self.value.as_ref()
    }

    fn check(&self) -> Result<(), LockError> {
        Ok(self.guard.check()?)
    }

    fn token(&self) -> Result<FencingToken, LockError> {
        Ok(self.guard.token()?)
    }

    fn wanted_by(&self, wait: Duration) -> Option<Wanted> {
        let mut wanted = self.news.wanted.lock();
        if wanted.is_none() {
            // Whether it was told or waited long enough shows below.
            let _late = self.news.arrived.wait_for(&mut wanted, wait).timed_out();
        }
        wanted.take()
    }

    fn on_news(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        *self.news.wake.lock() = Some(wake);
    }

    fn lock_below<'a>(
        &'a self,
        name: &[u8],
        mode: Mode,
        wait: Wait,
    ) -> Result<Box<dyn HeldLock + 'a>, LockError> {
        let ask = Ask { flags: Flags::VALBLK, parent: Some(self.guard.id()), wait, ..Ask::default() };
        let guard = self.guard.client().lock_with(name, mode, &ask).map_err(gone)?;
        Ok(Box::new(Self::new(guard)?))
    }

    fn convert(&mut self, mode: Mode, value: Option<ValueBlock>, wait: Wait) -> Result<(), LockError> {
        let change = Change::of(self.guard.mode(), mode, value);
        let ask = change.ask(wait);
        self.guard.convert_with(mode, ask.flags, ask.value, wait).map_err(gone)?;
        self.changed(&change);
        Ok(())
    }

    fn convert_later<'a>(
        self: Box<Self>,
        mode: Mode,
        value: Option<ValueBlock>,
        wait: Wait,
    ) -> Box<dyn LockConversion<'a> + 'a> {
        let change = Change::of(self.guard.mode(), mode, value);
        let Self { guard, value, news } = *self;
        let conversion = guard.convert_later(mode, &change.ask(wait));
        Box::new(Converting { conversion, rest: Beside { change, value, news }, _above: PhantomData })
    }

    fn release(self: Box<Self>, value: Option<ValueBlock>) -> Result<(), LockError> {
        self.guard.release(value.as_ref()).map_err(gone)
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "News({:?})", *self.wanted.lock())
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.fmt(f)
    }
}

/// A lock that is not there any more was lost.
fn gone(error: LockError) -> LockError {
    let lost = matches!(error, LockError::Refused(RequestError::NotPrimary | RequestError::NoSuchLock));
    if lost { LockError::Lost } else { error }
}
