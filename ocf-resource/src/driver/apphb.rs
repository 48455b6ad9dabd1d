//! Application heartbeats over a Unix socket.
//!
//! Calls are lines: `reg NAME INSTANCE`, `unreg`, `hb`, `setint MS`, `setwarn MS`, `setboot 0|1`; names are written with `%xx`
//! for what is no letter, digit, `-`, `_` or `.`. Each but `hb` is answered by a line with an error number, 0 for success.

use crate::apphb::{AppHeartbeat, Application, Call, CallError, ClientId, Config, Event, Input, Output};
use pils::{Instant, Layer as _};
use rustix::net::sockopt::socket_peercred;
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;
use std::{fs, thread};

/// Longest line of a client, in bytes; a longer one ends the connection.
const LINE_MAX: u64 = 2048;
/// Calls that wait to be taken; more make their senders wait.
const CALLS_MAX: usize = 1024;

/// Serves application heartbeats on a socket. Dropping it ends that, and removes the socket.
#[derive(Debug)]
pub struct AppHeartbeatServer {
    say: SyncSender<Said>,
    path: PathBuf,
    thread: Option<thread::JoinHandle<()>>,
}

enum Said {
    Opened(ClientId, UnixStream),
    Heard(ClientId, Result<Call, CallError>),
    Closed(ClientId),
    Quit,
}

/// What is told on the server's thread; it must not block.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Told {
    /// Something happened to an application.
    Event(Event),
    /// An application failed that had asked for this machine to be rebooted then. Whoever is told decides how.
    Reboot(Application),
}

impl AppHeartbeatServer {
    /// Binds the socket, replacing one that nobody serves. At most [`Config::clients_max`] connections are kept, registered or
    /// not; one more is closed at once.
    ///
    /// # Errors
    /// If the socket cannot be bound, or somebody serves it already.
    pub fn bind(path: &Path, config: Config, tell: impl FnMut(Told) + Send + 'static) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "the socket is served already"));
        }
        // Only a socket is replaced: any other file is there for another reason, and the call below fails.
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let (say, said) = mpsc::sync_channel(CALLS_MAX);
        let report = say.clone();
        let most = config.clients_max;
        thread::Builder::new()
            .name("apphb-accept".to_owned())
            .spawn(move || accept(&listener, &report, most))?;
        let core = AppHeartbeat::new(config);
        let thread = thread::Builder::new()
            .name("apphb".to_owned())
            .spawn(move || Server { core, clients: BTreeMap::new(), tell: Box::new(tell) }.run(&said))?;
        Ok(Self { say, path: path.to_owned(), thread: Some(thread) })
    }
}

impl Drop for AppHeartbeatServer {
    fn drop(&mut self) {
        self.say.send(Said::Quit).unwrap_or_default();
        // Wakes the thread that waits for connections: it finds nobody who listens, and ends.
        drop(UnixStream::connect(&self.path));
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the socket was gone already");
        }
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("the server of application heartbeats had panicked");
        }
    }
}

fn accept(listener: &UnixListener, report: &SyncSender<Said>, most: usize) {
    let open = Arc::new(AtomicUsize::new(0));
    let mut number = 0;
    for stream in listener.incoming() {
        number += 1;
        let id = ClientId(number);
        let Ok(stream) = stream else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if open.load(Ordering::Relaxed) >= most {
            tracing::warn!(most, "too many connections for application heartbeats: one more is closed");
            continue;
        }
        let Ok(reader) = stream.try_clone() else { continue };
        if report.send(Said::Opened(id, stream)).is_err() {
            return;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (say, left) = (report.clone(), Arc::clone(&open));
        let spawned = thread::Builder::new().name("apphb-client".to_owned()).spawn(move || {
            listen(id, &reader, &say);
            left.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
            report.send(Said::Closed(id)).unwrap_or_default();
        }
    }
}

fn listen(id: ClientId, stream: &UnixStream, say: &SyncSender<Said>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_MAX).read_line(&mut line) {
            Ok(n) if n > 0 && line.ends_with('\n') => {}
            _ => break,
        }
        if say.send(Said::Heard(id, parse(line.trim_end(), stream))).is_err() {
            return;
        }
    }
    say.send(Said::Closed(id)).unwrap_or_default();
}

