use super::config::Address;
use super::frame::{FRAMING_MAX, Frames, HEADER, Request, Response, VERSION};
use crate::rpc::{Body, Fault};
use bytes::Bytes;
use core::time::Duration;
use pils::topic::{Delivery, Pattern};
use pils::{NodeInstance, Value};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Bytes that may wait to be written before the client is told to wait.
const OUT_MAX: usize = 4 << 20;
/// Events that may wait for the program before no more is read: then the server's limits hold.
const EVENTS_MAX: usize = 4096;
/// Bytes read at once.
const READ: usize = 128 << 10;
/// How long a server may take to greet.
const GREETING: Duration = Duration::from_secs(10);

/// Number of a call, or of a subscription, of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

/// What a client hears.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// A call, a subscription or a publication was answered.
    Answered {
        /// Which.
        request: RequestId,
        /// Its result.
        result: Result<Body, Fault>,
    },
    /// Something on a topic, or that events are missing here.
    Topic {
        /// Of which subscription.
        subscription: RequestId,
        /// What.
        delivery: Delivery,
    },
    /// Something from a service.
    Service {
        /// Which.
        service: String,
        /// What.
        body: Body,
    },
    /// Events of a service are missing here, because this client was too slow.
    ServiceLost {
        /// Which.
        service: String,
        /// How many.
        lost: u64,
    },
}

/// Why a client cannot go on, or could not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no server at {0}")]
    NoServer(Address),
    /// The server does not serve this program, and says why.
    #[error("refused: {0}")]
    Refused(String),
    /// The server closed the connection: it ended, or threw this client out. What was called may have run.
    #[error("the server closed the connection")]
    Closed,
    /// The server does not speak this protocol.
    #[error("the server breaks the protocol: {0}")]
    Broken(String),
    /// It did not come in time.
    #[error("no answer in time")]
    Timeout,
    /// Too much waits to be written; call [`Client::process`] until there is room.
    #[error("{0} bytes wait to be written already")]
    Full(usize),
    /// The server takes no frame of this size.
    #[error("the request takes {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The system failed.
    #[error("{0}")]
    System(String),
}

/// Why a call that waits for its answer has none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// It was refused or failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It may have run, or not.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A local program's end of the connection to a server.
///
/// Never waits, except where the name says so. In a loop of its own: wait until [`AsFd`] is readable (and writable, if
/// [`Client::wants_write`]), call [`Client::process`], take events with [`Client::poll_event`] until there is none.
///
/// # When the server ends
/// Every call fails with [`ClientError::Closed`] from then on. Connect anew: that is a new client to the server, which has
/// released whatever the old one held; calls that were not answered may have run. Subscribe anew, then ask for the state that
/// the events change: nothing that happens after the subscription is missed.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    frames: Frames,
    /// Memory for what is read.
    buffer: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    events: VecDeque<ClientEvent>,
    /// Answers that a waiting call takes for itself.
    awaited: BTreeMap<u64, Option<Result<Body, Fault>>>,
    last: u64,
    id: u64,
    node: Option<NodeInstance>,
    frame_max: usize,
    failed: Option<ClientError>,
}

