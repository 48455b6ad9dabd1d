//! Plug-ins in a program of their own, which speaks on its standard streams. In any language: a crash of the plug-in is an
//! error of a call, never of this program.
//!
//! # What is spoken
//! A message is a line `Content-Length: <bytes>`, an empty line, and an XML-RPC document of that length; lines end with
//! `\r\n` or `\n`. This program writes calls, the plug-in answers each with a response or a fault, in order. Standard error is
//! for people; its end is shown when the program dies. At the end of its input the plug-in exits.
//!
//! The first call is `plugin.describe`, without arguments. The answer is a list of structs: `plugin_type`, `name`, `version`,
//! `interface` (a struct of `major` and `minor`), `methods` (a list of names). After that, `<plug-in's name>/<method>` calls a
//! method of that plug-in. Whatever the program prints to standard output besides is an error.
//!
//! # Life
//! It is started at once, and started again for the next call after it ended, at most [`Program::restarts_max`] times; a call
//! that was under way is lost, and says so. A program that does not answer within [`Program::timeout`] is ended with its process
//! group, because a late answer could not be told from the next. When the last user is gone its input is closed; what is
//! left after a second is killed.
#![expect(clippy::disallowed_methods, reason = "this module is a driver: it owns threads and the clock")]

use super::loader::descriptions;
use super::remote::{CallError, Callee, Description, Remote, check_method};
use crate::Value;
use crate::codec::xmlrpc::{Call, Fault, Response};
use crate::codec::{DecodeError, Limits};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The call that a program answers with what it has.
pub const DESCRIBE: &str = "plugin.describe";
/// Bytes of a line before the document.
const LINE_MAX: u64 = 256;
/// Bytes of standard error that are kept.
const STDERR_KEPT: usize = 4096;
/// The search path of a program that is loaded by name.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// From the end of its input to the end of the program; from the end of its output to its exit status and last words.
const GRACE: Duration = Duration::from_secs(1);

/// A program with plug-ins.
#[derive(Clone, Debug)]
pub struct Program {
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments. Visible to every user of the machine.
    pub args: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Longest time to an answer. Default 20 s.
    pub timeout: Duration,
    /// Bytes of an answer. Default 1 MiB.
    pub answer_max: usize,
    /// How often it is started again after it ended. Default 5.
    pub restarts_max: u32,
}

impl Program {
    /// A program without arguments and environment, with the defaults above.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            timeout: Duration::from_secs(20),
            answer_max: 1 << 20,
            restarts_max: 5,
        }
    }
}

/// Starts a program and gives its plug-ins.
pub(super) fn start(program: Program) -> Result<Vec<Arc<dyn Remote>>, String> {
    let mut running = Running::start(&program).map_err(|error| error.to_string())?;
    let described = running.describe(&program).map_err(|error| error.to_string())?;
    let (kept, state) = (described.clone(), Mutex::new(State { running: Some(running), restarts: 0 }));
    let host = Arc::new(Host { program, described: kept, state });
    let of = |description| Arc::new(Plugin { host: Arc::clone(&host), description }) as Arc<dyn Remote>;
    Ok(described.into_iter().map(of).collect())
}

/// One plug-in of a program.
struct Plugin {
    host: Arc<Host>,
    description: Description,
}

impl Remote for Plugin {
    fn description(&self) -> &Description {
        &self.description
    }

    fn call(&self, method: &str, params: &[Value]) -> Result<Value, CallError> {
        self.call_within(method, params, self.host.program.timeout)
    }

    fn call_within(&self, method: &str, params: &[Value], limit: Duration) -> Result<Value, CallError> {
        check_method(&self.description, method)?;
        self.host.call(&format!("{}/{method}", self.description.name), params, limit)
    }
}

/// A program that several plug-ins share.
struct Host {
    program: Program,
    described: Vec<Description>,
    state: Mutex<State>,
}

struct State {
    running: Option<Running>,
    restarts: u32,
}

impl Host {
    fn call(&self, method: &str, params: &[Value], limit: Duration) -> Result<Value, CallError> {
        // one call at a time: answers have no other sign than their order
        let mut state = self.state.lock();
        if state.running.is_none() {
            if state.restarts >= self.program.restarts_max {
                return Err(CallError::Gone(format!(
                    "{} times; it is not started again",
                    state.restarts + 1
                )));
            }
            state.restarts += 1;
            let mut running = Running::start(&self.program)?;
            if running.describe(&self.program)? != self.described {
                return Err(CallError::Broken("it describes itself differently after a restart".to_owned()));
            }
            tracing::info!(program = %self.program.program.display(), "plug-in program started again");
            state.running = Some(running);
        }
        let running = state.running.as_mut().expect("it was started above");
        let result = running.call(&self.program, (method, params), limit);
        if matches!(result, Err(CallError::Gone(_) | CallError::TimedOut(_) | CallError::Broken(_))) {
            state.running = None;
        }
        result
    }
}

