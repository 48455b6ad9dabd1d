use super::{Calls, Due, Output, Ticket, index};
use crate::rpc::wire::Message;
use crate::rpc::{Body, Fault, Need};
use crate::{Channel, Connectivity, Lane, SendError};
use bytes::Bytes;
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::collections::VecDeque;

/// A request of another node that runs here.
#[derive(Debug)]
pub(super) struct Running {
    caller: NodeInstance,
    lane: Lane,
    id: u64,
    until: Instant,
}

/// Answers that wait for room or for the caller to be heard again.
#[derive(Debug, Default)]
pub(super) struct Answers {
    queues: [VecDeque<Bytes>; 3],
}

impl Answers {
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }
}

impl Calls {
    pub(super) fn on_request<C: Connectivity + ?Sized>(
        &mut self,
        now: Instant,
        net: &mut C,
        (from, lane, id): (NodeInstance, Lane, u64),
        (need, deadline, method, body): (Need, Duration, String, Body),
    ) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let seen = &mut peer.seen[index(lane)];
        // Numbers ascend within a lane, and a lane keeps its order: what is not above has been here.
        let again = id <= *seen;
        #[cfg(any(test, feature = "testing"))]
        let again = again && self.bug != Some(super::CallBug::RunsDuplicates);
        if again {
            self.stats.duplicates += 1;
            return;
        }
        *seen = id;
        let deadline = now + deadline.min(self.limits.deadline_max);
        if need != Need::Nothing && peer.running.len() + peer.answers.len() >= self.limits.running_max {
            self.stats.busy += 1;
            let text = format!("{} requests of this node run already", self.limits.running_max);
            let busy = Message::Answer { id, result: Some(Err(Fault::new(Fault::BUSY, text))) };
            let busy = busy.emit().expect("a fault can be written");
            if net.send(from, lane, Channel::CALLS, busy).is_err() {
                self.stats.answers_dropped += 1;
            }
            return;
        }
        self.stats.requests_run += 1;
        let ticket = (need != Need::Nothing).then(|| {
            self.last_ticket += 1;
            let ticket = Ticket(self.last_ticket);
            peer.running.insert((lane, id), ticket);
            self.timers.insert((deadline, Due::Ticket(ticket)));
            self.running.insert(ticket, Running { caller: from, lane, id, until: deadline });
            ticket
        });
        self.outputs.push_back(Output::Request { ticket, caller: from, method, body, deadline });
    }

    /// Answers a request. False if nobody waits any more: the answer is dropped and counted.
    pub fn answer<C: Connectivity + ?Sized>(
        &mut self,
        net: &mut C,
        ticket: Ticket,
        answer: Result<Body, Fault>,
    ) -> bool {
        self.respond(net, ticket, Some(answer))
    }

    /// Says that there is no answer: to a caller for whom it was optional, this is no failure. False if nobody waits.
    pub fn decline<C: Connectivity + ?Sized>(&mut self, net: &mut C, ticket: Ticket) -> bool {
        self.respond(net, ticket, None)
    }

    fn respond<C: Connectivity + ?Sized>(
        &mut self,
        net: &mut C,
        ticket: Ticket,
        result: Option<Result<Body, Fault>>,
    ) -> bool {
        let Some(running) = self.take(ticket) else {
            self.stats.answers_dropped += 1;
            return false;
        };
        let Running { caller, lane, id, .. } = running;
        let message = self.written(id, result);
        let Some(peer) = self.peers.get_mut(&caller) else { return false };
        peer.answers.queues[index(lane)].push_back(message);
        self.flush(net, caller, lane);
        true
    }

    /// The answer on the wire; a fault in its place if it cannot be written or is too large.
    fn written(&self, id: u64, result: Option<Result<Body, Fault>>) -> Bytes {
        let limit = self.limits.message_max;
        let why = match (Message::Answer { id, result }).emit() {
            Ok(bytes) if bytes.len() <= limit => return bytes,
            Ok(bytes) => format!("the answer takes {} bytes, more than the {limit} allowed", bytes.len()),
            Err(error) => format!("the answer cannot be written: {error}"),
        };
        let fault = Message::Answer { id, result: Some(Err(Fault::new(Fault::INTERNAL, why))) };
        fault.emit().expect("a fault can be written")
    }

    /// Sends answers that wait in a lane, while there is room.
    pub(super) fn flush<C: Connectivity + ?Sized>(&mut self, net: &mut C, node: NodeInstance, lane: Lane) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let queue = &mut peer.answers.queues[index(lane)];
        while let Some(answer) = queue.front() {
            match net.send(node, lane, Channel::CALLS, answer.clone()) {
                Ok(()) => {}
                // Sent when `Writable` or `Up` comes. A caller that never comes back ends by a final `Down`.
                Err(SendError::Full { .. } | SendError::Down(_)) => return,
                Err(_) => self.stats.answers_dropped += 1,
            }
            queue.pop_front();
        }
    }

    /// Nobody waits for this answer any more.
    pub(super) fn abandon(&mut self, ticket: Ticket) {
        if self.take(ticket).is_some() {
            self.outputs.push_back(Output::Abandoned(ticket));
        }
    }

    fn take(&mut self, ticket: Ticket) -> Option<Running> {
        let running = self.running.remove(&ticket)?;
        self.timers.remove(&(running.until, Due::Ticket(ticket)));
        if let Some(peer) = self.peers.get_mut(&running.caller) {
            peer.running.remove(&(running.lane, running.id));
        }
        Some(running)
    }

    /// An incarnation is gone for good.
    pub(super) fn forget(&mut self, node: NodeInstance) {
        let Some(peer) = self.peers.remove(&node) else { return };
        self.stats.answers_dropped += u64::try_from(peer.answers.len()).unwrap_or(u64::MAX);
        for ticket in peer.running.into_values() {
            self.abandon(ticket);
        }
    }
}
