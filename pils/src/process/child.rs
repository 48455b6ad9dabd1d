use super::tail::Tail;
use super::{Command, Exit, Finished, NotStarted};
use mio::unix::SourceFd;
use mio::unix::pipe::{Receiver, Sender};
use mio::{Interest, Registry, Token};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long the output of a child that is gone may stay open in the hands of others.
const LINGER: Duration = Duration::from_millis(100);
/// How long a child may survive `SIGKILL` (in an uninterruptible system call) before its end is reported anyway.
const STUCK: Duration = Duration::from_secs(2);
/// Bytes read of one stream before the other children have their turn; more than a pipe holds.
const READ_MAX: usize = 256 * 1024;
/// Tries for a program that is open for writing, and the pause between them: 20 ms in all.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// A child that runs, or that is being killed.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    group: Pid,
    #[expect(dead_code, reason = "its exit is reported as long as this is open")]
    pidfd: OwnedFd,
    stdin: Option<(Sender, Vec<u8>, usize)>,
    stdout: Stream,
    stderr: Stream,
    started: Instant,
    due: Instant,
    grace: Duration,
    stop: Option<Stop>,
    /// When its exit was seen. It stays a zombie until `reap`: so long, its group id cannot be another's.
    exited: Option<Instant>,
}

#[derive(Debug)]
struct Stop {
    why: Exit,
    kill_at: Instant,
    killed: Option<Instant>,
}

#[derive(Debug)]
struct Stream {
    pipe: Option<Receiver>,
    tail: Tail,
    /// The last turn ended before the pipe was empty.
    more: bool,
}

/// What a turn of a child came to.
pub(super) enum Turn {
    /// Wait for its events, at most until then.
    Wait(Instant),
    /// Its output is not read to the end: give it another turn soon.
    Again,
    /// It is over.
    Over(Finished),
    /// It is over for the caller, but cannot be reaped yet.
    Stuck(Finished),
}

impl Child {
    /// Starts `command`, whose events come with `token` and the three after it.
    pub(super) fn start(
        command: Command,
        registry: &Registry,
        token: Token,
        now: Instant,
    ) -> Result<Self, NotStarted> {
        if !command.program.is_absolute() {
            return Err(NotStarted::NotAbsolute);
        }
        let stdin = if command.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut start = std::process::Command::new(&command.program);
        start.args(&command.args).env_clear().envs(command.env).process_group(0);
        start.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = spawn(&mut start).map_err(|error| NotStarted::from_io(&error))?;
        match Watched::new(&mut process, registry, token) {
            Ok(Watched { pidfd, stdin, stdout, stderr }) => Ok(Self {
                group: Pid::from_child(&process),
                process,
                pidfd,
                stdin: stdin.map(|pipe| (pipe, command.stdin, 0)),
                stdout: Stream::new(stdout, command.output_max),
                stderr: Stream::new(stderr, command.output_max),
                started: now,
                due: add(now, command.timeout),
                grace: command.grace,
                stop: None,
                exited: None,
            }),
            Err(error) => {
                signal(Pid::from_child(&process), Signal::KILL);
                if let Err(error) = process.wait() {
                    tracing::warn!(%error, "cannot reap a child");
                }
                Err(NotStarted::System {
                    errno: error.raw_os_error(),
                    text: format!("cannot watch the child: {error}"),
                })
            }
        }
    }

    /// Takes note that the child has exited.
    pub(super) fn exited(&mut self, now: Instant) {
        self.exited.get_or_insert(now);
    }

    /// Asks the group to end, for the reason `why`.
    pub(super) fn stop(&mut self, why: Exit, now: Instant) {
        if self.stop.is_none() && self.exited.is_none() {
            signal(self.group, Signal::TERM);
            self.stop = Some(Stop { why, kill_at: add(now, self.grace), killed: None });
        }
    }

