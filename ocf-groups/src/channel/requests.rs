//! What a member asks of the channels of its group.

use super::wire::Command;
use super::{Access, Channels, Content, EventId, Filter, Handle, Refusal};
use crate::replicated::service::{self, Layout};
use crate::replicated::{Replicated, Request, SubmitError};
use pils::Instant;
use std::sync::Arc;

/// What a member asks of the channels of its group. Each request ends in an [`Outcome`](crate::replicated::Outcome); [`answer`]
/// reads it.
impl Replicated<Channels> {
    /// `ChannelOpen`, with `create`: `CREATE`. The answer is the [`Handle`]; it closes when this member leaves the group.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn open_channel(
        &mut self,
        now: Instant,
        name: &str,
        access: Access,
        create: bool,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Open { name: Arc::from(name), access, create }.write())
    }

    /// `ChannelClose`, with all subscriptions.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn close_channel(&mut self, now: Instant, handle: Handle) -> Result<Request, SubmitError> {
        self.submit(now, Command::Close(handle).write())
    }

    /// `ChannelUnlink`: the name is free at once; who has it open goes on until the last of them closes it.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn unlink_channel(&mut self, now: Instant, name: &str) -> Result<Request, SubmitError> {
        self.submit(now, Command::Unlink(Arc::from(name)).write())
    }

    /// `EventPublish`: the answer is the [`EventId`]. Events of this member are told in the order of these calls.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn publish(
        &mut self,
        now: Instant,
        handle: Handle,
        content: Content,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Publish(handle, content).write())
    }

    /// `EventSubscribe`: what matches all `filters`, place by place, from now on and what is retained. `subscription` is a number
    /// of the caller's choice. What is retained is told before the request is answered.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn subscribe(
        &mut self,
        now: Instant,
        handle: Handle,
        subscription: u32,
        filters: Vec<Filter>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Subscribe { handle, subscription, filters }.write())
    }

    /// `EventUnsubscribe`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn unsubscribe(
        &mut self,
        now: Instant,
        handle: Handle,
        subscription: u32,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Unsubscribe(handle, subscription).write())
    }

    /// `EventRetentionTimeClear`: who subscribes from now on is not told.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn clear_retention(
        &mut self,
        now: Instant,
        handle: Handle,
        event: EventId,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Clear(handle, event).write())
    }
}

/// Reads the reply to a request: the handle of an open, the id of an event, otherwise 0.
///
/// # Errors
/// Why it changed nothing.
pub fn answer(reply: &[u8]) -> Result<u64, Refusal> {
    service::answer::<Channels>(reply)
}
