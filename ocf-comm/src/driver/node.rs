use super::notify::Notify;
use super::sentinel::{Sentinel, SentinelConfig};
use super::{
    Agreement, Handle, Host, Inbox, Io, IoStats, MediumStatus, Ports, Reactor, Remote, Report, Running,
    SetupError, Stopped, cipher, entropy,
};
use crate::medium::Link;
use crate::ping::{PingChange, PingStatus};
use crate::{
    Change, ChangeError, Channel, ClusterKey, Config, ConfigErrors, Connectivity, Endpoint, Event, Input,
    KeyError, KeyId, KeyRing, KeyStatus, Lane, Output, PeerStatus, Received, Secrets, SendError, Stats,
};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use pils::{Instant, Layer as _, NodeId, NodeInstance};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Why a node did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration or the key is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The system refused.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Why no event came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// None within the time given.
    #[error("no event in time")]
    Timeout,
    /// The node has stopped; there will be none.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A node that communicates over UDP, complete: an [`Endpoint`] on a reactor of its own.
///
/// Cheap to clone. The clones are one node: each event goes to the first of them that takes it. Sending takes the
/// caller's thread as far as the socket; receiving happens on the reactor's thread and events wait in a queue whose
/// size the lanes' windows bound. When the last clone is dropped the node [leaves](Self::leave).
///
/// ```no_run
/// use ocf_comm::driver::{IoConfig, Ports, UdpNode};
/// use ocf_comm::{Config, Preset};
/// use pils::NodeId;
/// use std::time::Duration;
///
/// let ports = Ports::bind(&IoConfig::new(["10.0.0.1:5405".parse()?]))?;
/// let config = Config::new("demo", Preset::Lan).with_peer(NodeId::new(2), "10.0.0.2:5405".parse()?);
/// let node = UdpNode::start(ports, NodeId::new(1), config, b"at least 32 random bytes, the same on every node")?;
/// println!("{:?}", node.recv_timeout(Duration::from_secs(5))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct UdpNode {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local: NodeInstance,
    events: Receiver<Event>,
    notify: Arc<Notify>,
    remote: Remote<Consumed>,
    running: Running<Endpoint, UdpHost>,
}

/// The memory of a message is free again.
#[derive(Debug)]
struct Consumed {
    from: NodeInstance,
    lane: Lane,
    bytes: usize,
}

/// Carries out what an endpoint wants: datagrams to the sockets, events to the queue.
#[derive(Debug)]
struct UdpHost {
    /// `None` once stopped, so that whoever waits at the other end is told.
    events: Option<Sender<Event>>,
    notify: Arc<Notify>,
    news: bool,
    sentinel: Option<Sentinel>,
}

impl UdpHost {
    fn tell(&mut self, event: Event) {
        self.news = true;
        if let Some(events) = &self.events
            && events.send(event).is_err()
        {
            // Every handle is gone; the reactor is about to be told to stop.
            self.events = None;
        }
    }
}

impl Host<Endpoint> for UdpHost {
    type Command = Consumed;

    fn input<'a>(&mut self, received: Received<'a>) -> Input<'a> {
        Input::Received(received)
    }

    fn report(&mut self, layer: &mut Endpoint, now: Instant, report: Report) {
        layer.handle(now, report.into());
    }

    fn carry_out(&mut self, _now: Instant, output: Output, io: &mut Io) {
        match output {
            Output::Transmit(transmit) => io.transmit(transmit),
            Output::Event(event) => self.tell(event),
        }
    }

    fn command(&mut self, layer: &mut Endpoint, now: Instant, command: Consumed) {
        layer.consumed(now, command.from, command.lane, command.bytes);
    }

    fn settled(&mut self, layer: &mut Endpoint, now: Instant) -> bool {
        if let Some(sentinel) = &mut self.sentinel {
            sentinel.tell(now, layer.config());
        }
        if std::mem::take(&mut self.news) {
            self.notify.raise();
        }
        false
    }

    fn medium_changed(&mut self, layer: &mut Endpoint, now: Instant, changed: &MediumStatus) {
        let up = changed.link != Link::Down;
        layer.handle(now, Input::Carrier { path: changed.path, up });
        if let (Some(was), Some(address)) = (changed.was, changed.address)
            && was != address
        {
            layer.readvertise(now, changed.path, (was, address));
        }
    }

    fn ping_changed(&mut self, _layer: &mut Endpoint, _now: Instant, change: &PingChange) {
        self.tell(Event::Ping(change.clone()));
    }

    fn recycle(&mut self, layer: &mut Endpoint, buffer: Vec<u8>) {
        layer.recycle(buffer);
    }

    fn last_words(&mut self, layer: &mut Endpoint, now: Instant, io: &mut Io) {
        layer.last_gasp(now);
        while let Some(output) = layer.poll_output() {
            self.carry_out(now, output, io);
        }
    }

    fn stopped(&mut self, _why: &Stopped) {
        self.sentinel = None;
        self.events = None;
        self.notify.raise();
    }
}

