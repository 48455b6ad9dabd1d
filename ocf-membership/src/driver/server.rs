//! The arbiter as a server.

use super::frames::{End, Way};
use super::strangers::Strangers;
use super::{Secret, Session};
use crate::arbiter::{Arbiter, ArbiterConfig, ArbiterInput, ArbiterOutput, Asker};
use core::time::Duration;
use pils::wire::ParseError;
use pils::{Instant, Layer};
use rustix::net::{SendFlags, send};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time;

/// Connections of those that know the secret at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 128;
/// Messages of all connections that wait for the core; more wait in the sockets.
const WAITING_MAX: usize = 256;
/// A connection on which nothing is said for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long a connection may take for each part of its greeting and first message.
const FIRST: Duration = Duration::from_secs(2);

/// Why an arbiter did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A record cannot be read, or a socket not be used.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A record is damaged. Restore it; without it, what it granted is forgotten.
    #[error("{}: {error}", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: ParseError,
    },
}

enum ToCore {
    Opened(Asker, TcpStream, Session),
    Message(Asker, Vec<u8>),
    Closed(Asker),
    Stop,
}

/// An arbiter that listens. Dropping it stops it.
#[derive(Debug)]
pub struct ArbiterServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    core: SyncSender<ToCore>,
    threads: Vec<JoinHandle<()>>,
}

impl ArbiterServer {
    /// Serves nodes that know `secret` from `listener`. What it grants is kept in the folder `dir`, one file for each
    /// cluster; no other arbiter may use it.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn start(
        listener: TcpListener,
        secret: &[u8],
        dir: &Path,
        config: ArbiterConfig,
    ) -> Result<Self, ServerError> {
        let records = read_records(dir)?;
        let mut cores = Vec::new();
        for (path, record) in &records {
            // Each by itself first, so that the error names the file.
            Arbiter::new(config, [&record[..]])
                .map_err(|error| ServerError::Record { path: path.clone(), error })?;
            cores.push(&record[..]);
        }
        let arbiter = Arbiter::new(config, cores)
            .map_err(|error| ServerError::Record { path: dir.to_owned(), error })?;
        let address = listener.local_addr()?;
        let (secret, stop) = (Secret::new(secret), Arc::new(AtomicBool::new(false)));
        let (core, inbox) = sync_channel(WAITING_MAX);
        let threads = vec![
            spawn("ocf-arbiter", {
                let dir = dir.to_owned();
                move || run(arbiter, &inbox, &dir)
            })?,
            spawn("ocf-arbiter-listen", {
                let (stop, core) = (Arc::clone(&stop), core.clone());
                move || accept(&listener, &secret, &stop, &core)
            })?,
        ];
        Ok(Self { address, stop, core, threads })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it stops, which only an error of its socket makes it do.
    pub fn wait(mut self) {
        if let Some(listening) = self.threads.pop()
            && listening.join().is_err()
        {
            tracing::error!("the thread that listens has panicked");
        }
    }
}

impl Drop for ArbiterServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that listens; refused if it has stopped already.
        drop(TcpStream::connect_timeout(&self.address, FIRST));
        let stopped = self.core.send(ToCore::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() || stopped.is_err() {
                tracing::debug!("a thread of the arbiter had ended before");
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// What all connections share.
#[derive(Debug)]
struct Door {
    secret: Secret,
    strangers: Strangers,
    /// Connections of those that know the secret.
    known: AtomicUsize,
}

fn accept(listener: &TcpListener, secret: &Secret, stop: &AtomicBool, core: &SyncSender<ToCore>) {
    let door = Door { secret: secret.clone(), strangers: Strangers::default(), known: AtomicUsize::new(0) };
    let door = Arc::new(door);
    let mut next = 0;
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let Ok((stream, other)) = stream.and_then(|s| s.try_clone().map(|other| (s, other))) else {
            // Out of files, perhaps: later there may be some again.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        next += 1;
        let asker = Asker(next);
        door.strangers.add(asker, other);
        let serve = {
            let (door, core) = (Arc::clone(&door), core.clone());
            move || {
                if let Err(error) = listen(asker, stream, &door, &core) {
                    tracing::debug!(?asker, %error, "a connection ended");
                }
                door.strangers.remove(asker);
            }
        };
        if spawn("ocf-arbiter-conn", serve).is_err() {
            door.strangers.remove(asker);
        }
    }
    door.strangers.clear();
}

/// Hands the messages of one connection to the core until it ends.
fn listen(asker: Asker, mut stream: TcpStream, door: &Door, core: &SyncSender<ToCore>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(FIRST))?;
    stream.set_write_timeout(Some(FIRST))?;
    let session = door.secret.greet(&mut stream, End::Arbiter)?;
    let first = session.read(&mut stream, Way::Asks, 0)?;
    if !door.strangers.remove(asker) {
        // It came so late that another took its place.
        return Err(io::ErrorKind::TimedOut.into());
    }
    let before = door.known.fetch_add(1, Ordering::SeqCst);
    let outcome = if before < CONNECTIONS_MAX {
        hand_over(asker, stream, session, first, core)
    } else {
        Err(io::Error::other("there are too many connections"))
    };
    door.known.fetch_sub(1, Ordering::SeqCst);
    outcome
}

fn hand_over(
    asker: Asker,
    mut stream: TcpStream,
    session: Session,
    first: Vec<u8>,
    core: &SyncSender<ToCore>,
) -> io::Result<()> {
    let ended = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    stream.set_read_timeout(Some(IDLE))?;
    core.send(ToCore::Opened(asker, stream.try_clone()?, session.clone())).map_err(ended)?;
    core.send(ToCore::Message(asker, first)).map_err(ended)?;
    let mut read = 1;
    let outcome = loop {
        match session.read(&mut stream, Way::Asks, read) {
            Ok(message) => core.send(ToCore::Message(asker, message)).map_err(ended)?,
            Err(error) => break error,
        }
        read += 1;
    };
    core.send(ToCore::Closed(asker)).map_err(ended)?;
    if outcome.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(outcome) }
}

