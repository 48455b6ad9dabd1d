//! Calls between nodes, as a program makes and serves them.

use super::host::{Command, NodeHost};
use super::{Node, RequestError};
use crate::stack::Stack;
use core::time::Duration;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use ocf_comm::driver::{Remote, Stopped};
use ocf_comm::rpc::{
    Body, Call, CallError, CallId, CallOptions, Caller, Completion, Dispatcher, Fault, Output, Responder,
    Target, Ticket,
};
use pils::{Instant, NodeInstance, Value};
use std::collections::BTreeMap;
use std::io;

/// Requests of all nodes together that wait to be run; each peer may have 256 of its own. More are refused as busy.
const WAITING_MAX: usize = 4096;

/// A request of another node.
pub(super) struct Job {
    ticket: Option<Ticket>,
    caller: NodeInstance,
    method: String,
    body: Body,
}

/// The host's half: who waits for which completion, and the way to the thread that runs methods.
pub(super) struct Callers {
    waiting: BTreeMap<CallId, Sender<Completion>>,
    jobs: Sender<Job>,
}

impl Callers {
    pub(super) fn new() -> (Self, Receiver<Job>) {
        let (jobs, receiver) = bounded(WAITING_MAX);
        (Self { waiting: BTreeMap::new(), jobs }, receiver)
    }

    /// Carries out what the core of calls wants.
    pub(super) fn carry_out(&mut self, output: Output, remote: &Remote<Command>) {
        match output {
            Output::Completed(completion) => {
                let waiting = self.waiting.remove(&completion.call);
                if waiting.is_some_and(|waiting| waiting.try_send(completion).is_err()) {
                    tracing::trace!("nobody waits for a completed call any more");
                }
            }
            Output::Request { ticket, caller, method, body, .. } => {
                let refused = match self.jobs.try_send(Job { ticket, caller, method, body }) {
                    Ok(()) => return,
                    Err(TrySendError::Full(_)) => {
                        Fault::new(Fault::BUSY, format!("{WAITING_MAX} calls wait already"))
                    }
                    Err(TrySendError::Disconnected(_)) => {
                        Fault::new(Fault::UNAVAILABLE, "the node serves no calls")
                    }
                };
                if let Some(ticket) = ticket {
                    post(remote, ticket, Err(refused));
                }
            }
            // Who runs it learns by the answer that nobody takes.
            other @ (Output::Abandoned(_) | _) => tracing::trace!(?other, "of calls"),
        }
    }
}

fn post(remote: &Remote<Command>, ticket: Ticket, answer: Result<Body, Fault>) {
    if remote.post(Command::Answered(ticket, answer)).is_err() {
        tracing::debug!("an answer came after the node stopped");
    }
}

/// Runs the methods that other nodes call, on a thread of its own that ends with the node. A method that takes long answers
/// later, or all wait for it.
pub(super) fn serve(dispatcher: Dispatcher, jobs: Receiver<Job>, remote: Remote<Command>) -> io::Result<()> {
    let run = move || {
        for Job { ticket, caller, method, body } in jobs {
            let params = match body {
                Body::Value(Value::List(params)) => params,
                Body::Value(Value::Nil) => Vec::new(),
                Body::Value(one) => vec![one],
                Body::Bytes(bytes) => vec![Value::from(bytes.to_vec())],
            };
            let remote = remote.clone();
            let responder = Responder::new(move |reply: Result<Value, Fault>| {
                if let Some(ticket) = ticket {
                    post(&remote, ticket, reply.map(Body::Value));
                }
            });
            dispatcher.call(&Caller::Node(caller), Call { method, params }, responder);
        }
    };
    std::thread::Builder::new().name("ocf-calls".to_owned()).spawn(run).map(drop)
}

/// A call that was made. Dropping it leaves the call running and its answer unread.
#[derive(Debug)]
pub struct PendingCall {
    node: Node,
    id: CallId,
    completion: Receiver<Completion>,
}

impl PendingCall {
    /// The completion, waiting for it at most so long; `None` if there is none yet. It comes at the latest when the deadline
    /// of the call has passed, and once.
    ///
    /// # Errors
    /// [`Stopped`] if the node stopped first, or the completion was taken.
    pub fn wait(&self, time: Duration) -> Result<Option<Completion>, Stopped> {
        match self.completion.recv_timeout(time) {
            Ok(completion) => Ok(Some(completion)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.node.stopped().unwrap_or(Stopped::Requested)),
        }
    }

    /// Ends the call: who runs it is told that nobody waits. The completion says `Cancelled` for those who have not answered.
    /// False if it is complete already.
    #[must_use]
    pub fn cancel(&self) -> bool {
        let handle = &self.node.inner.handle;
        handle.call(|stack, _, now| stack.cancel_call(now, self.id)).unwrap_or(false)
    }
}

impl Node {
    /// Calls a method at other nodes: at one, at each of several, or at any. Needs no quorum and is outside the ordered stream.
    /// They run what [`NodeBuilder::methods`](super::NodeBuilder::methods) gave them, and `node.status` and the other methods of
    /// every node; `params` is the list of parameters, or one parameter that is no list.
    ///
    /// # Errors
    /// See [`CallError`]; nothing was sent.
    pub fn call(
        &self,
        target: Target,
        method: &str,
        params: Body,
        options: &CallOptions,
    ) -> Result<PendingCall, RequestError<CallError>> {
        let (sender, completion) = bounded(1);
        let make = |stack: &mut Stack, host: &mut NodeHost, now: Instant| {
            let id = stack.call(now, (target, method, params), options)?;
            if let Some(callers) = host.callers() {
                callers.waiting.insert(id, sender);
            }
            Ok(id)
        };
        let made = self.inner.handle.call(make).map_err(RequestError::Stopped)?;
        let id = made.map_err(RequestError::Refused)?;
        Ok(PendingCall { node: self.clone(), id, completion })
    }
}
