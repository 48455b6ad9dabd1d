use crate::local::{Address, CallFailure, Client, ClientError, ClientEvent, RequestId};
use crate::rpc::{Body, Fault};
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use futures_core::Stream;
use parking_lot::Mutex;
use pils::topic::{Delivery, Pattern};
use pils::{NodeInstance, Value};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot};

/// Events of one stream that wait for the program before more count as lost.
const QUEUE: usize = 1024;

/// A local program's end of the connection to a server. Cheap to clone; clones share the connection.
///
/// A task of the runtime drives it. The connection ends when every clone is dropped; its streams end then too. See [`Client`]
/// for what happens when the server ends.
#[derive(Clone)]
pub struct AsyncClient {
    shared: Arc<Shared>,
    kick: Arc<Notify>,
}

impl fmt::Debug for AsyncClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncClient").field("ended", &self.shared.state.lock().ended).finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    /// Tells the driving task that nobody is left.
    kick: Arc<Notify>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.kick.notify_one();
    }
}

struct State {
    client: Client,
    answers: BTreeMap<RequestId, oneshot::Sender<Result<Body, Fault>>>,
    topics: BTreeMap<RequestId, Feed<Delivery>>,
    services: BTreeMap<String, Feed<ServiceEvent>>,
    ended: Option<ClientError>,
}

/// What a service tells a client.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceEvent {
    /// An event.
    Event(Body),
    /// So many are missing here: this program was too slow.
    Lost(u64),
}

/// Fills a stream; what does not fit is counted.
struct Feed<T> {
    sender: mpsc::Sender<T>,
    lost: Arc<AtomicU64>,
    /// How to say that some were lost.
    say: fn(u64) -> T,
}

/// The other end of a feed.
struct Drain<T> {
    receiver: mpsc::Receiver<T>,
    lost: Arc<AtomicU64>,
    say: fn(u64) -> T,
}

fn feed<T>(say: fn(u64) -> T) -> (Feed<T>, Drain<T>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    (Feed { sender, lost: Arc::clone(&lost), say }, Drain { receiver, lost, say })
}

impl<T> Feed<T> {
    /// Adds an item that stands for so many events. False if the stream is dropped.
    fn push(&self, item: T, events: u64) -> bool {
        let lost = self.lost.swap(0, Ordering::AcqRel);
        if lost > 0 && self.sender.try_send((self.say)(lost)).is_err() {
            self.lost.fetch_add(lost + events, Ordering::AcqRel);
        } else if self.sender.try_send(item).is_err() {
            self.lost.fetch_add(events, Ordering::AcqRel);
        }
        !self.sender.is_closed()
    }
}

impl<T> Drain<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let polled = self.receiver.poll_recv(cx);
        if !matches!(polled, Poll::Ready(Some(_))) {
            // The queue is empty: what is missing is missing here.
            let lost = self.lost.swap(0, Ordering::AcqRel);
            if lost > 0 {
                return Poll::Ready(Some((self.say)(lost)));
            }
        }
        polled
    }
}

/// The events of a subscription. Dropping it ends the subscription.
pub struct TopicStream {
    drain: Drain<Delivery>,
    id: RequestId,
    shared: Weak<Shared>,
}

/// The events of a service for this client.
pub struct ServiceStream {
    drain: Drain<ServiceEvent>,
}

impl fmt::Debug for TopicStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicStream").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServiceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceStream").finish_non_exhaustive()
    }
}

impl TopicStream {
    /// The next event, or how many are missing; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| self.drain.poll(cx)).await
    }
}

impl ServiceStream {
    /// The next event, or how many are missing; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<ServiceEvent> {
        poll_fn(|cx| self.drain.poll(cx)).await
    }
}

impl Stream for TopicStream {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.drain.poll(cx)
    }
}

impl Stream for ServiceStream {
    type Item = ServiceEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServiceEvent>> {
        self.drain.poll(cx)
    }
}

impl Drop for TopicStream {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.state.lock();
        state.topics.remove(&self.id);
        if let Err(error) = state.client.unsubscribe(self.id) {
            tracing::debug!(%error, "the connection has ended, and the subscription with it");
        }
        drop(state);
        shared.kick.notify_one();
    }
}

/// Cancels a call whose future is dropped before its answer came.
struct Unanswered<'a> {
    client: &'a AsyncClient,
    id: RequestId,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let mut state = self.client.shared.state.lock();
        if state.answers.remove(&self.id).is_some() {
            if let Err(error) = state.client.cancel(self.id) {
                tracing::debug!(%error, "a call ends with its connection");
            }
            drop(state);
            self.client.kick.notify_one();
        }
    }
}

