//! Runs child processes, such as resource agents and fence agents, and reports how each ended. A driver.
//!
//! One thread serves any number of children: it starts them, feeds their input, keeps the end of their output, enforces
//! their time limits and calls back once for each. Nothing waits for a child: not for one that hangs, floods its output,
//! ignores `SIGTERM` or leaves other processes holding its pipes.
//!
//! ```
//! use pils::process::{Command, Exit, Runner};
//! let runner = Runner::new(8)?;
//! let (tell, told) = std::sync::mpsc::channel();
//! let mut command = Command::new("/bin/sh");
//! command.args = ["-c", "read name; echo hello $name"].map(Into::into).to_vec();
//! command.stdin = b"world\n".to_vec();
//! runner.run(command, move |finished| tell.send(finished).expect("the receiver waits"));
//! let finished = told.recv()?;
//! assert_eq!(finished.exit, Exit::Code(0));
//! assert_eq!(finished.stdout, b"hello world\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is signalled
//! Each child leads a process group of its own. A time limit or a [cancellation](Runner::cancel) sends `SIGTERM` to the
//! group, then, after [`Command::grace`] or as soon as the child is gone and nobody holds its output, `SIGKILL`. A child
//! that exits by itself takes nobody along: what it leaves running, such as the daemon that an agent started, lives on.
//! What left the group (`setsid`) is never signalled. If what was left behind holds the output open, the answer comes 100 ms
//! after the exit. A child that survives `SIGKILL` for 2 s, stuck in the kernel, is reported and reaped when it ends.
//!
//! If this process itself is killed, its children live on: where that matters, start them through a program that asks the
//! kernel for a parent-death signal, such as `setpriv --pdeathsig`.
//!
//! # How a child is started
//! Without `fork`, so that the cost does not grow with the memory of this process: absolute program path, own process
//! group, no code between. The child gets the working directory of this process, no descriptor but its three streams, an
//! empty signal mask and exactly the environment that the command lists. No signal handler is installed; a host must not
//! ignore `SIGCHLD` or reap children that are not its own.
#![expect(clippy::disallowed_methods, reason = "this module is a driver: it owns a thread and the clock")]

mod child;
mod host;
mod tail;

use crossbeam_channel::Sender;
use host::{Done, Host, Request};
use mio::{Poll, Waker};
use parking_lot::Mutex;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fmt, io, thread};

/// Commands that wait while as many children run as the limit allows; one more is refused as [`NotStarted::Busy`].
pub const WAITING_MAX: usize = 1024;

/// What to run, with which input and within which bounds.
///
/// Its `Debug` shows neither the values of the environment nor the input: both carry passwords.
#[derive(Clone)]
pub struct Command {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Arguments after the program's name. Visible to every user of the machine: no secrets.
    pub args: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// What the child reads, then end of file.
    pub stdin: Vec<u8>,
    /// Limit from the start of the child to its exit; also limits how long the command may wait for a free slot before.
    pub timeout: Duration,
    /// From `SIGTERM` to `SIGKILL`.
    pub grace: Duration,
    /// Bytes to keep of each output stream: the last ones.
    pub output_max: usize,
}

impl Command {
    /// A command without arguments, environment and input; 20 s for the run, 5 s of grace, 64 KiB of each output.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            timeout: Duration::from_secs(20),
            grace: Duration::from_secs(5),
            output_max: 64 * 1024,
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("stdin", &format_args!("{} bytes", self.stdin.len()))
            .field("timeout", &self.timeout)
            .field("grace", &self.grace)
            .field("output_max", &self.output_max)
            .finish()
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The child exited with this code.
    Code(i32),
    /// The child died of this signal, which was not ours.
    Signal(i32),
    /// The child had not exited when its time was up; its process group was killed.
    TimedOut,
    /// The command was cancelled, or the last [`Runner`] dropped; if the child ran, its process group was killed.
    Cancelled,
    /// There is no child.
    NotStarted(NotStarted),
}

impl Exit {
    /// True for exit code 0 only.
    #[must_use]
    pub const fn success(&self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "died of signal {signal}"),
            Self::TimedOut => f.write_str("timed out and was killed"),
            Self::Cancelled => f.write_str("was cancelled"),
            Self::NotStarted(why) => write!(f, "was not started: {why}"),
        }
    }
}