impl UdpNode {
    /// Starts node `node` on bound sockets, as a new incarnation, on a thread of its own.
    ///
    /// `keys` are the secrets that all nodes share: at least 32 random bytes, or a [`KeyRing`]. The addresses of the peers
    /// are in `config`.
    ///
    /// # Errors
    /// Every mistake in `config` and the key at once; or what the system refused.
    pub fn start(
        ports: Ports,
        node: NodeId,
        config: Config,
        keys: impl Into<KeyRing>,
    ) -> Result<Self, StartError> {
        Self::start_guarded(ports, node, config, keys, None)
    }

    /// As [`UdpNode::start`], with a [`sentinel`](super::sentinel) if one is given: a process that tells the peers within milliseconds when
    /// this one is killed.
    ///
    /// # Errors
    /// As [`UdpNode::start`]; or the sentinel could not be started.
    pub fn start_guarded(
        ports: Ports,
        node: NodeId,
        mut config: Config,
        keys: impl Into<KeyRing>,
        guard: Option<&SentinelConfig>,
    ) -> Result<Self, StartError> {
        let local = NodeInstance::new(node, entropy::incarnation());
        let sentinel = guard.map(|guard| Sentinel::start(guard, local)).transpose()?;
        config.obituary = sentinel.as_ref().map(Sentinel::commitment);
        let secrets =
            Secrets { keys: keys.into(), seed: entropy::bytes(), agreement: Box::new(Agreement::start()) };
        let config = cipher::for_this_machine(config);
        let endpoint = Endpoint::new(ports.clock().now(), config, local, secrets)?;
        let (remote, inbox): (_, Inbox<Consumed>) = ports.inbox();
        let (sender, events) = unbounded();
        let notify = Arc::new(Notify::new()?);
        let host = UdpHost { events: Some(sender), notify: Arc::clone(&notify), news: false, sentinel };
        let running = Reactor::new(ports, inbox, endpoint, host).spawn(&format!("ocf-comm-{node}"))?;
        Ok(Self { inner: Arc::new(Inner { local, events, notify, remote, running }) })
    }

    /// Who this node is.
    #[must_use]
    pub fn local(&self) -> NodeInstance {
        self.inner.local
    }

    /// What is known of the medium of each path.
    #[must_use]
    pub fn media(&self) -> Vec<MediumStatus> {
        self.handle().inspect(|_, _, io| io.media()).unwrap_or_default()
    }

    /// What is known of each host outside the cluster that is watched: see [`Ports::ping`].
    #[must_use]
    pub fn pings(&self) -> Vec<PingStatus> {
        self.handle().inspect(|_, _, io| io.pings()).unwrap_or_default()
    }

    /// The process id of the sentinel, if there is one.
    #[must_use]
    pub fn sentinel(&self) -> Option<u32> {
        self.handle().inspect(|_, host, _| host.sentinel.as_ref().map(Sentinel::process_id)).ok().flatten()
    }

    /// Queues a message for one peer; see [`Connectivity::send`].
    ///
    /// # Errors
    /// See [`SendError`]; nothing was queued.
    pub fn send(
        &self,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        let sent = self.handle().call(|endpoint, _, now| endpoint.send(now, to, lane, channel, message));
        sent.unwrap_or(Err(SendError::Stopped))
    }

    /// The next event, if one is waiting.
    #[must_use]
    pub fn poll_event(&self) -> Option<Event> {
        if let Ok(event) = self.inner.events.try_recv() {
            return Some(event);
        }
        self.inner.notify.lower();
        self.inner.events.try_recv().ok()
    }