/// A connection as the core sees it: only answers go this way.
#[derive(Debug)]
struct Reply {
    stream: TcpStream,
    session: Session,
    sent: u64,
}

impl Reply {
    /// Sends without waiting. Who has not read so many answers that no other fits is sent away.
    fn answer(&mut self, message: &[u8]) -> io::Result<()> {
        let frame = self.session.frame(Way::Answers, self.sent, message)?;
        self.sent += 1;
        let written = send(&self.stream, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        if written == Ok(frame.len()) {
            return Ok(());
        }
        self.close();
        Err(written.err().map_or_else(|| io::ErrorKind::WriteZero.into(), io::Error::from))
    }

    /// Ends the thread that reads it.
    fn close(&self) {
        // Closed already if that fails.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

fn run(mut arbiter: Arbiter, inbox: &Receiver<ToCore>, dir: &Path) {
    let origin = time::Instant::now();
    let now = || Instant::from_nanos(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let mut replies: BTreeMap<Asker, Reply> = BTreeMap::new();
    loop {
        let wait = arbiter.poll_timeout().map_or(IDLE, |at| at.since(now()));
        match inbox.recv_timeout(wait) {
            Ok(ToCore::Opened(asker, stream, session)) => {
                replies.insert(asker, Reply { stream, session, sent: 0 });
            }
            Ok(ToCore::Message(asker, bytes)) => arbiter.handle(now(), ArbiterInput::Message(asker, &bytes)),
            Ok(ToCore::Closed(asker)) => {
                replies.remove(&asker);
                arbiter.handle(now(), ArbiterInput::Gone(asker));
            }
            Err(RecvTimeoutError::Timeout) => arbiter.handle_timeout(now()),
            Ok(ToCore::Stop) | Err(RecvTimeoutError::Disconnected) => break,
        }
        while let Some(output) = arbiter.poll_output() {
            match output {
                ArbiterOutput::Persist { token, cluster, record } => {
                    let written = write_record(dir, &cluster, &record);
                    if let Err(error) = &written {
                        tracing::error!(%cluster, %error, "a grant could not be written");
                    }
                    let input = if written.is_ok() {
                        ArbiterInput::Persisted(token)
                    } else {
                        ArbiterInput::PersistFailed(token)
                    };
                    arbiter.handle(now(), input);
                }
                ArbiterOutput::Answer { to, message } => {
                    let Some(reply) = replies.get_mut(&to) else { continue };
                    if let Err(error) = reply.answer(&message) {
                        tracing::debug!(?to, %error, "an answer could not be sent");
                    }
                }
            }
        }
    }
    for reply in replies.into_values() {
        reply.close();
    }
}

/// The name of a cluster as a file name: any name is one.
fn file_of(dir: &Path, cluster: &str) -> PathBuf {
    let hex: String = cluster.bytes().map(|b| format!("{b:02x}")).collect();
    dir.join(format!("{hex}.grant"))
}

fn read_records(dir: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    fs::create_dir_all(dir)?;
    let mut records = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "grant") {
            records.push((path.clone(), fs::read(&path)?));
        }
    }
    records.sort();
    Ok(records)
}

/// Whole or not at all, and on the disk when this returns.
fn write_record(dir: &Path, cluster: &str, record: &[u8]) -> io::Result<()> {
    pils::durable::replace(&file_of(dir, cluster), 0o666, record).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbiter::ArbiterMessage;
    use crate::{Ballot, Claim, ViewNumber};
    use pils::{Incarnation, NodeId, NodeInstance};
    use std::io::Write as _;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn question() -> Vec<u8> {
        let node = NodeId::new(1);
        let ballot = Ballot { round: 1, proposer: NodeInstance::new(node, Incarnation::new(1)) };
        let (number, known) = (ViewNumber(4), ViewNumber(3));
        let claim = Claim { ballot, number, known, nodes: vec![node], absent: Vec::new(), hosts: 0 };
        ArbiterMessage::Ask { cluster: "demo".to_owned(), claim }.emit().to_vec()
    }

    fn connect(address: SocketAddr) -> (TcpStream, Session) {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        let session = Secret::new(b"secret").greet(&mut stream, End::Node).expect("greeted");
        (stream, session)
    }

    #[test]
    fn a_node_that_reads_no_answer_is_sent_away_and_holds_up_nobody() {
        let dir = std::env::temp_dir().join(format!("ocf-arbiter-unread-{}", std::process::id()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server =
            ArbiterServer::start(listener, b"secret", &dir, ArbiterConfig::default()).expect("started");
        let (mut deaf, session) = connect(server.address());
        let question = question();
        // Each is answered at once: nobody has told of a view of this cluster.
        let asked = (0..1_000_000).find(|n| {
            let frame = session.frame(Way::Asks, *n, &question).expect("short");
            deaf.write_all(&frame).is_err()
        });
        assert!(asked.is_some_and(|n| n > 10), "it was sent away, not at once: {asked:?}");
        let (mut node, session) = connect(server.address());
        for n in 0..3 {
            node.write_all(&session.frame(Way::Asks, n, &question).expect("short")).expect("written");
            let answer = session.read(&mut node, Way::Answers, n).expect("an answer");
            assert!(matches!(ArbiterMessage::parse(&answer), Ok(ArbiterMessage::Answer { .. })));
        }
        drop(server);
        fs::remove_dir_all(dir).expect("removed");
    }
}
