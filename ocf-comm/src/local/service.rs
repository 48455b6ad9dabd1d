use super::frame::Response;
use super::outbox::Outbox;
use super::process::Process;
use crate::rpc::{Access, Body, Caller, Credentials, Fault, Responder};
use std::sync::Arc;

/// A client, as a service sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Number of the client in this life of the server; never used again.
    pub id: u64,
    /// What it calls itself. Not unique.
    pub name: String,
    /// What the kernel says of it.
    pub credentials: Credentials,
    /// The process that connected, if the kernel lets it be watched.
    pub process: Option<Process>,
}

impl ClientInfo {
    /// As a caller of methods.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::Local { client: self.id, name: self.name.clone(), credentials: self.credentials }
    }
}

/// Something that local programs use: messages to nodes, locks, groups. One value serves all clients.
///
/// For each client: [`joined`](Self::joined) once before its first call, then calls in the order in which it made them,
/// then [`gone`](Self::gone) exactly once, whether it said goodbye, crashed or was thrown out. All are called on the server's
/// thread and must not wait; answers and events may come from any thread, at any time.
pub trait Service: Send + Sync {
    /// How much a client must be allowed for this method. Default: to use.
    fn access(&self, method: &str) -> Access {
        let _ = method;
        Access::Use
    }

    /// A client is about to make its first call. `events` leads to it, until it is gone.
    fn joined(&self, client: &ClientInfo, events: EventSink);

    /// A client calls. `answer` leads back; for a call without an answer it leads nowhere.
    fn call(&self, client: &ClientInfo, method: &str, body: Body, answer: Responder<Body>);

    /// A client is gone for good: whatever it held is to be released. Its process may live on, and does not know yet: see
    /// [`Service::mourns`].
    fn gone(&self, client: u64);

    /// Asked once, after [`Service::gone`]: whether the service wants to know when the client's process ends, if the kernel can say.
    /// Not asked when the server itself ends. Default: no.
    fn mourns(&self, client: u64) -> bool {
        let _ = client;
        false
    }

    /// Called about four times a second while clients are connected, on the server's thread: to see who takes too long.
    fn look(&self) {}

    /// The process of a client that the service [mourns](Service::mourns) has ended. Possibly at once.
    fn ended(&self, client: u64) {
        let _ = client;
    }
}

/// Leads from a service to one client. Cheap to clone; used from any thread.
#[derive(Clone, Debug)]
pub struct EventSink {
    pub(super) outbox: Arc<Outbox>,
    pub(super) service: Arc<str>,
}

/// Why an event does not reach a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The client does not read fast enough. The event is dropped and the client will be told how many were lost.
    #[error("the client is slow: the event is lost and the client will be told")]
    Lost,
    /// The client is gone.
    #[error("the client is gone")]
    Gone,
}

impl EventSink {
    /// Queues an event for the client. Never waits.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn send(&self, body: Body) -> Result<(), SinkError> {
        self.outbox.event(&self.service, body)
    }

    /// As [`EventSink::send`], but never loses: for events whose number the service bounds itself, by a window say.
    ///
    /// # Errors
    /// [`SinkError::Gone`].
    pub fn send_bounded(&self, body: Body) -> Result<(), SinkError> {
        let frame = Response::Stream { service: self.service.to_string(), body }.emit();
        if self.outbox.push(frame) { Ok(()) } else { Err(SinkError::Gone) }
    }

    /// As [`EventSink::send_bounded`], but written at once in this thread, as far as the socket takes it: the server's thread need
    /// not be woken. Never waits.
    ///
    /// # Errors
    /// [`SinkError::Gone`].
    pub fn send_now(&self, body: Body) -> Result<(), SinkError> {
        let frame = Response::Stream { service: self.service.to_string(), body }.emit();
        if self.outbox.push_now(frame) { Ok(()) } else { Err(SinkError::Gone) }
    }

    /// Ends the connection: what waits for the client is dropped, and it is told why if its socket takes that.
    pub fn end(&self, reason: &str) {
        self.outbox.end(reason);
    }

    /// Bytes that wait for the client.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outbox.bytes()
    }
}

/// A fault for a method that a service does not have.
#[must_use]
pub fn no_method(method: &str) -> Fault {
    Fault::new(Fault::METHOD_NOT_FOUND, format!("the service has no method {method:?}"))
}
