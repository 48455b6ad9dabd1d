//! The arbiter as a server.

use super::{Frames, Way};
use crate::arbiter::{Arbiter, ArbiterConfig, ArbiterInput, ArbiterOutput, Asker};
use core::time::Duration;
use pils::wire::ParseError;
use pils::{Instant, Layer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time;

/// Connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 128;
/// Messages of all connections that wait for the core; more wait in the sockets.
const WAITING_MAX: usize = 256;
/// A connection on which nothing is said for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long a node may take to read its answer.
const WRITE: Duration = Duration::from_secs(2);

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
    Opened(Asker, TcpStream),
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
        let (frames, stop) = (Arc::new(Frames::new(secret)), Arc::new(AtomicBool::new(false)));
        let (core, inbox) = sync_channel(WAITING_MAX);
        let threads = vec![
            spawn("ocf-arbiter", {
                let (frames, dir) = (Arc::clone(&frames), dir.to_owned());
                move || run(arbiter, &inbox, &frames, &dir)
            })?,
            spawn("ocf-arbiter-listen", {
                let (stop, core) = (Arc::clone(&stop), core.clone());
                move || accept(&listener, &frames, &stop, &core)
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
        drop(TcpStream::connect_timeout(&self.address, WRITE));
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

fn accept(listener: &TcpListener, frames: &Arc<Frames>, stop: &AtomicBool, core: &SyncSender<ToCore>) {
    let open = Arc::new(AtomicUsize::new(0));
    let mut next = 0;
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of files, perhaps: later there may be some again.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if open.load(Ordering::SeqCst) >= CONNECTIONS_MAX {
            continue;
        }
        next += 1;
        let (asker, frames, core, count) = (Asker(next), Arc::clone(frames), core.clone(), Arc::clone(&open));
        count.fetch_add(1, Ordering::SeqCst);
        let serve = move || {
            if let Err(error) = listen(asker, stream, &frames, &core) {
                tracing::debug!(?asker, %error, "a connection ended");
            }
            count.fetch_sub(1, Ordering::SeqCst);
        };
        if spawn("ocf-arbiter-conn", serve).is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Hands the messages of one connection to the core until it ends.
fn listen(asker: Asker, mut stream: TcpStream, frames: &Frames, core: &SyncSender<ToCore>) -> io::Result<()> {
    let ended = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(WRITE))?;
    core.send(ToCore::Opened(asker, stream.try_clone()?)).map_err(ended)?;
    let outcome = loop {
        match frames.read(&mut stream, Way::Asks) {
            Ok(message) => core.send(ToCore::Message(asker, message)).map_err(ended)?,
            Err(error) => break error,
        }
    };
    core.send(ToCore::Closed(asker)).map_err(ended)?;
    if outcome.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(outcome) }
}

fn run(mut arbiter: Arbiter, inbox: &Receiver<ToCore>, frames: &Frames, dir: &Path) {
    let origin = time::Instant::now();
    let now = || Instant::from_nanos(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let mut streams: BTreeMap<Asker, TcpStream> = BTreeMap::new();
    loop {
        let wait = arbiter.poll_timeout().map_or(IDLE, |at| at.since(now()));
        match inbox.recv_timeout(wait) {
            Ok(ToCore::Opened(asker, stream)) => {
                streams.insert(asker, stream);
            }
            Ok(ToCore::Message(asker, bytes)) => arbiter.handle(now(), ArbiterInput::Message(asker, &bytes)),
            Ok(ToCore::Closed(asker)) => {
                streams.remove(&asker);
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
                    let Some(stream) = streams.get_mut(&to) else { continue };
                    if let Err(error) = frames.write(stream, Way::Answers, &message) {
                        tracing::debug!(?to, %error, "an answer could not be sent");
                    }
                }
            }
        }
    }
    for stream in streams.into_values() {
        // Ends the thread that reads it; closed already if that fails.
        drop(stream.shutdown(Shutdown::Both));
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
    let path = file_of(dir, cluster);
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(record)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()
}
