//! Where a machine sits in its node: the node's thread feeds it, and threads of the program ask it.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use ocf_comm::driver::Stopped;
use ocf_groups::replicated::{Machine, Outcome, Output, Phase, Replicated, Request, SubmitError};
use ocf_groups::{Event, Groups, JoinError, LeaveError, MemberId};
use parking_lot::{Condvar, Mutex};
use pils::Instant;
use pils::wire::ParseError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time;

/// How many events of a [`Service`](crate::Service) are kept for a program that does not take them.
pub const SERVICE_EVENTS_MAX: usize = 65_536;

/// What a [`Service`](crate::Service) tells, in one order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceEvent<E> {
    /// What the machine tells: the same at all members, from where each got its state.
    Event(E),
    /// This member came, lost its state (this node was outside the primary partition), got it, or went.
    Phase(Phase),
    /// So many of the events before the next one were thrown away, because nobody took them.
    Missed(u64),
    /// The state that another member offered is none: another program or version is in this group. This member has left it.
    Failed(ParseError),
}

/// A machine and what it told.
pub(crate) struct Seat<M: Machine> {
    machine: Mutex<Replicated<M>>,
    told: Mutex<Told<M::Event>>,
    news: Condvar,
}

struct Told<E> {
    events: VecDeque<ServiceEvent<E>>,
    missed: u64,
    phase: Phase,
    answers: BTreeMap<Request, Arc<Answer>>,
    stopped: Option<Stopped>,
}

/// Something to be told that the node has stopped.
pub(crate) trait Closing: Send + Sync {
    fn close(&self, why: &Stopped);
}

impl<M: Machine> fmt::Debug for Seat<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("phase", &self.told.lock().phase).finish_non_exhaustive()
    }
}

impl<M: Machine> Seat<M> {
    pub(crate) fn new(machine: Replicated<M>) -> Self {
        let told = Told {
            events: VecDeque::new(),
            missed: 0,
            phase: machine.phase(),
            answers: BTreeMap::new(),
            stopped: None,
        };
        Self { machine: Mutex::new(machine), told: Mutex::new(told), news: Condvar::new() }
    }

    /// In a call of the node: before anything that follows is carried out.
    pub(super) fn submit(
        &self,
        now: Instant,
        submit: impl FnOnce(&mut Replicated<M>, Instant) -> Result<Request, SubmitError>,
    ) -> Result<Reply, SubmitError> {
        let request = submit(&mut self.machine.lock(), now)?;
        let answer = Arc::new(Answer::default());
        self.told.lock().answers.insert(request, Arc::clone(&answer));
        Ok(Reply(answer))
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&Replicated<M>) -> R) -> R {
        look(&self.machine.lock())
    }

    pub(super) fn wait_ready(&self, wait: Duration) -> bool {
        let until = time::Instant::now().checked_add(wait);
        let mut told = self.told.lock();
        while told.phase != Phase::Ready && told.stopped.is_none() {
            match until {
                None => self.news.wait(&mut told),
                Some(until) if self.news.wait_until(&mut told, until).timed_out() => break,
                Some(_) => {}
            }
        }
        told.phase == Phase::Ready && told.stopped.is_none()
    }

    pub(super) fn next_event(&self, wait: Duration) -> Option<ServiceEvent<M::Event>> {
        let until = time::Instant::now().checked_add(wait);
        let mut told = self.told.lock();
        while told.events.is_empty() && told.stopped.is_none() {
            match until {
                None => self.news.wait(&mut told),
                Some(until) if self.news.wait_until(&mut told, until).timed_out() => break,
                Some(_) => {}
            }
        }
        match core::mem::take(&mut told.missed) {
            0 => told.events.pop_front(),
            missed => Some(ServiceEvent::Missed(missed)),
        }
    }

    /// Takes what the machine has to say.
    fn hear(&self, outputs: Vec<Output<M::Event>>) {
        let mut done = Vec::new();
        let mut told = self.told.lock();
        for output in outputs {
            let event = match output {
                Output::Done(request, outcome) => {
                    done.extend(told.answers.remove(&request).map(|answer| (answer, outcome)));
                    continue;
                }
                Output::Event(event) => ServiceEvent::Event(event),
                Output::Phase(phase) => {
                    told.phase = phase;
                    ServiceEvent::Phase(phase)
                }
                Output::Failed(error) => ServiceEvent::Failed(error),
                // Carried out already.
                Output::Send { .. } | Output::Offer { .. } | _ => continue,
            };
            if told.events.len() == SERVICE_EVENTS_MAX {
                told.events.pop_front();
                told.missed += 1;
            }
            told.events.push_back(event);
        }
        self.news.notify_all();
        drop(told);
        done.into_iter().for_each(|(answer, outcome)| answer.give(Ok(outcome)));
    }
}

