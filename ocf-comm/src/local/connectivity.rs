//! [`Connectivity`] for programs in other processes: the pattern for every trait that a layer offers.
use super::client::{Client, ClientError, ClientEvent};
use super::config::Address;
use super::service::{ClientInfo, EventSink, Service, no_method};
use crate::rpc::{Body, Fault, Responder};
use crate::{Channel, Connectivity, DownReason, Event, Lane, PeerStatus, SendError};
use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use parking_lot::Mutex;
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use pils::{Incarnation, NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The name under which the service is served.
pub const CONNECTIVITY: &str = "connectivity";
/// How long a client waits for the server to answer; the server does not wait for anybody itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is in front of a message: receiver, lane, channel.
const MESSAGE_HEADER: usize = 22;

/// Serves a [`Connectivity`] to local programs, each of which claims channels for itself.
///
/// The provider is for the clients alone, because a lane is one window for all its channels: a client that does not consume
/// holds up what others get in that lane, until the server throws it out ([`LocalLimits::stuck_max`](super::LocalLimits)) and
/// consumes in its place. Whoever drives the provider gives every event to [`ConnectivityService::offer`].
pub struct ConnectivityService {
    state: Mutex<State>,
}

struct State {
    net: Box<dyn Connectivity + Send>,
    up: BTreeSet<NodeInstance>,
    clients: BTreeMap<u64, Member>,
    channels: BTreeMap<Channel, u64>,
    unclaimed: u64,
}

struct Member {
    sink: EventSink,
    open: bool,
    /// Where a send was refused and room is to be told.
    refused: BTreeSet<(NodeInstance, Lane)>,
    unconsumed: BTreeMap<(NodeInstance, Lane), usize>,
}

impl fmt::Debug for ConnectivityService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectivityService").finish_non_exhaustive()
    }
}

