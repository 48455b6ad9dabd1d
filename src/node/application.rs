use super::RequestError;
use super::gate::{Gate, Offers, Refused};
use crate::event::Numbered;
use crate::stack::Stack;
use bytes::Bytes;
use core::fmt;
use ocf_comm::Lane;
use ocf_comm::driver::Stopped;
use ocf_groups::{Groups, Guarantee, JoinError, LeaveError, MemberId, OfferError, Position};
use pils::{Instant, NodeInstance};

/// A program that lives inside a node: it is called with each event, and no thread is woken for it. See
/// [`NodeBuilder::application`](crate::NodeBuilder::application).
///
/// It is called on the node's own thread, or, with what follows from a call of a [`Node`](crate::Node), on the thread of that
/// caller; never on two at once. The node does nothing else meanwhile: do not block, and come back within a millisecond, or peers
/// get the impression that this node is slow. Do not use a [`Node`](crate::Node), a lock or a call of the same node in here, which
/// would wait for itself for ever; `here` is for that. A panic stops the node.
pub trait Application: Send + 'static {
    /// Something happened. All packets of the turn that brought it have left.
    fn on_event(&mut self, here: &mut Here<'_>, event: Numbered);

    /// The node has stopped: no call follows this one. By default does nothing.
    fn on_stopped(&mut self, why: &Stopped) {
        let _: &Stopped = why;
    }
}

/// The node, as the application that lives in it sees it.
pub struct Here<'a> {
    stack: &'a mut Stack,
    gate: &'a Gate,
    offers: &'a mut Offers,
    now: Instant,
}

impl fmt::Debug for Here<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Here").field("local", &self.local()).field("now", &self.now).finish_non_exhaustive()
    }
}

impl<'a> Here<'a> {
    pub(super) const fn new(
        stack: &'a mut Stack,
        (gate, offers): (&'a Gate, &'a mut Offers),
        now: Instant,
    ) -> Self {
        Self { stack, gate, offers, now }
    }

    /// Asks the stack, behind what was sent before.
    fn request<R>(&mut self, ask: impl FnOnce(&mut Stack, Instant) -> R) -> R {
        self.gate.hand_in(self.stack, self.now, self.offers);
        let answer = ask(self.stack, self.now);
        let _handed_in: bool = self.gate.publish(self.stack, self.now);
        answer
    }

    /// Who this is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.stack.local()
    }

    /// When this turn began, on the node's clock.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// As [`Node::join`](crate::Node::join).
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn join(&mut self, group: &str, local: u32) -> Result<MemberId, JoinError> {
        self.request(|stack, now| stack.join(now, group, local))
    }

    /// As [`Node::leave_group`](crate::Node::leave_group).
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub fn leave_group(&mut self, group: &str, local: u32) -> Result<(), LeaveError> {
        self.request(|stack, now| stack.leave_group(now, group, local))
    }

    /// As [`Node::send`](crate::Node::send). What is sent in one turn shares packets.
    ///
    /// # Errors
    /// As [`Node::send`](crate::Node::send).
    pub fn send(
        &mut self,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<(), RequestError<ocf_groups::SendError>> {
        // Through the gate, because other threads may be sending, and all share one window.
        match self.gate.offer((group, local), guarantee, payload) {
            Ok(_) => Ok(()),
            Err(Refused::Stopped(stopped)) => Err(RequestError::Stopped(stopped)),
            Err(Refused::Send(error)) => Err(RequestError::Refused(error)),
        }
    }

    /// Groups that go on in any partition, to join, leave, send or offer a state there, at [`Here::now`]: see
    /// [`PartitionGroups`](crate::PartitionGroups). `None` if the node has no such groups.
    pub fn partition_groups(&mut self) -> Option<&mut Groups> {
        self.stack.partition_groups(self.now)
    }

    /// As [`Node::send_to`](crate::Node::send_to).
    ///
    /// # Errors
    /// See [`ocf_comm::SendError`].
    pub fn send_to(
        &mut self,
        to: NodeInstance,
        lane: Lane,
        message: Bytes,
    ) -> Result<(), ocf_comm::SendError> {
        self.request(|stack, now| stack.send_to(now, to, lane, message))
    }

    /// As [`Node::offer_state`](crate::Node::offer_state).
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn offer_state(
        &mut self,
        group: &str,
        joiner: MemberId,
        position: Position,
        state: Bytes,
    ) -> Result<(), OfferError> {
        self.request(|stack, now| stack.offer_state(now, (group, joiner, position), state))
    }
}