    /// Does all there is to do now.
    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        self.feed();
        self.stdout.read();
        self.stderr.read();
        if self.exited.is_none() && now >= self.due {
            self.stop(Exit::TimedOut, now);
        }
        let closed = self.stdout.pipe.is_none() && self.stderr.pipe.is_none();
        let end = match (&mut self.stop, self.exited) {
            (None, None) => self.due,
            (None, Some(exited)) if closed => exited,
            (None, Some(exited)) => add(exited, LINGER),
            (Some(stop), exited) => {
                let gone = exited.is_some() && closed;
                if stop.killed.is_none() && (gone || now >= stop.kill_at) {
                    signal(self.group, Signal::KILL);
                    stop.killed = Some(now);
                }
                match (stop.killed, exited) {
                    (Some(_), Some(_)) if gone => now,
                    (Some(killed), Some(exited)) => add(killed.max(exited), LINGER),
                    (Some(killed), None) => add(killed, STUCK),
                    (None, _) => stop.kill_at,
                }
            }
        };
        if now < end {
            return if self.stdout.more || self.stderr.more { Turn::Again } else { Turn::Wait(end) };
        }
        if self.exited.is_some() { Turn::Over(self.reap(now)) } else { Turn::Stuck(self.finish(now, None)) }
    }

    fn reap(&mut self, now: Instant) -> Finished {
        let exit = match self.process.try_wait() {
            Ok(Some(status)) => {
                status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or_default()), Exit::Code)
            }
            Ok(None) => lost(None, "its end was reported, but it has not ended".to_owned()),
            Err(error) => {
                lost(error.raw_os_error(), format!("its exit status was taken by another: {error}"))
            }
        };
        self.finish(now, Some(exit))
    }

    fn finish(&mut self, now: Instant, exit: Option<Exit>) -> Finished {
        let exit = match (self.stop.take(), exit) {
            (Some(stop), _) => stop.why,
            (None, Some(exit)) => exit,
            (None, None) => unreachable!("a child ends by itself or because it was stopped"),
        };
        self.stdin = None;
        Finished {
            exit,
            stdout: self.stdout.close(),
            stderr: self.stderr.close(),
            dropped: self.stdout.tail.dropped + self.stderr.tail.dropped,
            took: now.saturating_duration_since(self.started),
        }
    }

    /// Reaps a child that was reported as stuck; true if that is done.
    pub(super) fn reap_late(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    fn feed(&mut self) {
        while let Some((pipe, input, sent)) = &mut self.stdin {
            match pipe.write(&input[*sent..]) {
                Ok(n) => *sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // it does not want to read it all, which is its right
                Err(_) => *sent = input.len(),
            }
            if *sent >= input.len() {
                self.stdin = None;
            }
        }
    }
}

impl Stream {
    fn new(pipe: Receiver, max: usize) -> Self {
        Self { pipe: Some(pipe), tail: Tail::new(max), more: false }
    }

    fn read(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let mut budget = READ_MAX;
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    self.tail.push(&buffer[..n]);
                    budget = budget.saturating_sub(n);
                    if budget == 0 {
                        self.more = true;
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot read the output of a child");
                    self.pipe = None;
                }
            }
        }
        self.more = false;
    }

    fn close(&mut self) -> Vec<u8> {
        self.pipe = None;
        self.tail.take()
    }
}

/// Starts a child; a program that is open for writing gets a moment. It may have been closed already, but for a child of
/// another thread that has the descriptor until it runs its own program.
fn spawn(command: &mut std::process::Command) -> io::Result<std::process::Child> {
    for _ in 0..BUSY_TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(BUSY_PAUSE),
            result => return result,
        }
    }
    command.spawn()
}

/// The descriptors of a child that events come from.
struct Watched {
    pidfd: OwnedFd,
    stdin: Option<Sender>,
    stdout: Receiver,
    stderr: Receiver,
}

impl Watched {
    fn new(process: &mut std::process::Child, registry: &Registry, token: Token) -> io::Result<Self> {
        let pidfd = pidfd_open(Pid::from_child(process), PidfdFlags::empty())?;
        registry.register(&mut SourceFd(&pidfd.as_raw_fd()), token, Interest::READABLE)?;
        let mut stdin = process.stdin.take().map(Sender::from);
        if let Some(pipe) = &mut stdin {
            pipe.set_nonblocking(true)?;
            registry.register(pipe, Token(token.0 + 1), Interest::WRITABLE)?;
        }
        let mut stdout = Receiver::from(process.stdout.take().expect("it was asked for"));
        let mut stderr = Receiver::from(process.stderr.take().expect("it was asked for"));
        for (pipe, offset) in [(&mut stdout, 2), (&mut stderr, 3)] {
            pipe.set_nonblocking(true)?;
            registry.register(pipe, Token(token.0 + offset), Interest::READABLE)?;
        }
        Ok(Self { pidfd, stdin, stdout, stderr })
    }
}

fn signal(group: Pid, signal: Signal) {
    // fails only if every member is gone, or belongs to another user since it changed its identity
    if let Err(error) = kill_process_group(group, signal) {
        tracing::debug!(%error, ?group, ?signal, "cannot signal a process group");
    }
}

fn lost(errno: Option<i32>, text: String) -> Exit {
    Exit::NotStarted(NotStarted::System { errno, text })
}

/// `now + span`; a span beyond what the clock can express ends in a year.
pub(super) fn add(now: Instant, span: Duration) -> Instant {
    now.checked_add(span).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}