impl ConnectivityService {
    /// Serves `net`, of whose events none was taken yet.
    #[must_use]
    pub fn new(net: Box<dyn Connectivity + Send>) -> Self {
        let state = State {
            net,
            up: BTreeSet::new(),
            clients: BTreeMap::new(),
            channels: BTreeMap::new(),
            unclaimed: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Passes an event of the provider on to whom it concerns. Messages on channels that nobody claimed are dropped.
    ///
    /// Refusals and misbehaviour of peers are for operators and stay on the node.
    pub fn offer(&self, event: &Event) {
        let mut state = self.state.lock();
        match event {
            Event::Up { peer } => {
                state.up.insert(*peer);
                state.tell_all(event);
            }
            Event::Down { peer, .. } => {
                state.up.remove(peer);
                state.tell_all(event);
            }
            Event::Message { from, lane, channel, message } => {
                let State { net, clients, channels, unclaimed, .. } = &mut *state;
                let owner = channels.get(channel).and_then(|client| clients.get_mut(client));
                let Some(owner) = owner else {
                    *unclaimed += 1;
                    return net.consumed(*from, *lane, message.len());
                };
                *owner.unconsumed.entry((*from, *lane)).or_default() += message.len();
                owner.tell(event);
            }
            Event::Writable { peer, lane } => {
                for member in state.clients.values_mut() {
                    if member.refused.remove(&(*peer, *lane)) {
                        member.tell(event);
                    }
                }
            }
            Event::Stalled { .. } => state.tell_all(event),
            _ => {}
        }
    }

    /// Messages that came on channels that nobody claimed.
    #[must_use]
    pub fn unclaimed(&self) -> u64 {
        self.state.lock().unclaimed
    }
}

impl State {
    fn tell_all(&self, event: &Event) {
        for member in self.clients.values().filter(|member| member.open) {
            member.tell(event);
        }
    }

    fn open(&mut self, client: u64, channels: &[u8]) -> Result<Body, Fault> {
        let member = self.clients.get_mut(&client).filter(|member| !member.open);
        let member = member.ok_or_else(|| Fault::new(Fault::INVALID_REQUEST, "open twice"))?;
        let channels: BTreeSet<Channel> = channels.iter().copied().map(Channel).collect();
        if let Some(own) = channels.iter().find(|channel| **channel < Channel::APPLICATION) {
            return Err(Fault::new(Fault::DENIED, format!("channel {} belongs to the node's layers", own.0)));
        }
        if let Some(taken) = channels.iter().find(|channel| self.channels.contains_key(channel)) {
            return Err(Fault::new(Fault::BUSY, format!("another program has channel {}", taken.0)));
        }
        member.open = true;
        self.channels.extend(channels.into_iter().map(|channel| (channel, client)));
        for peer in &self.up {
            member.tell(&Event::Up { peer: *peer });
        }
        let mut local = Vec::new();
        local.put_instance(self.net.local());
        Ok(Body::Bytes(local.into()))
    }

    fn send(&mut self, client: u64, body: &Bytes) -> Result<Body, Fault> {
        let malformed = |why: ParseError| Fault::new(Fault::INVALID_PARAMS, why.to_string());
        let mut r = Reader::new(body);
        let to = r.instance("receiver").map_err(malformed)?;
        let lane = read_lane(&mut r).map_err(malformed)?;
        let channel = Channel(r.u8("channel").map_err(malformed)?);
        if self.channels.get(&channel) != Some(&client) {
            return Err(Fault::new(Fault::DENIED, format!("channel {} was not claimed", channel.0)));
        }
        let mut answer = Vec::new();
        if let Err(error) = self.net.send(to, lane, channel, body.slice(r.position()..)) {
            if let (SendError::Full { .. }, Some(member)) = (error, self.clients.get_mut(&client)) {
                member.refused.insert((to, lane));
            }
            emit_send_error(error, &mut answer);
        }
        Ok(Body::Bytes(answer.into()))
    }

    fn consumed(&mut self, client: u64, body: &Bytes) -> Result<Body, ParseError> {
        let mut r = Reader::new(body);
        let way = (r.instance("sender")?, read_lane(&mut r)?);
        let bytes = usize::try_from(r.varint("bytes")?).unwrap_or(usize::MAX);
        let member = self.clients.get_mut(&client);
        if let Some(left) = member.and_then(|member| member.unconsumed.get_mut(&way)) {
            // No client consumes what was not delivered to it.
            let bytes = bytes.min(*left);
            *left -= bytes;
            self.net.consumed(way.0, way.1, bytes);
        }
        Ok(Body::default())
    }
}

impl Member {
    fn tell(&self, event: &Event) {
        // The windows of the lanes bound how much waits. One that is gone is about to be told so by `gone`.
        if let Some(bytes) = emit_event(event)
            && self.sink.send_bounded(Body::Bytes(bytes)).is_err()
        {
            tracing::trace!("an event for a client that is gone");
        }
    }
}

impl Service for ConnectivityService {
    fn joined(&self, client: &ClientInfo, events: EventSink) {
        let member =
            Member { sink: events, open: false, refused: BTreeSet::new(), unconsumed: BTreeMap::new() };
        self.state.lock().clients.insert(client.id, member);
    }

    fn call(&self, client: &ClientInfo, method: &str, body: Body, answer: Responder<Body>) {
        let bytes = match body {
            Body::Bytes(bytes) => bytes,
            Body::Value(_) => Bytes::new(),
        };
        let mut state = self.state.lock();
        let malformed = |why: ParseError| Fault::new(Fault::INVALID_PARAMS, why.to_string());
        let result = match method {
            "open" => state.open(client.id, &bytes),
            "send" => state.send(client.id, &bytes),
            "consumed" => state.consumed(client.id, &bytes).map_err(malformed),
            "peers" => Ok(Body::Bytes(emit_peers(&state.net.peers()))),
            _ => Err(no_method(method)),
        };
        drop(state);
        answer.answer(result);
    }

    fn gone(&self, client: u64) {
        let mut state = self.state.lock();
        let State { net, clients, channels, .. } = &mut *state;
        channels.retain(|_, owner| *owner != client);
        let Some(member) = clients.remove(&client) else { return };
        for ((from, lane), bytes) in member.unconsumed {
            net.consumed(from, lane, bytes);
        }
    }
}

/// The [`Connectivity`] of a node in another process.
///
/// Sending waits for the server's answer, some tens of microseconds. When the server is gone, every peer goes down and sends
/// are refused as stopped: connect anew.
pub struct LocalConnectivity {
    local: NodeInstance,
    message_max: usize,
    inner: Mutex<Inner>,
    fd: OwnedFd,
}

struct Inner {
    client: Client,
    up: BTreeSet<NodeInstance>,
    down: VecDeque<NodeInstance>,
}

impl fmt::Debug for LocalConnectivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalConnectivity").field("local", &self.local).finish_non_exhaustive()
    }
}

