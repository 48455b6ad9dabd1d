use super::config::{Address, LocalConfig};
use super::frame::Response;
use super::outbox::Wrote;
use super::process::Process;
use super::service::{ClientInfo, Service};
use super::session::{Broken, Session};
use super::wake::Wake;
use crate::rpc::Credentials;
use core::time::Duration;
use mio::event::Source as _;
use mio::net::{UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// Bytes read from and written to one client before the others have their turn.
const TURN: usize = 64 << 10;
/// How often clients that are late or stuck are looked for.
const CHECK: Duration = Duration::from_millis(250);

/// Why a local server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Another server answers there.
    #[error("a server listens at {0} already")]
    InUse(Address),
    /// Something that is not a socket is there; it is left alone.
    #[error("{0} exists and is not a socket")]
    NotASocket(Address),
    /// Anything else that the system refused.
    #[error("cannot listen at {address}: {source}")]
    System {
        /// Where.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalStats {
    /// Clients that are connected.
    pub clients: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused: who is not allowed, and beyond the limit.
    pub refused: u64,
    /// Clients thrown out because they broke the protocol.
    pub broken: u64,
    /// Clients thrown out because they said nothing, or read nothing.
    pub stuck: u64,
    /// Times that a client's requests were not read because it did not read its answers.
    pub throttled: u64,
    /// Events of services that were lost, of all clients that are gone.
    pub events_lost: u64,
    /// Clients that a service let go.
    pub ended: u64,
    /// Processes that live on without their connection and whose end a service waits for.
    pub mourned: usize,
}

/// A server for local programs, on a thread of its own. It ends, and its clients with it, when this is dropped.
#[derive(Debug)]
pub struct Server {
    wake: Arc<Wake>,
    stop: Arc<AtomicBool>,
    stats: Arc<Mutex<LocalStats>>,
    thread: Option<JoinHandle<()>>,
    address: Address,
}

impl Server {
    /// Listens and serves.
    ///
    /// # Errors
    /// [`ServeError`]; nothing is left behind.
    pub fn start(address: &Address, config: LocalConfig) -> Result<Self, ServeError> {
        let system = |source| ServeError::System { address: address.clone(), source };
        let (mut listener, path) = listen(address, config.mode)?;
        let poll = Poll::new().map_err(system)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(system)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(system)?;
        let wake = Arc::new(Wake::new(waker));
        let (stop, stats) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let engine = Engine {
            config: Arc::new(config),
            poll,
            listener,
            wake: Arc::clone(&wake),
            stop: Arc::clone(&stop),
            stats: Arc::clone(&stats),
            clients: BTreeMap::new(),
            mourned: BTreeMap::new(),
            last: 0,
            buffer: vec![0; TURN],
            path,
        };
        let thread = std::thread::Builder::new().name("ocf-local".to_owned()).spawn(move || engine.run());
        let thread = Some(thread.map_err(system)?);
        Ok(Self { wake, stop, stats, thread, address: address.clone() })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> LocalStats {
        *self.stats.lock()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for local programs had panicked");
        }
    }
}

fn listen(address: &Address, mode: u32) -> Result<(UnixListener, Option<PathBuf>), ServeError> {
    let system = |source| ServeError::System { address: address.clone(), source };
    let socket = address.socket().map_err(system)?;
    let bound = match std::os::unix::net::UnixListener::bind_addr(&socket) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let Address::Path(path) = address else { return Err(ServeError::InUse(address.clone())) };
            if !std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
                return Err(ServeError::NotASocket(address.clone()));
            }
            if std::os::unix::net::UnixStream::connect_addr(&socket).is_ok() {
                return Err(ServeError::InUse(address.clone()));
            }
            // Nobody listens: what a server that ended left behind.
            std::fs::remove_file(path).map_err(system)?;
            std::os::unix::net::UnixListener::bind_addr(&socket).map_err(system)?
        }
        other => other.map_err(system)?,
    };
    let path = match address {
        Address::Path(path) => {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(system)?;
            Some(path.clone())
        }
        Address::Abstract(_) => None,
    };
    bound.set_nonblocking(true).map_err(system)?;
    Ok((UnixListener::from_std(bound), path))
}

struct Conn {
    stream: UnixStream,
    session: Session,
    readable: bool,
    /// The end of the stream is to be read, after what is before it.
    hung_up: bool,
    ended: bool,
    since: Instant,
}

/// Why a client is let go.
enum End {
    Closed,
    Broken(Broken),
    Stuck,
    /// A service lets it go.
    Ended(String),
}

/// A process whose connection ended, and who waits for its end.
struct Mourned {
    process: Process,
    services: Vec<Arc<dyn Service>>,
}

struct Engine {
    config: Arc<LocalConfig>,
    poll: Poll,
    listener: UnixListener,
    wake: Arc<Wake>,
    stop: Arc<AtomicBool>,
    stats: Arc<Mutex<LocalStats>>,
    clients: BTreeMap<u64, Conn>,
    /// By the number that the client had.
    mourned: BTreeMap<u64, Mourned>,
    last: u64,
    buffer: Vec<u8>,
    path: Option<PathBuf>,
}