impl AsyncClient {
    /// Connects and registers. The greeting is waited for in place, for some tens of microseconds as a rule; see
    /// [`Client::connect`]. To be called within a runtime that drives I/O.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(address: &Address, name: &str) -> Result<Self, ClientError> {
        let client = Client::connect(address, name)?;
        let fd = super::watch(client.as_fd().try_clone_to_owned()?)?;
        let state = State {
            client,
            answers: BTreeMap::new(),
            topics: BTreeMap::new(),
            services: BTreeMap::new(),
            ended: None,
        };
        let kick = Arc::new(Notify::new());
        let shared = Arc::new(Shared { state: Mutex::new(state), kick: Arc::clone(&kick) });
        drop(tokio::spawn(drive(Arc::downgrade(&shared), fd, Arc::clone(&kick))));
        Ok(Self { shared, kick })
    }

    /// Which node serves, if the server is one.
    #[must_use]
    pub fn node(&self) -> Option<NodeInstance> {
        self.shared.state.lock().client.node()
    }

    /// Calls a method of a service, or of the server's dispatcher if the service is empty. Dropping the future cancels the call;
    /// put a timeout around it.
    ///
    /// # Errors
    /// [`CallFailure`].
    pub async fn call(&self, service: &str, method: &str, body: Body) -> Result<Body, CallFailure> {
        self.request(|client| client.call(service, method, body)).await
    }

    /// Publishes an event; properties are a struct. Its number comes back.
    ///
    /// # Errors
    /// [`CallFailure`].
    pub async fn publish(
        &self,
        topic: &str,
        properties: Value,
        data: bytes::Bytes,
    ) -> Result<u64, CallFailure> {
        let number = self.request(|client| client.publish(topic, properties, data)).await?;
        Ok(number.read()?)
    }

    /// Subscribes to topics.
    ///
    /// # Errors
    /// [`CallFailure`].
    pub async fn subscribe(&self, pattern: Pattern) -> Result<TopicStream, CallFailure> {
        let (feed, drain) = feed(Delivery::Lost);
        let (id, answer) = {
            let mut state = self.shared.state.lock();
            let (id, answer) = state.begin(|client| client.subscribe(pattern))?;
            state.topics.insert(id, feed);
            (id, answer)
        };
        // From here on dropping it ends the subscription, also if this future is dropped or the answer is a fault.
        let stream = TopicStream { drain, id, shared: Arc::downgrade(&self.shared) };
        self.answered(id, answer).await?;
        Ok(stream)
    }

    /// What a service tells this client from now on, in place of an earlier stream of the same service.
    #[must_use]
    pub fn service_events(&self, service: &str) -> ServiceStream {
        let (feed, drain) = feed(ServiceEvent::Lost);
        let mut state = self.shared.state.lock();
        if state.ended.is_none() {
            state.services.insert(service.to_owned(), feed);
        }
        ServiceStream { drain }
    }

    async fn request(
        &self,
        ask: impl FnOnce(&mut Client) -> Result<RequestId, ClientError>,
    ) -> Result<Body, CallFailure> {
        let (id, answer) = self.shared.state.lock().begin(ask)?;
        self.answered(id, answer).await
    }

    async fn answered(
        &self,
        id: RequestId,
        answer: oneshot::Receiver<Result<Body, Fault>>,
    ) -> Result<Body, CallFailure> {
        self.kick.notify_one();
        let _cancels = Unanswered { client: self, id };
        match answer.await {
            Ok(result) => Ok(result?),
            Err(_ended) => {
                let ended = self.shared.state.lock().ended.clone();
                Err(ended.unwrap_or(ClientError::Closed).into())
            }
        }
    }
}

impl State {
    fn begin(
        &mut self,
        ask: impl FnOnce(&mut Client) -> Result<RequestId, ClientError>,
    ) -> Result<(RequestId, oneshot::Receiver<Result<Body, Fault>>), ClientError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let id = ask(&mut self.client)?;
        let (sender, answer) = oneshot::channel();
        self.answers.insert(id, sender);
        Ok((id, answer))
    }

    /// Reads, writes and hands out; says whether anything was. `None` once the connection has ended.
    fn turn(&mut self) -> Option<bool> {
        let processed = self.client.process();
        let mut any = false;
        while let Some(event) = self.client.poll_event() {
            self.hand_out(event);
            any = true;
        }
        if let Err(error) = processed {
            self.ended = Some(error);
            self.answers.clear();
            self.topics.clear();
            self.services.clear();
        }
        self.ended.is_none().then_some(any)
    }

    fn hand_out(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Answered { request, result } => {
                if let Some(sender) = self.answers.remove(&request)
                    && sender.send(result).is_err()
                {
                    tracing::trace!("nobody waits for an answer any more");
                }
            }
            ClientEvent::Topic { subscription, delivery } => {
                if let Some(feed) = self.topics.get(&subscription) {
                    let events = if let Delivery::Lost(lost) = &delivery { *lost } else { 1 };
                    feed.push(delivery, events);
                }
            }
            ClientEvent::Service { service, body } => self.tell(&service, ServiceEvent::Event(body)),
            ClientEvent::ServiceLost { service, lost } => self.tell(&service, ServiceEvent::Lost(lost)),
        }
    }

    fn tell(&mut self, service: &str, event: ServiceEvent) {
        let events = if let ServiceEvent::Lost(lost) = &event { *lost } else { 1 };
        if self.services.get(service).is_some_and(|feed| !feed.push(event, events)) {
            self.services.remove(service);
        }
    }
}

/// Drives a connection until it ends or nobody uses it.
async fn drive(shared: Weak<Shared>, fd: AsyncFd<OwnedFd>, kick: Arc<Notify>) {
    loop {
        let wants_write = {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.state.lock();
            let Some(any) = state.turn() else { return };
            if any {
                // The client stops reading when many events wait, and the runtime tells only of what is new: look again.
                kick.notify_one();
            }
            state.client.wants_write()
        };
        if let Err(error) = something(&fd, &kick, wants_write).await {
            tracing::debug!(%error, "the runtime watches no more");
            return;
        }
    }
}

/// Waits until there may be something to do.
async fn something(fd: &AsyncFd<OwnedFd>, kick: &Notify, wants_write: bool) -> io::Result<()> {
    let mut kicked = pin!(kick.notified());
    poll_fn(|cx| {
        if kicked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if wants_write && let Poll::Ready(ready) = fd.poll_write_ready(cx) {
            return Poll::Ready(ready.map(|mut guard| guard.clear_ready()));
        }
        fd.poll_read_ready(cx).map(|ready| ready.map(|mut guard| guard.clear_ready()))
    })
    .await
}