impl LocalConnectivity {
    /// Connects under a name and claims channels: messages on these come to this client and to no other.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] if a channel is taken.
    pub fn connect(
        address: &Address,
        name: &str,
        channels: impl IntoIterator<Item = Channel>,
    ) -> Result<Self, ClientError> {
        let mut client = Client::connect(address, name)?;
        let channels: Vec<u8> = channels.into_iter().map(|channel| channel.0).collect();
        let opened = client.call_wait(CONNECTIVITY, "open", Body::Bytes(channels.into()), PATIENCE);
        let opened = opened.and_then(|body| Ok(body.into_bytes()?));
        let opened = opened.map_err(|failure| match failure {
            super::CallFailure::Fault(fault) => ClientError::Refused(fault.text),
            super::CallFailure::Client(error) => error,
        })?;
        let local = Reader::new(&opened).instance("local");
        let local = local.map_err(|error| ClientError::Broken(error.to_string()))?;
        let message_max = client.body_max().saturating_sub(MESSAGE_HEADER);
        let fd = client.as_fd().try_clone_to_owned()?;
        let inner = Inner { client, up: BTreeSet::new(), down: VecDeque::new() };
        Ok(Self { local, message_max, inner: Mutex::new(inner), fd })
    }

    /// Largest message in bytes that passes; the node may take less.
    #[must_use]
    pub const fn message_max(&self) -> usize {
        self.message_max
    }
}

impl AsFd for LocalConnectivity {
    /// Readable when [`Connectivity::poll_event`] may have something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Inner {
    fn next(&mut self) -> Option<Event> {
        loop {
            let Some(event) = self.client.poll_event() else { break };
            if let ClientEvent::Service { body: Body::Bytes(bytes), .. } = event {
                match parse_event(&bytes) {
                    Ok(event) => return Some(self.remember(event)),
                    Err(error) => tracing::debug!(%error, "an event of a newer server"),
                }
            }
        }
        let peer = self.down.pop_front()?;
        Some(Event::Down { peer, reason: DownReason::Silent { for_: Duration::ZERO } })
    }

    fn remember(&mut self, event: Event) -> Event {
        if let Event::Up { peer } = &event {
            self.up.insert(*peer);
        }
        if let Event::Down { peer, .. } = &event {
            self.up.remove(peer);
        }
        event
    }
}

impl Connectivity for LocalConnectivity {
    fn local(&self) -> NodeInstance {
        self.local
    }