/// Why there is no child.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotStarted {
    /// No such program, or the interpreter that its first line names does not exist.
    #[error("program not found")]
    NotFound,
    /// The program is not executable for this user.
    #[error("permission denied")]
    PermissionDenied,
    /// [`Command::program`] is not an absolute path.
    #[error("program path is not absolute")]
    NotAbsolute,
    /// [`WAITING_MAX`] commands wait already, or no slot became free within [`Command::timeout`].
    #[error("too many commands are running")]
    Busy,
    /// The system refused to start or to watch the child; what had started of it was killed.
    #[error("{text}")]
    System {
        /// The error number, if the system gave one.
        errno: Option<i32>,
        /// The error in words.
        text: String,
    },
}

impl NotStarted {
    fn from_io(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::NotFound
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            Self::PermissionDenied
        } else {
            Self::System { errno: error.raw_os_error(), text: error.to_string() }
        }
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// The last [`Command::output_max`] bytes of its standard output.
    pub stdout: Vec<u8>,
    /// The last [`Command::output_max`] bytes of its standard error.
    pub stderr: Vec<u8>,
    /// Bytes of both streams that were read but not kept.
    pub dropped: u64,
    /// From the start of the child to its end; zero if there was none.
    pub took: Duration,
}

impl Finished {
    const fn without_child(exit: Exit) -> Self {
        Self { exit, stdout: Vec::new(), stderr: Vec::new(), dropped: 0, took: Duration::ZERO }
    }
}

/// Names one command given to a [`Runner`]. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(usize);

/// Runs child processes on one thread of its own. Cheap to clone.
///
/// Dropping the last clone cancels what runs and waits until it is gone: up to the longest [`Command::grace`], not at all
/// if that drop happens inside a callback.
#[derive(Clone)]
pub struct Runner {
    shared: Arc<Shared>,
}

struct Shared {
    requests: Sender<Request>,
    waker: Waker,
    tickets: AtomicUsize,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Runner {
    /// Starts the thread. At most `limit` children run at a time (at least one); further commands wait in order.
    ///
    /// # Errors
    /// If the system refuses a descriptor or a thread.
    pub fn new(limit: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), host::WAKE)?;
        let (requests, inbox) = crossbeam_channel::unbounded();
        let host = Host::new(poll, inbox, limit.max(1));
        let thread = thread::Builder::new().name("pils-process".to_owned()).spawn(move || host.run())?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { shared: Arc::new(Shared { requests, waker, tickets: AtomicUsize::new(1), thread }) })
    }

    /// Runs `command`, then calls `done` on the runner's thread, exactly once, whatever happens.
    ///
    /// Returns at once. `done` should only pass the result on: while it runs, no other child is served. It may call
    /// [`Runner::run`]; if it panics, the panic is logged and the other children are not affected.
    pub fn run(&self, command: Command, done: impl FnOnce(Finished) + Send + 'static) -> Ticket {
        let ticket = Ticket(self.shared.tickets.fetch_add(1, Ordering::Relaxed));
        self.shared.send(Request::Run(ticket, Box::new(command), Box::new(done)));
        ticket
    }

    /// Ends a command early: its callback reports [`Exit::Cancelled`], unless the child exited by itself just before.
    /// Does nothing if the command is done.
    pub fn cancel(&self, ticket: Ticket) {
        self.shared.send(Request::Cancel(ticket));
    }
}

impl Shared {
    fn send(&self, request: Request) {
        match self.requests.send(request) {
            Ok(()) => {
                if let Err(error) = self.waker.wake() {
                    tracing::error!(%error, "cannot wake the process runner");
                }
            }
            // the thread is gone only if it panicked
            Err(unsent) => {
                if let Request::Run(_, _, done) = unsent.into_inner() {
                    let text = "the process runner has stopped".to_owned();
                    done(Finished::without_child(Exit::NotStarted(NotStarted::System { errno: None, text })));
                }
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.send(Request::Stop);
        if let Some(thread) = self.thread.lock().take().filter(|t| t.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the process runner had panicked");
        }
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

/// Calls back without letting a panic of the caller's code end the thread.
fn call(done: Done, finished: Finished) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(finished))).is_err() {
        tracing::error!("the callback of a finished command panicked");
    }
}