    /// Waits for the next event, at most for `timeout`.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event, RecvError> {
        self.inner.events.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => RecvError::Timeout,
            RecvTimeoutError::Disconnected => self.stopped().unwrap_or(Stopped::Requested).into(),
        })
    }

    /// Says that the memory of a delivered message is free again; opens the sender's window. Never waits.
    pub fn consumed(&self, from: NodeInstance, lane: Lane, bytes: usize) {
        let tried = self.handle().try_call(|endpoint, _, now| endpoint.consumed(now, from, lane, bytes));
        if tried.is_none() && self.inner.remote.post(Consumed { from, lane, bytes }).is_err() {
            tracing::debug!("consumed after the end");
        }
    }

    /// What is known of every configured peer.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let now = self.handle().clock().now();
        self.handle().inspect(|endpoint, _, _| endpoint.peers(now)).unwrap_or_default()
    }

    /// Changes peers, paths or their policy while the node runs; see [`Change`].
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed.
    pub fn change(&self, change: &Change) -> Result<(), ChangeError> {
        let changed = self.handle().call(|endpoint, _, now| endpoint.change(now, change));
        changed.unwrap_or(Err(ChangeError::Stopped))
    }

    /// The counters of the protocol and of the sockets.
    ///
    /// # Errors
    /// After a panic.
    pub fn stats(&self) -> Result<(Stats, IoStats), Stopped> {
        self.handle().inspect(|endpoint, _, io| (*endpoint.stats(), io.stats()))
    }

    /// Learns one more key of the cluster; see [`Endpoint::learn_key`].
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed.
    pub fn learn_key(&self, key: ClusterKey) -> Result<(), KeyError> {
        self.on_keys(|endpoint, now| endpoint.learn_key(now, key))
    }

    /// Sends with this key from now on and moves the circuits to it; see [`Endpoint::use_key`].
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed.
    pub fn use_key(&self, id: KeyId) -> Result<(), KeyError> {
        self.on_keys(|endpoint, now| endpoint.use_key(now, id))
    }

    /// Does not accept this key any more; see [`Endpoint::forget_key`].
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed.
    pub fn forget_key(&self, id: KeyId) -> Result<(), KeyError> {
        self.on_keys(|endpoint, now| endpoint.forget_key(now, id))
    }

    /// Does not accept this key any more and ends the circuits that rest on it; see [`Endpoint::revoke_key`].
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed.
    pub fn revoke_key(&self, id: KeyId) -> Result<Vec<NodeInstance>, KeyError> {
        self.on_keys(|endpoint, now| endpoint.revoke_key(now, id))
    }

    /// Every key that this node knows, and whose circuits rest on it.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyStatus> {
        self.handle().inspect(|endpoint, _, _| endpoint.keys()).unwrap_or_default()
    }

    fn on_keys<R>(
        &self,
        ask: impl FnOnce(&mut Endpoint, Instant) -> Result<R, KeyError>,
    ) -> Result<R, KeyError> {
        let answer = self.handle().call(|endpoint, _, now| ask(endpoint, now));
        answer.unwrap_or(Err(KeyError::Stopped))
    }

    /// Why the node no longer runs, or `None` while it does.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        self.handle().stopped()
    }

    /// Tells every peer that this incarnation leaves for good, then stops.
    pub fn leave(&self) {
        self.inner.leave();
    }

    /// Stops without telling anybody, as if the process had been killed: peers find out by silence.
    pub fn abandon(&self) {
        self.handle().stop();
    }

    fn handle(&self) -> &Handle<Endpoint, UdpHost> {
        &self.inner.running
    }
}

impl Inner {
    fn leave(&self) {
        let left = self.running.call(|endpoint, _, now| {
            if std::thread::panicking() { endpoint.last_gasp(now) } else { endpoint.leave(now) }
        });
        // A second call carries out what the first left to the reactor's next turn.
        let flushed = left.and_then(|()| self.running.flush());
        if let Err(stopped) = flushed {
            tracing::debug!(%stopped, "left already");
        }
        self.running.stop();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.leave();
    }
}

impl AsFd for UdpNode {
    /// Readable while events wait, or once the node has stopped: then [take](Self::poll_event) them until there is none.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.notify.watch()
    }
}

impl Connectivity for UdpNode {
    fn local(&self) -> NodeInstance {
        self.local()
    }

    fn send(
        &mut self,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        Self::send(self, to, lane, channel, message)
    }

    fn poll_event(&mut self) -> Option<Event> {
        Self::poll_event(self)
    }

    fn consumed(&mut self, from: NodeInstance, lane: Lane, bytes: usize) {
        Self::consumed(self, from, lane, bytes);
    }

    fn peers(&self) -> Vec<PeerStatus> {
        Self::peers(self)
    }

    fn change(&mut self, change: Change) -> Result<(), ChangeError> {
        Self::change(self, &change)
    }
}

#[cfg(test)]
mod tests;