/// A child process, its streams and the threads that read them.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<io::Result<Vec<u8>>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    /// Is closed when all of standard error was read.
    stderr_end: Receiver<Infallible>,
}

impl Running {
    fn start(program: &Program) -> Result<Self, CallError> {
        let failed = |error: io::Error| CallError::Gone(format!("cannot be started: {error}"));
        let mut child = Command::new(&program.program)
            .args(&program.args)
            .env_clear()
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let (stdout, errors) = (child.stdout.take(), child.stderr.take());
        let (tell, answers) = bounded(1);
        let limit = program.answer_max;
        let mut reader = BufReader::new(stdout.expect("it is piped"));
        thread::Builder::new()
            .name("pils plug-in".to_owned())
            .spawn(move || {
                loop {
                    let message = read_message(&mut reader, limit);
                    let is_last = message.is_err();
                    if tell.send(message).is_err() || is_last {
                        return;
                    }
                }
            })
            .map_err(failed)?;
        let stderr = Arc::<Mutex<VecDeque<u8>>>::default();
        let kept = Arc::clone(&stderr);
        let (open, stderr_end) = bounded(1);
        let mut errors = errors.expect("it is piped");
        thread::Builder::new()
            .name("pils plug-in stderr".to_owned())
            .spawn(move || {
                let _open: Sender<Infallible> = open;
                let mut bytes = [0; 1024];
                while let Ok(n @ 1..) = errors.read(&mut bytes) {
                    let mut kept = kept.lock();
                    kept.extend(&bytes[..n]);
                    let excess = kept.len().saturating_sub(STDERR_KEPT);
                    drop(kept.drain(..excess));
                }
            })
            .map_err(failed)?;
        Ok(Self { child, stdin, answers, stderr, stderr_end })
    }

    fn describe(&mut self, program: &Program) -> Result<Vec<Description>, CallError> {
        let value = self.call(program, (DESCRIBE, &[]), program.timeout)?;
        let all = descriptions(value).map_err(CallError::Broken)?;
        let bad = all.iter().find(|d| d.name.contains('/'));
        bad.map_or(Ok(()), |d| Err(CallError::Broken(format!("{:?} is not the name of a plug-in", d.name))))?;
        Ok(all)
    }

    fn call(
        &mut self,
        program: &Program,
        (method, params): (&str, &[Value]),
        limit: Duration,
    ) -> Result<Value, CallError> {
        let call = Call { method: method.to_owned(), params: params.to_vec() };
        // nothing was sent: the program is as it was, and the next call may be a better one
        let document = call.to_xml().map_err(|error| {
            CallError::Fault(Fault { code: Fault::INVALID_PARAMS, text: error.to_string() })
        })?;
        let sent = self.stdin.as_mut().map(|stdin| write_message(stdin, &document));
        if let Some(Err(error)) = sent {
            return Err(CallError::Gone(self.obituary(&error.to_string())));
        }
        match self.answers.recv_timeout(limit) {
            Ok(Ok(bytes)) => {
                let limits = Limits { bytes_max: program.answer_max, ..Limits::default() };
                let broken = |error: DecodeError| CallError::Broken(format!("its answer is none: {error}"));
                Response::from_xml(&bytes, &limits).map_err(broken)?.0.map_err(CallError::Fault)
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(CallError::Gone(self.obituary("it closed its output")))
            }
            Ok(Err(error)) => Err(CallError::Broken(error.to_string())),
            Err(RecvTimeoutError::Timeout) => Err(CallError::TimedOut(limit)),
            Err(RecvTimeoutError::Disconnected) => Err(CallError::Gone(self.obituary("nobody reads it"))),
        }
    }

    /// How it ended, and what it said last.
    fn obituary(&mut self, what: &str) -> String {
        let status = wait(&mut self.child, GRACE);
        if status.is_some() {
            // its last words may still be in the pipe; a process that it left behind may hold that open
            self.stderr_end.recv_timeout(GRACE).unwrap_err();
        }
        let status = status.map_or_else(|| what.to_owned(), |status| status.to_string());
        let said = self.stderr.lock().iter().copied().collect::<Vec<u8>>();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        if last.is_empty() { status } else { format!("{status}; it said: {last}") }
    }
}