    fn send(
        &mut self,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        let (size, limit) = (message.len(), self.message_max);
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        let mut body = Vec::with_capacity(MESSAGE_HEADER + size);
        body.put_instance(to);
        body.extend_from_slice(&[lane_number(lane), channel.0]);
        body.extend_from_slice(&message);
        let client = &mut self.inner.get_mut().client;
        let answer = client.call_wait(CONNECTIVITY, "send", Body::Bytes(body.into()), PATIENCE);
        match answer {
            Ok(Body::Bytes(answer)) if answer.is_empty() => Ok(()),
            Ok(Body::Bytes(answer)) => Err(parse_send_error(&answer, to).unwrap_or(SendError::Stopped)),
            Ok(Body::Value(_)) => Err(SendError::Stopped),
            Err(failure) => {
                tracing::debug!(%failure, "the node does not take a message");
                Err(SendError::Stopped)
            }
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        let inner = self.inner.get_mut();
        if let Some(event) = inner.next() {
            return Some(event);
        }
        if inner.client.process().is_err() {
            inner.down = core::mem::take(&mut inner.up).into_iter().collect();
        }
        inner.next()
    }

    fn consumed(&mut self, from: NodeInstance, lane: Lane, bytes: usize) {
        let mut body = Vec::new();
        body.put_instance(from);
        body.push(lane_number(lane));
        body.put_length(bytes);
        let client = &mut self.inner.get_mut().client;
        if let Err(error) = client.tell(CONNECTIVITY, "consumed", Body::Bytes(body.into())) {
            tracing::debug!(%error, "the node is not told what was consumed");
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let mut inner = self.inner.lock();
        let answer = inner.client.call_wait(CONNECTIVITY, "peers", Body::default(), PATIENCE);
        let bytes = answer.ok().and_then(|body| body.into_bytes().ok());
        bytes.and_then(|bytes| parse_peers(&bytes).ok()).unwrap_or_default()
    }
}

const fn lane_number(lane: Lane) -> u8 {
    match lane {
        Lane::Urgent => 0,
        Lane::Small => 1,
        Lane::Bulk => 2,
    }
}

fn read_lane(r: &mut Reader<'_>) -> Result<Lane, ParseError> {
    let number = r.u8("lane")?;
    Lane::ALL.get(usize::from(number)).copied().ok_or_else(|| r.error("lane", Malformed::OutOfRange))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(pils::wire::VARINT_MAX)
}

/// An event on its way to a client; `None` if it stays on the node.
fn emit_event(event: &Event) -> Option<Bytes> {
    let mut out = Vec::new();
    match event {
        Event::Up { peer } => {
            out.push(0);
            out.put_instance(*peer);
        }
        Event::Down { peer, reason } => {
            out.push(1);
            out.put_instance(*peer);
            let (kind, silent) = match reason {
                DownReason::Silent { for_ } => (0, nanos(*for_)),
                DownReason::Left => (1, 0),
                reason if reason.is_proof_of_death() => (2, 0),
                DownReason::Misbehaved => (4, 0),
                // Whatever else is final: this life does not come back.
                reason if reason.is_final() => (3, 0),
                _ => (0, 0),
            };
            out.push(kind);
            out.put_varint(silent);
        }
        Event::Message { from, lane, channel, message } => {
            out.push(2);
            out.put_instance(*from);
            out.extend_from_slice(&[lane_number(*lane), channel.0]);
            out.extend_from_slice(message);
        }
        Event::Writable { peer, lane } => {
            out.push(3);
            out.put_instance(*peer);
            out.push(lane_number(*lane));
        }
        Event::Stalled { late } => {
            out.push(4);
            out.put_varint(nanos(*late));
        }
        _ => return None,
    }
    Some(out.into())
}

/// Reads an event that a server sent. The bytes may be hostile.
///
/// # Errors
/// If they are none.
pub fn parse_event(bytes: &Bytes) -> Result<Event, ParseError> {
    let mut r = Reader::new(bytes);
    match r.u8("kind")? {
        0 => Ok(Event::Up { peer: r.instance("peer")? }),
        1 => {
            let peer = r.instance("peer")?;
            let kind = r.u8("reason")?;
            let for_ = Duration::from_nanos(r.varint("silent for")?);
            let reason = match kind {
                0 => DownReason::Silent { for_ },
                1 => DownReason::Left,
                2 => DownReason::LastGasp,
                3 => DownReason::Superseded,
                4 => DownReason::Misbehaved,
                _ => return Err(r.error("reason", Malformed::OutOfRange)),
            };
            Ok(Event::Down { peer, reason })
        }
        2 => {
            let from = r.instance("sender")?;
            let lane = read_lane(&mut r)?;
            let channel = Channel(r.u8("channel")?);
            Ok(Event::Message { from, lane, channel, message: bytes.slice(r.position()..) })
        }
        3 => Ok(Event::Writable { peer: r.instance("peer")?, lane: read_lane(&mut r)? }),
        4 => Ok(Event::Stalled { late: Duration::from_nanos(r.varint("late")?) }),
        _ => Err(r.error("kind", Malformed::OutOfRange)),
    }
}

fn emit_send_error(error: SendError, out: &mut Vec<u8>) {
    let (kind, a, b) = match error {
        SendError::UnknownPeer(_) => (1, 0, 0),
        SendError::Down(_) => (2, 0, 0),
        SendError::Full { queued, limit, .. } => (3, queued, limit),
        SendError::TooLarge { size, limit } => (4, size, limit),
        SendError::Stopped => (5, 0, 0),
    };
    out.push(kind);
    out.put_length(a);
    out.put_length(b);
}

fn parse_send_error(bytes: &Bytes, to: NodeInstance) -> Result<SendError, ParseError> {
    let mut r = Reader::new(bytes);
    let kind = r.u8("error")?;
    let mut number = || Ok(usize::try_from(r.varint("number")?).unwrap_or(usize::MAX));
    let (a, b) = (number()?, number()?);
    Ok(match kind {
        1 => SendError::UnknownPeer(to),
        2 => SendError::Down(to),
        3 => SendError::Full { to, queued: a, limit: b },
        4 => SendError::TooLarge { size: a, limit: b },
        _ => SendError::Stopped,
    })
}

fn emit_peers(peers: &[PeerStatus]) -> Bytes {
    let mut out = Vec::new();
    for peer in peers {
        out.put_node(peer.node);
        let flags = u8::from(peer.up)
            | u8::from(peer.instance.is_some()) << 1
            | u8::from(peer.rtt.is_some()) << 2
            | u8::from(peer.silent_for.is_some()) << 3;
        out.push(flags);
        let incarnation = peer.instance.map_or(0, |instance| instance.incarnation.raw());
        out.extend_from_slice(&incarnation.to_be_bytes());
        out.put_varint(peer.rtt.map_or(0, nanos));
        out.put_varint(peer.silent_for.map_or(0, nanos));
        out.put_length(peer.queued);
        out.push(peer.health);
        out.put_varint(peer.phi_hundredths.into());
    }
    out.into()
}

/// Reads what a server knows of its peers. The bytes may be hostile.
///
/// # Errors
/// If they are not that.
pub fn parse_peers(bytes: &Bytes) -> Result<Vec<PeerStatus>, ParseError> {
    let mut r = Reader::new(bytes);
    let mut peers = Vec::new();
    while !r.is_empty() {
        let node: NodeId = r.node("node")?;
        let flags = r.u8("flags")?;
        let incarnation = Incarnation::new(u128::from_be_bytes(r.array("incarnation")?));
        let (rtt, silent_for) = (r.varint("rtt")?, r.varint("silent for")?);
        let queued = usize::try_from(r.varint("queued")?).unwrap_or(usize::MAX);
        let health = r.u8("health")?.min(100);
        let phi = u32::try_from(r.varint("phi")?).unwrap_or(u32::MAX);
        peers.push(PeerStatus {
            health,
            phi_hundredths: phi,
            // The server keeps them to itself.
            paths: Vec::new(),
            node,
            instance: (flags & 2 != 0).then(|| NodeInstance::new(node, incarnation)),
            up: flags & 1 != 0,
            rtt: (flags & 4 != 0).then(|| Duration::from_nanos(rtt)),
            silent_for: (flags & 8 != 0).then(|| Duration::from_nanos(silent_for)),
            queued,
        });
    }
    Ok(peers)
}
