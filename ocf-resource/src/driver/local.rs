use super::tree;
use super::{AgentHost, OperationDone};
use crate::executor::{Config, Event, Executor, Held, Input, Load, Output, Request};
use crate::{Agents, Operation};
use pils::{Instant, Layer as _, Rng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

/// Runs resources on this node, with no cluster: an executor with its agents on a thread of its own.
///
/// With a record it survives its own end, however that came: the next one opened on the same record goes on with the
/// recurring monitors, ends the programs that the last one had at work, and says which operations those were. What runs,
/// runs on: no service is a child that dies with this process.
#[derive(Debug)]
pub struct Local {
    say: Sender<Said>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Said {
    Ask(Request),
    Done(OperationDone),
    Load(Sender<Load>),
    Quit,
}

impl Local {
    /// Starts the thread. `record` is a file of this executor alone, made if it is not there; `tell` is called on the
    /// thread with every event and must not block.
    ///
    /// What an interrupted operation left behind is found by the names of the resource and of the action among all processes
    /// of this machine: two executors on one machine must not run resources of the same name.
    ///
    /// # Errors
    /// If the record cannot be read, is not a record, or the system refuses a thread.
    pub fn open(
        agents: Agents,
        config: Config,
        record: Option<PathBuf>,
        tell: impl FnMut(Event) + Send + 'static,
    ) -> io::Result<Self> {
        let held = record.as_deref().map_or_else(|| Ok(BTreeMap::new()), read)?;
        for one in held.values().filter(|h| h.in_flight) {
            end_leftovers(&one.operation);
        }
        let (say, said) = mpsc::channel();
        let report = say.clone();
        // The end of this executor is no concern of an agent that ends later.
        let host = AgentHost::new(agents, move |done| report.send(Said::Done(done)).unwrap_or_default());
        let origin = std::time::Instant::now();
        let seed = u64::from(std::process::id());
        let config = Config { durable: record.is_some(), ..config };
        let mut executor = Executor::new(config, Rng::new(seed));
        executor.restore(Instant::ZERO, held.values().cloned());
        let work = Work { executor, host, held, record, tell: Box::new(tell), origin };
        let thread = thread::Builder::new().name("executor".to_owned()).spawn(move || work.run(&said))?;
        Ok(Self { say, thread: Some(thread) })
    }

    /// Asks for something. The answer is an event.
    pub fn request(&self, request: Request) {
        self.say.send(Said::Ask(request)).unwrap_or_default();
    }

    /// How busy it is, and with what.
    #[must_use]
    pub fn load(&self) -> Load {
        let (say, said) = mpsc::channel();
        self.say.send(Said::Load(say)).unwrap_or_default();
        said.recv().unwrap_or_default()
    }
}

impl Drop for Local {
    /// Ends the thread, and what runs on it; what is held stays in the record. Services run on.
    fn drop(&mut self) {
        self.say.send(Said::Quit).unwrap_or_default();
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the executor had panicked");
        }
    }
}

struct Work {
    executor: Executor,
    host: AgentHost,
    held: BTreeMap<Arc<str>, Held>,
    record: Option<PathBuf>,
    tell: Box<dyn FnMut(Event) + Send>,
    origin: std::time::Instant,
}

impl Work {
    fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    fn run(mut self, said: &Receiver<Said>) {
        loop {
            self.carry_out();
            let now = self.now();
            let wait =
                self.executor.poll_timeout().map(|at| if at > now { at - now } else { Duration::ZERO });
            let next = match wait {
                Some(wait) => said.recv_timeout(wait),
                None => said.recv().map_err(|_closed| RecvTimeoutError::Disconnected),
            };
            let now = self.now();
            match next {
                Ok(Said::Ask(request)) => self.executor.handle(now, Input::Request(request)),
                Ok(Said::Done(OperationDone { run, result })) => {
                    self.executor.handle(now, Input::Done { run, result });
                }
                Ok(Said::Load(answer)) => answer.send(self.executor.load(now)).unwrap_or_default(),
                Err(RecvTimeoutError::Timeout) => self.executor.handle_timeout(now),
                Ok(Said::Quit) | Err(RecvTimeoutError::Disconnected) => break self.host.cancel_all(),
            }
        }
    }

    fn carry_out(&mut self) {
        let mut changed = false;
        while let Some(output) = self.executor.poll_output() {
            match output {
                Output::Persist { resource, held } => {
                    changed = true;
                    match held {
                        Some(held) => drop(self.held.insert(resource, *held)),
                        None => drop(self.held.remove(&resource)),
                    }
                }
                Output::Run { run, operation } => {
                    self.write(&mut changed);
                    self.host.run(run, &operation);
                }
                Output::Cancel { run } => self.host.cancel(run),
                Output::Event(event) => {
                    self.write(&mut changed);
                    (self.tell)(event);
                }
            }
        }
        self.write(&mut changed);
    }

    /// Makes what is held durable, before anything that follows from it happens.
    fn write(&self, changed: &mut bool) {
        if !core::mem::take(changed) {
            return;
        }
        if let Some(path) = &self.record
            && let Err(error) = write(path, &self.held)
        {
            tracing::error!(%error, path = %path.display(), "cannot write the record of what runs");
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Arc<str>, Held>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is no record: {error}", path.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// A crash at any moment leaves the old record or the new one.
fn write(path: &Path, held: &BTreeMap<Arc<str>, Held>) -> io::Result<()> {
    pils::durable::replace(path, 0o666, &serde_json::to_vec(held)?).map(drop)
}

/// The process before this one died while an agent was at work: it would go on behind our back.
fn end_leftovers(operation: &Operation) {
    for tag in tree::tags(&operation.resource, operation.action.word()) {
        let swept = tree::sweep(&tag);
        tracing::info!(resource = %operation.resource, killed = swept.killed, "ended what was left of an operation");
    }
}

/// A place for events that a test or a small program can wait on.
#[derive(Clone, Debug)]
pub struct Events(Arc<Mutex<Receiver<Event>>>);

impl Events {
    /// The place, and what to pass to [`Local::open`].
    pub fn channel() -> (impl FnMut(Event) + Send + 'static, Self) {
        let (say, said) = mpsc::channel();
        let tell = move |event| say.send(event).unwrap_or_default();
        (tell, Self(Arc::new(Mutex::new(said))))
    }

    /// The next event, if one comes within `wait`.
    #[must_use]
    pub fn next(&self, wait: Duration) -> Option<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(wait).ok()
    }
}