/// Waits for a child for some time at most.
fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
            Ok(None) | Err(_) => return None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let is_gone = wait(&mut self.child, GRACE).is_some();
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // what it started goes with it; nobody may be left
            let killed = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            if let (Err(error), false) = (killed, is_gone) {
                tracing::warn!(%error, "plug-in program cannot be killed");
            }
        }
        if !is_gone && wait(&mut self.child, GRACE).is_none() {
            tracing::warn!("plug-in program does not end");
        }
    }
}

fn write_message(out: &mut impl Write, document: &[u8]) -> io::Result<()> {
    let mut message = format!("Content-Length: {}\r\n\r\n", document.len()).into_bytes();
    message.extend_from_slice(document);
    out.write_all(&message)?;
    out.flush()
}

/// The next message; [`io::ErrorKind::UnexpectedEof`] at the end of the stream.
fn read_message(input: &mut impl BufRead, limit: usize) -> io::Result<Vec<u8>> {
    let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut length = None;
    loop {
        let mut line = Vec::new();
        if input.take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        if line.last() != Some(&b'\n') {
            return Err(bad(format!("a line too long, or without end: {:.40}", text)));
        }
        match (text, text.split_once(':')) {
            ("", _) => break,
            (_, Some((name, value))) if name.eq_ignore_ascii_case("content-length") => {
                let n = value.trim().parse::<usize>().map_err(|_error| bad(format!("no length: {value}")))?;
                length = Some(n);
            }
            // other headers are for a later version
            (_, Some((name, _))) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {}
            _ => return Err(bad(format!("output that is no message: {text}"))),
        }
    }
    let length = length.ok_or_else(|| bad("a message without a length".to_owned()))?;
    if length > limit {
        return Err(bad(format!("an answer of {length} bytes is longer than {limit}")));
    }
    let mut document = vec![0; length];
    input.read_exact(&mut document)?;
    Ok(document)
}

/// The other side, for a program in Rust: answers calls from `input` until it ends.
///
/// ```no_run
/// use pils::Value;
/// use pils::codec::xmlrpc::Fault;
/// use pils::plugin::{Callee, Description, Interface, program};
///
/// struct Counter(i64);
/// impl Callee for Counter {
///     fn call(&mut self, _method: &str, _params: &[Value]) -> Result<Value, Fault> {
///         self.0 += 1;
///         Ok(self.0.into())
///     }
/// }
/// let description = Description {
///     plugin_type: "counter".into(),
///     name: "simple".into(),
///     version: "1.0".into(),
///     interface: Interface { major: 1, minor: 0 },
///     methods: ["next".to_owned()].into(),
/// };
/// let plugins: Vec<(Description, Box<dyn Callee>)> = vec![(description, Box::new(Counter(0)))];
/// program::serve(plugins, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Those of the streams; [`io::ErrorKind::InvalidData`] for what is no message.
pub fn serve(
    mut plugins: Vec<(Description, Box<dyn Callee>)>,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<()> {
    let limits = Limits::default();
    loop {
        let bytes = match read_message(input, limits.bytes_max) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let result = match Call::from_xml(&bytes, &limits) {
            Ok(call) => answer(&mut plugins, &call),
            Err(error) => Err(error.into()),
        };
        let written = Response(result).to_xml().or_else(|error| {
            Response(Err(Fault { code: Fault::INTERNAL, text: error.to_string() })).to_xml()
        });
        let document = written.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        write_message(output, &document)?;
    }
}

fn answer(plugins: &mut [(Description, Box<dyn Callee>)], call: &Call) -> Result<Value, Fault> {
    if call.method == DESCRIBE {
        let all: Vec<&Description> = plugins.iter().map(|(description, _)| description).collect();
        return crate::value::to_value(&all)
            .map_err(|error| Fault { code: Fault::INTERNAL, text: error.to_string() });
    }
    let unknown = || Fault { code: Fault::METHOD_NOT_FOUND, text: format!("no method {}", call.method) };
    let (name, method) = call.method.split_once('/').ok_or_else(unknown)?;
    let found = plugins.iter_mut().find(|(description, _)| description.name == name);
    let (description, callee) = found.ok_or_else(unknown)?;
    if !description.methods.contains(method) {
        return Err(unknown());
    }
    callee.call(method, &call.params)
}
