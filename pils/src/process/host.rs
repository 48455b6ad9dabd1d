use super::child::{Child, Turn, add};
use super::{Command, Exit, Finished, NotStarted, Ticket, WAITING_MAX, call};
use crossbeam_channel::Receiver;
use mio::{Events, Poll, Token};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

pub(super) const WAKE: Token = Token(0);
/// Tokens per child: its exit and its three streams.
const TOKENS: usize = 4;
/// How often a child that survived `SIGKILL` is looked at.
const STUCK_PERIOD: Duration = Duration::from_secs(1);

pub(super) type Done = Box<dyn FnOnce(Finished) + Send>;

pub(super) enum Request {
    Run(Ticket, Box<Command>, Done),
    Cancel(Ticket),
    Stop,
}

struct Waiting {
    ticket: Ticket,
    command: Box<Command>,
    done: Done,
    due: Instant,
}

struct Running {
    child: Child,
    done: Done,
    /// When to give it a turn if no event comes first.
    next: Instant,
}

/// The thread's state.
pub(super) struct Host {
    poll: Poll,
    inbox: Receiver<Request>,
    limit: usize,
    waiting: VecDeque<Waiting>,
    running: BTreeMap<Ticket, Running>,
    stuck: Vec<Child>,
    stopping: bool,
}

impl Host {
    pub(super) fn new(poll: Poll, inbox: Receiver<Request>, limit: usize) -> Self {
        let (waiting, running, stuck) = (VecDeque::new(), BTreeMap::new(), Vec::new());
        Self { poll, inbox, limit, waiting, running, stuck, stopping: false }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(128);
        let mut now = Instant::now();
        while !(self.stopping && self.running.is_empty()) {
            let timeout = self.next().map(|at| at.saturating_duration_since(now));
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                assert!(error.kind() == io::ErrorKind::Interrupted, "own descriptors can be polled: {error}");
                continue;
            }
            now = Instant::now();
            let mut due = BTreeSet::new();
            for event in &events {
                let ticket = Ticket(event.token().0 / TOKENS);
                if let Some(running) = self.running.get_mut(&ticket) {
                    if event.token().0 % TOKENS == 0 {
                        running.child.exited(now);
                    }
                    due.insert(ticket);
                }
            }
            self.take_requests(now, &mut due);
            due.extend(self.running.iter().filter(|(_, r)| r.next <= now).map(|(ticket, _)| *ticket));
            for ticket in due {
                self.turn(ticket, now);
            }
            self.start_waiting(now);
            self.stuck.retain_mut(|child| !child.reap_late());
        }
    }

    /// When there is something to do without an event.
    fn next(&self) -> Option<Instant> {
        let running = self.running.values().map(|running| running.next);
        let waiting = self.waiting.iter().map(|waiting| waiting.due);
        let stuck = self.stuck.first().map(|_| add(Instant::now(), STUCK_PERIOD));
        running.chain(waiting).chain(stuck).min()
    }

    fn take_requests(&mut self, now: Instant, due: &mut BTreeSet<Ticket>) {
        // a callback may add requests: those come after the children had their turn
        for request in self.inbox.try_iter().take(self.inbox.len()).collect::<Vec<_>>() {
            match request {
                Request::Run(_, _, done) if self.stopping => {
                    call(done, Finished::without_child(Exit::Cancelled));
                }
                Request::Run(_, _, done) if self.waiting.len() >= WAITING_MAX => {
                    call(done, Finished::without_child(Exit::NotStarted(NotStarted::Busy)));
                }
                Request::Run(ticket, command, done) => {
                    let due = add(now, command.timeout);
                    self.waiting.push_back(Waiting { ticket, command, done, due });
                    self.start_waiting(now);
                }
                Request::Cancel(ticket) => {
                    if let Some(running) = self.running.get_mut(&ticket) {
                        running.child.stop(Exit::Cancelled, now);
                        due.insert(ticket);
                    } else if let Some(i) = self.waiting.iter().position(|w| w.ticket == ticket) {
                        let waiting = self.waiting.remove(i).expect("the position is in the queue");
                        call(waiting.done, Finished::without_child(Exit::Cancelled));
                    }
                }
                Request::Stop => {
                    self.stopping = true;
                    for (ticket, running) in &mut self.running {
                        running.child.stop(Exit::Cancelled, now);
                        due.insert(*ticket);
                    }
                    for waiting in std::mem::take(&mut self.waiting) {
                        call(waiting.done, Finished::without_child(Exit::Cancelled));
                    }
                }
            }
        }
    }

    fn start_waiting(&mut self, now: Instant) {
        while self.running.len() < self.limit
            && let Some(Waiting { ticket, command, done, .. }) = self.waiting.pop_front()
        {
            tracing::debug!(?ticket, program = %command.program.display(), "starting a child");
            match Child::start(*command, self.poll.registry(), Token(ticket.0 * TOKENS), now) {
                Ok(child) => {
                    self.running.insert(ticket, Running { child, done, next: now });
                }
                Err(why) => call(done, Finished::without_child(Exit::NotStarted(why))),
            }
        }
        // a shorter limit may be over before that of the command in front
        while let Some(i) = self.waiting.iter().position(|waiting| waiting.due <= now) {
            let waiting = self.waiting.remove(i).expect("the position is in the queue");
            call(waiting.done, Finished::without_child(Exit::NotStarted(NotStarted::Busy)));
        }
    }

    fn turn(&mut self, ticket: Ticket, now: Instant) {
        let Some(running) = self.running.get_mut(&ticket) else { return };
        let (finished, stuck) = match running.child.turn(now) {
            Turn::Wait(until) => {
                running.next = until;
                return;
            }
            Turn::Again => {
                running.next = now;
                return;
            }
            Turn::Over(finished) => (finished, false),
            Turn::Stuck(finished) => (finished, true),
        };
        let Running { child, done, .. } = self.running.remove(&ticket).expect("it is there");
        tracing::debug!(?ticket, exit = %finished.exit, took = ?finished.took, "a child is over");
        if stuck {
            tracing::warn!(?ticket, "a child survives its kill; it will be reaped when it ends");
            self.stuck.push(child);
        }
        call(done, finished);
    }
}
