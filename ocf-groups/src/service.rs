use crate::{Event, Groups, Guarantee, JoinError, LeaveError, MemberId, OfferError, Position, SendError};
use bytes::Bytes;
use ocf_membership::Membership;
use pils::Instant;

/// What members of groups ask for, whoever orders the messages.
///
/// Object-safe. [`Groups`] is one, and every [`GroupProvider`]; [`Replicated`](crate::Replicated) and what is built on it run over
/// any. What is promised for joins, messages and states is told at the methods of [`Groups`]; what a provider cannot promise is told by
/// [`Self::group_promises`], and refused where it is asked for.
pub trait GroupService {
    /// What can be relied upon. It never changes.
    fn group_promises(&self) -> GroupPromises;

    /// See [`Groups::join`].
    ///
    /// # Errors
    /// See [`JoinError`]; nothing changed.
    fn join(&mut self, now: Instant, group: &str, local: u32) -> Result<MemberId, JoinError>;

    /// See [`Groups::leave`].
    ///
    /// # Errors
    /// See [`LeaveError`]; nothing changed.
    fn leave(&mut self, now: Instant, group: &str, local: u32) -> Result<(), LeaveError>;

    /// See [`Groups::send`].
    ///
    /// # Errors
    /// See [`SendError`]; nothing changed. [`SendError::NotOffered`] for a guarantee beyond [`GroupPromises::strongest`].
    #[expect(
        clippy::too_many_arguments,
        reason = "the contract of the request: time, from whom, to whom, what"
    )]
    fn send(
        &mut self,
        now: Instant,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<(), SendError>;

    /// See [`Groups::offer_state`].
    ///
    /// # Errors
    /// See [`OfferError`]; nothing changed.
    #[expect(
        clippy::too_many_arguments,
        reason = "the contract of the request: time, for whom, as of when, what"
    )]
    fn offer_state(
        &mut self,
        now: Instant,
        group: &str,
        joiner: MemberId,
        position: Position,
        state: Bytes,
    ) -> Result<(), OfferError>;

    /// See [`Groups::is_local`].
    fn is_local(&self, group: &str, local: u32) -> bool;

    /// See [`Groups::members`].
    fn members(&self, group: &str) -> Vec<MemberId>;
}

/// A [`GroupService`] that runs by itself, on views of its own: [`AgreedGroups`](crate::AgreedGroups), or
/// [`corosync`](crate::corosync). Those who write another run the suite [`check_groups`](crate::testing::check_groups).
pub trait GroupProvider: Membership + GroupService {
    /// The next event of the groups, if one waits. [`Event::View`] stands in this stream where the view begins.
    fn poll_group_event(&mut self) -> Option<Event>;
}

/// What a provider of [`GroupService`] promises beyond what every one keeps: view synchrony, one order, FIFO, state as of the join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPromises {
    /// The strongest guarantee that a message may ask for; [`Guarantee::Fifo`] and what lies between are offered, too.
    pub strongest: Guarantee,
    /// Nobody is ever delivered another message at a position than others are, not even who is cut off: what it was delivered last
    /// may be void for the others, but nothing else stands in its place.
    pub one_end: bool,
    /// A [`Guarantee::Fifo`] message does not wait for the order of others' messages.
    pub fifo_ahead: bool,
    /// Largest payload in bytes.
    pub message_max: usize,
    /// Largest state in bytes.
    pub state_max: usize,
}

impl GroupPromises {
    /// Everything that this crate's own protocol promises, with these limits.
    #[must_use]
    pub const fn whole(message_max: usize, state_max: usize) -> Self {
        Self { strongest: Guarantee::Safe, one_end: true, fifo_ahead: true, message_max, state_max }
    }

    /// What a total order that somebody else makes can promise: no [`Guarantee::Safe`].
    #[must_use]
    pub const fn agreed_only(message_max: usize, state_max: usize) -> Self {
        Self { strongest: Guarantee::Agreed, one_end: false, fifo_ahead: false, message_max, state_max }
    }
}

impl GroupService for Groups {
    fn group_promises(&self) -> GroupPromises {
        self.promised()
    }

    fn join(&mut self, now: Instant, group: &str, local: u32) -> Result<MemberId, JoinError> {
        Self::join(self, now, group, local)
    }

    fn leave(&mut self, now: Instant, group: &str, local: u32) -> Result<(), LeaveError> {
        Self::leave(self, now, group, local)
    }

    fn send(
        &mut self,
        now: Instant,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<(), SendError> {
        Self::send(self, now, group, local, guarantee, payload)
    }

    fn offer_state(
        &mut self,
        now: Instant,
        group: &str,
        joiner: MemberId,
        position: Position,
        state: Bytes,
    ) -> Result<(), OfferError> {
        Self::offer_state(self, now, group, joiner, position, state)
    }

    fn is_local(&self, group: &str, local: u32) -> bool {
        Self::is_local(self, group, local)
    }

    fn members(&self, group: &str) -> Vec<MemberId> {
        Self::members(self, group)
    }
}

/// Hands the requests of [`GroupService`] on to the core inside a provider, which then settles.
macro_rules! group_service_by {
    ($kind:ident: $bound:path; $provider:ty) => {
        impl<$kind: $bound> $crate::GroupService for $provider {
            fn group_promises(&self) -> $crate::GroupPromises {
                self.groups_ref().promised()
            }

            fn join(
                &mut self,
                now: pils::Instant,
                group: &str,
                local: u32,
            ) -> Result<$crate::MemberId, $crate::JoinError> {
                let joined = self.groups().join(now, group, local);
                self.settle(now);
                joined
            }

            fn leave(
                &mut self,
                now: pils::Instant,
                group: &str,
                local: u32,
            ) -> Result<(), $crate::LeaveError> {
                let left = self.groups().leave(now, group, local);
                self.settle(now);
                left
            }

            fn send(
                &mut self,
                now: pils::Instant,
                group: &str,
                local: u32,
                guarantee: $crate::Guarantee,
                payload: bytes::Bytes,
            ) -> Result<(), $crate::SendError> {
                self.groups().send(now, group, local, guarantee, payload)?;
                self.settle(now);
                Ok(())
            }

            fn offer_state(
                &mut self,
                now: pils::Instant,
                group: &str,
                joiner: $crate::MemberId,
                position: $crate::Position,
                state: bytes::Bytes,
            ) -> Result<(), $crate::OfferError> {
                let offered = self.groups().offer_state(now, group, joiner, position, state);
                self.settle(now);
                offered
            }

            fn is_local(&self, group: &str, local: u32) -> bool {
                self.groups_ref().is_local(group, local)
            }

            fn members(&self, group: &str) -> Vec<$crate::MemberId> {
                self.groups_ref().members(group)
            }
        }
    };
}
pub(crate) use group_service_by;