impl Engine {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut again: BTreeSet<u64> = BTreeSet::new();
        let mut checked = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let wait = if again.is_empty() { CHECK } else { Duration::ZERO };
            let wait = if again.is_empty() && self.clients.is_empty() { None } else { Some(wait) };
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!(%error, "waiting for local programs failed; they are served no more");
                break;
            }
            let mut ready = core::mem::take(&mut again);
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_all(&mut ready),
                    WAKER => {}
                    Token(client) => {
                        let client = u64::try_from(client).unwrap_or(0);
                        if let Some(conn) = self.clients.get_mut(&client) {
                            conn.readable |=
                                event.is_readable() || event.is_read_closed() || event.is_error();
                            conn.hung_up |= event.is_read_closed() || event.is_error();
                            ready.insert(client);
                        } else if self.mourned.get(&client).is_some_and(|m| m.process.has_ended()) {
                            self.bury(client);
                        }
                    }
                }
            }
            ready.append(&mut self.wake.take());
            // Whatever the services do in this turn is seen at its end.
            self.wake.awake();
            for client in ready {
                self.turn(client, &mut again);
            }
            again.append(&mut self.wake.take());
            if checked.elapsed() >= CHECK {
                checked = Instant::now();
                self.throw_out_the_stuck();
                for (name, service) in &self.config.services {
                    if catch_unwind(AssertUnwindSafe(|| service.look())).is_err() {
                        tracing::error!(service = %name, "a service panicked when it looked after its clients");
                    }
                }
            }
        }
        self.clients.clear();
        self.mourned.clear();
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(%error, "the socket was gone already");
        }
    }

    fn accept_all(&mut self, ready: &mut BTreeSet<u64>) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream, ready),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    // No descriptors left: whoever waits is served when some are.
                    tracing::warn!(%error, "cannot accept a local program");
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream, ready: &mut BTreeSet<u64>) {
        let refuse = |stream: &mut UnixStream, reason: String| {
            // Fits the empty buffer of a new socket, or the client does not hear why.
            if stream.write(&Response::Refused { reason }.emit()).is_err() {
                tracing::debug!("a refused client was gone already");
            }
        };
        let credentials = match rustix::net::sockopt::socket_peercred(&stream) {
            Ok(peer) => Credentials {
                pid: peer.pid.as_raw_nonzero().get(),
                uid: peer.uid.as_raw(),
                gid: peer.gid.as_raw(),
            },
            Err(error) => {
                tracing::debug!(%error, "the kernel does not say who connected");
                self.stats.lock().refused += 1;
                return;
            }
        };
        if let Some(reason) = self.refusal(credentials) {
            refuse(&mut stream, reason);
            self.stats.lock().refused += 1;
            return;
        }
        self.last += 1;
        let id = self.last;
        let token = Token(usize::try_from(id).unwrap_or(0));
        if let Err(error) =
            self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)
        {
            tracing::warn!(%error, "cannot watch a local program");
            return;
        }
        let process = Process::of_peer(&stream, credentials.pid);
        let info = ClientInfo { id, name: String::new(), credentials, process };
        // Other threads write as well, what they have for it.
        let writer = match stream.as_fd().try_clone_to_owned() {
            Ok(writer) => writer.into(),
            Err(error) => {
                tracing::warn!(%error, "no descriptor is left for a local program");
                return;
            }
        };
        let session = Session::new(Arc::clone(&self.config), Arc::clone(&self.wake), info);
        session.outbox.attach(writer);
        let now = Instant::now();
        let conn = Conn { stream, session, readable: true, hung_up: false, ended: false, since: now };
        self.clients.insert(id, conn);
        ready.insert(id);
        let mut stats = self.stats.lock();
        stats.accepted += 1;
        stats.clients = self.clients.len();
    }

    /// Why who connects is not served, if it is not.
    fn refusal(&self, credentials: Credentials) -> Option<String> {
        let (accept, limits) = (&self.config.accept, &self.config.limits);
        let Credentials { uid, gid, .. } = credentials;
        let own = uid == rustix::process::geteuid().as_raw();
        if !(accept.anyone || own || accept.uids.contains(&uid) || accept.gids.contains(&gid)) {
            return Some(format!("user {uid}, group {gid} may not connect{}", self.config.who_may));
        }
        let mourned = self.mourned.len();
        if mourned >= limits.mourned_max {
            return Some(format!("{mourned} processes live on without their connection, no more are served"));
        }
        let limit = limits.clients_max;
        let full = self.clients.len() >= limit;
        full.then(|| format!("{limit} clients are connected, no more are served"))
    }

    fn turn(&mut self, client: u64, again: &mut BTreeSet<u64>) {
        let Some(conn) = self.clients.get_mut(&client) else { return };
        match conn.turn(&mut self.buffer, &self.stats) {
            Ok(true) => {
                again.insert(client);
            }
            Ok(false) => {}
            Err(end) => self.end(client, &end),
        }
    }

    fn end(&mut self, client: u64, end: &End) {
        let Some(mut conn) = self.clients.remove(&client) else { return };
        {
            let mut stats = self.stats.lock();
            match end {
                End::Closed => {}
                End::Broken(Broken(rule)) => {
                    tracing::debug!(client, rule, "a local program broke the protocol");
                    stats.broken += 1;
                }
                End::Stuck => stats.stuck += 1,
                End::Ended(reason) => {
                    tracing::warn!(
                        client,
                        name = conn.session.info().name,
                        reason,
                        "a local program is let go"
                    );
                    stats.ended += 1;
                }
            }
            stats.events_lost += conn.session.outbox.lost_ever();
            stats.clients = self.clients.len();
        }
        if let End::Ended(reason) = end {
            conn.session.outbox.last_word(&Response::Refused { reason: reason.clone() }.emit());
        }
        // A refusal may wait; it is told if the socket takes it.
        if matches!(end, End::Broken(_) | End::Ended(_)) && conn.write().is_err() {
            tracing::trace!(client, "it does not hear why");
        }
        if let Err(error) = self.poll.registry().deregister(&mut conn.stream) {
            tracing::debug!(%error, "a socket was not watched");
        }
        let services = conn.session.finish();
        if !services.is_empty() {
            self.mourn(client, conn.session.info().process.clone(), services);
        }
    }

    /// Waits for the end of a process without waiting here.
    fn mourn(&mut self, client: u64, process: Option<Process>, services: Vec<Arc<dyn Service>>) {
        let Some(process) = process else {
            tracing::warn!(client, "nobody can say when the process of a client ends: what it had is kept");
            return;
        };
        let token = Token(usize::try_from(client).unwrap_or(0));
        let watched = process.watch().map(|process| {
            SourceFd(&process.as_raw_fd()).register(self.poll.registry(), token, Interest::READABLE)
        });
        if let Some(Err(error)) = watched {
            tracing::error!(client, %error, "cannot wait for the end of a process: what it had is kept");
            return;
        }
        let ended = process.has_ended();
        self.mourned.insert(client, Mourned { process, services });
        self.stats.lock().mourned = self.mourned.len();
        if ended {
            self.bury(client);
        }
    }

    /// Tells who mourns that the process has ended.
    fn bury(&mut self, client: u64) {
        let Some(Mourned { process, services }) = self.mourned.remove(&client) else { return };
        if let Some(fd) = process.watch()
            && let Err(error) = SourceFd(&fd.as_raw_fd()).deregister(self.poll.registry())
        {
            tracing::debug!(%error, "a process was not watched");
        }
        self.stats.lock().mourned = self.mourned.len();
        for service in services {
            if catch_unwind(AssertUnwindSafe(|| service.ended(client))).is_err() {
                tracing::error!("a service panicked when a process had ended");
            }
        }
    }

    fn throw_out_the_stuck(&mut self) {
        let limits = &self.config.limits;
        let now = Instant::now();
        let late = |conn: &Conn| !conn.session.is_registered() && now - conn.since > limits.hello_within;
        let stuck = |conn: &Conn| {
            !limits.stuck_max.is_zero()
                && conn.session.outbox.is_full()
                && now.saturating_duration_since(conn.session.outbox.moved()) > limits.stuck_max
        };
        let out: Vec<u64> =
            self.clients.iter().filter(|(_, conn)| late(conn) || stuck(conn)).map(|(id, _)| *id).collect();
        for client in out {
            self.end(client, &End::Stuck);
        }
    }
}