fn parse(line: &str, stream: &UnixStream) -> Result<Call, CallError> {
    let words: Vec<&str> = line.split(' ').collect();
    let span = |text: &str| text.parse().map(Duration::from_millis).map_err(|_number| CallError::Invalid);
    match words[..] {
        ["reg", name, instance] => {
            let peer = socket_peercred(stream).map_err(|_gone| CallError::NotPermitted)?;
            Ok(Call::Register(Application {
                name: unescape(name)?.into(),
                instance: unescape(instance)?.into(),
                pid: peer.pid.as_raw_nonzero().get(),
                user: peer.uid.as_raw(),
                group: peer.gid.as_raw(),
            }))
        }
        ["unreg"] => Ok(Call::Unregister),
        ["hb"] => Ok(Call::Beat),
        ["setint", ms] => Ok(Call::SetInterval(span(ms)?)),
        ["setwarn", ms] => Ok(Call::SetWarn(span(ms)?)),
        ["setboot", "0"] => Ok(Call::SetReboot(false)),
        ["setboot", "1"] => Ok(Call::SetReboot(true)),
        _ => Err(CallError::Invalid),
    }
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

fn escape(text: &str) -> String {
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") };
    if text.is_empty() { "%".to_owned() } else { text.bytes().map(one).collect() }
}

fn unescape(text: &str) -> Result<String, CallError> {
    if text == "%" {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if plain(byte) {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
        let (high, low) = digit().zip(digit()).filter(|_| byte == b'%').ok_or(CallError::Invalid)?;
        bytes.push(u8::try_from(high * 16 + low).map_err(|_large| CallError::Invalid)?);
    }
    String::from_utf8(bytes).map_err(|_bytes| CallError::Invalid)
}

struct Server {
    core: AppHeartbeat,
    clients: BTreeMap<ClientId, UnixStream>,
    tell: Box<dyn FnMut(Told) + Send>,
}

impl Server {
    fn run(mut self, said: &Receiver<Said>) {
        let origin = std::time::Instant::now();
        let clock = || Instant::ZERO + origin.elapsed();
        // Calls taken since somebody became due.
        let mut overdue = 0;
        loop {
            let now = clock();
            if self.core.poll_timeout().is_none_or(|at| at > now) {
                overdue = 0;
            } else if overdue > CALLS_MAX {
                // What was in the queue then has been heard. One who never stops talking must not hide the silence of others.
                self.core.handle_timeout(now);
                self.tell_all();
                overdue = 0;
                continue;
            }
            overdue += 1;
            let wait = self.core.poll_timeout().map(|at| if at > now { at - now } else { Duration::ZERO });
            let next = match wait {
                Some(wait) => said.recv_timeout(wait),
                None => said.recv().map_err(|_closed| RecvTimeoutError::Disconnected),
            };
            let now = clock();
            match next {
                Ok(Said::Opened(id, stream)) => {
                    // An answer that nobody reads must not hold up the others.
                    if stream.set_write_timeout(Some(Duration::from_millis(100))).is_ok() {
                        self.clients.insert(id, stream);
                    }
                }
                Ok(Said::Heard(client, Ok(call))) => self.core.handle(now, Input::Call { client, call }),
                Ok(Said::Heard(client, Err(error))) => self.answer(client, Err(error)),
                Ok(Said::Closed(client)) => {
                    self.clients.remove(&client);
                    self.core.handle(now, Input::Closed(client));
                }
                // A beat may be waiting in the queue: whoever is late by the queue is not missed.
                Err(RecvTimeoutError::Timeout) => self.core.handle_timeout(now),
                Ok(Said::Quit) | Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell_all();
        }
        for stream in self.clients.values() {
            stream.shutdown(std::net::Shutdown::Both).unwrap_or_default();
        }
    }

    fn tell_all(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Answer { client, result } => self.answer(client, result),
                Output::Event(event) => (self.tell)(Told::Event(event)),
                Output::Reboot(application) => (self.tell)(Told::Reboot(application)),
            }
        }
    }

    fn answer(&self, client: ClientId, result: Result<(), CallError>) {
        let Some(mut stream) = self.clients.get(&client) else { return };
        let number = result.err().map_or(0, CallError::errno);
        // In one piece, for clients that read once.
        if stream.write_all(format!("{number}\n").as_bytes()).is_err() {
            // The reader sees the end and says so.
            stream.shutdown(std::net::Shutdown::Both).unwrap_or_default();
        }
    }
}

/// The side of an application.
#[derive(Debug)]
pub struct AppHeartbeatClient {
    stream: BufReader<UnixStream>,
}

impl AppHeartbeatClient {
    /// Registers this process.
    ///
    /// # Errors
    /// If nobody serves the socket, or the names are taken, too long or there are too many: with the system's error number.
    pub fn register(socket: &Path, name: &str, instance: &str) -> io::Result<Self> {
        let mut client = Self { stream: BufReader::new(UnixStream::connect(socket)?) };
        client.call(&format!("reg {} {}", escape(name), escape(instance)))?;
        Ok(client)
    }

    /// Says that this application is well.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn beat(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(b"hb\n")
    }

    /// Sets after which silence this application is missed.
    ///
    /// # Errors
    /// If the time is too short, or the server is gone.
    pub fn set_interval(&mut self, interval: Duration) -> io::Result<()> {
        self.call(&format!("setint {}", interval.as_millis()))
    }

    /// Sets after which silence there is a warning; zero for never.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn set_warn(&mut self, warn: Duration) -> io::Result<()> {
        self.call(&format!("setwarn {}", warn.as_millis()))
    }

    /// Sets whether this machine is to be rebooted when this application fails.
    ///
    /// # Errors
    /// If this user may not ask for that, or the server is gone.
    pub fn set_reboot(&mut self, reboot: bool) -> io::Result<()> {
        self.call(if reboot { "setboot 1" } else { "setboot 0" })
    }

    /// Says goodbye: this application is missed no more.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn unregister(mut self) -> io::Result<()> {
        self.call("unreg")
    }

    fn call(&mut self, line: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        match answer.trim_end().parse() {
            Ok(0) => Ok(()),
            Ok(number) => Err(io::Error::from_raw_os_error(number)),
            Err(_end) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_letters_pass_through_a_line() {
        for name in ["", "web", "a b", "100%", "größe\n", "%41"] {
            assert_eq!(unescape(&escape(name)).as_deref(), Ok(name));
        }
        for bad in ["%4", "%zz", "a b", "%ff"] {
            assert_eq!(unescape(bad), Err(CallError::Invalid), "{bad}");
        }
    }

    #[test]
    fn one_who_never_stops_talking_does_not_hide_the_silence_of_another() {
        const CALLS: usize = 20 * CALLS_MAX;
        let (quiet, loud) = (ClientId(1), ClientId(2));
        let config = Config { interval_min: Duration::from_nanos(1), ..Config::default() };
        let (say, said) = mpsc::sync_channel(CALLS + 3);
        let (name, instance) = ("quiet".into(), "".into());
        let application = Application { name, instance, pid: 1, user: 0, group: 0 };
        for call in [Call::Register(application), Call::SetInterval(Duration::from_nanos(1))] {
            say.send(Said::Heard(quiet, Ok(call))).expect("there is room");
        }
        for _ in 0..CALLS {
            say.send(Said::Heard(loud, Ok(Call::Beat))).expect("there is room");
        }
        say.send(Said::Quit).expect("there is room");
        let (tell, told) = mpsc::channel();
        let tell = Box::new(move |what| tell.send(what).unwrap_or_default());
        Server { core: AppHeartbeat::new(config), clients: BTreeMap::new(), tell }.run(&said);
        let missed = told.iter().any(
            |told| matches!(told, Told::Event(Event { kind: crate::apphb::EventKind::Missed, application, .. }) if &*application.name == "quiet"),
        );
        assert!(missed, "the queue was never empty, and nobody looked at the time");
    }
}