impl Client {
    /// Connects and registers under a name, waiting until the server has greeted, at most 10 s.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(address: &Address, name: &str) -> Result<Self, ClientError> {
        let socket = address.socket().map_err(|e| ClientError::System(e.to_string()))?;
        let stream = UnixStream::connect_addr(&socket).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NoServer(address.clone()),
            _ => ClientError::System(format!("cannot connect to {address}: {error}")),
        })?;
        stream.set_nonblocking(true).map_err(|e| ClientError::System(e.to_string()))?;
        let mut client = Self {
            stream,
            // What a server sends is bounded by its own limits; this one is against a stranger.
            frames: Frames::new(64 << 20),
            buffer: vec![0; READ],
            out: Vec::new(),
            written: 0,
            events: VecDeque::new(),
            awaited: BTreeMap::new(),
            last: 0,
            id: 0,
            node: None,
            frame_max: 4096,
            failed: None,
        };
        client.send(&Request::Hello { oldest: VERSION, newest: VERSION, name: name.to_owned() })?;
        let until = Instant::now() + GREETING;
        client.wait(until, |client| client.id != 0)?;
        Ok(client)
    }

    /// The number by which the server knows this client.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Which node serves, if the server is one.
    #[must_use]
    pub const fn node(&self) -> Option<NodeInstance> {
        self.node
    }

    /// Bytes of arguments that fit into one call.
    #[must_use]
    pub const fn body_max(&self) -> usize {
        self.frame_max.saturating_sub(FRAMING_MAX)
    }

    /// Calls a method of a service; of the server's dispatcher if the service is empty. `Answered` follows.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was sent.
    pub fn call(&mut self, service: &str, method: &str, body: Body) -> Result<RequestId, ClientError> {
        let id = self.last + 1;
        let (service, method) = (service.to_owned(), method.to_owned());
        self.send(&Request::Call { id, answer: true, service, method, body })?;
        self.last = id;
        Ok(RequestId(id))
    }

    /// Calls a method and wants no answer.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was sent.
    pub fn tell(&mut self, service: &str, method: &str, body: Body) -> Result<(), ClientError> {
        let (service, method) = (service.to_owned(), method.to_owned());
        self.send(&Request::Call { id: 0, answer: false, service, method, body })
    }

    /// As [`Client::tell`], but never too much: for what its caller bounds itself, by a window say.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was sent.
    pub fn tell_bounded(&mut self, service: &str, method: &str, body: Body) -> Result<(), ClientError> {
        let (service, method) = (service.to_owned(), method.to_owned());
        self.queue(&Request::Call { id: 0, answer: false, service, method, body }, usize::MAX)
    }

    /// Wants the answer of a call no more. It may come all the same, if it is on its way.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn cancel(&mut self, request: RequestId) -> Result<(), ClientError> {
        self.send(&Request::Cancel { id: request.0 })
    }

    /// Subscribes to topics. `Answered` follows, and `Topic` events after it.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was sent.
    pub fn subscribe(&mut self, pattern: Pattern) -> Result<RequestId, ClientError> {
        let id = self.last + 1;
        self.send(&Request::Subscribe { id, pattern })?;
        self.last = id;
        Ok(RequestId(id))
    }

    /// Ends a subscription. Events that are on their way still come.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn unsubscribe(&mut self, subscription: RequestId) -> Result<(), ClientError> {
        self.send(&Request::Unsubscribe { id: subscription.0 })
    }

    /// Publishes an event; properties are a struct. `Answered` follows, with the event's number.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was sent.
    pub fn publish(&mut self, topic: &str, properties: Value, data: Bytes) -> Result<RequestId, ClientError> {
        let id = self.last + 1;
        self.send(&Request::Publish { id, topic: topic.to_owned(), properties, data })?;
        self.last = id;
        Ok(RequestId(id))
    }

    /// What was heard, if there is something. Does not look at the socket: that is [`Client::process`].
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// True while something waits to be written.
    #[must_use]
    pub const fn wants_write(&self) -> bool {
        self.written < self.out.len()
    }

    /// Writes and reads what the socket takes and gives now. Never waits.
    ///
    /// # Errors
    /// Once the connection has ended, every call says why. Events that came before it can still be taken.
    pub fn process(&mut self) -> Result<(), ClientError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let done = self.flush().and_then(|()| self.read());
        if let Err(error) = &done {
            self.failed = Some(error.clone());
        }
        done
    }

    /// Calls a method and waits for its answer. Events that come meanwhile wait for [`Client::poll_event`].
    ///
    /// # Errors
    /// [`CallFailure`]. After a timeout the call is cancelled, and may have run.
    pub fn call_wait(
        &mut self,
        service: &str,
        method: &str,
        body: Body,
        timeout: Duration,
    ) -> Result<Body, CallFailure> {
        let request = self.call(service, method, body)?;
        self.await_answer(request, timeout)
    }

    /// Waits for the answer of a call that was made before and whose `Answered` was not taken.
    ///
    /// # Errors
    /// [`CallFailure`]. After a timeout the call is cancelled, and may have run.
    pub fn await_answer(&mut self, request: RequestId, timeout: Duration) -> Result<Body, CallFailure> {
        let is_it = |event: &ClientEvent| matches!(event, ClientEvent::Answered { request: of, .. } if *of == request);
        if let Some(at) = self.events.iter().position(is_it)
            && let Some(ClientEvent::Answered { result, .. }) = self.events.remove(at)
        {
            return Ok(result?);
        }
        self.awaited.insert(request.0, None);
        let until = Instant::now() + timeout;
        let waited = self.wait(until, |client| matches!(client.awaited.get(&request.0), Some(Some(_))));
        if let Some(Some(result)) = self.awaited.remove(&request.0) {
            return Ok(result?);
        }
        if waited == Err(ClientError::Timeout) {
            self.cancel(request)?;
        }
        Err(waited.err().unwrap_or(ClientError::Timeout).into())
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], or the end of the connection.
    pub fn next_event(&mut self, timeout: Duration) -> Result<ClientEvent, ClientError> {
        let until = Instant::now() + timeout;
        if self.events.is_empty() {
            self.wait(until, |client| !client.events.is_empty())?;
        }
        self.poll_event().ok_or(ClientError::Timeout)
    }

    /// Reads and writes until `ready`.
    fn wait(&mut self, until: Instant, ready: impl Fn(&Self) -> bool) -> Result<(), ClientError> {
        loop {
            let processed = self.process();
            if ready(self) {
                return Ok(());
            }
            processed?;
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let flags = if self.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let mut fds = [PollFd::new(&self.stream, flags)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(ClientError::Timeout),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ClientError::System(error.to_string())),
            }
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.queue(request, OUT_MAX)
    }

    /// Writes it, behind at most so many bytes.
    fn queue(&mut self, request: &Request, most: usize) -> Result<(), ClientError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let frame = request.emit();
        if frame.len() > self.frame_max + HEADER {
            return Err(ClientError::TooLarge { size: frame.len(), limit: self.frame_max });
        }
        let waiting = self.out.len() - self.written;
        if waiting > 0 && waiting + frame.len() > most {
            return Err(ClientError::Full(waiting));
        }
        let wrote = if self.wants_write() { 0 } else { self.write_now(&frame) };
        self.out.extend_from_slice(&frame[wrote..]);
        if let Err(error) = self.flush() {
            self.failed = Some(error.clone());
            return Err(error);
        }
        Ok(())
    }

    /// Writes of `frame` what the socket takes at once. What is wrong is found when the rest is written.
    fn write_now(&mut self, frame: &[u8]) -> usize {
        let mut wrote = 0;
        while wrote < frame.len() {
            match self.stream.write(&frame[wrote..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(more) => wrote += more,
            }
        }
        wrote
    }

    fn flush(&mut self) -> Result<(), ClientError> {
        while self.wants_write() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(wrote) => self.written += wrote,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Why it closed may be there to be read.
                Err(_) => return self.read().and(Err(ClientError::Closed)),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    fn read(&mut self) -> Result<(), ClientError> {
        loop {
            // Who waits for an answer cannot take events meanwhile.
            while self.events.len() < EVENTS_MAX || !self.awaited.is_empty() {
                match self.frames.next_frame() {
                    Ok(Some(frame)) => self.frame(&frame)?,
                    Ok(None) => break,
                    Err(error) => return Err(ClientError::Broken(error.to_string())),
                }
            }
            if self.events.len() >= EVENTS_MAX && self.awaited.is_empty() {
                return Ok(());
            }
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(got) => self.frames.push(&self.buffer[..got]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                Err(error) => return Err(ClientError::System(error.to_string())),
            }
        }
    }

    fn frame(&mut self, frame: &Bytes) -> Result<(), ClientError> {
        let response = Response::parse(frame).map_err(|error| ClientError::Broken(error.to_string()))?;
        match response {
            Response::Welcome { client, node, frame_max, .. } => {
                (self.id, self.node, self.frame_max) = (client, node, frame_max);
            }
            Response::Refused { reason } => return Err(ClientError::Refused(reason)),
            Response::Answer { id, result } => match self.awaited.get_mut(&id) {
                Some(slot) => *slot = Some(result),
                None => self.events.push_back(ClientEvent::Answered { request: RequestId(id), result }),
            },
            Response::Delivered { id, delivery } => {
                self.events.push_back(ClientEvent::Topic { subscription: RequestId(id), delivery });
            }
            Response::Stream { service, body } => {
                self.events.push_back(ClientEvent::Service { service, body });
            }
            Response::Lost { service, lost } => {
                self.events.push_back(ClientEvent::ServiceLost { service, lost });
            }
        }
        Ok(())
    }
}

impl AsFd for Client {
    /// Readable when [`Client::process`] has something to do. Watch the level, or after an edge process until no event comes:
    /// a client stops reading while thousands of events wait to be taken.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::System(error.to_string())
    }
}