impl<M: Machine<Event: Send> + Send> Closing for Seat<M> {
    fn close(&self, why: &Stopped) {
        let mut told = self.told.lock();
        told.stopped = Some(why.clone());
        let unanswered = core::mem::take(&mut told.answers);
        self.news.notify_all();
        drop(told);
        unanswered.into_values().for_each(|answer| answer.give(Err(why.clone())));
    }
}

/// The machine of a seat, as it lives in the stack.
pub(crate) struct Resident<M: Machine>(pub(crate) Arc<Seat<M>>);

impl<M: Machine> fmt::Debug for Resident<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<M: Machine<Event: Send> + Send> crate::stack::Resident for Resident<M> {
    fn join(&mut self, now: Instant, groups: &mut Groups) -> Result<MemberId, JoinError> {
        self.0.machine.lock().join(now, groups)
    }

    fn leave(&mut self, now: Instant, groups: &mut Groups) -> Result<(), LeaveError> {
        self.0.machine.lock().leave(now, groups)
    }

    fn handle(&mut self, now: Instant, event: &Event) {
        self.0.machine.lock().handle(now, event);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.0.machine.lock().handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.machine.lock().poll_timeout()
    }

    fn drive(&mut self, now: Instant, groups: &mut Groups) {
        let mut machine = self.0.machine.lock();
        let outputs = machine.drive(now, groups);
        if outputs.is_empty() {
            return;
        }
        if outputs.iter().any(|output| matches!(output, Output::Failed(_)))
            && let Err(error) = machine.leave(now, groups)
        {
            tracing::debug!(%error, "a member whose state is none is not in its group");
        }
        drop(machine);
        self.0.hear(outputs);
    }
}

/// The answer to a command, when it comes: wait for it, or await it on any executor. Dropping it changes nothing of the command.
#[derive(Debug)]
pub struct Reply(Arc<Answer>);

#[derive(Default)]
struct Answer {
    state: Mutex<Awaited>,
    given: Condvar,
}

#[derive(Default)]
struct Awaited {
    answer: Option<Result<Outcome, Stopped>>,
    waker: Option<Waker>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({:?})", self.state.lock().answer)
    }
}

impl Answer {
    fn give(&self, answer: Result<Outcome, Stopped>) {
        let mut state = self.state.lock();
        state.answer = Some(answer);
        let waker = state.waker.take();
        self.given.notify_all();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Reply {
    /// What became of the command, waiting for it at most so long; `None` if that is not known yet. Asked again it says the same.
    ///
    /// # Errors
    /// [`Stopped`] if the node stopped first: the command may have been carried out.
    pub fn wait(&self, wait: Duration) -> Result<Option<Outcome>, Stopped> {
        let until = time::Instant::now().checked_add(wait);
        let mut state = self.0.state.lock();
        while state.answer.is_none() {
            match until {
                None => self.0.given.wait(&mut state),
                Some(until) if self.0.given.wait_until(&mut state, until).timed_out() => break,
                Some(_) => {}
            }
        }
        state.answer.clone().transpose()
    }
}

impl Future for Reply {
    type Output = Result<Outcome, Stopped>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock();
        if let Some(answer) = state.answer.clone() {
            return Poll::Ready(answer);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
