//! The command: what it is told, and what it does.
#![expect(clippy::print_stderr, reason = "it says what is wrong")]

use clap::Parser;
use ocf::{LockClient, LockGuard};
use ocf_dlm::{LockError, Mode, Wait};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::error::Error;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Between the request to end and the end by force, for a command whose lock is lost.
const GRACE: Duration = Duration::from_secs(5);
/// Something is wrong.
const FAILED: u8 = 2;
/// The lock was lost while the command ran.
const LOST: u8 = 3;

/// Holds a lock of the cluster while a command runs.
#[derive(Parser)]
#[command(name = "lock")]
struct Arguments {
    /// Where the node beside this program listens: a path, or @ and a name ([api] local in its configuration).
    #[arg(long, default_value = "/run/ocf/api")]
    node: String,
    /// The lockspace.
    #[arg(long, default_value = "default")]
    space: String,
    /// Share the lock with others that share it (PR), instead of having it alone (EX).
    #[arg(short, long)]
    shared: bool,
    /// Do not wait for others.
    #[arg(short, long, conflicts_with = "wait")]
    nonblock: bool,
    /// Wait at most so many seconds.
    #[arg(short, long, value_name = "SECONDS")]
    wait: Option<f64>,
    /// The exit status if others had it all the time.
    #[arg(short = 'E', long, default_value_t = 1)]
    conflict_exit_code: u8,
    /// Do not end the command if the lock is lost.
    #[arg(long)]
    keep_going: bool,
    /// The lock.
    name: String,
    /// The command and what it is told.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What happens while the command runs.
enum Happened {
    Ended(std::io::Result<ExitStatus>),
    News,
}

/// Runs with these arguments, the first of which is the program's name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(said) => {
            let code = if said.use_stderr() { FAILED } else { 0 };
            // Nobody to tell is no mistake.
            drop(said.print());
            return code.into();
        }
    };
    let held = match lock(&arguments) {
        Ok(Some(held)) => held,
        Ok(None) => return arguments.conflict_exit_code.into(),
        Err(why) => {
            eprintln!("lock: {}: {why}", arguments.name);
            return FAILED.into();
        }
    };
    hold(&arguments, held).unwrap_or_else(|why| {
        eprintln!("lock: {}: {why}", arguments.name);
        FAILED.into()
    })
}

/// `None` if others have it.
fn lock(arguments: &Arguments) -> Result<Option<LockGuard>, Box<dyn Error>> {
    let client = LockClient::connect(&arguments.node, "lock")?;
    client.share_with_children()?;
    let mode = if arguments.shared { Mode::Pr } else { Mode::Ex };
    let wait = match arguments.wait {
        _ if arguments.nonblock => Wait::No,
        Some(seconds) => Wait::For(Duration::try_from_secs_f64(seconds)?),
        None => Wait::Forever,
    };
    match client.locks().lock(&arguments.space, &arguments.name, mode, wait) {
        Ok(held) => Ok(Some(held)),
        Err(LockError::WouldBlock | LockError::TimedOut) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

fn hold(arguments: &Arguments, held: LockGuard) -> Result<ExitCode, Box<dyn Error>> {
    let (program, rest) = arguments.command.split_first().ok_or("no command")?;
    let mut command = Command::new(program);
    command.args(rest).env("OCF_LOCK_TOKEN", held.token()?.as_u128().to_string());
    let child = command.spawn().map_err(|why| format!("{}: {why}", program.display()))?;
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let (sender, receiver) = channel();
    let news = sender.clone();
    held.on_news(move || drop(news.send(Happened::News)));
    // What happened before that.
    sender.send(Happened::News)?;
    thread::spawn(move || await_end(child, &sender));
    let status = watch(arguments, &held, &process, &receiver)?;
    let was_lost = held.release(None).is_err();
    if was_lost {
        eprintln!("lock: {}: the lock was lost while the command ran", arguments.name);
        return Ok(LOST.into());
    }
    // As a shell says that a signal ended it.
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    Ok(u8::try_from(code).unwrap_or(255).into())
}

fn await_end(mut child: Child, sender: &Sender<Happened>) {
    drop(sender.send(Happened::Ended(child.wait())));
}

/// Waits for the end of the command, and ends it if the lock is lost.
fn watch(
    arguments: &Arguments,
    held: &LockGuard,
    process: &OwnedFd,
    happened: &Receiver<Happened>,
) -> Result<ExitStatus, Box<dyn Error>> {
    let mut asked = false;
    loop {
        let wait = if asked { GRACE } else { Duration::from_secs(3600) };
        match happened.recv_timeout(wait) {
            Ok(Happened::Ended(status)) => return Ok(status?),
            // Others that want it do have to wait.
            Ok(Happened::News) if held.wanted(Duration::ZERO).is_some() => {}
            Ok(Happened::News) if asked || arguments.keep_going || held.check().is_ok() => {}
            Ok(Happened::News) => {
                eprintln!("lock: {}: the lock is lost: the command is asked to end", arguments.name);
                pidfd_send_signal(process, Signal::TERM)?;
                asked = true;
            }
            Err(RecvTimeoutError::Timeout) if asked => pidfd_send_signal(process, Signal::KILL)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("the command is not waited for".into()),
        }
    }
}