impl Conn {
    /// Reads, acts and writes once. True if there is more to do at once.
    fn turn(&mut self, buffer: &mut [u8], stats: &Mutex<LocalStats>) -> Result<bool, End> {
        if let Some(reason) = self.session.outbox.ended() {
            return Err(End::Ended(reason));
        }
        let full = self.session.outbox.is_full();
        if full && self.readable {
            stats.lock().throttled += 1;
        }
        if self.readable && !full && !self.ended {
            self.read(buffer)?;
        }
        let more_asked = self.session.run().map_err(End::Broken)?;
        let more_news = self.session.deliver();
        self.write()?;
        if self.ended {
            return Err(End::Closed);
        }
        // While the quota is used up, the next thing to happen is that the socket takes something.
        Ok(!self.session.outbox.is_full() && (full || more_asked || more_news || self.readable))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), End> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    self.readable = false;
                    self.ended = true;
                    return Ok(());
                }
                Ok(got) => {
                    self.session.push(&buffer[..got]);
                    // A short read of a stream socket means that it is empty; what comes next is an event.
                    self.readable = self.hung_up || got == buffer.len();
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(());
                }
                Err(_) => return Err(End::Closed),
            }
        }
    }

    /// Writes about one turn's bytes.
    fn write(&self) -> Result<(), End> {
        match self.session.outbox.write(TURN) {
            Wrote::All | Wrote::Blocked => Ok(()),
            Wrote::Some => {
                // The others first; the socket may take more, so come back.
                self.session.outbox.touch();
                Ok(())
            }
            Wrote::Closed => Err(End::Closed),
        }
    }
}
