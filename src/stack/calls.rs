//! Calls between nodes: their messages share the circuits of the endpoint with those of the other layers.

use super::{Output, Stack};
use bytes::Bytes;
use ocf_comm::rpc::{Body, CallError, CallId, CallOptions, CallStats, Fault, Target, Ticket};
use ocf_comm::{Channel, Connectivity, Endpoint, Event, Lane, PeerStatus, SendError};
use pils::{Instant, NodeInstance};

/// The endpoint at one moment, as the core of calls sees it.
struct Net<'a> {
    endpoint: &'a mut Endpoint,
    now: Instant,
}

impl Connectivity for Net<'_> {
    fn local(&self) -> NodeInstance {
        self.endpoint.local()
    }

    fn send(
        &mut self,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        self.endpoint.send(self.now, to, lane, channel, message)
    }

    fn poll_event(&mut self) -> Option<Event> {
        None
    }

    fn consumed(&mut self, from: NodeInstance, lane: Lane, bytes: usize) {
        self.endpoint.consumed(self.now, from, lane, bytes);
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.endpoint.peers(self.now)
    }
}

impl Stack {
    /// Calls a method at one or several other nodes, outside the ordered stream. Needs no quorum. Exactly one completion follows
    /// among the outputs. See [`ocf_comm::rpc::Calls::call`].
    ///
    /// # Errors
    /// See [`CallError`]; nothing was sent and there will be no completion.
    pub fn call(
        &mut self,
        now: Instant,
        target: (Target, &str, Body),
        options: &CallOptions,
    ) -> Result<CallId, CallError> {
        self.now = now;
        let Self { calls, endpoint, .. } = self;
        calls.call(now, &mut Net { endpoint, now }, target, options)
    }

    /// Ends a call: its completion follows at once. False if it is complete already.
    pub fn cancel_call(&mut self, now: Instant, call: CallId) -> bool {
        self.now = now;
        let Self { calls, endpoint, .. } = self;
        calls.cancel(&mut Net { endpoint, now }, call)
    }

    /// Answers a request of another node. False if nobody waits for it any more.
    pub fn answer(&mut self, now: Instant, ticket: Ticket, answer: Result<Body, Fault>) -> bool {
        self.now = now;
        let Self { calls, endpoint, .. } = self;
        calls.answer(&mut Net { endpoint, now }, ticket, answer)
    }

    /// What was counted of calls.
    #[must_use]
    pub const fn call_stats(&self) -> &CallStats {
        self.calls.stats()
    }

    /// The core of calls sees every event of the endpoint. `None` if it was its own.
    pub(super) fn on_calls(&mut self, now: Instant, event: Event) -> Option<Event> {
        let Self { calls, endpoint, .. } = self;
        calls.handle(now, event, &mut Net { endpoint, now })
    }

    pub(super) fn calls_timeout(&mut self, now: Instant) {
        let Self { calls, endpoint, .. } = self;
        calls.handle_timeout(now, &mut Net { endpoint, now });
    }

    pub(super) fn drain_calls(&mut self) {
        while let Some(output) = self.calls.poll_output() {
            self.outputs.push_back(Output::Call(output));
        }
    }
}
