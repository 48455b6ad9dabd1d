//! What a member asks of the queues of its group.

use super::wire::Command;
use super::{Attributes, CallId, Handle, Message, PRIORITIES, Policy, Queues, Refusal, Threshold};
use crate::replicated::service::{self, Layout};
use crate::replicated::{Replicated, Request, SubmitError};
use core::time::Duration;
use pils::Instant;
use std::sync::Arc;

/// What a member asks of the queues of its group. Each request ends in an [`Outcome`](crate::replicated::Outcome); [`answer`]
/// reads it.
impl Replicated<Queues> {
    /// `QueueOpen`, with `create`: `CREATE`; `empty`: what is in it is thrown away. The answer is the [`Handle`]; it closes when this
    /// member leaves the group.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn open_queue(
        &mut self,
        now: Instant,
        name: &str,
        create: Option<Attributes>,
        empty: bool,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Open { name: Arc::from(name), create, empty }.write())
    }

    /// `QueueClose`: gets that wait are interrupted.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn close_queue(&mut self, now: Instant, handle: Handle) -> Result<Request, SubmitError> {
        self.submit(now, Command::Close(handle).write())
    }

    /// `QueueUnlink`: the name is free at once; who has it open goes on until it closes it.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn unlink_queue(&mut self, now: Instant, name: &str) -> Result<Request, SubmitError> {
        self.submit(now, Command::Unlink(Arc::from(name)).write())
    }

    /// `QueueRetentionTimeSet`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn set_queue_retention(
        &mut self,
        now: Instant,
        handle: Handle,
        retention: Option<Duration>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Retention(handle, retention).write())
    }

    /// `QueueCapacityThresholdsSet`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn set_thresholds(
        &mut self,
        now: Instant,
        handle: Handle,
        thresholds: [Threshold; PRIORITIES],
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Thresholds(handle, thresholds).write())
    }

    /// `MessageSend`, to the queue group of that name, else to the queue. The answer, which is `DELIVERED_ACK`, is in how many
    /// queues it is.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn send_message(&mut self, now: Instant, to: &str, message: Message) -> Result<Request, SubmitError> {
        self.submit(now, Command::Send { to: Arc::from(to), message }.write())
    }

    /// `MessageSendReceive`: the answer is the [`CallId`] of [`Event::Replied`](super::Event::Replied) or
    /// [`Event::CallEnded`](super::Event::CallEnded). A reply of more than `reply_max` bytes is refused to who replies.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn call(
        &mut self,
        now: Instant,
        to: &str,
        message: Message,
        (reply_max, timeout): (u32, Option<Duration>),
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Call { to: Arc::from(to), message, reply_max, timeout }.write())
    }

    /// `MessageReply` to a message that asks for it; the first reply is the reply.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn reply(&mut self, now: Instant, call: CallId, message: Message) -> Result<Request, SubmitError> {
        self.submit(now, Command::Reply(call, message).write())
    }

    /// `MessageGet`: the answer is the [`GetId`](super::GetId) of [`Event::Received`](super::Event::Received) or
    /// [`Event::GetEnded`](super::Event::GetEnded). `None` waits for ever.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn get_message(
        &mut self,
        now: Instant,
        handle: Handle,
        timeout: Option<Duration>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Get(handle, timeout).write())
    }

    /// `MessageCancel`: gets of that queue that wait are interrupted; the answer is how many did.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn cancel_gets(&mut self, now: Instant, handle: Handle) -> Result<Request, SubmitError> {
        self.submit(now, Command::Cancel(handle).write())
    }

    /// `QueueGroupCreate`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn create_group(
        &mut self,
        now: Instant,
        group: &str,
        policy: Policy,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::CreateGroup(Arc::from(group), policy).write())
    }

    /// `QueueGroupDelete`: its queues stay.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn delete_group(&mut self, now: Instant, group: &str) -> Result<Request, SubmitError> {
        self.submit(now, Command::DeleteGroup(Arc::from(group)).write())
    }

    /// `QueueGroupInsert`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn insert_queue(&mut self, now: Instant, group: &str, queue: &str) -> Result<Request, SubmitError> {
        self.submit(now, Command::Insert { group: Arc::from(group), queue: Arc::from(queue) }.write())
    }

    /// `QueueGroupRemove`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn remove_queue(&mut self, now: Instant, group: &str, queue: &str) -> Result<Request, SubmitError> {
        self.submit(now, Command::Remove { group: Arc::from(group), queue: Arc::from(queue) }.write())
    }
}

/// Reads the reply to a request: the number that its call names, otherwise 0.
///
/// # Errors
/// Why it changed nothing.
pub fn answer(reply: &[u8]) -> Result<u64, Refusal> {
    service::answer::<Queues>(reply)
}
