use crate::{
    Channel, Config, ConfigError, ConfigErrors, Event, Input, Lane, Output, PeerStatus, Secrets, SendError,
    Stats,
};
use bytes::Bytes;
use pils::{Instant, Layer, NodeInstance};
use std::collections::VecDeque;

/// One node's end of all its circuits, with the failure detector: a sans-IO core.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    local: NodeInstance,
    #[expect(dead_code, reason = "used by the handshake")]
    secrets: Secrets,
    events: VecDeque<Event>,
    stats: Stats,
}

impl Endpoint {
    /// An endpoint that starts to connect to its peers with the first [`Layer::handle_timeout`].
    ///
    /// # Errors
    /// Every mistake in `config` and in the length of the cluster key.
    pub fn new(
        now: Instant,
        config: Config,
        local: NodeInstance,
        secrets: Secrets,
    ) -> Result<Self, ConfigErrors> {
        let _ = now;
        let mut errors = config.check(local.node).err().unwrap_or(ConfigErrors(Vec::new()));
        if secrets.cluster_key.len() < 32 {
            errors.0.push(ConfigError {
                path: "secrets.cluster_key.len".to_owned(),
                value: secrets.cluster_key.len().to_string(),
                fix: "make the key of at least 32 random bytes".to_owned(),
            });
        }
        if !errors.0.is_empty() {
            return Err(errors);
        }
        Ok(Self { config, local, secrets, events: VecDeque::new(), stats: Stats::default() })
    }

    /// Who this node is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// The configuration it was made with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Queues a message for one peer. It arrives whole, once and in order within its lane, unless the incarnation dies.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was queued. After `Full`, one [`Event::Writable`] tells when to try again.
    pub fn send(
        &mut self,
        now: Instant,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        let _ = (now, lane, channel, message);
        Err(SendError::UnknownPeer(to))
    }

    /// Says that the memory of a delivered message (`bytes` long) is free again; opens the sender's window.
    pub fn consumed(&mut self, now: Instant, from: NodeInstance, lane: Lane, bytes: usize) {
        let _ = (now, from, lane, bytes);
    }

    /// Tells every peer that this incarnation leaves for good. Afterwards the endpoint is closed: drain it, then drop it.
    pub fn leave(&mut self, now: Instant) {
        let _ = now;
    }

    /// Tells every peer that this incarnation is dying, for panic and signal hooks. Closed afterwards, as by `leave`.
    pub fn last_gasp(&mut self, now: Instant) {
        let _ = now;
    }

    /// What is known of every configured peer, in order of node id.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let _ = now;
        Vec::new()
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Gives back the buffer of a [`Transmit`](crate::Transmit) that was sent, so that it is used again.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        let _ = buffer;
    }

    /// The next event, if one is waiting. A stack that runs on this endpoint drains events with this first, lets the
    /// layers above answer, and calls [`Layer::poll_output`] only then, so that what they send shares packets.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Panics if a promise of this type to itself does not hold; for simulators and tests.
    ///
    /// # Panics
    /// If there is a bug.
    pub fn check_invariants(&self) {}
}

impl Layer for Endpoint {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, _now: Instant, _input: Input<'_>) {}

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_output(&mut self) -> Option<Output> {
        self.events.pop_front().map(Output::Event)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
